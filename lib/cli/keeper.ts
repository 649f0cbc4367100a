// The moment when the age identity is made: nobody misses it, and a run ends with it while no copy is known.
import type { Report } from '../engine/report.ts'
import { copiedAt, forgetCopied, noteCopied } from '../ground/identity.ts'
import { question } from '../ground/laptop.ts'

/** What a session says when the identity is made, and again at its end while no copy is known. */
export interface Keeper {
  made: (lines: string) => Promise<void>
  remind: () => void
}

/** `ask`: somebody at a terminal can be asked. */
export function keeper(path: string, report: Pick<Report, 'note' | 'pause'>, ask: boolean): Keeper {
  let isNew = false
  return {
    async made(lines) {
      isNew = true
      forgetCopied(path)
      report.note(`\n${lines}\n`)
      if (!ask) return
      report.pause()
      if (/^y/i.test(await question('Copied? [y/N] '))) noteCopied(path)
    },
    remind() {
      if (isNew && copiedAt(path) === undefined)
        report.note(`The age identity has no known copy yet: ./task identity\n  ${path}`)
    },
  }
}
