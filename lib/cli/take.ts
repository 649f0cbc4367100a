// ./task take: one page goes home, as a folder that runs by itself or as one file of bash. It hides what a page needs of us.
import { copyFileSync, mkdirSync, readFileSync, readdirSync, writeFileSync } from 'node:fs'
import { dirname, join, relative, resolve } from 'node:path'
import { count } from '../engine/report.ts'
import { Fault } from '../ground/fault.ts'
import { nearest } from '../ground/nearest.ts'
import { root } from '../ground/root.ts'
import { loadConfig } from '../site/config.ts'
import type { Call } from './call.ts'
import { contextOf, declaredFacts, storeOf } from './context.ts'
import { parse } from './flags.ts'
import { arrowsOf, dataOf, packagesOf } from './imports.ts'
import { pageAsFile } from './print.ts'
import { type PageFile, open, pages } from './scripts.ts'
import { take as table } from './tables.ts'

/** `./task take PAGE DIR`. Returns the exit code. */
export function take(call: Call): number {
  process.stdout.write(takeHome(call))
  return 0
}

/**
 * Writes a page and all that it needs into a new directory. Returns what a person should know. Throws a Fault, and then nothing
 * was written.
 */
export function takeHome(call: Call): string {
  const { words, site, bash, machine } = parse(call, table)
  const [word = '', place = ''] = words
  if (machine !== undefined && !bash)
    throw new Fault(
      '--machine is for --bash: a folder runs on every machine of the site. Nothing was written.',
    )
  const page = pageFor(word)
  const dir = resolve(place)
  mustBeEmpty(dir)
  const config = loadConfig(site === undefined ? {} : { site })
  if (bash) {
    const store = storeOf(config)
    const { called, text } = pageAsFile(
      open(page),
      (spec) => contextOf(config, declaredFacts(spec, config), store),
      config,
      machine,
    )
    mkdirSync(dir, { recursive: true })
    writeFileSync(join(dir, called), text, { mode: 0o755 })
    return `Written: ${join(place, called)}, which needs nothing else. Its top says how it is run.\n`
  }
  const folder = folderOf(page, config.site.name)
  for (const file of folder.copied) {
    mkdirSync(dirname(join(dir, file)), { recursive: true })
    copyFileSync(join(root, file), join(dir, file))
  }
  for (const [name, text] of Object.entries(folder.made)) writeFileSync(join(dir, name), text)
  return (
    `Written to ${place}: ${count(folder.copied.length, 'file')} of this kit, and a README.md that says how it is run.\n` +
    `Next: cd ${place} && npm ci && npm run page\n`
  )
}

/** The page that a person names: by its number, its name, or both. */
function pageFor(word: string): PageFile {
  const all = pages()
  const spelt = ({ number, name, file }: PageFile) => [number, name, `${number}-${name}`, file]
  const [found, ...more] = all.filter((page) => spelt(page).includes(word))
  if (found !== undefined && more.length === 0) return found
  const names = all.map(({ number, name }) => `${number}-${name}`)
  if (found !== undefined)
    throw new Fault(`'${word}' is the number of several pages. Say which by its name. Nothing was written.`)
  const near = nearest(word, all.flatMap(spelt)) ?? names.find((name) => name.split('-').includes(word))
  throw new Fault(
    `There is no page '${word}'${near ? `; did you mean ${near}?` : `: there are ${names.join(', ')}`}. Nothing was written.`,
  )
}

function mustBeEmpty(dir: string): void {
  let there: string[]
  try {
    there = readdirSync(dir)
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    if (code === 'ENOENT') return
    throw new Fault(
      `${dir} ${code === 'ENOTDIR' ? 'is a file' : `cannot be read (${code})`}. Nothing was written.`,
      {
        next: 'name a directory that is new, or empty',
      },
    )
  }
  if (there.length > 0)
    throw new Fault(`${dir} is not empty: it has ${there[0]}. Nothing was written.`, {
      next: 'name a directory that is new, or empty',
    })
}

/** What a page needs of this kit, as paths from its root, and the files that are made for its folder: name → text. */
export function folderOf(page: PageFile, site: string): { copied: string[]; made: Record<string, string> } {
  const { files, packages } = needsOf(page.file, site)
  const kit = JSON.parse(text('package.json')) as Manifest
  const name = `${page.number}-${page.name}`
  const { version, license, engines, allowScripts } = kit
  const manifest = {
    name,
    version,
    private: true,
    description: page.summary,
    license,
    type: 'module',
    engines,
    scripts: { page: `tsx ${page.file}` },
    ...(allowScripts ? { allowScripts } : {}),
    dependencies: Object.fromEntries(
      Object.entries(kit.dependencies).filter(([dependency]) => packages.has(dependency)),
    ),
  }
  const json = (value: unknown) => `${JSON.stringify(value, null, 2)}\n`
  const also = readdirSync(root).filter((file) => ['LICENSE', '.env.example', '.gitignore'].includes(file))
  return {
    copied: [...files, ...also].sort(),
    made: {
      'package.json': json(manifest),
      'package-lock.json': json(lockOf(manifest, JSON.parse(text('package-lock.json')) as Lock)),
      '.env': `# What a setting means: .env.example. Your shell wins over this file.\nFK_SITE=${site}\n`,
      'README.md': readme(page, site),
    },
  }
}

const text = (path: string): string => readFileSync(join(root, path), 'utf8')

/** The files that a page needs, itself among them, and the packages. Data that is named by other data is found there, too. */
function needsOf(page: string, site: string): { files: Set<string>; packages: Set<string> } {
  const all = ['bin', 'config', 'lib'].flatMap((dir) =>
    readdirSync(join(root, dir), { recursive: true, withFileTypes: true }).flatMap((entry) =>
      entry.isFile() ? [relative(root, join(entry.parentPath, entry.name))] : [],
    ),
  )
  // Of the sites only the one that is taken.
  const mine = `config/sites/${site}.yaml`
  const data = all.filter((file) => !file.startsWith('config/sites/') || file === mine)
  const files = new Set<string>()
  const packages = new Set(['tsx'])
  const visit = (path: string): void => {
    if (files.has(path)) return
    files.add(path)
    const source = { path, text: text(path) }
    if (/\.c?ts$|\.cjs$/.test(path)) {
      for (const { to } of arrowsOf(source)) visit(to)
      for (const name of packagesOf(source)) packages.add(name)
      dataOf(source, data).forEach(visit)
    } else if (path === mine || path === 'config/versions.yaml')
      for (const [name] of source.text.replaceAll(/#.*/g, '').matchAll(/\bconfig\/[\w./-]+/g))
        if (data.includes(name)) visit(name)
  }
  visit(page)
  visit(mine)
  return { files, packages }
}

interface Manifest {
  version: string
  license: string
  engines: object
  allowScripts?: object
  dependencies: Record<string, string>
}

interface Lock {
  lockfileVersion: number
  packages: Record<string, { [kind in 'dependencies' | 'optionalDependencies']?: Record<string, string> }>
}

/** The part of the lock file that these dependencies need: there, too, everybody installs the same bytes. */
function lockOf(manifest: Pick<Manifest, 'version' | 'dependencies'> & { name: string }, lock: Lock): object {
  const taken = new Map<string, object>()
  const visit = (name: string, from: string): void => {
    // As Node looks for it: in the package that needs it, then further out.
    const at = from === '' ? `node_modules/${name}` : `${from}/node_modules/${name}`
    const found = lock.packages[at]
    if (found === undefined) {
      if (from !== '') visit(name, from.slice(0, Math.max(0, from.lastIndexOf('/node_modules/'))))
      return
    }
    if (taken.has(at)) return
    taken.set(at, found)
    for (const other of Object.keys({ ...found.dependencies, ...found.optionalDependencies }))
      visit(other, at)
  }
  for (const name of Object.keys(manifest.dependencies)) visit(name, '')
  const { name, version } = manifest
  return {
    name,
    version,
    lockfileVersion: lock.lockfileVersion,
    requires: true,
    packages: { '': manifest, ...Object.fromEntries([...taken].sort(([a], [b]) => (a < b ? -1 : 1))) },
  }
}

const readme = ({ number, name, summary, file }: PageFile, site: string): string => `# ${number}-${name}

${summary}

A page of fortress-kit, with what it needs, for the site ${site}. Node 20.19 or newer and OpenSSH are enough.

    npm ci
    npm run page                                           # a rehearsal: no machine is touched
    FK_HOST=admin@192.0.2.10 npm run page -- apply         # or plan, verify, undo, print; --help says more

The page is \`${file}\`, the installation \`config/sites/${site}.yaml\`. Settings stand in \`.env\`; \`.env.example\` lists them.
Secrets and known host keys are kept in \`secrets/\`: with \`FK_STATE_DIR\` this page shares those of the kit that it came from.
What names another \`./task\` is a page or a command of the whole kit.
`
