// Backup, drill and restore on a real etcd and apiserver: page 23, the tasks around it, and what they refuse.
import assert from 'node:assert/strict'
import { type ChildProcess, execFileSync, spawn } from 'node:child_process'
import { createHash } from 'node:crypto'
import { cpSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { secretStore } from '../../lib/ground/secret.ts'
import type { Manifest } from '../../lib/k3s/bundle.ts'
import { labRun } from '../../lib/lab/lab.ts'
import { type Said, node, root, said } from '../machine/kit.ts'
import { type Checkout, checkout } from '../machine/laptop.ts'
import { age, ageKeygen, noAge, without } from '../programs.ts'
import { type Bed, alone, bed, data, etc, pinAge, program, untilReady, version } from './kit.ts'
import { type Storage, storage } from './storage.ts'

const missing = program === undefined ? 'kube-bed is not installed' : noAge || without('tar', 'openssl')

describe('the cluster is backed up', { skip: missing }, () => {
  const scratch = mkdtempSync(join(tmpdir(), 'fk-backup-'))
  const home = '/var/lib/fortress/backup'
  let server: Bed
  let away: Awaited<ReturnType<typeof node>>
  let s3: Storage
  let copy: Checkout

  /** `./task WORDS` of the checkout, against a machine. */
  const task = (kit: Pick<Bed, 'env'>, ...words: string[]): Promise<Said> =>
    said(
      spawn(process.execPath, [join(copy.dir, 'bin/task.cjs'), ...words], {
        cwd: scratch,
        env: { PATH: process.env['PATH'], HOME: scratch, ...kit.env },
        stdio: ['ignore', 'pipe', 'pipe'],
      }),
    )
  const good = async (kit: Pick<Bed, 'env'>, ...words: string[]): Promise<string> => {
    const { code, text } = await task(kit, ...words)
    assert.equal(code, 0, text)
    return text
  }
  const refused = async (pattern: RegExp, kit: Pick<Bed, 'env'>, ...words: string[]): Promise<string> => {
    const { code, text } = await task(kit, ...words)
    assert.equal(code, 1, text)
    assert.match(text, pattern)
    return text
  }
  const state = () => join(server.state, 'fortress')
  const copies = () => readdirSync(join(state(), 'backups')).sort()
  const latest = () => join(state(), 'backups', copies().at(-1)!)
  const notes = async () =>
    Object.fromEntries(
      (await server.ok(`cd ${home}/notes && head --lines=1 --verbose * | cat`))
        .split('==> ')
        .filter(Boolean)
        .map((part) => part.split(' <==\n') as [string, string])
        .map(([name, text]) => [name, text.trim().split('\t')]),
    )
  /** The site of the checkout: one machine of metal that is the node, and where its bundles go. */
  const site = (targets: string) =>
    writeFileSync(
      copy.site,
      `name: fortress
machines:
  - { name: fortress, roles: [host, server], os: debian-13, arch: amd64 }
data:
  keep: [{ what: cluster, every: '*-*-* 03:17', copies: 2, to: [disk, nas, far], rpo: 24h, rto: 1h }]
  targets:
${targets}`,
    )
  const node10 = 'cluster-init: true\nnode-name: fortress\n'

  before(async () => {
    copy = checkout()
    for (const part of ['bin', 'Taskfile.ts'])
      cpSync(join(root, part), join(copy.dir, part), { recursive: true })
    // What is pinned is what is here: age of this computer, and the bed under the name of k3s.
    pinAge(copy, join(scratch, 'downloads'))
    copy.pin('k3s', readFileSync(program!), version)
    away = await node(undefined, 'away')
    server = await bed(
      undefined,
      'backed',
      { ...alone, [`${etc}/config.yaml.d/10-node.yaml`]: node10 },
      'server',
      { net: true },
    )
    s3 = await storage(scratch)
    await server.ok(
      'apt-get --quiet=2 update && DEBIAN_FRONTEND=noninteractive apt-get --quiet=2 --yes install curl > /dev/null 2>&1',
    )
    await server.ok(
      'cat > /usr/local/share/ca-certificates/storage.crt && update-ca-certificates 2> /dev/null',
      s3.certificate,
    )
    server.env['FK_DOWNLOAD_DIR'] = join(scratch, 'downloads')
    const { code, said } = await server.begin()
    assert.equal(code, 0, said)
    // A second identity, which is nowhere but here, and something to lose.
    await server.kubectl('create configmap mine --from-literal=a=b')
    const key = readFileSync(away.machine.knownHostsFile, 'utf8')
      .split('\n')
      .find((l) => l.includes('ed25519'))!
      .split(' ')
      .slice(1)
      .join(' ')
    await server.ok('install --directory --mode=700 /mnt/disk')
    site(`    - { name: disk, kind: directory, path: /mnt/disk }
    - { name: nas, kind: sftp, host: ${away.machine.host}, user: keeper, path: /home/keeper/bundles, host_key: ${key} }
    - { name: far, kind: s3, endpoint: '${s3.endpoint}', bucket: bundles, region: lab, prefix: fk/, append_only: true }
`)
  })
  after(async () => {
    await server?.end()
    await away?.end()
    s3?.end()
    copy?.end()
    rmSync(scratch, { recursive: true, force: true })
  })

  test('the page asks for the key of the storage first, and takes it without showing it', async () => {
    const page = await server.page(copy.page('23-k3s-backup'), 'apply')
    assert.equal(page.code, 1)
    assert.match(page.text, /task backup s3-key/)
    const child = spawn(process.execPath, [join(copy.dir, 'bin/task.cjs'), 'backup', 's3-key'], {
      env: { PATH: process.env['PATH'], HOME: scratch, ...server.env },
      stdio: ['pipe', 'pipe', 'pipe'],
    })
    child.stdin!.end(`${s3.access}\n${s3.secret}\n`)
    const { code, text } = await said(child)
    assert.equal(code, 0, text)
    assert.doesNotMatch(text, new RegExp(s3.secret))
  })

  test('the page is applied, holds, and a second time there is nothing to do', async () => {
    const line = (await good(server, 'backup', 'ssh-key')).split('\n').find((l) => l.startsWith('restrict'))!
    await away.root(
      `useradd --create-home keeper &&
  install --directory --owner=keeper --mode=700 /home/keeper/.ssh /home/keeper/bundles &&
  cat > /home/keeper/.ssh/authorized_keys && chown keeper /home/keeper/.ssh/authorized_keys`,
      `${line}\n`,
    )
    const first = await server.page(copy.page('23-k3s-backup'), 'apply')
    assert.equal(first.code, 0, first.text)
    const second = await server.page(copy.page('23-k3s-backup'), 'apply')
    assert.equal(second.code, 0, second.text)
    assert.doesNotMatch(second.text, /^changed /m)
    assert.equal((await server.page(copy.page('23-k3s-backup'), 'verify')).code, 0)
  })

  test('a backup reaches every place, and the laptop has a copy', async () => {
    const text = await good(server, 'backup')
    const [name] = copies()
    for (const place of ['node', 'directory', 'ssh', 's3'])
      assert.match(text, new RegExp(`^${place}: ${name}, `, 'm'))
    const digest = createHash('sha256').update(readFileSync(latest())).digest('hex')
    for (const path of [`${home}/${name}`, `/mnt/disk/${name}`])
      assert.match(await server.ok(`sha256sum ${path}`), new RegExp(`^${digest}`))
    assert.match((await away.root(`sha256sum /home/keeper/bundles/${name}`)).stdout, new RegExp(`^${digest}`))
    assert.equal(
      createHash('sha256')
        .update(s3.objects.get(`fk/${name}`)!)
        .digest('hex'),
      digest,
    )
    assert.equal(statSync(latest()).mode & 0o777, 0o600)
  })

  test('nothing of it is left in clear on the node', async () => {
    assert.equal(await server.ok('ls /run/fortress-backup /run/fortress/bundle 2> /dev/null; true'), '')
    assert.equal(await server.ok(`find ${home} -type f ! -name '*.age' ! -path '*/notes/*'`), '')
  })

  test('the drill brings the canary back, and the living cluster does not notice it', async () => {
    const look = `systemctl show --property=InvocationID k3s
ss --listening --numeric --tcp | sort
ls /var/lib/rancher/k3s /etc/rancher/k3s`
    const before = await server.ok(look)
    const text = await good(server, 'drill')
    assert.match(text, /The canary was read/)
    assert.equal(await server.ok(look), before)
    assert.equal(
      await server.ok(
        'findmnt /run/fortress/bundle; systemctl list-units --all --plain --no-legend "fortress-drill*" "fortress-bundle*"; true',
      ),
      '',
    )
    assert.match(await good(server, 'backups'), /The last good drill was 0 min ago/)
  })

  /** The newest bundle with something else in it, and a manifest that fits; the path of the new one. */
  const altered = (change: (dir: string, manifest: Manifest) => void): string => {
    const dir = mkdtempSync(join(scratch, 'altered-'))
    const identity = join(server.state, 'identity.txt')
    const bash = (line: string) => execFileSync('bash', ['-euo', 'pipefail', '-c', line], { cwd: dir })
    bash(`${age} --decrypt --identity ${identity} ${latest()} | tar --extract`)
    const file = join(dir, 'manifest.json')
    const manifest = JSON.parse(readFileSync(file, 'utf8')) as Manifest
    change(dir, manifest)
    for (const entry of manifest.files) {
      const content = readFileSync(join(dir, entry.name))
      entry.bytes = content.length
      entry.sha256 = createHash('sha256').update(content).digest('hex')
    }
    writeFileSync(file, JSON.stringify(manifest))
    const path = join(scratch, `${dir.slice(-6)}_20260101T000000Z.age`)
    bash(
      `tar --create --format=ustar manifest.json rancher server snapshot |
         ${age} --encrypt --recipient "$(${ageKeygen} -y ${identity})" --output ${path}`,
    )
    return path
  }
  const unharmed = async () => {
    assert.equal((await server.kubectl('get --raw /readyz')).stdout, 'ok')
    assert.equal(
      await server.ok(
        'findmnt /run/fortress/bundle; systemctl list-units --all --plain --no-legend "fortress-drill*" "fortress-bundle*"; true',
      ),
      '',
    )
  }

  test('a drill of a bundle with another token, another canary or a spoilt snapshot fails in words', async () => {
    const token = altered((dir) => writeFileSync(join(dir, 'rancher/k3s/token'), `${'77'.repeat(32)}\n`))
    await refused(/k3s does not take the snapshot: .*token/, server, 'drill', token)
    const canary = altered((_, manifest) => (manifest.canary.secret = manifest.canary.configmap))
    await refused(/the secret of the canary is not the one of this bundle/, server, 'drill', canary)
    const snapshot = altered((dir, manifest) => {
      const path = join(dir, manifest.files.find(({ name }) => name.startsWith('snapshot/'))!.name)
      writeFileSync(path, readFileSync(path).subarray(0, 20_000))
    })
    await refused(/k3s does not take the snapshot: /, server, 'drill', snapshot)
    const newer = altered((_, manifest) => (manifest.k3s = 'v1.37.0+k3s1'))
    await refused(/the bundle is from k3s v1\.37\.0\+k3s1, and here is the older/, server, 'drill', newer)
    await unharmed()
    const drill = (await notes())['drill']!
    assert.equal(drill[3], 'failed')
    assert.match(await good(server, 'backups'), /The last for drill failed/)
  })

  test('a bundle of another cluster is refused before anything of it is sent', async () => {
    const store = secretStore({ dir: state(), identity: join(server.state, 'identity.txt') })
    await store.put('k3s-server-token', '88'.repeat(32))
    await refused(/it is of another cluster: its token is not the one that the laptop made/, server, 'drill')
    await store.remove('k3s-server-token')
    await refused(/is no file, and no name of a bundle/, server, 'drill', 'nothing')
  })

  test('a place that is away fails in words, is noted, and the others have the bundle all the same', async () => {
    await server.ok('mv /mnt/disk /mnt/gone')
    s3.answer = 503
    const text = await refused(
      /^directory: failed: \/mnt\/disk is not there: is its disk mounted\?$/m,
      server,
      'backup',
    )
    assert.match(text, /^s3: failed: .*SlowDown/m)
    assert.match(text, /^ssh: fortress-backup_/m)
    assert.equal((await notes())['directory']![3], 'failed')
    assert.equal((await notes())['directory.good']![3], 'ok')
    s3.answer = undefined
    await server.ok('mv /mnt/gone /mnt/disk')
  })

  test('the newest two are kept in each place but the one that is append-only, and nothing that is not ours is touched', async () => {
    await server.ok('touch /mnt/disk/fortress-backup_other_fortress_20200101T000000Z.age /mnt/disk/mine.txt')
    s3.objects.set('fk/fortress-backup_fortress_fortress.age', Buffer.from('x'))
    await good(server, 'backup')
    await good(server, 'backup')
    const kept = copies()
    assert.equal(kept.length, 2)
    const names = (text: string) =>
      text.split('\n').filter((line) => line.startsWith('fortress-backup_fortress_fortress_'))
    assert.deepEqual(names(await server.ok(`ls ${home}`)), kept)
    assert.deepEqual(names(await server.ok('ls /mnt/disk')), kept)
    assert.deepEqual(names((await away.root('ls /home/keeper/bundles')).stdout), kept)
    // It is append-only: nothing is deleted there from here.
    const far = [...s3.objects.keys()].sort()
    assert.deepEqual(
      far.slice(-2),
      kept.map((name) => `fk/${name}`),
    )
    assert.ok(far.length > 3, far.join('\n'))
    assert.equal(
      await server.ok('ls /mnt/disk | grep --invert-match fortress_fortress_'),
      'fortress-backup_other_fortress_20200101T000000Z.age\nmine.txt\n',
    )
  })

  test('a disk without room and a run that is killed are noted as failed, and leave nothing', async () => {
    await server.ok(
      `mv ${home} ${home}.aside && install --directory --mode=700 ${home} &&
  mount --types tmpfs --options size=1m,mode=700 none ${home}`,
    )
    await refused(/has \d+ MiB left, and \d+ MiB are needed/, server, 'backup')
    await server.ok(`umount ${home} && rmdir ${home} && mv ${home}.aside ${home}`)
    await server.ok(
      'systemctl start --no-block fortress-backup; sleep 1; systemctl kill --signal=KILL fortress-backup; sleep 1',
    )
    assert.equal(await server.ok('ls /run/fortress-backup 2> /dev/null; true'), '')
    const { node } = await notes()
    assert.equal(node![3], 'failed')
    assert.match(node![4]!, /it was begun, and has not ended/)
    await good(server, 'backup')
  })

  test('where a cluster lives, nothing is restored over it unless its name is typed', async () => {
    await refused(/a cluster has its data here/, server, 'restore', copies().at(-1)!)
    await unharmed()
  })

  test('while another run is at work on the node, its bundle is not thrown away for another one', async () => {
    await server.ok(
      `echo root@elsewhere > /run/fortress/owner
systemd-run --quiet --unit=busy flock /run/fortress/lock sleep 60
until ! flock --nonblock /run/fortress/lock true; do sleep 0.1; done`,
    )
    for (const words of [['drill'], ['restore', copies().at(-1)!, '--confirm', 'fortress']])
      await refused(/root@elsewhere is at work there, and may need the bundle/, server, ...words)
    await server.ok('systemctl stop busy')
    await unharmed()
  })

  test('a restore that fails brings back what was there', async () => {
    await server.kubectl('create configmap later --from-literal=a=b')
    const token = altered((dir) => writeFileSync(join(dir, 'rancher/k3s/token'), `${'77'.repeat(32)}\n`))
    const before = await server.ok(
      `sha256sum ${etc}/*.yaml ${etc}/*/*.yaml ${etc}/*token /etc/rancher/node/password`,
    )
    // Nobody knows of another token yet: the laptop takes over what it is given, and forgets it again.
    await refused(/k3s does not take the snapshot/, server, 'restore', token, '--confirm', 'fortress')
    const store = secretStore({ dir: state(), identity: join(server.state, 'identity.txt') })
    assert.deepEqual(
      store.list().filter((name) => name.startsWith('k3s-')),
      [],
    )
    assert.equal(
      await server.ok(`sha256sum ${etc}/*.yaml ${etc}/*/*.yaml ${etc}/*token /etc/rancher/node/password`),
      before,
    )
    await server.ok(
      'until [ "$(/opt/bin/k3s kubectl get --raw /readyz 2> /dev/null)" = ok ]; do sleep 1; done',
    )
    assert.equal((await server.kubectl('get configmap later --output name')).stdout, 'configmap/later\n')
    await unharmed()
  })

  /** Begins a restore, and does something between what was there and what takes its place. */
  const interrupted = async (how: (laptop: ChildProcess) => Promise<unknown>) => {
    const child = spawn(
      process.execPath,
      [join(copy.dir, 'bin/task.cjs'), 'restore', latest(), '--confirm', 'fortress'],
      { env: { PATH: process.env['PATH'], HOME: scratch, ...server.env }, stdio: ['ignore', 'pipe', 'pipe'] },
    )
    const ended = said(child)
    await server.ok(
      `for try in {1..600}; do [ ! -d ${data}/before-restore/server ] || break; sleep 0.1; done
test -d ${data}/before-restore/server`,
    )
    await how(child)
    return ended
  }
  /** The restore is killed on the machine, and the laptop is no more. */
  const killed = () =>
    interrupted(async (laptop) => {
      laptop.kill('SIGSTOP')
      await server.ok(`kill -KILL ${holders}`)
      laptop.kill('SIGKILL')
    })
  /** It is stopped in the middle, so that it cannot come to its end by itself, and the laptop is no more. */
  const frozen = () =>
    interrupted(async (laptop) => {
      await server.ok(
        `for try in {1..100}; do ! pkill -STOP --full '[c]luster-reset' || exit 0; sleep 0.1; done; exit 1`,
      )
      laptop.kill('SIGKILL')
    })
  const alive = async () => {
    await server.ok(untilReady(120))
    assert.equal((await server.kubectl('get configmap later --output name')).stdout, 'configmap/later\n')
    await server.ok(`! test -e ${data}/before-restore/server`)
  }

  const holders =
    '$(find /proc/[0-9]*/fd -lname /run/fortress/lock | cut --delimiter=/ --fields=3 | sort --unique)'
  /** What the timer does when nobody confirms the transaction. */
  const clock = 'for run in /var/lib/fortress/tx/*/rollback; do bash "$run"; done'

  test('a restore that is killed on the node is taken back at once when the laptop sees it', async () => {
    const { code, text } = await interrupted(() => server.ok(`kill -KILL ${holders}`))
    assert.equal(code, 1, text)
    assert.match(text, /the run on the machine died before its end/)
    await alive()
  })

  test('a restore that is killed on the node is known to who asks next, and is taken back by the clock', async () => {
    await killed()
    await refused(/a restore was killed here, and a cluster has its data in/, server, 'restore', latest())
    assert.match(
      (await task(server, 'status')).text,
      /fortress.* a restore has begun here, and has not ended/,
    )
    await server.ok(clock)
    await alive()
  })

  test('a restore whose laptop dies is taken back by the clock, and what it had begun has ended', async () => {
    await frozen()
    await server.ok(clock)
    assert.equal(await server.ok(`pgrep --full '[c]luster-reset' | cat`), '')
    await alive()
  })

  test('when the power fails in the middle of a restore, the next boot begins with what there was', async () => {
    await server.ok('systemctl --quiet enable k3s.service')
    await frozen()
    await server.root('systemctl reboot --force --force')
    for (const end = Date.now() + 60_000; Date.now() < end;) {
      const up = await labRun(server.machine, 'test -e /run/systemd/units', {
        fresh: true,
        seconds: 15,
      }).catch(() => undefined)
      if (up?.code === 0) break
    }
    await alive()
    await server.ok('test -e /var/lib/fortress/tx/*/rolled-back')
  })

  test('a restore after one that was killed begins with what there was', async () => {
    await killed()
    await good(server, 'restore', latest(), '--confirm', 'fortress')
    assert.match((await server.kubectl('get configmap later')).stderr, /not found/)
    assert.equal((await server.kubectl('get configmap mine --output jsonpath={.data.a}')).stdout, 'b')
    await server.ok(
      `test -d ${data}/before-restore/server/db/etcd/member && ! test -e ${data}/before-restore/begun`,
    )
  })

  test('undo stops the clock and takes the keys away; the bundles stay', async () => {
    const before = await server.ok(`ls ${home}`)
    const { code, text } = await server.page(copy.page('23-k3s-backup'), 'undo')
    assert.equal(code, 0, text)
    assert.equal(
      await server.ok('ls /opt/bin/fortress-backup /etc/fortress/backup /opt/age 2> /dev/null; true'),
      '',
    )
    assert.equal(await server.ok('systemctl list-unit-files --no-legend "fortress-backup*" | cat'), '')
    assert.equal(await server.ok(`ls ${home}`), before)
  })

  test('a fresh node becomes the cluster, with its canary and all else that it had', async () => {
    const fresh = await bed(undefined, 'fresh', {})
    try {
      const env = {
        ...fresh.env,
        FK_STATE_DIR: server.state,
        FK_AGE_IDENTITY: join(server.state, 'identity.txt'),
        FK_KNOWN_HOSTS: join(fresh.state, 'known_hosts'),
      }
      const secrets = await server.ok(
        `sha256sum ${data}/server/tls/server-ca.crt ${data}/server/cred/encryption-config.json`,
      )
      const text = await good({ env }, 'restore', copies().at(-1)!)
      assert.match(text, /is the cluster as of/)
      assert.equal((await fresh.kubectl('get configmap mine --output jsonpath={.data.a}')).stdout, 'b')
      assert.equal(
        await fresh.ok(
          `sha256sum ${data}/server/tls/server-ca.crt ${data}/server/cred/encryption-config.json`,
        ),
        secrets,
      )
      assert.equal((await fresh.kubectl('get nodes --output name')).stdout, 'node/fortress\n')
      // The laptop knows it now, so that nothing of it is made anew; and again it goes back in time only when somebody says so.
      assert.equal(secretStore({ dir: state(), identity: env.FK_AGE_IDENTITY }).has('k3s-join-server'), true)
      Object.assign(fresh.env, env)
      const page = await fresh.page(copy.page('20-k3s-server'), 'apply')
      assert.equal(page.code, 0, page.text)
      await fresh.kubectl('delete configmap mine')
      await good({ env }, 'restore', copies().at(-1)!, '--confirm', 'fortress')
      assert.equal((await fresh.kubectl('get configmap mine --output jsonpath={.data.a}')).stdout, 'b')
    } finally {
      await fresh.end()
    }
  })
})
