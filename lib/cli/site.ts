// ./task site: the document of a site as a whole, its faults, and its way from the format before.
import { existsSync } from 'node:fs'
import { createRequire } from 'node:module'
import { join } from 'node:path'
import { Fault } from '../ground/fault.ts'
import { question } from '../ground/laptop.ts'
import { nearest } from '../ground/nearest.ts'
import { root as kit } from '../ground/root.ts'
import { land } from '../ground/secret.ts'
import { wrap } from '../ground/wrap.ts'
import { type Diagnostic, ConfigError, loadConfig, siteNames, siteText } from '../site/config.ts'
import type { Call } from './call.ts'
import { type Given, parse } from './flags.ts'
import { rewrite } from './peer.ts'
import { interactive } from './prompt.ts'
import { sites as table } from './tables.ts'

const load = createRequire(import.meta.url)

/** What an action works with. */
interface Work {
  /** The directory with .env and config/. */
  root: string
  /** In place of the environment of this process. */
  env: Record<string, string | undefined> | undefined
  given: Given<typeof table>
  names: string[]
  say: (text: string) => void
  color: boolean
}

/**
 * `./task site show|migrate [NAME]`, `./task site check [NAME…]`. `root`, `env` and `say` are for another checkout and for tests.
 * Resolves to the exit code.
 */
export async function sites(
  call: Pick<Call, 'name' | 'argv'>,
  {
    root = kit,
    env,
    say = (text: string) => void process.stdout.write(text),
  }: Partial<Pick<Work, 'root' | 'env' | 'say'>> = {},
): Promise<number> {
  const given = parse(call, table)
  const [action, ...names] = given.words
  const one = action !== 'check'
  const faults = [
    ...(given.all && one ? [`site ${action} takes no --all`] : []),
    ...(given.all && names.length > 0 ? ['site check takes names or --all, not both'] : []),
    ...(given.json && action === 'migrate' ? ['site migrate takes no --json'] : []),
    ...(given.yes && action !== 'migrate' ? [`site ${action} takes no --yes: it asks nothing`] : []),
    ...(one && names.length > 1
      ? [`site ${action} takes one NAME: '${names.slice(1).join(' ')}' is too much`]
      : []),
    ...unknown(names, siteNames(root)),
  ]
  if (faults.length > 0) throw new Fault(`${faults.join('\n')}\nNothing was run.`)
  const color = process.stdout.isTTY === true && process.stdout.hasColors()
  const work = { root, env, given, names: given.all ? siteNames(root) : names, say, color }
  return action === 'show' ? show(work) : action === 'check' ? check(work) : migrate(work)
}

/** What is wrong with the names. */
function unknown(names: string[], there: string[]): string[] {
  return names
    .filter((name) => !there.includes(name))
    .map((name) => {
      const near = nearest(name, there)
      const known = there.length === 0 ? 'there is none' : `there are ${there.join(', ')}`
      return `'${name}' names no document in config/sites${near ? `; did you mean ${near}?` : `: ${known}`}`
    })
}

/** The options of the configuration for a name. */
const optionsFor = ({ root, env }: Work, name: string | undefined) => ({
  root,
  ...(env === undefined ? {} : { env }),
  ...(name === undefined ? {} : { site: name }),
})

function show(work: Work): number {
  const { names, given, say, color } = work
  const options = optionsFor(work, names[0])
  const { env, site: found } = loadConfig(options)
  const { ordered, originsOf, screen } = load('./origin.ts') as typeof import('./origin.ts')
  const { file, text } = siteText(options)
  const site = ordered(found)
  const origins = originsOf(site, text, env)
  if (given.json) say(`${JSON.stringify({ site, origins: Object.fromEntries(origins) }, null, 2)}\n`)
  else say(screen(site, origins, { file, color }))
  return 0
}

/** Every fault of the documents, each once: those of .env and of the pins are the same for all. */
function check(work: Work): number {
  const { names, given, say } = work
  const found = (names.length > 0 ? names : [siteText(optionsFor(work, undefined)).name]).map((name) => ({
    name,
    faults: faultsOf(work, name),
  }))
  const all = new Map(found.flatMap(({ faults }) => faults.map((fault) => [JSON.stringify(fault), fault])))
  if (given.json) say(`${JSON.stringify({ sites: found }, null, 2)}\n`)
  else {
    const width = Math.max(...found.map(({ name }) => name.length))
    for (const { name, faults } of found) if (faults.length === 0) say(`${name.padEnd(width)}  no fault\n`)
    if (all.size > 0) throw new ConfigError([...all.values()])
  }
  return all.size > 0 ? 1 : 0
}

function faultsOf(work: Work, name: string): Diagnostic[] {
  try {
    loadConfig(optionsFor(work, name))
    return []
  } catch (error) {
    if (error instanceof ConfigError) return error.faults
    throw error
  }
}

async function migrate(work: Work): Promise<number> {
  const { root, names, given, say, color } = work
  // The format before is a fault to everything else, so nothing else of the configuration is read.
  const { name, file, text, yes } = siteText(optionsFor(work, names[0]))
  const migration = load('../site/migrate.ts') as typeof import('../site/migrate.ts')
  const { text: next, notes } = migration.migrate(text, file)
  if (next === text) {
    say(`${file} is in the format of now: there is nothing to change.\n`)
    return 0
  }
  say(difference(file, text, next, color))
  for (const note of notes) say(`\n${wrap(`  ${note}`, 100, 2).join('\n')}\n`)
  const again = `./task site migrate ${name} --yes`
  if (!given.yes && !yes) {
    if (!interactive()) {
      say(`\nNothing is written yet: ${again}\n`)
      return 2
    }
    say('\n')
    const answer = await question(`Write this to ${file}? [y/N] `)
    if (!/^y(es)?$/i.test(answer.trim())) {
      say('Nothing was written.\n')
      return 2
    }
  }
  const kept = await keep(root, file, text)
  await rewrite(join(root, file), next)
  say(`\n${file} is written; as it was, it is in ${kept}.\n`)
  const faults = faultsOf(work, name)
  if (faults.length === 0) say(`Next: ./task site show ${name}; ./task plan-all\n`)
  else {
    const { describe } = load('../ground/document.ts') as typeof import('../ground/document.ts')
    say(`This is left to you; ./task site check ${name} says it again.\n${faults.map(describe).join('\n')}\n`)
  }
  return 0
}

/** The old text beside the document, under a name that is free. */
async function keep(root: string, file: string, text: string): Promise<string> {
  const names = ['', '-2', '-3', '-4', '-5', '-6', '-7', '-8', '-9'].map(
    (n) => `${file}.before-migration${n}`,
  )
  const free = names.find((name) => !existsSync(join(root, name)))
  if (free === undefined)
    throw new Fault(`${names[0]} and eight more are there already`, {
      state: 'nothing was changed',
      next: 'move them away',
    })
  await land(join(root, free), text, false)
  return free
}

function difference(file: string, before: string, after: string, color: boolean): string {
  const { createTwoFilesPatch } = load('diff') as typeof import('diff')
  const patch = createTwoFilesPatch(file, file, before, after, '', '', { context: 2 })
  const codes: Record<string, number> = { '+': 32, '-': 31, '@': 36 }
  const lines = patch.split('\n').slice(2)
  return lines
    .map((line) => {
      const code = color && !/^(---|\+\+\+) /.test(line) ? codes[line[0] ?? ''] : undefined
      return code === undefined ? line : `\u001b[${code}m${line}\u001b[0m`
    })
    .join('\n')
}
