// The one door, in a real kernel: what a stranger finds, what a peer finds, and that a reboot leaves no gap.
import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { labDown, labUp } from '../../lib/lab/lab.ts'
import { type Kit, around } from '../machine/kit.ts'
import { type Answer, type Checkout, type Laptop, checkout, laptopIn, noLaptop } from '../machine/laptop.ts'
import { nmap, without } from '../programs.ts'

const name = 'door-test'
const address = '192.0.2.2'
const noNmap = without('nmap')

describe('the one door', { skip: noLaptop }, () => {
  let kit: Kit
  let copy: Checkout
  let admin: Laptop
  const run = (page: string, ...words: string[]) => admin.page(kit, copy.page(page), words)
  /** Through the tunnel, as an admin would. */
  const ssh = (command: string): Promise<Answer> => {
    const options = [
      'HostKeyAlias=fortress.fortress',
      'BatchMode=yes',
      'ConnectTimeout=5',
      `UserKnownHostsFile=${join(kit.state, 'known_hosts')}`,
    ]
    return admin.run(
      'ssh',
      '-F',
      'none',
      '-i',
      kit.machine.identityFile,
      ...options.flatMap((o) => ['-o', o]),
      'admin@10.66.0.1',
      command,
    )
  }
  const sudo = (command: string) => ssh(`sudo --stdin --prompt= -- ${command} <<< '${kit.machine.password}'`)
  const knock = async () =>
    (await admin.run('timeout', '2', 'bash', '-c', `exec 3<> /dev/tcp/${address}/22`)).code

  before(async () => {
    const vm = await labUp(name, { outside: true })
    kit = around(vm)
    kit.env['FK_HOST'] = `admin@${address}`
    copy = checkout()
    admin = laptopIn(vm.outsideNamespace ?? '', 'fkdoor', '192.0.2.1')
    await copy.peer(kit, 'show', 'laptop')
  })
  after(async () => {
    await admin?.end()
    copy?.end()
    await labDown(name)
  })

  test('before, SSH answers a stranger', async () => {
    assert.equal(await knock(), 0)
  })

  test('the tunnel comes up in the kernel, and the firewall behind it', async () => {
    const tunnel = await run('05-host-wireguard', 'apply')
    assert.equal(tunnel.code, 0, tunnel.text)
    await admin.up(join(kit.state, 'fortress', 'laptop.conf'))
    assert.equal(await admin.meets(kit, '10.66.0.2'), true)
    assert.match((await kit.root('ip -details link show wg0')).stdout, /^ +wireguard /m)
    const firewall = await run('06-host-firewall', 'apply')
    assert.equal(firewall.code, 0, firewall.text)
    assert.match(firewall.text, /, 13 of 13 controls hold$/m)
  })

  test('a peer with its key shakes hands and logs in through the tunnel', async () => {
    const { code, text } = await ssh('echo "$SSH_CONNECTION"')
    assert.equal(code, 0, text)
    assert.match(text, /^10\.66\.0\.2 \d+ 10\.66\.0\.1 22$/m)
    assert.match((await sudo('wg show wg0 latest-handshakes')).text, /\t[1-9]\d+$/m)
  })

  test('from outside, none of the 65535 TCP ports is open', { skip: noNmap }, async () => {
    const { text } = await admin.run(
      ...nmap('-sS', '-p-', '--max-retries', '1', '--min-rate', '3000', address),
    )
    assert.match(text, /Ignored State: filtered \(65535\)/)
  })

  test('from outside, UDP 51820 cannot be told from a port where nothing is', { skip: noNmap }, async () => {
    const { text } = await admin.run(
      ...nmap('-sU', '-p', '53,67,68,123,161,500,4500,51819,51820,51821', '--max-retries', '1', address),
    )
    assert.equal(text.match(/\d+\/open\|filtered\/udp/g)?.length, 10, text)
  })

  test('UDP 51820 is silent to whoever holds no key, even when he speaks WireGuard', async () => {
    // A handshake initiation is type 1 and 148 bytes; everything in it but the type is made up.
    const initiation = Buffer.concat([Buffer.from([1, 0, 0, 0]), randomBytes(144)])
    const program = `
      const socket = require('node:dgram').createSocket('udp4')
      let heard = 0
      socket.on('message', () => heard++)
      for (const hex of ${JSON.stringify([initiation, randomBytes(148), Buffer.from('GET / HTTP/1.0\r\n\r\n'), Buffer.alloc(0)].map((b) => b.toString('hex')))})
        for (let i = 0; i < 5; i++) socket.send(Buffer.from(hex, 'hex'), 51820, '${address}')
      setTimeout(() => { console.log('heard ' + heard); process.exit() }, 3000)`
    assert.equal((await admin.run(process.execPath, '-e', program)).text, 'heard 0\n')
  })

  test('what was dropped stands in the journal, and not often', async () => {
    const { text } = await sudo('journalctl --dmesg --grep=nft-drop-in --output=cat')
    assert.match(text, /^nft-drop-in IN=enp0s3 .*SRC=192\.0\.2\.1 DST=192\.0\.2\.2 /m)
    assert.equal(text.trim().split('\n').length < 100, true)
  })

  test('through a reboot it is never open, and the tunnel comes back', async () => {
    const boot = (await ssh('cat /proc/sys/kernel/random/boot_id')).text
    const opened: number[] = []
    const watching = new AbortController()
    const watch = (async () => {
      while (!watching.signal.aborted) {
        if ((await knock()) === 0) opened.push(Date.now())
        await sleep(100)
      }
    })()
    await sudo('systemctl reboot')
    let now = boot
    for (let i = 0; i < 60 && (now === boot || !/^[0-9a-f-]{36}\n$/.test(now)); i++) {
      await sleep(2000)
      now = (await ssh('cat /proc/sys/kernel/random/boot_id')).text
    }
    watching.abort()
    await watch
    assert.notEqual(now, boot)
    assert.match(now, /^[0-9a-f-]{36}\n$/)
    assert.deepEqual(opened, [])
    for (const page of ['05-host-wireguard', '06-host-firewall']) {
      const { code, text } = await run(page, 'verify')
      assert.equal(code, 0, text)
    }
  })

  test('undo opens it again', async () => {
    const { code, text } = await run('06-host-firewall', 'undo')
    assert.equal(code, 0, text)
    assert.equal(await knock(), 0)
  })
})
