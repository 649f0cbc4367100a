// How the state of a gateway and of a route is judged: what Cilium's operator writes, line by line, and what is said of it.
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { join } from 'node:path'
import { describe, test } from 'node:test'
import { parse } from 'yaml'
import { gatewayManifests } from '../../lib/component/gateways.ts'
import { root } from '../../lib/ground/root.ts'
import { otherGateways, servedGateways, webOf } from '../../lib/site/gateways.ts'
import type { Gateway } from '../../lib/site/model.ts'
import { made, metal } from '../site/made.ts'
import { siteOf } from '../sites.ts'

/** Runs a function of gateways.sh where kubectl says these lines. */
function asked(call: string, lines: string[]): { code: number | null; said: string } {
  const script = `source ${join(root, 'lib/component/gateways.sh')}; kubectl() { printf '%s' "$LINES_OF_KUBECTL"; }; ${call}`
  const { status, stdout, stderr } = spawnSync('bash', ['-c', script], {
    env: { ...process.env, LINES_OF_KUBECTL: lines.map((line) => `${line}\n`).join('') },
    encoding: 'utf8',
  })
  return { code: status, said: `${stdout}${stderr}` }
}

const good = [
  'generation 2',
  'address 10.77.0.240',
  'gateway Accepted True 2 Accepted: Gateway successfully scheduled',
  'gateway Programmed True 2 Programmed: Gateway Programmed',
  'listener-https ResolvedRefs True 2 ResolvedRefs: Resolved Refs',
]
const withLine = (begin: string, line?: string) =>
  good.flatMap((one) => (one.startsWith(begin) ? (line ?? []) : one))

describe('a gateway is ready', () => {
  const call = 'gateway_ready gateways inside 10.77.0.240'
  test('when it is accepted and programmed as it stands, at its address', () => {
    assert.deepEqual(asked(call, good), { code: 0, said: 'programmed at 10.77.0.240\n' })
  })
  for (const [why, [lines, says]] of Object.entries<[string[], RegExp]>({
    'while its controller knows an older one': [
      withLine('gateway Accepted', 'gateway Accepted True 1 Accepted: x'),
      /^Accepted is True of an older generation, Accepted: x$/m,
    ],
    'while it is refused': [
      withLine('gateway Programmed', 'gateway Programmed False 2 AddressNotUsable: StaticAddress is used'),
      /^Programmed is False, AddressNotUsable: StaticAddress is used$/m,
    ],
    'before its controller has looked at it': [['generation 1'], /^$/],
    'at another address': [
      withLine('address', 'address 10.77.0.9'),
      /are 10\.77\.0\.9, and not 10\.77\.0\.240/,
    ],
    'without an address': [withLine('address'), /are none, and not 10\.77\.0\.240/],
  }))
    test(`and is not ${why}`, () => {
      const { code, said } = asked(call, lines)
      assert.equal(code, 1)
      assert.match(said, says)
    })

  test('without its certificate, which is said, unless HTTPS is asked for', () => {
    const lines = withLine('listener', 'listener-https ResolvedRefs False 2 InvalidCertificateRef: no Secret')
    assert.deepEqual(asked(call, lines), {
      code: 0,
      said: 'programmed at 10.77.0.240; HTTPS begins with 33-certificates, InvalidCertificateRef: no Secret\n',
    })
    assert.equal(asked(`${call} https`, lines).code, 1)
    assert.equal(asked(`${call} https`, good).code, 0)
  })
})

test('a route is ready when each gateway that it names has accepted it and found its Service', () => {
  const call = 'route_ready hello web'
  const lines = [
    'generation 1',
    'wanted',
    'route Accepted True 1 Accepted: x',
    'route ResolvedRefs True 1 ResolvedRefs: x',
  ]
  assert.equal(asked(call, lines).code, 0)
  assert.equal(asked(call, [...lines, 'wanted']).code, 1)
  const refused = asked(call, [
    ...lines.slice(0, 3),
    'route ResolvedRefs False 1 BackendNotFound: no Service',
  ])
  assert.equal(refused.code, 1)
  assert.match(refused.said, /BackendNotFound: no Service/)
})

describe('the objects of gateways', () => {
  const site = siteOf('fortress')
  const objects = (of = site) =>
    gatewayManifests(of, servedGateways(of), 'gateways').map(
      (text) =>
        parse(text) as {
          kind: string
          spec: Record<string, never> & { listeners: Record<string, unknown>[] }
        },
    )

  test('give it its address and no other Service the same one', () => {
    const [pool, announced, gateway] = objects()
    assert.deepEqual(pool?.spec['blocks'], [{ start: '10.77.0.240', stop: '10.77.0.240' }])
    assert.equal(announced?.kind, 'CiliumL2AnnouncementPolicy')
    assert.deepEqual(gateway?.spec['addresses'], [{ type: 'IPAddress', value: '10.77.0.240' }])
  })

  test('take routes on HTTPS from namespaces with the label alone, and on HTTP from nobody else', () => {
    const [, , gateway] = objects()
    assert.deepEqual(
      gateway?.spec.listeners.map(({ allowedRoutes, hostname }) => [allowedRoutes, hostname]),
      [
        [{ namespaces: { from: 'Same' } }, '*.fortress.internal'],
        [
          {
            namespaces: { from: 'Selector', selector: { matchLabels: { 'fortress-kit/gateway': 'inside' } } },
          },
          '*.fortress.internal',
        ],
      ],
    )
  })

  test('on nodes themselves have no address of their own', () => {
    const pi = objects(siteOf('fortress-pi'))
    assert.deepEqual(
      pi.map(({ kind }) => kind),
      ['Gateway', 'HTTPRoute'],
    )
    assert.equal(pi[0]?.spec['addresses'], undefined)
  })
})

describe('gateways that no page serves', () => {
  const gateways = (more: Partial<Gateway>): Gateway[] => [
    { name: 'inside', address: '10.66.0.1', listen: 'host', audience: ['tunnel'], ...more },
  ]
  for (const [why, more] of Object.entries<Partial<Gateway>>({
    'of DNS': { kind: 'dns' },
    'with a tunnel of another in front': { entry: 'cloudflared' },
    'with a firewall of web requests': { waf: 'modsecurity' },
    'with a login': { login: 'authelia' },
  }))
    test(`are those ${why}`, () => {
      const site = made({ machines: metal('server'), gateways: gateways(more) })
      assert.deepEqual(
        [servedGateways(site).length, otherGateways(site).length, webOf(site)],
        [0, 1, undefined],
      )
    })

  test('are all of a site that has chosen another component', () => {
    assert.equal(servedGateways(siteOf('zengarden')).length, 0)
    assert.ok(otherGateways(siteOf('zengarden')).length > 0)
  })
})
