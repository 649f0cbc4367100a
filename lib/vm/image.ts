// The base images that nodes are made from.
import { join } from 'node:path'
import { type Artifact, artifactOf } from '../engine/artifact.ts'
import type { Context } from '../engine/page.ts'
import { library } from '../ground/sh.ts'

/** The functions that the checks and commands about an image share: lib/vm/image.sh, as it stands. */
export const imageShell = library('lib/vm/image.sh')

/** Where base images are kept on a host. */
export const imageDir = '/var/lib/fortress/images'

/** What the node of a host starts from. */
export interface Image {
  /** For a reader: `Flatcar 4757`. */
  label: string
  /** On the host. Read-only: a node gets a copy, never this file. */
  path: string
  format: 'qcow2' | 'raw'
  artifact: Artifact
  /** Room that it needs on the host while it is unpacked, in MiB. */
  mib: number
}

/** The image for `env.FK_NODE_OS` and the architecture of the machine, which is the node's. Throws a Fault without a pin. */
export function imageOf({
  env,
  pins,
  machine,
}: Pick<Context, 'env' | 'pins'> & { machine: { arch: string } }): Image {
  const os = env.FK_NODE_OS
  const artifact = artifactOf(pins, os, machine.arch)
  const label = `${os[0]?.toUpperCase()}${os.slice(1)} ${pins[os]?.version}`
  const path = join(imageDir, artifact.name.replace(/\.xz$/, ''))
  return os === 'flatcar'
    ? { label, path, format: 'qcow2', artifact, mib: 1536 }
    : { label, path, format: 'raw', artifact, mib: 6144 }
}
