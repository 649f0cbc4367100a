// Verify asks what decides. Each sabotage leaves every file of the page as it is, and changes what the machine does.
import assert from 'node:assert/strict'
import { after, before, describe, test } from 'node:test'
import { type Kit, node } from './kit.ts'

const page = 'scripts/00-host-harden.ts'

interface Sabotage {
  /** What kind of thing goes over our file. */
  by: string
  /** The controls that have to see it. */
  seen: string[]
  bash: string
  /** Takes it back. */
  undo: string
}

/** An access list of POSIX beside the mode: user nobody may read and enter. There is no setfacl on a bare machine. */
const acl = (path: string) => `python3 - ${path} << 'END'
import os, stat, struct, sys
mode = stat.S_IMODE(os.stat(sys.argv[1]).st_mode)
rights = [(1, mode >> 6, -1), (2, 5, 65534), (4, mode >> 3, -1), (16, mode >> 3, -1), (32, mode, -1)]
os.setxattr(sys.argv[1], 'system.posix_acl_access',
            struct.pack('<I', 2) + b''.join(struct.pack('<HHI', t, p & 7, n & 0xffffffff) for t, p, n in rights))
END`
const noAcl = (path: string) => `python3 -c 'import os; os.removexattr("${path}", "system.posix_acl_access")'`
const dropIn = (path: string, text: string) =>
  `mkdir --parents "$(dirname ${path})"; printf '%b\\n' '${text}' > ${path}`
const shim = (name: string) =>
  `printf '#!/bin/sh\\nexit 0\\n' > /usr/local/sbin/${name}; chmod 755 /usr/local/sbin/${name}`

const access: Sabotage[] = [
  {
    by: 'a drop-in of sshd that includes a directory with rules for some addresses',
    seen: ['H01', 'H02', 'H03', 'H04', 'H08', 'H10', 'H11', 'H13', 'H15', 'H16', 'H27', 'H33', 'H38', 'H40'],
    bash: `${dropIn('/etc/ssh/sshd_config.d/zz-site.conf', 'Include /etc/ssh/site/*.conf')}
${dropIn(
  '/etc/ssh/site/lan.conf',
  'Match Address 192.168.0.0/16\\nPermitRootLogin yes\\nPasswordAuthentication yes\\nAuthenticationMethods any\\nPermitEmptyPasswords yes\\nAllowGroups users\\nAllowAgentForwarding yes\\nX11Forwarding yes\\nClientAliveInterval 0\\nMaxAuthTries 99\\nMaxSessions 99\\nBanner none\\nRevokedKeys none\\nAuthorizedKeysFile /etc/ssh/site/%u',
)}`,
    undo: 'rm --recursive /etc/ssh/site /etc/ssh/sshd_config.d/zz-site.conf',
  },
  {
    by: 'words on the command line of sshd, from a file that is gone again',
    seen: ['H14', 'H19', 'H39'],
    bash: `cp --archive /etc/default/ssh /root/ssh.kept
echo 'SSHD_OPTS="-o LoginGraceTime=0 -o Ciphers=+aes128-cbc"' > /etc/default/ssh
systemctl restart ssh.service && cp --archive /root/ssh.kept /etc/default/ssh`,
    undo: 'cp --archive /root/ssh.kept /etc/default/ssh; systemctl restart ssh.service',
  },
  {
    by: 'a directory that sudoers includes: a user by number, and rules for one user',
    seen: ['I17', 'I18', 'I19', 'I20'],
    bash: `${dropIn('/etc/sudoers.local/site', '#1000 ALL=(ALL) NOPASSWD: ALL\\nDefaults:admin !use_pty\\nDefaults timestamp_timeout=-1\\nDefaults!/usr/bin/env !env_reset')}
echo '@includedir /etc/sudoers.local' > /etc/sudoers.d/70-site; chmod 440 /etc/sudoers.d/70-site /etc/sudoers.local/site`,
    undo: 'rm --recursive /etc/sudoers.local /etc/sudoers.d/70-site',
  },
  {
    by: 'a service of PAM with lines of its own before the common ones',
    seen: ['I05', 'I05a'],
    bash: `cp --archive /etc/pam.d/sudo /root/sudo.kept
{ echo 'auth required pam_faillock.so preauth deny=1000'; echo 'auth sufficient pam_permit.so'; cat /root/sudo.kept; } > /etc/pam.d/sudo`,
    undo: 'cp --archive /root/sudo.kept /etc/pam.d/sudo',
  },
  {
    by: 'a service of PAM that does without the common lines',
    seen: ['I08c', 'I09', 'I10b', 'I10c'],
    bash: `cp --archive /etc/pam.d/passwd /root/passwd.kept
echo 'password required pam_unix.so nullok md5' > /etc/pam.d/passwd`,
    undo: 'cp --archive /root/passwd.kept /etc/pam.d/passwd',
  },
  {
    by: 'a line of PAM for sshd alone',
    seen: ['I12d'],
    bash: `cp --archive /etc/pam.d/sshd /root/sshd.kept; echo 'account required pam_unix.so' >> /etc/pam.d/sshd`,
    undo: 'cp --archive /root/sshd.kept /etc/pam.d/sshd',
  },
  {
    by: 'a drop-in of pwquality',
    seen: ['I08'],
    bash: dropIn('/etc/security/pwquality.conf.d/site.conf', 'minlen = 4'),
    undo: 'rm /etc/security/pwquality.conf.d/site.conf',
  },
  {
    by: 'limits for one user, by a later file',
    seen: ['E12', 'I15'],
    bash: dropIn(
      '/etc/security/limits.d/95-site.conf',
      'admin hard core unlimited\\nadmin hard maxlogins 1000',
    ),
    undo: 'rm /etc/security/limits.d/95-site.conf',
  },
  {
    by: 'an account whose own group is the one that nobody may be in',
    seen: ['I21', 'I23'],
    bash: 'useradd --no-create-home --gid sugroup mallory; useradd --no-create-home --gid shadow mallet',
    undo: 'userdel mallory; userdel mallet',
  },
  {
    by: 'a word in the description of an account',
    seen: ['I13b'],
    bash: 'getent passwd admin | cut --delimiter=: --fields=5 > /root/gecos; usermod --comment umask=000 admin',
    undo: 'usermod --comment "$(cat /root/gecos)" admin',
  },
  {
    by: 'earlier and later files of the profile',
    seen: ['I13a', 'I14', 'I27'],
    bash: `${dropIn('/etc/profile.d/00-site.sh', 'readonly TMOUT=0')}; ${dropIn('/etc/profile.d/zz-site.sh', 'umask 000; mkdir -p -m 777 /tmp/bin; PATH=/tmp/bin:$PATH')}`,
    undo: 'rm --recursive /etc/profile.d/00-site.sh /etc/profile.d/zz-site.sh /tmp/bin',
  },
  {
    by: 'an access list beside the mode',
    seen: ['I16', 'L06', 'N02', 'N08', 'N11'],
    bash: ['/home/admin', '/etc/apt', '/etc/shadow', '/etc/sudoers.d', '/root'].map(acl).join('\n'),
    undo: ['/home/admin', '/etc/apt', '/etc/shadow', '/etc/sudoers.d', '/root'].map(noAcl).join('\n'),
  },
  {
    by: 'a mount over the file',
    seen: ['I24', 'I12', 'M09'],
    bash: `install --directory /root/over; printf 'root\\nmallory\\n' > /root/over/allow; : > /root/over/motd
sed 's/^PASS_MAX_DAYS.*/PASS_MAX_DAYS 99999/' /etc/login.defs > /root/over/defs
mount --bind /root/over/allow /etc/cron.allow; mount --bind /root/over/defs /etc/login.defs
echo 'Debian' > /root/over/motd; mount --bind /root/over/motd /etc/motd`,
    undo: 'umount /etc/cron.allow /etc/login.defs /etc/motd; rm --recursive /root/over',
  },
]

const system: Sabotage[] = [
  {
    by: 'a drop-in that sshd has not read yet',
    seen: ['H35'],
    bash: dropIn('/etc/ssh/sshd_config.d/zz-site.conf', 'ChannelTimeout none'),
    undo: 'rm /etc/ssh/sshd_config.d/zz-site.conf',
  },
  {
    by: 'settings of one interface',
    seen: ['C02', 'C05', 'C06', 'C07', 'C08', 'C10', 'C13a', 'C14', 'C23', 'C25'],
    bash: `sysctl --quiet --write net.ipv4.conf.host0.forwarding=1 net.ipv6.conf.host0.accept_redirects=1 \\
  net.ipv4.conf.host0.secure_redirects=1 net.ipv4.conf.host0.send_redirects=1 net.ipv6.conf.host0.accept_source_route=1 \\
  net.ipv4.conf.host0.shared_media=1 net.ipv4.conf.host0.route_localnet=1 net.ipv4.conf.host0.proxy_arp=1 \\
  net.ipv6.conf.host0.accept_ra=1 net.ipv6.conf.host0.use_tempaddr=2`,
    undo: `sysctl --quiet --write net.ipv4.conf.host0.forwarding=0 net.ipv6.conf.host0.accept_redirects=0 \\
  net.ipv4.conf.host0.secure_redirects=0 net.ipv4.conf.host0.send_redirects=0 net.ipv6.conf.host0.accept_source_route=0 \\
  net.ipv4.conf.host0.shared_media=0 net.ipv4.conf.host0.route_localnet=0 net.ipv4.conf.host0.proxy_arp=0 \\
  net.ipv6.conf.host0.accept_ra=0 net.ipv6.conf.host0.use_tempaddr=0`,
  },
  {
    by: 'a later file of sysctls',
    seen: ['C01', 'C18'],
    bash: `${dropIn('/etc/sysctl.d/99-zzz-site.conf', 'net.ipv4.conf.default.rp_filter = 0\\nnet.ipv4.tcp_syncookies = 0')}
/usr/lib/systemd/systemd-sysctl /etc/sysctl.d/99-zzz-site.conf`,
    undo: `rm /etc/sysctl.d/99-zzz-site.conf
sysctl --quiet --write net.ipv4.conf.default.rp_filter=1 net.ipv4.tcp_syncookies=1`,
  },
  {
    by: 'an earlier file of modprobe, by name and by pattern',
    seen: ['D03', 'D08'],
    bash: `${dropIn('/etc/modprobe.d/00-site.conf', 'install udf /sbin/modprobe --ignore-install udf')}; ${dropIn('/run/modprobe.d/00-more.conf', 'install sct* /bin/true')}`,
    undo: 'rm /etc/modprobe.d/00-site.conf /run/modprobe.d/00-more.conf',
  },
  {
    by: 'a mount below, or other options of one that is there',
    seen: ['E01', 'E02', 'E05', 'E07'],
    bash: `mkdir /tmp/site /var/log/site; mount -t tmpfs tmpfs /tmp/site; mount -t tmpfs tmpfs /var/log/site
mount --options remount,exec /dev/shm; mount --options remount,bind,suid,nodev /home`,
    undo: `umount /tmp/site /var/log/site; rmdir /tmp/site /var/log/site
mount --options remount,noexec,nosuid,nodev /dev/shm; mount --options remount,bind,nosuid,nodev /home`,
  },
  {
    by: 'overrides of units, at run time and for good',
    seen: ['A21', 'B35', 'E15', 'L08a', 'N12'],
    bash: `${dropIn('/etc/systemd/system/aidecheck.service.d/site.conf', '[Service]\\nExecStart=\\nExecStart=/bin/true')}
${dropIn('/run/systemd/system/fortress-modes.service.d/site.conf', '[Service]\\nExecStart=\\nExecStart=/bin/true')}
${dropIn('/etc/systemd/system.control/sysctl-reapply-network.service.d/50.conf', '[Unit]\\nConditionPathExists=/nowhere')}
${dropIn('/etc/systemd/system/service.d/site.conf', '[Unit]\\nDescription=of every service')}
${dropIn('/run/systemd/system/fortress-mounts.service.d/site.conf', '[Unit]\\nConditionPathExists=/nowhere')}
${dropIn('/etc/systemd/system/rescue.service.d/site.conf', '[Service]\\nEnvironment=SYSTEMD_SULOGIN_FORCE=1')}
systemctl daemon-reload`,
    undo: `rm --recursive /etc/systemd/system/{aidecheck,rescue}.service.d /etc/systemd/system/service.d \\
  /run/systemd/system/fortress-{modes,mounts}.service.d
rm --recursive --force /etc/systemd/system.control; systemctl daemon-reload`,
  },
  {
    by: 'what goes before a mask',
    seen: ['A24', 'A26'],
    bash: `install -D --mode=644 <(printf '[Service]\\nExecStart=/bin/sh\\n') /etc/systemd/system.control/debug-shell.service
mkdir --parents /run/systemd/system-generators
ln --symbolic /usr/lib/systemd/system-generators/systemd-ssh-generator /run/systemd/system-generators/
systemctl daemon-reload`,
    undo: `rm --recursive --force /etc/systemd/system.control /run/systemd/system-generators/systemd-ssh-generator; systemctl daemon-reload
systemctl stop 'sshd-vsock*' 'sshd-unix*'; systemctl daemon-reload`,
  },
  {
    by: 'masks of what a unit starts',
    seen: ['J28', 'L01b'],
    bash: 'systemctl --quiet mask apt-daily-upgrade.service sysstat-collect.timer',
    undo: 'systemctl --quiet unmask apt-daily-upgrade.service sysstat-collect.timer',
  },
  {
    by: 'units that something else wants, or that are there until the next start',
    seen: ['E11', 'J25', 'M01a', 'M05'],
    bash: `for name in autofs bluetooth; do printf '[Service]\\nExecStart=/bin/sleep 9999\\n[Install]\\nWantedBy=multi-user.target\\n' > /run/systemd/system/$name.service; done
for name in cups systemd-journal-remote; do printf '[Socket]\\nListenStream=/run/%s.site\\nAccept=yes\\n' $name > /run/systemd/system/$name.socket
  printf '[Service]\\nExecStart=/bin/true\\n' > /run/systemd/system/$name@.service; done
mkdir --parents /run/systemd/system/multi-user.target.d; printf '[Unit]\\nWants=bluetooth.service\\n' > /run/systemd/system/multi-user.target.d/site.conf
systemctl daemon-reload; systemctl --quiet enable --runtime autofs.service; systemctl start cups.socket systemd-journal-remote.socket`,
    undo: `systemctl stop cups.socket systemd-journal-remote.socket; systemctl --quiet disable --runtime autofs.service
rm --recursive --force /run/systemd/system/{autofs,bluetooth}.service /run/systemd/system/{cups,systemd-journal-remote}{.socket,@.service} \\
  /run/systemd/system/multi-user.target.d; systemctl daemon-reload`,
  },
  {
    by: 'later drop-ins of systemd, in /run and /usr/local',
    seen: ['E12a', 'J23', 'J23a', 'K05'],
    bash: `${dropIn('/run/systemd/journald.conf.d/99-site.conf', '[Journal]\\nStorage=volatile\\nForwardToSyslog=yes')}
${dropIn('/run/systemd/coredump.conf.d/99-site.conf', '[Coredump]\\nStorage=external')}
${dropIn('/usr/local/lib/systemd/system.conf.d/99-site.conf', '[Manager]\\nCrashShell=yes')}`,
    undo: 'rm /run/systemd/{journald,coredump}.conf.d/99-site.conf; rm --recursive /usr/local/lib/systemd/system.conf.d',
  },
  {
    by: 'a setting that logind was given and no file has any more',
    seen: ['I25'],
    bash: `${dropIn('/run/systemd/logind.conf.d/99-site.conf', '[Login]\\nRemoveIPC=no')}; systemctl reload systemd-logind.service
rm /run/systemd/logind.conf.d/99-site.conf`,
    undo: 'systemctl reload systemd-logind.service',
  },
  {
    by: 'later files of APT, and sources that are believed',
    seen: ['L01a', 'L01c', 'L02', 'L03', 'L04', 'L05', 'L13'],
    bash: `${dropIn(
      '/etc/apt/apt.conf.d/99-zz-site',
      'APT::Periodic::Unattended-Upgrade "0";\\nUnattended-Upgrade::Package-Blacklist { ".*"; };\\nAPT::Get::AllowUnauthenticated "true";\\nAPT::Sandbox::Seccomp "0";\\nAPT::Install-Recommends "1";\\nUnattended-Upgrade::Remove-Unused-Dependencies "false";',
    )}
echo 'deb [${'trusted'}=yes] http://192.0.2.1/debian stable main' > /etc/apt/sources.list.d/site.list`,
    undo: 'rm /etc/apt/apt.conf.d/99-zz-site /etc/apt/sources.list.d/site.list',
  },
  {
    by: 'the job that reads our file',
    seen: ['L09a'],
    bash: 'chmod a-x /etc/cron.weekly/debsums',
    undo: 'chmod a+x /etc/cron.weekly/debsums',
  },
  {
    by: 'the words of the environment file of chrony',
    seen: ['J27a'],
    bash: `cp --archive /etc/default/chrony /root/chrony.kept; echo 'DAEMON_OPTS="-F 1 -f /etc/chrony/site.conf"' > /etc/default/chrony`,
    undo: 'cp --archive /root/chrony.kept /etc/default/chrony',
  },
  {
    by: 'programs and directories on file systems of their own',
    seen: ['E13', 'N05', 'N06', 'N13'],
    bash: `mount -t tmpfs tmpfs /opt; cp /bin/true /opt/ping; chmod 4755 /opt/ping
mount -t tmpfs tmpfs /srv; mkdir --mode=777 /srv/open; touch /srv/all /srv/nobody; chmod 666 /srv/all; chown 4242 /srv/nobody`,
    undo: 'umount /opt /srv',
  },
  {
    by: 'a program in /usr/local that answers in the place of the real one',
    seen: ['M03', 'M04', 'N07'],
    bash: `${shim('ss')}; ${shim('getcap')}; install --mode=755 /bin/true /usr/local/bin/ping
setcap cap_setuid=ep /usr/local/bin/ping; mkdir --parents /run/site
for at in '-l 0.0.0.0 4444' '-l 0.0.0.0 25' ; do
  systemd-run --quiet --collect --unit="site-\${at//[^0-9u]/}" nc $at
done; sleep 0.3`,
    undo: `systemctl stop 'site-*'; rm --recursive --force /usr/local/sbin/{ss,getcap} /usr/local/bin/ping /run/site`,
  },
]

/** What the first two rounds have seen by one way, by another. */
const again: Sabotage[] = [
  {
    by: 'a copy of a unit in /etc, which stands in for that of the package',
    seen: ['J05', 'J06', 'J07', 'L01b'],
    bash: `sed 's|^ExecStart=.*|ExecStart=/usr/sbin/auditd -c /root/audit|' /usr/lib/systemd/system/auditd.service > /etc/systemd/system/auditd.service
sed 's|^ExecStart=.*|ExecStart=/bin/true|' /usr/lib/systemd/system/apt-daily.service > /etc/systemd/system/apt-daily.service
systemctl daemon-reload`,
    undo: 'rm /etc/systemd/system/auditd.service /etc/systemd/system/apt-daily.service; systemctl daemon-reload',
  },
  {
    by: 'an override of what loads the audit rules',
    seen: ['J03'],
    bash: `${dropIn('/run/systemd/system/audit-rules.service.d/site.conf', '[Service]\nExecStart=\nExecStart=/bin/true')}; systemctl daemon-reload`,
    undo: 'rm --recursive /run/systemd/system/audit-rules.service.d; systemctl daemon-reload',
  },
  {
    by: 'a setting that journald was given and no file has any more',
    seen: ['J23'],
    bash: `${dropIn('/run/systemd/journald.conf.d/98-site.conf', '[Journal]\nStorage=volatile')}
systemctl restart systemd-journald.service; rm /run/systemd/journald.conf.d/98-site.conf`,
    undo: 'systemctl restart systemd-journald.service; journalctl --flush',
  },
  {
    by: 'a service of PAM without the module that reads the limits',
    seen: ['I15'],
    bash: `cp --archive /etc/pam.d/sshd /root/sshd.kept; grep --invert-match pam_limits /root/sshd.kept > /etc/pam.d/sshd`,
    undo: 'cp --archive /root/sshd.kept /etc/pam.d/sshd',
  },
  {
    by: 'a word of a module of PAM that goes over its file, behind words that do not',
    seen: ['I05'],
    bash: `cp --archive /etc/pam.d/common-auth /root/auth.kept
sed 's/faillock.so preauth/faillock.so preauth root_unlock_time=1 deny=1000/' /root/auth.kept > /etc/pam.d/common-auth`,
    undo: 'cp --archive /root/auth.kept /etc/pam.d/common-auth',
  },
  {
    by: 'another directory for the sources of APT',
    seen: ['L02'],
    bash: `${dropIn('/etc/apt/apt.conf.d/99-zz-site', 'Dir::Etc::sourceparts "/root/apt";')}
${dropIn('/root/apt/site.list', `deb [${'trusted'}=yes] http://192.0.2.1/debian stable main`)}`,
    undo: 'rm --recursive /etc/apt/apt.conf.d/99-zz-site /root/apt',
  },
  {
    by: 'a program that does not look into its file',
    seen: ['I24'],
    bash: 'mount --bind /bin/true /usr/bin/crontab',
    undo: 'umount /usr/bin/crontab',
  },
]

const rounds: [string, Sabotage[]][] = [
  ['who comes in, and as whom', access],
  ['what runs, and by which rules', system],
  ['by another way', again],
]

describe('a hardened host that something else has weakened', () => {
  let kit: Kit & { end(): Promise<void> }

  const verify = async () => {
    const { code, text } = await kit.page(page, 'verify', '--json')
    const events = text
      .split('\n')
      .filter((line) => line.startsWith('{'))
      .map((line) => JSON.parse(line) as { event: string; id?: string; state?: string; found?: string })
    const controls = events.filter(({ event }) => event === 'control')
    const open = controls.filter(({ state }) => state === 'failed' || state === 'unknown')
    return {
      code,
      text,
      ids: open.map(({ id }) => id),
      found: open.map(({ id, found }) => `${id}: ${found}`),
    }
  }
  const run = async (commands: string[]) => {
    // Where sudo asks for no password, the first line that it leaves to bash is the password.
    const { code, stderr } = await kit.root(
      'bash -c "read -r _; . /dev/stdin"',
      `\nset -e\n${commands.join('\n')}\n`,
    )
    assert.equal(code, 0, stderr)
  }

  before(async () => {
    kit = await node(undefined, 'sabotaged', { net: true })
    const { code, text } = await kit.page(page, 'apply')
    assert.equal(code, 0, text)
  })
  after(() => kit?.end())

  for (const [what, list] of rounds)
    test(`verify sees what was changed beside its files: ${what}`, async () => {
      await run(list.map(({ bash }) => bash))
      const { code, ids, found } = await verify()
      await run(list.map(({ undo }) => undo).toReversed())
      const missed = list.flatMap(({ by, seen }) =>
        seen.filter((id) => !ids.includes(id)).map((id) => `${id}: ${by}`),
      )
      assert.deepEqual(missed, [], found.join('\n'))
      assert.equal(code, 1)
      const again = await verify()
      assert.deepEqual(again.found, [])
      assert.equal(again.code, 0, again.text)
    })

  test('more than forty controls have been put to the proof', () => {
    const all = new Set(rounds.flatMap(([, list]) => list.flatMap(({ seen }) => seen)))
    assert.ok(all.size >= 40, `${all.size} controls`)
  })
})
