// The numbered scripts of this kit: which there are, and each as a page.
import { readdirSync, readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { join } from 'node:path'
import type { Page } from '../engine/page.ts'
import { Fault } from '../ground/fault.ts'
import { root } from '../ground/root.ts'

const load = createRequire(import.meta.url)

export interface PageFile {
  number: string
  name: string
  file: string
  summary: string
  /** `L0`; empty where the file names none. */
  layer: string
}

/** What a layer is of, in a word. */
export const layerNames: Readonly<Record<string, string>> = {
  L0: 'host',
  L1: 'node',
  L2: 'cluster',
  L3: 'runtime',
  L4: 'network',
  policy: 'secrets, supply chain',
  L5: 'storage',
  L6: 'observability',
}

/** The numbered scripts, in running order, each with its first comment line. Read as text: nothing of them runs. */
export function pages(dir = root): PageFile[] {
  return filesIn(join(dir, 'scripts')).flatMap((file) => {
    const [, number, name] = /^(\d\d)-(.+)\.ts$/.exec(file) ?? []
    if (number === undefined || name === undefined) return []
    const text = readFileSync(join(dir, 'scripts', file), 'utf8')
    const summary = /^\/\/ ?(.*)$/m.exec(text)?.[1] ?? ''
    const layer = /\blayer: '(\w+)'/.exec(text)?.[1] ?? ''
    return [{ number, name, file: `scripts/${file}`, summary, layer }]
  })
}

function filesIn(dir: string): string[] {
  try {
    return readdirSync(dir).sort()
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return []
    throw error
  }
}

/** A page of this project, by its name. */
export function pageNamed(name: string): Page {
  const file = pages().find((page) => page.name === name)
  if (file === undefined) throw new Fault(`There is no page '${name}' in scripts/`)
  return open(file)
}

export function open({ file }: PageFile): Page {
  let loaded: { default?: Page }
  try {
    loaded = load(join(root, file)) as { default?: Page }
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ERR_REQUIRE_ASYNC_MODULE') throw error
    throw new Fault(`${file} waits while it loads (a top-level await)`, {
      next: 'move the await into a command of a step',
    })
  }
  if (loaded.default === undefined)
    throw new Fault(`${file} has no page`, { next: 'export default script(import.meta, …)' })
  return loaded.default
}
