// The order of work, with a machine that does what its steps say.
import assert from 'node:assert/strict'
import { getEventListeners } from 'node:events'
import { gzipSync } from 'node:zlib'
import { describe, test } from 'node:test'
import type { Machine } from '../../lib/engine/machine.ts'
import type { Page } from '../../lib/engine/page.ts'
import type { Program } from '../../lib/engine/program.ts'
import { createReport } from '../../lib/engine/report.ts'
import { type Running, batches, runPage } from '../../lib/engine/run.ts'
import type { Change, Route, Step, Transaction } from '../../lib/engine/step.ts'
import type { Frame } from '../../lib/engine/wire.ts'
import { sh } from '../../lib/ground/sh.ts'

const change = (name: string, more: Partial<Change> = {}): Change => ({
  name,
  check: sh`false`,
  apply: [sh`true`],
  ...more,
})
const guarded = (name: string, transaction: Partial<Transaction> = {}) =>
  change(name, { transaction: { kind: 'test', ...transaction } })

describe('steps travel together as far as safety allows', () => {
  const shape = (steps: Step[]) =>
    batches(steps.map((step, index) => ({ step, index }))).map((batch) => [
      batch.transaction,
      batch.steps.map(({ step }) => step.name).join(''),
    ])
  const cases: [string, Step[], unknown][] = [
    ['no transaction: one batch', [change('a'), change('b')], [[false, 'ab']]],
    [
      'neighbouring changes that need one are one transaction',
      [change('a'), guarded('b', { kind: 'ssh' }), guarded('c', { kind: 'pam' }), change('d')],
      [
        [false, 'a'],
        [true, 'bc'],
        [false, 'd'],
      ],
    ],
    [
      'what the laptop has to store ends its batch',
      [change('a', { save: { name: 'x', command: sh`cat` } }), change('b')],
      [
        [false, 'a'],
        [false, 'b'],
      ],
    ],
    [
      'a step that another node does something for begins one',
      [change('a'), change('b', { onOtherNode: { on: 'x', before: [], after: [] } }), change('c')],
      [
        [false, 'a'],
        [false, 'bc'],
      ],
    ],
    [
      'one that reboots its machine travels alone',
      [change('a'), change('b', { reboots: 60 }), change('c')],
      [
        [false, 'a'],
        [false, 'b'],
        [false, 'c'],
      ],
    ],
    [
      'so does one that waits for a person: what comes before it is done by then',
      [change('a'), { name: 'b', check: sh`false`, help: 'come', person: { wait: 9 } }, change('c')],
      [
        [false, 'a'],
        [false, 'bc'],
      ],
    ],
    [
      'but not in the middle of a transaction',
      [guarded('a'), { ...guarded('b'), onOtherNode: { on: 'x', before: [], after: [] } }],
      [[true, 'ab']],
    ],
  ]
  for (const [name, steps, want] of cases) test(name, () => assert.deepEqual(shape(steps), want))
})

interface Fake {
  /** The route by which we are there. */
  route?: Route
  /** What ssh says where another route lets nobody in. */
  shut?: string
  /** What a step's commands end with; a step without one succeeds. */
  fails?: string[]
  /** Steps that hold already. */
  holds?: string[]
  /** The first programs that it refuses because of another run. */
  locked?: number
  /** It refuses only what changes something. */
  later?: boolean
  /** What it says to whoever would confirm, one try after another. */
  commits?: ('committed' | 'running' | 'died' | 'refused')[]
  /** The connection ends in the middle of this step; by `code`, and before it was heard that a transaction is armed. */
  dies?: string
  code?: number
  unheard?: boolean
  /** The machine goes on by itself all the same. */
  lives?: boolean
  /** The line is dead when it is to note that something is stored, or when it is to look after that. */
  deaf?: 'noting' | 'looking'
  /** Is told of each step that begins. */
  began?: (step: string) => void
}

/** A machine on which steps hold once they are applied, and the order of what was done there. */
function fake(
  steps: Step[],
  {
    route: present = 'direct',
    shut,
    fails = [],
    holds = [],
    locked = 0,
    later = false,
    commits = [],
    dies,
    code = 255,
    unheard,
    lives,
    deaf,
    began,
  }: Fake,
  name = 'it',
) {
  const done: string[] = []
  const held = new Set(holds)
  let noted = false
  let refusals = locked
  const machine = {
    label: name,
    facts: {} as Machine['facts'],
    route: present,
    async run(program: Program, onFrame: (frame: Frame) => void) {
      const end = (finished: boolean) => ({
        code: finished ? 0 : code,
        stderr: finished ? '' : 'closed',
        finished,
      })
      if (refusals > 0 && (!later || /^fk_change /m.test(program.text))) {
        refusals -= 1
        onFrame({ kind: 'locked', owner: 'ada@laptop', seconds: 3 })
        return end(false)
      }
      const noting = program.text.includes('/saved"')
      if (noting && deaf === 'noting') return end(false)
      if (noting) noted = true
      if (noted && deaf === 'looking' && /^fk_check_all /m.test(program.text)) return end(false)
      if (program.text.includes('said=$(fk_commit')) {
        const state = commits.shift() ?? 'committed'
        done.push(state)
        onFrame({ kind: 'commit', state, said: '' })
        return end(true)
      }
      const check = (n: number, phase: 'before' | 'after') =>
        onFrame({ kind: 'check', step: n, phase, rc: held.has(steps[n]?.name ?? '') ? 0 : 1, found: '' })
      const all = /^fk_check_all (.*)$/m.exec(program.text)?.[1] ?? ''
      for (const [, n] of all.matchAll(/'(\d+) \d+'/g)) check(Number(n), 'before')
      const armed = /^FK_TX=(\S+-\S+) /m.test(program.text)
      let begun = false
      for (const [, number] of program.text.matchAll(/^fk_change (\d+) /gm)) {
        const n = Number(number)
        const step = steps[n] as Change
        check(n, 'before')
        if (held.has(step.name)) {
          onFrame({ kind: 'end', step: n, state: 'ok', rolledBack: false })
          continue
        }
        if (armed && !begun && !unheard) onFrame({ kind: 'armed', transaction: 'x', seconds: 60 })
        begun = true
        if (dies === step.name) {
          if (lives)
            for (const [, m] of program.text.matchAll(/^fk_change (\d+) /gm))
              held.add(steps[Number(m)]?.name ?? '')
          return end(false)
        }
        done.push(step.name)
        began?.(step.name)
        if (fails.includes(step.name)) {
          onFrame({ kind: 'end', step: n, state: 'failed', reason: 'apply', rolledBack: armed })
          return end(true)
        }
        held.add(step.name)
        if (step.save)
          onFrame({ kind: 'save', step: n, name: step.save.name, body: gzipSync('kept').toString('base64') })
        check(n, 'after')
        onFrame({ kind: 'end', step: n, state: 'changed', rolledBack: false })
      }
      return end(true)
    },
    reconnect: (route: Route) => {
      done.push(`reconnect ${route}`)
      const run =
        shut === undefined ? machine.run : async () => ({ code: 255, stderr: shut, finished: false })
      return { ...machine, label: route, run, route, close: async () => {} } as Machine
    },
    switchTo(route: Route) {
      machine.route = route
      done.push(`switch to ${route}`)
    },
    close: async () => {},
  }
  return { machine: machine as unknown as Machine, done }
}

async function applied(
  steps: Step[],
  how: Fake = {},
  more: Partial<Running> = {},
  mode: 'apply' | 'undo' = 'apply',
) {
  const lines: string[] = []
  const report = createReport({ stdout: { write: (text) => lines.push(text) }, tty: false, color: false })
  const { machine, done } = fake(steps, how)
  const page = { name: '50-page', summary: '', file: '', layer: 'L0', on: 'host', steps: () => steps } as Page
  const store = {} as Running['store']
  const running: Running = { machine, report, store, rollbackAfter: 60, lockWait: 5, ...more }
  const { code, changed, why, stopped } = await runPage(page, steps, mode, running)
  return { code, changed, why, stopped, done, text: lines.join('') }
}

describe('apply', () => {
  test('does nothing where all holds', async () => {
    const { code, done } = await applied([change('a'), change('b')], { holds: ['a', 'b'] })
    assert.deepEqual({ code, done }, { code: 0, done: [] })
  })

  test('shows each step as soon as it has ended, and not when the page has', async () => {
    let text = ''
    const report = createReport({ stdout: { write: (piece) => (text += piece) }, tty: false, color: false })
    const seen: Record<string, string> = {}
    await applied([change('a'), change('b')], { began: (step) => void (seen[step] = text) }, { report })
    assert.doesNotMatch(seen['a'] ?? '', /changed/)
    assert.match(seen['b'] ?? '', /^changed  1\/2 a$/m)
    assert.doesNotMatch(seen['b'] ?? '', /2\/2/)
  })

  test('goes in order, and stops at the first failure', async () => {
    const { code, changed, done, text } = await applied([change('a'), change('b'), change('c')], {
      fails: ['b'],
    })
    assert.deepEqual({ code, changed, done }, { code: 1, changed: 1, done: ['a', 'b'] })
    assert.match(text, /1 step was not reached/)
  })

  test('waits while another run holds the machine, and gives up in time', async () => {
    const { signal } = new AbortController()
    assert.equal((await applied([change('a')], { locked: 1 }, { signal })).code, 0)
    assert.equal(getEventListeners(signal, 'abort').length, 0, 'a wait that is over listens no more')
    const { code, text } = await applied([change('a')], { locked: 99 }, { lockWait: 0 })
    assert.equal(code, 1)
    assert.match(text, /ada@laptop is at work there, since 3 s[\s\S]*nothing was changed/)
  })

  test('a machine that another run took between the look and the change is blocked, and nothing failed', async () => {
    const steps = [change('a'), change('b')]
    const { code, why, done, text } = await applied(steps, { locked: 99, later: true }, { lockWait: 0 })
    assert.deepEqual([code, why, done], [1, 'ada@laptop is at work there, since 3 s', []])
    assert.match(text, /blocked +1\/2 a[\s\S]*nothing was changed by this run/)
    assert.match(text, /50-page: 0 steps hold, 1 blocked\n$/)
  })

  test('a connection that ends in the middle is reported with the step it was at', async () => {
    const { code, why, text } = await applied([change('a'), change('b'), change('c')], { dies: 'b' })
    assert.deepEqual([code, why], [1, 'the connection ended at 2/3 b'])
    assert.match(text, /2\/3 b[\s\S]*closed[\s\S]*it ends this one by itself, and goes on until it notices/)
    assert.match(text, /next: +run it again: it continues where this ended/)
    assert.match(text, /1 step was not heard of\.\n50-page: 0 steps hold, 1 changed, 1 failed\n$/)
  })

  test('a connection that ends while the run is to stop is no good end', async () => {
    const stop = new AbortController()
    const began = () => stop.abort()
    const { stopped, text } = await applied(
      [change('a'), change('b')],
      { dies: 'b', began },
      { signal: stop.signal },
    )
    assert.equal(stopped, undefined)
    assert.doesNotMatch(text, /nothing is half done/)
  })

  test('a step that the machine has ended at its time limit may be half done', async () => {
    const { why, text } = await applied([change('a'), change('b')], { dies: 'b', code: 124 })
    assert.equal(why, 'its time was over at 2/2 b')
    assert.match(text, /its time was over, and it may be half done/)
  })
})

describe('undo', () => {
  test('a connection that ends in the middle says that the machine goes on, and not that nothing changed', async () => {
    const { code, text } = await applied([change('a')], {}, {}, 'undo')
    assert.equal(code, 1)
    assert.match(text, /it ends the undo by itself; its record is kept until then/)
  })

  test('a machine that another run holds was not changed', async () => {
    const { text } = await applied([change('a')], { locked: 99 }, { lockWait: 0 }, 'undo')
    assert.match(text, /ada@laptop is at work there[\s\S]*nothing was changed/)
  })
})

describe('an undo that takes a route away', () => {
  const steps = [guarded('a', { route: { gone: { route: 'tunnel', next: 'open a door' } } })]

  test('begins by the other one, which is remembered', async () => {
    const { done } = await applied(steps, { route: 'tunnel' }, {}, 'undo')
    assert.deepEqual(done, ['reconnect direct', 'switch to direct'])
  })

  test('does not begin where no other one leads there, and says what opens one', async () => {
    const shut = 'ssh: connect to host 192.0.2.10 port 22: Connection timed out'
    const { code, done, text } = await applied(steps, { route: 'tunnel', shut }, {}, 'undo')
    assert.deepEqual([code, done], [1, ['reconnect direct']])
    assert.match(text, /blocked +undo 50-page[^]*timed out[^]*nothing was changed[^]*next: +open a door/)
  })

  test('is none where we come by another one', async () => {
    assert.deepEqual((await applied(steps, {}, {}, 'undo')).done, [])
  })
})

describe('a transaction', () => {
  const steps = [change('a'), guarded('b', { route: { apply: 'tunnel' } }), change('c')]

  test('is confirmed over a new connection, by its own route, before anything follows', async () => {
    const { code, done } = await applied(steps)
    assert.equal(code, 0)
    assert.deepEqual(done, [
      'a',
      'reconnect tunnel',
      'b',
      'reconnect tunnel',
      'committed',
      'switch to tunnel',
      'c',
    ])
  })

  test('by a route that lets nobody in is not begun, and says what to look for', async () => {
    const { code, done, text } = await applied(steps, {
      shut: 'root@10.66.0.1: Permission denied (publickey).',
    })
    assert.equal(code, 1)
    assert.deepEqual(done, ['a', 'reconnect tunnel'])
    assert.match(
      text,
      /Permission denied[^]*nothing was changed[^]*next: +look for what depends on the address: from=/,
    )
  })

  test('without a route of its own stays on the present one', async () => {
    const { done } = await applied([guarded('b')])
    assert.deepEqual(done, ['b', 'reconnect direct', 'committed'])
  })

  test('is asked for again while its run is not done', async () => {
    const { code, done } = await applied([guarded('b')], { commits: ['running', 'committed'] })
    assert.deepEqual([code, done], [0, ['b', 'reconnect direct', 'running', 'committed']])
  })

  test('that the machine refuses to confirm has failed, with all its steps, and nothing follows', async () => {
    const { code, changed, done, text } = await applied(steps, { commits: ['refused'] })
    assert.deepEqual([code, changed], [1, 1])
    assert.deepEqual(done, ['a', 'reconnect tunnel', 'b', 'reconnect tunnel', 'refused'])
    assert.match(text, /the machine has rolled these steps back, or is about to/)
  })

  test('whose connection ends is confirmed or refused by the machine, which knows', async () => {
    const { code, text } = await applied([guarded('a'), guarded('b')], { dies: 'b', commits: ['died'] })
    assert.equal(code, 1)
    assert.match(text, /the machine rolls these steps back now/)
  })
})

describe('a connection that ends when something is stored here', () => {
  const kept = change('b', { save: { name: 'key', command: sh`true` } })
  for (const deaf of ['noting', 'looking'] as const)
    test(`while the machine is ${deaf}: the run says that it is stored, and not that the step does not hold`, async () => {
      const stored: string[] = []
      const store = { has: () => false, put: async (name: string) => void stored.push(name) }
      const { code, why, text } = await applied(
        [change('a'), kept, change('c')],
        { deaf },
        {
          store: store as unknown as Running['store'],
        },
      )
      assert.deepEqual([code, why, stored], [1, 'the connection ended at 2/3 b', ['key']])
      assert.match(
        text.replaceAll(/\s+/g, ' '),
        /key is stored on this laptop; whether the machine has noted that is not known/,
      )
      assert.match(text, /next: +run it again: it continues where this ended/)
      assert.doesNotMatch(text, /it does not hold|something else on this machine/)
      assert.match(text, /1 step was not reached\.\n50-page: 0 steps hold, 1 changed, 1 failed\n$/)
    })
})

test('a transaction that is confirmed although its connection ended holds, and the run goes on', async () => {
  const steps = [guarded('a'), guarded('b'), guarded('c'), change('d')]
  const { code, changed, why, text } = await applied(steps, { dies: 'b', lives: true })
  assert.deepEqual([code, changed, why], [0, 4, undefined])
  assert.doesNotMatch(text, /failed/)
  assert.match(text, /^changed +2\/4 b\nchanged +3\/4 c\nchanged +4\/4 d$/m)
})

test('a transaction whose beginning was not heard of is rolled back, and the run says when', async () => {
  const { code, text } = await applied([guarded('a')], { dies: 'a', unheard: true })
  assert.equal(code, 1)
  assert.match(
    text.replaceAll(/\s+/g, ' '),
    /it is not confirmed: the machine rolls it back by itself, 60 s after it began at the latest/,
  )
})

describe('what another node does for a step', () => {
  const order = async (how: { here?: string[]; there?: string[] }) => {
    const [before, after] = [change('before'), change('after')]
    const all: string[] = []
    const note = ({ machine, done }: ReturnType<typeof fake>) => {
      const run = machine.run.bind(machine)
      return {
        machine: Object.assign(machine, {
          run: async (...args: Parameters<Machine['run']>) => {
            const from = done.length
            const outcome = await run(...args)
            all.push(...done.slice(from))
            return outcome
          },
        }),
      }
    }
    const steps = [change('a', { onOtherNode: { on: 'x', before: [before], after: [after] } })]
    const here = note(fake(steps, { fails: how.here ?? [] }))
    const report = createReport({ stdout: { write: () => true }, tty: false, color: false })
    const page = {
      name: '50-page',
      summary: '',
      file: '',
      layer: 'L0',
      on: 'node',
      steps: () => steps,
    } as Page
    const { code } = await runPage(page, steps, 'apply', {
      ...here,
      report,
      store: {} as Running['store'],
      rollbackAfter: 60,
      lockWait: 5,
      // Its program has one step: which, its text says.
      otherNode: async () => {
        const one = all.length === 0 ? before : after
        return note(fake([one], { fails: how.there ?? [] }, 'x')).machine
      },
    })
    return { code, all }
  }
  test('is done before it and after it', async () =>
    assert.deepEqual(await order({}), { code: 0, all: ['before', 'a', 'after'] }))
  test('is done after it although it failed', async () =>
    assert.deepEqual(await order({ here: ['a'] }), { code: 1, all: ['before', 'a', 'after'] }))
  test('keeps the step from beginning when it fails, and is then cleared away', async () =>
    assert.deepEqual(await order({ there: ['before'] }), { code: 1, all: ['before', 'after'] }))
})

test('what cannot be downloaded stops the page before anything of that batch', async () => {
  const artifact = { name: 'x', url: 'https://example.org/x' } as never
  const { code, done, why, text } = await applied(
    [change('a'), change('b', { upload: { artifact, to: '/x' } })],
    {},
    { fetch: () => Promise.reject(new Error('no route to host')) },
  )
  assert.deepEqual([code, done, why], [1, ['a'], 'b'])
  assert.match(text, /2\/2 b[\s\S]*no route to host[\s\S]*nothing after them was begun/)
})
