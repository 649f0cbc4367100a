// No certificate of the cluster ends within 90 days: k3s renews them when it starts, one server after the other.
//
// Needs   k3s-join. Run it from a timer, or with build-all: it does nothing while there is time.
// Then    ./task status shows the days that are left. The kubeconfig has one of them: ./task k3s-server apply fetches it anew.
// Undo    nothing: a certificate that was renewed stays.
import { clusterShell, renewalOf } from '../lib/k3s/nodes.ts'
import { script } from '../lib/script.ts'

export default script(import.meta, { layer: 'L2', on: 'node', library: clusterShell }, renewalOf)
