// An encrypted disk that opens by itself on this machine, and on no other.
//
// Needs   a USB disk of its own, chosen by id in vault.disk of the site document.
// Leaves  /dev/mapper/<vault.name>, open after every boot, for the storage of the cluster. No file system: that is the guest's.
// Undo    closes the disk and forgets it in /etc/crypttab. What is stored on it stays, and so do its keys: a vault is emptied
//         only by a person, by hand.
import { feed, sh } from '../lib/ground/sh.ts'
import { consent, guards, unalarmed, vaultOf, vaultShell } from '../lib/host/vault.ts'
import { script } from '../lib/script.ts'

export default script(
  import.meta,
  { layer: 'L0', on: 'host', library: vaultShell },
  ({ site, machine, secrets }) => {
    const { kdf_memory_kib: memory, tpm2_pcrs: registers, discard } = site.vault
    const vault = vaultOf({ site, machine, secrets })
    const { disk, name, uuid, label, unit, keys, backup } = vault

    if (disk === '')
      return [
        {
          name: 'the site chooses no disk for the vault, so there is nothing to encrypt; verify lists the disks there are',
          why: 'a disk is chosen by a person, by its id, in vault.disk of the site document',
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
        },
      ]

    const pcrs = registers.toSorted((a, b) => a - b).join('+')
    const token = `{"type":"systemd-recovery","keyslots":["1"]}`
    const sealed = [
      'luks',
      'tpm2-device=auto',
      'token-timeout=30s',
      'headless=true',
      'nofail',
      'x-systemd.device-timeout=30s',
    ]
    const byHand = ['luks', 'noauto', 'headless=true']
    const line = (options: string[]) =>
      `${name} ${disk} none ${[...options, ...(discard ? ['discard'] : [])].join(',')}`
    const crypttab =
      pcrs === ''
        ? sh`echo ${line(byHand)}`
        : sh`if vault_tpm2; then echo ${line(sealed)}; else echo ${line(byHand)}; fi`

    return [
      ...guards(vault, memory),
      unalarmed(vault),
      consent(vault),

      {
        name: 'the programs for LUKS2 and TPM2 are installed',
        // systemd loads the libraries of the TPM2 when it needs them: whether they are there, only asking it tells.
        check: sh`test -x /usr/sbin/cryptsetup && test -x /usr/bin/systemd-cryptenroll && test -x /usr/lib/systemd/systemd-cryptsetup && { ! vault_tpm2 || systemd-cryptenroll --tpm2-device=list > /dev/null; }`,
        apply: [
          sh`apt-get --quiet=2 update`,
          sh`DEBIAN_FRONTEND=noninteractive apt-get --quiet=2 --yes --no-install-recommends install cryptsetup-bin tpm2-tools "$(if apt-cache show systemd-cryptsetup > /dev/null 2>&1; then echo systemd-cryptsetup; else echo systemd; fi)"`,
        ],
        seconds: 900,
      },

      {
        name: 'the disk is a LUKS2 vault that the passphrase opens',
        why: 'whoever takes the disk away has noise; each guess of the passphrase costs time and memory',
        check: sh`vault_is ${disk} ${uuid} && test -e "$VAULT_NOTES/$(basename ${disk})".made && cryptsetup luksDump ${disk} | grep --extended-regexp '^  0: luks2' > /dev/null`,
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
            title:
              'The vault is LUKS2, aes-xts-plain64 with 512 bits, and its passphrase stands behind Argon2id',
            check: sh`vault_strength ${disk} ${memory}`,
            from: ['NIST SP 800-53 SC-28(1)', 'RFC 9106', 'Lynis CRYP-7930'],
          },
        ],
      },

      {
        name: 'a recovery key opens the vault too',
        why: 'the TPM2 forgets its key when it is cleared or the board dies; this is made before the TPM2 is trusted with anything',
        check: sh`vault_token ${disk} recovery`,
        apply: [
          feed(keys)`
          mapfile -t key
          # As systemd-cryptenroll --recovery-key makes it: 256 random bits need no slow derivation.
          printf %s "\${key[1]}" | vault_opens ${disk} 1 ||
            cryptsetup luksAddKey --batch-mode --key-file <(printf %s "\${key[0]}") --new-key-slot 1 \
              --hash sha512 --pbkdf pbkdf2 --pbkdf-force-iterations 1000 ${disk} <(printf %s "\${key[1]}")
          printf %s ${token} | cryptsetup token import --json-file - ${disk}
        `,
        ],
        controls: [
          {
            id: 'F03',
            title: 'A recovery key is enrolled',
            check: sh`vault_token ${disk} recovery && systemd-cryptenroll ${disk} | awk '$2 == "recovery" { print "slot", $1 }'`,
            from: ['NIST SP 800-53 CP-9'],
          },
        ],
      },

      {
        name: 'the laptop has a copy of the header before the TPM2 gets a key',
        why: 'a few spoilt sectors at the beginning of a disk take all of it, and no key helps then',
        check: sh`vault_token ${disk} tpm2 || saved ${backup} "$(vault_header_digest ${disk})"`,
        apply: [sh`: # the copy is made by the laptop, see save`],
        save: { name: backup, command: sh`vault_header ${disk}` },
      },

      ...(pcrs === ''
        ? []
        : [
            {
              name: 'the TPM2 of this machine opens the vault',
              why: `PCR ${pcrs}: 7 is the state of Secure Boot and its keys, which updates of kernel and system leave alone; 0, 2 and 4 change with each update of firmware or boot loader and would keep the vault shut`,
              check: sh`! vault_tpm2 || vault_sealed ${disk} ${pcrs}`,
              apply: [
                // The slots before the first try: what a killed enrolment leaves without a token is known by its absence here.
                sh`[ -e "$VAULT_NOTES"/slots ] || { systemd-cryptenroll ${disk} | awk 'NR > 1 && $2 != "tpm2" { print $1 }' > "$VAULT_NOTES"/slots.part && sync "$VAULT_NOTES"/slots.part && mv "$VAULT_NOTES"/slots.part "$VAULT_NOTES"/slots; }`,
                feed(keys)`
                mapfile -t key
                # For the same registers systemd-cryptenroll keeps a key that a cleared TPM2 cannot give any more: the old one goes first.
                ! vault_token ${disk} tpm2 || systemd-cryptenroll --unlock-key-file=<(printf %s "\${key[0]}") --wipe-slot=tpm2 ${disk}
                systemd-cryptenroll --unlock-key-file=<(printf %s "\${key[0]}") --tpm2-device=auto --tpm2-pcrs=${pcrs} ${disk}
              `,
                sh`systemd-cryptenroll ${disk} | awk 'NR == FNR { known[$1]; next } FNR > 1 && $2 == "password" && !($1 in known) { print $1 }' "$VAULT_NOTES"/slots - |
                while read -r slot; do cryptsetup luksKillSlot --batch-mode ${disk} "$slot"; done
                rm "$VAULT_NOTES"/slots`,
              ],
              controls: [
                {
                  id: 'F02',
                  title: 'The TPM2 opens the vault, and only after an unchanged boot',
                  check: sh`vault_tpm2 || { echo 'this machine has no TPM2: after a boot, apply this page to open the vault' && exit 100; }
                  vault_sealed ${disk} ${pcrs} && printf 'bound to PCR %s; ' ${pcrs} && vault_secure_boot`,
                  from: ['NIST SP 800-53 SC-12'],
                },
              ],
            },
          ]),

      {
        name: 'the copy of the header on the laptop is the header of now',
        why: 'a copy from before a change of keys brings back keys that were removed, and lacks the ones that were added',
        check: sh`saved ${backup} "$(vault_header_digest ${disk})"`,
        apply: [sh`: # the copy is made by the laptop, see save`],
        save: { name: backup, command: sh`vault_header ${disk}` },
        controls: [
          {
            id: 'F04',
            title: 'The header is backed up, encrypted, off the host',
            check: sh`saved ${backup} "$(vault_header_digest ${disk})"`,
            from: ['NIST SP 800-53 CP-9(8)'],
          },
        ],
      },

      {
        name: 'the vault opens at boot, and a missing disk holds nothing up',
        check: sh`put_finished /etc/crypttab && ${crypttab} | grep --line-regexp --fixed-strings --file=- /etc/crypttab > /dev/null`,
        apply: [
          sh`{ awk -v name=${name} '$1 != name' <(cat /etc/crypttab 2> /dev/null) && ${crypttab}; } | put /etc/crypttab 600 root:root`,
          sh`systemctl daemon-reload`,
          sh`put_finish /etc/crypttab`,
        ],
        controls: [
          {
            id: 'F11',
            title: '/etc/crypttab is for root alone, and no key is stored beside it',
            check: sh`stat --format='%a %U:%G' /etc/crypttab && awk -v name=${name} '$1 == name { print $3, $4; if ($3 != "none") bad = 1 } END { exit bad }' /etc/crypttab && test "$(stat --format='%a %U:%G' /etc/crypttab)" = '600 root:root'`,
            from: ['ANSSI-BP-028 R50'],
          },
        ],
      },

      {
        name: `the vault is open at /dev/mapper/${name}`,
        check: sh`vault_open ${disk} ${uuid} ${name}`,
        apply: [
          feed(keys)`
          if ! systemctl start ${unit}; then
            mapfile -t key
            printf %s "\${key[0]}" | cryptsetup open --type luks2 --key-file - ${discard ? ['--allow-discards', disk] : disk} ${name}
            systemctl start ${unit} # finds it open, and stands for it from now on
          fi
        `,
        ],
        undo: [sh`systemctl stop ${unit}; [ ! -e ${`/dev/mapper/${name}`} ] || cryptsetup close ${name}`],
        controls: [
          {
            id: 'F12',
            title: 'The data of the cluster has an encrypted disk of its own',
            check: sh`vault_open ${disk} ${uuid} ${name} && lsblk --nodeps --noheadings --output NAME,TYPE,SIZE,LOG-SEC ${`/dev/mapper/${name}`}`,
            from: ['NIST SP 800-53 SC-28(1)'],
          },
        ],
      },

      {
        name: 'nobody else has a key of the vault',
        check: sh`vault_slots ${disk}`,
        help: `a key that nobody here made is removed on the machine: cryptsetup luksKillSlot ${disk} SLOT`,
        controls: [
          {
            id: 'F05',
            title: 'Every key of the vault is known: passphrase, recovery key, TPM2',
            check: sh`vault_slots ${disk}`,
            from: ['NIST SP 800-53 SC-12'],
          },
        ],
      },
    ]
  },
)
