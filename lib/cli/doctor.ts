// Is everything here and there that the pages will need? One line for each thing, with the remedy; nothing is changed.
import { execFileSync, spawnSync } from 'node:child_process'
import { existsSync, readdirSync, statfsSync, statSync } from 'node:fs'
import { dirname } from 'node:path'
import type { Machine } from '../engine/machine.ts'
import { plain } from '../engine/program.ts'
import { type Report, count, createReport, duration } from '../engine/report.ts'
import { signingKey } from '../engine/signature.ts'
import { onAnswer } from '../engine/wire.ts'
import { Fault } from '../ground/fault.ts'
import { read } from '../ground/root.ts'
import { quote } from '../ground/sh.ts'
import { loadConfig } from '../site/config.ts'
import { type Placed, machinesFor } from '../site/machines.ts'
import type { Config } from '../site/model.ts'
import { talosctlHelp } from '../vm/talos.ts'
import { flags } from './flags.ts'
import { connectTo } from './pages.ts'
import type { Call } from './taskfile.ts'

/** One thing that was looked at. `bad`: pages will fail; `warn`: they will work, and somebody should know. */
export interface Finding {
  subject: string
  state: 'ok' | 'warn' | 'bad' | 'n/a'
  found: string
  /** What to do about it. */
  remedy?: string
}

/** Looks at the laptop, and at every machine of the site when FK_HOST is set. Resolves to 1 when something is bad, else 0. */
export async function doctor(call: Call): Promise<number> {
  const given = flags(call, [], ['json', 'verbose', 'site'])
  const config = loadConfig(given.site === undefined ? {} : { site: given.site })
  const report = createReport({ json: given.json, verbose: given.verbose, tty: call.live })
  let bad = false
  const tell = (of: string, finding: Finding) => {
    bad ||= finding.state === 'bad'
    report.finding({ of, ...finding })
  }
  for (const finding of await laptop(config)) tell('this laptop', finding)
  if (config.env.FK_HOST === undefined)
    tell('the machine', {
      subject: 'machine',
      state: 'n/a',
      found: 'FK_HOST is not set, so only this laptop was looked at',
      remedy: 'FK_HOST=admin@192.0.2.10 ./task doctor looks at the machine too',
    })
  else
    for (const spec of machinesFor(config, 'host'))
      for (const finding of await machine(config, spec, report, given.json)) tell(spec.name, finding)
  report.close()
  return bad ? 1 : 0
}

// ─── the laptop ──────────────────────────────────────────────────────────────────────────────────────────────────────

interface Tool {
  name: string
  for: string
  /** Debian's name of the package. */
  from: string
  must: boolean
}

const tools: Tool[] = [
  { name: 'ssh', for: 'reaches the machines', from: 'openssh-client', must: true },
  { name: 'gpg', for: 'reads the keys that sign downloads', from: 'gnupg', must: true },
  { name: 'gpgv', for: 'checks the signatures of downloads', from: 'gpgv', must: true },
  { name: 'wg-quick', for: 'brings the tunnel up', from: 'wireguard-tools', must: false },
]

const DAY = 86_400_000
/** From here on it is said that something expires. */
const SOON = 60 * DAY

/** What can be seen without a machine. `path` is where programs are looked for; `now` is the time, in milliseconds. */
export async function laptop(
  { env, pins }: Pick<Config, 'env' | 'pins'>,
  {
    path,
    now = Date.now(),
    version = process.versions.node,
  }: { path?: string; now?: number; version?: string } = {},
): Promise<Finding[]> {
  const has = (name: string) =>
    spawnSync('/bin/sh', ['-c', 'command -v "$1"', 'sh', name], {
      env: { ...process.env, ...(path === undefined ? {} : { PATH: path }) },
    }).status === 0
  const findings: Finding[] = [node(version)]
  for (const tool of tools)
    findings.push(
      has(tool.name)
        ? { subject: tool.name, state: 'ok', found: tool.for }
        : {
            subject: tool.name,
            state: tool.must ? 'bad' : 'warn',
            found: `is not installed; it ${tool.for}`,
            remedy: `apt install ${tool.from}, or what your system calls it`,
          },
    )
  if (env.FK_NODE_OS === 'talos') findings.push(talosctl(pins, has('talosctl'), path))
  findings.push(sshKey(env), identity(env), room(env.FK_DOWNLOAD_DIR))
  if (env.FK_SSH_KEY !== undefined && existsSync(`${env.FK_SSH_KEY}-cert.pub`) && has('ssh-keygen'))
    findings.push(certificate(`${env.FK_SSH_KEY}-cert.pub`, now))
  for (const [name, { signature, unproven }] of Object.entries(pins)) {
    if (signature?.kind === 'gpg' && has('gpg')) findings.push(await signer(name, signature.key, env, now))
    if (unproven !== undefined && name === env.FK_NODE_OS)
      findings.push({
        subject: name,
        state: 'bad',
        found: 'nothing proves its image, so it is not fetched',
        remedy: `in config/versions.yaml: ${unproven}`,
      })
  }
  return findings
}

/** It makes the secrets of a cluster, which any version of the same minor does alike. */
function talosctl(pins: Config['pins'], there: boolean, path: string | undefined): Finding {
  const subject = 'talosctl'
  const remedy = talosctlHelp(pins).replaceAll('\n', ' ')
  if (!there)
    return { subject, state: 'bad', found: 'is not installed; it makes the secrets of Talos', remedy }
  const wanted = pins['talosctl']?.version ?? ''
  const said = spawnSync('talosctl', ['version', '--client', '--short'], {
    encoding: 'utf8',
    timeout: 10_000,
    env: { ...process.env, ...(path === undefined ? {} : { PATH: path }) },
  })
  const found = /v\d+\.\d+\.\d+\S*/.exec(said.stdout ?? '')?.[0] ?? 'of a version that it does not tell'
  const minor = (version: string) => version.split('.', 2).join('.')
  return minor(found) === minor(wanted)
    ? { subject, state: 'ok', found: `${found}; it makes the secrets of Talos` }
    : { subject, state: 'warn', found: `${found}; ${wanted} is pinned`, remedy }
}

function node(version: string): Finding {
  const [major = 0, minor = 0] = version.split('.').map(Number)
  return major > 20 || (major === 20 && minor >= 19)
    ? { subject: 'node', state: 'ok', found: version }
    : { subject: 'node', state: 'bad', found: `${version} is too old`, remedy: 'install Node 20.19 or newer' }
}

function sshKey({ FK_SSH_KEY, FK_HOST }: Config['env']): Finding {
  const subject = 'ssh key'
  if (FK_HOST === 'local' || FK_HOST === 'lab')
    return { subject, state: 'n/a', found: `FK_HOST=${FK_HOST} needs none of yours` }
  if (FK_SSH_KEY !== undefined) return { subject, state: 'ok', found: FK_SSH_KEY }
  try {
    const keys = execFileSync('ssh-add', ['-l'], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] })
    return { subject, state: 'ok', found: `the agent holds ${keys.trim().split('\n').length}` }
  } catch {
    return {
      subject,
      state: 'warn',
      found: 'FK_SSH_KEY is not set and no agent holds a key: ~/.ssh/config decides',
      remedy: 'FK_SSH_KEY=~/.ssh/id_ed25519, or ssh-add',
    }
  }
}

function identity({ FK_AGE_IDENTITY, FK_STATE_DIR }: Config['env']): Finding {
  const subject = 'identity'
  const stored = secretsIn(FK_STATE_DIR)
  if (!existsSync(FK_AGE_IDENTITY))
    return stored === 0
      ? { subject, state: 'n/a', found: 'there are no secrets yet; it is made with the first' }
      : {
          subject,
          state: 'bad',
          found: `${FK_AGE_IDENTITY} is not there, and ${count(stored, 'secret', 'was', 'were')} encrypted for it`,
          remedy: 'restore it from your backup, or name the right one in FK_AGE_IDENTITY',
        }
  if (statSync(FK_AGE_IDENTITY).mode & 0o077)
    return {
      subject,
      state: 'bad',
      found: `others can read ${FK_AGE_IDENTITY}`,
      remedy: `chmod 600 ${FK_AGE_IDENTITY}`,
    }
  return {
    subject,
    state: 'ok',
    found: `${FK_AGE_IDENTITY} opens ${count(stored, 'secret')}; is there a backup of it?`,
  }
}

function secretsIn(dir: string): number {
  try {
    return readdirSync(dir, { recursive: true, encoding: 'utf8' }).filter((name) => name.endsWith('.age'))
      .length
  } catch {
    return 0 // nothing was stored yet
  }
}

function room(dir: string): Finding {
  let at = dir
  while (!existsSync(at)) at = dirname(at)
  const { bavail, bsize } = statfsSync(at)
  const gib = Math.floor((bavail * bsize) / 2 ** 30)
  return gib >= 2
    ? { subject: 'room', state: 'ok', found: `${gib} GiB for downloads` }
    : {
        subject: 'room',
        state: 'warn',
        found: `${gib} GiB for downloads in ${at}`,
        remedy: 'make room, or name another place in FK_DOWNLOAD_DIR',
      }
}

/** How long something is good for. */
function expiry(subject: string, what: string, until: number, now: number, remedy: string): Finding {
  if (until === Infinity) return { subject, state: 'ok', found: `${what} does not expire` }
  const day = Number.isFinite(until) ? new Date(until).toISOString().slice(0, 10) : ''
  if (until <= now)
    return {
      subject,
      state: 'bad',
      found: day === '' ? `${what} cannot be used` : `${what} expired on ${day}`,
      remedy,
    }
  const days = Math.floor((until - now) / DAY)
  return until - now < SOON
    ? { subject, state: 'warn', found: `${what} expires in ${days} days, on ${day}`, remedy }
    : { subject, state: 'ok', found: `${what} is good until ${day}` }
}

async function signer(
  name: string,
  key: string,
  { FK_DOWNLOAD_DIR }: Config['env'],
  now: number,
): Promise<Finding> {
  const found = await signingKey(FK_DOWNLOAD_DIR, key)
  const what = `the key that signs ${name} (${key.slice(-16)})`
  return found === undefined
    ? { subject: 'signature', state: 'n/a', found: `${what} was not fetched yet` }
    : expiry(
        'signature',
        what,
        found.until,
        now,
        `pin a newer version of ${name}; its key is fetched with it`,
      )
}

function certificate(file: string, now: number): Finding {
  const said = spawnSync('ssh-keygen', ['-L', '-f', file], {
    encoding: 'utf8',
    env: { ...process.env, TZ: 'UTC' },
  }).stdout
  const to = / to (\S+)$/m.exec(said.match(/^\s*Valid: .*$/m)?.[0] ?? '')?.[1]
  const until = to === undefined ? Infinity : Date.parse(`${to}Z`)
  return expiry('ssh key', `its certificate ${file}`, until, now, 'have it signed again')
}

// ─── a machine ───────────────────────────────────────────────────────────────────────────────────────────────────────

async function machine(config: Config, spec: Placed, report: Report, json: boolean): Promise<Finding[]> {
  const terminal = process.stdin.isTTY === true && process.stdout.isTTY === true && !json
  let there: Machine
  try {
    there = await connectTo(config, spec, terminal, report)
  } catch (error) {
    if (!(error instanceof Fault)) throw error
    return [
      {
        subject: 'reach',
        state: 'bad',
        found: [error.message, error.said?.trim().split('\n').at(-1)].filter(Boolean).join(': '),
        ...(error.next === undefined ? {} : { remedy: error.next.replaceAll('\n', ' ') }),
      },
    ]
  }
  try {
    return [...reached(there, spec), ...(await examine(there, config, spec))]
  } finally {
    await there.close()
  }
}

function reached({ label, facts: { os, arch, model } }: Machine, spec: Placed): Finding[] {
  const is = `${os}, ${arch}${model ? `, ${model}` : ''}`
  const fits = os === spec.os && arch === spec.arch
  return [
    { subject: 'reach', state: 'ok', found: `${label} answers` },
    {
      subject: 'system',
      state: fits ? 'ok' : 'warn',
      found: fits ? is : `${is}; the site document says ${spec.os}, ${spec.arch}`,
      ...(fits ? {} : { remedy: `correct the entry ${spec.name} in config/sites, or install ${spec.os}` }),
    },
  ]
}

/** The words that lib/cli/doctor.sh is told about a machine: what the site needs of it. */
export function needs({ env, site }: Pick<Config, 'env' | 'site'>, spec: Placed): string {
  const role = spec.roles.includes('node')
    ? 'metal'
    : `vm ${env.FK_VM_RAM_MB} ${env.FK_VM_VCPUS} ${env.FK_VM_DISK_GB}`
  return `FK_ROLE=${quote(role)} FK_DISK=${quote(site.vault.disk)} FK_TPM=${site.vault.tpm2_pcrs.length > 0 ? 'yes' : 'no'}`
}

/** Everything that a machine says of itself, in one round trip. */
async function examine(there: Machine, config: Config, spec: Placed): Promise<Finding[]> {
  const findings: Finding[] = []
  const shell = read('lib/cli/doctor.sh')
  const sent = Date.now()
  const outcome = await there.run(
    await plain('doctor', [needs(config, spec), shell, 'doctor']),
    onAnswer((values, name) => {
      const { subject = '', state, found = '', remedy, now = '', synchronised = '' } = values
      if (name === 'clock') findings.push(clock(Number(now), sent, Date.now(), synchronised))
      else
        findings.push({
          subject,
          state: state as Finding['state'],
          found,
          ...(remedy ? { remedy } : {}),
        })
    }),
  )
  if (!outcome.finished)
    findings.push({
      subject: 'reach',
      state: 'bad',
      found: `it stopped answering: ${outcome.stderr.trim() || `it ended with ${outcome.code}`}`,
      remedy: 'run it again',
    })
  return findings
}

/** A clock that was read between `sent` and `received` by ours; all in milliseconds. */
export function clock(read: number, sent: number, received: number, synchronised: string): Finding {
  const off = read < sent ? read - sent : read > received ? read - received : 0
  const seconds = Math.abs(off) / 1000
  const found = `${seconds < 1 ? 'as here' : `${duration(seconds)} ${off < 0 ? 'behind' : 'ahead of'} this laptop`}${synchronised === 'no' ? ', not synchronised' : ''}`
  if (seconds >= 300)
    return {
      subject: 'clock',
      state: 'bad',
      found,
      remedy: 'set it (timedatectl set-time), or this laptop: certificates and signatures are judged by it',
    }
  return seconds >= 5 || synchronised === 'no'
    ? {
        subject: 'clock',
        state: 'warn',
        found,
        remedy: 'host-harden installs chrony; may it reach its time servers?',
      }
    : { subject: 'clock', state: 'ok', found }
}
