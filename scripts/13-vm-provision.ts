// The node: an immutable system in a virtual machine of its own, confined, and proven before it is kept.
//
// Needs   vm-host, the base image of vm-image, and what vm-ignition says of the first boot.
// Leaves  a running machine that starts with the host. It is only kept when it has answered with the key that was made for it;
//         otherwise the host takes it back by itself, whatever has become of the laptop.
// Undo    stops the machine and forgets it. Its disk stays: ./task node destroy NAME deletes that too.
import { file } from '../lib/engine/file.ts'
import type { Control, Step } from '../lib/engine/step.ts'
import { sh } from '../lib/ground/sh.ts'
import { type Context, script } from '../lib/script.ts'
import {
  type Domain,
  declaredDir,
  domainShell,
  domainsOf,
  domainXml,
  ignitionPath,
  memoryLimit,
  toldPath,
  unclaimed,
} from '../lib/vm/domain.ts'
import { knownHosts } from '../lib/vm/hostkey.ts'
import { imageOf } from '../lib/vm/image.ts'
import { clientFile, talosctlOf } from '../lib/vm/talos.ts'

export default script(import.meta, { layer: 'L1', on: 'host', library: domainShell }, (context) => {
  const domains = domainsOf(context)
  if (domains.length === 0)
    return [
      {
        name: 'the site has no virtual machine, and none is made',
        why: 'where the metal is the node, this is lost: a system that cannot be written, and a second wall around it',
        check: sh`! pgrep --list-name qemu-system`,
        help: 'a machine runs here that the site does not know: end it, or describe it under nodes: of the site document',
      },
    ]
  return domains.flatMap((domain) => provision(domain, context))
})

/** One machine, from the demands that stand before it to the proof that it is confined. */
function provision(domain: Domain, context: Context): Step[] {
  const { node, uuid, system } = domain
  const { name, address } = node
  const { env, site, secrets } = context
  const base = imageOf(context)
  const declared = `${declaredDir}/${name}.xml`
  const test = sh`virt-xml-validate "$new" domain`
  // An emulated node is a slow one: its first boot takes minutes.
  const patience = domain.accel === 'kvm' ? 600 : 1800

  return [
    {
      name: 'libvirt answers, and the network of the nodes is up',
      check: sh`virsh version --daemon > /dev/null && virsh net-info fortress | grep --extended-regexp '^Active: +yes' > /dev/null`,
      help: './task vm-host apply',
    },
    unclaimed(domain),
    {
      name: `there is memory for ${domain.ramMib} MiB, and room for a disk of ${env.FK_VM_DISK_GB} GiB`,
      check: sh`vm_cores ${domain.vcpus} && vm_memory ${domain.ramMib} && vm_disk_room ${name} ${env.FK_VM_DISK_GB}`,
      help: 'ask for less: FK_VM_RAM_MB, FK_VM_VCPUS, FK_VM_DISK_GB; or make room on the disk of /var/lib',
    },
    {
      name: `the base image is here: ${base.label}`,
      check: sh`test -f ${base.path}`,
      help: './task vm-image apply',
    },
    ...(system === 'flatcar'
      ? [
          {
            name: `what ${name} becomes on its first boot is written down`,
            check: sh`test -s ${ignitionPath(node)}`,
            help: './task vm-ignition apply',
          },
          file(`${declaredDir}/${name}.known_hosts`, {
            secret: knownHosts(node, secrets),
            name: `the host knows the key that ${name} will answer with`,
            why: 'it was made on the laptop before there was a node: nobody can stand in between, not even the first time',
          }),
        ]
      : [
          {
            name: `what ${name} is told on its first boot is written down`,
            check: sh`test -s ${toldPath(node)} && test -x ${talosctlOf(context.pins, context.machine).path}`,
            help: './task vm-ignition apply',
          },
          clientFile(context, node),
        ]),

    file(declared, {
      text: domainXml(domain),
      mode: '600',
      test,
      name: `the machine of ${name} is written down`,
      why: 'virtio and nothing else: each device is code that a guest can attack',
    }),
    ...(site.vault.disk === ''
      ? []
      : [
          file(`${declaredDir}/${name}-with-vault.xml`, {
            text: domainXml(domain, { vault: true }),
            mode: '600',
            test,
            name: `and once more, with the vault plugged in, for the storage of the cluster`,
          }),
        ]),

    {
      name: `${name} has a disk of ${env.FK_VM_DISK_GB} GiB, made of the base image`,
      why: 'a copy, so that the machine can reach no file that another one stands on',
      check: sh`vm_disk_is ${name} ${env.FK_VM_DISK_GB}`,
      apply: [sh`vm_disk_make ${name} ${env.FK_VM_DISK_GB} ${base.path} ${base.format}`],
      seconds: 1800,
    },
    {
      name: `${name} runs as it is written down`,
      why: 'first on trial: unless it answers in time, the host takes it back, and what ran before runs again on its old disk',
      check: sh`vm_runs ${name}`,
      apply: [sh`vm_try ${name} ${patience + 300}`],
      recover: [sh`vm_back ${name}`],
      undo: [sh`vm_stop ${name}`],
    },
    {
      name:
        system === 'flatcar'
          ? `${name} answers with the key that was made for it, and its first boot is complete`
          : `${name} answers with the certificate that was made for it, and knows ours`,
      until: system === 'flatcar' ? sh`vm_answers ${name} ${address}` : sh`vm_talks ${name}`,
      seconds: patience,
    },
    {
      name: `${name} is kept, and starts with the host`,
      check: sh`vm_kept ${name}`,
      apply: [sh`vm_accept ${name}`],
      undo: [sh`virsh undefine ${name} --keep-nvram`],
    },
    {
      name: `${name} is confined: one profile of its own, no root, no capabilities, few system calls`,
      why: 'asked of the kernel, about the process that runs now',
      check: sh`vm_confined ${name} ${uuid}`,
      help: `find out why on the host (journalctl --grep apparmor), and start it again: virsh destroy ${name}; virsh start ${name}`,
      controls: controls(domain),
    },
  ]
}

/** What verify reports one by one; each asks libvirt or the kernel about the machine that runs. */
function controls(domain: Domain): Control[] {
  const { name } = domain.node
  const xml = sh`virsh dumpxml ${name}`
  const from = ['NIST SP 800-125A']
  return [
    {
      id: 'O01',
      title: 'QEMU is not root',
      check: sh`vm_status ${name} Uid | tee "$FK_TMP"/uid && test "$(cut --delimiter=' ' --fields=1-4 --output-delimiter=' ' "$FK_TMP"/uid | tr '\t' ' ')" = "$(id --user libvirt-qemu | awk '{ print $1, $1, $1, $1 }')"`,
      from,
    },
    {
      id: 'O02',
      title: 'QEMU may make few system calls',
      check: sh`test "$(vm_status ${name} Seccomp)" = 2`,
      from,
    },
    {
      id: 'O04',
      title: 'QEMU has no capabilities',
      check: sh`vm_status ${name} CapEff && vm_status ${name} CapPrm && test "$(vm_status ${name} CapEff)$(vm_status ${name} CapPrm)" = 00000000000000000000000000000000`,
      from,
    },
    {
      id: 'O06',
      title: 'No USB, no sound, no serial port, no screen, no balloon, no CD: virtio and what the board has',
      check: sh`${xml} > "$FK_TMP"/o06 && grep "<controller type='usb' index='0' model='none'" "$FK_TMP"/o06 && grep "<memballoon model='none'" "$FK_TMP"/o06 &&
        ! grep --extended-regexp "<(serial type|sound|parallel|video|graphics|redirdev|hostdev|smartcard|channel|tpm|panic)[ >=]|device='(cdrom|floppy)'|bus='(usb|sata|scsi|ide|fdc)'" "$FK_TMP"/o06`,
      from,
    },
    {
      id: 'O08',
      title: 'The format of every disk is said, never guessed',
      check: sh`${xml} | awk '/<disk /{ disks++ } /<driver name=.qemu. type=.(raw|qcow2)./ { said++ } END { print disks, "disks"; exit !(disks > 0 && said == disks) }'`,
      from,
    },
    {
      id: 'O12',
      title: 'Nothing inside takes orders from the host',
      check: sh`${xml} > "$FK_TMP"/o12 && ! grep guest_agent "$FK_TMP"/o12`,
      from,
    },
    {
      id: 'O13',
      title: 'Its memory has a hard limit',
      check:
        domain.accel === 'tcg'
          ? sh`echo 'it is emulated: what QEMU needs for that is not known beforehand' && ${xml} > "$FK_TMP"/o13 && ! grep hard_limit "$FK_TMP"/o13 && exit 100`
          : sh`vm_limited ${name} ${memoryLimit(domain)}`,
      from,
    },
    {
      id: 'O15',
      title: 'The QEMU that runs is the one that is installed',
      check: sh`readlink "/proc/$(cat ${`/run/libvirt/qemu/${name}.pid`})/exe" | tee "$FK_TMP"/exe && ! grep deleted "$FK_TMP"/exe`,
      from,
    },
  ]
}
