// The waivers of a host in the formats of those who would complain: an OpenSCAP tailoring, a Lynis profile.
import type { Site } from '../site/model.ts'
import { document, waiversFor } from '../site/waivers.ts'

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
