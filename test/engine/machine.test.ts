// How programs reach a machine: the words of ssh, what comes on standard input, and how everything ends in time. ssh and sudo are
// small scripts here; real ones are in test/machine.
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { chmodSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Readable } from 'node:stream'
import { after, before, describe, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { type Access, connect } from '../../lib/engine/machine.ts'
import { plain } from '../../lib/engine/program.ts'
import { unreachable } from '../../lib/engine/unreachable.ts'
import { onAnswer } from '../../lib/engine/wire.ts'

const scratch = mkdtempSync(join(tmpdir(), 'fk-machine-'))
const path = process.env['PATH']
const root = join(import.meta.dirname, '../..')

before(() => {
  const script = (name: string, text: string) => {
    writeFileSync(join(scratch, name), `#!/bin/bash\n${text}`)
    chmodSync(join(scratch, name), 0o755)
  }
  // Says what it was called with, and runs the command behind `--` as sshd would.
  script(
    'ssh',
    `[ "$1" != -G ] || exit 0
printf '%s\\0' "$@" >> ${scratch}/words; printf '\\n' >> ${scratch}/words
for word; do [ "$word" != exit ] || exit 0; done
[ ! -e ${scratch}/hangs ] || exec sleep 60
[ ! -e ${scratch}/dead ] || { echo 'ssh: connect to host north port 22: Connection refused' >&2; exit 255; }
[ ! -e ${scratch}/moved ] || [[ " $* " = *'=10.66.0.1 '* ]] || { echo 'connect: Connection timed out' >&2; exit 255; }
[ ! -e ${scratch}/down ] || [[ " $* " != *'=10.66.0.1 '* ]] || { echo 'connect: Connection timed out' >&2; exit 255; }
exec bash -c "\${@: -1}"`,
  )
  process.env['PATH'] = `${scratch}:${path}`
})
after(() => {
  process.env['PATH'] = path
  rmSync(scratch, { recursive: true, force: true })
})

const access = (more: Partial<Access> = {}): Access => ({
  name: 'north',
  target: 'local',
  password: async () => 'none',
  interactive: false,
  ...more,
})
const target = {
  host: 'north.example',
  user: 'ada',
  port: 2222,
  knownHostsFile: join(scratch, 'known_hosts'),
}
const words = () => readFileSync(join(scratch, 'words'), 'utf8').split('\n').filter(Boolean)

for (const [what, of] of [
  ['this computer', access()],
  ['a machine over ssh', access({ target })],
] as const)
  describe(what, { skip: process.getuid?.() === 0 ? false : 'needs root' }, () => {
    test('runs a program, and passes on what it says', async () => {
      const machine = await connect(of)
      const heard: unknown[] = []
      const outcome = await machine.run(
        await plain('test', ['answer one value "it\'s $HOME"', 'echo noise; echo complaint >&2']),
        onAnswer((values, name) => heard.push([name, values])),
      )
      await machine.close()
      assert.deepEqual(outcome, { code: 0, stderr: 'complaint\n', finished: true })
      assert.deepEqual(heard, [['one', { value: `it's ${process.env['HOME']}` }]])
    })

    test('a line that was cut off in the middle is not taken for what it would have said', async () => {
      const machine = await connect(of)
      const heard: unknown[] = []
      const { finished } = await machine.run(
        await plain('test', [
          'answer one value whole',
          `printf '%s\\tanswer\\ttwo\\tvalue\\thal' "$FK_NONCE" >&3; kill -KILL $$`,
        ]),
        onAnswer((values, name) => heard.push([name, values])),
      )
      await machine.close()
      assert.deepEqual([finished, heard], [false, [['one', { value: 'whole' }]]])
    })

    test('a program that ends early has not finished', async () => {
      const machine = await connect(of)
      const outcome = await machine.run(await plain('test', ['exit 7']), () => {})
      await machine.close()
      assert.deepEqual([outcome.code, outcome.finished], [7, false])
    })

    test('a program that does not end is ended by the machine', async () => {
      const machine = await connect(of)
      const outcome = await machine.run(await plain('test', ['sleep 60']), () => {}, 1)
      await machine.close()
      assert.deepEqual([outcome.code, outcome.finished], [124, false])
    })

    test('a program that is stopped ends what it has begun, and begins nothing more', async () => {
      const machine = await connect(of)
      const stop = new AbortController()
      const heard: string[] = []
      const outcome = await machine.run(
        await plain('test', [
          'for i in {1..100}; do ! fk_stopped || break; answer begun at "$i"; sleep 0.2; answer ended at "$i"; done',
        ]),
        (frame) => {
          if (frame.kind !== 'answer') return
          heard.push(`${frame.name} ${frame.values['at']}`)
          if (heard.length === 3) stop.abort()
        },
        60,
        stop.signal,
      )
      await machine.close()
      assert.equal(outcome.finished, true)
      assert.deepEqual(heard, ['begun 1', 'ended 1', 'begun 2', 'ended 2'])
    })

    test('a program whose listener is killed ends what it has begun, and begins nothing more', async () => {
      const left = join(scratch, `left-${of.target === 'local'}`)
      const lines = [
        `for i in {1..100}; do ! fk_stopped || break; echo "begun $i" >> ${left}; answer begun at "$i"; sleep 0.3`,
        `  answer half at "$i"; echo "ended $i" >> ${left}; done; echo over >> ${left}`,
      ]
      const code = `
import { connect } from '${root}/lib/engine/machine.ts'
import { plain } from '${root}/lib/engine/program.ts'
const machine = await connect(${JSON.stringify({ name: of.name, target: of.target, interactive: false })})
await machine.run(await plain('test', ${JSON.stringify(lines)}), () => process.kill(process.pid, 'SIGKILL'))`
      const file = join(scratch, 'dies.mts')
      writeFileSync(file, code)
      const { signal, stderr } = spawnSync(process.execPath, ['--import', 'tsx', file], {
        cwd: root,
        encoding: 'utf8',
      })
      assert.equal(signal, 'SIGKILL', stderr)
      const text = () => (existsSync(left) ? readFileSync(left, 'utf8') : '')
      for (let tries = 0; tries < 100 && !text().includes('over'); tries += 1) await sleep(50)
      assert.match(text(), /^(begun (\d+)\nended \2\n){1,2}over\n$/)
    })

    test('a stream that is stopped ends there, and what came of it stays', async () => {
      const machine = await connect(of)
      const stop = new AbortController()
      const to = join(scratch, 'part')
      const endless = Readable.from(
        (async function* () {
          for (;;) {
            yield Buffer.alloc(1000)
            await sleep(20)
          }
        })(),
      )
      setTimeout(() => stop.abort(), 500)
      const outcome = await machine.feed(`cat > ${to}`, endless, stop.signal)
      await machine.close()
      assert.equal(outcome.code, 0, outcome.stderr)
      assert.ok(readFileSync(to).length > 0)
    })

    test('is fed a stream to its end, and nothing else', async () => {
      const machine = await connect(of)
      const to = join(scratch, 'fed')
      const pieces = Array.from({ length: 50 }, (_, i) => Buffer.alloc(65_536, i))
      const outcome = await machine.feed(`cat > ${to}`, Readable.from(pieces))
      await machine.close()
      assert.equal(outcome.code, 0, outcome.stderr)
      assert.ok(readFileSync(to).equals(Buffer.concat(pieces)))
    })

    test('a stream that breaks is an error, and ends what it was fed to', async () => {
      const machine = await connect(of)
      const broken = Readable.from(
        (function* () {
          yield Buffer.from('a')
          throw new Error('the disk is gone')
        })(),
      )
      await assert.rejects(machine.feed('cat > /dev/null', broken), /the disk is gone/)
      await machine.close()
    })

    test('much output is read as it comes', async () => {
      const machine = await connect(of)
      let bytes = 0
      const outcome = await machine.run(
        await plain('test', [
          'for i in {1..40}; do printf "%s\\tpiece\\t%01000000d\\n" "$FK_NONCE" 0 >&3; done',
        ]),
        (frame) => {
          if (frame.kind === 'piece') bytes += frame.body.length
        },
      )
      await machine.close()
      assert.deepEqual([outcome.finished, bytes], [true, 40_000_000])
    })
  })

test('connecting ends at once when it is stopped', async () => {
  writeFileSync(join(scratch, 'hangs'), '')
  try {
    const stop = new AbortController()
    setTimeout(() => stop.abort(), 300)
    const began = Date.now()
    await assert.rejects(
      connect(access({ target, signal: stop.signal })),
      /Stopped by you\. Nothing was changed/,
    )
    assert.ok(Date.now() - began < 20_000)
  } finally {
    rmSync(join(scratch, 'hangs'))
  }
})

test('ssh gets each value as one word, and never prompts', async () => {
  rmSync(join(scratch, 'words'), { force: true })
  const machine = await connect(
    access({ target: { ...target, identityFile: '/a key/$(id)', alias: undefined as never } }),
  )
  await machine.close()
  const [first = '', ...more] = words()
  const list = first.split('\0')
  assert.equal(list[list.indexOf('-i') + 1], '/a key/$(id)')
  assert.equal(list[list.indexOf('-p') + 1], '2222')
  for (const option of ['BatchMode=yes', 'StrictHostKeyChecking=yes', 'ControlMaster=auto'])
    assert.ok(list.includes(option), `${option} in ${list.join(' ')}`)
  assert.equal(list.includes('north.example'), true)
  assert.ok(more.length > 0)
})

test('a new connection shares nothing with the present one', async () => {
  const machine = await connect(access({ target }))
  rmSync(join(scratch, 'words'))
  const other = machine.reconnect('direct')
  await other.run(await plain('test', []), () => {})
  await other.close()
  await machine.close()
  assert.ok(words()[0]?.includes('ControlMaster=no\0-o\0ControlPath=none'))
})

test('a machine behind another is reached through it', async () => {
  rmSync(join(scratch, 'words'), { force: true })
  const jumpHost = { target: { ...target, host: 'front.example' } }
  const machine = await connect(access({ target: { ...target, host: 'inside', jumpHost } }))
  await machine.close()
  assert.match(words()[0] ?? '', /ProxyCommand=ssh .*-W '\[%h\]:%p' front\.example/)
})

test('where only the tunnel is left its address is used, and a file says so', async () => {
  const routeFile = join(scratch, 'state', 'north.door')
  const machine = await connect(access({ target: { ...target, tunnel: '10.66.0.1' }, routeFile }))
  assert.equal(machine.label, 'north (ada@north.example:2222)')
  machine.switchTo('tunnel')
  assert.equal(machine.label, 'north (ada@10.66.0.1)')
  assert.equal(existsSync(routeFile), true)
  machine.switchTo('direct')
  assert.equal(existsSync(routeFile), false)
  await machine.close()
})

test('a second laptop finds a machine in the tunnel that is up there, and remembers it', async (t) => {
  const routeFile = join(scratch, 'second', 'north.door')
  const second = access({ target: { ...target, tunnel: '10.66.0.1' }, routeFile })
  writeFileSync(join(scratch, 'moved'), '')
  t.after(() => rmSync(join(scratch, 'moved')))
  // Without an address in the tunnel there is nothing to find.
  await assert.rejects(connect(second), { message: 'north (ada@north.example:2222) does not answer' })
  assert.equal(existsSync(routeFile), false)
  const machine = await connect({ ...second, tunnelIsUp: true })
  assert.deepEqual([machine.label, machine.route], ['north (ada@10.66.0.1)', 'tunnel'])
  await machine.close()
  assert.equal(existsSync(routeFile), true)
  // A machine that is nowhere is said to be silent at its own address, and nothing is remembered of it.
  rmSync(routeFile)
  writeFileSync(join(scratch, 'dead'), '')
  t.after(() => rmSync(join(scratch, 'dead')))
  await assert.rejects(connect({ ...second, tunnelIsUp: true }), {
    message: 'north (ada@north.example:2222) refuses the connection',
  })
  assert.equal(existsSync(routeFile), false)
})

test('a machine that listens again where it did is not taken for one in its tunnel alone', async (t) => {
  const routeFile = join(scratch, 'again', 'north.door')
  mkdirSync(join(scratch, 'again'))
  writeFileSync(routeFile, 'This machine answers in its tunnel only.\n')
  writeFileSync(join(scratch, 'down'), '')
  t.after(() => rmSync(join(scratch, 'down')))
  const machine = await connect(access({ target: { ...target, tunnel: '10.66.0.1' }, routeFile }))
  assert.deepEqual([machine.label, machine.route], ['north (ada@north.example:2222)', 'direct'])
  await machine.close()
  assert.equal(existsSync(routeFile), false)
})

test('a machine that refuses says what to do, with what is known of the site', async () => {
  writeFileSync(join(scratch, 'dead'), '')
  const advice = { silent: 'Bring the tunnel up.' }
  await assert.rejects(connect(access({ target, advice })), {
    message: 'north (ada@north.example:2222) refuses the connection',
    next: 'is sshd running there, and on this port? Bring the tunnel up.',
  })
  rmSync(join(scratch, 'dead'))
})

describe('ssh gives up', () => {
  const cases: [string, string, RegExp][] = [
    ['over the host key', 'Host key verification failed.', /^north is not the machine it was/],
    ['over the login', 'ada@north: Permission denied (publickey).', /^north refuses the login/],
    ['over the name', 'Could not resolve hostname north', /^north has a name that cannot be resolved/],
    ['over the network', 'connect to host north: No route to host', /^north does not answer/],
    ['over a penalty', 'Not allowed at this time', /^north temporarily refuses this address/],
    ['for a reason of its own', 'something else', /^north cannot be used: ssh ended with 255/],
  ]
  test('behind another machine, without what ssh says of a connection that has no name', () => {
    const stderr = 'Connection timed out during banner exchange\nConnection to UNKNOWN port 65535 timed out'
    const fault = unreachable('inner', { stderr, code: 255 }, { behind: 'look at its host' })
    assert.match(fault.message, /^inner cannot be reached through the machine in front of it$/)
    assert.equal(fault.said, 'Connection timed out during banner exchange')
    assert.match(fault.next ?? '', /look at its host$/)
  })
  for (const [why, stderr, message] of cases)
    test(why, () => assert.match(unreachable('north', { stderr, code: 255 }).message, message))
})

describe('a host key that nobody has compared', () => {
  const key = 'ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGPKvGfuR3ENMlkBDVdiN1cgyO9I6mjvMIs0cHO5XpGl'
  const file = join(scratch, 'offered', 'known_hosts')
  const program = `
    require(${JSON.stringify(join(import.meta.dirname, '../../bin/typescript.cjs'))})
    const { connect } = require(${JSON.stringify(join(import.meta.dirname, '../../lib/engine/machine.ts'))})
    const target = { host: '192.0.2.10', user: 'ada', alias: 'site.north', knownHostsFile: ${JSON.stringify(file)} }
    connect({ name: 'north', target, interactive: process.argv[1] === 'asks', root: false })
      .then((machine) => machine.close(), (error) => console.log(error.message + '; ' + error.next))`
  /** As ssh does it: the key is in the file before anybody has logged in. */
  const offer = `for word; do case $word in UserKnownHostsFile=*/fk-*) word=\${word#*=}; echo 'site.north ${key}' > "\${word//\\"/}"; exit 255 ;; esac; done
exec bash -c "\${@: -1}"`
  const bin = join(scratch, 'offering')
  const run = (mode: string, input: string) => {
    mkdirSync(bin, { recursive: true })
    writeFileSync(join(bin, 'ssh'), `#!/bin/bash\n${offer}\n`, { mode: 0o755 })
    const env = { ...process.env, PATH: `${bin}:${process.env['PATH']}` }
    return spawnSync(process.execPath, ['--eval', program, mode], {
      encoding: 'utf8',
      env,
      input,
      timeout: 20_000,
    }).stdout
  }

  test('is a refusal where nobody can be asked, with the command for its console, and nothing is written', () => {
    assert.match(
      run('refuses', ''),
      /^The host key of 192\.0\.2\.10 is not known yet; ssh-keygen -lf \/etc\/ssh\/ssh_host_ed25519_key\.pub on its own console; then/,
    )
    assert.ok(!existsSync(file))
  })

  test('is shown by its fingerprint, and is known after a yes and only then', () => {
    const no = run('asks', '\n')
    assert.match(
      no,
      /north \(ada@192\.0\.2\.10\) shows a host key .*\n {2}ED25519 {2}SHA256:\S+\nCompare it on the machine's own console:\n {2}ssh-keygen /,
    )
    assert.match(no, /stored as site\.north, /)
    assert.match(no, /was not confirmed; nothing was run/)
    assert.ok(!existsSync(file))
    run('asks', 'y\n')
    assert.equal(readFileSync(file, 'utf8'), `site.north ${key}\n`)
  })
})
