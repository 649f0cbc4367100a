// ./task node: what a person does to nodes: make one anew, end it, take it out of its cluster, open its API, open a shell, rekey.
import { rmSync } from 'node:fs'
import { join } from 'node:path'
import { Fault } from '../ground/fault.ts'
import { makeSshKey } from '../ground/keys.ts'
import { $ } from '../ground/laptop.ts'
import { land } from '../ground/secret.ts'
import { leaving } from '../k3s/nodes.ts'
import { membersOf } from '../site/cluster.ts'
import { guestsOf, machinesFor } from '../site/machines.ts'
import { destroy, hostKeyNames, nodeKeyNames, publish, rebuild } from '../vm/domain.ts'
import { reachable, shellOn } from './access.ts'
import { kubeconfigOf } from './api.ts'
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
 * kubeconfig NAME` writes what vm-talos or k3s-server has fetched. `./task node shell NAME` is for a person, and `./task node
 * rekey` replaces the SSH keys of all virtual machines. Resolves to the exit code.
 */
export const node = (call: Call): Promise<number> =>
  withSession(call, table, (session) => {
    const [action = '', name = ''] = session.given.words
    const { config, given, signal } = session
    const { site } = config
    if ((action === 'rekey') !== (name === ''))
      throw new Fault(name === '' ? `node ${action} needs a NAME` : 'node rekey takes no NAME: it is for all')
    if (action === 'rekey') return rekey(session)
    if (action === 'shell') return shell(session, name)
    if (action === 'replace' || action === 'remove') return leave(session, action, name)
    if (action === 'kubeconfig') return kubeconfig(session, name)
    named(guestsOf(site), name, site.name, 'virtual machine', 'the metal is the node there')
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

/** For programs that are not ours, and as private as a key: the state directory has it encrypted, and here in clear. */
async function kubeconfig({ config, store, state }: NodeSession, name: string): Promise<number> {
  const servers = membersOf(config.site).filter(({ role }) => role === 'server')
  const server = named(servers, name, config.site.name, 'server', 'it has no cluster')
  const { text } = await kubeconfigOf({ config, store }, server)
  const path = join(state, `${name}.kubeconfig`)
  await land(path, text, true)
  process.stdout.write(
    `${path} opens the cluster to whoever has it. ./task kubectl needs no such file: delete it when it has served.\n`,
  )
  return 0
}

async function shell({ config, report, needsHost }: NodeSession, name: string): Promise<number> {
  const guests = machinesFor(config, 'node').filter(({ behind }) => behind !== undefined)
  const none = 'its nodes are machines of metal: ssh opens them as any host'
  const node = named(guests, name, config.site.name, 'virtual machine', none)
  needsHost()
  const words = await shellOn(config, node, report)
  report.pause()
  const { exitCode } = await $({ stdio: 'inherit', nothrow: true })`exec ${words}`
  return exitCode ?? 255
}

/**
 * New SSH keys for all nodes behind a host. The next ones lie beside those of now until every node has them, and the laptop goes
 * by both. So it may be interrupted anywhere, and goes on when it is run again.
 */
async function rekey({
  config,
  given,
  signal,
  store,
  state,
  report,
  needsHost,
}: NodeSession): Promise<number> {
  needsHost()
  const guests = machinesFor(config, 'node').filter(({ behind }) => behind !== undefined)
  if (guests.length === 0) throw new Fault(`the site ${config.site.name} has no virtual machine with SSH`)
  const all = [nodeKeyNames, ...guests.map((guest) => hostKeyNames(guest))]
  for (const [now, next] of all) {
    if (!store.has(next)) await store.put(next, makeSshKey(now))
    await publish(state, store.secret(next))
  }
  const code = await runPages([pageNamed('node-keys')], 'apply', given, signal)
  if (code !== 0) {
    report.note(
      'Nodes that have the new keys take no others; the rest keep theirs. ./task node rekey goes on.',
    )
    return code
  }
  for (const [now, next] of all) {
    await store.put(now, (await store.get(next)).reveal())
    await publish(state, store.secret(now))
    await store.remove(next)
    rmSync(join(state, `${next}.pub`), { force: true })
  }
  // What a node would get that is made anew, and by what its host knows it.
  return runPages([pageNamed('vm-ignition'), pageNamed('vm-provision')], 'apply', given, signal)
}
