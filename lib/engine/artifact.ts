// What a pin of config/versions.yaml stands for: one file, where it is published, and what proves it.
import { basename } from 'node:path'
import { Fault } from '../ground/fault.ts'
import type { Pins } from '../site/model.ts'

/** One file that a pin stands for. */
export interface Artifact {
  /** What it is called here: `flatcar-VERSION-amd64.img`. */
  name: string
  url: string
  sha256?: string
  sha512?: string
  /** A detached OpenPGP signature, and the fingerprint of the primary key that it must come from. */
  signature?: { url: string; key: string; keyUrl: string }
  /** Why there is no proof: it is not fetched. */
  unproven?: string
}

/** The file of one architecture that the pin `name` stands for. Throws a Fault when there is none. */
export function artifactOf(pins: Pins, name: string, arch: string): Artifact {
  const pin = pins[name]
  const which = pin?.url.any === undefined ? (arch as 'amd64') : 'any'
  const url = pin?.url[which]
  if (pin === undefined || url === undefined)
    throw new Fault(`config/versions.yaml has no ${name}${pin === undefined ? '' : ` for ${arch}`}`, {
      next: `add it, with its ${pin === undefined ? 'version, ' : ''}URL and proof`,
    })
  const { signature } = pin
  const extension = /(\.[a-z][a-z0-9]*){0,2}$/.exec(basename(url))?.[0] ?? ''
  const signed = signature?.kind === 'gpg' ? signature.url[which] : undefined
  return {
    name: `${name}-${pin.version}${which === 'any' ? '' : `-${which}`}${extension}`,
    url,
    ...(pin.sha256?.[which] === undefined ? {} : { sha256: pin.sha256[which] }),
    ...(pin.sha512?.[which] === undefined ? {} : { sha512: pin.sha512[which] }),
    ...(signed === undefined
      ? {}
      : { signature: { url: signed, key: signature?.key ?? '', keyUrl: signature?.key_url ?? '' } }),
    ...(pin.unproven === undefined ? {} : { unproven: pin.unproven }),
  }
}
