// The person at the terminal: whether there is one, and what is typed.
import { createRequire } from 'node:module'
import { createInterface } from 'node:readline'
import { Writable } from 'node:stream'
import { Fault } from '../ground/fault.ts'

const load = createRequire(import.meta.url)

/** Somebody can be asked: both ends are a terminal, and no program reads the output. */
export const interactive = (json = false): boolean =>
  process.stdin.isTTY === true && process.stdout.isTTY === true && !json

/** The line that is typed; empty when the input ends. Ctrl-C rejects with a Fault. */
export async function ask(query: string): Promise<string> {
  const { question } = load('zx') as typeof import('zx')
  // zx leaves the promise open when Ctrl-C or Ctrl-D ends the input.
  let stop: (key: { ctrl?: boolean; name?: string } | undefined) => void = () => {}
  let ended = () => {}
  const stopped = new Promise<string>((resolve, reject) => {
    ended = () => resolve('')
    stop = (key) => {
      if (key?.ctrl && key.name === 'c') reject(new Fault('Stopped. Nothing was run.'))
      else if (key?.ctrl && key.name === 'd') resolve('')
    }
  })
  const pressed = (_text: unknown, key: Parameters<typeof stop>[0]) => stop(key)
  process.stdin.on('keypress', pressed).once('end', ended)
  try {
    return await Promise.race([question(query), stopped])
  } finally {
    process.stdin.off('keypress', pressed).off('end', ended)
  }
}

/** The same for a password: what is typed is not shown. zx has no such question. */
export function askHidden(query: string): Promise<string> {
  const muted = new Writable({ write: (_chunk, _encoding, done) => done() })
  process.stdout.write(query)
  const lines = createInterface({ input: process.stdin, output: muted, terminal: true })
  return new Promise<string>((resolve, reject) => {
    lines.once('line', resolve)
    lines.once('SIGINT', () => reject(new Fault('Stopped. Nothing was run.')))
    lines.once('close', () => resolve(''))
  }).finally(() => {
    lines.close()
    process.stdout.write('\n')
  })
}

/**
 * What destroys is confirmed by the name of what it hits: by --confirm, or typed at a terminal. `about` is the sentence before
 * the question. Throws a Fault when the name is another, or when nobody can be asked.
 */
export async function confirmed(
  name: string,
  {
    about,
    confirm,
    terminal,
    what,
  }: { about: string; confirm: string | undefined; terminal: boolean; what: string },
): Promise<void> {
  const answer = confirm ?? (terminal ? await ask(`${about}\nType ${name} to go on: `) : undefined)
  if (answer === name) return
  throw new Fault(answer === undefined ? `${what} was not confirmed` : `the name is ${name}, not ${answer}`, {
    state: 'nothing was changed',
    next: `type ${name} at a terminal, or --confirm ${name}`,
  })
}
