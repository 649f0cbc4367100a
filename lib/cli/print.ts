// `print`: one page goes to standard output, the whole runbook into a directory.
import { join, relative } from 'node:path'
import type { Context, Page } from '../engine/page.ts'
import { printed, whole } from '../engine/print.ts'
import { type Report, count } from '../engine/report.ts'
import { printedPages, sharedFile, writePages } from '../engine/runbook.ts'
import { Fault } from '../ground/fault.ts'
import { nearest } from '../ground/nearest.ts'
import { type Placed, everyMachine, machinesFor } from '../site/machines.ts'
import type { Config } from '../site/model.ts'
import { outDir } from '../site/out.ts'

type ContextOf = (machine: Placed) => Context

/**
 * A page as one file that runs by itself, and what that is called. `machine` says for which of the site; without it the machines
 * must not differ. Throws a Fault that names them where they do, and where the page has nothing to do: nothing empty is printed.
 */
export function pageAsFile(
  page: Page,
  context: ContextOf,
  config: Config,
  machine?: string,
): { called: string; text: string } {
  const { site } = config
  const all = printedPages([page], context, config)
  const names = [...new Set(all.map(({ on }) => on.name))]
  if (machine === undefined) {
    const [only, ...more] = all
    if (only === undefined)
      throw new Fault(`${page.name} has nothing to do on any machine of the site ${site.name}`)
    if (more.length > 0)
      throw new Fault(
        `${page.name} is not the same on the machines of the site ${site.name}: ${names.join(', ')}`,
        {
          next: `say which: --machine ${names[0]}. ./task print writes all of them`,
        },
      )
    return { called: only.called, text: whole(only.part) }
  }
  const known = everyMachine(config).map(({ name }) => name)
  if (!known.includes(machine)) {
    const near = nearest(machine, known)
    throw new Fault(
      `The site ${site.name} has no machine '${machine}'${near ? `; did you mean ${near}?` : `: it has ${known.join(', ')}`}`,
    )
  }
  const spec = machinesFor(config, page.on).find(({ name }) => name === machine)
  const steps = spec && (page.at === undefined || page.at === machine) ? page.steps(context(spec)) : []
  if (steps.length === 0)
    throw new Fault(`${page.name} has nothing to do on ${machine}`, {
      next: `it has on ${names.join(', ') || 'no machine of this site'}`,
    })
  const called = all.length > 1 ? `${page.name}.${machine}.sh` : `${page.name}.sh`
  return { called, text: printed({ ...page, steps, machine, called }) }
}

/** Its text alone. */
export const printPage = (...given: Parameters<typeof pageAsFile>): string => pageAsFile(...given).text

/**
 * The whole runbook, in print/ below the site's directory for output: a file for each page, and for each machine where they
 * differ. Returns the exit code.
 */
export function printRunbook(pages: Page[], context: ContextOf, config: Config, report: Report): 0 {
  const dir = join(outDir(config), 'print')
  const files = writePages(dir, printedPages(pages, context, config))
  const path = relative(process.cwd(), dir) || '.'
  report.note(
    `Written to ${path}/: ${count(files.has(sharedFile) ? files.size - 1 : files.size, 'file')}, one for each page.`,
  )
  if (files.has(sharedFile))
    report.note(`They read ${sharedFile}, which must lie beside them. The top of each says how it is run.`)
  return 0
}
