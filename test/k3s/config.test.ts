import assert from 'node:assert/strict'
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { basename, join } from 'node:path'
import { describe, test } from 'node:test'
import { parse } from 'yaml'
import { describe as told } from '../../lib/ground/document.ts'
import { type K3sFile, type K3sNode, checkCluster, checkK3s } from '../../lib/k3s/check/config.ts'
import { allFlags, demanded, refusals, secrets, switches } from '../../lib/k3s/check/flags.ts'
import { filesOf } from '../../lib/k3s/configuration.ts'
import { clusterOf } from '../../lib/k3s/members.ts'
import { loadConfig } from '../../lib/site/config.ts'
import { made, metal } from '../site/made.ts'

const root = join(import.meta.dirname, '../..')
const fixtures = 'test/fixtures/k3s'
const read = (path: string) => readFileSync(join(root, path), 'utf8')
const list = (dir: string) => (existsSync(join(root, dir)) ? readdirSync(join(root, dir)).sort() : [])
const version = loadConfig({ env: {}, site: 'fortress' }).pins['k3s']!.version

/** The files of a directory, under the names they have on a node. */
function filesIn(dir: string): K3sFile[] {
  const names = [
    ...list(dir).filter((name) => name.endsWith('.yaml')),
    ...list(`${dir}/config.yaml.d`).map((name) => `config.yaml.d/${name}`),
  ]
  return names.map((name) => ({
    path: `/etc/rancher/k3s/${name}`,
    file: name,
    text: read(`${dir}/${name}`),
  }))
}

/** A fixture is the files in which it differs from a node that is right. */
function fixture(kind: string, name: string): { files: K3sFile[]; role: 'server' | 'agent' } {
  const role = name.startsWith('agent-') ? 'agent' : 'server'
  const own = filesIn(`${fixtures}/${kind}/${name}`)
  const base = filesIn(`${fixtures}/${role}`).filter(({ path }) => !own.some((file) => file.path === path))
  return { files: [...own, ...base], role }
}

const refusal = (files: K3sFile[], role: 'server' | 'agent'): string =>
  checkK3s(files, { role, version })
    .map((fault) => `${told(fault)}\n`)
    .join('')

describe('a node whose configuration is right is accepted', () => {
  for (const role of ['server', 'agent'] as const)
    test(`the ${role} that the others are made of`, () => {
      assert.equal(refusal(filesIn(`${fixtures}/${role}`), role), '')
    })
  for (const name of list(`${fixtures}/valid`))
    test(name.replaceAll('-', ' '), () => {
      const { files, role } = fixture('valid', name)
      assert.equal(refusal(files, role), '')
    })
})

describe('what is wrong is refused, every fault with its line', () => {
  const names = list(`${fixtures}/invalid`)
  for (const name of names)
    test(name.replaceAll('-', ' '), () => {
      const { files, role } = fixture('invalid', name)
      const said = refusal(files, role)
      assert.equal(said, read(`${fixtures}/invalid/${name}/expected.txt`))
      assert.doesNotMatch(said, /hunter2|12345/, 'a secret is shown')
    })

  test('and every fixture has at least one', () => {
    assert.ok(names.length >= 30)
    for (const name of names) assert.notEqual(read(`${fixtures}/invalid/${name}/expected.txt`), '', name)
  })
})

test('every rule has a fixture that breaks it', () => {
  const said = list(`${fixtures}/invalid`).flatMap((name) => {
    const { files, role } = fixture('invalid', name)
    return checkK3s(files, { role, version }).map(
      ({ path, reason }) => `${path.replaceAll('"', '')} ${reason}`,
    )
  })
  const broken = (pattern: RegExp) =>
    assert.ok(
      said.some((line) => pattern.test(line)),
      String(pattern),
    )
  for (const [program, flags] of Object.entries(refusals))
    for (const flag of Object.keys(flags)) broken(new RegExp(`^${program}-arg\\+?\\[\\d+\\] ${flag} `))
  for (const { key } of demanded) broken(new RegExp(`^${key} is missing`))
  for (const [key, { is }] of Object.entries(switches)) broken(new RegExp(`^${key} is ${is}`))
  for (const key of Object.keys(secrets)) broken(new RegExp(`^${key} is a secret`))
})

describe('what we render', () => {
  for (const site of list('config/sites').map((name) => basename(name, '.yaml')))
    test(`is accepted on every node of ${site}`, () => {
      const config = loadConfig({ env: {}, site })
      const nodes = clusterOf(config).map((member) => ({ ...member, files: filesOf(config, member) }))
      assert.equal(checkCluster(nodes, version).map(told).join('\n'), '')
    })

  test('is accepted on servers and agents of one cluster', () => {
    const roles = ['server', 'server', 'server', 'agent'] as const
    const config = { site: made({ machines: metal(...roles) }) }
    const members = clusterOf(config)
    assert.deepEqual(
      members.map(({ role }) => role),
      roles,
    )
    const nodes = members.map((member) => ({ ...member, files: filesOf(config, member) }))
    assert.equal(checkCluster(nodes, version).map(told).join('\n'), '')
  })

  test('shares images between nodes where the site says so, and nowhere else', () => {
    const filesIn = (more: object) => {
      const config = { site: made({ machines: metal('server', 'agent'), ...more }) }
      return clusterOf(config).map((member) => filesOf(config, member))
    }
    for (const [i, files] of filesIn({ cluster: { mirror: 'embedded' } }).entries()) {
      const own = parse(files.find(({ path }) => path.endsWith('10-node.yaml'))!.text) as Record<
        string,
        unknown
      >
      assert.equal(own['embedded-registry'], i === 0 ? true : undefined)
      const registries = files.find(({ path }) => path === own['private-registry'])
      assert.deepEqual(parse(registries!.text), { mirrors: { '*': {} } })
    }
    for (const files of filesIn({})) assert.doesNotMatch(JSON.stringify(files), /registries/)
  })

  test('uses only keys that are flags of the pinned version', () => {
    const flags = allFlags().get(version.replace(/^v([0-9]+\.[0-9]+).*/, '$1'))!
    for (const [name, role] of [
      ['config.yaml', 'server'],
      ['agent.yaml', 'agent'],
    ] as const)
      for (const key of Object.keys(parse(read(`config/k3s/${name}`)) as object))
        assert.ok(flags[role].flags.has(key), `${name}: ${key}`)
  })
})

describe('the servers of one cluster', () => {
  const node = (name: string, more: string, change = (text: string) => text): K3sNode => ({
    name,
    role: 'server',
    files: [
      ...filesIn(`${fixtures}/server`)
        .filter(({ path }) => !path.includes('.d/'))
        .map((file) => ({ ...file, text: change(file.text) })),
      {
        path: '/etc/rancher/k3s/config.yaml.d/50-node.yaml',
        file: `${name}/config.yaml.d/50-node.yaml`,
        text: more,
      },
    ],
  })
  const first = node('k3s-1', 'cluster-init: true\n')
  const join = 'server: https://10.0.0.1:6443\n'
  const said = (...nodes: K3sNode[]) => checkCluster(nodes, version).map(({ path, reason }) => [path, reason])

  test('agree', () => {
    assert.deepEqual(said(first, node('k3s-2', join), node('k3s-3', join)), [])
  })

  test('are refused when one says another thing about what must be the same', () => {
    const other = node('k3s-2', `${join}egress-selector-mode: pod\n`, (text) =>
      text.replace('flannel-backend: none', 'flannel-backend: vxlan').replace('- traefik', '- servicelb'),
    )
    const reason = 'of k3s-2 is not as on k3s-1: it must be the same on all servers'
    assert.deepEqual(said(first, other), [
      ['flannel-backend', reason],
      ['disable', reason],
      ['egress-selector-mode', reason],
    ])
  })

  test('are refused when two of them found a cluster', () => {
    assert.deepEqual(said(first, node('k3s-2', 'cluster-init: true\n')), [
      ['server', 'is missing: k3s-2 would found a cluster beside that of k3s-1'],
    ])
  })

  test('are refused when the first stores in SQLite, which no other can join', () => {
    assert.deepEqual(said(node('k3s-1', ''), node('k3s-2', join)), [
      ['cluster-init', 'is missing: without it k3s-1 stores in SQLite, and no server can join'],
    ])
  })

  test('tell a fault of a file that they share once', () => {
    const wrong = (text: string) => text.replace('flannel-backend', 'flanel-backend')
    const faults = said(node('k3s-1', 'cluster-init: true\n', wrong), node('k3s-2', join, wrong))
    assert.deepEqual(faults, [['flanel-backend', 'is no key of k3s, which skips it']])
  })
})

test('a version whose flags are not described is refused', () => {
  const [fault] = checkK3s(filesIn(`${fixtures}/agent`), { role: 'agent', version: 'v1.99.0+k3s1' })
  assert.deepEqual([fault!.file, fault!.path], ['config/k3s/flags.yaml', '1.99'])
})

test('the flags are many, and none is on two lists', () => {
  const { server, agent, programs, alike, values } = allFlags().get('1.36')!
  assert.equal(server.flags.size, 125)
  assert.equal(agent.flags.size, 46)
  assert.deepEqual(
    [...programs.keys()],
    ['kube-apiserver', 'kube-controller-manager', 'kube-scheduler', 'kubelet', 'etcd'],
  )
  for (const key of [...alike, ...values.keys()]) assert.ok(server.flags.has(key), key)
  for (const [name, { flags, deprecated, removed }] of [...programs, ['server', server] as const]) {
    for (const flag of removed.keys())
      assert.ok(!flags.has(flag) && !deprecated.has(flag), `${name}: ${flag}`)
    if (name !== 'server')
      for (const flag of deprecated.keys()) assert.ok(!flags.has(flag), `${name}: ${flag}`)
  }
})
