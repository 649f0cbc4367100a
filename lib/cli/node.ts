// ./task node: what a person does to one node: make it anew, end it, take it out of its cluster, open its API.
import { join } from 'node:path'
import { parse, stringify } from 'yaml'
import { Fault } from '../ground/fault.ts'
import { nearest } from '../ground/nearest.ts'
import { land, secretStore } from '../ground/secret.ts'
import { type Member, clusterOf, secretNames } from '../k3s/members.ts'
import { leaving } from '../k3s/nodes.ts'
import { loadConfig } from '../site/config.ts'
import { machinesFor, nodesOf } from '../site/machines.ts'
import type { Config } from '../site/model.ts'
import { destroy, rebuild } from '../vm/domain.ts'
import { type Flags, flags } from './flags.ts'
import { reaches, runPages } from './pages.ts'
import { pageNamed } from './scripts.ts'
import type { Call } from './taskfile.ts'

const actions = ['rebuild', 'destroy', 'replace', 'remove', 'kubeconfig'] as const

/**
 * `./task node rebuild NAME` makes a virtual machine anew from the base image and what it is told first; `./task node destroy NAME`
 * ends it for good. Both keep the vault, and ask for the name once more. `./task node replace NAME` takes a node out of its cluster
 * and lets a machine of that name join it anew, `./task node remove NAME` only takes it out. `./task node kubeconfig NAME` writes out
 * what vm-talos or k3s-server has fetched. Resolves to the exit code; throws a Fault for any other word.
 */
export async function node(call: Call): Promise<number> {
  const given = flags(call, [actions.join('|'), 'NAME'])
  const [action, name] = given.words.map(String)
  if (!(actions as readonly (string | undefined)[]).includes(action) || name === undefined)
    throw new Fault(`usage: ./task node ${actions.join('|')} NAME`)
  const config = loadConfig(given.site === undefined ? {} : { site: given.site })
  const { site } = config
  if (action === 'replace' || action === 'remove') return replace(action, name, config, call, given)
  const virtual = nodesOf(site).map((found) => found.name)
  const servers = clusterOf(config).filter(({ role }) => role === 'server')
  const names = action === 'kubeconfig' && servers.length > 0 ? servers.map((server) => server.name) : virtual
  if (!names.includes(name)) {
    const near = nearest(name, names)
    const what = action === 'kubeconfig' ? 'no server' : 'no virtual machine'
    throw new Fault(
      `the site ${site.name} has ${what} ${name}${near === undefined ? '' : `; did you mean ${near}?`}`,
      {
        next: names.length === 0 ? 'the metal is the node there' : `it has ${names.join(', ')}`,
      },
    )
  }
  if (action === 'kubeconfig') return kubeconfig(name, config)
  const mine = action === 'destroy' ? [destroy(name)] : [rebuild(name), pageNamed('vm-provision')]
  return runPages(mine, 'apply', given, call.signal)
}

/** Takes a node out of the cluster. With `replace` a virtual one is made anew then, the metal begins with an empty disk for k3s, and it joins. */
async function replace(
  word: 'replace' | 'remove',
  name: string,
  config: Config,
  call: Call,
  given: Flags,
): Promise<number> {
  const members = clusterOf(config)
  const placed = machinesFor(config, 'node').find((found) => found.name === name)
  if (word === 'replace' && placed === undefined) {
    const names = members.map((member) => member.name)
    const near = nearest(name, names)
    throw new Fault(
      `the site ${config.site.name} has no node ${name}${near ? `; did you mean ${near}?` : ''}`,
      {
        next: names.length === 0 ? 'its nodes do not run k3s' : `it has ${names.join(', ')}`,
      },
    )
  }
  if (config.env.FK_HOST === undefined)
    throw new Fault('There is no machine: FK_HOST is not set', {
      next: 'FK_HOST=admin@192.0.2.10, in the environment or in .env',
    })
  // What cannot be done is said before anybody is asked.
  leaving(config, name, true)
  const reachable = placed !== undefined && (await reaches(config, placed))
  if (word === 'replace' && !reachable && placed?.behind === undefined)
    process.stdout.write(`${name} does not answer. It leaves the cluster now, and joins when it is back.
`)
  const { pages: out } = leaving(config, name, reachable)
  const anew = placed?.behind === undefined ? [] : [rebuild(name), pageNamed('vm-provision')]
  const joins =
    word === 'replace' && (reachable || anew.length > 0)
      ? [...anew, { ...pageNamed('k3s-join'), at: name }]
      : []
  return runPages([...out, ...joins], 'apply', given, call.signal)
}

/** For kubectl, and as private as a key: the state directory has it encrypted, and here in clear. */
async function kubeconfig(name: string, config: Config): Promise<number> {
  const { env, site } = config
  const server = clusterOf(config).find((member) => member.name === name)
  const dir = join(env.FK_STATE_DIR, site.name)
  const store = secretStore({ dir, identity: env.FK_AGE_IDENTITY })
  const secret = server ? secretNames.kubeconfig : `${name}-kubeconfig`
  if (!store.has(secret))
    throw new Fault(`the cluster of ${name} has no kubeconfig on this laptop`, {
      next: `./task ${server ? 'k3s-server' : 'vm-talos'} apply fetches it`,
    })
  const path = join(dir, `${name}.kubeconfig`)
  const saved = Buffer.from((await store.get(secret)).reveal(), 'base64')
  await land(path, server ? kubeconfigFor(saved.toString('utf8'), server, site.name) : saved, true)
  process.stdout.write(`${path} opens the cluster to whoever has it. KUBECONFIG=${path} kubectl get nodes\n`)
  return 0
}

/** The kubeconfig of k3s as a member is reached from the laptop, and named after the site. `text` is what k3s wrote for itself. */
export function kubeconfigFor(text: string, { endpoint }: Pick<Member, 'endpoint'>, site: string): string {
  const config = parse(text) as {
    clusters: { name: string; cluster: { server: string } }[]
    contexts: { name: string; context: { cluster: string; user: string } }[]
    users: { name: string }[]
    'current-context': string
  }
  const [cluster, context, user] = [config.clusters?.[0], config.contexts?.[0], config.users?.[0]]
  if (cluster === undefined || context === undefined || user === undefined)
    throw new Fault('what the laptop keeps as the kubeconfig of k3s is none', {
      next: './task k3s-server apply fetches it anew',
    })
  cluster.name = context.name = config['current-context'] = site
  user.name = `${site}-admin`
  context.context = { cluster: site, user: user.name }
  cluster.cluster.server = `https://${endpoint.includes(':') ? `[${endpoint}]` : endpoint}:6443`
  return stringify(config, { lineWidth: 0 })
}
