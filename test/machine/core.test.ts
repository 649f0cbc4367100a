import assert from 'node:assert/strict'
import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { type Kit, differences, node, root } from './kit.ts'
import { left, printOf, runPrinted, sameLeft } from './printed.ts'

const page = 'test/fixtures/pages/50-try.ts'

/** What a run that does nothing leaves alone: services as they started, and every file of /etc. */
const moved = `systemctl show --property=InvocationID ssh try
cut -d' ' -f22 /proc/$(systemctl show --property=MainPID --value try)/stat
find /etc -newer /etc/try/one.conf | sort`

describe('a page on a machine', () => {
  let kit: Kit & { end(): Promise<void> }
  let untouched: string
  before(async () => {
    kit = await node(undefined, 'core')
    untouched = await kit.digest()
  })
  after(() => kit.end())

  test('a plan shows what would change, changes nothing, and ends with 2', async () => {
    const { code, text } = await kit.page(page, 'plan')
    assert.equal(code, 2)
    assert.match(text, /^change +1\/12 the directory is there$/m)
    assert.match(text, /^\s+\+a = 1$/m)
    assert.deepEqual(differences(untouched, await kit.digest()), [])
  })

  test('without a mode and without a terminal it only plans', async () => {
    assert.equal((await kit.page(page)).code, 2)
    assert.deepEqual(differences(untouched, await kit.digest()), [])
  })

  test('verify on an untouched machine says in one line that the page was never applied', async () => {
    const { code, text } = await kit.page(page, 'verify')
    assert.equal(code, 2)
    assert.match(text, /50-try: not built, it was never applied here\n +next: {2}\.\/task try apply$/m)
    assert.doesNotMatch(text, /failed/)
  })

  test('apply makes it so', async () => {
    const { code, text } = await kit.page(page, 'apply')
    assert.equal(code, 0, text)
    assert.match(text, /50-try: 2 steps hold, 10 changed, 2 of 2 controls hold/)
    assert.equal((await kit.root('cat /etc/try/secret')).stdout, 'hunter2')
    assert.equal(
      (await kit.root('stat -c "%a %U" /etc/try/secret /usr/local/lib/try.conf')).stdout,
      '600 root\n600 root\n',
    )
  })

  test('verify holds, and names each control with what was found and where it comes from', async () => {
    const { code, text } = await kit.page(page, 'verify')
    assert.equal(code, 0, text)
    assert.match(text, /ok {7}X02 {2}three tries: maxauthtries 3\n\s+from: sshd_config\(5\)/)
  })

  test('a second apply changes nothing and restarts nothing', async () => {
    const since = (await kit.root(moved)).stdout
    const applied = await kit.digest()
    const { code, text } = await kit.page(page, 'apply')
    assert.equal(code, 0, text)
    assert.match(text, /50-try: 12 steps hold, 2 of 2 controls hold/)
    assert.deepEqual(differences(applied, await kit.digest()), [])
    assert.equal((await kit.root(moved)).stdout, since)
  })

  test('the secret is in no log, record or list of processes, and encrypted on the laptop', async () => {
    const logs = readdirSync(join(kit.state, 'log')).map((f) =>
      readFileSync(join(kit.state, 'log', f), 'utf8'),
    )
    assert.equal(
      logs.some((l) => l.includes('hunter2')),
      false,
    )
    assert.equal(
      (
        await kit.root(
          'grep --recursive --files-with-matches hunter[2] /var/lib/fortress /var/log /run/fortress; true',
        )
      ).stdout,
      '',
    )
    const file = join(kit.state, 'fortress', 'try.age')
    assert.match(readFileSync(file, 'latin1'), /^age-encryption\.org\/v1\n/)
    assert.equal(statSync(file).mode & 0o777, 0o600)
    assert.equal(existsSync(join(kit.state, 'fortress', 'try-copy.age')), true)
  })

  test('drift is seen, and apply mends only that', async () => {
    await kit.root('echo "a = 2" > /etc/try/one.conf')
    const verify = await kit.page(page, 'verify')
    assert.equal(verify.code, 1)
    assert.match(verify.text, /^failed +2\/12 \/etc\/try\/one\.conf is as declared$/m)
    assert.match(verify.text, /^\s+-a = 2\n\s+\+a = 1$/m)
    assert.match((await kit.page(page, 'plan')).text, /^\s+-a = 2\n\s+\+a = 1$/m)
    await kit.root('echo "a = 1" > /etc/try/one.conf && chmod 666 /etc/try/one.conf')
    assert.match(
      (await kit.page(page, 'verify')).text,
      /^\s+mode and owner are 666 root:root, and should be 644 root:root$/m,
    )
    assert.match(
      (await kit.page(page, 'apply')).text,
      /50-try: 11 steps hold, 1 changed, 2 of 2 controls hold/,
    )
  })

  test('--json is one event a line, and the run log has the same', async () => {
    const { text } = await kit.page(page, 'verify', '--json')
    const events = text
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line) as { event: string })
    assert.equal(events.filter((e) => e.event === 'step').length, 12)
    assert.equal(events.filter((e) => e.event === 'control').length, 2)
    assert.equal(events.at(-1)?.event, 'result')
  })

  test('undo restores everything, to the byte', async () => {
    const { code, text } = await kit.page(page, 'undo')
    assert.equal(code, 0, text)
    assert.deepEqual(differences(untouched, await kit.digest()), [])
    assert.equal(
      (
        await kit.root(
          'ls /usr/local/lib/try.conf /usr/local/lib/systemd /var/lib/fortress/pages 2>&1 | grep -v "No such"; true',
        )
      ).stdout,
      '',
    )
    assert.match((await kit.page(page, 'undo')).text, /there is nothing of it on this machine/)
  })

  test('what somebody changed after a page is kept aside when the page is undone', async () => {
    await kit.page(page, 'apply')
    await kit.root('echo "a = 3" > /etc/try/one.conf')
    const { code, text } = await kit.page(page, 'undo')
    assert.equal(code, 0, text)
    assert.match(text, /changed by somebody else since, kept in .*changed-since\.tar: \/etc\/try\/one\.conf/)
    assert.equal(
      (await kit.root('tar -xOf /var/lib/fortress/aside/*/changed-since.tar etc/try/one.conf')).stdout,
      'a = 3\n',
    )
    assert.deepEqual(differences(untouched, await kit.digest()), [])
  })

  test('a page that found everything done has been applied: drift is a failure, and undo leaves what it found', async () => {
    const found = 'test/fixtures/pages/51-found.ts'
    await kit.root('mkdir /etc/found')
    assert.equal((await kit.page(found, 'apply')).code, 0)
    await kit.root('rmdir /etc/found')
    const { code, text } = await kit.page(found, 'verify')
    assert.equal(code, 1, text)
    assert.match(text, /^failed +1\/1 the directory \/etc\/found is there$/m)
    await kit.root('mkdir /etc/found')
    assert.equal((await kit.page(found, 'undo')).code, 0)
    await kit.root('rmdir /etc/found')
    assert.deepEqual(differences(untouched, await kit.digest()), [])
  })

  test('the printed bash leaves the same as apply', async () => {
    const twin = await node(undefined, 'core-print')
    try {
      assert.equal((await kit.page(page, 'apply')).code, 0)
      await runPrinted(twin, await printOf(twin, page), { secrets: { try: 'hunter2' } })
      sameLeft(await left(kit), await left(twin))
      assert.equal((await twin.root('cat /root/fortress-saved/try-copy')).stdout, 'a = 1\n')
    } finally {
      await twin.end()
    }
  })
})

test('pages have no path that leads out of the checkout', () => assert.ok(existsSync(join(root, page))))
