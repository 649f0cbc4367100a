// The lab's image: a plain Debian 13 as a directory tree, built by tree.sh. Nodes run from it; the VM's disk is made of it.
//
// Images bear the hash of all that went into them, and go away when nobody has used them for a day.
import { createHash } from 'node:crypto'
import fs from 'node:fs'
import path from 'node:path'
import { $ } from '../ground/laptop.ts'
import { done } from './command.ts'
import { type Keys, keys } from './keys.ts'
import { demand, mirrors, needRoot } from './packages.ts'
import { type LabOptions, entries, filesBelow, homes, kit, labDir, needSpace, readIf } from './place.ts'
import { endVm } from './qemu.ts'

interface Ingredients {
  name: string
  sources: string
  extra: string
}

/** Where a Debian 13 that is made here has its packages from, in apt's own words. */
export function aptSources(): string {
  const { debian, security } = mirrors()
  const signed = 'Components: main\nSigned-By: /usr/share/keyrings/debian-archive-keyring.gpg'
  return [
    `Types: deb\nURIs: ${debian}\nSuites: trixie trixie-updates\n${signed}`,
    `Types: deb\nURIs: ${security}\nSuites: trixie-security\n${signed}`,
  ].join('\n\n')
}

/** All that goes into a tree, and its name: a hash of that. */
export function treeName(options: LabOptions, { identityFile, passwordFile }: Keys): Ingredients {
  const sources = aptSources()
  const extra = [...new Set(options.extra ?? [])].sort().join(',')
  const files = [treeScript, ...filesBelow(path.join(kit, 'config/lab')), `${identityFile}.pub`, passwordFile]
  const texts = files.map((file) => `${path.basename(file)}\0${fs.readFileSync(file, 'utf8')}`)
  return { name: fingerprint([...texts, sources, extra]), sources, extra }
}

const treeScript = path.join(kit, 'lib/lab/tree.sh')

/** The tree of a plain Debian 13, built when there is none of these ingredients. Returns its directory. */
export async function treeOf(options: LabOptions): Promise<string> {
  const lab = labDir(options.dir)
  const made = await keys(lab)
  const { name, sources, extra } = treeName(options, made)
  const tree = path.join(lab, 'tree', name)
  if (fs.existsSync(tree)) return use(tree)

  await demand('node')
  needRoot('building the lab’s image')
  needSpace(lab, 1.5)
  fs.mkdirSync(path.dirname(tree), { recursive: true })
  const log = `${tree}.log`
  // flock: the lock is held by the build itself, so that a second caller waits even for an orphaned one, then finds it done.
  const env = {
    LAB_CONFIG: path.join(kit, 'config/lab'),
    LAB_SOURCES: sources,
    LAB_KEYS: path.dirname(made.identityFile),
    LAB_EXTRA: extra,
    DEBIAN_FRONTEND: 'noninteractive',
    LC_ALL: 'C.UTF-8',
  }
  const output = fs.openSync(log, 'w')
  const build = $({
    env,
    stdio: ['ignore', 'pipe', output],
  })`flock ${tree}.lock unshare --mount --pid --fork --kill-child bash ${treeScript} ${tree}`
  fs.closeSync(output)
  await done(build, { onLine: options.progress, said: () => readIf(log), seconds: 1800 })
  fs.rmSync(log, { force: true })
  await prune(tree, options)
  return tree
}

/** Notes that an image is in use now, by `dir` when that is given. */
export function use(image: string, dir?: string): string {
  const now = new Date()
  try {
    fs.utimesSync(image, now, now)
  } catch (error) {
    // Of another user: then its owner keeps count.
    if ((error as NodeJS.ErrnoException).code !== 'EPERM') throw error
  }
  if (dir) fs.writeFileSync(path.join(dir, 'image'), image)
  return image
}

/** Removes the images beside `image` that nobody has used for a day and no machine stands on. */
export async function prune(image: string, options: LabOptions): Promise<void> {
  const dirs = homes(options).flatMap((parent) => entries(parent).map((name) => path.join(parent, name)))
  const used = new Set([image, ...dirs.map((dir) => readIf(path.join(dir, 'image')))])
  for (const name of entries(path.dirname(image))) {
    const other = path.join(path.dirname(image), name)
    if (used.has(other) || Date.now() - fs.statSync(other).mtimeMs < 86_400_000) continue
    if (name.endsWith('.part')) await endVm(other)
    // Renamed first: half a tree must never bear the name of a whole one.
    const doomed = `${other.replace(/\.part$/, '')}.part`
    if (other !== doomed) fs.renameSync(other, doomed)
    fs.rmSync(doomed, { recursive: true, force: true })
  }
}

/** The name of what is made of these ingredients: 16 hexadecimal digits. */
export function fingerprint(ingredients: string[]): string {
  return createHash('sha256').update(ingredients.join('\0\0')).digest('hex').slice(0, 16)
}
