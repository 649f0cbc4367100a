// Large files on their way to a machine that loses the connection, has no room, or is busy. The machine is a folder here.
import assert from 'node:assert/strict'
import { spawn, spawnSync } from 'node:child_process'
import { createHash, randomBytes } from 'node:crypto'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:http'
import { type AddressInfo, createServer as createListener } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Readable } from 'node:stream'
import { after, beforeEach, describe, test } from 'node:test'
import { deliver, downloads, waitingPlace } from '../../lib/engine/delivery.ts'
import type { Machine, Outcome } from '../../lib/engine/machine.ts'
import type { Transfer } from '../../lib/engine/transfer.ts'
import { frameOf } from '../../lib/engine/wire.ts'
import { Fault } from '../../lib/ground/fault.ts'
import { loadConfig } from '../../lib/site/config.ts'

const scratch = mkdtempSync(join(tmpdir(), 'fortress-delivery-'))
after(() => rmSync(scratch, { recursive: true, force: true }))

const bytes = randomBytes(2_500_000)
const sha256 = createHash('sha256').update(bytes).digest('hex')
const source = join(scratch, 'source')
writeFileSync(source, bytes)
const file = { path: source, bytes: bytes.length, sha256 }

let to = ''
let part = ''
beforeEach(() => {
  to = join(mkdtempSync(join(scratch, 'machine-')), 'os.img')
  part = waitingPlace(to, sha256)
})

/** Runs what a machine would run. `cut` ends a connection after so many bytes; `room` is what the machine says is free. */
function machine({ cut = Infinity, room }: { cut?: number; room?: number } = {}): Machine & { fed: number } {
  const bash = async (
    text: string,
    input?: Readable,
    limit = Infinity,
  ): Promise<Outcome & { stdout: string }> => {
    const child = spawn('bash', ['--norc', '-c', text], { stdio: 'pipe' })
    let [stdout, stderr, sent] = ['', '', 0]
    const closed = new Promise<number>((resolve) => child.on('close', (c) => resolve(c ?? -1)))
    child.stdin.on('error', () => {})
    child.stdout.on('data', (d) => (stdout += d))
    child.stderr.on('data', (d) => (stderr += d))
    if (input === undefined) child.stdin.end()
    else {
      for await (const chunk of input as AsyncIterable<Buffer>) {
        const piece = chunk.subarray(0, limit - sent)
        await Promise.race([closed, new Promise((resolve) => child.stdin.write(piece, resolve))])
        sent += piece.length
        if (sent >= limit) break
      }
      child.stdin.end()
    }
    const code = await closed
    return {
      code: sent >= limit ? 255 : code,
      stderr: sent >= limit ? 'connection closed' : stderr,
      finished: true,
      stdout,
    }
  }
  const it = {
    fed: 0,
    label: 'north (a test)',
    async run(program, onFrame) {
      const outcome = await bash(program.text)
      for (const line of outcome.stdout.split('\n')) {
        const frame = frameOf(line, program.nonce)
        if (frame?.kind === 'answer' && room !== undefined) frame.values['room'] = String(room)
        if (frame) onFrame(frame)
      }
      return outcome
    },
    async feed(command, input) {
      it.fed += 1
      return bash(command, input, cut)
    },
  } as Pick<Machine, 'label' | 'run' | 'feed'> & { fed: number }
  return it as Machine & { fed: number }
}

async function refusal(running: Promise<unknown>): Promise<string> {
  try {
    await running
  } catch (error) {
    if (!(error instanceof Fault)) throw error
    return [error.message, error.said, error.state, error.next].filter(Boolean).join('\n')
  }
  return assert.fail('it was not refused')
}

describe('a large file', () => {
  test('waits beside its place, for root alone', async () => {
    const told: Transfer[] = []
    await deliver(machine(), file, to, { onTransfer: (transfer) => told.push(transfer) })
    assert.deepEqual(readFileSync(part), bytes)
    const { rate: _, ...last } = told.at(-1) as Transfer
    assert.deepEqual(last, {
      name: 'os.img',
      does: 'sending',
      bytes: bytes.length,
      total: bytes.length,
      done: true,
    })
  })

  test('that is there already is not sent again', async () => {
    writeFileSync(part, bytes)
    const there = machine()
    await deliver(there, file, to)
    assert.equal(there.fed, 0)
  })

  test('whose connection is cut again and again arrives to the byte, and nothing is sent twice', async () => {
    const there = machine({ cut: 600_000 })
    await deliver(there, file, to)
    assert.equal(there.fed, 5)
    assert.deepEqual(readFileSync(part), bytes)
  })

  test('begins anew where something longer waits in its place', async () => {
    writeFileSync(part, Buffer.alloc(bytes.length + 1))
    await deliver(machine(), file, to)
    assert.deepEqual(readFileSync(part), bytes)
  })

  test('that does not fit is not begun', async () => {
    const there = machine({ room: 1024 * 1024 })
    assert.equal(
      await refusal(deliver(there, file, to)),
      `os.img does not fit on north (a test)
${to.slice(0, -'/os.img'.length)} has 1 MiB left, 3 MiB are still to come
make room there`,
    )
    assert.equal(there.fed, 0)
  })

  test('that somebody else is sending waits for nobody', async (t) => {
    const other = spawn('bash', ['--norc', '-c', `exec 9>> ${part}; flock 9; echo held; exec sleep 30`])
    t.after(() => other.kill())
    await new Promise((resolve) => other.stdout.once('data', resolve))
    assert.equal(
      await refusal(deliver(machine(), file, to)),
      'somebody else is sending os.img to north (a test)\nwait, and run it again',
    )
  })

  test('over a connection that carries nothing is given up, and says how far it is', async () => {
    assert.equal(
      await refusal(deliver(machine({ cut: 0 }), file, to, { pause: 10 })),
      `os.img could not be sent to north (a test)
connection closed
0 of ${bytes.length} bytes are there
run it again: it goes on where it was`,
    )
  })
})

test('who asks for the same file waits for the one download, and after a failure may try again', async () => {
  const env = { FK_DOWNLOAD_DIR: join(scratch, 'cache') } as Parameters<typeof downloads>[0]['env']
  const fetch = downloads({ env }, { signal: new AbortController().signal })
  const artifact = { name: 'os.img', url: 'http://files.example/os.img', sha256 }
  const [first, second] = [fetch(artifact), fetch(artifact)]
  assert.equal(first, second)
  assert.match(
    await refusal(first),
    /^os\.img is not fetched: http:\/\/files\.example\/os\.img, which is not https$/m,
  )
  assert.notEqual(fetch(artifact), first)
  await refusal(fetch(artifact))
})

test(
  'a whole runbook begins to fetch while the machine has not even answered',
  { skip: spawnSync('ssh', ['-V']).error ? 'ssh is not installed' : false },
  async (t) => {
    const dir = mkdtempSync(join(scratch, 'laptop-'))
    let hear = (_path: string) => {}
    const first = new Promise<string>((resolve) => (hear = resolve))
    const mirror = createServer((request, response) => {
      hear(request.url ?? '')
      response.writeHead(404).end()
    })
    // A machine that takes the call and says nothing.
    const silent = createListener((socket) => void t.after(() => socket.destroy()))
    for (const server of [mirror, silent])
      await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
    const port = (server: typeof silent) => (server.address() as AddressInfo).port
    writeFileSync(join(dir, 'known_hosts'), 'fortress.fortress ssh-ed25519 AAAA\n')
    const others = Object.entries(process.env).filter(([name]) => !/^FK_(?!ENV_FILE)/.test(name))
    const env = {
      ...Object.fromEntries(others),
      FK_HOST: `admin@127.0.0.1:${port(silent)}`,
      FK_MIRROR: `http://127.0.0.1:${port(mirror as typeof silent)}`,
      FK_STATE_DIR: dir,
      FK_LOG_DIR: dir,
      FK_DOWNLOAD_DIR: join(dir, 'downloads'),
    }
    const child = spawn(process.execPath, [join(import.meta.dirname, '../../bin/task.cjs'), 'build-all'], {
      env,
      stdio: 'ignore',
    })
    t.after(() => {
      child.kill('SIGKILL')
      mirror.closeAllConnections()
      mirror.close()
      silent.close()
    })
    const ended = new Promise<string>((resolve) =>
      child.on('close', (code) => resolve(`it ended with ${code}`)),
    )
    const asked = await Promise.race([first, ended])
    // Several are begun at once; which of them asks first is left to chance.
    const { pins } = loadConfig({ env: {}, site: 'fortress' })
    const urls = Object.values(pins).flatMap(({ url, signature }) =>
      [url, signature?.url ?? {}].flatMap(Object.values),
    )
    assert.ok(
      urls.some((url) => asked === `/${String(url).slice('https://'.length)}`),
      asked,
    )
  },
)
