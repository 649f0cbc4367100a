// Kyverno beside a real API server on which no pods run: its chart is installed by the page, and its programs are units of the
// node that do what its pods would, with the arguments, the variables and the rights that the chart gives those.
import assert from 'node:assert/strict'
import { copyFileSync, mkdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { quote } from '../../lib/ground/sh.ts'
import { builtProgram } from '../../lib/lab/lab.ts'
import { chartOf, packed, pins } from '../component/charts.ts'
import type { Demo } from '../cluster/demo.ts'

const built = builtProgram('kyverno')

/** Why there can be none here, for a test's `skip`. */
export const missing: string | false =
  built === undefined ? 'kyverno is not built: ./task lab setup release' : chartOf('kyverno').missing

export const programs = ['admission', 'reports'] as const
const unitOf = (name: string) => `kyverno-${name}.service`
const sourceOf = { admission: 'kyverno', reports: 'reports-controller' }
/** As a url of this node, for there is nothing that would lead to a Service. */
const own = {
  admission: ['--serverIP=127.0.0.1:9443', '--leaderElectionRetryPeriod=1s'],
  reports: ['--metricsPort=8001', '--leaderElectionRetryPeriod=1s'],
}

interface Deployment {
  spec: { template: { spec: { serviceAccountName: string; containers: Container[] } } }
}
interface Container {
  args: string[]
  env: { name: string; value?: string; valueFrom?: { fieldRef?: { fieldPath: string } } }[]
}

/** Has the checkout find the chart of Kyverno where a download would be. */
export function pinKyverno({ charts, copy }: Demo): void {
  copy.pin('kyverno', readFileSync(packed(chartOf('kyverno').path, charts, pins['kyverno']!.version)))
}

/** Starts what the pods of the chart would run, as soon as the chart is there, and says of them that they are ready. */
export async function startKyverno(it: Demo): Promise<void> {
  for (const name of programs) await unit(it, name)
  await it.node.ok('systemctl daemon-reload')
  await it.node.ok(`systemctl start ${programs.map(unitOf).join(' ')}`)
  await ready(it)
}

async function unit(it: Demo, name: (typeof programs)[number]): Promise<void> {
  const deployment = `kyverno-${name}-controller`
  const get = `get deployment ${deployment} --namespace kyverno --output=json`
  for (let i = 0; (await it.node.kubectl(get)).code !== 0; i++) {
    assert.ok(i < 300, `there is no ${deployment}`)
    await sleep(500)
  }
  const { serviceAccountName, containers } = (JSON.parse(await it.kubectl(get)) as Deployment).spec.template
    .spec
  const [{ args, env }] = containers as [Container]
  const fields: Record<string, string> = {
    'metadata.namespace': 'kyverno',
    'metadata.name': `${deployment}-0`,
  }
  const variables = {
    KUBERNETES_SERVICE_HOST: '127.0.0.1',
    KUBERNETES_SERVICE_PORT: '6443',
    ...Object.fromEntries(
      env.map(({ name, value, valueFrom }) => [name, value ?? fields[valueFrom?.fieldRef?.fieldPath ?? '']!]),
    ),
  }
  const place = join(it.node.machine.dir, 'root/opt/kyverno')
  mkdirSync(place, { recursive: true })
  copyFileSync(join(built!, sourceOf[name]), join(place, name))
  const secrets = `/etc/kyverno/${name}`
  const token = await it.kubectl(`create token ${serviceAccountName} --namespace kyverno --duration=8h`)
  it.node.put({
    [`${secrets}/token`]: token,
    [`${secrets}/namespace`]: 'kyverno',
    [`${secrets}/ca.crt`]: await it.node.ok('cat /var/lib/rancher/k3s/server/tls/server-ca.crt'),
    [`/etc/systemd/system/${unitOf(name)}`]: `[Service]
ExecStart=/opt/kyverno/${name} ${[...args, ...own[name]].map(quote).join(' ')}
${Object.entries(variables)
  .map(([key, value]) => `Environment=${key}=${value}`)
  .join('\n')}
BindReadOnlyPaths=${secrets}:/run/secrets/kubernetes.io/serviceaccount
Restart=always
RestartSec=1
StartLimitIntervalSec=0
`,
  })
  await it.node.ok(`chmod 755 /opt/kyverno/${name}`)
}

/** What a kubelet would say of the pods of Kyverno, until its Deployments are complete. */
async function ready(it: Demo): Promise<void> {
  const status = { phase: 'Running', conditions: [{ type: 'Ready', status: 'True' }] }
  for (let i = 0; ; i++) {
    const names = await it.kubectl('get pods --namespace kyverno --output=name')
    for (const pod of names.split('\n').filter(Boolean))
      await it.kubectl(
        `patch ${pod} --namespace kyverno --subresource=status --type=merge --patch=${quote(JSON.stringify({ status }))}`,
      )
    const each = '{{ range .items }}{{ .spec.replicas }}={{ or .status.availableReplicas 0 }} {{ end }}'
    const said = await it.kubectl(`get deployments --namespace kyverno --output=go-template=${quote(each)}`)
    if (
      said.trim().split(' ').length === 2 &&
      said
        .trim()
        .split(' ')
        .every((one) => /^(\d)=\1$/.test(one))
    )
      return
    assert.ok(i < 100, said)
    await sleep(500)
  }
}

/** Does this to its programs: kill, stop, start. */
export const kyvernoIs = (it: Demo, what: string, names: readonly string[] = programs): Promise<string> =>
  it.node.ok(`systemctl ${what} ${names.map(unitOf).join(' ')}`)

export const kyvernoLog = (it: Demo): Promise<string> =>
  it.node.ok(
    `journalctl --output=cat --no-pager --lines=60 ${programs.map((name) => `--unit=${unitOf(name)}`).join(' ')}`,
  )
