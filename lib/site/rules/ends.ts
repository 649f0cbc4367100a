// The ends of a connection as the firewall names them: words, networks, machines, gateways, addresses; and ports.
import { formatNetwork, parseNetwork } from '../../ground/address.ts'
import type { Problem } from '../../ground/document.ts'
import { nearest } from '../../ground/nearest.ts'
import {
  type Document,
  type Range,
  devicesOf,
  hasRole,
  isNode,
  machinesOf,
  many,
  meet,
  networksOf,
  poolRange,
  present,
  rangeOf,
} from './parts.ts'

/** Words of the firewall with a meaning of their own. */
export const words = [
  'internet',
  'upstream',
  'router',
  'tunnel',
  'nodes',
  'servers',
  'pods',
  'services',
  'any',
]

/** Every name that can stand behind gateway:, device:, machine: and pool:, each with its addresses. */
function namedBy(document: Document): Record<string, Map<string, string | undefined>> {
  const byName = (
    list: readonly ({ name?: string | undefined; address?: string | undefined } | undefined)[],
  ) => new Map(list.flatMap((one) => (one?.name === undefined ? [] : [[one.name, one.address] as const])))
  const pools = networksOf(document).flatMap(([, network]) => Object.entries(network.pools ?? {}))
  return {
    gateway: byName(document.gateways ?? []),
    device: byName(document.devices ?? []),
    machine: byName(document.machines ?? []),
    pool: new Map(pools.map(([name, pool]) => [name, poolRange(pool)])),
  }
}

/** What is wrong with an end that a document names: undefined when the site has it. */
export function endProblem(document: Document, end: string): Omit<Problem, 'path'> | undefined {
  const reason = 'names nothing that this site has'
  const networks = present(networksOf(document).map(([, { name }]) => name))
  const network = parseNetwork(end)
  if (network !== undefined && formatNetwork(network) !== end && network.family === 4)
    return { reason: 'has host bits set', suggestion: formatNetwork(network) }
  if (words.includes(end) || networks.includes(end) || rangeOf(end) !== undefined) return undefined
  const [kind = '', name] = end.split(':')
  const named = namedBy(document)
  const list = named[kind]
  if (name === undefined || list === undefined) {
    const full = Object.entries(named).flatMap(([one, names]) => (names.has(end) ? `${one}:${end}` : []))[0]
    return { reason, suggestion: full ?? nearest(end, [...words, ...networks]) }
  }
  if (list.has(name)) return undefined
  const meant = nearest(name, list.keys())
  return { reason, suggestion: meant && `${kind}:${meant}` }
}

interface Area {
  words: string[]
  ranges: Range[]
  /** A space of addresses with a name of its own: no two of them share an address. */
  whole?: boolean
}

/** What an end stands for: words, and addresses. */
function areaOf(document: Document, end: string): Area {
  const { cluster, tunnel } = document
  const ranges = (texts: (string | undefined)[]): Range[] => texts.flatMap((text) => rangeOf(text) ?? [])
  if (end === 'nodes' || end === 'servers') {
    const machines = machinesOf(document)
      .map(([, machine]) => machine)
      .filter((machine) => (end === 'nodes' ? isNode(machine) : hasRole(machine, 'server')))
    const names = machines.map(({ name }) => `machine:${name}`)
    return { words: [end, ...names], ranges: ranges(machines.map(({ address }) => address)) }
  }
  const spaces: Record<string, string | undefined> = {
    tunnel: tunnel?.network,
    pods: cluster?.pods,
    services: cluster?.services,
  }
  if (words.includes(end)) return { words: [end], ranges: ranges([spaces[end]]), whole: true }
  const network = networksOf(document).find(([, { name }]) => name === end)?.[1].network
  if (network !== undefined) return { words: [end], ranges: ranges([network]), whole: true }
  const [kind = '', name = ''] = end.split(':')
  return { words: [end], ranges: ranges([namedBy(document)[kind]?.get(name) ?? end]) }
}

/** Whether two ends have something in common; `any` has with each. */
export function endsMeet(document: Document, some: string[], others: string[]): boolean {
  if (some.includes('any') || others.includes('any')) return true
  const [a, b] = [some, others].map((ends) => ends.map((end) => areaOf(document, end)))
  return (a ?? []).some((one) =>
    (b ?? []).some(
      (other) =>
        one.words.some((word) => other.words.includes(word)) ||
        (!(one.whole && other.whole) &&
          one.ranges.some((range) => other.ranges.some((second) => meet(range, second)))),
    ),
  )
}

/** A device of the kind router is the router. */
export const routerNames = (document: Document): string[] =>
  devicesOf(document).flatMap(([, { kind, name }]) => (kind === 'router' && name !== undefined ? name : []))

const port = /^(tcp|udp)\/([1-9][0-9]{0,4})(?:-([1-9][0-9]{0,4}))?$/

/** A port, or ports from one to another, of TCP or UDP; undefined for anything else. */
function portOf(text: unknown): { protocol: string; first: number; last: number } | undefined {
  const [, protocol = '', first, last] = port.exec(String(text)) ?? []
  if (first === undefined) return undefined
  const range = { protocol, first: Number(first), last: Number(last ?? first) }
  return range.first <= range.last && range.last <= 65_535 ? range : undefined
}

/** Whether ports of two lines have one in common. What is no port has none. */
export function portsMeet(some: unknown, others: unknown): boolean {
  const [a, b] = [many(some as string), many(others as string)]
  const left = a.length > 0 && b.length > 0
  if (a.includes('any') || b.includes('any')) return left
  return a
    .flatMap((text) => portOf(text) ?? [])
    .some((one) =>
      b
        .flatMap((text) => portOf(text) ?? [])
        .some((two) => one.protocol === two.protocol && one.first <= two.last && two.first <= one.last),
    )
}

/** Faults of the ports of a line: any, or a list such as [tcp/443, udp/53]. */
export function* portProblems(at: (string | number)[], ports: unknown): Generator<Problem> {
  if (ports === undefined || ports === 'any') return
  const shape = 'must be any, or a list such as [tcp/443, udp/53], is'
  if (!Array.isArray(ports) || ports.length === 0) {
    const list = portOf(ports) && `[${String(ports)}]`
    yield { path: at, reason: `${shape} ${JSON.stringify(ports)}`, suggestion: list }
    return
  }
  for (const [i, one] of (ports as unknown[]).entries()) {
    if (portOf(one) !== undefined) continue
    const [, number, protocol] = /^([0-9]+)(?:\/(tcp|udp))?$/.exec(String(one)) ?? []
    const suggestion = number && `${protocol ?? 'tcp'}/${number}`
    yield { path: [...at, i], reason: `${shape} ${JSON.stringify(one)}`, suggestion }
  }
}
