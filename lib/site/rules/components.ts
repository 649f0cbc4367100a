// Components: that each exists, fits its slot, and finds in the site what it needs.
import type { Problem } from '../../ground/document.ts'
import { nearest } from '../../ground/nearest.ts'
import type { Catalogue, Component } from '../catalogue.ts'
import {
  type Chosen,
  type Document,
  chosenBy,
  entries,
  isNode,
  machinesOf,
  machinesAreKnown,
} from './parts.ts'

/** Faults of the components that a document chooses. */
export function* componentProblems(document: Document, catalogue: Catalogue): Generator<Problem> {
  const slots = [...new Set([...catalogue.values()].flatMap((component) => component.slots))].sort()
  for (const slot of Object.keys(document.components ?? {}))
    if (!slots.includes(slot))
      yield {
        path: ['components', slot],
        atKey: true,
        reason: `is no slot; the slots are ${slots.join(', ')}`,
        suggestion: nearest(slot, slots),
      }
  // A slot that is misspelt may be the one that another component needs.
  const slotsAreKnown = Object.keys(document.components ?? {}).every((slot) => slots.includes(slot))
  for (const chosen of chosenBy(document)) {
    const component = catalogue.get(chosen.use)
    if (!slots.includes(chosen.slot)) continue
    if (component === undefined || component.end !== undefined || !component.slots.includes(chosen.slot))
      yield choiceProblem(chosen, component, catalogue)
    else {
      yield* needProblems(document, chosen, component, slotsAreKnown)
      yield* keepProblems(document, chosen, component)
      yield* bootstrapProblems(document, chosen, component, catalogue)
      yield* replicaProblems(document, chosen, component)
    }
  }
}

/** Why a component cannot be chosen for its slot. */
function choiceProblem(
  { path, slot, use }: Chosen,
  component: Component | undefined,
  catalogue: Catalogue,
): Problem {
  const fitting = [...catalogue.values()].flatMap(({ end, name, slots }) =>
    end === undefined && slots.includes(slot) ? name : [],
  )
  if (component === undefined)
    return {
      path,
      reason: `is not in config/components; for ${slot} there is ${fitting.join(', ')}`,
      suggestion: nearest(use, fitting) ?? nearest(use, catalogue.keys()),
    }
  if (component.end !== undefined) {
    const { since, use: instead, why } = component.end
    return { path, reason: `is at its end since ${since}: ${why}`, suggestion: instead }
  }
  return { path, reason: `does not do the work of ${slot}: it is for ${component.slots.join(', ')}` }
}

/** Whether something is chosen for a slot; volumes are chosen by data.classes, too. */
const isFilled = ({ components, data }: Document, slot: string): boolean =>
  slot in (components ?? {}) || (slot === 'volumes' && (data?.classes ?? []).length > 0)

function* needProblems(
  document: Document,
  { given, path, use }: Chosen,
  component: Component,
  slotsAreKnown: boolean,
): Generator<Problem> {
  const { arch, gate, needs = [], param } = component
  if (param !== undefined && !(param in given))
    yield { path, reason: `asks for ${param}: { use: ${use}, ${param}: … }` }
  if (gate !== undefined && document.gates !== undefined && !document.gates.some((one) => one?.id === gate))
    yield { path, reason: `needs what only a person can get, and gates has no ${gate}` }
  for (const slot of slotsAreKnown ? needs : [])
    if (!isFilled(document, slot)) yield { path, reason: `needs ${slot}, and nothing is chosen for it` }
  const nodes = machinesOf(document).flatMap(([, machine]) => (isNode(machine) ? machine : []))
  if (arch !== undefined && nodes.length > 0 && nodes.every((node) => node.arch && !arch.includes(node.arch)))
    yield { path, reason: `has images for ${arch.join(', ')} only, and no node is that` }
}

function* keepProblems({ data }: Document, { path }: Chosen, { keeps }: Component): Generator<Problem> {
  if (keeps === undefined || data?.keep === undefined || keeps in (data.not ?? {})) return
  if (!data.keep.some((row) => row?.what === keeps))
    yield {
      path,
      reason: `keeps ${keeps}, and data.keep has no row for it; data.not says why where it may be lost`,
    }
}

/** A component that waits for a secret of a vault, which itself waits for the component. */
function* bootstrapProblems(
  document: Document,
  { given, path, slot }: Chosen,
  { secret }: Component,
  catalogue: Catalogue,
): Generator<Problem> {
  if (secret === undefined || 'bootstrap' in given || (secret !== 'always' && !(secret in given))) return
  for (const { use } of chosenBy(document).filter((other) => other.slot === 'secrets')) {
    const { later = [], needs = [] } = catalogue.get(use) ?? {}
    if ([...needs, ...later].includes(slot))
      yield {
        path,
        reason: `waits for a secret of ${use}, which waits for ${slot}: give bootstrap, a secret that is sealed in Git`,
      }
  }
}

function* replicaProblems(
  document: Document,
  { given, path }: Chosen,
  component: Component,
): Generator<Problem> {
  const { disk, own_disk } = component
  const replicas = Number(given['replicas'] ?? 1)
  const nodes = machinesOf(document).flatMap(([, machine]) => (isNode(machine) ? machine : []))
  if (!component.slots.includes('volumes') || !machinesAreKnown(document) || nodes.length === 0) return
  const at = [...path.slice(0, -1), 'replicas']
  const are = nodes.length === 1 ? 'there is 1 node' : `there are ${nodes.length} nodes`
  const disks = nodes.filter((node) => entries([], node.disks).some(([, { use }]) => use === disk)).length
  if (replicas > nodes.length)
    yield {
      path: at,
      reason: `is ${replicas}, and ${are}: the volumes would stay degraded`,
      suggestion: `${nodes.length}`,
    }
  else if (disk !== undefined && (own_disk || disks > 0) && replicas > disks)
    yield { path: at, reason: `is ${replicas}, and ${disks} nodes have a disk for ${disk}` }
}
