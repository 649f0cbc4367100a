// Steps become bash: a program that a machine runs in one round trip, or a page for readers who want no TypeScript.
import { randomBytes } from 'node:crypto'
import { basename, dirname } from 'node:path'
import { read } from '../ground/root.ts'
import { Command, quote, sh } from '../ground/sh.ts'
import { landed } from './file.ts'
import { type Change, type Step, isChange, isWait, question } from './step.ts'
import type { Secret } from '../ground/secret.ts'

/** A step and its place in its page, counted from 0. */
export interface Numbered {
  step: Step
  index: number
  /** A demand that a person has met for this run, by typing what it asks for. */
  met?: boolean
}

export interface Program {
  text: string
  nonce: string
}

export interface Frame {
  kind: string
  fields: string[]
}

const shell = (name: string) => read(name.includes('/') ? name : `lib/engine/shell/${name}`)

/**
 * Asks every step and control. Without an owner it only reads and needs no lock. With one it is the beginning of a run that may
 * apply: a door that an earlier run of that owner left unproven is taken back first, so that nothing rests on it.
 */
export async function asking(
  page: string,
  steps: Numbered[],
  prepare?: Command,
  owner?: string,
): Promise<Program> {
  const files = steps.flatMap(({ step }) =>
    isChange(step) && step.landing?.digest
      ? [quote([step.landing.path, step.landing.digest, step.landing.mode, step.landing.owner].join(' '))]
      : [],
  )
  return build(
    page,
    steps,
    prepare,
    ['put.sh', 'snapshot.sh', ...(owner === undefined ? [] : ['guard.sh']), 'frame.sh'],
    {},
    () => '',
    [
      owner === undefined ? 'fk_unproven' : `fk_lock ${quote(owner)}`,
      ...(files.length > 0 ? [`fk_landed ${files.join(' ')}`] : []),
    ],
    [`fk_ask_all ${steps.map(({ step, index }) => `'${index} ${step.controls?.length ?? 0}'`).join(' ')}`],
  )
}

export interface Applying {
  owner: string
  /** Transaction of these steps, when they are doors. */
  transaction?: { id: string; seconds: number }
  /** What the laptop has stored since the last program of this page: name → sha256. */
  saved?: Record<string, string>
  /** What the laptop has sent for these steps: where it goes → its sha256. */
  sent?: Record<string, string>
}

/** Applies what does not hold, in order, and stops at the first failure. */
export async function applying(
  page: string,
  steps: Numbered[],
  options: Applying,
  prepare?: Command,
): Promise<Program> {
  const confirm = Object.entries(options.saved ?? {}).map(
    ([name, digest]) =>
      `install --directory --mode=700 "$FK_STATE/pages/$FK_PAGE/saved" && printf '%s\\n' ${quote(digest)} > "$FK_STATE/pages/$FK_PAGE/saved/"${quote(name)}`,
  )
  const sent = Object.entries(options.sent ?? {}).map(([path, digest]) => `${digest} ${path}\n`)
  return build(
    page,
    steps,
    prepare,
    ['put.sh', 'snapshot.sh', 'record.sh', 'guard.sh', 'frame.sh'],
    options,
    (n, count, step, met) => {
      if (met) return `frame check ${n} before 0 typed; frame end ${n} ok`
      if (isWait(step)) return `fk_wait ${n} ${count} ${step.seconds}`
      return isChange(step)
        ? `fk_change ${n} ${count} ${quote(step.name)}${step.save ? ' later' : ''}`
        : `fk_demand ${n} ${count}`
    },
    [`fk_lock ${quote(options.owner)}`, ...confirm, `export FK_SENT=${quote(sent.join(''))}`],
    ['[ -z "$FK_OPENED" ] || fk_record_close "$FK_PAGE"', '[ -z "$FK_ARMED" ] || fk_whole "$FK_TX"'],
  )
}

/** Takes back what the record on the machine says this page did. */
export async function undoing(
  page: string,
  steps: Numbered[],
  options: Applying,
  prepare?: Command,
): Promise<Program> {
  const undo = steps
    .toReversed()
    .flatMap(({ step, index }) =>
      isChange(step) && step.undo
        ? [
            `if grep --line-regexp --fixed-strings -e ${quote(step.name)} "$dir/steps" > /dev/null 2>&1; then`,
            ...step.undo.map(
              (c, j) =>
                `  fk_do ${index} ${j} ${step.seconds ?? 300} ${quote(c.text)} || frame note "${step.name.replaceAll(/["\\$`]/g, '')}: $FK_OUT"`,
            ),
            'fi',
          ]
        : [],
    )
  const body = [
    `fk_lock ${quote(options.owner)}`,
    'dir=$FK_STATE/pages/$FK_PAGE',
    '[ -d "$dir" ] || { frame undone nothing; exit 0; }',
    'fk_record_close "$FK_PAGE"; touch "$dir/touched" "$dir/left" "$dir/packages" "$dir/units"',
    'refused=$(fk_undo_refused "$FK_PAGE")',
    `[ -z "$refused" ] || { frame undone refused "$refused" 'undo the later page first'; exit 0; }`,
    `full=$(fk_room 2>&1) || { frame undone refused "$full" 'make room, and undo again'; exit 0; }`,
    ...(options.transaction
      ? [
          'fk_guard "$FK_TX" "$FK_DEADMAN" "$FK_OWNER" || { echo "$FK_OUT" >&2; exit 1; }',
          'install --directory "$FK_STATE/tx/$FK_TX/record" && cp --archive "$dir" "$FK_STATE/tx/$FK_TX/record/" || { fk_disarm "$FK_TX"; exit 1; }',
          'frame armed "$FK_TX" "$FK_DEADMAN"',
        ]
      : []),
    'fk_etc "$dir/before"',
    ...undo,
    `said=$(fk_undo "$FK_PAGE" 2>&1${options.transaction ? ' && fk_whole "$FK_TX"' : ''}) && frame undone done "$said" || {`,
    ...(options.transaction ? ['  fk_take_back "$FK_TX"'] : []),
    '  frame undone failed "$said"',
    '}',
  ]
  return build(
    page,
    [],
    prepare,
    ['put.sh', 'snapshot.sh', 'record.sh', 'guard.sh', 'frame.sh'],
    options,
    () => '',
    body,
  )
}

/** One shell statement, without steps: commits, unlocks, lists. `libraries` are the shell files it needs. */
export async function plain(page: string, statements: string[], libraries: string[] = []): Promise<Program> {
  return build(page, [], undefined, [...libraries, 'frame.sh'], {}, () => '', statements)
}

async function build(
  page: string,
  steps: Numbered[],
  prepare: Command | undefined,
  libraries: string[],
  options: Partial<Applying>,
  call: (n: number, controls: number, step: Step, met: boolean) => string,
  before: string[] = [],
  after: string[] = [],
): Promise<Program> {
  const nonce = `FK${randomBytes(9).toString('hex')}`
  const waived = steps.flatMap(({ step, index }) =>
    (step.controls ?? []).flatMap((c, i) => (c.waived ? [`${index}.${i}`] : [])),
  )
  const secrets = new Map<Secret, string>()
  const functions = steps.flatMap(({ step, index }) =>
    define(step, index, options.owner !== undefined, secrets),
  )
  const values = await Promise.all(
    [...secrets].map(async ([secret, name]) => `${name}=${quote(await secret.resolve())}`),
  )
  const text = [
    'set -u; umask 022; LC_ALL=C.UTF-8; PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin; export LC_ALL PATH',
    `FK_NONCE=${nonce} FK_PAGE=${quote(page)} FK_OWNER=${quote(options.owner ?? 'nobody')} FK_WAIVED=${quote(` ${waived.join(' ')} `)}`,
    `FK_TX=${quote(options.transaction?.id ?? '')} FK_DEADMAN=${options.transaction?.seconds ?? 0} FK_KEEP=''; export FK_PAGE FK_KEEP`,
    ...libraries.map(shell),
    ...values,
    ...(prepare ? [prepare.text] : []),
    ...functions,
    ...before,
    ...steps.map(({ step, index, met }) => call(index, step.controls?.length ?? 0, step, met === true)),
    ...after,
    'frame finished',
    `exit 0 # ${nonce}`,
  ].join('\n')
  return { text: `${text}\n`, nonce }
}

function define(step: Step, n: number, apply: boolean, secrets: Map<Secret, string>): string[] {
  const lines = [
    fn(`fk_question_${n}`, question(step).text),
    ...(step.controls ?? []).map((c, i) => fn(`fk_control_${n}_${i}`, c.check.text)),
  ]
  if (!apply || !isChange(step)) return lines
  const run = (command: Command, j: number) => {
    const words = ['fk_do', String(n), String(j), String(step.seconds ?? 300), quote(command.text)]
    if (command.feed) {
      const name = secrets.get(command.feed) ?? `fk_secret_${secrets.size}`
      secrets.set(command.feed, name)
      words.push(`"$${name}"`)
    }
    return words.join(' ')
  }
  const apply_ = step.apply.map((c, j) => `${run(c, j)} || return`)
  if (step.save) {
    const { name, command } = step.save
    apply_.push(
      `{ printf '%s\\tsave\\t%s\\t%s\\t' "$FK_NONCE" ${n} ${quote(name)} && { ${command.text}\n} < /dev/null 3>&- | gzip | base64 --wrap=0 && echo; } >&3 || return`,
    )
  }
  return [
    ...lines,
    fn(`fk_apply_${n}`, apply_.join('\n')),
    fn(`fk_recover_${n}`, (step.recover ?? []).map(run).join('\n')),
  ]
}

const fn = (name: string, body: string) => `${name}() {\n${body.trim() === '' ? ':' : body}\n}`

/** A line that a program wrote, or undefined when it is somebody else's. */
export function frameOf(line: string, nonce: string): Frame | undefined {
  const [word, kind, ...fields] = line.split('\t')
  if (word !== nonce || kind === undefined) return undefined
  return {
    kind,
    fields: fields.map((f) =>
      f.replaceAll(/\\([\\nt])/g, (_, c: string) => ({ n: '\n', t: '\t' })[c] ?? '\\'),
    ),
  }
}

export interface Printable {
  name: string
  summary: string
  steps: Step[]
  prepare?: Command
}

/** A page as plain bash, for a machine's own root shell. Doors wait for a person who came in again by another connection. */
export function printed({ name, summary, steps, prepare }: Printable): string {
  const guarded = steps.some((s) => s.door)
  const lines = [
    '#!/bin/bash',
    `# ${name}: ${summary}`,
    '#',
    '# Run it as root on the machine. Each step asks first and changes only what does not hold.',
    ...(guarded
      ? [
          '# Some steps could close the door you came through. Before the first of them the present state of /etc and of the',
          '# firewall is kept, and taken back by itself after three minutes, unless you log in by a NEW connection and run:',
          `#   touch /run/fortress-keep            (or start this script with FK_KEEP_DOORS=yes, if you have a console)`,
        ]
      : []),
    'set -euo pipefail',
    '[ "$(id --user)" -eq 0 ] || { echo "this script needs root" >&2; exit 1; }',
    ...(steps.some((s) => isChange(s) && s.apply.some((c) => c.feed))
      ? [': "${FK_SECRETS:?a directory that holds the secrets of this page, one file each}"']
      : []),
    ...(steps.some((s) => isChange(s) && s.brings)
      ? [': "${FK_FILES:?a directory that holds the downloads of this page; each step says from where}"']
      : []),
    '',
    '# keep PATH: only the task runner records what was there before; a printed page does not take back.',
    'keep() { :; }',
    'export -f keep',
    'saved() { [ -e "$FK_STATE/saved-$1-$2" ]; }',
    'FK_TMP=$(mktemp --directory)',
    'export FK_TMP',
    shell('put.sh')
      .replace(/^# shellcheck.*\n/, '')
      .trimEnd(),
    ...(guarded
      ? [
          shell('snapshot.sh')
            .replace(/^# shellcheck.*\n/, '')
            .replace(/\nkeep\(\) \{\n[\s\S]*?\n\}\nexport -f keep\n/, '\n')
            .trimEnd(),
          shell('door.sh')
            .replace(/^# shellcheck.*\n/, '')
            .trimEnd(),
        ]
      : []),
    ...(prepare ? ['', '# What several checks below look at.', prepare.text] : []),
  ]
  steps.forEach((step, i) => lines.push('', ...paragraph(step, i, steps.length)))
  if (guarded) lines.push('', 'doors_prove')
  return `${lines.join('\n')}\n`
}

/** What another machine does for a step, as comments. */
export const besides = (step: Change, when: 'before' | 'after'): string[] =>
  (step.around?.[when] ?? []).map(
    ({ name }) => `# ${when === 'before' ? 'first' : 'then'}, on ${step.around?.on}: ${name}`,
  )

function paragraph(step: Step, i: number, total: number): string[] {
  const lines = [`# ${i + 1}/${total} ${step.name}`]
  if (step.why) lines.push(`#   why: ${step.why}`)
  if (isChange(step))
    for (const when of ['before', 'after'] as const)
      lines.push(...besides(step, when).map((line) => line.replace('# ', '#   ')))
  for (const c of step.controls ?? []) lines.push(`#   ${c.id} ${c.title} [${c.from.join(', ')}]`)
  // The difference between two contents is for a plan; here the answer is enough.
  const text = isChange(step) && step.landing?.digest ? landed(step.landing).text : question(step).text
  const condition = text.includes('\n') ? `{\n${indent(text)}\n}` : `{ ${text}; }`
  if (isWait(step)) {
    return [
      ...lines,
      `for second in $(seq ${step.seconds}) late; do`,
      `  [ "$second" != late ] || { echo ${quote(`not yet after ${step.seconds} s: ${step.name}`)} >&2; exit 1; }`,
      `  if ${condition} > /dev/null 2>&1; then break; fi`,
      '  sleep 1',
      'done',
    ]
  }
  const body = isChange(step)
    ? commands(step)
    : [
        `echo ${quote(`${step.name}: no`)} >&2`,
        ...step.help
          .trimEnd()
          .split('\n')
          .map((l) => `echo ${quote(`  ${l}`)} >&2`),
        'exit 1',
      ]
  return [
    ...lines,
    `if ! ${condition} > /dev/null 2>&1; then`,
    ...(step.door && isChange(step) ? ['  doors_arm'] : []),
    ...body.map(indent),
    'fi',
  ]
}

/** Without a laptop a person fetches the file, and the machine proves it. */
function brought({
  artifact: { url, sha256, sha512, signature, unproven },
  to,
}: NonNullable<Change['brings']>): string[] {
  const file = (address: string) =>
    new Command(`"$FK_FILES"/${quote(address.slice(address.lastIndexOf('/') + 1))}`, undefined, '')
  const lines = [`# in $FK_FILES: ${url}`]
  if (signature) lines.push(`#               ${signature.url}`, `#               ${signature.keyUrl}`)
  if (unproven !== undefined)
    return [...lines, `echo ${quote(`nothing proves ${url}: ${unproven}`)} >&2`, 'exit 1']
  if (sha256) lines.push(`printf '%s  %s\\n' ${sha256} ${file(url)} | sha256sum --check --quiet`)
  if (sha512) lines.push(`printf '%s  %s\\n' ${sha512} ${file(url)} | sha512sum --check --quiet`)
  if (signature)
    lines.push(
      sh`image_signed ${file(url)} ${file(signature.url)} ${file(signature.keyUrl)} ${signature.key}`.text,
    )
  // As if it had been sent: beside its place, under a name that tells its digest.
  const part = new Command(
    `${quote(dirname(to))}/.${quote(basename(to))}."${'$'}{digest:0:16}".part`,
    undefined,
    '',
  )
  return [
    ...lines,
    sh`digest=$(sha256sum ${file(url)} | cut --delimiter=' ' --fields=1)`.text,
    sh`cp ${file(url)} ${part}`.text,
    sh`export FK_SENT="$digest"${` ${to}`}`.text,
  ]
}

function commands(step: Change): string[] {
  if (step.brings) return [...brought(step.brings), ...step.apply.map((c) => c.text)]
  return step.apply.map((c) => (c.feed ? `{\n${indent(c.text)}\n} < "$FK_SECRETS/${c.feed.name}"` : c.text))
}

/** Heredoc bodies must stay where they are; everything else moves two columns in. */
function indent(text: string): string {
  let end: string | undefined
  return text
    .split('\n')
    .map((line) => {
      if (end !== undefined) {
        if (line === end) end = undefined
        return line
      }
      end = /<<\s*'?(\w+)'?/.exec(line)?.[1]
      return line === '' ? line : `  ${line}`
    })
    .join('\n')
}
