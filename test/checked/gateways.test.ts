// Gateways as Cilium's own operator takes them, beside a real API server: what 32-network-gateway declares is accepted and gets its
// address, routes are taken or refused with the right reason, and what the operator writes for its Envoy is run by a stock one.
// Cilium's redirect of packets into that Envoy is not run anywhere.
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { type Server, createServer } from 'node:http'
import { type AddressInfo } from 'node:net'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { printed } from '../../lib/engine/print.ts'
import type { Context, Page } from '../../lib/engine/page.ts'
import { isChange } from '../../lib/engine/step.ts'
import { $ } from '../../lib/ground/laptop.ts'
import { type EnvoyConfig, runEnvoy, stockEnvoy } from '../node/envoy.ts'
import { selfSigned, without } from '../programs.ts'
import { siteOf } from '../sites.ts'
import gateway from '../../scripts/32-network-gateway.ts'
import hello from '../../scripts/39-hello.ts'
import { type ControlPlane, controlPlane, freePort, missing } from './controlplane.ts'

const site = siteOf('fortress')
const zone = 'fortress.internal'
const host = `hello.${zone}`
const address = '10.77.0.240'

interface Condition {
  type: string
  status: string
  reason: string
}
const reasons = (conditions: Condition[] = []) =>
  Object.fromEntries(conditions.map(({ type, status, reason }) => [type, `${status} ${reason}`]))

describe('gateways beside the operator of Cilium', { skip: missing }, () => {
  let plane: ControlPlane
  let certificate: { chain: string; key: string }
  const kubectl = (words: string, input?: string) => plane.kubectl(words, input)
  const get = async <T>(words: string) => JSON.parse(await kubectl(`get ${words} --output=json`)) as T
  const context = () => ({ site, state: join(plane.dir, 'site') }) as unknown as Context
  const env = () => ({
    KUBECONFIG: plane.kubeconfig,
    FK_TMP: plane.dir,
    XDG_STATE_HOME: join(plane.dir, 'state'),
    FK_STATE: join(plane.dir, 'state/fortress-kit'),
  })
  /** Runs a page as it is printed. */
  const apply = async (page: Page) => {
    const input = printed({ ...page, steps: page.steps(context()) })
    const { exitCode, stdout, stderr } = await $({ nothrow: true, env: env(), input })`bash`
    assert.equal(exitCode, 0, `${stdout}${stderr}`)
    return stdout
  }
  /** What undo of a page runs, the last step first. */
  const undo = async (page: Page) => {
    for (const step of page.steps(context()).toReversed().filter(isChange))
      for (const { text } of step.undo ?? [])
        await $({ env: env(), input: `set -euo pipefail\n${page.library!.text}\n${text}\n` })`bash`
  }

  before(async () => {
    plane = await controlPlane()
    certificate = selfSigned(zone, plane.dir)
  })
  after(async () => {
    await plane?.end()
  })

  test('32-network-gateway declares one that is programmed at its address; a second run changes nothing', async () => {
    assert.match(await apply(gateway), /changed +gateways are declared: inside at 10\.77\.0\.240/)
    const { status } = await get<{
      status: {
        addresses: { value: string }[]
        conditions: Condition[]
        listeners: { name: string; conditions: Condition[] }[]
      }
    }>('gateway inside --namespace=gateways')
    assert.deepEqual(
      status.addresses.map(({ value }) => value),
      [address],
    )
    const { Accepted, Programmed } = reasons(status.conditions)
    assert.deepEqual([Accepted, Programmed], ['True Accepted', 'True Programmed'])
    const https = status.listeners.find(({ name }) => name === 'https')
    assert.equal(reasons(https?.conditions)['ResolvedRefs'], 'False InvalidCertificateRef')
    const token = '--output=jsonpath={.automountServiceAccountToken}'
    assert.equal(await kubectl(`get serviceaccount default --namespace=gateways ${token}`), 'false')
    assert.doesNotMatch(await apply(gateway), /changed|running/)
  })

  test('no Service of anybody else is given its address', async () => {
    await kubectl('create namespace shop')
    await kubectl('create service clusterip web --tcp=80 --namespace=shop')
    await kubectl('create service loadbalancer thief --tcp=80 --namespace=shop')
    await kubectl(`annotate service thief --namespace=shop lbipam.cilium.io/ips=${address}`)
    await kubectl(
      'wait service/thief --namespace=shop --for=condition=cilium.io/IPAMRequestSatisfied=False --timeout=60s',
    )
    assert.equal(
      await kubectl('get service thief --namespace=shop --output=jsonpath={.status.loadBalancer.ingress}'),
      '',
    )
  })

  test('with its certificate HTTPS is there, and 39-hello is done; a second run changes nothing', async () => {
    const { chain, key } = certificate
    await kubectl(`create secret tls inside-tls --namespace=gateways --cert=${chain} --key=${key}`)
    const page = apply(hello)
    // No node runs the pods: their state is that of a page that is served.
    const counts = { replicas: 1, updatedReplicas: 1, readyReplicas: 1, availableReplicas: 1 }
    const status = JSON.stringify({ status: { observedGeneration: 1, ...counts } })
    await plane.until('the page is declared', async () => {
      const words = 'patch deployment web --namespace=hello --subresource=status --type=merge'
      return (await kubectl(`${words} --patch '${status}'`)) !== ''
    })
    assert.match(await page, /ready +open https:\/\/hello\.fortress\.internal in the tunnel/)
    assert.doesNotMatch(await apply(hello), /changed|running/)
  })

  test('its pods are let into a namespace that is restricted, and one with more rights is not', async () => {
    const { spec } = await get<{ spec: { template: { metadata: object; spec: { containers: object[] } } } }>(
      'deployment web --namespace=hello',
    )
    const pod = (containers: object[]) =>
      JSON.stringify({
        apiVersion: 'v1',
        kind: 'Pod',
        metadata: { ...spec.template.metadata, name: 'trial', namespace: 'hello' },
        spec: { ...spec.template.spec, containers },
      })
    await kubectl('create serviceaccount default --namespace=hello || true')
    const { containers } = spec.template.spec
    assert.match(await kubectl('create --dry-run=server --filename=-', pod(containers)), /created/)
    const more = containers.map((one) => ({ ...one, securityContext: {} }))
    await assert.rejects(
      kubectl('create --dry-run=server --filename=-', pod(more)),
      /violates PodSecurity "restricted/,
    )
  })

  for (const [why, wanted] of Object.entries<{
    namespace: string
    parent?: string
    hostname?: string
    service?: string
    says: Record<string, string> | undefined
  }>({
    'from a namespace without the label': {
      namespace: 'shop',
      says: { Accepted: 'False NotAllowedByListeners', ResolvedRefs: 'True ResolvedRefs' },
    },
    'to a Service that is not there': {
      namespace: 'hello',
      service: 'none',
      says: { Accepted: 'True Accepted', ResolvedRefs: 'False BackendNotFound' },
    },
    'for a name outside of the zones of the gateway': {
      namespace: 'hello',
      hostname: 'hello.example.com',
      says: { Accepted: 'False NoMatchingListenerHostname', ResolvedRefs: 'True ResolvedRefs' },
    },
    'at a gateway that is not ours': { namespace: 'hello', parent: 'foreign', says: undefined },
    'that is right': {
      namespace: 'hello',
      hostname: `second.${zone}`,
      says: { Accepted: 'True Accepted', ResolvedRefs: 'True ResolvedRefs' },
    },
  }))
    test(`a route ${why} is ${wanted.says ? Object.values(wanted.says).join(', ') : 'left alone'}`, async () => {
      const name = why.toLowerCase().replaceAll(' ', '-')
      const { namespace, parent = 'inside', hostname = `other.${zone}`, service = 'web', says } = wanted
      await kubectl('apply --filename=-', route(name, namespace, parent, hostname, service))
      if (says !== undefined)
        await plane.until('the route was looked at', async () =>
          (await kubectl(`get httproute ${name} --namespace=${namespace} --output=json`)).includes(
            'ResolvedRefs',
          ),
        )
      const { status } = await get<{ status?: { parents: { conditions: Condition[] }[] } }>(
        `httproute ${name} --namespace=${namespace}`,
      )
      assert.deepEqual(status?.parents.map(({ conditions }) => reasons(conditions))[0], says)
      await kubectl(`delete httproute ${name} --namespace=${namespace}`)
    })

  describe('what the operator wrote, in a stock Envoy', { skip: without('envoy', 'curl') }, () => {
    let port = 0
    let page: Server
    let envoy: { end: () => Promise<void> }
    // The page is served by this process: it must not be blocked.
    const curl = async (...words: string[]) => {
      const given = [
        '--silent',
        '--show-error',
        '--max-time',
        '10',
        '--cacert',
        certificate.chain,
        '--include',
      ]
      const { stdout, stderr } = await $({ nothrow: true })`curl ${[...given, ...words]}`
      return `${stdout}${stderr}`.replaceAll('\r', '')
    }
    const at = (name: string) => ['--resolve', `${name}:${port}:127.0.0.1`, `https://${name}:${port}/`]

    before(async () => {
      port = await freePort()
      page = createServer((_, response) => response.end('from the pod'))
      await new Promise<void>((resolve) => void page.listen(0, '127.0.0.1', resolve))
      const written = await get<EnvoyConfig>('ciliumenvoyconfig cilium-gateway-inside --namespace=gateways')
      const backends = { 'hello/web:80': `127.0.0.1:${(page.address() as AddressInfo).port}` }
      envoy = await runEnvoy(stockEnvoy(written, { port, backends, certificate }), port)
    })
    after(async () => {
      await envoy?.end()
      page?.close()
    })

    test('HTTP leads to the same path by HTTPS, for a name of the zone alone, and serves nothing', async () => {
      const said = await curl('--header', `Host: ${host}`, `http://127.0.0.1:${port}/a?b=c`)
      assert.match(said, /^HTTP\/1\.1 301 /)
      assert.match(said, new RegExp(`^location: https://${host}(:443)?/a\\?b=c$`, 'm'))
      assert.doesNotMatch(said, /from the pod/)
      assert.match(
        await curl('--header', 'Host: www.example.com', `http://127.0.0.1:${port}/`),
        /^HTTP\/1\.1 404 /,
      )
    })

    test('HTTPS serves the page by its name, with the certificate and its headers', async () => {
      const said = await curl(...at(host))
      assert.match(said, /^HTTP\/1\.1 200 /)
      assert.match(said, /from the pod$/)
      assert.match(said, /^content-security-policy: default-src 'none'; style-src 'unsafe-inline'$/m)
      assert.match(said, /^x-content-type-options: nosniff$/m)
    })

    test('a name of the zone that has no route is not found, and a name outside of it gets no connection', async () => {
      assert.match(await curl(...at(`nobody.${zone}`)), /^HTTP\/1\.1 404 /)
      const words = ['s_client', '-connect', `127.0.0.1:${port}`, '-servername', 'www.example.com']
      const { stdout } = spawnSync('openssl', words, { input: '', encoding: 'utf8' })
      assert.match(stdout, /no peer certificate available/)
    })

    test('a request for one name inside a connection for another one is not served', async () => {
      const said = await curl('--header', 'Host: www.example.com', ...at(host))
      assert.match(said, /^HTTP\/1\.1 (404|421) /)
    })

    test('TLS 1.1 is refused, 1.2 and 1.3 are spoken', () => {
      const words = ['s_client', '-connect', `127.0.0.1:${port}`, '-servername', host]
      const says = (version: string) => {
        const { stdout } = spawnSync('openssl', [...words, version, '-cipher', 'ALL:@SECLEVEL=0'], {
          input: '',
          encoding: 'utf8',
        })
        return /^New, (TLSv1\.\d|\(NONE\))/m.exec(stdout)?.[1]
      }
      assert.deepEqual(['-tls1_1', '-tls1_2', '-tls1_3'].map(says), ['(NONE)', 'TLSv1.2', 'TLSv1.3'])
    })
  })

  test('undo leaves no gateway, address, Service, configuration or namespace, and the routes of others', async () => {
    await kubectl('apply --filename=-', route('mine', 'shop', 'inside', `mine.${zone}`, 'web'))
    await undo(hello)
    assert.equal(await kubectl('get namespace hello --ignore-not-found'), '')
    await undo(gateway)
    await plane.until('what the operator made is gone', async () => {
      const left = await kubectl(
        'get gateways,ciliumenvoyconfigs,ciliumloadbalancerippools,ciliuml2announcementpolicies --all-namespaces --output=name',
      )
      return left === ''
    })
    assert.equal(await kubectl('get namespace gateways --ignore-not-found'), '')
    assert.match(await kubectl('get httproutes --all-namespaces --output=name'), /^\S+\/mine\n$/)
  })
})

/** A route of somebody. */
const route = (name: string, namespace: string, parent: string, hostname: string, service: string): string =>
  JSON.stringify({
    apiVersion: 'gateway.networking.k8s.io/v1',
    kind: 'HTTPRoute',
    metadata: { name, namespace },
    spec: {
      parentRefs: [{ name: parent, namespace: 'gateways', sectionName: 'https' }],
      hostnames: [hostname],
      rules: [{ backendRefs: [{ name: service, port: 80 }] }],
    },
  })
