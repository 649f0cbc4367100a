// A real terminal for a test: a command behind a pseudo-terminal of `script` (util-linux), read and typed into as a person would.
import { type ChildProcess, spawn } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { stripVTControlCharacters } from 'node:util'
import { quote } from '../lib/ground/sh.ts'

export interface Terminal {
  /** All that was written so far, without colour and cursor codes. */
  text(): string
  /** Waits until what was written since the last `until` matches; rejects with all of it when that takes too long. */
  until(pattern: RegExp, seconds?: number): Promise<string>
  /** Types a line. */
  type(line: string): void
  /** Ctrl-C. */
  interrupt(): void
  /** The exit code, once the command has ended. */
  ended: Promise<number>
  /** A signal to the command, as another process sends it. */
  signal(name: NodeJS.Signals): void
  /** Hangs up, as a laptop that is closed. */
  kill(): void
}

interface Options {
  cwd: string
  env: Record<string, string | undefined>
  columns?: number
  /** Run in this network namespace. */
  namespace?: string
}

/** Starts `words` on a terminal of its own. */
export function terminal(words: string[], { cwd, env, columns = 80, namespace }: Options): Terminal {
  const command = `stty cols ${columns} rows 40; exec ${words.map((word) => quote(word)).join(' ')}`
  const script = ['script', '--quiet', '--flush', '--return', '--command', command, '/dev/null']
  const [program, ...rest] = namespace === undefined ? script : ['ip', 'netns', 'exec', namespace, ...script]
  const child: ChildProcess = spawn(program ?? '', rest, {
    cwd,
    env: { TERM: 'xterm-256color', SHELL: '/bin/bash', ...env },
    stdio: ['pipe', 'pipe', 'inherit'],
  })
  let written = ''
  let seen = 0
  const waiting = new Set<() => void>()
  const wake = () => waiting.forEach((one) => one())
  child.stdout?.setEncoding('utf8').on('data', (data: string) => {
    written += data
    wake()
  })
  let code: number | undefined
  const ended = new Promise<number>((resolve, reject) =>
    child.on('error', reject).on('close', (status) => {
      code = status ?? -1
      wake()
      resolve(code)
    }),
  )
  const text = () => stripVTControlCharacters(written).replaceAll('\r\n', '\n')
  return {
    text,
    ended,
    type: (line) => void child.stdin?.write(`${line}\n`),
    interrupt: () => void child.stdin?.write('\u0003'),
    signal: (name) => {
      const [pid] = readFileSync(`/proc/${child.pid}/task/${child.pid}/children`, 'utf8').split(' ')
      process.kill(Number(pid), name)
    },
    kill: () => void child.kill('SIGHUP'),
    until: (pattern, seconds = 60) =>
      new Promise((resolve, reject) => {
        const end = (settle: () => void) => {
          clearTimeout(timer)
          waiting.delete(look)
          settle()
        }
        const look = () => {
          const found = pattern.exec(text().slice(seen))
          if (found) {
            seen += found.index + found[0].length
            end(() => resolve(found[0]))
          } else if (code !== undefined)
            end(() => reject(new Error(`ended with ${code} before ${pattern}:\n${text()}`)))
        }
        const timer = setTimeout(
          () => end(() => reject(new Error(`${pattern} did not come in ${seconds} s:\n${text()}`))),
          seconds * 1000,
        )
        waiting.add(look)
        look()
      }),
  }
}
