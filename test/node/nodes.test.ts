// A server and an agent on which pods run, built by the pages: the API reaches both kubelets, and pods reach each other across.
import assert from 'node:assert/strict'
import { after, before, describe, test } from 'node:test'
import { type PodFleet, bridge, missing, podFleet, podImage } from './kit.ts'
import { restricted } from './manifests.ts'

describe('pods on two nodes', { skip: missing }, () => {
  let cluster: PodFleet
  const [first, agent] = ['pair-1', 'pair-2'] as const
  const ready = '/opt/bin/k3s kubectl wait --for=condition=Ready node --all --timeout=1s'
  /** Of the pods of the Deployment web, by their nodes. */
  const pods = async () => {
    const text = await cluster.kubectl('--namespace=shop get pod --selector=app=web --output json')
    const { items } = JSON.parse(text) as {
      items: {
        metadata: { name: string }
        spec: { nodeName: string }
        status: { podIP: string; containerStatuses: { containerID: string; restartCount: number }[] }
      }[]
    }
    return new Map(
      items.map(({ metadata: { name }, spec, status }) => {
        const [{ containerID, restartCount }] = status.containerStatuses as [
          { containerID: string; restartCount: number },
        ]
        return [spec.nodeName, { name, address: status.podIP, container: `${containerID} ${restartCount}` }]
      }),
    )
  }
  const within = (pod: string, words: string) =>
    cluster.kubectl(`--namespace=shop exec ${pod} -- /bin/pod ${words}`)
  const each = async () => {
    const found = await pods()
    assert.deepEqual([...found.keys()].toSorted(), cluster.names)
    const [one, other] = [found.get(first)!, found.get(agent)!]
    for (const [from, to] of [
      [one, other],
      [other, one],
    ] as const)
      assert.equal((await within(from.name, `get http://${to.address}:8080/`)).trim(), to.name)
  }

  before(async () => {
    cluster = await podFleet('pair', ['server', 'agent'], { bridge: true })
    cluster.site((site) => {
      site['accepted'] = [{ what: first, why: 'a second node is what is tested', until: '2099-12-31' }]
    })
    for (const page of ['k3s-server', 'k3s-join']) {
      const { code, text } = await cluster.task(page, 'apply')
      assert.equal(code, 0, text)
    }
  })
  after(() => cluster?.end())

  test('both are ready once they have a network', async () => {
    await bridge(cluster)
    await cluster.until('both are ready', ready)
  })

  test('a pod on each reaches the one on the other', async () => {
    await cluster.kubectl('create namespace shop')
    await cluster.kubectl('apply --filename=-', restricted('web', podImage, 2, { apart: true }))
    const available =
      '/opt/bin/k3s kubectl --namespace=shop wait deploy/web --for=condition=Available --timeout=1s'
    await cluster.until('web is available', available)
    await each()
  })

  test('logs of a pod on the agent come through the API', async () => {
    const { name } = (await pods()).get(agent)!
    assert.match(await cluster.kubectl(`--namespace=shop logs ${name}`), /listens on \[8080\] as 65532/)
  })

  test('a restart of the agent ends no container', async () => {
    const before = await pods()
    await cluster.on(agent, 'systemctl restart k3s.service')
    await cluster.until('both are ready', ready)
    assert.deepEqual(await pods(), before)
    await each()
  })
})
