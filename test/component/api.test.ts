// A page about the API of a cluster as a person runs it on the laptop, with a kubectl and a helm that only say what they were given.
import assert from 'node:assert/strict'
import { type ChildProcess, spawn } from 'node:child_process'
import { existsSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, beforeEach, describe, test } from 'node:test'
import { secretStore } from '../../lib/ground/secret.ts'
import { type Said, root, said } from '../machine/kit.ts'

const kubeconfig = `apiVersion: v1
kind: Config
clusters: [{ name: default, cluster: { certificate-authority-data: QQ==, server: 'https://127.0.0.1:6443' } }]
contexts: [{ name: default, context: { cluster: default, user: default } }]
users: [{ name: default, user: { client-key-data: c2VjcmV0LWtleQ== } }]
current-context: default
`

/** A kubectl that writes down what it was given, and keeps one note in a file in place of a cluster. */
const fake = (name: string, dir: string) => `#!/bin/bash
{ printf '%s\\n' "${name} $*"; env | grep -E '^(KUBE|HELM|NO_PROXY)' | LC_ALL=C sort; echo; } >> ${dir}/log
case "$*" in
  'version --client --output=json') echo '{ "clientVersion": { "gitVersion": "v1.36.1" } }' ;;
  version) echo 'version.BuildInfo{Version:"v4.2.3", KubeClientVersion:"v1.36"}' ;;
  'get --raw /version'*)
    cp "$KUBECONFIG" ${dir}/kubeconfig
    stat --format='%a %n' "$KUBECONFIG" "$(dirname "$KUBECONFIG")" > ${dir}/modes
    [ ! -e ${dir}/away ] || { cat ${dir}/away >&2; exit 1; }
    echo '{ "gitVersion": "v1.36.4+k3s1" }' ;;
  diff*) cmp - ${dir}/note ;;
  apply*) [ ! -e ${dir}/hang ] || sleep 60; cat > ${dir}/note ;;
  delete*) rm ${dir}/note ;;
  exit*) exit "\${2}" ;;
esac
`

describe('a page for the API', () => {
  let dir: string
  let env: Record<string, string>
  const at = (...names: string[]) => join(dir, ...names)
  const file = join(root, 'test/fixtures/pages/52-notes.ts')
  const store = () =>
    secretStore({ dir: at('state/fortress-pi'), identity: at('identity.txt'), say: () => {} })
  const start = (words: string[]): ChildProcess =>
    spawn(process.execPath, ['--import', 'tsx', ...words], {
      cwd: root,
      env,
      stdio: ['ignore', 'pipe', 'pipe'],
    })
  const page = (...words: string[]): Promise<Said> => said(start([file, ...words]))
  const log = () => (existsSync(at('log')) ? readFileSync(at('log'), 'utf8') : '')
  const left = () => ['/dev/shm', `/run/user/${process.getuid?.()}`, tmpdir()].flatMap(ours)

  before(async () => {
    dir = mkdtempSync(join(tmpdir(), 'fk-test-'))
    mkdirSync(at('bin'))
    for (const name of ['kubectl', 'helm']) writeFileSync(at('bin', name), fake(name, dir), { mode: 0o755 })
    env = {
      PATH: `${at('bin')}:${process.env['PATH']}`,
      HOME: at('home'),
      FK_HOST: 'admin@192.0.2.10',
      FK_SITE: 'fortress-pi',
      FK_STATE_DIR: at('state'),
      FK_AGE_IDENTITY: at('identity.txt'),
      FK_LOG_DIR: at('logs'),
      FK_ENV_FILE: '/dev/null',
      // What a user has for clusters of their own.
      KUBECONFIG: '/home/ada/.kube/config',
      KUBECTL_EXTERNAL_DIFF: 'meld',
      KUBERNETES_SERVICE_HOST: '10.0.0.1',
      HELM_NAMESPACE: 'other',
      HELM_KUBETOKEN: 'other',
    }
    await store().put('k3s-kubeconfig', Buffer.from(kubeconfig).toString('base64'))
  })
  beforeEach(() => {
    for (const name of ['log', 'note', 'away', 'hang']) rmSync(at(name), { force: true })
  })
  after(() => rmSync(dir, { recursive: true, force: true }))

  test('is applied with the tools in PATH, holds then, is verified and undone', async () => {
    assert.equal((await page('plan')).code, 2)
    const applied = await page('apply')
    assert.equal(applied.code, 0, applied.text)
    assert.match((await page('apply')).text, /1 step holds/)
    writeFileSync(at('note'), 'edited by hand\n')
    const edited = await page('verify')
    assert.equal(edited.code, 1, edited.text)
    assert.equal((await page('apply')).code, 0)
    assert.equal((await page('undo')).code, 0)
    assert.ok(!existsSync(at('note')))
  })

  test('finds the API of the site in the kubeconfig, which is in memory and private, and gone then', async () => {
    assert.equal((await page('plan')).code, 2)
    assert.match(readFileSync(at('kubeconfig'), 'utf8'), /server: https:\/\/10\.66\.0\.1:6443/)
    assert.match(readFileSync(at('modes'), 'utf8'), /^600 (\/dev\/shm|\/run\/user)\S+\/kubeconfig\n700 /)
    assert.deepEqual(left(), [])
    assert.doesNotMatch(log(), /other|meld|KUBERNETES|\/home/)
    assert.match(log(), /^KUBERC=off$/m)
    assert.match(log(), /^NO_PROXY=10\.66\.0\.1$/m)
  })
})

const ours = (place: string): string[] =>
  existsSync(place) ? readdirSync(place).filter((name) => name.startsWith('fortress-kit-')) : []
