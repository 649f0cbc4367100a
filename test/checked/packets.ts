// Real packets: a namespace with the rules of a firewall, and one for each zone around it. A process in each listens and connects.
//
//   zone a ── eth0 ┐          ┌ eth0 ── zone b
//                  ├ firewall ┤
//   zone c ── eth0 ┘          └ eth0 ── outside: a LAN, and the world
import { type ChildProcess, execFileSync, spawn } from 'node:child_process'
import { existsSync, mkdirSync, mkdtempSync, writeFileSync } from 'node:fs'
import { basename, join } from 'node:path'
import { type Interface, createInterface } from 'node:readline'
import type { Context } from '../../lib/engine/page.ts'
import { type Step, isChange } from '../../lib/engine/step.ts'
import type { Site } from '../../lib/site/model.ts'
import page from '../../scripts/06-host-firewall.ts'

/** The steps of page 06 on a host. */
export const pageSteps = (site: Site, host: string): Step[] =>
  page.steps({ site, env: {}, machine: { name: host }, state: '/nonexistent' } as unknown as Context)

/** Writes what page 06 would land on a host into a new directory below `dir`; gives the path of its nftables.conf. */
export function pageRules(site: Site, host: string, dir: string): string {
  const into = mkdtempSync(join(dir, 'etc-'))
  mkdirSync(join(into, 'nftables.d'))
  for (const step of pageSteps(site, host)) {
    const target = isChange(step) ? step.target : undefined
    if (!target?.path.includes('nftables')) continue
    const text = target.text!.replace('/etc/nftables.d/', `${into}/nftables.d/`)
    writeFileSync(join(into, target.path.includes('.d/') ? 'nftables.d' : '.', basename(target.path)), text)
  }
  return join(into, 'nftables.conf')
}

/** A zone: its interface at the firewall, what the firewall has there (with a prefix), who lives there, and networks behind it. */
export interface Place {
  zone: string
  interface: string
  at: string[]
  /** Addresses; those that no network of `at` holds are routed there. */
  hosts: string[]
  /** Addresses of other zones that somebody here pretends to have. */
  lies?: string[]
  /** Where everything else is. */
  world?: boolean
}

export interface Probe {
  /** The zone that it is sent from; `self` is the firewall. */
  zone: string
  /** Its source; absent: whatever the system chooses. */
  from?: string
  /** `from` is one of the lies of the zone: by UDP only, as no answer would come back. */
  lie?: boolean
  to: string
  protocol: 'tcp' | 'udp'
  port: number
}

// Where `send` says so, all connections are begun at once. A kernel answers them while it sends: what is silent after all that
// are open have been heard, and after the loop has asked the kernel once more, was dropped.
const agent = `
const net = require('node:net'), dgram = require('node:dgram')
const heard = []
const turn = () => new Promise((done) => setImmediate(done))
const listening = ([port]) => Promise.all([
  new Promise((done, fail) => net.createServer((s) => s.on('error', () => {}).resume()).on('error', fail).listen({ port, host: '0.0.0.0', backlog: 4096 }, done)),
  new Promise((done) => { const s = dgram.createSocket({ type: 'udp4', recvBufferSize: 400000 }); s.on('message', (m) => heard.push(Number(m))); s.bind(port, '0.0.0.0', done) }),
])
const senders = new Map()
const sender = async (from = '') => {
  if (!senders.has(from)) senders.set(from, new Promise((done) => { const s = dgram.createSocket('udp4'); s.on('error', () => {}); typeof from === 'number' ? s.bind(from, () => done(s)) : s.bind(0, from || undefined, () => done(s)) }))
  return senders.get(from)
}
const send = async (probes) => {
  const open = [], sockets = []
  for (const [id, protocol, from, to, port] of probes) {
    if (protocol === 'udp') { const s = await sender(from ?? ''); await new Promise((done) => s.send(String(id), port, to, done)); continue }
    const s = net.connect({ host: to, port, ...(from ? { localAddress: from } : {}) })
    s.on('error', () => {}).on('connect', () => { open.push(id); s.resetAndDestroy() })
    sockets.push(s)
  }
  let last = -1
  do { last = open.length; await new Promise((done) => setTimeout(done, 100)); await turn(); await turn() } while (open.length > last)
  for (const s of sockets) s.destroy()
  return open
}
require('node:readline').createInterface({ input: process.stdin }).on('line', async (line) => {
  const { serve, probes } = JSON.parse(line)
  if (serve) { await Promise.all(serve.map((port) => listening([port]))); console.log('[]') }
  else if (probes) console.log(JSON.stringify(await send(probes)))
  else { await turn(); await turn(); console.log(JSON.stringify(heard.splice(0))) }
}).on('close', () => process.exit())
`

let count = 0

/** Namespaces around a firewall without rules; all of them listen on the same ports. `end` removes them. */
export class Packets {
  readonly #tag = `fk${process.pid % 100_000}-${count++}`
  readonly #agents = new Map<string, { child: ChildProcess; lines: Interface }>()
  readonly #names: string[]
  readonly #lies: string[] = []

  constructor(places: Place[]) {
    this.#names = ['self', ...places.map(({ zone }) => zone)]
    for (const name of this.#names) {
      ip('netns', 'add', this.#ns(name))
      this.#ip(name, ['link set lo up'])
    }
    places.forEach((place, i) => this.#join(place, i))
    // The rules alone refuse what is spoofed.
    const settings =
      'echo 1 > /proc/sys/net/ipv4/ip_forward; for f in /proc/sys/net/ipv4/conf/*/rp_filter; do echo 0 > $f; done'
    for (const name of this.#names) this.on(name, 'sh', '-c', settings)
  }

  #ns(name: string): string {
    return `${this.#tag}-${name}`
  }
  #ip(name: string, lines: string[]): void {
    const input = `${lines.join('\n')}\n`
    execFileSync('ip', ['-netns', this.#ns(name), '-batch', '-'], {
      input,
      stdio: ['pipe', 'ignore', 'inherit'],
    })
  }

  #join({ zone, interface: name, at, hosts, lies = [], world }: Place, i: number): void {
    const gateway = at[0]!.split('/')[0]!
    // Nobody has to be looked for first: neighbours are known.
    const [here, there] = [`02:00:00:00:${i}0:01`, `02:00:00:00:${i}0:02`]
    this.#ip('self', [
      `link add ${name} address ${here} type veth peer name eth0 address ${there} netns ${this.#ns(zone)}`,
      ...at.map((address) => `address add ${address} dev ${name}`),
      `link set ${name} up`,
    ])
    this.#ip(zone, [
      ...hosts.map((address) => `address add ${address}/32 dev eth0`),
      'link set eth0 up',
      `neighbour add ${gateway} lladdr ${here} dev eth0 nud permanent`,
      `route add ${gateway} dev eth0 src ${hosts[0]}`,
      `route add default via ${gateway} src ${hosts[0]}`,
    ])
    this.#ip('self', [
      ...hosts.map((host) => `neighbour add ${host} lladdr ${there} dev ${name} nud permanent`),
      ...hosts.map((host) => `route replace ${host} dev ${name}`),
      ...(world ? [`route add default via ${hosts[0]}`] : []),
    ])
    if (lies.length === 0) return
    // A liar is known by the port that it sends from.
    const snat = lies.map((lie) => `udp sport ${this.#port(lie)} snat to ${lie}`).join('; ')
    this.on(
      zone,
      'nft',
      `table ip lies { chain post { type nat hook postrouting priority srcnat; ${snat}; }; }`,
    )
  }

  #port(lie: string): number {
    if (!this.#lies.includes(lie)) this.#lies.push(lie)
    return 40_000 + this.#lies.indexOf(lie)
  }

  /** Runs a program in the namespace of a zone; gives what it prints. */
  on(name: string, ...words: string[]): string {
    return execFileSync('ip', ['netns', 'exec', this.#ns(name), ...words], { encoding: 'utf8' })
  }

  /** Starts the processes; they listen on these ports of TCP and UDP. */
  async listen(ports: number[]): Promise<void> {
    for (const name of this.#names) {
      const child = spawn('ip', ['netns', 'exec', this.#ns(name), process.execPath, '-e', agent], {
        stdio: ['pipe', 'pipe', 'inherit'],
      })
      this.#agents.set(name, { child, lines: createInterface({ input: child.stdout }) })
    }
    await Promise.all(this.#names.map((name) => this.#ask(name, { serve: ports })))
  }

  async #ask(name: string, request: object): Promise<number[]> {
    const { child, lines } = this.#agents.get(name)!
    const answer = new Promise<string>((resolve) => lines.once('line', resolve))
    child.stdin!.write(`${JSON.stringify(request)}\n`)
    return JSON.parse(await answer)
  }

  /** Sends all of them; for each, whether a connection was made (TCP), or the packet arrived (UDP). */
  async send(probes: Probe[]): Promise<boolean[]> {
    const open = new Set<number>()
    const left = new Map(this.#names.map((name): [string, unknown[][]] => [name, []]))
    probes.forEach(({ zone, from, lie, to, protocol, port }, i) =>
      left.get(zone)!.push([i, protocol, lie ? this.#port(from!) : (from ?? null), to, port]),
    )
    while ([...left.values()].some((list) => list.length > 0)) {
      const asked = [...left].map(([name, list]) => this.#ask(name, { probes: list.splice(0, 400) }))
      for (const list of await Promise.all(asked)) for (const id of list) open.add(id)
      for (const list of await Promise.all(this.#names.map((name) => this.#ask(name, {}))))
        for (const id of list) open.add(id)
    }
    return probes.map((_, i) => open.has(i))
  }

  end(): void {
    for (const { child } of this.#agents.values()) child.kill()
    for (const name of this.#names)
      if (existsSync(`/run/netns/${this.#ns(name)}`)) ip('netns', 'delete', this.#ns(name))
  }
}

const ip = (...words: string[]): string => execFileSync('ip', words, { encoding: 'utf8' })
