// What is said where a page names a file of config/ that is not there. Loaded only then.
import { existsSync, readdirSync } from 'node:fs'
import { basename, dirname, join } from 'node:path'
import { Fault } from '../ground/fault.ts'
import { nearest } from '../ground/nearest.ts'
import { root } from '../ground/root.ts'

/** The Fault for a file that a step of `page` wants. Any other error is given back as it is. */
export function missing(page: string, error: unknown): unknown {
  const { code, file, by } = error as NodeJS.ErrnoException & { file?: string; by?: string }
  if (code !== 'ENOENT' || file === undefined || by === undefined) return error
  const dir = dirname(file)
  const near = nearest(basename(file), existsSync(join(root, dir)) ? readdirSync(join(root, dir)) : [])
  return new Fault(
    `${page}: ${file} is missing${near === undefined ? '' : `; did you mean ${dir}/${near}?`}`,
    {
      state: `the step '${by}' is made of it. Nothing was run.`,
      next: `write ${file}, or correct from: in that step`,
    },
  )
}
