// Ctrl-C, a hang-up and a connection that ends, at every moment of a run at a real terminal: what was begun ends, the last line says
// where, and the next run comes to the same end.
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { createHash, randomBytes } from 'node:crypto'
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
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

/** Until it is so. */
async function holds(so: () => boolean): Promise<void> {
  for (let tries = 0; !so(); tries += 1) {
    if (tries > 1200) throw new Error('it never was so')
    await sleep(25)
  }
}

const sizeOf = (path: string): number => statSync(path, { throwIfNoEntry: false })?.size ?? 0

/** A server of one file, that sends half of it to whoever comes first and then nothing more; `whole`: all of it. */
async function halting(t: TestContext, { whole = false } = {}) {
  const file = randomBytes(4 * 1024 * 1024)
  const half = file.length / 2
  const ranges: (string | undefined)[] = []
  const server = createServer((request, response) => {
    const from = Number(/^bytes=(\d+)-$/.exec(request.headers.range ?? '')?.[1] ?? 0)
    ranges.push(request.headers.range)
    response.writeHead(from > 0 ? 206 : 200, {
      etag: '"one"',
      'content-length': file.length - from,
      ...(from > 0 ? { 'content-range': `bytes ${from}-${file.length - 1}/${file.length}` } : {}),
    })
    if (whole || from > 0) response.end(file.subarray(from))
    else response.write(file.subarray(0, half))
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  t.after(() => (server.closeAllConnections(), server.close()))
  const env = (at: Place) => {
    mkdirSync(join(at.dir, 'sent'), { recursive: true })
    return {
      FK_MIRROR: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
      FK_DOWNLOAD_DIR: join(at.dir, 'cache'),
      TRY_SHA256: sha256(file),
    }
  }
  return { file, half, ranges, env }
}

const sha256 = (bytes: Buffer) => createHash('sha256').update(bytes).digest('hex')

/** A bash in front of the real one, whose uploads take their time until the link is mended. */
function slowLink(at: Place) {
  const [bin, log, mended] = ['bin', 'log-of-link', 'mended'].map((name) => join(at.dir, name)) as [
    string,
    string,
    string,
  ]
  mkdirSync(bin)
  const drips =
    'while (sysread(STDIN, $all, 16384)) { syswrite(STDOUT, $all); select(undef, undef, undef, 0.02) }'
  const lines = [
    '#!/bin/bash',
    `if [[ $1 == --noprofile && -z \${THROUGH-} && $* == *'exec cat >&9'* ]]; then`,
    '  export THROUGH=yes',
    `  [[ ! $* =~ -eq\\ ([0-9]+)\\ \\] ]] || echo "\${BASH_REMATCH[1]}" >> ${log}`,
    `  [ -e ${mended} ] || { perl -e '${drips}' | /bin/bash "$@"; exit; }`,
    'fi',
    'exec /bin/bash "$@"',
  ]
  writeFileSync(join(bin, 'bash'), `${lines.join('\n')}\n`, { mode: 0o755 })
  return {
    path: `${bin}:${at.env.PATH}`,
    part: (file: Buffer) => `.file.${sha256(file).slice(0, 16)}.part`,
    mend: () => writeFileSync(mended, ''),
    /** Where each of them began. */
    began: () => readFileSync(log, 'utf8').trim().split('\n').map(Number),
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

  test('before the first step, while it looks: nothing was changed', async (t) => {
    const at = place(t)
    const screen = at.start(['apply'], { TRY: 'first' })
    await comes(at, 'zero16-look') // the last ones are looked at first
    screen.interrupt()
    assert.equal(await screen.ended, 130, screen.text())
    assert.match(last(screen), /Stopped by you\. Nothing was changed\. next: run the same command again/)
    assert.deepEqual([at.has('zero16'), at.has('one')], [false, false])
    await converges(at)
  })

  test('between two steps, while the second is looked at: it does not begin', async (t) => {
    const at = place(t)
    const screen = at.start(['apply'], { TRY: 'between' })
    await comes(at, 'between-look')
    screen.interrupt()
    assert.equal(await screen.ended, 130, screen.text())
    assert.match(
      last(screen),
      /Stopped by you after 1\/7 one is there; nothing is half done Next: \.\/task slow apply/,
    )
    assert.ok(!at.has('between'))
    await converges(at)
  })

  test('by SIGTERM: the step ends, and none after it begins', async (t) => {
    const at = place(t)
    const screen = at.start(['apply'])
    await comes(at, 'two-begun')
    screen.signal('SIGTERM')
    await screen.until(/Stopping when 2\/6 two takes its time has ended/)
    assert.equal(await screen.ended, 143, screen.text())
    assert.match(
      last(screen),
      /Stopped by you after 2\/6 two takes its time; nothing is half done Next: \.\/task slow apply/,
    )
    assert.deepEqual([at.has('two'), at.has('three')], [true, false])
    await converges(at)
  })

  test('in a download: what has come is kept, and the next run goes on from there', async (t) => {
    const at = place(t)
    const server = await halting(t)
    const screen = at.start(['apply'], { TRY: 'upload', ...server.env(at) })
    const part = join(at.dir, 'cache', 'file.part')
    await holds(() => sizeOf(part) === server.half)
    screen.interrupt()
    assert.equal(await screen.ended, 130, screen.text())
    assert.match(
      last(screen),
      /Stopped by you after 1\/7 one is there; nothing is half done Next: \.\/task slow apply/,
    )
    assert.deepEqual([sizeOf(part), at.has('sent/file'), at.has('two')], [server.half, false, false])
    const next = at.start(['apply'], { TRY: 'upload', ...server.env(at) })
    assert.equal(await next.ended, 0, next.text())
    assert.deepEqual(server.ranges, [undefined, `bytes=${server.half}-`])
    assert.deepEqual(readFileSync(join(at.dir, 'sent/file')), server.file)
  })

  test('in an upload: what has arrived is kept, and the next run goes on from there', async (t) => {
    const at = place(t)
    const server = await halting(t, { whole: true })
    const slow = slowLink(at)
    const env = { TRY: 'upload', ...server.env(at), PATH: slow.path }
    const screen = at.start(['apply'], env)
    const arrived = () => sizeOf(join(at.dir, 'sent', slow.part(server.file)))
    await holds(() => arrived() > 0)
    screen.interrupt()
    assert.equal(await screen.ended, 130, screen.text())
    assert.match(
      last(screen),
      /Stopped by you after 1\/7 one is there; nothing is half done Next: \.\/task slow apply/,
    )
    const kept = arrived()
    assert.ok(kept > 0 && kept < server.file.length, `${kept} bytes`)
    assert.deepEqual([at.has('sent/file'), at.has('two')], [false, false])
    slow.mend()
    const next = at.start(['apply'], env)
    assert.equal(await next.ended, 0, next.text())
    assert.deepEqual(slow.began(), [0, kept])
    assert.deepEqual(readFileSync(join(at.dir, 'sent/file')), server.file)
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

  test('at the name that has to be typed: nothing was changed', async (t) => {
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

  test('while a person is waited for: what came before it holds', async (t) => {
    const at = place(t)
    const screen = at.start(['apply'], { TRY: 'person' })
    await screen.until(/your turn +2\/7 a person was here/)
    screen.interrupt()
    assert.equal(await screen.ended, 130, screen.text())
    assert.match(
      last(screen),
      /Stopped by you after 1\/7 one is there; nothing is half done Next: \.\/task slow apply/,
    )
    assert.doesNotMatch(screen.text(), /failed/)
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
    const first = at.start(['apply'], { TRY: 'wait' })
    await first.until(/running +2\/7 it has come up/)
    const screen = at.start(['apply'])
    await screen.until(/waiting: .* is at work there/)
    screen.interrupt()
    assert.equal(await screen.ended, 130, screen.text())
    assert.match(last(screen), /Stopped by you\. Nothing was changed\./)
    writeFileSync(join(at.dir, 'up'), '')
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

  test('in an undo: it ends, and says that it is undone', async (t) => {
    const at = place(t)
    await converges(at)
    const screen = at.start(['undo'])
    await comes(at, 'four-leaves')
    screen.interrupt()
    await screen.until(/Stopping when the undo of 60-slow has ended/)
    assert.equal(await screen.ended, 130, screen.text())
    assert.match(last(screen), /60-slow: undone$/)
    assert.deepEqual([at.has('two'), at.has('four')], [false, false])
    await converges(at)
  })

  // A user whom sudo asks, and who may read this checkout.
  const nobody = ['--reuid=65534', '--regid=65534', '--clear-groups']
  const isAsked =
    spawnSync('setpriv', [...nobody, 'test', '-r', join(root, page)]).status === 0 &&
    spawnSync('sudo', ['--version']).status === 0
  const noSudo = isAsked ? false : 'needs root, sudo, and a checkout that everybody may read'
  test('at the password for sudo: nothing was changed', { skip: noSudo }, async (t) => {
    const at = place(t)
    chmodSync(at.dir, 0o777)
    const words = ['setpriv', ...nobody, process.execPath, '--import', 'tsx', page, 'apply']
    const env = { ...at.env, TRY: 'host', FK_HOST: 'local' }
    const screen = terminal(words, { cwd: root, env })
    await screen.until(/Password for sudo on fortress \(this computer\): /)
    screen.interrupt()
    assert.equal(await screen.ended, 130, screen.text())
    assert.match(last(screen), /Stopped by you\. Nothing was changed\. next: run the same command again/)
    assert.ok(!at.has('one'))
    await converges(at)
  })
})
