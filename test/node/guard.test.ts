// Network policies that cut off who applies them, on a node with a real datapath: what brings the way back, with the laptop and
// without it.
import assert from 'node:assert/strict'
import { readFileSync, writeFileSync } from 'node:fs'
import { connect } from 'node:net'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { powerLoss } from '../machine/power.ts'
import { without } from '../programs.ts'
import { withoutCilium } from './cilium.ts'
import { missing } from './kit.ts'
import { type Tunneled, tunneled } from './tunnel.ts'

const skip = withoutCilium || missing || without('helm', 'kubectl')

/** What no look at addresses sees: it wins over every line that lets somebody in. */
const planted = `---
apiVersion: cilium.io/v2
kind: CiliumClusterwideNetworkPolicy
metadata:
  name: nodes-planted
spec:
  description: cuts everybody off
  enableDefaultDeny: { ingress: false }
  nodeSelector: {}
  ingressDeny:
    - fromEntities: [world]
`

describe('policies that cut off who applies them', { skip }, () => {
  let cluster: Tunneled
  let right: string
  const at = '10.69.0.1'
  const file = () => join(cluster.copy.dir, 'config/components/cilium/policies.yaml')
  const plant = () =>
    writeFileSync(
      file(),
      right.replace('description: no pod reaches the metadata of a cloud', 'description: other') + planted,
    )
  const answers = (port: number) =>
    new Promise<boolean>((resolve) => {
      const socket = connect({ host: at, port, timeout: 2000 })
      const end = (is: boolean) => {
        socket.destroy()
        resolve(is)
      }
      socket
        .on('connect', () => end(true))
        .on('timeout', () => end(false))
        .on('error', () => end(false))
    })
  const until = async (port: number, is: boolean, seconds: number) => {
    for (const begun = Date.now(); (await answers(port)) !== is; await sleep(500))
      if (Date.now() - begun > seconds * 1000) assert.fail(`port ${port} answers: ${!is}, after ${seconds} s`)
  }
  const policies = () =>
    cluster.kubectl(
      `get ciliumclusterwidenetworkpolicies --output=jsonpath='{range .items[*]}{.metadata.name}: {.spec.description}{"\\n"}{end}'`,
    )
  /** What the agent does with packets that a policy of the node does not allow. */
  const enforcement = async () =>
    (
      await cluster.kubectl(
        `exec daemonset/cilium --namespace cilium --container cilium-agent -- cilium-dbg endpoint list ` +
          `--output jsonpath='{[?(@.status.identity.id==1)].status.policy.realized.policy-enabled}'`,
      )
    ).trim()

  before(async () => {
    cluster = await tunneled('guard', ['server'], 69)
    right = readFileSync(file(), 'utf8')
    const page = cluster.copy.page('31-network-policies')
    writeFileSync(page, readFileSync(page, 'utf8').replace(/^const within = \d+$/m, 'const within = 60'))
    await cluster.run('network-cilium', 'apply')
  })
  after(() => cluster?.end())

  test('that cut nobody off are confirmed, and the guard is gone', async () => {
    await cluster.run('network-policies', 'apply')
    assert.equal(await enforcement(), 'ingress')
    assert.equal(
      await cluster.kubectl('get daemonset policy-guard --namespace cilium --ignore-not-found'),
      '',
    )
    assert.match(await cluster.run('network-policies', 'apply'), /: \d+ steps hold\n/)
  })

  test('others are taken back by the run that applied them, as soon as the guard has opened the node', async () => {
    const before = await policies()
    plant()
    const running = cluster.task('network-policies', 'apply')
    await until(6443, false, 120)
    await until(6443, true, 120)
    const { code, text } = await running
    assert.equal(code, 1, text)
    assert.match(text, /With these policies port (22|6443) of 10\.\S+ no longer answers this computer/)
    assert.match(text, /this change was rolled back/)
    assert.equal(await policies(), before)
    assert.equal(await enforcement(), 'ingress')
    assert.equal(
      await cluster.kubectl('get daemonset policy-guard --namespace cilium --ignore-not-found'),
      '',
    )
  })

  test('where the laptop dies meanwhile the node opens all the same, verify says so, and the next run mends it', async () => {
    const before = await policies()
    plant()
    const running = cluster.task('network-policies', 'apply')
    await until(6443, false, 120)
    powerLoss(cluster.state)
    await running
    await until(6443, true, 120)
    assert.ok(await answers(22))
    assert.match(await policies(), /nodes-planted/)
    assert.equal(await enforcement(), 'audit-ingress')
    writeFileSync(file(), right)
    const { code, text } = await cluster.task('network-policies', 'verify')
    assert.equal(code, 1, text)
    assert.match(text, /the guard of an earlier run is there/)
    assert.match(
      await cluster.run('network-policies', 'apply'),
      /an unconfirmed change of an earlier run was rolled back/,
    )
    assert.equal(await policies(), before)
    assert.equal(await enforcement(), 'ingress')
    await cluster.run('network-policies', 'verify')
  })

  test('undo opens what they closed, and leaves no guard', async () => {
    await cluster.run('network-policies', 'undo')
    assert.equal((await policies()).trim(), '')
    assert.equal(await enforcement(), 'none')
  })
})
