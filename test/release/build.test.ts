// The whole of L0 on a real kernel, as an admin does it: a laptop on the same network as the machine, two commands, a reboot.
import assert from 'node:assert/strict'
import { execFile, spawn } from 'node:child_process'
import { existsSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { promisify } from 'node:util'
import { type LabVm, labDown, labUp } from '../../lib/lab/lab.ts'
import { type Kit, type Said, around, root, said, services } from '../machine/kit.ts'
import { terminal } from '../terminal.ts'

const run = promisify(execFile)

describe('task build-all on a virtual Debian', () => {
  let vm: LabVm
  let kit: Kit
  let env: Record<string, string>
  const tunnel = () => join(kit.state, 'fkb0.conf')
  const laptop = (...words: string[]) => run('ip', ['netns', 'exec', vm.outsideNamespace as string, ...words])
  const task = (...words: string[]): Promise<Said> =>
    said(
      spawn(
        'ip',
        ['netns', 'exec', vm.outsideNamespace as string, process.execPath, 'bin/task.cjs', ...words],
        {
          cwd: root,
          env: { ...process.env, ...env },
          stdio: ['ignore', 'pipe', 'pipe'],
        },
      ),
    )
  const inTunnel = (command: string, input = ''): Promise<string> => {
    const words = [
      '-F',
      '/dev/null',
      '-i',
      vm.identityFile,
      '-o',
      `UserKnownHostsFile=${kit.state}/known_hosts`,
    ]
    words.push(
      '-o',
      'HostKeyAlias=lab.lab',
      '-o',
      'BatchMode=yes',
      '-o',
      'ConnectTimeout=20',
      '-o',
      'ServerAliveInterval=5',
      '-l',
      'admin',
    )
    const child = spawn('ip', [
      'netns',
      'exec',
      vm.outsideNamespace as string,
      'ssh',
      ...words,
      '10.66.0.1',
      command,
    ])
    let text = ''
    child.stdout.on('data', (data: Buffer) => (text += data.toString()))
    child.stdin.end(input)
    return new Promise((resolve, reject) =>
      child
        .on('error', reject)
        .on('close', (code) => (code === 0 ? resolve(text) : reject(new Error(`ssh ended with ${code}`)))),
    )
  }
  const summary = (text: string) => text.split('\n').filter((l) => /^\d\d-host-.*: \d+ steps? hold/.test(l))

  before(async () => {
    vm = await labUp('build', { outside: true })
    kit = around(vm)
    const known = join(kit.state, 'known_hosts')
    writeFileSync(known, readFileSync(known, 'utf8').replaceAll(/^\S+/gm, 'lab.lab'))
    env = { ...kit.env, FK_HOST: `admin@${vm.outsideAddress}`, FK_SITE: 'lab', FK_DEADMAN_SECONDS: '600' }
  })
  after(async () => {
    if (existsSync(tunnel())) await laptop('wg-quick', 'down', tunnel()).catch(() => undefined)
    await labDown('build')
    rmSync(kit.state, { recursive: true, force: true })
  })

  test('it builds until the laptop needs a key for the tunnel, and says how', async () => {
    const { code, text } = await task('build-all', '--yes', '--confirm', 'virtio-fk-vault')
    assert.equal(code, 2, text)
    assert.match(text, /^your turn +\d+\/\d+ the laptop has WireGuard keys for the host and every peer$/m)
    assert.match(text, /next: {2}\.\/task peer show laptop/)
  })

  test('with a key it builds until somebody has to bring the tunnel up, and says how', async () => {
    const shown = await task('peer', 'show', 'laptop')
    assert.equal(shown.code, 0, shown.text)
    const client = /\S+laptop\S*\.conf/.exec(shown.text)?.[0]
    assert.ok(client, shown.text)
    symlinkSync(client, tunnel())
    const { code, text } = await task('build-all', '--yes', '--confirm', 'virtio-fk-vault')
    assert.equal(code, 2, text)
    assert.match(text, /a peer has made a WireGuard handshake in the last three minutes/)
  })

  test('with the tunnel up it closes every other door and makes the vault', async () => {
    await laptop('wg-quick', 'up', tunnel())
    await laptop('ping', '-c', '1', '-W', '10', '10.66.0.1').catch(() => undefined)
    // A person at a terminal writes the recovery key down, and types two of its groups from there.
    const person = terminal(
      [process.execPath, 'bin/task.cjs', 'build-all', '--yes', '--confirm', 'virtio-fk-vault'],
      { cwd: root, env: { ...process.env, ...env }, namespace: vm.outsideNamespace as string },
    )
    await person.until(/Enter, when it is on paper/, 3000)
    const paper = [...person.text().matchAll(/^ {2}\d {2}([b-v]{8})$/gm)].map(([, group]) => group ?? '')
    assert.equal(paper.length, 8)
    person.type('')
    for (let i = 0; i < 2; i++) {
      const asked = await person.until(/group \d of the recovery key: /)
      person.type(paper[Number(/\d/.exec(asked)?.[0]) - 1] ?? '')
    }
    const code = await person.ended
    const text = person.text()
    // Boot arguments wait for the reboot: that is not a failure, and not done either.
    assert.equal(code, 2, text)
  })

  test('after a reboot every control holds', async (t) => {
    const boot = 'cat /proc/sys/kernel/random/boot_id'
    const first = await inTunnel(boot)
    await inTunnel('sudo --stdin --prompt= systemctl reboot', `${vm.password}\n`).catch(() => undefined)
    for (const until = Date.now() + 300_000; ; await new Promise((resolve) => setTimeout(resolve, 2000))) {
      const now = await inTunnel(boot).catch(() => first)
      if (now !== first) break
      assert.ok(Date.now() < until, 'it did not come back')
    }
    const { code, text } = await task('verify-all', '--verbose')
    t.diagnostic(summary(text).join('; '))
    assert.equal(code, 0, text)
    for (const line of summary(text)) {
      const [, hold, total] = /(\d+) of (\d+) controls hold/.exec(line) ?? []
      const waived = Number(/(\d+) waived/.exec(line)?.[1] ?? 0)
      assert.equal(Number(hold) + waived, Number(total), line)
    }
  })

  test('a second apply changes nothing and restarts nothing', async () => {
    const since = await inTunnel(services)
    const { code, text } = await task('build-all', '--yes')
    assert.equal(code, 0, text)
    for (const line of summary(text)) assert.doesNotMatch(line, /changed/)
    assert.equal(await inTunnel(services), since)
  })
})
