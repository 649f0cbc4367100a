import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { chunks } from '../../lib/engine/run.ts'
import type { Change, Step } from '../../lib/engine/step.ts'
import { sh } from '../../lib/ground/sh.ts'

const change = (name: string, more: Partial<Change> = {}): Change => ({
  name,
  check: sh`false`,
  apply: [sh`true`],
  ...more,
})
const shape = (steps: Step[]) =>
  chunks(steps.map((step, index) => ({ step, index }))).map((c) => [
    c.door,
    c.steps.map((s) => s.step.name).join(''),
  ])

describe('steps travel together as far as safety allows', () => {
  const door = (name: string, kind: string) => change(name, { transaction: { kind } })
  const cases: [string, Step[], unknown][] = [
    ['no door: one part', [change('a'), change('b')], [[false, 'ab']]],
    [
      'doors in a row are one transaction',
      [change('a'), door('b', 'ssh'), door('c', 'pam'), change('d')],
      [
        [false, 'a'],
        [true, 'bc'],
        [false, 'd'],
      ],
    ],
    [
      'what the laptop has to store ends its part',
      [change('a', { save: { name: 'x', command: sh`cat` } }), change('b')],
      [
        [false, 'a'],
        [false, 'b'],
      ],
    ],
  ]
  for (const [name, steps, want] of cases) test(name, () => assert.deepEqual(shape(steps), want))
})
