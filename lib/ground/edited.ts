// Changes in the text of a YAML document that leave the rest as a person wrote it: comments, order, spaces.
import { createRequire } from 'node:module'
import type { Document } from 'yaml'

const load = createRequire(import.meta.url)
const yaml = () => load('yaml') as typeof import('yaml')

/** A key of the outermost map with its value, and what stands above it: comments from the first column, and empty lines. */
export interface Section {
  key: string
  lead: string
  body: string
}

/**
 * The text after a change of its document; `change` may also give another document, which takes its place. A line that says the
 * same stands as it stood, long lines stay long, and so does the indentation.
 */
export function edited(text: string, change: (document: Document) => Document | void): string {
  const { parse, parseDocument } = yaml()
  const document = parseDocument(text)
  const indent = Math.min(8, ...text.split('\n').map((line) => /^( +)[^ #]/.exec(line)?.[1]?.length ?? 8))
  const other = change(document)
  const next = (other ?? document).toString({
    lineWidth: 0,
    indent: indent === 8 ? 2 : indent,
    singleQuote: true,
    indentSeq: !/^( *)[^ #-][^\n]*:[ \t]*(#.*)?\n(\s*#.*\n)*\1- /m.test(text),
  })
  // The library has its own taste in spaces.
  const words = (line: string) => line.replaceAll(/\s/g, '')
  const margin = (line: string) => /^ */.exec(line)?.[0] ?? ''
  const old = text.split('\n').map((line) => [line, words(line)] as const)
  const same = new Map(old.map(([line, said]) => [margin(line) + said, line]))
  const moved = new Map(old.map(([line, said]) => [said, line]))
  // A comment behind a key that has a block below it is given a line of its own.
  const whole = next.replaceAll(/^( *[^\n]*:)\n *(#[^\n]*)$/gm, (two, key: string, comment: string) =>
    moved.has(words(key + comment)) ? `${key} ${comment}` : two,
  )
  const lines = whole.split('\n').map((line) => {
    const said = words(line)
    const stood = same.get(margin(line) + said)
    if (stood !== undefined || said === '') return stood ?? line
    const elsewhere = moved.get(said)
    // The library takes a comment above a key for the end of what is before it.
    if (elsewhere !== undefined)
      return said.startsWith('#') && !other ? elsewhere : margin(line) + elsewhere.trimStart()
    return line.replaceAll(/([[]) ([^'"#[\]]*) ([\]])/g, '$1$2$3')
  })
  const found = lines.join('\n')
  // Spaces within a word count.
  return JSON.stringify(parse(found)) === JSON.stringify(parse(next)) ? found : next
}

/** Comments from the first column, and empty lines, at the end of a text. */
const trailing = (text: string): string => /(?<![^\n])(?:(?:#.*|[ \t]*)\n)*$/.exec(text)?.[0] ?? ''

/**
 * The sections of a document whose outermost map has a line for each key; undefined for any other. The last one has no key: it is
 * what stands below all.
 */
export function sectionsOf(text: string): Section[] | undefined {
  const { isMap, isScalar, parseDocument } = yaml()
  const { contents } = parseDocument(text)
  if (!isMap(contents) || contents.flow) return undefined
  const starts = contents.items.map(({ key }) =>
    isScalar(key) ? { key: String(key.value), at: key.range?.[0] ?? 0 } : undefined,
  )
  const sections: Section[] = []
  let end = text.length
  for (const start of starts.toReversed()) {
    if (start === undefined) return undefined
    const from = text.lastIndexOf('\n', start.at - 1) + 1
    const lead = trailing(text.slice(0, from))
    sections.unshift({ key: start.key, lead, body: text.slice(from, end) })
    end = from - lead.length
  }
  const [first] = sections
  const last = sections.at(-1)
  if (first === undefined || last === undefined) return undefined
  first.lead = text.slice(0, end) + first.lead
  const tail = trailing(last.body)
  last.body = last.body.slice(0, last.body.length - tail.length)
  return [...sections, { key: '', lead: '', body: tail }]
}

/** The text of sections. */
export const assembled = (sections: Section[]): string =>
  sections.map(({ lead, body }) => lead + body).join('')

/** Every comment of a text, from its # on. */
export function commentsOf(text: string): string[] {
  const lexemes = [...new (yaml().Lexer)().lex(text)]
  // Plain text and the lines of a block have a mark in front.
  return lexemes.flatMap((lexeme, i) =>
    lexeme.startsWith('#') && lexemes[i - 1] !== '\u001f' ? lexeme.trimEnd() : [],
  )
}
