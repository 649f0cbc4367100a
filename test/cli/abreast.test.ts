// Machines side by side: how many at once, what waits for what, and in which order the answers are taken.
import assert from 'node:assert/strict'
import { spawn, spawnSync } from 'node:child_process'
import { chmodSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { stringify } from 'yaml'
import { abreast, guestsAtOnce, limited, machinesAtOnce } from '../../lib/cli/abreast.ts'
import type { Placed } from '../../lib/site/machines.ts'
import { type Checkout, checkout } from '../machine/laptop.ts'
import { terminal } from '../terminal.ts'

const placed = (name: string, behind?: string) =>
  ({ name, ...(behind === undefined ? {} : { behind }) }) as Placed

const hosts = (n: number) => Array.from({ length: n }, (_, i) => placed(`h${i + 1}`))

/** Jobs that end when a test says so. */
function jobs() {
  const running: string[] = []
  const ends = new Map<string, (error?: Error) => void>()
  let most = 0
  return {
    running,
    most: () => most,
    job: ({ name }: Placed) =>
      new Promise<string>((resolve, reject) => {
        running.push(name)
        most = Math.max(most, running.length)
        ends.set(name, (error) => {
          running.splice(running.indexOf(name), 1)
          if (error) reject(error)
          else resolve(name)
        })
      }),
    async end(name: string, error?: Error) {
      ends.get(name)?.(error)
      await settled()
    },
  }
}

const settled = () => new Promise((resolve) => setImmediate(resolve))

describe('machines side by side', () => {
  test('no more at once than the limit, and the next begins when any of them ends', async () => {
    const { job, running, end, most } = jobs()
    const looked = abreast(hosts(machinesAtOnce + 2), job)
    await settled()
    assert.equal(running.length, machinesAtOnce)
    await end('h3')
    assert.ok(running.includes(`h${machinesAtOnce + 1}`))
    while (running.length > 0) await end(running[0]!)
    assert.equal(most(), machinesAtOnce)
    assert.deepEqual(
      await Promise.all(looked),
      hosts(machinesAtOnce + 2).map(({ name }) => name),
    )
  })

  test('a machine that does not answer delays nobody, and its error waits for whoever takes it', async () => {
    const { job, end } = jobs()
    const [first, ...others] = abreast(hosts(3), job)
    await settled()
    await end('h2')
    await end('h3')
    assert.deepEqual(await Promise.all(others), ['h2', 'h3'])
    await end('h1', new Error('silent'))
    await assert.rejects(first as Promise<string>, /silent/)
  })

  test('what is behind a host waits for it, and few of them are there at once', async () => {
    const { job, running, end } = jobs()
    const guests = ['a', 'b', 'c', 'd', 'e'].map((name) => placed(name, 'h1'))
    // The document may name them in any order.
    const looked = abreast([...guests, placed('h1'), placed('h2')], job)
    await settled()
    assert.deepEqual(running, ['h1', 'h2'])
    await end('h1', new Error('silent'))
    assert.deepEqual(running, ['h2', 'a', 'b', 'c'])
    assert.equal(guestsAtOnce, 3)
    await end('b')
    assert.deepEqual(running, ['h2', 'a', 'c', 'd'])
    for (const name of ['h2', 'a', 'c', 'd', 'e']) await end(name)
    const answers = await Promise.allSettled(looked)
    assert.deepEqual(
      answers.map((answer) => (answer.status === 'fulfilled' ? answer.value : 'rejected')),
      ['a', 'b', 'c', 'd', 'e', 'rejected', 'h2'],
    )
  })

  test('who is silent for a while makes room for the next, and waits on; behind a host, for few', async (t) => {
    t.mock.timers.enable({ apis: ['setTimeout'] })
    const { job, running, end } = jobs()
    const many = hosts(2 * machinesAtOnce + 1)
    const looked = abreast(many, job, machinesAtOnce, 500)
    await settled()
    await end('h1')
    assert.deepEqual(
      running,
      many.slice(1, machinesAtOnce + 1).map(({ name }) => name),
    )
    t.mock.timers.tick(499)
    await settled()
    assert.equal(running.length, machinesAtOnce)
    t.mock.timers.tick(1)
    await settled()
    assert.equal(running.length, 2 * machinesAtOnce)
    t.mock.timers.tick(500)
    await settled()
    // One that has made room and then ends makes no more of it.
    for (const { name } of many.slice(1)) await end(name)
    assert.equal((await Promise.all(looked)).length, many.length)

    const guests = Array.from({ length: 8 }, (_, i) => placed(`g${i + 1}`, 'h'))
    abreast([placed('h'), ...guests], job, machinesAtOnce, 500)
    await settled()
    await end('h')
    assert.equal(running.length, guestsAtOnce)
    t.mock.timers.tick(500)
    await settled()
    // Each has a log-in of its own there by now, and an account may have ten.
    assert.equal(running.length, 2 * guestsAtOnce)
    t.mock.timers.tick(5000)
    await settled()
    assert.equal(running.length, 2 * guestsAtOnce)
    await end('g1')
    assert.equal(running.length, 2 * guestsAtOnce)
  })

  test('one after another where somebody has to answer', async () => {
    const { job, running, end } = jobs()
    void abreast([placed('a', 'h1'), placed('h1'), placed('h2')], job, 1)
    await settled()
    assert.deepEqual(running, ['h1'])
    for (const name of ['h1', 'h2']) {
      assert.deepEqual(running, [name])
      await end(name)
    }
    assert.deepEqual(running, ['a'])
    await end('a')
  })

  test('jobs begin in their order, some at once', async () => {
    const { job, running, end } = jobs()
    limited(
      hosts(3).map((spec) => () => job(spec)),
      2,
    )
    await settled()
    assert.deepEqual(running, ['h1', 'h2'])
    await end('h2')
    assert.deepEqual(running, ['h1', 'h3'])
  })
})

describe('commands that look at twelve machines', () => {
  let copy: Checkout
  let dir: string
  before(() => {
    copy = checkout()
    dir = mkdtempSync(join(tmpdir(), 'fk-test-'))
    const names = Array.from({ length: 12 }, (_, i) => `box-${i + 1}`)
    writeFileSync(
      copy.site,
      stringify({
        name: 'fortress',
        machines: names.map((name, i) => ({
          name,
          roles: ['host', i < 3 ? 'server' : 'agent'],
          os: 'debian-13',
          arch: 'amd64',
          address: `192.168.7.${i + 11}`,
          ...(i === 0 ? {} : { tunnel_address: `10.66.0.${i + 11}` }),
        })),
        networks: [{ name: 'lan', network: '192.168.7.0/24' }],
        cluster: { api: { vip: '192.168.7.9' } },
        data: { keep: [{ what: 'cluster', every: 'daily', to: [], rpo: '24h', rto: '1h' }] },
      }),
    )
    // Every machine is known, and none can be reached: that takes each as long as it takes.
    writeFileSync(
      join(dir, 'known_hosts'),
      names.map((name) => `fortress.${name} ssh-ed25519 AAAA\n`).join(''),
    )
    writeFileSync(
      join(dir, 'ssh'),
      '#!/bin/sh\n[ "$1" != -G ] || exit 0\necho + >> "$CALLS"\nsleep "${SECONDS_SILENT-1.5}"\necho - >> "$CALLS"\necho "Connection refused" >&2\nexit 255\n',
    )
    chmodSync(join(dir, 'ssh'), 0o755)
  })
  after(() => {
    copy?.end()
    rmSync(dir, { recursive: true, force: true })
  })

  const environment = (calls: string): Record<string, string> => ({
    PATH: `${dir}:${process.env['PATH']}`,
    HOME: dir,
    CALLS: calls,
    FK_HOST: 'ada@192.168.7.11',
    FK_STATE_DIR: dir,
    FK_LOG_DIR: dir,
    FK_KNOWN_HOSTS: join(dir, 'known_hosts'),
    FK_SSH_CONFIG: '/dev/null',
  })

  /** How many were connected to in all, and at once at the most. */
  async function connections(command: string, more: Record<string, string> = {}) {
    const calls = join(dir, command)
    writeFileSync(calls, '')
    const env = { ...environment(calls), ...more }
    const words = [join(copy.dir, 'bin/task.cjs'), ...command.split(' ')]
    const child = spawn(process.execPath, words, { env, stdio: ['ignore', 'pipe', 'pipe'] })
    let text = ''
    for (const stream of [child.stdout, child.stderr]) stream.on('data', (piece) => (text += piece))
    await new Promise((resolve) => child.once('close', resolve))
    let now = 0
    let all = 0
    let most = 0
    for (const line of readFileSync(calls, 'utf8').trim().split('\n')) {
      now += line === '+' ? 1 : -1
      if (line === '+') all += 1
      most = Math.max(most, now)
    }
    return { all, most, text }
  }

  test('status: twelve that are silent take about as long as one', async () => {
    const { all, text } = await connections('status', { SECONDS_SILENT: '4' })
    assert.equal(all, 12, text)
    const took = Number(/asked \S+, (\d+) s/.exec(text)?.[1])
    assert.ok(took >= 4 && took < 8, text)
  })

  // Somebody whom sudo asks for a password, on every machine.
  const nobody = ['--reuid=65534', '--regid=65534', '--clear-groups']
  const isAsked = ['script', 'sudo', 'setpriv'].every((name) => spawnSync(name, ['--version']).status === 0)
  const skip = process.getuid?.() === 0 && isAsked ? false : 'needs root, script, sudo and setpriv'
  test(
    'status: one password is asked for at a time, and no line is drawn over the question',
    { skip },
    async (t) => {
      const bin = mkdtempSync(join(tmpdir(), 'fk-test-'))
      t.after(() => rmSync(bin, { recursive: true, force: true }))
      chmodSync(bin, 0o755)
      const far = `#!/bin/bash\nfor word; do [ "$word" != exit ] || exit 0; done\ncd /\nexec setpriv ${nobody.join(' ')} bash -c "\${@: -1}"\n`
      writeFileSync(join(bin, 'ssh'), far, { mode: 0o755 })
      const env = { ...environment(join(bin, 'calls')), PATH: `${bin}:${process.env['PATH']}` }
      const screen = terminal([process.execPath, join(copy.dir, 'bin/task.cjs'), 'status'], { cwd: dir, env })
      t.after(() => screen.kill())
      const asked = /Password for sudo on (box-\d+) \(\S+\): $/
      const seen = new Set<string>()
      while (seen.size < 12) {
        const [, name = ''] = asked.exec(await screen.until(asked)) ?? []
        // The others are through by now, or wait for their turn.
        await new Promise((resolve) => setTimeout(resolve, seen.size === 0 ? 2000 : 50))
        assert.match(screen.text(), asked, 'the question is the last that stands there')
        assert.ok(!seen.has(name), name)
        seen.add(name)
        screen.type('wrong')
      }
      assert.equal(await screen.ended, 1, screen.text())
    },
  )

  for (const command of ['host-harden plan', 'host-harden verify', 'doctor', 'cis'])
    test(`${command}: ${machinesAtOnce} at once, and no more`, async () => {
      const { all, most, text } = await connections(command)
      assert.equal(most, machinesAtOnce, text)
      assert.ok(all >= 12, `${all}: ${text}`)
    })
})
