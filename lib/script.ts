// One numbered script: what it is called, where it runs, and the list of facts it makes true.
import { readFileSync, realpathSync } from 'node:fs'
import { createRequire } from 'node:module'
import { basename } from 'node:path'
import type { Env, Pins, Site } from './config.ts'
import type { Facts } from './machine.ts'
import type { Make, Secret } from './secret.ts'
import type { Command } from './sh.ts'
import type { Step } from './step.ts'

/** What a page may use to write its steps. */
export interface Context {
  env: Env
  site: Site
  pins: Pins
  machine: Facts
  /** A secret of this site; `make` runs the first time it is needed, on the laptop. Plans and prints never ask for it. */
  secrets: (name: string, make?: Make) => Secret
  /** Whether the laptop has a secret of this name. */
  has: (name: string) => boolean
  /** The public half that was stored with a secret: a path on the laptop, or undefined in a rehearsal. */
  state: string
}

export type Layer = 'L0' | 'L1' | 'L2' | 'L3' | 'L4' | '✦' | 'L5' | 'L6'

export interface About {
  layer: Layer
  on: 'laptop' | 'host' | 'node'
  /** The one machine of them that is meant, by its name. */
  at?: string
  /** Read-only bash that runs once before the checks of this page: its variables, functions and $FK_TMP are theirs. */
  prepare?: Command
}

export interface Page extends About {
  /** `00-host-harden` */
  name: string
  file: string
  summary: string
  steps: (context: Context) => Step[]
}

const load = createRequire(import.meta.url)

/**
 * A page. When its file is what was started (`tsx scripts/00-host-harden.ts`), its command line runs; otherwise the
 * default export is for the task runner. The first comment line of the file is the summary.
 */
export function script(meta: ImportMeta, about: About, steps: (context: Context) => Step[]): Page {
  const file = meta.filename
  const page: Page = {
    ...about,
    name: basename(file, '.ts'),
    file,
    summary: /^\/\/ ?(.*)$/m.exec(readFileSync(file, 'utf8'))?.[1] ?? '',
    steps,
  }
  const started = process.argv[1]
  if (started !== undefined && same(started, file)) {
    process.stdout.on('error', (error: NodeJS.ErrnoException) => {
      if (error.code === 'EPIPE') process.exit(0)
      throw error
    })
    const { pageMain } = load('./pages.ts') as typeof import('./pages.ts')
    void pageMain(page, process.argv.slice(2)).then((code) => {
      process.exitCode = code
    })
  }
  return page
}

const same = (a: string, b: string): boolean => {
  try {
    return realpathSync(a) === realpathSync(b)
  } catch {
    return false // started from something that is not a file
  }
}
