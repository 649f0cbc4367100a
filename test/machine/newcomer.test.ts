// The first evening of a newcomer: the commands of README.md, in its order, typed at a terminal, in a clone of this repository
// with a home directory that nothing was ever in, against a Debian that nothing was ever done to.
import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import {
  appendFileSync,
  cpSync,
  existsSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  rmSync,
  symlinkSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { type Terminal, terminal } from '../terminal.ts'
import { type Kit, differences, node, root } from './kit.ts'
import { type Laptop, laptop, noLaptop } from './laptop.ts'

/** The commands of a block of README.md, by a line that it begins with. */
function commandsOf(readme: string, first: string): string[] {
  const lines = readme.split('\n')
  const at = lines.findIndex((line) => line.startsWith(`    ${first}`))
  const end = lines.findIndex((line, i) => i > at && !line.startsWith('    '))
  return lines.slice(at, end).map((line) => line.trim().replace(/ +#.*$/, ''))
}

/** What a screen calls failed. The base image of the nodes does: its makers' server is not on the test's network. */
const reds = (text: string) =>
  (text.match(/^ *(failed|bad) .*$/gm) ?? []).filter((line) => !/base image|failed +11/.test(line))

describe('a first evening, by the words of the README', { skip: noLaptop }, () => {
  let kit: Kit & { end(): Promise<void> }
  let person: Laptop
  let home: string
  let clone: string
  let untouched: string
  let commands: string[]
  const asked: string[] = []

  /** Types a command as the README has it, and answers what is asked: the password of sudo, and `answers`. */
  async function type(
    command: string,
    answers: [RegExp, string | ((screen: Terminal) => Promise<void>)][] = [],
  ) {
    const screen = terminal(['bash', '-c', command], {
      cwd: clone,
      env: { PATH: process.env['PATH'], HOME: home, LANG: 'C.UTF-8' },
      namespace: 'fk-laptop-231',
    })
    const password: [RegExp, string] = [/Password for sudo on .*: $/, kit.machine.password]
    const all = [password, ...answers]
    const any = new RegExp(all.map(([pattern]) => pattern.source).join('|'), 'm')
    for (;;) {
      const came = await screen.until(any, 600).catch((error: Error) => {
        if (!error.message.startsWith('ended with ')) throw error
      })
      const answer = came === undefined ? undefined : all.find(([pattern]) => pattern.test(came))?.[1]
      if (came === undefined || answer === undefined) break
      if (typeof answer === 'string') {
        if (answer !== kit.machine.password) asked.push(came)
        screen.type(answer)
      } else await answer(screen)
    }
    return { code: await screen.ended, text: screen.text() }
  }

  /** Does what the screen says, once the file is there: the plan above the question names it, too. */
  async function bringUp() {
    const file = join(clone, 'secrets/fortress/laptop.conf')
    if (existsSync(file)) await person.up(file)
  }

  before(async () => {
    kit = await node(undefined, 'newcomer', { net: true })
    person = await laptop(231)
    // The kernel of a container may lack WireGuard, and it must not load modules.
    await kit.root('apt-get update && apt-get install --yes --no-install-recommends wireguard-go')
    untouched = await kit.digest()
    home = mkdtempSync(join(tmpdir(), 'fk newcomer '))
    clone = join(home, 'fortress-kit')
    execFileSync('git', ['clone', '--quiet', root, clone])
    // What is not committed yet is tried, too.
    const changed = execFileSync('git', ['ls-files', '--modified', '--others', '--exclude-standard'], {
      cwd: root,
      encoding: 'utf8',
    })
    for (const file of changed.split('\n').filter((name) => name !== '' && existsSync(join(root, name))))
      cpSync(join(root, file), join(clone, file), { force: true })
    symlinkSync(join(root, 'node_modules'), join(clone, 'node_modules'))
    commands = commandsOf(readFileSync(join(clone, 'README.md'), 'utf8'), 'cp .env.example .env')
  })
  after(async () => {
    await person?.end()
    await kit?.end()
    rmSync(home, { recursive: true, force: true })
  })

  test('the README names the commands of the evening, in this order', () => {
    const evening = [
      'cp .env.example .env',
      './task doctor',
      './task trust',
      './task plan-all',
      './task build-all',
    ]
    assert.deepEqual(commands.slice(0, 5), evening)
    for (const command of ['./task verify-all', './task status', './task undo-all'])
      assert.ok(commands.includes(command), command)
  })

  test('doctor says that the host key is not known, asks nothing, and trust shows it', async () => {
    await type('cp .env.example .env')
    appendFileSync(
      join(clone, '.env'),
      `FK_HOST=admin@${kit.machine.host}\nFK_SSH_KEY=${kit.machine.identityFile}\n`,
    )
    const doctor = await type('./task doctor')
    assert.match(doctor.text, /is not known yet/)
    assert.match(doctor.text, /ssh-keygen -lf/)
    const trust = await type('./task trust', [[/Is it the same\? \[y\/N\] $/, 'y']])
    assert.equal(trust.code, 0, trust.text)
  })

  test('the plan is one screen without anything red, and makes no identity', async () => {
    const { code, text } = await type('./task plan-all')
    assert.equal(code, 2, text)
    assert.deepEqual(reds(text), [], text)
    const lines = text.split('\n').filter((line) => !line.includes('running '))
    // A line for each page, and what is to be known before.
    const pages = readdirSync(join(root, 'scripts')).length
    assert.ok(
      lines.length <= pages + 34 &&
        lines.every((line) => line.length <= 80 || /does not have yet/.test(line)),
      text,
    )
    assert.ok(!existsSync(join(home, '.config/fortress-kit/age-identity.txt')))
    assert.doesNotMatch(text, /UNKNOWN port/)
  })

  test('one command builds what can run there, and waits for the tunnel', async () => {
    const { code, text } = await type('./task build-all', [
      [/Apply \d+ pages? to .*\? \[y\/N\] $/, 'y'],
      [/Copied\? \[y\/N\] $/, 'y'],
      [/sudo wg-quick up \S+\.conf/, bringUp],
    ])
    assert.equal(code, 1, text) // the container has no KVM
    for (const page of ['00-host-harden', '05-host-wireguard', '06-host-firewall'])
      assert.match(text, new RegExp(`^${page}: .*\\d+ changed`, 'm'))
    assert.deepEqual(reds(text), [], text)
  })

  test('status is green for what runs there, and says of the rest that it is not built', async () => {
    const verified = await type('./task verify-all')
    assert.deepEqual(reds(verified.text), [], verified.text)
    const { text } = await type('./task status')
    assert.match(text, /^L0 host +6\/6 +holds/m)
    assert.match(text, /^L1 node +0\/6 +(not built|failed: 11-vm-image)/m)
    assert.match(text, /^L2 cluster +0\/\d+ +not built/m)
    assert.doesNotMatch(text, /has not come to its end/)
  })

  test('undo-all leaves the machine as it was, to the byte, and nothing of ours', async () => {
    const { code, text } = await type('./task undo-all', [[/to go on: $/, 'fortress']])
    assert.equal(code, 0, text)
    await person.down()
    assert.deepEqual(differences(untouched, await kit.digest()), [])
    assert.equal((await kit.root('find /var/lib/fortress -mindepth 1 2> /dev/null')).stdout, '')
  })

  test('three questions were asked, and one before all was undone, besides the password of sudo', () => {
    const questions = [/Is it the same/, /Copied/, /Apply \d+ pages/, /to go on/]
    assert.equal(asked.length, questions.length, asked.join('\n'))
    for (const question of questions)
      assert.ok(
        asked.some((one) => question.test(one)),
        String(question),
      )
  })
})
