// The encrypted disk: its secrets, its identity, and the guards that stand before anything that could destroy data.
import { randomBytes } from 'node:crypto'
import type { Context } from '../engine/page.ts'
import type { Demand } from '../engine/step.ts'
import { makePassphrase, uuidOf } from '../ground/keys.ts'
import { Secret } from '../ground/secret.ts'
import { Command, library, sh } from '../ground/sh.ts'

/** The functions that the checks and commands about a vault share: lib/host/vault.sh, as it stands. */
export const vaultShell = library('lib/host/vault.sh')

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
  /** Two lines: the passphrase (slot 0) and the recovery key (slot 1). Both are made once, on the laptop. */
  keys: Secret
  /** The name under which the laptop keeps the header. */
  backup: string
}

/** Reads the vault of `machine` from the site. Nothing is made or asked yet. */
export function vaultOf({
  site,
  machine,
  secrets,
}: Pick<Context, 'site' | 'secrets'> & { machine: { name: string } }): Vault {
  const { disk, name } = site.vault
  const passphrase = secrets(`${machine.name}-${name}-passphrase`, makePassphrase)
  const recovery = secrets(`${machine.name}-${name}-recovery-key`, makeRecoveryKey)
  return {
    disk,
    name,
    uuid: uuidOf('vault', `${site.name}/${machine.name}/${name}`),
    label: `${machine.name}-${name}`.slice(0, 47),
    unit: `systemd-cryptsetup@${name.replaceAll('-', '\\x2d')}.service`,
    keys: new Secret(
      `${machine.name}-${name}-keys`,
      async () => `${await passphrase.resolve()}\n${await recovery.resolve()}\n`,
    ),
    backup: `${machine.name}-${name}-header`,
  }
}

/** 256 bits as systemd-cryptenroll --recovery-key writes them: modhex, the same letters on every keyboard layout. */
export function makeRecoveryKey(bytes: Uint8Array = randomBytes(32)): string {
  const letters = [...bytes].map((b) => `${MODHEX[b >> 4]}${MODHEX[b & 15]}`).join('')
  return letters.match(/.{8}/g)?.join('-') ?? ''
}

const MODHEX = 'cbdefghijklnrtuv'

/** What must be true before anything is written to the disk. The same questions are asked again under the disk's lock. */
export function guards({ disk, name, uuid }: Vault, memory: number): Demand[] {
  return [
    {
      name: 'the vault is one whole disk that is plugged in, and no other disk claims its id',
      why: 'names like /dev/sdb move between disks; an id stays with one, and a cheap USB bridge may share its id with another',
      check: sh`vault_disk ${disk}`,
      help: 'plug it in, or write the id of the right disk into vault.disk of the site document: ls /dev/disk/by-id',
    },
    {
      name: 'the disk is still there after a boot: the driver of USB disks is not blocked',
      check: sh`vault_driver ${disk}`,
      help: 'take usb-storage and uas off the list of blocked modules for this site',
    },
    {
      name: 'nothing uses the disk: no mount, swap, partition, RAID or volume group',
      why: 'the disk of the running system, and every disk that somebody works on, is out of reach',
      check: sh`vault_idle ${disk} ${name}`,
      help: 'choose another disk; or, when it is the right one, unmount it and stop what uses it',
    },
    {
      name: 'the disk is empty, or it is this vault already',
      why: 'nothing here ever overwrites what somebody stored; an interrupted beginning of ours is recognised and goes on',
      check: sh`{ vault_is ${disk} ${uuid} || vault_same ${disk}; } && vault_blank ${disk} ${uuid}`,
      help: [
        'choose another disk; or, when nobody needs what is on it, empty it yourself on the machine:',
        `wipefs --all ${disk} && dd if=/dev/zero of=${disk} bs=1M count=16 conv=fsync`,
      ].join('\n'),
    },
    {
      name: 'nothing else is called what the vault is called',
      check: sh`{ [ ! -e /dev/mapper/${bare(name)} ] || vault_open ${disk} ${uuid} ${name}; } && awk -v name=${name} -v disk=${disk} '$1 == name && $2 != disk { print "/etc/crypttab:", $0; bad = 1 } END { exit bad }' <(cat /etc/crypttab 2> /dev/null)`,
      help: 'choose another vault.name in the site document',
    },
    {
      name: 'disk and memory are large enough',
      why: 'cryptsetup would silently take less memory for the passphrase than asked when the machine has less than twice as much',
      check: sh`{ test "$(blockdev --getsize64 ${disk})" -ge 67108864 || vault_no the disk has less than 64 MiB; } && vault_memory ${memory}`,
      help: 'choose a larger disk, or a smaller vault.kdf_memory_kib (524288 is still strong)',
    },
  ]
}

/** The question that stands before a format: the id of the disk, typed. It holds by itself for a disk that is ours. */
export function consent({ disk, uuid }: Vault): Demand {
  return {
    name: 'somebody typed the id of the disk, so that it may be formatted',
    why: 'a disk is formatted only when a person has said which one',
    check: sh`vault_is ${disk} ${uuid} || test -e "$VAULT_NOTES"/${tail(disk)}.begun || { lsblk --nodeps --noheadings --output SIZE,TRAN,VENDOR,MODEL,SERIAL ${disk}; false; }`,
    help: `type it when you are asked, or say --format ${tail(disk)}`,
    typed: tail(disk),
  }
}

/**
 * A TPM2 that stops giving its key is the alarm it is there for. Nothing that holds a key is sent to the machine until a
 * person has said that the change was theirs, by removing the old binding.
 */
export function unalarmed({ disk, uuid }: Vault): Demand {
  return {
    name: 'the machine boots as it did when the TPM2 was given its key',
    why: 'Secure Boot switched off, its keys changed, the TPM2 cleared, the board exchanged: a repair, or somebody who waits for your passphrase',
    check: sh`! vault_is ${disk} ${uuid} || ! vault_token ${disk} tpm2 || vault_unseals ${disk}`,
    help: [
      'find out what changed before you give this machine a key. When it was you:',
      `on the machine, systemd-cryptenroll --wipe-slot=tpm2 ${disk}`,
      'and run this again: the TPM2 gets a new key.',
    ].join('\n'),
  }
}

/** `usb-Samsung_T7_S6XN-0:0` */
const tail = (disk: string): string => disk.replace(/^.*\//, '')
export const bare = (text: string): Command => new Command(text, undefined, '')
