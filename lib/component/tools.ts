// kubectl and helm of this computer: which of them fits the cluster, in PATH or in the cache, and how the pinned one comes there.
import { chmodSync, existsSync, renameSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { type Artifact, artifactOf } from '../engine/artifact.ts'
import type { Fetch } from '../engine/delivery.ts'
import { Fault } from '../ground/fault.ts'
import { $, orFault } from '../ground/laptop.ts'
import type { Pins } from '../site/model.ts'

export const toolNames = ['kubectl', 'helm'] as const
export type ToolName = (typeof toolNames)[number]

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

/**
 * Why what `kubectl version --client` or `helm version` prints is not used with this Kubernetes; undefined where it fits. Helm
 * must be 4, whose flags pages use, and built with a client of this Kubernetes, or of one that is at most three minor versions
 * newer: Helm promises nothing for a server that is newer than its client.
 */
export function misfit(name: ToolName, said: string, kubernetes: string): string | undefined {
  const version = versionIn(name, said)
  if (version === undefined) return 'it does not say its version'
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

const versionIn = (name: ToolName, said: string): string | undefined =>
  (name === 'kubectl' ? /"gitVersion": *"(v[^"]+)"/ : /[^a-zA-Z]Version:"(v[^"]+)"/).exec(said)?.[1]

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
  const words = name === 'kubectl' ? ['version', '--client', '--output=json'] : ['version']
  const { stdout } = await run`command -v ${name} && ${name} ${words} 2> /dev/null`
  const [at = '', ...said] = stdout.split('\n')
  if (!at.startsWith('/')) return undefined
  const why = misfit(name, said.join('\n'), kubernetesOf(pins))
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

/** Where the program of a download lies in the cache: kubectl is the download itself, helm stands in a tarball. */
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
  const member = `linux-${process.arch === 'x64' ? 'amd64' : process.arch}/${name}`
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
