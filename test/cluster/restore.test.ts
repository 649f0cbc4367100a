// A snapshot of a cluster comes back to life beside it: with its token, and with nothing else.
import assert from 'node:assert/strict'
import { after, before, describe, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { type Bed, alone, bed, data, etc, program } from './kit.ts'

describe('a snapshot', { skip: program === undefined ? 'kube-bed is not installed' : false }, () => {
  let server: Bed
  let snapshot: string
  const word = 'what-the-canary-sings'
  const token = alone[`${etc}/token`]!

  before(async () => {
    server = await bed(undefined, 'restored')
    const { code, said } = await server.begin()
    assert.equal(code, 0, said)
    await server.ok(`/opt/bin/k3s kubectl create secret generic canary --from-literal=word=${word}
/opt/bin/k3s kubectl create configmap canary --from-literal=word=${word}`)
    await server.ok('/opt/bin/k3s etcd-snapshot save --name drill')
    snapshot = (await server.ok(`ls ${data}/server/db/snapshots/drill-restored-*`)).trim()
    // What is read below can only come out of the snapshot.
    await server.ok('/opt/bin/k3s kubectl delete secret/canary configmap/canary')
  })
  after(() => server?.end())

  /** An empty place with a network of its own, where nothing is left but the snapshot, the configuration and a token. */
  const place = async (name: string, token: string) => {
    const dir = `/var/lib/${name}`
    const config = alone[`${etc}/config.yaml`]!.replaceAll(data, dir).replaceAll(
      `${etc}/token`,
      `/root/${name}/token`,
    )
    server.put({
      [`/root/${name}/config.yaml`]: `${config}
data-dir: ${dir}
node-name: ${name}
write-kubeconfig: /root/${name}/k3s.yaml
`,
      [`/root/${name}/token`]: token,
    })
    await server.ok(`ip netns add ${name} && ip -netns ${name} link set lo up && ip -netns ${name} address add 192.0.2.1/32 dev lo
install --directory --mode=700 ${dir} ${dir}/server ${dir}/server/logs`)
    const inside = (command: string) => server.root(`FK_BED_NO_SYSCTL=yes ip netns exec ${name} ${command}`)
    const kubectl = (words: string) =>
      inside(`/opt/bin/k3s kubectl --kubeconfig ${dir}/server/cred/admin.kubeconfig ${words}`)
    const said = () => server.ok(`journalctl --unit=${name} --output=cat --no-pager --lines=100`)
    return {
      dir,
      reset: () =>
        inside(
          `/opt/bin/k3s server --config /root/${name}/config.yaml --cluster-reset --cluster-reset-restore-path=${snapshot}`,
        ),
      start: async (more = '') => {
        const { code } = await server.root(
          `systemd-run --quiet ${more} --unit=${name} --property=Type=notify \\
             --property=NetworkNamespacePath=/run/netns/${name} --setenv=FK_BED_NO_SYSCTL=yes \\
             /opt/bin/k3s server --config /root/${name}/config.yaml`,
        )
        return { code, said: await said() }
      },
      said,
      kubectl,
      sings: async (kind: string) => {
        const { code, stdout, stderr } = await kubectl(`get ${kind} canary --output=jsonpath={.data.word}`)
        const text = kind === 'secret' ? Buffer.from(stdout, 'base64').toString() : stdout
        return code === 0 ? text : stderr
      },
      end: () =>
        server.ok(
          `systemctl stop ${name} 2> /dev/null || true; ip netns delete ${name}; rm --recursive ${dir}`,
        ),
    }
  }

  test('comes back to life with the token: its Secrets and its ConfigMaps can be read', async (t) => {
    const drill = await place('drill', token)
    t.after(drill.end)
    const { code, stderr } = await drill.reset()
    assert.equal(code, 0, stderr)
    assert.match(
      stderr,
      /Managed etcd cluster membership has been reset, restart without --cluster-reset flag now/,
    )
    const started = await drill.start()
    assert.equal(started.code, 0, started.said)
    assert.equal(await drill.sings('configmap'), word)
    assert.equal(await drill.sings('secret'), word)
    // The cluster that it was taken of goes on, and has no canary.
    assert.match((await server.kubectl('get secret canary')).stderr, /not found/)
    // The authorities are those of before: whoever knew the cluster knows it again.
    const ca = 'server/tls/server-ca.crt'
    await server.ok(`cmp ${data}/${ca} ${drill.dir}/${ca}`)
  })

  test('stays dead with another token, and leaves no key to whoever tries', async (t) => {
    const drill = await place('other', `${'0d'.repeat(32)}\n`)
    t.after(drill.end)
    const { code, stderr } = await drill.reset()
    assert.notEqual(code, 0)
    assert.match(stderr, /bootstrap data already found and encrypted with different token/)
    assert.equal(await server.ok(`find ${drill.dir} -name '*.key' -o -name 'encryption-config.json'`), '')
    const started = await drill.start()
    assert.notEqual(started.code, 0)
    assert.match(started.said, /encrypted with different token/)
  })

  test('does not give its Secrets to another key, but what was never a secret', async (t) => {
    const drill = await place('keyless', token)
    t.after(drill.end)
    assert.equal((await drill.reset()).code, 0)
    const file = `${drill.dir}/server/cred/encryption-config.json`
    const config = JSON.parse(await server.ok(`cat ${file}`)) as {
      resources: { providers: { secretbox?: { keys: { secret: string }[] } }[] }[]
    }
    const [key] = config.resources[0]!.providers[0]!.secretbox!.keys
    key!.secret = Buffer.alloc(32, 7).toString('base64')
    server.put({ [file]: JSON.stringify(config) })
    // k3s itself does not even begin with a key that its datastore does not know; a thief is not held to that.
    const refused = await drill.start('--collect')
    assert.notEqual(refused.code, 0)
    assert.match(refused.said, /encryption-config\.json newer than datastore/)
    await drill.start('--no-block --setenv=FK_BED_NO_RECONCILE=yes')
    // It answers, but will never call itself ready with Secrets that it cannot read.
    for (let i = 0; (await drill.sings('configmap')) !== word; i++) {
      assert.ok(i < 60, await drill.said())
      await sleep(500)
    }
    const secret = await drill.sings('secret')
    assert.match(secret, /Error from server \(InternalError\)/)
    assert.ok(!secret.includes(word))
    assert.match((await drill.kubectl('get --raw /readyz?verbose')).stderr, /\[-\]informer-sync failed/)
    assert.equal((await server.root('systemctl is-active keyless')).stdout, 'activating\n')
  })

  test('that is no snapshot is refused', async (t) => {
    const drill = await place('broken', token)
    t.after(drill.end)
    await server.ok(`cp ${snapshot} /root/whole && truncate --size=1000 ${snapshot}`)
    t.after(() => server.ok(`cp /root/whole ${snapshot}`))
    const { code, stderr } = await drill.reset()
    assert.notEqual(code, 0)
    assert.match(stderr, /zip: not a valid zip file/)
  })
})
