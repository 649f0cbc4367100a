// Three servers of a real control plane and an agent, built by the pages: one bundle brings all of them back to the same time,
// or none.
import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import type { CisReport } from '../../lib/k3s/score.ts'
import { secretStore } from '../../lib/ground/secret.ts'
import { type Fleet, fleet } from '../machine/fleet.ts'
import { differences } from '../machine/kit.ts'
import { left, printOf, runPrinted, sameLeft } from '../machine/printed.ts'
import { without } from '../programs.ts'
import { backupsTo } from '../site/made.ts'
import { data, etc, noSysctl, patience, pinAge, program, told, untilReady, unit, version } from './kit.ts'

const missing = program === undefined ? 'kube-bed is not installed' : without('age', 'tar')

/**
 * Bash: signs what $1 (the files of a node) has of certificates anew, for $3 days, with the authorities in $2 (those of a server).
 * Names and uses stay.
 */
const nearEnd = `set -euo pipefail
for path in "$1${data}"/agent/*.crt "$1${data}"/server/tls/{,etcd/}*.crt; do
  key=\${path%.crt}.key
  [ -e "$path" ] && [[ $path != *-ca.crt && $path != *-ca.nochain.crt ]] || continue
  issuer=$(openssl x509 -noout -issuer -in "$path")
  for ca in "$2${data}"/server/tls/{,etcd/}*-ca.crt; do
    [ "$(openssl x509 -noout -subject -in "$ca")" = "subject=\${issuer#issuer=}" ] || continue
    openssl x509 -x509toreq -in "$path" -signkey "$key" -copy_extensions copy |
      openssl x509 -req -CA "$ca" -CAkey "\${ca%.crt}.key" -copy_extensions copy -days "$3" -out "$path.new"
    cat "$ca" >> "$path.new"
    cat "$path.new" > "$path" && rm "$path.new"
  done
done`

describe('a cluster of three servers', { skip: missing }, () => {
  let cluster: Fleet
  const [first, second, third, agent] = ['trio-1', 'trio-2', 'trio-3', 'trio-4'] as const
  const servers: string[] = [first, second, third]
  const good = async (...words: string[]) => {
    const { code, text } = await cluster.task(...words)
    assert.equal(code, 0, text)
    return text
  }
  const kubectl = async (words: string, on: string = first) =>
    (await cluster.on(on, `/opt/bin/k3s kubectl ${words} 2>&1 || true`)).trim()
  const tls = `${data}/server/tls/etcd`
  const members = async () =>
    (
      await cluster.on(
        first,
        `/opt/bin/etcdctl --endpoints=https://127.0.0.1:2379 --cacert=${tls}/server-ca.crt \\
           --cert=${tls}/client.crt --key=${tls}/client.key member list`,
      )
    )
      .trim()
      .split('\n')
      .map((line) => {
        const [, state, name = '', , , learner] = line.split(', ')
        return `${name.replace(/-[0-9a-f]{8}$/, '')} ${state} ${learner === 'true' ? 'learns' : 'votes'}`
      })
      .toSorted()
  const all = servers.map((name) => `${name} started votes`)
  const ready = async (on: string) => cluster.on(on, untilReady(180))
  /** One machine of the cluster, as the helpers of printed pages know one. */
  const kitOf = (name: string) => cluster.kitOf(name)
  /** The files of a machine, as this computer finds them. */
  const treeOf = (name: string) => join(cluster.machineOf(name).dir, 'root')
  /** What a page prints for a machine, run on a machine. */
  const printed = async (page: string, machine: string, on: string, other?: string, ...words: string[]) =>
    byHand(await printOf(kitOf(on), page, machine), on, other, ...words)
  /** A printed page, run on a machine. A token is given to it as the machine gets it: as a line. */
  const byHand = async (text: string, on: string, other?: string, ...words: string[]) => {
    const store = secretStore({
      dir: join(cluster.state, 'fortress-pi'),
      identity: cluster.env['FK_AGE_IDENTITY']!,
    })
    const read = async (name: string) => (await store.get(name)).reveal()
    const token = async (name: string) =>
      `${Buffer.from(await read(name), 'base64')
        .toString()
        .trim()}\n`
    const [, asset] = (words.length === 0 && /^# {3}https:\S*\/(\S+)$/m.exec(text)) || []
    const file = asset === 'k3s' ? program! : join(cluster.state, 'downloads/age-v1.3.2-amd64.tar.gz')
    return runPrinted(kitOf(on), text, {
      files: asset === undefined ? {} : { [asset]: readFileSync(file) },
      secrets: {
        'k3s-server-token': `${await read('k3s-server-token')}\n`,
        'k3s-agent-token': `${await read('k3s-agent-token')}\n`,
        'k3s-join-server': await token('k3s-join-server'),
        'k3s-join-agent': await token('k3s-join-agent'),
      },
      variables: other === undefined ? {} : { FK_OTHER_NODE: other },
      words,
      site: 'fortress-pi',
    })
  }
  /** The lines of steps that changed something, but for the copies that a printed page saves in place of the laptop. */
  const changes = (text: string) =>
    text.split('\n').filter((line) => line.startsWith('changed ') && !/saved on the laptop/.test(line))
  /** The starts of k3s on these machines. */
  const starts = async (...names: string[]) =>
    Promise.all(
      names.map((name) => cluster.on(name, 'systemctl show --property=InvocationID --value k3s.service')),
    )
  /** A server's own: its name and addresses, its password and certificates, the number of its start. */
  const node = `${etc}/config.yaml.d/10-node.yaml`
  const own = new RegExp(`${node}|/etc/rancher/node/password|${etc}/k3s\\.yaml|/var/lib/fortress/k3s/started`)
  const cordoned = (name: string) => kubectl(`get node ${name} --output jsonpath='{.spec.unschedulable}'`)

  before(async () => {
    cluster = await fleet('trio', ['server', 'server', 'server', 'agent'], () => readFileSync(program!))
    cluster.pin(version)
    pinAge(cluster.copy, join(cluster.state, 'downloads'))
    cluster.site((site) => {
      site['data'] = backupsTo({ name: 'disk', kind: 'directory', path: '/mnt/disk', append_only: true })
    })
    for (const name of cluster.names) {
      const more = servers.includes(name) ? { ...noSysctl, ...patience } : noSysctl
      for (const [path, text] of Object.entries(more))
        await cluster.on(name, `install -D --mode=600 /dev/stdin ${path}`, text)
      await cluster.on(
        name,
        `install --directory --mode=700 /mnt/disk && install --directory /opt/bin && ln --symbolic k3s /opt/bin/etcdctl`,
      )
    }
    // One server and the agent are built by hand, from what the page prints; the others by the laptop.
    let later: unknown[] = []
    cluster.site((site) => (later = (site['machines'] as unknown[]).splice(3)))
    await good('k3s-server', 'apply')
    await assert.rejects(
      printed('21-k3s-join', second, second),
      /first, on trio-1: bash 21-k3s-join\.trio-2\.sh before[^]*FK_OTHER_NODE=done/,
    )
    await cluster.on(second, `test ! -e ${etc}/config.yaml && test ! -e /etc/systemd/system/k3s.service`)
    await printed('21-k3s-join', second, first, undefined, 'before')
    await printed('21-k3s-join', second, second, 'done')
    await good('k3s-join', 'apply')
    cluster.site((site) => (site['machines'] as unknown[]).push(...later))
    await printed('21-k3s-join', agent, first, undefined, 'before')
    await printed('21-k3s-join', agent, agent, 'done')
  })
  after(() => cluster?.end())

  test('a server and an agent that joined by what the page prints are as if apply had joined them', async () => {
    const mine = [second, agent] as const
    const [begun, before] = [await starts(...mine), await Promise.all(mine.map((name) => left(kitOf(name))))]
    const text = await good('k3s-join', 'apply')
    assert.doesNotMatch(text, /^changed /m)
    await good('k3s-join', 'verify')
    for (const [i, name] of mine.entries()) sameLeft(before[i]!, await left(kitOf(name)))
    assert.deepEqual(await starts(...mine), begun)

    // The server that apply joined differs in what is its own, and in nothing else.
    const applied = await left(kitOf(third))
    sameLeft(applied, before[0]!, own)
    const its = await cluster.on(third, `cat ${node}`)
    assert.equal(
      await cluster.on(second, `cat ${node}`),
      its
        .replaceAll(third, second)
        .replaceAll(cluster.machineOf(third).host, cluster.machineOf(second).host)
        .replaceAll('10.66.0.13', '10.66.0.12'),
    )
    // An agent has less, and says so.
    assert.equal(
      await cluster.on(agent, 'cat /etc/systemd/system/k3s.service'),
      Object.values(unit('agent'))[0],
    )
    assert.equal(await cluster.on(agent, `cat ${etc}/config.yaml`), told('agent.yaml'))
    const differs = new RegExp(
      `${etc}/(config|admission|audit)\\.yaml|${etc}/(agent-)?token|/etc/systemd/system/k3s\\.service$|20-patience|` +
        `/var/lib/fortress/secret/etc/rancher/k3s/(agent-)?token`,
    )
    assert.deepEqual(
      differences(applied, before[1]!).filter((line) => !own.test(line) && !differs.test(line)),
      [],
    )
  })

  test('what upgrade and renewal print for a server finds everything done', async () => {
    const begun = await starts(first, second)
    const before = await left(kitOf(second))
    const allOk = (text: string) => {
      for (const line of text.trim().split('\n')) assert.match(line, /^(ok|ready) /)
    }
    for (const page of ['25-k3s-upgrade', '26-k3s-renew']) allOk(await printed(page, second, second))
    allOk(await printed('26-k3s-renew', second, first, undefined, 'before'))
    assert.deepEqual(await starts(first, second), begun)
    sameLeft(before, await left(kitOf(second)))
  })

  test('each of them has a vote, and a bundle of the first is made', async () => {
    assert.deepEqual(await members(), all)
    await good('k3s-backup', 'apply')
    const applied = await left(kitOf(first))
    await good('k3s-backup', 'undo')
    await printed('23-k3s-backup', first, first)
    sameLeft(applied, await left(kitOf(first)))
    assert.deepEqual(changes(await good('k3s-backup', 'apply')), [])
    await kubectl('create --namespace kube-public configmap mine --from-literal=a=b')
    await good('backup')
    await kubectl('create --namespace kube-public configmap later --from-literal=a=b', second)
  })

  test('nothing is restored unless somebody says that what lives may end', async () => {
    const { code, text } = await cluster.task('restore', await newest())
    assert.equal(code, 1)
    for (const name of servers) assert.match(text, new RegExp(`${name}.*: a cluster has its data here`), text)
    assert.match(text, /--confirm trio-1/)
    assert.deepEqual(await members(), all)
  })

  test('a restore that fails on the first leaves all three as they were', async () => {
    // What was there cannot be put aside.
    const aside = `${data}/before-restore`
    await cluster.on(first, `mkdir ${aside} && mount --types tmpfs none ${aside}`)
    const { code, text } = await cluster.task('restore', await newest(), '--confirm', first)
    assert.equal(code, 1, text)
    assert.match(text, /before-restore.*busy/)
    await cluster.on(first, `umount ${aside} && rmdir ${aside}`)
    for (const name of servers) await ready(name)
    assert.deepEqual(await members(), all)
    assert.equal(
      await kubectl('get --namespace kube-public configmap later --output name', third),
      'configmap/later',
    )
    const verified = await cluster.task('k3s-join', 'verify')
    assert.equal(verified.code, 0, verified.text)
  })

  test('a restore brings all three back to the time of the bundle, and nobody goes on as the cluster that was', async () => {
    const text = await good('restore', await newest(), '--confirm', first)
    assert.match(text, /is the cluster as of/)
    assert.deepEqual(await members(), all)
    for (const name of servers) {
      assert.equal(
        await kubectl('get --namespace kube-public configmap mine --output name', name),
        'configmap/mine',
      )
      assert.match(await kubectl('get --namespace kube-public configmap later', name), /not found/)
    }
    for (const page of ['k3s-server', 'k3s-join']) await good(page, 'apply')
    // The agent has done nothing but to wait.
    assert.equal(await kubectl(`get node ${agent} --output name`), `node/${agent}`)
    // What the others had is kept.
    for (const name of [second, third]) await cluster.on(name, `test -d ${data}/replaced/server/db/etcd`)
  })

  test('a server that does not answer is named, and the others are restored without it', async () => {
    // It goes away by itself, and comes back when a file says so: nobody gets in meanwhile.
    await cluster.on(
      third,
      `systemd-run --quiet --unit=back --path-property=PathExists=/back systemctl start ssh.service k3s.service
systemd-run --quiet --on-active=1 --timer-property=AccuracySec=100ms systemctl stop k3s.service ssh.service ssh.socket`,
    )
    await new Promise((resolve) => setTimeout(resolve, 5000))
    const text = await good('restore', await newest(), '--confirm', first)
    assert.match(text, /trio-3 does not answer.*\.\/task node replace trio-3/)
    assert.deepEqual(await members(), all.slice(0, 2))
    assert.match(await kubectl(`get node ${third}`), /not found/)
    writeFileSync(join(cluster.machineOf(third).dir, 'root/back'), '')
    await new Promise((resolve) => setTimeout(resolve, 5000))
    await good('node', 'replace', third, '--confirm', third)
    assert.deepEqual(await members(), all)
  })

  test('what 22 prints leaves the same modes on a server as apply, and nothing for it to do on an agent', async () => {
    const modes = (name: string) =>
      cluster.on(
        name,
        `cd ${data} && find server/tls server/cred agent -xdev ! -type l -printf '%p %y %m %U:%G\n' 2> /dev/null | sort`,
      )
    for (const name of [second, agent]) await printed('22-k3s-cis', name, name)
    const before = await Promise.all([second, agent].map(modes))
    await good('k3s-cis', 'apply')
    assert.deepEqual(await Promise.all([second, agent].map(modes)), before)
    assert.deepEqual(differences(await modes(third), before[0]!), [])
  })

  test('an agent is checked for what it has, and fails where it is weak, also when the journal lost its start', async () => {
    // journald drops what a unit says too fast: a server that has lost its peers does.
    const forget = async () => {
      for (const name of cluster.names)
        await cluster.on(name, 'journalctl --rotate && journalctl --vacuum-size=1')
    }
    const failing = async () => {
      const { text } = await cluster.task('cis', '--json')
      const reports = text
        .split('\n')
        .flatMap((line) => (line.startsWith('{') ? [JSON.parse(line) as CisReport] : []))
      assert.equal(reports.length, 4, text)
      assert.equal(reports.find(({ node }) => node === agent)!.role, 'agent')
      return reports.flatMap(({ node, results }) =>
        results.flatMap(({ id, state }) => (state === 'fail' ? [`${node} ${id}`] : [])),
      )
    }
    await forget()
    assert.deepEqual(await failing(), [])
    await cluster.on(
      agent,
      `printf 'kubelet-arg+:\\n  - anonymous-auth=true\\n  - read-only-port=10255\\n' \\
  > /etc/rancher/k3s/config.yaml.d/90-weak.yaml
systemctl restart k3s && chmod 644 ${data}/agent/kubelet.kubeconfig`,
    )
    await forget()
    assert.deepEqual(
      await failing(),
      ['4.1.5', '4.2.1', '4.2.4'].map((id) => `${agent} ${id}`),
    )
    await cluster.on(agent, 'rm /etc/rancher/k3s/config.yaml.d/90-weak.yaml && systemctl restart k3s')
    await good('k3s-cis', 'apply')
    assert.deepEqual(await failing(), [])
  })

  test('what 26 prints renews certificates that are near their end as apply does', async () => {
    const renewed = `cd ${data} && for path in agent/*.crt server/tls/*.crt server/tls/etcd/*.crt; do
  [ ! -e "$path" ] || { stat --format='%n %a %U:%G' "$path"
    openssl x509 -noout -checkend $((360 * 86400)) -in "$path" || true; }
done`
    const certificates = (...names: string[]) => Promise.all(names.map((name) => cluster.on(name, renewed)))
    assert.deepEqual(changes(await good('k3s-renew', 'apply')), [])
    const before = new Map<string, [made: string, left: string]>()
    for (const name of cluster.names) {
      const [made] = await certificates(name)
      before.set(name, [made!, await left(kitOf(name))])
      execFileSync('bash', ['-c', nearEnd, 'near-end', treeOf(name), treeOf(first), '80'], { stdio: 'pipe' })
    }
    const { code, text } = await cluster.task('k3s-renew', 'verify')
    assert.equal(code, 1, text)
    for (const name of cluster.names)
      assert.match(text, new RegExp(`certificates of ${name} are valid.*[^]{0,200}(79|80) days are left of `))
    const begun = await starts(...cluster.names)
    for (const [name, helper] of [
      [first, second],
      [agent, first],
    ] as const) {
      await printed('26-k3s-renew', name, helper, undefined, 'before')
      assert.match(await printed('26-k3s-renew', name, name, 'done'), /^changed /m)
    }
    assert.deepEqual(
      changes(await good('k3s-renew', 'apply')).map((line) => /certificates of (\S+) /.exec(line)?.[1]),
      [second, third],
    )
    for (const name of cluster.names) {
      const [made, was] = before.get(name)!
      assert.deepEqual(await certificates(name), [made])
      sameLeft(was, await left(kitOf(name)), /k3s\.yaml|\/started$/)
      const on = servers.includes(name) ? name : first
      assert.equal(await kubectl(`get node ${name} --output name`, on), `node/${name}`)
    }
    for (const [i, start] of (await starts(...cluster.names)).entries()) assert.notEqual(start, begun[i])
    assert.deepEqual(changes(await good('k3s-renew', 'apply')), [])
    // The kubeconfig holds one of them.
    assert.match(await good('k3s-server', 'apply'), /^changed .*kubeconfig of the cluster is saved/m)
  })

  // Behind all others: a controller manager that loses its leader waits for its patience, and makes no account meanwhile.
  test('what 20 prints leaves the same on the first of three servers as apply', async () => {
    const applied = await left(kitOf(first))
    // Undo removes the password of the node, and the cluster lets no machine without it have that name.
    const kept = '/root/rancher-node'
    await cluster.on(first, `cp --archive /etc/rancher/node ${kept}`)
    await good('k3s-server', 'undo')
    await cluster.on(first, `test ! -e ${etc}/config.yaml && test ! -e /opt/bin/k3s`)
    await cluster.on(
      first,
      `rm --recursive --force /etc/rancher/node && mkdir --parents /etc/rancher && mv ${kept} /etc/rancher/node`,
    )
    await printed('20-k3s-server', first, second, undefined, 'before')
    await printed('20-k3s-server', first, first, 'done')
    sameLeft(applied, await left(kitOf(first)), /\/var\/lib\/fortress\/k3s\/started$/)
    const begun = await starts(first)
    assert.deepEqual(changes(await good('k3s-server', 'apply')), [])
    assert.deepEqual(await starts(first), begun)
    await ready(first)
  })

  test('what 24 and 25 print upgrades servers and an agent as apply does', async () => {
    const of = (name: string) => left(kitOf(name))
    const before = new Map<string, string>()
    for (const name of [first, third, agent]) before.set(name, await of(name))
    /** What the upgrade has changed on a node, but for what is its own. */
    const change = async (name: string) =>
      differences(before.get(name)!, await of(name)).filter((line) => !own.test(line))
    const upgraded = async (name: string, helper: string) => {
      const text = await printOf(kitOf(name), '25-k3s-upgrade', name)
      await byHand(text, helper, undefined, 'before')
      assert.equal(await cordoned(name), 'true')
      await assert.rejects(byHand(text, name, 'done'), /changed .*[^]*FK_OTHER_NODE=after/)
      await byHand(text, helper, undefined, 'after')
      await byHand(text, name, 'after')
      assert.equal(await cordoned(name), '')
    }
    const later = 'v1.36.4+k3s1'
    cluster.pin(later)
    for (const name of [first, agent]) await printed('24-k3s-stage', name, name)
    await good('k3s-stage', 'apply')
    await upgraded(first, second)
    // Apply upgrades the other servers, and the agent is left for its printed page.
    let agents: unknown[] = []
    cluster.site((site) => (agents = (site['machines'] as unknown[]).splice(3)))
    await good('k3s-upgrade', 'apply')
    cluster.site((site) => (site['machines'] as unknown[]).push(...agents))
    await upgraded(agent, first)

    const applied = await change(third)
    assert.ok(
      applied.some((line) => line.includes(`/opt/k3s/${later}/k3s`)),
      applied.join('\n'),
    )
    for (const name of [first, agent]) assert.deepEqual(await change(name), applied)
    assert.equal(
      await kubectl(`get nodes --output jsonpath='{.items[*].status.nodeInfo.kubeletVersion}'`),
      cluster.names.map(() => later).join(' '),
    )
    const begun = await starts(...cluster.names)
    for (const page of ['k3s-stage', 'k3s-upgrade']) assert.deepEqual(changes(await good(page, 'apply')), [])
    assert.deepEqual(await starts(...cluster.names), begun)
  })

  /** The bundle of the first test: every restore goes back to it. */
  let bundle = ''
  const newest = async () => (bundle ||= (await cluster.on(first, 'ls -t /mnt/disk | head -1')).trim())
})
