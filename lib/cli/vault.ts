// ./task vault: the keys that open a vault without its machine, and a lost header from the copy on the laptop.
import type { Page } from '../engine/page.ts'
import type { Demand, Step } from '../engine/step.ts'
import { Fault } from '../ground/fault.ts'
import type { Secret } from '../ground/secret.ts'
import { feed, sh } from '../ground/sh.ts'
import { type Vault, bare, vaultOf, vaultShell } from '../host/vault.ts'
import type { Call } from './call.ts'
import { parse } from './flags.ts'
import { runPages } from './pages.ts'
import { withSession } from './session.ts'
import { vault as table } from './tables.ts'

/**
 * `./task vault keys` shows what opens the vaults of a site without their machine, on a terminal only; `./task vault
 * restore-header` writes a lost header back. Resolves to the exit code; throws a Fault for what is missing.
 */
export async function vault(call: Call): Promise<number> {
  const given = parse(call, table)
  return given.words[0] === 'keys' ? keys(call) : runPages([restorePage], 'apply', given, call.signal)
}

const keys = (call: Call): Promise<number> =>
  withSession(call, table, async ({ config: { site }, store, terminal }) => {
    // A pipe, a file, a log of a pipeline: there they would stay.
    if (!terminal)
      throw new Fault('The keys of a vault are shown on a terminal only', {
        state: 'nothing was shown',
        next: './task vault keys, typed at a terminal; then write the recovery key on paper',
      })
    for (const machine of site.machines.filter(({ roles }) => roles.includes('host'))) {
      const vault = vaultOf({ site, machine, secrets: (name) => store.secret(name) })
      const { disk, name } = vault
      if (!store.has(`${machine.name}-${name}-recovery-key`))
        throw new Fault(`The vault of ${machine.name} has no keys yet`, {
          next:
            disk === ''
              ? `it has no disk: choose one as vault.disk of the machine in config/sites/${site.name}.yaml`
              : './task host-vault apply makes them',
        })
      const [passphrase, recovery, pin] = (await vault.keys.resolve()).split('\n')
      const lines = [
        `${machine.name}, ${disk || 'no disk chosen'}`,
        `  passphrase    ${passphrase}`,
        `  recovery key  ${recovery}`,
        ...(pin ? [`  PIN           ${pin}`] : []),
      ]
      process.stdout.write(`${lines.join('\n')}\n`)
    }
    process.stdout.write(
      'Write the recovery key on paper, and keep the paper where neither machine nor laptop is.\n',
    )
    return 0
  })

const restorePage: Page = {
  name: 'vault-restore-header',
  file: import.meta.filename,
  summary: 'The LUKS header of the vault is on its disk again.',
  layer: 'L0',
  on: 'host',
  library: vaultShell,
  steps: (context) => {
    const vault = vaultOf(context)
    if (vault.disk === '')
      throw new Fault('the site chooses no disk for the vault', { next: 'vault.disk in the site document' })
    return restoreHeader(vault, context.secrets(vault.backup))
  },
}

/**
 * The steps that restore a lost header from the laptop's copy. They refuse another disk, a disk in use, a disk with data of
 * somebody else, a copy of another vault, and a header that is whole (its keys may be newer than the copy's).
 * `header` is the base64 text of the saved bytes.
 */
export function restoreHeader(vault: Vault, header: Secret): Step[] {
  const { disk, name, uuid } = vault
  return [
    ...guardsOfRestore(vault),
    {
      name: 'the LUKS header of the vault is the saved one',
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
  const id = disk.replace(/^.*\//, '')
  return [
    {
      name: 'the vault disk is attached, closed, and the same disk as before',
      check: sh`
        vault_disk ${disk} && vault_idle ${disk} ${name} &&
          { ! test -e /dev/mapper/${bare(name)} || vault_no it is open; } &&
          { vault_is ${disk} ${uuid} || vault_same ${disk}; }
      `,
      help: `close it first: cryptsetup close ${name}`,
    },
    {
      name: 'the disk holds nothing but a LUKS header of this vault, or what is left of one',
      check: sh`
        wipefs --no-act --noheadings --output TYPE,UUID ${disk} | awk -v ours=${uuid} '
          !($1 == "crypto_LUKS" && $2 == ours) { print "it carries:", $0; bad = 1 }
          END { exit bad }'
      `,
      help: 'this disk was used for something else; a header would destroy that',
    },
    {
      name: 'replacing the LUKS header of the disk is confirmed by its id',
      check: sh`vault_token ${disk} recovery 2> /dev/null`,
      help: `type it at the prompt, or say --confirm ${id}`,
      typed: id,
    },
  ]
}
