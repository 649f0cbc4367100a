import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import {
  type Event,
  type PageState,
  type Report,
  clean,
  createReport,
  duration,
} from '../../lib/engine/report.ts'
import { wantsColor } from '../../lib/engine/paper.ts'

/** What a report writes, into a pipe or onto a terminal of `columns`. */
function written(
  options: Parameters<typeof createReport>[0],
  tell: (report: Report) => void,
  columns = 80,
): string {
  let text = ''
  const stdout = { write: (piece: string) => (text += piece), columns, isTTY: false }
  const report = createReport({ stdout, tty: false, color: false, now: () => 0, ...options })
  tell(report)
  report.close()
  return text
}

const page = {
  name: '00-host-harden',
  summary: 'A host that answers only to its owner.',
  mode: 'plan',
  machine: 'fortress (admin@192.0.2.10)',
}

function night(report: Report): void {
  report.page(page)
  report.plan({ steps: 9, controls: 3 })
  report.step({
    state: 'ok',
    index: 1,
    total: 9,
    name: 'ada can log in with a key',
    why: 'everything after this closes doors',
    found: '1 key',
  })
  report.step({
    state: 'change',
    index: 2,
    total: 9,
    name: '/etc/ssh/sshd_config.d/00-hardening.conf is as declared',
    why: 'a password can be guessed',
  })
  report.diff({
    path: '/etc/ssh/sshd_config.d/00-hardening.conf',
    text: '@@ -0,0 +1 @@\n+PermitRootLogin no\n',
  })
  report.step({
    state: 'change',
    index: 3,
    total: 9,
    name: 'kernel pointers are hidden from ordinary users',
    found: '0',
  })
  report.control({
    id: 'KRNL-6000',
    title: 'kernel.kptr_restrict is 2',
    state: 'failed',
    found: '0',
    from: ['CIS'],
  })
  report.control({ id: 'KRNL-5820', title: 'core dumps are off', state: 'ok', found: '0' })
  report.command({ text: 'sysctl --system\nsysctl --values kernel.kptr_restrict' })
  report.step({ state: 'ready', index: 4, total: 9, name: 'the clock is in step', seconds: 41 })
  report.step({ state: 'n/a', index: 5, total: 9, name: 'the TPM holds the key', found: 'no TPM here' })
  report.control({
    id: 'FILE-6310',
    title: '/tmp is a file system of its own',
    state: 'waived',
    waived: 'one disk',
  })
  report.step({
    state: 'pending',
    index: 6,
    total: 9,
    name: 'the new kernel runs',
    why: 'after the next boot',
  })
  report.summary({ name: '00-host-harden', hold: 31, changed: 2, controls: { hold: 164, total: 164 } })
  report.note('Next: run apply.')
}

test('a page reads as one line for each step, with what is open below it', () => {
  assert.equal(
    written({}, night),
    `00-host-harden  A host that answers only to its owner.
  plan on fortress (admin@192.0.2.10)
ok       1/9 ada can log in with a key
change   2/9 /etc/ssh/sshd_config.d/00-hardening.conf is as declared
           a password can be guessed
           /etc/ssh/sshd_config.d/00-hardening.conf
           @@ -0,0 +1 @@
           +PermitRootLogin no
change   3/9 kernel pointers are hidden from ordinary users
           found: 0
           failed   KRNL-6000  kernel.kptr_restrict is 2: 0
           sysctl --system
           sysctl --values kernel.kptr_restrict
ready    4/9 the clock is in step (41 s)
n/a      5/9 the TPM holds the key
           found: no TPM here
pending  6/9 the new kernel runs
           after the next boot
00-host-harden: 31 steps hold, 2 changed, 164 of 164 controls hold
Next: run apply.
`,
  )
})

test('pages stand apart', () => {
  const page = (name: string) => ({ name, summary: 'A page.' })
  assert.equal(
    written({}, (report) => [page('00-a'), page('10-b')].forEach((p) => report.page(p))),
    '00-a  A page.\n\n10-b  A page.\n',
  )
})

test('of a long answer the first lines are shown, under one label', () => {
  const found = Array.from({ length: 9 }, (_, i) => `no package p${i + 1}`).join('\n')
  assert.equal(
    written({}, (report) =>
      report.step({ state: 'change', index: 1, total: 1, name: 'what watches is installed', found }),
    ),
    `change   1/1 what watches is installed
           found: no package p1
                  no package p2
                  no package p3
                  no package p4
                  no package p5
                  no package p6
                  (3 lines more; --verbose shows them)
`,
  )
})

test('--verbose adds what held, and where a control comes from', () => {
  assert.equal(
    written({ verbose: true }, (report) => {
      report.plan({ steps: 1, controls: 2 })
      report.step({
        state: 'ok',
        index: 1,
        total: 1,
        name: 'swap is off',
        why: 'keys stay in memory',
        found: '',
      })
      report.control({
        id: 'KRNL-5820',
        title: 'core dumps are off',
        state: 'ok',
        found: '0',
        from: ['CIS 1.6.4', 'STIG V-2'],
      })
      report.control({
        id: 'FILE-6310',
        title: '/tmp is separate',
        state: 'waived',
        found: 'no',
        waived: 'one disk',
      })
    }),
    `  1 step, 2 controls
ok       1/1 swap is off
           keys stay in memory
           ok       KRNL-5820  core dumps are off: 0
             from: CIS 1.6.4, STIG V-2
           waived   FILE-6310  /tmp is separate: no
             waived: one disk
`,
  )
})

test('the numbers of steps stand in one column', () => {
  assert.equal(
    written({}, (report) => {
      report.step({ state: 'ok', index: 9, total: 31, name: 'a' })
      report.step({ state: 'changed', index: 10, total: 31, name: 'b' })
    }),
    'ok        9/31 a\nchanged  10/31 b\n',
  )
})

const fault = {
  step: 'SSH takes keys only',
  index: 2,
  total: 4,
  ran: 'sshd -t',
  said: '00-hardening.conf line 3: Bad configuration option\nterminating',
  state: 'the steps above hold',
  next: 'mend this and run apply again',
}
const five = `failed   2/4 SSH takes keys only
  ran:   sshd -t
  said:  00-hardening.conf line 3: Bad configuration option
         terminating
  state: the steps above hold
  next:  mend this and run apply again
`

test('a failure is told in five lines', () => {
  assert.equal(
    written({}, (report) => report.error(fault)),
    five,
  )
})

test('a step that was reported as failed is not named twice', () => {
  assert.equal(
    written({}, (report) => {
      report.step({ state: 'failed', index: 2, total: 4, name: fault.step })
      report.error(fault)
    }),
    five,
  )
})

test('of a long output the end is shown, and how to see all of it', () => {
  const said = Array.from({ length: 30 }, (_, i) => `line ${i + 1}`).join('\n')
  const lines = written({}, (report) => report.error({ ran: 'apt-get install auditd', said })).split('\n')
  assert.deepEqual(lines.slice(0, 3), [
    '  ran:   apt-get install auditd',
    '  said:  (18 lines before this; --verbose shows them)',
    '         line 19',
  ])
  assert.equal(written({ verbose: true }, (report) => report.error({ said })).split('\n').length, 31)
})

for (const [summary, want] of [
  [{ hold: 9 }, 'x: 9 steps hold'],
  [{ hold: 1, changed: 0 }, 'x: 1 step holds'],
  [{ hold: 5, pending: 3, failed: 1 }, 'x: 5 steps hold, 3 would change, 1 failed'],
  [
    { hold: 5, notApplicable: 2, waived: 1, controls: { hold: 10, total: 11 } },
    'x: 5 steps hold, 10 of 11 controls hold, 1 waived, 2 not applicable',
  ],
  [
    { hold: 1, changed: 2, rebooting: 3, controls: { hold: 10, total: 13 } },
    'x: 1 step holds, 2 changed, 10 of 13 controls hold, 3 wait for the next start of the machine',
  ],
] as const)
  test(`the last line: ${want}`, () =>
    assert.equal(
      written({}, (report) => report.summary({ name: 'x', ...summary })),
      `${want}\n`,
    ))

test('with --json every event is one object, and nothing is cut', () => {
  const found = 'x'.repeat(500)
  const text = written({ json: true, tty: true }, (report) => {
    report.page(page)
    report.running({ index: 1, total: 1, name: 'swap is off' })
    report.step({ state: 'change', index: 1, total: 1, name: 'swap is off', found })
    report.note('done')
  })
  assert.deepEqual(
    text
      .trimEnd()
      .split('\n')
      .map((line) => JSON.parse(line) as object),
    [
      { time: '1970-01-01T00:00:00.000Z', event: 'page', ...page },
      { time: '1970-01-01T00:00:00.000Z', event: 'running', index: 1, total: 1, name: 'swap is off' },
      {
        time: '1970-01-01T00:00:00.000Z',
        event: 'step',
        state: 'change',
        index: 1,
        total: 1,
        name: 'swap is off',
        found,
      },
      { time: '1970-01-01T00:00:00.000Z', event: 'note', text: 'done' },
    ],
  )
})

test('the run log gets every event, whatever the terminal gets', () => {
  const events: Event[] = []
  written({ log: (event) => events.push(event) }, night)
  assert.deepEqual(events.map((e) => e.event).slice(0, 4), ['page', 'plan', 'step', 'step'])
})

test('found values are cut to the width of a terminal, and whole in a pipe', () => {
  const tell = (report: Report) =>
    report.step({ state: 'change', index: 1, total: 1, name: 'swap is off', found: 'x'.repeat(100) })
  assert.equal(
    written({ tty: true }, tell, 40),
    `change   1/1 swap is off\n           found: ${'x'.repeat(20)}…\n`,
  )
  assert.equal(written({}, tell), `change   1/1 swap is off\n           found: ${'x'.repeat(100)}\n`)
})

test('of what failed nothing is cut: it goes on below, between words', () => {
  const found = 'other than wanted: APT::Install-Recommends is "false" (/etc/apt/apt.conf.d/99mmdebstrap)'
  const text = written(
    { tty: true },
    (report) => {
      report.step({ state: 'failed', index: 1, total: 2, name: 'only what was chosen is installed', found })
      report.control({ id: 'L05', title: 'APT installs no more', state: 'failed', found })
      report.error({ step: 'only what was chosen is installed', found, next: 'mend it '.repeat(20) })
    },
    60,
  )
  assert.doesNotMatch(text, /…/)
  assert.ok(
    text.split('\n').every((line) => line.length < 60 || !line.trim().includes(' ')),
    text,
  )
  for (const word of found.split(' ')) assert.ok(text.includes(word), word)
})

test('what was generated is shown with --verbose alone', () => {
  const tell = (report: Report) => report.error({ step: 'x', check: 'landed /etc/x cf3d46', found: 'no' })
  assert.equal(written({}, tell), 'failed   x\n  found: no\n')
  assert.match(written({ verbose: true }, tell), /check: landed \/etc\/x cf3d46/)
})

test('NO_COLOR and FORCE_COLOR decide about colour, before the terminal does', () => {
  const [pipe, dumb] = [{ write: () => true }, { write: () => true, isTTY: true, hasColors: () => false }]
  const screen = { write: () => true, isTTY: true, hasColors: () => true }
  assert.deepEqual(
    [
      wantsColor(pipe, {}),
      wantsColor(pipe, { FORCE_COLOR: '1' }),
      wantsColor(screen, {}),
      wantsColor(screen, { NO_COLOR: '1', FORCE_COLOR: '1' }),
      wantsColor(screen, { FORCE_COLOR: '0' }),
      wantsColor(dumb, {}),
    ],
    [false, true, true, false, false, false],
  )
})

describe('a run over many pages', () => {
  const came = (report: Report, name: string, mode: string, state: PageState, more: object = {}) => {
    report.page({ name, summary: 'A page.', mode, machine: 'fortress (admin@192.0.2.10)' })
    report.step({ state: 'ok', index: 1, total: 2, name: 'swap is off' })
    if (state === 'change')
      report.step({ state: 'change', index: 2, total: 2, name: 'the clock is in step', why: 'logs' })
    if (state === 'failed')
      report.step({ state: 'failed', index: 2, total: 2, name: 'the clock is in step', found: 'no' })
    report.summary({ name, hold: 1 })
    report.result({ name, layer: 'L0', mode, state, ...more })
  }
  test('of a plan is one line a page, and its end says what a person has to do first', () => {
    const text = written({ brief: true }, (report) => {
      came(report, '00-host-harden', 'plan', 'change', { counts: '70 to change, 5 hold' })
      came(report, '06-host-firewall', 'plan', 'your turn', { counts: '1 your turn' })
      report.result({
        name: '20-k3s-server',
        layer: 'L2',
        mode: 'plan',
        state: 'not built',
        why: 'it comes later',
      })
      report.end({
        sum: 'Plan for fortress: 70 to change, 5 hold, 1 needs you first',
        stops: [
          { state: 'your turn', pages: '06', what: 'bring the tunnel up', next: 'sudo wg-quick up FILE' },
        ],
        access: 4,
        next: './task build-all (asks first)',
        log: 'x.ndjson',
      })
    })
    assert.equal(
      text,
      `change     00-host-harden      70 to change, 5 hold
your turn  06-host-firewall    1 your turn
not built  20-k3s-server       it comes later

Plan for fortress: 70 to change, 5 hold, 1 needs you first
  your turn  06    bring the tunnel up
                   sudo wg-quick up FILE
  access     4 steps could lock you out; each is undone by itself unless you get in again
Next: ./task build-all (asks first)
Log: x.ndjson
`,
    )
  })
  test('that apply or verify is one line for each page that holds, and what is open of the others', () => {
    const text = written({ brief: true }, (report) => {
      came(report, '00-host-harden', 'verify', 'ok', { counts: '75 hold' })
      came(report, '05-host-wireguard', 'verify', 'failed', { counts: '1 failed' })
    })
    assert.equal(
      text,
      `ok         00-host-harden      75 hold

05-host-wireguard  A page.
  verify on fortress (admin@192.0.2.10)
failed   2/2 the clock is in step
           found: no
05-host-wireguard: 1 step holds
`,
    )
  })
  test('has everything with --verbose, and for a program', () => {
    const tell = (report: Report) => came(report, '00-host-harden', 'plan', 'change')
    assert.match(written({ brief: true, verbose: true }, tell), /swap is off[\s\S]*the clock is in step/)
    assert.match(written({ brief: true, json: true }, tell), /"event":"result".*"state":"change"/)
  })
})

test('colour is an extra: without it the text is the same', () => {
  const coloured = written({ color: true }, night)
  assert.match(coloured, /\u001b\[32mok\u001b\[0m {7}1\/9 ada/)
  assert.equal(coloured.replaceAll(/\u001b\[\d+m/g, ''), written({}, night))
})

test('a line that is cut keeps its colour closed', () => {
  const control = {
    id: 'KRNL-6000',
    title: 'kernel.kptr_restrict is 2 or more',
    state: 'ok',
    found: 'zero',
  } as const
  const text = written({ tty: true, color: true, verbose: true }, (report) => report.control(control), 40)
  assert.equal(text, '           \u001b[32mok\u001b[0m       KRNL-6000  kernel.…\n')
})

for (const [title, text, want] of [
  ['colours', '\u001b[31mred\u001b[0m', 'red'],
  ['a window title', '\u001b]0;owned\u0007text', 'text'],
  ['cursor movement', 'one\u001b[2Atwo', 'onetwo'],
  ['a bell and a bare return', 'a\u0007b\rc', 'a\ufffdb\ufffdc'],
  ['a turned reading direction', 'a\u202eb', 'a\ufffdb'],
  ['a C1 control', 'a\u009bb', 'a\ufffdb'],
  ['line ends of another system', 'a\r\nb\tc', 'a\nb  c'],
] as const)
  test(`text of a machine cannot steer the terminal: ${title}`, () => assert.equal(clean(text), want))

for (const [seconds, want] of [
  [0.4, '0 s'],
  [59.9, '59 s'],
  [60, '1 min 00 s'],
  [182, '3 min 02 s'],
  [3840, '1 h 04 min'],
] as const)
  test(`${seconds} seconds are ${want}`, () => assert.equal(duration(seconds), want))

/** A terminal that understands what a live line needs: up, and clear to the end. Gives what a person sees. */
function screen(stream: string): string[] {
  const lines = ['']
  let row = 0
  for (const piece of stream.match(/\u001b\[\d*[A-Z]|\r|\n|[^\u001b\r\n]+/g) ?? []) {
    const up = /^\u001b\[(\d+)A$/.exec(piece)
    if (up) row -= Number(up[1])
    else if (piece === '\u001b[J') lines.splice(row, Infinity, '')
    else if (piece === '\n') lines[++row] ??= ''
    else if (piece !== '\r') lines[row] += piece
  }
  return lines
}

test('on a terminal, what runs now stands below, with its time, and leaves no trace', () => {
  let text = ''
  let now = 0
  const stdout = { write: (piece: string) => (text += piece), columns: 60, isTTY: true }
  const report = createReport({ stdout, tty: true, color: false, now: () => now })
  report.step({ state: 'ok', index: 1, total: 3, name: 'swap is off' })
  report.running({ index: 2, total: 3, name: 'the clock is in step', limit: 60, saw: 'no' })
  assert.deepEqual(screen(text), [
    'ok       1/3 swap is off',
    'running  2/3 the clock is in step  0 s (limit 1 min), last…',
    '',
  ])
  now = 41_000
  report.running({ index: 2, total: 3, name: 'the clock is in step', limit: 60 })
  assert.deepEqual(screen(text), [
    'ok       1/3 swap is off',
    'running  2/3 the clock is in step  41 s (limit 1 min)',
    '',
  ])
  report.note('a word in between')
  assert.deepEqual(screen(text), [
    'ok       1/3 swap is off',
    'a word in between',
    'running  2/3 the clock is in step  41 s (limit 1 min)',
    '',
  ])
  report.step({ state: 'ready', index: 2, total: 3, name: 'the clock is in step', seconds: 41 })
  report.began({ name: 'types' })
  report.began({ name: 'lint' })
  report.pause()
  report.close()
  assert.deepEqual(screen(text), [
    'ok       1/3 swap is off',
    'a word in between',
    'ready    2/3 the clock is in step (41 s)',
    '',
  ])
})

test('a file on its way is a line for each quarter of it in a pipe, and one that is redrawn on a terminal', () => {
  const way = (report: Report) => {
    for (const part of [1, 30, 60, 90, 100])
      report.transfer({
        name: 'os.img',
        does: 'fetching',
        bytes: part * 2 ** 20,
        total: 100 * 2 ** 20,
        rate: 5 * 2 ** 20,
      })
    report.transfer({
      name: 'os.img',
      does: 'fetching',
      bytes: 100 * 2 ** 20,
      total: 100 * 2 ** 20,
      rate: 5 * 2 ** 20,
      done: true,
    })
  }
  assert.equal(
    written({}, way),
    `  fetching os.img: 30 of 100 MiB, 30 %, 5.0 MiB/s, 14 s left
  fetching os.img: 60 of 100 MiB, 60 %, 5.0 MiB/s, 8 s left
  fetching os.img: 90 of 100 MiB, 90 %, 5.0 MiB/s, 2 s left
  fetching os.img: 100 of 100 MiB, 100 %, 5.0 MiB/s
`,
  )
  const live = written({ tty: true }, way)
  assert.match(live, /fetching os\.img {2}0 s 30 of 100 MiB, 30 %, 5\.0 MiB\/s, 14 s left\n/)
  assert.ok(
    live.endsWith('  fetching os.img: 100 of 100 MiB, 100 %, 5.0 MiB/s\n'),
    JSON.stringify(live.slice(-200)),
  )
})
