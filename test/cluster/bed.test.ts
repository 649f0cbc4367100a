// The stand-in for k3s, where pages rely on it: who joins, who is refused, and what a deleted node takes with it.
import assert from 'node:assert/strict'
import { after, before, describe, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { type Bed, alone, bed, data, etc, program, told } from './kit.ts'

describe('k3s', { skip: program === undefined ? 'kube-bed is not installed' : false }, () => {
  let first: Bed
  let second: Bed
  let agent: Bed
  let join: string

  /** What a node is told that joins the first server. */
  const joining = (config: string, token: string): Record<string, string> => ({
    ...alone,
    [`${etc}/config.yaml`]: told(config),
    [`${etc}/config.yaml.d/10-node.yaml`]: `server: https://${first.machine.host}:6443\n`,
    [`${etc}/token`]: token,
  })
  const until = async (what: string, ask: () => Promise<boolean>) => {
    for (let i = 0; !(await ask()); i++) {
      assert.ok(i < 120, `it never became true that ${what}`)
      await sleep(500)
    }
  }
  const members = async () =>
    (await first.etcdctl('member list'))
      .trim()
      .split('\n')
      .map((line) => line.split(', '))
      .map(([, state, name, , , learner]) => [name?.replace(/-[0-9a-f]{8}$/, ''), state, learner])
      .sort()
  const condition = async (node: string, type: string) =>
    (
      await first.kubectl(
        `get node ${node} --output jsonpath='{.status.conditions[?(@.type=="${type}")].status}'`,
      )
    ).stdout

  before(async () => {
    first = await bed(undefined, 'bed1')
    const { code, said } = await first.begin()
    assert.equal(code, 0, said)
    join = await first.ok(`cat ${data}/server/token`)
    second = await bed(undefined, 'bed2', joining('config.yaml', join))
    agent = await bed(
      undefined,
      'bed3',
      joining('agent.yaml', await first.ok(`cat ${data}/server/agent-token`)),
      'agent',
    )
  })
  after(() => Promise.all([first?.end(), second?.end(), agent?.end()]))

  test('refuses who comes with a wrong token, and whom a token does not name', async () => {
    for (const [token, said] of [
      [join.replace(/.{8}$/m, '00000000'), /failed to validate token: .* 401 Unauthorized/],
      [
        join.replace(/^K10.{8}/, 'K1000000000'),
        /token CA hash does not match the Cluster CA certificate hash/,
      ],
    ] as const) {
      second.put({ [`${etc}/token`]: token })
      const refused = await second.begin()
      assert.notEqual(refused.code, 0)
      assert.match(refused.said, said)
    }
    assert.deepEqual(await members(), [['bed1', 'started', 'false']])
  })

  test('lets a second server in: etcd has two members with a vote, and both encrypt with the same key', async () => {
    second.put({ [`${etc}/token`]: join })
    const { code, said } = await second.begin()
    assert.equal(code, 0, said)
    assert.deepEqual(await members(), [
      ['bed1', 'started', 'false'],
      ['bed2', 'started', 'false'],
    ])
    for (const name of ['bed1', 'bed2'])
      await until(`${name} has a vote`, async () => (await condition(name, 'EtcdIsVoter')) === 'True')
    await first.ok('/opt/bin/k3s kubectl create secret generic shared --from-literal=word=shared')
    assert.equal(
      (await second.kubectl('get secret shared --output jsonpath={.data.word}')).stdout,
      Buffer.from('shared').toString('base64'),
    )
    assert.match(await second.ok('/opt/bin/k3s secrets-encrypt status'), /All hashes match/)
  })

  test('has no network for pods before somebody brings one, so no node is ready; then each is', async () => {
    const { code, said } = await agent.begin()
    assert.equal(code, 0, said)
    assert.equal(await condition('bed2', 'Ready'), 'False')
    for (const node of [first, second, agent]) node.put({ '/etc/cni/net.d/05-test.conflist': '{}' })
    for (const name of ['bed1', 'bed2', 'bed3'])
      await until(`${name} is ready`, async () => (await condition(name, 'Ready')) === 'True')
  })

  test('refuses a node that has lost its password, until the old Node is deleted', async () => {
    await agent.ok('systemctl stop k3s && rm /etc/rancher/node/password && systemctl start --no-block k3s')
    await until('the agent is refused', async () => /Node password rejected/.test(await agent.journal()))
    assert.equal((await first.kubectl('delete node bed3')).code, 0)
    await until('the agent is back', async () => (await condition('bed3', 'Ready')) === 'True')
  })

  test('takes the member out of etcd whose Node is deleted', async () => {
    await second.ok('systemctl stop k3s')
    // With one of two away there is no majority: it comes back before it may go.
    await second.ok('systemctl start k3s')
    assert.equal((await first.kubectl('delete node bed2')).code, 0)
    await until('one member is left', async () => (await members()).length === 1)
    const { stdout } = await first.kubectl('get secrets --namespace=kube-system --output name')
    assert.doesNotMatch(stdout, /bed2\.node-password/)
  })

  test('lets it in again afterwards, as a new member', async () => {
    await until('it has noticed', async () =>
      /this node has been removed from the cluster/.test(await second.journal()),
    )
    await until('there are two again', async () => (await members()).length === 2)
    await until('it has a vote', async () => (await condition('bed2', 'EtcdIsVoter')) === 'True')
  })

  test('is another version where it lies in that version’s directory', async () => {
    const newer = 'v1.36.4+k3s1'
    await agent.ok(`cp --recursive --no-target-directory /opt/k3s/v1.36.3+k3s1 /opt/k3s/${newer}
ln --symbolic --force --no-dereference ../k3s/${newer}/k3s /opt/bin/k3s`)
    assert.match(await agent.ok('/opt/bin/k3s --version'), /^k3s version v1\.36\.4\+k3s1 /)
    assert.equal((await agent.begin()).code, 0)
    const version = 'get node bed3 --output jsonpath={.status.nodeInfo.kubeletVersion}'
    assert.equal((await first.kubectl(version)).stdout, newer)
  })

  test('ends with its components, and takes them with it when it is killed', async () => {
    await first.ok("pkill --full '^kube-scheduler'")
    await until('it has ended', async () => /scheduler exited/.test(await first.journal()))
    await until('it is back', async () => (await first.kubectl('get --raw /readyz')).stdout === 'ok')
    await first.ok('systemctl kill --signal=KILL --kill-whom=main k3s.service')
    await until('it is back', async () => (await first.kubectl('get --raw /readyz')).stdout === 'ok')
  })
})
