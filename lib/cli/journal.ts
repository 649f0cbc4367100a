// ./task journal: whether a journal has been changed since it was sealed, by the key that only the laptop has.
import { Readable } from 'node:stream'
import { count } from '../engine/report.ts'
import { Fault } from '../ground/fault.ts'
import { machinesFor } from '../site/machines.ts'
import type { Call } from './call.ts'
import { withSession } from './session.ts'
import { journal as table } from './tables.ts'

/**
 * `./task journal` has each host verify its journal by the seals, and prints what journalctl says of it. Resolves to the exit
 * code: 0 only where seals hold. Throws a Fault where no host has a key.
 */
export const journal = (call: Call): Promise<number> =>
  withSession(call, table, async ({ config, store, connect, needsHost, signal }) => {
    needsHost()
    const sealed = machinesFor(config, 'host').filter(({ name }) => store.has(`${name}-journal-key`))
    if (sealed.length === 0)
      throw new Fault('No journal is sealed yet', { next: './task host-harden apply makes the keys' })
    let code = 0
    for (const spec of sealed) {
      const machine = await connect(spec)
      const key = Buffer.from((await store.get(`${spec.name}-journal-key`)).reveal(), 'base64')
      // The key goes by standard input; while journalctl runs, root of the machine can see it.
      const verify = 'IFS= read -r key && journalctl --verify --verify-key="$key" >&2'
      const outcome = await machine.feed(verify, Readable.from([key]), signal)
      const { holds, text } = verdict(outcome.code, outcome.stderr)
      if (!holds) code = 1
      process.stdout.write(`${machine.label}: ${text}\n`)
    }
    return code
  })

/** What journalctl says, in short: of what holds the number of files, of what does not each line. */
export function verdict(code: number, said: string): { holds: boolean; text: string } {
  const lines = said.split(/[\n\r]+/).map((line) => line.replaceAll(/\u001B\[[\d;]*[A-Za-z]/g, '').trim())
  const passed = lines.filter((line) => line.startsWith('PASS: ')).length
  const sealed = lines.filter((line) => line.startsWith('=> Validated')).length
  if (code === 0 && sealed > 0) {
    const open = passed - sealed
    const rest = open > 0 ? `; ${count(open, 'file')} without a seal` : ''
    return { holds: true, text: `the seals of ${count(sealed, 'file')} hold: nobody has changed them${rest}` }
  }
  if (code === 0 && passed > 0) return { holds: false, text: 'no seal is set yet, so nothing is proven' }
  const faults = lines.filter((line) => line !== '' && !/^(PASS: |=> |\d+%$)/.test(line))
  return {
    holds: false,
    text: ['the journal does not hold by its seals, or could not be verified', ...faults].join('\n  '),
  }
}
