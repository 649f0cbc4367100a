// Steps become one bash program, which a machine runs in one round trip. This file hides which shell functions it is made of.
// What the program says while it runs is read by wire.ts.
import { randomBytes } from 'node:crypto'
import { read } from '../ground/root.ts'
import type { Secret } from '../ground/secret.ts'
import { Command, quote } from '../ground/sh.ts'
import { recordOf } from '../site/place.ts'
import type { About } from './page.ts'
import { type Change, type Restart, type Step, checkOf, isChange, isWait, transactionOf } from './step.ts'

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
export type Shell = Pick<About, 'library' | 'prepare'> & Partial<Pick<About, 'on'>>

interface Common {
  /** The name of the page, under which the machine keeps its record. */
  page: string
  shell?: Shell
}

export interface CheckOptions extends Common {
  steps: Numbered[]
  /**
   * Without an owner it only reads, and needs no lock. With one it is the beginning of a run that may apply: a transaction that
   * an earlier run of that owner left unconfirmed is rolled back first, so that nothing rests on it.
   */
  owner?: string
}

interface Applied extends Common {
  owner: string
  /** All steps of the page: what a rollback needs to know is that of the whole page. */
  all: Step[]
  /** The transaction that is applied or undone, and the seconds until the machine rolls it back. */
  transaction?: { id: string; seconds: number }
}

export interface ApplyOptions extends Applied {
  steps: Numbered[]
  /** What the laptop has stored since the last program of this page: name → sha256. */
  saved?: Record<string, string>
  /** What the laptop has sent for these steps: where it goes → its sha256. */
  sent?: Record<string, string>
  /** The machine records the page although nothing of it has to be changed. */
  record?: boolean
}

const applyShell = ['put.sh', 'snapshot.sh', 'apt.sh', 'record.sh', 'guard.sh', 'frame.sh']

/** Checks every step and control. */
export function checkProgram({ page, shell = {}, steps, owner }: CheckOptions): Promise<Program> {
  const files = steps.flatMap(({ step }) =>
    isChange(step) && step.target?.digest
      ? [quote([step.target.path, step.target.digest, step.target.mode, step.target.owner].join(' '))]
      : [],
  )
  const all = steps.map(({ step, index }) => `'${index} ${step.controls?.length ?? 0}'`)
  return build({
    page,
    shell,
    steps,
    files: ['put.sh', 'snapshot.sh', ...(owner === undefined ? [] : ['guard.sh']), 'frame.sh'],
    body: [
      owner === undefined ? 'fk_unconfirmed' : `fk_lock ${quote(owner)}`,
      '[ ! -d "$FK_STATE/pages/$FK_PAGE" ] || frame recorded',
      ...(files.length > 0 ? [`fk_match_all ${files.join(' ')}`] : []),
      `FK_PLAIN=' ${plainChecks(steps, shell).join(' ')} '`,
      `fk_check_all ${all.join(' ')}`,
    ],
  })
}

/**
 * The checks of steps and controls that may run in one shell: those that only call functions of which their file says so, and
 * those whose first line does.
 */
function plainChecks(steps: Numbered[], { library, prepare }: Shell): string[] {
  const all = [engineShell('frame.sh'), library?.text ?? '', prepare?.text ?? ''].join('\n')
  const names = [...all.matchAll(/^# in one shell: (.*)$/gm)].flatMap(([, list]) => list?.split(' ') ?? [])
  const call = `(?:${names.join('|')})(?: (?:[\\w@%+=:,./-]+|'[^']*'))*`
  const plain = new RegExp(`^(?:# in one shell\n|${call}(?: && ${call})*$)`)
  return steps.flatMap(({ step, index }) => [
    ...(plain.test(checkText(step)) ? [`fk_check_${index}`] : []),
    ...(step.controls ?? []).flatMap(({ check }, i) =>
      plain.test(check.text) ? [`fk_control_${index}_${i}`] : [],
    ),
  ])
}

/** Applies what does not hold, in order, and stops at the first failure. */
export function applyProgram(options: ApplyOptions): Promise<Program> {
  const { steps, owner, saved = {}, sent = {}, record = false } = options
  const dir = '"$FK_STATE/pages/$FK_PAGE/saved'
  // The laptop has one copy, whichever page had it made: what another page noted of it is over.
  const stored = Object.entries(saved).flatMap(([name, digest]) => [
    `rm --force "$FK_STATE"/pages/*/saved/${quote(name)}`,
    `install --directory --mode=700 ${dir}" && printf '%s\\n' ${quote(digest)} > ${dir}/"${quote(name)}`,
  ])
  const lines = Object.entries(sent).map(([path, digest]) => `${digest} ${path}\n`)
  return build({
    ...options,
    files: applyShell,
    body: [
      `fk_lock ${quote(owner)}`,
      ...stored,
      `export FK_SENT=${quote(lines.join(''))}`,
      ...(record ? ['fk_open || frame note "the page is not recorded: $FK_OUT"'] : []),
      ...steps.map(applyCall),
      '[ -z "$FK_OPENED" ] || fk_record_close "$FK_PAGE"',
      '[ -z "$FK_ARMED" ] || fk_complete "$FK_TX"',
    ],
  })
}

function applyCall({ step, index, met }: Numbered): string {
  const count = step.controls?.length ?? 0
  if (met) return `frame check ${index} before 0 typed; frame end ${index} ok`
  if (isWait(step)) return `fk_wait ${index} ${count} ${step.seconds}`
  return isChange(step)
    ? `fk_change ${index} ${count} ${quote(step.name)}${step.save || step.reboots ? ' later' : ''}`
    : `fk_demand ${index} ${count}`
}

/** Undoes what the record on the machine says this page did. */
export function undoProgram(options: Applied): Promise<Program> {
  const { all, owner, transaction } = options
  const armed = transaction !== undefined
  return build({
    ...options,
    steps: [],
    files: applyShell,
    body: [
      `fk_lock ${quote(owner)}`,
      'dir=$FK_STATE/pages/$FK_PAGE',
      '[ -d "$dir" ] || { frame undone nothing; exit 0; }',
      'fk_record_close "$FK_PAGE"; touch "$dir/touched" "$dir/left" "$dir/packages" "$dir/units"',
      'refused=$(fk_undo_refused "$FK_PAGE")',
      `[ -z "$refused" ] || { frame undone refused "$refused" 'undo the later page first'; exit 0; }`,
      `full=$(fk_room 2>&1) || { frame undone refused "$full" 'make room, and undo again'; exit 0; }`,
      ...all.flatMap(undoableCall),
      // A record of an older version of the page knows less, or something else.
      '[ ! -d "$dir/origin" ] || fk_describe "$dir/origin"',
      'FK_RESTART=$(cat "$dir/origin/restart") FK_TABLES=$(cat "$dir/origin/own-tables")',
      ...(armed
        ? [
            'fk_guard "$FK_TX" "$FK_DEADMAN" "$FK_OWNER" || { echo "$FK_OUT" >&2; exit 1; }',
            'install --directory "$FK_STATE/tx/$FK_TX/record" &&',
            '  cp --archive "$dir" "$FK_STATE/tx/$FK_TX/record/" || { fk_disarm "$FK_TX"; exit 1; }',
            'frame armed "$FK_TX" "$FK_DEADMAN"',
          ]
        : []),
      'fk_etc "$dir/before"',
      ...all.flatMap(undoCalls).toReversed().flat(),
      // Where nothing but these commands knows what was changed, the record stays until they have run.
      ...(onLaptop(options.shell)
        ? ['[ -z "$FK_FAILED" ] || { frame undone failed "$FK_FAILED"; exit 0; }']
        : []),
      `said=$(fk_undo "$FK_PAGE" 2>&1${armed ? ' && fk_complete "$FK_TX"' : ''}) && frame undone done "$said" || {`,
      ...(armed ? ['  fk_rollback_now "$FK_TX"'] : []),
      '  frame undone failed "$said"',
      '}',
    ],
  })
}

/**
 * Confirms a transaction where these checks hold, and answers with a commit frame. The checks of one whose run died do not count.
 */
export const confirmProgram = ({ page, shell, id, steps }: Common & { id: string; steps: Numbered[] }) =>
  build({
    page,
    ...(shell === undefined ? {} : { shell }),
    steps,
    files: ['put.sh', 'snapshot.sh', 'guard.sh', 'frame.sh'],
    body: [
      "state='' said=''",
      ...steps.map(
        ({ step, index }) =>
          `fk_holds ${index} ${step.controls?.length ?? 0} after; ` +
          `[ -n "$FK_HOLDS" ] || [ ! -e "$FK_STATE/tx/"${quote(id)}/whole ] || state=running said=${quote(step.name)}`,
      ),
      `if [ -z "$state" ]; then rc=0; said=$(fk_commit ${quote(id)} 2>&1) || rc=$?`,
      'case $rc in 0) state=committed ;; 75) state=running ;; 76) state=died ;; *) state=refused ;; esac; fi',
      'frame commit "$state" "$said"',
    ],
  })

/** What may stand against the undo of a page, asked before anything of it begins. */
function undoableCall(step: Step): string[] {
  if (!isChange(step) || step.undoable === undefined) return []
  const asked = `timeout --kill-after=5 60 bash -euo pipefail -c ${quote(step.undoable.text)} 2>&1 3>&- < /dev/null`
  return [`refused=$(${asked}) || { frame undone refused "$refused" 'undo it again then'; exit 0; }`]
}

/** The commands of a step's own undo, where the record says that the step was applied. One may say what is `kept: `. */
function undoCalls(step: Step, index: number): string[][] {
  if (!isChange(step) || !step.undo) return []
  const name = step.name.replaceAll(/["\\$`]/g, '')
  return [
    [
      `if grep --line-regexp --fixed-strings -e ${quote(step.name)} "$dir/steps" > /dev/null 2>&1; then`,
      ...step.undo.map(
        (command, j) =>
          `  fk_do ${index} ${j} ${step.seconds ?? 300} ${quote(command.text)} && fk_kept || ` +
          `{ FK_FAILED="${name}: $FK_OUT"; frame note "$FK_FAILED"; }`,
      ),
      'fi',
    ],
  ]
}

/** Shell statements without steps: confirms, unlocks, lists. `files` are the shell files that they need. */
export const plain = (page: string, statements: string[], files: string[] = []): Promise<Program> =>
  build({ page, steps: [], files: [...files, 'frame.sh'], body: statements })

/** Whether the record of a page lies on the laptop. */
const onLaptop = ({ on = 'host' }: Shell = {}): boolean => recordOf(on) === 'laptop'

/** What keeps the digest of a secret file belongs to root of a machine. Throws TypeError where a step of the laptop is one. */
export function refuseSecretFile(page: string, step: Step): void {
  if (!isChange(step) || step.target === undefined || step.target.digest !== undefined) return
  throw new TypeError(
    `${step.target.path} holds a secret, and ${page} runs on the laptop: file({ secret }) is for machines. ` +
      'Feed the secret to the command that needs it: feed(secret)`…`.',
  )
}

interface Build extends Common {
  steps: Numbered[]
  /** Files of shell functions: of lib/engine/shell, or paths from the root of this repository. */
  files: string[]
  body: string[]
  owner?: string
  all?: Step[]
  transaction?: { id: string; seconds: number }
}

async function build({
  page,
  shell = {},
  steps,
  files,
  body,
  owner,
  all,
  transaction,
}: Build): Promise<Program> {
  if (onLaptop(shell)) for (const { step } of steps) refuseSecretFile(page, step)
  const nonce = `FK${randomBytes(9).toString('hex')}`
  const waived = steps.flatMap(({ step, index }) =>
    (step.controls ?? []).flatMap((c, i) => (c.waived ? [`${index}.${i}`] : [])),
  )
  const secrets = new Map<Secret, string>()
  const functions = steps.flatMap(({ step, index }) => [
    ...checkFunctions(step, index),
    ...(owner !== undefined && isChange(step)
      ? changeFunctions(step, index, secrets, transaction !== undefined && onLaptop(shell))
      : []),
  ])
  const values = await Promise.all(
    [...secrets].map(async ([secret, name]) => `${name}=${quote(await secret.resolve())}`),
  )
  const text = [
    'set -u; umask 022; LC_ALL=C.UTF-8; export LC_ALL',
    'PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin; export PATH',
    `FK_NONCE=${nonce} FK_PAGE=${quote(page)} FK_OWNER=${quote(owner ?? 'nobody')}`,
    `FK_WAIVED=${quote(` ${waived.join(' ')} `)}`,
    `FK_TX=${quote(transaction?.id ?? '')} FK_DEADMAN=${transaction?.seconds ?? 0} FK_KEEP=''; export FK_PAGE FK_KEEP`,
    ...rollbackData(all ?? []),
    ...files.map(engineShell),
    ...(files.includes('put.sh') ? [engineShell('rootless.sh')] : []),
    ...values,
    ...(shell.library ? [shell.library.text] : []),
    ...(shell.prepare ? [shell.prepare.text] : []),
    ...functions,
    ...body,
    'frame finished',
    `exit 0 # ${nonce}`,
  ].join('\n')
  return { text: `${text}\n`, nonce }
}

/** Where a whole file is another, its content is shown: a plan has the difference. */
const checkText = (step: Step): string =>
  [
    ...(isChange(step) && step.ahead ? [step.ahead.text] : []),
    checkOf(step).text.replace(/^put_matches /, 'fk_file_is '),
  ].join('\n')

const checkFunctions = (step: Step, n: number): string[] => [
  fn(`fk_check_${n}`, checkText(step)),
  ...(step.controls ?? []).map((c, i) => fn(`fk_control_${n}_${i}`, c.check.text)),
]

/**
 * `secrets` collects what has to stand in a variable of the program. `kept`: before the commands run, those that undo them are
 * written down for a rollback, because no snapshot knows what they change.
 */
function changeFunctions(step: Change, n: number, secrets: Map<Secret, string>, kept: boolean): string[] {
  const run = (command: Command, j: number) => {
    const words = ['fk_do', String(n), String(j), String(step.seconds ?? 300), quote(command.text)]
    if (command.feed) {
      const name = secrets.get(command.feed) ?? `fk_secret_${secrets.size}`
      secrets.set(command.feed, name)
      words.push(`"$${name}"`)
    }
    return words.join(' ')
  }
  const undo = (step.undo ?? []).map(
    ({ text }) =>
      `timeout --kill-after=5 ${step.seconds ?? 300} bash -euo pipefail -c ${quote(text)} || rc=$?`,
  )
  const lines = [
    ...(kept ? [`fk_begun ${n} ${quote(undo.join('\n'))} || return`] : []),
    ...step.apply.map((command, j) => `${run(command, j)} || return`),
  ]
  if (step.save) {
    const { name, command } = step.save
    lines.push(
      `{ printf '%s\\tsave\\t%s\\t%s\\t' "$FK_NONCE" ${n} ${quote(name)} &&`,
      `  { ${command.text}\n} < /dev/null 3>&- | gzip | base64 --wrap=0 && echo; } >&3 || return`,
    )
  }
  return [
    fn(`fk_apply_${n}`, lines.join('\n')),
    fn(`fk_recover_${n}`, (step.recover ?? []).map(run).join('\n')),
  ]
}

/** What the machine keeps beside a snapshot, for a rollback: see fk_describe. */
export function rollbackData(steps: Step[]): string[] {
  const { restart = [], tables = [] } = transactionOf(steps) ?? {}
  const line = ({ how, unit, path, except = '-', needs = '-' }: Restart) =>
    [how, unit, path, except, needs].join('\t')
  return [`FK_RESTART=${quote(restart.map(line).join('\n'))} FK_TABLES=${quote(tables.join('\n'))}`]
}

const fn = (name: string, body: string) => `${name}() {\n${body.trim() === '' ? ':' : body}\n}`
