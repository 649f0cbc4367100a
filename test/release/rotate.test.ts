// New authorities of a cluster by ./task rotate ca: with both all goes on, then nothing of before passes any more. A run that is
// cut goes on, and a cluster that believes what is retired is seen.
import assert from 'node:assert/strict'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { secretStore } from '../../lib/ground/secret.ts'
import { type Fleet, fleet } from '../machine/fleet.ts'
import { without } from '../programs.ts'
import { backupsTo } from '../site/made.ts'
import { data, etc, noSysctl, patience, pinAge, program, untilReady, version } from '../cluster/kit.ts'

const missing = program === undefined ? 'kube-bed is not installed' : without('age', 'tar', 'openssl')

for (const roles of [['server'], ['server', 'server', 'server', 'agent']] as ('server' | 'agent')[][])
  describe(
    `the authorities of ${roles.length === 1 ? 'one server' : 'three servers and an agent'}`,
    { skip: missing },
    () => {
      let cluster: Fleet
      const prefix = `rot${roles.length}`
      const first = `${prefix}-1`
      const servers = roles.flatMap((role, i) => (role === 'server' ? `${prefix}-${i + 1}` : []))
      const good = async (...words: string[]) => {
        const { code, text } = await cluster.task(...words)
        assert.equal(code, 0, text)
        return text
      }
      const changes = (text: string) => text.split('\n').filter((line) => line.startsWith('changed '))
      const kubectl = async (words: string, on: string = first) =>
        (await cluster.on(on, `/opt/bin/k3s kubectl ${words} 2>&1 || true`)).trim()
      const hello = (on: string) => kubectl(`get secret hello --output jsonpath='{.data.word}'`, on)
      const word = Buffer.from('hello').toString('base64')
      /** What the API of a server answers to who has the certificate, or the token of a pod, from before. */
      const asBefore = (on: string, who: string) =>
        kubectl(
          `--kubeconfig=/dev/null --server=https://127.0.0.1:6443 ${who} get secrets hello --output name \\
  --certificate-authority=${data}/server/tls/server-ca.crt`,
          on,
        )
      const certificate = '--client-certificate=/root/before.crt --client-key=/root/before.key'
      const token = '--token="$(cat /root/before.token)"'
      const refused =
        /Unauthorized|must be logged in|provide credentials|certificate required|unknown certificate/i
      const retired = () => join(cluster.state, 'fortress-pi/retired.json')
      const store = () =>
        secretStore({
          dir: join(cluster.state, 'fortress-pi'),
          identity: cluster.env['FK_AGE_IDENTITY']!,
        })
      const saved = async (name: string) =>
        Buffer.from((await store().get(name)).reveal(), 'base64')
          .toString()
          .trim()
      /** What a thief has: the certificate of the admin, and a token of a pod that may read Secrets. */
      const steal = async () => {
        await cluster.on(
          first,
          `cp ${data}/server/tls/client-admin.crt /root/before.crt && cp ${data}/server/tls/client-admin.key /root/before.key
/opt/bin/k3s kubectl create token thief --duration=8h > /root/before.token`,
        )
        const parts = await cluster.on(
          first,
          'tar --create --directory /root before.crt before.key before.token | base64',
        )
        for (const name of servers.slice(1))
          await cluster.on(name, 'base64 --decode | tar --extract --directory /root', parts)
      }
      const allRefused = async () => {
        for (const name of servers)
          for (const who of [certificate, token]) assert.match(await asBefore(name, who), refused)
      }
      const allWell = async () => {
        for (const name of servers) {
          await cluster.on(name, untilReady(120))
          assert.equal(await hello(name), word, name)
        }
        for (const name of cluster.names)
          assert.equal(await kubectl(`get node ${name} --output name`), `node/${name}`)
      }

      before(async () => {
        cluster = await fleet(prefix, roles, () => readFileSync(program!))
        cluster.pin(version)
        pinAge(cluster.copy, join(cluster.state, 'downloads'))
        cluster.site((site) => {
          site['data'] = backupsTo({ name: 'disk', kind: 'directory', path: '/mnt/disk', append_only: true })
        })
        await cluster.on(first, 'install --directory --mode=700 /mnt/disk')
        for (const name of cluster.names) {
          const more = servers.includes(name) ? { ...noSysctl, ...patience } : noSysctl
          for (const [path, text] of Object.entries(more))
            await cluster.on(name, `install -D --mode=600 /dev/stdin ${path}`, text)
        }
        await good('k3s-server', 'apply')
        if (roles.length > 1) await good('k3s-join', 'apply')
        await kubectl('create secret generic hello --from-literal=word=hello')
        await cluster.on(
          first,
          `kubectl() { /opt/bin/k3s kubectl "$@" > /dev/null; }
kubectl create serviceaccount thief
kubectl create clusterrolebinding thief --clusterrole=cluster-admin --serviceaccount=default:thief`,
        )
        await steal()
      })
      after(() => cluster?.end())

      test('where nothing is retired the two pages have nothing to do', async () => {
        for (const page of ['k3s-rotate', 'k3s-retire']) {
          assert.deepEqual(changes(await good(page, 'apply')), [])
          await good(page, 'verify')
        }
      })

      test('every node gets certificates of new CAs, one after the other; then the page waits for pods of before', async () => {
        const object = JSON.stringify({
          apiVersion: 'v1',
          kind: 'Pod',
          metadata: { name: 'older', namespace: 'kube-system' },
          spec: { containers: [{ name: 'older', image: 'example.org/older:1' }] },
        })
        await cluster.on(first, '/opt/bin/k3s kubectl apply --filename=-', object)
        const { code, text } = await cluster.task('rotate', 'ca')
        assert.notEqual(code, 0)
        for (const name of cluster.names)
          assert.match(text, new RegExp(`^changed .*certificates of ${name} are signed by CAs`, 'm'))
        assert.match(text, /every pod with a token has begun since the new CA[^]*kube-system\/older/)
        await allWell()
        for (const name of servers)
          for (const who of [certificate, token]) assert.equal(await asBefore(name, who), 'secret/hello')
      })

      test('until the old ones are gone, verify says who still believes them', async () => {
        await good('k3s-rotate', 'verify')
        const { code, text } = await cluster.task('k3s-retire', 'verify')
        assert.notEqual(code, 0, text)
        for (const name of cluster.names) assert.match(text, new RegExp(`${name} trusts no retired CA`))
        assert.match(text, /client-ca\.crt: [0-9a-f]{16} is retired/)
      })

      test('the same command goes on, and retires nothing else', async () => {
        const before = readFileSync(retired(), 'utf8')
        await kubectl('delete pod older --namespace kube-system --wait=false')
        const text = await good('rotate', 'ca')
        assert.match(text, /goes on: nothing else is retired/)
        for (const name of cluster.names)
          assert.match(text, new RegExp(`^changed .*${name} trusts no retired CA`, 'm'))
        assert.equal(readFileSync(retired(), 'utf8'), before)
      })

      test('the old certificate and the old token of a pod are refused by every server, and all else goes on', async () => {
        await allRefused()
        await allWell()
      })

      test('the laptop has what opens the cluster now, and what nodes join with', async () => {
        assert.equal(await saved('k3s-kubeconfig'), (await cluster.on(first, `cat ${etc}/k3s.yaml`)).trim())
        assert.equal(
          await saved('k3s-join-server'),
          (await cluster.on(first, `cat ${data}/server/token`)).trim(),
        )
        for (const page of ['k3s-server', 'k3s-join']) await good(page, 'verify')
      })

      test('a bundle that is made now is known as one of this cluster, and restores', async () => {
        await good('k3s-backup', 'apply')
        await good('backup')
        await good('drill')
      })

      test('a second run changes nothing, and restarts nothing', async () => {
        for (const page of ['k3s-rotate', 'k3s-retire']) {
          await good(page, 'verify')
          assert.deepEqual(changes(await good(page, 'apply')), [])
        }
      })

      test('a restart of each node finds what it had', async () => {
        for (const name of cluster.names) await cluster.on(name, 'systemctl restart k3s.service')
        await allWell()
        await allRefused()
      })

      test('a run that is cut after k3s has the new CAs, and before it starts with them, is gone on with', async () => {
        await steal()
        // It cannot start: as after a power cut, what was stored is not in use yet.
        await cluster.on(
          first,
          `mkdir --parents /etc/systemd/system/k3s.service.d
printf '[Service]\\nExecStartPre=/bin/false\\n' > /etc/systemd/system/k3s.service.d/90-cut.conf`,
        )
        const run = cluster.task('rotate', 'ca')
        await cluster.on(
          first,
          `until [ -e ${data}/server/rotate-ca/complete ] && ! systemctl --quiet is-active k3s.service; do sleep 0.2; done`,
        )
        const { code } = await run
        assert.equal(code, 1)
        await cluster.on(
          first,
          'rm /etc/systemd/system/k3s.service.d/90-cut.conf && systemctl daemon-reload && systemctl restart k3s.service',
        )
        const text = await good('rotate', 'ca')
        assert.match(text, /goes on: nothing else is retired/)
        await allWell()
        await allRefused()
      })

      test('a cluster that uses what was retired, as after a restore, is seen by both pages, and mended', async () => {
        const note = JSON.parse(readFileSync(retired(), 'utf8')) as { authorities: string[] }
        const [print] = (
          await cluster.on(
            first,
            `openssl x509 -in ${data}/server/tls/client-ca.crt -outform DER | sha256sum | cut --delimiter=' ' --fields=1`,
          )
        ).split('\n')
        writeFileSync(retired(), JSON.stringify({ authorities: [...note.authorities, print] }))
        for (const page of ['k3s-rotate', 'k3s-retire'])
          assert.equal((await cluster.task(page, 'verify')).code, 1, page)
        await good('k3s-rotate', 'apply')
        await good('k3s-retire', 'apply')
        await allWell()
      })
    },
  )
