// In what one host differs from another: the values of its files, its packages, and the controls that ask for them.
import type { Context } from '../engine/page.ts'
import type { Control } from '../engine/step.ts'
import { parsed, read } from '../ground/root.ts'
import { bridgeOf, guestsOf, isNode, isRaspberry, machineOf, sshPort, vaultSpec } from '../site/machines.ts'
import { acceptedControls, waiversFor } from '../site/waivers.ts'
import { hostRequirements } from './controls.ts'
import { ownThings } from './affected.ts'

type Values = Record<string, string | number>

/** Its members may log in over SSH. */
export const adminGroup = 'ssh-admins'

export interface Host {
  /** Who logs in. */
  user: string
  /** Members may log in. */
  group: string
  /** A Raspberry Pi starts by its firmware, without GRUB. */
  isPi: boolean
  /** Packets are passed on for the pods of a node. */
  forwards: boolean
  /** The interfaces, and the engine, that are the site's own. */
  own: string[]
  /** The controls of one step of config/host/controls.yaml. */
  controls: (step: string) => Control[]
  packages: { watchers: string[]; unwanted: string[] }
  /** Arguments of the kernel where one line is the whole configuration. */
  piArguments: string[]
  /** What `{{ name }}` stands for, file by file. */
  values: Record<'sysctl' | 'forwarding' | 'modprobe' | 'chrony' | 'sshd', Values>
  usbRules: string
  auditRules: string
  /** Marks of AppArmor profiles that enforce nothing, as an extended regular expression. */
  slackProfiles: string
}

const configured = (name: string) => read(`config/host/${name}`)
const blocked = (...modules: string[]) =>
  modules.map((m) => `install ${m} /bin/false\nblacklist ${m}`).join('\n')

// OpenSSH 9.6 of Ubuntu 24.04 does not know the first, and refuses a whole file over a name that it does not know.
const keyExchange = (isUbuntu: boolean): string =>
  [
    ...(isUbuntu ? [] : ['mlkem768x25519-sha256']),
    'sntrup761x25519-sha512@openssh.com',
    'curve25519-sha256',
    'curve25519-sha256@libssh.org',
  ].join(',')

/** What the kernel of a Raspberry Pi is told: its firmware switches off what a kubelet does not start without. */
const argumentsOfPi = (node: boolean): string[] => [
  ...configured('cmdline-pi.txt').trim().split(' '),
  ...(node ? ['cgroup_enable=memory'] : []),
]

/** Administrators of guests pass through the host. */
const sshdValues = (kex: string, guests: boolean): Values => ({
  group: adminGroup,
  kex,
  forwarding: guests
    ? 'AllowTcpForwarding local\nPermitOpen *:22'
    : 'DisableForwarding yes\nAllowTcpForwarding no',
  forwarding_why: guests ? 'administrators reach the guests through the host, by port 22 only' : 'nothing',
})

/** A reload of sysctls, as packages do when they are updated, must not take the network from guests that run. */
const forwarded = (leave: boolean, forward: number): string =>
  leave
    ? '# IPv4: libvirt turns it on when it starts the network of the guests, and nothing turns it off again under them.'
    : ['ip_forward', 'conf.all.forwarding', 'conf.default.forwarding']
        .map((key) => `net.ipv4.${key} = ${forward}`)
        .join('\n')

/**
 * What is fixed for one host. On a machine that is host and node in one (a Pi), the values that a CNI or a runtime of containers
 * needs are the node's; everywhere else the host forwards nothing and believes nobody.
 */
export function hostOf({ site, machine }: Pick<Context, 'site' | 'machine'>): Host {
  const spec = machineOf(site, machine.name)
  const node = isNode(spec)
  const own = site.machines.filter(({ name, vm }) => name === spec.name || vm?.host === spec.name)
  const isUbuntu = machine.os.startsWith('ubuntu')
  const bridge = bridgeOf(site, machine.name)
  const guests = bridge !== undefined
  const { disk } = vaultSpec(site, machine.name)
  const usbVault = disk === '' || disk.includes('/usb-')
  const on = node ? 0 : 1
  const kernel = { kptr_restrict: node ? 1 : 2, rp_filter: on, log_martians: on, arp_ignore: on }
  const forward = node ? 1 : 0
  const kex = keyExchange(isUbuntu)
  const values: Values = {
    ...kernel,
    group: adminGroup,
    kex,
    forward,
    bridge: bridge?.bridge.name ?? '',
    guest: guestsOf(site, machine.name)[0]?.address ?? '',
    tcp_forwarding: guests ? 'local' : 'no',
    ssh_port: sshPort(spec, machine),
    tunnel_port: site.tunnel.port,
    updates_from: isRaspberry(spec) ? 'archive.raspberrypi.com' : isUbuntu ? '-security' : 'Debian-Security',
  }
  return {
    user: machine.user || 'root',
    group: adminGroup,
    isPi: isRaspberry(spec),
    forwards: node,
    own: ownThings(site, spec),
    controls: hostRequirements.controlsFor({
      values,
      traits: [
        machine.os,
        machine.arch,
        ...spec.roles,
        ...(node ? ['node'] : []),
        ...(isRaspberry(spec) ? ['raspberry'] : []),
      ],
      waivers: [
        ...waiversFor({ ...site, machines: own }),
        ...acceptedControls(site, machine.name).filter(({ id }) => !id.startsWith('F')), // F is of page 08
      ],
    }),
    packages: parsed(configured('packages.yaml')) as Host['packages'],
    piArguments: argumentsOfPi(node),
    values: {
      sysctl: {
        ...kernel,
        mmap_entropy:
          machine.arch === 'amd64'
            ? 'vm.mmap_rnd_bits = 32\nvm.mmap_rnd_compat_bits = 16'
            : '# How random mappings can be differs between arm64 kernels: the default stays.',
      },
      forwarding: { forward, ipv4: forwarded(guests && !node, forward) },
      chrony: { serves: bridge ? `allow ${bridge.network}\nlocal stratum 10` : 'port 0' },
      modprobe: {
        squashfs: node ? '# Not blocked: images of the node may be squashfs.' : blocked('squashfs'),
        usb_storage: usbVault ? '# Not blocked: the vault is a USB disk.' : blocked('usb-storage', 'uas'),
      },
      sshd: sshdValues(kex, guests),
    },
    usbRules: configured('usbguard.rules')
      .trimEnd()
      .replace(
        '{{ disks }}',
        usbVault ? configured('usbguard-disks.rules').trimEnd() : '# None: the vault is no USB disk.',
      ),
    auditRules: machine.arch === 'arm64' ? '30-fortress-arm64.rules' : '30-fortress.rules',
    // On Ubuntu an unconfined profile is what lets a program make user namespaces; elsewhere it does nothing.
    slackProfiles: `flags *= *\\(.*(${isUbuntu ? 'complain' : 'complain|unconfined'})`,
  }
}
