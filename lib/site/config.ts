// The settings of a run: FK_ variables, the site document and the pins, read once and checked whole. It hides files, defaults,
// and the cache of what was found valid.
import { isUtf8 } from 'node:buffer'
import { createHash } from 'node:crypto'
import fs from 'node:fs'
import { createRequire } from 'node:module'
import os from 'node:os'
import path from 'node:path'
import type { Diagnostic, JsonSchema, Partially, Problem } from '../ground/document.ts'
import { recall, remember } from '../ground/kept.ts'
import { root as kit } from '../ground/root.ts'
import { wrap } from '../ground/wrap.ts'
import { hostOf } from './machines.ts'
import type { Config, Env, PerArch, Pins, Site, SiteDocument } from './model.ts'

export type { Diagnostic } from '../ground/document.ts'

/** Everything that is wrong with the configuration; the message is the whole text for a person. */
export class ConfigError extends Error {
  override name = 'ConfigError'
  readonly faults: Diagnostic[]

  constructor(faults: Diagnostic[]) {
    const files = [...new Set(faults.map((fault) => fault.file))]
    const count = faults.length === 1 ? '1 problem' : `${faults.length} problems`
    const { describe } = load('../ground/document.ts') as typeof import('../ground/document.ts')
    super([`${files.join(', ')}: ${count}; nothing was run`, ...faults.map(describe)].join('\n'))
    this.faults = faults
  }
}

// Libraries and checkers are loaded when they are needed: what was checked before starts in a fifth of the time.
const load = createRequire(import.meta.url)

/** Whether faults are shown with the place in the code where they happened: the variable DEBUG. */
export const debug = (): boolean => Boolean(process.env['DEBUG'])

/** The code that has a say in a checked result, without the rules of lib/site/rules; a test holds it to what is imported. */
export const checkers = [
  ...['address', 'document', 'hostname', 'kept', 'nearest', 'root', 'wrap'].map(
    (name) => `lib/ground/${name}.ts`,
  ),
  ...[
    'catalogue',
    'config',
    'defaults',
    'formats',
    'kubernetes',
    'machines',
    'policy',
    'reach',
    'rules',
    'zones',
  ].map((name) => `lib/site/${name}.ts`),
]

/** The state of every file of code and data that has a say in a checked result, beside the documents themselves. */
function rulesOf(site: string): string {
  const below = (dir: string): string[] => fs.readdirSync(`${kit}/${dir}`).map((name) => `${dir}/${name}`)
  const files = [
    ...checkers,
    ...below('lib/site/rules'),
    ...['component', 'env', 'policy', 'site', 'versions'].map((name) => `config/schema/${name}.json`),
    'config/host/allow.yaml',
    'config/policy/rules.yaml',
    // A component that is not named cannot have been found right. Behind a backslash a name may be spelt in other letters.
    ...below('config/components').flatMap((dir) =>
      site.includes(dir.slice('config/components/'.length)) || site.includes('\\')
        ? `${dir}/component.yaml`
        : [],
    ),
  ]
  // Their state and not their content: there are many, and this runs at every start.
  return files
    .map((file) => {
      const { mtimeMs, ctimeMs, size } = fs.statSync(`${kit}/${file}`)
      return `${file} ${mtimeMs} ${ctimeMs} ${size}`
    })
    .join('\n')
}

/**
 * Reads and checks the whole configuration.
 *
 * - `env`: the environment (process.env); what it says wins over `root`/.env, and an empty value means "not set".
 * - `root`: the directory with .env and config/ (the kit's own).
 * - `site`: the name of a site, in place of FK_SITE.
 *
 * Throws ConfigError with every fault. Writes nothing but a cache of valid results in `root`/.cache.
 */
export function loadConfig(
  options: { env?: Record<string, string | undefined>; root?: string; site?: string } = {},
): Config {
  const root = path.resolve(options.root ?? kit)
  const variables = readSchema('env.json') as unknown as EnvSchema
  const settings = readSettings(root, options.env ?? process.env, variables)
  const chosen = siteSetting(settings, options.site)
  const site = chooseSite(root, chosen)
  const pins = read(root, 'config/versions.yaml')

  // What somebody has decided to live with has an end: a document is good for a day.
  const day = Math.floor(Date.now() / 86_400_000)
  const text = site.text !== undefined && 'text' in site.text ? site.text.text : ''
  const inputs = [rulesOf(text), JSON.stringify([settings, chosen, site, pins, root, os.homedir(), day])]
  const key = createHash('sha256').update(inputs.join('\0')).digest('hex')
  const known = recall(root, 'config', key) as Config | undefined
  if (known !== undefined) return known

  const { catalogue } = load('./catalogue.ts') as typeof import('./catalogue.ts')
  const { formats } = load('./formats.ts') as typeof import('./formats.ts')
  const { pinProblems, siteProblems } = load('./rules.ts') as typeof import('./rules.ts')
  const { checkDocument } = load('../ground/document.ts') as typeof import('../ground/document.ts')
  const today = new Date(day * 86_400_000).toISOString().slice(0, 10)
  const faults: Diagnostic[] = []
  const check = <T>(source: Text, json: JsonSchema, rules: (found: Partially<T>) => Iterable<Problem>): T => {
    if ('unreadable' in source) {
      faults.push({ file: source.file, path: '', reason: source.unreadable })
      return {} as T
    }
    const checked = checkDocument(source.file, source.text, json, formats, rules)
    faults.push(...checked.faults)
    return checked.document
  }
  const value = {
    site:
      site.text &&
      check<SiteDocument>(site.text, readSchema('site.json'), (found) =>
        siteProblems(found, site.name, catalogue(), today),
      ),
    pins: check<Pins>(pins, readSchema('versions.json'), pinProblems),
    env: checkEnv(root, settings, variables),
  }
  const byLine = (a: Diagnostic, b: Diagnostic): number =>
    a.file.localeCompare(b.file) || (a.line ?? 0) - (b.line ?? 0)
  faults.push(...[...site.faults, ...settings.faults].sort(byLine))
  if (value.site === undefined || faults.length > 0) throw new ConfigError(faults)

  const { complete } = load('./defaults.ts') as typeof import('./defaults.ts')
  const whole = complete(value.site)
  faults.push(...oneMachine(whole, value.env, settings), ...within(whole, settings))
  if (faults.length > 0) throw new ConfigError(faults)
  const config = { ...value, site: whole, env: { ...value.env, FK_SITE: site.name } }
  for (const pin of Object.values(config.pins)) {
    pin.url = fillVersion(pin.url, pin.version)
    if (pin.signature !== undefined) pin.signature.url = fillVersion(pin.signature.url, pin.version)
    if (pin.sums !== undefined) pin.sums = fillVersion(pin.sums, pin.version)
  }
  remember(root, 'config', key, config)
  return config
}

function siteSetting({ values }: Settings, site: string | undefined): Setting {
  if (site !== undefined) return { value: site, file: '--site' }
  const said = values['FK_SITE']!
  // The lab's machine has secrets and a disk of its own: it is never taken for the one at home.
  return said.file === 'default' && values['FK_HOST']?.value === 'lab' ? { ...said, value: 'lab' } : said
}

/**
 * The text of the site document that loadConfig would read with these options, right or wrong, and its name and file (from `root`
 * on). `yes`: FK_YES is set. Throws ConfigError where there is no such document.
 */
export function siteText(options: Parameters<typeof loadConfig>[0] = {}): {
  name: string
  file: string
  text: string
  yes: boolean
} {
  const root = path.resolve(options.root ?? kit)
  const settings = readSettings(
    root,
    options.env ?? process.env,
    readSchema('env.json') as unknown as EnvSchema,
  )
  const { name, text, faults } = chooseSite(root, siteSetting(settings, options.site))
  if (text === undefined) throw new ConfigError(faults)
  if ('unreadable' in text) throw new ConfigError([{ file: text.file, path: '', reason: text.unreadable }])
  return { name, ...text, yes: /^(1|true|yes)$/i.test(settings.values['FK_YES']?.value ?? '') }
}

/** What describes a site document. */
export const siteSchema = (): JsonSchema => readSchema('site.json')

/** A copy of a site document, right or wrong, with the defaults of its schema. */
export function withDefaults(document: unknown): SiteDocument {
  const { formats } = load('./formats.ts') as typeof import('./formats.ts')
  const { checkSchema } = load('../ground/document.ts') as typeof import('../ground/document.ts')
  const copy = structuredClone(document)
  checkSchema(siteSchema(), formats, copy)
  return copy as SiteDocument
}

/**
 * FK_ variables that are facts of the virtual machine win over the site document, which they are written into. Gives what is
 * wrong where they would mean several machines.
 */
function oneMachine({ machines }: Site, env: Env, { values }: Settings): Diagnostic[] {
  const sizes = {
    FK_NODE_OS: env.FK_NODE_OS,
    FK_VM_RAM_MB: env.FK_VM_RAM_MB,
    FK_VM_VCPUS: env.FK_VM_VCPUS,
    FK_VM_DISK_GB: env.FK_VM_DISK_GB,
    FK_VM_ACCEL: env.FK_VM_ACCEL,
  }
  const said = Object.entries(sizes).filter(([, value]) => value !== undefined)
  const guests = machines.filter((machine) => machine.vm && hostOf({ machines }, machine))
  const [guest] = guests
  if (guests.length > 1)
    return said.map(([name]) => ({
      file: values[name]?.file ?? 'environment',
      line: values[name]?.line,
      path: name,
      reason:
        `names no machine: the site has ${guests.length} virtual machines (${guests.map((one) => one.name).join(', ')}). ` +
        'Their sizes and systems stand in the site document',
    }))
  if (guest?.vm === undefined) return []
  guest.os = env.FK_NODE_OS ?? guest.os
  guest.vm.memory = env.FK_VM_RAM_MB ?? guest.vm.memory
  guest.vm.cpus = env.FK_VM_VCPUS ?? guest.vm.cpus
  guest.vm.disk = env.FK_VM_DISK_GB ?? guest.vm.disk
  guest.vm.accel = env.FK_VM_ACCEL ?? guest.vm.accel
  return []
}

/** FK_HOST is where a host is found before there is a tunnel, or a machine behind it. */
function within({ cluster, networks, tunnel }: Site, { values }: Settings): Diagnostic[] {
  const { contains, parseNetwork } = load('../ground/address.ts') as typeof import('../ground/address.ts')
  const { parseHost } = load('../ground/hostname.ts') as typeof import('../ground/hostname.ts')
  const said = values['FK_HOST']
  const host = parseHost(said?.value ?? '')
  if (said === undefined || !('kind' in host) || host.kind !== 'ssh') return []
  const inner: [string, string | undefined][] = [
    ['tunnel.network', tunnel.network],
    ...networks.flatMap(({ bridge, name, network }): [string, string][] =>
      bridge === undefined ? [] : [[`the network ${name}, which is behind a host`, network]],
    ),
    ['cluster.pods', cluster.pods],
    ['cluster.services', cluster.services],
  ]
  return inner.flatMap(([what, text]) => {
    const range = parseNetwork(text ?? '')
    if (range === undefined || !contains(range, host.host)) return []
    const reason = `is inside ${what} (${text}): give the address of the host outside of it; the tunnel is found by itself`
    return [{ file: said.file, line: said.line, path: 'FK_HOST', reason }]
  })
}

/**
 * Throws ConfigError with what `check` finds in documents that are made of the configuration. What was found good is not checked
 * again: `inputs` are all that it depends on beside the files named in `code`, paths in this repository.
 */
export function accept(inputs: unknown, code: string[], check: () => Diagnostic[]): void {
  const texts = code.map((name) => fs.readFileSync(path.join(kit, name), 'utf8'))
  const key = createHash('sha256')
    .update([JSON.stringify(inputs), ...texts].join('\0'))
    .digest('hex')
  if (recall(kit, 'config', key) === true) return
  const faults = check()
  if (faults.length > 0) throw new ConfigError(faults)
  remember(kit, 'config', key, true)
}

interface EnvVariable {
  type: 'string' | 'integer' | 'boolean' | 'array'
  description: string
  when: string
  /** The value is a path: of a file that exists, of one that nobody else can read as well, or of anything. */
  path?: 'file' | 'private' | 'any'
  /** Set by the kit for its own parts; accepted and left alone. */
  internal?: true
  default?: unknown
  examples: string[]
}
type EnvSchema = { properties: Record<string, EnvVariable> }

const schemas = new Map<string, JsonSchema>()

// The same object every time, so that it is compiled once in a process.
function readSchema(name: string): JsonSchema {
  const known = schemas.get(name)
  if (known !== undefined) return known
  const schema = JSON.parse(fs.readFileSync(path.join(kit, 'config/schema', name), 'utf8')) as JsonSchema
  schemas.set(name, schema)
  return schema
}

type Text = { file: string; text: string } | { file: string; unreadable: string }

function read(root: string, file: string): Text {
  const full = path.join(root, file)
  try {
    const text = fs.readFileSync(full, 'utf8')
    // What was no UTF-8 has become this sign, which a text may have of its own.
    if (text.includes('\uFFFD') && !isUtf8(fs.readFileSync(full)))
      return { file, unreadable: 'is not UTF-8 text' }
    // What some editors put in front of a text is no part of it.
    return { file, text: text.startsWith('\uFEFF') ? text.slice(1) : text }
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code
    return { file, unreadable: code === 'ENOENT' ? 'is missing' : `cannot be read (${code})` }
  }
}

function chooseSite(root: string, chosen: Setting): { name: string; text?: Text; faults: Diagnostic[] } {
  const name = chosen.value
  const file = `config/sites/${name}.yaml`
  // A name in small letters can be no other file, and needs no list of all.
  const usual = /^[a-z0-9-]+$/.test(name) ? read(root, file) : undefined
  if (usual !== undefined && 'text' in usual) return { name, text: usual, faults: [] }
  const there = siteNames(root)
  if (there.includes(name)) return { name, text: read(root, file), faults: [] }
  const { nearest } = load('../ground/nearest.ts') as typeof import('../ground/nearest.ts')
  const suggestion = nearest(name, there)
  const known = there.length === 0 ? 'there is none' : `there are ${there.join(', ')}`
  const fault: Diagnostic = {
    file: chosen.file,
    line: chosen.line,
    path: chosen.file === '--site' ? '' : 'FK_SITE',
    reason: `${JSON.stringify(name)} names no document in config/sites (${known})`,
    suggestion,
  }
  return { name, faults: [fault] }
}

/** The names of the site documents in `root`/config/sites, sorted. */
export function siteNames(root: string = kit): string[] {
  try {
    const files = fs.readdirSync(path.join(root, 'config', 'sites'))
    return files.flatMap((file) => (file.endsWith('.yaml') ? [file.slice(0, -5)] : [])).sort()
  } catch {
    return []
  }
}

interface Setting {
  value: string
  /** `.env`, `environment`, `--site` or `default`. */
  file: string
  line?: number | undefined
}
interface Settings {
  values: Record<string, Setting>
  faults: Diagnostic[]
  /** Of each variable that names a file: the mode, or why there is none; a checked result is good for these only. */
  files: Record<string, number | string>
}

function readSettings(root: string, env: Record<string, string | undefined>, schema: EnvSchema): Settings {
  const site: Setting = { value: String(schema.properties['FK_SITE']!.default), file: 'default' }
  const settings: Settings = { values: {}, faults: [], files: {} }
  const { values, faults, files } = settings
  const names = Object.keys(schema.properties)
  const set = (name: string, value: string, file: string, line?: number): void => {
    if (names.includes(name)) {
      // An empty value takes back what .env says.
      if (value.trim() === '') delete values[name]
      else if (!schema.properties[name]!.internal) values[name] = { value: value.trim(), file, line }
      return
    }
    const { nearest } = load('../ground/nearest.ts') as typeof import('../ground/nearest.ts')
    const suggestion = names.includes(`FK_${name}`) ? `FK_${name}` : nearest(name, names)
    const ours = /^FK_/i.test(name) || suggestion !== undefined
    const reason = ours ? 'is not a known variable' : 'has no effect here: set it in your shell'
    faults.push({ file, line, path: name, reason, suggestion })
  }

  const dotenv = settingsFile(root, env)
  if ('text' in dotenv) readDotenv(dotenv, set, faults)
  else if (dotenv.file !== '.env' || dotenv.unreadable !== 'is missing')
    faults.push({ file: dotenv.file, path: '', reason: dotenv.unreadable })
  for (const [name, value] of Object.entries(env))
    if (value !== undefined && /^FK_/i.test(name)) set(name, value, 'environment')

  values['FK_SITE'] ??= site
  for (const [name, setting] of Object.entries(values)) {
    const { path: kind } = schema.properties[name]!
    if (kind === undefined) continue
    setting.value = absolute(setting.value, setting.file === dotenv.file ? root : process.cwd())
    if (kind !== 'any') files[name] = fileMode(setting.value)
  }
  return settings
}

/** The file of a person's settings. What this process is not to read is not read for a caller with an `env` of his own either. */
function settingsFile(root: string, env: Record<string, string | undefined>): Text {
  const said = env['FK_ENV_FILE'] || (root === kit ? process.env['FK_ENV_FILE'] : undefined)
  if (!said) return read(root, '.env')
  const found = read('/', absolute(said, process.cwd()))
  return { ...found, file: said }
}

function readDotenv(
  { file, text }: { file: string; text: string },
  set: (name: string, value: string, file: string, line: number) => void,
  faults: Diagnostic[],
): void {
  const { parse } = load('dotenv') as typeof import('dotenv')
  const seen = new Map<string, number>()
  for (const [index, content] of text.split(/\r\n|\n|\r/).entries()) {
    if (/^\s*(#|$)/.test(content)) continue
    const line = index + 1
    const wrong = (name: string, reason: string): void => {
      faults.push({ file, line, path: name, reason })
    }
    // One line at a time: a quote that is left open must not swallow the settings below it.
    const [[name, value] = ['', '']] = Object.entries(parse(content))
    const quote = /=\s*(["'`])/.exec(content)?.[1]
    const first = seen.get(name)
    if (name === '') wrong('', 'is not NAME=value')
    else if (quote !== undefined && value.startsWith(quote)) wrong(name, `has no closing ${quote}`)
    else if (first !== undefined) wrong(name, `is set twice; first in line ${first}`)
    else set(name, value, file, line)
    if (first === undefined) seen.set(name, line)
  }
}

function absolute(value: string, base: string): string {
  return value === '~' || value.startsWith('~/')
    ? path.join(os.homedir(), value.slice(1))
    : path.resolve(base, value)
}

function fileMode(file: string): number | string {
  try {
    const { mode } = fs.statSync(file)
    return (mode & 0o170000) === 0o040000 ? 'is a directory' : mode & 0o777
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code
    return code === 'ENOENT' || code === 'ENOTDIR' ? 'does not exist' : `cannot be read (${code})`
  }
}

function checkEnv(root: string, settings: Settings, schema: EnvSchema): Env {
  const values: Record<string, unknown> = {}
  for (const [name, { value }] of Object.entries(settings.values)) {
    const { type } = schema.properties[name]!
    if (type === 'integer' && /^-?[0-9]{1,15}$/.test(value)) values[name] = Number(value)
    else if (type === 'boolean' && /^(1|true|yes|0|false|no)$/i.test(value))
      values[name] = /^(1|true|yes)$/i.test(value)
    else if (type === 'array') values[name] = value.split(',').flatMap((word) => word.trim() || [])
    else values[name] = value
  }
  const { checkSchema } = load('../ground/document.ts') as typeof import('../ground/document.ts')
  const { formats } = load('./formats.ts') as typeof import('./formats.ts')
  const { problems } = checkSchema(schema as unknown as JsonSchema, formats, values)
  for (const [name, fact] of Object.entries(settings.files)) {
    const file = settings.values[name]!.value
    if (typeof fact === 'string') problems.push({ path: [name], reason: `${fact}: ${file}` })
    else if (schema.properties[name]!.path === 'private' && (fact & 0o077) !== 0)
      problems.push({ path: [name], reason: `can be read by others; run: chmod 600 ${file}` })
  }
  for (const { path: at, reason, suggestion } of problems) {
    const name = String(at[0])
    const { file, line } = settings.values[name]!
    settings.faults.push({ file, line, path: name, reason, suggestion })
  }
  // A default may stand on another variable, and is a path of the checkout otherwise.
  for (const [name, { path: kind, default: preset }] of Object.entries(schema.properties)) {
    if (kind === undefined || preset === undefined || settings.values[name] !== undefined) continue
    values[name] = absolute(
      String(preset).replace(/\$(FK_[A-Z_]+)/g, (_, other: string) => String(values[other])),
      root,
    )
  }
  return values as unknown as Env
}

/** The text of .env.example: every variable with what it is, when to change it, and its default. */
export function envExample(): string {
  const { properties } = readSchema('env.json') as unknown as EnvSchema
  const lines = [
    'Settings of one person and one laptop. Copy this file to .env and uncomment what you change.',
    'What your shell sets wins over .env. Generated from config/schema/env.json.',
  ].map((line) => `# ${line}`)
  for (const [name, { description, when, internal, default: preset, examples }] of Object.entries(
    properties,
  )) {
    if (internal) continue
    const change = `Change it when: ${when[0]!.toLowerCase()}${when.slice(1)}`
    const about = [description, change].flatMap((text) => wrap(text, 98))
    lines.push('', ...about.map((line) => `# ${line}`))
    if (preset !== undefined && String(preset) !== '') lines.push(`# Default: ${String(preset)}`)
    lines.push(`#${name}=${examples[0]!}`)
  }
  return `${lines.join('\n')}\n`
}

function fillVersion(urls: PerArch, version: string): PerArch {
  // k3s writes + in its tags; in a URL that is a space to some servers.
  const text = encodeURIComponent(version)
  return Object.fromEntries(
    Object.entries(urls).map(([arch, url]) => [arch, url.replaceAll('{version}', text)]),
  )
}
