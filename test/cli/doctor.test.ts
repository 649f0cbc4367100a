// What `./task doctor` says, line by line, of machines that are made of files.
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { chmodSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { after, describe, test } from 'node:test'
import { clock, laptop, needs } from '../../lib/cli/doctor.ts'
import { createReport } from '../../lib/engine/report.ts'
import { loadConfig } from '../../lib/site/config.ts'
import { estate, withVault } from '../site/made.ts'

const root = join(import.meta.dirname, '../..')
const scratch = mkdtempSync(join(tmpdir(), 'fortress-doctor-'))
after(() => rmSync(scratch, { recursive: true, force: true }))

const config = (site = 'fortress', env: Record<string, string> = {}) => {
  const dir = mkdtempSync(join(scratch, 'laptop-'))
  return loadConfig({
    env: {
      FK_STATE_DIR: join(dir, 'state'),
      FK_AGE_IDENTITY: join(dir, 'identity'),
      FK_DOWNLOAD_DIR: dir,
      ...env,
    },
    site,
  })
}

// ─── machines ────────────────────────────────────────────────────────────────────────────────────────────────────────

const secureBoot = 'sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c'
const good: Record<string, string | { link: string }> = {
  'proc/cpuinfo': 'processor : 0\nflags : fpu vmx sse\nprocessor : 1\nprocessor : 2\nprocessor : 3\n',
  'proc/meminfo': 'MemTotal:       32000000 kB\n',
  'dev/kvm': '',
  [secureBoot]: '\x06\x00\x00\x00\x01',
  'sys/class/tpm/tpm0/tpm_version_major': '2\n',
  'sys/class/net/eno1/device/vendor': '',
  'sys/class/net/eno1/operstate': 'up\n',
  'sys/class/net/eno1/speed': '1000\n',
  'sys/class/net/lo/operstate': 'unknown\n',
  'sys/module/apparmor/parameters/enabled': 'Y\n',
  'sys/kernel/security/apparmor/profiles': 'a (enforce)\nb (enforce)\nc (complain)\n',
  'sys/fs/cgroup/cgroup.controllers': 'cpu memory pids\n',
  'sys/block/sda/size': '1953525168\n',
  'dev/disk/by-id/usb-Samsung_T7-0:0': { link: '../../sda' },
  'dev/disk/by-id/usb-Samsung_T7-0:0-part1': { link: '../../sda1' },
  'dev/disk/by-id/wwn-0x5002538e': { link: '../../sda' },
  'var/lib/nothing': '',
}

type Change = Record<string, string | { link: string } | undefined>

/** The lines that a machine of these files says, without the room on its disk and its restarts. */
function says(change: Change = {}, told = needs(config(), machineOf('fortress'))): string[] {
  const dir = mkdtempSync(join(scratch, 'machine-'))
  for (const [path, content] of Object.entries({ ...good, ...change })) {
    if (content === undefined) continue
    mkdirSync(join(dir, dirname(path)), { recursive: true })
    if (typeof content === 'string') writeFileSync(join(dir, path), content, 'latin1')
    else symlinkSync(content.link, join(dir, path))
  }
  const script = `set -u; answer() { shift; printf '%s\\t%s\\t%s\\t%s\\n' "$2" "$4" "$6" "$8"; }
    FK_ROOT=${dir} ${told}
    . ${join(root, 'lib/cli/doctor.sh')}
    doctor_cpu; doctor_firmware; doctor_tpm; doctor_memory; doctor_disks; doctor_nics; doctor_apparmor; doctor_node`
  const { stdout, stderr, status } = spawnSync('bash', ['--norc', '-c', script], { encoding: 'utf8' })
  assert.equal(`${stderr}${status}`, '0')
  return stdout
    .trim()
    .split('\n')
    .map((line) => line.split('\t').filter(Boolean).join(' | '))
}

const machineOf = (site: string) => config(site).site.machines[0] ?? assert.fail('the site has no machine')
const vault = (disk: string) => {
  return needs({ site: withVault(config().site, { disk }) }, machineOf('fortress'))
}
const pi = needs(config('fortress-pi'), machineOf('fortress-pi'))

test('each host of a site is asked for its own virtual machines and its own vault', () => {
  const site = estate()
  const of = (name: string) =>
    needs(
      { site },
      site.machines.find((machine) => machine.name === name)!,
    )
  assert.equal(of('north'), "FK_ROLE='vm 4096 2 30' FK_DISK=/dev/disk/by-id/usb-Samsung_T7-0:0 FK_TPM=yes")
  assert.equal(of('south'), "FK_ROLE='vm 16384 8 100' FK_DISK=/dev/disk/by-id/nvme-Samsung_990 FK_TPM=no")
  assert.equal(of('metal'), "FK_ROLE=metal FK_DISK='' FK_TPM=no")
})

test('a machine that has everything', () => {
  assert.deepEqual(says({}, vault('/dev/disk/by-id/usb-Samsung_T7-0:0')), [
    'cpu | ok | VT-x, /dev/kvm, 4 threads',
    'firmware | ok | UEFI, Secure Boot is on',
    'tpm | ok | TPM 2.0',
    'memory | ok | 31250 MiB, 8192 of them for the virtual machine',
    'disk | ok | /dev/disk/by-id/usb-Samsung_T7-0:0, 931 GiB, the vault of this site',
    'nic | ok | eno1 is up, 1000 Mbit/s',
    'apparmor | ok | on, 2 profiles are enforced',
  ])
})

describe('what is missing is said, with what to do', () => {
  const cases: [string, Change, string, string?][] = [
    [
      'a processor without virtualisation',
      { 'proc/cpuinfo': 'processor : 0\nflags : fpu\n', 'dev/kvm': undefined },
      'cpu | bad | the processor offers no virtualisation | switch on VT-x (Intel) or SVM (AMD) in the firmware setup; inside a virtual machine, allow it nesting',
    ],
    [
      'a flag of the processor that only looks like it',
      { 'proc/cpuinfo': 'processor : 0\nflags : vmx_like svmx\n', 'dev/kvm': undefined },
      'cpu | bad | the processor offers no virtualisation | switch on VT-x (Intel) or SVM (AMD) in the firmware setup; inside a virtual machine, allow it nesting',
    ],
    [
      'virtualisation that the firmware has switched off',
      { 'proc/cpuinfo': 'processor : 0\nflags : svm\n', 'dev/kvm': undefined },
      'cpu | bad | AMD-V, but there is no /dev/kvm | modprobe kvm_amd; if that fails, the firmware has switched AMD-V off',
    ],
    [
      'fewer threads than the virtual machine is to have',
      { 'proc/cpuinfo': 'processor : 0\nflags : vmx\nprocessor : 1\n' },
      'cpu | warn | VT-x, /dev/kvm, 2 threads, and the virtual machine is to have 4 | FK_VM_VCPUS=2',
    ],
    [
      'a BIOS',
      { [secureBoot]: undefined },
      'firmware | warn | started by BIOS, so there is no Secure Boot | choose UEFI in the firmware setup, before the system is installed',
    ],
    [
      'Secure Boot that is off',
      { [secureBoot]: '\x06\x00\x00\x00\x00' },
      'firmware | warn | UEFI, Secure Boot is off: whoever has the machine for a minute chooses what it boots | switch it on in the firmware setup',
    ],
    [
      'no TPM',
      { 'sys/class/tpm/tpm0/tpm_version_major': undefined },
      'tpm | warn | none is seen | switch on PTT (Intel) or fTPM (AMD) in the firmware setup; or vault.tpm2_pcrs: [] in the site document',
    ],
    [
      'an old TPM',
      { 'sys/class/tpm/tpm0/tpm_version_major': '1\n' },
      'tpm | warn | TPM 1.x cannot seal the key of the vault | vault.tpm2_pcrs: [] in the site document, and type the passphrase after each boot',
    ],
    [
      'less memory than the virtual machine is to have',
      { 'proc/meminfo': 'MemTotal: 8000000 kB\n' },
      'memory | bad | 7812 MiB, and the virtual machine with the host needs 9216 | FK_VM_RAM_MB=6788',
    ],
    [
      'too little memory for any virtual machine',
      { 'proc/meminfo': 'MemTotal: 2000000 kB\n' },
      'memory | bad | 1953 MiB are too little for a virtual machine of 2048 MiB | take a machine with more memory, or build on the metal (FK_SITE=fortress-pi shows how)',
    ],
    [
      'a vault that is not plugged in',
      {},
      'disk | bad | /dev/disk/by-id/usb-Other-0:0, the disk of the vault, is not there | plug it in, or write another id into vault.disk of the site document',
      vault('/dev/disk/by-id/usb-Other-0:0'),
    ],
    [
      'a vault that nobody chose',
      {},
      'disk | warn | the site chooses no disk for the vault | write one of the ids above into vault.disk of the site document',
    ],
    [
      'a wireless card',
      { 'sys/class/net/eno1/wireless/x': '' },
      'nic | warn | eno1 is wireless, up | use a cable: whoever jams the radio shuts you out',
    ],
    [
      'AppArmor that is off',
      { 'sys/module/apparmor/parameters/enabled': 'N\n' },
      'apparmor | bad | off, and what confines programs and virtual machines here is AppArmor | start the kernel with lsm=landlock,lockdown,yama,integrity,apparmor,bpf; host-harden does it where there is GRUB',
    ],
    [
      'a Raspberry Pi whose kernel counts no memory',
      { 'sys/fs/cgroup/cgroup.controllers': 'cpu pids\n' },
      'cgroup | bad | the kernel counts no memory of groups, and k3s needs that | add cgroup_enable=memory to /boot/firmware/cmdline.txt, and restart',
      pi,
    ],
    [
      'a Raspberry Pi, which has neither Secure Boot',
      { [secureBoot]: undefined, 'proc/device-tree/model': 'Raspberry Pi 5 Model B\0' },
      'firmware | n/a | Raspberry Pi 5 Model B starts by its own firmware: nothing checks what it boots',
      pi,
    ],
    [
      'nor a TPM',
      { 'sys/class/tpm/tpm0/tpm_version_major': undefined },
      'tpm | n/a | none, and the site wants none: the passphrase of the vault is typed after each boot',
      pi,
    ],
  ]
  for (const [what, change, line, told] of cases)
    test(what, () => {
      const lines = says(change, told)
      assert.ok(lines.includes(line), lines.join('\n'))
    })
})

describe('an account that page 00 would refuse is found before that page runs', () => {
  const who = (user: string, files: Change) => {
    const dir = mkdtempSync(join(scratch, 'account-'))
    for (const [path, content] of Object.entries({ 'etc/sudoers': 'root ALL=(ALL:ALL) ALL\n', ...files })) {
      mkdirSync(join(dir, dirname(path)), { recursive: true })
      writeFileSync(join(dir, path), content as string)
    }
    const script = `set -u; answer() { shift; printf '%s | %s | %s | %s\n' "$2" "$4" "$6" "$8"; }
      FK_ROOT=${dir} FK_USER=${user}; . ${join(root, 'lib/cli/doctor.sh')}; doctor_account`
    const { stdout, stderr } = spawnSync('bash', ['--norc', '-c', script], { encoding: 'utf8' })
    return stderr + stdout
  }
  const shadow = (hash: string) => ({ 'etc/shadow': `root:*:1::::::\nada:${hash}:1::::::\n` })
  const free = { 'etc/sudoers.d/90-cloud-init-users': 'ada ALL=(ALL) NOPASSWD:ALL\n' }
  for (const [what, user, files, said] of [
    [
      'root',
      'root',
      {},
      /^account \| bad \| you log in as root, .* \| on it: adduser ada && adduser ada sudo/,
    ],
    [
      'a locked password',
      'ada',
      shadow('!'),
      /^account \| bad \| ada has no password, .* \| on it: sudo passwd ada$/m,
    ],
    [
      'NOPASSWD',
      'ada',
      { ...shadow('$y$x'), ...free },
      /bad \| \/etc\/sudoers\.d\/90-cloud-init-users lets sudo work/,
    ],
    [
      'a comment about it',
      'ada',
      { ...shadow('$y$x'), 'etc/sudoers': '# NOPASSWD\n' },
      /^account \| ok \| ada, /,
    ],
  ] as [string, string, Change, RegExp][])
    test(what, () => assert.match(who(user, files), said))
})

test('partitions and second names of a disk are not listed', () =>
  assert.equal(says().filter((line) => line.startsWith('disk | ok')).length, 1))

describe('a clock', () => {
  for (const [what, finding, state, found] of [
    ['that is as ours, whatever the way took', clock(5_000, 1_000, 9_000, 'yes'), 'ok', 'as here'],
    ['that is behind', clock(1_000, 13_000, 14_000, 'yes'), 'warn', '12 s behind this laptop'],
    ['that is ahead', clock(74_000, 13_000, 14_000, 'yes'), 'warn', '1 min 00 s ahead of this laptop'],
    ['that is years off', clock(0, 1e12, 1e12, 'yes'), 'bad', '277777 h 46 min behind this laptop'],
    ['that nobody sets', clock(5_000, 1_000, 9_000, 'no'), 'warn', 'as here, not synchronised'],
  ] as const)
    test(what, () =>
      assert.deepEqual(
        [finding.state, finding.found, finding.remedy !== undefined],
        [state, found, state !== 'ok'],
      ),
    )
})

// ─── the laptop ──────────────────────────────────────────────────────────────────────────────────────────────────────

describe('the laptop', () => {
  const of = async (subject: string, ...given: Parameters<typeof laptop>) =>
    (await laptop(...given)).filter((finding) => finding.subject === subject)

  test('without the programs that are needed', async () => {
    const empty = join(scratch, 'empty')
    mkdirSync(empty)
    assert.deepEqual(await of('gpgv', config(), { path: empty }), [
      {
        subject: 'gpgv',
        state: 'bad',
        found: 'is not installed; it checks the signatures of downloads',
        remedy: 'apt install gpgv, or what your system calls it',
      },
    ])
    assert.equal((await of('wg-quick', config(), { path: empty }))[0]?.state, 'warn')
  })

  test('with a Node that is too old', async () => {
    for (const [version, state] of [
      ['18.20.4', 'bad'],
      ['20.18.9', 'bad'],
      ['20.19.0', 'ok'],
      ['24.1.0', 'ok'],
    ] as const)
      assert.equal((await of('node', config(), { version }))[0]?.state, state, version)
  })

  test('without secrets needs no identity; with them it must be there and private', async () => {
    const mine = config()
    assert.equal((await of('identity', mine))[0]?.state, 'n/a')
    mkdirSync(join(mine.env.FK_STATE_DIR, 'fortress'), { recursive: true })
    writeFileSync(join(mine.env.FK_STATE_DIR, 'fortress/a.age'), '')
    assert.deepEqual(await of('identity', mine), [
      {
        subject: 'identity',
        state: 'bad',
        found: `${mine.env.FK_AGE_IDENTITY} is not there, and 1 secret was encrypted for it`,
        remedy: 'restore it from your backup, or name the right one in FK_AGE_IDENTITY',
      },
    ])
    writeFileSync(mine.env.FK_AGE_IDENTITY, '')
    chmodSync(mine.env.FK_AGE_IDENTITY, 0o644)
    assert.equal((await of('identity', mine))[0]?.remedy, `chmod 600 ${mine.env.FK_AGE_IDENTITY}`)
    chmodSync(mine.env.FK_AGE_IDENTITY, 0o600)
    assert.equal((await of('identity', mine))[0]?.state, 'ok')
  })

  test('hears that the image of Talos has no proof yet, when it wants Talos', async () => {
    assert.deepEqual(await of('talos', config()), [])
    assert.equal((await of('talos', config('fortress', { FK_NODE_OS: 'talos' })))[0]?.state, 'bad')
  })

  test('wants talosctl where the secrets of Talos are made, of the pinned minor', async () => {
    assert.deepEqual(await of('talosctl', config()), [])
    const mine = config('fortress', { FK_NODE_OS: 'talos' })
    const none = (await of('talosctl', mine, { path: '/nonexistent' }))[0]
    assert.equal(none?.state, 'bad')
    assert.match(none?.remedy ?? '', /^install https:\/\/\S+ as talosctl, when sha256sum says [0-9a-f]{64}$/)
    const dir = join(scratch, 'talosctl')
    mkdirSync(dir)
    for (const [version, state] of [
      ['v1.14.0', 'ok'],
      ['v1.13.9', 'warn'],
    ] as const) {
      writeFileSync(join(dir, 'talosctl'), `#!/bin/sh\nprintf 'Client:\\n\\tTalos ${version}\\n'\n`, {
        mode: 0o755,
      })
      const found = (await of('talosctl', mine, { path: dir }))[0]
      assert.equal(found?.state, state)
      assert.match(found?.found ?? '', new RegExp(`^${version}`))
    }
  })

  test('says which kubectl and helm are used for the API, and why not those of PATH', async () => {
    const dir = join(scratch, 'tools')
    mkdirSync(dir)
    const mine = config()
    const say = (name: string, said: string) =>
      writeFileSync(join(dir, name), `#!/bin/bash\necho '${said}'\n`, { mode: 0o755 })
    const found = async (name: string) =>
      (await of(name, mine, { path: `${dir}:/bin` })).map((one) => `${one.state} ${one.found}`)
    assert.deepEqual(await found('helm'), [`ok ${mine.pins['helm']?.version}, fetched when a page needs it`])
    say('kubectl', '{ "gitVersion": "v1.36.2" }')
    assert.deepEqual(await found('kubectl'), [`ok v1.36.2, ${dir}/kubectl`])
    say('kubectl', '{ "gitVersion": "v1.30.1" }')
    const pin = mine.pins['kubectl']?.version ?? ''
    writeFileSync(
      join(mine.env.FK_DOWNLOAD_DIR, `kubectl-${pin}-${process.arch === 'x64' ? 'amd64' : 'arm64'}`),
      '',
    )
    assert.deepEqual(await found('kubectl'), [
      `ok ${pin}, from the cache; kubectl v1.30.1 is in PATH: it must be within one minor version of the cluster, ${pin}`,
    ])
  })

  test(
    'hears in time that a key which signs downloads expires',
    { skip: spawnSync('gpg', ['--version']).error ? 'gpg is not installed' : false },
    async (t) => {
      const home = join(scratch, 'gpg')
      mkdirSync(home, { mode: 0o700 })
      const gpg = (...words: string[]) =>
        spawnSync('gpg', ['--homedir', home, '--batch', '--quiet', '--passphrase', '', ...words]).stdout
      t.after(() => spawnSync('gpgconf', ['--homedir', home, '--kill', 'all']))
      gpg(
        '--faked-system-time',
        '20260101T000000',
        '--quick-gen-key',
        'maker@example.org',
        'ed25519',
        'sign',
        '365d',
      )
      const key = /^fpr:+([0-9A-F]{40}):$/m.exec(String(gpg('--with-colons', '--list-keys')))?.[1] ?? ''
      const mine = config()
      const url = { amd64: 'https://example.org/x' }
      const pins = {
        ...mine.pins,
        os: {
          version: 'v1',
          url,
          signature: { kind: 'gpg' as const, key, key_url: url.amd64, url },
          proof: 'x',
        },
      }
      const name = `the key that signs os (${key.slice(-16)})`
      const at = async (day: string) =>
        (await of('signature', { ...mine, pins }, { now: Date.parse(day) })).find(({ found }) =>
          found.startsWith(name),
        )
      assert.deepEqual(await at('2026-06-01'), {
        subject: 'signature',
        state: 'n/a',
        found: `${name} was not fetched yet`,
      })
      writeFileSync(join(mine.env.FK_DOWNLOAD_DIR, `${key}.asc`), gpg('--export', key))
      assert.deepEqual(await at('2026-06-01'), {
        subject: 'signature',
        state: 'ok',
        found: `${name} is good until 2027-01-01`,
      })
      const remedy = 'pin a newer version of os; its key is fetched with it'
      assert.deepEqual(await at('2026-12-20'), {
        subject: 'signature',
        state: 'warn',
        found: `${name} expires in 12 days, on 2027-01-01`,
        remedy,
      })
      assert.deepEqual(await at('2027-01-02'), {
        subject: 'signature',
        state: 'bad',
        found: `${name} expired on 2027-01-01`,
        remedy,
      })
    },
  )
})

// ─── what a person sees ──────────────────────────────────────────────────────────────────────────────────────────────

const CLEAR = `
Nothing here stops a page. Next: ./task build-all, which is a rehearsal;
then FK_HOST in .env, and ./task doctor again
`

test('without FK_HOST only the laptop is checked, and the line about the machine says why', () => {
  const env = {
    ...Object.fromEntries(Object.entries(process.env).filter(([name]) => !/^FK_(?!ENV_FILE)/.test(name))),
    FK_HOST: '',
    FK_LOG_DIR: scratch,
    FK_STATE_DIR: scratch,
  }
  const { stdout, status } = spawnSync(process.execPath, [join(root, 'bin/task.cjs'), 'doctor'], {
    encoding: 'utf8',
    env,
  })
  assert.match(stdout, /^this laptop\nok {4}node {7}\S+\n/)
  assert.ok(
    stdout.endsWith(
      `
the machine
n/a   machine    FK_HOST is not set, so only this laptop was checked
                 → FK_HOST=admin@192.0.2.10 ./task doctor checks the machine too
${status === 0 ? CLEAR : stdout.slice(stdout.lastIndexOf('\n\n') + 1)}`,
    ),
    stdout,
  )
  assert.ok(!stdout.includes('\u001b'))
  const json = spawnSync(process.execPath, [join(root, 'bin/task.cjs'), 'doctor', '--json'], {
    encoding: 'utf8',
    env,
  })
  const events = json.stdout
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line) as Record<string, string>)
  const findings = events.filter(({ event }) => event === 'finding')
  assert.equal(findings.length, stdout.match(/^(ok|warn|bad|n\/a) /gm)?.length)
  assert.ok(findings.every(({ of, subject, state, found }) => of && subject && state && found))
  assert.equal(events.at(-1)?.['event'], 'note')
  assert.equal(status, events.some(({ state }) => state === 'bad') ? 1 : 0)
  assert.equal(json.status, status)
})

test('a machine that does not answer is one line, with what to do', () => {
  const env = {
    ...Object.fromEntries(Object.entries(process.env).filter(([name]) => !/^FK_(?!ENV_FILE)/.test(name))),
    FK_HOST: 'admin@127.0.0.1:1',
    FK_LOG_DIR: scratch,
    FK_STATE_DIR: scratch,
  }
  const { stdout, status } = spawnSync(process.execPath, [join(root, 'bin/task.cjs'), 'doctor'], {
    encoding: 'utf8',
    env,
  })
  assert.equal(status, 1)
  assert.match(
    stdout,
    /^fortress\nbad {3}access {5}The host key of 127\.0\.0\.1 is not known yet\n {17}→ ssh-keygen -lf \/etc\/ssh\/ssh_host_ed25519_key\.pub on its own\n/m,
  )
  assert.match(stdout, /^access of fortress stops every page there\nNext: what its arrow says, and .*\n$/m)
  assert.ok(stdout.split('\n').every((line) => line.length <= 80 || !line.includes(' ', 20)))
})

test('colour is for terminals', () => {
  const lines: string[] = []
  const report = (color: boolean) =>
    createReport({ stdout: { write: (text: string) => lines.push(text) }, tty: false, color })
  const finding = {
    of: 'this laptop',
    subject: 'gpgv',
    state: 'bad' as const,
    found: 'is not installed',
    remedy: 'install it',
  }
  report(false).finding(finding)
  report(true).finding(finding)
  assert.deepEqual(lines, [
    'this laptop\n',
    'bad   gpgv       is not installed\n',
    '                 → install it\n',
    '\u001b[1mthis laptop\u001b[0m\n',
    '\u001b[31mbad\u001b[0m   gpgv       is not installed\n',
    '                 → install it\n',
  ])
})
