// A real sshd that keeps what it has: what an attacker on the node can do with the key of the backups, and what the page sees.
import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { makeSshKey, sshPublicKey } from '../../lib/ground/keys.ts'
import { type Kit, node, root } from './kit.ts'

describe('an SFTP server that is append-only', () => {
  const name = (day: number) => `fortress-backup_fortress_node_202601${day}T000000Z.age`
  const key = makeSshKey('fortress-backup')
  let far: Kit & { end(): Promise<void> }
  let here: Kit & { end(): Promise<void> }
  /** The functions of the program, with a command behind them, on the node. */
  const run = (command: string) =>
    here.root(`source <(sed '/^case "\${1-} /,$d' /opt/bin/fortress-backup); ${command}`)
  const ask = () => here.root('/opt/bin/fortress-backup append-only ssh 2>&1')
  /** Whoever is root on the node, with its key and a client of his own. */
  const attack = (batch: string) =>
    here.root(
      `sftp -q -b - -F /dev/null -i /etc/fortress/backup/ssh-key -o UserKnownHostsFile=/etc/fortress/backup/known_hosts \\
         -o HostKeyAlias=backup -o BatchMode=yes keeper@${far.machine.host} 2>&1`,
      batch,
    )
  const authorize = (command: string) =>
    far.root(
      `install --mode=644 /dev/stdin /home/keeper/.ssh/authorized_keys`,
      `restrict,command="${command}" ${sshPublicKey(key)} fortress-backup\n`,
    )
  const shown = readFileSync(join(root, 'lib/cli/backup.ts'), 'utf8')
  const only = /\? '( -u 0377 -p [a-z,]+)'/.exec(shown)?.[1]

  before(async () => {
    far = await node(undefined, 'keeper')
    here = await node(undefined, 'backing')
    await far.root(
      `useradd --create-home keeper && install --directory --owner=root --mode=755 /home/keeper/.ssh &&
        install --directory --owner=keeper --mode=700 /home/keeper/bundles`,
    )
    const pinned = readFileSync(far.machine.knownHostsFile, 'utf8')
      .split('\n')
      .find((line) => line.includes('ed25519'))
    const files: [string, string, string][] = [
      ['/opt/bin/fortress-backup', '755', readFileSync(join(root, 'config/k3s/backup.sh'), 'utf8')],
      ['/etc/fortress/backup/ssh-key', '600', key],
      ['/etc/fortress/backup/known_hosts', '644', `backup ${pinned!.split(' ').slice(1).join(' ')}\n`],
      [
        '/etc/fortress/backup/settings',
        '600',
        `SITE=fortress NODE=node KEEP=2 SSH_HOST=${far.machine.host} SSH_USER=keeper
SSH_PATH=/home/keeper/bundles SSH_APPEND_ONLY=yes\n`,
      ],
    ]
    for (const [path, mode, text] of files) {
      const { code, stderr } = await here.root(`install -D --mode=${mode} /dev/stdin ${path}`, text)
      assert.equal(code, 0, stderr)
    }
    await here.root(
      `mkdir --parents /var/lib/fortress/backup && cd /var/lib/fortress/backup &&
        for name in ${[11, 12, 13].map(name).join(' ')}; do head --bytes=300000 /dev/urandom > $name; done`,
    )
  })
  after(async () => {
    await here?.end()
    await far?.end()
  })

  test('one that would delete or overwrite is seen, by what it answers', async () => {
    assert.ok(only)
    await authorize('internal-sftp')
    const open = await ask()
    assert.equal(open.code, 1)
    assert.match(open.stdout, /lets this key delete files: .*No such file/)
    await authorize('internal-sftp -P remove')
    assert.match((await ask()).stdout, /lets this key rename files: .*No such file/)
    await authorize('internal-sftp -P remove,rename,posix-rename')
    assert.match((await ask()).stdout, /lets this key setstat files: .*No such file/)
    await authorize(`internal-sftp${only.replace('-u 0377 ', '')}`)
    assert.equal((await run(`ssh_put ${name(11)}`)).code, 0)
    assert.match((await ask()).stdout, /lets this key overwrite files: .* has a w in its mode/)
    await far.root('rm /home/keeper/bundles/*')
    await authorize(`internal-sftp${only}`)
    await far.root('chown keeper /home/keeper/.ssh/authorized_keys')
    assert.match((await ask()).stdout, /lets this key overwrite what it may: .* \(.*authorized_keys\)/)
  })

  test('one that cannot be asked is neither', async () => {
    await far.root('mv /home/keeper/bundles /home/keeper/gone')
    const gone = await ask()
    assert.equal(gone.code, 102, gone.stdout)
    await far.root('mv /home/keeper/gone /home/keeper/bundles')
  })

  test('set up as ./task backup ssh-key says, it takes bundles, lists and gives them, and the node deletes none', async () => {
    await authorize(`internal-sftp${only}`)
    for (const day of [11, 12, 13]) {
      const { code, stderr } = await run(`uploaded ssh ${name(day)}`)
      assert.equal(code, 0, stderr)
    }
    const held = await ask()
    assert.equal(held.code, 0, held.stdout)
    const { stdout } = await here.root('/opt/bin/fortress-backup list')
    assert.deepEqual(
      stdout
        .split('\n')
        .filter((line) => line.startsWith('ssh\t'))
        .map((line) => line.split('\t').slice(1)),
      [11, 12, 13].map((day) => [name(day), '300000']),
    )
    const digests = 'sha256sum /var/lib/fortress/backup/*.age | cut --delimiter=" " --fields=1'
    const before = (await here.root(digests)).stdout
    await here.root('rm /var/lib/fortress/backup/*.age')
    for (const day of [11, 12, 13])
      assert.equal((await here.root(`/opt/bin/fortress-backup fetch ssh ${name(day)}`)).code, 0)
    assert.equal((await here.root(digests)).stdout, before)
  })

  test('an attacker on the node deletes, overwrites, cuts off, renames and hides nothing', async () => {
    const look = 'cd /home/keeper/bundles && sha256sum *.age && stat --format="%n %a %s" *.age'
    const before = (await far.root(look)).stdout
    await here.root('echo forged > /tmp/forged')
    const path = `/home/keeper/bundles/${name(12)}`
    const tried = [
      `rm ${path}`,
      `put /tmp/forged ${path}`,
      `put -a /tmp/forged ${path}`,
      `reput /tmp/forged ${path}`,
      `rename ${path} ${path}.gone`,
      `rename ${path} /home/keeper/gone`,
      `chmod 600 ${path}`,
      `chown 0 ${path}`,
      `ln ${path} /home/keeper/other`,
      `symlink /tmp/forged ${path}`,
      `copy ${path} ${path}.copy`,
      `rmdir /home/keeper/bundles`,
      `rename /home/keeper/bundles /home/keeper/elsewhere`,
      'put /tmp/forged /home/keeper/.ssh/authorized_keys',
      'put /tmp/forged /home/keeper/.ssh/authorized_keys2',
    ]
    for (const line of tried) {
      const { code, stdout } = await attack(`${line}\n`)
      assert.notEqual(code, 0, `${line}\n${stdout}`)
      assert.equal((await far.root(look)).stdout, before, line)
    }
    const shell = await here.root(
      `ssh -F /dev/null -i /etc/fortress/backup/ssh-key -o UserKnownHostsFile=/etc/fortress/backup/known_hosts \\
         -o HostKeyAlias=backup -o BatchMode=yes keeper@${far.machine.host} rm ${path} < /dev/null`,
    )
    assert.notEqual(shell.code, 0)
    assert.equal((await far.root(look)).stdout, before)
  })

  test('the far side removes what is old by itself, as the file for it says', async () => {
    const line = readFileSync(join(root, 'config/k3s/append-only/tmpfiles.conf'), 'utf8')
    await far.root('cat > /etc/tmpfiles.d/bundles.conf', line)
    await far.root(`touch --date='-91 days' /home/keeper/bundles/${name(11)}`)
    const { stdout } = await far.root('systemd-tmpfiles --clean; ls /home/keeper/bundles')
    assert.deepEqual(stdout.trim().split('\n'), [12, 13].map(name))
  })
})
