import assert from 'node:assert/strict'
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { contextOf, declaredFacts as declared } from '../../lib/cli/context.ts'
import { file } from '../../lib/engine/file.ts'
import type { Page } from '../../lib/engine/page.ts'
import { rehearse } from '../../lib/engine/rehearsal.ts'
import { createReport } from '../../lib/engine/report.ts'
import { root } from '../../lib/ground/root.ts'
import { secretStore } from '../../lib/ground/secret.ts'
import { sh } from '../../lib/ground/sh.ts'
import { loadConfig } from '../../lib/site/config.ts'
import { made } from '../site/made.ts'

const scratch = mkdtempSync(join(tmpdir(), 'fk-rehearsal-'))
const site = 'of-a-test'
const out = join(root, 'out', site)
after(() => {
  for (const path of [scratch, out, join(root, '.cache', `checked-${site}.json`)])
    rmSync(path, { recursive: true, force: true })
})

const config = {
  ...loadConfig({ env: { FK_STATE_DIR: '/nonexistent' }, site: 'fortress-pi' }),
  site: made({ name: site, machines: ['a', 'b'].map((name) => ({ name, roles: ['host', 'server'] })) }),
}
const store = secretStore({ dir: '/nonexistent', identity: '/nonexistent' })

const page = (name: string, steps: Page['steps']): Page => ({
  name,
  file: '',
  summary: 'A page.',
  layer: 'L0',
  on: 'host',
  steps,
})

async function run(pages: Page[], { brief = false, whole = false } = {}) {
  const lines: string[] = []
  const stdout = { write: (text: string) => lines.push(text) }
  const report = createReport({ stdout, tty: false, color: false, brief })
  const code = await rehearse(
    pages,
    (spec) => contextOf(config, declared(spec, config), store),
    config,
    report,
    whole,
  )
  return { code, text: lines.join('') }
}

test('what is only checked is no step, and nothing of a rehearsal claims to change anything', async () => {
  const { code, text } = await run([
    page('50-try', () => [
      { name: 'the clock is set', check: sh`true`, help: 'set it' },
      { name: 'swap is off', check: sh`true`, apply: [sh`true`] },
      { name: 'the service is up', until: sh`true`, seconds: 1 },
    ]),
  ])
  assert.equal(code, 0, text)
  assert.match(
    text,
    /^check {4}1\/3 the clock is set\nstep {5}2\/3 swap is off\ncheck {4}3\/3 the service is up$/m,
  )
})

test('of many pages each is one line, with what it is made of, or why it has nothing to do here', async () => {
  const { text } = await run(
    [
      page('50-try', () => [
        { name: 'the clock is set', check: sh`true`, help: 'set it' },
        file('/etc/greeting', { text: 'hello\n' }),
      ]),
      page('51-none', () => [{ name: 'no node runs Talos', check: sh`true`, help: 'x' }]),
    ],
    { brief: true },
  )
  assert.match(text, /^L0 {6}50-try +2 steps +1 file$/m)
  assert.match(text, /^L0 {6}51-none +no node runs Talos$/m)
  assert.match(text, /^2 pages, 3 steps, 1 file; \d+ checks? passed$/m)
  assert.doesNotMatch(text, /the clock is set|change|1 files|1 steps/)
})

test('a page alone leaves the report of the whole as it is', async () => {
  const steps: Page['steps'] = () => [{ name: 'x', check: sh`true`, apply: [sh`true`] }]
  const all = ['50-a', '51-b'].map((name) => page(name, steps))
  await run(all, { whole: true })
  const before = readFileSync(join(out, 'report.json'), 'utf8')
  const { text } = await run(all.slice(0, 1))
  assert.equal(readFileSync(join(out, 'report.json'), 'utf8'), before)
  assert.match(text, /report-50-a\.json/)
  assert.match(readFileSync(join(out, 'report-50-a.json'), 'utf8'), /"page": "50-a"/)
})

test('where machines differ each has a file, and the functions are in one', async () => {
  const differs = page('51-differs', ({ machine }) => [file('/etc/name', { text: `${machine.name}\n` })])
  const alike = page('52-alike', () => [{ name: 'x', check: sh`true`, apply: [sh`true`] }])
  const { code, text } = await run([differs, alike])
  assert.equal(code, 0, text)
  assert.deepEqual(readdirSync(join(out, 'print')), [
    '51-differs.a.sh',
    '51-differs.b.sh',
    '52-alike.sh',
    'functions.sh',
  ])
  for (const name of ['a', 'b']) {
    assert.match(readFileSync(join(out, `print/51-differs.${name}.sh`), 'utf8'), new RegExp(`^${name}$`, 'm'))
    assert.equal(readFileSync(join(out, name, 'etc/name'), 'utf8'), `${name}\n`)
  }
})

test('a checker that is there and cannot be started has checked nothing, and found no fault', async () => {
  const dir = join(scratch, 'blocked')
  mkdirSync(dir)
  writeFileSync(join(dir, 'shellcheck'), 'no program\n', { mode: 0o644 })
  const path = process.env['PATH']
  // Nothing else of that name: what the rehearsal needs by itself are bash and node.
  const only = join(scratch, 'only')
  mkdirSync(only)
  writeFileSync(join(only, 'bash'), '#!/bin/sh\nexec /bin/bash "$@"\n', { mode: 0o755 })
  try {
    process.env['PATH'] = `${dir}:${only}`
    const { code, text } = await run([
      page('53-blocked', () => [
        file('/etc/x', { text: 'x\n', test: sh`no-such-checker "$new"`, name: 'x' }),
        file('/etc/x', { text: 'x2\n', test: sh`no-such-checker "$new"`, name: 'x2' }),
      ]),
    ])
    assert.equal(code, 0, text)
    assert.match(
      text,
      /^Not checked: 1 file, shellcheck: it cannot be started \(EACCES \S+\/blocked\/shellcheck\)$/m,
    )
    assert.match(text, /^Not checked: 1 file, no-such-checker: it is not installed here$/m)
  } finally {
    process.env['PATH'] = path
  }
})

test('what a checker found good is not given to it again, and what it refuses is', async () => {
  const asked = join(scratch, 'asked')
  const count = () => readFileSync(asked, 'utf8').length
  const once = (text: string) =>
    page('53-once', () => [
      file('/etc/x', { text, test: sh`printf x >> ${asked} && grep --quiet good "$new"`, name: 'x' }),
    ])
  writeFileSync(asked, '')
  assert.equal((await run([once('good\n')])).code, 0)
  const first = count()
  assert.ok(first > 0)
  assert.equal((await run([once('good\n')])).code, 0)
  assert.equal(count(), first)
  const refused = await run([once('bad\n')])
  assert.equal(refused.code, 1)
  assert.match(refused.text, /out\/of-a-test\/a\/etc\/x is accepted by printf/)
  const then = count()
  assert.ok(then > first)
  assert.equal((await run([once('bad\n')])).code, 1)
  assert.ok(count() > then)
})
