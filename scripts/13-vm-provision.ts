#!/usr/bin/env -S npx --no-install tsx
// An immutable system in a virtual machine of its own, confined by AppArmor, and kept only when it has answered.
//
// Needs   vm-host, the base image of vm-image, and the first-boot configuration of vm-ignition.
// Leaves  a running virtual machine that starts with the host. It is only kept when it has answered with the key that was made
//         for it; otherwise the host rolls it back by itself, whatever has become of the laptop.
// Undo    stops the virtual machine and undefines it. Its disk stays: ./task node destroy NAME deletes that too.
import { file } from '../lib/engine/file.ts'
import type { Change, Control, Demand, Step } from '../lib/engine/step.ts'
import { type Command, sh } from '../lib/ground/sh.ts'
import { type Context, script } from '../lib/script.ts'
import { machineOf } from '../lib/site/machines.ts'
import {
  type Domain,
  cidataPath,
  declaredDir,
  domainShell,
  domainsOf,
  domainXml,
  ignitionPath,
  knownHosts,
  memoryLimit,
  unclaimed,
} from '../lib/vm/domain.ts'
import { imageOf, talosctlOf } from '../lib/vm/image.ts'
import { clientFile } from '../lib/vm/talos.ts'

export default script(
  import.meta,
  {
    layer: 'L1',
    on: 'host',
    needs: ['10-vm-host', '11-vm-image', '12-vm-ignition'],
    library: domainShell,
    prepare: shell(),
  },
  (context) => {
    const domains = domainsOf(context)
    if (domains.length === 0) return [noMachine]
    return domains.flatMap((domain) => [
      ...prerequisites(domain, context),
      ...firstBoot(domain, context),
      ...definition(domain, context),
      systemDisk(domain, context),
      ...start(domain),
      confined(domain),
    ])
  },
)

const noMachine: Demand = {
  name: 'the site has no virtual machine, and no QEMU runs',
  why: 'where the metal is the node, this is lost: a system that cannot be written, and a second wall around it',
  check: sh`! pgrep --list-name qemu-system`,
  help: 'a virtual machine runs here that the site does not know: end it, or list it under machines: of the site document',
}

function prerequisites(domain: Domain, context: Context): Step[] {
  const { name } = domain.node
  const { diskGib: gib } = domain
  const base = imageOf(context, domain.node)
  return [
    {
      name: 'libvirt answers, and its network for virtual machines is up',
      check: sh`virsh version --daemon > /dev/null &&
        virsh net-info fortress | grep --extended-regexp '^Active: +yes' > /dev/null`,
      help: './task vm-host apply',
    },
    unclaimed(domain),
    {
      name: `the host has memory for ${domain.ramMib} MiB, and room for a disk of ${gib} GiB`,
      check: sh`vm_cores ${domain.vcpus} && vm_memory ${domain.ramMib} && vm_disk_room ${name} ${gib}`,
      help: 'ask for less: vm.memory, vm.cpus and vm.disk in the site document; or make room on the disk of /var/lib',
    },
    {
      name: `the base image is on the host: ${base.label}`,
      check: sh`test -f ${base.path}`,
      help: './task vm-image apply',
    },
  ]
}

/** What the virtual machine reads at its first boot, and by what the host knows it then. */
function firstBoot({ node, system }: Domain, context: Context): Step[] {
  if (system === 'talos')
    return [
      {
        name: `the Talos machine configuration of ${node.name} is written, and talosctl is installed`,
        check: sh`test -s ${cidataPath(node)} && test -x ${talosctlOf(context.pins, context.machine).path}`,
        help: './task vm-ignition apply',
      },
      clientFile(context, node),
    ]
  return [
    {
      name: `the Ignition of ${node.name} is written`,
      check: sh`test -s ${ignitionPath(node)}`,
      help: './task vm-ignition apply',
    },
    file(`${declaredDir}/${node.name}.known_hosts`, {
      ...knownHosts(node, context),
      name: `the SSH host key of ${node.name} is pinned in known_hosts of the host`,
      why: 'it was made on the laptop before there was a node: nobody can stand in between, not even the first time',
    }),
  ]
}

/** The domain XML; a second one where the storage of the cluster will plug the vault in. */
function definition(domain: Domain, { site, machine }: Context): Step[] {
  const { name } = domain.node
  const test = sh`virt-xml-validate "$new" domain`
  const xml = file(`${declaredDir}/${name}.xml`, {
    text: domainXml(domain),
    mode: '600',
    test,
    name: `domain XML of ${name} is written`,
    why: 'virtio and nothing else: each device is code that a guest can attack',
  })
  if (!machineOf(site, machine.name).vault?.disk) return [xml]
  return [
    xml,
    file(`${declaredDir}/${name}-with-vault.xml`, {
      text: domainXml(domain, { vault: true }),
      mode: '600',
      test,
      name: `domain XML of ${name} with the vault disk is written`,
    }),
  ]
}

function systemDisk({ node, diskGib: gib }: Domain, context: Context): Change {
  const { name } = node
  const base = imageOf(context, node)
  return {
    name: `${name} has a disk of ${gib} GiB, copied from the base image`,
    why: 'a copy, so that the virtual machine can reach no file that another one stands on',
    check: sh`vm_disk_is ${name} ${gib}`,
    apply: [sh`vm_disk_make ${name} ${gib} ${base.path} ${base.format}`],
    seconds: 1800,
  }
}

/** Started on trial, kept when it has answered. */
function start({ node: { name, address }, system, accel }: Domain): Step[] {
  // An emulated node is a slow one: its first boot takes minutes.
  const bootTimeout = accel === 'kvm' ? 600 : 1800
  const notes = sh`"$VM_NOTES"/${name}`
  return [
    {
      name: `${name} runs as its domain XML says`,
      why: 'first on trial: unless it answers in time, the host rolls it back, and what ran before runs again on its old disk',
      check: sh`vm_on ${name} && virsh dumpxml ${name} > "$FK_TMP"/live.xml &&
        vm_differs "$(vm_declared ${name})" "$FK_TMP"/live.xml`,
      apply: [sh`vm_try ${name} ${bootTimeout + 300}`],
      recover: [sh`vm_back ${name}`],
      undo: [sh`vm_stop ${name}`],
    },
    {
      name:
        system === 'flatcar'
          ? `${name} answers with its pinned SSH host key, and Ignition is complete`
          : `${name} answers with its pinned certificate, and accepts ours`,
      until: system === 'flatcar' ? sh`vm_answers ${name} ${address}` : sh`vm_talks ${name}`,
      seconds: bootTimeout,
    },
    {
      name: `${name} is defined in libvirt, and starts with the host`,
      // What its disk was before the trial would make the file grow to twice its size.
      check: sh`vm_kept ${name} && vm_forgotten ${name}`,
      apply: [
        sh`exec 9>> ${notes}.lock
        flock --timeout 60 9 || { vm_no 'its trial is being rolled back'; exit 1; }
        vm_on ${name} || { vm_no 'its trial was rolled back: it did not answer in time'; exit 1; }
        virsh define --validate "$(vm_declared ${name})"
        virsh autostart ${name}
        rm --force ${notes}.trial ${notes}.rebuilding
        vm_forget ${name}
        systemctl stop ${`fortress-trial-${name}.timer`} 2> /dev/null || true # it was started by hand, or after a boot`,
      ],
      undo: [sh`virsh undefine ${name} --keep-nvram`],
    },
  ]
}

function confined(domain: Domain): Demand {
  const { name } = domain.node
  return {
    name: `${name} is confined by its own AppArmor profile, without root and capabilities`,
    why: 'asked of the kernel, about the process that runs now',
    check: sh`profile=$(tr --delete '\0' < "/proc/$(cat ${`/run/libvirt/qemu/${name}.pid`})/attr/apparmor/current") &&
      echo "$profile" && test "$profile" = ${`libvirt-${domain.uuid} (enforce)`}`,
    help: `find out why on the host (journalctl --grep apparmor), and start it again: virsh destroy ${name}; virsh start ${name}`,
    controls: [...processControls(domain), ...deviceControls(domain)],
  }
}

const from = ['NIST SP 800-125A']

/** About the QEMU process, from the kernel. */
function processControls(domain: Domain): Control[] {
  const { name } = domain.node
  const pid = sh`"$(cat ${`/run/libvirt/qemu/${name}.pid`})"`
  const status = (field: string) =>
    sh`awk -v field=${`${field}:`} '$1 == field { $1 = ""; print substr($0, 2) }' /proc/${pid}/status`
  return [
    {
      id: 'O01',
      title: 'QEMU is not root',
      check: sh`id=$(id --user libvirt-qemu) && is=$(${status('Uid')}) && echo "$is" && test "$is" = "$id $id $id $id"`,
      from,
    },
    {
      id: 'O02',
      title: 'QEMU is confined by seccomp',
      check: sh`test "$(${status('Seccomp')})" = 2`,
      from,
    },
    {
      id: 'O04',
      title: 'QEMU has no capabilities',
      check: sh`${status('CapEff')} && ${status('CapPrm')} &&
        test "$(${status('CapEff')})$(${status('CapPrm')})" = 00000000000000000000000000000000`,
      from,
    },
    {
      id: 'O13',
      title: 'The memory of the virtual machine has a hard limit',
      check:
        domain.accel === 'tcg'
          ? sh`echo 'it is emulated: what QEMU needs for that is not known beforehand' &&
            virsh dumpxml ${name} > "$FK_TMP"/o13 && ! grep hard_limit "$FK_TMP"/o13 && exit 100`
          : sh`vm_limited ${name} ${memoryLimit(domain)}`,
      from,
    },
    {
      id: 'O15',
      title: 'The QEMU that runs is the one that is installed',
      check: sh`readlink /proc/${pid}/exe | tee "$FK_TMP"/exe && ! grep deleted "$FK_TMP"/exe`,
      from,
    },
  ]
}

/** About its devices, from libvirt. */
function deviceControls({ node: { name } }: Domain): Control[] {
  const xml = sh`virsh dumpxml ${name}`
  const devices = 'serial type|sound|parallel|video|graphics|redirdev|hostdev|smartcard|channel|tpm|panic'
  const refused = `<(${devices})[ >=]|device='(cdrom|floppy)'|bus='(usb|sata|scsi|ide|fdc)'`
  return [
    {
      id: 'O06',
      title: 'The virtual machine has no USB, sound, serial port, screen, balloon or CD, only virtio',
      check: sh`${xml} > "$FK_TMP"/o06 &&
        grep "<controller type='usb' index='0' model='none'" "$FK_TMP"/o06 &&
        grep "<memballoon model='none'" "$FK_TMP"/o06 &&
        ! grep --extended-regexp ${refused} "$FK_TMP"/o06`,
      from,
    },
    {
      id: 'O08',
      title: 'The format of every disk is declared, never probed',
      check: sh`${xml} | awk '
        /<disk /{ disks++ }
        /<driver name=.qemu. type=.(raw|qcow2)./ { said++ }
        END { print disks, "disks"; exit !(disks > 0 && said == disks) }'`,
      from,
    },
    {
      id: 'O12',
      title: 'No QEMU guest agent takes commands from the host',
      check: sh`${xml} > "$FK_TMP"/o12 && ! grep guest_agent "$FK_TMP"/o12`,
      from,
    },
  ]
}

function shell(): Command {
  return sh`${declared()}
${disk()}
${trial()}`
}

/** Shell of this page alone: what was declared, what runs, and whether it answers. */
function declared(): Command {
  return sh`
    # vm_declared NAME: the domain XML that holds. Once the storage layer has plugged the vault in, that with the vault.
    vm_declared() {
      local when facts
      for when in '' --inactive; do
        # shellcheck disable=SC2086 # nothing, or one word
        facts=$(virsh dumpxml "$1" $when 2> /dev/null | vm_facts 2> /dev/null) || continue # there is no such machine yet
        if [ -e "$VM_DECLARED/$1-with-vault.xml" ] &&
          printf '%s\n' "$facts" | grep '^domain/devices/disk\[vdb\]/source/@dev=' > /dev/null; then
          printf '%s\n' "$VM_DECLARED/$1-with-vault.xml"
          return
        fi
      done
      printf '%s\n' "$VM_DECLARED/$1.xml"
    }

    # vm_on NAME: it runs.
    vm_on() {
      local state
      state=$(virsh domstate "$1" 2>&1 | head --lines=1) || true # the sentence says it
      [ "$state" = running ] || vm_no "it does not run: $state"
    }

    vm_defined() { virsh list --all --persistent --name | grep --line-regexp --fixed-strings -e "$1" > /dev/null; }

    # vm_kept NAME: what libvirt would start after a boot of the host is what was declared, and it would start it.
    vm_kept() {
      vm_defined "$1" || vm_no "it is not defined: after a boot of the host it would be gone" || return
      virsh dumpxml "$1" --inactive > "$FK_TMP/$1.kept.xml" &&
        vm_differs "$(vm_declared "$1")" "$FK_TMP/$1.kept.xml" || return
      virsh dominfo "$1" | grep --extended-regexp '^Autostart: +enable$' > /dev/null ||
        vm_no 'it does not start with the host' || return
      [ ! -e "$VM_NOTES/$1.trial" ] || vm_no 'it is on trial'
    }

    # vm_answers NAME ADDRESS: whoever has this address holds the host key that was made for the node, and its first boot is
    # complete: Ignition's report is what sshd says before it asks who is there. Nobody logs in.
    vm_answers() {
      local said
      vm_on "$1" || return # nobody is waited for who cannot answer
      said=$(timeout 30 ssh -F none -T -l core -o BatchMode=yes -o StrictHostKeyChecking=yes \
        -o UserKnownHostsFile="$VM_DECLARED/$1.known_hosts" -o GlobalKnownHostsFile=/dev/null \
        -o HostKeyAlgorithms=ssh-ed25519 -o IdentityAgent=none -o PubkeyAuthentication=no \
        -o PreferredAuthentications=none -o ConnectTimeout=5 "$2" true < /dev/null 2>&1) || true # it never lets us in
      [[ $said == *'Permission denied'* ]] ||
        vm_no "$(printf '%s\n' "\${said:-$2 is silent}" | tail --lines=1)" || return
      printf '%s\n' "$said" | grep --extended-regexp '"userConfigProvided": *true' > /dev/null ||
        vm_no 'it answers with its key, and shows no complete report of Ignition'
    }

    # vm_talks NAME: Talos answers, with a certificate of the authority that was made for it, to the one that it knows.
    vm_talks() {
      local said
      vm_on "$1" || return
      said=$(timeout 30 talosctl --talosconfig "$VM_DECLARED/$1.talosconfig" version 2>&1) ||
        vm_no "$(printf '%s\n' "$said" | tail --lines=1)"
    }

    export -f vm_declared vm_on vm_defined vm_kept vm_answers vm_talks
  `
}

/** Shell of this page alone: the system disk, and the memory limit. */
function disk(): Command {
  return sh`
    vm_disk_bytes() {
      qemu-img info --force-share --output=json "$(vm_disk "$1")" | awk -F '[:, ]+' '/^    "virtual-size"/ { print $3 }'
    }

    # vm_disk_room NAME GIB: it is not asked to shrink its disk, and there is room for all that the file may still grow.
    vm_disk_room() {
      local dir=$VM_DIR free have=0
      if [ -e "$(vm_disk "$1")" ]; then
        have=$(($(vm_disk_bytes "$1") / 1073741824))
        [ "$have" -le "$2" ] || vm_no "the disk has $have GiB, and a disk is never made smaller: vm.disk: $have" || return
        have=$(($(stat --format='%b * %B' "$(vm_disk "$1")") / 1073741824))
      fi
      while [ ! -d "$dir" ]; do dir=$(dirname "$dir"); done
      free=$(($(df --output=avail --block-size=1073741824 "$dir" | tail --lines=1)))
      # A file that has the snapshot of a trial may be larger than its disk.
      [ "$free" -ge $(($2 - have)) ] || vm_no "$free GiB are free in $dir, and the disk may grow from $have to $2"
    }

    # vm_disk_is NAME GIB: a qcow2 file of this size that stands on no other.
    vm_disk_is() {
      local disk
      disk=$(vm_disk "$1")
      [ -f "$disk" ] || vm_no "$disk is not there" || return
      qemu-img info --force-share --output=json "$disk" > "$FK_TMP/disk.json" || return
      grep '^    "format": "qcow2"' "$FK_TMP/disk.json" > /dev/null && ! grep backing-filename "$FK_TMP/disk.json" ||
        vm_no "$disk is not a qcow2 file that stands alone" || return
      [ "$(vm_disk_bytes "$1")" = $(($2 * 1073741824)) ] ||
        vm_no "$disk has $(($(vm_disk_bytes "$1") / 1073741824)) GiB, and should have $2"
    }

    # vm_disk_make NAME GIB BASE FORMAT: a copy of the base image, as large as asked for; or what is there, made larger. The
    # format is always given: qemu-img would guess it from the content, which a guest may have written.
    vm_disk_make() {
      local disk
      disk=$(vm_disk "$1")
      if [ ! -e "$disk" ]; then
        rm --force "$disk.part"
        qemu-img convert -f "$4" -O qcow2 "$3" "$disk.part"
        qemu-img resize --quiet -f qcow2 "$disk.part" "$2G"
        chmod 600 "$disk.part"
        sync "$disk.part"
        mv --no-target-directory "$disk.part" "$disk"
      elif [ "$(virsh domstate "$1" 2> /dev/null)" = running ]; then
        virsh blockresize "$1" vda "$2G"
      else
        qemu-img resize --quiet -f qcow2 "$disk" "$2G"
      fi
    }

    # vm_limited NAME KIB: the kernel gives it and its QEMU no more memory than this.
    vm_limited() {
      local group limit
      group=$(sed --quiet 's/^0:://p' "/proc/$(cat "/run/libvirt/qemu/$1.pid")/cgroup")
      while [ -n "$group" ]; do
        limit=$(cat "/sys/fs/cgroup$group/memory.max" 2> /dev/null) || limit=max # the groups of threads have none of their own
        if [ "$limit" != max ]; then
          printf 'memory.max of %s is %s\n' "$group" "$limit"
          [ "$limit" -le $(($2 * 1024)) ]
          return
        fi
        group=\${group%/*}
      done
      vm_no 'the kernel limits it nowhere'
    }

    export -f vm_disk_bytes vm_disk_room vm_disk_is vm_disk_make vm_limited
  `
}

/** Shell of this page alone: a start on trial, and its rollback by a timer of the host. */
function trial(): Command {
  return sh`
    # vm_try NAME SECONDS: starts it as declared, after the two minutes that what runs now may take to end. Unless it is kept
    # within SECONDS, the host rolls it back, whatever has become of the laptop: what was defined before starts again, on the disk
    # as it was before.
    vm_try() {
      local declared
      declared=$(vm_declared "$1")
      if vm_kept "$1" > /dev/null && [ ! -e "$VM_NOTES/$1.rebuilding" ] &&
        [ "$(virsh domstate "$1" | head --lines=1)" = 'shut off' ]; then
        virsh start "$1"
        return
      fi
      install --directory --mode=700 "$VM_NOTES"
      {
        printf '#!/bin/bash\nset -u\n'
        declare -p VM_DIR VM_NOTES LIBVIRT_DEFAULT_URI
        declare -f vm_disk vm_defined vm_back
        printf 'vm_back %q\n' "$1"
      } > "$VM_NOTES/$1.back"
      systemctl stop "fortress-trial-$1.timer" 2> /dev/null || true # of an earlier try
      systemd-run --quiet --collect --on-active="$2" --timer-property=AccuracySec=1s \
        --unit="fortress-trial-$1" /bin/bash "$VM_NOTES/$1.back"
      date --iso-8601=seconds > "$VM_NOTES/$1.trial"
      vm_stop "$1"
      if [ ! -e "$VM_NOTES/$1.rebuilding" ] && vm_defined "$1"; then
        qemu-img snapshot -d before-trial "$(vm_disk "$1")" 2> /dev/null || true # there is none of an earlier try
        qemu-img snapshot -c before-trial "$(vm_disk "$1")"
      fi
      virsh create --validate "$declared"
    }

    # vm_forgotten NAME: its disk holds nothing of before a trial.
    vm_forgotten() {
      ! qemu-img snapshot --force-share -l "$(vm_disk "$1")" | grep --word-regexp before-trial > /dev/null ||
        vm_no 'its disk still holds what it was before the trial'
    }

    # vm_forget NAME: the trial was accepted. QEMU has the disk open, so QEMU takes the snapshot out of it.
    vm_forget() {
      local index
      ! vm_forgotten "$1" > /dev/null || return 0
      index=$(virsh dumpxml "$1" | awk -F "'" -v disk="$(vm_disk "$1")" '
        /<source file=/ { for (i = 1; i < NF; i++) if ($i ~ / index=$/) n = $(i + 1); if ($2 == disk) print n }')
      virsh qemu-monitor-command "$1" "$(printf \
        '{"execute":"blockdev-snapshot-delete-internal-sync","arguments":{"device":"libvirt-%s-format","name":"before-trial"}}' \
        "$index")" > /dev/null
      vm_forgotten "$1"
    }

    # vm_back NAME: the trial is over, and was not accepted.
    vm_back() {
      local disk
      disk=$(vm_disk "$1")
      exec 9>> "$VM_NOTES/$1.lock"
      flock 9
      [ -e "$VM_NOTES/$1.trial" ] || return 0
      virsh destroy "$1" > /dev/null 2>&1 || true # it has ended by itself
      if [ -e "$disk.previous" ] && [ -e "$VM_NOTES/$1.rebuilding" ]; then
        mv --force "$disk.previous" "$disk"
        rm --force "$VM_NOTES/$1.rebuilding"
      elif qemu-img snapshot --force-share -l "$disk" | grep --word-regexp before-trial > /dev/null; then
        qemu-img snapshot -a before-trial "$disk"
        qemu-img snapshot -d before-trial "$disk"
      fi
      rm --force "$VM_NOTES/$1.trial"
      if vm_defined "$1"; then virsh start "$1"; fi
    }

    export -f vm_try vm_forgotten vm_forget vm_back
  `
}
