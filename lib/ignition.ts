// The first boot of a node: which nodes a site has, and the Ignition that each of them is given.
import { createHash } from 'node:crypto'
import { existsSync, readFileSync } from 'node:fs'
import { homedir } from 'node:os'
import { join } from 'node:path'
import { formatAddress, parseNetwork } from './address.ts'
import { translate, type Ignition, type Source } from './butane.ts'
import type { Env, Pins, Site } from './config.ts'
import { makeHostKey } from './hostkey.ts'
import type { Context } from './script.ts'
import { Secret } from './secret.ts'
import { Fault } from './fault.ts'

/** One virtual machine of a site. */
export interface Node {
  name: string
  arch: 'amd64' | 'arm64'
  role: 'server' | 'agent'
  address: string
  /** The length of the prefix of its network. */
  prefix: number
  /** The host, as its nodes see it: their way out, and their name server. */
  gateway: string
  /** Follows from the names of site and node, so that the host and the node know it without asking each other. */
  mac: string
}

/**
 * The virtual machines of a site: those that it lists as nodes and not as hosts, or one that is named after the host. Empty
 * where the metal itself is the node. Addresses that the site does not say are counted from the second of nodes.network,
 * because the first is the host's.
 */
export function nodesOf(site: Site): Node[] {
  const network = site.nodes && parseNetwork(site.nodes.network)
  if (network === undefined) return []
  const address = (n: number) => formatAddress(network.family, network.first + BigInt(n))
  const listed = site.machines.filter(({ roles }) => roles.includes('node') && !roles.includes('host'))
  const [host] = site.machines.filter(({ roles }) => roles.includes('host'))
  const made = host ? [{ name: `${host.name}-node`, arch: host.arch, roles: [], address: undefined }] : []
  return (listed.length > 0 ? listed : made).map((machine, i) => ({
    name: machine.name,
    arch: machine.arch,
    role: machine.roles.some((role) => role === 'agent') ? 'agent' : 'server',
    address: machine.address ?? address(2 + i),
    prefix: network.prefix,
    gateway: address(1),
    mac: macOf(`${site.name}/${machine.name}`),
  }))
}

// 52:54:00 is what QEMU's machines begin with.
function macOf(name: string): string {
  const digest = createHash('sha256').update(`mac ${name}`).digest('hex')
  return `52:54:00:${digest.slice(0, 2)}:${digest.slice(2, 4)}:${digest.slice(4, 6)}`
}

/** The SSH host key of a node, made when it is first asked for. */
export function hostKeyOf(node: Node, secrets: Context['secrets']): Secret {
  return secrets(`${node.name}-ssh-host-key`, () => makeHostKey(node.name))
}

/**
 * The public key that an admin logs in to nodes with: the one beside FK_SSH_KEY, else the first that ssh would look for.
 * Throws Fault when there is none.
 */
export function adminKey(env: Pick<Env, 'FK_SSH_KEY'>): string {
  const key = publicKey(env)
  if (key !== undefined) return key
  throw new Fault('there is no public SSH key to put into the node', {
    said: `not there: ${publicKeys(env).join(', ')}`,
    next: 'name your key in FK_SSH_KEY, with its public half beside it: ssh-keygen -y -f KEY > KEY.pub',
  })
}

function publicKey(env: Pick<Env, 'FK_SSH_KEY'>): string | undefined {
  const found = publicKeys(env).find((path) => existsSync(path))
  return found === undefined ? undefined : readFileSync(found, 'utf8').trim()
}

function publicKeys({ FK_SSH_KEY: chosen }: Pick<Env, 'FK_SSH_KEY'>): string[] {
  const usual = ['id_ed25519', 'id_ecdsa', 'id_ed25519_sk', 'id_ecdsa_sk', 'id_rsa']
  return (chosen ? [chosen] : usual.map((name) => join(homedir(), '.ssh', name))).map((path) => `${path}.pub`)
}

// What stands for the admin's key where there is none yet, so that a rehearsal needs no key.
const noKey = `ssh-ed25519 ${Buffer.from(`\0\0\0\x0bssh-ed25519\0\0\0 ${'\0'.repeat(32)}`, 'latin1').toString('base64')} your-key`

/**
 * The Ignition of one node as a file of its host: the secret that it is, made when it is first asked for, and what a rehearsal
 * shows of it, with the name of the host key in place of the key. Throws as `ignition` does; the secret rejects with Fault when
 * there is no key of the admin.
 */
export function ignitionFile(
  context: Pick<Context, 'env' | 'site' | 'pins' | 'secrets'>,
  node: Node,
  more: Pick<Given, 'fragments' | 'values'> = {},
): { secret: Secret; shown: string } {
  const hostKey = hostKeyOf(node, context.secrets)
  const text = (given: Given): string =>
    `${JSON.stringify(ignition(context, node, { ...more, ...given }), null, 2)}\n`
  return {
    secret: new Secret(`${node.name}-ignition`, async () =>
      text({ adminKey: adminKey(context.env), hostKey: await hostKey.resolve() }),
    ),
    shown: text({ adminKey: publicKey(context.env) ?? noKey, hostKey: String(hostKey) }),
  }
}

/** What a node is given beside what the site says of it. */
export interface Given {
  /** The admin's public key. */
  adminKey: string
  /** The private host key, or in a rehearsal the name of the secret. */
  hostKey: string
  /** What other layers put on the node before its first boot: Butane documents that share no path, unit or user with ours. */
  fragments?: Source[]
  /** What `{{ name }}` stands for in these. */
  values?: Record<string, string>
}

/**
 * The Ignition of one node: config/vm/flatcar-butane.yaml filled in, and the fragments of other layers. It holds the host key, so
 * it is a secret itself. Throws ConfigError with every fault of the documents, and Fault when k3s is not pinned for the node.
 */
export function ignition(
  { site, pins }: { site: Pick<Site, 'timezone'>; pins: Pins },
  node: Node,
  { adminKey, hostKey, fragments = [], values = {} }: Given,
): Ignition {
  const url = pins['k3s']?.url[node.arch]
  const digest = pins['k3s']?.sha256?.[node.arch]
  if (url === undefined || digest === undefined)
    throw new Fault(`k3s is not pinned for ${node.arch}`, {
      next: 'give its url and sha256 in config/versions.yaml',
    })
  const file = 'config/vm/flatcar-butane.yaml'
  const text = readFileSync(join(import.meta.dirname, '..', file), 'utf8')
  return translate([{ file, text }, ...fragments], {
    values: {
      ...values,
      name: node.name,
      address: node.address,
      prefix: node.prefix,
      gateway: node.gateway,
      mac: node.mac,
      timezone: site.timezone,
      admin_key: adminKey,
      // The line that it stands in ends the last one.
      ssh_host_key: hostKey.trimEnd(),
      k3s_role: node.role,
      k3s_download: url.replace(/^https:/, ''),
      sha256_of_the_k3s_program_which_has_sixty_four_hex_letters: digest,
    },
  })
}
