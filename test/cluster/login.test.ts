// People who log in by an identity provider, on a real API server with the file that page 20 writes: an issuer of the test's own, and
// tokens that are good, or bad in one way each.
import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { type KeyObject, generateKeyPairSync, sign } from 'node:crypto'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { Agent, type Server, createServer, request } from 'node:https'
import { type AddressInfo, connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { manifestsOf } from '../../lib/component/people.ts'
import { filesOf } from '../../lib/k3s/configuration.ts'
import { clusterOf } from '../../lib/k3s/members.ts'
import type { Person } from '../../lib/site/model.ts'
import { siteOf } from '../sites.ts'
import { missing } from './demo.ts'
import { type Bed, alone, bed, data, etc } from './kit.ts'

const people: Person[] = [
  { name: 'me', email: 'me@example.org', roles: ['owner'] },
  { name: 'cleo', email: 'cleo@example.org', roles: ['viewer'] },
  { name: 'ben', email: 'ben@example.org', roles: ['deployer'] },
]

describe('a login by an identity provider', { skip: missing }, () => {
  let it: Bed
  let issuer: Server
  let url: string
  let agent: Agent
  let ca: string
  const dir = mkdtempSync(join(tmpdir(), 'fk-issuer-'))
  const pair = () => generateKeyPairSync('ec', { namedCurve: 'P-256' })
  const [ours, theirs] = [pair(), pair()]

  const part = (value: object) => Buffer.from(JSON.stringify(value)).toString('base64url')
  const token = (more: object = {}, key: KeyObject = ours.privateKey) => {
    const now = Math.floor(Date.now() / 1000)
    const claims = {
      iss: url,
      aud: 'kubectl',
      sub: '1',
      iat: now - 10,
      exp: now + 600,
      email: 'cleo@example.org',
      email_verified: true,
      ...more,
    }
    const text = `${part({ alg: 'ES256', typ: 'JWT', kid: 'one' })}.${part(claims)}`
    return `${text}.${sign('sha256', Buffer.from(text), { key, dsaEncoding: 'ieee-p1363' }).toString('base64url')}`
  }
  const ask = (bearer: string, path: string, body: object) =>
    new Promise<{ status: number; text: string }>((resolve, reject) => {
      const headers = { authorization: `Bearer ${bearer}`, 'content-type': 'application/json' }
      const sent = request(
        { host: it.machine.host, port: 6443, method: 'POST', path, ca, agent, headers },
        (response) => {
          let text = ''
          response.setEncoding('utf8').on('data', (piece: string) => (text += piece))
          response.on('end', () => resolve({ status: response.statusCode ?? 0, text }))
        },
      )
      sent.on('error', reject)
      sent.end(JSON.stringify(body))
    })
  const who = (bearer: string) =>
    ask(bearer, '/apis/authentication.k8s.io/v1/selfsubjectreviews', {
      apiVersion: 'authentication.k8s.io/v1',
      kind: 'SelfSubjectReview',
    })
  const may = async (bearer: string, verb: string, resource: string) => {
    const { text } = await ask(bearer, '/apis/authorization.k8s.io/v1/selfsubjectaccessreviews', {
      apiVersion: 'authorization.k8s.io/v1',
      kind: 'SelfSubjectAccessReview',
      spec: { resourceAttributes: { verb, resource, namespace: 'default' } },
    })
    return (JSON.parse(text) as { status: { allowed: boolean } }).status.allowed
  }

  before(async () => {
    it = await bed(undefined, 'login')
    const from = await addressFor(it.machine.host)
    const words = `req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1 -subj /CN=issuer
      -addext subjectAltName=IP:${from} -keyout ${join(dir, 'key')} -out ${join(dir, 'cert')}`
    execFileSync('openssl', words.split(/\s+/), { stdio: 'ignore' })
    const cert = readFileSync(join(dir, 'cert'), 'utf8')
    issuer = createServer({ cert, key: readFileSync(join(dir, 'key')) }, (asked, response) => {
      const jwk = { ...ours.publicKey.export({ format: 'jwk' }), kid: 'one', use: 'sig', alg: 'ES256' }
      const answers: Record<string, object> = {
        '/.well-known/openid-configuration': {
          issuer: url,
          jwks_uri: `${url}/keys`,
          authorization_endpoint: `${url}/login`,
          response_types_supported: ['id_token'],
          subject_types_supported: ['public'],
          id_token_signing_alg_values_supported: ['ES256'],
        },
        '/keys': { keys: [jwk] },
      }
      const answer = answers[asked.url ?? '']
      response.writeHead(answer ? 200 : 404, { 'content-type': 'application/json' })
      response.end(JSON.stringify(answer ?? {}))
    })
    await new Promise<void>((resolve) => issuer.listen(0, from, resolve))
    url = `https://${from}:${(issuer.address() as AddressInfo).port}`
    const plain = siteOf('fortress-pi')
    const oidc = { issuer: url, client: 'kubectl', prefix: 'sso:', ca: cert }
    const site = { ...plain, people, cluster: { ...plain.cluster, oidc } }
    const [server] = clusterOf({ site })
    const written = filesOf({ site }, server!)
    const own = written.find(({ path }) => path.endsWith('/authentication.yaml'))!
    const node = written.find(({ path }) => path.endsWith('/10-node.yaml'))!.text
    assert.match(
      node,
      /^kube-apiserver-arg\+:\n +- authentication-config=\/etc\/rancher\/k3s\/authentication\.yaml$/m,
    )
    it.put({
      ...alone,
      [own.path]: own.text,
      [`${etc}/config.yaml.d/10-node.yaml`]: `cluster-init: true\n${/^kube-apiserver-arg\+:\n.*\n/m.exec(node)![0]}`,
    })
    const { code, said } = await it.begin()
    assert.equal(code, 0, said)
    ca = await it.ok(`cat ${data}/server/tls/server-ca.crt`)
    agent = new Agent({ keepAlive: false })
    const { code: applied, stderr } = await it.kubectl(
      'apply --server-side --filename=-',
      manifestsOf(site)
        .map((text) => `---\n${text}\n`)
        .join(''),
    )
    assert.equal(applied, 0, stderr)
    // The API server asks the issuer for its keys when it has started.
    for (let i = 0; (await who(token())).status !== 201; i++) {
      assert.ok(i < 120, (await who(token())).text)
      await sleep(500)
    }
  })
  after(async () => {
    agent?.destroy()
    issuer?.closeAllConnections()
    issuer?.close()
    rmSync(dir, { recursive: true })
    await it?.end()
  })

  test('who logs in has the name of the provider behind the prefix, and the group of people', async () => {
    const { text } = await who(token())
    const { status } = JSON.parse(text) as { status: { userInfo: { username: string; groups: string[] } } }
    assert.equal(status.userInfo.username, 'sso:cleo@example.org')
    assert.deepEqual(status.userInfo.groups, ['fortress:people', 'system:authenticated'])
  })

  test('they have the role of the site document', async () => {
    const [cleo, me, ben, nobody] = ['cleo', 'me', 'ben', 'dora'].map((name) =>
      token({ email: `${name}@example.org` }),
    )
    assert.deepEqual([await may(cleo!, 'list', 'pods'), await may(cleo!, 'delete', 'pods')], [true, false])
    assert.deepEqual([await may(me!, 'delete', 'pods'), await may(me!, 'get', 'secrets')], [true, false])
    assert.deepEqual([await may(ben!, 'list', 'pods'), await may(nobody!, 'list', 'pods')], [false, false])
    // Admission knows them for people.
    const map = { apiVersion: 'v1', kind: 'ConfigMap', metadata: { name: 'x' } }
    const made = () => ask(me!, '/api/v1/namespaces/kube-system/configmaps?dryRun=All', map)
    let reply = await made()
    // An API server hears of new policies some moments later.
    for (let i = 0; i < 100 && reply.status !== 422; i++) {
      await sleep(100)
      reply = await made()
    }
    assert.match(reply.text, /belongs to the platform/)
  })

  for (const [what, bad] of Object.entries({
    'has ended': () => token({ exp: Math.floor(Date.now() / 1000) - 60 }),
    'is for another program': () => token({ aud: 'other' }),
    'is of another issuer': () => token({ iss: 'https://issuer.example.org' }),
    'is signed by somebody else': () => token({}, theirs.privateKey),
    'is not signed': () => token().replace(/[^.]+$/, ''),
    'was changed': () => {
      const [head, , tail] = token().split('.')
      return `${head}.${token({ email: 'me@example.org' }).split('.')[1]}.${tail}`
    },
    'has an email address that nobody has verified': () => token({ email_verified: false }),
    'does not say whether its email address is verified': () => token({ email_verified: undefined }),
    'has no email address': () => token({ email: undefined }),
  }))
    test(`a token that ${what} is refused`, async () => {
      const { status, text } = await who(bad())
      assert.equal(status, 401, text)
    })

  test('a name that looks like one of Kubernetes is none', async () => {
    const { text } = await who(token({ email: 'system:masters' }))
    assert.match(text, /"username":"sso:system:masters"/)
    assert.equal(await may(token({ email: 'system:kube-controller-manager' }), 'get', 'secrets'), false)
  })

  test('anonymous requests are refused as before, and certificates count as before', async () => {
    assert.equal((await it.ask('GET', '/version', { as: null })).status, 401)
    assert.equal((await it.ask('GET', '/api/v1/namespaces')).status, 200)
  })
})

/** The address at which a node finds this computer. */
const addressFor = (host: string): Promise<string> =>
  new Promise((resolve, reject) => {
    const socket = connect(22, host, () => {
      resolve(socket.localAddress ?? '')
      socket.destroy()
    }).on('error', reject)
  })
