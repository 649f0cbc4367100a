// A page about the API of a cluster as a person runs it on the laptop, with a kubectl and a helm that only say what they were given.
import assert from 'node:assert/strict'
import { type ChildProcess, execFileSync, spawn } from 'node:child_process'
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { createServer } from 'node:https'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import { after, before, beforeEach, describe, test } from 'node:test'
import { parse } from 'yaml'
import { openSession } from '../../lib/cli/session.ts'
import { ask, openAccess, silence, skew } from '../../lib/component/api.ts'
import { privateDir, sweep } from '../../lib/component/memory.ts'
import { plain } from '../../lib/engine/program.ts'
import { secretStore } from '../../lib/ground/secret.ts'
import { membersOf } from '../../lib/site/cluster.ts'
import { machinesFor } from '../../lib/site/machines.ts'
import { type Said, root, said } from '../machine/kit.ts'
import { without } from '../programs.ts'
import { siteOf } from '../sites.ts'

const kubeconfig = `apiVersion: v1
kind: Config
clusters: [{ name: default, cluster: { certificate-authority-data: QQ==, server: 'https://127.0.0.1:6443' } }]
contexts: [{ name: default, context: { cluster: default, user: default } }]
users: [{ name: default, user: { client-key-data: c2VjcmV0LWtleQ== } }] # gitleaks:allow
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
  apply*) while [ -e ${dir}/hang ]; do sleep 0.1; done; cat > ${dir}/note ;;
  delete*) rm ${dir}/note ;;
  'config exit') exit 7 ;;
  'config wait') trap 'echo ended in order > ${dir}/note; exit 0' TERM; touch ${dir}/ready; while :; do sleep 0.1; done ;;
esac
`

describe('a page for the API', () => {
  let dir: string
  let env: Record<string, string>
  const at = (...names: string[]) => join(dir, ...names)
  const file = join(root, 'test/fixtures/pages/52-notes.ts')
  const store = (site = 'fortress-pi') =>
    secretStore({ dir: at('state', site), identity: at('identity.txt'), say: () => {} })
  const pids: number[] = []
  const start = (words: string[]): ChildProcess => {
    const child = spawn(process.execPath, words, { cwd: root, env, stdio: ['ignore', 'pipe', 'pipe'] })
    pids.push(child.pid ?? 0)
    return child
  }
  const page = (...words: string[]): Promise<Said> => said(start(['--import', 'tsx', file, ...words]))
  const task = (...words: string[]): Promise<Said> => said(start(['bin/task.cjs', ...words]))
  const log = () => (existsSync(at('log')) ? readFileSync(at('log'), 'utf8') : '')
  /** The directories in memory of what was started here. */
  const left = () =>
    ['/dev/shm', `/run/user/${process.getuid?.()}`, tmpdir()]
      .flatMap((place) => (existsSync(place) ? readdirSync(place) : []))
      .filter((name) => pids.some((pid) => name.startsWith(`fortress-kit-${pid}-`)))

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

  test('waits for the page that makes the kubeconfig, and asks nothing before', async () => {
    const { code, text } = await page('plan', '--site', 'zengarden')
    assert.equal(code, 2, text)
    assert.match(text, /52-notes: not built, after 20-k3s-server/)
    assert.equal(log(), '')
  })

  test('finds a cluster of Talos in the same way', async () => {
    env['FK_NODE_OS'] = 'talos'
    try {
      const early = await page('plan', '--site', 'fortress')
      assert.match(early.text, /52-notes: not built, after 14-vm-talos/)
      await store('fortress').put('fortress-node-kubeconfig', Buffer.from(kubeconfig).toString('base64'))
      const { code, text } = await page('plan', '--site', 'fortress')
      assert.equal(code, 2, text)
      const { server } = parse(readFileSync(at('kubeconfig'), 'utf8')).clusters[0].cluster as {
        server: string
      }
      assert.equal(server, `https://${membersOf(siteOf('fortress'))[0]?.endpoint}:6443`)
    } finally {
      delete env['FK_NODE_OS']
    }
  })

  test('is applied after a plan of the same run, which has closed what it looked at', async () => {
    const before = { ...process.env }
    Object.assign(process.env, env)
    const session = openSession({ site: 'fortress-pi', signal: new AbortController().signal })
    try {
      const [api] = machinesFor(session.config, 'api')
      const machine = await session.connect(api!)
      await machine.close()
      const again = await session.connect(api!)
      const { finished } = await again.run(await plain('look', ['test -s "$KUBECONFIG"']), () => {})
      assert.ok(finished)
    } finally {
      await session.close()
      for (const name of Object.keys(env)) delete process.env[name]
      Object.assign(process.env, before)
    }
    pids.push(process.pid)
    assert.deepEqual(left(), [])
  })

  for (const [what, said, pattern] of [
    [
      'does not answer',
      'Unable to connect to the server: dial tcp 10.66.0.1:6443: i/o timeout',
      /^the API at 10\.66\.0\.1:6443 does not answer\n.*i\/o timeout\n.*wg-quick up/ms,
    ],
    [
      'refuses our certificate',
      'error: You must be logged in to the server (Unauthorized)',
      /^the API at 10\.66\.0\.1:6443 refuses our certificate\n.*\.\/task k3s-server apply/ms,
    ],
  ] as const)
    test(`an API that ${what} is said once, with the remedy, and is no failure of a step`, async () => {
      writeFileSync(at('away'), said)
      const { code, text } = await page('verify')
      assert.equal(code, 1)
      assert.match(text, pattern)
      assert.doesNotMatch(text, /the note is in the cluster/)
      assert.deepEqual(left(), [])
    })

  test(
    'memory that is full is said, by its directory, and no step is begun',
    { skip: process.getuid?.() !== 0 && 'it needs root' },
    async () => {
      const full =
        'mount -t tmpfs -o size=8k full "$0" && { cat /dev/zero > "$0/fill" 2> /dev/null || true; } && exec "$@"'
      // Of a person's own session, if there is one, and of everybody.
      const [place = ''] = [`/run/user/${process.getuid?.()}`, '/dev/shm'].filter((one) => existsSync(one))
      const words = ['--mount', 'bash', '-c', full, place, process.execPath, '--import', 'tsx', file, 'apply']
      const { code, text } = await said(
        spawn('unshare', words, { cwd: root, env, stdio: ['ignore', 'pipe', 'pipe'] }),
      )
      assert.equal(code, 1, text)
      assert.match(text, new RegExp(`there is no room for the kubeconfig in ${place}\n.*df -h ${place}`))
      assert.equal(existsSync(at('note')), false)
    },
  )

  test('a kubeconfig of a run that was killed is gone with the next start of anything', async () => {
    writeFileSync(at('hang'), '')
    const killed = start(['--import', 'tsx', file, 'apply'])
    const ended = said(killed)
    await until(() => /apply/.test(log()))
    assert.equal(left().length, 1)
    killed.kill('SIGKILL')
    await ended
    // The step that was begun ends by itself.
    rmSync(at('hang'))
    await until(() => existsSync(at('note')))
    assert.equal((await task('waivers')).code, 0)
    assert.deepEqual(left(), [])
  })

  test('Ctrl-C ends a run, and nothing of the kubeconfig is left', async () => {
    writeFileSync(at('hang'), '')
    const stopped = start(['--import', 'tsx', file, 'apply'])
    const ended = said(stopped)
    await until(() => /apply/.test(log()))
    stopped.kill('SIGINT')
    await new Promise((resolve) => setTimeout(resolve, 500))
    stopped.kill('SIGINT')
    assert.equal((await ended).code, 130)
    rmSync(at('hang'))
    await until(() => existsSync(at('note')))
    assert.deepEqual(left(), [])
  })

  test('printed it says what it needs, refuses to run without it, and does the same', async () => {
    const { code, text } = await page('print')
    assert.equal(code, 0, text)
    assert.match(text, /^# {3}KUBECONFIG=FILE bash 52-notes\.sh$/m)
    assert.match(text, /^# It needs kubectl and helm in PATH, and in KUBECONFIG the file that opens the API/m)
    const run = (more: Record<string, string | undefined>) => {
      const child = spawn('bash', ['-s'], { env: { ...env, KUBECONFIG: undefined, ...more } })
      child.stdin.end(text)
      return said(child)
    }
    assert.match((await run({})).text, /KUBECONFIG: the file that opens the API of the cluster/)
    assert.match(
      (await run({ PATH: '/usr/bin:/bin:/usr/sbin', KUBECONFIG: '/x' })).text,
      /this needs helm in PATH/,
    )
    const applied = await run({ KUBECONFIG: at('kubeconfig') })
    assert.equal(applied.code, 0, applied.text)
    assert.match(applied.text, /changed {2}the note is in the cluster/)
    assert.match(readFileSync(at('note'), 'utf8'), /says: keep/)
  })

  test('./task kubectl and ./task helm pass words and exit code on, for the same cluster', async () => {
    assert.equal((await task('kubectl', 'config', 'exit')).code, 7)
    assert.match(log(), /^kubectl config exit\n(?:HELM_\S+\n)*KUBECACHEDIR=\S+\nKUBECONFIG=\/(dev\/shm|run)/m)
    assert.equal((await task('helm', '--site', 'fortress-pi', 'show', '--help')).code, 0)
    assert.match(log(), /^helm show --help$/m)
    assert.match((await task('kubectl', '--help')).text, /\.\/task kubectl \[WORD…\]/)
    assert.deepEqual(left(), [])
  })

  test('./task kubectl that is ended ends what it has started in order', async () => {
    const running = start(['bin/task.cjs', 'kubectl', 'config', 'wait'])
    const ended = said(running)
    await until(() => existsSync(at('ready')))
    running.kill('SIGTERM')
    const { code, text } = await ended
    assert.equal(code, 143, text)
    assert.equal(text, '')
    assert.equal(readFileSync(at('note'), 'utf8'), 'ended in order\n')
    assert.deepEqual(left(), [])
  })

  test('./task kubectl says that the API does not answer, and that there is none yet', async () => {
    writeFileSync(at('away'), 'Unable to connect to the server: context deadline exceeded')
    const { code, text } = await task('kubectl', 'get', 'pods')
    assert.equal(code, 1)
    assert.match(text, /the API at 10\.66\.0\.1:6443 does not answer\n.*\n.*wg-quick up/)
    assert.doesNotMatch(log(), /get pods/)
    const early = await task('helm', '--site=zengarden', 'list')
    assert.equal(early.code, 2, early.text)
    assert.match(
      early.text,
      /this laptop has no kubeconfig of zengarden\n.*\.\/task k3s-server apply fetches it/s,
    )
  })
})

describe('why an API could not be used', () => {
  for (const [said, reason, refused] of [
    ['Unable to connect to the server: dial tcp 10.66.0.1:6443: i/o timeout', 'does not answer', false],
    [
      'E1127 memcache.go] a\nUnable to connect to the server: context deadline exceeded',
      'does not answer',
      false,
    ],
    [
      'The connection to the server 10.66.0.1:6443 was refused - did you specify the right host or port?',
      'does not run there',
      false,
    ],
    ['error: You must be logged in to the server (Unauthorized)', 'refuses our certificate', true],
    [
      'tls: failed to verify certificate: x509: certificate signed by unknown authority',
      'is not the one that we know: another CA signed its certificate',
      true,
    ],
    [
      'x509: certificate is valid for 10.43.0.1, 127.0.0.1, not 10.66.0.1',
      'does not name its address in its certificate',
      true,
    ],
    [
      'Error from server (ServiceUnavailable): the server is currently unable to handle the request',
      'is not ready',
      false,
    ],
  ] as const)
    test(`${said.slice(0, 60)}: it ${reason}`, () => {
      const found = silence(`${said}\n`)
      assert.deepEqual([found.reason, found.refused], [reason, refused])
      assert.equal(found.said, said.split('\n').at(-1))
    })
})

describe(
  'what the real kubectl is told by an API that does not take us',
  { skip: without('kubectl', 'openssl') },
  () => {
    for (const [status, word, reason, refused] of [
      [401, 'Unauthorized', 'refuses our certificate', true],
      [403, 'Forbidden', 'gives us no rights', true],
      [429, 'TooManyRequests', 'has too much to do, and wants to be asked again later', false],
      [503, 'ServiceUnavailable', 'is not ready', false],
    ] as const)
      test(`${status}: it ${reason}`, async () => {
        const dir = mkdtempSync(join(tmpdir(), 'fk-test-'))
        const [key, cert] = [join(dir, 'key'), join(dir, 'cert')]
        const names = ['-subj', '/CN=api', '-addext', 'subjectAltName=IP:127.0.0.1', '-days', '1', '-nodes']
        const kind = ['-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256']
        execFileSync('openssl', ['req', ...kind, ...names, '-keyout', key, '-out', cert], { stdio: 'ignore' })
        const body = {
          kind: 'Status',
          apiVersion: 'v1',
          status: 'Failure',
          reason: word,
          code: status,
          message: word,
        }
        const server = createServer({ key: readFileSync(key), cert: readFileSync(cert) }, (_, response) =>
          response.writeHead(status, { 'Content-Type': 'application/json' }).end(JSON.stringify(body)),
        )
        await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
        const text = kubeconfig
          .replace('QQ==', readFileSync(cert).toString('base64'))
          .replace('6443', `${(server.address() as AddressInfo).port}`)
          .replace(/client-key-data: \S+/, 'token: none')
        const access = openAccess(text, '127.0.0.1', [])
        try {
          const answer = await ask(access)
          assert.ok(typeof answer !== 'string')
          assert.deepEqual([answer.reason, answer.refused], [reason, refused], answer.said)
        } finally {
          access.close()
          server.closeAllConnections()
          server.close()
          rmSync(dir, { recursive: true })
        }
      })
  },
)

test('a kubectl that is too far from the server is said', () => {
  const tools = [{ name: 'kubectl', path: '', version: 'v1.36.4', from: 'PATH' }] as const
  assert.equal(skew(tools, 'v1.35.9+k3s1'), undefined)
  assert.match(skew(tools, 'v1.34.9+k3s1') ?? '', /kubectl v1\.36\.4 is more than one minor version/)
})

describe('a directory of memory', () => {
  test('of a process that is gone is taken away, one of a process that lives stays', () => {
    const place = mkdtempSync(join(tmpdir(), 'fk-test-'))
    try {
      const { path, remove } = privateDir([place])
      const gone = ['fortress-kit-4194303-5-abcdef', `fortress-kit-${process.pid}-1-abcdef`]
      for (const name of gone) mkdirSync(join(place, name))
      mkdirSync(join(place, 'fortress-kitchen'))
      sweep([place])
      assert.deepEqual(readdirSync(place).sort(), [basename(path), 'fortress-kitchen'].sort())
      assert.equal(statSync(path).mode & 0o777, 0o700)
      remove()
      assert.deepEqual(readdirSync(place), ['fortress-kitchen'])
    } finally {
      rmSync(place, { recursive: true })
    }
  })
})

async function until(holds: () => boolean): Promise<void> {
  for (let i = 0; i < 300 && !holds(); i++) await new Promise((resolve) => setTimeout(resolve, 100))
  assert.ok(holds())
}
