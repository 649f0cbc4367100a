// What every rule stands on: the parts of a document that may be missing or wrong, and how they are named in a fault.
import { contains, parseAddress, parseNetwork } from '../../ground/address.ts'
import { type Partially, type Path, type Problem, pathText } from '../../ground/document.ts'
import { nearest } from '../../ground/nearest.ts'
import type { Catalogue } from '../catalogue.ts'
import type { SiteDocument } from '../model.ts'

/** A site document, without the parts that are known to be wrong. A rule is silent about what is not there. */
export type Document = Partially<SiteDocument>
export type Rule = (document: Document, catalogue: Catalogue) => Iterable<Problem>

type Items<T> = NonNullable<T> extends (infer Item)[] ? NonNullable<Item> : never
export type Machine = Items<Document['machines']>
export type Device = Items<Document['devices']>
export type NetworkPart = Items<Document['networks']>

/** An entry of a list, with its place. */
export type Entry<T> = [Path, T]

/** The entries of a list, without those that were wrong. */
export const entries = <T>(at: Path, list: readonly (T | undefined)[] | undefined): Entry<T>[] =>
  (list ?? []).flatMap((entry, i): Entry<T>[] => (entry === undefined ? [] : [[[...at, i], entry]]))

export const machinesOf = ({ machines }: Document): Entry<Machine>[] => entries(['machines'], machines)
export const devicesOf = ({ devices }: Document): Entry<Device>[] => entries(['devices'], devices)
export const networksOf = ({ networks }: Document): Entry<NetworkPart>[] => entries(['networks'], networks)

/** One thing, or several, as a list without those that were wrong. */
export const many = <T>(value: T | readonly (T | undefined)[] | undefined): T[] =>
  (Array.isArray(value) ? (value as (T | undefined)[]) : [value as T | undefined]).filter(
    (one) => one !== undefined,
  )

/** The places of one thing, or of several, each with its value. */
export const placed = <T>(at: Path, value: T | readonly (T | undefined)[] | undefined): Entry<T>[] =>
  Array.isArray(value) ? entries(at, value as T[]) : many(value).map((one) => [at, one])

/** Values that are there. */
export const present = <T>(values: readonly (T | undefined)[]): T[] =>
  values.filter((one) => one !== undefined)

/** A place and the value that nothing else may have. */
export type Claim = [Path, string | undefined]

export function* repeated(claims: Claim[]): Generator<Problem> {
  const owners = new Map<string, Path>()
  for (const [path, value] of claims) {
    if (value === undefined || value === '') continue
    const owner = owners.get(value)
    if (owner === undefined) owners.set(value, path)
    else yield { path, reason: `is the same as ${pathText(owner)}` }
  }
}

/** Faults of a name that must be one of `known`. */
export function* unknown(
  path: Path,
  name: string | undefined,
  known: readonly (string | undefined)[],
  reason: string,
): Generator<Problem> {
  if (name !== undefined && !known.includes(name))
    yield { path, reason, suggestion: nearest(name, present(known)) }
}

/** Whether somebody has decided to live with a single point of failure. */
export const isAccepted = ({ accepted }: Document, ...what: (string | undefined)[]): boolean =>
  (accepted ?? []).some((one) => one?.what !== undefined && what.includes(one.what))

export const hasRole = ({ roles }: Machine, role: 'host' | 'server' | 'agent'): boolean =>
  (roles ?? []).includes(role)
export const isNode = (machine: Machine): boolean => hasRole(machine, 'server') || hasRole(machine, 'agent')
/** Systems that pages harden with apt; the others are what their image and first boot make of them. */
export const hasApt = ({ os }: Machine): boolean => os !== undefined && !['flatcar', 'talos'].includes(os)
export const isRaspberry = ({ board, os }: Machine): boolean =>
  (board ?? (os === 'raspios-13' ? 'rpi5' : 'pc')).startsWith('rpi')

/** A machine that is named as a host: one that lacks the role, and needs it, is reported as that. */
export const couldBeHost = (machine: Machine): boolean => hasRole(machine, 'host') || hasApt(machine)

/** Whether all machines are there with their names and roles: only then can they be counted, and names be unknown. */
export const machinesAreKnown = ({ machines = [] }: Document): boolean =>
  machines.length > 0 &&
  machines.every((one) => one?.name && one.roles?.length && one.roles.every((role) => role !== undefined))

/** Addresses from one to another, both included. */
export interface Range {
  first: bigint
  last: bigint
}

/** The addresses of FIRST-LAST, of a network, or one address; IPv4 only. Undefined for anything else. */
export function rangeOf(text: string | undefined): Range | undefined {
  if (text === undefined) return undefined
  const network = parseNetwork(text)
  if (network?.family === 4) return network
  const [first, last] = text.split('-').map((end) => parseAddress(end))
  if (first?.family !== 4 || (last ?? first).family !== 4) return undefined
  return { first: first.value, last: (last ?? first).value }
}

export const meet = (a: Range, b: Range): boolean => a.first <= b.last && b.first <= a.last
export const lies = (address: string | undefined, range: Range | undefined): boolean => {
  const one = rangeOf(address)
  return one !== undefined && range !== undefined && meet(one, range)
}

/** The network that an address lies in. */
export const homeOf = (document: Document, address: string | undefined): NetworkPart | undefined =>
  networksOf(document).find(([, { network }]) => {
    const range = parseNetwork(network ?? '')
    return range !== undefined && address !== undefined && contains(range, address)
  })?.[1]

/** The text of a pool, which is its range or a map with it. */
export const poolRange = (pool: string | { range?: string | undefined } | undefined): string | undefined =>
  typeof pool === 'string' ? pool : pool?.range

export { seconds } from '../formats.ts'

/** A component that the document chooses: for which slot, where, and with what it is given. */
export interface Chosen {
  slot: string
  use: string
  path: Path
  given: Record<string, unknown>
}

/** Every component that a document chooses: under components, and for the classes of volumes. */
export function chosenBy({ components, data }: Document): Chosen[] {
  const slots = Object.entries(components ?? {}).flatMap(([slot, value]) =>
    placed(['components', slot], value).flatMap(([path, choice]): Chosen[] => {
      if (typeof choice === 'string') return [{ slot, use: choice, path, given: {} }]
      const given = choice as Record<string, unknown>
      return typeof given['use'] === 'string'
        ? [{ slot, use: given['use'], path: [...path, 'use'], given }]
        : []
    }),
  )
  const classes = entries(['data', 'classes'], data?.classes).flatMap(([path, one]): Chosen[] =>
    one.use === undefined
      ? []
      : [{ slot: 'volumes', use: one.use, path: [...path, 'use'], given: { ...one } }],
  )
  return [...slots, ...classes]
}
