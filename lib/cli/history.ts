// What this laptop's run logs say of each page on each machine: how it was last run, and what came of it.
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'

/** The last run of a page on a machine from this laptop; plans say nothing. */
export interface Verdict {
  page: string
  machine: string
  /** Which machine that was: the `id` of its facts. Absent in logs of older versions. */
  id?: string
  mode: string
  /** When it ended, or began where it did not end; by the laptop's clock. */
  time: string
  ended: boolean
  failed: number
  /** Whatever neither holds nor failed: it waits for somebody, or for the next start of the machine. */
  pending: number
  /** The page was applied since it was last undone. */
  applied: boolean
  /** It has changed something since then, of which the machine keeps a record. */
  changed: boolean
}

const lines = (text: string) => text.split('\n').filter(Boolean)

/** The verdicts of a log directory; of many logs the newest `most` are read. */
export function verdictsIn(dir: string, most = 100): Verdict[] {
  if (!existsSync(dir)) return []
  const files = readdirSync(dir)
    .filter((name) => name.endsWith('.ndjson'))
    .sort()
    .slice(-most)
  const runs = files.flatMap((file) => runsIn(readFileSync(join(dir, file), 'utf8')))
  const last = new Map<string, Verdict>()
  for (const run of runs.sort((a, b) => (a.time < b.time ? -1 : 1))) {
    const key = `${run.page} ${run.machine}`
    const before = last.get(key)
    // What an undo has taken back, and what another machine of that name was, is over.
    const since = run.mode === 'undo' || before?.id !== run.id ? undefined : before
    const applied = run.mode === 'apply' || since?.applied === true
    last.set(key, { ...run, applied, changed: run.changed || since?.changed === true })
  }
  return [...last.values()].sort((a, b) => (a.page < b.page ? -1 : 1))
}

/** The counts of a summary that are no reason to doubt a page; a count that is not among them is one, also a new one. */
const good = new Set(['hold', 'changed', 'failed', 'waived', 'notApplicable', 'steps', 'total', 'seconds'])

/** The runs of pages in one log. A line that was cut short by the end of a run is left out. */
function runsIn(text: string): Verdict[] {
  const runs: Verdict[] = []
  for (const line of lines(text)) {
    let event: Record<string, unknown>
    try {
      event = JSON.parse(line) as Record<string, unknown>
    } catch {
      continue
    }
    const { event: kind, name, time, mode, machine, id } = event
    if (kind === 'page' && typeof machine === 'string' && mode !== 'plan')
      runs.push({
        page: String(name),
        machine: machine.replace(/ \(.*$/, ''),
        ...(typeof id === 'string' ? { id } : {}),
        mode: String(mode),
        time: String(time ?? ''),
        ended: false,
        failed: 0,
        pending: 0,
        applied: false,
        changed: false,
      })
    // A page that was never applied there is not verified: it says so in place of a summary.
    if (kind === 'result' && event['state'] === 'not built') {
      const last = runs.findLastIndex((one) => one.page === name && !one.ended)
      if (last >= 0) runs.splice(last, 1)
    }
    const run = kind === 'summary' ? runs.findLast((one) => one.page === name && !one.ended) : undefined
    if (run === undefined) continue
    const count = (key: string) => (typeof event[key] === 'number' ? event[key] : 0)
    run.time = String(time)
    run.ended = true
    run.failed = count('failed')
    run.pending = Object.keys(event).reduce((sum, key) => sum + (good.has(key) ? 0 : count(key)), 0)
    run.changed = count('changed') > 0
  }
  return runs
}
