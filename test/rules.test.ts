// The rules of this house, as a table. Every fault is listed before a rule fails; every rule is shown to be able to fail.
import assert from 'node:assert/strict'
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { join, relative } from 'node:path'
import { test } from 'node:test'
import { type Arrow, arrowsOf } from '../lib/cli/imports.ts'
import { layerNames, open, pages } from '../lib/cli/scripts.ts'
import { circles, closure, upward } from './arrows.ts'

const root = join(import.meta.dirname, '..')
const outside = ['.git', 'node_modules', 'out', '.cache', 'secrets']

function walk(dir: string): string[] {
  return readdirSync(dir, { withFileTypes: true }).flatMap((entry) => {
    if (dir === root && (outside.includes(entry.name) || entry.name === '.env')) return []
    const path = join(dir, entry.name)
    return entry.isDirectory() ? walk(path) : entry.isFile() ? [path] : []
  })
}

const files = walk(root).map((path) => ({ path: relative(root, path), text: readFileSync(path, 'utf8') }))
const isText = ({ text }: { text: string }) => !text.includes('\0')
const under = (...starts: string[]) => new RegExp(`^(${starts.join('|')})`)

interface Rule {
  says: string
  why: string
  pattern: RegExp
  /** Where the rule looks. Default: everywhere but this file and the lock file. */
  in?: RegExp
  /** Where the pattern may stand. */
  but?: RegExp
  /** A line that breaks the rule, and one that only looks like it. */
  bad: string
  good?: string
}

const code = /\.(ts|cjs|mjs)$/
const shell = /\.(ts|sh|yaml|bats)$|^task$|^\.ci\//
const ours = under('scripts/', 'lib/', 'bin/', 'Taskfile\\.ts')

const rules: Rule[] = [
  {
    says: 'settings are read in one file',
    why: 'all faults of a configuration are told at once, before anything runs',
    pattern: /(?<!\.\.\.)process\.env\b(?!\['PATH'\])/,
    in: code,
    // What every program knows of colours (NO_COLOR, TERM) is no setting of ours.
    but: under('lib/site/config\\.ts', 'lib/engine/paper\\.ts', 'bin/', 'test/'),
    bad: "const host = process.env['FK_HOST']",
    good: "spawn('ssh', args, { env: { ...process.env, LC_ALL: 'C.UTF-8' } })",
  },
  {
    says: 'nothing from the network goes straight into a shell',
    why: 'a download is verified before it gets its name',
    pattern: /(curl|wget)\b[^|\n]*\|\s*(sudo\s+)?\w*sh\b/,
    bad: 'curl --silent https://get.example.org | sudo bash',
    good: 'curl --output "$new" https://example.org/tool',
  },
  {
    says: 'no file is edited in place by pattern',
    why: "a vendor's file is not ours: drop-ins are written whole, tested, and taken back whole",
    pattern: /\bsed\s+(-\w*i\b|--in-place)/,
    bad: "sed -i 's/^#Port.*/Port 22/' /etc/ssh/sshd_config",
    good: "sed --quiet 's/^inet //p'",
  },
  {
    says: 'nothing is called latest',
    why: 'the same page must install the same bytes next year',
    pattern: /:latest\b/,
    // What refuses it has to name it.
    but: under('config/policy/', 'test/plans/50-policy\\.sh'),
    bad: 'image: docker.io/library/busybox:latest',
  },
  {
    says: 'host keys are always checked',
    why: 'the first connection is where somebody else would stand in the middle',
    pattern: /StrictHostKeyChecking[= ]"?no\b/,
    bad: "'-o', 'StrictHostKeyChecking=no'",
    good: "'-o', 'StrictHostKeyChecking=yes'",
  },
  {
    says: 'certificates and signatures are always checked',
    why: 'a check that can be switched off in passing protects nobody',
    pattern:
      /NODE_TLS_REJECT_UNAUTHORIZED|--insecure\b|--no-check-certificate|--allow-unauthenticated|\[trusted=yes\]|--insecure-skip-tls-verify\b/,
    bad: 'wget --no-check-certificate https://example.org/tool',
  },
  {
    says: 'nothing is left for later inside the tree',
    why: 'open an issue: there somebody sees it',
    pattern: /\b(TODO|FIXME)\b|(\/\/|#|\*|<!--)\s*(todo|fixme|xxx|hack)\b/i,
    but: /^test\/reporter\.cjs$/,
    bad: '// todo: undo as well',
  },
  {
    says: '|| true has its reason on the same line, where it is no answer',
    why: 'a change that fails is ignored on purpose or not at all; that a search found nothing is an answer',
    pattern:
      /(?<!\b(grep|find|awk|cat|dpkg-query|getent|readlink|comm|ssh-keygen -l|systemctl (is-[a-z-]+|show))\b[^;&]*|=\$\(.*\) )\|\|\s*(true|:)(?=\s*([;)}\]'"`,]|$))(?!.*(#|\/\/))/,
    in: shell,
    but: under('test/'),
    bad: 'modprobe tun || true',
    good: "names=$({ grep '^[a-z]*' /etc/passwd; } | paste --serial) || true; echo",
  },
  {
    says: 'a pipe does not end in grep -q',
    why: 'grep leaves early, the left side dies of SIGPIPE, and pipefail makes a lie of it; write > /dev/null',
    pattern: /\|\s*grep\s+(-\w*q\w*|--quiet|--silent)\b/,
    in: shell,
    bad: 'lsmod | grep -q tun',
    good: 'grep --quiet tun /proc/modules',
  },
  {
    says: 'modules of ours are loaded by require, not by import()',
    why: "the launcher's loader cannot import() a TypeScript file; createRequire(import.meta.url) works everywhere",
    pattern: /(?<!typeof )\bimport\(\s*['"`]\.{1,2}\//,
    in: ours,
    bad: "const { main } = await import('./lab.ts')",
    good: "typeof import('./lab.ts')",
  },
  {
    says: 'no module waits while it loads',
    why: 'a top-level await cannot be loaded by the launcher',
    pattern: /^(await\b|(export )?(const|let) [^=]*= await\b|for await\b)/,
    in: ours,
    bad: "const pins = await read('config/versions.yaml')",
    good: "  const pins = await read('config/versions.yaml')",
  },
  {
    says: 'import.meta.main is not used',
    why: 'Node 20 does not have it',
    pattern: /import\.meta\.main\b/,
    in: code,
    bad: 'if (import.meta.main) run()',
  },
  {
    says: 'only the doors end the process',
    why: 'a helper that exits cannot be called by anybody else',
    pattern: /process\.exit\(/,
    in: code,
    but: under('bin/', 'test/', 'lib/ground/stop\\.ts'),
    bad: 'process.exit(1)',
    good: 'process.exitCode = 1',
  },
  {
    says: 'no test is switched off by hand',
    why: 'a skip has a reason that the report shows: { skip: reason }',
    pattern: /\b(test|it|describe)\.(only|skip|todo)\(/,
    in: under('test/'),
    bad: "test.skip('a second apply changes nothing')",
  },
  {
    says: 'a switched-off lint rule has its reason beside it',
    why: 'the next reader must know whether it may be switched on again',
    pattern: /(ox|es)lint-disable(?!.* -- \S)|@ts-(ignore|nocheck)|@ts-expect-error(?! \S)/,
    in: code,
    bad: '// oxlint-disable-next-line no-control-regex',
    good: '// oxlint-disable-next-line no-control-regex -- control characters are what this looks for',
  },
  {
    says: 'versions stand in config/versions.yaml',
    why: 'a pin has one home, with its digest and its proof',
    pattern:
      /(?<![\d.])v?\d+\.\d+\.\d+(?![.\d])(?!.*\b(CIS|STIG|NIST|BSI|ANSSI|RFC|SV-\d)\b)|\b[0-9a-f]{64}\b/,
    in: under('scripts/', 'lib/', 'Taskfile\\.ts', 'bin/'),
    bad: "const version = 'v1.33.4'",
    good: "address: '10.66.0.1'",
  },
  {
    says: 'programs of the laptop are run by the $ of lib/ground/laptop.ts',
    why: 'quoting, what a program inherits, and how it ends are decided once',
    pattern: /node:child_process/,
    in: under('scripts/', 'lib/', 'Taskfile\\.ts'),
    bad: "import { spawn } from 'node:child_process'",
  },
  {
    says: 'no line is longer than 130 columns',
    why: 'two of them stand side by side on a screen, and a diff can be read',
    pattern: /^.{131,}$/u,
    // What a test feeds a machine and expects of it is data.
    in: /^(lib|scripts|bin|\.ci)\/|^test\/\w+\.ts$|^task$|^Taskfile\.ts$/,
    bad: 'x'.repeat(131),
    good: 'x'.repeat(130),
  },
  {
    says: 'output has no pictures in it',
    why: 'a log is read by people over bad lines, and by grep',
    pattern: /\p{Emoji_Presentation}/u,
    bad: "report.note('\u{1F680} starting')",
    good: 'L0 host → L1 immutable VM',
  },
]

const self = 'test/rules.test.ts'
const looksAt = (rule: Rule, path: string) =>
  path !== self &&
  path !== 'package-lock.json' &&
  (rule.in?.test(path) ?? true) &&
  !(rule.but?.test(path) ?? false)

for (const rule of rules) {
  test(`${rule.says}`, () => {
    const faults = files
      .filter((file) => isText(file) && looksAt(rule, file.path))
      .flatMap(({ path, text }) =>
        text
          .split('\n')
          .flatMap((line, i) =>
            rule.pattern.test(line) ? [`${path}:${i + 1}  ${line.trim().slice(0, 120)}`] : [],
          ),
      )
    none(faults, rule.why)
  })
}

test('every rule can fail, and knows what only looks like a fault', () => {
  none(
    rules.flatMap(({ says, pattern, bad, good }) => [
      ...(pattern.test(bad) ? [] : [`${says}: does not find ${bad}`]),
      ...(good !== undefined && pattern.test(good) ? [`${says}: finds ${good}`] : []),
    ]),
    'a rule that finds nothing is none',
  )
})

test('files are named after a noun they own', () => {
  const drawer = /^(utils?|helpers?|common|index|misc|base|shared)\./
  none(
    files.map((f) => f.path).filter((path) => drawer.test(path.split('/').at(-1) ?? '')),
    'such a file grows until everything imports it',
  )
})

const sources = files.filter(({ path }) => code.test(path) && !path.startsWith('test/'))
const shown = ({ from, to, kind }: Arrow) => `${from} needs ${to} (${kind})`

test('arrows point one way: each room of lib needs those below it, and pages need everything but the commands', () => {
  const pagesOf = sources.filter(({ path }) => path.startsWith('scripts/')).flatMap(arrowsOf)
  const wild = pagesOf.filter(({ to }) => !/^(lib|config)\//.test(to) || to.startsWith('lib/cli/'))
  none(
    [...upward(sources), ...wild].map(shown),
    'a page is taken home with what stands below it, and nothing else',
  )
})

test('nothing in lib needs itself, be it for a type or later', () => {
  none(
    [
      ...circles(sources).map((files) => files.join(' ↔ ')),
      ...circles(sources, (path) => /^lib\/\w+(?=\/)/.exec(path)?.[0] ?? path).map((found) =>
        found.join(' ↔ '),
      ),
    ],
    'which of them is ready first would depend on who asks, and neither can be read alone',
  )
})

for (const [what, text] of [
  ['a value', "import { runPages } from '../cli/pages.ts'"],
  ['a type', "import type { Flags } from '../cli/pages.ts'"],
  ['types among braces', "import {\n  type Flags,\n  type Other,\n} from '../cli/pages.ts'"],
  ['what is loaded later', "const { runPages } = load('../cli/pages.ts')"],
  ['the type of what is loaded later', "let pages: typeof import('../cli/pages.ts')"],
] as const) {
  const planted = { path: 'lib/k3s/planted.ts', text: `${text}\n` }
  const below = { path: 'lib/cli/pages.ts', text: "import { planted } from '../k3s/planted.ts'\n" }
  test(`an arrow that points up is found: ${what}`, () => assert.equal(upward([planted, below]).length, 1))
  test(`a circle is found: ${what}`, () =>
    assert.deepEqual(circles([planted, below]), [['lib/cli/pages.ts', 'lib/k3s/planted.ts']]))
}

test('an arrow that points down is none that points up', () => {
  const text =
    "import { sh } from '../ground/sh.ts'\nconst { read } = load('../site/config.ts')\n// load('../cli/pages.ts')\n"
  assert.deepEqual(upward([{ path: 'lib/k3s/planted.ts', text }]), [])
})

/** What the engine must not know: it runs the steps of layers that nobody has written yet. */
const foreign = [
  // The name of a layer is the engine's own, and so is what secrets are.
  ...pages().flatMap(({ name }) => (name in layerNames || name === 'secrets' ? [] : name)),
  // One line for each layer, and one for units.
  ...'aide auditd apparmor chrony firewall wireguard wg wg0 wg-quick cryptsetup luks vault'.split(' '),
  ...'libvirt virsh qemu flatcar ignition butane talos talosctl raspios fortress0'.split(' '),
  ...'k3s kube kubelet kubectl etcd kube-bench cilium helm gvisor kyverno flux longhorn garage velero prometheus falco'.split(
    ' ',
  ),
  ...'ssh.service sshd.service k3s.service nftables.service'.split(' '),
]
const foreignName = new RegExp(
  `(?<![\\w/-])(${foreign.map((name) => name.replaceAll('.', '\\.')).join('|')})(?![\\w-])`,
  'i',
)

test('the engine and the ground know no layer, unit, interface, page or component by its name', () => {
  assert.match('systemctl restart wg-quick@wg0', foreignName)
  assert.match("next: './task vm-provision apply'", /vm-provision/)
  none(
    files
      .filter(({ path }) => /^lib\/(engine|ground)\//.test(path))
      .flatMap(({ path, text }) =>
        text.split('\n').flatMap((line, i) => {
          const [name] = foreignName.exec(line) ?? []
          return name === undefined ? [] : [`${path}:${i + 1}  ${name}: ${line.trim().slice(0, 100)}`]
        }),
      ),
    'five more layers come, and none of them should have to change it',
  )
})

test('every page carries its own commands, and delegates none of its steps', () => {
  const faults = sources
    .filter(({ path }) => /^scripts\/\d/.test(path))
    .flatMap(({ path, text }) => {
      const commands = [...text.matchAll(/\b(sh|feed\([^)]*\))`|\bfile\(/g)].length
      const steps = /script\(\s*import\.meta,(?:(?!=>)[\s\S])*?,\s*(\w+),?\s*\)\n/.exec(text)?.[1]
      const own = steps === undefined || new RegExp(`^function ${steps}\\b`, 'm').test(text)
      return [
        ...(commands > 0 ? [] : [`${path} has no command`]),
        ...(own ? [] : [`${path} takes its steps from elsewhere: ${steps}`]),
      ]
    })
  none(faults, 'a reader sees on the page what will run')
})

test('a page is taken home with few files', () => {
  const faults = sources
    .filter(({ path }) => /^scripts\/\d/.test(path))
    .flatMap(({ path }) => {
      const { files, lines } = closure(path, sources)
      return files.length <= 15 && lines <= 2350 ? [] : [`${path}: ${files.length} files, ${lines} lines`]
    })
  none(faults, 'at most 15 files and 2,350 lines, itself among them')
})

const scripts = files.map((f) => f.path).filter((path) => /^scripts\/\d/.test(path))

test('every page has its summary, its name, and its reviewed plan', () => {
  const faults = scripts.flatMap((path) => {
    const name = /^scripts\/(\d\d-[a-z0-9]+(-[a-z0-9]+)*)\.ts$/.exec(path)?.[1]
    if (name === undefined) return [`${path} is not named NN-noun-verb.ts`]
    const [first = '', second = ''] = files.find((f) => f.path === path)?.text.split('\n') ?? []
    const summary = first.startsWith('#!') ? second : first
    return [
      ...(/^\/\/ \S.*\.$/.test(summary) ? [] : [`${path} does not begin with one comment line, a sentence`]),
      ...(existsSync(join(root, `test/plans/${name}.sh`)) ? [] : [`test/plans/${name}.sh is missing`]),
    ]
  })
  const orphans = files
    .map((f) => /^test\/plans\/(\d\d-.*)\.sh$/.exec(f.path)?.[1])
    .filter((name) => name !== undefined && !scripts.includes(`scripts/${name}.ts`))
  none(
    [...faults, ...orphans.map((name) => `test/plans/${name}.sh has no page`)],
    'reviewers read the shell that a page prints',
  )
})

test('what a page needs is there, and comes before it', () => {
  const all = pages().map(open)
  const early = all.flatMap(({ name, needs = [] }, i) =>
    needs
      .filter((need) => !all.slice(0, i).some((page) => page.name === need))
      .map((need) => `${name}: ${need}`),
  )
  none(early, 'a run would wait for ever, or go on too early')
  assert.ok(all.some(({ needs = [] }) => needs.length > 1))
})

test('the README lists every page by its own first line', () => {
  const readme = readFileSync(join(root, 'README.md'), 'utf8')
  const listed = [...readme.matchAll(/^ {4}(\d\d-[a-z0-9-]+) {2,}(\S.*)$/gm)].map(
    ([, name, summary]) => `${name}  ${summary}`,
  )
  const wanted = pages().map(({ number, name, summary }) => `${number}-${name}  ${summary}`)
  const [lacks, more] = [
    wanted.filter((line) => !listed.includes(line)),
    listed.filter((line) => !wanted.includes(line)),
  ]
  const ordered = lacks.length + more.length > 0 || [...new Set(listed)].join() === wanted.join()
  none(
    [
      ...lacks.map((line) => `README.md lacks: ${line}`),
      ...more.map((line) => `README.md has no page for: ${line}`),
      ...(ordered ? [] : ['the list in README.md is in another order']),
    ].slice(0, 3),
    'the first thing that somebody reads of the kit',
  )
})

test('the table of contents stays one', () => {
  const lines = readFileSync(join(root, 'Taskfile.ts'), 'utf8').split('\n').length
  assert.ok(lines < 120, `Taskfile.ts has ${lines} lines; under 120 is the rule`)
})

test('packages are pinned, and the lock file names no registry', () => {
  const { dependencies, devDependencies } = JSON.parse(
    readFileSync(join(root, 'package.json'), 'utf8'),
  ) as Record<string, object>
  const loose = Object.entries({ ...dependencies, ...devDependencies }).filter(
    ([, version]) => !/^\d+\.\d+\.\d+$/.test(version as string),
  )
  const lock = readFileSync(join(root, 'package-lock.json'), 'utf8')
  none(
    [
      ...loose.map(([name, version]) => `${name} is ${String(version)}`),
      ...(lock.includes('"resolved"') ? ['package-lock.json has "resolved" lines'] : []),
      ...[...lock.matchAll(/"node_modules\/([^"]+)": \{\n\s+"version": "[^"]+",\n(?!\s+"integrity")/g)].map(
        ([, name]) => `${name} has no integrity in package-lock.json`,
      ),
    ],
    'everybody installs the same bytes, from the registry of his own choice',
  )
})

function none(faults: string[], why: string): void {
  assert.ok(faults.length === 0, `${why}\n${faults.map((fault) => `  ${fault}`).join('\n')}`)
}
