// The times at which k3s takes snapshots: five fields, or a word, as github.com/robfig/cron reads them.
import { type Problem, show } from '../../ground/document.ts'
import { nearest } from '../../ground/nearest.ts'
import { nanoseconds } from './values.ts'

const months = 'jan feb mar apr may jun jul aug sep oct nov dec'.split(' ')
const days = 'sun mon tue wed thu fri sat'.split(' ')

/** The fields with their least and most, and the words that stand for numbers from the least on. */
const fields: [string, number, number, string[]][] = [
  ['minute', 0, 59, []],
  ['hour', 0, 23, []],
  ['day', 1, 31, []],
  ['month', 1, 12, months],
  ['weekday', 0, 6, days],
]
const descriptors = '@yearly @annually @monthly @weekly @daily @midnight @hourly'.split(' ')

/** What is wrong with a time for cron. */
export function cronProblem(text: string): Omit<Problem, 'path'> | undefined {
  const rest = text.replace(/^(CRON_)?TZ=\S+\s+/, '')
  const every = /^@every (.*)$/.exec(rest)?.[1]
  if (every !== undefined)
    return nanoseconds(every) === undefined
      ? { reason: `must be @every and a duration such as 6h, is ${show(text)}` }
      : undefined
  if (rest.startsWith('@'))
    return descriptors.includes(rest)
      ? undefined
      : {
          reason: `must be one of ${descriptors.join(', ')} or @every 6h, is ${show(text)}`,
          suggestion: nearest(rest, descriptors),
        }
  const parts = rest.trim().split(/\s+/)
  if (parts.length !== fields.length)
    return { reason: `must be five fields (minute hour day month weekday), is ${show(text)}` }
  for (const [i, [name, least, most, words]] of fields.entries())
    for (const part of parts[i]!.split(',')) {
      const wrong = partProblem(part, least, most, words)
      if (wrong) return { reason: `has the ${name} ${show(part)}, which ${wrong}` }
    }
  return undefined
}

/** One part of a field: *, a number, or a range, each with steps. */
function partProblem(part: string, least: number, most: number, words: string[]): string | undefined {
  const [, range = '', step] = /^([^/]*)(?:\/(\d+))?$/.exec(part) ?? []
  if (range === '' || step === '0' || /^0*$/.test(step ?? '1')) return 'is no number, range or *'
  if (range === '*' || range === '?') return undefined
  const [from, to, ...more] = range.split('-').map((end) => {
    const word = words.indexOf(end.toLowerCase())
    return word >= 0 ? word + least : /^\d+$/.test(end) ? Number(end) : undefined
  })
  if (from === undefined || more.length > 0 || (range.includes('-') && to === undefined))
    return 'is no number, range or *'
  if (from < least || (to ?? from) > most) return `is not within ${least} to ${most}`
  return to !== undefined && to < from ? 'ends before it begins' : undefined
}
