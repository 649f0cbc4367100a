// What a page prints: that it runs by itself, defines what it calls, and leads nowhere to a dead end.
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { readdirSync } from 'node:fs'
import { join } from 'node:path'
import { describe, test } from 'node:test'
import { contextOf, declaredFacts as declared } from '../../lib/cli/context.ts'
import { printPage } from '../../lib/cli/print.ts'
import { open, pages } from '../../lib/cli/scripts.ts'
import { commandsOf } from '../../lib/engine/functions.ts'
import { printed, whole } from '../../lib/engine/print.ts'
import { printedPages } from '../../lib/engine/runbook.ts'
import type { Step } from '../../lib/engine/step.ts'
import { Fault } from '../../lib/ground/fault.ts'
import { root } from '../../lib/ground/root.ts'
import { secretStore } from '../../lib/ground/secret.ts'
import { type Command, library, sh } from '../../lib/ground/sh.ts'
import { loadConfig } from '../../lib/site/config.ts'
import type { Placed } from '../../lib/site/machines.ts'
import type { Config } from '../../lib/site/model.ts'
import { type Short, type ShortMachine, backupsTo, hostKey, made, metal as boards } from '../site/made.ts'

const store = secretStore({ dir: '/nonexistent', identity: '/nonexistent' })
const env = { FK_STATE_DIR: '/nonexistent', FK_AGE_IDENTITY: '/nonexistent' }
const contextIn = (config: Config) => (machine: Placed) => contextOf(config, declared(machine, config), store)

/** The site whose metal runs k3s, with a machine for each role: a, b, c… */
const metal = (
  roles: ('server' | 'agent')[],
  { vault = {}, ...more }: Partial<Short> & { vault?: ShortMachine['vault'] } = {},
): Config => ({
  ...loadConfig({ env, site: 'fortress-pi' }),
  site: made({
    name: 'fortress-pi',
    machines: boards(...roles).map((board, i) => ({ ...board, name: 'abcdef'[i] as string, vault })),
    ...more,
  }),
})
/** The same, with a signature for k3s. */
function signed({ pins, ...config }: Config): Config {
  const signature = {
    kind: 'gpg' as const,
    key: 'F88CFEDEFF29A5B4D9523864E25D9AED0593B34A',
    key_url: 'https://example.org/key.asc',
    url: { arm64: 'https://example.org/k3s.sig' },
  }
  return { ...config, pins: { ...pins, k3s: { ...pins['k3s']!, signature } } }
}
const trio = metal(['server', 'server', 'server', 'agent'])
const pageOf = (name: string) => open(pages().find((page) => page.file.includes(name))!)
const print = (name: string, config: Config, machine?: string) =>
  printPage(pageOf(name), contextIn(config), config, machine)
const bash = (script: string, variables: Record<string, string> = {}) =>
  spawnSync('bash', ['--norc'], {
    input: script,
    encoding: 'utf8',
    env: { PATH: process.env['PATH'], ...variables },
  })

const sites: [string, Config][] = [
  ['that is shipped', loadConfig({ env, site: 'fortress' })],
  ['with Talos', loadConfig({ env: { ...env, FK_NODE_OS: 'talos' }, site: 'fortress' })],
  [
    'with a vault, and backups to other places',
    metal(['server'], {
      vault: { disk: '/dev/disk/by-id/usb-Samsung_PSSD_T7_S6XPNS0T900000-0:0' },
      data: backupsTo({
        name: 'b',
        kind: 'sftp',
        host: '192.0.2.9',
        user: 'b',
        path: '/b',
        host_key: hostKey,
      }),
    }),
  ],
  ['of three servers and an agent', trio],
  ['that pins a signature for k3s', signed(metal(['server']))],
]

/** Every function of lib/ whose name has an underscore, as bash knows them. */
const known = ['host', 'vm', 'k3s', 'engine/shell'].flatMap((dir) =>
  readdirSync(join(root, 'lib', dir))
    .filter((name) => name.endsWith('.sh'))
    .flatMap((name) =>
      bash(`cd ${root}; exec 3> /dev/null; . lib/${dir}/${name} > /dev/null 2>&1; declare -F`)
        .stdout.trim()
        .split('\n'),
    )
    .map((line) => line.replace(/^declare -fx? /, ''))
    .filter((name) => name.includes('_')),
)

for (const [what, config] of sites)
  test(`every page of a site ${what} is bash, and defines each function that it calls`, () => {
    for (const { called, part } of printedPages(pages().map(open), contextIn(config), config)) {
      const text = whole(part)
      const { stdout, stderr, status } = bash(`${text.replace(/\nmain "\$@"\n$/, '\n')}declare -F`)
      assert.equal(stderr, '', called)
      assert.equal(status, 0, called)
      const defined = stdout
        .trim()
        .split('\n')
        .map((line) => line.replace(/^declare -fx? /, ''))
      const words = new Set(commandsOf(text).match(/\b[a-z]\w*_\w+\b/g))
      assert.deepEqual(
        known.filter((name) => words.has(name) && !defined.includes(name)),
        [],
        called,
      )
      // A function of the engine that was renamed is in no list; what compgen takes is the beginning of one.
      const engine = [...words].filter((word) => word.startsWith('fk_') && !defined.includes(word))
      assert.deepEqual(
        engine.filter((word) => !known.some((name) => name.startsWith(`${word}_`))),
        [],
        called,
      )
    }
  })

describe('which machine a page is printed for', () => {
  test('is asked where they differ, and nothing is printed', () => {
    assert.throws(
      () => print('21-k3s-join', trio),
      (error: Fault) => {
        assert.equal(
          error.message,
          '21-k3s-join is not the same on the machines of the site fortress-pi: b, c, d',
        )
        assert.equal(error.next, 'say which: --machine b. ./task print writes all of them')
        return true
      },
    )
  })
  test('decides what is printed', () => {
    for (const name of ['b', 'c', 'd'])
      assert.match(
        print('21-k3s-join', trio, name),
        new RegExp(`^# {3}.*bash 21-k3s-join\\.${name}\\.sh$`, 'm'),
      )
    assert.match(print('21-k3s-join', trio, 'd'), /k3s_runs agent d/)
  })
  test('must be one of the site, and one that the page is for', () => {
    assert.throws(() => print('21-k3s-join', trio, 'x'), /The site fortress-pi has no machine 'x'/)
    assert.throws(() => print('21-k3s-join', trio, 'a'), /21-k3s-join has nothing to do on a/)
  })
  test('need not be said where they are alike', () => {
    assert.match(print('12-vm-ignition', trio), /^# Run it as root on a, b, c, d:$/m)
  })
  test('the whole runbook has a file for each, and no two of one name', () => {
    const names = printedPages(pages().map(open), contextIn(trio), trio).map(({ called }) => called)
    assert.deepEqual(
      names.filter((name) => name.startsWith('21')),
      ['b', 'c', 'd'].map((name) => `21-k3s-join.${name}.sh`),
    )
    assert.equal(new Set(names).size, names.length)
  })
})

test('an upload whose pin has a signature is proven by it, whatever page it is on', () => {
  const text = print('20-k3s-server', sites[4]![1])
  assert.match(
    text,
    /^ {4}signed_by "\$FK_FILES"\/k3s-arm64 "\$FK_FILES"\/k3s\.sig "\$FK_FILES"\/key\.asc F88C/m,
  )
  assert.match(text, /^signed_by\(\) \{/m)
})

/** Runs the steps as the user who tests: what needs root or a machine is replaced. */
const run = (
  steps: Step[],
  variables: Record<string, string> = {},
  words = '',
  prepare?: string | Command,
) => {
  const text = printed({
    name: 'x',
    summary: 'A page.',
    steps,
    ...(prepare ? { prepare: sh`${prepare}` } : {}),
  })
  const stubs = 'begin() { :; }\nlock() { :; }\n'
  const script = text.replace(
    /\nmain "\$@"\n$/,
    `\n${stubs}FK_STATE=$(mktemp --directory) FK_SAVED=$FK_STATE/saved\nmain ${words}\n`,
  )
  const { status, stdout, stderr } = bash(script, variables)
  return { status, said: stdout + stderr }
}
const fact = (name: string): Step => ({
  name,
  check: sh`test -e "$FK_TMP"/${name}`,
  apply: [sh`touch "$FK_TMP"/${name}`],
})

describe('a printed page, run', () => {
  test('changes what does not hold, in order, and checks again', () => {
    assert.deepEqual(run([fact('a'), { ...fact('a'), name: 'again' }]), {
      status: 0,
      said: 'running  a\nchanged  a\nok       again\n',
    })
  })
  test('fails at the first command that fails, and runs nothing after it', () => {
    const step: Step = { name: 'a', check: sh`false`, apply: [sh`true && false`, sh`echo reached`] }
    const { status, said } = run([step, fact('b')])
    assert.equal(status, 1)
    assert.match(said, /^failed {3}a\n {2}a command ended with 1$/m)
    assert.doesNotMatch(said, /reached|changed/)
  })
  test('does not take a step for done whose check fails before its last line', () => {
    const step: Step = {
      name: 'a',
      check: sh`
      false
      true`,
      apply: [sh`true`],
    }
    assert.match(run([step]).said, /its commands ran, and it does not hold/)
  })
  test('runs what a step needs when its commands failed', () => {
    const step: Step = { name: 'a', check: sh`false`, apply: [sh`false`], recover: [sh`echo recovered`] }
    assert.match(run([step, fact('b')]).said, /^recovered$/m)
  })
  test('keeps the lines of a heredoc as they are', () => {
    const step: Step = {
      name: 'a',
      check: sh`test "$(cat "$FK_TMP"/a 2> /dev/null)" = ' x
y'`,
      apply: [
        sh`cat > "$FK_TMP"/a << 'END'
 x
y
END`,
      ],
    }
    assert.equal(run([step]).status, 0)
  })
  test('what a check has looked up before a change does not count behind it', () => {
    const step = (name: string): Step => ({
      name,
      check: sh`
        files() { ls "$FK_TMP"; }
        fact files files
        grep --line-regexp ${name} <<< "$FK_FACT" > /dev/null`,
      apply: [sh`touch "$FK_TMP"/${name}`],
    })
    const { status, said } = run(
      [step('one'), step('two'), step('one')],
      {},
      '',
      library('lib/host/controls.sh'),
    )
    assert.equal(status, 0, said)
    assert.match(said, /^ok {7}one$/m)
  })
  test('a demand says what to do', () => {
    const { status, said } = run([{ name: 'a', check: sh`echo found; false`, help: 'do it' }])
    assert.equal(status, 1)
    assert.equal(said, 'failed   a\n  found\n  do it\n')
  })
  test('a demand that waits for a name is met by FK_CONFIRM', () => {
    const step: Step = { name: 'a', check: sh`false`, help: 'type it', typed: 'box' }
    assert.match(run([step]).said, /FK_CONFIRM=box before bash confirms it/)
    assert.equal(run([step], { FK_CONFIRM: 'other' }).status, 1)
    assert.deepEqual(run([step], { FK_CONFIRM: 'box' }), { status: 0, said: 'ok       a\n' })
  })
  test('what the laptop would store is saved, and where is said', () => {
    const step: Step = {
      name: 'a',
      check: sh`saved copy "$(printf x | sha256sum | cut --delimiter=' ' --fields=1)"`,
      apply: [sh`:`],
      save: { name: 'copy', command: sh`printf x` },
    }
    const { status, said } = run([step, { ...step, name: 'b' }])
    assert.equal(status, 0, said)
    assert.match(said, /^saved {4}\/tmp\/.*\/saved\/copy: keep it where this machine cannot lose it/m)
    assert.match(said, /^ok {7}b$/m)
  })
  test('a wait ends when it has become true, and fails when it does not', () => {
    assert.deepEqual(run([{ name: 'a', until: sh`true`, seconds: 1 }]), { status: 0, said: 'ready    a\n' })
    assert.match(run([{ name: 'a', until: sh`false`, seconds: 0 }]).said, /not yet after 0 s/)
  })
})

test('a printed page of the laptop says that its transactions are none', () => {
  const step: Step = { ...fact('a'), transaction: { kind: 'x' } } as Step
  const page = { name: '50-page', summary: 'A page.', steps: [step] }
  const sentence =
    /^# Steps that could cut you off \(a\) are transactions in \.\/task page apply alone: here nothing rolls them back\.$/m
  assert.match(printed({ ...page, on: 'laptop' }), sentence)
  assert.doesNotMatch(printed({ ...page, on: 'host' }), sentence)
  assert.doesNotMatch(printed({ ...page, on: 'laptop', steps: [fact('a')] }), sentence)
})

describe('a step that waits for another node', () => {
  const visit: Step[] = [
    fact('a'),
    { ...fact('b'), onOtherNode: { on: 'n', before: [fact('left')], after: [fact('back')] } } as Step,
  ]
  test('a step that waits for another node refuses before it changes anything, and says what to do there', () => {
    const { status, said } = run(visit)
    assert.equal(status, 1)
    assert.match(said, /first, on n: bash x\.sh before\n {2}then, here: FK_OTHER_NODE=done bash x\.sh/)
    assert.doesNotMatch(said, /running {2}b/)
    assert.equal(run(visit, { FK_OTHER_NODE: 'done' }).status, 0)
  })
  test('the other node runs its part of the same file', () => {
    assert.equal(run(visit, {}, 'before').said, 'running  left\nchanged  left\n')
    assert.equal(run(visit, {}, 'after').said, 'running  back\nchanged  back\n')
  })
})

describe('the time until a transaction is rolled back', () => {
  const seconds = (steps: Step[]) =>
    Number(/^ {2}transaction (\d+)/m.exec(printed({ name: 'x', summary: '', steps }))?.[1])
  const step: Step = { name: 'a', check: sh`true`, apply: [sh`true`], transaction: { kind: 'ssh' } }
  test('is that of a person, when its steps are quick', () => assert.equal(seconds([step]), 180))
  test('grows with what its steps may take', () =>
    assert.equal(seconds([step, { ...step, seconds: 600 } as Step]), 780))
  test('is no less than a step says', () =>
    assert.equal(seconds([{ ...step, transaction: { kind: 'ssh', within: 900 } } as Step]), 1080))
})

test('a printed page that gets a word it does not know runs nothing', () => {
  const { status, stdout, stderr } = bash(`set -- --help\n${print('06-host-firewall', sites[0]![1])}`)
  assert.equal(status, 64)
  assert.equal(stdout, '')
  assert.match(stderr, /^06-host-firewall\.sh takes no words .* Nothing was run/)
})

test('a page is printed for the user that FK_HOST names', () => {
  const config = structuredClone(sites[0]![1])
  config.env.FK_HOST = 'ada@192.0.2.10'
  assert.match(print('00-host-harden', config), /usermod --append --groups ssh-admins ada/)
})

test('a cluster that does not answer is not taken for one without further Nodes', () => {
  const [page] = [pageOf('21-k3s-join')]
  const [step] = page.steps(contextIn(metal(['server']))({ ...metal(['server']).site.machines[0]! }))
  const check = step && 'check' in step ? step.check.text : ''
  const asked = (answer: string) => bash(`set -euo pipefail\nk3s_kubectl() { ${answer}; }\n${check}`).status
  assert.equal(asked('echo node/a'), 0)
  assert.equal(asked('printf "node/a\\nnode/b\\n"'), 1)
  assert.notEqual(asked('return 1'), 0)
})
