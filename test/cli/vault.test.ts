// The steps by which a lost header of a vault is restored.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { restoreHeader } from '../../lib/cli/vault.ts'
import { isChange } from '../../lib/engine/step.ts'
import { Secret } from '../../lib/ground/secret.ts'
import { vaultOf } from '../../lib/host/vault.ts'
import { loadConfig } from '../../lib/site/config.ts'
import { withVault } from '../site/made.ts'

const disk = '/dev/disk/by-id/usb-Samsung_PSSD_T7_S6XPNS0T900000-0:0'

test('replacing a header is confirmed by the id of the disk, and nothing is written before that', () => {
  const { site } = loadConfig({ env: {}, site: 'fortress' })
  const [machine] = site.machines
  const secret = (name: string) => new Secret(name, async () => name)
  const vault = vaultOf({
    site: withVault(site, { disk }),
    machine: machine!,
    secrets: secret,
  })
  const steps = restoreHeader(vault, secret('header'))
  const confirmation = steps.findIndex((step) => 'typed' in step)
  assert.deepEqual(
    steps.flatMap((step) => ('typed' in step ? [step.typed, step.help] : [])),
    [
      'usb-Samsung_PSSD_T7_S6XPNS0T900000-0:0',
      'type it at the prompt, or say --confirm usb-Samsung_PSSD_T7_S6XPNS0T900000-0:0',
    ],
  )
  assert.ok(confirmation < steps.findIndex(isChange))
})
