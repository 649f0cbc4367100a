// The values of flags as the programs in k3s read them: Go's pflag and time packages, and what each program checks before it
// starts. test/cluster/verdicts.test.ts asks the programs' own code the same questions.
import { parseAddress, parseNetwork } from '../../ground/address.ts'
import { type Problem, show } from '../../ground/document.ts'
import { nearest } from '../../ground/nearest.ts'
import { labelProblem, taintProblem } from '../../site/kubernetes.ts'
import type { Flags, Kind, Program } from './flags.ts'

type Finding = Omit<Problem, 'path'>

// ─── kinds ───────────────────────────────────────────────────────────────────────────────────────────────────────────

const units: Record<string, number> = {
  ns: 1,
  us: 1e3,
  µs: 1e3,
  μs: 1e3,
  ms: 1e6,
  s: 1e9,
  m: 60e9,
  h: 3600e9,
}

/** A length of time as Go writes it, in nanoseconds; undefined for anything else. */
export function nanoseconds(text: string): number | undefined {
  if (/^[+-]?0$/.test(text)) return 0
  const [, sign, rest = ''] = /^([+-]?)(.+)$/.exec(text) ?? []
  const parts = [...rest.matchAll(/(\d+\.?\d*|\.\d+)(ns|us|µs|μs|ms|s|m|h)/gy)]
  if (parts.length === 0 || parts.map(([part]) => part).join('') !== rest) return undefined
  const sum = parts.reduce((total, [, count, unit]) => total + Number(count) * units[unit!]!, 0)
  if (sum >= 2 ** 63) return undefined
  return sign === '-' ? -sum : sum
}

/** true or false in the words that Go takes; undefined for anything else. etcd is told by k3s, which knows two words. */
export function truth(program: string, text: string): 'true' | 'false' | undefined {
  const word = program === 'etcd' ? text.toLowerCase() : text
  if (/^(true|TRUE|True|[tT1])$/.test(word) && (program !== 'etcd' || word === 'true')) return 'true'
  if (/^(false|FALSE|False|[fF0])$/.test(word) && (program !== 'etcd' || word === 'false')) return 'false'
  return undefined
}

const kinds: Partial<Record<Kind, string>> = {
  boolean: 'true or false',
  number: 'a number',
  duration: 'a duration such as 5m',
}

/** A value in the units of its kind. */
function measured(kind: Kind, text: string, fraction: boolean): number | undefined {
  if (kind === 'duration') return nanoseconds(text)
  const form = fraction ? /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i : /^[+-]?(0|[1-9]\d*)$/
  return form.test(text) ? Number(text) : undefined
}

/** What is wrong with the value of a flag of a kind, by its form and by the limits of the program. */
export function kindProblem(
  name: string,
  { limits }: Program,
  flag: string,
  kind: Kind,
  value: string,
): Finding | undefined {
  const must = `${flag} must be ${kinds[kind] ?? ''}, is ${show(value)}`
  if (kind === 'boolean') {
    const meant = truth(name, value)
    if (meant === undefined) return { reason: must }
    return meant === 'true' && limits.get(flag) === 'false'
      ? { reason: `${flag} is ${value}, and this version does not start with it` }
      : undefined
  }
  if (kind !== 'number' && kind !== 'duration') return undefined
  const limit = limits.get(flag) ?? ''
  const fraction = limit === 'fraction' || /\d\.\d/.test(limit)
  const found = measured(kind, value, fraction)
  if (found === undefined) return { reason: must }
  const ranges = limit === 'fraction' || limit === '' ? ['..'] : limit.split('|')
  const inside = ranges.some((range) => {
    const [least = '', most = least] = range.split('..')
    const [from, to] = [measured(kind, least, true) ?? -(2 ** 63), measured(kind, most, true) ?? 2 ** 63]
    return found >= from && found <= to
  })
  if (inside) return undefined
  const said = ranges.map((range) => {
    const [least, most] = range.split('..')
    if (most === undefined) return range
    return [least && `at least ${least}`, most && `at most ${most}`].filter(Boolean).join(' and ')
  })
  return { reason: `${flag} must be ${said.join(' or ') || 'below 2^63'}, is ${value}` }
}

// ─── texts with a form ───────────────────────────────────────────────────────────────────────────────────────────────

/** Says what a text must be, or undefined where it is. */
type Form = (text: string, flags: Flags, program: string) => string | Finding | undefined

const matches =
  (pattern: RegExp, must: string): Form =>
  (text) =>
    pattern.test(text) ? undefined : must
const oneOf =
  (...words: string[]): Form =>
  (text) =>
    words.includes(text)
      ? undefined
      : {
          reason: `must be one of ${words.slice(0, 9).join(', ')}${words.length > 9 ? ' …' : ''}, is ${show(text)}`,
          suggestion: nearest(text, words),
        }
const each =
  (form: Form): Form =>
  (text, flags, program) => {
    for (const part of text.split(',')) {
      const wrong = form(part.trim(), flags, program)
      if (wrong) return wrong
    }
    return undefined
  }

const ip: Form = (text) => (parseAddress(text) ? undefined : 'an IP address')
const quantity = /^\+?(\d+\.?\d*|\.\d+)([numkMGTPE]|[KMGTPE]i|e[+-]?\d+|E[+-]?\d+)?$/
const size: Form = matches(quantity, 'a quantity such as 10Mi')
const version: Form = matches(/^(kube[:=])?v?1\.\d+(\.\d+)?$/, 'a version such as 1.36')
const pairs: Form = each(matches(/^[^=]*=/, 'key=value'))

/** KEY=VALUE or KEY<VALUE, of known keys, with values of a form. */
const keyed =
  (sign: string, keys: string[], value: RegExp, must: string): Form =>
  (text) => {
    for (const part of text.split(',').filter((one) => one.trim() !== '')) {
      const at = part.indexOf(sign)
      const key = part.slice(0, at).trim()
      if (at < 0 || !value.test(part.slice(at + 1).trim()))
        return `${sign === '<' ? 'SIGNAL<QUANTITY' : `KEY=${must}`}, several with commas`
      if (!keys.includes(key))
        return {
          reason: `names ${show(key)}, which is none of ${keys.join(', ')}`,
          suggestion: nearest(key, keys),
        }
    }
    return undefined
  }

const signals = [
  'memory.available',
  'allocatableMemory.available',
  'nodefs.available',
  'nodefs.inodesFree',
  'imagefs.available',
  'imagefs.inodesFree',
  'containerfs.available',
  'containerfs.inodesFree',
  'pid.available',
]
const resources = ['cpu', 'memory', 'ephemeral-storage', 'pid']
const amount = '(\\d+\\.?\\d*|\\.\\d+)'
const plain = quantity.source.slice(1, -1)
const threshold = new RegExp(`^((100(\\.0*)?|\\d{0,2}(\\.\\d*)?)%|(?=.*[1-9])${plain})$`)
const reclaim = new RegExp(`^((?=.*[1-9])${amount}%|${plain})$`)

/** A switch, with what it is set to: known, and not locked to the other. */
const gates: Form = (text, flags, program) => {
  const { free, locked, etcd } = flags.gates
  const known = program === 'etcd' ? etcd : [...free, ...locked.keys()]
  for (const part of text.split(',').filter((one) => one.trim() !== '')) {
    const [left = '', word] = part.split('=').map((one) => one.trim())
    const name = program === 'kubelet' || program === 'etcd' ? left : left.replace(/^kube:/, '')
    const on = word === undefined ? undefined : truth('', word)
    if (on === undefined || part.split('=').length > 2)
      return { reason: `must be NAME=true or NAME=false, is ${show(part)}` }
    if (!known.includes(name))
      return {
        reason: `names ${show(name)}, which is no feature gate of this version: ${program} does not start`,
        suggestion: nearest(name, known),
      }
    const only = program === 'etcd' ? undefined : locked.get(name)
    if (only !== undefined && only !== on)
      return { reason: `sets ${name} to ${on}, and this version has locked it to ${only}` }
  }
  return undefined
}

const labels: Form = each((text) => {
  const [key = '', ...value] = text.split('=')
  return text === '' ? undefined : labelProblem(key.trim(), value.join('=').trim())
})

const taints: Form = (text) => {
  const seen = new Set<string>()
  for (const part of text.split(',')) {
    // A - at the end takes one away, where there is none yet.
    const wrong = taintProblem(part)
    if (wrong) return wrong
    const same = part.replace(/=[^:]*/, '')
    if (seen.has(same)) return { reason: `gives ${same} twice` }
    seen.add(same)
  }
  return undefined
}

const networks: Form = (text) => {
  const found = text.split(',').map((part) => parseNetwork(part))
  const [first, second] = found
  if (found.length > 2 || found.includes(undefined) || first?.family === second?.family)
    return 'a network such as 10.43.0.0/16, or one of IPv4 and one of IPv6'
  return undefined
}

const ports: Form = (text) => {
  const [, from, mark, to] = /^(\d+)(?:([-+])(\d+))?$/.exec(text) ?? []
  const first = Number(from)
  const last = to === undefined ? first : mark === '+' ? first + Number(to) : Number(to)
  if (from === undefined || Math.max(first, mark === '+' ? 0 : last) > 65_535)
    return 'a range of ports such as 30000-32767'
  return last < first
    ? { reason: `ends before it begins, is ${show(text)}`, suggestion: `${to}-${from}` }
    : undefined
}

const alpha = matches(/^0$/, '0: more is for those who have the feature gate LoggingAlphaOptions')
const log = {
  v: matches(/^\d+$/, 'a whole number'),
  vmodule: each(matches(/^[^=]+=\d+$/, 'pattern=N')),
  'logging-format': oneOf('text', 'json'),
  'log-json-info-buffer-size': alpha,
  'log-text-info-buffer-size': alpha,
}
const common = {
  ...log,
  'feature-gates': gates,
  'bind-address': ip,
  'emulated-version': version,
  'min-compatibility-version': version,
  'allow-metric-labels': matches(/^[a-zA-Z_:][\w:]*,[a-zA-Z_]\w*=/, 'METRIC,LABEL=VALUES'),
  'show-hidden-metrics-for-version': matches(/^1\.\d+$/, 'the minor version before this one, such as 1.35'),
  'disabled-metrics': each(matches(/^[a-zA-Z_:][\w:]*$/, 'names of metrics')),
  'tls-curve-preferences': each(matches(/^\d+$/, 'numbers of curves')),
  'tls-sni-cert-key': matches(/^[^,:]+,[^,:]+(:.*)?$/, 'CERTIFICATE,KEY'),
  'leader-elect-resource-lock': oneOf('leases'),
  'requestheader-uid-headers': matches(/(^|,)x-remote-uid(,|$)/i, 'a list with X-Remote-Uid'),
} satisfies Record<string, Form>

const tracing = ['address', 'instance-id', 'service-name'].map((name) => `distributed-tracing-${name}`)
const modes = ['Node', 'RBAC', 'Webhook', 'ABAC', 'AlwaysAllow', 'AlwaysDeny']
const reserved = [
  'pods',
  'system-reserved',
  'kube-reserved',
  'system-reserved-compressible',
  'kube-reserved-compressible',
]

/** Texts of flags that have a form, by program. What is not here can be any text, or names a file. */
const forms: Record<string, Record<string, Form>> = {
  'kube-apiserver': {
    ...common,
    'advertise-address': ip,
    'authorization-mode': each(oneOf(...modes)),
    'cors-allowed-origins': each(matches(/^(\^|\/\/).*\$$|^\/\//, 'expressions with ^ and $ at their ends')),
    'etcd-servers-overrides': each(matches(/^[^/]*\/[^#]+#\w+:\/\/.+$/, 'group/resource#URL')),
    'oidc-required-claim': pairs,
    'runtime-config': each(matches(/^[\w.-]+\/[\w./-]+(=(true|false))?$/, 'group/version=true')),
    'service-account-jwks-uri': matches(/^https:\/\//, 'an https URL'),
    'service-cluster-ip-range': networks,
    'service-node-port-range': ports,
    'storage-backend': oneOf('etcd3'),
    'storage-media-type': oneOf(
      'application/json',
      'application/vnd.kubernetes.protobuf',
      'application/yaml',
    ),
    'strict-transport-security-directives': each(
      matches(/^(max-age=\d+|includeSubDomains|preload)$/, 'max-age=SECONDS, includeSubDomains or preload'),
    ),
    'watch-cache-sizes': each(matches(/^[^#]+#\d+$/, 'resource#size')),
  },
  'kube-controller-manager': {
    ...common,
    controllers: each((text, { controllers }) =>
      oneOf('*', ...controllers)(text.replace(/^-(?=.)/, ''), {} as Flags, ''),
    ),
    'cidr-allocator-type': oneOf('RangeAllocator'),
    'cloud-provider': oneOf('external'),
  },
  'kube-scheduler': common,
  kubelet: {
    ...log,
    'feature-gates': gates,
    address: ip,
    'healthz-bind-address': ip,
    'node-labels': labels,
    'register-with-taints': taints,
    'hairpin-mode': oneOf('promiscuous-bridge', 'hairpin-veth', 'none'),
    'topology-manager-policy': oneOf('none', 'best-effort', 'restricted', 'single-numa-node'),
    'topology-manager-scope': oneOf('container', 'pod'),
    'cpu-manager-policy-options': pairs,
    'topology-manager-policy-options': pairs,
    'qos-reserved': pairs,
    'enforce-node-allocatable': each(oneOf(...reserved, 'none')),
    'eviction-hard': keyed('<', signals, threshold, ''),
    'eviction-soft': keyed('<', signals, threshold, ''),
    'eviction-soft-grace-period': keyed(
      '=',
      signals,
      /^\+?0$|^\+?((\d+\.?\d*|\.\d+)(ns|us|µs|ms|s|m|h))+$/,
      'DURATION',
    ),
    'eviction-minimum-reclaim': keyed('=', signals, reclaim, 'QUANTITY'),
    'kube-reserved': keyed('=', resources, quantity, 'QUANTITY'),
    'system-reserved': keyed('=', resources, quantity, 'QUANTITY'),
    'container-log-max-size': size,
    'manifest-url-header': matches(/^[^:]+:/, 'name:value'),
    'reserved-cpus': each((text) => {
      const [, from, to] = /^(\d+)(?:-(\d+))?$/.exec(text) ?? []
      const good = from !== undefined && Number(to ?? from) >= Number(from)
      return good ? undefined : 'numbers of processors such as 0,2-3'
    }),
    'reserved-memory': matches(/^\d+:memory=.+$/, 'NODE:memory=QUANTITY'),
    'cpu-manager-policy': oneOf('none', 'static'),
    'memory-manager-policy': oneOf('None', 'Static'),
  },
  etcd: {
    'feature-gates': gates,
    ...Object.fromEntries(
      ['auth-token', 'backend-bbolt-freelist-type', 'host-whitelist', 'metrics', 'wal-dir', ...tracing].map(
        (flag) => [
          flag,
          // k3s makes a number of what looks like one, and etcd does not start with it.
          matches(/[^0-9]/, 'a text that is no number'),
        ],
      ),
    ),
    cors: each(matches(/^(https?|unixs?):\/\/./, 'a URL')),
    'tls-min-version': oneOf('TLS1.2', 'TLS1.3'),
    'tls-max-version': oneOf('TLS1.2', 'TLS1.3'),
  },
}

/** What is wrong with the text of a flag that has a form. */
export function textProblem(program: string, flag: string, value: string, flags: Flags): Finding | undefined {
  const wrong = forms[program]?.[flag]?.(value, flags, program)
  if (wrong === undefined) return undefined
  if (typeof wrong === 'string') return { reason: `${flag} must be ${wrong}, is ${show(value)}` }
  return { ...wrong, reason: `${flag} ${wrong.reason}` }
}

/** What is wrong with a range of ports, a key of k3s of its own. */
export const portsProblem = (text: string, flags: Flags): Finding | undefined => {
  const wrong = ports(text, flags, '')
  return typeof wrong === 'string' ? { reason: `must be ${wrong}, is ${show(text)}` } : wrong
}

// ─── values beside each other ────────────────────────────────────────────────────────────────────────────────────────

type Get = (flag: string) => string | undefined
interface Clash {
  flag: string
  reason: string
}

/** What flags of a program say against each other, and against its defaults: the flag that is to change, and why. */
export function* pairProblems(program: string, get: Get): Generator<Clash> {
  if (program === 'kubelet') yield* kubeletClashes(get)
  if (program === 'etcd') {
    // What k3s tells etcd where nobody else does.
    const [beat, election] = [get('heartbeat-interval') ?? '500', get('election-timeout') ?? '5000']
    if (Number(election) < 5 * Number(beat))
      yield {
        flag: either(get, 'election-timeout', 'heartbeat-interval'),
        reason: `election-timeout ${election} must be at least five times heartbeat-interval ${beat}`,
      }
  }
  if (program === 'kube-apiserver') yield* leaderClashes(get, 'coordinated-leadership', 1)
  if (/scheduler|controller/.test(program) && get('leader-elect') !== 'false')
    // The factor is that of client-go, which lets a candidate wait a little longer each time.
    yield* leaderClashes(get, 'leader-elect', 1.2)
  for (const what of ['kube-apiserver-client', 'kubelet-client', 'kubelet-serving', 'legacy-unknown'])
    for (const [one, other] of [
      ['cert', 'key'],
      ['key', 'cert'],
    ]) {
      const flag = `cluster-signing-${what}-${one}-file`
      if (get(flag) !== undefined && get(`cluster-signing-${what}-${other}-file`) === undefined)
        yield { flag, reason: `${flag} needs cluster-signing-${what}-${other}-file beside it` }
    }
}

/** The first of some flags that is given. */
const either = (get: Get, ...names: string[]): string =>
  names.find((name) => get(name) !== undefined) ?? names[0]!

function* leaderClashes(get: Get, prefix: string, factor: number): Generator<Clash> {
  const names = ['lease-duration', 'renew-deadline', 'retry-period'].map((name) => `${prefix}-${name}`)
  const defaults = ['15s', '10s', '2s']
  const [lease = 0, renew = 0, retry = 0] = names.map((name, i) => nanoseconds(get(name) ?? defaults[i]!))
  const [first, second, third] = names as [string, string, string]
  if (lease <= renew)
    yield { flag: either(get, first, second), reason: `${first} must be longer than ${second}` }
  if (renew <= factor * retry)
    yield { flag: either(get, second, third), reason: `${second} must be longer than ${third}` }
}

function* kubeletClashes(get: Get): Generator<Clash> {
  // k3s leaves these limits to the kubelet, whose own they are.
  const [high, low] = [get('image-gc-high-threshold') ?? '85', get('image-gc-low-threshold') ?? '80']
  if (Number(low) >= Number(high))
    yield {
      flag: either(get, 'image-gc-high-threshold', 'image-gc-low-threshold'),
      reason: `image-gc-low-threshold ${low} must be below image-gc-high-threshold ${high}`,
    }
  const keys = (flag: string, sign: string): string[] =>
    (get(flag) ?? '').split(',').flatMap((part) => (part.includes(sign) ? part.split(sign)[0]!.trim() : []))
  const patient = keys('eviction-soft-grace-period', '=')
  const soft = keys('eviction-soft', '<').find((signal) => !patient.includes(signal))
  if (soft !== undefined)
    yield {
      flag: 'eviction-soft',
      reason: `eviction-soft has ${soft}, and eviction-soft-grace-period has no time for it`,
    }
  const flag = 'enforce-node-allocatable'
  const enforced = (get(flag) ?? 'pods').split(',')
  if (enforced.includes('none') && enforced.length > 1)
    yield { flag, reason: `${flag} names none beside others` }
  const twice = enforced.find((one, i) => enforced.indexOf(one) < i)
  if (twice !== undefined) yield { flag, reason: `${flag} names ${twice} twice` }
  for (const what of ['system', 'kube']) {
    const [whole, part] = ['', '-compressible'].map((end) => enforced.includes(`${what}-reserved${end}`))
    if ((whole || part) && get(`${what}-reserved-cgroup`) === undefined)
      yield { flag, reason: `${flag} names ${what}-reserved, and there is no ${what}-reserved-cgroup` }
    if (whole && part) yield { flag, reason: `${flag} names ${what}-reserved and a part of it` }
  }
  if (get('cgroups-per-qos') === 'false' && enforced.some((one) => one !== 'none'))
    yield { flag: 'cgroups-per-qos', reason: `cgroups-per-qos is false, and ${flag} is not none` }
  if (get('system-cgroups') !== undefined && get('cgroup-root') === undefined)
    yield { flag: 'system-cgroups', reason: 'system-cgroups needs cgroup-root beside it' }
}
