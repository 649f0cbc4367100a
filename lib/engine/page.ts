// What a page is: its name, where it runs, and the list of facts it makes true.
import type { Secrets } from '../ground/secret.ts'
import type { Command } from '../ground/sh.ts'
import type { Env, Pins, Site } from '../site/model.ts'
import type { On } from '../site/place.ts'
import type { Step } from './step.ts'

/** What a page knows of its machine before any check. */
export interface Facts {
  name: string
  /** As a site document names it: `debian-13`, or what os-release says of an unknown one. */
  os: string
  arch: string
  model: string
  /** The user of the login. */
  user: string
  /** The laptop's own address as the machine sees it; empty on this computer. */
  via: string
  /** The port of sshd there, as the connection came to it. Absent on this computer, and before there is a connection. */
  port?: number
  /** The host keys that are pinned for it on the laptop, as `ssh-ed25519 AAAA…`. */
  hostKeys?: string[]
  /** A digest of its machine-id: another machine at the same address has another one. Absent where it cannot be read. */
  id?: string
}

/** What a page may use to write its steps. */
export interface Context {
  env: Env
  site: Site
  pins: Pins
  machine: Facts
  /** A secret of this site; `make` runs the first time it is needed, on the laptop. Plans and prints never ask for it. */
  secrets: Secrets
  /** Whether the laptop has a secret of this name. */
  has: (name: string) => boolean
  /** The directory of the site on the laptop: secrets, public keys, notes. */
  state: string
}

export type Layer = 'L0' | 'L1' | 'L2' | 'L3' | 'L4' | 'policy' | 'L5' | 'L6'

export interface About {
  layer: Layer
  on: On
  /** The one machine of them that is meant, by its name. */
  at?: string
  /** Pages that must be done before this one begins, by their names. Others may fail, and this one runs all the same. */
  needs?: readonly string[]
  /** Shell functions of lib/ that the checks and commands may use. A printed page gets those that it uses, behind it. */
  library?: Command
  /** Read-only bash of the page's own that runs once before its checks: its variables, functions and $FK_TMP are theirs. */
  prepare?: Command
  /** When it has changed something, everything that holds on the machines of the site is verified behind it. */
  verifies?: true
  /** What the laptop makes before the page is applied; plans, prints and rehearsals do without. */
  make?: (context: Context) => Promise<void>
}

export interface Page extends About {
  /** `00-host-harden` */
  name: string
  file: string
  summary: string
  steps: (context: Context) => Step[]
}
