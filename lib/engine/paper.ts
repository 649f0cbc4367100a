// Lines on a screen: colour, width, what a machine says made safe, and the live lines at the bottom of a terminal.
import { stripVTControlCharacters } from 'node:util'
import { wrap } from '../ground/wrap.ts'
import type { FaultReport, Out, State } from './events.ts'

/** Lines above the live ones, with colour where there is any. */
const colours: Record<State, number> = {
  ok: 32,
  ready: 32,
  change: 33,
  changed: 36,
  pending: 33,
  'your turn': 33,
  blocked: 33,
  'not built': 2,
  unknown: 33,
  later: 2,
  '-': 2,
  check: 2,
  step: 0,
  wait: 33,
  waived: 35,
  'n/a': 2,
  failed: 31,
}

/** Whether colour is wanted: NO_COLOR and FORCE_COLOR decide, then whether it is a terminal that has any. */
export function wantsColor(out: Out, env: NodeJS.ProcessEnv = process.env): boolean {
  if (env['NO_COLOR']) return false
  if (env['FORCE_COLOR'] !== undefined) return env['FORCE_COLOR'] !== '0' && env['FORCE_COLOR'] !== 'false'
  return out.isTTY === true && out.hasColors?.() === true
}

/** Whether lines can be redrawn: a terminal that moves its cursor. */
export const canRedraw = (out: Out, env: NodeJS.ProcessEnv = process.env): boolean =>
  out.isTTY === true && env['TERM'] !== 'dumb'

/** What stands below a step begins here. */
export const DETAIL = ' '.repeat(11)
/** How much of a machine's answer is shown without --verbose. */
const DETAIL_LINES = 6
const SAID_LINES = 12

/** The words of a fault, in the order in which they stand. */
const labels = ['ran', 'check', 'found', 'where', 'said', 'state', 'next'] as const

export class Paper {
  readonly #live: Live
  readonly #color: boolean
  readonly #verbose: boolean
  readonly #columns: (() => number) | undefined
  #empty = true

  constructor(live: Live, color: boolean, verbose: boolean, columns: (() => number) | undefined) {
    this.#live = live
    this.#color = color
    this.#verbose = verbose
    this.#columns = columns
  }

  print(text: string): void {
    this.#empty = false
    this.#live.above(`${text}\n`)
  }

  /** An empty line, unless this is the beginning. */
  apart(): void {
    if (!this.#empty) this.print('')
  }

  paint(code: number, text: string): string {
    return this.#color && code !== 0 && text !== '' ? `\u001b[${code}m${text}\u001b[0m` : text
  }

  dim(text: string): string {
    return this.paint(2, text)
  }

  /** No longer than the terminal is wide. */
  cut(text: string): string {
    return this.#columns ? shorten(text, this.#columns() - 1) : text
  }

  stated(state: State, rest: string): string {
    return `${this.paint(colours[state], state)}${' '.repeat(Math.max(2, 9 - state.length))}${rest}`
  }

  /** A whole line: at the width of a terminal, or of `piped` where there is none, it goes on below, between words. */
  flow(text: string, indent = DETAIL, { piped = Infinity, code = 0 } = {}): void {
    const width = this.#columns ? this.#columns() - 1 : piped
    for (const line of wrap(text, width, indent.length)) this.print(this.paint(code, line))
  }

  /** The first lines of a long text, below what they belong to. `whole`: nothing of a line is cut. */
  details(label: string, text: string, whole = false, code = 0): void {
    const lines = clean(text).trimEnd().split('\n')
    const hidden = this.#verbose ? 0 : lines.splice(DETAIL_LINES).length
    if (hidden > 0)
      lines.push(`(${count(hidden, 'line')} more; --verbose shows ${hidden === 1 ? 'it' : 'them'})`)
    const indent = DETAIL + ' '.repeat(label.length)
    lines.forEach((line, i) => {
      const all = (i === 0 ? DETAIL + label : indent) + line
      if (whole) this.flow(all, indent, { code })
      else this.print(this.dim(this.cut(all)))
    })
  }

  /** A fault, line by line; of a long output the end. */
  fault(fault: FaultReport): void {
    for (const label of labels) {
      const text = label === 'check' && !this.#verbose ? undefined : fault[label]
      if (!text) continue
      const lines = clean(text).trimEnd().split('\n')
      const over = Math.max(0, lines.length - SAID_LINES)
      const long = label === 'said' || label === 'found'
      const hidden = long && !this.#verbose ? lines.splice(0, over).length : 0
      if (hidden > 0)
        lines.unshift(
          `(${count(hidden, 'line')} before this; --verbose shows ${hidden === 1 ? 'it' : 'them'})`,
        )
      lines.forEach((line, i) =>
        this.flow(`  ${(i === 0 ? `${label}:` : '').padEnd(7)}${line}`, ' '.repeat(9)),
      )
    }
  }
}

/** The lines at the bottom of a terminal that say what runs now. They are redrawn every second and leave no trace. */
export class Live {
  readonly #out: Out
  readonly #on: boolean
  readonly #now: () => number
  readonly #lines = new Map<string, { text: string; tail: string; since: number }>()
  #drawn = 0
  #timer: NodeJS.Timeout | undefined

  constructor(out: Out, on: boolean, now: () => number) {
    this.#out = out
    this.#on = on
    this.#now = now
  }

  show(key: string, text: string, tail: string): void {
    if (!this.#on) return
    const since = this.#lines.get(key)?.text === text ? this.#lines.get(key)?.since : undefined
    this.#lines.set(key, { text, tail, since: since ?? this.#now() })
    this.#timer ??= setInterval(() => this.#draw(), 1000).unref()
    this.#draw()
  }

  hide(key: string): void {
    if (this.#lines.delete(key)) this.#draw()
  }

  above(text: string): void {
    this.#out.write(this.#erase() + text)
    if (this.#lines.size > 0) this.#draw()
  }

  clear(): void {
    this.#lines.clear()
    this.#draw()
    clearInterval(this.#timer)
    this.#timer = undefined
  }

  #erase(): string {
    const up = this.#drawn
    this.#drawn = 0
    return up === 0 ? '' : `\u001b[${up}A\r\u001b[J`
  }

  #draw(): void {
    let frame = this.#erase()
    for (const { text, tail, since } of this.#lines.values()) {
      const elapsed = duration((this.#now() - since) / 1000)
      frame += `${shorten(`${text}  ${elapsed}${tail && ` ${tail}`}`, (this.#out.columns || 80) - 1)}\n`
      this.#drawn += 1
    }
    if (frame !== '') this.#out.write(frame)
  }
}

/** `41 s`, `3 min 02 s`, `1 h 04 min`. */
export function duration(seconds: number): string {
  const s = Math.floor(seconds)
  const two = (n: number) => String(n).padStart(2, '0')
  if (s < 60) return `${s} s`
  if (s < 3600) return `${Math.floor(s / 60)} min ${two(s % 60)} s`
  return `${Math.floor(s / 3600)} h ${two(Math.floor((s % 3600) / 60))} min`
}

/** `1 step`, `9 steps`; with verbs `1 step holds`, `9 steps hold`. */
export function count(n: number, noun: string, one = '', many = one): string {
  const verb = n === 1 ? one : many
  return `${n} ${noun}${n === 1 ? '' : 's'}${verb && ` ${verb}`}`
}

/**
 * Text from a machine, made safe to show: no escape sequences that move the cursor or rename the window, no marks that
 * turn the reading direction. Line breaks and tabs stay.
 */
export function clean(text: string): string {
  return (
    stripVTControlCharacters(text.replaceAll('\r\n', '\n'))
      .replaceAll('\t', '  ')
      // oxlint-disable-next-line no-control-regex -- control characters are what this looks for
      .replaceAll(/[\u0000-\u0009\u000b-\u001f\u007f-\u009f\u202a-\u202e\u2066-\u2069]/g, '\ufffd')
  )
}

export const oneLine = (text: string) =>
  clean(text)
    .trim()
    .replaceAll(/\s*\n\s*/g, ' ⏎ ')

/** A limit, in the words of `duration`, but without what is nothing: `30 min`. */
export const limitText = (seconds: number): string => duration(seconds).replace(/ 00 (s|min)$/, '')

function shorten(text: string, width: number): string {
  const plain = [...stripVTControlCharacters(text)]
  if (plain.length <= width) return text
  // A coloured line keeps its colour codes: they are counted as nothing and closed at the end.
  let room = width - 1
  let coloured = false
  // oxlint-disable-next-line no-control-regex -- these are our own colour codes
  const kept = text.replaceAll(/\u001b\[\d+m|./gsu, (piece) => {
    if (piece.startsWith('\u001b')) {
      coloured = true
      return piece
    }
    return room-- > 0 ? piece : ''
  })
  return coloured ? kept.replace(/((?:\u001b\[\d+m)*)$/, '…$1') : `${kept}…`
}
