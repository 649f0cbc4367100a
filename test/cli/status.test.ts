// What `./task status` makes of what machines say: what needs attention, in which order, and what stands on the screen.
import assert from 'node:assert/strict'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, test } from 'node:test'
import { statusOf } from '../../lib/cli/concerns.ts'
import { type Answers, age } from '../../lib/cli/health.ts'
import { screen } from '../../lib/cli/screen.ts'
import { take, verdictsIn } from '../../lib/cli/status.ts'
import { loadConfig } from '../../lib/site/config.ts'
import { made, metal } from '../site/made.ts'

const now = new Date('2026-11-21T12:00:00Z')

const site = (...roles: ('server' | 'agent')[]) => ({
  ...loadConfig({ env: { FK_STATE_DIR: '/nonexistent' }, site: 'fortress-pi' }),
  site: made({ name: 'fortress-pi', machines: metal(...roles) }),
})
const pinned = site('server').pins['k3s']!.version

type Answer = [string, Record<string, string>]

/** A machine on which all is well; `more` is what else it answers. */
function well(name: string, ...more: Answer[]): Answers {
  const answers: Answers = { name, pages: [], notes: [] }
  take(answers, 'machine', { up: '86400', system: 'Debian GNU/Linux 13 (trixie)', kernel: '6.12.48' })
  take(answers, 'k3s', {
    active: 'active',
    version: pinned,
    staged: pinned,
    certificate: '300 server/tls/client-admin.crt',
  })
  for (const [kind, values] of more) take(answers, kind, values)
  return answers
}
const node = (
  name: string,
  more: Partial<Record<'version' | 'ready' | 'voter' | 'cordoned' | 'away', string>> = {},
) =>
  [
    name,
    more.version ?? pinned,
    more.ready ?? 'True',
    'KubeletReady',
    more.voter ?? 'True',
    more.cordoned ?? '',
    more.away ?? '',
    pinned,
  ].join('\t')
const nodes = (...lines: string[]): Answer => ['nodes', { nodes: lines.join('\n') }]
const backups: Answer[] = [
  ['note', { which: 'node.good', line: '2026-11-21T09:00:00Z\tbundle\t100\tok\t' }],
  ['note', { which: 'drill.good', line: '2026-11-11T09:00:00Z\tbundle\t100\tok\t' }],
]
const shown = (config: ReturnType<typeof site>, machines: Answers[]) => statusOf(config, machines, [], now)
const said = (config: ReturnType<typeof site>, machines: Answers[]) =>
  shown(config, machines).concerns.map(({ state, of, says, next }) => `${state} ${of}: ${says} → ${next}`)

describe('what needs attention', () => {
  test('nothing, where all is well', () => {
    assert.deepEqual(said(site('server'), [well('pi-1', nodes(node('pi-1')), ...backups)]), [])
  })

  test('a machine that does not answer is a line, and what is broken comes first', () => {
    const silent: Answers = {
      name: 'pi-2',
      silent: { why: 'pi-2 cannot be reached: Connection timed out' },
      pages: [],
      notes: [],
    }
    const first = well(
      'pi-1',
      nodes(node('pi-1'), node('pi-2', { ready: 'Unknown', voter: 'False' })),
      ...backups,
    )
    first.restart = 'linux-image-arm64'
    assert.deepEqual(said(site('server', 'server'), [first, silent]), [
      'bad pi-2: pi-2 cannot be reached: Connection timed out; the cluster does not see it either → ./task doctor; when it is lost for good: ./task node replace pi-2',
      'warn pi-1: it waits for a reboot (linux-image-arm64) → sudo systemctl reboot, one node of a cluster after the other',
    ])
  })

  test('an older version is upgraded when all have the new one, and staged before', () => {
    const old = 'v1.35.1+k3s1'
    const lines = nodes(node('pi-1', { version: old }), node('pi-2', { version: old }))
    const machines = [well('pi-1', lines, ...backups), well('pi-2')]
    assert.match(
      said(site('server', 'agent'), machines).join(),
      /pi-1 and pi-2 run v1\.35\.1\+k3s1 → \.\/task k3s-upgrade plan/,
    )
    machines[1]!.k3s!.staged = [old]
    machines[0]!.nodes![1]!.staged = old
    assert.match(said(site('server', 'agent'), machines).join(), /→ \.\/task k3s-stage apply/)
  })

  test('an upgrade that was cut short, and who has cordoned a node', () => {
    const one = (answer: Answer, upgrading = '') => {
      const machine = well('pi-1', answer, ...backups)
      if (upgrading) machine.k3s!.upgrading = upgrading
      return said(site('server'), [machine]).join()
    }
    assert.match(
      one(nodes(node('pi-1')), 'v1.37.0+k3s1'),
      /an upgrade to v1\.37\.0\+k3s1 has begun and not ended → \.\/task k3s-upgrade apply/,
    )
    assert.match(
      one(nodes(node('pi-1', { cordoned: 'true', away: 'ours-drained' }))),
      /it is drained, and not uncordoned/,
    )
    assert.match(
      one(nodes(node('pi-1', { cordoned: 'true' }))),
      /somebody has cordoned it → kubectl uncordon pi-1/,
    )
  })

  test('nodes that only one of site and cluster knows', () => {
    assert.deepEqual(
      said(site('server', 'agent'), [
        well('pi-1', nodes(node('pi-1'), node('old')), ...backups),
        well('pi-2'),
      ]),
      [
        'warn pi-2: the cluster does not have it → ./task k3s-join apply',
        'warn old: the cluster has it, and the site does not → list it under machines:, or ./task node remove old',
      ],
    )
  })

  test('certificates, backups and drills that are too old, at the limit and beyond it', () => {
    const machine = (days: number, backup: string, drill: string) => {
      const answers = well('pi-1', nodes(node('pi-1')))
      take(answers, 'k3s', {
        active: 'active',
        version: pinned,
        staged: pinned,
        certificate: `${days} agent/client-kubelet.crt`,
      })
      take(answers, 'note', { which: 'ssh.good', line: `${backup}\tb\t1\tok\t` })
      take(answers, 'note', { which: 'drill.good', line: `${drill}\tb\t1\tok\t` })
      return said(site('server'), [answers])
    }
    assert.deepEqual(machine(90, '2026-11-20T11:00:00Z', '2026-10-22T12:00:00Z'), [])
    assert.deepEqual(machine(89, '2026-11-20T09:59:00Z', '2026-10-20T12:00:00Z'), [
      'warn pi-1: agent/client-kubelet.crt ends in 89 days → ./task k3s-renew apply',
      'warn backup: the last good one is 26 h old → ./task k3s-backup verify',
      'warn backup: the last good drill was 32 d ago → ./task drill',
    ])
    assert.match(
      machine(-1, '2026-11-21T11:00:00Z', '2026-11-20T12:00:00Z').join(),
      /^bad pi-1: .* has ended/,
    )
  })

  test('the backup may be as old as the rpo of its row allows, and two hours more for the backup itself', () => {
    const config = site('server')
    const [row] = config.site.data.keep
    config.site.data.keep = [{ ...row!, rpo: '6h' }]
    const old = (time: string) => {
      const notes: Answer[] = [
        ['note', { which: 'node.good', line: `${time}\tbundle\t100\tok\t` }],
        backups[1]!,
      ]
      return said(config, [well('pi-1', nodes(node('pi-1')), ...notes)])
    }
    assert.deepEqual(old('2026-11-21T04:01:00Z'), [])
    assert.deepEqual(old('2026-11-21T03:59:00Z'), [
      'warn backup: the last good one is 8 h old → ./task k3s-backup verify',
    ])
  })

  test('pages that the site needs and that are not built are named, and are no concern', () => {
    const config = site('server')
    config.site.components = { network: 'cilium' }
    const status = shown(config, [well('pi-1', nodes(node('pi-1')), ...backups)])
    assert.deepEqual(status.concerns, [])
    assert.deepEqual(
      status.notBuilt.map(({ page }) => page),
      ['30-network', '31-network-policies', '60-storage-vault', '64-backup'],
    )
    assert.match(screen(status, { color: false }), /^Not built yet\n {2}30-network {2}the network plug-in$/m)
  })

  test('an API that answers nowhere', () => {
    const machine = well('pi-1')
    machine.k3s!.active = false
    machine.k3s!.said = 'level=fatal msg="disk full"'
    const found = said(site('server'), [machine])
    assert.match(found[0] ?? '', /^bad cluster: the API answers on no server/)
    assert.match(found[1] ?? '', /^bad pi-1: k3s does not run: level=fatal msg="disk full"/)
  })

  test('a restore that was cut off, on its first server and on another one', () => {
    const machines = ['restore', 'aside'].map((unfinished, i) => {
      const machine = well(`pi-${i + 1}`)
      take(machine, 'k3s', { active: 'inactive', version: pinned, staged: pinned, unfinished })
      return machine
    })
    assert.deepEqual(said(site('server', 'server'), machines).slice(1, 3), [
      'bad pi-1: a restore has begun here, and has not ended → if nobody is at work: ./task restore FILE again. Until then the machine rolls it back by itself, in half an hour at most',
      'bad pi-2: what it had of the cluster is put aside, and nothing has taken its place → after a restore that was cut off: ./task restore FILE again; where the cluster is well: ./task k3s-join apply',
    ])
  })

  test('files that somebody else has changed are counted, and the first of them named', () => {
    const machine = well('pi-1', nodes(node('pi-1')), ...backups, [
      'page',
      { name: '00-host-harden', changed: '/etc/a\n/etc/b\n/etc/c\n/etc/d' },
    ])
    assert.deepEqual(said(site('server'), [machine]), [
      'warn pi-1: somebody changed /etc/a, /etc/b, /etc/c and 1 more → ./task plan-all shows how, ./task build-all takes it back',
    ])
  })
})

describe('the screen', () => {
  const config = site('server', 'agent')
  const found = shown(config, [
    well('pi-1', nodes(node('pi-1'), node('pi-2', { version: 'v1.35.1+k3s1' })), ...backups),
    { name: 'pi-2', silent: { why: 'no route\nto \u001b[2Jhost' }, pages: [], notes: [] },
  ])

  test('columns stand below each other, with colours and without', () => {
    const plain = screen(found, { color: false })
    assert.doesNotMatch(plain, /\u001b/)
    // oxlint-disable-next-line no-control-regex -- these are our own colour codes
    assert.equal(screen(found, { color: true }).replaceAll(/\u001b\[\d+m/g, ''), plain)
    const rows = plain.split('\n').filter((line) => /^ {2}(node|pi-\d) .*(role|server|agent)/.test(line))
    assert.equal(new Set(rows.map((row) => row.search(/role|server|agent/))).size, 1, plain)
    assert.equal(new Set(rows.map((row) => row.search(/runs|v1\./))).size, 1, plain)
  })

  test('what needs attention stands above everything else, and no machine can move the cursor', () => {
    const plain = screen(found, { color: false })
    assert.match(plain, /^fortress-pi: \d things need you\n\nWhat needs you\n {2}bad {3}pi-2 /)
    assert.ok(plain.indexOf('What needs you') < plain.indexOf('Machines'))
    assert.match(plain, /last backup 3 h ago, last good drill 10 d ago/)
    assert.match(plain, /no route; to host/)
  })

  test('ages are told as people say them', () => {
    const ages = [
      '2026-11-21T11:59:30Z',
      '2026-11-21T10:01:00Z',
      '2026-11-21T09:59:00Z',
      '2026-11-19T11:00:00Z',
      'never',
    ]
    assert.deepEqual(
      ages.map((time) => age(time, now)),
      ['0 min', '119 min', '2 h', '2 d', 'of unknown age'],
    )
  })
})

test('the newest word on each page counts, plans count nothing, and a log that was cut short is read as far as it goes', () => {
  const dir = mkdtempSync(join(tmpdir(), 'fk-status-'))
  try {
    const run = (name: string, mode: string, time: string, failed: number) =>
      writeFileSync(
        join(dir, `${name}.ndjson`),
        `${JSON.stringify({ event: 'page', name: '21-k3s-join', layer: 'L2', mode, machine: 'pi-1 (admin@192.0.2.11)' })}\n${JSON.stringify({ event: 'summary', time, name: '21-k3s-join', hold: 1, failed })}\n{"event":"sum`,
      )
    run('1', 'verify', '2026-11-20T10:00:00Z', 1)
    run('2', 'apply', '2026-11-21T10:00:00Z', 0)
    run('3', 'plan', '2026-11-21T11:00:00Z', 7)
    assert.deepEqual(verdictsIn(dir), [
      {
        page: '21-k3s-join',
        machine: 'pi-1',
        layer: 'L2',
        mode: 'apply',
        time: '2026-11-21T10:00:00Z',
        failed: 0,
        pending: 0,
      },
    ])
    assert.deepEqual(verdictsIn(join(dir, 'nothing')), [])
  } finally {
    rmSync(dir, { recursive: true })
  }
})
