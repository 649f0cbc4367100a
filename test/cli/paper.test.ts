// The recovery key on a real terminal: shown once, gone from the screen, and two of its groups typed.
import assert from 'node:assert/strict'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, describe, test } from 'node:test'
import { writtenDown } from '../../lib/cli/prompt.ts'
import { makeRecoveryKey } from '../../lib/host/vault.ts'
import { terminal } from '../terminal.ts'

const root = join(import.meta.dirname, '../..')
const dir = mkdtempSync(join(tmpdir(), 'fk-paper-'))
after(() => rmSync(dir, { recursive: true, force: true }))
const key = makeRecoveryKey()
const groups = key.split('-')

const program = join(dir, 'asks.mts')
writeFileSync(
  program,
  `import { writtenDown } from '${root}/lib/cli/prompt.ts'
   process.exit((await writtenDown(process.env.KEY ?? '')) ? 0 : 3)`,
)
/** On a terminal of its own; standard output goes into a file, as with \`| tee\`. */
const asked = (log: string) =>
  terminal(['bash', '-c', `'${process.execPath}' --import tsx '${program}' > '${log}'`], {
    cwd: root,
    env: { ...process.env, KEY: key },
  })
/** The number of the group that is asked for. */
const wanted = (text: string) => Number(/group (\d)/.exec(text)?.[1])

describe('at a terminal the recovery key', () => {
  test('is shown on the terminal alone, and confirmed by the two groups that are asked', async () => {
    const log = join(dir, 'log')
    const person = asked(log)
    await person.until(/Enter, when it is on paper/)
    for (const group of groups) assert.ok(person.text().includes(group), group)
    person.type('')
    const numbers: number[] = []
    for (let i = 0; i < 2; i++) {
      const number = wanted(await person.until(/group \d of the recovery key: /))
      numbers.push(number)
      person.type(i === 0 ? ` ${groups[number - 1]?.toUpperCase()} ` : (groups[number - 1] ?? ''))
    }
    assert.equal(await person.ended, 0)
    assert.equal(new Set(numbers).size, 2)
  })

  test('is asked three times, and not confirmed by what is not on the paper', async () => {
    const person = asked(join(dir, 'other'))
    await person.until(/Enter, when it is on paper/)
    person.type('')
    for (let i = 0; i < 6; i++) {
      const number = wanted(await person.until(/group \d of the recovery key: /))
      // One of two right is not enough.
      person.type(i % 2 === 0 ? (groups[number - 1] ?? '') : 'cccccccc')
    }
    assert.equal(await person.ended, 3)
  })

  test('is gone from the screen before a group is asked', async () => {
    const said: string[] = []
    const right = await writtenDown(key, {
      say: (text) => void said.push(text),
      ask: async (query) => {
        said.push(query)
        return groups[Number(/group (\d)/.exec(query)?.[1]) - 1] ?? ''
      },
      pick: () => [2, 6],
    })
    assert.equal(right, true)
    const text = said.join('')
    assert.ok(text.indexOf('\x1b[?1049h') < text.indexOf(groups[0] ?? ''))
    assert.ok(text.lastIndexOf(groups[7] ?? '') < text.indexOf('\x1b[?1049l'))
    assert.ok(text.indexOf('\x1b[?1049l') < text.indexOf('group 3'))
    assert.ok(text.indexOf('group 3') < text.indexOf('group 7'))
  })
})

test('where two groups are asked they are never the same, and each comes up', async () => {
  const seen = new Set<number>()
  for (let i = 0; i < 200; i++) {
    const pair: number[] = []
    await writtenDown(key, {
      say: () => {},
      ask: async (query) => {
        const number = Number(/group (\d)/.exec(query)?.[1])
        if (number) pair.push(number)
        return number ? (groups[number - 1] ?? '') : ''
      },
    })
    assert.equal(new Set(pair).size, 2)
    for (const one of pair) seen.add(one)
  }
  assert.deepEqual([...seen].toSorted(), [1, 2, 3, 4, 5, 6, 7, 8])
})
