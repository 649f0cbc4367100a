// Pages whose steps run on the laptop, run for real: the record lies on the laptop, and a transaction is rolled back from it.
import assert from 'node:assert/strict'
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, test } from 'node:test'
import { file } from '../../lib/engine/file.ts'
import { type Machine, connect } from '../../lib/engine/machine.ts'
import type { Page } from '../../lib/engine/page.ts'
import { applyProgram } from '../../lib/engine/program.ts'
import { createReport } from '../../lib/engine/report.ts'
import { type Mode, type Running, runPage } from '../../lib/engine/run.ts'
import type { Step } from '../../lib/engine/step.ts'
import { sh } from '../../lib/ground/sh.ts'

let dir: string
let machine: Machine
const at = (name: string) => join(dir, name)
const record = (name = '') => join(dir, 'record', name)

beforeEach(async () => {
  dir = mkdtempSync(join(tmpdir(), 'fk-test-'))
  machine = await connect({
    name: 'api',
    target: 'local',
    rootless: record(),
    environment: { KUBECONFIG: at('kubeconfig') },
    password: () => Promise.reject(new Error('nobody is root here')),
    interactive: false,
  })
})
afterEach(async () => {
  await machine.close()
  rmSync(dir, { recursive: true, force: true })
})

async function run(steps: Step[], mode: Mode, on: Page['on'] = 'api', wait = 11) {
  const lines: string[] = []
  const report = createReport({ stdout: { write: (text) => lines.push(text) }, tty: false, color: false })
  const page = { name: '50-api', summary: '', file: '', layer: 'L2', on, steps: () => steps } as Page
  const store = {} as Running['store']
  const { code } = await runPage(page, steps, mode, {
    machine,
    report,
    store,
    rollbackAfter: wait,
    lockWait: 0,
  })
  return { code, text: lines.join('') }
}

/** A release that a program of the laptop installs somewhere, which is a file here. */
const release = (name: string, more: Partial<Step> = {}): Step =>
  ({
    name: `${name} is installed`,
    check: sh`test -e ${at(name)}`,
    apply: [sh`echo "$KUBECONFIG" > ${at(name)}`],
    undo: [sh`rm ${at(name)} && echo ${name} >> ${at('undone')}`],
    ...more,
  }) as Step
const guarded = { transaction: { kind: 'policies' } }
const undone = () => (existsSync(at('undone')) ? readFileSync(at('undone'), 'utf8').trim().split('\n') : [])

for (const on of ['laptop', 'api'] as const)
  test(`undo of a page for the ${on} restores what it wrote, and runs the commands that undo the rest`, async () => {
    writeFileSync(at('values.yaml'), 'old: true\n', { mode: 0o640 })
    const steps = [
      file(at('values.yaml'), { text: 'new: true\n', mode: '600' }),
      file(at('more/new.yaml'), { text: 'new: true\n' }),
      release('one'),
      release('two'),
    ]
    assert.equal((await run(steps, 'apply', on)).code, 0)
    assert.equal(readFileSync(at('values.yaml'), 'utf8'), 'new: true\n')
    assert.equal(readFileSync(at('one'), 'utf8').trim(), at('kubeconfig'))
    assert.ok(existsSync(record('pages/50-api')))
    assert.equal((await run(steps, 'verify', on)).code, 0)
    assert.equal((await run(steps, 'undo', on)).code, 0)
    assert.equal(readFileSync(at('values.yaml'), 'utf8'), 'old: true\n')
    assert.ok(!existsSync(at('more/new.yaml')))
    assert.deepEqual(undone(), ['two', 'one'])
    assert.match((await run(steps, 'undo', on)).text, /there is nothing of it/)
  })

test('an undo whose commands fail keeps the record, and goes on from it', async () => {
  const steps = [file(at('values.yaml'), { text: 'new: true\n' }), release('one')]
  await run(steps, 'apply')
  rmSync(at('one'))
  const failed = await run(steps, 'undo')
  assert.equal(failed.code, 1)
  assert.match(failed.text, /one is installed: rm: [\s\S]*its record is kept/)
  assert.ok(existsSync(at('values.yaml')))
  writeFileSync(at('one'), '')
  assert.equal((await run(steps, 'undo')).code, 0)
  assert.ok(!existsSync(at('values.yaml')))
})

describe('a transaction of the laptop', () => {
  test('is confirmed when its checks hold in a program of their own, and leaves the record of its page alone', async () => {
    const steps = [release('one', guarded), release('two', guarded)]
    const { code, text } = await run(steps, 'apply')
    assert.equal(code, 0, text)
    assert.deepEqual(undone(), [])
    assert.ok(!existsSync(record('tx')))
    assert.equal((await run(steps, 'undo')).code, 0)
    assert.deepEqual(undone(), ['two', 'one'])
  })

  test('is rolled back when a step fails: the newest first, with its files, and no step of before', async () => {
    writeFileSync(at('values.yaml'), 'old: true\n')
    const steps = [
      release('before'),
      file(at('values.yaml'), { text: 'new: true\n', ...guarded }),
      release('one', guarded),
      release('two', { ...guarded, apply: [sh`touch ${at('two')}`, sh`false`] }),
    ]
    assert.equal((await run(steps, 'apply')).code, 1)
    assert.deepEqual(undone(), ['two', 'one'])
    assert.equal(readFileSync(at('values.yaml'), 'utf8'), 'old: true\n')
    assert.ok(!existsSync(record('tx')))
    assert.equal(readFileSync(record('pages/50-api/steps'), 'utf8'), 'before is installed\n')
  })

  test('is rolled back when it cuts off what it stands on: its checks hold for the run alone that made it', async () => {
    const twice = sh`test -e ${at('one')} && echo >> ${at('checks')} && test "$(wc --lines < ${at('checks')})" -lt 2`
    const { code, text } = await run([release('one', { ...guarded, check: twice })], 'apply')
    assert.equal(code, 1)
    assert.match(text, /the checks of these steps, once more[\s\S]*these steps are rolled back/)
    assert.deepEqual(undone(), ['one'])
    assert.ok(!existsSync(record('tx')))
  })

  test('whose run dies in the middle is rolled back at once', async () => {
    // Each command is run by timeout(1), in a subshell of the program.
    const killing = release('two', {
      ...guarded,
      apply: [sh`kill -KILL "$(ps -o ppid= -p "$(ps -o ppid= -p "$PPID" | xargs)" | xargs)"`],
    })
    const { code, text } = await run([release('one', guarded), killing], 'apply')
    assert.equal(code, 1)
    assert.match(text, /died before its end[\s\S]*these steps are rolled back/)
    assert.deepEqual(undone(), ['one'])
    assert.ok(!existsSync(record('tx')))
  })

  test('that nobody came to confirm is rolled back by the next run, and a plan says so', async () => {
    const steps = [release('one', guarded)].map((step, index) => ({ step, index }))
    const page = { page: '50-api', shell: { on: 'api' as const }, steps, all: [], owner: 'ada@laptop' }
    const program = await applyProgram({ ...page, transaction: { id: '50-api-x', seconds: 60 } })
    assert.ok((await machine.run(program, () => {})).finished)
    assert.ok(existsSync(at('one')))
    assert.match((await run([release('two')], 'plan')).text, /50-api made a change that is not confirmed/)
    const { text } = await run([release('two')], 'apply')
    assert.match(text, /an unconfirmed change of an earlier run was rolled back/)
    assert.deepEqual(undone(), ['one'])
    assert.ok(!existsSync(at('one')))
    assert.ok(!existsSync(record('tx')))
  })
})
