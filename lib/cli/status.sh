# shellcheck shell=bash
# What a machine reports of itself for ./task status, in one round trip. It only reads, also from the API where there is one; what
# does not answer is left out.

status_machine() {
  local restart='' failed full
  . /etc/os-release
  restart=$(reboot_reason | paste --serial --delimiters=';' | sed 's/;/; /g')
  if command -v update_engine_client > /dev/null &&
    update_engine_client -status 2> /dev/null | grep UPDATED_NEED_REBOOT > /dev/null; then
    restart='a new system'
  fi
  failed=$(systemctl list-units --state=failed --plain --no-legend --no-pager 2> /dev/null |
    cut --delimiter=' ' --fields=1 | paste --serial --delimiters=' ')
  full=$(df --output=target,pcent / /var/lib/rancher 2> /dev/null |
    awk 'NR > 1 && $2 + 0 >= 85 && !seen[$1]++ { printf "%s%s %s", sep, $1, $2; sep = ", " }')
  answer machine now "$(date +%s)" up "$(cut --delimiter=. --fields=1 /proc/uptime)" system "$PRETTY_NAME" \
    kernel "$(uname --kernel-release)" restart "$restart" failed "$failed" full "$full"
}

# The pages that the machine has a record of, and the files of each that differ from what it left there.
status_pages() {
  local dir changed
  fk_strayed > "$FK_TMP/changed"
  [ -s "$FK_TMP/recorded" ] || return 0
  while IFS= read -r dir; do
    dir=${dir##*/}
    changed=$(awk -F '\t' -v page="$dir" '$1 == page { print $2 }' "$FK_TMP/changed")
    answer page name "$dir" changed "$changed"
  done < "$FK_TMP/recorded"
}

# status_unfinished: what an interrupted restore or replacement has left here, in a word.
status_unfinished() {
  if [ -e "$K3S_DATA/before-restore/begun" ]; then
    echo restore
  elif [ -d "$K3S_DATA/replaced" ] && [ ! -e "$K3S_DATA/server/db" ] && [ ! -e "$K3S_DATA/agent" ]; then
    echo aside
  fi
}

status_k3s() {
  local said
  [ -L "$K3S" ] || return 0
  said=$(k3s_certificates leaf 2> /dev/null | head --lines=1) || said=''
  answer k3s active "$(systemctl is-active k3s.service 2> /dev/null)" version "$(k3s_version)" \
    staged "$(ls /opt/k3s 2> /dev/null)" upgrading "$(k3s_noted to)" certificate "$said" \
    said "$(k3s_said | tail --lines=1)" unfinished "$(status_unfinished)"
  [ -s "$K3S_ETC/k3s.yaml" ] || return 0
  # A server that hangs is no reason to wait long: others are read as well.
  said=$(K3S_SECONDS=5 status_nodes 2> /dev/null) || return 0
  answer nodes nodes "$said"
  # Where cert-manager is not installed there are no such objects.
  said=$(K3S_SECONDS=5 status_certificates 2> /dev/null) || return 0
  answer certificates certificates "$said"
}

# status_certificates: what 33-certificates has made, one a line: name, Ready, end, end of an intermediate, why it is not Ready.
status_certificates() {
  local column columns='' ready='.status.conditions[?(@.type=="Ready")]'
  for column in .metadata.name "$ready.status" .status.notAfter '.metadata.annotations.fortress-kit/until' "$ready.message"; do
    columns+="${columns:+{\"\t\"\}}{$column}"
  done
  k3s_kubectl get certificates.cert-manager.io,secrets --all-namespaces \
    --selector='fortress-kit in (certificates, intermediate)' --output jsonpath="{range .items[*]}$columns{\"\n\"}{end}"
}

# status_nodes: the nodes as the API reports them, one a line: name, version, Ready, its reason, vote in etcd, cordoned, drained,
# staged.
status_nodes() {
  local column columns='' condition='.status.conditions[?(@.type=="Ready")]' vote='.status.conditions[?(@.type=="EtcdIsVoter")]'
  for column in .metadata.name .status.nodeInfo.kubeletVersion "$condition.status" "$condition.reason" "$vote.status" \
    .spec.unschedulable ".metadata.annotations.$AWAY" ".metadata.annotations.$STAGED"; do
    columns+="${columns:+{\"\t\"\}}{$column}"
  done
  k3s_kubectl get nodes --output jsonpath="{range .items[*]}$columns{\"\n\"}{end}"
}

# What the backup notes: which, time, name, bytes, ok or failed, why.
status_backup() {
  local note
  for note in /var/lib/fortress/backup/notes/*; do
    case $note in *.part | *'*') ;; *) answer note which "${note##*/}" line "$(cat "$note")" ;; esac
  done
}
