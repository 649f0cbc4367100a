// ./task site as a person uses it: what it shows, what it finds, and what it writes.
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import {
  chmodSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, describe, test } from 'node:test'
import { parse } from 'yaml'
import { sites } from '../../lib/cli/site.ts'
import { loadConfig } from '../../lib/site/config.ts'

const root = join(import.meta.dirname, '../..')
const scratch = mkdtempSync(join(tmpdir(), 'fortress-site-'))
after(() => rmSync(scratch, { recursive: true }))
const fixture = (name: string): string =>
  readFileSync(join(root, 'test/fixtures/migrate', `${name}.yaml`), 'utf8')

const short = `name: box # a box
machines:
  - { name: box, roles: [host], os: debian-13, arch: amd64, vault: { discard: true } }
  - { name: box-node, roles: [server], os: flatcar, arch: amd64, vm: { host: box, cpus: 6 } }
`

/** A checkout with these documents, and its directory of them. */
function checkout(documents: Record<string, string>): { at: string; dir: string } {
  const at = mkdtempSync(join(scratch, 'checkout-'))
  const dir = join(at, 'config/sites')
  mkdirSync(dir, { recursive: true })
  cpSync(join(root, 'config/versions.yaml'), join(at, 'config/versions.yaml'))
  for (const [name, text] of Object.entries(documents)) writeFileSync(join(dir, `${name}.yaml`), text)
  return { at, dir }
}

/** What a command says in a checkout: its exit code, or the sentence by which it is refused. */
async function run(at: string, words: string, env: Record<string, string> = {}) {
  let out = ''
  const argv = words.split(' ')
  try {
    const code = await sites({ name: 'site', argv }, { root: at, env, say: (text) => (out += text) })
    return { code, out, error: '' }
  } catch (error) {
    return { code: 1, out, error: (error as Error).message }
  }
}

/** ./task in a process of its own, into a pipe. */
function task(...argv: string[]) {
  const { status, stdout, stderr } = spawnSync(join(root, 'task'), argv, {
    encoding: 'utf8',
    env: { PATH: process.env['PATH'], HOME: process.env['HOME'] },
  })
  return { code: status, out: stdout, error: stderr }
}

describe('site show', () => {
  const { at } = checkout({ box: short })

  test('is the whole document as YAML: what it says and what follows, as the pages get it', async () => {
    const { code, out } = await run(at, 'show box')
    assert.equal(code, 0)
    assert.deepEqual(parse(out), loadConfig({ root: at, env: {}, site: 'box' }).site)
  })

  test('says behind each line who says it, in one column', async () => {
    const { out } = await run(at, 'show box', { FK_VM_RAM_MB: '4096' })
    const lines = out.split('\n').filter((line) => line !== '' && !line.startsWith('#'))
    const origin = (text: string) => lines.find((line) => line.trim().startsWith(text))?.replace(/.*# /, '')
    assert.deepEqual(
      ['name: box', 'timezone:', 'cpus: 6', 'disk: 40', 'memory: 4096', 'address: 10.77.0.2', 'discard:'].map(
        origin,
      ),
      ['yours', 'default', 'yours', 'default', 'FK_VM_RAM_MB', 'computed', 'yours'],
    )
    assert.equal(new Set(lines.map((line) => line.lastIndexOf('# '))).size, 1)
    assert.ok(lines.every((line) => line.length <= 132))
  })

  test('has the keys in the order of the schema, and no colour in a pipe', async () => {
    const { out } = await run(at, 'show box')
    assert.ok(out.split('\n').every((line) => line.length <= 132))
    const keys = [...out.matchAll(/^([a-z]+):/gm)].map(([, key]) => key)
    assert.deepEqual(keys.slice(0, 6), ['name', 'timezone', 'people', 'machines', 'devices', 'networks'])
    assert.doesNotMatch(out, /\u001b/)
  })

  test('--json gives programs the values, and the origin of each by its path', async () => {
    const { out } = await run(at, 'show box --json')
    const { site, origins } = JSON.parse(out)
    assert.deepEqual(site, loadConfig({ root: at, env: {}, site: 'box' }).site)
    assert.equal(origins['machines[1].vm.cpus'], 'yours')
    assert.equal(origins['machines[1].vm.disk'], 'default')
    assert.equal(origins['machines[1].address'], 'computed')
  })

  test('the site of FK_SITE needs no name', async () => {
    assert.match((await run(at, 'show', { FK_SITE: 'box' })).out, /^name: box /m)
  })
})

describe('site check', () => {
  test('says which documents have no fault, and of the others every fault with its place', async () => {
    const { at } = checkout({ box: short, other: short.replace('arch: amd64', 'arch: amd46') })
    assert.deepEqual(await run(at, 'check box'), { code: 0, out: 'box  no fault\n', error: '' })
    const all = await run(at, 'check --all')
    assert.equal(all.code, 1)
    assert.equal(all.out, 'box    no fault\n')
    assert.match(all.error, /other\.yaml:1:7  name  must be the name of its file; did you mean other\?/)
    assert.match(
      all.error,
      /other\.yaml:3:\d+  machines\[0\]\.arch  must be one of amd64, arm64, is "amd46"; did you mean amd64\?/,
    )
  })

  test('a fault of the pins is said once for all documents', async () => {
    const { at } = checkout({ box: short, lodge: short.replaceAll('box', 'lodge') })
    writeFileSync(join(at, 'config/versions.yaml'), 'k3s: {}\n')
    const { error } = await run(at, 'check --all')
    assert.equal(error.match(/k3s\.version  is missing/g)?.length, 1)
  })

  test('--json gives programs the faults of each document', async () => {
    const { at } = checkout({ box: short.replace('roles: [server]', 'roles: [serve]') })
    const { code, out } = await run(at, 'check box --json')
    const { sites: found } = JSON.parse(out)
    assert.equal(code, 1)
    assert.equal(found[0].name, 'box')
    assert.deepEqual([found[0].faults[0].path, found[0].faults[0].line], ['machines[1].roles[0]', 4])
  })

  test('the documents that ship have no fault', () => {
    const { code, out, error } = task('site', 'check', '--all')
    assert.equal(error, '')
    assert.equal(code, 0)
    assert.match(out, /^fortress +no fault$/m)
  })
})

describe('site migrate', () => {
  test('shows what would change and what is to be known, and writes nothing where nobody can be asked', async () => {
    const { at, dir } = checkout({ fortress: fixture('fortress') })
    const { code, out } = await run(at, 'migrate fortress')
    assert.equal(code, 2)
    assert.match(out, /^--- config\/sites\/fortress\.yaml$/m)
    assert.match(out, /^-nodes:$/m)
    assert.match(out, /^\+networks:$/m)
    assert.match(out, /^ {2}guests may still open connections/m)
    assert.match(out, /Nothing is written yet: \.\/task site migrate fortress --yes\n$/)
    assert.doesNotMatch(out, /\u001b/)
    assert.deepEqual(readdirSync(dir), ['fortress.yaml'])
    assert.equal(readFileSync(join(dir, 'fortress.yaml'), 'utf8'), fixture('fortress'))
  })

  for (const [how, env] of [
    ['--yes', {}],
    ['', { FK_YES: 'true' }],
  ] as const)
    test(`${how || 'FK_YES'} writes it, keeps what was, and the second time there is nothing to do`, async () => {
      const { at, dir } = checkout({ fortress: fixture('fortress') })
      const file = join(dir, 'fortress.yaml')
      chmodSync(file, 0o640)
      const { code, out } = await run(at, `migrate fortress ${how}`.trim(), env)
      assert.equal(code, 0)
      assert.match(
        out,
        /is written; as it was, it is in config\/sites\/fortress\.yaml\.before-migration\.\nNext: /,
      )
      assert.equal(readFileSync(`${file}.before-migration`, 'utf8'), fixture('fortress'))
      assert.equal(statSync(file).mode & 0o777, 0o640)
      assert.deepEqual(await run(at, 'check fortress'), { code: 0, out: 'fortress  no fault\n', error: '' })
      const text = readFileSync(file, 'utf8')
      assert.deepEqual(await run(at, 'migrate fortress', env), {
        code: 0,
        out: 'config/sites/fortress.yaml is in the format of now: there is nothing to change.\n',
        error: '',
      })
      assert.equal(readFileSync(file, 'utf8'), text)
    })

  for (const [answer, written] of [
    ['n', false],
    ['y', true],
  ] as const)
    test(`at a terminal it asks: ${answer} ${written ? 'writes' : 'does not write'}`, () => {
      const { at, dir } = checkout({ lab: fixture('lab') })
      const file = join(at, 'run.mts')
      writeFileSync(
        file,
        `import { sites } from ${JSON.stringify(join(root, 'lib/cli/site.ts'))}
        process.exitCode = await sites({ name: 'site', argv: ['migrate', 'lab'] }, { root: ${JSON.stringify(at)}, env: {} })`,
      )
      const run = `${process.execPath} --import tsx ${file}`
      const { stdout, status } = spawnSync('script', ['--quiet', '--return', '--command', run, '/dev/null'], {
        cwd: root,
        input: `${answer}\n`,
        encoding: 'utf8',
        env: { PATH: process.env['PATH'], HOME: process.env['HOME'], TERM: 'xterm-256color' },
      })
      assert.equal(status, written ? 0 : 2, stdout)
      assert.match(stdout, /\u001b\[31m-vault:\u001b\[0m/)
      assert.match(stdout, /Write this to config\/sites\/lab\.yaml\? \[y\/N\]/)
      assert.equal(existsSync(join(dir, 'lab.yaml.before-migration')), written)
      assert.equal(readFileSync(join(dir, 'lab.yaml'), 'utf8') === fixture('lab'), !written)
    })

  test('what was kept before is kept', async () => {
    const { at, dir } = checkout({ lab: fixture('lab') })
    writeFileSync(join(dir, 'lab.yaml.before-migration'), 'older\n')
    assert.match(
      (await run(at, 'migrate lab --yes')).out,
      /it is in config\/sites\/lab\.yaml\.before-migration-2\./,
    )
    assert.equal(readFileSync(join(dir, 'lab.yaml.before-migration'), 'utf8'), 'older\n')
  })

  test('says what only a person can decide, with the places in the new document', async () => {
    const { at } = checkout({ several: fixture('several') })
    const { code, out } = await run(at, 'migrate several --yes')
    assert.equal(code, 0)
    assert.match(
      out,
      /This is left to you; \.\/task site check several says it again\.\n  config\/sites\/several\.yaml:\d+:\d+ /,
    )
  })

  test('a document of the old format is refused by every other command, and the way to the new one is named', async () => {
    const { at } = checkout({ fortress: fixture('fortress') })
    for (const words of ['check fortress', 'show fortress'])
      assert.match((await run(at, words)).error, /fortress\.yaml:27:1  nodes  .*\.\/task site migrate/)
  })

  test('what cannot be carried over is refused, and nothing is written', async () => {
    const { at, dir } = checkout({ fortress: `${fixture('fortress')}\nnetworks: []\n` })
    const { error } = await run(at, 'migrate fortress --yes')
    assert.match(error, /nodes  is of the old format, and networks says the same in the new one: keep one/)
    assert.equal(existsSync(join(dir, 'fortress.yaml.before-migration')), false)
  })
})

describe('what is typed', () => {
  const { at } = checkout({ box: short })

  test('is refused with everything that is wrong, and what was meant', async () => {
    assert.match((await run(at, 'chek')).error, /site has no action 'chek'; did you mean check\?/)
    assert.match(
      (await run(at, 'check boxx')).error,
      /'boxx' names no document in config\/sites; did you mean box\?/,
    )
    assert.match((await run(at, 'check nothing-like-it')).error, /there are box/)
    assert.match((await run(at, 'check box --all')).error, /takes names or --all, not both/)
    assert.match((await run(at, 'show box other')).error, /takes one NAME: 'other' is too much/)
    assert.match(
      (await run(at, 'migrate --json --all')).error,
      /takes no --all\nsite migrate takes no --json/,
    )
    assert.match((await run(at, 'show --yes')).error, /site show takes no --yes: it asks nothing/)
  })

  test('--help is the table', () => {
    const { code, out } = task('site', '--help')
    assert.equal(code, 0)
    assert.match(out, /^\.\/task site show\|check\|migrate \[NAME…\]$/m)
  })
})
