import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import taskfile from '../../Taskfile.ts'
import { type Call, type Task, type Taskfile, NotHere } from '../../lib/cli/call.ts'
import { parse } from '../../lib/cli/flags.ts'
import { order, runAll } from '../../lib/cli/graph.ts'
import { firstScreen, list } from '../../lib/cli/main.ts'
import { pages } from '../../lib/cli/scripts.ts'
import { page, runbook, several } from '../../lib/cli/tables.ts'
import { createReport } from '../../lib/engine/report.ts'
import { Fault } from '../../lib/ground/fault.ts'

const call = (argv: string[] = [], signal = new AbortController().signal): Call => ({
  name: 'build-all',
  argv,
  signal,
  together: false,
  live: false,
})

test('pages are listed in running order, each with its first comment line', () => {
  const dir = mkdtempSync(join(tmpdir(), 'fk-'))
  mkdirSync(join(dir, 'scripts'))
  writeFileSync(
    join(dir, 'scripts/13-vm-provision.ts'),
    '// A machine that is replaced, not mended.\nexport default 1\n',
  )
  writeFileSync(
    join(dir, 'scripts/00-host-harden.ts'),
    "#!/usr/bin/env tsx\n// A host that answers only to its owner.\n// More.\nexport default script(import.meta, { layer: 'L0' })\n",
  )
  writeFileSync(join(dir, 'scripts/notes.md'), '// no page\n')
  writeFileSync(join(dir, 'scripts/20-mute.ts'), 'export default 1\n')
  assert.deepEqual(pages(dir), [
    {
      number: '00',
      name: 'host-harden',
      file: 'scripts/00-host-harden.ts',
      summary: 'A host that answers only to its owner.',
      layer: 'L0',
    },
    {
      number: '13',
      name: 'vm-provision',
      file: 'scripts/13-vm-provision.ts',
      summary: 'A machine that is replaced, not mended.',
      layer: '',
    },
    { number: '20', name: 'mute', file: 'scripts/20-mute.ts', summary: '', layer: '' },
  ])
  rmSync(dir, { recursive: true })
})

test('a checkout without pages has none', () => {
  assert.deepEqual(pages('/nonexistent'), [])
})

test('the list has a section for each group and one for the pages', () => {
  const file: Taskfile = {
    Everything: {
      'build-all': { does: 'build everything' },
      'undo-all': {
        does: 'take it back',
        takes: { words: [{ name: 'MACHINE', optional: true }], flags: {} },
      },
    },
    Ourselves: { test: { does: 'the tests' } },
  }
  const page = {
    number: '00',
    name: 'host-harden',
    file: 'scripts/00-host-harden.ts',
    summary: 'A host that answers only to its owner.',
    layer: 'L0',
  }
  assert.equal(
    list(file, [page]),
    `./task NAME, and ./task NAME --help says more.

Everything
  build-all           build everything
  undo-all [MACHINE]  take it back

Ourselves
  test                the tests

One page, by name or number: [plan|apply|verify|undo|print]
  00 host-harden      A host that answers only to its owner.
`,
  )
})

test('the first screen and the list fit 80 columns, and every task that the first screen names is there', () => {
  const screen = firstScreen(pages())
  for (const line of [...screen.split('\n'), ...list(taskfile, pages()).split('\n')])
    assert.ok(line.length <= 80, `${line.length}: ${line}`)
  const tasks = Object.values(taskfile).flatMap((section) => Object.keys(section))
  const named = [...screen.matchAll(/\.\/task ([a-z][a-z-]+)/g)].map(([, name]) => name!)
  assert.ok(named.length >= 8)
  for (const name of named) assert.ok(tasks.includes(name), name)
  for (const { number, name } of pages()) assert.ok(screen.includes(`${number} ${name}`), name)
})

test('every page can be started as a program', () => {
  for (const { file } of pages()) {
    const path = join(import.meta.dirname, '../..', file)
    assert.ok(statSync(path).mode & 0o100, `${file} is not executable: chmod +x ${file}`)
    assert.match(readFileSync(path, 'utf8'), /^#!\/usr\/bin\/env -S npx --no-install tsx\n\/\/ /, file)
  }
})

test('only the warning about X25519 is kept from a person', () => {
  const program = `require(${JSON.stringify(join(import.meta.dirname, '../../bin/typescript.cjs'))})
    require(${JSON.stringify(join(import.meta.dirname, '../../lib/ground/secret.ts'))})
    process.emitWarning('The X25519 Web Crypto API algorithm is an experimental feature', 'ExperimentalWarning')
    process.emitWarning('The Ed448 Web Crypto API algorithm is an experimental feature', 'ExperimentalWarning')
    process.emitWarning('The X25519 Web Crypto API algorithm is gone', 'DeprecationWarning')`
  const { stderr } = spawnSync(process.execPath, ['--eval', program], { encoding: 'utf8' })
  assert.equal(stderr.match(/Warning:/g)?.length, 2, stderr)
  assert.match(stderr, /Ed448/)
  assert.match(stderr, /is gone/)
})

test('a page bears the name of a task only where no action of the task is a mode of pages', () => {
  const tasks: Record<string, Task> = Object.assign({}, ...Object.values(taskfile))
  const actions = (name: string) => Object.keys(tasks[name]?.takes?.words[0]?.among ?? { plan: '' })
  const clash = ({ name, number }: { name: string; number: string }) =>
    number in tasks ||
    (name in tasks && actions(name).some((word) => Object.hasOwn(page.words[0].among, word)))
  assert.deepEqual(pages().filter(clash), [])
})

test('of a page with the name of a task the modes are meant for the page', () => {
  const help = (...words: string[]) =>
    spawnSync(
      process.execPath,
      [join(import.meta.dirname, '../../bin/task.cjs'), 'secrets', ...words, '--help'],
      {
        encoding: 'utf8',
      },
    ).stdout
  assert.match(help(), /secrets sops\|rotate\|check\|hook/)
  assert.doesNotMatch(help('apply'), /rotate/)
  assert.match(help('apply'), /plan\|apply\|verify|undo/)
})

test('every need in the Taskfile exists, and none needs itself', () => {
  const tasks: Record<string, Task> = Object.assign({}, ...Object.values(taskfile))
  for (const name of Object.keys(tasks)) assert.ok(order(tasks, name).includes(name))
})

const does = ''
for (const [title, tasks, start, want] of [
  ['a task alone', { a: { does } }, 'a', ['a']],
  ['a chain', { a: { does, needs: ['b'] }, b: { does, needs: ['c'] }, c: { does } }, 'a', ['c', 'b', 'a']],
  [
    'a need of two is run once',
    { a: { does, needs: ['b', 'c'] }, b: { does, needs: ['d'] }, c: { does, needs: ['d'] }, d: { does } },
    'a',
    ['d', 'b', 'c', 'a'],
  ],
] as [string, Record<string, Task>, string, string[]][])
  test(`needs come first: ${title}`, () => assert.deepEqual(order(tasks, start), want))

for (const [title, tasks, start, message] of [
  ['itself', { a: { does, needs: ['a'] } }, 'a', 'These tasks need each other in a circle: a → a'],
  [
    'a circle beyond the start',
    { a: { does, needs: ['b'] }, b: { does, needs: ['c'] }, c: { does, needs: ['b'] } },
    'a',
    'These tasks need each other in a circle: b → c → b',
  ],
  [
    'a misspelt need',
    { check: { does, needs: ['tpyes'] }, types: { does } },
    'check',
    "check needs 'tpyes', and there is no such task. Did you mean types?",
  ],
  [
    'an unknown need',
    { check: { does, needs: ['xyzzy'] } },
    'check',
    "check needs 'xyzzy', and there is no such task.",
  ],
] as [string, Record<string, Task>, string, string][])
  test(`refused: ${title}`, () => assert.throws(() => order(tasks, start), { message }))

const known = '--layer, --from, --only, --diff, --site, --confirm, --yes, --json, --verbose'
for (const [argv, message] of [
  [['--vrebose'], "build-all has no flag '--vrebose'; did you mean --verbose?"],
  [['--qqq'], `build-all has no flag '--qqq': it has ${known}`],
  [['-n'], `build-all has no flag '-n': it has ${known}`],
  [['--no-json'], "build-all has no flag '--no-json'; did you mean --json?"],
  [
    ['--format', 'disk'],
    `build-all has no flag '--format': it has ${known}\nbuild-all takes no words: 'disk' is too much`,
  ],
  [['--site'], '--site needs a value: --site NAME'],
  [['--site='], '--site needs a value: --site NAME'],
  [['--site', '--json'], '--site needs a value: --site NAME'],
  [['--site', 'a', '--site', 'b'], '--site is given twice'],
  [['--json=yes'], '--json takes no value'],
  [['--layer', 'polcy'], "--layer has no 'polcy'; did you mean policy?"],
  [['--layer', 'L9'], "--layer has no 'L9'; did you mean L0?"],
  [
    ['now', '--jsno'],
    "build-all has no flag '--jsno'; did you mean --json?\nbuild-all takes no words: 'now' is too much",
  ],
] as const)
  test(`refused: build-all ${argv.join(' ')}`, () =>
    assert.throws(() => parse(call([...argv]), runbook), { message: `${message}\nNothing was run.` }))

const modes = { words: [{ name: 'mode', among: { plan: '', apply: '' } }, { name: 'NAME' }], flags: {} }
for (const [argv, message] of [
  [['aply', 'a'], "build-all has no mode 'aply'; did you mean apply?"],
  [['explode', 'a'], "build-all has no mode 'explode': it has plan, apply"],
  [['plan'], 'build-all needs NAME: ./task build-all plan|apply NAME'],
  [['plan', 'a', 'b'], "build-all takes plan|apply NAME: 'b' is too much"],
] as const)
  test(`refused: the words ${argv.join(' ')}`, () =>
    assert.throws(() => parse(call([...argv]), modes), { message: `${message}\nNothing was run.` }))

test('a task knows only its own flags', () => {
  assert.throws(() => parse(call(['--site', 'x']), { ...several, words: [{ name: 'X', optional: true }] }), {
    message: "build-all has no flag '--site': it has --json, --verbose\nNothing was run.",
  })
})

test('flags and words are told apart', () => {
  const table = { ...runbook, words: [{ name: 'MACHINE' }] }
  assert.deepEqual(parse(call(['fortress', '--yes', '--site', '012', '--json', '--layer', 'l0']), table), {
    words: ['fortress'],
    yes: true,
    json: true,
    verbose: false,
    site: '012',
    confirm: undefined,
    layer: 'L0',
    from: undefined,
    only: undefined,
    diff: false,
  })
})

/** Runs tasks of which each notes its name when it begins, and answers when it is let. */
async function scheduled(
  needs: Record<string, string[]>,
  outcome: Record<string, number | Error>,
  limit: number,
  keepGoing = false,
) {
  let now = 0
  const events: string[] = []
  let most = 0
  const tasks: Record<string, Task> = Object.fromEntries(
    Object.entries(needs).map(([name, needed]) => [
      name,
      {
        does: `do ${name}`,
        needs: needed,
        run: async () => {
          most = Math.max(most, ++now)
          events.push(`+${name}`)
          await new Promise((resolve) => setTimeout(resolve, 5 * name.length))
          events.push(`-${name}`)
          now -= 1
          const result = outcome[name] ?? 0
          if (result instanceof Error) throw result
          return result
        },
      },
    ]),
  )
  const text: string[] = []
  const report = createReport({ stdout: { write: (t) => text.push(t) }, tty: false })
  const last = Object.keys(needs).at(-1) as string
  const code = await runAll(order(tasks, last), tasks, report, call(), limit, keepGoing)
  return { code, events, most, text: text.join('') }
}

test('what does not depend on each other runs at once, up to the limit', async () => {
  const needs = { a: [], b: [], c: [], all: ['a', 'b', 'c'] }
  assert.equal((await scheduled(needs, {}, 2)).most, 2)
  assert.equal((await scheduled(needs, {}, 8)).most, 3)
  assert.deepEqual((await scheduled(needs, {}, 1)).events, [
    '+a',
    '-a',
    '+b',
    '-b',
    '+c',
    '-c',
    '+all',
    '-all',
  ])
})

test('after a failure nothing new begins, and what runs may end', async () => {
  const { code, events, text } = await scheduled(
    { a: [], slow: [], next: ['a'], all: ['next', 'slow'] },
    { a: new Fault('the disk is full', { ran: 'make a', said: 'no space left', next: 'make room' }) },
    2,
  )
  assert.equal(code, 1)
  assert.deepEqual(events, ['+a', '+slow', '-a', '-slow'])
  assert.equal(
    text,
    `failed   1/4 a: do a
  ran:   make a
  said:  no space left
  next:  make room
ok       2/4 slow: do slow
not started: next, all
`,
  )
})

test('a task that keeps going runs all that can still run', async () => {
  const { code, events } = await scheduled({ a: [], b: [], onA: ['a'], all: ['onA', 'b'] }, { a: 1 }, 1, true)
  assert.equal(code, 1)
  assert.deepEqual(events, ['+a', '-a', '+b', '-b'])
})

test('a check that cannot be made here is passed over, and said', async () => {
  const text: string[] = []
  const report = createReport({ stdout: { write: (t) => text.push(t) }, tty: false })
  const absent = () => {
    throw new NotHere('shellcheck is not installed')
  }
  const tasks: Record<string, Task> = {
    plans: { does: 'the plans are sound', run: absent },
    all: { does, needs: ['plans'], run: () => 0 },
  }
  assert.equal(await runAll(['plans', 'all'], tasks, report, call(), 2), 0)
  assert.equal(
    text.join(''),
    'n/a      1/2 plans: the plans are sound\n           shellcheck is not installed\nok       2/2 all: \n',
  )
})

test('pending changes are told by exit code 2, and a failure is worse', async () => {
  assert.equal((await scheduled({ a: [], b: ['a'] }, { a: 2 }, 1)).code, 2)
  assert.equal((await scheduled({ a: [], b: [], c: ['a', 'b'] }, { a: 2, b: 1 }, 2)).code, 1)
})

test('after Ctrl-C nothing new begins', async () => {
  const stop = new AbortController()
  const begun: string[] = []
  const tasks: Record<string, Task> = {
    a: { does, run: () => (begun.push('a'), stop.abort(), 0) },
    b: { does, needs: ['a'], run: () => (begun.push('b'), 0) },
  }
  const report = createReport({ stdout: { write: () => true } })
  await runAll(['a', 'b'], tasks, report, call([], stop.signal), 2)
  assert.deepEqual(begun, ['a'])
})
