import assert from 'node:assert/strict'
import { execFileSync, spawnSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, test } from 'node:test'
import { file } from '../../lib/engine/file.ts'
import { printed } from '../../lib/engine/print.ts'
import { type Numbered, applyProgram, checkProgram, plain, undoProgram } from '../../lib/engine/program.ts'
import type { Change, Step } from '../../lib/engine/step.ts'
import { root } from '../../lib/ground/root.ts'
import { Secret } from '../../lib/ground/secret.ts'
import { Command, feed, sh } from '../../lib/ground/sh.ts'

const steps: Step[] = [
  {
    name: 'it\'s "quoted" $(here)',
    check: sh`false`,
    apply: [sh`true`],
    undo: [sh`echo back`, sh`echo again`],
  },
  { name: 'fed', check: sh`false`, apply: [feed(new Secret('key', () => "hun'ter2"))`cat > /dev/null`] },
  {
    name: 'saved',
    check: sh`true`,
    apply: [],
    save: { name: 'x', command: sh`echo 1` },
    undo: [sh`echo third`],
  } as Change,
  { name: 'asked', check: sh`true`, help: 'do it', typed: 'yes' },
  { name: 'waited for', until: sh`true`, seconds: 7 },
]
const numbered: Numbered[] = steps.map((step, index) => ({ step, index }))
const transaction = { id: '50-page-x', seconds: 60 }
const apply = { page: '50-page', steps: numbered, all: steps, owner: 'ada@laptop' }

describe('every program is whole bash, and says so at its end', () => {
  const cases = {
    checks: () => checkProgram({ page: '50-page', steps: numbered }),
    'checks of a run': () => checkProgram({ page: '50-page', steps: numbered, owner: 'ada@laptop' }),
    applies: () => applyProgram({ ...apply, saved: { x: 'abc' }, sent: { '/opt/a b': 'def' } }),
    'applies as a transaction': () => applyProgram({ ...apply, transaction }),
    undoes: () => undoProgram(apply),
    'undoes as a transaction': () => undoProgram({ ...apply, transaction }),
    states: () => plain('it', ['answer done']),
  }
  for (const [what, make] of Object.entries(cases))
    test(what, async () => {
      const { text, nonce } = await make()
      execFileSync('bash', ['-n'], { input: text })
      assert.ok(text.endsWith(`frame finished\nexit 0 # ${nonce}\n`))
    })
})

test('a secret file of the laptop is refused: what keeps its digest there belongs to root', async () => {
  const steps = [
    { index: 0, step: file('/etc/key', { secret: new Secret('key', async () => 'x'), mode: '600' }) },
  ]
  const refused =
    /^TypeError: \/etc\/key holds a secret, and 50-page runs on the laptop: file\(\{ secret \}\) is for machines/
  const laptop = { page: '50-page', shell: { on: 'laptop' as const }, steps }
  await assert.rejects(checkProgram(laptop), refused)
  await assert.rejects(checkProgram({ ...laptop, shell: { on: 'api' } }), refused)
  await checkProgram({ ...laptop, shell: { on: 'host' } })
  const page = { name: '50-page', summary: 'A page.', on: 'laptop' as const, steps: [steps[0]!.step] }
  assert.throws(() => printed(page), refused)
})

test('checks need no secret, and no function that changes anything', async () => {
  const { text } = await checkProgram({ page: '50-page', steps: numbered })
  assert.doesNotMatch(text, /hun|fk_apply_\d/)
})

test('a secret is a variable of the program and never a word of a command', async () => {
  const { text } = await applyProgram(apply)
  assert.equal(text.match(/hun.*ter2/g)?.length, 1)
  assert.match(text, /^fk_secret_0=.*ter2/m)
  assert.match(text, /^fk_do 1 0 300 .* "\$fk_secret_0" \|\| return$/m)
})

test('a demand that a person has met is not checked again', async () => {
  const { text } = await applyProgram({ ...apply, steps: [{ ...numbered[3]!, met: true }] })
  assert.match(text, /^frame check 3 before 0 typed; frame end 3 ok$/m)
})

test('what runs ahead of a check is for a run, where steps before it may not be applied', async () => {
  const step: Change = { name: 'a', ahead: sh`echo declared > file`, check: sh`cat file`, apply: [sh`true`] }
  const { text } = await checkProgram({ page: '50-page', steps: [{ step, index: 0 }] })
  assert.match(text, /fk_check_0\(\) \{\necho declared > file\ncat file\n\}/)
})

test('undo goes from the last step to the first, each in its own order', async () => {
  const { text } = await undoProgram(apply)
  const order = [...text.matchAll(/^ {2}fk_do (\d+) (\d+) /gm)].map(([, n, j]) => `${n}.${j}`)
  assert.deepEqual(order, ['2.0', '0.0', '0.1'])
})

test('what stands against an undo is asked before anything of it begins, and is its answer', async () => {
  const state = mkdtempSync(join(tmpdir(), 'fk-undo-'))
  try {
    const undo = async (undoable: Command) => {
      const kept = join(state, 'pages/50-page')
      mkdirSync(kept, { recursive: true })
      writeFileSync(join(kept, 'steps'), 'first\nlast\n')
      for (const name of ['touched', 'left', 'packages', 'units', 'modes'])
        writeFileSync(join(kept, name), '')
      const all: Step[] = [
        {
          name: 'first',
          check: sh`true`,
          apply: [],
          undo: [sh`echo undone >> ${join(state, 'ran')}`],
          undoable,
        },
        { name: 'last', check: sh`true`, apply: [], undo: [sh`echo undone >> ${join(state, 'ran')}`] },
      ]
      writeFileSync(join(state, 'ran'), '')
      const { text } = await undoProgram({ page: '50-page', owner: 'ada@laptop', all, shell: { on: 'api' } })
      const said = spawnSync('bash', {
        input: text,
        encoding: 'utf8',
        env: { ...process.env, FK_STATE: state },
      })
      return { said: said.stdout + said.stderr, ran: readFileSync(join(state, 'ran'), 'utf8') }
    }
    const refused = await undo(sh`echo 'pods use it' && false`)
    assert.match(refused.said, /\tundone\trefused\tpods use it\t/)
    assert.equal(refused.ran, '')
    const done = await undo(sh`echo 'nobody uses it'`)
    assert.doesNotMatch(done.said, /refused|nobody/)
    assert.equal(done.ran, 'undone\nundone\n')
  } finally {
    rmSync(state, { recursive: true })
  }
})

test('what was sent and stored is written down for the machine', async () => {
  const { text } = await applyProgram({ ...apply, saved: { x: 'abc' }, sent: { '/opt/a b': 'def' } })
  assert.match(text, /export FK_SENT=.*def \/opt\/a b/)
  assert.match(
    text,
    /^rm --force "\$FK_STATE"\/pages\/\*\/saved\/x\n.*printf '%s\\n' abc > "\$FK_STATE\/pages\/\$FK_PAGE\/saved\/"x$/m,
  )
})

test('what the laptop has saved is known to every page, whichever saved it', () => {
  const state = mkdtempSync(join(tmpdir(), 'fk-saved-'))
  try {
    mkdirSync(join(state, 'pages/28-new/saved'), { recursive: true })
    writeFileSync(join(state, 'pages/28-new/saved/x'), 'abc\n')
    const [saved] = /^saved\(\) .*$/m.exec(readFileSync(join(root, 'lib/engine/shell/frame.sh'), 'utf8'))!
    const asked = (digest: string) =>
      spawnSync('bash', ['-c', `${saved}\nFK_STATE=${state} FK_PAGE=20-old; saved x "${digest}"`]).status
    assert.deepEqual([asked('abc'), asked('def'), asked('')], [0, 1, 1])
  } finally {
    rmSync(state, { recursive: true })
  }
})

test('the files of a page are compared by one look at all of them, and what another one says is shown', async (t) => {
  const dir = mkdtempSync(join(tmpdir(), 'fk-program-'))
  t.after(() => rmSync(dir, { recursive: true, force: true }))
  const owner = execFileSync('bash', ['-c', 'echo "$(id --user --name):$(id --group --name)"'])
  const files: [name: string, there: string | undefined, mode: number][] = [
    ['same', 'a\n', 0o644],
    ['other', 'b\n\\t\nlast', 0o644],
    ['empty', '', 0o644],
    ['absent', undefined, 0o644],
    ['open', 'a\n', 0o666],
  ]
  for (const [name, there, mode] of files)
    if (there !== undefined)
      execFileSync(
        'bash',
        ['-c', 'umask 0; cat > "$0" && chmod "$1" "$0"', join(dir, name), mode.toString(8)],
        { input: there },
      )
  const { text } = await checkProgram({
    page: '50-page',
    steps: files.map(([name], index) => ({
      step: file(join(dir, name), { text: 'a\n', owner: String(owner).trim() }),
      index,
    })),
  })
  const counted = join(dir, 'counted')
  writeFileSync(counted, '')
  const said = execFileSync(
    'bash',
    ['-c', `sha256sum() { echo >> ${counted}; command sha256sum "$@"; }; export -f sha256sum\n${text}`],
    { encoding: 'utf8', env: { ...process.env, FK_STATE: join(dir, 'state') } },
  )
  const checks = said
    .split('\n')
    .map((line) => line.split('\t').slice(1))
    .filter(([kind]) => kind === 'check')
  assert.deepEqual(
    checks.map(([, n, , code, shown]) => `${n} ${code} ${shown}`).toSorted(),
    [
      '0 0 ',
      '1 1 b\\n\\\\t\\nlast',
      '2 1 ',
      '3 1 ',
      '4 2 mode and owner are 666 root:root, and should be 644 root:root',
    ].map((line) => line.replaceAll('root:root', String(owner).trim())),
  )
  // One look at all, and one at the file of which only the mode is another.
  assert.equal(readFileSync(counted, 'utf8').length, 2)
})

describe('checks that need no shell of their own are asked in one', () => {
  const shell = {
    library: new Command(
      [
        '# in one shell: says returns breaks ends',
        'says() { echo "in $BASHPID"; echo; }',
        'returns() { echo "$1"; return "$1"; }',
        'breaks() { echo "$not_set"; }',
        'ends() { echo over; exit 7; }',
        'other() { echo "alone in $BASHPID"; }',
      ].join('\n'),
      undefined,
      'a test',
    ),
  }
  const ask = async (...checks: string[]) => {
    const dir = mkdtempSync(join(tmpdir(), 'fk-program-'))
    const { text } = await checkProgram({
      page: '50-page',
      shell,
      steps: checks.map((check, index) => ({
        step: { name: `${index}`, check: new Command(check, undefined, 'a test'), apply: [sh`true`] },
        index,
      })),
    })
    const said = execFileSync('bash', ['-c', `nproc() { echo 1; }\n${text}`], {
      encoding: 'utf8',
      env: { ...process.env, FK_STATE: join(dir, 'state') },
    })
    rmSync(dir, { recursive: true })
    const found = new Map<number, [code: number, said: string]>()
    for (const [, kind, n, , code, shown] of said.split('\n').map((line) => line.split('\t')))
      if (kind === 'check') found.set(Number(n), [Number(code), shown ?? ''])
    return checks.map((_, index) => found.get(index))
  }

  test('their answers and codes are those of any check', async () => {
    assert.deepEqual(await ask('returns 0', "returns 100 && says 'x'", 'returns 3'), [
      [0, '0'],
      [100, '100'],
      [3, '3'],
    ])
  })
  test('they share one shell, and all others have their own', async () => {
    const all = await ask('says', 'says && says', 'other', 'says; says', 'says $(true)', 'other')
    const shells = all.map((one) => /\d+$/.exec(one?.[1] ?? '')?.[0])
    assert.equal(shells[0], shells[1])
    assert.equal(new Set(shells).size, 5)
  })
  test('what ends the shell in the middle is asked once more in one of its own, and the rest is checked', async () => {
    const all = await ask('returns 0', 'breaks', 'returns 4', 'ends', 'returns 0', 'returns 5')
    assert.deepEqual(
      all.map((one) => one?.[0]),
      [0, 1, 4, 7, 0, 5],
    )
    assert.match(all[1]?.[1] ?? '', /not_set: unbound variable$/)
    assert.equal(all[3]?.[1], 'over')
  })
})
