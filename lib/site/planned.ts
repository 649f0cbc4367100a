// Pages that a site needs and that are not built yet: named, never passed over in silence.
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { parsed, read, root } from '../ground/root.ts'
import { otherGateways } from './gateways.ts'
import { chosen, isNode } from './machines.ts'
import type { Site } from './model.ts'

export interface PlannedPage {
  /** `30-network` */
  page: string
  does: string
  when: string
}

/** The pages of config/runbook.yaml that this site needs. Throws TypeError for a condition that is not known. */
export function notBuilt(site: Site): PlannedPage[] {
  const all = parsed(read('config/runbook.yaml')) as PlannedPage[]
  return all.filter(({ page, when }) => needs(site, when) && !existsSync(join(root, 'scripts', `${page}.ts`)))
}

/** The same as one sentence for the end of a run; undefined where nothing is missing. */
export function notBuiltNote(site: Site): string | undefined {
  const pages = notBuilt(site)
  return pages.length === 0
    ? undefined
    : `${site.name} needs ${pages.length === 1 ? '1 page' : `${pages.length} pages`} that this kit does not have yet: ` +
        `${pages.map(({ page }) => page).join(', ')}.`
}

function needs(site: Site, when: string): boolean {
  const [kind, slot = ''] = when.split(' ')
  switch (kind) {
    case 'cluster':
      return site.machines.some(isNode)
    case 'router':
      return site.router.kind === 'routeros' || site.router.kind === 'opnsense'
    case 'metal-talos':
      return site.machines.some(({ os, vm }) => os === 'talos' && vm === undefined)
    case 'disk':
      return site.machines.some(
        (one) => isNode(one) && !one.vm && one.os !== 'talos' && one.disk !== undefined,
      )
    case 'hypervisor':
      return site.machines.some(({ vm }) => site.devices.some(({ name }) => name === vm?.host))
    case 'gateways':
      return otherGateways(site).length > 0
    case 'people':
      return site.cluster.oidc !== undefined || chosen(site, 'identity').length > 0
    case 'names':
      return site.names.length > 0
    case 'apps':
      return Object.values(site.apps).some((apps) => apps.length > 0)
    case 'volumes':
      return site.data.classes.length > 0 || chosen(site, 'volumes').length > 0
    case 'slot':
      return chosen(site, slot).length > 0
    case 'component':
      return Object.keys(site.components).some((one) => chosen(site, one).includes(slot))
    default:
      throw new TypeError(`config/runbook.yaml: ${when} is no condition`)
  }
}
