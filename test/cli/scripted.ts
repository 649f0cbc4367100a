// Runs over the real pages of a site against machines that answer as a test says, kept as what was reported. The steps, states,
// sums and ends are those of the product; only what a machine would say is made up.
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { NotBuilt } from '../../lib/cli/absent.ts'
import { contextOf, declaredFacts, storeOf } from '../../lib/cli/context.ts'
import { runOn } from '../../lib/cli/pages.ts'
import { open, pages } from '../../lib/cli/scripts.ts'
import type { Session } from '../../lib/cli/session.ts'
import type { RunFlags } from '../../lib/cli/tables.ts'
import type { Machine } from '../../lib/engine/machine.ts'
import type { Page } from '../../lib/engine/page.ts'
import { type Out, type Report, createReport } from '../../lib/engine/report.ts'
import type { Mode } from '../../lib/engine/run.ts'
import { type Step, isDemand, isWait } from '../../lib/engine/step.ts'
import type { Frame } from '../../lib/engine/wire.ts'
import { Fault } from '../../lib/ground/fault.ts'
import { loadConfig } from '../../lib/site/config.ts'
import type { Placed } from '../../lib/site/machines.ts'
import type { Config } from '../../lib/site/model.ts'

/** What a machine says of a step whose name matches, other than that it is as its page leaves it. */
export interface Says {
  step: RegExp
  /** Of the step's own check: 0 holds. */
  rc?: number
  found?: string
  /** Of its controls, by their ids. */
  controls?: Record<string, [rc: number, found: string]>
  /** Its commands end with this. */
  fails?: string
  /** A person has done it when it was asked for so many times. */
  after?: number
}

export interface Scene {
  mode: Mode
  /** Pages by their numbers; all of the site's without it. */
  only?: string[]
  /** One page, as `./task PAGE MODE`. */
  one?: true
  flags?: Partial<RunFlags>
  /** Numbers of the pages that the machines have a record of. */
  applied?: string[]
  says?: Says[]
  /** Names of machines that are not there, or do not answer. */
  absent?: string[]
  silent?: Record<string, { why: string; next: string }>
  /** Typed at the terminal, one answer a question. */
  answers?: string[]
}

/** All that was reported, and what was asked, in order. */
export type Recording = ((report: Report, out: Out) => void)[]

/** Plays a scene once. */
export async function record(scene: Scene): Promise<{ code: number; shown: Recording }> {
  const dir = mkdtempSync(join(tmpdir(), 'fk-scene-'))
  try {
    const config = loadConfig({
      env: {
        FK_HOST: 'admin@192.0.2.10',
        FK_STATE_DIR: dir,
        FK_AGE_IDENTITY: join(dir, 'identity'),
      },
      site: 'fortress',
    })
    const shown: Recording = []
    // The laptop's directory has another name each time.
    const plain = <T>(value: T): T =>
      JSON.parse(
        JSON.stringify(value)
          .replaceAll(dir, 'secrets')
          .replaceAll(/wg\+[a-z+]+\/+A=/g, 'KEY'),
      ) as T
    const report = new Proxy(createReport({ stdout: { write: () => true } }), {
      get:
        (_, name: keyof Report) =>
        (...words: unknown[]) =>
          void shown.push((to) => (to[name] as (...all: unknown[]) => void)(...plain(words))),
    })
    const store = storeOf(config)
    const machines = new Map<string, Machine>()
    const applied = new Set((scene.applied ?? []).map((number) => nameOf(number)))
    const session: Session = {
      config,
      state: join(dir, 'fortress'),
      store,
      report,
      terminal: scene.answers !== undefined,
      signal: new AbortController().signal,
      log: 'out/log/2026-11-21T15-23-00-000Z-4711.ndjson',
      needsHost: () => {},
      close: async () => {},
      connect: async (spec) => {
        if (scene.absent?.includes(spec.name)) throw new NotBuilt(spec.name)
        if (spec.name === 'api' && scene.absent !== undefined && scene.absent.length > 0)
          throw new NotBuilt('this laptop has no kubeconfig of fortress', '20-k3s-server', 'fetches it')
        // The API is behind the tunnel that a machine which does not answer is behind.
        const silent = scene.silent?.[spec.name === 'api' ? Object.keys(scene.silent)[0]! : spec.name]
        if (silent !== undefined) throw new Fault(silent.why, { next: silent.next })
        const machine = machines.get(spec.name) ?? machineOf(spec, { scene, config, applied })
        machines.set(spec.name, machine)
        return machine
      },
    }
    const answers = [...(scene.answers ?? [])]
    const ask = async (query: string) => {
      const answer = answers.shift() ?? ''
      shown.push((_, out) => out.write(`${plain(query)}${answer}\n`))
      return answer
    }
    const chosen = pages().filter(({ number }) => scene.only?.includes(number) ?? true)
    const flags = { words: [], site: undefined, confirm: undefined, yes: false, json: false, verbose: false }
    const given = { ...flags, ...scene.flags } as RunFlags
    const runbook = scene.one ? undefined : pages().length
    const code = await runOn(session, chosen.map(open), scene.mode, given, runbook, ask)
    return { code, shown }
  } finally {
    rmSync(dir, { recursive: true, force: true })
  }
}

const nameOf = (number: string): string => {
  const page = pages().find((one) => one.number === number)
  return `${page?.number}-${page?.name}`
}

interface World {
  scene: Scene
  config: Config
  /** Names of the pages that are recorded. */
  applied: Set<string>
}

function machineOf(spec: Placed, world: World): Machine {
  const { config, applied, scene } = world
  const facts = { ...declaredFacts(spec, config), name: spec.name }
  const asked = new Map<string, number>()
  const stepsOf = (name: string): Step[] => {
    const file = pages().find(({ number }) => number === name.slice(0, 2))
    const page = file && (open(file) as Page)
    return page?.steps(contextOf(config, facts, storeOf(config))) ?? []
  }
  const says = (step: Step) => scene.says?.find((one) => one.step.test(step.name))
  const check = (name: string, step: Step, index: number, done: boolean, onFrame: (frame: Frame) => void) => {
    const say = says(step)
    const key = `${name} ${index}`
    const times = (asked.get(key) ?? 0) + 1
    asked.set(key, times)
    const over = say?.after !== undefined && times > say.after
    const holds = done || isDemand(step) || isWait(step)
    const phase = done ? 'after' : 'before'
    const rc = over ? 0 : (say?.rc ?? (holds ? 0 : 1))
    onFrame({ kind: 'check', step: index, phase, rc, found: say?.found ?? '' })
    for (const [control, { id }] of (step.controls ?? []).entries()) {
      const [of = rc === 0 ? 0 : 1, found = ''] = say?.controls?.[id] ?? []
      onFrame({ kind: 'control', step: index, phase, control, rc: of, found })
    }
    return rc
  }
  const call = (name: string, steps: Step[], line: string, onFrame: (frame: Frame) => void): boolean => {
    const index = Number(/^fk_\w+ (\d+)/.exec(line)?.[1])
    const step = steps[index] as Step
    const end = (state: 'ok' | 'ready' | 'changed' | 'failed', reason?: 'demand' | 'apply') =>
      onFrame({ kind: 'end', step: index, state, rolledBack: false, ...(reason ? { reason } : {}) })
    if (line.startsWith('fk_change')) {
      onFrame({ kind: 'run', step: index, command: 0 })
      const text = says(step)?.fails
      if (text === undefined) {
        check(name, { ...step, name: '' }, index, true, onFrame)
        end('changed')
        return true
      }
      onFrame({ kind: 'said', step: index, command: 0, rc: 100, text })
      end('failed', 'apply')
      return false
    }
    const rc = check(name, step, index, applied.has(name), onFrame)
    if (rc === 0) end(isWait(step) ? 'ready' : 'ok')
    else end('failed', 'demand')
    return rc === 0
  }
  const machine: Machine = {
    label: `${spec.name} (${spec.behind === undefined ? 'admin@192.0.2.10' : 'core@10.77.0.2'})`,
    facts,
    route: 'direct',
    async run({ text }, onFrame) {
      const name = /FK_PAGE=(\S+)/.exec(text)?.[1] ?? ''
      const steps = stepsOf(name)
      const transaction = /^FK_TX=(\S+) FK_DEADMAN=(\d+)/m.exec(text)
      if (/^frame commit /m.test(text)) onFrame({ kind: 'commit', state: 'committed', said: '' })
      else if (/frame undone done/.test(text)) {
        const state = applied.delete(name) ? 'done' : 'nothing'
        if (state === 'done' && transaction?.[1] !== "''")
          onFrame({ kind: 'armed', transaction: transaction?.[1] ?? '', seconds: 180 })
        onFrame({ kind: 'undone', state, said: '', next: '' })
      } else if (/^fk_check_all '/m.test(text)) {
        if (applied.has(name)) onFrame({ kind: 'recorded' })
        for (const [, index] of /^fk_check_all ('.*)$/m.exec(text)?.[1]?.matchAll(/'(\d+) \d+'/g) ?? [])
          check(name, steps[Number(index)] as Step, Number(index), applied.has(name), onFrame)
      } else {
        if (transaction?.[1] !== "''")
          onFrame({ kind: 'armed', transaction: transaction?.[1] ?? '', seconds: 180 })
        const calls = text.match(/^fk_(?:change|demand|wait) \d+ .*$/gm) ?? []
        const held = calls.every((line) => call(name, steps, line, onFrame))
        if (held) applied.add(name)
      }
      return { code: 0, stderr: '', finished: true }
    },
    feed: async () => ({ code: 0, stderr: '', finished: true }),
    reconnect: () => machine,
    switchTo: () => {},
    close: async () => {},
  }
  return machine
}

/** How a terminal ends up when all of this was written to it: lines that were redrawn are gone. */
export function settled(written: string): string {
  let lines: string[] = ['']
  // oxlint-disable-next-line no-control-regex -- what lib/engine/paper.ts writes to redraw its live lines
  for (const piece of written.split(/(\u001b\[\d+A\r\u001b\[J|\n)/)) {
    // oxlint-disable-next-line no-control-regex -- as above
    const up = /^\u001b\[(\d+)A/.exec(piece)?.[1]
    if (up !== undefined) lines = [...lines.slice(0, -1 - Number(up)), '']
    else if (piece === '\n') lines.push('')
    else lines.push(`${lines.pop()}${piece}`)
  }
  return lines.join('\n')
}
