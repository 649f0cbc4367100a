// A command of this computer as the lab runs it: two minutes at most, and a Fault that says how to get what it lacks.
import { Fault } from '../ground/fault.ts'
import { type Limits, type ProcessOutput, type ProcessPromise, orFault } from '../ground/laptop.ts'

/** Waits for a command, as `orFault` does. The Fault of a full disk, or of a program that is missing, says what to do. */
export async function done(command: ProcessPromise, limits: Limits = {}): Promise<ProcessOutput> {
  try {
    return await orFault(command, { seconds: 120, install: 'sudo npx task lab setup', ...limits })
  } catch (error) {
    if (!(error instanceof Fault) || !/No space left on device/.test(error.said ?? '')) throw error
    const { message, ran = '', said = '' } = error
    throw new Fault(message, { ran, said, next: 'make room, or name another directory in FK_LAB_DIR' })
  }
}
