// The network is taken away while a node does not answer: what can be reached is clean, and the other node is named.
import assert from 'node:assert/strict'
import { after, before, describe, test } from 'node:test'
import { labNodeDown } from '../../lib/lab/lab.ts'
import { without } from '../programs.ts'
import { withoutCilium } from './cilium.ts'
import { missing } from './kit.ts'
import { type Tunneled, tunneled } from './tunnel.ts'

const skip = withoutCilium || missing || without('helm', 'kubectl')

describe('an undo of the network with a node that is dead', { skip }, () => {
  let cluster: Tunneled
  before(async () => {
    cluster = await tunneled('dead', ['server', 'agent'], 70)
    await cluster.run('network-cilium', 'apply')
  })
  after(() => cluster?.end())

  test('cleans the node that is alive, names the other one and what to run there, and ends', async () => {
    await labNodeDown('dead-2')
    await cluster.until(
      'its Node is known to be dead',
      `/opt/bin/k3s kubectl get node dead-2 --output=jsonpath='{.status.conditions[?(@.type=="Ready")].status}' | grep Unknown`,
    )
    const text = await cluster.run('network-cilium', 'undo')
    assert.match(text, /kept: Cilium on dead-2, which does not answer[^]*05-cilium\.conflist[^]*reboot/)
    assert.equal(await cluster.kubectl('get namespace cilium --ignore-not-found'), '')
    const left = await cluster.on(
      'dead-1',
      `ip -brief link | grep -E '^(cilium_|lxc)' || true
ls /opt/cni/bin/cilium-cni /etc/cni/net.d/05-cilium.conflist 2> /dev/null || true`,
    )
    assert.equal(left, '')
    assert.match(await cluster.run('network-cilium', 'undo'), /nothing of it|undone/)
  })
})
