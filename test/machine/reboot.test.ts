// 09-host-reboot on a machine that really reboots: a container with its own systemd.
import assert from 'node:assert/strict'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { type Kit, node, root } from './kit.ts'

describe('a host that waits for a reboot', () => {
  let kit: Kit & { end(): Promise<void> }
  const page = join(root, 'scripts', '09-host-reboot.ts')
  const run = (...words: string[]) => kit.page(page, ...words)
  const on = async (command: string) => {
    const { code, stdout, stderr } = await kit.root(command)
    assert.equal(code, 0, stderr)
    return stdout.trim()
  }
  const boot = () => on('cat /proc/sys/kernel/random/boot_id')
  const asks = 'touch /run/reboot-required && echo linux-image-test > /run/reboot-required.pkgs'

  before(async () => {
    kit = await node(undefined, 'reboot')
  })
  after(() => kit?.end())

  test('stays up while nothing waits', async () => {
    const was = await boot()
    const { code, text } = await run('apply')
    assert.equal(code, 0, text)
    assert.match(text, /^09-host-reboot: 8 steps hold/m)
    assert.equal(await boot(), was)
  })

  test('is said to wait, and that is no drift', async () => {
    await on(asks)
    const { code, text } = await run('verify')
    assert.equal(code, 2, text)
    assert.match(text, /no update waits for a reboot of fortress/)
    assert.match(text, /linux-image-test/)
    assert.match(text, /1 wait for the next start of the machine/)
  })

  const obstacles: [what: string, spoil: string, mend: string, said: RegExp][] = [
    [
      'sshd does not start with it',
      'systemctl disable ssh.service ssh.socket',
      'systemctl enable ssh.service',
      /neither ssh\.service nor ssh\.socket is enabled/,
    ],
    [
      'sshd would not take its file',
      'echo Nonsense yes > /etc/ssh/sshd_config.d/99-test.conf',
      'rm /etc/ssh/sshd_config.d/99-test.conf',
      /sshd -t: .*Nonsense/,
    ],
    [
      'the unit of its firewall is off',
      'printf "[Service]\\nExecStart=/bin/true\\n[Install]\\nWantedBy=sysinit.target\\n" > /etc/systemd/system/fortress-firewall.service; systemctl daemon-reload',
      'rm /etc/systemd/system/fortress-firewall.service; systemctl daemon-reload',
      /fortress-firewall\.service is disabled/,
    ],
    [
      'fstab names a disk that is not there',
      'cp /etc/fstab /etc/fstab.test; echo "/dev/disk/by-uuid/0-0 /mnt ext4 defaults 0 2" >> /etc/fstab',
      'mv /etc/fstab.test /etc/fstab',
      /fstab: .*0-0 for \/mnt is not there/,
    ],
    [
      'a change waits to be confirmed',
      'mkdir -p /var/lib/fortress/tx/t && cd /var/lib/fortress/tx/t && echo eve > owner && touch armed && echo $(($(date +%s) + 600)) > due',
      'rm -r /var/lib/fortress/tx',
      /eve made a change there that is not confirmed|a change of eve is not confirmed/,
    ],
    [
      'somebody has changed a file of a page',
      `mkdir -p /var/lib/fortress/pages/00-test && cd /var/lib/fortress/pages/00-test && echo 1 > seq &&
        echo a > /etc/fortress-test && find /etc/fortress-test -printf '%p\\tf\\t%m\\t%U:%G\\t0\\n' > left`,
      'rm -r /var/lib/fortress/pages/00-test /etc/fortress-test',
      /\/etc\/fortress-test is not as 00-test left it/,
    ],
    [
      'a page was cut off',
      'mkdir -p /var/lib/fortress/pages/00-test/open',
      'rm -r /var/lib/fortress/pages/00-test',
      /00-test has begun and not ended/,
    ],
    [
      'a package is half installed',
      'cd /var/lib/dpkg && cp status /root && awk \'!n && sub(/ok installed/, "ok half-configured") { n = 1 } 1\' /root/status > status',
      'mv /root/status /var/lib/dpkg/status',
      /half installed/,
    ],
  ]
  for (const [what, spoil, mend, said] of obstacles)
    test(`stays up where it would not come back: ${what}`, async () => {
      const was = await boot()
      await on(spoil)
      try {
        const { code, text } = await run('apply')
        assert.equal(code, 1, text)
        assert.match(text, said)
        assert.equal(await boot(), was)
      } finally {
        await on(mend)
      }
    })

  test('reboots, is waited for, and everything is verified', async () => {
    const was = await boot()
    const { code, text } = await run('apply')
    assert.match(text, /starts anew; it is waited for, 900 s at most/)
    assert.match(text, /^changed +5\/8 no update waits for a reboot of fortress$/m)
    assert.match(text, /^changed +7\/8 fortress has started, and no unit has failed that had not before$/m)
    assert.match(text, /Everything that was built is verified now\./)
    assert.match(text, /09-host-reboot/)
    assert.equal(code, 0, text)
    assert.notEqual(await boot(), was)
    assert.equal(await on('ls /var/lib/fortress'), 'pages')
    const again = await run('apply')
    assert.equal(again.code, 0, again.text)
    assert.match(again.text, /^09-host-reboot: 8 steps hold/m)
  })

  test('a unit that fails since is no good end, until it is mended', async () => {
    await on(
      `printf '[Service]\\nType=oneshot\\nExecStart=/bin/sh -c "test ! -e /etc/fails"\\n[Install]\\nWantedBy=multi-user.target\\n' \\
        > /etc/systemd/system/fails.service && systemctl daemon-reload && systemctl enable --now fails.service && touch /etc/fails`,
    )
    await on(asks)
    const { code, text } = await run('apply')
    assert.equal(code, 1, text)
    assert.match(text, /failed since the reboot: fails\.service/)
    await on('rm /etc/fails; systemctl restart fails.service')
    const mended = await run('apply')
    assert.equal(mended.code, 0, mended.text)
  })
})
