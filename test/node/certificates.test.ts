// Gateways and their certificates by pages 32 and 33, under the default deny of page 31: addresses that are announced, cert-manager at
// work, a CA of the site's own whose root key stays on the laptop, and an authority outside that sees a zone proven in a server of
// names. Which routes are taken is in test/checked/gateways.test.ts, and what they lead to in buildall.test.ts.
import assert from 'node:assert/strict'
import { X509Certificate } from 'node:crypto'
import { execFileSync } from 'node:child_process'
import { existsSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { secretStore } from '../../lib/ground/secret.ts'
import { without } from '../programs.ts'
import { type Authority, twoAuthorities, withoutCertManager } from './certmanager.ts'
import { withoutCilium } from './cilium.ts'
import { missing } from './kit.ts'
import type { Tunneled } from './tunnel.ts'

const skip = withoutCertManager || withoutCilium || missing || without('helm', 'kubectl', 'openssl')

/** The zone that the site signs itself, and the one that an authority outside signs. */
const [own, outer] = ['fortress-pi.internal', 'fortress.test']

interface Condition {
  type: string
  status: string
  reason: string
}

interface Gateway {
  status: {
    addresses: { value: string }[]
    conditions: Condition[]
    listeners: { name: string; conditions: Condition[] }[]
  }
}

describe('gateways and their certificates, by their pages', { skip }, () => {
  const first = 'certs-1'
  let cluster: Tunneled
  let outside: Authority
  const dir = mkdtempSync(join(tmpdir(), 'fk-certs-'))
  const state = () => join(cluster.state, 'fortress-pi')
  const kubectl = (words: string, input?: string) => cluster.kubectl(words, input)
  /** The certificates in a Secret. */
  const chain = (name: string, namespace = 'gateways', key = 'tls\\.crt') =>
    kubectl(`get secret ${name} --namespace ${namespace} --output=jsonpath='{.data.${key}}'`).then((text) =>
      Buffer.from(text, 'base64').toString(),
    )
  const put = (name: string, text: string) => {
    writeFileSync(join(dir, name), text)
    return join(dir, name)
  }
  const openssl = (...words: string[]) => execFileSync('openssl', words, { encoding: 'utf8' })
  const get = async <T>(words: string) => JSON.parse(await kubectl(`get ${words} --output=json`)) as T
  const said = (conditions: Condition[] = [], type: string) => {
    const { status, reason } = conditions.find((one) => one.type === type) ?? {}
    return `${type} ${status} ${reason}`
  }
  /** Whether gateway inside has a certificate, as the operator of Cilium says. */
  const https = async () => {
    const { listeners } = (await get<Gateway>('gateway inside --namespace=gateways')).status
    return said(listeners.find(({ name }) => name === 'https')?.conditions, 'ResolvedRefs')
  }

  before(async () => {
    ;({ cluster, outside } = await twoAuthorities(own, outer))
    await cluster.run('network-cilium', 'apply')
    await cluster.run('network-policies', 'apply')
  })
  after(async () => {
    await cluster?.end()
    await outside?.end()
    rmSync(dir, { recursive: true })
  })

  test('before there are certificates network-gateway is done, says when HTTPS begins, and changes nothing a second time', async () => {
    await cluster.run('network-gateway', 'apply')
    const { addresses, conditions } = (await get<Gateway>('gateway inside --namespace=gateways')).status
    assert.deepEqual(
      addresses.map(({ value }) => value),
      ['10.78.250.10'],
    )
    assert.deepEqual(
      ['Accepted', 'Programmed'].map((type) => said(conditions, type)),
      ['Accepted True Accepted', 'Programmed True Programmed'],
    )
    assert.equal(await https(), 'ResolvedRefs False InvalidCertificateRef')
    const verified = await cluster.run('network-gateway', 'verify', '--verbose')
    for (const address of ['10.78.250.10', '10.78.250.11'])
      assert.match(
        verified,
        new RegExp(`found: programmed at ${address}; HTTPS begins with 33-certificates, Inv`),
      )
    assert.match(await cluster.run('network-gateway', 'apply'), /: \d+ steps hold\n/)
  })

  test('an address is announced: the agent has the lease, and answers who asks for it in the local network', async () => {
    const address = '10.78.250.10'
    const lease = 'lease cilium-l2announce-gateways-cilium-gateway-inside --namespace=cilium'
    await cluster.until(
      'an agent has the lease',
      `/opt/bin/k3s kubectl get ${lease} --output=jsonpath={.spec.holderIdentity} | grep --line-regexp ${first}`,
    )
    const mac = (await cluster.on(first, 'cat /sys/class/net/host0/address')).trim()
    // This computer stands in that network, beside the node, which has no such address itself.
    assert.doesNotMatch(await cluster.on(first, 'ip -brief address'), new RegExp(`${address}/`))
    let seen = ''
    for (let i = 0; i < 30 && !seen.includes(mac); i++) {
      execFileSync('ip', ['neighbour', 'flush', 'to', address])
      await new Promise((resolve) => {
        const socket = connect({ host: address, port: 80, timeout: 1000 })
        const end = () => resolve(socket.destroy())
        socket.on('connect', end).on('timeout', end).on('error', end)
      })
      seen = execFileSync('ip', ['neighbour', 'show', 'to', address], { encoding: 'utf8' })
    }
    assert.match(seen, new RegExp(`lladdr ${mac} `))
  })

  test('without the token of the provider the page waits for a person, and makes nothing', async () => {
    const { code, text } = await cluster.task('certificates', 'apply')
    assert.equal(code, 2, text)
    assert.match(text, /your turn.*the token of the provider of names/)
    assert.equal(await kubectl('get namespace cert-manager --ignore-not-found'), '')
  })

  test('one apply makes a certificate for each gateway: of our own CA, and of an authority by DNS-01', async () => {
    const identity = join(cluster.state, 'identity.txt')
    await secretStore({ dir: state(), identity }).put('dns-token', outside.tsig.key)
    const text = await cluster.run('certificates', 'apply')
    assert.match(text, /gateway inside has a certificate for fortress-pi\.internal/)
    assert.match(await outside.log(), /adding an RR at '_acme-challenge\.fortress\.test' TXT/)
  })

  test('a second run changes nothing, and verify holds', async () => {
    assert.match(await cluster.run('certificates', 'apply'), /: \d+ steps hold\n/)
    await cluster.run('certificates', 'verify')
  })

  test('HTTPS has begun at the gateways', async () => {
    assert.equal(await https(), 'ResolvedRefs True ResolvedRefs')
    const verified = await cluster.run('network-gateway', 'verify', '--verbose')
    assert.match(verified, /found: programmed at 10\.78\.250\.10\n/)
    assert.doesNotMatch(verified, /; HTTPS begins/)
  })

  test('a certificate leads over the intermediate to the root of the laptop, by openssl', async () => {
    const root = join(state(), 'ca.crt')
    const served = put('inside.pem', await chain('inside-tls'))
    const certificates = readFileSync(served, 'utf8').match(/-----BEGIN[^]*?END CERTIFICATE-----/g)!
    assert.equal(certificates.length, 2, 'a gateway serves the intermediate, and not the root')
    const leaf = new X509Certificate(certificates[0]!)
    assert.equal(leaf.subjectAltName, `DNS:${own}, DNS:*.${own}`)
    assert.match(
      openssl(
        'verify',
        '-x509_strict',
        '-purpose',
        'sslserver',
        '-verify_hostname',
        `hello.${own}`,
        '-CAfile',
        root,
        '-untrusted',
        served,
        served,
      ),
      /: OK/,
    )
    assert.throws(() => openssl('verify', '-CAfile', root, served), /unable to get local issuer/)
  })

  test('the certificate of the authority outside is for its zone, and its issuer is not ours', async () => {
    const leaf = new X509Certificate(await chain('outside-tls'))
    assert.deepEqual(leaf.subjectAltName?.split(', ').toSorted(), [`DNS:*.${outer}`, `DNS:${outer}`])
    assert.match(leaf.issuer, /Pebble Intermediate CA/)
    const untrusted = put('outside.pem', await chain('outside-tls'))
    assert.match(
      openssl(
        'verify',
        '-CAfile',
        put('pebble.pem', await outside.issuing()),
        '-untrusted',
        untrusted,
        untrusted,
      ),
      /: OK/,
    )
  })

  test('the CA signs no name outside of its zones that anybody would take', async () => {
    await kubectl(
      'apply --filename=-',
      certificate('bank', { dnsNames: ['www.bank.example'], secretName: 'bank' }),
    )
    await kubectl('wait --for=condition=Ready --timeout=60s certificate/bank --namespace gateways')
    const served = put('bank.pem', await chain('bank'))
    await kubectl('delete certificate bank --namespace gateways')
    assert.throws(
      () => openssl('verify', '-CAfile', join(state(), 'ca.crt'), '-untrusted', served, served),
      /permitted subtree violation/,
    )
  })

  test('the root key is in no Secret of the cluster, and on the laptop in an encrypted file alone', async () => {
    const identity = join(cluster.state, 'identity.txt')
    const key = (await secretStore({ dir: state(), identity }).get('ca-root')).reveal()
    const line = key.split('\n')[1]!
    const all = await kubectl(
      `get secrets --all-namespaces --output=go-template='{{ range .items }}{{ range .data }}{{ . }} {{ end }}{{ end }}'`,
    )
    const values = all.trim().split(/\s+/)
    const texts = values.map((value) => Buffer.from(value, 'base64').toString('latin1'))
    assert.ok(texts.some((text) => text.includes('PRIVATE KEY')))
    assert.ok(!texts.some((text) => text.includes(line)))
    const files = readdirSync(cluster.state, { recursive: true, withFileTypes: true }).filter((one) =>
      one.isFile(),
    )
    for (const { parentPath, name } of files)
      assert.ok(!readFileSync(join(parentPath, name), 'latin1').includes(line), `${parentPath}/${name}`)
  })

  test('the webhook refuses a certificate that would be renewed before it begins', async () => {
    const bad = certificate('bad', { duration: '1h', renewBefore: '2h' })
    await assert.rejects(kubectl('apply --filename=-', bad), /webhook\.cert-manager\.io.*denied the request/s)
  })

  test('a certificate is renewed before its end, without anybody', async () => {
    const short = certificate('short', { duration: '1h', renewBefore: '59m40s' })
    await kubectl('apply --filename=-', short)
    await kubectl('wait --for=condition=Ready --timeout=60s certificate/short --namespace gateways')
    const serial = () => chain('short').then((text) => new X509Certificate(text).serialNumber)
    const before = await serial()
    await cluster.until(
      'there is a second one',
      `/opt/bin/k3s kubectl get certificate short --namespace gateways --output=jsonpath={.status.revision} | grep -v '^1$'`,
      90,
    )
    assert.notEqual(await serial(), before)
    await kubectl('delete certificate short --namespace gateways')
  })

  test('verify sees an issuer and a token that somebody has changed by hand; apply mends both', async () => {
    await kubectl(
      `patch clusterissuer own-ca --type=merge --patch '{"spec":{"ca":{"secretName":"another"}}}'`,
    )
    await kubectl(
      `patch secret dns01 --namespace cert-manager --type=merge --patch '{"stringData":{"token":"another"}}'`,
    )
    const { code, text } = await cluster.task('certificates', 'verify')
    assert.equal(code, 1)
    assert.match(text, /secretName/)
    assert.match(text, /dns01 is not what was put there/)
    await cluster.run('certificates', 'apply')
    await cluster.run('certificates', 'verify')
  })

  test('an intermediate that is gone is signed anew, and devices keep their root', async () => {
    const root = readFileSync(join(state(), 'ca.crt'), 'utf8')
    await kubectl('delete secret own-ca --namespace cert-manager')
    assert.match(
      (await cluster.task('certificates', 'plan')).text,
      /there is no certificate in cert-manager\/own-ca/,
    )
    await cluster.run('certificates', 'apply')
    assert.equal(readFileSync(join(state(), 'ca.crt'), 'utf8'), root)
  })

  test('undo leaves definitions and what it says, and nothing else', async () => {
    const text = await cluster.run('certificates', 'undo')
    assert.match(text, /kept/)
    assert.equal(await kubectl('get namespace cert-manager --ignore-not-found'), '')
    assert.equal(await kubectl('get clusterissuers,certificates --all-namespaces --ignore-not-found'), '')
    await cluster.until(
      'the Secrets are gone',
      `! /opt/bin/k3s kubectl get secrets --namespace gateways --output=name | grep tls`,
    )
    const left = await kubectl(
      `get validatingwebhookconfigurations,mutatingwebhookconfigurations,clusterroles,clusterrolebindings --output=name`,
    )
    assert.doesNotMatch(left, /cert-manager/)
    assert.ok(existsSync(join(state(), 'ca.crt')) && existsSync(join(state(), 'ca-root.age')))
    assert.equal(
      await cluster.on(
        first,
        `/opt/bin/k3s kubectl get roles --namespace kube-system --output=name | grep cert-manager || true`,
      ),
      '',
    )
  })

  test('undo leaves no gateway, address, configuration or Service', async () => {
    await cluster.run('network-gateway', 'undo')
    const names = '--no-headers --output=custom-columns=in:.metadata.namespace,name:.metadata.name'
    await cluster.until(
      'nothing of them is left',
      `! /opt/bin/k3s kubectl get gateways,httproutes,ciliumenvoyconfigs,services,ciliumnetworkpolicies --all-namespaces ${names} | grep -E 'inside|outside' &&
! /opt/bin/k3s kubectl get ciliumloadbalancerippools,ciliuml2announcementpolicies,namespaces --output=name | grep gateway`,
    )
  })

  test('a gateway that listens on the node itself is programmed there, without a Service that has an address', async () => {
    cluster.site((site) => {
      const { host: address } = cluster.machineOf(first)
      site['gateways'] = [{ name: 'inside', address, listen: 'host', audience: ['tunnel'] }]
      site['names'] = (site['names'] as { zone: string }[]).filter(({ zone }) => zone === own)
      const router = site['router'] as { allow: { to: string | string[] }[] }
      for (const line of router.allow)
        if (Array.isArray(line.to)) line.to = line.to.filter((to) => to !== 'gateway:outside')
    })
    await cluster.run('network-cilium', 'apply')
    await cluster.run('network-policies', 'apply')
    await cluster.run('network-gateway', 'apply')
    assert.match(await cluster.run('network-gateway', 'apply'), /: \d+ steps hold\n/)
    const { spec } = await get<{
      spec: { template: { spec: { hostNetwork: boolean; containers: { securityContext: object }[] } } }
    }>('daemonset cilium-envoy --namespace=cilium')
    assert.equal(spec.template.spec.hostNetwork, true)
    assert.match(JSON.stringify(spec.template.spec.containers[0]?.securityContext), /NET_BIND_SERVICE/)
    assert.doesNotMatch(await kubectl('get services --namespace=gateways --no-headers'), /LoadBalancer/)
    const config = await kubectl('get ciliumenvoyconfigs --namespace=gateways --output=yaml')
    assert.match(config, /address: 0\.0\.0\.0\n +portValue: 80\n/)
    await cluster.run('network-gateway', 'undo')
  })
})

const certificate = (name: string, spec: object) =>
  JSON.stringify({
    apiVersion: 'cert-manager.io/v1',
    kind: 'Certificate',
    metadata: { name, namespace: 'gateways' },
    spec: {
      secretName: name,
      dnsNames: [`${name}.${own}`],
      issuerRef: { name: 'own-ca', kind: 'ClusterIssuer', group: 'cert-manager.io' },
      ...spec,
    },
  })
