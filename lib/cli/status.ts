// ./task status: one screen for a tired admin. What needs attention comes first, with the command that mends it.
// This file asks; the sentences are in concerns.ts, the layout is in screen.ts.
import { plain } from '../engine/program.ts'
import { onAnswer } from '../engine/wire.ts'
import type { Fault } from '../ground/fault.ts'
import { type Note, noteOf } from '../k3s/backup.ts'
import { type Placed, everyMachine, isLaptop } from '../site/machines.ts'
import { abreast, machinesAtOnce } from './abreast.ts'
import { isBuilt, maker } from './absent.ts'
import { connectTo, silentReport } from './access.ts'
import type { Call } from './call.ts'
import { statusOf } from './concerns.ts'
import { hasSteps, placesOf } from './context.ts'
import type { Answers, CertificateState, NodeState } from './health.ts'
import { verdictsIn } from './history.ts'
import type { SitePage } from './layers.ts'
import { screen } from './screen.ts'
import { open, pages } from './scripts.ts'
import { type Session, withSession } from './session.ts'
import { status as table } from './tables.ts'

/** Seconds that are waited for a machine to answer, so that six are enough in all, and then for what it has to say. */
const WAIT = 4
/** Milliseconds after which a machine that is silent does not hold up the others. */
const PATIENCE = 500
const TALK = 30

/** Reads the machines of the site side by side. Exit code: 0 all is well, 1 something is broken, 2 needs attention. */
export const status = (call: Call): Promise<number> =>
  withSession(
    call,
    table,
    async (session) => {
      const { config, needsHost, given, report } = session
      needsHost()
      const began = Date.now()
      const machines = await askAll(session)
      const took = (Date.now() - began) / 1000
      report.pause()
      const found = statusOf(config, {
        pages: pagesOf(session),
        machines,
        verdicts: verdictsIn(config.env.FK_LOG_DIR),
        now: new Date(),
        took,
      })
      const { stdout } = process
      const color = stdout.isTTY === true && stdout.hasColors()
      const columns = (stdout.isTTY === true && stdout.columns) || 80
      stdout.write(given.json ? `${JSON.stringify(found, null, 2)}\n` : screen(found, { color, columns }))
      if (found.concerns.some(({ state }) => state === 'bad')) return 1
      return found.concerns.length > 0 || found.layers.some(({ state }) => state !== 'holds') ? 2 : 0
    },
    { document: true },
  )

/** Asks the hosts side by side, and what is behind one when it has answered. A line says who has not answered yet. */
async function askAll(session: Session): Promise<Answers[]> {
  const { config, report } = session
  const all = everyMachine(config)
  const silent = new Set(all.map(({ name }) => name))
  const show = () => {
    const name = `asking ${[...silent].join(', ')}`
    if (silent.size > 0 && typing.size === 0) report.running({ index: 0, total: 0, name, limit: WAIT })
  }
  /** Machines whose password is asked for, or was: no line is drawn over the question. */
  const typing = new Set<string>()
  const known = new Map<string, Answers>()
  const ask = async (spec: Placed): Promise<Answers> => {
    show()
    const host = known.get(spec.behind ?? '')
    const answers =
      (host && unreached(spec, host)) ?? (await answersOf(session, spec, () => typing.add(spec.name)))
    known.set(spec.name, answers)
    silent.delete(spec.name)
    typing.delete(spec.name)
    show()
    return answers
  }
  return Promise.all(abreast(all, ask, machinesAtOnce, PATIENCE))
}

/** A virtual machine that need not be asked: its host is not reached, or has not made it. */
function unreached({ name }: Placed, host: Answers): Answers | undefined {
  const answers = { name, pages: [], notes: [], way: `via ${host.name}` }
  if (host.silent) return { ...answers, silent: { why: `${host.name} is not reached`, behind: true } }
  return host.absent?.includes(name) ? { ...answers, notBuilt: true } : undefined
}

/** The pages of scripts/ that have something to do on a machine of the site. */
function pagesOf({ config, store }: Session): SitePage[] {
  return pages()
    .map(open)
    .flatMap((page) => {
      const places = placesOf(page, config).filter(
        (spec) => !isLaptop(spec) && hasSteps(page, spec, config, store),
      )
      const machines = places.map(({ name }) => name)
      return machines.length === 0 ? [] : [{ name: page.name, layer: page.layer, machines }]
    })
}

async function answersOf(
  { config, report, terminal }: Session,
  spec: Placed,
  asks: () => void,
): Promise<Answers> {
  const answers: Answers = { name: spec.name, pages: [], notes: [] }
  let machine: Awaited<ReturnType<typeof connectTo>> | undefined
  try {
    const quiet = { ...silentReport(), pause: () => (asks(), report.pause()) }
    machine = await connectTo(config, spec, terminal, quiet, { trust: false, seconds: WAIT })
    const here = machine.label.endsWith('(this computer)')
    answers.way = spec.behind === undefined ? (here ? 'here' : machine.route) : `via ${spec.behind}`
    if (machine.facts.id !== undefined) answers.id = machine.facts.id
    const program = await plain(
      'status',
      ['status_machine', 'status_pages', 'status_k3s', 'status_backup'],
      [
        'put.sh',
        'snapshot.sh',
        'lib/k3s/members.sh',
        'lib/k3s/nodes.sh',
        'lib/host/reboot.sh',
        'lib/cli/status.sh',
      ],
    )
    const outcome = await machine.run(
      program,
      onAnswer((values, name) => take(answers, name, values)),
      TALK,
    )
    if (!outcome.finished)
      answers.silent = {
        why:
          outcome.code === 124
            ? `it did not end its answer within ${TALK} s`
            : outcome.stderr.trim().split('\n').at(-1) || `it ended with ${outcome.code}`,
      }
    // A host whose record does not have the page that makes virtual machines may have one all the same: a printed page made it.
    if (outcome.finished && !answers.pages.some(({ name }) => name === maker))
      for (const guest of everyMachine(config).filter(({ behind }) => behind === spec.name))
        if (!(await isBuilt(machine, guest))) answers.absent = [...(answers.absent ?? []), guest.name]
  } catch (error) {
    const { message, said, next } = error as Partial<Fault> & Error
    const last = said?.trim().split('\n').at(-1)
    answers.silent = {
      // How ssh speaks of a connection that goes through another helps nobody.
      why: [message, last?.includes('UNKNOWN port') ? '' : last].filter(Boolean).join(': '),
      ...(next === undefined ? {} : { next: next.replaceAll('\n', ' ') }),
    }
  } finally {
    await machine?.close()
  }
  return answers
}

const lines = (text = '') => text.split('\n').filter(Boolean)

/** One answer of lib/cli/status.sh. */
export function take(answers: Answers, name: string, values: Record<string, string>): void {
  if (name === 'machine') {
    const { now = '', up, system = '', kernel = '', restart = '', failed = '', full = '' } = values
    if (now !== '') answers.ahead = Math.round(Number(now) - Date.now() / 1000)
    Object.assign(answers, { up: Number(up), system, kernel, restart, failed, full })
  } else if (name === 'page')
    answers.pages.push({ name: values['name'] ?? '', changed: lines(values['changed']) })
  else if (name === 'k3s') answers.k3s = k3sOf(values)
  else if (name === 'nodes') answers.nodes = lines(values['nodes']).map(nodeOf)
  else if (name === 'certificates') answers.certificates = lines(values['certificates']).map(certificateOf)
  else if (name === 'note')
    answers.notes.push(byOurClock(noteOf(`${values['which']}\t${values['line']}`), answers))
}

/** The same moment by the laptop's clock: ages are counted by one clock. */
function byOurClock(note: Note, { ahead = 0 }: Answers): Note {
  const time = Date.parse(note.time) - ahead * 1000
  return Number.isNaN(time) || Math.abs(ahead) < 60 ? note : { ...note, time: new Date(time).toISOString() }
}

function k3sOf(values: Record<string, string>): NonNullable<Answers['k3s']> {
  const { active, version = '', staged, upgrading, certificate, said = '', unfinished } = values
  const [days, path] = certificate?.split(' ') ?? []
  return {
    active: active === 'active',
    version,
    staged: lines(staged),
    ...(upgrading ? { upgrading } : {}),
    ...(days && path ? { certificate: { days: Number(days), path } } : {}),
    said,
    ...(unfinished ? { unfinished } : {}),
  }
}

/** A line of the columns of status_certificates. */
function certificateOf(line: string): CertificateState {
  const [name = '', ready = '', until = '', intermediate = '', why = ''] = line.split('\t')
  // The Secret of an intermediate has no conditions.
  const byApply = intermediate !== ''
  const is = ready === 'True' || byApply
  return { name, until: until || intermediate, why: is ? '' : why || 'it is not ready', byApply }
}

/** A line of the columns of status_nodes. */
function nodeOf(line: string): NodeState {
  const [name = '', version = '', ready = '', reason = '', voter = '', cordoned, away = '', staged = ''] =
    line.split('\t')
  return { name, version, ready, reason, voter, cordoned: cordoned === 'true', away, staged }
}
