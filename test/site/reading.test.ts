// However many machines a site has, its document is read once in a run.
import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { chmodSync, cpSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { stringify } from 'yaml'
import { root } from '../../lib/ground/root.ts'
import { type Checkout, checkout } from '../machine/laptop.ts'

describe('a site of twenty machines', () => {
  let copy: Checkout
  let dir: string
  before(() => {
    copy = checkout()
    cpSync(join(root, 'bin'), join(copy.dir, 'bin'), { recursive: true })
    dir = mkdtempSync(join(tmpdir(), 'fk-test-'))
    const machines = Array.from({ length: 20 }, (_, i) => ({
      name: `box-${i + 1}`,
      roles: ['host', i < 3 ? 'server' : 'agent'],
      os: 'debian-13',
      arch: 'amd64',
      address: `192.168.7.${i + 11}`,
      ...(i === 0 ? {} : { tunnel_address: `10.66.0.${i + 11}` }),
    }))
    writeFileSync(
      copy.site,
      stringify({
        name: 'fortress',
        machines,
        networks: [{ name: 'lan', network: '192.168.7.0/24' }],
        cluster: { api: { vip: '192.168.7.9' } },
        data: { keep: [{ what: 'cluster', every: 'daily', to: [], rpo: '24h', rto: '1h' }] },
      }),
    )
    writeFileSync(
      join(dir, 'count.mjs'),
      `import fs from 'node:fs'
       import { syncBuiltinESMExports } from 'node:module'
       const read = fs.readFileSync
       let times = 0
       fs.readFileSync = (path, ...more) => {
         if (String(path) === process.env.COUNTED) times++
         return read(path, ...more)
       }
       syncBuiltinESMExports()
       process.on('exit', () => process.stderr.write('read ' + times + '\\n'))`,
    )
  })
  after(() => {
    copy?.end()
    rmSync(dir, { recursive: true, force: true })
  })

  /** What a plan says, and how often it has read the document. */
  function plan(more: Record<string, string> = {}): string {
    const env = { PATH: process.env['PATH'], HOME: dir, COUNTED: copy.site, FK_STATE_DIR: dir, ...more }
    const args = [
      '--import',
      'tsx',
      '--import',
      join(dir, 'count.mjs'),
      copy.page('05-host-wireguard'),
      'plan',
    ]
    return execFileSync('bash', ['-c', '"$@" 2>&1 || true', 'bash', process.execPath, ...args], {
      env,
      cwd: root,
      encoding: 'utf8',
    })
  }

  test('a plan reads its document once, and names all of its machines', () => {
    const text = plan()
    assert.match(text, /^read 1$/m, text)
    assert.equal(text.match(/^05-host-wireguard /gm)?.length, 20, text)
  })

  test('so does a plan that connects to each of them', () => {
    const names = Array.from({ length: 20 }, (_, i) => `box-${i + 1}`)
    writeFileSync(
      join(dir, 'known_hosts'),
      names.map((name) => `fortress.${name} ssh-ed25519 AAAA\n`).join(''),
    )
    writeFileSync(join(dir, 'ssh'), '#!/bin/sh\necho "Connection refused" >&2\nexit 255\n')
    chmodSync(join(dir, 'ssh'), 0o755)
    const text = plan({
      PATH: `${dir}:${process.env['PATH']}`,
      FK_HOST: 'ada@192.168.7.11',
      FK_KNOWN_HOSTS: join(dir, 'known_hosts'),
      FK_LOG_DIR: dir,
    })
    assert.match(text, /^read 1$/m, text)
    assert.equal(text.match(/ refuses the connection/g)?.length, 20, text)
  })
})
