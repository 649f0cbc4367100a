// What of each layer holds: the laptop's log and the machine's own record have to agree, and neither is believed alone.
import type { Answers } from './health.ts'
import type { Verdict } from './history.ts'

/** A page of the site, and the machines that it has steps for. */
export interface SitePage {
  name: string
  layer: string
  machines: string[]
}

/** From what stands worst to what stands best. */
const states = [
  'failed',
  'changed',
  'unknown',
  'unfinished',
  'unchecked',
  'waits',
  'not built',
  'holds',
] as const
export type PageState = (typeof states)[number]

export interface Judged {
  page: string
  layer: string
  machine: string
  state: PageState
  mode?: string
  /** When that was found, by the laptop's clock. */
  time?: string
}

export interface LayerState {
  layer: string
  pages: number
  hold: number
  state: PageState
  /** The pages that are in that state, where not all are. */
  which: string[]
  /** The oldest of what it rests on. */
  time?: string
  next?: string
}

/** Each page on each of its machines. `now` is the laptop's clock. */
export function judge(pages: SitePage[], machines: Answers[], verdicts: Verdict[], now: Date): Judged[] {
  return pages.flatMap((page) =>
    page.machines.map((machine) => {
      const answers = machines.find(({ name }) => name === machine)
      const verdict = verdicts.find((one) => one.page === page.name && one.machine === machine)
      const mine = verdict?.id !== undefined && verdict.id === answers?.id ? verdict : undefined
      const state = answers === undefined ? 'unknown' : stateOf(page.name, answers, mine, now)
      return {
        page: page.name,
        layer: page.layer,
        machine,
        state,
        ...(mine === undefined || state === 'not built' ? {} : { mode: mine.mode, time: mine.time }),
      }
    }),
  )
}

function stateOf(page: string, answers: Answers, verdict: Verdict | undefined, now: Date): PageState {
  if (answers.notBuilt) return 'not built'
  if (answers.silent) return 'unknown'
  const record = answers.pages.find(({ name }) => name === page)
  // A page that found everything as it should be leaves no record.
  const nothingToDo = verdict?.applied === true && !verdict.changed
  if (record === undefined && !nothingToDo) return 'not built'
  if (verdict === undefined || verdict.mode === 'undo') return 'unchecked'
  if (!verdict.ended) return 'unfinished'
  if (verdict.failed > 0) return 'failed'
  if (record !== undefined && record.changed.length > 0) return 'changed'
  const started = now.getTime() - (answers.up ?? 0) * 1000
  const found = Date.parse(verdict.time)
  // What waited for the start may be so now, or not. A time that lies ahead was noted by a clock that was set back since.
  if (!(found >= started && found <= now.getTime() + 120_000)) return 'unchecked'
  return verdict.pending > 0 ? 'waits' : 'holds'
}

/** One line for each layer, from the metal up. */
export function layersOf(judged: Judged[]): LayerState[] {
  const rank = (state: PageState) => states.indexOf(state)
  return [...new Set(judged.map(({ layer }) => layer))].map((layer) => {
    const mine = judged.filter((one) => one.layer === layer)
    const pages = [...new Set(mine.map(({ page }) => page))].map((page) => {
      const all = mine.filter((one) => one.page === page)
      return { page, state: all.map(({ state }) => state).sort((a, b) => rank(a) - rank(b))[0]! }
    })
    const state = pages.map((one) => one.state).sort((a, b) => rank(a) - rank(b))[0]!
    const inState = pages.filter((one) => one.state === state)
    const times = mine.flatMap(({ time }) => time ?? []).sort()
    const next = nextOf(state, layer, inState)
    return {
      layer,
      pages: pages.length,
      hold: pages.filter((one) => one.state === 'holds').length,
      state,
      which: inState.length === pages.length ? [] : inState.map(({ page }) => page),
      ...(times[0] === undefined || state === 'unknown' ? {} : { time: times[0] }),
      ...(next === undefined ? {} : { next }),
    }
  })
}

function nextOf(state: PageState, layer: string, [first, ...more]: { page: string }[]): string | undefined {
  const all = (task: string) => `./task ${task} --layer ${layer}`
  if (state === 'not built') return all('build-all')
  if (state === 'changed') return all('plan-all')
  if (state === 'unfinished') return all('build-all')
  if (state === 'unchecked') return all('verify-all')
  if (state === 'failed')
    return more.length > 0 || first === undefined ? all('verify-all') : `./task ${first.page.slice(3)} verify`
  return undefined
}
