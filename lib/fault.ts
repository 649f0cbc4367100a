// What is refused or fails, as a person reads it: what ran, what it said, how things stand, and what to do next.

/** A refusal or failure that is told in a few lines, without a stack. */
export class Fault extends Error {
  readonly ran: string | undefined
  readonly said: string | undefined
  readonly state: string | undefined
  readonly next: string | undefined
  constructor(message: string, more: { ran?: string; said?: string; state?: string; next?: string } = {}) {
    super(message)
    this.ran = more.ran
    this.said = more.said
    this.state = more.state
    this.next = more.next
  }
}
