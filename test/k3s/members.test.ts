// The cluster of a site: its members, their configuration, and what a virtual machine gets of it with its first boot.
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { describe, test } from 'node:test'
import { parse } from 'yaml'
import type { Context } from '../../lib/engine/page.ts'
import { makeSshKey, sshPublicKey } from '../../lib/ground/keys.ts'
import { root } from '../../lib/ground/root.ts'
import { checkConfiguration, filesOf, fragmentOf } from '../../lib/k3s/configuration.ts'
import { clusterOf, k3sShell, memberOf, programOf } from '../../lib/k3s/members.ts'
import { loadConfig } from '../../lib/site/config.ts'
import { guestsOf, machinesFor } from '../../lib/site/machines.ts'
import type { Config } from '../../lib/site/model.ts'
import { ignition } from '../../lib/vm/ignition.ts'
import { estate, made, metal as boards } from '../site/made.ts'

const load = (site = 'fortress', env = {}) => loadConfig({ env, site })
const hostKey = makeSshKey('test')
const given = { nodeKey: `${sshPublicKey(hostKey)} ada@example.org`, hostKey }

/** The site with a metal node for each role in place of its own machines. */
const metal = (...roles: ('server' | 'agent')[]): Config => ({
  ...load('fortress-pi'),
  site: made({ name: 'fortress-pi', machines: boards(...roles) }),
})
const configuration = (config: Config, name: string) => {
  const member = clusterOf(config).find((found) => found.name === name)!
  return Object.fromEntries(filesOf(config, member).map(({ path, text }) => [path, parse(text) as object]))
}

/** What 10-node.yaml of a node says. */
const drop = (config: Config, name: string) =>
  configuration(config, name)['/etc/rancher/k3s/config.yaml.d/10-node.yaml'] as Record<string, unknown>

describe('the machines that pages run on', () => {
  test('the virtual machine of a site is reached through its host', () => {
    assert.deepEqual(
      machinesFor(load(), 'node').map(({ name, os, user, address, behind }) => ({
        name,
        os,
        user,
        address,
        behind,
      })),
      [{ name: 'fortress-node', os: 'flatcar', user: 'core', address: '10.77.0.2', behind: 'fortress' }],
    )
    assert.deepEqual(
      machinesFor(load(), 'host').map(({ name }) => name),
      ['fortress'],
    )
  })

  test('where the metal is the node it is reached as itself', () => {
    assert.deepEqual(machinesFor(load('fortress-pi'), 'node'), load('fortress-pi').site.machines)
  })

  test('a virtual machine that runs Talos is no node of k3s', () => {
    assert.deepEqual(machinesFor(load('fortress', { FK_NODE_OS: 'talos' }), 'node'), [])
  })
})

describe('the members of a cluster', () => {
  test('servers come first, in the order of the site, and the first of them initialises the cluster', () => {
    const members = clusterOf(metal('agent', 'server', 'agent', 'server', 'server'))
    assert.deepEqual(
      members.map(({ name, role, first }) => `${name} ${role}${first ? ' first' : ''}`),
      ['pi-2 server first', 'pi-4 server', 'pi-5 server', 'pi-1 agent', 'pi-3 agent'],
    )
  })

  test('the laptop finds the API in the tunnel on metal, and behind the host in a virtual machine', () => {
    assert.equal(clusterOf(load('fortress-pi'))[0]?.endpoint, '10.66.0.1')
    assert.deepEqual(
      clusterOf(metal('server', 'server')).map(({ endpoint }) => endpoint),
      ['10.66.0.1', '10.66.0.12'],
    )
    assert.equal(clusterOf(load())[0]?.endpoint, '10.77.0.2')
  })

  test('a machine that is no node is no member', () => {
    const context = { ...load(), machine: { name: 'fortress' } as Context['machine'] }
    assert.throws(() => memberOf(context), /fortress is no node of fortress/)
  })
})

describe('the configuration of a node', () => {
  test('the first initialises the cluster, the others join it at its address, and only the drop-in differs', () => {
    const config = metal('server', 'server', 'server')
    const [first, second] = [configuration(config, 'pi-1'), configuration(config, 'pi-2')]
    const own = '/etc/rancher/k3s/config.yaml.d/10-node.yaml'
    assert.deepEqual(first[own], {
      'node-name': 'pi-1',
      'node-ip': '192.0.2.11',
      'cluster-init': true,
      'tls-san': ['pi-1', '10.66.0.1', '192.0.2.11'],
      'cluster-cidr': '10.42.0.0/16',
      'service-cidr': '10.43.0.0/16',
    })
    assert.deepEqual(second[own], {
      'node-name': 'pi-2',
      'node-ip': '192.0.2.12',
      server: 'https://192.0.2.11:6443',
      'tls-san': ['pi-2', '10.66.0.12', '192.0.2.12'],
      'cluster-cidr': '10.42.0.0/16',
      'service-cidr': '10.43.0.0/16',
    })
    delete first[own]
    delete second[own]
    assert.deepEqual(first, second)
  })

  test('all but the first join at the address that moves, and each certificate has it and the names of the API', () => {
    const config = load()
    const api = { vip: '192.0.2.9', names: ['api.example.net'] }
    const site = made({
      name: 'fortress-pi',
      machines: boards('server', 'server', 'server', 'agent'),
      cluster: { api, pods: '10.32.0.0/16', services: '10.33.0.0/16' },
    })
    const of = (name: string) => drop({ ...config, site }, name)
    assert.deepEqual(
      ['pi-1', 'pi-2', 'pi-3', 'pi-4'].map((name) => [of(name)['cluster-init'], of(name)['server']]),
      [
        [true, undefined],
        [undefined, 'https://192.0.2.9:6443'],
        [undefined, 'https://192.0.2.9:6443'],
        [undefined, 'https://192.0.2.9:6443'],
      ],
    )
    assert.equal(String(of('pi-2')['tls-san']), 'pi-2,10.66.0.12,192.0.2.12,192.0.2.9,api.example.net')
    for (const name of ['pi-1', 'pi-3'])
      assert.deepEqual(
        [of(name)['cluster-cidr'], of(name)['service-cidr']],
        ['10.32.0.0/16', '10.33.0.0/16'],
        name,
      )
    assert.deepEqual([of('pi-4')['cluster-cidr'], of('pi-4')['tls-san']], [undefined, undefined])
  })

  test('a node has its labels and taints, and a server takes no pods where the site says so', () => {
    const [first, second] = boards('server', 'agent')
    const site = made({
      machines: [
        first!,
        {
          ...second!,
          labels: { disk: 'fast', 'example.net/rack': '2' },
          taints: ['dedicated=media:NoSchedule'],
        },
      ],
      cluster: { servers_take_pods: false },
    })
    const of = (name: string) => drop({ ...load(), site }, name)
    assert.deepEqual(of('pi-2')['node-label'], ['disk=fast', 'example.net/rack=2'])
    assert.deepEqual(of('pi-2')['node-taint'], ['dedicated=media:NoSchedule'])
    assert.deepEqual(of('pi-1')['node-taint'], ['node-role.kubernetes.io/control-plane=:NoSchedule'])
    assert.equal('node-taint' in drop(metal('server'), 'pi-1'), false)
    const config = { ...load(), site }
    assert.doesNotThrow(() => checkConfiguration(config))
  })

  test('a virtual machine and metal of one site join at the first server, each with its own address', () => {
    const site = estate()
    const of = (name: string) => drop({ ...load(), site }, name)
    assert.deepEqual(
      ['north-1', 'south-1', 'metal'].map((name) => [of(name)['node-ip'], of(name)['server']]),
      [
        ['10.77.0.2', undefined],
        ['10.78.0.2', 'https://10.77.0.2:6443'],
        ['192.0.2.30', 'https://10.77.0.2:6443'],
      ],
    )
  })

  test('an agent gets nothing of the control plane', () => {
    const files = configuration(metal('server', 'agent'), 'pi-2')
    assert.deepEqual(Object.keys(files), [
      '/etc/rancher/k3s/config.yaml',
      '/etc/rancher/k3s/config.yaml.d/10-node.yaml',
    ])
    assert.doesNotMatch(JSON.stringify(files), /apiserver|etcd|secrets-encryption|cluster-init|agent-token/)
  })

  test('files that the configuration names are among those that the node gets', () => {
    const files = configuration(load(), 'fortress-node')
    const server = files['/etc/rancher/k3s/config.yaml'] as Record<string, string[]>
    const named = (server['kube-apiserver-arg'] ?? []).flatMap((arg) => /=(\/etc\/.*)$/.exec(arg)?.[1] ?? [])
    assert.equal(named.length, 2)
    for (const path of named) assert.ok(path in files, path)
  })
})

describe('what a virtual machine gets of k3s with its first boot', () => {
  const bootOf = (config = load()) => {
    const node = guestsOf(config.site)[0]!
    return ignition(config, node, { ...given, fragments: [fragmentOf(config, node.name)] })
  }

  test('the pinned program of its architecture, with its hash, where another version can stand beside it', () => {
    for (const arch of ['amd64', 'arm64'] as const) {
      const config = structuredClone(load())
      for (const machine of config.site.machines) machine.arch = arch
      const { version, path } = programOf(config, arch)
      const pin = config.pins['k3s']!
      assert.deepEqual(
        bootOf(config).storage!.files!.find((file) => file.path === path),
        {
          path: `/opt/k3s/${version}/k3s`,
          mode: 0o755,
          contents: { source: pin.url[arch], verification: { hash: `sha256-${pin.sha256![arch]}` } },
        },
      )
      const link = bootOf(config).storage!.links!.find((found) => found.path === '/opt/bin/k3s')
      assert.equal(link?.target, `../k3s/${version}/k3s`)
    }
  })

  test('its configuration, for root alone, and no secret: k3s starts when the tokens are there', () => {
    const config = bootOf()
    const files = config.storage!.files!.filter(({ path }) => path.startsWith('/etc/rancher/'))
    assert.deepEqual(files.map(({ path, mode }) => `${path} ${mode?.toString(8)}`).sort(), [
      '/etc/rancher/k3s/admission.yaml 600',
      '/etc/rancher/k3s/audit.yaml 600',
      '/etc/rancher/k3s/config.yaml 600',
      '/etc/rancher/k3s/config.yaml.d/10-node.yaml 600',
    ])
    const unit = config.systemd!.units!.find(({ name }) => name === 'k3s.service')
    assert.equal(unit?.enabled, true)
    assert.match(unit?.contents ?? '', /^ConditionPathExists=\/etc\/rancher\/k3s\/token$/m)
    assert.match(
      unit?.contents ?? '',
      /^ExecStart=\/opt\/bin\/k3s server --config \/etc\/rancher\/k3s\/config\.yaml$/m,
    )
  })

  test('nothing, while k3s is not pinned for it', () => {
    const config = structuredClone(load())
    delete config.pins['k3s']!.url.amd64
    assert.throws(() => bootOf(config), { message: 'config/versions.yaml has no k3s for amd64' })
  })
})

describe('why k3s does not run', () => {
  /** What is said where the journal has these lines, the newest last, and systemd says this of the unit. */
  const said = (
    lines: string[],
    state = 'ActiveState=activating\nSubState=start\nResult=success\nNRestarts=0',
  ) => {
    const machine = `
      journalctl() { local words=" $* "; [[ $words =~ --lines=([0-9]+) ]]; tail --lines="\${BASH_REMATCH[1]}" <<< "$LINES_OF_IT"; }
      systemctl() { echo "$STATE"; }
      k3s_said`
    const { stdout, stderr } = spawnSync('bash', ['--norc', '-s'], {
      input: `${k3sShell.text}\nset -euo pipefail\n${machine}\n`,
      encoding: 'utf8',
      env: { ...process.env, LINES_OF_IT: lines.join('\n'), STATE: state },
    })
    return stdout + stderr
  }
  const start = Array.from({ length: 3000 }, (_, i) => `I1127 line ${i} of a start`)

  test('the reason of one start is found behind all that the next one writes', () =>
    assert.equal(
      said(['time="2026-11-27" level=fatal msg="etcd exited"', ...start]),
      'time="2026-11-27" level=fatal msg="etcd exited"\n',
    ))

  test('without an error it is what systemd says, so that one that still starts is told from one that has ended', () =>
    assert.equal(
      said(start),
      'its journal has no error; ActiveState=activating SubState=start Result=success NRestarts=0\n',
    ))
})

describe(
  'what an earlier k3s has left in the kernel of a node',
  { skip: process.getuid?.() !== 0 && 'it needs root' },
  () => {
    const asked = (before: string) => {
      const line = `. lib/k3s/members.sh; ${before}; k3s_alone`
      const words = ['--net', 'bash', '--noprofile', '--norc', '-euo', 'pipefail', '-c', line]
      const { status, stdout, stderr } = spawnSync('unshare', words, { cwd: root, encoding: 'utf8' })
      return [status, stdout + stderr]
    }
    /** A node without rules, or with those of kube-proxy. */
    const rules = (more = '') =>
      `iptables-save() { printf '%s\\n' '*nat' ':PREROUTING ACCEPT [0:0]' ${more} COMMIT; }`

    test('is nothing where there is none of it', () => {
      assert.deepEqual(asked(`${rules()}; ip link add cilium_vxlan type vxlan id 1 dstport 8472`), [0, ''])
    })

    test('is the interface of flannel, by its name', () => {
      const flannel = 'ip link add flannel.1 type vxlan id 1 dstport 8472 nolearning'
      assert.deepEqual(asked(`${rules()}; ${flannel}`), [1, 'interface flannel.1\n'])
    })

    test('is what kube-proxy has written', () => {
      const proxy = `':KUBE-SERVICES - [0:0]' '-A PREROUTING -j KUBE-SERVICES'`
      assert.deepEqual(asked(rules(proxy)), [1, 'chain KUBE-SERVICES of iptables\n'])
    })
  },
)
