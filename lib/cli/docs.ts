// What each layer consists of, as a page of docs/, written from the heading of every script and from the steps of a shipped site.
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Context, Page } from '../engine/page.ts'
import { count } from '../engine/report.ts'
import { type Step, isChange, isWait } from '../engine/step.ts'
import { root } from '../ground/root.ts'
import { secretStore } from '../ground/secret.ts'
import { loadConfig } from '../site/config.ts'
import { choosing, contextOf, declaredFacts, placesOf, unchosen } from './context.ts'
import { layerNames, open, pages } from './scripts.ts'

export const folder = join(root, 'docs/layers')

/** Documents in which the steps of a page are looked for: the first where it has something to change. */
const examples: { site: string; env?: Record<string, string>; chosen?: Record<string, string> }[] = [
  { site: 'fortress' },
  { site: 'lab' },
  { site: 'fortress', env: { FK_NODE_OS: 'talos' } },
  { site: 'zengarden' },
  { site: 'fortress', chosen: unchosen },
]

/** File name → text: one file a layer that has pages. */
export function layerDocs(): Map<string, string> {
  const all = pages().map(open)
  const layers = [...new Set(all.map(({ layer }) => layer))]
  return new Map(
    layers.map((layer) => {
      const mine = all.filter((page) => page.layer === layer)
      const text = [
        `# ${layer}: ${layerNames[layer]}`,
        'Written by `./task docs` from the pages themselves. `./task PAGE print` shows the commands of one.',
        ...mine.map(sectionOf),
      ].join('\n\n')
      return [`${layer.toLowerCase()}.md`, `${text}\n`]
    }),
  )
}

/** Writes docs/layers. */
export function docs(): number {
  mkdirSync(folder, { recursive: true })
  for (const [name, text] of layerDocs()) writeFileSync(join(folder, name), text)
  process.stdout.write('docs/layers is written.\n')
  return 0
}

function sectionOf(page: Page): string {
  const { about, facts } = headingOf(page.file)
  const example = exampleOf(page)
  const controls = example.steps.reduce((sum, { controls: all }) => sum + (all?.length ?? 0), 0)
  const verified =
    controls === 1
      ? 'One control of a security guide is'
      : `${count(controls, 'control')} of security guides are`
  return [
    `## ${page.name}`,
    page.summary,
    facts.map(([word, text]) => `- **${word}**: ${text}`).join('\n'),
    ...about,
    `Its steps${example.on}:`,
    example.steps.map((step, i) => `${i + 1}. ${lineOf(step)}`).join('\n'),
    controls > 0 ? `${verified} verified with them.` : '',
  ]
    .filter((part) => part !== '')
    .join('\n\n')
}

/** `fact (file, kind): why` */
function lineOf(step: Step): string {
  const target = isChange(step) ? step.target?.path : undefined
  const kind = isChange(step)
    ? step.transaction === undefined
      ? undefined
      : 'rolled back unless you can still log in'
    : isWait(step)
      ? 'waited for'
      : 'required'
  const path = target?.replace(`${nobody}/`, 'secrets/')
  const notes = [path === undefined ? undefined : `\`${path}\``, kind].filter(Boolean).join(', ')
  const why = step.why === undefined ? '' : `: ${step.why}`
  return plain(step.name) + (notes === '' ? '' : ` (${notes})`) + plain(why)
}

/** Text without marks of Markdown. */
const plain = (text: string): string => text.replaceAll(/[*_<]/g, '\\$&')

/** There is no laptop: what lies in its state directory, which is secrets/ unless somebody chose another, is named as there. */
const nobody = '/nonexistent'

/** The steps of a page on the first machine of the shipped documents where it changes something, or else has any. */
function exampleOf(page: Page): { steps: Step[]; on: string } {
  let looks: { steps: Step[]; on: string } | undefined
  for (const { site, env = {}, chosen = {} } of examples) {
    const loaded = loadConfig({ env: { ...env, FK_STATE_DIR: nobody, FK_AGE_IDENTITY: nobody }, site })
    const config = choosing(loaded, chosen)
    const store = secretStore({ dir: nobody, identity: nobody })
    for (const machine of placesOf(page, config)) {
      const context: Context = contextOf(config, declaredFacts(machine, config), store)
      const steps = page.steps(context)
      const changes = steps.filter(isChange).length
      const named = [
        ...Object.entries(env).map(([name, value]) => `, with ${name}=${value}`),
        ...Object.entries(chosen).map(([slot, name]) => `, with \`components: { ${slot}: ${name} }\``),
      ]
      const found = { steps, on: ` on \`${machine.name}\` of \`config/sites/${site}.yaml\`${named.join('')}` }
      if (changes > 0 || steps.some(({ controls }) => controls !== undefined)) return found
      if (steps.length > 0) looks ??= found
    }
  }
  if (looks !== undefined) return looks
  throw new Error(`no shipped document has a machine on which ${page.name} does anything`)
}

/** The comment above a script's first import: what it needs and leaves, word by word, and the paragraphs behind. */
export function headingOf(file: string): { facts: [string, string][]; about: string[] } {
  const text = readFileSync(file, 'utf8')
  const lines = /^(?:\/\/.*\n)+/.exec(text)?.[0].trimEnd().split('\n').slice(1) ?? []
  const facts: [string, string][] = []
  const about: string[] = []
  let last: 'fact' | 'about' | undefined
  for (const line of lines.map((one) => one.replace(/^\/\/ ?/, ''))) {
    const [, word, rest] = /^([A-Z][a-z]+) {2,}(\S.*)$/.exec(line) ?? []
    if (line.trim() === '') last = undefined
    else if (word !== undefined && rest !== undefined) {
      facts.push([word, rest])
      last = 'fact'
    } else if (last === 'fact') {
      const fact = facts.at(-1)
      if (fact) fact[1] += ` ${line.trim()}`
    } else if (last === 'about') about.push(`${about.pop()} ${line.trim()}`)
    else {
      about.push(line.trim())
      last = 'about'
    }
  }
  return { facts, about }
}
