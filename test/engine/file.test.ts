import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, test } from 'node:test'
import { file } from '../../lib/engine/file.ts'
import { root } from '../../lib/ground/root.ts'
import { Secret } from '../../lib/ground/secret.ts'
import { sh } from '../../lib/ground/sh.ts'
import { type Context, script } from '../../lib/script.ts'

describe('a file that could not land whole is refused when the page is written', () => {
  const cases: [string, () => unknown, string][] = [
    ['a relative path', () => file('etc/x', { text: 'a\n' }), 'file: etc/x is not a plain absolute path'],
    [
      'a path that climbs',
      () => file('/etc/../x', { text: 'a\n' }),
      'file: /etc/../x is not a plain absolute path',
    ],
    [
      'a mode that is not octal',
      () => file('/etc/x', { text: 'a\n', mode: '689' }),
      'file /etc/x: mode 689 is not octal',
    ],
    ['no content', () => file('/etc/x', {}), 'file /etc/x: say either from or text'],
    [
      'two contents',
      () => file('/etc/x', { text: 'a\n', from: 'config/x' }),
      'file /etc/x: say either from or text',
    ],
    [
      'a source outside config',
      () => file('/etc/x', { from: 'package.json' }),
      'file /etc/x: package.json is not under config/',
    ],
    [
      'no final newline',
      () => file('/etc/x', { text: 'a' }),
      'file /etc/x: the text does not end with a newline',
    ],
    ['a NUL byte', () => file('/etc/x', { text: 'a\0\n' }), 'file /etc/x: the text holds a NUL byte'],
    [
      'more than one argument can hold',
      () => file('/etc/x', { text: `${'a'.repeat(100_000)}\n` }),
      'file /etc/x: the text is larger than 100 KB',
    ],
    [
      'a name without a value',
      () => file('/etc/x', { text: '{{ port }}\n' }),
      'file /etc/x: the text asks for {{ port }}, which has no value',
    ],
    [
      'a value without a name',
      () => file('/etc/x', { text: 'a\n', values: { port: 1 } }),
      'file /etc/x: the text does not use {{ port }}',
    ],
  ]
  for (const [what, write, message] of cases)
    test(what, () => assert.throws(write, { name: 'TypeError', message }))
})

test('values replace their names in the content', () => {
  assert.equal(
    file('/etc/x', { text: 'port {{ port }} and {{ port }}\n', values: { port: 51820 } }).target?.text,
    'port 51820 and 51820\n',
  )
})

test('the content is a heredoc whose end cannot stand in the content', () => {
  const step = file('/etc/x', { text: 'FORTRESS\n' })
  assert.equal(step.apply[0]?.text, "put /etc/x 644 root:root << 'FORTRESS_'\nFORTRESS\nFORTRESS_")
})

test('a rehearsal may see what stands for a secret, and no machine does', () => {
  const step = file('/etc/key', { secret: new Secret('key', () => 'hunter2'), shown: 'key = ‹secret key›\n' })
  assert.equal(step.target?.shown, 'key = ‹secret key›\n')
  assert.equal(step.target?.text, undefined)
  assert.equal(
    [step.check, ...step.apply].some((command) => command.text.includes('‹secret')),
    false,
  )
})

test('what stands around a secret is known by its hash, so that a change of it is seen', () => {
  const [one, other] = ['a ‹secret key›\n', 'b ‹secret key›\n'].map(
    (shown) => file('/etc/key', { secret: new Secret('key', () => 'hunter2'), shown }).check.text,
  )
  assert.notEqual(one, other)
  assert.match(
    one ?? '',
    /\[ "\$\(cat \/var\/lib\/fortress\/secret\/etc\/key\.sha256\.around\)" = [0-9a-f]{64} \]$/,
  )
})

test('a secret file says nothing about its content, not even a hash', () => {
  const step = file('/etc/key', { secret: new Secret('key', () => 'hunter2'), mode: '600' })
  assert.equal(step.target?.text, undefined)
  assert.equal(step.target?.digest, undefined)
  assert.equal(JSON.stringify(step).includes('hunter2'), false)
  assert.equal(step.apply[0]?.feed?.name, 'key')
})

test('what runs when the old file has come back is bash, also where a comment stands behind it', () => {
  const step = file('/etc/x', { text: 'a\n', then: [sh`echo done # for whom`] })
  const commands = (step.recover ?? [])
    .slice(1)
    .map(({ text }) => text)
    .join('\n')
  assert.equal(execFileSync('bash', ['--norc', '-c', commands], { encoding: 'utf8' }), 'done\n')
})

test('digests of secrets that are gone, or are others by now, are forgotten with their directories', () => {
  const dir = mkdtempSync(join(tmpdir(), 'forget-'))
  const seen = `${dir}/state/secret${dir}`
  const digests = ['kept', 'gone', 'other'].map(
    (name) =>
      `echo ${name} > ${dir}/deep/${name}; sha256sum ${dir}/deep/${name} > ${seen}/deep/${name}.sha256`,
  )
  const script = `
    export FK_STATE=${dir}/state
    record_before() { :; }
    . ${join(root, 'lib/engine/shell/put.sh')}
    put_forget
    mkdir --parents ${dir}/deep ${seen}/deep
    ${digests.join('\n')}
    touch ${seen}/deep/gone.sha256.around
    rm ${dir}/deep/gone; echo changed > ${dir}/deep/other
    put_forget
    find ${seen} -type f
    rm ${dir}/deep/kept
    put_forget
    find $FK_STATE`
  const found = execFileSync('bash', ['-euo', 'pipefail', '-c', script], { encoding: 'utf8' })
  rmSync(dir, { recursive: true })
  assert.equal(found, `${seen}/deep/kept.sha256\n${dir}/state\n`)
})

test('a file of config/ that is missing is named with its page, its step and the nearest one', () => {
  const page = script({ filename: import.meta.filename } as ImportMeta, { layer: 'L0', on: 'host' }, () => [
    file('/etc/x', { from: 'config/host/sysctl.cnf', name: 'x is set' }),
  ])
  assert.throws(() => page.steps({ site: { gates: [] } } as unknown as Context), {
    message: 'file.test: config/host/sysctl.cnf is missing; did you mean config/host/sysctl.conf?',
    state: "the step 'x is set' is made of it. Nothing was run.",
    next: 'write config/host/sysctl.cnf, or correct from: in that step',
  })
})
