// What a cluster that is told config/k3s lets in, keeps to itself, and writes down.
import assert from 'node:assert/strict'
import { after, before, describe, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { parse } from 'yaml'
import { type Audited, type Bed, bed, data, program, told } from './kit.ts'

const good = {
  containers: [
    {
      name: 'main',
      image: 'registry.invalid/main:1',
      securityContext: {
        allowPrivilegeEscalation: false,
        runAsNonRoot: true,
        runAsUser: 1000,
        capabilities: { drop: ['ALL'] },
        seccompProfile: { type: 'RuntimeDefault' },
      },
    },
  ],
}
const [main] = good.containers as [(typeof good.containers)[0]]
const secured = (more: object) => ({
  containers: [{ ...main, securityContext: { ...main.securityContext, ...more } }],
})
const pod = (name: string, spec: object) => ({ apiVersion: 'v1', kind: 'Pod', metadata: { name }, spec })

interface Rule {
  level: string
  nonResourceURLs?: string[]
  users?: string[]
  userGroups?: string[]
  verbs?: string[]
  resources?: { group: string; resources?: string[] }[]
}

describe('the cluster', { skip: program === undefined ? 'kube-bed is not installed' : false }, () => {
  let server: Bed
  const secretValue = 'a-word-that-only-the-secret-holds'
  const mapValue = 'a-word-that-everybody-may-read'

  const created = async (path: string, body: object) => {
    const { status, text } = await server.ask('POST', path, { body })
    assert.equal(status, 201, text)
    return JSON.parse(text) as { status?: { token?: string } }
  }
  const namespace = async (name: string, labels = {}) => {
    await created('/api/v1/namespaces', {
      apiVersion: 'v1',
      kind: 'Namespace',
      metadata: { name, labels },
    })
    // A pod needs the account that the controllers make for its namespace.
    const account = `/api/v1/namespaces/${name}/serviceaccounts/default`
    for (let i = 0; (await server.ask('GET', account)).status !== 200; i++) {
      assert.ok(i < 100, `${name} gets no default service account`)
      await sleep(100)
    }
  }

  before(async () => {
    server = await bed(undefined, 'behaved')
    const { code, said } = await server.begin()
    assert.equal(code, 0, said)
    await namespace('plain')
    await namespace('labelled', { 'pod-security.kubernetes.io/enforce': 'restricted' })
    const things = '/api/v1/namespaces/plain'
    await created(`${things}/secrets`, {
      apiVersion: 'v1',
      kind: 'Secret',
      metadata: { name: 'canary' },
      stringData: { word: secretValue },
    })
    await created(`${things}/configmaps`, {
      apiVersion: 'v1',
      kind: 'ConfigMap',
      metadata: { name: 'canary' },
      data: { word: mapValue },
    })
  })
  after(() => server?.end())

  describe('answers', () => {
    for (const path of ['/', '/version', '/readyz', '/api/v1/nodes', '/api/v1/namespaces/plain/secrets'])
      test(`nobody without a name: ${path}`, async () =>
        assert.equal((await server.ask('GET', path, { as: null })).status, 401))

    test('its admin, and its node only about what is the node’s', async () => {
      const as = `${data}/agent/client-kubelet`
      const status = async (path: string, options = {}) => (await server.ask('GET', path, options)).status
      assert.equal(await status('/api/v1/namespaces/plain/secrets/canary'), 200)
      assert.equal(await status('/api/v1/nodes/behaved', { as }), 200)
      assert.equal(await status('/api/v1/namespaces/plain/secrets/canary', { as }), 403)
      assert.equal(await status('/api/v1/namespaces/plain/pods', { as }), 403)
    })

    test('a node, but not when it calls itself a server', async () => {
      const path = '/api/v1/nodes/behaved'
      const node = JSON.parse((await server.ask('GET', path)).text) as { metadata: { labels: object } }
      node.metadata.labels = { ...node.metadata.labels, 'node-role.kubernetes.io/other': 'true' }
      const { status, text } = await server.ask('PUT', path, {
        body: node,
        as: `${data}/agent/client-kubelet`,
      })
      assert.equal(status, 403)
      assert.match(text, /is not allowed to modify labels/)
    })

    test('nobody in an old language: TLS 1.2 with ciphers that keep old traffic secret, or TLS 1.3', async () => {
      const speak = (words: string) =>
        server.root(
          `openssl s_client -connect 127.0.0.1:6443 ${words} < /dev/null 2>&1 | grep --count '^New, TLS'`,
        )
      assert.equal((await speak('-tls1_3')).stdout, '1\n')
      assert.equal((await speak('-tls1_2 -cipher ECDHE-ECDSA-AES128-GCM-SHA256')).stdout, '1\n')
      const refused = async (words: string) =>
        assert.match(
          (await server.root(`openssl s_client -connect 127.0.0.1:6443 ${words} < /dev/null 2>&1`)).stdout,
          /alert (handshake failure|protocol version)|no protocols available/,
        )
      await refused('-tls1_2 -cipher ECDHE-ECDSA-AES128-SHA')
      await refused('-tls1_1 -cipher DEFAULT@SECLEVEL=0')
    })
  })

  describe('lets no pod in', () => {
    const bad: Record<string, [object, RegExp]> = {
      'that is privileged': [secured({ privileged: true, allowPrivilegeEscalation: true }), /privileged/],
      'that mounts a directory of the node': [
        { ...good, volumes: [{ name: 'etc', hostPath: { path: '/etc' } }] },
        /hostPath|restricted volume types/,
      ],
      'that lives in the network of the node': [{ ...good, hostNetwork: true }, /host namespaces/],
      'that runs as root': [secured({ runAsUser: 0, runAsNonRoot: false }), /runAsNonRoot/],
      'that does not say as whom it runs': [
        secured({ runAsUser: undefined, runAsNonRoot: undefined }),
        /runAsNonRoot/,
      ],
      'that keeps the rights of root': [secured({ capabilities: {} }), /unrestricted capabilities/],
      'that may ask the kernel for anything': [secured({ seccompProfile: undefined }), /seccompProfile/],
    }
    for (const space of ['plain', 'labelled'])
      for (const [what, [spec, why]] of Object.entries(bad))
        test(`${what}: namespace ${space}`, async () => {
          const { status, text } = await server.ask('POST', `/api/v1/namespaces/${space}/pods`, {
            body: pod('bad', spec),
          })
          assert.equal(status, 403, text)
          const { message } = JSON.parse(text) as { message: string }
          assert.match(message, /violates PodSecurity "restricted:/)
          assert.match(message, why)
        })

    test('for any other reason: the same pods are let in where the network of the nodes lives', async () => {
      for (const [spec] of Object.values(bad)) {
        const path = '/api/v1/namespaces/kube-system/pods?dryRun=All'
        const { status, text } = await server.ask('POST', path, { body: pod('bad', spec) })
        assert.equal(status, 201, text)
      }
    })

    for (const space of ['plain', 'labelled'])
      test(`and lets a good one in: namespace ${space}`, async () => {
        await created(`/api/v1/namespaces/${space}/pods`, pod('good', good))
      })

    test('and no Service claims an address that is not the cluster’s', async () => {
      const service = (more: object) => ({
        apiVersion: 'v1',
        kind: 'Service',
        metadata: { name: 'outside' },
        spec: { ports: [{ port: 80 }], ...more },
      })
      const path = '/api/v1/namespaces/plain/services'
      assert.equal(
        (await server.ask('POST', path, { body: service({ externalIPs: ['192.0.2.1'] }) })).status,
        403,
      )
      assert.equal((await server.ask('POST', `${path}?dryRun=All`, { body: service({}) })).status, 201)
    })
  })

  test('a flood of events is dammed, in its namespace only', async () => {
    await namespace('flooded')
    const event = (space: string, i: number) =>
      server.ask('POST', `/api/v1/namespaces/${space}/events`, {
        body: {
          apiVersion: 'v1',
          kind: 'Event',
          metadata: { name: `flood-${i}` },
          involvedObject: { kind: 'Pod', namespace: space, name: 'good' },
          reason: 'Flood',
          type: 'Normal',
        },
      })
    const answers: number[] = []
    // As many at once as the agent has connections: it has to be quicker than what it is allowed.
    for (let i = 0; i < 2000 && !answers.includes(429); i += 200)
      answers.push(
        ...(await Promise.all(Array.from({ length: 200 }, (_, j) => event('flooded', i + j)))).map(
          (a) => a.status,
        ),
      )
    assert.ok(answers.includes(429), `${answers.length} events were let in`)
    assert.ok(answers.filter((status) => status === 201).length >= 200, 'less than a burst was let in')
    assert.equal((await event('plain', 1)).status, 201)
  })

  describe('stores', () => {
    test('a Secret as nothing but ciphertext, a ConfigMap as it is', async () => {
      const secret = await server.stored('/registry/secrets/plain/canary')
      assert.match(secret.toString('latin1'), /^k8s:enc:secretbox:v1:secretboxkey:/)
      assert.ok(!secret.includes(secretValue))
      const map = await server.stored('/registry/configmaps/plain/canary')
      assert.match(map.toString('latin1'), /^k8s\0/)
      assert.ok(map.includes(mapValue))
    })

    test('every Secret so, those of k3s itself too', async () => {
      const keys = (await server.etcdctl('get /registry/secrets --prefix --keys-only'))
        .split('\n')
        .filter(Boolean)
      assert.ok(keys.includes('/registry/secrets/kube-system/behaved.node-password.k3s'), keys.join(' '))
      for (const key of keys)
        assert.match((await server.stored(key)).toString('latin1'), /^k8s:enc:secretbox:v1:/, key)
    })

    test('k3s says so', async () => {
      const said = await server.ok('/opt/bin/k3s secrets-encrypt status')
      assert.match(said, /^Encryption Status: Enabled$/m)
      assert.match(said, /\* +XSalsa20-POLY1305 +secretboxkey/)
    })
  })

  describe('writes down', () => {
    const { rules } = parse(told('audit.yaml')) as { rules: Rule[] }
    let log: Audited[]
    let raw: string
    let token = ''

    const things = '/api/v1/namespaces/plain'
    const named = (apiVersion: string, kind: string, more: object = {}) => ({
      apiVersion,
      kind,
      metadata: { name: 'audited' },
      ...more,
    })
    /** A request for each resource of each rule that writes something: method, path and body. */
    const requests: Record<string, [string, string, object?]> = {
      '/secrets': ['POST', `${things}/secrets`, named('v1', 'Secret', { stringData: { word: secretValue } })],
      '/configmaps': ['POST', `${things}/configmaps`, named('v1', 'ConfigMap', { data: { word: mapValue } })],
      'authentication.k8s.io/tokenreviews': [
        'POST',
        '/apis/authentication.k8s.io/v1/tokenreviews',
        named('authentication.k8s.io/v1', 'TokenReview', { spec: { token: secretValue } }),
      ],
      '/pods/attach': ['POST', `${things}/pods/good/attach`],
      '/pods/ephemeralcontainers': ['PUT', `${things}/pods/good/ephemeralcontainers`, pod('good', good)],
      '/pods/exec': ['POST', `${things}/pods/good/exec?command=id`],
      '/pods/portforward': ['POST', `${things}/pods/good/portforward`],
      '/pods/proxy': ['GET', `${things}/pods/good/proxy`],
      '/services/proxy': ['GET', `${things}/services/none/proxy`],
      '/nodes/proxy': ['GET', '/api/v1/nodes/behaved/proxy/configz'],
      'rbac.authorization.k8s.io': [
        'POST',
        '/apis/rbac.authorization.k8s.io/v1/namespaces/plain/roles',
        named('rbac.authorization.k8s.io/v1', 'Role', { rules: [] }),
      ],
      'admissionregistration.k8s.io': [
        'POST',
        '/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations',
        named('admissionregistration.k8s.io/v1', 'ValidatingWebhookConfiguration', { webhooks: [] }),
      ],
      'certificates.k8s.io': ['DELETE', '/apis/certificates.k8s.io/v1/certificatesigningrequests/none'],
      'apiextensions.k8s.io': ['DELETE', '/apis/apiextensions.k8s.io/v1/customresourcedefinitions/none'],
      // Nobody has brought these groups yet: what is asked of them is written down all the same.
      'policies.kyverno.io': ['DELETE', '/apis/policies.kyverno.io/v1/validatingpolicies/none'],
      'cilium.io': ['DELETE', '/apis/cilium.io/v2/ciliumclusterwidenetworkpolicies/none'],
      'networking.k8s.io': [
        'POST',
        '/apis/networking.k8s.io/v1/namespaces/plain/networkpolicies',
        named('networking.k8s.io/v1', 'NetworkPolicy', {
          spec: { podSelector: {}, policyTypes: ['Ingress'] },
        }),
      ],
      '/namespaces': ['POST', '/api/v1/namespaces', named('v1', 'Namespace')],
      '/nodes': ['DELETE', '/api/v1/nodes/none'],
      '/serviceaccounts': ['POST', `${things}/serviceaccounts`, named('v1', 'ServiceAccount')],
      '/serviceaccounts/token': [
        'POST',
        `${things}/serviceaccounts/audited/token`,
        { apiVersion: 'authentication.k8s.io/v1', kind: 'TokenRequest', spec: {} },
      ],
    }
    const resourcesOf = ({ resources = [] }: Rule) =>
      resources.flatMap(({ group, resources }) => resources?.map((name) => `${group}/${name}`) ?? [group])
    const lines = (method: string, path: string) => {
      const verbs: Record<string, string[]> = {
        POST: ['create'],
        PUT: ['update'],
        DELETE: ['delete'],
        GET: ['get', 'list'],
      }
      return log.filter(
        (line) =>
          line.requestURI === path &&
          line.user.username === 'system:admin' &&
          verbs[method]!.includes(line.verb),
      )
    }

    before(async () => {
      for (const [method, path, body] of Object.values(requests)) {
        const { text } = await server.ask(method, path, body === undefined ? {} : { body })
        if (path.endsWith('/token')) token = (JSON.parse(text) as { status: { token: string } }).status.token
      }
      await created('/apis/apps/v1/namespaces/plain/deployments', {
        ...named('apps/v1', 'Deployment'),
        spec: {
          replicas: 0,
          selector: { matchLabels: { a: 'b' } },
          template: { metadata: { labels: { a: 'b' } }, spec: good },
        },
      })
      // What reads Secrets, in every way that there is.
      for (const path of [
        `${things}/secrets/canary`,
        `${things}/secrets`,
        '/api/v1/secrets',
        `${things}/pods`,
      ])
        assert.equal((await server.ask('GET', path)).status, 200)
      assert.equal(
        (
          await server.kubectl(
            '--namespace=plain apply --filename=-',
            JSON.stringify(named('v1', 'Secret', { stringData: { word: `${secretValue}!` } })),
          )
        ).code,
        0,
      )
      for (const path of ['/healthz', '/livez', '/readyz', '/version', '/readyz/etcd'])
        assert.equal((await server.ask('GET', path)).status, 200)
      raw = await server.ok(`cat ${data}/server/logs/audit.log`)
      log = await server.audited()
    })

    rules.forEach((rule, i) => {
      const what = resourcesOf(rule)
      if (rule.level === 'None' || what.length === 0) return
      for (const resource of what)
        test(`${resource || 'what is left'} at the level of ${rule.level}, as rule ${i + 1} says`, () => {
          const asked = requests[resource]
          assert.ok(asked, 'this test has no request of that kind: add one')
          const found = lines(asked[0], asked[1])
          assert.ok(found.length > 0, `${asked[0]} ${asked[1]} was not written down`)
          for (const { level } of found) assert.equal(level, rule.level)
        })
    })

    test('with the answer, where it decides about rights; with the question, where it enters a pod', () => {
      const [role] = lines('POST', '/apis/rbac.authorization.k8s.io/v1/namespaces/plain/roles')
      assert.ok(role?.requestObject && role.responseObject)
      const [container] = lines('PUT', `${things}/pods/good/ephemeralcontainers`)
      assert.ok(container?.requestObject && !container.responseObject)
    })

    test('everything else that changes something at the level of Request, and what is read at that of Metadata', () => {
      const general = rules.slice(-2)
      assert.deepEqual(
        general.map(({ level, resources }) => [level, resources]),
        [
          ['Request', undefined],
          ['Metadata', undefined],
        ],
      )
      const [change] = lines('POST', '/apis/apps/v1/namespaces/plain/deployments')
      assert.equal(change?.level, 'Request')
      assert.ok(change.requestObject && !change.responseObject)
      const [read] = lines('GET', `${things}/pods`)
      assert.equal(read?.level, 'Metadata')
    })

    test('no noise: nothing that a rule of level None names, though it happened', async () => {
      const silent = rules.filter(({ level }) => level === 'None')
      assert.equal(silent.length, 4, 'this test knows four: say here what the others are about')
      const urls = silent.flatMap(({ nonResourceURLs = [] }) => nonResourceURLs)
      for (const url of urls) {
        const start = url.replace('*', '')
        assert.ok(!log.some((line) => line.requestURI.split('?')[0]!.startsWith(start)), url)
      }
      // Events came in a flood, and everybody's lease is new.
      assert.ok(!log.some((line) => line.objectRef?.resource === 'events'))
      const { stdout } = await server.kubectl('get leases --all-namespaces --output json')
      const { items } = JSON.parse(stdout) as {
        items: { metadata: { name: string }; spec: { renewTime?: string } }[]
      }
      for (const name of ['kube-scheduler', 'kube-controller-manager', 'behaved'])
        assert.ok(
          items.find(({ metadata }) => metadata.name === name)?.spec.renewTime,
          `nobody renews ${name}`,
        )
      const quiet = silent.flatMap(({ users = [], userGroups = [] }) => [...users, ...userGroups])
      assert.deepEqual(quiet.length, 4)
      const renewed = log.filter(
        ({ objectRef, verb, user }) =>
          objectRef?.resource === 'leases' &&
          ['get', 'update', 'patch'].includes(verb) &&
          [user.username, ...(user.groups ?? [])].some((name) => quiet.includes(name)),
      )
      assert.deepEqual(renewed, [])
    })

    test('no word of a Secret, of a ConfigMap, or of a token, in whatever way it was read or written', () => {
      assert.ok(token.length > 100, 'there was no token')
      const words = [secretValue, mapValue].flatMap((word) => [
        word,
        Buffer.from(word).toString('base64').slice(0, -4),
      ])
      for (const word of [...words, token]) assert.ok(!raw.includes(word), word)
      // It was looked for in the right place: what was asked for is there.
      assert.ok(lines('GET', `${things}/secrets/canary`).length > 0)
    })
  })
})
