// The shell of 27-node-update, with programs that stand in for those of Flatcar: they note how they were called.
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, test } from 'node:test'
import { read } from '../../lib/ground/root.ts'
import page from '../../scripts/27-node-update.ts'

let dir: string
beforeEach(() => void (dir = mkdtempSync(join(tmpdir(), 'fk-test-'))))
afterEach(() => rmSync(dir, { recursive: true }))

const note = (name: string) => join(dir, 'notes', name)
const calls = () =>
  existsSync(join(dir, 'calls')) ? readFileSync(join(dir, 'calls'), 'utf8').trim().split('\n') : []

/** Runs bash behind the functions of the page. `world` changes what stands in. */
function shell(command: string, world = ''): { code: number; said: string } {
  const stands = `
    cd ${dir}; FLATCAR_NOTES=${dir}/notes K3S=/nonexistent
    flatcar_version() { echo 4593.2.5; }
    update_engine_client() { echo "update_engine_client $*" >> calls; case $1 in -status) cat status 2> /dev/null ;; esac; }
    flatcar-update() { echo "flatcar-update $*" >> calls; echo CURRENT_OP=UPDATE_STATUS_UPDATED_NEED_REBOOT > status; }
    cgpt() { echo "cgpt $*" >> calls; case $1 in find) printf '/dev/vda3\\n/dev/vda4\\n' ;; esac; }
    rootdev() { echo /dev/vda3; }
    k3s_version() { echo v1.36.5+k3s1; }
    ${world}`
  const { status, stdout, stderr } = spawnSync(
    'bash',
    ['-uo', 'pipefail', '-c', `${page.library?.text}\n${page.prepare?.text}\n${stands}\n${command}`],
    {
      encoding: 'utf8',
    },
  )
  return { code: status ?? -1, said: (stdout + stderr).trim() }
}

test('an older release is refused, the same and a newer one are not', () => {
  assert.deepEqual(shell('flatcar_not_newer 4459.2.4'), { code: 1, said: '4593.2.5 runs' })
  assert.equal(shell('flatcar_not_newer 4593.2.5').code, 0)
  assert.equal(shell('flatcar_not_newer 4593.10.0').code, 0)
  assert.equal(shell('flatcar_not_newer 10000.2.0').code, 0)
})

test('the pinned release is staged by its number, and the update server is left disabled', () => {
  assert.equal(shell('flatcar_staged 4757.2.1').code, 1)
  assert.equal(shell('flatcar_stage 4757.2.1').code, 0)
  assert.deepEqual(
    calls().filter((line) => line.startsWith('flatcar-update')),
    ['flatcar-update --to-version 4757.2.1 --disable-afterwards'],
  )
  assert.equal(shell('flatcar_staged 4757.2.1').code, 0)
  assert.equal(shell('flatcar_staged 4757.3.0').code, 1)
  assert.equal(shell('flatcar_waits_for 4757.2.1').code, 0)
})

test('what could not be fetched or proven is not noted', () => {
  assert.equal(
    shell('flatcar_stage 4757.2.1', 'flatcar-update() { echo "Error: update failed" >&2; return 1; }').code,
    1,
  )
  assert.ok(!existsSync(note('staged')))
})

test('a release that nobody asked for does not start: the next start is in the slot that runs', () => {
  writeFileSync(join(dir, 'status'), 'CURRENT_OP=UPDATE_STATUS_UPDATED_NEED_REBOOT\n')
  assert.deepEqual(shell('flatcar_waits_for 4757.2.1'), {
    code: 1,
    said: 'a release that nobody asked for waits',
  })
  assert.equal(shell('flatcar_forget').code, 0)
  assert.deepEqual(calls().slice(-2), ['cgpt prioritize /dev/vda3', 'update_engine_client -reset_status'])
})

test('a trial is kept where k3s is as healthy as it was, and not before', () => {
  shell('flatcar_stage 4757.2.1; k3s_node() { echo True; }; flatcar_try server n')
  assert.equal(readFileSync(note('trial'), 'utf8'), 'True\n')
  assert.equal(shell('flatcar_kept').code, 1)
  const ill = shell('flatcar_keep server n 0', 'k3s_is() { echo "n was Ready, and is not"; return 1; }')
  assert.deepEqual(ill, { code: 1, said: '4593.2.5 runs, and k3s is not healthy: n was Ready, and is not' })
  assert.ok(existsSync(note('trial')))
  assert.equal(
    shell('flatcar_keep server n 5', 'k3s_is() { [ "$*" = "server n v1.36.5+k3s1 True" ]; }').code,
    0,
  )
  assert.equal(shell('flatcar_kept').code, 0)
  assert.ok(!existsSync(note('staged')))
})

test('where it is not, the other slot starts next, and another trial may begin', () => {
  shell('flatcar_stage 4757.2.1; k3s_node() { echo True; }; flatcar_try server n')
  assert.equal(shell('flatcar_back').code, 0)
  assert.equal(calls().at(-1), 'cgpt prioritize /dev/vda4')
  assert.equal(shell('flatcar_kept').code, 0)
  const alone = shell('flatcar_back', 'cgpt() { echo /dev/vda3; }')
  assert.deepEqual(alone, { code: 1, said: 'there is no other slot' })
})

test('a node begins with the file that the page would write', () => {
  const inline = /path: \/etc\/flatcar\/update\.conf[\s\S]*?inline: \|\n((?: {10}.*\n)+)/.exec(
    read('config/vm/flatcar-butane.yaml'),
  )
  assert.equal(inline?.[1]?.replaceAll(/^ {10}/gm, ''), read('config/vm/update.conf'))
})
