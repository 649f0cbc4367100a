// A site document of the format before (keys admin, nodes, firewall, vault, backup) in that of config/schema/site.json: what it
// says stays true, its comments stay, and what only a person can decide is a note. It works on the text, section by section: a
// section that says nothing old stays as it stands.
import { createRequire } from 'node:module'
import type { Document, Node, Pair, Scalar, YAMLMap, YAMLSeq } from 'yaml'
import { parseNetwork, lowestFree } from '../ground/address.ts'
import { type Section, assembled, commentsOf, edited, sectionsOf } from '../ground/edited.ts'
import { Fault } from '../ground/fault.ts'
import { withDefaults } from './config.ts'
import { complete, firstHost } from './defaults.ts'
import type { Allow, Never } from './model.ts'
import { type Guest, type Old, guestsOf, ownerOf, readOld } from './old.ts'

const load = createRequire(import.meta.url)

export interface Migration {
  /** The document in the new format; the very same text where it is in that already. */
  text: string
  /** What a person has to know or to do, one sentence or more each. */
  notes: string[]
}

/** The first line by which an editor finds the schema. */
export const editorLine = '# yaml-language-server: $schema=../schema/site.json'

/** A migration at work. */
interface Work {
  old: Old
  sections: Section[]
  notes: string[]
  yaml: typeof import('yaml')
}

/**
 * The document `text` of `file` (for sentences only) in the new format, and what is to be said about it. Throws a Fault for what
 * cannot be carried over: a text with faults of its own, and one that says a thing in both formats.
 */
export function migrate(text: string, file: string): Migration {
  const lines = text.replaceAll('\r\n', '\n')
  const unix = lines.endsWith('\n') ? lines : `${lines}\n`
  const old = readOld(lines, file)
  if (old === undefined) return { text, notes: [] }
  const sections = sectionsOf(unix)
  if (sections === undefined)
    throw new Fault(`${file} is one map in braces`, {
      state: 'nothing was changed',
      next: 'write each key of it on a line of its own, then run this again',
    })
  const work: Work = {
    old,
    sections,
    notes: [],
    yaml: load('yaml') as typeof import('yaml'),
  }
  machines(work)
  tunnel(work)
  networks(work)
  vault(work)
  data(work)
  components(work)
  // It follows from the machines and networks as they are now.
  router(work)
  admin(work)
  if (commentsOf(unix).some((comment) => /\b(nodes?|firewall|egress|backup|admin)\b/.test(comment)))
    work.notes.push('Comments stay as they were written: some still speak of keys that are gone.')
  const next = withComments(unix, withEditorLine(assembled(sections)))
  return { text: text.includes('\r\n') ? next.replaceAll('\n', '\r\n') : next, notes: work.notes }
}

type Machines = YAMLSeq<YAMLMap>

/** The pair of a key. */
const pairOf = (map: YAMLMap, key: string): Pair<Scalar, Node> | undefined =>
  (map.items as Pair<Scalar, Node>[]).find((pair) => pair.key.value === key)

const section = ({ sections }: Work, key: string): Section | undefined =>
  sections.find((one) => one.key === key)

/** Changes the value of a top-level key; lines that say the same stand as they stood. */
function change<T extends Node>(work: Work, key: string, how: (value: T, document: Document) => void): void {
  const found = section(work, key)
  if (found !== undefined)
    found.body = edited(found.body, (document) => how(document.get(key, true) as unknown as T, document))
}

/** Takes a section out. Its comments stay in front of the next one, behind a sentence that says whose they are. */
function leave(work: Work, key: string, sentence: string): void {
  const at = work.sections.findIndex((one) => one.key === key)
  const [gone] = work.sections.splice(at, 1)
  const comments = commentsOf(`${gone?.lead}${gone?.body}`)
  if (comments.length === 0) return
  const kept = ['', `# ${sentence}`, ...comments, ''].join('\n')
  const next = work.sections[at]
  if (next !== undefined) next.lead = `${kept}${next.lead.startsWith('\n') ? '' : '\n'}${next.lead}`
}

/** Roles, SSH ports, and virtual machines, which the document names one by one now. */
function machines(work: Work): void {
  const { old, notes } = work
  const guests = guestsOf(old)
  const virtual = ({ name }: { name: string }): boolean => guests.some((guest) => guest.name === name)
  const other = old.machines.filter((machine) => virtual(machine) && machine.os !== 'flatcar')
  if (other.length > 0)
    notes.push(
      `${other.map(({ name, os }) => `${name} (${os})`).join(', ')}: the document says flatcar now, which is what a virtual ` +
        'machine has had all along.',
    )
  for (const machine of old.machines.filter((each) => !virtual(each))) {
    if (machine.roles.includes('node') && !machine.roles.includes('host'))
      notes.push(
        `${machine.name} has no role host, so no page hardens it. The new format asks for one: add host to its roles.`,
      )
    if (startedByGrub(machine))
      notes.push(
        `${machine.name} gets board: pc, as it was taken for one. If it is a Raspberry Pi, write rpi4, rpi5 or rpi-cm5.`,
      )
  }
  change<Machines>(work, 'machines', (list, document) => {
    old.machines.forEach((before, i) => {
      const item = list.items[i]
      if (item === undefined) return
      roles(work, item, before.roles)
      const guest = guests.find(({ name }) => name === before.name)
      if (guest !== undefined) asGuest(work, item, before, guest, document)
      else if (startedByGrub(before)) item.set('board', 'pc')
      const port = pairOf(item, 'port')
      if (port !== undefined && typeof before.port === 'number') port.key.value = 'ssh_port'
    })
    for (const { name, arch, address, vm, listed } of guests)
      if (!listed) list.add(flow(document, { name, roles: ['server'], os: 'flatcar', arch, vm, address }))
  })
}

/** Ubuntu for ARM, which was taken for a machine with GRUB. */
const startedByGrub = ({ os, arch, board }: Old['machines'][number]): boolean =>
  os === 'ubuntu-24.04' && arch === 'arm64' && board === undefined

/** host and node are host and server; a node that is no agent was a server. */
function roles({ yaml }: Work, item: YAMLMap, before: string[]): void {
  const list = item.get('roles', true) as unknown as YAMLSeq
  const kind = before.some((role) => role === 'server' || role === 'agent')
  list.items = (list.items as Scalar[]).filter((role) => !(kind && role.value === 'node'))
  for (const role of list.items as Scalar[])
    if (yaml.isScalar(role) && role.value === 'node') role.value = 'server'
}

/** What a listed machine says, as the virtual machine that it has been. */
function asGuest(
  { notes }: Work,
  item: YAMLMap,
  before: Old['machines'][number],
  guest: Guest,
  document: Document,
): void {
  for (const key of ['user', 'port', 'tunnel_address'] as const) {
    if (before[key] === undefined) continue
    item.delete(key)
    if (before[key] !== 'core' && before[key] !== 22)
      notes.push(`${before.name} had ${key}: ${before[key]}, which had no effect on a virtual machine.`)
  }
  const system = item.get('os', true) as unknown as Scalar
  system.value = 'flatcar'
  item.set('vm', flow(document, guest.vm))
  if (before.address === undefined) item.set('address', guest.address)
}

/** Which host the tunnel ends at, where there are several, and an address of its own for each other one. */
function tunnel(work: Work): void {
  const { old, notes } = work
  const hosts = old.machines.filter(({ roles }) => roles.includes('host'))
  const main = hosts.find(({ tunnel_address }) => tunnel_address === undefined) ?? hosts[0]
  if (main === undefined) return
  if (main.tunnel_address !== undefined) {
    change<Machines>(work, 'machines', (list) => {
      for (const item of list.items) if (item.get('name') === main.name) item.delete('tunnel_address')
    })
    notes.push(
      `${main.name} had tunnel_address: ${main.tunnel_address}: the tunnel ends there, so its address is that of tunnel.address.`,
    )
  }
  if (hosts.length < 2) return
  change<YAMLMap>(work, 'tunnel', (map, document) => {
    map.items.splice(1, 0, document.createPair('at', main.name))
  })
  const range = parseNetwork(old.tunnel?.network ?? '')
  const without = hosts.filter((host) => host !== main && host.tunnel_address === undefined)
  if (range === undefined || without.length === 0) return
  const taken = new Set([
    old.tunnel?.address,
    ...(old.tunnel?.peers ?? []).map(({ address }) => address),
    ...hosts.map((host) => host.tunnel_address),
  ])
  const given = without.map(({ name }) => {
    const address = lowestFree(range, taken)
    if (address === undefined)
      throw new Fault(`${old.tunnel?.network} has no free address left for ${name}`, {
        next: 'give tunnel.network a shorter prefix',
      })
    taken.add(address)
    return [name, address] as const
  })
  change<Machines>(work, 'machines', (list) => {
    for (const [name, address] of given)
      for (const item of list.items) if (item.get('name') === name) item.set('tunnel_address', address)
  })
  const all = given.map(([name, address]) => `${name} ${address}`).join(', ')
  notes.push(
    `The tunnel ends at ${main.name} (tunnel.at); each other host has an address of its own in it now: ${all}. ` +
      'Make the files of your devices anew after the pages are applied: ./task peer show NAME.',
  )
}

/** The network of the virtual machines is one of a list. */
function networks(work: Work): void {
  const { old, sections, yaml } = work
  const found = section(work, 'nodes')
  if (found === undefined || old.nodes === undefined) return
  const owner = ownerOf(old)
  if (owner === undefined) {
    work.notes.push('nodes had no effect, because every host is a node itself: it is gone.')
    return leave(work, 'nodes', 'Of nodes:, which had no effect here.')
  }
  const before = yaml.parseDocument(found.body).get('nodes', true) as unknown as YAMLMap
  const document = new yaml.Document({ networks: [{ name: 'guests' }] })
  const item = document.getIn(['networks', 0], true) as YAMLMap
  const bridge = document.createNode({ at: owner.name }) as YAMLMap
  const named = pairOf(before, 'bridge')
  if (named?.value) bridge.add(new yaml.Pair(new yaml.Scalar('name'), named.value))
  const network = pairOf(before, 'network')
  if (network !== undefined) item.items.push(network)
  item.items.push(new yaml.Pair(named?.key ?? new yaml.Scalar('bridge'), bridge))
  commentLike(item, before)
  item.comment =
    [before.comment, pairOf(before, 'console')?.value?.comment].filter(Boolean).join('\n') || null
  const plain = commentsOf(found.body).length === 0
  Object.assign(plain ? item : bridge, { flow: !named?.value?.comment })
  sections[sections.indexOf(found)] = {
    ...found,
    key: 'networks',
    body: printed(document, found.body),
  }
}

/** The vault is of a host. Its lines are moved as they stand. */
function vault(work: Work): void {
  const { old, sections, notes, yaml } = work
  const found = section(work, 'vault')
  const hosts = old.machines.filter(({ roles }) => roles.includes('host'))
  const [owner, ...others] = hosts
  if (found === undefined || owner === undefined) return
  sections.splice(sections.indexOf(found), 1)
  // It was the default of every host; now a Raspberry Pi has half of it.
  const kdf = hosts.some(({ os }) => os === 'raspios-13') && old.vault?.['kdf_memory_kib'] === undefined
  const settings: Record<string, unknown> = { ...old.vault, ...(kdf ? { kdf_memory_kib: 1048576 } : {}) }
  if (kdf) found.body = edited(found.body, (document) => document.setIn(['vault', 'kdf_memory_kib'], 1048576))
  const mark = 'THE-VAULT-STANDS-HERE'
  change<Machines>(work, 'machines', (list, document) => {
    list.flow = false
    for (const item of list.items) {
      const name = item.get('name')
      if (name === owner.name) {
        inLines(item, yaml)
        item.set('vault', mark)
      } else if (others.some((other) => other.name === name))
        item.set('vault', flow(document, { ...settings, ...(settings['disk'] ? { disk: '' } : {}) }))
    }
  })
  if (others.length > 0 && old.vault?.['disk'])
    notes.push(
      `The disk ${old.vault['disk']} is written down for ${owner.name}; ` +
        `no disk is chosen for ${others.map(({ name }) => name).join(', ')}: write it in vault.disk there.`,
    )
  const list = section(work, 'machines')
  if (list === undefined) return
  list.body = list.body.replace(new RegExp(`^( *)vault: ${mark}$`, 'm'), (_, indent: string) =>
    `${found.lead}${found.body}`
      .replace(/^\n+|\n+$/g, '')
      .split('\n')
      .map((line) => (line === '' ? '' : `${indent}${line}`))
      .join('\n'),
  )
}

/** backup: is what data: says of the cluster. */
function data(work: Work): void {
  const { old, sections, yaml } = work
  const found = section(work, 'backup')
  if (found === undefined) return
  if (Object.keys(old.backup ?? {}).length === 0)
    return leave(work, 'backup', 'Of backup:, which said nothing.')
  const before = yaml.parseDocument(found.body).get('backup', true) as unknown as YAMLMap<Scalar, Node>
  const take = (key: string): Pair<Scalar, Node> | undefined =>
    before.items.find((pair) => pair.key.value === key)
  const document = new yaml.Document({ data: {} })
  const map = document.get('data', true) as unknown as YAMLMap
  map.flow = false
  commentLike(map, before)
  const recovery = take('recovery')
  if (recovery !== undefined) map.items.push(recovery)
  const targets = (['directory', 'ssh', 's3'] as const).flatMap((key) => {
    const pair = take(key)
    return pair === undefined ? [] : targetOf(work, key, pair as Pair<Scalar, YAMLMap>)
  })
  if (targets.length > 0) {
    const list = document.createNode([]) as YAMLSeq
    for (const target of targets) list.add(target)
    map.set('targets', list)
  }
  const to = targets.map((target) => target.get('name'))
  const keep = document.createNode([]) as YAMLSeq
  keep.add(rowOf(work, take('schedule'), take('keep'), to, document))
  map.set('keep', keep)
  sections[sections.indexOf(found)] = { ...found, key: 'data', body: printed(document, found.body) }
  if (targets.length === 0) return
  const until = `${new Date().getFullYear() + 1}-12-31`
  const line = `{ what: deletable-backups, why: the node deletes its old backups itself, until: ${until} }`
  sections.splice(-1, 0, { key: 'accepted', lead: '\n', body: `accepted:\n  - ${line}\n` })
  work.notes.push(
    'Whoever takes the node could delete the backups elsewhere, too: accepted says so, with a date. ' +
      'A target whose key cannot delete has append_only: true.',
  )
}

const kinds = { directory: 'directory', ssh: 'sftp', s3: 's3' } as const

/** A destination as one of the list of targets. */
function targetOf(
  { yaml }: Work,
  key: keyof typeof kinds,
  { key: name, value: before }: Pair<Scalar, YAMLMap>,
): YAMLMap {
  const item = new yaml.YAMLMap()
  const kind = kinds[key]
  item.set('name', kind)
  item.set('kind', kind)
  item.items.push(...(before?.items ?? []))
  // It was the default, by which requests are signed.
  if (kind === 's3' && !item.has('region')) item.set('region', 'us-east-1')
  const comments = [name.commentBefore, before?.commentBefore].filter(Boolean)
  if (comments.length > 0) item.commentBefore = comments.join('\n')
  item.comment = before?.comment ?? null
  item.flow = before?.flow === true
  return item
}

/** When the cluster is backed up, and how many copies are kept, as a row of data.keep. */
function rowOf(
  { yaml }: Work,
  schedule: Pair<Scalar, Node> | undefined,
  keep: Pair<Scalar, Node> | undefined,
  to: unknown[],
  document: Document,
): YAMLMap {
  const item = new yaml.YAMLMap()
  const moved = (pair: Pair<Scalar, Node> | undefined, name: string, preset: unknown): void => {
    const value = pair?.value ?? document.createNode(preset)
    const key = pair?.key ?? new yaml.Scalar(name)
    key.value = name
    item.items.push(new yaml.Pair(key, value))
  }
  const when = (schedule?.value as Scalar | undefined)?.value
  item.set('what', 'cluster')
  moved(schedule, 'every', 'daily')
  moved(keep, 'copies', 14)
  item.set('to', flow(document, to))
  item.set('rpo', gapOf(typeof when === 'string' ? when : 'daily'))
  item.set('rto', '1h')
  const comments = [schedule, keep].some((pair) => pair?.key.commentBefore || pair?.value?.comment)
  item.flow = !comments
  return item
}

/** The longest time between two events of an OnCalendar=, and a day for those that are more often. */
function gapOf(calendar: string): string {
  const [, year = '*', month = '*', day = '*'] =
    /(?:(\S+)-)?(\S+)-(\S+)/.exec(calendar.replace(/^[A-Za-z.,]+ ?/, '')) ?? []
  if (year !== '*' || month !== '*') return '366d'
  if (calendar === 'monthly' || day !== '*') return '31d'
  return calendar === 'weekly' || /^[A-Z][a-z]{2}\b/.test(calendar) ? '7d' : '24h'
}

/** A slot that has another name now. */
function components(work: Work): void {
  if (work.old.components?.['cni'] === undefined) return
  change<YAMLMap>(work, 'components', (map) => {
    const cni = pairOf(map, 'cni')
    if (cni !== undefined) cni.key.value = 'network'
  })
}

/** What the firewall lets out, as lines of router.allow. Where the default says the same there are none. */
function router(work: Work): void {
  const { old, sections, notes } = work
  const found = section(work, 'firewall')
  const site = completed(work)
  const listed = old.firewall?.egress === 'listed'
  const inside = ['guests', 'pods'].filter((word) =>
    site.allow.some(({ from }) => (Array.isArray(from) ? from : [from]).includes(word)),
  )
  if (!listed && inside.length === 0) {
    if (found !== undefined)
      leave(work, 'firewall', 'Of firewall:, which let everything out, as it is by default.')
    return
  }
  const body = routerText(work, site, inside)
  if (found === undefined) sections.splice(-1, 0, { key: 'router', lead: '\n', body })
  else sections[sections.indexOf(found)] = { ...found, key: 'router', body }
  if (!listed)
    notes.push(
      `${inside.join(' and ')} may still open connections to private networks beyond the host, as before. ` +
        'By default they reach the internet only: for that, delete router: and all that is under it.',
    )
}

/** The rules that hold where a document has none, of the document as it is by now. */
function completed({ sections, yaml }: Work): { allow: Allow[]; never: Never[] } {
  const kept = sections.filter(({ key }) => key !== 'firewall')
  const document = withDefaults(yaml.parse(assembled(kept)))
  return firstHost(document) === undefined ? { allow: [], never: [] } : complete(document).router
}

function routerText(
  work: Work,
  { allow, never }: { allow: Allow[]; never: Never[] },
  inside: string[],
): string {
  const { old, yaml } = work
  const found = section(work, 'firewall')
  const before = yaml.parseDocument(found?.body ?? 'firewall: {}').get('firewall', true) as unknown as YAMLMap
  const list = before.get('allow', true) as unknown as YAMLSeq | undefined
  const listed = old.firewall?.egress === 'listed'
  const out = ({ to }: Allow): boolean => [to].flat().includes('internet')
  const senders = one(['router', ...inside])
  // A host may ask for names and time in any case; pods had the list alone.
  const always = {
    from: 'guests',
    to: ['internet', 'upstream'],
    ports: ['udp/53', 'tcp/53', 'udp/123', 'tcp/853', 'tcp/4460'],
    why: 'names and time',
  }
  const kept = [...allow.filter((line) => !out(line)), ...(inside.includes('guests') ? [always] : [])]
  const document = new yaml.Document({ router: { allow: [], never: [] } })
  const rows = document.getIn(['router', 'allow'], true) as YAMLSeq
  rows.flow = false
  const wide = allow.map((line) =>
    out(line) ? { ...line, to: ['internet', 'upstream'], ports: 'any' as const } : line,
  )
  for (const line of listed ? kept : wide) rows.add(flow(document, line))
  old.firewall?.allow?.forEach(({ name, to, protocol, ports }, i) => {
    if (!listed) return
    const row = flow(document, {
      from: senders,
      to: to === 'any' ? ['internet', 'upstream'] : to,
      ports: ports.map((port) => `${protocol}/${port}`),
      why: name,
    })
    const item = list?.items[i] as Node | undefined
    commentLike(row, item)
    rows.add(row)
  })
  const closed = document.getIn(['router', 'never'], true) as YAMLSeq
  closed.flow = false
  for (const line of never) {
    const to = [line.to]
      .flat()
      .filter((word) => word !== 'upstream' || !inside.includes([line.from].flat()[0] ?? ''))
    if (to.length > 0) closed.add(flow(document, { ...line, to: one(to) }))
  }
  const map = document.get('router', true) as unknown as YAMLMap
  const egress = before.get('egress', true) as unknown as Scalar | undefined
  const comments = [
    before.commentBefore,
    egress?.comment,
    pairOf(before, 'allow')?.key.commentBefore,
    list?.commentBefore,
  ].filter(Boolean)
  map.commentBefore = [
    ...comments,
    listed
      ? ' The lines of the default (config/host/allow.yaml), and what was listed under firewall.allow.'
      : ' The lines of the default (config/host/allow.yaml), and upstream, as before. ' +
        'Delete router: to have the default alone.',
  ].join('\n')
  return printed(document, found?.body ?? '')
}

const one = (words: string[]): string | string[] => (words.length === 1 ? (words[0] ?? '') : words)

/** One group for everybody who may log in. */
function admin(work: Work): void {
  const group = work.old.admin?.group
  if (section(work, 'admin') === undefined) return
  const same = group === undefined || group === 'ssh-admins'
  leave(
    work,
    'admin',
    same
      ? 'Of admin.group, which is ssh-admins everywhere now:'
      : `Of admin.group, which was ${group} and is ssh-admins now:`,
  )
  if (!same)
    work.notes.push(
      `The group ${group} lets nobody in any more: it is ssh-admins on every machine. BEFORE page 00 (host-harden) is ` +
        `applied, on each host: getent group ${group} shows who is in it; then for each of them: sudo groupadd --force ` +
        'ssh-admins && sudo usermod --append --groups ssh-admins NAME. Whoever is not in ssh-admins cannot log in after that.',
    )
}

/** A node in braces or brackets. */
function flow(document: Document, value: unknown): YAMLMap {
  const node = document.createNode(value) as YAMLMap
  node.flow = true
  return node
}

/** A node takes the place of another: with its comments. */
function commentLike(node: Node, before: Node | undefined): void {
  node.commentBefore = before?.commentBefore ?? null
  node.comment = before?.comment ?? null
}

/** A map in braces gets a line for each key; its comment stays with the first. */
function inLines(map: YAMLMap, yaml: typeof import('yaml')): void {
  if (map.flow !== true) return
  map.flow = false
  const [first] = map.items as Pair<Scalar, Node>[]
  if (map.comment && first?.value && yaml.isScalar(first.value)) {
    first.value.comment = [first.value.comment, map.comment].filter(Boolean).join(',')
    map.comment = null
  }
}

/** A new section, with the indentation and the spaces of the old one. */
const printed = (document: Document, before: string): string => edited(before, () => document)

function withEditorLine(text: string): string {
  return /^# yaml-language-server:/m.test(text) ? text : `${editorLine}\n${text}`
}

/** No comment is lost: one whose line has no successor stands at the end. */
function withComments(before: string, after: string): string {
  const there = commentsOf(after)
  const lost = commentsOf(before).filter((comment) => {
    const at = there.indexOf(comment)
    if (at >= 0) there.splice(at, 1)
    return at < 0
  })
  return lost.length === 0 ? after : `${after}\n# Comments of lines that are gone:\n${lost.join('\n')}\n`
}
