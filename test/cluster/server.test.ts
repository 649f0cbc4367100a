// 20-k3s-server as an admin runs it: the program is downloaded and verified, k3s is configured and starts, and is rolled back
// when it does not.
import assert from 'node:assert/strict'
import { createReadStream, readFileSync, statSync, writeFileSync } from 'node:fs'
import { type Server, createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { secretStore } from '../../lib/ground/secret.ts'
import { type Kit, differences, node, said } from '../machine/kit.ts'
import { type Checkout, checkout } from '../machine/laptop.ts'
import { left, printOf, runPrinted, sameLeft } from '../machine/printed.ts'
import { without } from '../programs.ts'
import { data, etc, patience, pinAge, program, untilReady, version } from './kit.ts'

const missing = program === undefined ? 'kube-bed is not installed' : without('age', 'tar')

describe('k3s-server', { skip: missing }, () => {
  let kit: Kit & { end(): Promise<void> }
  let copy: Checkout
  let mirror: Server
  let untouched: string
  const page = (...words: string[]) => kit.page(copy.page('20-k3s-server'), ...words)
  const ok = async (command: string) => {
    const { code, stdout, stderr } = await kit.root(command)
    assert.equal(code, 0, stderr || stdout)
    return stdout.trim()
  }
  const start = () => ok('systemctl show --property=InvocationID --value k3s.service')
  const edit = (name: string, from: string | RegExp, to: string) => {
    const file = join(copy.dir, 'config', name)
    const text = readFileSync(file, 'utf8')
    assert.ok(typeof from === 'string' ? text.includes(from) : from.test(text), String(from))
    writeFileSync(file, text.replace(from, to))
  }
  const store = () =>
    secretStore({ dir: join(kit.state, 'fortress'), identity: join(kit.state, 'identity.txt') })
  /** A number that is one to every reader but the last: the API server does not start with it. */
  const tooLarge = 'watch-cache-sizes=pods#99999999999999999999'
  const spoil = () =>
    edit(
      'k3s/config.yaml',
      '  - profiling=false\n  # Requests',
      `  - profiling=false\n  - ${tooLarge}\n  # Requests`,
    )

  before(async () => {
    kit = await node(undefined, 'server')
    copy = checkout()
    // The metal is the node, and what its makers publish is what this computer has.
    edit('sites/fortress.yaml', 'roles: [host]', 'roles: [host, server]')
    edit('sites/fortress.yaml', /^.*name: fortress-node.*\n/m, '')
    copy.pin('k3s', readFileSync(program!), version)
    pinAge(copy, join(kit.state, 'downloads'))
    mirror = createServer((request, response) => {
      const found = /^\/github\.com\/k3s-io\/k3s\/releases\/download\/v[^/]+\/k3s$/.test(request.url ?? '')
      if (!found) return void response.writeHead(404).end()
      response.writeHead(200, { 'content-length': statSync(program!).size })
      createReadStream(program!).pipe(response)
    })
    await new Promise<void>((resolve) => mirror.listen(0, '127.0.0.1', resolve))
    kit.env['FK_MIRROR'] = `http://127.0.0.1:${(mirror.address() as AddressInfo).port}`
    kit.env['FK_DOWNLOAD_DIR'] = join(kit.state, 'downloads')
    // A container has the kernel of this computer, and that is not told how to be.
    await ok(`install --directory /etc/systemd/system/k3s.service.d
printf '[Service]\\nEnvironment=FK_BED_NO_SYSCTL=yes\\n' > /etc/systemd/system/k3s.service.d/bed.conf`)
    for (const [path, text] of Object.entries(patience))
      await kit.root(`install -D --mode=600 /dev/stdin ${path}`, text)
    untouched = await kit.digest()
  })
  after(async () => {
    mirror?.close()
    copy?.end()
    await kit?.end()
  })

  test('a plan shows what would change, changes nothing, and ends with 2', async () => {
    const { code, text } = await page('plan')
    assert.equal(code, 2, text)
    assert.match(
      text,
      /^ +\+ {2}- enable-admission-plugins=NodeRestriction,EventRateLimit,DenyServiceExternalIPs$/m,
    )
    assert.deepEqual(differences(untouched, await kit.digest()), [])
  })

  test('apply installs the program and its configuration, and waits until the API answers', async () => {
    const { code, text } = await page('apply')
    assert.equal(code, 0, text)
    assert.equal(await ok('/opt/bin/k3s kubectl get --raw /readyz'), 'ok')
    assert.equal(
      await ok(
        `stat --format='%a %U %n' ${etc}/token ${etc}/agent-token ${etc}/config.yaml ${etc}/k3s.yaml ${data}/server/logs`,
      ),
      [
        `600 root ${etc}/token`,
        `600 root ${etc}/agent-token`,
        `600 root ${etc}/config.yaml`,
        `600 root ${etc}/k3s.yaml`,
        `700 root ${data}/server/logs`,
      ].join('\n'),
    )
    for (const line of text.split('\n')) assert.doesNotMatch(line, /K10[0-9a-f]{16}|[0-9a-f]{64}(?!.*pinned)/)
  })

  test('the laptop keeps what others join with, and the kubeconfig, encrypted', async () => {
    const { list, get } = store()
    assert.deepEqual(
      list().filter((name) => name.startsWith('k3s-')),
      ['k3s-agent-token', 'k3s-join-agent', 'k3s-join-server', 'k3s-kubeconfig', 'k3s-server-token'],
    )
    const joining = Buffer.from((await get('k3s-join-server')).reveal(), 'base64')
      .toString()
      .trim()
    const token = (await get('k3s-server-token')).reveal()
    assert.match(joining, /^K10[0-9a-f]{64}::server:/)
    assert.ok(joining.endsWith(`:${token}`))
    const kubeconfig = Buffer.from((await get('k3s-kubeconfig')).reveal(), 'base64').toString()
    assert.equal(kubeconfig.trim(), await ok(`cat ${etc}/k3s.yaml`))
  })

  test('a second apply changes nothing and restarts nothing', async () => {
    const [begun, before] = [await start(), await kit.digest()]
    const { code, text } = await page('apply')
    assert.equal(code, 0, text)
    assert.doesNotMatch(text, /^changed /m)
    assert.equal(await start(), begun)
    assert.deepEqual(differences(before, await kit.digest()), [])
    assert.equal((await page('verify')).code, 0)
  })

  test('a restart of the machine or of systemd is no drift', async () => {
    await ok('systemctl restart k3s.service')
    const { code, text } = await page('verify')
    assert.equal(code, 0, text)
  })

  test('drift is seen, mended, and only then is it started anew', async () => {
    const begun = await start()
    await ok(`printf 'anonymous-auth: true\\n' > ${etc}/config.yaml.d/50-mine.yaml`)
    const { code, text } = await page('verify')
    assert.equal(code, 1)
    assert.match(text, /k3s was started before the current configuration was written/)
    await ok(`rm ${etc}/config.yaml.d/50-mine.yaml && chmod 644 ${etc}/audit.yaml`)
    assert.equal((await page('apply')).code, 0)
    assert.equal(await ok(`stat --format=%a ${etc}/audit.yaml`), '600')
    assert.equal(await start(), begun, 'a mode is no reason for a restart')
  })

  test('a configuration with which k3s does not become ready is rolled back, and the API answers as before', async () => {
    const before = await ok(`sha256sum ${etc}/config.yaml`)
    spoil()
    const { code, text } = await page('apply')
    assert.equal(code, 1)
    assert.match(
      text,
      /k3s did not become ready: k3s does not run\n[^]*invalid size of watch cache size: pods#9+/,
    )
    assert.match(text, /this change was rolled back at once, with those that belong to it/)
    assert.equal(await ok(`sha256sum ${etc}/config.yaml`), before)
    await ok(untilReady(90))
  })

  test('when the laptop is gone in the middle, the machine takes it back by itself', async () => {
    const before = await ok(`sha256sum ${etc}/config.yaml`)
    const child = kit.start(copy.page('20-k3s-server'), 'apply')
    const ended = said(child)
    await ok(
      `until grep watch-cache-sizes ${etc}/config.yaml > /dev/null &&
  ls -d /var/lib/fortress/tx/k3s-server-* /var/lib/fortress/tx/20-k3s-server-* 2> /dev/null | grep . > /dev/null; do
  sleep 0.1
done`,
    )
    child.kill('SIGKILL')
    await ended
    const timer = await ok(
      `systemctl list-timers --no-legend 'fortress-deadman-*' --output=json |
         grep --only-matching 'fortress-deadman-[^"]*timer'`,
    )
    await ok('pkill -KILL --full "[e]xit 0 # FK" || true')
    // The hour that the timer waits for has come.
    await ok(`systemctl start ${timer.replace(/timer$/, 'service')}
until ls /var/lib/fortress/tx/*/rolled-back > /dev/null 2>&1; do sleep 0.2; done`)
    assert.equal(await ok(`sha256sum ${etc}/config.yaml`), before)
    await ok(untilReady(90))
    edit('k3s/config.yaml', `  - ${tooLarge}\n`, '')
    const { code, text } = await page('apply')
    assert.equal(code, 0, text)
  })

  test('a configuration that is wrong is refused before it is written to the machine', async () => {
    edit('k3s/config.yaml', 'secrets-encryption: true', 'secrets-encryption: false')
    const { code, text } = await page('apply')
    assert.equal(code, 1)
    assert.match(text, /config\/k3s\/config\.yaml:\d+:\d+ +secrets-encryption /)
    edit('k3s/config.yaml', 'secrets-encryption: false', 'secrets-encryption: true')
  })

  test('on an empty disk no second cluster is initialised beside the one whose tokens the laptop has', async () => {
    await ok(`systemctl stop k3s.service && mv ${data}/server ${data}/server.kept`)
    const { code, text } = await page('apply')
    assert.equal(code, 1)
    assert.match(text, /the cluster is initialised, and etcd has no data on this disk/)
    assert.match(text, /\.\/task restore/)
    assert.equal((await kit.root(`ls ${data}/server`)).code, 2)
    await ok(`mv ${data}/server.kept ${data}/server && systemctl start k3s.service`)
    const now = await page('verify')
    assert.equal(now.code, 0, now.text)
  })

  /** What a page prints for this machine, run there with what its top asks for. Returns what each step said. */
  const printed = async (name: string, page?: string) => {
    const tokens = ['k3s-server-token', 'k3s-agent-token']
    const lines = await Promise.all(
      tokens.map(async (token) => [token, `${(await store().get(token)).reveal()}\n`] as const),
    )
    const text = page ?? (await printOf(kit, copy.page(name)))
    const [, asset] = /^# {3}https:\S*\/(\S+)$/m.exec(text) ?? []
    const file = name === '23-k3s-backup' ? join(kit.state, 'downloads/age-v1.3.2-amd64.tar.gz') : program!
    const said = await runPrinted(kit, text, {
      files: asset === undefined ? {} : { [asset]: readFileSync(file) },
      secrets: Object.fromEntries(lines),
      variables: { FK_CONFIRM: 'fortress' },
    })
    return said.trim().split('\n')
  }
  /** Lines of a page but those of the copies that it saves in place of the laptop. */
  const others = (lines: string[]) => lines.filter((line) => !/is saved on the laptop|^saved /.test(line))
  const saved = '/root/fortress-saved'
  let [applied, password] = ['', '']

  test('what the page prints finds everything done where apply was, and saves what the laptop has', async () => {
    const begun = await start()
    applied = await left(kit)
    password = await ok('cat /etc/rancher/node/password')
    const lines = await printed('20-k3s-server')
    for (const line of others(lines)) assert.match(line, /^ok /)
    sameLeft(applied, await left(kit))
    assert.equal(await start(), begun)
    for (const name of ['k3s-join-server', 'k3s-join-agent', 'k3s-kubeconfig']) {
      const copy = Buffer.from((await store().get(name)).reveal(), 'base64')
        .toString()
        .trim()
      assert.equal(await ok(`cat ${saved}/${name}`), copy)
    }
    await ok(`rm --recursive ${saved} /var/lib/fortress/printed`)
  })

  test('undo stops it, leaves the data, and takes back everything else', async () => {
    const { code, text } = await page('undo')
    assert.equal(code, 0, text)
    assert.deepEqual(differences(untouched, await kit.digest()), [])
    assert.equal((await kit.root('ls /opt/bin/k3s /opt/k3s')).code, 2)
    await ok(`test -d ${data}/server/db/etcd`)
  })
  test('what the page prints leaves the same as apply, and apply finds nothing to do behind it', async () => {
    // Undo has removed the password of the node, and the cluster lets no machine without it have that name.
    await ok(
      `install --directory --mode=700 /etc/rancher/node &&
  (umask 077 && echo ${password} > /etc/rancher/node/password)`,
    )
    const lines = await printed('20-k3s-server', await copy.takeBash(kit, '20-k3s-server'))
    assert.ok(
      lines.some((line) => /^changed .*runs with the current configuration$/.test(line)),
      lines.join('\n'),
    )
    // This note has the number of the start in it.
    sameLeft(applied, await left(kit), /\/var\/lib\/fortress\/k3s\/started$/)
    await nothingToDo('20-k3s-server')
    for (const line of await printed('20-k3s-server')) assert.match(line, /^ok /)
  })

  test('20-k3s-server, taken home as a folder, mends what has drifted, and leaves the same as apply', async () => {
    await ok(`echo '# drift' >> ${etc}/config.yaml`)
    const { code, text } = await kit.page(await copy.take(kit, '20-k3s-server'), 'apply')
    assert.equal(code, 0, text)
    assert.match(text, /^changed .*k3s configuration: config\.yaml$/m)
    sameLeft(applied, await left(kit), /\/var\/lib\/fortress\/k3s\/started$/)
    await nothingToDo('20-k3s-server')
  })

  test('23-k3s-backup, taken home as a folder, leaves nothing for apply to do', async () => {
    const { code, text } = await kit.page(await copy.take(kit, '23-k3s-backup'), 'apply')
    assert.equal(code, 0, text)
    await nothingToDo('23-k3s-backup')
    assert.equal((await kit.page(copy.page('23-k3s-backup'), 'undo')).code, 0)
  })

  for (const name of [
    '21-k3s-join',
    '22-k3s-cis',
    '23-k3s-backup',
    '24-k3s-stage',
    '25-k3s-upgrade',
    '26-k3s-renew',
  ])
    test(`what ${name} prints leaves nothing for apply to do`, async () => {
      const text = await copy.takeBash(kit, name)
      await printed(name, text)
      await nothingToDo(name)
      for (const line of await printed(name, text)) assert.match(line, /^(ok|ready) /)
    })

  test('pages that have nothing to do where the metal is the node say so, and change nothing', async () => {
    const before = await left(kit)
    for (const name of [
      '08-host-vault',
      '10-vm-host',
      '11-vm-image',
      '12-vm-ignition',
      '13-vm-provision',
      '14-vm-talos',
    ])
      for (const line of await printed(name)) assert.match(line, /^ok /)
    sameLeft(before, await left(kit))
  })

  test('what 24 and 25 print upgrades the node as apply does', async () => {
    const changed = async (version: string, upgrade: (name: string) => Promise<unknown>) => {
      copy.pin('k3s', readFileSync(program!), version)
      const [from, before] = [await ok('readlink /opt/bin/k3s'), await left(kit)]
      for (const name of ['24-k3s-stage', '25-k3s-upgrade']) await upgrade(name)
      const running = await ok(
        `/opt/bin/k3s kubectl get nodes --output jsonpath='{.items[*].status.nodeInfo.kubeletVersion}'`,
      )
      assert.equal(running, version)
      return differences(before, await left(kit))
        .filter((line) => !line.endsWith('/var/lib/fortress/k3s/started')) // it has the number of the start
        .map((line) =>
          line.replaceAll(version, 'NEW').replaceAll(from.replace(/.*\/(v[^/]+)\/.*/, '$1'), 'OLD'),
        )
    }
    const byHand = await changed('v1.36.4+k3s1', printed)
    await nothingToDo('24-k3s-stage')
    await nothingToDo('25-k3s-upgrade')
    const applied = await changed('v1.36.5+k3s1', async (name) => {
      const { code, text } = await kit.page(copy.page(name), 'apply', '--confirm', 'fortress')
      assert.equal(code, 0, text)
    })
    // Behind the second upgrade the first of three versions is gone.
    const gone = new RegExp('v1\\.36\\.3')
    assert.deepEqual(
      applied.filter((line) => !gone.test(line)),
      byHand,
    )
  })

  /** A page was done by what it prints: apply by the laptop changes nothing, starts nothing anew, and verify passes. */
  const nothingToDo = async (name: string) => {
    const [begun, before] = [await start(), await left(kit)]
    const { code, text } = await kit.page(copy.page(name), 'apply')
    assert.equal(code, 0, text)
    assert.deepEqual(
      others(text.split('\n')).filter((line) => line.startsWith('changed ')),
      [],
    )
    const verified = await kit.page(copy.page(name), 'verify')
    assert.equal(verified.code, 0, verified.text)
    sameLeft(before, await left(kit))
    assert.equal(await start(), begun)
  }
})
