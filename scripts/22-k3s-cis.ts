#!/usr/bin/env -S npx --no-install tsx
// The CIS Kubernetes benchmark, checked on a node that runs.
//
// Needs   a node of k3s-server or k3s-join that answers.
// Leaves  owners and modes of what k3s has written, and default service accounts whose token no pod mounts unasked. All else is
//         checked only: config/k3s/config.yaml and the layers above decide it.
// Then    ./task cis prints the score, and writes it to out/ for programs. config/k3s/cis.yaml has the list, one control at a
//         time; config/k3s/waivers.yaml what does not hold, and why.
import type { Step } from '../lib/engine/step.ts'
import { sh } from '../lib/ground/sh.ts'
import { cisOf, cisShell } from '../lib/k3s/cis.ts'
import { memberOf } from '../lib/k3s/members.ts'
import { script } from '../lib/script.ts'

const about = {
  layer: 'L2',
  on: 'node',
  needs: ['20-k3s-server'],
  library: cisShell(),
  prepare: writtenFiles(),
} as const

export default script(import.meta, about, (context) => {
  const { role } = memberOf(context)
  return [
    {
      name: 'k3s components listen on their ports',
      why: 'the API answers some seconds before the controller manager, the scheduler and the kubelet do',
      until: role === 'server' ? sh`cis_up 10257 10259 10250` : sh`cis_up 10250`,
      seconds: 120,
    },
    {
      name: 'keys, certificates and kubeconfigs of k3s are private to root',
      why: 'who reads one of the keys or kubeconfigs is admin of the cluster, or of the node',
      check: sh`test -z "$(too_open)"`,
      apply: [
        sh`
          too_open | while read -r mode path; do
            record_before --meta "$path"
            chown root:root "$path"
            chmod "$mode" "$path"
          done`,
      ],
    },
    ...(role === 'server' ? [defaultAccounts()] : []),
    ...cisOf(context, role).map(({ section: { step, title, known, help }, controls }): Step => ({
      name: `CIS ${step}, ${title}: every control passes or is waived`,
      check: known.length > 0 ? sh`cis_known ${known}` : sh`systemctl is-active k3s.service`,
      help,
      controls,
    })),
  ]
})

/** New namespaces come with such an account: pages quieten those that they make, and for others this page is applied again. */
function defaultAccounts(): Step {
  const accounts = sh`k3s_kubectl get serviceaccounts --all-namespaces --field-selector metadata.name=default --output`
  const mounts = sh`${accounts} \
    jsonpath='{range .items[*]}{.metadata.namespace}{" "}{.automountServiceAccountToken}{"\n"}{end}'`
  const noted = sh`${accounts} \
    jsonpath='{range .items[*]}{.metadata.namespace}{" "}{.metadata.annotations.fortress-kit/token-was}{"\n"}{end}'`
  return {
    name: 'default service accounts mount no token',
    why: 'a pod without an account of its own gets this one, and needs no access to the API',
    check: sh`quiet_accounts`,
    apply: [
      // A server that has just started creates the accounts late. What an account had before is noted on it.
      sh`
        deadline=$((SECONDS + 60))
        until [ "$(k3s_kubectl get namespaces --field-selector status.phase=Active --output name | wc --lines)" -le \
          "$(${mounts} | wc --lines)" ] || [ "$SECONDS" -ge "$deadline" ]; do sleep 1; done
        ${mounts} | awk '$2 != "false"' | while read -r space was; do
          k3s_kubectl annotate serviceaccount default --namespace "$space" --overwrite \
            "fortress-kit/token-was=\${was:-unset}" > /dev/null
          k3s_kubectl patch serviceaccount default --namespace "$space" \
            --patch '{"automountServiceAccountToken":false}' > /dev/null
        done`,
    ],
    undo: [
      sh`
        ${noted} | while read -r space was; do
          [ -n "$was" ] || continue
          k3s_kubectl patch serviceaccount default --namespace "$space" \
            --patch "{\"automountServiceAccountToken\":\${was/unset/null}}" > /dev/null
          k3s_kubectl annotate serviceaccount default --namespace "$space" fortress-kit/token-was- > /dev/null
        done`,
    ],
  }
}

/** The files that k3s has written and others can read or change, or that are not root's. */
function writtenFiles() {
  return sh`
# too_open: a line for each of them: the mode for chmod, and the path.
too_open() {
  more_than u-x,go= 177 "$K3S_ETC/k3s.yaml" "$K3S_DATA"/{server/cred,agent}/*.kubeconfig "$K3S_DATA"/agent/*.key \
    "$K3S_DATA"/agent/etc/kubelet.conf.d/*.conf
  more_than go= 077 "$K3S_DATA/server/db/etcd" "$K3S_DATA/agent/etc/kubelet.conf.d"
  more_than a-x,go-w 133 "$K3S_DATA/agent/client-ca.crt"
  [ ! -d "$K3S_DATA/server/tls" ] || find "$K3S_DATA/server/tls" -xdev ! -type l | while IFS= read -r path; do
    case $path in
      *.key) more_than u-x,go= 177 "$path" ;;
      *.crt) more_than a-x,go-w 133 "$path" ;;
      *) more_than go-w 022 "$path" ;;
    esac
  done
}

# more_than MODE MASK PATH…: of these, those that have a bit of MASK, or are not root's.
more_than() {
  local mode=$1 mask=$2 path
  shift 2
  for path; do
    [ ! -e "$path" ] || find "$path" -maxdepth 0 \( -perm "/$mask" -o ! -user root -o ! -group root \) -printf "$mode %p\n"
  done
}
export -f too_open more_than`
}
