// Every node runs the pinned version: servers one at a time, then agents; a node that is not well with it goes back.
//
// Needs   k3s-stage, and a cluster that is well. One minor version at a time.
// Does    keeps a snapshot, then on each node: its pods leave, the other version starts, is asked whether it is well, pods return.
//         A pod that may not leave stops it: FK_DRAIN=force ends that pod all the same.
// Then    run it again after a failure, or after it was killed: it goes on where it was.
// Undo    nothing: what the new version has written, the old one may not read. ./task restore brings the snapshot back.
import { clusterShell, upgradeOf } from '../lib/k3s/nodes.ts'
import { script } from '../lib/script.ts'

export default script(import.meta, { layer: 'L2', on: 'node', library: clusterShell }, upgradeOf)
