// A site of three servers and two agents, from bare machines by one command: they know each other by one address, which
// keepalived moves. Then what pages print is held against it, and each server is killed.
import assert from 'node:assert/strict'
import { cpSync, readFileSync, readdirSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { makePassphrase } from '../../lib/ground/passphrase.ts'
import { which } from '../../lib/ground/laptop.ts'
import { secretStore } from '../../lib/ground/secret.ts'
import { complete } from '../../lib/site/defaults.ts'
import type { SiteDocument } from '../../lib/site/model.ts'
import { type Fleet, fleet } from '../machine/fleet.ts'
import { type Lan, lan } from '../machine/lan.ts'
import { noLaptop } from '../machine/laptop.ts'
import { left, printOf, runPrinted, sameLeft } from '../machine/printed.ts'
import { without } from '../programs.ts'
import { noSysctl, patience, pinAge, program, untilReady, version } from '../cluster/kit.ts'

const missing = program === undefined ? 'kube-bed is not installed' : noLaptop || without('age', 'tar')

/** Every change of a run with --json: machine, page and step. */
const changesOf = (text: string): string[] => {
  let place = ''
  return text.split('\n').flatMap((line) => {
    if (!line.startsWith('{')) return []
    const { event, name, machine, state } = JSON.parse(line) as Record<string, string>
    if (event === 'page') place = `${machine?.split(' ')[0]} ${name}`
    return event === 'step' && state === 'changed' ? [`${place}: ${name}`] : []
  })
}

/** The lines that a site has whose document has none. */
const presetOf = (document: object) => complete(document as SiteDocument).router

describe('a site of three servers and two agents', { skip: missing }, () => {
  let cluster: Fleet
  let site: Lan
  /** What the build has changed. */
  let built: string[]
  const vip = '10.79.0.250'
  const servers = ['move-1', 'move-2', 'move-3']
  const good = async (...words: string[]) => {
    const { code, text } = await cluster.task(...words)
    assert.equal(code, 0, text)
    return text
  }
  /** One machine, as the helpers of printed pages know one. */
  const kitOf = (name: string) => cluster.kitOf(name)
  /** What a page prints for each of these machines, run there. Nobody waits for another. */
  const printed = (page: string, names: string[]) =>
    Promise.all(
      names.map(async (name) =>
        runPrinted(kitOf(name), await printOf(kitOf(name), page, name), { site: 'fortress-pi' }),
      ),
    )
  /** The machines that are hardened by what page 00 prints, before there is anything else. */
  const byHand = ['move-1', 'move-2', 'move-4']
  /**
   * What differs between two machines that are hardened alike: what later pages make of their names, addresses and roles. And a
   * password of GRUB is hashed with another salt each time.
   */
  const own = new RegExp(
    [
      '/etc/(rancher|wireguard|keepalived|nftables\\.d|nftables\\.conf|fortress|systemd/system/(k3s|fortress-backup))',
      '/var/lib/fortress/(k3s|secret|backup)|/opt/(k3s|bin|age)|/usr/local/(sbin|bin)/',
      '10\\.(79|66)\\.0\\.|fortress-backup\\.| /etc/grub\\.d/01_fortress$',
    ].join('|'),
  )
  const inside = ['10.66.0.1', '10.66.0.12', '10.66.0.13', '10.66.0.14', '10.66.0.15']
  const enter = () => site.enter(join(cluster.state, 'fortress-pi/laptop.conf'), inside)
  const leftOn = (names: string[]) => Promise.all(names.map((name) => left(kitOf(name))))
  const holders = async () =>
    (
      await Promise.all(
        servers.map(async (name) =>
          (await cluster.on(name, 'ip -oneline -4 address show')).includes(` ${vip}/32 `) ? [name] : [],
        ),
      )
    ).flat()
  /** Waits until the address stands on one of them. */
  const held = async () => {
    for (const end = Date.now() + 20_000; (await holders()).length === 0;)
      assert.ok(Date.now() < end, 'the address stands nowhere')
  }
  /** Bash for another machine: asks the address twenty times a second until /run/enough is there, and prints silences in ms. */
  const silences = `
    dir=/var/lib/rancher/k3s/agent last=$(date +%s%3N)
    answered() {
      [ "$(curl --silent --max-time 0.5 --cacert $dir/server-ca.crt --cert $dir/client-kubelet.crt \\
        --key $dir/client-kubelet.key 'https://${vip}:6443/livez?exclude=etcd')" = ok ]
    }
    until [ -e /run/enough ]; do
      if answered; then
        now=$(date +%s%3N)
        [ $((now - last)) -le 500 ] || echo $((now - last))
        last=$now
      fi
      sleep 0.05
    done
    now=$(date +%s%3N)
    [ $((now - last)) -le 500 ] || echo $((now - last))
    rm /run/enough`

  before(async () => {
    site = await lan()
    const roles = ['server', 'server', 'server', 'agent', 'agent'] as const
    cluster = await fleet('move', [...roles], () => readFileSync(program!), { net: true, laptop: site.place })
    cluster.pin(version)
    pinAge(cluster.copy, join(cluster.state, 'downloads'))
    site.plugIn(cluster.names)
    cluster.site((document) => {
      document['networks'] = [
        { name: 'lan', network: '10.79.0.0/24' },
        { name: 'lab', network: '10.78.0.0/16' },
      ]
      document['cluster'] = { api: { vip, keeper: 'keepalived', names: ['api.example.net'] } }
      delete document['accepted']
      for (const [i, machine] of (document['machines'] as Record<string, unknown>[]).entries())
        machine['address'] = site.addressOf(i)
      // Who looks on, from the network of the lab, comes in besides.
      const { allow, never } = presetOf(document)
      document['devices'] = [{ name: 'desk', kind: 'workstation', address: '10.78.0.1' }]
      const desk = { from: 'device:desk', to: 'router', ports: ['tcp/22'], why: 'the tests' }
      // What k3s serves beside the API on one port, kube-bed serves on another.
      const supervisor = { from: 'lan', to: 'router', ports: ['tcp/9345'], why: 'kube-bed' }
      document['router'] = { allow: [desk, supervisor, ...allow], never }
    })
    cluster.env['FK_HOST'] = `admin@${site.addressOf(0)}`
    for (const name of cluster.names) {
      const more = servers.includes(name) ? { ...noSysctl, ...patience } : noSysctl
      for (const [path, text] of Object.entries(more))
        await cluster.on(name, `install -D --mode=600 /dev/stdin ${path}`, text)
      // The container has no module; its kernel may be anything.
      cpSync(which('wireguard-go')!, join(cluster.machineOf(name).dir, 'root/usr/bin/wireguard-go'))
    }
    await good('peer', 'show', 'laptop')
    await enter()
    // Three machines are hardened by hand, from what the page prints; all that is left is one command.
    const store = secretStore({
      dir: join(cluster.state, 'fortress-pi'),
      identity: cluster.env['FK_AGE_IDENTITY']!,
    })
    for (const name of byHand) await store.get(`${name}-boot-password`, makePassphrase)
    await printed('00-host-harden', byHand)
    // The stand-in for k3s runs no pods here: their network is for the node tier.
    const pages = join(cluster.copy.dir, 'scripts')
    for (const page of readdirSync(pages).filter((file) => /^[3-9]/.test(file))) rmSync(join(pages, page))
    built = changesOf(await good('build-all', '--yes', '--json'))
  })
  after(async () => {
    await site?.end()
    await cluster?.end()
  })

  test('a printed page and apply leave the same on bare machines, and the build finds nothing to do there', async () => {
    const hardened = (name: string) => built.filter((line) => line.startsWith(`${name} 00-host-harden: `))
    for (const name of byHand) assert.deepEqual(hardened(name), [])
    for (const name of ['move-3', 'move-5']) assert.ok(hardened(name).length > 40, hardened(name).join('\n'))
    for (const [name, other] of [
      ['move-3', 'move-1'],
      ['move-3', 'move-2'],
      ['move-5', 'move-4'],
    ] as const) {
      const [applied, printed] = await leftOn([name, other])
      sameLeft(applied!, printed!, own)
    }
  })

  test('nodes join by it, certificates name it, and a second run changes nothing', async () => {
    for (const name of cluster.names.slice(1))
      assert.match(
        await cluster.on(name, 'cat /etc/rancher/k3s/config.yaml.d/10-node.yaml'),
        new RegExp(`^server: https://${vip.replaceAll('.', '\\.')}:6443$`, 'm'),
      )
    const names = await cluster.on(
      'move-2',
      `openssl s_client -connect ${vip}:6443 < /dev/null 2> /dev/null | openssl x509 -noout -ext subjectAltName`,
    )
    assert.ok(names.includes(`IP Address:${vip}`) && names.includes('DNS:api.example.net'), names)
    assert.deepEqual(changesOf(await good('build-all', '--yes', '--json')), [])
  })

  test('the kubeconfig names it where the tunnel does not lead to each server, and opens the cluster', async () => {
    const file = join(cluster.state, 'fortress-pi/move-1.kubeconfig')
    const server = async () => {
      await good('node', 'kubeconfig', 'move-1')
      return /server: (\S+)/.exec(readFileSync(file, 'utf8'))?.[1]
    }
    assert.equal(await server(), 'https://10.66.0.1:6443')
    let document = {}
    cluster.site((now) => {
      document = structuredClone(now)
      now['tunnel'] = { kind: 'none' }
      delete now['router']
      for (const machine of now['machines'] as Record<string, unknown>[]) delete machine['tunnel_address']
    })
    assert.equal(await server(), `https://${vip}:6443`)
    cluster.site((now) => Object.assign(now, document))
    const text = readFileSync(file, 'utf8')
    const nodes = await cluster.on(
      'move-3',
      'umask 077; cat > /root/config; /opt/bin/k3s kubectl --kubeconfig /root/config get nodes --output name; rm /root/config',
      text,
    )
    assert.deepEqual(
      nodes.trim().split('\n').toSorted(),
      cluster.names.map((name) => `node/${name}`).toSorted(),
    )
  })

  test('tunnel, firewall and keepalived are taken back, and what pages print leaves each machine as apply did', async () => {
    const pages = ['05-host-wireguard', '06-host-firewall', '07-host-vip']
    const applied = await leftOn(cluster.names)
    for (const page of pages.toReversed()) await good(page.slice(3), 'undo', '--yes')
    assert.deepEqual(await holders(), [])
    for (const name of cluster.names)
      assert.equal(
        await cluster.on(
          name,
          `find /etc/keepalived /etc/wireguard /etc/nftables.d /usr/local/sbin -type f 2> /dev/null || true
           nft list table inet fortress 2> /dev/null || true
           ip link show wg0 2> /dev/null || true`,
        ),
        '',
      )
    for (const page of pages) {
      await printed(page, cluster.names)
      // The interfaces are new, and know of no session.
      if (page !== '05-host-wireguard') continue
      await enter()
      await site.meets(inside)
    }
    await held()
    for (const [i, text] of (await leftOn(cluster.names)).entries()) sameLeft(applied[i]!, text)
  })

  const kills = 5
  test('each server is killed five times: the address moves within five seconds, and never stands twice', async (t) => {
    // The one that looks from outside.
    await cluster.on(
      'move-4',
      'DEBIAN_FRONTEND=noninteractive apt-get --quiet=2 --yes --no-install-recommends install curl',
    )
    const asked = cluster.on('move-4', silences)
    // Looks on all the time, also while who was killed comes back.
    const twice: string[][] = []
    let [now, looks, watching] = [await holders(), 0, true]
    const watch = (async () => {
      for (; watching; looks++) {
        now = await holders()
        if (now.length > 1) twice.push(now)
      }
    })()
    const measured: number[] = []
    const seen = new Map(servers.map((name) => [name, 0]))
    try {
      for (let round = 0; [...seen.values()].some((times) => times < kills); round++) {
        assert.ok(round < 40, `the address does not go round: ${JSON.stringify([...seen])}`)
        const [holder, ...more] = now
        assert.ok(holder !== undefined && more.length === 0, `${holder} ${more.join()}`)
        // In turn: the API server alone, keepalived alone, both at once.
        const victims = ['k3s', 'keepalived', 'k3s keepalived'][round % 3]!
        await cluster.on(
          holder,
          `mkdir --parents /run/systemd/system/k3s.service.d
           printf '[Service]\\nRestartSec=5\\n' > /run/systemd/system/k3s.service.d/later.conf; systemctl daemon-reload
           systemctl kill --signal=KILL ${victims}`,
        )
        const [began, from] = [Date.now(), looks]
        let gone = false
        // The look that was under way may be older than the kill.
        while (!(looks > from + 1 && now.length === 1 && (gone || now[0] !== holder))) {
          gone ||= looks > from + 1 && now.length === 0
          assert.ok(Date.now() - began <= 6000, `in round ${round} the address of ${holder} does not move`)
          await sleep(20)
        }
        measured.push(Date.now() - began)
        seen.set(holder, (seen.get(holder) ?? 0) + 1)
        await cluster.on(holder, `(${untilReady(120)}) || { journalctl --unit=k3s --lines=30 >&2; exit 1; }`)
      }
    } finally {
      watching = false
      await watch
      await cluster.on('move-4', 'touch /run/enough')
    }
    const silent = (await asked).split('\n').filter(Boolean).map(Number)
    assert.deepEqual(twice, [])
    t.diagnostic(
      `${measured.length} kills: the address moved after ${Math.max(...measured)} ms at most, ` +
        `and an agent got no answer for ${silent.toSorted((a, b) => a - b).join(', ')} ms`,
    )
    assert.ok(Math.max(...measured) <= 5000, measured.join(' '))
    assert.ok(Math.max(...silent) <= 5500, silent.join(' '))
  })
})
