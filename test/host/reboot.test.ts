// The shell of 09-host-reboot about guests, with a virsh that plays libvirt: one file for each machine, which holds its state.
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, test } from 'node:test'
import page from '../../scripts/09-host-reboot.ts'

let dir: string
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'fk-test-'))
  mkdirSync(join(dir, 'guests'))
})
afterEach(() => rmSync(dir, { recursive: true }))

const guest = (name: string, state = 'running') => writeFileSync(join(dir, 'guests', name), state)
const stateOf = (name: string) => readFileSync(join(dir, 'guests', name), 'utf8').trim()

function shell(command: string, world = ''): { code: number; said: string } {
  const stands = `
    cd ${dir}; REBOOT_NOTES=${dir}/notes K3S=/nonexistent
    pgrep() { true; }
    systemctl() { :; }
    sleep() { SECONDS=$((SECONDS + 60)); }
    virsh() {
      local name=\${4-}
      case $3 in
        list) grep --files-with-matches --invert-match 'shut off' guests/* | sed 's|guests/||' ;;
        domstate) cat "guests/$name" ;;
        dominfo) echo "Autostart:      $([ "$name" = stray ] && echo disable || echo enable)" ;;
        shutdown) [ "$name" = stubborn ] || echo 'shut off' > "guests/$name" ;;
        start) echo running > "guests/$name" ;;
      esac
    }
    ${world}`
  const text = `reboot_reason() { :; }\n${page.library?.text}\n${page.prepare?.text}\n${stands}\n${command}`
  const { status, stdout, stderr } = spawnSync('bash', ['-uo', 'pipefail', '-c', text], { encoding: 'utf8' })
  return { code: status ?? -1, said: (stdout + stderr).trim() }
}

test('guests shut down by themselves, and what ran is noted', () => {
  guest('fortress-node')
  guest('theirs')
  guest('off', 'shut off')
  assert.deepEqual(shell('reboot_notes fortress fortress fortress-node other && reboot_guests_down 300'), {
    code: 0,
    said: '',
  })
  assert.equal(readFileSync(join(dir, 'notes/guests'), 'utf8'), 'fortress-node\ntheirs\n')
  assert.ok(existsSync(join(dir, 'notes/node-fortress-node')))
  assert.ok(!existsSync(join(dir, 'notes/node-other')))
  assert.equal(stateOf('theirs'), 'shut off')
})

test('one that does not keeps its power, and the host stays up with all that ran', () => {
  guest('fortress-node')
  guest('stubborn')
  const { code, said } = shell('reboot_notes fortress && reboot_guests_down 300')
  assert.deepEqual({ code, said }, { code: 1, said: 'not shut down after 300 s: stubborn' })
  assert.equal(shell('reboot_stay').code, 0)
  assert.equal(stateOf('fortress-node'), 'running')
  assert.equal(stateOf('stubborn'), 'running')
  assert.ok(!existsSync(join(dir, 'notes')))
})

test('what would not start again, or not shut down, is said before', () => {
  guest('fortress-node')
  assert.equal(shell('reboot_guests_return').code, 0)
  guest('stray')
  guest('still', 'paused')
  assert.deepEqual(shell('reboot_guests_return'), {
    code: 1,
    said: 'still is paused, and would not shut down\nstray does not start with the host',
  })
  const mute = shell('reboot_guests_return', 'virsh() { echo "no connection" >&2; return 1; }')
  assert.equal(mute.code, 102)
  assert.match(mute.said, /could not ask libvirt: no connection/)
})

test('they are back when each runs, and those of the site answer', () => {
  guest('fortress-node')
  shell('reboot_notes fortress && reboot_guests_down 300')
  assert.match(shell('reboot_guests_up 300').said, /fortress-node is shut off/)
  guest('fortress-node')
  const door = "'fortress-node 127.0.0.1 1'"
  assert.match(shell(`reboot_guests_up 300 ${door}`).said, /does not answer at 127\.0\.0\.1, port 1/)
  assert.equal(shell(`reboot_guests_up 300 ${door}`, 'timeout() { true; }').code, 0)
  assert.ok(!existsSync(join(dir, 'notes/guests')))
})
