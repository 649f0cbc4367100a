// A page as plain bash, for a person without this kit: one file that runs by itself on the machine, the page first.
import { basename, dirname } from 'node:path'
import { Command, quote, sh } from '../ground/sh.ts'
import { programsOf, recordOf } from '../site/place.ts'
import {
  type Definition,
  commandsOf,
  definitions,
  definitionsIn,
  homeOf,
  indented,
  needed,
  wrapped,
  written,
} from './functions.ts'
import type { About } from './page.ts'
import { count } from './paper.ts'
import { refuseSecretFile, rollbackData } from './program.ts'
import { type Change, type Demand, type Step, checkOf, isChange, isWait, transactionOf } from './step.ts'

export interface Printable extends Pick<About, 'library' | 'prepare'>, Partial<Pick<About, 'on'>> {
  name: string
  summary: string
  steps: Step[]
  /** The machine that it is printed for. */
  machine?: string
  /** What the file is called, for the sentences that say how it is run. Default: the name of the page, and .sh. */
  called?: string
}

const runsOnLaptop = ({ on = 'host' }: Pick<Printable, 'on'>): boolean => recordOf(on) === 'laptop'

/** A printed page has no record, by which alone the laptop could roll a transaction back. */
function stepsOf(page: Printable): Step[] {
  if (!runsOnLaptop(page)) return page.steps
  for (const step of page.steps) refuseSecretFile(page.name, step)
  return page.steps.map(({ transaction: _, ...step }) => step as Step)
}

/** How main begins: as root of a machine, or as the person at the laptop. */
const beginOf = (page: Pick<Printable, 'on'>) =>
  runsOnLaptop(page) ? ['begin_rootless', ...programsOf(page.on ?? 'host')].join(' ') : 'begin'

/** The shell of the engine that a printed page may use. */
const engine = ['put', 'snapshot', 'apt', 'guard', 'record', 'printed'].map(
  (name) => `lib/engine/shell/${name}.sh`,
)

/** Whoever comes in again after a change needs this long, in seconds. */
const PERSON = 180

/** What the steps of a page have for another machine: `bash FILE before` and `bash FILE after` run it there. */
interface Elsewhere {
  on: string
  before: Step[]
  after: Step[]
  /** More than one step waits for the other machine: the later ones wait until `after` ran there. */
  later: boolean
}

/**
 * The part of a printed page that is its own: the header, main, and below it, for each file of shell, a line with the names of
 * the functions that it needs of it. `whole` puts these in; test/plans is made of such parts.
 */
export function pagePart(page: Printable): string {
  const { name, library, prepare } = page
  const steps = stepsOf(page)
  const file = page.called ?? `${name}.sh`
  const elsewhere = elsewhereOf(steps)
  const main = [
    'main() {',
    ...inside([
      ...refusal(elsewhere),
      beginOf(page),
      ...(prepare ? [prepare.text.trimEnd()] : []),
      ...(elsewhere
        ? [
            'case ${1-} in',
            ...phases(elsewhere).flatMap((word) => [
              `  ${word})`,
              `    ${word}_here`,
              '    return',
              '    ;;',
            ]),
            'esac',
          ]
        : []),
      ...needs(steps),
      ...(page.on === 'api' ? [': "${KUBECONFIG:?the file that opens the API of the cluster}"'] : []),
      '',
      ...body(steps, elsewhere, file),
    ]),
    '}',
    ...(elsewhere
      ? phases(elsewhere).flatMap((word) => [
          '',
          `# ${word}: on ${elsewhere.on}, for ${page.machine ?? 'the machine of this page'}.`,
          `${word}_here() {`,
          ...inside(body(elsewhere[word])),
          '}',
        ])
      : []),
  ]
  const own = library ? definitions(library.text) : []
  const taken = needed(callsOf(page, elsewhere), [...own, ...engine.flatMap(definitionsIn)])
  return [
    '#!/bin/bash',
    ...header(page, file, elsewhere),
    '# shellcheck disable=SC2034 # functions read what is set here',
    'set -euo pipefail',
    `FK_PAGE=${quote(name)} FK_FILE=${quote(file)}`,
    'export FK_PAGE FK_FILE',
    '',
    ...main,
    '',
    '# What main uses.',
    ...behind(taken),
    '',
    'main "$@"',
    '',
  ].join('\n')
}

/** A page that runs by itself: its part, with the functions in it. */
export const printed = (page: Printable): string => whole(pagePart(page))

/** A part of a page with the functions that it names put in. */
export function whole(part: string): string {
  return replaced(part, (file, names) => [written(named(file, names)).trimEnd(), ''])
}

/** A part of a page that takes its functions from a file beside it. */
export function beside(part: string, file: string): string {
  let first = true
  return replaced(part, () => {
    const lines = first
      ? [`# shellcheck source=/dev/null`, `. "$(dirname "\${BASH_SOURCE[0]}")/${file}"`]
      : []
    first = false
    return lines
  })
}

/** One file with all the functions that parts of pages name. */
export function shared(parts: string[]): string {
  const all = new Map<string, Set<string>>()
  for (const part of parts)
    replaced(part, (file, names) => {
      all.set(file, new Set([...(all.get(file) ?? []), ...names]))
      return []
    })
  const texts = [...all].sort().map(([file, names]) => `# ${file}\n${written(named(file, [...names]))}`)
  return [
    '#!/bin/bash',
    '# What printed pages use: each of them reads this file, which lies beside it.',
    '# shellcheck disable=SC2034 # pages read what is set here',
    ...texts,
  ].join('\n')
}

const mark = '# from '

/** Replaces the lines by which a part names functions: neighbouring lines for one file are one place. */
function replaced(part: string, by: (file: string, names: string[]) => string[]): string {
  const groups: (string | { file: string; names: string[] })[] = []
  for (const line of part.split('\n')) {
    const [, file, names] = /^# from (lib\/\S+\.sh): (.+)$/.exec(line) ?? []
    const last = groups.at(-1)
    if (file === undefined || names === undefined) groups.push(line)
    else if (typeof last === 'object' && last.file === file) last.names.push(...names.split(' '))
    else groups.push({ file, names: names.split(' ') })
  }
  return groups.flatMap((each) => (typeof each === 'string' ? [each] : by(each.file, each.names))).join('\n')
}

/** The definitions of a file that have one of these names; its statements have none, and are always among them. */
function named(file: string, names: string[]): Definition[] {
  return definitionsIn(file).filter(
    (each) => each.kind === 'statement' || each.names.some((name) => names.includes(name)),
  )
}

/** What was made for the page, as it is, and what is in a file, by its names. */
function behind(taken: Definition[]): string[] {
  const files = new Map<string, string[]>()
  const made: Definition[] = []
  for (const definition of taken) {
    const home = homeOf(definition)
    if (home === undefined) made.push(definition)
    else files.set(home, [...(files.get(home) ?? []), ...definition.names])
  }
  const lines = [...files].flatMap(([file, names]) => wrapped(`${mark}${file}:`, names))
  if (made.length === 0) return lines
  return [...lines, written(made).trimEnd()]
}

function elsewhereOf(steps: Step[]): Elsewhere | undefined {
  const all = steps.flatMap((step) => (isChange(step) && step.onOtherNode ? [step.onOtherNode] : []))
  const [first, ...others] = all
  if (first === undefined) return undefined
  if (others.some(({ on }) => on !== first.on)) throw new Error('a page needs two other machines')
  const behind = [...first.after, ...others.flatMap((other) => [...other.before, ...other.after])]
  // Two steps may wait for the same.
  const after = [...new Map(behind.map((step) => [step.name, step])).values()]
  return { on: first.on, before: first.before, after, later: others.length > 0 }
}

const phases = ({ before, after }: Elsewhere): ('before' | 'after')[] => [
  ...(before.length > 0 ? (['before'] as const) : []),
  ...(after.length > 0 ? (['after'] as const) : []),
]

/** The name of a step's file or download as the machine sees it. */
const bare = (text: string) => new Command(text, undefined, '')
const download = (url: string) => bare(`"$FK_FILES"/${quote(url.slice(url.lastIndexOf('/') + 1))}`)

const secretsOf = (steps: Step[]): string[] => [
  ...new Set(steps.flatMap((s) => (isChange(s) ? s.apply.flatMap(({ feed }) => feed?.name ?? []) : []))),
]
const uploadsOf = (steps: Step[]): NonNullable<Change['upload']>['artifact'][] =>
  steps.flatMap((step) => (isChange(step) && step.upload ? [step.upload.artifact] : []))
const typedOf = (steps: Step[]): (Demand & { typed: string })[] =>
  steps.flatMap((step) =>
    'typed' in step && step.typed !== undefined ? [{ ...step, typed: step.typed }] : [],
  )

/** What the page does, what it needs, how it is run, and what it cannot do. */
function header(page: Printable, file: string, elsewhere: Elsewhere | undefined): string[] {
  const steps = stepsOf(page)
  const secrets = secretsOf(steps)
  const uploads = uploadsOf(steps)
  const signed = uploads.some(({ signature }) => signature !== undefined)
  const typed = typedOf(steps)
  const papers = steps.filter((step) => 'paper' in step && step.paper !== undefined)
  const programs = programsOf(page.on ?? 'host')
  const dropped = page.steps.flatMap(({ name, transaction }, i) =>
    transaction && !steps[i]?.transaction ? [name] : [],
  )
  const given = [
    ...(page.on === 'api' ? ['KUBECONFIG=FILE '] : []),
    ...(secrets.length > 0 ? ['FK_SECRETS=DIR '] : []),
    ...(uploads.length > 0 ? ['FK_FILES=DIR '] : []),
    ...typed.map((step) => `FK_CONFIRM=${quote(step.typed)} `),
    ...papers.map(() => 'FK_PAPER=yes '),
  ].join('')
  const lines = [
    `${page.name}: ${page.summary}`,
    '',
    runsOnLaptop(page)
      ? 'Run it on the laptop, as yourself:'
      : `Run it as root${page.machine === undefined ? '' : ` on ${page.machine}`}:`,
    ...commandsFor(file, given, elsewhere),
    `It has ${count(steps.length, 'step')}${steps.length === 1 ? ', which' : '. Each'} ` +
      'checks first, and changes only what does not hold.',
    ...(programs.length > 0
      ? [
          `It needs ${programs.join(' and ')} in PATH, and in KUBECONFIG the file that opens the API of the cluster.`,
        ]
      : []),
    'It keeps no record, so undo cannot take it back. It checks no controls: verify does.',
    ...(secrets.length > 0
      ? [
          'FK_SECRETS is a directory with one file for each of these secrets, as the machine gets it:',
          ...secrets.map((name) => `  ${name}`),
        ]
      : []),
    ...(uploads.length > 0
      ? [
          `FK_FILES is a directory with these downloads. Each is proven before it is used${signed ? ', by gpg and gpgv' : ''}:`,
          ...uploads.flatMap(addresses),
        ]
      : []),
    ...typed.map((step) => `FK_CONFIRM=${quote(step.typed)} confirms: ${step.name}`),
    ...papers.map(({ name }) => `FK_PAPER=yes confirms: ${name}`),
    ...(steps.some((step) => isChange(step) && step.save)
      ? [
          'What should not be on this machine alone is saved to /root/fortress-saved: take it away from there.',
        ]
      : []),
    ...(steps.some((step) => step.transaction)
      ? [
          'Steps that could lock you out are transactions. When one is done, log in by a NEW connection and run:',
          '  touch /run/fortress-confirm',
          `If you do not within ${longest(steps)} seconds of its beginning, the machine rolls it back.`,
          'At a console: FK_KEEP_CHANGES=yes, and nothing is rolled back.',
        ]
      : []),
    ...(dropped.length > 0
      ? [
          `Steps that could cut you off (${dropped.join('; ')}) are transactions in ./task ${page.name.slice(3)} apply alone: ` +
            'here nothing rolls them back.',
        ]
      : []),
  ]
  return lines.map((line) => `# ${line}`.trimEnd())
}

function commandsFor(file: string, given: string, elsewhere: Elsewhere | undefined): string[] {
  if (elsewhere === undefined) return [`  ${given}bash ${file}`]
  const { on, after, before, later } = elsewhere
  const commands = [
    ...(before.length > 0 ? [`on ${on}:  bash ${file} before`] : []),
    `here:  ${given}FK_OTHER_NODE=done bash ${file}`,
    ...(after.length > 0
      ? [`on ${on}:  bash ${file} after    (also when the command before it failed)`]
      : []),
    ...(later ? [`here:  FK_OTHER_NODE=after bash ${file}`] : []),
  ]
  return commands.map((command, i) => `  ${i + 1}. ${command}`)
}

function addresses({ url, signature }: NonNullable<Change['upload']>['artifact']): string[] {
  return [url, ...(signature ? [signature.url, signature.keyUrl] : [])].map((line) => `  ${line}`)
}

function needs(steps: Step[]): string[] {
  return [
    ...(secretsOf(steps).length > 0 ? [': "${FK_SECRETS:?a directory with the secrets of this page}"'] : []),
    ...(uploadsOf(steps).length > 0 ? [': "${FK_FILES:?a directory with the downloads of this page}"'] : []),
  ]
}

/** A page takes no words, or those by which it runs its part on another node: whoever asks for help must not run it. */
const refusal = (elsewhere: Elsewhere | undefined): string[] => [
  `case ${'${1-}'} in ${[`''`, ...(elsewhere ? phases(elsewhere) : [])].join(' | ')}) ;; *) usage ;; esac`,
]

const inside = (lines: string[]): string[] => indented(lines.join('\n'), '  ').split('\n')

/** The steps, one paragraph each. Neighbouring steps with a transaction are one transaction. */
function body(steps: Step[], elsewhere?: Elsewhere, file = ''): string[] {
  const lines: string[] = []
  let met = false
  for (let i = 0; i < steps.length;) {
    let end = i + 1
    if (steps[i]?.transaction) while (steps[end]?.transaction) end += 1
    const group = steps.slice(i, end)
    const waits = group.some((step) => isChange(step) && step.onOtherNode)
    const transaction = transactionOf(group)
    if (i > 0) lines.push('')
    if (elsewhere && waits) lines.push(waiting(elsewhere, met, file))
    if (transaction)
      lines.push(
        ...(group.length > 1 ? [`# Steps ${i + 1} to ${end} are one transaction.`] : []),
        ...rollbackData(group),
        `transaction ${limit(group)}${transaction.route?.apply === 'tunnel' ? " 'through the tunnel'" : ''}`,
        '',
      )
    group.forEach((step, j) => lines.push(...(j > 0 ? [''] : []), ...paragraph(step, i + j, steps.length)))
    if (transaction) lines.push('', 'confirm')
    if (elsewhere && waits) lines.push('needs_other_node')
    met ||= waits
    i = end
  }
  return lines
}

/** The steps up to the next line wait for the other machine. */
function waiting({ on, before }: Elsewhere, met: boolean, file: string): string {
  const [words, phase] = met || before.length === 0 ? ['after', 'after'] : ["'done' after", 'before']
  return `needs_other_node ${on} ${quote(`bash ${file} ${phase}`)} ${words}`
}

/** Of all transactions of a page the longest time until one is rolled back, in seconds. */
function longest(steps: Step[]): number {
  let most = 0
  for (let i = 0; i < steps.length;) {
    let end = i + 1
    if (steps[i]?.transaction) while (steps[end]?.transaction) end += 1
    if (steps[i]?.transaction) most = Math.max(most, limit(steps.slice(i, end)))
    i = end
  }
  return most
}

/** Seconds until a transaction is rolled back: those that its steps may take, and those of the person who confirms it. */
function limit(steps: Step[]): number {
  const within = transactionOf(steps)?.within ?? 0
  const slow = steps.map((step) => (isWait(step) || isChange(step) ? (step.seconds ?? 0) : 0))
  return (
    PERSON +
    Math.max(
      within,
      slow.reduce((sum, seconds) => sum + seconds, 0),
    )
  )
}

/** What another machine does for a step, as comments. */
export const besides = (step: Change, when: 'before' | 'after'): string[] =>
  (step.onOtherNode?.[when] ?? []).map(
    ({ name }) => `# ${when === 'before' ? 'first' : 'then'}, on ${step.onOtherNode?.on}: ${name}`,
  )

function paragraph(step: Step, i: number, total: number): string[] {
  const lines = [`# ${i + 1}/${total} ${step.name}`]
  if (step.why) lines.push(`#   why: ${step.why}`)
  for (const c of step.controls ?? []) lines.push(`#   ${c.id} ${c.title} [${c.from.join(', ')}]`)
  const check = checkOf(step).text
  if (isWait(step)) return [...lines, ...fn('check', [check]), `wait_for ${quote(step.name)} ${step.seconds}`]
  if (!isChange(step)) {
    const { typed } = step
    if ('paper' in step && step.paper !== undefined) {
      const met = '[ "${FK_PAPER-}" != yes ] || return 0'
      return [
        ...lines,
        ...fn('check', [met, check]),
        `demand ${quote(step.name)} ${quote('FK_PAPER=yes before bash confirms it')}`,
      ]
    }
    if (typed === undefined)
      return [...lines, ...fn('check', [check]), `demand ${quote(step.name)} ${quote(step.help.trimEnd())}`]
    const met = `[ "\${FK_CONFIRM-}" != ${quote(typed)} ] || return 0`
    const help = `FK_CONFIRM=${quote(typed)} before bash confirms it`
    return [...lines, ...fn('check', [met, check]), `demand ${quote(step.name)} ${quote(help)}`]
  }
  return [
    ...lines,
    ...fn('check', [check]),
    ...fn('apply', commands(step)),
    ...(step.recover
      ? fn(
          'recover',
          step.recover.map(({ text }) => text),
        )
      : []),
    `change ${quote(step.name)}${step.reboots === undefined ? '' : ' reboots'}`,
  ]
}

function fn(name: string, commands: string[]): string[] {
  const [only, ...more] = commands.join('\n').split('\n')
  if (only !== undefined && more.length === 0 && only.length < 90 && !only.includes('#'))
    return [`${name}() { ${only}; }`]
  return [`${name}() {`, ...inside(commands), '}']
}

/** Without a laptop a person fetches the file, and the machine proves it. */
function fetched({ artifact, to }: NonNullable<Change['upload']>): string[] {
  const { url, sha256, sha512, signature, unproven } = artifact
  if (unproven !== undefined) return [`echo ${quote(`nothing proves ${url}: ${unproven}`)} >&2`, 'return 1']
  const file = download(url)
  // As if it had been sent: beside its place, under a name that tells its digest.
  const part = bare(`${quote(dirname(to))}/.${quote(basename(to))}."\${digest:0:16}".part`)
  return [
    ...(sha256 ? [`printf '%s  %s\\n' ${sha256} ${file} | sha256sum --check --quiet`] : []),
    ...(sha512 ? [`printf '%s  %s\\n' ${sha512} ${file} | sha512sum --check --quiet`] : []),
    ...(signature
      ? [sh`signed_by ${file} ${download(signature.url)} ${download(signature.keyUrl)} ${signature.key}`.text]
      : []),
    sh`digest=$(sha256sum ${file} | cut --delimiter=' ' --fields=1)`.text,
    sh`cp ${file} ${part}`.text,
    sh`export FK_SENT="$digest"${` ${to}`}`.text,
  ]
}

/** Words that would change the shell for the commands behind them. */
const ofTheShell = /(?<![-\w"'/$.])(cd|exec|exit|trap|set|shopt|umask|ulimit)(?![-\w])/

/** The commands of a step. Each ends the step when it fails, as if it ran by itself: `a && b` would not. */
function commands({ upload, apply, save }: Change): string[] {
  const lines = apply.map(({ text, feed }, i) => {
    if (feed) return `{\n${indented(text, '  ')}\n} < "$FK_SECRETS"/${quote(feed.name)}`
    const last = i === apply.length - 1 && !save
    const apart = ofTheShell.test(commandsOf(text)) || (!last && text.includes('&&'))
    return apart ? `(\n${indented(text, '  ')}\n)` : text
  })
  if (upload) lines.unshift(...fetched(upload))
  if (save)
    lines.push(`{\n${indented(save.command.text, '  ')}\n} | save ${save.name}${save.once ? ' once' : ''}`)
  return lines
}

/** What of a page can call functions: its commands, and the words by which it runs them, without its sentences. */
function callsOf(page: Printable, elsewhere: Elsewhere | undefined): string {
  const { prepare } = page
  const steps = stepsOf(page)
  const all = [...steps, ...(elsewhere ? [...elsewhere.before, ...elsewhere.after] : [])]
  const words = all.flatMap((step) => [
    checkOf(step).text,
    ...(isChange(step)
      ? ['change', ...commands(step), ...(step.recover ?? []).map(({ text }) => text)]
      : [isWait(step) ? 'wait_for' : 'demand']),
    ...(isChange(step) && step.target?.digest ? ['landed'] : []),
    ...(step.transaction ? ['transaction', 'confirm'] : []),
  ])
  return [
    'usage',
    beginOf(page),
    prepare?.text ?? '',
    ...(elsewhere ? ['needs_other_node'] : []),
    ...words,
  ].join('\n')
}
