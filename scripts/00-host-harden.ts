#!/usr/bin/env -S npx --no-install tsx
// A Debian host hardened by kernel settings, mount options, SSH, PAM, audit and AIDE.
//
// Needs   Debian 13, Ubuntu 24.04 or Raspberry Pi OS 64-bit; you log in as an ordinary user with a key and a sudo password.
// Leaves  whole files, each named below; none of the distribution's is edited in place. Where a program reads one file
//         and no drop-ins, that file is ours from the first line to the last, and undo brings the old one back. Of /etc/fstab
//         only the line of /dev/shm is ours.
// Then    restart the host once: kernel arguments hold from then on, and verify says which controls wait for it.
//
// config/host/controls.yaml has what becomes true, one requirement at a time; config/host/waivers.yaml what does not, and why.
// The shell functions that the checks share with these controls (clear_swaps, slack_profiles, …) are in lib/host/controls.sh.
import { file } from '../lib/engine/file.ts'
import { packages } from '../lib/engine/packages.ts'
import type { Demand, Step, Transaction } from '../lib/engine/step.ts'
import { makePassphrase } from '../lib/ground/passphrase.ts'
import { Command, feed, sh } from '../lib/ground/sh.ts'
import { asked, controlShell } from '../lib/host/controls.ts'
import { type Host, hostOf } from '../lib/host/host.ts'
import { accepted, affectedShell } from '../lib/host/affected.ts'
import { type Context, script } from '../lib/script.ts'
import type { Person, Site } from '../lib/site/model.ts'

const functions = new Command(controlShell().text + affectedShell().text, undefined, 'lib/host/affected.sh')

export default script(import.meta, { layer: 'L0', on: 'host', library: functions }, (context) => {
  const host = hostOf(context)
  return [
    ...prerequisites(host, context),
    ...software(host),
    ...kernel(host),
    ...mounts(host),
    ...memory(host),
    ...accounts(host),
    ...people(host, context.site),
    ...sessions(host),
    // One transaction from here to sudo, confirmed by a fresh login and its sudo, or rolled back.
    ...sshd(host),
    ...pam(host),
    ...sudo(host),
    ...audit(host),
    ...logsAndTime(host, context),
    ...services(host),
    ...usb(host),
    ...scheduling(host),
    ...fileModes(host),
    ...(host.isPi ? piBoot(host) : grub(host, context)),
    // Its baseline is what is there now: nothing behind it changes anything.
    ...aide(host),
    theft(host, context),
  ]
})

// From this page alone nobody knows how the person who runs it is connected: any login over IPv6 counts.
const overIpv6 = sh`ss --no-header --tcp --numeric --processes state established |
  grep sshd | grep --invert-match --fixed-strings ::ffff: | grep --fixed-strings '['`
const inContainer = sh`systemd-detect-virt --quiet --container` // its kernel is not ours, and the controls say so

// What is rolled back has to be read again by the daemon that serves logins.
const sshTransaction: Transaction = {
  kind: 'ssh',
  restart: [{ unit: 'ssh.service', path: '/etc/ssh/', how: 'reload' }],
}
const pamTransaction: Transaction = { kind: 'pam' }
const sudoTransaction: Transaction = { kind: 'sudo' }

/** What only a person can do. The steps behind it close accesses that are open now. */
function prerequisites(host: Host, { env, machine, site }: Context): Step[] {
  const { user, controls } = host
  const { hostKeys, name, via } = machine
  return [
    {
      name: 'you log in as an ordinary user, not as root',
      why: 'root will not be let in any more',
      check: sh`! grep --line-regexp root <<< ${user} > /dev/null`,
      help: 'make a user who may use sudo, and name it in FK_HOST: adduser ada && adduser ada sudo; FK_HOST=ada@192.0.2.10',
    },
    {
      name: 'your authorized_keys has an Ed25519 key, or an RSA key from 3072 bits',
      why: 'passwords stop working; Ed25519 keys, and RSA keys from 3072 bits, go on',
      check: sh`IFS=: read -r _ _ _ _ _ home _ < <(getent passwd ${user}) &&
        { ssh-keygen -l -f "$home/.ssh/authorized_keys" || true; } | # it may be missing, or hold no key
          awk '/\(ED25519(-SK)?\)$/ || (/\(RSA\)$/ && $1 >= 3072) { ok = 1 } END { exit !ok }'`,
      help: `from your laptop: ssh-keygen -t ed25519 && ssh-copy-id -i ~/.ssh/id_ed25519.pub ${user}@HOST`,
    },
    ...(hostKeys === undefined ? [] : [provenLater(hostKeys, `${site.name}.${name}`, env.FK_KNOWN_HOSTS)]),
    {
      name: 'your account may use sudo, and has a password',
      why: 'sudo is the only way to root, and a stolen key alone must not be enough',
      // What a program over SSH runs there; a rule for all commands can be written in many ways.
      check: sh`sudo --list --other-user=${user} timeout 1 bash > /dev/null &&
        read -r _ state _ < <(passwd --status ${user}) && [ "$state" = P ]`,
      help: `as root: adduser ${user} sudo; passwd ${user}`,
    },
    {
      name: 'no sudoers file has NOPASSWD or !authenticate',
      check: sh`none_of sudo_passwordless || {
        code=$?
        grep --recursive --extended-regexp '^[^#]*(NOPASSWD|!authenticate)' /etc/sudoers* || true # it may lie elsewhere
        exit "$code"
      }`,
      help: 'sudo passwd USER, then remove the line named above; cloud images and Raspberry Pi OS come with one',
    },
    {
      name: 'your password is younger than eleven months',
      why: 'passwords will last a year, and sudo refuses one that ran out',
      check: sh`getent shadow ${user} | awk -F : -v today="$((EPOCHSECONDS / 86400))" '{ exit today - $3 > 335 }'`,
      help: `as ${user}: passwd`,
    },
    {
      name: 'your SSH connection does not depend on IPv6 autoconfiguration',
      why: 'the host will learn no IPv6 addresses and routes from its network any more',
      check: sh`[ -z "$(ip -6 route show default proto ra)" ] || ${via === '' ? overIpv6 : sh`echo ${via} | grep :`} > /dev/null`,
      help: 'log in over IPv4, or give the host a fixed IPv6 address and route',
    },
    {
      name: 'no server software is installed that the host does not need',
      check: asked(controls('servers')),
      help: 'this becomes a hypervisor and nothing else: apt-get purge what is named above, or take another machine',
      controls: controls('servers'),
    },
    accepted(site, name, 'what this page stops, and who cannot log in any more, is accepted', [
      ...(host.forwards ? [] : [['affected_forwarding', ...host.own], ['affected_routes']]),
      ['affected_units', ...idle, '+', ...host.packages.unwanted],
      ['affected_logins', host.group, user, ...admins(site).map((one) => one.name)],
    ]),
  ]
}

/** `pinned`: the host keys by which the laptop knows the machine, which is `alias` in `file`. */
const provenLater = (pinned: string[], alias: string, file: string): Step => ({
  name: 'sshd will still show a host key that your laptop has pinned',
  why: 'it goes on with its Ed25519 and RSA keys, without ECDSA and certificates',
  check: sh`sshd_will_show ${pinned.length > 0 ? pinned : 'nothing but an authority'}`,
  help: `the key above has come over a connection that is proven: add it to ${file}, as\n${alias} ssh-ed25519 AAAA…`,
})

/** Packages that come and go, and how they are kept up to date. */
function software({ controls, packages: { watchers, unwanted } }: Host): Step[] {
  const install = packages(watchers, {
    name: 'monitoring and audit packages are installed',
    controls: controls('packages'),
    seconds: 1800,
  })
  return [
    {
      ...install,
      check: sh`package_present ${watchers}`,
      apply: [
        // Without rules it would block every device as soon as it is installed.
        sh`[ -e /etc/usbguard/rules.conf ] || systemctl --quiet mask usbguard.service`,
        ...install.apply,
      ],
      // Installing one time service removes the other: what the distribution came with returns.
      undo: [
        sh`LC_ALL=C comm -23 "$FK_STATE/pages/$FK_PAGE/origin/packages" <(
            dpkg-query --show --showformat='\${Package}:\${Architecture} \${db:Status-Abbrev}\n' |
              awk '$2 ~ /^i/ { print $1 }' | LC_ALL=C sort) |
          xargs --no-run-if-empty bash -c 'apt_get --no-install-recommends install "$@"' bash`,
      ],
    },
    {
      name: 'packages for telemetry, clear-text protocols and automatic mounting are removed',
      check: sh`package_absent ${unwanted}`,
      apply: [
        sh`dpkg-query --show --showformat='\${Package}\n' ${unwanted} 2> /dev/null |
          xargs bash -c 'apt_get purge "$@"' bash`,
      ],
      seconds: 900,
      controls: controls('unwanted'),
    },
    file('/etc/apt/apt.conf.d/99-fortress', {
      from: 'config/host/apt.conf',
      name: 'APT verifies signatures, installs no recommended packages, and updates every day',
      test: sh`APT_CONFIG="$new" apt-config dump > /dev/null`,
      controls: controls('updates'),
    }),
    configured(
      '/etc/needrestart/conf.d/60-fortress.conf',
      'needrestart.conf',
      'needrestart lists services and restarts none',
    ),
    configured('/etc/default/debsums', 'debsums', 'debsums compares the files of packages every week'),
  ]
}

/** Sysctls, and the modules that are blocked. */
function kernel({ controls, values }: Host): Step[] {
  return [
    unit('sysctl-reapply-network.service', 'sysctls are applied again when interfaces come up'),
    file('/etc/sysctl.d/99-zz-fortress.conf', {
      from: 'config/host/sysctl.conf',
      values: values.sysctl,
      name: 'kernel and network sysctls are hardened',
      then: [sh`/usr/lib/systemd/systemd-sysctl /etc/sysctl.d/99-zz-fortress.conf || ${inContainer}`],
      controls: [...controls('kernel'), ...controls('network')],
    }),
    file('/etc/sysctl.d/99-zz-fortress-forwarding.conf', {
      from: 'config/host/forwarding.conf',
      values: values.forwarding,
      name: "IP forwarding serves only the host's own virtual machines",
      then: [
        sh`/usr/lib/systemd/systemd-sysctl /etc/sysctl.d/99-zz-fortress-forwarding.conf`,
        // Forwarding resets other keys.
        sh`/usr/lib/systemd/systemd-sysctl /etc/sysctl.d/99-zz-fortress.conf || ${inContainer}`,
      ],
      controls: controls('forwarding'),
    }),
    file('/etc/modprobe.d/60-fortress.conf', {
      from: 'config/host/modprobe.conf',
      values: values.modprobe,
      name: 'kernel modules that a server has no use for are blocked',
      controls: controls('modules'),
    }),
  ]
}

/** Mount options. */
function mounts({ controls }: Host): Step[] {
  const shm = 'tmpfs /dev/shm tmpfs rw,nodev,nosuid,noexec 0 0'
  return [
    unit('tmp.mount', '/tmp is a tmpfs from the next boot on'),
    file('/usr/local/libexec/fortress-mounts', {
      from: 'config/host/mounts.sh',
      mode: '755',
      name: 'noexec/nosuid mount options are set, directory by directory',
      test: sh`sh -n "$new"`,
    }),
    {
      name: '/etc/fstab mounts /dev/shm with nodev, nosuid and noexec',
      why: 'systemd mounts it before any unit of ours; here it reads with which options, and so do people and scanners',
      check: sh`put_finished /etc/fstab && test "$(shm_lines /etc/fstab)" = ${shm}`,
      apply: [
        sh`{ [ ! -e /etc/fstab ] || awk '$2 != "/dev/shm"' /etc/fstab; echo ${shm}; } |
          put /etc/fstab 644 root:root 'findmnt --verify --tab-file "$new" > /dev/null'`,
        sh`systemctl daemon-reload`,
        sh`put_finish /etc/fstab`,
      ],
    },
    {
      ...unit('fortress-mounts.service', 'noexec/nosuid mount options are set at every boot'),
      why: 'what somebody writes to /tmp, to a log or to shared memory must not be started from there',
    },
    {
      name: 'noexec/nosuid mount options are active',
      check: sh`unit_is active fortress-mounts`,
      apply: [
        sh`install --directory --mode=700 /var/log/audit`,
        sh`systemctl restart fortress-mounts.service`,
        sh`! mountpoint --quiet /tmp || mount --options remount,nodev,nosuid,noexec /tmp`,
      ],
      undo: [
        sh`! mountpoint --quiet /tmp || mount --options remount,nodev,nosuid,exec /tmp`,
        sh`systemctl stop fortress-mounts.service`,
      ],
      controls: controls('mounts'),
    },
  ]
}

/** Swap and core dumps: where a copy of memory could reach a disk. */
function memory({ controls }: Host): Step[] {
  return [
    {
      name: 'no unencrypted swap is in use',
      why: 'what is in memory, keys included, would still be readable there when the host is off',
      check: sh`[ -z "$(clear_swaps)" ]`,
      apply: [
        sh`clear_swaps | xargs --no-run-if-empty swapoff`,
        sh`systemctl --quiet mask swap.target`,
        sh`[ ! -e /etc/dphys-swapfile ] || systemctl --quiet disable dphys-swapfile.service`,
      ],
      undo: [sh`systemctl --quiet unmask swap.target && swapon --all`],
      controls: controls('swap'),
    },
    configured(
      '/etc/security/limits.d/10-coredump-debian.conf',
      'limits.conf',
      "core dumps are off for every login, root's too",
    ),
    configured(
      '/etc/systemd/coredump.conf.d/60-fortress.conf',
      'systemd/coredump.conf',
      'systemd-coredump stores no core dump',
    ),
    file('/etc/systemd/system.conf.d/60-fortress.conf', {
      from: 'config/host/systemd/manager.conf',
      name: 'core dumps are off for every service',
      why: 'a copy of memory holds keys and passwords',
      then: [sh`systemctl daemon-reexec`],
      controls: controls('coredumps'),
    }),
  ]
}

/** Who has an account, and for how long. */
function accounts({ user, group, controls }: Host): Step[] {
  return [
    {
      name: `only members of the group ${group} may log in, and you are one`,
      check: sh`[[ " $(id --name --groups ${user}) " == *${` ${group} `}* ]] && getent group sugroup > /dev/null`,
      apply: [
        sh`for name in ${group} sugroup; do getent group "$name" > /dev/null || groupadd --system "$name"; done`,
        sh`usermod --append --groups ${group} ${user}`,
      ],
    },
    {
      name: 'system accounts and root are locked, and home directories are private',
      check: sh`none_of system_shells && none_of open_homes && passwd --status root | grep '^root L' > /dev/null`,
      apply: [
        sh`system_shells | xargs --no-run-if-empty --max-args=1 usermod --shell /usr/sbin/nologin`,
        sh`open_homes | while IFS= read -r path; do record_before --meta "$path"; chmod g-w,o-rwx "$path"; done`,
        sh`passwd --quiet --lock root`,
      ],
      controls: controls('accounts'),
    },
    configured('/etc/default/useradd', 'useradd', 'inactive accounts are disabled'),
    configured(
      '/etc/login.defs',
      'login.defs',
      'login.defs gives new accounts a private umask, and passwords that last a year',
    ),
    {
      name: 'passwords expire after a year, and administrators are never disabled as inactive',
      why: 'who comes with a key must not be refused because a password became old',
      check: sh`none_of endless_passwords`,
      apply: [
        sh`endless_passwords | xargs --no-run-if-empty --max-args=1 chage --mindays 1 --maxdays 365 --warndays 7`,
        sh`getent group ${group} | cut --delimiter=: --fields=4 | tr , '\n' |
          xargs --no-run-if-empty --max-args=1 chage --inactive -1`,
      ],
      controls: controls('ageing'),
    },
  ]
}

/** People of the site who have keys there, and administer it. */
const admins = ({ people }: Site): Person[] =>
  people.filter(
    ({ roles, ssh_keys: keys = [] }) =>
      keys.length > 0 && roles.some((role) => role === 'owner' || role === 'admin'),
  )

/** Accounts of the people of the site who have keys there, beside the one who runs this page. */
function people({ user, group }: Host, site: Site): Step[] {
  const all = admins(site)
  return [
    ...all.filter(({ name }) => name !== user).flatMap((admin) => accountOf(admin, group)),
    formerAdmins([user, ...all.map(({ name }) => name)]),
  ]
}

/** Which accounts this page has made. Not in their homes, where they could change it. */
const accountsDir = '/var/lib/fortress/accounts'

/** One account: its groups, and the keys of the document. */
function accountOf({ name, ssh_keys: keys = [] }: Person, group: string): Step[] {
  const [home, made] = [`/home/${name}`, `${accountsDir}/${name}`]
  const ssh = `${home}/.ssh`
  return [
    {
      name: `${name} has an account that may log in over SSH and use sudo`,
      why: `a second person can mend the machine; sudo asks for a password, which you set by hand: sudo passwd ${name}`,
      check: sh`id --name --groups ${name} | tr ' ' '\n' | sort | LC_ALL=C comm -12 - <(printf '%s\n' ${group} sudo | sort) |
          cmp - <(printf '%s\n' ${group} sudo | sort) &&
        test "$(stat --format='%a %U' ${ssh})" = ${`700 ${name}`}`,
      apply: [
        sh`getent passwd ${name} > /dev/null ||
          { useradd --create-home --home-dir ${home} --shell /bin/bash ${name} && install -D /dev/null ${made}; }`,
        sh`usermod --append --groups ${`${group},sudo`} --expiredate '' ${name} && chage --inactive -1 ${name}`,
        sh`install --directory --mode=700 --owner=${name} --group="$(id --group ${name})" ${ssh}`,
      ],
      // The account goes with /etc/passwd, and a home that was made here too, unless somebody has put something there.
      undo: [
        sh`
          if [ -e ${made} ]; then
            if find ${home} -mindepth 1 ! -path ${`${ssh}*`} ! -name '.bash*' ! -name .profile | grep . > /dev/null; then
              chown --recursive root:root ${home} && chmod 700 ${home}
            else
              rm --recursive ${home}
            fi
            rm ${made} && rmdir --ignore-fail-on-non-empty ${accountsDir}
          fi`,
      ],
    },
    file(`${ssh}/authorized_keys`, {
      text: `# The keys of the site document.\n${keys.join('\n')}\n`,
      mode: '600',
      owner: `${name}:${name}`,
      test: sh`ssh-keygen -l -f "$new"`,
      name: `${name} logs in with the SSH keys of the site`,
    }),
  ]
}

/** Who leaves the document must not keep a key and sudo. `stay`: who may, the one who runs this page among them. */
function formerAdmins(stay: string[]): Step {
  const former = sh`
    find ${accountsDir} -mindepth 1 -maxdepth 1 -printf '%f\n' 2> /dev/null |
      grep --invert-match --line-regexp --fixed-strings ${stay.flatMap((name) => ['-e', name])} |
      while IFS= read -r name; do getent shadow "$name"; done | awk -F : '$8 != 1 { print $1 }'`
  return {
    name: 'accounts of admins who are no longer in the site document are locked',
    why: 'only accounts that this page has made; what is in their homes stays',
    check: sh`[ ! -d ${accountsDir} ] || [ -z "$(${former})" ]`,
    apply: [
      sh`${former} | while IFS= read -r name; do
        usermod --lock --expiredate 1 --groups '' "$name"
        ! loginctl show-user "$name" > /dev/null 2>&1 || loginctl terminate-user "$name"
      done`,
    ],
  }
}

/** What a login session is like: idle timeouts, umask, banners. */
function sessions({ controls }: Host): Step[] {
  return [
    file('/etc/systemd/logind.conf.d/60-fortress.conf', {
      from: 'config/host/systemd/logind.conf',
      name: 'logind ends idle sessions',
      then: [sh`systemctl reload systemd-logind.service`],
    }),
    configured('/etc/bash.bashrc', 'bash.bashrc', 'interactive shells have the umask 027'),
    configured(
      '/etc/profile.d/60-fortress.sh',
      'profile.sh',
      'login shells have the umask 027, and end when idle (TMOUT)',
    ),
    configured('/etc/issue', 'issue', 'the console shows a warning banner'),
    configured('/etc/motd', 'issue', 'every session begins with a warning banner'),
    {
      ...configured('/etc/issue.net', 'issue', 'SSH shows a warning banner that names no system'),
      controls: controls('banners'),
    },
  ]
}

/** The SSH server. */
function sshd({ controls, values }: Host): Step[] {
  return [
    file('/etc/ssh/revoked_keys', {
      text: '# Public keys that are refused whatever authorized_keys says, one a line.\n',
      transaction: sshTransaction,
      name: 'sshd has a list of revoked keys',
    }),
    {
      name: 'sshd keeps the ports that it listens at',
      why: 'the file below replaces the one that may name them; drop-ins stay',
      transaction: sshTransaction,
      check: sh`sshd_keeps_ports`,
      apply: [
        sh`sshd_ports | sed 's/^/Port /' | put /etc/ssh/sshd_config.d/10-fortress-port.conf 600 root:root`,
        sh`put_finish /etc/ssh/sshd_config.d/10-fortress-port.conf`,
      ],
    },
    file('/etc/ssh/sshd_config', {
      from: 'config/host/sshd_config',
      values: values.sshd,
      mode: '600',
      transaction: sshTransaction,
      name: 'sshd accepts only public keys, of one group',
      test: sh`sshd -t -f "$new"`,
      // Not reload: where ssh.socket listens, sshd could not open its port again. Sessions live on.
      // Nor one start too many: systemd would refuse it.
      then: [sh`systemctl reset-failed ssh.service && systemctl try-restart ssh.service`],
      controls: controls('ssh'),
    }),
  ]
}

/** Passwords: how many tries, which are good, and what PAM does with them. */
function pam({ controls }: Host): Step[] {
  const profiles = ['unix', 'faillock', 'faillock-ask', 'delay', 'pwhistory', 'umask'].map(
    (name) => `fortress-${name}`,
  )
  return [
    {
      ...configured(
        '/etc/security/faillock.conf',
        'faillock.conf',
        'faillock locks an account for a while after four wrong passwords',
      ),
      transaction: pamTransaction,
    },
    {
      ...configured(
        '/etc/security/pwquality.conf',
        'pwquality.conf',
        'pwquality demands long, mixed passwords',
      ),
      transaction: pamTransaction,
    },
    ...profiles.map((name) => ({
      ...configured(`/usr/share/pam-configs/${name}`, `pam/${name}`, `the PAM profile ${name} is available`),
      transaction: pamTransaction,
    })),
    {
      name: 'PAM counts wrong passwords, and refuses empty and old ones',
      why: 'pam-auth-update builds common-* from profiles; a line written there by hand would be lost, or stop it for good',
      transaction: pamTransaction,
      check: sh`grep pam_faillock.so /etc/pam.d/common-account > /dev/null &&
        grep umask=027 /etc/pam.d/common-session > /dev/null &&
        ! grep nullok /etc/pam.d/common-* > /dev/null`,
      apply: [
        sh`record_before /var/lib/pam; DEBIAN_FRONTEND=noninteractive pam-auth-update --enable ${profiles} pwquality`,
      ],
      controls: controls('shells'),
    },
    {
      ...configured('/etc/pam.d/su', 'su.pam', 'su is root-only'),
      transaction: pamTransaction,
      controls: controls('passwords'),
    },
  ]
}

function sudo({ controls }: Host): Step[] {
  return [
    file('/etc/sudoers.d/60-fortress', {
      from: 'config/host/sudoers',
      mode: '440',
      transaction: sudoTransaction,
      name: 'sudo asks for the password, and logs every command',
      test: sh`visudo --check --quiet --file="$new"`,
      controls: controls('sudo'),
    }),
    file('/etc/logrotate.d/fortress-sudo', {
      from: 'config/host/logrotate',
      name: 'sudo.log is rotated every month, and kept for a year',
      test: sh`logrotate --debug --state /dev/null "$new"`,
      controls: controls('sudo-log'),
    }),
  ]
}

/** auditd and its rules. */
function audit({ controls, auditRules }: Host): Step[] {
  return [
    file('/etc/audit/auditd.conf', {
      from: 'config/host/audit/auditd.conf',
      mode: '640',
      name: 'auditd keeps its logs',
      then: [sh`systemctl kill --signal=HUP auditd.service || ${inContainer}`],
      controls: controls('auditd'),
    }),
    file('/etc/audit/rules.d/10-start.rules', {
      from: 'config/host/audit/10-start.rules',
      mode: '600',
      name: 'a faulty audit rule does not stop the others from loading',
    }),
    file('/etc/audit/rules.d/30-fortress.rules', {
      from: `config/host/audit/${auditRules}`,
      mode: '600',
      name: 'audit rules for identity, access, time, modules and mounts are loaded',
      then: [
        sh`chmod 600 /etc/audit/rules.d/*.rules && { augenrules --load > /dev/null || ${inContainer}; }`,
      ],
      controls: controls('audit'),
    }),
    {
      name: 'audit rules for every setuid and setgid program are loaded',
      why: 'which there are differs between machines: the list is made there, and made again when it changes',
      check: sh`put_finished /etc/audit/rules.d/40-privileged.rules && fact walk walk &&
        diff <(privileged_rules <<< "$FK_FACT") /etc/audit/rules.d/40-privileged.rules > /dev/null`,
      apply: [
        sh`walk | privileged_rules | put /etc/audit/rules.d/40-privileged.rules 600 root:root`,
        sh`augenrules --load > /dev/null || ${inContainer}`,
        sh`put_finish /etc/audit/rules.d/40-privileged.rules`,
      ],
      controls: controls('audit-privileged'),
    },
  ]
}

function logsAndTime({ controls, values }: Host, { site: { timezone } }: Context): Step[] {
  return [
    configured(
      '/etc/sysstat/sysstat',
      'sysstat',
      'sysstat keeps its records for a week, unreadable for others',
    ),
    file('/etc/systemd/journald.conf', {
      from: 'config/host/systemd/journald.conf',
      name: 'the journal survives a reboot, never fills the disk, and is private',
      then: [
        sh`install --directory /etc/systemd/journald.conf.d &&
          ln --symbolic --force /dev/null /etc/systemd/journald.conf.d/syslog.conf`,
        sh`record_before --meta /var/log/journal
          install --directory --mode=2755 --group=systemd-journal /var/log/journal`,
        sh`systemctl restart systemd-journald.service`,
        sh`open_logs | while IFS= read -r path; do record_before --meta "$path"; chmod u-x,g-wx,o-rwx "$path"; done`,
        sh`systemctl --quiet enable sysstat.service acct.service`,
      ],
      controls: controls('logs'),
    }),
    file('/etc/chrony/chrony.conf', {
      from: 'config/host/chrony.conf',
      values: values.chrony,
      name: 'chrony follows time servers that prove who they are (NTS)',
      test: sh`chronyd -p -f "$new" > /dev/null`,
      then: [sh`systemctl restart chrony.service || ${inContainer}`],
      controls: controls('time'),
    }),
    {
      name: `time zone is ${timezone}`,
      why: 'times in the logs of all machines can be compared',
      check: sh`[ /etc/localtime -ef /usr/share/zoneinfo/${timezone} ]`,
      apply: [sh`ln --symbolic --force --no-dereference /usr/share/zoneinfo/${timezone} /etc/localtime`],
    },
  ]
}

/** Units that a host has no use for. */
const idle = [
  'bluetooth.service',
  'ModemManager.service',
  'avahi-daemon.*',
  'cups*',
  'rpcbind.*',
  'kdump-tools.service',
]

/** AppArmor, and the units that are off. */
function services({ controls, slackProfiles }: Host): Step[] {
  const generator = '/etc/systemd/system-generators/systemd-ssh-generator'
  return [
    {
      name: 'every loaded AppArmor profile is enforced',
      why: 'a profile that only complains, or confines nothing, hides the ones that matter',
      check: sh`[ -z "$(slack_profiles ${slackProfiles})" ]`,
      apply: [
        sh`slack_profiles ${slackProfiles} | while IFS= read -r path; do
          ln --symbolic --force "$path" /etc/apparmor.d/disable/
          apparmor_parser --remove "$path" 2> /dev/null || true # it may not be loaded
        done`,
      ],
      controls: controls('confinement'),
    },
    {
      name: 'Ctrl-Alt-Del, the debug shell, the sockets of systemd-ssh-generator and radios are off',
      check: sh`unit_is masked ctrl-alt-del.target debug-shell && [ -L ${generator} ]`,
      apply: [
        sh`systemctl --quiet mask ctrl-alt-del.target debug-shell.service`,
        sh`install --directory /etc/systemd/system-generators && ln --symbolic --force /dev/null ${generator}`,
        sh`systemctl daemon-reload && systemctl stop 'sshd-vsock*' 'sshd-unix*'`,
        sh`systemctl list-unit-files --no-legend ${idle} |
          awk '$2 == "enabled" { print $1 }' | xargs --no-run-if-empty systemctl --quiet disable --now`,
        sh`[ ! -d /etc/cloud ] || touch /etc/cloud/cloud-init.disabled`,
      ],
      controls: controls('services'),
    },
  ]
}

/** Which USB devices the kernel speaks to. */
function usb({ controls, usbRules }: Host): Step[] {
  return [
    configured(
      '/etc/systemd/system/usbguard.service.d/60-fortress.conf',
      'systemd/usbguard.conf',
      'USBGuard starts only on a machine that has USB',
    ),
    configured(
      '/etc/usbguard/usbguard-daemon.conf',
      'usbguard.conf',
      'USBGuard blocks every device that no rule names',
      '600',
    ),
    {
      name: 'USBGuard allows what is plugged in now, and refuses unknown devices',
      why: 'a stick can be a keyboard that types; disks and one keyboard may still come',
      check: sh`put_finished /etc/usbguard/rules.conf &&
        grep --fixed-strings '!allowed-matches' /etc/usbguard/rules.conf > /dev/null &&
        [ "$(systemctl is-enabled usbguard.service)" = enabled ]`,
      apply: [
        sh`{ [ ! -d /sys/bus/usb/devices ] || usbguard generate-policy; printf '%s\n' ${usbRules}; } |
          put /etc/usbguard/rules.conf 600 root:root`,
        sh`systemctl --quiet unmask usbguard.service && systemctl daemon-reload &&
          systemctl --quiet enable usbguard.service`,
        sh`systemctl restart usbguard.service || ${inContainer}`,
        sh`put_finish /etc/usbguard/rules.conf`,
      ],
      controls: controls('usb'),
    },
  ]
}

/** cron and at. */
function scheduling({ controls }: Host): Step[] {
  return [
    file('/etc/at.allow', {
      text: 'root\n',
      mode: '600',
      name: 'at is root-only',
      then: [sh`rm --force /etc/at.deny`],
    }),
    file('/etc/cron.allow', {
      text: 'root\n',
      mode: '600',
      name: 'cron is root-only',
      then: [sh`rm --force /etc/cron.deny`],
      controls: controls('cron'),
    }),
  ]
}

function fileModes({ controls }: Host): Step[] {
  return [
    configured(
      '/etc/systemd/system/fortress-modes.service',
      'systemd/fortress-modes.service',
      'a service that sets file modes is installed',
    ),
    unit(
      'fortress-modes.path',
      'file modes that other tools change are set back at once',
      controls('modes-kept'),
    ),
    file('/etc/tmpfiles.d/fortress.conf', {
      from: 'config/host/tmpfiles.conf',
      name: 'file modes let only root read keys, password hashes and rules',
      then: [
        sh`for path in /boot/grub /boot/grub/grub.cfg /root /var/log/audit; do record_before --meta "$path"; done`,
        sh`systemd-tmpfiles --create /etc/tmpfiles.d/fortress.conf`,
      ],
      controls: controls('modes'),
    }),
  ]
}

/** As a package does that wants one: what asks for it is gone after the next start. */
const asksForReboot = sh`touch /run/reboot-required && echo kernel-arguments >> /run/reboot-required.pkgs`

/** A Raspberry Pi: the firmware starts the kernel, and its arguments are one line in one file. */
function piBoot({ controls, piArguments }: Host): Step[] {
  return [
    {
      name: 'kernel arguments for audit and wiped memory are set',
      check: sh`for word in ${piArguments}; do
          grep --word-regexp --fixed-strings -e "$word" /boot/firmware/cmdline.txt > /dev/null || exit 1
        done`,
      // The firmware reads no drop-ins: what is missing joins the line.
      apply: [
        sh`
          record_before /boot/firmware/cmdline.txt
          line=$(grep --max-count=1 '[^[:space:]]' /boot/firmware/cmdline.txt)
          case " $line " in *' root='*) ;; *) echo 'the first line of cmdline.txt has no root=' >&2; exit 1 ;; esac
          for word in ${piArguments}; do case " $line " in *" $word "*) ;; *) line+=" $word" ;; esac; done
          printf '%s\n' "$line" > /boot/firmware/cmdline.new
          sync /boot/firmware/cmdline.new && mv /boot/firmware/cmdline.new /boot/firmware/cmdline.txt`,
        asksForReboot,
      ],
      controls: [...controls('boot'), ...controls('boot-password')],
    },
  ]
}

/** GRUB: kernel arguments, and a password for whoever changes them at its menu. */
function grub({ controls }: Host, { machine, secrets }: Context): Step[] {
  return [
    configured(
      '/etc/default/grub.d/60-fortress.cfg',
      'grub.cfg',
      'GRUB has kernel arguments for audit, lockdown and wiped memory',
    ),
    file('/etc/grub.d/09_fortress_linux', {
      from: 'config/host/grub-linux.sh',
      mode: '755',
      name: 'GRUB starts the host without a password',
      then: [sh`[ ! -e /etc/grub.d/10_linux ] || chmod a-x /etc/grub.d/10_linux`],
    }),
    {
      name: 'GRUB has a password for changes at its menu',
      why: 'a line typed at the menu of the boot loader is a root shell',
      check: sh`! command -v grub-mkpasswd-pbkdf2 > /dev/null ||
        grep password_pbkdf2 /etc/grub.d/01_fortress > /dev/null 2>&1`,
      apply: [
        feed(secrets(`${machine.name}-boot-password`, makePassphrase))`
          password=$(cat)
          hash=$(printf '%s\n%s\n' "$password" "$password" |
            grub-mkpasswd-pbkdf2 --iteration-count=100000 | awk '/grub\.pbkdf2\.sha512/ { print $NF }')
          printf '%s\n' '#!/bin/sh' 'echo "set superusers=root"' "echo password_pbkdf2 root $hash" |
            put /etc/grub.d/01_fortress 700 root:root
          put_finish /etc/grub.d/01_fortress`,
      ],
    },
    {
      name: 'grub.cfg is generated with the kernel arguments and the password',
      check: sh`[ ! -e /boot/grub/grub.cfg ] || {
          [ /boot/grub/grub.cfg -nt /etc/default/grub.d/60-fortress.cfg ] &&
            [ /boot/grub/grub.cfg -nt /etc/grub.d/01_fortress ]
        }`,
      apply: [
        sh`
          record_before /boot/grub/grub.cfg
          grub-mkconfig --output=/boot/grub/fortress.new 2> /dev/null
          # An entry that asks for a password at a plain start would leave a host without a keyboard at its menu.
          [ "$(grep --count '^menuentry .*--unrestricted' /boot/grub/fortress.new)" -ge 1 ]
          [ -z "$(grep 'menuentry .*gnu-linux' /boot/grub/fortress.new | grep --invert-match -e --unrestricted)" ]
          chmod 600 /boot/grub/fortress.new
          sync /boot/grub/fortress.new && mv /boot/grub/fortress.new /boot/grub/grub.cfg`,
        asksForReboot,
      ],
      controls: [...controls('boot'), ...controls('boot-password')],
    },
  ]
}

/** What the firmware and the installer have decided. A site may live without it for a time, and says so. */
function theft({ controls }: Host, { machine: { name }, site }: Context): Demand {
  return {
    name: 'a thief of the machine finds an encrypted disk, Secure Boot and current microcode',
    why: 'on a clear disk lie the virtual machines, the keys of their cluster and its etcd, for whoever takes it',
    check: sh`true`,
    help: `encrypt the disk when you install the system; switch on Secure Boot in the firmware setup; add non-free-firmware
to the sources of apt. Or live without it for a time, under accepted: in config/sites/${site.name}.yaml:
{ what: 'control:${name}:ID', why: …, until: 2027-05-31 }, with the ID that failed`,
    person: {},
    controls: controls('theft'),
  }
}

/** The file integrity database. */
function aide({ controls }: Host): Step[] {
  return [
    configured(
      '/etc/systemd/system/aidecheck.service',
      'systemd/aidecheck.service',
      'the AIDE check service is installed',
    ),
    file('/etc/aide/aide.conf', {
      from: 'config/host/aide.conf',
      name: 'AIDE is configured',
      test: sh`aide --config "$new" --config-check`,
      then: [sh`systemctl daemon-reload && systemctl --quiet enable aidecheck.service`],
    }),
    {
      name: 'AIDE baseline exists',
      check: sh`[ -s /var/lib/aide/aide.db ]`,
      apply: [
        sh`install --directory --mode=700 /var/lib/aide /var/log/aide; record_before /var/lib/aide/aide.db`,
        sh`aide --config /etc/aide/aide.conf --init > /dev/null && mv /var/lib/aide/aide.db.new /var/lib/aide/aide.db`,
      ],
      seconds: 3600,
    },
    unit('aidecheck.timer', 'AIDE compares the files with its baseline every night', controls('integrity')),
    {
      name: 'no file is without an owner, and none is world-writable',
      check: asked(controls('files')),
      help: 'look at each file that is named above: give it an owner, take the right from it, or remove it',
      controls: controls('files'),
    },
  ]
}

/** A whole file that needs no more than to be there. */
function configured(path: string, from: string, name: string, mode = '644') {
  return file(path, { from: `config/host/${from}`, name, mode })
}

/** A unit that is on from now on. */
function unit(name: string, fact: string, controls: Parameters<typeof file>[1]['controls'] = []) {
  return file(`/etc/systemd/system/${name}`, {
    from: `config/host/systemd/${name}`,
    name: fact,
    then: [
      sh`systemctl daemon-reload`,
      sh`systemctl --quiet enable ${name}`,
      ...(/\.(path|timer)$/.test(name) ? [sh`systemctl restart ${name}`] : []),
    ],
    controls,
  })
}
