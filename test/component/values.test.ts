// Files of values against the chart that reads them: of every component that is built, against the real chart where it is here.
import assert from 'node:assert/strict'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, test } from 'node:test'
import { type Chart, imagesOf, objectsOf, readChart, rendered } from '../../lib/component/chart.ts'
import {
  componentNamed,
  isDescribed,
  valueFiles,
  variants,
  variantsOf,
} from '../../lib/component/component.ts'
import { kubernetesOf } from '../../lib/component/tools.ts'
import { checkValues } from '../../lib/component/values.ts'
import { describe as told } from '../../lib/ground/document.ts'
import { read } from '../../lib/ground/root.ts'
import { catalogue } from '../../lib/site/catalogue.ts'
import cilium from '../../scripts/30-network-cilium.ts'
import type { Context } from '../../lib/engine/page.ts'
import { without } from '../programs.ts'
import { siteOf } from '../sites.ts'
import { chartOf, packed, pins } from './charts.ts'

const chart: Chart = {
  name: 'demo',
  version: '1.0.0',
  parts: ['redis'],
  text: `
image:
  repository: example.org/demo
  tag: v1
  # digest: sha256:…
labels: {}
tolerations: []
replicas: 1
extra: ''
socket:
  enabled: false
  # -- Only for the node's own pods.
  # hostOnly: false
nothing: null
redis:
  enabled: true
`,
}

describe('a key of values', () => {
  const cases: [string, string, string | undefined][] = [
    ['that the chart has is right', 'image: { tag: v2 }', undefined],
    ['below an empty map is free', 'labels: { app.example.org/name: x }', undefined],
    ['without a default may be anything', 'nothing: { a: 1 }', undefined],
    ['that stands in a comment of the chart is known', 'socket: { hostOnly: true }', undefined],
    ['of an inner comment is known', 'image: { digest: x }', undefined],
    ['of a chart inside of it is for that chart', 'redis: { architecture: standalone }', undefined],
    ['of all charts is for all of them', 'global: { a: b }', undefined],
    [
      'that is misspelt is refused with its line',
      'image:\n  tagg: v2',
      'x.yaml:2:3  image.tagg  is no value of demo 1.0.0; did you mean image.tag?',
    ],
    [
      'that is like none of them is refused with all that there are',
      'image: { pullSecret: x }',
      'x.yaml:1:10  image.pullSecret  is no value of demo 1.0.0; known here: repository, tag, digest',
    ],
    [
      'at a place where it does not stand is refused',
      'tag: v2',
      'x.yaml:1:1  tag  is no value of demo 1.0.0; known here: image, labels, tolerations, replicas, extra, socket, nothing, redis',
    ],
    [
      'that is obeyed no more is refused with what takes its place',
      'old: { key: 1 }',
      'x.yaml:1:8  old.key  is obeyed no more by demo 1.0.0: new.key takes its place',
    ],
    ['that is a map is no text', 'image: v2', 'x.yaml:1:8  image  must be a map, is "v2"'],
    [
      'that is a list is no map',
      'tolerations: { a: 1 }',
      'x.yaml:1:14  tolerations  must be a list, is a map',
    ],
    ['that is one value is no list', 'replicas: [1]', 'x.yaml:1:11  replicas  must be one value, is a list'],
  ]
  for (const [what, text, fault] of cases)
    test(what, () => {
      const known = text.startsWith('old') ? { ...chart, text: `${chart.text}old: { key: 0 }\n` } : chart
      const faults = checkValues('x.yaml', `${text}\n`, known, { 'old.key': 'new.key takes its place' })
      assert.deepEqual(
        faults.map((each) => told(each).split('\n')[0]!.trim()),
        fault === undefined ? [] : [fault],
      )
    })
})

test('an archive of a chart says the same as its directory', { skip: without('helm', 'tar') }, async (t) => {
  const dir = mkdtempSync(join(tmpdir(), 'fk-chart-'))
  t.after(() => rmSync(dir, { recursive: true }))
  const source = 'test/fixtures/component/chart'
  assert.deepEqual(await readChart(packed(source, dir, '1.0.0')), await readChart(source))
})

test('images are found in containers and in the arguments of programs', () => {
  const digest = `sha256:${'ab'.repeat(32)}`
  const pod = {
    containers: [
      {
        image: `example.org/a:v1@${digest}`,
        args: ['--solver-image=example.org/b:v2', '--to=example.org/path'],
      },
    ],
  }
  assert.deepEqual(imagesOf([{ apiVersion: 'v1', kind: 'Pod', metadata: { name: 'x' }, spec: pod }]), [
    { image: 'example.org/a:v1', digest },
    { image: 'example.org/b:v2' },
  ])
})

test('a site takes the variants that its nodes are', () => {
  const node = (more: object) => ({
    name: 'a',
    roles: ['server' as const],
    os: 'flatcar' as const,
    arch: 'amd64' as const,
    board: 'pc' as const,
    ...more,
  })
  assert.deepEqual(variantsOf({ machines: [node({})] }), [])
  assert.deepEqual(variantsOf({ machines: [node({ os: 'talos', arch: 'arm64', board: 'rpi4' })] }), [
    'light',
    'arm64',
    'talos',
  ])
  // What is no node has no say.
  assert.deepEqual(variantsOf({ machines: [{ ...node({ board: 'rpi4' }), roles: ['host'] }, node({})] }), [])
})

for (const name of ['fortress', 'fortress-pi', 'zengarden', 'pitower', 'k3s-vault'])
  test(
    `what the page of Cilium makes of ${name} are values of its chart`,
    { skip: chartOf('cilium').missing },
    async () => {
      const context = {
        site: siteOf(name),
        pins,
        state: '/nonexistent',
        has: () => true,
      } as unknown as Context
      const target = cilium.steps(context).flatMap((step) => ('target' in step ? [step.target] : []))
      const made = target.find((each) => each?.path.endsWith('/values.site.yaml'))?.text
      assert.ok(made)
      const { removed } = componentNamed('cilium')
      const faults = checkValues('values.site.yaml', made, await readChart(chartOf('cilium').path), removed)
      assert.deepEqual(faults.map(told), [])
    },
  )

for (const component of catalogue().values()) {
  if (!isDescribed(component)) continue
  const { name } = component
  const { path, missing } = chartOf(name)
  describe(name, { skip: missing }, () => {
    test('has no key of values that its chart does not know', async () => {
      const real = await readChart(path)
      const faults = valueFiles(name).flatMap((file) =>
        checkValues(file, read(file), real, component.removed),
      )
      assert.deepEqual(faults.map(told), [])
    })

    test('is refused where a key is obeyed no more, each by its name', async () => {
      const real = await readChart(path)
      for (const [key, instead] of Object.entries(component.removed ?? {})) {
        const text = key.split('.').reduceRight((inner, word) => `{ ${word}: ${inner} }`, 'true')
        const [fault, ...more] = checkValues('x.yaml', `${text}\n`, real, component.removed)
        assert.equal(more.length, 0)
        assert.ok(fault?.path === key && fault.reason.endsWith(instead), `${key}: ${fault?.reason}`)
      }
    })

    const sets = [[], ...variants.map((variant) => [variant])]
    for (const chosen of sets)
      test(
        `renders twice the same${chosen.map((word) => ` as ${word}`).join('')}`,
        { skip: without('helm') },
        async () => {
          const { namespace, apis = [] } = component
          const set = {
            name,
            namespace,
            values: valueFiles(name, chosen),
            apis,
            kubernetes: kubernetesOf(pins),
          }
          const once = await rendered(path, set)
          assert.equal(await rendered(path, set), once)
          const objects = objectsOf(once)
          assert.ok(objects.length > 7 && imagesOf(objects).length > 0)
          // What a page waits for is in the chart, where it is in the namespace of the release.
          for (const { object, namespace: other } of component.ready) {
            const [kind, wanted] = object.split('/')
            if (wanted === undefined || other !== undefined) continue
            assert.ok(
              objects.some((each) => each.kind.toLowerCase() === kind && each.metadata.name === wanted),
              `${object} is not in the chart`,
            )
          }
        },
      )
  })
}
