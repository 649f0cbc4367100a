// The order of work of a page on a machine: inspect, apply batch by batch, undo. This file hides what travels together, and in
// which order the laptop and other machines do their part. What came of it is in verdict.ts, confirming in transaction.ts.
import { createHash } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import { gunzipSync } from 'node:zlib'
import type { Fault } from '../ground/fault.ts'
import type { Secret, SecretStore } from '../ground/secret.ts'
import { Stopped, type UnderWay, during } from '../ground/stop.ts'
import { type Fetch, deliver } from './delivery.ts'
import { type Machine, lockOwner } from './machine.ts'
import type { Page } from './page.ts'
import {
  type ApplyOptions,
  type Numbered,
  type Program,
  applyProgram,
  checkProgram,
  undoProgram,
} from './program.ts'
import { bootOf, comesBack } from './reboot.ts'
import type { FaultReport, Report } from './report.ts'
import { type Change, type Demand, type Step, isChange, isDemand, isWait } from './step.ts'
import { type Begun, transactionFor } from './transaction.ts'
import { type Cut, type Sent, faultOf, reportCheckError, reportDisconnect } from './faults.ts'
import { type Observed, foundOf, holds, observe, unobserved } from './observed.ts'
import { type Mode, PageReport, type Result } from './verdict.ts'
import type { Frame } from './wire.ts'

export type { Mode, Result } from './verdict.ts'

export interface Running {
  machine: Machine
  report: Report
  /** Where what a machine gives back is stored, encrypted. */
  store: SecretStore
  /** Seconds until the machine rolls a transaction back that nobody confirms, at the least. */
  rollbackAfter: number
  /** Seconds to wait for another run on this machine. */
  lockWait: number
  /** From then on no step begins. */
  signal?: AbortSignal | undefined
  /** Somebody sits at the terminal: what only a person can do is waited for. */
  attended?: boolean
  /** Asks a person to type the name of what a demand is about; undefined when there is nobody to ask. */
  typed?: (step: Demand, found: string) => Promise<string | undefined>
  /** Shows a secret to a person at the terminal, once: whether they have written it down. */
  paper?: (secret: Secret) => Promise<boolean>
  /** Another machine of the site; undefined where it is not built yet, and need not be. */
  otherNode?: (name: string, needed: boolean) => Promise<Machine | undefined>
  /** Downloads and verifies what a step uploads. */
  fetch?: Fetch
}

const numbered = (steps: Step[]): Numbered[] => steps.map((step, index) => ({ step, index }))

export interface Inspection {
  observed: Observed[]
  sent: Sent
  /** The machine has a record of this page. */
  recorded: boolean
}

/** Runs every check of a page; it changes nothing unless the page is to be applied. */
export async function inspect(page: Page, steps: Step[], mode: Mode, running: Running): Promise<Inspection> {
  const observed = steps.map(unobserved)
  const program = await checkProgram({
    page: page.name,
    shell: page,
    steps: numbered(steps),
    ...(mode === 'apply' ? { owner: lockOwner() } : {}),
  })
  let recorded = false
  const sent = await send(running, program, (frame) => {
    if (frame.kind === 'recorded') recorded = true
    else observe(observed, frame)
  })
  return { observed, sent, recorded }
}

/**
 * Runs one page in one mode and reports it; `inspecting` is an inspection that was begun before. Rejects with a Fault only when
 * the machine cannot be reached at all, and with Stopped when it ends early before the first change could begin.
 */
export async function runPage(
  page: Page,
  steps: Step[],
  mode: Mode,
  running: Running,
  inspecting?: Promise<Inspection>,
): Promise<Result> {
  const { machine, report } = running
  const began = Date.now()
  report.page({
    name: page.name,
    summary: page.summary,
    file: page.file,
    layer: page.layer,
    on: page.on,
    mode,
    machine: machine.label,
    ...(machine.facts.id === undefined ? {} : { id: machine.facts.id }),
  })
  if (mode === 'undo') return undo(page, steps, running)
  report.plan({ steps: steps.length, controls: steps.reduce((n, s) => n + (s.controls?.length ?? 0), 0) })
  const { observed, sent, recorded } = await (inspecting ?? inspect(page, steps, mode, running))
  if (running.signal?.aborted && observed.some(({ check }) => !check)) throw new Stopped()
  if (!sent.finished) {
    const why = reportCheckError(report, machine.label, { steps, observed }, sent)
    const state = sent.locked === undefined ? 'unknown' : 'blocked'
    return { code: 1, changed: 0, state, why, steps: { change: 0, hold: 0, access: 0 } }
  }
  const pageReport = new PageReport({ page, steps, observed, mode, report })
  const work: Work = {
    page,
    steps: numbered(steps),
    observed,
    running,
    changed: 0,
    stopped: false,
    pageReport,
  }
  const done = steps.every((step, i) => holds(step, observed[i]))
  const code = mode === 'apply' && !done ? await apply(work) : 0
  // A page that found everything done is the machine's from now on: what no longer holds later has changed since.
  if (mode === 'apply' && done && !recorded && steps.some(isChange))
    await send(
      running,
      await applyProgram({
        page: page.name,
        shell: page,
        steps: [],
        all: steps,
        owner: lockOwner(),
        record: true,
      }),
      () => {},
    )
  const { changed, stopped, cut } = work
  const end = { changed, code, stopped, ...(cut === undefined ? {} : { cut }) }
  const result = pageReport.end(end, (Date.now() - began) / 1000, recorded)
  // Where the connection has ended nobody knows whether something is half done.
  return running.signal?.aborted && code === 1 && cut === undefined
    ? { ...result, stopped: pageReport.reached() }
    : result
}

/** Sends a program, waits while another run holds the machine, and passes on what it says meanwhile. */
async function send(
  { machine, report, lockWait, signal }: Running,
  program: Program,
  onFrame: (frame: Frame) => void,
  seconds = 300,
): Promise<Sent> {
  const until = Date.now() + lockWait * 1000
  for (;;) {
    let locked: string | undefined
    const outcome = await machine.run(
      program,
      (frame) => {
        if (frame.kind === 'locked')
          locked = `${frame.owner || 'another run'} is at work there, since ${frame.seconds} s`
        else if (frame.kind === 'unconfirmed')
          locked = `${frame.owner} made a change there that is not confirmed yet; it is rolled back in ${frame.seconds} s`
        else if (frame.kind === 'note') report.note(frame.text)
        else onFrame(frame)
      },
      seconds,
      signal,
    )
    if (locked === undefined) return outcome
    if (signal?.aborted) throw new Stopped()
    if (Date.now() >= until) return { ...outcome, locked }
    report.running({ index: 0, total: 0, name: `waiting: ${locked}` })
    await pause(1000, signal)
  }
}

/** Waits, or until `signal`. */
const pause = (ms: number, signal: AbortSignal | undefined) =>
  sleep(ms, undefined, signal ? { signal } : {}).catch(() => {}) // it rejects at the signal alone

/** For what must be done to its end also where the run ends early. */
const whole = (running: Running): Running => ({ ...running, signal: undefined })

export interface Batch {
  steps: Numbered[]
  /** These steps are one transaction. */
  transaction: boolean
}

/**
 * Steps travel together, but a transaction travels apart, what the laptop saves ends its batch, and what it uploads begins one:
 * the steps before it have made room for it, or found that there is none. A step that another node does something for, and one
 * that waits for a person, begin one too, unless they belong to a transaction: the steps before may find that it must not begin.
 * One that reboots its machine is a batch alone.
 */
export function batches(steps: Numbered[]): Batch[] {
  const all: Batch[] = []
  let closed = true
  for (const each of steps) {
    const transaction = each.step.transaction !== undefined
    const last = all.at(-1)
    const { upload, onOtherNode, save, reboots } = isChange(each.step) ? each.step : {}
    const waits = isDemand(each.step) && each.step.person?.wait !== undefined
    const apart = onOtherNode !== undefined || waits || reboots !== undefined
    const begins = upload !== undefined || (apart && !transaction)
    if (!closed && !begins && last && last.transaction === transaction) last.steps.push(each)
    else all.push({ steps: [each], transaction })
    closed = save !== undefined || reboots !== undefined
  }
  return all
}

/** The result of applying a page. */
interface Work {
  page: Page
  steps: Numbered[]
  observed: Observed[]
  running: Running
  changed: number
  /** It ended early, and what was begun has ended. */
  stopped: boolean
  /** Why it went no further, where no step says so. */
  cut?: Cut
  pageReport: PageReport
}

/** Stops at the first batch that fails, or where the run is to end: 1. */
async function apply(work: Work): Promise<0 | 1> {
  try {
    for (const batch of batches(work.steps)) {
      // Until something has changed, what held when it was inspected holds.
      if (work.changed === 0 && batch.steps.every((each) => stepHolds(work, each))) continue
      if (work.running.signal?.aborted) throw new Stopped()
      work.pageReport.upTo(batch.steps[0]?.index ?? 0)
      if ((await applyBatch(work, batch)) === 1) return 1
      work.pageReport.upTo((batch.steps.at(-1)?.index ?? -1) + 1)
    }
    return 0
  } catch (error) {
    if (!(error instanceof Stopped)) throw error
    work.stopped = true
    return 1
  }
}

const stepHolds = ({ observed }: Work, { step, index }: Numbered) => holds(step, observed[index])

async function applyBatch(work: Work, batch: Batch): Promise<0 | 1> {
  await askForNames(work, batch)
  for (const each of batch.steps) await waitForPerson(work, each)
  const sent = await uploads(work, batch)
  if (sent === undefined) return 1
  const boot = await beforeReboot(work, batch)
  if (boot === 'refused') return 1
  const other = otherNodeOf(work, batch)
  const before = await onOtherNode(work, other, 'before')
  const nothing: Applied = { code: 1, saved: [] }
  let stopped: Stopped | undefined
  const applied = !before
    ? nothing
    : await applyAndReturn(work, batch, sent, boot).catch((error: unknown) => {
        if (!(error instanceof Stopped)) throw error
        stopped = error
        return nothing
      })
  // Also when it failed.
  const after = await onOtherNode({ ...work, running: whole(work.running) }, other, 'after')
  if (stopped) throw stopped
  if (applied.code === 1 || !after) return 1
  return applied.saved.length === 0 ? 0 : store(work, batch, applied.saved)
}

/** Demands that hold for this run when somebody types a name, or what they have written down. */
async function askForNames(work: Work, { steps }: Batch): Promise<void> {
  for (const each of steps) {
    const { step } = each
    if (!isDemand(step) || stepHolds(work, each)) continue
    if (step.paper !== undefined) each.met = (await work.running.paper?.(step.paper)) ?? false
    if (step.typed === undefined) continue
    each.met = (await work.running.typed?.(step, foundOf(work.observed[each.index]?.check))) === step.typed
  }
}

/** Milliseconds between two looks at whether a person has done it. */
const LOOK = 3000

/** At a terminal: says what a person has to do, and waits until it is done, or its time is over. */
async function waitForPerson(work: Work, each: Numbered): Promise<void> {
  const { page, running, observed, pageReport } = work
  const { step, index } = each
  if (!running.attended || !isDemand(step) || !step.person?.wait || stepHolds(work, each)) return
  const { report, signal } = running
  const until = Date.now() + step.person.wait * 1000
  const place = { index: index + 1, total: work.steps.length, name: step.name }
  const program = await checkProgram({ page: page.name, shell: page, steps: [each] })
  // What was seen when the page began may be over by now.
  const look = () => send(running, program, (frame) => observe(observed, frame))
  if (!(await look()).finished || stepHolds(work, each)) return
  pageReport.upTo(index)
  report.step({ ...place, state: 'your turn', next: step.help })
  while (Date.now() < until && !signal?.aborted && !stepHolds(work, each)) {
    const saw = foundOf(observed[index]?.check)
    report.running({ ...place, limit: step.person.wait, person: true, ...(saw ? { saw } : {}) })
    await pause(LOOK, signal)
    if (!signal?.aborted && !(await look()).finished) return
  }
  if (signal?.aborted) throw new Stopped()
}

/** Uploads what the steps need: where it goes → its sha256. Undefined when it failed, which is reported. */
async function uploads(work: Work, { steps }: Batch): Promise<Record<string, string> | undefined> {
  const sent: Record<string, string> = {}
  for (const each of steps) {
    const { step, index } = each
    if (!isChange(step) || step.upload === undefined || stepHolds(work, each)) continue
    try {
      sent[step.upload.to] = await upload(step.upload, work.running)
    } catch (error) {
      if (work.running.signal?.aborted) throw new Stopped()
      const fault: Partial<Fault> = error instanceof Error ? error : new Error(String(error))
      const { message, ran, said, state, next } = fault
      work.running.report.error({
        step: step.name,
        index: index + 1,
        total: work.steps.length,
        ran: ran ?? step.upload.artifact.url,
        said: [message, said].filter(Boolean).join('\n'),
        state: state ?? 'the steps above hold; nothing after them was begun',
        ...(next === undefined ? {} : { next }),
      })
      return undefined
    }
  }
  return sent
}

/** Resolves to the file's digest: by then the laptop has verified it, and the machine has it beside its place. */
async function upload(
  { artifact, to }: NonNullable<Change['upload']>,
  { fetch, machine, report, signal }: Running,
): Promise<string> {
  if (fetch === undefined) throw new Error(`this run has nothing to download ${artifact.url} with`)
  const file = await fetch(artifact)
  await deliver(machine, file, to, { onTransfer: (t) => report.transfer(t), ...(signal ? { signal } : {}) })
  return file.sha256
}

/** What another node does for a batch: that of the first step which names one, from the first on that does not hold. */
function otherNodeOf(work: Work, { steps }: Batch): Change['onOtherNode'] {
  // A step of a batch may start something anew because of one before it, although it held when it was inspected.
  const begins = steps.findIndex((each) => !stepHolds(work, each))
  return steps
    .slice(begins < 0 ? steps.length : begins)
    .map(({ step }) => (isChange(step) ? step.onOtherNode : undefined))
    .find((found) => found !== undefined)
}

/** Seconds to wait for another node that several are waiting for. */
const TURN = 900

/** Seconds that steps may take together, with `each` for a demand. */
const limitOf = (steps: Step[], each: number): number =>
  steps.reduce(
    (sum, step) =>
      sum + (isWait(step) ? step.seconds : isChange(step) ? (step.seconds ?? 300) * step.apply.length : each),
    60,
  )

/** Applies there what does not hold; false when it failed, which is reported. */
async function onOtherNode(
  { page, running }: Work,
  other: Change['onOtherNode'],
  when: 'before' | 'after',
): Promise<boolean> {
  const [first, ...rest] = other?.[when] ?? []
  if (other === undefined || first === undefined) return true
  const steps = [first, ...rest]
  if (running.otherNode === undefined) throw new Error(`this run has no connection to ${other.on}`)
  const machine = await running.otherNode(other.on, !other.built)
  if (machine === undefined) return true
  const observed = steps.map(unobserved)
  const limit = limitOf(steps, 30)
  running.report.running({ index: 0, total: 0, name: `on ${other.on}: ${first.name}`, limit })
  const sent = await send(
    { ...running, machine, lockWait: Math.max(running.lockWait, TURN) },
    await applyProgram({
      page: page.name,
      shell: page,
      steps: numbered(steps),
      all: steps,
      owner: lockOwner(),
    }),
    (frame) => observe(observed, frame),
    limit,
  )
  const failed = observed.findIndex(({ end }) => end?.state === 'failed')
  if (failed < 0 && sent.finished) return true
  const step = steps[failed] ?? first
  running.report.error({
    ...(failed >= 0
      ? faultOf(step, observed[failed] ?? unobserved(), false)
      : { ran: 'a step on another machine', said: sent.locked ?? sent.stderr.trim() }),
    step: `on ${other.on}: ${step.name}`,
    state: `nothing was begun on ${running.machine.label}, or it is as it is reported there`,
  })
  return false
}

/** A file that the laptop has to store: its name there, and its content. */
type Saved = [name: string, bytes: Buffer]

interface Applied {
  code: 0 | 1
  saved: Saved[]
}

/** Applies a batch on the machine of the page, and confirms it where it is a transaction. Whoever stops the run waits for it. */
function applyHere(work: Work, batch: Batch, sent: Record<string, string>): Promise<Applied> {
  const underWay: UnderWay = {
    until: 'the step that is begun has ended',
    left: 'the machine ends the step that it is at, and begins no other',
  }
  return during(underWay, () => applyAndConfirm(work, batch, sent, underWay))
}

/** The start that a machine is in before a step reboots it; 'refused' where it must not, which is reported. */
async function beforeReboot(work: Work, { steps }: Batch): Promise<string | undefined> {
  const rebooting = steps.find(({ step }) => isChange(step) && step.reboots !== undefined)
  if (rebooting === undefined || stepHolds(work, rebooting)) return undefined
  const { machine, report } = work.running
  const { step, index } = rebooting
  // What it says of the laptop's address is empty on this computer.
  const here = machine.facts.via === ''
  const { id, said } = here ? { said: 'it would end this run with it' } : await bootOf(machine)
  if (id !== undefined) return id
  const why = here ? 'this computer does not reboot itself' : 'its present start is not known'
  report.error({
    step: step.name,
    index: index + 1,
    total: work.steps.length,
    as: 'blocked',
    ran: 'this step',
    said,
    state: 'nothing of it was begun',
    next: here ? 'run it from another computer, with FK_HOST=USER@ADDRESS' : 'run it again',
  })
  work.cut = { why, as: 'blocked' }
  return 'refused'
}

/** Applies a batch; a machine that reboots for it is waited for, and only then its step is checked. */
async function applyAndReturn(
  work: Work,
  batch: Batch,
  sent: Record<string, string>,
  boot: string | undefined,
): Promise<Applied> {
  const applied = await applyHere(work, batch, sent)
  const last = batch.steps.at(-1)
  if (boot === undefined || applied.code === 1 || last === undefined) return applied
  const { step, index } = last
  if (!isChange(step) || step.reboots === undefined || work.observed[index]?.end?.state !== 'changed')
    return applied
  const { page, observed, running } = work
  const lost: FaultReport | undefined = await comesBack(running, step.name, boot, step.reboots)
  const check = () => checkProgram({ page: page.name, shell: page, steps: [last] })
  if (lost === undefined) await send(whole(running), await check(), (frame) => observe(observed, frame))
  if (lost === undefined && stepHolds(work, last)) return applied
  work.changed -= 1
  Object.assign(observed[index] ?? {}, {
    end: { state: 'failed', reason: lost ? 'unconfirmed' : 'after', rolledBack: false },
    ...(lost ? { unconfirmed: lost } : {}),
  } satisfies Partial<Observed>)
  return { code: 1, saved: [] }
}

/** Whether what would confirm a transaction can be done; otherwise it is not begun, which is reported. */
async function isReady(work: Work, { steps }: Batch, transaction: Begun): Promise<boolean> {
  // A demand that does not hold is reported by itself.
  if (steps.some((each) => isDemand(each.step) && !stepHolds(work, each))) return true
  const unready = await transaction.ready()
  if (unready === undefined) return true
  work.running.report.error(unready)
  work.cut = { why: unready.said?.split('\n').at(-1) ?? '', as: 'blocked' }
  return false
}

async function applyAndConfirm(
  work: Work,
  batch: Batch,
  sent: Record<string, string>,
  underWay: UnderWay,
): Promise<Applied> {
  const { page, running, observed } = work
  const transaction = transactionFor({ ...running, page, steps: batch.steps }, 'apply')
  const options: ApplyOptions = {
    page: page.name,
    shell: page,
    steps: batch.steps,
    all: work.steps.map(({ step }) => step),
    owner: lockOwner(),
    sent,
    ...(transaction ? { transaction: transaction.armed } : {}),
  }
  if (transaction && !(await isReady(work, batch, transaction))) return { code: 1, saved: [] }
  for (const { index } of batch.steps) observed[index] = unobserved()
  const saved: Saved[] = []
  let armed = false
  const outcome = await send(
    running,
    await applyProgram(options),
    (frame) => {
      observe(observed, frame)
      if (frame.kind === 'run' && !armed) underWay.until = `${placeOf(work, frame.step)} has ended`
      if (frame.kind === 'armed') {
        armed = true
        if (transaction) Object.assign(underWay, transaction.underWay)
      } else if (frame.kind === 'save')
        saved.push([frame.name, gunzipSync(Buffer.from(frame.body, 'base64'))])
      else showProgress(work, frame, batch)
    },
    limitOf(
      batch.steps.map(({ step }) => step),
      5,
    ),
  )
  const ended = (state: string) => batch.steps.filter(({ index }) => observed[index]?.end?.state === state)
  if (ended('failed').length > 0) {
    if (!armed) work.changed += ended('changed').length
    return { code: 1, saved: [] }
  }
  work.changed += ended('changed').length
  if (outcome.locked !== undefined || (!outcome.finished && !armed)) {
    const first = batch.steps.find(({ index }) => !observed[index]?.end) ?? batch.steps[0]
    work.cut = reportDisconnect(
      running.report,
      first && { name: first.step.name, index: first.index, total: work.steps.length },
      outcome,
      transaction && outcome.locked === undefined
        ? `it is not confirmed: ${transaction.underWay.left}`
        : undefined,
    )
    return { code: 1, saved: [] }
  }
  if (armed && transaction) {
    Object.assign(underWay, transaction.underWay)
    const unconfirmed = await transaction.confirm()
    if (unconfirmed) {
      work.changed -= ended('changed').length
      // What was begun and has not ended is rolled back too.
      const begun = batch.steps.find(({ index }) => observed[index]?.end === undefined)
      ;[...ended('changed'), ...(begun ? [begun] : [])].forEach(({ index }, i) => {
        Object.assign(observed[index] ?? {}, {
          end: { state: 'failed', reason: 'unconfirmed', rolledBack: true },
          ...(i === 0 ? { unconfirmed } : {}),
        } satisfies Partial<Observed>)
      })
      return { code: 1, saved: [] }
    }
    if ((await unheard(work, batch)) === 1) return { code: 1, saved: [] }
  }
  // Its input was closed before it came to these.
  if (batch.steps.some(({ index }) => !observed[index]?.end) && !armed && saved.length === 0)
    throw new Stopped()
  return { code: 0, saved }
}

/** Steps of a confirmed transaction that were not heard of, for the connection ended: the machine has done them, and is asked. */
async function unheard(work: Work, { steps }: Batch): Promise<0 | 1> {
  const { page, observed, running } = work
  const lost = steps.filter(({ index }) => !observed[index]?.end)
  if (lost.length === 0) return 0
  const program = await checkProgram({ page: page.name, shell: page, steps: lost })
  await send(running, program, (frame) => observe(observed, frame))
  for (const each of lost) {
    const end = stepHolds(work, each) ? { state: 'changed' } : { state: 'failed', reason: 'after' as const }
    Object.assign(observed[each.index] ?? {}, {
      end: { ...end, rolledBack: false },
    } satisfies Partial<Observed>)
  }
  const failed = lost.filter((each) => !stepHolds(work, each)).length
  work.changed += lost.length - failed
  return failed > 0 ? 1 : 0
}

/** `2/9 the service runs`. */
const placeOf = ({ steps }: Pick<Work, 'steps'>, n: number) =>
  `${n + 1}/${steps.length} ${steps[n]?.step.name}`

/** The step that a machine is at now, and those that have ended: what may still be rolled back, stored or away has not. */
function showProgress({ steps, running, pageReport }: Work, frame: Frame, batch: Batch): void {
  if (frame.kind === 'end' && frame.state !== 'failed' && !batch.transaction) {
    const step = steps[frame.step]?.step
    if (step && !(isChange(step) && (step.save || step.reboots))) pageReport.upTo(frame.step + 1)
  }
  if (frame.kind !== 'run' && frame.kind !== 'check') return
  const step = steps[frame.step]?.step
  if (!step) return
  const place = { index: frame.step + 1, total: steps.length, name: step.name }
  if (frame.kind === 'run' && isChange(step)) running.report.running({ ...place, limit: step.seconds ?? 300 })
  else if (frame.kind === 'check' && isWait(step))
    running.report.running({ ...place, limit: step.seconds, saw: frame.found })
}

/** Stores on the laptop what the last step of a batch gave, and only then checks that step. */
async function store(work: Work, { steps }: Batch, saved: Saved[]): Promise<0 | 1> {
  const { page, observed } = work
  const running = whole(work.running)
  const last = steps.at(-1)
  if (!last) return 0
  const { step, index } = last
  const digests: Record<string, string> = {}
  for (const [name, bytes] of saved) {
    const value = bytes.toString('base64')
    const once = isChange(step) && step.save?.once === true && running.store.has(name)
    if (once && (await running.store.get(name)).reveal() !== value) {
      running.report.error({
        step: step.name,
        index: index + 1,
        total: work.steps.length,
        ran: `storing ${name} on the laptop`,
        said: 'the laptop has another one already, and never replaces it by itself',
        state: `nothing was stored; ${running.machine.label} keeps what it has`,
        next: 'find out which of the two is the right one: this may be another machine, or the same one after it was made anew',
      })
      return 1
    }
    if (!once) await running.store.put(name, value)
    digests[name] = createHash('sha256').update(bytes).digest('hex')
  }
  const common = { page: page.name, shell: page }
  const all = work.steps.map((each) => each.step)
  // The machine learns that it is stored, and only now the step can hold.
  let sent = await send(
    running,
    await applyProgram({ ...common, steps: [], all, owner: lockOwner(), saved: digests }),
    () => {},
  )
  if (sent.finished)
    sent = await send(running, await checkProgram({ ...common, steps: [last] }), (frame) =>
      observe(observed, frame),
    )
  if (!sent.finished) {
    observed[index] = unobserved()
    const names = saved.map(([name]) => name).join(', ')
    const stored = `${names} is stored on this laptop; whether the machine has noted that is not known`
    const at = { name: step.name, index, total: work.steps.length }
    work.cut = reportDisconnect(running.report, at, sent, stored)
    return 1
  }
  if (stepHolds(work, last)) return 0
  Object.assign(observed[index] ?? {}, {
    end: { state: 'failed', reason: 'after', rolledBack: false },
  } satisfies Partial<Observed>)
  return 1
}

/** Seconds for the undo of a page. */
const UNDO_LIMIT = 900

function undo(page: Page, steps: Step[], running: Running): Promise<Result> {
  const underWay: UnderWay = {
    until: `the undo of ${page.name} has ended`,
    left: `the machine ends the undo of ${page.name} by itself`,
  }
  return during(underWay, () => undoAndConfirm(page, steps, running, underWay))
}

async function undoAndConfirm(
  page: Page,
  steps: Step[],
  running: Running,
  underWay: UnderWay,
): Promise<Result> {
  const { report } = running
  const transaction = transactionFor({ ...running, page, steps: numbered(steps) }, 'undo')
  const blocked = await transaction?.ready()
  if (blocked) {
    report.error(blocked)
    return undoResult(1, 0, blocked.said ?? '', blocked.next)
  }
  let answer: Extract<Frame, { kind: 'undone' }> | undefined
  let armed = false
  const program = await undoProgram({
    page: page.name,
    shell: page,
    all: steps,
    owner: lockOwner(),
    ...(transaction ? { transaction: transaction.armed } : {}),
  })
  const onFrame = (frame: Frame) => {
    if (frame.kind === 'undone') answer = frame
    if (frame.kind === 'armed') {
      armed = true
      if (transaction) Object.assign(underWay, transaction.underWay)
    }
  }
  const sent = await send(running, program, onFrame, UNDO_LIMIT)
  const { state, said, next } = (answer ?? { said: '', next: '' }) as Partial<NonNullable<typeof answer>>
  if (state === 'nothing') return undoResult(0, 0, 'there is nothing of it on this machine')
  if (state === 'refused' || state === 'failed' || (state !== 'done' && !armed)) {
    report.error({
      step: `undo ${page.name}`,
      ran: 'undo',
      said: sent.locked ?? (said || sent.stderr.trim()),
      state:
        state === 'failed'
          ? 'not all of it is undone; its record is kept'
          : state === 'refused' || sent.locked !== undefined
            ? 'nothing was changed'
            : transaction
              ? `it is not confirmed: ${transaction.underWay.left}`
              : 'if the machine still runs, it ends the undo by itself; its record is kept until then',
      next: next || 'run it again',
    })
    return undoResult(1, 0, sent.locked ?? (said || sent.stderr.trim()), next)
  }
  if (armed && transaction) {
    const unconfirmed = await transaction.confirm()
    if (unconfirmed) {
      report.error({ ...unconfirmed, step: `undo ${page.name}` })
      return undoResult(1, 0, unconfirmed.said ?? '')
    }
  }
  for (const line of (said ?? '').split('\n').filter(Boolean)) report.note(line)
  return undoResult(0, 1, 'undone')
}

const undoResult = (code: 0 | 1, changed: number, why: string, next = ''): Result => ({
  code,
  changed,
  state: code === 1 ? 'failed' : changed > 0 ? 'changed' : '-',
  ...(why ? { why } : {}),
  ...(next ? { next } : {}),
  steps: { change: 0, hold: 0, access: 0 },
})
