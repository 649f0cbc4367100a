// The VM's image: a disk made of the tree by disk.sh, and the memory of a machine that has just booted from it.
import fs from 'node:fs'
import path from 'node:path'
import { Fault } from '../ground/fault.ts'
import { $, orFault, which } from '../ground/laptop.ts'
import { done } from './command.ts'
import { fingerprint, prune, treeName, treeOf, use } from './image.ts'
import { keys } from './keys.ts'
import { labRun, sshConfig } from './machine.ts'
import { demand, needRoot } from './packages.ts'
import { type LabOptions, belongToCheckout, entries, kit, labDir, needSpace } from './place.ts'
import { type Start, endVm, firmware, freePort, keepState, qemuWords, startQemu, startTpm } from './qemu.ts'
import { emptyDisks, knownHosts, untilLogin } from './vm.ts'

/** The last commands before the snapshot: the guest has settled, GRUB's menu is its own, nothing is cached. */
const settle = `
systemctl is-system-running --wait > /dev/null || true
update-grub
fstrim --all
sync
echo 3 > /proc/sys/vm/drop_caches
`

/** The image of the VM, built when there is none of these ingredients. Returns its directory. */
export async function vmOf(options: LabOptions): Promise<string> {
  const lab = labDir(options.dir)
  if (lab.includes(','))
    throw new Fault(`the lab’s directory has a comma in its name: ${lab}`, {
      next: 'name another in FK_LAB_DIR',
    })
  const diskScript = path.join(kit, 'lib/lab/disk.sh')
  const identity = (file: string) => {
    const found = fs.statSync(which(file) ?? '/', { throwIfNoEntry: false })
    return `${file} ${found?.size} ${found?.mtimeMs}`
  }
  const disk: Start['disk'] = { file: '', format: 'raw' }
  const words = qemuWords({
    dir: '',
    disk,
    ram: '',
    port: 0,
    wireguardPort: 0,
    outside: undefined,
    incoming: false,
  })
  const tree = treeName(options, await keys(lab))
  const ingredients = [tree.name, fs.readFileSync(diskScript, 'utf8'), words.join(' '), settle]
  ingredients.push(...['qemu-system-x86_64', firmware.code, firmware.vars].map(identity))
  const final = path.join(lab, 'vm', fingerprint(ingredients))
  if (fs.existsSync(final)) return use(final)

  await demand('vm')
  needRoot('building the lab’s image')
  const from = await treeOf(options)
  needSpace(lab, 2)
  fs.mkdirSync(path.dirname(final), { recursive: true })
  return withLock(`${final}.lock`, options.progress, async () => {
    if (fs.existsSync(final)) return final
    const part = `${final}.part`
    await endVm(part)
    fs.rmSync(part, { recursive: true, force: true })
    fs.mkdirSync(part, { recursive: true })
    try {
      options.progress?.('writing the VM’s disk')
      await done($`unshare --mount bash ${diskScript} ${from} ${part}`)
      await snapshot(part, options)
    } catch (error) {
      await endVm(part)
      throw error
    }
    for (const name of fs.readdirSync(part))
      if (!['disk', 'host_keys', 'ram', 'state', 'vars.fd'].includes(name))
        fs.rmSync(path.join(part, name), { recursive: true, force: true })
    fs.renameSync(part, final)
    belongToCheckout(lab, path.dirname(final), final, ...entries(final).map((name) => path.join(final, name)))
    await prune(final, options)
    return final
  })
}

/** Boots the disk in `dir` once, by its real boot chain, and keeps the machine's memory and state. */
async function snapshot(dir: string, options: LabOptions): Promise<void> {
  const began = Date.now()
  const { identityFile, password } = await keys(labDir(options.dir))
  const [port, wireguardPort] = [await freePort('tcp'), await freePort('udp')]
  fs.copyFileSync(firmware.vars, path.join(dir, 'vars.fd'))
  emptyDisks(dir)
  await startTpm(dir)
  options.progress?.('booting it once: UEFI, shim, GRUB, Linux (a minute, emulated)')
  const ram = `memory-backend-file,mem-path=${path.join(dir, 'ram')},share=on`
  const disk = { file: path.join(dir, 'disk'), format: 'raw' } as const
  await startQemu({ dir, disk, ram, port, wireguardPort, outside: undefined, incoming: false })
  fs.writeFileSync(path.join(dir, 'known_hosts'), knownHosts(dir, port))
  const config = sshConfig({ name: 'lab', host: '127.0.0.1', port, identityFile, dir })
  const machine = { name: 'lab', dir, sshConfigFile: config, password }
  await untilLogin(machine, { root: false, command: () => 'true' }, 900)
  options.progress?.(`it answered after ${seconds(began)} s; waiting until it has settled`)
  // The second login loads what a login needs into memory again.
  for (const command of [settle, 'udevadm settle']) {
    const { code, stderr } = await labRun(machine, command, { root: true, fresh: true })
    if (code !== 0) throw new Fault('the lab’s VM did not settle', { said: stderr })
  }
  options.progress?.('keeping its memory')
  await keepState(dir, path.join(dir, 'state'))
  await endVm(dir)
  options.progress?.(`the VM’s snapshot is ready after ${seconds(began)} s`)
}

/** Runs `work` while no other process holds the lock. It is given back by the kernel, however this process ends. */
async function withLock<T>(
  file: string,
  progress: LabOptions['progress'],
  work: () => Promise<T>,
): Promise<T> {
  // Its standard input ends with this process.
  const holder = $({ stdio: ['pipe', 'pipe', 'ignore'] })`flock ${file} sh -c 'echo held; cat'`
  const waiting = setTimeout(() => progress?.('another process is building the same: waiting for it'), 500)
  try {
    const ended = orFault(holder, { install: 'sudo npx task lab setup' })
    await Promise.race([ended, new Promise((held) => holder.stdout.once('data', held))])
    clearTimeout(waiting)
    return await work()
  } finally {
    clearTimeout(waiting)
    holder.child?.stdin?.end()
  }
}

function seconds(since: number): string {
  return ((Date.now() - since) / 1000).toFixed(0)
}
