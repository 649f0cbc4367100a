#!/usr/bin/env -S npx --no-install tsx
// A LUKS2 disk that opens at boot on this machine, and on no other without a key.
//
// Needs   a USB disk of its own, chosen by id in vault.disk of its machine in the site document.
// Opens   as the site document says. Whoever takes machine and disks opens it, too, where nothing is asked that they lack:
//           tpm2_pcrs: [7, 14]         any system that is signed under the same keys opens it: a stick with Debian is enough
//           tpm2_pcrs: [7, 8, 9, 14]   the kernel, initrd and command line of this machine's own menu open it (the default), over
//                                      whatever root file system they find: a thief puts one of their own there, encrypted or not
//           tpm2_pin: true             whoever types the PIN besides, after each boot
//           key_file: true             whoever opens the root disk, which is encrypted; the TPM2 has no key. The safest where a
//                                      person types the passphrase of that disk at each start anyway
//           tpm2_pcrs: []              whoever types the passphrase, or applies this page, after each boot
//         Not built: PCR 15 and signed policies for PCR 11, because only systemd-stub measures what they need, and here GRUB
//         starts the kernel; systemd-pcrlock, which is experimental and cannot foretell what GRUB measures, so that 7 is left.
// Leaves  /dev/mapper/<vault.name>, open after every boot, for the storage of the cluster. No file system: that is the guest's.
// Undo    closes the disk and removes it from /etc/crypttab. What is stored on it stays, and so do its keys: a vault is emptied
//         only by a person, by hand.
import { file } from '../lib/engine/file.ts'
import { packages } from '../lib/engine/packages.ts'
import type { Change, Demand, Step } from '../lib/engine/step.ts'
import { type Command, feed, sh } from '../lib/ground/sh.ts'
import { type Vault, bare, vaultOf, vaultShell } from '../lib/host/vault.ts'
import { script } from '../lib/script.ts'
import { vaultSpec } from '../lib/site/machines.ts'
import type { Vault as VaultSpec } from '../lib/site/model.ts'
import { type Waiver, acceptedControls } from '../lib/site/waivers.ts'

export default script(
  import.meta,
  {
    layer: 'L0',
    on: 'host',
    library: vaultShell,
    prepare: sh`${formatting()}
${tpm2()}
${keys()}`,
  },
  (context) => {
    const { site, machine } = context
    const vault = vaultOf(context)
    const spec = vaultSpec(site, machine.name)
    const { kdf_memory_kib: memory, discard } = spec
    if (vault.disk === '') return [noDisk]
    const way = wayOf(spec)
    const waiver = acceptedControls(site, machine.name).find(({ id }) => id === 'F02')
    return [
      ...guards(vault, memory),
      ...(way.keyFile ? [encryptedRoot] : []),
      unalarmed(vault),
      consent(vault),
      ...installed,
      formatted(vault, memory),
      recoveryKey(vault),
      ...onPaper(vault),
      headerSaved(vault),
      way.strict === '' ? unsealed(vault) : sealed(vault, way, waiver),
      ...(way.renewed ? renewal(vault, way) : []),
      way.keyFile ? keyFile(vault) : noKeyFile(vault),
      headerCurrent(vault),
      atBoot(vault, way, discard),
      open(vault, way, discard),
      slots(vault),
    ]
  },
)

/** How the vault opens at boot. */
interface Way {
  /** The registers that the TPM2's key is bound to, as systemd writes them; '' where it gets none. */
  strict: string
  /** Those of them that no update of the kernel changes. */
  steady: string
  /** The machine binds the key anew after updates. */
  renewed: boolean
  pin: boolean
  keyFile: boolean
}

function wayOf({ tpm2_pcrs: registers, tpm2_pin: pin, key_file: keyFile }: VaultSpec): Way {
  const text = (some: number[]) => some.toSorted((a, b) => a - b).join('+')
  const changing = [4, 5, 8, 9]
  return {
    strict: text(registers),
    steady: text(registers.filter((register) => !changing.includes(register))),
    renewed: registers.includes(8),
    pin,
    keyFile,
  }
}

const noDisk: Demand = {
  name: 'no disk is chosen for the vault (vault.disk), so nothing is encrypted',
  why: 'a person chooses it by its id, in vault.disk of its machine in the site document; verify lists the disks there are',
  check: sh`true`,
  help: 'write one of the ids under /dev/disk/by-id into vault.disk',
  controls: [
    {
      id: 'F12',
      title: 'The data of the cluster has an encrypted disk of its own',
      check: sh`echo 'no disk is chosen; these could be:' && vault_candidates && exit 100`,
      from: ['NIST SP 800-53 SC-28(1)'],
    },
  ],
}

/** What must be true before anything is written to the disk. The same is checked again under the lock of the disk. */
export function guards({ disk, name, uuid }: Vault, memory: number): Demand[] {
  return [
    {
      name: 'the vault is one whole disk that is plugged in, and no other disk claims its id',
      why: 'names like /dev/sdb move between disks; an id stays with one, and a cheap USB bridge may share its id with another',
      check: sh`vault_disk ${disk}`,
      help: 'plug it in, or write the id of the right disk into vault.disk of the site document: ls /dev/disk/by-id',
    },
    {
      name: 'the driver of the vault disk is not blocked: usb-storage, uas',
      why: 'a USB disk whose driver is blocked is there now and gone after a boot',
      check: sh`test "$(lsblk --nodeps --noheadings --output TRAN ${disk})" != usb ||
        ! modprobe --showconfig | grep --extended-regexp '^(blacklist|install) (usb[_-]storage|uas)( |$)'`,
      help: 'take usb-storage and uas off the list of blocked modules for this site',
    },
    {
      name: 'nothing uses the vault disk: no mount, swap, partition, RAID or volume group',
      why: 'the disk of the running system, and every disk that somebody works on, is out of reach',
      check: sh`vault_idle ${disk} ${name}`,
      help: 'choose another disk; or, when it is the right one, unmount it and stop what uses it',
    },
    {
      name: 'the vault disk is empty, or is this vault already',
      why: 'nothing here ever overwrites what somebody stored; an interrupted beginning of ours is recognised and goes on',
      check: sh`{ vault_is ${disk} ${uuid} || vault_same ${disk}; } && vault_blank ${disk} ${uuid}`,
      help: [
        'choose another disk; or, when nobody needs what is on it, empty it yourself on the machine:',
        `wipefs --all ${disk} && dd if=/dev/zero of=${disk} bs=1M count=16 conv=fsync`,
      ].join('\n'),
    },
    {
      name: `the name ${name} is free in /dev/mapper and /etc/crypttab`,
      check: sh`{ [ ! -e /dev/mapper/${bare(name)} ] || vault_open ${disk} ${uuid} ${name}; } &&
        awk -v name=${name} -v disk=${disk} '
          $1 == name && $2 != disk { print "/etc/crypttab:", $0; bad = 1 }
          END { exit bad }' <(cat /etc/crypttab 2> /dev/null)`,
      help: 'choose another vault.name in the site document',
    },
    {
      name: 'vault disk and memory are large enough for LUKS2 and Argon2id',
      why: 'cryptsetup silently takes less memory for the passphrase when the machine has less than twice as much',
      check: sh`{ test "$(blockdev --getsize64 ${disk})" -ge 67108864 || vault_no the disk has less than 64 MiB; } &&
        awk -v need=${memory * 2} '/^MemTotal:/ && $2 < need {
          print "the machine has", $2, "KiB of memory; vault.kdf_memory_kib may be half of it"; bad = 1 }
          END { exit bad }' /proc/meminfo`,
      help: 'choose a larger disk, or a smaller vault.kdf_memory_kib (524288 is still strong)',
    },
  ]
}

const encryptedRoot: Demand = {
  name: 'the root file system is encrypted, as a key file in it needs (vault.key_file)',
  why: 'whoever takes the machine would read the key beside the disk that it opens',
  check: sh`for disk in $(disks_of /); do encrypted "$disk" || vault_no "$disk is not encrypted, and / lies on it"; done`,
  help: 'install the system on an encrypted disk, or choose another way in the site document: key_file: false',
}

/**
 * A TPM2 that stops giving its key is the alarm it is there for. Nothing that holds a key is sent to the machine until a
 * person has said that the change was theirs, by removing the old binding.
 */
function unalarmed({ disk, uuid }: Vault): Demand {
  return {
    name: 'the machine boots as it did when the TPM2 was given its key',
    why: 'Secure Boot off, other keys, another kernel, a cleared TPM2: a repair, or somebody who waits for your passphrase',
    check: sh`! vault_is ${disk} ${uuid} || ! vault_token ${disk} tpm2 || vault_unseals ${disk}`,
    // After an update by hand, without an orderly stop, it is neither: the same answer brings it back.
    help: [
      'find out what changed before you give this machine a key. When it was you:',
      `on the machine, systemd-cryptenroll --wipe-slot=tpm2 ${disk}`,
      'and run this again: the TPM2 gets a new key.',
    ].join('\n'),
  }
}

/** What stands before a format: the id of the disk, typed. It holds by itself for a disk that is ours. */
function consent({ disk, uuid }: Vault): Demand {
  const id = disk.replace(/^.*\//, '')
  return {
    name: 'a person has confirmed by its id that the vault disk may be formatted',
    why: 'a disk is formatted only when a person has said which one',
    check: sh`vault_is ${disk} ${uuid} || test -e "$VAULT_NOTES"/${id}.begun || {
        lsblk --nodeps --noheadings --output SIZE,TRAN,VENDOR,MODEL,SERIAL ${disk}
        false
      }`,
    help: `type it at the prompt, or say --confirm ${id}`,
    typed: id,
  }
}

const tools = ['cryptsetup-bin', 'tpm2-tools']

const installed: Step[] = [
  packages(tools, { name: 'cryptsetup and tpm2-tools are installed' }),
  {
    name: 'systemd-cryptsetup and systemd-cryptenroll are installed',
    why: 'systemd loads the libraries of the TPM2 when it needs them: whether they are there, only systemd-cryptenroll tells',
    check: sh`test -x /usr/bin/systemd-cryptenroll && test -x /usr/lib/systemd/systemd-cryptsetup &&
      { ! vault_tpm2 || systemd-cryptenroll --tpm2-device=list > /dev/null; }`,
    apply: [
      sh`apt_get update`,
      // Debian 13 has them in a package of their own, Ubuntu 24.04 in that of systemd.
      sh`apt_get --no-install-recommends install \
          "$(if apt-cache show systemd-cryptsetup > /dev/null 2>&1; then echo systemd-cryptsetup; else echo systemd; fi)"`,
    ],
    seconds: 900,
  },
]

function formatted({ disk, uuid, name, label, keys }: Vault, memory: number): Change {
  return {
    name: 'the disk is a LUKS2 vault that the passphrase opens',
    why: 'whoever takes the disk away has noise; each guess of the passphrase costs time and memory',
    check: sh`vault_is ${disk} ${uuid} && test -e "$VAULT_NOTES/$(basename ${disk})".made &&
      cryptsetup luksDump ${disk} | grep --extended-regexp '^  0: luks2' > /dev/null`,
    apply: [
      sh`vault_begin ${disk} ${uuid} ${name}`,
      feed(keys)`
        mapfile -t key
        vault_hold ${disk} # cryptsetup asks for the disk exclusively besides: a mounted disk is refused by the kernel
        # A passphrase that opens slot 0 already: an earlier run was ended between the format and the note, or the host is new.
        if ! printf %s "\${key[0]}" | vault_opens ${disk} 0; then
          vault_may_format ${disk} ${uuid} ${name}
          printf %s "\${key[0]}" | cryptsetup luksFormat --batch-mode --type luks2 \
            --uuid ${uuid} --label ${label} --subsystem fortress-kit \
            --cipher aes-xts-plain64 --key-size 512 --hash sha512 --sector-size "$(vault_sector ${disk})" \
            --pbkdf argon2id --pbkdf-memory ${memory} --pbkdf-force-iterations 4 --pbkdf-parallel 4 \
            --offset 32768 --luks2-keyslots-size 4m --key-slot 0 --key-file - "$(readlink --canonicalize ${disk})"
          printf %s "\${key[0]}" | vault_opens ${disk} 0
        fi
      `,
      sh`vault_made ${disk}`,
    ],
    seconds: 600,
    controls: [
      {
        id: 'F01',
        title: 'The vault is LUKS2, aes-xts-plain64 with 512 bits, its passphrase derived by Argon2id',
        // Other slots may be cheaper to guess: they hold 256 random bits, or F05 names them as unknown.
        check: sh`cryptsetup luksDump ${disk} | awk -v memory=${memory} -v want="$(vault_sector ${disk})" '
          /^[A-Z]/ { part = $1 }
          /^  [0-9]+: / { slot = $1 + 0 }
          part == "Data" && $1 == "cipher:" { cipher = $2 }
          part == "Data" && $1 == "sector:" { sector = $2 }
          part != "Keyslots:" || slot != 0 { next }
          $1 == "Key:" { bits = $2 }
          $1 == "PBKDF:" { kdf = $2 }
          $1 == "Memory:" { cost = $2 }
          $1 == "AF" && $2 == "hash:" { hash = $3 }
          END {
            printf "%s, %d bit, %s, %s with %d KiB, sectors of %d bytes", cipher, bits, hash, kdf, cost, sector
            print sector == 512 ? " (the disk cannot be divided by 4096)" : ""
            exit !(cipher == "aes-xts-plain64" && bits == 512 && hash == "sha512" &&
              kdf == "argon2id" && cost >= memory && sector == want)
          }'`,
        from: ['NIST SP 800-53 SC-28(1)', 'RFC 9106', 'Lynis CRYP-7930'],
      },
    ],
  }
}

function recoveryKey({ disk, keys }: Vault): Change {
  return {
    name: 'the vault has a recovery key',
    why: 'the TPM2 forgets its key when it is cleared or the board dies; this is made before the TPM2 is trusted with anything',
    check: sh`vault_token ${disk} recovery`,
    apply: [
      feed(keys)`
        mapfile -t key
        # As systemd-cryptenroll --recovery-key makes it: 256 random bits need no slow derivation.
        printf %s "\${key[1]}" | vault_opens ${disk} 1 ||
          cryptsetup luksAddKey --batch-mode --key-file <(printf %s "\${key[0]}") --new-key-slot 1 \
            --hash sha512 --pbkdf pbkdf2 --pbkdf-force-iterations 1000 ${disk} <(printf %s "\${key[1]}")
        printf %s ${`{"type":"systemd-recovery","keyslots":["1"]}`} | cryptsetup token import --json-file - ${disk}
      `,
    ],
    controls: [
      {
        id: 'F03',
        title: 'A recovery key is enrolled in the vault',
        check: sh`vault_token ${disk} recovery &&
          systemd-cryptenroll ${disk} | awk '$2 == "recovery" { print "slot", $1 }'`,
        from: ['NIST SP 800-53 CP-9'],
      },
    ],
  }
}

/** Of what nobody has on paper the laptop has the only copy. It is asked again for another key, which has another salt. */
function onPaper({ disk, recovery }: Vault): Step[] {
  const id = disk.replace(/^.*\//, '')
  const noted = sh`salt=$(vault_salt ${disk} 1) && [ -n "$salt" ] &&
    [ "$(cat "$VAULT_NOTES"/${id}.paper 2> /dev/null)" = "$salt" ]`
  return [
    {
      name: 'the recovery key of the vault is on paper, and two of its groups were typed from there',
      why: 'when machine and laptop are lost together, the paper is what opens the vault',
      check: noted,
      help: 'apply this page at a terminal: it shows the recovery key once, and asks for two of its groups',
      person: {},
      paper: recovery,
    },
    {
      name: 'the machine has a note that the recovery key is on paper',
      check: noted,
      apply: [
        sh`vault_salt ${disk} 1 > "$VAULT_NOTES"/${id}.paper.part
          sync "$VAULT_NOTES"/${id}.paper.part && mv "$VAULT_NOTES"/${id}.paper.part "$VAULT_NOTES"/${id}.paper`,
      ],
    },
  ]
}

/** Both checks compare what the laptop has saved with the header as it is now. */
const headerIsSaved = ({ disk, backup }: Vault) => sh`saved ${backup} "$(vault_header_digest ${disk})"`

const byLaptop = sh`: # the copy is made by the laptop, see save`

function headerSaved(vault: Vault): Change {
  const { disk, backup } = vault
  return {
    name: 'the laptop has a copy of the LUKS2 header before the TPM2 gets a key',
    why: 'a few spoilt sectors at the beginning of a disk take all of it, and no key helps then',
    check: sh`vault_token ${disk} tpm2 || ${headerIsSaved(vault)}`,
    apply: [byLaptop],
    save: { name: backup, command: sh`vault_header ${disk}` },
  }
}

function sealed({ disk, keys }: Vault, way: Way, waiver: Waiver | undefined): Change {
  const { strict, pin } = way
  const bridge = way.renewed ? [way.steady] : []
  const question = sh`vault_sealed ${[disk, strict, String(pin), ...bridge]}`
  return {
    name: `the TPM2 of this machine opens the vault${pin ? ' for whoever types its PIN' : ''}`,
    why: `PCR ${strict}: ${opensFor(way)}`,
    check: sh`! vault_tpm2 || ${question}`,
    apply: [
      // The slots before the first try: what a killed enrolment leaves without a token is known by its absence here.
      sh`[ -e "$VAULT_NOTES"/slots ] || {
          systemd-cryptenroll ${disk} | awk 'NR > 1 && $2 != "tpm2" { print $1 }' > "$VAULT_NOTES"/slots.part &&
            sync "$VAULT_NOTES"/slots.part && mv "$VAULT_NOTES"/slots.part "$VAULT_NOTES"/slots
        }`,
      feed(keys)`
        mapfile -t key
        # For the same registers systemd-cryptenroll keeps a key that a cleared TPM2 cannot give any more: the old one goes first.
        ! vault_token ${disk} tpm2 ||
          systemd-cryptenroll --unlock-key-file=<(printf %s "\${key[0]}") --wipe-slot=tpm2 ${disk}
        NEWPIN=\${key[2]-} systemd-cryptenroll --unlock-key-file=<(printf %s "\${key[0]}") \
          --tpm2-device=auto --tpm2-pcrs=${strict} --tpm2-with-pin=${pin ? 'yes' : 'no'} ${disk}
      `,
      sh`systemd-cryptenroll ${disk} | awk '
          NR == FNR { known[$1]; next }
          FNR > 1 && $2 == "password" && !($1 in known) { print $1 }' "$VAULT_NOTES"/slots - |
          while read -r slot; do cryptsetup luksKillSlot --batch-mode ${disk} "$slot"; done
        rm "$VAULT_NOTES"/slots`,
    ],
    controls: [
      {
        id: 'F02',
        title: `The TPM2 opens the vault ${opensFor(way)}`,
        check: sh`
          vault_tpm2 || { echo 'this machine has no TPM2: after a boot, apply this page to open the vault' && exit 100; }
          ${question} && printf 'bound to PCR %s; ' ${strict} && secure_boot`,
        from: ['NIST SP 800-53 SC-12'],
        ...(waiver ? { waived: `${waiver.reason} (until ${waiver.expires})` } : {}),
      },
    ],
  }
}

/** For whom the TPM2 opens it, in the words of F02. */
const opensFor = ({ renewed, pin }: Way): string =>
  pin
    ? 'for whoever knows the PIN, in any system that is signed under the same keys'
    : renewed
      ? 'for the kernel, initrd and command line of this machine over any root file system, and from an update until the next ' +
        'start for any signed system'
      : 'for any system that is signed under the same keys, a stick with Debian too'

/** The site wants no key in the TPM2: one that is left from another choice would still open the vault. */
const unsealed = ({ disk }: Vault): Change => ({
  name: 'no key of the vault is in the TPM2',
  check: sh`! vault_token ${disk} tpm2`,
  apply: [sh`systemd-cryptenroll --wipe-slot=tpm2 ${disk}`],
})

/** What binds the key anew after each update of what the machine starts. */
function renewal({ disk, unit }: Vault, { strict, steady }: Way): Step[] {
  const words = `${disk} ${strict} ${steady}`
  return [
    file('/usr/local/sbin/fortress-vault', {
      from: 'config/host/fortress-vault',
      mode: '755',
      test: sh`bash -n "$new"`,
      name: 'a script binds the key of the TPM2 to the kernel that was started, and removes no key before the new one opens',
    }),
    file('/etc/systemd/system/fortress-vault.service', {
      from: 'config/host/fortress-vault.service',
      values: { words, after: unit },
      then: [sh`systemctl daemon-reload`],
      name: 'a service binds the key of the TPM2 at each start, and bridges updates at each stop',
    }),
    file('/etc/apt/apt.conf.d/99-fortress-vault', {
      from: 'config/host/fortress-vault.apt',
      values: { words },
      test: sh`APT_CONFIG="$new" apt-config dump > /dev/null`,
      name: 'APT bridges an update of what the machine starts, in case that it stops without order',
    }),
    {
      name: 'the key of the TPM2 is bound anew at each start (fortress-vault.service)',
      why: 'what a new kernel will measure is known once it has started',
      check: sh`! vault_tpm2 || { systemctl --quiet is-enabled fortress-vault.service &&
        systemctl --quiet is-active fortress-vault.service; }`,
      apply: [sh`systemctl enable fortress-vault.service`, sh`systemctl restart fortress-vault.service`],
      undo: [sh`systemctl disable fortress-vault.service`],
    },
  ]
}

const keyDirectory = '/etc/cryptsetup-keys.d'

/** A key in the root file system. Its slot is known by a token that names it. */
function keyFile({ disk, name, keys }: Vault): Change {
  const path = `${keyDirectory}/${name}.key`
  return {
    name: 'a key file in the encrypted root opens the vault',
    why: 'it is as safe as what opens the root disk, and no TPM2 gives it to another system',
    check: sh`[ "$(stat --format='%a %U:%G' ${path})" = '400 root:root' ] &&
      slot=$(vault_key_slot ${disk}) && [ -n "$slot" ] && vault_opens ${disk} "$slot" < ${path}`,
    apply: [
      sh`install --directory --mode=700 ${keyDirectory}
        [ -s ${path} ] || head --bytes=48 /dev/urandom | base64 --wrap=0 | put ${path} 400 root:root`,
      sh`put_finish ${path}`,
      feed(keys)`
        mapfile -t key
        vault_key_drop ${disk}
        cryptsetup luksAddKey --batch-mode --key-file <(printf %s "\${key[0]}") \
          --pbkdf pbkdf2 --pbkdf-force-iterations 1000 ${disk} ${path}
        for slot in $(systemd-cryptenroll ${disk} | awk 'NR > 1 && $2 == "password" { print $1 }'); do
          ! vault_opens ${disk} "$slot" < ${path} || [ "$slot" = 0 ] ||
            printf '{"type":"fortress-key-file","keyslots":["%s"]}' "$slot" | cryptsetup token import --json-file - ${disk}
        done
      `,
    ],
  }
}

const noKeyFile = ({ disk, name }: Vault): Change => ({
  name: 'no key file opens the vault',
  check: sh`[ -z "$(vault_key_slot ${disk})" ] && [ ! -e ${`${keyDirectory}/${name}.key`} ]`,
  apply: [
    sh`vault_key_drop ${disk}
      rm --force ${`${keyDirectory}/${name}.key`}`,
  ],
})

function headerCurrent(vault: Vault): Change {
  const { disk, backup } = vault
  return {
    name: 'the copy of the LUKS2 header on the laptop is current',
    why: 'a copy from before a change of keys brings back keys that were removed, and lacks the ones that were added',
    check: headerIsSaved(vault),
    apply: [byLaptop],
    save: { name: backup, command: sh`vault_header ${disk}` },
    controls: [
      {
        id: 'F04',
        title: 'The LUKS2 header is backed up, encrypted, off the host',
        check: headerIsSaved(vault),
        from: ['NIST SP 800-53 CP-9(8)'],
      },
    ],
  }
}

/** The line of /etc/crypttab: opened by the key file, by the TPM2 where there is one, else by hand. */
function crypttabLine({ disk, name }: Vault, way: Way, discard: boolean): Command {
  const line = (key: string, ...options: string[]) =>
    `${name} ${disk} ${key} ${['luks', ...options, ...(discard ? ['discard'] : [])].join(',')}`
  const byHand = line('none', 'noauto', 'headless=true')
  const disks = ['nofail', 'x-systemd.device-timeout=30s']
  if (way.keyFile) return sh`echo ${line(`${keyDirectory}/${name}.key`, 'headless=true', ...disks)}`
  if (way.strict === '') return sh`echo ${byHand}`
  // The PIN is asked at the console: nothing waits for it, and applying this page opens the vault by its passphrase.
  const asks = way.pin ? ['tpm2-pin=yes', 'timeout=180s'] : ['headless=true']
  const byTpm2 = line('none', 'tpm2-device=auto', 'token-timeout=30s', ...asks, ...disks)
  return sh`if vault_tpm2; then echo ${byTpm2}; else echo ${byHand}; fi`
}

function atBoot(vault: Vault, way: Way, discard: boolean): Change {
  const { name } = vault
  const line = crypttabLine(vault, way, discard)
  const key = way.keyFile ? `${keyDirectory}/${name}.key` : 'none'
  return {
    name: 'the vault opens at boot, and a missing disk does not stop the boot (crypttab)',
    check: sh`put_finished /etc/crypttab &&
      ${line} | grep --line-regexp --fixed-strings --file=- /etc/crypttab > /dev/null`,
    apply: [
      sh`{ awk -v name=${name} '$1 != name' <(cat /etc/crypttab 2> /dev/null) && ${line}; } |
        put /etc/crypttab 600 root:root`,
      sh`systemctl daemon-reload`,
      sh`put_finish /etc/crypttab`,
    ],
    controls: [
      {
        id: 'F11',
        title: `/etc/crypttab is readable by root alone, and names ${way.keyFile ? 'a key file' : 'no key file'}`,
        check: sh`stat --format='%a %U:%G' /etc/crypttab &&
          awk -v name=${name} -v key=${key} '$1 == name { print $3, $4; bad = $3 != key } END { exit bad }' /etc/crypttab &&
          test "$(stat --format='%a %U:%G' /etc/crypttab)" = '600 root:root'`,
        from: ['ANSSI-BP-028 R50'],
      },
    ],
  }
}

function open({ disk, uuid, name, unit, keys }: Vault, { pin }: Way, discard: boolean): Change {
  const mapping = `/dev/mapper/${name}`
  return {
    name: `the vault is open at ${mapping}`,
    check: sh`vault_open ${disk} ${uuid} ${name}`,
    apply: [
      feed(keys)`
        # A unit that asks for a PIN at the console would wait for it.
        if ${pin ? sh`systemctl stop ${unit}` : sh`! systemctl start ${unit}`}; then
          mapfile -t key
          printf %s "\${key[0]}" |
            cryptsetup open --type luks2 --key-file - ${discard ? ['--allow-discards', disk] : disk} ${name}
          systemctl start ${unit} # finds it open, and stands for it from now on
        fi
      `,
    ],
    undo: [sh`systemctl stop ${unit}; [ ! -e ${mapping} ] || cryptsetup close ${name}`],
    controls: [
      {
        id: 'F12',
        title: 'The data of the cluster has an encrypted disk of its own',
        check: sh`vault_open ${disk} ${uuid} ${name} &&
          lsblk --nodeps --noheadings --output NAME,TYPE,SIZE,LOG-SEC ${mapping}`,
        from: ['NIST SP 800-53 SC-28(1)'],
      },
    ],
  }
}

function slots({ disk }: Vault): Demand {
  return {
    name: 'the vault has no key slot of unknown origin',
    check: sh`vault_slots ${disk}`,
    help: `a key that nobody here made is removed on the machine: cryptsetup luksKillSlot ${disk} SLOT`,
    controls: [
      {
        id: 'F05',
        title: 'Every key slot of the vault is known: passphrase, recovery key, TPM2, key file',
        check: sh`vault_slots ${disk}`,
        from: ['NIST SP 800-53 SC-12'],
      },
    ],
  }
}

/** Shell of this page alone; lib/host/vault.sh has what restoring a header needs too, and says what the two notes mean. */
function formatting(): Command {
  return sh`
    # vault_blank DISK UUID: it carries nothing, or our header.
    vault_blank() {
      local found
      found=$(wipefs --no-act --noheadings --output TYPE,UUID,LABEL,OFFSET "$1")
      if [ -n "$found" ]; then
        printf '%s\n' "$found" | awk -v ours="$2" '
          $1 == "crypto_LUKS" && $2 == ours { next }
          { print "it carries:", $0; bad = 1 }
          END { exit bad }'
      elif [ -e "$VAULT_NOTES/\${1##*/}.made" ]; then
        vault_no 'it was made the vault, and its header is gone: the data can come back, see: ./task vault restore-header'
      elif [ ! -e "$VAULT_NOTES/\${1##*/}.begun" ]; then
        cmp --bytes=1048576 "$1" /dev/zero > /dev/null 2>&1 ||
          vault_no 'it carries no known signature, yet its first MiB is not blank, like a disk encrypted without a header'
      fi
    }

    # vault_begin DISK UUID NAME: notes that this disk, as it is now, is about to be formatted. Not when it is ours already.
    vault_begin() {
      local note=$VAULT_NOTES/\${1##*/}
      if [ ! -e "$note.begun" ] && vault_is "$1" "$2"; then
        cryptsetup luksDump "$1" | grep --extended-regexp '^  0: luks2' > /dev/null ||
          vault_no 'its header is ours and has lost its keys: the data can come back, see: ./task vault restore-header'
        return
      fi
      vault_same "$1" && vault_idle "$1" "$3" && vault_blank "$1" "$2" || return
      if [ -e "$note.begun" ]; then return; fi
      install --directory --mode=700 /var/lib/fortress "$VAULT_NOTES"
      vault_identity "$1" > "$note.part"
      sync "$note.part"
      mv "$note.part" "$note.begun"
      sync "$VAULT_NOTES"
    }

    # vault_may_format DISK UUID NAME: it has been begun, it is the same disk, and there is nothing on it but our own beginning.
    vault_may_format() {
      [ -e "$VAULT_NOTES/\${1##*/}.begun" ] ||
        vault_no "$1 has our header, and our passphrase does not open it: it is not formatted again" || return
      vault_disk "$1" && vault_same "$1" && vault_idle "$1" "$3" && vault_blank "$1" "$2" || return
      [ ! -e "/dev/mapper/$3" ] || vault_no "/dev/mapper/$3 is open"
    }

    export -f vault_blank vault_begin vault_may_format
  `
}

/** Shell of this page alone: what the TPM2 has, and gives. */
function tpm2(): Command {
  return sh`
    vault_tpm2() { [ "$(cat /sys/class/tpm/tpm0/tpm_version_major 2> /dev/null)" = 2 ]; }

    # vault_bound DISK: the keys of the TPM2, as TOKEN REGISTERS and whether a PIN is wanted.
    vault_bound() {
      cryptsetup luksDump "$1" 2> /dev/null | awk '
        /^[A-Z]/ { part = $1 }
        part != "Tokens:" { next }
        /^  [0-9]+: / { token = $1 + 0; tpm2 = $2 == "systemd-tpm2"; bound = ""; pin = "false" }
        tpm2 && $1 == "tpm2-hash-pcrs:" { bound = $2 }
        tpm2 && $1 == "tpm2-pin:" { pin = $2 }
        tpm2 && $1 == "Keyslot:" { print token, bound, pin }'
    }

    # vault_gives DISK TOKEN REGISTERS PIN: the TPM2 gives this key now. A PIN is not tried, because the TPM2 counts tries: then
    # the policy that the key is bound to is compared with that of the registers as they are.
    vault_gives() {
      local policy
      if [ "$4" != true ]; then
        cryptsetup open --test-passphrase --token-only --token-id "$2" "$1" < /dev/null > /dev/null 2>&1
        return
      fi
      tpm2_startauthsession --quiet --session="$FK_TMP/session" &&
        tpm2_policypcr --quiet --session="$FK_TMP/session" --pcr-list="sha256:\${3//+/,}" &&
        tpm2_policyauthvalue --quiet --session="$FK_TMP/session" --policy="$FK_TMP/policy" || return
      tpm2_flushcontext --quiet "$FK_TMP/session"
      policy=$(od --address-radix=n --format=x1 "$FK_TMP/policy" | tr --delete ' \n')
      cryptsetup token export --token-id "$2" "$1" | grep --fixed-strings "$policy" > /dev/null
    }

    # vault_unseals DISK: this machine's TPM2 gives one of its keys now.
    vault_unseals() {
      local token bound pin
      while read -r token bound pin; do
        ! vault_gives "$1" "$token" "$bound" "$pin" || return 0
      done < <(vault_bound "$1")
      vault_no 'the TPM2 does not give its key: what it was bound to has changed, or it was cleared'
    }

    # vault_sealed DISK REGISTERS PIN [BRIDGE]: a key is bound to these registers, the TPM2 gives it now, and it has no other, but
    # one bound to BRIDGE while an update waits for the next start.
    vault_sealed() {
      local token bound pin good='' bridge=''
      while read -r token bound pin; do
        if [ "$bound $pin" = "$2 $3" ]; then
          ! vault_gives "$1" "$token" "$bound" "$pin" || good=yes
        elif [ "$bound" = "\${4-}" ] && fortress-vault pending "$1" "$2" "$4"; then
          bridge="until the next start bound to PCR $bound, too; "
        else
          vault_no "a key in the TPM2 is bound to PCR $bound$([ "$pin" != true ] || echo ' and a PIN')" || return
        fi
      done < <(vault_bound "$1")
      printf %s "$bridge"
      [ -n "$good" ] || vault_no "no key that the TPM2 gives now is bound to PCR $2"
    }

    export -f vault_tpm2 vault_bound vault_gives vault_unseals vault_sealed
  `
}

/** Shell of this page alone: the format, the key slots, the open mapping. */
function keys(): Command {
  return sh`
    # vault_sector DISK: 4096 where the disk can be divided by it.
    vault_sector() { if [ $(($(blockdev --getsize64 "$1") % 4096)) -eq 0 ]; then echo 4096; else echo 512; fi; }

    # vault_salt DISK SLOT: what its key is mixed with: another for each key that was ever in the slot.
    vault_salt() {
      cryptsetup luksDump "$1" 2> /dev/null | awk -v want="$2" '
        /^[A-Z]/ { part = $1; slot = "" }
        part == "Keyslots:" && /^  [0-9]+: / { slot = $1 + 0 "" }
        part == "Keyslots:" && slot == want && $1 == "Salt:" { print; more = 1; next }
        more && /^\t +[0-9a-f ]+$/ { print; next }
        { more = 0 }' | tr --delete '[:space:]'
    }

    # vault_key_slot DISK: the slot of the key file.
    vault_key_slot() { vault_key_tokens "$1" | awk '$2 != "" { print $2; exit }'; }
    vault_key_tokens() {
      cryptsetup luksDump "$1" 2> /dev/null | awk '
        /^[A-Z]/ { if (ours) print token, slot; part = $1; ours = 0 }
        part == "Tokens:" && /^  [0-9]+: / {
          if (ours) print token, slot
          token = $1 + 0; slot = ""; ours = $2 == "fortress-key-file"
        }
        part == "Tokens:" && $1 == "Keyslot:" { slot = $2 }'
    }

    # vault_key_drop DISK: the key file opens it no more.
    vault_key_drop() {
      local token slot
      while read -r token slot; do
        [ -z "$slot" ] || cryptsetup luksKillSlot --batch-mode "$1" "$slot"
        cryptsetup token remove --token-id "$token" "$1"
      done < <(vault_key_tokens "$1")
    }

    # vault_header_digest DISK: of its header, as it was before fortress-vault bound the TPM2's key anew.
    vault_header_digest() {
      local now first last
      now=$(vault_header "$1" | sha256sum | cut --delimiter=' ' --fields=1)
      read -r first last 2> /dev/null < "$VAULT_NOTES/renewed" || last=''
      if [ "$last" = "$now" ]; then echo "$first"; else echo "$now"; fi
    }

    # vault_open DISK UUID NAME: the mapping is there, and it is this vault's.
    vault_open() {
      local node
      node=$(readlink --canonicalize-existing "/dev/mapper/$3") || vault_no "/dev/mapper/$3 is not there" || return
      [ "$(cat "/sys/class/block/\${node##*/}/dm/uuid")" = "CRYPT-LUKS2-\${2//-/}-$3" ] ||
        vault_no "/dev/mapper/$3 is something else"
    }

    # vault_slots DISK: every key that opens it, and no key that nobody knows.
    vault_slots() {
      systemd-cryptenroll "$1" | awk -v file="$(vault_key_slot "$1")" '
        NR > 1 { kind = $1 == 0 && $2 == "password" ? "passphrase" : file != "" && $1 == file ? "key-file" : $2
                 line = line (line == "" ? "" : " ") $1 "=" kind }
        kind ~ /^(password|conflict|other)$/ { unknown = 1 }
        END { print line; exit unknown }'
    }

    export -f vault_sector vault_salt vault_key_slot vault_key_tokens vault_key_drop vault_header_digest vault_open vault_slots
  `
}
