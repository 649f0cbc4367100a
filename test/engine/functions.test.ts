import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { readdirSync } from 'node:fs'
import { join } from 'node:path'
import { describe, test } from 'node:test'
import {
  commandsOf,
  definitions,
  definitionsIn,
  indented,
  insideText,
  needed,
  uses,
  written,
} from '../../lib/engine/functions.ts'
import { root } from '../../lib/ground/root.ts'

const shell = `# shellcheck shell=bash
# What the file is for.

# one: prints 1.
one() { printf '1\\n'; } # on one line

two() {
  one
  cat << 'END'
}
# no comment
END
}

A=1 B=2
export A
: "\${C:=3}"
LIST='a
  b'
apart() (
  cd /
)
three() { two |
  cat; }
export -f one \\
  two
`
const found = definitions(shell)
const names = (all: { names: string[] }[]) => all.map((each) => each.names.join('+'))

test('a file of shell is taken apart into functions and variables, with what is exported', () => {
  assert.deepEqual(names(found), ['one', 'two', 'A+B', 'C', 'LIST', 'apart', 'three'])
  assert.deepEqual(
    found.filter(({ exported }) => exported).map(({ names: [name] }) => name),
    ['one', 'two', 'A'],
  )
  assert.equal(found[0]?.text, "# one: prints 1.\none() { printf '1\\n'; } # on one line")
  assert.match(found[1]?.text ?? '', /^two\(\) \{\n[\s\S]*\nEND\n\}$/)
  assert.equal(found[4]?.text, "LIST='a\n  b'")
})

test('what is written again is the same to bash', () => {
  const defined = (text: string) =>
    execFileSync('bash', ['--norc', '-c', `${text}\ndeclare -f; declare -p A B C LIST`], { encoding: 'utf8' })
  assert.equal(defined(written(found)).replace('declare -x B', 'declare -- B'), defined(shell))
})

for (const file of ['host', 'vm', 'k3s', 'engine/shell'].flatMap((dir) =>
  readdirSync(join(root, 'lib', dir)).flatMap((name) =>
    // What replaces functions on a computer without root stands behind a condition, and is never printed.
    name.endsWith('.sh') && name !== 'rootless.sh' ? `lib/${dir}/${name}` : [],
  ),
))
  test(`bash finds the same functions in ${file}`, () => {
    const own = definitionsIn(file).flatMap((each) => (each.kind === 'function' ? each.names : []))
    const script = `exec 3> /dev/null; . ${file} > /dev/null 2>&1; declare -F`
    const said = execFileSync('bash', ['--norc', '-c', script], { cwd: root, encoding: 'utf8' })
    const known = said
      .trim()
      .split('\n')
      .map((line) => line.replace(/^declare -fx? /, ''))
    assert.deepEqual(own.toSorted(), known.toSorted())
  })

describe('what commands need', () => {
  for (const [commands, want] of [
    ['three', ['one', 'two', 'three']],
    ['bash -c \'one "$1"\' x', ['one']],
    ['X=1 one', ['one']],
    ['if one; then :; fi', ['one']],
    ['echo "$A"', ['A+B']],
    ['echo "$(one)" | apart', ['one', 'apart']],
    ['echo nothing of one', []],
    ['# one\n: two', []],
    ["cat << 'X'\none\nX", []],
    ["put /x << 'X'\none\nX\ntwo", ['one', 'two']],
  ] as const)
    test(JSON.stringify(commands), () => assert.deepEqual(names(needed(commands, found)), want))

  test('a name with an underscore is known wherever it stands', () => {
    assert.ok(uses('fk_sure fk_snapshot "$dir"', { kind: 'function' }, 'fk_snapshot'))
    assert.ok(!uses('fk_snapshots', { kind: 'function' }, 'fk_snapshot'))
  })
})

test('text in quotes and in heredocs is not moved when commands are', () => {
  const bash = `a "x
y" \\
b
cat << 'END'
text
END
d # it's no quote
e 'f' "\${g#h}" $'i\\'
j'
k`
  assert.deepEqual(indented(bash, '  ').split('\n'), [
    '  a "x',
    'y" \\',
    '  b',
    "  cat << 'END'",
    'text',
    'END',
    "  d # it's no quote",
    `  e 'f' "\${g#h}" $'i\\'`,
    "j'",
    '  k',
  ])
})

test('each line is known', () => {
  for (const text of ["a 'b\nc'\nd\n", "cat << 'X'\na\nX\nb", 'a\n\nb', "<<< 'x'\ny"])
    assert.equal(insideText(text).length, text.split('\n').length)
  assert.equal(commandsOf("a\n# b\ncat << 'X'\nc\nX\nd"), "a\ncat << 'X'\nd")
})
