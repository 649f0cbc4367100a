// The node of Talos: it does what is written down, its cluster has begun, once, and you hold the key to it.
//
// Needs   a node of vm-provision that runs Talos (FK_NODE_OS=talos). It brings its own Kubernetes: there is no k3s on it.
// Leaves  a cluster of its own etcd, and its kubeconfig: on the host for root alone, and age-encrypted on the laptop
//         (./task node kubeconfig NAME writes it out). The cluster has no network yet: that is another layer.
// Then    change config/vm/talos-controlplane.yaml, apply vm-ignition, and this page: the node takes the change for two minutes, and
//         keeps it only when it still answers.
// Undo    takes the papers from the host. The node keeps what it has become: ./task node destroy NAME.
import type { Step } from '../lib/engine/step.ts'
import { sh } from '../lib/ground/sh.ts'
import { type Context, script } from '../lib/script.ts'
import type { Node } from '../lib/site/machines.ts'
import { declaredDir } from '../lib/vm/domain.ts'
import {
  clientConfigPath,
  installerOf,
  kubeconfigPath,
  machineConfigPath,
  talosNodes,
  talosShell,
  talosVersion,
} from '../lib/vm/talos.ts'

export default script(import.meta, { layer: 'L1', on: 'host', library: talosShell }, (context) => {
  const [first, ...others] = talosNodes(context)
  if (first === undefined)
    return [
      {
        name: 'no node of the site runs Talos',
        check: sh`! ls ${declaredDir}/*.talosconfig 2> /dev/null`,
        help: 'papers of a node are left that the site does not have any more: ./task vm-talos undo, or set FK_NODE_OS=talos again',
      },
    ]
  return [
    ...[first, ...others].flatMap((node) => obey(context, node)),
    // The others find the first by its address, and join.
    begin(first),
    ...[first, ...others].flatMap(well),
    ...papers(first),
  ]
})

/** It runs the system that is pinned, and does what is written down. */
function obey({ pins }: Context, node: Node): Step[] {
  const { name } = node
  const version = talosVersion(pins)
  return [
    {
      name: `what ${name} should do is written down, and ${name} knows us`,
      check: sh`test -s ${machineConfigPath(node)} && talos ${name} version`,
      help: './task vm-ignition apply, then ./task vm-provision apply',
    },
    {
      name: `${name} runs Talos ${version}`,
      why: 'a new version is a new disk and a reboot: when, is decided by whoever drains the node first',
      check: sh`talos_runs ${name} ${version}`,
      help: `on the host: talosctl --talosconfig ${clientConfigPath(node)} upgrade --image ${installerOf(pins)}`,
      controls: [
        {
          id: 'T01',
          title: 'The system is the pinned one, and the node says so itself',
          check: sh`talos_runs ${name} ${version}`,
          from: ['NIST SP 800-53 CM-6'],
        },
      ],
    },
    {
      name: `${name} does what is written down for it`,
      why: 'it is asked what it would change, and answers with a difference; a change that silences it is taken back by itself',
      check: sh`talos_obeys ${name}`,
      apply: [sh`talos_try ${name}`],
      seconds: 420,
      controls: [
        {
          id: 'T02',
          title: 'No setting of the node differs from what is declared',
          check: sh`talos_obeys ${name}`,
          from: ['NIST SP 800-53 CM-3', 'NIST SP 800-53 CM-6'],
        },
      ],
    },
  ]
}

/** The first member of etcd, and so the cluster. */
function begin({ name }: Node): Step {
  return {
    name: `the cluster has begun on ${name}`,
    why: 'etcd begins once: on a node that had one already it would forget everything, so that is refused',
    check: sh`talos_member ${name}`,
    apply: [sh`talos_begin ${name}`],
    seconds: 900,
    controls: [
      {
        id: 'T03',
        title: 'etcd knows the node as its member',
        check: sh`talos_member ${name}`,
        from: ['CIS Kubernetes 2'],
      },
    ],
  }
}

/** Its services say so themselves, and nobody else is let in. */
function well({ name, address }: Node): Step[] {
  return [
    {
      name: `etcd and the kubelet of ${name} are healthy`,
      until: sh`talos_service ${name} etcd 'Running OK' && talos_service ${name} kubelet 'Running OK'`,
      seconds: 900,
      controls: [
        {
          id: 'T04',
          title: 'etcd is healthy',
          check: sh`talos_service ${name} etcd 'Running OK'`,
          from: ['CIS Kubernetes 2'],
        },
        {
          id: 'T05',
          title: 'The kubelet is healthy',
          check: sh`talos_service ${name} kubelet 'Running OK'`,
          from: ['CIS Kubernetes 4'],
        },
      ],
    },
    {
      name: `${name} lets in nobody without a certificate of ours`,
      why: 'while it waits for its first configuration Talos would listen to anybody; asked by coming without a certificate',
      check: sh`talos_shut ${address} 50000`,
      help: 'somebody else made this node, or it lost what it was told: ./task node rebuild NAME',
      controls: [
        {
          id: 'T06',
          title: 'The API of Talos refuses who shows no certificate',
          check: sh`talos_shut ${address} 50000`,
          from: ['NIST SP 800-53 IA-3', 'NIST SP 800-53 AC-3'],
        },
      ],
    },
  ]
}

/** What its owner holds. */
function papers(node: Node): Step[] {
  const { name } = node
  const path = kubeconfigPath(node)
  const digest = sh`"$(sha256sum ${path} | cut --delimiter=' ' --fields=1)"`
  return [
    {
      name: 'the host has the kubeconfig of the cluster, for root alone',
      why: 'its certificate is good for three months, and a new one is fetched in the last',
      check: sh`talos_good ${path} client-certificate-data 30`,
      apply: [
        // Not through a file of talosctl's own: this one lands whole.
        sh`timeout 60 talosctl --talosconfig ${clientConfigPath(node)} kubeconfig - | put ${path} 600 root:root && put_finish ${path}`,
      ],
      controls: [
        {
          id: 'T07',
          title: "The admin's certificate ends within three months, and is not near its end",
          check: sh`talos_good ${path} client-certificate-data 30`,
          from: ['NIST SP 800-57'],
        },
      ],
    },
    {
      name: 'the laptop has it too, encrypted',
      check: sh`saved ${`${name}-kubeconfig`} ${digest}`,
      apply: [sh`: # the copy is made by the laptop, see save`],
      save: { name: `${name}-kubeconfig`, command: sh`cat ${path}` },
    },
  ]
}
