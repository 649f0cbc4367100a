// The answers to the CIS controls of one node: results, a score, SARIF.
import type { Control } from '../engine/step.ts'
import { read } from '../ground/root.ts'
import { type CisSection, benchmark, cisRequirements } from './cis.ts'

const states = ['pass', 'fail', 'waived', 'manual', 'n/a'] as const
export type CisState = (typeof states)[number]

/** What is known of one control on one node. `manual`: a person has to look. */
export interface CisResult {
  id: string
  section: string
  title: string
  assessed: 'automated' | 'manual'
  state: CisState
  found: string
  /** Why it may fail, and until when. */
  waived?: string
}

export type Tally = Record<CisState, number>

/** The results of one node. */
export interface CisReport {
  benchmark: string
  site: string
  node: string
  role: 'server' | 'agent'
  /** ISO 8601. */
  time: string
  results: CisResult[]
}

/** How many are in each state. */
export function tally(results: CisResult[]): Tally {
  const none: Tally = { pass: 0, fail: 0, waived: 0, manual: 0, 'n/a': 0 }
  return results.reduce((sum, { state }) => ({ ...sum, [state]: sum[state] + 1 }), none)
}

/** What a run of the page says of each control, by id. */
export type Answers = Map<string, { state: string; found?: string; waived?: string }>

/** The results of a node, in the order of the list. What was not answered fails, and says so. */
export function resultsOf(
  sections: { section: CisSection; controls: Control[] }[],
  answers: Answers,
): CisResult[] {
  return sections.flatMap(({ section, controls }) =>
    controls.map(({ id, title }) => {
      const entry = section.controls.find((c) => c.id === id)
      const answer = answers.get(id)
      const state: CisState =
        answer?.state === 'ok'
          ? 'pass'
          : answer?.state === 'waived'
            ? 'waived'
            : answer?.state === 'n/a'
              ? entry?.person === undefined
                ? 'n/a'
                : 'manual'
              : 'fail'
      return {
        id,
        section: section.step,
        title,
        assessed: entry?.assessed ?? 'manual',
        state,
        found: answer === undefined ? 'it was not checked' : (answer.found ?? '').trim(),
        ...(answer?.waived === undefined ? {} : { waived: answer.waived }),
      }
    }),
  )
}

/** The score as text: a line for each section, then all, then what fails. */
export function scoreText({ node, role, results }: CisReport): string {
  const row = (name: string, title: string, t: Tally) =>
    `  ${name.padEnd(5)}${title.padEnd(30)}${states.map((state) => String(t[state]).padStart(8)).join('')}`
  const sections = cisRequirements.sections().filter(({ on }) => on.includes(role))
  const automated = tally(results.filter(({ assessed }) => assessed === 'automated'))
  const good = automated.pass + automated.waived
  const bad = results.filter(({ state }) => state === 'fail')
  return [
    `${node}: ${benchmark}, as ${role}`,
    `  ${''.padEnd(35)}${states.map((state) => state.padStart(8)).join('')}`,
    ...sections.map(({ step, title }) =>
      row(step, title, tally(results.filter(({ section }) => section === step))),
    ),
    row('', 'all', tally(results)),
    `  ${good} of ${good + automated.fail} automated controls that apply pass or are waived.`,
    ...bad.map(({ id, title, found }) => `  fails: ${id} ${title}: ${found.split('\n').join(' ')}`),
  ].join('\n')
}

/**
 * The same as SARIF (config/k3s/sarif.json says which): one run of one tool, a rule for each control, a result for each answer.
 */
export function sarifOf(report: CisReport): object {
  const { node, site, role, time, results } = report
  const kind = {
    pass: 'pass',
    fail: 'fail',
    waived: 'fail',
    manual: 'review',
    'n/a': 'notApplicable',
  } as const
  return {
    ...(JSON.parse(read('config/k3s/sarif.json')) as { $schema: string; version: string }),
    runs: [
      {
        tool: {
          driver: {
            name: 'fortress-kit',
            rules: results.map(({ id, section, title, assessed }) => ({
              id: `CIS-${id}`,
              shortDescription: { text: title },
              properties: { section, assessed, tags: [benchmark] },
            })),
          },
        },
        invocations: [{ executionSuccessful: true, endTimeUtc: time }],
        properties: { benchmark, site, node, role },
        results: results.map(({ id, title, assessed, state, found, waived }, ruleIndex) => ({
          ruleId: `CIS-${id}`,
          ruleIndex,
          kind: kind[state],
          level: kind[state] !== 'fail' ? 'none' : assessed === 'automated' ? 'error' : 'warning',
          message: { text: found || title },
          locations: [
            { logicalLocations: [{ name: node, fullyQualifiedName: `${site}/${node}`, kind: 'resource' }] },
          ],
          ...(waived === undefined || state !== 'waived'
            ? {}
            : { suppressions: [{ kind: 'external', status: 'accepted', justification: waived }] }),
        })),
      },
    ],
  }
}
