// Files from the network: verified before they get their name, and verified again whenever they are used. It hides the cache, the
// resumed part, and what of it may be used again; fetching (fetch.ts), signatures and the lock have files of their own.
import { createHash } from 'node:crypto'
import { createReadStream, existsSync, mkdirSync } from 'node:fs'
import { chmod, open, rename, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { Fault } from '../ground/fault.ts'
import type { Artifact } from './artifact.ts'
import { type FetchOptions, fetchPart } from './fetch.ts'
import { lock } from './lock.ts'
import { checkSignature, fetchProof, Refused } from './signature.ts'

/** A file that is what its pin says. */
export interface Verified {
  path: string
  bytes: number
  sha256: string
}

export interface DownloadOptions extends FetchOptions {
  /** The cache. Made when it is not there. */
  dir: string
  /** Given one sentence when it has to wait or to begin anew. */
  say?: (sentence: string) => void
}

/**
 * Gives the file, from the cache when it is there. Until it is verified it is called `NAME.part`; a later run resumes what one
 * that was cut or killed has fetched. Throws a Fault when it cannot be had or is not what is pinned; then nothing has its name.
 */
export async function download(artifact: Artifact, options: DownloadOptions): Promise<Verified> {
  const { name, sha256, sha512, signature, unproven } = artifact
  if (sha256 === undefined && sha512 === undefined && signature === undefined)
    throw new Fault(`${name} is not fetched: nothing proves that it is the right file`, {
      ...(unproven === undefined ? {} : { said: unproven }),
      next: 'give its proof in config/versions.yaml',
    })
  mkdirSync(options.dir, { recursive: true, mode: 0o700 })
  const path = join(options.dir, name)
  const part = `${path}.part`
  const free = await lock(`${path}.lock`, options)
  try {
    if (existsSync(path)) {
      try {
        return await verified(artifact, path, path, options)
      } catch (error) {
        if (!(error instanceof Refused)) throw error
        // Nothing that cannot be proven keeps the name; fetching it anew shows whether it was spoilt or only the key is too old.
        await rename(path, part)
        if (error.what === 'key') throw error
        await forget(path)
        throw new Fault(`${name} was changed after it was verified`, {
          said: error.message,
          state: `${path} is deleted`,
          next: 'find out who changed it; the next run fetches it again',
        })
      }
    }
    // What is small comes first: a wrong key is found before half a gigabyte has come.
    if (signature !== undefined) await fetchProof(name, signature, options)
    const resumed = await fetchPart(artifact, part, options)
    const land = async (): Promise<Verified> => {
      const found = await verified(artifact, part, path, options)
      await chmod(part, 0o444)
      const file = await open(part, 'r')
      await file.sync().finally(() => file.close())
      await rename(part, path)
      return { ...found, path }
    }
    const landOrForget = () =>
      land().catch(async (error: unknown) => {
        if (error instanceof Refused && error.what === 'content') await forget(path)
        throw error
      })
    try {
      return await landOrForget()
    } catch (error) {
      if (!resumed || !(error instanceof Refused) || error.what === 'key') throw error
      // A power cut may have spoilt what an earlier run left behind: that is no reason to suspect anybody, once.
      options.say?.(`${name}: what an earlier run had fetched does not fit; fetching all of it`)
      await fetchPart(artifact, part, options)
      return await landOrForget()
    }
  } finally {
    await free()
  }
}

/** Nothing of it is used again: not what has come, not where it came from, and not its signature. */
async function forget(path: string): Promise<void> {
  for (const end of ['.part', '.source', '.sig']) await rm(path + end, { force: true })
}

/** Reads a file and holds it against its pin. Throws Refused when it is not what the pin says. */
async function verified(
  artifact: Artifact,
  file: string,
  path: string,
  options: DownloadOptions,
): Promise<Verified> {
  const { name, url, signature } = artifact
  const [sha256, sha512] = [createHash('sha256'), createHash('sha512')]
  let bytes = 0
  for await (const chunk of createReadStream(file, { highWaterMark: 1024 * 1024 })) {
    bytes += (chunk as Buffer).length
    sha256.update(chunk as Buffer)
    if (artifact.sha512 !== undefined) sha512.update(chunk as Buffer)
  }
  const digest = sha256.digest('hex')
  for (const [kind, is, wanted] of [
    ['SHA-256', digest, artifact.sha256],
    ['SHA-512', artifact.sha512 === undefined ? '' : sha512.digest('hex'), artifact.sha512],
  ] as const)
    if (wanted !== undefined && is !== wanted)
      throw new Refused('content', `${name} is not the file that is pinned`, {
        said: `its ${kind} is ${is},\npinned is ${wanted}`,
        state: 'it is not used, and deleted',
        next: `is the pin right for ${url}? If it is, somebody has exchanged the file`,
      })
  if (signature !== undefined) await checkSignature({ name, file, path, signature }, options)
  return { path, bytes, sha256: digest }
}
