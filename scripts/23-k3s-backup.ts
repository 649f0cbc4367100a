#!/usr/bin/env -S npx --no-install tsx
// The cluster is backed up on a schedule, encrypted on the node, and uploaded to other places.
//
// Needs   k3s-server. When and whereto stand under data: of the site document; the laptop gets copies by ./task backup.
// Leaves  /opt/bin/fortress-backup and its timer, /etc/fortress/backup, and the last bundles in /var/lib/fortress/backup. The
//         node has public keys only: it cannot open the bundles that it has made.
// Then    ./task backup, ./task backups, and every now and then ./task drill, which proves that a bundle can be restored.
// Undo    stops the timer. The bundles stay, everywhere.
import { backupOf } from '../lib/site/cluster.ts'
import { artifactOf } from '../lib/engine/artifact.ts'
import { file } from '../lib/engine/file.ts'
import type { Step } from '../lib/engine/step.ts'
import { Fault } from '../lib/ground/fault.ts'
import { Secret } from '../lib/ground/secret.ts'
import { library, quote, sh } from '../lib/ground/sh.ts'
import { backupSecrets, program, sshKey } from '../lib/k3s/destinations.ts'
import { type Member, memberOf } from '../lib/k3s/members.ts'
import { recipientsFor } from '../lib/k3s/recipient.ts'
import { type Context, script } from '../lib/script.ts'

const etc = '/etc/fortress/backup'
const about = {
  layer: 'L2',
  on: 'node',
  needs: ['20-k3s-server'],
  library: library('lib/engine/shell/receive.sh'),
} as const

export default script(import.meta, about, (context) => {
  const member = memberOf(context)
  if (!member.first) return []
  const { schedule } = backupOf(context.site)
  return [
    ...ageInstalled(context, member),
    ...destinations(context, member),
    file(program, {
      from: 'config/k3s/backup.sh',
      mode: '755',
      name: 'fortress-backup program is installed',
    }),
    file('/etc/systemd/system/fortress-backup.service', {
      from: 'config/k3s/fortress-backup.service',
      then: [sh`systemctl daemon-reload`],
      name: 'fortress-backup.service unit is installed',
    }),
    file('/etc/systemd/system/fortress-backup.timer', {
      from: 'config/k3s/fortress-backup.timer',
      values: { schedule },
      test: sh`systemd-analyze calendar -- "$(sed --quiet 's/^OnCalendar=//p' "$new")" > /dev/null`,
      then: [sh`systemctl daemon-reload`],
      name: `backup schedule: ${schedule}`,
    }),
    {
      name: 'backup timer is enabled',
      why: 'a backup that was missed is made when the machine is on again',
      check: sh`
        systemctl --quiet is-enabled fortress-backup.timer && systemctl --quiet is-active fortress-backup.timer &&
          test no = "$(systemctl show --property=NeedDaemonReload --value \
            fortress-backup.timer fortress-backup.service | sort | tail --lines=1)"`,
      apply: [
        sh`systemctl daemon-reload`,
        sh`systemctl --quiet enable fortress-backup.timer && systemctl restart fortress-backup.timer`,
      ],
      undo: [sh`systemctl --quiet disable --now fortress-backup.timer`],
    },
    ...appendOnly(context),
  ]
})

/** The program that encrypts, of the pinned version, unpacked from what its makers publish; and for whom it encrypts. */
function ageInstalled({ pins, env, site }: Context, { arch }: Member): Step[] {
  const artifact = artifactOf(pins, 'age', arch)
  const version = pins['age']?.version ?? ''
  const place = `/opt/age/${version}`
  const tarball = `${place}/age.tar.gz`
  const digest = artifact.sha256 ?? 'unproven'
  const { recovery } = backupOf(site)
  const recipients = recipientsFor(env.FK_AGE_IDENTITY, recovery)
  return [
    {
      name: `directory ${place} exists`,
      check: sh`test "$(stat --format='%F %a %U:%G' ${place})" = 'directory 755 root:root'`,
      apply: [
        sh`record_before /opt/age && record_before ${place}`,
        sh`install --directory --mode=755 --owner=root --group=root /opt/age ${place}`,
      ],
      undo: [sh`find ${place} -maxdepth 1 -name '.*.part' -delete`],
    },
    {
      name: `age ${version} is downloaded and verified`,
      why: 'the node encrypts what leaves it; it has public keys only, so it cannot open it again',
      // of: the digest of the tarball that it was unpacked from; age.sha256: that of the program.
      check: sh`
        test "$(cat ${place}/of)" = ${digest} && (cd ${place} && sha256sum --check --quiet age.sha256) &&
          test "$(stat --format='%a %U:%G' ${place}/age)" = '755 root:root' &&
          test "$(readlink /opt/bin/age)" = ${`../age/${version}/age`}`,
      upload: { artifact, to: tarball },
      apply: [
        sh`record_before ${place}/age && record_before ${place}/age.sha256 &&
          record_before ${place}/of && record_before /opt/bin/age`,
        sh`
          receive ${tarball} 600
          tar --extract --gzip --to-stdout --file=${tarball} age/age > ${place}/age.part
          install --mode=755 --owner=root --group=root ${place}/age.part ${place}/age.new
          sync ${place}/age.new && mv --force --no-target-directory ${place}/age.new ${place}/age
          (cd ${place} && sha256sum age > age.sha256)
          install --directory --mode=755 /opt/bin
          ln --symbolic --force --no-dereference ${`../age/${version}/age`} /opt/bin/age.new
          mv --force --no-target-directory /opt/bin/age.new /opt/bin/age
          echo ${digest} > ${place}/of && sync ${place}/of
          rm --force ${tarball} ${place}/age.part`,
      ],
    },
    file(`${etc}/recipients`, {
      text: [
        '# The age recipients of every bundle: the identity of the laptop, and the one for the day when it is lost.',
        ...recipients,
        '',
      ].join('\n'),
      test: sh`
        grep --quiet '^age1' "$new" ||
          { echo 'the laptop had no age identity when this run began: run it again'; false; }`,
      name: 'age recipients of the backups are configured',
    }),
  ]
}

/** Targets that the document calls append-only are asked: who takes the node has its keys, and must not get at the bundles. */
function appendOnly({ site }: Context): Step[] {
  const { ssh, s3 } = backupOf(site)
  const kinds = [...(ssh?.append_only ? ['ssh'] : []), ...(s3?.append_only ? ['s3'] : [])]
  return kinds.map((kind) => ({
    name: `${kind === 'ssh' ? ssh?.host : s3?.bucket} lets the key of the node neither delete nor overwrite a bundle`,
    why: 'an attacker on the node deletes the backups first; the target removes old bundles itself',
    check: sh`${program} append-only ${kind} 2>&1`,
    help: 'docs/backups.md, "A target that keeps what it has", says how the target is set up; then run this again',
  }))
}

/** Where bundles are uploaded, and with which keys. */
function destinations(context: Context, member: Member): Step[] {
  const { secrets, site } = context
  const { ssh, s3, left } = backupOf(site)
  const tools = [...(ssh ? ['sftp'] : []), ...(s3 ? ['curl'] : [])]
  return [
    ...(left.length > 0
      ? [
          {
            name: 'every backup target of the cluster gets its bundles',
            why: 'uploads go to one directory, one SFTP server and one S3 bucket: more is not built yet',
            check: sh`echo nothing is uploaded to ${left.join(', ')} && false`,
            help: `take ${left.join(', ')} out of data.keep (cluster, to:) in the site document`,
          },
        ]
      : []),
    ...(tools.length > 0
      ? [
          {
            name: `${tools.join(' and ')} ${tools.length > 1 ? 'are' : 'is'} installed`,
            check: sh`type ${tools}`,
            help: `on Debian: sudo apt-get install ${tools.join(' ').replace('sftp', 'openssh-client')}`,
          },
        ]
      : []),
    file(`${etc}/settings`, {
      text: settingsOf(context, member),
      mode: '600',
      name: 'backup destinations are configured',
    }),
    ...(ssh
      ? [
          file(`${etc}/known_hosts`, {
            text: `backup ${ssh.host_key}\n`,
            name: `SSH host key of ${ssh.host} is pinned`,
          }),
          file(`${etc}/ssh-key`, {
            secret: sshKey(secrets),
            mode: '600',
            name: `SSH key for ${ssh.host} is installed`,
          }),
        ]
      : []),
    ...(s3
      ? [
          file(`${etc}/s3`, {
            secret: curlFile(secrets(backupSecrets.s3)),
            mode: '600',
            name: `S3 key for the bucket ${s3.bucket} is installed`,
          }),
        ]
      : []),
  ]
}

/** The file that fortress-backup sources. */
function settingsOf({ site }: Context, { name }: Member): string {
  const { keep, directory, ssh, s3 } = backupOf(site)
  const settings: Record<string, string | number> = {
    SITE: site.name,
    NODE: name,
    KEEP: keep,
    ...(directory ? { DIRECTORY: directory.path } : {}),
    ...(ssh ? { SSH_HOST: ssh.host, SSH_PORT: ssh.port, SSH_USER: ssh.user, SSH_PATH: ssh.path } : {}),
    ...(ssh?.append_only ? { SSH_APPEND_ONLY: 'yes' } : {}),
    ...(s3?.append_only ? { S3_APPEND_ONLY: 'yes' } : {}),
    ...(s3
      ? { S3_ENDPOINT: s3.endpoint, S3_BUCKET: s3.bucket, S3_REGION: s3.region, S3_PREFIX: s3.prefix }
      : {}),
  }
  const lines = Object.entries(settings).map(([key, value]) => `${key}=${quote(String(value))}\n`)
  return `# Settings of ${program}; config/schema/site.json says what each means.\n${lines.join('')}`
}

/** curl reads the key from a file of its own, so that it stands in no list of processes. */
function curlFile(key: Secret): Secret {
  return new Secret(key.name, async () => {
    const text = await key.resolve().catch((error: unknown) => {
      throw new Fault('no S3 key on this laptop', {
        said: error instanceof Error ? error.message : String(error),
        next: './task backup s3-key asks for it',
      })
    })
    return `user = "${text.trim().replaceAll(/["\\]/g, (c) => `\\${c}`)}"\n`
  })
}
