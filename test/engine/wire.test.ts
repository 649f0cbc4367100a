import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { describe, test } from 'node:test'
import { engineShell } from '../../lib/engine/program.ts'
import { type Frame, frameOf, onAnswer } from '../../lib/engine/wire.ts'

/** A line of the program whose nonce is FKabc; spaces here are tabs there. */
const line = (text: string) => `FKabc\t${text.replaceAll(' ', '\t')}`

describe('an event is read by name', () => {
  const cases: [string, Frame][] = [
    ['check 1 before 0 yes', { kind: 'check', step: 1, phase: 'before', rc: 0, found: 'yes' }],
    ['check 1 after 101', { kind: 'check', step: 1, phase: 'after', rc: 101, found: '' }],
    ['control 1 after 2 1 no', { kind: 'control', step: 1, phase: 'after', control: 2, rc: 1, found: 'no' }],
    ['run 12 3', { kind: 'run', step: 12, command: 3 }],
    ['said 0 1 124 late', { kind: 'said', step: 0, command: 1, rc: 124, text: 'late' }],
    ['end 4 ok', { kind: 'end', step: 4, state: 'ok', rolledBack: false }],
    ['end 4 ready', { kind: 'end', step: 4, state: 'ready', rolledBack: false }],
    ['end 4 changed', { kind: 'end', step: 4, state: 'changed', rolledBack: false }],
    [
      'end 4 failed after kept',
      { kind: 'end', step: 4, state: 'failed', reason: 'after', rolledBack: false },
    ],
    [
      'end 4 failed apply rolled-back',
      { kind: 'end', step: 4, state: 'failed', reason: 'apply', rolledBack: true },
    ],
    ['save 2 token aGk=', { kind: 'save', step: 2, name: 'token', body: 'aGk=' }],
    ['recorded', { kind: 'recorded' }],
    ['armed 00-host-x 180', { kind: 'armed', transaction: '00-host-x', seconds: 180 }],
    ['locked ada@laptop 12', { kind: 'locked', owner: 'ada@laptop', seconds: 12 }],
    ['locked  0', { kind: 'locked', owner: '', seconds: 0 }],
    ['unconfirmed ada@laptop -3', { kind: 'unconfirmed', owner: 'ada@laptop', seconds: -3 }],
    ['commit committed', { kind: 'commit', state: 'committed', said: '' }],
    ['commit died half', { kind: 'commit', state: 'died', said: 'half' }],
    ['undone refused later undo-it', { kind: 'undone', state: 'refused', said: 'later', next: 'undo-it' }],
    ['undone nothing', { kind: 'undone', state: 'nothing', said: '', next: '' }],
    ['note hello', { kind: 'note', text: 'hello' }],
    ['answer page name 00 changed ', { kind: 'answer', name: 'page', values: { name: '00', changed: '' } }],
    ['answer done', { kind: 'answer', name: 'done', values: {} }],
    ['piece aGk=', { kind: 'piece', body: 'aGk=' }],
    ['finished', { kind: 'finished' }],
  ]
  for (const [text, frame] of cases) test(text, () => assert.deepEqual(frameOf(line(text), 'FKabc'), frame))

  test('a field may hold tabs, line ends and backslashes', () =>
    assert.deepEqual(frameOf('FKabc\tnote\ta\\nb\\tc\\\\nd', 'FKabc'), { kind: 'note', text: 'a\nb\tc\\nd' }))
})

describe('a line that is not whole, or not of this program, is nothing', () => {
  for (const text of [
    '',
    'hello',
    'FKabc',
    'FKabd\tfinished',
    ...[
      'unheard 1',
      'toString',
      'check',
      'check 1',
      'check one before 0 yes',
      'check 1 between 0 yes',
      'check 1 before',
      'check 1 before yes',
      'control 1 before 0',
      'run 1',
      'run 1 x',
      'said 1 2',
      'end 1',
      'end 1 perhaps',
      'end 1 failed',
      'end 1 failed somehow kept',
      'end x ok',
      'save 1',
      'armed a',
      'armed a soon',
      'locked ada@laptop',
      'commit',
      'commit perhaps',
      'undone',
      'undone half',
      'note',
      'answer',
      'answer page name',
      'answer page name a name b',
      'answer page 1 a',
      'piece',
    ].map(line),
  ])
    test(JSON.stringify(text), () => assert.equal(frameOf(text, 'FKabc'), undefined))
})

test('what a program writes is what is read', () => {
  const text = `FK_NONCE=FKabc\n${engineShell('frame.sh')}
answer place path $'/a\\tb\\\\n' said $'one\\ntwo'
frame said 1 2 3 "$(printf 'a\\\\b')"`
  const lines = execFileSync('bash', ['--noprofile', '--norc'], { input: text, encoding: 'utf8' }).split('\n')
  assert.deepEqual(
    lines.slice(0, 2).map((each) => frameOf(each, 'FKabc')),
    [
      { kind: 'answer', name: 'place', values: { path: '/a\tb\\n', said: 'one\ntwo' } },
      { kind: 'said', step: 1, command: 2, rc: 3, text: 'a\\b' },
    ],
  )
})

test('a command of the laptop listens to answers alone', () => {
  const heard: unknown[] = []
  const listen = onAnswer((values, name) => heard.push([name, values]))
  listen({ kind: 'finished' })
  listen({ kind: 'answer', name: 'a', values: { b: 'c' } })
  assert.deepEqual(heard, [['a', { b: 'c' }]])
})
