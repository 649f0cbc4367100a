// How long it takes until something happens, as a multiple of Node's own start: node test/bench/startup.mjs [ROUNDS]
//
// Every round runs each command once, so that a busy moment falls on all of them; the median of the rounds counts.
// Peers are measured where they are installed. The bar for `./task` is 2.5.
import { spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

const root = join(import.meta.dirname, '..', '..')
const rounds = Number(process.argv[2] ?? 21)
const bar = 2.5

const peers = mkdtempSync(join(tmpdir(), 'fk-bench-'))
writeFileSync(join(peers, 'Makefile'), 'a:\n\t@true\nb: a\n\t@true\nall: b\n\t@true\n')
writeFileSync(join(peers, 'justfile'), 'a:\n  @true\nb: a\n  @true\nall: b\n  @true\n')

/** Name → what is run, and where. The first is what the others are compared with. */
const commands = {
  'node -e 0': [process.execPath, ['-e', '0'], root],
  './task': [join(root, 'task'), [], root],
  './task build-all --help': [join(root, 'task'), ['build-all', '--help'], root],
  'a typo': [join(root, 'task'), ['biuld-all'], root],
  'npx task': ['npx', ['--no-install', 'task'], root],
  'npm run': ['npm', ['run'], root],
  'tsx an empty file': [join(root, 'node_modules/.bin/tsx'), ['/dev/null'], root],
  'make, 3 targets': ['make', ['all'], peers],
  'just, 3 recipes': ['just', ['all'], peers],
}

const times = Object.fromEntries(Object.keys(commands).map((name) => [name, []]))
for (let round = -1; round < rounds; round++)
  for (const [name, [program, args, cwd]] of Object.entries(commands)) {
    const began = process.hrtime.bigint()
    const { error } = spawnSync(program, args, { cwd, stdio: 'ignore' })
    const took = Number(process.hrtime.bigint() - began) / 1e6
    if (error) delete commands[name]
    else if (round >= 0) times[name].push(took)
  }
rmSync(peers, { recursive: true })

const median = (values) => values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)]
const base = median(times['node -e 0'])
process.stdout.write(`${'median of'.padEnd(26)}${String(rounds).padStart(5)} rounds\n`)
for (const name of Object.keys(commands)) {
  const ms = median(times[name])
  process.stdout.write(
    `${name.padEnd(26)}${ms.toFixed(0).padStart(5)} ms ${(ms / base).toFixed(2).padStart(7)} x\n`,
  )
}
const ratio = median(times['./task']) / base
process.stdout.write(`./task is ${ratio <= bar ? 'within' : 'above'} its bar of ${bar}\n`)
process.exitCode = ratio <= bar ? 0 : 1
