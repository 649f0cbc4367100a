import assert from 'node:assert/strict'
import { test } from 'node:test'
import { plans } from '../../lib/cli/review.ts'
import { shellcheck, without } from '../programs.ts'

const missing = without('shellcheck')

for (const [name, text] of missing ? [] : plans())
  test(`shellcheck finds no fault in what ${name} prints`, () => {
    assert.equal(shellcheck(text), '')
  })

test('shellcheck is here', { skip: missing }, () => {})
