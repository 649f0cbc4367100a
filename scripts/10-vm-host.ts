#!/usr/bin/env -S npx --no-install tsx
// KVM and libvirt on the host, so that virtual machines run confined by AppArmor, on a bridge of their own.
//
// Needs   a processor that virtualises, switched on in the firmware; AppArmor in the kernel; room for the virtual machines.
// Leaves  KVM and libvirt of the distribution, where nothing runs unconfined, and the network of the virtual machines: a bridge
//         that no cable is plugged into. What passes it is decided by host-firewall.
// Undo    removes what it installed, when no virtual machine needs it any more.
import { file } from '../lib/engine/file.ts'
import { packages } from '../lib/engine/packages.ts'
import type { Change, Demand, Step } from '../lib/engine/step.ts'
import { type Command, sh } from '../lib/ground/sh.ts'
import { script } from '../lib/script.ts'
import {
  type Domain,
  declaredDir,
  domainShell,
  domainsOf,
  kindOf,
  guestNetwork,
  vmDir,
} from '../lib/vm/domain.ts'

export default script(
  import.meta,
  { layer: 'L1', on: 'host', library: domainShell, prepare: networkShell() },
  (context) => {
    const domains = domainsOf(context)
    const [domain, ...others] = domains
    if (domain === undefined) return [noMachine]
    const guests = guestNetwork(context.site, context.machine.name)
    return [
      ...prerequisites([domain, ...others], guests),
      packages(packagesFor(domain), { name: 'KVM, QEMU and libvirt are installed', seconds: 1800 }),
      ...(domain.node.arch === 'amd64' ? [nesting(domain)] : []),
      ...libvirt(),
      ...network(guests),
    ]
  },
)

const noMachine: Demand = {
  name: 'the site has no virtual machine, and no QEMU runs',
  why: 'where the metal is the node, this is lost: a second wall between a pod that breaks out and the machine with its disks',
  check: sh`! pgrep --list-name qemu-system`,
  help: 'a virtual machine runs here that the site does not know: end it, or list it under machines: of the site document',
}

type Network = ReturnType<typeof guestNetwork>

function prerequisites(domains: [Domain, ...Domain[]], { bridge, network }: Network): Demand[] {
  const [domain] = domains
  const { accel, site } = domain
  const vcpus = Math.max(...domains.map((one) => one.vcpus))
  const mib = domains.reduce((sum, { ramMib }) => sum + ramMib, 0)
  const virtualises: Demand = {
    name: 'the processor supports virtualization (VT-x or AMD-V), and the firmware allows it',
    why: 'the wall between a guest and its host is in the processor',
    check: sh`vm_virtualises ${kindOf(domain)}`,
    help: `switch on Intel VT-x or AMD-V (SVM mode) in the firmware's setup, and power the machine off and on once.
In a virtual machine: let its own host pass virtualisation on.
To see it work without, twenty times slower: FK_VM_ACCEL=tcg`,
  }
  return [
    ...(accel === 'tcg' ? [] : [virtualises]),
    {
      name: 'the kernel enforces AppArmor',
      why: "a guest that breaks out of QEMU finds itself in a profile that knows this machine's own files and no others",
      check: sh`test "$(cat /sys/module/apparmor/parameters/enabled)" = Y &&
        grep --word-regexp apparmor /sys/kernel/security/lsm`,
      help: 'start the kernel with apparmor=1 security=apparmor; host-harden does that on a machine of its own',
    },
    {
      name: `the host has ${vcpus} processors, and memory for ${mib} MiB of virtual machines`,
      check: sh`vm_cores ${vcpus} && vm_memory ${mib}`,
      help: 'ask for less: vm.memory and vm.cpus in the site document, or FK_VM_RAM_MB and FK_VM_VCPUS',
    },
    {
      name: `nothing else uses the bridge ${bridge} or the addresses ${network}`,
      check: sh`vm_bridge_free ${bridge} ${network} && vm_net_free ${site}`,
      help: [
        'choose another network or bridge under networks: in the site document, or remove what is there:',
        'virsh net-undefine fortress',
      ].join(' '),
    },
  ]
}

const packagesFor = ({ node }: Domain): string[] => [
  'libvirt-daemon-system',
  'libvirt-clients',
  'dnsmasq-base',
  'qemu-utils',
  ...(node.arch === 'amd64' ? ['qemu-system-x86', 'ovmf'] : ['qemu-system-arm', 'qemu-efi-aarch64']),
  'apparmor',
  'xsltproc',
  'openssh-client',
]

function nesting({ kata }: Domain): Change {
  return {
    ...file('/etc/modprobe.d/fortress-kvm.conf', {
      from: 'config/vm/nested.conf',
      values: { nested: kata ? 1 : 0 },
      name: kata ? 'nested virtualization is on' : 'nested virtualization is off',
      then: [
        // While a virtual machine runs the module stays as it is, and a boot changes it.
        sh`for module in kvm_intel kvm_amd; do
          if grep "^$module " /proc/modules > /dev/null && modprobe --remove "$module" 2> /dev/null; then
            modprobe "$module"
          fi
        done`,
      ],
    }),
    controls: [
      {
        id: 'O10',
        title: `Nested virtualisation is ${kata ? 'on, for Kata' : 'off'}`,
        check: sh`
          cat /sys/module/kvm_intel/parameters/nested /sys/module/kvm_amd/parameters/nested \
            2> /dev/null > "$FK_TMP"/nested || true # one of them is not there
          test -s "$FK_TMP"/nested || { echo 'KVM is not loaded' && exit 100; }
          cat "$FK_TMP"/nested
          grep --line-regexp ${kata ? '[1Y]' : '[0N]'} "$FK_TMP"/nested > /dev/null ||
            { echo 'a boot changes it' && exit 101; }`,
        from: ['KVM documentation'],
      },
    ],
  }
}

/** libvirt itself: confinement, its sockets, its directory. */
function libvirt(): Step[] {
  return [
    file('/etc/apparmor.d/local/usr.lib.libvirt.virt-aa-helper', {
      from: 'config/vm/aa-helper.conf',
      name: 'AppArmor lets virt-aa-helper read the files of a virtual machine',
      why: 'libvirt looks at them when it writes the AppArmor profile of a virtual machine',
      then: [sh`apparmor_parser --replace /etc/apparmor.d/usr.lib.libvirt.virt-aa-helper`],
    }),

    {
      ...file('/etc/libvirt/qemu.conf', {
        from: 'config/vm/qemu.conf',
        mode: '600',
        name: 'qemu.conf lets no virtual machine run unconfined, as root, or with capabilities',
        then: [sh`systemctl restart libvirtd.service`],
      }),
      controls: [
        {
          id: 'O18',
          title: 'libvirt confines by AppArmor, and starts nothing that it cannot confine',
          check: sh`virsh capabilities | grep '<model>apparmor</model>' &&
            grep '^security_require_confined = 1' /etc/libvirt/qemu.conf`,
          from: ['NIST SP 800-125A', 'libvirt sVirt'],
        },
      ],
    },

    {
      name: 'libvirtd runs, without TCP and TLS, for root alone',
      check: sh`systemctl --quiet is-active libvirtd.socket &&
        systemctl --quiet is-enabled libvirtd.socket libvirtd.service &&
        test "$(systemctl show --property=LoadState --value libvirtd-tcp.socket)" = masked &&
        test "$(systemctl show --property=LoadState --value libvirtd-tls.socket)" = masked`,
      apply: [
        sh`systemctl mask --now libvirtd-tcp.socket libvirtd-tls.socket`,
        sh`systemctl enable libvirtd.service libvirtd.socket virtlogd.socket`,
        sh`systemctl start virtlogd.socket libvirtd.socket`,
        // Ubuntu puts administrators into the group, who would be root without a password.
        sh`for user in $(getent group libvirt | cut --delimiter=: --fields=4 | tr , ' '); do
          gpasswd --delete "$user" libvirt
        done`,
      ],
      controls: [
        {
          id: 'O05',
          title: 'libvirt has no port, and nobody is in its group',
          check: sh`! ss --no-header --listening --tcp --numeric 'sport = 16509 or sport = 16514' | grep . &&
            getent group libvirt && test -z "$(getent group libvirt | cut --delimiter=: --fields=4)"`,
          from: ['NIST SP 800-125A'],
        },
        {
          id: 'O11',
          title: 'Guests share no memory (KSM)',
          check: sh`test "$(cat /sys/kernel/mm/ksm/run 2> /dev/null || echo 0)" = 0`,
          from: ['NIST SP 800-125A'],
        },
      ],
    },

    {
      name: `${vmDir} belongs to root, and others cannot list it`,
      check: sh`test "$(stat --format='%F %a %U:%G' ${vmDir})" = 'directory 711 root:root'`,
      apply: [sh`install --directory --mode=711 --owner=root --group=root ${vmDir}`],
      undo: [sh`rmdir --ignore-fail-on-non-empty ${vmDir}`],
    },
  ]
}

/** The network of the virtual machines. */
function network({ bridge, network: addresses, xml }: Network): Step[] {
  const declared = `${declaredDir}/network.xml`
  return [
    {
      name: "libvirt's default network is off",
      why: 'it would give addresses and a way out to whatever is plugged into it',
      check: sh`! virsh net-list --name | grep --line-regexp default > /dev/null ||
        virsh net-port-list default | grep '[0-9a-f]-' > /dev/null`,
      apply: [sh`virsh net-destroy default`, sh`virsh net-autostart default --disable`],
    },

    file(declared, {
      text: xml,
      mode: '600',
      test: sh`virt-xml-validate "$new" network`,
      name: 'network XML for the virtual machines is written',
    }),

    {
      name: `the network of the virtual machines is up: ${addresses} behind ${bridge}`,
      why: 'libvirt gives names and addresses there and no rules; host-firewall decides what passes',
      check: sh`vm_net ${declared}`,
      apply: [
        sh`virsh net-define --validate ${declared}`,
        sh`virsh net-autostart fortress`,
        sh`virsh net-dumpxml fortress > "$FK_TMP/net.xml" 2> /dev/null || true # it does not run yet
        if virsh net-list --name | grep --line-regexp fortress > /dev/null &&
          ! vm_differs ${declared} "$FK_TMP/net.xml" > /dev/null; then
          virsh net-destroy fortress
        fi`,
        sh`virsh net-list --name | grep --line-regexp fortress > /dev/null || virsh net-start fortress`,
        // Whoever set the host's own sysctls again has switched it off for the guests too.
        sh`[ "$(cat /proc/sys/net/ipv4/ip_forward)" = 1 ] || sysctl --quiet --write net.ipv4.ip_forward=1`,
        // The cards of running virtual machines have lost their bridge with the network.
        sh`for name in $(virsh list --name); do
          for card in $(virsh domiflist "$name" | awk '$3 == "fortress" { print $1 }'); do
            ip link set dev "$card" master ${bridge}
            ! virsh dumpxml "$name" | grep "isolated='yes'" > /dev/null || bridge link set dev "$card" isolated on
          done
        done`,
      ],
      undo: [sh`virsh net-destroy fortress || true # it may be down`, sh`virsh net-undefine fortress`],
      controls: [
        {
          id: 'O09',
          title: 'The virtual machines have a bridge of their own, which no cable is plugged into',
          check: sh`
            bridge link show master ${bridge} 2> /dev/null || ip -brief link show master ${bridge}
            ! ip -brief link show master ${bridge} | grep --invert-match '^vnet'`,
          from: ['NIST SP 800-125B'],
        },
      ],
    },
  ]
}

/** Shell of this page alone: who has the network, and whether it is up. */
function networkShell(): Command {
  return sh`
    # vm_virtualises ARCH: the processor and its firmware allow KVM, for virtual machines of the host's own architecture.
    vm_virtualises() {
      [ "$(uname --machine)" = "$1" ] ||
        vm_no "the node is $1 and the host is $(uname --machine): KVM runs only its own kind" || return
      if [ "$1" = x86_64 ]; then
        grep --extended-regexp --word-regexp --max-count=1 'vmx|svm' /proc/cpuinfo > /dev/null ||
          vm_no 'the processor offers neither VT-x (vmx) nor AMD-V (svm)' || return
      fi
      [ -c /dev/kvm ] || modprobe --dry-run --quiet kvm_intel || modprobe --dry-run --quiet kvm_amd ||
        vm_no 'there is no /dev/kvm'
    }

    # vm_bridge_free BRIDGE NETWORK: the bridge and the addresses are ours, or nobody's.
    vm_bridge_free() {
      local owner ours other
      owner=$(virsh net-list --all --name 2> /dev/null | while read -r name; do
        [ -z "$name" ] || [ "$name" = fortress ] ||
          ! virsh net-dumpxml "$name" | grep --fixed-strings "<bridge name='$1'" > /dev/null || echo "$name"
      done) || true # libvirt is not here yet
      [ -z "$owner" ] || vm_no "the bridge $1 belongs to the network $owner of libvirt" || return
      ours=$(virsh net-info fortress 2> /dev/null | awk '$1 == "Bridge:" { print $2 }') || true # not yet
      if [ -e "/sys/class/net/$1" ] && [ "$ours" != "$1" ]; then
        vm_no "there is an interface $1 already, and it is not ours: $(ip -brief address show dev "$1" | xargs)" || return
      fi
      other=$(ip -4 route show root "$2" match "$2" 2> /dev/null | awk '$1 != "default"'; ip -4 route show root "$2")
      other=$(printf '%s\n' "$other" | grep . | grep --invert-match --word-regexp "dev $1") || true # nothing else is there
      [ -z "$other" ] ||
        vm_no "the addresses $2 are somewhere else already: $(printf '%s\n' "$other" | sed --quiet 1p | xargs)"
    }

    # vm_net_free SITE: no network of somebody else is called fortress.
    vm_net_free() {
      virsh net-info fortress > /dev/null 2>&1 || return 0
      virsh net-dumpxml fortress | vm_facts |
        grep --line-regexp --fixed-strings "network/metadata/owner/@site=$1" > /dev/null ||
        vm_no "there is a network called fortress that is not of the site $1"
    }

    # vm_net DECLARED: the network is up, starts with the host, and is what was declared.
    vm_net() {
      local when
      for when in '' --inactive; do
        # shellcheck disable=SC2086 # nothing, or one word
        virsh net-dumpxml fortress $when > "$FK_TMP/net.xml" 2>&1 || vm_no "$(head --lines=1 "$FK_TMP/net.xml")" || return
        vm_differs "$1" "$FK_TMP/net.xml" || return
      done
      virsh net-info fortress | awk '
        $1 == "Active:" { a = $2 }
        $1 == "Autostart:" { s = $2 }
        $1 == "Persistent:" { p = $2 }
        END { print "active:", a ", starts with the host:", s; exit !(a == "yes" && s == "yes" && p == "yes") }' || return
      [ "$(cat /proc/sys/net/ipv4/ip_forward)" = 1 ] ||
        vm_no 'the host does not forward (net.ipv4.ip_forward is 0), so nodes reach nobody'
    }

    export -f vm_virtualises vm_bridge_free vm_net_free vm_net
  `
}
