// Nodes whose pods will have Cilium for a network, and a laptop that reaches them at an address of the tunnel: as a page finds them.
import { execFileSync, spawnSync } from 'node:child_process'
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { parseDocument } from 'yaml'
import { ciliumChart, ciliumImages, ciliumOverlay, gatewayCrds } from './cilium.ts'
import { type PodFleet, podFleet } from './kit.ts'
import { dns } from './manifests.ts'

/** Where this computer stands for machines of the lab. */
export const gateway = '10.78.0.1'

export interface Tunneled extends PodFleet {
  /** Runs `./task …`, which must end with 0. Returns what it said. */
  run(...words: string[]): Promise<string>
}

interface Wanted {
  /** Changes the site document further. */
  site?: (site: Record<string, unknown>) => void
  /** What else comes before k3s. */
  prepare?: (cluster: PodFleet) => Promise<void>
  /** Archives of further images. */
  images?: string[]
}

/** Nodes with Kubernetes, by 20-k3s-server, and 21-k3s-join where there are agents: as `neighbours` makes them. */
export async function tunneled(
  prefix: string,
  roles: ('server' | 'agent')[],
  tunnel: number,
  more: Wanted = {},
): Promise<Tunneled> {
  const cluster = await neighbours(prefix, roles, tunnel, more)
  try {
    await cluster.run('k3s-server', 'apply')
    if (roles.includes('agent')) await cluster.run('k3s-join', 'apply')
  } catch (error) {
    await cluster.end()
    throw error
  }
  return cluster
}

/**
 * Machines for Kubernetes, without it. The laptop is this computer: `tunnel` is the second byte of its address, which tells tests
 * apart that run at the same time. No tunnel is needed to get there: they are neighbours.
 */
export async function neighbours(
  prefix: string,
  roles: ('server' | 'agent')[],
  tunnel: number,
  more: Wanted = {},
): Promise<Tunneled> {
  const chart = ciliumChart()
  const cluster = await podFleet(prefix, roles, {
    more: [...(await ciliumImages(imagesOf(chart.file))), ...(more.images ?? [])],
    deploys: dns,
  })
  const at = (host: number) => `10.${tunnel}.0.${host}`
  const [first = ''] = cluster.names
  const end = async () => {
    spawnSync('ip', ['route', 'delete', `${at(1)}/32`])
    spawnSync('ip', ['address', 'delete', `${at(2)}/32`, 'dev', 'lo'])
    await cluster.end()
  }
  try {
    pinChart(cluster, 'cilium', chart.version, readFileSync(chart.file))
    writeFileSync(
      join(cluster.state, 'downloads', `gateway-api-${gatewayCrds().version}.yaml`),
      gatewayCrds().text,
    )
    // The one line of values that differs: the kernel that nodes of the lab share has no WireGuard.
    const own = join(cluster.copy.dir, 'config/components/cilium/values.yaml')
    const document = parseDocument(readFileSync(own, 'utf8'))
    document.setIn(['encryption', 'enabled'], ciliumOverlay.encryption.enabled)
    writeFileSync(own, document.toString())
    cluster.site((site) => {
      describeSite(site, roles, first, at)
      more.site?.(site)
    })
    await cluster.on(first, `ip address add ${at(1)}/32 dev lo`)
    for (const name of cluster.names) await cluster.on(name, `ip route add ${at(2)}/32 via ${gateway}`)
    execFileSync('ip', ['address', 'replace', `${at(2)}/32`, 'dev', 'lo'])
    const { host } = cluster.machineOf(first)
    execFileSync('ip', ['route', 'replace', `${at(1)}/32`, 'via', host, 'src', at(2)])
    const run = async (...words: string[]) => {
      const { code, text } = await cluster.task(...words)
      if (code !== 0) throw new Error(`${text}\n${await stateOf(cluster)}`)
      return text
    }
    await more.prepare?.(cluster)
    return { ...cluster, run, end }
  } catch (error) {
    await end()
    throw error
  }
}

/** The image lines of Cilium's chart with our values. */
function imagesOf(chart: string): string[] {
  const values = join(import.meta.dirname, '../../config/components/cilium/values.yaml')
  const rendered = execFileSync('helm', ['template', 'cilium', chart, '--values', values], {
    encoding: 'utf8',
  })
  return [...rendered.matchAll(/^\s*image: "?([^"\s]+)"?$/gm)].map(([, name]) => name!)
}

/** Pins a chart in the checkout, and lays it where its download would be. */
export function pinChart(cluster: PodFleet, name: string, version: string, bytes: Buffer): void {
  const downloads = join(cluster.state, 'downloads')
  mkdirSync(downloads, { recursive: true })
  cluster.copy.pin(name, bytes)
  writeFileSync(join(downloads, `${name}-${version}.tgz`), bytes)
}

/** A site with a tunnel, whose first machine is its router. */
function describeSite(
  site: Record<string, unknown>,
  roles: string[],
  first: string,
  at: (host: number) => string,
): void {
  if (roles.length > 1) site['accepted'] = [{ what: first, why: 'the lab is small', until: '2099-12-31' }]
  site['tunnel'] = { network: at(0) + '/24', peers: [{ name: 'laptop', address: at(2) }] }
  site['router'] = {
    kind: 'host',
    at: first,
    allow: [
      { from: 'tunnel', to: 'router', ports: ['tcp/22', 'tcp/6443'], why: 'administration' },
      { from: gateway, to: 'nodes', ports: ['tcp/22'], why: 'the computer that runs this test' },
      { from: 'router', to: ['internet', 'upstream'], ports: 'any', why: 'images' },
    ],
    never: [],
  }
  for (const [i, machine] of (site['machines'] as Record<string, unknown>[]).entries())
    if (i > 0) machine['tunnel_address'] = at(10 + i)
}

/** What systemd and the journals of the nodes say of k3s, for who reads why a page has failed. */
async function stateOf(cluster: PodFleet): Promise<string> {
  const ask = 'systemctl status k3s.service --no-pager --lines=40 || true'
  const said = cluster.names.map(async (name) => `${name}: ${await cluster.on(name, ask)}`)
  return (await Promise.allSettled(said))
    .map((one) => (one.status === 'fulfilled' ? one.value : String(one.reason)))
    .join('\n')
}
