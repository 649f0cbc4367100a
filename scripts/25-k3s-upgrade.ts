#!/usr/bin/env -S npx --no-install tsx
// Every node runs the pinned version: servers one at a time, then agents; a node that is not healthy with it goes back.
//
// Needs   k3s-stage, and a healthy cluster. One minor version at a time.
// Does    saves a snapshot of etcd; then on each node: drains it, starts the other version, checks its health, uncordons it.
//         A pod whose PodDisruptionBudget forbids its eviction stops the upgrade: FK_DRAIN=force deletes that pod all the same.
// Then    run it again after a failure, or after it was killed: it continues where it was.
// Undo    nothing: what the new version has written, the old one may not read. ./task restore restores the snapshot.
import type { Change, Step, Wait } from '../lib/engine/step.ts'
import { sh } from '../lib/ground/sh.ts'
import { type Member, clusterOf, memberOf, programOf, urlOf } from '../lib/k3s/members.ts'
import { clusterShell, drained, helperOf, othersHealthy, START, uncordoned } from '../lib/k3s/nodes.ts'
import { type Context, script } from '../lib/script.ts'

const prepare = sh`${versionOrder()}
${upgradeState()}
${readiness()}
${versionSwap()}`
const about = { layer: 'L2', on: 'node', library: clusterShell, prepare } as const

export default script(import.meta, about, (context) => {
  const member = memberOf(context)
  const members = clusterOf(context)
  const { name, role, first } = member
  const { version } = programOf(context, member.arch)
  const alone = members.length === 1
  return [
    {
      name: `k3s ${version} is the same or the next minor version`,
      why: 'nobody tests an upgrade that leaves out a minor version, or a downgrade',
      check: sh`upgrade_begun ${version} || next_version "$(upgrade_from)" ${version}`,
      help: `pin the next minor version in config/versions.yaml, and apply that first.
An older version needs the data of that time: ./task restore`,
    },
    ...(role === 'server' ? clusterReady(member, members, version) : []),
    ...(alone
      ? [
          {
            name: `operator accepts API downtime: ${name} has no other server`,
            why: 'the API does not answer for about a minute; pods keep running, and what needs the API fails meanwhile',
            check: sh`upgrade_begun ${version}`,
            help: `type ${name} at the prompt, or say --confirm ${name}`,
            typed: name,
          },
        ]
      : []),
    ...(first ? [snapshotSaved(version)] : []),
    upgraded(context, member, members, version),
    ...(alone
      ? []
      : [
          {
            name: `${name} is not left cordoned by an upgrade`,
            why: 'a run that was killed leaves the node drained',
            check: sh`test -z "$(k3s_mark ${role} ${name})"`,
            apply: [sh`: # the other server does it`],
            onOtherNode: { on: helperOf(members, member).name, before: [uncordoned(name)], after: [] },
          },
        ]),
  ]
})

/** Which version may follow which. */
function versionOrder() {
  return sh`
# version_numbers VERSION: vMAJOR.MINOR.PATCH[-rcN]+k3sN as five numbers; a release comes after all its candidates.
version_numbers() {
  [[ $1 =~ ^v([0-9]+)\.([0-9]+)\.([0-9]+)(-rc([0-9]+))?\+k3s([0-9]+)$ ]] || k3s_no "'$1' is no version of k3s" || return
  set -- "\${BASH_REMATCH[@]}"
  printf '%s %s %s %s %s\n' "$2" "$3" "$4" "\${6:-999999}" "$7"
}

# next_version FROM TO: TO is FROM or a later one, and no minor version between them is left out.
next_version() {
  local said i old new
  [ "$1" != "$2" ] || return 0
  said=$(version_numbers "$1" && version_numbers "$2") || k3s_no "$said" || return
  read -r -a old <<< "\${said%$'\n'*}"
  read -r -a new <<< "\${said#*$'\n'}"
  for i in 0 1 2 3 4; do
    [ "\${new[i]}" -ge "\${old[i]}" ] || k3s_no "$1 runs, and $2 is older" || return
    [ "\${new[i]}" -eq "\${old[i]}" ] || break
  done
  [ "\${new[0]}" -eq "\${old[0]}" ] && [ "\${new[1]}" -le $((old[1] + 1)) ] ||
    k3s_no "$1 runs, and $2 leaves out v\${old[0]}.$((old[1] + 1))"
}
export -f version_numbers next_version`
}

/** Where an upgrade stands: /var/lib/fortress/k3s/upgrading has a line while a node is between two versions. */
function upgradeState() {
  return sh`
# upgrade_from: the version that was last healthy here.
upgrade_from() {
  local from
  from=$(k3s_noted from)
  printf '%s\n' "\${from:-$(k3s_version)}"
}

# upgrade_begun VERSION: this version starts here, or the swap to it or away from it has begun: what had to hold before, held.
upgrade_begun() { [ "$(k3s_version)" = "$1" ] || [ "$(k3s_noted from)" = "$1" ] || [ "$(k3s_noted to)" = "$1" ]; }
export -f upgrade_from upgrade_begun`
}

/** What must hold before anything stops, checked on every server. Once its own upgrade has begun, the run continues. */
function clusterReady(member: Member, members: Member[], version: string): Step[] {
  const servers = members.filter(({ role }) => role === 'server')
  const urls = servers.flatMap(
    (server) => urlOf(server) ?? (server.name === member.name ? 'https://127.0.0.1:6443' : []),
  )
  return [
    {
      name: `k3s ${version} is staged on all nodes`,
      check: sh`upgrade_begun ${version} || all_staged ${version} ${members.map(({ name }) => name)}`,
      help: './task k3s-stage apply',
    },
    {
      name: 'cluster is healthy before the upgrade',
      check: sh`
        upgrade_begun ${version} || {
          ${othersHealthy(members, member).until} &&
            k3s_is server ${member.name} "$(k3s_version)" Unknown
        }`,
      help: './task status shows what is wrong. An upgrade stops one server: only a healthy cluster keeps its quorum',
    },
    {
      name: `no client uses an API that is removed in k3s ${version}`,
      why: 'its requests would fail after the upgrade, and only then',
      check: sh`upgrade_begun ${version} || no_removed_apis ${version} ${urls}`,
      help: `the audit log of the servers names the client: grep removed-release /var/lib/rancher/k3s/server/logs/audit.log
The count starts anew with k3s: when the client is mended, systemctl restart k3s on one server after the other`,
    },
  ]
}

/** What the API servers report before an upgrade. */
function readiness() {
  return sh`
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
export -f all_staged no_removed_apis`
}

/** On the first server, before any node changes. */
function snapshotSaved(version: string): Change {
  const name = `before-${version.replace('+', '-')}`
  return {
    name: `etcd snapshot ${name} is saved`,
    why: 'what the new version writes, the old one may not read',
    check: sh`
      upgrade_begun ${version} ||
        compgen -G ${`/var/lib/rancher/k3s/server/db/snapshots/${name}-*`} > /dev/null`,
    apply: [sh`/opt/bin/k3s etcd-snapshot save --name ${name}`],
    seconds: 600,
  }
}

/** The node runs the new version; where the cluster has others, one of them drains it before and uncordons it behind. */
function upgraded({ env }: Context, member: Member, members: Member[], version: string): Change {
  const { name, role } = member
  const alone = members.length === 1
  const before = (): (Change | Step | Wait)[] => [
    othersHealthy(members, member),
    ...(role === 'agent' ? [serversFirst(version)] : []),
    drained(name, env.FK_DRAIN),
  ]
  return {
    name: `${name} runs k3s ${version} and is healthy`,
    why: alone
      ? 'when it is not healthy, the old version starts again'
      : 'its pods leave first; when it is not healthy, the old version starts again, and no other node is touched',
    check: sh`
      test ! -e "$K3S_NOTES/upgrading" && test "$(k3s_version)" = ${version} &&
        k3s_runs ${role} ${name}`,
    apply: [sh`swap_version ${role} ${name} ${version} ${START}`],
    recover: [sh`swap_back ${role} ${name} ${START}`],
    seconds: START + 60,
    ...(alone
      ? {}
      : { onOtherNode: { on: helperOf(members, member).name, before: before(), after: [uncordoned(name)] } }),
  }
}

/** Kubernetes lets a kubelet be older than the API server, and never newer. */
function serversFirst(version: string): Step {
  return {
    name: `all servers run k3s ${version}`,
    why: 'a kubelet may be older than the API server that it speaks to, and never newer',
    check: sh`
      behind=$(k3s_kubectl get nodes --selector=node-role.kubernetes.io/control-plane=true --output \
        jsonpath='{range .items[*]}{.metadata.name}{" "}{.status.nodeInfo.kubeletVersion}{"\n"}{end}' |
        awk -v version=${version} 'NF && $2 != version { print $1 " runs " $2 }') &&
        { test -z "$behind" || k3s_no "$behind"; }`,
    help: './task k3s-upgrade apply begins with them',
  }
}

/** The swap of the two versions on one node, and the way back. */
function versionSwap() {
  return sh`
# swap_version ROLE NAME VERSION SECONDS: the other version runs and is healthy. What ran before is noted first, so that a run
# that was killed can go back.
swap_version() {
  local from ready said deadline=$((SECONDS + $4)) K3S_SWAPS=yes
  from=$(upgrade_from)
  ready=$(k3s_noted ready)
  [ -n "$ready" ] ||
    ready=$(k3s_node "$1" "$2" '{.status.conditions[?(@.type=="Ready")].status}' 2> /dev/null) || ready=''
  install --directory --mode=700 "$K3S_NOTES"
  printf '%s %s %s\n' "$from" "\${ready:-Unknown}" "$3" > "$K3S_NOTES/upgrading.part"
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
export -f swap_version swap_back`
}
