// Where this kit writes for people to read: a directory for each site.
import fs from 'node:fs'
import path from 'node:path'
import { Fault } from '../ground/fault.ts'
import type { Config } from './model.ts'

/** The directory of a site below FK_OUT_DIR; it is there, and can be written. Throws a Fault otherwise. */
export function outDir({
  env,
  site,
}: {
  env: Pick<Config['env'], 'FK_OUT_DIR'>
  site: { name: string }
}): string {
  const dir = path.join(env.FK_OUT_DIR, site.name)
  try {
    fs.mkdirSync(dir, { recursive: true })
    fs.accessSync(dir, fs.constants.W_OK)
    return dir
  } catch (error) {
    throw new Fault(`${dir} cannot be written (${(error as NodeJS.ErrnoException).code})`, {
      state: 'nothing was run',
      next: 'name another directory in FK_OUT_DIR, in your shell or in .env',
    })
  }
}
