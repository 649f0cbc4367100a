// The lab itself: what the other tests of this tier and of the machine tier stand on.
import assert from 'node:assert/strict'
import { type ChildProcess, execFileSync, spawn } from 'node:child_process'
import fs from 'node:fs'
import net from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import {
  type LabMachine,
  type LabVm,
  labBoot,
  labClearTpm,
  labDir,
  labDown,
  labFind,
  labImage,
  labNodeDown,
  labNodeUp,
  labReboot,
  labRun,
  labSweep,
  labUp,
} from '../../lib/lab/lab.ts'

const root = join(import.meta.dirname, '../..')

/** A process of its own that runs a statement with everything of lib/lab/lab.ts at hand, in a group that can be killed. */
function apart(statement: string, env: Record<string, string> = {}): ChildProcess & { said: () => string } {
  const names = 'labDeps, labImage, labNodeUp'
  const code = `import { ${names} } from './lib/lab/lab.ts'; void [${names}]; ${statement}`
  const child = spawn(process.execPath, ['--import', 'tsx', '--input-type=module', '--eval', code], {
    cwd: root,
    detached: true,
    env: { ...process.env, ...env },
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  let text = ''
  child.stdout.on('data', (data: Buffer) => (text += data.toString()))
  return Object.assign(child, { said: () => text })
}

async function until(what: string, holds: () => boolean): Promise<void> {
  for (let tries = 0; !holds(); tries++) {
    assert.ok(tries < 6000, what)
    await sleep(50)
  }
}

const ended = (child: ChildProcess) =>
  new Promise<void>((resolve) =>
    (child.exitCode ?? child.signalCode) === null ? child.once('close', () => resolve()) : resolve(),
  )

/** What is left of a machine on this computer: processes, mounts, namespaces, interfaces, files. */
function traces(machine: LabMachine): string[] {
  const mine = `${machine.dir}/`
  const commands = fs.readdirSync('/proc').flatMap((pid) => {
    try {
      return /^\d+$/.test(pid) ? [fs.readFileSync(`/proc/${pid}/cmdline`, 'utf8').replaceAll('\0', ' ')] : []
    } catch {
      // It ended meanwhile.
      return []
    }
  })
  const mounts = fs.readFileSync('/proc/self/mounts', 'utf8').split('\n')
  const namespaces = execFileSync('ip', ['netns', 'list'], { encoding: 'utf8' }).split(/\s/)
  return [
    ...[...commands, ...mounts].filter((line) => line.includes(mine)),
    ...namespaces.filter((name) => [`fk-${machine.name}`, `fk-${machine.name}-outside`].includes(name)),
    ...[machine.dir].filter((dir) => fs.existsSync(dir)),
  ]
}

/** What ssh says when the machine's pinned keys are others. */
async function withOtherKeys(machine: LabMachine): Promise<string> {
  const pinned = fs.readFileSync(machine.knownHostsFile, 'utf8')
  const dir = fs.mkdtempSync(join(tmpdir(), 'fk-key-'))
  try {
    execFileSync('ssh-keygen', ['-q', '-t', 'ed25519', '-N', '', '-f', join(dir, 'key')])
    const other = fs.readFileSync(join(dir, 'key.pub'), 'utf8').split(' ').slice(0, 2).join(' ')
    fs.writeFileSync(machine.knownHostsFile, `${pinned.split(' ')[0]} ${other}\n`)
    const { code, stdout, stderr } = await labRun(machine, 'echo in', { fresh: true })
    return `${code} ${stdout}${stderr.split('\r\n').at(-2)}`
  } finally {
    fs.writeFileSync(machine.knownHostsFile, pinned)
    fs.rmSync(dir, { recursive: true })
  }
}

describe('a node of the lab', () => {
  let node: LabMachine
  before(async () => (node = await labNodeUp('lab-test-node')))
  after(() => labNodeDown('lab-test-node'))

  test('is a plain Debian 13 whose admin has a password', async () => {
    const { stdout } = await labRun(
      node,
      'id --name --groups; . /etc/os-release; echo $VERSION_CODENAME; systemctl is-system-running --wait',
    )
    assert.equal(stdout, 'admin sudo users\ntrixie\nrunning\n')
    const refused = await labRun(node, 'sudo --non-interactive true')
    assert.equal(`${refused.code} ${refused.stderr}`, '1 sudo: a password is required\n')
    assert.equal((await labRun(node, 'id --user', { root: true })).stdout, '0\n')
  })

  test('is refused when its host key is another', async () => {
    assert.equal(await withOtherKeys(node), '255 Host key verification failed.')
    assert.equal((await labRun(node, 'echo in', { fresh: true })).stdout, 'in\n')
  })

  test('comes back after a reboot with what was written before', async () => {
    await labRun(node, 'echo here > mark')
    await labReboot(node)
    assert.equal((await labRun(node, 'cat mark')).stdout, 'here\n')
  })

  test('reaches Debian’s archive when it has been given a way out, and nothing otherwise', async () => {
    const out = await labNodeUp('lab-test-out', { net: true })
    try {
      const update = await labRun(out, 'apt-get update 2>&1 | tail --lines=1', { root: true })
      assert.equal(update.stdout, 'Reading package lists...\n')
      assert.equal((await labRun(node, 'ip route show default')).stdout, '')
    } finally {
      await labNodeDown('lab-test-out')
    }
  })

  test('does not touch another one', async () => {
    const other = await labNodeUp('lab-test-other')
    try {
      const before = await labRun(other, 'pgrep --oldest sshd')
      await labRun(node, 'systemctl restart ssh', { root: true })
      assert.deepEqual(await labRun(other, 'pgrep --oldest sshd', { fresh: true }), before)
      assert.equal((await labRun(other, 'hostname')).stdout, 'lab-test-other\n')
    } finally {
      await labNodeDown('lab-test-other')
    }
    assert.deepEqual(traces(other), [])
  })

  test('is a fresh one when it is started again', async () => {
    await labRun(node, 'echo old > /etc/mark', { root: true })
    node = await labNodeUp('lab-test-node')
    assert.equal((await labRun(node, 'cat /etc/mark')).code, 1)
  })

  test('is not taken away from a living process, and removed when its owner was killed', async () => {
    const owner = apart(`await labNodeUp('lab-test-owned'); console.log('up'); setInterval(() => {}, 1000)`)
    await until('the node is up', () => owner.said() === 'up\n')
    const owned = (await labFind('lab-test-owned')) as LabMachine
    await assert.rejects(labNodeUp('lab-test-owned'), {
      message: `the lab’s machine lab-test-owned is up already, for process ${owner.pid}`,
    })
    await labSweep()
    assert.equal((await labRun(owned, 'hostname')).stdout, 'lab-test-owned\n')
    process.kill(-(owner.pid as number), 'SIGKILL')
    await ended(owner)
    await labSweep()
    assert.deepEqual(traces(owned), [])
  })
})

describe('the image of the lab', () => {
  const dir = fs.mkdtempSync(join(tmpdir(), 'fk-lab-'))
  after(() => fs.rmSync(dir, { recursive: true, force: true }))

  test('is not there when its build was killed, is built by the next one, and then kept', async () => {
    const build = `await labImage({ dir: ${JSON.stringify(dir)}, only: 'node' })`
    const first = apart(build)
    const names = () => (fs.existsSync(join(dir, 'tree')) ? fs.readdirSync(join(dir, 'tree')) : [])
    await until('the build has begun', () =>
      names().some((name) => fs.existsSync(join(dir, 'tree', name, 'var/lib/dpkg'))),
    )
    process.kill(-(first.pid as number), 'SIGKILL')
    await ended(first)
    assert.deepEqual(
      names().filter((name) => /^[0-9a-f]+$/.test(name)),
      [],
    )

    const lines: string[] = []
    const { tree } = await labImage({ dir, only: 'node', progress: (line) => lines.push(line) })
    assert.deepEqual(lines, [
      'installing Debian 13 from packages into a directory (half a minute)',
      'adding the user admin, the network and sshd',
    ])
    const built = fs.statSync(tree).ino
    assert.deepEqual(await labImage({ dir, only: 'node', progress: (line) => lines.push(line) }), { tree })
    assert.equal(fs.statSync(tree).ino, built)
    assert.equal(lines.length, 2)
    assert.equal(fs.statSync(join(dir, 'keys/password')).mode & 0o777, 0o600)
    assert.equal(fs.readFileSync('/proc/self/mounts', 'utf8').includes(dir), false)
  })

  test('is not built with a QEMU that is too old', async () => {
    fs.writeFileSync(join(dir, 'qemu-system-x86_64'), '#!/bin/sh\necho QEMU emulator version 7.2.22\n', {
      mode: 0o755,
    })
    const child = apart(`console.log((await labDeps('vm')).reasons.join('\\n'))`, {
      PATH: `${dir}:${process.env['PATH']}`,
    })
    await ended(child)
    assert.equal(
      child.said(),
      'QEMU 7.2.22 is too old: before 10 its guests crash at random when they are emulated\n',
    )
  })
})

describe('the VM of the lab', () => {
  let vm: LabVm
  before(async () => {
    vm = await labUp('lab-test-vm', { outside: true })
  })
  after(() => labDown('lab-test-vm'))

  test('has a TPM, two empty disks, two networks and the right time', async () => {
    const { stdout } = await labRun(
      vm,
      'lsblk --nodeps --noheadings --output SERIAL,SIZE --exclude 11 | xargs; ' +
        'ls /dev/tpm*; hostname --all-ip-addresses; date +%s',
    )
    const [disks, ...rest] = stdout.trimEnd().split('\n')
    const now = Number(rest.pop())
    assert.equal(disks, '6G fk-vault 2G fk-spare 512M')
    assert.equal(rest.join(' '), '/dev/tpm0 /dev/tpmrm0 10.0.2.15 192.0.2.2 ')
    assert.ok(Math.abs(Date.now() / 1000 - now) < 60, `the guest’s clock says ${now}`)
  })

  test('is refused when its host key is another', async () => {
    assert.equal(await withOtherKeys(vm), '255 Host key verification failed.')
  })

  test('answers a stranger on its outside network, and reaches Debian’s archive', async () => {
    const stranger = [
      'netns',
      'exec',
      vm.outsideNamespace as string,
      'bash',
      '-c',
      'head --bytes=4 < /dev/tcp/192.0.2.2/22',
    ]
    assert.equal(execFileSync('ip', stranger, { encoding: 'utf8' }), 'SSH-')
    const update = await labRun(vm, 'apt-get update 2>&1 | tail --lines=1', { root: true })
    assert.equal(update.stdout, 'Reading package lists...\n')
  })

  test('stands beside a second one, and a taken port is told', async () => {
    await labRun(vm, 'echo one > mark')
    const other = await labUp('lab-test-vm2')
    try {
      assert.equal((await labRun(other, 'cat mark')).stderr, 'cat: mark: No such file or directory\n')
      assert.equal((await labRun(vm, 'cat mark')).stdout, 'one\n')
    } finally {
      await labDown('lab-test-vm2')
    }
    assert.deepEqual(traces(other), [])
    const server = net.createServer().listen(0, '127.0.0.1')
    await new Promise((resolve) => server.once('listening', resolve))
    const { port } = server.address() as net.AddressInfo
    await assert.rejects(labUp('lab-test-vm2', { port }), { message: `port ${port} of 127.0.0.1 is taken` })
    assert.equal(fs.existsSync(join(labDir(), 'run/lab-test-vm2')), false)
    server.close()
  })

  test('boots a new command line through GRUB, and keeps its TPM until that is cleared', async () => {
    const seal = `echo fk=1 > /tmp/plain
      systemd-creds encrypt --with-key=tpm2 --tpm2-pcrs=7 --name=test /tmp/plain /root/sealed
      echo 'GRUB_CMDLINE_LINUX="$GRUB_CMDLINE_LINUX fk=1"' > /etc/default/grub.d/90-test.cfg
      update-grub`
    const open = 'grep --only-matching fk=1 /proc/cmdline; systemd-creds decrypt --name=test /root/sealed -'
    const sealed = await labRun(vm, `set -e; mkdir --parents /etc/default/grub.d; ${seal}`, { root: true })
    assert.equal(sealed.code, 0, sealed.stderr)
    await labReboot(vm)
    assert.equal((await labRun(vm, open, { root: true })).stdout, 'fk=1\nfk=1\n')
    await labDown('lab-test-vm', { keepDisk: true })
    await labClearTpm('lab-test-vm')
    vm = await labBoot('lab-test-vm')
    assert.equal((await labRun(vm, open, { root: true })).stdout, 'fk=1\n')
  })

  test('leaves nothing when it is ended, and starts afresh', async () => {
    await labDown('lab-test-vm')
    assert.deepEqual(traces(vm), [])
    vm = await labUp('lab-test-vm')
    assert.equal((await labRun(vm, 'ls /root/sealed', { root: true })).code, 2)
  })
})
