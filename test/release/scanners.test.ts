// `FK_HOST=lab ./task build-all` as the README says it, and what two scanners say of the machine before and after: Lynis, and
// OpenSCAP with the newest content that Debian has for its own CIS profiles.
import assert from 'node:assert/strict'
import { execFileSync, spawn } from 'node:child_process'
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { labFind } from '../../lib/lab/lab.ts'
import { type Said, root, said, services } from '../machine/kit.ts'

interface Scan {
  pass: string[]
  fail: string[]
}

/** `A pass, B fail` of the rules that `of` has. */
const count = ({ pass, fail }: Scan, of: (rule: string) => boolean = () => true): string =>
  `${pass.filter(of).length} pass, ${fail.filter(of).length} fail`

describe('FK_HOST=lab task build-all, scanned before and after', { skip: notRoot() }, () => {
  const dir = mkdtempSync(join(tmpdir(), 'fk-scan-'))
  const env = {
    FK_HOST: 'lab',
    FK_STATE_DIR: join(dir, 'state'),
    FK_LOG_DIR: join(dir, 'log'),
    FK_DEADMAN_SECONDS: '600',
  }
  const begin = (...words: string[]) =>
    spawn(process.execPath, ['bin/task.cjs', ...words], {
      cwd: root,
      env: { ...process.env, FK_AGE_IDENTITY: join(dir, 'identity.txt'), ...env },
      stdio: 'pipe',
    })
  const task = (...words: string[]): Promise<Said> => {
    const child = begin(...words)
    child.stdin.end()
    return said(child)
  }
  /** Bash as root on the machine, by the way that is open now. */
  const asRoot = async (command: string, input: string | Buffer = ''): Promise<string> => {
    const child = begin('lab', 'ssh', `sudo --stdin --prompt= -- bash -c '${command}'`)
    let text = ''
    child.stdout.setEncoding('utf8').on('data', (part: string) => (text += part))
    child.stdin.on('error', () => {})
    child.stdin.write(`${(await labFind('lab'))?.password}\n`)
    child.stdin.end(input)
    const code = await new Promise((resolve, reject) => child.on('close', resolve).on('error', reject))
    assert.equal(code, 0, `${command}: ${text}`)
    return text
  }
  /**
   * A scan, as a unit of its own: OpenSCAP asks systemd about every unit so often that on an emulated machine a log-in can wait for
   * half a minute behind it, and a connection may be lost.
   */
  const oscap = async (profile: string, ...more: string[]): Promise<Map<string, string>> => {
    const words = [...more, '--profile', `xccdf_org.ssgproject.content_profile_${profile}`, 'ds.xml']
    const scan = `oscap xccdf eval ${words.join(' ')} > scan.out 2> scan.err; echo "ended $?" > scan.state`
    await asRoot(
      `rm --force /root/scan.state; systemd-run --quiet --working-directory=/root bash -c "${scan.replaceAll(/["$]/g, '\\$&')}"`,
    )
    const until = Date.now() + 3_600_000
    for (let state = ''; !state.includes('ended');) {
      assert.ok(Date.now() < until, `oscap has not ended: ${state}`)
      await new Promise((resolve) => setTimeout(resolve, 15_000))
      state = await asRoot('cat /root/scan.state 2> /dev/null || echo running').catch(() => 'no answer')
    }
    const text = await asRoot('cat /root/scan.state /root/scan.err /root/scan.out')
    assert.match(text, /^ended [02]$/m)
    // oscap ends the names of its fields with a carriage return.
    const all = [...text.replaceAll('\r', '').matchAll(/^Rule\t\S*_rule_(\S+)\nResult\t(\S+)$/gm)]
    const results = new Map(all.map(([, rule, result]) => [rule as string, result as string]))
    assert.ok(results.size > 0, text.slice(-500))
    return results
  }
  /** All of CIS level 2, which has level 1 in it. */
  const level2 = async (): Promise<Scan> => {
    const results = [...(await oscap('cis_level2_server'))]
    const with_ = (result: string) => results.filter(([, is]) => is === result).map(([rule]) => rule)
    const scan = { pass: with_('pass'), fail: with_('fail') }
    // Content for another release is "not applicable" from end to end, and ends with 0.
    assert.ok(scan.pass.length + scan.fail.length > 200, `${scan.pass.length} pass, ${scan.fail.length} fail`)
    assert.deepEqual([...with_('error'), ...with_('unknown')], [])
    return scan
  }
  const lynis = async (): Promise<{ index: number; warnings: string[]; suggestions: string[] }> => {
    const text = await asRoot(
      'lynis audit system --quick --no-colors > /root/lynis.out 2>&1; cat /var/log/lynis-report.dat',
    )
    const lines = (kind: string) =>
      [...text.matchAll(new RegExp(`^${kind}\\[\\]=([^|]*)\\|`, 'gm'))].map(([, id]) => id as string)
    return {
      index: Number(/^hardening_index=(\d+)$/m.exec(text)?.[1]),
      warnings: lines('warning'),
      suggestions: lines('suggestion'),
    }
  }

  let failedBefore: string[] = []
  // Level 1 is a part of level 2, with the same values: one run tells both.
  let inLevel1: (rule: string) => boolean

  before(async () => {
    assert.equal(await labFind('lab'), undefined, 'the lab is up for somebody: ./task lab down')
    const up = await task('lab', 'up', '--with', 'lynis,openscap-scanner')
    assert.equal(up.code, 0, up.text)
    const stream = readFileSync(content(dir), 'utf8')
    await asRoot('umask 077; cat > /root/ds.xml', stream)
    const [level1, level2] = [1, 2].map((level) => rulesOf(stream, `cis_level${level}_server`))
    assert.ok(level1 && level2 && level1.size > 300 && [...level1].every((rule) => level2.has(rule)))
    inLevel1 = (rule) => level1.has(rule)
  })
  after(async () => {
    await task('lab', 'down')
    rmSync(dir, { recursive: true, force: true })
  })

  test('before', async (t) => {
    const scan = await level2()
    const { index } = await lynis()
    failedBefore = scan.fail
    t.diagnostic(`CIS level 1: ${count(scan, inLevel1)}; level 2: ${count(scan)}`)
    t.diagnostic(`Lynis: ${index}`)
    assert.ok(index < 90)
    assert.ok(scan.fail.length > 50)
  })

  test('one command builds it, and what waits for the reboot is said', async (t) => {
    const begun = Date.now()
    const { code, text } = await task('build-all')
    t.diagnostic(`${Math.round((Date.now() - begun) / 1000)} s`)
    assert.equal(code, 2, text)
  })

  test('after a reboot every control holds', async (t) => {
    const boot = () => asRoot('cat /proc/sys/kernel/random/boot_id').catch(() => '')
    const first = await boot()
    await asRoot('systemctl reboot').catch(() => '') // the connection may end with it
    for (let now = first, until = Date.now() + 600_000; now === first || now === ''; now = await boot()) {
      assert.ok(Date.now() < until, 'it did not come back')
      await new Promise((resolve) => setTimeout(resolve, 2000))
    }
    const { code, text } = await task('verify-all', '--verbose')
    const summaries = text.split('\n').filter((line) => / of \d+ controls hold/.test(line))
    for (const line of summaries) {
      t.diagnostic(line)
      const [, hold, total] = /(\d+) of (\d+) controls hold/.exec(line) ?? []
      const waived = Number(/(\d+) waived/.exec(line)?.[1] ?? 0)
      assert.equal(
        Number(hold) + waived,
        Number(total),
        text
          .split('\n')
          .filter((l) => /failed/.test(l))
          .join('\n'),
      )
    }
    assert.equal(summaries.length, 4)
    assert.equal(code, 0, text)
  })

  test('a second apply changes nothing and restarts nothing', async () => {
    const since = await asRoot(services)
    const { code, text } = await task('build-all')
    assert.equal(code, 0, text)
    assert.doesNotMatch(text, /^changed/m)
    assert.equal(await asRoot(services), since)
  })

  test('after', async (t) => {
    const site = (format: string) =>
      execFileSync(process.execPath, ['bin/task.cjs', 'waivers', format, '--site', 'lab'], { cwd: root })
    await asRoot('cat > /root/tailoring.xml', site('openscap'))
    await asRoot('cat > /etc/lynis/custom.prf', site('lynis'))
    const scan = await level2()
    const { index, warnings, suggestions } = await lynis()
    t.diagnostic(`CIS level 1: ${count(scan, inLevel1)}; level 2: ${count(scan)}: ${scan.fail.join(' ')}`)
    t.diagnostic(`Lynis: ${index}; warnings ${warnings.join(' ')}; suggestions ${suggestions.join(' ')}`)
    const waived = new Set(
      [
        ...site('openscap')
          .toString()
          .matchAll(/_rule_(\S+)" selected="false"/g),
      ].map(([, rule]) => rule as string),
    )
    const excused = (rule: string) => waived.has(rule)
    // With the waivers and the values of ours: oscap selects nothing that is waived, and asks the rest of what failed once more.
    // A rule that is named on the command line is asked even when it is not selected, so the selection is read from its guide.
    const profile = 'xccdf_org.ssgproject.content_profile_cis_level2_server_fortress'
    const guide = await asRoot(
      `cd /root && oscap xccdf generate guide --tailoring-file tailoring.xml --profile ${profile} ds.xml 2> /dev/null`,
    )
    const selected = new Set(
      [...guide.matchAll(/id="xccdf_org\.ssgproject\.content_rule_([\w-]+)"/g)].map(
        ([, rule]) => rule as string,
      ),
    )
    assert.ok(selected.size > 400)
    assert.deepEqual([...selected].filter(excused), [])
    const values = scan.fail.filter((rule) => !excused(rule))
    const rules = values.flatMap((rule) => ['--rule', `xccdf_org.ssgproject.content_rule_${rule}`])
    const tailored = await oscap('cis_level2_server_fortress', '--tailoring-file', 'tailoring.xml', ...rules)
    assert.deepEqual(
      values.filter((rule) => !selected.has(rule) || tailored.get(rule) !== 'pass'),
      [],
    )
    t.diagnostic(
      `with the waivers: 0 fail; ${values.length} pass with the profile’s variables set to our value: ${values.join(' ')}`,
    )
    assert.ok(index >= 90, `Lynis: ${index}`)
    // A waiver is an excuse: it must stay rare among what failed before.
    const before = failedBefore.filter(excused).length
    t.diagnostic(`${before} of the ${failedBefore.length} rules that failed before are waived`)
    assert.ok(before < 0.15 * failedBefore.length)
  })
})

/** The rules that a profile of the data stream selects. */
function rulesOf(stream: string, profile: string): Set<string> {
  const from = stream.indexOf(`Profile id="xccdf_org.ssgproject.content_profile_${profile}"`)
  const text = stream.slice(from, stream.indexOf('Profile>', from))
  return new Set([...text.matchAll(/_rule_([^"]+)" selected="true"/g)].map(([, rule]) => rule as string))
}

function notRoot(): string | false {
  return process.getuid?.() === 0 ? false : 'it needs root'
}

/** The newest data stream for Debian 13. It is younger than Debian 13: apt fetches it from the next release, signature checked. */
function content(dir: string): string {
  const apt = join(dir, 'apt')
  mkdirSync(join(apt, 'lists/partial'), { recursive: true })
  mkdirSync(join(apt, 'cache/archives/partial'), { recursive: true })
  const uri = /^(?:URIs: |deb (?:\[.*\] )?)(\S+\/debian)\/?(?: |$)/m.exec(
    execFileSync(
      'sh',
      [
        '-c',
        'cat /etc/apt/sources.list.d/*.sources /etc/apt/sources.list.d/*.list /etc/apt/sources.list 2> /dev/null || true',
      ],
      { encoding: 'utf8' },
    ),
  )?.[1]
  assert.ok(uri, 'this computer has no Debian mirror')
  writeFileSync(
    join(apt, 'forky.sources'),
    `Types: deb\nURIs: ${uri}\nSuites: forky\nComponents: main\nSigned-By: /usr/share/keyrings/debian-archive-keyring.gpg\n`,
  )
  const options = [
    `Dir::Etc::SourceList=${apt}/forky.sources`,
    'Dir::Etc::SourceParts=/dev/null',
    `Dir::State::Lists=${apt}/lists`,
    `Dir::Cache=${apt}/cache`,
    'APT::Sandbox::User=root',
  ].flatMap((option) => ['-o', option])
  execFileSync('apt-get', [...options, '--quiet=2', 'update'], { cwd: apt })
  execFileSync('apt-get', [...options, '--quiet=2', 'download', 'ssg-debian'], { cwd: apt })
  execFileSync('sh', ['-c', 'dpkg-deb --extract ssg-debian_*.deb content'], { cwd: apt })
  return join(apt, 'content/usr/share/xml/scap/ssg/content/ssg-debian13-ds.xml')
}
