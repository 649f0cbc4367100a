// What no schema can say: how the parts of a site fit together. The rules of each part are in a file of its own.
import type { Partially, Problem } from '../ground/document.ts'
import type { Catalogue } from './catalogue.ts'
import { complete } from './defaults.ts'
import type { SiteDocument } from './model.ts'
import { addressProblems } from './rules/addresses.ts'
import { clusterProblems } from './rules/cluster.ts'
import { componentProblems } from './rules/components.ts'
import { dataProblems } from './rules/data.ts'
import { exposureProblems } from './rules/exposure.ts'
import { gateProblems } from './rules/gates.ts'
import { gitopsProblems } from './rules/gitops.ts'
import { machineProblems } from './rules/machines.ts'
import type { Document } from './rules/parts.ts'
import { policyProblems } from './rules/policy.ts'
import { routerProblems } from './rules/router.ts'
import { tunnelProblems } from './rules/tunnel.ts'

export { pinProblems } from './rules/pins.ts'

/**
 * What no schema can say of a site document. `file` is the name of its file, `today` the date (2026-11-30) on which what is
 * accepted for a time is looked at. A rule is silent about parts that are missing because they are wrong.
 */
export function* siteProblems(
  document: Partially<SiteDocument>,
  file: string,
  catalogue: Catalogue,
  today: string = new Date().toISOString().slice(0, 10),
): Generator<Problem> {
  if (document.name !== undefined && document.name !== file)
    yield { path: ['name'], reason: 'must be the name of its file', suggestion: file }
  yield* machineProblems(document)
  yield* componentProblems(document, catalogue)
  yield* gitopsProblems(document, catalogue)
  yield* dataProblems(document, catalogue)
  yield* gateProblems(document, today)
  yield* policyProblems(document)
  const whole = isWhole(document) ? complete(document as SiteDocument) : undefined
  // What is left out may be wrong where the document is not whole.
  const site: Document = whole ? { ...whole, gates: document.gates, recovery: document.recovery } : document
  const found = [addressProblems, clusterProblems, tunnelProblems].flatMap((rules) => [...rules(site)])
  yield* found
  yield* routerProblems(site, found.length === 0 ? whole : undefined)
  // A gateway that the document does not list is nobody's fault.
  for (const problem of exposureProblems(site)) if (`${problem.path[0]}` in document) yield problem
}

/** Whether no part was taken out of a document because it is wrong, and every machine has what defaults follow from. */
function isWhole(document: Document): boolean {
  const hole = (value: unknown): boolean =>
    value === undefined || (typeof value === 'object' && value !== null && Object.values(value).some(hole))
  const keys = ['name', 'roles', 'os', 'arch'] as const
  const machines = document.machines ?? []
  return (
    machines.length > 0 &&
    document.cluster !== undefined &&
    !hole(document) &&
    machines.every((machine) => keys.every((key) => machine && key in machine)) &&
    machines.every((machine) => !machine?.vm || 'host' in machine.vm) &&
    [...(document.router?.allow ?? []), ...(document.router?.never ?? [])].every(
      (one) => one?.from && one.to,
    ) &&
    (document.networks ?? []).every((one) => one?.network && one.name && (!one.bridge || one.bridge.at))
  )
}
