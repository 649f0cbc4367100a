// A cluster that is recorded: nodes of the lab on which test/fixtures/k3s/k3s stands in for k3s, and the API that all of them
// ask. It writes down what happens, can be made to fail, and knows what a real one would refuse.
import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { type Socket, createServer } from 'node:net'
import { join } from 'node:path'
import { contextOf } from '../../lib/cli/pages.ts'
import { downloads } from '../../lib/engine/delivery.ts'
import { type Machine, connect } from '../../lib/engine/machine.ts'
import type { Page } from '../../lib/engine/page.ts'
import { createReport } from '../../lib/engine/report.ts'
import { type Running, runPage } from '../../lib/engine/run.ts'
import { secretStore } from '../../lib/ground/secret.ts'
import { loadConfig } from '../../lib/site/config.ts'
import { machinesFor } from '../../lib/site/machines.ts'
import { type Fleet, fleet } from './fleet.ts'
import { type Said, root } from './kit.ts'

export interface Recorded {
  at: number
  what: string
  node: string
  more: string
}

interface Node {
  metadata: { name: string; annotations: Record<string, string> }
  spec: { unschedulable?: boolean }
  status: {
    nodeInfo: { kubeletVersion: string }
    conditions: { type: string; status: string; reason: string }[]
  }
  role: 'server' | 'agent'
}

export interface Pod {
  space: string
  name: string
  node: string
  /** The budget that lets it go nowhere. */
  budget?: string
  /** Nothing would start it anew. */
  bare?: boolean
}

/** What the recorded API does wrong on purpose. */
export interface Faults {
  /** Versions of k3s that end at once, or start and never become well. */
  crashes: Set<string>
  ill: Set<string>
  /** Nodes whose member of etcd is not healthy. */
  sick: Set<string>
  /** APIs that somebody asked for: `group/version resource`, and the release that removes them. */
  deprecated: { group: string; version: string; resource: string; removed: string }[]
  snapshot: boolean
}

type Answer = [code: number, text: string]

/** The API, in the test's own process. */
export class Api {
  readonly log: Recorded[] = []
  readonly nodes = new Map<string, Node>()
  /** The passwords by which nodes are known. */
  readonly secrets = new Map<string, string>()
  readonly faults: Faults = {
    crashes: new Set(),
    ill: new Set(),
    sick: new Set(),
    deprecated: [],
    snapshot: false,
  }
  pods: Pod[] = []
  /** Names of those that run now, and the connection that ends with them. */
  readonly up = new Map<string, Socket>()
  /** Name → address. */
  addresses = new Map<string, string>()
  #server = createServer((socket) => this.#take(socket))
  #tokens: { server?: string } = {}

  async listen(): Promise<string> {
    await new Promise<void>((resolve) => this.#server.listen(0, '10.78.0.1', resolve))
    return `10.78.0.1:${(this.#server.address() as { port: number }).port}`
  }

  /** Nothing goes wrong any more, and no pods stand in the way. */
  mend(): void {
    for (const set of [this.faults.crashes, this.faults.ill, this.faults.sick]) set.clear()
    this.faults.deprecated = []
    this.faults.snapshot = false
    this.pods = []
  }

  close(): void {
    for (const socket of this.up.values()) socket.destroy()
    this.#server.close()
  }

  /** The events of some kinds, as `what node`. */
  told(...kinds: string[]): string[] {
    return this.log.filter(({ what }) => kinds.includes(what)).map(({ what, node }) => `${what} ${node}`)
  }

  /** At most so many servers of etcd were away at once; `servers` are members when the log begins. */
  mostAway(...servers: string[]): number {
    const members = new Set(servers)
    const away = new Set<string>()
    let most = 0
    for (const { what, node } of this.log) {
      if (what === 'member') members.add(node)
      else if (what === 'removed') {
        members.delete(node)
        away.delete(node)
      } else if (what === 'stop' && members.has(node)) away.add(node)
      else if (what === 'ready') away.delete(node)
      most = Math.max(most, away.size)
    }
    return most
  }

  #note(what: string, node: string, more = ''): void {
    this.log.push({ at: Date.now(), what, node, more })
  }

  #take(socket: Socket): void {
    let text = ''
    socket.setEncoding('utf8').on('error', () => {})
    socket.on('data', (piece: string) => {
      text += piece
      const end = text.indexOf('\0\n')
      if (end < 0) return
      const [name = '', ...words] = text.slice(0, end).split('\0')
      text = ''
      if (words[0] === 'serve') this.#serve(socket, name, words)
      else {
        const [code, answer] = this.#answer(name, words)
        socket.end(`${code}\n${answer}`)
      }
    })
  }

  #serve(
    socket: Socket,
    name: string,
    [, role = '', version = '', kind = '', token = '', member = '', password = '']: string[],
  ): void {
    const refuse = (why: string) => socket.end(`${why}\n`)
    this.#note('start', name, version)
    if (this.faults.crashes.has(version)) return void refuse('Error: this version does not start')
    const known = this.nodes.get(name)
    const joining = role === 'server' && kind === 'joins' && member === ''
    if (kind === 'first' && !member) this.#tokens.server = token.trim().replace(/.*:/, '')
    if (kind !== 'first' && !token.startsWith('K10fingerprint::'))
      return void refuse('Error: who joins must know whom')
    if (joining && !this.#majority()) return void refuse('Error: etcd has no leader')
    if (member && this.#removed.has(name))
      return void refuse('Error: this member has been removed from the cluster')
    if (!member && known?.role === 'server')
      return void refuse('Error: etcd cluster join failed: duplicate node name found')
    if ((this.secrets.get(name) ?? password) !== password)
      return void refuse('Error: Node password rejected, duplicate hostname')
    this.up.set(name, socket)
    socket.on('close', () => {
      if (this.up.get(name) !== socket) return
      this.up.delete(name)
      this.#note('stop', name)
    })
    const node: Node = known ?? {
      metadata: { name, annotations: {} },
      spec: {},
      status: { nodeInfo: { kubeletVersion: version }, conditions: [] },
      role: role as Node['role'],
    }
    node.status.nodeInfo.kubeletVersion = version
    if (role === 'server' && !known) {
      this.#removed.delete(name)
      node.metadata.annotations['etcd.k3s.cattle.io/node-name'] = `${name}-${this.log.length}`
      this.#note('member', name)
    }
    if (!known) this.#note('join', name, role)
    this.nodes.set(name, node)
    this.secrets.set(name, password)
    socket.write('ok\n')
    setTimeout(() => {
      if (this.up.get(name) === socket && !this.faults.ill.has(version)) this.#note('ready', name, version)
    }, 100)
  }
  readonly #removed = new Set<string>()

  #servers = () => [...this.nodes.values()].filter(({ role }) => role === 'server')
  #majority(): boolean {
    const servers = this.#servers()
    const well = servers.filter(({ metadata: { name } }) => this.up.has(name))
    return well.length > servers.length / 2
  }

  #well = (name: string) =>
    this.up.has(name) &&
    !this.faults.sick.has(name) &&
    !this.faults.ill.has(this.nodes.get(name)?.status.nodeInfo.kubeletVersion ?? '')

  #seen(node: Node): Node {
    const { name } = node.metadata
    const [up, well] = [this.up.has(name), this.#well(name)]
    const conditions = [
      { type: 'Ready', status: up ? 'True' : 'Unknown', reason: up ? 'KubeletReady' : 'NodeStatusUnknown' },
      ...(node.role === 'server'
        ? [{ type: 'EtcdIsVoter', status: well ? 'True' : 'False', reason: '' }]
        : []),
    ]
    return { ...node, status: { ...node.status, conditions } }
  }

  #answer(from: string, [program, ...words]: string[]): Answer {
    if (program === 'snapshot') {
      if (this.faults.snapshot) return [1, 'level=fatal msg="Error: no space left on device"\n']
      this.#note('snapshot', from, words[0])
      return [0, '']
    }
    const who = words.shift()
    const server = words.find((word) => word.startsWith('--server='))?.slice('--server='.length)
    const asked =
      server === undefined
        ? from
        : [...this.addresses].find(
            ([, address]) => server.includes(`//${address}:`) || server.includes('//127.0.0.1:'),
          )?.[0]
    const target = server?.includes('127.0.0.1') ? from : asked
    const node = this.nodes.get(target ?? '')
    const refused: Answer = [
      1,
      `The connection to the server ${server ?? '127.0.0.1:6443'} was refused - did you specify the right host or port?\n`,
    ]
    if (
      !node ||
      (node.role === 'server' ? !this.up.has(node.metadata.name) : who === 'admin') ||
      !this.#majority()
    )
      return refused
    const args = words.filter((word) => !word.startsWith('--server='))
    const option = (name: string): string | undefined => {
      const at = args.findIndex((word) => word === name || word.startsWith(`${name}=`))
      return at < 0
        ? undefined
        : args[at]?.includes('=') && args[at]?.startsWith(`${name}=`)
          ? args[at].slice(name.length + 1)
          : args[at + 1]
    }
    const [verb, kind, subject] = args
    if (who === 'node' && !(['get', 'annotate'].includes(verb ?? '') && kind === 'node' && subject === from))
      return [
        1,
        `Error from server (Forbidden): ${verb} ${kind} ${subject} is forbidden: User "system:node:${from}"\n`,
      ]
    if (verb === 'get' && kind === '--raw') return this.#raw(subject ?? '', node.metadata.name)
    const format = option('--output') ?? ''
    const shown = (object: object): Answer => [
      0,
      format === 'name' ? '' : jsonpath(format.replace(/^jsonpath=/, ''), object),
    ]
    if (verb === 'get' && kind === 'nodes') {
      const chosen = option('--selector') ? this.#servers() : [...this.nodes.values()]
      if (format === 'name') return [0, chosen.map(({ metadata }) => `node/${metadata.name}\n`).join('')]
      return shown({ items: chosen.map((each) => this.#seen(each)) })
    }
    if (verb === 'get' && kind === 'poddisruptionbudgets') {
      const space = option('--namespace')
      const items = this.pods
        .filter((pod) => pod.space === space && pod.budget)
        .map((pod) => ({ metadata: { name: pod.budget }, status: { disruptionsAllowed: 0 } }))
      return shown({ items: [...items, { metadata: { name: 'roomy' }, status: { disruptionsAllowed: 1 } }] })
    }
    if (kind === 'secret') {
      const name = subject?.replace('.node-password.k3s', '') ?? ''
      if (verb === 'delete') {
        this.secrets.delete(name)
        this.#note('password', name)
        return [0, '']
      }
      return [0, this.secrets.has(name) ? `secret/${subject}\n` : '']
    }
    const name = kind === 'node' ? (subject ?? '') : (kind ?? '')
    const found = this.nodes.get(name)
    if (!found)
      return args.includes('--ignore-not-found')
        ? [0, '']
        : [1, `Error from server (NotFound): nodes "${name}" not found\n`]
    if (verb === 'get') return format === 'name' ? [0, `node/${name}\n`] : shown(this.#seen(found))
    if (verb === 'annotate') {
      for (const word of args.slice(3).filter((each) => !each.startsWith('--'))) {
        const [key = '', value] = word.split('=')
        if (value === undefined) delete found.metadata.annotations[key.replace(/-$/, '')]
        else found.metadata.annotations[key] = value
        if (key === 'etcd.k3s.cattle.io/remove' && value === 'true') this.#remove(found)
      }
      return [0, '']
    }
    if (verb === 'cordon' || verb === 'uncordon') {
      if ((found.spec.unschedulable ?? false) !== (verb === 'cordon')) this.#note(verb, name)
      found.spec.unschedulable = verb === 'cordon'
      return [0, '']
    }
    if (verb === 'drain') return this.#drain(found, args.includes('--disable-eviction'))
    if (verb === 'delete') {
      this.nodes.delete(name)
      this.#note('delete', name)
      return [0, '']
    }
    return [1, `error: unknown command "${verb}"\n`]
  }

  #remove(node: Node): void {
    const { annotations, name } = node.metadata
    annotations['etcd.k3s.cattle.io/removed-node-name'] = annotations['etcd.k3s.cattle.io/node-name'] ?? ''
    delete annotations['etcd.k3s.cattle.io/node-name']
    this.#removed.add(name)
    this.#note('removed', name)
    // A member that is taken out ends.
    this.up.get(name)?.destroy()
  }

  #raw(path: string, name: string): Answer {
    if (path === '/metrics')
      return [
        0,
        [
          deprecatedApi({ group: '', removed: '', resource: 'componentstatuses', version: 'v1' }),
          ...this.faults.deprecated.map(deprecatedApi),
        ].join('\n'),
      ]
    return this.#well(name)
      ? [0, 'ok']
      : [1, 'Error from server (InternalError): [-]etcd failed: reason withheld\n']
  }

  #drain(node: Node, force: boolean): Answer {
    const { name } = node.metadata
    node.spec.unschedulable = true
    const mine = this.pods.filter((pod) => pod.node === name)
    const bare = mine.filter((pod) => pod.bare)
    if (bare.length > 0 && !force) {
      this.#note('stuck', name)
      return [
        1,
        `error: unable to drain node "${name}" due to error: cannot delete cannot delete Pods that declare no controller ` +
          `(use --force to override): ${bare.map((pod) => `${pod.space}/${pod.name}`).join(', ')}, continuing command...\n`,
      ]
    }
    const blocked = force ? [] : mine.filter((pod) => pod.budget)
    this.pods = this.pods.map((pod) =>
      mine.includes(pod) && !blocked.includes(pod) ? { ...pod, node: '' } : pod,
    )
    if (blocked.length > 0) {
      this.#note('stuck', name)
      return [
        1,
        blocked
          .map(
            (pod) =>
              `error when evicting pods/"${pod.name}" -n "${pod.space}" (will retry after 5s): ` +
              `Cannot evict pod as it would violate the pod's disruption budget.\n`,
          )
          .join(''),
      ]
    }
    this.#note('drain', name, force ? 'force' : '')
    return [0, '']
  }
}

/**
 * The machine, on which a program kills itself, once at each place: before each command of a step and behind the last of them,
 * and within the swap of two versions. What it has killed there stands in /run of the machine, so that the next run gets
 * further.
 */
export function deadlyOnce(machine: Machine): Machine {
  const within = [
    String.raw`\[ "\$\(k3s_version\)" = "\$3" \]`,
    String.raw`k3s_runs "\$1" "\$2" > `,
    String.raw`until said=\$\(k3s_is`,
    String.raw`rm --force "\$K3S_NOTES/upgrading"\n`,
    'k3s_kubectl (?:cordon|uncordon|annotate|delete) ',
  ]
  const key = (text: string) => createHash('sha256').update(text).digest('hex').slice(0, 12)
  const stabbed = (text: string) => {
    const questions = new Map(
      [...text.matchAll(/^fk_check_(\d+)\(\) \{\n([\s\S]*?)\n\}$/gm)].map(([, n, body]) => [n, body]),
    )
    return text
      .replace(
        '\n',
        '\nexport FK_MAIN=$$; stab() { [ -e "/run/stab.$1" ] || { : > "/run/stab.$1"; kill -KILL "$FK_MAIN" $$; }; }\n' +
          'export -f stab\n',
      )
      .replaceAll(
        /^fk_do (\d+) (\d+) /gm,
        (call, n: string, j: string) => `stab ${key(`${questions.get(n)} ${j}`)}\n${call}`,
      )
      .replaceAll(
        /\n\}\nfk_recover_(\d+)\(\)/g,
        (tail, n: string) => `\nstab ${key(`${questions.get(n)} end`)}${tail}`,
      )
      .replaceAll(
        new RegExp(`^ {2}(?:${within.join('|')})`, 'gm'),
        (line, at: number, all: string) => `  stab ${key(all.slice(at, at + 90))}\n${line}`,
      )
  }
  return {
    ...machine,
    label: machine.label,
    route: machine.route,
    run: (program, onFrame, seconds) =>
      machine.run({ ...program, text: stabbed(program.text) }, onFrame, seconds),
  }
}

/** One line of the metrics by which an API server counts who asks for what goes away. */
const deprecatedApi = ({
  group,
  version,
  resource,
  removed,
}: Record<'group' | 'version' | 'resource' | 'removed', string>) =>
  `apiserver_requested_deprecated_apis{group="${group}",removed_release="${removed}",` +
  `resource="${resource}",subresource="",version="${version}"} 1`

/** As much of kubectl's jsonpath as is used: fields, `[*]` behind range, and `[?(@.a=="b")]`. */
export function jsonpath(template: string, object: object): string {
  const field = (path: string, from: unknown): unknown => {
    let value = from
    for (const [, filter, wanted, plain] of path.matchAll(
      /\[\?\(@\.(\w+)=="([^"]*)"\)\]|\.((?:\\.|[^.[\]\\])+)/g,
    )) {
      if (filter !== undefined)
        value = (value as Record<string, unknown>[]).find((each) => each[filter] === wanted)
      else value = (value as Record<string, unknown> | undefined)?.[(plain ?? '').replaceAll('\\.', '.')]
    }
    return value
  }
  const render = (text: string, from: unknown): string =>
    text.replaceAll(/\{("(?:\\.|[^"])*"|[^{}]+)\}/g, (_, inside: string) =>
      inside.startsWith('"') ? (JSON.parse(inside) as string) : String(field(inside, from) ?? ''),
    )
  const [, path, each] = /^\{range (\S+)\[\*\]\}(.*)\{end\}$/s.exec(template) ?? []
  if (path === undefined || each === undefined) return render(template, object)
  return (field(path, object) as object[]).map((item) => render(each, item)).join('')
}

export interface Cluster extends Fleet {
  api: Api
  /** Runs pages in this process, with each machine as `wrap` makes it, in the order of the runner; stops at a failure. */
  drive(pages: Page[], wrap?: (machine: Machine) => Machine): Promise<Said>
}

/** Machines that become a cluster: `roles` says of each what it is, in the order of the site document. */
export async function recorded(prefix: string, roles: ('server' | 'agent')[]): Promise<Cluster> {
  const api = new Api()
  let cluster = ''
  const fixture = readFileSync(join(root, 'test/fixtures/k3s/k3s'), 'utf8')
  const machines = await fleet(prefix, roles, (version) =>
    fixture.replaceAll('{{ version }}', version).replaceAll('{{ cluster }}', cluster),
  )
  // It listens where machines find it, and that is there when they are.
  cluster = await api.listen()
  const { copy, state, env, names, machineOf } = machines
  for (const name of names) api.addresses.set(name, machineOf(name).host)

  const open = new Map<string, Machine>()
  const lines: string[] = []
  const report = createReport({
    stdout: { write: (text: string) => lines.push(text) },
    tty: false,
    color: false,
  })

  return {
    ...machines,
    api,
    async drive(pages, wrap = (machine) => machine) {
      const config = loadConfig({ env: { ...env }, root: copy.dir })
      const store = secretStore({ dir: join(state, config.site.name), identity: join(state, 'identity.txt') })
      for (const name of open.size === 0 ? names : []) {
        const { host, port, user, identityFile, password } = machineOf(name)
        const target = {
          host,
          port,
          user,
          identityFile,
          configFile: '/dev/null',
          knownHostsFile: join(state, 'known_hosts'),
          alias: `fortress-pi.${name}`,
        }
        open.set(name, await connect({ name, target, interactive: false, password: async () => password }))
      }
      lines.length = 0
      for (const page of pages)
        for (const { name } of machinesFor(config, 'node')) {
          const machine = wrap(open.get(name)!)
          if (page.at !== undefined && page.at !== name) continue
          const steps = page.steps(contextOf(config, machine.facts, store))
          if (steps.length === 0) continue
          const running: Running = {
            machine,
            report,
            store,
            deadman: 60,
            patience: 20,
            elsewhere: async (other) => wrap(open.get(other)!),
            typed: async ({ typed }) => typed,
            fetch: downloads(config, { signal: new AbortController().signal }),
          }
          if ((await runPage(page, steps, 'apply', running)).code === 1)
            return { code: 1, text: lines.join('') }
        }
      return { code: 0, text: lines.join('') }
    },
    async end() {
      for (const machine of open.values()) await machine.close()
      api.close()
      await machines.end()
    },
  }
}
