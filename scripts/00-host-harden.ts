// A host that answers only to its owner.
//
// Needs   Debian 13, Ubuntu 24.04 or Raspberry Pi OS 64-bit; you log in as an ordinary user with a key and a sudo password.
// Leaves  whole files, each named below; none of the distribution's is edited in place. Where a program reads one file
//         and no drop-ins, that file is ours from the first line to the last, and undo brings the old one back. Of /etc/fstab
//         only the line of /dev/shm is ours.
// Then    restart the host once: what its kernel is started with holds from then on, and verify says what waits for it.
//
// config/host/controls.yaml has what becomes true, one requirement at a time; config/host/waivers.yaml what does not, and why.
import { file } from '../lib/engine/file.ts'
import { makePassphrase } from '../lib/ground/keys.ts'
import { feed, sh } from '../lib/ground/sh.ts'
import { asked, controlShell } from '../lib/host/controls.ts'
import { hostOf } from '../lib/host/host.ts'
import { script } from '../lib/script.ts'

export default script(import.meta, { layer: 'L0', on: 'host', library: controlShell() }, (context) => {
  const { user, group, isPi, controls, packages, piArguments, values, usbRules, auditRules, slackProfiles } =
    hostOf(context)
  const { machine, secrets } = context
  const install = sh`env DEBIAN_FRONTEND=noninteractive apt-get --quiet=2 --yes --no-install-recommends install`
  const inContainer = sh`systemd-detect-virt --quiet --container` // its kernel is not ours, and the controls say so
  const shm = 'tmpfs /dev/shm tmpfs rw,nodev,nosuid,noexec 0 0'
  const pam = ['unix', 'faillock', 'faillock-ask', 'delay', 'pwhistory', 'umask'].map(
    (name) => `fortress-${name}`,
  )

  return [
    // What only you can do. Everything after this closes doors.
    {
      name: 'you log in as an ordinary user',
      why: 'root will not be let in any more',
      check: sh`! echo ${user} | grep --line-regexp root > /dev/null`,
      help: 'make a user who may use sudo, and name it in FK_HOST: adduser ada && adduser ada sudo; FK_HOST=ada@192.0.2.10',
    },
    {
      name: 'you have a key that stays accepted',
      why: 'passwords stop working; Ed25519 keys, and RSA keys from 3072 bits, go on',
      check: sh`{ ssh-keygen -l -f "$(getent passwd ${user} | cut --delimiter=: --fields=6)/.ssh/authorized_keys" || true; } | awk '/\(ED25519(-SK)?\)$/ || (/\(RSA\)$/ && $1 >= 3072) { ok = 1 } END { exit !ok }'`,
      help: `from your laptop: ssh-keygen -t ed25519 && ssh-copy-id -i ~/.ssh/id_ed25519.pub ${user}@HOST`,
    },
    {
      name: 'you can use sudo, with a password',
      why: 'sudo is the only way to root, and a stolen key alone must not be enough',
      check: sh`sudo --list --other-user=${user} | grep --extended-regexp '\(ALL( : ALL)?\) ALL' > /dev/null && passwd --status ${user} | awk '$2 != "P" { exit 1 }'`,
      help: `as root: adduser ${user} sudo; passwd ${user}`,
    },
    {
      name: 'sudo lets nobody in without a password',
      check: sh`! grep --recursive --extended-regexp '^[^#]*(NOPASSWD|!authenticate)' /etc/sudoers /etc/sudoers.d`,
      help: 'sudo passwd USER, then remove the line named above; cloud images and Raspberry Pi OS come with one',
    },
    {
      name: 'your password is younger than eleven months',
      why: 'passwords will last a year, and sudo refuses one that ran out',
      check: sh`getent shadow ${user} | awk -F : -v today="$(($(date +%s) / 86400))" '{ exit today - $3 > 335 }'`,
      help: `as ${user}: passwd`,
    },
    {
      name: 'your way here does not hang on IPv6 autoconfiguration',
      why: 'the host will learn no IPv6 addresses and routes from its network any more',
      check: sh`[ -z "$(ip -6 route show default proto ra)" ] || ! echo ${machine.via || 'local'} | grep : > /dev/null`,
      help: 'log in over IPv4, or give the host a fixed IPv6 address and route',
    },
    {
      name: 'nothing serves that nobody asked for',
      check: asked(controls('servers')),
      help: 'this becomes a hypervisor and nothing else: apt-get purge what is named above, or take another machine',
      controls: controls('servers'),
    },

    // Packages.
    {
      name: 'what watches the host is installed',
      check: sh`[ "$(dpkg-query --show --showformat='\${db:Status-Status}\n' ${packages.watchers} | sort --unique)" = installed ]`,
      apply: [
        sh`[ -e /etc/usbguard/rules.conf ] || systemctl --quiet mask usbguard.service # without rules it would block every device`,
        sh`apt-get --quiet=2 update`,
        sh`${install} ${packages.watchers}`,
      ],
      // Installing one time service removes the other: what the distribution came with returns.
      undo: [
        sh`LC_ALL=C comm -23 "$FK_STATE/pages/$FK_PAGE/origin/packages" <(dpkg-query --show --showformat='\${Package}:\${Architecture} \${db:Status-Abbrev}\n' | awk '$2 ~ /^i/ { print $1 }' | LC_ALL=C sort) | xargs --no-run-if-empty ${install}`,
      ],
      seconds: 1800,
      controls: controls('packages'),
    },
    {
      name: 'what reports home, speaks in clear text or mounts by itself is gone',
      check: sh`[ -z "$(dpkg-query --show --showformat='\${db:Status-Status}\n' ${packages.unwanted} 2> /dev/null | grep --line-regexp installed || true)" ]`,
      apply: [
        sh`dpkg-query --show --showformat='\${Package}\n' ${packages.unwanted} 2> /dev/null | DEBIAN_FRONTEND=noninteractive xargs apt-get --quiet=2 --yes purge`,
      ],
      seconds: 900,
      controls: controls('unwanted'),
    },
    file('/etc/apt/apt.conf.d/99-fortress', {
      from: 'config/host/apt.conf',
      name: 'packages are signed, few, and updated every day',
      test: sh`APT_CONFIG="$new" apt-config dump > /dev/null`,
      controls: controls('updates'),
    }),
    ours(
      '/etc/needrestart/conf.d/60-fortress.conf',
      'needrestart.conf',
      'an update lists what to restart, and restarts nothing',
    ),
    ours('/etc/default/debsums', 'debsums', 'files of packages are compared every week'),

    // The kernel and what it loads.
    unit('sysctl-reapply-network.service', 'network settings come back when interfaces come up'),
    file('/etc/sysctl.d/99-zz-fortress.conf', {
      from: 'config/host/sysctl.conf',
      values: values.sysctl,
      name: 'the kernel hides itself, offers little, and believes nobody about the network',
      then: [sh`/usr/lib/systemd/systemd-sysctl /etc/sysctl.d/99-zz-fortress.conf || ${inContainer}`],
      controls: [...controls('kernel'), ...controls('network')],
    }),
    file('/etc/sysctl.d/99-zz-fortress-forwarding.conf', {
      from: 'config/host/forwarding.conf',
      values: values.forwarding,
      name: "nothing is forwarded but for the host's own guests",
      then: [
        sh`/usr/lib/systemd/systemd-sysctl /etc/sysctl.d/99-zz-fortress-forwarding.conf`,
        sh`/usr/lib/systemd/systemd-sysctl /etc/sysctl.d/99-zz-fortress.conf || ${inContainer} # forwarding resets other keys`,
      ],
      controls: controls('forwarding'),
    }),
    file('/etc/modprobe.d/60-fortress.conf', {
      from: 'config/host/modprobe.conf',
      values: values.modprobe,
      name: 'the kernel loads nothing that a server has no use for',
      controls: controls('modules'),
    }),

    // Files and memory.
    unit('tmp.mount', '/tmp is in memory from the next start on'),
    file('/usr/local/libexec/fortress-mounts', {
      from: 'config/host/mounts.sh',
      mode: '755',
      name: 'directories know what they are for',
      test: sh`sh -n "$new"`,
    }),
    {
      name: 'shared memory stands in /etc/fstab with its options',
      why: 'systemd mounts it before any unit of ours; here it reads with which options, and so do people and scanners',
      check: sh`settled /etc/fstab && test "$(shm_lines /etc/fstab)" = ${shm}`,
      apply: [
        sh`{ [ ! -e /etc/fstab ] || awk '$2 != "/dev/shm"' /etc/fstab; echo ${shm}; } | put /etc/fstab 644 root:root 'findmnt --verify --tab-file "$new" > /dev/null'`,
        sh`systemctl daemon-reload`,
        sh`settle /etc/fstab`,
      ],
    },
    {
      ...unit('fortress-mounts.service', 'programs run from where programs are, and nowhere else'),
      why: 'what somebody writes to /tmp, to a log or to shared memory must not be started from there',
    },
    {
      name: 'the directories are mounted so now',
      check: sh`systemctl is-active fortress-mounts.service`,
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
    {
      name: 'memory does not reach a disk in clear text',
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
    ours(
      '/etc/security/limits.d/10-coredump-debian.conf',
      'limits.conf',
      "no log-in dumps its memory, root's neither",
    ),
    ours('/etc/systemd/coredump.conf.d/60-fortress.conf', 'systemd/coredump.conf', 'no dump is stored'),
    file('/etc/systemd/system.conf.d/60-fortress.conf', {
      from: 'config/host/systemd/manager.conf',
      name: 'no program leaves a copy of its memory',
      why: 'it holds keys and passwords',
      then: [sh`systemctl daemon-reexec`],
      controls: controls('coredumps'),
    }),

    // People.
    {
      name: 'there is a group of those who may log in, and you are in it',
      check: sh`id --name --groups ${user} | tr ' ' '\n' | grep --line-regexp ${group} > /dev/null && getent group sugroup > /dev/null`,
      apply: [
        sh`for name in ${group} sugroup; do getent group "$name" > /dev/null || groupadd --system "$name"; done`,
        sh`usermod --append --groups ${group} ${user}`,
      ],
    },
    {
      name: "accounts of the system are locked, root's too, and homes are private",
      check: sh`[ -z "$(system_shells)" ] && [ -z "$(open_homes)" ] && passwd --status root | grep '^root L' > /dev/null`,
      apply: [
        sh`system_shells | xargs --no-run-if-empty --max-args=1 usermod --shell /usr/sbin/nologin`,
        sh`open_homes | while IFS= read -r path; do keep --meta "$path"; chmod g-w,o-rwx "$path"; done`,
        sh`passwd --quiet --lock root`,
      ],
      controls: controls('accounts'),
    },
    ours('/etc/default/useradd', 'useradd', 'accounts that nobody uses fall asleep'),
    ours('/etc/login.defs', 'login.defs', 'new accounts are private, and their passwords last a year'),
    {
      name: 'passwords age, and administrators do not fall asleep',
      why: 'who comes with a key must not be refused because a password became old',
      check: sh`[ -z "$(endless_passwords)" ]`,
      apply: [
        sh`endless_passwords | xargs --no-run-if-empty --max-args=1 chage --mindays 1 --maxdays 365 --warndays 7`,
        sh`getent group ${group} | cut --delimiter=: --fields=4 | tr , '\n' | xargs --no-run-if-empty --max-args=1 chage --inactive -1`,
      ],
      controls: controls('ageing'),
    },
    file('/etc/systemd/logind.conf.d/60-fortress.conf', {
      from: 'config/host/systemd/logind.conf',
      name: 'sessions end when nobody is there',
      then: [sh`systemctl reload systemd-logind.service`],
    }),
    ours('/etc/bash.bashrc', 'bash.bashrc', 'shells that are no log-in are private too'),
    ours('/etc/profile.d/60-fortress.sh', 'profile.sh', 'what people make is private, and idle shells end'),
    ours('/etc/issue', 'issue', 'the console warns'),
    ours('/etc/motd', 'issue', 'a session begins with the warning'),
    {
      ...ours('/etc/issue.net', 'issue', 'who comes is warned, and not told what runs here'),
      controls: controls('banners'),
    },

    // Doors: one transaction from here to sudo, proved by a fresh log-in and its sudo, or taken back.
    file('/etc/ssh/revoked_keys', {
      text: '# Public keys that are refused whatever authorized_keys says, one a line.\n',
      door: 'ssh',
      name: 'keys can be revoked',
    }),
    file('/etc/ssh/sshd_config', {
      from: 'config/host/sshd_config',
      values: values.sshd,
      mode: '600',
      door: 'ssh',
      name: 'keys of one group are the only way in',
      test: sh`sshd -t -f "$new"`,
      then: [sh`systemctl try-reload-or-restart ssh.service`],
      controls: controls('ssh'),
    }),
    {
      ...ours(
        '/etc/security/faillock.conf',
        'faillock.conf',
        'four wrong passwords close an account for a while',
      ),
      door: 'pam',
    },
    {
      ...ours('/etc/security/pwquality.conf', 'pwquality.conf', 'passwords are long and mixed'),
      door: 'pam',
    },
    ...pam.map((name) => ({
      ...ours(`/usr/share/pam-configs/${name}`, `pam/${name}`, `PAM knows ${name}`),
      door: 'pam' as const,
    })),
    {
      name: 'PAM counts wrong passwords, refuses empty and old ones, and lets keys in',
      why: 'pam-auth-update builds common-* from profiles; a line written there by hand would be lost, or stop it for good',
      door: 'pam',
      check: sh`grep pam_faillock.so /etc/pam.d/common-account > /dev/null && grep umask=027 /etc/pam.d/common-session > /dev/null && ! grep nullok /etc/pam.d/common-* > /dev/null`,
      apply: [
        sh`keep /var/lib/pam; DEBIAN_FRONTEND=noninteractive pam-auth-update --enable ${pam} pwquality`,
      ],
      controls: controls('shells'),
    },
    {
      ...ours('/etc/pam.d/su', 'su.pam', 'su is for root alone'),
      door: 'pam',
      controls: controls('passwords'),
    },
    file('/etc/sudoers.d/60-fortress', {
      from: 'config/host/sudoers',
      mode: '440',
      door: 'sudo',
      name: 'sudo asks, and writes down',
      test: sh`visudo --check --quiet --file="$new"`,
      controls: controls('sudo'),
    }),

    // What is written down.
    file('/etc/audit/auditd.conf', {
      from: 'config/host/audit/auditd.conf',
      mode: '640',
      name: 'the audit keeps what it wrote',
      then: [sh`systemctl kill --signal=HUP auditd.service || ${inContainer}`],
      controls: controls('auditd'),
    }),
    file('/etc/audit/rules.d/10-start.rules', {
      from: 'config/host/audit/10-start.rules',
      mode: '600',
      name: 'one bad audit rule does not hide the others',
    }),
    file('/etc/audit/rules.d/30-fortress.rules', {
      from: `config/host/audit/${auditRules}`,
      mode: '600',
      name: 'what matters on the host is written down',
      then: [
        sh`chmod 600 /etc/audit/rules.d/*.rules && { augenrules --load > /dev/null || ${inContainer}; }`,
      ],
      controls: controls('audit'),
    }),
    {
      name: "every program with somebody else's rights is written down",
      why: 'which there are differs between machines: the list is made there, and made again when it changes',
      check: sh`settled /etc/audit/rules.d/40-privileged.rules && fact walk walk && diff <(privileged_rules <<< "$FK_FACT") /etc/audit/rules.d/40-privileged.rules > /dev/null`,
      apply: [
        sh`walk | privileged_rules | put /etc/audit/rules.d/40-privileged.rules 600 root:root`,
        sh`augenrules --load > /dev/null || ${inContainer}`,
        sh`settle /etc/audit/rules.d/40-privileged.rules`,
      ],
      controls: controls('audit-privileged'),
    },
    ours('/etc/sysstat/sysstat', 'sysstat', 'what the host did is not for everybody either'),
    file('/etc/systemd/journald.conf', {
      from: 'config/host/systemd/journald.conf',
      name: 'logs survive a restart, never fill the disk, and are not for everybody',
      then: [
        sh`install --directory /etc/systemd/journald.conf.d && ln --symbolic --force /dev/null /etc/systemd/journald.conf.d/syslog.conf`,
        sh`keep --meta /var/log/journal; install --directory --mode=2755 --group=systemd-journal /var/log/journal`,
        sh`systemctl restart systemd-journald.service`,
        sh`open_logs | while IFS= read -r path; do keep --meta "$path"; chmod u-x,g-wx,o-rwx "$path"; done`,
        sh`systemctl --quiet enable sysstat.service acct.service`,
      ],
      controls: controls('logs'),
    }),
    file('/etc/chrony/chrony.conf', {
      from: 'config/host/chrony.conf',
      name: 'the clock follows servers that prove who they are',
      test: sh`chronyd -p -f "$new" > /dev/null`,
      then: [sh`systemctl restart chrony.service || ${inContainer}`],
      controls: controls('time'),
    }),

    // Services, USB, AppArmor, modes.
    {
      name: 'every AppArmor profile that is loaded is enforced',
      why: 'a profile that only complains, or confines nothing, hides the ones that matter',
      check: sh`[ -z "$(slack_profiles ${slackProfiles})" ]`,
      apply: [
        sh`slack_profiles ${slackProfiles} | while IFS= read -r path; do ln --symbolic --force "$path" /etc/apparmor.d/disable/; apparmor_parser --remove "$path" 2> /dev/null || true; done # it may not be loaded`,
      ],
      controls: controls('confinement'),
    },
    {
      name: 'no key combination, no console, no socket of systemd and no radio is a way in',
      check: sh`[ "$(systemctl is-enabled ctrl-alt-del.target debug-shell.service | sort --unique)" = masked ] && [ -L /etc/systemd/system-generators/systemd-ssh-generator ]`,
      apply: [
        sh`systemctl --quiet mask ctrl-alt-del.target debug-shell.service`,
        sh`install --directory /etc/systemd/system-generators && ln --symbolic --force /dev/null /etc/systemd/system-generators/systemd-ssh-generator`,
        sh`systemctl daemon-reload && systemctl stop 'sshd-vsock*' 'sshd-unix*'`,
        sh`systemctl list-unit-files --no-legend bluetooth.service ModemManager.service 'avahi-daemon.*' 'cups*' 'rpcbind.*' kdump-tools.service | awk '$2 == "enabled" { print $1 }' | xargs --no-run-if-empty systemctl --quiet disable --now`,
        sh`[ ! -d /etc/cloud ] || touch /etc/cloud/cloud-init.disabled`,
      ],
      controls: controls('services'),
    },
    ours(
      '/etc/systemd/system/usbguard.service.d/60-fortress.conf',
      'systemd/usbguard.conf',
      'a machine without USB needs no guard',
    ),
    {
      ...ours(
        '/etc/usbguard/usbguard-daemon.conf',
        'usbguard.conf',
        'what no USB rule names is blocked',
        '600',
      ),
    },
    {
      name: 'USB devices that nobody chose are not talked to',
      why: 'a stick can be a keyboard that types; what is plugged in now stays allowed, and disks and one keyboard may come',
      check: sh`settled /etc/usbguard/rules.conf && grep --fixed-strings '!allowed-matches' /etc/usbguard/rules.conf > /dev/null && [ "$(systemctl is-enabled usbguard.service)" = enabled ]`,
      apply: [
        sh`{ [ ! -d /sys/bus/usb/devices ] || usbguard generate-policy; printf '%s\n' ${usbRules}; } | put /etc/usbguard/rules.conf 600 root:root`,
        sh`systemctl --quiet unmask usbguard.service && systemctl daemon-reload && systemctl --quiet enable usbguard.service`,
        sh`systemctl restart usbguard.service || ${inContainer}`,
        sh`settle /etc/usbguard/rules.conf`,
      ],
      controls: controls('usb'),
    },
    file('/etc/at.allow', {
      text: 'root\n',
      mode: '600',
      name: 'at serves only root',
      then: [sh`rm --force /etc/at.deny`],
    }),
    file('/etc/cron.allow', {
      text: 'root\n',
      mode: '600',
      name: 'only root plans work',
      then: [sh`rm --force /etc/cron.deny`],
      controls: controls('cron'),
    }),
    ours(
      '/etc/systemd/system/fortress-modes.service',
      'systemd/fortress-modes.service',
      'modes can be set again',
    ),
    unit('fortress-modes.path', 'modes that other tools reset come back', controls('modes-kept')),
    file('/etc/tmpfiles.d/fortress.conf', {
      from: 'config/host/tmpfiles.conf',
      name: "keys, hashes and rules are root's alone",
      then: [
        sh`for path in /boot/grub /boot/grub/grub.cfg /root /var/log/audit; do keep --meta "$path"; done`,
        sh`systemd-tmpfiles --create /etc/tmpfiles.d/fortress.conf`,
      ],
      controls: controls('modes'),
    }),

    // The next start.
    ...(isPi
      ? [
          {
            name: 'the kernel starts audited, and with wiped memory',
            check: sh`for word in ${piArguments}; do grep --word-regexp --fixed-strings -e "$word" /boot/firmware/cmdline.txt > /dev/null || exit 1; done`,
            // One line is the whole file, and the firmware reads no drop-ins: what is missing joins it.
            apply: [
              sh`
                keep /boot/firmware/cmdline.txt
                line=$(head --lines=1 /boot/firmware/cmdline.txt)
                for word in ${piArguments}; do case " $line " in *" $word "*) ;; *) line+=" $word" ;; esac; done
                printf '%s\n' "$line" > /boot/firmware/cmdline.new
                sync /boot/firmware/cmdline.new && mv /boot/firmware/cmdline.new /boot/firmware/cmdline.txt`,
            ],
            controls: [...controls('boot'), ...controls('boot-password')],
          },
        ]
      : [
          ours('/etc/default/grub.d/60-fortress.cfg', 'grub.cfg', 'the boot loader has our arguments'),
          file('/etc/grub.d/09_fortress_linux', {
            from: 'config/host/grub-linux.sh',
            mode: '755',
            name: 'starting the host asks for nothing',
            then: [sh`[ ! -e /etc/grub.d/10_linux ] || chmod a-x /etc/grub.d/10_linux`],
          }),
          {
            name: 'changing what is started asks for a password',
            why: 'a line typed at the menu of the boot loader is a root shell',
            check: sh`! command -v grub-mkpasswd-pbkdf2 > /dev/null || grep password_pbkdf2 /etc/grub.d/01_fortress > /dev/null 2>&1`,
            apply: [
              feed(secrets(`${machine.name}-boot-password`, makePassphrase))`
                password=$(cat)
                hash=$(printf '%s\n%s\n' "$password" "$password" | grub-mkpasswd-pbkdf2 --iteration-count=100000 | awk '/grub\.pbkdf2\.sha512/ { print $NF }')
                printf '%s\n' '#!/bin/sh' 'echo "set superusers=root"' "echo password_pbkdf2 root $hash" | put /etc/grub.d/01_fortress 700 root:root
                settle /etc/grub.d/01_fortress`,
            ],
          },
          {
            name: 'the kernel starts audited, locked and with wiped memory',
            check: sh`[ ! -e /boot/grub/grub.cfg ] || { [ /boot/grub/grub.cfg -nt /etc/default/grub.d/60-fortress.cfg ] && [ /boot/grub/grub.cfg -nt /etc/grub.d/01_fortress ]; }`,
            apply: [
              sh`
                keep /boot/grub/grub.cfg
                grub-mkconfig --output=/boot/grub/fortress.new 2> /dev/null
                # An entry that asks for a password at a plain start would leave a host without a keyboard at its menu.
                [ "$(grep --count '^menuentry .*--unrestricted' /boot/grub/fortress.new)" -ge 1 ]
                [ -z "$(grep 'menuentry .*gnu-linux' /boot/grub/fortress.new | grep --invert-match -e --unrestricted)" ]
                chmod 600 /boot/grub/fortress.new
                sync /boot/grub/fortress.new && mv /boot/grub/fortress.new /boot/grub/grub.cfg`,
            ],
            controls: [...controls('boot'), ...controls('boot-password')],
          },
        ]),

    // Last, because it remembers what is there now.
    ours('/etc/systemd/system/aidecheck.service', 'systemd/aidecheck.service', 'files can be compared'),
    file('/etc/aide/aide.conf', {
      from: 'config/host/aide.conf',
      name: 'AIDE knows what matters',
      test: sh`aide --config "$new" --config-check`,
      then: [sh`systemctl daemon-reload && systemctl --quiet enable aidecheck.service`],
    }),
    {
      name: 'every file is known',
      check: sh`[ -s /var/lib/aide/aide.db ]`,
      apply: [
        sh`install --directory --mode=700 /var/lib/aide /var/log/aide; keep /var/lib/aide/aide.db`,
        sh`aide --config /etc/aide/aide.conf --init > /dev/null && mv /var/lib/aide/aide.db.new /var/lib/aide/aide.db`,
      ],
      seconds: 3600,
    },
    unit('aidecheck.timer', 'what changes is noticed every night', controls('integrity')),
    {
      name: 'no file belongs to nobody, and none to everybody',
      check: asked(controls('files')),
      help: 'look at each file that is named above: give it an owner, take the right from it, or remove it',
      controls: controls('files'),
    },
  ]
})

/** A whole file that needs no more than to be there. */
function ours(path: string, from: string, name: string, mode = '644') {
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
