// A node that runs Talos: hides how its machine configuration and the certificates of both sides are made, on the laptop.
import { createHash } from 'node:crypto'
import { createRequire } from 'node:module'
import { file } from '../engine/file.ts'
import type { Context } from '../engine/page.ts'
import type { Change } from '../engine/step.ts'
import { formatNetwork, parseNetwork } from '../ground/address.ts'
import { Fault } from '../ground/fault.ts'
import { placeholder } from '../ground/keys.ts'
import { read } from '../ground/root.ts'
import { Secret } from '../ground/secret.ts'
import { Command, sh } from '../ground/sh.ts'
import { apiOf } from '../site/cluster.ts'
import { type Guest, guestsOf, networkOf } from '../site/machines.ts'
import type { Pins } from '../site/model.ts'
import { declaredDir } from './domain.ts'

const load = createRequire(import.meta.url)
const template = 'config/vm/talos-controlplane.yaml'

/** What is no secret in what talosctl prints about a configuration: its first line, the faults it lists, the names of keys. */
export const configNames = sh`sed --quiet --expression='1p' \
  --expression='2,$s/^\([[:space:]-]*[A-Za-z0-9_./-]*:\).*/\1/p' --expression='2,$s/^[[:space:]]*\* //p'`

/** The machine configuration of a node, on its host. */
export const machineConfigPath = (node: Pick<Guest, 'name'>): string =>
  `${declaredDir}/${node.name}.talos.yaml`

/** The talosconfig of a node, on its host: the certificate by which talosctl is let in. */
export const clientConfigPath = (node: Pick<Guest, 'name'>): string =>
  `${declaredDir}/${node.name}.talosconfig`

/** Where the host keeps the kubeconfig of the node's cluster. */
export const kubeconfigPath = (node: Pick<Guest, 'name'>): string => `${declaredDir}/${node.name}.kubeconfig`

/** The version of Talos that is pinned. */
export const talosVersion = (pins: Pins): string => pins['talos']?.version ?? ''

/**
 * The image by which Talos replaces itself, of the same schematic as the disk's: its number is the digest of
 * config/vm/talos-schematic.yaml (https://docs.siderolabs.com/talos/v1.14/learn-more/image-factory).
 */
export function installerOf(pins: Pins): string {
  const schematic = createHash('sha256').update(read('config/vm/talos-schematic.yaml')).digest('hex')
  return `factory.talos.dev/nocloud-installer/${schematic}:${talosVersion(pins)}`
}

/** The virtual machines of a host that run Talos. Throws a Fault for a site that asks of it what the template cannot. */
export function talosNodes({ site, machine }: Pick<Context, 'site' | 'machine'>): Guest[] {
  const nodes = guestsOf(site, machine.name).filter(({ os }) => os === 'talos')
  const agent = nodes.find(({ role }) => role === 'agent')
  if (agent)
    throw new Fault(`${agent.name} is an agent, and ${template} describes servers`, {
      next: `take the role agent from it in config/sites/${site.name}.yaml`,
    })
  return nodes
}

interface Pair {
  crt: string
  key: string
}

/** What `talosctl gen secrets` writes: every authority of a cluster, and what its machines prove themselves with. */
export interface Bundle {
  cluster: { id: string; secret: string }
  secrets: { bootstraptoken: string; secretboxencryptionsecret: string }
  trustdinfo: { token: string }
  certs: { os: Pair; etcd: Pair; k8s: Pair; k8saggregator: Pair; k8sserviceaccount: { key: string } }
}

/** The bundle of a cluster, made by talosctl on the laptop when it is first asked for. */
export function bundleOf({ pins, secrets }: Pick<Context, 'pins' | 'secrets'>): Secret {
  const minor = talosVersion(pins).replace(/\.\d+$/, '')
  return secrets('talos-secrets', () =>
    talosctl(pins, ['gen', 'secrets', '--talos-version', minor, '--output-file', '-']),
  )
}

/** What stands for the secrets in a rehearsal: their names, in letters that are good base64. */
const shown: Bundle = (() => {
  const of = (name: string) => placeholder(`talos/${name}`)
  const pair = (name: string) => ({ crt: of(`${name}/crt`), key: of(`${name}/key`) })
  return {
    cluster: { id: of('cluster/id'), secret: of('cluster/secret') },
    secrets: { bootstraptoken: of('bootstrap/token'), secretboxencryptionsecret: of('secretbox') },
    trustdinfo: { token: of('machine/token') },
    certs: {
      os: pair('os'),
      etcd: pair('etcd'),
      k8s: pair('k8s'),
      k8saggregator: pair('aggregator'),
      k8sserviceaccount: { key: of('service/account') },
    },
  }
})()

/** The machine configuration of a node: a secret, and what a rehearsal shows of it. */
export function machineConfigFile(
  context: Pick<Context, 'site' | 'pins' | 'secrets'>,
  node: Guest,
): { secret: Secret; shown: string } {
  const bundle = bundleOf(context)
  return {
    secret: new Secret(`${node.name}-talos-config`, async () =>
      machineConfig(context, node, load('yaml').parse(await bundle.resolve()) as Bundle),
    ),
    shown: machineConfig(context, node, shown),
  }
}

/** The step that writes the machine configuration of a node on its host. */
export function machineConfigStep(context: Pick<Context, 'site' | 'pins' | 'secrets'>, node: Guest): Change {
  return file(machineConfigPath(node), {
    ...machineConfigFile(context, node),
    mode: '600',
    // It would show the values too, and they may be secrets.
    test: new Command(
      `talosctl validate --mode cloud --config "$new" 2>&1 | ${configNames.text}`,
      undefined,
      '',
    ),
    name: `the Talos machine configuration of ${node.name} is written`,
    why: 'it has the authority of both sides from the first boot: the node never waits for whoever comes first',
  })
}

/**
 * config/vm/talos-controlplane.yaml filled in. Throws a Fault when the bundle lacks something, and TypeError when template and
 * values do not fit.
 */
export function machineConfig(
  { site, pins }: Pick<Context, 'site' | 'pins'>,
  node: Guest,
  bundle: Bundle,
): string {
  const network = parseNetwork(networkOf(site, node.address)?.network ?? '')
  if (network === undefined) throw new TypeError(`the site ${site.name} has no network for ${node.name}`)
  const { cluster, secrets, trustdinfo, certs } = bundle ?? {}
  const values: Record<string, string | number | undefined> = {
    site: site.name,
    name: node.name,
    address: node.address,
    prefix: node.prefix,
    gateway: node.gateway,
    mac: node.mac,
    endpoint: apiOf(site).join ?? node.address,
    nodes: formatNetwork(network),
    peers: site.tunnel.network,
    pods: site.cluster.pods,
    services: site.cluster.services,
    installer: installerOf(pins),
    // The same Kubernetes as k3s: everything above is tested with it.
    kubernetes: pins['k3s']?.version.replace(/\+.*/, ''),
    machine_token: trustdinfo?.token,
    machine_ca: certs?.os?.crt,
    machine_ca_key: certs?.os?.key,
    cluster_id: cluster?.id,
    cluster_secret: cluster?.secret,
    bootstrap_token: secrets?.bootstraptoken,
    secretbox: secrets?.secretboxencryptionsecret,
    cluster_ca: certs?.k8s?.crt,
    cluster_ca_key: certs?.k8s?.key,
    aggregator_ca: certs?.k8saggregator?.crt,
    aggregator_ca_key: certs?.k8saggregator?.key,
    service_account_key: certs?.k8sserviceaccount?.key,
    etcd_ca: certs?.etcd?.crt,
    etcd_ca_key: certs?.etcd?.key,
  }
  return read(template).replaceAll(/\{\{ ([a-z0-9_]+) \}\}/g, (_, name: string) => {
    if (!Object.hasOwn(values, name))
      throw new TypeError(`${template} asks for {{ ${name} }}, which has no value`)
    const value = values[name]
    if (value === undefined)
      throw new Fault(`the secrets of Talos are not complete: ${name} is missing`, {
        next: 'restore talos-secrets.age of the state directory from your backup; it is never replaced by itself',
      })
    // Between single quotes of YAML, where nothing but a quote means anything.
    return String(value).replaceAll("'", "''")
  })
}

/** What talosctl needs to be known to a node: an admin's certificate, made of the bundle, good for a year. */
export function clientConfig(context: Pick<Context, 'site' | 'pins' | 'secrets'>, node: Guest): Secret {
  const bundle = bundleOf(context)
  return new Secret(`${node.name}-talosconfig`, async () => {
    const options = '--with-secrets /dev/stdin --output-types talosconfig --output -'.split(' ')
    const args = ['gen', 'config', context.site.name, `https://${node.address}:6443`, ...options]
    const made = await talosctl(context.pins, args, await bundle.resolve())
    const { parse, stringify } = load('yaml') as typeof import('yaml')
    const config = parse(made) as { contexts: Record<string, object> }
    for (const one of Object.values(config.contexts))
      Object.assign(one, { endpoints: [node.address], nodes: [node.address] })
    return stringify(config, { lineWidth: 0 })
  })
}

/** The step that writes the talosconfig of a node on its host, and again a month before its certificate ends. */
export function clientFile(context: Pick<Context, 'site' | 'pins' | 'secrets'>, node: Guest): Change {
  const path = clientConfigPath(node)
  const change = file(path, {
    secret: clientConfig(context, node),
    mode: '600',
    name: `the talosconfig of ${node.name} is on the host, and its certificate is valid for a month`,
    why: 'both authorities were made on the laptop before there was a node: nobody can stand in between, not even the first time',
  })
  // Its only line with this key.
  const good = sh`awk '$1 == "crt:" { print $2 }' ${path} | base64 --decode |
    openssl x509 -noout -checkend ${30 * 86400} > /dev/null`
  return { ...change, check: sh`${change.check} && ${good}` }
}

/** How somebody gets talosctl onto the laptop. */
export function talosctlHelp(pins: Pins): string {
  const pin = pins['talosctl']
  const arch = process.arch === 'arm64' ? 'arm64' : 'amd64'
  const ours = process.platform === 'linux' ? pin?.url[arch] : undefined
  return ours === undefined
    ? `install talosctl ${pin?.version}: https://github.com/siderolabs/talos/releases`
    : `install ${ours} as talosctl, when sha256sum says ${pin?.sha256?.[arch]}`
}

/** talosctl of the laptop. What it writes is secret and goes nowhere else; of what it prints, the last line is shown. */
async function talosctl(pins: Pins, args: string[], input = ''): Promise<string> {
  const { $, which } = load('../ground/laptop.ts') as typeof import('../ground/laptop.ts')
  if (which('talosctl') === undefined)
    throw new Fault('talosctl is not on this laptop, and it makes the secrets of Talos', {
      state: 'nothing was changed',
      next: talosctlHelp(pins),
    })
  // It opens /dev/stdin, which is a socket without the cat; whether it reads all of it is its own matter.
  const { exitCode, stdout, stderr } = await $({
    nothrow: true,
    input,
  })`{ cat || true; } | talosctl ${args}`
  if (exitCode === 0) return stdout
  throw new Fault(`talosctl ${args.slice(0, 2).join(' ')} failed`, {
    said: stderr.trim().split('\n').at(-1) ?? '',
  })
}
