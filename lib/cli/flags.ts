// The flags and words behind the name of a task.
import { createRequire } from 'node:module'
import { Fault } from '../ground/fault.ts'
import { nearest } from '../ground/nearest.ts'
import type { Call } from './taskfile.ts'

const load = createRequire(import.meta.url)

export interface Flags {
  words: string[]
  yes: boolean
  json: boolean
  verbose: boolean
  site: string | undefined
  /** The id of the disk that may be formatted. */
  format: string | undefined
  /** The machine that a page is printed for. */
  machine: string | undefined
  /** The one layer whose pages are meant: L0. */
  layer: string | undefined
  /** Ask kube-bench too, with the controls in this directory. */
  bench: boolean
  configDir: string | undefined
}

/** The flags of a run over pages. */
export const pageFlags = ['yes', 'json', 'verbose', 'site', 'format']

/** The flags and words behind a task's name. Everything unknown is told at once, before anything runs. */
export function flags(call: Call, words: string[], known: readonly string[] = pageFlags): Flags {
  const minimist = load('minimist') as typeof import('minimist')
  const spelt = known.map((flag) => `--${flag}`)
  const faults: string[] = []
  const parsed = minimist(call.argv, {
    boolean: ['yes', 'json', 'verbose', 'bench'].filter((f) => known.includes(f)),
    string: [...['site', 'format', 'machine', 'layer', 'config-dir'].filter((f) => known.includes(f)), '_'],
    unknown(word) {
      if (!word.startsWith('-')) return true
      const flag = word.replace(/=.*/s, '')
      const near = nearest(flag, spelt)
      const hint = near ? `; did you mean ${near}?` : spelt.length > 0 ? `: it knows ${spelt.join(', ')}` : ''
      faults.push(`${call.name} has no flag '${flag}'${hint}`)
      return false
    },
  })
  const extra = parsed._.slice(words.length)
  if (extra.length > 0)
    faults.push(
      `${call.name} takes ${words.length === 0 ? 'no words' : words.join(' ')}: '${extra.join(' ')}' is too much`,
    )
  for (const flag of ['site', 'format', 'machine', 'layer', 'config-dir'])
    if (Array.isArray(parsed[flag])) faults.push(`--${flag} is given twice`)
  if (parsed['site'] === '') faults.push('--site needs a name')
  if (parsed['machine'] === '') faults.push('--machine needs a name')
  if (parsed['format'] === '') faults.push('--format needs the id of a disk')
  if (parsed['config-dir'] === '') faults.push('--config-dir needs a directory')
  if (faults.length > 0) throw new Fault(`${faults.join('\n')}\nNothing was run.`)
  return {
    words: parsed._,
    yes: parsed['yes'] === true,
    json: parsed['json'] === true,
    verbose: parsed['verbose'] === true,
    site: parsed['site'] as string | undefined,
    format: parsed['format'] as string | undefined,
    machine: parsed['machine'] as string | undefined,
    layer: parsed['layer'] as string | undefined,
    bench: parsed['bench'] === true,
    configDir: parsed['config-dir'] as string | undefined,
  }
}
