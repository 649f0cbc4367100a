# shellcheck shell=bash
# Objects that a page applies by itself. Each carries the label fortress-kit=WHAT, which finds those that are declared no more.

# objects_named FILE: kind and name of each object of a file, in its order: kind/name, or kind/namespace/name.
objects_named() {
  kubectl create --dry-run=client --filename="$1" \
    --output=go-template='{{ .kind }}/{{ with .metadata.namespace }}{{ . }}/{{ end }}{{ .metadata.name }}{{ "\n" }}'
}

# objects_there WHAT KINDS: the same of what is in the cluster with our label.
objects_there() {
  local one='{{ .kind }}/{{ with .metadata.namespace }}{{ . }}/{{ end }}{{ .metadata.name }}{{ "\n" }}'
  kubectl get "$2" --all-namespaces --selector="fortress-kit=$1" --output=go-template="{{ range .items }}$one{{ end }}"
}

# objects_spare WHAT KINDS FILE: what is in the cluster with our label and no longer in the file.
objects_spare() {
  local there named
  there=$(objects_there "$1" "$2") && named=$(objects_named "$3") || return
  comm -23 <(LC_ALL=C sort <<< "$there") <(LC_ALL=C sort <<< "$named") | grep . || true
}

# objects_hold WHAT KINDS FILE: the objects are there as the file has them, and none of ours beside them.
objects_hold() {
  local spare rc=0
  [ -f "$3" ] || { echo 'nothing was applied yet'; return 1; }
  spare=$(objects_spare "$1" "$2" "$3") || return
  [ -z "$spare" ] || { printf -- '- %s is declared no more\n' "${spare//$'\n'/, }"; rc=1; }
  release_diff fortress-kit default '' < "$3" || rc=1
  return "$rc"
}

# objects_apply WHAT KINDS FILE: one after the other as the file has them; what is declared no more goes last.
objects_apply() {
  if [ -n "${FK_TX-}" ]; then objects_keep "$1" "$2" "$FK_STATE/tx/$FK_TX/objects.$1" || return; fi
  release_awaited kubectl apply --server-side --force-conflicts --field-manager=fortress-kit --filename="$3" || return
  objects_spare "$1" "$2" "$3" | objects_delete
}

# objects_keep WHAT KINDS FILE: those in the cluster with our label as they are, without what only the server writes.
objects_keep() {
  local all
  all=$(kubectl get "$2" --all-namespaces --selector="fortress-kit=$1" --output=yaml) || return
  sed --regexp-extended '/^    (creationTimestamp|generation|resourceVersion|uid): /d' <<< "$all" > "$3.part"
  sync "$3.part" && mv "$3.part" "$3"
}

# objects_back WHAT KINDS FILE KEPT: those of ours are there as KEPT has them, and no other.
objects_back() {
  local named=''
  if grep --quiet '^- ' "$4"; then
    kubectl apply --server-side --force-conflicts --field-manager=fortress-kit --filename="$4" || return
    named=$(objects_named "$4") || return
  fi
  objects_there "$1" "$2" |
    { grep --fixed-strings --line-regexp --invert-match --file=<(printf '%s\n' "$named") || true; } | objects_delete
}

# objects_gone WHAT KINDS FILE: none with our label is left, the last of the file first; the API has an order of its own.
# Where the kinds are gone, so are they.
objects_gone() {
  local there named='' kept=$FK_STATE/tx/${FK_TX-}/objects.$1
  # In a transaction that is rolled back; without the file nothing was applied.
  if [ -n "${FK_TX-}" ]; then
    [ ! -e "$kept" ] || objects_back "$1" "$2" "$3" "$kept"
    return
  fi
  there=$(objects_there "$1" "$2" 2> "$FK_TMP/objects.err") || {
    grep --ignore-case 'the server doesn.t have a resource type' "$FK_TMP/objects.err" > /dev/null && return 0
    cat "$FK_TMP/objects.err" >&2
    return 1
  }
  [ ! -f "$3" ] || named=$(objects_named "$3" | tac) || return
  {
    grep --fixed-strings --line-regexp --invert-match --file=- <(printf '%s\n' "$there") <<< "$named" || true
    grep --fixed-strings --line-regexp --file=- <(printf '%s\n' "$named") <<< "$there" || true
  } | objects_delete
}

# objects_delete: those on standard input, as objects_named writes them.
objects_delete() {
  local kind name namespace
  while IFS=/ read -r kind namespace name; do
    [ -n "$kind" ] || continue
    if [ -n "$name" ]; then kubectl delete "$kind" "$name" --namespace "$namespace" --ignore-not-found --wait --timeout=60s
    else kubectl delete "$kind" "$namespace" --ignore-not-found --wait --timeout=60s; fi || return
  done
}
export -f objects_named objects_there objects_spare objects_hold objects_apply objects_keep objects_back objects_gone
export -f objects_delete
