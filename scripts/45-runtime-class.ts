#!/usr/bin/env -S npx --no-install tsx
// RuntimeClass gvisor: a pod with runtimeClassName gvisor runs in a sandbox, and a pod on each node shows that it is one.
//
// Needs   runtime-gvisor, or nodes of Talos, which have gVisor in their image.
// Leaves  the class, and namespace gvisor with a pod on each node: it is ready where the kernel that it sees is gVisor's.
// Then    50-policy: a pod without the class is warned of, or refused. What has to do without it is exempt, with a reason.
// Undo    refuses while other pods run in the sandbox, and names them: without the class they would not come back.
import { namespaceStep, objects, objectsShell } from '../lib/component/objects.ts'
import { content } from '../lib/engine/file.ts'
import type { Step } from '../lib/engine/step.ts'
import { sh } from '../lib/ground/sh.ts'
import { script } from '../lib/script.ts'
import { chosen, isNode } from '../lib/site/machines.ts'

const about = {
  layer: 'L3',
  on: 'api',
  needs: ['40-runtime-gvisor', '14-vm-talos'],
  library: objectsShell,
  prepare: sandboxes(),
} as const

const gvisor = 'gvisor'

export default script(import.meta, about, (context) => {
  const { site } = context
  if (!chosen(site, 'runtime').includes(gvisor)) return []
  const nodes = site.machines.filter(isNode)
  const talos = nodes.filter(({ os }) => os === 'talos').map(({ name }) => name)
  return [
    {
      name: 'the kubelet of every node has the handler runsc',
      why: 'a pod that is placed where there is none never starts',
      check: sh`handlers_there ${nodes.map(({ name }) => name)}`,
      help: `./task runtime-gvisor apply; a node of Talos has it in its image: config/vm/talos-schematic.yaml`,
    },
    ...talos.map(talosLabelled),
    { ...namespaceStep({ name: gvisor, namespace: gvisor }), undoable: sh`class_unused` },
    ...objects(
      {
        what: gvisor,
        name: 'RuntimeClass gvisor is declared, with a probe on each node',
        manifests: [content(gvisor, { from: 'config/components/gvisor/objects.yaml' })],
        kinds: ['runtimeclasses.node.k8s.io', 'daemonsets.apps'],
      },
      context,
    ),
    {
      name: 'on every node the kernel in a sandbox is that of gVisor',
      why: 'what a pod says itself of the kernel that it sees: its probe looks into /proc/version every minute',
      until: sh`sandboxed ${nodes.length}`,
      seconds: 300,
    },
  ]
})

/** What 40-runtime-gvisor does for a node of k3s. */
const talosLabelled = (name: string): Step => ({
  name: `Node ${name} is labelled as one that has gVisor`,
  check: sh`
    test ready = "$(kubectl get node ${name} --output=jsonpath='{.metadata.labels.fortress-kit/gvisor}')"`,
  apply: [sh`kubectl label node ${name} --overwrite fortress-kit/gvisor=ready`],
  undo: [sh`kubectl label node ${name} fortress-kit/gvisor-`],
})

/** Who runs in a sandbox, and who could. */
function sandboxes() {
  return sh`
# handlers_there NODE...: the kubelet of each says that its containerd has the handler runsc.
handlers_there() {
  local all node bad=0 one='{.metadata.name} {.status.runtimeHandlers[*].name}{"\n"}'
  all=$(kubectl get nodes --output=jsonpath="{range .items[*]}$one{end}") || return
  for node; do
    awk -v node="$node" '$1 == node { for (i = 2; i <= NF; i++) if ($i == "runsc") found = 1 } END { exit !found }' <<< "$all" ||
      { echo "Node $node has no handler runsc"; bad=1; }
  done
  return "$bad"
}

# sandboxed COUNT: on so many nodes the probe is ready, and on no other one is there one that is not.
sandboxed() {
  local said numbers='{.status.desiredNumberScheduled} {.status.numberReady}'
  said=$(kubectl get daemonset probe --namespace=gvisor --output=jsonpath="$numbers") || return
  echo "probes: \${said% *}, of which ready: \${said#* }, nodes: $1"
  [ "$said" = "$1 $1" ]
}

# class_unused: no pod but the probes runs in the sandbox; the others are named.
class_unused() {
  local pods one='{.metadata.namespace}/{.metadata.name} {.status.phase}{"\n"}'
  pods=$(kubectl get pods --all-namespaces --output \
    jsonpath='{range .items[?(@.spec.runtimeClassName=="gvisor")]}'"$one{end}") || return
  pods=$(awk '$2 != "Succeeded" && $2 != "Failed" && $1 !~ "^gvisor/probe-" { print $1 }' <<< "$pods" |
    paste --serial --delimiters=' ')
  [ -z "$pods" ] || { printf 'pods run in the sandbox: %s\ndelete them first\n' "$pods"; return 1; }
}
export -f handlers_there sandboxed class_unused`
}
