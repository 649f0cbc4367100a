// What `./task` does with Taskfile.ts: lists it, finds out what a name means, runs what it needs first, and stops well.
// The list must come at once, so nothing is imported here that a list does not need; the rest is loaded when it is used.
import { readdirSync, readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { join } from 'node:path'
import { Fault } from './fault.ts'
import type { Page } from './script.ts'

/** What is needed only once something runs is loaded then: the list must come at once. */
const load = createRequire(import.meta.url)
const root = join(import.meta.dirname, '..')

/** What a task is told when it runs. */
export interface Call {
  name: string
  argv: string[]
  /** Aborted by Ctrl-C: finish what is begun, begin nothing more. */
  signal: AbortSignal
  /** The task is one of several that run at once: it keeps its output and throws it as a Fault when it fails. */
  together: boolean
  live: boolean
}

/** 0 done or nothing to do, 1 failed, 2 changes pending. */
export type Run = (call: Call) => Promise<number> | number

export interface Task {
  /** One line for the list. */
  does: string
  /** What may stand behind the name, for the list: `[NAME]`. */
  takes?: string
  /** Tasks that must have succeeded before; what does not depend on each other runs at once. */
  needs?: string[]
  /** A failure among the needs stops only what needs it. */
  keepGoing?: boolean
  run?: Run
}

/** Section → name → task. */
export type Taskfile = Record<string, Record<string, Task>>

export interface PageFile {
  number: string
  name: string
  file: string
  summary: string
}

/** The numbered scripts, in running order, each with its first comment line. Read as text: nothing of them runs. */
export function pages(dir = root): PageFile[] {
  return filesIn('scripts', dir).flatMap((file) => {
    const [, number, name] = /^(\d\d)-(.+)\.ts$/.exec(file) ?? []
    if (number === undefined || name === undefined) return []
    const text = readFileSync(join(dir, 'scripts', file), 'utf8')
    return [{ number, name, file: `scripts/${file}`, summary: /^\/\/ ?(.*)$/m.exec(text)?.[1] ?? '' }]
  })
}

function filesIn(dir: string, base = root): string[] {
  try {
    return readdirSync(join(base, dir)).sort()
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return []
    throw error
  }
}

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

/** Tells on standard error why nothing more is done, and gives the exit code. A stack only for `debug`. */
export function refuse(error: unknown, debug = false): number {
  const { message, stack, name } = error instanceof Error ? error : new Error(String(error))
  const lines = [debug ? (stack ?? message) : message]
  if (error instanceof Fault)
    for (const label of ['ran', 'said', 'state', 'next'] as const)
      if (error[label])
        lines.push(
          `  ${`${label}:`.padEnd(7)}${error[label].trimEnd().replaceAll('\n', `\n${' '.repeat(9)}`)}`,
        )
  if (!(error instanceof Fault) && name !== 'ConfigError' && !debug)
    lines.push('  next:  DEBUG=1 shows where this happened')
  process.stderr.write(`${lines.join('\n')}\n`)
  return 1
}

function show(text: string): number {
  process.stdout.write(text)
  return 0
}

/** The table of contents. */
export function list(taskfile: Taskfile, scripts: PageFile[]): string {
  const sections = Object.entries(taskfile).map(
    ([title, tasks]) =>
      [title, Object.entries(tasks).map(([name, t]) => [usage(name, t), t.does] as const)] as const,
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

const usage = (name: string, task: Task) => (task.takes ? `${name} ${task.takes}` : name)

function help(name: string, task: Task): string {
  const lines = [
    `./task ${usage(name, task)}`,
    `  ${task.does}`,
    ...(task.needs ? [`  first:  ${task.needs.join(', ')}`] : []),
    ...(task.run && overPages.has(task.run)
      ? ['  flags:  --layer L0, --site NAME, --yes, --json, --verbose; ./task PAGE --help says what they do']
      : []),
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
  if (page)
    return { does: page.summary, takes: '[plan|apply|verify|undo|print]', page, run: runPageFile(page) }
  const known = [...Object.values(taskfile).flatMap((t) => Object.keys(t)), ...scripts.map((p) => p.name)]
  const near = nearest(name, known)
  throw new Fault(`There is no task '${name}'.${near ? ` Did you mean ${near}?` : ''} ./task lists them.`)
}

/** The spelling in `known` that was probably meant. */
export function nearest(word: string, known: readonly string[]): string | undefined {
  return (load('./nearest.ts') as typeof import('./nearest.ts')).nearest(word, known)
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

export interface Flags {
  words: string[]
  yes: boolean
  json: boolean
  verbose: boolean
  site: string | undefined
  /** The id of the disk that may be formatted. */
  format: string | undefined
  /** The one layer whose pages are meant: L0. */
  layer: string | undefined
  /** Ask kube-bench too, with the controls in this directory. */
  bench: boolean
  configDir: string | undefined
}

const pageFlags = ['yes', 'json', 'verbose', 'site', 'format']

/** The flags and words behind a task's name. Everything unknown is told at once, before anything runs. */
export function flags(call: Call, words: string[], known: readonly string[] = pageFlags): Flags {
  const minimist = load('minimist') as typeof import('minimist')
  const spelt = known.map((flag) => `--${flag}`)
  const faults: string[] = []
  const parsed = minimist(call.argv, {
    boolean: ['yes', 'json', 'verbose', 'bench'].filter((f) => known.includes(f)),
    string: [...['site', 'format', 'layer', 'config-dir'].filter((f) => known.includes(f)), '_'],
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
  for (const flag of ['site', 'format', 'layer', 'config-dir'])
    if (Array.isArray(parsed[flag])) faults.push(`--${flag} is given twice`)
  if (parsed['site'] === '') faults.push('--site needs a name')
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
    layer: parsed['layer'] as string | undefined,
    bench: parsed['bench'] === true,
    configDir: parsed['config-dir'] as string | undefined,
  }
}

/** A check that cannot be made here, and why: among others it is passed over, and said. */
export class NotHere extends Fault {}

/** A task that runs one program with the words behind the task's name added: `command('tsc', '--noEmit')`. */
export const command =
  (program: string, ...args: string[]): Run =>
  async ({ argv, together }) => {
    const { spawn } = load('node:child_process') as typeof import('node:child_process')
    const ran = [program, ...args, ...argv].join(' ')
    const child = spawn(program, [...args, ...argv], {
      cwd: root,
      stdio: together ? ['ignore', 'pipe', 'pipe'] : 'inherit',
    })
    let said = ''
    child.stdout?.on('data', (d) => (said += d))
    child.stderr?.on('data', (d) => (said += d))
    const code = await new Promise<number>((resolve, reject) => {
      child.on('close', (status) => resolve(status === 0 ? 0 : 1))
      child.on('error', (error: NodeJS.ErrnoException) =>
        reject(
          error.code === 'ENOENT'
            ? new NotHere(`${program} is not installed`)
            : new Fault(error.message, { ran }),
        ),
      )
    })
    if (code !== 0 && together) throw new Fault(`${program} failed`, { ran, said })
    return code
  }

/** A command with files behind it; `*` stands for any name in a folder: `onFiles(['lib/*.sh'], 'shellcheck')`. */
export const onFiles =
  (patterns: string[], program: string, ...args: string[]): Run =>
  (call) => {
    const files = patterns.flatMap((pattern) => {
      const [dir, end] = pattern.split('/*')
      if (dir === undefined || end === undefined) return [pattern]
      return filesIn(dir).flatMap((name) => (name.endsWith(end) ? [join(dir, name)] : []))
    })
    return command(program, ...args, ...files)(call)
  }

/** What a module of lib/ exports, loaded now. */
function exported<F extends (...args: never[]) => unknown>(file: string, name: string): F {
  const found = (load(file) as Record<string, F>)[name]
  if (found === undefined) throw new TypeError(`${file} exports no ${name}`)
  return found
}

/** A task of a module of lib/: its function `name`, which reads the words itself. */
export const module =
  (file: string, name: string): Run =>
  (call) =>
    exported<Run>(file, name)(call)

/** The same for a module with a command line of its own: `main(argv, signal)`. */
export const program =
  (file: string): Run =>
  ({ argv, signal }) =>
    exported<(argv: string[], signal: AbortSignal) => Promise<number>>(file, 'main')(argv, signal)

/** A task that writes a file of this project: its text is what the function `name` of a module of lib/ gives. */
export const generate =
  (path: string, file: string, name: string): Run =>
  (call) => {
    flags(call, [], [])
    const { writeFileSync } = load('node:fs') as typeof import('node:fs')
    writeFileSync(join(root, path), exported<() => string>(file, name)())
    return show(`${path} is written.\n`)
  }

type Mode = 'plan' | 'apply' | 'verify' | 'undo' | 'print'
type Pages = typeof import('./pages.ts')

/** Tasks that take the flags of a page. */
const overPages = new WeakSet<Run>()

/** A task that goes through all pages, or those of one layer, in one mode: `undo` from the newest back, the others in running order. */
export function each(mode: Mode): Run {
  const run: Run = (call) => {
    const given = flags(call, mode === 'undo' ? ['[MACHINE]'] : [], [...pageFlags, 'layer'])
    const all = pages().map(open)
    const meant = all.filter((page) => given.layer === undefined || page.layer === given.layer)
    if (meant.length === 0)
      throw new Fault(
        all.length === 0
          ? 'There are no pages in scripts/ yet. Nothing was run.'
          : `There is no page of layer '${given.layer}': there are ${[...new Set(all.map((page) => page.layer))].join(', ')}. Nothing was run.`,
      )
    return (load('./pages.ts') as Pages).runPages(meant, mode, given, call.signal)
  }
  overPages.add(run)
  return run
}

function runPageFile(page: PageFile): Run {
  return ({ argv, signal }) => (load('./pages.ts') as Pages).pageMain(open(page), argv, signal)
}

/** A page of this project, by its name. */
export function pageNamed(name: string): Page {
  const file = pages().find((page) => page.name === name)
  if (file === undefined) throw new Fault(`There is no page '${name}' in scripts/`)
  return open(file)
}

function open({ file }: PageFile): Page {
  let loaded: { default?: Page }
  try {
    loaded = load(join(root, file)) as { default?: Page }
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ERR_REQUIRE_ASYNC_MODULE') throw error
    throw new Fault(`${file} waits while it loads (a top-level await)`, {
      next: 'move the await into a command of a step',
    })
  }
  if (loaded.default === undefined)
    throw new Fault(`${file} has no page`, { next: 'export default script(import.meta, …)' })
  return loaded.default
}
