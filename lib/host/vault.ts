// The encrypted disk: its secrets, its identity, and the guards that stand before anything that could destroy data.
import { createHash, randomBytes, randomInt } from 'node:crypto'
import { createRequire } from 'node:module'
import { join } from 'node:path'
import type { Context, Page } from '../engine/page.ts'
import { Secret, secretStore } from '../ground/secret.ts'
import { Command, feed, sh, library } from '../ground/sh.ts'
import type { Demand, Step } from '../engine/step.ts'
import { Fault } from '../ground/fault.ts'
import { type Call } from '../cli/taskfile.ts'
import { flags } from '../cli/flags.ts'

const load = createRequire(import.meta.url)

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

/** 32 letters and digits that are hard to mistake for each other, in groups: 160 bits, for a person at a keyboard. */
export function makePassphrase(): string {
  const alphabet = 'abcdefghijkmnpqrstuvwxyz23456789'
  const letters = Array.from({ length: 32 }, () => alphabet[randomInt(alphabet.length)]).join('')
  return letters.match(/.{4}/g)?.join('-') ?? ''
}

/** 256 bits as systemd-cryptenroll --recovery-key writes them: modhex, the same letters on every keyboard layout. */
export function makeRecoveryKey(bytes: Uint8Array = randomBytes(32)): string {
  const letters = [...bytes].map((b) => `${MODHEX[b >> 4]}${MODHEX[b & 15]}`).join('')
  return letters.match(/.{8}/g)?.join('-') ?? ''
}

const MODHEX = 'cbdefghijklnrtuv'

/** A UUID of version 5 (RFC 9562) for a thing of this kind: the same name gives the same UUID everywhere. */
export function uuidOf(kind: string, name: string): string {
  const namespace = createHash('sha1').update(`fortress-kit ${kind}`).digest().subarray(0, 16)
  const b = createHash('sha1').update(namespace).update(name).digest().subarray(0, 16)
  b[6] = ((b[6] ?? 0) & 0x0f) | 0x50
  b[8] = ((b[8] ?? 0) & 0x3f) | 0x80
  return b.toString('hex').replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, '$1-$2-$3-$4-$5')
}

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
const bare = (text: string): Command => new Command(text, undefined, '')

/**
 * `./task vault keys` shows what opens the vaults of a site without their machine; `./task vault restore-header` brings a lost
 * header back. Resolves to the exit code; throws a Fault for anything it does not know or have.
 */
export async function vault(call: Call): Promise<number> {
  const given = flags(call, ['keys|restore-header'])
  const [word] = given.words
  if (word === 'restore-header') {
    const { runPages } = load('../cli/pages.ts') as typeof import('../cli/pages.ts')
    return runPages([restore], 'apply', given, call.signal)
  }
  if (word !== 'keys') throw new Fault('usage: ./task vault keys | restore-header [--format DISK]')
  const { loadConfig } = load('../site/config.ts') as typeof import('../site/config.ts')
  const { env, site } = loadConfig(given.site === undefined ? {} : { site: given.site })
  const store = secretStore({ dir: join(env.FK_STATE_DIR, site.name), identity: env.FK_AGE_IDENTITY })
  for (const machine of site.machines.filter((m) => m.roles.includes('host'))) {
    const { keys } = vaultOf({ site, machine, secrets: (name) => store.secret(name) })
    if (!store.has(`${machine.name}-${site.vault.name}-recovery-key`))
      throw new Fault(`The vault of ${machine.name} has no keys yet`, {
        next: './task host-vault apply makes them',
      })
    const [passphrase, recovery] = (await keys.resolve()).split('\n')
    process.stdout.write(
      `${machine.name}, ${site.vault.disk || 'no disk chosen'}\n  passphrase    ${passphrase}\n  recovery key  ${recovery}\n`,
    )
  }
  process.stdout.write(
    'Write the recovery key on paper, and keep the paper where neither machine nor laptop is.\n',
  )
  return 0
}

const restore: Page = {
  name: 'vault-restore-header',
  file: import.meta.filename,
  summary: 'The header of the vault is back on its disk.',
  layer: 'L0',
  on: 'host',
  prepare: vaultShell,
  steps: (context) => {
    const vault = vaultOf(context)
    if (vault.disk === '') throw new Fault('The site chooses no disk for the vault')
    return restoreHeader(vault, context.secrets(vault.backup))
  },
}

/**
 * The steps that bring a lost header back from the laptop's copy. They refuse another disk, a disk in use, a disk with data of
 * somebody else, a copy of another vault, and a header that is whole (its keys may be newer than the copy's).
 * `header` is the base64 text of the saved bytes.
 */
export function restoreHeader(vault: Vault, header: Secret): Step[] {
  const { disk, name, uuid } = vault
  return [
    ...guardsOfRestore(vault),
    {
      name: 'the header of the vault is the one that was saved',
      why: 'without its header nothing opens the disk, neither the passphrase nor the recovery key nor the TPM2',
      check: sh`vault_is ${disk} ${uuid} && vault_token ${disk} recovery`,
      apply: [
        feed(header)`
          base64 --decode > "$FK_TMP/header"
          vault_is "$FK_TMP/header" ${uuid} || vault_no what was saved is not a header of this vault
          vault_hold ${disk}
          vault_disk ${disk} && vault_idle ${disk} ${name}
          cryptsetup luksHeaderRestore --batch-mode --header-backup-file "$FK_TMP/header" "$(readlink --canonicalize ${disk})"
          vault_header ${disk} | cmp - "$FK_TMP/header"
        `,
        feed(vault.keys)`
          mapfile -t key
          printf %s "\${key[0]}" | vault_opens ${disk} 0 || vault_no the header is back, and the passphrase does not open it
          vault_made ${disk}
        `,
      ],
    },
  ]
}

function guardsOfRestore({ disk, name, uuid }: Vault): Demand[] {
  return [
    {
      name: 'the vault is plugged in, closed, and the disk that it was',
      check: sh`vault_disk ${disk} && vault_idle ${disk} ${name} && { ! test -e /dev/mapper/${bare(name)} || vault_no it is open; } && { vault_is ${disk} ${uuid} || vault_same ${disk}; }`,
      help: `close it first: cryptsetup close ${name}`,
    },
    {
      name: 'the disk carries nothing but a header of this vault, or what is left of one',
      check: sh`wipefs --no-act --noheadings --output TYPE,UUID ${disk} | awk -v ours=${uuid} '!($1 == "crypto_LUKS" && $2 == ours) { print "it carries:", $0; bad = 1 } END { exit bad }'`,
      help: 'this disk was used for something else; a header would destroy that',
    },
    {
      name: 'somebody typed the id of the disk, so that its header may be replaced',
      check: sh`vault_token ${disk} recovery 2> /dev/null`,
      help: `type it when you are asked, or say --format ${tail(disk)}`,
      typed: tail(disk),
    },
  ]
}
