// The step that installs packages: what it asks dpkg, and what it makes of the answer.
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, test } from 'node:test'
import { packages } from '../../lib/engine/packages.ts'
import { root } from '../../lib/ground/root.ts'

/** The check of a step, with a dpkg-query that knows these packages. */
function holds(names: string[], states: Record<string, string>): { code: number | null; said: string } {
  const cases = Object.entries(states).map(([name, state]) => `${name}) echo '${state} ${name}' ;;`)
  const dpkg = `dpkg-query() {
    local rc=0
    shift 2
    for name in "$@"; do
      case $name in
        ${cases.join('\n')}
        *) echo "dpkg-query: no packages found matching $name" >&2; rc=1 ;;
      esac
    done
    return $rc
  }`
  const text = `set -euo pipefail\n${dpkg}\n${packages(names).check.text}`
  const { status, stdout } = spawnSync('bash', ['-c', text], { encoding: 'utf8' })
  return { code: status, said: stdout }
}

test('packages are installed when every one of them is', () => {
  assert.deepEqual(holds(['a', 'b'], { a: 'installed', b: 'installed' }), { code: 0, said: '' })
})

test('one that was removed, or never finished, is named', () => {
  const { code, said } = holds(['a', 'b'], { a: 'config-files', b: 'installed' })
  assert.equal(code, 1)
  assert.equal(said, 'not installed: a\n')
})

for (const place of ['first', 'last'])
  test(`one that dpkg has never heard of is not installed, also as the ${place} of a list`, () => {
    const names = place === 'first' ? ['new', 'a'] : ['a', 'new']
    assert.notEqual(holds(names, { a: 'installed' }).code, 0)
  })

test('its name says which packages, or what the page calls them', () => {
  assert.equal(packages(['nftables']).name, 'nftables is installed')
  assert.equal(packages(['xorriso', 'openssl']).name, 'xorriso and openssl are installed')
  assert.equal(packages(['a', 'b', 'c']).name, 'a, b and c are installed')
  assert.equal(packages(['qemu-utils'], { name: 'KVM is installed', seconds: 1800 }).name, 'KVM is installed')
})

test('an empty list is a mistake', () => {
  assert.throws(() => packages([]), { name: 'TypeError', message: 'packages: which?' })
})

describe('another program that installs packages', () => {
  /** apt_get with an apt-get that finds a lock held so many times, and then says `last`. */
  const run = (held: number, last: string, seconds: number) => {
    const dir = mkdtempSync(join(tmpdir(), 'fk-apt-'))
    const apt = `echo x >> ${dir}/tries
if [ "$(wc --lines < ${dir}/tries)" -le ${held} ]; then
  echo 'E: Could not get lock /var/lib/dpkg/lock-frontend. It is held by process 66 (unattended-upgr)' >&2; exit 100
fi
${last}`
    writeFileSync(join(dir, 'apt-get'), `#!/bin/bash\n${apt}\n`, { mode: 0o755 })
    const text = `. ${root}/lib/engine/shell/apt.sh; apt_get install one`
    const { status, stdout, stderr } = spawnSync('bash', ['-euo', 'pipefail', '-c', text], {
      encoding: 'utf8',
      env: { PATH: `${dir}:${process.env['PATH']}`, SHLVL: '1', FK_APT_SECONDS: String(seconds) },
    })
    rmSync(dir, { recursive: true })
    return { status, stdout, stderr }
  }

  test('is waited for, and named once', () => {
    const { status, stderr } = run(2, 'true', 60)
    assert.equal(status, 0)
    assert.equal(
      stderr,
      'waiting for another program that installs packages: E: Could not get lock /var/lib/dpkg/lock-frontend. ' +
        'It is held by process 66 (unattended-upgr)\n',
    )
  })

  test('that does not end is named when the time is over', () => {
    const { status, stdout } = run(99, 'true', 1)
    assert.equal(status, 100)
    assert.match(
      stdout,
      /^another program still installs packages after 1 s:\nE: Could not get lock .*process 66/,
    )
  })

  test('is no other mistake of apt, which ends at once', () => {
    const { status, stdout, stderr } = run(0, "echo 'E: Unable to locate package one' >&2; exit 100", 60)
    assert.deepEqual([status, stdout, stderr], [100, 'E: Unable to locate package one\n', ''])
  })
})
