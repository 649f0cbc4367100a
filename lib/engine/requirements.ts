// Requirements as data: a YAML document of controls becomes the controls that a step reports one by one. Documents differ in the
// kinds of check that they know. It hides reading them, filling in values, what has no meaning on a machine, and waivers.
import { basename } from 'node:path'
import { parsed, read } from '../ground/root.ts'
import { Command, quote } from '../ground/sh.ts'
import type { Waiver } from '../site/waivers.ts'
import type { Control } from './step.ts'

/** What an entry of any document says, beside its one check. */
export interface Entry {
  id: string
  title: string
  /** Where it comes from. Left out where the whole document has one source. */
  from?: string[]
  /** A trait of a machine → why the requirement has no meaning there. */
  not?: Record<string, string>
}

/** The controls of one step of a page. */
export interface Section<E extends Entry = Entry> {
  step: string
  controls: E[]
}

/** The kinds of check: the name of each in the data → the shell that it becomes. */
export type Kinds = Record<string, (value: never) => string>

/** What the controls of one machine depend on. */
export interface Place {
  /** Replace `{{ name }}` in the data. */
  values: Record<string, string | number>
  /** os, arch and roles of the machine. */
  traits: string[]
  waivers: Waiver[]
}

/** A document of requirements, read once: parsing takes a tenth of a second, and each run needs it several times. */
export class Requirements<E extends Entry = Entry, S extends Section<E> = Section<E>> {
  readonly path: string
  readonly kinds: Kinds
  /** Where its controls come from, when they do not say it themselves. */
  readonly source: ((id: string) => string) | undefined
  #ours: S[] | undefined

  /** `path` is that of the file, seen from the root of the project. */
  constructor(path: string, kinds: Kinds, source?: (id: string) => string) {
    this.path = path
    this.kinds = kinds
    this.source = source
  }

  /** The document itself, or `text` in its place. */
  sections(text?: string): S[] {
    if (text !== undefined) return parsed(text) as S[]
    return (this.#ours ??= parsed(read(this.path)) as S[])
  }

  /** Every id, in order, by step. */
  ids(): Record<string, string[]> {
    return Object.fromEntries(this.sections().map(({ step, controls }) => [step, controls.map((c) => c.id)]))
  }

  /**
   * The controls for one machine, by step. Throws TypeError for an entry that is no control: none or two kinds of check, an
   * unknown kind, a `{{ name }}` without a value, a second entry of the same id, a waiver of an unknown id.
   */
  controlsFor(place: Place, text?: string): (step: string) => Control[] {
    const steps = new Map<string, Control[]>()
    const seen = new Set<string>()
    for (const { step, controls } of this.sections(text)) {
      steps.set(
        step,
        controls.map((entry) => this.#control(entry, place, seen)),
      )
    }
    const lost = place.waivers.flatMap((w) => w.controls).filter((id) => !seen.has(id))
    if (lost.length > 0) throw new TypeError(`waivers.yaml: there is no control ${lost.join(', ')}`)
    return (step) => {
      const found = steps.get(step)
      if (!found) throw new TypeError(`${basename(this.path)} has no step ${step}`)
      return found
    }
  }

  /** The kinds of check that an entry names. */
  kindsOf(entry: E): string[] {
    return Object.keys(entry).filter((key) => !ownFields.includes(key))
  }

  #control(entry: E, place: Place, seen: Set<string>): Control {
    const where = `${basename(this.path)}, ${entry.id}`
    if (seen.has(entry.id)) throw new TypeError(`${where}: the id is used twice`)
    seen.add(entry.id)
    const { id, title, not = {} } = entry
    const from = entry.from ?? (this.source ? [this.source(id)] : [])
    if (!title || from.length === 0)
      throw new TypeError(`${where}: says no title, or not where it comes from`)
    const [kindName, ...more] = this.kindsOf(entry)
    const kind = kindName === undefined ? undefined : this.kinds[kindName]
    if (kindName === undefined || more.length > 0 || !kind)
      throw new TypeError(`${where}: say exactly one of ${Object.keys(this.kinds).join(', ')}`)
    const fill = (text: string) =>
      text.replaceAll(/\{\{ ([a-z_]+) \}\}/g, (_, name: string) => {
        const value = place.values[name]
        if (value === undefined) throw new TypeError(`${where}: {{ ${name} }} has no value`)
        return String(value)
      })
    const reason = place.traits.map((trait) => not[trait]).find((r) => r !== undefined)
    const text =
      reason === undefined ? fill(kind(entry[kindName as keyof E] as never)).trimEnd() : `na ${quote(reason)}`
    const waiver = place.waivers.find((w) => w.controls.includes(id))
    return {
      id,
      title: fill(title),
      check: new Command(text, undefined, where),
      from,
      ...(waiver ? { waived: `${waiver.reason} (until ${waiver.expires})` } : {}),
    }
  }
}

/** What an entry says of itself; every other key in it is a kind of check. */
const ownFields = ['id', 'title', 'from', 'not', 'assessed']
