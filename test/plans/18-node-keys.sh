#!/bin/bash
# 18-node-keys: A node opens for one SSH key, which the laptop made for it and keeps encrypted; your everyday key opens none.
#
# Run it as root on fortress-node:
#   FK_SECRETS=DIR bash 18-node-keys.sh
# It has 7 steps. Each checks first, and changes only what does not hold.
# It keeps no record, so undo cannot take it back. It checks no controls: verify does.
# FK_SECRETS is a directory with one file for each of these secrets, as the machine gets it:
#   fortress-node-ssh-host-key
# Steps that could lock you out are transactions. When one is done, log in by a NEW connection and run:
#   touch /run/fortress-confirm
# If you do not within 180 seconds of its beginning, the machine rolls it back.
# At a console: FK_KEEP_CHANGES=yes, and nothing is rolled back.
# shellcheck disable=SC2034 # functions read what is set here
set -euo pipefail
FK_PAGE=18-node-keys FK_FILE=18-node-keys.sh
export FK_PAGE FK_FILE

main() {
  case ${1-} in '') ;; *) usage ;; esac
  begin
  : "${FK_SECRETS:?a directory with the secrets of this page}"

  # 1/7 the laptop has an SSH key for nodes
  #   why: no other opens the node when this page has ended
  check() { ssh-keygen -l -f - <<< 'none yet'; }
  demand 'the laptop has an SSH key for nodes' './task node rekey makes it, and host keys with it'

  # Steps 2 to 5 are one transaction.
  FK_RESTART='reload	ssh.service	/etc/ssh/	-	-' FK_TABLES=''
  transaction 180

  # 2/7 authorized_keys of core holds the SSH key that the laptop keeps for nodes, and no other
  #   why: core becomes root without a password, so a key that lies in clear on the laptop must not be enough
  check() {
    put_matches /etc/ssh/authorized_keys/core 5f13e366cf084f37a046cde29061aed7721b5ac3fcf6a017c20d97b720c6cab1 644 root:root
  }
  apply() {
    put /etc/ssh/authorized_keys/core 644 root:root << 'FORTRESS'
# node-ssh-key is made with the first node
FORTRESS
    put_finish /etc/ssh/authorized_keys/core
  }
  recover() { put_restore /etc/ssh/authorized_keys/core; }
  change 'authorized_keys of core holds the SSH key that the laptop keeps for nodes, and no other'

  # 3/7 sshd reads keys from that file alone
  check() {
    put_matches /etc/ssh/sshd_config.d/10-fortress-keys.conf b52af117a21ed6ed492032d28bf9c534dd3cf6eef449c274b718878f0259a286 600 root:root
  }
  apply() {
    put /etc/ssh/sshd_config.d/10-fortress-keys.conf 600 root:root << 'FORTRESS'
# Which keys open a node: those of one file that root owns. What lies in a home, a command or an authority adds none.
AuthorizedKeysFile /etc/ssh/authorized_keys/%u
AuthorizedKeysCommand none
TrustedUserCAKeys none
FORTRESS
    sshd -t
    for unit in ssh.service sshd.service; do
      ! systemctl --quiet is-active "$unit" || systemctl reload "$unit"
    done
    put_finish /etc/ssh/sshd_config.d/10-fortress-keys.conf
  }
  recover() {
    put_restore /etc/ssh/sshd_config.d/10-fortress-keys.conf
    { sshd -t
    } || true # the old file was good for it once
    { for unit in ssh.service sshd.service; do
      ! systemctl --quiet is-active "$unit" || systemctl reload "$unit"
    done
    } || true # the old file was good for it once
  }
  change 'sshd reads keys from that file alone'

  # 4/7 SSH host key of fortress-node is the one that the laptop knows it by
  check() {
    put_finished /etc/ssh/ssh_host_ed25519_key && [ "$(stat --format='%a %U:%G' /etc/ssh/ssh_host_ed25519_key)" = "600 root:root" ] && sha256sum --check --status /var/lib/fortress/secret/etc/ssh/ssh_host_ed25519_key.sha256&& [ "$(cat /var/lib/fortress/secret/etc/ssh/ssh_host_ed25519_key.sha256.around)" = 356c10781af77f4a9c9662ca11254a0cfae639a59f9283a918351e9047c7711d ]
  }
  apply() {
    {
      put /etc/ssh/ssh_host_ed25519_key 600 root:root
    } < "$FK_SECRETS"/fortress-node-ssh-host-key
    (
      install --directory --mode=700 "$(dirname /var/lib/fortress/secret/etc/ssh/ssh_host_ed25519_key.sha256)" && sha256sum /etc/ssh/ssh_host_ed25519_key > /var/lib/fortress/secret/etc/ssh/ssh_host_ed25519_key.sha256&& echo 356c10781af77f4a9c9662ca11254a0cfae639a59f9283a918351e9047c7711d > /var/lib/fortress/secret/etc/ssh/ssh_host_ed25519_key.sha256.around
    )
    sshd -t
    for unit in ssh.service sshd.service; do
      ! systemctl --quiet is-active "$unit" || systemctl reload "$unit"
    done
    put_finish /etc/ssh/ssh_host_ed25519_key
  }
  recover() {
    put_restore /etc/ssh/ssh_host_ed25519_key
    { sshd -t
    } || true # the old file was good for it once
    { for unit in ssh.service sshd.service; do
      ! systemctl --quiet is-active "$unit" || systemctl reload "$unit"
    done
    } || true # the old file was good for it once
  }
  change 'SSH host key of fortress-node is the one that the laptop knows it by'

  # 5/7 public half of the SSH host key of fortress-node lies beside it
  check() {
    put_matches /etc/ssh/ssh_host_ed25519_key.pub e982fcef23486bd159eaab58a2b6852ab943ad42248847ee2466507ad96f57d6 644 root:root
  }
  apply() {
    put /etc/ssh/ssh_host_ed25519_key.pub 644 root:root << 'FORTRESS'
# fortress-node-ssh-host-key is made with the node
FORTRESS
    put_finish /etc/ssh/ssh_host_ed25519_key.pub
  }
  recover() { put_restore /etc/ssh/ssh_host_ed25519_key.pub; }
  change 'public half of the SSH host key of fortress-node lies beside it'

  confirm

  # 6/7 sshd lets in core alone, with a key of that file alone
  #   why: sshd takes the first of several settings: a drop-in that is read before ours would win
  check() {
    said=$(sshd -T -C user=core,host=localhost,addr=127.0.0.1 2> "$FK_TMP/why") || { cat "$FK_TMP/why" && exit 102; }
          for line in 'authorizedkeysfile /etc/ssh/authorized_keys/%u' 'authorizedkeyscommand none' 'trustedusercakeys none' \
            'allowusers core' 'permitrootlogin no' 'passwordauthentication no' 'kbdinteractiveauthentication no' \
            'hostbasedauthentication no'; do
            grep --line-regexp --fixed-strings --quiet "$line" <<< "$said" ||
              { echo "sshd -T says $(grep "^${line%% *} " <<< "$said" || echo "no ${line%% *}")"; exit 1; }
          done
          test "$(grep --count '^allowusers ' <<< "$said")" = 1
  }
  demand 'sshd lets in core alone, with a key of that file alone' 'look in /etc/ssh/sshd_config.d for what is read before 10-fortress.conf; ./task node rebuild makes the node anew'

  # 7/7 no account but core becomes root by sudo without a password
  check() {
    getent passwd | awk -F : '$1 != "root" && $1 != "core" && $7 !~ /(nologin|false|sync|shutdown|halt)$/ { print $1 }' |
            while IFS= read -r account; do
              said=$(LC_ALL=C sudo -ll -U "$account" 2>&1) || grep 'not allowed to run sudo' <<< "$said" > /dev/null ||
                { echo "sudo could not be asked about $account: $said"; exit 102; }
              ! grep --word-regexp '!authenticate' <<< "$said" > /dev/null || { echo "$account: $said"; exit 1; }
            done
  }
  demand 'no account but core becomes root by sudo without a password' 'take the rule out of /etc/sudoers.d that sudo -ll -U ACCOUNT shows'
}

# What main uses.
# from lib/engine/shell/put.sh: FK_STATE put put_owner put_finish put_finished put_restore put_matches
# from lib/engine/shell/snapshot.sh: fk_etc fk_units fk_packages fk_sysctls fk_tables fk_functions fk_sure fk_room
# from lib/engine/shell/snapshot.sh: fk_describe fk_snapshot record_before fk_changed fk_restore_etc fk_restore_kept
# from lib/engine/shell/snapshot.sh: fk_restore_aside fk_restore_units fk_restore_sysctls fk_restore_tables
# from lib/engine/shell/snapshot.sh: fk_sysctl_keys fk_rollback fk_restart
# from lib/engine/shell/guard.sh: fk_guard fk_arm fk_deadman_holders fk_deadman_end fk_complete fk_commit
# from lib/engine/shell/guard.sh: fk_deadman_units fk_disarm fk_rollback_now
# from lib/engine/shell/record.sh: fk_add
# from lib/engine/shell/printed.sh: FK_OUT FK_RC FK_TX FK_VISIT FK_ARM FK_BACK FK_TMP begin lock usage recover holds
# from lib/engine/shell/printed.sh: change demand fail transaction arm_rollback confirm

main "$@"
