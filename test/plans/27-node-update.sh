#!/bin/bash
# 27-node-update: Every Flatcar node runs the pinned release: proven, written to its other slot, and started on trial, one node after the other.
#
# Run it as root on fortress-node:
#   bash 27-node-update.sh
# It has 7 steps. Each checks first, and changes only what does not hold.
# It keeps no record, so undo cannot take it back. It checks no controls: verify does.
# shellcheck disable=SC2034 # functions read what is set here
set -euo pipefail
FK_PAGE=27-node-update FK_FILE=27-node-update.sh
export FK_PAGE FK_FILE

main() {
  case ${1-} in '') ;; *) usage ;; esac
  begin
  FLATCAR_NOTES=/var/lib/fortress/flatcar
  export FLATCAR_NOTES

  flatcar_no() {
    printf '%s\n' "$*"
    return 1
  }

  flatcar_version() { (. /etc/os-release && printf '%s\n' "$VERSION_ID"); }

  flatcar_runs() { [ "$(flatcar_version)" = "$1" ] || flatcar_no "$(flatcar_version) runs"; }

  # flatcar_not_newer VERSION: what runs is that, or an older one.
  flatcar_not_newer() {
    local newest
    newest=$(printf '%s\n' "$1" "$(flatcar_version)" | sort --version-sort | tail --lines=1)
    [ "$newest" = "$1" ] || flatcar_no "$newest runs"
  }

  # flatcar_pending: the next start is in the other slot.
  flatcar_pending() {
    update_engine_client -status 2> /dev/null | grep --line-regexp CURRENT_OP=UPDATE_STATUS_UPDATED_NEED_REBOOT > /dev/null
  }

  # flatcar_staged VERSION: it is this one that waits there.
  flatcar_staged() {
    flatcar_pending && [ "$(cat "$FLATCAR_NOTES/staged" 2> /dev/null)" = "$1" ] || flatcar_no 'it is not there'
  }

  # flatcar_waits_for VERSION: nothing waits for the next start but this.
  flatcar_waits_for() {
    ! flatcar_pending || flatcar_staged "$1" > /dev/null || flatcar_no 'a release that nobody asked for waits'
  }

  # flatcar_forget: the next start is in the slot that runs.
  flatcar_forget() {
    rm --force "$FLATCAR_NOTES/staged"
    cgpt prioritize "$(rootdev -s /usr)"
    update_engine_client -reset_status
  }

  # flatcar_stage VERSION: the release is written to the other slot, and noted.
  flatcar_stage() {
    install --directory --mode=700 "$FLATCAR_NOTES"
    rm --force "$FLATCAR_NOTES/staged"
    flatcar-update --to-version "$1" --disable-afterwards || return
    printf '%s\n' "$1" > "$FLATCAR_NOTES/staged.part"
    sync "$FLATCAR_NOTES/staged.part"
    mv --force "$FLATCAR_NOTES/staged.part" "$FLATCAR_NOTES/staged"
  }
  export -f flatcar_no flatcar_version flatcar_runs flatcar_not_newer flatcar_pending flatcar_staged flatcar_waits_for \
    flatcar_forget flatcar_stage
  # flatcar_try ROLE NAME: notes whether the node was Ready.
  flatcar_try() {
    local ready
    ready=$(k3s_node "$1" "$2" '{.status.conditions[?(@.type=="Ready")].status}' 2> /dev/null) || ready=Unknown
    printf '%s\n' "${ready:-Unknown}" > "$FLATCAR_NOTES/trial.part"
    sync "$FLATCAR_NOTES/trial.part"
    mv --force "$FLATCAR_NOTES/trial.part" "$FLATCAR_NOTES/trial"
  }

  flatcar_kept() { [ ! -e "$FLATCAR_NOTES/trial" ] || flatcar_no 'it is on trial'; }

  # flatcar_keep ROLE NAME SECONDS: the node becomes as healthy as it was.
  flatcar_keep() {
    local said deadline=$((SECONDS + $3))
    until said=$(k3s_is "$1" "$2" "$(k3s_version)" "$(cat "$FLATCAR_NOTES/trial")"); do
      [ "$SECONDS" -lt "$deadline" ] || flatcar_no "$(flatcar_version) runs, and k3s is not healthy: $said" || return
      sleep 2
    done
    rm --force "$FLATCAR_NOTES/trial" "$FLATCAR_NOTES/staged"
  }

  # flatcar_back: the next start is in the other slot, where the release before is.
  flatcar_back() {
    local slot
    slot=$(cgpt find -t flatcar-usr 2> /dev/null | grep --invert-match --line-regexp --fixed-strings -e "$(rootdev -s /usr)") ||
      flatcar_no 'there is no other slot' || return
    cgpt prioritize "$slot" && rm --force "$FLATCAR_NOTES/trial" "$FLATCAR_NOTES/staged"
  }
  export -f flatcar_try flatcar_kept flatcar_keep flatcar_back

  # 1/7 Flatcar 4757.2.1 is no older release than fortress-node runs
  #   why: what a newer one has written on the disk, an older one may not read
  check() { flatcar_not_newer 4757.2.1; }
  demand 'Flatcar 4757.2.1 is no older release than fortress-node runs' 'pin the release that runs in config/versions.yaml; an older one needs a new disk: ./task node rebuild fortress-node'

  # 2/7 no release is installed but by this page
  #   why: whatever the update server offers would run after the next reboot, whoever asked for that one
  check() {
    put_matches /etc/flatcar/update.conf f06128aab41ded59317e76b357c5a9fff523c723d3b80adecebc0a970af56e84 644 root:root
  }
  apply() {
    put /etc/flatcar/update.conf 644 root:root << 'FORTRESS'
GROUP=stable
REBOOT_STRATEGY=off
SERVER=disabled
FORTRESS
    systemctl try-restart update-engine.service
    put_finish /etc/flatcar/update.conf
  }
  recover() {
    put_restore /etc/flatcar/update.conf
    { systemctl try-restart update-engine.service
    } || true # the old file was good for it once
  }
  change 'no release is installed but by this page'

  # 3/7 no other release waits for the next start
  check() { flatcar_waits_for 4757.2.1; }
  apply() { flatcar_forget; }
  change 'no other release waits for the next start'

  # 4/7 etcd snapshot before-flatcar-4757.2.1 is saved
  #   why: the disk of a node that comes back in neither slot is lost
  check() {
    flatcar_runs 4757.2.1 ||
    compgen -G '/var/lib/rancher/k3s/server/db/snapshots/before-flatcar-4757.2.1-*' > /dev/null
  }
  apply() { /opt/bin/k3s etcd-snapshot save --name before-flatcar-4757.2.1; }
  change 'etcd snapshot before-flatcar-4757.2.1 is saved'

  # 5/7 Flatcar 4757.2.1 is in the other slot of /usr, and its signature is proven
  #   why: update_engine proves it by the key in the release that runs
  check() { flatcar_runs 4757.2.1 || flatcar_staged 4757.2.1; }
  apply() { flatcar_stage 4757.2.1; }
  change 'Flatcar 4757.2.1 is in the other slot of /usr, and its signature is proven'

  # 6/7 fortress-node runs Flatcar 4757.2.1
  #   why: a slot that does not boot is left by itself: then the release before runs, and this page says so
  check() { flatcar_runs 4757.2.1; }
  apply() {
    flatcar_try server fortress-node
    systemd-run --quiet --collect --unit=fortress-reboot flock --timeout 60 /run/fortress/lock systemctl reboot
  }
  change 'fortress-node runs Flatcar 4757.2.1' reboots

  # 7/7 k3s on fortress-node is healthy since
  #   why: where it is not, the release before starts again from the other slot
  check() { flatcar_kept; }
  apply() { flatcar_keep server fortress-node 540; }
  recover() {
    flatcar_back
    systemd-run --quiet --collect --unit=fortress-reboot flock --timeout 60 /run/fortress/lock systemctl reboot
  }
  change 'k3s on fortress-node is healthy since'
}

# What main uses.
# from lib/k3s/members.sh: K3S K3S_ETC K3S_DATA K3S_NOTES k3s_no k3s_version k3s_kubectl k3s_self k3s_answers k3s_said
# from lib/k3s/nodes.sh: k3s_node k3s_is
# from lib/engine/shell/put.sh: FK_STATE put put_owner put_finish put_finished put_restore put_matches
# from lib/engine/shell/snapshot.sh: record_before
# from lib/engine/shell/printed.sh: FK_OUT FK_RC FK_TX FK_VISIT FK_ARM FK_BACK FK_TMP begin lock usage recover holds
# from lib/engine/shell/printed.sh: change demand fail

main "$@"
