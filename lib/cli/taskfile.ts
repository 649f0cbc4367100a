// What Taskfile.ts is written with: the ways in which a task runs.
// The list of tasks must come at once, so nothing is imported here that a list does not need; the rest is loaded when it is used.
import { createRequire } from 'node:module'
import { join } from 'node:path'
import type { Layer, Page } from '../engine/page.ts'
import { Fault } from '../ground/fault.ts'
import { nearest } from '../ground/nearest.ts'
import { root } from '../ground/root.ts'
import { type Run, type Task, NotHere } from './call.ts'
import { parse } from './flags.ts'
import { open, pages } from './scripts.ts'
import * as tables from './tables.ts'

export type { Taskfile } from './call.ts'

const load = createRequire(import.meta.url)

/** A task that runs one program with the words behind the task's name added: `command('tsc', '--noEmit')`. */
export const command =
  (program: string, ...args: string[]): Run =>
  async ({ argv, together }) => {
    const { $, which } = load('../ground/laptop.ts') as typeof import('../ground/laptop.ts')
    if (which(program) === undefined) throw new NotHere(`${program} is not installed`)
    const words = [program, ...args, ...argv]
    // With exec no shell stands between: a signal reaches the program itself.
    const { exitCode, stdall } = await $({
      cwd: root,
      nothrow: true,
      prefix: 'exec ',
      stdio: together ? ['ignore', 'pipe', 'pipe'] : 'inherit',
    })`${words}`
    if (exitCode !== 0 && together)
      throw new Fault(`${program} failed`, { ran: words.join(' '), said: stdall })
    return exitCode === 0 ? 0 : 1
  }

/** A command with the files behind it that patterns name: `onFiles(['config/k3s/*.sh'], 'shellcheck')`. */
export const onFiles =
  (patterns: string[], program: string, ...args: string[]): Run =>
  async (call) => {
    const { zx } = load('../ground/laptop.ts') as typeof import('../ground/laptop.ts')
    const files = await zx().glob(patterns, { cwd: root, dot: true })
    return command(program, ...args, ...files.sort())(call)
  }

/** What a module exports, loaded now; its path is from the root. */
function exported<F extends (...args: never[]) => unknown>(file: string, name: string): F {
  const found = (load(join(root, file)) as Record<string, F>)[name]
  if (found === undefined) throw new TypeError(`${file} exports no ${name}`)
  return found
}

/** A command of lib/cli with its table: the function `name` of a module there, by default of the module's own name. */
export const commandOf = (
  module: string,
  name: keyof typeof tables | 'review' | 'docs',
): Pick<Task, 'takes' | 'run'> => ({
  ...(name === 'review' || name === 'docs' ? {} : { takes: tables[name] }),
  run: (call) => exported<Run>(`lib/cli/${module}.ts`, name)(call),
})

/** The same for a module that reads its words itself: `main(argv)`. */
export const program =
  (file: string): Run =>
  ({ argv }) =>
    exported<(argv: string[]) => Promise<number>>(file, 'main')(argv)

/** A task that writes a file of this project: its text is what the function `name` of a module of lib/ gives. */
export const generate =
  (path: string, file: string, name: string): Run =>
  (call) => {
    parse(call, tables.nothing)
    const { writeFileSync } = load('node:fs') as typeof import('node:fs')
    writeFileSync(join(root, path), exported<() => string>(file, name)())
    process.stdout.write(`${path} is written.\n`)
    return 0
  }

/** A task that runs all pages, or those of one layer, in one mode: `undo` from the newest back, the others in running order. */
export const each = (mode: tables.AnyMode): Pick<Task, 'takes' | 'run'> => ({
  takes: tables.runbook,
  run: (call) => {
    const given = parse(call, tables.runbook)
    const all = pages().map(open)
    const meant = chosen(all, given).filter(
      ({ layer }) => given.layer === undefined || layer === (given.layer as Layer),
    )
    const layers = [...new Set(all.map(({ layer }) => layer))].join(', ')
    if (meant.length === 0)
      throw new Fault(
        all.length === 0
          ? 'There are no pages in scripts/ yet. Nothing was run.'
          : `There is no page of layer '${given.layer}': there are ${layers}. Nothing was run.`,
      )
    const { runPages } = load('./pages.ts') as typeof import('./pages.ts')
    return runPages(meant, mode, given, call.signal, all.length)
  },
})

/** The pages of --from and --only, by number, name, or both. Throws a Fault with the nearest name. */
function chosen(all: Page[], { from, only }: tables.RunFlags): Page[] {
  const find = (typed: string): Page => {
    const found = all.find(({ name }) => [name, name.slice(0, 2), name.slice(3)].includes(typed))
    if (found !== undefined) return found
    const near = nearest(
      typed,
      all.flatMap(({ name }) => [name, name.slice(3)]),
    )
    throw new Fault(`There is no page '${typed}'.${near ? ` Did you mean ${near}?` : ''} Nothing was run.`)
  }
  const first = from === undefined ? 0 : all.indexOf(find(from))
  const named = only?.split(',').map((name) => find(name.trim()))
  return all.filter((page, i) => i >= first && (named === undefined || named.includes(page)))
}
