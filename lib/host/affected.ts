// A person is asked before a page stops what works on a machine now: traffic, servers, log-ins. See affected.sh.
import type { Demand } from '../engine/step.ts'
import { type Command, type Value, library, sh } from '../ground/sh.ts'
import { bridgeOf, isNode } from '../site/machines.ts'
import type { MachineSpec, Site } from '../site/model.ts'

/** The functions of affected.sh. */
export const affectedShell = (): Command => library('lib/host/affected.sh')

/** Interfaces and engines of a host that are there because the site says so. */
export const ownThings = (site: Site, spec: MachineSpec): string[] => [
  site.tunnel.interface,
  ...(bridgeOf(site, spec.name)
    ? [bridgeOf(site, spec.name)?.bridge.name ?? '', 'libvirtd.service', 'virtnetworkd.service']
    : []),
  ...(isNode(spec) ? ['cilium_vxlan', 'cilium_wg0', 'k3s.service', 'k3s-agent.service'] : []),
]

/** The demand that whatever `calls` find is accepted: by the site document, or by the name of the machine, typed for one run. */
export function accepted(
  site: Site,
  machine: string,
  name: string,
  calls: Value[][],
  over?: Command,
): Demand {
  const prefix = `cut:${machine}:`
  const words = site.accepted.flatMap(({ what }) =>
    what.startsWith(prefix) ? what.slice(prefix.length) : [],
  )
  const asked = sh`affected ${[...words, ...calls.flatMap((call) => ['--', ...(call as string[])])]}`
  return {
    name,
    check: over ? sh`${over} || ${asked}` : asked,
    typed: machine,
    help: `stop it, or accept that it stops: type ${machine} when the page is applied at a terminal;
or for good, under accepted: in config/sites/${site.name}.yaml: { what: '${prefix}WORD', why: …, until: 2027-11-30 },
with the first word of its line`,
  }
}
