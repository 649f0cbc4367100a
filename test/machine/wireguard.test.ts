import assert from 'node:assert/strict'
import {
  copyFileSync,
  existsSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { publicKey } from '../../lib/ground/keys.ts'
import { secretStore } from '../../lib/ground/secret.ts'
import { presharedKey, privateKey, publicHalf } from '../../lib/host/wireguard.ts'
import { type Kit, failedControls, node } from './kit.ts'
import { type Checkout, type Laptop, changed, checkout, differences, laptop, noLaptop } from './laptop.ts'
import { left, runPrinted, sameLeft } from './printed.ts'

describe('the tunnel', { skip: noLaptop }, () => {
  let kit: Kit & { end(): Promise<void> }
  let copy: Checkout
  let admin: Laptop
  let other: Laptop
  let untouched: string
  /** A rule of routing by which no other way than the tunnel leads to SSH. */
  let closed: string[]
  const file = (peer: string) => join(kit.state, 'fortress', `${peer}.conf`)
  const psk = () =>
    `/etc/wireguard/wg0/${publicHalf(join(kit.state, 'fortress'), 'wg-peer-laptop').replaceAll('/', '_')}.psk`
  const run = (...words: string[]) => admin.page(kit, copy.page('05-host-wireguard'), words)
  const wg = async (what: string) => (await kit.root(`wg show wg0 ${what}`)).stdout

  before(async () => {
    kit = await node(undefined, 'wireguard', { net: true })
    closed = ['unreachable', 'to', kit.machine.host, 'ipproto', 'tcp', 'dport', '22']
    copy = checkout()
    admin = await laptop(1)
    other = await laptop(2)
    // The container has no module; its kernel may be anything.
    const installed = await kit.root(
      'DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends install wireguard-go',
    )
    assert.equal(installed.code, 0, installed.stderr)
    untouched = await kit.digest()
  })
  after(async () => {
    await admin?.end()
    await other?.end()
    copy?.end()
    await kit?.end()
  })

  test('a plan makes neither keys nor an identity, and apply makes both and brings it up', async () => {
    const { code, text } = await run('plan')
    assert.equal(code, 2, text)
    assert.match(text, /^change +2\/\d+ the laptop has WireGuard keys for the host and every peer$/m)
    assert.deepEqual(readdirSync(kit.state).sort(), ['known_hosts', 'log', 'sudo'])
    assert.deepEqual(differences(untouched, await kit.digest()), [])
    const applied = await run('apply')
    assert.equal(applied.code, 0, applied.text)
    assert.match(applied.text, /, 3 of 3 controls hold$/m)
    assert.match(applied.text, /The age identity has no known copy yet/)
  })

  test('a laptop without the keys of this machine does not replace them', async () => {
    const before = await kit.digest()
    const state = mkdtempSync(join(tmpdir(), 'fk-other-'))
    copyFileSync(join(kit.state, 'known_hosts'), join(state, 'known_hosts'))
    const env = { FK_STATE_DIR: state, FK_AGE_IDENTITY: join(state, 'identity.txt') }
    const { code, text } = await admin.page(kit, copy.page('05-host-wireguard'), ['apply'], env)
    rmSync(state, { recursive: true })
    assert.equal(code, 1, text)
    assert.match(text, /the key in \/etc\/wireguard\/wg0.key was made elsewhere/)
    assert.deepEqual(differences(before, await kit.digest()), [])
  })

  test('keys are files for root alone, and stand in no other', async () => {
    const { stdout } = await kit.root("find /etc/wireguard -printf '%p %m %u\\n' | sort")
    assert.equal(
      stdout,
      `/etc/wireguard 700 root
/etc/wireguard/wg0 700 root
/etc/wireguard/wg0.conf 600 root
/etc/wireguard/wg0.key 600 root
${psk()} 600 root
`,
    )
    const store = secretStore({ dir: join(kit.state, 'fortress'), identity: join(kit.state, 'identity.txt') })
    for (const name of ['wg-host', 'wg-psk-laptop']) {
      const value = (await store.get(name)).reveal()
      const found = await kit.root(
        `grep --recursive --files-with-matches --fixed-strings --file=/dev/stdin /etc /var/lib/fortress /run/systemd /tmp | sort`,
        value,
      )
      assert.equal(
        found.stdout,
        `/etc/wireguard/${name === 'wg-host' ? 'wg0.key' : psk().replace('/etc/wireguard/', '')}\n`,
      )
    }
  })

  test('a second apply changes nothing and interrupts nobody', async () => {
    const facts = 'systemctl show --property=InvocationID wg-quick@wg0 fortress-tunnel.timer'
    const since = (await kit.root(facts)).stdout
    const { code, text } = await run('apply')
    assert.equal(code, 0, text)
    assert.match(text, /^05-host-wireguard: 17 steps hold, 3 of 3 controls hold$/m)
    assert.equal((await kit.root(facts)).stdout, since)
  })

  test('a peer with its keys comes in, and logs in through the tunnel', async () => {
    await admin.up(file('laptop'))
    assert.equal(await admin.meets(kit, '10.66.0.2'), true)
    const options = [
      'HostKeyAlias=fortress.fortress',
      'BatchMode=yes',
      `UserKnownHostsFile=${join(kit.state, 'known_hosts')}`,
    ]
    const words = ['-F', 'none', '-i', kit.machine.identityFile, ...options.flatMap((o) => ['-o', o])]
    const { code, text } = await admin.run('ssh', ...words, 'admin@10.66.0.1', 'echo "$SSH_CONNECTION"')
    assert.equal(code, 0, text)
    assert.match(text, /^10\.66\.0\.2 \d+ 10\.66\.0\.1 22$/m)
  })

  for (const [who, wrong] of [
    ['the right key and a wrong preshared key', { PresharedKey: presharedKey() }],
    ['a key nobody knows', { PrivateKey: privateKey() }],
  ] as const)
    test(`a stranger with ${who} gets no answer`, async () => {
      await admin.down()
      const stranger = join(kit.state, 'stranger.conf')
      writeFileSync(stranger, changed(file('laptop'), wrong), { mode: 0o600 })
      await other.up(stranger)
      assert.equal(await other.meets(kit, '10.66.0.2', 2), false)
      assert.match((await other.run('wg', 'show', 'fkt2', 'latest-handshakes')).text, /\t0$/m)
      await other.down()
      await admin.up(file('laptop'))
      assert.equal(await admin.meets(kit, '10.66.0.2', 30), true)
    })

  test('a new peer comes in while the session of the first goes on', async () => {
    await copy.peer(kit, 'add', 'phone')
    const before = await wg('latest-handshakes')
    const pings = kit.root('ping -i 0.2 -c 40 10.66.0.2')
    const { code, text } = await run('apply')
    assert.equal(code, 0, text)
    assert.match(text, /^changed +\d+\/\d+ wg0.conf lists the peers of the site, and no others$/m)
    assert.match((await pings).stdout, /40 received, 0% packet loss/)
    assert.equal((await wg('latest-handshakes')).includes(before.trim()), true)
    await other.up(file('phone'))
    assert.equal(await other.meets(kit, '10.66.0.3'), true)
    assert.match(await wg('allowed-ips'), /\t10\.66\.0\.3\/32$/m)
  })

  test('a revoked peer is gone from the kernel', async () => {
    const half = publicKey(/^PrivateKey = (.*)$/m.exec(readFileSync(file('phone'), 'utf8'))![1]!)
    assert.equal((await wg('peers')).includes(half), true)
    await copy.peer(kit, 'revoke', 'phone')
    assert.equal((await run('verify')).code, 1)
    const { code, text } = await run('apply')
    assert.equal(code, 0, text)
    assert.equal((await wg('peers')).includes(half), false)
    assert.equal((await kit.root('ls /etc/wireguard/wg0/*')).stdout, `${psk()}\n`)
    assert.equal(
      (await kit.root('find /var/lib/fortress/secret/etc/wireguard/wg0 -type f')).stdout,
      `/var/lib/fortress/secret${psk()}.sha256\n`,
    )
    assert.equal(await other.meets(kit, '10.66.0.3', 2), false)
    await other.down()
    assert.equal(await admin.meets(kit, '10.66.0.2'), true)
  })

  test('a peer that was revoked and added again between two runs comes in with its new keys', async () => {
    await copy.peer(kit, 'add', 'phone')
    assert.equal((await run('apply')).code, 0)
    await copy.peer(kit, 'revoke', 'phone')
    await copy.peer(kit, 'add', 'phone')
    const { code, text } = await run('apply')
    assert.equal(code, 0, text)
    await other.up(file('phone'))
    assert.equal(await other.meets(kit, '10.66.0.3'), true)
    await other.down()
    await copy.peer(kit, 'revoke', 'phone')
    assert.equal((await run('apply')).code, 0)
  })

  for (const [what, command] of [
    [
      'a peer that somebody added by hand',
      `wg set wg0 peer ${publicKey(privateKey())} allowed-ips 10.66.0.99/32`,
    ],
    [
      'a peer that may use more than its address',
      'wg set wg0 peer "$(wg show wg0 peers)" allowed-ips 10.66.0.0/24',
    ],
    ['a preshared key that was taken away', 'wg set wg0 peer "$(wg show wg0 peers)" preshared-key /dev/null'],
    ['an interface without its address', 'ip address flush dev wg0'],
  ] as const)
    test(`${what} is drift, and is put right`, async () => {
      const { code, stderr } = await kit.root(command)
      assert.equal(code, 0, stderr)
      const applied = await run('apply')
      assert.equal(applied.code, 0, applied.text)
      assert.match(applied.text, /^changed +\d+\/\d+ the WireGuard tunnel is up, and starts at boot$/m)
    })

  for (const [what, seen, command, undo] of [
    [
      'a unit that is not enabled beside a timer that is',
      'G15',
      'systemctl --quiet disable wg-quick@wg0.service',
      'systemctl --quiet enable wg-quick@wg0.service',
    ],
    [
      'what the watchdog starts instead',
      'G15',
      `mkdir --parents /run/systemd/system/fortress-tunnel.service.d
printf '[Service]\\nExecStart=\\nExecStart=/bin/true\\n' > /run/systemd/system/fortress-tunnel.service.d/site.conf; systemctl daemon-reload`,
      'rm --recursive /run/systemd/system/fortress-tunnel.service.d; systemctl daemon-reload',
    ],
    [
      'a key that the interface has and no file',
      'G13',
      'wg set wg0 private-key <(wg genkey)',
      '/usr/local/sbin/fortress-wireguard wg0',
    ],
  ] as const)
    test(`verify sees ${what}`, async () => {
      const done = await kit.root(`bash -euc '${command.replaceAll("'", `'\\''`)}'`)
      assert.equal(done.code, 0, done.stderr)
      const { code, text } = await run('verify', '--json')
      const undone = await kit.root(undo)
      assert.equal(undone.code, 0, undone.stderr)
      assert.equal(code, 1, text)
      assert.ok(failedControls(text).includes(seen), text)
      assert.deepEqual(failedControls((await run('verify', '--json')).text), [])
    })

  test('a tunnel that vanished is put back by the machine itself', async () => {
    await kit.root('ip link delete dev wg0')
    assert.equal((await kit.root('systemctl is-active wg-quick@wg0')).stdout, 'active\n')
    const { code, stderr } = await kit.root('systemctl start fortress-tunnel.service')
    assert.equal(code, 0, stderr)
    await admin.up(file('laptop'))
    assert.equal(await admin.meets(kit, '10.66.0.2'), true)
    assert.equal((await run('verify')).code, 0)
  })

  test('it is there after a reboot', async () => {
    const boot = (
      await kit.root(
        'cat /proc/sys/kernel/random/boot_id; systemctl show --property=UserspaceTimestampMonotonic',
      )
    ).stdout
    await kit.root('systemctl reboot')
    for (let i = 0; i < 100; i++) {
      const { code, stdout } = await kit.root(
        'systemctl is-system-running --wait; systemctl show --property=UserspaceTimestampMonotonic',
      )
      if (code === 0 && !boot.includes(stdout.split('\n').at(-2) ?? ' ')) break
      await new Promise((resolve) => setTimeout(resolve, 100))
    }
    await admin.up(file('laptop'))
    assert.equal(await admin.meets(kit, '10.66.0.2'), true)
    const { code, text } = await run('verify')
    assert.equal(code, 0, text)
  })

  test('whoever takes away the peer that he came through gets it back', async () => {
    await copy.peer(kit, 'add', 'phone')
    const both = readFileSync(copy.site, 'utf8')
    writeFileSync(copy.site, both.replace(/\{ name: laptop[^}]*\}, /, ''))
    await admin.run('ip', 'rule', 'add', ...closed)
    const applied = await admin.page(kit, copy.page('05-host-wireguard'), ['apply'], {
      FK_DEADMAN_SECONDS: '30',
    })
    await admin.run('ip', 'rule', 'delete', ...closed)
    assert.equal(applied.code, 1, applied.text)
    assert.match(applied.text, /the machine (has rolled these steps back|rolls these steps back by itself)/)
    for (let i = 0; i < 60 && (await wg('allowed-ips')).includes('10.66.0.3'); i++)
      await new Promise((resolve) => setTimeout(resolve, 1000))
    assert.equal(await admin.meets(kit, '10.66.0.2', 60), true)
    writeFileSync(copy.site, both.replace(/, \{ name: phone[^}]*\}/, ''))
    const { code, text } = await run('verify')
    assert.equal(code, 0, text)
  })

  test('undo from within the tunnel changes nothing where no other way leads in', async () => {
    const door = join(kit.state, 'fortress', 'fortress.door')
    assert.ok(existsSync(door), 'the laptop has come through the tunnel')
    await admin.run('ip', 'rule', 'add', ...closed)
    const { code, text } = await run('undo')
    await admin.run('ip', 'rule', 'delete', ...closed)
    assert.equal(code, 1, text)
    assert.match(text, /nothing was changed[^]*\.\/task host-firewall undo/)
    assert.ok(existsSync(door))
    assert.equal(await admin.meets(kit, '10.66.0.2'), true)
  })

  test('undo goes by the other way in, and gives the machine back as it was', async () => {
    const { code, text } = await run('undo')
    assert.equal(code, 0, text)
    assert.deepEqual(differences(untouched, await kit.digest()), [])
    assert.equal((await kit.root('ip link show dev wg0')).code, 1)
    // What others changed since is kept for them; of ours nothing is left, neither digests of secrets nor names of peers.
    const { stdout } = await kit.root('rm -r /var/lib/fortress/aside; find /var/lib/fortress -mindepth 1')
    assert.equal(stdout, '')
  })

  test('taken home as a folder and as bash, it leaves the same as apply', async () => {
    assert.equal((await run('apply')).code, 0)
    const applied = await left(kit)
    assert.equal((await run('undo')).code, 0)
    assert.equal((await kit.root('find /var/lib/fortress')).stdout, '')
    const home = await admin.page(kit, await copy.take(kit, '05-host-wireguard'), ['apply'])
    assert.equal(home.code, 0, home.text)
    sameLeft(applied, await left(kit))
    assert.equal((await run('undo')).code, 0)
    await runPrinted(kit, await copy.takeBash(kit, '05-host-wireguard'))
    sameLeft(applied, await left(kit))
    assert.equal((await run('verify')).code, 0)
  })
})
