// How long a site takes that was found right before: node --import tsx test/bench/load.ts [ROUNDS] [MODULE…]
//
// Each load is the first one of a process, as in a page that is started, and its imports do not count. MODULE is lib/site/config.ts,
// or that of another checkout to compare with: each round runs every one once, so that a busy moment falls on all of them. The
// median of the rounds counts, and the least says what a busy machine hides. No FK_ variable of the person who measures gets in.
import { execFileSync } from 'node:child_process'
import { resolve } from 'node:path'

const program = `
  import(process.argv[1]).then(({ loadConfig }) => {
    const used = process.cpuUsage()
    const began = process.hrtime.bigint()
    loadConfig({ env: {}, site: 'fortress' })
    const { user, system } = process.cpuUsage(used)
    console.log((user + system) / 1e3, Number(process.hrtime.bigint() - began) / 1e6)
  })`
const [rounds = '21', ...given] = process.argv.slice(2)
const modules = (given.length > 0 ? given : ['lib/site/config.ts']).map((module) => resolve(module))
const found = modules.map((module) => ({ module, cpu: [] as number[], wall: [] as number[] }))

// In the first round it may be checked.
for (let round = -1; round < Number(rounds); round++)
  for (const { cpu, module, wall } of found) {
    const args = ['--import', 'tsx', '--eval', program, module]
    const [used = 0, took = 0] = execFileSync(process.execPath, args, { encoding: 'utf8' })
      .split(' ')
      .map(Number)
    if (round < 0) continue
    cpu.push(used)
    wall.push(took)
  }
const said = (values: number[]): string => {
  const sorted = values.toSorted((a, b) => a - b)
  return `${sorted[sorted.length >> 1]!.toFixed(2)} ms (least ${sorted[0]!.toFixed(2)})`
}
for (const { cpu, module, wall } of found)
  process.stdout.write(`CPU ${said(cpu)}, clock ${said(wall)}: ${module}\n`)
