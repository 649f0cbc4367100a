// What a task and its caller have in common. Nothing here loads anything: whatever has a task may import it.
import { Fault } from '../ground/fault.ts'
import type { Table } from './flags.ts'

/** What a task gets when it runs. */
export interface Call {
  name: string
  argv: string[]
  /** Aborted by Ctrl-C: finish what is begun, begin nothing more. */
  signal: AbortSignal
  /** The task is one of several that run at once: it keeps its output and throws it as a Fault when it fails. */
  together: boolean
  /** Standard output is a terminal that can redraw a line. */
  live: boolean
}

/** 0 done or nothing to do, 1 failed, 2 changes pending. */
export type Run = (call: Call) => Promise<number> | number

export interface Task {
  /** One line for the list. */
  does: string
  /** The words and flags behind its name. Absent: none. */
  takes?: Table
  /** Tasks that must have succeeded before; what does not depend on each other runs at once. */
  needs?: string[]
  /** A failure among the needs stops only what needs it. */
  keepGoing?: boolean
  run?: Run
}

/** Section → name → task. */
export type Taskfile = Record<string, Record<string, Task>>

/** A check that cannot be made here, and why: among others it is passed over, and reported. */
export class NotHere extends Fault {}
