#!/usr/bin/env -S npx --no-install tsx
// Every Flatcar node runs the pinned release: proven, written to its other slot, and started on trial, one node after the other.
//
// Needs   k3s-server. An update is a change of flatcar in config/versions.yaml, and then this page.
// Does    drains the node where the cluster has another server. One that does not boot, or is not healthy, goes back.
// Then    run it again after a failure, or after it was killed: it continues where it was.
// Undo    nothing: the release before stays in the other slot until the next update.
import { file } from '../lib/engine/file.ts'
import type { Change, Demand, Step } from '../lib/engine/step.ts'
import { sh } from '../lib/ground/sh.ts'
import { type Member, clusterOf, memberOf } from '../lib/k3s/members.ts'
import { clusterShell, drained, helperOf, othersHealthy, START, uncordoned } from '../lib/k3s/nodes.ts'
import { type Context, script } from '../lib/script.ts'

/** Seconds that the node may be away. */
const AWAY = 900

const prepare = sh`${releases()}
${onTrial()}`
const about = { layer: 'L2', on: 'node', needs: ['20-k3s-server'], library: clusterShell, prepare } as const

export default script(import.meta, about, (context) => {
  const member = memberOf(context)
  if (member.os !== 'flatcar') return [otherSystem]
  const { name, role, first } = member
  const version = context.pins['flatcar']?.version ?? ''
  return [
    {
      name: `Flatcar ${version} is no older release than ${name} runs`,
      why: 'what a newer one has written on the disk, an older one may not read',
      check: sh`flatcar_not_newer ${version}`,
      help: `pin the release that runs in config/versions.yaml; an older one needs a new disk: ./task node rebuild ${name}`,
    },
    file('/etc/flatcar/update.conf', {
      from: 'config/vm/update.conf',
      name: 'no release is installed but by this page',
      why: 'whatever the update server offers would run after the next reboot, whoever asked for that one',
      then: [sh`systemctl try-restart update-engine.service`],
    }),
    {
      name: 'no other release waits for the next start',
      check: sh`flatcar_waits_for ${version}`,
      apply: [sh`flatcar_forget`],
    },
    ...(first ? [snapshotSaved(version)] : []),
    {
      name: `Flatcar ${version} is in the other slot of /usr, and its signature is proven`,
      why: 'update_engine proves it by the key in the release that runs',
      check: sh`flatcar_runs ${version} || flatcar_staged ${version}`,
      apply: [sh`flatcar_stage ${version}`],
      seconds: 1800,
    },
    ...tried(context, member, clusterOf(context), version),
    {
      name: `k3s on ${name} is healthy since`,
      why: 'where it is not, the release before starts again from the other slot',
      check: sh`flatcar_kept`,
      apply: [sh`flatcar_keep ${role} ${name} ${START}`],
      recover: [
        sh`flatcar_back`,
        sh`systemd-run --quiet --collect --unit=fortress-reboot flock --timeout 60 /run/fortress/lock systemctl reboot`,
      ],
      seconds: START + 60,
      ...behind(member, clusterOf(context)),
    },
  ]
})

const otherSystem: Demand = {
  name: 'the node has no Flatcar, so its releases come with the system that it has',
  check: sh`! command -v flatcar-update > /dev/null`,
  help: 'the site document names another system than the node has: os under machines:',
}

/** On the first server. */
function snapshotSaved(version: string): Change {
  const name = `before-flatcar-${version}`
  return {
    name: `etcd snapshot ${name} is saved`,
    why: 'the disk of a node that comes back in neither slot is lost',
    check: sh`flatcar_runs ${version} ||
      compgen -G ${`/var/lib/rancher/k3s/server/db/snapshots/${name}-*`} > /dev/null`,
    apply: [sh`/opt/bin/k3s etcd-snapshot save --name ${name}`],
    seconds: 600,
  }
}

/** The node starts in its other slot, when its pods have left. */
function tried({ env }: Context, member: Member, members: Member[], version: string): Step[] {
  const { name, role } = member
  const before = [othersHealthy(members, member), drained(name, env.FK_DRAIN)]
  return [
    {
      name: `${name} runs Flatcar ${version}`,
      why: 'a slot that does not boot is left by itself: then the release before runs, and this page says so',
      check: sh`flatcar_runs ${version}`,
      apply: [
        sh`flatcar_try ${role} ${name}`,
        // It begins when this run has let go of the machine, and not at all while another run is at work there.
        sh`systemd-run --quiet --collect --unit=fortress-reboot flock --timeout 60 /run/fortress/lock systemctl reboot`,
      ],
      reboots: AWAY,
      ...(members.length === 1
        ? {}
        : { onOtherNode: { on: helperOf(members, member).name, before, after: [] } }),
    },
  ]
}

/** The node takes pods again, also where it goes back. */
const behind = (member: Member, members: Member[]): Pick<Change, 'onOtherNode'> =>
  members.length === 1
    ? {}
    : { onOtherNode: { on: helperOf(members, member).name, before: [], after: [uncordoned(member.name)] } }

/** Which release runs, and which one is in the other slot. */
function releases() {
  return sh`
FLATCAR_NOTES=/var/lib/fortress/flatcar
export FLATCAR_NOTES

flatcar_no() {
  printf '%s\n' "$*"
  return 1
}

flatcar_version() { (. /etc/os-release && printf '%s\n' "$VERSION_ID"); }

flatcar_runs() { [ "$(flatcar_version)" = "$1" ] || flatcar_no "$(flatcar_version) runs"; }

# flatcar_not_newer VERSION: what runs is that, or an older one.
flatcar_not_newer() {
  local newest
  newest=$(printf '%s\n' "$1" "$(flatcar_version)" | sort --version-sort | tail --lines=1)
  [ "$newest" = "$1" ] || flatcar_no "$newest runs"
}

# flatcar_pending: the next start is in the other slot.
flatcar_pending() {
  update_engine_client -status 2> /dev/null | grep --line-regexp CURRENT_OP=UPDATE_STATUS_UPDATED_NEED_REBOOT > /dev/null
}

# flatcar_staged VERSION: it is this one that waits there.
flatcar_staged() {
  flatcar_pending && [ "$(cat "$FLATCAR_NOTES/staged" 2> /dev/null)" = "$1" ] || flatcar_no 'it is not there'
}

# flatcar_waits_for VERSION: nothing waits for the next start but this.
flatcar_waits_for() {
  ! flatcar_pending || flatcar_staged "$1" > /dev/null || flatcar_no 'a release that nobody asked for waits'
}

# flatcar_forget: the next start is in the slot that runs.
flatcar_forget() {
  rm --force "$FLATCAR_NOTES/staged"
  cgpt prioritize "$(rootdev -s /usr)"
  update_engine_client -reset_status
}

# flatcar_stage VERSION: the release is written to the other slot, and noted.
flatcar_stage() {
  install --directory --mode=700 "$FLATCAR_NOTES"
  rm --force "$FLATCAR_NOTES/staged"
  flatcar-update --to-version "$1" --disable-afterwards || return
  printf '%s\n' "$1" > "$FLATCAR_NOTES/staged.part"
  sync "$FLATCAR_NOTES/staged.part"
  mv --force "$FLATCAR_NOTES/staged.part" "$FLATCAR_NOTES/staged"
}
export -f flatcar_no flatcar_version flatcar_runs flatcar_not_newer flatcar_pending flatcar_staged flatcar_waits_for \
  flatcar_forget flatcar_stage`
}

/** A release on trial: a note of it is there from before its first start until it was healthy. */
function onTrial() {
  return sh`
# flatcar_try ROLE NAME: notes whether the node was Ready.
flatcar_try() {
  local ready
  ready=$(k3s_node "$1" "$2" '{.status.conditions[?(@.type=="Ready")].status}' 2> /dev/null) || ready=Unknown
  printf '%s\n' "\${ready:-Unknown}" > "$FLATCAR_NOTES/trial.part"
  sync "$FLATCAR_NOTES/trial.part"
  mv --force "$FLATCAR_NOTES/trial.part" "$FLATCAR_NOTES/trial"
}

flatcar_kept() { [ ! -e "$FLATCAR_NOTES/trial" ] || flatcar_no 'it is on trial'; }

# flatcar_keep ROLE NAME SECONDS: the node becomes as healthy as it was.
flatcar_keep() {
  local said deadline=$((SECONDS + $3))
  until said=$(k3s_is "$1" "$2" "$(k3s_version)" "$(cat "$FLATCAR_NOTES/trial")"); do
    [ "$SECONDS" -lt "$deadline" ] || flatcar_no "$(flatcar_version) runs, and k3s is not healthy: $said" || return
    sleep 2
  done
  rm --force "$FLATCAR_NOTES/trial" "$FLATCAR_NOTES/staged"
}

# flatcar_back: the next start is in the other slot, where the release before is.
flatcar_back() {
  local slot
  slot=$(cgpt find -t flatcar-usr 2> /dev/null | grep --invert-match --line-regexp --fixed-strings -e "$(rootdev -s /usr)") ||
    flatcar_no 'there is no other slot' || return
  cgpt prioritize "$slot" && rm --force "$FLATCAR_NOTES/trial" "$FLATCAR_NOTES/staged"
}
export -f flatcar_try flatcar_kept flatcar_keep flatcar_back`
}
