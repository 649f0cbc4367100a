// The demo, a component for tests, as a page installs it on a real API server: its chart, the server that it is fetched from, and the
// checkout of the person who runs its pages. No pods run there.
import assert from 'node:assert/strict'
import { execFileSync, spawn } from 'node:child_process'
import { createHash } from 'node:crypto'
import { cpSync, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { type Server, type ServerResponse, createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import { secretStore } from '../../lib/ground/secret.ts'
import { type Said, root, said } from '../machine/kit.ts'
import { type Checkout, checkout } from '../machine/laptop.ts'
import { without } from '../programs.ts'
import { type Bed, bed, etc, program } from './kit.ts'

/** Why there can be none here, for a test's `skip`. */
export const missing = program === undefined ? 'kube-bed is not installed' : without('kubectl', 'helm')
export const fixture = join(root, 'test/fixtures/component')

const pageText = `#!/usr/bin/env -S npx --no-install tsx
// The demo runs.
import { release, releaseShell } from '../lib/component/release.ts'
import { script } from '../lib/script.ts'

export default script(import.meta, { layer: 'L6', on: 'api', library: releaseShell }, (context) =>
  release('demo', context, { facts: { labels: { site: context.site.name } } }),
)
`

export interface Demo {
  node: Bed
  /** The directory of the chart server. */
  charts: string
  copy: Checkout
  env: Record<string, string | undefined>
  /** What the chart server does with a request for a file that it has, where it is not to send it. */
  answer: ((file: Buffer, response: ServerResponse) => void) | undefined
  /** Starts a page of the checkout; `39-demo` where none is named. */
  start(words: string[], page?: string): ReturnType<typeof spawn>
  page(...words: string[]): Promise<Said>
  /** Applies the demo, which must end well. */
  apply(): Promise<string>
  /** Writes the values of the demo. */
  values(text: string): void
  /** kubectl, whose failure is the test's. */
  kubectl(words: string, input?: string): Promise<string>
  message(): Promise<string>
  /** States of all revisions that helm keeps, oldest first. */
  revisions(): Promise<string[]>
  pin(digest: string): void
  digestOf(name: string): string
  end(): Promise<void>
}

export async function demo(name: string): Promise<Demo> {
  const node = await bed(undefined, name)
  const copy = checkout()
  const charts = mkdtempSync(join(tmpdir(), 'fk-charts-'))
  const digestOf = (file: string) =>
    createHash('sha256')
      .update(readFileSync(join(charts, file)))
      .digest('hex')
  const { code, said: why } = await node.begin()
  assert.equal(code, 0, why)
  execFileSync('helm', ['package', join(fixture, 'chart'), '--destination', charts])
  cpSync(join(fixture, 'definitions.yaml'), join(charts, 'definitions-v1.yaml'))
  cpSync(join(fixture, 'data'), join(copy.dir, 'config/components/demo'), { recursive: true })
  writeFileSync(copy.page('39-demo'), pageText)
  const pins = join(copy.dir, 'config/versions.yaml')
  const pinned = (what: string, version: string, file: string) => `
${what}:
  version: ${version}
  url:
    any: https://example.org/${file}
  sha256: { any: ${digestOf(file.replace('{version}', version))} }
  proof: made by the test
`
  writeFileSync(
    pins,
    readFileSync(pins, 'utf8') +
      pinned('demo', '1.0.0', 'demo-{version}.tgz') +
      pinned('demo-definitions', 'v1', 'definitions-{version}.yaml'),
  )
  const site = join(copy.dir, 'config/sites/fortress-pi.yaml')
  const api = `cluster: { api: { vip: ${node.machine.host}, keeper: none } }\n`
  writeFileSync(site, readFileSync(site, 'utf8') + api)
  await secretStore({
    dir: join(node.state, 'fortress-pi'),
    identity: join(node.state, 'identity.txt'),
  }).put('k3s-kubeconfig', Buffer.from(await node.ok(`cat ${etc}/k3s.yaml`)).toString('base64'))
  const server: Server = createServer((request, response) => {
    const file = join(charts, basename(request.url ?? ''))
    if (!existsSync(file)) return void response.writeHead(404).end()
    if (made.answer) return made.answer(readFileSync(file), response)
    response.writeHead(200).end(readFileSync(file))
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const env: Demo['env'] = {
    ...process.env,
    ...node.env,
    FK_SITE: 'fortress-pi',
    FK_DOWNLOAD_DIR: join(node.state, 'downloads'),
    FK_MIRROR: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
  }
  const kubectl: Demo['kubectl'] = async (words, input) => {
    const { code, stdout, stderr } = await node.kubectl(words, input)
    assert.equal(code, 0, `${words}: ${stderr}`)
    return stdout.trim()
  }
  const start: Demo['start'] = (words, page = '39-demo') =>
    spawn(process.execPath, ['--import', 'tsx', copy.page(page), ...words], {
      cwd: copy.dir,
      env,
      stdio: ['ignore', 'pipe', 'pipe'],
    })
  const made: Demo = {
    node,
    charts,
    copy,
    env,
    answer: undefined,
    start,
    page: (...words) => said(start(words)),
    apply: async () => {
      const { code, text } = await said(start(['apply']))
      assert.equal(code, 0, text)
      return text
    },
    values: (text) => writeFileSync(join(copy.dir, 'config/components/demo/values.yaml'), text),
    kubectl,
    message: () => kubectl(`get configmap demo --namespace demo --output=jsonpath='{.data.message}'`),
    revisions: async () =>
      (
        await kubectl(
          `get secrets --namespace demo --selector owner=helm --sort-by=.metadata.creationTimestamp ` +
            `--output=jsonpath='{range .items[*]}{.metadata.labels.status} {end}'`,
        )
      )
        .trim()
        .split(' ')
        .filter(Boolean),
    pin: (digest) => {
      const text = readFileSync(pins, 'utf8')
      writeFileSync(pins, text.replace(/(demo-\{version\}\.tgz\n {2}sha256: \{ any: )\w+/, `$1${digest}`))
    },
    digestOf,
    end: async () => {
      server.closeAllConnections()
      server.close()
      copy.end()
      rmSync(charts, { recursive: true })
      await node.end()
    },
  }
  return made
}
