// The pinned version of k3s is on every node, proven, before anything stops on one of them.
//
// Needs   k3s-join. An upgrade is a change of k3s in config/versions.yaml, then this page, then k3s-upgrade.
// Leaves  the new program beside the one that runs, in /opt/k3s; the Node says so: ./task status shows it.
// Undo    leaves the program: by then it may be the one that runs.
import { memberOf, stagedOf } from '../lib/k3s/members.ts'
import { announcedOf, clusterShell } from '../lib/k3s/nodes.ts'
import { script } from '../lib/script.ts'

export default script(import.meta, { layer: 'L2', on: 'node', library: clusterShell }, (context) => [
  ...stagedOf(context, memberOf(context), { stays: true }),
  ...announcedOf(context),
])
