// Many pages over the machines of a site, of which some are not built, silent, or broken.
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { NotBuilt, assertBuilt, isBuilt } from '../../lib/cli/absent.ts'
import { PageRun } from '../../lib/cli/pagerun.ts'
import type { Session } from '../../lib/cli/session.ts'
import type { Machine } from '../../lib/engine/machine.ts'
import type { Page } from '../../lib/engine/page.ts'
import { type Mode } from '../../lib/engine/run.ts'
import { createReport } from '../../lib/engine/report.ts'
import type { Demand, Step } from '../../lib/engine/step.ts'
import { Fault } from '../../lib/ground/fault.ts'
import { secretStore } from '../../lib/ground/secret.ts'
import { sh } from '../../lib/ground/sh.ts'
import { loadConfig } from '../../lib/site/config.ts'
import type { Placed } from '../../lib/site/machines.ts'

const config = loadConfig({
  env: { FK_HOST: 'admin@192.0.2.10', FK_STATE_DIR: '/nonexistent' },
  site: 'fortress',
})

/** A machine on which the steps called `bad` never hold, nor do demands called `no`; undo does what it is asked. */
function machineOf({ name, os, arch }: Placed, applied: Set<string>): Machine {
  const machine: Machine = {
    label: `${name} (it)`,
    facts: { name, os, arch, model: '', user: 'admin', via: '' },
    route: 'direct',
    async run(program, onFrame) {
      const page = /FK_PAGE=(\S+)/.exec(program.text)?.[1] ?? ''
      const bad = /fk_check_0\(\) \{\n(false|no)/.test(program.text)
      if (/^fk_check_all '/m.test(program.text)) {
        if (applied.has(page)) onFrame({ kind: 'recorded' })
        onFrame({ kind: 'check', step: 0, phase: 'before', rc: bad || !applied.has(page) ? 1 : 0, found: '' })
      } else if (/^fk_change 0/m.test(program.text)) {
        applied.add(page)
        onFrame(
          bad
            ? { kind: 'end', step: 0, state: 'failed', reason: 'apply', rolledBack: false }
            : { kind: 'end', step: 0, state: 'changed', rolledBack: false },
        )
        onFrame({ kind: 'check', step: 0, phase: 'after', rc: bad ? 1 : 0, found: '' })
      } else if (/^fk_demand 0/m.test(program.text))
        onFrame({ kind: 'end', step: 0, state: 'failed', reason: 'demand', rolledBack: false })
      else if (/^said=.*frame undone done/m.test(program.text))
        onFrame({ kind: 'undone', state: applied.delete(page) ? 'done' : 'nothing', said: '', next: '' })
      return { code: 0, stderr: '', finished: true }
    },
    feed: async () => ({ code: 0, stderr: '', finished: true }),
    reconnect: () => machine,
    switchTo: () => {},
    close: async () => {},
  }
  return machine
}

const page = (name: string, more: Partial<Page> & { step?: Step } = {}): Page => ({
  name,
  file: '',
  summary: 'A page.',
  layer: 'L0',
  on: 'host',
  steps: () => [more.step ?? { name: `fact of ${name}`, check: sh`true`, apply: [sh`true`] }],
  ...more,
})
const bad: Step = { name: 'it is so', check: sh`false`, apply: [sh`false`] }
const demand: Demand = { name: 'a person was here', check: sh`no`, help: 'come' }

async function run(
  mode: Mode,
  pages: Page[],
  { node = 'up' as 'up' | 'absent' | 'dead', applied = [] as string[], chained = false } = {},
) {
  const record = new Set(applied)
  let text = ''
  const report = createReport({
    stdout: { write: (piece: string) => (text += piece) },
    tty: false,
    color: false,
    brief: true,
  })
  const session = {
    config,
    report,
    store: secretStore({ dir: '/nonexistent', identity: '/nonexistent' }),
    state: '/nonexistent',
    terminal: false,
    signal: new AbortController().signal,
    log: undefined,
    connect: async (spec: Placed) => {
      if (spec.behind !== undefined && node === 'absent') throw new NotBuilt(spec.name)
      if (spec.behind !== undefined && node === 'dead') throw new Fault(`${spec.name} does not answer`)
      return machineOf(spec, record)
    },
  } as unknown as Session
  const flags = {
    words: [],
    site: undefined,
    confirm: undefined,
    yes: true,
    json: false,
    verbose: false,
  } as const
  const all = new PageRun(session, 'ssh', pages, mode, { ...flags, words: [] }, chained)
  const code = await all.all()
  report.end(all.end('it'))
  return {
    code,
    text,
    came: all.came.map((one) => `${one.page.name.slice(0, 2)} ${one.result.state}`),
    record,
  }
}

describe('a run over many pages', () => {
  const host = page('00-host')
  const node = page('20-node', { on: 'node' })
  test('names pages of a node that is not built yet as such, and is no failure', async () => {
    const { code, came, text } = await run('plan', [host, node], { node: 'absent' })
    assert.deepEqual([code, came], [2, ['00 change', '20 not built']])
    assert.match(text, /^not built +20-node .*after 13-vm-provision$/m)
    assert.doesNotMatch(text, /failed|UNKNOWN/)
  })
  test('asks what it can reach although a node is silent, and ends with 1', async () => {
    const { code, came, text } = await run('verify', [host, node], { node: 'dead', applied: ['00-host'] })
    assert.deepEqual([code, came], [1, ['00 ok', '20 unknown']])
    assert.match(text, /does not answer/)
  })
  test('undoes what it can reach, newest first, and lists the rest', async () => {
    const { code, came, record, text } = await run('undo', [host, page('05-more'), node], {
      node: 'dead',
      applied: ['00-host', '05-more'],
    })
    assert.deepEqual([code, came], [1, ['20 unknown', '05 changed', '00 changed']])
    assert.deepEqual([...record], [])
    assert.match(text, /2 of 3 pages undone, 1 is left\n +unknown +20 /)
  })
  test('says of a page that comes later what only a person mends, and nothing of what another page does', async () => {
    const need = (help: string) =>
      page('10-vm', { needs: ['00-host'], step: { ...demand, name: 'the processor supports it', help } })
    const { came, text } = await run('plan', [host, need('switch it on in the firmware')])
    assert.deepEqual(came, ['00 change', '10 later'])
    assert.match(text, /^Plan for it: 1 to change, 0 hold, 1 needs you first$/m)
    assert.match(
      text,
      /after 00-host; not so now: the processor supports it\n +switch it on in the firmware$/m,
    )
    const other = await run('plan', [host, need('./task vm-host apply')])
    assert.match(other.text, /^ +later +10 +after 00-host$/m)
    assert.doesNotMatch(other.text, /processor|needs you/)
  })
  test('passes over what was never built when it undoes', async () => {
    const { code, came } = await run('undo', [host, page('05-more'), node], {
      node: 'absent',
      applied: ['00-host'],
    })
    assert.deepEqual([code, came], [0, ['20 -', '05 -', '00 changed']])
  })
  test('goes on after a failure, but for the pages that need what failed', async () => {
    const pages = [page('00-host', { step: bad }), page('05-free'), page('06-on', { needs: ['00-host'] })]
    const { code, came, text } = await run('apply', [...pages, page('07-far', { needs: ['06-on'] })])
    assert.deepEqual([code, came], [1, ['00 failed', '05 changed', '06 later', '07 later']])
    assert.match(text, /later +06-on +fortress +after 00-host$/m)
  })
  test('the parts of one piece of work end at the first that is not done', async () => {
    const pages = [page('node-leave', { step: demand }), page('node-stop'), page('node-forget')]
    const { code, came, record } = await run('apply', pages, { chained: true })
    assert.deepEqual([code, came], [1, ['no blocked', 'no later', 'no later']])
    assert.deepEqual([...record], [])
  })
  test('what waits for a person, or cannot go on, is no failure', async () => {
    const pages = [page('05-key', { step: { ...demand, person: {} } }), page('10-cpu', { step: demand })]
    const { code, came, text } = await run('apply', pages)
    assert.deepEqual([code, came], [1, ['05 your turn', '10 blocked']])
    assert.doesNotMatch(text, /failed/)
    assert.equal((await run('apply', pages.slice(0, 1))).code, 2)
    assert.equal((await run('plan', pages)).code, 2)
  })
  test('a plan calls later what a page before it will provide', async () => {
    const { came } = await run('plan', [host, page('12-dir', { step: demand, needs: ['00-host'] })])
    assert.deepEqual(came, ['00 change', '12 later'])
  })
  test('says of a page that was never applied that it is not built, when it is verified', async () => {
    const { code, came } = await run('verify', [host])
    assert.deepEqual([code, came], [2, ['00 not built']])
  })
})

describe('whether a virtual machine exists', () => {
  const inner: Placed = { name: 'inner', address: '10.77.0.2', roles: [], os: 'flatcar', arch: 'amd64' }
  const hostOf = (answers: Record<string, string>) =>
    ({
      label: 'fortress',
      run: async (_: unknown, onFrame: (frame: object) => void) => {
        onFrame({
          kind: 'answer',
          name: 'node',
          values: { record: '', domain: '', said: '', answers: '', ...answers },
        })
        return { code: 0, stderr: '', finished: true }
      },
    }) as unknown as Machine
  const ask = (answers: Record<string, string>) => assertBuilt(hostOf(answers), inner)
  test('where nobody can say, it counts as there, and is asked itself', async () => {
    const mute = { label: 'fortress', run: async () => ({ code: 255, stderr: 'gone', finished: false }) }
    assert.equal(await isBuilt(mute as unknown as Machine, inner), true)
    assert.equal(await isBuilt(hostOf({ domain: 'shut off' }), inner), true)
    assert.equal(await isBuilt(hostOf({}), inner), false)
  })
  test('is known by libvirt, by the record of its host, or by what answers', async () => {
    await assert.rejects(ask({}), NotBuilt)
    await assert.rejects(ask({ record: 'yes', said: "error: failed to get domain 'inner'" }), NotBuilt)
    await assert.rejects(ask({ domain: 'shut off' }), /inner is shut off on fortress/)
    await ask({ domain: 'running' })
    await ask({ answers: 'yes' })
    await ask({ record: 'yes', said: 'error: failed to connect to the hypervisor' })
  })
})
