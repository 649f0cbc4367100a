// Waivers as data: which wishes of a guide or a scanner we do not fulfil, why, and until when.
import { parsed, read as file } from '../ground/root.ts'
import { guestsOf } from './machines.ts'
import type { Site } from './model.ts'

export interface Waiver {
  id: string
  reason: string
  /** The last day on which it excuses anything, as YYYY-MM-DD. */
  expires: string
  when?: Condition
  controls: string[]
  openscap: string[]
  lynis: string[]
}

/** A variable of an OpenSCAP profile that has our value. */
export interface Tailored {
  name: string
  value: string
  reason: string
}

type Condition = keyof typeof conditions

/** What must be so at a site for a waiver to mean anything. */
const conditions = {
  /** The encrypted disk is on USB; so is a disk that nobody has chosen yet. */
  'usb-vault': (site: Site) =>
    site.machines.some(({ vault }) => vault?.disk === '' || vault?.disk.includes('/usb-')),
  /** Virtual machines behind the host. */
  guests: (site: Site) => guestsOf(site).length > 0,
}

interface Document {
  reviewed: string
  waivers: Waiver[]
  values: Tailored[]
}

/** What has waivers: a host, with scanners that would complain, or k3s. */
export type Waived = 'host' | 'k3s'

const read = (of: Waived) => file(`config/${of}/waivers.yaml`)

/** The whole document of a host, or `text` in its place. */
export function document(text = read('host')): Document {
  const {
    reviewed,
    waivers,
    values = [],
  } = parsed(text) as Document & {
    waivers: (Omit<Waiver, 'controls' | 'openscap' | 'lynis'> & Partial<Waiver>)[]
  }
  const seen = new Set<string>()
  for (const w of waivers) {
    const where = `waivers.yaml, ${w.id}`
    if (seen.has(w.id)) throw new TypeError(`${where}: the id is used twice`)
    seen.add(w.id)
    if (!w.reason) throw new TypeError(`${where}: gives no reason`)
    if (!/^\d{4}-\d\d-\d\d$/.test(w.expires))
      throw new TypeError(`${where}: expires must be a day, is ${String(w.expires)}`)
    if (w.when !== undefined && !(w.when in conditions))
      throw new TypeError(`${where}: when must be one of ${Object.keys(conditions).join(', ')}, is ${w.when}`)
  }
  return {
    reviewed,
    values,
    waivers: waivers.map((w) => ({
      ...w,
      controls: w.controls ?? [],
      openscap: w.openscap ?? [],
      lynis: w.lynis ?? [],
    })),
  }
}

/** The waivers that hold for a site on a day. Throws TypeError for an entry without a reason, an end, or a known condition. */
export function waiversFor(site: Site, today = new Date(), text?: string, of: Waived = 'host'): Waiver[] {
  const day = today.toISOString().slice(0, 10)
  return document(text ?? read(of)).waivers.filter(
    (w) => w.expires >= day && (w.when === undefined || conditions[w.when](site)),
  )
}

/** What the site has accepted of the controls of a machine: lines `control:MACHINE:ID`. The loader lets none be over. */
export const acceptedControls = ({ accepted }: Pick<Site, 'accepted'>, machine: string): Waiver[] =>
  accepted.flatMap(({ what, why: reason, until: expires }) => {
    const id = what.startsWith(`control:${machine}:`) ? (what.split(':')[2] ?? '') : undefined
    return id ? { id, reason, expires, controls: [id], openscap: [], lynis: [] } : []
  })
