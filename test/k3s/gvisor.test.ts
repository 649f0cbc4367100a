// How a node judges a release of gVisor: by the functions of page 40, on a directory of ours.
import assert from 'node:assert/strict'
import { execFileSync, spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { chmodSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { shellText } from '../../lib/ground/sh.ts'
import page from '../../scripts/40-runtime-gvisor.ts'
import { without } from '../programs.ts'

const skip = without('zstd', 'tar')
const digestOf = (kind: string, path: string) => createHash(kind).update(readFileSync(path)).digest('hex')

/** A node's /opt/gvisor, and a tarball that waits there as an upload does. */
function place(t: TestContext, change: (dir: string) => void = () => {}) {
  const home = mkdtempSync(join(tmpdir(), 'fk-gvisor-'))
  t.after(() => rmSync(home, { recursive: true }))
  const dir = join(home, 'made')
  mkdirSync(join(dir, 'gvisor-bin'), { recursive: true })
  for (const name of ['containerd-shim-runsc-v1', 'gvisor-bin/gvisor_sentry'])
    writeFileSync(join(dir, name), name, { mode: 0o755 })
  writeFileSync(join(dir, 'runsc'), '#!/bin/sh\necho runsc version release-1.0\n', { mode: 0o755 })
  change(dir)
  const tarball = join(home, 'tarball')
  execFileSync('tar', ['--create', '--zstd', `--file=${tarball}`, `--directory=${dir}`, '.'])
  const [sha256, sha512] = [digestOf('sha256', tarball), digestOf('sha512', tarball)]
  const sent = `${home}/gvisor-1.0.tar.zstd`
  const send = () =>
    writeFileSync(join(home, `.gvisor-1.0.tar.zstd.${sha256.slice(0, 16)}.part`), readFileSync(tarball))
  send()
  const run = (command: string) => {
    const functions = ['lib/engine/shell/put.sh', 'lib/k3s/members.sh'].map(shellText).join('')
    // Whose files they are on a node is root's; here they are those of who runs the test.
    const mine = `chown() { :; }
find() {
  local word last='' all=()
  for word; do
    case $last in -user) all+=("$(id --user --name)") ;; -group) all+=("$(id --group --name)") ;; *) all+=("$word") ;; esac
    last=$word
  done
  command find "\${all[@]}"
}`
    const text = `FK_STATE=${home}\n${functions}${page.prepare!.text}
GVISOR=${home} FK_SENT=${JSON.stringify(`${sha256} ${sent}`)}
${mine}\n${command}`
    const { status, stdout, stderr } = spawnSync('bash', ['-euo', 'pipefail', '-c', text], {
      encoding: 'utf8',
    })
    return { code: status, text: stdout + stderr }
  }
  return { home, sha512, run, send, unpack: (digest = sha512) => run(`gvisor_unpack 1.0 ${digest}`) }
}

test('a release is unpacked whole, and holds', { skip }, (t) => {
  const { run, unpack, sha512 } = place(t)
  assert.deepEqual(unpack(), { code: 0, text: '' })
  assert.deepEqual(run(`gvisor_whole 1.0 ${sha512}`), { code: 0, text: '' })
  assert.match(run(`gvisor_whole 1.0 ${'0'.repeat(128)}`).text, /is not unpacked from the pinned release/)
  assert.match(run(`gvisor_whole 2.0 ${sha512}`).text, /is not unpacked from the pinned release/)
})

test('what is not the pinned release is deleted, and nothing of it is unpacked', { skip }, (t) => {
  const { home, run, unpack } = place(t)
  const { code, text } = unpack('0'.repeat(128))
  assert.equal(code, 1)
  assert.match(text, /what was sent is not the pinned release: it is deleted/)
  assert.equal(run(`ls -A ${home} | grep -v -e made -e tarball || true`).text, '')
})

const broken: [string, (dir: string) => void, RegExp][] = [
  ['without its shim', (dir) => rmSync(join(dir, 'containerd-shim-runsc-v1')), /no containerd-shim-runsc-v1/],
  ['with a link', (dir) => symlinkSync('/etc/shadow', join(dir, 'gvisor-bin/link')), /has links/],
]
for (const [what, change, says] of broken)
  test(`a release ${what} is refused, and the one that was there stays`, { skip }, (t) => {
    const { home, unpack } = place(t, change)
    mkdirSync(join(home, '1.0'))
    const { code, text } = unpack()
    assert.equal(code, 1)
    assert.match(text, says)
    assert.equal(spawnSync('ls', [join(home, '1.0')], { encoding: 'utf8' }).stdout, '')
  })

const drifted: [string, (dir: string) => void, RegExp][] = [
  [
    'a changed file',
    (dir) => writeFileSync(join(dir, 'gvisor-bin/gvisor_sentry'), 'x'),
    /gvisor_sentry: FAILED/,
  ],
  ['a missing file', (dir) => rmSync(join(dir, 'containerd-shim-runsc-v1')), /containerd-shim-runsc-v1/],
  [
    'a file more',
    (dir) => writeFileSync(join(dir, 'gvisor-bin/more'), ''),
    /somebody else: \.\/gvisor-bin\/more/,
  ],
  ['a link more', (dir) => symlinkSync('runsc', join(dir, 'more')), /somebody else: \.\/more/],
  ['a file that others may write', (dir) => chmodSync(join(dir, 'runsc'), 0o777), /mode or owner is not 755/],
  [
    'a file that others may not run',
    (dir) => chmodSync(join(dir, 'runsc'), 0o700),
    /mode or owner is not 755/,
  ],
]
for (const [what, change, says] of drifted)
  test(`${what} is seen, and put right`, { skip }, (t) => {
    const { home, run, send, unpack, sha512 } = place(t)
    assert.equal(unpack().code, 0)
    change(join(home, '1.0'))
    const { code, text } = run(`gvisor_whole 1.0 ${sha512}`)
    assert.equal(code, 1, text)
    assert.match(text, says)
    send()
    assert.deepEqual(unpack(), { code: 0, text: '' })
    assert.deepEqual(run(`gvisor_whole 1.0 ${sha512}`), { code: 0, text: '' })
  })

test('a program that says that it is another release is seen', { skip }, (t) => {
  const { run, unpack, sha512 } = place(t, (dir) =>
    writeFileSync(join(dir, 'runsc'), '#!/bin/sh\necho runsc version release-1.0-dirty\n', { mode: 0o755 }),
  )
  assert.equal(unpack().code, 0)
  assert.match(run(`gvisor_whole 1.0 ${sha512}`).text, /runsc is another one/)
})
