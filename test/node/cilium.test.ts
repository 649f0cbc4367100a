// Cilium's chart on a node, from images that are made here: that it is the chart and the programs of production but for one line.
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { stringify } from 'yaml'
import { etc } from '../cluster/kit.ts'
import { without } from '../programs.ts'
import { ciliumChart, ciliumImages, ciliumOverlay, gatewayCrds, withoutCilium } from './cilium.ts'
import { type PodFleet, missing, podFleet, podImage } from './kit.ts'
import { dns, restricted } from './manifests.ts'

/** Every site's values, and those of its own that 30-network-cilium adds for a site of one server. */
const shipped = join(import.meta.dirname, '../../config/components/cilium/values.yaml')
const facts = {
  k8sServiceHost: '127.0.0.1',
  k8sServicePort: 6444,
  operator: { replicas: 1 },
  encryption: { strictMode: { egress: { cidr: '10.42.0.0/16' } } },
}

/** A command in the agent's container, as a shell of the node calls it. */
const agent = '/opt/bin/k3s kubectl --namespace cilium exec daemonset/cilium --container cilium-agent --'

const skip = withoutCilium || missing || without('helm', 'kubectl')

describe('Cilium on a node', { skip }, () => {
  const first = 'cilium-1'
  const scratch = mkdtempSync(join(tmpdir(), 'fk-cilium-'))
  const [site, here] = [join(scratch, 'site.yaml'), join(scratch, 'here.yaml')]
  const kubeconfig = join(scratch, 'kubeconfig')
  let cluster: PodFleet | undefined
  let chart = ''

  function run(words: string, input?: string): string {
    const [program = '', ...more] = words.split(' ')
    const env = { ...process.env, KUBECONFIG: kubeconfig }
    const { status, stdout, stderr } = spawnSync(program, more, {
      input,
      env,
      encoding: 'utf8',
      maxBuffer: 2 ** 26,
    })
    assert.equal(status, 0, `${words}: ${stdout}${stderr}`)
    return stdout
  }
  const render = (...files: string[]) =>
    run(
      `helm template cilium ${chart} --namespace cilium ${files.map((file) => `--values ${file}`).join(' ')}`,
    )
  const rollout = (what: string, seconds: number, namespace = 'cilium') =>
    run(`kubectl --namespace ${namespace} rollout status ${what} --timeout=${seconds}s`)
  const inAgent = (words: string) => run(`kubectl ${agent.replace(/^\S+ \S+ /, '')} ${words}`)

  before(async () => {
    chart = ciliumChart().file
    writeFileSync(site, stringify(facts))
    writeFileSync(here, stringify(ciliumOverlay))
    const images = [...render(shipped, site, here).matchAll(/^\s*image: "?([^"\s]+)"?$/gm)].map(
      ([, name]) => name!,
    )
    cluster = await podFleet('cilium', ['server'], { more: await ciliumImages(images) })
    const { code, text } = await cluster.task('k3s-server', 'apply')
    assert.equal(code, 0, text)
    const own = await cluster.on(first, `cat ${etc}/k3s.yaml`)
    writeFileSync(kubeconfig, own.replace('127.0.0.1', cluster.machineOf(first).host), { mode: 0o600 })
    run('kubectl apply --server-side --filename=-', gatewayCrds().text)
    run('kubectl create namespace cilium')
    run('kubectl label namespace cilium pod-security.kubernetes.io/enforce=privileged')
    run(
      `helm upgrade --install cilium ${chart} --namespace cilium --values ${shipped} --values ${site} --values ${here}`,
    )
  })
  after(async () => {
    await cluster?.end()
    rmSync(scratch, { recursive: true })
  })

  test('what is rendered for it differs from production in what starts WireGuard, and in nothing else', () => {
    const lines = (text: string) =>
      new Set(text.split('\n').filter((line) => !line.includes('cilium-configmap-checksum')))
    const [ours, theirs] = [lines(render(shipped, site, here)), lines(render(shipped, site))]
    assert.deepEqual(
      [...theirs].filter((line) => !ours.has(line)),
      ['  enable-wireguard: "true"', '  wireguard-persistent-keepalive: "0s"'],
    )
    assert.deepEqual(
      [...ours].filter((line) => !theirs.has(line)),
      [],
    )
  })

  test('agent and operator become ready, and by them the node', () => {
    rollout('daemonset/cilium', 300)
    rollout('daemonset/cilium-envoy', 60)
    rollout('deployment/cilium-operator', 120)
    run('kubectl wait --for=condition=Ready node --all --timeout=120s')
  })

  test('relay becomes ready with DNS, and sees the agent over TLS with certificates of the job', () => {
    run('kubectl apply --filename=-', dns)
    rollout('deployment/coredns', 120, 'kube-system')
    rollout('deployment/hubble-relay', 180)
    run('kubectl --namespace cilium wait --for=condition=Complete job --all --timeout=60s')
  })

  test('the agent stands in for kube-proxy, has the host firewall, and every controller of it is content', async () => {
    const status = JSON.parse(inAgent('cilium-dbg status --output json')) as Record<string, { mode?: string }>
    assert.equal(status['kube-proxy-replacement']?.mode, 'True')
    assert.equal(status['host-firewall']?.mode, 'Enabled')
    await cluster!.until(
      'all controllers are',
      `${agent} cilium-dbg status | grep -E ' ([0-9]+)/\\1 healthy'`,
    )
  })

  test('a pod reaches a Service by its name, and what a policy does not allow is dropped and told', async () => {
    run('kubectl create namespace shop')
    run('kubectl apply --filename=-', restricted('web', podImage, 2))
    run('kubectl apply --filename=-', restricted('client', podImage, 1))
    for (const name of ['web', 'client']) rollout(`deployment/${name}`, 120, 'shop')
    const get = '/opt/bin/k3s kubectl --namespace shop exec deployment/client -- /bin/pod get http://web/'
    await cluster!.until('the Service answers', `${get} | grep ^web-`, 30)
    const policy = {
      apiVersion: 'cilium.io/v2',
      kind: 'CiliumNetworkPolicy',
      metadata: { name: 'none', namespace: 'shop' },
      spec: { endpointSelector: { matchLabels: { app: 'web' } }, ingress: [{}] },
    }
    run('kubectl apply --filename=-', JSON.stringify(policy))
    await cluster!.until('the policy is in force', `! timeout 3 ${get}`, 30)
    const told = '"drop_reason_desc":"POLICY_DENIED"'
    await cluster!.until(
      'Hubble has told it',
      `${agent} grep -q '${told}' /var/run/cilium/hubble/events.log`,
      30,
    )
  })
})
