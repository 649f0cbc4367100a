// The age keys by which a cluster opens what is encrypted for it in Git: how the laptop keeps them.
import { createRequire } from 'node:module'

const load = createRequire(import.meta.url)

/** The secret of the laptop with the keys of the cluster, the newest first, each on a line. */
export const clusterKeys = 'sops-cluster-key'

/** Stands above the keys while files are being encrypted for the newest one. */
export const rotating = '# files are being encrypted for the first of these'

/** The keys of a text, as lines of an age identity. */
export const keyLines = (text: string): string[] => text.match(/^AGE-SECRET-KEY-\S+$/gm) ?? []

/** A new key of the cluster: post-quantum, because what lies in Git is kept by whoever could read it later. */
export const makeKey = (): Promise<string> =>
  (load('age-encryption') as typeof import('age-encryption')).generateHybridIdentity()
