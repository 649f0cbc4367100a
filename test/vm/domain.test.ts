// What a virtual machine is, for every kind of node; and how what libvirt says of one is compared with what was declared.
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, describe, test } from 'node:test'
import type { Context } from '../../lib/engine/page.ts'
import { isChange } from '../../lib/engine/step.ts'
import { makeSshKey, sshPublicKey } from '../../lib/ground/keys.ts'
import { Secret } from '../../lib/ground/secret.ts'
import { loadConfig } from '../../lib/site/config.ts'
import {
  type Domain,
  destroy,
  domainShell,
  domainsOf,
  domainXml,
  greeting,
  guestNetwork,
} from '../../lib/vm/domain.ts'
import { ignition } from '../../lib/vm/ignition.ts'
import hostPage from '../../scripts/10-vm-host.ts'
import ignitionPage from '../../scripts/12-vm-ignition.ts'
import page from '../../scripts/13-vm-provision.ts'
import { estate } from '../site/made.ts'
import { variants } from '../variants.ts'

function contextOf(
  site = 'fortress',
  env: Record<string, string> = {},
  change: (c: Context) => void = () => {},
) {
  const config = structuredClone(loadConfig({ env, site }))
  const [spec] = config.site.machines
  const context = {
    ...config,
    machine: { name: spec!.name, os: spec!.os, arch: spec!.arch, model: '', user: 'admin', via: '' },
    secrets: (name: string) => new Secret(name, () => Promise.reject(new Error('never asked for'))),
    state: '/nonexistent',
  } as Context
  change(context)
  return context
}

const xmlOf = (change: Partial<Domain> = {}, vault = false) =>
  domainXml({ ...domainsOf(contextOf())[0]!, ...change }, { vault })
const arm = { ...domainsOf(contextOf())[0]!.node, arch: 'arm64' as const }

describe('the XML of a machine', () => {
  test('has virtio, a file for its disk, and what has to be refused by name', () => {
    const xml = xmlOf()
    assert.match(xml, /<controller type="usb" index="0" model="none"\/>/)
    assert.match(xml, /<memballoon model="none"\/>/)
    assert.match(xml, /<driver name="qemu" type="qcow2" cache="none" io="native" discard="unmap"\/>/)
    assert.match(xml, /<memory unit="KiB">8388608<\/memory>/)
    assert.match(xml, /<hard_limit unit="KiB">9437184<\/hard_limit>/)
    assert.doesNotMatch(
      xml,
      /<(sound|console|video|graphics|input|channel|tpm)[ >]|<serial type|cdrom|fortress:(if|each)|\{\{/,
    )
  })

  test('gives Ignition one key, and Talos none', () => {
    const entry = `<entry name="opt/org.flatcar-linux/config" file="/var/lib/libvirt/fortress/fortress-node.ign"/>`
    assert.equal(xmlOf().split(entry).length, 2)
    assert.equal(xmlOf().split('<entry ').length, 2)
    assert.match(xmlOf(), /<features>\s*<acpi\/>/)
    assert.doesNotMatch(xmlOf({ system: 'talos' }), /sysinfo|\.ign/)
  })

  test('gives Talos one more disk, which it can only read, and Flatcar none', () => {
    const told =
      /<source file="\/var\/lib\/libvirt\/fortress\/fortress-node\.cidata"\/>\s*<target dev="vdc" bus="virtio"\/>\s*<readonly\/>/
    assert.match(xmlOf({ system: 'talos' }), told)
    assert.doesNotMatch(xmlOf(), /cidata|vdc/)
  })

  test('lets nothing be virtualised inside, unless pods are virtual machines', () => {
    assert.match(xmlOf(), /policy="disable" name="vmx"[^]*policy="disable" name="svm"/)
    assert.doesNotMatch(xmlOf({ kata: true }), /policy="disable"/)
    assert.match(xmlOf({ accel: 'tcg' }), /<cpu mode="maximum">\s*<feature policy="disable" name="svm"\/>/)
  })

  test('is emulated only on purpose, and then without a limit that nobody knows', () => {
    assert.match(xmlOf(), /^<domain type="kvm">[^]*mode="host-passthrough"/)
    assert.match(xmlOf({ accel: 'tcg' }), /^<domain type="qemu">/)
    assert.doesNotMatch(xmlOf({ accel: 'tcg' }), /memtune|host-passthrough/)
  })

  test('is another machine on arm64', () => {
    const xml = xmlOf({ node: arm })
    assert.match(xml, /arch="aarch64" machine="virt"[^]*AAVMF_CODE\.fd[^]*qemu-system-aarch64/)
    assert.doesNotMatch(xml, /apic|vmport|vmx|q35|OVMF_CODE_4M/)
  })

  test('takes the vault as a raw block device, when the storage layer plugs it in', () => {
    const disk =
      /<disk type="block" device="disk">\s*<driver name="qemu" type="raw" cache="none" io="native" discard="unmap"\/>\s*<source dev="\/dev\/mapper\/vault"\/>/
    assert.match(xmlOf({}, true), disk)
    assert.doesNotMatch(xmlOf(), /type="block"/)
  })

  test('has a console where the site wants one, and it is virtio', () => {
    const site = contextOf('fortress', {}, (c) =>
      c.site.machines.forEach(({ vm }) => vm && (vm.console = true)),
    )
    assert.match(domainXml(domainsOf(site)[0]!), /<console type="pty">\s*<target type="virtio" port="0"\/>/)
  })

  test('cannot be broken out of by a name', () => {
    assert.match(xmlOf({ vault: 'a"/><b' }, true), /\/dev\/mapper\/a&quot;\/>?/)
    assert.doesNotMatch(xmlOf({ vault: 'a"/><b' }, true), /<b[ />]/)
  })

  test('bears the mark of its site, and a UUID that follows from the names', () => {
    assert.match(
      xmlOf(),
      /<fortress:owner site="fortress" node="fortress-node" xmlns:fortress="urn:fortress-kit:domain"\/>/,
    )
    const [other] = domainsOf(contextOf('fortress', {}, (c) => (c.site.name = 'other')))
    assert.equal(domainsOf(contextOf())[0]!.uuid, domainsOf(contextOf())[0]!.uuid)
    assert.notEqual(domainsOf(contextOf())[0]!.uuid, other?.uuid)
  })
})

test('the network knows every node by its address, and libvirt writes no rules for it', () => {
  const { xml, bridge, network } = guestNetwork(contextOf().site, 'fortress')
  assert.deepEqual([bridge, network], ['virbr-fort', '10.77.0.0/24'])
  assert.match(xml, /<forward mode="open"\/>/)
  assert.match(xml, /<host mac="52:54:00:[0-9a-f:]{8}" name="fortress-node" ip="10\.77\.0\.2"\/>/)
  assert.throws(
    () => guestNetwork(contextOf('fortress-pi').site, 'fortress-pi'),
    /fortress-pi has no network for virtual machines/,
  )
})

describe('two hosts with a virtual machine each', () => {
  const site = estate()
  const on = (name: string): Context => ({
    ...contextOf(),
    site,
    machine: { name, os: 'debian-13', arch: 'amd64', model: '', user: 'admin', via: '' },
  })
  const [north, south] = ['north', 'south'].map((name) => domainsOf(on(name)))

  test('define each its own, which differ in name, UUID, hardware address and size', () => {
    assert.deepEqual(
      [north, south].map((found) => found?.map(({ node }) => node.name)),
      [['north-1'], ['south-1']],
    )
    const of = [north![0]!, south![0]!]
    for (const fact of [({ uuid }: Domain) => uuid, ({ node }: Domain) => node.mac, domainXml])
      assert.notEqual(fact(of[0]!), fact(of[1]!))
    assert.deepEqual(
      of.map(({ ramMib, vcpus, diskGib, accel }) => [ramMib, vcpus, diskGib, accel]),
      [
        [4096, 2, 30, 'kvm'],
        [16384, 8, 100, 'tcg'],
      ],
    )
    assert.deepEqual(
      of.map(({ console, alone, vault }) => [console, alone, vault]),
      [
        [false, true, 'vault'],
        [true, true, 'inner'],
      ],
    )
    assert.match(domainXml(of[1]!), /<memory unit="KiB">16777216<\/memory>/)
  })

  test('have each a network of its own, with its own virtual machine in it', () => {
    const nets = ['north', 'south'].map((name) => guestNetwork(site, name))
    assert.deepEqual(
      nets.map(({ network }) => network),
      ['10.77.0.0/24', '10.78.0.0/24'],
    )
    const facts = nets.map(({ xml }) => ({
      uuid: /<uuid>(.*)<\/uuid>/.exec(xml)?.[1],
      mac: /<mac address="(.*?)"/.exec(xml)?.[1],
      hosts: [...xml.matchAll(/<host .*name="(.*?)" ip="(.*?)"/g)].map(([, name, ip]) => `${name} ${ip}`),
    }))
    assert.notEqual(facts[0]?.uuid, facts[1]?.uuid)
    assert.notEqual(facts[0]?.mac, facts[1]?.mac)
    assert.deepEqual(
      facts.map(({ hosts }) => hosts),
      [['north-1 10.77.0.2'], ['south-1 10.78.0.2']],
    )
  })

  test('get no step about the other one, and the metal beside them gets none at all', () => {
    for (const [name, other] of [
      ['north', 'south-1'],
      ['south', 'north-1'],
    ] as const)
      for (const of of [hostPage, ignitionPage, page])
        assert.doesNotMatch(JSON.stringify(of.steps(on(name))), new RegExp(other), `${of.name} of ${name}`)
    for (const of of [hostPage, page]) {
      const steps = of.steps(on('metal'))
      assert.deepEqual([steps.length, isChange(steps[0]!)], [1, false])
    }
  })

  test('destroy and rebuild only what is theirs', () => {
    assert.doesNotThrow(() => destroy('south-1').steps(on('south')))
    assert.throws(() => destroy('south-1').steps(on('north')), /north runs no virtual machine south-1/)
  })

  test('keep what they had, when the only one of a site is written down as a machine of its own', () => {
    const [{ uuid, node } = assert.fail('it has none')] = domainsOf(contextOf())
    assert.deepEqual(
      [uuid, node.mac, node.address],
      ['789ca34b-84e9-537b-800f-8122270e3506', '52:54:00:a0:62:12', '10.77.0.2'],
    )
  })
})

test('a Raspberry Pi is its own node: the pages say what is lost, and make nothing', () => {
  for (const steps of [hostPage.steps(contextOf('fortress-pi')), page.steps(contextOf('fortress-pi'))]) {
    assert.equal(steps.length, 1)
    assert.ok(!isChange(steps[0]!))
    assert.match(steps[0]!.why ?? '', /where the metal is the node, this is lost/)
  }
})

test('what a node greets with goes beside its template, and is where the page looks', () => {
  const context = contextOf()
  const [{ node } = { node: undefined }] = domainsOf(context)
  const hostKey = makeSshKey('test')
  const made = ignition(context, node!, {
    nodeKey: sshPublicKey(hostKey),
    hostKey,
    fragments: [greeting],
  })
  const file = made.storage?.files?.find(({ path }) => path.endsWith('greeting.conf'))
  assert.equal(decodeURIComponent(file?.contents?.source ?? ''), 'data:,Banner /etc/.ignition-result.json\n')
})

test('Talos is waited for by its own program, and asked for no SSH', () => {
  const text = page
    .steps(contextOf('fortress', { FK_NODE_OS: 'talos' }))
    .map((step) => ('until' in step ? step.until.text : ''))
    .join('')
  assert.equal(text, 'vm_talks fortress-node')
})

test('the page that deletes asks for the name, and for the mark before that', () => {
  const [mine, typed] = destroy('fortress-node').steps(contextOf())
  assert.match(mine!.name, /no virtual machine of another owner is called fortress-node/)
  assert.equal(typed && 'typed' in typed && typed.typed, 'fortress-node')
  assert.throws(() => destroy('other').steps(contextOf()), /fortress runs no virtual machine other/)
})

// What follows asks the shell that a host is asked with.
const missing = spawnSync('xsltproc', ['--version']).error ? 'xsltproc is not installed' : false
const dir = mkdtempSync(join(tmpdir(), 'domain-'))
after(() => rmSync(dir, { recursive: true }))

/** Bash with the functions of the page, and a virsh that says what it is told. */
function shell(command: string, virsh = 'return 1'): { code: number | null; said: string } {
  const text = `export FK_TMP=${dir}\n${domainShell}\n${page.prepare?.text}\n${hostPage.prepare?.text}\nvirsh() { ${virsh}; }\nset -euo pipefail\n${command}`
  const { status, stdout, stderr } = spawnSync('bash', ['--norc', '-c', text], { encoding: 'utf8' })
  return { code: status, said: `${stdout}${stderr}`.trim() }
}

describe('what libvirt says is compared by what it means', { skip: missing }, () => {
  const live = readFileSync(join(import.meta.dirname, '../fixtures/domain/live.xml'), 'utf8')
  const declared = readFileSync(join(import.meta.dirname, '../fixtures/domain/declared.xml'), 'utf8')
  const compare = (a: string, b: string) => {
    writeFileSync(join(dir, 'a.xml'), a)
    writeFileSync(join(dir, 'b.xml'), b)
    return shell(`vm_differs ${dir}/a.xml ${dir}/b.xml`)
  }

  test('a machine as libvirt really shows it is what was declared', () => {
    assert.deepEqual(compare(declared, live), { code: 0, said: '' })
  })

  const changes: Record<string, [from: RegExp, to: string, said: string]> = {
    'more memory': [
      /<memory unit='KiB'>\d+/,
      "<memory unit='KiB'>1048576",
      'is        domain/memory=1048576',
    ],
    'a processor more': [
      /<vcpu placement='static'>2/,
      "<vcpu placement='static'>4",
      'should be domain/vcpu=2',
    ],
    'a USB controller': [
      /index='0' model='none'>/,
      "index='0' model='qemu-xhci'>",
      'is        domain/devices/controller[usb 0]/@model=qemu-xhci',
    ],
    'a sound card': [
      /<memballoon/,
      "<sound model='ich9'/><memballoon",
      'is        domain/devices/sound/@model=ich9',
    ],
    'a serial port': [
      /<memballoon/,
      "<serial type='pty'><target port='0'/></serial><memballoon",
      'is        domain/devices/serial/@type=pty',
    ],
    'a second disk': [
      /<interface/,
      "<disk type='file' device='disk'><source file='/etc/shadow'/><target dev='vdc' bus='virtio'/></disk><interface",
      'is        domain/devices/disk[vdc]/source/@file=/etc/shadow',
    ],
    'a disk that is another file': [
      /fortress-node\.qcow2/,
      'other.qcow2',
      'is        domain/devices/disk[vda]/source/@file=/var/lib/libvirt/fortress/other.qcow2',
    ],
    'another network': [
      /<source network='fortress'/,
      "<source network='default'",
      'is        domain/devices/interface[52:54:00:a0:62:12]/source/@network=default',
    ],
    'a machine that is not confined': [
      /<\/domain>/,
      "<seclabel type='none' model='apparmor'/></domain>",
      'is        domain/seclabel[apparmor none]/@type=none',
    ],
    'options for QEMU past libvirt': [
      /<\/domain>/,
      "<q:commandline xmlns:q='http://libvirt.org/schemas/domain/qemu/1.0'><q:arg value='-s'/></q:commandline></domain>",
      'is        domain/commandline/arg/@value=-s',
    ],
    'a processor with more in it': [
      /<feature policy='disable' name='svm'\/>/,
      '',
      'should be domain/cpu/feature[svm]/@policy=disable',
    ],
  }
  for (const [what, [from, to, said]] of Object.entries(changes))
    test(`${what} is drift`, () => {
      assert.match(live, from)
      const found = compare(declared, live.replace(from, to))
      assert.equal(found.code, 1)
      assert.ok(found.said.split('\n').includes(said), found.said)
    })

  test('once the storage layer has plugged the vault in, the machine is declared with it', () => {
    const attached = live.replace(
      '<interface',
      "<disk type='block'><source dev='/dev/mapper/vault'/><target dev='vdb'/></disk><interface",
    )
    writeFileSync(join(dir, 'n.live'), attached)
    writeFileSync(join(dir, 'n-with-vault.xml'), '')
    const asked = (virsh: string, name = 'n') => shell(`VM_DECLARED=${dir}; vm_declared ${name}`, virsh).said
    assert.equal(asked(`cat ${dir}/n.live`), `${dir}/n-with-vault.xml`)
    assert.equal(asked(`cat ${join(import.meta.dirname, '../fixtures/domain/live.xml')}`), `${dir}/n.xml`)
    assert.equal(asked('return 1'), `${dir}/n.xml`)
  })

  test('what cannot be read is not the same', () => {
    assert.equal(compare(declared, '').code, 1)
    assert.equal(compare('', '').code, 1)
  })

  for (const [what, xml] of Object.entries(variants()))
    test(`nothing that ${what} declares is taken for libvirt's own addition`, () => {
      writeFileSync(join(dir, 'v.xml'), xml)
      assert.deepEqual(shell(`diff <(vm_facts < ${dir}/v.xml) <(vm_facts < ${dir}/v.xml | vm_sift)`), {
        code: 0,
        said: '',
      })
    })
})

test('the limit of its memory is the nearest that the kernel knows above its process', () => {
  // As systemd and libvirt lay it out: the limit is the scope's, and the groups of threads below it have none.
  const kernel = (max: string) => `cat() { case $1 in
      /run/libvirt/*) echo 7 ;;
      */machine-qemu.scope/memory.max) echo ${max} ;;
      */machine.slice/memory.max) echo max ;;
      *) return 1 ;;
    esac; }
    sed() { echo /machine.slice/machine-qemu.scope/libvirt/emulator; }`
  assert.deepEqual(shell(`${kernel('1744830464')}\nvm_limited n 1703936`), {
    code: 0,
    said: 'memory.max of /machine.slice/machine-qemu.scope is 1744830464',
  })
  assert.equal(shell(`${kernel('1744830464')}\nvm_limited n 1703935`).code, 1)
  assert.deepEqual(shell(`${kernel('max')}\nvm_limited n 1703936`), {
    code: 1,
    said: 'the kernel limits it nowhere',
  })
})

describe('refuses', { skip: missing }, () => {
  const uuid = domainsOf(contextOf())[0]!.uuid
  const theirs = `case "$1 $2" in 'domuuid fortress-node') echo 11111111-1111-4111-8111-111111111111 ;; 'domstate fortress-node') echo running ;; *) return 1 ;; esac`
  const ours = `case "$1 $2" in 'domuuid fortress-node') echo ${uuid} ;; "domname ${uuid}") echo fortress-node ;; 'metadata fortress-node') echo '<owner site="fortress" node="fortress-node"/>' ;; 'domstate fortress-node') echo running ;; *) return 1 ;; esac`
  const renamed = `case "$1 $2" in "domname ${uuid}") echo old-name ;; *) return 1 ;; esac`
  const rows: [what: string, command: string, virsh: string, said: string][] = [
    [
      'a machine of that name that is not ours',
      `vm_free fortress-node ${uuid} fortress`,
      theirs,
      'there is a machine fortress-node that is not of the site fortress: running, UUID 11111111-1111-4111-8111-111111111111',
    ],
    [
      'a machine of ours in the name of another site',
      `vm_free fortress-node ${uuid} other`,
      ours,
      `there is a machine fortress-node that is not of the site other: running, UUID ${uuid}`,
    ],
    [
      'our UUID under another name',
      `vm_free fortress-node ${uuid} fortress`,
      renamed,
      `the machine old-name has the UUID ${uuid}`,
    ],
    [
      'more memory than the host has',
      `awk() { command awk "$@" < /dev/null; }; awk() { command awk "\${@:1:$#-1}" <<< 'MemTotal: 4194304 kB'; }; vm_memory 8192`,
      'return 1',
      'the host has 4096 MiB, and needs 2048 beside the 8192 for guests',
    ],
    [
      'more processors than the host has',
      `nproc() { echo 2; }; vm_cores 4`,
      'return 1',
      'the host has 2 processors, and FK_VM_VCPUS wants 4',
    ],
    [
      'a node of another architecture',
      `uname() { echo x86_64; }; vm_virtualises aarch64`,
      'return 1',
      'the node is aarch64 and the host is x86_64: KVM runs only its own kind',
    ],
    [
      'a processor that does not virtualise',
      `uname() { echo x86_64; }; grep() { return 1; }; vm_virtualises x86_64`,
      'return 1',
      'the processor offers neither VT-x (vmx) nor AMD-V (svm)',
    ],
    [
      'too little room for the disk',
      `VM_DIR=${dir}/none; df() { printf 'Avail\\n 7\\n'; }; vm_disk_room fortress-node 40`,
      'return 1',
      `7 GiB are free in ${dir}, and the disk may grow from 0 to 40`,
    ],
    [
      'too little room for what a disk may still grow',
      `VM_DIR=${dir}; touch ${dir}/n.qcow2; vm_disk_bytes() { echo 42949672960; }; stat() { echo '20971520 * 512'; }
        df() { printf 'Avail\\n 29\\n'; }; vm_disk_room n 40`,
      'return 1',
      `29 GiB are free in ${dir}, and the disk may grow from 10 to 40`,
    ],
    [
      'a disk that should become smaller',
      `VM_DIR=${dir}; touch ${dir}/n.qcow2; vm_disk_bytes() { echo 42949672960; }; vm_disk_room n 20`,
      'return 1',
      'the disk has 40 GiB, and a disk is never made smaller: vm.disk: 40',
    ],
    [
      'a bridge that another network of libvirt has',
      `vm_bridge_free virbr-fort 10.77.0.0/24`,
      `case "$1" in net-list) echo default ;; net-dumpxml) echo "<bridge name='virbr-fort' stp='on'/>" ;; esac`,
      'the bridge virbr-fort belongs to the network default of libvirt',
    ],
    [
      'an interface of that name that is not ours',
      `ip() { echo 'lo UNKNOWN 127.0.0.1/8'; }; vm_bridge_free lo 10.77.0.0/24`,
      'return 1',
      'there is an interface lo already, and it is not ours: lo UNKNOWN 127.0.0.1/8',
    ],
    [
      'addresses that the host has somewhere else',
      `ip() { case "$*" in *match*) echo 'default via 192.0.2.1 dev eth0'; echo '10.0.0.0/8 dev eth1 scope link' ;; esac; }; vm_bridge_free virbr-none 10.77.0.0/24`,
      'return 1',
      'the addresses 10.77.0.0/24 are somewhere else already: 10.0.0.0/8 dev eth1 scope link',
    ],
    [
      'a network called fortress that is not ours',
      'vm_net_free fortress',
      `case "$1" in net-info) ;; net-dumpxml) echo '<network><name>fortress</name></network>' ;; esac`,
      'there is a network called fortress that is not of the site fortress',
    ],
  ]
  for (const [what, command, virsh, said] of rows)
    test(what, () => assert.deepEqual(shell(command, virsh), { code: 1, said }))

  test('nothing of that: our own machine and a free bridge are fine', () => {
    assert.deepEqual(shell(`vm_free fortress-node ${uuid} fortress`, ours), { code: 0, said: '' })
    assert.deepEqual(shell(`vm_free fortress-node ${uuid} fortress`), { code: 0, said: '' })
    assert.deepEqual(shell('ip() { :; }; vm_bridge_free virbr-none 10.77.0.0/24'), { code: 0, said: '' })
  })
})
