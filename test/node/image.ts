// Images for containerd, made here of files and directory trees: an archive as `ctr images import` reads it. No registry takes
// part, and the same content makes the same bytes.
import { execFile } from 'node:child_process'
import { createHash } from 'node:crypto'
import {
  chmodSync,
  copyFileSync,
  createReadStream,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { dirname, join } from 'node:path'
import { pipeline } from 'node:stream/promises'
import { promisify } from 'node:util'
import { prune, use } from '../../lib/lab/image.ts'
import { labDir } from '../../lib/lab/lab.ts'

const run = promisify(execFile)

/** What stands at a path of a layer. Modes are 755 for what is copied from `from` and for directories, 644 for text. */
export type Entry = ({ from: string } | { text: string } | { link: string } | { directory: true }) & {
  mode?: number
}

/** Files by their paths, or a directory as it is with all owners and modes; `key` says what is in it. */
export type Layer = { files: Record<string, Entry> } | { tree: string; key: string }

export interface Image {
  /** NAME:TAG, as pods name it. NAME@sha256:… names it where a chart pins the digest of its makers' image. */
  names: string[]
  layers: Layer[]
  /** What a container is by default. */
  config: {
    User?: string
    Env?: string[]
    Entrypoint?: string[]
    Cmd?: string[]
    WorkingDir?: string
  }
}

/** The path of an archive of this image, made when there is none of this content. Needs root for trees of several owners. */
export async function imageArchive(image: Image): Promise<string> {
  const all = join(labDir(), 'images')
  const slug = image.names[0]!.replaceAll(/[^a-z0-9.]+/g, '-')
  const archive = join(all, `${slug}-${contentOf(image)}.tar`)
  if (existsSync(archive)) return use(archive)
  mkdirSync(all, { recursive: true })
  const dir = mkdtempSync(join(all, `${slug}-`))
  try {
    renameSync(await written(image, dir), archive)
  } finally {
    rmSync(dir, { recursive: true, force: true })
  }
  await prune(archive, {})
  return archive
}

/** 16 hexadecimal digits for all that goes into an image. */
function contentOf(image: Image): string {
  const hash = createHash('sha256').update(JSON.stringify(image))
  for (const layer of image.layers)
    if ('files' in layer)
      for (const entry of Object.values(layer.files))
        if ('from' in entry) hash.update(readFileSync(entry.from))
  return hash.digest('hex').slice(0, 16)
}

/** Writes the archive below `dir`: an OCI layout, its layers not compressed. */
async function written(image: Image, dir: string): Promise<string> {
  const layout = join(dir, 'layout')
  const blobs = join(layout, 'blobs/sha256')
  mkdirSync(blobs, { recursive: true })
  const layers = []
  for (const [i, layer] of image.layers.entries()) {
    const tree = 'tree' in layer ? layer.tree : join(dir, String(i))
    if ('files' in layer) stage(layer.files, tree)
    const file = join(dir, `${i}.tar`)
    // What was staged here belongs to whoever runs this, and to root in the image.
    const owner = 'files' in layer ? ['--owner=0', '--group=0'] : []
    await tar(file, tree, ...owner)
    layers.push(await keep(blobs, 'layer.v1.tar', file))
  }
  const history = layers.map(() => ({ created_by: 'fortress-kit' }))
  const rootfs = { type: 'layers', diff_ids: layers.map((layer) => layer.digest) }
  const config = { architecture: 'amd64', os: 'linux', config: image.config, rootfs, history }
  const text = async (kind: string, value: unknown) => {
    const file = join(dir, 'part.json')
    writeFileSync(file, JSON.stringify(value))
    return keep(blobs, kind, file)
  }
  const head = { schemaVersion: 2, mediaType: 'application/vnd.oci.image.manifest.v1+json' }
  const manifest = await text('manifest.v1+json', {
    ...head,
    config: await text('config.v1+json', config),
    layers,
  })
  const named = image.names.map((name) => ({
    ...manifest,
    annotations: { 'io.containerd.image.name': name },
  }))
  writeFileSync(join(layout, 'index.json'), JSON.stringify({ schemaVersion: 2, manifests: named }))
  writeFileSync(join(layout, 'oci-layout'), JSON.stringify({ imageLayoutVersion: '1.0.0' }))
  const archive = join(dir, 'image.tar')
  await tar(archive, layout)
  return archive
}

/** Takes a file into the blobs under its digest. Returns how a manifest names it. */
async function keep(blobs: string, kind: string, file: string) {
  const hash = createHash('sha256')
  await pipeline(createReadStream(file), hash)
  const digest = hash.digest('hex')
  const { size } = statSync(file)
  renameSync(file, join(blobs, digest))
  return { mediaType: `application/vnd.oci.image.${kind}`, digest: `sha256:${digest}`, size }
}

const tar = (file: string, dir: string, ...words: string[]) =>
  run('tar', [
    '--create',
    '--numeric-owner',
    '--sort=name',
    '--mtime=@0',
    ...words,
    `--file=${file}`,
    `--directory=${dir}`,
    '.',
  ])

function stage(files: Record<string, Entry>, dir: string): void {
  mkdirSync(dir)
  for (const [path, entry] of Object.entries(files)) {
    const at = join(dir, path)
    mkdirSync(dirname(at), { recursive: true, mode: 0o755 })
    if ('link' in entry) {
      symlinkSync(entry.link, at)
      continue
    }
    if ('from' in entry) copyFileSync(entry.from, at)
    else if ('text' in entry) writeFileSync(at, entry.text)
    else mkdirSync(at)
    chmodSync(at, entry.mode ?? ('text' in entry ? 0o644 : 0o755))
  }
}
