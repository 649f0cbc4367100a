import assert from 'node:assert/strict'
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { read, root } from '../../lib/ground/root.ts'

test('the files of the kit are found from its root, wherever the process stands', () => {
  assert.ok(existsSync(join(root, 'bin/task.cjs')))
  assert.match(read('config/versions.yaml'), /sha256/)
  assert.throws(() => read('nonesuch'), { code: 'ENOENT' })
})
