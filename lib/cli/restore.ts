// A bundle comes back to life: beside the living cluster, to prove that it can, or in its place.
import { existsSync, statSync } from 'node:fs'
import { basename, join } from 'node:path'
import { Readable } from 'node:stream'
import { downloads } from '../engine/delivery.ts'
import type { Machine } from '../engine/machine.ts'
import type { Page } from '../engine/page.ts'
import { failAsAnswer } from '../engine/query.ts'
import { count } from '../engine/report.ts'
import { runPage } from '../engine/run.ts'
import type { Step } from '../engine/step.ts'
import { Fault } from '../ground/fault.ts'
import { Command, quote, sh } from '../ground/sh.ts'
import { ask as query, backupShell, copies, noteHere } from '../k3s/backup.ts'
import { olderIdentity } from '../ground/identity.ts'
import type { SecretStore } from '../ground/secret.ts'
import { type Bundle, madeAt, opened, readBundle } from '../k3s/bundle.ts'
import { configurationSteps } from '../k3s/configuration.ts'
import { program } from '../k3s/destinations.ts'
import { clusterOf, k3sTransaction, secretNames } from '../k3s/members.ts'
import { besideRestore } from '../k3s/nodes.ts'
import { prerequisites } from '../k3s/service.ts'
import { machinesFor } from '../site/machines.ts'
import { type ClusterSession, age, copy, size, withCluster } from './backup.ts'
import type { Call } from './call.ts'
import { contextOf } from './context.ts'
import { runPages } from './pages.ts'
import { confirmed } from './prompt.ts'
import { pageNamed } from './scripts.ts'
import { type Session, named } from './session.ts'
import { type RunFlags, drill as drillTable, restore as restoreTable } from './tables.ts'

/** Where a bundle is in clear on the node, in memory. */
const bundle = '/run/fortress/bundle'

/**
 * The file that is meant: a path, a bundle of the laptop, or one of a backup destination, which the node fetches. Without a word
 * the newest that the laptop has.
 */
async function found(session: ClusterSession, word: string | undefined): Promise<string> {
  const { state } = session
  const newest = copies(state).at(-1)
  if (word === undefined) {
    if (newest !== undefined) return join(state, 'backups', newest)
    throw new Fault('the laptop has no bundle', {
      next: './task backup makes one; ./task backups lists those that are elsewhere',
    })
  }
  for (const path of [word, join(state, 'backups', word)])
    if (existsSync(path) && statSync(path).isFile()) return path
  if (madeAt(word) === undefined || basename(word) !== word)
    throw new Fault(`${word} is no file, and no name of a bundle`, { next: './task backups lists them' })
  const machine = await session.node()
  const { said = '' } = await query(
    machine,
    [
      `place=$(${program} list 2> /dev/null | awk -F '\\t' -v name=${quote(word)} '$2 == name { print $1; exit }')`,
      `[ -n "$place" ] || { answer refused why "no place has ${word}"; exit 0; }`,
      failAsAnswer(sh`${new Command(program, undefined, '')} fetch "$place" ${word}`),
      'answer found said "$said"',
    ],
    'finding the bundle',
    3600,
  )
  session.report.note(`${basename(said)} was fetched to the node.`)
  return copy(session, machine, basename(said))
}

/** Throws a Fault for a bundle of another cluster; resolves to false where the laptop has no cluster to compare with. */
async function assertSameCluster(
  { store, state, config }: Session,
  { path, manifest, text }: Bundle,
): Promise<boolean> {
  const { server, agent, joinServer, joinAgent } = secretNames
  const tokens = [server, agent, joinServer, joinAgent].map((name) => `${name}.age`).join(', ')
  const other = (reason: string): Fault =>
    new Fault(`${path} is refused: it is of another cluster: ${reason}`, {
      state: 'nothing of it was sent anywhere',
      next: `if that cluster is gone for good: put ${tokens} in ${state} aside, and try again`,
    })
  if (manifest.site !== config.site.name) throw other(`of the site ${manifest.site}`)
  let known = false
  if (store.has(secretNames.joinServer)) {
    known = true
    const join = Buffer.from((await store.get(secretNames.joinServer)).reveal(), 'base64')
      .toString('utf8')
      .trim()
    const authority = /^K10([0-9a-f]{64})::/.exec(join)?.[1]
    if (authority !== undefined && authority !== manifest.authority)
      throw other(
        `its authority is ${manifest.authority.slice(0, 16)}…, and that of the laptop's cluster ${authority.slice(0, 16)}…`,
      )
  }
  if (store.has(secretNames.server)) {
    known = true
    // Who could write a bundle knows the token only when it is the cluster's own node.
    if ((await store.get(secretNames.server)).reveal().trim() !== text('rancher/k3s/token').trim())
      throw other('its token is not the one that the laptop made')
  }
  return known
}

/** The identities of before that the laptop keeps: bundles of their time were made for them. */
const olderKeys = (store: SecretStore): Promise<string[]> =>
  Promise.all(
    store
      .list()
      .flatMap((name) => (name.startsWith(olderIdentity) ? store.get(name).then((one) => one.reveal()) : [])),
  )

/** The bundle in clear, in memory of the node. `mib` is what has room there. */
async function sendTo(
  machine: Machine,
  { path, manifest }: Bundle,
  identity: string,
  older: string[],
  mib: number,
): Promise<void> {
  await query(machine, [failAsAnswer(sh`backup_open ${mib}`), 'answer done'], 'making room in memory')
  const outcome = await machine.feed(
    `umask 077; cd ${bundle} && exec tar --extract --file=- --no-same-owner --no-same-permissions`,
    Readable.from(opened(path, identity, older)),
  )
  if (outcome.code !== 0)
    throw new Fault(`${basename(path)} could not be sent to ${machine.label}`, {
      said: outcome.stderr.trim(),
    })
  const sums = manifest.files.map(({ name, sha256 }) => `${sha256}  ${name}\n`).join('')
  await query(
    machine,
    [failAsAnswer(sh`backup_whole <<< ${sums.trimEnd()}`), 'answer done'],
    'checking what arrived',
  )
}

const clear = (machine: Machine) => query(machine, ['backup_close', 'answer done'], 'clearing the memory')

const mib = (bytes: number) => Math.ceil(bytes / 2 ** 20)

/**
 * `./task drill [FILE] [NODE]` proves that a bundle can be restored: it becomes a cluster beside the running one, in a
 * network and a file system of its own, and its canary is read. Resolves to the exit code.
 */
export const drill = (call: Call): Promise<number> =>
  withCluster(
    call,
    drillTable,
    async (session) => {
      const { state, report, given } = session
      const path = await found(session, given.words[0])
      const name = basename(path)
      try {
        await drillBundle(session, path)
      } catch (error) {
        const why =
          error instanceof Fault ? [error.message, error.said].filter(Boolean).join(': ') : String(error)
        await noteHere(state, 'drill', name, 0, why)
        throw error
      }
      await noteHere(state, 'drill', name, statSync(path).size)
      report.note(
        'The canary was read: its Secret, decrypted, and its ConfigMap. This bundle can be restored.',
      )
      return 0
    },
    1,
  )

async function drillBundle(session: ClusterSession, path: string): Promise<void> {
  const { config, report, node, store } = session
  const name = basename(path)
  const older = await olderKeys(store)
  const found = await readBundle(path, config.env.FK_AGE_IDENTITY, older)
  const { manifest, bytes } = found
  const old = age(new Date(manifest.time))
  report.note(
    `${name} is whole: ${count(manifest.files.length, 'file')}, ${size(bytes)}, ` +
      `of ${manifest.node}, k3s ${manifest.k3s}, ${old} old.`,
  )
  if (!(await assertSameCluster(session, found)))
    report.note('The laptop has no keys of this cluster: it cannot say whose bundle this is.')
  const machine = await node()
  report.note(`It becomes a cluster on ${machine.label}, beside the running one, which is not disturbed.`)
  try {
    // etcd keeps the database several times while it is restored, and room for its log.
    await sendTo(machine, found, config.env.FK_AGE_IDENTITY, older, mib(bytes + 4 * manifest.database) + 512)
    const { canary, address, k3s } = manifest
    const run = sh`backup_drill ${name} ${address || '192.0.2.1'} ${canary.secret} ${canary.configmap} ${k3s}`
    await query(machine, [failAsAnswer(run), 'answer done'], 'the drill', 1500)
  } finally {
    await clear(machine)
  }
}

/**
 * `./task restore FILE [NODE]` makes the bundle the cluster of its first server again, and the other servers join it anew. Where
 * a cluster has its data already, the name of the node confirms. What was there is kept aside, and comes back when it fails.
 * Resolves to the exit code.
 */
export const restore = (call: Call): Promise<number> =>
  withCluster(
    call,
    restoreTable,
    async (session) => {
      const { config, member, report, node, given } = session
      if (!member.first)
        throw new Fault(`${member.name} is not the first server of the cluster`, {
          next: `put it first among the servers in config/sites/${config.site.name}.yaml, or restore on the first`,
        })
      const path = await found(session, given.words[0])
      const bundle = await readBundle(path, config.env.FK_AGE_IDENTITY, await olderKeys(session.store))
      if (!(await assertSameCluster(session, bundle)))
        report.note('The laptop has no keys of this cluster, and takes over its tokens.')
      const machine = await node()
      const others = clusterOf(config).flatMap((m) => (m.role === 'server' && !m.first ? m.name : []))
      const living = await confirmReplace(session, machine, others)
      const beside = besideRestore(member.name, others, living, pageNamed('k3s-join'))
      if ((await replaceFirst(session, machine, bundle, basename(path), beside)) === 1) return 1
      await keepJoinTokens(session, bundle)
      report.note(
        `${machine.label} is the cluster as of ${bundle.manifest.time}: its canary is there, and it is the only etcd member.`,
      )
      if (others.length > 0 && (await run(session, beside.after)) === 1)
        throw new Fault(
          `the cluster is restored, and not all of ${living.join(' and ')} have joined it again`,
          {
            state: 'they have nothing of the old one that they could start with',
            next: './task k3s-join apply, when what is reported above is mended',
          },
        )
      report.note(
        'Next: ./task k3s-server apply, and when all is well delete /var/lib/rancher/k3s/before-restore there.',
      )
      return 0
    },
    1,
  )

type RestoreSession = ClusterSession & { given: RunFlags }

const run = async ({ given, signal }: RestoreSession, pages: Page[]): Promise<number> =>
  pages.length === 0 ? 0 : runPages(pages, 'apply', given, signal)

/** The bundle in place of what the first server has; what was there returns when it fails. Resolves to the exit code. */
async function replaceFirst(
  session: RestoreSession,
  machine: Machine,
  bundle: Bundle,
  name: string,
  beside: ReturnType<typeof besideRestore>,
): Promise<number> {
  const { config, store, report } = session
  const borrowed = await borrowTokens(session, bundle)
  let code = 1
  try {
    const room = mib(bundle.bytes + 2 * bundle.manifest.database) + 64
    await sendTo(machine, bundle, config.env.FK_AGE_IDENTITY, await olderKeys(session.store), room)
    code = await run(session, beside.before)
    if (code !== 1) code = await applyRestore(session, machine, bundle, name)
  } finally {
    await clear(machine)
    if (code === 1) {
      for (const secret of borrowed) await store.remove(secret)
      for (const page of beside.failed)
        await run(session, [page]).catch((error: Error) => report.note(`${page.at}: ${error.message}`))
    }
  }
  return code
}

/** The tokens of the bundle become the laptop's where it has none, so that none is made again. Resolves to their names. */
async function borrowTokens({ store }: Session, { text }: Bundle): Promise<string[]> {
  const borrowed: string[] = []
  for (const [secret, from] of [
    [secretNames.server, 'rancher/k3s/token'],
    [secretNames.agent, 'rancher/k3s/agent-token'],
  ] as const)
    if (!store.has(secret) && text(from) !== '') {
      await store.put(secret, text(from).trim())
      borrowed.push(secret)
    }
  return borrowed
}

async function keepJoinTokens({ store }: Session, { text }: Bundle): Promise<void> {
  for (const [secret, from] of [
    [secretNames.joinServer, 'server/token'],
    [secretNames.joinAgent, 'server/agent-token'],
  ] as const)
    if (!store.has(secret) && text(from) !== '')
      await store.put(secret, Buffer.from(text(from)).toString('base64'))
}

/**
 * The cluster of the site may be replaced: there is none, or the name of its first server confirms. Resolves to the names of the
 * other servers that answer. Throws a Fault when nobody confirms.
 */
async function confirmReplace(session: RestoreSession, first: Machine, others: string[]): Promise<string[]> {
  const { config, member, report, given, terminal, connect } = session
  const living: string[] = []
  const inspect = async (machine: Machine) => {
    const { said: found = '' } = await query(machine, ['answer living said "$(backup_nobody)"'])
    if (found !== '') living.push(`${machine.label}: ${found}`)
  }
  await inspect(first)
  const answering: string[] = []
  for (const name of others) {
    try {
      await inspect(await connect(named(machinesFor(config, 'node'), name, config.site.name, 'node')))
      answering.push(name)
    } catch (error) {
      if (!(error instanceof Fault)) throw error
      report.note(
        `${name} does not answer: ${error.message}. When it is back, ./task node replace ${name} at once: ` +
          'together with another it could go on as the cluster that was',
      )
    }
  }
  if (living.length === 0) return answering
  report.note(living.join('\n'))
  if (terminal) report.pause()
  await confirmed(member.name, {
    about: 'The cluster that is there is put aside, and the bundle takes its place.',
    confirm: given.confirm,
    terminal,
    what: 'replacing the cluster that runs here',
  })
  return answering
}

/** The steps of a restore, as a run of the page whose files they are: what is restored then belongs to that page. */
async function applyRestore(
  { config, member, store, report, signal }: ClusterSession,
  machine: Machine,
  { manifest }: Bundle,
  name: string,
): Promise<number> {
  const context = contextOf(config, machine.facts, store)
  const when = new Date().toISOString()
  const { canary, k3s } = manifest
  // The last step starts k3s. One transaction: what fails is rolled back whole.
  const steps: Step[] = [
    ...prerequisites(context, member),
    ...configurationSteps(context, member),
    {
      name: `the cluster is restored from ${name}`,
      why: 'k3s makes a cluster of one out of the snapshot; with the token of that time it finds its authorities and keys in it',
      check: sh`backup_restored ${when}`,
      apply: [sh`backup_restore ${when} ${name} ${member.name} ${canary.secret} ${canary.configmap} ${k3s}`],
      recover: [sh`backup_returns`],
      seconds: 1800,
      transaction: k3sTransaction(1800),
    },
  ]
  const page: Page = {
    name: '20-k3s-server',
    file: import.meta.filename,
    summary: `The cluster as it was at ${manifest.time}.`,
    layer: 'L2',
    on: 'node',
    library: backupShell,
    steps: () => steps,
  }
  const { code } = await runPage(page, steps, 'apply', {
    machine,
    report,
    store,
    rollbackAfter: config.env.FK_DEADMAN_SECONDS,
    lockWait: config.env.FK_LOCK_WAIT_SECONDS,
    signal,
    fetch: downloads(config, { signal, onTransfer: (t) => report.transfer(t), say: (s) => report.note(s) }),
  })
  return code
}
