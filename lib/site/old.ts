// The format of site documents before (keys admin, nodes, firewall, vault, backup): how it is known, and what followed from it.
import { formatAddress, parseNetwork } from '../ground/address.ts'
import {
  type Diagnostic,
  type JsonSchema,
  type Problem,
  checkDocument,
  describe,
} from '../ground/document.ts'
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
 * The document as values where it is of the format before, else undefined. Throws a Fault with everything that keeps it from
 * being carried over: its own faults, what it says in both formats, and what the new one cannot say.
 */
export function readOld(text: string, file: string): Old | undefined {
  refuse(file, checkDocument(file, text, {}, {}, () => []).faults)
  const { document, faults } = checkDocument<Old>(file, text, oldFormat, {}, (found) =>
    problems(found as Old),
  )
  if (!isOld(document)) return undefined
  refuse(file, faults)
  return document
}

function refuse(file: string, faults: Diagnostic[]): void {
  if (faults.length > 0)
    throw new Fault([`${file} cannot be carried over as it is`, ...faults.map(describe)].join('\n'), {
      state: 'nothing was changed',
      next: 'correct this, then run it again',
    })
}

/** What keeps a document from being carried over. */
function* problems(old: Old): Generator<Problem> {
  const { machines = [], nodes, firewall, components = {} } = old
  const pairs = [
    ['nodes', 'networks', 'nodes' in old && 'networks' in old],
    ['firewall', 'router', 'firewall' in old && 'router' in old],
    ['backup', 'data', 'backup' in old && 'data' in old],
    ['vault', 'machines[].vault', 'vault' in old && machines.some((machine) => 'vault' in machine)],
    ['components.cni', 'components.network', 'cni' in components && 'network' in components],
  ] as const
  for (const [path, other, both] of pairs)
    if (both)
      yield {
        path: path.split('.'),
        reason: `is of the old format, and ${other} says the same in the new one: keep one`,
        atKey: true,
      }
  for (const [i, { to }] of (firewall?.allow ?? []).entries())
    if (to?.includes(':'))
      yield {
        path: ['firewall', 'allow', i, 'to'],
        reason: 'is an IPv6 address, and router.allow cannot name one yet',
      }
  if (nodes?.network === undefined) return
  if (parseNetwork(nodes.network) === undefined)
    yield { path: ['nodes', 'network'], reason: 'is no network such as 10.77.0.0/24' }
  const owners = machines.filter(isOwner).map(({ name }) => name)
  const listed = machines.filter(isListed).map(({ name }) => name)
  if (owners.length > 1)
    yield { path: ['nodes'], atKey: true, reason: `is of one host, and ${owners.join(' and ')} could be it` }
  if (owners.length === 0 && listed.length > 0)
    yield { path: ['nodes'], atKey: true, reason: `has no host that could run ${listed.join(' and ')}` }
}

/** A host with virtual machines is no node itself; a virtual machine is a node and no host. */
const isOwner = ({ roles }: Old['machines'][number]): boolean =>
  roles?.includes('host') && !roles.some((role) => role !== 'host')
const isListed = ({ roles, vm }: Old['machines'][number]): boolean =>
  roles?.includes('node') && !roles.includes('host') && vm === undefined

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
export function guestsOf(old: Old): Guest[] {
  const range = old.nodes && parseNetwork(old.nodes.network)
  const owner = ownerOf(old)
  if (owner === undefined || range === undefined) return []
  const listed = old.machines.filter(isListed)
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

/** The host with the virtual machines. */
export const ownerOf = ({ machines }: Old): Old['machines'][number] | undefined => machines.find(isOwner)
