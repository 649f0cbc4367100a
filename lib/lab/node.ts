// One node of the lab: a container of this computer, started and ended by node.sh.
import fs from 'node:fs'
import path from 'node:path'
import { $ } from '../ground/laptop.ts'
import { done } from './command.ts'
import { hangUp } from './machine.ts'
import { needRoot } from './packages.ts'
import { kit } from './place.ts'

const nodeScript = path.join(kit, 'lib/lab/node.sh')

export interface NodeOptions {
  /** A way out, for apt. */
  net?: boolean
  /** Room for containers: a path of this computer → where the node sees it, read-only. */
  pods?: Record<string, string>
}

/**
 * Starts a node on a copy of `tree`, with `dir` for what is its own, and `state` on a disk for what its containers are made of.
 * Returns its address once sshd greets there.
 */
export async function startNode(
  name: string,
  dir: string,
  tree: string,
  state: string,
  { net, pods }: NodeOptions,
): Promise<string> {
  const binds = Object.entries(pods ?? {}).map(([from, to]) => `${from}:${to}`)
  const words = [name, dir, tree, ...(net ? ['net'] : []), ...(pods ? ['pods', state, ...binds] : [])]
  const { stdout } = await done($`bash ${nodeScript} up ${words}`, { seconds: 60 })
  return stdout.trim()
}

/** Ends a node and leaves nothing of it. Does nothing when there is none. Needs root. */
export async function endNode(name: string, dir: string): Promise<void> {
  if (!fs.existsSync(dir)) return
  needRoot('ending a node')
  await hangUp(dir)
  await done($`bash ${nodeScript} down ${name} ${dir}`, { seconds: 60 })
}
