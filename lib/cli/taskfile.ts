// What Taskfile.ts is written with: the tasks, and the ways in which one runs.
// The list of tasks must come at once, so nothing is imported here that a list does not need; the rest is loaded when it is used.
import { createRequire } from 'node:module'
import { join } from 'node:path'
import { Fault } from '../ground/fault.ts'
import { root } from '../ground/root.ts'
import { flags, pageFlags } from './flags.ts'
import { filesIn, open, pages } from './scripts.ts'

const load = createRequire(import.meta.url)

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

// `*` is any name in a folder, `**` also the folders below.
/** A command with the files behind it that patterns name: `onFiles(['config/k3s/*.sh'], 'shellcheck')`. */
export const onFiles =
  (patterns: string[], program: string, ...args: string[]): Run =>
  (call) => {
    const files = patterns.flatMap((pattern) => {
      const [dir, end] = pattern.split(/\/(?:\*\*\/)?\*/)
      if (dir === undefined || end === undefined) return [pattern]
      return filesIn(dir, { below: pattern.includes('/**/') }).flatMap((name) =>
        name.endsWith(end) ? [join(dir, name)] : [],
      )
    })
    return command(program, ...args, ...files)(call)
  }

/** What a module exports, loaded now; its path is from the root. */
function exported<F extends (...args: never[]) => unknown>(file: string, name: string): F {
  const found = (load(join(root, file)) as Record<string, F>)[name]
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
    process.stdout.write(`${path} is written.\n`)
    return 0
  }

type Mode = 'plan' | 'apply' | 'verify' | 'undo' | 'print'
type Pages = typeof import('./pages.ts')

/** Tasks that take the flags of a page. */
export const overPages = new WeakSet<Run>()

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
