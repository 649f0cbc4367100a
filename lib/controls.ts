// Requirements as data: config/host/controls.yaml becomes the controls that a step reports one by one.
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { parse } from 'yaml'
import { Command, quote } from './sh.ts'
import type { Control } from './step.ts'
import type { Waiver } from './waivers.ts'

/** A path on a machine, and what has to be set in it. */
type Settings = Record<string, Record<string, string | number>>

/** One entry of controls.yaml: what it says, where that comes from, and exactly one way to ask. */
interface Entry {
  id: string
  title: string
  from: string[]
  /** os, arch or role → why the requirement has no meaning there. */
  not?: Record<string, string>
  sysctl?: Record<string, string | number>
  cmdline?: string[]
  module?: string[]
  mount?: [path: string, options: string, when?: 'if-mounted']
  /** `MODE OWNER:GROUP[,OWNER:GROUP] PATH…` */
  mode?: string[]
  package?: { present?: string[]; absent?: string[] }
  unit?: Record<string, 'enabled' | 'active' | 'on' | 'masked' | 'off'>
  sshd?: Record<string, string | number>
  audit?: string[]
  apt?: Record<string, string>
  setting?: Settings
  check?: string
}

/** What the controls of one machine depend on. */
export interface Place {
  /** Replace `{{ name }}` in the data. */
  values: Record<string, string | number>
  /** os, arch and roles of the machine. */
  traits: string[]
  waivers: Waiver[]
}

const shell = (name: string) =>
  readFileSync(join(import.meta.dirname, name), 'utf8').replace(/^# shellcheck.*\n/, '')
const words = (values: (string | number)[]) => values.map((v) => quote(String(v))).join(' ')
const pairs = (record: Record<string, string | number>) => words(Object.entries(record).flat())

/** How each kind asks; the functions are those of lib/controls.sh. */
const kinds: {
  [K in Exclude<keyof Entry, 'id' | 'title' | 'from' | 'not'>]-?: (value: NonNullable<Entry[K]>) => string
} = {
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

const file = join(import.meta.dirname, '../config/host/controls.yaml')
type Document = { step: string; controls: Entry[] }[]
let ours: Document | undefined
/** Parsing takes a tenth of a second, and each run asks for it several times. */
const document = (text?: string): Document =>
  text === undefined ? (ours ??= parse(readFileSync(file, 'utf8')) as Document) : (parse(text) as Document)

/** Every id of controls.yaml, in order, by step. */
export function controlIds(): Record<string, string[]> {
  return Object.fromEntries(document().map(({ step, controls }) => [step, controls.map((c) => c.id)]))
}

/**
 * The controls of controls.yaml (or of `text`) for one machine, by step. Throws TypeError for an entry that cannot be asked: no way or two
 * ways to ask, an unknown kind, a `{{ name }}` without a value, a second entry of the same id, a waiver of an unknown id.
 */
export function controlsFor(place: Place, text?: string): (step: string) => Control[] {
  const steps = new Map<string, Control[]>()
  const seen = new Set<string>()
  for (const { step, controls } of document(text)) {
    steps.set(
      step,
      controls.map((entry) => control(entry, place, seen)),
    )
  }
  const lost = place.waivers.flatMap((w) => w.controls).filter((id) => !seen.has(id))
  if (lost.length > 0) throw new TypeError(`waivers.yaml: there is no control ${lost.join(', ')}`)
  return (step) => {
    const found = steps.get(step)
    if (!found) throw new TypeError(`controls.yaml has no step ${step}`)
    return found
  }
}

function control(entry: Entry, place: Place, seen: Set<string>): Control {
  const where = `controls.yaml, ${entry.id}`
  if (seen.has(entry.id)) throw new TypeError(`${where}: the id is used twice`)
  seen.add(entry.id)
  const { id, title, from, not = {}, ...ways } = entry
  if (!title || !from?.length) throw new TypeError(`${where}: says no title, or not where it comes from`)
  const asked = Object.entries(ways) as [keyof typeof kinds, never][]
  const [way] = asked
  if (!way || asked.length > 1 || !kinds[way[0]])
    throw new TypeError(`${where}: say exactly one of ${Object.keys(kinds).join(', ')}`)
  const fill = (text: string) =>
    text.replaceAll(/\{\{ ([a-z_]+) \}\}/g, (_, name: string) => {
      const value = place.values[name]
      if (value === undefined) throw new TypeError(`${where}: {{ ${name} }} has no value`)
      return String(value)
    })
  const reason = place.traits.map((trait) => not[trait]).find((r) => r !== undefined)
  const text = reason === undefined ? fill(kinds[way[0]](way[1])).trimEnd() : `na ${quote(reason)}`
  const waiver = place.waivers.find((w) => w.controls.includes(id))
  return {
    id,
    title: fill(title),
    check: new Command(text, undefined, where),
    from,
    ...(waiver ? { waived: `${waiver.reason} (until ${waiver.expires})` } : {}),
  }
}

/** One question that asks all of them, for a step that is nothing but its controls. */
export function asked(controls: Control[]): Command {
  return new Command(controls.map((c) => `(\n${c.check.text}\n)`).join(' && '), undefined, 'controls.yaml')
}

/** What the controls of a page share: lib/controls.sh, and the names that it asks for all at once. */
export function controlShell(): Command {
  const units = document().flatMap(({ controls }) => controls.flatMap((c) => Object.keys(c.unit ?? {})))
  const names = [...new Set(units)].map((u) => (u.includes('.') ? u : `${u}.service`))
  return new Command(
    `FK_UNITS=${quote(names.join(' '))}\n${shell('controls.sh')}`,
    undefined,
    'lib/controls.sh',
  )
}
