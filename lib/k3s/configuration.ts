// The configuration of k3s on one node: its files, checked before a node gets them, its unit, its tokens, and the first boot.
import { randomBytes } from 'node:crypto'
import { createRequire } from 'node:module'
import { file } from '../engine/file.ts'
import type { Context } from '../engine/page.ts'
import type { Change, Step } from '../engine/step.ts'
import { read } from '../ground/root.ts'
import { Secret } from '../ground/secret.ts'
import { sh } from '../ground/sh.ts'
import { apiOf } from '../site/cluster.ts'
import { machineOf } from '../site/machines.ts'
import type { Oidc } from '../site/model.ts'
import type { Source } from '../vm/butane.ts'
import {
  type Member,
  apiUrl,
  clusterOf,
  joinToken,
  k3sTransaction,
  memberOf,
  programOf,
  secretNames,
} from './members.ts'

const load = createRequire(import.meta.url)
const etc = '/etc/rancher/k3s'

interface ConfigFile {
  path: string
  mode: string
  text: string
  /** What messages about a fault in it call it. */
  file: string
}

/** The configuration files of k3s on one node, without the secrets. */
export function filesOf(context: Pick<Context, 'site'>, member: Member): ConfigFile[] {
  const shipped = (name: string, from: string): ConfigFile => ({
    path: `${etc}/${name}`,
    mode: '600',
    text: read(`config/k3s/${from}`),
    file: `config/k3s/${from}`,
  })
  const server = member.role === 'server'
  return [
    shipped('config.yaml', server ? 'config.yaml' : 'agent.yaml'),
    {
      path: `${etc}/config.yaml.d/10-node.yaml`,
      mode: '600',
      text: nodeFile(context, member),
      file: `the configuration of ${member.name}`,
    },
    ...(server ? [shipped('admission.yaml', 'admission.yaml'), shipped('audit.yaml', 'audit.yaml')] : []),
    ...(server && context.site.cluster.oidc ? [loginFile(context.site.cluster.oidc)] : []),
    ...(context.site.cluster.mirror === 'embedded' ? [shipped('registries.yaml', 'registries.yaml')] : []),
  ]
}

const login = `${etc}/authentication.yaml`

/** The identity provider by which people log in, as the API server reads it. */
function loginFile(oidc: Oidc): ConfigFile {
  const from = 'config/k3s/authentication.yaml'
  const values: Record<string, string> = { ca: '', username: 'email', prefix: '', ...oidc }
  const text = read(from).replaceAll(/'\{\{ (\w+) \}\}'/g, (_, name: string) => JSON.stringify(values[name]))
  return { path: login, mode: '600', text, file: from }
}

/** The part of the configuration that differs from node to node. */
function nodeFile(context: Pick<Context, 'site'>, { name, role, first, address, endpoint }: Member): string {
  const { stringify } = load('yaml') as typeof import('yaml')
  const { site } = context
  const { join, names } = apiOf(site)
  const { labels = {}, taints = [] } = machineOf(site, name)
  const { pods, services, servers_take_pods: takesPods } = site.cluster
  const mirrored = site.cluster.mirror === 'embedded'
  const kept = role === 'server' && !takesPods ? ['node-role.kubernetes.io/control-plane=:NoSchedule'] : []
  const values = {
    'node-name': name,
    ...(address === undefined ? {} : { 'node-ip': address }),
    ...(first || join === undefined ? { 'cluster-init': true } : { server: apiUrl(join) }),
    ...(role === 'server'
      ? {
          'tls-san': [...new Set([name, endpoint, address ?? endpoint, ...names])],
          'cluster-cidr': pods,
          'service-cidr': services,
          ...(site.cluster.oidc ? { 'kube-apiserver-arg+': [`authentication-config=${login}`] } : {}),
          ...(mirrored ? { 'embedded-registry': true } : {}),
        }
      : {}),
    ...(mirrored ? { 'private-registry': `${etc}/registries.yaml` } : {}),
    ...(Object.keys(labels).length > 0
      ? { 'node-label': Object.entries(labels).map(([key, value]) => `${key}=${value}`) }
      : {}),
    ...(kept.length + taints.length > 0 ? { 'node-taint': [...kept, ...taints] } : {}),
  }
  return `# The configuration of this node alone; the rest is the same on all.\n${stringify(values, { lineWidth: 0 })}`
}

/** Throws ConfigError with every setting that k3s or a program in it would refuse, ignore, or be weak with. */
export function checkConfiguration(context: Pick<Context, 'site' | 'pins'>): void {
  const version = context.pins['k3s']?.version ?? ''
  const nodes = clusterOf(context).map((member) => ({ ...member, files: filesOf(context, member) }))
  const rules = ['config', 'flags', 'values', 'cron', 'apiserver'].map((name) => `lib/k3s/check/${name}.ts`)
  const data = ['config/k3s/flags.yaml', 'config/schema/admission.json', 'config/schema/audit.json']
  const { accept } = load('../site/config.ts') as typeof import('../site/config.ts')
  accept([nodes, version], [...rules, 'lib/site/kubernetes.ts', ...data], () => {
    const { checkCluster } = load('./check/config.ts') as typeof import('./check/config.ts')
    return checkCluster(nodes, version)
  })
}

const unitOf = ({ role }: Member): Omit<ConfigFile, 'file'> => ({
  path: '/etc/systemd/system/k3s.service',
  mode: '644',
  text: read('config/k3s/k3s.service').replaceAll('{{ role }}', role),
})

/**
 * The unit, the configuration files and the tokens, and not that k3s starts with them. One transaction with the step that
 * starts it: a server that does not become ready gets its previous configuration back.
 */
export function configurationSteps(context: Context, member: Member): Step[] {
  checkConfiguration(context)
  const transaction = k3sTransaction()
  const unit = unitOf(member)
  const logs = '/var/lib/rancher/k3s/server/logs'
  return [
    file(unit.path, {
      text: unit.text,
      mode: unit.mode,
      then: [sh`systemctl daemon-reload`],
      name: 'k3s.service unit is installed',
      transaction,
    }),
    ...filesOf(context, member).map(({ path, mode, text }) =>
      file(path, { text, mode, name: `k3s configuration: ${path.slice(etc.length + 1)}`, transaction }),
    ),
    ...(member.role === 'server'
      ? [
          {
            name: 'audit log directory is readable by root alone',
            check: sh`test "$(stat --format='%a %U:%G' ${logs})" = '700 root:root'`,
            apply: [
              sh`
                install --directory --mode=700 --owner=root --group=root \
                  /var/lib/rancher/k3s/server ${logs}`,
            ],
            transaction,
          },
        ]
      : []),
    ...tokenSteps(context, member),
  ]
}

/** The tokens that a node reads from files, one step for each. */
function tokenSteps({ secrets }: Context, member: Member): Change[] {
  const token = (name: string, secret: Secret, what: string, why: string) => {
    const line = new Secret(secret.name, async () => `${(await secret.resolve()).trim()}\n`)
    return file(`${etc}/${name}`, {
      secret: line,
      mode: '600',
      name: what,
      why,
      transaction: k3sTransaction(),
    })
  }
  const fingerprint = 'it holds the fingerprint of the cluster CA: the node joins no other cluster'
  if (member.role === 'agent')
    return [
      token('token', joinToken(secrets, secretNames.joinAgent), 'agent join token is installed', fingerprint),
    ]
  return [
    token(
      'agent-token',
      secrets(secretNames.agent, makeToken),
      'agent token is installed',
      'agents join with a token of their own, with which no machine becomes a server',
    ),
    member.first
      ? token(
          'token',
          secrets(secretNames.server, makeToken),
          'server token is installed',
          'servers join with it, and it encrypts the bootstrap data in etcd',
        )
      : token(
          'token',
          joinToken(secrets, secretNames.joinServer),
          'server join token is installed',
          fingerprint,
        ),
  ]
}

/** 256 bits, for a file that nobody types. */
const makeToken = () => randomBytes(32).toString('hex')

/** What a virtual machine gets of k3s with its first boot: the program, its unit, and its configuration without the secrets. */
export function fragmentOf(context: Pick<Context, 'site' | 'pins'>, name: string): Source {
  const { parse, stringify } = load('yaml') as typeof import('yaml')
  checkConfiguration(context)
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
