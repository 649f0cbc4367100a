// ./task status: one screen for a tired admin. What needs attention comes first, with the command that mends it.
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { plain } from '../engine/program.ts'
import { onAnswer } from '../engine/wire.ts'
import type { Fault } from '../ground/fault.ts'
import { noteOf } from '../k3s/backup.ts'
import { type Placed, everyMachine } from '../site/machines.ts'
import { connectTo, silentReport } from './access.ts'
import type { Call } from './call.ts'
import { statusOf } from './concerns.ts'
import type { Answers, NodeState, Verdict } from './health.ts'
import { screen } from './screen.ts'
import { type Session, withSession } from './session.ts'
import { status as table } from './tables.ts'

/** Reads every machine of the site at once. Exit code: 0 all is well, 1 something is broken, 2 needs attention. */
export const status = (call: Call): Promise<number> =>
  withSession(
    call,
    table,
    async (session) => {
      const { config, needsHost, terminal, given } = session
      needsHost()
      const all = everyMachine(config)
      const machines: Answers[] = []
      // On a terminal one password can be typed at a time.
      const asks = terminal && config.env.FK_SUDO_PASSWORD_FILE === undefined
      if (asks) for (const spec of all) machines.push(await answersOf(session, spec, true))
      else machines.push(...(await Promise.all(all.map((spec) => answersOf(session, spec, false)))))
      const found = statusOf(config, machines, verdictsIn(config.env.FK_LOG_DIR), new Date())
      const color = process.stdout.isTTY === true && process.stdout.hasColors()
      process.stdout.write(given.json ? `${JSON.stringify(found, null, 2)}\n` : screen(found, { color }))
      return found.concerns.some(({ state }) => state === 'bad') ? 1 : found.concerns.length > 0 ? 2 : 0
    },
    { document: true },
  )

async function answersOf({ config }: Session, spec: Placed, terminal: boolean): Promise<Answers> {
  const answers: Answers = { name: spec.name, pages: [], notes: [] }
  let machine: Awaited<ReturnType<typeof connectTo>> | undefined
  try {
    machine = await connectTo(config, spec, terminal, silentReport())
    const program = await plain(
      'status',
      ['status_machine', 'status_pages', 'status_k3s', 'status_backup'],
      ['put.sh', 'snapshot.sh', 'lib/k3s/members.sh', 'lib/k3s/nodes.sh', 'lib/cli/status.sh'],
    )
    const outcome = await machine.run(
      program,
      onAnswer((values, name) => take(answers, name, values)),
      60,
    )
    if (!outcome.finished)
      answers.silent = {
        why:
          outcome.code === 124
            ? 'it did not answer within a minute'
            : outcome.stderr.trim().split('\n').at(-1) || `it ended with ${outcome.code}`,
      }
  } catch (error) {
    const { message, said, next } = error as Partial<Fault> & Error
    answers.silent = {
      why: [message, said?.trim().split('\n').at(-1)].filter(Boolean).join(': '),
      ...(next === undefined ? {} : { next }),
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
    const { up, system = '', kernel = '', restart = '', failed = '', full = '' } = values
    Object.assign(answers, { up: Number(up), system, kernel, restart, failed, full })
  } else if (name === 'page')
    answers.pages.push({ name: values['name'] ?? '', changed: lines(values['changed']) })
  else if (name === 'k3s') answers.k3s = k3sOf(values)
  else if (name === 'nodes') answers.nodes = lines(values['nodes']).map(nodeOf)
  else if (name === 'note') answers.notes.push(noteOf(`${values['which']}\t${values['line']}`))
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

/** A line of the columns of status_nodes. */
function nodeOf(line: string): NodeState {
  const [name = '', version = '', ready = '', reason = '', voter = '', cordoned, away = '', staged = ''] =
    line.split('\t')
  return { name, version, ready, reason, voter, cordoned: cordoned === 'true', away, staged }
}

/** The last result of each page and machine in the run logs of this laptop; of many logs the newest `most` are read. */
export function verdictsIn(dir: string, most = 100): Verdict[] {
  if (!existsSync(dir)) return []
  const found = new Map<string, Verdict>()
  const files = readdirSync(dir)
    .filter((name) => name.endsWith('.ndjson'))
    .sort()
    .toReversed()
  for (const file of files.slice(0, most)) {
    let page: { name: string; layer: string; mode: string; machine: string } | undefined
    for (const line of lines(readFileSync(join(dir, file), 'utf8'))) {
      let event: Record<string, unknown>
      try {
        event = JSON.parse(line) as Record<string, unknown>
      } catch {
        continue // the end of a run that was killed
      }
      if (event['event'] === 'page') page = event as unknown as typeof page
      if (event['event'] !== 'summary' || !page?.machine || page.mode === 'plan') continue
      const machine = page.machine.replace(/ \(.*$/, '')
      const key = `${page.name} ${machine}`
      const verdict: Verdict = {
        page: page.name,
        machine,
        layer: page.layer,
        mode: page.mode,
        time: String(event['time']),
        failed: Number(event['failed'] ?? 0),
        pending: Number(event['pending'] ?? 0),
      }
      const known = found.get(key)
      if (known === undefined || known.time < verdict.time) found.set(key, verdict)
    }
  }
  return [...found.values()].sort((a, b) => (a.page < b.page ? -1 : 1))
}
