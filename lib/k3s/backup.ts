// Backups of the cluster: what the node is told of them, and what a person does with them: make and list. lib/k3s/restore.ts brings them back.
import { existsSync, mkdirSync, readFileSync, readdirSync, statSync, unlinkSync } from 'node:fs'
import { createRequire } from 'node:module'
import { join } from 'node:path'
import { madeAt } from './bundle.ts'
import type { Config } from '../site/model.ts'
import { collect } from '../engine/delivery.ts'
import { artifactOf } from '../engine/download.ts'
import { Fault } from '../ground/fault.ts'
import { file } from '../engine/file.ts'
import { makeHostKey, publicHalf } from '../vm/hostkey.ts'
import { type Member, clusterOf } from './members.ts'
import type { Machine } from '../engine/machine.ts'
import { plain } from '../engine/program.ts'
import { recipientsIn } from './recipient.ts'
import type { Report } from '../engine/report.ts'
import type { Context } from '../engine/page.ts'
import { Secret, type SecretStore, land } from '../ground/secret.ts'
import { Command, quote, sh, library } from '../ground/sh.ts'
import { machinesFor } from '../site/machines.ts'
import type { Step } from '../engine/step.ts'
import { type Call } from '../cli/taskfile.ts'
import { type Flags, flags } from '../cli/flags.ts'

const load = createRequire(import.meta.url)

/** The functions that checks and commands about backups share: lib/k3s/backup.sh, behind lib/k3s/members.sh on which it stands. */
export const backupShell = library('lib/k3s/members.sh', 'lib/k3s/backup.sh')

/** The program on the node that makes, lists and fetches bundles. */
export const program = '/opt/bin/fortress-backup'
const etc = '/etc/fortress/backup'

/** Names under which the laptop keeps what the places ask for. */
const secretOf = { ssh: 'backup-ssh-key', s3: 'backup-s3-key' }

const sshKey = (secrets: Context['secrets']): Secret =>
  secrets(secretOf.ssh, () => makeHostKey('fortress-backup'))

/** What makes the bundles on the node: the program that encrypts, what it is told, and when. */
export function backupSteps(context: Context, member: Member): Step[] {
  const { site, secrets, env } = context
  const { backup } = site
  const age = artifactOf(context.pins, 'age', member.arch)
  const version = context.pins['age']?.version ?? ''
  const tools = [...(backup.ssh ? ['sftp'] : []), ...(backup.s3 ? ['curl'] : [])]
  const recipients = [...recipientsIn(env.FK_AGE_IDENTITY), ...(backup.recovery ? [backup.recovery] : [])]
  const place = `/opt/age/${version}`
  return [
    {
      name: `there is a place for age ${version}`,
      check: sh`test "$(stat --format='%F %a %U:%G' ${place})" = 'directory 755 root:root'`,
      apply: [
        sh`keep /opt/age && keep ${place}`,
        sh`install --directory --mode=755 --owner=root --group=root /opt/age ${place}`,
      ],
      undo: [sh`find ${place} -maxdepth 1 -name '.*.part' -delete`],
    },
    {
      name: `age ${version} is here, as its makers published it`,
      why: 'the node encrypts what leaves it; it has public keys only, so it cannot open it again',
      check: sh`backup_age ${version} ${age.sha256 ?? 'unproven'}`,
      brings: { artifact: age, to: `${place}/age.tar.gz` },
      apply: [sh`backup_land ${version}`],
    },
    ...(tools.length > 0
      ? [
          {
            name: 'the programs that bring bundles away are here',
            check: sh`backup_tools ${tools}`,
            help: `on Debian: sudo apt-get install ${tools.join(' ').replace('sftp', 'openssh-client')}`,
          },
        ]
      : []),
    file(`${etc}/recipients`, {
      text: [
        '# Whose identities open the bundles: the laptop’s, and the one for the day when it is lost.',
        ...recipients,
        '',
      ].join('\n'),
      test: sh`grep --quiet '^age1' "$new" || { echo 'the laptop had no age identity when this began: run it again'; false; }`,
      name: 'bundles are encrypted for the laptop, and for the second identity of the site where it has one',
    }),
    file(`${etc}/settings`, {
      text: settingsOf(context, member),
      mode: '600',
      name: 'the node knows where its bundles are brought',
    }),
    ...(backup.ssh
      ? [
          file(`${etc}/known_hosts`, {
            text: `backup ${backup.ssh.host_key}\n`,
            name: `${backup.ssh.host} is known by its host key`,
          }),
          file(`${etc}/ssh-key`, {
            secret: sshKey(secrets),
            mode: '600',
            name: `the node has a key for ${backup.ssh.host}, which the laptop has too`,
          }),
        ]
      : []),
    ...(backup.s3
      ? [
          file(`${etc}/s3`, {
            secret: curlFile(secrets(secretOf.s3)),
            mode: '600',
            name: `the node has the key of the bucket ${backup.s3.bucket}`,
          }),
        ]
      : []),
    file(program, { from: 'config/k3s/backup.sh', mode: '755', name: 'the node can make bundles by itself' }),
    file('/etc/systemd/system/fortress-backup.service', {
      from: 'config/k3s/fortress-backup.service',
      then: [sh`systemctl daemon-reload`],
      name: 'a backup runs as a unit of its own',
    }),
    file('/etc/systemd/system/fortress-backup.timer', {
      from: 'config/k3s/fortress-backup.timer',
      values: { schedule: backup.schedule },
      test: sh`systemd-analyze calendar -- "$(sed --quiet 's/^OnCalendar=//p' "$new")" > /dev/null`,
      then: [sh`systemctl daemon-reload`],
      name: `it is said when: ${backup.schedule}`,
    }),
    {
      name: 'backups are made by the clock',
      why: 'one that was missed is made when the machine is on again',
      check: sh`backup_timer`,
      apply: [
        sh`systemctl daemon-reload`,
        sh`systemctl --quiet enable fortress-backup.timer && systemctl restart fortress-backup.timer`,
      ],
      undo: [sh`systemctl --quiet disable --now fortress-backup.timer`],
    },
  ]
}

function settingsOf({ site }: Pick<Context, 'site'>, { name }: Member): string {
  const { keep, directory, ssh, s3 } = site.backup
  const told: Record<string, string | number> = {
    SITE: site.name,
    NODE: name,
    KEEP: keep,
    ...(directory ? { DIRECTORY: directory.path } : {}),
    ...(ssh ? { SSH_HOST: ssh.host, SSH_PORT: ssh.port, SSH_USER: ssh.user, SSH_PATH: ssh.path } : {}),
    ...(s3
      ? { S3_ENDPOINT: s3.endpoint, S3_BUCKET: s3.bucket, S3_REGION: s3.region, S3_PREFIX: s3.prefix }
      : {}),
  }
  const lines = Object.entries(told).map(([key, value]) => `${key}=${quote(String(value))}\n`)
  return `# What ${program} is told; config/schema/site.json says what each means.\n${lines.join('')}`
}

/** curl reads it itself, so that it stands in no list of processes. */
const curlFile = (key: Secret): Secret =>
  new Secret(key.name, async () => {
    const text = await key.resolve().catch((error: unknown) => {
      throw new Fault('the laptop has no key of the object storage that it could give to the node', {
        said: error instanceof Error ? error.message : String(error),
        next: './task backup s3-key asks for it',
      })
    })
    return `user = "${text.trim().replaceAll(/["\\]/g, (c) => `\\${c}`)}"\n`
  })

/** The last of its kind: `node`, `directory`, `ssh`, `s3`, `drill`, `restore`; with .good behind it the last that went well. */
export interface Note {
  which: string
  /** In UTC. */
  time: string
  name: string
  bytes: number
  ok: boolean
  why: string
}

/** Asks a node for its notes about backups and drills; none where no backup was ever begun. For `./task status`. */
export async function nodeNotes(machine: Machine): Promise<Note[]> {
  const [text = ''] = await ask(machine, ['frame answer "$(backup_said)"'])
  return text
    .split('\n')
    .filter(Boolean)
    .map((line) => {
      const [which = '', time = '', name = '', bytes = '', state = '', why = ''] = line.split('\t')
      return { which, time, name, bytes: Number(bytes), ok: state === 'ok', why }
    })
}

/** The notes of the laptop, of the same form: the last `drill`, and the last `copy` that it has. `state` is the site's directory on it. */
export function laptopNotes(state: string): Note[] {
  const path = join(state, 'backup-notes.json')
  return existsSync(path) ? (JSON.parse(readFileSync(path, 'utf8')) as Note[]) : []
}

/** Replaces the laptop's note of that kind. */
export async function noteHere(
  state: string,
  which: string,
  name: string,
  bytes: number,
  why = '',
): Promise<void> {
  const note = { which, time: new Date().toISOString(), name, bytes, ok: why === '', why }
  const mine = note.ok ? [note, { ...note, which: `${which}.good` }] : [note]
  const others = laptopNotes(state).filter((old) => !mine.some((n) => n.which === old.which))
  mkdirSync(state, { recursive: true, mode: 0o700 })
  await land(join(state, 'backup-notes.json'), `${JSON.stringify([...others, ...mine], null, 2)}\n`, true)
}

/** The bundles that the laptop has, the oldest first. */
export function copies(state: string): string[] {
  const dir = join(state, 'backups')
  return (existsSync(dir) ? readdirSync(dir) : []).filter((name) => madeAt(name) !== undefined).sort(byTime)
}
const byTime = (a: string, b: string) => Number(madeAt(a)) - Number(madeAt(b))

/** Runs bash on the node with the functions of this file at hand; the fields of the last `frame answer`. What it said is a Fault. */
export async function ask(
  machine: Machine,
  statements: string[],
  what = 'the question',
  seconds = 300,
): Promise<string[]> {
  let answer: string[] = []
  const outcome = await machine.run(
    await plain('backup', statements, ['lib/k3s/members.sh', 'lib/k3s/backup.sh']),
    ({ kind, fields }) => {
      if (kind === 'answer') answer = fields
    },
    seconds,
  )
  if (!outcome.finished || answer[0] === 'no')
    throw new Fault(`${machine.label}: ${what} failed`, {
      said: [answer[0] === 'no' ? answer[1] : '', outcome.stderr.trim()].filter(Boolean).join('\n'),
    })
  return answer
}

/** `answer no WHY` when the command fails. */
export const orNo = (command: Command) =>
  `said=$({ ${command.text}; } 2>&1) || { frame answer no "$said"; exit 0; }`

/** What a task about backups works with. */
export interface Here {
  config: Config
  state: string
  member: Member
  store: SecretStore
  report: Report
  given: Flags
  terminal: boolean
  signal: AbortSignal
  /** The node, when it is reached: most of this begins on the laptop. */
  reach: () => Promise<Machine>
}

/** What a command line is about: the first server of the site, or the node that it names. */
export async function here(
  call: Call,
  words: string[],
  named: (words: string[]) => string | undefined,
  work: (at: Here) => Promise<number>,
): Promise<number> {
  const given = flags(call, words)
  const { loadConfig } = load('../site/config.ts') as typeof import('../site/config.ts')
  const { connectTo, storeOf } = load('../cli/pages.ts') as typeof import('../cli/pages.ts')
  const { createReport } = load('../engine/report.ts') as typeof import('../engine/report.ts')
  const config = loadConfig(given.site === undefined ? {} : { site: given.site })
  const report = createReport({ json: given.json, verbose: given.verbose, tty: call.live })
  const terminal = process.stdin.isTTY === true && process.stdout.isTTY === true && !given.json
  const members = clusterOf(config)
  const name = named(given.words) ?? members.find(({ first }) => first)?.name
  const member = members.find((m) => m.name === name)
  if (member === undefined)
    throw new Fault(
      name === undefined
        ? `the site ${config.site.name} has no node that runs k3s`
        : `${name} is no node of ${config.site.name}: ${members.map((m) => m.name).join(', ')}`,
    )
  let machine: Promise<Machine> | undefined
  const reach = () => {
    if (config.env.FK_HOST === undefined)
      throw new Fault('There is no machine: FK_HOST is not set', {
        next: 'FK_HOST=admin@192.0.2.10, in the environment or in .env',
      })
    const spec = machinesFor(config, 'node').find((m) => m.name === member.name)!
    return (machine ??= connectTo(config, spec, terminal, report))
  }
  const { signal } = call
  const state = join(config.env.FK_STATE_DIR, config.site.name)
  const store = storeOf(config, report)
  try {
    return await work({ config, state, member, store, report, given, terminal, signal, reach })
  } finally {
    await machine?.then((m) => m.close()).catch(() => {}) // whoever asked for it was told
    report.close()
  }
}

/**
 * `./task backup` makes a bundle now and brings a copy to the laptop. `./task backup ssh-key` shows the public half of the node's
 * key, and `./task backup s3-key` stores the one that it asks for. Resolves to the exit code.
 */
export async function backup(call: Call): Promise<number> {
  return here(
    call,
    ['[ssh-key|s3-key]'],
    () => undefined,
    async (at) => {
      const [word] = at.given.words
      if (word === 'ssh-key') return showKey(at)
      if (word === 's3-key') return takeKey(at)
      if (word !== undefined) throw new Fault('usage: ./task backup [ssh-key|s3-key]')
      const machine = await at.reach()
      const { report } = at
      report.note(`${machine.label} makes a bundle. That takes as long as its places need.`)
      const [code] = await ask(
        machine,
        [
          'systemctl cat fortress-backup.service > /dev/null 2>&1 || { frame answer no "this node makes no backups yet: ./task k3s-backup apply"; exit 0; }',
          'systemctl start fortress-backup.service > /dev/null 2>&1; frame answer "$?"',
        ],
        'the backup',
        6 * 3600,
      )
      const notes = await nodeNotes(machine)
      const made = notes.find(({ which }) => which === 'node')
      for (const note of notes.filter(({ which }) => ['node', 'directory', 'ssh', 's3'].includes(which)))
        report.note(
          note.ok ? `${note.which}: ${note.name}, ${size(note.bytes)}` : `${note.which}: failed: ${note.why}`,
        )
      if (made === undefined || !made.ok)
        throw new Fault(`${machine.label} could not make a bundle`, {
          said: made?.why ?? 'it noted nothing',
          next: `what is said there: journalctl --unit fortress-backup`,
        })
      const path = await copy(at, machine, made.name)
      report.note(`${path} is a copy of it. Prove that it can be restored: ./task drill`)
      return code === '0' ? 0 : 1
    },
  )
}

/** Fetches a bundle from the node; resolves to its path here. */
export async function copy({ state, config }: Here, machine: Machine, name: string): Promise<string> {
  const dir = join(state, 'backups')
  mkdirSync(dir, { recursive: true, mode: 0o700 })
  const path = join(dir, name)
  await collect(machine, `/var/lib/fortress/backup/${name}`, path)
  await noteHere(state, 'copy', name, statSync(path).size)
  for (const old of copies(state).slice(0, -config.site.backup.keep)) unlinkSync(join(dir, old))
  return path
}

async function showKey({ store, report }: Here): Promise<number> {
  const key = await sshKey(store.secret).resolve()
  report.note('For the account that takes the bundles, as one line of its authorized_keys:')
  process.stdout.write(`restrict,command="internal-sftp" ${publicHalf(key)} fortress-backup\n`)
  return 0
}

async function takeKey({ store, terminal, report }: Here): Promise<number> {
  const { ask: question } = load('../cli/pages.ts') as typeof import('../cli/pages.ts')
  const text = terminal
    ? `${await question('Access key: ')}:${await question('Secret key: ', true)}`
    : readFileSync(0, 'utf8').trim().replace(/\s+/, ':')
  if (!/^[\x21-\x39\x3b-\x7e]+:[\x21-\x7e]+$/.test(text))
    throw new Fault('this is no key of object storage: an access key and a secret key are asked for', {
      next: 'on a terminal ./task backup s3-key asks for them; or give both on standard input, on one line or two',
    })
  await store.put(secretOf.s3, text)
  report.note('Stored, encrypted. The node has it with the next ./task k3s-backup apply')
  return 0
}

/** Bytes, for people. */
export const size = (bytes: number) =>
  bytes < 2 ** 20 ? `${Math.ceil(bytes / 1024)} KiB` : `${(bytes / 2 ** 20).toFixed(1)} MiB`

/** How old, in the unit that says most. */
export function age(when: Date): string {
  const hours = (Date.now() - when.getTime()) / 3_600_000
  return hours < 1
    ? `${Math.floor(hours * 60)} min`
    : hours < 48
      ? `${Math.floor(hours)} h`
      : `${Math.floor(hours / 24)} d`
}

/** `./task backups`: every bundle that there is, on the laptop, on the node and in each of its places; where it is, and how old. */
export async function backups(call: Call): Promise<number> {
  return here(
    call,
    [],
    () => undefined,
    async ({ state, reach, report }) => {
      const rows: [string, string, number][] = copies(state).map((name) => [
        'laptop',
        name,
        statSync(join(state, 'backups', name)).size,
      ])
      let machine: Machine | undefined
      let missing = 0
      try {
        machine = await reach()
        const [text = '', said = ''] = await ask(machine, [
          `frame answer "$(${program} list 2> "$FK_TMP/said")" "$(cat "$FK_TMP/said")"`,
        ])
        for (const line of text.split('\n').filter(Boolean)) {
          const [place = '', name = '', bytes = ''] = line.split('\t')
          rows.push([place, name, Number(bytes)])
        }
        if (said !== '') {
          report.note(said)
          missing = 1
        }
      } catch (error) {
        if (!(error instanceof Fault) || rows.length === 0) throw error
        report.note(`Only the laptop's: ${error.message}`)
        missing = 1
      }
      rows.sort(([a, x], [b, y]) => byTime(y, x) || a.localeCompare(b))
      for (const [place, name, bytes] of rows)
        report.note(
          `${age(madeAt(name)!).padStart(6)}  ${size(bytes).padStart(9)}  ${place.padEnd(9)}  ${name}`,
        )
      if (rows.length === 0) report.note('There are none. ./task backup makes one')
      for (const note of machine ? await nodeNotes(machine) : [])
        if (!note.ok) report.note(`The last for ${note.which} failed (${note.time}): ${note.why}`)
      const drill = laptopNotes(state).find(({ which }) => which === 'drill.good')
      report.note(
        drill
          ? `The last good drill was ${age(new Date(drill.time))} ago, of ${drill.name}.`
          : 'There was no good drill yet: ./task drill',
      )
      return missing
    },
  )
}
