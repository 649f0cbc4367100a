// Programs of this computer: no shell may show through, none may be waited for without end, and none outlives its deadline.
import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { PassThrough } from 'node:stream'
import { after, describe, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { Fault } from '../../lib/ground/fault.ts'
import { $, end, orFault, question, which } from '../../lib/ground/laptop.ts'
import { without } from '../programs.ts'
import { terminal } from '../terminal.ts'

const dir = mkdtempSync(join(tmpdir(), 'laptop-'))
after(() => rmSync(dir, { recursive: true }))
const root = join(import.meta.dirname, '../..')

/** What a fresh process prints that runs `code` with further variables. */
const elsewhere = (code: string, env: Record<string, string>) =>
  execFileSync(
    process.execPath,
    [
      '--require',
      join(root, 'bin/typescript.cjs'),
      '--eval',
      `const l = require(${JSON.stringify(join(root, 'lib/ground/laptop.ts'))});${code}`,
    ],
    { env: { ...process.env, ...env }, encoding: 'utf8' },
  )

describe('words', () => {
  test('arrive as they are, whatever a shell would make of them', async () => {
    const words = ['', "it's", '$HOME `id` $(id)', '"*"', 'a\nb', '\\', 'ü', '--', '!', '~', '#', 'a;b', '&']
    const { stdout } = await $`printf ${'%s\\0'} ${words}`
    assert.deepEqual(stdout.split('\0').slice(0, -1), words)
  })

  test('may be what another command printed', async () => {
    assert.equal((await $`printf ${'[%s]'} ${await $`printf ${"it's\n"}`}`).stdout, "[it's]")
  })

  test('that are none are refused before anything runs', () => {
    for (const value of [undefined, null, {}, true, ['a', undefined]])
      assert.throws(() => $`true ${value}`, TypeError)
  })

  test('that are too long for the system are a fault', async () => {
    await assert.rejects(orFault($`true ${'x'.repeat(200_000)}`), {
      message: 'true did not start',
      said: 'spawn E2BIG',
    })
  })
})

describe('what a program reads and says', () => {
  test('is whole, also where a letter stands across two chunks', async () => {
    const input = `a${'é'.repeat(500_000)}`
    assert.equal((await $({ input })`cat`).stdout, input)
  })

  test('may be left unread, and is nothing when nothing is given', async () => {
    assert.equal((await $({ input: 'x'.repeat(5_000_000) })`true`).exitCode, 0)
    assert.equal((await $`cat`).stdout, '')
    assert.equal((await $({ input: '' })`cat`).stdout, '')
  })

  test('is a socket, so that a program which opens /dev/stdin needs cat in front', async () => {
    assert.equal((await $({ input: 'x', nothrow: true })`cat /dev/stdin`).ok, false)
    assert.equal((await $({ input: 'x' })`cat | cat /dev/stdin`).stdout, 'x')
  })

  test('comes line by line, also the last without an end', async () => {
    const lines: string[] = []
    await orFault($`printf ${'one\ntwo'}`, { onLine: (line) => lines.push(line) })
    assert.deepEqual(lines, ['one', 'two'])
  })

  test('is printed nowhere', () => {
    assert.equal(elsewhere("l.$`sh -c ${'echo out; echo err >&2'}`", {}), '')
  })
})

describe('a failure', () => {
  test('is a ProcessOutput for who wants one, and a value with nothrow', async () => {
    await assert.rejects(async () => await $`sh -c ${'echo out; echo oops >&2; exit 3'}`, {
      exitCode: 3,
      stdout: 'out\n',
      stderr: 'oops\n',
    })
    assert.equal((await $({ nothrow: true })`sh -c ${'exit 7'}`).exitCode, 7)
    assert.equal($({ sync: true, nothrow: true })`exit 7`.exitCode, 7)
    assert.equal($.sync`echo now`.stdout, 'now\n')
  })

  test('in the middle of a pipe counts', async () => {
    assert.equal((await $({ nothrow: true })`false | true`).exitCode, 1)
  })

  test('is a fault with its command and its last words, from a file as well', async () => {
    const script = 'echo out; seq 9 >&2; echo oops >&2; exit 3'
    const said = '3\n4\n5\n6\n7\n8\n9\noops'
    const fault = { message: 'sh failed (exit 3)', said, ran: `sh -c '${script}'` }
    await assert.rejects(orFault($`sh -c ${script}`), fault)
    await assert.rejects(orFault($`sh -c ${script}`, { said: () => 'from a log' }), { said: 'from a log' })
    assert.equal((await orFault($`sh -c ${script}`, { code: 'any' })).stdout, 'out\n')
  })

  test('by a signal is told as that, not as an exit code of the shell', async () => {
    await assert.rejects(orFault($`sh -c ${'kill -KILL $$'}`, { code: 'any' }), {
      message: 'sh was ended by SIGKILL',
    })
  })

  test('of a program that is not here says what to do', async () => {
    await assert.rejects(orFault($`nonesuch-program`, { code: 'any', install: 'apt install nonesuch' }), {
      message: 'nonesuch-program is not installed',
      next: 'apt install nonesuch',
    })
  })
})

describe('a deadline', () => {
  const alive = (pid: string) => {
    try {
      return !/^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'))
    } catch {
      return false
    }
  }
  const gone = async (pid: string) => {
    for (let tries = 0; alive(pid); tries++) {
      assert.ok(tries < 100, `${pid} still runs`)
      await sleep(20)
    }
  }

  test(
    'kills a program that ignores SIGTERM, with all that it has started',
    { skip: !existsProc() },
    async () => {
      const file = join(dir, 'pids')
      const script = `trap '' TERM; sleep 70 & echo $! > ${file}; echo $$ >> ${file}; wait; sleep 70`
      await assert.rejects(orFault($`bash -c ${script}`, { seconds: 0.5, code: 'any' }), {
        message: 'bash had not ended after 0.5 s',
      })
      for (const pid of readFileSync(file, 'utf8').trim().split('\n')) await gone(pid)
    },
  )

  test('waits for nobody who holds the pipes of what has ended', async () => {
    const began = Date.now()
    await assert.rejects(orFault($`sh -c ${'(setsid sleep 3 &) ; sleep 60'}`, { seconds: 0.3 }), Fault)
    assert.ok(Date.now() - began < 2500)
  })

  test('of a group of its own reaches also those whose parent is gone', { skip: !existsProc() }, async () => {
    const file = join(dir, 'orphan')
    const command = $({
      detached: true,
      nothrow: true,
    })`bash -c ${`(sleep 70 & echo $! > ${file}); sleep 70`}`
    for (let pid = ''; pid === ''; await sleep(20))
      pid = await $({ nothrow: true })`cat ${file}`.then((o) => o.stdout)
    await end(command)
    assert.equal((await command).signal, 'SIGKILL')
    await gone(readFileSync(file, 'utf8').trim())
    await end(command) // a second time finds nothing to do
  })
})

describe('nothing of the person leaks in', () => {
  const bashrc = join(dir, 'rc')
  writeFileSync(bashrc, 'echo leaked; exit 9\n')
  writeFileSync(join(dir, '.bashrc'), 'echo leaked; exit 9\n')
  const hostile = {
    ZX_PREFIX: 'echo leaked;',
    ZX_POSTFIX: '; echo leaked',
    ZX_SHELL: '/bin/false',
    ZX_VERBOSE: 'true',
    ZX_CWD: '/nonexistent',
    ZX_PREFER_LOCAL: 'true',
    ZX_DETACHED: 'true',
    ZX_TIMEOUT: '1ms',
    BASH_ENV: bashrc,
    ENV: bashrc,
    SHELLOPTS: 'xtrace',
    'BASH_FUNC_echo%%': '() { printf leaked; }',
    SSH_CLIENT: '192.0.2.1 1 22',
    SHLVL: '0',
    HOME: dir,
  }
  test('neither by variables of zx nor by those of bash', () => {
    const code =
      "l.$({ input: 'in' })`sleep 0.3; cat; echo out`.then((o) => process.stdout.write(JSON.stringify([o.stdout, o.stderr])))"
    assert.equal(elsewhere(code, hostile), '["inout\\n",""]')
  })

  test('and the folder is that of now, not that of the moment when zx was loaded', async () => {
    await $`true`
    const before = process.cwd()
    process.chdir(dir)
    try {
      assert.equal((await $`pwd -P`).stdout, `${(await $`realpath ${dir}`).stdout}`)
    } finally {
      process.chdir(before)
    }
  })

  test('further variables join those of this process, and one can be taken away', async () => {
    const one = await $({
      env: { ONE: '1', HOME: undefined },
    })`sh -c ${'echo "$ONE:${HOME-none}:${PATH:+path}"'}`
    assert.equal(one.stdout, '1:none:path\n')
  })
})

test('zx is loaded when the first command runs, and not before', () => {
  const code =
    'process.stdout.write(String(Object.keys(require.cache).some((file) => /node_modules.zx/.test(file))))'
  assert.equal(elsewhere(code, {}), 'false')
})

test('programs are found where root has them, files by their path', () => {
  assert.match(which('sh') ?? '', /\/sh$/)
  assert.equal(which('/etc/passwd'), '/etc/passwd')
  assert.equal(which('/nonexistent'), undefined)
  assert.equal(which('nonesuch-program'), undefined)
})

describe('a question', () => {
  const asked = (hidden = false) => {
    const input = new PassThrough() as unknown as NodeJS.ReadStream & PassThrough
    const output = new PassThrough() as unknown as NodeJS.WriteStream & PassThrough
    let shown = ''
    output.on('data', (chunk) => (shown += String(chunk)))
    return { input, answer: question('Which? ', { hidden, input, output }), shown: () => shown }
  }

  test('gives what is typed', async () => {
    const { input, answer, shown } = asked()
    input.write('this one\r')
    assert.equal(await answer, 'this one')
    assert.match(shown(), /Which\? /)
  })

  test('shows no secret', async () => {
    const { input, answer, shown } = asked(true)
    input.write('hunter2\r')
    assert.equal(await answer, 'hunter2')
    assert.equal(shown(), 'Which? \n')
  })

  test('is over when the input ends, and when somebody types Ctrl-D', async () => {
    const first = asked()
    first.input.end()
    assert.equal(await first.answer, '')
    const second = asked()
    second.input.write('\x04')
    assert.equal(await second.answer, '')
  })

  test('behind a pipe is asked on the terminal itself', { skip: without('script') }, async () => {
    const path = JSON.stringify(join(root, 'lib/ground/laptop.ts'))
    const code = `require(${path}).question('Name? ').then((it) => console.log('it is ' + it))`
    const file = join(dir, 'piped')
    const words = [process.execPath, '--require', join(root, 'bin/typescript.cjs'), '--eval', code]
    const screen = terminal(['bash', '-c', '"$@" | cat > "$0"', file, ...words], {
      cwd: root,
      env: process.env,
    })
    await screen.until(/Name\? /)
    screen.type('ada')
    assert.equal(await screen.ended, 0, screen.text())
    assert.equal(readFileSync(file, 'utf8'), 'it is ada\n')
  })
  test('is refused by Ctrl-C', async () => {
    const { input, answer } = asked()
    input.write('\x03')
    await assert.rejects(answer, { message: 'Stopped by you. Nothing was changed.' })
  })
})

function existsProc(): boolean {
  return process.platform === 'linux'
}
