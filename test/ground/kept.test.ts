import assert from 'node:assert/strict'
import { chmodSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, test } from 'node:test'
import { recall, remember } from '../../lib/ground/kept.ts'
import { parsed, read } from '../../lib/ground/root.ts'

describe('what was worked out is kept where only we can write', () => {
  const kit = (t: { after: (done: () => void) => void }) => {
    const dir = mkdtempSync(join(tmpdir(), 'fk-kept-'))
    t.after(() => rmSync(dir, { recursive: true }))
    return dir
  }

  test('it is found again under its key, and under no other', (t) => {
    const root = kit(t)
    assert.equal(recall(root, 'x', 'a'), undefined)
    remember(root, 'x', 'a', { one: [1, null] })
    assert.deepEqual(recall(root, 'x', 'a'), { one: [1, null] })
    assert.equal(recall(root, 'x', 'b'), undefined)
    assert.equal(recall(root, 'y', 'a'), undefined)
  })
  test('where others can write, nothing is believed', (t) => {
    const root = kit(t)
    remember(root, 'x', 'a', true)
    chmodSync(join(root, '.cache/x'), 0o770)
    assert.equal(recall(root, 'x', 'a'), undefined)
  })
  test('what cannot be written or read is worked out anew', (t) => {
    const root = kit(t)
    writeFileSync(join(root, '.cache'), '')
    remember(root, 'x', 'a', true)
    assert.equal(recall(root, 'x', 'a'), undefined)
    rmSync(join(root, '.cache'))
    mkdirSync(join(root, '.cache/x'), { recursive: true, mode: 0o700 })
    writeFileSync(join(root, '.cache/x/a.json'), '{ cut')
    assert.equal(recall(root, 'x', 'a'), undefined)
  })
  test('few stay', (t) => {
    const root = kit(t)
    for (let i = 0; i < 40; i++) remember(root, 'x', String(i), i)
    assert.ok(readdirSync(join(root, '.cache/x')).length < 20)
  })
})

test('a YAML document is the same whether it was parsed before or not, and one that was changed is another', () => {
  const text = `# ${Math.random()}\na: [1, { b: 'c' }]\nd: 2027-01-01\n`
  const first = parsed(text)
  assert.deepEqual(first, { a: [1, { b: 'c' }], d: '2027-01-01' })
  assert.deepEqual(parsed(text), first)
  assert.notEqual(parsed(text), first) // nobody changes what another one reads
  assert.deepEqual(parsed(text.replace('c', 'e')), { a: [1, { b: 'e' }], d: '2027-01-01' })
  assert.throws(() => parsed(`${text}a: [`), /YAMLParseError|Flow sequence/)
})

test('of the documents of a page no other value comes than from the parser itself', async () => {
  const { parse } = await import('yaml')
  for (const path of [
    'config/host/controls.yaml',
    'config/host/packages.yaml',
    'config/host/waivers.yaml',
    'config/runbook.yaml',
  ])
    assert.deepEqual(
      parsed(read(path)),
      parse(readFileSync(join(import.meta.dirname, '../..', path), 'utf8')),
      path,
    )
})
