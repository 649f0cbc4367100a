// What containerd knows of images, made ready once: to import Cilium's into every node takes longer than to build its cluster.
import { spawn, spawnSync } from 'node:child_process'
import { copyFileSync, existsSync, mkdirSync, mkdtempSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { basename, join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { $ } from '../../lib/ground/laptop.ts'
import { done } from '../../lib/lab/command.ts'
import { fingerprint, prune, use } from '../../lib/lab/image.ts'
import { builtProgram, labDir } from '../../lib/lab/lab.ts'

/** The directory of a containerd that knows the images of these archives, unpacked; made when there is none. Needs root. */
export async function imageStore(archives: string[]): Promise<string> {
  const all = join(labDir(), 'stores')
  const store = join(all, fingerprint(archives.map((archive) => basename(archive)).toSorted()))
  if (existsSync(store)) return use(store)
  mkdirSync(all, { recursive: true })
  const dir = mkdtempSync(`${store}-`)
  try {
    await fill(dir, archives)
    if (!existsSync(store)) renameSync(join(dir, 'root'), store)
  } finally {
    rmSync(dir, { recursive: true, force: true })
  }
  await prune(store, {})
  return store
}

/** Has a containerd of its own import the archives into `dir`/root, in a mount namespace that ends with it. */
async function fill(dir: string, archives: string[]): Promise<void> {
  const [config, socket] = [join(dir, 'config.toml'), join(dir, 'socket')]
  const runtime = builtProgram('runtime')!
  writeFileSync(
    config,
    `version = 3
root = "${join(dir, 'root')}"
state = "${join(dir, 'state')}"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime"]
[grpc]
  address = "${socket}"
[plugins."io.containerd.internal.v1.opt"]
  path = "${join(dir, 'opt')}"
`,
  )
  const words = ['--mount', '--propagation=private', join(runtime, 'containerd'), '--config', config]
  const daemon = spawn('unshare', words, { stdio: ['ignore', 'ignore', 'pipe'] })
  let log = ''
  daemon.stderr.setEncoding('utf8').on('data', (text: string) => (log += text))
  const ended = new Promise((resolve) => daemon.on('close', resolve))
  const ctr = (...more: string[]) => [join(runtime, 'ctr'), '--address', socket, ...more]
  try {
    const [program = '', ...version] = ctr('version')
    for (let tries = 0; spawnSync(program, version).status !== 0; tries++) {
      if (daemon.exitCode !== null || tries > 300) throw new Error(`containerd does not start: ${log}`)
      await sleep(100)
    }
    for (const archive of archives) {
      const line = ctr('--namespace', 'k8s.io', 'images', 'import', archive)
      await done($`${line}`, { said: () => log, seconds: 600 })
    }
  } finally {
    daemon.kill()
    await ended
  }
}

/**
 * Makes `to` such a directory for one node, beside the store on its disk. What is unpacked is never written to again, so that its
 * files are the same ones; the databases are the node's own.
 */
export async function copyStore(store: string, to: string): Promise<void> {
  await done($`cp --archive --link --no-target-directory ${store} ${to}`)
  // By name: what is unpacked holds links, and what they lead to is not of the store.
  for (const name of ['metadata.v1.bolt/meta.db', 'snapshotter.v1.overlayfs/metadata.db']) {
    const file = `io.containerd.${name}`
    rmSync(join(to, file))
    copyFileSync(join(store, file), join(to, file))
  }
}
