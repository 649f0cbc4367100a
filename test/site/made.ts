// A site for tests, from as little as a test has to say: the schema's defaults and everything that follows are filled in.
import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { type JsonSchema, checkSchema, pathText } from '../../lib/ground/document.ts'
import { root } from '../../lib/ground/root.ts'
import { loadConfig, siteNames } from '../../lib/site/config.ts'
import { complete } from '../../lib/site/defaults.ts'
import { formats } from '../../lib/site/formats.ts'
import type {
  BackupTarget,
  Data,
  MachineSpec,
  Role,
  Site,
  SiteDocument,
  Vault,
  VmSpec,
} from '../../lib/site/model.ts'

/** Metal is a debian-13 and a virtual machine a flatcar, on amd64, unless it says otherwise. */
export type ShortMachine = Partial<Omit<MachineSpec, 'name' | 'roles' | 'vm' | 'vault'>> & {
  name: string
  roles: readonly Role[]
  vm?: Partial<VmSpec> & { host: string }
  vault?: Partial<Vault>
}

/** A document, in which the name (trial), the defaults and the rest of each machine may be left out. */
export type Short = Partial<Omit<SiteDocument, 'machines' | 'cluster'>> & {
  machines: ShortMachine[]
  cluster?: Partial<SiteDocument['cluster']>
}

const schema = JSON.parse(readFileSync(join(root, 'config/schema/site.json'), 'utf8')) as JsonSchema

/** The site of a short document. Fails the test where the schema finds a fault; the rules across a document are not asked. */
export function made(short: Short): Site {
  const machines = short.machines.map((machine) => ({
    os: machine.vm === undefined ? 'debian-13' : 'flatcar',
    arch: 'amd64',
    ...machine,
  }))
  const document = structuredClone({ name: 'trial', ...short, machines })
  const { problems } = checkSchema(schema, formats, document)
  assert.deepEqual(
    problems.map(({ path, reason }) => `${pathText(path)} ${reason}`),
    [],
  )
  return complete(document as unknown as SiteDocument)
}

/** Boards on which k3s runs on the metal, one for each role: pi-1 at 192.0.2.11, pi-2 at 192.0.2.12, …; the tunnel has all. */
export const metal = (...roles: ('server' | 'agent')[]): ShortMachine[] =>
  roles.map((role, i) => ({
    name: `pi-${i + 1}`,
    roles: ['host', role],
    arch: 'arm64',
    address: `192.0.2.${11 + i}`,
    ...(i === 0 ? {} : { tunnel_address: `10.66.0.${11 + i}` }),
  }))

/** The names of the shipped sites that have one virtual machine at most, so that FK_NODE_OS and FK_VM_* mean it. */
export const sitesOfOne = (): string[] =>
  siteNames().filter(
    (site) => loadConfig({ env: {}, site }).site.machines.filter(({ vm }) => vm !== undefined).length <= 1,
  )

/** The same site, and in the vaults of its hosts what a test says of them. */
export const withVault = (site: Site, vault: Partial<Vault>): Site => ({
  ...site,
  machines: site.machines.map((machine) =>
    machine.vault === undefined ? machine : { ...machine, vault: { ...machine.vault, ...vault } },
  ),
})

/** The same site, and of its virtual machines what a test says of them. */
export const withVm = (site: Site, vm: Partial<VmSpec>): Site => ({
  ...site,
  machines: site.machines.map((machine) =>
    machine.vm === undefined ? machine : { ...machine, vm: { ...machine.vm, ...vm } },
  ),
})

/** What a target over SSH is known by. */
export const hostKey = `ssh-ed25519 ${'A'.repeat(68)}`

/** Backups of the cluster to these places, every night. */
export const backupsTo = (...targets: BackupTarget[]): Pick<Data, 'targets' | 'keep'> => {
  const to = targets.map(({ name }) => name)
  return { targets, keep: [{ what: 'cluster', every: '*-*-* 03:17', copies: 14, to, rpo: '24h', rto: '1h' }] }
}

/** Two hosts with a virtual machine each, which differ in all that they can; and a Raspberry Pi with Ubuntu beside them, of metal. */
export const estate = (): Site =>
  made({
    name: 'estate',
    machines: [
      {
        name: 'north',
        roles: ['host'],
        address: '192.0.2.10',
        vault: { disk: '/dev/disk/by-id/usb-Samsung_T7-0:0' },
      },
      {
        name: 'south',
        roles: ['host'],
        address: '192.0.2.20',
        tunnel_address: '10.66.0.20',
        vault: { disk: '/dev/disk/by-id/nvme-Samsung_990', name: 'inner', tpm2_pcrs: [] },
      },
      { name: 'north-1', roles: ['server'], vm: { host: 'north', memory: 4096, cpus: 2, disk: 30 } },
      {
        name: 'south-1',
        roles: ['agent'],
        vm: { host: 'south', memory: 16384, cpus: 8, disk: 100, accel: 'tcg', console: true },
      },
      {
        name: 'metal',
        roles: ['host', 'agent'],
        os: 'ubuntu-24.04',
        arch: 'arm64',
        board: 'rpi-cm5',
        address: '192.0.2.30',
        tunnel_address: '10.66.0.30',
      },
    ],
  })
