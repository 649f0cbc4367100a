// The cluster as a whole: how its API is reached, whether pods have a place, and who logs in to it.
import { parseNetwork } from '../../ground/address.ts'
import type { Problem } from '../../ground/document.ts'
import {
  type Document,
  entries,
  hasRole,
  isAccepted,
  homeOf,
  isNode,
  lies,
  machinesOf,
  networksOf,
  rangeOf,
  machinesAreKnown,
} from './parts.ts'

/** Faults of the part `cluster` of a document. */
export function* clusterProblems(document: Document): Generator<Problem> {
  const { cluster } = document
  const machines = machinesOf(document).map(([, machine]) => machine)
  if (cluster === undefined) return
  if (machinesAreKnown(document)) {
    const agents = machines.filter((machine) => hasRole(machine, 'agent'))
    const nodes = machines.filter(isNode)
    if (cluster.servers_take_pods === false && agents.length === 0 && nodes.length > 0)
      yield {
        path: ['cluster', 'servers_take_pods'],
        reason: 'is false, and there is no agent: no pod would run',
        suggestion: 'true',
      }
  }
  yield* apiProblems(document)
  yield* loginProblems(document)
}

function* apiProblems(document: Document): Generator<Problem> {
  const api = document.cluster?.api
  const machines = machinesOf(document).map(([, machine]) => machine)
  const servers = machines.filter((machine) => hasRole(machine, 'server'))
  const [first, second] = servers
  if (second !== undefined && !(api && 'vip' in api) && !isAccepted(document, 'api'))
    yield {
      path: ['cluster', 'api'],
      reason:
        `has no vip: kubeconfig and joins would hang on ${first?.name}, one of ${servers.length} servers. ` +
        'Give an address that is free in their network, or say under accepted: what: api',
    }
  const path = ['cluster', 'api', 'keeper']
  const talos = machines.some((machine) => isNode(machine) && machine.os === 'talos')
  if (api?.keeper === 'talos' && !talos && machines.every(({ os }) => os !== undefined))
    yield { path, reason: 'is talos, and no node runs it', suggestion: 'keepalived' }
  if (api?.keeper === 'keepalived' && talos)
    yield {
      path,
      reason: 'is a program of the host, and Talos has none: Talos keeps the address itself',
      suggestion: 'talos',
    }
  if (api?.vip === undefined) return
  const guest = servers.find(
    (machine) => machine.roles && !hasRole(machine, 'host') && machine.os === 'flatcar',
  )
  if (guest !== undefined && api.keeper === 'keepalived')
    yield {
      path: ['cluster', 'api', 'vip'],
      reason:
        `is kept by keepalived, a program of hosts, and ${guest.name} runs flatcar. Say keeper: none where something of yours ` +
        'moves it, or leave it out and say under accepted: what: api',
    }
  const at = ['cluster', 'api', 'vip']
  const home = homeOf(document, api.vip)
  const away = servers.find(
    ({ address }) => rangeOf(address) && !lies(address, parseNetwork(home?.network ?? '')),
  )
  if (home === undefined && networksOf(document).length > 0)
    yield { path: at, reason: 'lies in no network of this site' }
  else if (home !== undefined && away !== undefined)
    yield {
      path: at,
      reason: `lies in ${home.name}, where ${away.name} is not: an address moves between servers of one network`,
    }
}

function* loginProblems({ cluster, gates, machines, names, people }: Document): Generator<Problem> {
  const oidc = cluster?.oidc
  if (oidc === undefined) return
  const path = ['cluster', 'oidc']
  if (machines?.some((one) => one?.os === 'talos' && one.roles?.includes('server')))
    yield { path, reason: 'is not built for servers of Talos: k3s alone gets it' }
  if (/^(system|fortress):/.test(oidc.prefix ?? ''))
    yield {
      path: [...path, 'prefix'],
      reason: 'is that of names of Kubernetes, or of certificates of this kit',
    }
  if (!('prefix' in oidc))
    yield { path, reason: 'has no prefix: whoever is called system:… there would be it here' }
  const [, scheme, host] = /^(\w+):\/\/([^/:]+)/.exec(oidc.issuer ?? '') ?? []
  if (oidc.issuer !== undefined && scheme !== 'https')
    yield { path: [...path, 'issuer'], reason: `must be an https URL, is ${JSON.stringify(oidc.issuer)}` }
  const own = (names ?? []).find((one) => one?.zone && (host === one.zone || host?.endsWith(`.${one.zone}`)))
  if (own !== undefined && gates !== undefined && !gates.some((gate) => gate?.id === 'break-glass'))
    yield {
      path: [...path, 'issuer'],
      reason:
        'is served by this cluster: while it is down nobody could log in to mend it. Have a gate break-glass',
    }
  for (const [at, person] of entries(['people'], people))
    if (!('email' in person) && person.roles && !person.roles.includes('owner'))
      yield { path: [...at, 'email'], reason: 'is missing: cluster.oidc identifies people by it' }
}
