// What Cilium's own policy code says of a list of flows; main.go beside this file describes every field.
import { spawnSync } from 'node:child_process'
import { builtProgram } from '../../../lib/lab/lab.ts'

const program = builtProgram('cilium-oracle')

/** Why a test cannot ask it here, for its `skip`. */
export const withoutOracle: string | false =
  program === undefined ? 'cilium-oracle is not built: task lab setup' : false

/** A pod has a namespace, and flows call it namespace/name; everything else has `reserved`, and flows call it by its name. */
export interface Endpoint {
  name: string
  namespace?: string
  labels?: Record<string, string>
  namespaceLabels?: Record<string, string>
  serviceAccount?: string
  ports?: { name: string; containerPort: number; protocol: 'TCP' | 'UDP' }[]
  reserved?: (
    'host' | 'world' | 'ingress' | 'health' | 'init' | 'unmanaged' | 'remote-node' | 'kube-apiserver'
  )[]
  address?: string
  dns?: string[]
}

export interface Flow {
  from: string
  to: string
  port: number
  protocol: 'TCP' | 'UDP' | 'SCTP' | 'ICMP' | 'ICMPV6'
}

export interface Question {
  policies: string
  endpoints: Endpoint[]
  flows: Flow[]
  cluster?: string
  ipv6?: boolean
  enforcement?: 'default' | 'always' | 'never'
  hostFirewall?: boolean
}

export interface Side {
  verdict: 'allowed' | 'denied'
  reason: 'rule' | 'no rule' | 'no policy' | 'own host' | 'not judged'
  by: string[]
}

export interface Judged extends Flow {
  verdict: 'allowed' | 'denied'
  egress: Side
  ingress: Side
}

export interface Answer {
  invalid: { policy: string; error: string }[]
  flows: Judged[]
}

/** Asks the program once, for all flows (0.1 s for some twenty). Throws what it says when the question makes no sense. */
export function judge(question: Question): Answer {
  const { status, stdout, stderr, error } = spawnSync(program!, [], {
    input: JSON.stringify(question),
    encoding: 'utf8',
    maxBuffer: 2 ** 28,
  })
  if (error) throw error
  if (status !== 0) throw new Error(stderr.trim())
  return JSON.parse(stdout) as Answer
}
