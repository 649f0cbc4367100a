// The step that installs packages: what it asks dpkg, and what it makes of the answer.
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { test } from 'node:test'
import { packages } from '../../lib/engine/packages.ts'

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
