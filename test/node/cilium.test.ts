// Cilium's chart as nodes of the lab get it: that of production but for one line of its values.
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { parse } from 'yaml'
import { without } from '../programs.ts'
import { ciliumChart, ciliumOverlay, gatewayCrds, withoutCilium } from './cilium.ts'

test(
  'what is rendered for it differs from production in what starts WireGuard, and in nothing else',
  { skip: withoutCilium || without('helm') },
  () => {
    const values = join(import.meta.dirname, '../../config/components/cilium/values.yaml')
    const render = (overlay: object) => {
      const { status, stdout, stderr } = spawnSync(
        'helm',
        ['template', 'cilium', ciliumChart().file, '--namespace=cilium', '--values', values, '--values=-'],
        { input: JSON.stringify(overlay), encoding: 'utf8', maxBuffer: 2 ** 26 },
      )
      assert.equal(status, 0, stderr)
      return new Set(stdout.split('\n').filter((line) => !line.includes('cilium-configmap-checksum')))
    }
    const facts = { encryption: { strictMode: { egress: { cidr: '10.42.0.0/16' } } } }
    const [ours, theirs] = [
      render({ encryption: { ...facts.encryption, ...ciliumOverlay.encryption } }),
      render(facts),
    ]
    assert.deepEqual(
      [...theirs].filter((line) => !ours.has(line)),
      ['  enable-wireguard: "true"', '  wireguard-persistent-keepalive: "0s"'],
    )
    assert.deepEqual(
      [...ours].filter((line) => !theirs.has(line)),
      [],
    )
  },
)

test(
  'the definitions of Gateway API are, byte for byte, those that the pin names',
  { skip: withoutCilium },
  () => {
    const pins = parse(readFileSync('config/versions.yaml', 'utf8')) as Record<
      string,
      { version: string; sha256: { any: string } }
    >
    const { text, version } = gatewayCrds()
    assert.equal(version, pins['gateway-api']!.version)
    assert.equal(createHash('sha256').update(text).digest('hex'), pins['gateway-api']!.sha256.any)
  },
)
