// Killed before and after every step (and on the small page: every command), on both sides, and run again: the same end as if
// nothing had happened.
import assert from 'node:assert/strict'
import { existsSync } from 'node:fs'
import { createRequire } from 'node:module'
import { join } from 'node:path'
import { describe, test } from 'node:test'
import type { Machine } from '../../lib/engine/machine.ts'
import type { Page } from '../../lib/engine/page.ts'
import { runPage } from '../../lib/engine/run.ts'
import { isChange } from '../../lib/engine/step.ts'
import { type Kit, deadly, differences, node, open, root, said } from './kit.ts'

const load = createRequire(import.meta.url)
const files = ['test/fixtures/pages/50-try.ts', 'scripts/00-host-harden.ts'].filter((f) =>
  existsSync(join(root, f)),
)

/** What differs between two machines that went the same way: their own keys, names and passwords. */
const same = (digest: string) =>
  digest
    .split('\n')
    .filter(
      (line) =>
        !/\/etc\/(ssh\/ssh_host|hostname|hosts$|machine-id|shadow|gshadow|resolv|\.updated|aide)|hostname = |domainname = |nf_conntrack|usermodehelper|tcp_mem|udp_mem|unit systemd-(logind|user-sessions)|grub.d\/01_fortress/.test(
          line,
        ),
    )
    .join('\n')

for (const file of files) {
  const page = (load(join(root, file)) as { default: Page }).default
  const net = file.startsWith('scripts/')

  describe(`${page.name}, killed everywhere`, () => {
    let straight: string | undefined
    const reference = async () => {
      if (straight !== undefined) return straight
      const kit = await node(undefined, 'kill-none', { net })
      try {
        const { code, text } = await kit.page(file, 'apply')
        assert.ok(code !== 1, text)
        straight = same(await kit.digest())
      } finally {
        await kit.end()
      }
      return straight
    }

    test('on the machine, before and after every command', async (t) => {
      const kit = await node(t, 'kill-machine', { net })
      const untouched = await kit.digest()
      const { running, context, machine } = await open(kit)
      const steps = page.steps(context)
      let kills = 0
      for (let from = 0, at = 0; at >= 0; from = at + 1) {
        at = -1
        await runPage(page, steps, 'apply', {
          ...running,
          machine: deadly(machine, from, net ? 'steps' : 'commands', (n) => (at = n)),
        })
        if (at >= 0) kills += 1
      }
      t.diagnostic(`${kills} kills`)
      const changes = steps.filter(isChange).length
      assert.ok(kills >= (net ? changes / 2 : 3 * changes), `only ${kills} kills`)
      const last = await runPage(page, steps, 'apply', running)
      assert.ok(last.code !== 1)
      assert.deepEqual(differences(await reference(), same(await kit.digest())), [])
      await runPage(page, steps, 'undo', running)
      await machine.close()
      assert.deepEqual(differences(untouched, await kit.digest()), [])
    })

    if (!net)
      test('behind a door and before its proof: the next run alone reaches the same end', async (t) => {
        const kit = await node(t, 'kill-door', { net })
        const { running, context, machine, lines } = await open(kit)
        const steps = page.steps(context)
        const dying: Machine = {
          ...machine,
          label: machine.label,
          route: machine.route,
          run: async (program, ...rest) => {
            const outcome = await machine.run(program, ...rest)
            if (/^FK_TX=\S+-\S+ /m.test(program.text)) throw new Error('the laptop died')
            return outcome
          },
        }
        await assert.rejects(runPage(page, steps, 'apply', { ...running, machine: dying }), /the laptop died/)
        lines.length = 0
        await runPage(page, steps, 'verify', running)
        assert.match(lines.join(''), /changed a door and has not proven it; it is taken back in \d+ s/)
        const next = await runPage(page, steps, 'apply', running)
        assert.ok(next.code !== 1)
        assert.deepEqual(differences(await reference(), same(await kit.digest())), [])
        await machine.close()
      })

    // The machine may still end what it had begun when its laptop dies, so each step begins on a machine of its own. The host
    // page is too long for that: it is killed wherever a run comes to, again and again.
    test('on the laptop, at every step', async (t) => {
      const all = await open(await node(t, 'kill-laptop', { net }))
      const every = page.steps(all.context).flatMap((step, n) => (isChange(step) ? [n + 1] : []))
      const changes = net ? every.filter((_, i) => i % 6 === 0) : every
      await all.machine.close()
      let kills = 0
      let kit: (Kit & { end(): Promise<void> }) | undefined
      for (const n of changes) {
        if (!net || kit === undefined) kit = await node(t, 'kill-laptop', { net })
        if (await killedAt(kit, file, n, 1)) kills += 1
        if (net && n !== changes.at(-1)) continue
        const last = await kit.page(file, 'apply')
        assert.ok(last.code !== 1, last.text)
        assert.deepEqual(differences(await reference(), same(await kit.digest())), [])
      }
      t.diagnostic(`${kills} kills`)
      assert.ok(kills >= (net ? 1 : changes.length), `only ${kills} kills`)
    })
  })
}

/** Starts a real run and kills it with SIGKILL when it begins the j-th command of step n. */
async function killedAt(kit: Kit, file: string, n: number, j: number): Promise<boolean> {
  const child = kit.start(file, 'apply', '--json')
  let buffer = ''
  let count = 0
  let killed = false
  child.stdout?.on('data', (data: Buffer) => {
    buffer += data.toString()
    for (let end = buffer.indexOf('\n'); end >= 0; end = buffer.indexOf('\n')) {
      const event = JSON.parse(buffer.slice(0, end)) as { event: string; index?: number }
      buffer = buffer.slice(end + 1)
      if (event.event !== 'running' || event.index !== n || ++count !== j) continue
      killed = child.kill('SIGKILL')
    }
  })
  await said(child)
  return killed
}
