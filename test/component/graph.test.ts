// In which order the components of a site come.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { graphOf } from '../../lib/component/graph.ts'
import type { Catalogue, Component } from '../../lib/site/catalogue.ts'
import { siteOf } from '../sites.ts'

const component = (name: string, slots: string[], more: Partial<Component> = {}): [string, Component] => [
  name,
  { name, does: 'nothing', slots, own_disk: false, snapshots: true, built: false, ...more },
]
const known: Catalogue = new Map([
  component('cilium', ['network']),
  component('b-store', ['volumes'], { needs: ['databases'] }),
  component('a-git', ['git'], { needs: ['databases'], later: ['volumes'] }),
  component('z-base', ['databases']),
  component('y-base', ['databases'], { needs: ['volumes'] }),
])
const site = (components: Record<string, string>) => ({
  name: 'demo',
  components,
  machines: [
    {
      name: 'a',
      roles: ['server' as const],
      os: 'flatcar' as const,
      arch: 'amd64' as const,
      board: 'pc' as const,
    },
  ],
  data: { classes: [], keep: [], not: {}, targets: [] },
})

test('the network is first, and none comes before what it needs', () => {
  const places = graphOf(site({ git: 'a-git', databases: 'z-base', volumes: 'b-store' }), known)
  assert.deepEqual(
    places.map(({ name }) => name),
    ['cilium', 'z-base', 'a-git', 'b-store'],
  )
  assert.deepEqual(places[2]?.needs, ['z-base'])
  assert.deepEqual(places[2]?.later, ['b-store'])
})

test('what nothing is chosen for is said', () => {
  const [, git] = graphOf(site({ git: 'a-git' }), known)
  assert.deepEqual(git?.open, ['databases'])
})

test('components that need each other are refused, by the way round', () => {
  assert.throws(() => graphOf(site({ databases: 'y-base', volumes: 'b-store' }), known), {
    message: 'components of demo need each other in a circle',
    said: 'b-store needs y-base needs b-store',
  })
})

for (const name of ['fortress', 'fortress-pi', 'zengarden', 'pitower', 'k3s-vault'])
  test(`the components of ${name} have an order`, () => {
    assert.ok(graphOf(siteOf(name)).length > 0)
  })
