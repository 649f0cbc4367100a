// What a page prints is what was reviewed: its own part in test/plans, and the functions where they stand in lib/.
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { folder, plans, printedPlans } from '../lib/cli/review.ts'
import { whole } from '../lib/engine/print.ts'

const printed = printedPlans()

for (const [name, text] of plans())
  test(`${name} prints what test/plans/${name} holds, with the functions that it names`, () => {
    const file = join(folder, name)
    const reviewed = existsSync(file) ? readFileSync(file, 'utf8') : ''
    const [a, b] = [reviewed.split('\n'), text.split('\n')]
    const at = b.findIndex((line, i) => line !== a[i])
    assert.ok(
      reviewed === text,
      reviewed === ''
        ? 'it was never reviewed: ./task review'
        : `line ${at + 1} was reviewed as\n  ${a[at]}\nand is now\n  ${b[at]}\nSee it all: ./task review && git diff test/plans`,
    )
    assert.equal(whole(reviewed), printed.get(name))
    assert.equal(spawnSync('bash', ['-n'], { input: printed.get(name) ?? '', encoding: 'utf8' }).stderr, '')
  })
