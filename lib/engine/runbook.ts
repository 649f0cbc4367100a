// The pages of a site as files of bash: which file is for which machine, and what they share.
import { mkdirSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { type Placed, machinesFor } from '../site/machines.ts'
import type { Config } from '../site/model.ts'
import type { Context, Page } from './page.ts'
import { beside, pagePart, shared, whole } from './print.ts'
import type { Step } from './step.ts'

/** What a page prints for a machine of a site, or for all of its machines where that is the same. */
export interface PrintedPage {
  page: Page
  /** The first of the machines, and its steps. */
  on: Placed
  steps: Step[]
  /** `21-k3s-join.sh`, or `21-k3s-join.b.sh` where machines differ. */
  called: string
  part: string
}

/**
 * What pages print for the machines of a site, in order. A page that has no steps on a machine prints nothing for it. `context`
 * gives what a page may know of a machine without asking it.
 */
export function printedPages(
  pages: Page[],
  context: (machine: Placed) => Context,
  config: Pick<Config, 'site' | 'env'>,
): PrintedPage[] {
  return pages.flatMap((page) => {
    const all = machinesFor(config, page.on)
      .filter(({ name }) => page.at === undefined || page.at === name)
      .map((on) => ({ on, steps: page.steps(context(on)) }))
      .filter(({ steps }) => steps.length > 0)
    const alike = new Set(all.map(({ steps }) => pagePart({ ...page, steps }))).size === 1
    const [first] = all
    if (alike && first) {
      const machine = all.map(({ on }) => on.name).join(', ')
      const called = `${page.name}.sh`
      return [{ page, ...first, called, part: pagePart({ ...page, steps: first.steps, machine, called }) }]
    }
    return all.map(({ on, steps }) => {
      const called = `${page.name}.${on.name}.sh`
      return { page, on, steps, called, part: pagePart({ ...page, steps, machine: on.name, called }) }
    })
  })
}

/** The name of the file that the pages of a printed runbook share. */
export const sharedFile = 'functions.sh'

/**
 * Writes pages into a directory: several share one file of functions, one alone has them in itself. Returns what was written, by
 * name.
 */
export function writePages(dir: string, all: PrintedPage[]): Map<string, string> {
  const together = new Set(all.map(({ page }) => page.name)).size > 1
  const files = new Map(
    all.map(({ called, part }) => [called, together ? beside(part, sharedFile) : whole(part)]),
  )
  if (together) {
    files.set(sharedFile, shared(all.map(({ part }) => part)))
    rmSync(dir, { recursive: true, force: true })
  }
  mkdirSync(dir, { recursive: true })
  for (const [name, text] of files)
    writeFileSync(join(dir, name), text, { mode: name === sharedFile ? 0o644 : 0o755 })
  return files
}
