import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { checkProgram } from '../../lib/engine/program.ts'
import { sh } from '../../lib/ground/sh.ts'
import { around, differences, node, open, root } from './kit.ts'

const page = 'test/fixtures/pages/50-try.ts'

test('a run that hangs is named first, and ended when that is asked for', async (t) => {
  const kit = await node(t, 'remote')
  const task = (...words: string[]) => {
    const { status, stdout, stderr } = spawnSync(join(root, 'task'), words, {
      encoding: 'utf8',
      env: { ...process.env, ...kit.env },
    })
    return { status, said: (stdout + stderr).replace(/held .* for \d+ s/, 'held it for some time') }
  }
  const label = `fortress (admin@${kit.machine.host}:${kit.machine.port})`

  const known = task('trust')
  assert.equal(known.status, 0, known.said)
  assert.match(known.said, /is known: debian-13, amd64/)
  assert.deepEqual(task('unlock'), { status: 0, said: `Nobody holds ${label}.\n` })

  // What a run leaves when it hangs: a process that has the lock open, and a child of it.
  await kit.root(`mkdir --parents /run/fortress && echo ada@laptop > /run/fortress/owner
    setsid bash -c 'exec 8>> /run/fortress/lock; flock 8; trap "" TERM; sleep 600; sleep 600' > /dev/null 2>&1 < /dev/null &
    until [ -e /run/fortress/lock ] && ! flock --nonblock /run/fortress/lock true; do sleep 0.1; done`)
  assert.deepEqual(task('unlock'), {
    status: 1,
    said: 'ada@laptop has held it for some time. Nothing was done.\n  next:  ./task unlock --yes ends that run\n',
  })
  assert.deepEqual(task('unlock', '--yes'), {
    status: 0,
    said: 'ada@laptop has held it for some time. That run is ended; the next one goes on where it was.\n',
  })
  assert.deepEqual(task('unlock'), { status: 0, said: `Nobody holds ${label}.\n` })
})

test('a question that hangs is the one that is named, and the answers to the others are not lost', async (t) => {
  const kit = await node(t, 'hanging')
  const { machine } = await open(kit)
  t.after(() => machine.close())
  const steps = [sh`true`, sh`echo no; false`, sh`sleep 600`, sh`true`].map((check, index) => ({
    index,
    step: { name: `question ${index}`, check, help: 'none' },
  }))
  // Several at once: what comes too late, does so on a busy machine only.
  const ask = async () => {
    const answered: string[] = []
    const { code, finished } = await machine.run(
      await checkProgram({ page: 'hanging', steps }),
      (frame) => void (frame.kind === 'check' && answered.push(`${frame.step}: ${frame.rc}`)),
      5,
    )
    assert.deepEqual({ code, finished }, { code: 124, finished: false })
    assert.deepEqual(answered.sort(), ['0: 0', '1: 1', '3: 0'])
  }
  await Promise.all(Array.from({ length: 6 }, ask))
  assert.equal((await kit.root('pgrep --exact sleep')).stdout, '', 'it is ended')
})

test('a machine that cannot be used says why, and what to do', async (t) => {
  const kit = await node(t, 'unreachable')
  const spare = mkdtempSync(join(tmpdir(), 'fk-test-'))
  t.after(() => rmSync(spare, { recursive: true, force: true }))
  const key = (name: string) => {
    const file = join(spare, name)
    spawnSync('ssh-keygen', ['-q', '-t', 'ed25519', '-N', '', '-f', file])
    return file
  }
  const verify = async (env: Record<string, string> = {}) => {
    const { code, text } = await around(kit.machine, env).page(page, 'verify')
    assert.equal(code, 1, text)
    assert.doesNotMatch(text, /^ +at .*:\d+:\d+/m, 'no stack trace')
    return text
  }

  await t.test('nobody listens at the port', async () => {
    const said = await verify({ FK_HOST: `admin@${kit.machine.host}:23` })
    assert.match(said, /fortress \(admin@\S+:23\) refuses the connection\n[^]*next: {2}is sshd running there/)
  })
  await t.test('the key is not known there', async () => {
    const said = await verify({ FK_SSH_KEY: key('stranger') })
    assert.match(said, /refuses the login\n[^]*next: {2}name the right key in FK_SSH_KEY/)
  })
  await t.test('the user is not known there', async () => {
    const said = await verify({ FK_HOST: `nobody-here@${kit.machine.host}` })
    assert.match(said, /refuses the login/)
  })
  await t.test('the name is in no name server', async () => {
    const said = await verify({ FK_HOST: 'admin@no-such-host.invalid' })
    assert.match(said, /has a name that cannot be resolved\n[^]*next: {2}check the spelling in FK_HOST/)
  })
  await t.test('the sudo password is wrong', async () => {
    const file = join(spare, 'sudo')
    writeFileSync(file, 'wrong\n', { mode: 0o600 })
    const said = await verify({ FK_SUDO_PASSWORD_FILE: file })
    assert.match(said, /admin cannot become root on fortress[^]*next: {2}give the right sudo password/)
  })
  await t.test('it runs another system than the site says', async () => {
    await kit.root(
      "cp /etc/os-release /etc/os-release.was; printf 'ID=fedora\\nVERSION_ID=43\\n' > /etc/os-release",
    )
    const said = await verify()
    assert.match(
      said,
      /runs fedora-43 on amd64, and the site fortress says debian-13 on amd64\. Nothing was run\.\n {2}next: {2}correct it/,
    )
    await kit.root('mv /etc/os-release.was /etc/os-release')
  })
  await t.test('its disk is full', async () => {
    const full =
      'mkdir --parents /var/lib/fortress && mount -t tmpfs -o size=64k,mode=700 tmpfs /var/lib/fortress'
    await kit.root(full)
    const before = await kit.digest()
    const { code, text } = await around(kit.machine).page(page, 'apply')
    assert.equal(code, 1, text)
    assert.match(text, /ran: {3}the snapshot to roll back to, and its timer/)
    assert.match(text, /said: {2}No space left on device: less than 32 MiB are free in \/var\/lib\/fortress/)
    assert.match(text, /state: nothing was changed\n {2}next: {2}make room/)
    assert.deepEqual(differences(before, await kit.digest()), [])
    await kit.root('umount /var/lib/fortress')

    const after = around(kit.machine)
    assert.equal((await after.page(page, 'apply')).code, 0)
    const applied = await kit.digest()
    await kit.root(
      'fallocate --length 1G /var/lib/full || true; dd if=/dev/zero of=/var/lib/full2 bs=1M || true',
    )
    const refused = await after.page(page, 'undo')
    assert.equal(refused.code, 1, refused.text)
    assert.match(
      refused.text,
      /No space left on device[^]*state: nothing was changed\n {2}next: {2}make room, and undo again/,
    )
    await kit.root('rm /var/lib/full*')
    assert.deepEqual(differences(applied, await kit.digest()), [])
    assert.equal((await after.page(page, 'undo')).code, 0)
    assert.deepEqual(differences(before, await kit.digest()), [])
  })
  await t.test('it has no sudo', async () => {
    await kit.root('mv /usr/bin/sudo /usr/bin/sudo.away')
    const said = await verify()
    assert.match(
      said,
      /cannot become root on fortress \S+: there is no sudo\n {2}next: {2}install sudo there/,
    )
    // Only a machine's own console could bring it back: the last of these tests.
  })
})

test('a machine that has no room for another log-in says so', async (t) => {
  const kit = await node(t, 'crowded')
  await kit.root("echo 'admin - maxlogins 0' > /etc/security/limits.d/99-none.conf")
  const { code, text } = await kit.page(page, 'verify')
  assert.equal(code, 1, text)
  assert.match(
    text,
    /accepts the login, but opens no session\n[^]*next: {2}it is starting, or too many logins/,
  )
})

test('a machine whose host key has changed is not talked to', async (t) => {
  const kit = await node(t, 'changed')
  await kit.root('rm /etc/ssh/ssh_host_*; ssh-keygen -A; systemctl restart ssh.service')
  const { code, text } = await kit.page(page, 'apply', '--yes')
  assert.equal(code, 1)
  assert.match(
    text,
    /is not the machine it was: its host key has changed\n[^]*next: {2}find out why before anything else/,
  )
  assert.equal((await kit.page(page, 'plan')).code, 1)
})
