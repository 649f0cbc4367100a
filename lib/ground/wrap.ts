// Text for a terminal: as wide as that is, broken between words and never within one, and paths as one types them there.
import { relative } from 'node:path'
import { stripVTControlCharacters } from 'node:util'

/** The columns that a text takes: colours take none. */
export const widthOf = (text: string): number => [...stripVTControlCharacters(text)].length

/**
 * The lines of a text, each no longer than `width` columns where its words allow it: a word that is longer (a path, a command's
 * argument) stands alone and whole. Spaces at the beginning stay, and so does more than one between words of a line. `hanging`
 * spaces begin every line but the first.
 */
export function wrap(text: string, width: number, hanging = 0): string[] {
  const lines: string[] = []
  const [start = ''] = /^ */.exec(text) ?? []
  let line = start
  let empty = true
  for (const word of text.slice(start.length).split(/(?<! ) /)) {
    if (!empty && widthOf(line) + 1 + widthOf(word) > width) {
      lines.push(line)
      line = ' '.repeat(hanging) + word.trimStart()
    } else line += (empty ? '' : ' ') + word
    empty = false
  }
  return [...lines, line]
}

/** A path as one types it here: from the working directory, where it lies below. */
export function shown(path: string): string {
  const near = relative(process.cwd(), path)
  return near.startsWith('..') ? path : near
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
