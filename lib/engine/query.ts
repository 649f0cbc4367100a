// A question to a machine outside of a page: a few statements of bash, and the named values of their answer.
import { Fault } from '../ground/fault.ts'
import type { Command } from '../ground/sh.ts'
import type { Machine } from './machine.ts'
import { plain } from './program.ts'
import { onAnswer } from './wire.ts'

export interface Query {
  /** Shell files whose functions the statements use. */
  libraries?: string[]
  /** What it is for, in an error: "the drill". */
  what?: string
  /** How long it may take. */
  seconds?: number
}

/**
 * Runs bash on a machine; resolves to the values of its last `answer NAME KEY VALUE…`, none where there was none. Throws a
 * Fault when it was interrupted, and for `answer refused why REASON`.
 */
export async function query(
  machine: Machine,
  statements: string[],
  { libraries = [], what = 'the query', seconds = 300 }: Query = {},
): Promise<Record<string, string>> {
  let answer: Record<string, string> = {}
  let refused: string | undefined
  const outcome = await machine.run(
    await plain('query', statements, libraries),
    onAnswer((values, name) => {
      if (name === 'refused') refused = values['why'] ?? ''
      else answer = values
    }),
    seconds,
  )
  if (!outcome.finished || refused !== undefined)
    throw new Fault(`${machine.label}: ${what} failed`, {
      said: [refused, outcome.stderr.trim()].filter(Boolean).join('\n'),
    })
  return answer
}

/** A statement that answers `refused` with what the command said when it fails; behind it `$said` is that. */
export const failAsAnswer = (command: Command): string =>
  `said=$({ ${command.text}; } 2>&1) || { answer refused why "$said"; exit 0; }`
