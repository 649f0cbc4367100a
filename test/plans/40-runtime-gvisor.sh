#!/bin/bash
# 40-runtime-gvisor: gVisor on every node: a kernel of its own for pods, which the containerd of k3s starts as the handler runsc.
#
# Run it as root on fortress-node:
#   FK_FILES=DIR bash 40-runtime-gvisor.sh
# It has 9 steps. Each checks first, and changes only what does not hold.
# It keeps no record, so undo cannot take it back. It checks no controls: verify does.
# FK_FILES is a directory with these downloads. Each is proven before it is used:
#   https://storage.googleapis.com/gvisor/releases/release/20261005.0/x86_64/gvisor.tar.zstd
# Steps that could lock you out are transactions. When one is done, log in by a NEW connection and run:
#   touch /run/fortress-confirm
# If you do not within 660 seconds of its beginning, the machine rolls it back.
# At a console: FK_KEEP_CHANGES=yes, and nothing is rolled back.
# shellcheck disable=SC2034 # functions read what is set here
set -euo pipefail
FK_PAGE=40-runtime-gvisor FK_FILE=40-runtime-gvisor.sh
export FK_PAGE FK_FILE

main() {
  case ${1-} in '') ;; *) usage ;; esac
  begin
  GVISOR=/opt/gvisor
  export GVISOR

  # gvisor_whole VERSION SHA512: every file of the release with this digest is there as it was unpacked, and no other; root alone
  # may change them, and everybody may run them: gVisor starts itself as nobody.
  gvisor_whole() {
    local place=$GVISOR/$1 said
    [ "$(cat "$place/of" 2> /dev/null)" = "$2" ] || k3s_no "$place is not unpacked from the pinned release" || return
    said=$(cd "$place" && sha256sum --check --quiet release.sha256 2>&1) || k3s_no "$place differs: $said" || return
    said=$(comm -3 <(gvisor_files "$place") <(sed 's/^[0-9a-f]*  //' "$place/release.sha256" | LC_ALL=C sort) | tr --delete '\t')
    [ -z "$said" ] || k3s_no "$place has a file of somebody else: $said" || return
    said=$(find "$place" \( ! -user root -o ! -group root -o ! -perm 755 \) ! -name of ! -name release.sha256)
    [ -z "$said" ] || k3s_no "mode or owner is not 755 root:root: $said" || return
    said=$("$place/runsc" --version 2>&1) || k3s_no "runsc does not start: $said" || return
    grep --fixed-strings --line-regexp --quiet "runsc version release-$1" <<< "$said" || k3s_no "runsc is another one: $said"
  }

  # gvisor_files DIRECTORY: what is in it, but for what is noted there when it is unpacked.
  gvisor_files() { (cd "$1" && find . ! -type d ! -path ./of ! -path ./release.sha256 | LC_ALL=C sort); }

  # gvisor_unpack VERSION SHA512: what was sent is proven once more by the digest of its makers, and unpacked beside its place.
  gvisor_unpack() {
    local place=$GVISOR/$1 new=$GVISOR/.$1.new name
    received "$GVISOR/gvisor-$1.tar.zstd" || return
    printf '%s  %s\n' "$2" "$FK_PART" | sha512sum --check --status ||
      { rm --force "$FK_PART" && k3s_no 'what was sent is not the pinned release: it is deleted'; } || return
    rm --recursive --force "$new" "$place.old" && install --directory --mode=755 "$new" || return
    ( set -o pipefail
      zstd --decompress --quiet --stdout "$FK_PART" |
        tar --extract --directory="$new" --no-same-owner --no-same-permissions ) || k3s_no 'it cannot be unpacked' || return
    for name in runsc containerd-shim-runsc-v1 gvisor-bin; do
      [ -e "$new/$name" ] || k3s_no "the release has no $name" || return
    done
    [ -z "$(find "$new" ! -type f ! -type d)" ] || k3s_no 'the release has links, or what is no file' || return
    chown --recursive root:root "$new" && chmod --recursive 755 "$new" || return
    (cd "$new" && gvisor_files . | xargs --delimiter='\n' sha256sum) > "$new.sha256" || return
    mv --force "$new.sha256" "$new/release.sha256" && echo "$2" > "$new/of" && sync --file-system "$new" || return
    if [ -e "$place" ]; then mv --no-target-directory "$place" "$place.old" || return; fi
    mv --no-target-directory "$new" "$place" && sync "$GVISOR" || return
    rm --recursive --force "$place.old" "$FK_PART"
  }

  export -f gvisor_whole gvisor_files gvisor_unpack
  # gvisor_handler: what the containerd that runs would start for the handler runsc: its shim, and the file that this reads.
  gvisor_handler() {
    timeout 30 "$K3S" crictl info --output go-template --template \
      '{{with .config.containerd.runtimes.runsc}}{{.runtimeType}} {{.runtimePath}} {{.options.ConfigPath}}{{end}}'
  }

  # gvisor_known NODE VERSION: the containerd that runs has read what is on the node now and knows the handler, the kubelet says
  # so, and the Node is Ready.
  gvisor_known() {
    local said wanted="io.containerd.runsc.v1 $GVISOR/$2/containerd-shim-runsc-v1 /etc/containerd/runsc.toml"
    said=$(gvisor_handler 2>&1) || k3s_no "containerd does not answer: $(tail --lines=1 <<< "$said")" || return
    [ "$said" = "$wanted" ] || k3s_no "the containerd that runs has for the handler runsc: ${said:-nothing}" || return
    [ "$(stat --format=%Y "$K3S_DATA/agent/etc/containerd/config-v3.toml.d/50-gvisor.toml")" -le \
      "$(date --date="$(systemctl show --property=ExecMainStartTimestamp --value k3s.service)" +%s)" ] ||
      k3s_no 'k3s was started before the current configuration of containerd was written' || return
    tr '\0' '\n' < "/proc/$(systemctl show --property=MainPID --value k3s.service)/environ" |
      grep "^PATH=.*$GVISOR/$2:" > /dev/null || k3s_no "the k3s that runs has no $GVISOR/$2 in its PATH" || return
    said=$(k3s_self get node "$1" --output \
      jsonpath='{.status.conditions[?(@.type=="Ready")].status} {.status.runtimeHandlers[*].name}' 2>&1) ||
      k3s_no "the API does not answer: $(tail --lines=1 <<< "$said")" || return
    [ "${said%% *}" = True ] || k3s_no "Node $1 is not Ready" || return
    case " ${said#* } " in *' runsc '*) ;; *) k3s_no "the kubelet knows no handler runsc: $said" ;; esac
  }

  # gvisor_start ROLE NODE VERSION SECONDS: k3s restarts, and the Node is Ready within these seconds.
  gvisor_start() {
    local deadline=$((SECONDS + $4)) said=''
    k3s_start "$1" "$2" "$4" || {
      tail --lines=3 "$K3S_DATA/agent/containerd/containerd.log" 2> /dev/null
      return 1
    }
    until said=$(gvisor_known "$2" "$3"); do
      [ "$SECONDS" -lt "$deadline" ] || k3s_no "$said" || return
      sleep 1
    done
  }

  # gvisor_unused NODE: no pod of the node runs in gVisor; those that do are named. Without k3s the processes alone say so.
  gvisor_unused() {
    local pods='' one='{.metadata.namespace}/{.metadata.name} {.status.phase}{"\n"}'
    if systemctl --quiet is-active k3s.service; then
      pods=$(k3s_self get pods --all-namespaces --field-selector "spec.nodeName=$1" --output \
        jsonpath='{range .items[?(@.spec.runtimeClassName=="gvisor")]}'"$one{end}") || return
      pods=$(awk '$2 != "Succeeded" && $2 != "Failed" { print $1 }' <<< "$pods" | paste --serial --delimiters=' ')
    fi
    [ -n "$pods" ] || [ -z "$(find /proc/[0-9]*/exe -lname "$GVISOR/*" 2> /dev/null)" ] || pods='their processes are still there'
    [ -z "$pods" ] || k3s_no "pods run in gVisor: $pods"$'\n''./task runtime-class undo comes first; then delete these'
  }
  export -f gvisor_handler gvisor_known gvisor_start gvisor_unused
  : "${FK_FILES:?a directory with the downloads of this page}"

  # 1/9 the kernel lets programs make namespaces of users
  #   why: gVisor starts each sandbox in one, where root is nobody
  check() {
    found=$(sysctl --values user.max_user_namespaces)
    echo "user.max_user_namespaces is $found" && test "$found" -gt 0
  }
  demand 'the kernel lets programs make namespaces of users' 'a file of /etc/sysctl.d sets user.max_user_namespaces to 0: take that out, then sysctl --system'

  # 2/9 zstd is there
  check() { command -v zstd; }
  demand 'zstd is there' 'the release of gVisor is packed by it; Flatcar has it in its image'

  # 3/9 directory /opt/gvisor exists
  check() { test "$(stat --format='%F %a %U:%G' /opt/gvisor)" = 'directory 755 root:root'; }
  apply() {
    record_before /opt/gvisor && install --directory --mode=755 --owner=root --group=root /opt/gvisor
  }
  change 'directory /opt/gvisor exists'

  # 4/9 gVisor 20261005.0 is downloaded, verified and unpacked
  #   why: runsc alone starts nothing: the shim, and the programs of gvisor-bin, are of the same release
  check() {
    gvisor_whole 20261005.0 27fed731b432d6a39d908956623fd273979fda66b3ccf4b9c12413ea417c516e18a9dc3cced403fb28efe495d64dce4251f51cf8c4d9f4a72f9833bd96b6bb35
  }
  apply() {
    printf '%s  %s\n' 27fed731b432d6a39d908956623fd273979fda66b3ccf4b9c12413ea417c516e18a9dc3cced403fb28efe495d64dce4251f51cf8c4d9f4a72f9833bd96b6bb35 "$FK_FILES"/gvisor.tar.zstd | sha512sum --check --quiet
    digest=$(sha256sum "$FK_FILES"/gvisor.tar.zstd | cut --delimiter=' ' --fields=1)
    cp "$FK_FILES"/gvisor.tar.zstd /opt/gvisor/.gvisor-20261005.0.tar.zstd."${digest:0:16}".part
    export FK_SENT="$digest"' /opt/gvisor/gvisor-20261005.0.tar.zstd'
    gvisor_unpack 20261005.0 27fed731b432d6a39d908956623fd273979fda66b3ccf4b9c12413ea417c516e18a9dc3cced403fb28efe495d64dce4251f51cf8c4d9f4a72f9833bd96b6bb35
  }
  change 'gVisor 20261005.0 is downloaded, verified and unpacked'

  # Steps 5 to 8 are one transaction.
  FK_RESTART='always	k3s.service	/etc/containerd/	-	/etc/rancher/k3s/token
always	k3s.service	/etc/systemd/system/k3s.service.d/	-	/etc/rancher/k3s/token' FK_TABLES=''
  transaction 660

  # 5/9 runsc.toml: sandboxes start by systrap, and seccomp profiles of pods count in them
  check() {
    put_matches /etc/containerd/runsc.toml 7740b41f770faa9fa056232a220c23218340d273d7db0a80479df5bee45c4e04 644 root:root
  }
  apply() {
    put /etc/containerd/runsc.toml 644 root:root << 'FORTRESS'
# How each sandbox is started: read by gVisor's shim, when a pod begins.
binary_name = '/opt/gvisor/20261005.0/runsc'

[runsc_config]
  # Needs no virtualisation, so it is the same on metal and in a virtual machine.
  platform = 'systrap'
  # A network stack of its own: the kernel of the node sees packets of the pod, and no sockets.
  network = 'sandbox'
  # Without this gVisor ignores the seccomp profile of a pod.
  oci-seccomp = 'true'
  # The kubelet of k3s names groups as systemd does.
  systemd-cgroup = 'true'
FORTRESS
    put_finish /etc/containerd/runsc.toml
  }
  recover() { put_restore /etc/containerd/runsc.toml; }
  change 'runsc.toml: sandboxes start by systrap, and seccomp profiles of pods count in them'

  # 6/9 the configuration of containerd imports the handler runsc
  check() {
    put_matches /var/lib/rancher/k3s/agent/etc/containerd/config-v3.toml.d/50-gvisor.toml 1d0ee8b9063ac219245e807aee5375b0fcf7291bfe7a239e7baf951c825837a1 644 root:root
  }
  apply() {
    put /var/lib/rancher/k3s/agent/etc/containerd/config-v3.toml.d/50-gvisor.toml 644 root:root << 'FORTRESS'
# What the containerd of k3s has to know of gVisor. k3s writes its own configuration anew at each start, and that imports this.
version = 3

[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runsc]
  runtime_type = 'io.containerd.runsc.v1'
  runtime_path = '/opt/gvisor/20261005.0/containerd-shim-runsc-v1'

[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runsc.options]
  TypeUrl = 'io.containerd.runsc.v1.options'
  ConfigPath = '/etc/containerd/runsc.toml'
FORTRESS
    put_finish /var/lib/rancher/k3s/agent/etc/containerd/config-v3.toml.d/50-gvisor.toml
  }
  recover() { put_restore /var/lib/rancher/k3s/agent/etc/containerd/config-v3.toml.d/50-gvisor.toml; }
  change 'the configuration of containerd imports the handler runsc'

  # 7/9 k3s.service has the release in its PATH
  #   why: containerd finds the shims of pods that run by it when k3s has restarted: else all of them begin anew
  check() {
    put_matches /etc/systemd/system/k3s.service.d/path-gvisor.conf 5a34366c9b6b8eedd2d00090db8475753bbc461e3490fddae08c4e0f349be262 644 root:root
  }
  apply() {
    put /etc/systemd/system/k3s.service.d/path-gvisor.conf 644 root:root << 'FORTRESS'
# After a restart containerd looks for the shim of a container that runs by its name: runtime_path counts for new ones alone.
# Where it finds none, every container in a sandbox is lost, and begins anew.
[Service]
Environment=PATH=/opt/gvisor/20261005.0:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
FORTRESS
    systemctl daemon-reload
    put_finish /etc/systemd/system/k3s.service.d/path-gvisor.conf
  }
  recover() {
    put_restore /etc/systemd/system/k3s.service.d/path-gvisor.conf
    { systemctl daemon-reload
    } || true # the old file was good for it once
  }
  change 'k3s.service has the release in its PATH'

  # 8/9 containerd of fortress-node has the handler runsc, and the Node is Ready
  #   why: k3s restarts only where the containerd that runs does not know it; when that fails, everything is as it was
  check() { gvisor_known fortress-node 20261005.0; }
  apply() { gvisor_start server fortress-node 20261005.0 360; }
  change 'containerd of fortress-node has the handler runsc, and the Node is Ready'

  confirm

  # 9/9 Node fortress-node is labelled as one that has gVisor
  check() {
    test ready = "$(k3s_self get node fortress-node --output jsonpath='{.metadata.labels.fortress-kit/gvisor}')"
  }
  apply() { k3s_self label node fortress-node --overwrite fortress-kit/gvisor=ready; }
  change 'Node fortress-node is labelled as one that has gVisor'
}

# What main uses.
# from lib/k3s/members.sh: K3S K3S_ETC K3S_DATA K3S_NOTES k3s_no k3s_kubectl k3s_self k3s_config_digest k3s_answers
# from lib/k3s/members.sh: k3s_said k3s_start
# from lib/engine/shell/put.sh: FK_STATE put put_owner put_finish put_finished put_restore received put_matches
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
