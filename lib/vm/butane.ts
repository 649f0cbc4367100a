// What a node becomes on its first boot: Butane as people write it, checked line by line and translated to Ignition.
import { readFileSync } from 'node:fs'
import { isAbsolute, join, posix, relative, resolve } from 'node:path'
import {
  type Diagnostic,
  type Format,
  type JsonSchema,
  type Partially,
  type Path,
  type Problem,
  checkDocument,
  pathText,
  show,
} from '../ground/document.ts'
import { nearest } from '../ground/nearest.ts'
import { read } from '../ground/root.ts'
import { ConfigError } from '../site/config.ts'

/** One Butane document: what faults call it, and its text. */
export interface Source {
  file: string
  text: string
}

/** What documents are filled with. */
export interface Filling {
  /** What each `{{ name }}` stands for. A value lands in a text that YAML has read already, so it needs no quotes or indent. */
  values?: Record<string, string | number>
  /** The directory that `contents.local` is relative to, like `butane --files-dir`. */
  files?: string
}

interface Owner {
  id?: number
  name?: string
}
interface Contents {
  inline?: string
  local?: string
  source?: string
  verification?: { hash: string }
}
interface Node {
  path: string
  user?: Owner
  group?: Owner
  overwrite?: boolean
}
interface Directory extends Node {
  mode?: number
}
interface File extends Node {
  mode?: number
  contents?: Contents
  append?: Contents[]
}
interface Link extends Node {
  target: string
  hard?: boolean
}
interface Unit {
  name: string
  contents?: string
  dropins?: { name: string; contents?: string }[]
  enabled?: boolean
  mask?: boolean
}
interface User {
  name: string
  uid?: number
  gecos?: string
  groups?: string[]
  home_dir?: string
  no_create_home?: boolean
  no_log_init?: boolean
  no_user_group?: boolean
  primary_group?: string
  shell?: string
  ssh_authorized_keys?: string[]
  system?: boolean
}
interface Group {
  name: string
  gid?: number
  system?: boolean
}
interface Butane {
  kernel_arguments?: { should_exist?: string[]; should_not_exist?: string[] }
  passwd?: { groups?: Group[]; users?: User[] }
  storage?: { directories?: Directory[]; files?: File[]; links?: Link[] }
  systemd?: { units?: Unit[] }
}

interface Resource {
  source: string
  compression?: ''
  verification?: { hash: string }
}

/** An Ignition configuration, as far as we write one. What is empty is left out. */
export interface Ignition {
  ignition: { version: string }
  kernelArguments?: { shouldExist?: string[]; shouldNotExist?: string[] }
  passwd?: {
    groups?: Group[]
    users?: {
      name: string
      uid?: number
      gecos?: string
      groups?: string[]
      homeDir?: string
      noCreateHome?: boolean
      noLogInit?: boolean
      noUserGroup?: boolean
      primaryGroup?: string
      shell?: string
      sshAuthorizedKeys?: string[]
      system?: boolean
    }[]
  }
  storage?: {
    directories?: Directory[]
    files?: (Node & { mode?: number; contents?: Resource; append?: Resource[] })[]
    links?: Link[]
  }
  systemd?: { units?: Unit[] }
}

const schema = JSON.parse(read('config/schema/butane.json')) as JsonSchema

/**
 * Translates Butane documents to the one Ignition configuration that they are together, ready before the first boot. Each
 * document owns what it names: two that name the same path, unit, user, group or kernel argument are refused.
 * Throws ConfigError with every fault of every document, and TypeError for a value that no document asks for.
 */
export function translate(sources: Source[], { values = {}, files }: Filling = {}): Ignition {
  const faults: Diagnostic[] = []
  const used = new Set<string>()
  const claims = new Claims()
  const fill = (text: string): string | Omit<Problem, 'path'> => {
    let wrong: Omit<Problem, 'path'> | undefined
    const full = text.replace(/\{\{ ([a-z][a-z0-9_]*) \}\}/g, (place, name: string) => {
      const value = Object.hasOwn(values, name) ? values[name] : undefined
      used.add(name)
      if (value !== undefined) return String(value)
      const near = nearest(name, Object.keys(values))
      wrong ??= {
        reason: `asks for ${place}, which has no value`,
        suggestion: near === undefined ? undefined : `{{ ${near} }}`,
      }
      return place
    })
    return wrong ?? full
  }
  const documents = sources.map(({ file, text }) => {
    claims.file = file
    const checked = checkDocument<Butane>(
      file,
      text,
      schema,
      formats,
      (found, raw) => problems(found, raw, claims, files),
      { octal: true, fill },
    )
    faults.push(...checked.faults)
    // YAML readers do not agree whether a block that ends with the file has a last newline.
    if (text !== '' && !text.endsWith('\n'))
      faults.push({ file, line: text.split('\n').length, path: '', reason: 'does not end with a newline' })
    return checked.document
  })
  if (faults.length > 0) throw new ConfigError(faults)
  const spare = Object.keys(values).filter((name) => !used.has(name))
  if (spare.length > 0)
    throw new TypeError(
      `${sources.map(({ file }) => file).join(' and ')}: no use of {{ ${spare.join(' }}, {{ ')} }}`,
    )
  return ignition(documents, files)
}

// ─── what is refused ─────────────────────────────────────────────────────────────────────────────────────────────────

const suffixes = 'service socket device mount automount swap target path timer snapshot slice scope'.split(
  ' ',
)
const kinds = ['ssh-ed25519', 'ecdsa-sha2-nistp256', 'ecdsa-sha2-nistp384', 'ecdsa-sha2-nistp521', 'ssh-rsa']
/** What may stand before a key (sshd(8), AUTHORIZED_KEYS FILE FORMAT), in small letters. */
const sshOptions =
  `agent-forwarding cert-authority command environment expiry-time from no-agent-forwarding no-port-forwarding no-pty
    no-touch-required no-user-rc no-x11-forwarding permitlisten permitopen port-forwarding principals pty restrict tunnel
    user-rc verify-required x11-forwarding`.split(/\s+/)
const keys = [...kinds, 'sk-ssh-ed25519@openssh.com', 'sk-ecdsa-sha2-nistp256@openssh.com']

const formats: Record<string, Format> = {
  'node-path': (text) => {
    if (!text.startsWith('/')) return { reason: `must be an absolute path, is ${show(text)}` }
    const clean = posix.normalize(text).replace(/(?<=.)\/$/, '')
    return clean === text ? undefined : { reason: 'is not the shortest form of this path', suggestion: clean }
  },

  'unit-name': (text) => {
    const [, name = '', suffix = ''] = /^([\w:.\\@-]*)\.(\w+)$/.exec(text) ?? []
    if (name !== '' && suffixes.includes(suffix)) return undefined
    const meant = nearest(suffix, suffixes)
    return {
      reason: `must be the name of a systemd unit such as k3s.service, is ${show(text)}`,
      suggestion: name === '' || meant === undefined ? undefined : `${name}.${meant}`,
    }
  },

  'ssh-key': (text) => {
    // What sshd may be told before the key: NAME or NAME="text", with commas.
    const [options = ''] =
      /^(?:[A-Za-z0-9-]+(?:="(?:[^"\\]|\\.)*")?,?)+(?= +[a-z@0-9.-]+ +AAAA)/.exec(text) ?? []
    const unknown = [...options.matchAll(/(?:^|,)([A-Za-z0-9-]+)(?:="(?:[^"\\]|\\.)*")?/g)].find(
      ([, name]) => !sshOptions.includes(name!.toLowerCase()),
    )
    if (unknown)
      return {
        reason: `begins with ${show(unknown[1])}, which is no option of sshd: it skips the key`,
        suggestion: nearest(unknown[1]!, sshOptions),
        secret: true,
      }
    const [, kind = '', body = ''] = /^(\S+) +(\S+)( .*)?$/.exec(text.slice(options.length).trimStart()) ?? []
    if (!keys.includes(kind))
      return {
        reason: `must be one line of a public SSH key: ${keys[0]} AAAA… name`,
        suggestion: nearest(kind, keys),
        secret: true,
      }
    const blob = Buffer.from(body, 'base64')
    const whole = blob.toString('base64') === body && blob.subarray(4, 4 + blob[3]!).toString() === kind
    return whole ? undefined : { reason: `is not a whole ${kind} key: copy the line again`, secret: true }
  },

  source: (text) => {
    if (text.startsWith('data:'))
      return { reason: 'is a data: URL; write the content as inline or local instead' }
    return /^https?:\/\/([a-z0-9.-]+|\[[0-9a-f:]+\])(:[0-9]+)?\/([^\s"'\\^`|<>{}%]|%[0-9a-f]{2})+$/i.test(
      text,
    )
      ? undefined
      : { reason: `must be an https or http URL, is ${show(text)}` }
  },
}

/** Who has named what, over all documents. */
class Claims {
  file = ''
  readonly links = new Map<string, Claim>()
  readonly paths = new Map<string, Claim>()
  readonly #owners = new Map<string, Claim>()

  #of({ file, at }: Claim): string {
    return `${pathText(at)}${file === this.file ? '' : ` of ${file}`}`
  }

  /** Takes something for a place in the present document; the problem says who was there before. */
  *take(kind: string, name: string | undefined, at: Path, map = this.#owners): Generator<Problem> {
    if (name === undefined) return
    const key = map === this.#owners ? `${kind} ${name}` : name
    const owner = map.get(key)
    if (owner === undefined) map.set(key, { file: this.file, at })
    else yield { path: at, reason: `${kind} ${name} is ${this.#of(owner)} already` }
  }

  /** Problems of the present document with what lies below a link, in whichever document the link is. */
  *belowLinks(): Generator<Problem> {
    for (const [path, node] of this.paths)
      for (const [above, link] of this.links) {
        if (!path.startsWith(`${above}/`)) continue
        if (node.file === this.file)
          yield { path: node.at, reason: `lies below ${above}, which is a link (${this.#of(link)})` }
        else if (link.file === this.file)
          yield { path: link.at, reason: `is a link, and ${path} lies below it (${this.#of(node)})` }
      }
  }
}

interface Claim {
  file: string
  at: Path
}

/** What the schema cannot say, of one document. */
function* problems(
  document: Partially<Butane>,
  raw: (path: Path) => string,
  claims: Claims,
  files: string | undefined,
): Generator<Problem> {
  const { kernel_arguments: kernel = {}, passwd = {}, storage = {}, systemd = {} } = document
  for (const list of ['should_exist', 'should_not_exist'] as const)
    for (const [at, argument] of entries(['kernel_arguments', list], kernel[list]))
      yield* claims.take('kernel argument', argument as string, at)

  for (const [at, { name }] of entries(['passwd', 'groups'], passwd.groups))
    yield* claims.take('group', name, [...at, 'name'])
  for (const [at, { name, groups, ssh_authorized_keys }] of entries(['passwd', 'users'], passwd.users)) {
    yield* claims.take('user', name, [...at, 'name'])
    yield* repeated([...at, 'groups'], groups)
    yield* repeated([...at, 'ssh_authorized_keys'], ssh_authorized_keys)
  }

  for (const kind of ['directories', 'files', 'links'] as const)
    for (const [at, node] of entries<Partially<File & Link>>(['storage', kind], storage[kind])) {
      yield* claims.take('path', node.path, [...at, 'path'], claims.paths)
      yield* ownerProblems([...at, 'user'], node.user)
      yield* ownerProblems([...at, 'group'], node.group)
      if (node.mode !== undefined) yield* modeProblems([...at, 'mode'], node.mode, raw)
      if (kind === 'files') yield* fileProblems(at, node, files)
    }
  for (const [at, { path, hard, target, user, group }] of entries(['storage', 'links'], storage.links)) {
    if (path !== undefined && !claims.links.has(path))
      claims.links.set(path, { file: claims.file, at: [...at, 'path'] })
    if (hard !== true) continue
    for (const [key, owner] of Object.entries({ user, group }))
      if (owner !== undefined)
        yield { path: [...at, key], reason: 'has no effect: a hard link has the owner of its target' }
    const full = path !== undefined && target !== undefined && posix.resolve(path, target)
    if ((storage.directories ?? []).some((directory) => directory?.path === full))
      yield { path: [...at, 'target'], reason: 'is a directory, which no hard link can point to' }
  }

  const units = entries(['systemd', 'units'], systemd.units)
  for (const [at, unit] of units) yield* unitProblems(at, unit, claims)
  for (const [at, { name, enabled }] of units) {
    const template = /^(.+?@)(.+?)\.service$/.exec(name ?? '')
    if (template === null || enabled !== true) continue
    const [, of] = units.find((entry) => entry[1].name === `${template[1]}.service`) ?? []
    if (of?.contents && !unitSections(of.contents).names.includes('Install'))
      yield { path: [...at, 'enabled'], reason: `has no effect: ${of.name} says nothing under [Install]` }
  }
  yield* claims.belowLinks()
}

function* ownerProblems(at: Path, owner: Partially<Owner> | undefined): Generator<Problem> {
  if (owner?.id !== undefined && owner.name !== undefined)
    yield { path: at, reason: 'has an id and a name: give one of them' }
}

/** Whether a mode is one that people give: who may write may read, and nobody more than who stands before. */
function likely(mode: number): boolean {
  const [owner, group, others] = [mode >> 6, (mode >> 3) & 7, mode & 7]
  const whole = [owner, group, others].every((one) => (one & 2) === 0 || (one & 4) !== 0)
  return mode <= 0o777 && whole && owner >= 4 && (group & ~owner) === 0 && (others & ~group) === 0
}

const octal = (mode: number): string => `0${mode.toString(8).padStart(3, '0')}`

function* modeProblems(at: Path, mode: number, raw: (path: Path) => string): Generator<Problem> {
  const text = raw(at)
  if (!/^0(o?[0-7]+)?$/.test(text)) {
    // Ignition writes modes in tens, people write them in eights and forget the 0: 420 is 0644, and 644 is no mode otherwise.
    const read = /^\d+$/.test(text) ? mode : undefined
    const typed = /^[0-7]{3,4}$/.test(text) ? Number.parseInt(text.slice(-3), 8) : undefined
    const meant = [read, typed].filter((one) => one !== undefined && likely(one))
    const is = read !== undefined && read <= 0o777 ? `${text}, which Butane reads as ${octal(read)}` : text
    yield {
      path: at,
      reason: `must be octal, with a leading 0, is ${is}`,
      suggestion: meant.length === 1 ? octal(meant[0]!) : undefined,
    }
  } else if (mode > 0o7777) yield { path: at, reason: `must be 0 to 0777, is ${text}` }
  else if (mode > 0o777)
    yield {
      path: at,
      reason: 'has a set-user-ID, set-group-ID or sticky bit, which Ignition does not set',
      // Without its sticky bit a directory in which everybody writes is less than it was.
      suggestion: mode & 0o1000 && mode & 0o022 ? undefined : octal(mode & 0o777),
    }
  else if (!likely(mode) && /^0[1-7]\d\d$/.test(text) && likely(Number(text)))
    yield {
      path: at,
      reason: `is ${text}, which lets somebody write who may not read; without the 0 it would be ${octal(Number(text))}`,
      suggestion: octal(Number(text)),
    }
}

function* fileProblems(at: Path, file: Partially<File>, files: string | undefined): Generator<Problem> {
  if (file.overwrite === true && !('contents' in file))
    yield { path: [...at, 'overwrite'], reason: 'is true and there are no contents to put there' }
  const parts: [Path, Partially<Contents>][] = [
    ...entries([...at], [file.contents]).map(([, part]): [Path, Partially<Contents>] => [
      [...at, 'contents'],
      part,
    ]),
    ...entries([...at, 'append'], file.append),
  ]
  for (const [path, part] of parts) {
    const given = ['inline', 'local', 'source'].filter((key) => key in part)
    if (given.length > 1) yield { path, reason: `has ${given.join(' and ')}: give one of them` }
    else if (given.length === 0) yield { path, reason: 'has neither inline nor local nor source' }
    else if (part.source !== undefined && !('verification' in part))
      yield { path: [...path, 'source'], reason: 'has no proof: give its hash under verification' }
    else if (given[0] !== 'source' && 'verification' in part)
      yield {
        path: [...path, 'verification'],
        atKey: true,
        reason: 'is for a source: what is written here needs no proof',
      }
    if (part.local === undefined) continue
    const found = localFile(part.local, files)
    if ('reason' in found) yield { path: [...path, 'local'], ...found }
  }
}

function localFile(name: string, files: string | undefined): { bytes: Buffer } | { reason: string } {
  if (files === undefined) return { reason: 'names a file, and no directory of files was given' }
  const path = resolve(files, join('.', name))
  const inside = relative(resolve(files), path)
  if (inside.startsWith('..') || isAbsolute(inside)) return { reason: 'leaves the directory of files' }
  try {
    return { bytes: readFileSync(path) }
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    const why = { ENOENT: 'does not exist', EISDIR: 'is a directory' }[code ?? '']
    return { reason: `${why ?? `cannot be read (${code})`}: ${join(files, name)}` }
  }
}

function* unitProblems(at: Path, unit: Partially<Unit>, claims: Claims): Generator<Problem> {
  const { name, contents, enabled, mask } = unit
  yield* claims.take('unit', name, [...at, 'name'])
  const file = name === undefined ? undefined : `/etc/systemd/system/${name}`
  if (mask === true || contents)
    yield* claims.take('path', file, [...at, mask === true ? 'mask' : 'contents'], claims.paths)
  if (mask === true && contents)
    yield { path: [...at, 'mask'], reason: 'is true, so the contents would never be read: leave one of them' }
  if (mask === true && enabled === true)
    yield { path: [...at, 'mask'], reason: 'is true, so the unit cannot be enabled: leave one of them' }
  if (contents) {
    const { names, fault } = unitSections(contents)
    if (fault !== undefined) yield { path: [...at, 'contents'], reason: fault }
    else if (enabled === true && mask !== true && !names.includes('Install'))
      yield { path: [...at, 'enabled'], reason: 'has no effect: the contents say nothing under [Install]' }
  }
  const names: (string | undefined)[] = []
  for (const [place, dropin] of entries([...at, 'dropins'], unit.dropins)) {
    const first = dropin.name === undefined ? -1 : names.indexOf(dropin.name)
    if (first >= 0)
      yield { path: [...place, 'name'], reason: `is the same as ${pathText([...at, 'dropins', first])}.name` }
    names.push(dropin.name)
    if (!dropin.contents) continue
    if (first < 0 && file !== undefined && dropin.name !== undefined)
      yield* claims.take('path', `${file}.d/${dropin.name}`, [...place, 'contents'], claims.paths)
    const { fault } = unitSections(dropin.contents)
    if (fault !== undefined) yield { path: [...place, 'contents'], reason: fault }
  }
}

/** The names of the sections of a unit file that hold something, and the first line that is wrong in it. */
function unitSections(text: string): { names: string[]; fault?: string } {
  const names: string[] = []
  let present: string | undefined
  const lines = text.split(/\r?\n/)
  for (let i = 0; i < lines.length; i++) {
    const line = lines[i]!.trim()
    const wrong = (reason: string) => ({ names, fault: `is wrong in its line ${i + 1}: ${reason}` })
    if (Buffer.byteLength(lines[i]!) >= 2048)
      return wrong('it is longer than the 2047 bytes that systemd reads')
    if (/^[#;].*\\$/.test(line))
      return wrong('a comment ends with \\, and some readers take the next line for its rest')
    if (line === '' || /^[#;]/.test(line)) continue
    const section = /^\[([^\]]+)\]$/.exec(line)?.[1]
    if (section !== undefined) present = section
    else if (line.startsWith('[') || !/^[^=]+=/.test(line))
      return wrong(`${show(line)} is neither [Section] nor Name=value`)
    else if (present === undefined) return wrong(`${show(line)} stands before the first [Section]`)
    else {
      names.push(present)
      while (lines[i]!.endsWith('\\') && i + 1 < lines.length) i++
    }
  }
  return { names }
}

function* repeated(at: Path, list: (string | undefined)[] | undefined): Generator<Problem> {
  for (const [i, value] of (list ?? []).entries())
    if (value !== undefined && list!.indexOf(value) < i)
      yield { path: [...at, i], reason: 'is in the list twice' }
}

/** The entries of a list with their place, without those that were wrong. */
function entries<T>(at: Path, list: (T | undefined)[] | undefined): [Path, T][] {
  return (list ?? []).flatMap((entry, i): [Path, T][] => (entry === undefined ? [] : [[[...at, i], entry]]))
}

// ─── what it becomes ─────────────────────────────────────────────────────────────────────────────────────────────────

function ignition(documents: Butane[], files: string | undefined): Ignition {
  const all = <T>(part: (document: Butane) => T[] | undefined): T[] =>
    documents.flatMap((document) => part(document) ?? [])
  const resource = ({ inline, local, source, verification }: Contents): Resource => {
    if (source !== undefined) return { source, ...(verification ? { verification } : {}) }
    const found = local === undefined ? { bytes: Buffer.from(inline ?? '') } : localFile(local, files)
    if ('reason' in found) throw new Error(`${local} ${found.reason}`)
    return { source: dataUrl(found.bytes), compression: '' }
  }
  const version = (schema.properties!['version'] as { becomes: string }).becomes
  return pruned({
    ignition: { version },
    kernelArguments: {
      shouldExist: all((d) => d.kernel_arguments?.should_exist),
      shouldNotExist: all((d) => d.kernel_arguments?.should_not_exist),
    },
    passwd: {
      groups: all((d) => d.passwd?.groups),
      users: all((d) => d.passwd?.users).map(
        ({
          home_dir: homeDir,
          no_create_home: noCreateHome,
          no_log_init: noLogInit,
          no_user_group: noUserGroup,
          primary_group: primaryGroup,
          ssh_authorized_keys: sshAuthorizedKeys,
          ...same
        }) => ({
          ...same,
          homeDir,
          noCreateHome,
          noLogInit,
          noUserGroup,
          primaryGroup,
          sshAuthorizedKeys,
        }),
      ),
    },
    storage: {
      directories: all((d) => d.storage?.directories),
      files: all((d) => d.storage?.files).map(({ contents, append = [], ...same }) => ({
        ...same,
        contents: contents && resource(contents),
        append: append.map(resource),
      })),
      links: all((d) => d.storage?.links),
    },
    systemd: { units: all((d) => d.systemd?.units) },
  }) as Ignition
}

/**
 * A data: URL, escaped or in base64, whichever is shorter, as upstream makes it. Unlike upstream's it is never compressed: every
 * version of zlib packs in its own way, and the same document must give the same bytes on every laptop.
 */
function dataUrl(bytes: Buffer): string {
  const base64 = `data:;base64,${bytes.toString('base64')}`
  const text = bytes.toString('latin1')
  const hex = (letter: string) => `%${letter.charCodeAt(0).toString(16).toUpperCase().padStart(2, '0')}`
  const escaped = `data:,${text.replace(/[^A-Za-z0-9_.!~*'()-]/g, hex)}`
  return base64.length < escaped.length ? base64 : escaped
}

/** The value without what is undefined and without lists and maps that are empty, as Ignition's own writer leaves them out. */
function pruned(value: unknown): unknown {
  if (Array.isArray(value)) return value.map((item) => pruned(item))
  if (typeof value !== 'object' || value === null) return value
  const kept = Object.entries(value)
    .map(([key, item]) => [key, pruned(item)] as const)
    .filter(
      ([, item]) =>
        item !== undefined && !(typeof item === 'object' && item !== null && Object.keys(item).length === 0),
    )
  return Object.fromEntries(kept)
}
