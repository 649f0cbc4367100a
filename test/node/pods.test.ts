// Pods on a node that 20-k3s-server has built: from a cluster without a network to workloads that answer, restart, and are refused.
// Then on two, when 21-k3s-join has brought an agent: the API reaches both kubelets, and pods reach each other across.
import assert from 'node:assert/strict'
import { existsSync, readFileSync, readdirSync } from 'node:fs'
import { after, before, describe, test } from 'node:test'
import { type PodFleet, bridge, missing, podFleet, podImage } from './kit.ts'
import { dns, restricted } from './manifests.ts'

describe('pods', { skip: missing }, () => {
  let cluster: PodFleet
  const [first, agent] = ['pods-1', 'pods-2'] as const
  const kubectl = (words: string, input?: string) => cluster.kubectl(words, input)
  const until = (what: string, command: string, seconds?: number) => cluster.until(what, command, seconds)
  /** One word of the first pod of the Deployment web. */
  const inWeb = (words: string) => kubectl(`--namespace=shop exec deploy/web -- /bin/pod ${words}`)
  const refused = async (manifest: string): Promise<string> => {
    const said = await cluster.on(first, '/opt/bin/k3s kubectl apply --filename=- 2>&1 || true', manifest)
    assert.match(said, /forbidden/)
    return said
  }
  const ready = '/opt/bin/k3s kubectl wait --for=condition=Ready node --all --timeout=1s'
  /** Of the pods of the Deployment apart, by their nodes. */
  const pods = async () => {
    const text = await kubectl('--namespace=shop get pod --selector=app=apart --output json')
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
  const within = (pod: string, words: string) => kubectl(`--namespace=shop exec ${pod} -- /bin/pod ${words}`)
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
    cluster = await podFleet('pods', ['server', 'agent'], { bridge: true })
    cluster.site((site) => {
      site['accepted'] = [{ what: first, why: 'a second node is what is tested', until: '2099-12-31' }]
    })
    const { code, text } = await cluster.task('k3s-server', 'apply')
    assert.equal(code, 0, text)
  })
  after(() => cluster?.end())

  test('a node without a network is there, and not ready, for that reason', async () => {
    const message = `{.status.conditions[?(@.type=="Ready")].message}`
    assert.match(
      await kubectl(`get node ${first} --output jsonpath='${message}'`),
      /cni plugin not initialized/,
    )
  })

  test('it is ready once it has one, and is what the pages say that it is', async () => {
    await bridge(cluster, [first])
    await until(
      'the node is ready',
      `/opt/bin/k3s kubectl wait --for=condition=Ready node/${first} --timeout=1s`,
    )
    const info = await kubectl(`get node ${first} --output jsonpath='{.status.nodeInfo}'`)
    assert.match(info, /"containerRuntimeVersion":"containerd:\/\/2\.3\.6"/)
    assert.match(info, /"kubeletVersion":"v1\.36\.3/)
  })

  test('a restricted Deployment and the DNS of the cluster become available', async () => {
    await kubectl('apply --filename=-', dns)
    await kubectl('create namespace shop')
    await kubectl('apply --filename=-', restricted('web', podImage, 2))
    const available = (what: string) => `/opt/bin/k3s kubectl ${what} --for=condition=Available --timeout=1s`
    await until('web is available', available('--namespace=shop wait deploy/web'))
    await until('DNS is available', available('--namespace=kube-system wait deploy/coredns'))
  })

  test('a process in a pod is nobody, has no capability and no way to new ones, and cannot write', async () => {
    assert.equal((await inWeb('id')).trim(), '65532 65532')
    const status = await inWeb('cat /proc/1/status')
    for (const line of [/^CapEff:\t0+$/m, /^NoNewPrivs:\t1$/m, /^Seccomp:\t2$/m]) assert.match(status, line)
    await assert.rejects(inWeb('write /file text'), /read-only file system/)
  })

  test('a Service is reached by its name, and the pods behind it in turn', async () => {
    await until(
      'the name is known',
      `/opt/bin/k3s kubectl --namespace=shop exec deploy/web -- /bin/pod lookup web`,
    )
    assert.match(await inWeb('lookup web.shop.svc.cluster.local'), /^\[10\.43\.\d+\.\d+\]$/m)
    const answers = new Set<string>()
    for (let i = 0; i < 20 && answers.size < 2; i++) answers.add((await inWeb('get http://web/')).trim())
    assert.equal(answers.size, 2)
    for (const name of answers) assert.match(name, /^web-/)
  })

  test('logs, port-forward and metrics of the kubelet come through the API', async () => {
    assert.match(
      await kubectl('--namespace=shop logs --selector=app=web --tail=-1'),
      /listens on \[8080\] as 65532[^]*GET \//,
    )
    const answer = await cluster.on(
      first,
      `/opt/bin/k3s kubectl --namespace=shop port-forward deploy/web 18080:8080 > /dev/null 2>&1 &
for i in $(seq 40); do
  exec 3<> /dev/tcp/127.0.0.1/18080 && break
  sleep 0.25
done 2> /dev/null
printf 'GET /echo HTTP/1.0\\r\\nHost: here\\r\\n\\r\\n' >&3
cat <&3
kill %1`,
    )
    assert.match(answer, /^HTTP\/1\.0 200 OK[^]*127\.0\.0\.1:\d+ here/)
    const stats = JSON.parse(await kubectl(`get --raw /api/v1/nodes/${first}/proxy/stats/summary`)) as {
      pods: { podRef: { name: string } }[]
    }
    assert.equal(stats.pods.filter(({ podRef }) => podRef.name.startsWith('web-')).length, 2)
  })

  test('a container whose liveness probe fails is started anew, and the Service does without it meanwhile', async () => {
    const pod = (
      await kubectl(`--namespace=shop get pod --selector=app=web --output jsonpath={.items[0].metadata.name}`)
    ).trim()
    await kubectl(`--namespace=shop exec ${pod} -- /bin/pod get http://127.0.0.1:8080/sicken`)
    const count = `get pod ${pod} --output jsonpath={.status.containerStatuses[0].restartCount}`
    await until('it was started anew', `[ "$(/opt/bin/k3s kubectl --namespace=shop ${count})" -gt 0 ]`)
    await until(
      'both are ready again',
      `/opt/bin/k3s kubectl --namespace=shop rollout status deploy/web --timeout=1s`,
    )
  })

  test('a pod beyond its memory is ended, and nothing else is', async () => {
    const command = ['/bin/pod', 'fill', '200']
    await kubectl('apply --filename=-', restricted('greedy', podImage, 1, { command }))
    const reason = `{.items[0].status.containerStatuses[0].lastState.terminated.reason}`
    const ask = `get pod --selector=app=greedy --output jsonpath='${reason}'`
    await until('it was ended', `/opt/bin/k3s kubectl --namespace=shop ${ask} | grep -x OOMKilled`)
    await kubectl('--namespace=shop delete deploy greedy')
    assert.equal((await inWeb('id')).trim(), '65532 65532')
  })

  test('who is not restricted is refused by admission, with the reason', async () => {
    const pod = (security: object) =>
      JSON.stringify({
        apiVersion: 'v1',
        kind: 'Pod',
        metadata: { name: 'bad', namespace: 'shop' },
        spec: { containers: [{ name: 'bad', image: podImage, securityContext: security }] },
      })
    assert.match(
      await refused(pod({ privileged: true })),
      /violates PodSecurity "restricted:\w+": privileged/,
    )
    assert.match(await refused(pod({ runAsNonRoot: true })), /seccompProfile/)
  })

  test('a restart of k3s ends no container, and what is said to them arrives as before', async () => {
    const containers = '{.items[*].status.containerStatuses[0].containerID}'
    const ids = `--namespace=shop get pod --selector=app=web --output jsonpath='${containers}'`
    const before = await kubectl(ids)
    await cluster.on(first, 'systemctl restart k3s.service')
    // What the Node says of itself is from before the restart for a while; what its kubelet says is not.
    await until(
      'the kubelet knows its pods again',
      `/opt/bin/k3s kubectl get --raw /api/v1/nodes/${first}/proxy/pods | grep '"name":"web-'`,
    )
    assert.equal(await kubectl(ids), before)
    assert.match(await inWeb('get http://web/'), /^web-/)
  })

  test('a second apply changes nothing', async () => {
    const { code, text } = await cluster.task('k3s-server', 'apply')
    assert.equal(code, 0, text)
    assert.doesNotMatch(text, /^changed /m)
  })

  test('an agent that k3s-join has brought is ready once it has a network', async () => {
    const { code, text } = await cluster.task('k3s-join', 'apply')
    assert.equal(code, 0, text)
    await bridge(cluster)
    await until('both are ready', ready)
  })

  test('a pod on each reaches the one on the other', async () => {
    await kubectl('apply --filename=-', restricted('apart', podImage, 2, { apart: true }))
    const available =
      '/opt/bin/k3s kubectl --namespace=shop wait deploy/apart --for=condition=Available --timeout=1s'
    await until('they are available', available)
    await each()
  })

  test('logs of a pod on the agent come through the API', async () => {
    const { name } = (await pods()).get(agent)!
    assert.match(await kubectl(`--namespace=shop logs ${name}`), /listens on \[8080\] as 65532/)
  })

  test('a restart of the agent ends no container', async () => {
    const before = await pods()
    await cluster.on(agent, 'systemctl restart k3s.service')
    await until('both are ready', ready)
    assert.deepEqual(await pods(), before)
    await each()
  })

  test('nothing is left of a node that has run pods', async () => {
    const state = readFileSync(`${cluster.machineOf(first).dir}/state`, 'utf8').trim()
    await cluster.end()
    const controllers = readdirSync('/sys/fs/cgroup', { recursive: true, encoding: 'utf8' })
    assert.deepEqual(
      controllers.filter((name) => name.includes(`fk-${first}`)),
      [],
    )
    assert.doesNotMatch(readFileSync('/proc/mounts', 'utf8'), new RegExp(first))
    assert.ok(!existsSync(state))
    assert.ok(!existsSync(`/run/netns/fk-${first}`))
  })
})
