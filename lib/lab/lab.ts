// The lab: throw-away Debian 13 machines, a VM restored from a memory snapshot and nodes that start in half a second.
//
// Whatever is started here is recorded with its owner, a process: what a killed owner left behind goes away with the next
// `up`. Nodes are containers of this computer (lib/lab/node.sh) and are recorded under /run; the VM and everything that is
// built lies in the lab's directory: FK_LAB_DIR, or .cache/lab of the checkout. How each of them works stands in lib/lab/.
import fs from 'node:fs'
import path from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { Fault } from '../ground/fault.ts'
import { treeOf, use } from './image.ts'
import { type LabMachine, checkName, claim, hangUp, labRun, ownerOf, record } from './machine.ts'
import { type NodeOptions, endNode, startNode } from './node.ts'
import { demand, needRoot } from './packages.ts'
import { type LabOptions, entries, homes, labDir, nodesDir, readIf, writable } from './place.ts'
import { endVm, monitorCommand, running, tail } from './qemu.ts'
import { vmOf } from './snapshot.ts'
import { type LabUpOptions, type LabVm, boot, removeVm, restore } from './vm.ts'

export { type LabMachine, type LabResult, labRun } from './machine.ts'
export type { NodeOptions } from './node.ts'
export { type LabDeps, builtProgram, labDeps, labInstall } from './packages.ts'
export { type LabOptions, labDir } from './place.ts'
export type { LabUpOptions, LabVm } from './vm.ts'

/**
 * Starts a fresh node: Debian 13 with systemd and sshd in a container, its own network namespace and a copy of the image
 * that lives in memory. `net: true` gives it a way out (apt), `pods` room for containers. Nodes reach each other and are
 * reached from this computer; they share its kernel: no modules, AppArmor, auditd, TPM or kernel.* sysctls. Needs root.
 * An earlier node of that name that this process or a dead one owns is replaced; one of a living process is a Fault.
 */
export async function labNodeUp(name: string, options: LabOptions & NodeOptions = {}): Promise<LabMachine> {
  checkName(name)
  needRoot('a node')
  await demand('node')
  const tree = await treeOf(options)
  await labSweep(options)
  const dir = path.join(nodesDir, name)
  await claim(dir, name, options.keep ?? false, () => endNode(name, dir))
  use(tree, dir)
  try {
    const host = await startNode(name, dir, tree, path.join(labDir(options.dir), 'pods', name), options)
    return await record({ name, kind: 'node', host, port: 22, via: '10.78.0.1', dir }, options)
  } catch (error) {
    await endNode(name, dir).catch(() => undefined)
    throw error
  }
}

/** Ends a node and leaves nothing of it: no process, mount, namespace or interface. Does nothing when there is none. */
export async function labNodeDown(name: string): Promise<void> {
  checkName(name)
  await endNode(name, path.join(nodesDir, name))
}

/**
 * Builds what is not built yet: the tree (half a minute), then for the VM its disk and the memory snapshot (a minute under
 * emulation). Cached by a hash of all that goes in; a build that was killed is never taken for a finished one. Needs root.
 * Returns the directories.
 */
export async function labImage(
  options: LabOptions & { only?: 'node' } = {},
): Promise<{ tree: string; vm?: string }> {
  if (options.only === 'node') {
    await demand('node')
    return { tree: await treeOf(options) }
  }
  const vm = await vmOf(options)
  return { tree: await treeOf(options), vm }
}

/**
 * Starts a fresh VM from the memory snapshot: Debian 13 behind UEFI, shim and GRUB, with a TPM 2.0, and two empty disks whose
 * serial numbers are fk-vault (2 GiB) and fk-spare (512 MiB). Builds the image when there is none (that needs root, this does
 * not). Replaces an earlier VM of that name of this process or of a dead one; one of a living process is a Fault.
 */
export async function labUp(name = 'lab', options: LabUpOptions = {}): Promise<LabVm> {
  checkName(name)
  if (options.outside) needRoot('a namespace outside the VM')
  const image = await vmOf(options)
  await labSweep(options)
  const dir = vmDir(name, options)
  await claim(dir, name, options.keep ?? false, () => removeVm(name, dir))
  use(image, dir)
  try {
    return await restore(name, dir, image, options)
  } catch (error) {
    await removeVm(name, dir).catch(() => undefined)
    throw error
  }
}

/** Starts a VM that is off (labDown with keepDisk) by a cold boot, on its own disks, TPM and firmware variables. */
export async function labBoot(name: string, options: LabUpOptions = {}): Promise<LabVm> {
  const dir = vmDir(name, options)
  if (!fs.existsSync(path.join(dir, 'disk.qcow2')))
    throw new Fault(`there is no VM ${name} to boot`, { next: `npx task lab up, or labUp('${name}')` })
  if (running(dir)) throw new Fault(`the VM ${name} is running`, { next: 'reboot it, or end it first' })
  return boot(name, dir, options)
}

/**
 * Ends a VM and removes it; with `keepDisk` it is shut down in order (or, `hard`, loses its power) and stays for `labBoot`.
 * Does nothing when there is none.
 */
export async function labDown(
  name = 'lab',
  options: Pick<LabOptions, 'dir'> & { keepDisk?: boolean; hard?: boolean } = {},
): Promise<void> {
  const dir = vmDir(name, options)
  if (!fs.existsSync(dir)) return
  if (!options.keepDisk) return removeVm(name, dir)
  await hangUp(dir)
  if (running(dir) && !options.hard) {
    await monitorCommand(dir, 'system_powerdown')
    const deadline = Date.now() + 120_000
    while (running(dir)) {
      if (Date.now() > deadline)
        throw new Fault(`the VM ${name} does not shut down`, { next: 'hard: true takes its power away' })
      await sleep(50)
    }
  }
  await endVm(dir)
  fs.rmSync(path.join(dir, 'machine.json'), { force: true })
}

/** A VM that is off gets a new, empty TPM: what was sealed to the old one is lost. */
export async function labClearTpm(name = 'lab', options: Pick<LabOptions, 'dir'> = {}): Promise<void> {
  const dir = vmDir(name, options)
  if (running(dir)) throw new Fault(`the VM ${name} is running`, { next: 'labDown with keepDisk first' })
  fs.rmSync(path.join(dir, 'tpm'), { recursive: true, force: true })
}

/** The VM that FK_HOST=lab means: the one that is up, or a new one that stays. `say` is given each line of progress. */
export async function labMachine(
  options: LabUpOptions & { say?: (line: string) => void } = {},
): Promise<LabVm> {
  const found = await labFind('lab', options)
  if (found) return found as LabVm
  return labUp('lab', { keep: true, ...(options.say ? { progress: options.say } : {}), ...options })
}

/** Boots a machine anew from inside, or (`hard`) by its reset button, and waits until another boot accepts a login. */
export async function labReboot(
  machine: LabMachine,
  options: { hard?: boolean; seconds?: number } = {},
): Promise<void> {
  const id = async () =>
    (await labRun(machine, 'cat /proc/sys/kernel/random/boot_id', { fresh: true })).stdout
  const before = await id()
  await hangUp(machine.dir)
  if (options.hard) await monitorCommand(machine.dir, 'system_reset')
  else await labRun(machine, 'systemctl reboot', { root: true, fresh: true })
  const deadline = Date.now() + (options.seconds ?? 900) * 1000
  for (;;) {
    const now = await id()
    if (now !== '' && now !== before) return
    if (Date.now() > deadline)
      throw new Fault(`${machine.name} did not come back`, {
        said: tail(path.join(machine.dir, 'console.log')),
      })
    await sleep(machine.kind === 'vm' ? 250 : 50)
  }
}

function vmDir(name: string, options: Pick<LabOptions, 'dir'>): string {
  checkName(name)
  return path.join(homes(options)[1], name)
}

/** The machines of the lab that are up. Reads only. */
export async function labList(options: Pick<LabOptions, 'dir'> = {}): Promise<LabMachine[]> {
  const found = homes(options).flatMap((dir) => entries(dir).map((name) => path.join(dir, name)))
  return found.flatMap((dir) => {
    const text = readIf(path.join(dir, 'machine.json'))
    if (text === '') return []
    const machine = JSON.parse(text) as Omit<LabMachine, 'password'>
    return [
      { ...machine, password: readIf(path.join(path.dirname(machine.identityFile), 'password')).trim() },
    ]
  })
}

/** The machine of that name, when it is up. */
export async function labFind(
  name: string,
  options: Pick<LabOptions, 'dir'> = {},
): Promise<LabMachine | undefined> {
  return (await labList(options)).find((machine) => machine.name === name)
}

/** Removes the machines whose owner has died. Every `up` does so first. */
export async function labSweep(options: Pick<LabOptions, 'dir'> = {}): Promise<void> {
  for (const parent of homes(options))
    for (const name of entries(parent)) {
      const dir = path.join(parent, name)
      // Without root the leftovers of root stay: they are in nobody's way.
      if (ownerOf(dir) !== 'gone' || !writable(dir)) continue
      if (!/^[a-z][a-z0-9-]*$/.test(name)) fs.rmSync(dir, { recursive: true, force: true })
      // A machine without an owner's name is being removed by somebody just now; where that one died, the next claim ends it.
      else if (!fs.existsSync(path.join(dir, 'owner'))) continue
      else if (parent === nodesDir) await endNode(name, dir)
      else await removeVm(name, dir)
    }
}
