// A cluster that has what Cilium would take the place of, or other networks than the site says: page 30 refuses it by name on a real
// API server, and begins nothing.
import assert from 'node:assert/strict'
import { readFileSync, readdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { said } from '../machine/kit.ts'
import { type Demo, demo, missing } from './demo.ts'

describe('a cluster that is not as the site says', { skip: missing }, () => {
  let it: Demo
  const kubectl = (words: string, input?: string) => it.kubectl(words, input)
  const page = (name: string, ...words: string[]) => said(it.start(words, name))
  const node = () => kubectl(`get nodes --output=jsonpath='{.items[0].metadata.name}'`)
  const blocked = async (pattern: RegExp) => {
    const { code, text } = await page('30-network-cilium', 'apply')
    assert.equal(code, 1, text)
    assert.match(text, pattern)
    assert.equal(await kubectl('get namespace cilium --ignore-not-found'), '')
    const crds = await kubectl('get customresourcedefinitions --output=name')
    assert.doesNotMatch(crds, /gateway\.networking/)
    const files = readdirSync(join(it.node.state, 'fortress-pi'), { recursive: true }).map(String)
    assert.ok(!files.some((name) => name.startsWith('components/cilium/')), files.join(' '))
  }

  before(async () => {
    it = await demo('existing')
  })
  after(() => it?.end())

  for (const name of ['kube-flannel', 'kube-proxy'])
    test(`has ${name} as a DaemonSet: refused, and nothing is begun`, async () => {
      const labels = { app: name }
      const template = { metadata: { labels }, spec: { containers: [{ name, image: 'example.org/a' }] } }
      const spec = { selector: { matchLabels: labels }, template }
      const object = {
        apiVersion: 'apps/v1',
        kind: 'DaemonSet',
        metadata: { name, namespace: 'kube-system' },
        spec,
      }
      await kubectl('apply --filename=-', JSON.stringify(object))
      await blocked(new RegExp(`blocked .*no other network plug-in[^]*there is kube-system/${name}`))
      await kubectl(`delete daemonset ${name} --namespace kube-system`)
    })

  test('has them in the process of k3s, as it is by itself', async () => {
    const says = (words: string[]) => [
      `annotate node ${name}`,
      '--overwrite',
      `k3s.io/node-args='${JSON.stringify(words)}'`,
    ]
    const name = await node()
    await kubectl(says(['server']).join(' '))
    await blocked(/k3s on \S+ runs flannel\n[^]*k3s on \S+ runs kube-proxy[^]*k3s-server apply/)
    await kubectl(says(['server', '--flannel-backend', 'none', '--disable-kube-proxy', 'false']).join(' '))
    await blocked(/runs kube-proxy/)
    await kubectl(says(['server', '--disable-kube-proxy', 'true', '--flannel-backend', 'none']).join(' '))
    const { text } = await page('30-network-cilium', 'plan')
    assert.match(text, /change +4\/\d+ the values of cilium are written/)
  })

  test('has another network of pods, or of Services', async () => {
    const file = join(it.copy.dir, 'config/sites/fortress-pi.yaml')
    const was = readFileSync(file, 'utf8')
    try {
      writeFileSync(
        file,
        was.replace(/^cluster: \{/m, 'cluster: { pods: 10.52.0.0/16, services: 10.53.0.0/16,'),
      )
      await blocked(
        /pods of \S+ have addresses of 10\.42\.0\.0\/24, and not of cluster\.pods 10\.52\.0\.0\/16/,
      )
      await blocked(
        /Services have addresses such as 10\.43\.0\.1, and not of cluster\.services 10\.53\.0\.0\/16/,
      )
    } finally {
      writeFileSync(file, was)
    }
  })
})
