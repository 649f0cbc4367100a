// ./task peer: the devices that may enter the tunnel.
import { readFileSync, statSync } from 'node:fs'
import { chmod, rm } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { join } from 'node:path'
import { Fault } from '../ground/fault.ts'
import { root as kit } from '../ground/root.ts'
import { type SecretStore, land } from '../ground/secret.ts'
import { shown } from '../ground/wrap.ts'
import { qr, writeClient } from '../host/device.ts'
import { keyless, peerKey, pskKey, publicHalf } from '../host/wireguard.ts'
import { clientPath } from '../site/machines.ts'
import type { Config, Peer } from '../site/model.ts'
import { withPeer, withoutPeer } from '../site/peers.ts'
import { stateOf, storeOf } from './context.ts'
import { type Given, parse } from './flags.ts'
import { keeper } from './keeper.ts'
import { interactive } from './prompt.ts'
import { named } from './session.ts'
import { peer as table } from './tables.ts'

const load = createRequire(import.meta.url)

/** What an action works with: a checkout, its site, and where its sentences go. */
interface Peers {
  config: Config
  /** The directory of the site on the laptop. */
  state: string
  store: SecretStore
  /** The site document. */
  document: string
  given: Given<typeof table>
  say: (line: string) => void
}

/**
 * `./task peer add|show|revoke NAME`, `./task peer list`. Works on the laptop alone: the host gets it when its page is applied.
 * `config` and `root` are for a checkout other than this one. Resolves to the exit code.
 */
export async function peer(
  call: { name: string; argv: string[] },
  {
    config,
    root = kit,
    say = console.log,
  }: { config?: Config; root?: string; say?: (line: string) => void } = {},
): Promise<number> {
  const given = parse(call, table)
  const [action, name] = given.words
  if (action === 'list' ? name !== undefined : name === undefined)
    throw new Fault(action === 'list' ? 'peer list takes no name' : `peer ${action} needs a NAME`)
  const { loadConfig } = load('../site/config.ts') as typeof import('../site/config.ts')
  const settings = config ?? loadConfig({ root, ...(given.site === undefined ? {} : { site: given.site }) })
  const state = stateOf(settings)
  const copies = keeper(
    settings.env.FK_AGE_IDENTITY,
    { note: say, pause: () => {} },
    interactive() && !settings.env.FK_YES,
  )
  const peers = {
    config: settings,
    state,
    store: storeOf(settings, copies.made),
    document: join(root, 'config', 'sites', `${settings.site.name}.yaml`),
    given,
    say,
  }
  if (action === 'list') list(peers)
  else if (action === 'show') await show(peers, name!)
  else if (action === 'add') await add(peers, name!)
  else await revoke(peers, name!)
  copies.remind()
  return 0
}

function list({ config: { site }, state, say }: Peers): void {
  const without = keyless(state, site)
  for (const { address, name } of site.tunnel.peers) {
    const key = without.includes(name) ? 'no keys on this computer yet' : publicHalf(state, peerKey(name))
    say(`${address}\t${name}\t${key}`)
  }
}

async function show(peers: Peers, name: string): Promise<void> {
  const { site } = peers.config
  const none = `./task peer add ${name}`
  await write(peers, named(site.tunnel.peers, name, site.name, 'peer', none))
}

async function add(peers: Peers, name: string): Promise<void> {
  const next = withPeer(readFileSync(peers.document, 'utf8'), peers.config.site, name)
  // Keys first: a peer in the document that has none would only stop the page.
  await write(peers, next.peer)
  await rewrite(peers.document, next.text)
  peers.say(`${name} is in ${shown(peers.document)}. The host does not have it yet: ./task host-wireguard`)
}

async function revoke({ config: { site }, document, state, store, say }: Peers, name: string): Promise<void> {
  await rewrite(document, withoutPeer(readFileSync(document, 'utf8'), site, name))
  for (const secret of [peerKey(name), pskKey(name)]) await store.remove(secret)
  for (const file of [join(state, `${peerKey(name)}.pub`), clientPath(state, name)])
    await rm(file, { force: true })
  say(`${name} is no longer in ${shown(document)}, and its keys are deleted here.`)
  say('It can still enter until the host is updated: ./task host-wireguard')
}

/** Writes the WireGuard configuration of a device. */
async function write({ config, state, store, given, say }: Peers, peer: Peer): Promise<void> {
  const text = await writeClient({ ...config, state, secrets: store.secret }, peer, given.endpoint)
  const file = shown(clientPath(state, peer.name))
  if (given.qr) say(qr(text))
  say(`${peer.name} (${peer.address}) enters with ${file}`)
  say('It holds the private key in clear: mode 600, for you alone.')
  say(`On this computer, with wireguard-tools:\n  sudo wg-quick up ${file}`)
  if (!given.qr) say(`On a phone, scan: ./task peer show ${peer.name} --qr`)
}

/** A document of somebody else's mode, whole or not at all. */
export async function rewrite(path: string, text: string): Promise<void> {
  const { mode } = statSync(path)
  await land(path, text, true)
  await chmod(path, mode & 0o777)
}
