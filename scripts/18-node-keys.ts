#!/usr/bin/env -S npx --no-install tsx
// A node opens for one SSH key, which the laptop made for it and keeps encrypted; your everyday key opens none.
//
// Needs   vm-provision. A node has all of this from its first boot: this page proves it, and changes keys.
// Then    ./task node rekey makes new keys, and runs this page with them. docs/keys.md says when.
// Undo    the keys that were there before open it again.
import { file } from '../lib/engine/file.ts'
import type { Step, Transaction } from '../lib/engine/step.ts'
import { sh } from '../lib/ground/sh.ts'
import { type Context, script } from '../lib/script.ts'
import { guestsOf } from '../lib/site/machines.ts'
import { authorizedKeys, hostKeyNames, nodeKeyNames, publicHalf, wanted } from '../lib/vm/domain.ts'

const about = {
  layer: 'L1',
  on: 'node',
  needs: ['13-vm-provision'],
} as const

const sshTransaction: Transaction = {
  kind: 'ssh',
  restart: [{ unit: 'ssh.service', path: '/etc/ssh/', how: 'reload' }],
}

// Where a socket starts sshd, each connection reads its files anew, and there is no service to reload.
const reload = sh`
  for unit in ssh.service sshd.service; do
    ! systemctl --quiet is-active "$unit" || systemctl reload "$unit"
  done`

export default script(import.meta, about, (context) => {
  // A machine of metal is a host, and page 00 says who logs in there.
  const { name } = context.machine
  if (!guestsOf(context.site).some((guest) => guest.name === name)) return []
  return [...keys(context), ...asked]
})

function keys({ machine, state, secrets, has }: Context): Step[] {
  const [loginName, hostName] = [wanted(nodeKeyNames, has), wanted(hostKeyNames(machine), has)]
  const half = publicHalf(state, loginName)
  const [hostKey, hostHalf] = [secrets(hostName), publicHalf(state, hostName)]
  return [
    {
      name: 'the laptop has an SSH key for nodes',
      why: 'no other opens the node when this page has ended',
      check: sh`ssh-keygen -l -f - <<< ${half ?? 'none yet'}`,
      help: './task node rekey makes it, and host keys with it',
    },
    file(authorizedKeys, {
      text: `${half ?? `# ${loginName} is made with the first node`}\n`,
      transaction: sshTransaction,
      name: 'authorized_keys of core holds the SSH key that the laptop keeps for nodes, and no other',
      why: 'core becomes root without a password, so a key that lies in clear on the laptop must not be enough',
    }),
    file('/etc/ssh/sshd_config.d/10-fortress-keys.conf', {
      from: 'config/vm/sshd-keys.conf',
      mode: '600',
      then: [sh`sshd -t`, reload],
      transaction: sshTransaction,
      name: 'sshd reads keys from that file alone',
    }),
    file('/etc/ssh/ssh_host_ed25519_key', {
      secret: hostKey,
      // By the public half it is known, whatever the laptop calls it: a new one gets the name of the old one in the end.
      shown: [hostKeyNames(machine)[0], hostHalf ?? ''].join(' '),
      mode: '600',
      then: [sh`sshd -t`, reload],
      transaction: sshTransaction,
      name: `SSH host key of ${machine.name} is the one that the laptop knows it by`,
    }),
    file('/etc/ssh/ssh_host_ed25519_key.pub', {
      text: `${hostHalf ?? `# ${hostName} is made with the node`}\n`,
      transaction: sshTransaction,
      name: `public half of the SSH host key of ${machine.name} lies beside it`,
    }),
  ]
}

/** What decides is asked: sshd and sudo. */
const asked: Step[] = [
  {
    name: 'sshd lets in core alone, with a key of that file alone',
    why: 'sshd takes the first of several settings: a drop-in that is read before ours would win',
    check: sh`
      said=$(sshd -T -C user=core,host=localhost,addr=127.0.0.1 2> "$FK_TMP/why") || { cat "$FK_TMP/why" && exit 102; }
      for line in 'authorizedkeysfile /etc/ssh/authorized_keys/%u' 'authorizedkeyscommand none' 'trustedusercakeys none' \
        'allowusers core' 'permitrootlogin no' 'passwordauthentication no' 'kbdinteractiveauthentication no' \
        'hostbasedauthentication no'; do
        grep --line-regexp --fixed-strings --quiet "$line" <<< "$said" ||
          { echo "sshd -T says $(grep "^\${line%% *} " <<< "$said" || echo "no \${line%% *}")"; exit 1; }
      done
      test "$(grep --count '^allowusers ' <<< "$said")" = 1`,
    help: 'look in /etc/ssh/sshd_config.d for what is read before 10-fortress.conf; ./task node rebuild makes the node anew',
  },
  {
    name: 'no account but core becomes root by sudo without a password',
    check: sh`
      getent passwd | awk -F : '$1 != "root" && $1 != "core" && $7 !~ /(nologin|false|sync|shutdown|halt)$/ { print $1 }' |
        while IFS= read -r account; do
          said=$(LC_ALL=C sudo -ll -U "$account" 2>&1) || grep 'not allowed to run sudo' <<< "$said" > /dev/null ||
            { echo "sudo could not be asked about $account: $said"; exit 102; }
          ! grep --word-regexp '!authenticate' <<< "$said" > /dev/null || { echo "$account: $said"; exit 1; }
        done`,
    help: 'take the rule out of /etc/sudoers.d that sudo -ll -U ACCOUNT shows',
  },
]
