// A file that was uploaded gets its name: what was proven, and nothing else.
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { existsSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { library, quote } from '../../lib/ground/sh.ts'

const dir = mkdtempSync(join(tmpdir(), 'fk-receive-'))
after(() => rmSync(dir, { recursive: true }))
const digest = createHash('sha256').update('program\n').digest('hex')

/** Bash in which `text` was uploaded for `path`, and the laptop has proven the digest of 'program'. */
function receive(path: string, text: string) {
  const part = join(dir, `.${path}.${digest.slice(0, 16)}.part`)
  writeFileSync(part, text)
  const shell = library('lib/engine/shell/put.sh', 'lib/engine/shell/receive.sh')
  // A test need not be root, who owns what is received.
  const script = `set -euo pipefail
${shell.text}
chown() { :; }
keep() { echo "kept $1"; }
FK_SENT=${quote(`${digest} ${join(dir, path)}\n`)}
receive ${quote(join(dir, path))} 755`
  const { status, stdout, stderr } = spawnSync('bash', ['-c', script], { encoding: 'utf8' })
  return { status, said: stdout + stderr, part }
}

test('what was uploaded becomes the file, with its mode, and is recorded for undo first', () => {
  const { status, said, part } = receive('tool', 'program\n')
  assert.equal(status, 0, said)
  assert.equal(said, `kept ${join(dir, 'tool')}\n`)
  assert.equal(readFileSync(join(dir, 'tool'), 'utf8'), 'program\n')
  assert.equal(statSync(join(dir, 'tool')).mode & 0o777, 0o755)
  assert.ok(!existsSync(part))
})

test('what is another file than was proven is deleted, and the old one stays', () => {
  writeFileSync(join(dir, 'old'), 'old\n')
  const { status, said, part } = receive('old', 'prog')
  assert.notEqual(status, 0)
  assert.match(said, /is not what was sent/)
  assert.equal(readFileSync(join(dir, 'old'), 'utf8'), 'old\n')
  assert.ok(!existsSync(part))
})
