// A host that can confine virtual machines.
//
// Needs   a processor that virtualises, switched on in the firmware; AppArmor in the kernel; room for the machine.
// Leaves  KVM and libvirt of the distribution, where no machine runs unconfined, and the network of the nodes: a bridge that no
//         cable is plugged into. What passes it is decided by host-firewall.
// Undo    removes what it installed, when no machine needs it any more.
import { file } from '../lib/engine/file.ts'
import { sh } from '../lib/ground/sh.ts'
import { script } from '../lib/script.ts'
import { declaredDir, domainShell, domainsOf, kindOf, networkOf, vmDir } from '../lib/vm/domain.ts'

export default script(
  import.meta,
  { layer: 'L1', on: 'host', library: domainShell },
  ({ env, site, machine }) => {
    const domains = domainsOf({ env, site, machine })
    const [domain] = domains
    if (domain === undefined)
      return [
        {
          name: 'the site has no virtual machine, and none runs here',
          why: 'where the metal is the node, this is lost: a second wall between a pod that breaks out and the machine with its disks',
          check: sh`! pgrep --list-name qemu-system`,
          help: 'a machine runs here that the site does not know: end it, or describe it under nodes: of the site document',
        },
      ]

    const { bridge, network, xml } = networkOf(site)
    const emulated = domain.accel === 'tcg'
    const nested = domain.kata ? 1 : 0
    const packages = [
      'libvirt-daemon-system',
      'libvirt-clients',
      'dnsmasq-base',
      'qemu-utils',
      ...(domain.node.arch === 'amd64'
        ? ['qemu-system-x86', 'ovmf']
        : ['qemu-system-arm', 'qemu-efi-aarch64']),
      'apparmor',
      'xsltproc',
      'openssh-client',
    ]

    return [
      ...(emulated
        ? []
        : [
            {
              name: 'the processor virtualises, and the firmware lets it',
              why: 'the wall between a guest and its host is in the processor',
              check: sh`vm_virtualises ${kindOf(domain)}`,
              help: `switch on Intel VT-x or AMD-V (SVM mode) in the firmware's setup, and power the machine off and on once.
In a virtual machine: let its own host pass virtualisation on.
To see it work without, twenty times slower: FK_VM_ACCEL=tcg`,
            },
          ]),

      {
        name: 'the kernel enforces AppArmor',
        why: "a guest that breaks out of QEMU finds itself in a profile that knows this machine's own files and no others",
        check: sh`test "$(cat /sys/module/apparmor/parameters/enabled)" = Y && grep --word-regexp apparmor /sys/kernel/security/lsm`,
        help: 'start the kernel with apparmor=1 security=apparmor; host-harden does that on a machine of its own',
      },

      {
        name: `the host has ${domain.vcpus} processors and memory for ${domain.ramMib} MiB`,
        check: sh`vm_cores ${domain.vcpus} && vm_memory ${domain.ramMib * domains.length}`,
        help: 'ask for less: FK_VM_RAM_MB and FK_VM_VCPUS',
      },

      {
        name: `nobody else has the bridge ${bridge} or the addresses ${network}`,
        check: sh`vm_bridge_free ${bridge} ${network} && vm_net_free ${site.name}`,
        help: 'choose another nodes.bridge or nodes.network in the site document, or remove what is there: virsh net-undefine fortress',
      },

      {
        name: 'KVM and libvirt are installed',
        check: sh`for name in ${packages}; do dpkg-query --show --showformat='\${db:Status-Abbrev}' "$name" | grep ^ii > /dev/null; done`,
        apply: [
          sh`apt-get --quiet=2 update`,
          sh`DEBIAN_FRONTEND=noninteractive apt-get --quiet=2 --yes --no-install-recommends install ${packages}`,
        ],
        seconds: 1800,
      },

      ...(domain.node.arch === 'amd64'
        ? [
            {
              ...file('/etc/modprobe.d/fortress-kvm.conf', {
                from: 'config/vm/nested.conf',
                values: { nested },
                name: domain.kata ? 'machines may have machines inside' : 'no machine has machines inside',
                then: [
                  // While a machine runs the module stays as it is, and a boot changes it.
                  sh`for module in kvm_intel kvm_amd; do
                    if grep "^$module " /proc/modules > /dev/null && modprobe --remove "$module" 2> /dev/null; then modprobe "$module"; fi
                  done`,
                ],
              }),
              controls: [
                {
                  id: 'O10',
                  title: `Nested virtualisation is ${domain.kata ? 'on, for Kata' : 'off'}`,
                  check: sh`cat /sys/module/kvm_intel/parameters/nested /sys/module/kvm_amd/parameters/nested 2> /dev/null > "$FK_TMP"/nested || true # one of them is not there
                  test -s "$FK_TMP"/nested || { echo 'KVM is not loaded' && exit 100; }
                  cat "$FK_TMP"/nested
                  grep --line-regexp ${domain.kata ? '[1Y]' : '[0N]'} "$FK_TMP"/nested > /dev/null || { echo 'a boot changes it' && exit 101; }`,
                  from: ['KVM documentation'],
                },
              ],
            },
          ]
        : []),

      file('/etc/apparmor.d/local/usr.lib.libvirt.virt-aa-helper', {
        from: 'config/vm/aa-helper.conf',
        name: "libvirt may look at a machine's files when it writes its AppArmor profile",
        then: [sh`apparmor_parser --replace /etc/apparmor.d/usr.lib.libvirt.virt-aa-helper`],
      }),

      {
        ...file('/etc/libvirt/qemu.conf', {
          from: 'config/vm/qemu.conf',
          mode: '600',
          name: 'no machine runs unconfined, as root, or with capabilities',
          then: [sh`systemctl restart libvirtd.service`],
        }),
        controls: [
          {
            id: 'O18',
            title: 'libvirt confines by AppArmor, and starts nothing that it cannot confine',
            check: sh`virsh capabilities | grep '<model>apparmor</model>' && grep '^security_require_confined = 1' /etc/libvirt/qemu.conf`,
            from: ['NIST SP 800-125A', 'libvirt sVirt'],
          },
        ],
      },

      {
        name: 'libvirt runs, and listens to nobody but root and its own group',
        check: sh`systemctl --quiet is-active libvirtd.socket && systemctl --quiet is-enabled libvirtd.socket libvirtd.service &&
          for socket in libvirtd-tcp.socket libvirtd-tls.socket; do test "$(systemctl show --property=LoadState --value "$socket")" = masked; done`,
        apply: [
          sh`systemctl mask --now libvirtd-tcp.socket libvirtd-tls.socket`,
          sh`systemctl enable libvirtd.service libvirtd.socket virtlogd.socket`,
          sh`systemctl start virtlogd.socket libvirtd.socket`,
          // Ubuntu puts administrators into the group, who would be root without a password.
          sh`for user in $(getent group libvirt | cut --delimiter=: --fields=4 | tr , ' '); do gpasswd --delete "$user" libvirt; done`,
        ],
        controls: [
          {
            id: 'O05',
            title: 'libvirt has no port, and nobody is in its group',
            check: sh`! ss --no-header --listening --tcp --numeric 'sport = 16509 or sport = 16514' | grep . && getent group libvirt && test -z "$(getent group libvirt | cut --delimiter=: --fields=4)"`,
            from: ['NIST SP 800-125A'],
          },
          {
            id: 'O11',
            title: 'Guests share no memory',
            check: sh`test "$(cat /sys/kernel/mm/ksm/run 2> /dev/null || echo 0)" = 0`,
            from: ['NIST SP 800-125A'],
          },
        ],
      },

      {
        name: `${vmDir} belongs to root, and who does not know a name finds none`,
        check: sh`test "$(stat --format='%F %a %U:%G' ${vmDir})" = 'directory 711 root:root'`,
        apply: [sh`install --directory --mode=711 --owner=root --group=root ${vmDir}`],
        undo: [sh`rmdir --ignore-fail-on-non-empty ${vmDir}`],
      },

      {
        name: 'the network that libvirt brings along is off',
        why: 'it would give addresses and a way out to whatever is plugged into it',
        check: sh`! virsh net-list --name | grep --line-regexp default > /dev/null || virsh net-port-list default | grep '[0-9a-f]-' > /dev/null`,
        apply: [sh`virsh net-destroy default`, sh`virsh net-autostart default --disable`],
      },

      file(`${declaredDir}/network.xml`, {
        text: xml,
        mode: '600',
        test: sh`virt-xml-validate "$new" network`,
        name: 'the network of the nodes is written down',
      }),

      {
        name: `the network of the nodes is up: ${network} behind ${bridge}`,
        why: 'libvirt gives names and addresses there and no rules; host-firewall decides what passes',
        check: sh`vm_net`,
        apply: [sh`vm_net_make ${bridge}`],
        undo: [sh`virsh net-destroy fortress || true # it may be down`, sh`virsh net-undefine fortress`],
        controls: [
          {
            id: 'O09',
            title: 'The nodes have a bridge of their own, which no cable is plugged into',
            check: sh`bridge link show master ${bridge} 2> /dev/null || ip -brief link show master ${bridge}
            ! ip -brief link show master ${bridge} | grep --invert-match '^vnet'`,
            from: ['NIST SP 800-125B'],
          },
        ],
      },
    ]
  },
)
