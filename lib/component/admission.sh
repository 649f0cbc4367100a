# shellcheck shell=bash
# What the rules of the API server say: to what has to be refused, and to what is there. Nothing of it is stored.

# policy_lines: of what kubectl says on standard input, what the rules object to: rule, kind, namespace/name, what; tabs between.
policy_lines() {
  local by="^Warning: Validation failed for ValidatingAdmissionPolicy 'fortress-([^']*)' with binding '[^']*'"
  sed --quiet --regexp-extended "s/$by: ([^ ]*) ([^ ]*): (.*)\$/\\1\\t\\2\\t\\3\\t\\4/p"
}

# policy_warns FILE RULE…: each of these rules objects to something in FILE.
policy_warns() {
  local file=$1 said rule missing=''
  shift
  said=$(kubectl create --dry-run=server --filename="$file" 2>&1) || true # a rule that refuses has warned as well
  for rule; do
    policy_lines <<< "$said" | awk -F '\t' -v rule="$rule" '$1 == rule { found = 1 } END { exit !found }' || missing+=" $rule"
  done
  [ -z "$missing" ] || { printf 'nothing was said by:%s\n%s\n' "$missing" "$said"; return 1; }
}

# policy_refuses FILE: every object of FILE is refused by a rule.
policy_refuses() {
  local said all refused
  said=$(kubectl create --dry-run=server --filename="$1" 2>&1) && { printf 'nothing is refused\n'; return 1; }
  all=$(grep --count '^kind:' "$1")
  refused=$(grep --count "ValidatingAdmissionPolicy 'fortress-.*denied request" <<< "$said") || true
  [ "$refused" -eq "$all" ] || { printf '%s of %s objects are refused\n%s\n' "$refused" "$all" "$said"; return 1; }
}

# policy_exact FILE: what of FILE is there has this spec and nothing beside it. (Who applies objects sees no field that somebody
# has added; a spec that is replaced by an equal one keeps its generation.)
policy_exact() {
  local now would each='{{ .kind }} {{ .metadata.name }} {{ .metadata.generation }}{{ "\n" }}' other
  [ -f "$1" ] || return 0
  now=$(kubectl get --filename="$1" --ignore-not-found \
    --output=go-template="{{ if .items }}{{ range .items }}$each{{ end }}{{ else }}$each{{ end }}") || return
  would=$(kubectl replace --dry-run=server --filename="$1" --output=go-template="$each" 2> "$FK_TMP/exact") || true
  if grep --invert-match '(NotFound)' "$FK_TMP/exact"; then return 1; fi
  other=$(LC_ALL=C comm -23 <(LC_ALL=C sort <<< "$now") <(LC_ALL=C sort <<< "$would") |
    cut --delimiter=' ' --fields=1,2 | grep .) || return 0
  printf 'somebody has changed %s\n' "${other//$'\n'/, }"
  release_diff fortress-kit default '' < "$1" || true # nothing of it shows what was added
  return 1
}

# policy_replace FILE: what of FILE is there gets this spec, whoever has added to it.
policy_replace() {
  kubectl replace --field-manager=fortress-kit --filename="$1" 2> "$FK_TMP/replace" || true # what is not there comes later
  if grep --invert-match '(NotFound)' "$FK_TMP/replace" >&2; then return 1; fi
}

# policy_own KIND…: kind and namespace/name of each object that answers for itself: it was not made by another one that is judged,
# and it has not run to its end.
policy_own() {
  local each='{{ .kind }}{{ "\t" }}{{ .metadata.namespace }}/{{ .metadata.name }}{{ "\t" }}'
  each+='{{ range .metadata.ownerReferences }}{{ if .controller }}{{ .kind }}{{ end }}{{ end }}{{ "\t" }}'
  each+='{{ with .status }}{{ with .phase }}{{ . }}{{ end }}{{ with .completionTime }}Succeeded{{ end }}{{ end }}{{ "\n" }}'
  kubectl get "$(IFS=,; printf '%s' "$*")" --all-namespaces --output=go-template="{{ range .items }}$each{{ end }}" |
    awk -F '\t' '
      $4 == "Succeeded" || $4 == "Failed" { next }
      $3 ~ /^(CronJob|DaemonSet|Deployment|Job|ReplicaSet|ReplicationController|StatefulSet)$/ { next }
      { print $1 "\t" $2 }'
}

# policy_report KIND…: what the rules object to in what is there: a line each, as policy_lines has it. It fails where there is
# something, and where something could not be asked: it says why.
policy_report() {
  local known kind kinds=() own said other
  known=$(kubectl get validatingadmissionpolicybindings --selector=fortress-kit=policy --output=name) || return 2
  [ -n "$known" ] || { echo 'the rules are not in the cluster: ./task policy apply'; return 2; }
  known=$(kubectl api-resources --verbs=list --output=name) || return
  for kind; do
    case $'\n'$known$'\n' in *$'\n'"$kind"$'\n'*) kinds+=("$kind") ;; esac
  done
  own=$(policy_own "${kinds[@]}") || return
  # Nothing about them changes; the annotation is what has them judged.
  said=$(kubectl annotate "$(IFS=,; printf '%s' "${kinds[*]}")" --all --all-namespaces --overwrite --dry-run=server \
    fortress-kit/asked=yes 2>&1 > /dev/null) || true # what it failed for is below
  other=$(grep --invert-match --extended-regexp "^Warning: |ValidatingAdmissionPolicy 'fortress-|\(NotFound\)|^$" <<< "$said") ||
    other=''
  [ -z "$other" ] || { printf 'not everything could be asked:\n%s\n' "$other"; return 2; }
  said=$(policy_lines <<< "$said" | awk -F '\t' 'NR == FNR { own[$0] = 1; next } ($2 "\t" $3) in own' <(printf '%s\n' "$own") - |
    LC_ALL=C sort --field-separator=$'\t' --key=3,3 --key=2,2 --key=1,1)
  [ -n "$said" ] || return 0
  printf '%s\n' "$said"
  return 1
}

# policy_admitted KIND…: what is there would be admitted if it came today.
policy_admitted() {
  local said rc=0
  said=$(policy_report "$@") || rc=$?
  [ "$rc" -ne 1 ] || said=$(awk -F '\t' '{ print $2 " " $3 ": " $4 " (" $1 ")" }' <<< "$said")
  [ -z "$said" ] || printf '%s\n' "$said"
  return "$rc"
}
export -f policy_lines policy_warns policy_refuses policy_exact policy_replace policy_own policy_report policy_admitted
