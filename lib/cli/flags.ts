// The argument table of a command: its words and flags, each with one line of help. What is typed is checked against the
// table, and --help is the table.
import { parseArgs } from 'node:util'
import { Fault } from '../ground/fault.ts'
import { nearest } from '../ground/nearest.ts'

export interface Word {
  /** What it is: `MACHINE`, or in small letters what is chosen: `mode`. */
  name: string
  help?: string
  optional?: true
  /** The last word of a table: it may stand several times. */
  many?: true
  /** The words that are known, each with its line of help. */
  among?: Readonly<Record<string, string>>
}

export interface Flag {
  /** What its value is called; a flag without one is a switch. */
  takes?: string
  /** The values that are known; upper and lower case are the same. */
  among?: readonly string[]
  help: string
}

export interface Table {
  words: readonly Word[]
  flags: Readonly<Record<string, Flag>>
  /** Another program reads everything behind the name; this table is only its help. `all`: a later --help is for it, too. */
  passed?: true | 'all'
  /** Sentences below the table. */
  notes?: readonly string[]
}

/** What was typed, by the names of a table. */
export type Given<T extends Table> = { words: string[] } & {
  [F in keyof T['flags']]: T['flags'][F] extends { takes: string } ? string | undefined : boolean
}

/** Reads the words and flags behind a task's name. Throws a Fault with everything that is wrong at once, before anything runs. */
export function parse<T extends Table>({ name, argv }: { name: string; argv: string[] }, table: T): Given<T> {
  const options = Object.fromEntries(
    Object.entries(table.flags).map(([flag, { takes }]) => [
      flag,
      { type: takes === undefined ? ('boolean' as const) : ('string' as const) },
    ]),
  )
  const { tokens } = parseArgs({ args: argv, options, strict: false, tokens: true })
  const faults: string[] = []
  const words: string[] = []
  const values: Record<string, string | boolean | undefined> = Object.fromEntries(
    Object.entries(table.flags).map(([flag, { takes }]) => [flag, takes === undefined ? false : undefined]),
  )
  for (const token of tokens) {
    if (token.kind === 'positional') words.push(token.value)
    if (token.kind !== 'option') continue
    const flag = Object.hasOwn(table.flags, token.name) ? table.flags[token.name] : undefined
    if (flag === undefined || !token.rawName.startsWith('--'))
      faults.push(unknownFlag(name, token.rawName, table))
    else if (flag.takes === undefined) {
      if (token.value !== undefined) faults.push(`${token.rawName} takes no value`)
      values[token.name] = true
    } else {
      const missing = !token.value || (token.inlineValue === false && token.value.startsWith('-'))
      if (missing) faults.push(`${token.rawName} needs a value: ${token.rawName} ${flag.takes}`)
      else if (values[token.name] !== undefined) faults.push(`${token.rawName} is given twice`)
      values[token.name] = chosen(token.value, flag, token.rawName, faults)
    }
  }
  faults.push(...wordFaults(name, words, table))
  if (faults.length > 0) throw new Fault(`${faults.join('\n')}\nNothing was run.`)
  return { words, ...values } as Given<T>
}

function unknownFlag(name: string, flag: string, { flags }: Table): string {
  const known = Object.keys(flags).map((each) => `--${each}`)
  return `${name} has no flag '${flag}'${hint(flag, known)}`
}

/** The value as the table spells it; one that is not in the table is a fault. */
function chosen(
  value: string | undefined,
  { among }: Flag,
  flag: string,
  faults: string[],
): string | undefined {
  if (among === undefined || value === undefined || value.startsWith('-')) return value
  const found = among.find((known) => known.toLowerCase() === value.toLowerCase())
  if (found === undefined) faults.push(`${flag} has no '${value}'${hint(value, among)}`)
  return found
}

function wordFaults(name: string, given: string[], { words }: Table): string[] {
  const faults = words.flatMap((word, i) => {
    const typed = given[i]
    if (typed === undefined)
      return word.optional ? [] : [`${name} needs ${shape(word)}: ./task ${usage(name, { words })}`]
    if (word.among === undefined || Object.hasOwn(word.among, typed)) return []
    return [`${name} has no ${word.name} '${typed}'${hint(typed, Object.keys(word.among))}`]
  })
  const extra = words.at(-1)?.many ? '' : given.slice(words.length).join(' ')
  const takes = words.length === 0 ? 'no words' : words.map(shape).join(' ')
  return extra === '' ? faults : [...faults, `${name} takes ${takes}: '${extra}' is too much`]
}

/** What was probably meant, or else everything that there is. */
const hint = (typed: string, known: readonly string[]): string => {
  const near = nearest(typed, known)
  return near ? `; did you mean ${near}?` : known.length > 0 ? `: it has ${known.join(', ')}` : ''
}

const shape = ({ name, among, optional, many }: Word): string => {
  const words = among === undefined ? `${name}${many ? '…' : ''}` : Object.keys(among).join('|')
  return optional ? `[${words}]` : words
}

/** `node rebuild|destroy NAME`: a task's name with the words that it takes. */
export const usage = (name: string, table: Pick<Table, 'words'> | undefined): string =>
  [name, ...(table?.words ?? []).map(shape)].join(' ')

/** The lines of a table for --help: words, flags, notes. Empty for a table of nothing. */
export function helpLines({ words, flags, notes = [] }: Table): string[] {
  const wordRows = words.flatMap((word) => [
    ...(word.help === undefined
      ? []
      : [[word.among === undefined ? shape(word) : `(no ${word.name})`, word.help]]),
    ...Object.entries(word.among ?? {}),
  ])
  const flagRows = Object.entries(flags).map(([name, { takes, help, among }]) => [
    `--${name}${takes === undefined ? '' : ` ${takes}`}`,
    among === undefined ? help : `${help}: ${among.join(', ')}`,
  ])
  const width = Math.max(0, ...[...wordRows, ...flagRows].map(([left = '']) => left.length))
  const block = (rows: string[][]) => rows.map(([left = '', right]) => `  ${left.padEnd(width)}  ${right}`)
  return [block(wordRows), block(flagRows), [...notes]]
    .filter((lines) => lines.length > 0)
    .flatMap((lines) => ['', ...lines])
}
