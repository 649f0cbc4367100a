// ./task unlock-webhooks: for the night when nothing can be changed because a webhook that has to agree does not answer.
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { stringify } from 'yaml'
import { Fault } from '../ground/fault.ts'
import { $, orFault } from '../ground/laptop.ts'
import { answeringApi } from './api.ts'
import type { Call } from './call.ts'
import { agrees } from './prompt.ts'
import { withSession } from './session.ts'
import { webhooks as table } from './tables.ts'

const kinds = ['validating', 'mutating'].map(
  (kind) => `${kind}webhookconfigurations.admissionregistration.k8s.io`,
)

/** What is looked at of the configuration of webhooks. */
export interface Configuration {
  kind: string
  metadata: { name: string; [key: string]: unknown }
  webhooks?: {
    name: string
    failurePolicy?: 'Fail' | 'Ignore'
    clientConfig: { service?: { namespace: string; name: string }; url?: string }
  }[]
}

/** What serves webhooks: where a Service leads. */
export interface Slice {
  metadata: { namespace: string; labels?: Record<string, string> }
  endpoints?: { conditions?: { ready?: boolean } }[] | null
}

/** A webhook without whose consent something cannot be changed. */
export interface Block {
  configuration: Configuration
  /** Its place in the list. */
  index: number
  webhook: string
  why: string
}

/** Webhooks that must agree and cannot; of a configuration that is named all that must agree. */
export function blocksOf(
  configurations: readonly Configuration[],
  slices: readonly Slice[],
  names: readonly string[],
): Block[] {
  const serves = (namespace: string, name: string) =>
    slices.some(
      ({ metadata, endpoints }) =>
        metadata.namespace === namespace &&
        metadata.labels?.['kubernetes.io/service-name'] === name &&
        (endpoints ?? []).some(({ conditions }) => conditions?.ready !== false),
    )
  return configurations.flatMap((configuration) =>
    (configuration.webhooks ?? []).flatMap(({ name, failurePolicy = 'Fail', clientConfig }, index) => {
      if (failurePolicy !== 'Fail') return []
      const block = { configuration, index, webhook: name }
      const { service } = clientConfig
      if (names.includes(configuration.metadata.name)) return [{ ...block, why: 'it was named' }]
      if (names.length > 0 || service === undefined || serves(service.namespace, service.name)) return []
      return [{ ...block, why: `nothing ready is behind Service ${service.namespace}/${service.name}` }]
    }),
  )
}

/** The configuration as it can be put back: without what only the server writes. */
export function keptOf({ metadata, ...rest }: Configuration): object {
  const own = ['creationTimestamp', 'generation', 'managedFields', 'resourceVersion', 'uid']
  return {
    ...rest,
    metadata: Object.fromEntries(Object.entries(metadata).filter(([key]) => !own.includes(key))),
  }
}

/**
 * Lets changes pass that webhooks without an answer hold up: they are asked, and no more waited for. How they were is kept in a
 * file. Exit code: 0 nothing holds anything up, or no more; 2 something does, and nobody has said yes.
 */
export const webhooks = (call: Call): Promise<number> =>
  withSession(call, table, async (session) => {
    const { given, state, terminal, report } = session
    const api = await answeringApi(session, ['kubectl'])
    try {
      const run = $({ env: api.environment, nothrow: true })
      const items = async <T>(kind: string): Promise<T[]> => {
        const got = await orFault(run`kubectl get ${kind} --all-namespaces --output json`, { seconds: 60 })
        return (JSON.parse(got.stdout) as { items: T[] }).items
      }
      const all = (await Promise.all(kinds.map((kind) => items<Configuration>(kind)))).flat()
      const names = all.map(({ metadata }) => metadata.name)
      const wrong = given.words.find((word) => !names.includes(word))
      if (wrong !== undefined)
        throw new Fault(`there are no webhooks ${wrong}`, { next: `there are ${names.join(', ') || 'none'}` })
      const blocks = blocksOf(all, await items<Slice>('endpointslices.discovery.k8s.io'), given.words)
      if (blocks.length === 0) {
        report.note('No webhook holds anything up: behind each that must agree something is ready.')
        return 0
      }
      for (const { configuration, webhook, why } of blocks)
        report.note(`${configuration.kind} ${configuration.metadata.name}, ${webhook}: ${why}.`)
      const asked = 'Let changes pass that they have not agreed to?'
      if (!given.yes && !(terminal && (await agrees(asked)))) {
        report.note('Nothing was changed. With --yes they are passed over.')
        return 2
      }
      const file = keep(state, blocks)
      for (const configuration of new Set(blocks.map((block) => block.configuration))) {
        const patch = blocks.filter((one) => one.configuration === configuration).flatMap(patchOf)
        const to = `${configuration.kind.toLowerCase()}s.admissionregistration.k8s.io/${configuration.metadata.name}`
        await orFault(run`kubectl patch ${to} --type=json --patch ${JSON.stringify(patch)}`, { seconds: 60 })
      }
      report.note(
        `They are passed over from now on. When what serves them runs again: ./task kubectl replace --filename ${file}` +
          ' puts them back, and so does apply of the page that has installed them.',
      )
      return 0
    } finally {
      api.close()
    }
  })

/** Where another has changed the list meanwhile the test fails, and nothing is changed. */
const patchOf = ({ index, webhook }: Block): object[] => [
  { op: 'test', path: `/webhooks/${index}/name`, value: webhook },
  { op: 'replace', path: `/webhooks/${index}/failurePolicy`, value: 'Ignore' },
  // Each request waits for it.
  { op: 'replace', path: `/webhooks/${index}/timeoutSeconds`, value: 1 },
]

/** Writes how they are. Returns the file. */
function keep(state: string, blocks: readonly Block[]): string {
  const dir = join(state, 'webhooks')
  const file = join(dir, `${new Date().toISOString().replaceAll(/[:.]/g, '-')}.yaml`)
  const kept = [...new Set(blocks.map(({ configuration }) => configuration))].map(keptOf)
  mkdirSync(dir, { recursive: true, mode: 0o700 })
  writeFileSync(file, kept.map((one) => `---\n${stringify(one)}`).join(''), { mode: 0o600 })
  return file
}
