// ./task peer: the devices that may enter the tunnel.
import { readFileSync, statSync } from 'node:fs'
import { chmod, rm } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { join, relative } from 'node:path'
import { Fault } from '../ground/fault.ts'
import { nearest } from '../ground/nearest.ts'
import { root as kit } from '../ground/root.ts'
import { land, secretStore } from '../ground/secret.ts'
import {
  clientFile,
  endpointOf,
  keyless,
  keysOf,
  peerKey,
  pskKey,
  publicHalf,
  qr,
  withoutPeer,
  withPeer,
} from '../host/wireguard.ts'
import type { Config, Peer } from '../site/model.ts'

const load = createRequire(import.meta.url)

/**
 * `./task peer add|show|revoke NAME`, `./task peer list`. Works on the laptop alone: the host learns of it when its page is
 * run. `config` and `root` are for a checkout other than this one.
 */
export async function main(
  argv: string[],
  _signal?: AbortSignal,
  {
    config,
    root = kit,
    say = console.log,
  }: { config?: Config; root?: string; say?: (line: string) => void } = {},
): Promise<number> {
  const minimist = load('minimist') as typeof import('minimist')
  const unknown: string[] = []
  const words = minimist(argv, {
    boolean: ['qr'],
    string: ['endpoint', 'site', '_'],
    unknown: (word) => !word.startsWith('-') || (unknown.push(word), false),
  })
  const [verb = '', name, ...more] = words._
  const usage = 'usage: ./task peer add NAME | show NAME [--qr] [--endpoint HOST[:PORT]] | revoke NAME | list'
  const needs = { add: 1, show: 1, revoke: 1, list: 0 }[verb]
  if (needs === undefined || unknown.length > 0 || more.length > 0 || (name === undefined) === (needs === 1))
    throw new Fault(usage)
  const { loadConfig } = load('../site/config.ts') as typeof import('../site/config.ts')
  const settings = config ?? loadConfig({ root, ...(words['site'] ? { site: words['site'] as string } : {}) })
  const { env, site } = settings
  const state = join(env.FK_STATE_DIR, site.name)
  const document = join(root, 'config', 'sites', `${site.name}.yaml`)
  const store = secretStore({ dir: state, identity: env.FK_AGE_IDENTITY, say })
  const page = './task host-wireguard'

  async function hand(peer: Peer): Promise<void> {
    const endpoint = endpointOf(settings, state, words['endpoint'] as string | undefined)
    const text = clientFile(site, peer, await keysOf(store, state, peer.name), endpoint)
    if (words['endpoint']) await land(join(state, 'endpoint'), `${words['endpoint']}\n`, true)
    const file = join(state, `${peer.name}.conf`)
    await land(file, text, true)
    if (words['qr']) say(qr(text))
    say(`${peer.name} (${peer.address}) enters with ${shown(file)}, which is for you alone.`)
    say(`On this computer: sudo wg-quick up ${shown(file)}`)
    if (!words['qr']) say(`On a phone, scan: ./task peer show ${peer.name} --qr`)
  }

  if (verb === 'list') {
    const without = keyless(state, site.tunnel.peers)
    for (const peer of site.tunnel.peers)
      say(
        `${peer.address}\t${peer.name}\t${without.includes(peer.name) ? 'no keys on this computer yet' : publicHalf(state, peerKey(peer.name))}`,
      )
  } else if (verb === 'show') {
    const peer = site.tunnel.peers.find((p) => p.name === name)
    if (!peer) {
      const names = site.tunnel.peers.map((p) => p.name)
      const near = nearest(name!, names)
      throw new Fault(`there is no peer ${name}: ${names.join(', ')}`, {
        next: near ? `did you mean ${near}?` : `./task peer add ${name}`,
      })
    }
    await hand(peer)
  } else if (verb === 'add') {
    const next = withPeer(readFileSync(document, 'utf8'), site, name!)
    // Keys first: a peer in the document that has none would only stop the page.
    await hand(next.peer)
    await rewrite(document, next.text)
    say(`${name} is in ${shown(document)}. The host does not know it yet: ${page}`)
  } else {
    const text = withoutPeer(readFileSync(document, 'utf8'), site, name!)
    await rewrite(document, text)
    for (const secret of [peerKey(name!), pskKey(name!)]) await store.remove(secret)
    for (const file of [`${peerKey(name!)}.pub`, `${name}.conf`]) await rm(join(state, file), { force: true })
    say(
      `${name} is no longer in ${shown(document)}, and its keys are gone from here. It can still enter until the host is told: ${page}`,
    )
  }
  return 0
}

const shown = (path: string): string => {
  const near = relative(process.cwd(), path)
  return near.startsWith('..') ? path : near
}

/** A document of somebody else's mode, whole or not at all. */
async function rewrite(path: string, text: string): Promise<void> {
  const { mode } = statSync(path)
  await land(path, text, true)
  await chmod(path, mode & 0o777)
}
