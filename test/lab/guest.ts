// A guest for the tests of virtual machines: Debian with the real Ignition, and the configuration that it is given.
import { execFileSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { existsSync, mkdirSync, readFileSync, renameSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import type { Ignition } from '../../lib/butane.ts'
import { greeting } from '../../lib/domain.ts'
import { hostKeyOf, ignition, type Node } from '../../lib/ignition.ts'
import { labDir, labImage } from '../../lib/lab.ts'
import type { Context } from '../../lib/script.ts'
import { root } from '../machine/kit.ts'

/** Builds the guest's disk when it is not there: half a minute, with root. Gives its path: qcow2, bootable by UEFI. */
export async function guestImage(): Promise<string> {
  const script = join(root, 'test/lab/guest.sh')
  const disk = join(root, 'lib/lab/disk.sh')
  const { tree } = await labImage({ only: 'node', extra: ['ignition'] })
  const key = createHash('sha256')
    .update([tree, readFileSync(script), readFileSync(disk)].join('\0'))
    .digest('hex')
  const dir = join(labDir(), 'guest', key.slice(0, 16))
  const image = join(dir, 'guest.qcow2')
  if (!existsSync(image)) {
    const part = `${dir}.part`
    rmSync(part, { recursive: true, force: true })
    mkdirSync(part, { recursive: true })
    execFileSync('unshare', ['--mount', 'bash', script, tree, disk, part], { stdio: 'inherit' })
    renameSync(part, dir)
  }
  return image
}

/**
 * What Ignition is given: the template of the node, with a stand-in for k3s, because the
 * guest has no way to the internet.
 */
export async function guestIgnition(context: Context, node: Node, adminKey: string): Promise<Ignition> {
  const whole = ignition(context, node, {
    adminKey,
    hostKey: await hostKeyOf(node, context.secrets).resolve(),
    fragments: [greeting],
  })
  const source = `data:,${encodeURIComponent('#!/bin/sh\nexec sleep infinity\n')}`
  const files = (whole.storage?.files ?? []).map((file) =>
    file.path === '/opt/bin/k3s' ? { ...file, contents: { source } } : file,
  )
  return { ...whole, storage: { ...whole.storage, files } }
}

/** What 10-vm-host would install, so that the container that plays the host needs no network. */
export const hostPackages = [
  'libvirt-daemon-system',
  'libvirt-clients',
  'qemu-system-x86',
  'qemu-utils',
  'ovmf',
  'xsltproc',
  'dnsmasq-base',
  'swtpm',
]
