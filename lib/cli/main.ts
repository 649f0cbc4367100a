// What `./task` does with Taskfile.ts: lists it, finds out what a name means, runs what it needs first, and stops well.
// The list must come at once, so nothing is imported here that a list does not need; the rest is loaded when it is used.
import { createRequire } from 'node:module'
import { Fault } from '../ground/fault.ts'
import { nearest } from '../ground/nearest.ts'
import type { Run, Task, Taskfile } from './call.ts'
import { helpLines, usage } from './flags.ts'
import { refuse } from './refusal.ts'
import { type PageFile, open, pages } from './scripts.ts'
import { page as pageTable } from './tables.ts'

/** What is needed only once something runs is loaded then: the list must come at once. */
const load = createRequire(import.meta.url)

/**
 * Runs what `argv` asks for and resolves to the exit code. What it refuses goes to standard error in one sentence.
 * `live`: standard output is a terminal that can redraw a line. `debug`: faults come with their stack.
 */
export async function main(
  taskfile: Taskfile,
  argv: string[],
  { live = false, debug = false } = {},
): Promise<number> {
  try {
    const [word = 'list', ...rest] = argv
    const name = word === 'help' ? rest[0] : word
    if (name === undefined || ['list', '--list', '-l', '--help', '-h'].includes(name))
      return show(list(taskfile, pages()))
    const task = find(taskfile, pages(), name)
    const words = word === 'help' ? ['--help'] : rest
    const wantsHelp = words.includes('--help') || words.includes('-h')
    if (wantsHelp && !task.page) return show(help(name, task))
    return await perform(taskfile, name, task, words, live)
  } catch (error) {
    return refuse(error, debug)
  }
}

function show(text: string): number {
  process.stdout.write(text)
  return 0
}

/** The table of contents. */
export function list(taskfile: Taskfile, scripts: PageFile[]): string {
  const sections = Object.entries(taskfile).map(
    ([title, tasks]) =>
      [title, Object.entries(tasks).map(([name, t]) => [usage(name, t.takes), t.does] as const)] as const,
  )
  const rows = scripts.map((p) => [`${p.number} ${p.name}`, p.summary] as const)
  const all = [...sections, ['One page, by name or number: [plan|apply|verify|undo|print]', rows] as const]
  const width = Math.max(...all.flatMap(([, r]) => r.map(([left]) => left.length)))
  const text = all
    .filter(([, r]) => r.length > 0)
    .map(
      ([title, r]) => `${title}\n${r.map(([left, right]) => `  ${left.padEnd(width)}  ${right}\n`).join('')}`,
    )
  return `./task NAME, and ./task NAME --help says more.\n\n${text.join('\n')}`
}

function help(name: string, task: Task): string {
  const lines = [
    `./task ${usage(name, task.takes)}`,
    `  ${task.does}`,
    ...(task.needs ? [`  first:  ${task.needs.join(', ')}`] : []),
    ...(task.takes ? helpLines(task.takes) : []),
  ]
  return `${lines.join('\n')}\n`
}

interface Found extends Task {
  page?: PageFile
}

function find(taskfile: Taskfile, scripts: PageFile[], name: string): Found {
  const own = Object.values(taskfile).find((tasks) => Object.hasOwn(tasks, name))?.[name]
  if (own) return own
  const named = scripts.filter((p) => [p.number, p.name, `${p.number}-${p.name}`].includes(name))
  if (named.length > 1) {
    const names = named.map((p) => p.name)
    throw new Fault(
      `'${name}' is the number of ${names.length} pages: ${names.join(', ')}. Say which by its name.`,
    )
  }
  const [page] = named
  if (page) return { does: page.summary, takes: pageTable, page, run: runPageFile(page) }
  const known = [...Object.values(taskfile).flatMap((t) => Object.keys(t)), ...scripts.map((p) => p.name)]
  const near = nearest(name, known)
  throw new Fault(`There is no task '${name}'.${near ? ` Did you mean ${near}?` : ''} ./task lists them.`)
}

async function perform(
  taskfile: Taskfile,
  name: string,
  task: Found,
  argv: string[],
  live: boolean,
): Promise<number> {
  const stop = new AbortController()
  const interrupt = () => {
    if (stop.signal.aborted) process.exit(130)
    stop.abort(130)
    process.stderr.write('\nStopping when what is begun has ended. Ctrl-C again stops at once.\n')
  }
  // Whoever read our output has gone: the exit code is that of SIGPIPE.
  const left = () => stop.abort(141)
  process.on('SIGINT', interrupt).on('SIGTERM', interrupt)
  process.on('reader-left' as 'exit', left)
  try {
    const call = { name, argv, signal: stop.signal, together: false, live }
    const { graph } = task.needs ? (load('./graph.ts') as typeof import('./graph.ts')) : {}
    const code = await (graph ? graph(taskfile, name, call) : (task.run?.(call) ?? 0))
    return stop.signal.aborted ? (stop.signal.reason as number) : code
  } finally {
    process.off('SIGINT', interrupt).off('SIGTERM', interrupt)
    process.off('reader-left' as 'exit', left)
  }
}

function runPageFile(page: PageFile): Run {
  return ({ argv, signal }) =>
    (load('./pages.ts') as typeof import('./pages.ts')).pageMain(open(page), argv, signal)
}
