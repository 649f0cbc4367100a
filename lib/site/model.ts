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
  FK_OUT_DIR: string
  FK_LOG_DIR: string
  FK_DOWNLOAD_DIR: string
  FK_MIRROR?: string
  FK_YES: boolean
  FK_DEADMAN_SECONDS: number
  FK_LOCK_WAIT_SECONDS: number
  FK_DRAIN: 'evict' | 'force'
  FK_NODE_OS?: 'flatcar' | 'talos'
  FK_VM_RAM_MB?: number
  FK_VM_VCPUS?: number
  FK_VM_DISK_GB?: number
  FK_VM_ACCEL?: 'kvm' | 'tcg'
  FK_TEST_REQUIRE: string[]
}

export type Role = 'host' | 'server' | 'agent'
/** Systems that pages harden with apt, and those that are what their image and first boot make of them. */
export type System = 'debian-13' | 'ubuntu-24.04' | 'raspios-13' | 'flatcar' | 'talos'
export type Board = 'pc' | 'rpi4' | 'rpi5' | 'rpi-cm5'

/** The encrypted disk of a host for the data of the cluster. */
export interface Vault {
  disk: string
  /** In /dev/mapper. */
  name: string
  kdf_memory_kib: number
  discard: boolean
  /** What the TPM2's key is bound to; none: the TPM2 gets no key. */
  tpm2_pcrs: number[]
  /** The TPM2 wants a PIN besides. */
  tpm2_pin: boolean
  /** A key lies in the root file system, which is encrypted itself, and the TPM2 gets none. */
  key_file: boolean
}

/** The size of a virtual machine (MiB, GiB), and the machine or hypervisor that runs it. */
export interface VmSpec {
  host: string
  memory: number
  cpus: number
  disk: number
  accel: 'kvm' | 'tcg'
  console: boolean
}

export interface MachineSpec {
  name: string
  roles: Role[]
  os: System
  arch: 'amd64' | 'arm64'
  /** What starts it. Default: pc. */
  board: Board
  /** In MiB; of a virtual machine vm.memory says it. */
  memory?: number
  /** Where SSH and other machines find it; absent where FK_HOST says it. */
  address?: string
  user?: string
  ssh_port?: number
  /** Its end of the tunnel, where it is not the host of tunnel.at. */
  tunnel_address?: string
  mac?: string
  /** The port of the router that it is plugged into. */
  port?: string
  vm?: VmSpec
  vault?: Vault
  disk?: { id?: string; etcd_gib?: number }
  disks?: { use: string; id?: string }[]
  schematic?: string
  labels?: Record<string, string>
  taints?: string[]
  interfaces?: { network: string; address?: string }[]
}

export interface Person {
  name: string
  email?: string
  roles: ('owner' | 'admin' | 'deployer' | 'viewer')[]
  ssh_keys?: string[]
  groups?: string[]
}

/** What has an address and is not ours to configure. */
export interface Device {
  name: string
  kind: 'router' | 'switch' | 'nas' | 'hypervisor' | 'ups' | 'workstation' | 'server'
  address?: string
  model?: string
  why?: string
  person?: string
  memory?: number
  nfs?: string[]
}

/** A network that is ours: a zone of the firewall. */
export interface NetworkSpec {
  name: string
  network: string
  gateway?: string
  vlan?: number
  ports?: string[]
  /** It is behind a bridge of this host, with virtual machines in it. */
  bridge?: { at: string; name: string }
  /** FIRST-LAST */
  dhcp?: string
  ipv6?: string
  pools?: Record<string, string | { range: string; auto?: boolean }>
}

/** `any`, or such as tcp/443. */
export type Ports = 'any' | string[]

export interface Allow {
  from: string | string[]
  to: string | string[]
  ports: Ports
  why: string
}

export interface Never {
  from: string | string[]
  to: string | string[]
  ports?: Ports
}

/** Who may open a connection to whom. */
export interface Router {
  kind: 'host' | 'routeros' | 'opnsense' | 'none'
  at?: string
  device?: string
  wan?: { interface?: string; over?: string; masquerade?: boolean; resolvers?: string[] }
  allow: Allow[]
  never: Never[]
  routes: { to: string; via: string }[]
  forwards: { port: string; to: string }[]
}

export interface Peer {
  name: string
  address: string
  person?: string
}

export interface Tunnel {
  kind: 'wireguard' | 'tailscale' | 'none'
  /** The host where it ends, or `router`. */
  at?: string
  in?: 'cluster'
  interface: string
  port: number
  network?: string
  address?: string
  routes?: string[]
  key?: string
  peers: Peer[]
}

/** The identity provider by which people log in to the API. */
export interface Oidc {
  issuer: string
  client: string
  /** The claim that names them; email where it is left out. */
  username?: string
  prefix?: string
  /** PEM: the authority of the issuer's own certificate. Absent: one that the system trusts. */
  ca?: string
}

export interface Cluster {
  api?: { vip?: string; keeper?: 'keepalived' | 'talos' | 'none'; names?: string[] }
  pods: string
  services: string
  servers_take_pods: boolean
  oidc?: Oidc
  mirror?: 'embedded'
}

export interface Gateway {
  name: string
  class?: string
  kind?: 'http' | 'dns' | 'syslog'
  address: string
  listen?: 'own' | 'host'
  audience: string[]
  entry?: string
  waf?: string
  login?: string
  rate_per_minute?: number
  hosts?: string[]
}

/** A DNS zone. */
export interface Zone {
  zone: string
  authority: string
  writer: string
  audience: string[]
  points_at: string
  issuer?: string
}

/** A component by its name, or with what it is given. */
export type Choice = string | { use: string; [parameter: string]: unknown }

export type App = string | { name: string; [parameter: string]: unknown }

export interface Gitops {
  repository?: string
  mirror?: string
  engine?: string
  path?: string
  application?: string
  namespace?: string
  project?: string
  groups?: Record<string, Record<string, unknown>>
  sync?: Record<string, boolean>
}

/** A place for backups outside of the cluster. */
export interface BackupTarget {
  name: string
  kind: 's3' | 'sftp' | 'directory' | 'rest'
  endpoint?: string
  bucket?: string
  region?: string
  prefix?: string
  host?: string
  port?: number
  user?: string
  path?: string
  host_key?: string
  append_only?: boolean
  key?: string
}

/** What is backed up, when and whereto; rpo and rto such as 15m. */
export interface Keep {
  what: string
  engine?: string
  every: string
  copies: number
  to: string[]
  rpo: string
  rto: string
}

export interface StorageClass {
  name: string
  use: string
  replicas?: number
  default?: boolean
  at?: string
  path?: string
  on?: Record<string, string>
}

export interface Data {
  /** An age recipient beside the laptop's own. */
  recovery?: string
  classes: StorageClass[]
  targets: BackupTarget[]
  keep: Keep[]
  not: Record<string, string>
}

/** What need not keep to rules of config/policy/rules.yaml for a time. */
export interface PolicyException {
  rules: string[]
  namespace: string
  labels?: Record<string, string>
  why: string
  /** The last day on which it counts, in UTC. */
  until: string
}

/** What the API server refuses to run. */
export interface Policy {
  mode: 'audit' | 'enforce'
  registries: string[]
  exceptions: PolicyException[]
}

/** What only a person can do, and how it is seen to be done. */
export interface Gate {
  id: string
  kind: 'account' | 'token' | 'choice' | 'paper' | 'cable' | 'media' | 'ceremony' | 'router' | 'made'
  what: string
  gives?: string
  needed_by: string
  proof: Record<string, unknown>
  again?: string
}

/** A site document as a person may write it; config/schema/site.json describes every key. */
export interface SiteDocument {
  name: string
  timezone: string
  people?: Person[]
  machines: (Omit<MachineSpec, 'board' | 'vault'> & { board?: Board; vault?: Partial<Vault> })[]
  devices?: Device[]
  networks?: NetworkSpec[]
  router?: Partial<Router>
  tunnel?: Partial<Tunnel>
  cluster: Cluster
  gateways?: Gateway[]
  names?: Zone[]
  components: Record<string, Choice | Choice[]>
  policy: Policy
  gitops?: Gitops
  apps?: Record<string, App[]>
  data?: Partial<Data>
  gates?: Gate[]
  recovery?: { when: string; rto: string; steps: string[]; needs: string[] }[]
  accepted?: { what: string; why: string; until: string }[]
}

/** A site with everything that follows from its document: lib/site/defaults.ts. */
export interface Site extends Required<
  Omit<SiteDocument, 'machines' | 'router' | 'tunnel' | 'data' | 'gitops'>
> {
  machines: MachineSpec[]
  router: Router
  tunnel: Tunnel
  data: Data
  gitops?: Gitops
}

export type PerArch = { amd64?: string; arm64?: string; any?: string }

/** One record of config/versions.yaml; `{version}` is already filled in where it stands in a URL. */
export interface Pin {
  version: string
  url: PerArch
  sha256?: PerArch
  sha512?: PerArch
  signature?: { kind: 'gpg' | 'cosign' | 'minisign'; key: string; key_url?: string; url: PerArch }
  /** Where its maker publishes digests. */
  sums?: PerArch
  /** Where its maker names the versions that are out; `name`: under which name, `channel`: the one that all are to run. */
  releases?: { url: string; name?: string; channel?: boolean }
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
