// The pages of a host as somebody starts them.
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { join } from 'node:path'
import { test } from 'node:test'
import { root } from '../../lib/ground/root.ts'

test('a page that is started by itself may use what stands below its list of steps', () => {
  const { status, stdout, stderr } = spawnSync(
    join(root, 'node_modules/.bin/tsx'),
    [join(root, 'scripts/06-host-firewall.ts'), 'print'],
    { encoding: 'utf8', env: { ...process.env, FK_HOST: '' } },
  )
  assert.equal(stderr, '')
  assert.equal(status, 0)
  assert.match(stdout, /^ *# 2\/\d+ nftables is installed$/m)
})
