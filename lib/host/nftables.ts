// The firewall of a host as nftables text: the rules of lib/site/zones.ts for this machine, each with the reason that the site
// gives. config/host/nftables.conf has what is the same on every host; the files that this makes fill its chains.
import { createRequire } from 'node:module'
import { isIPv6 } from 'node:net'
import { parseAddress } from '../ground/address.ts'
import { type TunnelEnd, bridgeOf, machineOf, sshPort, tunnelOf } from '../site/machines.ts'
import type { Site } from '../site/model.ts'
import { type End, type Rule, type Zones, portsShared, privateNetworks, zonesOf } from '../site/zones.ts'

const load = createRequire(import.meta.url)

/** What page 06 writes for one host, and what its controls ask the kernel for. */
export interface Firewall {
  /** What `{{ name }}` stands for in config/host/nftables.conf. */
  values: { private: string; private6: string; ours: string }
  /** What stands for the same in config/host/nftables-closed.nft. */
  closed: { way_in: string; way_out: string }
  /** /etc/nftables.d/10-cluster.nft: who may connect to the host, and through it. */
  cluster: string
  /** /etc/nftables.d/20-egress.nft: whereto the host may connect. */
  egress: string
  /** Rules for packets from anywhere, as `nft list` prints them. */
  open: string[]
  /** Rules that let SSH in, those for all ports too, as `nft list` prints them; and the port that it listens on. */
  ssh: { rules: string[]; port: string }
  /** Ports of the host that a line opens to somebody, as `tcp/443` or `tcp/30000-32767`. */
  heard: string[]
  /** Whether somebody at this address may log in over SSH. */
  lets: (address: string) => boolean
}

/** The firewall of a host of the site; `facts` are what a connection has shown. Throws for a name that is no machine of it. */
export function firewallOf(site: Site, host: string, facts: { port?: number } = {}): Firewall {
  const zones = zonesOf(site, host)
  const port = String(sshPort(machineOf(site, host), facts))
  const of = (chosen: (rule: Rule) => boolean): Rule[] => gathered(zones, zones.rules.filter(chosen))
  const input = of(({ to }) => to.zone === 'self')
  const output = of(({ from }) => from.zone === 'self')
  const forward = of(({ from, to }) => from.zone !== 'self' && to.zone !== 'self')
  const lets = (address: string) => {
    const { evaluate, pointOf } = load('../site/reach.ts') as typeof import('../site/reach.ts')
    return Boolean(evaluate(zones, pointOf(zones, address), { zone: 'self', address }, 'tcp', Number(port)))
  }
  const entries = input.flatMap((rule) => entry(zones, rule, port))
  const values = {
    private: privateNetworks.filter((text) => !isIPv6(bare(text))).join(', '),
    private6: privateNetworks.filter((text) => isIPv6(bare(text))).join(', '),
    ours: zones.ours.filter((text) => !isIPv6(bare(text))).join(', '),
  }
  const ssh = { rules: entries.map(listed).filter((text) => admits(text, port)), port }
  return {
    values,
    closed: closedBut(values, ssh, tunnelOf(site, machineOf(site, host))),
    cluster: clusterFile(site, host, zones, {
      input: entries,
      forward: forward.flatMap((rule) => statements(zones, rule)),
      output: output.filter(({ line }) => line === undefined).flatMap((rule) => statements(zones, rule)),
    }),
    egress: fragment(`Whereto ${host} may connect: lines of router.allow.`, [
      [
        'chain egress',
        output.filter(({ line }) => line !== undefined).flatMap((rule) => statements(zones, rule)),
      ],
    ]),
    open: entries.filter((text) => !/iifname [^!]|saddr [^!@]/.test(text)).map(listed),
    heard: input.flatMap(({ protocol, ports = ['1-65535'] }) =>
      (['tcp', 'udp'] as const)
        .filter((one) => (protocol ?? one) === one)
        .flatMap((one) => ports.map((text) => `${one}/${text}`)),
    ),
    ssh,
    lets,
  }
}

/** The way in and what answers there, by rules that refer to nothing: the tunnel, or who may log in without one. */
function closedBut(
  values: Firewall['values'],
  { rules, port }: Firewall['ssh'],
  end: TunnelEnd | undefined,
): Firewall['closed'] {
  const alone = rules.map((rule) =>
    rule
      .replace(/@(private6?|ours)\b/, (_, name: keyof typeof values) => `{ ${values[name]} }`)
      .replace(/jump ssh$/, 'accept'),
  )
  // What lets in every port lets in SSH here, and no more.
  const only = alone.map((rule) =>
    / dport /.test(rule) ? rule : rule.replace(/accept$/, `tcp dport ${port} accept`),
  )
  const lines = (list: string[]) => list.join('\n    ')
  return {
    way_in: lines([...(end ? [`udp dport ${end.port} accept`] : []), ...only]),
    way_out: lines(end ? [`udp sport ${end.port} accept`] : ['# WireGuard ends elsewhere.']),
  }
}

const bare = (network: string): string => network.split('/')[0] ?? ''

/** Whether a rule lets in SSH, or any port. */
const admits = (rule: string, port: string): boolean =>
  rule.endsWith(' jump ssh') ||
  !/ dport | l4proto /.test(rule) ||
  new RegExp(`tcp dport.*[ -]${port}[ ,-]`).test(rule)

/** A rule without its reason. */
const listed = (text: string): string => text.replace(/ comment ".*"$/, '')

interface Chains {
  input: string[]
  forward: string[]
  output: string[]
}

function clusterFile(site: Site, host: string, zones: Zones, { input, forward, output }: Chains): string {
  const bridge = bridgeOf(site, host)
  const end = tunnelOf(site, machineOf(site, host))
  const pods = zones.zones.find(({ name }) => name === 'pods')
  const guests = `iifname "${bridge?.bridge.name}"`
  return fragment(
    `Who may connect to ${host}, and through it: lines of router.allow, and what the site needs.`,
    [
      [
        'chain cluster_prerouting',
        pods
          ? [
              '# The route back to a pod is not the interface that its packets come from.',
              `iifname ${interfaces(pods.interfaces)} accept`,
            ]
          : [],
      ],
      ['chain cluster_input', [...input, ...(bridge ? [`${guests} drop`] : [])]],
      [
        'chain cluster_forward',
        [
          ...(bridge
            ? [
                `${guests} ip saddr != ${bridge.network} drop`,
                `${guests} meta nfproto ipv6 drop`,
                `${guests} oifname "${bridge.bridge.name}" accept`,
              ]
            : []),
          ...(pods
            ? [
                '# What pods may do among themselves Cilium decides.',
                `iifname ${interfaces(pods.interfaces)} oifname ${interfaces(pods.interfaces)} accept`,
              ]
            : []),
          ...forward,
        ],
      ],
      [
        'chain cluster_output',
        [...(end ? [`udp sport ${end.port} accept comment "WireGuard"`] : []), ...output],
      ],
      ...(bridge ? [translation(`ip saddr ${bridge.network} ${outsideOf(zones, 'o')} masquerade`)] : []),
    ],
  )
}

const translation = (rule: string): Block => [
  'chain cluster_postrouting',
  [
    "# libvirt's own rules for a NAT network would reject packets from the tunnel: its network has the mode `open`.",
    'type nat hook postrouting priority srcnat; policy accept;',
    rule,
  ],
]

type Block = [name: string, rules: string[]]

/** What rules of a file refer to, by its name: config/host/nftables.conf has what is in it. */
const declared: Record<string, Block> = {
  '@private': ['set private', ['type ipv4_addr', 'flags interval']],
  '@private6': ['set private6', ['type ipv6_addr', 'flags interval']],
  '@ours': ['set ours', ['type ipv4_addr', 'flags interval']],
  'jump ssh': ['chain ssh', []],
  'jump sampled': ['chain sampled', []],
}

/** A file for /etc/nftables.d. So that nft can check it by itself, it declares what it refers to. */
function fragment(about: string, chains: Block[]): string {
  const words = new Set(
    chains.flatMap(([, rules]) => rules.flatMap((rule) => rule.match(/@\w+|jump \w+/g) ?? [])),
  )
  const blocks = [
    ...Object.keys(declared).flatMap((word) => (words.has(word) ? [declared[word]!] : [])),
    ...chains,
  ]
  const body = blocks.map(
    ([name, rules]) => `  ${name} {\n${rules.map((rule) => `    ${rule}\n`).join('')}  }\n`,
  )
  return `# ${about}\ntable inet fortress {\n${body.join('\n')}}\n`
}

/** Rules that differ in the zone alone, and have every zone, as one without a zone. */
function gathered({ zones }: Zones, rules: Rule[]): Rule[] {
  const merged = (side: 'from' | 'to', list: Rule[]): Rule[] => {
    const key = (rule: Rule) => JSON.stringify({ ...rule, [side]: { ...rule[side], zone: '' } })
    return list.flatMap((rule) => {
      const group = list.filter((other) => key(other) === key(rule))
      if (!zones.every(({ name }) => group.some((other) => other[side].zone === name))) return [rule]
      return group[0] === rule ? [{ ...rule, [side]: { ...rule[side], zone: '' } }] : []
    })
  }
  return merged('to', merged('from', rules))
}

/** The statements for a rule for the host itself: a connection to SSH goes by way of its own chain, which limits their rate. */
function entry(zones: Zones, rule: Rule, ssh: string): string[] {
  const { protocol, ports } = rule
  const known = protocol === undefined || (protocol === 'tcp' && portsShared(ports ?? [], [ssh]))
  if (!known) return statements(zones, rule)
  const first = statements(zones, { ...rule, protocol: 'tcp', ports: [ssh] }, 'jump ssh')
  const rest = (ports ?? []).filter((one) => one !== ssh)
  if (protocol !== undefined && rest.length === 0) return first
  return [...first, ...statements(zones, protocol === undefined ? rule : { ...rule, ports: rest })]
}

/**
 * The nftables statements for a rule: one, or one for each family of addresses. A connection to anywhere outside is logged now
 * and then.
 */
export function statements(zones: Zones, rule: Rule, verdict?: string): string[] {
  const { from, to, protocol, ports, why } = rule
  const anywhere = to.zone === 'outside' && to.within === undefined && protocol === undefined
  const which =
    protocol === undefined
      ? []
      : protocol === 'vrrp'
        ? ['meta l4proto 112']
        : [`${protocol} dport ${listOf([...(ports ?? [])].sort((a, b) => parseInt(a) - parseInt(b)))}`]
  const last = [verdict ?? (anywhere ? 'jump sampled' : 'accept'), `comment "${comment(why)}"`]
  const through = [zonePart(zones, from, 'i'), zonePart(zones, to, 'o')]
  const bound = [from, to].some(({ within, without }) => within ?? without)
  const families = bound ? ([4, 6] as const) : ([undefined] as const)
  return families.flatMap((family) => {
    const addresses = [addressPart(zones, from, 's', family), addressPart(zones, to, 'd', family)]
    if (addresses.includes(undefined)) return []
    const only =
      family !== undefined && addresses.every((part) => part === '') ? [`meta nfproto ipv${family}`] : []
    return [through[0], addresses[0], through[1], addresses[1], ...only, ...which, ...last]
      .filter(Boolean)
      .join(' ')
  })
}

/** In the order in which nft lists them. */
const sorted = (addresses: string[]): string[] => {
  const value = (text: string) => parseAddress(bare(text).split('-')[0] ?? '')?.value ?? 0n
  return [...addresses].sort((a, b) => (value(a) < value(b) ? -1 : 1))
}
const listOf = (words: string[]): string =>
  words.length === 1 ? (words[0] ?? '') : `{ ${words.join(', ')} }`
const interfaces = (names: string[]): string => listOf([...names].sort().map((name) => `"${name}"`))

/** What nft takes for a comment: 128 bytes without quotes. */
const comment = (why: string): string => {
  const plain = why.replaceAll('"', "'").replace(/[\s\\]+/g, ' ')
  return Buffer.from(plain)
    .subarray(0, 120)
    .toString()
    .replace(/\uFFFD+$/, '')
}

/** The interfaces of a zone; those of `outside` are all that are in no other. */
function zonePart(zones: Zones, { zone }: End, way: 'i' | 'o'): string {
  if (zone === 'self' || zone === '') return ''
  if (zone === 'outside') return outsideOf(zones, way)
  const found = zones.zones.find(({ name }) => name === zone)
  return `${way}ifname ${interfaces(found?.interfaces ?? [])}`
}

function outsideOf({ zones }: Zones, way: 'i' | 'o'): string {
  const inner = zones.flatMap((zone) => zone.interfaces)
  return inner.length === 0 ? '' : `${way}ifname != ${interfaces(inner)}`
}

/** The addresses of an end in one family: '' for all of them, undefined for none. */
function addressPart(
  zones: Zones,
  { within, without }: End,
  way: 's' | 'd',
  family?: 4 | 6,
): string | undefined {
  if (family === undefined) return ''
  const of = (list: string[]): string[] =>
    list.filter((text) => isIPv6(bare(text).split('-')[0] ?? '') === (family === 6))
  const named = (list: string[]): string | undefined => {
    if (of(list).length === 0) return undefined
    if (list === privateNetworks) return family === 6 ? '@private6' : '@private'
    return list === zones.ours && family === 4 ? '@ours' : listOf(sorted(of(list)))
  }
  const key = `${family === 6 ? 'ip6' : 'ip'} ${way}addr`
  const [some, none] = [within && named(within), without && named(without)]
  if (within !== undefined && some === undefined) return undefined
  return [some && `${key} ${some}`, none && `${key} != ${none}`].filter(Boolean).join(' ')
}
