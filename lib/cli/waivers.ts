// ./task waivers: what a site does not fulfil and why, for a person and for the scanners that would complain.
import { lynisProfile, openscapTailoring, waiversFor } from '../site/waivers.ts'
import type { Call } from './call.ts'
import { withSession } from './session.ts'
import { waivers as table } from './tables.ts'

/** Writes the waivers of the site to standard output: as a list, an OpenSCAP tailoring, or a Lynis profile. */
export const waivers = (call: Call): Promise<number> =>
  withSession(call, table, async ({ config: { site }, given: { words } }) => {
    const [format = 'list'] = words
    if (format === 'openscap') process.stdout.write(openscapTailoring(site, 'cis_level2_server'))
    else if (format === 'lynis') process.stdout.write(lynisProfile(site))
    else
      for (const { id, reason, expires, controls, openscap, lynis } of [
        ...waiversFor(site),
        ...waiversFor(site, undefined, undefined, 'k3s'),
      ])
        process.stdout.write(
          `${id} (until ${expires}): ${reason}\n  ${[...controls, ...openscap, ...lynis].join(', ')}\n`,
        )
    return 0
  })
