// Steps become bash: a program that a machine runs in one round trip, or a page for readers who want no TypeScript.
import { randomBytes } from 'node:crypto'
import { read } from '../ground/root.ts'
import type { Secret } from '../ground/secret.ts'
import { Command, quote } from '../ground/sh.ts'
import type { About } from './page.ts'
import { type Restart, type Step, checkOf, isChange, isWait, transactionOf } from './step.ts'

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

export const engineShell = (name: string) => read(name.includes('/') ? name : `lib/engine/shell/${name}`)

/** What the checks and commands of a page have at hand: functions of lib/, and the page's own. */
export type Shell = Pick<About, 'library' | 'prepare'>

/**
 * Asks every step and control. Without an owner it only reads and needs no lock. With one it is the beginning of a run that may
 * apply: a door that an earlier run of that owner left unproven is taken back first, so that nothing rests on it.
 */
export async function asking(
  page: string,
  steps: Numbered[],
  shell: Shell = {},
  owner?: string,
): Promise<Program> {
  const files = steps.flatMap(({ step }) =>
    isChange(step) && step.target?.digest
      ? [quote([step.target.path, step.target.digest, step.target.mode, step.target.owner].join(' '))]
      : [],
  )
  return build(
    page,
    steps,
    shell,
    ['put.sh', 'snapshot.sh', ...(owner === undefined ? [] : ['guard.sh']), 'frame.sh'],
    {},
    () => '',
    [
      owner === undefined ? 'fk_unconfirmed' : `fk_lock ${quote(owner)}`,
      ...(files.length > 0 ? [`fk_landed ${files.join(' ')}`] : []),
    ],
    [`fk_ask_all ${steps.map(({ step, index }) => `'${index} ${step.controls?.length ?? 0}'`).join(' ')}`],
  )
}

export interface Applying {
  owner: string
  /** The transaction that these steps are, and the seconds until the machine rolls it back. */
  transaction?: { id: string; seconds: number }
  /** All steps of the page, of which some may be in other programs: the way back is that of the page. */
  page?: Step[]
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
  shell: Shell = {},
): Promise<Program> {
  const confirm = Object.entries(options.saved ?? {}).map(
    ([name, digest]) =>
      `install --directory --mode=700 "$FK_STATE/pages/$FK_PAGE/saved" && printf '%s\\n' ${quote(digest)} > "$FK_STATE/pages/$FK_PAGE/saved/"${quote(name)}`,
  )
  const sent = Object.entries(options.sent ?? {}).map(([path, digest]) => `${digest} ${path}\n`)
  return build(
    page,
    steps,
    shell,
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
  shell: Shell = {},
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
    // A record of an older version of the page knows less, or something else.
    '[ ! -d "$dir/origin" ] || fk_describe "$dir/origin"',
    'FK_RESTART=$(cat "$dir/origin/restart") FK_TABLES=$(cat "$dir/origin/own-tables")',
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
    shell,
    ['put.sh', 'snapshot.sh', 'record.sh', 'guard.sh', 'frame.sh'],
    options,
    () => '',
    body,
  )
}

/** One shell statement, without steps: commits, unlocks, lists. `libraries` are the shell files it needs. */
export async function plain(page: string, statements: string[], libraries: string[] = []): Promise<Program> {
  return build(page, [], {}, [...libraries, 'frame.sh'], {}, () => '', statements)
}

async function build(
  page: string,
  steps: Numbered[],
  { library, prepare }: Shell,
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
    ...wayBack(options.page ?? []),
    ...libraries.map(engineShell),
    ...values,
    ...(library ? [library.text] : []),
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
    fn(`fk_check_${n}`, checkOf(step).text),
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

/** What the machine keeps beside a snapshot, for the way back: see fk_describe. */
export function wayBack(steps: Step[]): string[] {
  const { restart = [], tables = [] } = transactionOf(steps) ?? {}
  const line = ({ how, unit, path, except = '-', needs = '-' }: Restart) =>
    [how, unit, path, except, needs].join('\t')
  return [`FK_RESTART=${quote(restart.map(line).join('\n'))} FK_TABLES=${quote(tables.join('\n'))}`]
}

const fn = (name: string, body: string) => `${name}() {\n${body.trim() === '' ? ':' : body}\n}`
