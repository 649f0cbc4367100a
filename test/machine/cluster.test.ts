// The pages of the cluster on several machines, where a stand-in is k3s and writes down what happens: who joins after whom,
// what an upgrade does in which order, what it refuses, how it goes back, and that a run that was killed anywhere is ended by
// the next one.
import assert from 'node:assert/strict'
import { readFileSync, statSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { join } from 'node:path'
import { after, afterEach, before, describe, test } from 'node:test'
import type { Page } from '../../lib/engine/page.ts'
import { loadConfig } from '../../lib/site/config.ts'
import { type Cluster, deadlyOnce, recorded } from './recorded.ts'

const load = createRequire(import.meta.url)
const servers = ['begin-2', 'begin-3', 'begin-4']
const [old, next] = ['v1.36.4+k3s1', 'v1.36.5+k3s1']

/** The pages as they are in the checkout of a cluster: what is pinned there counts. */
const pagesOf = (cluster: Cluster, ...names: string[]) =>
  names.map((name) => (load(cluster.copy.page(name)) as { default: Page }).default)

describe('a cluster', () => {
  let cluster: Cluster
  before(async () => {
    // The agent is listed first, and comes last all the same.
    cluster = await recorded('begin', ['agent', 'server', 'server', 'server'])
    cluster.pin(old)
    // A node that never becomes well is not waited for as long as a real one.
    const file = join(cluster.copy.dir, 'lib/k3s/nodes.ts')
    writeFileSync(file, readFileSync(file, 'utf8').replace('const START = 540', 'const START = 45'))
  })
  after(() => cluster?.end())
  // What one test breaks, the next one finds whole.
  afterEach(() => cluster.api.mend())

  test('the first server initialises it, and no other', async () => {
    const { code, text } = await cluster.page('20-k3s-server', 'apply')
    assert.equal(code, 0, text)
    assert.deepEqual(cluster.api.told('join', 'member'), ['member begin-2', 'join begin-2'])
  })

  test('no node joins a cluster that is not healthy', async () => {
    cluster.api.faults.sick.add('begin-2')
    const { code, text } = await cluster.page('21-k3s-join', 'apply')
    assert.equal(code, 1)
    assert.match(text, /on begin-2: etcd and API servers are healthy without begin-3/)
    assert.match(text, /begin-2 has no vote in etcd/)
    assert.deepEqual(cluster.api.told('join'), ['join begin-2'])
    cluster.api.faults.sick.clear()
  })

  test('servers join one after the other, and then the agent, though it is listed first', async () => {
    const { code, text } = await cluster.page('21-k3s-join', 'apply')
    assert.equal(code, 0, text)
    assert.deepEqual(
      cluster.api.told('join'),
      ['begin-2', 'begin-3', 'begin-4', 'begin-1'].map((name) => `join ${name}`),
    )
    const events = cluster.api.told('member', 'ready')
    assert.ok(events.indexOf('ready begin-3') < events.indexOf('member begin-4'), events.join('\n'))
  })

  test('a second time there is nothing to do, and nothing starts anew', async () => {
    const starts = cluster.api.told('start').length
    for (const page of ['20-k3s-server', '21-k3s-join']) {
      const { code, text } = await cluster.page(page, 'apply')
      assert.deepEqual([code, /^changed /m.test(text)], [0, false], text)
    }
    assert.equal(cluster.api.told('start').length, starts)
  })

  test('what a server cannot read returns to what it was, and the next server is not touched', async () => {
    const file = join(cluster.copy.dir, 'config/k3s/admission.yaml')
    const good = readFileSync(file, 'utf8')
    writeFileSync(file, `${good}# k3s cannot read this\n`)
    cluster.api.log.length = 0
    const { code, text } = await cluster.page('21-k3s-join', 'apply')
    assert.equal(code, 1)
    assert.match(text, /no kind AdmissionConfiguration is registered/)
    assert.deepEqual([...new Set(cluster.api.told('stop'))], ['stop begin-3'])
    await settled(() => cluster.api.up.has('begin-3'))
    writeFileSync(file, good)
    const verified = await cluster.page('21-k3s-join', 'verify')
    assert.equal(verified.code, 0, verified.text)
  })

  test('no server starts anew while another one is away, not even the first', async () => {
    const file = join(cluster.copy.dir, 'config/k3s/audit.yaml')
    writeFileSync(file, `${readFileSync(file, 'utf8')}# changed\n`)
    cluster.api.log.length = 0
    await cluster.on('begin-4', 'systemctl stop k3s')
    const first = await cluster.page('20-k3s-server', 'apply')
    assert.equal(first.code, 1, first.text)
    assert.match(
      first.text,
      /on begin-3: etcd and API servers are healthy without begin-2[\s\S]*begin-4 has no vote/,
    )
    const others = await cluster.page('21-k3s-join', 'apply')
    assert.equal(others.code, 1, others.text)
    assert.deepEqual(cluster.api.told('stop'), ['stop begin-4'])
    await cluster.on('begin-4', 'systemctl start k3s')
    for (const page of ['20-k3s-server', '21-k3s-join']) {
      const { code, text } = await cluster.page(page, 'apply')
      assert.equal(code, 0, text)
    }
    assert.equal(cluster.api.mostAway(...servers), 1)
  })

  test('an upgrade that leaves out a minor version, or goes back, begins nowhere', async () => {
    cluster.api.log.length = 0
    for (const [version, said] of [
      ['v1.38.0+k3s1', /v1\.36\.4\+k3s1 runs, and v1\.38\.0\+k3s1 leaves out v1\.37/],
      ['v1.36.4-rc2+k3s1', /v1\.36\.4\+k3s1 runs, and v1\.36\.4-rc2\+k3s1 is older/],
      ['v1.35.9+k3s4', /is older/],
    ] as const) {
      cluster.pin(version)
      const { code, text } = await cluster.page('25-k3s-upgrade', 'apply')
      assert.equal(code, 1)
      assert.match(text, said)
    }
    assert.deepEqual(cluster.api.told('cordon', 'stop', 'snapshot'), [])
  })

  test('an upgrade begins nowhere before all nodes are staged', async () => {
    cluster.pin(next)
    const { code, text } = await cluster.page('25-k3s-upgrade', 'apply')
    assert.equal(code, 1)
    assert.match(text, /not staged on begin-2 begin-3 begin-4 begin-1\n/)
    const staged = await cluster.page('24-k3s-stage', 'apply')
    assert.equal(staged.code, 0, staged.text)
    assert.deepEqual(cluster.api.told('cordon', 'stop', 'snapshot'), [])
  })

  test('no upgrade begins while a client uses an API that the new version does not have: the plan names it', async () => {
    cluster.api.faults.deprecated = [
      { group: 'flowcontrol.apiserver.k8s.io', version: 'v1beta3', resource: 'flowschemas', removed: '1.36' },
      { group: 'example.org', version: 'v1beta1', resource: 'lasting', removed: '1.37' },
    ]
    const { text } = await cluster.page('25-k3s-upgrade', 'plan')
    assert.match(text, /flowschemas of flowcontrol\.apiserver\.k8s\.io\/v1beta3, removed in 1\.36/)
    assert.doesNotMatch(text, /lasting|componentstatuses/)
    assert.match(text, /# first, on begin-3: begin-2 is cordoned and drained/)
    assert.equal((await cluster.page('25-k3s-upgrade', 'apply')).code, 1)
    assert.deepEqual(cluster.api.told('cordon', 'stop', 'snapshot'), [])
    cluster.api.faults.deprecated = []
  })

  test('no upgrade begins without a snapshot, nor in a cluster that is not healthy', async () => {
    cluster.api.faults.snapshot = true
    const full = await cluster.page('25-k3s-upgrade', 'apply')
    assert.equal(full.code, 1)
    assert.match(full.text, /no space left on device/)
    cluster.api.faults.snapshot = false
    cluster.api.faults.sick.add('begin-4')
    const sick = await cluster.page('25-k3s-upgrade', 'apply')
    assert.equal(sick.code, 1)
    assert.match(sick.text, /begin-4 has no vote in etcd/)
    cluster.api.faults.sick.clear()
    assert.deepEqual(cluster.api.told('cordon', 'stop', 'snapshot'), [])
  })

  test('a pod that cannot be evicted stops the upgrade: the node is uncordoned, and the budget is named', async () => {
    cluster.api.pods = [{ space: 'shop', name: 'web-0', node: 'begin-2', budget: 'web' }]
    const { code, text } = await cluster.page('25-k3s-upgrade', 'apply')
    assert.equal(code, 1)
    assert.match(text, /shop\/web-0 cannot be evicted: the PodDisruptionBudget web allows no disruption/)
    assert.match(text, /FK_DRAIN=force/)
    assert.deepEqual(cluster.api.told('snapshot'), ['snapshot begin-2'])
    assert.deepEqual(cluster.api.told('cordon', 'stuck', 'uncordon', 'stop'), [
      'cordon begin-2',
      'stuck begin-2',
      'uncordon begin-2',
    ])
    assert.deepEqual(cluster.api.nodes.get('begin-2')?.metadata.annotations['fortress-kit/away'], undefined)
  })

  test('a version that does not start is swapped back, the node is uncordoned, and no other is touched', async () => {
    cluster.api.pods = []
    cluster.api.log.length = 0
    cluster.api.faults.crashes.add(next)
    const { code, text } = await cluster.page('25-k3s-upgrade', 'apply')
    assert.equal(code, 1)
    assert.match(text, /k3s did not become ready: k3s does not run\n.*this version does not start/)
    assert.deepEqual(cluster.api.told('drain', 'uncordon'), ['drain begin-2', 'uncordon begin-2'])
    assert.deepEqual([...new Set(cluster.api.told('stop'))], ['stop begin-2'])
    assert.equal(cluster.api.log.findLast(({ what }) => what === 'ready')?.more, old)
    assert.match(
      await cluster.on('begin-2', 'readlink /opt/bin/k3s; ls /var/lib/fortress/k3s'),
      new RegExp(`^../k3s/${old.replace('+', '\\+')}/k3s\nstarted\n$`),
    )
  })

  test('a version that starts and is not healthy is swapped back', async () => {
    cluster.api.log.length = 0
    cluster.api.faults.ill.add(next)
    const { code, text } = await cluster.page('25-k3s-upgrade', 'apply')
    assert.equal(code, 1)
    assert.match(text, /k3s did not become ready: the API does not answer: .*etcd failed/)
    assert.deepEqual(cluster.api.told('drain', 'uncordon'), ['drain begin-2', 'uncordon begin-2'])
    assert.equal(cluster.api.log.findLast(({ what }) => what === 'ready')?.more, old)
    assert.deepEqual([...new Set(cluster.api.told('stop'))], ['stop begin-2'])
  })

  test('an upgrade that is killed at every place is finished by the next runs, one server at a time, then the agent', async (t) => {
    cluster.api.log.length = 0
    // Somebody has cordoned one of them, and wants it so.
    cluster.api.nodes.get('begin-4')!.spec.unschedulable = true
    for (const name of cluster.names)
      await cluster.on(name, `install -D /opt/k3s/${old}/k3s /opt/k3s/v1.35.9+k3s1/k3s`)
    const pages = pagesOf(cluster, '25-k3s-upgrade')
    let runs = 0
    for (let last = { code: 1, text: '' }; last.code !== 0; runs++) {
      assert.ok(runs < 150, `it comes to no end: ${last.text}`)
      last = await cluster.drive(pages, deadlyOnce)
    }
    const marks = await Promise.all(
      cluster.names.map((name) => cluster.on(name, 'ls /run | grep --count "^stab" || true')),
    )
    const kills = marks.reduce((sum, text) => sum + Number(text), 0)
    t.diagnostic(`${runs} runs, killed at ${kills} places`)
    assert.ok(kills > 40, `only ${kills} kills`)
    for (const node of cluster.api.nodes.values()) {
      assert.equal(node.status.nodeInfo.kubeletVersion, next)
      assert.equal(node.metadata.annotations['fortress-kit/away'], undefined)
      assert.equal(node.spec.unschedulable ?? false, node.metadata.name === 'begin-4')
    }
    assert.equal(cluster.api.mostAway(...servers), 1)
    // It was taken by the first of the runs above that came so far, and is not taken again.
    assert.deepEqual(cluster.api.told('snapshot'), [])
    const swapped = cluster.api.log
      .filter(({ what, more }) => what === 'ready' && more === next)
      .map(({ node }) => node)
    assert.deepEqual([...new Set(swapped)], ['begin-2', 'begin-3', 'begin-4', 'begin-1'])
    cluster.api.nodes.get('begin-4')!.spec.unschedulable = false
    for (const name of cluster.names) assert.equal(await cluster.on(name, 'ls /opt/k3s'), `${old}\n${next}\n`)
  })

  test('after the upgrade there is nothing to do, nothing restarts, and all pages agree', async () => {
    cluster.api.log.length = 0
    for (const page of ['20-k3s-server', '21-k3s-join', '24-k3s-stage', '25-k3s-upgrade', '26-k3s-renew']) {
      const { code, text } = await cluster.page(page, 'apply')
      assert.deepEqual([code, /^changed /m.test(text)], [0, false], text)
    }
    assert.deepEqual(cluster.api.told('start', 'cordon', 'drain'), [])
  })

  test('undo of an upgrade takes nothing back: neither the program that runs, nor the link to it', async () => {
    cluster.api.log.length = 0
    for (const page of ['25-k3s-upgrade', '24-k3s-stage']) {
      const { code, text } = await cluster.page(page, 'undo')
      assert.equal(code, 0, text)
    }
    for (const name of cluster.names)
      assert.equal(
        await cluster.on(name, 'readlink --canonicalize-existing /opt/bin/k3s'),
        `/opt/k3s/${next}/k3s\n`,
      )
    assert.deepEqual(cluster.api.told('start'), [])
  })

  test('a certificate that ends within 90 days is renewed, while the other servers are well', async () => {
    cluster.api.log.length = 0
    const path = '/var/lib/rancher/k3s/server/tls/etcd/client.crt'
    await cluster.on(
      'begin-3',
      `openssl req -x509 -newkey ed25519 -nodes -subj /CN=old -days 80 -keyout /dev/null -out ${path} 2> /dev/null`,
    )
    const { text } = await cluster.page('26-k3s-renew', 'plan')
    assert.match(text, /(79|80) days are left of server\/tls\/etcd\/client\.crt/)
    cluster.api.faults.sick.add('begin-4')
    assert.equal((await cluster.page('26-k3s-renew', 'apply')).code, 1)
    assert.deepEqual(cluster.api.told('stop'), [])
    cluster.api.faults.sick.clear()
    const { code, text: said } = await cluster.page('26-k3s-renew', 'apply')
    assert.equal(code, 0, said)
    assert.deepEqual(cluster.api.told('stop'), ['stop begin-3'])
    assert.match(
      await cluster.on('begin-3', `openssl x509 -noout -checkend $((300 * 86400)) -in ${path}`),
      /will not expire/,
    )
  })

  test('status shows it on one screen: what needs attention first, and a machine that is gone as a line', async () => {
    const well = await cluster.task('status')
    assert.match(well.text, /begin-2 +server +v1\.36\.5\+k3s1 +yes +yes +votes +3\d\d days/)
    assert.match(well.text, /begin-1 +agent +v1\.36\.5\+k3s1 +yes +yes +3\d\d days/)
    assert.match(well.text, /^! {2}backup: no backup of the cluster is known\n +→ \.\/task k3s-backup apply/m)
    assert.equal(well.code, 2)
    await cluster.on('begin-3', 'systemctl stop k3s; echo changed >> /etc/sysctl.d/99-zz-fortress-k3s.conf')
    const ill = await cluster.task('status', '--json')
    assert.equal(ill.code, 1, ill.text)
    const { concerns } = JSON.parse(ill.text) as {
      concerns: { state: string; of: string; says: string; next: string }[]
    }
    const about = (name: string) =>
      concerns
        .filter(({ of }) => of === name)
        .map(({ says }) => says)
        .join('; ')
    assert.match(
      about('begin-3'),
      /k3s does not run.*has no vote in etcd.*does not see it.*somebody changed \/etc\/sysctl\.d\/99-zz-fortress-k3s\.conf/,
    )
    await cluster.on(
      'begin-3',
      `head --lines=-1 /etc/sysctl.d/99-zz-fortress-k3s.conf > /root/x
cat /root/x > /etc/sysctl.d/99-zz-fortress-k3s.conf
systemctl start k3s`,
    )
    await settled(() => cluster.api.up.has('begin-3'))
  })

  test('the kubeconfig leads to the server that was asked for, for its owner alone', async () => {
    const { code, text } = await cluster.task('node', 'kubeconfig', 'begin-3')
    assert.equal(code, 0, text)
    const path = join(cluster.state, 'fortress-pi/begin-3.kubeconfig')
    assert.equal(statSync(path).mode & 0o777, 0o600)
    assert.match(readFileSync(path, 'utf8'), /server: https:\/\/10\.66\.0\.13:6443/)
    assert.match(
      (await cluster.task('node', 'kubeconfig', 'begin-9')).text,
      /has no server begin-9; did you mean begin-2|it has begin-2/,
    )
  })

  test('a node is replaced: its pods leave, it stops, the cluster forgets it, and it joins as a new one', async () => {
    cluster.api.log.length = 0
    const { code, text } = await cluster.task('node', 'replace', 'begin-3', '--confirm', 'begin-3')
    assert.equal(code, 0, text)
    assert.deepEqual(cluster.api.told('drain', 'stop', 'removed', 'delete', 'password', 'member', 'join'), [
      'drain begin-3',
      'stop begin-3',
      'removed begin-3',
      'delete begin-3',
      'password begin-3',
      'member begin-3',
      'join begin-3',
    ])
    assert.match(await cluster.on('begin-3', 'ls /var/lib/rancher/k3s/replaced'), /^agent\n[^]*server\n/)
    assert.equal(cluster.api.nodes.get('begin-3')?.spec.unschedulable ?? false, false)
  })

  test('not without its name, not the first, and not when the rest would be no majority', async () => {
    cluster.api.log.length = 0
    const unnamed = await cluster.task('node', 'replace', 'begin-3')
    assert.equal(unnamed.code, 1)
    assert.match(unnamed.text, /type begin-3 at the prompt, or say --confirm begin-3/)
    const first = await cluster.task('node', 'replace', 'begin-2', '--confirm', 'begin-2')
    assert.match(first.text, /begin-2 is the first server of fortress-pi[\s\S]*put another server before it/)
    cluster.api.faults.sick.add('begin-4')
    const many = await cluster.task('node', 'replace', 'begin-3', '--confirm', 'begin-3')
    assert.equal(many.code, 1)
    assert.match(many.text, /of 3 members of etcd 1 are healthy without begin-3/)
    cluster.api.faults.sick.clear()
    const unknown = await cluster.task('node', 'replace', 'begin-8', '--confirm', 'begin-8')
    assert.match(unknown.text, /has no node begin-8; did you mean begin-/)
    assert.deepEqual(cluster.api.told('cordon', 'stop', 'removed', 'delete'), [])
  })

  test('a replacement that is killed anywhere is ended by the next one', async (t) => {
    cluster.api.log.length = 0
    await Promise.all(cluster.names.map((name) => cluster.on(name, 'rm --force /run/stab.*')))
    const { leaving } = load(
      join(cluster.copy.dir, 'lib/k3s/nodes.ts'),
    ) as typeof import('../../lib/k3s/nodes.ts')
    const config = loadConfig({ env: { ...cluster.env }, root: cluster.copy.dir })
    const [join_] = pagesOf(cluster, '21-k3s-join')
    let runs = 0
    for (let last = { code: 1, text: '' }; last.code !== 0; runs++) {
      assert.ok(runs < 40, `it comes to no end: ${last.text}`)
      last = await cluster.drive(leaving(config, 'begin-4', true).pages, deadlyOnce)
    }
    const joined = await cluster.drive([{ ...join_!, at: 'begin-4' }])
    assert.equal(joined.code, 0, joined.text)
    t.diagnostic(`${runs} runs`)
    assert.ok(runs > 5, `only ${runs} runs`)
    assert.deepEqual(cluster.api.told('removed', 'delete', 'member'), [
      'removed begin-4',
      'delete begin-4',
      'member begin-4',
    ])
  })

  test('what the cluster knows and the site does not is taken out by its name', async () => {
    const { code, text } = await cluster.page('21-k3s-join', 'verify')
    assert.equal(code, 0, text)
    cluster.api.nodes.set('old', {
      ...cluster.api.nodes.get('begin-1')!,
      metadata: { name: 'old', annotations: {} },
    })
    cluster.api.secrets.set('old', 'password')
    const gone = await cluster.task('node', 'remove', 'old', '--confirm', 'old')
    assert.equal(gone.code, 0, gone.text)
    assert.ok(!cluster.api.nodes.has('old') && !cluster.api.secrets.has('old'))
  })

  test('undo stops every node, agents first, and leaves the data', async () => {
    cluster.api.log.length = 0
    for (const page of ['21-k3s-join', '20-k3s-server']) {
      const { code, text } = await cluster.page(page, 'undo')
      assert.equal(code, 0, text)
    }
    assert.deepEqual(
      cluster.api.told('stop'),
      ['begin-1', 'begin-4', 'begin-3', 'begin-2'].map((name) => `stop ${name}`),
    )
    assert.match(await cluster.on('begin-2', 'ls /var/lib/rancher/k3s/server'), /^db$/m)
  })
})

describe('a cluster of one node', () => {
  let cluster: Cluster
  before(async () => {
    cluster = await recorded('alone', ['server'])
    cluster.pin(old)
    for (const page of ['20-k3s-server', '21-k3s-join']) {
      const { code, text } = await cluster.page(page, 'apply')
      assert.equal(code, 0, text)
    }
    cluster.pin(next)
    const staged = await cluster.page('24-k3s-stage', 'apply')
    assert.equal(staged.code, 0, staged.text)
    cluster.api.log.length = 0
  })
  after(() => cluster?.end())

  test('an upgrade takes its API down, and there is no other server: its name must be typed', async () => {
    const { code, text } = await cluster.page('25-k3s-upgrade', 'apply', '--yes')
    assert.equal(code, 1)
    assert.match(text, /operator accepts API downtime: alone-1[\s\S]*say --confirm alone-1/)
    assert.deepEqual(cluster.api.told('stop', 'cordon'), [])
  })

  test('then it is upgraded where its pods are, after a snapshot', async () => {
    const { code, text } = await cluster.page('25-k3s-upgrade', 'apply', '--confirm', 'alone-1')
    assert.equal(code, 0, text)
    assert.deepEqual(cluster.api.told('snapshot', 'cordon', 'drain', 'stop', 'ready', 'uncordon'), [
      'snapshot alone-1',
      'stop alone-1',
      'ready alone-1',
    ])
    assert.equal(cluster.api.nodes.get('alone-1')?.status.nodeInfo.kubeletVersion, next)
  })

  test('a machine that does not answer is a line on the screen, and not the end of it', async () => {
    const env = { ...cluster.env }
    Object.assign(cluster.env, { FK_SSH_KEY: cluster.env['FK_SUDO_PASSWORD_FILE'] })
    const { code, text } = await cluster.task('status')
    Object.assign(cluster.env, env)
    assert.equal(code, 1)
    assert.match(text, /^!! alone-1: alone-1 \S+\s+refuses the login/m)
    assert.match(text, /alone-1 +- +unknown/)
  })
})

async function settled(holds: () => boolean): Promise<void> {
  for (let i = 0; i < 100 && !holds(); i++) await new Promise((resolve) => setTimeout(resolve, 100))
  assert.ok(holds(), 'it does not become so')
}
