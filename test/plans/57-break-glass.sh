#!/bin/bash
# 57-break-glass: Nobody has used the break-glass account since it was made; or this page says when, from where, and for what.
#
# Run it as root on fortress-node:
#   bash 57-break-glass.sh
# It has 3 steps. Each checks first, and changes only what does not hold.
# It keeps no record, so undo cannot take it back. It checks no controls: verify does.
# shellcheck disable=SC2034 # functions read what is set here
set -euo pipefail
FK_PAGE=57-break-glass FK_FILE=57-break-glass.sh
export FK_PAGE FK_FILE

main() {
  case ${1-} in '') ;; *) usage ;; esac
  begin
  # glass_logged: the first rule of the audit policy is for its group, the API server has started with that, and it writes a log.
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

  # glass_users: who is bound as that account.
  glass_users() {
    local each='{range .items[*]}{range .subjects[*]}{.name}{"\n"}{end}{end}'
    k3s_kubectl get clusterrolebindings --selector=fortress-kit=break-glass --output=jsonpath="$each"
  }

  # glass_lines FILE…: the lines in which somebody of the account asks. A line is taken by its beginning: what stands further
  # behind in it is somebody's request.
  glass_lines() {
    local begin='^\{"kind":"Event","apiVersion":"audit.k8s.io/v1","level":"\w+","auditID":"[^"]*","stage":"\w+",'
    begin+='"requestURI":"([^"\\]|\\.)*","verb":"\w+","user":\{"username":"fortress:break-glass:[0-9a-f]+"'
    # There need be no such file, and no such line.
    { cat "$@" 2> /dev/null || true; } | { grep --text --extended-regexp "$begin" || true; } | LC_ALL=C sort --unique
  }

  # glass_kept: what the logs have of them is in the file that is kept.
  glass_kept() {
    local kept=$K3S_NOTES/break-glass.log new
    [ -r "$K3S_DATA/server/logs/audit.log" ] || k3s_no 'there is no audit log' || return
    new=$(LC_ALL=C comm -23 <(glass_lines "$K3S_DATA"/server/logs/audit*.log) <(glass_lines "$kept") | grep --count .) || return 0
    k3s_no "$new requests are not in $kept"
  }

  glass_keep() {
    local kept=$K3S_NOTES/break-glass.log
    install --directory --mode=700 "$K3S_NOTES"
    (umask 077 && glass_lines "$kept" "$K3S_DATA"/server/logs/audit*.log > "$kept.new")
    sync "$kept.new" && mv "$kept.new" "$kept"
  }

  # glass_unused: no line is of who is bound as that account now.
  glass_unused() {
    local users user found take='s/^.*"requestURI":"(([^"\\]|\\.)*)","verb":"(\w+)","user".*'
    take+='"sourceIPs":\["([^"]*)".*"requestReceivedTimestamp":"([^"]*)".*$/\5 \4 \3 \1/'
    users=$(glass_users) || k3s_no 'the API does not answer' || return
    [ -n "$users" ] || k3s_no 'there is no such account' || return
    [ -r "$K3S_DATA/server/logs/audit.log" ] || k3s_no 'there is no audit log' || return
    for user in $users; do
      found=$(glass_lines "$K3S_NOTES/break-glass.log" "$K3S_DATA"/server/logs/audit*.log |
        grep --fixed-strings "\"user\":{\"username\":\"$user\"" | sed --regexp-extended "$take" | LC_ALL=C sort) || continue
      printf '%s was used, %s requests; when, from where, and for what:\n' "$user" "$(wc --lines <<< "$found")"
      head --lines=3 <<< "$found"
      [ "$(wc --lines <<< "$found")" -le 3 ] || { echo …; tail --lines=3 <<< "$found"; }
      return 1
    done
    printf '%s was not used; the log begins on %s\n' "$users" "$(cat "$K3S_DATA"/server/logs/audit*.log |
      sed --quiet 's/^.*"requestReceivedTimestamp":"\([^"T]*\)T.*$/\1/p' | LC_ALL=C sort | sed --quiet 1p)"
  }
  export -f glass_logged glass_users glass_lines glass_kept glass_keep glass_unused

  # 1/3 the audit log has every request of the break-glass account
  #   why: reads and health checks are left out for everybody else
  check() { glass_logged; }
  demand 'the audit log has every request of the break-glass account' './task k3s-server apply and ./task k3s-join apply bring config/k3s/audit.yaml to the servers'

  # 2/3 what the break-glass account did is kept when the audit log is rotated
  check() { glass_kept; }
  apply() { glass_keep; }
  change 'what the break-glass account did is kept when the audit log is rotated'

  # 3/3 the break-glass account was not used
  #   why: it is for the day when nothing else opens the cluster: on any other day somebody has its key
  check() { glass_unused; }
  demand 'the break-glass account was not used' 'if that was you: ./task kubeconfig revoke break-glass, ./task people apply, ./task break-glass apply.
If it was not, do the same at once; then read what was done: /var/lib/fortress/k3s/break-glass.log on the server'
}

# What main uses.
# from lib/k3s/members.sh: K3S K3S_ETC K3S_DATA K3S_NOTES k3s_no k3s_kubectl
# from lib/engine/shell/printed.sh: FK_OUT FK_RC FK_TX FK_VISIT FK_ARM FK_BACK FK_TMP begin lock usage recover holds
# from lib/engine/shell/printed.sh: change demand fail

main "$@"
