// ./task may FROM TO:PORT: whether one may open a connection to another, and which line says so. It does not contact the
// cluster: the answer comes from the policies that the pages apply.
import {
  type Endpoint,
  type Flow,
  type Side,
  type Verdict,
  endpointOf,
  endpointsOf,
  judge,
} from '../component/policymap.ts'
import { type Manifest, notInstalled, policiesFor } from '../component/policies.ts'
import { Fault } from '../ground/fault.ts'
import { catalogue } from '../site/catalogue.ts'
import { loadConfig } from '../site/config.ts'
import type { Site } from '../site/model.ts'
import type { Call } from './call.ts'
import { parse } from './flags.ts'
import { may as table } from './tables.ts'

/** The policies of a site, and whom they can be about. Throws a Fault for a site without a cluster. */
export function policiesOf(name: string | undefined): {
  site: Site
  manifests: Manifest[]
  known: Endpoint[]
} {
  const { site } = loadConfig(name === undefined ? {} : { site: name })
  const manifests = policiesFor(site, catalogue())
  if (manifests.length === 0) throw new Fault(`${site.name} has no cluster, and so no network policies`)
  return { site, manifests, known: endpointsOf(site, catalogue(), manifests) }
}

/** Exit code: 0 it may, 1 it may not. */
export function may(
  call: Pick<Call, 'name' | 'argv'>,
  say = (text: string) => void process.stdout.write(text),
): number {
  const given = parse(call, table)
  const [from = '', to = ''] = given.words
  const [, word, port] = /^(.+):((?:(?:tcp|udp|icmp)\/)?\d{1,5})$/.exec(to) ?? []
  if (word === undefined || port === undefined)
    throw new Fault(`'${to}' has no port behind it`, {
      next: `./task may ${from || 'FROM'} ${to || 'TO'}:443`,
    })
  const { site, manifests, known } = policiesOf(given.site)
  const [source, target] = [endpointOf(site, known, from), endpointOf(site, known, word)]
  if (source.kind === 'name')
    throw new Fault(`${from} is a name of the internet: who connects from there has an address`, {
      next: `./task may world ${to}`,
    })
  const flow = { from: source, to: target, port: port.includes('/') ? port : `tcp/${port}` }
  const verdict = judge(manifests, known, flow)
  say(
    given.json
      ? `${JSON.stringify({ from, to: word, port: flow.port, ...verdict })}\n`
      : `${sentences(flow, verdict)}${absent([source, target], manifests)}`,
  )
  return verdict.allowed ? 0 : 1
}

/** Which of these ends no page installs yet, as a line; empty where all are there. */
function absent(ends: Endpoint[], manifests: Manifest[]): string {
  const names = notInstalled(manifests, catalogue()).filter((name) =>
    catalogue()
      .get(name)
      ?.workloads?.some((one) => ends.some((end) => end.name === `${one.namespace}/${one.name}`)),
  )
  return names.length === 0
    ? ''
    : `  No page installs ${names.join(' and ')} yet: its policies are not applied.\n`
}

/** Yes or no, and what each end says. */
export function sentences({ from, to, port }: Flow, { allowed, egress, ingress, lookup }: Verdict): string {
  const line = (what: string, side: Side) =>
    `  ${what.padEnd(10)}${side.allowed ? 'yes' : 'no '}  ${reason(side)}\n`
  return [
    `${allowed ? 'Yes' : 'No'}: ${from.name} ${allowed ? 'may' : 'may not'} open a connection to ${to.name} on ${port}.\n`,
    line('sending', egress),
    ...(lookup ? [line('its name', lookup)] : []),
    line('receiving', ingress),
    ...(to.kind === 'name' && allowed
      ? ['  unless the name resolves to a private address: never-private\n']
      : []),
  ].join('')
}

/** The policy, its line, and the line of the site document behind it. */
export const reason = ({ by, at, why, also = [] }: Side): string =>
  [by, at, why && `(${why})`, also.length > 0 && `as does ${also.join(', ')}`].filter(Boolean).join('  ')
