// Whether a connection may be opened, by the rules of lib/site/zones.ts; and which lines of router.allow open what router.never
// forbids. Rules of the site document and tests ask it; a firewall is made from the rules themselves.
import { type Network, overlap } from '../ground/address.ts'
import type { Site } from './model.ts'
import {
  type End,
  type Rule,
  type View,
  type Zones,
  endsOf,
  inside,
  many,
  portsOf,
  portsShared,
  spanOf,
  viewOf,
} from './zones.ts'

/** An address, and the zone that it is used in. */
export interface Point {
  zone: string
  address: string
}

/** Where an address is found: in the zone that its network belongs to. */
export function pointOf({ zones }: Pick<Zones, 'zones'>, address: string): Point {
  const zone = zones.find(({ networks }) => networks.some((network) => inside(network, address)))
  return { zone: zone?.name ?? 'outside', address }
}

/** Whether an address can be used in a zone: its way back leads there. */
function belongs({ zones }: Pick<Zones, 'zones'>, { zone, address }: Point): boolean {
  return zone === 'self' || zone === 'pods' || pointOf({ zones }, address).zone === zone
}

const matches = ({ zone, within, without = [] }: End, point: Point): boolean =>
  zone === point.zone &&
  (within === undefined || within.some((text) => inside(text, point.address))) &&
  !without.some((text) => inside(text, point.address))

/**
 * The rule that lets `source` open a connection to a port of `target`; undefined where none does. A point in the zone `self` is
 * the machine that enforces the rules. An address in a zone where it does not belong opens nothing.
 */
export function evaluate(
  zones: Zones,
  source: Point,
  target: Point,
  protocol: 'tcp' | 'udp',
  port: number,
): Rule | undefined {
  const lease = protocol === 'udp' && port === 67 && source.address === '0.0.0.0'
  if (!lease && !belongs(zones, source)) return undefined
  return zones.rules.find(
    (rule) =>
      (rule.protocol === undefined || rule.protocol === protocol) &&
      (rule.ports === undefined || portsShared(rule.ports, [String(port)])) &&
      matches(rule.from, source) &&
      matches(rule.to, target),
  )
}

/** A line of router.allow that opens what a line of router.never forbids, with the words of both that meet. */
export interface Conflict {
  line: number
  never: number
  from: string
  to: string
}

/** Every line of `allow` that opens what `never` forbids, seen from the router. What follows from the site itself is no line. */
export function openAgainstNever(site: Site): Conflict[] {
  const view = viewOf(site, site.router.kind === 'host' ? site.router.at : undefined)
  return site.router.allow.flatMap((allow, line) =>
    site.router.never.flatMap((never, i) => {
      const [ports, closed] = [portsOf(allow.ports), portsOf(never.ports ?? 'any')]
      if (!ports.some((one) => closed.some((other) => portsMeet(one, other)))) return []
      const pairs = many(allow.from).flatMap((from) => many(allow.to).map((to) => [from, to] as const))
      const bad = many(never.from).flatMap((from) => many(never.to).map((to) => [from, to] as const))
      const met = pairs.flatMap(([from, to]) =>
        bad.flatMap(([source, target]) =>
          wordsMeet(view, [from, to], [source, target])
            ? [{ line, never: i, from: from === 'any' ? source : from, to: to === 'any' ? target : to }]
            : [],
        ),
      )
      return met.slice(0, 1)
    }),
  )
}

/** Whether a connection is possible that is both from and to what each of two pairs of words means. */
function wordsMeet(view: View, [from, to]: [string, string], [source, target]: [string, string]): boolean {
  const common = (a: string, b: string): string[] =>
    endsOf(view, a).flatMap((one) =>
      endsOf(view, b).flatMap((other) => (endsMeet(one, other) ? one.zone : [])),
    )
  const targets = common(to, target)
  return common(from, source).some((zone) => targets.some((other) => other !== zone))
}

function endsMeet(a: End, b: End): boolean {
  if (a.zone !== b.zone) return false
  return spansOf(a).some((one) => spansOf(b).some((other) => overlap(one, other)))
}

const everything: Network[] = [
  { family: 4, first: 0n, last: (1n << 32n) - 1n, prefix: 0 },
  { family: 6, first: 0n, last: (1n << 128n) - 1n, prefix: 0 },
]

/** The addresses of an end: those within, less those without. */
function spansOf({ within, without = [] }: End): Network[] {
  const spans = within === undefined ? everything : within.flatMap((text) => spanOf(text) ?? [])
  return without
    .flatMap((text) => spanOf(text) ?? [])
    .reduce(
      (left, hole) =>
        left.flatMap((span) =>
          !overlap(span, hole)
            ? [span]
            : [
                { ...span, last: hole.first - 1n },
                { ...span, first: hole.last + 1n },
              ].filter(({ first, last }) => first <= last),
        ),
      spans,
    )
}

function portsMeet(a: Pick<Rule, 'protocol' | 'ports'>, b: Pick<Rule, 'protocol' | 'ports'>): boolean {
  if (a.protocol === undefined || b.protocol === undefined) return true
  return a.protocol === b.protocol && portsShared(a.ports ?? [], b.ports ?? [])
}
