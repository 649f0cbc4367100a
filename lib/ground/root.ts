// Where this kit lies on the laptop, and its files as text. No other file works out a path from where its own code stands.
import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { join } from 'node:path'

/** The directory of the kit. */
export const root = join(import.meta.dirname, '../..')

/** The text of a file of the kit, by its path from the root. `by`: the step that wants it, which the error names. */
export function read(path: string, by?: string): string {
  try {
    return readFileSync(join(root, path), 'utf8')
  } catch (error) {
    throw Object.assign(error as Error, { file: path, by })
  }
}

/** The value of a YAML document. Parsing takes a tenth of a second, and loading the parser as long again: it is kept. */
export function parsed(text: string): unknown {
  const load = createRequire(import.meta.url)
  const { recall, remember } = load('./kept.ts') as typeof import('./kept.ts')
  const key = createHash('sha256').update(text).digest('hex')
  const known = recall(root, 'yaml', key)
  if (known !== undefined) return known
  const value = (load('yaml') as typeof import('yaml')).parse(text) as unknown
  remember(root, 'yaml', key, value)
  return value
}
