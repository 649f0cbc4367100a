// The way back as data: what a page says of its transactions decides which units start anew, and which tables return.
import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, test } from 'node:test'
import { contextOf } from '../../lib/cli/context.ts'
import { engineShell, rollbackData, undoProgram } from '../../lib/engine/program.ts'
import { type Restart, type Step, type Transaction, transactionOf } from '../../lib/engine/step.ts'
import { secretStore } from '../../lib/ground/secret.ts'
import { sh } from '../../lib/ground/sh.ts'
import { loadConfig } from '../../lib/site/config.ts'
import wireguard from '../../scripts/05-host-wireguard.ts'

const step = (transaction?: Transaction): Step => ({
  name: 'a',
  check: sh`false`,
  apply: [sh`true`],
  ...(transaction ? { transaction } : {}),
})

interface Rolled {
  steps?: Step[]
  /** Paths of /etc that the rollback changed. */
  paths?: string[]
  /** Units that run. */
  active?: string[]
  /** Files of the snapshot, as an earlier program wrote them. */
  snapshot?: Record<string, string>
  /** What `nft list tables` says now. */
  tables?: string[]
}

/** The commands that the way back gives to systemctl and nft. */
function rolledBack({ steps = [], paths = [], active = [], snapshot = {}, tables = [] }: Rolled): string[] {
  const dir = mkdtempSync(join(tmpdir(), 'fk-rollback-'))
  try {
    for (const [name, text] of Object.entries({ tables: '', ruleset: '', ...snapshot }))
      writeFileSync(join(dir, name), text)
    writeFileSync(join(dir, 'paths'), paths.map((path) => `${path}\n`).join(''))
    const text = [
      'set -u',
      'FK_STATE=/nonexistent',
      ...rollbackData(steps),
      engineShell('snapshot.sh'),
      `systemctl() {
        case $1 in
          show) case $4 in called.service) echo called.socket ;; esac ;;
          --quiet) [ "$3" = called.socket ] ;;
          is-active) case " ${active.join(' ')} " in *" $2 "*) echo active ;; *) echo inactive ;; esac ;;
          try-reload-or-restart) echo "$*" >> ${dir}/ran; [ "$2" != broken.service ] ;;
          *) echo "$*" >> ${dir}/ran ;;
        esac
      }`,
      `nft() {
        case $1 in
          list) printf '%s\\n' '${tables.join("' '")}' ;;
          --file) { printf 'nft: ' && paste --serial --delimiters='|'; } >> ${dir}/ran ;;
          *) echo "nft $*" >> ${dir}/ran ;;
        esac
      }`,
      ': > ' + join(dir, 'ran'),
      `fk_describe ${dir}`,
      `fk_restore_tables ${dir}`,
      `fk_restart ${dir} ${dir}/paths`,
    ].join('\n')
    execFileSync('bash', ['--noprofile', '--norc'], { input: text, stdio: ['pipe', 'pipe', 'inherit'] })
    return readFileSync(join(dir, 'ran'), 'utf8').split('\n').filter(Boolean)
  } finally {
    rmSync(dir, { recursive: true })
  }
}

describe('units start anew when a rollback changed what they read', () => {
  const restart = (more: Partial<Restart> = {}) => [
    step({ kind: 'a', restart: [{ unit: 'a.service', path: '/etc/a/', how: 'active', ...more }] }),
  ]
  const paths = ['/etc/a/conf']
  const cases: [string, Rolled, string[]][] = [
    ['one that runs is restarted', { steps: restart(), paths, active: ['a.service'] }, ['restart a.service']],
    ['one that does not run stays off', { steps: restart(), paths }, []],
    ['other files are none of its', { steps: restart(), paths: ['/etc/ab/conf'], active: ['a.service'] }, []],
    [
      'one that can reload keeps its connections',
      { steps: restart({ how: 'reload' }), paths },
      ['reset-failed a.service', 'try-reload-or-restart a.service'],
    ],
    [
      'one whose reload fails is restarted',
      { steps: restart({ how: 'reload', unit: 'broken.service' }), paths },
      ['reset-failed broken.service', 'try-reload-or-restart broken.service', 'restart broken.service'],
    ],
    [
      'one that a socket starts is restarted, because it cannot open what that listens for',
      { steps: restart({ how: 'reload', unit: 'called.service' }), paths },
      ['reset-failed called.service', 'restart called.service'],
    ],
    [
      'one that gave up over its files starts again',
      { steps: restart({ how: 'always' }), paths },
      ['reset-failed a.service', 'restart --no-block a.service'],
    ],
    [
      'a file that it writes itself is no reason',
      { steps: restart({ how: 'always', except: '/etc/a/conf' }), paths },
      [],
    ],
    [
      'a file that it cannot do without is gone: it stays off',
      { steps: restart({ how: 'always', needs: '/nonexistent/token' }), paths },
      [],
    ],
    [
      'what the snapshot says and what the program says both count',
      {
        steps: restart(),
        paths,
        active: ['a.service', 'old.service'],
        snapshot: { restart: 'active\told.service\t/etc/a/\t-\t-\n' },
      },
      ['restart a.service', 'restart old.service'],
    ],
  ]
  for (const [name, rolled, want] of cases) test(name, () => assert.deepEqual(rolledBack(rolled), want))

  test('the tunnel that is restarted is that of the site, whatever its interface is called', () => {
    const config = structuredClone(loadConfig({ env: { FK_STATE_DIR: '/nonexistent' }, site: 'fortress' }))
    config.site.tunnel.interface = 'wg7'
    const facts = { name: 'fortress', os: 'debian-13', arch: 'amd64', model: '', user: 'admin', via: '' }
    const store = secretStore({ dir: '/nonexistent', identity: '/nonexistent/identity' })
    const steps = wireguard.steps(contextOf(config, facts, store))
    const paths = ['/etc/wireguard/wg7.conf']
    assert.deepEqual(rolledBack({ steps, paths, active: ['wg-quick@wg0.service', 'wg-quick@wg7.service'] }), [
      'restart wg-quick@wg7.service',
    ])
  })
})

describe('tables of nftables', () => {
  const steps = [step({ kind: 'filter', tables: ['inet mine'] })]
  const cases: [string, Rolled, string[]][] = [
    [
      'one of ours that was not there goes',
      { steps, tables: ['table inet mine', 'table ip theirs'] },
      ['nft delete table inet mine'],
    ],
    ['those of others stay as they are', { steps, tables: ['table ip theirs'] }, []],
    [
      'one of ours that was there becomes what it was',
      {
        steps,
        tables: ['table inet mine'],
        snapshot: {
          tables: 'table inet mine\ntable inet mine2\n',
          ruleset: 'table inet mine2 {\n\tb\n}\ntable inet mine {\n\ta\n}\n',
        },
      },
      ['nft: table inet mine|delete table inet mine|table inet mine {|\ta|}'],
    ],
    ['a page without tables has none to restore', { tables: ['table inet mine'] }, []],
  ]
  for (const [name, rolled, want] of cases) test(name, () => assert.deepEqual(rolledBack(rolled), want))
})

describe('transactions of neighbouring steps', () => {
  test('a step without one adds nothing', () => assert.equal(transactionOf([step()]), undefined))
  test('become one: every unit and table once, the longest time, the route that any of them asks for', () => {
    const unit: Restart = { unit: 'a', path: '/etc/a/', how: 'active' }
    assert.deepEqual(
      transactionOf([
        step({ kind: 'a', restart: [unit], within: 60 }),
        step(),
        step({
          kind: 'b',
          restart: [{ ...unit }],
          tables: ['inet x'],
          route: { apply: 'tunnel' },
          within: 600,
        }),
        step({ kind: 'a', tables: ['inet x'] }),
      ]),
      { kind: 'a, b', restart: [unit], tables: ['inet x'], route: { apply: 'tunnel' }, within: 600 },
    )
  })
})

test('an undo brings along what the present page says, for a record that an older version wrote', async () => {
  const steps = [step({ kind: 'a', restart: [{ unit: 'a.service', path: '/etc/a/', how: 'reload' }] })]
  const { text } = await undoProgram({ page: '50-a', owner: 'ada@laptop', all: steps })
  assert.match(text, /^FK_RESTART=.*a\.service/m)
  assert.ok(text.indexOf('fk_describe "$dir/origin"') < text.indexOf('said=$(fk_undo'))
})
