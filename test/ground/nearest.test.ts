import assert from 'node:assert/strict'
import { test } from 'node:test'
import { nearest } from '../../lib/ground/nearest.ts'

const words = ['plan', 'apply', 'verify', 'undo', 'print', 'observability', 'FK_HOST', 'FK_SITE']

const table: [string, string | undefined][] = [
  ['aply', 'apply'],
  ['appply', 'apply'],
  ['paply', 'apply'],
  ['VERIFY', 'verify'],
  ['pritn', 'print'],
  ['obsrvablity', 'observability'],
  ['observ', 'observability'],
  ['FK_HSOT', 'FK_HOST'],
  ['fk_site', 'FK_SITE'],
  ['pl', undefined],
  ['x', undefined],
  ['', undefined],
  ['harden', undefined],
  ['applications', undefined],
]

for (const [word, meant] of table)
  test(
    meant === undefined ? `'${word}' is nothing that is known` : `'${word}' was meant to be '${meant}'`,
    () => {
      assert.equal(nearest(word, words), meant)
    },
  )

test('a very long word takes no time', () => {
  assert.equal(nearest('a'.repeat(1_000_000), words), undefined)
})
