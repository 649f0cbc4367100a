// A bundle comes back to life: beside the living cluster, to prove that it can, or in its place.
import { existsSync, statSync } from 'node:fs'
import { createRequire } from 'node:module'
import { basename, join } from 'node:path'
import { Readable } from 'node:stream'
import type { Machine } from '../engine/machine.ts'
import type { Page } from '../engine/page.ts'
import type { Step } from '../engine/step.ts'
import { Fault } from '../ground/fault.ts'
import { Command, quote, sh } from '../ground/sh.ts'
import { ask, backupShell, copies, noteHere, orNo } from '../k3s/backup.ts'
import { type Bundle, madeAt, opened, readBundle } from '../k3s/bundle.ts'
import { configurationSteps } from '../k3s/configuration.ts'
import { program } from '../k3s/destinations.ts'
import { clusterOf, k3sTransaction, memberOf, secretNames } from '../k3s/members.ts'
import { prerequisites } from '../k3s/service.ts'
import { machinesFor } from '../site/machines.ts'
import { type Here, age, copy, here, size } from './backup.ts'
import { pageNamed } from './scripts.ts'
import type { Call } from './taskfile.ts'

const load = createRequire(import.meta.url)

/** Where a bundle is in clear on the node, in memory. */
const bundle = '/run/fortress/bundle'

/** The file that is meant: a path, a bundle of the laptop, or one of a place, which the node brings. Without a word the newest that the laptop has. */
async function found(at: Here, word: string | undefined): Promise<string> {
  const { state } = at
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
  const machine = await at.reach()
  const { said = '' } = await ask(
    machine,
    [
      `place=$(${program} list 2> /dev/null | awk -F '\\t' -v name=${quote(word)} '$2 == name { print $1; exit }')`,
      `[ -n "$place" ] || { answer refused why "no place has ${word}"; exit 0; }`,
      orNo(sh`${new Command(program, undefined, '')} fetch "$place" ${word}`),
      'answer found said "$said"',
    ],
    'finding the bundle',
    3600,
  )
  at.report.note(`${basename(said)} was brought back.`)
  return copy(at, machine, basename(said))
}

/** The laptop knows this cluster, and the bundle is of it; false where the laptop knows none. */
async function ofOurs({ store, state, config }: Here, { path, manifest, text }: Bundle): Promise<boolean> {
  const other = (reason: string): Fault =>
    new Fault(`${path} is refused: it is of another cluster: ${reason}`, {
      state: 'nothing of it was sent anywhere',
      next: `if the cluster that the laptop knows is gone for good: put ${[secretNames.server, secretNames.agent, secretNames.joinServer, secretNames.joinAgent].map((n) => `${n}.age`).join(', ')} in ${state} aside, and try again`,
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
        `its authority is ${manifest.authority.slice(0, 16)}…, and the laptop knows ${authority.slice(0, 16)}…`,
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

/** The bundle in clear, in memory of the node. `mib` is what has room there. */
async function sendTo(
  machine: Machine,
  { path, manifest }: Bundle,
  identity: string,
  mib: number,
): Promise<void> {
  await ask(machine, [orNo(sh`backup_open ${mib}`), 'answer done'], 'making room in memory')
  const outcome = await machine.feed(
    `umask 077; cd ${bundle} && exec tar --extract --file=- --no-same-owner --no-same-permissions`,
    Readable.from(opened(path, identity)),
  )
  if (outcome.code !== 0)
    throw new Fault(`${basename(path)} could not be sent to ${machine.label}`, {
      said: outcome.stderr.trim(),
    })
  const sums = manifest.files.map(({ name, sha256 }) => `${sha256}  ${name}\n`).join('')
  await ask(machine, [orNo(sh`backup_whole <<< ${sums.trimEnd()}`), 'answer done'], 'looking at what arrived')
}

const clear = (machine: Machine) => ask(machine, ['backup_close', 'answer done'], 'clearing the memory')

const mib = (bytes: number) => Math.ceil(bytes / 2 ** 20)

/**
 * `./task drill [FILE] [NODE]` proves that a bundle can be restored: it becomes a cluster beside the living one, in a network and a
 * file system of its own, and its canary is read. Resolves to the exit code.
 */
export async function drill(call: Call): Promise<number> {
  return here(
    call,
    ['[FILE]', '[NODE]'],
    ([, node]) => node,
    async (at) => {
      const { config, state, report } = at
      const path = await found(at, at.given.words[0])
      const name = basename(path)
      try {
        const found = await readBundle(path, config.env.FK_AGE_IDENTITY)
        const { manifest, bytes } = found
        report.note(
          `${name} is whole: ${manifest.files.length} files, ${size(bytes)}, of ${manifest.node}, k3s ${manifest.k3s}, ${age(new Date(manifest.time))} old.`,
        )
        if (!(await ofOurs(at, found)))
          report.note('The laptop does not know this cluster: it cannot tell whose bundle this is.')
        const machine = await at.reach()
        report.note(
          `It becomes a cluster on ${machine.label}, beside the living one, which does not notice it.`,
        )
        try {
          // etcd keeps the database several times while it is restored, and room for its log.
          await sendTo(machine, found, config.env.FK_AGE_IDENTITY, mib(bytes + 4 * manifest.database) + 512)
          const { canary, address, k3s } = manifest
          await ask(
            machine,
            [
              orNo(
                sh`backup_drill ${name} ${address || '192.0.2.1'} ${canary.secret} ${canary.configmap} ${k3s}`,
              ),
              'answer done',
            ],
            'the drill',
            1500,
          )
        } finally {
          await clear(machine)
        }
        await noteHere(state, 'drill', name, statSync(path).size)
        report.note(
          'The canary came back: its Secret, decrypted, and its ConfigMap. This bundle can be restored.',
        )
        return 0
      } catch (error) {
        await noteHere(
          state,
          'drill',
          name,
          0,
          error instanceof Fault ? [error.message, error.said].filter(Boolean).join(': ') : String(error),
        )
        throw error
      }
    },
  )
}

/**
 * `./task restore FILE [NODE]` makes the bundle the cluster of its first server again, and the other servers join it anew. Where a
 * cluster has its data already, the name of the node is to be typed. What was there is kept aside, and comes back when it fails.
 * Resolves to the exit code.
 */
export async function restore(call: Call): Promise<number> {
  return here(
    call,
    ['FILE', '[NODE]'],
    ([, node]) => node,
    async (at) => {
      const { config, member, store, report, given } = at
      if (given.words[0] === undefined)
        throw new Fault('usage: ./task restore FILE [NODE]; ./task backups lists them')
      if (!member.first)
        throw new Fault(`${member.name} does not begin the cluster`, {
          next: `put it first among the servers in config/sites/${config.site.name}.yaml, or restore on the first`,
        })
      const path = await found(at, given.words[0])
      const name = basename(path)
      const opened = await readBundle(path, config.env.FK_AGE_IDENTITY)
      const { manifest, text } = opened
      if (!(await ofOurs(at, opened)))
        report.note('The laptop does not know this cluster, and takes over its tokens.')
      const machine = await at.reach()
      const others = clusterOf(config).flatMap((m) => (m.role === 'server' && !m.first ? m.name : []))
      const there = await mayEnd(at, machine, others)
      const { besideRestore } = load('../k3s/nodes.ts') as typeof import('../k3s/nodes.ts')
      const { runPages } = load('./pages.ts') as typeof import('./pages.ts')
      const beside = besideRestore(member.name, others, there, pageNamed('k3s-join'))
      const run = async (pages: Page[]) =>
        pages.length === 0 ? 0 : runPages(pages, 'apply', given, call.signal)
      // The page knows it from here on, so that none of its secrets is made anew.
      const lent: string[] = []
      for (const [secret, from] of [
        [secretNames.server, 'rancher/k3s/token'],
        [secretNames.agent, 'rancher/k3s/agent-token'],
      ] as const)
        if (!store.has(secret) && text(from) !== '') {
          await store.put(secret, text(from).trim())
          lent.push(secret)
        }
      let code = 1
      try {
        const room = mib(opened.bytes + 2 * manifest.database) + 64
        await sendTo(machine, opened, config.env.FK_AGE_IDENTITY, room)
        code = await run(beside.before)
        if (code !== 1) code = await become(at, machine, opened, name)
      } finally {
        await clear(machine)
        if (code === 1) {
          for (const secret of lent) await store.remove(secret)
          for (const page of beside.failed)
            await run([page]).catch((error: Error) => report.note(`${page.at}: ${error.message}`))
        }
      }
      if (code === 1) return 1
      for (const [secret, from] of [
        [secretNames.joinServer, 'server/token'],
        [secretNames.joinAgent, 'server/agent-token'],
      ] as const)
        if (!store.has(secret) && text(from) !== '')
          await store.put(secret, Buffer.from(text(from)).toString('base64'))
      report.note(
        `${machine.label} is the cluster as it was at ${manifest.time}: its canary is there, and it is its only member of etcd.`,
      )
      if (others.length > 0 && (await run(beside.after)) === 1)
        throw new Fault(
          `the cluster is restored, and not all of ${there.join(' and ')} have joined it again`,
          {
            state: 'they have nothing of the old one that they could begin with',
            next: './task k3s-join apply, when what is said above is mended',
          },
        )
      report.note(
        'Next: ./task k3s-server apply, and when all is well delete /var/lib/rancher/k3s/before-restore there.',
      )
      return 0
    },
  )
}

/**
 * The cluster of the site may end: there is none, or somebody types the name of its first server. Resolves to the names of the other
 * servers that answer. Throws a Fault when nobody says so.
 */
async function mayEnd(at: Here, first: Machine, others: string[]): Promise<string[]> {
  const { config, member, report, given, terminal } = at
  const { ask: question, connectTo } = load('./pages.ts') as typeof import('./pages.ts')
  const living: string[] = []
  const look = async (machine: Machine) => {
    const { said = '' } = await ask(machine, ['answer living said "$(backup_nobody)"'])
    if (said !== '') living.push(`${machine.label}: ${said}`)
  }
  await look(first)
  const there: string[] = []
  for (const name of others) {
    const spec = machinesFor(config, 'node').find((m) => m.name === name)!
    let other: Machine
    try {
      other = await connectTo(config, spec, terminal, report)
    } catch (error) {
      if (!(error instanceof Fault)) throw error
      report.note(
        `${name} does not answer: ${error.message}. When it is back, ./task node replace ${name} at once: together with another it could go on as the cluster that was`,
      )
      continue
    }
    await look(other).finally(() => other.close())
    there.push(name)
  }
  if (living.length === 0) return there
  report.note(living.join('\n'))
  if (terminal) report.pause()
  const answer =
    given.format ??
    (terminal
      ? await question(
          `What is there is put aside, and another time takes its place.\nType ${member.name} to restore: `,
        )
      : undefined)
  if (answer !== member.name)
    throw new Fault(
      answer === undefined
        ? `a cluster lives here, and nobody said that it may end`
        : `its first server is called ${member.name}, not ${answer}`,
      {
        state: 'nothing was changed',
        next: `type ${member.name} when you are asked, or say --format ${member.name}`,
      },
    )
  return there
}

/** The steps of a restore, as a run of the page whose files they are: what is restored is then what that page knows. */
async function become(at: Here, machine: Machine, { manifest }: Bundle, name: string): Promise<number> {
  const { config, store, report, signal } = at
  const { runPage } = load('../engine/run.ts') as typeof import('../engine/run.ts')
  const { contextOf } = load('./pages.ts') as typeof import('./pages.ts')
  const { downloads } = load('../engine/delivery.ts') as typeof import('../engine/delivery.ts')
  const context = contextOf(config, machine.facts, store)
  const member = memberOf(context)
  const when = new Date().toISOString()
  const { canary, k3s } = manifest
  // The last step starts k3s. One transaction: what fails takes all of it back.
  const steps: Step[] = [
    ...prerequisites(context, member),
    ...configurationSteps(context, member),
    {
      name: `the cluster is what ${name} holds`,
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
    deadman: config.env.FK_DEADMAN_SECONDS,
    patience: config.env.FK_LOCK_WAIT_SECONDS,
    signal,
    fetch: downloads(config, { signal, onTransfer: (t) => report.transfer(t), say: (s) => report.note(s) }),
  })
  return code
}
