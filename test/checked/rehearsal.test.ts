// The first command of the README, as somebody runs it who has just cloned this: no identity, no key, no machine.
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { root } from '../machine/kit.ts'

test('build-all in a fresh clone ends well, and no checker refuses a file of any page', (t) => {
  const home = mkdtempSync(join(tmpdir(), 'fk-fresh-'))
  t.after(() => rmSync(home, { recursive: true }))
  const env = {
    PATH: process.env['PATH'],
    HOME: home,
    FK_ENV_FILE: '/dev/null',
    FK_OUT_DIR: join(home, 'out'),
    FK_STATE_DIR: join(home, 'secrets'),
  }
  const { status, stdout, stderr } = spawnSync(process.execPath, [join(root, 'bin/task.cjs'), 'build-all'], {
    encoding: 'utf8',
    env,
  })
  assert.equal(status, 0, stdout + stderr)
  assert.doesNotMatch(stdout + stderr, /^failed|refused/m)
  assert.match(stdout, /^\d+ pages, \d+ steps, \d+ files; [1-9]\d* checks passed$/m)
})
