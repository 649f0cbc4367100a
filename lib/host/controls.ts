// The controls of a host: the kinds of check that config/host/controls.yaml knows, and the shell that each becomes.
import { type Entry, type Kinds, Requirements } from '../engine/requirements.ts'
import type { Control } from '../engine/step.ts'
import { Command, quote, shellText } from '../ground/sh.ts'

/** A path on a machine, and what has to be set in it. */
type Settings = Record<string, Record<string, string | number>>

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

const words = (values: (string | number)[]) => values.map((v) => quote(String(v))).join(' ')
const pairs = (record: Record<string, string | number>) => words(Object.entries(record).flat())

/** How each kind asks; the functions are those of lib/host/controls.sh. */
export const hostKinds: { [K in keyof Ways]: (value: Ways[K]) => string } = {
  sysctl: (keys) => `sysctl_is ${pairs(keys)}`,
  cmdline: (list) => `cmdline_has ${words(list)}`,
  module: (list) => `module_blocked ${words(list)}`,
  mount: (mount) => `mount_has ${words(mount.filter((w) => w !== undefined))}`,
  mode: (list) =>
    list.length === 1
      ? `mode_is ${words(list.flatMap((line) => line.split(' ')))}`
      : `modes_are ${words(list)}`,
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

/** The controls of a host. */
export const hostRequirements = new Requirements('config/host/controls.yaml', hostKinds as Kinds)

/** One question that asks all of them, for a step that is nothing but its controls. */
export function asked(controls: Control[]): Command {
  return new Command(controls.map((c) => `(\n${c.check.text}\n)`).join(' && '), undefined, 'controls.yaml')
}

/** The functions of controls.sh and thief.sh. `units` and `paths`: what unit_is and mode_is ask for all at once. */
export function questions(units: string[] = [], paths: string[] = []): Command {
  const names = [...new Set(units.map((u) => (u.includes('.') ? u : `${u}.service`)))]
  const wrong = names.find((name) => !/^[\w@-]+\.[a-z]+$/.test(name))
  if (wrong) throw new Error(`a control asks for a unit by a word, not by its name: ${wrong}`)
  const lists = `FK_UNITS=${quote(names.join(' '))}\nFK_PATHS=${quote(paths.join(' '))}\n`
  const functions = 'lib/host/controls.sh'
  return new Command(lists + shellText(functions) + shellText('lib/host/thief.sh'), undefined, functions)
}

/** What a timer or a path starts has to be as its file says, too. */
const withStarted = (unit: string) =>
  /\.(timer|path)$/.test(unit) ? [unit, unit.replace(/\w+$/, 'service')] : [unit]

/** What the controls of a host share. */
export function controlShell(): Command {
  const all = hostRequirements.sections().flatMap(({ controls }) => controls as (Entry & Partial<Ways>)[])
  return questions(
    all.flatMap(({ unit = {}, check = '' }) => [
      ...Object.keys(unit).flatMap(withStarted),
      ...[...check.matchAll(/\bunit_(?:says \w+|line|is \w+) (\S+?)[;\s]/g)].flatMap(([, name]) =>
        withStarted(name as string),
      ),
    ]),
    all.flatMap(({ mode = [] }) => mode.map((line) => line.split(' ').slice(2).join(' '))),
  )
}
