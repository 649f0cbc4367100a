// What the laptop runs: programs of this computer, and questions to the person in front of it, by zx. The one place that sets
// zx up: it hides which shell stands between, what that inherits, how a command ends in time, and how a failure becomes a Fault.
//
//   const { stdout } = await orFault($`ssh-keygen -lf ${file}`)
//   const { exitCode } = await $({ nothrow: true, input })`cat | age --decrypt --identity ${file}`
//
// zx is loaded when the first command runs (20 ms), the rest of zx when it is used (70 ms): a list of tasks needs neither.
import { closeSync, existsSync, openSync, writeSync } from 'node:fs'
import { createRequire } from 'node:module'
import { delimiter } from 'node:path'
import { createInterface } from 'node:readline'
import { Writable } from 'node:stream'
import { ReadStream, WriteStream } from 'node:tty'
import type { Options, ProcessOutput, ProcessPromise, Shell } from 'zx/core'
import { Fault } from './fault.ts'
import { quote } from './sh.ts'
import { Stopped, stopNow } from './stop.ts'

export type { ProcessOutput, ProcessPromise } from 'zx/core'

const load = createRequire(import.meta.url)
const core = () => load('zx/core') as typeof import('zx/core')

/** All of zx: `retry`, `spinner`, `echo`, `glob`, `within`, `sleep`. Its `$` is not set up: take the one of this file. */
export const zx = () => load('zx') as typeof import('zx')

/** Options of zx's `$`. Here `env` joins the variables of this process; a variable that is `undefined` is taken away. */
type Given = Partial<Omit<Options, 'env'>> & { env?: Record<string, string | undefined> }

/**
 * zx's `$`: bash with `set -euo pipefail`, each `${value}` one word and a list one word each, whatever stands in it. It is quiet,
 * and rejects with the ProcessOutput unless `nothrow` is given. Standard input is empty without `input`, and a socket with it: a
 * program that opens /dev/stdin needs `cat |` in front. A pipe stands in the template: what `.pipe()` adds is not set up here.
 */
export const $ = shell({})

function shell(given: Given): Shell {
  const run = (first: TemplateStringsArray | Given, ...values: unknown[]): unknown => {
    if (!('raw' in first)) return shell({ ...given, ...first })
    const child = core().$(settings(given))(first, ...values.map(word)) as ProcessPromise
    if (given.sync) return child
    child.stdout?.setEncoding('utf8') // zx takes its text apart by chunks, and a letter may stand across two
    child.stderr?.setEncoding('utf8')
    child.stdin?.on('error', () => undefined) // it may end without reading what it is given
    return child
  }
  return Object.defineProperty(run, 'sync', { get: () => shell({ ...given, sync: true }) }) as Shell
}

/** All that zx would take from variables ZX_… or from the moment when it was loaded is set here. */
const settings = ({ env, ...given }: Given): Partial<Options> => ({
  cwd: process.cwd(),
  shell: 'bash',
  prefix: 'set -euo pipefail;',
  postfix: '',
  quote,
  quiet: true,
  verbose: false,
  nothrow: false,
  detached: false,
  preferLocal: false,
  timeout: 0,
  killSignal: 'SIGKILL',
  timeoutSignal: 'SIGKILL',
  kill,
  // With an empty input zx would leave it open for ever.
  stdio: [given.input ? 'pipe' : 'ignore', 'pipe', 'pipe'],
  ...given,
  env: variables(env),
})

/** The variables of this process, without those by which bash reads a file, sets options or replaces commands as it begins. */
function variables(more: Given['env']): NodeJS.ProcessEnv {
  const path = [process.env['PATH'], '/usr/sbin', '/sbin'].filter(Boolean).join(delimiter)
  const env: NodeJS.ProcessEnv = { ...process.env, PATH: path, ...more }
  for (const name of Object.keys(env))
    if (/^(BASH_ENV|ENV|SHELLOPTS|BASHOPTS|BASH_FUNC_.*)$/.test(name)) delete env[name]
  // On the first level, with a socket for standard input, Debian's bash takes itself for a remote shell and reads ~/.bashrc.
  return { ...env, SHLVL: '1' }
}

/** What zx would print as `undefined` or `[object Object]` is refused; of a ProcessOutput it takes what was printed. */
function word(value: unknown): unknown {
  if (value instanceof core().ProcessOutput) return value
  if (Array.isArray(value)) return value.map(word)
  if (typeof value === 'string' || typeof value === 'number' || typeof value === 'bigint') return value
  throw new TypeError(`a word of a command cannot be ${value === null ? 'null' : typeof value}`)
}

/** zx's kill: a process with all that it has started; without ps on this computer the process alone. Never rejects. */
async function kill(pid: number | string, signal: NodeJS.Signals = 'SIGKILL'): Promise<void> {
  try {
    await core().kill(pid as number, signal)
  } catch {
    try {
      process.kill(Number(pid), signal)
    } catch {
      // It has ended by itself.
    }
  }
}

/**
 * Kills a command with all that it has started, and waits for no one who still holds its pipes. What has ended is left alone.
 * With `detached` the command has a process group of its own, and also those of it die whose parent is gone.
 */
export async function end(command: ProcessPromise): Promise<void> {
  const { child } = command
  if (command.output !== null || child?.pid === undefined) return
  await kill(child.pid)
  child.stdout?.destroy()
  child.stderr?.destroy()
}

/** How long a command may take, and what its failure says. */
export interface Limits {
  /** It is killed when it has not ended by then. Default: it may take as long as it likes. */
  seconds?: number
  /** Any exit code will do; otherwise one that is not 0 is a Fault. */
  code?: 'any'
  /** Given each line of its standard output, without the end. */
  onLine?: ((line: string) => void) | undefined
  /** What it complained of, where its standard error went elsewhere. */
  said?: () => string
  /** What to do when the program is not installed. */
  install?: string
}

/** Waits for a command of one program. Throws a Fault: how it ended, what ran, and the last eight lines of what it said. */
export async function orFault(command: ProcessPromise, limits: Limits = {}): Promise<ProcessOutput> {
  const { seconds, code, onLine, said, install } = limits
  const program = /^\S*/.exec(command.cmd)?.[0] ?? ''
  let late = false
  const timer =
    seconds === undefined
      ? undefined
      : setTimeout(() => {
          late = true
          void end(command)
        }, seconds * 1000)
  if (onLine && command.stdout) createInterface({ input: command.stdout }).on('line', onLine)
  const output = await command.catch((failed: ProcessOutput) => failed).finally(() => clearTimeout(timer))
  const { exitCode, signal, cause } = output
  if (exitCode === 127 && which(program) === undefined)
    throw new Fault(`${program} is not installed`, install === undefined ? {} : { next: install })
  const ended = !late && cause === null && exitCode !== null
  if (ended && (exitCode === 0 || code === 'any')) return output
  const last = (said?.() ?? output.stderr).trim().split('\n').slice(-8).join('\n')
  const how = late
    ? `had not ended after ${seconds} s`
    : signal
      ? `was ended by ${signal}`
      : exitCode === null
        ? 'did not start'
        : `failed (exit ${exitCode})`
  throw new Fault(`${program} ${how}`, { ran: command.cmd, said: last || (cause?.message ?? '') })
}

/** The path of a program or, where `name` begins with a slash, of any file; undefined when there is none. */
export function which(name: string): string | undefined {
  if (name.startsWith('/')) return existsSync(name) ? name : undefined
  const { PATH = '' } = variables({})
  return core().which.sync(name, { nothrow: true, path: PATH }) ?? undefined
}

/** The terminal of this process, where standard output goes elsewhere; undefined where there is none. */
function terminal(): WriteStream | undefined {
  if (process.stdout.isTTY) return undefined
  try {
    return new WriteStream(openSync('/dev/tty', 'w'))
  } catch {
    return undefined
  }
}

/** Writes to the terminal itself, wherever standard output goes: nothing of it is in a log. */
export function tell(text: string): void {
  const file = openSync('/dev/tty', 'w')
  try {
    writeSync(file, text)
  } finally {
    closeSync(file)
  }
}

/**
 * What a person types in answer, as zx asks; `hidden`: it is not shown. It is asked on standard output or, where that is no
 * terminal, on the terminal itself. Resolves to '' at the end of the input. Throws Stopped on Ctrl-C. zx by itself would wait for
 * ever in both cases.
 */
export async function question(
  query: string,
  {
    hidden = false,
    input = process.stdin,
    output,
  }: { hidden?: boolean; input?: NodeJS.ReadStream; output?: NodeJS.WriteStream } = {},
): Promise<string> {
  const own = output === undefined ? terminal() : undefined
  const screen = output ?? own ?? process.stdout
  let stopped = false
  const keys = (_: string | undefined, key: { ctrl?: boolean; name?: string }) => {
    if (key.ctrl && key.name === 'c') stopped = true
  }
  let none = () => {}
  const closed = new Promise<string>((resolve) => {
    // An answer closes the line, too, and is resolved at once.
    none = () => void setImmediate(resolve, '')
    input.once('pause', none).once('end', none)
  })
  input.on('keypress', keys)
  const nowhere = new Writable({ write: (_chunk, _encoding, done) => done() }) as NodeJS.WriteStream
  try {
    // What is hidden is asked for when the terminal shows nothing of it any more.
    const answer = zx().question(hidden ? '' : query, { input, output: hidden ? nowhere : screen })
    if (hidden) screen.write(query)
    const found = await Promise.race([answer, closed])
    if (stopped) {
      stopNow()
      throw new Stopped()
    }
    return found
  } finally {
    input.off('keypress', keys).off('pause', none).off('end', none)
    if (hidden) screen.write('\n')
    own?.destroy()
  }
}

/**
 * What a person types at the terminal of this process, wherever its standard input and output lead; it is not shown. Undefined
 * where there is no terminal: a timer, a pipeline.
 */
export async function atTerminal(query: string): Promise<string | undefined> {
  let input: ReadStream
  try {
    input = new ReadStream(openSync('/dev/tty', 'r'))
  } catch {
    return undefined
  }
  const output = new WriteStream(openSync('/dev/tty', 'w'))
  try {
    return await question(query, { hidden: true, input, output })
  } finally {
    input.destroy()
    output.destroy()
  }
}
