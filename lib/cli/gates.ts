// ./task gates: what only a person can do, and what of it is done.
import { readFileSync } from 'node:fs'
import { issuersOf } from '../component/issuers.ts'
import { Fault } from '../ground/fault.ts'
import { question } from '../ground/laptop.ts'
import { confirmedGates, gatesOf, noteGate } from '../site/gates.ts'
import type { Site } from '../site/model.ts'
import type { Call } from './call.ts'
import { named, withSession } from './session.ts'
import { gates as table } from './tables.ts'

/**
 * The secret that somebody gives by an ID: that of the gate, or one that a page waits for. Nothing else: a key that the kit has
 * made would be replaced.
 */
function givable(site: Site, id: string): string {
  const own = site.gates.find((gate) => gate.id === id)?.gives
  if (own !== undefined) return own
  const awaited = issuersOf(site).flatMap(({ acme }) => acme?.secret ?? [])
  const all = [...new Set([...site.gates.flatMap(({ gives }) => gives ?? []), ...awaited])]
  const none = 'no gate of it gives one, and no page waits for one'
  return named(
    all.map((name) => ({ name })),
    id,
    site.name,
    'secret to give called',
    none,
  ).name
}

/**
 * `./task gates` lists them; `./task gates confirm ID` notes that one is done, and `./task gates give ID` stores the secret that
 * it gives. Exit code: 0 all are done, 2 not all.
 */
export const gates = (call: Call): Promise<number> =>
  withSession(
    call,
    table,
    async ({ config: { site }, store, state, given, terminal }) => {
      const [action, id] = given.words
      if (action === 'give') {
        if (id === undefined) throw new Fault('gates give needs an ID', { next: './task gates lists them' })
        const name = givable(site, id)
        const asked = terminal ? question(`${name}: `, { hidden: true }) : readFileSync(0, 'utf8')
        const value = (await asked).trim()
        if (value === '') throw new Fault('nothing was given', { state: 'nothing was stored' })
        await store.put(name, value)
        process.stdout.write(`${name} is stored, encrypted.\n`)
        return 0
      }
      const known = {
        has: (name: string) => store.has(name),
        confirmed: confirmedGates(state),
        now: new Date(),
      }
      if (action === 'confirm') {
        if (id === undefined)
          throw new Fault('gates confirm needs an ID', { next: './task gates lists them' })
        const { name } = named(
          site.gates.map((gate) => ({ name: gate.id })),
          id,
          site.name,
          'gate',
          'it has no gates',
        )
        const [found] = gatesOf(site, known).filter(({ gate }) => gate.id === name)
        if (found?.missing) throw new Fault(`${name} is not done: ${found.found}`, { next: found.gate.what })
        await noteGate(state, name, known.now)
        process.stdout.write(`${name} is noted as done on ${known.now.toISOString().slice(0, 10)}.\n`)
        return 0
      }
      const all = gatesOf(site, known)
      if (given.json) process.stdout.write(`${JSON.stringify(all, null, 2)}\n`)
      else if (all.length === 0)
        process.stdout.write(`${site.name} has no gates: nothing waits for a person.\n`)
      else
        for (const { gate, state: is, found } of all)
          process.stdout.write(
            `${is === 'done' ? 'done     ' : 'your turn'}  ${gate.id}, before ${gate.needed_by}: ${gate.what}\n` +
              `             ${found}\n`,
          )
      return all.every((one) => one.state === 'done') ? 0 : 2
    },
    { document: true },
  )
