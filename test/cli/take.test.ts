// A page that was taken home: its folder and its file hold what they need and nothing else, and run where there is no kit.
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, describe, test } from 'node:test'
import { printedPlans } from '../../lib/cli/review.ts'
import { pages } from '../../lib/cli/scripts.ts'
import { folderOf, takeHome } from '../../lib/cli/take.ts'
import { root } from '../../lib/ground/root.ts'

const scratch = mkdtempSync(join(tmpdir(), 'fk-take-'))
after(() => rmSync(scratch, { recursive: true, force: true }))

const taken = (...argv: string[]) =>
  takeHome({ name: 'take', argv, signal: new AbortController().signal, together: false, live: false })
const refusal = (...argv: string[]) => {
  try {
    return taken(...argv)
  } catch (error) {
    return (error as Error).message
  }
}
const env = {
  PATH: process.env['PATH'],
  HOME: scratch,
  FK_STATE_DIR: '/nonexistent',
  FK_AGE_IDENTITY: '/nonexistent',
}
const printed = printedPlans()

describe('a page as a folder', () => {
  for (const name of ['00-host-harden', '06-host-firewall', '12-vm-ignition', '14-vm-talos', '20-k3s-server'])
    test(`${name} prints outside of the repository what it prints here`, () => {
      const dir = join(scratch, name)
      assert.match(taken(name, dir), /npm ci && npm run page\n$/)
      symlinkSync(join(root, 'node_modules'), join(dir, 'node_modules'))
      const { stdout, stderr } = spawnSync('npm', ['run', '--silent', 'page', '--', 'print'], {
        cwd: dir,
        env,
        encoding: 'utf8',
      })
      assert.equal(stdout, printed.get(`${name}.sh`), stderr)
    })

  test('it rehearses there, and its types are whole', () => {
    const dir = join(scratch, 'rehearsed')
    taken('12-vm-ignition', dir)
    symlinkSync(join(root, 'node_modules'), join(dir, 'node_modules'))
    const { status, stdout, stderr } = spawnSync('npm', ['run', '--silent', 'page'], {
      cwd: dir,
      env,
      encoding: 'utf8',
    })
    assert.equal(status, 0, stdout + stderr)
    assert.ok(existsSync(join(dir, 'out/fortress/print/12-vm-ignition.sh')))
    cpSync(join(root, 'tsconfig.json'), join(dir, 'tsconfig.json'))
    const tsc = spawnSync(join(root, 'node_modules/.bin/tsc'), ['--noEmit'], { cwd: dir, encoding: 'utf8' })
    assert.equal(tsc.status, 0, tsc.stdout)
  })

  test('it holds what the page needs, and nothing of other pages and sites', () => {
    const firewall = pages().find(({ number }) => number === '06')!
    const { copied, made } = folderOf(firewall, 'fortress')
    for (const needed of [
      'scripts/06-host-firewall.ts',
      'lib/engine/shell/put.sh',
      'config/host/nftables.conf',
      'config/sites/fortress.yaml',
      'config/schema/site.json',
      'LICENSE',
    ])
      assert.ok(copied.includes(needed), needed)
    const foreign =
      /^(scripts\/(?!06)|lib\/k3s\/|config\/(host\/(pam|audit|sshd)|k3s\/|sites\/(?!fortress\.)))/
    assert.deepEqual(
      copied.filter((file) => foreign.test(file)),
      [],
    )
    const { dependencies } = JSON.parse(made['package.json']!) as { dependencies: Record<string, string> }
    assert.ok('yaml' in dependencies && 'tsx' in dependencies)
    assert.ok(!('minimist' in dependencies) && !('prettier' in dependencies))
  })

  test('npm installs it from its own lock file, which is a part of ours', () => {
    const { made } = folderOf(
      pages().find(({ number }) => number === '11')!,
      'fortress',
    )
    type Lock = { packages: Record<string, object> }
    const { '': own, ...packages } = (JSON.parse(made['package-lock.json']!) as Lock).packages
    const ours = (JSON.parse(readFileSync(join(root, 'package-lock.json'), 'utf8')) as Lock).packages
    assert.deepEqual(own, JSON.parse(made['package.json']!))
    for (const [path, found] of Object.entries(packages)) assert.deepEqual(found, ours[path], path)
    assert.ok('node_modules/esbuild' in packages && 'node_modules/@esbuild/linux-x64' in packages)
    assert.ok(!('node_modules/typescript' in packages))
  })
})

test('a page as bash is one file: what the page prints', () => {
  const dir = join(scratch, 'bash')
  taken('06-host-firewall', dir, '--bash')
  assert.equal(readFileSync(join(dir, '06-host-firewall.sh'), 'utf8'), printed.get('06-host-firewall.sh'))
})

test('nothing is written over what is there, nor for a page that nobody knows', () => {
  const full = join(scratch, 'full')
  mkdirSync(full)
  writeFileSync(join(full, 'mine'), '')
  assert.match(refusal('06-host-firewall', full), /full is not empty: it has mine\. Nothing was written\.$/)
  assert.match(refusal('06-host-firewall', join(full, 'mine')), /is a file\. Nothing was written\.$/)
  const other = join(scratch, 'other')
  assert.match(refusal('06-host-firewal', other), /did you mean 06-host-firewall\?/)
  assert.match(refusal('firewall', other), /did you mean 06-host-firewall\?/)
  assert.match(refusal('zzz', other), /there are 00-host-harden, /)
  assert.match(refusal('06', other, '--machine', 'fortress'), /^--machine is for --bash/)
  assert.match(refusal('06', other, '--site', 'fortres'), /did you mean fortress\?/)
  assert.ok(!existsSync(other))
})
