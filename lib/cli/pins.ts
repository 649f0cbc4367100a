// ./task pins check: what is pinned, held against what its makers publish today, and whether a newer patch is out. What could not
// be asked is unknown, which is neither. The answer is kept, so that ./task status can say it without asking anybody.
import { mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import { fetchSmall } from '../engine/fetch.ts'
import { land } from '../ground/secret.ts'
import type { Config, Pin, Pins } from '../site/model.ts'
import type { Call } from './call.ts'
import { withSession } from './session.ts'
import { newerPatch, sumIn, versionsIn } from './sums.ts'
import { pins as table } from './tables.ts'

/** `unknown`: it could not be asked; `signed`: no digest is pinned, a signature proves the file whenever it is fetched. */
export type PinState = 'same' | 'differs' | 'unknown' | 'signed' | 'unproven'

export interface PinSeen {
  pin: string
  version: string
  files: { arch: string; state: PinState; why?: string }[]
  /** What is out, as it was last seen; `when` is of that time, and no answer takes it away. */
  out?: { newest: string; newer: boolean; when: string }
  /** Why what is out could not be asked now. */
  unasked?: string
}

export interface PinsSeen {
  when: string
  pins: PinSeen[]
}

const fileOf = (config: Pick<Config, 'env'>): string => join(config.env.FK_STATE_DIR, 'pins.json')

/** What the last check has seen; undefined where there was none. */
export function pinsSeen(config: Pick<Config, 'env'>): PinsSeen | undefined {
  try {
    return JSON.parse(readFileSync(fileOf(config), 'utf8')) as PinsSeen
  } catch {
    return undefined // never asked, or by another version of this kit: the next check writes it anew
  }
}

/** Asks the makers. Exit code: 0 all is as pinned, 1 something differs, 2 a newer patch is out, or something is unknown. */
export const pins = (call: Call): Promise<number> =>
  withSession(
    call,
    table,
    async ({ config, given, signal }) => {
      const asked = new Asked(config.env.FK_MIRROR, signal)
      try {
        const before = pinsSeen(config)
        const now = new Date().toISOString()
        const all = await Promise.all(
          Object.entries(config.pins).map(([name, pin]) =>
            seen(
              name,
              pin,
              asked,
              now,
              before?.pins.find((one) => one.pin === name),
            ),
          ),
        )
        const found: PinsSeen = { when: now, pins: all }
        mkdirSync(config.env.FK_STATE_DIR, { recursive: true, mode: 0o700 })
        await land(fileOf(config), `${JSON.stringify(found, null, 2)}\n`, true)
        process.stdout.write(given.json ? `${JSON.stringify(found)}\n` : screenOf(found, config.pins))
        return codeOf(all)
      } finally {
        asked.end()
      }
    },
    { document: true },
  )

function codeOf(all: PinSeen[]): number {
  const states = all.flatMap(({ files }) => files.map(({ state }) => state))
  if (states.includes('differs')) return 1
  const open = all.some(({ out, unasked }) => out?.newer === true || unasked !== undefined)
  return open || states.includes('unknown') ? 2 : 0
}

/** Texts of makers: each is fetched once, however many pins are in it. */
class Asked {
  readonly #dir = mkdtempSync(join(tmpdir(), 'fk-pins-'))
  readonly #texts = new Map<string, Promise<string>>()
  readonly #mirror: string | undefined
  readonly #signal: AbortSignal

  constructor(mirror: string | undefined, signal: AbortSignal) {
    this.#mirror = mirror
    this.#signal = signal
  }

  /** Rejects with the reason in one line. */
  text(url: string): Promise<string> {
    const known = this.#texts.get(url)
    if (known !== undefined) return known
    const to = join(this.#dir, String(this.#texts.size))
    // The index of a chart repository has every version that ever was.
    const options = {
      mirror: this.#mirror,
      signal: this.#signal,
      tries: 1,
      stall: 15_000,
      largest: 64 * 1024 * 1024,
    }
    const text = fetchSmall(url, to, options).then(() => readFileSync(to, 'utf8'))
    this.#texts.set(url, text)
    return text
  }

  end(): void {
    rmSync(this.#dir, { recursive: true, force: true })
  }
}

const reasonOf = (error: unknown): string => {
  const { message, said } = error as Error & { said?: string }
  return [message, said].filter(Boolean).join(': ').replaceAll('\n', ' ')
}

async function seen(name: string, pin: Pin, asked: Asked, now: string, before?: PinSeen): Promise<PinSeen> {
  const files = await Promise.all(
    Object.entries(pin.url).map(async ([arch, url]) => ({
      arch,
      ...(await compared(pin, arch, url, asked)),
    })),
  )
  const found: PinSeen = { pin: name, version: pin.version, files }
  try {
    const { releases } = pin
    if (releases === undefined)
      throw new Error('config/versions.yaml does not say where its maker names versions')
    const text = await asked.text(releases.url)
    const versions = versionsIn(text, releases.name ?? name)
    if (versions.length === 0) throw new Error(`${releases.url} names no version`)
    const newer = newerPatch(pin.version, versions, releases.channel === true)
    found.out = { newest: newer ?? pin.version, newer: newer !== undefined, when: now }
  } catch (error) {
    found.unasked = reasonOf(error)
    // Of the same pin what was seen before still counts, with its own date.
    if (before?.out !== undefined && before.version === pin.version) found.out = before.out
  }
  return found
}

async function compared(
  pin: Pin,
  arch: string,
  url: string,
  asked: Asked,
): Promise<{ state: PinState; why?: string }> {
  const pinned = (pin.sha256 ?? pin.sha512)?.[arch as 'any']
  if (pinned === undefined)
    return pin.unproven !== undefined
      ? { state: 'unproven', why: pin.unproven.trim() }
      : pin.signature !== undefined
        ? { state: 'signed' }
        : { state: 'unknown', why: 'no digest is pinned' }
  const from = pin.sums?.[arch as 'any']
  if (from === undefined)
    return { state: 'unknown', why: 'config/versions.yaml does not say where its maker has sums' }
  try {
    const sum = sumIn(await asked.text(from), basename(new URL(url).pathname), pinned.length)
    if (sum === undefined) return { state: 'unknown', why: `${from} has no digest of it` }
    return sum === pinned
      ? { state: 'same' }
      : { state: 'differs', why: `${from} says ${sum}, pinned is ${pinned}` }
  } catch (error) {
    return { state: 'unknown', why: reasonOf(error) }
  }
}

const words: Record<PinState, string> = {
  same: 'as its maker says',
  differs: 'NOT what its maker says',
  unknown: 'unknown',
  signed: 'proven by its signature',
  unproven: 'not proven, and never fetched',
}

/** For people: a line for each file, and what is behind it. */
function screenOf({ pins: all }: PinsSeen, pinned: Pins): string {
  const wide = Math.max(...Object.keys(pinned).map((name) => name.length))
  const lines = all.flatMap(({ pin, version, files, out, unasked }) => [
    ...files.map(({ arch, state, why }) => {
      const head = `${pin.padEnd(wide)}  ${version.padEnd(14)} ${arch.padEnd(5)}  ${words[state]}`
      return why === undefined ? head : `${head}\n    ${why}`
    }),
    ...(out?.newer ? [`${pin.padEnd(wide)}  ${out.newest} is out (seen ${out.when.slice(0, 10)})`] : []),
    ...(unasked === undefined
      ? []
      : [`${pin.padEnd(wide)}  whether a newer patch is out is unknown\n    ${unasked}`]),
  ])
  return `${lines.join('\n')}\n`
}
