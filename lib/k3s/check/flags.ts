// The flags of k3s and of the programs in it, by version, and the values that they must not have though they would take them.
import { createRequire } from 'node:module'
import { type Problem, show } from '../../ground/document.ts'
import { nearest } from '../../ground/nearest.ts'
import { read } from '../../ground/root.ts'

export type Role = 'server' | 'agent'

export type Kind = 'boolean' | 'number' | 'duration' | 'text' | 'list'

/** A program that k3s starts: every flag with its kind, and of the flags that are no more what to write in their place. */
export interface Program {
  flags: Map<string, Kind>
  /** FROM..TO of numbers and times with which it starts, where not every one is right; `fraction` where it takes one. */
  limits: Map<string, string>
  deprecated: Map<string, string>
  removed: Map<string, string>
}

/** Every flag of a version of k3s. */
export interface Flags {
  server: Program
  agent: Program
  /** What a key can hold, where it is one of a few words. */
  values: Map<string, string[]>
  /** The keys that must be the same on all servers. */
  alike: string[]
  programs: Map<string, Program>
  /** The plug-ins of the API server. */
  admission: string[]
  /** The ciphers that a program of Kubernetes accepts. */
  ciphers: string[]
  /** Feature gates: those that can be switched, what the others are locked to, and those of etcd. */
  gates: { free: string[]; locked: Map<string, 'true' | 'false'>; etcd: string[] }
  /** Flags of Kubernetes that can be given more than once. */
  several: string[]
  /** The loops of the controller manager. */
  controllers: string[]
}

/** A Kubernetes version without its last number, such as 1.36. */
type Minor = string

const load = createRequire(import.meta.url)
/** The file that names every flag. */
export const flagsFile = 'config/k3s/flags.yaml'

// ─── the flags ───────────────────────────────────────────────────────────────────────────────────────────────────────

type Words = Partial<Record<Kind, string>>
type Gone = Partial<Record<'deprecated' | 'removed' | 'limits', Record<string, string>>>
interface Data {
  k3s: Record<'both' | Role, Words> & Gone & { values: Record<string, string>; alike: string }
  programs: Record<string, Words & Gone>
  admission: string
  ciphers: string
  gates: Record<'free' | 'true' | 'false' | 'etcd', string>
  several: string
  controllers: string
}

export const words = (text: string): string[] => text.split(/\s+/).filter(Boolean)

function program(lists: Words[], { deprecated = {}, removed = {}, limits = {} }: Gone): Program {
  const flags = new Map<string, Kind>()
  for (const list of lists)
    for (const kind of ['boolean', 'number', 'duration', 'text', 'list'] as const)
      for (const name of words(list[kind] ?? '')) flags.set(name, kind)
  return {
    flags,
    limits: new Map(
      Object.entries(limits).flatMap(([limit, names]) => words(names).map((name) => [name, limit])),
    ),
    deprecated: new Map(Object.entries(deprecated)),
    removed: new Map(Object.entries(removed)),
  }
}

let known: Map<Minor, Flags> | undefined

/** Every flag of every version that config/k3s/flags.yaml describes, by minor version. Read when it is first asked for. */
export function allFlags(): Map<Minor, Flags> {
  if (known !== undefined) return known
  const { parse } = load('yaml') as typeof import('yaml')
  const versions = Object.entries(parse(read(flagsFile)) as Record<Minor, Data>)
  known = new Map(
    versions.map(([minor, { k3s, programs, admission, ciphers, gates, several, controllers }]) => [
      minor,
      {
        server: program([k3s.both, k3s.server], k3s),
        agent: program([k3s.both, k3s.agent], k3s),
        values: new Map(Object.entries(k3s.values).map(([key, list]) => [key, words(list)])),
        alike: words(k3s.alike),
        programs: new Map(Object.entries(programs).map(([name, lists]) => [name, program([lists], lists)])),
        admission: words(admission),
        ciphers: words(ciphers),
        gates: {
          free: words(gates.free),
          locked: new Map(
            (['true', 'false'] as const).flatMap((on) => words(gates[on]).map((name) => [name, on])),
          ),
          etcd: words(gates.etcd),
        },
        several: words(several),
        controllers: words(controllers),
      },
    ]),
  )
  return known
}

// ─── what is refused though k3s would take it ────────────────────────────────────────────────────────────────────────

/** What a server, or any node, must say; with what happens when it does not. */
export const demanded: { key: string; roles: Role[]; unless?: string[]; reason: string }[] = [
  {
    key: 'token-file',
    roles: ['server', 'agent'],
    unless: ['token'],
    reason: 'without a token of ours k3s makes one, which no other node knows and no backup holds',
  },
  { key: 'server', roles: ['agent'], reason: 'an agent cannot find its cluster' },
  { key: 'secrets-encryption', roles: ['server'], reason: 'Secrets would lie on the disk as they are' },
  {
    key: 'protect-kernel-defaults',
    roles: ['server', 'agent'],
    reason: 'the kubelet would change the kernel’s settings itself',
  },
]

/** What a switch must not be. */
export const switches: Record<string, { is: boolean; reason: string }> = {
  'secrets-encryption': { is: false, reason: 'Secrets lie on the disk as they are' },
  'protect-kernel-defaults': { is: false, reason: 'the kubelet changes the kernel’s settings itself' },
  'tls-san-security': {
    is: false,
    reason: 'whoever asks for a name gets it written into the certificate of the API server',
  },
  'cluster-reset': { is: true, reason: 'this server forgets all others whenever it starts' },
  'etcd-disable-snapshots': { is: true, reason: 'there is nothing to restore from' },
  'etcd-s3-insecure': { is: true, reason: 'a snapshot holds every Secret, and goes out without TLS' },
  'etcd-s3-skip-ssl-verify': { is: true, reason: 'whoever answers gets a snapshot with every Secret' },
  'enable-pprof': { is: true, reason: 'profiles of the running programs are served on the port of k3s' },
}

/** Keys whose value is a secret, and where it belongs. */
export const secrets: Record<string, string> = {
  token: 'token-file names the file that holds it',
  'agent-token': 'agent-token-file names the file that holds it',
  'vpn-auth': 'vpn-auth-file names the file that holds it',
  'etcd-s3-secret-key': 'etcd-s3-config-secret names the Secret that holds it',
  'etcd-s3-session-token': 'etcd-s3-config-secret names the Secret that holds it',
}

type Refusal = (value: string, flags: Flags) => Omit<Problem, 'path'> | undefined

/** Refuses one value of a flag. */
const not =
  (refused: string, reason: string): Refusal =>
  (value) =>
    value === refused ? { reason: `is ${refused}: ${reason}` } : undefined

const zero =
  (reason: string): Refusal =>
  (value) =>
    /^0+(\.0+)?([a-zµ]+)?$/.test(value) ? { reason: `is ${value}: ${reason}` } : undefined

const loopback: Refusal = (value) =>
  ['127.0.0.1', '::1', 'localhost'].includes(value)
    ? undefined
    : {
        reason: `is ${value}: only this machine has to reach it`,
        suggestion: '127.0.0.1',
      }

/** Each of several names is one that is known. */
function unknownName(list: string, names: string[], what: string): Omit<Problem, 'path'> | undefined {
  const wrong = list.split(',').find((name) => !names.includes(name))
  if (wrong === undefined) return undefined
  return { reason: `names ${show(wrong)}, which is no ${what}`, suggestion: nearest(wrong, names) }
}

const ciphers: Refusal = (value, flags) => {
  const weak = value.split(',').find((name) => /_(CBC|RC4|3DES)_|^TLS_RSA_/.test(name))
  return (
    unknownName(value, flags.ciphers, 'cipher') ??
    (weak === undefined
      ? undefined
      : {
          reason: `names ${weak}: ${
            weak.startsWith('TLS_RSA_')
              ? 'who learns the key can read what was sent before'
              : 'it has been broken in practice'
          }`,
        })
  )
}

const tlsVersion: Refusal = (value) =>
  ['VersionTLS12', 'VersionTLS13'].includes(value)
    ? undefined
    : { reason: `must be VersionTLS12 or VersionTLS13, is ${show(value)}`, suggestion: 'VersionTLS12' }

const tls: Record<string, Refusal> = { 'tls-cipher-suites': ciphers, 'tls-min-version': tlsVersion }
const profiling = not('true', 'profiles of the running program are served to whoever may ask')
const needed = ['NodeRestriction']
const kept = ['NodeRestriction', 'PodSecurity', 'ServiceAccount', 'NamespaceLifecycle']

/** What a flag of a program must not be. */
export const refusals: Record<string, Record<string, Refusal>> = {
  'kube-apiserver': {
    ...tls,
    profiling,
    'anonymous-auth': not('true', 'who has no name is let in as system:anonymous'),
    'encryption-provider-config': () => ({
      reason: 'takes the place of the file that k3s writes for secrets-encryption: leave it out',
    }),
    'service-account-lookup': not('false', 'the token of a deleted account goes on working'),
    'token-auth-file': () => ({
      reason: 'is a list of passwords that never run out: people and machines have certificates',
    }),
    'authorization-mode': (value) => {
      const modes = value.split(',')
      const missing = ['Node', 'RBAC'].filter((mode) => !modes.includes(mode))
      if (modes.includes('AlwaysAllow')) return { reason: 'names AlwaysAllow: everybody may do everything' }
      return missing.length > 0 ? { reason: `is without ${missing.join(' and ')}` } : undefined
    },
    'enable-admission-plugins': (value, flags) => {
      const names = value.split(',')
      const missing = needed.filter((name) => !names.includes(name))
      if (names.includes('AlwaysAdmit')) return { reason: 'names AlwaysAdmit, which lets everything in' }
      return (
        unknownName(value, flags.admission, 'plug-in of the API server') ??
        (missing.length > 0
          ? { reason: `is without ${missing.join(', ')}, which k3s enables only when nothing is said` }
          : undefined)
      )
    },
    'disable-admission-plugins': (value, flags) => {
      const lost = value.split(',').find((name) => kept.includes(name))
      return (
        unknownName(value, flags.admission, 'plug-in of the API server') ??
        (lost === undefined ? undefined : { reason: `takes ${lost} away` })
      )
    },
  },
  'kube-controller-manager': {
    ...tls,
    profiling,
    'bind-address': loopback,
    'use-service-account-credentials': not('false', 'every controller has the rights of all of them'),
  },
  'kube-scheduler': { ...tls, profiling, 'bind-address': loopback },
  kubelet: {
    ...tls,
    'anonymous-auth': not('true', 'who has no name may ask for pods and logs'),
    'config-dir': () => ({
      reason: 'takes the place of the directory in which k3s writes what its kubelet needs: leave it out',
    }),
    'authorization-mode': not(
      'AlwaysAllow',
      'every certificate of the cluster may run commands in every pod',
    ),
    'read-only-port': (value) =>
      value === '0'
        ? undefined
        : { reason: `is ${value}: it tells whoever asks what runs here`, suggestion: 'read-only-port=0' },
    'event-qps': zero('there is no limit, and events crowd each other out'),
    'streaming-connection-idle-timeout': zero('a forgotten connection into a pod stays open for ever'),
    'protect-kernel-defaults': not('false', 'the kubelet changes the kernel’s settings itself'),
    'make-iptables-util-chains': not('false', 'the rules that its traffic needs are not made'),
    'seccomp-default': not('false', 'pods may make every system call'),
    'rotate-certificates': not('false', 'the certificate of the node runs out'),
  },
  etcd: {
    'cipher-suites': ciphers,
    'client-cert-auth': not('false', 'who reaches the port reads every Secret'),
    'peer-client-cert-auth': not('false', 'who reaches the port can become a member'),
    'auto-tls': not('true', 'nobody can tell whose certificate that is'),
    'peer-auto-tls': not('true', 'nobody can tell whose certificate that is'),
    'unsafe-no-fsync': not('true', 'what was confirmed is lost when the power fails'),
  },
}
