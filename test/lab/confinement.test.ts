// The machine of a node on a kernel with AppArmor: confined by a profile of its own that knows its files and no others. The host is
// an emulated machine itself, so the node is emulated in an emulation: it is asked about while it starts, and not waited for.
import assert from 'node:assert/strict'
import { closeSync, openSync, readFileSync, statSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import type { Context, Page } from '../../lib/engine/page.ts'
import { runPage } from '../../lib/engine/run.ts'
import { isWait } from '../../lib/engine/step.ts'
import { labDown, labUp } from '../../lib/lab/lab.ts'
import { domainShell, domainsOf, ignitionPath, vmDir } from '../../lib/vm/domain.ts'
import { imageOf } from '../../lib/vm/image.ts'
import hostPage from '../../scripts/10-vm-host.ts'
import ignitionPage from '../../scripts/12-vm-ignition.ts'
import page from '../../scripts/13-vm-provision.ts'
import { type Kit, type Opened, around, open } from '../machine/kit.ts'
import { withVm } from '../site/made.ts'
import { guestImage, hostPackages } from './guest.ts'

const name = 'confinement'
const node = 'fortress-node'

describe('a node under AppArmor', () => {
  let kit: Kit
  let opened: Opened
  let context: Context
  let uuid: string

  before(async () => {
    const { image } = await guestImage()
    const vm = await labUp(name, { extra: hostPackages })
    kit = around(vm)
    opened = await open(kit)
    const small = { accel: 'tcg', memory: 640, cpus: 1, disk: 7 } as const
    context = { ...opened.context, site: withVm(opened.context.site, small) }
    const [domain] = domainsOf(context)
    uuid = domain!.uuid
    // By way of a disk that the machine has: a file of this size takes minutes over its emulated network.
    const disk = openSync(join(vm.dir, 'vault'), 'r+')
    writeSync(disk, readFileSync(image))
    closeSync(disk)
    const base = imageOf(context, domain!.node).path
    await root(
      `mkdir -p ${join(base, '..')} && head --bytes=${statSync(image).size} /dev/disk/by-id/virtio-fk-vault > ${base} && qemu-img check -q ${base}`,
    )
  })
  after(async () => {
    await opened?.machine.close()
    await labDown(name)
  })

  async function root(command: string): Promise<string> {
    const { code, stdout, stderr } = await kit.root(
      `export FK_TMP=$(mktemp -d)\n${domainShell}\n${page.prepare?.text}\nset -euo pipefail\n${command}`,
    )
    assert.equal(code, 0, `${command}\n${stdout}${stderr}`)
    return stdout.trim()
  }

  // The host of this test has 2 GiB of memory and 6 of disk: less than the pages ask for. That the node boots is proven elsewhere.
  const apply = async (of: Page, mode: 'apply' | 'verify' = 'apply') => {
    opened.lines.length = 0
    const steps = of.steps(context).filter((step) => !/memory for/.test(step.name) && !isWait(step))
    const { code, changed } = await runPage(of, steps, mode, opened.running)
    assert.equal(code, 0, opened.lines.join(''))
    return changed
  }

  test('the host confines what it runs', async () => {
    await apply(hostPage)
    assert.equal(await apply(hostPage), 0)
  })

  test('the kernel says how the node is confined, and how much memory it may have', async () => {
    await apply(ignitionPage)
    await apply(page)
    await apply(page, 'verify')
    await root(`virsh suspend ${node}`)
  })

  test('the kernel limits its memory, where that is declared', async () => {
    // Of an emulated machine it is not: here it is said afterwards.
    await root(`virsh memtune ${node} --hard-limit 1703936 --live && vm_limited ${node} 1703936`)
    const { code } = await kit.root(
      `export FK_TMP=$(mktemp -d)\n${domainShell}\n${page.prepare?.text}\nvm_limited ${node} 1703935`,
    )
    assert.equal(code, 1)
  })

  /** What a process in the profile of the machine gets when it reads a file: no program is started, the shell itself reads. */
  const reads = (path: string) =>
    root(
      `bash -c 'printf "changeprofile libvirt-${uuid}" > /proc/self/attr/apparmor/current; { read -r -n 1 _ < ${path}; } 2>&1 && echo read || true'`,
    )

  test('from inside its profile it can read its Ignition and its disk', async () => {
    assert.equal(await reads(ignitionPath({ name: node })), 'read')
    assert.equal(await reads(`${vmDir}/${node}.qcow2`), 'read')
  })

  test('from inside its profile it can read no other disk, no other Ignition, and not /etc/shadow', async () => {
    await root(`echo theirs | tee ${vmDir}/other.qcow2 > ${vmDir}/other.ign`)
    for (const path of [
      `${vmDir}/other.qcow2`,
      `${vmDir}/other.ign`,
      '/etc/shadow',
      '/etc/fortress/vm/network.xml',
    ])
      assert.match(await reads(path), /Permission denied/, path)
  })
})
