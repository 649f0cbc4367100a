// GitOps and applications: names that follow from directories, none twice, and layers in an order that can be applied.
import type { Problem } from '../../ground/document.ts'
import { nearest } from '../../ground/nearest.ts'
import type { Catalogue } from '../catalogue.ts'
import { type Document, chosenBy, entries, many, present, unknown } from './parts.ts'

/** Faults of the parts `gitops` and `apps` of a document. */
export function* gitopsProblems(document: Document, catalogue: Catalogue): Generator<Problem> {
  yield* patternProblems(document)
  yield* groupProblems(document)
  yield* layerProblems(document, catalogue)
  yield* repositoryProblems(document)
  yield* collisionProblems(document)
  yield* appProblems(document)
}

/** The parts of a pattern that are filled in: {app} and the like. */
const holesOf = (pattern: string | undefined): string[] =>
  [...(pattern ?? '').matchAll(/\{(\w+)\}/g)].map((match) => match[1] ?? '')

/** Parts that stand for the group of an application, and for its name. */
const groupWords = ['group', 'category', 'type']
const appWords = ['app', 'project']

function* patternProblems({ gitops }: Document): Generator<Problem> {
  if (gitops?.path === undefined) return
  const given = holesOf(gitops.path)
  for (const key of ['application', 'namespace', 'project'] as const)
    for (const hole of holesOf(gitops[key]))
      if (!given.includes(hole))
        yield {
          path: ['gitops', key],
          reason: `asks for {${hole}}, which the path does not give`,
          suggestion: nearest(hole, given),
        }
  const used = holesOf(gitops.application)
  // Where the name leaves out the group, each application is compared with the others: see below.
  const left = given.find((hole) => !used.includes(hole) && hole !== 'group')
  if (gitops.application !== undefined && left !== undefined)
    yield {
      path: ['gitops', 'application'],
      reason: `leaves out {${left}}: two directories could give one application`,
    }
}

function* groupProblems({ gitops }: Document): Generator<Problem> {
  const groups = Object.entries(gitops?.groups ?? {})
  const joined = [gitops?.application, gitops?.namespace].some((pattern) =>
    groupWords.some((word) => pattern?.includes(`{${word}}-{`)),
  )
  for (const [name, group] of groups) {
    const path = ['gitops', 'groups', name]
    const other = groups.find(([before]) => name.startsWith(`${before}-`))?.[0]
    if (other !== undefined && joined) {
      const rest = name.slice(other.length + 1)
      yield {
        path,
        atKey: true,
        reason: `begins with ${other}-: ${other}/${rest}-x and ${name}/x would give one name`,
      }
    }
    for (const [at, env] of entries([...path, 'env'], many(group?.['env'] as string[] | undefined))) {
      if (!env.includes('*')) continue
      const [a, suggestion] = [env.replace('*', 'a'), env.replace('*', '????????')]
      yield {
        path: at,
        reason: `is ${env}, of no fixed length, so ${name}/${a}/b-c and ${name}/${a}-b/c would share a namespace`,
        suggestion,
      }
    }
  }
}

function* layerProblems(document: Document, catalogue: Catalogue): Generator<Problem> {
  const layers = Object.entries(document.gitops?.groups ?? {}).map(
    ([name, group]) => [name, many(group?.['holds'] as string[] | undefined)] as const,
  )
  const layerOf = (slot: string): number => layers.findIndex(([, holds]) => holds.includes(slot))
  for (const { slot, use } of chosenBy(document))
    for (const need of catalogue.get(use)?.needs ?? []) {
      const [own, theirs] = [layerOf(slot), layerOf(need)]
      if (own >= 0 && theirs > own)
        yield {
          path: ['gitops', 'groups', layers[own]?.[0] ?? '', 'holds'],
          reason: `has ${slot} (${use}), which needs ${need} of ${layers[theirs]?.[0]}, a later layer`,
        }
    }
}

function* repositoryProblems({ gitops, names }: Document): Generator<Problem> {
  const host = /^(?:\w+:\/\/)?(?:[^@/]+@)?([^/:]+)/.exec(gitops?.repository ?? '')?.[1]
  if (host === undefined || gitops === undefined || 'mirror' in gitops) return
  if (
    (names ?? []).some(
      (one) => one?.zone !== undefined && (host === one.zone || host.endsWith(`.${one.zone}`)),
    )
  )
    yield {
      path: ['gitops', 'repository'],
      reason: 'is served by this cluster: an empty cluster could not fetch it. Give mirror',
    }
}

/** The longest name of an environment of a group. */
const longestOf = (group: Record<string, unknown> | undefined): string =>
  many(group?.['env'] as string[] | undefined)
    .map((env) => env.replace(/[?*]/g, '0'))
    .reduce((longest, env) => (env.length > longest.length ? env : longest), '')

function* collisionProblems({ apps, gitops }: Document): Generator<Problem> {
  const { application, groups, namespace } = gitops ?? {}
  if (gitops === undefined) return
  const seen = new Map<string, string>()
  for (const [group, list] of Object.entries(apps ?? {}))
    for (const [path, app] of entries(['apps', group], list)) {
      const name = typeof app === 'string' ? app : app.name
      if (name === undefined) continue
      const fill = (pattern: string): string =>
        pattern.replaceAll(/\{(\w+)\}/g, (hole, word: string) => {
          if (groupWords.includes(word)) return group
          if (appWords.includes(word)) return name
          return word === 'env' ? longestOf(groups?.[group]) : hole
        })
      const id = fill(application ?? '')
      const owner = seen.get(id)
      if (application !== undefined && owner !== undefined)
        yield { path, reason: `gives the application ${id}, as ${owner} does` }
      seen.set(id, `apps.${group}`)
      const space = fill(namespace ?? '')
      if (space.length > 63)
        yield { path, reason: `gives the namespace ${space}, of ${space.length} letters: at most 63` }
    }
}

function* appProblems({ apps, components, data, gateways, gitops }: Document): Generator<Problem> {
  const groups = Object.keys(gitops?.groups ?? {})
  const classes = (data?.classes ?? []).map((one) => one?.name)
  const names = present((gateways ?? []).map((one) => one?.name))
  for (const [group, list] of Object.entries(apps ?? {})) {
    if (gitops?.groups !== undefined && !groups.includes(group))
      yield {
        path: ['apps', group],
        atKey: true,
        reason: 'is no group of gitops',
        suggestion: nearest(group, groups),
      }
    for (const [path, app] of entries(['apps', group], list)) {
      if (typeof app === 'string') continue
      const text = (key: string): string | undefined => (typeof app[key] === 'string' ? app[key] : undefined)
      yield* unknown([...path, 'class'], text('class'), classes, 'names no class of data.classes')
      yield* unknown([...path, 'gateway'], text('gateway'), names, 'names no gateway')
      if (app['database'] === true && !('databases' in (components ?? {})))
        yield {
          path: [...path, 'database'],
          reason: 'is true, and nothing is chosen for components.databases',
        }
      if (
        app['keeps'] === true &&
        data?.keep !== undefined &&
        !data.keep.some((row) => row?.what === 'volumes')
      )
        yield { path: [...path, 'keeps'], reason: 'is true, and data.keep has no row for volumes' }
    }
  }
}
