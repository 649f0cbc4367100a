// The way in, as people have it: their ssh configuration and known_hosts, what their machine prints at a log-in, where its sshd
// listens and who starts it, what stands there already. Each is green, or is refused before a door moves, with the reason.
import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import type { Page } from '../../lib/engine/page.ts'
import { runPage } from '../../lib/engine/run.ts'
import { loadConfig } from '../../lib/site/config.ts'
import harden from '../../scripts/00-host-harden.ts'
import { type Kit, differences, node, open } from './kit.ts'
import { type Checkout, type Laptop, checkout, laptop, noLaptop } from './laptop.ts'

const tried = 'test/fixtures/pages/50-try.ts'

describe('the way in', { skip: noLaptop }, () => {
  let kit: Kit & { end(): Promise<void> }
  let copy: Checkout
  let admin: Laptop
  let scratch: string
  let site: string
  const fileOf = (name: string, text: string, mode = 0o600) => {
    const file = join(scratch, name)
    writeFileSync(file, text, { mode })
    return file
  }
  /** Root there without a connection: whatever the way in is at that moment. */
  const must = (command: string, input = ''): string => {
    const nspawn = execFileSync('pgrep', ['--full', 'machine=fk-wayin '], { encoding: 'utf8' }).split(
      '\n',
    )[0]!
    const init = execFileSync('pgrep', ['--parent', nspawn], { encoding: 'utf8' }).trim()
    const words = [
      '--target',
      init,
      '--all',
      'env',
      '-',
      'PATH=/usr/sbin:/usr/bin',
      'bash',
      '-euo',
      'pipefail',
      '-c',
    ]
    return execFileSync('nsenter', [...words, command], { encoding: 'utf8', input, timeout: 120_000 })
  }
  /** The page comes to its checks: the machine was reached, and root there as well. */
  const comesIn = async (env: Record<string, string> = {}) => {
    const { code, text } = await admin.page(kit, tried, ['verify'], env)
    assert.match(text, /not built, it was never applied here/)
    assert.equal(code, 2, text)
  }
  const refused = async (said: RegExp, env: Record<string, string> = {}) => {
    const { code, text } = await admin.page(kit, tried, ['verify'], env)
    assert.equal(code, 1, text)
    assert.match(text, said)
  }
  const page = (name: string, words: string[], env: Record<string, string> = {}) =>
    admin.page(kit, copy.page(name), words, env)
  /** ssh's configuration in which the machine is `box`. */
  const alias = (port = 22) =>
    fileOf(
      'ssh.conf',
      `Host box\n  HostName ${kit.machine.host}\n  Port ${port}\n  User admin\n  IdentityFile ${kit.machine.identityFile}\n`,
    )
  const byAlias = (port?: number) => ({ FK_HOST: 'box', FK_SSH_KEY: '', FK_SSH_CONFIG: alias(port) })

  before(async () => {
    kit = await node(undefined, 'wayin', { net: true })
    copy = checkout()
    admin = await laptop(9)
    scratch = mkdtempSync(join(tmpdir(), 'fk-wayin-'))
    site = readFileSync(copy.site, 'utf8')
    must('apt-get -qq update && apt-get -qq -y --no-install-recommends install wireguard-go')
  })
  after(async () => {
    await admin?.end()
    copy?.end()
    await kit?.end()
    rmSync(scratch, { recursive: true, force: true })
  })

  describe('by the ssh of the laptop', () => {
    test('an alias of its configuration', () => comesIn(byAlias()))

    test('through a jump host', async () => {
      const gate = fileOf('gate.known', readFileSync(kit.machine.knownHostsFile, 'utf8'))
      const config = fileOf(
        'jump.conf',
        `Host inner\n  HostName 127.0.0.1\n  ProxyJump gate\nHost gate\n  HostName ${kit.machine.host}\n` +
          `  UserKnownHostsFile ${gate}\nHost *\n  User admin\n  IdentityFile ${kit.machine.identityFile}\n`,
      )
      await comesIn({ FK_HOST: 'inner', FK_SSH_KEY: '', FK_SSH_CONFIG: config })
    })

    test('with all that a person may like at a prompt', async () => {
      const liked =
        'Host *\n  RemoteCommand tmux\n  RequestTTY force\n  LogLevel QUIET\n  PermitLocalCommand yes\n  LocalCommand echo hello\n' +
        '  StdinNull yes\n  SessionType none\n  ForkAfterAuthentication yes\n  ControlMaster auto\n' +
        `  ControlPath ${scratch}/own-%C\n  UpdateHostKeys yes\n`
      const known = readFileSync(join(kit.state, 'known_hosts'), 'utf8')
      await comesIn({ FK_SSH_CONFIG: fileOf('liked.conf', liked) })
      assert.equal(readFileSync(join(kit.state, 'known_hosts'), 'utf8'), known)
      await refused(/refuses the connection/, {
        FK_SSH_CONFIG: join(scratch, 'liked.conf'),
        FK_HOST: `admin@${kit.machine.host}:23`,
      })
    })

    test('whose configuration has a mistake: that is said', () =>
      refused(/cannot read its configuration\n[^]*nonsense/i, {
        FK_SSH_CONFIG: fileOf('bad.conf', 'Nonsense yes\n'),
      }))

    test('with a TMPDIR of 106 letters', async () => {
      const long = join(scratch, 'x'.repeat(106 - scratch.length - 1))
      mkdirSync(long)
      await comesIn({ TMPDIR: long })
    })

    test('with hashed host keys, and with tabs in their file', async () => {
      const plain = readFileSync(join(kit.state, 'known_hosts'), 'utf8')
      const hashed = fileOf('hashed', plain)
      execFileSync('ssh-keygen', ['-H', '-f', hashed], { stdio: 'ignore' })
      assert.doesNotMatch(readFileSync(hashed, 'utf8'), /fortress/)
      await comesIn({ FK_KNOWN_HOSTS: hashed })
      await comesIn({ FK_KNOWN_HOSTS: fileOf('tabs', plain.replaceAll(' ', '\t')) })
    })
  })

  describe('by what the machine does at a log-in', () => {
    test('a .bashrc that prints no end of a line, and one that reads', async () => {
      must('cp /home/admin/.bashrc /root/bashrc')
      const noisy = `printf '\\033]0;%s\\007' "$HOSTNAME"; echo warning >&2; read -r x; read -r y\n`
      must('cat - /root/bashrc > /home/admin/.bashrc', noisy)
      await comesIn()
      must('cp /root/bashrc /home/admin/.bashrc')
    })

    test('a system that has no version is named, and not supported', async () => {
      must(
        'cp --dereference /etc/os-release /root/os; rm /etc/os-release; grep -v VERSION_ID /root/os > /etc/os-release',
      )
      await refused(/runs debian on amd64, and the site fortress says debian-13/)
      must('cp /root/os /etc/os-release')
    })

    test('a password of sudo that ends with a space', async () => {
      const spaced = `${kit.machine.password} `
      must('chpasswd', `admin:${spaced}\n`)
      await comesIn({ FK_SUDO_PASSWORD_FILE: fileOf('sudo', `${spaced}\n`) })
      must('chpasswd', `admin:${kit.machine.password}\n`)
    })

    test('a sudo that wants a terminal: that is said, and how to change it', async () => {
      must('echo "Defaults requiretty" > /etc/sudoers.d/10-tty')
      await refused(/must have a tty[^]*next: +sudo there wants a terminal[^]*Defaults:admin !requiretty/)
      must('rm /etc/sudoers.d/10-tty')
    })

    test('a full /tmp', async () => {
      must('mount -t tmpfs -o size=64k,mode=1777 tmpfs /tmp; dd if=/dev/zero of=/tmp/full bs=1k || true')
      const { code, text } = await admin.page(kit, tried, ['verify'])
      must('umount /tmp')
      assert.match(text, code === 2 ? /not built, it was never applied here/ : /No space left|no space/i)
    })

    test('packages that somebody else installs: it waits, says for whom, and goes on', async () => {
      must('apt-get -qq -y purge wireguard-tools > /dev/null 2>&1 || true')
      const hold = `use Fcntl; open(my $f, ">>", "/var/lib/apt/lists/lock") or die;
        my $l = pack("s s l! l! l! i", F_WRLCK, 0, 0, 0, 0, 0); fcntl($f, F_SETLK, $l) or die; sleep 25;`
      must('cat > /root/hold.pl; setsid perl /root/hold.pl > /dev/null 2>&1 < /dev/null & sleep 1', hold)
      const { code, text } = await page('05-host-wireguard', ['apply'])
      assert.equal(code, 0, text)
      assert.match(text, /waiting for another program that installs packages: .*\/var\/lib\/apt\/lists\/lock/)
    })
  })

  describe('page 00, where sshd is not as Debian starts it', () => {
    /** What of the page is about sshd, as it is for this connection; confirmed by a log-in of its own, or taken back. */
    const sshSteps = async (port: number, mode: 'plan' | 'apply' | 'undo') => {
      const env: Record<string, string> = { ...kit.env, FK_HOST: `admin@${kit.machine.host}:${port}` }
      const config = loadConfig({ env, root: copy.dir })
      const { machine, context, lines, running } = await open(kit, { port, config })
      const steps = harden.steps(context).filter(({ name }) => /sshd|ssh-admins/.test(name))
      const some: Page = { ...harden, name: '50-sshd', steps: () => steps }
      const { code } = await runPage(some, steps, mode, { ...running, rollbackAfter: 30 })
      await machine.close()
      return { code, text: lines.join('') }
    }
    const ways: [string, string, number, string][] = [
      [
        'a socket starts it, as on Ubuntu 24.04',
        'systemctl --quiet disable --now ssh.service; systemctl --quiet enable --now ssh.socket',
        22,
        'systemctl --quiet disable --now ssh.socket; systemctl stop ssh.service; systemctl --quiet enable --now ssh.service',
      ],
      [
        'port 2222 in the first line of sshd_config',
        `cp /etc/ssh/sshd_config /root/sshd; { echo 'Port 2222'; cat /root/sshd; } > /etc/ssh/sshd_config; systemctl restart ssh`,
        2222,
        'cp /root/sshd /etc/ssh/sshd_config; systemctl restart ssh',
      ],
      [
        'port 2222 by ListenAddress in the first line',
        `cp /etc/ssh/sshd_config /root/sshd; { echo 'ListenAddress 0.0.0.0:2222'; cat /root/sshd; } > /etc/ssh/sshd_config; systemctl restart ssh`,
        2222,
        'cp /root/sshd /etc/ssh/sshd_config; systemctl restart ssh',
      ],
      [
        'port 2222 in a drop-in',
        `echo 'Port 2222' > /etc/ssh/sshd_config.d/20-port.conf; systemctl restart ssh`,
        2222,
        'rm /etc/ssh/sshd_config.d/20-port.conf; systemctl restart ssh',
      ],
    ]
    for (const [what, prepare, port, restore] of ways)
      test(what, async (t) => {
        must(`systemctl reset-failed ssh.service; ${prepare}`)
        t.after(() => must(`systemctl reset-failed ssh.service; ${restore}`))
        const before = must('sha256sum /etc/ssh/sshd_config; ls /etc/ssh/sshd_config.d')
        const { code, text } = await sshSteps(port, 'apply')
        assert.equal(code, 0, text)
        assert.match(must('sshd -T'), /^allowgroups ssh-admins$/m)
        const again = await sshSteps(port, 'apply')
        assert.equal(again.code, 0, again.text)
        assert.doesNotMatch(again.text, /^changed/m)
        await comesIn({ FK_HOST: `admin@${kit.machine.host}:${port}` })
        const undone = await sshSteps(port, 'undo')
        assert.equal(undone.code, 0, undone.text)
        assert.equal(must('sha256sum /etc/ssh/sshd_config; ls /etc/ssh/sshd_config.d'), before)
        await comesIn({ FK_HOST: `admin@${kit.machine.host}:${port}` })
      })

    test('only an ECDSA key is pinned, which sshd will not show: refused, with the key to pin', async () => {
      const all = readFileSync(join(kit.state, 'known_hosts'), 'utf8').split('\n')
      const env = {
        FK_KNOWN_HOSTS: fileOf('ecdsa', `${all.filter((line) => line.includes('ecdsa')).join('\n')}\n`),
      }
      const before = await kit.digest()
      const { code, text } = await page('00-host-harden', ['apply'], env)
      assert.equal(code, 1, text)
      assert.match(text, /sshd will still show a host key that your laptop has pinned/)
      assert.match(text, /pinned: ecdsa-sha2-nistp256; sshd will show:\s+ssh-ed25519 AAAA/)
      assert.match(text, /next: .*add it to \S+\/ecdsa, as\s+fortress\.fortress ssh-ed25519/)
      assert.deepEqual(differences(before, await kit.digest()), [])
    })

    test('rules of sudo for all commands, however they are written', async () => {
      for (const rule of ['ALL=ALL', 'ALL=(ALL) PASSWD: ALL', 'ALL=(ALL) SETENV: ALL', 'ALL=(ALL:ALL) ALL']) {
        must(
          `gpasswd --delete admin sudo > /dev/null 2>&1 || true; echo 'admin ${rule}' > /etc/sudoers.d/20-admin`,
        )
        const { text } = await page('00-host-harden', ['plan', '--json'])
        assert.match(
          text,
          /"state":"ok"[^\n]*your account may use sudo|your account may use sudo[^\n]*"state":"ok"/,
          rule,
        )
        // Nothing stands on a fresh machine that anybody would have to be asked about.
        assert.match(
          text,
          /"state":"ok"[^\n]*cannot log in any more|cannot log in any more[^\n]*"state":"ok"/,
        )
      }
      must('gpasswd --add admin sudo > /dev/null; rm /etc/sudoers.d/20-admin')
    })
  })

  describe('what stands there already', () => {
    test('is named by a plan, and nothing is stopped unasked', async () => {
      must(`ip link add docker0 type bridge; ip address add 172.17.0.1/16 dev docker0; ip link set docker0 up
        ip rule add from 172.17.0.0/16 lookup 100 priority 900
        sysctl --quiet --write net.ipv4.ip_forward=1
        useradd --create-home --shell /bin/bash backup-user && install -D --mode=600 /home/admin/.ssh/authorized_keys /home/backup-user/.ssh/authorized_keys
        nft 'table ip nat { chain pre { type nat hook prerouting priority dstnat; tcp dport 8080 dnat to 172.17.0.2:80; }; }'
        (setsid perl -e 'use Socket; socket(S, PF_INET, SOCK_STREAM, 0); bind(S, sockaddr_in(8443, INADDR_ANY)); listen(S, 5); sleep 600' > /dev/null 2>&1 &)
        sleep 1`)
      const harden = await page('00-host-harden', ['plan'])
      assert.match(harden.text, /docker0 the bridge docker0/)
      assert.match(harden.text, /login:backup-user backup-user, who has a key to log in over SSH/)
      assert.match(harden.text, /policy-route the rule: from 172\.17\.0\.0\/16 lookup 100/)
      const firewall = await page('06-host-firewall', ['plan'])
      for (const line of [
        /docker0 the bridge docker0/,
        /table:ip\.nat the table ip nat/,
        /tcp\/8443 perl listens at tcp\/8443/,
        /policy-route the rule: from 172/,
      ])
        assert.match(firewall.text, line)
      assert.doesNotMatch(firewall.text, /tap0|host0|tcp\/22 /)
      const before = await kit.digest()
      const { code, text } = await page('06-host-firewall', ['apply'])
      assert.equal(code, 1, text)
      assert.match(text, /next: +stop it, or accept that it stops: type fortress/)
      assert.deepEqual(differences(before, await kit.digest()), [])
    })

    test('what the site document accepts is not asked about again', async () => {
      const words = ['docker0', 'table:ip.nat', 'policy-route']
      const lines = words.map(
        (word) => `  - { what: 'cut:fortress:${word}', why: a test, until: 2099-12-31 }\n`,
      )
      writeFileSync(copy.site, `${site}\naccepted:\n${lines.join('')}`)
      const { text } = await page('06-host-firewall', ['plan'])
      assert.match(text, /tcp\/8443 perl/)
      assert.doesNotMatch(text, /docker0|ip\.nat|policy-route/)
      writeFileSync(copy.site, site)
      must(`ip link delete docker0; ip rule delete priority 900; userdel --remove backup-user 2> /dev/null
        nft delete table ip nat; pkill perl`)
    })
  })

  describe('the tunnel', () => {
    test('whose network is where the laptop is: refused, with the reason', async (t) => {
      writeFileSync(copy.site, site.replaceAll('10.66.0.', '10.78.255.'))
      t.after(() => writeFileSync(copy.site, site))
      const before = await kit.digest()
      const { code, text } = await page('05-host-wireguard', ['apply'])
      assert.equal(code, 1, text)
      assert.match(text, /10\.78\.255\.0\/24 \(tunnel\.network\) is in use nowhere else on this machine/)
      assert.match(text, /next: +write another tunnel\.network/)
      assert.deepEqual(differences(before, await kit.digest()), [])
    })

    test('FK_HOST inside of it: refused', async () => {
      const { code, text } = await page('05-host-wireguard', ['plan'], { FK_HOST: 'admin@10.66.0.1' })
      assert.equal(code, 1)
      assert.match(text, /FK_HOST +is inside tunnel\.network \(10\.66\.0\.0\/24\)/)
    })

    test('of an alias has its address for an endpoint, its user, and the port of sshd', async () => {
      must(
        `systemctl reset-failed ssh.service; echo 'Port 2222' > /etc/ssh/sshd_config.d/20-port.conf; systemctl restart ssh`,
      )
      const env = byAlias(2222)
      assert.equal((await page('05-host-wireguard', ['apply'], env)).code, 0)
      await copy.peer({ ...kit, env: { ...kit.env, ...env } }, 'show', 'laptop')
      const client = join(kit.state, 'fortress', 'laptop.conf')
      assert.match(readFileSync(client, 'utf8'), new RegExp(`^Endpoint = ${kit.machine.host}:51820$`, 'm'))
      await admin.up(client)
      must('true')
      await admin.run('ping', '-c', '1', '-W', '5', '10.66.0.1')

      // The site does not say so, and its lines go by port 22.
      const plan = await page('06-host-firewall', ['plan'], env)
      assert.match(plan.text, /router\.allow lets you log in from the tunnel \(tcp\/2222\)/)
      assert.match(plan.text, /ssh_port: 2222 of fortress/)
      writeFileSync(copy.site, site.replace('arch: amd64', 'arch: amd64\n    ssh_port: 2222'))
    })

    test('by which the log-in is refused: nothing is closed, and it says what to look for', async () => {
      must(
        `cp /home/admin/.ssh/authorized_keys /root/keys; sed 's/^/from="10.78.0.0\\/16" /' /root/keys > /home/admin/.ssh/authorized_keys`,
      )
      const { code, text } = await page('06-host-firewall', ['apply'], byAlias(2222))
      assert.equal(code, 1, text)
      assert.match(
        text,
        /before it is the only one[^]*Permission denied[^]*nothing was changed[^]*next: +look for .*from=/,
      )
      assert.equal(must('nft list tables'), '')
      must('cp /root/keys /home/admin/.ssh/authorized_keys')
    })

    test('becomes the only way in, and a later run finds it', async () => {
      const { code, text } = await page('06-host-firewall', ['apply'], byAlias(2222))
      assert.equal(code, 0, text)
      const later = await page('06-host-firewall', ['verify'], byAlias(2222))
      assert.equal(later.code, 0, later.text)
      assert.match(later.text, /verify on fortress \(10\.66\.0\.1\)/)
      const undone = await page('06-host-firewall', ['undo'], byAlias(2222))
      assert.equal(undone.code, 0, undone.text)
    })
  })
})
