// Ctrl-C, a hang-up and a connection that ends, at every moment of a run at a real terminal: what was begun ends, the last line says
// where, and the next run comes to the same end.
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { existsSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type TestContext, describe, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { type Terminal, terminal } from '../terminal.ts'

const root = join(import.meta.dirname, '../..')
const page = 'test/fixtures/pages/60-slow.ts'

/** A directory of its own for each test, and the page run in it. */
function place(t: TestContext) {
  const dir = mkdtempSync(join(tmpdir(), 'fk-stop-'))
  t.after(() => rmSync(dir, { recursive: true, force: true }))
  const env = {
    PATH: process.env['PATH'],
    HOME: dir,
    LANG: 'C.UTF-8',
    TRY_DIR: dir,
    FK_ENV_FILE: '/dev/null',
    FK_HOST: 'admin@192.0.2.10',
    FK_STATE_DIR: join(dir, 'state'),
    FK_AGE_IDENTITY: join(dir, 'identity.txt'),
    FK_LOG_DIR: join(dir, 'log'),
    FK_YES: 'true',
    FK_LOCK_WAIT_SECONDS: '20',
  }
  const start = (words: string[], more: Record<string, string> = {}): Terminal =>
    terminal([process.execPath, '--import', 'tsx', page, ...words], { cwd: root, env: { ...env, ...more } })
  const has = (name: string) => existsSync(join(dir, name))
  return { dir, env, start, has }
}
type Place = ReturnType<typeof place>

/** The last lines of a run, in one. */
const last = (screen: Terminal): string =>
  screen.text().trim().split('\n').slice(-6).join(' ').replaceAll(/\s+/g, ' ')

/** Until it is there; a page has a second for it. */
async function comes(at: Place, name: string): Promise<void> {
  for (let tries = 0; !at.has(name); tries += 1) {
    if (tries > 600) throw new Error(`${name} never came`)
    await sleep(50)
  }
}

/** The next run alone comes to the end. */
async function converges(at: Place): Promise<void> {
  const screen = at.start(['apply'])
  assert.equal(await screen.ended, 0, screen.text())
  for (const name of ['one', 'two', 'three', 'four', 'six'])
    assert.ok(at.has(name), `${name}\n${screen.text()}`)
}

const skip = spawnSync('script', ['--version']).status === 0 ? false : 'needs script (util-linux)'

describe('stopped at a terminal', { skip, concurrency: 2 }, () => {
  test('in the middle of a step: the step ends, and none after it begins', async (t) => {
    const at = place(t)
    const screen = at.start(['apply'])
    await comes(at, 'two-begun')
    screen.interrupt()
    await screen.until(/Stopping when 2\/6 two takes its time has ended\. Ctrl-C again/)
    assert.equal(await screen.ended, 130, screen.text())
    assert.deepEqual([at.has('two'), at.has('three')], [true, false])
    assert.match(
      last(screen),
      /Stopped by you after 2\/6 two takes its time; nothing is half done Next: \.\/task slow apply/,
    )
    assert.doesNotMatch(screen.text(), /failed/)
    await converges(at)
  })

  test('in a transaction: it ends, and is confirmed', async (t) => {
    const at = place(t)
    const screen = at.start(['apply'])
    await comes(at, 'four-begun')
    screen.interrupt()
    await screen.until(/Stopping when the change of 60-slow that could lock you out is confirmed, or/)
    assert.equal(await screen.ended, 130, screen.text())
    assert.match(last(screen), /Stopped by you after 4\/6 four takes its time; nothing is half done/)
    await converges(at)
  })

  test('while something is given back to be stored: it is stored', async (t) => {
    const at = place(t)
    const screen = at.start(['apply'])
    await comes(at, 'four')
    await screen.until(/changed +4\/6 four/)
    await sleep(700)
    screen.interrupt()
    assert.equal(await screen.ended, 130, screen.text())
    assert.match(last(screen), /Stopped by you after 5\/6 five is stored here; nothing is half done/)
    assert.ok(existsSync(join(at.env.FK_STATE_DIR, 'fortress', 'slow-five.age')))
    assert.ok(!at.has('six'))
    await converges(at)
  })

  test('before the first step, while it looks', async (t) => {
    const at = place(t)
    const screen = at.start(['apply'])
    await screen.until(/apply on/)
    screen.interrupt()
    assert.equal(await screen.ended, 130, screen.text())
    assert.match(last(screen), /Stopped by you/)
    await converges(at)
  })

  test('at a question: nothing was changed', async (t) => {
    const at = place(t)
    const screen = at.start([], { FK_YES: 'false' })
    await screen.until(/Apply this to .*\[y\/N\]/)
    screen.interrupt()
    assert.equal(await screen.ended, 130, screen.text())
    assert.match(last(screen), /Stopped by you\. Nothing was changed\. next: run the same command again/)
    assert.ok(!at.has('one'))
    await converges(at)
  })

  test('at the name that has to be typed: what came before it holds', async (t) => {
    const at = place(t)
    const screen = at.start(['apply'], { TRY: 'name' })
    await screen.until(/Type box: /)
    screen.interrupt()
    assert.equal(await screen.ended, 130, screen.text())
    assert.match(
      last(screen),
      /Stopped by you before anything was changed; nothing is half done Next: \.\/task slow apply/,
    )
    await converges(at)
  })

  test('while a person is waited for', async (t) => {
    const at = place(t)
    const screen = at.start(['apply'], { TRY: 'person' })
    await screen.until(/your turn +2\/7 a person was here/)
    screen.interrupt()
    assert.equal(await screen.ended, 130, screen.text())
    assert.match(last(screen), /Stopped by you .*nothing is half done Next: \.\/task slow apply/)
    await converges(at)
  })

  test('in a wait for something to come up', async (t) => {
    const at = place(t)
    const screen = at.start(['apply'], { TRY: 'wait' })
    await screen.until(/running +2\/7 it has come up/)
    screen.interrupt()
    assert.equal(await screen.ended, 130, screen.text())
    assert.match(last(screen), /Stopped by you after 1\/7 one is there; nothing is half done/)
    await converges(at)
  })

  test('while another run holds the lock: that one goes on, and nothing was changed', async (t) => {
    const at = place(t)
    const first = at.start(['apply'])
    await comes(at, 'two-begun')
    const screen = at.start(['apply'])
    await screen.until(/waiting: .* is at work there/)
    screen.interrupt()
    assert.equal(await screen.ended, 130, screen.text())
    assert.match(last(screen), /Stopped by you\. Nothing was changed\./)
    assert.equal(await first.ended, 0, first.text())
  })

  test('twice: it ends at once, says what the machine does, and that is so', async (t) => {
    const at = place(t)
    const screen = at.start(['apply'])
    await comes(at, 'two-begun')
    screen.interrupt()
    await screen.until(/Stopping when/)
    await sleep(400)
    screen.interrupt()
    assert.equal(await screen.ended, 130, screen.text())
    assert.match(
      last(screen),
      /at once: the machine ends the step that it is at, and begins no other\. Next: run the same/,
    )
    await comes(at, 'two')
    await sleep(500)
    assert.ok(!at.has('three'))
    await converges(at)
  })

  test('twice in a transaction: it is rolled back by the next run', async (t) => {
    const at = place(t)
    const screen = at.start(['apply'])
    await comes(at, 'four-begun')
    screen.interrupt()
    await screen.until(/Stopping when/)
    await sleep(400)
    screen.interrupt()
    assert.equal(await screen.ended, 130, screen.text())
    assert.match(last(screen), /at once: the next run rolls it back by itself/)
    await converges(at)
  })

  test('by a hang-up: the step ends, and none after it begins', async (t) => {
    const at = place(t)
    const screen = at.start(['apply'])
    await comes(at, 'two-begun')
    screen.kill()
    await comes(at, 'two')
    await sleep(1500)
    assert.ok(!at.has('four'))
    await converges(at)
  })

  test('in an undo: it ends', async (t) => {
    const at = place(t)
    await converges(at)
    const screen = at.start(['undo'])
    await screen.until(/60-slow/)
    await sleep(600)
    screen.interrupt()
    assert.equal(await screen.ended, 130, screen.text())
    assert.ok(!at.has('two'), screen.text())
    assert.match(last(screen), /undone|Stopped by you/)
    await converges(at)
  })
})
