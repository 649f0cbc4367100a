// What a thief of the machine gets from its TPM2, and what binds its key anew: Debian 13's own programs before a software TPM.
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { before, describe, test } from 'node:test'
import type { Context } from '../../lib/engine/page.ts'
import { type Change, isChange } from '../../lib/engine/step.ts'
import { Secret } from '../../lib/ground/secret.ts'
import { quote } from '../../lib/ground/sh.ts'
import { vaultShell } from '../../lib/host/vault.ts'
import { labImage } from '../../lib/lab/lab.ts'
import { loadConfig } from '../../lib/site/config.ts'
import type { Vault } from '../../lib/site/model.ts'
import page from '../../scripts/08-host-vault.ts'
import { withVault } from '../site/made.ts'
import { root } from './kit.ts'

const here = (name: string) => readFileSync(join(root, 'test/machine', name), 'utf8')
const functions = `${vaultShell.text}\n${page.prepare?.text}`

/** Runs bash in a Debian 13 of its own, with a TPM that has never been used. Returns what it said, by the line. */
let tree = ''
function machine(script: string): string[] {
  const install = (path: string, text: string) =>
    `cat > "$root/usr/local/sbin/${path}" << 'END-OF-FILE'\n${text}\nEND-OF-FILE\nchmod 755 "$root/usr/local/sbin/${path}"`
  const outside = `set -euo pipefail
    mount -t tmpfs tmpfs /mnt
    mkdir /mnt/upper /mnt/work /mnt/root
    root=/mnt/root
    mount -t overlay -o lowerdir=${quote(tree)},upperdir=/mnt/upper,workdir=/mnt/work machine "$root"
    mount --rbind /dev "$root/dev"
    mount -t proc proc "$root/proc"
    mount -t tmpfs tmpfs "$root/run"
    ${install('fortress-vault', readFileSync(join(root, 'config/host/fortress-vault'), 'utf8'))}
    ${install('cryptsetup', here('cryptsetup.sh'))}
    exec chroot "$root" bash -euo pipefail -c ${quote(`${here('thief.sh')}\n${functions}\nFK_TMP=$(mktemp -d)\nexport FK_TMP\n${script}`)}`
  const { status, stdout, stderr } = spawnSync(
    'unshare',
    ['--mount', '--net', '--pid', '--fork', '--kill-child', 'bash', '-c', outside],
    { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'], timeout: 300_000 },
  )
  assert.equal(status, 0, `${stdout}\n${stderr}`)
  return stdout.trim().split('\n')
}

/** The page for a vault on the file of that machine. */
function steps(vault: Partial<Vault>): Change[] {
  const { env, pins, site } = loadConfig({ env: {}, site: 'fortress' })
  const context = {
    env,
    pins,
    site: withVault(site, { disk: '/disk', ...vault }),
    machine: { name: 'fortress', os: 'debian-13', arch: 'amd64', model: '', user: 'admin' },
    secrets: (name: string) => new Secret(name, () => 'unused'),
    state: '/nonexistent',
  } as unknown as Context
  return page.steps(context).filter(isChange)
}

describe('a vault before a TPM2', () => {
  before(async () => {
    const extra = ['tpm2-tools', 'libtss2-tcti-swtpm0t64', 'swtpm']
    tree = (await labImage({ only: 'node', extra })).tree
  })

  test('opens for another system under the same shim where 7 and 14 are all, and not where its kernel counts', () => {
    const said = machine(`boots owner; enrols 7+14; enrols 7+8+9+14
      echo "owner $(opens 1) $(opens 2)"
      boots stick; echo "stick $(opens 1) $(opens 2)"
      boots owner; echo "owner $(opens 1) $(opens 2)"`)
    assert.deepEqual(said, ['owner opens opens', 'stick opens shut', 'owner opens opens'])
  })

  test('whose key wants a PIN is compared with the registers, and no try is spent on it', () => {
    const said = machine(`boots owner; enrols 7+14 12345678
      vault_bound /disk
      vault_gives /disk 1 7+14 true && echo 'as it was'
      echo "without it $(opens 1)"
      vault_sealed /disk 7+14 true && echo sealed
      ! vault_sealed /disk 7+14 false
      measured 14 'a key of somebody else'
      ! vault_gives /disk 1 7+14 true && echo 'other keys'`)
    assert.deepEqual(said, [
      '1 7+14 true',
      'as it was',
      'without it shut',
      'sealed',
      'a key in the TPM2 is bound to PCR 7+14 and a PIN',
      'other keys',
    ])
  })

  test('is bound anew after an update, opens on the way, and keeps its passphrase and recovery key', () => {
    const said = machine(`boots owner; enrols 7+8+9+14; binding renew; slots
      binding arm; slots
      before=$(sha256sum < /disk)
      echo two > /boot/vmlinuz; binding pending && echo pending
      binding arm > /dev/null 2>&1; slots
      vault_sealed /disk 7+8+9+14 false 7+14 && echo
      [ "$before" != "$(sha256sum < /disk)" ]
      echo "$(vault_header_digest /disk)" > /was
      boots updated; binding renew > /dev/null 2>&1; slots
      [ "$(vault_header_digest /disk)" = "$(cat /was)" ] && echo 'the copy of the header is still good'
      vault_sealed /disk 7+8+9+14 false 7+14 && echo sealed
      echo "$(passes 0 /pass) $(passes 1 /recovery)"
      binding pending || echo settled
      boots updated; binding renew; slots
      boots owner; ! binding renew; slots`)
    assert.deepEqual(said, [
      '0=password 1=recovery 2=tpm2',
      '0=password 1=recovery 2=tpm2',
      'pending',
      '0=password 1=recovery 2=tpm2 3=tpm2',
      'until the next start bound to PCR 7+14, too; ',
      '0=password 1=recovery 4=tpm2',
      'the copy of the header is still good',
      'sealed',
      'yes yes',
      'settled',
      '0=password 1=recovery 4=tpm2',
      'this start is another than the last, and no update announced it: the TPM2 does not open /disk',
      '0=password 1=recovery 4=tpm2',
    ])
  })

  test('is not sealed while a weaker key lies beside, and no update waits', () => {
    const said = machine(`boots owner; enrols 7+8+9+14; binding renew; enrols 7+14
      ! vault_sealed /disk 7+8+9+14 false 7+14
      ! vault_sealed /disk 7+14 false
      binding renew > /dev/null 2>&1; slots
      boots other; ! vault_sealed /disk 7+8+9+14 false 7+14; ! vault_unseals /disk`)
    assert.deepEqual(said, [
      'a key in the TPM2 is bound to PCR 7+14',
      'a key in the TPM2 is bound to PCR 7+8+9+14',
      '0=password 1=recovery 2=tpm2',
      'no key that the TPM2 gives now is bound to PCR 7+8+9+14',
      'the TPM2 does not give its key: what it was bound to has changed, or it was cleared',
    ])
  })

  test('loses nothing by a run that was killed, and keeps no key that nobody knows', () => {
    // As systemd-cryptenroll leaves it between its two writes: a slot, and no token that names it.
    const said = machine(`boots owner; enrols 7+8+9+14; binding renew; echo two > /boot/vmlinuz
      printf '0\\n1\\n' > /var/lib/fortress/vault/slots
      cryptsetup luksAddKey --batch-mode --pbkdf pbkdf2 --pbkdf-force-iterations 1000 --key-file /pass /disk <(echo left)
      slots
      binding arm > /dev/null 2>&1; slots; ls /var/lib/fortress/vault
      boots updated; binding renew > /dev/null 2>&1; slots
      echo "$(passes 0 /pass) $(passes 1 /recovery)"`)
    assert.deepEqual(said, [
      '0=password 1=recovery 2=tpm2 3=password',
      '0=password 1=recovery 2=tpm2 4=tpm2',
      'renewed',
      'started',
      '0=password 1=recovery 3=tpm2',
      'yes yes',
    ])
  })

  test('has a key file instead, known by its token, and loses it when the site says otherwise', () => {
    const named = (vault: Partial<Vault>, name: string) => {
      const step = steps(vault).find((one) => one.name === name)
      assert.ok(step, name)
      return step
    }
    const filed = named({ tpm2_pcrs: [], key_file: true }, 'a key file in the encrypted root opens the vault')
    const bare = named({ tpm2_pcrs: [], key_file: true }, 'no key of the vault is in the TPM2')
    const none = named({ tpm2_pcrs: [] }, 'no key file opens the vault')
    const apply = (step: Change) =>
      step.apply
        .map(({ text }) => `printf 'passphrase\\nrecovery\\n' | bash -euo pipefail -c ${quote(text)}`)
        .join('\n')
    const holds = (step: Change) => `if ${step.check.text}\nthen echo holds; else echo open; fi`
    const said =
      machine(`put() { cat > "$1"; chmod "$2" "$1"; }; put_finish() { :; }; export -f put put_finish
      boots owner; enrols 7+14
      ${holds(filed)}; ${holds(bare)}
      ${apply(filed)}
      ${apply(bare)} > /dev/null 2>&1
      ${holds(filed)}; ${holds(bare)}; slots; vault_slots /disk
      # A new system has no file, or another: the old slot goes.
      rm /etc/cryptsetup-keys.d/vault.key
      ${holds(filed)}
      ${apply(filed)}
      ${holds(filed)}; vault_slots /disk
      ${holds(none)}; ${apply(none)}; ${holds(none)}; vault_slots /disk
      cryptsetup luksDump /disk | grep -c fortress-key-file || true
      echo "$(passes 0 /pass) $(passes 1 /recovery)"`)
    assert.deepEqual(said, [
      'open',
      'open',
      'holds',
      'holds',
      '0=password 1=recovery 3=other',
      '0=passphrase 1=recovery 3=key-file',
      'open',
      'holds',
      '0=passphrase 1=recovery 2=key-file',
      'open',
      'holds',
      '0=passphrase 1=recovery',
      '0',
      'yes yes',
    ])
  })

  test('asks for the paper again when the recovery key is another', () => {
    const said =
      machine(`first=$(vault_salt /disk 1); [ "\${#first}" -gt 60 ] && [ "$first" = "$(vault_salt /disk 1)" ] && echo same
      cryptsetup luksKillSlot --batch-mode /disk 1
      [ -z "$(vault_salt /disk 1)" ] && echo none
      cryptsetup luksAddKey --batch-mode --pbkdf pbkdf2 --pbkdf-force-iterations 1000 --new-key-slot 1 --key-file /pass /disk /recovery
      [ "$first" != "$(vault_salt /disk 1)" ] && echo other
      [ "$(vault_salt /disk 0)" != "$(vault_salt /disk 1)" ] && echo own`)
    assert.deepEqual(said, ['same', 'none', 'other', 'own'])
  })
})
