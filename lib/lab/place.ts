// Where the lab lies on this computer: its directory, what is read and written there, and whose it is.
import fs from 'node:fs'
import { createRequire } from 'node:module'
import path from 'node:path'
import { Fault } from '../ground/fault.ts'
import { root } from '../ground/root.ts'

/** The checkout. */
export const kit = root

/** Where nodes are recorded: they are of this computer, not of one lab, and do not outlive its boot. */
export const nodesDir = '/run/fk-lab'

export interface LabOptions {
  /** The lab's directory, in place of FK_LAB_DIR. */
  dir?: string
  /** Further Debian packages in the image: another image, cached beside the plain one. */
  extra?: string[]
  /** Given one line at a time: what is going on. */
  progress?: (line: string) => void
  /** Stays up when the calling process ends; otherwise it is removed some time after. */
  keep?: boolean
}

let configured: string | undefined

/** The lab's directory, absolute: `dir`, or what FK_LAB_DIR says. */
export function labDir(dir?: string): string {
  if (dir) return path.resolve(kit, dir)
  // Loaded only where it is needed: a test names its own directory and needs no configuration.
  const { loadConfig } = createRequire(import.meta.url)(
    '../site/config.ts',
  ) as typeof import('../site/config.ts')
  return (configured ??= loadConfig().env.FK_LAB_DIR)
}

/** Throws a Fault unless so many gigabytes are free. */
export function needSpace(dir: string, gigabytes: number): void {
  const { bavail, bsize } = fs.statfsSync(dir)
  const free = (bavail * bsize) / 1e9
  if (free < gigabytes)
    throw new Fault(`the lab needs ${gigabytes} GB in ${dir}, ${free.toFixed(1)} GB are free`, {
      next: 'make room, or name another directory in FK_LAB_DIR',
    })
}

/** Where machines that are up have their directories: the nodes of this computer, and the VMs of this lab. */
export function homes(options: Pick<LabOptions, 'dir'>): [nodes: string, vms: string] {
  return [nodesDir, path.join(labDir(options.dir), 'run')]
}

/** What root builds in a checkout may be used by whoever owns the checkout. */
export function belongToCheckout(...files: string[]): void {
  if (process.getuid?.() !== 0) return
  const { uid, gid } = fs.statSync(kit)
  for (const file of files) fs.lchownSync(file, uid, gid)
}

/** Whether this process may write in a directory. */
export function writable(dir: string): boolean {
  try {
    fs.accessSync(dir, fs.constants.W_OK)
    return true
  } catch {
    return false
  }
}

/** All files below a directory, with their path, in an order that is always the same. */
export function filesBelow(dir: string): string[] {
  const names = fs.readdirSync(dir, { recursive: true, encoding: 'utf8' }).sort()
  return names.map((name) => path.join(dir, name)).filter((file) => fs.statSync(file).isFile())
}

/** A file's text, or nothing when there is none. */
export function readIf(file: string): string {
  try {
    return fs.readFileSync(file, 'utf8')
  } catch (error) {
    if (['ENOENT', 'ESRCH', 'ENOTDIR'].includes((error as NodeJS.ErrnoException).code ?? '')) return ''
    throw error
  }
}

/** The names in a directory, or none when there is none. */
export function entries(dir: string): string[] {
  return fs.existsSync(dir) ? fs.readdirSync(dir) : []
}
