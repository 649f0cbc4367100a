#!/usr/bin/env -S npx --no-install tsx
// No certificate of the cluster ends within 90 days: k3s renews them when it starts, one server after the other.
//
// Needs   k3s-join. Run it from a timer, or with build-all: it does nothing while there is time.
// Then    ./task status shows the days that are left. The kubeconfig holds one of them: ./task k3s-server apply saves it anew.
// Undo    nothing: a certificate that was renewed stays.
import type { Change } from '../lib/engine/step.ts'
import { sh } from '../lib/ground/sh.ts'
import { type Member, clusterOf, memberOf } from '../lib/k3s/members.ts'
import { clusterShell, helperOf, othersHealthy, START } from '../lib/k3s/nodes.ts'
import { script } from '../lib/script.ts'

const about = { layer: 'L2', on: 'node', library: clusterShell, prepare: certificateShell() } as const

export default script(import.meta, about, (context) => {
  const member = memberOf(context)
  const { name, role } = member
  return [
    {
      name: `certificates of ${name} are valid for 90 days or more`,
      why: 'k3s renews those that end within 120 days, and only when it starts: otherwise they expire after a year',
      check: sh`certificates_last leaf 90`,
      apply: [sh`restart_to_renew ${role} ${name} ${START}`],
      seconds: START + 60,
      ...othersFirst(member, clusterOf(context)),
    },
    {
      name: 'cluster CA certificates are valid for 365 days or more',
      why: 'they are made for ten years, and k3s never renews them by itself',
      check: sh`certificates_last authority 365`,
      help: 'docs.k3s.io/cli/certificate: k3s certificate rotate-ca. The fingerprint in the join token changes with it',
    },
  ]
})

/** Other servers must be healthy first. With expired certificates none is, and only the restart makes them so. */
function othersFirst(member: Member, members: Member[]): Pick<Change, 'onOtherNode'> {
  if (members.length === 1) return {}
  const healthy = othersHealthy(members, member)
  const until = sh`${healthy.until} || ! certificates_last leaf 0 > /dev/null`
  return { onOtherNode: { on: helperOf(members, member).name, before: [{ ...healthy, until }], after: [] } }
}

/** The functions of the steps above. */
function certificateShell() {
  return sh`
# certificates_last KIND DAYS: no certificate of this kind (leaf, authority) in /var/lib/rancher/k3s ends before.
certificates_last() {
  local said days path
  said=$(k3s_certificates "$1") || k3s_no "$said" || return
  [ -n "$said" ] || k3s_no "there is no certificate in $K3S_DATA" || return
  read -r days path <<< "$said"
  printf '%s days are left of %s\n' "$days" "$path"
  [ "$days" -ge "$2" ]
}

# restart_to_renew ROLE NAME SECONDS: restarts k3s, which renews what ends within 120 days, and waits until it is healthy.
restart_to_renew() {
  local said deadline=$((SECONDS + $3)) ready version
  read -r version ready <<< "$(k3s_node "$1" "$2" \
    '{.status.nodeInfo.kubeletVersion} {.status.conditions[?(@.type=="Ready")].status}' 2> /dev/null)" ||
    true # with expired certificates the API does not answer
  k3s_start "$1" "$2" "$3" || return
  until said=$(k3s_is "$1" "$2" "\${version:-$(k3s_version)}" "\${ready:-Unknown}"); do
    [ "$SECONDS" -lt "$deadline" ] || k3s_no "k3s restarted, and is not healthy: $said" || return
    sleep 1
  done
}
export -f certificates_last restart_to_renew`
}
