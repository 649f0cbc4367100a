// ./task components: what a site chooses, in the order in which it comes; images; the values of each against its chart.
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import {
  type Built,
  componentNamed,
  fileOf,
  isDescribed,
  proven,
  valueFiles,
  variants,
} from '../component/component.ts'
import { type Image, imagesOf, objectsOf, readChart, rendered } from '../component/chart.ts'
import { type Place, graphOf } from '../component/graph.ts'
import { kubernetesOf } from '../component/tools.ts'
import { checkValues } from '../component/values.ts'
import { downloads } from '../engine/delivery.ts'
import { count } from '../engine/report.ts'
import { type Diagnostic, describe } from '../ground/document.ts'
import { Fault } from '../ground/fault.ts'
import { read, root } from '../ground/root.ts'
import { catalogue } from '../site/catalogue.ts'
import type { Call } from './call.ts'
import { type Session, withSession } from './session.ts'
import { components as table } from './tables.ts'

/** Runs an action on components. Resolves to the exit code. */
export const components = (call: Call): Promise<number> =>
  withSession(call, table, async (session) => {
    const { json, words } = session.given
    const [action = 'graph', ...names] = words
    const all =
      names.length > 0
        ? names
        : [...catalogue().values()].flatMap((each) => (isDescribed(each) ? each.name : []))
    if (action === 'check') return await check(session, all, json)
    const answer =
      action === 'images'
        ? Object.fromEntries(
            await Promise.all(all.map(async (name) => [name, await images(session, name)] as const)),
          )
        : graphOf(session.config.site).filter(({ name }) => names.length === 0 || names.includes(name))
    const text = Array.isArray(answer) ? graphText(answer) : imagesText(answer)
    process.stdout.write(json ? `${JSON.stringify(answer)}\n` : text)
    return 0
  })

type Open = Pick<Session, 'config' | 'report' | 'signal'>

/** The chart of a component, proven: from the cache, or fetched. */
async function chartOf({ config, report, signal }: Open, { chart }: Built): Promise<string> {
  const fetch = downloads(config, { signal, onTransfer: (transfer) => report.transfer(transfer) })
  return (await fetch(proven(config.pins, chart))).path
}

/** The images that any variant of a component would run. */
async function images(session: Open, name: string): Promise<Image[]> {
  const component = componentNamed(name, 'described')
  const { namespace, apis = [] } = component
  const chart = await chartOf(session, component)
  const kubernetes = kubernetesOf(session.config.pins)
  const sets = [[], ...variants.map((variant) => [variant])]
    .map((chosen) => valueFiles(name, chosen))
    .filter((files, i) => i === 0 || files.length > 1)
  const manifests = await Promise.all(
    sets.map((files) => {
      const values = files.map((file) => join(root, file))
      return rendered(chart, { name, namespace, values, apis, kubernetes })
    }),
  )
  return imagesOf(manifests.flatMap(objectsOf))
}

/** Every file of values against the chart. Resolves to 1 where a key is no value of it, and prints each fault. */
async function check(session: Open, names: string[], json: boolean): Promise<number> {
  const faults: Diagnostic[] = []
  for (const name of names) {
    const component = componentNamed(name, 'described')
    const chart = await readChart(await chartOf(session, component))
    const files = valueFiles(name)
    if (files.length === 0 || !existsSync(join(root, fileOf(name, 'values.yaml'))))
      throw new Fault(`${name} has no values`, { next: `write ${fileOf(name, 'values.yaml')}` })
    const found = files.flatMap((file) => checkValues(file, read(file), chart, component.removed))
    faults.push(...found)
    if (json) continue
    process.stdout.write(
      found.length === 0
        ? `${name}: ${count(files.length, 'file')} of values, every key is one of ${chart.name} ${chart.version}\n`
        : `${found.map(describe).join('\n')}\n`,
    )
  }
  if (json) process.stdout.write(`${JSON.stringify(faults)}\n`)
  return faults.length === 0 ? 0 : 1
}

function graphText(places: readonly Place[]): string {
  const width = Math.max(0, ...places.map(({ name }) => name.length))
  const line = ({ name, slots, built, needs, later, open, layer, memory }: Place, i: number) => {
    const facts = [
      slots.join(', '),
      built ? `${layer ?? ''}, ${memory ?? 0} MiB` : 'not built',
      ...(needs.length > 0 ? [`after ${needs.join(', ')}`] : []),
      ...(later.length > 0 ? [`uses ${later.join(', ')}`] : []),
      ...(open.length > 0 ? [`nothing is chosen for ${open.join(', ')}`] : []),
    ]
    return `${`${i + 1}`.padStart(3)}  ${name.padEnd(width)}  ${facts.join('; ')}\n`
  }
  return places.length === 0 ? 'This site chooses no components.\n' : places.map(line).join('')
}

function imagesText(all: Readonly<Record<string, readonly Image[]>>): string {
  return Object.entries(all)
    .map(([name, images]) => {
      const lines = images.map(({ image, digest }) => `  ${image}  ${digest ?? 'no digest in the chart'}\n`)
      return `${name}: ${count(images.length, 'image')}\n${lines.join('')}`
    })
    .join('')
}
