import assert from 'node:assert/strict'
import { test } from 'node:test'
import { plans, printedPlans } from '../../lib/cli/review.ts'
import { beside, shared } from '../../lib/engine/print.ts'
import { shellcheck, without } from '../programs.ts'

const missing = without('shellcheck')
const parts = missing ? new Map<string, string>() : plans()

for (const [name, text] of missing ? [] : printedPlans())
  test(`shellcheck finds no fault in what ${name} prints`, () => assert.equal(shellcheck(text), ''))

for (const [name, part] of parts)
  test(`shellcheck finds no fault in ${name} beside its functions`, () =>
    assert.equal(shellcheck(beside(part, 'functions.sh')), ''))

test('shellcheck finds no fault in the functions that a printed runbook shares', { skip: missing }, () =>
  assert.equal(shellcheck(shared([...parts.values()])), ''),
)
