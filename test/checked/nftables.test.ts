// The rules of the firewall page in a real kernel: four network namespaces around one that has the rules.
//
//   stranger  eth0 192.0.2.2, 2001:db8::2 ─┐           ┌─ peer  10.66.0.2 (its link plays the tunnel)
//                                          ├── host ───┤
//             anything else is a spoof     ┘           └─ node  10.77.0.10 (its link plays the bridge)
import assert from 'node:assert/strict'
import { type ChildProcess, execFile, execFileSync, spawn, spawnSync } from 'node:child_process'
import { existsSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { complete } from '../../lib/site/defaults.ts'
import type { Allow, MachineSpec, Site } from '../../lib/site/model.ts'
import { nmap, without } from '../programs.ts'
import { siteOf } from '../sites.ts'
import { pageRules, pageSteps } from './packets.ts'

const cannot = without('nft', 'ip', 'unshare')
const skip = cannot || (process.getuid?.() === 0 ? false : 'network namespaces need root')
const dir = mkdtempSync(join(tmpdir(), 'nftables-'))
after(() => rmSync(dir, { recursive: true }))

const metal = { name: 'fortress', roles: ['host'], os: 'debian-13', arch: 'amd64' } as const
const vm = { host: 'fortress', memory: 4096, cpus: 2, disk: 20, accel: 'kvm', console: false } as const
const machines = {
  fortress: [metal, { name: 'fortress-node', roles: ['server'], os: 'flatcar', arch: 'amd64', vm }],
  'fortress-pi': [{ name: 'fortress-pi', roles: ['host', 'server'], os: 'raspios-13', arch: 'arm64' }],
} as unknown as Record<string, MachineSpec[]>

/** The page's rules for a site that says nothing but its machines, or also who may connect to whom; gives their nftables.conf. */
function rules(name: string, allow?: Allow[]): string {
  const cluster = { pods: '10.42.0.0/16', services: '10.43.0.0/16', servers_take_pods: true }
  const router = allow === undefined ? {} : { router: { allow } }
  const document = {
    name,
    timezone: 'Etc/UTC',
    machines: machines[name]!,
    cluster,
    components: {},
    policy: { mode: 'audit' as const, registries: ['docker.io'], exceptions: [] },
    ...router,
  }
  return pageRules(complete(document), name, dir)
}
const from = ['router', 'guests']
const listed: Allow[] = [
  { from: 'tunnel', to: 'router', ports: ['tcp/22'], why: 'SSH' },
  { from, to: '192.0.2.2', ports: ['tcp/80', 'tcp/8080'], why: 'mirror' },
  { from, to: '2001:db8::2', ports: ['tcp/80'], why: 'mirror6' },
  { from, to: '198.51.100.0/24', ports: ['udp/514'], why: 'logs' },
  { from, to: 'internet', ports: ['tcp/9418'], why: 'git' },
]

describe('nft accepts the rules', { skip: cannot }, () => {
  const user = process.getuid?.() === 0 ? [] : ['--user', '--map-root-user']
  const inside = (command: string) =>
    spawnSync('unshare', [...user, '--net', 'bash', '--norc', '-euo', 'pipefail', '-c', command], {
      encoding: 'utf8',
    })
  for (const [name, allow] of [
    ['fortress', undefined],
    ['fortress', listed],
    ['fortress-pi', undefined],
    ['fortress-pi', listed.map((line) => ({ ...line, from: line.from === from ? 'router' : line.from }))],
  ] as const)
    test(`of ${name}${allow ? ' with listed egress' : ''}, twice, beside a table of somebody else`, () => {
      const file = rules(name, allow)
      const { stderr, stdout, status } = inside(`
        nft --check --file ${file}
        test -z "$(nft list ruleset)"
        printf 'table ip theirs {\\n\\tchain forward {\\n\\t\\ttype filter hook forward priority filter; policy accept;\\n\\t\\tcounter packets 7 bytes 700 drop\\n\\t}\\n}\\n' > ${dir}/theirs
        nft --file ${dir}/theirs
        nft --file ${file}
        once=$(nft list ruleset)
        nft --file ${file}
        diff <(echo "$once") <(nft list ruleset)
        diff ${dir}/theirs <(nft list table ip theirs)
        nft delete table inet fortress
        diff ${dir}/theirs <(nft list ruleset)`)
      assert.equal(stderr + stdout, '')
      assert.equal(status, 0)
    })

  test('and every fragment by itself', () => {
    for (const name of ['fortress', 'fortress-pi'])
      for (const file of ['10-cluster.nft', '20-egress.nft']) {
        const { status, stderr } = inside(`nft --check --file ${join(rules(name), '..', 'nftables.d', file)}`)
        assert.equal(`${stderr}${status}`, '0')
      }
  })

  /** Which controls of the page that ask the kernel, and not systemd, hold of its rules, or fail after a change of them. */
  function asked(site: Site, host: string, change = ':'): { held: string[]; failed: string[]; said: string } {
    const controls = pageSteps(site, host)
      .flatMap((step) => ('controls' in step ? (step.controls ?? []) : []))
      .filter(({ check }) => !check.text.includes('systemctl'))
    const each = controls.map(
      ({ id, check }) => `if (\n${check.text}\n) 1>&2; then echo held ${id}; else echo failed ${id}; fi`,
    )
    const { stdout, stderr } = inside(
      `nft --file ${pageRules(site, host, dir)}\n${change}\n${each.join('\n')}`,
    )
    const of = (word: string) => [...stdout.matchAll(new RegExp(`^${word} (.*)$`, 'gm'))].map(([, id]) => id!)
    return { held: of('held'), failed: of('failed'), said: stderr }
  }
  const ids = ['G03', 'G04', 'G05', 'G06', 'G07', 'G08', 'G09', 'G10', 'G12']
  for (const [name, host] of [
    ['fortress', 'fortress'],
    ['fortress-pi', 'fortress-pi'],
    ['lab', 'lab'],
    ['zengarden', 'blade001'],
    ['mixed', 'north'],
    ['mixed', 'south'],
  ] as const)
    test(`the controls of the page hold on ${host} of ${name}`, () => {
      const { held, failed, said } = asked(siteOf(name), host)
      assert.deepEqual(failed, [], said)
      assert.deepEqual(held, ids)
    })

  for (const [rule, id] of [
    ['insert rule inet fortress input tcp dport 80 accept', 'G06'],
    ['add rule inet fortress cluster_input udp dport 514 accept', 'G06'],
    ['add rule inet fortress cluster_input ip daddr 192.0.2.1 tcp dport 80 accept', 'G06'],
    ['add rule inet fortress cluster_input iifname "virbr-fort" tcp dport { 22, 80 } accept', 'G07'],
    ['add rule inet fortress cluster_input ip saddr 192.0.2.9 jump ssh', 'G07'],
    ['add rule inet fortress cluster_input iifname "virbr-fort" accept', 'G07'],
    ['flush chain inet fortress ssh', 'G07'],
    ["chain inet fortress input '{ policy accept; }'", 'G03'],
  ] as const)
    test(`${id} fails after ${rule}`, () => {
      assert.deepEqual(asked(siteOf('fortress'), 'fortress', `nft ${rule}`).failed, [id])
    })

  test('no rule empties the tables of others', () => {
    const file = rules('fortress')
    assert.equal(spawnSync('grep', ['--recursive', '^[^#]*flush', join(file, '..')]).status, 1)
  })
})

describe('the rules filter', { skip }, () => {
  const tag = `fk${process.pid % 10_000}`
  const ns = { host: `${tag}-host`, stranger: `${tag}-stranger`, peer: `${tag}-peer`, node: `${tag}-node` }
  type Who = keyof typeof ns
  const servers: ChildProcess[] = []
  const ip = (...words: string[]) => execFileSync('ip', words, { encoding: 'utf8' })
  const on = (who: Who, ...words: string[]) =>
    execFileSync('ip', ['netns', 'exec', ns[who], ...words], { encoding: 'utf8' })
  const load = (file: string) => on('host', 'nft', '--file', file)

  /** Two namespaces, joined by a link whose ends have the given names. */
  function join2(name: string, who: Who, host: string[], theirs: string[]): void {
    ip('-netns', ns.host, 'link', 'add', name, 'type', 'veth', 'peer', 'name', 'eth0', 'netns', ns[who])
    for (const a of host)
      ip('-netns', ns.host, 'address', 'add', a, 'dev', name, ...(a.includes(':') ? ['nodad'] : []))
    for (const a of theirs)
      ip('-netns', ns[who], 'address', 'add', a, 'dev', 'eth0', ...(a.includes(':') ? ['nodad'] : []))
    ip('-netns', ns.host, 'link', 'set', name, 'up')
    ip('-netns', ns[who], 'link', 'set', 'eth0', 'up')
    ip('-netns', ns[who], 'route', 'add', 'default', 'via', host[0]!.split('/')[0]!)
  }

  before(async () => {
    for (const name of Object.values(ns)) {
      ip('netns', 'add', name)
      ip('-netns', name, 'link', 'set', 'lo', 'up')
    }
    join2('uplink', 'stranger', ['192.0.2.1/24', '2001:db8::1/64'], ['192.0.2.2/24', '2001:db8::2/64'])
    join2('wg0', 'peer', ['10.66.0.1/24'], ['10.66.0.2/24'])
    join2('virbr-fort', 'node', ['10.77.0.1/24'], ['10.77.0.10/24'])
    on('host', 'sh', '-c', 'echo 1 > /proc/sys/net/ipv4/ip_forward')
    // Where the page under test must not lean on it: the rules alone refuse what is spoofed.
    on('host', 'sh', '-c', 'for f in /proc/sys/net/ipv4/conf/*/rp_filter; do echo 0 > $f; done')
    await serve('host', [22, 53, 80, 443, 2379, 6443, 10250], [53, 67, 123, 51820])
    await serve('stranger', [53, 80, 8080, 9418, 9999], [53, 123, 514])
    await serve('peer', [22], [])
    await serve('node', [22, 80, 443, 6443], [])
  })
  after(() => {
    for (const server of servers) server.kill()
    for (const name of Object.values(ns)) if (existsSync(`/run/netns/${name}`)) ip('netns', 'delete', name)
  })

  /** Every TCP port greets; every UDP port says who asked it. */
  async function serve(who: Who, tcp: number[], udp: number[]): Promise<void> {
    const program = `
      const net = require('node:net'), dgram = require('node:dgram')
      const ready = [
        ...${JSON.stringify(tcp)}.map((p) => new Promise((done) => net.createServer((s) => { s.on('error', () => {}); s.write(s.remoteAddress + '\\n'); s.on('data', (d) => s.write(d)) }).listen(p, '::', done))),
        ...${JSON.stringify(udp)}.flatMap((p) => ['udp4', 'udp6'].map((type) => new Promise((done) => { const u = dgram.createSocket({ type, ipv6Only: type === 'udp6' }); u.on('message', (m, r) => u.send(r.address, r.port, r.address)); u.bind(p, done) }))),
      ]
      Promise.all(ready).then(() => console.log('ready'))`
    const server = spawn('ip', ['netns', 'exec', ns[who], process.execPath, '-e', program], {
      stdio: ['ignore', 'pipe', 'inherit'],
    })
    servers.push(server)
    await new Promise((resolve) => server.stdout!.once('data', resolve))
  }

  /** Asks all of them at once: `open ADDRESS` (as the other side saw us), `closed`, or `silent` after a second. */
  async function ask(who: Who, targets: readonly (readonly (string | number)[])[]): Promise<string[]> {
    const program = `
      const net = require('node:net'), dgram = require('node:dgram')
      const one = ([proto, host, port, localAddress]) => new Promise((done) => {
        const late = setTimeout(() => end('silent'), 1000)
        let socket
        const end = (word) => { clearTimeout(late); done(word); proto === 'tcp' ? socket.destroy() : socket.close() }
        if (proto === 'tcp') {
          socket = net.connect({ host, port, localAddress })
          socket.on('data', (d) => end('open ' + String(d).trim().replace('::ffff:', ''))).on('error', (e) => end(e.code === 'ECONNREFUSED' ? 'closed' : 'silent'))
        } else {
          socket = dgram.createSocket(host.includes(':') ? 'udp6' : 'udp4')
          socket.on('message', (m) => end('open ' + m)).on('error', () => end('closed'))
          socket.bind(0, localAddress, () => socket.connect(port, host, () => socket.send('?')))
        }
      })
      Promise.all(${JSON.stringify(targets)}.map(one)).then((all) => console.log(JSON.stringify(all)))`
    const text = await new Promise<string>((resolve, reject) =>
      execFile('ip', ['netns', 'exec', ns[who], process.execPath, '-e', program], (error, stdout, stderr) =>
        error ? reject(new Error(stderr)) : resolve(stdout),
      ),
    )
    return JSON.parse(text) as string[]
  }

  /** One table of answers: from, to, what comes back. */
  async function expect(
    rows: readonly (readonly [
      who: Who,
      proto: string,
      address: string,
      port: number,
      answer: string,
      from?: string,
    ])[],
  ): Promise<void> {
    const found: string[] = []
    const wanted: string[] = []
    for (const who of ['host', 'stranger', 'peer', 'node'] as const) {
      const mine = rows.filter(([w]) => w === who)
      if (mine.length === 0) continue
      const answers = await ask(
        who,
        mine.map(
          ([, proto, address, port, , from]) => [proto, address, port, ...(from ? [from] : [])] as const,
        ),
      )
      mine.forEach(([, proto, address, port, answer, from], i) => {
        const row = `${who}${from ? ` as ${from}` : ''} → ${address} ${proto} ${port}:`
        wanted.push(`${row} ${answer}`)
        found.push(`${row} ${answers[i]}`)
      })
    }
    assert.deepEqual(found, wanted)
  }

  test('without them everything answers, so silence is theirs', async () => {
    await expect([
      ['stranger', 'tcp', '192.0.2.1', 22, 'open 192.0.2.2'],
      ['stranger', 'tcp', '2001:db8::1', 22, 'open 2001:db8::2'],
      ['stranger', 'udp', '192.0.2.1', 53, 'open 192.0.2.2'],
      ['stranger', 'tcp', '192.0.2.1', 81, 'closed'],
      ['stranger', 'tcp', '10.77.0.10', 22, 'open 192.0.2.2'],
      ['node', 'tcp', '10.66.0.2', 22, 'open 10.77.0.10'],
      ['host', 'tcp', '192.0.2.2', 9999, 'open 192.0.2.1'],
    ])
  })

  test('a stranger meets the one door and nothing else', async () => {
    load(rules('fortress'))
    await expect([
      ['stranger', 'udp', '192.0.2.1', 51820, 'open 192.0.2.2'],
      ['stranger', 'udp', '2001:db8::1', 51820, 'open 2001:db8::2'],
      ...[22, 53, 80, 81, 443, 6443, 10250].flatMap((port) => [
        ['stranger', 'tcp', '192.0.2.1', port, 'silent'] as const,
        ['stranger', 'tcp', '2001:db8::1', port, 'silent'] as const,
      ]),
      ...[53, 67, 68, 123, 546].flatMap((port) => [
        ['stranger', 'udp', '192.0.2.1', port, 'silent'] as const,
        ['stranger', 'udp', '2001:db8::1', port, 'silent'] as const,
      ]),
      ['stranger', 'tcp', '10.66.0.1', 22, 'silent'],
      ['stranger', 'tcp', '10.77.0.10', 6443, 'silent'],
      ['stranger', 'tcp', '10.66.0.2', 22, 'silent'],
    ])
  })

  test('a peer reaches SSH, and the API, the gateway and SSH of the nodes', async () => {
    await expect([
      ['peer', 'tcp', '10.66.0.1', 22, 'open 10.66.0.2'],
      ...[53, 80, 443, 6443].map((port) => ['peer', 'tcp', '10.66.0.1', port, 'silent'] as const),
      ...[22, 443, 6443].map((port) => ['peer', 'tcp', '10.77.0.10', port, 'open 10.66.0.2'] as const),
      ['peer', 'tcp', '10.77.0.10', 80, 'silent'],
      ['peer', 'tcp', '192.0.2.2', 80, 'silent'],
    ])
  })

  test('a node gets names, time and addresses from the host alone, the web from the world, and no way to peers', async () => {
    await expect([
      ['node', 'tcp', '10.77.0.1', 53, 'open 10.77.0.10'],
      ['node', 'udp', '10.77.0.1', 53, 'open 10.77.0.10'],
      ['node', 'udp', '10.77.0.1', 67, 'open 10.77.0.10'],
      ...[22, 80, 6443].map((port) => ['node', 'tcp', '10.77.0.1', port, 'silent'] as const),
      ['node', 'udp', '10.77.0.1', 123, 'open 10.77.0.10'],
      ['node', 'udp', '10.77.0.1', 51820, 'open 10.77.0.10'],
      ['node', 'tcp', '192.0.2.2', 80, 'open 192.0.2.1'],
      ['node', 'tcp', '192.0.2.2', 9999, 'silent'],
      ...[53, 123].map((port) => ['node', 'udp', '192.0.2.2', port, 'silent'] as const),
      ['node', 'tcp', '192.0.2.2', 53, 'silent'],
      ['node', 'tcp', '10.66.0.2', 22, 'silent'],
      ['host', 'tcp', '10.77.0.10', 22, 'open 10.77.0.1'],
    ])
  })

  test('whoever lies about where he is gets no answer, in IPv4 and IPv6', async () => {
    const dropped = () =>
      Number(/packets (\d+)/.exec(on('host', 'nft', 'list', 'chain', 'inet', 'fortress', 'spoofed'))?.[1])
    ip('-netns', ns.stranger, 'address', 'add', '10.66.0.9/32', 'dev', 'eth0')
    ip('-netns', ns.stranger, 'address', 'add', '203.0.113.9/32', 'dev', 'eth0')
    ip('-netns', ns.stranger, 'address', 'add', '2001:db8:bad::9/128', 'dev', 'eth0', 'nodad')
    // Answers could come back: only the way they came is wrong.
    ip('-netns', ns.host, 'route', 'add', '203.0.113.9', 'dev', 'virbr-fort')
    ip('-netns', ns.host, 'route', 'add', '2001:db8:bad::9', 'dev', 'virbr-fort')
    for (const [to, from] of [
      ['192.0.2.1', '10.66.0.9'],
      ['192.0.2.1', '203.0.113.9'],
      ['2001:db8::1', '2001:db8:bad::9'],
    ] as const) {
      const before = dropped()
      await expect([['stranger', 'udp', to, 51820, 'silent', from]])
      assert.equal(dropped() > before, true, from)
    }
  })

  test('a session outlives a reload', async () => {
    const program = `
      const socket = require('node:net').connect(22, '10.66.0.1')
      socket.once('data', () => { console.log('greeted'); socket.on('data', (d) => { console.log(String(d)); process.exit() }) })
      process.stdin.on('data', (d) => socket.write(d))`
    const session = spawn('ip', ['netns', 'exec', ns.peer, process.execPath, '-e', program], {
      stdio: ['pipe', 'pipe', 'inherit'],
    })
    const word = () =>
      new Promise<string>((resolve) => session.stdout.once('data', (d) => resolve(String(d).trim())))
    assert.equal(await word(), 'greeted')
    load(rules('fortress'))
    load(rules('fortress', listed))
    load(rules('fortress'))
    session.stdin.write('still here')
    assert.equal(await word(), 'still here')
  })

  test('a peer that opens SSH connections without end is limited, and the others are not', async () => {
    load(rules('fortress'))
    ip('-netns', ns.peer, 'address', 'add', '10.66.0.3/24', 'dev', 'eth0')
    const answers = await ask(
      'peer',
      Array.from({ length: 80 }, () => ['tcp', '10.66.0.1', 22, '10.66.0.2'] as const),
    )
    const open = answers.filter((answer) => answer === 'open 10.66.0.2').length
    assert.equal(open >= 60 && open < 70, true, `${open} of 80 came in`)
    await expect([['peer', 'tcp', '10.66.0.1', 22, 'open 10.66.0.3', '10.66.0.3']])
  })

  test('listed egress lets out what the site lists, and of the host itself what it always needs', async () => {
    load(rules('fortress', listed))
    await expect([
      ...(['host', 'node'] as const).flatMap((who) => {
        const names = who === 'host' ? 'open 192.0.2.1' : 'silent'
        return [
          [who, 'tcp', '192.0.2.2', 80, 'open 192.0.2.1'] as const,
          [who, 'tcp', '192.0.2.2', 9418, 'open 192.0.2.1'] as const,
          [who, 'tcp', '192.0.2.2', 53, names] as const,
          [who, 'udp', '192.0.2.2', 53, names] as const,
          [who, 'udp', '192.0.2.2', 123, names] as const,
          [who, 'tcp', '192.0.2.2', 9999, 'silent'] as const,
          [who, 'udp', '192.0.2.2', 514, 'silent'] as const,
        ]
      }),
      ['host', 'tcp', '2001:db8::2', 80, 'open 2001:db8::1'],
      ['host', 'tcp', '2001:db8::2', 8080, 'silent'],
      ['peer', 'tcp', '10.66.0.1', 22, 'open 10.66.0.2'],
    ])
    const fetch = (user: string) =>
      spawnSync('ip', [
        'netns',
        'exec',
        ns.host,
        'setpriv',
        `--reuid=${user}`,
        '--clear-groups',
        'bash',
        '-c',
        'timeout 1 bash -c "exec 3<>/dev/tcp/198.51.100.7/443"',
      ]).status
    on('host', 'ip', 'route', 'add', '198.51.100.0/24', 'via', '192.0.2.2')
    ip('-netns', ns.stranger, 'address', 'add', '198.51.100.7/32', 'dev', 'eth0')
    assert.notEqual(fetch('_apt'), 124, 'apt is refused by the far side, not by the rules')
    assert.equal(fetch('nobody'), 124)
  })

  test('on a Raspberry Pi peers reach the API on the metal, and pods what the cluster needs of their node', async () => {
    ip('-netns', ns.host, 'link', 'set', 'virbr-fort', 'down')
    ip('-netns', ns.host, 'link', 'set', 'virbr-fort', 'name', 'lxc1a2b3c')
    ip('-netns', ns.host, 'link', 'set', 'lxc1a2b3c', 'up')
    ip('-netns', ns.host, 'address', 'add', '10.42.0.1/24', 'dev', 'lxc1a2b3c')
    ip('-netns', ns.node, 'address', 'add', '10.42.0.10/24', 'dev', 'eth0')
    load(rules('fortress-pi'))
    await expect([
      ['peer', 'tcp', '10.66.0.1', 22, 'open 10.66.0.2'],
      ['peer', 'tcp', '10.66.0.1', 6443, 'open 10.66.0.2'],
      ['peer', 'tcp', '10.66.0.1', 10250, 'silent'],
      ['peer', 'tcp', '192.0.2.2', 80, 'silent'],
      ['peer', 'tcp', '10.42.0.10', 443, 'silent'],
      ['stranger', 'tcp', '192.0.2.1', 6443, 'silent'],
      ['stranger', 'tcp', '10.42.0.10', 443, 'silent'],
      ['node', 'tcp', '10.42.0.1', 6443, 'open 10.42.0.10'],
      ['node', 'tcp', '10.42.0.1', 10250, 'open 10.42.0.10'],
      ['node', 'tcp', '10.42.0.1', 2379, 'silent'],
      ['node', 'tcp', '10.42.0.1', 80, 'silent'],
      ['node', 'tcp', '10.42.0.1', 22, 'silent'],
      ['node', 'tcp', '10.66.0.2', 22, 'silent'],
      ['host', 'tcp', '10.42.0.10', 22, 'open 10.42.0.1'],
    ])
  })

  test('nmap finds no open port among all of TCP, in IPv4 and IPv6', { skip: without('nmap') }, () => {
    load(rules('fortress'))
    for (const to of [['192.0.2.1'], ['-6', '2001:db8::1']]) {
      const words = nmap('-sS', '-p-', '--max-retries', '0', '--min-rate', '20000', ...to)
      assert.match(on('stranger', ...words), /Ignored State: filtered \(65535\)/)
    }
  })
})
