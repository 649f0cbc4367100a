# shellcheck shell=bash
# A release of helm as it is in the cluster: whether it is what is declared, and whether its objects still are. The steps that use
# these functions are in lib/component/release.ts; they run on the laptop, with kubectl and helm.

# release_holds NAMESPACE NAME DECLARED IGNORED CHART [--values FILE]…: the release was installed with what DECLARED says, and
# each of its objects is as it was installed; else it fails and prints the difference. IGNORED has a line for each field that
# others write: KIND NAME PATH, where NAME may be *.
release_holds() {
  local namespace=$1 name=$2 declared=$3 ignored=$4 chart=$5 said state version with objects rc
  # One request: what helm says of it on the first line, its objects below.
  local look='{{ with .Release }}{{ .Info.Status }}{{ "\t" }}{{ .Chart.Metadata.Version }}{{ "\t" }}'
  look+='{{ .Info.Description }}{{ "\n" }}{{ .Manifest }}{{ end }}'
  shift 5
  said=$(helm get all "$name" --namespace "$namespace" --template "$look" 2>&1) || {
    [[ $said != *'release: not found'* ]] || said="$name is not installed in $namespace"
    printf '%s\n' "$said"
    return 1
  }
  objects=${said#*$'\n'}
  IFS=$'\t' read -r state version with <<< "${said%%$'\n'*}"
  if [ "$state" = deployed ] && [ "$with" = "$declared" ]; then
    rc=0
    release_diff helm "$namespace" "$ignored" <<< "$objects" || rc=1
    said=$(release_added "$namespace" "$name" <<< "$objects") || rc=1
    [ -z "$said" ] || rc=1
    awk -F '\t' 'NF { sub(/\..*/, "", $1); print $1 " " $3 "\n  added by " $5 ": " $6 }' <<< "$said"
    return "$rc"
  fi
  printf '%s of %s is %s: %s\n' "$name" "$version" "$state" "$with"
  printf 'declared: %s\n' "$declared"
  [ -f "$chart" ] || return 1
  release_would_change "$namespace" "$name" "$ignored" "$objects" "$chart" "$@"
  return 1
}

# release_ahead FILE: a plan sees standard input where FILE will be, which is not written yet.
release_ahead() { install -D --mode=600 /dev/stdin "$FK_TMP/ahead$1"; }

# release_would_change NAMESPACE NAME IGNORED OBJECTS CHART [--values FILE]…: prints what an upgrade would do to the OBJECTS.
release_would_change() {
  local namespace=$1 name=$2 ignored=$3 objects=$4 chart=$5 word words=() new
  shift 5
  for word; do
    [ ! -f "$FK_TMP/ahead$word" ] || word=$FK_TMP/ahead$word
    words+=("$word")
  done
  new=$(helm template "$name" "$chart" --namespace "$namespace" "${words[@]}" --dry-run=server --is-upgrade --no-hooks 2>&1) || {
    printf '%s\n' "$new"
    return 1
  }
  comm -23 <(release_objects <<< "$objects") <(release_objects <<< "$new") | sed 's/^/- /'
  release_diff helm "$namespace" "$ignored" <<< "$new"
}

# release_objects: kind and name of each object of the manifest on standard input, sorted.
release_objects() {
  awk '
    function out() { if (kind != "") print kind, name; kind = name = "" }
    /^---/ { out(); top = "" }
    /^[a-zA-Z]/ { top = $1 }
    /^kind:/ { kind = $2 }
    /^  name:/ && top == "metadata:" { name = $2; gsub(/"/, "", name) }
    END { out() }' | LC_ALL=C sort
}

# release_diff MANAGER NAMESPACE IGNORED: what the server would make of the manifest on standard input if MANAGER applied it,
# compared with what is there. It prints the fields that differ, and fails when there are any, or when it cannot be asked.
release_diff() {
  local rc=0 whole
  whole=$(release_here "$2" kubectl diff --server-side --force-conflicts --field-manager="$1" --concurrency=8 \
    --filename=- 2> "$FK_TMP/diff.err") || rc=$?
  if [ "$rc" -gt 1 ]; then
    cat "$FK_TMP/diff.err"
    return 1
  fi
  whole=$(release_fields "$3" <<< "$whole")
  [ -n "$whole" ] || return 0
  printf '%s\n' "$whole"
  return 1
}

# release_here NAMESPACE COMMAND…: for objects that name no namespace it is this one. (--namespace would refuse those that name
# another.)
release_here() {
  local namespace=$1 config=${KUBECONFIG:-$HOME/.kube/config} of='.contexts[0].context' context
  shift
  context=$(kubectl config view --minify --output=jsonpath="cluster: '{$of.cluster}', user: '{$of.user}'")
  printf 'contexts: [{name: fortress, context: {%s, namespace: %s}}]\ncurrent-context: fortress\n' \
    "$context" "$namespace" > "$FK_TMP/context"
  KUBECONFIG=$FK_TMP/context:$config KUBECTL_EXTERNAL_DIFF='diff --unified=99999 --new-file' "$@"
}

# release_added NAMESPACE NAME: what people have added by kubectl to the objects of the manifest on standard input, which are of
# this release: kind, namespace, name, place in the list of managers, manager, fields. A restart is not counted.
release_added() {
  local kinds each
  kinds=$(awk '
    /^apiVersion:/ { n = split($2, at, "/"); version = n == 2 ? "." at[2] "." at[1] : "" }
    /^kind:/ { print $2 version }' | LC_ALL=C sort --unique | paste --serial --delimiters=,)
  [ -n "$kinds" ] || return 0
  each='{{ range .items }}{{ $o := . }}{{ with .metadata.annotations }}'
  each+='{{ if and (eq (or (index . "meta.helm.sh/release-name") "") "'$2'") '
  each+='(eq (or (index . "meta.helm.sh/release-namespace") "") "'$1'") }}'
  each+='{{ range $i, $m := $o.metadata.managedFields }}{{ if not .subresource }}'
  each+='{{ $o.apiVersion }} {{ $o.kind }} {{ or $o.metadata.namespace "-" }} {{ $o.metadata.name }} {{ $i }} '
  each+='{{ .manager }} {{ .fieldsV1 }}{{ "\n" }}{{ end }}{{ end }}{{ end }}{{ end }}{{ end }}'
  kubectl get "$kinds" --all-namespaces --selector=app.kubernetes.io/managed-by=Helm --show-managed-fields \
    --output=go-template="$each" | awk '
    $6 ~ /^kubectl/ && $6 != "kubectl-rollout" {
      n = split($1, at, "/")
      fields = ""
      for (rest = $0; match(rest, /f:[^: \[\]]+/); rest = substr(rest, RSTART + RLENGTH))
        fields = fields " " substr(rest, RSTART + 2, RLENGTH - 2)
      print $2 (n == 2 ? "." at[2] "." at[1] : "") "\t" $3 "\t" $4 "\t" $5 "\t" $6 "\t" substr(fields, 2)
    }'
}

# release_take_added NAMESPACE NAME: what people have added goes: their fields are made those of one manager, who then has none.
# Each time one manager of an object, because the others change their places.
release_take_added() {
  local objects added kind namespace name at manager _ where ours patch whole
  whole='{"apiVersion":"{{ .apiVersion }}","kind":"{{ .kind }}","metadata":{"name":"{{ .metadata.name }}"}}'
  objects=$(helm get manifest "$2" --namespace "$1") || return
  while :; do
    added=$(release_added "$1" "$2" <<< "$objects") || return
    [ -n "$added" ] || return 0
    while IFS=$'\t' read -r kind namespace name at manager _; do
      where=()
      [ "$namespace" = - ] || where=(--namespace "$namespace")
      ours=/metadata/managedFields/$at
      patch="[{\"op\":\"test\",\"path\":\"$ours/manager\",\"value\":\"$manager\"},"
      patch+="{\"op\":\"replace\",\"path\":\"$ours/operation\",\"value\":\"Apply\"},"
      patch+="{\"op\":\"replace\",\"path\":\"$ours/manager\",\"value\":\"fortress-kit-taken\"}]"
      kubectl patch "$kind" "$name" "${where[@]}" --type=json --patch "$patch" || return
      kubectl get "$kind" "$name" "${where[@]}" --output=go-template="$whole" |
        kubectl apply --server-side --field-manager=fortress-kit-taken "${where[@]}" --filename=- || return
    done < <(awk -F '\t' '!seen[$1, $2, $3]++' <<< "$added")
  done
}

# release_fields IGNORED: of whole objects as diff compares them on standard input, the fields that differ, below their object. An
# element of a list is named without its place in it.
release_fields() {
  # shellcheck disable=SC2016 # awk has variables of its own
  IGNORED=$1 awk '
    # The path of the field that a line of one side of the difference belongs to.
    function path(side, text,   indent, key, n, i, all) {
      if (text !~ /[^ ]/) return paths[side]
      match(text, /^ */)
      indent = RLENGTH
      text = substr(text, indent + 1)
      n = depth[side]
      # An element of a list stands as deep as the key of the list.
      while (n > 0 && (at[side, n] > indent || at[side, n] == indent && (text !~ /^- / || keys[side, n] == "[]"))) n--
      for (; text ~ /^- /; indent += 2) {
        at[side, ++n] = indent
        keys[side, n] = "[]"
        text = substr(text, 3)
      }
      if (match(text, /^("[^"]*"|[^ :]+):( |$)/)) {
        key = substr(text, 1, RLENGTH)
        sub(/: ?$/, "", key)
        gsub(/"/, "", key)
        at[side, ++n] = indent
        keys[side, n] = key
      }
      depth[side] = n
      for (i = 1; i <= n; i++) all = all (i == 1 || keys[side, i] == "[]" ? "" : ".") keys[side, i]
      return paths[side] = all
    }
    function ignored(where,   i) {
      # What the server counts, and what helm writes into each object beside what the chart has.
      if (where ~ /^metadata\.(generation|managedFields|resourceVersion|labels|annotations)$/) return 1
      if (where ~ /^metadata\.(labels\.app\.kubernetes\.io\/managed-by|annotations\.meta\.helm\.sh\/.*)$/) return 1
      if (where ~ /^metadata\.annotations\.deprecated\.daemonset\.template\.generation$/) return 1
      for (i = 1; i <= rules; i++)
        if (kinds[i] == kind && (names[i] == "*" || names[i] == name) && index(where, fields[i]) == 1 &&
          substr(where, length(fields[i]) + 1, 1) ~ /^[.[]?$/) return 1
      return 0
    }
    # What stands before the kind and the name is judged when they are known.
    function out(   i, head, shown) {
      if (absent) print "+ " kind " " name " is not there"
      for (i = 1; i <= many && !absent; i++) {
        if (ignored(places[i])) continue
        if (!head++) print kind " " name
        # Below a field that was named nothing has to be.
        if (!shown || index(places[i], shown) != 1) print "  " (shown = places[i])
        print lines[i]
      }
      many = depth["-"] = depth["+"] = body = absent = 0
      kind = name = ""
    }
    BEGIN {
      for (i = split(ENVIRON["IGNORED"], given, "\n"); i > 0; i--) {
        if (split(given[i], words, " ") < 3) continue
        kinds[++rules] = words[1]
        names[rules] = words[2]
        fields[rules] = words[3]
      }
    }
    /^diff / { out() }
    /^@@ / && !body { body = 1; absent = $2 == "-0,0"; next }
    !body { next }
    {
      sign = substr($0, 1, 1)
      text = substr($0, 2)
      if (sign == "\\") next
      if (sign != "+") where = path("-", text)
      if (sign != "-") where = path("+", text)
      if (where == "kind") kind = substr(text, 7)
      if (where == "metadata.name") name = substr(text, 9)
      if (sign == " ") next
      lines[++many] = sign " " text
      places[many] = where
    }
    END { out() }'
}

# release_awaited COMMAND…: runs it, and ends it where the API has not answered for a minute: helm would go on asking for as
# long as it may take. What it has begun the next run settles. Behind what it says stands what to do, where that is known.
release_awaited() {
  local command watch rc=0
  "$@" > "$FK_TMP/said" 2>&1 &
  command=$!
  (
    silent=0
    while sleep 5 && [ "$silent" -lt 6 ]; do
      if kubectl get --raw /readyz --request-timeout=5s; then silent=0; else silent=$((silent + 1)); fi
    done
    : > "$FK_TMP/silent"
    kill "$command"
  ) > /dev/null 2>&1 &
  watch=$!
  wait "$command" || rc=$?
  kill "$watch" 2> /dev/null || true # it has ended
  cat "$FK_TMP/said"
  [ "$rc" -eq 0 ] || release_advice < "$FK_TMP/said" >&2
  [ ! -e "$FK_TMP/silent" ] || {
    rm --force "$FK_TMP/silent"
    echo 'The API has not answered for a minute: ./task status. What was begun is settled when this is run again.' >&2
    rc=1
  }
  return "$rc"
}

# release_advice: what to do about a failure that is on standard input.
release_advice() {
  local said
  said=$(cat)
  case $said in
    *'failed calling webhook'*)
      echo 'A webhook of the cluster does not answer, and what it watches cannot be changed.'
      echo 'Mend what serves it, or let changes pass meanwhile: ./task unlock-webhooks'
      ;;
    *'invalid ownership metadata'*)
      echo 'Somebody else has made this object, and it is left alone. Take it away where it came from, or delete it.'
      ;;
    *'no space left on device'* | *'disk quota exceeded'*) echo 'This computer has no room left: df -h' ;;
  esac
}

# release_by: who is at work, as the value of a label.
release_by() {
  printf '%s.%s' "$(id --user --name)" "$(uname --nodename)" | tr --complement --delete '[:alnum:]._-' | cut --bytes=1-60
}

# release_revisions NAMESPACE NAME: what helm keeps of each revision: number, state, time of its beginning, who began it.
release_revisions() {
  local of=.metadata.labels each
  each="{$of.version}{'\t'}{$of.status}{'\t'}{.metadata.creationTimestamp}{'\t'}{$of.fortress-kit}{'\n'}"
  kubectl get secrets --namespace "$1" --selector "owner=helm,name=$2" --request-timeout=15s \
    --output=jsonpath="{range .items[*]}$each{end}" | sort --numeric-sort
}

# release_good: the number of the last revision on standard input that was installed to its end.
release_good() { awk -F '\t' '$2 == "deployed" || $2 == "superseded" { good = $1 } END { print good }'; }

# release_settle NAMESPACE NAME: what a run that died has begun is taken back; helm begins nothing beside it. A run of somebody
# else may still be at work: for RELEASE_LIMIT seconds it is left alone.
RELEASE_LIMIT=900
export RELEASE_LIMIT
release_settle() {
  local all number state since by good seconds
  all=$(release_revisions "$1" "$2") || return
  IFS=$'\t' read -r number state since by <<< "${all##*$'\n'}"
  case $state in pending-* | uninstalling) ;; *) return 0 ;; esac
  seconds=$((EPOCHSECONDS - $(date --date="$since" +%s)))
  if [ "$by" != "$(release_by)" ] && [ "$seconds" -lt "$RELEASE_LIMIT" ]; then
    printf '%s has been at work on %s for %s s (revision %s is %s): run it again when that is done\n' \
      "${by:-somebody else}" "$2" "$seconds" "$number" "$state" >&2
    return 1
  fi
  good=$(release_good <<< "$all")
  if [ "$state" != uninstalling ] && [ -n "$good" ]; then
    release_awaited helm rollback "$2" "$good" --namespace "$1" --server-side=true --force-conflicts
  else
    release_awaited helm uninstall "$2" --namespace "$1" --ignore-not-found --wait --timeout=5m
  fi
}

# release_back NAMESPACE NAME: behind an upgrade that failed: the revision before it returns. It always fails. (Helm does so by
# itself only where it waits until all pods are ready, and pods may wait for what comes after this release.)
release_back() {
  local all number state rest good
  all=$(release_revisions "$1" "$2") || return 1
  IFS=$'\t' read -r number state rest <<< "${all##*$'\n'}"
  [ "$state" = failed ] || return 1
  good=$(release_good <<< "$all")
  if [ -n "$good" ]; then
    release_awaited helm rollback "$2" "$good" --namespace "$1" --server-side=true --force-conflicts &&
      printf 'revision %s failed and was rolled back to revision %s\n' "$number" "$good" >&2
  fi
  return 1
}

# account_quiet NAMESPACE: a pod without an account of its own gets no token there.
account_quiet() {
  [ "$(kubectl get serviceaccount default --namespace "$1" --output=jsonpath='{.automountServiceAccountToken}')" = false ] ||
    { echo "the default service account of $1 mounts its token"; return 1; }
}

# account_quieten NAMESPACE [FIELD]: makes it so; the account may come later than its namespace, and is this one then. With an
# empty field as it was, unless another page wants it so, too.
account_quieten() {
  kubectl apply --server-side --force-conflicts --field-manager=fortress-kit --filename=- << END
apiVersion: v1
kind: ServiceAccount
metadata: { name: default, namespace: $1 }
${2-automountServiceAccountToken: false}
END
}

# release_namespace_gone NAMESPACE: one that a page has made is deleted with what is in it; another one loses its labels.
release_namespace_gone() {
  local made
  made=$(kubectl get namespace "$1" --ignore-not-found --output=jsonpath='{.metadata.labels.fortress-kit}')
  if [ "$made" = made ]; then
    kubectl delete namespace "$1" --wait=false && release_emptied "$1"
  else
    kubectl label namespace "$1" pod-security.kubernetes.io/{enforce,audit,warn}- 2> /dev/null &&
      account_quieten "$1" '' || true # it may be gone
  fi
}

# release_emptied NAMESPACE: it is gone with all that is in it, within five minutes. Which webhook it waits for it says itself.
# An API that does not answer is asked again, for a minute.
release_emptied() {
  local said answered=$SECONDS deadline=$((SECONDS + 300))
  local left='{.metadata.name}: {.status.conditions[?(@.status=="True")].message}'
  while :; do
    if said=$(kubectl get namespace "$1" --ignore-not-found --output=jsonpath="$left" 2> "$FK_TMP/said"); then
      [ -n "$said" ] || return 0
      answered=$SECONDS
    elif [ $((SECONDS - answered)) -ge 60 ]; then
      cat "$FK_TMP/said" >&2
      return 1
    fi
    if [[ $said == *'failed calling webhook'* ]] || [ "$SECONDS" -ge "$deadline" ]; then
      release_advice <<< "$said" >&2
      echo "namespace ${said:-$1 is still there}" >&2
      return 1
    fi
    sleep 1
  done
}

# release_crds_free NAME…: none of these definitions belongs to somebody else.
release_crds_free() {
  local found one all
  one='{{ .metadata.name }}{{ range .metadata.managedFields }}{{ if not .subresource }} {{ .manager }}{{ end }}{{ end }}'
  # Several are a list, and one is not.
  all="{{ if .items }}{{ range .items }}$one{{ \"\\n\" }}{{ end }}{{ else }}$one{{ end }}"
  found=$(kubectl get customresourcedefinitions "$@" --ignore-not-found --show-managed-fields \
    --output=go-template="$all") || return
  awk '!/ fortress-kit( |$)/ && NF { name = $1; $1 = ""; print name " belongs to" $0; other = 1 } END { exit other }' <<< "$found"
}

# release_crds FILE NAME…: these definitions are there, as FILE has them.
release_crds() {
  local file=$1 name found
  shift
  found=$(kubectl get customresourcedefinitions "$@" --ignore-not-found --output=name) || return
  for name; do
    [[ $'\n'$found$'\n' == *"/$name"$'\n'* ]] || { echo "$name is not there"; return 1; }
  done
  [ ! -f "$file" ] || release_diff fortress-kit default '' < "$file"
}

# release_jump NAMESPACE NAME VERSION PART: no release is there yet, or it is not too far from VERSION: one PART (patch, minor or
# major) newer at the most, and not older.
release_jump() {
  local said part=$4
  said=$(helm get all "$2" --namespace "$1" --template '{{ .Release.Chart.Metadata.Version }}' 2>&1) || {
    [[ $said == *'release: not found'* ]] || { printf '%s\n' "$said"; return 1; }
    return 0
  }
  awk -v is="${said#v}" -v to="${3#v}" -v part="$part" '
    BEGIN {
      split(is, a, /[.+-]/)
      split(to, b, /[.+-]/)
      for (i = 1; i <= 3 && a[i] == b[i]; i++);
      far = i > 3 ? 0 : b[i] - a[i]
      # A patch may be any: what may change at once is a part, by one.
      least = part == "major" ? 1 : part == "minor" ? 2 : 3
      if (far == 0 || i == 3 && far > 0 || i >= least && far == 1) exit 0
      print "installed is " is ", declared " to (far < 0 ? ": it is older" : ": too far for one step")
      exit 1
    }'
}

# release_chart FILE SHA256: the file is here, as it is pinned.
release_chart() { [ -f "$1" ] && printf '%s  %s\n' "$2" "$1" | sha256sum --check --status; }

# release_received FILE: what was fetched for FILE, and proven, becomes FILE.
release_received() {
  received "$1" && record_before "$1" && mv --force --no-target-directory "$FK_PART" "$1"
}
export -f release_holds release_ahead release_would_change release_objects release_diff release_here release_added
export -f release_take_added release_fields release_awaited release_advice
export -f release_by release_revisions release_good release_settle release_back
export -f account_quiet account_quieten
export -f release_namespace_gone release_emptied release_crds_free release_crds release_jump release_chart release_received
