// The format of site documents before (keys admin, nodes, firewall, vault, backup): how it is known, and what followed from it.
import { formatAddress, parseNetwork } from '../ground/address.ts'
import { type JsonSchema, checkDocument, describe } from '../ground/document.ts'
import { Fault } from '../ground/fault.ts'

/** A document of the old format, as far as it is read here. */
export interface Old {
  machines: {
    name: string
    roles: string[]
    os: string
    arch: string
    address?: string
    user?: string
    port?: number | string
    tunnel_address?: string
    board?: unknown
    vm?: unknown
  }[]
  admin?: { group?: string }
  tunnel?: { network?: string; address?: string; peers?: { address?: string }[] }
  nodes?: { network: string; bridge?: string; console?: boolean }
  firewall?: {
    egress?: 'open' | 'listed'
    allow?: { name: string; to: string; protocol: string; ports: number[] }[]
  }
  vault?: Record<string, unknown>
  backup?: Record<string, unknown>
  components?: Record<string, unknown>
}

const texts = { type: 'array', items: { type: 'string' } }

/** The types of what is read of it. What is wrong in another way stays as wrong as it was. */
const oldFormat: JsonSchema = {
  type: 'object',
  required: ['machines'],
  properties: {
    machines: {
      type: 'array',
      items: {
        type: 'object',
        required: ['name', 'roles', 'os', 'arch'],
        properties: {
          ...Object.fromEntries(
            ['name', 'os', 'arch', 'address', 'user', 'tunnel_address'].map((key) => [
              key,
              { type: 'string' },
            ]),
          ),
          roles: texts,
        },
      },
    },
    admin: { type: 'object', properties: { group: { type: 'string' } } },
    tunnel: {
      type: 'object',
      properties: {
        network: { type: 'string' },
        address: { type: 'string' },
        peers: { type: 'array', items: { type: 'object', properties: { address: { type: 'string' } } } },
      },
    },
    nodes: {
      type: 'object',
      required: ['network'],
      properties: { network: { type: 'string' }, bridge: { type: 'string' }, console: { type: 'boolean' } },
    },
    firewall: {
      type: 'object',
      properties: {
        egress: { enum: ['open', 'listed'] },
        allow: {
          type: 'array',
          items: {
            type: 'object',
            required: ['name', 'to', 'protocol', 'ports'],
            properties: {
              name: { type: 'string' },
              to: { type: 'string' },
              protocol: { type: 'string' },
              ports: { type: 'array', items: { type: 'integer' } },
            },
          },
        },
      },
    },
    vault: { type: 'object' },
    backup: {
      type: 'object',
      properties: Object.fromEntries(['directory', 'ssh', 's3'].map((key) => [key, { type: 'object' }])),
    },
    components: { type: 'object' },
  },
}

/**
 * The document as values where it is of the format before, else undefined. Throws a Fault with everything that keeps it from being
 * carried over: its own faults, and what it says in both formats.
 */
export function readOld(text: string, file: string): Old | undefined {
  const anything = checkDocument<Old>(file, text, {}, {}, () => [])
  refuse(file, anything.faults.map(describe))
  const found = anything.document
  if (!isOld(found)) return undefined
  refuse(file, checkDocument(file, text, oldFormat as JsonSchema, {}, () => []).faults.map(describe))
  const both = [
    ['nodes', 'networks'],
    ['firewall', 'router'],
    ['backup', 'data'],
  ].filter(([one = '', other = '']) => one in found && other in found)
  const { cni, network } = (found.components ?? {}) as Record<string, unknown>
  if (cni !== undefined && network !== undefined) both.push(['components.cni', 'components.network'])
  if (found.vault && found.machines.some((machine) => 'vault' in machine))
    both.push(['vault', 'machines[].vault'])
  refuse(
    file,
    both.map(
      ([one, other]) =>
        `  ${file}  ${one}  is of the old format, and ${other} says the same in the new one: keep one`,
    ),
  )
  return found
}

function refuse(file: string, faults: string[]): void {
  if (faults.length > 0)
    throw new Fault([`${file} cannot be carried over as it is`, ...faults].join('\n'), {
      state: 'nothing was changed',
      next: 'correct this, then run it again',
    })
}

/** Whether a document has any key or word that only the old format has. */
function isOld(found: Partial<Old>): boolean {
  if (typeof found !== 'object' || found === null) return false
  const listed: unknown[] = Array.isArray(found.machines) ? found.machines : []
  const components = (found.components ?? {}) as Record<string, unknown>
  return (
    ['admin', 'nodes', 'firewall', 'vault', 'backup'].some((key) => key in found) ||
    listed.some((machine) => {
      const { roles, port } = (machine ?? {}) as { roles?: unknown; port?: unknown }
      return (Array.isArray(roles) && roles.includes('node')) || typeof port === 'number'
    }) ||
    'cni' in components
  )
}

/** A virtual machine that follows from an old document. */
export interface Guest {
  name: string
  arch: string
  address: string
  vm: { host: string; console?: true }
  /** The document has it in its list already. */
  listed: boolean
}

/** The virtual machines that the old format meant: those listed as nodes and not as hosts, or one named after the host. */
export function guestsOf(old: Old, file: string): Guest[] {
  const range = old.nodes && parseNetwork(old.nodes.network)
  const owner = ownerOf(old)
  if (old.nodes === undefined) return []
  const listed = old.machines.filter(
    ({ roles, vm }) => roles.includes('node') && !roles.includes('host') && vm === undefined,
  )
  if (range === undefined) refuse(file, [`  ${file}  nodes.network  is no network: ${old.nodes.network}`])
  if (owner === undefined && listed.length > 0)
    refuse(file, [
      `  ${file}  nodes  has no host that could run ${listed.map(({ name }) => name).join(' and ')}`,
    ])
  if (owner === undefined || range === undefined) return []
  const [first = owner] = old.machines.filter(({ roles }) => roles.includes('host'))
  const made = [{ name: `${first.name}-node`, arch: owner.arch, address: undefined }]
  return (listed.length > 0 ? listed : made).map(({ name, arch, address }, i) => ({
    name,
    arch,
    address: address ?? formatAddress(range.family, range.first + BigInt(2 + i)),
    vm: { host: owner.name, ...(old.nodes?.console ? { console: true as const } : {}) },
    listed: listed.length > 0,
  }))
}

/** The host with the virtual machines: the one that is no node itself. */
export const ownerOf = ({ machines: all }: Old): Old['machines'][number] | undefined =>
  all.find(({ roles }) => roles.includes('host') && !roles.some((role) => role !== 'host'))
