// What the cluster refuses to run: that exceptions name rules that there are, and places where they can count.
import type { Problem } from '../../ground/document.ts'
import { policyData } from '../policy.ts'
import { type Document, entries, unknown } from './parts.ts'

/** Faults of the part `policy` of a document. An exception that has ended is none: it counts no more, and status says so. */
export function* policyProblems({ policy }: Document): Generator<Problem> {
  const exceptions = entries(['policy', 'exceptions'], policy?.exceptions)
  if (exceptions.length === 0) return
  const known = policyData().rules.map(({ id }) => id)
  for (const [at, { namespace, rules }] of exceptions) {
    for (const [path, rule] of entries([...at, 'rules'], rules))
      yield* unknown(path, rule, known, `is no rule; the rules are ${known.join(', ')}`)
    if (namespace === 'default')
      yield {
        path: [...at, 'namespace'],
        reason: 'is where the page proves that each rule works: run it in a namespace of its own',
      }
  }
}
