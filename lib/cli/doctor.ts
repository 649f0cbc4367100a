// Is everything here and there that the pages will need? One line for each thing, with the remedy; nothing is changed.
import { existsSync, readdirSync, statfsSync, statSync } from 'node:fs'
import { dirname } from 'node:path'
import { type ToolName, howTo, inPath, isCached, missing, pinned, toolNames } from '../component/tools.ts'
import type { Machine } from '../engine/machine.ts'
import { plain } from '../engine/program.ts'
import { type Report, count, duration } from '../engine/report.ts'
import { signingKey } from '../engine/signature.ts'
import { onAnswer } from '../engine/wire.ts'
import { Fault } from '../ground/fault.ts'
import { $ } from '../ground/laptop.ts'
import { read } from '../ground/root.ts'
import { quote } from '../ground/sh.ts'
import {
  type Placed,
  machinesFor,
  guestsOf,
  type Guest,
  isNode,
  isServer,
  vaultSpec,
} from '../site/machines.ts'
import type { Config } from '../site/model.ts'
import { talosctlHelp } from '../vm/talos.ts'
import { abreast, machinesAtOnce } from './abreast.ts'
import { asksPassword, connectTo } from './access.ts'
import type { Call } from './call.ts'
import { withSession } from './session.ts'
import { doctor as table } from './tables.ts'

/** One thing that was checked. `bad`: pages will fail; `warn`: they will work, and it is worth knowing. */
export interface Finding {
  subject: string
  state: 'ok' | 'warn' | 'bad' | 'n/a'
  found: string
  /** What to do about it. */
  remedy?: string
}

/** Checks the laptop, and every host of the site when FK_HOST is set. Resolves to 1 when something is bad, else 0. */
export const doctor = (call: Call): Promise<number> =>
  withSession(call, table, async ({ config, report, terminal }) => {
    const bad: [of: string, subject: string][] = []
    const show = (of: string, findings: Finding[]) => {
      for (const finding of findings) report.finding({ of, ...finding })
      for (const { subject, state } of findings) if (state === 'bad') bad.push([of, subject])
    }
    show('this laptop', await laptop(config))
    if (config.env.FK_HOST === undefined)
      show('the machine', [
        {
          subject: 'machine',
          state: 'n/a',
          found: 'FK_HOST is not set, so only this laptop was checked',
          remedy: 'FK_HOST=admin@192.0.2.10 ./task doctor checks the machine too',
        },
      ])
    else {
      const hosts = machinesFor(config, 'host')
      const width = terminal && asksPassword(config) ? 1 : machinesAtOnce
      const looked = abreast(hosts, (spec) => machine(config, spec, terminal, report), width)
      for (const [i, { name }] of hosts.entries()) show(name, (await looked[i]) ?? [])
    }
    report.note(closing(bad, config.env.FK_HOST !== undefined))
    return bad.length > 0 ? 1 : 0
  })

/** What a page cannot do without, by the subject of a finding. */
const stops: Readonly<Record<string, string>> = {
  account: '00-host-harden',
  apparmor: '00-host-harden',
  disk: '08-host-vault',
  cpu: '10-vm-host',
  gpg: '11-vm-image',
  gpgv: '11-vm-image',
  signature: '11-vm-image',
  talos: '11-vm-image',
  memory: '13-vm-provision',
  talosctl: '14-vm-talos',
  cgroup: '20-k3s-server',
  kubectl: 'every page about the API of the cluster',
  helm: 'every page about the API of the cluster',
  identity: 'every page with a secret',
  clock: 'every download',
  access: 'every page there',
}

/** The last words: what of it stops what, and what comes next. */
export function closing(bad: [of: string, subject: string][], host: boolean): string {
  if (bad.length === 0)
    return host
      ? '\nNothing here stops a page. Next: ./task plan-all'
      : '\nNothing here stops a page. Next: ./task build-all, which is a rehearsal;\n' +
          'then FK_HOST in .env, and ./task doctor again'
  const lines = bad.map(([of, subject]) => `${subject} of ${of} stops ${stops[subject] ?? 'every page'}`)
  return `\n${[...new Set(lines)].join('\n')}\nNext: what its arrow says, and ./task doctor again`
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
  { name: 'wg-quick', for: 'connects the tunnel', from: 'wireguard-tools', must: false },
]

type Programs = ReturnType<typeof programs>

/** Runs programs that are found in `path`; any exit code is an answer. */
const programs = (path: string | undefined) =>
  $({
    nothrow: true,
    timeout: '10s',
    shell: '/bin/bash',
    ...(path === undefined ? {} : { env: { PATH: path } }),
  })

const DAY = 86_400_000
/** From here on it is said that something expires. */
const SOON = 60 * DAY

/** What can be seen without a machine. `path` is where programs are looked for; `now` is the time, in milliseconds. */
export async function laptop(
  { env, pins, site }: Pick<Config, 'env' | 'pins' | 'site'>,
  {
    path,
    now = Date.now(),
    version = process.versions.node,
  }: { path?: string; now?: number; version?: string } = {},
): Promise<Finding[]> {
  const run = programs(path)
  const has = async (name: string) => (await run`command -v ${name}`).exitCode === 0
  const findings: Finding[] = [node(version)]
  for (const tool of tools)
    findings.push(
      (await has(tool.name))
        ? { subject: tool.name, state: 'ok', found: tool.for }
        : {
            subject: tool.name,
            state: tool.must ? 'bad' : 'warn',
            found: `is not installed; it ${tool.for}`,
            remedy: `apt install ${tool.from}, or what your system calls it`,
          },
    )
  const systems = new Set<string>(site.machines.map(({ os }) => os))
  if (site.machines.some(isServer))
    for (const name of toolNames) findings.push(await clusterTool(name, pins, env, path))
  if (systems.has('talos')) findings.push(await talosctl(pins, await has('talosctl'), run))
  findings.push(await sshKey(env), identity(env), room(env.FK_DOWNLOAD_DIR))
  if (env.FK_SSH_KEY !== undefined && existsSync(`${env.FK_SSH_KEY}-cert.pub`) && (await has('ssh-keygen')))
    findings.push(await certificate(`${env.FK_SSH_KEY}-cert.pub`, now))
  for (const [name, { signature, unproven }] of Object.entries(pins)) {
    if (signature?.kind === 'gpg' && (await has('gpg')))
      findings.push(await signer(name, signature.key, env, now))
    if (unproven !== undefined && systems.has(name))
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
async function talosctl(pins: Config['pins'], there: boolean, run: Programs): Promise<Finding> {
  const subject = 'talosctl'
  const remedy = talosctlHelp(pins).replaceAll('\n', ' ')
  if (!there)
    return { subject, state: 'bad', found: 'is not installed; it makes the secrets of Talos', remedy }
  const wanted = pins['talosctl']?.version ?? ''
  const { stdout } = await run`talosctl version --client --short`
  const found = /v\d+\.\d+\.\d+\S*/.exec(stdout)?.[0] ?? 'of an unknown version'
  const minor = (version: string) => version.split('.', 2).join('.')
  return minor(found) === minor(wanted)
    ? { subject, state: 'ok', found: `${found}; it makes the secrets of Talos` }
    : { subject, state: 'warn', found: `${found}; ${wanted} is pinned`, remedy }
}

/** Which kubectl and helm the pages about the API of the cluster use. */
async function clusterTool(
  subject: ToolName,
  pins: Config['pins'],
  { FK_DOWNLOAD_DIR }: Config['env'],
  path: string | undefined,
): Promise<Finding> {
  const found = await inPath(subject, pins, path)
  if (found !== undefined && found.misfit === undefined)
    return { subject, state: 'ok', found: `${found.version}, ${found.path}` }
  const artifact = pinned(subject, pins)
  const why = found === undefined ? '' : `; ${missing(subject, found)}`
  if (artifact === undefined)
    return { subject, state: 'bad', found: missing(subject, found), remedy: howTo(subject, pins) }
  const where = isCached(artifact, FK_DOWNLOAD_DIR) ? 'from the cache' : 'fetched when a page needs it'
  return { subject, state: 'ok', found: `${pins[subject]?.version}, ${where}${why}` }
}

function node(version: string): Finding {
  const [major = 0, minor = 0] = version.split('.').map(Number)
  return major > 20 || (major === 20 && minor >= 19)
    ? { subject: 'node', state: 'ok', found: version }
    : { subject: 'node', state: 'bad', found: `${version} is too old`, remedy: 'install Node 20.19 or newer' }
}

async function sshKey({ FK_SSH_KEY, FK_HOST }: Config['env']): Promise<Finding> {
  const subject = 'ssh key'
  if (FK_HOST === 'local' || FK_HOST === 'lab')
    return { subject, state: 'n/a', found: `FK_HOST=${FK_HOST} needs none of yours` }
  if (FK_SSH_KEY !== undefined) return { subject, state: 'ok', found: FK_SSH_KEY }
  const { exitCode, stdout } = await $({ nothrow: true })`ssh-add -l`
  return exitCode === 0
    ? { subject, state: 'ok', found: `the agent holds ${stdout.trim().split('\n').length}` }
    : {
        subject,
        state: 'warn',
        found: 'FK_SSH_KEY is not set and no agent holds a key: ~/.ssh/config decides',
        remedy: 'FK_SSH_KEY=~/.ssh/id_ed25519, or ssh-add',
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

async function certificate(file: string, now: number): Promise<Finding> {
  const { stdout } = await $({ nothrow: true, env: { TZ: 'UTC' } })`ssh-keygen -L -f ${file}`
  const to = / to (\S+)$/m.exec(stdout.match(/^\s*Valid: .*$/m)?.[0] ?? '')?.[1]
  const until = to === undefined ? Infinity : Date.parse(`${to}Z`)
  return expiry('ssh key', `its certificate ${file}`, until, now, 'have it signed again')
}

// ─── a machine ───────────────────────────────────────────────────────────────────────────────────────────────────────

async function machine(config: Config, spec: Placed, terminal: boolean, report: Report): Promise<Finding[]> {
  let there: Machine | undefined
  try {
    // It only looks: a host key that nobody has compared is a finding, and no question.
    there = await connectTo(config, spec, terminal, report, { trust: false })
    return [...reached(there, spec), ...(await examine(there, config, spec))]
  } catch (error) {
    if (!(error instanceof Fault)) throw error
    return [
      {
        subject: 'access',
        state: 'bad',
        found: [error.message, error.said?.trim().split('\n').at(-1)].filter(Boolean).join(': '),
        ...(error.next === undefined ? {} : { remedy: error.next.replaceAll('\n', ' ') }),
      },
    ]
  } finally {
    await there?.close()
  }
}

function reached({ label, facts: { os, arch, model } }: Machine, spec: Placed): Finding[] {
  const is = `${os}, ${arch}${model && model !== 'unknown' ? `, ${model}` : ''}`
  const fits = os === spec.os && arch === spec.arch
  return [
    { subject: 'access', state: 'ok', found: `${label} answers` },
    {
      subject: 'system',
      state: fits ? 'ok' : 'warn',
      found: fits ? is : `${is}; the site document says ${spec.os}, ${spec.arch}`,
      ...(fits ? {} : { remedy: `correct the entry ${spec.name} in config/sites, or install ${spec.os}` }),
    },
  ]
}

/** The variables of lib/cli/doctor.sh: what the site needs of a machine. */
export function needs({ site }: Pick<Config, 'site'>, spec: Placed): string {
  const guests = guestsOf(site, spec.name)
  const sum = (of: (guest: Guest) => number) => guests.reduce((total, guest) => total + of(guest), 0)
  const cpus = Math.max(1, ...guests.map(({ vm }) => vm.cpus))
  const role = isNode(spec) ? 'metal' : `vm ${sum(({ vm }) => vm.memory)} ${cpus} ${sum(({ vm }) => vm.disk)}`
  const { disk, tpm2_pcrs: pcrs } = vaultSpec(site, spec.name)
  return `FK_ROLE=${quote(role)} FK_DISK=${quote(disk)} FK_TPM=${pcrs.length > 0 ? 'yes' : 'no'}`
}

/** Everything that a machine reports of itself, in one round trip. */
async function examine(there: Machine, config: Config, spec: Placed): Promise<Finding[]> {
  const findings: Finding[] = []
  const shell = read('lib/cli/doctor.sh')
  const sent = Date.now()
  const outcome = await there.run(
    await plain('doctor', [`${needs(config, spec)} FK_USER=${quote(there.facts.user)}`, shell, 'doctor']),
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
      subject: 'access',
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
  const direction = off < 0 ? 'behind' : 'ahead of'
  const difference = seconds < 1 ? 'as here' : `${duration(seconds)} ${direction} this laptop`
  const found = difference + (synchronised === 'no' ? ', not synchronised' : '')
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
