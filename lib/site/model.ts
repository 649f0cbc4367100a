// What people write down about an installation, as types: the FK_ variables, the site document, the pins.

/** The FK_ variables; config/schema/env.json says what each is for. Paths are absolute. */
export interface Env {
  FK_HOST?: string
  FK_SITE: string
  FK_SSH_KEY?: string
  FK_SSH_CONFIG?: string
  FK_KNOWN_HOSTS: string
  FK_SUDO_PASSWORD_FILE?: string
  FK_STATE_DIR: string
  FK_AGE_IDENTITY: string
  FK_LAB_DIR: string
  FK_LOG_DIR: string
  FK_DOWNLOAD_DIR: string
  FK_MIRROR?: string
  FK_YES: boolean
  FK_DEADMAN_SECONDS: number
  FK_LOCK_WAIT_SECONDS: number
  FK_DRAIN: 'evict' | 'force'
  FK_NODE_OS: 'flatcar' | 'talos'
  FK_VM_RAM_MB: number
  FK_VM_VCPUS: number
  FK_VM_DISK_GB: number
  FK_VM_ACCEL: 'kvm' | 'tcg'
  FK_TEST_REQUIRE: string[]
}

export type Role = 'host' | 'node' | 'server' | 'agent'

export interface MachineSpec {
  name: string
  roles: Role[]
  os: 'debian-13' | 'ubuntu-24.04' | 'raspios-13'
  arch: 'amd64' | 'arm64'
  /** Where SSH finds it; absent where FK_HOST says it. */
  address?: string
  user?: string
  port?: number
  tunnel_address?: string
}

export interface Peer {
  name: string
  address: string
}

export interface Egress {
  name: string
  /** An address, a network, or `any`. */
  to: string
  protocol: 'tcp' | 'udp'
  ports: number[]
}

export type Slot =
  | 'cni'
  | 'gateway'
  | 'runtime'
  | 'policy'
  | 'secrets'
  | 'gitops'
  | 'volumes'
  | 'objects'
  | 'metrics'
  | 'logs'
  | 'detection'
  | 'posture'

/** A site document with its defaults filled in; config/schema/site.json describes every key. */
export interface Site {
  name: string
  timezone: string
  machines: MachineSpec[]
  admin: { group: string }
  tunnel: { interface: string; port: number; network: string; address: string; peers: Peer[] }
  /** Absent where the metal itself is the node. */
  nodes?: { bridge: string; network: string; console: boolean }
  firewall: { egress: 'open' | 'listed'; allow: Egress[] }
  vault: { disk: string; name: string; kdf_memory_kib: number; discard: boolean; tpm2_pcrs: number[] }
  backup: Backup
  components: Partial<Record<Slot, string>>
}

/** When the cluster is backed up, and where its bundles are copied beside the node itself; each place is optional. */
export interface Backup {
  schedule: string
  keep: number
  /** An age recipient beside the laptop's own. */
  recovery?: string
  directory?: { path: string }
  ssh?: { host: string; port: number; user: string; path: string; host_key: string }
  s3?: { endpoint: string; bucket: string; region: string; prefix: string }
}

export type PerArch = { amd64?: string; arm64?: string; any?: string }

/** One record of config/versions.yaml; `{version}` is already filled in where it stands in a URL. */
export interface Pin {
  version: string
  url: PerArch
  sha256?: PerArch
  sha512?: PerArch
  signature?: { kind: 'gpg' | 'cosign' | 'minisign'; key: string; key_url?: string; url: PerArch }
  proof: string
  /** Why there is no proof yet: it is not downloaded. */
  unproven?: string
}

export type Pins = Record<string, Pin>

export interface Config {
  env: Env
  site: Site
  pins: Pins
}
