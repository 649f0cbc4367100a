// What our reader of k3s' configuration accepts, beside what the code of the programs themselves says to the same values
// (test/cluster/bed/verdict.go). Where the two differ, the difference stands here with its reason, and no other is borne.
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { describe, test } from 'node:test'
import { stringify } from 'yaml'
import { checkK3s } from '../../lib/k3s/check/config.ts'
import { type Kind, allFlags, refusals } from '../../lib/k3s/check/flags.ts'
import { truth } from '../../lib/k3s/check/values.ts'
import { builtProgram } from '../../lib/lab/lab.ts'

const program = builtProgram('kube-bed')
const skip = program === undefined && 'kube-bed is not installed'
const version = 'v1.36.3+k3s1'
const flags = allFlags().get('1.36')!

interface Question {
  of: string
  words?: string[]
  text?: string
}

const asked = (name: string, input = ''): string => {
  const { stdout, error } = spawnSync(program!, [], {
    argv0: name,
    input,
    encoding: 'utf8',
    maxBuffer: 1 << 26,
  })
  if (error) throw error
  return stdout
}

/** What the programs say to each: '' where they start with it. */
function verdicts(questions: Question[]): string[] {
  const said = asked('verdicts', questions.map((one) => `${JSON.stringify(one)}\n`).join(''))
  const answers = said.split('\n').filter(Boolean)
  assert.equal(answers.length, questions.length, 'a program has ended in the midst of the questions')
  return answers.map((line) => JSON.parse(line) as string)
}

const minimal = {
  'token-file': '/etc/rancher/k3s/token',
  'secrets-encryption': true,
  'protect-kernel-defaults': true,
  'cluster-init': true,
}

/** What our reader says to keys of k3s beside those that a server must have; the values of `keys` are lists of one value each. */
function ours(keys: Record<string, unknown>): { path: string; reason: string }[] {
  const text = stringify({ ...minimal, ...keys })
  return checkK3s([{ path: '/etc/rancher/k3s/config.yaml', text }], { role: 'server', version })
}

// ─── the values ──────────────────────────────────────────────────────────────────────────────────────────────────────

const general: Partial<Record<Kind, string[]>> = {
  boolean: ['true', 'false', 'TRUE', 'T', '1', '0', 'yes', 'on', 'tRue'],
  number: [
    '0',
    '1',
    '-1',
    '2',
    '100',
    '101',
    '65535',
    '65536',
    '2147483647',
    '2147483648',
    '1.5',
    'x',
    '1e3',
    '+5',
  ],
  duration: ['0', '0s', '5m', '-5m', '1.5h', '1h30m', '5', '1d', 'x', '500ms', '2m0.5s', '.5m', '9999999h'],
  text: ['x', 'a,b', 'a=b', '1'],
}

/** The ends of what a flag takes, and what lies just beyond. */
function ends(limit: string | undefined): string[] {
  if (limit === undefined || limit === 'fraction') return []
  return limit.split(/\.\.|\|/).flatMap((end) => {
    const [, number, unit = ''] = /^(-?\d+)([a-z]*)$/.exec(end) ?? []
    return number === undefined ? [] : [end, `${BigInt(number) - 1n}${unit}`, `${BigInt(number) + 1n}${unit}`]
  })
}

interface Value {
  of: string
  flag: string
  value: string
  /** All words, where they mean something only beside each other. */
  words?: string[]
}

/** What k3s tells etcd of itself, and what etcd ends for without a word more: nobody else says it. */
const ofMembers = /-urls$|^(initial-|discovery|name$|data-dir$|log|config-file$|auto-compaction)/

const generated: Value[] = [...flags.programs].flatMap(([of, { flags, limits }]) =>
  [...flags]
    .filter(([flag, kind]) => of !== 'etcd' || kind !== 'text' || !ofMembers.test(flag))
    .flatMap(([flag, kind]) =>
      [...new Set([...(general[kind] ?? []), ...ends(limits.get(flag))])].map((value) => ({
        of,
        flag,
        value,
      })),
    ),
)

/** Texts with a form, value by value. */
const chosen: Record<string, Record<string, string[]>> = {
  kubelet: {
    'node-labels': [
      'a=b',
      'example.net/rack=a1',
      'example.net/rack=a/b',
      'a/b/c=x',
      '_x=1',
      'x_=1',
      'a=',
      'a',
      'a=-b',
      'a=b,c=d',
      'a=b=c',
      'Example.net/a=b',
      `a=${'x'.repeat(63)}`,
      `a=${'x'.repeat(64)}`,
      `${'k'.repeat(64)}=a`,
      `${'d'.repeat(254)}/a=b`,
      'node-role.kubernetes.io/worker=true',
      'node.kubernetes.io/x=y',
      'kubernetes.io/os=linux',
      'k8s.io/a=b',
      'x.k8s.io/a=b',
      'topology.kubernetes.io/zone=a',
      'kubernetes.io/hostname=x',
      'x.node.kubernetes.io/a=b',
      'a b=c',
      'ä=b',
      '/a=b',
      'a/=b',
    ],
    'register-with-taints': [
      'a=b:NoSchedule',
      'a:NoExecute',
      'a=b:Never',
      'a=b',
      'a',
      'a=a/b:NoSchedule',
      'a=b:noSchedule',
      'a=b:PreferNoSchedule',
      'a=b:NoSchedule,c=d:NoExecute',
      'a=b:NoSchedule,a=c:NoSchedule',
      'a=b=c:NoSchedule',
      'a:b:NoSchedule',
      '_a=b:NoSchedule',
      `a=${'x'.repeat(64)}:NoSchedule`,
      'a.b/c=:NoSchedule',
      'A/c=d:NoSchedule',
      'a=b:NoSchedule,a=b:NoExecute',
      '=b:NoSchedule',
    ],
    'feature-gates': [
      'AllAlpha=true',
      'AllBeta=false',
      'Nope=true',
      'UserNamespacesPodSecurityStandards=true',
      'NodeSwap=false',
      'NodeSwap=true',
      'AllAlpha=T',
      'AllAlpha',
      'AllAlpha=yes',
      'AllAlpha=true,AllBeta=true',
      'AllAlpha=true,Nope=true',
      'allalpha=true',
      'kube:AllAlpha=true',
    ],
    'eviction-hard': [
      'memory.available<100Mi',
      'memory.available<5%',
      'nodefs.available<10%,imagefs.available<15%',
      'memory.available=100Mi',
      'memory.free<100Mi',
      'memory.available<100MB',
      'memory.available<0',
      'memory.available<-1',
      'memory.available<101%',
      'memory.available<100%',
      'memory.available<0%',
      'pid.available<1k',
      'nodefs.inodesFree<5%',
      'memory.available<1.5Gi',
      'memory.available<x%',
    ],
    'eviction-minimum-reclaim': [
      'memory.available=1Mi',
      'memory.available=0',
      'memory.available=5%',
      'memory.available=0%',
      'x=1',
      'memory.available<1',
    ],
    'system-reserved': [
      'cpu=100m,memory=200Mi',
      'cpu=x',
      'disk=1',
      'cpu',
      'cpu=-1',
      'pid=1000',
      'ephemeral-storage=1Gi',
      'cpu=0.5',
    ],
    'kube-reserved': [
      'cpu=100m',
      'memory=1GB',
      'memory=1e3',
      'memory=1E',
      'memory=1Ki',
      'memory=.5Gi',
      'memory=1.Gi',
    ],
    'hairpin-mode': ['none', 'hairpin-veth', 'promiscuous-bridge', 'veth'],
    'topology-manager-policy': ['none', 'best-effort', 'restricted', 'single-numa-node', 'Restricted'],
    'topology-manager-scope': ['container', 'pod', 'node'],
    'logging-format': ['text', 'json', 'yaml'],
    'enforce-node-allocatable': ['pods', 'none', 'pods,none', 'system-reserved', 'pods,pods', 'nodes'],
    'reserved-cpus': ['0', '0-3', '0,2-3', '3-1', '-1', '0-'],
    address: ['0.0.0.0', '::', '10.0.0.1', '10.0.0.256', 'eth0', '10.0.0.1:80'],
    v: ['0', '5', '-1', '1.5'],
    vmodule: ['a=1', 'a=1,b=2', 'a', 'a=x', '=1'],
    'tls-min-version': ['VersionTLS12', 'VersionTLS13', 'TLS12'],
  },
  'kube-apiserver': {
    'feature-gates': [
      'AllAlpha=true',
      'kube:AllAlpha=true',
      'Nope=true',
      'AllBeta=x',
      'NodeSwap=true',
      'AllAlpha',
      'UserNamespacesPodSecurityStandards=true',
    ],
    'service-node-port-range': [
      '30000-32767',
      '32767-30000',
      '30000',
      '30000+10',
      '1-65535',
      '1-65536',
      'a-b',
      '30000-',
      '30000 - 32767',
    ],
    'service-cluster-ip-range': [
      '10.43.0.0/16',
      '10.43.0.0',
      '10.43.0.0/16,fd00:43::/112',
      '10.43.0.0/16,10.44.0.0/16',
      '10.43.0.0/16,fd00:43::/112,fd01::/112',
    ],
    'authorization-mode': ['Node,RBAC', 'RBAC,Node', 'Node,rbac', 'Node,RBAC,AlwaysDeny'],
    'storage-media-type': ['application/json', 'application/yaml', 'application/xml'],
    'runtime-config': ['api/all=true', 'batch/v1=true', 'batch/v1', 'batch/v1=yes', 'x=true'],
    'emulated-version': ['1.36', 'kube=1.36', 'v1.36', '2', 'x'],
    'disable-admission-plugins': ['DefaultStorageClass', 'Nope', 'DefaultStorageClass,Nope'],
    'enable-admission-plugins': [
      'NodeRestriction',
      'NodeRestriction,Nope',
      'NodeRestriction,AlwaysPullImages',
      'NodeRestriction,noderestriction',
    ],
    'goaway-chance': ['0', '0.001', '0.02', '0.03', '-0.1'],
    'strict-transport-security-directives': [
      'max-age=31536000',
      'max-age=31536000,includeSubDomains',
      'max-age',
      'preload',
    ],
  },
  'kube-controller-manager': {
    'feature-gates': ['AllAlpha=true', 'Nope=true'],
    'bind-address': ['127.0.0.1', '::1', 'localhost'],
  },
  'kube-scheduler': {
    'feature-gates': ['AllBeta=true', 'Nope=true'],
    'bind-address': ['127.0.0.1', '::1', 'lo'],
  },
  etcd: {
    'feature-gates': [
      'InitialCorruptCheck=true',
      'Nope=true',
      'InitialCorruptCheck',
      'CompactHashCheck=true,LeaseCheckpoint=false',
    ],
  },
}
const special: Value[] = Object.entries(chosen).flatMap(([of, texts]) =>
  Object.entries(texts).flatMap(([flag, values]) => values.map((value) => ({ of, flag, value }))),
)

/** Values that mean something only beside each other. */
const pairs: [string, string[]][] = [
  ['kubelet', ['image-gc-high-threshold=80', 'image-gc-low-threshold=90']],
  ['kubelet', ['image-gc-high-threshold=90', 'image-gc-low-threshold=80']],
  ['kubelet', ['image-gc-high-threshold=80']],
  ['kubelet', ['image-gc-high-threshold=81']],
  ['kubelet', ['image-gc-low-threshold=85']],
  ['kubelet', ['image-gc-low-threshold=84']],
  ['kubelet', ['eviction-soft=memory.available<1Gi']],
  ['kubelet', ['eviction-soft=memory.available<1Gi', 'eviction-soft-grace-period=memory.available=1m']],
  ['kubelet', ['eviction-soft=memory.available<1Gi', 'eviction-soft-grace-period=nodefs.available=1m']],
  ['kubelet', ['eviction-soft-grace-period=memory.available=x']],
  ['kubelet', ['enforce-node-allocatable=pods,system-reserved']],
  ['kubelet', ['enforce-node-allocatable=pods,system-reserved', 'system-reserved-cgroup=/system']],
  ['kubelet', ['cgroups-per-qos=false']],
  ['kubelet', ['cgroups-per-qos=false', 'enforce-node-allocatable=none']],
  ['kubelet', ['node-labels=a=b', 'node-labels=a/b/c=d']],
  ['kubelet', ['feature-gates=AllAlpha=true', 'feature-gates=Nope=true']],
  ['kubelet', ['seccomp-default']],
  ['kubelet', ['max-pods']],
  ['kubelet', ['max-pods=5', 'max-pods=6']],
  ['kubelet', ['node-ip=']],
  ['etcd', ['heartbeat-interval=1000', 'election-timeout=500']],
  ['etcd', ['heartbeat-interval=100', 'election-timeout=500']],
  ['etcd', ['heartbeat-interval=100', 'election-timeout=499']],
  ['etcd', ['heartbeat-interval=1001']],
  ['etcd', ['heartbeat-interval=1000']],
  ['etcd', ['election-timeout=2500']],
  ['etcd', ['election-timeout=2499']],
  ['kube-apiserver', ['service-account-issuer=https://a', 'service-account-issuer=https://b']],
  ['kube-apiserver', ['service-account-issuer+=https://b']],
  ['kube-apiserver', ['enable-admission-plugins+=AlwaysPullImages']],
  ['kube-apiserver', ['enable-admission-plugins+=Nope']],
  ['kube-scheduler', ['leader-elect-lease-duration=5s']],
  ['kube-scheduler', ['leader-elect-lease-duration=5s', 'leader-elect-renew-deadline=4s']],
  ['kube-scheduler', ['leader-elect-retry-period=20s']],
]

const together: Value[] = pairs.map(([of, words]) => ({
  of,
  flag: words[0]!.split(/[+=]/)[0]!,
  value: words.join(' '),
  words,
}))

// ─── the differences ─────────────────────────────────────────────────────────────────────────────────────────────────

interface Difference {
  who: 'ours' | 'theirs'
  when: (value: Value, said: string) => boolean
  why: string
}

/** Where our reader and the programs may differ: what is refused by one of them only, and why that is right. */
const differences: Difference[] = [
  {
    who: 'ours',
    when: ({ of, flag, value }) => refusals[of]?.[flag]?.(meant(of, flag, value), flags) !== undefined,
    why: 'the program would start, and be open: lib/k3s/check/flags.ts says of each what is weak about it',
  },
  {
    who: 'ours',
    when: ({ of, value }) => of === 'etcd' && /^(T|0|1|yes|on)$/.test(value),
    why: 'etcd takes it in its own words only, and skips what its file has under another name, as peer-auto-tls: a switch that is no switch',
  },
  {
    who: 'ours',
    when: ({ of, value }) => of === 'etcd' && value === '5',
    why: 'k3s hands on five nanoseconds',
  },
  {
    who: 'ours',
    when: ({ of, flag }) => of === 'etcd' && /^(discovery|raft)-/.test(flag),
    why: 'the file of etcd has no such key, so k3s says it to nobody: what is wrong in it is wrong all the same',
  },
  {
    who: 'ours',
    when: (_, said) => /names .*, which is not among the files of the node$/.test(said),
    why: 'the program opens the file a moment later: it would not start without one that nobody brings',
  },
  {
    who: 'ours',
    when: ({ of }, said) =>
      of !== 'kube-apiserver' &&
      /renew-deadline must be longer than|lease-duration must be longer/.test(said),
    why: 'client-go refuses it when it elects (NewLeaderElector), after the program has read and checked its words',
  },
  {
    who: 'ours',
    when: ({ flag, value }) => flag === 'runtime-config' && value.endsWith('=yes'),
    why: 'the API server reads what stands behind the = when it builds its API, not before',
  },
  {
    who: 'ours',
    when: ({ flag }, said) => /^(cpu|memory)-manager-policy$/.test(flag) && said.includes('must be one of'),
    why: 'the kubelet finds no such policy when it starts its managers, after it has checked its configuration',
  },
  {
    who: 'ours',
    when: (_, said) => /gives .* again|has no value/.test(said),
    why: 'the program takes the last of two, or true for a text: what one reads first is not what counts',
  },
  {
    who: 'theirs',
    when: ({ flag, value }) => flag === 'feature-gates' && /^All(Alpha|Beta)=/.test(value),
    why: 'which gates need which others, and which settings, no list says: the page notices at the start and goes back',
  },
  {
    who: 'theirs',
    when: ({ flag }, said) => flag === 'kubernetes-service-node-port' && said.includes('contain'),
    why: 'the range may be another one: whether a port lies in it is seen at the start',
  },
  {
    who: 'theirs',
    when: ({ flag }) =>
      /^(oidc-|service-account-signing-|authorization-(webhook|policy|config)|watch-cache-sizes$)/.test(flag),
    why: 'these need others beside them, or name a key that k3s makes; alone they are never written, and the start says so at once',
  },
]

/** A value as our rules see it: a switch in one word. */
const meant = (of: string, flag: string, value: string): string =>
  flags.programs.get(of)?.flags.get(flag) === 'boolean' ? (truth(of, value) ?? value) : value

const argued = (who: 'ours' | 'theirs', value: Value, said: string): boolean =>
  differences.some((one) => one.who === who && one.when(value, said))

/** What differs between our verdict and theirs, and is argued nowhere. */
function surprises(values: Value[], mine: (string | undefined)[], theirs: string[]): string[] {
  return values.flatMap((value, i) => {
    const [our, their] = [mine[i] ?? '', theirs[i]!]
    if ((our === '') === (their === '')) return []
    const who = our === '' ? 'theirs' : 'ours'
    if (argued(who, value, our || their)) return []
    return [
      `${value.of} ${value.flag}=${value.value}: refused by ${who === 'ours' ? 'us alone' : 'the program alone'}: ${our || their}`,
    ]
  })
}

/** Flags that mean something beside each other have one name here, so that they are not given together by chance. */
const family = ({ of, flag }: Value): string =>
  `${of} ${
    /^(image-gc|coordinated-leadership|leader-elect|eviction-soft|cluster-signing)/.exec(flag)?.[0] ??
    (/^(heartbeat-interval|election-timeout)$/.test(flag) ? 'beat' : undefined) ??
    (/^(enforce-node-allocatable|cgroups-per-qos|system-cgroups|cgroup-root|.*-reserved-cgroup)$/.test(flag)
      ? 'cgroups'
      : flag)
  }`

/** Asks our reader many flags at once, each once, so that a fault is told from others by its place. */
function mine(values: Value[]): (string | undefined)[] {
  const rounds: { index: number; value: Value }[][] = []
  const found: (string | undefined)[] = []
  for (const [index, value] of values.entries()) {
    if (value.words) {
      found[index] = ours({ [`${value.of}-arg`]: value.words })[0]?.reason
      continue
    }
    const round = rounds.find((one) => !one.some(({ value: other }) => family(other) === family(value)))
    if (round) round.push({ index, value })
    else rounds.push([{ index, value }])
  }
  for (const round of rounds) {
    const keys: Record<string, string[]> = {}
    const places = round.map(
      ({ value: { of, flag, value } }) =>
        `${of}-arg[${(keys[`${of}-arg`] ??= []).push(`${flag}=${value}`) - 1}]`,
    )
    const faults = ours(keys)
    for (const [i, { index }] of round.entries())
      found[index] = faults.find(({ path }) => path.replaceAll('"', '') === places[i])?.reason
  }
  return found
}

describe('the values of flags, beside the code of the programs', { skip }, () => {
  const all = [...generated, ...special, ...together]
  /** Both verdicts of each, asked once for all tests. */
  let answers: { mine: (string | undefined)[]; theirs: string[] } | undefined
  const both = () =>
    (answers ??= {
      mine: mine(all),
      theirs: verdicts(
        all.map(({ of, flag, value, words = [`${flag}=${value}`] }) => ({
          of,
          words: words.map((word) => (of === 'kubelet' ? `--${word}` : word)),
        })),
      ),
    })
  const compare = (of: string, values: Value[]): void => {
    const { mine, theirs } = both()
    const here = all.flatMap((value, i) => (value.of === of && values.includes(value) ? [i] : []))
    const found = surprises(
      here.map((i) => all[i]!),
      here.map((i) => mine[i]),
      here.map((i) => theirs[i]!),
    )
    assert.deepEqual(found, [], `${found.length} of ${here.length}`)
  }

  test('there are enough of them', () => {
    assert.ok(generated.length > 1000 && special.length > 150, `${generated.length} and ${special.length}`)
  })
  for (const name of flags.programs.keys())
    test(`${name}: every flag, with values of its kind and at its limits`, () => {
      compare(name, generated)
    })
  for (const name of Object.keys(chosen))
    test(`${name}: texts that have a form`, () => compare(name, special))

  for (const name of flags.programs.keys())
    test(`${name}: values that mean something only beside each other`, () => compare(name, together))

  test('every difference that is argued is there', () => {
    const { mine, theirs } = both()
    for (const { who, when, why } of differences) {
      const seen = all.some((value, i) => {
        const [our, their] = [mine[i] ?? '', theirs[i]!]
        return (
          (our === '') !== (their === '') &&
          who === (our === '' ? 'theirs' : 'ours') &&
          when(value, our || their)
        )
      })
      assert.ok(seen, why)
    }
  })

  test('the feature gates are those of this version, and no other', () => {
    const { free, locked } = flags.gates
    const own = Object.fromEntries([...free.map((name) => [name, 'free']), ...locked])
    assert.deepEqual(own, JSON.parse(asked('gates')))
  })
})

// ─── keys of k3s ─────────────────────────────────────────────────────────────────────────────────────────────────────

const keys: Record<string, string[]> = {
  'cluster-cidr': [
    '10.42.0.0/16',
    '10.50.0.0/16',
    '10.50.0.0/16,2001:cafe:42::/56',
    '10.50.0.0/16, 2001:cafe:42::/56',
    '10.50.0.0',
    'x',
    '10.50.0.0/33',
    '10.50.3.4/16',
  ],
  'service-cidr': [
    '10.44.0.0/16',
    '10.44.0.0/16,2001:cafe:43::/112',
    '10.44.0.0/16;fd00::/112',
    '10.44.0/16',
    '010.44.0.0/16',
  ],
  'cluster-dns': ['10.43.0.10', 'coredns', '10.43.0.10/32'],
  'node-ip': ['10.0.0.1', '10.0.0.1,fd00::1', '10.0.0.1, fd00::1', 'eth0', '10.0.0.1/24', '127.0.0.1', '::1'],
  'service-node-port-range': [
    '30000-32767',
    '32767-30000',
    '80-443',
    '30000',
    '30000+100',
    'x',
    '30000-70000',
  ],
  'etcd-snapshot-schedule-cron': [
    '17 */6 * * *',
    '99 25 * * *',
    '0 0 * * 7',
    '0 0 * * 0',
    '0 0 1 jan sun',
    '*/0 * * * *',
    '@daily',
    '@fortnightly',
    '@every 6h',
    '@every x',
    '0 0 * *',
    '0 0 * * * *',
    '5-1 * * * *',
    '0,30 8-18 * * mon-fri',
    '0 0 31 2 *',
    '? ? ? ? ?',
    '60 * * * *',
    '* 24 * * *',
    '* * 0 * *',
    '* * * 13 *',
    'x * * * *',
    '1/2 * * * *',
    '1-5/2 * * * *',
    '1-5/ * * * *',
    'TZ=UTC 0 0 * * *',
    'CRON_TZ=Europe/Berlin 0 3 * * *',
  ],
  'node-label': ['a=b', 'a=b,c=d', 'rack=a/b', 'a/b/c=d', 'a', `a=${'x'.repeat(64)}`],
  'node-taint': [
    'a=b:NoSchedule',
    'a=b:NoSchedule,c=d:NoExecute',
    'dedicated=a/b:NoSchedule',
    'a=b',
    'a=b:NoSchedule,a=c:NoSchedule',
  ],
  'node-name': ['node-1', 'Node-1', 'Node_1', '-node', 'node.example', `${'x'.repeat(254)}`, 'a..b'],
}
const lists = ['cluster-cidr', 'service-cidr', 'cluster-dns', 'node-ip', 'node-label', 'node-taint']
const ofKubelet = ['node-label', 'node-taint', 'node-name']

test('keys of k3s mean what they mean to k3s', { skip }, () => {
  const values = Object.entries(keys).flatMap(([flag, all]) =>
    all.map((value) => ({ of: 'k3s', flag, value })),
  )
  const theirs = verdicts(
    values.map(({ flag, value }) => ({
      of: ofKubelet.includes(flag) ? 'kubelet' : 'k3s',
      words: [`${flag}=${value}`],
    })),
  )
  const found = values.map(
    ({ flag, value }) => ours({ [flag]: lists.includes(flag) ? [value] : value })[0]?.reason,
  )
  const why: Record<string, string> = {
    // What is written beside a service network is looked at, too: k3s only reads.
    'cluster-dns=coredns': '',
    'node-ip=127.0.0.1': 'k3s takes it, and no other node would reach this one',
    'node-ip=::1': 'the same',
    'node-ip=10.0.0.1, fd00::1':
      'k3s splits this one without taking the space away, and we are not asked to be kinder',
    'service-node-port-range=80-443': 'both take it',
  }
  const left = surprises(values, found, theirs).filter(
    (line) => !Object.keys(why).some((one) => line.startsWith(`k3s ${one}:`)),
  )
  assert.deepEqual(left, [])
})

// ─── files of the API server ─────────────────────────────────────────────────────────────────────────────────────────

const server = {
  ...minimal,
  'kube-apiserver-arg': [
    'admission-control-config-file=/etc/rancher/k3s/admission.yaml',
    'audit-policy-file=/etc/rancher/k3s/audit.yaml',
    'audit-log-path=/var/log/audit.log',
    'enable-admission-plugins=NodeRestriction,EventRateLimit',
  ],
}
const limits = {
  name: 'EventRateLimit',
  configuration: {
    apiVersion: 'eventratelimit.admission.k8s.io/v1alpha1',
    kind: 'Configuration',
    limits: [{ type: 'Server', qps: 5, burst: 5 }],
  },
}
const security = (configuration: object) => ({
  apiVersion: 'apiserver.config.k8s.io/v1',
  kind: 'AdmissionConfiguration',
  plugins: [
    {
      name: 'PodSecurity',
      configuration: {
        apiVersion: 'pod-security.admission.config.k8s.io/v1',
        kind: 'PodSecurityConfiguration',
        defaults: { enforce: 'restricted' },
        ...configuration,
      },
    },
    limits,
  ],
})
const policy = (...rules: object[]) => ({
  apiVersion: 'audit.k8s.io/v1',
  kind: 'Policy',
  rules: [...rules, { level: 'Metadata' }],
})
const right = { admission: security({}), audit: policy() }

function inFiles(files: Partial<typeof right>): string | undefined {
  const all = { ...right, ...files }
  const texts = [
    { path: '/etc/rancher/k3s/config.yaml', text: stringify(server) },
    ...Object.entries(all).map(([name, text]) => ({
      path: `/etc/rancher/k3s/${name}.yaml`,
      text: stringify(text),
    })),
  ]
  return checkK3s(texts, { role: 'server', version })[0]?.reason
}

const levels = ['privileged', 'baseline', 'restricted', 'Restricted', 'strict', '']
const versions = [
  'latest',
  'v1.36',
  'v1.0',
  '1.36',
  'v1.36.1',
  'v1',
  'v1.x',
  'v2.0',
  'v01.2',
  'newest',
  'v1.036',
]
const securities = [
  ...['enforce', 'audit', 'warn'].flatMap((mode) => [
    ...levels.map((level) => ({ defaults: { enforce: 'restricted', [mode]: level } })),
    ...versions.map((level) => ({ defaults: { enforce: 'restricted', [`${mode}-version`]: level } })),
  ]),
  ...['v1', 'v1beta1', 'v1alpha1', 'v2', 'v1beta2'].map((one) => ({
    apiVersion: `pod-security.admission.config.k8s.io/${one}`,
  })),
  { kind: 'PodSecurity' },
  ...['kube-system', 'Kube-System', 'a_b', '', 'a.b', 'x'.repeat(64), 'a'].map((name) => ({
    exemptions: { namespaces: [name] },
  })),
  ...['gvisor', 'a_b', 'A', 'a.b', ''].map((name) => ({ exemptions: { runtimeClasses: [name] } })),
  ...['system:serviceaccount:a:b', 'ada', ''].map((name) => ({ exemptions: { usernames: [name] } })),
  ...['namespaces', 'runtimeClasses', 'usernames'].map((key) => ({ exemptions: { [key]: ['a', 'a'] } })),
]
const rates = [
  ...['Server', 'Namespace', 'User', 'SourceAndObject', 'server'].map((type) => ({ type, qps: 1, burst: 1 })),
  ...[0, -1, 1, 2147483647].flatMap((n) => [
    { type: 'Server', qps: n, burst: 1 },
    { type: 'Server', qps: 1, burst: n },
    { type: 'Namespace', qps: 1, burst: 1, cacheSize: n },
  ]),
].map((one) => ({
  ...right.admission,
  plugins: [
    right.admission.plugins[0]!,
    { ...limits, configuration: { ...limits.configuration, limits: [one] } },
  ],
}))
const rules = [
  ...['None', 'Metadata', 'Request', 'RequestResponse', 'metadata', ''].map((level) => ({
    level,
    verbs: ['get'],
    resources: [{ group: 'apps', resources: ['deployments'] }],
  })),
  ...['/healthz*', '*', '/a*b', 'healthz', '/', ''].map((url) => ({ level: 'None', nonResourceURLs: [url] })),
  ...['apps', '', '*', 'rbac.authorization.k8s.io/v1', 'Apps', 'a..b', 'x'.repeat(254)].map((group) => ({
    level: 'None',
    resources: [{ group, resources: ['x'] }],
  })),
  ...['RequestReceived', 'ResponseStarted', 'ResponseComplete', 'Panic', 'Received'].map((stage) => ({
    level: 'Metadata',
    verbs: ['get'],
    omitStages: [stage],
  })),
  { level: 'None', nonResourceURLs: ['/a'], namespaces: ['b'] },
  { level: 'None', nonResourceURLs: ['/a'], resources: [{ group: '' }] },
  { level: 'None', resources: [{ group: '', resourceNames: ['a'] }] },
  { level: 'None', resources: [{ group: '', resources: ['pods'], resourceNames: ['a'] }] },
]

test('files of the API server: Pod Security, rates of events, and the audit policy', { skip }, () => {
  const cases = [
    ...securities.map((one) => ({ of: 'admission', file: security(one) })),
    ...rates.map((file) => ({ of: 'admission', file })),
    ...rules.map((one) => ({ of: 'audit', file: policy(one) })),
    { of: 'audit', file: { ...policy(), rules: [] } },
  ]
  const theirs = verdicts(cases.map(({ of, file }) => ({ of, text: stringify(file) })))
  const found = cases.map(({ of, file }) => inFiles({ [of]: file }))
  const borne: [RegExp, string][] = [
    [/is empty$/, 'an empty level is what nobody meant, and Pod Security takes it for privileged'],
    [
      /is privileged: a pod in a namespace without labels/,
      'refused by us for what it means, not for how it is written',
    ],
  ]
  const values = cases.map(({ of, file }) => ({ of, flag: 'file', value: JSON.stringify(file) }))
  const left = surprises(values, found, theirs).filter((line) => !borne.some(([said]) => said.test(line)))
  assert.deepEqual(left, [], `${left.length} of ${cases.length}`)
})
