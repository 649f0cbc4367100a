// Host keys and settings as this computer's ssh reads them: real files, real ssh-keygen, real ssh.
import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { known, pin, pinned, settingsOf, settledOptions, socketDir, wayOf } from '../../lib/ground/ssh.ts'

const scratch = mkdtempSync(join(tmpdir(), 'fk-ssh-'))
after(() => rmSync(scratch, { recursive: true, force: true }))

const [one, two] = [
  'ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGPKvGfuR3ENMlkBDVdiN1cgyO9I6mjvMIs0cHO5XpGl',
  'ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILpro6EE1I4fYrkghnuhspDqrze6GP81Q9zuiPKm5Wpi',
]
let files = 0
const fileOf = (text: string) => {
  const file = join(scratch, `known_hosts.${files++}`)
  writeFileSync(file, text)
  return file
}

for (const [what, text, found] of [
  ['a plain line', `site.north ${one}\n`, true],
  ['a tab between name and key', `site.north\t${one}\n`, true],
  ['spaces in front', `   site.north ${one}\n`, true],
  ['one of several names', `north,site.north,192.0.2.1 ${one}\n`, true],
  ['a pattern', `site.* ${one}\n`, true],
  ['the key of an authority', `@cert-authority site.* ${one}\n`, true],
  ['a key that is revoked', `@revoked site.north ${one}\n`, false],
  ['a name that a pattern leaves out', `site.*,!site.north ${one}\n`, false],
  ['another name', `site.northern ${one}\n`, false],
  ['a comment', `# site.north ${one}\n`, false],
  ['no end of the last line', `site.south ${two}\nsite.north ${one}`, true],
] as const)
  test(`known_hosts, ${what}: ${found ? 'known' : 'not known'}`, () => {
    assert.equal(known(fileOf(text), 'site.north'), found)
  })

test('known_hosts with hashed names is read as ssh reads it', () => {
  const file = fileOf(`site.north ${one}\nsite.south ${two}\n`)
  execFileSync('ssh-keygen', ['-H', '-f', file], { stdio: 'ignore' })
  assert.doesNotMatch(readFileSync(file, 'utf8'), /site/)
  assert.deepEqual(pinned(file, 'site.south'), [{ line: 2, key: two }])
  assert.equal(known(file, 'site.east'), false)
})

test('a key that is pinned anew replaces that of this name, hashed or not, and no other', () => {
  const file = fileOf(`site.north ${one}\nsite.south ${one}\nsite.* ${one}\nnorth,site.north ${one}\n`)
  pin(file, 'site.north', `${two}\n`)
  assert.equal(
    readFileSync(file, 'utf8'),
    `site.south ${one}\nsite.* ${one}\nnorth,site.north ${one}\nsite.north ${two}\n`,
  )
  const hashed = fileOf(`site.north ${one}\n`)
  execFileSync('ssh-keygen', ['-H', '-f', hashed], { stdio: 'ignore' })
  pin(hashed, 'site.north', two)
  assert.equal(readFileSync(hashed, 'utf8'), `site.north ${two}\n`)
  pin(hashed, 'site.north', two)
  assert.equal(readFileSync(hashed, 'utf8'), `site.north ${two}\n`)
})

test('the settings of a name are those of ssh, and what stands in front is seen', () => {
  const config = fileOf(
    'Host box\n  HostName 192.0.2.7\n  User ada\n  Port 2222\n  ProxyJump gate\nHost *\n  RemoteCommand tmux\n',
  )
  const found = settingsOf('box', ['-F', config])
  assert.deepEqual(
    [found['hostname'], found['user'], found['port'], wayOf(found)],
    ['192.0.2.7', 'ada', '2222', 'gate'],
  )
  assert.equal(wayOf(settingsOf('other', ['-F', config])), undefined)
  assert.deepEqual(settingsOf('box', ['-F', fileOf('Nonsense yes\n')]), {})
})

test('what a person may like at a prompt is set aside, and only what this ssh knows', () => {
  const config = fileOf('Host *\n  RemoteCommand tmux\n  LogLevel QUIET\n  KnownHostsCommand /bin/true\n')
  const options = settledOptions(settingsOf('box', ['-F', config]))
  for (const option of [
    'RemoteCommand=none',
    'LogLevel=ERROR',
    'UpdateHostKeys=no',
    'KnownHostsCommand=none',
  ])
    assert.ok(options.includes(option), `${option} in ${options.join(' ')}`)
  execFileSync('ssh', ['-G', '-F', config, ...options.flatMap((one) => ['-o', one]), 'box'])
  assert.deepEqual(settledOptions({}), [])
})

test('sockets lie in a short path, wherever TMPDIR is', (t) => {
  const before = process.env['TMPDIR']
  t.after(() => {
    if (before === undefined) delete process.env['TMPDIR']
    else process.env['TMPDIR'] = before
  })
  const long = join(scratch, 'x'.repeat(106))
  mkdirSync(long)
  for (const dir of [long, join(scratch, 'is-not-there')]) {
    process.env['TMPDIR'] = dir
    const made = socketDir() ?? ''
    assert.match(made, /^\/tmp\/fk-/)
    rmSync(made, { recursive: true })
  }
})
