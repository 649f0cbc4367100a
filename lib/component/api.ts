// The API of a cluster, for programs of this computer: a kubeconfig in memory, the tools in front of PATH, and nothing of what a
// user has set for clusters of their own.
import { mkdirSync, symlinkSync, writeFileSync } from 'node:fs'
import { delimiter, dirname, join } from 'node:path'
import { Fault } from '../ground/fault.ts'
import { $ } from '../ground/laptop.ts'
import { privateDir } from './memory.ts'
import { type Tool, type ToolName, clear, kubectlFits } from './tools.ts'

/** What opens an API: the variables for programs that use it. A variable that is `undefined` is taken away. */
export interface ApiAccess {
  environment: Record<string, string | undefined>
  /** The kubeconfig lies in memory, and on no disk. */
  inMemory: boolean
  /** Takes the kubeconfig away. */
  close: () => void
}

/** Opens an API by the text of a kubeconfig. `own` are the variables of this process. */
export function openAccess(
  kubeconfig: string,
  host: string,
  tools: readonly Tool[],
  own: NodeJS.ProcessEnv = { ...process.env },
): ApiAccess {
  const { path: dir, inMemory, remove } = privateDir()
  const at = (...names: string[]) => join(dir, ...names)
  try {
    writeFileSync(at('kubeconfig'), kubeconfig, { mode: 0o600 })
    mkdirSync(at('bin'))
    for (const { name, path } of tools) symlinkSync(path, at('bin', name))
  } catch (error) {
    remove()
    if ((error as NodeJS.ErrnoException).code !== 'ENOSPC') throw error
    throw new Fault(`there is no room for the kubeconfig in ${dirname(dir)}`, {
      next: `df -h ${dirname(dir)} shows what is there; take away what nobody needs`,
    })
  }
  // The API is behind the tunnel: no proxy reaches it.
  const direct = [own['NO_PROXY'] ?? own['no_proxy'], host].filter(Boolean).join(',')
  return {
    inMemory,
    close: remove,
    environment: {
      ...clear(own),
      KUBECONFIG: at('kubeconfig'),
      KUBECACHEDIR: at('kubectl'),
      HELM_CACHE_HOME: at('helm/cache'),
      HELM_CONFIG_HOME: at('helm/config'),
      HELM_DATA_HOME: at('helm/data'),
      // Half a minute is their default until a connection that nobody answers is found out.
      HTTP2_READ_IDLE_TIMEOUT_SECONDS: '10',
      HTTP2_PING_TIMEOUT_SECONDS: '10',
      NO_PROXY: direct,
      no_proxy: direct,
      PATH: [at('bin'), own['PATH'], '/usr/sbin', '/sbin'].filter(Boolean).join(delimiter),
    },
  }
}

/** Why an API could not be used. */
export interface Silence {
  /** As a clause behind `the API`: `does not answer`. */
  reason: string
  said: string
  /** The credentials are at fault, or the server is another one. */
  refused: boolean
}

/** Seconds within which an API answers, or is taken for silent. */
const PATIENCE = 5

/** Asks the API for its version, as whom the kubeconfig says. Resolves to its version, or to why it gave none. */
export async function ask({ environment }: ApiAccess): Promise<string | Silence> {
  const { exitCode, stdout, stderr } = await $({
    nothrow: true,
    env: environment,
    timeout: `${PATIENCE + 2}s`,
  })`kubectl get --raw /version --request-timeout=${`${PATIENCE}s`}`
  const version = exitCode === 0 ? /"gitVersion": *"([^"]+)"/.exec(stdout)?.[1] : undefined
  return version ?? silence(stderr)
}

/** The usual reasons why kubectl gives up. */
export function silence(stderr: string): Silence {
  const lines = stderr.trim().split('\n').filter(Boolean)
  // What it says first is of its caches; the last line is the answer.
  const said = lines.at(-1) ?? ''
  const rows: [RegExp, string, boolean][] = [
    [
      /Unauthorized|logged in to the server|certificate has expired or is not yet valid/,
      'refuses our certificate',
      true,
    ],
    [/Forbidden/, 'gives us no rights', true],
    [/unknown authority/, 'is not the one that we know: another CA signed its certificate', true],
    [/certificate is valid for/, 'does not name its address in its certificate', true],
    [/connection refused|was refused/, 'does not run there', false],
    [/is not ready|ServiceUnavailable|currently unable to handle/, 'is not ready', false],
    [/TooManyRequests|too many requests/, 'has too much to do, and wants to be asked again later', false],
  ]
  const row = rows.find(([pattern]) => pattern.test(stderr))
  return { reason: row?.[1] ?? 'does not answer', said, refused: row?.[2] ?? false }
}

/** A sentence where kubectl is too far from the server that it talks with; undefined where it fits. */
export function skew(tools: readonly Tool[], server: string): string | undefined {
  const kubectl = tools.find(({ name }) => name === ('kubectl' satisfies ToolName))
  if (kubectl === undefined || kubectlFits(kubectl.version, server)) return undefined
  return `kubectl ${kubectl.version} is more than one minor version from the API, which is ${server}`
}

/** A Fault of an API that could not be asked; `next` is the remedy. */
export const unanswered = (endpoint: string, { reason, said }: Silence, next: string): Fault =>
  new Fault(`the API at ${endpoint} ${reason}`, { said, next })
