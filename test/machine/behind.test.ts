// A node that is reached through its host, as a virtual machine is: with a key that was made before there was a machine.
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { cpSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { secretStore } from '../../lib/ground/secret.ts'
import { hostKeyOf, nodeKeyOf, publish } from '../../lib/vm/domain.ts'
import { type Kit, around, node, root, said } from './kit.ts'
import { type Checkout, checkout } from './laptop.ts'

describe('a machine behind another', () => {
  let host: Kit & { end(): Promise<void> }
  let inside: Kit & { end(): Promise<void> }
  let copy: Checkout
  let page: string
  let half: string
  before(async () => {
    host = await node(undefined, 'front')
    inside = await node(undefined, 'inside')
    copy = checkout()
    page = join(copy.dir, 'scripts/50-try.ts')
    const tried = readFileSync(join(root, 'test/fixtures/pages/50-try.ts'), 'utf8')
    writeFileSync(
      page,
      tried
        .replaceAll('../../../lib/', '../lib/')
        .replace("on: 'host'", "on: 'node'")
        .replace('/usr/local/lib/try.conf', '/opt/try.conf'),
    )
    const site = readFileSync(copy.site, 'utf8')
    const network = inside.machine.host.replace(/\d+$/, '0/24')
    writeFileSync(
      copy.site,
      site
        .replace('name: fortress-node,', `name: inside, address: ${inside.machine.host},`)
        .concat(
          `networks: [{ name: guests, network: ${network}, bridge: { at: fortress, name: virbr-fort } }]\n`,
        ),
    )
    const store = secretStore({
      dir: join(host.state, 'fortress'),
      identity: join(host.state, 'identity.txt'),
    })
    const key = await hostKeyOf({ name: 'inside' }, store.secret).resolve()
    half = await publish(join(host.state, 'fortress'), nodeKeyOf(store.secret))
    const sshd = readFileSync(join(root, 'config/vm/sshd-keys.conf'), 'utf8')
    // What the first boot of a virtual machine leaves; and nobody but the host finds its way to it.
    const { code, stderr } = await inside.root(
      `cat > /etc/ssh/ssh_host_ed25519_key
useradd --create-home --shell /bin/bash core
install -D --mode=644 /dev/stdin /etc/ssh/authorized_keys/core <<< '${half}'
cat > /etc/ssh/sshd_config.d/10-fortress-keys.conf << 'SSHD'
${sshd}SSHD
cat > /etc/ssh/sshd_config.d/20-test.conf << 'SSHD'
PermitRootLogin no
PasswordAuthentication no
KbdInteractiveAuthentication no
HostbasedAuthentication no
# By this the test itself comes in, beside what it tests.
Match User admin
AuthorizedKeysFile .ssh/authorized_keys
Match User core
AllowUsers core
SSHD
echo 'core ALL=(ALL) NOPASSWD: ALL' > /etc/sudoers.d/core
printf 'ID=flatcar\nVERSION_ID=0\n' > /usr/lib/os-release
systemctl restart ssh
mount --bind /usr /usr && mount --options remount,bind,ro /usr`,
      key,
    )
    assert.equal(code, 0, stderr)
  })
  after(async () => {
    copy?.end()
    await inside?.end()
    await host?.end()
  })

  test('is known by the key that the laptop made for it, and nobody is asked', async () => {
    const { code, text } = await host.page(page, 'apply')
    assert.equal(code, 0, text)
    assert.match(text, /apply on inside \(core@/)
    const pinned = readFileSync(join(host.state, 'known_hosts'), 'utf8')
    assert.match(pinned, /^fortress\.inside ssh-ed25519 AAAA/m)
    assert.equal((await inside.root('cat /etc/try/secret')).stdout, 'hunter2')
    assert.equal((await host.root('ls /etc/try')).code, 2)
  })

  test('is reached by a connection of the host: without the host there is no way', async () => {
    const via = await inside.root(
      "journalctl --unit=ssh --output=cat | grep 'Accepted publickey for core' | tail --lines=1",
    )
    assert.match(via.stdout, new RegExp(`from ${host.machine.host} port`))
    const wrong = { ...host.env, FK_HOST: `admin@${host.machine.host}:23` }
    const { code, text } = await around(host.machine, wrong).page(page, 'verify')
    assert.equal(code, 1)
    assert.match(text, /inside \(core@\S+\) cannot be reached through the machine in front of it/)
  })

  test('where /usr cannot be written the rollback unit stands elsewhere, and is gone when the change is confirmed', async () => {
    assert.equal((await inside.root('touch /usr/mine')).code, 1)
    const { code, text } = await host.page(page, 'undo')
    assert.equal(code, 0, text)
    assert.equal((await host.page(page, 'apply')).code, 0)
    const left = await inside.root('find /etc/systemd /var/lib/fortress/tx -name "*deadman*"')
    assert.equal(left.stdout, '')
  })

  test('a run that hangs there is ended by the name of the machine, through its host', async () => {
    for (const part of ['bin', 'Taskfile.ts'])
      cpSync(join(root, part), join(copy.dir, part), { recursive: true })
    const task = (...words: string[]) =>
      said(
        spawn(process.execPath, [join(copy.dir, 'bin/task.cjs'), ...words], {
          env: { PATH: process.env['PATH'], HOME: host.state, ...host.env },
          stdio: ['ignore', 'pipe', 'pipe'],
        }),
      )
    await inside.root(`mkdir --parents /run/fortress && echo ada@laptop > /run/fortress/owner
      setsid bash -c 'exec 8>> /run/fortress/lock; flock 8; sleep 600' > /dev/null 2>&1 < /dev/null &
      until [ -e /run/fortress/lock ] && ! flock --nonblock /run/fortress/lock true; do sleep 0.1; done`)
    assert.match((await task('unlock')).text, /^Nobody holds fortress /)
    const named = await task('unlock', 'inside')
    assert.equal(named.code, 1)
    assert.match(named.text, /ada@laptop has held inside .*\n.*\.\/task unlock inside --yes ends that run/)
    const ended = await task('unlock', 'inside', '--yes')
    assert.equal(ended.code, 0, ended.text)
    assert.equal((await inside.root('flock --nonblock /run/fortress/lock true')).code, 0)
    assert.match((await task('unlock', 'insider')).text, /has no machine insider; did you mean inside\?/)
  })

  describe('its keys', () => {
    /** What sudo says there to somebody who has this key. */
    const withKey = async (key: string) =>
      (
        await host.root(
          `install --mode=600 /dev/stdin /root/key && ssh -i /root/key -o IdentitiesOnly=yes -o BatchMode=yes \
          -o StrictHostKeyChecking=accept-new -o UserKnownHostsFile=/dev/null core@${inside.machine.host} sudo -n id --user 2>&1`,
          key,
        )
      ).stdout
    const everyday = () => withKey(readFileSync(host.machine.identityFile, 'utf8'))
    const keys = (mode: string) => host.page(join(copy.dir, 'scripts/18-node-keys.ts'), mode)

    test('your everyday key opens no account that becomes root', async () => {
      assert.match(await everyday(), /Permission denied \(publickey\)/)
    })

    test('sshd and sudo are asked, so what another file says is seen', async () => {
      const applied = await keys('apply')
      assert.equal(applied.code, 0, applied.text)
      const held = await keys('verify')
      assert.equal(held.code, 0, held.text)
      const drop = '/etc/ssh/sshd_config.d/00-mine.conf'
      const cases: [string, string, RegExp][] = [
        [
          `mkdir --parents /home/core/.ssh && cp /home/admin/.ssh/authorized_keys /home/core/.ssh/
            echo 'AuthorizedKeysFile .ssh/authorized_keys /etc/ssh/authorized_keys/%u' > ${drop}; systemctl reload ssh`,
          `rm ${drop}; systemctl reload ssh`,
          /sshd lets in core alone[^]*sshd -T says authorizedkeysfile \.ssh\/authorized_keys/,
        ],
        [
          `echo 'AuthorizedKeysCommand /bin/cat /home/admin/.ssh/authorized_keys
            AuthorizedKeysCommandUser nobody' > ${drop}; systemctl reload ssh`,
          `rm ${drop}; systemctl reload ssh`,
          /sshd -T says authorizedkeyscommand \/bin\/cat/,
        ],
        [
          "echo 'Defaults:admin !authenticate' > /etc/sudoers.d/mine",
          'rm /etc/sudoers.d/mine',
          /no account but core becomes root by sudo without a password[^]*admin: /,
        ],
        [
          'cat /home/admin/.ssh/authorized_keys >> /etc/ssh/authorized_keys/core',
          'sed --quiet 1p /etc/ssh/authorized_keys/core > /root/one; cat /root/one > /etc/ssh/authorized_keys/core',
          /authorized_keys of core holds the SSH key that the laptop keeps for nodes, and no other/,
        ],
      ]
      for (const [spoil, mend, seen] of cases) {
        await inside.root(spoil)
        const spoilt = await keys('verify')
        await inside.root(mend)
        assert.equal(spoilt.code, 1, `${spoil}\n${spoilt.text}`)
        assert.match(spoilt.text, seen)
      }
      assert.equal((await keys('verify')).code, 0)
    })

    test('are all new after a rekey, and the old ones open nothing', async () => {
      const before = await inside.root('cat /etc/ssh/authorized_keys/core /etc/ssh/ssh_host_ed25519_key.pub')
      const store = secretStore({
        dir: join(host.state, 'fortress'),
        identity: join(host.state, 'identity.txt'),
      })
      const old = (await store.get('node-ssh-key')).reveal()
      for (const part of ['bin', 'Taskfile.ts'])
        cpSync(join(root, part), join(copy.dir, part), { recursive: true })
      const { text } = await said(
        spawn(process.execPath, [join(copy.dir, 'bin/task.cjs'), 'node', 'rekey'], {
          env: { PATH: process.env['PATH'], HOME: host.state, ...host.env },
          stdio: ['ignore', 'pipe', 'pipe'],
        }),
      )
      // The pages about its first boot come last, and this host has no libvirt.
      assert.match(text, /apply on inside [^]*12-vm-ignition/)
      const after = await inside.root(
        'cat /etc/ssh/authorized_keys/core; ssh-keygen -y -f /etc/ssh/ssh_host_ed25519_key',
      )
      for (const line of before.stdout.trim().split('\n'))
        assert.ok(!after.stdout.includes(line.split(' ').slice(0, 2).join(' ')), `${line}\n${after.stdout}`)
      assert.deepEqual(
        store.list().filter((name) => name.endsWith('-next')),
        [],
      )
      const known = readFileSync(join(host.state, 'known_hosts'), 'utf8').match(/^fortress\.inside .*$/gm)
      const verified = await keys('verify')
      assert.equal(verified.code, 0, verified.text)
      assert.equal(known?.length, 2) // of the run in which both were good
      const now = readFileSync(join(host.state, 'known_hosts'), 'utf8').match(/^fortress\.inside (.*)$/gm)
      assert.equal(now?.length, 1)
      assert.ok(after.stdout.includes(now![0]!.split(' ').slice(1).join(' ')))
      assert.match(await withKey(old), /Permission denied \(publickey\)/)
    })

    test('one that was built before there were such keys is still reached, and gets them', async () => {
      for (const name of ['node-ssh-key.age', 'node-ssh-key.pub']) rmSync(join(host.state, 'fortress', name))
      await inside.root(`rm /etc/ssh/sshd_config.d/10-fortress-keys.conf /etc/ssh/authorized_keys/core
        install -D --mode=600 --owner=core /home/admin/.ssh/authorized_keys /home/core/.ssh/authorized_keys
        systemctl reload ssh`)
      assert.match(await everyday(), /^0$/m)
      const { text } = await said(
        spawn(process.execPath, [join(copy.dir, 'bin/task.cjs'), 'node', 'rekey'], {
          env: { PATH: process.env['PATH'], HOME: host.state, ...host.env },
          stdio: ['ignore', 'pipe', 'pipe'],
        }),
      )
      assert.match(text, /apply on inside /)
      assert.match(await everyday(), /Permission denied \(publickey\)/)
      assert.equal((await keys('verify')).code, 0)
    })
  })

  test('with another key it is not talked to', async () => {
    await inside.root(
      'ssh-keygen -q -t ed25519 -N "" -f /etc/ssh/ssh_host_ed25519_key <<< y > /dev/null; systemctl restart ssh',
    )
    const { code, text } = await host.page(page, 'verify')
    assert.equal(code, 1)
    assert.match(text, /inside \(\S+\) is not the machine it was: its host key has changed/)
  })
})
