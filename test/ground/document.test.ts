// A document with its faults: each at its place, with the reason and the likely spelling, and nothing secret in it.
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import {
  type Diagnostic,
  type JsonSchema,
  checkDocument,
  describe as told,
} from '../../lib/ground/document.ts'

const schema = {
  type: 'object',
  additionalProperties: false,
  required: ['name'],
  properties: {
    name: { type: 'string', description: 'what it is called' },
    port: { type: 'integer', default: 22 },
    open: { type: 'boolean' },
    parts: { type: 'array', items: { type: 'string', format: 'part' } },
    token: { not: {}, rule: 'is not allowed here', secret: true },
  },
} as unknown as JsonSchema
const formats = {
  part: (text: string) =>
    text === text.toLowerCase() ? undefined : { reason: 'has capitals', suggestion: text.toLowerCase() },
}
const check = (text: string) =>
  checkDocument<{ name: string; port: number; parts?: string[] }>('a.yaml', text, schema, formats, () => [])
const place = ({ line, column, path, reason, suggestion }: Diagnostic) =>
  `${line}:${column} ${path} ${reason}${suggestion === undefined ? '' : ` → ${suggestion}`}`

describe('a document', () => {
  test('that is right has no faults, and its defaults filled in', () => {
    assert.deepEqual(check('name: one\nparts: [a, b]\n'), {
      document: { name: 'one', port: 22, parts: ['a', 'b'] },
      faults: [],
    })
  })

  for (const [what, text, want] of [
    ['lacks a key', 'port: 1\n', ['1:1 name is missing: what it is called']],
    ['is empty', '\n', ['undefined:undefined  is empty']],
    [
      'has two faults',
      'name: one\nparts: [a, B, C]\n',
      ['2:12 parts[1] has capitals → b', '2:15 parts[2] has capitals → c'],
    ],
    ['has a key of another spelling', 'nmae: one\nname: two\n', ['1:1 nmae is not a known key → name']],
    ['has a key twice', 'name: one\nport: 1\nname: two\n', ['3:1 name is given twice; first in line 1']],
    ['has an alias', 'name: &x one\nparts: [*x]\n', ['2:9 parts[0] is an alias (*x): write the value out']],
    ['has a number for a text', 'name: 12\n', ["1:7 name must be text, is the number 12 → '12'"]],
    ['has a text for a number', "name: one\nport: '22'\n", ['2:7 port must be a whole number, is "22" → 22']],
    [
      'has an old word for a boolean',
      'name: one\nopen: yes\n',
      ['2:7 open must be true or false, is "yes" → true'],
    ],
  ] as const)
    test(`that ${what} is refused at that place`, () => assert.deepEqual(check(text).faults.map(place), want))

  test('that is no YAML is refused once for each line', () => {
    const { faults } = check('name: [one\n')
    assert.equal(faults.length, 1)
    assert.deepEqual(
      check(`${'['.repeat(20_000)}`).faults.map(({ reason }) => reason),
      ['is nested too deeply'],
    )
  })

  test('shows the line of a fault, and marks the place; but no line with a secret', () => {
    const [open, secret] = check('name: one\nport: none\ntoken: hunter2\n').faults as [Diagnostic, Diagnostic]
    assert.match(told(open), /port: none\n +\| +\^/)
    assert.doesNotMatch(told(secret), /hunter2/)
  })

  test('is given to the rules without what is known to be wrong', () => {
    const seen: unknown[] = []
    checkDocument('a.yaml', 'name: 12\nport: 7\n', schema, formats, (found) => (seen.push(found), []))
    assert.deepEqual(seen, [{ name: undefined, port: 7 }])
  })
})
