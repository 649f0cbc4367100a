# shellcheck shell=bash
# Backups on a node: its notes about them, and what a bundle becomes there: a drill beside the running cluster, or the cluster
# itself. It uses lib/k3s/members.sh. A bundle in clear is in memory only, for root alone, and not for long.
BACKUP=/var/lib/fortress/backup BUNDLE=/run/fortress/bundle
export BACKUP BUNDLE

# backup_said: all notes of this node, one line each: which, then time, name, bytes, ok or failed, why.
backup_said() {
  local note
  for note in "$BACKUP"/notes/*; do
    case $note in *.part | *'*') ;; *) printf '%s\t%s\n' "${note##*/}" "$(cat "$note")" ;; esac
  done
}

# backup_note WHICH NAME ok|failed [WHY]: as the program on the node notes its own.
backup_note() {
  local line why=${4-}
  why=${why//[$'\t\n\r']/ }
  line=$(printf '%(%Y-%m-%dT%H:%M:%SZ)T\t%s\t0\t%s\t%s' -1 "$2" "$3" "${why:0:500}")
  install --directory --mode=700 "$BACKUP" "$BACKUP/notes"
  printf '%s\n' "$line" > "$BACKUP/notes/$1.part"
  mv --force "$BACKUP/notes/$1.part" "$BACKUP/notes/$1"
  [ "$3" = failed ] || cp --force "$BACKUP/notes/$1" "$BACKUP/notes/$1.good"
}

# backup_open MIB: mounts an empty file system in memory for a bundle in clear, in place of one that a killed run has left.
backup_open() {
  local free options=mode=0700,nosuid,nodev,size=${1}m
  install --directory --mode=700 /run/fortress
  ! systemctl --quiet is-active fortress-drill.service || k3s_no 'another drill is under way there' || return
  [ ! -e /run/fortress/lock ] || flock --nonblock /run/fortress/lock true ||
    k3s_no "$(cat /run/fortress/owner) is at work there, and may need the bundle that is open: wait, or ./task unlock" || return
  backup_close
  free=$(($(awk '/^MemAvailable:/ { print $2 }' /proc/meminfo) / 1024))
  [ "$free" -gt "$(($1 + 256))" ] || k3s_no "it needs $(($1 + 256)) MiB of memory, and $free MiB are free" || return
  install --directory --mode=700 "$BUNDLE"
  mount --types tmpfs --options "$options,noswap" bundle "$BUNDLE" 2> /dev/null ||
    mount --types tmpfs --options "$options" bundle "$BUNDLE" || return
  # In case the laptop is gone before it could unmount it.
  systemd-run --quiet --collect --unit=fortress-bundle --on-active=2h umount --lazy "$BUNDLE"
}

backup_close() {
  systemctl --quiet stop fortress-bundle.timer 2> /dev/null || true # nothing was to be cleared
  while mountpoint --quiet "$BUNDLE"; do umount --lazy "$BUNDLE" || return; done
}

# backup_whole: the files that arrived are those that the laptop has verified. Standard input: lines of sha256sum.
backup_whole() {
  (cd "$BUNDLE" && sha256sum --check --quiet --strict) || k3s_no 'what arrived is not what was sent'
}

# backup_newer VERSION: k3s here is not older than what made the bundle: data of a newer one it might not understand.
backup_newer() {
  local here
  here=$("$K3S" --version | awk '/^k3s version / { print $3 }')
  [ "$(printf '%s\n%s\n' "$1" "$here" | sort --version-sort | head --lines=1)" = "$1" ] ||
    k3s_no "the bundle is from k3s $1, and here is the older $here: upgrade it first"
}

# backup_reset WORD...: k3s makes a cluster of one out of the snapshot, with the token of the bundle, and ends.
backup_reset() {
  local said rc=0
  # It unpacks a compressed snapshot into the directory in which it is started.
  cd "$BUNDLE/snapshot" || return
  said=$(timeout 600 "$K3S" server --config "$K3S_ETC/config.yaml" "$@" --cluster-reset \
    --cluster-reset-restore-path="$(printf '%s\n' "$BUNDLE"/snapshot/* | head --lines=1)" 2>&1) || rc=$?
  cd /
  [ "$rc" -eq 0 ] || k3s_no "k3s does not take the snapshot: $(backup_error <<< "$said")"
}

# backup_error: the last error of k3s on standard input.
backup_error() {
  grep --extended-regexp 'level=(fatal|error)|^Error: |^[EF][0-9]{4} ' | tail --lines=1 | cut --characters=1-400
}

# backup_canary SECRET CONFIGMAP: the canary is the one of this bundle, by the digests of its two values.
backup_canary() {
  local kind is
  for kind in secret configmap; do
    is=$(timeout 30 "$K3S" kubectl --kubeconfig "$K3S_ETC/k3s.yaml" get "$kind" canary --namespace fortress-canary \
      --output jsonpath='{.data.value}' 2>&1) || k3s_no "there is no canary: $(tail --lines=1 <<< "$is")" || return
    [ "$kind" = configmap ] || is=$(base64 --decode <<< "$is")
    is=$(printf %s "$is" | sha256sum | cut --delimiter=' ' --fields=1)
    [ "$is" = "$1" ] || k3s_no "the $kind of the canary is not the one of this bundle" || return
    shift
  done
}

# backup_inside ADDRESS SECRET CONFIGMAP: the drill itself, in a network namespace and on a file system of its own.
backup_inside() {
  local pid deadline said='' same
  # It has the address of the node that made the bundle: no other machine is in this network.
  ip address add "$1/32" dev lo
  ip route add default dev lo
  backup_reset --disable-agent --node-ip="$1" || return
  "$K3S" server --config "$K3S_ETC/config.yaml" --disable-agent --node-ip="$1" > "$BUNDLE/log" 2>&1 &
  pid=$!
  deadline=$((SECONDS + 300))
  until [ "$(timeout 10 "$K3S" kubectl --kubeconfig "$K3S_ETC/k3s.yaml" get --raw /readyz 2> /dev/null)" = ok ]; do
    if ! kill -0 "$pid" 2> /dev/null || [ "$SECONDS" -ge "$deadline" ]; then
      k3s_no "the restored cluster did not become ready: $(backup_error < "$BUNDLE/log")"
      return
    fi
    sleep 1
  done
  said=$(backup_canary "$2" "$3") || k3s_no "$said" || return
  for same in cred/encryption-config.json tls/server-ca.crt; do
    [ ! -e "$BUNDLE/server/$same" ] || cmp --silent "$BUNDLE/server/$same" "$K3S_DATA/server/$same" ||
      k3s_no "$same in the bundle is not that of its snapshot" || return
  done
  kill "$pid"
  wait "$pid" || true # it ends with the signal that it got
}

# backup_drill NAME ADDRESS SECRET CONFIGMAP VERSION: the bundle becomes a cluster, beside the running one and isolated from it.
backup_drill() {
  local said inside rc=0
  said=$(backup_newer "$5") || k3s_no "$said" || return
  # A unit has nothing of the shell that starts it.
  inside=$BUNDLE/inside
  {
    declare -p K3S K3S_ETC K3S_DATA BUNDLE
    declare -f k3s_no backup_reset backup_error backup_canary backup_inside
    printf 'backup_inside "$@"\n'
  } > "$inside" || return
  install --directory --mode=700 "$BUNDLE"/{data,data/server,data/server/logs,data/data,rancher}
  # A program that the bundle might hold is never run, and nothing outside of the bundle can be written.
  said=$(systemd-run --quiet --collect --wait --pipe --unit=fortress-drill \
    --property=PrivateNetwork=yes --property=PrivateTmp=yes --property=PrivateIPC=yes \
    --property=ProtectSystem=strict --property=ProtectHome=yes --property=ProtectKernelTunables=yes \
    --property=ProtectKernelModules=yes --property=ProtectControlGroups=yes --property=NoNewPrivileges=yes \
    --property="ReadWritePaths=$BUNDLE" --property="BindPaths=$BUNDLE/data:$K3S_DATA" \
    --property="BindPaths=$BUNDLE/rancher:/etc/rancher" --property="BindReadOnlyPaths=-$K3S_DATA/data" \
    --property=LimitCORE=0 --property=Nice=5 --property=RuntimeMaxSec=1200 \
    bash --noprofile --norc -uo pipefail "$inside" "$2" "$3" "$4" 2>&1) || rc=$?
  if [ "$rc" -eq 0 ]; then
    backup_note drill "$1" ok
  else
    backup_note drill "$1" failed "$said"
    k3s_no "${said:-it was ended}"
  fi
}

# backup_nobody: no data of a cluster is here that could be lost, also none that a restore moved away before it was killed.
backup_nobody() {
  local aside=$K3S_DATA/before-restore
  local size changed etcd=$K3S_DATA/server/db/etcd
  [ ! -e "$aside/begun" ] || [ ! -d "$aside/server" ] ||
    k3s_no "a restore was killed here, and a cluster has its data in $aside" || return
  [ -d "$etcd/member" ] || return 0
  size=$(du --summarize --human-readable "$etcd" | cut --fields=1)
  changed=$(date --utc --date="@$(stat --format=%Y "$etcd/member/wal")" +%FT%TZ)
  k3s_no "a cluster has its data here: $size, changed $changed"
}

# backup_returns: the data that a restore has moved away comes back, also in the next run when the restore was killed.
backup_returns() {
  local aside=$K3S_DATA/before-restore
  [ -e "$aside/begun" ] || return 0
  systemctl stop k3s.service
  if [ -d "$aside/server" ]; then
    rm --recursive --force "$K3S_DATA/server"
    mv --no-target-directory "$aside/server" "$K3S_DATA/server"
  elif [ "$(cat "$aside/begun")" = nothing ]; then
    rm --recursive --force "$K3S_DATA/server"
  fi
  if [ -e "$aside/password" ]; then mv --force --no-target-directory "$aside/password" /etc/rancher/node/password; fi
  rm --force "$aside/begun"
}

# backup_restored WHEN: it was restored in this run.
backup_restored() { [ "$(cat "$BACKUP/restored" 2> /dev/null)" = "$1" ] || k3s_no 'this cluster is not the one of the bundle'; }

# backup_restore WHEN NAME NODE SECRET CONFIGMAP VERSION: the bundle becomes the cluster of this node. The data that
# was there is moved away, and comes back when this fails.
backup_restore() {
  local aside=$K3S_DATA/before-restore said when=$1
  shift
  backup_newer "$5" || return
  backup_returns
  systemctl stop k3s.service
  rm --recursive --force "$aside"
  install --directory --mode=700 "$aside"
  if [ -d "$K3S_DATA/server/db" ]; then echo something; else echo nothing; fi > "$aside/begun"
  sync "$aside/begun" "$aside"
  if [ -d "$K3S_DATA/server/db" ]; then
    aside "$K3S_DATA/server" "$aside/server" k3s.service
  else
    rm --recursive --force "$K3S_DATA/server"
  fi
  if [ -e /etc/rancher/node/password ]; then cp --preserve=mode /etc/rancher/node/password "$aside/password"; fi
  install --directory --mode=700 "$K3S_DATA/server" "$K3S_DATA/server/logs"
  # The restored cluster has the hash of this password, and would refuse a node with another one.
  if [ -e "$BUNDLE/rancher/node/password" ]; then
    install --directory --mode=755 /etc/rancher/node
    install --mode=600 "$BUNDLE/rancher/node/password" /etc/rancher/node/password
  fi
  if said=$(backup_reset 2>&1 && k3s_start server "$2" 600 && backup_canary "$3" "$4"); then
    rm --force "$aside/begun"
    backup_note restore "$1" ok
    printf '%s\n' "$when" > "$BACKUP/restored"
    [ -d "$aside/server" ] || rm --recursive --force "$aside"
    return 0
  fi
  backup_returns
  backup_note restore "$1" failed "$said"
  k3s_no "$said"
}

export -f backup_said backup_note backup_open backup_close backup_whole backup_newer \
  backup_reset backup_error backup_canary backup_inside backup_drill backup_nobody backup_returns backup_restored backup_restore
