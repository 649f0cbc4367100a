// The encrypted disk: hides how it is recognised and which keys it has, for the page host-vault and for ./task vault.
import { randomBytes, randomInt } from 'node:crypto'
import type { Context } from '../engine/page.ts'
import { uuidOf } from '../ground/keys.ts'
import { makePassphrase } from '../ground/passphrase.ts'
import { Secret } from '../ground/secret.ts'
import { Command, library } from '../ground/sh.ts'
import { vaultSpec } from '../site/machines.ts'

/** The functions that the checks and commands about a vault share, as they stand. */
export const vaultShell = library('lib/host/thief.sh', 'lib/host/vault.sh')

/** What is fixed for the vault of one machine. */
export interface Vault {
  /** /dev/disk/by-id/… */
  disk: string
  /** /dev/mapper/NAME */
  name: string
  /**
   * UUID of the LUKS2 header, by which a disk is known as this vault's. It follows from the names of site, machine and vault,
   * so that a host that was installed anew, or a disk in another enclosure, is still recognised.
   */
  uuid: string
  /** Label of the LUKS2 header, for a person who finds the disk. */
  label: string
  unit: string
  /** Lines: the passphrase (slot 0), the recovery key (slot 1), the PIN where one is wanted. Made once, on the laptop. */
  keys: Secret
  /** The recovery key alone, for a person who writes it down. */
  recovery: Secret
  /** The name under which the laptop keeps the header. */
  backup: string
}

/** Reads the vault of `machine` from the site. Nothing is made or asked yet. */
export function vaultOf({
  site,
  machine,
  secrets,
}: Pick<Context, 'site' | 'secrets'> & { machine: { name: string } }): Vault {
  const { disk, name, tpm2_pin } = vaultSpec(site, machine.name)
  const passphrase = secrets(`${machine.name}-${name}-passphrase`, makePassphrase)
  const recovery = secrets(`${machine.name}-${name}-recovery-key`, makeRecoveryKey)
  const pin = tpm2_pin ? [secrets(`${machine.name}-${name}-pin`, makePin)] : []
  return {
    disk,
    name,
    uuid: uuidOf('vault', `${site.name}/${machine.name}/${name}`),
    label: `${machine.name}-${name}`.slice(0, 47),
    unit: `systemd-cryptsetup@${name.replaceAll('-', '\\x2d')}.service`,
    keys: new Secret(`${machine.name}-${name}-keys`, async () => {
      const lines = await Promise.all([passphrase, recovery, ...pin].map((one) => one.resolve()))
      return `${lines.join('\n')}\n`
    }),
    recovery,
    backup: `${machine.name}-${name}-header`,
  }
}

/** 256 bits as systemd-cryptenroll --recovery-key writes them: modhex, the same letters on every keyboard layout. */
export function makeRecoveryKey(bytes: Uint8Array = randomBytes(32)): string {
  const letters = [...bytes].map((b) => `${MODHEX[b >> 4]}${MODHEX[b & 15]}`).join('')
  return letters.match(/.{8}/g)?.join('-') ?? ''
}

/** Eight digits: the TPM2 lets nobody try many. */
export const makePin = (): string => String(randomInt(100_000_000)).padStart(8, '0')

const MODHEX = 'cbdefghijklnrtuv'

/** A text that becomes part of a command as it is, unquoted: for names that are known to be plain. */
export const bare = (text: string): Command => new Command(text, undefined, '')
