// A laptop that loses its power.
import { readFileSync, readdirSync } from 'node:fs'

/** Kills everything that runs for the state directory `state`, with what it has started in turn: all at once, and in no order. */
export function powerLoss(state: string): void {
  for (const pid of readdirSync('/proc').filter((name) => /^\d+$/.test(name) && Number(name) !== process.pid))
    try {
      const own = readFileSync(`/proc/${pid}/environ`, 'utf8').split('\0')
      if (own.includes(`FK_STATE_DIR=${state}`)) process.kill(Number(pid), 'SIGKILL')
    } catch {
      // it has ended
    }
}
