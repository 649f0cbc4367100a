// Runs the .bats files beside it: each of their tests is a test here, with its skips and its diff.
import { spawnSync } from 'node:child_process'
import { readdirSync } from 'node:fs'
import { join } from 'node:path'
import { describe, test } from 'node:test'

const bats = join(import.meta.dirname, '../node_modules/bats/bin/bats')

for (const file of readdirSync(import.meta.dirname).filter((name) => name.endsWith('.bats')))
  describe(file, () => {
    const { stdout, stderr, status, error } = spawnSync(
      bats,
      ['--formatter', 'tap13', join(import.meta.dirname, file)],
      {
        encoding: 'utf8',
      },
    )
    if (error) throw error
    const lines = stdout.split('\n')
    const planned = Number(/^1\.\.(\d+)/m.exec(stdout)?.[1] ?? -1)
    const results = lines.flatMap((line, i) => {
      const [, not, name, skip] = /^(not )?ok \d+ (.*?)(?: # skip ?(.*))?$/.exec(line) ?? []
      if (name === undefined) return []
      const end = lines.findIndex((next, j) => j > i && /^(not )?ok |^1\.\./.test(next))
      return [
        {
          name,
          skip,
          failed: not !== undefined,
          said: lines.slice(i + 1, end < 0 ? undefined : end).join('\n'),
        },
      ]
    })
    for (const { name, skip, failed, said } of results)
      test(name, skip === undefined ? {} : { skip: skip || 'no reason given' }, () => {
        if (failed) throw new Error(said)
      })
    test('all of its tests have run', () => {
      if (results.length !== planned || (status !== 0 && status !== 1))
        throw new Error(`${planned} planned, ${results.length} run, exit ${status}\n${stderr}`)
    })
  })
