// The runner of the tests: what it keeps out of them, and what it says.
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { cpSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { root } from '../lib/ground/root.ts'

const scratch = mkdtempSync(join(tmpdir(), 'fk-run-'))
after(() => rmSync(scratch, { recursive: true, force: true }))

function run(texts: Record<string, string>, env: Record<string, string> = {}) {
  const files = Object.entries(texts).map(([name, text]) => {
    const file = join(scratch, `${name}.test.ts`)
    writeFileSync(
      file,
      `import assert from 'node:assert/strict'\nimport { test } from 'node:test'\n${text}\n`,
    )
    return file
  })
  const { status, stdout, stderr } = spawnSync(process.execPath, [join(root, 'test/run.cjs'), ...files], {
    encoding: 'utf8',
    // What chooses tiers for the suite is not for the runs that this file makes.
    env: { ...process.env, FK_TEST_REQUIRE: '', FK_LAB_DIR: undefined, ...env },
  })
  // Paths from the checkout, whatever it is called, and times.
  const said = stdout.replaceAll(/\S*\/(\w+\.test\.ts)/g, '$1').replaceAll(/[\d.]+ s\b/g, 'N s')
  return { status, said, stderr }
}

test('what a person has set for the kit is not for the tests, nor what lies at home', () => {
  const { status, said } = run(
    {
      clean: `
import { readdirSync } from 'node:fs'
import { homedir } from 'node:os'
test('clean', () => {
  const names = Object.keys(process.env).filter((name) => /^(FK_|DEBUG$)/.test(name))
  assert.deepEqual(names.sort(), ['FK_ENV_FILE', 'FK_TEST_ANY', 'FK_TEST_REQUIRE'])
  assert.deepEqual(readdirSync(homedir()), [])
})`,
    },
    { FK_HOST: 'local', FK_SITE: 'pitower', FK_TEST_ANY: '1', DEBUG: '1' },
  )
  assert.equal(status, 0, said)
})

test('a file is named as it begins and as it ends, with its counts; what fails stands at the end once more', () => {
  const { status, said } = run({
    good: "test('holds', () => {})\ntest('later', { skip: 'no machine' }, () => {})",
    bad: "test('breaks', () => assert.equal(1, 2))\ntest('slow', () => new Promise((done) => setTimeout(done, 1100)))",
  })
  assert.equal(status, 1)
  for (const line of [
    'begins   good.test.ts',
    'passed   good.test.ts: 1 passed, 1 skipped, N s (1 of 2)',
    'begins   bad.test.ts',
    '  ok     bad: slow (N s)',
    'failed   bad.test.ts: 1 passed, 1 failed, N s (2 of 2)',
    'failed   bad.test.ts: breaks',
    'failed   chosen   2 passed, 1 failed, 1 skipped: no machine',
  ])
    assert.ok(said.split('\n').includes(line), `${line}\nis not in\n${said}`)
  assert.match(said, /1 !== 2/)
})

test('what is skipped in a file that is named is a failure where that is required', () => {
  const files = { later: "test('later', { skip: 'no machine' }, () => {})" }
  assert.equal(run(files).status, 0)
  const { status, said } = run(files, { FK_TEST_REQUIRE: 'chosen' })
  assert.equal(status, 1)
  assert.match(said, /^failed {3}chosen {3}0 passed, 1 skipped: no machine$/m)
})

test('a file whose process dies has failed, and so has one that cannot be read', () => {
  const { status, said } = run({
    dies: "test('before', () => {})\ntest('dies', () => process.kill(process.pid, 'SIGKILL'))",
    wrong: "test('never', () => {}",
  })
  assert.equal(status, 1)
  assert.match(said, /^failed {3}dies\.test\.ts: its process ended with SIGKILL$/m)
  assert.match(said, /^failed {3}wrong\.test\.ts: /m)
})

test('without the libraries it says what to run', () => {
  const bare = join(scratch, 'bare')
  mkdirSync(join(bare, 'test'), { recursive: true })
  cpSync(join(root, 'bin'), join(bare, 'bin'), { recursive: true })
  cpSync(join(root, 'test/run.cjs'), join(bare, 'test/run.cjs'))
  const { status, stdout, stderr } = spawnSync(process.execPath, [join(bare, 'test/run.cjs')], {
    encoding: 'utf8',
  })
  assert.deepEqual([status, stdout], [69, ''])
  assert.equal(stderr, `The libraries are not installed yet. Run this once: (cd ${bare} && npm ci)\n`)
})
