// Backups of the cluster: what the node is told of them, and what a person does with them: make and list. lib/k3s/restore.ts brings them back.
import { existsSync, mkdirSync, readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { artifactOf } from '../engine/artifact.ts'
import { file } from '../engine/file.ts'
import type { Machine } from '../engine/machine.ts'
import type { Context } from '../engine/page.ts'
import { plain } from '../engine/program.ts'
import type { Step } from '../engine/step.ts'
import { Fault } from '../ground/fault.ts'
import { makeSshKey } from '../ground/keys.ts'
import { land, Secret } from '../ground/secret.ts'
import { Command, library, quote, sh } from '../ground/sh.ts'
import { madeAt } from './bundle.ts'
import type { Member } from './members.ts'
import { recipientsIn } from './recipient.ts'

/** The functions that checks and commands about backups share: lib/k3s/backup.sh, behind lib/k3s/members.sh on which it stands. */
export const backupShell = library('lib/k3s/members.sh', 'lib/k3s/backup.sh')

/** The program on the node that makes, lists and fetches bundles. */
export const program = '/opt/bin/fortress-backup'
const etc = '/etc/fortress/backup'

/** Names under which the laptop keeps what the places ask for. */
export const secretOf = { ssh: 'backup-ssh-key', s3: 'backup-s3-key' }

export const sshKey = (secrets: Context['secrets']): Secret =>
  secrets(secretOf.ssh, () => makeSshKey('fortress-backup'))

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
      upload: { artifact: age, to: `${place}/age.tar.gz` },
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
export const byTime = (a: string, b: string) => Number(madeAt(a)) - Number(madeAt(b))

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
