// What makers publish about their files, whatever its form: digests by name, and versions that are out. It hides the forms.
import { parse } from 'yaml'

type Read = Record<string, unknown>

const list = (value: unknown): Read[] => (Array.isArray(value) ? (value as Read[]) : [])

/** The digest of `file` in a text of its maker, of 64 or 128 hexadecimal `digits`; undefined where it has none. */
export function sumIn(text: string, file: string, digits = 64): string | undefined {
  const found = text.trimStart()
  // The API of GitHub: a release with its files. Older files have no digest there.
  if (found.startsWith('{')) {
    const asset = list((JSON.parse(found) as Read)['assets']).find(({ name }) => name === file)
    return /^sha256:([0-9a-f]{64})$/.exec(String(asset?.['digest']))?.[1]
  }
  // The index of a chart repository.
  const entries = entriesOf(found)
  if (entries !== undefined)
    return entries
      .filter(({ urls }) => Array.isArray(urls) && urls.some((url) => String(url).split('/').at(-1) === file))
      .map(({ digest }) => String(digest).replace(/^sha256:/, ''))
      .find((digest) => /^[0-9a-f]{64}$/.test(digest))
  // sha256sum, sha512sum and shasum, or a digest alone in a file that is named after what it is of.
  const digest = new RegExp(`^([0-9a-f]{${digits}})(?:\\s+\\*?(\\S.*))?$`, 'i')
  const lines = found.split('\n').map((line) => digest.exec(line.trim()))
  const named = lines.find((line) => line?.[2]?.split('/').at(-1) === file)?.[1]
  const [alone] = found.trim().includes('\n') ? [] : lines
  return (named ?? (alone?.[2] === undefined ? alone?.[1] : undefined))?.toLowerCase()
}

/** The versions that a text of a maker names as out. */
export function versionsIn(text: string, name: string): string[] {
  const found = text.trimStart()
  if (found.startsWith('[') || found.startsWith('{')) {
    const said = JSON.parse(found) as unknown
    // Releases of GitHub; channels of k3s.
    const releases = list(said).filter(({ draft, prerelease }) => draft !== true && prerelease !== true)
    const channels = list((said as Read)['data'])
    return [...releases.map(({ tag_name: tag }) => tag), ...channels.map(({ latest }) => latest)].filter(
      (one): one is string => typeof one === 'string',
    )
  }
  const entries = entriesOf(found)
  if (entries !== undefined)
    return entries.flatMap((entry) => (entry['name'] === name ? [String(entry['version'])] : []))
  // What runs on Flatcar's servers as version.txt, and the one word of dl.k8s.io.
  const [, word] = /^(?:FLATCAR_VERSION=)?(v?\d+\.\d+\.\d+\S*)\s*$/m.exec(found) ?? []
  return word === undefined ? [] : [word]
}

function entriesOf(text: string): Read[] | undefined {
  if (!/^entries:/m.test(text)) return undefined
  return Object.values((parse(text) as { entries?: Read }).entries ?? {}).flatMap(list)
}

/** Major, minor, patch, and the number behind +k3s; undefined for what is none, or is no release. */
function numbers(version: string): number[] | undefined {
  const parts = /^v?(\d+)\.(\d+)\.(\d+)(?:\+k3s(\d+))?$/.exec(version)
  return parts?.slice(1).map((part) => Number(part ?? 0))
}

/**
 * The newest patch of the same minor version, where that is newer than `pinned`. `channel`: the maker names one version that all
 * are to run, of whatever minor.
 */
export function newerPatch(pinned: string, out: string[], channel = false): string | undefined {
  const mine = numbers(pinned)
  if (mine === undefined) return undefined
  const behind = (a: number[], b: number[]) => {
    const at = a.findIndex((part, i) => part !== b[i])
    return at >= 0 && (a[at] as number) < (b[at] as number)
  }
  return out
    .flatMap((version) => {
      const its = numbers(version)
      const same = its !== undefined && (channel || (its[0] === mine[0] && its[1] === mine[1]))
      return same && behind(mine, its) ? [{ version, its }] : []
    })
    .sort((a, b) => (behind(a.its, b.its) ? 1 : -1))[0]?.version
}
