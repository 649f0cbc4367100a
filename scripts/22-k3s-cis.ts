// What CIS asks of Kubernetes, asked of a node that runs.
//
// Needs   a node of k3s-server or k3s-join that answers.
// Leaves  owners and modes of what k3s has written, and accounts called default that no pod gets a token of unasked. All else is
//         asked only: what the answer should be is config/k3s/config.yaml's matter, and that of the layers above.
// Then    ./task cis prints the score, and writes it to out/ for programs. config/k3s/cis.yaml has the list, one control at a time;
//         config/k3s/waivers.yaml what does not hold, and why.
import type { Step } from '../lib/engine/step.ts'
import { sh } from '../lib/ground/sh.ts'
import { cisOf, cisShell } from '../lib/k3s/cis.ts'
import { memberOf } from '../lib/k3s/members.ts'
import { script } from '../lib/script.ts'

export default script(import.meta, { layer: 'L2', on: 'node', library: cisShell() }, (context) => {
  const { role } = memberOf(context)
  return [
    {
      name: 'all that k3s starts has started',
      why: 'its API answers some seconds before the controller manager, the scheduler and the kubelet do',
      until: role === 'server' ? sh`cis_up 10257 10259 10250` : sh`cis_up 10250`,
      seconds: 120,
    },
    {
      name: "what k3s has written is root's alone",
      why: 'keys and kubeconfigs are the cluster: who reads one of them needs no other door',
      check: sh`[ -z "$(cis_slack)" ]`,
      apply: [
        sh`cis_slack | while read -r less path; do record_before --meta "$path"; chown root:root "$path"; chmod "$less" "$path"; done`,
      ],
    },
    ...(role === 'server' ? [quiet()] : []),
    ...cisOf(context, role).map(({ section: { step, title, known, help }, controls }): Step => ({
      name: `CIS ${step}, ${title}: every control holds, or says why not`,
      check: known.length > 0 ? sh`cis_known ${known}` : sh`systemctl is-active k3s.service`,
      help,
      controls,
    })),
  ]
})

/** New namespaces come with such an account: apply this page again, until the layer of policies does it by itself. */
function quiet(): Step {
  return {
    name: 'no pod gets a token of an account called default unasked',
    why: 'a pod that nobody gave an account has this one, and needs no way into the API',
    check: sh`quiet_accounts`,
    apply: [sh`quiet_default`],
    undo: [sh`unquiet_default`],
  }
}
