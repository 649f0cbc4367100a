// A node that runs Talos: what it is told on its first boot, and the certificates by which it and its owner know each other.
import { spawn } from 'node:child_process'
import { createHash } from 'node:crypto'
import { createRequire } from 'node:module'
import { join } from 'node:path'
import { type Artifact, artifactOf } from '../engine/artifact.ts'
import { file } from '../engine/file.ts'
import type { Context } from '../engine/page.ts'
import type { Change } from '../engine/step.ts'
import { formatNetwork, parseNetwork } from '../ground/address.ts'
import { Fault } from '../ground/fault.ts'
import { read } from '../ground/root.ts'
import { Secret } from '../ground/secret.ts'
import { Command, library, sh } from '../ground/sh.ts'
import { placeholder } from '../host/wireguard.ts'
import { type Node, nodesOf } from '../site/machines.ts'
import type { Pins } from '../site/model.ts'
import { declaredDir } from './domain.ts'
import { imageDir } from './image.ts'

const load = createRequire(import.meta.url)
const template = 'config/vm/talos-controlplane.yaml'

/** The functions that the checks and commands about Talos share: lib/vm/talos.sh, as it stands. */
export const talosShell = library('lib/vm/talos.sh')

/** What of it is no secret, of what talosctl says about a configuration: a test of a file knows no functions. */
const names = /^talos_names\(\) \{\n *(.*)\n\}/m.exec(talosShell.text)![1]!

/** Where it is written down on the host what a node is told. */
export const machineConfigPath = (node: Pick<Node, 'name'>): string =>
  `${declaredDir}/${node.name}.talos.yaml`

/** Where talosctl finds on the host by which certificate a node knows it. */
export const clientConfigPath = (node: Pick<Node, 'name'>): string =>
  `${declaredDir}/${node.name}.talosconfig`

/** Where the host keeps the kubeconfig of the node's cluster. */
export const kubeconfigPath = (node: Pick<Node, 'name'>): string => `${declaredDir}/${node.name}.kubeconfig`

/** talosctl of the host: what is fetched, where it is kept, and where it is a program. */
export function talosctlOf(
  pins: Pins,
  { arch }: { arch: string },
): { artifact: Artifact; kept: string; path: string } {
  const artifact = artifactOf(pins, 'talosctl', arch)
  return { artifact, kept: join(imageDir, artifact.name), path: '/usr/local/sbin/talosctl' }
}

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

/** The nodes that run Talos. Throws a Fault for a site that asks of it what the template cannot. */
export function talosNodes({ env, site }: Pick<Context, 'env' | 'site'>): Node[] {
  const nodes = env.FK_NODE_OS === 'talos' ? nodesOf(site) : []
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

/** What a node is told: a secret, and what a rehearsal shows of it. */
export function machineConfigFile(
  context: Pick<Context, 'site' | 'pins' | 'secrets'>,
  node: Node,
): { secret: Secret; shown: string } {
  const bundle = bundleOf(context)
  return {
    secret: new Secret(`${node.name}-talos-config`, async () =>
      machineConfig(context, node, load('yaml').parse(await bundle.resolve()) as Bundle),
    ),
    shown: machineConfig(context, node, shown),
  }
}

/** The file of the host with what a node is told. */
export function toldFile(context: Pick<Context, 'site' | 'pins' | 'secrets'>, node: Node): Change {
  return file(machineConfigPath(node), {
    ...machineConfigFile(context, node),
    mode: '600',
    // It would show the values too, and they may be secrets.
    test: new Command(`talosctl validate --mode cloud --config "$new" 2>&1 | ${names}`, undefined, ''),
    name: `what ${node.name} becomes on its first boot is written down`,
    why: 'the authority by which it and its owner know each other comes with the first start: it never waits for whoever comes first',
  })
}

/**
 * config/vm/talos-controlplane.yaml filled in. Throws a Fault when the bundle lacks something, and TypeError when template and
 * values do not fit.
 */
export function machineConfig(
  { site, pins }: Pick<Context, 'site' | 'pins'>,
  node: Node,
  bundle: Bundle,
): string {
  const [first = node] = nodesOf(site)
  const network = parseNetwork(site.nodes?.network ?? '')
  if (network === undefined) throw new TypeError(`the site ${site.name} has no network for nodes`)
  const { cluster, secrets, trustdinfo, certs } = bundle ?? {}
  const values: Record<string, string | number | undefined> = {
    site: site.name,
    name: node.name,
    address: node.address,
    prefix: node.prefix,
    gateway: node.gateway,
    mac: node.mac,
    endpoint: first.address,
    nodes: formatNetwork(network),
    peers: site.tunnel.network,
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
export function clientConfig(context: Pick<Context, 'site' | 'pins' | 'secrets'>, node: Node): Secret {
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

/** The file of the host by which a node knows it; it is made anew a month before its certificate ends. */
export function clientFile(context: Pick<Context, 'site' | 'pins' | 'secrets'>, node: Node): Change {
  const path = clientConfigPath(node)
  const change = file(path, {
    secret: clientConfig(context, node),
    mode: '600',
    name: `the host has the certificate by which ${node.name} knows it`,
    why: 'the authorities of both were made on the laptop before there was a node: nobody can stand in between, not even the first time',
  })
  // Its only line with this key.
  const good = sh`awk '$1 == "crt:" { print $2 }' ${path} | base64 --decode | openssl x509 -noout -checkend ${30 * 86400} > /dev/null`
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

/** talosctl of the laptop. What it writes is secret and goes nowhere else; of what it says, the last line is told. */
function talosctl(pins: Pins, args: string[], input = ''): Promise<string> {
  // It opens /dev/stdin, which it can when that is a pipe; Node gives its children a socket.
  const script = 'command -v talosctl > /dev/null || exit 127; cat | talosctl "$@"'
  const child = spawn('/bin/sh', ['-c', script, 'talosctl', ...args], { stdio: 'pipe' })
  const out: Buffer[] = []
  let said = ''
  child.stdout.on('data', (chunk: Buffer) => out.push(chunk))
  child.stderr.setEncoding('utf8').on('data', (text: string) => (said += text))
  child.stdin.on('error', () => {}) // it ended before it had read everything; the exit code says why
  child.stdin.end(input)
  const ran = `talosctl ${args.slice(0, 2).join(' ')}`
  return new Promise((resolve, reject) => {
    child.on('error', reject)
    child.on('close', (status) => {
      if (status === 0) resolve(Buffer.concat(out).toString('utf8'))
      else if (status === 127)
        reject(
          new Fault('talosctl is not on this laptop, and it makes the secrets of Talos', {
            state: 'nothing was changed',
            next: talosctlHelp(pins),
          }),
        )
      else reject(new Fault(`${ran} failed`, { said: said.trim().split('\n').at(-1) ?? '' }))
    })
  })
}
