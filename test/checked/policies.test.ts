// Every network policy of shipped sites against the definitions of Cilium's own version: what the API server would refuse, and what
// it would leave out in silence.
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'
import { userInfo } from 'node:os'
import { join } from 'node:path'
import { describe, test } from 'node:test'
import { Ajv } from 'ajv'
import { parse, parseAllDocuments } from 'yaml'
import { type Policy, nameOf, policiesFor } from '../../lib/component/policies.ts'
import { catalogue } from '../../lib/site/catalogue.ts'
import { clusters } from '../component/clusters.ts'
import { without } from '../programs.ts'
import { siteOf } from '../sites.ts'

interface Schema {
  type?: string
  properties?: Record<string, Schema>
  items?: Schema
  additionalProperties?: unknown
  [keyword: string]: unknown
}

const module = join(import.meta.dirname, '..', 'oracle', 'cilium')

/** The directory of Cilium's module, when it has been downloaded. */
function source(): string | undefined {
  if (without('go') || !existsSync(join(module, 'go.mod'))) return undefined
  const words = ['list', '-C', module, '-mod=mod', '-m', '-f', '{{.Dir}}', 'github.com/cilium/cilium']
  const { stdout } = spawnSync('go', words, {
    encoding: 'utf8',
    // Tests have a home of their own; modules are where the person who builds the programs has them.
    env: { ...process.env, HOME: userInfo().homedir, GOPROXY: 'off', GOFLAGS: '' },
  })
  const dir = stdout.trim()
  return dir === '' ? undefined : dir
}

/** A key that no property has is a fault. Patterns in which JavaScript and Go differ are left out. */
function strict({ pattern, ...schema }: Schema): Schema {
  const { items, properties } = schema
  const kept = typeof pattern === 'string' && !pattern.includes('\\P') ? { pattern } : {}
  const free = properties === undefined || schema['x-kubernetes-preserve-unknown-fields'] === true
  return {
    ...schema,
    ...kept,
    ...(items ? { items: strict(items) } : {}),
    ...(properties
      ? { properties: Object.fromEntries(Object.entries(properties).map(([key, one]) => [key, strict(one)])) }
      : {}),
    ...(free ? {} : { additionalProperties: false }),
  }
}

const dir = source()
const skip = dir === undefined ? "Cilium's module is not here: task lab setup" : false

describe('every network policy is one for the API server', { skip }, () => {
  const ajv = new Ajv({ strict: false, allErrors: true, validateFormats: false, verbose: true })
  const checks = new Map(
    (skip ? [] : (['ciliumnetworkpolicies', 'ciliumclusterwidenetworkpolicies'] as const)).map((plural) => {
      const crd = parse(
        readFileSync(join(dir ?? '', 'pkg/k8s/apis/cilium.io/client/crds/v2', `${plural}.yaml`), 'utf8'),
      ) as {
        spec: { names: { kind: string }; versions: { name: string; schema: { openAPIV3Schema: Schema } }[] }
      }
      const version = crd.spec.versions.find(({ name }) => name === 'v2')
      assert.ok(version)
      const { properties = {}, ...schema } = strict(version.schema.openAPIV3Schema)
      const whole = { ...schema, properties: { ...properties, metadata: { type: 'object' } } }
      return [crd.spec.names.kind, ajv.compile(whole)] as const
    }),
  )
  const faultsOf = (policy: Policy): string[] => {
    const check = checks.get(policy.kind)
    assert.ok(check, policy.kind)
    return check(policy)
      ? []
      : (check.errors ?? []).map(({ instancePath, message }) => `${instancePath} ${message}`)
  }

  for (const name of clusters)
    test(name, () => {
      for (const { policy } of policiesFor(siteOf(name), catalogue()))
        assert.deepEqual(faultsOf(policy), [], nameOf(policy))
    })

  test('a key that is misspelt, an entity and a protocol that do not exist are found', () => {
    const base = policiesFor(siteOf('fortress'), catalogue()).find(
      ({ policy }) => policy.metadata.name === 'hubble-relay',
    )!.policy
    for (const [good, bad] of [
      ['toEntities', 'toEntity'],
      ['"host"', '"hosts"'],
      ['"TCP"', '"TPC"'],
      ['endpointSelector', 'endpointSelectors'],
    ] as const) {
      const text = JSON.stringify(base)
      assert.ok(text.includes(good))
      assert.notDeepEqual(faultsOf(JSON.parse(text.replaceAll(good, bad)) as Policy), [], bad)
    }
  })
})

interface Template {
  metadata: { labels?: Record<string, string> }
  spec: { hostNetwork?: boolean; containers: { ports?: { containerPort: number }[] }[] }
}

test(
  "every pod of Cilium's chart is on the map: with the labels and ports that it has, or in the network of its node",
  { skip: skip || without('helm') },
  () => {
    const values = join(import.meta.dirname, '../../config/components/cilium/values.yaml')
    const words = [
      'template',
      'cilium',
      join(dir ?? '', 'install/kubernetes/cilium'),
      '--namespace=cilium',
      `--values=${values}`,
    ]
    const { stdout, status } = spawnSync('helm', words, { encoding: 'utf8', maxBuffer: 2 ** 26 })
    assert.equal(status, 0)
    const found = parseAllDocuments(stdout).flatMap((document) => {
      const object = document.toJS() as {
        kind?: string
        spec?: { template?: Template; jobTemplate?: { spec: { template: Template } } }
      } | null
      return object?.spec?.template ?? object?.spec?.jobTemplate?.spec.template ?? []
    })
    const pods = found.filter(({ spec }) => spec?.hostNetwork !== true)
    assert.ok(found.length > pods.length && pods.length > 0)
    const workloads = catalogue().get('cilium')?.workloads ?? []
    const of = (pod: Template) =>
      workloads.filter(({ labels }) =>
        Object.entries(labels).every(([key, value]) => pod.metadata.labels?.[key] === value),
      )
    for (const pod of pods) {
      assert.equal(of(pod).length, 1, JSON.stringify(pod.metadata.labels))
      const ports = pod.spec.containers.flatMap(({ ports: list = [] }) =>
        list.map(({ containerPort }) => `tcp/${containerPort}`),
      )
      assert.deepEqual(of(pod)[0]?.ports ?? [], ports)
    }
    for (const workload of workloads)
      assert.ok(
        pods.some((pod) => of(pod).includes(workload)),
        workload.name,
      )
  },
)
