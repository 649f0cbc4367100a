#!/bin/bash
# 25-k3s-upgrade: Every node runs the pinned version: servers one at a time, then agents; a node that is not healthy with it goes back.
#
# Run it as root on fortress-node:
#   FK_CONFIRM=fortress-node bash 25-k3s-upgrade.sh
# It has 7 steps. Each checks first, and changes only what does not hold.
# It keeps no record, so undo cannot take it back. It checks no controls: verify does.
# FK_CONFIRM=fortress-node confirms: operator accepts API downtime: fortress-node has no other server
# shellcheck disable=SC2034 # functions read what is set here
set -euo pipefail
FK_PAGE=25-k3s-upgrade FK_FILE=25-k3s-upgrade.sh
export FK_PAGE FK_FILE

main() {
  case ${1-} in '') ;; *) usage ;; esac
  begin
  # version_numbers VERSION: vMAJOR.MINOR.PATCH[-rcN]+k3sN as five numbers; a release comes after all its candidates.
  version_numbers() {
    [[ $1 =~ ^v([0-9]+)\.([0-9]+)\.([0-9]+)(-rc([0-9]+))?\+k3s([0-9]+)$ ]] || k3s_no "'$1' is no version of k3s" || return
    set -- "${BASH_REMATCH[@]}"
    printf '%s %s %s %s %s\n' "$2" "$3" "$4" "${6:-999999}" "$7"
  }

  # next_version FROM TO: TO is FROM or a later one, and no minor version between them is left out.
  next_version() {
    local said i old new
    [ "$1" != "$2" ] || return 0
    said=$(version_numbers "$1" && version_numbers "$2") || k3s_no "$said" || return
    read -r -a old <<< "${said%$'\n'*}"
    read -r -a new <<< "${said#*$'\n'}"
    for i in 0 1 2 3 4; do
      [ "${new[i]}" -ge "${old[i]}" ] || k3s_no "$1 runs, and $2 is older" || return
      [ "${new[i]}" -eq "${old[i]}" ] || break
    done
    [ "${new[0]}" -eq "${old[0]}" ] && [ "${new[1]}" -le $((old[1] + 1)) ] ||
      k3s_no "$1 runs, and $2 leaves out v${old[0]}.$((old[1] + 1))"
  }
  export -f version_numbers next_version
  # upgrade_from: the version that was last healthy here.
  upgrade_from() {
    local from
    from=$(k3s_noted from)
    printf '%s\n' "${from:-$(k3s_version)}"
  }

  # upgrade_begun VERSION: this version starts here, or the swap to it or away from it has begun: what had to hold before, held.
  upgrade_begun() { [ "$(k3s_version)" = "$1" ] || [ "$(k3s_noted from)" = "$1" ] || [ "$(k3s_noted to)" = "$1" ]; }
  export -f upgrade_from upgrade_begun
  # all_staged VERSION NAME…: the Nodes have the annotation of k3s-stage.
  all_staged() {
    local version=$1 said name has missing=''
    shift
    said=$(k3s_kubectl get nodes --output \
      jsonpath='{range .items[*]}{.metadata.name}{" "}{.metadata.annotations.fortress-kit/staged}{"\n"}{end}' 2>&1) ||
      k3s_no "$said" || return
    for name; do
      has=$(awk -v name="$name" '$1 == name { print $2 }' <<< "$said")
      [ "$has" = "$version" ] || missing+=" $name"
    done
    [ -z "$missing" ] || k3s_no "not staged on$missing"
  }

  # no_removed_apis VERSION URL…: no client has used an API that VERSION does not have. Each server counts since it was started.
  no_removed_apis() {
    local to said found='' server
    to=$(version_numbers "$1") || k3s_no "$to" || return
    shift
    for server; do
      said=$(K3S_SECONDS=60 k3s_kubectl --server="$server" get --raw /metrics 2>&1) ||
        k3s_no "$server does not answer: $(tail --lines=1 <<< "$said")" || return
      found+=$(awk -v to="$to" '
      function label(name) {
        return match($0, name "=\"[^\"]*\"") ? substr($0, RSTART + length(name) + 2, RLENGTH - length(name) - 3) : ""
      }
      BEGIN { split(to, new, " ") }
      /^apiserver_requested_deprecated_apis\{/ && $NF > 0 {
        if (split(label("removed_release"), gone, ".") < 2) next
        if (gone[1] + 0 != new[1] + 0 || gone[2] + 0 > new[2] + 0) next
        group = label("group"); part = label("subresource")
        print label("resource") (part == "" ? "" : "/" part) " of " (group == "" ? "" : group "/") label("version") \
          ", removed in " gone[1] "." gone[2]
      }' <<< "$said")$'\n'
    done
    found=$(grep . <<< "$found" | LC_ALL=C sort --unique) || return 0
    k3s_no "$found"
  }
  export -f all_staged no_removed_apis
  # swap_version ROLE NAME VERSION SECONDS: the other version runs and is healthy. What ran before is noted first, so that a run
  # that was killed can go back.
  swap_version() {
    local from ready said deadline=$((SECONDS + $4)) K3S_SWAPS=yes
    from=$(upgrade_from)
    ready=$(k3s_noted ready)
    [ -n "$ready" ] ||
      ready=$(k3s_node "$1" "$2" '{.status.conditions[?(@.type=="Ready")].status}' 2> /dev/null) || ready=''
    install --directory --mode=700 "$K3S_NOTES"
    printf '%s %s %s\n' "$from" "${ready:-Unknown}" "$3" > "$K3S_NOTES/upgrading.part"
    sync "$K3S_NOTES/upgrading.part"
    mv --force "$K3S_NOTES/upgrading.part" "$K3S_NOTES/upgrading"
    # Undo leaves the link alone: what the new version has written, the old one may not read.
    [ "$(k3s_version)" = "$3" ] || FK_KEEP='' k3s_use "$3" || return
    k3s_runs "$1" "$2" > /dev/null || k3s_start "$1" "$2" "$4" || return
    until said=$(k3s_is "$1" "$2" "$3" "$ready"); do
      [ "$SECONDS" -lt "$deadline" ] || k3s_no "$3 runs and is not healthy: $said" || return
      sleep 1
    done
    # The version before stays, and no older one.
    [ "$from" = "$3" ] ||
      find /opt/k3s -mindepth 1 -maxdepth 1 -type d ! -name "$from" ! -name "$3" -exec rm --recursive {} +
    rm --force "$K3S_NOTES/upgrading"
  }

  # swap_back ROLE NAME SECONDS: after a swap that failed, what ran before it runs again.
  swap_back() {
    # shellcheck disable=SC2034 # k3s_start sees it
    local from K3S_SWAPS=yes
    from=$(k3s_noted from)
    [ -n "$from" ] || return 0
    FK_KEEP='' k3s_use "$from" && k3s_start "$1" "$2" "$3" ||
      k3s_no "$from does not start either: ./task restore restores the snapshot that was saved before" || return
    rm --force "$K3S_NOTES/upgrading"
  }
  export -f swap_version swap_back

  # 1/7 k3s v1.36.4+k3s1 is the same or the next minor version
  #   why: nobody tests an upgrade that leaves out a minor version, or a downgrade
  check() { upgrade_begun v1.36.4+k3s1 || next_version "$(upgrade_from)" v1.36.4+k3s1; }
  demand 'k3s v1.36.4+k3s1 is the same or the next minor version' 'pin the next minor version in config/versions.yaml, and apply that first.
An older version needs the data of that time: ./task restore'

  # 2/7 k3s v1.36.4+k3s1 is staged on all nodes
  check() { upgrade_begun v1.36.4+k3s1 || all_staged v1.36.4+k3s1 fortress-node; }
  demand 'k3s v1.36.4+k3s1 is staged on all nodes' './task k3s-stage apply'

  # 3/7 cluster is healthy before the upgrade
  check() {
    upgrade_begun v1.36.4+k3s1 || {
      k3s_well 0 fortress-node &&
        k3s_is server fortress-node "$(k3s_version)" Unknown
    }
  }
  demand 'cluster is healthy before the upgrade' './task status shows what is wrong. An upgrade stops one server: only a healthy cluster keeps its quorum'

  # 4/7 no client uses an API that is removed in k3s v1.36.4+k3s1
  #   why: its requests would fail after the upgrade, and only then
  check() { upgrade_begun v1.36.4+k3s1 || no_removed_apis v1.36.4+k3s1 https://10.77.0.2:6443; }
  demand 'no client uses an API that is removed in k3s v1.36.4+k3s1' 'the audit log of the servers names the client: grep removed-release /var/lib/rancher/k3s/server/logs/audit.log
The count starts anew with k3s: when the client is mended, systemctl restart k3s on one server after the other'

  # 5/7 operator accepts API downtime: fortress-node has no other server
  #   why: the API does not answer for about a minute; pods keep running, and what needs the API fails meanwhile
  check() {
    [ "${FK_CONFIRM-}" != fortress-node ] || return 0
    upgrade_begun v1.36.4+k3s1
  }
  demand 'operator accepts API downtime: fortress-node has no other server' 'FK_CONFIRM=fortress-node before bash confirms it'

  # 6/7 etcd snapshot before-v1.36.4-k3s1 is saved
  #   why: what the new version writes, the old one may not read
  check() {
    upgrade_begun v1.36.4+k3s1 ||
      compgen -G '/var/lib/rancher/k3s/server/db/snapshots/before-v1.36.4-k3s1-*' > /dev/null
  }
  apply() { /opt/bin/k3s etcd-snapshot save --name before-v1.36.4-k3s1; }
  change 'etcd snapshot before-v1.36.4-k3s1 is saved'

  # 7/7 fortress-node runs k3s v1.36.4+k3s1 and is healthy
  #   why: when it is not healthy, the old version starts again
  check() {
    test ! -e "$K3S_NOTES/upgrading" && test "$(k3s_version)" = v1.36.4+k3s1 &&
      k3s_runs server fortress-node
  }
  apply() { swap_version server fortress-node v1.36.4+k3s1 540; }
  recover() { swap_back server fortress-node 540; }
  change 'fortress-node runs k3s v1.36.4+k3s1 and is healthy'
}

# What main uses.
# from lib/k3s/members.sh: K3S K3S_ETC K3S_DATA K3S_NOTES k3s_no k3s_use k3s_version k3s_kubectl k3s_self
# from lib/k3s/members.sh: k3s_config_digest k3s_answers k3s_said k3s_runs k3s_restarted k3s_start k3s_votes k3s_well
# from lib/k3s/nodes.sh: k3s_noted k3s_node k3s_is
# from lib/engine/shell/snapshot.sh: record_before
# from lib/engine/shell/printed.sh: FK_OUT FK_RC FK_TX FK_VISIT FK_ARM FK_BACK FK_TMP begin lock usage recover holds
# from lib/engine/shell/printed.sh: change demand fail

main "$@"
