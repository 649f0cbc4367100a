// ./task kubeconfig: access to the cluster for a person, for some hours; who has it, and how it is taken back.
import { X509Certificate, createPrivateKey, generateKeyPairSync, randomBytes } from 'node:crypto'
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { parse, stringify } from 'yaml'
import { type Grade, MAX_HOURS, breakGlass, gradesOf, group, platform, wordsOf } from '../component/people.ts'
import { count } from '../engine/report.ts'
import { Fault } from '../ground/fault.ts'
import { $, type Limits, orFault } from '../ground/laptop.ts'
import { root } from '../ground/root.ts'
import { land } from '../ground/secret.ts'
import { NotBuilt } from './absent.ts'
import { type Api, answeringApi, kubeconfigOf } from './api.ts'
import type { Call } from './call.ts'
import type { Given } from './flags.ts'
import { type Session, named, withSession } from './session.ts'
import { kubeconfig as table } from './tables.ts'

type People = Session & { given: Given<typeof table> }

/**
 * `./task kubeconfig --for NAME` makes a key here, has the cluster sign it for some hours, and binds that one certificate to a
 * role. `list` says who has what, `revoke NAME` takes it back, `break-glass` opens the account of page 54. Resolves to the
 * exit code.
 */
export const kubeconfig = (call: Call): Promise<number> =>
  withSession(
    call,
    table,
    async (session) => {
      const [action, name] = session.given.words
      if (action === 'break-glass') return glass(session)
      if (action === 'list') return list(session)
      if (action === 'revoke') return revoke(session, name)
      return issue(session, askedOf(session))
    },
    { document: true },
  )

interface Asked {
  person: string
  role: Grade
  namespace: string | undefined
  hours: number
}

/** What is to be given to whom. Throws a Fault where the site document does not have it. */
function askedOf({ config: { site }, given }: Pick<People, 'config' | 'given'>): Asked {
  const { for: name, hours: typed = '8', namespace } = given
  if (name === undefined)
    throw new Fault('kubeconfig needs --for NAME', {
      next: './task kubeconfig --for NAME --role viewer; or list, revoke NAME, break-glass',
    })
  const person = named(site.people, name, site.name, 'person')
  const may = gradesOf(person)
  const role = (given.role ?? may.at(-1)) as Grade
  if (!may.includes(role))
    throw new Fault(
      `${name} may not be ${role}: people in the site document gives them ${person.roles.join(', ')}`,
      {
        next: `--role ${may.join(' or ')}, or another role in config/sites/${site.name}.yaml`,
      },
    )
  const hours = Number(typed)
  if (!Number.isInteger(hours) || hours < 1 || hours > MAX_HOURS)
    throw new Fault(`--hours is a whole number from 1 to ${MAX_HOURS}, and not ${typed}`)
  if (role === 'deployer' && namespace === undefined)
    throw new Fault('a deployer needs --namespace: the one that they bring applications into')
  if (namespace !== undefined && role !== 'viewer' && platform().includes(namespace))
    throw new Fault(`nobody deploys into ${namespace}: it belongs to the platform, and its pages change it`)
  return { person: name, role, namespace, hours }
}

/** Refuses to overwrite, or to show a private key on a screen, before anything is made. */
function assertRoom({ given: { out } }: Pick<People, 'given'>): void {
  if (out === undefined && process.stdout.isTTY)
    throw new Fault('a kubeconfig holds a private key, and is not shown on a terminal', {
      next: '--out FILE writes it for you alone; in a pipe it goes to standard output',
    })
  if (out !== undefined && existsSync(out))
    throw new Fault(`${out} is there already`, { state: 'nothing was made' })
}

async function issue(session: People, asked: Asked): Promise<number> {
  assertRoom(session)
  const { person, role, namespace, hours } = asked
  const api = await answeringApi(session, ['kubectl'])
  try {
    await assertDeclared(api, asked)
    await tidy(session, api)
    const key = makeKey()
    const user = `fortress:${person}:${randomBytes(4).toString('hex')}`
    const signed = await shell(api, ['people_certificate', user, group, String(hours * 3600)], key)
    const certificate = provenCertificate(signed, user, key)
    const until = `${new Date(certificate.validTo).toISOString().slice(0, 19)}Z`
    const binding = bindingOf({ user, role, namespace, until })
    await run(api, ['create', '--filename=-'], JSON.stringify(binding))
    const text = await fileOf(session, { user, name: person, key, certificate: signed, namespace })
    try {
      await write(session, text)
    } catch (error) {
      await run(api, [
        'delete',
        binding.kind.toLowerCase(),
        user,
        ...(namespace ? ['--namespace', namespace] : []),
      ])
      throw error
    }
    const where = namespace === undefined ? 'in the whole cluster' : `in ${namespace}`
    session.report.note(
      `${user} is ${role} ${where} until ${until}. ./task kubeconfig revoke ${person} takes it back.`,
    )
    return 0
  } finally {
    api.close()
  }
}

const makeKey = (): string =>
  generateKeyPairSync('ec', {
    namedCurve: 'P-256',
    privateKeyEncoding: { type: 'pkcs8', format: 'pem' },
    publicKeyEncoding: { type: 'spki', format: 'pem' },
  }).privateKey

/** What the cluster has signed is what was asked of it: this name, for this key, and no server. Throws a Fault. */
function provenCertificate(text: string, user: string, key: string): X509Certificate {
  const certificate = new X509Certificate(text)
  if (
    !certificate.subject.split('\n').includes(`CN=${user}`) ||
    !certificate.checkPrivateKey(createPrivateKey(key))
  )
    throw new Fault(`the cluster has signed something else than ${user}: ${certificate.subject}`)
  return certificate
}

/** The role is declared, and the namespace is there, and none in which a pod is root on a node. */
async function assertDeclared(api: Api, { role, namespace }: Asked): Promise<void> {
  const got = await run(api, [
    'get',
    'clusterrole',
    `fortress:${role}`,
    '--ignore-not-found',
    '--output=name',
  ])
  if (got.trim() === '') throw new NotBuilt(`the cluster has no role ${role}`, '54-people', 'declares it')
  if (namespace === undefined) return
  const found = await run(api, ['get', 'namespace', namespace, '--ignore-not-found', '--output=json'])
  if (found.trim() === '')
    throw new Fault(`there is no namespace ${namespace}`, { next: './task kubectl get namespaces' })
  const { labels = {} } = (JSON.parse(found) as { metadata: { labels?: Record<string, string> } }).metadata
  if (role !== 'viewer' && labels['pod-security.kubernetes.io/enforce'] === 'privileged')
    throw new Fault(
      `nobody deploys into ${namespace}: its Pod Security level is privileged, and a pod there is root on a node`,
    )
}

const bindingOf = ({
  user,
  role,
  namespace,
  until,
}: Omit<Asked, 'person' | 'hours'> & { user: string; until: string }) => ({
  apiVersion: 'rbac.authorization.k8s.io/v1',
  kind: namespace === undefined ? 'ClusterRoleBinding' : 'RoleBinding',
  metadata: {
    name: user,
    ...(namespace === undefined ? {} : { namespace }),
    labels: { 'fortress-kit': 'grant' },
    annotations: { 'fortress-kit/until': until },
  },
  roleRef: { apiGroup: 'rbac.authorization.k8s.io', kind: 'ClusterRole', name: `fortress:${role}` },
  subjects: [{ apiGroup: 'rbac.authorization.k8s.io', kind: 'User', name: user }],
})

/** A kubeconfig that says where the API is and what its authority is as that of the pages does, for another user. */
async function fileOf(
  { config, store }: Pick<Session, 'config' | 'store'>,
  one: { user: string; name: string; key: string; certificate: string; namespace?: string | undefined },
): Promise<string> {
  const { clusters } = parse((await kubeconfigOf({ config, store })).text) as { clusters: { name: string }[] }
  const name = `${config.site.name}-${one.name}`
  const data = (text: string) => Buffer.from(text).toString('base64')
  return stringify(
    {
      apiVersion: 'v1',
      kind: 'Config',
      clusters,
      users: [
        {
          name: one.user,
          user: { 'client-certificate-data': data(one.certificate), 'client-key-data': data(one.key) },
        },
      ],
      contexts: [
        {
          name,
          context: {
            cluster: clusters[0]?.name,
            user: one.user,
            ...(one.namespace === undefined ? {} : { namespace: one.namespace }),
          },
        },
      ],
      'current-context': name,
    },
    { lineWidth: 0 },
  )
}

async function write(
  { given: { out }, report }: Pick<People, 'given' | 'report'>,
  text: string,
): Promise<void> {
  if (out === undefined) return void process.stdout.write(text)
  await land(out, text, true)
  report.note(`${out} is written, for you alone.`)
}

/** A binding of a certificate, as people_grants writes it. */
interface Grant {
  kind: string
  namespace: string | undefined
  user: string
  person: string
  role: string
  until: string
}

/** The lines of people_grants. */
export const grantsOf = (text: string): Grant[] =>
  text
    .split('\n')
    .filter(Boolean)
    .map((line) => {
      const [kind = '', at = '', user = '', role = '', until = ''] = line.split(' ')
      const person = user.split(':')[1] ?? ''
      const namespace = at === '-' ? undefined : at
      return { kind, namespace, user, person, role: role.replace(/^ClusterRole\/fortress:/, ''), until }
    })

async function list(session: People): Promise<number> {
  const api = await answeringApi(session, ['kubectl'])
  try {
    await tidy(session, api)
    const all = grantsOf(await shell(api, ['people_grants']))
    if (session.given.json) {
      process.stdout.write(`${JSON.stringify(all)}\n`)
      return 0
    }
    const rows = all.map(({ person, role, namespace, until, user }) => [
      person,
      role,
      namespace ?? 'everywhere',
      until,
      user,
    ])
    const widths = [0, 1, 2, 3, 4].map((i) => Math.max(0, ...rows.map((row) => row[i]?.length ?? 0)))
    const text = rows.map(
      (row) =>
        `${row
          .map((word, i) => word.padEnd(widths[i] ?? 0))
          .join('  ')
          .trimEnd()}\n`,
    )
    process.stdout.write(
      text.length === 0 ? 'Nobody has a certificate that opens anything.\n' : text.join(''),
    )
    return 0
  } finally {
    api.close()
  }
}

/** Takes away every certificate of a person, whoever they are: also of one whom the document no longer has. */
async function revoke(session: People, name: string | undefined): Promise<number> {
  if (name === undefined)
    throw new Fault('kubeconfig revoke needs a NAME', { next: './task kubeconfig list shows who has one' })
  const api = await answeringApi(session, ['kubectl'])
  try {
    if (name === breakGlass.name) return await revokeGlass(session, api)
    const mine = grantsOf(await shell(api, ['people_grants'])).filter(
      ({ person, user }) => person === name || user === name,
    )
    for (const { kind, namespace, user } of mine)
      await run(api, [
        'delete',
        kind.toLowerCase(),
        user,
        `--namespace=${namespace ?? 'default'}`,
        '--ignore-not-found',
      ])
    session.report.note(
      mine.length === 0
        ? `${name} has no certificate that opens anything.`
        : `${count(mine.length, 'certificate')} of ${name} opened something, and opens nothing any more. ` +
            'What was begun before, such as a shell in a pod, goes on until it ends.',
    )
    return 0
  } finally {
    api.close()
  }
}

/** The account has nothing any more, and its key is deleted: page 54 makes another. */
async function revokeGlass({ store, state, report }: People, api: Api): Promise<number> {
  await shell(api, ['glass_gone', join(state, breakGlass.file), join(state, `${breakGlass.secret}.age`)])
  await store.remove(breakGlass.secret)
  report.note('The break-glass account opens nothing any more. ./task people apply makes another.')
  return 0
}

async function glass(session: People): Promise<number> {
  const { store, state, report } = session
  const file = join(state, breakGlass.file)
  if (!store.has(breakGlass.secret) || !existsSync(file))
    throw new NotBuilt('there is no break-glass account', '54-people', 'makes it')
  assertRoom(session)
  const certificate = readFileSync(file, 'utf8')
  const key = `${(await store.get(breakGlass.secret)).reveal().trim()}\n`
  const [, user = ''] =
    /^CN=(fortress:break-glass:\w+)$/m.exec(new X509Certificate(certificate).subject) ?? []
  provenCertificate(certificate, user, key)
  await write(session, await fileOf(session, { user, name: breakGlass.name, key, certificate }))
  report.note(
    'Its use is seen: ./task break-glass verify says when. Afterwards: ./task kubeconfig revoke break-glass, ' +
      './task people apply, ./task break-glass apply.',
  )
  return 0
}

/** What has ended opens nothing; its bindings go when somebody comes by. */
async function tidy({ config: { site } }: Session, api: Api): Promise<void> {
  await shell(api, ['people_ended', ...wordsOf(site)])
}

const within: Limits = { seconds: 60 }

const run = async (api: Api, words: string[], input?: string): Promise<string> =>
  (
    await orFault(
      $({ env: api.environment, nothrow: true, ...(input ? { input } : {}) })`kubectl ${words}`,
      within,
    )
  ).stdout

/** A function of people.sh, with these words; `input` is its standard input. */
const shell = async (api: Api, words: string[], input?: string): Promise<string> => {
  const script = 'set -o pipefail; source lib/component/people.sh; "$@"'
  const child = $({ env: api.environment, nothrow: true, cwd: root, ...(input ? { input } : {}) })
  return (await orFault(child`bash -c ${script} bash ${words}`, within)).stdout
}
