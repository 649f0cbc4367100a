// A guest for the tests of virtual machines: Debian with the real Ignition, and a laptop's web server that it trusts.
import { execFileSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { existsSync, mkdirSync, readFileSync, renameSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { labDir, labImage } from '../../lib/lab/lab.ts'
import { root } from '../machine/kit.ts'

export interface Guest {
  /** Its disk: qcow2, bootable by UEFI. */
  image: string
  /** What the one web server that it trusts proves itself with; its address is that of this computer on the lab's bridge. */
  tls: { key: Buffer; cert: Buffer }
}

/** Builds the guest's disk when it is not there: half a minute, with root. */
export async function guestImage(): Promise<Guest> {
  const script = join(root, 'test/lab/guest.sh')
  const disk = join(root, 'lib/lab/disk.sh')
  const { tree } = await labImage({ only: 'node', extra: ['ignition', 'udhcpc'] })
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
  return { image, tls: { key: readFileSync(join(dir, 'tls.key')), cert: readFileSync(join(dir, 'tls.crt')) } }
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
