// The machine of a node on a real libvirtd, in a container of the lab: emulated, so it is slow, and without AppArmor, which this
// container's kernel may not have. The guest is a Debian with the real Ignition.
import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { copyFileSync, mkdirSync, readFileSync } from 'node:fs'
import { type Server, createServer as createWebServer } from 'node:https'
import { type AddressInfo, createServer } from 'node:net'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Context, Page } from '../../lib/engine/page.ts'
import { printed } from '../../lib/engine/print.ts'
import { type Mode, runPage } from '../../lib/engine/run.ts'
import { isChange } from '../../lib/engine/step.ts'
import { quote } from '../../lib/ground/sh.ts'
import { labNodeDown, labNodeUp } from '../../lib/lab/lab.ts'
import type { Site, VmSpec } from '../../lib/site/model.ts'
import type { Ignition } from '../../lib/vm/butane.ts'
import { destroy, domainShell, ignitionPath, rebuild, vmDir } from '../../lib/vm/domain.ts'
import { imageOf } from '../../lib/vm/image.ts'
import firewall from '../../scripts/06-host-firewall.ts'
import hostPage from '../../scripts/10-vm-host.ts'
import ignitionPage from '../../scripts/12-vm-ignition.ts'
import page from '../../scripts/13-vm-provision.ts'
import { type Kit, type Opened, around, deadly, open } from '../machine/kit.ts'
import { left, runPrinted, sameLeft } from '../machine/printed.ts'
import { withVm } from '../site/made.ts'
import { guestImage, hostPackages } from './guest.ts'

const name = 'provision'
const node = 'fortress-node'
const notes = '/var/lib/fortress/vm'

/** What a container cannot: profiles of AppArmor, and the limits that stand in qemu.conf. */
const beyond = /AppArmor|run unconfined/

const qemuConf = `user = "root"
group = "root"
security_driver = "none"
cgroup_controllers = [ ]
namespaces = [ ]
remember_owner = 0
`

type File = NonNullable<NonNullable<Ignition['storage']>['files']>[number]

async function fileOf({ path, mode = 0o644, contents }: File) {
  const wanted = /^sha256-(.*)$/.exec(contents?.verification?.hash ?? '')?.[1]
  const text = wanted ? '' : Buffer.from(await (await fetch(contents?.source ?? 'data:,')).arrayBuffer())
  return { path, mode: mode.toString(8), digest: wanted ?? sha256(text) }
}

/** The laptop, from which the node fetches k3s, is in the private network around the host. */
const reaching = (site: Site): Site => {
  const line = { from: 'guests', to: 'upstream', ports: 'any', why: 'the web server of the test' } as const
  return { ...site, router: { ...site.router, allow: [...site.router.allow, line] } }
}

const sha256 = (text: string | Buffer) => createHash('sha256').update(text).digest('hex')

describe('a node on a real libvirtd', () => {
  let kit: Kit
  let opened: Opened
  let context: Context
  /** What the laptop's web server gives in place of k3s: pinned by its hash, like k3s. */
  const k3s = '#!/bin/sh\nexec sleep infinity\n'
  const system = { os: 'flatcar', arch: 'amd64' } as const
  let asked = 0
  /** What the pages left, before their undo. */
  const applied = { host: '', provision: '' }
  let server: Server | undefined
  const small = { accel: 'tcg', memory: 768, cpus: 2, disk: 8 } as const

  before(async () => {
    const { image, tls } = await guestImage()
    kit = around(await labNodeUp(name, { extra: hostPackages }))
    opened = await open(kit)
    server = createWebServer(tls, (_, response) => {
      asked += 1
      response.end(k3s)
    })
    await new Promise<void>((resolve) => server?.listen(0, '10.78.0.1', resolve))
    const pin = {
      ...opened.context.pins['k3s']!,
      url: { amd64: `https://10.78.0.1:${(server.address() as AddressInfo).port}/k3s` },
      sha256: { amd64: sha256(k3s) },
    }
    context = {
      ...opened.context,
      site: withVm(reaching(opened.context.site), small),
      pins: { ...opened.context.pins, k3s: pin },
    }
    await root(`cat > /etc/libvirt/qemu.conf << 'EOF'\n${qemuConf}EOF\nsystemctl restart libvirtd`)
    // The container may not write what it sees of its own bridge.
    await root('mount -o remount,rw /sys/devices')
    // The container's own memory is too small for a disk.
    await root(`mkdir ${vmDir} && mount -t tmpfs -o size=9G,mode=711 disks ${vmDir}`)
    const base = join(kit.machine.dir, 'root', imageOf(context, system).path)
    mkdirSync(join(base, '..'), { recursive: true })
    copyFileSync(image, base)
  })
  after(async () => {
    server?.close()
    await opened?.machine.close()
    await labNodeDown(name)
  })

  async function root(command: string): Promise<string> {
    const { code, stdout, stderr } = await kit.root(
      `export FK_TMP=$(mktemp -d)\n${domainShell}\n${page.prepare?.text}\nset -euo pipefail\n${command}`,
    )
    assert.equal(code, 0, `${command}\n${stdout}${stderr}`)
    return stdout.trim()
  }

  /** Bash on the node, as its admin, by way of the host. */
  const guest = (command: string) =>
    root(
      `ssh -F none -T -i /root/core -l core -o UserKnownHostsFile=/etc/fortress/vm/${node}.known_hosts -o StrictHostKeyChecking=yes 10.77.0.2 ${quote(command)}`,
    )

  const stepsOf = (of: Page, more: Partial<VmSpec> = {}) =>
    of.steps({ ...context, site: withVm(context.site, more) }).filter((step) => !beyond.test(step.name))

  async function run(of: Page, mode: Mode, more: Partial<VmSpec> = {}, typed?: string) {
    opened.lines.length = 0
    const steps = stepsOf(of, more)
    const result = await runPage(of, steps, mode, {
      ...opened.running,
      typed: () => Promise.resolve(typed),
    })
    return { ...result, text: opened.lines.join('') }
  }
  const fine = (ran: { code: number; text: string }) => assert.equal(ran.code, 0, ran.text)

  test('the network of the nodes is up under the rules of the firewall, and a second run changes nothing', async () => {
    for (const step of firewall.steps(context)) {
      const target = isChange(step) ? step.target : undefined
      if (!target?.path.includes('nftables')) continue
      const { code } = await kit.root(`mkdir -p /etc/nftables.d && cat > ${target.path}`, target.text)
      assert.equal(code, 0)
    }
    // The test is no peer of a tunnel: it comes in by the container's own network.
    await root(
      'nft -f /etc/nftables.conf && nft insert rule inet fortress input iifname host0 tcp dport 22 accept',
    )
    fine(await run(hostPage, 'apply'))
    const again = await run(hostPage, 'apply')
    fine(again)
    assert.equal(again.changed, 0)
    assert.equal(await root('cat /proc/sys/net/ipv4/ip_forward'), '1')
  })

  test('a node that has no Ignition yet is refused before anything changes', async () => {
    const ran = await run(page, 'apply')
    assert.equal(ran.code, 1)
    assert.match(ran.text, /vm-ignition apply/)
    assert.equal(await root('virsh list --all --name'), '')
  })

  test('what it becomes is written down, for QEMU alone', async () => {
    fine(await run(ignitionPage, 'apply'))
    assert.equal((await run(ignitionPage, 'apply')).changed, 0)
    const { site } = context
    context = { ...context, site: { ...site, timezone: 'Asia/Tokyo' } }
    assert.equal((await run(ignitionPage, 'verify')).code, 1)
    context = { ...context, site }
    assert.equal((await run(ignitionPage, 'verify')).code, 0)
    assert.equal(
      await root(`stat --format='%a %U:%G' ${ignitionPath({ name: node })}`),
      '400 libvirt-qemu:libvirt-qemu',
    )
    assert.equal(
      (await kit.root('install -m 600 /dev/stdin /root/core', readFileSync(kit.machine.identityFile, 'utf8')))
        .code,
      0,
    )
  })

  test('killed before and after every command it goes on from there: tried, proven by its own key, and kept', async (t) => {
    await root(
      `timeout --signal=KILL 0.5 bash -c 'vm_disk_make ${node} 8 ${imageOf(context, system).path} qcow2' || test "$(ls ${vmDir} | xargs)" = '${node}.ign ${node}.qcow2.part'`,
    )
    const steps = page.steps(context).filter((step) => !beyond.test(step.name))
    let kills = 0
    for (let from = 0, at = 0; at >= 0; from = at + 1) {
      at = -1
      const machine = deadly(opened.machine, from, 'commands', (n) => (at = n))
      opened.lines.length = 0
      const { code } = await runPage(page, steps, 'apply', { ...opened.running, machine })
      if (at >= 0) kills += 1
      else assert.equal(code, 0, opened.lines.join(''))
    }
    t.diagnostic(`${kills} kills`)
    assert.ok(kills >= 3 * steps.filter(isChange).length, `only ${kills} kills`)
    assert.ok(asked > 0, 'nobody fetched k3s')
    assert.match(await root('virsh net-dhcp-leases fortress | grep --count 10.77.0.2 || true'), /^[01]$/)
    assert.match(await root(`virsh dominfo ${node}`), /Persistent: +yes\nAutostart: +enable/)
    assert.equal(
      await root(`virsh list --all --name; ls ${vmDir} | xargs`),
      `${node}\n\n${node}.ign ${node}.qcow2 ${node}.vars.fd`,
    )
    assert.equal(
      await root(`ls ${notes}; systemctl list-timers --all --no-legend 'fortress-trial-*'`),
      `${node}.back\n${node}.lock`,
    )
  })

  test('the node reaches the world through its host, and of the host only names and addresses', async () => {
    const from = new Promise<string | undefined>((resolve) => {
      const server = createServer((socket) => {
        resolve(socket.remoteAddress)
        socket.destroy()
        server.close()
      }).listen(0, '10.78.0.1', async () => {
        const { port } = server.address() as AddressInfo
        await guest(`timeout 10 bash -c 'exec 3<> /dev/tcp/10.78.0.1/${port}'`)
      })
      // Where the node never comes, the test has failed, and nothing else waits for it.
      server.unref()
    })
    assert.equal(await from, kit.machine.host)
    assert.match(
      await guest(`timeout 4 bash -c 'exec 3<> /dev/tcp/10.77.0.1/22' || echo silence`),
      /silence$/,
    )
  })

  test('libvirt has no USB, sound, serial port, screen or balloon for it', async () => {
    const xml = await root(`virsh dumpxml ${node}`)
    assert.doesNotMatch(
      xml,
      /<(sound|video|graphics|redirdev|hostdev|channel|parallel)[ >]|<serial type|cdrom/,
    )
    assert.match(xml, /<controller type='usb' index='0' model='none'/)
    assert.match(xml, /<memballoon model='none'/)
  })

  test('a second run changes nothing', async () => {
    const again = await run(page, 'apply')
    fine(again)
    assert.equal(again.changed, 0)
  })

  test('it has become what its Ignition says: every file, link, unit and user', async () => {
    const { storage, systemd, passwd } = JSON.parse(
      await root(`cat ${ignitionPath({ name: node })}`),
    ) as Ignition
    const files = await Promise.all((storage?.files ?? []).map(fileOf))
    const links = storage?.links ?? []
    const units = (systemd?.units ?? []).filter((unit) => unit.enabled !== undefined || unit.mask)
    const said = await guest(
      // Once, because each sudo looks for a name server first.
      `sudo -n bash -c "for f in ${files.map(({ path }) => path).join(' ')}; do stat --format='%n %a %U:%G' \\$f; sha256sum \\$f; done
for l in ${links.map(({ path }) => path).join(' ')}; do echo \\$l is \\$(readlink \\$l); done
for u in ${units.map(({ name }) => name).join(' ')}; do echo \\$u is \\$(systemctl is-enabled \\$u 2> /dev/null); done
passwd --status core"; hostname`,
    )
    assert.ok(files.length > 8 && links.length > 2 && units.length > 4)
    const wanted = [
      ...files.flatMap(({ path, mode, digest }) => [`${path} ${mode} root:root`, `${digest}  ${path}`]),
      ...links.map(({ path, target }) => `${path} is ${target}`),
      // This guest has no auditd: a unit that is only enabled stays a wish.
      ...units.flatMap(({ name, mask, contents }) =>
        mask ? [`${name} is masked`] : contents ? [`${name} is enabled`] : [],
      ),
    ]
    for (const line of wanted) assert.ok(said.split('\n').includes(line), `${line}\n${said}`)
    assert.deepEqual(
      passwd?.users?.map(({ name }) => name),
      ['core'],
    )
    assert.match(said, /^core L .*$/m)
    assert.match(said, /\nfortress-node$/)
  })

  test('a machine that somebody changed by hand is drift, with the difference', async () => {
    await root(
      `virsh dumpxml ${node} --inactive | awk '/<memballoon/ { print "<sound model=\\"ich9\\"/>" } { print }' > /tmp/changed.xml && virsh define /tmp/changed.xml`,
    )
    const ran = await run(page, 'verify')
    assert.equal(ran.code, 1)
    assert.match(ran.text, /is +domain\/devices\/sound\/@model=ich9/)
    fine(await run(page, 'apply'))
    fine(await run(page, 'verify'))
  })

  test('more memory is drift, shown and applied, and the disk is the same', async () => {
    const ran = await run(page, 'plan', { memory: 832 })
    assert.equal(ran.code, 2)
    assert.match(ran.text, /851968/)
    fine(await run(page, 'apply', { memory: 832 }))
    assert.match(await root(`virsh dominfo ${node}`), /Max memory: +851968 KiB/)
    // It was accepted, and what its disk was before takes no room.
    assert.doesNotMatch(await root(`qemu-img snapshot -U -l ${vmDir}/${node}.qcow2`), /before-trial/)
    applied.provision = await left(kit)
  })

  test('a trial that nobody accepts is taken back by the host alone, disk and all', async () => {
    await root(`awk '{ gsub("851968", "819200"); print }' /etc/fortress/vm/${node}.xml > /tmp/other.xml
      cp /tmp/other.xml /etc/fortress/vm/${node}.xml
      vm_try ${node} 60 > /dev/null`)
    const state = () => root(`virsh dominfo ${node} | awk '/Max memory/ { print $3 }'; ls ${notes}`)
    assert.match(await state(), /^819200\n[^]*\.trial/)
    for (let n = 0; n < 60 && (await state()).includes('.trial'); n++) await sleep(2000)
    assert.doesNotMatch(await state(), /trial/)
    assert.match(await state(), /^851968/)
    // libvirt starts a machine paused, and lets it run a moment later.
    const is = () => root(`virsh domstate ${node}`)
    for (let n = 0; n < 30 && !(await is()).includes('running'); n++) await sleep(1000)
    assert.match(await is(), /running/)
    assert.doesNotMatch(await root(`qemu-img snapshot -U -l ${vmDir}/${node}.qcow2`), /before-trial/)
  })

  test('it is made anew from the base image when its name is typed, by what vm-provision prints as by apply', async () => {
    fine(await run(rebuild(node), 'apply', {}, node))
    assert.match(await root(`ls ${vmDir}`), /fortress-node\.qcow2\.previous/)
    const known = `/etc/fortress/vm/${node}.known_hosts`
    const secrets = { [`${node}-known-hosts`]: `${await root(`cat ${known}`)}\n` }
    // As on a host that never had them.
    await root(`rm ${known} /var/lib/fortress/secret${known}.sha256 /etc/fortress/vm/${node}.xml`)
    await runPrinted(kit, printed({ ...page, steps: stepsOf(page, { memory: 832 }) }), { secrets })
    // When it was made anew is noted; each start has a network card of another number.
    sameLeft(applied.provision, await left(kit), new RegExp(`/${node}\\.rebuilt|\\.vnet\\d+\\.`))
    const again = await run(page, 'apply', { memory: 832 })
    fine(again)
    assert.equal(again.changed, 0, again.text)
    assert.doesNotMatch(await root(`ls ${notes}`), /trial$|rebuilding/)
  })

  test('a machine of somebody else is neither changed nor deleted', async () => {
    await root(`virsh metadata ${node} --uri urn:fortress-kit:domain --remove --config --live`)
    const ran = await run(destroy(node), 'apply', {}, node)
    assert.equal(ran.code, 1)
    assert.match(ran.text, /is not of the site fortress/)
    assert.equal((await run(page, 'apply')).code, 1)
    assert.match(await root(`virsh domstate ${node}`), /running/)
  })

  test('it is deleted when its name is typed, and then nothing of it is left', async () => {
    await root(
      `virsh metadata ${node} --uri urn:fortress-kit:domain --key fortress --set '<owner site="fortress" node="${node}"/>' --config --live`,
    )
    assert.equal((await run(destroy(node), 'apply', {}, 'another')).code, 1)
    assert.match(await root(`virsh domstate ${node}`), /running/)
    fine(await run(page, 'undo'))
    assert.equal(await root('virsh list --all --name'), '')
    assert.match(await root(`ls ${vmDir}`), /fortress-node\.qcow2\n/)
    fine(await run(destroy(node), 'apply', {}, node))
    assert.equal(await root(`virsh list --all --name; ls ${vmDir}`), '')
  })

  test('undo takes the network away, and the bridge with it', async () => {
    applied.host = await left(kit)
    fine(await run(hostPage, 'undo'))
    assert.equal(
      await root(
        'virsh net-list --all --name | grep fortress || ls /sys/class/net | grep virbr || echo none',
      ),
      'none',
    )
  })

  test('what vm-host prints leaves the same as apply', async () => {
    await runPrinted(kit, printed({ ...hostPage, steps: stepsOf(hostPage) }))
    sameLeft(applied.host, await left(kit))
    const again = await run(hostPage, 'apply')
    fine(again)
    assert.equal(again.changed, 0, again.text)
  })
})
