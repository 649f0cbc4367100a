// What a site does not fulfil and why, for a person and for the scanners that would complain: ./task waivers.
import { Fault } from '../ground/fault.ts'
import { nearest } from '../ground/nearest.ts'
import { loadConfig } from '../site/config.ts'
import { lynisProfile, openscapTailoring, waiversFor } from '../site/waivers.ts'
import { flags } from './flags.ts'
import type { Call } from './taskfile.ts'

const formats = ['list', 'openscap', 'lynis'] as const

/** Writes the waivers of the site to standard output: as a list, an OpenSCAP tailoring, or a Lynis profile. */
export function waivers(call: Call): number {
  const { words, site: name } = flags(call, ['[list|openscap|lynis]'], ['site'])
  const [format = 'list'] = words
  if (!(formats as readonly string[]).includes(format)) {
    const near = nearest(format, formats)
    const hint = near ? `; did you mean ${near}?` : `: it knows ${formats.join(', ')}`
    throw new Fault(`waivers has no format '${format}'${hint}`)
  }
  const { site } = loadConfig(name === undefined ? {} : { site: name })
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
}
