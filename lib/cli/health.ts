// The words of ./task status: what machines report, what a page last came to, and what of it needs attention.
import type { Note } from '../k3s/backup.ts'

/** What a machine reports of itself. */
export interface Answers {
  name: string
  /** Why it does not answer, and what to do; `behind`: because the host that it is behind does not. */
  silent?: { why: string; next?: string; behind?: true }
  /** A virtual machine that no page has made yet; of a host, the names of those behind it. */
  notBuilt?: true
  absent?: string[]
  /** Which machine it is: the `id` of its facts. */
  id?: string
  /** How it is reached: `tunnel`, `direct`, `here`, or `via` its host. */
  way?: string
  /** Seconds that its clock is ahead of the laptop's. */
  ahead?: number
  /** Seconds since it started. */
  up?: number
  system?: string
  kernel?: string
  /** Why it has to reboot; empty when it need not. */
  restart?: string
  /** Units that failed, and file systems that are nearly full, as text. */
  failed?: string
  full?: string
  /** Pages that changed something, with the files that somebody else has changed since. */
  pages: { name: string; changed: string[] }[]
  k3s?: {
    active: boolean
    version: string
    staged: string[]
    /** The version that an upgrade is on its way to. */
    upgrading?: string
    /** The certificate that ends first. */
    certificate?: { days: number; path: string }
    /** The last error line of k3s. */
    said: string
    /** What was interrupted: a restore of this node, or what was to follow when its data was archived. */
    unfinished?: string
  }
  nodes?: NodeState[]
  /** What 33-certificates has made; absent where the API was not asked, or has none. */
  certificates?: CertificateState[]
  notes: Note[]
}

/** A certificate of a gateway, or of the CA that signs in the cluster. */
export interface CertificateState {
  name: string
  /** Why it is not ready; empty when it is. */
  why: string
  /** When it ends; empty where there is none yet. */
  until: string
  /** An apply renews it; others renew themselves a month before their end. */
  byApply: boolean
}

/** A node as the API reports it. */
export interface NodeState {
  name: string
  version: string
  ready: string
  /** Why, in the kubelet's word. */
  reason: string
  voter: string
  cordoned: boolean
  /** Ours, when a page has cordoned it. */
  away: string
  staged: string
}

export interface Concern {
  state: 'bad' | 'warn'
  of: string
  says: string
  next: string
}

/** Days before its end at which a certificate is a concern. */
export const RENEW = 90
/** The same of one that renews itself a month before its end. */
export const RENEWED = 20

/** `40 min`, `5 h`, `12 d`. A time that lies ahead was noted by a clock that has been set back since: nobody knows its age. */
export function age(time: string, now: Date): string {
  const minutes = (now.getTime() - Date.parse(time)) / 60_000
  if (!(minutes > -2)) return 'of unknown age'
  return minutes < 120
    ? `${Math.max(0, Math.floor(minutes))} min`
    : minutes < 48 * 60
      ? `${Math.floor(minutes / 60)} h`
      : `${Math.floor(minutes / 1440)} d`
}

/** How a page was last run, as a participle. */
export const done = (mode: string) => ({ apply: 'applied', verify: 'verified', undo: 'undone' })[mode] ?? mode

/** The newest note of some kinds that went well. */
export const newest = (notes: Note[], kinds: (which: string) => boolean): Note | undefined =>
  notes
    .filter(({ which, ok }) => ok && kinds(which.replace(/\.good$/, '')))
    .sort((a, b) => (a.time < b.time ? 1 : -1))[0]

export const isDrill = (which: string) => which === 'drill'
export const isBackup = (which: string) => !['drill', 'restore'].includes(which)
