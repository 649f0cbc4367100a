// People on a real API server: what each role may do and what nobody's role can give, and certificates that end, are revoked, or are
// somebody else's.
import assert from 'node:assert/strict'
import { X509Certificate } from 'node:crypto'
import { spawn } from 'node:child_process'
import { existsSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { Agent, request } from 'node:https'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { parse } from 'yaml'
import { secretStore } from '../../lib/ground/secret.ts'
import { root, said } from '../machine/kit.ts'
import { type Demo, demo, missing } from './demo.ts'
import { type Reply, data } from './kit.ts'
import { around, pod } from './workloads.ts'

interface Paper {
  cert: string
  key: string
}
type Row = [who: string, verb: string, resource: string, namespace: string, answer: 'yes' | 'no']

const { rows } = parse(readFileSync(join(root, 'config/policy/can-i.yaml'), 'utf8')) as { rows: Row[] }
const people = `people:
  - { name: me, roles: [owner] }
  - { name: anna, roles: [admin] }
  - { name: ben, roles: [deployer] }
  - { name: cleo, roles: [viewer] }
`

describe('people', { skip: missing }, () => {
  let it: Demo
  let document: string
  let agent: Agent
  let files: string
  let ca: string
  const papers: Record<string, Paper> = {}

  const page = (...words: string[]) => said(it.start(words, '54-people'))
  const task = (...words: string[]) =>
    said(
      spawn(process.execPath, [join(it.copy.dir, 'bin/task.cjs'), ...words], {
        cwd: it.copy.dir,
        env: it.env,
      }),
    )
  const site = (text: string) =>
    writeFileSync(join(it.copy.dir, 'config/sites/fortress-pi.yaml'), document + text)

  /** One request to the API with this certificate, or with none. */
  const as = (
    paper: Paper | undefined,
    method: string,
    path: string,
    body?: object,
    type = 'application/json',
  ) =>
    new Promise<Reply>((resolve, reject) => {
      const sent = request(
        {
          host: it.node.machine.host,
          port: 6443,
          method,
          path,
          ca,
          ...paper,
          agent,
          headers: { 'content-type': type },
        },
        (response) => {
          let text = ''
          response.setEncoding('utf8').on('data', (part: string) => (text += part))
          response.on('end', () => resolve({ status: response.statusCode ?? 0, text, warnings: '' }))
        },
      )
      sent.on('error', reject)
      sent.end(body === undefined ? undefined : JSON.stringify(body))
    })

  const given = async (who: string, ...words: string[]) => {
    const file = join(files, who)
    const { code, text } = await task('kubeconfig', ...words, '--out', file)
    assert.equal(code, 0, text)
    papers[who] = paperOf(readFileSync(file, 'utf8'))
    return text
  }
  const may = async ([who, verb, what, namespace]: Row): Promise<string> => {
    const [, resource, group = '', subresource = ''] = /^([^./]+)(?:\.([^/]+))?(?:\/(.+))?$/.exec(what)!
    const body = {
      apiVersion: 'authorization.k8s.io/v1',
      kind: 'SelfSubjectAccessReview',
      spec: {
        resourceAttributes: {
          verb,
          group,
          resource,
          subresource,
          namespace: namespace === '-' ? '' : namespace,
        },
      },
    }
    const { text } = await as(
      papers[who],
      'POST',
      '/apis/authorization.k8s.io/v1/selfsubjectaccessreviews',
      body,
    )
    const { status } = JSON.parse(text) as { status?: { allowed?: boolean } }
    return status?.allowed === undefined ? text : status.allowed ? 'yes' : 'no'
  }

  before(async () => {
    it = await demo('people')
    document = readFileSync(join(it.copy.dir, 'config/sites/fortress-pi.yaml'), 'utf8')
      .replace('os: raspios-13', 'os: debian-13')
      .replace('arch: arm64', 'arch: amd64')
    site(people)
    // The bed is known as the host of another site.
    const known = join(it.node.state, 'known_hosts')
    writeFileSync(
      known,
      readFileSync(known, 'utf8').replaceAll('fortress.fortress', 'fortress-pi.fortress-pi'),
    )
    ca = await it.node.ok(`cat ${data}/server/tls/server-ca.crt`)
    files = mkdtempSync(join(tmpdir(), 'fk-people-'))
    agent = new Agent({ keepAlive: false })
    for (const name of ['apps', 'other']) await it.kubectl(`create namespace ${name}`)
  })
  after(async () => {
    agent?.destroy()
    if (files) rmSync(files, { recursive: true })
    await it?.end()
  })

  test('before the page there is nobody to be', async () => {
    const { code, text } = await task('kubeconfig', '--for', 'anna', '--out', join(files, 'early'))
    assert.notEqual(code, 0)
    assert.match(text, /the cluster has no role admin/)
    assert.equal(existsSync(join(files, 'early')), false)
  })

  test('it is applied, and a second run changes nothing', async () => {
    const { code, text } = await page('apply')
    assert.equal(code, 0, text)
    assert.match((await page('apply')).text, /54-people: 4 steps hold/)
    assert.equal((await page('verify')).code, 0)
  })

  const watched = () => said(it.start(['verify', '--verbose'], '57-break-glass'))

  test('the break-glass account was not used yet, and page 57 says so', async () => {
    const applied = await said(it.start(['apply', '--yes'], '57-break-glass'))
    assert.equal(applied.code, 0, applied.text)
    const { code, text } = await watched()
    assert.equal(code, 0, text)
  })

  test('a certificate has a name of its own, a group without rights, and ends in time', async () => {
    const said = await given('admin', '--for', 'anna', '--role', 'admin', '--hours', '2')
    assert.match(said, /fortress:anna:[0-9a-f]{8} is admin in the whole cluster until/)
    assert.equal(statSync(join(files, 'admin')).mode & 0o777, 0o600)
    const { text } = await as(papers['admin'], 'POST', '/apis/authentication.k8s.io/v1/selfsubjectreviews', {
      apiVersion: 'authentication.k8s.io/v1',
      kind: 'SelfSubjectReview',
    })
    const { status } = JSON.parse(text) as { status: { userInfo: { username: string; groups: string[] } } }
    assert.match(status.userInfo.username, /^fortress:anna:[0-9a-f]{8}$/)
    assert.deepEqual(status.userInfo.groups, ['fortress:people', 'system:authenticated'])
    const list = await task('kubeconfig', 'list')
    const end = Date.parse(/anna +admin +everywhere +(\S+)/.exec(list.text)?.[1] ?? '')
    assert.ok(Math.abs(end - Date.now() - 2 * 3_600_000) < 600_000, list.text)
    assert.equal(await it.kubectl('get certificatesigningrequests --output=name'), '')
  })

  test('kubectl opens the cluster with it', async () => {
    const text = await it.kubectl(
      `--kubeconfig=/dev/stdin get namespaces --output=name`,
      readFileSync(join(files, 'admin'), 'utf8'),
    )
    assert.match(text, /namespace\/apps/)
  })

  test('nobody gets more than the site document gives them, and nothing outside of it', async () => {
    for (const [words, says] of [
      [['--for', 'cleo', '--role', 'admin'], /cleo may not be admin/],
      [['--for', 'ben', '--role', 'admin'], /ben may not be admin/],
      [['--for', 'dora'], /has no person dora/],
      [['--for', 'ben'], /a deployer needs --namespace/],
      [['--for', 'ben', '--namespace', 'kube-system'], /belongs to the platform/],
      [['--for', 'ben', '--namespace', 'nowhere'], /there is no namespace nowhere/],
      [['--for', 'anna', '--hours', '1000'], /--hours is a whole number from 1 to 72/],
      [['--for', 'anna', '--hours', '0.1'], /--hours is a whole number/],
    ] as const) {
      const { code, text } = await task('kubeconfig', ...words, '--out', join(files, 'never'))
      assert.equal(code, 1, text)
      assert.match(text, says)
    }
    await it.kubectl('create namespace root')
    await it.kubectl('label namespace root pod-security.kubernetes.io/enforce=privileged')
    const { code, text } = await task(
      'kubeconfig',
      '--for',
      'ben',
      '--namespace',
      'root',
      '--out',
      join(files, 'never'),
    )
    assert.equal(code, 1)
    assert.match(text, /Pod Security level is privileged/)
    const again = await task('kubeconfig', '--for', 'anna', '--out', join(files, 'admin'))
    assert.match(again.text, /is there already/)
    assert.equal(existsSync(join(files, 'never')), false)
    assert.match((await task('kubeconfig', 'list')).text, /^anna .*\n$/)
  })

  test(`${rows.length} rows of can-i.yaml, each asked with a certificate of that role`, async () => {
    assert.ok(rows.length >= 60)
    await given('viewer', '--for', 'cleo')
    await given('reader', '--for', 'cleo', '--namespace', 'apps')
    await given('deployer', '--for', 'ben', '--namespace', 'apps')
    await given('break-glass', 'break-glass')
    await given('revoked', '--for', 'me', '--role', 'admin')
    assert.equal(await may(['revoked', 'get', 'pods', 'apps', 'yes']), 'yes')
    const { code, text } = await task('kubeconfig', 'revoke', 'me')
    assert.equal(code, 0, text)
    assert.match(text, /1 certificate of me opened something/)
    await eventually(() => may(['revoked', 'get', 'pods', 'apps', 'no']), 'no')
    const wrong = []
    for (const row of rows) {
      const answer = await may(row)
      if (answer !== row[4]) wrong.push(`${row.join(' ')}: ${answer}`)
    }
    assert.deepEqual(wrong, [])
  })

  test('the use of the break-glass account is seen: when, from where, and for what', async () => {
    const { code, text } = await watched()
    assert.equal(code, 1, text)
    assert.match(text, /fortress:break-glass:\w+ was used, \d+ requests/)
    assert.match(
      text,
      /20\d\d-\d\d-\d\dT\S+ [\d.]+ create \/apis\/authorization\.k8s\.io\/v1\/selfsubjectaccessreviews/,
    )
    // It is kept: the audit log is rotated.
    const kept = '/var/lib/fortress/k3s/break-glass.log'
    const applied = await said(it.start(['apply', '--yes'], '57-break-glass'))
    assert.equal(applied.code, 1)
    assert.match(applied.text, /kubeconfig revoke break-glass/)
    await it.node.ok(`test "$(stat --format=%a ${kept})" = 600 && grep --count . ${kept}`)
  })

  test('CIS has nothing against the roles and their bindings', async () => {
    // Nothing else of the runbook was applied to this bed: other sections have something against it.
    await said(it.start(['apply', '--yes'], '22-k3s-cis'))
    const { text } = await said(it.start(['verify', '--verbose'], '22-k3s-cis'))
    for (const id of [
      '5.1.1',
      '5.1.2',
      '5.1.3',
      '5.1.4',
      ...[7, 8, 9, 10, 11, 12, 13, 14].map((n) => `5.1.${n}`),
    ])
      assert.match(text, new RegExp(`ok +${id} `), `${id}: ${text}`)
  })

  test('what comes after a revocation does not bring the old one back', async () => {
    const old = papers['revoked']!
    await given('again', '--for', 'me', '--role', 'admin')
    assert.equal(await may(['again', 'get', 'pods', 'apps', 'yes']), 'yes')
    papers['old'] = old
    assert.equal(await may(['old', 'get', 'pods', 'apps', 'no']), 'no')
  })

  test('the platform is shut to people, whatever their role, and nodes can be drained', async () => {
    const made = around('Pod', 'mine', pod(), 'kube-system')
    const admin = papers['admin']
    const refused = async (reply: Promise<Reply>, says = /belongs to the platform/) => {
      const { status, text } = await reply
      assert.ok(status === 422 || status === 403, `${status} ${text}`)
      assert.match(text, says)
    }
    await eventually(async () => (await as(admin, 'POST', `${made.path}?dryRun=All`, made.body)).status, 422)
    await refused(as(admin, 'POST', `${made.path}?dryRun=All`, made.body))
    const map = { apiVersion: 'v1', kind: 'ConfigMap', metadata: { name: 'x', namespace: 'kube-system' } }
    await refused(as(admin, 'POST', '/api/v1/namespaces/kube-system/configmaps?dryRun=All', map))
    await refused(
      as(admin, 'DELETE', '/api/v1/namespaces/kube-system/configmaps/kube-root-ca.crt?dryRun=All'),
    )
    const theirs = around('Pod', 'theirs', pod(), 'kube-system')
    assert.equal((await it.node.ask('POST', theirs.path, { body: theirs.body })).status, 201)
    const at = '/api/v1/namespaces/kube-system/pods/theirs'
    await refused(as(admin, 'POST', `${at}/exec?command=true&stdout=true`))
    await refused(
      as(admin, 'PATCH', at, { metadata: { labels: { a: 'b' } } }, 'application/merge-patch+json'),
    )
    const eviction = {
      apiVersion: 'policy/v1',
      kind: 'Eviction',
      metadata: { name: 'theirs', namespace: 'kube-system' },
    }
    assert.equal((await as(admin, 'POST', `${at}/eviction?dryRun=All`, eviction)).status, 201)
    assert.equal((await as(admin, 'DELETE', `${at}?dryRun=All`)).status, 200)
    await it.kubectl('delete pod theirs --namespace=kube-system --grace-period=0 --force')
    // Others are not people: the pages, and controllers.
    assert.equal((await it.node.ask('POST', `${made.path}?dryRun=All`, { body: made.body })).status, 201)
    const glass = await as(papers['break-glass'], 'POST', `${made.path}?dryRun=All`, made.body)
    assert.equal(glass.status, 201, glass.text)
  })

  test('the Pod Security level of a namespace is loosened by nobody, and may be kept and tightened', async () => {
    const admin = papers['admin']
    const space = (name: string, labels: object) => ({
      apiVersion: 'v1',
      kind: 'Namespace',
      metadata: { name, labels },
    })
    const level = 'pod-security.kubernetes.io/enforce'
    const post = async (labels: object) =>
      (await as(admin, 'POST', '/api/v1/namespaces?dryRun=All', space('new', labels))).status
    const patch = async (name: string, labels: object) =>
      (
        await as(
          admin,
          'PATCH',
          `/api/v1/namespaces/${name}?dryRun=All`,
          { metadata: { labels } },
          'application/merge-patch+json',
        )
      ).status
    assert.equal(await post({}), 201)
    assert.equal(await post({ [level]: 'restricted' }), 201)
    assert.equal(await post({ [level]: 'baseline' }), 422)
    assert.equal(await post({ [level]: 'privileged' }), 422)
    assert.equal(await post({ [`${level}-version`]: 'v1.18' }), 422)
    assert.equal(await patch('apps', { a: 'b' }), 200)
    assert.equal(await patch('apps', { [level]: 'privileged' }), 422)
    assert.equal(await patch('apps', { [`${level}-version`]: 'v1.18' }), 422)
    assert.equal(await patch('root', { a: 'b' }), 200)
    assert.equal(await patch('root', { [level]: 'restricted' }), 200)
    assert.equal(await patch('root', { [level]: null }), 200)
    assert.equal(await patch('root', { [level]: 'baseline' }), 422)
    assert.equal(await patch('kube-system', { a: 'b' }), 422)
    assert.equal((await as(admin, 'DELETE', '/api/v1/namespaces/cert-manager?dryRun=All')).status, 404)
    assert.equal((await as(admin, 'DELETE', '/api/v1/namespaces/kube-public?dryRun=All')).status, 403)
  })

  test('nobody gets in without a certificate, with one that has ended, or with one of another authority', async () => {
    const path = '/api/v1/namespaces'
    assert.equal((await as(undefined, 'GET', path)).status, 401)
    assert.equal((await as(undefined, 'GET', '/version')).status, 401)
    const name = `/O=fortress:people/CN=${/CN=(.*)/.exec(new X509Certificate(papers['admin']!.cert).subject)?.[1]}`
    const signed = async (days: string, by = `${data}/server/tls/client-ca`): Promise<Paper> => {
      const [key, cert] = (
        await it.node.ok(`cd "$(mktemp --directory)"
[ -e ${by}.crt ] || openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=other \\
  -keyout ${by}.key -out ${by}.crt 2> /dev/null
openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj ${name} -keyout key -out request 2> /dev/null
printf 'extendedKeyUsage = clientAuth\\n' > extensions
openssl x509 -req -in request -CA ${by}.crt -CAkey ${by}.key -set_serial 7 ${days} -extfile extensions -out cert 2> /dev/null
cat key; echo @; cat cert`)
      ).split('@\n')
      return { key: key!, cert: cert! }
    }
    // One with this name and days to come is let in: it is the time that the next one lacks.
    assert.equal((await as(await signed('-days 1'), 'GET', path)).status, 200)
    const past = await signed('-not_before 20200101000000Z -not_after 20200102000000Z')
    const { status, text } = await as(past, 'GET', path)
    assert.equal(status, 401, text)
    assert.equal((await as(await signed('-days 1', '/root/other'), 'GET', path)).status, 401)
  })

  test('verify sees who has more than the document gives, and the next apply takes it away', async () => {
    site(people.replace('[admin]', '[viewer]').replace(/.*ben.*\n/, ''))
    const { code, text } = await page('verify')
    assert.equal(code, 1, text)
    assert.match(text, /- fortress:anna:\w+ gives more than the site document/)
    assert.match(text, /- fortress:ben:\w+ is of nobody in the site document/)
    assert.equal((await page('apply')).code, 0)
    await eventually(() => may(['admin', 'list', 'nodes', '-', 'no']), 'no')
    assert.equal(await may(['deployer', 'get', 'pods', 'apps', 'no']), 'no')
    assert.equal(await may(['viewer', 'list', 'nodes', '-', 'yes']), 'yes')
    site(people)
  })

  test('verify sees a role with one more right, and a binding for somebody else', async () => {
    await it.kubectl(
      `patch clusterrole fortress:viewer --type=json --patch='[{"op":"add","path":"/rules/-","value":{"apiGroups":[""],"resources":["secrets"],"verbs":["get"]}}]'`,
    )
    await it.kubectl('create clusterrolebinding fortress:cleo:aa --clusterrole=cluster-admin --user=somebody')
    await it.kubectl('label clusterrolebinding fortress:cleo:aa fortress-kit=grant')
    assert.equal(await may(['viewer', 'get', 'secrets', 'apps', 'yes']), 'yes')
    const { code, text } = await page('verify')
    assert.equal(code, 1, text)
    assert.match(text, /ClusterRole fortress:viewer/)
    assert.match(text, /- fortress:cleo:aa is not as the kit writes it/)
    assert.equal((await page('apply')).code, 0)
    await eventually(() => may(['viewer', 'get', 'secrets', 'apps', 'no']), 'no')
    assert.equal((await it.node.kubectl('get clusterrolebinding fortress:cleo:aa')).code, 1)
  })

  test('what has ended alarms nobody, and goes when somebody comes by', async () => {
    const [binding] = (
      await it.kubectl('get clusterrolebindings --selector=fortress-kit=grant --output=name')
    ).split('\n')
    await it.kubectl(`annotate ${binding} fortress-kit/until=2026-01-01T00:00:00Z --overwrite`)
    const { code, text } = await page('verify')
    assert.equal(code, 0, text)
    assert.doesNotMatch((await task('kubeconfig', 'list')).text, /2026-01-01/)
    assert.equal((await it.node.kubectl(`get ${binding}`)).code, 1)
  })

  test('the break-glass account is made anew when it was used, and the one before opens nothing', async () => {
    const store = secretStore({
      dir: join(it.node.state, 'fortress-pi'),
      identity: join(it.node.state, 'identity.txt'),
    })
    assert.ok(store.has('break-glass'))
    assert.equal(await may(['break-glass', 'get', 'secrets', 'kube-system', 'yes']), 'yes')
    const { code, text } = await task('kubeconfig', 'revoke', 'break-glass')
    assert.equal(code, 0, text)
    await eventually(() => may(['break-glass', 'get', 'secrets', 'kube-system', 'no']), 'no')
    assert.match(
      (await task('kubeconfig', 'break-glass', '--out', join(files, 'none'))).text,
      /no break-glass account/,
    )
    assert.equal((await page('verify')).code, 1)
    assert.equal((await page('apply')).code, 0)
    // What the one before tried last is kept, too.
    const kept = await said(it.start(['apply', '--yes'], '57-break-glass'))
    assert.equal(kept.code, 0, kept.text)
    assert.equal((await watched()).code, 0)
    papers['before'] = papers['break-glass']!
    rmSync(join(files, 'break-glass'))
    await given('break-glass', 'break-glass')
    assert.equal(await may(['break-glass', 'get', 'secrets', 'kube-system', 'yes']), 'yes')
    assert.equal(await may(['before', 'get', 'secrets', 'kube-system', 'no']), 'no')
    assert.equal((await watched()).code, 1)
  })

  test('undo leaves nothing that anybody could use', async () => {
    const { code, text } = await page('undo')
    assert.equal(code, 0, text)
    const left = await it.kubectl(
      'get clusterroles,clusterrolebindings,rolebindings,validatingadmissionpolicies,validatingadmissionpolicybindings,certificatesigningrequests --all-namespaces --output=name',
    )
    assert.deepEqual(
      left.split('\n').filter((line) => line.includes('fortress')),
      [],
    )
    for (const who of ['viewer', 'admin', 'again', 'break-glass'])
      assert.equal(await may([who, 'get', 'pods', 'apps', 'no']), 'no')
  })

  /** Asks again for some seconds: an API server hears of what has changed some moments later. */
  async function eventually<T>(ask: () => Promise<T>, wanted: T): Promise<void> {
    for (let i = 0; ; i++) {
      const answer = await ask()
      if (answer === wanted) return
      assert.ok(i < 50, `${String(answer)} and not ${String(wanted)}`)
      await sleep(100)
    }
  }
})

/** What a kubeconfig has of its person. */
function paperOf(text: string): Paper {
  const { users } = parse(text) as { users: { user: Record<string, string> }[] }
  const of = (key: string) => Buffer.from(users[0]?.user[key] ?? '', 'base64').toString()
  return { cert: of('client-certificate-data'), key: of('client-key-data') }
}
