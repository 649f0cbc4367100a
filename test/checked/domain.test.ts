// Every machine and network that we can write is one that libvirt's own schema knows.
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, describe, test } from 'node:test'
import { loadConfig, siteNames } from '../../lib/site/config.ts'
import { guestsOf } from '../../lib/site/machines.ts'
import { guestNetwork } from '../../lib/vm/domain.ts'
import { made } from '../site/made.ts'
import { variants } from '../variants.ts'

const skip = spawnSync('virt-xml-validate', ['--version']).error
  ? 'virt-xml-validate is not installed'
  : false
const dir = mkdtempSync(join(tmpdir(), 'domain-'))
after(() => rmSync(dir, { recursive: true }))

function validate(xml: string, schema: 'domain' | 'network'): { code: number | null; said: string } {
  const file = join(dir, 'candidate.xml')
  writeFileSync(file, xml)
  const { status, stdout, stderr } = spawnSync('virt-xml-validate', [file, schema], { encoding: 'utf8' })
  return { code: status, said: `${stdout}${stderr}` }
}

describe('virt-xml-validate accepts', { skip }, () => {
  for (const [what, xml] of Object.entries(variants()))
    test(`the machine: ${what}`, () => {
      const { code, said } = validate(xml, 'domain')
      assert.equal(code, 0, said)
    })

  const two = made({
    name: 'two',
    machines: ['north', 'south'].flatMap((host) => [
      { name: host, roles: ['host'] as const },
      ...['a', 'b'].map((one) => ({ name: `${host}-${one}`, roles: ['server'] as const, vm: { host } })),
    ]),
  })
  for (const site of [...siteNames().map((name) => loadConfig({ env: {}, site: name }).site), two])
    for (const host of new Set(guestsOf(site).map(({ vm }) => vm.host)))
      test(`the network of ${host} of the site ${site.name}`, () => {
        const { code, said } = validate(guestNetwork(site, host).xml, 'network')
        assert.equal(code, 0, said)
      })

  test('and refuses one that is wrong', () => {
    const [xml = ''] = Object.values(variants())
    assert.notEqual(validate(xml.replace('<memballoon', '<balloon'), 'domain').code, 0)
  })
})
