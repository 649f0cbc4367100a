// What only a person can do: seen where it can be seen, believed for a time where it cannot.
import assert from 'node:assert/strict'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, describe, test } from 'node:test'
import type { Context } from '../../lib/engine/page.ts'
import page from '../../scripts/07-host-vip.ts'
import { confirmedGates, gatesOf, noteGate } from '../../lib/site/gates.ts'
import type { Gate, Site } from '../../lib/site/model.ts'
import { made, metal } from './made.ts'

const now = new Date('2026-11-26T12:00:00Z')
const gate = (more: Partial<Gate>): Gate => ({
  id: 'one',
  kind: 'choice',
  what: 'do it',
  needed_by: '07-host-vip',
  proof: {},
  ...more,
})
const site = (gates: Gate[], disk = ''): Site => {
  const machines = metal('server', 'agent').map((machine) => ({ ...machine, vault: { disk } }))
  return made({ name: 'box', machines, gates })
}
const state = (one: Gate, { disk = '', secrets = [] as string[], confirmed = {} } = {}) => {
  const known = { has: (name: string) => secrets.includes(name), confirmed, now }
  const [found] = gatesOf(site([one], disk), known)
  return `${found?.state}: ${found?.found}`
}

describe('a gate', () => {
  test('about a setting is open while it is empty on any of the machines that it names', () => {
    const proof = { setting: 'machines.pi-1.vault.disk' }
    assert.equal(state(gate({ proof })), 'open: machines.pi-1.vault.disk is empty')
    const disk = '/dev/disk/by-id/usb-Test-0:0'
    assert.equal(state(gate({ proof }), { disk }), 'done: machines.pi-1.vault.disk is set')
    const all = { setting: 'machines.*.vault.disk' }
    assert.equal(
      state(gate({ proof: all })),
      'open: machines.pi-1.vault.disk, machines.pi-2.vault.disk is empty',
    )
    assert.equal(state(gate({ proof: { setting: 'data.targets' } })), 'open: data.targets is empty')
  })

  test('about a secret is open until the laptop has it', () => {
    const one = gate({ proof: { secret: 'token' }, gives: 'token' })
    assert.equal(state(one), 'open: this laptop has no secret token')
    assert.equal(state(one, { secrets: ['token'] }), 'done: this laptop has the secret token')
  })

  test('that only a person can see is what a person confirmed, and is looked at again in time', () => {
    const one = gate({ proof: { typed: 'last-six' }, again: '30d' })
    assert.equal(state(one), 'open: nobody has confirmed it')
    assert.equal(state(one, { confirmed: { one: '2026-11-01' } }), 'done: confirmed on 2026-11-01')
    assert.equal(
      state(one, { confirmed: { one: '2026-10-01' } }),
      'again: confirmed on 2026-10-01, and looked at again after 30d',
    )
  })

  test('a secret that is to be looked at again needs a person, too', () => {
    const one = gate({ proof: { secret: 'token' }, again: '90d' })
    assert.equal(state(one, { secrets: ['token'] }), 'open: nobody has confirmed it')
  })
})

describe('the page that waits for a gate', () => {
  const dir = mkdtempSync(join(tmpdir(), 'fk-test-'))
  after(() => rmSync(dir, { recursive: true }))
  const first = (gates: Gate[]) => {
    const context = { site: site(gates), machine: { name: 'pi-1' }, has: () => false, state: dir }
    return page.steps(context as unknown as Context)[0]?.name
  }

  test('begins with it while it is open, and without it when somebody has confirmed it', async () => {
    const one = gate({ what: 'plug in the cable', proof: { leases: ['pi-1'] } })
    assert.equal(first([one]), 'plug in the cable (one)')
    assert.doesNotMatch(first([gate({ needed_by: '08-host-vault' })]) ?? '', /plug in/)
    await noteGate(dir, 'one', now)
    assert.deepEqual(confirmedGates(dir), { one: '2026-11-26' })
    assert.doesNotMatch(first([one]) ?? '', /plug in/)
  })
})
