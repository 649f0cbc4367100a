// ./task gates give: which secrets a person may give, and what happens to the others.
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { secretStore } from '../../lib/ground/secret.ts'
import { type Checkout, checkout } from '../machine/laptop.ts'

describe('a secret that somebody gives', () => {
  let copy: Checkout
  let state: string
  const store = () =>
    secretStore({ dir: join(state, 'fortress'), identity: join(state, 'identity.txt'), say: () => {} })
  before(() => {
    copy = checkout()
    state = mkdtempSync(join(tmpdir(), 'fk-gates-'))
    const certificates = 'certificates: { use: cert-manager, dns01: cloudflare }'
    const site = readFileSync(copy.site, 'utf8').replace('components: {', `components: { ${certificates},`)
    writeFileSync(
      copy.site,
      `${site}names: [{ zone: example.org, authority: router, writer: pages, audience: [tunnel], points_at: inside, issuer: letsencrypt }]\n`,
    )
  })
  after(() => {
    copy?.end()
    rmSync(state, { recursive: true, force: true })
  })
  const give = (id: string, value: string) => {
    const { status, stdout, stderr } = spawnSync(
      process.execPath,
      [join(copy.dir, 'bin/task.cjs'), 'gates', 'give', id],
      {
        input: value,
        encoding: 'utf8',
        env: {
          PATH: process.env['PATH'],
          HOME: state,
          FK_STATE_DIR: state,
          FK_AGE_IDENTITY: join(state, 'identity.txt'),
        },
      },
    )
    return { status, said: stdout + stderr }
  }

  test('is stored where a page waits for it', async () => {
    const { status, said } = give('dns-token', 'tok-1\n')
    assert.equal(status, 0, said)
    assert.match(said, /^dns-token is stored, encrypted\.$/m)
    assert.equal(await store().secret('dns-token').resolve(), 'tok-1')
  })

  test('does not replace a key that pages have made, nor is one with a mistyped name stored', async () => {
    await store().put('ca-root', 'a key')
    for (const [id, hint] of [
      ['ca-root', /has no secret to give called ca-root/],
      ['dns-tokne', /did you mean dns-token\?/],
    ] as const) {
      const { status, said } = give(id, 'other\n')
      assert.equal(status, 1, said)
      assert.match(said, hint)
    }
    assert.equal(await store().secret('ca-root').resolve(), 'a key')
    assert.equal(existsSync(join(state, 'fortress', 'dns-tokne.age')), false)
  })

  test('that is empty is not stored', () => {
    const { status, said } = give('dns-token', '\n')
    assert.equal(status, 1, said)
    assert.match(said, /nothing was stored/)
  })
})
