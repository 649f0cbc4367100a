// The base images that virtual machines are copied from, and talosctl: hides what is pinned, and where a host keeps it.
import { join } from 'node:path'
import { type Artifact, artifactOf } from '../engine/artifact.ts'
import type { Context } from '../engine/page.ts'
import { library } from '../ground/sh.ts'
import type { Guest } from '../site/machines.ts'
import type { Pins } from '../site/model.ts'

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

/** The image of a system for virtual machines of this architecture. Throws a Fault without a pin. */
export function imageOf({ pins }: Pick<Context, 'pins'>, { os, arch }: Pick<Guest, 'os' | 'arch'>): Image {
  const artifact = artifactOf(pins, os, arch)
  const label = `${os[0]?.toUpperCase()}${os.slice(1)} ${pins[os]?.version}`
  const path = join(imageDir, artifact.name.replace(/\.xz$/, ''))
  return os === 'flatcar'
    ? { label, path, format: 'qcow2', artifact, mib: 1536 }
    : { label, path, format: 'raw', artifact, mib: 6144 }
}

/** talosctl of the host: what is fetched, where it is kept, and where it is a program. */
export function talosctlOf(
  pins: Pins,
  { arch }: { arch: string },
): { artifact: Artifact; kept: string; path: string } {
  const artifact = artifactOf(pins, 'talosctl', arch)
  return { artifact, kept: join(imageDir, artifact.name), path: '/usr/local/sbin/talosctl' }
}
