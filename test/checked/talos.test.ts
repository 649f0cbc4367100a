// What we tell Talos, as Talos itself reads it: by its own code, which test/oracle/talos is made of.
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { X509Certificate } from 'node:crypto'
import { existsSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { delimiter, join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { parse } from 'yaml'
import type { Context } from '../../lib/engine/page.ts'
import { which } from '../../lib/ground/laptop.ts'
import { secretStore } from '../../lib/ground/secret.ts'
import { loadConfig } from '../../lib/site/config.ts'
import { clientConfig, machineConfigFile, talosNodes } from '../../lib/vm/talos.ts'
import { sitesOfOne } from '../site/made.ts'

/** What the lab has installed, or what somebody without root has built into .cache/tools. */
const built = join(import.meta.dirname, '../../.cache/tools/talos-oracle')
const oracle = existsSync(built) ? built : which('talos-oracle')
const skip = oracle === undefined ? 'talos-oracle is not installed' : false

const scratch = mkdtempSync(join(tmpdir(), 'fk-talos-'))
const path = process.env['PATH'] ?? ''
after(() => {
  process.env['PATH'] = path
  rmSync(scratch, { recursive: true })
})

const store = secretStore({ dir: join(scratch, 'state'), identity: join(scratch, 'identity'), say: () => {} })
function contextOf(site: string): Context {
  const config = loadConfig({ env: { FK_NODE_OS: 'talos' }, site })
  const machine = { name: site, os: 'debian-13', arch: 'amd64', model: '', user: 'admin', via: '' }
  return {
    ...config,
    machine,
    secrets: (name, make) => store.secret(name, make),
    has: () => false,
    state: scratch,
  }
}

function ask(words: string[], text: string): { code: number | null; said: string } {
  const file = join(scratch, 'config.yaml')
  writeFileSync(file, text)
  const { status, stdout, stderr } = spawnSync(oracle!, [...words, file], { encoding: 'utf8' })
  return { code: status, said: `${stdout}${stderr}`.trim() }
}
const validate = (text: string) => ask(['validate', '--mode=cloud', '--config'], text)

describe('Talos reads', { skip }, () => {
  // It makes secrets as talosctl does, so it may stand for talosctl on this laptop.
  before(() => {
    symlinkSync(oracle!, join(scratch, 'talosctl'))
    process.env['PATH'] = `${scratch}${delimiter}${path}`
  })

  for (const name of sitesOfOne()) {
    const context = contextOf(name)
    for (const node of talosNodes(context)) {
      const { shown, secret } = machineConfigFile(context, node)

      test(`what a rehearsal shows of ${node.name}, site ${name}`, () => {
        assert.deepEqual(validate(shown), { code: 0, said: '' })
      })

      test(`what ${node.name} is told, and finds every secret where it belongs`, async () => {
        const text = await secret.resolve()
        assert.deepEqual(validate(text), { code: 0, said: '' })
        const found = ask(['read'], text)
        assert.equal(found.code, 0)
        assert.deepEqual(parse(found.said), parse((await store.get('talos-secrets')).reveal()))
      })

      test(`the certificate by which ${node.name} knows its admin`, async () => {
        const { os } = (
          parse((await store.get('talos-secrets')).reveal()) as { certs: { os: { crt: string } } }
        ).certs
        const config = parse(await clientConfig(context, node).resolve()) as {
          context: string
          contexts: Record<string, { ca: string; crt: string; endpoints: string[]; nodes: string[] }>
        }
        const mine = config.contexts[config.context]!
        assert.equal(mine.ca, os.crt)
        assert.deepEqual([mine.endpoints, mine.nodes], [[node.address], [node.address]])
        const certificate = new X509Certificate(Buffer.from(mine.crt, 'base64'))
        assert.ok(certificate.verify(new X509Certificate(Buffer.from(os.crt, 'base64')).publicKey))
        assert.equal(certificate.subject, 'O=os:admin')
      })

      const { shown: good } = machineConfigFile(context, node)
      const wrong: Record<string, [from: RegExp | string, to: string, said: RegExp]> = {
        'a key that it does not know': [
          '  sysctls:',
          '  sysctl:',
          /unknown keys found during decoding:\s+machine:\s+sysctl:/,
        ],
        'a document that it does not know': [
          'kind: HostnameConfig',
          'kind: HostName',
          /"HostName" "v1alpha1": not registered/,
        ],
        'a key of a document that it does not know': [
          '  disableDefault: true',
          '  default: false',
          /unknown keys found/,
        ],
        'no authority': [/ {2}ca:\n {4}crt: 'placeholder\/talos\+os.*\n.*\n/, '', /issuing CA is required/],
        'an authority without its key': [
          / {4}key: 'placeholder\/talos\+os.*\n/,
          '',
          /issuing CA key is required/,
        ],
        'a certificate that is no base64': [
          /crt: 'placeholder\/talos\+os/,
          "crt: '‹secret›",
          /illegal base64/,
        ],
        'a type of machine that there is not': [
          'type: controlplane',
          'type: server',
          /unknown machine type|invalid machine type/,
        ],
        'a cluster that is nowhere': [
          / {2}controlPlane:\n {4}endpoint:.*\n/,
          '',
          /cluster controlplane endpoint is required/,
        ],
        'an address without its prefix': [
          `address: '${node.address}/`,
          `address: '${node.address}#`,
          /netip\.ParsePrefix|no '\/'/,
        ],
        'a rule for no port': ['ports: [6443]', 'ports: []', /portSelector\.ports is required/],
        'a network that is none': [
          "subnet: '10.77.0.0/24'",
          "subnet: '10.77.0.0/33'",
          /prefix length out of range/,
        ],
        'the same rule twice': ['name: cilium-health', 'name: etcd', /duplicate document|not allowed/],
        'a network that nobody ships': [
          'name: none',
          'name: calico',
          /cni name should be one of|unsupported CNI/i,
        ],
        'a selector that is no expression': [
          'mac(link.permanent_addr) ==',
          'mac(link.permanent_addr ==',
          /Syntax error|ERROR/,
        ],
      }
      for (const [what, [from, to, said]] of Object.entries(wrong))
        test(`and refuses ${what}, site ${name}`, () => {
          const text = good.replace(from, to)
          assert.notEqual(text, good)
          const found = validate(text)
          assert.equal(found.code, 1, found.said)
          assert.match(found.said, said)
        })
    }
  }
})
