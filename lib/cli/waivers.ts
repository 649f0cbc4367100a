// ./task waivers: what a site does not fulfil and why, for a person and for the scanners that would complain.
import { count } from '../engine/report.ts'
import { lynisProfile, openscapTailoring } from '../host/scanners.ts'
import { acceptedControls, waiversFor } from '../site/waivers.ts'
import type { Site } from '../site/model.ts'
import type { Call } from './call.ts'
import { withSession } from './session.ts'
import { waivers as table } from './tables.ts'

/** Writes the waivers of the site to standard output: as a list, an OpenSCAP tailoring, or a Lynis profile. */
export const waivers = (call: Call): Promise<number> =>
  withSession(call, table, async ({ config: { site }, given: { words } }) => {
    const [format = 'list'] = words
    if (format === 'openscap') process.stdout.write(openscapTailoring(site, 'cis_level2_server'))
    else if (format === 'lynis') process.stdout.write(lynisProfile(site))
    else process.stdout.write(listOf(site))
    return 0
  })

/** For people: what it is, how many, and where one is changed. */
function listOf(site: Site): string {
  const own = site.machines.flatMap(({ name }) =>
    acceptedControls(site, name).map((one) => ({ ...one, id: `${one.id} of ${name}` })),
  )
  const all = [...waiversFor(site), ...waiversFor(site, undefined, undefined, 'k3s'), ...own]
  const head = `Waivers of ${site.name}: ${count(all.length, 'requirement')} that it does not fulfil, why, and until when.
They stand in config/host/waivers.yaml, in config/k3s/waivers.yaml, and under accepted: in config/sites/${site.name}.yaml;
one that has expired counts as a failure again.
`
  return `${head}${all
    .map(({ id, reason, expires, controls, openscap, lynis }) => {
      const ids = [...controls, ...openscap, ...lynis].join(', ')
      return `\n${id} (until ${expires}): ${reason}\n  ${ids}\n`
    })
    .join('')}`
}
