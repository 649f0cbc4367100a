// Gates: what only a person can do before a page can go on, and how it is seen to be done.
import { existsSync, mkdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { land } from '../ground/secret.ts'
import { seconds } from './formats.ts'
import type { Gate, Site } from './model.ts'

export interface GateState {
  gate: Gate
  /** `again`: it was done, and its time is over. */
  state: 'done' | 'open' | 'again'
  /** What was seen, for a person. */
  found: string
  /** What the laptop itself can see is still missing: nobody can confirm it away. */
  missing?: true
}

/** What is known on the laptop: whether it has a secret, and when a person said that a gate is done (id → YYYY-MM-DD). */
export interface Known {
  has: (secret: string) => boolean
  confirmed: Record<string, string>
  now: Date
}

/**
 * The state of every gate, or of those that a page waits for. A setting and a secret are looked up; everything else is what a
 * person has confirmed, and is open until then.
 */
export function gatesOf(site: Site, known: Known, page?: string): GateState[] {
  return site.gates
    .filter(({ needed_by: by }) => page === undefined || by === page)
    .map((gate) => ({ gate, ...stateOf(gate, site, known) }))
}

function stateOf(gate: Gate, site: Site, { has, confirmed, now }: Known): Omit<GateState, 'gate'> {
  const { setting, secret } = gate.proof
  if (typeof setting === 'string') {
    const empty = settingsOf(site, setting).filter(({ value }) => isEmpty(value))
    return empty.length === 0
      ? { state: 'done', found: `${setting} is set` }
      : { state: 'open', missing: true, found: `${empty.map(({ path }) => path).join(', ')} is empty` }
  }
  if (typeof secret === 'string' && !has(secret))
    return { state: 'open', missing: true, found: `this laptop has no secret ${secret}` }
  const when = confirmed[gate.id]
  if (when === undefined)
    return typeof secret === 'string' && gate.again === undefined
      ? { state: 'done', found: `this laptop has the secret ${secret}` }
      : { state: 'open', found: 'nobody has confirmed it' }
  const until = gate.again === undefined ? Infinity : Date.parse(when) + (seconds(gate.again) ?? 0) * 1000
  return until > now.getTime()
    ? { state: 'done', found: `confirmed on ${when}` }
    : { state: 'again', found: `confirmed on ${when}, and looked at again after ${gate.again}` }
}

const isEmpty = (value: unknown): boolean =>
  value === undefined || value === '' || (Array.isArray(value) && value.length === 0)

/** The values of a path such as machines.fortress.vault.disk: an entry of a list goes by its name, and * stands for all. */
function settingsOf(site: Site, path: string): { path: string; value: unknown }[] {
  let found: { path: string; value: unknown }[] = [{ path: '', value: site }]
  for (const part of path.split('.'))
    found = found.flatMap(({ path: at, value }) => {
      const below = (key: string, next: unknown) => ({ path: at === '' ? key : `${at}.${key}`, value: next })
      if (!Array.isArray(value)) return below(part, (value as Record<string, unknown> | undefined)?.[part])
      const named = value as { name?: string }[]
      return named
        .filter(({ name }) => part === '*' || name === part)
        .map((one) => below(one.name ?? part, one))
    })
  return found
}

/** When a person confirmed which gates; `state` is the directory of the site on the laptop. */
export function confirmedGates(state: string): Record<string, string> {
  const file = join(state, 'gates.json')
  return existsSync(file) ? (JSON.parse(readFileSync(file, 'utf8')) as Record<string, string>) : {}
}

/** Notes that a person has confirmed a gate today. */
export async function noteGate(state: string, id: string, now: Date): Promise<void> {
  mkdirSync(state, { recursive: true, mode: 0o700 })
  const all = { ...confirmedGates(state), [id]: now.toISOString().slice(0, 10) }
  await land(join(state, 'gates.json'), `${JSON.stringify(all, null, 2)}\n`, true)
}
