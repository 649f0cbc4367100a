// etcd, the API server and the controllers of Kubernetes with Cilium's operator, as processes of this computer without a node: what
// is declared is judged, translated and given its address; nothing of it runs.
import { type ChildProcess, execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { stringify } from 'yaml'
import { $, which } from '../../lib/ground/laptop.ts'
import { root } from '../../lib/ground/root.ts'
import { builtProgram } from '../../lib/lab/lab.ts'
import { gatewayCrds, moduleOf } from '../node/cilium.ts'

/** Why there can be no such thing here, for a test's `skip`. */
export const missing: string | false =
  ['kube-bed', 'cilium']
    .filter((name) => builtProgram(name) === undefined)
    .map((name) => `${name} is not built: ./task lab setup`)[0] ??
  ['kubectl', 'helm', 'openssl']
    .filter((name) => !which(name))
    .map((name) => `${name} is not installed`)[0] ??
  false

export interface ControlPlane {
  dir: string
  kubeconfig: string
  /** kubectl; its failure is the test's. Resolves to what it printed. */
  kubectl(words: string, input?: string): Promise<string>
  /** Waits until it is true, for two minutes at most. */
  until(what: string, is: () => Promise<boolean>): Promise<void>
  end(): Promise<void>
}

/** A port that nobody listens on. */
export async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as { port: number }
  server.close()
  await once(server, 'close')
  return port
}

export async function controlPlane(): Promise<ControlPlane> {
  const dir = mkdtempSync(join(tmpdir(), 'fk-plane-'))
  const at = (name: string) => join(dir, name)
  const running: ChildProcess[] = []
  let said = ''
  const start = (program: string, words: string[], env: NodeJS.ProcessEnv = {}) => {
    const one = spawn(program, words, {
      cwd: dir,
      env: { ...process.env, ...env },
      stdio: ['ignore', 'pipe', 'pipe'],
    })
    for (const stream of [one.stdout, one.stderr])
      stream.on('data', (text) => (said = (said + String(text)).slice(-20_000)))
    running.push(one)
  }
  const end = async () => {
    for (const one of running.toReversed()) {
      if (one.exitCode !== null || one.signalCode !== null) continue
      const exit = once(one, 'exit')
      one.kill('SIGKILL')
      await exit
    }
    rmSync(dir, { recursive: true, force: true })
  }
  const kubeconfig = at('kubeconfig')
  const kubectl = async (words: string, input = '') => {
    const { stdout } = await $({ env: { KUBECONFIG: kubeconfig }, input })`bash -c ${`kubectl ${words}`}`
    return stdout
  }
  const until = async (what: string, is: () => Promise<boolean>) => {
    for (let i = 0; i < 480; i++) {
      if (await is().catch(() => false)) return
      await sleep(250)
    }
    throw new Error(`it never became true that ${what}\n${said.slice(-4000)}`)
  }
  try {
    for (const name of ['etcd', 'kube-apiserver', 'kube-controller-manager'])
      symlinkSync(builtProgram('kube-bed')!, at(name))
    const [etcd, peer, api] = [await freePort(), await freePort(), await freePort()]
    start(at('etcd'), [
      `--data-dir=${at('data')}`,
      `--listen-client-urls=http://127.0.0.1:${etcd}`,
      `--advertise-client-urls=http://127.0.0.1:${etcd}`,
      `--listen-peer-urls=http://127.0.0.1:${peer}`,
      `--initial-advertise-peer-urls=http://127.0.0.1:${peer}`,
      `--initial-cluster=default=http://127.0.0.1:${peer}`,
    ])
    const words = ['req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-days', '2', '-subj', '/CN=plane']
    const names = ['-addext', 'subjectAltName=IP:127.0.0.1', '-keyout', at('key'), '-out', at('crt')]
    execFileSync('openssl', [...words, ...names], { stdio: 'ignore' })
    writeFileSync(at('tokens'), 'plane,plane,plane,system:masters\n')
    start(at('kube-apiserver'), [
      `--etcd-servers=http://127.0.0.1:${etcd}`,
      '--bind-address=127.0.0.1',
      `--secure-port=${api}`,
      `--tls-cert-file=${at('crt')}`,
      `--tls-private-key-file=${at('key')}`,
      `--token-auth-file=${at('tokens')}`,
      '--authorization-mode=RBAC',
      '--service-cluster-ip-range=10.43.0.0/16',
      '--service-account-issuer=https://plane',
      `--service-account-signing-key-file=${at('key')}`,
      `--service-account-key-file=${at('crt')}`,
    ])
    const server = { server: `https://127.0.0.1:${api}`, 'certificate-authority': at('crt') }
    const context = { cluster: 'plane', user: 'plane' }
    const config = {
      apiVersion: 'v1',
      kind: 'Config',
      clusters: [{ name: 'plane', cluster: server }],
      users: [{ name: 'plane', user: { token: 'plane' } }],
      contexts: [{ name: 'plane', context }],
      'current-context': 'plane',
    }
    writeFileSync(kubeconfig, stringify(config))
    await until('the API answers', async () => (await kubectl('get --raw /readyz')) === 'ok')
    start(at('kube-controller-manager'), [
      `--kubeconfig=${kubeconfig}`,
      '--controllers=namespace-controller,garbage-collector-controller,serviceaccount-controller',
      '--leader-elect=false',
      '--secure-port=0',
    ])
    await operator({ start, kubectl, at, kubeconfig })
    return { dir, kubeconfig, kubectl, until, end }
  } catch (error) {
    await end()
    throw new Error(`${(error as Error).message}\n${said}`)
  }
}

/** Cilium's operator with the settings that the chart makes of our values. */
async function operator(plane: {
  start: (program: string, words: string[], env?: NodeJS.ProcessEnv) => void
  kubectl: (words: string, input?: string) => Promise<string>
  at: (name: string) => string
  kubeconfig: string
}): Promise<void> {
  const { start, kubectl, at, kubeconfig } = plane
  await kubectl('apply --server-side --filename=-', gatewayCrds().text)
  for (const namespace of ['cilium', 'cilium-secrets']) await kubectl(`create namespace ${namespace}`)
  const chart = join(moduleOf('github.com/cilium/cilium').Dir, 'install/kubernetes/cilium')
  const given = ['--namespace', 'cilium', '--api-versions', 'gateway.networking.k8s.io/v1/GatewayClass']
  const shown = [
    '--show-only',
    'templates/cilium-configmap.yaml',
    '--show-only',
    'templates/cilium-gateway-api-class.yaml',
  ]
  const cidr = ['--set', 'encryption.strictMode.egress.cidr=10.42.0.0/16']
  const values = ['--values', join(root, 'config/components/cilium/values.yaml'), ...cidr]
  const { stdout } = await $`helm template cilium ${chart} ${[...given, ...shown, ...values]}`
  await kubectl('apply --filename=-', stdout)
  const settings = JSON.parse(
    await kubectl('get configmap cilium-config --namespace=cilium --output=json'),
  ) as {
    data: Record<string, string>
  }
  mkdirSync(at('settings'))
  const own = {
    'operator-api-serve-addr': `127.0.0.1:${await freePort()}`,
    'operator-prometheus-serve-addr': `127.0.0.1:${await freePort()}`,
  }
  for (const [name, value] of Object.entries({ ...settings.data, ...own }))
    writeFileSync(at(`settings/${name}`), value)
  start(
    join(builtProgram('cilium')!, 'operator'),
    [`--config-dir=${at('settings')}`, `--k8s-kubeconfig-path=${kubeconfig}`],
    { CILIUM_K8S_NAMESPACE: 'cilium' },
  )
}
