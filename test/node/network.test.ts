// Two nodes and their network, by pages 30 and 31. What pods, nodes and who is outside reach, beside what the map says of it: each flow on
// the wire, each drop in Hubble, and the same while Cilium's agents are dead, and after restarts. Policies that cut off who applies
// them, and what brings the way back, with the laptop and without it. At last the network is taken away while a node is dead.
import assert from 'node:assert/strict'
import { readFileSync, writeFileSync } from 'node:fs'
import { connect } from 'node:net'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { labNodeDown, labReboot } from '../../lib/lab/lab.ts'
import { powerLoss } from '../machine/power.ts'
import { without } from '../programs.ts'
import { withoutCilium } from './cilium.ts'
import * as flows from './flows.ts'
import { type Attempt, type Judge, type Place, isThrough } from './flows.ts'
import { missing } from './kit.ts'
import { type Tunneled, gateway, tunneled } from './tunnel.ts'

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

describe('two nodes and their network', { skip }, () => {
  const [first, second] = ['net-1', 'net-2'] as const
  let cluster: Tunneled
  let around: flows.Outside | undefined
  let judge: Judge
  let peers: Place[]
  let table: Attempt[]
  /** The policies of the nodes as they are shipped. */
  let right: string

  /** Waits until all that takes part is ready, on both nodes; what is on the second one began after `since`. */
  const settled = async (since = '') => {
    const columns = [
      '{.spec.nodeName}',
      '{.status.conditions[?(@.type=="Ready")].status}',
      '{.status.containerStatuses[0].state.running.startedAt}',
    ]
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
    // What is said of pods is from before a restart of their kubelet for a while; what the kubelet says is not.
    for (const name of cluster.names)
      await cluster.until(
        `the kubelet of ${name} knows its pods`,
        `/opt/bin/k3s kubectl get --raw /api/v1/nodes/${name}/proxy/pods | grep '"name":"cilium-'`,
      )
    peers = await flows.podsOf(cluster)
    await flows.inForce(cluster, peers)
    table = await flows.tableOf(cluster)
  }
  /** Every difference between what the map says and what came of it. */
  const differences = async (attempts: Attempt[], { seen = false } = {}): Promise<string[]> => {
    const all = () => flows.tried(cluster, attempts)
    const [answers, drops] = seen ? await flows.withDrops(cluster, all) : [await all()]
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

  const file = () => join(cluster.copy.dir, 'config/components/cilium/policies.yaml')
  const plant = () =>
    writeFileSync(
      file(),
      right.replace('description: no pod reaches the metadata of a cloud', 'description: other') + planted,
    )
  const answers = (port: number) =>
    new Promise<boolean>((resolve) => {
      const socket = connect({ host: `10.${flows.tunnel}.0.1`, port, timeout: 2000 })
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
  /** What the agents do with packets that a policy of their node does not allow: one word, where all do the same. */
  const enforcement = async () => {
    const kubectl = '/opt/bin/k3s kubectl --namespace=cilium'
    const of = '{[?(@.status.identity.id==1)].status.policy.realized.policy-enabled}'
    const said = await cluster.on(
      first,
      `for pod in $(${kubectl} get pods --selector=k8s-app=cilium --output=name); do
  ${kubectl} exec $pod --container=cilium-agent -- cilium-dbg endpoint list --output=jsonpath='${of}' && echo
done`,
    )
    return [...new Set(said.split('\n').filter(Boolean))].join()
  }
  const guard = () => cluster.kubectl('get daemonset policy-guard --namespace cilium --ignore-not-found')

  before(async () => {
    cluster = await tunneled('net', ['server', 'agent'], flows.tunnel, {
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
    right = readFileSync(file(), 'utf8')
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

  test('after a restart of k3s, and with it of the kubelet, on both nodes', async () => {
    for (const name of [second, first]) await cluster.on(name, 'systemctl restart k3s.service')
    await settled()
    assert.deepEqual(await differences(table, { seen: true }), [])
  })

  test('policies that cut nobody off are confirmed, and the guard is gone', async () => {
    assert.equal(await enforcement(), 'ingress')
    assert.equal(await guard(), '')
    assert.match(await cluster.run('network-policies', 'apply'), /: \d+ steps hold\n/)
  })

  test('others that do are taken back by the run that applied them, as soon as the guard has opened the node', async () => {
    const before = await policies()
    const page = cluster.copy.page('31-network-policies')
    writeFileSync(page, readFileSync(page, 'utf8').replace(/^const within = \d+$/m, 'const within = 60'))
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
    assert.equal(await guard(), '')
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

  test('undo opens what they closed, and leaves no guard, and what is of others', async () => {
    await cluster.run('network-policies', 'undo')
    assert.equal((await policies()).trim(), 'supervisor:')
    await cluster.kubectl('delete ciliumclusterwidenetworkpolicy supervisor')
    assert.equal(await enforcement(), 'none')
    assert.equal(await guard(), '')
  })

  test('undo of the network while a node is dead cleans the node that is alive, names the other one and what to run there, and ends', async () => {
    await labNodeDown(second)
    await cluster.until(
      'its Node is known to be dead',
      `/opt/bin/k3s kubectl get node ${second} --output=jsonpath='{.status.conditions[?(@.type=="Ready")].status}' | grep Unknown`,
    )
    const text = await cluster.run('network-cilium', 'undo')
    assert.match(text, /kept: Cilium on net-2, which does not answer[^]*05-cilium\.conflist[^]*reboot/)
    assert.equal(await cluster.kubectl('get namespace cilium --ignore-not-found'), '')
    const left = await cluster.on(
      first,
      `ip -brief link | grep -E '^(cilium_|lxc)' || true
ls /opt/cni/bin/cilium-cni /etc/cni/net.d/05-cilium.conflist 2> /dev/null || true`,
    )
    assert.equal(left, '')
    assert.match(await cluster.run('network-cilium', 'undo'), /nothing of it|undone/)
  })
})
