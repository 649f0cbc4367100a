import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { promisify } from 'node:util'
import { runPage } from '../../lib/engine/run.ts'
import type { Person } from '../../lib/site/model.ts'
import harden from '../../scripts/00-host-harden.ts'
import { type Kit, differences, node, open } from './kit.ts'
import { left, printOf, runPrinted, sameLeft } from './printed.ts'

const page = 'scripts/00-host-harden.ts'

// A container shares its host's kernel: what belongs to a kernel is said not to apply, and is proved on the VM.
describe('a hardened host', () => {
  let kit: Kit & { end(): Promise<void> }
  let untouched: string
  let applied: string
  const login = (...options: string[]) =>
    kit.root(
      `ssh -o BatchMode=yes -o StrictHostKeyChecking=yes -o UserKnownHostsFile=/root/known -o ConnectTimeout=5 ${options.join(' ')} true 2>&1`,
    )

  before(async () => {
    kit = await node(undefined, 'hardened', { net: true })
    await kit.root('ln --symbolic --force /usr/share/zoneinfo/Asia/Tokyo /etc/localtime')
    untouched = await kit.digest()
  })
  after(() => kit.end())

  test('on an untouched machine verify says that it was never applied, and a plan finds most of what the page is for', async () => {
    const { code, text } = await kit.page(page, 'verify')
    assert.equal(code, 2, text)
    assert.match(text, /not built, it was never applied here/)
    const plan = await kit.page(page, 'plan', '--json')
    const events = plan.text.split('\n').filter((line) => line.includes('"event":"control"'))
    const open = events.filter((line) => (JSON.parse(line) as { state: string }).state === 'change')
    assert.ok(open.length > 90, `${open.length} controls do not hold`)
  })

  test('apply makes it so', async () => {
    const { code, text } = await kit.page(page, 'apply')
    assert.equal(code, 0, text)
    assert.equal((await kit.root('date +%Z')).stdout, 'UTC\n')
  })

  test('verify holds, and names why a control does not apply', async () => {
    const { code, text } = await kit.page(page, 'verify')
    assert.equal(code, 0, text)
    assert.match(text, /n\/a +A04 .*the kernel is the host's, not this container's/)
  })

  test('a second apply changes nothing', async () => {
    const applied = await kit.digest()
    const { code, text } = await kit.page(page, 'apply')
    assert.equal(code, 0, text)
    assert.deepEqual(
      [...text.matchAll(/^changed .*$/gm)].map(([line]) => line),
      [],
    )
    assert.deepEqual(differences(applied, await kit.digest()), [])
  })

  test('root and passwords do not come in, the administrator does', async () => {
    await kit.root('ssh-keyscan -t ed25519 127.0.0.1 > /root/known 2> /dev/null')
    assert.match((await login('root@127.0.0.1')).stdout, /Permission denied \(publickey\)/)
    assert.match(
      (await login('-o PreferredAuthentications=password,keyboard-interactive', 'admin@127.0.0.1')).stdout,
      /Permission denied \(publickey\)/,
    )
    assert.equal((await kit.root('id --user')).stdout.trim(), '0')
  })

  test('four wrong passwords close an account for sudo, and a key still opens the door', async () => {
    const { stdout } = await kit.root(
      'cp --archive /etc/subuid- /etc/subgid- /root/; useradd --create-home --groups sudo eve && echo eve:Xq7-vbR2.pLw9+tz | chpasswd; for i in 1 2 3 4 5; do runuser --user eve -- sudo --stdin --prompt= true <<< wrong; done 2> /dev/null; faillock --user eve | grep --count V; runuser --user eve -- sudo --stdin --prompt= true <<< "Xq7-vbR2.pLw9+tz" 2>&1 | tail -1; userdel --remove eve 2> /dev/null; cp --archive /root/subuid- /root/subgid- /etc/',
    )
    assert.match(stdout, /^[4-9]\n/)
    assert.equal((await kit.root('id --user')).stdout.trim(), '0')
  })

  test('file modes are set back also after many changes in a row, as packages make them', async () => {
    const { stdout, stderr } = await kit.root(
      `for i in {1..12}; do chmod 666 /var/log/dpkg.log; echo >> /var/log/dpkg.log; sleep 0.3; done
       for i in {1..600}; do echo >> /var/log/dpkg.log; done; sleep 1
       systemctl is-active fortress-modes.path; stat --format=%a /var/log/dpkg.log`,
    )
    assert.equal(stdout, 'active\n640\n', stderr)
  })

  test('drift is found, and one apply mends it', async () => {
    await kit.root(
      'chmod 644 /etc/at.allow; sysctl --quiet --write net.ipv4.conf.all.send_redirects=1; echo "install udf /bin/true" > /etc/modprobe.d/60-fortress.conf',
    )
    const { code, text } = await kit.page(page, 'verify')
    assert.equal(code, 1)
    assert.match(text, /^failed +\d+\/\d+ at is root-only$/m)
    assert.match(text, /mode and owner are 644 root:root, and should be 600 root:root/)
    for (const id of ['C07', 'D03']) assert.match(text, new RegExp(`failed +${id} `))
    assert.equal((await kit.page(page, 'apply')).code, 0)
    assert.equal((await kit.page(page, 'verify')).code, 0)
    applied = await left(kit)
  })

  test('a second admin of the site gets an account, logs in with a key of the document, and is locked out when it names them no more', async () => {
    const opened = await open(kit)
    const key = readFileSync(`${kit.machine.identityFile}.pub`, 'utf8').trim()
    const people: Person[] = [
      { name: 'ada', roles: ['admin'], ssh_keys: [key.split(' ').slice(0, 2).join(' ')] },
    ]
    const steps = () =>
      harden
        .steps({ ...opened.context, site: { ...opened.context.site, people } })
        .filter(({ name }) => /^ada |^accounts of admins/.test(name))
    const run = async (mode: 'apply' | 'verify') => {
      const { code, changed } = await runPage(harden, steps(), mode, opened.running)
      assert.equal(code, 0, opened.lines.join(''))
      return changed
    }
    assert.equal(await run('apply'), 2)
    assert.equal(await run('apply'), 0)
    const ssh = (...options: string[]) =>
      promisify(execFile)('ssh', [
        '-F',
        'none',
        '-o',
        'BatchMode=yes',
        '-o',
        'HostKeyAlias=fortress.fortress',
        '-o',
        `UserKnownHostsFile=${join(kit.state, 'known_hosts')}`,
        ...options,
        `ada@${kit.machine.host}`,
        'id --name --groups',
      ])
    const { stdout } = await ssh('-i', kit.machine.identityFile)
    assert.deepEqual(stdout.trim().split(' ').toSorted(), ['ada', 'ssh-admins', 'sudo'])

    // Out of the document, out of the machine.
    people.length = 0
    assert.equal(await run('apply'), 1)
    assert.equal(await run('apply'), 0)
    await assert.rejects(ssh('-i', kit.machine.identityFile))
    assert.equal((await kit.root('id --name --groups ada')).stdout.trim(), 'ada')
    await opened.machine.close()
    // The site of the next tests knows nobody of that name, and so does its undo.
    await kit.root('rm --recursive /home/ada /var/lib/fortress/accounts')
  })

  test('undo brings the machine back to the byte', async () => {
    const { code, text } = await kit.page(page, 'undo', '--yes')
    assert.equal(code, 0, text)
    const more = differences(untouched, await kit.digest()).filter(
      (line) => !/^\+ unit \S+ failed$/.test(line),
    )
    assert.deepEqual(more, [])
    // A line for a group that is gone would keep dpkg from doing anything.
    const overrides = await kit.root('dpkg-statoverride --list')
    assert.ok((overrides.code ?? 2) < 2, overrides.stderr)
  })

  test('the printed page leaves the same as apply', async () => {
    await runPrinted(kit, await printOf(kit, page))
    // A password of GRUB is hashed with another salt each time.
    sameLeft(applied, await left(kit), / \/etc\/grub\.d\/01_fortress$/)
    const { code, text } = await kit.page(page, 'verify')
    assert.equal(code, 0, text)
  })
})
