// The vault on a real disk with a real TPM2: refusals, kills, a power cut, a lost TPM2, a lost header.
import assert from 'node:assert/strict'
import { after, before, describe, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { restoreHeader } from '../../lib/cli/vault.ts'
import type { Context } from '../../lib/engine/page.ts'
import { printed } from '../../lib/engine/print.ts'
import { type Mode, runPage } from '../../lib/engine/run.ts'
import type { Step } from '../../lib/engine/step.ts'
import { sh } from '../../lib/ground/sh.ts'
import { vaultOf, vaultShell } from '../../lib/host/vault.ts'
import { labBoot, labClearTpm, labDown, labReboot, labUp } from '../../lib/lab/lab.ts'
import page, { guards } from '../../scripts/08-host-vault.ts'
import { type Kit, type Opened, around, open } from '../machine/kit.ts'
import { left, runPrinted, sameLeft } from '../machine/printed.ts'
import { withVault } from '../site/made.ts'

const name = 'vault-test'
const disk = '/dev/disk/by-id/virtio-fk-vault'
const spare = '/dev/disk/by-id/virtio-fk-spare'
const unit = 'systemd-cryptsetup@vault.service'

interface Run {
  mode?: Mode
  disk?: string
  /** Of the vault. */
  name?: string
  /** What the person types when the id of the disk is asked for; null: nobody is there. */
  typed?: string | null
  /** The recovery key is on paper; false: nobody is there. */
  paper?: boolean
  steps?: (context: Context) => Step[]
}

interface Ran {
  code: number
  changed: number
  text: string
}

describe('the vault', () => {
  let kit: Kit
  before(async () => {
    kit = around(await labUp(name))
  })
  after(() => labDown(name))

  /** The laptop's connection. It ends with a boot of the machine. */
  let opened: Opened | undefined
  const connected = async () => (opened ??= await open(kit))
  const hangUp = async () => {
    await opened?.machine.close()
    opened = undefined
  }
  after(hangUp)

  /** Argon2id with 32 MiB, because the processor is an emulated one. */
  async function contextFor(of: Pick<Run, 'disk' | 'name'>): Promise<Context> {
    const { context } = await connected()
    const mine = { disk, kdf_memory_kib: 32768, tpm2_pcrs: [7], ...of }
    // Its firmware has no Secure Boot.
    const accepted = [{ what: 'control:fortress:F02', why: 'its firmware has no keys', until: '2099-12-31' }]
    return { ...context, site: { ...withVault(context.site, mine), accepted } }
  }

  /** The page as it prints, run on the machine with the keys of the laptop. */
  async function byHand(of: Pick<Run, 'disk' | 'name'>): Promise<string> {
    const mine = await contextFor(of)
    const { keys, disk } = vaultOf(mine)
    return runPrinted(kit, printed({ ...page, steps: page.steps(mine) }), {
      secrets: { [keys.name]: await keys.resolve() },
      variables: { FK_CONFIRM: disk.replace(/.*\//, ''), FK_PAPER: 'yes' },
    })
  }

  /** One run of the page. */
  async function run(options: Run = {}): Promise<Ran> {
    const { running, lines } = await connected()
    lines.length = 0
    const { disk: of = disk, name: called } = options
    const mine = await contextFor({ disk: of, ...(called === undefined ? {} : { name: called }) })
    const typed = options.typed === undefined ? of.replace(/.*\//, '') : options.typed
    const result = await runPage(page, (options.steps ?? page.steps)(mine), options.mode ?? 'apply', {
      ...running,
      typed: async () => typed ?? undefined,
      paper: async () => options.paper ?? true,
    })
    return { ...result, text: lines.join('') }
  }

  /** The page as far as its only step that can destroy something, and nothing behind it. */
  const untilFormat = (context: Context) => {
    const steps = page.steps(context)
    return steps.slice(
      0,
      1 + steps.findIndex((step) => step.name === 'the disk is a LUKS2 vault that the passphrase opens'),
    )
  }

  /** Bash as root on the machine, with the functions of the page. Fails with what it said. */
  async function root(command: string, input = ''): Promise<string> {
    const { code, stdout, stderr } = await kit.root(
      `${vaultShell}\n${page.prepare?.text}\nset -euo pipefail\n${command}`,
      input,
    )
    assert.equal(code, 0, `${command}\n${stdout}${stderr}`)
    return stdout.trim()
  }

  async function key(which: 'passphrase' | 'recovery-key'): Promise<string> {
    const { context } = await connected()
    return context.secrets(`fortress-vault-${which}`).resolve()
  }

  const header = (of: string) => root(`vault_header_digest ${of}`)
  const slots = () => root(`systemd-cryptenroll ${disk} | awk 'NR > 1 { print $1, $2 }' | paste -s -d,`)
  /** The names of the steps that a run changed. */
  const changes = (text: string) => [...text.matchAll(/^changed +\d+\/\d+ (.*)$/gm)].map(([, fact]) => fact)

  describe('refuses', () => {
    // Each makes the spare disk what it should not be. The disk is compared before and after.
    const luks = `cryptsetup luksFormat --batch-mode --pbkdf pbkdf2 --pbkdf-force-iterations 1000 --key-file - ${spare}`
    const bad: Record<string, [make: string, said: RegExp, id?: string]> = {
      'a disk with a file system': [`mke2fs -q -t ext4 ${spare}`, /it carries: ext4/],
      'a disk that is mounted': [
        `mke2fs -q -t ext4 ${spare} && mount -o ro ${spare} /mnt`,
        /in use: disk vdc \/mnt/,
      ],
      'a disk that is swapped to': [`mkswap -q ${spare} && swapon ${spare}`, /in use: disk vdc \[SWAP\]/],
      'a disk with partitions': [`printf 'label: gpt\\n,,\\n' | sfdisk -q ${spare}`, /in use: part vdc1/],
      'a disk with an empty partition table': [
        `printf 'label: dos\\n' | sfdisk -q ${spare}`,
        /it carries: dos/,
      ],
      'a partition': [
        `printf 'label: gpt\\n,,\\n' | sfdisk -q ${spare}; udevadm settle`,
        /is not a whole disk but a thing of type 'part'/,
        `${spare}-part1`,
      ],
      'a LUKS disk of somebody else': [`printf theirs | ${luks}`, /it carries: crypto_LUKS/],
      'a LUKS disk of somebody else that is open': [
        `printf theirs | ${luks}
         printf theirs | cryptsetup open --key-file - ${spare} theirs`,
        /in use: crypt theirs/,
      ],
      'the member of a RAID, which says so at the end of the disk only': [
        // Magic and version 0.90 in the superblock of md.
        `printf '\\xfc\\x4e\\x2b\\xa9\\0\\0\\0\\0\\x5a\\0\\0\\0' | dd of=${spare} bs=512 seek=1048448 conv=notrunc status=none`,
        /it carries: linux_raid_member/,
      ],
      'a physical volume of LVM': [
        `printf 'LABELONE\\1\\0\\0\\0\\0\\0\\0\\0\\0\\0\\0\\0\\40\\0\\0\\0LVM2 001' | dd of=${spare} bs=512 seek=1 conv=notrunc status=none`,
        /it carries: LVM2_member|its first MiB is not blank/,
      ],
      'a disk of ZFS': [
        `for at in 128 136 144 152 160; do printf '\\x0c\\xb1\\xba\\0\\0\\0\\0\\0' | dd of=${spare} bs=1024 seek=$at conv=notrunc status=none; done`,
        /it carries: zfs_member|its first MiB is not blank/,
      ],
      'a disk of noise, as one encrypted without a header': [
        `head --bytes=1M /dev/urandom > ${spare}`,
        /no known signature, yet its first MiB is not blank/,
      ],
      'an id that is not plugged in': [
        'true',
        /is not plugged in[^]*virtio-fk-spare/,
        '/dev/disk/by-id/usb-Nobody_0',
      ],
      'a disk that was swapped for another between plan and format': [
        `install -d -m 700 "$VAULT_NOTES" && echo 'SIZE="1" SERIAL="fk-spare"' > "$VAULT_NOTES/virtio-fk-spare.begun"`,
        /the disk behind \S+ is now SIZE="536870912"[^]*, and was SIZE="1"/,
      ],
      'a vault that lost its header: it would look empty': [
        `install -d -m 700 "$VAULT_NOTES" && vault_identity ${spare} > "$VAULT_NOTES/virtio-fk-spare.made"`,
        /it was made the vault, and its header is gone/,
      ],
    }
    const ends = `sync; { head --bytes=2M ${spare}; tail --bytes=1M ${spare}; } | sha256sum`
    const clean = `umount /mnt 2> /dev/null || true; swapoff ${spare} 2> /dev/null || true
      [ ! -e /dev/mapper/theirs ] || cryptsetup close theirs
      rm --recursive --force "$VAULT_NOTES"
      head --bytes=2M /dev/zero > ${spare}; head --bytes=1M /dev/zero | dd of=${spare} bs=1M seek=511 status=none; blockdev --rereadpt ${spare} 2> /dev/null || true; udevadm settle`

    /** What the questions before a format say, asked in order by a shell of their own, and that they only look. */
    async function asked(id: string, make: string): Promise<string> {
      const { context } = await connected()
      const vault = { ...vaultOf(context), disk: id }
      const questions = guards(vault, 32768).map((step) => step.check.text)
      return root(`${make}
        before=$(${ends})
        ${sh`bash -euo pipefail -c ${questions.map((text) => `{ ${text}\n}`).join(' && ')}`} < /dev/null 2>&1 && echo 'nothing was refused'
        [ "$before" = "$(${ends})" ] || echo 'the disk was changed'
        ${clean}`)
    }

    for (const [what, [make, said, id]] of Object.entries(bad))
      test(what, async () => {
        const text = await asked(id ?? spare, make)
        assert.match(text, said)
        assert.doesNotMatch(text, /nothing was refused|the disk was changed/)
      })

    test('the disk of the system', async () => {
      const id = await root(
        `for id in /dev/disk/by-path/*; do [ "$(readlink -f "$id")" != /dev/vda ] || { echo "$id"; break; }; done`,
      )
      assert.match(await asked(id, 'true'), /in use: (part vda|disk vda)/)
    })

    test('a disk smaller than a header with room to spare, and a machine with too little memory', async () => {
      const { context } = await connected()
      const question = (of: string, memory: number) =>
        guards({ ...vaultOf(context), disk: of }, memory).at(-1)?.check.text ?? ''
      const small = await root('truncate --size=63M /tmp/small && losetup --find --show /tmp/small')
      assert.match(await root(`! { ${question(small, 32768)}; }`), /^the disk has less than 64 MiB$/)
      assert.match(
        await root(`! { ${question(spare, 4194304)}; }`),
        /^the machine has \d+ KiB of memory; vault.kdf_memory_kib may be half of it$/,
      )
      await root(`losetup --detach ${small}; rm /tmp/small`)
    })

    test('nothing of it by accident: the whole page stops there, whatever was typed', async () => {
      const was = await root(`printf theirs | ${luks}\n${ends}`)
      const { code, changed, text } = await run({ disk: spare })
      assert.deepEqual([code, changed], [1, 0], text)
      assert.match(
        text,
        /failed +4\/\d+ the vault disk is empty, or is this vault already[^]*it carries: crypto_LUKS/,
      )
      assert.equal(await root(`${ends}\n${clean}`), was)
    })

    for (const [what, typed] of [
      ['nobody types the id', null],
      ['somebody types another id', 'virtio-fk-vault'],
      ['somebody types a path', spare],
    ] as const)
      test(`an empty disk while ${what}`, async () => {
        const { code, changed, text } = await run({ disk: spare, typed, steps: untilFormat })
        assert.equal(code, 1, text)
        assert.equal(changed, 0)
        assert.match(text, /blocked +8\/\d+ a person has confirmed by its id/)
        await root(`cmp --bytes=1048576 ${spare} /dev/zero; test ! -e "$VAULT_NOTES"`)
      })

    test('nothing when no disk is chosen, and can say which there are', async () => {
      const { code, text } = await run({ disk: '', mode: 'verify' })
      assert.equal(code, 0, text)
      assert.equal(
        await root('vault_candidates | grep fk-'),
        `${spare}  512M virtio  empty\n${disk}  2G virtio  empty`,
      )
    })
  })

  test('a plan changes nothing', async () => {
    const { code } = await run({ mode: 'plan' })
    assert.equal(code, 2)
    await root(`cmp --bytes=16777216 ${disk} /dev/zero; test ! -e "$VAULT_NOTES"`)
  })

  test('a format that is killed in its middle is begun again without a question', async () => {
    // In front of the real program: it dies when the disk is no longer blank, and before it has a key.
    await root(`cat > /usr/local/sbin/cryptsetup << 'EOF'
#!/bin/bash
[ "$1" = luksFormat ] || exec /usr/sbin/cryptsetup "$@"
rm /usr/local/sbin/cryptsetup
exec 4<&0
/usr/sbin/cryptsetup "$@" <&4 &
until ! cmp --bytes=4227072 ${disk} /dev/zero > /dev/null 2>&1; do sleep 0.02; done
kill -KILL $!
wait
exit 137
EOF
chmod 755 /usr/local/sbin/cryptsetup`)
    const first = await run()
    assert.equal(first.code, 1, first.text)
    assert.equal(await root(`ls "$VAULT_NOTES"`), 'virtio-fk-vault.begun')
    const second = await run({ typed: null, mode: 'plan' })
    assert.match(second.text, /ok +8\/\d+ a person has confirmed by its id/)
  })

  test('a power cut in the middle of the format does no harm either', async () => {
    await root(`cat > /usr/local/sbin/cryptsetup << 'EOF'
#!/bin/bash
[ "$1" != luksFormat ] || touch /run/formatting
exec /usr/sbin/cryptsetup "$@"
EOF
chmod 755 /usr/local/sbin/cryptsetup`)
    const cut = run({ typed: null }).catch((error: unknown) => ({ code: 1, text: String(error) }))
    await root('until [ -e /run/formatting ]; do sleep 0.05; done')
    await sleep(300)
    await labReboot(kit.machine, { hard: true })
    assert.equal((await cut).code, 1)
    await hangUp()
    await root('rm --force /usr/local/sbin/cryptsetup')
    assert.equal(await root(`ls "$VAULT_NOTES"`), 'virtio-fk-vault.begun')
  })

  test('without a person the next run waits until the recovery key is on paper', async () => {
    const { code, text } = await run({ typed: null, paper: false })
    assert.equal(code, 1, text)
    assert.match(text, /your turn +\d+\/\d+ the recovery key of the vault is on paper/)
    assert.equal(await slots(), '0 password,1 recovery')
  })

  test('with one it ends it, and every control holds', async () => {
    const { code, text } = await run({ typed: null })
    assert.equal(code, 0, text)
    assert.match(text, /6 of 7 controls hold, 1 waived/)
    assert.equal(await slots(), '0 password,1 recovery,2 tpm2')
    assert.equal(await root(`ls "$VAULT_NOTES"`), 'virtio-fk-vault.made\nvirtio-fk-vault.paper')
    assert.equal(await root('stat --format=%a:%U:%G /etc/crypttab'), '600:root:root')
    await root(`printf 'what must not be lost' > /dev/mapper/vault; sync`)
  })

  test('a second run changes nothing, and makes no new key', async () => {
    const was = await header(disk)
    const { code, changed, text } = await run({ typed: null })
    assert.deepEqual([code, changed], [0, 0], text)
    assert.equal(await header(disk), was)
  })

  test('a wrong passphrase does not open it, the right one and the recovery key do', async () => {
    // Without this flag the TPM2 answers before the passphrase is looked at.
    const tries = async (input: string) =>
      (
        await kit.root(
          `cryptsetup open --test-passphrase --disable-external-tokens --key-file - ${disk}`,
          input,
        )
      ).code
    assert.equal(await tries('a wrong passphrase'), 2)
    assert.equal(await tries(await key('passphrase')), 0)
    assert.equal(await tries(await key('recovery-key')), 0)
  })

  test('an enrolment that was killed leaves no key that nobody knows', async () => {
    // As systemd-cryptenroll leaves it between its two writes: a slot, and no token that names it.
    await root(
      `systemd-cryptenroll --wipe-slot=tpm2 ${disk}; printf '0\\n1\\n' > "$VAULT_NOTES/slots"
       key=$(cat); cryptsetup luksAddKey --batch-mode --pbkdf pbkdf2 --pbkdf-force-iterations 1000 --key-file <(printf %s "$key") ${disk} <(echo left over)`,
      await key('passphrase'),
    )
    const { code, text } = await run({ typed: null })
    assert.equal(code, 0, text)
    assert.equal(await slots(), '0 password,1 recovery,3 tpm2')
  })

  test('a key that somebody else added is shown, and stays', async () => {
    await root(
      `key=$(cat); cryptsetup luksAddKey --batch-mode --pbkdf pbkdf2 --pbkdf-force-iterations 1000 --key-slot 7 --key-file <(printf %s "$key") ${disk} <(echo theirs)`,
      await key('passphrase'),
    )
    const { code, text } = await run({ mode: 'verify' })
    assert.equal(code, 1)
    assert.match(text, /failed +F05 [^]*0=passphrase 1=recovery 3=tpm2 7=password/)
    assert.equal(await slots(), '0 password,1 recovery,3 tpm2,7 password')
    await root(`cryptsetup luksKillSlot --batch-mode ${disk} 7`)
    const after = await run({ typed: null })
    assert.deepEqual(changes(after.text), ['the copy of the LUKS2 header on the laptop is current'])
  })

  test('after a boot the TPM2 opens it, with nobody there', async () => {
    await hangUp()
    await labReboot(kit.machine)
    await root(`for i in $(seq 60); do systemctl is-active --quiet ${unit} && break; sleep 1; done`)
    assert.equal(await root('head --bytes=21 /dev/mapper/vault'), 'what must not be lost')
    const { code, changed, text } = await run({ typed: null })
    assert.deepEqual([code, changed], [0, 0], text)
  })

  test('a wiped header comes back from the copy, and is not formatted over', async () => {
    await root(
      `systemctl stop ${unit}; wipefs --quiet --all ${disk}; head --bytes=4227072 /dev/zero > ${disk}; sync`,
    )
    const blind = await run()
    assert.equal(blind.code, 1)
    assert.match(blind.text, /its header is gone: the data can come back/)
    await root(`cmp --bytes=4227072 ${disk} /dev/zero`)

    const steps = (context: Context) => {
      const vault = vaultOf(context)
      return restoreHeader(vault, context.secrets(vault.backup))
    }
    const unasked = await run({ steps, typed: null })
    assert.equal(unasked.code, 1)
    await root(`cmp --bytes=4227072 ${disk} /dev/zero`)
    const back = await run({ steps })
    assert.equal(back.code, 0, back.text)
    const { code, text } = await run({ typed: null })
    assert.equal(code, 0, text)
    assert.deepEqual(changes(text), ['the vault is open at /dev/mapper/vault'])
    assert.equal(await root('head --bytes=21 /dev/mapper/vault'), 'what must not be lost')
  })

  test('a header is not put on a disk that holds something else', async () => {
    await root(`mke2fs -q -t ext4 ${spare}`)
    const was = await header(spare)
    const steps = (context: Context) => {
      const vault = vaultOf(context)
      return restoreHeader({ ...vault, disk: spare, name: 'other' }, context.secrets(vault.backup))
    }
    const { code, text } = await run({ steps, typed: 'virtio-fk-spare' })
    assert.equal(code, 1)
    assert.match(text, /it carries: ext4/)
    assert.equal(await header(spare), was)
  })

  test('undo closes it and leaves no trace in /etc; the data stays', async () => {
    const [was, applied] = [await header(disk), await left(kit)]
    const undone = await run({ mode: 'undo' })
    assert.equal(undone.code, 0, undone.text)
    await root(`test ! -e /dev/mapper/vault && ! grep vault /etc/crypttab`)
    assert.equal(await header(disk), was)

    // What the page prints leaves the same as apply.
    await byHand({})
    sameLeft(applied, await left(kit))
    assert.equal(await header(disk), was)
    const again = await run({ typed: null })
    assert.equal(again.code, 0, again.text)
    // Undo removed the record of what the laptop has stored, and a printed page keeps none of it.
    assert.deepEqual(changes(again.text), ['the copy of the LUKS2 header on the laptop is current'])
    assert.equal(await slots(), '0 password,1 recovery,3 tpm2')
    assert.equal(await root('head --bytes=21 /dev/mapper/vault'), 'what must not be lost')
  })

  test('the printed page makes a vault of an empty disk as apply does', async () => {
    await root(`wipefs --quiet --all ${spare}; head --bytes=2M /dev/zero > ${spare}; sync`)
    await byHand({ disk: spare, name: 'other' })
    // What is chosen: all else of a header is random, measured, follows from earlier keys, or has the name of the vault in it.
    const facts = (of: string) =>
      root(
        `cryptsetup luksDump ${of} | grep --extended-regexp \
  --regexp='^(Version|Metadata|Keyslots area|Subsystem|Flags)|\\s(offset|cipher|sector|Key|Cipher|Cipher key|PBKDF|Time cost):' \
  --regexp='\\s(Memory|Threads|AF hash|tpm2-(hash-pcrs|pcr-bank|pin)):|: systemd-' |
  grep --invert-match 'Area offset:'`,
      )
    assert.equal(await facts(spare), await facts(disk))
    const { code, text } = await run({ disk: spare, name: 'other', typed: null })
    assert.equal(code, 0, text)
    // Its copy of the header is on the machine, and the laptop has none yet.
    assert.deepEqual(changes(text), ['the copy of the LUKS2 header on the laptop is current'])
    assert.match(text, /6 of 7 controls hold, 1 waived/)
    // Nothing of it is recorded, so it goes away by hand.
    await root(
      `systemctl stop systemd-cryptsetup@other.service; grep --invert-match '^other ' /etc/crypttab > /root/crypttab
       cat /root/crypttab > /etc/crypttab; systemctl daemon-reload
       wipefs --quiet --all ${spare}; rm --force "$VAULT_NOTES"/virtio-fk-spare.*`,
    )
  })

  test('with another TPM2 the machine boots, the vault stays shut, and no key is sent before a person agrees', async () => {
    // A second line for a disk that is not there: it must hold up nothing.
    await root(
      `sed 's/^vault /gone /; s/virtio-fk-vault/usb-Nobody_0/' /etc/crypttab | grep gone >> /etc/crypttab`,
    )
    await hangUp()
    await labDown(name, { keepDisk: true })
    await labClearTpm(name)
    kit = { ...around(await labBoot(name)), state: kit.state, env: kit.env }
    await root(
      'test ! -e /dev/mapper/vault; grep --invert-match gone /etc/crypttab > /root/crypttab; cat /root/crypttab > /etc/crypttab',
    )
    const { code, changed, text } = await run({ typed: null })
    assert.deepEqual([code, changed], [1, 0], text)
    assert.match(text, /blocked +7\/\d+ the machine boots as it did when the TPM2 was given its key/)

    // systemd takes the recovery key for what it is.
    await root(
      `cat > /run/recovery && systemd=/usr/lib/systemd/systemd-cryptsetup && $systemd attach vault ${disk} /run/recovery luks && rm /run/recovery`,
      await key('recovery-key'),
    )
    assert.equal(await root('head --bytes=21 /dev/mapper/vault'), 'what must not be lost')

    await root(`systemd-cryptenroll --wipe-slot=tpm2 ${disk}`)
    const agreed = await run({ typed: null })
    assert.equal(agreed.code, 0, agreed.text)
    await root(
      `systemctl stop ${unit}; cryptsetup close vault 2> /dev/null || true; systemctl start ${unit}; vault_tpm2; test -e /dev/mapper/vault`,
    )
  })
})
