// A thief with the machine and a system of their own: two systems under one shim, one firmware and one TPM2, with Secure Boot on. For
// which of them the vault opens, by each choice of the site document. Each start is a kernel and one process, so that it is quick.
import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { closeSync, copyFileSync, cpSync, openSync, readFileSync, rmSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Context } from '../../lib/engine/page.ts'
import { type Change, isChange } from '../../lib/engine/step.ts'
import { Secret } from '../../lib/ground/secret.ts'
import { quote } from '../../lib/ground/sh.ts'
import { vaultShell } from '../../lib/host/vault.ts'
import { claim } from '../../lib/lab/machine.ts'
import { homes, readIf } from '../../lib/lab/place.ts'
import { checking, endVm, freePort, running, startQemu, startTpm } from '../../lib/lab/qemu.ts'
import { emptyDisks, removeVm } from '../../lib/lab/vm.ts'
import { loadConfig } from '../../lib/site/config.ts'
import type { Vault } from '../../lib/site/model.ts'
import page from '../../scripts/08-host-vault.ts'
import { root } from '../machine/kit.ts'
import { made, withVault } from '../site/made.ts'
import { jobImage } from '../lab/guest.ts'

/** What a site document may say; a vault of each kind lies on the disk that the thief takes. */
const choices = {
  seven: { tpm2_pcrs: [7] },
  shim: { tpm2_pcrs: [7, 14] },
  ours: {},
  pin: { tpm2_pin: true },
  file: { key_file: true },
  person: { tpm2_pcrs: [] },
} satisfies Record<string, Partial<Vault>>
type Choice = keyof typeof choices
const all = Object.keys(choices) as Choice[]

/** The page for a vault of that kind. */
function stepsOf(choice: Choice): Change[] {
  const { env, pins } = loadConfig({ env: {}, site: 'fortress' })
  const site = made({ machines: [{ name: 'fortress', roles: ['host'], vault: choices[choice] }] })
  const context = {
    env,
    pins,
    site: withVault(site, { disk: `/mnt/${choice}` }),
    machine: { name: 'fortress', os: 'debian-13', arch: 'amd64', model: '', user: 'admin' },
    secrets: (name: string) => new Secret(name, () => 'unused'),
    state: '/nonexistent',
  } as unknown as Context
  return page.steps(context).filter(isChange)
}

function stepOf(choice: Choice, name: RegExp): Change {
  const step = stepsOf(choice).find((one) => name.test(one.name))
  assert.ok(step, `${choice}: no step ${name}`)
  return step
}

const script = readFileSync(join(root, 'config/host/fortress-vault'), 'utf8')

/** What every job begins with: the functions of the page, and the vaults where whoever holds the disks can reach them. */
const prelude = `set -u
exec 2>&1
export FK_TMP=/run/fk && mkdir $FK_TMP
${vaultShell.text}
${page.prepare?.text}
mkdir --parents "$VAULT_NOTES" /run/lock
disk=/dev/disk/by-id/virtio-fk-vault
reach() { mount -t ext4 $disk /mnt && mount --bind /mnt/notes "$VAULT_NOTES"; }
started() { for n in 7 14 4 8 9; do echo "job: $1 register $n $(cat /sys/class/tpm/tpm0/pcr-sha256/$n)"; done; }
# What the TPM2 gives, and what the PIN adds; a key file is only where its root is.
opens() {
  local one
  for one in ${all.join(' ')}; do
    if cryptsetup open --test-passphrase --token-only /mnt/$one < /dev/null > /dev/null 2>&1; then echo "job: $1 $one opens"; else
      echo "job: $1 $one shut"; fi
  done
  if [ -e /etc/cryptsetup-keys.d/vault.key ] && cryptsetup open --test-passphrase --disable-external-tokens \\
    --key-file /etc/cryptsetup-keys.d/vault.key /mnt/file; then echo "job: $1 file's-root opens"; fi
}
pin() { printf %s "$2" | cryptsetup open --test-passphrase --token-only /mnt/pin > /run/said 2>&1 && echo "job: $1 opens" ||
  echo "job: $1 shut $(xargs < /run/said)"; }
# Once for each start of this system: the phases of a job.
phase=$(cat /phase 2> /dev/null || echo 0) && echo $((phase + 1)) > /phase
# line [WORD]: what GRUB tells the kernel besides, from the next start on.
line() {
  awk -v more="\${1:+ $1}" '/^linux/ { sub(/ quiet.*/, " quiet" more) } { print }' /boot/grub/grub.cfg > /boot/grub/next
  mv /boot/grub/next /boot/grub/grub.cfg
}
again() { sync; systemctl reboot --force --force; sleep infinity; }
`

/** The commands of a step, as the page runs them, with the keys of a vault. */
const applied = ({ apply }: Change) =>
  apply
    .map(
      ({ text }) =>
        `printf 'passphrase\\nrecovery\\n12345678\\n' | bash -euo pipefail -c ${quote(text)} > /run/said 2>&1 || cat /run/said`,
    )
    .join('\n')
const asked = (choice: Choice, { check }: Change) =>
  `if { ${check.text}\n} > /run/said 2>&1; then echo 'job: ${choice} holds'; else echo "job: ${choice} open $(xargs < /run/said)"; fi`

const owner = `${prelude}
case $phase in
0)
  mke2fs -q -F -t ext4 $disk && mount -t ext4 $disk /mnt && mkdir /mnt/notes && umount /mnt && reach
  put() { cat > "$1"; chmod "$2" "$1"; }; put_finish() { :; }; export -f put put_finish
  cat > /usr/local/sbin/fortress-vault << 'END-OF-FILE'
${script}
END-OF-FILE
  chmod 755 /usr/local/sbin/fortress-vault
  printf passphrase > /run/pass && printf recovery > /run/recovery
  for one in ${all.join(' ')}; do
    truncate --size=20M /mnt/$one
    cryptsetup luksFormat --batch-mode --type luks2 --pbkdf pbkdf2 --pbkdf-force-iterations 1000 --offset 32768 \\
      --luks2-keyslots-size 4m --key-slot 0 --key-file /run/pass /mnt/$one
    cryptsetup luksAddKey --batch-mode --pbkdf pbkdf2 --pbkdf-force-iterations 1000 --new-key-slot 1 --key-file /run/pass \\
      /mnt/$one /run/recovery
    printf '{"type":"systemd-recovery","keyslots":["1"]}' | cryptsetup token import --json-file - /mnt/$one
  done
  ${all
    .map((choice) => {
      const step = stepOf(choice, /^(the TPM2 of this machine opens|no key of the vault is in the TPM2)/)
      return `${applied(step)}\n${asked(choice, step)}`
    })
    .join('\n')}
  ${applied(stepOf('file', /^a key file in the encrypted root/))}
  ${asked('file', stepOf('file', /^a key file in the encrypted root/))}
  fortress-vault renew /mnt/ours 7+8+9+14 7+14
  echo "job: $(secure_boot)"
  started owner; opens owner; pin right-pin 12345678
  ;;
1)
  reach; started again; opens again
  line audit=1
  fortress-vault arm /mnt/ours 7+8+9+14 7+14
  echo "job: bound $(vault_bound /mnt/ours | cut -d' ' -f2 | xargs)"
  again
  ;;
2)
  reach; started updated; opens updated
  fortress-vault renew /mnt/ours 7+8+9+14 7+14
  echo "job: bound $(vault_bound /mnt/ours | cut -d' ' -f2 | xargs)"
  opens renewed
  ;;
esac
`

const thief = `${prelude}
reach
case $phase in
0)
  # Only the root file system is another: the same files in /boot.
  started root; opens root; pin wrong-pin 00000000; pin known-pin 12345678
  line live
  again
  ;;
1)
  started line; opens line
  line
  # What is appended of zeros the kernel skips; it is measured all the same.
  head --bytes=512 /dev/zero >> /boot/initrd.img-*
  again
  ;;
2) started initrd; opens initrd ;;
esac
`

describe('a thief who starts another system on the machine', () => {
  const dirs = { owner: join(homes({})[1], 'thief-owner'), stick: join(homes({})[1], 'thief-stick') }
  let said: string[] = []
  after(async () => {
    for (const [name, dir] of Object.entries(dirs)) await removeVm(`thief-${name}`, dir)
  })

  async function prepare(name: keyof typeof dirs, image: string): Promise<void> {
    const dir = dirs[name]
    await claim(dir, `thief-${name}`, false, () => removeVm(`thief-${name}`, dir))
    emptyDisks(dir)
    copyFileSync(checking.vars, join(dir, 'secure.fd'))
    execFileSync('qemu-img', [
      'create',
      '-q',
      '-f',
      'qcow2',
      '-b',
      image,
      '-F',
      'qcow2',
      join(dir, 'disk.qcow2'),
    ])
  }

  /** One job of a system, from its start until it is off. What it says is added to what was said. */
  async function works(
    name: keyof typeof dirs,
    job: string,
    t: { diagnostic(text: string): void },
  ): Promise<void> {
    const began = Date.now()
    const dir = dirs[name]
    const disk = openSync(join(dir, 'spare'), 'r+')
    assert.ok(job.length < 2 ** 20)
    writeSync(disk, `${job}\n`)
    closeSync(disk)
    await startTpm(dir)
    const ports = { port: await freePort('tcp'), wireguardPort: await freePort('udp') }
    await startQemu({
      dir,
      disk: { file: join(dir, 'disk.qcow2'), format: 'qcow2' },
      ram: 'memory-backend-ram',
      ...ports,
      outside: undefined,
      incoming: false,
      secure: true,
    })
    while (running(dir)) await sleep(100)
    await endVm(dir)
    const text = readIf(join(dir, 'console.log'))
    const lines = [...text.matchAll(/job: (.*?)\r?$/gm)].map(([, line]) => line ?? '')
    assert.equal(lines.at(-1), 'ended with 0', text.slice(-4000))
    said = [...said, ...lines]
    t.diagnostic(`${name}: ${((Date.now() - began) / 1000).toFixed(0)} s`)
  }

  /** The stolen hardware: firmware, TPM2 and the disk of the vault go from one system to the other. Both are off. */
  function carry(from: keyof typeof dirs, to: keyof typeof dirs): void {
    for (const what of ['tpm', 'secure.fd', 'vault']) {
      rmSync(join(dirs[to], what), { recursive: true, force: true })
      cpSync(join(dirs[from], what), join(dirs[to], what), { recursive: true })
    }
  }

  /** Which of the vaults open for a system. */
  const opened = (system: string) => all.filter((choice) => said.includes(`${system} ${choice} opens`))
  /** The registers in which two systems agree. */
  const agreed = (one: string, other: string) =>
    [7, 14, 4, 8, 9].filter((n) => {
      const of = (system: string) =>
        said
          .find((line) => line.startsWith(`${system} register ${n} `))
          ?.split(' ')
          .at(-1)
      assert.match(of(one) ?? '', /^[0-9A-F]{64}$/)
      assert.match(of(other) ?? '', /^[0-9A-F]{64}$/)
      return of(one) === of(other)
    })

  before(async () => {
    const image = await jobImage()
    for (const name of ['owner', 'stick'] as const) await prepare(name, image)
  })

  test('on the machine of its owner each choice opens as it says, with Secure Boot on', async (t) => {
    await works('owner', owner, t)
    assert.ok(said.includes('Secure Boot is on'), said.join('\n'))
    for (const choice of all) assert.ok(said.includes(`${choice} holds`), said.join('\n'))
    assert.deepEqual(opened('owner'), ['seven', 'shim', 'ours'])
    assert.ok(said.includes('right-pin opens'), said.join('\n'))
    assert.ok(said.includes("owner file's-root opens"))
  })

  test('the thief’s system starts in three ways with the TPM2 of the owner', async (t) => {
    carry('owner', 'stick')
    await works('stick', thief, t)
  })

  test('another kernel line opens what is bound to Secure Boot and shim alone, and not ours', () => {
    assert.deepEqual(agreed('owner', 'line'), [7, 14, 4])
    assert.deepEqual(opened('line'), ['seven', 'shim'])
  })

  test('another initrd does not open ours either', () => {
    assert.deepEqual(agreed('owner', 'initrd'), [7, 14, 4, 8])
    assert.deepEqual(opened('initrd'), ['seven', 'shim'])
  })

  test('another root file system under the same kernel, initrd and line opens ours, too: nobody measures it', () => {
    assert.deepEqual(agreed('owner', 'root'), [7, 14, 4, 8, 9])
    assert.deepEqual(opened('root'), ['seven', 'shim', 'ours'])
  })

  test('a PIN, a key file in the root of the owner, and a passphrase keep all of them out', () => {
    assert.ok(said.some((line) => line.startsWith('wrong-pin shut')))
    // The PIN is what is missing, and nothing else.
    assert.ok(said.includes('known-pin opens'), said.join('\n'))
    assert.ok(!said.some((line) => /^(root|line|initrd) file's-root/.test(line)))
  })

  test('back in the hands of its owner it opens, and after an announced update, too, and is bound to that alone', async (t) => {
    carry('stick', 'owner')
    await works('owner', owner, t)
    assert.deepEqual(opened('again'), ['seven', 'shim', 'ours'])
    assert.deepEqual(agreed('again', 'updated'), [7, 14, 4])
    assert.deepEqual(opened('updated'), ['seven', 'shim', 'ours'])
    assert.deepEqual(opened('renewed'), ['seven', 'shim', 'ours'])
    assert.deepEqual(
      said.filter((line) => line.startsWith('bound ')),
      ['bound 7+8+9+14 7+14', 'bound 7+8+9+14'],
    )
  })
})
