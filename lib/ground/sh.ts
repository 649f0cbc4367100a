// Commands as values: shell that is written down now and run later, by somebody else. It hides quoting, and refuses what cannot
// be quoted.
import { read } from './root.ts'
import { Secret } from './secret.ts'

/** A piece of bash. `text` is complete and quoted; `feed` is a secret for its standard input; `at` is where it was written. */
export class Command {
  readonly text: string
  readonly feed: Secret | undefined
  readonly #at: string | Error
  constructor(text: string, feed: Secret | undefined, at: string | Error) {
    this.text = text
    this.feed = feed
    this.#at = at
  }
  get at(): string {
    return typeof this.#at === 'string' ? this.#at : written(this.#at)
  }
  toString(): string {
    return this.text
  }
}

export type Value = string | number | bigint | Command | readonly (string | number | bigint)[]
export type Template = (strings: TemplateStringsArray, ...values: Value[]) => Command

/**
 * A command from a template. Every `${value}` becomes exactly one word of bash (an array: one word each); a Command is
 * spliced in as it is. The text is raw: a backslash stays one; `\${` writes a literal `${`.
 * Throws TypeError for undefined, null, '', NaN, objects, NUL and secrets; SyntaxError for `${}` inside quotes or a heredoc,
 * where the quoting would end up as part of the word.
 */
export const sh: Template = (strings, ...values) => compose(strings, values, undefined)

/** Like `sh`, with a secret on standard input: the one way a secret reaches a machine. */
export const feed =
  (secret: Secret): Template =>
  (strings, ...values) =>
    compose(strings, values, secret)

/** The text of a shell file of the kit without the line that is for shellcheck. */
export const shellText = (path: string): string => read(path).replace(/^# shellcheck.*\n/, '')

/** The functions of shell files of the kit, one file behind the other: a page's checks and commands may use them. */
export const library = (...paths: string[]): Command =>
  new Command(paths.map(shellText).join(''), undefined, paths.at(-1) ?? '')

/** One word for any POSIX shell. */
export function quote(word: string): string {
  return /^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", `'\\''`)}'`
}

function compose(strings: TemplateStringsArray, values: Value[], secret: Secret | undefined): Command {
  // Only a fault needs the place where it was written, and finding that takes longer than all the rest.
  const at = new Error()
  let text = ''
  strings.raw.forEach((piece, i) => {
    text += piece.replaceAll('\\${', '${').replaceAll('\\`', '`')
    if (i >= values.length) return
    const value = values[i]
    const inside = context(text)
    if (inside)
      throw new SyntaxError(
        `\${} number ${i + 1} stands inside ${inside}, at ${written(at)}: write it as a word`,
      )
    text += word(value, i + 1, at)
  })
  const [feed, ...more] = [
    ...new Set([secret, ...values.map((v) => (v instanceof Command ? v.feed : undefined))]),
  ].filter((s) => s !== undefined)
  if (more.length > 0) throw new TypeError(`one command cannot be fed two secrets, at ${written(at)}`)
  return new Command(dedent(text), feed, at)
}

function word(value: unknown, n: number, at: Error): string {
  if (value instanceof Command) return value.text
  if (Array.isArray(value)) {
    if (value.length === 0) throw new TypeError(`\${} number ${n} is an empty list, at ${written(at)}`)
    return value.map((v) => word(v, n, at)).join(' ')
  }
  if (value instanceof Secret)
    throw new TypeError(`\${} number ${n} is a secret, at ${written(at)}: use feed(secret)`)
  if (typeof value === 'number' && !Number.isFinite(value))
    throw new TypeError(`\${} number ${n} is ${value}, at ${written(at)}`)
  if (typeof value !== 'string' && typeof value !== 'number' && typeof value !== 'bigint')
    throw new TypeError(`\${} number ${n} is ${value === null ? 'null' : typeof value}, at ${written(at)}`)
  const text = String(value)
  if (text === '') throw new TypeError(`\${} number ${n} is empty, at ${written(at)}`)
  if (text.includes('\0')) throw new TypeError(`\${} number ${n} holds a NUL byte, at ${written(at)}`)
  return quote(text)
}

/** What kind of text the end of `text` stands in: a quote or a heredoc in which a word cannot be quoted, or nothing. */
function context(text: string): string | undefined {
  const stack: string[] = []
  const heredocs: string[] = []
  for (let i = 0; i < text.length; i++) {
    const c = text[i]
    const top = stack.at(-1)
    if (top === "'") {
      if (c === "'") stack.pop()
    } else if (c === '\\') i++
    else if (c === '$' && text[i + 1] === '(') stack.push(text[++i] as string)
    else if (top === '"') {
      if (c === '"') stack.pop()
    } else if (c === '#' && /(^|[\s;(])$/.test(text.slice(0, i))) {
      const end = text.indexOf('\n', i)
      i = end < 0 ? text.length : end - 1
    } else if (c === '"' || c === "'" || c === '(') stack.push(c)
    else if (c === ')' && top === '(') stack.pop()
    else if (c === '<' && text.startsWith('<<', i) && text[i + 2] !== '<') {
      const [all, end] = /^<<-?\s*['"\\]?(\w+)['"]?/.exec(text.slice(i)) ?? []
      if (end !== undefined) heredocs.push(end)
      i += (all ?? '<<').length - 1
    } else if (c === '<' && text.startsWith('<<<', i)) i += 2
    else if (c === '\n' && heredocs.length > 0) {
      for (const end of heredocs.splice(0)) {
        const close = new RegExp(`^\\t*${end}$`, 'm').exec(text.slice(i + 1))
        if (!close) return `the heredoc ${end}`
        i += close.index + close[0].length
      }
    }
  }
  const last = stack.at(-1)
  return last === "'" || last === '"' ? `${last} quotes` : undefined
}

/** Templates are indented with the page around them; the command is not. Single-line commands are only trimmed. */
function dedent(text: string): string {
  const lines = text
    .replace(/^\s*\n/, '')
    .trimEnd()
    .split('\n')
  const rest = lines.slice(1).filter((l) => l.trim() !== '')
  const first = text.startsWith('\n') ? lines.filter((l) => l.trim() !== '') : rest
  const indent = Math.min(...first.map((l) => /^ */.exec(l)?.[0].length ?? 0))
  if (!Number.isFinite(indent) || text.includes('<<')) return lines.join('\n').trim()
  return lines.map((l, i) => (i === 0 && !text.startsWith('\n') ? l.trimStart() : l.slice(indent))).join('\n')
}

/** The file and line outside of this module that an error was made for. */
function written(at: Error): string {
  const frames = (at.stack ?? '').split('\n').slice(1)
  const frame = frames.find((f) => !/[/\\]lib[/\\]ground[/\\](sh|secret)\.ts/.test(f)) ?? ''
  return /([^/\\(]+:\d+):\d+\)?$/.exec(frame)?.[1] ?? 'unknown place'
}
