#!/usr/bin/env -S npx --no-install tsx
// Nobody has used the break-glass account since it was made; or this page says when, from where, and for what.
//
// Needs   people, and a server of k3s: each has an audit log of its own, with every request of that account.
// Leaves  nothing: verify looks. The log goes back as far as audit-log-maxage and audit-log-maxbackup of config/k3s/config.yaml.
// Then    after a use: ./task kubeconfig revoke break-glass, then ./task people apply. The next account was not used yet.
import { library, sh } from '../lib/ground/sh.ts'
import { memberOf } from '../lib/k3s/members.ts'
import { script } from '../lib/script.ts'

const about = {
  layer: 'policy',
  on: 'node',
  needs: ['54-people'],
  library: library('lib/k3s/members.sh'),
  prepare: auditLogs(),
} as const

export default script(import.meta, about, (context) =>
  memberOf(context).role === 'server'
    ? [
        {
          name: 'the audit log has every request of the break-glass account',
          why: 'reads and health checks are left out for everybody else',
          check: sh`glass_logged`,
          help: './task k3s-server apply and ./task k3s-join apply bring config/k3s/audit.yaml to the servers',
        },
        {
          name: 'the break-glass account was not used',
          why: 'it is for the day when nothing else opens the cluster: on any other day somebody has its key',
          check: sh`glass_unused`,
          help: `if that was you: ./task kubeconfig revoke break-glass, then ./task people apply, and a new account takes its place.
If it was not, do the same at once; then read the audit log for what was done: /var/lib/rancher/k3s/server/logs`,
        },
      ]
    : [],
)

/** What the audit logs of a server say of that account. */
function auditLogs() {
  return sh`
# glass_logged: the first rule of the audit policy is for its group, the API server has started with that file, and it writes a log.
glass_logged() {
  local policy=$K3S_ETC/audit.yaml started written
  awk '$1 == "rules:" { on = 1; next } on && !/^ *#/ { text = text $0 } END { gsub(/[ \047]/, "", text); print text }' "$policy" |
    grep '^-level:MetadatauserGroups:\[fortress:break-glass\]-level:' > /dev/null ||
    k3s_no "the first rule of $policy is for somebody else" || return
  started=$(systemctl show --timestamp=unix --property=ExecMainStartTimestamp --value k3s.service)
  written=$(stat --format=%Z "$policy")
  [ "$written" -le "$(cut --characters=2- <<< "$started")" ] ||
    k3s_no "$policy was changed after k3s has started: it goes by another" || return
  [ -s "$K3S_DATA/server/logs/audit.log" ] || k3s_no "there is no $K3S_DATA/server/logs/audit.log"
}

# glass_unused: no line is of who is bound as that account. A line is taken by its beginning: what stands further behind in it is
# somebody's request.
glass_unused() {
  local users user begin found
  users=$(k3s_kubectl get clusterrolebindings --selector=fortress-kit=break-glass \
    --output=jsonpath='{range .items[*]}{range .subjects[*]}{.name}{"\n"}{end}{end}') || k3s_no 'the API does not answer' || return
  [ -n "$users" ] || k3s_no 'there is no such account' || return
  [ -r "$K3S_DATA/server/logs/audit.log" ] || k3s_no 'there is no audit log' || return
  for user in $users; do
    begin='^\{"kind":"Event","apiVersion":"audit.k8s.io/v1","level":"\w+","auditID":"[^"]*","stage":"\w+",'
    begin+='"requestURI":"([^"\\]|\\.)*","verb":"\w+","user":\{"username":"'"$user"'"'
    found=$(grep --no-filename --extended-regexp "$begin" "$K3S_DATA"/server/logs/audit*.log |
      sed --regexp-extended 's/^.*"requestURI":"(([^"\\]|\\.)*)","verb":"(\w+)","user".*"sourceIPs":\["([^"]*)".*"requestReceivedTimestamp":"([^"]*)".*$/\5 \4 \3 \1/' |
      LC_ALL=C sort) || true # nobody has used it
    if [ -n "$found" ]; then
      printf '%s was used, %s requests; when, from where, and for what:\n' "$user" "$(wc --lines <<< "$found")"
      head --lines=3 <<< "$found"
      [ "$(wc --lines <<< "$found")" -le 3 ] || { echo …; tail --lines=3 <<< "$found"; }
      return 1
    fi
  done
  printf '%s was not used; the log begins on %s\n' "$users" "$(cat "$K3S_DATA"/server/logs/audit*.log |
    sed --quiet 's/^.*"requestReceivedTimestamp":"\([^"T]*\)T.*$/\1/p' | LC_ALL=C sort | sed --quiet 1p)"
}
export -f glass_logged glass_unused`
}
