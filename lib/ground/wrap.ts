// Text for a terminal of a certain width: it breaks between words, and never within one.
import { stripVTControlCharacters } from 'node:util'

/** The columns that a text takes: colours take none. */
export const widthOf = (text: string): number => [...stripVTControlCharacters(text)].length

/**
 * The lines of a text, each no longer than `width` columns where its words allow it: a word that is longer (a path, a command's
 * argument) stands alone and whole. `hanging` spaces begin every line but the first.
 */
export function wrap(text: string, width: number, hanging = 0): string[] {
  const lines: string[] = []
  let line = ''
  for (const word of text.split(' ')) {
    if (line.trim() !== '' && widthOf(line) + 1 + widthOf(word) > width) {
      lines.push(line)
      line = ' '.repeat(hanging) + word
    } else line = line === '' && lines.length === 0 ? word : `${line} ${word}`
  }
  return [...lines, line]
}

/** A row of two columns: `left` in its column of `width`, or above where it is wider, and what it means beside it. */
export function beside(left: string, right: string, { width, columns }: Columns): string[] {
  const gap = ' '.repeat(width)
  const [first = '', ...rest] = wrap(right, columns - width)
  const above = widthOf(left) > width - 2
  const lines = above ? [left, gap + first] : [left + ' '.repeat(width - widthOf(left)) + first]
  return [...lines, ...rest.map((line) => gap + line)].map((line) => line.trimEnd())
}

interface Columns {
  /** Of the left column, with the gap behind it. */
  width: number
  /** Of the whole line. */
  columns: number
}
