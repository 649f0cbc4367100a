import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import type { Page } from '../../lib/engine/page.ts'
import { createReport } from '../../lib/engine/report.ts'
import type { Change, Demand, Step, Target, Wait } from '../../lib/engine/step.ts'
import { faultOf, fileDiff, reportCheckError, reportDisconnect } from '../../lib/engine/faults.ts'
import { type Observed, foundOf, holds, observe, unobserved } from '../../lib/engine/observed.ts'
import { type Mode, PageReport } from '../../lib/engine/verdict.ts'
import type { Frame } from '../../lib/engine/wire.ts'
import { sh } from '../../lib/ground/sh.ts'

const control = (id: string, waived?: string) => ({
  id,
  title: `title of ${id}`,
  check: sh`true`,
  from: ['a guide'],
  ...(waived === undefined ? {} : { waived }),
})
const change: Change = { name: 'a', check: sh`test a`, apply: [sh`make a`] }
const demand: Demand = { name: 'b', check: sh`test b`, help: 'do b' }
const turn: Demand = { ...demand, person: {} }
const wait: Wait = { name: 'c', until: sh`test c`, seconds: 5 }
const yes: Observed = { check: { rc: 0, found: '' }, controls: [] }
const no: Observed = { check: { rc: 1, found: 'nothing there' }, controls: [] }

describe('a step holds', () => {
  const held = (rc: number, ...controls: number[]): Observed => ({
    check: { rc, found: '' },
    controls: controls.map((each) => ({ rc: each, found: '' })),
  })
  const cases: [string, Step, Observed | undefined, boolean][] = [
    ['when its check says so', change, yes, true],
    ['not when it says no', change, no, false],
    ['not when nobody checked it', change, undefined, false],
    ['not when a control fails', { ...change, controls: [control('X1')] }, held(0, 1), false],
    ['when a control does not apply', { ...change, controls: [control('X1')] }, held(0, 100), true],
    ['when a control waits for a reboot', { ...change, controls: [control('X1')] }, held(0, 101), true],
    [
      'when a control that fails is waived',
      { ...change, controls: [control('X1', 'why')] },
      held(0, 1),
      true,
    ],
    ['not when a control was not checked', { ...change, controls: [control('X1')] }, held(0), false],
  ]
  for (const [when, step, observed, want] of cases)
    test(when, () => assert.equal(holds(step, observed), want))
})

test('what a machine says is added to the step that it is about', () => {
  const all = [unobserved(), unobserved()]
  const frames: Frame[] = [
    { kind: 'check', step: 1, phase: 'before', rc: 1, found: 'no' },
    { kind: 'control', step: 1, phase: 'before', control: 0, rc: 100, found: '' },
    { kind: 'said', step: 1, command: 2, rc: 124, text: 'slow' },
    { kind: 'end', step: 1, state: 'failed', reason: 'apply', rolledBack: true },
    { kind: 'check', step: 7, phase: 'before', rc: 1, found: 'of another page' },
    { kind: 'finished' },
  ]
  for (const frame of frames) observe(all, frame)
  assert.deepEqual(all, [
    { controls: [] },
    {
      check: { rc: 1, found: 'no' },
      controls: [{ rc: 100, found: '' }],
      said: { command: 2, rc: 124, text: 'slow' },
      end: { state: 'failed', reason: 'apply', rolledBack: true },
    },
  ])
})

/** What the report of a page says, and what it comes to. */
function summed(
  steps: Step[],
  observed: Observed[],
  mode: Mode,
  code: 0 | 1 = 0,
  recorded = true,
  verbose = false,
) {
  const lines: string[] = []
  const stdout = { write: (text: string) => lines.push(text) }
  const report = createReport({ stdout, tty: false, color: false, verbose })
  const page = { name: '50-page', summary: '', file: '', layer: 'L0', on: 'host', steps: () => steps } as Page
  const run = { changed: observed.filter(({ end }) => end?.state === 'changed').length, code }
  const result = new PageReport({ page, steps, observed, mode, report }).end(run, 1, recorded)
  return { ...result, text: lines.join('') }
}

test('what a wait has seen when it was over is shown with --verbose alone, and of a check that holds never', () => {
  const seen: Observed = { check: { rc: 0, found: 'a part is still to come' }, controls: [] }
  const of = (verbose: boolean) => summed([change, wait], [seen, seen], 'verify', 0, true, verbose).text
  assert.match(of(true), /ready +2\/2 c\n +found: a part is still to come\n/)
  assert.equal(of(true).match(/still to come/g)?.length, 1)
  assert.doesNotMatch(of(false), /still to come/)
})

describe('the exit code', () => {
  const changed: Observed = { ...yes, end: { state: 'changed', rolledBack: false } }
  const failed: Observed = { ...no, end: { state: 'failed', reason: 'apply', rolledBack: false } }
  const reboot = { ...change, controls: [control('X1')] }
  const waits: Observed = { check: { rc: 0, found: '' }, controls: [{ rc: 101, found: '' }] }
  const unmet: Observed = { ...no, end: { state: 'failed', reason: 'demand', rolledBack: false } }
  const cases: [string, Step[], Observed[], Mode, 0 | 1, number, string][] = [
    ['all hold: 0', [change, demand, wait], [yes, yes, yes], 'verify', 0, 0, 'ok'],
    ['it has nothing to do here: 0', [demand], [yes], 'verify', 0, 0, '-'],
    ['a change is pending in a plan: 2', [change], [no], 'plan', 0, 2, 'change'],
    ['a wait is pending in a plan: 2', [wait], [no], 'plan', 0, 2, 'change'],
    ['the machine cannot, in a plan: 2', [demand], [no], 'plan', 0, 2, 'blocked'],
    ['the machine cannot, in an apply: 1', [demand, change], [unmet, no], 'apply', 1, 1, 'blocked'],
    ['the machine cannot, where it was applied: 1', [demand, change], [no, yes], 'verify', 0, 1, 'failed'],
    ['a person is due, in a plan: 2', [turn], [no], 'plan', 0, 2, 'your turn'],
    ['a person is due, in an apply: 2', [turn, change], [unmet, no], 'apply', 1, 2, 'your turn'],
    ['a person is due, in a verify: 2', [turn, change], [no, yes], 'verify', 0, 2, 'your turn'],
    ['drift: 1', [change], [no], 'verify', 0, 1, 'failed'],
    ['changed: 0', [change], [changed], 'apply', 0, 0, 'changed'],
    ['failed: 1', [change, change], [failed, no], 'apply', 1, 1, 'failed'],
    ['a control waits for a reboot: 2', [reboot], [waits], 'apply', 0, 2, 'ok'],
  ]
  for (const [what, steps, observed, mode, code, want, state] of cases)
    test(what, () => {
      const { text, ...result } = summed(steps, observed, mode, code)
      assert.deepEqual([result.code, result.state], [want, state])
      if (state !== 'failed') assert.doesNotMatch(text, /failed/)
    })

  test('a page that was never applied is not built, in one line, whatever does not hold', () => {
    const { text, ...result } = summed([change, demand], [no, no], 'verify', 0, false)
    assert.equal(text, '')
    assert.deepEqual(
      [result.code, result.state, result.why, result.next],
      [2, 'not built', 'it was never applied here', './task page apply'],
    )
    assert.equal(summed([change], [yes], 'verify', 0, false).state, 'ok')
    assert.equal(summed([demand], [no], 'verify', 0, false).state, 'failed')
  })

  test('what only a person can do says how, and what was found', () => {
    const { text } = summed([turn, change], [unmet, no], 'apply', 1)
    assert.match(text, /^your turn {2}1\/2 b\n {11}found: nothing there\n {11}next: {2}do b$/m)
    assert.match(text, /^1 step was not reached\.$/m)
  })

  test('a run that stopped says nothing about the steps that it did not reach', () => {
    const { text } = summed([change, { ...change, name: 'later' }], [failed, no], 'apply', 1)
    assert.match(text, /^1 step was not reached\.$/m)
    assert.doesNotMatch(text, /later/)
  })

  test('an unconfirmed transaction is reported once, with its first step', () => {
    const end = { state: 'failed', reason: 'unconfirmed' as const, rolledBack: true }
    const fault = { ran: 'a new connection', said: 'Connection refused', state: 'rolled back', next: 'look' }
    const { text } = summed(
      [change, { ...change, name: 'z' }],
      [
        { ...yes, end, unconfirmed: fault },
        { ...yes, end },
      ],
      'apply',
      1,
    )
    assert.equal(text.match(/Connection refused/g)?.length, 1, text)
  })
})

describe('a fault', () => {
  const ended = (reason: NonNullable<Observed['end']>['reason'], more: Partial<Observed> = {}): Observed => ({
    ...no,
    end: { state: 'failed', rolledBack: false, ...(reason ? { reason } : {}) },
    ...more,
  })
  const cases: [string, Step, Observed, boolean, object][] = [
    [
      'of a demand is its help',
      demand,
      ended('demand'),
      false,
      { check: 'test b', found: 'nothing there', state: 'nothing was changed', next: 'do b' },
    ],
    [
      'of a wait is the last thing it saw',
      wait,
      ended('deadline'),
      true,
      {
        check: 'test c',
        found: 'nothing there',
        state: 'the steps above hold',
        next: 'find out what it waits for, and run it again',
      },
    ],
    [
      'of the snapshot',
      change,
      ended('guard', { said: { command: 0, rc: 1, text: 'No space left' } }),
      true,
      {
        ran: 'the snapshot to roll back to, and its timer',
        said: 'No space left',
        state: 'the steps above hold; nothing else was changed',
        next: 'make room, or see whether systemd runs, and run apply again',
      },
    ],
    [
      'of commands that changed nothing names the controls, and what each found',
      { ...change, controls: [control('X1'), control('X2')] },
      ended('after', {
        check: { rc: 0, found: '' },
        controls: [
          { rc: 0, found: '' },
          { rc: 1, found: 'x = 3, set in /etc/x' },
        ],
      }),
      true,
      {
        check: 'test a',
        found: 'X2 title of X2: x = 3, set in /etc/x',
        state: 'its commands ran, and it does not hold',
        next: 'something else on this machine sets it; mend that and run apply again',
      },
    ],
    [
      'of a command that took too long',
      change,
      ended('apply', { said: { command: 0, rc: 124, text: 'slow' } }),
      true,
      {
        ran: 'make a',
        said: 'slow\ntimed out after 300 s',
        state: 'the steps above hold; the file of this one was restored',
        next: 'mend this and run apply again',
      },
    ],
    [
      'of a command in a transaction says that it is rolled back',
      change,
      ended('apply', {
        said: { command: 0, rc: 1, text: 'no' },
        end: { state: 'failed', reason: 'apply', rolledBack: true },
      }),
      true,
      {
        ran: 'make a',
        said: 'no',
        state: 'this change was rolled back at once, with those that belong to it',
        next: 'mend this and run apply again',
      },
    ],
  ]
  for (const [what, step, observed, others, want] of cases)
    test(what, () => assert.deepEqual(faultOf(step, observed, others), want))
})

describe('what tools say of something that is not there is said in words', () => {
  const cases: [string, string][] = [
    ['environment: line 539: wg: command not found', 'wg is not installed'],
    ['environment: line 9: virsh: command not found\nno', 'virsh is not installed\nno'],
    ["stat: cannot statx '/etc/wireguard': No such file or directory", '/etc/wireguard is not there'],
    ['stat: cannot statx ‘/etc/x y’: No such file or directory', '/etc/x y is not there'],
    ['cat: /etc/x: No such file or directory', '/etc/x is not there'],
    ['main: line 3: /etc/x: No such file or directory', '/etc/x is not there'],
    ['dpkg-query: no packages found matching acct', 'acct is not installed'],
    ['Device "wg0" does not exist.', 'there is no interface wg0'],
    ['sshd: no hostkeys available', 'sshd: no hostkeys available'],
  ]
  for (const [found, want] of cases)
    test(found, () => assert.equal(foundOf({ rc: 1, found: `${found}\n` }), want))
})

describe('what could not be asked', () => {
  const asked: Change = { ...change, controls: [control('X1'), control('X2')] }
  const is = (rc: number, ...controls: number[]): Observed => ({
    check: { rc, found: 'could not ask: sshd ended with 255' },
    controls: controls.map((each) => ({ rc: each, found: 'could not ask: sshd ended with 255' })),
  })
  for (const [what, observed, state] of [
    ['of a control is unknown', is(0, 102, 0), 'unknown'],
    ['of a step is unknown', is(102, 0, 0), 'unknown'],
    ['because it was not come to is unknown', unobserved(), 'unknown'],
    ['beside what does not hold is no excuse', is(0, 102, 1), 'failed'],
  ] as const)
    for (const mode of ['plan', 'verify'] as const)
      test(`${what} in ${mode}`, () => {
        const { state: got, code, text, counts } = summed([asked, change], [observed, yes], mode)
        if (mode === 'verify' || state === 'unknown') assert.deepEqual([got, code], [state, 1])
        else assert.deepEqual([got, code], ['change', 2])
        if (state === 'unknown') assert.match(`${text}${counts}`, /1 unknown/)
        if (observed.check?.rc === 0)
          assert.match(text, /X1 +title of X1: could not ask: sshd ended with 255/)
      })

  test('of a control that is waived stays waived', () => {
    const step: Change = { ...change, controls: [control('X1', 'why')] }
    assert.equal(summed([step], [is(0, 102)], 'verify').code, 0)
  })
})

test('a difference that a check prints is shown whole by a plan and by verify, and not as what was found', () => {
  const step: Change = { ...change, diff: 'web in the cluster' }
  for (const mode of ['plan', 'verify'] as const) {
    const events: { event: string; path?: string; text?: string; found?: string }[] = []
    const report = createReport({
      json: true,
      stdout: { write: () => {} },
      log: (event) => events.push(event),
    })
    const page = { name: '50-page', steps: () => [step] } as unknown as Page
    new PageReport({ page, steps: [step], observed: [no], mode, report }).end(
      { changed: 0, code: 0, stopped: false },
      1,
      true,
    )
    const shown = events.find(({ event }) => event === 'diff')
    assert.deepEqual([shown?.path, shown?.text], ['web in the cluster', 'nothing there'])
    assert.ok(events.every(({ found }) => found === undefined))
  }
})

describe('a file that differs', () => {
  const target: Target = {
    path: '/etc/a',
    text: 'a\n',
    digest: 'x',
    mode: '644',
    owner: 'root:root',
    test: undefined,
  }
  const cases: [string, Target, Observed['check'], string | RegExp][] = [
    [
      'with a secret shows nothing',
      { ...target, text: undefined },
      { rc: 1, found: 'hunter2' },
      '+ a secret, not shown\n',
    ],
    [
      'only in what follows it',
      target,
      { rc: 0, found: '' },
      '  as declared; what it is for does not hold\n',
    ],
    ['only in mode or owner', target, { rc: 2, found: 'mode and owner are …\n' }, '  mode and owner are …\n'],
    ['in its content', target, { rc: 1, found: 'b\n' }, /^-b\n\+a$/m],
    ['by being absent', target, { rc: 1, found: '' }, /^\+a$/m],
    [
      'in nothing, but its commands did not run',
      target,
      { rc: 1, found: 'a\n' },
      '  as declared; the commands that follow it did not run yet\n',
    ],
  ]
  for (const [what, of, check, want] of cases)
    test(what, () =>
      typeof want === 'string'
        ? assert.equal(fileDiff(of, check), want)
        : assert.match(fileDiff(of, check), want),
    )
})

describe('a program that did not come to its end', () => {
  const said = (tell: (report: ReturnType<typeof createReport>) => unknown): string => {
    const lines: string[] = []
    tell(createReport({ stdout: { write: (text) => lines.push(text) }, tty: false, color: false }))
    return lines.join('')
  }
  const outcome = { code: 255, stderr: 'closed\n', finished: false }
  test('names the first step that was not checked', () =>
    assert.match(
      said((report) =>
        reportCheckError(
          report,
          'north',
          { steps: [change, demand], observed: [yes, unobserved()] },
          outcome,
        ),
      ),
      /2\/2 b[\s\S]*the checks of this page on north[\s\S]*closed[\s\S]*nothing was changed/,
    ))
  test('because the connection ended: it continues where it was', () =>
    assert.match(
      said((report) => reportDisconnect(report, { name: 'a', index: 0, total: 2 }, outcome)),
      /1\/2 a[\s\S]*closed[\s\S]*ends this one by itself[\s\S]*it continues where this ended/,
    ))
  test('because another run holds the machine: nothing was changed', () =>
    assert.match(
      said((report) => reportDisconnect(report, undefined, { ...outcome, locked: 'ada is at work' })),
      /ada is at work[\s\S]*nothing was changed by this run[\s\S]*\.\/task unlock/,
    ))
})
