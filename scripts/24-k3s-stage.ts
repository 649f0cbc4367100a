#!/usr/bin/env -S npx --no-install tsx
// The pinned version of k3s is on every node, verified, before anything stops on one of them.
//
// Needs   k3s-join. An upgrade is a change of k3s in config/versions.yaml, then this page, then k3s-upgrade.
// Leaves  the new program beside the one that runs, in /opt/k3s, and an annotation on the Node: ./task status shows it.
// Undo    leaves the program: by then it may be the one that runs.
import { sh } from '../lib/ground/sh.ts'
import { memberOf, programOf } from '../lib/k3s/members.ts'
import { programSteps, serviceShell } from '../lib/k3s/service.ts'
import { script } from '../lib/script.ts'

export default script(import.meta, { layer: 'L2', on: 'node', library: serviceShell }, (context) => {
  const member = memberOf(context)
  const { name, arch } = member
  const { version } = programOf(context, arch)
  return [
    ...programSteps(context, member, { stays: true }),
    {
      name: `Node ${name} is annotated as staged for k3s ${version}`,
      why: 'k3s-upgrade begins nowhere before all nodes are staged',
      check: sh`
        test ${version} = "$(k3s_self get node ${name} \
          --output jsonpath='{.metadata.annotations.fortress-kit/staged}')"`,
      apply: [sh`k3s_self annotate node ${name} --overwrite fortress-kit/staged=${version}`],
    },
  ]
})
