// Backup, drill and restore on a real etcd and apiserver: page 23, the tasks around it, and what they refuse.
import assert from 'node:assert/strict'
import { execFileSync, spawn } from 'node:child_process'
import { createHash } from 'node:crypto'
import {
  chmodSync,
  cpSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { type Said, node, root, said } from '../machine/kit.ts'
import { type Checkout, checkout } from '../machine/laptop.ts'
import { without } from '../programs.ts'
import { type Storage, storage } from './storage.ts'
import { type Bed, alone, bed, etc, program } from './kit.ts'

const version = 'v1.36.3+k3s1'
const missing = program === undefined ? 'kube-bed is not installed' : without('age', 'tar', 'openssl')

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
  const site = (backup: string) =>
    writeFileSync(
      copy.site,
      `name: fortress
machines:
  - { name: fortress, roles: [host, node], os: debian-13, arch: amd64 }
admin: { group: ssh-admins }
tunnel: { network: 10.66.0.0/24, address: 10.66.0.1, peers: [{ name: laptop, address: 10.66.0.2 }] }
backup:
  schedule: '*-*-* 03:17'
  keep: 2
${backup}`,
    )
  const node10 = 'cluster-init: true\nnode-name: fortress\n'
  const prepare = async (kit: Bed) => {
    kit.env['FK_DOWNLOAD_DIR'] = join(scratch, 'downloads')
    // This computer may still have cgroups of the first kind, and a container has those of its computer.
    await kit.ok(
      '[ "$(stat --file-system --format=%T /sys/fs/cgroup)" = cgroup2fs ] || mount --types tmpfs none /mnt',
    )
  }

  before(async () => {
    copy = checkout()
    for (const part of ['bin', 'Taskfile.ts'])
      cpSync(join(root, part), join(copy.dir, part), { recursive: true })
    // What is pinned is what is here: age of this computer, packed as its makers do, and the bed under the name of k3s.
    mkdirSync(join(scratch, 'age'))
    mkdirSync(join(scratch, 'downloads'))
    cpSync(execFileSync('which', ['age'], { encoding: 'utf8' }).trim(), join(scratch, 'age/age'), {
      dereference: true,
    })
    const tarball = join(scratch, 'downloads', 'age-v1.3.2-amd64.tar.gz')
    execFileSync('tar', ['--create', '--gzip', '--file', tarball, '--directory', scratch, 'age'])
    const digest = (path: string) => createHash('sha256').update(readFileSync(path)).digest('hex')
    const pins = join(copy.dir, 'config/versions.yaml')
    const text = readFileSync(pins, 'utf8')
    writeFileSync(
      pins,
      text
        .replace(/(\nage:\n(?: .*\n)*? {4}amd64: )[0-9a-f]{64}/, `$1${digest(tarball)}`)
        .replace(/(\nk3s:\n {2}version: ).*/, `$1${version}`)
        .replace(/(\nk3s:\n(?: .*\n)*? {4}amd64: )[0-9a-f]{64}/, `$1${digest(program!)}`),
    )
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
    await prepare(server)
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
    site(`  directory: { path: /mnt/disk }
  ssh: { host: ${away.machine.host}, user: keeper, path: /home/keeper/bundles, host_key: ${key} }
  s3: { endpoint: '${s3.endpoint}', bucket: bundles, region: lab, prefix: fk/ }
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
      'useradd --create-home keeper && install --directory --owner=keeper --mode=700 /home/keeper/.ssh /home/keeper/bundles && cat > /home/keeper/.ssh/authorized_keys && chown keeper /home/keeper/.ssh/authorized_keys',
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
    const before = await server.ok(
      'systemctl show --property=InvocationID k3s; ss --listening --numeric --tcp | sort; ls /var/lib/rancher/k3s /etc/rancher/k3s',
    )
    const text = await good(server, 'drill')
    assert.match(text, /The canary came back/)
    assert.equal(
      await server.ok(
        'systemctl show --property=InvocationID k3s; ss --listening --numeric --tcp | sort; ls /var/lib/rancher/k3s /etc/rancher/k3s',
      ),
      before,
    )
    assert.equal(
      await server.ok(
        'findmnt /run/fortress/bundle; systemctl list-units --all --plain --no-legend "fortress-drill*" "fortress-bundle*"; true',
      ),
      '',
    )
    assert.match(await good(server, 'backups'), /The last good drill was 0 min ago/)
  })
})
