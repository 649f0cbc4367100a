// Programs of this computer that pages and commands run: which of them fits, in PATH or in the cache, and how the pinned one
// comes there. kubectl and helm have to fit the cluster; sops and gitleaks to be as new as they are pinned.
import { chmodSync, existsSync, renameSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { type Artifact, artifactOf } from '../engine/artifact.ts'
import type { Fetch } from '../engine/delivery.ts'
import { Fault } from '../ground/fault.ts'
import { $, orFault } from '../ground/laptop.ts'
import type { Pins } from '../site/model.ts'

export const toolNames = ['kubectl', 'helm'] as const
/** What ./task secrets runs. */
export const secretTools = ['sops', 'gitleaks'] as const
export type ToolName = (typeof toolNames)[number] | (typeof secretTools)[number]

/** A program that is there, and may be used for this cluster. */
export interface Tool {
  name: ToolName
  path: string
  version: string
  from: 'PATH' | 'cache'
}

/** What is found in PATH under the name of a tool; `misfit` says why it is not used. */
export interface Found {
  path: string
  version: string
  misfit?: string
}

/** The Kubernetes that runs in the cluster: Talos is given the same one as k3s. */
export const kubernetesOf = (pins: Pins): string => pins['k3s']?.version.replace(/\+.*/, '') ?? ''

/** The minor version of a Kubernetes, of its client or server: 36 of v1.36; NaN where it is none. */
const minorOf = (version: string): number => Number(/^v?1\.(\d+)/.exec(version)?.[1] ?? Number.NaN)

/**
 * Whether kubectl may be used with an API server: within one minor version of it, older or newer
 * (https://kubernetes.io/releases/version-skew-policy/#kubectl).
 */
export const kubectlFits = (kubectl: string, server: string): boolean =>
  Math.abs(minorOf(kubectl) - minorOf(server)) <= 1

/** Minor versions of Kubernetes older than its own client with which Helm works (https://helm.sh/docs/topics/version_skew). */
const HELM_BEHIND = 3

/** How each says its version, and the version in what it says. */
const versions: Record<ToolName, { words: string[]; pattern: RegExp }> = {
  kubectl: { words: ['version', '--client', '--output=json'], pattern: /"gitVersion": *"(v[^"]+)"/ },
  helm: { words: ['version'], pattern: /[^a-zA-Z]Version:"(v[^"]+)"/ },
  // Without the flag it asks the internet for a newer one.
  sops: { words: ['--disable-version-check', '--version'], pattern: /^sops v?(\d+\.\d+\.\d+)/m },
  gitleaks: { words: ['version'], pattern: /^v?(\d+\.\d+\.\d+)/m },
}

/**
 * Why what `kubectl version --client` or `helm version` prints is not used with this Kubernetes; undefined where it fits. Helm
 * must be 4, whose flags pages use, and built with a client of this Kubernetes, or of one that is at most three minor versions
 * newer: Helm promises nothing for a server that is newer than its client. The others must be as new as the one that is `pinned`,
 * and of its major version.
 */
export function misfit(name: ToolName, said: string, kubernetes: string, pin = ''): string | undefined {
  const version = versionIn(name, said)
  if (version === undefined) return 'it does not say its version'
  if (name === 'sops' || name === 'gitleaks') {
    const [[major = 0, minor = 0], [wanted = 0, least = 0]] = [version, pin].map((text) =>
      text.replace(/^v/, '').split('.').map(Number),
    ) as [number[], number[]]
    return major === wanted && minor >= least ? undefined : `it must be ${wanted}.${least} or newer`
  }
  const minor = minorOf(kubernetes)
  if (name === 'kubectl')
    return kubectlFits(version, kubernetes)
      ? undefined
      : `it must be within one minor version of the cluster, ${kubernetes}`
  if (!version.startsWith('v4.')) return 'pages use flags of Helm 4'
  const client = minorOf(/KubeClientVersion:"([^"]+)"/.exec(said)?.[1] ?? '')
  return client >= minor && client - minor <= HELM_BEHIND
    ? undefined
    : `its client is not one for the Kubernetes of the cluster, ${kubernetes}`
}

const versionIn = (name: ToolName, said: string): string | undefined => versions[name].pattern.exec(said)?.[1]

/** What a user has set for clusters of their own, taken away: variables for `$`. `own` are those of this process. */
export const clear = (own: NodeJS.ProcessEnv = { ...process.env }): Record<string, string | undefined> => ({
  ...Object.fromEntries(
    Object.keys(own)
      .filter((name) => /^(KUBE|HELM_)/.test(name))
      .map((name) => [name, undefined]),
  ),
  // Nor the preferences in a file.
  KUBERC: 'off',
})

/** The tool that PATH names; undefined where there is none. `path`: another PATH than that of this process. */
export async function inPath(name: ToolName, pins: Pins, path?: string): Promise<Found | undefined> {
  const env = { ...clear(), ...(path === undefined ? {} : { PATH: path }) }
  // A program of 60 MB that no cache of the disk has yet takes seconds to start.
  const run = $({ nothrow: true, timeout: '10s', env })
  const { stdout } = await run`command -v ${name} && ${name} ${versions[name].words} 2> /dev/null`
  const [at = '', ...said] = stdout.split('\n')
  if (!at.startsWith('/')) return undefined
  const why = misfit(name, said.join('\n'), kubernetesOf(pins), pins[name]?.version)
  return {
    path: at,
    version: versionIn(name, said.join('\n')) ?? 'of an unknown version',
    ...(why === undefined ? {} : { misfit: why }),
  }
}

/** The tool for this computer that is pinned; undefined where no build for its system is. */
export function pinned(name: ToolName, pins: Pins): Artifact | undefined {
  if (process.platform !== 'linux') return undefined
  return artifactOf(pins, name, process.arch === 'x64' ? 'amd64' : process.arch)
}

/** Where the program of a download lies in the cache: some are the download itself, others stand in a tarball. */
export const programOf = ({ name }: Artifact, dir: string): string =>
  join(dir, name.replace(/\.tar\.gz$/, ''))

/** Whether the pinned program was fetched before. It is proven again when it is used. */
export const isCached = (artifact: Artifact, dir: string): boolean => existsSync(programOf(artifact, dir))

/**
 * The tool in PATH where it fits, else the pinned one, which is fetched when it is not in the cache, `dir`. Throws a Fault where
 * neither can be had. `searched`: another PATH than that of this process.
 */
export async function toolFor(
  name: ToolName,
  pins: Pins,
  dir: string,
  fetch: Fetch,
  searched?: string,
): Promise<Tool> {
  const found = await inPath(name, pins, searched)
  if (found !== undefined && found.misfit === undefined) return { name, ...found, from: 'PATH' }
  const artifact = pinned(name, pins)
  if (artifact === undefined)
    throw new Fault(`${missing(name, found)}, and none is pinned for this system`, {
      next: howTo(name, pins),
    })
  const { path } = await fetch(artifact)
  const program = programOf(artifact, dir)
  if (program !== path) await unpack(path, name, program)
  chmodSync(program, 0o555)
  return { name, path: program, version: pins[name]?.version ?? '', from: 'cache' }
}

/** How a tool is had that is neither in PATH nor pinned for this system. */
export const howTo = (name: ToolName, pins: Pins): string =>
  `install ${name} ${pins[name]?.version ?? ''}, for example by: brew install ${name === 'kubectl' ? 'kubernetes-cli' : name}`

/** What of a tool is wrong in PATH. */
export const missing = (name: ToolName, found: Found | undefined): string =>
  found === undefined
    ? `${name} is not installed`
    : `${name} ${found.version} is in PATH: ${found.misfit ?? ''}`

/** The program of a tarball that was proven, whole or not at all; one that was unpacked before is compared with it. */
async function unpack(tarball: string, name: string, to: string): Promise<void> {
  const directory = name === 'helm' ? `linux-${process.arch === 'x64' ? 'amd64' : process.arch}/` : ''
  const member = `${directory}${name}`
  const words = ['tar', '--extract', '--gzip', '--to-stdout', '--file', tarball, member]
  const { exitCode } = await $({ nothrow: true })`${words} | cmp --silent - ${to}`
  if (exitCode === 0) return
  const part = `${to}.${process.pid}.part`
  try {
    await orFault($`${words} > ${part}`, { seconds: 120 })
    renameSync(part, to)
  } finally {
    rmSync(part, { force: true })
  }
}
