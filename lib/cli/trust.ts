// ./task trust and ./task unlock: host keys of new machines are compared, which connecting does
// (lib/engine/machine.ts), and a run that hangs is ended.
import type { Machine } from '../engine/machine.ts'
import { query } from '../engine/query.ts'
import { type Report, duration } from '../engine/report.ts'
import { Fault } from '../ground/fault.ts'
import { type Placed, everyMachine } from '../site/machines.ts'
import { connectTo } from './access.ts'
import type { Call } from './call.ts'
import { named, withSession } from './session.ts'
import { trust as trustTable, unlock as unlockTable } from './tables.ts'

/**
 * Connects to every machine of the site that is not behind another (the key of one that is was made on the laptop), and lets a
 * person at a terminal compare a host key that is new. Resolves to the exit code.
 */
export const trust = (call: Call): Promise<number> =>
  withSession(call, trustTable, async ({ config, report, terminal, needsHost }) => {
    needsHost()
    for (const spec of onMetal(everyMachine(config))) {
      // Whose key it is can be seen without root, so nobody types a password.
      const machine = await connectTo(config, spec, terminal, report, { root: false })
      const { os, arch, model } = machine.facts
      const known = [os, arch, model === 'unknown' ? '' : model].filter(Boolean).join(', ')
      report.note(`${machine.label} is known: ${known}.`)
      await machine.close()
    }
    report.note('Next: ./task doctor')
    return 0
  })

/**
 * Ends the run that holds a machine's lock: on the metal, or on the machine that is named. Without --yes only the owner is
 * shown: a run that is alive loses its work in the middle of a step, and its open transaction is rolled back by the machine
 * itself.
 */
export const unlock = (call: Call): Promise<number> =>
  withSession(call, unlockTable, async ({ config, report, connect, needsHost, given }) => {
    needsHost()
    const all = everyMachine(config)
    const [name] = given.words
    const meant = name === undefined ? onMetal(all) : [named(all, name, config.site.name, 'machine')]
    for (const spec of meant) await unlockMachine(await connect(spec), report, given)
    return 0
  })

const onMetal = (all: Placed[]): Placed[] => all.filter(({ behind }) => behind === undefined)

async function unlockMachine(
  machine: Machine,
  report: Report,
  { words, yes }: { words: string[]; yes: boolean },
): Promise<void> {
  const { owner, age } = await query(machine, [LOCK_OWNER], { what: 'reading the lock' })
  if (owner === undefined) {
    report.note(`Nobody holds ${machine.label}.`)
    return
  }
  const held = `${owner} has held ${machine.label} for ${duration(Number(age))}.`
  if (!yes)
    throw new Fault(`${held} Nothing was done.`, {
      next: `./task ${['unlock', ...words].join(' ')} --yes ends that run`,
    })
  const { left } = await query(machine, END_OF_RUN, { libraries: ['guard.sh'], what: 'ending the run' })
  if (left !== undefined)
    throw new Fault(`${held} Its processes do not end: ${left}`, { next: 'restart the machine' })
  report.note(`${held} That run is ended; the next one goes on where it was.`)
}

const LOCK_OWNER = `
if [ -e /run/fortress/lock ] && ! flock --nonblock /run/fortress/lock true; then
  age=$(($(date +%s) - $(stat --format=%Y /run/fortress/owner)))
  answer held owner "$(cat /run/fortress/owner)" age "$age"
fi`
const END_OF_RUN = ['left=$(fk_deadman_end)', '[ -z "$left" ] || answer held left "$left"']
