// How an operating system is named in a site document, from what /etc/os-release says. Which systems a site may name stands in
// config/schema/site.json and model.ts. What assumes Debian is found by: grep -rlwE 'apt|dpkg|debsums' lib scripts config/host
// Among it are packages.ts, record.sh and snapshot.sh of lib/engine, controls.ts and controls.sh of lib/host, packages.yaml and
// controls.yaml, and the user _apt in nftables.conf. Names of packages stand on the pages that call packages(), too. Of Debian
// as well: pam-auth-update and grub.d on page 00, and the user _chrony of chrony.conf.

/** A system that os-release alone does not name as we do. */
interface System {
  name: string
  /** ID of os-release. */
  id?: string
  /** A file that only this system has. */
  mark?: string
  /** Which version it is changes by itself, so a page asks when it matters. */
  versionless?: boolean
}

const systems: System[] = [
  // It calls itself Debian.
  { name: 'raspios', mark: '/etc/rpi-issue' },
  { name: 'flatcar', id: 'flatcar', versionless: true },
]

/** The files to look for. */
export const systemMarks = systems.flatMap(({ mark }) => mark ?? [])

/** `debian-13`, `raspios-13`, `flatcar`; of a system that is not in the table its ID and, where it has one, VERSION_ID. */
export function systemOf(release: { id: string; version: string; marks: string[] }): string {
  const found = systems.find(({ id, mark }) =>
    mark === undefined ? id === release.id : release.marks.includes(mark),
  )
  const name = found?.name ?? (release.id || 'a system without a name')
  return found?.versionless || release.version === '' ? name : `${name}-${release.version}`
}
