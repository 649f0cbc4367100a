// The API of the cluster of a site, from this laptop: where its kubeconfig comes from, where it answers, and what to do when not.
import { parse, stringify } from 'yaml'
import { type ApiAccess, type Silence, ask, openAccess, skew, unanswered } from '../component/api.ts'
import { type Tool, type ToolName, toolFor, toolNames } from '../component/tools.ts'
import { downloads } from '../engine/delivery.ts'
import type { Machine } from '../engine/machine.ts'
import type { Report } from '../engine/report.ts'
import { Fault } from '../ground/fault.ts'
import type { SecretStore } from '../ground/secret.ts'
import { type Member, apiOf, kubeconfigSecret, membersOf } from '../site/cluster.ts'
import type { Placed } from '../site/machines.ts'
import type { Config } from '../site/model.ts'
import { NotBuilt } from './absent.ts'
import { connectTo, tunnelIsUp, tunnelUp } from './access.ts'

/** What it takes to open an API. */
export interface Opening {
  config: Config
  store: SecretStore
  report: Report
  signal: AbortSignal
}

/**
 * The kubeconfig of the site's cluster, and the address at which this laptop finds its API: that of the cluster, or the one of
 * `server`, by default the first. Throws NotBuilt where the laptop has none yet.
 */
export async function kubeconfigOf(
  { config: { site }, store }: Pick<Opening, 'config' | 'store'>,
  server?: Member,
): Promise<{ text: string; host: string }> {
  const [first] = membersOf(site)
  if (first === undefined) throw new Fault(`the site ${site.name} has no cluster`)
  const { secret, page } = kubeconfigSecret(first)
  if (!store.has(secret))
    throw new NotBuilt(`this laptop has no kubeconfig of ${site.name}`, page, 'fetches it')
  const saved = Buffer.from((await store.get(secret)).reveal(), 'base64').toString('utf8')
  const host = apiOf(site).laptop ?? (server ?? first).endpoint
  return { text: kubeconfigFor(saved, host, site.name, page), host }
}

/** A kubeconfig named after the site, with the address at which the laptop finds the API. `text`: what `page` has saved. */
export function kubeconfigFor(text: string, host: string, site: string, page = '20-k3s-server'): string {
  const config = parse(text) as {
    clusters: { name: string; cluster: { server: string } }[]
    contexts: { name: string; context: { cluster: string; user: string } }[]
    users: { name: string }[]
    'current-context': string
  }
  const [cluster, context, user] = [config?.clusters?.[0], config?.contexts?.[0], config?.users?.[0]]
  if (cluster === undefined || context === undefined || user === undefined)
    throw new Fault('the saved kubeconfig of the cluster cannot be read', {
      next: `./task ${page.slice(3)} apply fetches it anew`,
    })
  cluster.name = context.name = config['current-context'] = site
  user.name = `${site}-admin`
  context.context = { cluster: site, user: user.name }
  cluster.cluster.server = `https://${endpointOf(host)}`
  return stringify(config, { lineWidth: 0 })
}

const endpointOf = (host: string): string => `${host.includes(':') ? `[${host}]` : host}:6443`

/** An API that is open: `close` it. */
export interface Api extends ApiAccess {
  endpoint: string
  tools: Tool[]
}

/** Opens the API of the site for these tools, without asking it anything. Throws NotBuilt before there is a cluster. */
export async function openApi(opening: Opening, names: readonly ToolName[] = toolNames): Promise<Api> {
  const { config, report, signal } = opening
  const { text, host } = await kubeconfigOf(opening)
  const fetch = downloads(config, {
    signal,
    onTransfer: (transfer) => report.transfer(transfer),
    say: (sentence) => report.note(sentence),
  })
  const dir = config.env.FK_DOWNLOAD_DIR
  const tools = await Promise.all(names.map((name) => toolFor(name, config.pins, dir, fetch)))
  const access = openAccess(text, host, tools)
  if (!access.inMemory)
    report.note('This computer has no directory of memory: the kubeconfig lies on its disk during this run.')
  return { ...access, endpoint: endpointOf(host), tools }
}

/** What a person does about an API that could not be asked. */
export function remedy(config: Config, { refused }: Pick<Silence, 'refused'>): string {
  const [server] = membersOf(config.site)
  if (refused && server !== undefined)
    return `./task ${kubeconfigSecret(server).page.slice(3)} apply fetches the kubeconfig anew`
  return tunnelIsUp(config) ? './task status shows what of the cluster runs' : tunnelUp(config)
}

/** The same for one that has answered, with the version of its server. Rejects with a Fault and the remedy where it does not. */
export async function answeringApi(
  opening: Opening,
  names?: readonly ToolName[],
): Promise<Api & { version: string }> {
  const api = await openApi(opening, names)
  const answer = await ask(api)
  if (typeof answer === 'string') return { ...api, version: answer }
  api.close()
  throw unanswered(api.endpoint, answer, remedy(opening.config, answer))
}

/**
 * This computer as the machine of pages about the API. One request comes first, so that a tunnel that is down is reported within
 * seconds, and by no step. `close` takes the kubeconfig away: until then the machine may be closed and used again. Rejects with
 * NotBuilt, or with a Fault where it does not answer.
 */
export async function connectApi(
  opening: Opening,
  spec: Placed,
  terminal: boolean,
): Promise<{ machine: Machine; close: () => void }> {
  const { config, report, signal } = opening
  const api = await answeringApi(opening)
  try {
    const far = skew(api.tools, api.version)
    if (far !== undefined) report.note(`${far}.`)
    const { environment } = api
    const machine = await connectTo(config, spec, terminal, report, { signal, environment })
    return { machine, close: api.close }
  } catch (error) {
    api.close()
    throw error
  }
}
