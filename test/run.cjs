// Runs the tests, tier by tier: `npm test`, `npm test -- unit`, `npm test -- --list`, `npm test -- --verbose`.
//
// A tier that cannot run here is named with its reason. Where FK_TEST_REQUIRE names it, that is a failure.
// This file is also the reporter that Node's test runner loads, see the end.
'use strict'
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
    at: ['', 'ground', 'site', 'engine', 'host', 'vm', 'k3s', 'cli'],
    concurrency: cores,
  },
  checked: { proves: 'every artifact passes its real checker', at: ['checked'], concurrency: cores },
  machine: {
    proves: 'pages on a real Debian in a container',
    at: ['machine'],
    concurrency: Math.min(cores, 2),
  },
  lab: { proves: 'what needs a kernel of its own, in a virtual machine', at: ['lab'], concurrency: 1 },
  cluster: { proves: 'a real Kubernetes with our configuration', at: ['cluster'], concurrency: 1 },
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
    if (!(name in tiers)) faults.push(`FK_TEST_REQUIRE names '${name}', which is no tier.`)
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
    ...(files.length > 0 ? [{ name: 'chosen', files, concurrency: 1, missing: undefined }] : []),
    ...(await Promise.all(
      chosen.map(async (name) => ({
        name,
        ...tiers[name],
        files: found(tiers[name].at),
        missing:
          name === 'release' && !words.includes(name)
            ? 'it takes about an hour: npm test -- release'
            : await missing(name),
      })),
    )),
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
  const kind = { machine: 'node', lab: 'vm', cluster: 'node', release: 'vm' }[name]
  if (kind === undefined) return undefined
  require('../bin/typescript.cjs')
  const { reasons, install } = await require('../lib/lab/lab.ts').labDeps(kind)
  const bed = name !== 'cluster' || require('./cluster/kit.ts').program !== undefined
  return (
    [
      ...(process.getuid() === 0 ? [] : [`it needs root: sudo npm test -- ${name}`]),
      ...reasons,
      ...(bed ? [] : ['kube-bed is not installed']),
      ...(install.length > 0 || !bed ? ['./task lab setup installs them'] : []),
    ].join('; ') || undefined
  )
}

/** One run of Node's test runner. The loader is that of `./task`: TypeScript compiled in process, from a private cache. */
async function run({ name, files, concurrency }, required, verbose) {
  const dir = path.join(root, '.cache', 'test', String(process.pid))
  fs.mkdirSync(path.join(dir, name), { recursive: true, mode: 0o700 })
  const entries = processes(name, files).map((batch, i) => {
    const entry = path.join(
      dir,
      name,
      batch.length === 1 ? `${i + 1}-${path.basename(batch[0], '.test.ts')}.cjs` : `together-${i + 1}.cjs`,
    )
    const suite = (file) =>
      `describe(${JSON.stringify(path.relative(root, file))}, () => void require(${JSON.stringify(path.resolve(file))}))\n`
    const loader = JSON.stringify(path.join(root, 'bin', 'typescript.cjs'))
    fs.writeFileSync(
      entry,
      `'use strict'\nrequire(${loader})\nconst { describe } = require('node:test')\n${batch.map(suite).join('')}`,
    )
    return entry
  })
  const tally = path.join(dir, name, 'tally.json')
  const child = spawn(
    process.execPath,
    [
      '--test',
      `--test-concurrency=${concurrency}`,
      `--test-reporter=${__filename}`,
      '--test-reporter-destination=stdout',
      ...entries,
    ],
    {
      cwd: root,
      stdio: ['ignore', 'inherit', 'inherit'],
      env: { ...process.env, FORTRESS_TALLY: tally, FORTRESS_VERBOSE: verbose ? '1' : '' },
    },
  )
  const status = await new Promise((resolve) => child.on('close', (code, signal) => resolve(signal ?? code)))
  const { passed, failed, skipped } = fs.existsSync(tally)
    ? JSON.parse(fs.readFileSync(tally, 'utf8'))
    : { passed: 0, failed: [`the runner ended with ${status}`], skipped: [] }
  fs.rmSync(dir, { recursive: true })
  const reasons = [...new Set(skipped.map((s) => s.reason))]
  const text = [
    `${passed} passed`,
    failed.length > 0 ? `${failed.length} failed` : '',
    skipped.length > 0 ? `${skipped.length} skipped: ${reasons.join('; ')}` : '',
  ]
  const bad = status !== 0 || failed.length > 0 || (required && skipped.length > 0)
  return { name, state: bad ? 'failed' : 'passed', text: text.filter(Boolean).join(', ') }
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

/**
 * Node's own `spec` report without the lines of tests that passed: what failed in full, what was skipped with its
 * reason, a line per file, and Node's closing counts. With --verbose all of it.
 */
async function* reporter(source) {
  const { spec: Spec } = require('node:test/reporters')
  const { PassThrough } = require('node:stream')
  const tally = { passed: 0, failed: [], skipped: [] }
  const verbose = process.env.FORTRESS_VERBOSE === '1'
  const into = new PassThrough({ objectMode: true })
  const out = into.pipe(new Spec())
  const feeding = (async () => {
    for await (const event of source) {
      const { type, data } = event
      const skip = data?.skip ?? data?.todo
      if (type === 'test:pass' && skip !== undefined)
        tally.skipped.push({ name: data.name, reason: skip === true ? 'no reason given' : skip })
      else if (type === 'test:pass' && data.details?.type !== 'suite') tally.passed += 1
      else if (type === 'test:fail' && data.details?.error?.failureType !== 'subtestsFailed')
        tally.failed.push(data.name)
      const quiet = type === 'test:start' || (type === 'test:pass' && data.nesting > 0 && skip === undefined)
      if (verbose || !quiet) into.write(event)
    }
    into.end()
  })()
  for await (const chunk of out) yield chunk
  await feeding
  if (process.env.FORTRESS_TALLY) fs.writeFileSync(process.env.FORTRESS_TALLY, JSON.stringify(tally))
}

module.exports = reporter
if (require.main === module)
  main(process.argv.slice(2)).then((code) => {
    process.exitCode = code
  })
