#!/bin/bash
# 09-host-reboot: A host starts anew when its updates ask for it: guests are shut down before, and everything is looked at again behind it.
#
# Run it as root on fortress:
#   1. on fortress-node:  bash 09-host-reboot.sh before
#   2. here:  FK_OTHER_NODE=done bash 09-host-reboot.sh
# It has 8 steps. Each checks first, and changes only what does not hold.
# It keeps no record, so undo cannot take it back. It checks no controls: verify does.
# shellcheck disable=SC2034 # functions read what is set here
set -euo pipefail
FK_PAGE=09-host-reboot FK_FILE=09-host-reboot.sh
export FK_PAGE FK_FILE

main() {
  case ${1-} in '' | before) ;; *) usage ;; esac
  begin
  REBOOT_NOTES=/var/lib/fortress/reboot
  export REBOOT_NOTES

  reboot_no() {
    printf '%s\n' "$*"
    return 1
  }

  REBOOT_WHY=$(reboot_reason)
  export REBOOT_WHY

  # reboot_current: nothing waits for a reboot. 101: it will be so after one.
  reboot_current() { [ -z "$REBOOT_WHY" ] || { printf '%s\n' "$REBOOT_WHY"; return 101; }; }

  # reboot_idle: there is no reason to reboot, so what would not come back is no matter of this page.
  reboot_idle() { reboot_current > /dev/null; }

  # reboot_clean: every page that began here has ended, and its files are as it left them.
  reboot_clean() {
    local dir found=''
    for dir in "$FK_STATE"/pages/*/open; do
      [ ! -d "$dir" ] || [ "$(basename "$(dirname "$dir")")" = "$FK_PAGE" ] ||
        found+="$(basename "$(dirname "$dir")") has begun and not ended"$'\n'
    done
    found+=$(fk_strayed | awk -F '\t' '{ print $2 " is not as " $1 " left it" }')
    [ -z "${found//$'\n'/}" ] || reboot_no "$(grep . <<< "$found" | head --lines=5)"
  }

  # reboot_confirmed: no change waits to be confirmed, which the next start would roll back.
  reboot_confirmed() {
    local tx
    for tx in "$FK_STATE"/tx/*/armed; do
      [ ! -e "$tx" ] || reboot_no "a change of $(cat "${tx%armed}owner") is not confirmed: a reboot would roll it back" || return
    done
  }

  # reboot_doors UNIT...: sshd starts with the host, and of these units those that are here do; sshd and nft take their files.
  reboot_doors() {
    local unit said found=''
    systemctl --quiet is-enabled ssh.service 2> /dev/null || systemctl --quiet is-enabled ssh.socket 2> /dev/null ||
      reboot_no 'neither ssh.service nor ssh.socket is enabled' || return
    for unit; do
      systemctl cat "$unit" > /dev/null 2>&1 || continue # its page was not applied here
      said=$(systemctl is-enabled "$unit" 2>&1) || found+="$unit is $said"$'\n'
    done
    said=$(sshd -t 2>&1) || found+="sshd -t: $said"$'\n'
    [ ! -e /etc/nftables.conf ] || said=$(nft --check --file /etc/nftables.conf 2>&1) ||
      found+="/etc/nftables.conf: $(head --lines=1 <<< "$said")"$'\n'
    [ -z "$found" ] || reboot_no "${found%$'\n'}"
  }

  export -f reboot_no reboot_current reboot_idle reboot_clean reboot_confirmed reboot_doors
  # reboot_bootable: each kernel has what it starts from, no package is half installed, and no line of fstab stops the start.
  reboot_bootable() {
    local said kernel source target options found=''
    said=$(dpkg --audit 2>&1 | head --lines=3) || true # it ends with 1 where it finds one
    [ -z "$said" ] || found+="half installed: $said"$'\n'
    if compgen -G '/boot/initrd.img-*' > /dev/null; then
      for kernel in /boot/vmlinuz-*; do
        [ ! -e "$kernel" ] || [ -s "/boot/initrd.img-${kernel#/boot/vmlinuz-}" ] || found+="$kernel has no initrd"$'\n'
      done
    fi
    while read -r source target options; do
      case ,$options, in *,noauto,* | *,nofail,*) continue ;; esac
      case $target:$source in
        none:* | swap:*) ;;
        *:/dev/*) [ -e "$source" ] || found+="fstab: $source for $target is not there"$'\n' ;;
        *:*UUID=* | *:*LABEL=*) found+="fstab: $source for $target is not there"$'\n' ;;
      esac
    done < <(findmnt --fstab --evaluate --noheadings --raw --output SOURCE,TARGET,OPTIONS 2> /dev/null)
    [ ! -e /etc/fstab ] || said=$(findmnt --fstab 2>&1 > /dev/null) || true # without a line it ends with 1
    [[ $said != *'parse error'* ]] || found+="fstab: $(head --lines=1 <<< "$said")"$'\n'
    [ -z "$found" ] || reboot_no "${found%$'\n'}"
  }

  # reboot_vault_opens NAME DISK: nobody has to open it: crypttab does at the start, and the TPM2 gives the key now.
  reboot_vault_opens() {
    local line
    line=$(awk -v name="$1" '$1 == name { print $4 }' /etc/crypttab 2> /dev/null) || return 0
    [ -n "$line" ] || return 0
    case ,$line, in *,noauto,*) reboot_no 'a person opens it after each start' || return ;; esac
    cryptsetup open --test-passphrase --token-only --token-type systemd-tpm2 "$2" > /dev/null 2>&1 ||
      reboot_no 'the TPM2 does not give its key any more'
  }
  export -f reboot_bootable reboot_vault_opens
  reboot_guests() {
    local said
    command -v virsh > /dev/null && pgrep qemu-system > /dev/null || return 0
    said=$(virsh --connect qemu:///system list --name 2>&1) || reboot_no "$said" || return
    grep . <<< "$said" || true # QEMU of somebody else runs
  }

  # Virsh writes twice: whoever ends after the first line ends it by SIGPIPE, and with it the check, in silence.
  reboot_state() { virsh --connect qemu:///system domstate "$1" 2> /dev/null | awk 'NR == 1'; }

  # reboot_guests_return: those that are up run, are defined, start with the host, and are not on trial.
  reboot_guests_return() {
    local name state said found=''
    said=$(reboot_guests) || { reboot_no "could not ask libvirt: $said" || return 102; }
    while IFS= read -r name; do
      [ -n "$name" ] || continue
      state=$(reboot_state "$name")
      if [ "$state" != running ]; then
        found+="$name is $state, and would not shut down"$'\n'
      elif [ -e "/var/lib/fortress/vm/$name.trial" ]; then
        found+="$name is on trial: ./task vm-provision apply keeps it"$'\n'
      elif ! virsh --connect qemu:///system dominfo "$name" | grep --extended-regexp '^Autostart: +enable$' > /dev/null; then
        found+="$name does not start with the host"$'\n'
      fi
    done <<< "$said"
    [ -z "$found" ] || reboot_no "${found%$'\n'}"
  }

  # reboot_guests_up SECONDS 'NAME ADDRESS PORT'...: libvirt has started all that ran; those of the site answer at their port.
  reboot_guests_up() {
    local seconds=$1
    shift
    reboot_wait "$seconds" reboot_guests_run "$@" && reboot_done guests
  }

  reboot_guests_run() {
    local name address port door state
    while IFS= read -r name; do
      [ -n "$name" ] || continue
      state=$(reboot_state "$name")
      [ "$state" = running ] || reboot_no "$name is ${state:-unknown to libvirt}" || return
      for door; do
        read -r port address <<< "${door##* } $(cut --delimiter=' ' --fields=2 <<< "$door")"
        [ "${door%% *}" != "$name" ] || timeout 5 bash -c 'exec 3<> "/dev/tcp/$1/$2"' bash "$address" "$port" 2> /dev/null ||
          reboot_no "$name does not answer at $address, port $port" || return
      done
    done < "$REBOOT_NOTES/guests"
  }
  export -f reboot_guests reboot_state reboot_guests_return reboot_guests_up reboot_guests_run
  # reboot_notes HOST NODE...: what has to be looked at when the host is back: units, guests, and of these nodes those that run.
  reboot_notes() {
    local node host=$1
    shift
    rm --recursive --force "$REBOOT_NOTES"
    install --directory --mode=700 "$REBOOT_NOTES"
    reboot_guests > "$REBOOT_NOTES/guests" && reboot_failed > "$REBOOT_NOTES/units" || return
    for node; do
      if [ "$node" = "$host" ]; then
        ! systemctl --quiet is-active k3s.service || : > "$REBOOT_NOTES/node-$node"
      elif grep --line-regexp --fixed-strings -e "$node" "$REBOOT_NOTES/guests" > /dev/null; then
        : > "$REBOOT_NOTES/node-$node"
      fi
    done
    sync --file-system "$REBOOT_NOTES"
  }

  # reboot_guests_down SECONDS: each shuts down by itself. One that does not keeps the host up: its power is never taken here.
  reboot_guests_down() {
    local name left deadline=$((SECONDS + $1))
    while IFS= read -r name; do
      [ -z "$name" ] || virsh --connect qemu:///system shutdown "$name" > /dev/null || return
    done < "$REBOOT_NOTES/guests"
    while :; do
      left=''
      while IFS= read -r name; do
        [ -z "$name" ] || [ "$(reboot_state "$name")" = 'shut off' ] || left+=" $name"
      done < "$REBOOT_NOTES/guests"
      [ -n "$left" ] || return 0
      [ "$SECONDS" -lt "$deadline" ] || reboot_no "not shut down after $1 s:$left" || return
      sleep 1
    done
  }

  # reboot_stay: the host does not reboot after all, and what ran runs again.
  reboot_stay() {
    local name
    while IFS= read -r name; do
      [ "$(reboot_state "$name")" != 'shut off' ] || virsh --connect qemu:///system start "$name" > /dev/null
    done < <(grep . "$REBOOT_NOTES/guests")
    rm --recursive --force "$REBOOT_NOTES"
  }
  export -f reboot_notes reboot_guests_down reboot_stay
  # reboot_over NOTE: this was looked at since the last reboot by this page.
  reboot_over() { [ ! -e "$REBOOT_NOTES/$1" ] || reboot_no 'it was not looked at since the reboot'; }

  reboot_done() { rm --force "$REBOOT_NOTES/$1" && rmdir --ignore-fail-on-non-empty "$REBOOT_NOTES"; }

  # reboot_wait SECONDS FUNCTION WORD...: until it holds; then says what it saw last.
  reboot_wait() {
    local said deadline=$((SECONDS + $1))
    shift
    until said=$("$@"); do
      [ "$SECONDS" -lt "$deadline" ] || reboot_no "$said" || return
      sleep 2
    done
  }

  reboot_failed() {
    systemctl list-units --state=failed --plain --no-legend --no-pager | cut --delimiter=' ' --fields=1 | LC_ALL=C sort
  }

  # reboot_units SECONDS: the start has ended, and what failed in it had failed before, too.
  reboot_units() {
    local new
    reboot_wait "$1" reboot_started || return
    new=$(reboot_failed | LC_ALL=C comm -23 - "$REBOOT_NOTES/units" | paste --serial --delimiters=' ')
    [ -z "$new" ] || reboot_no "failed since the reboot: $new" || return
    reboot_done units
  }

  reboot_started() {
    local state
    state=$(systemctl is-system-running 2>&1) || true # it ends with 1 for degraded
    case $state in running | degraded) ;; *) reboot_no "the host is $state" ;; esac
  }

  # reboot_apart NAME: here runs no k3s, or its cluster has no such node.
  reboot_apart() { [ ! -L "$K3S" ] || node_absent "$1" > /dev/null; }

  # reboot_node_ready ROLE NAME ASKED: it is Ready, and that is no report from before. Asked is the node itself, or a server of its
  # cluster. Without a pod network no node is Ready, with or without a reboot.
  reboot_node_ready() {
    local said ready boot message beat
    said='{range .status.conditions[?(@.type=="Ready")]}{.status} {.message}{end}'
    said=$(k3s_node "$([ "$2" = "$3" ] && echo "$1" || echo server)" "$2" "{.status.nodeInfo.bootID} $said" 2>&1) ||
      reboot_no "$said" || return
    read -r boot ready message <<< "$said"
    if [ "$2" = "$3" ]; then
      [ "$boot" = "$(cat /proc/sys/kernel/random/boot_id)" ] || reboot_no 'its kubelet has not reported since the start' || return
      k3s_answers "$1" "$2" || return
    else
      beat=$(k3s_kubectl get lease "$2" --namespace kube-node-lease --output jsonpath='{.spec.renewTime}' 2>&1) ||
        reboot_no "$beat" || return
      [ "$(date --date="$beat" +%s)" -ge $(($(date +%s) - 20)) ] || reboot_no "its last report is of $beat" || return
    fi
    case $ready:$message in
      True:* | False:*'cni plugin not initialized'*) ;;
      *) reboot_no "it is not Ready: $message" ;;
    esac
  }
  export -f reboot_over reboot_done reboot_wait reboot_failed reboot_units reboot_started reboot_apart reboot_node_ready
  case ${1-} in
    before)
      before_here
      return
      ;;
  esac

  # 1/8 no page was cut off here, and nobody has changed its files since
  #   why: the machine starts with what is on the disk, and that has to be what was tried
  check() { reboot_idle || { reboot_confirmed && reboot_clean; }; }
  demand 'no page was cut off here, and nobody has changed its files since' './task build-all ends what was begun.
./task plan-all shows what somebody has changed, ./task build-all takes it back'

  # 2/8 SSH, tunnel and firewall start with the host, and their files are valid
  check() { reboot_idle || reboot_doors fortress-firewall.service wg-quick@wg0.service; }
  demand 'SSH, tunnel and firewall start with the host, and their files are valid' './task host-firewall apply and ./task host-wireguard apply enable what is theirs.
For SSH, on it: systemctl enable ssh'

  # 3/8 the kernel that starts next is installed completely, and fstab is valid
  check() { reboot_idle || reboot_bootable; }
  demand 'the kernel that starts next is installed completely, and fstab is valid' 'on it: dpkg --configure --all; update-initramfs -u -k all.
A disk of fstab that may be missing gets the option nofail'

  # 4/8 every virtual machine that runs starts with the host
  check() { reboot_idle || reboot_guests_return; }
  demand 'every virtual machine that runs starts with the host' 'on it: virsh autostart NAME for one that is to come back, virsh shutdown NAME for one that is not'

  # 5/8 no update waits for a reboot of fortress
  #   why: until then the old kernel runs, whatever is installed
  check() { reboot_current; }
  apply() {
    (
      reboot_notes fortress fortress-node && reboot_guests_down 300
    )
    systemd-run --quiet --collect --unit=fortress-reboot flock --timeout 60 /run/fortress/lock systemctl reboot
  }
  recover() { reboot_stay; }
  change 'no update waits for a reboot of fortress' reboots

  # 6/8 the virtual machines that ran before the reboot run again, and answer
  check() { reboot_over guests; }
  apply() { reboot_guests_up 600 'fortress-node 10.77.0.2 22'; }
  change 'the virtual machines that ran before the reboot run again, and answer'

  # 7/8 fortress has started, and no unit has failed that had not before
  check() { reboot_over units; }
  apply() { reboot_units 600; }
  change 'fortress has started, and no unit has failed that had not before'

  needs_other_node fortress-node 'bash 09-host-reboot.sh before' 'done' after
  # 8/8 fortress-node is Ready since the reboot
  check() { reboot_over node-fortress-node; }
  apply() { reboot_done node-fortress-node; }
  change 'fortress-node is Ready since the reboot'
  needs_other_node
}

# before: on fortress-node, for fortress.
before_here() {
  # 1/1 fortress-node is Ready, as the cluster sees it
  check() { reboot_node_ready server fortress-node fortress-node; }
  wait_for 'fortress-node is Ready, as the cluster sees it' 600
}

# What main uses.
# from lib/k3s/members.sh: K3S K3S_ETC K3S_DATA K3S_NOTES k3s_no k3s_kubectl k3s_self k3s_answers k3s_said
# from lib/k3s/nodes.sh: k3s_node node_absent
# from lib/host/reboot.sh: reboot_reason
# from lib/engine/shell/put.sh: FK_STATE
# from lib/engine/shell/snapshot.sh: fk_etc fk_strayed
# from lib/engine/shell/printed.sh: FK_OUT FK_RC FK_TX FK_VISIT FK_ARM FK_BACK FK_TMP begin lock usage recover holds
# from lib/engine/shell/printed.sh: change demand wait_for fail needs_other_node other_node_is_done

main "$@"
