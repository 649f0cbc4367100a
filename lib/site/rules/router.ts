// The firewall and the routes: whom the lines are about, what must not be open, and what must.
import type { Path, Problem } from '../../ground/document.ts'
import type { Site } from '../model.ts'
import { openAgainstNever } from '../reach.ts'
import { endProblem, endsMeet, portProblems, portsMeet, routerNames, words } from './ends.ts'
import {
  type Document,
  type Entry,
  chosenBy,
  couldBeHost,
  devicesOf,
  entries,
  hasRole,
  homeOf,
  isAccepted,
  machinesOf,
  many,
  networksOf,
  placed,
  rangeOf,
  machinesAreKnown,
  unknown,
} from './parts.ts'

type Router = NonNullable<Document['router']>
type Line = NonNullable<NonNullable<Router['allow']>[number]>

/**
 * Faults of the part `router` of a document, and of the ports of the router that networks and machines name. What a line opens is
 * said of the whole site, where its networks are free of faults.
 */
export function* routerProblems(document: Document, whole?: Site): Generator<Problem> {
  const router = document.router ?? {}
  const allow = entries(['router', 'allow'], router.allow)
  for (const [at, { name }] of networksOf(document))
    if (name !== undefined && words.includes(name))
      yield {
        path: [...at, 'name'],
        reason: `is a word of the firewall with a meaning of its own: ${words.join(', ')}`,
      }
  const lines = [...allow, ...entries(['router', 'never'], router.never)]
  const found = [
    ...kindProblems(document),
    ...lines.flatMap(([at, line]) => [...lineProblems(document, at, line)]),
  ]
  yield* found
  if (whole && found.length === 0) yield* neverProblems(whole)
  for (const entry of allow) yield* openProblems(entry)
  yield* doorProblems(document)
  yield* routeProblems(document)
  yield* forwardProblems(document)
  yield* portOwnerProblems(document)
}

/** Whether a device routes, that we configure by its API. */
const isDevice = (router: Router): boolean => router.kind === 'routeros' || router.kind === 'opnsense'

function* kindProblems(document: Document): Generator<Problem> {
  const router = document.router ?? {}
  const { at, device, kind } = router
  const hosts = machinesOf(document).filter(([, machine]) => couldBeHost(machine) && machine.vm === undefined)
  if (at !== undefined && machinesAreKnown(document))
    yield* unknown(
      ['router', 'at'],
      at,
      hosts.map(([, { name }]) => name),
      'is no host of this site',
    )
  if (kind === 'host' && hosts.length === 0 && machinesAreKnown(document))
    yield {
      path: ['router', 'kind'],
      reason: 'is host, and no machine here is a host that could filter',
      suggestion: 'none',
    }
  const routers = routerNames(document)
  if (device !== undefined)
    yield* unknown(['router', 'device'], device, routers, 'names no device of the kind router')
  else if (isDevice(router) && !('device' in router))
    yield { path: ['router', 'device'], reason: 'is missing: which device routes', suggestion: routers[0] }
  if (isDevice(router) && !('wan' in router))
    yield { path: ['router', 'wan'], reason: 'is missing: which interface leads to the internet' }
  if (kind === undefined || kind === 'host' || routers.length > 1) return
  for (const [path, one] of devicesOf(document))
    if (one.kind === 'router' && !isAccepted(document, one.name, 'router'))
      yield { path, reason: `is the only router: say so under accepted: what: ${one.name}` }
}

/** The ends and ports of a line. */
function* lineProblems(document: Document, at: Path, line: Partial<Line>): Generator<Problem> {
  for (const side of ['from', 'to'] as const)
    for (const [path, end] of placed([...at, side], line[side])) {
      const problem = endProblem(document, end)
      if (problem) yield { path, ...problem }
      if (end === 'upstream' && document.router?.kind !== undefined && document.router.kind !== 'host')
        yield { path, reason: 'is the private networks beyond a host; here networks have names' }
    }
  yield* portProblems([...at, 'ports'], line.ports)
}

/** What a line of `allow` opens, and must not. */
function* openProblems([at, line]: Entry<Line>): Generator<Problem> {
  const { ports } = line
  const [from, to] = [many(line.from), many(line.to)]
  if (from.includes('internet') && ports === 'any')
    yield { path: [...at, 'ports'], reason: 'is any from the internet: name the ports' }
  if (from.includes('internet') && to.includes('router'))
    yield {
      path: [...at, 'to'],
      reason: 'lets the internet in to the router itself; the port of the tunnel is opened by tunnel.port',
    }
}

/** Lines of `allow` that open what `never` forbids. */
function* neverProblems(site: Site): Generator<Problem> {
  for (const { line, never: i, from, to } of openAgainstNever(site))
    yield {
      path: ['router', 'allow', line],
      reason: `opens ${from} to ${to}, which router.never[${i}] forbids`,
    }
}

/** The ways in for who administrates: the tunnel, or a network of admins. */
function* doorProblems(document: Document): Generator<Problem> {
  const router = document.router ?? {}
  const { tunnel } = document
  const path = ['router', 'allow']
  if (router.allow === undefined || router.allow.includes(undefined)) return
  const lines = router.allow.flatMap((line) => line ?? [])
  const leads = (ends: Line['to']): boolean => many(ends).some((end) => end === 'router' || end === 'any')
  if (router.kind === 'host' && tunnel?.kind === 'wireguard' && tunnel.at !== 'router') {
    const doors = (document.machines ?? []).map((one) => `tcp/${one?.ssh_port ?? 22}`)
    const way = lines.some(
      ({ from, to, ports }) =>
        many(from).some((end) => end === 'tunnel' || end === 'any') &&
        leads(to) &&
        portsMeet(ports, ['tcp/22', ...doors]),
    )
    if (!way)
      yield {
        path,
        reason: 'has no line from tunnel to router for tcp/22: once the firewall is up nobody could log in',
      }
  }
  if (!isDevice(router)) return
  const api = ['tcp/22', 'tcp/443', 'tcp/8291']
  const people = (ends: Line['from']): boolean =>
    many(ends).some((end) => end !== 'internet' && !end.startsWith('machine:') && !end.startsWith('gateway:'))
  if (!lines.some(({ from, to, ports }) => people(from) && leads(to) && portsMeet(ports, api)))
    yield { path, reason: 'lets nobody administrate the router' }
}

function* routeProblems(document: Document): Generator<Problem> {
  const router = document.router ?? {}
  const { cluster, tunnel } = document
  const routes = entries(['router', 'routes'], router.routes)
  const servers = machinesOf(document).filter(([, machine]) => hasRole(machine, 'server')).length
  const external = chosenBy(document).some(
    ({ slot, given }) => slot === 'network' && given['external_services'] === true,
  )
  for (const [at, { to, via }] of routes) {
    const problem = to === undefined ? undefined : endProblem(document, to)
    if (problem) yield { path: [...at, 'to'], ...problem }
    if (to === 'services' && !external)
      yield {
        path: at,
        reason:
          'leads to services, and components.network says no external_services: their addresses answer nobody outside of ' +
          'the cluster',
      }
    // Where there are several servers, cluster.api is reported itself.
    if (via === 'vip' && servers < 2 && !(cluster?.api && 'vip' in cluster.api))
      yield { path: [...at, 'via'], reason: 'is vip, and cluster.api has none' }
    if (via !== undefined && via !== 'vip' && rangeOf(via) === undefined)
      yield { path: [...at, 'via'], reason: `must be vip, or an address, is ${JSON.stringify(via)}` }
  }
  if (!isDevice(router) || tunnel?.at !== 'router') return
  if (
    routes.some(([, { to }]) => to === undefined || endProblem(document, to)) ||
    router.routes?.includes(undefined)
  )
    return
  for (const [at, line] of entries(['router', 'allow'], router.allow))
    for (const [path, end] of placed([...at, 'to'], line.to))
      if (
        ['pods', 'services'].includes(end) &&
        many(line.from).includes('tunnel') &&
        !routes.some(([, { to }]) => to === end)
      )
        yield { path, reason: `lets the tunnel to ${end}, and router.routes has no way there` }
}

function* forwardProblems(document: Document): Generator<Problem> {
  const gateways = (document.gateways ?? []).flatMap((one) => one ?? [])
  const lines = document.router?.allow ?? []
  for (const [at, { port, to }] of entries(['router', 'forwards'], document.router?.forwards)) {
    if (port !== undefined)
      for (const problem of portProblems([...at, 'port'], [port])) yield { ...problem, path: [...at, 'port'] }
    if (to === undefined) continue
    const path = [...at, 'to']
    const gateway = gateways.find(({ name }) => `gateway:${name}` === to)
    if (gateway === undefined) yield { path, ...endProblem(document, to), reason: 'names no gateway' }
    else if (gateway.audience && !gateway.audience.includes('internet'))
      yield { path, reason: `is not for the internet: its audience is ${gateway.audience.join(', ')}` }
    else if (
      !lines.some((line) => many(line?.from).includes('internet') && endsMeet(document, many(line?.to), [to]))
    )
      yield { path: at, reason: 'has no line in allow from internet: what is forwarded would be dropped' }
  }
}

/** Ports of the router: each leads to one network, and a machine is plugged into one of its own network. */
function* portOwnerProblems(document: Document): Generator<Problem> {
  const { wan } = document.router ?? {}
  const owners = new Map<string, string | undefined>()
  for (const [at, { name, ports }] of networksOf(document))
    for (const [path, port] of entries([...at, 'ports'], ports)) {
      if (port === wan?.over || port === wan?.interface)
        yield { path, reason: `is ${port}, which leads to the internet` }
      else if (owners.has(port)) yield { path, reason: `is ${port}, which is in ${owners.get(port)} too` }
      else owners.set(port, name)
    }
  if (owners.size === 0) return
  for (const [at, { address, port }] of machinesOf(document)) {
    const home = homeOf(document, address)?.name
    if (port === undefined || home === undefined || owners.get(port) === home) continue
    const owner = owners.get(port) ?? 'no network'
    yield { path: [...at, 'port'], reason: `is ${port}, a port of ${owner}, and ${address} lies in ${home}` }
  }
}
