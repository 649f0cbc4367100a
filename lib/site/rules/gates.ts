// People and what only they can do: who applies pages, gates and the secrets that they give, recovery, and what is accepted.
import type { Path, Problem } from '../../ground/document.ts'
import { nearest } from '../../ground/nearest.ts'
import {
  type Claim,
  type Document,
  chosenBy,
  entries,
  many,
  present,
  machinesAreKnown,
  machinesOf,
  repeated,
  seconds,
  unknown,
} from './parts.ts'

/** Faults of the parts `people`, `gates`, `recovery` and `accepted` of a document; `today` is such as 2026-11-30. */
export function* gateProblems(document: Document, today: string): Generator<Problem> {
  const people = entries(['people'], document.people)
  yield* repeated(people.map(([at, { name }]): Claim => [[...at, 'name'], name]))
  const known = document.people?.every((person) => person?.roles && !person.roles.includes(undefined))
  if (known && !people.some(([, { roles }]) => roles?.includes('owner')))
    yield { path: ['people'], reason: 'has no owner: nobody could apply a page' }
  const groups = Object.keys(document.gitops?.groups ?? {})
  for (const [at, person] of people)
    for (const [path, group] of entries([...at, 'groups'], person.groups))
      if (document.gitops?.groups !== undefined) yield* unknown(path, group, groups, 'is no group of gitops')
  const names = people.map(([, { name }]) => name)
  for (const [at, { person }] of entries(['devices'], document.devices))
    if (known) yield* unknown([...at, 'person'], person, names, 'is nobody of people')
  yield* proofProblems(document)
  yield* secretProblems(document)
  yield* recoveryProblems(document)
  const machines = machinesOf(document).map(([, { name }]) => name)
  for (const [at, { until, what = '' }] of entries(['accepted'], document.accepted)) {
    const [, machine] = /^cut:([^:]*)/.exec(what) ?? []
    if (machinesAreKnown(document) && machine !== undefined && !machines.includes(machine))
      yield {
        path: [...at, 'what'],
        reason: `names ${machine}, which is no machine of this site: cut:MACHINE:WORD`,
        suggestion: nearest(machine, present(machines)),
      }
    yield* controlProblem([...at, 'what'], what, machinesAreKnown(document) ? present(machines) : undefined)
    if (until !== undefined && until < today)
      yield { path: [...at, 'until'], reason: 'is over: decide again' }
  }
}

/** What only a person can change, in the firmware or when the system is installed: a site may live without it until a day. */
export const decidedByPeople = ['A01', 'A27', 'E16', 'F02']

/** A control that a site lives without: `machines` are the names of its machines, where they are known. */
function* controlProblem(path: Path, what: string, machines: string[] | undefined): Generator<Problem> {
  const [kind, machine = '', id = ''] = what.split(':')
  if (kind !== 'control') return
  const full = (name: string | undefined, control: string | undefined) =>
    name && control && `control:${name}:${control}`
  if (machines !== undefined && !machines.includes(machine))
    yield {
      path,
      reason: `names ${machine}, which is no machine of this site: control:MACHINE:ID`,
      suggestion: full(nearest(machine, machines), id),
    }
  if (!decidedByPeople.includes(id))
    yield {
      path,
      reason: `names ${id || 'no control'}; only what a person decides can be accepted: ${decidedByPeople.join(', ')}`,
      suggestion: full(machine, nearest(id, decidedByPeople)),
    }
}

const proofs = ['setting', 'secret', 'typed', 'reach', 'leases', 'resolves', 'event']

function* proofProblems(document: Document): Generator<Problem> {
  const gates = entries(['gates'], document.gates)
  yield* repeated(gates.map(([at, { id }]): Claim => [[...at, 'id'], id]))
  for (const [at, gate] of gates) {
    const kinds = Object.keys(gate.proof ?? {})
    const path = [...at, 'proof']
    if (gate.proof !== undefined && kinds.length === 0)
      yield { path, reason: 'is empty: how would anybody see that it was done' }
    for (const kind of kinds)
      if (!proofs.includes(kind))
        yield {
          path: [...path, kind],
          atKey: true,
          reason: `is no proof; known are ${proofs.join(', ')}`,
          suggestion: nearest(kind, proofs),
        }
    if (['paper', 'ceremony'].includes(gate.kind ?? '') && !('again' in gate))
      yield { path: [...at, 'again'], reason: `is missing: when is ${gate.id} looked at again` }
  }
}

/** Every secret that a document names is given by a gate. */
function* secretProblems(document: Document): Generator<Problem> {
  const { cluster, data, gates, tunnel } = document
  if (gates === undefined || gates.includes(undefined)) return
  const given = present(gates.map((gate) => gate?.gives))
  const asked: [Path, unknown][] = [
    [['cluster', 'oidc', 'client'], cluster?.oidc?.client],
    [['tunnel', 'key'], tunnel?.key],
    ...entries(['data', 'targets'], data?.targets).map(([at, { key }]): [Path, unknown] => [
      [...at, 'key'],
      key,
    ]),
    ...chosenBy(document).map(({ given: { bootstrap }, path }): [Path, unknown] => [
      [...path.slice(0, -1), 'bootstrap'],
      bootstrap,
    ]),
  ]
  for (const [path, secret] of asked)
    if (typeof secret === 'string' && !given.includes(secret))
      yield { path, reason: `is ${secret}, and no gate gives it`, suggestion: nearest(secret, given) }
}

function* recoveryProblems(document: Document): Generator<Problem> {
  const { data, gates } = document
  const rows = (data?.keep ?? []).flatMap((row) => row ?? [])
  const things = present(['laptop', ...(gates ?? []).flatMap((gate) => [gate?.id, gate?.gives])])
  for (const [at, { needs, rto, steps }] of entries(['recovery'], document.recovery)) {
    for (const [path, need] of entries([...at, 'needs'], needs))
      if (gates !== undefined && !gates.includes(undefined) && !things.includes(need))
        yield { path, reason: 'is nothing that a gate gives', suggestion: nearest(need, things) }
    if (data?.keep === undefined || data.keep.includes(undefined)) continue
    let longest = 0
    for (const [path, step] of entries([...at, 'steps'], steps)) {
      if (!step.startsWith('restore ')) continue
      const what = step.slice('restore '.length)
      const times = many(rows.filter((row) => row.what === what).map((row) => seconds(row.rto)))
      if (!rows.some((row) => row.what === what))
        yield {
          path,
          reason: 'restores what data.keep does not keep',
          suggestion: nearest(step, present(rows.map((row) => row.what && `restore ${row.what}`))),
        }
      else longest = Math.max(longest, Math.min(...times))
    }
    if (longest > (seconds(rto) ?? Infinity))
      yield {
        path: [...at, 'rto'],
        reason: `is ${rto}, and one of its restores alone may take ${longest / 3600} h`,
      }
  }
}
