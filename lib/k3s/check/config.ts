// The configuration of k3s on a node, checked before it is written there: config.yaml with its drop-ins, and the two files that
// the API server reads. k3s skips a key that it does not know, takes the last of two, and starts with what is left.
import { posix } from 'node:path'
import {
  type Network,
  contains,
  formatNetwork,
  overlap,
  parseAddress,
  parseNetwork,
} from '../../ground/address.ts'
import {
  type Diagnostic,
  type JsonSchema,
  type Path,
  type Problem,
  checkDocument,
  pathText,
  show,
} from '../../ground/document.ts'
import { nearest } from '../../ground/nearest.ts'
import { nodeNameProblem } from '../../site/kubernetes.ts'
import { admissionProblems, auditProblems, schemaOf } from './apiserver.ts'
import {
  type Flags,
  type Kind,
  type Program,
  type Role,
  allFlags,
  demanded,
  flagsFile,
  refusals,
  secrets,
  switches,
  words,
} from './flags.ts'
import { kindProblem, nanoseconds, pairProblems, portsProblem, textProblem, truth } from './values.ts'
import { cronProblem } from './cron.ts'

/** One file of a node. */
export interface K3sFile {
  /** Where it lies on the node. */
  path: string
  text: string
  /** What faults call it, when that is not its path. */
  file?: string
}

/** A node, and the configuration files of its k3s. */
export interface K3sNode {
  name: string
  role: Role
  files: K3sFile[]
}

const configPath = '/etc/rancher/k3s/config.yaml'

// ─── reading ─────────────────────────────────────────────────────────────────────────────────────────────────────────

/** A file, and what is wrong in it. */
class Source {
  readonly file: string
  readonly path: string
  readonly problems: Problem[] = []
  document: Record<string, unknown> = {}
  raw: (path: Path) => string = () => ''
  /** Whether it is YAML, and a map. */
  legible = false
  readonly #text: string
  readonly #schema: JsonSchema
  readonly #alone: Diagnostic[]

  constructor({ path, text, file = path }: K3sFile, schema: JsonSchema) {
    this.file = file
    this.path = path
    this.#text = text
    this.#schema = schema
    // First for what it says: some of what is wrong is seen only beside the other files.
    this.#alone = this.#check((document, raw) => {
      this.document = document
      this.raw = raw
      this.legible = true
    })
    // An empty file is one too, and no rules are checked.
    if (this.#alone.length === 0) this.legible = true
  }

  #check(rules: (document: Record<string, unknown>, raw: (path: Path) => string) => void): Diagnostic[] {
    const { faults } = checkDocument<Record<string, unknown>>(
      this.file,
      this.#text,
      this.#schema,
      {},
      (document, raw) => {
        rules(document, raw)
        return this.problems
      },
    )
    return faults
  }

  /** Everything that is wrong in it. A line that may hold a secret is not shown. */
  faults(): Diagnostic[] {
    const faults = this.problems.length === 0 ? this.#alone : this.#check(() => undefined)
    return faults.map((fault) => (hides(fault.source) ? { ...fault, source: undefined } : fault))
  }
}

// Whatever is wrong with a line that holds a secret.
const hides = (line: string | undefined): boolean =>
  line !== undefined &&
  /(token|secret-key|password|vpn-auth|datastore-endpoint)['"]?\+?\s*:(?!\s*\/)/i.test(line)

/** A value, with its place. */
interface Item<T> {
  value: T
  source: Source
  path: Path
}
const say = ({ source, path }: Item<unknown>, problem: Omit<Problem, 'path'>): void => {
  source.problems.push({ path, ...problem })
}

/** An argument of a program, as it stands in a list of config.yaml. */
interface Argument extends Item<string> {
  /** What k3s does with its own value: nothing, append (name+=), prepend (name-=). */
  joined: boolean
}

/** What config.yaml and its drop-ins say together. */
class Config {
  readonly sources: Source[]
  readonly #said = new Map<string, Item<unknown>[]>()
  readonly arguments = new Map<string, Map<string, Argument>>()

  constructor(sources: Source[], role: Role, flags: Flags) {
    this.sources = sources
    for (const source of sources)
      for (const [name, value] of Object.entries(source.document)) {
        const key = name.replace(/\+$/, '')
        const item = { value, source, path: [name] }
        const problem = keyProblem(key, role, flags)
        if (problem !== undefined) {
          say(item, problem)
          continue
        }
        const kind = flags[role].flags.get(key)!
        if (!sound(item, key, kind)) continue
        const before = this.#said.get(key)?.at(-1)
        if (name !== key && kind !== 'list')
          say(item, { atKey: true, reason: 'appends, and this key has one value', suggestion: key })
        else if (name === key && before !== undefined) {
          const how = kind === 'list' ? `; ${key}+ would append` : ''
          say(item, { atKey: true, reason: `takes the place of what ${before.source.file} says${how}` })
        } else this.#said.set(key, [...(this.#said.get(key) ?? []), item])
      }
    for (const name of flags.programs.keys()) this.arguments.set(name, new Map())
    for (const [key, items] of this.#said)
      if (key.endsWith('-arg')) this.#argue(key.replace(/-arg$/, ''), items, flags)
  }

  #argue(name: string, items: Item<unknown>[], flags: Flags): void {
    const program = flags.programs.get(name)
    const found = this.arguments.get(name) ?? new Map<string, Argument>()
    for (const item of items.flatMap((list) => elements(list))) {
      const { problem, flag, argument } = argumentOf(item, name, program)
      if (problem !== undefined) {
        say(item, problem)
        continue
      }
      const first = found.get(flag!)
      // What a list is given twice, it holds twice; of anything else the last would count.
      if (first !== undefined && flags.several.includes(flag!))
        found.set(flag!, { ...argument!, joined: first.joined, value: `${first.value},${argument!.value}` })
      else if (first !== undefined) {
        const where = first.source === item.source ? '' : ` of ${first.source.file}`
        say(item, { reason: `gives ${flag} again: ${pathText(first.path)}${where} does already` })
      } else found.set(flag!, argument!)
    }
  }

  /** The one value of a key. */
  value(key: string): Item<unknown> | undefined {
    return this.#said.get(key)?.at(-1)
  }
  text(key: string): Item<string> | undefined {
    return this.value(key) as Item<string> | undefined
  }
  /** All elements of a list. */
  list(key: string): Item<string>[] {
    return (this.#said.get(key) ?? []).flatMap((item) => elements(item))
  }
  /** All elements of a list whose texts may hold several, with commas. */
  parts(key: string): Item<string>[] {
    return this.list(key).flatMap((item) =>
      item.value.split(',').map((value) => ({ ...item, value: value.trim() })),
    )
  }
  has(key: string): boolean {
    return this.#said.has(key)
  }
  /** Whether a file has the key, though its value may be wrong. */
  mentions(key: string): boolean {
    return this.sources.some(({ document }) => key in document || `${key}+` in document)
  }
  keys(): string[] {
    return [...this.#said.keys()]
  }
}

/** The elements of a list; k3s takes a text for a list of one. */
function elements({ value, source, path }: Item<unknown>): Item<string>[] {
  if (!Array.isArray(value)) return [{ value: String(value), source, path }]
  return value.map((element, i) => ({ value: String(element), source, path: [...path, i] }))
}

function keyProblem(key: string, role: Role, flags: Flags): Omit<Problem, 'path'> | undefined {
  const { flags: own, deprecated, removed } = flags[role]
  const at = { atKey: true, secret: key in secrets }
  const instead = removed.get(key)
  if (instead !== undefined) return { ...at, secret: true, reason: `is gone from k3s: write ${instead}` }
  if (!own.has(key)) {
    const other = role === 'agent' ? 'server' : 'agent'
    if (flags[other].flags.has(key))
      return {
        ...at,
        secret: true,
        reason: `is a key of ${other}s, and this is ${role === 'agent' ? 'an agent' : 'a server'}`,
      }
    const suggestion = nearest(key, own.keys())
    // The line may hold what the misspelt key should keep.
    return {
      ...at,
      secret: suggestion !== undefined && suggestion in secrets,
      reason: 'is no key of k3s, which skips it',
      suggestion,
    }
  }
  const newer = deprecated.get(key)
  return newer === undefined ? undefined : { ...at, reason: 'is deprecated', suggestion: newer }
}

const kinds: Record<Kind, string> = {
  boolean: 'true or false',
  number: 'a whole number',
  duration: 'a duration such as 5m',
  text: 'text',
  list: 'a list',
}

/** Whether a value is of its kind, and every element of a list is text; says so where it is not. */
function sound(item: Item<unknown>, key: string, kind: Kind): boolean {
  const { value } = item
  if (kind === 'list' && Array.isArray(value)) {
    const wrong = value.flatMap((element, i) =>
      isText(element) ? [] : [{ ...item, value: element as unknown, path: [...item.path, i] }],
    )
    for (const element of wrong) sound(element, key, 'text')
    return wrong.length === 0
  }
  const good =
    kind === 'boolean' ? typeof value === 'boolean'
    : kind === 'number' ? Number.isSafeInteger(value)
    : kind === 'duration' ? typeof value === 'string' && nanoseconds(value) !== undefined
    : isText(value) // prettier-ignore
  if (good) return true
  const secret = key in secrets
  const raw = item.source.raw(item.path)
  const octal = kind === 'text' && typeof value === 'number' && /^0[0-7]+$/.test(raw)
  const is =
    octal ? `the number ${raw}, which k3s reads as ${Number.parseInt(raw, 8)}`
    : typeof value === 'number' ? `the number ${raw}`
    : show(value) // prettier-ignore
  const suggestion =
    kind === 'text' && typeof value === 'number' ? `'${raw}'`
    : kind === 'boolean' && typeof value === 'string' && /^(yes|on|no|off|true|false)$/i.test(value)
      ? String(/^(yes|on|true)$/i.test(value))
    : undefined // prettier-ignore
  say(
    item,
    secret
      ? { secret, reason: `must be ${kinds[kind]}` }
      : { reason: `must be ${kinds[kind]}, is ${is}`, suggestion },
  )
  return false
}

const isText = (value: unknown): boolean => typeof value === 'string' && value !== ''

function argumentOf(
  item: Item<string>,
  name: string,
  program: Program | undefined,
): { problem?: Omit<Problem, 'path'>; flag?: string; argument?: Argument } {
  const refused = (reason: string, suggestion?: string) => ({ problem: { reason, suggestion } })
  // k3s takes two dashes away, and adds them again.
  const text = item.value.replace(/^--/, '')
  if (text.startsWith('-')) return refused('begins with -, which k3s adds itself', text.replace(/^-+/, ''))
  const equals = text.indexOf('=')
  const left = equals < 0 ? text : text.slice(0, equals)
  const flag = left.replace(/[+-]+$/, '')
  const kind = program?.flags.get(flag)
  // A switch that is only named is on, but for etcd: that one is skipped.
  const bare = equals < 0 && kind === 'boolean' && name !== 'etcd'
  const value = bare ? 'true' : text.slice(left.length + 1)
  if (/\s$/.test(left) || /^\s/.test(value))
    return refused('has a space beside the =', `${left.trim()}=${value.trim()}`)
  if (!/^[A-Za-z][\w-]*$/.test(flag)) return refused(`must be name=value, is ${show(text)}`)
  if (left !== flag && name === 'etcd')
    return refused(`${left}= is no setting of etcd, which skips it`, `${flag}=${value}`)
  const instead = program?.removed.get(flag)
  if (instead !== undefined) return refused(`${flag} is gone from ${name}: write ${instead}`)
  const newer = program?.deprecated.get(flag)
  if (newer !== undefined) return refused(`${flag} of ${name} is deprecated: write ${newer}`)
  if (program !== undefined && kind === undefined) {
    const suggestion = nearest(flag, program.flags.keys())
    return refused(`${flag} is no flag of ${name}, which does not start with it`, suggestion)
  }
  if ((equals < 0 || value === '') && !bare)
    return refused('has no value: write name=value', kind === 'boolean' ? `${flag}=true` : undefined)
  const problem = program && kindProblem(name, program, flag, kind!, value)
  if (problem) return { problem }
  const meant = kind === 'boolean' ? truth(name, value)! : value
  return { flag, argument: { ...item, value: meant, joined: left !== flag } }
}

// ─── a node ──────────────────────────────────────────────────────────────────────────────────────────────────────────

class Reading {
  readonly node: K3sNode
  readonly config: Config
  readonly #sources: Source[] = []
  readonly #left: Diagnostic[] = []
  readonly #flags: Flags

  constructor(node: K3sNode, flags: Flags) {
    this.node = node
    this.#flags = flags
    const byPath = (a: K3sFile, b: K3sFile): number => (a.path < b.path ? -1 : 1)
    const dropIns = node.files.filter(({ path }) => posix.dirname(path) === `${configPath}.d`).sort(byPath)
    const configs = [...node.files.filter(({ path }) => path === configPath), ...dropIns].map((file) => {
      const source = new Source(file, { type: 'object' })
      if (!/\.ya?ml$/i.test(file.path))
        source.problems.push({ path: [], reason: 'is not read: a drop-in is called NAME.yaml' })
      return source
    })
    this.#sources.push(...configs)
    this.config = new Config(configs, node.role, flags)
    // What a file that cannot be read would have said is unknown, and nothing can be said about the rest.
    if (configs.every(({ legible }) => legible)) this.#check()
  }

  faults(): Diagnostic[] {
    return [...this.#sources.flatMap((source) => source.faults()), ...this.#left]
  }

  #check(): void {
    const { config, node } = this
    const first = config.sources[0]
    for (const { key, roles, unless = [], reason } of demanded)
      if (first && roles.includes(node.role) && ![key, ...unless].some((name) => config.mentions(name)))
        first.problems.push({ path: [key], reason: `is missing: ${reason}` })
    for (const [key, { is, reason }] of Object.entries(switches)) {
      const item = config.value(key)
      if (item?.value === is) say(item, { reason: `is ${is}: ${reason}` })
    }
    for (const [key, where] of Object.entries(secrets)) {
      const item = config.value(key)
      if (item)
        say(item, {
          atKey: true,
          secret: true,
          reason: `is a secret, and what stands here is shown and copied: ${where}`,
        })
    }
    this.#keys()
    this.#words()
    this.#networks()
    this.#cluster()
    for (const [name, found] of config.arguments)
      for (const [flag, argument] of found) {
        const value = argument.joined ? [...(own[flag] ?? []), argument.value].join(',') : argument.value
        const weak = refusals[name]?.[flag]?.(value, this.#flags)
        const problem = weak
          ? { ...weak, reason: `${flag} ${weak.reason}` }
          : textProblem(name, flag, argument.value, this.#flags)
        if (problem) say(argument, problem)
      }
    for (const [name, found] of config.arguments)
      for (const { flag, reason } of pairProblems(name, (flag) => found.get(flag)?.value))
        say(found.get(flag)!, { reason })
    this.#documents()
  }

  /** Keys whose text has a form. */
  #keys(): void {
    const { config } = this
    const mode = config.text('write-kubeconfig-mode')
    if (mode && !/^0?[0-7]{3}$/.test(mode.value))
      say(mode, { reason: `must be octal, such as '0600', is ${show(mode.value)}` })
    else if (mode && !mode.value.endsWith('00'))
      say(mode, {
        reason: `is ${mode.value}: who may read this file is master of the cluster`,
        suggestion: "'0600'",
      })
    const server = config.text('server')
    if (server && !/^https:\/\/[^/\s]+:[0-9]+$/.test(server.value))
      say(server, { reason: `must be https://ADDRESS:PORT, is ${show(server.value)}` })
    const endpoint = config.text('datastore-endpoint')
    if (endpoint && /:\/\/[^/\s@]*:[^/\s@]*@|^[^/\s@:]*:[^/\s@]*@/.test(endpoint.value))
      say(endpoint, {
        secret: true,
        reason: 'holds a password: K3S_DATASTORE_ENDPOINT in a file of the unit can hold it',
      })
    const cron = config.text('etcd-snapshot-schedule-cron')
    const ports = config.text('service-node-port-range')
    const node = config.text('node-name')
    const findings: [Item<string> | undefined, Omit<Problem, 'path'> | undefined][] = [
      [cron, cron && cronProblem(cron.value)],
      [ports, ports && portsProblem(ports.value, this.#flags)],
      [node, node && nodeNameProblem(node.value)],
    ]
    for (const [key, flag] of [
      ['node-label', 'node-labels'],
      ['node-taint', 'register-with-taints'],
    ] as const)
      for (const item of config.list(key)) {
        const problem = textProblem('kubelet', flag, item.value, this.#flags)
        findings.push([item, problem && { ...problem, reason: problem.reason.replace(`${flag} `, '') }])
      }
    for (const [item, problem] of findings) if (item && problem) say(item, problem)
    for (const item of config.parts('node-ip'))
      if (parseAddress(item.value) === undefined)
        say(item, { reason: `must be an IP address, is ${show(item.value)}` })
      else if (/^(127\.|::1$)/.test(item.value))
        say(item, {
          reason: `is ${item.value}, which is every machine itself: no other node reaches this one`,
        })
  }

  #words(): void {
    for (const [key, names] of this.#flags.values) {
      const items = key === 'disable' ? this.config.parts(key) : [this.config.text(key)]
      for (const item of items)
        if (item !== undefined && !names.includes(item.value))
          say(item, {
            reason: `must be one of ${names.join(', ')}, is ${show(item.value)}`,
            suggestion: nearest(item.value, names),
          })
    }
  }

  #networks(): void {
    const { config } = this
    const defaults = { 'cluster-cidr': '10.42.0.0/16', 'service-cidr': '10.43.0.0/16' }
    type Said = { key: string; item?: Item<string>; network: Network }
    const networks = Object.entries(defaults).flatMap(([key, otherwise]): Said[] => {
      if (!config.has(key)) return [{ key, network: parseNetwork(otherwise)! }]
      return config.parts(key).flatMap((item) => {
        const network = parseNetwork(item.value)
        if (network === undefined)
          say(item, { reason: `must be a network such as 10.42.0.0/16, is ${show(item.value)}` })
        return network === undefined ? [] : [{ key, item, network }]
      })
    })
    for (const [i, a] of networks.entries())
      for (const b of networks.slice(0, i)) {
        const [said, other] = a.item ? [a, b] : [b, a]
        if (said.item && overlap(a.network, b.network)) {
          const where = `${other.key} ${formatNetwork(other.network)}${other.item ? '' : ', which k3s takes'}`
          say(said.item, { reason: `${said.item.value} overlaps ${where}` })
        }
      }
    for (const item of config.parts('node-ip'))
      for (const { key, network } of this.node.role === 'server' ? networks : [])
        if (contains(network, item.value))
          say(item, {
            reason: `lies in ${key} ${formatNetwork(network)}: the node would lose its own network`,
          })
    const services = networks.filter(({ key }) => key === 'service-cidr').map(({ network }) => network)
    for (const item of config.parts('cluster-dns'))
      if (parseAddress(item.value) === undefined)
        say(item, { reason: `must be an IP address, is ${show(item.value)}` })
      else if (!services.some((network) => contains(network, item.value)))
        say(item, { reason: `is outside of service-cidr, ${services.map(formatNetwork).join(' and ')}` })
  }

  /** What is stored, and with whom. */
  #cluster(): void {
    const { config } = this
    const on = (key: string): Item<unknown> | undefined =>
      config.value(key)?.value === true ? config.value(key) : undefined
    const init = on('cluster-init')
    const datastore = config.value('datastore-endpoint')
    if (init && config.has('server'))
      say(init, { reason: 'founds a cluster, and server joins one: leave one of them' })
    if (datastore && init)
      say(datastore, {
        secret: true,
        reason: 'names a store outside, and cluster-init begins one within: leave one of them',
      })
    const ofEtcd = config.keys().filter((key) => key.startsWith('etcd-') && key !== 'etcd-arg')
    const [idle] = ofEtcd.map((key) => config.value(key)!)
    const store = datastore ? 'what datastore-endpoint names' : 'SQLite'
    if (idle && this.node.role === 'server' && !init && !config.has('server'))
      say(idle, {
        atKey: true,
        reason: `has no effect: without cluster-init or server, k3s stores in ${store}`,
      })
    const s3 = ofEtcd.filter((key) => key.startsWith('etcd-s3-'))
    if (s3.length > 0 && !on('etcd-s3'))
      say(config.value(s3[0]!)!, { atKey: true, reason: 'has no effect without etcd-s3: true' })
    const byName = config.value('etcd-s3-config-secret')
    const beside = s3.filter((key) => key !== 'etcd-s3-config-secret')
    if (byName && beside.length > 0)
      say(byName, { reason: `is not read, because ${beside[0]} is given too: leave one of them` })
    if (on('etcd-s3') && !byName && !config.has('etcd-s3-bucket'))
      say(on('etcd-s3')!, { reason: 'has no place to go: give etcd-s3-config-secret or etcd-s3-bucket' })
    const reset = config.value('cluster-reset-restore-path')
    if (reset)
      say(reset, { atKey: true, reason: 'would restore at each start: give it on the command line, once' })
  }

  // ─── the documents of the API server ───

  /** Every file that an argument names is brought, or k3s makes it; those that are brought are added to `used`. */
  #named(used: Set<string>): void {
    for (const [name, flags] of Object.entries(files))
      for (const flag of flags) {
        const argument = this.config.arguments.get(name)?.get(flag)
        if (argument === undefined || argument.value.startsWith('/var/lib/rancher/k3s/')) continue
        const there = this.node.files.some(({ path }) => path === argument.value)
        if (there) used.add(argument.value)
        else
          say(argument, {
            reason: `${flag} names ${argument.value}, which is not among the files of the node`,
          })
      }
  }

  #documents(): void {
    const api = this.config.arguments.get('kube-apiserver')!
    const used = new Set<string>(this.config.sources.map(({ path }) => path))
    const registries = this.config.value('private-registry')
    if (registries) used.add(String(registries.value))
    const named = (flag: string, schema: 'admission' | 'audit'): Source | undefined => {
      const argument = api.get(flag)
      if (argument === undefined) return undefined
      const file = this.node.files.find(({ path }) => path === argument.value)
      if (file === undefined) {
        const paths = this.node.files.map(({ path }) => path).filter((path) => !used.has(path))
        say(argument, {
          reason: `${flag} names ${argument.value}, which is not among the files of the node`,
          suggestion: nearest(argument.value, paths),
        })
        return undefined
      }
      used.add(file.path)
      const source = new Source(file, schemaOf(schema))
      this.#sources.push(source)
      return source
    }
    const admission = named('admission-control-config-file', 'admission')
    const audit = named('audit-policy-file', 'audit')
    const plugins = (flag: string): string[] => api.get(flag)?.value.split(',') ?? []
    const enabled = plugins('enable-admission-plugins')
    const limits = 'EventRateLimit'
    const asks = enabled.includes(limits) ? api.get('enable-admission-plugins') : undefined
    if (asks && !api.has('admission-control-config-file'))
      say(asks, {
        reason: `${limits} has no limits, and the API server does not start: give admission-control-config-file`,
      })
    if (admission) {
      const names = admissionProblems(admission, enabled, this.#flags.admission)
      if (asks && !names.includes(limits))
        say(asks, {
          reason: `${limits} has no limits in ${admission.file}, and the API server does not start`,
        })
    }
    if (audit) auditProblems(audit)
    this.#named(used)
    const policy = api.get('audit-policy-file')
    const log = ['audit-log-path', 'audit-webhook-config-file'].map((flag) => api.get(flag)).find(Boolean)
    if (policy && !log) say(policy, { reason: 'audit-policy-file has no effect without audit-log-path' })
    if (log && !policy) say(log, { reason: 'audit-log-path stays empty without audit-policy-file' })
    // An argument that is wrong itself still names its file.
    const said = [...this.config.arguments.keys()].flatMap((name) => this.config.list(`${name}-arg`))
    for (const { path, file = path } of this.node.files)
      if (!used.has(path) && !said.some(({ value }) => value.includes(path)))
        this.#left.push({ file, path: '', reason: 'is named by no key of config.yaml, so nobody reads it' })
  }
}

/** Flags that name a file which the program reads at its start. The two that are read here, too, are not among them. */
const files: Record<string, string[]> = {
  'kube-apiserver':
    words(`authentication-config authorization-config authorization-policy-file tracing-config-file
    authorization-webhook-config-file authentication-token-webhook-config-file audit-webhook-config-file
    egress-selector-config-file oidc-ca-file allow-metric-labels-manifest`),
  'kube-controller-manager': ['leader-migration-config', 'allow-metric-labels-manifest'],
  'kube-scheduler': ['config', 'allow-metric-labels-manifest'],
  kubelet: ['config', 'image-credential-provider-config'],
}

/** What k3s gives the API server where it says nothing else, of what += adds to. */
const own: Record<string, string[]> = {
  'authorization-mode': ['Node', 'RBAC'],
  'enable-admission-plugins': ['NodeRestriction'],
}

// ─── all nodes ───────────────────────────────────────────────────────────────────────────────────────────────────────

/**
 * Everything that is wrong with the configuration of k3s on a node; none when it can be written there. `files` are config.yaml,
 * its drop-ins and what they name, in any order: k3s' own order is kept. `version` is that of k3s, as it is pinned.
 */
export function checkK3s(files: K3sFile[], { role, version }: { role: Role; version: string }): Diagnostic[] {
  return checkCluster([{ name: role, role, files }], version)
}

/** What `checkK3s` finds on each node, each fault once, and where the servers of one cluster disagree. */
export function checkCluster(nodes: K3sNode[], version: string): Diagnostic[] {
  const minor = /^v?([0-9]+\.[0-9]+)/.exec(version)?.[1] ?? version
  const flags = allFlags().get(minor)
  if (flags === undefined)
    return [
      {
        file: flagsFile,
        path: minor,
        reason: `is missing: the flags of k3s ${version} are not known; known here: ${[...allFlags().keys()].join(', ')}`,
      },
    ]
  const readings = nodes.map((node) => new Reading(node, flags))
  compare(
    readings.filter(({ node }) => node.role === 'server'),
    flags,
  )
  const faults = new Map<string, Diagnostic>()
  for (const fault of readings.flatMap((reading) => reading.faults()))
    faults.set(JSON.stringify(fault), fault)
  return [...faults.values()]
}

function compare(servers: Reading[], flags: Flags): void {
  const [first, ...others] = servers
  if (first === undefined) return
  const founder = servers.find(({ config }) => !config.has('server'))
  const valueOf = (config: Config, key: string): string =>
    JSON.stringify(
      flags.server.flags.get(key) === 'list'
        ? config
            .list(key)
            .map(({ value }) => value)
            .sort()
        : config.value(key)?.value,
    )
  for (const { node, config } of others) {
    const begin = config.sources[0]
    if (begin === undefined) continue
    if (founder !== undefined && node !== founder.node && !config.has('server'))
      begin.problems.push({
        path: ['server'],
        reason: `is missing: ${node.name} would found a cluster beside that of ${founder.node.name}`,
      })
    for (const key of flags.alike) {
      if (valueOf(config, key) === valueOf(first.config, key)) continue
      const item = config.value(key)
      const reason = `of ${node.name} is not as on ${first.node.name}: it must be the same on all servers`
      if (item) say(item, { atKey: true, reason })
      else begin.problems.push({ path: [key], reason })
    }
  }
  if (
    others.length > 0 &&
    founder &&
    !founder.config.has('cluster-init') &&
    !founder.config.has('datastore-endpoint')
  )
    founder.config.sources[0]?.problems.push({
      path: ['cluster-init'],
      reason: `is missing: without it ${founder.node.name} stores in SQLite, and no server can join`,
    })
}
