// Addresses: IPv4 and IPv6 networks, and the [user@]host[:port] of a machine.
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

/** What FK_HOST names. `port` and `user` are absent when ssh is to choose them. */
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

export type HostAddress =
  { kind: 'local' } | { kind: 'lab' } | { kind: 'ssh'; user?: string; host: string; port?: number }

const label = /^[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?$/i

/** Whether the text is a host name or an ssh alias: labels of letters, digits, - and _, at most 253 characters. */
export function isHostName(text: string): boolean {
  const labels = text.replace(/\.$/, '').split('.')
  // All digits and dots is a mistyped IPv4 address, not a name.
  return text.length <= 253 && labels.every((part) => label.test(part)) && !/^[0-9.]+$/.test(text)
}

/**
 * Reads `local`, `lab` or `[user@]host[:port]` (IPv6 in brackets).
 * Gives the reason, and the spelling that was probably meant, when it is none of these.
 */
export function parseHost(text: string): HostAddress | { reason: string; suggestion?: string } {
  if (text === 'local' || text === 'lab') return { kind: text }
  if (text === '') return { reason: 'must not be empty' }
  const word = text.toLowerCase()
  if (word === 'local' || word === 'lab') return { reason: 'must be in lower case', suggestion: word }
  if (word === 'rehearsal') return { reason: 'is not a machine: leave FK_HOST unset for a rehearsal' }
  const url = /^ssh:\/\/([^/]*)\/?$/i.exec(text)
  if (url) {
    const inner = parseHost(url[1]!)
    return 'reason' in inner
      ? inner
      : { reason: 'must be [user@]host[:port], not a URL', suggestion: url[1]! }
  }
  const form = 'must be local, lab or [user@]host[:port]'
  if (/[\s/]/.test(text)) return { reason: form }
  const at = text.lastIndexOf('@')
  const user = at < 0 ? undefined : text.slice(0, at)
  const place = text.slice(at + 1)
  if (user !== undefined && user.includes(':'))
    return { reason: 'must not hold a password: use a key (FK_SSH_KEY) or your ssh agent' }
  if (user !== undefined && !/^[a-z_][a-z0-9_.-]{0,31}$/i.test(user))
    return { reason: `${form}; the user before @ is not a login name` }
  if (isIPv6(place))
    return {
      reason: 'needs brackets around an IPv6 address',
      suggestion: `${text.slice(0, at + 1)}[${place}]`,
    }
  const parts = /^(\[([^\]]*)\]|[^:[\]]*)(?::(.*))?$/.exec(place)
  if (!parts) return { reason: form }
  const host = parts[2] ?? parts[1]!
  if (parts[2] === undefined ? !parse4(host) && !isHostName(host) : !isIPv6(host)) {
    if (parts[2] !== undefined) return { reason: 'must hold an IPv6 address in the brackets' }
    if (/^[0-9.]+$/.test(host)) return { reason: 'holds something like an IPv4 address that is none' }
    return { reason: `${form}; the host is not a host name` }
  }
  const port = parts[3]
  if (port !== undefined && !(/^[1-9][0-9]{0,4}$/.test(port) && Number(port) <= 65535))
    return { reason: 'must have a port of 1 to 65535 after the colon' }
  return {
    kind: 'ssh',
    host,
    ...(user === undefined ? {} : { user }),
    ...(port === undefined ? {} : { port: Number(port) }),
  }
}
