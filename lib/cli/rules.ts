// ./task rules: what the API server of a site refuses to run, where it does not ask, and what of the cluster breaks a rule today.
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { judged } from '../component/admission.ts'
import { count } from '../engine/report.ts'
import { Fault } from '../ground/fault.ts'
import { $ } from '../ground/laptop.ts'
import { root } from '../ground/root.ts'
import { catalogue } from '../site/catalogue.ts'
import { chosen } from '../site/machines.ts'
import type { Site } from '../site/model.ts'
import { type Exemption, exceptionsOf, exemptionsFor, rulesFor } from '../site/policy.ts'
import { answeringApi } from './api.ts'
import type { Call } from './call.ts'
import { type Session, withSession } from './session.ts'
import { rules as table } from './tables.ts'

/** Lists the rules of the site, or reports what breaks them. Exit code of a report: 0 nothing does, 2 something does. */
export const rules = (call: Call): Promise<number> =>
  withSession(
    call,
    table,
    async (session) => {
      const { given, config } = session
      const [action = 'list'] = given.words
      if (action === 'report') return report(session, given.json)
      const { site } = config
      const { on, off } = rulesFor(site)
      const { ended } = exceptionsOf(site)
      const found = { mode: site.policy.mode, rules: on, off, exemptions: exemptionsFor(site), ended }
      process.stdout.write(given.json ? `${JSON.stringify(found)}\n` : listOf(site))
      return 0
    },
    { document: true },
  )

/** What is refused where, for a person. */
export function listOf(site: Site, now?: Date): string {
  const { on, off } = rulesFor(site)
  const exemptions = exemptionsFor(site, now)
  const width = Math.max(...[...on, ...off].map(({ id }) => id.length))
  const line = (word: string, text: string) => `  ${word.padEnd(width)}  ${text}\n`
  const { mode } = site.policy
  const absent = chosen(site, 'policy').filter((name) => !catalogue().get(name)?.built)
  const { ended } = exceptionsOf(site, now)
  const where = (one: Exemption) => `in ${placeOf(one)}: ${one.why}`
  const whole = exemptions.filter(({ rules }) => rules === 'all')
  const does = mode === 'enforce' ? 'what breaks a rule is refused' : 'the rules warn, and refuse nothing'
  return [
    `${site.name}: policy.mode is ${mode}, ${does}.\n\n`,
    ...on.flatMap(({ id, is }) => [
      line(id, is),
      ...exemptions
        .filter(({ rules }) => rules !== 'all' && rules.includes(id))
        .map((one) => line('', `not ${where(one)}`)),
    ]),
    ...off.map(({ id, is, slot = '' }) =>
      line(id, `is off, the site has no ${slot} that a page installs: ${is}`),
    ),
    ...whole.map((one, i) => `${i === 0 ? '\nNo rule counts\n' : ''}  ${where(one)}\n`),
    ...ended.map(
      (one) => `\nEnded, and to be taken out: ${one.rules.join(', ')} in ${placeOf(one)}: ${one.why}\n`,
    ),
    ...absent.map(
      (name) => `\n${name} is chosen, and no page installs it yet: the API server does all of this alone.\n`,
    ),
  ].join('')
}

function placeOf({ namespace, labels = {}, until }: Omit<Exemption, 'rules'>): string {
  const those = Object.entries(labels).map(([key, value]) => ` ${key}=${value}`)
  return `${namespace}${those.join('')}${until === undefined ? '' : ` until ${until}`}`
}

/** Asks the API server what it has against what is there. */
async function report(session: Session, json: boolean): Promise<number> {
  const api = await answeringApi(session, ['kubectl'])
  const dir = mkdtempSync(join(tmpdir(), 'fk-'))
  try {
    const run = $({ env: { ...api.environment, FK_TMP: dir }, nothrow: true, cwd: root })
    const said =
      await run`bash -c ${'set -o pipefail; source lib/component/admission.sh; policy_report "$@"'} bash ${judged}`
    const { exitCode, stdout, stderr } = said
    if (exitCode !== 0 && exitCode !== 1)
      throw new Fault('what would be refused could not be asked', { said: `${stdout}${stderr}`.trim() })
    const found = linesOf(stdout)
    process.stdout.write(json ? `${JSON.stringify(found)}\n` : reportOf(found))
    return found.length === 0 ? 0 : 2
  } finally {
    rmSync(dir, { recursive: true, force: true })
    api.close()
  }
}

/** What one rule has against one object. */
interface Finding {
  rule: string
  kind: string
  name: string
  says: string
}

/** The lines of policy_report. */
export const linesOf = (text: string): Finding[] =>
  text
    .split('\n')
    .filter(Boolean)
    .map((line) => {
      const [rule = '', kind = '', name = '', says = ''] = line.split('\t')
      return { rule, kind, name, says }
    })

/** The same for a person, object by object. */
export function reportOf(found: readonly Finding[]): string {
  if (found.length === 0) return 'What is in the cluster keeps to every rule.\n'
  const objects = new Map<string, Finding[]>()
  for (const one of found) {
    const key = `${one.kind} ${one.name}`
    objects.set(key, [...(objects.get(key) ?? []), one])
  }
  const width = Math.max(...found.map(({ rule }) => rule.length))
  const lines = [...objects].map(
    ([object, all]) =>
      `${object}\n${all.map(({ rule, says }) => `  ${rule.padEnd(width)}  ${says}\n`).join('')}`,
  )
  const came = objects.size === 1 ? 'it' : 'they'
  return `${lines.join('')}\n${count(objects.size, 'object')} would be refused if ${came} came today.\n`
}
