// The printed bash of every page, as it is kept in test/plans for people to review.
import { mkdirSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Context, Page } from '../engine/page.ts'
import { type PrintedPage, printedPages } from '../engine/runbook.ts'
import { root } from '../ground/root.ts'
import { secretStore } from '../ground/secret.ts'
import { loadConfig } from '../site/config.ts'
import type { Placed } from '../site/machines.ts'
import type { Config } from '../site/model.ts'
import { choosing, contextOf, declaredFacts, unchosen } from './context.ts'
import { printPage } from './print.ts'
import { open, pages } from './scripts.ts'

export const folder = join(root, 'test/plans')

interface Reviewed extends PrintedPage {
  context: (machine: Placed) => Context
  config: Config
}

/** What pages print for a site, by default the one that is shipped. Nothing of the person who asks gets into it. */
function all(site?: string): Reviewed[] {
  const none = '/nonexistent'
  const env = { FK_STATE_DIR: none, FK_AGE_IDENTITY: none, FK_ENV_FILE: '/dev/null' }
  const loaded = loadConfig(site === undefined ? { env } : { env, site })
  const store = secretStore({ dir: none, identity: none })
  const printed = (config: Config, of: Page[]): Reviewed[] => {
    const context = (machine: Placed) => contextOf(config, declaredFacts(machine, config), store)
    return printedPages(of, context, config).map((one) => ({ ...one, context, config }))
  }
  const opened = pages().map(open)
  const first = printed(loaded, opened)
  const silent = opened.filter((page) => !first.some((one) => one.page === page))
  return [...first, ...printed(choosing(loaded, unchosen), silent)]
}

/** File name → the page's own part. The functions that it uses are named there, and reviewed where they stand. */
export const plans = (site?: string): Map<string, string> =>
  new Map(all(site).map(({ called, part }) => [called, part]))

/** File name → what somebody gets who prints that page alone. */
export const printedPlans = (site?: string): Map<string, string> =>
  new Map(
    all(site).map(({ page, on, called, context, config }) => [
      called,
      printPage(page, context, config, called === `${page.name}.sh` ? undefined : on.name),
    ]),
  )

/** Writes test/plans anew; `git diff` then shows what a change does to machines. */
export function review(): number {
  const printed = plans()
  mkdirSync(folder, { recursive: true })
  for (const name of readdirSync(folder)) rmSync(join(folder, name))
  for (const [name, text] of printed) writeFileSync(join(folder, name), text)
  process.stdout.write(
    'test/plans is written. What changed: git add --intent-to-add test/plans && git diff test/plans\n',
  )
  return 0
}
