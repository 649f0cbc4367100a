// What every numbered script begins with. Started by itself it runs its command line; imported it is a value for the task runner.
import { readFileSync, realpathSync } from 'node:fs'
import { createRequire } from 'node:module'
import { basename } from 'node:path'
import type { About, Context, Page } from './engine/page.ts'
import type { Demand, Step } from './engine/step.ts'
import { sh } from './ground/sh.ts'

export type { Context } from './engine/page.ts'

const load = createRequire(import.meta.url)

/**
 * A page. When its file is what was started (`tsx scripts/00-host-harden.ts`), its command line runs; otherwise the
 * default export is for the task runner. The first comment line of the file is the summary.
 */
export function script(meta: ImportMeta, about: About, steps: (context: Context) => Step[]): Page {
  const file = meta.filename
  const name = basename(file, '.ts')
  const page: Page = {
    ...about,
    name,
    file,
    summary: /^\/\/ ?(.*)$/m.exec(readFileSync(file, 'utf8'))?.[1] ?? '',
    steps: (context) => {
      try {
        return [...gates(name, context), ...steps(context)]
      } catch (error) {
        throw (load('./engine/missing.ts') as typeof import('./engine/missing.ts')).missing(name, error)
      }
    },
  }
  const started = process.argv[1]
  if (started !== undefined && same(started, file)) {
    // Not before the file has been read to its end: a page begins with its list of steps, and what they use stands below it.
    setImmediate(async () => {
      const { pageMain } = load('./cli/pages.ts') as typeof import('./cli/pages.ts')
      process.exitCode = await pageMain(page, process.argv.slice(2))
    })
  }
  return page
}

/** What only a person can do before a page goes on, and has not done. */
function gates(page: string, { site, has, state }: Context): Demand[] {
  if (site.gates.length === 0) return []
  const { confirmedGates, gatesOf } = load('./site/gates.ts') as typeof import('./site/gates.ts')
  return gatesOf(site, { has, confirmed: confirmedGates(state), now: new Date() }, page)
    .filter((one) => one.state !== 'done')
    .map(({ gate, found }) => ({
      name: `${gate.what} (${gate.id})`,
      check: sh`echo ${found} && false`,
      help: `./task gates shows what is open; ./task gates confirm ${gate.id} when it is done`,
      person: {},
    }))
}

const same = (a: string, b: string): boolean => {
  try {
    return realpathSync(a) === realpathSync(b)
  } catch {
    return false // started from something that is not a file
  }
}
