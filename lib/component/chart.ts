// A chart on the laptop, as an archive or a directory: the values that it knows, and what it would run. It hides helm.
import { readFileSync, statSync } from 'node:fs'
import { createRequire } from 'node:module'
import { join } from 'node:path'
import { $, orFault } from '../ground/laptop.ts'
import type { JsonSchema } from '../ground/document.ts'

const load = createRequire(import.meta.url)
const yaml = () => load('yaml') as typeof import('yaml')

/** What a chart says of its own values. */
export interface Chart {
  name: string
  version: string
  /** values.yaml as it is written: optional keys may stand in comments alone. */
  text: string
  /** values.schema.json, where the chart has one. */
  schema?: JsonSchema
  /** The names under which values of charts inside of it stand: what is below is theirs. */
  parts: string[]
}

/** Reads a chart: a directory, or an archive as helm packages it. Rejects with a Fault where it is none. */
export async function readChart(path: string): Promise<Chart> {
  const files = statSync(path).isDirectory() ? fromDirectory(path) : await fromArchive(path)
  const about = yaml().parse(files('Chart.yaml') ?? '') as {
    name: string
    version: string
    dependencies?: { name: string; alias?: string }[]
  }
  const schema = files('values.schema.json')
  return {
    name: about.name,
    version: about.version,
    text: files('values.yaml') ?? '',
    ...(schema === undefined ? {} : { schema: JSON.parse(schema) as JsonSchema }),
    parts: (about.dependencies ?? []).map(({ name, alias }) => alias ?? name),
  }
}

type Files = (name: string) => string | undefined

const fromDirectory =
  (path: string): Files =>
  (name) => {
    try {
      return readFileSync(join(path, name), 'utf8')
    } catch {
      return undefined // not every chart has every file
    }
  }

async function fromArchive(path: string): Promise<Files> {
  const list = await orFault($`tar --list --gzip --file ${path}`, { seconds: 60 })
  const members = list.stdout.split('\n')
  const files = new Map<string, string>()
  for (const name of ['Chart.yaml', 'values.yaml', 'values.schema.json']) {
    // The chart's own, and not those of the charts inside of it.
    const member = members.find((each) => /^[^/]+\/[^/]+$/.test(each) && each.endsWith(`/${name}`))
    if (member === undefined) continue
    const { stdout } = await orFault($`tar --extract --gzip --to-stdout --file ${path} ${member}`, {
      seconds: 60,
    })
    files.set(name, stdout)
  }
  return (name) => files.get(name)
}

/** An object of a manifest, as far as it is looked at. */
export interface Manifest {
  apiVersion: string
  kind: string
  metadata: { name: string; namespace?: string }
  [key: string]: unknown
}

export interface Rendering {
  name: string
  namespace: string
  /** Files of values, in the order in which they are merged. */
  values: string[]
  /** Kinds that the chart would find in the cluster, and the version of Kubernetes. */
  apis?: readonly string[]
  kubernetes: string
}

/** What helm makes of a chart without a cluster. Rejects with a Fault where the chart refuses its values. */
export async function rendered(
  chart: string,
  { name, namespace, values, apis = [], kubernetes }: Rendering,
): Promise<string> {
  const words = [
    ...values.flatMap((file) => ['--values', file]),
    ...apis.flatMap((api) => ['--api-versions', api]),
  ]
  const run = $`helm template ${name} ${chart} --namespace ${namespace} --kube-version ${kubernetes} ${words}`
  return (await orFault(run, { seconds: 120 })).stdout
}

/** The objects of a manifest. */
export const objectsOf = (manifest: string): Manifest[] =>
  yaml()
    .parseAllDocuments(manifest)
    .map((document) => document.toJS() as Manifest | null)
    .filter((object) => object !== null && typeof object === 'object')

/** An image that would run: without a digest it may be another one tomorrow. */
export interface Image {
  image: string
  digest?: string
}

/** A name of an image in the middle of other words, such as an argument of a program: it has a registry, and a tag or digest. */
const named =
  /^(?:--?[\w-]+=)?((?:[\w-]+(?:\.[\w-]+)+(?::\d+)?|localhost(?::\d+)?)\/[\w./-]+(?::[\w.-]+)?(?:@sha256:[0-9a-f]{64})?)$/

/** Every image that the objects name: of containers, and in arguments by which a program starts further ones. */
export function imagesOf(objects: readonly Manifest[]): Image[] {
  const found = new Set<string>()
  const walk = (value: unknown, key: string): void => {
    if (Array.isArray(value)) for (const each of value) walk(each, key)
    else if (typeof value === 'object' && value !== null)
      for (const [name, each] of Object.entries(value)) walk(each, name)
    else if (typeof value === 'string' && ['image', 'args', 'command', 'value'].includes(key)) {
      const image = key === 'image' ? value : named.exec(value)?.[1]
      if (image !== undefined && (key === 'image' || /[:@][^/]+$/.test(image))) found.add(image)
    }
  }
  for (const object of objects) if (object.kind !== 'CustomResourceDefinition') walk(object, '')
  return [...found].sort().map((text) => {
    const [image = '', digest] = text.split('@')
    return { image, ...(digest === undefined ? {} : { digest }) }
  })
}
