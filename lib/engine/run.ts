// The modes of a page on a machine: plan, apply, verify, undo.
import { createHash } from 'node:crypto'
import { gunzipSync } from 'node:zlib'
import { createTwoFilesPatch } from 'diff'
import type { Fault } from '../ground/fault.ts'
import type { SecretStore } from '../ground/secret.ts'
import { type Fetch, deliver } from './delivery.ts'
import { type Machine, type Outcome, lockOwner } from './machine.ts'
import type { Page } from './page.ts'
import { besides } from './print.ts'
import { type Applying, type Numbered, type Program, applying, asking, plain, undoing } from './program.ts'
import type { FaultReport, Report } from './report.ts'
import {
  type Change,
  type Control,
  type Demand,
  type Route,
  type Step,
  type Target,
  isChange,
  isWait,
  transactionOf,
} from './step.ts'
import type { Frame } from './wire.ts'

export type Mode = 'plan' | 'apply' | 'verify' | 'undo'

export interface Running {
  machine: Machine
  report: Report
  /** Where what a machine gives back is stored, encrypted. */
  store: SecretStore
  /** Seconds until a change of a door is taken back when nobody proves it. */
  deadman: number
  /** Seconds to wait for another run on this machine. */
  patience: number
  signal?: AbortSignal
  /** Asks a person to type the name of what a demand is about; undefined when there is nobody to ask. */
  typed?: (step: Demand) => Promise<string | undefined>
  /** Another machine of the site. */
  elsewhere?: (name: string) => Promise<Machine>
  /** Fetches what a step brings. */
  fetch?: Fetch
}

export interface Result {
  code: 0 | 1 | 2
  changed: number
  /** The tally of controls, for a summary over many pages. */
  controls: { hold: number; total: number }
}

type Answer = { rc: number; found: string }
interface Seen {
  check?: Answer
  controls: Answer[]
  end?: { state: string; reason: string; taken: boolean }
  said?: { command: number; rc: number; text: string }
  /** What the proof of a door said, with the first step of that door. */
  door?: FaultReport
}

const stateOf = (answer: Answer | undefined, control?: Control) => {
  if (!answer) return 'failed'
  if (answer.rc === 0) return 'ok'
  if (answer.rc === 100) return 'n/a'
  if (answer.rc === 101) return 'pending'
  return control?.waived ? 'waived' : 'failed'
}

/** Whether a step holds as it was seen: its own check, and every control that is not excused. */
const holds = (step: Step, seen: Seen | undefined): boolean =>
  seen?.check?.rc === 0 && (step.controls ?? []).every((c, i) => stateOf(seen.controls[i], c) !== 'failed')

export interface Look {
  seen: Seen[]
  asked: Awaited<ReturnType<typeof send>>
}

/** Asks the machine every question of a page; it changes nothing unless the page is to be applied. */
export async function look(page: Page, steps: Step[], mode: Mode, running: Running): Promise<Look> {
  const seen: Seen[] = steps.map(() => ({ controls: [] }))
  const numbered = steps.map((step, index) => ({ step, index }))
  const program = await asking(page.name, numbered, page, mode === 'apply' ? lockOwner() : undefined)
  return { seen, asked: await send(running, program, (f) => note(seen, f)) }
}

/**
 * Runs one page in one mode and reports it; `looking` is a look that was begun before. Rejects with a Fault only when the machine
 * cannot be talked to at all.
 */
export async function runPage(
  page: Page,
  steps: Step[],
  mode: Mode,
  running: Running,
  looking?: Promise<Look>,
): Promise<Result> {
  const { machine, report } = running
  const numbered = steps.map((step, index) => ({ step, index }))
  const began = Date.now()
  report.page({
    name: page.name,
    summary: page.summary,
    file: page.file,
    layer: page.layer,
    on: page.on,
    mode,
    machine: machine.label,
  })
  if (mode === 'undo') return undo(page, numbered, running)
  report.plan({ steps: steps.length, controls: steps.reduce((n, s) => n + (s.controls?.length ?? 0), 0) })
  const { seen, asked } = await (looking ?? look(page, steps, mode, running))
  if (!asked.finished) return broken(running, steps, seen, asked)
  const run =
    mode === 'apply' && steps.some((s, i) => !holds(s, seen[i]))
      ? await apply(page, numbered, seen, running)
      : { changed: 0, code: 0 as const }
  return summarise(page, steps, seen, mode, running, run, (Date.now() - began) / 1000)
}

function note(seen: Seen[], frame: Frame): void {
  const at = 'step' in frame ? seen[frame.step] : undefined
  if (!at) return
  if (frame.kind === 'check') at.check = { rc: frame.rc, found: frame.found }
  else if (frame.kind === 'control') at.controls[frame.control] = { rc: frame.rc, found: frame.found }
  else if (frame.kind === 'said') at.said = { command: frame.command, rc: frame.rc, text: frame.text }
  else if (frame.kind === 'end')
    at.end = { state: frame.state, reason: frame.reason ?? '', taken: frame.rolledBack }
}

/** Sends a program, waits while another run holds the machine, and tells what it says on the way. */
async function send(
  running: Running,
  program: Program,
  onFrame: (frame: Frame) => void,
  machine = running.machine,
  seconds = 300,
): Promise<Outcome & { locked?: string }> {
  const until = Date.now() + running.patience * 1000
  for (;;) {
    let locked: string | undefined
    const outcome = await machine.run(
      program,
      (frame) => {
        if (frame.kind === 'locked')
          locked = `${frame.owner || 'another run'} is at work there, since ${frame.seconds} s`
        else if (frame.kind === 'unconfirmed')
          locked = `${frame.owner} changed a door there and has not proven it; it is taken back in ${frame.seconds} s`
        else if (frame.kind === 'note') running.report.note(frame.text)
        else onFrame(frame)
      },
      seconds,
    )
    if (locked === undefined) return outcome
    if (Date.now() >= until || running.signal?.aborted) return { ...outcome, locked }
    running.report.running({ index: 0, total: 0, name: `waiting: ${locked}` })
    await new Promise((resolve) => setTimeout(resolve, 1000))
  }
}

interface Chunk {
  steps: Numbered[]
  door: boolean
}

/**
 * Steps travel together, but doors travel apart (each run of doors is one transaction), what is saved ends its part, and what is
 * brought begins one: what comes before it has made room for it, or found that there is none. So does a step that another machine
 * does something for, unless it belongs to a run of doors: what comes before it may find that it must not begin.
 */
export function chunks(steps: Numbered[]): Chunk[] {
  const parts: Chunk[] = []
  let closed = true
  for (const numbered of steps) {
    const door = numbered.step.transaction !== undefined
    const last = parts.at(-1)
    const { upload, onOtherNode } = isChange(numbered.step) ? numbered.step : {}
    const begins = upload !== undefined || (onOtherNode !== undefined && !door)
    if (!closed && !begins && last && last.door === door) last.steps.push(numbered)
    else parts.push({ steps: [numbered], door })
    closed = isChange(numbered.step) && numbered.step.save !== undefined
  }
  return parts
}

async function apply(
  page: Page,
  steps: Numbered[],
  seen: Seen[],
  running: Running,
): Promise<{ changed: number; code: 0 | 1 }> {
  const { report, machine } = running
  let changed = 0
  for (const chunk of chunks(steps)) {
    if (running.signal?.aborted) {
      report.note('Stopped. The steps above hold; run it again to go on.')
      return { changed, code: 1 }
    }
    if (changed === 0 && chunk.steps.every(({ step, index }) => holds(step, seen[index]))) continue
    for (const numbered of chunk.steps) {
      const { step, index } = numbered
      if (isChange(step) || isWait(step) || step.typed === undefined || holds(step, seen[index])) continue
      numbered.met = (await running.typed?.(step)) === step.typed
    }
    const options: Applying = { owner: lockOwner(), page: steps.map(({ step }) => step) }
    for (const numbered of chunk.steps) {
      const { step, index } = numbered
      if (!isChange(step) || step.upload === undefined || holds(step, seen[index])) continue
      try {
        options.sent = { ...options.sent, [step.upload.to]: await bring(step.upload, running) }
      } catch (error) {
        const fault: Partial<Fault> = error instanceof Error ? error : new Error(String(error))
        const { message, ran, said, state, next } = fault
        report.error({
          step: step.name,
          index: index + 1,
          total: steps.length,
          ran: ran ?? step.upload.artifact.url,
          said: [message, said].filter(Boolean).join('\n'),
          state: state ?? 'the steps above hold; nothing after them was begun',
          ...(next === undefined ? {} : { next }),
        })
        return { changed, code: 1 }
      }
    }
    // What comes before a step in its part may be what it starts anew for, although it held when it was asked.
    const begins = chunk.steps.findIndex(({ step, index }) => !holds(step, seen[index]))
    const onOtherNode = chunk.steps
      .slice(begins < 0 ? chunk.steps.length : begins)
      .map(({ step }) => (isChange(step) ? step.onOtherNode : undefined))
      .find((found) => found !== undefined)
    const leave = async (code: 0 | 1): Promise<0 | 1> =>
      onOtherNode && !(await beside(page, onOtherNode.on, onOtherNode.after, running)) ? 1 : code
    if (onOtherNode && !(await beside(page, onOtherNode.on, onOtherNode.before, running)))
      return { changed, code: await leave(1) }
    if (chunk.door)
      options.transaction = {
        id: `${page.name}-${Date.now().toString(36)}`,
        seconds: patience(chunk, running),
      }
    let armed = false
    const payloads: [string, Buffer][] = []
    const seconds =
      60 +
      chunk.steps.reduce(
        (sum, { step }) =>
          sum +
          (isWait(step) ? step.seconds : isChange(step) ? (step.seconds ?? 300) * step.apply.length : 5),
        0,
      )
    for (const { index } of chunk.steps) seen[index] = { controls: [] }
    const outcome = await send(
      running,
      await applying(page.name, chunk.steps, options, page),
      (frame) => {
        note(seen, frame)
        const at = 'step' in frame ? frame.step : -1
        const step = steps[at]?.step
        if (frame.kind === 'armed') armed = true
        else if (frame.kind === 'save')
          payloads.push([frame.name, gunzipSync(Buffer.from(frame.body, 'base64'))])
        else if (frame.kind === 'run' && step && isChange(step))
          report.running({
            index: at + 1,
            total: steps.length,
            name: step.name,
            limit: step.seconds ?? 300,
          })
        else if (frame.kind === 'check' && step && isWait(step))
          report.running({
            index: at + 1,
            total: steps.length,
            name: step.name,
            limit: step.seconds,
            saw: frame.found,
          })
        else if (frame.kind === 'end' && frame.state === 'changed') changed += 1
      },
      machine,
      seconds,
    )
    const failed = chunk.steps.find(({ index }) => seen[index]?.end?.state === 'failed')
    if (failed) return { changed: armed ? 0 : changed, code: await leave(1) }
    if (outcome.locked !== undefined || (!outcome.finished && !armed)) {
      lost(running, steps, seen, chunk, outcome)
      return { changed, code: await leave(1) }
    }
    if (armed && options.transaction) {
      const route = transactionOf(chunk.steps.map(({ step }) => step))?.route?.apply ?? machine.route
      const door = await prove(page, chunk, options.transaction, route, running)
      if (door) {
        const lost = chunk.steps.filter(({ index }) => seen[index]?.end?.state === 'changed')
        const begun = chunk.steps.find(({ index }) => seen[index]?.end === undefined)
        ;[...lost, ...(begun ? [begun] : [])].forEach(({ index }, i) => {
          const at = seen[index] as Seen
          at.end = { state: 'failed', reason: 'door', taken: true }
          if (i === 0) at.door = door
        })
        return { changed: changed - lost.length, code: await leave(1) }
      }
    }
    if ((await leave(0)) === 1) return { changed, code: 1 }
    const last = chunk.steps.at(-1)
    if (payloads.length === 0 || !last) continue
    const saved: Record<string, string> = {}
    for (const [name, bytes] of payloads) {
      const value = bytes.toString('base64')
      const once = isChange(last.step) && last.step.save?.once === true && running.store.has(name)
      if (once && (await running.store.get(name)).reveal() !== value) {
        report.error({
          step: last.step.name,
          index: last.index + 1,
          total: steps.length,
          ran: `storing ${name} on the laptop`,
          said: 'the laptop has another one already, and never replaces it by itself',
          state: `nothing was stored; ${machine.label} keeps what it has`,
          next: 'find out which of the two is the right one: this may be another machine, or the same one after it was made anew',
        })
        return { changed, code: 1 }
      }
      if (!once) await running.store.put(name, value)
      saved[name] = createHash('sha256').update(bytes).digest('hex')
    }
    // Stored: the machine is told, and only now the step can hold.
    await send(running, await applying(page.name, [], { owner: lockOwner(), saved }), () => {})
    await send(running, await asking(page.name, [last], page), (f) => note(seen, f))
    if (!holds(last.step, seen[last.index])) {
      const at = seen[last.index]
      if (at) at.end = { state: 'failed', reason: 'after', taken: false }
      return { changed, code: 1 }
    }
  }
  return { changed, code: 0 }
}

/** Until a door is taken back: what has to come up first gets the time that it may take. */
function patience({ steps }: Chunk, { deadman }: Running): number {
  return Math.max(deadman, transactionOf(steps.map(({ step }) => step))?.within ?? 0)
}

/** Seconds to wait for another machine that several are waiting for. */
const TURN = 900

/** What another machine does for this one: its steps are asked, and those that do not hold are applied there. */
async function beside(page: Page, on: string, steps: Step[], running: Running): Promise<boolean> {
  if (steps.length === 0) return true
  if (running.elsewhere === undefined) throw new Error(`nobody here reaches ${on}`)
  const machine = await running.elsewhere(on)
  const numbered = steps.map((step, index) => ({ step, index }))
  const seen: Seen[] = steps.map(() => ({ controls: [] }))
  const seconds =
    60 +
    steps.reduce(
      (sum, step) =>
        sum + (isWait(step) ? step.seconds : isChange(step) ? (step.seconds ?? 300) * step.apply.length : 30),
      0,
    )
  const there = { ...running, machine, patience: Math.max(running.patience, TURN) }
  for (const { name } of steps.slice(0, 1))
    running.report.running({ index: 0, total: 0, name: `on ${on}: ${name}`, limit: seconds })
  const outcome = await send(
    there,
    await applying(page.name, numbered, { owner: lockOwner() }, page),
    (frame) => note(seen, frame),
    machine,
    seconds,
  )
  const failed = steps.findIndex((_, i) => seen[i]?.end?.state === 'failed')
  if (failed < 0 && outcome.finished) return true
  const step = steps[Math.max(failed, 0)] as Step
  running.report.error({
    ...(failed >= 0
      ? fault(step, seen[failed] as Seen, 0)
      : { ran: 'a step on another machine', said: outcome.locked ?? outcome.stderr.trim() }),
    step: `on ${on}: ${step.name}`,
    state: `nothing was begun on ${running.machine.label}, or it is as it is reported there`,
  })
  return false
}

/** The laptop has it, the machine has it waiting beside its place; resolves to its digest. */
async function bring(
  { artifact, to }: NonNullable<Change['upload']>,
  { fetch, machine, report, signal }: Running,
): Promise<string> {
  if (fetch === undefined) throw new Error(`nobody here fetches ${artifact.url}`)
  const file = await fetch(artifact)
  await deliver(machine, file, to, { onTransfer: (t) => report.transfer(t), ...(signal ? { signal } : {}) })
  return file.sha256
}

/**
 * The door is proven by coming in again: a connection that shares nothing with the present one, by the path that remains,
 * as root, before the dead man's time is over. Only then is the change committed.
 */
async function prove(
  page: Page,
  chunk: Chunk,
  { id, seconds }: { id: string; seconds: number },
  route: Route,
  running: Running,
): Promise<FaultReport | undefined> {
  const { machine, report } = running
  const name = chunk.steps.map(({ step }) => step.name).join('; ')
  const deadline = Date.now() + Math.max(5, seconds - 10) * 1000
  let last = ''
  let word = ''
  const fresh = machine.fresh(route)
  try {
    for (let wait = 250; Date.now() < deadline; wait = Math.min(wait * 2, 5000)) {
      report.running({
        index: 0,
        total: 0,
        name: `coming in again to prove the door${route === 'tunnel' ? ' through the tunnel' : ''}`,
        limit: seconds,
        saw: last,
      })
      let answer: Extract<Frame, { kind: 'commit' }> | undefined
      const left = Math.ceil((deadline - Date.now()) / 1000)
      const outcome = await fresh
        .run(
          await plain(
            page.name,
            [
              'rc=0; said=$(fk_commit ' + id + ' 2>&1) || rc=$?',
              'case $rc in 0) state=committed ;; 75) state=running ;; 76) state=died ;; *) state=refused ;; esac',
              'frame commit "$state" "$said"',
            ],
            ['put.sh', 'snapshot.sh', 'guard.sh'],
          ),
          (f) => {
            if (f.kind === 'commit') answer = f
          },
          Math.max(5, Math.min(30, left)),
        )
        .catch((error: unknown) => ({ code: 255, stderr: String(error), finished: false }))
      if (answer?.state === 'committed') {
        if (route !== machine.route) machine.move(route)
        return undefined
      }
      word = answer?.state ?? ''
      last = answer?.said ?? outcome.stderr.trim().split('\n').at(-1) ?? `ended with ${outcome.code}`
      if (word === 'refused' || word === 'died') break
      await new Promise((resolve) => setTimeout(resolve, wait))
    }
  } finally {
    await fresh.close()
  }
  return {
    step: name,
    ran: `a new connection to ${fresh.label}`,
    said: last || 'nothing',
    state:
      word === 'died'
        ? 'the machine takes these steps back now'
        : word === 'refused'
          ? 'the machine has taken these steps back, or is about to'
          : `the machine takes these steps back by itself, ${seconds} s after they began`,
    next:
      word === 'died'
        ? 'run it again; journalctl on the machine may tell what ended it'
        : route === 'tunnel'
          ? 'bring the tunnel up on this computer, and run it again'
          : 'find out why a new login fails, and run it again',
  }
}

function lost(
  { report }: Running,
  steps: Numbered[],
  seen: Seen[],
  chunk: Chunk,
  outcome: Outcome & { locked?: string },
): void {
  const at = chunk.steps.find(({ index }) => !seen[index]?.end) ?? chunk.steps[0]
  report.error({
    ...(at ? { step: at.step.name, index: at.index + 1, total: steps.length } : {}),
    ran: 'this page on the machine',
    said: outcome.locked ?? (outcome.stderr.trim() || `it ended with ${outcome.code} before it was done`),
    state:
      outcome.locked === undefined
        ? 'the steps before this one hold; this one may be half done'
        : 'nothing was changed by this run',
    next: outcome.locked === undefined ? 'run it again: it goes on where this ended' : takeOver,
  })
}

const takeOver = 'wait, or take over with ./task unlock if you know that run is dead'

function broken(
  { report, machine }: Running,
  steps: Step[],
  seen: Seen[],
  outcome: Outcome & { locked?: string },
): Result {
  const at = seen.findIndex((s) => !s.check)
  report.error({
    ...(at >= 0 ? { step: steps[at]?.name ?? '', index: at + 1, total: steps.length } : {}),
    ran: `the checks of this page on ${machine.label}`,
    said:
      outcome.locked ||
      outcome.stderr.trim() ||
      (outcome.code === 124 ? 'they took too long' : `they ended with ${outcome.code}`),
    state: 'nothing was changed',
    next: outcome.locked === undefined ? 'run it again with --verbose' : takeOver,
  })
  return { code: 1, changed: 0, controls: { hold: 0, total: 0 } }
}

function summarise(
  page: Page,
  steps: Step[],
  seen: Seen[],
  mode: Mode,
  { report }: Running,
  run: { changed: number; code: 0 | 1 },
  seconds: number,
): Result {
  const tally = { hold: 0, changed: 0, pending: 0, failed: 0, notApplicable: 0, waived: 0, rebooting: 0 }
  const controls = { hold: 0, total: 0 }
  let stopped = false
  let left = 0
  steps.forEach((step, i) => {
    const s = seen[i] ?? { controls: [] }
    const place = { index: i + 1, total: steps.length, name: step.name }
    // A run that stopped says nothing about what it did not come to.
    if (run.code === 1 && !s.end && (stopped || !holds(step, s))) {
      left += 1
      return
    }
    const reboot = (step.controls ?? []).some((c, j) => stateOf(s.controls[j], c) === 'pending')
    const fine = holds(step, s)
    const state =
      s.end?.state === 'failed'
        ? 'failed'
        : s.end?.state === 'changed'
          ? 'changed'
          : fine
            ? reboot
              ? 'pending'
              : isWait(step)
                ? 'ready'
                : 'ok'
            : mode === 'plan'
              ? isChange(step)
                ? 'change'
                : 'pending'
              : 'failed'
    const found = s.check && s.check.rc !== 0 && !(isChange(step) && step.target) ? s.check.found : ''
    report.step({ ...place, state, ...(step.why ? { why: step.why } : {}), ...(found ? { found } : {}) })
    if (state === 'failed') tally.failed += 1
    else if (state === 'change' || (state === 'pending' && !fine)) tally.pending += 1
    else if (state === 'changed') tally.changed += 1
    else tally.hold += 1
    step.controls?.forEach((control, j) => {
      const answer = s.controls[j]
      if (!answer && mode !== 'verify') return
      const state = stateOf(answer, control)
      if (state === 'n/a') tally.notApplicable += 1
      else {
        controls.total += 1
        if (state === 'ok') controls.hold += 1
        if (state === 'waived') tally.waived += 1
        if (state === 'pending') tally.rebooting += 1
      }
      report.control({
        id: control.id,
        title: control.title,
        state: state === 'failed' && mode === 'plan' ? 'change' : state,
        from: control.from,
        ...(answer?.found ? { found: answer.found } : {}),
        ...(control.waived ? { waived: control.waived } : {}),
      })
    })
    const target = isChange(step) ? step.target : undefined
    if (target && (state === 'change' || (state === 'failed' && mode === 'verify')))
      report.diff({ path: target.path, text: unlike(target, s.check) })
    if (state === 'change' && isChange(step)) {
      if (step.upload)
        report.command({ text: `# fetched and proven by the laptop, and sent: ${step.upload.artifact.url}` })
      for (const text of besides(step, 'before')) report.command({ text })
      for (const command of target ? step.apply.slice(1, -1) : step.apply)
        report.command({ text: command.text })
      for (const text of besides(step, 'after')) report.command({ text })
    }
    if (state === 'pending' && !isChange(step) && !isWait(step)) report.command({ text: step.help })
    if (s.end?.state === 'failed') {
      stopped = true
      if (s.door) report.error({ ...s.door, ...place, step: step.name })
      else if (s.end.reason !== 'door') report.error({ ...fault(step, s, i), ...place, step: step.name })
    }
  })
  if (left > 0) report.note(`${left} steps were not come to.`)
  report.summary({ name: page.name, ...tally, controls, seconds })
  const code =
    run.code === 1 || (mode !== 'plan' && tally.failed > 0)
      ? 1
      : tally.pending > 0 || tally.rebooting > 0
        ? 2
        : tally.failed > 0
          ? 1
          : 0
  return { code, changed: run.changed, controls }
}

/** What happened, in five lines. */
function fault(step: Step, seen: Seen, before: number): FaultReport {
  const { said, end } = seen
  const kept = end?.taken
    ? 'this door and the doors before it are as they were: taken back at once'
    : before > 0
      ? 'the steps above hold; what this one landed was taken back'
      : 'nothing else was changed'
  if (end?.reason === 'demand' && !isChange(step) && !isWait(step))
    return {
      ran: step.check.text,
      said: seen.check?.found || 'no',
      state: before > 0 ? 'the steps above hold; nothing after them was begun' : 'nothing was changed',
      next: step.help,
    }
  if (end?.reason === 'deadline')
    return {
      ran: isWait(step) ? step.until.text : '',
      said: seen.check?.found || 'nothing',
      state: 'the steps above hold',
      next: 'find out what it waits for, and run it again',
    }
  if (end?.reason === 'guard')
    return {
      ran: 'keeping what is there now, for the way back',
      said: said?.text || 'the snapshot or the timer could not be made',
      state: before > 0 ? 'the steps above hold; nothing else was changed' : 'nothing was changed',
      next: 'make room, or see whether systemd runs, and run apply again',
    }
  if (end?.reason === 'after') {
    const wrong = (step.controls ?? [])
      .filter((c, i) => stateOf(seen.controls[i], c) === 'failed')
      .map((c) => c.id)
    return {
      ran: isChange(step) ? step.check.text : '',
      said: [
        seen.check?.rc === 0 ? '' : seen.check?.found || 'it still does not hold',
        wrong.length > 0 ? `does not hold: ${wrong.join(', ')}` : '',
      ]
        .filter(Boolean)
        .join('\n'),
      state: 'its commands ran, and it does not hold',
      next: 'something else on this machine sets it; mend that and run apply again',
    }
  }
  const command = isChange(step) ? step.apply[said?.command ?? 0] : undefined
  return {
    ran: (command?.text ?? '').split('\n')[0] ?? '',
    said:
      said?.rc === 124 || said?.rc === 137
        ? `${said.text}\ntimed out after ${isChange(step) ? (step.seconds ?? 300) : 0} s`
        : said?.text || `it ended with ${said?.rc ?? '?'}`,
    state: kept,
    next: 'mend this and run apply again',
  }
}

/** How a file on the machine differs from the declared one. */
function unlike(target: Target, check: Seen['check']): string {
  if (target.text === undefined) return '+ a secret, not shown\n'
  if (check?.rc === 0) return '  as declared; what it is for does not hold\n'
  if (check?.rc === 2) return `  ${check.found.trim()}\n`
  return (
    difference(check?.found ?? '', target.text, target.path) ||
    '  as declared; what has to follow it is still to be done\n'
  )
}

function difference(before: string, after: string, path: string): string {
  const patch = createTwoFilesPatch(
    path,
    path,
    before === '' || before.endsWith('\n') ? before : `${before}\n`,
    after,
    '',
    '',
    { context: 2 },
  )
  return patch.split('\n').slice(4).join('\n')
}

async function undo(page: Page, steps: Numbered[], running: Running): Promise<Result> {
  const { machine, report } = running
  const transaction = transactionOf(steps.map(({ step }) => step))
  const options: Applying = { owner: lockOwner(), page: steps.map(({ step }) => step) }
  if (transaction)
    options.transaction = { id: `${page.name}-${Date.now().toString(36)}`, seconds: running.deadman }
  let answer: Extract<Frame, { kind: 'undone' }> | undefined
  let armed = false
  const outcome = await send(
    running,
    await undoing(page.name, steps, options, page),
    (f) => {
      if (f.kind === 'undone') answer = f
      if (f.kind === 'armed') armed = true
    },
    machine,
    900,
  )
  const result = (code: 0 | 1): Result => ({ code, changed: 0, controls: { hold: 0, total: 0 } })
  const { state: word, said = '', next = '' } = (answer ?? {}) as Partial<Extract<Frame, { kind: 'undone' }>>
  if (word === 'nothing') {
    report.note(`${page.name}: there is nothing of it on this machine`)
    return result(0)
  }
  if (word === 'refused' || word === 'failed' || (word !== 'done' && !armed)) {
    report.error({
      step: `undo ${page.name}`,
      ran: 'undo',
      said: outcome.locked ?? (said || outcome.stderr.trim()),
      state:
        word === 'failed' ? 'not all of it is taken back; the record of it is kept' : 'nothing was changed',
      next: next || 'run it again',
    })
    return result(1)
  }
  if (armed && options.transaction) {
    const doors = { steps: steps.filter(({ step }) => step.transaction), door: true }
    const route = transaction?.route?.undo ?? machine.route
    const fault = await prove(page, doors, options.transaction, route, running)
    if (fault) {
      report.error({ ...fault, step: `undo ${page.name}` })
      return result(1)
    }
  }
  for (const line of said.split('\n').filter(Boolean)) report.note(line)
  report.note(`${page.name}: taken back`)
  return { code: 0, changed: 1, controls: { hold: 0, total: 0 } }
}
