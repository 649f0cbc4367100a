// Three servers and two agents that know each other by one address, which keepalived moves: built by the pages, then killed.
import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { type Fleet, fleet } from '../machine/fleet.ts'
import { differences } from '../machine/kit.ts'
import { left, printOf, runPrinted, sameLeft } from '../machine/printed.ts'
import { noSysctl, patience, program, untilReady, version } from './kit.ts'

const missing = program === undefined ? 'kube-bed is not installed' : undefined

const bridge = 'fk-test-lan'

/** The nodes of the lab have a network each; these get one that they share, as servers of one site have. */
function plugIn(names: string[]): void {
  const ip = (...words: string[]) => execFileSync('ip', words)
  ip('link', 'add', bridge, 'type', 'bridge')
  ip('address', 'add', '10.79.0.1/24', 'dev', bridge)
  ip('link', 'set', bridge, 'up')
  for (const [i, name] of names.entries()) {
    ip('link', 'add', `fk-lan-${i}`, 'type', 'veth', 'peer', 'name', 'lan0', 'netns', `fk-${name}`)
    ip('link', 'set', `fk-lan-${i}`, 'master', bridge, 'up')
    ip('-netns', `fk-${name}`, 'address', 'add', `10.79.0.${11 + i}/24`, 'dev', 'lan0')
    ip('-netns', `fk-${name}`, 'link', 'set', 'lan0', 'up')
  }
}

describe('one address for the API of three servers', { skip: missing }, () => {
  let cluster: Fleet
  const vip = '10.79.0.250'
  const servers = ['move-1', 'move-2', 'move-3']
  const good = async (...words: string[]) => {
    const { code, text } = await cluster.task(...words)
    assert.equal(code, 0, text)
    return text
  }
  const holders = async () =>
    (
      await Promise.all(
        servers.map(async (name) =>
          (await cluster.on(name, 'ip -oneline -4 address show')).includes(` ${vip}/32 `) ? [name] : [],
        ),
      )
    ).flat()
  /** Bash for another machine: asks the address twenty times a second, and prints the longest silence in milliseconds. */
  const silence = (seconds: number) => `
    dir=/var/lib/rancher/k3s/agent longest=0 last=$(date +%s%3N) end=$(($(date +%s) + ${seconds}))
    while [ "$(date +%s)" -lt "$end" ]; do
      if [ "$(curl --silent --max-time 0.5 --cacert $dir/server-ca.crt --cert $dir/client-kubelet.crt \\
        --key $dir/client-kubelet.key 'https://${vip}:6443/livez?exclude=etcd')" = ok ]; then
        now=$(date +%s%3N)
        [ $((now - last)) -le "$longest" ] || longest=$((now - last))
        last=$now
      fi
      sleep 0.05
    done
    now=$(date +%s%3N)
    [ $((now - last)) -le "$longest" ] || longest=$((now - last))
    echo "$longest"`

  before(async () => {
    const roles = ['server', 'server', 'server', 'agent', 'agent'] as const
    cluster = await fleet('move', [...roles], () => readFileSync(program!), { net: true })
    cluster.pin(version)
    plugIn(cluster.names)
    cluster.site((site) => {
      site['networks'] = [{ name: 'lan', network: '10.79.0.0/24' }]
      site['cluster'] = { api: { vip, keeper: 'keepalived', names: ['api.example.net'] } }
      site['tunnel'] = { kind: 'none' }
      for (const [i, machine] of (site['machines'] as Record<string, unknown>[]).entries()) {
        machine['address'] = `10.79.0.${11 + i}`
        delete machine['tunnel_address']
      }
    })
    cluster.env['FK_HOST'] = 'admin@10.79.0.11'
    for (const name of cluster.names) {
      const more = servers.includes(name) ? { ...noSysctl, ...patience } : noSysctl
      for (const [path, text] of Object.entries(more))
        await cluster.on(name, `install -D --mode=600 /dev/stdin ${path}`, text)
      await cluster.on(name, 'install --directory /opt/bin')
    }
    await good('host-vip', 'apply')
    assert.deepEqual(await holders(), [], 'the address stands nowhere before an API answers')
    await good('k3s-server', 'apply')
    await good('k3s-join', 'apply')
    // The one that looks from outside.
    await cluster.on(
      'move-4',
      'apt-get --quiet=2 update && DEBIAN_FRONTEND=noninteractive apt-get --quiet=2 --yes --no-install-recommends install curl',
    )
    assert.ok(
      Number(await cluster.on('move-4', silence(2))) < 1000,
      'the address answers while nothing happens',
    )
  })
  after(async () => {
    await cluster?.end()
    execFileSync('ip', ['link', 'delete', bridge])
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
    for (const page of ['host-vip', 'k3s-server', 'k3s-join']) {
      const text = await good(page, 'apply')
      assert.doesNotMatch(text, /\bchanged\b.*[1-9]|^ *changed /m, text)
    }
    await good('host-vip', 'verify')
  })

  test('the kubeconfig names it, and opens the cluster', async () => {
    await good('node', 'kubeconfig', 'move-1')
    const text = readFileSync(join(cluster.state, 'fortress-pi/move-1.kubeconfig'), 'utf8')
    assert.match(text, new RegExp(`server: https://${vip.replaceAll('.', '\\.')}:6443`))
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

  test('what the page prints leaves the same as apply', async () => {
    const name = 'move-3'
    const kit = {
      machine: cluster.machineOf(name),
      state: cluster.state,
      root: async (command: string, input?: string) => {
        try {
          return { code: 0, stdout: await cluster.on(name, command, input), stderr: '' }
        } catch (error) {
          return { code: 1, stdout: '', stderr: String(error) }
        }
      },
      page: (file: string, ...words: string[]) => cluster.page(file, ...words),
    }
    const applied = await left(kit)
    await cluster.on(
      name,
      `systemctl disable --now keepalived 2> /dev/null
       rm --recursive /etc/keepalived/{keepalived,interface}.conf /etc/systemd/system/keepalived.service.d \\
         /usr/local/sbin/fortress-api-answers`,
    )
    await runPrinted(kit, await printOf(kit, '07-host-vip', name), { site: 'fortress-pi' })
    sameLeft(applied, await left(kit))
  })

  test('each server is killed five times: the address moves within five seconds, and never stands twice', async (t) => {
    const measured: number[] = []
    const silent: number[] = []
    const seen = new Map(servers.map((name) => [name, 0]))
    for (let round = 0; [...seen.values()].some((times) => times < 5); round++) {
      assert.ok(round < 40, `the address does not go round: ${JSON.stringify([...seen])}`)
      const [holder, ...more] = await holders()
      assert.ok(holder !== undefined && more.length === 0, `${holder} ${more.join()}`)
      // In turn: the API server alone, keepalived alone, both at once.
      const victims = ['k3s', 'keepalived', 'k3s keepalived'][round % 3]!
      const asked = cluster.on('move-4', silence(9))
      await cluster.on(
        holder,
        `mkdir --parents /run/systemd/system/k3s.service.d
         printf '[Service]\\nRestartSec=8\\n' > /run/systemd/system/k3s.service.d/later.conf; systemctl daemon-reload
         systemctl kill --signal=KILL ${victims}`,
      )
      const twice: string[][] = []
      const began = Date.now()
      let [moved, gone] = [Infinity, false]
      while (Date.now() < began + 6000) {
        const now = await holders()
        if (now.length > 1) twice.push(now)
        gone ||= now.length === 0
        if (now.length === 1 && (gone || now[0] !== holder)) moved = Math.min(moved, Date.now() - began)
      }
      measured.push(moved)
      silent.push(Number(await asked))
      assert.deepEqual(twice, [], `in round ${round}`)
      seen.set(holder, (seen.get(holder) ?? 0) + 1)
      await cluster.on(holder, `(${untilReady(120)}) || { journalctl --unit=k3s --lines=30 >&2; exit 1; }`)
    }
    t.diagnostic(
      `${measured.length} kills: the address moved after ${Math.max(...measured)} ms at most, ` +
        `and an agent got no answer for ${silent.toSorted((a, b) => a - b).join(', ')} ms`,
    )
    assert.ok(Math.max(...measured) <= 5000, measured.join(' '))
    assert.ok(Math.max(...silent) <= 5500, silent.join(' '))
  })

  test('undo takes the address away, and leaves nothing of it', async () => {
    const before = await cluster.on('move-1', 'find /etc/keepalived /usr/local/sbin | sort')
    assert.match(before, /fortress-api-answers/)
    await good('host-vip', 'undo')
    assert.deepEqual(await holders(), [])
    for (const name of servers)
      assert.deepEqual(
        differences(
          '',
          await cluster.on(name, 'find /etc/keepalived /usr/local/sbin -type f 2> /dev/null || true'),
        ),
        [],
      )
  })
})
