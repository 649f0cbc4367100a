// What a page leaves on a machine, whichever way it came: by apply from the laptop, or as its printed bash run there.
import assert from 'node:assert/strict'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { secretStore } from '../../lib/ground/secret.ts'
import { quote } from '../../lib/ground/sh.ts'
import { type Kit, differences } from './kit.ts'

/** A machine's own: host keys, names, passwords, caches, and records of runs. */
const own = [
  '^/(etc/(ssh/ssh_host_.*|hostname|hosts|resolv\\.conf|machine-id|g?shadow-?|(passwd|group)-|\\.updated|ld\\.so\\.cache|mtab)',
  'var/lib/fortress/(pages|tx|pending|printed|aside)(/.*)?',
  'usr/local/lib/systemd(/.*)?)$',
].join('|')

/**
 * Bash that prints one line for each thing that a page can leave: files with mode, owner and content, links, enabled and active
 * units, rules of nftables, sysctls. What is a machine's own, what moves by itself, and records of runs are left out.
 */
const script = `
export LC_ALL=C
shopt -s nullglob
places=(/etc /usr/local /opt /var/lib/fortress)
own='${own}'
find "\${places[@]}" -xdev -type f -regextype posix-extended ! -regex "$own" -printf 'file %p %m %U:%G\\n' 2> /dev/null | sort
find "\${places[@]}" -xdev -type f -regextype posix-extended ! -regex "$own" -print0 2> /dev/null |
  sort --zero-terminated | xargs --null --no-run-if-empty sha256sum
find "\${places[@]}" -xdev ! -type f -regextype posix-extended ! -regex "$own" -printf 'entry %p %y %m %U:%G %l\\n' \\
  2> /dev/null | sort
systemctl list-unit-files --no-legend --no-pager | awk '$2 != "transient" { print "unit file", $1, $2 }' | sort
systemctl list-units --all --plain --no-legend --no-pager --type=service,socket,timer,path,mount |
  awk '{ print "unit", $1, $3 }' |
  grep -v -E ' (session-|user|run-|systemd-|apt-|dpkg-|fortress-deadman|ssh@|modprobe@|man-db|e2scrub|logrotate)' |
  grep -v -E ' fortress-(modes|tunnel)[.]service ' | sort # begun by a path and a timer, now and then
sysctl --all 2> /dev/null | grep -v -E '${[
  'random|quota|dentry|inode|file-nr|ns_last_pid|conntrack_count|kernel.pty.nr|max_newidle|aio-nr|sched_domain|cad_pid',
  'perf_event_max_sample_rate|stable_secret|kernel.hostname|\\.eth0\\.|\\.host0\\.',
].join('|')}' | sort
nft --stateless --terse list ruleset 2> /dev/null || true
`

/** What is left on a machine, as text. */
export async function left(kit: Pick<Kit, 'root'>): Promise<string> {
  const { stdout, stderr, code } = await kit.root('bash -s', script)
  assert.equal(code, 0, stderr)
  return stdout
}

/** What a page prints for a member of a site: for the machine of that name where they differ. */
export async function printOf(kit: Pick<Kit, 'page'>, file: string, machine?: string): Promise<string> {
  const { code, text } = await kit.page(
    file,
    'print',
    ...(machine === undefined ? [] : ['--machine', machine]),
  )
  assert.equal(code, 0, text)
  return text
}

interface Given {
  /** Files on the machine's disk, as the printed page wants them: name → content. */
  files?: Record<string, Buffer>
  /** Secrets as the machine gets them, in place of those of the laptop or beside them. */
  secrets?: Record<string, string>
  variables?: Record<string, string>
  words?: string[]
  /** Whose secrets they are. Default: the site that is shipped. */
  site?: string
}

/**
 * Runs a printed page as root on the machine of `kit`, with the secrets of its laptop. Nobody confirms its transactions: they are
 * kept, unless `variables` say something else. A failure is the test's. Returns what it said.
 */
export async function runPrinted(
  kit: Pick<Kit, 'root' | 'state' | 'machine'>,
  text: string,
  { files = {}, secrets = {}, variables = {}, words = [], site = 'fortress' }: Given = {},
): Promise<string> {
  const store = secretStore({ dir: join(kit.state, site), identity: join(kit.state, 'identity.txt') })
  for (const name of store.list()) secrets[name] ??= (await store.get(name)).reveal()
  const written = Object.entries(secrets).map(
    ([name, value]) => `printf %s ${quote(value)} > /root/printed-secrets/${quote(name)}\n`,
  )
  const dirs = 'umask 077 && mkdir --parents /root/printed-secrets /root/printed-files\n'
  const put = await kit.root('bash -s', dirs + written.join(''))
  assert.equal(put.code, 0, put.stderr)
  // Downloads are large: they go by no connection, and so only to containers.
  for (const [name, content] of Object.entries(files))
    writeFileSync(join(kit.machine.dir, 'root/root/printed-files', name), content)
  const given = {
    FK_SECRETS: '/root/printed-secrets',
    FK_FILES: '/root/printed-files',
    FK_KEEP_CHANGES: 'yes',
    ...variables,
  }
  const set = Object.entries(given).map(([name, value]) => `${name}=${quote(value)}`)
  const { code, stdout, stderr } = await kit.root([...set, 'bash -s --', ...words].join(' '), text)
  await kit.root('rm --recursive --force /root/printed-secrets /root/printed-files')
  assert.equal(code, 0, stdout + stderr)
  return stdout
}

/** Two machines, or one at two times, have the same left on them. `but`: lines that may differ. */
export function sameLeft(applied: string, printed: string, but?: RegExp): void {
  const all = differences(applied, printed)
  assert.deepEqual(but ? all.filter((line) => !but.test(line)) : all, [])
}
