// What a page gets to write its steps: the site's settings, its secrets, and what is known of the machine.
import { join } from 'node:path'
import type { Context, Facts, Page } from '../engine/page.ts'
import { parseHost } from '../ground/hostname.ts'
import { type SecretStore, secretStore } from '../ground/secret.ts'
import { type Placed, machinesFor } from '../site/machines.ts'
import type { Config } from '../site/model.ts'

/** The directory of a site on the laptop: secrets, public keys, notes. */
export const stateOf = ({ env, site }: Config): string => join(env.FK_STATE_DIR, site.name)

/** The secrets of a site; `made` is given the lines that ask for a copy of the identity, when the first secret makes it. */
export const storeOf = (config: Config, made?: (lines: string) => Promise<void>): SecretStore =>
  secretStore({
    dir: stateOf(config),
    identity: config.env.FK_AGE_IDENTITY,
    ...(made === undefined ? {} : { say: made }),
  })

/** What a page gets for a machine. */
export function contextOf(config: Config, machine: Facts, store: SecretStore): Context {
  return {
    ...config,
    machine,
    secrets: (name, make) => store.secret(name, make),
    has: (name) => store.has(name),
    state: stateOf(config),
  }
}

/** The facts of a machine that is not connected: what the site document says, and the user of FK_HOST. */
export function declaredFacts({ name, os, arch, user }: Placed, { env }: Pick<Config, 'env'>): Facts {
  const host = parseHost(env.FK_HOST ?? '')
  const login = 'kind' in host && host.kind === 'ssh' ? host.user : undefined
  return { name, os, arch, model: '', user: user ?? login ?? 'admin', via: '' }
}

/** The machines of the site that a page runs on. */
export const placesOf = (page: Page, config: Config): Placed[] =>
  machinesFor(config, page.on).filter(({ name }) => page.at === undefined || page.at === name)

/** What no shipped site has chosen: without it some pages have nothing to do, and nobody would see what they print. */
export const unchosen = { runtime: 'gvisor' }

/** A site as if its document chose these components as well. */
export const choosing = (config: Config, chosen: Record<string, string>): Config => ({
  ...config,
  site: { ...config.site, components: { ...config.site.components, ...chosen } },
})

/** Whether a page has something to do on a machine, as far as the site document says. */
export function hasSteps(page: Page, spec: Placed, config: Config, store: SecretStore): boolean {
  try {
    return page.steps(contextOf(config, declaredFacts(spec, config), store)).length > 0
  } catch {
    return true // it wants something that is not here yet, and says so when it is run
  }
}
