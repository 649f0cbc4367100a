// Faults that are planted in the site documents that ship: planted/PART.yaml is a table of them.
import assert from 'node:assert/strict'
import fs from 'node:fs'
import path from 'node:path'
import { describe, test } from 'node:test'
import { parse } from 'yaml'
import { type Diagnostic, type JsonSchema, checkDocument } from '../../../lib/ground/document.ts'
import { read } from '../../../lib/ground/root.ts'
import { catalogue } from '../../../lib/site/catalogue.ts'
import { formats } from '../../../lib/site/formats.ts'
import type { SiteDocument } from '../../../lib/site/model.ts'
import { siteProblems } from '../../../lib/site/rules.ts'

interface Edit {
  change: string
  to: string
  times?: number
}

interface Planted {
  site: string
  plant: Edit[]
  faults: { line: string; path: string; says: string }[]
  remedy: 'suggestion' | Edit[]
}

const schema = JSON.parse(read('config/schema/site.json')) as JsonSchema
const tables = path.join(import.meta.dirname, 'planted')
const parts = fs.readdirSync(tables).sort()
const rowsOf = (part: string): Planted[] =>
  parse(fs.readFileSync(path.join(tables, part), 'utf8')) as Planted[]
const shipped = (site: string): string => read(`config/sites/${site}.yaml`)

/** Every fault of the text of a site document, on the day when these tests were written. */
const check = (site: string, text: string): Diagnostic[] =>
  checkDocument<SiteDocument>(`${site}.yaml`, text, schema, formats, (document) =>
    siteProblems(document, site, catalogue(), '2026-11-26'),
  ).faults

const edited = (text: string, edits: Edit[]): string =>
  edits.reduce((before, { change, times = 1, to }) => {
    let after = before
    for (let i = 0; i < times; i++) {
      assert.ok(after.includes(change), `there is no ${change}`)
      after = after.replace(change, () => to)
    }
    return after
  }, text)

/** The text with the value at which a fault points in the spelling that the fault suggests. */
function suggested(text: string, { column = 1, line = 1, suggestion }: Diagnostic): string {
  assert.ok(suggestion !== undefined, 'the fault suggests nothing')
  const lines = text.split('\n')
  const [before, after] = [lines[line - 1]!.slice(0, column - 1), lines[line - 1]!.slice(column - 1)]
  const value = /^(\[[^\]]*\]|'[^']*'|[^,\]}\s]+)/.exec(after)?.[0] ?? ''
  const quoted = value.startsWith("'") && !suggestion.startsWith('[') ? `'${suggestion}'` : suggestion
  lines[line - 1] = `${before}${quoted}${after.slice(value.length)}`
  return lines.join('\n')
}

const sentence = ({ reason, suggestion }: Diagnostic): string =>
  suggestion === undefined ? reason : `${reason}; did you mean ${suggestion}?`

const lineOf = (text: string, begin: string): number => {
  const lines = text.split('\n').flatMap((line, i) => (line.trim().startsWith(begin) ? i + 1 : []))
  assert.equal(lines.length, 1, `${lines.length} lines begin with ${begin}`)
  return lines[0]!
}

for (const part of parts)
  describe(`a fault of ${path.basename(part, '.yaml')} is reported in its place, and goes away by its remedy`, () => {
    for (const { faults, plant, remedy, site } of rowsOf(part))
      test(`${site}: ${faults[0]!.path} ${faults[0]!.says}`, () => {
        const text = edited(shipped(site), plant)
        const found = check(site, text)
        assert.deepEqual(
          found.map((fault) => ({ line: fault.line, path: fault.path, says: sentence(fault) })),
          faults.map(({ line, path: at, says }) => ({ line: lineOf(text, line), path: at, says })),
        )
        const mended = remedy === 'suggestion' ? suggested(text, found[0]!) : edited(text, remedy)
        assert.notEqual(mended, text)
        assert.deepEqual(check(site, mended), [])
      })
  })

test('most planted faults are reported alone: the others name what follows from them', () => {
  const rows = parts.flatMap(rowsOf)
  assert.ok(rows.length >= 200, `${rows.length} faults are planted`)
  assert.ok(rows.filter(({ faults }) => faults.length === 1).length >= rows.length * 0.9)
})

describe('the site documents that ship', () => {
  const names = fs
    .readdirSync(path.join(import.meta.dirname, '../../../config/sites'))
    .map((file) => path.basename(file, '.yaml'))
  for (const name of names)
    test(`${name} has no fault`, () => assert.deepEqual(check(name, shipped(name)), []))

  test('of one box and of one Raspberry Pi are at most 15 lines', () => {
    for (const name of ['fortress', 'fortress-pi']) {
      const lines = shipped(name)
        .split('\n')
        .filter((line) => !/^\s*(#|$)/.test(line))
      assert.ok(lines.length <= 15, `${name} has ${lines.length}`)
    }
  })

  test('fortress with three nodes, as its comment says', () => {
    const node = /^ +- \{ name: fortress-node, .*\n/m.exec(shipped('fortress'))![0]
    const three =
      node +
      node.replace('fortress-node', 'fortress-node-2') +
      node.replace('fortress-node', 'fortress-node-3')
    const text = shipped('fortress').replace(node, three)
    assert.deepEqual(check('fortress', `${text}${/accepted: \[.*\]/.exec(text)![0]}\n`), [])
  })

  test('fortress-pi with three Raspberry Pis, as its comment says', () => {
    const pi = (n: number) =>
      `  - { name: pi-${n}, roles: [host, server], os: raspios-13, arch: arm64, address: 192.168.7.1${n}` +
      `${n === 1 ? '' : `, tunnel_address: 10.66.0.1${n}`} }\n`
    const text = shipped('fortress-pi').replace(
      /^machines:\n(?: .*\n)+/m,
      `machines:\n${pi(1)}${pi(2)}${pi(3)}cluster: { api: { vip: 192.168.7.9 } }\n`,
    )
    assert.deepEqual(check('fortress-pi', text), [])
  })

  test('fortress with a second admin, as its comment says', () => {
    const [people] = /people: \[.*\]/.exec(shipped('fortress'))!
    const key = `ssh-ed25519 ${'A'.repeat(68)}`
    const text = people!.replace('NAME', 'ada').replace('ssh-ed25519 AAAA…', key)
    assert.deepEqual(check('fortress', `${shipped('fortress')}${text}\n`), [])
  })

  test('give nobody a key', () => {
    for (const name of names) assert.doesNotMatch(shipped(name).replaceAll(/#.*/g, ''), /ssh_keys/)
  })
})

test('a document of which any line is missing is refused or accepted, and breaks nothing', () => {
  for (const name of ['fortress', 'zengarden', 'pitower', 'k3s-vault']) {
    const lines = shipped(name).split('\n')
    for (const i of lines.keys()) {
      assert.doesNotThrow(() => check(name, lines.toSpliced(i, 1).join('\n')))
      assert.doesNotThrow(() =>
        check(name, lines.with(i, lines[i]!.replace(/: .*/, ': [null, {}, [[]], -0, "", ~]')).join('\n')),
      )
      assert.doesNotThrow(() => check(name, lines.with(i, lines[i]!.replace(/: .*/, ':')).join('\n')))
    }
  }
})
