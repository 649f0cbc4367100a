import assert from 'node:assert/strict'
import { test } from 'node:test'
import { verdict } from '../../lib/cli/journal.ts'

const pass =
  '50%\r\u001B[KPASS: /var/log/journal/1/system.journal\n=> Validated from one to two, final 3 entries not sealed.\n'

test('a journal that holds is counted by its files, those that had no seal apart', () => {
  const bare = 'PASS: /var/log/journal/1/old.journal\n=> No sealing yet, 3min of entries not sealed.\n'
  assert.deepEqual(verdict(0, pass + pass), {
    holds: true,
    text: 'the seals of 2 files hold: nobody has changed them',
  })
  assert.equal(
    verdict(0, pass + bare).text,
    'the seals of 1 file hold: nobody has changed them; 1 file without a seal',
  )
  assert.deepEqual(verdict(0, bare), { holds: false, text: 'no seal is set yet, so nothing is proven' })
})

for (const [what, code, said, lines] of [
  [
    'a file that does not hold is named',
    1,
    `${pass}1c38: Tag failed verification\nFile corruption detected at /var/log/journal/1/system@2.journal:1c38 (of 8388608 bytes, 0%).\nFAIL: /var/log/journal/1/system@2.journal (Bad message)\n`,
    [
      '1c38: Tag failed verification',
      'File corruption detected at /var/log/journal/1/system@2.journal:1c38 (of 8388608 bytes, 0%).',
      'FAIL: /var/log/journal/1/system@2.journal (Bad message)',
    ],
  ],
  ['a key that is none', 1, 'Failed to parse seed.\n', ['Failed to parse seed.']],
  ['no file at all is no proof', 0, '', []],
] as const)
  test(what, () =>
    assert.deepEqual(verdict(code, said).text.split('\n  '), [
      'the journal does not hold by its seals, or could not be verified',
      ...lines,
    ]),
  )
