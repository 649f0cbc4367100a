// ./task vault: the keys that open a vault without its machine, and a lost header from the copy on the laptop.
import { createRequire } from 'node:module'
import { join } from 'node:path'
import type { Page } from '../engine/page.ts'
import type { Demand, Step } from '../engine/step.ts'
import { Fault } from '../ground/fault.ts'
import { Secret, secretStore } from '../ground/secret.ts'
import { feed, sh } from '../ground/sh.ts'
import { type Vault, bare, vaultOf, vaultShell } from '../host/vault.ts'
import { tail } from '../lab/qemu.ts'
import { flags } from './flags.ts'
import type { Call } from './taskfile.ts'

const load = createRequire(import.meta.url)

/**
 * `./task vault keys` shows what opens the vaults of a site without their machine; `./task vault restore-header` brings a lost
 * header back. Resolves to the exit code; throws a Fault for anything it does not know or have.
 */
export async function vault(call: Call): Promise<number> {
  const given = flags(call, ['keys|restore-header'])
  const [word] = given.words
  if (word === 'restore-header') {
    const { runPages } = load('./pages.ts') as typeof import('./pages.ts')
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
  library: vaultShell,
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
