// A command as the lab runs it; how commands run at all is tested in test/ground/laptop.test.ts.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { $ } from '../lib/ground/laptop.ts'
import { done } from '../lib/lab/command.ts'

test('a program that is missing is told with what installs it', async () => {
  await assert.rejects(done($`nonesuch-program`), {
    message: 'nonesuch-program is not installed',
    next: 'sudo npx task lab setup',
  })
})

test('a full disk is told with what makes room', async () => {
  const said = 'cp: error writing: No space left on device'
  await assert.rejects(done($`sh -c ${`echo '${said}' >&2; exit 1`}`), {
    message: 'sh failed (exit 1)',
    said,
    next: 'make room, or name another directory in FK_LAB_DIR',
  })
})

test('any other failure is told as it is', async () => {
  await assert.rejects(done($`sh -c ${'echo oops >&2; exit 3'}`), { said: 'oops', next: undefined })
  assert.equal((await done($`sh -c ${'exit 3'}`, { code: 'any' })).exitCode, 3)
})
