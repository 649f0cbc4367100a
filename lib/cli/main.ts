// What `./task` does with Taskfile.ts: lists it, finds out what a name means, runs what it needs first, and stops well.
// The list must come at once, so nothing is imported here that a list does not need; the rest is loaded when it is used.
import { createRequire } from 'node:module'
import { join } from 'node:path'
import { Fault } from '../ground/fault.ts'
import { nearest } from '../ground/nearest.ts'
import { root } from '../ground/root.ts'
import { stoppable } from '../ground/stop.ts'
import { beside } from '../ground/wrap.ts'
import type { Run, Task, Taskfile } from './call.ts'
import { helpLines, usage } from './flags.ts'
import { refuse } from './refusal.ts'
import { type PageFile, layerNames, open, pages } from './scripts.ts'
import { page as pageTable } from './tables.ts'

/** What is needed only once something runs is loaded then: the list must come at once. */
const load = createRequire(import.meta.url)

const bin = load(join(root, 'bin/head.cjs')) as { version: string; head: () => string }

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
    const [word = 'help', ...rest] = argv
    const name = word === 'help' ? rest[0] : word
    if (word === '--version') return show(`${bin.version}\n`)
    if (name === undefined || ['--help', '-h'].includes(name)) return show(bin.head() + firstScreen(pages()))
    if (['list', '--list', '-l', '--all'].includes(name)) return show(list(taskfile, pages()))
    const task = find(taskfile, pages(), name, rest)
    const words = word === 'help' ? ['--help'] : rest
    const ours = task.takes?.passed === 'all' ? words.slice(0, 1) : words
    const wantsHelp = ours.includes('--help') || ours.includes('-h')
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

/** What most people look for, on one screen: the commands of an ordinary day, and the pages by layer. */
export function firstScreen(scripts: PageFile[]): string {
  const layers = [...new Set(scripts.map(({ layer }) => layer))].flatMap((layer) => {
    const names = scripts
      .filter((page) => page.layer === layer)
      .map((page) => `${page.number}\u00a0${page.name}\u00a0`)
    const label = `  ${layer} ${layerNames[layer] ?? ''}`
    return beside(label, names.join(' '), { width: 14, columns: COLUMNS })
  })
  // The spaces within a name, and one behind it, are none at which a line breaks.
  const shown = layers.map((line) => line.replaceAll('\u00a0', ' ').trimEnd())
  return `
Start
  ./task build-all      without FK_HOST a rehearsal, which writes to out/ only
  ./task doctor         are this laptop and the machine ready?
On a machine            FK_HOST=admin@192.0.2.10 in .env
  ./task trust          compare its host key, once
  ./task plan-all       what would change       ./task verify-all   still so?
  ./task build-all      apply it                ./task undo-all     undo it
Every day
  ./task status         what needs you          ./task backup       back up now
${shown.length === 0 ? '' : `\nPages                   ./task PAGE plan|apply|verify|undo|print\n${shown.join('\n')}\n`}
./task --all   everything there is    ./task NAME --help   what one of it takes
`
}

/** Columns of what is printed before anybody has asked how wide the terminal is. */
const COLUMNS = 80

/** The table of contents. */
export function list(taskfile: Taskfile, scripts: PageFile[]): string {
  const sections = Object.entries(taskfile).map(
    ([title, tasks]) =>
      [title, Object.entries(tasks).map(([name, t]) => [usage(name, t.takes), t.does] as const)] as const,
  )
  const rows = scripts.map((p) => [`${p.number} ${p.name}`, p.summary] as const)
  const all = [...sections, ['One page, by name or number: [plan|apply|verify|undo|print]', rows] as const]
  const block = (lines: readonly (readonly [string, string])[]) =>
    lines.flatMap(([left, right]) => beside(`  ${left}`, right, { width: 22, columns: COLUMNS }))
  const text = all
    .filter(([, lines]) => lines.length > 0)
    .map(([title, lines]) => `${title}\n${block(lines).join('\n')}\n`)
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

function find(taskfile: Taskfile, scripts: PageFile[], name: string, rest: string[]): Found {
  const own = Object.values(taskfile).find((tasks) => Object.hasOwn(tasks, name))?.[name]
  const named = scripts.filter((p) => [p.number, p.name, `${p.number}-${p.name}`].includes(name))
  // A page may have the name of a task: then what is a mode of pages is meant for it.
  const mode = Object.hasOwn(pageTable.words[0].among, rest[0] ?? '')
  if (own && !(mode && named.length > 0)) return own
  if (named.length > 1) {
    const names = named.map((p) => p.name)
    throw new Fault(`'${name}' is the number of several pages: ${names.join(', ')}. Say which by its name.`)
  }
  const [page] = named
  if (page) return { does: page.summary, takes: pageTable, page, run: runPageFile(page) }
  throw new Fault(`There is no task '${name}'.${meant(taskfile, scripts, name, rest)} ./task lists them.`)
}

/** What somebody probably meant: a mode of a page, a part of a page's name, or a word that is spelt alike. */
function meant(taskfile: Taskfile, scripts: PageFile[], name: string, [next = '']: string[]): string {
  const known = [...Object.values(taskfile).flatMap((t) => Object.keys(t)), ...scripts.map((p) => p.name)]
  const isPage = (word: string) =>
    scripts.some((p) => [p.number, p.name, `${p.number}-${p.name}`].includes(word))
  const all = `${name === 'apply' ? 'build' : name}-all`
  if (known.includes(all)) {
    const mode = name === 'build' ? 'apply' : name
    return ` ./task ${all} is for every page, ./task ${isPage(next) ? next : 'PAGE'} ${mode} for one.`
  }
  const parts = scripts.filter((p) => name.length > 2 && p.name.split('-').includes(name.toLowerCase()))
  const near =
    parts.length > 0 ? parts.map((p) => p.name) : [nearest(name, known)].flatMap((one) => one ?? [])
  return near.length > 0 ? ` Did you mean ${near.join(' or ')}?` : ''
}

async function perform(
  taskfile: Taskfile,
  name: string,
  task: Found,
  argv: string[],
  live: boolean,
): Promise<number> {
  return stoppable(async (signal) => {
    const call = { name, argv, signal, together: false, live }
    const { graph } = task.needs ? (load('./graph.ts') as typeof import('./graph.ts')) : {}
    return graph ? graph(taskfile, name, call) : (task.run?.(call) ?? 0)
  })
}

function runPageFile(page: PageFile): Run {
  return ({ argv, signal }) =>
    (load('./pages.ts') as typeof import('./pages.ts')).pageMain(open(page), argv, signal)
}
