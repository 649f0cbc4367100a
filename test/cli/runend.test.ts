// The last lines of a run over many pages: what holds, what is left and why, and the command that goes on.
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { type Ended, runEnd } from '../../lib/cli/runend.ts'
import type { Page } from '../../lib/engine/page.ts'
import type { Result } from '../../lib/engine/verdict.ts'

const page = (name: string) => ({ name, layer: 'L0', on: 'host' }) as Page
const came = (name: string, state: Result['state'], more: Partial<Result> = {}) => ({
  page: page(name),
  machine: 'fortress',
  result: { code: 0, changed: 0, state, steps: { change: 0, hold: 0, access: 0 }, ...more } as Result,
})
const ended = (more: Partial<Ended>): Ended => ({
  mode: 'apply',
  came: [],
  left: [],
  given: { words: [], site: undefined, confirm: undefined, yes: false, json: false, verbose: false },
  label: 'fortress (admin@192.0.2.10)',
  log: undefined,
  ...more,
})

describe('the end of a run', () => {
  test('counts pages that hold, and goes on from the first that does not', () => {
    const end = runEnd(
      ended({
        came: [
          came('00-a', 'ok'),
          came('05-b', 'your turn', { why: 'make the key', next: './task peer show laptop' }),
          came('06-c', 'later', { why: 'after 05-b' }),
          came('10-d', 'later', { why: 'after 05-b' }),
        ],
        left: [page('20-e')],
      }),
    )
    assert.equal(end.sum, '1 of 5 pages holds, 4 do not yet')
    assert.equal(end.next, './task build-all --from 05-b')
    assert.deepEqual(end.stops, [
      { state: 'your turn', pages: '05', what: 'fortress: make the key', next: './task peer show laptop' },
      { state: 'later', pages: '06,10', what: 'after 05-b' },
    ])
  })

  test('of a plan sums up steps, says what could lock out, and that the next command asks', () => {
    const steps = { change: 70, hold: 5, access: 4 }
    const end = runEnd(
      ended({
        mode: 'plan',
        came: [came('00-a', 'change', { steps }), came('01-b', 'unknown', { why: 'x' })],
      }),
    )
    assert.equal(end.sum, 'Plan for fortress (admin@192.0.2.10): 70 to change, 5 hold, 1 page unknown')
    assert.equal(end.access, 4)
    assert.match(
      end.next ?? '',
      /^\.\/task build-all asks first, then applies it\n\.\/task plan-all --diff shows /,
    )
  })

  test('of machines that are silent asks for no change, and does not say that they do not hold', () => {
    const silent = [came('00-a', 'ok'), came('20-k', 'unknown', { why: 'node does not answer' })]
    const verified = runEnd(ended({ mode: 'verify', came: silent }))
    assert.equal(verified.sum, '1 of 2 pages holds, 1 unknown')
    assert.equal(verified.next, './task verify-all again, when they answer')
    assert.equal(
      runEnd(ended({ mode: 'plan', came: silent.slice(1) })).next,
      './task plan-all again, when they answer',
    )
  })

  test('of an undo lists what is left and why; what was never built is nothing to undo', () => {
    const end = runEnd(
      ended({
        mode: 'undo',
        came: [
          came('20-k', 'unknown', { code: 1, why: 'node does not answer' }),
          came('13-v', '-', { why: 'node was never built' }),
          came('00-a', 'changed'),
        ],
      }),
    )
    assert.equal(end.sum, '1 of 3 pages undone, 1 is left')
    assert.deepEqual(
      end.stops.map(({ state, what }) => [state, what]),
      [['unknown', 'fortress: node does not answer']],
    )
  })

  test('repeats the choice of pages in the command that goes on', () => {
    const end = runEnd(
      ended({ came: [came('00-a', 'failed')], given: { ...ended({}).given, layer: 'L0', site: 'x' } }),
    )
    assert.equal(end.next, './task build-all --layer L0 --site x --from 00-a')
  })

  test('where all holds asks for nothing more than a look', () =>
    assert.deepEqual(runEnd(ended({ came: [came('00-a', 'ok'), came('01-b', '-')] })), {
      sum: '2 of 2 pages hold',
      stops: [],
      next: './task status',
    }))
})
