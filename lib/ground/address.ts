// Addresses: IPv4 and IPv6 networks.
import { isIPv6 } from 'node:net'

/** An IP network: its family, its first and last address as integers, and its prefix length. */
export interface Network {
  family: 4 | 6
  first: bigint
  last: bigint
  prefix: number
}

const octet = /^(0|[1-9][0-9]?|1[0-9][0-9]|2[0-4][0-9]|25[0-5])$/

function parse4(text: string): bigint | undefined {
  const parts = text.split('.')
  if (parts.length !== 4 || !parts.every((part) => octet.test(part))) return undefined
  return parts.reduce((sum, part) => (sum << 8n) + BigInt(part), 0n)
}

function parse6(text: string): bigint | undefined {
  if (!isIPv6(text) || text.includes('%')) return undefined
  // An IPv4 tail (::ffff:192.0.2.1) is two more groups.
  const plain = text.replace(/[^:]+\.[^:]+$/, (tail) => {
    const value = parse4(tail) ?? 0n
    return `${(value >> 16n).toString(16)}:${(value & 0xffffn).toString(16)}`
  })
  const [head = '', tail] = plain.split('::')
  const left = head === '' ? [] : head.split(':')
  const right = tail === undefined || tail === '' ? [] : tail.split(':')
  const groups = [...left, ...Array<string>(8 - left.length - right.length).fill('0'), ...right]
  return groups.reduce((sum, group) => (sum << 16n) + BigInt(`0x${group}`), 0n)
}

/** The integer value of an address and its family; undefined for anything else (no leading zeros, no prefix). */
export function parseAddress(text: string): { family: 4 | 6; value: bigint } | undefined {
  const four = parse4(text)
  if (four !== undefined) return { family: 4, value: four }
  const six = parse6(text)
  return six === undefined ? undefined : { family: 6, value: six }
}

/** An address as text; IPv6 in eight plain groups, shortened at the longest run of zeros. */
export function formatAddress(family: 4 | 6, value: bigint): string {
  if (family === 4) return [24n, 16n, 8n, 0n].map((shift) => (value >> shift) & 0xffn).join('.')
  const groups = Array.from({ length: 8 }, (_, i) => ((value >> BigInt(112 - 16 * i)) & 0xffffn).toString(16))
  const runs = groups.join(':').match(/(?:^|(?<=:))0(?::0)+(?=:|$)/g) ?? []
  const longest = runs.reduce((best, run) => (run.length > best.length ? run : best), '')
  if (longest === '') return groups.join(':')
  return groups.join(':').replace(new RegExp(`(^|:)${longest}(:|$)`), '::')
}

/** The network a CIDR text names, with host bits cleared; undefined when it is none. */
export function parseNetwork(text: string): Network | undefined {
  const [address = '', length, ...rest] = text.split('/')
  if (length === undefined || rest.length > 0 || !/^(0|[1-9][0-9]{0,2})$/.test(length)) return undefined
  const parsed = parseAddress(address)
  if (parsed === undefined) return undefined
  const bits = parsed.family === 4 ? 32 : 128
  const prefix = Number(length)
  if (prefix > bits) return undefined
  const size = 1n << BigInt(bits - prefix)
  const first = parsed.value - (parsed.value % size)
  return { family: parsed.family, first, last: first + size - 1n, prefix }
}

/** The CIDR text of a network. */
export function formatNetwork(network: Network): string {
  return `${formatAddress(network.family, network.first)}/${network.prefix}`
}

/** Whether the address (text) lies in the network; false for what is no address. */
export function contains(network: Network, address: string): boolean {
  const parsed = parseAddress(address)
  return (
    parsed !== undefined &&
    parsed.family === network.family &&
    parsed.value >= network.first &&
    parsed.value <= network.last
  )
}

/** Whether two networks share an address. */
export function overlap(a: Network, b: Network): boolean {
  return a.family === b.family && a.first <= b.last && b.first <= a.last
}

/** The lowest address of a network that is not taken, counted from its `from`th on; undefined where there is none. */
export function lowestFree(
  network: Network,
  taken: Iterable<string | undefined>,
  from = 1,
): string | undefined {
  const used = new Set(taken)
  // The last address of an IPv4 network is for no machine.
  for (let next = network.first + BigInt(from); next < network.last; next += 1n) {
    const address = formatAddress(network.family, next)
    if (!used.has(address)) return address
  }
  return undefined
}
