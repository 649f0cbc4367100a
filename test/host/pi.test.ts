// What a Raspberry Pi is given beside what every host is: its kernel's line, and where its updates come from.
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, describe, test } from 'node:test'
import { contextOf, declaredFacts } from '../../lib/cli/context.ts'
import { printPage } from '../../lib/cli/print.ts'
import { open, pages } from '../../lib/cli/scripts.ts'
import { root } from '../../lib/ground/root.ts'
import { secretStore } from '../../lib/ground/secret.ts'
import { loadConfig } from '../../lib/site/config.ts'
import { without } from '../programs.ts'

const env = { FK_STATE_DIR: '/nonexistent', FK_AGE_IDENTITY: '/nonexistent' }
const config = loadConfig({ env, site: 'fortress-pi' })
const store = secretStore({ dir: '/nonexistent', identity: '/nonexistent' })
const page = open(pages().find(({ file }) => file.includes('00-host-harden'))!)
const printed = printPage(page, (one) => contextOf(config, declaredFacts(one, config), store), config)

/** The lines that change the kernel's line, for a file elsewhere. */
const [lines = ''] =
  /^.*\n *line=\$\(grep[^]*?cmdline\.new \/boot\/firmware\/cmdline\.txt$/m.exec(printed) ?? []
const dir = mkdtempSync(join(tmpdir(), 'fk-pi-'))
after(() => rmSync(dir, { recursive: true, force: true }))

function changed(before: string): { code: number | null; said: string; text: string } {
  const file = join(dir, 'cmdline.txt')
  writeFileSync(file, before)
  const program = `record_before() { :; }\n${lines.replaceAll('/boot/firmware', dir)}\n`
  const { status, stderr } = spawnSync('bash', ['--norc', '-euo', 'pipefail', '-c', program], {
    encoding: 'utf8',
  })
  return { code: status, said: stderr.trim(), text: readFileSync(file, 'utf8') }
}

const shipped = 'console=tty1 root=PARTUUID=0a1b-02 rootfstype=ext4 rootwait cgroup_disable=memory'

describe('the line of the kernel of a Raspberry Pi', () => {
  test('switches on that memory of groups is counted, without which k3s does not start', () => {
    const { code, text } = changed(`${shipped}\n`)
    assert.equal(code, 0)
    assert.ok(text.startsWith(shipped), text)
    assert.match(text, / cgroup_enable=memory( |\n)/)
    assert.equal(text.split('\n').length, 2)
  })

  test('is the first that says something, whether or not one that is empty stands before it', () => {
    for (const before of [`\n${shipped}\n`, `  \n\n${shipped}`, `${shipped}\r\n`.replace('\r', '')])
      assert.match(changed(before).text, /^console=tty1 root=/)
  })

  test('is left as it is where it names no root: with it the Pi would not start', () => {
    for (const before of ['\n', '', 'console=tty1 quiet\n', '\nconsole=tty1\n']) {
      const { code, text } = changed(before)
      assert.notEqual(code, 0, before)
      assert.equal(text, before)
    }
    assert.match(changed('console=tty1\n').said, /has no root=/)
  })
})

test(
  'updates of its kernel and firmware come by themselves, as those of Debian',
  { skip: without('apt-config') },
  () => {
    const { stdout } = spawnSync(
      'apt-config',
      ['-c', join(root, 'config/host/apt.conf'), 'dump', 'Unattended-Upgrade'],
      {
        encoding: 'utf8',
      },
    )
    assert.match(stdout, /Origins-Pattern:: "site=archive\.raspberrypi\.com"/)
  },
)
