// The person at the terminal: whether there is one, and what is typed.
import { randomInt } from 'node:crypto'
import { Fault } from '../ground/fault.ts'
import { question, tell } from '../ground/laptop.ts'

/**
 * Somebody can be asked: standard input is a terminal, and no program reads the output. Where it goes does not matter: behind a
 * pipe (`| tee file`) a question goes to the terminal itself.
 */
export const interactive = (json = false): boolean => process.stdin.isTTY === true && !json

/** How a person is asked. */
export type Ask = (query: string) => Promise<string>

/** Whether a person says yes to this. */
export const agrees = async (asked: string, ask: Ask = question): Promise<boolean> =>
  /^y(es)?$/i.test((await ask(`${asked} [y/N] `)).trim())

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
    ask = question,
  }: { about: string; confirm: string | undefined; terminal: boolean; what: string; ask?: Ask },
): Promise<void> {
  const answer = confirm ?? (terminal ? await ask(`${about}\nType ${name} to go on: `) : undefined)
  if (answer === name) return
  throw new Fault(answer === undefined ? `${what} was not confirmed` : `the name is ${name}, not ${answer}`, {
    state: 'nothing was changed',
    next: `type ${name} at the prompt, or say --confirm ${name}`,
  })
}

/** A second screen of the terminal, which leaves nothing of itself behind. */
const [aside, back] = ['\x1b[?1049h\x1b[H', '\x1b[?1049l']

/**
 * Shows a key of groups once, on the terminal itself, and asks for two of its groups when it is gone from there. Whether both are
 * right; a slip of the pen can be mended twice. `pick` chooses the groups.
 */
export async function writtenDown(
  key: string,
  {
    ask = question,
    say = tell,
    pick = twoOf,
  }: { ask?: Ask; say?: (text: string) => void; pick?: (of: number) => [number, number] } = {},
): Promise<boolean> {
  const groups = key.split('-')
  const lines = groups.map((group, i) => `  ${i + 1}  ${group}\n`).join('')
  say(`${aside}The recovery key of the vault. It is shown once: write it on paper, and keep the paper\n`)
  say(`where neither the machine nor this laptop is.\n\n${lines}\n`)
  try {
    await ask('Enter, when it is on paper: ')
  } finally {
    say(back)
  }
  const asked = pick(groups.length)
  for (let tries = 0; tries < 3; tries++) {
    const right: boolean[] = []
    for (const i of asked)
      right.push(
        (await ask(`From the paper, group ${i + 1} of the recovery key: `)).trim().toLowerCase() ===
          groups[i],
      )
    if (right.every(Boolean)) return true
    say('That is not what was shown.\n')
  }
  return false
}

function twoOf(many: number): [number, number] {
  const first = randomInt(many)
  return [first, (first + 1 + randomInt(many - 1)) % many]
}
