// What Talos is told, by whom it is known, and the shell that speaks to it: to a stand-in here, which keeps what it was asked.
import assert from 'node:assert/strict'
import { execFileSync, spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { delimiter, join } from 'node:path'
import { after, beforeEach, describe, test } from 'node:test'
import { parse, parseAllDocuments } from 'yaml'
import type { Context } from '../../lib/engine/page.ts'
import { isChange } from '../../lib/engine/step.ts'
import { type SecretStore, secretStore } from '../../lib/ground/secret.ts'
import { loadConfig } from '../../lib/site/config.ts'
import { guestsOf } from '../../lib/site/machines.ts'
import { notBuilt } from '../../lib/site/planned.ts'
import {
  type Bundle,
  bundleOf,
  clientConfig,
  machineConfig,
  machineConfigFile,
  talosNodes,
} from '../../lib/vm/talos.ts'
import first from '../../scripts/12-vm-ignition.ts'
import page from '../../scripts/14-vm-talos.ts'
import { without } from '../programs.ts'
import { made, sitesOfOne } from '../site/made.ts'

const root = join(import.meta.dirname, '../..')
const fixtures = join(import.meta.dirname, '../fixtures/talos')
const scratch = mkdtempSync(join(tmpdir(), 'fk-talos-'))
after(() => rmSync(scratch, { recursive: true }))

function contextOf(site = 'fortress', store?: SecretStore, system = 'talos'): Context {
  const config = loadConfig({ env: { FK_NODE_OS: system }, site })
  const name = config.site.machines[0]?.name ?? ''
  return {
    ...config,
    machine: { name, os: 'debian-13', arch: 'amd64', model: '', user: 'admin', via: '' },
    secrets: (name, make) =>
      store?.secret(name, make) ??
      secretStore({ dir: '/nonexistent', identity: '/nonexistent' }).secret(name),
    has: () => false,
    state: '/nonexistent',
  }
}
/** One document, of which a path of keys gives a part. */
type Document = { [key: string]: unknown }
const part = (document: Document | undefined, path: string): unknown =>
  path.split('.').reduce<unknown>((value, key) => (value as Document | undefined)?.[key], document)
const bundle = parse(readFileSync(join(fixtures, 'secrets.yaml'), 'utf8')) as Bundle
const node = guestsOf(contextOf().site)[0]!

describe('what Talos is told', () => {
  const text = machineConfig(contextOf(), node, bundle)
  const documents = parseAllDocuments(text).map((document) => {
    assert.deepEqual(document.errors, [])
    return document.toJS() as Document
  })
  const [main, ...others] = documents
  const of = (kind: string) => others.find((document) => document['kind'] === kind)

  test('is filled in, from the site and the secrets', () => {
    assert.doesNotMatch(text.replaceAll(/^ *#.*$/gm, ''), /\{\{|undefined/)
    assert.deepEqual(part(main, 'machine.ca'), bundle.certs.os)
    assert.deepEqual(part(main, 'cluster.etcd.ca'), bundle.certs.etcd)
    assert.equal(part(main, 'cluster.controlPlane.endpoint'), 'https://10.77.0.2:6443')
    assert.deepEqual(of('LinkConfig')?.['addresses'], [{ address: '10.77.0.2/24' }])
    assert.equal(of('HostnameConfig')?.['hostname'], 'fortress-node')
    assert.equal(part(of('LinkAliasConfig'), 'selector.match'), `mac(link.permanent_addr) == "${node.mac}"`)
  })

  test('has the pods, the services and the address of the API of the site, each wherever it is named', () => {
    const site = made({
      machines: [
        { name: 'box', roles: ['host'] },
        { name: 'one', roles: ['server'], os: 'talos', vm: { host: 'box' } },
      ],
      cluster: { pods: '10.32.0.0/16', services: '10.33.0.0/16', api: { vip: '10.77.0.9' } },
    })
    const of = machineConfig({ ...contextOf(), site }, guestsOf(site)[0]!, bundle)
    const [first, ...rules] = parseAllDocuments(of).map((document) => document.toJS() as Document)
    assert.deepEqual(part(first, 'cluster.network.podSubnets'), ['10.32.0.0/16'])
    assert.deepEqual(part(first, 'cluster.network.serviceSubnets'), ['10.33.0.0/16'])
    assert.equal(part(first, 'cluster.controlPlane.endpoint'), 'https://10.77.0.9:6443')
    const subnets = rules.flatMap((rule) => (rule['ingress'] as { subnet: string }[] | undefined) ?? [])
    assert.equal(subnets.filter(({ subnet }) => subnet === '10.32.0.0/16').length, 2)
    assert.doesNotMatch(of, /10\.(244|96|42|43)\./)
  })

  test('is bootstrapped on one host of several, and each host has its own node', () => {
    const machines = ['north', 'south'].flatMap((host, i) => [
      { name: host, roles: ['host'] as const, address: `192.0.2.${10 + i}` },
      { name: `${host}-1`, roles: ['server'] as const, os: 'talos' as const, vm: { host } },
    ])
    const on = (name: string): Context => {
      const context = contextOf()
      return { ...context, site: made({ machines }), machine: { ...context.machine, name } }
    }
    const stepsOn = (name: string) => page.steps(on(name)).map((step) => step.name)
    assert.deepEqual(
      talosNodes(on('south')).map(({ name }) => name),
      ['south-1'],
    )
    assert.ok(stepsOn('north').includes('etcd is bootstrapped on north-1'))
    assert.ok(!stepsOn('south').some((name) => name.includes('is bootstrapped')))
    assert.ok(!stepsOn('south').some((name) => name.includes('north-1')))
  })

  test('is for virtual machines: metal beside them has a schematic and a disk of its own, and needs a page that is named', () => {
    const site = made({
      machines: [
        { name: 'box', roles: ['host'] },
        { name: 'one', roles: ['server'], os: 'talos', vm: { host: 'box' } },
        { name: 'two', roles: ['agent'], os: 'talos', schematic: 'amd', address: '192.0.2.7' },
      ],
    })
    const context = { ...contextOf(), site }
    const nodes = talosNodes({ ...context, machine: { ...context.machine, name: 'box' } })
    assert.deepEqual(
      nodes.map(({ name }) => name),
      ['one'],
    )
    assert.ok(notBuilt(site).some(({ page }) => page === '15-talos-metal'))
    // What the template says of the disk is how libvirt shows it to a guest.
    const [, disk] = /<target dev="(\w+)"/.exec(
      readFileSync(join(root, 'config/vm/k3s-vm.libvirt.xml'), 'utf8'),
    )!
    assert.equal(part(main, 'machine.install.disk'), `/dev/${disk}`)
  })

  test('exempts the namespaces from admission that k3s does, and none besides kube-system', () => {
    const ours = parse(readFileSync(join(root, 'config/k3s/admission.yaml'), 'utf8')) as Document
    const of = (plugins: unknown) =>
      new Map(
        (plugins as { name: string; configuration: Document }[]).map((one) => [one.name, one.configuration]),
      )
    const plugins = of(part(main, 'cluster.apiServer.admissionControl'))
    assert.deepEqual(plugins, of(ours['plugins']))
    assert.deepEqual(part(plugins.get('PodSecurity'), 'exemptions.namespaces'), ['kube-system'])
  })

  test('is held by every site that has nodes to run it', () => {
    for (const site of sitesOfOne()) {
      const context = contextOf(site)
      const nodes = talosNodes(context)
      const targets = first
        .steps(context)
        .flatMap((step) => (isChange(step) && step.target ? [step.target] : []))
      assert.deepEqual(
        targets.map(({ path }) => path),
        nodes.map(({ name }) => `/etc/fortress/vm/${name}.talos.yaml`),
      )
      for (const { text, shown } of targets) {
        assert.equal(text, undefined)
        assert.match(shown ?? '', /^ {4}key: 'placeholder\/talos\+os\+key\/+A='$/m)
      }
    }
  })

  test('takes the image of the pinned schematic and version, and the Kubernetes that k3s is', () => {
    const { pins } = contextOf()
    const schematic = /[0-9a-f]{64}/.exec(pins['talos']?.url.amd64 ?? '')?.[0]
    assert.equal(
      part(main, 'machine.install.image'),
      `factory.talos.dev/nocloud-installer/${schematic}:${pins['talos']?.version}`,
    )
    const kubernetes = pins['k3s']?.version.split('+')[0]
    for (const [which, image] of Object.entries({
      kubelet: part(main, 'machine.kubelet.image'),
      apiServer: part(main, 'cluster.apiServer.image'),
      controllerManager: part(main, 'cluster.controllerManager.image'),
      scheduler: part(main, 'cluster.scheduler.image'),
    }))
      assert.ok(String(image).endsWith(`:${kubernetes}`), `${which}: ${String(image)}`)
  })

  test('asks the same of the kernel as Flatcar is asked', () => {
    const flatcar = new Map(
      [
        ...readFileSync(join(root, 'config/vm/flatcar-butane.yaml'), 'utf8').matchAll(
          /^ {10}-?([a-z][\w.]+) = (\d+)$/gm,
        ),
      ].map(([, key, value]) => [key, value] as const),
    )
    const asked = Object.entries(part(main, 'machine.sysctls') as Record<string, string>)
    assert.ok(asked.length > 25)
    for (const [key, value] of asked) assert.equal(value, flatcar.get(key), key)
  })

  test('drops what nobody listed, and gives the host alone the API of Talos', () => {
    assert.equal(of('NetworkDefaultActionConfig')?.['ingress'], 'block')
    const rules = others.filter((document) => document['kind'] === 'NetworkRuleConfig')
    const open = rules.filter((rule) => String(part(rule, 'portSelector.ports')) === '50000-50001')
    assert.deepEqual(
      open.map((rule) => rule['ingress']),
      [[{ subnet: '10.77.0.0/24' }]],
    )
  })

  test('is refused with a bundle that is not complete', () => {
    for (const broken of [{ ...bundle, trustdinfo: {} }, {}, null])
      assert.throws(
        () => machineConfig(contextOf(), node, broken as Bundle),
        /^Error: the secrets of Talos are not complete: machine_(token|ca) is missing$/,
      )
  })

  test('is for servers: an agent is refused', () => {
    const context = contextOf()
    const [host, server] = context.site.machines
    const machines = [host!, server!, { ...server!, name: 'w1', roles: ['agent' as const] }]
    assert.throws(
      () => talosNodes({ ...context, site: { ...context.site, machines } }),
      /w1 is an agent, and config\/vm\/talos-controlplane\.yaml describes servers/,
    )
  })
})

test('where no node runs Talos, the page says so and does nothing', () => {
  for (const context of [
    contextOf('fortress-pi'),
    contextOf('lab'),
    contextOf('fortress', undefined, 'flatcar'),
  ]) {
    const steps = page.steps(context)
    assert.deepEqual(
      steps.map((step) => [step.name, isChange(step)]),
      [['no node of the site runs Talos', false]],
    )
  }
})

// ─── what follows asks a stand-in ────────────────────────────────────────────────────────────────────────────────────

const tools = join(scratch, 'bin')
const at = (name: string) => join(tools, 'node', name)
const asked = () => (existsSync(at('asked')) ? readFileSync(at('asked'), 'utf8').trim().split('\n') : [])

beforeEach(() => {
  rmSync(tools, { recursive: true, force: true })
  mkdirSync(join(tools, 'node'), { recursive: true })
  for (const name of ['talosctl', 'secrets.yaml', 'talosconfig'])
    copyFileSync(join(fixtures, name), join(tools, name))
})

describe('the secrets of Talos', () => {
  const path = process.env['PATH'] ?? ''
  const within = async <T>(value: string, run: () => Promise<T>): Promise<T> => {
    process.env['PATH'] = value
    return run().finally(() => (process.env['PATH'] = path))
  }
  const fresh = () => {
    const dir = mkdtempSync(join(scratch, 'state-'))
    return { dir, store: secretStore({ dir, identity: join(dir, 'identity.txt'), say: () => {} }) }
  }

  test('are made once, kept encrypted, and never on a command line', async () => {
    const { dir, store } = fresh()
    await within(`${tools}${delimiter}${path}`, async () => {
      const context = contextOf('fortress', store)
      const told = await machineConfigFile(context, node).secret.resolve()
      assert.equal(told, machineConfig(context, node, bundle))
      const again = contextOf('fortress', secretStore({ dir, identity: join(dir, 'identity.txt') }))
      assert.equal(await machineConfigFile(again, node).secret.resolve(), told)
      const config = parse(await clientConfig(again, node).resolve()) as { contexts: Record<string, object> }
      assert.deepEqual(config.contexts['fortress'], {
        endpoints: ['10.77.0.2'],
        ca: 'b3MgY3J0',
        crt: 'Y2xpZW50IGNydA==',
        key: 'Y2xpZW50IGtleQ==', // gitleaks:allow
        nodes: ['10.77.0.2'],
      })
    })
    assert.deepEqual(asked(), [
      'gen secrets --talos-version v1.14 --output-file -',
      'gen config fortress https://10.77.0.2:6443 --with-secrets /dev/stdin --output-types talosconfig --output -',
    ])
    assert.equal(readFileSync(at('stdin'), 'utf8'), readFileSync(join(fixtures, 'secrets.yaml'), 'utf8'))
    assert.deepEqual(store.list(), ['talos-secrets'])
    assert.doesNotMatch(readFileSync(join(dir, 'talos-secrets.age'), 'latin1'), /bootstraptoken|b3Mga2V5/)
  })

  test('cannot be made without talosctl, and the sentence says which and what its digest is', async () => {
    const { store } = fresh()
    const { pins } = contextOf()
    await within('/nonexistent', () =>
      assert.rejects(bundleOf(contextOf('fortress', store)).resolve(), (error: Error & { next?: string }) => {
        assert.equal(error.message, 'talosctl is not on this laptop, and it makes the secrets of Talos')
        if (process.platform === 'linux' && process.arch === 'x64')
          assert.equal(
            error.next,
            `install ${pins['talosctl']?.url.amd64} as talosctl, when sha256sum says ${pins['talosctl']?.sha256?.amd64}`,
          )
        return true
      }),
    )
    assert.deepEqual(store.list(), [])
  })

  test('that talosctl cannot make are an error that shows only its last line', async () => {
    writeFileSync(join(tools, 'talosctl'), '#!/bin/sh\necho secret words >&2; echo no room >&2; exit 3\n', {
      mode: 0o755,
    })
    const { store } = fresh()
    await within(`${tools}${delimiter}${path}`, () =>
      assert.rejects(bundleOf(contextOf('fortress', store)).resolve(), {
        message: 'talosctl gen secrets failed',
        said: 'no room',
      }),
    )
  })
})

/** Bash with the functions of the page, and a node that answers at once. */
function shell(command: string): { code: number | null; said: string } {
  const text = `export FK_TMP=${scratch}\n${page.prepare?.text}\nTALOS_DECLARED=${tools} TALOS_NOTES=${tools}/notes\nsleep() { :; }\nset -euo pipefail\n${command}`
  const { status, stdout, stderr } = spawnSync('bash', ['-c', text], {
    encoding: 'utf8',
    env: { ...process.env, PATH: `${tools}${delimiter}${process.env['PATH']}` },
  })
  return { code: status, said: `${stdout}${stderr}`.trim() }
}
const here = (name: string, text = '') => writeFileSync(at(name), text)

describe('the node', () => {
  const told = machineConfig(contextOf(), node, bundle)
  beforeEach(() => {
    writeFileSync(join(tools, 'n.talosconfig'), '')
    writeFileSync(join(tools, 'n.talos.yaml'), told)
    here('version', 'v1.14.2')
    here('config', told)
  })

  test('says which version it runs', () => {
    assert.deepEqual(shell('talos_runs n v1.14.2'), { code: 0, said: 'it runs Talos v1.14.2' })
    assert.deepEqual(shell('talos_runs n v1.14.3'), { code: 1, said: 'it runs Talos v1.14.2' })
    here('silent')
    assert.match(shell('talos_runs n v1.14.2').said, /^it does not answer: rpc error: code = Unavailable/)
  })

  test('is asked what it would change, and no value is shown, because it may be a secret', () => {
    assert.deepEqual(shell('talos_applied n'), { code: 0, said: 'No changes.' })
    writeFileSync(
      join(tools, 'n.talos.yaml'),
      told
        .replace('b3Mga2V5', 'bmV3IGtleQ==')
        .replace("vm.max_map_count: '262144'", "vm.max_map_count: '262145'"),
    )
    assert.deepEqual(shell('talos_applied n'), {
      code: 1,
      said: 'it would change:\n+ key\n+ vm.max_map_count\n- key\n- vm.max_map_count',
    })
    here('refuses', 'error applying new configuration: this change needs a reboot\n')
    assert.deepEqual(shell('talos_applied n'), {
      code: 1,
      said: 'it refuses the machine configuration: error applying new configuration: this change needs a reboot',
    })
    assert.ok(asked().every((words) => words.includes('--dry-run --mode=try')))
  })

  test('takes a change on trial, and for good when it answers then', () => {
    writeFileSync(join(tools, 'n.talos.yaml'), told.replace('podPidsLimit: 4096', 'podPidsLimit: 2048'))
    assert.equal(shell('talos_try n').code, 0)
    const client = `--talosconfig ${tools}/n.talosconfig`
    assert.deepEqual(asked(), [
      `${client} apply-config --mode=try --timeout=2m --file ${tools}/n.talos.yaml`,
      `${client} version`,
      `${client} apply-config --mode=no-reboot --file ${tools}/n.talos.yaml`,
    ])
    assert.match(readFileSync(at('kept'), 'utf8'), /podPidsLimit: 2048/)
    assert.equal(shell('talos_applied n').code, 0)
  })

  test('that is silent after a change is left to take it back', () => {
    writeFileSync(join(tools, 'n.talos.yaml'), `# silences the node\n${told}`)
    assert.deepEqual(shell('talos_try n'), {
      code: 1,
      said: 'it has not answered since: in two minutes it takes the change back by itself',
    })
    assert.ok(!asked().some((words) => words.includes('no-reboot')))
    assert.ok(!existsSync(at('kept')))
  })

  test('bootstraps etcd once, whatever happens in between', () => {
    here('not-yet', 'bootstrap is not available yet\ntime is not in sync yet\n')
    assert.equal(shell('talos_member n').code, 1)
    assert.deepEqual(shell('talos_bootstrap fortress-node').code, 1) // nobody knows us under that name yet
    writeFileSync(join(tools, 'fortress-node.talosconfig'), '')
    here('not-yet', 'bootstrap is not available yet\ntime is not in sync yet\n')
    assert.equal(shell('talos_bootstrap fortress-node').code, 0)
    assert.equal(asked().filter((words) => words.endsWith(' bootstrap')).length, 4)
    assert.equal(shell('talos_member fortress-node').code, 0)

    // Killed before it was noted: the node says that there is one.
    rmSync(join(tools, 'notes'), { recursive: true })
    assert.equal(shell('talos_bootstrap fortress-node').code, 0)
    assert.ok(existsSync(join(tools, 'notes/fortress-node.bootstrapped')))

    // Its disk is gone, and nobody said that it should be: a new etcd would hide that.
    rmSync(at('etcd'))
    assert.match(
      shell('talos_bootstrap fortress-node').said,
      /^etcd was bootstrapped here on \d{4}-\S+, and is gone: a new bootstrap would forget/,
    )
    assert.ok(!existsSync(at('etcd')))
  })

  test('says how its services are', () => {
    assert.deepEqual(shell("talos_service n kubelet 'Running OK'"), { code: 0, said: 'kubelet: Running OK' })
    assert.deepEqual(shell("talos_service n etcd 'Running OK'"), { code: 1, said: 'etcd: Preparing ?' })
    here('etcd')
    here('sick')
    assert.deepEqual(shell("talos_service n etcd 'Running OK'"), { code: 1, said: 'etcd: Running Fail' })
  })
})

describe('certificates', { skip: without('openssl') }, () => {
  const files = { key: join(scratch, 'key.pem'), crt: join(scratch, 'crt.pem') }
  const made = (days: number) => {
    execFileSync(
      'openssl',
      [
        'req',
        '-x509',
        '-newkey',
        'ed25519',
        '-nodes',
        '-subj',
        '/CN=t',
        '-days',
        String(days),
        '-keyout',
        files.key,
        '-out',
        files.crt,
      ],
      { stdio: 'ignore' },
    )
    return readFileSync(files.crt).toString('base64')
  }

  test('are asked how long they are good', { skip: process.getuid?.() === 0 ? false : 'needs root' }, () => {
    const path = join(scratch, 'kubeconfig')
    const good = () => shell(`talos_certificate ${path} client-certificate-data 30`)
    assert.equal(good().said, `${path} is not there`)
    writeFileSync(path, `users:\n- user:\n    client-certificate-data: ${made(90)}\n`, { mode: 0o600 })
    assert.match(good().said, /^its certificate is good until /)
    assert.equal(good().code, 0)
    writeFileSync(path, `users:\n- user:\n    client-certificate-data: ${made(29)}\n`)
    assert.equal(good().code, 1)
    writeFileSync(path, 'users: []\n')
    assert.equal(good().said, `${path} holds no certificate`)
  })

  test('are asked for: whoever has none is refused, and a door that opens to all is noticed', async () => {
    made(1)
    const free = createServer().listen(0, '127.0.0.1')
    await once(free, 'listening')
    const { port } = free.address() as { port: number }
    free.close()
    const ask = () => {
      const text = `export FK_TMP=${scratch}\n${page.prepare?.text}\nset -euo pipefail\ntalos_closed 127.0.0.1 ${port}`
      const { status, stdout } = spawnSync('bash', ['-c', text], { encoding: 'utf8' })
      return { code: status, said: stdout.trim().toLowerCase() }
    }
    assert.deepEqual(ask(), { code: 1, said: `nobody answers at 127.0.0.1 port ${port}` })
    for (const [more, wanted] of [
      [['-Verify', '1', '-verify_return_error'], { code: 0, said: 'alert certificate required' }],
      [[], { code: 1, said: `127.0.0.1 port ${port} speaks to whoever comes` }],
    ] as const) {
      const server = spawn(
        'openssl',
        [
          's_server',
          '-accept',
          `127.0.0.1:${port}`,
          '-cert',
          files.crt,
          '-key',
          files.key,
          '-alpn',
          'h2',
          '-quiet',
          ...more,
        ],
        { stdio: ['pipe', 'ignore', 'ignore'] },
      )
      while (spawnSync('bash', ['-c', `exec 3<> /dev/tcp/127.0.0.1/${port}`]).status !== 0)
        await new Promise((r) => setTimeout(r, 50))
      const found = ask()
      server.kill()
      await once(server, 'close')
      assert.deepEqual(found, wanted)
    }
  })
})

test('the kubeconfig that was fetched is written out when somebody asks, for that person alone', async () => {
  const dir = mkdtempSync(join(scratch, 'home-'))
  const env = {
    ...process.env,
    FK_STATE_DIR: dir,
    FK_AGE_IDENTITY: join(dir, 'identity.txt'),
    FK_HOST: '',
    FK_SITE: 'fortress',
    FK_NODE_OS: 'talos',
  }
  const ask = (name: string) =>
    spawnSync(process.execPath, [join(root, 'bin/task.cjs'), 'node', 'kubeconfig', name], {
      env,
      encoding: 'utf8',
    })
  const saved = `clusters: [{ name: trial, cluster: { server: 'https://192.0.2.1:6443' } }]
contexts: [{ name: admin@trial, context: { cluster: trial, user: admin@trial } }]
users: [{ name: admin@trial, user: { client-key-data: QQ== } }]
`
  const none = ask('fortress-node')
  assert.equal(none.status, 2)
  assert.match(
    none.stderr,
    /^this laptop has no kubeconfig of fortress\n {2}next: {2}\.\/task vm-talos apply fetches it$/m,
  )
  assert.match(ask('other').stderr, /has no server other/)
  const store = secretStore({ dir: join(dir, 'fortress'), identity: env.FK_AGE_IDENTITY, say: () => {} })
  await store.put('fortress-node-kubeconfig', Buffer.from(saved).toString('base64'))
  assert.equal(ask('fortress-node').status, 0)
  const path = join(dir, 'fortress/fortress-node.kubeconfig')
  assert.match(readFileSync(path, 'utf8'), /server: https:\/\/[0-9.]+:6443\n[^]*client-key-data: QQ==/)
  assert.equal(statSync(path).mode & 0o777, 0o600)
})
