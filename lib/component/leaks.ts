// Secrets that stand in clear in a tree, in what is about to be committed, or in the history of Git. gitleaks looks for what
// looks like one; we look for what should be encrypted and is not. Nothing that was found is ever shown, only where.
import { lstatSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, symlinkSync } from 'node:fs'
import { createRequire } from 'node:module'
import { tmpdir } from 'node:os'
import { dirname, join, relative } from 'node:path'
import { Fault } from '../ground/fault.ts'
import { $, orFault } from '../ground/laptop.ts'
import { root } from '../ground/root.ts'
import { encryptedAs } from './sops.ts'

const load = createRequire(import.meta.url)

/** One place where a secret stands in clear. */
export interface Leak {
  file: string
  line: number
  /** Which rule has found it, and what that says. */
  rule: string
  says: string
  /** The commit that brought it, where the history was looked through. */
  commit?: string
}

/** Files that no text editor opens are not looked at by us; gitleaks has its own limit. */
const LARGEST = 5_000_000
/** Its exit code where it has found something: 1 is that of its failures. */
const FOUND = 3
/** What somebody has set for their own reading of differences would hide lines from who looks through them. */
const plainGit = [
  'color.ui=false',
  'diff.noprefix=false',
  'diff.mnemonicPrefix=false',
  'core.quotePath=false',
]

/** Variables that set these for each git that runs below. */
const gitSettings = Object.fromEntries([
  ['GIT_CONFIG_COUNT', String(plainGit.length)],
  ...plainGit.flatMap((one, i) => {
    const [key = '', value = ''] = one.split('=')
    return [
      [`GIT_CONFIG_KEY_${i}`, key],
      [`GIT_CONFIG_VALUE_${i}`, value],
    ]
  }),
]) as Record<string, string>

/** git in a directory; `undefined` where it fails: there is no repository. */
export async function git(dir: string, ...words: string[]): Promise<string | undefined> {
  const { exitCode, stdout } = await $({ nothrow: true, env: gitSettings })`git -C ${dir} ${words}`
  return exitCode === 0 ? stdout : undefined
}

/** The files of a tree that Git has or would take; without Git all of them. Paths are relative to it. */
export async function filesOf(dir: string): Promise<string[]> {
  const listed = await git(dir, 'ls-files', '-z', '--cached', '--others', '--exclude-standard')
  const all = listed?.split('\0').filter(Boolean) ?? walk(dir)
  return [...new Set(all)].filter((file) => lstatSync(join(dir, file), { throwIfNoEntry: false })?.isFile())
}

/** Every file below a directory, whatever Git thinks of it. */
export function walk(dir: string, below = ''): string[] {
  return readdirSync(join(dir, below), { withFileTypes: true }).flatMap((entry) => {
    const path = join(below, entry.name)
    if (entry.isDirectory()) return entry.name === '.git' ? [] : walk(dir, path)
    return entry.isFile() ? [path] : []
  })
}

/** The text of a file; undefined for one that is large or no text. */
export function textOf(path: string): string | undefined {
  if (lstatSync(path).size > LARGEST) return undefined
  const text = readFileSync(path, 'utf8')
  return text.includes('\0') ? undefined : text
}

/** Without what a tree says that it only looks like a secret: lines of .gitleaksignore, as gitleaks takes them. */
export function without(dir: string, leaks: readonly Leak[]): Leak[] {
  const path = join(dir, '.gitleaksignore')
  if (!lstatSync(path, { throwIfNoEntry: false })?.isFile()) return [...leaks]
  const ignored = new Set(readFileSync(path, 'utf8').split('\n'))
  return leaks.filter(({ file, rule, line, commit }) => {
    const place = `${file}:${rule}:${line}`
    return !ignored.has(place) && !(commit !== undefined && ignored.has(`${commit}:${place}`))
  })
}

/** What stands in clear in the files of a tree. */
export async function inFiles(program: string, dir: string): Promise<Leak[]> {
  const files = await filesOf(dir)
  const found = files.flatMap((file) => unencrypted(file, textOf(join(dir, file))))
  // What Git does not take is nobody's business: gitleaks gets a tree of links to the rest.
  const links = mkdtempSync(join(tmpdir(), 'fk-leaks-'))
  try {
    for (const file of files) {
      mkdirSync(dirname(join(links, file)), { recursive: true })
      symlinkSync(join(dir, file), join(links, file))
    }
    const leaks = await gitleaks(program, dir, ['dir', links, '--follow-symlinks'])
    return [...found, ...leaks.map((leak) => ({ ...leak, file: relative(dir, leak.file) }))]
  } finally {
    rmSync(links, { recursive: true, force: true })
  }
}

/** What would stand in clear in the next commit. */
export async function inStaged(program: string, dir: string): Promise<Leak[]> {
  const names =
    (await git(dir, 'diff', '--cached', '--name-only', '-z', '--diff-filter=ACMR', '--relative')) ?? ''
  const found: Leak[] = []
  for (const file of names.split('\0').filter(Boolean)) {
    const text = await git(dir, 'show', `:./${file}`)
    if (text !== undefined && !text.includes('\0')) found.push(...unencrypted(file, text))
  }
  return [...found, ...(await gitleaks(program, dir, ['git', '--staged', dir]))]
}

/** What any commit has brought in clear, of whatever branch, tag or stash, also where it is gone since. */
export async function inHistory(program: string, dir: string): Promise<Leak[]> {
  if (((await git(dir, 'rev-list', '--all', '--max-count=1')) ?? '') === '') return []
  // A merge may bring what neither side had.
  const all = '--log-opts=--all --full-history --diff-merges=first-parent'
  const leaks = await gitleaks(program, dir, ['git', all, dir])
  const once = new Map(leaks.toReversed().map((leak) => [`${leak.rule} ${leak.file} ${leak.line}`, leak]))
  return [...once.values()].toReversed()
}

/** Runs gitleaks by our rules. Rejects with a Fault where it could not look at everything. */
async function gitleaks(program: string, dir: string, words: string[]): Promise<Leak[]> {
  const always = [
    '--config',
    join(root, 'config/secrets/gitleaks.toml'),
    '--redact',
    '--no-banner',
    '--no-color',
  ]
  const report = ['--report-format', 'json', '--report-path', '-', '--log-level', 'warn']
  // What a tree ignores is left out by us, for our own rules, too.
  const ignored = ['--gitleaks-ignore-path', '/nonexistent', '--exit-code', String(FOUND)]
  const { exitCode, stdout, stderr } = await orFault(
    $({ cwd: dir, env: gitSettings })`${program} ${[...words, ...always, ...report, ...ignored]}`,
    { code: 'any' },
  )
  if ((exitCode !== 0 && exitCode !== FOUND) || /\b(ERR|FTL)\b/.test(stderr))
    throw new Fault('gitleaks could not look at everything', {
      said: stderr.trim().split('\n').slice(-8).join('\n'),
    })
  const rows = JSON.parse(stdout.trim() || '[]') as Record<string, string | number>[]
  return rows.map((row) => ({
    file: String(row['File']),
    line: Number(row['StartLine']),
    rule: String(row['RuleID']),
    says: String(row['Description']),
    ...(row['Commit'] ? { commit: String(row['Commit']) } : {}),
  }))
}

/** What should be encrypted in a file and is not, as far as its kind or its name says so. */
export function unencrypted(file: string, text: string | undefined): Leak[] {
  if (text === undefined || /(^|\/)\.sops\.ya?ml$/.test(file)) return []
  const leak = (rule: string, says: string, line = 1): Leak => ({ file, line, rule, says })
  const found = encryptedAs(text)
  if (found === undefined && /\.sops\.[^/]+$/.test(file))
    return [leak('sops-not-encrypted', 'its name says that sops has encrypted it, and it has not')]
  const weak: Leak[] = []
  if (found !== undefined && !found.closed)
    weak.push(leak('sops-nothing-encrypted', 'sops has signed it and encrypted none of its values'))
  if (found !== undefined && found.recipients.length + found.others.length < 2)
    weak.push(leak('sops-one-key', 'it is encrypted for one key alone, and lost with that'))
  return [...weak, ...(/\.(ya?ml|json)$/.test(file) && text.includes('Secret') ? inSecrets(text, leak) : [])]
}

/** Secrets of Kubernetes whose values can be read. */
function inSecrets(text: string, leak: (rule: string, says: string, line: number) => Leak): Leak[] {
  const { LineCounter, parseAllDocuments } = load('yaml') as typeof import('yaml')
  const lines = new LineCounter()
  const documents = [parseAllDocuments(text, { lineCounter: lines, logLevel: 'silent' })].flat()
  return documents.flatMap((document) => {
    if (!('toJS' in document) || document.errors.length > 0) return []
    let object: unknown
    try {
      object = document.toJS()
    } catch {
      return [] // what cannot be read, the API server does not take
    }
    const at = document.contents?.range?.[0] ?? 0
    return secretsIn(object).map((name) =>
      leak('kubernetes-secret', `the values of Secret ${name} can be read`, lines.linePos(at).line),
    )
  })
}

/** The names of Secrets with a value in clear; lists are opened. */
function secretsIn(object: unknown): string[] {
  if (typeof object !== 'object' || object === null) return []
  const { kind, items, metadata, data, stringData } = object as Record<
    string,
    Record<string, unknown> | unknown
  >
  if (Array.isArray(items)) return items.flatMap(secretsIn)
  if (kind !== 'Secret') return []
  const values = [data, stringData].flatMap((map) => Object.values((map ?? {}) as Record<string, unknown>))
  const clear = values.some(
    // What another program fills in is no value yet.
    (value) => typeof value === 'string' && value !== '' && !/^(ENC\[|\{\{.*\}\}$|\$\{\w+\}$)/s.test(value),
  )
  return clear ? [String((metadata as { name?: unknown } | undefined)?.name ?? 'without a name')] : []
}
