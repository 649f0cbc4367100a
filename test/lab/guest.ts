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
  const dir = await disk('guest', ['ignition', 'udhcpc'])
  const tls = { key: readFileSync(join(dir, 'tls.key')), cert: readFileSync(join(dir, 'tls.crt')) }
  return { image: join(dir, 'guest.qcow2'), tls }
}

/** The disk of a machine that does a job and is off again: see job.sh. */
export const jobImage = async (): Promise<string> =>
  join(await disk('job', ['tpm2-tools', 'libtss2-tcti-swtpm0t64', 'swtpm']), 'job.qcow2')

/** Where kernel and initrd of a virtual machine lie that is nothing but a heart: see beat.sh. */
export const beatFiles = (): Promise<string> => disk('beat', hostPackages)

/** The directory that the script of that name fills, of Debian with some packages besides. */
async function disk(name: string, extra: string[]): Promise<string> {
  const script = join(root, `test/lab/${name}.sh`)
  const maker = join(root, 'lib/lab/disk.sh')
  const { tree } = await labImage({ only: 'node', extra })
  const key = createHash('sha256')
    .update([tree, readFileSync(script), readFileSync(maker)].join('\0'))
    .digest('hex')
  const dir = join(labDir(), name, key.slice(0, 16))
  if (existsSync(dir)) return dir
  const part = `${dir}.part`
  rmSync(part, { recursive: true, force: true })
  mkdirSync(part, { recursive: true })
  execFileSync('unshare', ['--mount', 'bash', script, tree, maker, part], { stdio: 'inherit' })
  renameSync(part, dir)
  return dir
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
