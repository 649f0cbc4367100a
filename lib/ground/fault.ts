// What is refused or fails, as a person reads it: what ran, what it said, the state this leaves, and what to do next.

const mark = Symbol.for('fortress-kit/fault')

/** A refusal or failure that is printed in a few lines, without a stack. */
export class Fault extends Error {
  readonly ran: string | undefined
  readonly said: string | undefined
  readonly state: string | undefined
  readonly next: string | undefined
  readonly [mark] = true

  /** What a page that was started by itself loads later has a copy of this class of its own: their faults are faults, too. */
  static override [Symbol.hasInstance](value: unknown): boolean {
    return this === Fault
      ? value instanceof Error && mark in value
      : Function.prototype[Symbol.hasInstance].call(this, value)
  }

  constructor(message: string, more: { ran?: string; said?: string; state?: string; next?: string } = {}) {
    super(message)
    this.ran = more.ran
    this.said = more.said
    this.state = more.state
    this.next = more.next
  }
}
