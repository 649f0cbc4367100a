// Which kubectl and helm the laptop uses, and how the pinned ones come into its cache.
import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import {
  chmodSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { type Server, createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, afterEach, before, beforeEach, describe, test } from 'node:test'
import { inPath, kubectlFits, kubernetesOf, misfit, programOf, toolFor } from '../../lib/component/tools.ts'
import { artifactOf } from '../../lib/engine/artifact.ts'
import { downloads } from '../../lib/engine/delivery.ts'
import { loadConfig } from '../../lib/site/config.ts'
import type { Pins } from '../../lib/site/model.ts'

const { pins } = loadConfig({ env: {}, site: 'fortress' })
const kubectl = (version: string) => `{ "clientVersion": { "gitVersion": "${version}" } }`
const helm = (version: string, client: string) =>
  `version.BuildInfo{Version:"${version}", GitCommit:"0", GoVersion:"go1.26.5"${client}}`
const built = (version: string) => `, KubeClientVersion:"${version}"`

describe('what is in PATH is used', () => {
  for (const [what, name, said, why] of [
    ['kubectl of the same minor version', 'kubectl', kubectl('v1.36.0'), undefined],
    ['kubectl one minor version older', 'kubectl', kubectl('v1.35.9'), undefined],
    ['kubectl one minor version newer', 'kubectl', kubectl('v1.37.1'), undefined],
    ['not kubectl two minor versions older', 'kubectl', kubectl('v1.34.9'), /within one minor version/],
    ['not kubectl two minor versions newer', 'kubectl', kubectl('v1.38.0'), /within one minor version/],
    ['kubectl with a suffix', 'kubectl', kubectl('v1.36.4-dispatcher'), undefined],
    ['not kubectl that says nothing', 'kubectl', '', /does not say its version/],
    ['helm whose client is of the same minor version', 'helm', helm('v4.2.3', built('v1.36')), undefined],
    ['helm whose client is three minor versions newer', 'helm', helm('v4.9.0', built('v1.39')), undefined],
    [
      'not helm whose client is older',
      'helm',
      helm('v4.1.0', built('v1.35')),
      /is not one for the Kubernetes/,
    ],
    [
      'not helm whose client is far newer',
      'helm',
      helm('v4.9.9', built('v1.40')),
      /is not one for the Kubernetes/,
    ],
    ['not helm that does not say its client', 'helm', helm('v4.2.3', ''), /is not one for the Kubernetes/],
    ['not helm 3', 'helm', helm('v3.22.0', ''), /flags of Helm 4/],
    ['not helm that says nothing', 'helm', '', /does not say its version/],
  ] as const)
    test(what, () => {
      const found = misfit(name, said, 'v1.36.4')
      if (why === undefined) assert.equal(found, undefined)
      else assert.match(found ?? '', why)
    })
})

test('the pinned kubectl fits the pinned Kubernetes', () =>
  assert.ok(kubectlFits(pins['kubectl']!.version, kubernetesOf(pins))))

test('no version fits one that nobody knows', () => assert.ok(!kubectlFits('v1.36.4', '')))

describe('a tool', () => {
  let dir: string
  let server: Server
  let mirror: string
  let tarball: Buffer
  /** What the server was asked for: the path, and the range. */
  let asked: string[]
  /** Bytes after which the server cuts the first connection. */
  let cut: number | undefined
  const at = (...names: string[]) => join(dir, ...names)
  const script = (text: string) => `#!/bin/bash\n${text}\n`
  const place = (name: string, text: string) => {
    mkdirSync(at('bin'), { recursive: true })
    writeFileSync(at('bin', name), script(text), { mode: 0o755 })
  }
  const program = script('echo pinned') + '#'.repeat(300_000)
  const digest = (bytes: Buffer | string) => createHash('sha256').update(bytes).digest('hex')
  const arch = process.arch === 'x64' ? 'amd64' : 'arm64'
  const pinned = (): Pins => {
    const of = (name: string, bytes: Buffer | string, end: string) => ({
      ...pins[name]!,
      url: { [arch]: `https://example.org/${name}${end}` },
      sha256: { [arch]: digest(bytes) },
    })
    return { ...pins, kubectl: of('kubectl', program, ''), helm: of('helm', tarball, '.tar.gz') } as Pins
  }
  const fetch = () =>
    downloads(
      { env: { FK_DOWNLOAD_DIR: at('cache'), FK_MIRROR: mirror } } as Parameters<typeof downloads>[0],
      {
        signal: new AbortController().signal,
      },
    )
  const tool = (name: 'kubectl' | 'helm', given = pinned()) =>
    toolFor(name, given, at('cache'), fetch(), `${at('bin')}:/usr/bin:/bin`)
  const run = (path: string) => execFileSync(path, { encoding: 'utf8' }).trim()

  before(async () => {
    server = createServer((request, response) => {
      asked.push(`${request.url} ${request.headers.range ?? ''}`.trim())
      const body = request.url?.endsWith('.tar.gz') ? tarball : Buffer.from(program)
      const from = Number(/bytes=(\d+)-/.exec(request.headers.range ?? '')?.[1] ?? 0)
      response.writeHead(from > 0 ? 206 : 200, {
        etag: '"one"',
        'content-length': body.length - from,
        ...(from > 0 ? { 'content-range': `bytes ${from}-${body.length - 1}/${body.length}` } : {}),
      })
      if (cut === undefined || from > 0) return void response.end(body.subarray(from))
      response.write(body.subarray(0, cut))
      void arrived(cut).then(() => response.destroy())
    })
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
    mirror = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
  })
  after(() => server.close())
  beforeEach(() => {
    dir = mkdtempSync(join(tmpdir(), 'fk-test-'))
    asked = []
    cut = undefined
    mkdirSync(at('packed', `linux-${arch}`), { recursive: true })
    mkdirSync(at('bin'))
    writeFileSync(at('packed', `linux-${arch}`, 'helm'), program)
    tarball = execFileSync('tar', ['--create', '--gzip', '--directory', at('packed'), `linux-${arch}`])
  })
  /** The download has written so many bytes: what is cut off then was not on its way any more. */
  async function arrived(wanted: number): Promise<void> {
    const part = () =>
      readdirSync(dir, { recursive: true, withFileTypes: true }).find(({ name }) => name.endsWith('.part'))
    for (let i = 0; i < 1000; i++) {
      const found = part()
      if (found && statSync(join(found.parentPath, found.name)).size >= wanted) return
      await new Promise((resolve) => setTimeout(resolve, 10))
    }
  }
  afterEach(() => rmSync(dir, { recursive: true, force: true }))

  test('that fits is taken from PATH, and nothing is fetched', async () => {
    place('kubectl', `echo '${kubectl('v1.35.2')}'`)
    assert.deepEqual(await tool('kubectl'), {
      name: 'kubectl',
      path: at('bin/kubectl'),
      version: 'v1.35.2',
      from: 'PATH',
    })
    assert.deepEqual(asked, [])
  })

  test('that does not fit stays where it is, and the pinned one is fetched, once', async () => {
    place('kubectl', `echo '${kubectl('v1.30.0')}'`)
    place('helm', `echo '${helm('v3.22.0', '')}'`)
    for (const name of ['kubectl', 'helm'] as const) {
      const { path, version, from } = await tool(name)
      assert.deepEqual([version, from], [pins[name]?.version, 'cache'])
      assert.equal(run(path), 'pinned')
      assert.equal(statSync(path).mode & 0o777, 0o555)
      await tool(name)
    }
    assert.deepEqual(asked, ['/example.org/kubectl', '/example.org/helm.tar.gz'])
  })

  test('that hangs is not waited for', async () => {
    place('kubectl', 'sleep 60')
    const began = Date.now()
    assert.match((await inPath('kubectl', pins, `${at('bin')}:/usr/bin:/bin`))?.misfit ?? '', /does not say/)
    assert.ok(Date.now() - began < 15_000)
  })

  test('whose download was cut is fetched to its end by a second connection', async () => {
    cut = 1000
    assert.equal(run((await tool('kubectl')).path), 'pinned')
    assert.deepEqual(asked, ['/example.org/kubectl', '/example.org/kubectl bytes=1000-'])
  })

  for (const name of ['kubectl', 'helm'] as const)
    test(`of another digest is refused, and is no program: ${name}`, async () => {
      const wrong = pinned()
      wrong[name]!.sha256 = { [arch]: 'ab'.repeat(32) }
      await assert.rejects(tool(name, wrong), /is not the file that is pinned/)
      assert.throws(() => statSync(programOf(artifactOf(wrong, name, arch), at('cache'))), /ENOENT/)
    })

  test('that was changed in the cache is found, or made anew from what is proven', async () => {
    const { path } = await tool('kubectl')
    chmodSync(path, 0o755)
    writeFileSync(path, script('echo changed'))
    await assert.rejects(tool('kubectl'), /kubectl-\S+ was changed after it was verified/)
    const unpacked = (await tool('helm')).path
    chmodSync(unpacked, 0o755)
    writeFileSync(unpacked, script('echo changed'))
    assert.equal(run((await tool('helm')).path), 'pinned')
  })

  test('of a tarball that lacks it is refused', async () => {
    rmSync(at('packed', `linux-${arch}`, 'helm'))
    writeFileSync(at('packed', `linux-${arch}`, 'README.md'), '')
    tarball = execFileSync('tar', ['--create', '--gzip', '--directory', at('packed'), `linux-${arch}`])
    await assert.rejects(tool('helm'), { said: /Not found in archive/ })
    assert.equal(readFileSync(at('cache', artifactOf(pinned(), 'helm', arch).name)).length, tarball.length)
  })
})
