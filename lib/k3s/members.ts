// The cluster of a site: which machines are its members, what each is told, and the words in which they are asked.
import { randomBytes } from 'node:crypto'
import { createRequire } from 'node:module'
import { isIP } from 'node:net'
import { dirname } from 'node:path'
import { type Artifact, artifactOf } from '../engine/artifact.ts'
import { type FileOptions, file } from '../engine/file.ts'
import type { Context } from '../engine/page.ts'
import type { Change, Step, Wait } from '../engine/step.ts'
import { Fault } from '../ground/fault.ts'
import { read } from '../ground/root.ts'
import { Secret } from '../ground/secret.ts'
import { library, sh } from '../ground/sh.ts'
import { accept } from '../site/config.ts'
import { type Placed, machinesFor } from '../site/machines.ts'
import type { Source } from '../vm/butane.ts'

const load = createRequire(import.meta.url)

/** The functions that the checks and commands about k3s share: lib/k3s/members.sh, as it stands. */
export const k3sShell = library('lib/k3s/members.sh')

const etc = '/etc/rancher/k3s'

/** One machine that runs k3s. */
export interface Member {
  name: string
  role: 'server' | 'agent'
  /** The server that begins the cluster: the first of the site document. */
  first: boolean
  /** Where the laptop finds the API: in the tunnel, or behind the host. */
  endpoint: string
  /** Where other members find it; absent where the site says no address, and there are no others. */
  address?: string
  arch: 'amd64' | 'arm64'
  /** A virtual machine, whose system and program came with its first boot. */
  virtual: boolean
}

/** The members of the site's cluster, in the order in which they come up: servers first. Throws a Fault for agents without a server. */
export function clusterOf({ site, env }: Pick<Context, 'site' | 'env'>): Member[] {
  const found = machinesFor({ site, env }, 'node')
  const role = ({ roles }: Placed) => (roles.includes('agent') ? 'agent' : 'server')
  const servers = found.filter((machine) => role(machine) === 'server')
  const [first] = servers
  if (found.length > 0 && first === undefined)
    throw new Fault(`the site ${site.name} has agents and no server`, {
      next: `give one of its nodes the role server in config/sites/${site.name}.yaml`,
    })
  return [...servers, ...found.filter((machine) => role(machine) === 'agent')].map((machine) => {
    const { name, arch, address, tunnel_address: tunnel } = machine
    const virtual = !machine.roles.includes('host')
    if (found.length > 1 && (address === undefined || isIP(address) === 0))
      throw new Fault(`${name} has no address that the other nodes of the cluster could find it at`, {
        next: `say it under machines: in config/sites/${site.name}.yaml, as numbers`,
      })
    return {
      name,
      role: role(machine),
      first: machine === first,
      endpoint: virtual && address ? address : (tunnel ?? site.tunnel.address),
      ...(address !== undefined && isIP(address) !== 0 ? { address } : {}),
      arch,
      virtual,
    }
  })
}

/** The member that a page is about. */
export function memberOf(context: Pick<Context, 'site' | 'env' | 'machine'>): Member {
  const found = clusterOf(context).find(({ name }) => name === context.machine.name)
  if (found === undefined) throw new Error(`${context.machine.name} is no node of ${context.site.name}`)
  return found
}

/** The program that is pinned, and where each version of it lies: an upgrade puts the new one beside the old one. */
export function programOf(
  { pins }: Pick<Context, 'pins'>,
  arch: string,
): {
  version: string
  path: string
  artifact: Artifact
} {
  const artifact = artifactOf(pins, 'k3s', arch)
  const version = pins['k3s']?.version ?? ''
  return { version, path: `/opt/k3s/${version}/k3s`, artifact }
}

/** Where others reach the API of a member; undefined where the site says no address, and there are no others. */
export const urlOf = ({ address }: Member): string | undefined =>
  address === undefined ? undefined : `https://${isIP(address) === 6 ? `[${address}]` : address}:6443`

/**
 * That `count` servers but `member` are well, and with them all that have joined: it may stop or join without costing the cluster
 * its majority. What one server says of another is some seconds old, so it is waited for.
 */
export function wellWithout({ name }: Member, members: Member[], count: number): Wait {
  const others = members.filter((other) => other.role === 'server' && other.name !== name)
  const askable = others.flatMap((server) => {
    const url = urlOf(server)
    return url === undefined ? [] : [`${server.name} ${url}`]
  })
  return {
    name: `the servers of the cluster are well without ${name}`,
    why: 'two that are away at the same time cost it its majority: then nobody can write any more',
    until: askable.length === 0 ? sh`k3s_well ${count} ${name}` : sh`k3s_well ${count} ${name} ${askable}`,
    seconds: 30,
  }
}

interface Written {
  path: string
  mode: string
  text: string
  /** What a fault in it is told of. */
  file: string
}

/** The files that tell k3s what to do on one node, without the secrets. */
export function filesOf(context: Pick<Context, 'site' | 'env'>, member: Member): Written[] {
  const told = (name: string, from: string): Written => ({
    path: `${etc}/${name}`,
    mode: '600',
    text: read(`config/k3s/${from}`),
    file: `config/k3s/${from}`,
  })
  const server = member.role === 'server'
  return [
    told('config.yaml', server ? 'config.yaml' : 'agent.yaml'),
    {
      path: `${etc}/config.yaml.d/10-node.yaml`,
      mode: '600',
      text: nodeFile(context, member),
      file: `what ${member.name} is told`,
    },
    ...(server ? [told('admission.yaml', 'admission.yaml'), told('audit.yaml', 'audit.yaml')] : []),
  ]
}

/** Throws ConfigError with everything that k3s and the programs in it would refuse, pass over in silence, or be weak with. */
function mustBeGood(context: Pick<Context, 'site' | 'env' | 'pins'>): void {
  const version = context.pins['k3s']?.version ?? ''
  const nodes = clusterOf(context).map((member) => ({ ...member, files: filesOf(context, member) }))
  const rules = ['lib/k3s/check/config.ts', 'lib/k3s/check/flags.ts', 'lib/k3s/check/apiserver.ts']
  const data = ['config/k3s/flags.yaml', 'config/schema/admission.json', 'config/schema/audit.json']
  accept([nodes, version], [...rules, ...data], () => {
    const { checkCluster } = load('./check/config.ts') as typeof import('./check/config.ts')
    return checkCluster(nodes, version)
  })
}

/** What only this node is told. */
function nodeFile(
  context: Pick<Context, 'site' | 'env'>,
  { name, role, first, address, endpoint }: Member,
): string {
  const { stringify } = load('yaml') as typeof import('yaml')
  const [begins] = clusterOf(context)
  const told = {
    'node-name': name,
    ...(address === undefined ? {} : { 'node-ip': address }),
    ...(first || begins === undefined ? { 'cluster-init': true } : { server: urlOf(begins) }),
    ...(role === 'server' ? { 'tls-san': [...new Set([name, endpoint, address ?? endpoint])] } : {}),
  }
  return `# What only this node is told; the rest is the same on all.\n${stringify(told, { lineWidth: 0 })}`
}

const unitOf = ({ role }: Member): Omit<Written, 'file'> => ({
  path: '/etc/systemd/system/k3s.service',
  mode: '644',
  text: read('config/k3s/k3s.service').replaceAll('{{ role }}', role),
})

/** What a virtual machine gets with its first boot: the program, its unit, and everything that it is told but the secrets. */
export function fragmentOf(context: Pick<Context, 'site' | 'env' | 'pins'>, name: string): Source {
  const { parse, stringify } = load('yaml') as typeof import('yaml')
  mustBeGood(context)
  const member = memberOf({ ...context, machine: { name } as Context['machine'] })
  const { path, version, artifact } = programOf(context, member.arch)
  const unit = unitOf(member)
  const document = {
    ...(parse(read('config/k3s/node-butane.yaml')) as object),
    storage: {
      files: [
        {
          path,
          mode: 0o755,
          contents: { source: artifact.url, verification: { hash: `sha256-${artifact.sha256}` } },
        },
        ...filesOf(context, member).map(({ path, mode, text }) => ({
          path,
          mode: Number.parseInt(mode, 8),
          contents: { inline: text },
        })),
      ],
      links: [{ path: '/opt/bin/k3s', target: `../k3s/${version}/k3s` }],
    },
    systemd: { units: [{ name: 'k3s.service', enabled: true, contents: unit.text }] },
  }
  // Butane wants modes as people write them.
  const text = stringify(document, { lineWidth: 0 }).replaceAll(
    /^( *mode: )(\d+)$/gm,
    (_, key: string, mode: string) => `${key}0${Number(mode).toString(8)}`,
  )
  return { file: 'config/k3s', text }
}

/** 256 bits, for a file that nobody types. */
const makeToken = () => randomBytes(32).toString('hex')

/** Names under which the laptop keeps the secrets of the cluster. */
export const kept = {
  server: 'k3s-server-token',
  agent: 'k3s-agent-token',
  /** The same with the fingerprint of the cluster's authority, by which who joins knows whom it joins. */
  joinServer: 'k3s-join-server',
  joinAgent: 'k3s-join-agent',
  kubeconfig: 'k3s-kubeconfig',
}

/** What the first server kept for those that join, as the laptop has it. */
function joining(context: Pick<Context, 'secrets'>, name: string): Secret {
  const saved = context.secrets(name)
  return new Secret(name, async () => {
    const text = await saved.resolve().catch(() => {
      throw new Fault('the cluster has not begun: the laptop knows nobody who could be joined', {
        next: './task k3s-server apply',
      })
    })
    return Buffer.from(text, 'base64').toString('utf8')
  })
}

/** The secrets that a node reads from files, one step for each. */
function secretsOf(context: Context, member: Member): Change[] {
  const { secrets } = context
  const line = (secret: Secret) => new Secret(secret.name, async () => `${(await secret.resolve()).trim()}\n`)
  const land = (name: string, secret: Secret, what: string) =>
    file(`${etc}/${name}`, { secret: line(secret), mode: '600', name: what, door: 'api' })
  if (member.role === 'agent')
    return [
      land(
        'token',
        joining(context, kept.joinAgent),
        'the node has what an agent joins with, and knows whom it joins',
      ),
    ]
  const token = member.first ? secrets(kept.server, makeToken) : joining(context, kept.joinServer)
  return [
    land(
      'agent-token',
      secrets(kept.agent, makeToken),
      'agents come with a token of their own, with which nobody becomes a server',
    ),
    land(
      'token',
      token,
      member.first
        ? 'the cluster has its token'
        : 'the node has what a server joins with, and knows whom it joins',
    ),
  ]
}

/** The pinned program is on a node, beside the one that runs. With `stays` undo leaves it there: by then it may be what runs. */
export function stagedOf(context: Context, member: Member, { stays = false } = {}): Step[] {
  const { version, path, artifact } = programOf(context, member.arch)
  return [
    {
      name: `there is a place for k3s ${version}`,
      check: sh`test "$(stat --format='%F %a %U:%G' ${dirname(path)})" = 'directory 755 root:root'`,
      apply: [
        ...(stays ? [] : [sh`keep /opt/k3s && keep ${dirname(path)}`]),
        sh`install --directory --mode=755 --owner=root --group=root /opt/k3s ${dirname(path)}`,
      ],
      undo: [sh`find ${dirname(path)} -maxdepth 1 -name '.*.part' -delete`],
    },
    {
      name: `k3s ${version} is here, as its makers published it`,
      why: 'it has the digest that is pinned; nothing that comes from the network is run to install it',
      check: sh`k3s_program ${version} ${artifact.sha256 ?? 'unproven'}`,
      upload: { artifact, to: path },
      apply: [stays ? sh`FK_KEEP='' k3s_land ${version}` : sh`k3s_land ${version}`],
      seconds: 900,
    },
  ]
}

/** What must be there before k3s is told anything: what it stands on, and the program itself. */
export function groundOf(context: Context, member: Member): Step[] {
  const { version } = programOf(context, member.arch)
  const inContainer = sh`systemd-detect-virt --quiet --container`
  return [
    {
      name: 'the kernel has cgroups of the second kind, and the clock is set',
      why: 'the kubelet of this version refuses the first kind, and certificates are not good before their time',
      check: sh`test "$(stat --file-system --format=%T /sys/fs/cgroup)" = cgroup2fs && { ${inContainer} || test "$(timedatectl show --property=NTPSynchronized --value)" = yes; }`,
      help: 'find out why the clock is not synchronised: timedatectl timesync-status, or chronyc tracking',
    },
    ...(member.virtual
      ? []
      : [
          file('/etc/sysctl.d/99-zz-fortress-k3s.conf', {
            from: 'config/k3s/sysctl.conf',
            then: [
              sh`/usr/lib/systemd/systemd-sysctl /etc/sysctl.d/99-zz-fortress-k3s.conf || ${inContainer}`,
            ],
            name: 'the kernel is as the kubelet wants it',
            why: 'it would refuse to start, and it is not allowed to change the kernel itself',
          }),
        ]),
    ...stagedOf(context, member),
    {
      name: 'one of the versions that are here is the one that runs',
      why: 'which one, is changed by k3s-upgrade alone: it takes the pods away first, and goes back when the new one fails',
      check: sh`test -n "$(k3s_version)" && test -x /opt/bin/k3s`,
      apply: [sh`k3s_use ${version}`],
    },
  ]
}

/**
 * What k3s is told, and that it runs with it: one transaction, so that a server that does not come up with what it is told gets
 * back what it had, by itself. `around` is what another machine does before it starts, and after it.
 */
export function runningOf(context: Context, member: Member, onOtherNode?: Change['onOtherNode']): Step[] {
  mustBeGood(context)
  const { name, role } = member
  const land = ({ path, mode, text }: Omit<Written, 'file'>, more: Partial<FileOptions> = {}) =>
    file(path, { text, mode, door: 'api', ...more })
  const seconds = 600
  return [
    land(unitOf(member), { then: [sh`systemctl daemon-reload`], name: 'k3s has a unit' }),
    ...filesOf(context, member).map((written) =>
      land(written, { name: `k3s is told what to do: ${written.path.slice(etc.length + 1)}` }),
    ),
    ...(role === 'server'
      ? [
          {
            name: 'the audit log has a directory that only root can read',
            check: sh`test "$(stat --format='%a %U:%G' /var/lib/rancher/k3s/server/logs)" = '700 root:root'`,
            apply: [
              sh`install --directory --mode=700 --owner=root --group=root /var/lib/rancher/k3s/server /var/lib/rancher/k3s/server/logs`,
            ],
            door: 'api' as const,
          },
        ]
      : []),
    ...secretsOf(context, member),
    {
      name: `k3s runs as ${role} ${name}, with all that it is told`,
      why: 'it starts anew only when something of that has changed; when it does not come up, what it was told before returns',
      check: sh`k3s_runs ${role} ${name}`,
      apply: [sh`k3s_start ${role} ${name} ${seconds - 60}`],
      undo: [sh`k3s_stop`],
      seconds,
      door: 'api',
      ...(onOtherNode ? { onOtherNode } : {}),
    },
  ]
}
