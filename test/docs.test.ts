// What README, docs and CONTRIBUTING say is so: the layers are written from the pages, links lead somewhere, commands are taken by
// the parser that they are typed to, and what a screen shows is what it shows.
import assert from 'node:assert/strict'
import { existsSync, readFileSync, readdirSync } from 'node:fs'
import { dirname, join, relative } from 'node:path'
import { describe, test } from 'node:test'
import { parse as yaml } from 'yaml'
import taskfile from '../Taskfile.ts'
import type { Taskfile } from '../lib/cli/call.ts'
import { folder, layerDocs } from '../lib/cli/docs.ts'
import { parse } from '../lib/cli/flags.ts'
import { pages } from '../lib/cli/scripts.ts'
import { page as pageTable } from '../lib/cli/tables.ts'
import { createReport } from '../lib/engine/report.ts'
import { record } from './cli/scripted.ts'

const root = join(import.meta.dirname, '..')
const files = ['README.md', 'CONTRIBUTING.md', ...markdown('docs')]
const read = (file: string) => readFileSync(join(root, file), 'utf8')

function markdown(dir: string): string[] {
  return readdirSync(join(root, dir), { withFileTypes: true }).flatMap((entry) =>
    entry.isDirectory()
      ? markdown(join(dir, entry.name))
      : entry.name.endsWith('.md')
        ? [join(dir, entry.name)]
        : [],
  )
}

test('docs/layers is what ./task docs writes', () => {
  for (const [name, text] of layerDocs()) {
    const file = join(folder, name)
    assert.ok(
      existsSync(file) && readFileSync(file, 'utf8') === text,
      `docs/layers/${name} is not what the pages say. Write it: ./task docs`,
    )
  }
})

/** As GitHub makes it of a heading. */
const anchor = (heading: string) =>
  heading
    .toLowerCase()
    .replaceAll(/[^\p{L}\p{N} _-]/gu, '')
    .replaceAll(' ', '-')

/** Links of a document that lead nowhere. */
function deadLinks(file: string, text: string): string[] {
  return [...text.matchAll(/\]\(([^)\s]+)\)/g)].flatMap(([, link = '']) => {
    if (/^https?:/.test(link)) return []
    const [path = '', heading] = link.split('#')
    const target = path === '' ? file : relative(root, join(root, dirname(file), path))
    if (!existsSync(join(root, target))) return [`${file}: ${link}`]
    if (heading === undefined) return []
    const headings = (target === file ? text : read(target)).match(/^#+ .*$/gm) ?? []
    const there = headings.some((line) => anchor(line.replace(/^#+ /, '')) === heading)
    return there ? [] : [`${file}: ${link}`]
  })
}

// ─── commands ────────────────────────────────────────────────────────────────────────────────────────────────────────

/** Blocks of code: what is between fences, and what is indented by four spaces behind an empty line. */
function blocksOf(text: string): string[][] {
  const blocks: string[][] = []
  let fence = false
  let last = ''
  for (const line of text.split('\n')) {
    const opens = line.startsWith('```')
    if (opens) {
      fence = !fence
      if (fence) blocks.push([])
    } else if (fence) blocks.at(-1)?.push(line)
    else if (/^ {4}/.test(line)) {
      if (last === '') blocks.push([])
      blocks.at(-1)?.push(line.slice(4))
    }
    last = line
  }
  return blocks
}

/** Programs of others, with what of their words must be right here. */
const others: Record<string, RegExp> = {
  apt: /^install wireguard-tools$/,
  cd: /^DIR$/,
  cp: /^\.env\.example \.env$/,
  install:
    /^--directory (--owner=root --mode=755 \/home\/keeper\/\.ssh|--owner=keeper --mode=700 \/home\/keeper\/bundles)$/,
  nft: /^delete table inet fortress$/,
  npm: /^(ci|link|run page)$/,
  passwd: /^USER$/,
  'ssh-copy-id': /^\S+@192\.0\.2\.10$/,
  kubeseal: /^--cert secrets\/SITE\/sealed-secrets\.crt --format yaml < secret\.yaml$/,
  sops: /^(encrypt --in-place )?apps\/db\.sops\.yaml$/,
  'ssh-keygen': /^(-t ed25519|-lf \/etc\/ssh\/ssh_host_ed25519_key\.pub)$/,
  systemctl: /^restart ssh$/,
  useradd: /^--create-home keeper$/,
  'wg-quick': /^(up|down) secrets\/(fortress|SITE)\/\w+\.conf$/,
}

const tiers = ['unit', 'checked', 'machine', 'lab', 'cluster', 'node', 'release']

/** Why a command line would be refused; undefined when it is right. */
function refusal(line: string): string | undefined {
  const words = line
    .replace(/ +#.*$/, '')
    .replace(/ > \S+$/, '')
    .trim()
    .split(/ +/)
  while (/^(sudo|[A-Z_]+=\S+)$/.test(words[0] ?? '')) words.shift()
  if (words[0] === 'npx') words.shift()
  const [program = '', ...rest] = words
  if (program === '') return undefined
  if (program === './task' || program === 'task') return taskRefusal(rest)
  const script =
    program === 'tsx' ? rest.shift() : program.startsWith('./scripts/') ? program.slice(2) : undefined
  if (script !== undefined) {
    const known = script === 'scripts/NN-noun-verb.ts' || existsSync(join(root, script))
    return known ? parsed(script, rest, pageTable) : `there is no ${script}`
  }
  if (program === 'npm' && rest[0] === 'test')
    return rest
      .slice(1)
      .filter((word) => !['--', '--list', ...tiers].includes(word) && !existsSync(join(root, word)))
      .map((word) => `npm test knows no ${word}`)[0]
  const right = others[program]
  if (right === undefined) return `nobody here knows the program ${program}`
  return right.test(rest.join(' ')) ? undefined : `${program} with other words`
}

function taskRefusal([name, ...words]: string[]): string | undefined {
  const pageless = words.find(
    (word) => /^\d\d-[a-z]/.test(word) && !pages().some((p) => word === `${p.number}-${p.name}`),
  )
  if (pageless !== undefined) return `there is no page ${pageless}`
  if (name === undefined || name === '--all') return undefined
  if (name === 'PAGE') return parsed(name, words, pageTable)
  if (name === 'NAME') return undefined
  const own = Object.values<Taskfile[string]>(taskfile).find((tasks) => Object.hasOwn(tasks, name))?.[name]
  if (own) return own.takes && !own.takes.passed ? parsed(name, words, own.takes) : undefined
  const page = pages().some((one) => [one.number, one.name, `${one.number}-${one.name}`].includes(name))
  return page ? parsed(name, words, pageTable) : `there is no task ${name}`
}

/** `plan|apply|verify` stands for each of them; all that a flag takes is a word. */
function parsed(name: string, words: string[], table: Parameters<typeof parse>[1]): string | undefined {
  const ways = (words.find((word) => word.includes('|')) ?? '').split('|')
  for (const way of ways)
    try {
      parse({ name, argv: words.map((word) => (word.includes('|') ? way : word)) }, table)
    } catch (error) {
      return (error as Error).message
    }
  return undefined
}

const starts = /^(?:sudo |[A-Z_]+=\S+ )*(?:\.\/|npm |npx |cp |ssh-|kubectl |wg-quick |nft |systemctl |apt )/

/** Commands of a document that would be refused, and blocks that are neither commands nor compared with anything. */
function wrongCommands(file: string, text: string): string[] {
  const faults: string[] = []
  const check = (line: string) => {
    for (const part of line.replace(/ +#.*$/, '').split(' && ')) {
      const why = refusal(part)
      if (why !== undefined) faults.push(`${file}: ${line.trim()}: ${why}`)
    }
  }
  for (const lines of blocksOf(text)) {
    if (isList(lines) || isSample(lines)) continue
    for (const line of lines.filter((one) => one.trim() !== '')) check(commandIn(line))
  }
  // In a sentence, too.
  for (const [, code = ''] of text.matchAll(/(?<!`)`([^`\n]+)`(?!`)/g))
    if (starts.test(code) && /^(?!\.\/scripts\/$)/.test(code)) check(code)
  return faults
}

/** A command, and what it is for behind more than one space. */
const commandIn = (line: string): string => line.trim().replace(/ {3,}\S.*$/, '')

const isList = ([first = '']: string[]) => /^\d\d-[a-z-]+ {2,}/.test(first) && !isSample([first])
const isSample = (lines: string[]) => lines.some((line) => /^ {2}(plan|apply|verify|undo) on /.test(line))

test('every command in the documentation would be taken as it stands there', () => {
  const blocks = files.flatMap((file) =>
    blocksOf(read(file)).filter((lines) => !isList(lines) && !isSample(lines)),
  )
  assert.ok(blocks.flat().length > 70, `only ${blocks.flat().length} commands were found`)
  assert.deepEqual(
    files.flatMap((file) => wrongCommands(file, read(file))),
    [],
  )
})

test('every link in the documentation leads to a file, and to a heading of it', () => {
  assert.deepEqual(
    files.flatMap((file) => deadLinks(file, read(file))),
    [],
  )
})

// ─── what a screen shows ─────────────────────────────────────────────────────────────────────────────────────────────

/** Lines of a sample that the real screen does not have, in this order. */
function unseen(sample: string[], screen: string): string[] {
  const lines = screen.split('\n')
  let at = 0
  return sample.filter((line) => {
    const found = lines.indexOf(line, at)
    if (found >= 0) at = found + 1
    return found < 0
  })
}

/** `verify` of the page on a machine where everything holds, as a pipe shows it. */
async function verified(number: string): Promise<string> {
  const { shown } = await record({
    mode: 'verify',
    one: true,
    only: [number],
    applied: [number],
    says: [
      {
        step: /^kernel and network sysctls are hardened/,
        controls: { B01: [0, 'kernel.randomize_va_space=2'], B02: [0, 'kernel.kptr_restrict=2'] },
      },
    ],
  })
  let text = ''
  const out = { write: (piece: string) => (text += piece) }
  const report = createReport({ stdout: out, tty: false, color: false, verbose: true })
  for (const play of shown) play(report, out)
  return text
}

test('what the README shows of a verify is what verify prints', async () => {
  const samples = files.flatMap((file) => blocksOf(read(file)).filter(isSample))
  assert.equal(samples.length, 1)
  assert.deepEqual(unseen(samples[0] ?? [], await verified('00')), [])
})

test('the README says what no software adds, before the first command on a machine, and which secrets lie in clear', () => {
  const [before = '', after = ''] = read('README.md').split('    cp .env.example .env')
  assert.match(before, /VT-x or AMD-V/)
  assert.match(before, /FK_VM_ACCEL=tcg/)
  assert.match(
    after,
    /age-encrypted on your laptop[^-]*The client files\s+of the tunnel are the exception: [^.]* in clear/,
  )
  assert.match(after, /private key in clear \(mode 600\)/)
})

describe('a document that is wrong is found', () => {
  for (const [what, text] of Object.entries({
    'a flag that does not exist': '```sh\n./task build-all --layr l0\n```',
    'a task that does not exist': 'Then:\n\n    ./task built-all\n',
    'a page that does not exist': 'Then `./task host-fire apply`.',
    'a page to take home that does not exist': '```sh\n./task take 06-firewall DIR\n```',
    'a mode that does not exist': '    \n\n    npx tsx scripts/06-host-firewall.ts aply\n',
    'a script that does not exist': '\n\n    ./scripts/06-firewall.ts plan\n',
    'a test that does not exist': '\n\n    npm test -- test/none.test.ts\n',
    'a program that nobody knows': '```sh\nfrobnicate --now\n```',
    'a path that is another': '```sh\nwg-quick up secrets/fortress/x.key\n```',
  }))
    test(what, () => assert.equal(wrongCommands('x.md', text).length, 1, text))
  test('a link to no file, and one to no heading', () => {
    assert.equal(
      deadLinks('docs/x.md', '[a](none.md) [b](glossary.md#none) [c](glossary.md#glossary)').length,
      2,
    )
  })
  test('a line that a screen does not show, or shows elsewhere', () => {
    assert.deepEqual(unseen(['b', 'a', 'c'], 'a\nb\nc'), ['a'])
    assert.deepEqual(unseen(['ok 14/75'], 'ok 14/76'), ['ok 14/75'])
  })
})

describe('docs/what-decides.md', () => {
  /** What reads a file of the machine, in the shell of a control. Modes and owners are asked of the files themselves. */
  const reads = new RegExp(
    [
      String.raw`\b(?:setting_is|read_lines|has_line|auditd_is|shm_lines|apt-config shell)\b`,
      String.raw`\b(?:awk|grep|sed|cat|ls|stat|readlink)\b[^\n]*(?<!--file)\s/(?:etc|boot|var/lib|usr/lib)/`,
      String.raw`\[ ! -e /etc/`,
      String.raw`\b(?:audit_covers|encrypted_by|cis_file|etcd_is)\b`,
      String.raw`\$\{proven\}|private-key\)`,
    ].join('|'),
  )
  type Asked = Record<string, unknown> & { id: string; title?: string; check?: string }
  const asked = ['config/host/controls.yaml', 'config/k3s/cis.yaml']
    .flatMap((path) => yaml(read(path)) as { controls: Asked[] }[])
    .flatMap(({ controls }) => controls)
  const onPages = readdirSync(join(root, 'scripts')).flatMap((name) =>
    [...read(`scripts/${name}`).matchAll(/id: '([A-Z]\d\d[a-z]?)',\s*title:\s*(.*),([^]*?)\bfrom\b/g)].map(
      ([, id = '', title = '', check = '']): Asked => ({ id, title, check }),
    ),
  )
  const readers = [...asked, ...onPages]
    .filter((c) => 'setting' in c || 'etcd' in c || 'started' in c || reads.test(c.check ?? ''))
    .map(({ id }) => id)
  const rows = read('docs/what-decides.md')
    .split('## Controls that read a file')[1]!
    .split('\n')
    .filter((line) => /^\| [A-Z\d]/.test(line))
    .map((line) => line.split(' | ').map((cell) => cell.replaceAll(/^\||\|$/g, '').trim()))

  test('an id is of one control alone: a waiver of it waives no other', () => {
    const known = new Map<string, string>()
    for (const { id, title = '' } of [...asked, ...onPages]) {
      assert.ok(title, id)
      assert.equal(known.get(id) ?? title, title, id)
      known.set(id, title)
    }
  })

  test('lists every control that reads a file, with the reason', () => {
    const listed = rows.flatMap(([ids = '', what = '']) =>
      what.startsWith('nothing') ? [] : ids.split(', '),
    )
    const without = (a: string[], b: string[]) => [...new Set(a)].filter((id) => !b.includes(id)).toSorted()
    assert.deepEqual(
      { unread: without(listed, readers), unlisted: without(readers, listed) },
      { unread: [], unlisted: [] },
    )
    assert.deepEqual(
      rows.filter((cells) => cells.length !== 3 || (cells[2] ?? '').length < 20),
      [],
    )
  })

  test('names no control that is not there', () => {
    const known = new Set([...asked, ...onPages].map(({ id }) => id))
    const named = read('docs/what-decides.md').match(/\b(?:[A-O]\d\d[a-z]?|\d\.\d\.\d+)\b/g) ?? []
    assert.deepEqual(
      named.filter((id) => !known.has(id)),
      [],
    )
  })
})
