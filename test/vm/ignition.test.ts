import assert from 'node:assert/strict'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, test } from 'node:test'
import { makeSshKey, sshPublicKey } from '../../lib/ground/keys.ts'
import { Secret } from '../../lib/ground/secret.ts'
import { loadConfig } from '../../lib/site/config.ts'
import { guestsOf } from '../../lib/site/machines.ts'
import type { Config } from '../../lib/site/model.ts'
import type { Ignition } from '../../lib/vm/butane.ts'
import { type Given, ignition, ignitionFile, makeKeys } from '../../lib/vm/ignition.ts'
import { hostKeyOf } from '../../lib/vm/domain.ts'
import { made } from '../site/made.ts'

const root = join(import.meta.dirname, '../..')
const hostKey = makeSshKey('test')
const given: Given = { nodeKey: `${sshPublicKey(hostKey)} ada@example.org`, hostKey }
const load = (site = 'fortress') => structuredClone(loadConfig({ env: {}, site }))

function configuration(change: (config: Config) => void = () => {}, more: Partial<Given> = {}): Ignition {
  const config = load()
  change(config)
  return ignition(config, guestsOf(config.site)[0]!, { ...given, ...more })
}

async function file(config: Ignition, path: string): Promise<{ text: string; mode: number | undefined }> {
  const found = config.storage?.files?.find((entry) => entry.path === path)
  const data = await fetch(found?.contents?.source ?? 'data:,')
  return { text: await data.text(), mode: found?.mode }
}

const unit = (config: Ignition, name: string) => config.systemd?.units?.find((entry) => entry.name === name)

/** Sysctls as key → value, without what stands before a key that a kernel may lack. */
async function sysctls(config: Ignition): Promise<Record<string, string>> {
  const { text } = await file(config, '/etc/sysctl.d/99-fortress.conf')
  const lines = text.split('\n').filter((line) => line.includes('=') && !line.startsWith('#'))
  return Object.fromEntries(lines.map((line) => /^-?(\S+) = (.*)$/.exec(line)!.slice(1) as [string, string]))
}

describe('the nodes of a site', () => {
  test('those that the site lists, each with an address and a MAC of its own', () => {
    const more = { arch: 'arm64', vm: { host: 'box' } } as const
    const site = made({
      machines: [
        { name: 'box', roles: ['host'], arch: 'arm64' },
        { name: 'one', roles: ['server'], ...more },
        { name: 'two', roles: ['agent'], address: '10.77.0.99', ...more },
      ],
    })
    const nodes = guestsOf(site)
    assert.deepEqual(
      nodes.map(({ name, arch, role, address }) => [name, arch, role, address]),
      [
        ['one', 'arm64', 'server', '10.77.0.2'],
        ['two', 'arm64', 'agent', '10.77.0.99'],
      ],
    )
    assert.equal(new Set(nodes.map(({ mac }) => mac)).size, 2)
    for (const { mac } of nodes) assert.match(mac, /^52:54:00(:[0-9a-f]{2}){3}$/)
    assert.deepEqual(guestsOf(site), nodes)
  })

  test('none where the metal itself is the node', () => {
    assert.deepEqual(guestsOf(load('fortress-pi').site), [])
  })
})

describe('a node on its first boot', () => {
  test('lets in one key, from a file of root, and nobody by password', async () => {
    const config = configuration()
    assert.deepEqual(config.passwd, { users: [{ name: 'core' }] })
    assert.deepEqual(await file(config, '/etc/ssh/authorized_keys/core'), {
      text: `${given.nodeKey}\n`,
      mode: 0o644,
    })
    const { text: keys } = await file(config, '/etc/ssh/sshd_config.d/10-fortress-keys.conf')
    assert.equal(keys, readFileSync(join(root, 'config/vm/sshd-keys.conf'), 'utf8'))
    const { text } = await file(config, '/etc/ssh/sshd_config.d/10-fortress.conf')
    for (const line of ['PasswordAuthentication no', 'PermitRootLogin no', 'AuthenticationMethods publickey'])
      assert.match(text, new RegExp(`^${line}$`, 'm'))
  })

  test('has the host key that the laptop made, letter for letter, for root only', async () => {
    assert.deepEqual(await file(configuration(), '/etc/ssh/ssh_host_ed25519_key'), {
      text: hostKey,
      mode: 0o600,
    })
  })

  test('has its name, its address and its time zone', async () => {
    const config = configuration(({ site }) => {
      site.timezone = 'Europe/Berlin'
    })
    assert.equal((await file(config, '/etc/hostname')).text, 'fortress-node\n')
    const { text } = await file(config, '/etc/systemd/network/00-fortress.network')
    assert.match(text, /^Address=10\.77\.0\.2\/24\nGateway=10\.77\.0\.1$/m)
    assert.match(text, /^DHCP=no$/m)
    assert.equal(
      config.storage?.links?.find(({ path }) => path === '/etc/localtime')?.target,
      '../usr/share/zoneinfo/Europe/Berlin',
    )
  })

  test('has the kernel arguments of the host, but for what only metal, AppArmor or signed modules have', () => {
    const words = (text: string) => text.split(/\s+/).filter((word) => /^[a-z]/.test(word))
    const host = [
      ...readFileSync(join(root, 'config/host/grub.cfg'), 'utf8').matchAll(/GRUB_CMDLINE_LINUX (.*)"$/gm),
    ]
      .flatMap(([, list]) => words(list ?? ''))
      .toSorted()
    const node = configuration().kernelArguments?.shouldExist ?? []
    const missing = host.filter((word) => !node.includes(word as never))
    assert.deepEqual(
      missing.map((word) => word.split('=')[0]),
      // Flatcar signs none of its modules for the kernel to ask, and the processor's tables and devices are the host's.
      [
        'apparmor',
        'intel_iommu',
        'iommu.passthrough',
        'iommu.strict',
        'lockdown',
        'mitigations',
        'module.sig_enforce',
        'proc_mem.force_override',
        'pti',
        'security',
      ],
    )
    assert.ok(node.includes('lsm=landlock,lockdown,yama,integrity,selinux,bpf' as never))
  })

  test('asks its host for the time, and nobody else', async () => {
    const config = configuration()
    const { text } = await file(config, '/etc/systemd/network/00-fortress.network')
    assert.deepEqual(
      [...text.matchAll(/^(NTP|DNS|Gateway)=(.*)$/gm)].map(([, key, value]) => [key, value]),
      [
        ['Gateway', '10.77.0.1'],
        ['DNS', '10.77.0.1'],
        ['NTP', '10.77.0.1'],
      ],
    )
    const others = config.storage?.files?.filter(({ path }) => /timesyncd|chrony|ntp/.test(path)) ?? []
    assert.deepEqual(others, [])
  })

  test('has the sysctls of a node where they differ from the host', async () => {
    const found = await sysctls(configuration())
    const wanted = {
      'net.ipv4.ip_forward': '1',
      'net.ipv4.conf.all.rp_filter': '0',
      'net.ipv4.conf.eth0.rp_filter': '1',
      'net.ipv4.conf.all.log_martians': '0',
      'kernel.kptr_restrict': '1',
      'kernel.panic': '10',
      'vm.overcommit_memory': '1',
      'net.ipv4.conf.all.arp_ignore': '0',
      'net.ipv4.conf.all.drop_gratuitous_arp': '0',
    }
    assert.deepEqual({ ...found, ...wanted }, found)
    assert.ok(Number(found['user.max_user_namespaces']) >= 11255)
    assert.equal('kernel.modules_disabled' in found, false)
  })

  test('blocks no module that containers or system extensions need', async () => {
    const { text: blocked } = await file(configuration(), '/etc/modprobe.d/fortress.conf')
    const { text: loaded } = await file(configuration(), '/etc/modules-load.d/fortress.conf')
    const names = [...blocked.matchAll(/^install (\S+) \/bin\/false\nblacklist (\S+)$/gm)]
    assert.ok(names.length > 10)
    for (const [, installed, blacklisted] of names) {
      assert.equal(installed, blacklisted)
      assert.equal(['overlay', 'squashfs', 'vfat', ...loaded.split('\n')].includes(installed!), false)
    }
  })

  test('writes an audit log, runs no Docker, and restarts for no update by itself', async () => {
    const config = configuration()
    assert.equal(unit(config, 'auditd.service')?.enabled, true)
    assert.doesNotMatch((await file(config, '/etc/audit/rules.d/99-default.rules')).text, /never/)
    for (const name of ['docker.service', 'docker.socket', 'containerd.service', 'locksmithd.service'])
      assert.equal(unit(config, name)?.mask, true, name)
    for (const name of ['docker', 'containerd'])
      assert.deepEqual(
        config.storage?.links?.find(({ path }) => path === `/etc/extensions/${name}-flatcar.raw`)?.target,
        '/dev/null',
      )
    assert.match((await file(config, '/etc/flatcar/update.conf')).text, /^REBOOT_STRATEGY=off$/m)
  })

  test('gets what another layer adds, in the same first boot', async () => {
    const fragment = {
      file: 'config/k3s/node.yaml',
      text: `variant: flatcar
version: 1.0.0
storage:
  files:
    - path: /etc/rancher/k3s/config.yaml
      mode: 0600
      contents:
        inline: 'token: {{ token }}'
`,
    }
    const config = configuration(undefined, { fragments: [fragment], values: { token: 'a: b' } })
    assert.deepEqual(await file(config, '/etc/rancher/k3s/config.yaml'), { text: 'token: a: b', mode: 0o600 })
  })
})

describe('the keys of a node', () => {
  test('the host key is a secret of the site, made when it is asked for', async () => {
    const asked: string[] = []
    const secret = hostKeyOf(guestsOf(load().site)[0]!, (name, make) => {
      asked.push(name)
      return new Secret(name, make!)
    })
    assert.deepEqual(asked, ['fortress-node-ssh-host-key'])
    assert.match(sshPublicKey(await secret.resolve()), /^ssh-ed25519 AAAA\S+$/)
  })

  test('no two host keys are the same', () => {
    assert.notEqual(sshPublicKey(makeSshKey('a')), sshPublicKey(makeSshKey('a')))
  })

  test('a node’s file is a secret, and what is shown of it has names where secrets stand', async (t) => {
    const state = mkdtempSync(join(tmpdir(), 'admin-'))
    t.after(() => rmSync(state, { recursive: true }))
    const config = load()
    const [node] = guestsOf(config.site)
    const secrets = (name: string) => new Secret(name, () => hostKey)
    const { secret, shown } = ignitionFile({ ...config, state, secrets }, node!)
    const rehearsed = JSON.parse(shown) as Ignition
    const name = '‹secret fortress-node-ssh-host-key›'
    assert.equal((await file(rehearsed, '/etc/ssh/ssh_host_ed25519_key')).text, `${name}\n`)
    assert.match(
      (await file(rehearsed, '/etc/ssh/authorized_keys/core')).text,
      /^ssh-ed25519 AAAA\S+ fortress-kit$/m,
    )

    assert.deepEqual(
      JSON.parse(await secret.resolve()),
      configuration(() => {}, { nodeKey: sshPublicKey(hostKey) }),
    )
    assert.equal(String(secret), '‹secret fortress-node-ignition›')

    // The public halves lie in clear from then on: another key is seen as another.
    const later = JSON.parse(ignitionFile({ ...config, state, secrets }, node!).shown) as Ignition
    const half = sshPublicKey(hostKey)
    assert.equal((await file(later, '/etc/ssh/authorized_keys/core')).text, `${half}\n`)
    assert.equal((await file(later, '/etc/ssh/ssh_host_ed25519_key')).text, `${name} ${half}\n`)
  })

  test('once the keys are made, what is declared does not change when they are used', async (t) => {
    const state = mkdtempSync(join(tmpdir(), 'admin-'))
    t.after(() => rmSync(state, { recursive: true }))
    const config = load()
    const nodes = guestsOf(config.site)
    const context = { ...config, state, secrets: (name: string) => new Secret(name, () => hostKey) }
    await makeKeys(context, nodes)
    const first = ignitionFile(context, nodes[0]!)
    await first.secret.resolve()
    assert.equal(ignitionFile(context, nodes[0]!).shown, first.shown)
  })

  test('what is no host key has no public half', () => {
    for (const text of ['', 'ssh-ed25519 AAAA', '-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END-----\n'])
      assert.throws(() => sshPublicKey(text), { message: 'this is not an Ed25519 private key of OpenSSH' })
  })
})
