// What an update of a host does to a virtual machine that runs there: a real libvirtd in a container of the lab, whose
// guest tells this computer each second which start of it this is.
import assert from 'node:assert/strict'
import { copyFileSync, mkdirSync } from 'node:fs'
import { type AddressInfo, type Server, createServer } from 'node:net'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Context, Page } from '../../lib/engine/page.ts'
import { type Mode, runPage } from '../../lib/engine/run.ts'
import { isChange } from '../../lib/engine/step.ts'
import { labNodeDown, labNodeUp, labRun } from '../../lib/lab/lab.ts'
import firewall from '../../scripts/06-host-firewall.ts'
import harden from '../../scripts/00-host-harden.ts'
import hostPage from '../../scripts/10-vm-host.ts'
import { type Kit, type Opened, around, open } from '../machine/kit.ts'
import { beatFiles, hostPackages } from './guest.ts'

const name = 'updates'
/** What a container cannot: profiles of AppArmor, and the limits that stand in qemu.conf. */
const beyond = /AppArmor|run unconfined|processors, and memory|virtualiz/

const qemuConf = `user = "root"
group = "root"
security_driver = "none"
cgroup_controllers = [ ]
namespaces = [ ]
remember_owner = 0
`

/** What an update runs: the scripts of these packages, as for another version of each; one of them brings sysctls that are new here. */
const installs = (only: string) => `update() {
  DEBIAN_FRONTEND=noninteractive apt-get --yes --reinstall -o Dpkg::Use-Pty=0 ${only} install linux-sysctl-defaults $(dpkg-query \\
    --show --showformat='\${db:Status-Abbrev} \${Package}\n' 'libvirt*' 'systemd*' udev qemu-system-x86 dnsmasq-base nftables |
    awk '$1 == "ii" { print $2 }')
}`

const domain = (beat: string) => `<domain type='qemu'>
  <name>heart</name><memory unit='MiB'>192</memory><vcpu>1</vcpu>
  <os>
    <type arch='x86_64' machine='q35'>hvm</type>
    <kernel>/var/lib/heart/vmlinuz</kernel><initrd>/var/lib/heart/initrd</initrd>
    <cmdline>console=ttyS0 quiet beat=${beat}</cmdline>
  </os>
  <features><acpi/></features><cpu mode='maximum'/>
  <devices>
    <interface type='network'><source network='fortress'/><model type='virtio'/></interface>
    <serial type='file'><source path='/var/log/heart'/></serial>
    <memballoon model='none'/>
  </devices>
</domain>
`

describe('a virtual machine on a host that is updated', () => {
  let kit: Kit
  let opened: Opened
  let context: Context
  let server: Server
  /** What was told, with the address that it came from. */
  const beats: { start: string; from: string | undefined }[] = []

  before(async () => {
    const files = await beatFiles()
    kit = around(await labNodeUp(name, { net: true, extra: hostPackages }))
    opened = await open(kit)
    const { site } = opened.context
    const line = { from: 'guests', to: 'upstream', ports: 'any', why: 'who listens to its heart' } as const
    context = {
      ...opened.context,
      site: { ...site, router: { ...site.router, allow: [...site.router.allow, line] } },
    }
    server = createServer((socket) => {
      socket.setEncoding('utf8').on('error', () => undefined)
      socket.on('data', (start: string) => beats.push({ start: start.trim(), from: socket.remoteAddress }))
      socket.on('data', () => socket.end())
    })
    await new Promise<void>((resolve) => server.listen(0, '10.78.0.1', resolve))
    const inside = join(kit.machine.dir, 'root/var/lib/heart')
    mkdirSync(inside)
    for (const file of ['vmlinuz', 'initrd']) copyFileSync(join(files, file), join(inside, file))
    await put('/etc/libvirt/qemu.conf', qemuConf)
    // The container may not write what it sees of its own bridge.
    await root('mount -o remount,rw /sys/devices && systemctl restart libvirtd')
  })
  after(async () => {
    server?.close()
    await opened?.machine.close()
    await labNodeDown(name)
  })

  async function root(command: string, input = ''): Promise<string> {
    const { code, stdout, stderr } = await labRun(kit.machine, `set -euo pipefail\n${command}`, {
      root: true,
      input,
      seconds: 1800,
    })
    assert.equal(code, 0, `${command}\n${stdout}${stderr}`)
    return stdout.trim()
  }
  const put = (file: string, text: string) => root(`install -D -m 644 /dev/stdin ${file}`, text)

  async function run(of: Page, mode: Mode) {
    opened.lines.length = 0
    const steps = of.steps(context).filter((step) => !beyond.test(step.name))
    const result = await runPage(of, steps, mode, opened.running)
    return { ...result, text: opened.lines.join('') }
  }
  const fine = (ran: { code: number; text: string }) => assert.equal(ran.code, 0, ran.text)

  /** The start of the guest that tells of itself from now on, three times. */
  async function beating(): Promise<string> {
    beats.length = 0
    for (let tries = 0; beats.length < 3; tries++) {
      assert.ok(tries < 600, `it is silent: ${await root('virsh list --all; tail -n 5 /var/log/heart')}`)
      await sleep(500)
    }
    assert.equal(new Set(beats.map(({ start }) => start)).size, 1)
    return beats[0]?.start ?? ''
  }

  let first = ''
  test('it reaches this computer through the firewall of its host', async () => {
    for (const [of, files] of [
      [firewall, /nftables/],
      [harden, /sysctl\.d\/99-zz-fortress-forwarding\.conf$/],
    ] as const)
      for (const step of of.steps(context)) {
        const target = isChange(step) ? step.target : undefined
        if (target?.text !== undefined && files.test(target.path)) await put(target.path, target.text)
      }
    // The test is no peer of a tunnel: it comes in by the container's own network.
    await root(
      'nft -f /etc/nftables.conf && nft insert rule inet fortress input iifname host0 tcp dport 22 accept',
    )
    fine(await run(hostPage, 'apply'))
    await put('/root/heart.xml', domain(`10.78.0.1:${(server.address() as AddressInfo).port}`))
    await root('virsh define /root/heart.xml && virsh autostart heart && virsh start heart')
    first = await beating()
    assert.equal(beats[0]?.from, kit.machine.host)
  })

  test('an update of systemd, libvirt, QEMU and of sysctls leaves it running, and on the network', async (t) => {
    const began = Date.now()
    const said = await root(`${installs('')}
      pid=$(pidof qemu-system-x86_64); starts=$(systemctl show --property=InvocationID --value libvirtd systemd-journald)
      update 2>&1
      test "$pid" = "$(pidof qemu-system-x86_64)"
      test "$starts" != "$(systemctl show --property=InvocationID --value libvirtd systemd-journald)"`)
    t.diagnostic(`${((Date.now() - began) / 1000).toFixed(0)} s`)
    for (const what of ['systemd', 'libvirt-daemon-system', 'linux-sysctl-defaults'])
      assert.match(said, new RegExp(`Setting up ${what} \\(`))
    assert.equal(await beating(), first)
    fine(await run(hostPage, 'verify'))
  })

  test('so does loading all sysctls by hand, and starting libvirtd and the firewall anew', async () => {
    // A container may not set all of them.
    await root(
      'sysctl --quiet --system > /dev/null 2>&1 || true; systemctl restart systemd-sysctl.service libvirtd.service',
    )
    await root(
      'nft -f /etc/nftables.conf && nft insert rule inet fortress input iifname host0 tcp dport 22 accept',
    )
    assert.equal(await beating(), first)
    fine(await run(hostPage, 'verify'))
  })

  test('what switches forwarding off is seen by verify, and mended by apply', async () => {
    await put('/etc/sysctl.d/99-zzz-somebody.conf', 'net.ipv4.ip_forward = 0\n')
    await root('systemctl restart systemd-sysctl.service')
    const seen = await run(hostPage, 'verify')
    assert.equal(seen.code, 1, seen.text)
    assert.match(seen.text, /the host does not forward/)
    await sleep(6000)
    beats.length = 0
    await sleep(5000)
    assert.deepEqual(beats, [])
    await root('rm /etc/sysctl.d/99-zzz-somebody.conf')
    fine(await run(hostPage, 'apply'))
    assert.equal(await beating(), first)
  })
})
