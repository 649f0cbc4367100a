// What page 57 makes of audit logs: who has used the break-glass account, who only looks like it, and what stays of a rotated log.
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import {
  appendFileSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { shellText } from '../../lib/ground/sh.ts'
import page from '../../scripts/57-break-glass.ts'

const dir = mkdtempSync(join(tmpdir(), 'fk-glass-'))
after(() => rmSync(dir, { recursive: true }))
const logs = join(dir, 'server/logs')
const log = join(logs, 'audit.log')
const kept = join(dir, 'notes/break-glass.log')
mkdirSync(logs, { recursive: true })

const user = 'fortress:break-glass:0a1b2c3d'
/** A line as an API server writes it; `uri` and `body` as they stand in JSON. */
const line = (id: number, who: string, uri = '/api', body = '{}') =>
  `{"kind":"Event","apiVersion":"audit.k8s.io/v1","level":"Request","auditID":"${id}","stage":"ResponseComplete",` +
  `"requestURI":"${uri}","verb":"get","user":{"username":"${who}","groups":["a"]},"sourceIPs":["192.0.2.9"],` +
  `"requestObject":${body},"requestReceivedTimestamp":"2026-11-0${id}T10:00:00.000000Z"}\n`

function run(what: string, is = user): { code: number | null; said: string } {
  const text = `${shellText('lib/k3s/members.sh')}
${page.prepare?.text}
K3S_DATA=${dir} K3S_NOTES=${dir}/notes
glass_users() { printf '%s\\n' ${is}; }
${what}`
  const { status, stdout, stderr } = spawnSync('bash', ['-euo', 'pipefail'], {
    input: text,
    encoding: 'utf8',
  })
  return { code: status, said: stdout + stderr }
}

test('a log of others is no use of it, whatever they write into their requests', () => {
  writeFileSync(log, line(1, 'system:admin'))
  appendFileSync(log, line(2, 'bob', `/x?a=\\"user\\":{\\"username\\":\\"${user}\\"`))
  appendFileSync(log, line(3, 'bob', '/x', `{"verb":"get","user":{"username":"${user}"}}`))
  assert.deepEqual(run('glass_unused'), {
    code: 0,
    said: `${user} was not used; the log begins on 2026-11-01\n`,
  })
  assert.equal(run('glass_kept').code, 0)
})

test('a use is said with its time, from where, and for what', () => {
  appendFileSync(log, line(5, user, '/api/v1/secrets?a=\\"b'))
  writeFileSync(
    join(logs, 'audit-2026-11-04T00-00-00.000.log'),
    `\0${line(3, 'bob')}${line(4, user, '/readyz')}`,
  )
  const { code, said } = run('glass_unused')
  assert.equal(code, 1)
  assert.equal(
    said,
    `${user} was used, 2 requests; when, from where, and for what:\n` +
      '2026-11-04T10:00:00.000000Z 192.0.2.9 get /readyz\n' +
      '2026-11-05T10:00:00.000000Z 192.0.2.9 get /api/v1/secrets?a=\\"b\n',
  )
})

test('it is kept for root alone, and still known when the log is gone', () => {
  assert.match(run('glass_kept').said, /^2 requests are not in /)
  assert.equal(run('glass_keep && glass_keep && glass_kept').code, 0)
  assert.equal(statSync(kept).mode & 0o777, 0o600)
  assert.equal(readFileSync(kept, 'utf8').split('\n').length, 3)
  rmSync(join(logs, 'audit-2026-11-04T00-00-00.000.log'))
  writeFileSync(log, line(6, 'bob'))
  assert.equal(run('glass_unused').code, 1)
  assert.equal(run('glass_keep && glass_kept').code, 0)
  assert.equal(readFileSync(kept, 'utf8').split('\n').length, 3)
})

test('another account in its place was not used', () => {
  assert.equal(run('glass_unused', 'fortress:break-glass:ffffffff').code, 0)
})

test('without a log, and without an account, nothing is known', () => {
  rmSync(log)
  assert.deepEqual(run('glass_unused'), { code: 1, said: 'there is no audit log\n' })
  assert.equal(run('glass_kept').code, 1)
  assert.deepEqual(run('glass_users() { :; }\nglass_unused'), { code: 1, said: 'there is no such account\n' })
})
