// A node that is reached through its host, as a virtual machine is: with a key that was made before there was a machine.
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { cpSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { secretStore } from '../../lib/ground/secret.ts'
import { hostKeyOf } from '../../lib/vm/domain.ts'
import { type Kit, around, node, root, said } from './kit.ts'
import { type Checkout, checkout } from './laptop.ts'

describe('a machine behind another', () => {
  let host: Kit & { end(): Promise<void> }
  let inside: Kit & { end(): Promise<void> }
  let copy: Checkout
  let page: string
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
    // What the first boot of a virtual machine leaves; and nobody but the host finds its way to it.
    const { code, stderr } = await inside.root(
      `cat > /etc/ssh/ssh_host_ed25519_key
useradd --create-home --shell /bin/bash core && cp --archive /home/admin/.ssh /home/core/ &&
  chown --recursive core: /home/core/.ssh
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

  test('with another key it is not talked to', async () => {
    await inside.root(
      'ssh-keygen -q -t ed25519 -N "" -f /etc/ssh/ssh_host_ed25519_key <<< y > /dev/null; systemctl restart ssh',
    )
    const { code, text } = await host.page(page, 'verify')
    assert.equal(code, 1)
    assert.match(text, /inside \(\S+\) is not the machine it was: its host key has changed/)
  })
})
