// Where this kit lies on the laptop, and its files as text. No other file works out a path from where its own code stands.
import { readFileSync } from 'node:fs'
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
