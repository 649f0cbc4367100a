// ./task net: what the network of the cluster has dropped lately, as Hubble on each node saw it, the same ones as one line.
import { Fault } from '../ground/fault.ts'
import { $ } from '../ground/laptop.ts'
import { answeringApi } from './api.ts'
import type { Call } from './call.ts'
import { parse } from './flags.ts'
import { openSession } from './session.ts'
import { net as table } from './tables.ts'

/** One end of a flow, as far as Hubble names it. */
interface End {
  namespace?: string
  pod_name?: string
  labels?: string[]
  workloads?: { name: string }[]
}

/** What `hubble observe --output json` writes on a line: api/v1/flow/flow.proto of Cilium. */
export interface Seen {
  time: string
  flow?: {
    time?: string
    node_name?: string
    source?: End
    destination?: End
    IP?: { source: string; destination: string }
    l4?: Record<string, { destination_port?: number; type?: number }>
    /** A name that was asked for: the agent refuses those that no policy allows. */
    l7?: { dns?: { query?: string } }
    drop_reason_desc?: string
    traffic_direction?: string
    ingress_denied_by?: { name: string }[]
    egress_denied_by?: { name: string }[]
  }
}

/** What was dropped, and how often. `by` names the policies that deny it; without one nothing allows it. */
export interface Drop {
  from: string
  to: string
  reason: string
  by: string[]
  times: number
  last: string
}

/** The drops in lines of Hubble, those that happened last first; also those that no policy decided, with their reason. */
export function dropsOf(lines: string): Drop[] {
  const found = new Map<string, Drop>()
  for (const line of lines.split('\n').filter(Boolean)) {
    const { flow, time } = JSON.parse(line) as Seen
    if (flow === undefined) continue
    const [protocol, { destination_port: port, type = 0 } = {}] = Object.entries(flow.l4 ?? {})[0] ?? []
    const end =
      protocol === undefined
        ? ''
        : `:${/^icmp/i.test(protocol) ? 'icmp' : protocol.toLowerCase()}/${port ?? type}`
    const from = called(flow.source, flow.IP?.source)
    const to = `${called(flow.destination, flow.IP?.destination)}${end}`
    const side = flow.traffic_direction === 'INGRESS' ? 'on its way in' : 'on its way out'
    const name = flow.l7?.dns?.query?.replace(/\.$/, '')
    const why = flow.drop_reason_desc?.toLowerCase().replaceAll('_', ' ') ?? 'for a reason that is not said'
    const reason = `${name === undefined ? why : `the name ${name} may not be looked up`}, ${side}`
    const by = [...(flow.ingress_denied_by ?? []), ...(flow.egress_denied_by ?? [])].map(({ name }) => name)
    const key = JSON.stringify([from, to, reason, by])
    const known = found.get(key) ?? { from, to, reason, by, times: 0, last: '' }
    const at = flow.time ?? time
    found.set(key, { ...known, times: known.times + 1, last: at > known.last ? at : known.last })
  }
  return [...found.values()].sort((a, b) => b.last.localeCompare(a.last))
}

/** NAMESPACE/WORKLOAD, or what Hubble calls who is no pod, with its address. */
function called(end: End | undefined, address = ''): string {
  const name = end?.workloads?.[0]?.name ?? end?.pod_name
  if (end?.namespace !== undefined && name !== undefined) return `${end.namespace}/${name}`
  const reserved = end?.labels?.find((label) => label.startsWith('reserved:'))?.slice('reserved:'.length)
  return reserved === undefined ? address : `${reserved} ${address}`.trim()
}

/** `./task net`. Exit code: 0 nothing was dropped, 2 something was. Rejects with a Fault when it cannot be asked. */
export async function net(call: Call): Promise<number> {
  const given = parse(call, table)
  const since = given.since ?? '10m'
  if (!/^\d+[smh]$/.test(since)) throw new Fault(`--since ${since} is no time such as 30s, 10m or 2h`)
  const session = openSession({
    site: given.site,
    json: given.json ?? false,
    document: true,
    signal: call.signal,
  })
  try {
    const api = await answeringApi(session, ['kubectl'])
    try {
      const run = $({ env: api.environment, nothrow: true })
      const agents = await run`kubectl get pods --namespace cilium --selector k8s-app=cilium --output name`
      const pods = agents.stdout.split('\n').filter(Boolean)
      if (pods.length === 0)
        throw new Fault('no agent of Cilium is in the cluster', { next: './task network-cilium apply' })
      const seen = await Promise.all(
        pods.map(async (pod) => {
          const observe = ['hubble', 'observe', '--verdict', 'DROPPED', '--since', since, '--output', 'json']
          const said =
            await run`kubectl exec --namespace cilium ${pod} --container cilium-agent -- ${observe}`
          if (said.exitCode !== 0)
            throw new Fault(`Hubble of ${pod} cannot be asked`, { said: said.stderr.trim() })
          return said.stdout
        }),
      )
      const drops = dropsOf(seen.join('\n'))
      process.stdout.write(given.json ? `${JSON.stringify({ since, drops })}\n` : screen(drops, since))
      return drops.length === 0 ? 0 : 2
    } finally {
      api.close()
    }
  } finally {
    await session.close()
  }
}

/** The drops for a person. */
export function screen(drops: readonly Drop[], since: string): string {
  if (drops.length === 0) return `Nothing was dropped in the last ${since}.\n`
  const lines = drops.map(({ from, to, reason, by, times, last }) => {
    const why = by.length === 0 ? reason : `${reason}, by ${by.join(', ')}`
    return `${last.slice(11, 19)}  ${`${times}`.padStart(4)} ×  ${from} → ${to}\n                  ${why}\n`
  })
  return `${lines.join('')}Whether it should be: ./task may FROM TO:PORT says which line decides.\n`
}
