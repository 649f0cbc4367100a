// The end of a run over many pages: what holds, what is left and why, and the command that goes on.
import type { Page } from '../engine/page.ts'
import { type PageState, type RunEnd, type Stop, count } from '../engine/report.ts'
import type { Mode, Result } from '../engine/verdict.ts'
import { shown } from '../ground/wrap.ts'
import type { RunFlags } from './tables.ts'

/** What a page came to on a machine. */
export interface Came {
  page: Page
  machine: string
  result: Result
}

/** Nothing of it is left to do. */
export const isDone = (state: PageState): boolean => ['ok', 'changed', '-'].includes(state)

export interface Ended {
  mode: Mode
  came: Came[]
  /** Pages that a run which was stopped did not reach. */
  left: Page[]
  given: RunFlags
  /** The machine of the run, for a reader. */
  label: string
  log: string | undefined
  /** The run ended early: where it was in a page, or ''. */
  stopped?: string
  /** The run is of this page alone. */
  only?: Page | undefined
}

/** The last lines of a run, as data. */
export function runEnd(ended: Ended): RunEnd {
  const { mode, came, log } = ended
  const access = came.reduce((sum, { result }) => sum + result.steps.access, 0)
  const next = nextOf(ended)
  return {
    sum: ended.stopped === undefined ? sumOf(ended) : stoppedSum(ended, ended.stopped),
    stops: stopsOf(came),
    ...(mode === 'plan' && access > 0 ? { access } : {}),
    ...(next === undefined ? {} : { next }),
    ...(log === undefined ? {} : { log: shown(log) }),
  }
}

/** Where a run that somebody ended was, and what of it holds. */
function stoppedSum(ended: Ended, where: string): string {
  const stopped = `Stopped by you${where ? ` ${where}` : '; nothing is half done'}`
  return ended.only || ended.mode === 'plan' ? stopped : `${stopped}. ${sumOf(ended)}`
}

function sumOf({ mode, came, left, label }: Ended): string {
  if (mode === 'plan') {
    const { change, hold } = came.reduce(
      (sum, { result: { steps } }) => ({ change: sum.change + steps.change, hold: sum.hold + steps.hold }),
      { change: 0, hold: 0 },
    )
    const turns = came.filter(
      ({ result: { state, next } }) =>
        state === 'your turn' || state === 'blocked' || (state === 'later' && next !== undefined),
    ).length
    const need = turns === 0 ? '' : `, ${turns} ${turns === 1 ? 'needs' : 'need'} you first`
    const silent = came.filter(({ result: { state } }) => state === 'unknown').length
    const unknown = silent === 0 ? '' : `, ${count(silent, 'page')} unknown`
    return `Plan for ${label}: ${change} to change, ${hold} ${hold === 1 ? 'holds' : 'hold'}${need}${unknown}`
  }
  const pages = [...new Set([...came.map(({ page }) => page), ...left])]
  const open = pages.filter(
    (page) => left.includes(page) || came.some((one) => one.page === page && !isDone(one.result.state)),
  )
  if (mode === 'undo') {
    const undone = pages.filter((page) => came.some((c) => c.page === page && c.result.state === 'changed'))
    const rest = open.length === 0 ? '' : `, ${open.length} ${open.length === 1 ? 'is' : 'are'} left`
    return `${undone.length} of ${count(pages.length, 'page')} undone${rest}`
  }
  const hold = pages.length - open.length
  const are = (page: Page, state: PageState) =>
    came.some((one) => one.page === page) &&
    came.every((one) => one.page !== page || isDone(one.result.state) || one.result.state === state)
  const unknown = open.filter((page) => are(page, 'unknown')).length
  const missing = mode === 'verify' ? open.filter((page) => are(page, 'not built')).length : 0
  const not = open.length - unknown - missing
  const parts = [
    `${hold} of ${count(pages.length, 'page')} ${hold === 1 ? 'holds' : 'hold'}`,
    not === 0 ? '' : `${not} ${not === 1 ? 'does' : 'do'} not${mode === 'verify' ? '' : ' yet'}`,
    unknown === 0 ? '' : `${unknown} unknown`,
    missing === 0 ? '' : `${missing} not built`,
  ]
  return parts.filter(Boolean).join(', ')
}

/** What holds the run up, each reason once, with the numbers of its pages. */
function stopsOf(came: Came[]): Stop[] {
  const stops = new Map<string, Stop & { numbers: string[] }>()
  for (const { page, machine, result } of came) {
    const { state, why = '', next } = result
    if (isDone(state) || state === 'change') continue
    const named = state === 'later' || why.startsWith(machine)
    const what = named ? why : `${machine}: ${why}`
    const key = `${state}\t${what}\t${next}`
    const stop = stops.get(key) ?? { state, pages: '', what, numbers: [], ...(next ? { next } : {}) }
    stop.numbers.push(page.name.slice(0, 2))
    stops.set(key, stop)
  }
  const order: PageState[] = ['failed', 'unknown', 'blocked', 'your turn', 'not built', 'later']
  return [...stops.values()]
    .sort((a, b) => order.indexOf(a.state) - order.indexOf(b.state))
    .map(({ numbers, ...stop }) => ({ ...stop, pages: spanOf([...new Set(numbers)].sort()) }))
}

/** `05`, `05,06`, `20-26`. */
const spanOf = (numbers: string[]): string =>
  numbers.length > 2 ? `${numbers[0]}-${numbers.at(-1)}` : numbers.join(',')

/** The flags that choose the same pages again, each with a space in front. */
export const choiceOf = (given: RunFlags): string =>
  (['layer', 'only', 'site'] as const)
    .flatMap((word) => (given[word] === undefined ? [] : [` --${word} ${given[word]}`]))
    .join('')

/** The command that goes on from here; undefined where nothing does. */
function nextOf({ mode, came, left, given, stopped, only }: Ended): string | undefined {
  const same = choiceOf(given)
  const open = came.filter(({ result }) => !isDone(result.state))
  if (only && stopped !== undefined) return `./task ${only.name.slice(3)} ${mode}${same}`
  if (stopped !== undefined && mode !== 'apply') return `./task ${mode}-all${same}`
  const silent = open.length > 0 && open.every(({ result }) => result.state === 'unknown')
  if (silent && mode !== 'undo')
    return `./task ${mode === 'apply' ? 'build' : mode}-all${same} again, when they answer`
  if (mode === 'plan') {
    if (open.length === 0) return undefined
    const diff = given.diff ? '' : `\n./task plan-all${same} --diff shows every difference`
    return `./task build-all${same} asks first, then applies it${diff}`
  }
  if (open.length + left.length === 0) return mode === 'undo' ? undefined : './task status'
  if (mode === 'undo') return `./task undo-all${same} again, when they answer`
  if (mode === 'verify') return `./task plan-all${same} --diff shows how, ./task build-all${same} makes it so`
  const first = open[0]?.page ?? left[0]
  return `./task build-all${same} --from ${first?.name}`
}
