// The three kinds of step. A script is a list of them.
import type { Secret } from '../ground/secret.ts'
import type { Command } from '../ground/sh.ts'
import type { Artifact } from './artifact.ts'

/**
 * One requirement of a security guide that a step makes true, reported by itself.
 * `check` prints what it found and exits 0 (holds), 100 (does not apply here, and says why), 101 (will hold after a reboot)
 * or anything else (does not hold). `from` names where the requirement comes from.
 */
export interface Control {
  id: string
  title: string
  check: Command
  from: string[]
  /** A reason why this control may fail, from config/host/waivers.yaml. */
  waived?: string
}

/** How a connection comes to a machine: at its own address, or at the one that it has inside a tunnel. */
export type Route = 'direct' | 'tunnel'

/** A unit that starts anew when a rollback changed files that it reads. */
export interface Restart {
  unit: string
  /** Files below this directory, written with its last slash. */
  path: string
  /** The one file below it that the unit writes itself. */
  except?: string
  /** `reload`: reload it, or restart it when it cannot; `active`: restart it if it runs; `always`: also if it has failed. */
  how: 'reload' | 'active' | 'always'
  /** Only where this file exists after the rollback. */
  needs?: string
}

/**
 * A change that can lock out who makes it, or leave a service down. Neighbouring steps with one are applied together: the
 * machine rolls them back by itself unless a new connection confirms them.
 */
export interface Transaction {
  /** What it changes, in a word for the reader: `ssh`. */
  kind: string
  /**
   * By which route the new connection must come, after apply and after undo. Default: the present one. `gone`: the one that undo
   * takes away, so that it has to begin by the other; `next` is how that is opened.
   */
  route?: { apply?: Route; undo?: Route; gone?: { route: Route; next: string } }
  restart?: Restart[]
  /** Tables of nftables that are made or changed: `inet fortress`. A rollback restores these and no others. */
  tables?: string[]
  /** The dead man's timer: seconds that must pass before it is rolled back, where that is more than FK_DEADMAN_SECONDS. */
  within?: number
}

interface Named {
  /** A fact, in an owner's words: what will be true. */
  name: string
  /** One sentence for the reader: why it should be. */
  why?: string
  controls?: Control[]
  transaction?: Transaction
}

/** A file that a change step writes, so that a plan can show the difference and a rehearsal can write it out. */
export interface Target {
  path: string
  text: string | undefined
  /** What may be seen of a secret text. */
  shown?: string
  /** sha256 of the text. */
  digest: string | undefined
  mode: string
  owner: string
  test: Command | undefined
}

/** The machine can be made to agree: when `check` does not hold, the commands of `apply` run, then `check` runs again. */
export interface Change extends Named {
  check: Command
  apply: Command[]
  /** Only for what the record on the machine cannot undo by itself. */
  undo?: Command[]
  /** Read-only: while it fails nothing of the page is undone, and what it prints says why. */
  undoable?: Command
  /** Runs when `apply` failed half way. */
  recover?: Command[]
  /** Seconds that each command of `apply` may take. Default 300. */
  seconds?: number
  /** Standard output of `command` is stored age-encrypted on the laptop under `name`, after `apply`. */
  save?: {
    name: string
    command: Command
    /** What the laptop has is never replaced by something else: then the step fails. */
    once?: boolean
  }
  target?: Target
  /** Runs before its check where steps before it may not be applied yet: a plan. A printed page goes step by step without it. */
  ahead?: Command
  /** What the difference is of that its check prints, where it does not hold: a plan shows it whole. */
  diff?: string
  /**
   * What another machine of the site makes true before `apply`, and after it, also when `apply` failed. `built`: it is left out
   * while there is no such machine yet.
   */
  onOtherNode?: { on: string; before: Step[]; after: Step[]; built?: true }
  /**
   * `apply` has the machine start anew when this run has let go of it. The laptop waits so many seconds until it answers again,
   * and only then checks the step, and goes on.
   */
  reboots?: number
  /** Before `apply` the laptop downloads, verifies and uploads this file; `apply` gives it its name. */
  upload?: { artifact: Artifact; to: string }
}

/** Only a person can make it so: `help` says how. */
export interface Demand extends Named {
  check: Command
  help: string
  /** It holds for this run when somebody types exactly this: what is about to be destroyed, by its name. */
  typed?: string
  /** It holds for this run when somebody has written this secret down: it is shown once, and two of its groups are typed. */
  paper?: Secret
  /**
   * A person does it in the normal course of a build: the page waits, and nothing has failed. With `wait` a run at a terminal
   * checks again for so many seconds, and goes on by itself.
   */
  person?: { wait?: number }
}

/** It becomes true by itself; checked again until `seconds` have passed. */
export interface Wait extends Named {
  until: Command
  seconds: number
}

export type Step = Change | Demand | Wait

export const isChange = (step: Step): step is Change => 'apply' in step
export const isWait = (step: Step): step is Wait => 'until' in step
export const isDemand = (step: Step): step is Demand => 'help' in step

/** The transactions of all these steps as one; undefined when none has any. Where two name a route, the last one counts. */
export function transactionOf(steps: Step[]): Transaction | undefined {
  const all = steps.flatMap(({ transaction }) => transaction ?? [])
  if (all.length === 0) return undefined
  const each = <T>(of: (one: Transaction) => T[] | undefined): T[] => [
    ...new Map(all.flatMap((one) => of(one) ?? []).map((value) => [JSON.stringify(value), value])).values(),
  ]
  return {
    kind: each(({ kind }) => [kind]).join(', '),
    route: Object.assign({}, ...all.map(({ route }) => route)) as NonNullable<Transaction['route']>,
    restart: each(({ restart }) => restart),
    tables: each(({ tables }) => tables),
    within: Math.max(0, ...all.map(({ within = 0 }) => within)),
  }
}

/** The check of a step: what it runs on the machine. */
export const checkOf = (step: Step): Command => (isWait(step) ? step.until : step.check)
