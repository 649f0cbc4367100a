// Names of machines: what is a host name, and the [user@]host[:port] by which somebody reaches one.
import { isIPv6 } from 'node:net'
import { parseAddress } from './address.ts'

/** What FK_HOST names. `port` and `user` are absent when ssh is to choose them. */
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
  if (parts[2] === undefined ? parseAddress(host)?.family !== 4 && !isHostName(host) : !isIPv6(host)) {
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
