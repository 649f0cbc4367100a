// Gateways and names: who reaches a service, by which way, and under which name.
import { type Path, type Problem, pathText } from '../../ground/document.ts'
import { endProblem, endsMeet } from './ends.ts'
import {
  type Claim,
  type Document,
  type Entry,
  chosenBy,
  entries,
  homeOf,
  lies,
  many,
  networksOf,
  poolRange,
  present,
  rangeOf,
  repeated,
  unknown,
} from './parts.ts'

type Gateway = NonNullable<NonNullable<Document['gateways']>[number]>
type Zone = NonNullable<NonNullable<Document['names']>[number]>

/** Faults of the parts `gateways` and `names` of a document. */
export function* exposureProblems(document: Document): Generator<Problem> {
  const gateways = entries(['gateways'], document.gateways)
  const zones = entries(['names'], document.names)
  yield* repeated(gateways.map(([at, { name }]): Claim => [[...at, 'name'], name]))
  yield* repeated(zones.map(([at, { zone }]): Claim => [[...at, 'zone'], zone]))
  yield* listenProblems(document)
  for (const entry of gateways) {
    yield* audienceProblems(document, entry)
    yield* entryProblems(document, entry)
    yield* componentProblems(document, entry)
  }
  for (const entry of zones) {
    yield* zoneProblems(document, entry)
    yield* authorityProblems(document, entry)
  }
}

/** Who can be an audience: networks, and these words. */
const audiences = ['internet', 'tunnel', 'router', 'nodes', 'pods']

const isAudience = (document: Document, who: string): boolean =>
  audiences.includes(who) || networksOf(document).some(([, { name }]) => name === who)

function* peopleProblems(document: Document, path: Path, audience: Gateway['audience']): Generator<Problem> {
  const networks = networksOf(document).map(([, { name }]) => name)
  for (const [at, who] of entries(path, audience))
    yield* unknown(at, who, [...audiences, ...networks], 'names no network of this site')
}

function* audienceProblems(document: Document, [at, gateway]: Entry<Gateway>): Generator<Problem> {
  const { address, audience = [], listen, name } = gateway
  const path = [...at, 'audience']
  yield* peopleProblems(document, path, gateway.audience)
  if (audience.includes('internet') && audience.length > 1)
    yield { path, reason: 'holds internet beside others: what is public has a gateway of its own' }
  if (address === undefined || listen === 'host') return
  const pools = networksOf(document).flatMap(([, { pools }]) => Object.values(pools ?? {}))
  const areKnown = pools.every((pool) => poolRange(pool) !== undefined)
  if (areKnown && !pools.some((pool) => lies(address, rangeOf(poolRange(pool)))))
    yield { path: [...at, 'address'], reason: 'lies in no pool of a network: nothing would announce it' }
  const lines = (document.router?.allow ?? []).flatMap((line) => line ?? [])
  const home = homeOf(document, address)?.name
  const ends = lines.flatMap(({ from, to }) => [...many(from), ...many(to)])
  const sound = document.router?.allow?.every((line) => line?.from !== undefined && line.to !== undefined)
  if (!sound || ends.some((end) => endProblem(document, end))) return
  for (const [place, who] of entries(path, audience)) {
    // What is in its own network reaches it directly; the internet comes by `entry`, the router by itself.
    if (!isAudience(document, who) || who === home || who === 'internet' || who === 'router') continue
    const way = lines.some(
      ({ from, to }) =>
        endsMeet(document, many(from), [who]) && endsMeet(document, many(to), [`gateway:${name}`]),
    )
    if (!way) yield { path: place, reason: `is ${who}, and router.allow has no way from there to it` }
  }
}

/** Cilium serves its gateways on the hosts, or on addresses of their own: all of them alike. A host has each port once. */
function* listenProblems(document: Document): Generator<Problem> {
  const uses = chosenBy(document).flatMap(({ slot, use }) => (slot === 'gateway' ? use : []))
  if (uses.length > 0 && !uses.includes('cilium')) return
  const web = entries(['gateways'], document.gateways).filter(([, { kind }]) => (kind ?? 'http') === 'http')
  const [first] = web.filter(([, { listen }]) => listen === 'host')
  if (first === undefined) return
  for (const [at, { listen }] of web)
    if (at !== first[0])
      yield {
        path: [...at, 'listen'],
        reason:
          listen === 'host'
            ? `is host, and ${pathText(first[0])} has the ports of the host already`
            : `must be host, as of ${pathText(first[0])}: Cilium serves all gateways alike`,
      }
}

/** The way from the internet: a tunnel or a forward, and no second one past it. */
function* entryProblems(document: Document, [at, gateway]: Entry<Gateway>): Generator<Problem> {
  const { router } = document
  const { audience, entry, name } = gateway
  const path = [...at, 'entry']
  const forwarded = (router?.forwards ?? []).some((one) => one?.to === `gateway:${name}`)
  if (audience?.includes('internet') && !('entry' in gateway) && !forwarded)
    yield { path, reason: 'is missing: no tunnel and no forward leads from the internet to it' }
  if (entry === 'forward' && !forwarded && !router?.forwards?.includes(undefined))
    yield { path, reason: `is forward, and router.forwards has none to gateway:${name}` }
  if (entry === undefined || entry === 'forward') return
  const uses = chosenBy(document).map(({ use }) => use)
  yield* unknown(path, entry, ['forward', ...uses], `is ${entry}, and components has no such`)
  if (forwarded) yield { path, reason: 'is a tunnel, and router.forwards opens a second way past it' }
  const past = (router?.allow ?? []).find(
    (line) => many(line?.to).includes(`gateway:${name}`) && !many(line?.from).includes('internet'),
  )
  if (past)
    yield { path, reason: `is a tunnel, and router.allow lets ${many(past.from).join(', ')} pass it by` }
}

function* componentProblems(document: Document, [at, gateway]: Entry<Gateway>): Generator<Problem> {
  for (const [key, slot] of [
    ['login', 'identity'],
    ['waf', 'waf'],
  ] as const) {
    const use = gateway[key]
    const uses = chosenBy(document).flatMap((one) => (one.slot === slot ? one.use : []))
    if (use !== undefined && !uses.includes(use))
      yield {
        path: [...at, key],
        reason: `is ${use}, and components.${slot} is ${uses.join(', ') || 'not chosen'}`,
        suggestion: uses[0],
      }
  }
}

function* zoneProblems(document: Document, [at, one]: Entry<Zone>): Generator<Problem> {
  const gateways = (document.gateways ?? []).flatMap((gateway) => gateway ?? [])
  const names = present(gateways.map(({ name }) => name))
  yield* peopleProblems(document, [...at, 'audience'], one.audience)
  yield* unknown([...at, 'points_at'], one.points_at, names, 'names no gateway')
  const gateway = gateways.find(({ name }) => name !== undefined && name === one.points_at)
  if (gateway?.audience?.every((who) => who !== undefined && isAudience(document, who)))
    for (const [path, who] of entries([...at, 'audience'], one.audience))
      if (isAudience(document, who) && !gateway.audience.includes(who))
        yield { path, reason: `is ${who}, and the gateway ${gateway.name} is not for it` }
  const chosen = chosenBy(document)
  const uses = chosen.map(({ use }) => use)
  if (one.writer !== undefined && one.writer !== 'pages')
    yield* unknown(
      [...at, 'writer'],
      one.writer,
      ['pages', ...uses],
      `is ${one.writer}, and components has no such`,
    )
  const proves = chosen.some(({ slot, given }) => slot === 'certificates' && 'dns01' in given)
  if (
    one.issuer !== undefined &&
    one.issuer !== 'own-ca' &&
    one.audience &&
    !one.audience.includes('internet') &&
    !proves
  )
    yield {
      path: [...at, 'issuer'],
      reason: `is ${one.issuer} for a zone that the world cannot reach: it needs components.certificates.dns01`,
    }
}

function* authorityProblems(
  document: Document,
  [at, { audience, authority }]: Entry<Zone>,
): Generator<Problem> {
  const { router } = document
  const path = [...at, 'authority']
  if (authority === undefined) return
  if (authority === 'router') {
    if (router?.kind === 'none')
      yield { path, reason: 'is router, and router.kind is none: nobody could write to it' }
    return
  }
  if (authority.includes(':')) {
    const problem = endProblem(document, authority)
    if (problem) yield { path, ...problem }
    return
  }
  const own = (document.gateways ?? []).find((gateway) => gateway?.kind === 'dns')
  if (audience && !audience.includes('internet'))
    yield {
      path,
      reason: 'publishes private addresses to the world',
      suggestion: router?.kind === 'none' ? own && `gateway:${own.name}` : 'router',
    }
}
