// ./task node: what a person does to one node: make it anew, end it, take it out of its cluster, open its API.
import { join } from 'node:path'
import { parse, stringify } from 'yaml'
import { Fault } from '../ground/fault.ts'
import { land } from '../ground/secret.ts'
import { type Member, clusterOf, secretNames } from '../k3s/members.ts'
import { leaving } from '../k3s/nodes.ts'
import { apiOf } from '../site/cluster.ts'
import { guestsOf, machinesFor } from '../site/machines.ts'
import { destroy, rebuild } from '../vm/domain.ts'
import { reachable } from './access.ts'
import type { Call } from './call.ts'
import type { Given } from './flags.ts'
import { runPages } from './pages.ts'
import { pageNamed } from './scripts.ts'
import { type Session, named, withSession } from './session.ts'
import { node as table } from './tables.ts'

type NodeSession = Session & { given: Given<typeof table> }

/**
 * `./task node rebuild NAME` makes a virtual machine anew from the base image and its first configuration, `./task node
 * destroy NAME` removes it for good; both keep the vault, and are confirmed by the name. `./task node replace NAME` takes a
 * node out of its cluster and joins a machine of that name anew, `./task node remove NAME` only takes it out. `./task node
 * kubeconfig NAME` writes what vm-talos or k3s-server has fetched. Resolves to the exit code.
 */
export const node = (call: Call): Promise<number> =>
  withSession(call, table, (session) => {
    const [action = '', name = ''] = session.given.words
    const { config, given, signal } = session
    const { site } = config
    if (action === 'replace' || action === 'remove') return leave(session, action, name)
    const servers = clusterOf(config).filter(({ role }) => role === 'server')
    const none = 'the metal is the node there'
    if (action === 'kubeconfig' && servers.length > 0) named(servers, name, site.name, 'server')
    else named(guestsOf(site), name, site.name, action === 'kubeconfig' ? 'server' : 'virtual machine', none)
    if (action === 'kubeconfig') return kubeconfig(session, name)
    const pages = action === 'destroy' ? [destroy(name)] : [rebuild(name), pageNamed('vm-provision')]
    return runPages(pages, 'apply', given, signal)
  })

/**
 * Takes a node out of the cluster. With `replace` a virtual one is made anew then, the metal begins with an empty disk for k3s,
 * and it joins.
 */
async function leave(session: NodeSession, action: 'replace' | 'remove', name: string): Promise<number> {
  const { config, given, signal, needsHost, report } = session
  const placed = machinesFor(config, 'node').find((found) => found.name === name)
  if (action === 'replace')
    named(machinesFor(config, 'node'), name, config.site.name, 'node', 'its nodes do not run k3s')
  needsHost()
  // What cannot be done is refused before anybody has to confirm.
  leaving(config, name, true)
  const answers = placed !== undefined && (await reachable(config, placed))
  if (action === 'replace' && !answers && placed?.behind === undefined)
    report.note(`${name} does not answer. It leaves the cluster now, and joins when it is back.`)
  const { pages } = leaving(config, name, answers)
  const anew = placed?.behind === undefined ? [] : [rebuild(name), pageNamed('vm-provision')]
  const joins =
    action === 'replace' && (answers || anew.length > 0)
      ? [...anew, { ...pageNamed('k3s-join'), at: name }]
      : []
  return runPages([...pages, ...joins], 'apply', given, signal)
}

/** For kubectl, and as private as a key: the state directory has it encrypted, and here in clear. */
async function kubeconfig({ config, store, state }: NodeSession, name: string): Promise<number> {
  const { site } = config
  const server = clusterOf(config).find((member) => member.name === name)
  const secret = server ? secretNames.kubeconfig : `${name}-kubeconfig`
  if (!store.has(secret))
    throw new Fault(`the cluster of ${name} has no kubeconfig on this laptop`, {
      next: `./task ${server ? 'k3s-server' : 'vm-talos'} apply fetches it`,
    })
  const path = join(state, `${name}.kubeconfig`)
  const saved = Buffer.from((await store.get(secret)).reveal(), 'base64')
  const endpoint = apiOf(site).laptop ?? server?.endpoint
  await land(
    path,
    endpoint && server ? kubeconfigFor(saved.toString('utf8'), { endpoint }, site.name) : saved,
    true,
  )
  process.stdout.write(`${path} opens the cluster to whoever has it. KUBECONFIG=${path} kubectl get nodes\n`)
  return 0
}

/** The kubeconfig of k3s, named after the site, with the address at which the laptop finds the API. `text`: what k3s wrote. */
export function kubeconfigFor(text: string, { endpoint }: Pick<Member, 'endpoint'>, site: string): string {
  const config = parse(text) as {
    clusters: { name: string; cluster: { server: string } }[]
    contexts: { name: string; context: { cluster: string; user: string } }[]
    users: { name: string }[]
    'current-context': string
  }
  const [cluster, context, user] = [config.clusters?.[0], config.contexts?.[0], config.users?.[0]]
  if (cluster === undefined || context === undefined || user === undefined)
    throw new Fault('the saved kubeconfig of k3s cannot be read', {
      next: './task k3s-server apply fetches it anew',
    })
  cluster.name = context.name = config['current-context'] = site
  user.name = `${site}-admin`
  context.context = { cluster: site, user: user.name }
  cluster.cluster.server = `https://${endpoint.includes(':') ? `[${endpoint}]` : endpoint}:6443`
  return stringify(config, { lineWidth: 0 })
}
