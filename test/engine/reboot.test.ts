// A step that reboots its machine, with a machine that starts anew when it is told to, or does not.
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import type { Machine } from '../../lib/engine/machine.ts'
import type { Page } from '../../lib/engine/page.ts'
import type { Program } from '../../lib/engine/program.ts'
import { comesBack } from '../../lib/engine/reboot.ts'
import { createReport } from '../../lib/engine/report.ts'
import { runPage } from '../../lib/engine/run.ts'
import type { Change, Step } from '../../lib/engine/step.ts'
import type { Frame } from '../../lib/engine/wire.ts'
import { sh } from '../../lib/ground/sh.ts'
import { Stopped } from '../../lib/ground/stop.ts'

/** A machine that answers with these starts, one try after another, and with the last one from then on; '' is silence. */
function fake(boots: string[], { via = '192.0.2.9', holds = (): boolean => false } = {}) {
  const said: string[] = []
  let applied = false
  const machine: Machine = {
    label: 'box (admin@192.0.2.1)',
    facts: { name: 'box', os: 'debian-13', arch: 'amd64', model: '', user: 'admin', via },
    route: 'direct',
    run: async (program: Program, onFrame: (frame: Frame) => void) => {
      if (program.text.includes('answer boot id')) {
        const id = boots.length > 1 ? boots.shift() : boots[0]
        said.push(`boot ${id || '-'}`)
        if (id) onFrame({ kind: 'answer', name: 'boot', values: { id } } as unknown as Frame)
        return { code: id ? 0 : 255, stderr: id ? '' : 'No route to host', finished: Boolean(id) }
      }
      const call = /^fk_change (\d+) .*$/m.exec(program.text)?.[0] ?? ''
      said.push(call === '' ? 'check' : call.endsWith(' later') ? 'apply later' : 'apply')
      if (call === '')
        onFrame({
          kind: 'check',
          step: 0,
          phase: 'before',
          rc: applied && holds() ? 0 : 101,
          found: 'kernel',
        })
      else onFrame({ kind: 'end', step: 0, state: 'changed', rolledBack: false } as Frame)
      if (call !== '') applied = true
      return { code: 0, stderr: '', finished: true }
    },
    feed: () => Promise.reject(new Error('nothing is fed')),
    reconnect: () => machine,
    switchTo: () => {},
    close: async () => void said.push('close'),
  }
  return { machine, said }
}

const silent = () => {
  const lines: string[] = []
  return {
    lines,
    report: createReport({ stdout: { write: (text) => lines.push(text) }, tty: false, color: false }),
  }
}

describe('a machine that starts anew', () => {
  test('is back when it answers in another start', async () => {
    const { machine } = fake(['one', '', '', 'two'])
    const { report } = silent()
    assert.equal(await comesBack({ machine, report }, 'it is new', 'one', 60), undefined)
  })

  test('and does not go down: that is another fault than one that does not come back', async () => {
    const { report } = silent()
    const up = await comesBack({ machine: fake(['one']).machine, report }, 'it is new', 'one', 1)
    assert.match(up?.state ?? '', /has not gone down/)
    const down = await comesBack({ machine: fake(['one', '']).machine, report }, 'it is new', 'one', 3)
    assert.match(down?.state ?? '', /it went down, and nobody knows/)
    assert.equal(down?.said, 'No route to host')
  })

  test('is waited for no longer than somebody wants', async () => {
    const stop = new AbortController()
    stop.abort()
    const { report } = silent()
    await assert.rejects(
      comesBack({ machine: fake(['one']).machine, report, signal: stop.signal }, 'it is new', 'one', 60),
      Stopped,
    )
  })
})

describe('a step that reboots its machine', () => {
  const step: Change = { name: 'it is new', check: sh`new_enough`, apply: [sh`reboot_soon`], reboots: 3 }
  const run = async (machine: Machine, mode: 'apply' | 'verify' = 'apply') => {
    const { lines, report } = silent()
    const steps: Step[] = [step]
    const page: Page = { name: '09-new', summary: '', file: '', layer: 'L0', on: 'host', steps: () => steps }
    const store = {} as Parameters<typeof runPage>[3]['store']
    const result = await runPage(page, steps, mode, {
      machine,
      report,
      store,
      rollbackAfter: 60,
      lockWait: 0,
    })
    return { ...result, text: lines.join('') }
  }

  test('is checked when the machine is back, and not before', async () => {
    const { machine, said } = fake(['one', '', 'two'], { holds: () => true })
    const { code, changed, text } = await run(machine)
    assert.equal(code, 0, text)
    assert.equal(changed, 1)
    assert.deepEqual(said, [
      'check',
      'boot one',
      'apply later',
      'close',
      'boot -',
      'boot two',
      'close',
      'check',
    ])
  })

  test('fails where the reboot did not help, and where nobody came back', async () => {
    const useless = await run(fake(['one', 'two']).machine)
    assert.equal(useless.code, 1, useless.text)
    assert.match(useless.text, /its commands ran, and it does not hold/)
    const lost = await run(fake(['one', '']).machine)
    assert.equal(lost.code, 1, lost.text)
    assert.match(lost.text, /it went down, and nobody knows whether it is up again/)
  })

  test('never reboots the computer that the run is on', async () => {
    const { machine, said } = fake(['one'], { via: '' })
    const { code, text } = await run(machine)
    assert.equal(code, 1, text)
    assert.match(text, /run it from another computer/)
    assert.deepEqual(said, ['check'])
  })
})
