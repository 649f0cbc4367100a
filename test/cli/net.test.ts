// What ./task net makes of the lines that Hubble writes.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { type Seen, dropsOf, screen } from '../../lib/cli/net.ts'

const flow = (time: string, more: Seen['flow'] = {}): string =>
  JSON.stringify({
    time,
    flow: {
      time,
      IP: { source: '10.42.0.7', destination: '10.42.0.9' },
      l4: { TCP: { source_port: 40000, destination_port: 8080 } },
      source: { namespace: 'other', pod_name: 'web-5bd-c7', workloads: [{ name: 'web' }] },
      destination: { namespace: 'shop', pod_name: 'web-6cd-d8', workloads: [{ name: 'web' }] },
      drop_reason_desc: 'POLICY_DENIED',
      traffic_direction: 'EGRESS',
      ...more,
    },
  })

test('the same drop is one line, with how often and when it was last', () => {
  const lines = ['2026-11-27T10:00:01Z', '2026-11-27T10:00:03Z', '2026-11-27T10:00:02Z'].map((time) =>
    flow(time),
  )
  assert.deepEqual(dropsOf(`${lines.join('\n')}\n`), [
    {
      from: 'other/web',
      to: 'shop/web:tcp/8080',
      reason: 'policy denied, on its way out',
      by: [],
      times: 3,
      last: '2026-11-27T10:00:03Z',
    },
  ])
})

test('what happened last stands first, and a deny is named', () => {
  const drops = dropsOf(
    [
      flow('2026-11-27T10:00:01Z'),
      flow('2026-11-27T10:00:09Z', {
        destination: { labels: ['reserved:world'] },
        IP: { source: '10.42.0.7', destination: '169.254.169.254' },
        drop_reason_desc: 'POLICY_DENY',
        egress_denied_by: [{ name: 'never-metadata' }],
      }),
    ].join('\n'),
  )
  assert.equal(
    screen(drops, '10m'),
    `10:00:09     1 ×  other/web → world 169.254.169.254:tcp/8080
                  policy deny, on its way out, by never-metadata
10:00:01     1 ×  other/web → shop/web:tcp/8080
                  policy denied, on its way out
Whether it should be: ./task may FROM TO:PORT says which line decides.
`,
  )
})

test('who has no name is called by an address, what has no port by its type, and lines of something else are passed over', () => {
  const [drop] = dropsOf(
    `${JSON.stringify({ time: 'x', node_status: {} })}\n${flow('2026-11-27T10:00:01Z', { source: {}, l4: { ICMPv4: { type: 8 } } })}`,
  )
  assert.equal(drop?.from, '10.42.0.7')
  assert.equal(drop?.to, 'shop/web:icmp/8')
})

test('a name that may not be looked up is said: the agent gives no other reason', () => {
  const l4 = { UDP: { destination_port: 53 } }
  const { drop_reason_desc: _, ...refused } = (JSON.parse(flow('2026-11-27T10:00:01Z', { l4 })) as Seen).flow!
  const line = JSON.stringify({ flow: { ...refused, l7: { dns: { query: 'www.example.org.' } } } })
  assert.equal(dropsOf(line)[0]?.reason, 'the name www.example.org may not be looked up, on its way out')
})

test('nothing is a sentence', () => assert.equal(screen([], '2h'), 'Nothing was dropped in the last 2h.\n'))
