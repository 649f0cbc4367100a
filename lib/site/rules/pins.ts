// What no schema can say of a pin: that each of its downloads has a proof.
import { type Partially, type Path, type Problem, show } from '../../ground/document.ts'
import type { PerArch, Pins } from '../model.ts'

/** What no schema can say of the pins: that each has a proof for each of its downloads. */
export function* pinProblems(pins: Partially<Pins>): Generator<Problem> {
  for (const [name, pin] of Object.entries(pins)) {
    if (pin === undefined) continue
    const { version, url, sha256, sha512, signature, unproven } = pin
    if (version !== undefined && /^(latest|stable|edge|main|master|current)$/i.test(version))
      yield { path: [name, 'version'], reason: `is not one version: ${show(version)} moves` }
    yield* archProblems([name, 'url'], url)
    yield* versionProblems([name, 'url'], url, version)
    if (signature !== undefined) {
      yield* archProblems([name, 'signature', 'url'], signature.url)
      const rule = signature.kind === undefined ? undefined : keys[signature.kind]
      if (rule !== undefined && signature.key !== undefined && !rule.pattern.test(signature.key))
        yield { path: [name, 'signature', 'key'], reason: `must be ${rule.is}, is ${show(signature.key)}` }
      if (signature.kind === 'gpg' && !('key_url' in signature))
        yield {
          path: [name, 'signature'],
          reason: 'has no key_url: there is no place to fetch the key file from',
        }
    }
    if (unproven !== undefined && [sha256, sha512, signature].some((proof) => proof !== undefined))
      yield { path: [name, 'unproven'], reason: 'is not so any more: there is a proof, so delete this line' }
    for (const arch of architectures) {
      // A digest that is there and malformed has been reported already.
      const proven = [sha256, sha512, signature?.url].some((proof) => proof !== undefined && arch in proof)
      const alone = arch !== 'any' || Object.keys(url ?? {}).length === 1
      if (
        url !== undefined &&
        arch in url &&
        alone &&
        !proven &&
        !('unproven' in pin) &&
        !('signature' in pin && signature === undefined)
      )
        yield {
          path: [name, 'url', arch],
          reason: `has no proof: give its sha256 or sha512 under ${arch}, or a signature`,
        }
      for (const [field, proof] of Object.entries({ sha256, sha512, 'signature.url': signature?.url }))
        if (url !== undefined && proof !== undefined && arch in proof && !(arch in url))
          yield {
            path: [name, ...field.split('.'), arch],
            reason: `proves nothing: there is no url for ${arch}`,
          }
    }
  }
}

const architectures = ['amd64', 'arm64', 'any'] as const

const keys = {
  gpg: {
    pattern: /^([0-9A-F]{40}|[0-9A-F]{64})$/,
    is: 'the fingerprint: 40 or 64 hexadecimal digits in capitals',
  },
  minisign: { pattern: /^RW[A-Za-z0-9+/]{54}$/, is: 'a minisign public key: 56 letters that begin with RW' },
  cosign: {
    pattern: /^config\/[a-z0-9/._-]+\.pub$/,
    is: 'the file of a public key in config, such as config/keys/name.pub',
  },
}

function* archProblems(path: Path, urls: Partially<PerArch> | undefined): Generator<Problem> {
  if (urls !== undefined && 'any' in urls && Object.keys(urls).length > 1)
    yield { path: [...path, 'any'], reason: 'stands for every architecture, so no other can stand beside it' }
}

function* versionProblems(
  path: Path,
  urls: Partially<PerArch> | undefined,
  version: string | undefined,
): Generator<Problem> {
  for (const [arch, url] of Object.entries(urls ?? {}))
    if (version !== undefined && url !== undefined && !url.includes('{version}'))
      yield {
        path: [...path, arch],
        reason: 'does not say {version}, so a new version would fetch the old file',
      }
}
