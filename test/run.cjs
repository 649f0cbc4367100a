// Runs the tests, tier by tier: `npm test`, `npm test -- unit`, `npm test -- --list`, `npm test -- --verbose`.
//
// A tier that cannot run here is named with its reason. Where FK_TEST_REQUIRE names it, that is a failure; `chosen` there are the
// files that are named.
// Nothing of the person who runs them gets into the tests: neither FK_ variables, nor .env, nor what lies in the home directory.
'use strict'
require('../bin/ready.cjs')
const { spawn } = require('node:child_process')
const fs = require('node:fs')
const os = require('node:os')
const path = require('node:path')

const root = path.join(__dirname, '..')
const cores = os.availableParallelism()

/** What a tier proves, and how many of its files run at once. */
const tiers = {
  unit: {
    proves: 'tables, schemas, errors, printed plans',
    at: ['', 'ground', 'site', 'engine', 'host', 'vm', 'k3s', 'component', 'cli'],
    concurrency: cores,
  },
  checked: { proves: 'every artifact passes its real checker', at: ['checked'], concurrency: cores },
  machine: {
    proves: 'pages on a real Debian in a container',
    at: ['machine'],
    concurrency: Math.min(cores, 2),
  },
  lab: { proves: 'what needs a kernel of its own, in a virtual machine', at: ['lab'], concurrency: 1 },
  cluster: {
    proves: 'a real Kubernetes with our configuration',
    at: ['cluster'],
    concurrency: Math.min(cores, 2),
  },
  node: { proves: 'pods that really run, on nodes that pages have built', at: ['node'], concurrency: 1 },
  release: { proves: 'the whole runbook in a virtual machine, scanned', at: ['release'], concurrency: 1 },
}

async function main(argv) {
  const words = argv.filter((word) => !word.startsWith('-'))
  const flags = argv.filter((word) => word.startsWith('-'))
  const faults = [
    ...flags
      .filter((flag) => !['--list', '--verbose'].includes(flag))
      .map((flag) => `There is no flag '${flag}'.`),
    ...words
      .filter((word) => !(word in tiers) && !fs.existsSync(word))
      .map((word) => `There is no tier and no file '${word}'.`),
  ]
  const required = (process.env.FK_TEST_REQUIRE ?? '').split(',').filter(Boolean)
  for (const name of required)
    if (!(name in tiers) && name !== 'chosen')
      faults.push(`FK_TEST_REQUIRE names '${name}', which is no tier.`)
  if (faults.length > 0) {
    const names = Object.keys(tiers).join(', ')
    process.stderr.write(
      `${faults.join('\n')}\n  next:  npm test -- [TIER or FILE...] [--list] [--verbose]; tiers: ${names}\n`,
    )
    return 1
  }

  const files = words.filter((word) => !(word in tiers))
  const chosen = Object.keys(tiers).filter((name) => words.length === 0 || words.includes(name))
  const plan = [
    ...(await Promise.all(
      chosen.map(async (name) => ({
        name,
        ...tiers[name],
        files: found(tiers[name].at),
        missing:
          name === 'release' && !words.includes(name)
            ? 'it takes some hours: npm test -- release'
            : await missing(name),
      })),
    )),
    ...(files.length > 0 ? [{ name: 'chosen', files, concurrency: 1, missing: undefined }] : []),
  ].filter((tier) => tier.files.length > 0 || required.includes(tier.name) || words.includes(tier.name))
  if (flags.includes('--list')) {
    for (const tier of plan) {
      process.stdout.write(
        `${tier.name.padEnd(8)} ${tier.proves ?? ''}${tier.missing ? `; not here: ${tier.missing}` : ''}\n`,
      )
      for (const file of tier.files) process.stdout.write(`  ${path.relative(root, file)}\n`)
    }
    return 0
  }

  const results = []
  for (const tier of plan) {
    const reason = tier.files.length === 0 ? 'it has no tests yet' : tier.missing
    if (reason !== undefined) {
      results.push({
        name: tier.name,
        state: required.includes(tier.name) ? 'failed' : 'skipped',
        text: reason,
      })
      continue
    }
    process.stdout.write(`\n${tier.name}${tier.proves ? `: ${tier.proves}` : ''}\n`)
    results.push(await run(tier, required.includes(tier.name), flags.includes('--verbose')))
  }

  process.stdout.write('\n')
  for (const { name, state, text } of results)
    process.stdout.write(`${state.padEnd(8)} ${name.padEnd(8)} ${text}\n`)
  return results.some((result) => result.state === 'failed') ? 1 : 0
}

/** The test files right under the directories `at` of test/, in order. */
function found(at) {
  return at
    .map((name) => path.join(__dirname, name))
    .filter((dir) => fs.existsSync(dir))
    .flatMap((dir) =>
      fs
        .readdirSync(dir)
        .filter((name) => name.endsWith('.test.ts'))
        .sort()
        .map((name) => path.join(dir, name)),
    )
}

/** Why a tier cannot run here, or undefined. */
async function missing(name) {
  const kind = { machine: 'node', lab: 'vm', cluster: 'node', node: 'node', release: 'vm' }[name]
  if (kind === undefined) return undefined
  require('../bin/typescript.cjs')
  const { builtProgram, labDeps } = require('../lib/lab/lab.ts')
  const { reasons, install } = await labDeps(kind)
  const built = { cluster: ['kube-bed'], node: ['kube-bed', 'runtime', 'coredns', 'pod'] }[name] ?? []
  const unbuilt = built.filter((program) => builtProgram(program) === undefined)
  return (
    [
      ...(process.getuid() === 0 ? [] : [`it needs root: sudo npm test -- ${name}`]),
      ...reasons,
      ...unbuilt.map((program) => `${program} is not built`),
      ...(install.length > 0 || unbuilt.length > 0 ? ['./task lab setup installs them'] : []),
    ].join('; ') || undefined
  )
}

/** Runs the files of a tier, some at once, and says what happens while it does. */
async function run({ name, files, concurrency }, required, verbose) {
  const dir = path.join(root, '.cache', 'test', String(process.pid))
  fs.mkdirSync(path.join(dir, 'home'), { recursive: true, mode: 0o700 })
  const all = { passed: 0, failed: [], skipped: [] }
  const waiting = processes(name, files)
  const screen = progress(files.length)
  const next = async () => {
    for (let batch = waiting.shift(); batch !== undefined; batch = waiting.shift()) {
      // Unit tests are over soon, and many: a line when a file has ended is enough.
      const { passed, failed, skipped } = await one(batch, dir, screen, { verbose, quiet: name === 'unit' })
      all.passed += passed
      all.failed.push(...failed)
      all.skipped.push(...skipped)
    }
  }
  await Promise.all(Array.from({ length: concurrency }, next))
  screen.end()
  fs.rmSync(dir, { recursive: true })
  for (const test of all.failed) process.stdout.write(`failed   ${test}\n`)
  const reasons = [...new Set(all.skipped)]
  const text = [
    `${all.passed} passed`,
    all.failed.length > 0 ? `${all.failed.length} failed` : '',
    all.skipped.length > 0 ? `${all.skipped.length} skipped: ${reasons.join('; ')}` : '',
  ]
  const bad = all.failed.length > 0 || (required && all.skipped.length > 0)
  return { name, state: bad ? 'failed' : 'passed', text: text.filter(Boolean).join(', ') }
}

/**
 * One process of Node with one file or several, each a suite. The loader is that of `./task`: TypeScript compiled in process, from
 * a private cache. What test/reporter.cjs sends is counted, and told to `screen`.
 */
async function one(batch, dir, screen, { verbose, quiet }) {
  const names = batch.map((file) => path.relative(root, file))
  const entry = path.join(dir, `${names[0].replaceAll(/[/.]/g, '-')}.cjs`)
  const suite = (name) =>
    `describe(${JSON.stringify(name)}, () => void require(${JSON.stringify(path.join(root, name))}))\n`
  const loader = JSON.stringify(path.join(root, 'bin', 'typescript.cjs'))
  fs.writeFileSync(
    entry,
    `'use strict'\nrequire(${loader})\nconst { describe } = require('node:test')\n${names.map(suite).join('')}`,
  )
  const found = { passed: 0, failed: [], skipped: [], open: new Set(names) }
  const child = spawn(
    process.execPath,
    [
      '--disable-warning=ExperimentalWarning', // Web Crypto of Node 20 says it in every process
      `--test-reporter=${path.join(__dirname, 'reporter.cjs')}`,
      '--test-reporter-destination=stdout',
      entry,
    ],
    { cwd: root, stdio: ['ignore', 'inherit', 'inherit', 'ipc'], env: environment(path.join(dir, 'home')) },
  )
  if (!quiet) screen.begin(names[0])
  child.on('message', ({ kind, file, test, text, reason, seconds }) => {
    if (text !== undefined) return screen.print(text)
    if (kind === 'begun') return screen.now(file, test)
    if (kind === 'ended') {
      found.open.delete(file)
      return screen.ended(file, seconds)
    }
    if (kind === 'failed') found.failed.push(`${file}: ${test}`)
    else if (kind === 'skipped') found.skipped.push(reason)
    else found.passed += 1
    screen.count(file, kind, verbose || (!quiet && seconds >= 1) ? `${test} (${time(seconds)})` : undefined)
  })
  const status = await new Promise((resolve) => child.on('close', (code, signal) => resolve(signal ?? code)))
  for (const file of found.open) {
    found.failed.push(`${file}: its process ended with ${status}`)
    screen.ended(file)
  }
  if (status !== 0 && found.failed.length === 0)
    found.failed.push(`${names[0]}: its process ended with ${status}`)
  return found
}

/** The variables of the tests: what a person has set for the kit, and keeps at home, is not for them. */
function environment(home) {
  const kept = Object.entries(process.env).filter(
    // Where the lab's images lie changes no result.
    ([name]) => !/^(FK_|DEBUG$)/.test(name) || /^FK_(TEST_|LAB_DIR$)/.test(name),
  )
  // Sources that `lab setup` has fetched, and that tests read: they are of this computer, not of the person.
  const modules =
    process.env.GOMODCACHE ?? path.join(process.env.GOPATH ?? path.join(os.homedir(), 'go'), 'pkg/mod')
  return { ...Object.fromEntries(kept), HOME: home, FK_ENV_FILE: '/dev/null', GOMODCACHE: modules }
}

/** Seconds for people. */
const time = (seconds) =>
  seconds < 60 ? `${seconds.toFixed(1)} s` : `${Math.floor(seconds / 60)} min ${Math.round(seconds % 60)} s`

/**
 * What is said while files run: that one has begun, what takes long in it, that it has ended with its counts; and where nothing
 * was said for half a minute, what is being done.
 */
function progress(total) {
  const running = new Map()
  const began = Date.now()
  let [done, last] = [0, Date.now()]
  const print = (text) => {
    last = Date.now()
    process.stdout.write(text)
  }
  const of = (file) => {
    if (!running.has(file)) running.set(file, { passed: 0, failed: 0, skipped: 0 })
    return running.get(file)
  }
  const timer = setInterval(() => {
    if (Date.now() - last < 30_000) return
    for (const [file, { passed, now }] of running)
      if (now !== undefined)
        print(
          `running  ${file}: ${passed} passed, now: ${now} (${time((Date.now() - began) / 1000)} in all)\n`,
        )
  }, 1000)
  return {
    print,
    begin: (file) => void print(`begins   ${file}\n`),
    now: (file, test) => void (of(file).now = test),
    count(file, kind, line) {
      of(file)[kind] += 1
      if (line !== undefined && kind === 'passed')
        print(`  ok     ${path.basename(file, '.test.ts')}: ${line}\n`)
    },
    ended(file, seconds) {
      const { passed, failed, skipped } = of(file)
      running.delete(file)
      done += 1
      const counts = [
        `${passed} passed`,
        failed > 0 ? `${failed} failed` : '',
        skipped > 0 ? `${skipped} skipped` : '',
        seconds === undefined ? 'did not end' : time(seconds),
      ]
      const state = failed > 0 || seconds === undefined ? 'failed' : 'passed'
      print(`${state}   ${file}: ${counts.filter(Boolean).join(', ')} (${done} of ${total})\n`)
    },
    end: () => clearInterval(timer),
  }
}

/**
 * Which files share a process. Unit tests touch nothing, so they share one per processor: starting Node is what costs.
 * Where files drive machines each has its own, so that one that dies takes no other with it.
 */
function processes(name, files) {
  if (name !== 'unit') return files.map((file) => [file])
  // Files that start programs by the dozen run beside the others, not before them.
  const alone = files.filter((file) => /node:child_process/.test(fs.readFileSync(file, 'utf8')))
  const together = files.filter((file) => !alone.includes(file))
  return [...alone.map((file) => [file]), ...(together.length > 0 ? [together] : [])]
}

main(process.argv.slice(2)).then((code) => {
  process.exitCode = code
})
