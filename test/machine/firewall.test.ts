import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { nmap, without } from '../programs.ts'
import { type Kit, failedControls, node } from './kit.ts'
import { type Checkout, type Laptop, checkout, differences, laptop, noLaptop } from './laptop.ts'
import { left, sameLeft } from './printed.ts'

describe('the firewall', { skip: noLaptop }, () => {
  let kit: Kit & { end(): Promise<void> }
  let copy: Checkout
  let admin: Laptop
  let stranger: Laptop
  let open: string
  const name = 'firewall'
  const run = (words: string[], env?: Record<string, string>) =>
    admin.page(kit, copy.page('06-host-firewall'), words, env)

  /** Root on the machine without a connection: what is closed to the test is asked all the same. */
  const inside = (command: string): string => {
    const nspawn = execFileSync('pgrep', ['--full', `machine=fk-${name} `], { encoding: 'utf8' }).split(
      '\n',
    )[0]!
    const init = execFileSync('pgrep', ['--parent', nspawn], { encoding: 'utf8' }).trim()
    return execFileSync(
      'nsenter',
      [
        '--target',
        init,
        '--all',
        'env',
        'PATH=/usr/sbin:/usr/bin',
        'bash',
        '-euo',
        'pipefail',
        '-c',
        command,
      ],
      // Whoever is inside when the machine goes down may never come out.
      { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'], timeout: 30_000, killSignal: 'SIGKILL' },
    )
  }
  const until = async (what: () => boolean, seconds = 60): Promise<boolean> => {
    for (let i = 0; i < seconds * 5; i++) {
      try {
        if (what()) return true
      } catch {
        // Between two boots there is nobody to ask.
      }
      await new Promise((resolve) => setTimeout(resolve, 200))
    }
    return false
  }
  /** What sshd says first, or nothing. */
  const greeting = async (who: Laptop, address: string): Promise<string> =>
    (
      await who.run('timeout', '3', 'bash', '-c', `exec 3<> /dev/tcp/${address}/22 && head --bytes=8 <&3`)
    ).text.includes('SSH-2.0-')
      ? 'SSH-2.0-'
      : ''
  const uptime = () =>
    inside('systemctl show --property=UserspaceTimestampMonotonic; stat --format=%Y /proc/1')
  /** A reboot. The kernel beneath a container stays, and so would its rules: they go first. */
  const reboot = async () => {
    const before = uptime()
    inside('nft flush ruleset')
    try {
      inside('systemctl reboot')
    } catch {
      // It can go down before it has answered; whether it did is asked below.
    }
    const up = () =>
      uptime() !== before && /running|degraded/.test(inside('systemctl is-system-running || true'))
    assert.equal(await until(up), true)
  }

  before(async () => {
    kit = await node(undefined, name, { net: true })
    copy = checkout()
    admin = await laptop(3)
    stranger = await laptop(4)
    const { code, stderr } = await kit.root(
      'DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends install wireguard-go',
    )
    assert.equal(code, 0, stderr)
    const tunnel = await admin.page(kit, copy.page('05-host-wireguard'), ['apply'])
    assert.equal(tunnel.code, 0, tunnel.text)
    // Somebody else's rules, as libvirt or a cluster network has them: the site accepts that what they let through may stop.
    const mine = "accepted: [{ what: 'cut:fortress:table:ip.theirs', why: a test, until: 2099-12-31 }]"
    writeFileSync(copy.site, `${readFileSync(copy.site, 'utf8')}\n${mine}\n`)
    await kit.root(
      'nft --file -',
      'table ip theirs {\n chain forward {\n type filter hook forward priority filter; policy accept;\n ip saddr 203.0.113.9 counter drop\n }\n}\n',
    )
    open = await kit.digest()
  })
  after(async () => {
    await admin?.end()
    await stranger?.end()
    copy?.end()
    await kit?.end()
  })

  test('while nobody comes through the tunnel nothing is closed, and the page says what to do', async () => {
    const { code, text } = await run(['apply'])
    assert.equal(code, 2, text)
    assert.match(text, /^your turn +3\/12 /m)
    assert.match(text, /sudo wg-quick up \S+\/fortress\/laptop\.conf$/m)
    assert.deepEqual(differences(open, await kit.digest()), [])
  })

  test('rules that would lock the admin out are taken back, and nothing of them stays', async () => {
    await admin.up(join(kit.state, 'fortress', 'laptop.conf'))
    assert.equal(await admin.meets(kit, '10.66.0.2'), true)
    const file = join(copy.dir, 'config', 'host', 'nftables.conf')
    const good = readFileSync(file, 'utf8')
    // The controls ask for what is let in: the mistake must be one that no check knows.
    const first = '    jump cluster_input\n'
    writeFileSync(file, good.replace(first, `    iifname "wg0" tcp dport 22 drop\n${first}`))
    const { code, text } = await run(['apply'], { FK_DEADMAN_SECONDS: '30' })
    writeFileSync(file, good)
    assert.equal(code, 1, text)
    assert.match(text, /the machine rolls these steps back by itself, 30 s after they began/)
    assert.equal(await until(() => inside('ls /var/lib/fortress/tx/*/rolled-back') !== ''), true)
    assert.equal(inside('nft list tables'), 'table ip theirs\n')
    assert.equal(await greeting(stranger, kit.machine.host), 'SSH-2.0-')
    // The unit that looked after it goes with the next run.
    const left = differences(open, await kit.digest()).filter(
      (line) => !line.includes('fortress-deadman.service'),
    )
    assert.deepEqual(left, [])
  })

  test('a laptop that dies before it could prove the door, and a machine that reboots, leave the door open', async () => {
    // No proof can come: the way was tried before, and the new rules close it.
    const file = join(copy.dir, 'config/host/nftables.conf')
    const good = readFileSync(file, 'utf8')
    const first = '    jump cluster_input\n'
    writeFileSync(file, good.replace(first, `    iifname "wg0" tcp dport 22 drop\n${first}`))
    const child = admin.start(kit, copy.page('06-host-firewall'), ['apply'], { FK_DEADMAN_SECONDS: '600' })
    assert.equal(
      await until(() =>
        inside('ls /var/lib/fortress/tx/*/armed && nft list tables').includes('inet fortress'),
      ),
      true,
    )
    child.kill('SIGKILL')
    writeFileSync(file, good)
    await reboot()
    assert.equal(inside('nft list tables').includes('inet fortress'), false)
    assert.equal(await greeting(stranger, kit.machine.host), 'SSH-2.0-')
    assert.equal(
      inside('test ! -e /etc/nftables.d && head --lines=3 /etc/nftables.conf | tail --lines=1'),
      'flush ruleset\n',
    )
    await kit.root(
      'nft --file -',
      'table ip theirs {\n chain forward {\n type filter hook forward priority filter; policy accept;\n ip saddr 203.0.113.9 counter drop\n }\n}\n',
    )
  })

  test('apply closes everything but the tunnel, and proves it from within', async () => {
    assert.equal(await admin.meets(kit, '10.66.0.2', 40), true)
    const { code, text } = await run(['apply'])
    assert.equal(code, 0, text)
    assert.match(text, /, 13 of 13 controls hold$/m)
    assert.equal(await greeting(stranger, kit.machine.host), '')
    assert.equal(await greeting(admin, kit.machine.host), '')
    assert.equal(await greeting(admin, '10.66.0.1'), 'SSH-2.0-')
  })

  test('verify, a second apply and the tunnel’s own page go through the tunnel from now on', async () => {
    const verified = await run(['verify'])
    assert.equal(verified.code, 0, verified.text)
    assert.match(verified.text, /fortress \(admin@10\.66\.0\.1\)/)
    const { code, text } = await run(['apply'])
    assert.equal(code, 0, text)
    assert.match(text, /^06-host-firewall: \d+ steps hold, 13 of 13 controls hold$/m)
    await copy.peer(kit, 'add', 'phone')
    const tunnel = await admin.page(kit, copy.page('05-host-wireguard'), ['apply'])
    assert.equal(tunnel.code, 0, tunnel.text)
    await copy.peer(kit, 'revoke', 'phone')
    assert.equal((await admin.page(kit, copy.page('05-host-wireguard'), ['apply'])).code, 0)
  })

  test('nmap sees one UDP port that may be open, and nothing else', { skip: without('nmap') }, async () => {
    const scan = (...words: string[]) =>
      stranger.run(...nmap('--max-retries', '0', '--min-rate', '20000', ...words, kit.machine.host))
    assert.match((await scan('-sS', '-p-')).text, /Ignored State: filtered \(65535\)/)
    assert.match((await scan('-sU', '-p', '53,67,68,123,161,500,51820')).text, /51820\/open\|filtered/)
  })

  for (const [what, command] of [
    ['a rule that somebody slipped in', 'nft insert rule inet fortress input tcp dport 80 accept'],
    ['a policy that somebody softened', "nft 'chain inet fortress input { policy accept; }'"],
    ['a table that somebody deleted', 'nft delete table inet fortress'],
    ['a ruleset that somebody flushed', 'nft flush ruleset'],
  ] as const)
    test(`${what} is drift, and is put right`, async () => {
      inside(command)
      const { code, text } = await run(['apply'])
      assert.equal(code, 0, text)
      assert.match(text, /^changed +11\/12 the firewall is active, and starts before the network$/m)
      assert.equal(await greeting(stranger, kit.machine.host), '')
    })

  for (const [what, seen, command, undo] of [
    [
      'a file that is included, and empties the tables of others',
      ['G02'],
      `echo 'flush ruleset' > /root/site.nft; echo 'include "/root/site.nft"' > /etc/nftables.d/30-site.nft`,
      'rm /etc/nftables.d/30-site.nft /root/site.nft',
    ],
    [
      'a table that is put to sleep',
      ['G03', 'G04', 'G05', 'G06', 'G07', 'G08', 'G10', 'G12'],
      "nft 'add table inet fortress { flags dormant; }'",
      'nft --file /etc/nftables.conf',
    ],
    [
      'a rule that lets everything out, and through',
      ['G05', 'G10'],
      'nft insert rule inet fortress output counter accept; nft insert rule inet fortress cluster_forward accept',
      'nft --file /etc/nftables.conf',
    ],
    [
      'an override of the unit',
      ['G11'],
      `mkdir --parents /run/systemd/system/fortress-firewall.service.d
printf '[Unit]\nConditionPathExists=/nowhere\n' > /run/systemd/system/fortress-firewall.service.d/site.conf; systemctl daemon-reload`,
      'rm --recursive /run/systemd/system/fortress-firewall.service.d; systemctl daemon-reload',
    ],
  ] as const)
    test(`verify sees ${what}, beside its files`, async () => {
      inside(command)
      const { code, text } = await run(['verify', '--json'])
      inside(undo)
      assert.equal(code, 1, text)
      const open = failedControls(text)
      assert.deepEqual(
        seen.filter((id) => !open.includes(id)),
        [],
        text,
      )
      assert.deepEqual(failedControls((await run(['verify', '--json'])).text), [])
    })

  test('stopping or restarting the unit, by either of its names, opens nothing', async () => {
    inside('nft add table ip theirs')
    for (const command of [
      'restart nftables',
      'reload nftables',
      'stop nftables',
      'start nftables',
      'restart fortress-firewall',
    ]) {
      inside(`systemctl ${command}`)
      assert.equal(await greeting(stranger, kit.machine.host), '')
      assert.deepEqual(inside('nft list tables').trim().split('\n').sort(), [
        'table inet fortress',
        'table ip theirs',
      ])
    }
  })

  test('after a reboot it is closed before the network is there, and the tunnel comes up', async () => {
    await reboot()
    assert.equal(await greeting(stranger, kit.machine.host), '')
    await admin.up(join(kit.state, 'fortress', 'laptop.conf'))
    const { code, text } = await run(['verify'])
    assert.equal(code, 0, text)
  })

  for (const [what, spoil, mend, broken] of [
    [
      'a file of somebody in /etc/nftables.d is broken',
      'echo "table inet fortress { chain nonsense" > /etc/nftables.d/50-theirs.nft',
      'rm /etc/nftables.d/50-theirs.nft',
      /50-theirs\.nft/,
    ],
    [
      'the user _apt is gone',
      'cp --archive /etc/passwd /root/passwd && awk -F : \'$1 != "_apt"\' /root/passwd > /etc/passwd',
      'mv /root/passwd /etc/passwd',
      /_apt/,
    ],
    [
      'the kernel has lost what one of the rules needs',
      'cp --archive /etc/nftables.conf /root/nftables.conf && awk \'{ sub(/fib saddr . iif oif missing/, "fib saddr . iif oif gone") } 1\' /root/nftables.conf > /etc/nftables.conf',
      'mv /root/nftables.conf /etc/nftables.conf',
      /nftables\.conf/,
    ],
  ] as const)
    test(`closed, with the way in open, after a reboot where ${what}`, async () => {
      inside(spoil)
      try {
        await reboot()
        assert.match(inside('systemctl is-active fortress-firewall.service || true'), /^failed$/m)
        assert.match(inside('journalctl --boot --unit=fortress-firewall.service --output=cat'), broken)
        assert.match(inside('nft list chain inet fortress input'), /policy drop/)
        assert.equal(await greeting(stranger, kit.machine.host), '')
        assert.equal(await greeting(admin, kit.machine.host), '')
        await admin.up(join(kit.state, 'fortress', 'laptop.conf'))
        let inTunnel = ''
        for (let i = 0; i < 20 && inTunnel === ''; i++) inTunnel = await greeting(admin, '10.66.0.1')
        assert.equal(inTunnel, 'SSH-2.0-')
        const drift = await run(['verify'])
        assert.equal(drift.code, 1, drift.text)
        assert.match(drift.text, /^failed +11\/12 the firewall is active, and starts before the network$/m)
      } finally {
        inside(mend)
      }
      const { code, text } = await run(['apply'])
      assert.equal(code, 0, text)
      assert.equal((await run(['verify'])).code, 0)
    })

  test('where the first rules could not be loaded either, they are loaded as soon as they can be', async () => {
    inside(
      'mv /etc/nftables-closed.nft /root && cp --archive /etc/nftables.conf /root && echo nonsense > /etc/nftables.conf',
    )
    inside('nft delete table inet fortress; systemctl restart fortress-firewall.service || true')
    assert.equal(inside('nft list tables').includes('inet fortress'), false)
    inside('mv /root/nftables-closed.nft /etc')
    assert.equal(await until(() => inside('nft list tables').includes('inet fortress')), true)
    assert.equal(await greeting(stranger, kit.machine.host), '')
    inside('mv /root/nftables.conf /etc')
    const { code, text } = await run(['apply'])
    assert.equal(code, 0, text)
  })

  test('undo opens the machine as it was', async () => {
    inside(
      'nft --file - <<< "table ip theirs { chain forward { type filter hook forward priority filter; policy accept; ip saddr 203.0.113.9 counter drop; }; }"',
    )
    const { code, text } = await run(['undo'])
    assert.equal(code, 0, text)
    assert.equal(await greeting(stranger, kit.machine.host), 'SSH-2.0-')
    assert.deepEqual(differences(open, await kit.digest()), [])
  })

  test('taken home as a folder and as bash, it leaves the same files and the same rules as apply', async () => {
    // By the time it is asked nobody from outside comes in.
    const within = {
      root: async (_: string, script = '') => ({ stdout: inside(script), stderr: '', code: 0 }),
    }
    const home = await admin.page(kit, await copy.take(kit, '06-host-firewall'), ['apply'])
    assert.equal(home.code, 0, home.text)
    const applied = await left(within)
    const again = await run(['plan'])
    assert.equal(again.code, 0, again.text)
    assert.equal((await run(['undo'])).code, 0)
    assert.equal(await admin.meets(kit, '10.66.0.2', 40), true)
    const printed = await copy.takeBash(kit, '06-host-firewall')
    const { code, stdout, stderr } = await kit.root('FK_KEEP_CHANGES=yes bash -s', printed)
    assert.equal(code, 0, stdout + stderr)
    sameLeft(applied, await left(within))
  })
})
