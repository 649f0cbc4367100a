// The virtual machines of a host as libvirt knows them: what each should be, and the words in which the host is asked whether it is.
import { type Element, type Node as XmlNode, DOMParser, XMLSerializer } from '@xmldom/xmldom'
import type { Context, Page } from '../engine/page.ts'
import type { Demand } from '../engine/step.ts'
import { formatNetwork, parseNetwork } from '../ground/address.ts'
import { Fault } from '../ground/fault.ts'
import { uuidOf } from '../ground/keys.ts'
import { read } from '../ground/root.ts'
import { Command, sh, shellText } from '../ground/sh.ts'
import { type Node, nodesOf } from '../site/machines.ts'
import type { Site } from '../site/model.ts'
import type { Source } from './butane.ts'

/** The functions that the checks and commands about virtual machines share: lib/vm/domain.sh, and the stylesheet that it compares by. */
export const domainShell = new Command(
  `${shellText('lib/vm/domain.sh')}cat > "$FK_TMP/facts.xsl" << 'XSL'\n${read('config/vm/facts.xsl')}XSL`,
  undefined,
  'lib/vm/domain.sh',
)

/** What QEMU reads and writes: the system disks, the variables of the firmware, and what Ignition or Talos is given. */
export const vmDir = '/var/lib/libvirt/fortress'

/** Where the Ignition of a node lies on its host. */
export const ignitionPath = (node: Pick<Node, 'name'>): string => `${vmDir}/${node.name}.ign`

/** The disk on which Talos is told what it should be. */
export const cidataPath = (node: Pick<Node, 'name'>): string => `${vmDir}/${node.name}.cidata`

/** The part of a node's Ignition that 13-vm-provision waits for: vm-ignition merges it with the rest. */
export const greeting: Source = {
  file: 'config/vm/greeting-butane.yaml',
  text: read('config/vm/greeting-butane.yaml'),
}

/** Where it is written down how the machines of a host should be. */
export const declaredDir = '/etc/fortress/vm'

/** One virtual machine. */
export interface Domain {
  node: Node
  site: string
  /** Follows from the names of site and node. */
  uuid: string
  system: 'flatcar' | 'talos'
  accel: 'kvm' | 'tcg'
  ramMib: number
  vcpus: number
  /** A virtio console, for a person on the host. */
  console: boolean
  /** Pods are virtual machines, so the machine may have some inside. */
  kata: boolean
  /** No other node on this host, so nobody whom it could talk to past the host. */
  alone: boolean
  /** The name of the vault in /dev/mapper. */
  vault: string
}

/** The virtual machines of the site, on the host that `context` is about: none where that is the node itself. */
export function domainsOf({ env, site, machine }: Pick<Context, 'env' | 'site' | 'machine'>): Domain[] {
  const metal = site.machines.find(({ name }) => name === machine.name)?.roles.includes('node') ?? false
  const nodes = metal ? [] : nodesOf(site)
  return nodes.map((node) => ({
    node,
    site: site.name,
    uuid: uuidOf('domain', `${site.name}/${node.name}`),
    system: env.FK_NODE_OS,
    accel: env.FK_VM_ACCEL,
    ramMib: env.FK_VM_RAM_MB,
    vcpus: env.FK_VM_VCPUS,
    console: site.nodes?.console ?? false,
    kata: site.components.runtime === 'kata',
    alone: nodes.length === 1,
    vault: site.vault.name,
  }))
}

/** The machine in the words of uname and of QEMU. */
export const kindOf = ({ node: { arch } }: Pick<Domain, 'node'>): string =>
  ({ amd64: 'x86_64', arm64: 'aarch64' })[arch]

/** Memory that the kernel gives the machine and its QEMU at most, in KiB: the guest's own and one GiB. */
export const memoryLimit = ({ ramMib }: Pick<Domain, 'ramMib'>): number => (ramMib + 1024) * 1024

/**
 * The XML of a machine: config/vm/k3s-vm.libvirt.xml filled in. `vault` says whether the encrypted disk is plugged in; the
 * storage layer does that. Throws TypeError when template and values do not fit.
 */
export function domainXml(domain: Domain, { vault = false }: { vault?: boolean } = {}): string {
  const { node, accel, system, ramMib, console, kata, alone } = domain
  return render('config/vm/k3s-vm.libvirt.xml', {
    when: { [accel]: true, [node.arch]: true, [system]: true, console, kata, alone, vault },
    values: {
      hypervisor: accel === 'kvm' ? 'kvm' : 'qemu',
      name: node.name,
      uuid: domain.uuid,
      site: domain.site,
      memory_kib: ramMib * 1024,
      memory_limit_kib: memoryLimit(domain),
      vcpus: domain.vcpus,
      nvram: `${vmDir}/${node.name}.vars.fd`,
      ignition: ignitionPath(node),
      cidata: cidataPath(node),
      disk: `${vmDir}/${node.name}.qcow2`,
      vault: domain.vault,
      mac: node.mac,
    },
  })
}

/** The network of the nodes as it stands in the site: its bridge, and itself. */
export function networkOf(site: Site): { bridge: string; network: string; xml: string } {
  const network = site.nodes && parseNetwork(site.nodes.network)
  const nodes = nodesOf(site)
  const [first] = nodes
  if (site.nodes === undefined || network === undefined || first === undefined)
    throw new Fault(`the site ${site.name} has no network for virtual machines`, {
      next: `say nodes: { network: … } in config/sites/${site.name}.yaml`,
    })
  const { bridge } = site.nodes
  const uuid = uuidOf('network', site.name)
  const xml = render('config/vm/network.libvirt.xml', {
    when: {},
    values: {
      uuid,
      site: site.name,
      bridge,
      mac: `52:54:00:${uuid.slice(0, 2)}:${uuid.slice(2, 4)}:${uuid.slice(4, 6)}`,
      address: first.gateway,
      prefix: first.prefix,
    },
    each: { nodes: nodes.map(({ name, mac, address }) => ({ name, mac, address })) },
  })
  return { bridge, network: formatNetwork(network), xml }
}

const namespace = 'urn:fortress-kit:domain'

interface Filling {
  /** The words of fortress:if that are true; a word that is missing here is false. */
  when: Record<string, boolean>
  values: Record<string, string | number>
  /** For fortress:each: one set of values for each copy of the element. */
  each?: Record<string, Record<string, string | number>[]>
}

const words = ['kvm', 'tcg', 'amd64', 'arm64', 'flatcar', 'talos', 'console', 'kata', 'alone', 'vault']

function render(path: string, filling: Filling): string {
  const document = new DOMParser({
    onError: (level, said) => {
      throw new TypeError(`${path}: ${level}: ${said}`)
    },
  }).parseFromString(read(path), 'text/xml')
  const top = document.documentElement as Element
  const fill = (text: string, values: Filling['values']): string =>
    text.replaceAll(/\{\{ ([a-z_]+) \}\}/g, (_, name: string) => {
      const value = values[name]
      if (value === undefined) throw new TypeError(`${path} asks for {{ ${name} }}, which has no value`)
      return String(value)
    })
  const holds = (condition: string): boolean =>
    condition.split(' ').every((word) => {
      const name = word.replace(/^!/, '')
      if (!words.includes(name)) throw new TypeError(`${path}: fortress:if does not know '${name}'`)
      return (filling.when[name] ?? false) === (name === word)
    })
  const visit = (element: Element, values: Filling['values'], depth: number): void => {
    element.removeAttributeNS(namespace, 'if')
    for (const attribute of Array.from(element.attributes)) {
      if (attribute.name === 'xmlns:fortress') element.removeAttributeNode(attribute)
      else attribute.value = fill(attribute.value, values)
    }
    const children: XmlNode[] = []
    for (const child of Array.from(element.childNodes)) {
      element.removeChild(child)
      if (child.nodeType === child.TEXT_NODE) {
        const text = child.nodeValue ?? ''
        if (text.trim() !== '') children.push(document.createTextNode(fill(text.trim(), values)))
      } else if (child.nodeType === child.ELEMENT_NODE) {
        const inner = child as Element
        const condition = inner.getAttributeNS(namespace, 'if')
        if (condition !== null && !holds(condition)) continue
        const list = inner.getAttributeNS(namespace, 'each')
        inner.removeAttributeNS(namespace, 'each')
        const copies = list === null ? [values] : filling.each?.[list]
        if (copies === undefined) throw new TypeError(`${path}: fortress:each does not know '${list}'`)
        for (const own of copies) {
          const copy = inner.cloneNode(true) as Element
          visit(copy, own, depth + 1)
          children.push(copy)
        }
      }
    }
    const lines = children.some((child) => child.nodeType === child.ELEMENT_NODE)
    for (const child of children) {
      if (lines) element.appendChild(document.createTextNode(`\n${'  '.repeat(depth + 1)}`))
      element.appendChild(child)
    }
    if (lines) element.appendChild(document.createTextNode(`\n${'  '.repeat(depth)}`))
  }
  visit(top, filling.values, 0)
  return `${new XMLSerializer().serializeToString(top)}\n`
}

/** That libvirt has no machine of somebody else under the name or the UUID of ours. */
export function unclaimed({ node, uuid, site }: Domain): Demand {
  return {
    name: `no machine of somebody else is called ${node.name}`,
    why: 'what does not bear the mark of this site is never stopped, changed or deleted',
    check: sh`vm_free ${node.name} ${uuid} ${site}`,
    help: `rename yours on the host (virsh domrename ${node.name} OTHER), or give the node another name under machines: of the site document`,
  }
}

const about = { file: import.meta.filename, layer: 'L1', on: 'host', library: domainShell } as const

function find(context: Context, name: string): Domain {
  const found = domainsOf(context).find(({ node }) => node.name === name)
  if (found === undefined) throw new Fault(`${context.machine.name} runs no virtual machine ${name}`)
  return found
}

/** The page that ends a machine. */
export function destroy(name: string): Page {
  return {
    ...about,
    name: 'node-destroy',
    summary: `The virtual machine ${name} is gone.`,
    steps: (context) => {
      const domain = find(context, name)
      const gone = sh`vm_gone ${name}`
      return [
        unclaimed(domain),
        typed(name, 'is deleted with its disk', gone),
        {
          name: `nothing of ${name} is left on the host but the vault and the base image`,
          check: gone,
          apply: [sh`vm_destroy ${name} ${domain.uuid} ${domain.site}`],
        },
      ]
    },
  }
}

/** The page that puts the disk of a machine aside; 13-vm-provision makes it anew then. `when` tells one time from another. */
export function rebuild(name: string, when = new Date().toISOString()): Page {
  return {
    ...about,
    name: 'node-rebuild',
    summary: `The virtual machine ${name} starts anew from the base image.`,
    steps: (context) => {
      const domain = find(context, name)
      const done = sh`grep --line-regexp --fixed-strings -e ${when} "$VM_NOTES"/${`${name}.rebuilt`}`
      return [
        unclaimed(domain),
        typed(name, 'starts anew', done),
        {
          name: `the disk of ${name} is put aside`,
          why: 'it is kept until the next time; what the cluster stores is on the vault, which is not touched',
          check: done,
          apply: [sh`vm_rebuild ${name} ${when}`],
        },
      ]
    },
  }
}

function typed(name: string, what: string, done: Command): Demand {
  return {
    name: `somebody typed the name of the machine that ${what}`,
    check: done,
    help: `type ${name} when you are asked, or say --format ${name}`,
    typed: name,
  }
}
