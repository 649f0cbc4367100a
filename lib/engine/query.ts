// A question to a machine outside of a page: a few statements of bash, and the values of their answer.
import { Fault } from '../ground/fault.ts'
import type { Command } from '../ground/sh.ts'
import type { Machine } from './machine.ts'
import { plain } from './program.ts'

export interface Query {
  /** Shell files whose functions the statements use. */
  libraries?: string[]
  /** What it is for, in an error: "the drill". */
  what?: string
  /** How long it may take. */
  seconds?: number
}

/**
 * Runs bash on a machine; resolves to the values of its last `frame answer`, none where there was none. Throws a Fault when it did not
 * come to its end, and for `frame answer no REASON`.
 */
export async function query(
  machine: Machine,
  statements: string[],
  { libraries = [], what = 'the query', seconds = 300 }: Query = {},
): Promise<string[]> {
  let answer: string[] = []
  const program = await plain('query', statements, libraries)
  const outcome = await machine.run(
    program,
    ({ kind, fields }) => {
      if (kind === 'answer') answer = fields
    },
    seconds,
  )
  if (!outcome.finished || answer[0] === 'no')
    throw new Fault(`${machine.label}: ${what} failed`, {
      said: [answer[0] === 'no' ? answer[1] : '', outcome.stderr.trim()].filter(Boolean).join('\n'),
    })
  return answer
}

/** A statement that answers `no` with what the command said when it fails. */
export const failAsAnswer = (command: Command): string =>
  `said=$({ ${command.text}; } 2>&1) || { frame answer no "$said"; exit 0; }`
