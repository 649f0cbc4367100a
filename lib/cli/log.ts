// The log of a run: one file for each, one event a line, for this user alone.
import { appendFileSync, mkdirSync } from 'node:fs'
import { join } from 'node:path'
import type { Event } from '../engine/report.ts'

export interface RunLog {
  file: string
  write: (event: Event) => void
}

/** Writes events to a new file in `dir`. A run whose log cannot be written runs all the same. */
export function runLog(dir: string): RunLog {
  const file = join(dir, `${new Date().toISOString().replaceAll(/[:.]/g, '-')}-${process.pid}.ndjson`)
  let works = true
  const write = (event: Event): void => {
    if (!works) return
    try {
      mkdirSync(dir, { recursive: true, mode: 0o700 })
      appendFileSync(file, `${JSON.stringify(event)}\n`, { mode: 0o600 })
    } catch {
      works = false
    }
  }
  return { file, write }
}
