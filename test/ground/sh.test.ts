import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { describe, test } from 'node:test'
import { Secret } from '../../lib/ground/secret.ts'
import { feed, quote, sh } from '../../lib/ground/sh.ts'

const bash = (text: string) =>
  execFileSync('bash', ['--norc', '-euo', 'pipefail', '-c', text], { encoding: 'utf8' })

describe('a value becomes one word of bash', () => {
  const words = [
    'plain',
    'two words',
    "it's",
    '"',
    '$HOME',
    '$(id)',
    '`id`',
    'a\nb',
    '*',
    '~',
    '\\',
    "'; rm -rf /",
    'ümläut',
    '-n',
    '!x',
  ]
  for (const word of words)
    test(JSON.stringify(word), () => {
      assert.equal(bash(sh`printf '%s|' ${word}`.text), `${word}|`)
    })

  test('a list becomes one word for each member', () => {
    assert.equal(bash(sh`printf '%s|' ${['a b', "c'd"]}`.text), "a b|c'd|")
  })

  test('a command is spliced in as it is', () => {
    assert.equal(sh`if ${sh`test -e ${'/a b'}`}; then echo; fi`.text, "if test -e '/a b'; then echo; fi")
  })

  test('the text is raw: a backslash stays, and \\${ writes ${', () => {
    assert.equal(sh`printf 'a\tb\n' "\${x%%.*}" \`id\``.text, 'printf \'a\\tb\\n\' "${x%%.*}" `id`')
  })

  test('any POSIX shell reads what quote wrote', () => {
    const word = `a'b"c$d\\e`
    assert.equal(execFileSync('sh', ['-c', `printf %s ${quote(word)}`], { encoding: 'utf8' }), word)
  })
})

describe('what would go wrong later is refused when it is written', () => {
  const at = /, at sh\.test\.ts:\d+/
  const refused: [string, () => unknown, string][] = [
    ['undefined', () => sh`rm ${undefined as never}`, '${} number 1 is undefined'],
    ['null', () => sh`rm ${null as never}`, '${} number 1 is null'],
    ['the empty string', () => sh`rm -rf /srv/${''}`, '${} number 1 is empty'],
    ['NaN', () => sh`head ${Number.NaN}`, '${} number 1 is NaN'],
    ['an object', () => sh`echo ${{} as never}`, '${} number 1 is object'],
    ['an empty list', () => sh`rm ${[]}`, '${} number 1 is an empty list'],
    ['undefined in a list', () => sh`rm ${['a', undefined as never]}`, '${} number 1 is undefined'],
    ['a NUL byte', () => sh`echo ${'a\0b'}`, '${} number 1 holds a NUL byte'],
    ['a secret', () => sh`echo ${new Secret('k', () => 'v') as never}`, '${} number 1 is a secret'],
  ]
  for (const [what, write, message] of refused)
    test(what, () => {
      assert.throws(
        write,
        (error: Error) =>
          error instanceof TypeError && error.message.startsWith(message) && at.test(error.message),
      )
    })

  const places: [string, () => unknown][] = [
    ['double quotes', () => sh`echo "${'x'}"`],
    ['single quotes', () => sh`echo '${'x'}'`],
    ['quotes inside a substitution', () => sh`echo $(echo "a ${'x'}")`],
    [
      'a heredoc',
      () => sh`cat << EOF
      ${'x'}
      EOF`,
    ],
    [
      'a quoted heredoc',
      () => sh`cat <<'EOF'
${'x'}
EOF`,
    ],
  ]
  for (const [where, write] of places)
    test(`a value inside ${where}`, () => assert.throws(write, SyntaxError))

  test('a value beside quotes, in a substitution, after a comment or after a heredoc is fine', () => {
    assert.equal(sh`echo "a" ${'x'} 'b'`.text, `echo "a" x 'b'`)
    assert.equal(sh`echo "$(cat ${'/x y'})"`.text, `echo "$(cat '/x y')"`)
    assert.equal(
      sh`true # it's fine
      cat ${'x'}`.text,
      "true # it's fine\ncat x",
    )
    assert.equal(
      sh`cat << EOF
it's
EOF
echo ${'x'}`.text,
      "cat << EOF\nit's\nEOF\necho x",
    )
    assert.equal(sh`cat <<< ${'x'}`.text, 'cat <<< x')
  })

  test('two secrets cannot feed one command', () => {
    const [a, b] = [new Secret('a', () => '1'), new Secret('b', () => '2')]
    assert.throws(() => feed(a)`cat ${feed(b)`cat`}`, /one command cannot be fed two secrets/)
  })
})

test('a secret never stands in the text of a command, and travels with what it is spliced into', () => {
  const secret = new Secret('key', () => 'hunter2')
  const command = sh`umask 077 && ${feed(secret)`cat > /run/key`}`
  assert.equal(command.text, 'umask 077 && cat > /run/key')
  assert.equal(command.feed, secret)
  assert.equal(JSON.stringify(command).includes('hunter2'), false)
})

test('templates are indented with their page; the command is not', () => {
  const command = sh`
    if true; then
      echo a
    fi
  `
  assert.equal(command.text, 'if true; then\n  echo a\nfi')
})
