// ./task pins check against a server that stands for all makers, and what ./task status makes of it.
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { type Server, createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import { after, before, beforeEach, describe, test } from 'node:test'
import { statusOf } from '../../lib/cli/concerns.ts'
import type { PinsSeen } from '../../lib/cli/pins.ts'
import { loadConfig } from '../../lib/site/config.ts'

describe('pins check', () => {
  const state = mkdtempSync(join(tmpdir(), 'fk-pins-test-'))
  const env = { FK_STATE_DIR: state, FK_AGE_IDENTITY: join(state, 'identity.txt') }
  const { pins } = loadConfig({ env })
  const texts = new Map<string, string>()
  const asked: string[] = []
  let server: Server
  let mirror: string

  /** Every maker says what is pinned, in its own form. */
  const honest = () => {
    texts.clear()
    const put = (url: string, text: string) => {
      const path = url.replace('https://', '/')
      texts.set(path, (texts.get(path) ?? '') + text)
    }
    const releases = new Map<string, { name: string; digest: string }[]>()
    for (const { version, url, sha256 = {}, sums = {}, releases: out } of Object.values(pins)) {
      for (const [arch, from] of Object.entries(sums)) {
        const [file, digest] = [
          basename(new URL(url[arch as 'any'] ?? '').pathname),
          sha256[arch as 'any'] ?? '',
        ]
        if (from.includes('api.github.com'))
          releases.set(from, [...(releases.get(from) ?? []), { name: file, digest: `sha256:${digest}` }])
        else if (from.endsWith('index.yaml'))
          put(
            from,
            `entries:\n  chart:\n    - { name: chart, version: ${version}, digest: ${digest}, urls: [${file}] }\n`,
          )
        else if (from.endsWith('.sha256')) put(from, digest)
        else put(from, `${digest}  ${decodeURIComponent(file)}\n`)
      }
      if (out?.url.includes('api.github.com'))
        texts.set(out.url.replace('https://', '/'), `[{"tag_name":"${version}"}]`)
      else if (out?.url.endsWith('version.txt')) put(out.url, `FLATCAR_VERSION=${version}\n`)
      else if (out?.url.includes('k3s')) put(out.url, JSON.stringify({ data: [{ latest: version }] }))
      else if (out?.url.endsWith('.txt')) put(out.url, `${version}\n`)
    }
    for (const [from, assets] of releases) put(from, JSON.stringify({ assets }))
    for (const [path, text] of texts)
      if (path.endsWith('index.yaml'))
        texts.set(path, text.replaceAll('chart', path.includes('cilium') ? 'cilium' : 'cert-manager'))
  }

  const check = async (...words: string[]) => {
    const child = spawn('./task', ['pins', 'check', ...words], {
      env: { ...process.env, ...env, FK_MIRROR: mirror, FK_ENV_FILE: '/dev/null' },
      stdio: ['ignore', 'pipe', 'inherit'],
    })
    let text = ''
    child.stdout.setEncoding('utf8').on('data', (data: string) => (text += data))
    const code = await new Promise<number | null>((resolve) => child.on('close', resolve))
    return { code, text }
  }
  const concerns = () => {
    const config = loadConfig({ env, site: 'fortress-pi' })
    return statusOf(config, { pages: [], machines: [], verdicts: [], now: new Date() })
      .concerns.filter(({ of }) => of in pins)
      .map(({ state: how, of, says }) => `${how} ${of}: ${says}`)
  }
  const k3s = new URL(pins['k3s']?.sums?.amd64 ?? '')

  before(async () => {
    server = createServer((request, response) => {
      asked.push(request.url ?? '')
      const text = texts.get(request.url ?? '')
      response.writeHead(text === undefined ? 404 : 200).end(text ?? 'nothing here')
    })
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
    mirror = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
  })
  after(() => {
    server.close()
    rmSync(state, { recursive: true, force: true })
  })
  beforeEach(honest)

  test('says of each file that it is as its maker says, and keeps the answer', async () => {
    assert.deepEqual(concerns(), [], 'before the first check nothing is said')
    const { code, text } = await check('--json')
    const seen = JSON.parse(text) as PinsSeen
    for (const { pin, files, unasked } of seen.pins) {
      const { sha256, sums, releases, signature, unproven } = pins[pin] ?? {}
      const wanted = sha256 && sums ? 'same' : unproven ? 'unproven' : signature ? 'signed' : 'unknown'
      assert.deepEqual([...new Set(files.map(({ state: is }) => is))], [wanted], pin)
      assert.equal(unasked === undefined, releases !== undefined, pin)
    }
    // A pin whose maker's sums or versions nobody has named yet is unknown, and not fine.
    const named = Object.values(pins).every(({ sums, sha256, releases }) => releases && (sums || !sha256))
    const unknown = seen.pins.some(({ files }) => files.some(({ state: is }) => is === 'unknown'))
    assert.equal(code, named && !unknown ? 0 : 2, text)
    assert.deepEqual(JSON.parse(readFileSync(join(state, 'pins.json'), 'utf8')), seen)
    // No file of a maker is downloaded, and each text once.
    assert.equal(new Set(asked).size, asked.length)
    for (const { url } of Object.values(pins))
      for (const one of Object.values(url)) assert.ok(!asked.includes(one.replace('https://', '/')), one)
    assert.deepEqual(concerns(), [])
  })

  test('a digest that differs is said with both, by status as well', async () => {
    const path = `/${k3s.host}${k3s.pathname}`
    texts.set(path, `${'0'.repeat(64)}  k3s\n`)
    const { code, text } = await check()
    assert.equal(code, 1, text)
    assert.match(
      text,
      /^k3s +\S+ +amd64 +NOT what its maker says\n +\S+ says 0{64}, pinned is [0-9a-f]{64}$/m,
    )
    assert.match(text, /^k3s +\S+ +arm64 +as its maker says$/m)
    assert.deepEqual(concerns(), ['bad k3s: its digest (amd64) is not what its maker publishes'])
  })

  test('what cannot be asked is unknown, with the reason, and is neither', async () => {
    texts.delete(`/${k3s.host}${k3s.pathname}`)
    texts.set(
      `/${new URL(pins['helm']?.sums?.amd64 ?? '').host}${new URL(pins['helm']?.sums?.amd64 ?? '').pathname}`,
      'a page',
    )
    const { code, text } = await check()
    assert.equal(code, 2, text)
    assert.match(
      text,
      /^k3s +\S+ +amd64 +unknown\n +sha256sum-amd64\.txt cannot be fetched: it is not there/m,
    )
    assert.match(text, /^helm +\S+ +amd64 +unknown\n +\S+ has no digest of it$/m)
    assert.deepEqual(concerns(), [])
  })

  test('a newer patch is said, with the day on which it was seen, and silence does not take it away', async () => {
    const url = new URL(pins['k3s']?.releases?.url ?? '')
    texts.set(
      `/${url.host}${url.pathname}`,
      JSON.stringify({ data: [{ latest: 'v1.36.99+k3s1' }, { latest: 'v1.37.0+k3s1' }] }),
    )
    const { code, text } = await check()
    assert.equal(code, 2, text)
    const today = new Date().toISOString().slice(0, 10)
    assert.match(text, new RegExp(`^k3s +v1\\.36\\.99\\+k3s1 is out \\(seen ${today}\\)$`, 'm'))
    const wanted = [`warn k3s: v1.36.99+k3s1 is out, and ${pins['k3s']?.version} is pinned (seen ${today})`]
    assert.deepEqual(concerns(), wanted)
    texts.clear()
    const silent = await check()
    assert.equal(silent.code, 2)
    assert.match(silent.text, /whether a newer patch is out is unknown/)
    assert.deepEqual(concerns(), wanted)
  })

  test('status asks nobody', () => {
    asked.length = 0
    concerns()
    assert.deepEqual(asked, [])
  })
})
