// What `./task status` makes of what machines say: what needs attention, in which order, and what stands on the screen.
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { type AddressInfo, createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, describe, test } from 'node:test'
import { statusOf } from '../../lib/cli/concerns.ts'
import { type Answers, age } from '../../lib/cli/health.ts'
import { screen } from '../../lib/cli/screen.ts'
import { type Verdict, verdictsIn } from '../../lib/cli/history.ts'
import { type SitePage, judge, layersOf } from '../../lib/cli/layers.ts'
import { take } from '../../lib/cli/status.ts'
import { noteCopied } from '../../lib/ground/identity.ts'
import { loadConfig } from '../../lib/site/config.ts'
import { made, metal } from '../site/made.ts'

const now = new Date('2026-11-21T12:00:00Z')

const site = (...roles: ('server' | 'agent')[]) => ({
  ...loadConfig({
    env: { FK_STATE_DIR: '/nonexistent', FK_AGE_IDENTITY: '/nonexistent' },
    site: 'fortress-pi',
  }),
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
const shown = (config: ReturnType<typeof site>, machines: Answers[]) =>
  statusOf(config, { pages: [], machines, verdicts: [], now })
const said = (config: ReturnType<typeof site>, machines: Answers[]) =>
  shown(config, machines).concerns.map(({ state, of, says, next }) => `${state} ${of}: ${says} → ${next}`)

describe('what needs attention', () => {
  test('nothing, where all is well', () => {
    assert.deepEqual(said(site('server'), [well('pi-1', nodes(node('pi-1')), ...backups)]), [])
  })

  test('an exception from the rules whose last day is over', () => {
    const config = site('server')
    const exception = { rules: ['digest', 'limits'], namespace: 'old', why: 'it is old' }
    const until = (day: string) => {
      const policy = { ...config.site.policy, exceptions: [{ ...exception, until: day }] }
      return said({ ...config, site: { ...config.site, policy } }, [
        well('pi-1', nodes(node('pi-1')), ...backups),
      ])
    }
    assert.deepEqual(until('2026-11-21'), [])
    const [line, ...more] = until('2026-11-20')
    assert.match(
      line!,
      /^warn policy: the exception from digest and limits in old ended with 2026-11-20 → \.\/task policy apply, /,
    )
    assert.deepEqual(more, [])
  })

  test('an age identity without a known copy, until a copy is noted', () => {
    const dir = mkdtempSync(join(tmpdir(), 'fk-identity-'))
    const config = site('server')
    config.env = { ...config.env, FK_AGE_IDENTITY: join(dir, 'identity.txt') }
    const machines = [well('pi-1', nodes(node('pi-1')), ...backups)]
    writeFileSync(config.env.FK_AGE_IDENTITY, '')
    assert.deepEqual(said(config, machines), [
      'warn identity: no copy of it is known, and it opens every secret and backup → ./task identity',
    ])
    noteCopied(config.env.FK_AGE_IDENTITY)
    assert.deepEqual(said(config, machines), [])
    rmSync(dir, { recursive: true })
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
      'warn pi-1: it waits for a reboot (linux-image-arm64) → ./task host-reboot apply',
    ])
  })

  test('a Flatcar that is not the pinned release, or has another one waiting, is updated by its page', () => {
    const first = well('pi-1', nodes(node('pi-1')), ...backups)
    first.system = 'Flatcar Container Linux by Kinvolk 1000.2.3 (Oklo)'
    first.restart = 'a new system'
    const config = site('server')
    const pinned = config.pins['flatcar']?.version
    assert.deepEqual(said(config, [first]), [
      'warn pi-1: it waits for a reboot (a new system) → ./task node-update apply',
      `warn pi-1: Flatcar ${pinned} is pinned, and it runs 1000.2.3 → ./task node-update plan, then apply`,
    ])
    first.system = `Flatcar Container Linux by Kinvolk ${pinned} (Oklo)`
    first.restart = ''
    assert.deepEqual(said(config, [first]), [])
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
      /somebody has cordoned it → \.\/task kubectl uncordon pi-1/,
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

  test('certificates of gateways that are not there or end soon, and the CA that signs them', () => {
    const line = (name: string, ready: string, until: string, by = '', why = '') =>
      [name, ready, until, by, why].join('\t')
    const machine = (...lines: string[]) =>
      said(site('server'), [
        well('pi-1', nodes(node('pi-1')), ...backups, ['certificates', { certificates: lines.join('\n') }]),
      ])
    assert.deepEqual(
      machine(
        line('inside-tls', 'True', '2026-12-12T12:00:00Z'),
        line('own-ca', '', '', '2027-02-20T12:00:00Z'),
      ),
      [],
    )
    assert.deepEqual(
      machine(
        line('inside-tls', 'True', '2026-12-10T12:00:00Z'),
        line('outside-tls', 'False', '', '', 'Issuing certificate as Secret does not exist'),
        line('own-ca', '', '', '2026-11-26T12:00:00Z'),
      ),
      [
        'bad certificate own-ca: ends in 5 days → ./task certificates apply',
        'warn certificate inside-tls: ends in 19 days → ./task certificates verify says why',
        'warn certificate outside-tls: Issuing certificate as Secret does not exist → ./task certificates verify says why',
      ],
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
      ['34-names', '60-storage-vault', '64-backup'],
    )
    assert.match(
      screen(status, { color: false }),
      /^no page does yet what this site needs: 34-names 60-storage-vault/m,
    )
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
    const rows = plain.split('\n').filter((line) => /^(node|pi-\d) .*(role|server|agent)/.test(line))
    assert.equal(new Set(rows.map((row) => row.search(/role|server|agent/))).size, 1, plain)
    assert.equal(new Set(rows.map((row) => row.search(/runs|v1\./))).size, 1, plain)
  })

  test('what needs attention stands above everything else, and no machine can move the cursor', () => {
    const plain = screen(found, { color: false })
    assert.match(plain, /^fortress-pi {3}\d need you +asked \d\d:\d\d, 0 s\n!! pi-2: /)
    assert.match(plain, /^backup {2}3 h ago {3}drill {2}10 d ago/m)
    assert.match(plain, /no route; to host/)
  })

  test('ages are told as people say them', () => {
    const ages = [
      '2026-11-21T11:59:30Z',
      '2026-11-21T10:01:00Z',
      '2026-11-21T09:59:00Z',
      '2026-11-19T11:00:00Z',
      'never',
      '2026-11-21T13:00:00Z',
    ]
    assert.deepEqual(
      ages.map((time) => age(time, now)),
      ['0 min', '119 min', '2 h', '2 d', 'of unknown age', 'of unknown age'],
    )
  })
})

describe('the log of this laptop', () => {
  const dir = mkdtempSync(join(tmpdir(), 'fk-status-'))
  after(() => rmSync(dir, { recursive: true }))
  /** A run of 21-k3s-join on pi-1; without counts it did not come to its end. */
  const run = (name: string, mode: string, time: string, counts?: object, id = 'a') => {
    const page = { time, event: 'page', name: '21-k3s-join', mode, machine: 'pi-1 (admin@192.0.2.11)', id }
    const summary = counts && { time, event: 'summary', name: '21-k3s-join', hold: 1, ...counts }
    const lines = [page, ...(summary ? [summary] : [])].map((event) => JSON.stringify(event))
    writeFileSync(join(dir, `${name}.ndjson`), `${lines.join('\n')}\n{"event":"sum`)
  }
  const base = { page: '21-k3s-join', machine: 'pi-1', id: 'a', failed: 0, pending: 0 }

  test('the newest run counts, plans count nothing, and a log that was cut short is read as far as it goes', () => {
    run('1', 'apply', '2026-11-20T09:00:00Z', { changed: 3 })
    run('2', 'verify', '2026-11-20T10:00:00Z', { failed: 1 })
    run('3', 'plan', '2026-11-21T11:00:00Z', { failed: 7 })
    const want = { ...base, mode: 'verify', time: '2026-11-20T10:00:00Z', ended: true, failed: 1 }
    assert.deepEqual(verdictsIn(dir), [{ ...want, applied: true, changed: true }])
    assert.deepEqual(verdictsIn(join(dir, 'nothing')), [])
  })

  test('what neither holds nor failed is counted, by whatever name', () => {
    run('31', 'verify', '2026-11-21T11:30:00Z', { rebooting: 2, yours: 1, seconds: 9, notApplicable: 4 })
    assert.deepEqual([verdictsIn(dir)[0]?.pending, verdictsIn(dir)[0]?.failed], [3, 0])
  })

  test('a verify that found the page not built is no run that did not end', () => {
    const before = verdictsIn(dir)
    run('32', 'verify', '2026-11-21T11:40:00Z')
    const result = { event: 'result', name: '21-k3s-join', mode: 'verify', state: 'not built' }
    const [page = ''] = readFileSync(join(dir, '32.ndjson'), 'utf8').split('\n')
    writeFileSync(join(dir, '32.ndjson'), `${page}\n${JSON.stringify(result)}\n`)
    assert.deepEqual(verdictsIn(dir), before)
  })

  test('an undo is newer than what it took back, and a run that did not end says so', () => {
    run('4', 'undo', '2026-11-21T12:00:00Z')
    const [undone] = verdictsIn(dir)
    assert.deepEqual([undone?.mode, undone?.applied, undone?.changed], ['undo', false, false])
    run('5', 'apply', '2026-11-21T13:00:00Z')
    const [begun] = verdictsIn(dir)
    assert.deepEqual([begun?.mode, begun?.ended, begun?.applied], ['apply', false, true])
  })

  test('what was done to another machine of that name is not done to this one', () => {
    run('6', 'apply', '2026-11-21T14:00:00Z', { changed: 3 })
    run('7', 'verify', '2026-11-21T15:00:00Z', {}, 'b')
    const [verdict] = verdictsIn(dir)
    assert.deepEqual([verdict?.id, verdict?.applied, verdict?.changed], ['b', false, false])
  })
})

describe('what holds', () => {
  const pages: SitePage[] = [
    { name: '05-host-wireguard', layer: 'L0', machines: ['fortress'] },
    { name: '06-host-firewall', layer: 'L0', machines: ['fortress'] },
    { name: '20-k3s-server', layer: 'L2', machines: ['fortress-node'] },
  ]
  const verdict = (page: string, more: Partial<Verdict> = {}): Verdict => ({
    page,
    machine: 'fortress',
    id: 'a',
    mode: 'verify',
    time: '2026-11-21T11:57:00Z',
    ended: true,
    failed: 0,
    pending: 0,
    applied: true,
    changed: true,
    ...more,
  })
  const first = verdict('05-host-wireguard')
  const both = (more: Partial<Verdict> = {}) => [first, verdict('06-host-firewall', more)]
  const { id: _, ...nowhere } = verdict('06-host-firewall')
  const record = ['05-host-wireguard', '06-host-firewall'].map((name) => ({ name, changed: [] as string[] }))
  const edited = [record[0]!, { name: '06-host-firewall', changed: ['/etc/nftables.conf'] }]
  const fortress = (more: Partial<Answers> = {}): Answers => ({
    name: 'fortress',
    id: 'a',
    up: 3600,
    pages: record,
    notes: [],
    ...more,
  })
  const one = fortress({ pages: record.slice(0, 1) })
  const bare = fortress({ pages: [] })
  const node: Answers = { name: 'fortress-node', pages: [], notes: [], notBuilt: true }
  const line = (machine: Answers, verdicts: Verdict[]) => {
    const [L0] = layersOf(judge(pages, [machine, node], verdicts, now))
    return `${L0?.hold}/${L0?.pages} ${L0?.state}${L0?.which.length ? `: ${L0.which.join()}` : ''}`
  }

  const cases: [string, Answers, Verdict[], string][] = [
    ['both were verified, and the machine has a record of both', fortress(), both(), '2/2 holds'],
    ['undone from here', one, both({ mode: 'undo', applied: false }), '1/2 not built: 06-host-firewall'],
    ['undone from another laptop: the record is gone', bare, both(), '0/2 not built'],
    ['an undo that failed', fortress(), both({ mode: 'undo' }), '1/2 unchecked: 06-host-firewall'],
    ['verified, never applied', one, both({ applied: false, failed: 3 }), '1/2 not built: 06-host-firewall'],
    ['applied, and nothing was to be changed', one, both({ changed: false }), '2/2 holds'],
    ['applied from another laptop', fortress(), [first], '1/2 unchecked: 06-host-firewall'],
    ['another machine answers', fortress({ id: 'b' }), both(), '0/2 unchecked'],
    ['another machine answers, and it is bare', fortress({ id: 'b', pages: [] }), both(), '0/2 not built'],
    ['a log without the machine', fortress(), [first, nowhere], '1/2 unchecked: 06-host-firewall'],
    ['a verify failed', fortress(), both({ failed: 1 }), '1/2 failed: 06-host-firewall'],
    ['an apply did not end', fortress(), both({ ended: false }), '1/2 unfinished: 06-host-firewall'],
    ['somebody changed a file', fortress({ pages: edited }), both(), '1/2 changed: 06-host-firewall'],
    ['controls wait for a restart', fortress(), both({ pending: 2 }), '1/2 waits: 06-host-firewall'],
    ['it has restarted since', fortress({ up: 60 }), both({ pending: 2 }), '0/2 unchecked'],
    [
      'this laptop was set back since',
      fortress(),
      both({ time: '2027-01-01T00:00:00Z' }),
      '1/2 unchecked: 06-host-firewall',
    ],
    ['it does not answer', fortress({ silent: { why: 'no' } }), both(), '0/2 unknown'],
  ]
  for (const [what, machine, verdicts, want] of cases)
    test(what, () => assert.equal(line(machine, verdicts), want))

  test('a layer whose machine is not made yet is not built, and says how to go on', () => {
    const L2 = layersOf(judge(pages, [fortress(), node], both(), now))[1]
    assert.deepEqual(L2, {
      layer: 'L2',
      pages: 1,
      hold: 0,
      state: 'not built',
      which: [],
      next: './task build-all --layer L2',
    })
  })

  test('a page whose script is gone counts nowhere, and is no concern', () => {
    const gone = verdict('02-host-time', { failed: 3 })
    const verdicts = [...both(), gone]
    const found = statusOf(site('server'), { pages, machines: [fortress()], verdicts, now })
    assert.equal(found.layers[0]?.pages, 2)
    assert.doesNotMatch(JSON.stringify(found.concerns), /02-host-time/)
  })

  test('a page that failed before it was ever built is no concern', () => {
    const verdicts = [verdict('20-k3s-server', { machine: 'fortress-node', failed: 3, applied: false })]
    const found = statusOf(site('server'), { pages, machines: [fortress(), node], verdicts, now })
    assert.deepEqual(
      found.concerns.filter(({ says }) => /k3s-server/.test(says)),
      [],
    )
  })

  test('a machine that was replaced is what needs attention first', () => {
    const machines = [fortress({ id: 'b' })]
    const [worst] = statusOf(site('server'), { pages, machines, verdicts: both(), now }).concerns
    assert.match(worst?.says ?? '', /^another machine answers than the one that was built/)
  })

  test('units that failed are named in the commands that look at them', () => {
    const machines = [fortress({ failed: 'acct.service chrony.service' })]
    const [worst] = statusOf(site('server'), { pages, machines, verdicts: both(), now }).concerns
    assert.equal(
      worst?.next,
      'on it: systemctl status acct.service chrony.service; journalctl --boot --unit acct.service --unit chrony.service',
    )
  })

  test("notes of a machine whose clock is off are as old as by this laptop's clock", () => {
    const answers: Answers = { name: 'pi-1', pages: [], notes: [] }
    const hour = Math.round(Date.now() / 1000) + 7200
    take(answers, 'machine', { now: String(hour), up: '60' })
    take(answers, 'note', { which: 'node.good', line: `${new Date(hour * 1000).toISOString()}\tb\t1\tok\t` })
    const found = statusOf(site('server'), { pages: [], machines: [answers], verdicts: [], now }).concerns
    assert.match(age(answers.notes[0]!.time, new Date()), /^[01] min$/)
    assert.match(
      found.map(({ says }) => says).join(),
      /its clock is (2 h 00|1 h 59) min ahead of this laptop's/,
    )
  })
})

test('with the tunnel down it takes six seconds at most, and the line has the command with the file', async (t) => {
  const dir = mkdtempSync(join(tmpdir(), 'fk-status-'))
  // It accepts, and says nothing: what a packet filter and a machine that hangs look like to ssh.
  const mute = createServer(() => {}).listen(0, '127.0.0.1')
  t.after(() => (mute.close(), rmSync(dir, { recursive: true })))
  await new Promise((resolve) => mute.once('listening', resolve))
  const { port } = mute.address() as AddressInfo
  mkdirSync(join(dir, 'fortress'))
  const files = {
    'fortress/laptop.conf': '',
    'fortress/fortress.door': '',
    known_hosts:
      'fortress.fortress ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGPKvGfuR3ENMlkBDVdiN1cgyO9I6mjvMIs0cHO5XpGl\n',
  }
  for (const [name, text] of Object.entries(files)) writeFileSync(join(dir, name), text)
  const others = Object.entries(process.env).filter(([name]) => !name.startsWith('FK_'))
  const env = {
    ...Object.fromEntries(others),
    FK_HOST: `ada@127.0.0.1:${port}`,
    FK_STATE_DIR: dir,
    FK_LOG_DIR: dir,
    FK_AGE_IDENTITY: join(dir, 'identity'),
    FK_KNOWN_HOSTS: join(dir, 'known_hosts'),
    FK_SSH_CONFIG: '/dev/null',
  }
  const child = spawn(
    process.execPath,
    [join(import.meta.dirname, '../../bin/task.cjs'), 'status', '--json'],
    { env },
  )
  let text = ''
  child.stdout.setEncoding('utf8').on('data', (piece: string) => (text += piece))
  const code = await new Promise((resolve) => child.once('close', resolve))
  const { took, concerns, layers } = JSON.parse(text) as ReturnType<typeof statusOf>
  assert.equal(code, 1)
  assert.ok(took <= 6, `${took} s`)
  assert.deepEqual(
    concerns.map(({ of, says, next }) => `${of}: ${says} → ${next.replace(dir, 'STATE')}`),
    [
      'fortress: the tunnel is down, and it answers nowhere else → sudo wg-quick up STATE/fortress/laptop.conf',
    ],
  )
  assert.deepEqual(new Set(layers.map(({ state }) => state)), new Set(['unknown']))
})
