// A component as data: what config/components says of it, its values in the order in which helm merges them, and its pins. It
// hides which files there are, and which of the variants a site takes.
import { createHash } from 'node:crypto'
import { existsSync } from 'node:fs'
import { createRequire } from 'node:module'
import { join } from 'node:path'
import { type Artifact, artifactOf } from '../engine/artifact.ts'
import { Fault } from '../ground/fault.ts'
import { read, root } from '../ground/root.ts'
import { type Component, catalogue, whenBuilt } from '../site/catalogue.ts'
import { isNode } from '../site/machines.ts'
import type { Pins, Site } from '../site/model.ts'

/** A component that pages install: everything that its data must say is there. */
export type Built = Component & Required<Pick<Component, (typeof whenBuilt)[number]>>

/** One file of values: its name, and what is in it. */
export interface Values {
  name: string
  text: string
}

/** The variants of values in the order in which helm merges them: what comes later wins. */
export const variants = ['light', 'arm64', 'talos'] as const
export type Variant = (typeof variants)[number]

const load = createRequire(import.meta.url)

/** Whether all is known of a component that a page needs to install it. */
export const isDescribed = (component: Component): component is Built =>
  whenBuilt.every((key) => component[key] !== undefined)

/** The component of this name; throws a Fault where there is none, or no page installs it (`described`: or none could). */
export function componentNamed(name: string, is: 'built' | 'described' = 'built'): Built {
  const found = catalogue().get(name)
  if (found === undefined || !isDescribed(found) || (is === 'built' && !found.built))
    throw new Fault(
      found?.objects
        ? `${name} has no chart`
        : `${name} is ${found === undefined ? 'not in config/components' : 'not built yet'}`,
      {
        next: './task components lists what there is',
      },
    )
  return found
}

/** Which variants a site takes: `light` for single-board computers, the others for what its nodes are. */
export function variantsOf(site: Pick<Site, 'machines'>): Variant[] {
  const nodes = site.machines.filter(isNode)
  const takes: Record<Variant, boolean> = {
    light: nodes.some(({ board }) => board !== 'pc'),
    arm64: nodes.some(({ arch }) => arch === 'arm64'),
    talos: nodes.some(({ os }) => os === 'talos'),
  }
  return variants.filter((variant) => takes[variant])
}

/** A file of a component's directory, from the root of this repository. */
export const fileOf = (name: string, file: string): string => `config/components/${name}/${file}`

/** The files of values of a component: the first for everybody, then those of the variants that it has. */
export function valueFiles(name: string, chosen: readonly Variant[] = variants): string[] {
  const files = ['values.yaml', ...chosen.map((variant) => `values.${variant}.yaml`)]
  return files.map((file) => fileOf(name, file)).filter((file) => existsSync(join(root, file)))
}

/**
 * The values of a release in the order in which helm merges them. `facts` are what only the site knows: the last file, which is
 * made from them; left out where there are none.
 */
export function valuesOf(
  name: string,
  site: Pick<Site, 'machines' | 'name'>,
  facts: Readonly<Record<string, unknown>> = {},
): Values[] {
  const shipped = valueFiles(name, variantsOf(site)).map((file) => ({
    name: file.slice(file.lastIndexOf('/') + 1),
    text: read(file),
  }))
  if (Object.keys(facts).length === 0) return shipped
  const { stringify } = load('yaml') as typeof import('yaml')
  const head = `# What only the site ${site.name} knows; made from its document.\n`
  return [...shipped, { name: 'values.site.yaml', text: head + stringify(facts) }]
}

/** The file that a pin of a component stands for; throws a Fault where no SHA-256 proves it. */
export function proven(pins: Pins, pin: string): Artifact & { sha256: string; version: string } {
  const artifact = artifactOf(pins, pin, 'any')
  const { sha256 } = artifact
  if (sha256 === undefined)
    throw new Fault(`${pin} has no SHA-256 in config/versions.yaml`, {
      said: artifact.unproven ?? 'a chart is proven by its digest before helm sees it',
      next: 'give its SHA-256 there, under any',
    })
  return { ...artifact, sha256, version: pins[pin]?.version ?? '' }
}

/** A digest that changes with every value. */
export function digestOf(values: readonly Values[]): string {
  const hash = createHash('sha256')
  for (const { name, text } of values) hash.update(`${name}\n${text.length}\n${text}`)
  return hash.digest('hex')
}
