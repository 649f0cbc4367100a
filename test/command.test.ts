// Programs of this computer as the lab runs them: no shell may show through, and none may be waited for without end.
import assert from 'node:assert/strict'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { run, zx } from '../lib/lab/command.ts'

const dir = mkdtempSync(join(tmpdir(), 'command-'))
after(() => rmSync(dir, { recursive: true }))

test('words arrive as they are, whatever a shell would make of them', async () => {
  const words = ['', "it's", '$HOME `id` $(id)', '"*"', 'a\nb', '\\', 'ü', '--', '!']
  const { stdout } = await run('printf', ['%s\\0', ...words])
  assert.deepEqual(stdout.split('\0').slice(0, -1), words)
})

test('what a program says is whole, also where a letter stands across two chunks', async () => {
  const input = `a${'é'.repeat(500_000)}`
  assert.equal((await run('cat', [], { input })).stdout, input)
})

test('a program may end without reading what it is given, and reads nothing when it is given nothing', async () => {
  assert.equal((await run('true', [], { input: 'x'.repeat(5_000_000) })).code, 0)
  assert.equal((await run('cat', [])).stdout, '')
})

test('lines are told one by one, also the last without an end', async () => {
  const lines: string[] = []
  await run('printf', ['one\ntwo'], { onLine: (line) => lines.push(line) })
  assert.deepEqual(lines, ['one', 'two'])
})

test('a program that fails is a fault with its last words, from the log as well', async () => {
  const words = ['-c', 'echo out; echo oops >&2; exit 3']
  const fault = { message: 'sh failed (exit 3)', said: 'oops', ran: `sh -c '${words[1]}'` }
  await assert.rejects(run('sh', words), fault)
  const log = join(dir, 'log')
  await assert.rejects(run('sh', words, { log }), fault)
  assert.equal(readFileSync(log, 'utf8'), 'oops\n')
  assert.deepEqual(await run('sh', words, { code: 'any' }), { code: 3, stdout: 'out\n', stderr: 'oops\n' })
})

test('a program that takes too long is ended, and what it has started holds nobody up', async () => {
  await assert.rejects(run('sh', ['-c', 'sleep 7 & exec sleep 60'], { seconds: 0.3, code: 'any' }), {
    message: 'sh had not ended after 0.3 s',
  })
})

test('a program that kills itself is told by its signal, not by the exit code of a shell', async () => {
  await assert.rejects(run('sh', ['-c', 'kill -KILL $$'], { code: 'any' }), {
    message: 'sh was ended by SIGKILL',
  })
})

test('a program that is not here, and one that cannot start, are faults', async () => {
  await assert.rejects(run('nonesuch-program', []), { message: 'nonesuch-program is not installed' })
  await assert.rejects(run('true', ['x'.repeat(200_000)]), { said: 'spawn E2BIG' })
})

test('further variables join those of this process', async () => {
  const { stdout } = await run('sh', ['-c', 'echo "$ONE:${PATH:+path}"'], { env: { ONE: '1' } })
  assert.equal(stdout, '1:path\n')
})

test('a program that is started for a person may end as it likes', async () => {
  assert.equal((await zx()`sh -c ${'exit 7'}`).exitCode, 7)
})
