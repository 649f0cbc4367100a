// Waivers as data: which wishes of a guide or a scanner we do not fulfil, why, and until when; in each scanner's own format.
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

function document(text = read('host')): Document {
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

const group = 'xccdf_org.ssgproject.content'

/**
 * An OpenSCAP tailoring of `profile` (cis_level2_server): waived rules are not selected, each with its reason, and our values
 * stand. Its own profile is called `<profile>_fortress`; oscap wants that name in --profile.
 */
export function openscapTailoring(site: Site, profile: string, today?: Date): string {
  const { reviewed, values } = document()
  const rules = waiversFor(site, today).flatMap((w) =>
    w.openscap.map((rule) => ({ rule, reason: `${w.reason} (until ${w.expires})` })),
  )
  return [
    '<?xml version="1.0" encoding="UTF-8"?>',
    '<xccdf:Tailoring xmlns:xccdf="http://checklists.nist.gov/xccdf/1.2" id="xccdf_fortress-kit_tailoring_host">',
    '  <xccdf:benchmark href="ssg-debian13-ds.xml"/>',
    `  <xccdf:version time="${reviewed}T00:00:00">1</xccdf:version>`,
    `  <xccdf:Profile id="${group}_profile_${profile}_fortress" extends="${group}_profile_${profile}">`,
    `    <xccdf:title override="true">${profile} with the waivers of config/host/waivers.yaml</xccdf:title>`,
    ...rules.flatMap(({ rule, reason }) => [
      `    <xccdf:select idref="${group}_rule_${rule}" selected="false">`,
      `      <xccdf:remark>${escape(reason)}</xccdf:remark>`,
      '    </xccdf:select>',
    ]),
    ...values.flatMap(({ name, value, reason }) => [
      `    <!-- ${escape(reason)} -->`,
      `    <xccdf:set-value idref="${group}_value_${name}">${escape(value)}</xccdf:set-value>`,
    ]),
    '  </xccdf:Profile>',
    '</xccdf:Tailoring>',
    '',
  ].join('\n')
}

/** A Lynis profile (custom.prf) that skips what is waived. */
export function lynisProfile(site: Site, today?: Date): string {
  const lines = waiversFor(site, today)
    .filter((w) => w.lynis.length > 0)
    .flatMap((w) => ['', `# ${w.reason} (until ${w.expires})`, ...w.lynis.map((test) => `skip-test=${test}`)])
  return `${['# From config/host/waivers.yaml.', ...lines].join('\n')}\n`
}

const escape = (text: string) => text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('--', '- -')
