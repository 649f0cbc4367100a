// Ctrl-C, a session that is killed and a line that goes dead, over a real sshd and from a laptop with a network of its own: the last
// lines say what is so on the machine, and the next run comes to the same end.
import assert from 'node:assert/strict'
import { existsSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { after, afterEach, before, describe, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { type Terminal, terminal } from '../terminal.ts'
import { type Kit, node, root } from './kit.ts'
import { type Laptop, laptop } from './laptop.ts'

const page = 'test/fixtures/pages/60-slow.ts'
const dir = '/var/tmp/try'
const number = 233
const namespace = `fk-laptop-${number}`
/** Seconds after which a transaction that nobody confirms is rolled back. */
const DEADMAN = 30

/** The last lines of a run, in one. */
const last = (screen: Terminal): string =>
  screen.text().trim().split('\n').slice(-9).join(' ').replaceAll(/\s+/g, ' ')

const skip = process.getuid?.() === 0 ? false : 'it needs root'
describe('over a real sshd', { skip }, () => {
  let kit: Kit & { end(): Promise<void> }
  let person: Laptop
  before(async () => {
    kit = await node(undefined, 'severed')
    person = await laptop(number)
  })
  after(async () => {
    await person?.end()
    await kit?.end()
  })
  afterEach(async () => {
    await mend()
    const undone = await start('undo')
    assert.equal(await undone.ended, 0, undone.text())
    await kit.root(`rm --recursive --force ${dir}`)
    rmSync(stored(), { force: true })
  })

  const env = () => ({
    PATH: process.env['PATH'],
    HOME: process.env['HOME'],
    LANG: 'C.UTF-8',
    ...kit.env,
    TRY: 'far',
    TRY_DIR: dir,
    FK_YES: 'true',
    FK_DEADMAN_SECONDS: String(DEADMAN),
  })
  const stored = () => join(kit.state, 'fortress', 'slow-five.age')
  const start = async (...words: string[]): Promise<Terminal> => {
    await kit.root(`mkdir --parents ${dir}`)
    return terminal([process.execPath, '--import', 'tsx', page, ...words], {
      cwd: root,
      namespace,
      env: env(),
    })
  }
  /** Until a file is there on the machine: it is looked at by the test's own way. */
  const comes = async (name: string): Promise<void> => {
    const { code } = await kit.root(
      `for try in {1..400}; do [ -e ${dir}/${name} ] && exit 0; sleep 0.05; done; exit 1`,
    )
    assert.equal(code, 0, `${name} never came`)
  }
  const has = async (path: string): Promise<boolean> => (await kit.root(`test -e ${path}`)).code === 0
  const all = async (...names: string[]): Promise<boolean[]> =>
    Promise.all(names.map((name) => has(name.startsWith('/') ? name : `${dir}/${name}`)))
  /** Nothing passes any more, and neither end hears of it. */
  const goDead = () => person.run('ip', 'link', 'set', 'eth0', 'down')
  const mend = () => person.run('ip', 'link', 'set', 'eth0', 'up')
  /** The sessions of the laptop end on the machine, as when sshd is killed; those of the test are from another address. */
  const killSession = async (): Promise<void> => {
    const { code, stdout } = await kit.root(
      `ss --no-header --tcp --numeric --processes state established dst ${person.address} | grep --only-matching 'pid=[0-9]*' |
        cut --delimiter== --fields=2 | sort --unique | xargs --no-run-if-empty kill -KILL -- && echo killed`,
    )
    assert.match(stdout, /killed/, `${code}`)
  }
  const converges = async (): Promise<void> => {
    await mend()
    const screen = await start('apply')
    assert.equal(await screen.ended, 0, screen.text())
    assert.deepEqual(
      await all('one', 'two', 'three', '/etc/fk-four', 'six'),
      Array(5).fill(true),
      screen.text(),
    )
    assert.ok(existsSync(stored()), screen.text())
  }

  test('Ctrl-C in a step: the step ends, and none after it begins', async () => {
    const screen = await start('apply')
    await comes('two-begun')
    screen.interrupt()
    await screen.until(/Stopping when 2\/6 two takes its time has ended/)
    assert.equal(await screen.ended, 130, screen.text())
    assert.match(last(screen), /Stopped by you after 2\/6 two takes its time; nothing is half done Next: /)
    assert.deepEqual(await all('two', 'three'), [true, false])
    await converges()
  })

  test('Ctrl-C in a transaction: it ends, and is confirmed by a new login', async () => {
    const screen = await start('apply')
    await comes('four-begun')
    screen.interrupt()
    await screen.until(/Stopping when the change of 60-slow that could lock you out is confirmed, or/)
    assert.equal(await screen.ended, 130, screen.text())
    assert.match(last(screen), /Stopped by you after 4\/6 four takes its time; nothing is half done/)
    assert.deepEqual(await all('/etc/fk-four', 'five-begun'), [true, false])
    assert.equal((await kit.root('ls /var/lib/fortress/tx 2> /dev/null')).stdout, '')
    await converges()
  })

  test('at the question of build-all: nothing was changed', async () => {
    const words = [process.execPath, 'bin/task.cjs', 'build-all', '--only', '00-host-harden']
    const screen = terminal(words, { cwd: root, namespace, env: { ...env(), FK_YES: 'false' } })
    await screen.until(/Apply 1 page to .*\[y\/N\]/s)
    screen.interrupt()
    assert.equal(await screen.ended, 130, screen.text())
    assert.match(last(screen), /Stopped by you\. Nothing was changed\. next: run the same command again/)
    assert.equal((await kit.root('ls /var/lib/fortress/pages 2> /dev/null')).stdout, '')
  })

  test('the session is killed in a step: the step ends there, and none after it begins', async () => {
    const screen = await start('apply')
    await comes('two-begun')
    await killSession()
    assert.equal(await screen.ended, 1, screen.text())
    assert.match(
      last(screen),
      /failed 2\/6 two takes its time .* it ends this one by itself, and goes on until it notices next: run it again/,
    )
    assert.match(last(screen), /4 steps were not heard of\./)
    await comes('two')
    await sleep(2000)
    assert.deepEqual(await all('three'), [false])
    await converges()
  })

  test('the session is killed in a transaction: the machine ends it, and a new login confirms it', async () => {
    const screen = await start('apply')
    await comes('four-begun')
    await killSession()
    assert.equal(await screen.ended, 0, screen.text())
    assert.doesNotMatch(screen.text(), /failed/)
    assert.match(screen.text(), /changed +4\/6 four takes its time\n[\s\S]*changed +6\/6 six is there\n/)
    await converges()
  })

  test('the session is killed while something is given back: half of it is not stored', async () => {
    const screen = await start('apply')
    await comes('five-begun')
    await killSession()
    assert.equal(await screen.ended, 1, screen.text())
    assert.match(last(screen), /failed 5\/6 five is stored here .* it ends this one by itself/)
    assert.deepEqual([existsSync(stored()), await has(`${dir}/six`)], [false, false])
    await converges()
  })

  test('the line goes dead in a step: the machine ends it, and the run does not say what it cannot know', async () => {
    const screen = await start('apply')
    await comes('two-begun')
    await goDead()
    assert.equal(await screen.ended, 1, screen.text())
    assert.match(
      last(screen),
      /failed 2\/6 two takes its time .* goes on until it notices .*4 steps were not heard of\./,
    )
    // What stands in a transaction has not begun: that waits for the laptop.
    assert.deepEqual(await all('two', 'four-begun'), [true, false])
    await converges()
  })

  test('the line goes dead in a transaction: the machine rolls it back when the run says so', async () => {
    const screen = await start('apply')
    await comes('four-begun')
    const began = Date.now()
    await goDead()
    assert.equal(await screen.ended, 1, screen.text())
    assert.match(
      last(screen),
      /the machine rolls these steps back by itself, 30 s after they began next: find out why/,
    )
    await sleep(Math.max(0, began + (DEADMAN + 5) * 1000 - Date.now()))
    assert.deepEqual(await all('/etc/fk-four', 'three'), [false, true])
    await converges()
  })

  test('the line goes dead when something is stored: the run says that it is', async () => {
    const screen = await start('apply')
    await comes('five-stored')
    await goDead()
    assert.equal(await screen.ended, 1, screen.text())
    assert.match(
      last(screen),
      /failed 5\/6 five is stored here .* slow-five is stored on this laptop; whether the machine has noted that is not known/,
    )
    assert.deepEqual([existsSync(stored()), await has(`${dir}/six`)], [true, false])
    await converges()
  })
})
