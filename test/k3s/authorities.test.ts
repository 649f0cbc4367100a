// New authorities of a cluster, as openssl makes them on a server: who believes whom, before and after the old ones are gone.
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { createHash, X509Certificate } from 'node:crypto'
import { mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import type { Context } from '../../lib/engine/page.ts'
import { type Step, checkOf, isChange } from '../../lib/engine/step.ts'
import { Secret } from '../../lib/ground/secret.ts'
import { authorityShell, retire, retiredOf, retiredWords } from '../../lib/k3s/authorities.ts'
import { loadConfig } from '../../lib/site/config.ts'
import rotate from '../../scripts/28-k3s-rotate.ts'
import retire_ from '../../scripts/29-k3s-retire.ts'
import { without } from '../programs.ts'
import { made, metal } from '../site/made.ts'

const names = ['client-ca', 'server-ca', 'request-header-ca', 'etcd/server-ca', 'etcd/peer-ca']

describe('the authorities of a cluster', { skip: without('openssl') }, () => {
  let dir: string
  const tls = (name: string) => join(dir, 'server/tls', name)
  const staged = (name: string) => join(dir, 'server/rotate-ca/tls', name)
  /** Bash with the functions of the library; its data lies in `dir`. */
  const bash = (command: string) => {
    const text = authorityShell.text.replaceAll('/var/lib/rancher/k3s', dir)
    const { status, stdout, stderr } = spawnSync('bash', ['-c', `set -uo pipefail\n${text}\n${command}`], {
      encoding: 'utf8',
    })
    return { status, said: stdout + stderr }
  }
  const good = (command: string) => {
    const { status, said } = bash(command)
    assert.equal(status, 0, said)
    return said
  }
  const certificates = (file: string) =>
    readFileSync(file, 'utf8')
      .match(/-----BEGIN[^]*?-----END CERTIFICATE-----/g)!
      .map((pem) => new X509Certificate(pem))
  const print = ({ raw }: X509Certificate) => createHash('sha256').update(raw).digest('hex')
  /** What openssl finds for a leaf that `issuer` has signed, with what is in `trusted`. */
  const believed = (issuer: string, chain: string, trusted: string) => {
    const leaf = join(dir, 'leaf.crt')
    good(`openssl ecparam -name prime256v1 -genkey -noout -out ${leaf}.key
openssl req -new -subj /CN=leaf -key ${leaf}.key | openssl x509 -req -days 1 -set_serial 7 -CA ${issuer}.crt -CAkey ${issuer}.key -out ${leaf} 2> /dev/null`)
    return bash(`openssl verify -partial_chain -trusted ${trusted} -untrusted ${chain} ${leaf}`).status === 0
  }
  /** As a server would, that starts with what is staged. */
  const begin = () =>
    good(`cp --recursive --no-target-directory ${dir}/server/rotate-ca/tls ${dir}/server/tls
mkdir --parents ${dir}/agent && cp ${tls('client-ca.crt')} ${tls('server-ca.crt')} ${dir}/agent/`)
  const live = () =>
    good('ca_live server')
      .trim()
      .split('\n')
      .map((line) => line.split(' '))

  before(() => {
    dir = mkdtempSync(join(tmpdir(), 'fk-test-'))
    for (const name of names) {
      mkdirSync(dirname(tls(name)), { recursive: true })
      good(`openssl ecparam -name prime256v1 -genkey -noout -out ${tls(name)}.key
openssl req -x509 -new -days 30 -subj /CN=old-${name.replace('/', '-')} -key ${tls(name)}.key -out ${tls(name)}.crt`)
    }
    good(`openssl genrsa -out ${tls('service.key')} 2048 2> /dev/null`)
    good(`mkdir --parents ${dir}/agent && cp ${tls('client-ca.crt')} ${tls('server-ca.crt')} ${dir}/agent/`)
    good(`cp --recursive ${dir}/server/tls ${dir}/old`)
  })
  after(() => rmSync(dir, { recursive: true, force: true }))

  let first: string[] = []
  test('each is known by the SHA-256 of its certificate, and a key by that of its public half', () => {
    const found = live()
    assert.equal(found.length, 8)
    first = [...new Set(found.map(([, print]) => print!))]
    assert.equal(first.length, 6)
    for (const name of names) assert.ok(first.includes(print(certificates(`${tls(name)}.crt`)[0]!)))
    assert.ok(found.every(([place]) => place === 'first'))
  })

  test('one that is retired is named with its file, and none that is not', () => {
    assert.equal(bash('ca_unused first server none').status, 0)
    const { status, said } = bash(`ca_unused first server ${first[1]}`)
    assert.equal(status, 1)
    assert.match(said, new RegExp(`^${tls('server-ca.crt')}: ${first[1]!.slice(0, 16)} is retired$`, 'm'))
    assert.equal(bash(`ca_unused first agent ${first[1]}`).status, 1)
    assert.equal(bash(`ca_unused first agent ${first[4]}`).status, 0)
  })

  test('new ones are believed by who knows only the old ones, and the other way round', () => {
    good('ca_make')
    for (const name of names) {
      const [signs, crossed, root, old, ...more] = certificates(`${staged(name)}.crt`)
      assert.equal(more.length, 0)
      assert.ok(signs!.verify(root!.publicKey) && root!.verify(root!.publicKey))
      assert.ok(crossed!.verify(old!.publicKey) && crossed!.subject === root!.subject)
      assert.ok(signs!.ca && root!.ca && crossed!.ca)
      assert.ok(believed(staged(name), `${staged(name)}.crt`, `${tls(name)}.crt`), name)
      assert.ok(believed(tls(name), `${tls(name)}.crt`, `${staged(name)}.crt`), name)
    }
    assert.equal(readFileSync(staged('service.key'), 'utf8').match(/BEGIN /g)!.length, 2)
  })

  test('no key of a root is left, and root alone reads the others', () => {
    const files = readdirSync(join(dir, 'server/rotate-ca'), { recursive: true }).map(String)
    assert.deepEqual(
      files.filter((name) => /root/.test(name)),
      [],
    )
    good(`test -z "$(find ${dir}/server/rotate-ca -name '*.key' ! -perm 600)"`)
  })

  test('a run that is repeated has the same ones; one that was cut makes them anew', () => {
    const before = readFileSync(`${staged('client-ca')}.crt`, 'utf8')
    good('ca_make')
    assert.equal(readFileSync(`${staged('client-ca')}.crt`, 'utf8'), before)
    rmSync(join(dir, 'server/rotate-ca/complete'))
    good('ca_make')
    assert.notEqual(readFileSync(`${staged('client-ca')}.crt`, 'utf8'), before)
  })

  test('then none that is used is retired, and all old ones are still trusted', () => {
    begin()
    assert.equal(bash(`ca_unused first server ${first.join(' ')}`).status, 0)
    const { status, said } = bash(`ca_unused any server ${first.join(' ')}`)
    assert.equal(status, 1)
    assert.equal(said.trim().split('\n').length, 8)
  })

  test('without the retired ones nothing that they have signed is believed', () => {
    good(`ca_without ${first.join(' ')}`)
    begin()
    assert.equal(bash(`ca_unused any server ${first.join(' ')}`).status, 0)
    for (const name of names) {
      assert.equal(certificates(`${tls(name)}.crt`).length, 2)
      assert.ok(!believed(join(dir, 'old', name), join(dir, 'old', `${name}.crt`), `${tls(name)}.crt`), name)
      assert.ok(believed(tls(name), `${tls(name)}.crt`, `${tls(name)}.crt`), name)
    }
    assert.equal(readFileSync(tls('service.key'), 'utf8').match(/BEGIN /g)!.length, 1)
  })

  test('the next rotation goes the same way', () => {
    const now = [...new Set(live().map(([, print]) => print!))]
    rmSync(join(dir, 'server/rotate-ca'), { recursive: true })
    good(`rm --recursive ${dir}/old && cp --recursive ${dir}/server/tls ${dir}/old && ca_make`)
    for (const name of names)
      assert.ok(believed(staged(name), `${staged(name)}.crt`, join(dir, 'old', `${name}.crt`)), name)
    begin()
    good(`ca_without ${now.join(' ')}`)
    begin()
    assert.equal(bash(`ca_unused any server ${[...first, ...now].join(' ')}`).status, 0)
    for (const name of names) assert.equal(certificates(`${tls(name)}.crt`).length, 2)
  })

  test('a file that is gone is no answer', () => {
    writeFileSync(join(dir, 'agent/client-ca.crt'), '')
    const { status, said } = bash('ca_unused any agent none')
    assert.equal(status, 1)
    assert.match(said, /client-ca\.crt is missing/)
  })

  test('what is retired is noted for good, and once', async () => {
    const state = join(dir, 'state')
    mkdirSync(state)
    assert.deepEqual(retiredWords(state), ['none'])
    await retire(state, ['a', 'b'])
    await retire(state, ['b', 'c'])
    assert.deepEqual(retiredOf(state), ['a', 'b', 'c'])
  })
})

describe('the pages that replace them', () => {
  const config = {
    ...loadConfig({ env: {}, site: 'fortress-pi' }),
    site: made({
      name: 'fortress-pi',
      machines: metal('server', 'server', 'server', 'agent').map((machine, i) => ({
        ...machine,
        address: `192.0.2.${11 + i}`,
      })),
    }),
  }
  const stepsOf = (page: typeof rotate, name: string, state: string) =>
    page.steps({
      ...config,
      machine: { name },
      state,
      secrets: (of: string) => new Secret(of, () => 'K10'),
      has: () => true,
    } as unknown as Context)
  const before = (step: Step) =>
    (isChange(step) ? (step.onOtherNode?.before ?? []) : []).map((wait) => checkOf(wait).text)

  test('no node starts anew before every other server has a vote, and an agent needs all three', () => {
    for (const page of [rotate, retire_])
      for (const [name, count] of [
        ['pi-1', 2],
        ['pi-2', 2],
        ['pi-4', 3],
      ] as const) {
        const waits = stepsOf(page, name, '/nowhere').flatMap(before)
        assert.equal(waits.length, 1, `${page.name} ${name}`)
        assert.match(waits[0]!, new RegExp(`^k3s_well ${count} ${name} `))
      }
  })

  test('the laptop never takes other tokens for its own where it has retired nothing', async () => {
    const state = mkdtempSync(join(tmpdir(), 'fk-test-'))
    const once = () =>
      stepsOf(rotate, 'pi-1', state).flatMap((step) =>
        isChange(step) && step.save?.name.startsWith('k3s-join') ? [step.save.once] : [],
      )
    assert.deepEqual(once(), [true, true])
    await retire(state, ['a'.repeat(64)])
    assert.deepEqual(once(), [false, false])
    for (const page of [rotate, retire_])
      assert.ok(stepsOf(page, 'pi-4', state).some((step) => checkOf(step).text.includes('a'.repeat(64))))
    rmSync(state, { recursive: true })
  })
})
