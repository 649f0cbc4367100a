// What a person does to the machines of a site beside their pages: get to know them, and end a run that hangs.
import type { Machine } from '../engine/machine.ts'
import { plain } from '../engine/program.ts'
import { type Report, createReport, duration } from '../engine/report.ts'
import { onAnswer } from '../engine/wire.ts'
import { Fault } from '../ground/fault.ts'
import { nearest } from '../ground/nearest.ts'
import { loadConfig } from '../site/config.ts'
import { everyMachine } from '../site/machines.ts'
import type { Config } from '../site/model.ts'
import { flags } from './flags.ts'
import { connectTo } from './pages.ts'
import type { Call } from './taskfile.ts'

/** Connects to every machine of the site, and lets a person at a terminal compare a host key that nobody has seen yet. */
export async function trust(call: Call): Promise<number> {
  return visit(call, [], async (machine, report) => {
    const { os, arch, model } = machine.facts
    report.note(`${machine.label} is known: ${[os, arch, model].filter(Boolean).join(', ')}.`)
  })
}

/**
 * Ends the run that holds a machine's lock: on the metal, or on the one that is named. It asks first: a run that is alive loses its
 * work in the middle of a step, and a change of a door that it had not proven yet is taken back by the machine itself, as always.
 */
export async function unlock(call: Call): Promise<number> {
  return visit(call, ['[MACHINE]'], async (machine, report, given) => {
    const { owner, age } = await ask(machine, HELD)
    if (owner === undefined) {
      report.note(`Nobody holds ${machine.label}.`)
      return
    }
    const said = `${owner} has held ${machine.label} for ${duration(Number(age))}.`
    if (!given.yes)
      throw new Fault(`${said} Nothing was done.`, {
        next: `./task unlock${given.words.map((name) => ` ${name}`).join('')} --yes ends that run`,
      })
    const { left } = await ask(machine, END)
    if (left === undefined) report.note(`${said} That run is ended; the next one goes on where it was.`)
    else throw new Fault(`${said} Its processes do not end: ${left}`, { next: 'restart the machine' })
  })
}

const HELD = [
  '[ -e /run/fortress/lock ] || exit 0',
  'flock --nonblock /run/fortress/lock true && exit 0',
  'age=$(($(date +%s) - $(stat --format=%Y /run/fortress/owner)))',
  'answer held owner "$(cat /run/fortress/owner)" age "$age"',
]
const END = ['left=$(fk_deadman_end)', '[ -z "$left" ] || answer held left "$left"']

async function ask(machine: Machine, statements: string[]): Promise<Record<string, string>> {
  let answer: Record<string, string> = {}
  const outcome = await machine.run(
    await plain('unlock', statements, ['guard.sh']),
    onAnswer((values) => (answer = values)),
  )
  if (outcome.code !== 0) throw new Fault(`${machine.label} did not answer`, { said: outcome.stderr })
  return answer
}

type Visit = (machine: Machine, report: Report, given: ReturnType<typeof flags>) => Promise<void>

async function visit(call: Call, words: string[], work: Visit): Promise<number> {
  const given = flags(call, words)
  const config: Config = loadConfig(given.site === undefined ? {} : { site: given.site })
  if (config.env.FK_HOST === undefined)
    throw new Fault('There is no machine: FK_HOST is not set', {
      next: 'FK_HOST=admin@192.0.2.10, in the environment or in .env',
    })
  const report = createReport({ json: given.json, verbose: given.verbose, tty: call.live })
  const terminal = process.stdin.isTTY === true && process.stdout.isTTY === true && !given.json
  const all = everyMachine(config)
  const [name] = given.words
  // A virtual machine may not be there yet, or not any more; and its key was made here, so nobody has to compare it.
  const meant = all.filter((spec) => (name === undefined ? spec.behind === undefined : spec.name === name))
  if (name !== undefined && meant.length === 0) {
    const names = all.map((spec) => spec.name)
    const near = nearest(name, names)
    throw new Fault(
      `the site ${config.site.name} has no machine ${name}${near === undefined ? '' : `; did you mean ${near}?`}`,
      { next: `it has ${names.join(', ')}` },
    )
  }
  for (const spec of meant) {
    const machine = await connectTo(config, spec, terminal, report)
    try {
      await work(machine, report, given)
    } finally {
      await machine.close()
    }
  }
  return 0
}
