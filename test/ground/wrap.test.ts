import assert from 'node:assert/strict'
import { test } from 'node:test'
import { beside, widthOf, wrap } from '../../lib/ground/wrap.ts'

test('lines break between words, and a word that is too long stays whole', () => {
  assert.deepEqual(wrap('one two three', 7), ['one two', 'three'])
  assert.deepEqual(wrap('see /a/very/long/path now', 8), ['see', '/a/very/long/path', 'now'])
  assert.deepEqual(wrap('one two three', 7, 2), ['one two', '  three'])
  assert.deepEqual(wrap('', 7), [''])
  assert.deepEqual(wrap('  one  two three', 10, 4), ['  one  two', '    three'])
})

test('colours take no room', () => {
  assert.equal(widthOf('\u001b[31mred\u001b[0m'), 3)
  assert.deepEqual(wrap('\u001b[31mone\u001b[0m two', 7), ['\u001b[31mone\u001b[0m two'])
})

test('what a name means stands beside it, or below where the name is too wide', () => {
  const columns = { width: 8, columns: 16 }
  assert.deepEqual(beside('  a', 'one two three', columns), ['  a     one two', '        three'])
  assert.deepEqual(beside('  a-long-name', 'one', columns), ['  a-long-name', '        one'])
})
