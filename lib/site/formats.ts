// The formats that the schemas name: what is wrong with a text, and how it is most likely meant.
import { createRequire } from 'node:module'
import { type Network, formatNetwork, parseAddress, parseNetwork } from '../ground/address.ts'
import { isHostName, parseHost } from '../ground/hostname.ts'
import { type Format, type Problem, show } from '../ground/document.ts'
import { nearest } from '../ground/nearest.ts'

const load = createRequire(import.meta.url)

/** The formats that the schemas name. */
export const formats: Record<string, Format> = {
  'fk-host': (text) => {
    const host = parseHost(text)
    return 'reason' in host ? host : undefined
  },

  ipv4: (text) => {
    if (parseAddress(text)?.family === 4) return undefined
    const [address = ''] = text.split('/')
    if (address !== text && parseAddress(address)?.family === 4)
      return { reason: 'is one address, without a prefix length', suggestion: address }
    const bare = address.replace(/\b0+(?=[0-9])/g, '')
    if (bare !== address && parseAddress(bare)?.family === 4)
      return { reason: 'has leading zeros, which some programs read as octal', suggestion: bare }
    return { reason: `must be an IPv4 address such as 10.66.0.1, is ${show(text)}` }
  },

  network: (text) => {
    const network = parseNetwork(text)
    if (network?.family === 4) return networkReason(text, network)
    if (parseAddress(text)?.family === 4) {
      const suggestion = ['24', '16', '8'].map((prefix) => `${text}/${prefix}`).find(hasNoHostBits)
      return { reason: 'has no prefix length', suggestion }
    }
    const [address, mask = ''] = text.split('/')
    const bits = parseAddress(mask)?.value.toString(2) ?? ''
    const meant =
      /^1+0*$/.test(bits) && bits.length === 32 && parseNetwork(`${address}/${bits.lastIndexOf('1') + 1}`)
    if (meant)
      return { reason: 'has a netmask in place of a prefix length', suggestion: formatNetwork(meant) }
    return { reason: `must be an IPv4 network such as 10.66.0.0/24, is ${show(text)}` }
  },

  range: (text) => {
    const [from = '', to = '', ...rest] = text.split('-').map((end) => end.trim())
    const [first, last] = [parseAddress(from), parseAddress(to)]
    if (first?.family !== 4 || last?.family !== 4 || rest.length > 0)
      return { reason: `must be FIRST-LAST, such as 10.77.0.240-10.77.0.249, is ${show(text)}` }
    if (first.value > last.value) return { reason: 'ends before it begins', suggestion: `${to}-${from}` }
    return text === `${from}-${to}` ? undefined : { reason: 'has spaces', suggestion: `${from}-${to}` }
  },

  host: (text) => {
    if (parseAddress(text) !== undefined || isHostName(text)) return undefined
    const at = text.lastIndexOf('@')
    if (at >= 0)
      return { reason: 'is the address only; the login name goes to user', suggestion: text.slice(at + 1) }
    return { reason: `must be an IP address or a host name, is ${show(text)}` }
  },

  timezone: (text) => {
    const names = ['UTC', 'Etc/UTC', ...Intl.supportedValuesOf('timeZone')]
    if (names.includes(text)) return undefined
    const same = names.find((name) => name.toLowerCase() === text.toLowerCase())
    if (same === undefined && isZoneAlias(text)) return undefined
    const city = (name: string): string => name.slice(name.lastIndexOf('/') + 1)
    const nearestCity = nearest(text, names.map(city))
    const suggestion = same ?? nearest(text, names) ?? names.find((name) => city(name) === nearestCity)
    return { reason: `must be a time zone such as Europe/Berlin, is ${show(text)}`, suggestion }
  },

  disk: (text) => {
    if (text === '' || /^\/dev\/disk\/by-id\/(?!\.)[A-Za-z0-9#+.:=@_\\-]+$/.test(text)) return undefined
    if (/^\/dev\/(sd|nvme|vd|mmcblk)/.test(text))
      return {
        reason:
          'is a name that another disk can have after the next boot: use its /dev/disk/by-id/ path (ls -l /dev/disk/by-id)',
      }
    return { reason: `must be a /dev/disk/by-id/ path, or empty, is ${show(text)}` }
  },

  calendar: (text) => {
    const reason = calendarReason(text)
    if (reason === undefined) return undefined
    const word = /^[a-z]+$/i.test(text) ? nearest(text, calendarWords) : undefined
    if (word !== undefined) return { reason: 'is no calendar event of systemd', suggestion: word }
    if (/^((\*|@)\/\S+|(\S+\s+){4}\S+)$/.test(text) && !text.includes(':'))
      return { reason: `is written for cron; systemd says it as *-*-* 03:17:00, is ${show(text)}` }
    return { reason: `${reason}, is ${show(text)}` }
  },

  recipient: (text) => {
    if (/^AGE-SECRET-KEY-/i.test(text))
      return { reason: 'is an identity, which opens everything: give its public key, and keep it elsewhere' }
    const small = text.toLowerCase()
    if (small !== text && bech32(small))
      return { reason: 'is in capitals, which age does not take', suggestion: small }
    const { prefix, bytes } = bech32(text) ?? {}
    // X25519, or X25519 with ML-KEM-768: one that age would refuse breaks every backup from then on.
    const size = { age: 32, age1pq: 1216 }[prefix ?? '']
    if (size !== undefined && bytes?.length === size) return undefined
    if (/^age1[a-z0-9]+$/.test(text) && prefix === undefined)
      return {
        reason: `has a letter too many, too few or wrong in it: its checksum does not fit. Copy ${show(text)} again`,
      }
    if (prefix !== undefined && /^age1./.test(prefix))
      return {
        reason: `is of the plug-in ${prefix.slice(4)}, which the node that makes backups does not have`,
      }
    return { reason: `must be an age recipient such as age1…, as age-keygen shows it, is ${show(text)}` }
  },

  endpoint: (text) => {
    // Requests are signed, but not encrypted; that is borne only where nobody else listens.
    if (/^http:\/\//i.test(text) && !/^http:\/\/(127\.|localhost\b|\[::1\])/i.test(text))
      return { reason: 'must be https', suggestion: `https${text.slice(4)}` }
    if (
      /^https?:\/\/[a-z0-9.-]+(:[0-9]+)?$/i.test(text) ||
      /^https?:\/\/\[[0-9a-f:]+\](:[0-9]+)?$/i.test(text)
    )
      return undefined
    const bare = /^(https?:\/\/[^/]+)\/$/.exec(text)?.[1]
    if (bare !== undefined) return { reason: 'ends with /', suggestion: bare }
    return { reason: `must be a URL without a path, such as https://s3.example.net, is ${show(text)}` }
  },

  download: (text) => {
    if (/^http:\/\//i.test(text)) return { reason: 'must be https', suggestion: `https${text.slice(4)}` }
    const wrong = /\{(?!version\})[^}]*\}?/.exec(text)?.[0]
    if (wrong !== undefined)
      return { reason: `holds ${wrong}, which nothing fills in`, suggestion: '{version}' }
    if (!/^https:\/\/[a-z0-9.-]+(:[0-9]+)?\/[^\s"'\\^`|<>]+$/i.test(text))
      return { reason: `must be an https URL, is ${show(text)}` }
    return undefined
  },
}

const calendarWords =
  'minutely hourly daily weekly monthly quarterly semiannually biannually half-yearly yearly annually'.split(
    ' ',
  )
const dayNames = 'monday tuesday wednesday thursday friday saturday sunday'.split(' ')
const dayForm = `(${dayNames.map((name) => `${name}|${name.slice(0, 3)}`).join('|')})`
const days = new RegExp(`^${dayForm}((,|\\.\\.|-)${dayForm})*,?$`, 'i')

/** What is wrong with a calendar event of systemd.time(7): DAYS DATE TIME ZONE, each of which can be left out, or a word. */
function calendarReason(text: string): string | undefined {
  const must = 'must be a calendar event such as daily, 03:17 or Mon *-*-* 03:17:00 Europe/Berlin'
  const parts = text.split(/ +/)
  if (text === '' || parts.includes('')) return must
  // Capitals count in the name of a zone, and UTC is one in any.
  const zone = parts.at(-1)!
  const named =
    /^[A-Z]\w*(\/[\w+-]+)*$/.test(zone) && !days.test(zone) && formats['timezone']!(zone) === undefined
  if (/^utc$/i.test(zone) || named) {
    parts.pop()
    if (text.endsWith(`  ${zone}`)) return must
  }
  if (parts.length === 1 && calendarWords.includes(parts[0]!.toLowerCase())) return undefined
  const week = days.test(parts[0] ?? '') ? parts.shift() : undefined
  for (const range of week?.toLowerCase().split(',') ?? []) {
    const [from, to] = range.split(/\.\.|-/).map((end) => dayNames.findIndex((name) => name.startsWith(end)))
    if (to !== undefined && to < from!) return `has the days ${show(range)}, which end before they begin`
  }
  const date = /[-~]/.test(parts[0] ?? '') && !parts[0]!.includes(':') ? parts.shift() : undefined
  const time = parts.shift()
  if (parts.length > 0 || (week ?? date ?? time) === undefined) return must
  return (
    (date === undefined ? undefined : dateReason(date)) ?? (time === undefined ? undefined : timeReason(time))
  )
}

function dateReason(date: string): string | undefined {
  const [, year = '*', month = '', mark, day = ''] = /^(?:([^-~]+)-)?([^-~]+)([-~])([^-~]+)$/.exec(date) ?? []
  return (
    (/^\d\d$/.test(year) ? undefined : rangeReason('year', year, 1970, 2199)) ??
    rangeReason('month', month, 1, 12) ??
    rangeReason('day', day, 1, mark === '~' ? 28 : 31)
  )
}

function timeReason(time: string): string | undefined {
  const [hour = '', minute = '', second = '0', ...more] = time.split(':')
  if (more.length > 0) return 'has more than hours, minutes and seconds'
  const whole = second.replaceAll(/(\d)\.\d+/g, '$1')
  return (
    rangeReason('hour', hour, 0, 23) ??
    rangeReason('minute', minute, 0, 59) ??
    rangeReason('second', whole, 0, 59)
  )
}

/** One part of a date or time: *, numbers, ranges and steps, with commas. */
function rangeReason(name: string, text: string, least: number, most: number): string | undefined {
  for (const part of text.split(',')) {
    const [, from, to, step] = /^(?:\*|(\d+)(?:\.\.(\d+))?)(?:\/(\d+))?$/.exec(part) ?? []
    const good = part.startsWith('*') || from !== undefined
    const ends = [from, to].flatMap((end) => (end === undefined ? [] : [Number(end)]))
    if (!good || ends.some((end) => end < least || end > most) || Number(step ?? 1) === 0)
      return `has the ${name} ${show(part)}, which is not within ${least} to ${most}`
    if (to !== undefined && Number(to) < Number(from))
      return `has the ${name} ${show(part)}, which ends before it begins`
  }
  return undefined
}

// Names such as Asia/Kolkata are accepted but not listed; on a machine they are files, so capitals count.
function isZoneAlias(text: string): boolean {
  try {
    new Intl.DateTimeFormat('en', { timeZone: text })
    return /^[A-Z]/.test(text)
  } catch {
    return false
  }
}

/** What a text in Bech32 holds; undefined where it is none, or its checksum is wrong. */
function bech32(text: string): { prefix: string; bytes: Uint8Array } | undefined {
  const { bech32 } = load('@scure/base') as typeof import('@scure/base')
  try {
    return bech32.decodeToBytes(text)
  } catch {
    return undefined
  }
}

function hasNoHostBits(text: string): boolean {
  const network = parseNetwork(text)
  return network !== undefined && formatNetwork(network) === text
}

function networkReason(text: string, network: Network): Omit<Problem, 'path'> | undefined {
  const [address = ''] = text.split('/')
  return parseAddress(address)?.value === network.first
    ? undefined
    : { reason: 'has host bits set', suggestion: formatNetwork(network) }
}

/** A length of time such as 15m or 365d in seconds; undefined for anything else. */
export function seconds(time: string | undefined): number | undefined {
  const [, count, unit] = /^(\d+)([smhd])$/.exec(time ?? '') ?? []
  const size = { s: 1, m: 60, h: 3600, d: 86_400 }[unit ?? '']
  return size === undefined ? undefined : Number(count) * size
}
