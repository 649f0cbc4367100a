import assert from 'node:assert/strict'
import { readFileSync, readdirSync } from 'node:fs'
import { describe, test } from 'node:test'
import type { Problem } from '../../../lib/ground/document.ts'
import { type Catalogue, type Component, catalogue } from '../../../lib/site/catalogue.ts'
import type { SiteDocument } from '../../../lib/site/model.ts'
import { siteProblems } from '../../../lib/site/rules.ts'

describe('the catalogue', () => {
  const components = [...catalogue().values()]
  const slots = new Set(components.flatMap((component) => component.slots))

  test('needs no slot that nothing can fill', () => {
    for (const { later = [], name, needs = [] } of components)
      for (const slot of [...needs, ...later]) assert.ok(slots.has(slot), `${name} needs ${slot}`)
  })

  test('offers something that is not at its end for every slot', () => {
    for (const slot of slots)
      assert.ok(
        components.some((one) => one.slots.includes(slot) && !one.end),
        `${slot} has only ends`,
      )
  })

  test('names something for the same slot in place of what is at its end', () => {
    for (const { end, name, slots: own } of components)
      if (end?.use !== undefined) {
        const other = catalogue().get(end.use)
        assert.ok(other && !other.end && own.every((slot) => other.slots.includes(slot)), name)
      }
  })

  test('claims that what pages install is built, and of nothing else', () => {
    const pages = readdirSync('scripts').map((page) => readFileSync(`scripts/${page}`, 'utf8'))
    const installed = pages.flatMap((page) =>
      [...page.matchAll(/\brelease\('([\w-]+)'|'config\/components\/([\w-]+)\/objects\.yaml'/g)].map(
        ([, released, applied]) => released ?? applied,
      ),
    )
    assert.deepEqual(
      components.filter(({ built }) => built).map(({ name }) => name),
      installed.toSorted(),
    )
  })
})

test('a component without an image for the processor of any node is refused', () => {
  const found = problems({ falco: { arch: ['amd64'] } }, 'arm64')
  assert.deepEqual(found, [
    { path: ['components', 'detection'], reason: 'has images for amd64 only, and no node is that' },
  ])
  assert.deepEqual(problems({ falco: { arch: ['amd64'] } }, 'amd64'), [])
  assert.deepEqual(problems({}, 'arm64'), [])
})

/** Faults of a machine of one processor with falco, by a catalogue in which some components are different. */
function problems(changed: Record<string, Partial<Component>>, arch: 'amd64' | 'arm64'): Problem[] {
  const made: Catalogue = new Map(
    [...catalogue()].map(([name, component]) => [name, { ...component, ...changed[name] }]),
  )
  const document: SiteDocument = {
    name: 'one',
    timezone: 'Etc/UTC',
    machines: [{ name: 'one', roles: ['host', 'server'], os: 'debian-13', arch }],
    cluster: { pods: '10.42.0.0/16', services: '10.43.0.0/16', servers_take_pods: true },
    components: { detection: 'falco' },
    policy: { mode: 'audit' as const, registries: ['docker.io'], exceptions: [] },
  }
  return [...siteProblems(document, 'one', made, '2026-11-26')]
}
