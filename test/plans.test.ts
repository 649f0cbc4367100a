// What a page prints is what was reviewed. A change of behaviour is a diff of shell that somebody has read.
import assert from 'node:assert/strict'
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { folder, plans } from '../lib/cli/review.ts'

for (const [name, text] of plans())
  test(`${name} prints what test/plans/${name}.sh holds`, () => {
    const file = join(folder, `${name}.sh`)
    const reviewed = existsSync(file) ? readFileSync(file, 'utf8') : ''
    const [a, b] = [reviewed.split('\n'), text.split('\n')]
    const at = b.findIndex((line, i) => line !== a[i])
    assert.ok(
      reviewed === text,
      `line ${at + 1} was reviewed as\n  ${a[at]}\nand is now\n  ${b[at]}\nSee it all: ./task review && git diff test/plans`,
    )
  })
