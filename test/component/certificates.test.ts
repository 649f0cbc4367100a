// The CA of a site as openssl reads it, who signs what for a site, and where its keys are not.
import assert from 'node:assert/strict'
import { X509Certificate, createPrivateKey, generateKeyPairSync } from 'node:crypto'
import { execFileSync, spawnSync } from 'node:child_process'
import { chmodSync, existsSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { delimiter, join } from 'node:path'
import { after, describe, test } from 'node:test'
import { parse } from 'yaml'
import { certificatesOf, issuersOf, manifestsOf } from '../../lib/component/issuers.ts'
import type { Site } from '../../lib/site/model.ts'
import { without } from '../programs.ts'
import { siteOf } from '../sites.ts'

const zones = ['fortress.internal', 'lab.example']

describe('the CA of a site', { skip: without('openssl') }, () => {
  const dir = mkdtempSync(join(tmpdir(), 'fk-ca-'))
  const at = (name: string) => join(dir, name)
  const key = generateKeyPairSync('ec', {
    namedCurve: 'P-384',
    privateKeyEncoding: { type: 'pkcs8', format: 'pem' },
    publicKeyEncoding: { type: 'spki', format: 'pem' },
  }).privateKey
  // What would get into the cluster lands in a file, and the words of every program in another.
  writeFileSync(at('kubectl'), `#!/bin/bash\n[ "$1" != apply ] || exec cat > ${at('applied')}\n`)
  chmodSync(at('kubectl'), 0o755)
  const library = join(import.meta.dirname, '../../lib/component/certificates.sh')
  const run = (command: string, input = '') =>
    spawnSync('bash', ['-c', `set -euo pipefail; . ${library}; ${command}`], {
      input,
      encoding: 'utf8',
      env: { ...process.env, PATH: `${dir}${delimiter}${process.env['PATH']}`, FK_TMP: dir },
    })
  const good = (command: string, input?: string) => {
    const { status, stdout, stderr } = run(command, input)
    assert.equal(status, 0, `${command}: ${stdout}${stderr}`)
    return stdout
  }
  const openssl = (...words: string[]) => execFileSync('openssl', words, { encoding: 'utf8', stdio: 'pipe' })
  const root = () => new X509Certificate(readFileSync(at('ca.crt')))
  after(() => rmSync(dir, { recursive: true }))

  test('has a root of ten years that signs names of its zones, and no addresses', () => {
    good(`ca_root ${at('ca.crt')} 'fortress root CA' ${zones.join(' ')}`, key)
    const said = openssl('x509', '-in', at('ca.crt'), '-noout', '-text')
    assert.match(said, /CA:TRUE/)
    assert.match(said, /Name Constraints: critical\s+Permitted:\s+DNS:fortress\.internal\s+DNS:lab\.example/)
    assert.match(said, /Excluded:\s+IP:0\.0\.0\.0\/0\.0\.0\.0\s+IP:0:0:0:0:0:0:0:0\/0:0:0:0:0:0:0:0/)
    assert.ok(root().ca && root().checkPrivateKey(createPrivateKey(key)))
    assert.match(
      good(`ca_root_holds ${at('ca.crt')} ${zones.toReversed().join(' ')}`),
      /valid until \S+, 36\d\d days/,
    )
  })

  test('is made anew for other zones, with the same key and name: devices go on trusting the old one', () => {
    const old = root()
    const { status, stdout } = run(`ca_root_holds ${at('ca.crt')} fortress.internal`)
    assert.deepEqual([status, stdout.split('\n')[1]], [1, 'declared: fortress.internal'])
    good(`ca_root ${at('ca.crt')} 'fortress root CA' fortress.internal`, key)
    assert.notEqual(root().serialNumber, old.serialNumber)
    assert.ok(root().publicKey.equals(old.publicKey) && root().subject === old.subject)
    good(`ca_root ${at('ca.crt')} 'fortress root CA' ${zones.join(' ')}`, key)
  })

  test('has an intermediate in the cluster that cannot make another CA, for web servers only, two years', () => {
    good(
      `ca_intermediate cert-manager own-ca ${at('ca.crt')} 'fortress intermediate CA' ${zones.join(' ')}`,
      key,
    )
    const secret = parse(readFileSync(at('applied'), 'utf8')) as {
      metadata: { name: string; namespace: string; annotations: Record<string, string> }
      data: Record<string, string>
    }
    const text = (name: string) => Buffer.from(secret.data[name]!, 'base64').toString()
    writeFileSync(at('chain.pem'), text('tls.crt'))
    const intermediate = new X509Certificate(text('tls.crt'))
    assert.ok(intermediate.verify(root().publicKey))
    assert.ok(intermediate.checkPrivateKey(createPrivateKey(text('tls.key'))))
    const said = openssl('x509', '-in', at('chain.pem'), '-noout', '-text')
    assert.match(said, /CA:TRUE, pathlen:0/)
    assert.match(said, /Extended Key Usage:\s+TLS Web Server Authentication\n/)
    assert.equal(
      Date.parse(secret.metadata.annotations['fortress-kit/until']!),
      Date.parse(intermediate.validTo),
    )
    const days = (Date.parse(intermediate.validTo) - Date.now()) / 86_400_000
    assert.ok(days > 729 && days < 731, `${days}`)
    assert.match(openssl('verify', '-x509_strict', '-CAfile', at('ca.crt'), at('chain.pem')), /OK/)
  })

  test('the root key is in no file, and in no word of a program', () => {
    const line = key.split('\n')[1]!
    for (const name of readdirSync(dir)) assert.ok(!readFileSync(at(name), 'utf8').includes(line), name)
    const traced = run(
      `openssl() { printf '%s ' "$@" >> ${at('words')}; command openssl "$@"; }
key=$(cat)
ca_root ${at('again.crt')} x fortress.internal <<< "$key"
ca_intermediate a b ${at('again.crt')} y fortress.internal <<< "$key"`,
      key,
    )
    assert.equal(traced.status, 0, traced.stderr)
    assert.ok(existsSync(at('words')) && !readFileSync(at('words'), 'utf8').includes(line))
    assert.ok(!`${traced.stdout}${traced.stderr}`.includes(line))
  })

  test('a chain to another root, and names that it may not sign, are refused', () => {
    good(
      `ca_root ${at('other.crt')} 'fortress root CA' ${zones.join(' ')}`,
      generateKeyPairSync('ec', { namedCurve: 'P-384' }).privateKey.export({
        type: 'pkcs8',
        format: 'pem',
      }) as string,
    )
    const { status, stdout } = run(`ca_verifies ${at('other.crt')} ${at('chain.pem')}`)
    assert.equal(status, 1)
    assert.match(stdout, /self-signed certificate in certificate chain/)
  })
})

describe('who signs for a site', () => {
  const fortress = () => siteOf('fortress')
  const zengarden = () => siteOf('zengarden')
  const given = (site: Site, certificates: Record<string, unknown>): Site => ({
    ...site,
    components: { ...site.components, certificates: { use: 'cert-manager', ...certificates } },
  })

  test('without a word of it: its own CA, for NAME.internal and one certificate of the gateway', () => {
    assert.deepEqual(issuersOf(fortress()), [{ name: 'own-ca', zones: ['fortress.internal'] }])
    const [certificate, ...others] = certificatesOf(fortress())
    assert.deepEqual(others, [])
    assert.equal(certificate!.secret, 'inside-tls')
    assert.deepEqual(certificate!.names, ['fortress.internal', '*.fortress.internal'])
  })

  test("Let's Encrypt by the provider that the document names, with the token that a gate gives", () => {
    const [issuer] = issuersOf(zengarden())
    assert.equal(issuer!.acme!.server, 'https://acme-v02.api.letsencrypt.org/directory')
    assert.equal(issuer!.acme!.secret, 'cloudflare-token')
    assert.deepEqual(issuer!.acme!.spec['solvers'], [
      { dns01: { cloudflare: { apiTokenSecretRef: { name: 'dns01', key: 'token' } } } },
    ])
    assert.equal(issuersOf(siteOf('k3s-vault'))[0]!.acme!.secret, 'dns-token')
  })

  test('an authority and a server of names of one own, each reached at its port and nowhere else', () => {
    const site = given(zengarden(), {
      dns01: 'rfc2136',
      nameserver: '192.0.2.53:5353',
      tsig_key: 'certs',
      server: 'https://acme.example.net:9000/directory',
      resolvers: ['192.0.2.9'],
    })
    const { acme } = issuersOf(site)[0]!
    assert.deepEqual(
      acme!.reaches.map(({ host, port, protocols }) => `${host} ${port} ${protocols.join()}`),
      ['acme.example.net 9000 TCP', '192.0.2.53 5353 UDP,TCP', '192.0.2.9 53 UDP,TCP'],
    )
    assert.match(manifestsOf(site, 'x')[0]!, /tsigAlgorithm: HMACSHA256/)
  })

  test('what the document does not say is asked for by name', () => {
    const wrong: [Record<string, unknown>, RegExp][] = [
      [{}, /does not say by which provider/],
      [{ dns01: 'nobody' }, /the API of nobody is not known/],
      [{ dns01: 'rfc2136', tsig_key: 'x' }, /rfc2136 and no nameserver/],
    ]
    for (const [words, fault] of wrong) assert.throws(() => issuersOf(given(zengarden(), words)), fault)
    const names = zengarden().names.map((one) => ({ ...one, issuer: 'step-ca' }))
    assert.throws(() => issuersOf({ ...zengarden(), names }), /nothing says where step-ca is/)
    const [gateway] = fortress().gateways
    const two = ['own-ca', 'letsencrypt'].map((issuer, i) => ({
      ...fortress().names[0]!,
      zone: `z${i}.example`,
      points_at: gateway!.name,
      issuer,
    }))
    assert.throws(
      () => certificatesOf({ ...fortress(), names: two }),
      /inside have two issuers, own-ca and letsencrypt/,
    )
  })

  test('no token and no key stands in what is printed', () => {
    const plan = readFileSync('test/plans/33-certificates.sh', 'utf8')
    assert.match(plan, /< "\$FK_SECRETS"\/ca-root/)
    assert.doesNotMatch(plan, /BEGIN [A-Z ]*PRIVATE KEY/)
  })
})
