import assert from 'node:assert/strict'
import { execFileSync, spawnSync } from 'node:child_process'
import { describe, test } from 'node:test'
import { engineShell } from '../../lib/engine/program.ts'
import { type Frame, frameOf, onAnswer } from '../../lib/engine/wire.ts'
import { read } from '../../lib/ground/root.ts'

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

/** What the checks of these bodies come to, by their names: exit code and what they found. */
function checked(bodies: Record<string, string>, before = '') {
  const names = Object.keys(bodies)
  const text = `FK_NONCE=FKabc FK_WAIVED=' '
${before}
${engineShell('frame.sh')}
${read('lib/host/controls.sh')}
${names.map((name, i) => `fk_check_${i}() {\n${bodies[name]}\n}`).join('\n')}
exec 9< <(exec sleep 60 2> /dev/null 3>&-)
fk_check_all ${names.map((_, i) => `'${i} 0'`).join(' ')}`
  const { stdout, stderr, status } = spawnSync('bash', ['--noprofile', '--norc'], {
    input: text,
    encoding: 'utf8',
  })
  const frames = stdout.split('\n').flatMap((line) => frameOf(line, 'FKabc') ?? [])
  const of = (i: number) => frames.find((frame) => frame.kind === 'check' && frame.step === i)
  return { answers: Object.fromEntries(names.map((name, i) => [name, of(i)])), status, stderr }
}

test('a question that hangs takes down its own answer, and those who ask the same do not wait again', () => {
  const began = Date.now()
  const { answers } = checked(
    {
      first: 'slow() { sleep 50; }; sure_fact slow slow',
      second: 'slow() { sleep 50; }; sure_fact slow slow',
      third: 'echo well',
      fourth: 'sleep 40 | sleep 41',
      last: 'echo well',
    },
    'FK_PATIENCE=2',
  )
  const said = (name: string) => {
    const frame = answers[name]
    return frame?.kind === 'check' ? `${frame.rc} ${frame.found}` : 'nothing'
  }
  for (const name of ['third', 'last']) assert.equal(said(name), '0 well')
  for (const name of ['first', 'second']) assert.match(said(name), /^102 could not ask: /)
  assert.match(said('fourth'), /^102 could not ask: no answer after 2 s/)
  assert.ok(Date.now() - began < 20_000)
})

test('where there is no room for what is asked, that is said, and nothing is called other than it is', () => {
  const { status, stderr } = checked({ first: 'echo well' }, 'mktemp() { return 1; }')
  assert.equal(status, 74)
  assert.match(stderr, /^No space left in \S+ and in \/run, so nothing can be asked$/m)
})

test('a command of the laptop listens to answers alone', () => {
  const heard: unknown[] = []
  const listen = onAnswer((values, name) => heard.push([name, values]))
  listen({ kind: 'finished' })
  listen({ kind: 'answer', name: 'a', values: { b: 'c' } })
  assert.deepEqual(heard, [['a', { b: 'c' }]])
})
