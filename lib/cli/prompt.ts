// The person at the terminal: whether there is one, and what is typed.
import { Fault } from '../ground/fault.ts'
import { question } from '../ground/laptop.ts'

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
