// What pods, nodes and who is outside reach on two nodes with our policies, beside what the map says of it: each flow on the wire,
// each drop in Hubble. And the same while Cilium's agents are dead, and after restarts.
import assert from 'node:assert/strict'
import { after, before, describe, test } from 'node:test'
import { without } from '../programs.ts'
import { labReboot } from '../../lib/lab/lab.ts'
import { withoutCilium } from './cilium.ts'
import * as flows from './flows.ts'
import { type Attempt, type Judge, type Place, isThrough } from './flows.ts'
import { missing } from './kit.ts'
import { type Tunneled, gateway, tunneled } from './tunnel.ts'

const skip = withoutCilium || missing || without('helm', 'kubectl')

describe('flows on two nodes', { skip }, () => {
  const [first, second] = ['flow-1', 'flow-2'] as const
  let cluster: Tunneled
  let around: flows.Outside | undefined
  let judge: Judge
  let peers: Place[]
  let table: Attempt[]

  /** Waits until all that takes part is ready, on both nodes; what is on the second one began after `since`. */
  const settled = async (since = '') => {
    const columns = [
      '{.spec.nodeName}',
      '{.status.conditions[?(@.type=="Ready")].status}',
      '{.status.containerStatuses[0].state.running.startedAt}',
    ]
    // Not by Deployments: after a restart the controllers of the stand-in look at these only after minutes (see patience).
    const path = `{range .items[*]}${columns.join(' ')}{"\\n"}{end}`
    const of = (labels: string) =>
      `/opt/bin/k3s kubectl get pods --all-namespaces --selector='${labels}' --output=jsonpath='${path}'`
    for (const [what, labels, count] of [
      ['the agents are', 'k8s-app=cilium', 2],
      ['CoreDNS is', 'k8s-app=kube-dns', 1],
      ['the pods that are tried are', 'app in (web,client,roamer,visitor)', 2 * flows.workloads.length],
    ] as const)
      await cluster.until(
        `${what} ready`,
        `test "$(${of(labels)} | awk '$2 == "True" && ($1 == "${first}" || $3 >= "${since}")' | wc --lines)" -eq ${count}`,
        300,
      )
    peers = await flows.podsOf(cluster)
    await flows.inForce(cluster, peers)
    table = await flows.tableOf(cluster)
  }
  /** Every difference between what the map says and what came of it. */
  const differences = async (attempts: Attempt[], { seen = false } = {}): Promise<string[]> => {
    const begun = Date.now()
    const answers = await flows.tried(cluster, attempts)
    const drops = seen
      ? await flows.dropsSeen(cluster, Math.ceil((Date.now() - begun) / 1000) + 2)
      : undefined
    return attempts.flatMap((one, i) => {
      const verdict = judge.of(one)
      const answer = answers[i]!
      const text = `${flows.nameOf(one)}: the map says ${verdict.allowed ? 'yes' : 'no'}`
      if (isThrough(answer) !== verdict.allowed)
        return [`${text} (${verdict.egress.by}, ${verdict.ingress.by}), and it was ${answer}`]
      const fault =
        verdict.allowed || drops === undefined ? undefined : flows.missed(one, verdict, drops, judge, peers)
      return fault === undefined ? [] : [`${text}, and ${fault}`]
    })
  }

  before(async () => {
    cluster = await tunneled('flow', ['server', 'agent'], flows.tunnel, {
      site(site) {
        site['accepted'] = [{ what: first, why: 'a second node is what is tested', until: '2099-12-31' }]
        site['networks'] = [{ name: 'lan', network: '10.78.0.0/16', gateway: flows.router }]
        site['router'] = {
          kind: 'none',
          allow: [
            { from: 'tunnel', to: 'nodes', ports: ['tcp/22', 'tcp/6443'], why: 'administration' },
            { from: gateway, to: 'nodes', ports: ['tcp/22'], why: 'the computer that runs this test' },
            { from: 'nodes', to: 'internet', ports: 'any', why: 'images' },
            ...flows.lines,
          ],
          never: [],
        }
      },
      async prepare(nodes) {
        flows.describeWorkloads(nodes.copy.dir)
        around = flows.outside()
        for (const name of nodes.names) await around.join(nodes, name)
      },
    })
    await cluster.run('network-cilium', 'apply')
    await cluster.kubectl('apply --filename=-', flows.manifests())
    await cluster.run('network-policies', 'apply')
    judge = flows.judgeOf(cluster.copy.dir, 'fortress-pi')
    await cluster.kubectl('apply --filename=-', judge.texts('flows'))
    await settled()
  })
  after(async () => {
    around?.end()
    await cluster?.end()
  })

  test('every flow is what the map says, and Hubble has seen each drop with its reason and its policy', async () => {
    assert.ok(table.length >= 40)
    const said = table.map((one) => judge.of(one).allowed)
    assert.ok(said.filter(Boolean).length >= 20 && said.filter((one) => !one).length >= 20)
    assert.deepEqual(await differences(table, { seen: true }), [])
  })

  test('a name that a policy allows opens its address, and no other; none opens a private one', async () => {
    const { before, asked, named } = await flows.namesOf(cluster)
    assert.deepEqual(await differences(before, { seen: true }), [])
    assert.deepEqual(await differences(asked, { seen: true }), [])
    const inside = named.filter(({ to }) => to.address === flows.places.private)
    assert.deepEqual(await differences(named.filter((one) => !inside.includes(one))), [])
    // What the name is, the map cannot know; that no pod reaches it, it does.
    const answers = await flows.tried(cluster, inside)
    assert.deepEqual(
      answers.filter((answer) => isThrough(answer)),
      [],
    )
  })

  test('with the agents dead the datapath decides the same', async () => {
    // The kubelet starts them again and again; none lives long enough to do anything.
    const words = `while :; do ! pkill -KILL --exact cilium-agent || echo one more; sleep 0.2; done`
    for (const name of cluster.names) {
      await cluster.on(name, `systemd-run --quiet --unit=no-agents bash -c '${words}'`)
      await cluster.until('an agent has ended', 'journalctl --unit=no-agents | grep "one more"')
    }
    try {
      assert.deepEqual(await differences(table), [])
    } finally {
      for (const name of cluster.names) await cluster.on(name, 'systemctl stop no-agents')
    }
  })

  test('and when they are there again', async () => {
    // What has ended often is started again only after a while; a new pod is at once.
    await cluster.kubectl('delete pods --namespace=cilium --selector=k8s-app=cilium')
    await settled()
    assert.deepEqual(await differences(table, { seen: true }), [])
  })

  test('after a node has booted anew', async () => {
    const since = (await cluster.on(second, 'date --utc +%Y-%m-%dT%H:%M:%SZ')).trim()
    await labReboot(cluster.machineOf(second))
    await around?.join(cluster, second)
    await settled(since)
    assert.deepEqual(await differences(table, { seen: true }), [])
  })

  // The last one: the controllers of the stand-in are away for minutes after it (see patience).
  test('after a restart of k3s, and with it of the kubelet, on both nodes', async () => {
    for (const name of [second, first]) await cluster.on(name, 'systemctl restart k3s.service')
    await settled()
    assert.deepEqual(await differences(table, { seen: true }), [])
  })
})
