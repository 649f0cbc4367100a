// What a person sees, kept as text to be looked at: test/screens/NAME.txt at 80 and 132 columns, with colours and without. \e stands
// for the escape character. REVIEW=1 npm test -- test/cli/screens.test.ts writes them anew: read what has changed.
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { mkdirSync, readFileSync, readdirSync, writeFileSync } from 'node:fs'
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
import { type Scene, record, settled } from './scripted.ts'

const root = join(import.meta.dirname, '..', '..')
const dir = join(root, 'test', 'screens')

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

test('one of a thing bears no plural', () => {
  const things = 'artifact|check|control|file|line|machine|node|page|step'
  const rooms = ['lib/cli', 'lib/engine', 'lib/host', 'lib/k3s', 'lib/vm', 'scripts']
  const faults = rooms
    .flatMap((room) => readdirSync(join(root, room)).map((name) => join(room, name)))
    .filter((path) => path.endsWith('.ts'))
    .flatMap((path) => {
      const lines = readFileSync(join(root, path), 'utf8').split('\n')
      return lines
        .filter((line) => new RegExp(`\\$\\{[^}]+\\} (${things})s\\b`).test(line))
        .map((line) => `${path}: ${line.trim()}`)
    })
  assert.deepEqual(faults, [], 'count() of lib/engine/report.ts knows both')
  for (const name of readdirSync(dir))
    assert.doesNotMatch(readFileSync(join(dir, name), 'utf8'), new RegExp(`\\b1 (${things})s\\b`), name)
})

test('./task waivers says first what it lists, how many, and where one is changed', () => {
  const { stdout } = spawnSync(process.execPath, ['bin/task.cjs', 'waivers'], {
    cwd: root,
    encoding: 'utf8',
    env: { ...process.env, FK_ENV_FILE: '/dev/null', FK_SITE: 'fortress' },
  })
  const [head, where, ends, empty, first] = stdout.split('\n')
  assert.match(
    head ?? '',
    /^Waivers of fortress: \d+ requirements? that it does not fulfil, why, and until when\.$/,
  )
  assert.match(
    where ?? '',
    /^They stand in config\/host\/waivers\.yaml, .* under accepted: in config\/sites\/fortress\.yaml;$/,
  )
  assert.equal(ends, 'one that has expired counts as a failure again.')
  assert.equal(empty, '')
  assert.match(first ?? '', /^\S+ \(until \d{4}-\d\d-\d\d\): \S/)
})

// ─── status ──────────────────────────────────────────────────────────────────────────────────────────────────────────

const now = new Date('2026-11-21T15:23:00Z')
const config = loadConfig({
  env: { FK_STATE_DIR: '/nonexistent', FK_AGE_IDENTITY: '/nonexistent' },
  site: 'fortress',
})
const pin = config.pins['k3s']!.version

const all: SitePage[] = pages()
  .filter(({ name, layer }) => name !== 'host-vip' && layer !== 'L3') // this site chooses no runtime
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
  const system = name === 'fortress' ? 'Debian GNU/Linux 13 (trixie)' : 'Flatcar Container Linux 4757.2.1'
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

// ─── runs over pages ─────────────────────────────────────────────────────────────────────────────────────────────────

const handshake = { step: /has made a WireGuard handshake/, rc: 1, found: 'last handshake of KEY: never' }
const noVirtualization = { step: /processor supports virtualization/, rc: 1, found: 'no vmx, no svm' }
const everything = pages().map(({ number }) => number)
const drifted = [
  {
    step: /^kernel and network sysctls are hardened/,
    rc: 0,
    controls: {
      B02: [1, 'kernel.kptr_restrict=0; /etc/sysctl.d/99-zz-local.conf sets it to "0"'] as [number, string],
    },
  },
  { step: /^chrony follows time servers/, rc: 1, found: 'pool 2.debian.pool.ntp.org iburst\n' },
]
const tunnelDown = {
  why: 'the tunnel is down, and fortress (admin@192.0.2.10) answers nowhere else',
  next: 'sudo wg-quick up secrets/fortress/laptop.conf',
}

const scenes: Record<string, Scene> = {
  'plan-page': {
    mode: 'plan',
    one: true,
    only: ['06'],
    applied: ['00', '05', '06'],
    says: [
      {
        step: /let in, and pass on/,
        rc: 1,
        found: '# opened by hand, for a test\ntcp dport 8080 accept\n',
      },
      {
        step: /the firewall is active/,
        rc: 1,
        found: '4c4\n<     tcp dport 22 jump ssh\n---\n>     tcp dport { 22, 8080 } accept',
        controls: { G06: [1, '0a1\n> tcp dport 8080 accept\nudp dport 51820 accept'] },
      },
    ],
  },
  'plan-all': {
    mode: 'plan',
    absent: ['fortress-node'],
    says: [handshake, noVirtualization],
  },
  'build-all': {
    mode: 'apply',
    only: ['00', '05', '06', '08'],
    flags: { layer: 'L0' },
    says: [{ ...handshake, after: 3 }],
    answers: ['y'],
  },
  'build-all-fails': {
    mode: 'apply',
    flags: { yes: true, layer: 'L0' },
    only: ['00', '05', '06', '08'],
    says: [
      {
        step: /^monitoring and audit packages are installed/,
        fails:
          'E: Failed to fetch http://deb.example.org/debian/pool/main/a/aide/aide_0.19.1-2_amd64.deb  Could not connect to deb.example.org:80 (192.0.2.80), connection timed out\nE: Unable to fetch some archives, maybe run apt-get update or try with --fix-missing?',
      },
    ],
  },
  'verify-page': {
    mode: 'verify',
    one: true,
    only: ['06'],
    flags: { verbose: true },
    applied: everything,
    says: [
      {
        step: /the firewall is active/,
        rc: 1,
        found: '4c4\n<     tcp dport 22 jump ssh\n---\n>     tcp dport { 22, 8080 } accept',
        controls: {
          G06: [1, '0a1\n> tcp dport 8080 accept\nudp dport 51820 accept'],
          G05: [101, 'after a reboot'],
        },
      },
    ],
  },
  'verify-all': { mode: 'verify', applied: everything, says: drifted },
  'verify-all-silent': {
    mode: 'verify',
    applied: everything,
    silent: {
      'fortress-node': {
        why: 'fortress-node (core@10.77.0.2) does not answer',
        next: './task vm-provision apply starts it',
      },
    },
  },
  'plan-all-tunnel-down': { mode: 'plan', silent: { fortress: tunnelDown, 'fortress-node': tunnelDown } },
  'build-all-silent': {
    mode: 'apply',
    flags: { layer: 'L0' },
    only: ['00', '05', '06', '08'],
    silent: { fortress: tunnelDown },
    answers: ['y'],
  },
  undo: { mode: 'undo', one: true, only: ['06'], applied: ['00', '05', '06'], answers: ['y'] },
  'undo-all': {
    mode: 'undo',
    applied: everything.filter((number) => !['07', '08', '14', '21'].includes(number)),
    answers: ['fortress'],
    silent: {
      'fortress-node': { why: 'fortress-node (core@10.77.0.2) does not answer', next: 'is it switched on?' },
    },
  },
}

test('build-all asks for nothing where no machine answers, and only for pages of those that do', async () => {
  const played = async (scene: Scene) => {
    let text = ''
    const out = { write: (piece: string) => (text += piece) }
    const report = createReport({ stdout: out, tty: false, color: false, brief: true })
    const { code, shown } = await record(scene)
    for (const play of shown) play(report, out)
    return { code, text }
  }
  const none = await played(scenes['build-all-silent'] as Scene)
  assert.equal(none.code, 1)
  assert.doesNotMatch(none.text, /\?/)
  assert.match(none.text, /^No machine of fortress \(admin@192\.0\.2\.10\) answers: nothing was applied$/m)
  assert.match(none.text, /^Next: \.\/task build-all --layer L0 again, when they answer$/m)
  const node = await played({
    mode: 'apply',
    applied: everything,
    silent: { 'fortress-node': tunnelDown },
    answers: ['y'],
  })
  assert.equal(node.code, 1)
  assert.match(node.text, /^No machine with pages to apply answers: nothing was applied$/m)
  const one = await played({
    mode: 'apply',
    only: ['00', '20', '21'],
    silent: { 'fortress-node': tunnelDown },
    answers: ['n'],
  })
  assert.equal(one.code, 1)
  assert.match(one.text, /^Apply 1 page to fortress \(admin@192\.0\.2\.10\)\? \[y\/N\] n$/m)
})

describe('runs', () => {
  for (const [name, scene] of Object.entries(scenes)) {
    let played: ReturnType<typeof record>
    const write = async (way: { columns?: number; color: boolean }) => {
      const { shown } = await (played ??= record(scene))
      let text = ''
      const out = { write: (piece: string) => (text += piece), ...way }
      const report = createReport({
        stdout: out,
        tty: way.columns !== undefined,
        color: way.color,
        verbose: scene.flags?.verbose ?? false,
        brief: !scene.one,
        now: () => 0,
      })
      for (const play of shown) play(report, out)
      report.close()
      return settled(text)
    }
    for (const way of ways)
      test(nameOf(name, way), async () => reviewed(nameOf(name, way), await write(way), way.columns))
    test(`${name}.piped`, async () => reviewed(`${name}.piped`, await write({ color: false }), Infinity))
  }
})
