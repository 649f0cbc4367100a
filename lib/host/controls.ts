// Requirements as data: a document of controls becomes the controls that a step reports one by one. Documents differ in the ways to
// ask that they know; what a host is asked stands in config/host/controls.yaml.
import { basename } from 'node:path'
import { parse } from 'yaml'
import type { Control } from '../engine/step.ts'
import { read } from '../ground/root.ts'
import { Command, quote, shellText } from '../ground/sh.ts'
import type { Waiver } from '../site/waivers.ts'

/** A path on a machine, and what has to be set in it. */
type Settings = Record<string, Record<string, string | number>>

/** What an entry of any document says, beside the one way to ask. */
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

/** The ways to ask: the name of each in the data → the shell that it becomes. */
export type Kinds = Record<string, (value: never) => string>

/** What each kind of a host's document says. */
interface Ways {
  sysctl: Record<string, string | number>
  cmdline: string[]
  module: string[]
  mount: [path: string, options: string, when?: 'if-mounted']
  /** `MODE OWNER:GROUP[,OWNER:GROUP] PATH…` */
  mode: string[]
  package: { present?: string[]; absent?: string[] }
  unit: Record<string, 'enabled' | 'active' | 'on' | 'masked' | 'off'>
  sshd: Record<string, string | number>
  audit: string[]
  apt: Record<string, string>
  setting: Settings
  check: string
}

/** What the controls of one machine depend on. */
export interface Place {
  /** Replace `{{ name }}` in the data. */
  values: Record<string, string | number>
  /** os, arch and roles of the machine. */
  traits: string[]
  waivers: Waiver[]
}

const words = (values: (string | number)[]) => values.map((v) => quote(String(v))).join(' ')
const pairs = (record: Record<string, string | number>) => words(Object.entries(record).flat())

/** How each kind asks; the functions are those of lib/host/controls.sh. */
export const hostKinds: { [K in keyof Ways]: (value: Ways[K]) => string } = {
  sysctl: (keys) => `sysctl_is ${pairs(keys)}`,
  cmdline: (list) => `cmdline_has ${words(list)}`,
  module: (list) => `module_blocked ${words(list)}`,
  mount: (mount) => `mount_has ${words(mount.filter((w) => w !== undefined))}`,
  mode: (list) => every(list.map((line) => `mode_is ${words(line.split(' '))}`)),
  package: ({ present, absent }) =>
    [present && `package_present ${words(present)}`, absent && `package_absent ${words(absent)}`]
      .filter(Boolean)
      .join(' && '),
  unit: (units) =>
    Object.entries(units)
      .map(([unit, state]) => `unit_is ${state} ${quote(unit)}`)
      .join(' && '),
  sshd: (keys) => `sshd_is ${pairs(keys)}`,
  audit: (keys) => `audit_has ${words(keys)}`,
  apt: (keys) => `apt_is ${pairs(keys)}`,
  setting: (files) =>
    Object.entries(files)
      .map(([path, keys]) => `setting_is ${quote(path)} ${pairs(keys)}`)
      .join(' && '),
  check: (text) => text,
}

/** Several questions of which some may not apply: it does not apply when none does. */
const every = (questions: string[]) =>
  questions.length === 1 ? (questions[0] as string) : `all_of ${words(questions)}`

/** A document of requirements, read once: parsing takes a tenth of a second, and each run asks for it several times. */
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
    if (text !== undefined) return parse(text) as S[]
    return (this.#ours ??= parse(read(this.path)) as S[])
  }

  /** Every id, in order, by step. */
  ids(): Record<string, string[]> {
    return Object.fromEntries(this.sections().map(({ step, controls }) => [step, controls.map((c) => c.id)]))
  }

  /**
   * The controls for one machine, by step. Throws TypeError for an entry that cannot be asked: no way or two ways to ask, an unknown
   * kind, a `{{ name }}` without a value, a second entry of the same id, a waiver of an unknown id.
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

  /** The ways to ask that an entry names. */
  ways(entry: E): string[] {
    return Object.keys(entry).filter((key) => !told.includes(key))
  }

  #control(entry: E, place: Place, seen: Set<string>): Control {
    const where = `${basename(this.path)}, ${entry.id}`
    if (seen.has(entry.id)) throw new TypeError(`${where}: the id is used twice`)
    seen.add(entry.id)
    const { id, title, not = {} } = entry
    const from = entry.from ?? (this.source ? [this.source(id)] : [])
    if (!title || from.length === 0)
      throw new TypeError(`${where}: says no title, or not where it comes from`)
    const [way, ...more] = this.ways(entry)
    const kind = way === undefined ? undefined : this.kinds[way]
    if (way === undefined || more.length > 0 || !kind)
      throw new TypeError(`${where}: say exactly one of ${Object.keys(this.kinds).join(', ')}`)
    const fill = (text: string) =>
      text.replaceAll(/\{\{ ([a-z_]+) \}\}/g, (_, name: string) => {
        const value = place.values[name]
        if (value === undefined) throw new TypeError(`${where}: {{ ${name} }} has no value`)
        return String(value)
      })
    const reason = place.traits.map((trait) => not[trait]).find((r) => r !== undefined)
    const text =
      reason === undefined ? fill(kind(entry[way as keyof E] as never)).trimEnd() : `na ${quote(reason)}`
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

/** What an entry says of itself; everything else in it is a way to ask. */
const told = ['id', 'title', 'from', 'not', 'assessed']

/** What a host is asked. */
export const hostRequirements = new Requirements('config/host/controls.yaml', hostKinds as Kinds)

/** One question that asks all of them, for a step that is nothing but its controls. */
export function asked(controls: Control[]): Command {
  return new Command(controls.map((c) => `(\n${c.check.text}\n)`).join(' && '), undefined, 'controls.yaml')
}

/** The functions of lib/host/controls.sh. `units`: the names that unit_is asks for all at once. */
export function questions(units: string[] = []): Command {
  const names = [...new Set(units)].map((u) => (u.includes('.') ? u : `${u}.service`))
  return new Command(
    `FK_UNITS=${quote(names.join(' '))}\n${shellText('lib/host/controls.sh')}`,
    undefined,
    'lib/host/controls.sh',
  )
}

/** What the controls of a host share. */
export function controlShell(): Command {
  return questions(
    hostRequirements
      .sections()
      .flatMap(({ controls }) =>
        controls.flatMap((c) => Object.keys((c as Entry & Partial<Ways>).unit ?? {})),
      ),
  )
}
