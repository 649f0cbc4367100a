import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import fs from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { after, describe, test } from 'node:test'
import { arrowsOf } from '../../lib/cli/imports.ts'
import {
  type Diagnostic,
  ConfigError,
  checkers,
  envExample,
  loadConfig,
  siteNames,
} from '../../lib/site/config.ts'
import { guestsOf } from '../../lib/site/machines.ts'
import { outDir } from '../../lib/site/out.ts'

const root = path.join(import.meta.dirname, '../..')
const fixtures = path.join(import.meta.dirname, '../fixtures')
const scratch = fs.mkdtempSync(path.join(os.tmpdir(), 'fortress-config-'))
after(() => fs.rmSync(scratch, { recursive: true }))

const shipped = ['fortress', 'fortress-pi', 'k3s-vault', 'lab', 'pitower', 'zengarden']

interface Given {
  site?: string
  versions?: string
  env?: string
}

/** A checkout with our sites and pins, of which some are replaced. */
function checkout(given: Given = {}): string {
  const directory = fs.mkdtempSync(path.join(scratch, 'checkout-'))
  // The shipped ones, and none that somebody has beside them.
  fs.mkdirSync(path.join(directory, 'config/sites'), { recursive: true })
  for (const name of shipped)
    fs.copyFileSync(
      path.join(root, `config/sites/${name}.yaml`),
      path.join(directory, `config/sites/${name}.yaml`),
    )
  fs.cpSync(path.join(root, 'config', 'versions.yaml'), path.join(directory, 'config', 'versions.yaml'))
  const replace = (file: string, text: string | Buffer | undefined): void => {
    if (text !== undefined) fs.writeFileSync(path.join(directory, file), text)
  }
  replace('config/sites/fortress.yaml', given.site)
  replace('config/versions.yaml', given.versions)
  replace('.env', given.env)
  return directory
}

/** The same with the files of a fixture, and the environment that it asks for. */
function fixture(directory: string): { root: string; env: Record<string, string> } {
  const made = checkout()
  const place = (from: string, to: string): void => {
    if (fs.existsSync(path.join(directory, from)))
      fs.copyFileSync(path.join(directory, from), path.join(made, to))
  }
  place('site.yaml', 'config/sites/fortress.yaml')
  place('versions.yaml', 'config/versions.yaml')
  place('.env', '.env')
  const shell = path.join(directory, 'environment')
  const lines = fs.existsSync(shell) ? fs.readFileSync(shell, 'utf8').trim().split('\n') : []
  return { root: made, env: Object.fromEntries(lines.map((line) => /^([^=]*)=(.*)$/.exec(line)!.slice(1))) }
}

/** Every file and directory below, with what would change if somebody wrote. */
function listing(directory: string): string[] {
  return fs.readdirSync(directory, { recursive: true, encoding: 'utf8' }).map((name) => {
    const { mode, size, mtimeMs } = fs.lstatSync(path.join(directory, name))
    return `${name} ${mode.toString(8)} ${size} ${mtimeMs}`
  })
}

function refusal(options: Parameters<typeof loadConfig>[0]): ConfigError {
  try {
    loadConfig(options)
  } catch (error) {
    assert.ok(error instanceof ConfigError, String(error instanceof Error ? error.stack : error))
    return error
  }
  return assert.fail('the configuration was accepted')
}

describe('a configuration that is wrong is refused, with the whole reason and nothing written', () => {
  const names = fs
    .readdirSync(path.join(fixtures, 'invalid'), { withFileTypes: true })
    .flatMap((entry) => (entry.isDirectory() ? [entry.name] : []))
  for (const name of names)
    test(name.replaceAll('-', ' '), () => {
      const directory = path.join(fixtures, 'invalid', name)
      const given = fixture(directory)
      const before = listing(given.root)
      const { message, faults } = refusal(given)
      assert.deepEqual(listing(given.root), before)
      assert.equal(`${message}\n`, fs.readFileSync(path.join(directory, 'expected.txt'), 'utf8'))
      assert.doesNotMatch(message, /^\s+at /m)
      assert.equal(message.split('\n').filter((line) => /^ {2}\S/.test(line)).length, faults.length)
    })
})

describe('a configuration that is right is loaded', () => {
  test('every site document that is shipped', () => {
    assert.deepEqual(siteNames(checkout()), shipped)
    for (const name of shipped)
      assert.equal(loadConfig({ env: {}, root: checkout(), site: name }).site.name, name)
  })

  test('the Raspberry Pi is host and node, and has neither virtual machines nor a TPM2', () => {
    const { site } = loadConfig({ env: {}, root: checkout(), site: 'fortress-pi' })
    const [pi, ...others] = site.machines
    assert.deepEqual(pi?.roles, ['host', 'server'])
    assert.deepEqual([others, site.networks], [[], []])
    assert.deepEqual(pi?.vault?.tpm2_pcrs, [])
    assert.equal(pi?.vault?.kdf_memory_kib, 512 * 1024)
  })

  test('a site of several machines, with defaults for what it leaves out', () => {
    const made = checkout()
    fs.copyFileSync(
      path.join(fixtures, 'valid', 'three-machines.yaml'),
      path.join(made, 'config/sites/three-machines.yaml'),
    )
    const { site } = loadConfig({ env: {}, root: made, site: 'three-machines' })
    const { machines, networks, router, tunnel } = site
    const unlock = { tpm2_pcrs: [7, 8, 9, 14], tpm2_pin: false, key_file: false }
    const vault = { disk: '', name: 'vault', kdf_memory_kib: 1024 * 1024, discard: false, ...unlock }
    const disk = '/dev/disk/by-id/usb-Samsung_PSSD_T7_S6XPNS0T900000-0:0'
    assert.equal(site.timezone, 'Europe/Berlin')
    assert.deepEqual(machines, [
      {
        name: 'north',
        roles: ['host'],
        os: 'debian-13',
        arch: 'amd64',
        board: 'pc',
        address: '192.0.2.10',
        user: 'admin',
        vault: { ...vault, disk, discard: true },
      },
      {
        name: 'south',
        roles: ['host', 'server'],
        os: 'ubuntu-24.04',
        arch: 'arm64',
        board: 'pc',
        address: '2001:db8::10',
        ssh_port: 2222,
        tunnel_address: '172.16.5.2',
        vault: { ...vault, tpm2_pcrs: [7, 14] },
      },
      {
        name: 'north-1',
        roles: ['agent'],
        os: 'flatcar',
        arch: 'amd64',
        board: 'pc',
        address: '10.77.0.2',
        vm: { host: 'north', memory: 8192, cpus: 4, disk: 40, accel: 'kvm', console: false },
      },
    ])
    const bridge = { at: 'north', name: 'virbr-fort' }
    assert.deepEqual(networks, [{ name: 'guests', network: '10.77.0.0/24', bridge }])
    assert.deepEqual(tunnel, {
      kind: 'wireguard',
      at: 'north',
      interface: 'wg0',
      port: 51820,
      network: '172.16.5.0/24',
      address: '172.16.5.1',
      peers: [
        { name: 'laptop', address: '172.16.5.10' },
        { name: 'phone', address: '172.16.5.11' },
      ],
    })
    assert.deepEqual([router.kind, router.at, router.allow.length, router.routes], ['host', 'north', 6, []])
    assert.deepEqual(site.data.keep, [
      { what: 'cluster', every: 'daily', copies: 14, to: ['away'], rpo: '24h', rto: '1h' },
    ])
    assert.deepEqual([site.cluster.pods, site.people], ['10.42.0.0/16', [{ name: 'me', roles: ['owner'] }]])
  })

  test('pins, with the version in their URLs', () => {
    const made = checkout({ versions: fs.readFileSync(path.join(fixtures, 'valid/versions.yaml'), 'utf8') })
    const { pins } = loadConfig({ env: {}, root: made })
    assert.equal(
      pins['k3s']?.url.arm64,
      'https://github.com/k3s-io/k3s/releases/download/v1.36.4%2Bk3s1/k3s-arm64',
    )
    assert.equal(
      pins['flatcar']?.signature?.url.amd64,
      'https://stable.release.flatcar-linux.net/amd64-usr/4593.2.0/flatcar_production_qemu_image.img.sig',
    )
  })

  test('whatever stands in front of its first letter, and with letters that look like damage', () => {
    const site = fs.readFileSync(path.join(root, 'config/sites/fortress.yaml'), 'utf8')
    const made = checkout({ site: `\uFEFF# \uFFFD\n${site}`, env: '\uFEFFFK_YES=yes\n' })
    const { env, site: found } = loadConfig({ env: {}, root: made })
    assert.deepEqual([found.name, env.FK_YES], ['fortress', true])
  })

  test('a time zone by each of its names', () => {
    const site = fs.readFileSync(path.join(root, 'config/sites/fortress.yaml'), 'utf8')
    for (const zone of ['UTC', 'Etc/UTC', 'Europe/Berlin', 'Asia/Kolkata', 'America/Argentina/Buenos_Aires'])
      assert.equal(
        loadConfig({ env: {}, root: checkout({ site: `${site}timezone: ${zone}\n` }) }).site.timezone,
        zone,
      )
  })

  test('a file of pins that has only comments', () => {
    assert.deepEqual(loadConfig({ env: {}, root: checkout({ versions: '# none\n' }) }).pins, {})
  })
})

test('hosts whose sshd listens elsewhere are reached through the tunnel there', () => {
  const site = fs.readFileSync(path.join(root, 'config/sites/fortress.yaml'), 'utf8')
  const other = site.replace(/^( *)(os: \S+)$/m, '$1$2\n$1ssh_port: 2222')
  assert.notEqual(other, site)
  const { allow } = loadConfig({ env: {}, root: checkout({ site: other }) }).site.router
  assert.ok(allow.some(({ ports }) => ports.includes('tcp/2222')))
})

describe('FK_ variables', () => {
  const envOf = (env: Record<string, string>, given: Given = {}) =>
    loadConfig({ env, root: checkout(given) }).env

  test('have defaults, and paths are absolute', () => {
    const made = checkout()
    assert.deepEqual(loadConfig({ env: {}, root: made }).env, {
      FK_SITE: 'fortress',
      FK_STATE_DIR: path.join(made, 'secrets'),
      FK_KNOWN_HOSTS: path.join(made, 'secrets/known_hosts'),
      FK_AGE_IDENTITY: path.join(os.homedir(), '.config/fortress-kit/age-identity.txt'),
      FK_LAB_DIR: path.join(made, '.cache/lab'),
      FK_OUT_DIR: path.join(made, 'out'),
      FK_LOG_DIR: path.join(made, 'out/log'),
      FK_DOWNLOAD_DIR: path.join(made, '.cache/downloads'),
      FK_DRAIN: 'evict',
      FK_YES: false,
      FK_DEADMAN_SECONDS: 180,
      FK_LOCK_WAIT_SECONDS: 0,
      FK_TEST_REQUIRE: [],
    })
  })

  test('come from another file than .env where FK_ENV_FILE names one, and it must be there', () => {
    const made = checkout({ env: 'FK_HOST=local\n' })
    const mine = path.join(made, 'mine.env')
    fs.writeFileSync(mine, 'FK_HOST=admin@192.0.2.10\nFK_STATE_DIR=state\n')
    const { env } = loadConfig({ env: { FK_ENV_FILE: mine }, root: made })
    assert.deepEqual([env.FK_HOST, env.FK_STATE_DIR], ['admin@192.0.2.10', path.join(made, 'state')])
    assert.equal(loadConfig({ env: { FK_ENV_FILE: '/dev/null' }, root: made }).env.FK_HOST, undefined)
    assert.throws(
      () => loadConfig({ env: { FK_ENV_FILE: `${mine}x` }, root: made }),
      /mine\.envx: 1 problem; nothing was run\n.*is missing/,
    )
  })

  test('FK_OUT_DIR takes the logs along, and is named where out/ cannot be written', () => {
    const made = checkout()
    assert.equal(
      loadConfig({ env: { FK_OUT_DIR: '/elsewhere' }, root: made }).env.FK_LOG_DIR,
      '/elsewhere/log',
    )
    assert.equal(outDir(loadConfig({ env: {}, root: made })), path.join(made, 'out/fortress'))
    assert.throws(() => outDir(loadConfig({ env: { FK_OUT_DIR: '/dev/null' }, root: made })), {
      message: '/dev/null/fortress cannot be written (ENOTDIR)',
      next: 'name another directory in FK_OUT_DIR, in your shell or in .env',
    })
  })

  test('come from .env in the ways people write it', () => {
    const env = [
      '\ufeff# mine',
      'export FK_HOST="admin@192.0.2.10:2222"  # the box',
      "FK_SITE = 'fortress-pi'",
      'FK_YES=Yes\r',
      'FK_TEST_REQUIRE=unit, machine,',
      'FK_DEADMAN_SECONDS=',
      '',
    ].join('\n')
    const found = envOf({}, { env })
    assert.equal(found.FK_HOST, 'admin@192.0.2.10:2222')
    assert.equal(found.FK_SITE, 'fortress-pi')
    assert.equal(found.FK_YES, true)
    assert.deepEqual(found.FK_TEST_REQUIRE, ['unit', 'machine'])
    assert.equal(found.FK_DEADMAN_SECONDS, 180)
  })

  test('that are facts of the virtual machine win over the site document, where it has one', () => {
    const env = {
      FK_NODE_OS: 'talos',
      FK_VM_RAM_MB: '4096',
      FK_VM_VCPUS: '2',
      FK_VM_DISK_GB: '30',
      FK_VM_ACCEL: 'tcg',
    }
    const vmOf = (found: Record<string, string>) => {
      const [guest] = guestsOf(loadConfig({ env: found, root: checkout() }).site)
      return { ...guest!.vm, os: guest!.os }
    }
    const usual = { host: 'fortress', memory: 8192, cpus: 4, disk: 40, accel: 'kvm', console: false }
    assert.deepEqual(vmOf({}), { ...usual, os: 'flatcar' })
    const said = { memory: 4096, cpus: 2, disk: 30, accel: 'tcg', os: 'talos' }
    assert.deepEqual(vmOf(env), { ...usual, ...said })
    assert.doesNotThrow(() => loadConfig({ env, root: checkout(), site: 'fortress-pi' }))
  })

  test('that are facts of the virtual machine are refused where a site has several, with their names', () => {
    const site = `name: fortress
machines:
  - { name: north, roles: [host], os: debian-13, arch: amd64, address: 192.0.2.10 }
  - { name: south, roles: [host], os: debian-13, arch: amd64, address: 192.0.2.11, tunnel_address: 10.66.0.11 }
  - { name: north-1, roles: [server], os: flatcar, arch: amd64, vm: { host: north } }
  - { name: south-1, roles: [agent], os: flatcar, arch: amd64, vm: { host: south } }
accepted: [{ what: north-1, why: one server is enough, until: 2029-12-31 }]
`
    const made = checkout({ site, env: '\nFK_VM_VCPUS=2\n' })
    assert.equal(
      refusal({ env: { FK_VM_RAM_MB: '4096' }, root: made }).message,
      'environment, .env: 2 problems; nothing was run\n' +
        ['environment  FK_VM_RAM_MB', '.env:2  FK_VM_VCPUS']
          .map(
            (place) =>
              `  ${place}  names no machine: the site has 2 virtual machines (north-1, south-1). ` +
              'Their sizes and systems stand in the site document',
          )
          .join('\n'),
    )
  })

  test('of the shell win over .env, and an empty one takes it back', () => {
    const env = 'FK_HOST=admin@192.0.2.10\nFK_SITE=fortress-pi\nFK_DEADMAN_SECONDS=600\n'
    assert.equal(envOf({ FK_HOST: 'local' }, { env }).FK_HOST, 'local')
    assert.equal(envOf({ FK_HOST: '' }, { env }).FK_HOST, undefined)
    assert.equal(envOf({ FK_SITE: '' }, { env }).FK_SITE, 'fortress')
    assert.equal(envOf({ FK_DEADMAN_SECONDS: '' }, { env }).FK_DEADMAN_SECONDS, 180)
  })

  test('that are wrong in .env do no harm where the shell has a right one', () => {
    assert.equal(envOf({ FK_YES: 'no' }, { env: 'FK_YES=maybe\n' }).FK_YES, false)
  })

  test('of other programs are none of our business', () => {
    assert.doesNotThrow(() => envOf({ HOST: 'x', NO_COLOR: '1', KF_HOST: 'x', FK_TEST_TALLY: '/nowhere' }))
  })

  test('that are paths know ~, and stand on the checkout in .env but on the working directory in the shell', () => {
    const made = checkout({ env: 'FK_STATE_DIR=state\nFK_LOG_DIR=~/log\n' })
    const { env } = loadConfig({ env: { FK_LAB_DIR: 'lab' }, root: made })
    assert.equal(env.FK_STATE_DIR, path.join(made, 'state'))
    assert.equal(env.FK_KNOWN_HOSTS, path.join(made, 'state/known_hosts'))
    assert.equal(env.FK_LOG_DIR, path.join(os.homedir(), 'log'))
    assert.equal(env.FK_LAB_DIR, path.resolve('lab'))
  })

  test('name a password file that nobody else can read', () => {
    const made = checkout({ env: 'FK_SUDO_PASSWORD_FILE=password\n' })
    const file = path.join(made, 'password')
    fs.writeFileSync(file, 'correct-horse\n')
    fs.chmodSync(file, 0o640)
    assert.equal(
      refusal({ env: {}, root: made }).message,
      `.env: 1 problem; nothing was run\n  .env:1  FK_SUDO_PASSWORD_FILE  can be read by others; run: chmod 600 ${file}`,
    )
    fs.chmodSync(file, 0o600)
    assert.equal(loadConfig({ env: {}, root: made }).env.FK_SUDO_PASSWORD_FILE, file)
    fs.chmodSync(file, 0o604)
    assert.equal(refusal({ env: {}, root: made }).faults.length, 1)
  })

  test('say which forms of FK_HOST there are', () => {
    const forms = [
      'local',
      'lab',
      'fortress',
      'admin@fortress.example.org',
      '192.0.2.10:22',
      'a.b_c@[2001:db8::1]:2222',
      '[::1]',
    ]
    for (const form of forms) assert.equal(envOf({ FK_HOST: form }).FK_HOST, form)
  })

  for (const [host, what] of [
    ['admin@10.66.0.1', /is inside tunnel\.network \(10\.66\.0\.0\/24\): give the address of the host/],
    ['10.77.0.2:2222', /is inside the network guests, which is behind a host \(10\.77\.0\.0\/24\)/],
  ] as const)
    test(`refuse ${host}, which is found only behind the host that it is to name`, () => {
      const [fault, ...more] = refusal({ env: { FK_HOST: host }, root: checkout() }).faults
      assert.deepEqual([fault?.path, more.length], ['FK_HOST', 0])
      assert.match(fault?.reason ?? '', what)
    })

  test('are all explained in .env.example, which is generated', () => {
    const why = 'it is not what the schema gives; run: ./task env-example'
    assert.equal(fs.readFileSync(path.join(root, '.env.example'), 'utf8'), envExample(), why)
  })

  test('have examples that are right', () => {
    const lines = envExample().match(/^#FK_.*$/gm) ?? []
    // Whether the named files exist is another question.
    const settings = lines.filter((line) => !/^#FK_(SSH|SUDO)/.test(line)).map((line) => line.slice(1))
    assert.equal(lines.length - settings.length, 3)
    assert.doesNotThrow(() => envOf({}, { env: settings.join('\n') }))
  })
})

describe('a refusal', () => {
  test('has its faults as data too', () => {
    const site = fs.readFileSync(path.join(root, 'config/sites/fortress.yaml'), 'utf8')
    const { faults } = refusal({
      env: { FK_HSOT: 'local' },
      root: checkout({ site: site.replace('tunnel: {', 'tunnel: { port: 0,') }),
    })
    const line = site.split('\n').findIndex((text) => text.startsWith('tunnel: {')) + 1
    const expected: Diagnostic[] = [
      {
        file: 'config/sites/fortress.yaml',
        line,
        column: 17,
        path: 'tunnel.port',
        reason: 'must be 1 to 65535, is 0',
        source: site.split('\n')[line - 1]!.replace('tunnel: {', 'tunnel: { port: 0,'),
      },
      { file: 'environment', path: 'FK_HSOT', reason: 'is not a known variable', suggestion: 'FK_HOST' },
    ]
    assert.deepEqual(JSON.parse(JSON.stringify(faults)), expected)
  })

  test('names the site of the command line', () => {
    assert.equal(
      refusal({ env: {}, root: checkout(), site: 'fortress-pie' }).message,
      '--site: 1 problem; nothing was run\n' +
        '  --site  "fortress-pie" names no document in config/sites (there are fortress, fortress-pi, k3s-vault, lab, ' +
        'pitower, zengarden); ' +
        'did you mean fortress-pi?',
    )
  })

  test('comes where there is no configuration at all', () => {
    const empty = fs.mkdtempSync(path.join(scratch, 'empty-'))
    assert.equal(
      refusal({ env: {}, root: empty }).message,
      'config/versions.yaml, default: 2 problems; nothing was run\n' +
        '  config/versions.yaml  is missing\n' +
        '  default  FK_SITE  "fortress" names no document in config/sites (there is none)',
    )
  })

  test('comes where a file is a directory', () => {
    const made = checkout()
    fs.rmSync(path.join(made, 'config/versions.yaml'))
    fs.mkdirSync(path.join(made, 'config/versions.yaml'))
    fs.mkdirSync(path.join(made, '.env'))
    assert.equal(
      refusal({ env: {}, root: made }).message,
      'config/versions.yaml, .env: 2 problems; nothing was run\n' +
        '  config/versions.yaml  cannot be read (EISDIR)\n' +
        '  .env  cannot be read (EISDIR)',
    )
  })

  test('or a load is all that any damage to a site leads to', () => {
    const site = fs.readFileSync(path.join(root, 'config/sites/fortress.yaml'), 'utf8')
    const lines = site.split('\n')
    const damaged = lines.flatMap((line, i) => {
      const with_ = (...replacement: string[]): string => lines.toSpliced(i, 1, ...replacement).join('\n')
      return [
        with_(),
        with_(line, line),
        with_(`  ${line}`),
        with_(line.slice(0, Math.ceil(line.length / 2))),
        with_(line.replace(/: .*/, ': [null, {}, [[]], 1e400, .nan, -0, "", ~]')),
        with_(line.replace(/: .*/, ': { ? [a] : b, 1: 2, "": 3, "a.b": 4, "~1/": 5 }')),
        with_(line.replace(/: .*/, ':')),
      ]
    })
    const made = checkout()
    for (const text of damaged) {
      fs.writeFileSync(path.join(made, 'config/sites/fortress.yaml'), text)
      try {
        loadConfig({ env: {}, root: made })
      } catch (error) {
        assert.ok(error instanceof ConfigError, `${(error as Error).stack}\n\n${text}`)
      }
    }
  })
})

describe('what was found right before', () => {
  const cached = (made: string): string => path.join(made, '.cache/config')

  test('is remembered where only we can write, and gives the same', () => {
    const made = checkout()
    const first = loadConfig({ env: {}, root: made })
    assert.equal(fs.statSync(cached(made)).mode & 0o777, 0o700)
    const [file = '', ...others] = fs.readdirSync(cached(made))
    assert.deepEqual(others, [])
    assert.equal(fs.statSync(path.join(cached(made), file)).mode & 0o777, 0o600)
    const before = listing(made)
    assert.deepEqual(loadConfig({ env: {}, root: made }), first)
    assert.deepEqual(listing(made), before)
  })

  test('is forgotten when a file or a variable changes', () => {
    const made = checkout()
    loadConfig({ env: {}, root: made })
    assert.equal(loadConfig({ env: { FK_YES: 'yes' }, root: made }).env.FK_YES, true)
    const file = path.join(made, 'config/sites/fortress.yaml')
    fs.writeFileSync(file, fs.readFileSync(file, 'utf8').replace('tunnel: {', 'tunnel: { port: 51999,'))
    assert.equal(loadConfig({ env: {}, root: made }).site.tunnel.port, 51999)
    fs.writeFileSync(file, fs.readFileSync(file, 'utf8').replace('port: 51999', 'port: 0'))
    assert.equal(refusal({ env: {}, root: made }).faults.length, 1)
  })

  test('is forgotten when a rule, a schema or a component that its site names changes, and by no other component', () => {
    const kit = fs.mkdtempSync(path.join(scratch, 'kit-'))
    for (const part of ['lib', 'config', 'package.json'])
      fs.cpSync(path.join(root, part), path.join(kit, part), { recursive: true })
    fs.symlinkSync(path.join(root, 'node_modules'), path.join(kit, 'node_modules'))
    // Written in place, as some editors write: no directory changes. The third is how often the site is checked then.
    const component = (name: string): string => `config/components/${name}/component.yaml`
    const changes: [string, string, number][] = [
      ['lib/site/defaults.ts', '\n', 1],
      ['lib/site/rules/tunnel.ts', '\n', 1],
      ['config/schema/site.json', '\n', 1],
      ['config/host/allow.yaml', '\n', 1],
      [component('prometheus'), '\n', 1],
      [component('falco'), '\n', 0],
      // A backslash may hide a name.
      ['config/sites/fortress.yaml', '# \\\n', 1],
      [component('falco'), '\n', 1],
    ]
    const program = `
      const fs = require('node:fs')
      const entries = () => fs.readdirSync('.cache/config').length
      import(process.cwd() + '/lib/site/config.ts').then(({ loadConfig }) => {
        loadConfig({ env: {} })
        const checked = JSON.parse(process.argv[1]).map(([file, text]) => {
          const before = entries()
          fs.appendFileSync(file, text)
          loadConfig({ env: {} })
          return [file, text, entries() - before]
        })
        console.log(JSON.stringify(checked))
      })`
    const { stderr, stdout } = spawnSync(
      process.execPath,
      ['--import', 'tsx', '--eval', program, JSON.stringify(changes)],
      { cwd: kit, encoding: 'utf8' },
    )
    assert.equal(stderr, '')
    assert.deepEqual(JSON.parse(stdout), changes)
  })

  test('depends on every file that is loaded to check a site', () => {
    const files = new Set<string>()
    const visit = (file: string): void => {
      if (files.has(file)) return
      files.add(file)
      const text = fs.readFileSync(path.join(root, file), 'utf8')
      for (const { kind, to } of arrowsOf({ path: file, text })) if (kind !== 'type') visit(to)
    }
    visit('lib/site/config.ts')
    const code = [...files].filter((file) => !file.startsWith('lib/site/rules/'))
    assert.deepEqual(code.sort(), [...checkers].sort())
  })

  test('is forgotten on the day after what was accepted for a time has ended', (t) => {
    const site = fs.readFileSync(path.join(root, 'config/sites/fortress.yaml'), 'utf8')
    const accepted = 'accepted: [{ what: api, why: one box, until: 2026-12-01 }]\n'
    const made = checkout({ site: `${site}\n${accepted}` })
    t.mock.timers.enable({ apis: ['Date'], now: Date.parse('2026-12-01T23:00:00Z') })
    assert.equal(loadConfig({ env: {}, root: made }).site.accepted.length, 1)
    t.mock.timers.setTime(Date.parse('2026-12-02T01:00:00Z'))
    assert.match(refusal({ env: {}, root: made }).message, /accepted\[0\]\.until {2}is over: decide again/)
  })

  test('is not believed when others could have written it, or when it is damaged', () => {
    const made = checkout()
    loadConfig({ env: {}, root: made })
    const [name = ''] = fs.readdirSync(cached(made))
    const file = path.join(cached(made), name)
    const forged = JSON.stringify({ site: { name: 'forged' } })
    fs.writeFileSync(file, forged)
    assert.equal(loadConfig({ env: {}, root: made }).site.name, 'forged')
    fs.chmodSync(cached(made), 0o770)
    assert.equal(loadConfig({ env: {}, root: made }).site.name, 'fortress')
    fs.chmodSync(cached(made), 0o700)
    fs.writeFileSync(file, forged.slice(0, 9))
    assert.equal(loadConfig({ env: {}, root: made }).site.name, 'fortress')
  })

  test('is not kept for ever', () => {
    const made = checkout()
    for (let i = 0; i < 20; i++) loadConfig({ env: { FK_DEADMAN_SECONDS: `${100 + i}` }, root: made })
    assert.equal(fs.readdirSync(cached(made)).length, 16)
  })

  test('is not needed: a checkout that cannot be written loads as well', () => {
    const made = checkout()
    fs.writeFileSync(path.join(made, '.cache'), '')
    const before = listing(made)
    assert.equal(loadConfig({ env: {}, root: made }).site.name, 'fortress')
    assert.deepEqual(listing(made), before)
  })
})

test('every key of a schema says what it is for', () => {
  const silent: string[] = []
  const walk = (node: unknown, at: string): void => {
    if (typeof node !== 'object' || node === null) return
    for (const [key, value] of Object.entries(node)) {
      if (key === 'properties')
        for (const [name, schema] of Object.entries(value as Record<string, { description?: string }>)) {
          const told = /\.components$|\.(urls|sha256|sha512)$/.test(at) || schema.description !== undefined
          if (!told) silent.push(`${at}.${name}`)
        }
      walk(value, key === 'properties' || key === '$defs' ? at : `${at}.${key}`)
    }
  }
  for (const name of fs.readdirSync(path.join(root, 'config/schema')))
    walk(JSON.parse(fs.readFileSync(path.join(root, 'config/schema', name), 'utf8')), name)
  assert.deepEqual(silent, [])
})
