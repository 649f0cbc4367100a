// What a person sees, kept as text to be looked at: test/screens/NAME.txt at 80 and 132 columns, with colours and without. \e stands
// for the escape character. REVIEW=1 npm test -- test/cli/screens.test.ts writes them anew: read what has changed.
import assert from 'node:assert/strict'
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { join } from 'node:path'
import { stripVTControlCharacters } from 'node:util'
import { before, describe, test } from 'node:test'
import taskfile from '../../Taskfile.ts'
import { statusOf } from '../../lib/cli/concerns.ts'
import { type Finding, closing } from '../../lib/cli/doctor.ts'
import type { Answers } from '../../lib/cli/health.ts'
import type { Verdict } from '../../lib/cli/history.ts'
import type { SitePage } from '../../lib/cli/layers.ts'
import { firstScreen, list } from '../../lib/cli/main.ts'
import { screen } from '../../lib/cli/screen.ts'
import { pages } from '../../lib/cli/scripts.ts'
import { take } from '../../lib/cli/status.ts'
import { createReport } from '../../lib/engine/report.ts'
import { loadConfig } from '../../lib/site/config.ts'

const dir = join(import.meta.dirname, '..', 'screens')

/** The reviewed text of a screen is the text of it now, and no word is too far right. */
function reviewed(name: string, text: string, columns: number): void {
  const file = join(dir, `${name}.txt`)
  const shown = text.replaceAll('\u001b', '\\e')
  if (process.env['REVIEW'] === '1') {
    mkdirSync(dir, { recursive: true })
    writeFileSync(file, shown)
  }
  assert.equal(shown, readFileSync(file, 'utf8'))
  for (const line of stripVTControlCharacters(text).split('\n'))
    assert.ok([...line].length <= columns || !line.trim().includes(' '), `${line.length} columns: ${line}`)
}

const ways = [80, 132].flatMap((columns) => [false, true].map((color) => ({ columns, color })))
const nameOf = (screenName: string, { columns, color }: (typeof ways)[number]) =>
  `${screenName}.${columns}${color ? '.colour' : ''}`

test('./task and ./task --all: one text for every terminal and pipe', () => {
  const bin = createRequire(import.meta.url)('../../bin/head.cjs') as { head: () => string }
  const { FK_HOST, FK_SITE } = process.env
  try {
    Object.assign(process.env, { FK_HOST: '', FK_SITE: '' })
    reviewed('task', bin.head() + firstScreen(pages()), 80)
    reviewed('task-all', list(taskfile, pages()), 80)
  } finally {
    for (const [name, value] of Object.entries({ FK_HOST, FK_SITE }))
      if (value === undefined) delete process.env[name]
      else process.env[name] = value
  }
})

// ─── status ──────────────────────────────────────────────────────────────────────────────────────────────────────────

const now = new Date('2026-11-21T15:23:00Z')
const config = loadConfig({
  env: { FK_STATE_DIR: '/nonexistent', FK_AGE_IDENTITY: '/nonexistent' },
  site: 'fortress',
})
const pin = config.pins['k3s']!.version

const all: SitePage[] = pages()
  .filter(({ name }) => name !== 'host-vip')
  .map(({ number, name, layer }) => ({
    name: `${number}-${name}`,
    layer,
    machines: [layer === 'L2' ? 'fortress-node' : 'fortress'],
  }))

function machine(name: string, layers: string[], more: Record<string, string> = {}): Answers {
  const names = all.filter((page) => layers.includes(page.layer)).map((page) => page.name)
  const answers: Answers = {
    name,
    id: name,
    way: name === 'fortress' ? 'tunnel' : 'via fortress',
    pages: names.map((page) => ({ name: page, changed: [] })),
    notes: [],
  }
  const system = name === 'fortress' ? 'Debian GNU/Linux 13 (trixie)' : 'Flatcar Container Linux 4230.2.4'
  take(answers, 'machine', { up: '7200', system, kernel: '6.12.48', ...more })
  return answers
}

const verdicts = (layers: string[], minutes = 3, more: Partial<Verdict> = {}): Verdict[] =>
  all
    .filter((page) => layers.includes(page.layer))
    .map(({ name, machines: [on = ''] }) => ({
      page: name,
      machine: on,
      id: on,
      mode: 'verify',
      time: new Date(now.getTime() - minutes * 60_000).toISOString(),
      ended: true,
      failed: 0,
      pending: 0,
      applied: true,
      changed: true,
      ...more,
    }))

const node = (more: Record<string, string> = {}): Answers => {
  const answers = machine('fortress-node', ['L2'], more)
  const certificate = '300 server/tls/client-admin.crt'
  take(answers, 'k3s', { active: 'active', version: pin, staged: pin, certificate })
  take(answers, 'nodes', {
    nodes: ['fortress-node', pin, 'True', 'KubeletReady', 'True', '', '', pin].join('\t'),
  })
  for (const [which, time] of Object.entries({
    'node.good': '2026-11-21T12:00:00Z',
    'drill.good': '2026-11-11T09:00:00Z',
  }))
    take(answers, 'note', { which, line: `${time}\tbundle\t100\tok\t` })
  return answers
}

const missing: Answers = { name: 'fortress-node', pages: [], notes: [], notBuilt: true, way: 'via fortress' }
const down = {
  why: 'the tunnel is down, and it answers nowhere else',
  next: 'sudo wg-quick up secrets/fortress/laptop.conf',
}

const nights: Record<string, [Answers[], Verdict[], number]> = {
  'status-first-evening': [[machine('fortress', ['L0'])].concat(missing), verdicts(['L0']), 3],
  'status-well': [[machine('fortress', ['L0', 'L1']), node()], verdicts(['L0', 'L1', 'L2']), 2],
  'status-tunnel-down': [
    [
      { name: 'fortress', pages: [], notes: [], silent: down },
      {
        name: 'fortress-node',
        pages: [],
        notes: [],
        way: 'via fortress',
        silent: { why: 'x', behind: true },
      },
    ],
    verdicts(['L0', 'L1', 'L2']),
    5,
  ],
  'status-bad-night': [
    [
      {
        ...machine('fortress', ['L0', 'L1'], {
          restart: 'linux-image-amd64',
          failed: 'acct.service chrony.service',
        }),
        pages: [
          { name: '00-host-harden', changed: ['/etc/ssh/sshd_config', '/etc/pam.d/common-auth'] },
          ...all.slice(1).map(({ name }) => ({ name, changed: [] })),
        ],
      },
      node({ full: '/var/lib/rancher 91%' }),
    ],
    [...verdicts(['L0', 'L1']), ...verdicts(['L2'], 200, { failed: 1 })],
    4,
  ],
}

describe('status', () => {
  before(() => void (process.env['TZ'] = 'UTC'))
  for (const [name, [machines, log, took]] of Object.entries(nights))
    for (const way of ways)
      test(nameOf(name, way), () => {
        const status = statusOf(config, { pages: all, machines, verdicts: log, now, took })
        reviewed(nameOf(name, way), screen(status, way), way.columns)
      })
})

// ─── doctor ──────────────────────────────────────────────────────────────────────────────────────────────────────────

const findings: [of: string, Finding][] = [
  ['this laptop', { subject: 'node', state: 'ok', found: '20.19.2' }],
  ['this laptop', { subject: 'ssh', state: 'ok', found: 'reaches the machines' }],
  [
    'this laptop',
    {
      subject: 'ssh key',
      state: 'warn',
      found: 'FK_SSH_KEY is not set and no agent holds a key: ~/.ssh/config decides',
      remedy: 'FK_SSH_KEY=~/.ssh/id_ed25519, or ssh-add',
    },
  ],
  [
    'fortress',
    {
      subject: 'account',
      state: 'bad',
      found:
        '/etc/sudoers.d/90-cloud-init-users lets sudo work without a password, which 00-host-harden refuses',
      remedy:
        'on it: sudo passwd ada, then take NOPASSWD out of that file; cloud images and Raspberry Pi OS come with one',
    },
  ],
  [
    'fortress',
    {
      subject: 'access',
      state: 'bad',
      found: 'The host key of 192.0.2.10 is not known yet',
      remedy:
        'ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub on its own console; then ./task trust at a terminal here, and compare',
    },
  ],
  ['fortress', { subject: 'tpm', state: 'n/a', found: 'none, and the site wants none' }],
]

describe('doctor', () => {
  for (const way of ways)
    test(nameOf('doctor', way), () => {
      const lines: string[] = []
      const stdout = { write: (text: string) => lines.push(text), columns: way.columns }
      const report = createReport({ stdout, tty: way.columns !== 80 || way.color, color: way.color })
      for (const [of, finding] of findings) report.finding({ of, ...finding })
      const bad = findings.filter(([, { state }]) => state === 'bad')
      report.note(
        closing(
          bad.map(([of, { subject }]) => [of, subject]),
          true,
        ),
      )
      report.close()
      reviewed(nameOf('doctor', way), lines.join(''), way.columns)
    })
})
