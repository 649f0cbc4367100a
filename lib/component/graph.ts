// Which components a site chooses, what each of them waits for, and in which order they come.
import { Fault } from '../ground/fault.ts'
import { type Catalogue, type Component, catalogue } from '../site/catalogue.ts'
import { isNode } from '../site/machines.ts'
import type { Site } from '../site/model.ts'

/** One component of a site. */
export interface Place {
  name: string
  does: string
  layer: Component['layer']
  /** The slots that it fills here. */
  slots: string[]
  /** Components of this site that must be there before it, and those that it uses once they are there. */
  needs: string[]
  later: string[]
  /** Slots that it needs and that nothing is chosen for. */
  open: string[]
  /** A page installs it. */
  built: boolean
  memory: number | undefined
}

/** What every cluster has, also where its site chooses nothing. */
const always = { network: 'cilium' }

/** Slot → the components that the site chooses for it. */
export function chosenFor({ components, data, machines }: Pick<Site, 'components' | 'data' | 'machines'>) {
  const all = new Map<string, string[]>(
    machines.some(isNode) ? Object.entries(always).map(([slot, name]) => [slot, [name]]) : [],
  )
  const nameOf = (choice: string | { use: string }) => (typeof choice === 'string' ? choice : choice.use)
  for (const [slot, choice] of Object.entries(components)) all.set(slot, [choice].flat().map(nameOf))
  const volumes = data.classes.map(({ use }) => use)
  if (volumes.length > 0) all.set('volumes', [...new Set([...(all.get('volumes') ?? []), ...volumes])])
  return all
}

/**
 * The components of a site in the order in which they come: none before what it needs, else by their names. Throws a Fault for
 * components that need each other in a circle.
 */
export function graphOf(
  site: Pick<Site, 'name' | 'components' | 'data' | 'machines'>,
  known: Catalogue = catalogue(),
): Place[] {
  const chosen = chosenFor(site)
  const filled = (slots: readonly string[] = []) => [
    ...new Set(slots.flatMap((slot) => chosen.get(slot) ?? [])),
  ]
  const first = chosen.get('network') ?? []
  const places = new Map<string, Place>()
  for (const name of [...new Set([...chosen.values()].flat())].sort()) {
    const component = known.get(name)
    if (component === undefined) continue
    const { does, layer, built, memory, needs, later } = component
    places.set(name, {
      name,
      does,
      layer,
      built,
      memory,
      slots: [...chosen].flatMap(([slot, names]) => (names.includes(name) ? slot : [])),
      // A component may fill a slot that it needs: then it waits for nobody.
      needs: filled(needs).filter((each) => each !== name),
      later: filled(later).filter((each) => each !== name),
      open: (needs ?? []).filter((slot) => !chosen.has(slot)),
    })
  }
  return ordered(places, first, site.name)
}

/** Pods have no address before the network is there: it comes `first`. */
function ordered(places: ReadonlyMap<string, Place>, first: readonly string[], site: string): Place[] {
  const done = new Set<string>()
  const visit = (name: string, path: string[]): void => {
    const place = places.get(name)
    if (place === undefined || done.has(name)) return
    const from = path.indexOf(name)
    if (from >= 0)
      throw new Fault(`components of ${site} need each other in a circle`, {
        said: [...path.slice(from), name].join(' needs '),
        next: 'choose another one for a slot of these: none of them can be the first',
      })
    for (const need of place.needs) visit(need, [...path, name])
    done.add(name)
  }
  for (const name of [...first, ...places.keys()]) visit(name, [])
  return [...done].map((name) => places.get(name)!)
}
