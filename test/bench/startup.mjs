// How long it takes until something happens: node test/bench/startup.mjs [ROUNDS]
//
//   ./task                                      1.5 times node -e 0 at most
//   npx tsx scripts/13-vm-provision.ts plan     2.5 times npx tsx -e 0 at most
//   a rehearsal of everything                   2 s of CPU at most, user and system, its children included;
//                                               the first one, which runs every checker, 5 s on the clock
//
// Every round runs each command once, so that a busy moment falls on all of them; the median of the rounds counts. Peers are
// measured where they are installed. No FK_ variable of the person who measures gets in.
import { spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

const root = join(import.meta.dirname, '..', '..')
const rounds = Number(process.argv[2] ?? 21)

const peers = mkdtempSync(join(tmpdir(), 'fk-bench-'))
writeFileSync(join(peers, 'Makefile'), 'a:\n\t@true\nb: a\n\t@true\nall: b\n\t@true\n')
writeFileSync(join(peers, 'justfile'), 'a:\n  @true\nb: a\n  @true\nall: b\n  @true\n')

/** Name → what is run, and where. */
const commands = {
  'node -e 0': [process.execPath, ['-e', '0'], root],
  './task': [join(root, 'task'), [], root],
  './task build-all --help': [join(root, 'task'), ['build-all', '--help'], root],
  'a typo': [join(root, 'task'), ['biuld-all'], root],
  'npx task': ['npx', ['--no-install', 'task'], root],
  'npm run': ['npm', ['run'], root],
  'npx tsx -e 0': ['npx', ['--no-install', 'tsx', '-e', '0'], root],
  'npx tsx 13 plan': ['npx', ['--no-install', 'tsx', 'scripts/13-vm-provision.ts', 'plan'], root],
  'make, 3 targets': ['make', ['all'], peers],
  'just, 3 recipes': ['just', ['all'], peers],
}

const others = Object.entries(process.env).filter(([name]) => !/^FK_|^NODE_OPTIONS$/.test(name))
// The node that runs this is the one that is measured, behind npx and ./task as well.
const env = { ...Object.fromEntries(others), PATH: `${join(process.execPath, '..')}:${process.env.PATH}` }

const times = Object.fromEntries(Object.keys(commands).map((name) => [name, []]))
for (let round = -1; round < rounds; round++)
  for (const [name, [program, args, cwd]] of Object.entries(commands)) {
    const began = process.hrtime.bigint()
    const { error } = spawnSync(program, args, { cwd, env, stdio: 'ignore' })
    const took = Number(process.hrtime.bigint() - began) / 1e6
    if (error) delete commands[name]
    else if (round >= 0) times[name].push(took)
  }
rmSync(peers, { recursive: true })

/** Seconds of CPU, user and system, of the children of this process that have ended, and of theirs. */
function spent() {
  const { stdout } = spawnSync('sh', ['-c', 'cat "/proc/$PPID/stat"'], { encoding: 'utf8' })
  // Fields 16 and 17, in hundredths; the name in field 2 may hold spaces and parentheses.
  const [user, system] = stdout
    .slice(stdout.lastIndexOf(')') + 2)
    .split(' ')
    .slice(13, 15)
  return (Number(user) + Number(system)) / 100
}

function rehearsal() {
  const before = spent()
  const began = process.hrtime.bigint()
  const { status } = spawnSync(join(root, 'task'), ['build-all'], { cwd: root, env, stdio: 'ignore' })
  if (status !== 0) throw new Error(`./task build-all ended with ${status}`)
  return { cpu: spent() - before, wall: Number(process.hrtime.bigint() - began) / 1e9 }
}
// What checkers have said is kept by the digest of what they saw: the first rehearsal begins without.
rmSync(join(root, '.cache', 'checked-fortress.json'), { force: true })
const firstTime = rehearsal()
const rehearsals = Array.from({ length: Math.max(3, Math.ceil(rounds / 7)) }, rehearsal)

const median = (values) => values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)]
const ms = (name) => median(times[name])
process.stdout.write(
  `${'median of'.padEnd(26)}${String(rounds).padStart(5)} rounds; node ${process.version}\n`,
)
for (const name of Object.keys(commands))
  process.stdout.write(
    `${name.padEnd(26)}${ms(name).toFixed(0).padStart(5)} ms ${(ms(name) / ms('node -e 0')).toFixed(2).padStart(7)} x\n`,
  )
const cpu = median(rehearsals.map((run) => run.cpu))
const wall = median(rehearsals.map((run) => run.wall))
const figures = [
  ['./task', ms('./task') / ms('node -e 0'), 1.5, 'x node -e 0'],
  ['npx tsx 13 plan', ms('npx tsx 13 plan') / ms('npx tsx -e 0'), 2.5, 'x npx tsx -e 0'],
  ['the first rehearsal', firstTime.wall, 5, `s on the clock, ${firstTime.cpu.toFixed(2)} s of CPU`],
  [
    'rehearsal of everything',
    cpu,
    2,
    `s of CPU; ${wall.toFixed(2)} s on the clock, median of ${rehearsals.length}`,
  ],
]
for (const [name, value, bar, unit] of figures)
  process.stdout.write(
    `${value <= bar ? 'within' : 'ABOVE '} its bar of ${bar}  ${name.padEnd(24)} ${value.toFixed(2)} ${unit}\n`,
  )
process.exitCode = figures.every(([, value, bar]) => value <= bar) ? 0 : 1
