// The page of the vault as text: what is in it, in which order, and what is not.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { Context } from '../../lib/engine/page.ts'
import { printed } from '../../lib/engine/print.ts'
import { isChange, isDemand } from '../../lib/engine/step.ts'
import { Secret } from '../../lib/ground/secret.ts'
import { makeRecoveryKey, vaultOf } from '../../lib/host/vault.ts'
import { loadConfig } from '../../lib/site/config.ts'
import type { Site, Vault } from '../../lib/site/model.ts'
import page from '../../scripts/08-host-vault.ts'
import { shellcheck, without } from '../programs.ts'
import { estate, made, withVault } from '../site/made.ts'

const disk = '/dev/disk/by-id/usb-Samsung_PSSD_T7_S6XPNS0T900000-0:0'

function context(vault: Partial<Vault> = {}, machine = 'fortress'): Context {
  const { env, pins } = loadConfig({ env: {}, site: 'fortress' })
  const hosts = ['fortress', 'second'].map((name) => ({ name, roles: ['host' as const] }))
  const site = made({ name: 'fortress', machines: hosts })
  return {
    env,
    site: withVault(site, { disk, ...vault }),
    pins,
    machine: { name: machine, os: 'debian-13', arch: 'amd64', model: '', user: 'admin', via: '198.51.100.7' },
    secrets: (name) => new Secret(name, () => assert.fail(`${name} was asked for`)),
    state: '/nonexistent',
  } as Context
}

const names = (vault?: Partial<Vault>) => page.steps(context(vault)).map((s) => s.name)

test('a recovery key is what systemd-cryptenroll makes: 256 bits in modhex, eight groups of eight', () => {
  const bytes = Uint8Array.from({ length: 32 }, (_, i) => (i * 8 + 1) & 0xff)
  assert.equal(
    makeRecoveryKey(bytes),
    'cbckbbbk-dbdkebek-fbfkgbgk-hbhkibik-jbjkkbkk-lblknbnk-rbrktbtk-ubukvbvk', // gitleaks:allow
  )
  assert.match(makeRecoveryKey(), /^([cbdefghijklnrtuv]{8}-){7}[cbdefghijklnrtuv]{8}$/)
  assert.notEqual(makeRecoveryKey(), makeRecoveryKey())
})

test('a vault is known by its site, its machine and its name, in whatever enclosure', () => {
  const uuid = (vault = {}, machine?: string) => vaultOf(context(vault, machine)).uuid
  assert.match(uuid(), /^[0-9a-f]{8}-[0-9a-f]{4}-5[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/)
  assert.equal(uuid(), uuid({ disk: '/dev/disk/by-id/usb-Other_Enclosure_0:0' }))
  assert.notEqual(uuid(), uuid({ name: 'other' }))
  assert.notEqual(uuid(), uuid({}, 'second'))
})

test('each host of a site has a vault of its own, with its own disk, name and TPM2', () => {
  const site = estate()
  const on = (name: string) => {
    const given = { ...context(), site }
    return page.steps({ ...given, machine: { ...given.machine, name } })
  }
  const text = (name: string) => JSON.stringify(on(name))
  assert.match(text('north'), /usb-Samsung_T7-0:0/)
  assert.doesNotMatch(text('north'), /nvme-Samsung_990|\/dev\/mapper\/inner/)
  assert.match(text('south'), /nvme-Samsung_990/)
  assert.ok(on('south').some((step) => step.name === 'the vault is open at /dev/mapper/inner'))
  const tpm = (name: string) => on(name).some((step) => step.name.includes('TPM2 of this machine'))
  assert.deepEqual([tpm('north'), tpm('south')], [true, false])
  assert.equal(on('metal').length, 1)
})

test('without a disk there is nothing to do', () => {
  assert.deepEqual(names({ disk: '' }), [
    'no disk is chosen for the vault (vault.disk), so nothing is encrypted',
  ])
})

test('recovery key and copy of the header come before the TPM2, and refusals before everything', () => {
  assert.deepEqual(names(), [
    'the vault is one whole disk that is plugged in, and no other disk claims its id',
    'the driver of the vault disk is not blocked: usb-storage, uas',
    'nothing uses the vault disk: no mount, swap, partition, RAID or volume group',
    'the vault disk is empty, or is this vault already',
    'the name vault is free in /dev/mapper and /etc/crypttab',
    'vault disk and memory are large enough for LUKS2 and Argon2id',
    'the machine boots as it did when the TPM2 was given its key',
    'a person has confirmed by its id that the vault disk may be formatted',
    'cryptsetup and tpm2-tools are installed',
    'systemd-cryptsetup and systemd-cryptenroll are installed',
    'the disk is a LUKS2 vault that the passphrase opens',
    'the vault has a recovery key',
    'the recovery key of the vault is on paper, and two of its groups were typed from there',
    'the machine has a note that the recovery key is on paper',
    'the laptop has a copy of the LUKS2 header before the TPM2 gets a key',
    'the TPM2 of this machine opens the vault',
    'a script binds the key of the TPM2 to the kernel that was started, and removes no key before the new one opens',
    'a service binds the key of the TPM2 at each start, and bridges updates at each stop',
    'APT bridges an update of what the machine starts, in case that it stops without order',
    'the key of the TPM2 is bound anew at each start (fortress-vault.service)',
    'no key file opens the vault',
    'the copy of the LUKS2 header on the laptop is current',
    'the vault opens at boot, and a missing disk does not stop the boot (crypttab)',
    'the vault is open at /dev/mapper/vault',
    'the vault has no key slot of unknown origin',
  ])
})

test('a site without a TPM2 gets no key in one, and a vault that waits for a person', () => {
  const steps = page.steps(context({ tpm2_pcrs: [] }))
  assert.ok(!steps.some((s) => s.name.includes('the TPM2 of this machine')))
  const crypttab = steps.find((s) => s.name.startsWith('the vault opens at boot'))
  assert.ok(crypttab && isChange(crypttab))
  assert.match(crypttab.check.text, new RegExp(`vault ${disk} none luks,noauto,headless=true'`))
})

/** The line of /etc/crypttab, and what F02 says, for a choice. */
function choice(vault: Partial<Vault>) {
  const steps = page.steps(context(vault)).filter(isChange)
  const crypttab = steps.find(({ name }) => name.startsWith('the vault opens at boot'))?.check.text ?? ''
  return {
    crypttab: /'(vault \/dev\S+ \S+ \S+)'/.exec(crypttab)?.[1]?.replace(disk, 'DISK'),
    title: steps.flatMap(({ controls = [] }) => controls).find(({ id }) => id === 'F02')?.title,
    facts: steps.map(({ name }) => name),
  }
}

test('each way to open it says whom it opens for, and what it asks at boot', () => {
  const bound = choice({ tpm2_pcrs: [7, 14] })
  assert.match(
    bound.title ?? '',
    /for any system that is signed under the same keys, a stick with Debian too$/,
  )
  assert.match(
    bound.crypttab ?? '',
    /^vault DISK none luks,tpm2-device=auto,token-timeout=30s,headless=true,nofail,/,
  )
  assert.ok(!bound.facts.some((fact) => fact.includes('fortress-vault.service')))

  assert.match(
    choice({}).title ?? '',
    /for the kernel, initrd and command line of this machine over any root file system/,
  )

  const pin = choice({ tpm2_pcrs: [7, 14], tpm2_pin: true })
  assert.match(pin.title ?? '', /for whoever knows the PIN/)
  assert.match(pin.crypttab ?? '', /,tpm2-pin=yes,timeout=180s,nofail,/)
  assert.doesNotMatch(pin.crypttab ?? '', /headless/)

  const file = choice({ tpm2_pcrs: [], key_file: true })
  assert.equal(file.title, undefined)
  assert.match(
    file.crypttab ?? '',
    /^vault DISK \/etc\/cryptsetup-keys\.d\/vault\.key luks,headless=true,nofail,/,
  )
  assert.ok(file.facts.includes('no key of the vault is in the TPM2'))
  const asked = page.steps(context({ tpm2_pcrs: [], key_file: true })).map(({ name }) => name)
  assert.ok(
    asked.indexOf('the root file system is encrypted, as a key file in it needs (vault.key_file)') < 7,
  )
})

test('F02 fails without Secure Boot, and is waived where the site has accepted that', () => {
  const of = (accepted: Site['accepted']) => {
    const given = context()
    const steps = page.steps({ ...given, site: { ...given.site, accepted } })
    return steps.flatMap(({ controls = [] }) => controls).find(({ id }) => id === 'F02')
  }
  assert.match(of([])?.check.text ?? '', /&& secure_boot$/)
  assert.equal(of([])?.waived, undefined)
  const line = { what: 'control:fortress:F02', why: 'an old board', until: '2027-05-31' }
  assert.equal(of([line])?.waived, 'an old board (until 2027-05-31)')
})

test('the recovery key waits for a person who has it on paper, and is not asked of a printed page', () => {
  const step = page.steps(context()).find((one) => 'paper' in one)
  assert.ok(step && isDemand(step) && step.person)
  assert.equal(step.paper?.name, 'fortress-vault-recovery-key')
  const text = printed({ ...page, steps: page.steps(context()) })
  assert.match(text, /^# FK_PAPER=yes confirms: the recovery key of the vault is on paper/m)
})

test('no key stands in a command: plans, prints and steps never ask for one', () => {
  for (const step of page.steps(context()))
    for (const command of [step.name, ...(isChange(step) ? step.apply.map((c) => c.text) : [])])
      assert.ok(!/([a-z2-9]{4}-){7}/.test(command))
  // The secrets of `context` fail when somebody asks for their value.
  printed({ ...page, steps: page.steps(context()) })
})

test(
  'shellcheck finds no fault in the printed page of a site with a vault',
  { skip: without('shellcheck') },
  () => {
    for (const vault of [
      {},
      { tpm2_pcrs: [], discard: true, name: 'vm-data' },
      { tpm2_pcrs: [], key_file: true },
      { tpm2_pcrs: [7, 14], tpm2_pin: true },
    ]) {
      assert.equal(shellcheck(printed({ ...page, steps: page.steps(context(vault)) })), '')
    }
  },
)
