// What the checks about nodes find, and what commands do to nodes, by the real kubectl of a real API: the words, the answers, the
// rights.
import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import type { Answers } from '../../lib/cli/health.ts'
import { take } from '../../lib/cli/status.ts'
import { clusterShell } from '../../lib/k3s/nodes.ts'
import join_ from '../../scripts/21-k3s-join.ts'
import upgrade from '../../scripts/25-k3s-upgrade.ts'
import renew from '../../scripts/26-k3s-renew.ts'
import { root } from '../machine/kit.ts'
import { type Bed, bed, etc, program, told } from './kit.ts'

describe(
  'the nodes of a cluster',
  { skip: program === undefined ? 'kube-bed is not installed' : false },
  () => {
    let server: Bed
    let agent: Bed
    /** Those of the library, and those of the pages that use it. */
    const functions = [clusterShell, ...[join_, upgrade, renew].map((page) => page.prepare!)]
      .map(({ text }) => text)
      .join('\n')
    /** What one of our functions says on a machine, and how it ends. */
    const ask = async (at: Bed, command: string) => {
      const script = `set -euo pipefail\n${functions}\n${command}\n`
      const { code, stdout, stderr } = await at.root('bash -s 2>&1', script)
      return { code, text: stdout + stderr }
    }
    const good = async (at: Bed, command: string) => {
      const { code, text } = await ask(at, command)
      assert.equal(code, 0, `${command}: ${text}`)
      return text
    }
    const version = async () =>
      (await server.kubectl(`get node nodes --output jsonpath='{.status.nodeInfo.kubeletVersion}'`)).stdout

    before(async () => {
      server = await bed(undefined, 'nodes')
      const first = await server.begin()
      assert.equal(first.code, 0, first.said)
      agent = await bed(
        undefined,
        'nodes-agent',
        {
          [`${etc}/config.yaml`]: told('agent.yaml'),
          [`${etc}/config.yaml.d/10-node.yaml`]: `server: https://${server.machine.host}:6443\n`,
          [`${etc}/token`]: await server.ok('cat /var/lib/rancher/k3s/server/agent-token'),
        },
        'agent',
      )
      const second = await agent.begin()
      assert.equal(second.code, 0, second.said)
      for (let i = 0; i < 60 && (await server.kubectl('get node nodes-agent')).code !== 0; i++)
        await new Promise((resolve) => setTimeout(resolve, 500))
    })
    after(async () => {
      await agent?.end()
      await server?.end()
    })

    test('a server is healthy by its own address, and not by another port or count', async () => {
      const url = `https://${server.machine.host}:6443`
      await good(server, `until etcd_votes 1 > /dev/null; do sleep 1; done; k3s_well 1 other 'nodes ${url}'`)
      await good(server, `k3s_is server nodes ${await version()} Unknown`)
      const many = await ask(server, `k3s_well 2 other 'nodes ${url}'`)
      assert.equal(many.code, 1)
      assert.match(many.text, /of 2 servers the members of etcd are: nodes/)
      const wrong = await ask(server, `k3s_well 0 other 'nodes https://${server.machine.host}:6444'`)
      assert.equal(wrong.code, 1)
      assert.match(wrong.text, /nodes does not answer, or is not ready: .*refused/)
    })

    test('a node may say of itself what it has, and of no other', async () => {
      await good(agent, 'k3s_self annotate node nodes-agent --overwrite "$STAGED=v9.9.9+k3s1"')
      await good(server, 'k3s_self annotate node nodes --overwrite "$STAGED=v9.9.9+k3s1"')
      await good(server, 'all_staged v9.9.9+k3s1 nodes nodes-agent')
      assert.match((await ask(server, 'all_staged v9.9.9+k3s2 nodes')).text, /not staged on nodes/)
      const other = await ask(agent, 'k3s_self annotate node nodes --overwrite "$STAGED=v0"')
      assert.notEqual(other.code, 0)
      assert.match(other.text, /[Ff]orbidden/)
    })

    test('a node without pods is drained and returned, and one that a person has cordoned stays so', async () => {
      const cordoned = async () =>
        (await server.kubectl(`get node nodes-agent --output jsonpath='{.spec.unschedulable}'`)).stdout
      await good(server, 'k3s_drain nodes-agent evict 20')
      assert.equal(await cordoned(), 'true')
      assert.match(await good(agent, 'k3s_mark agent nodes-agent'), /^ours-drained$/)
      await good(server, 'k3s_return nodes-agent')
      assert.equal(await cordoned(), '')
      assert.equal(await good(agent, 'k3s_mark agent nodes-agent'), '')
      await server.kubectl('cordon nodes-agent')
      await good(
        server,
        'k3s_drain nodes-agent evict 20; k3s_mark server nodes-agent; k3s_return nodes-agent',
      )
      assert.equal(await cordoned(), 'true')
      await server.kubectl('uncordon nodes-agent')
    })

    test('a pod that its budget keeps is named with the budget, and the node takes pods again', async () => {
      const objects = `
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {pod-security.kubernetes.io/enforce: privileged}}
---
apiVersion: apps/v1
kind: ReplicaSet
metadata: {name: web, namespace: shop}
spec:
  replicas: 1
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {nodeName: nodes-agent, containers: [{name: web, image: web.example/web:1}]}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: never-none, namespace: shop}
spec: {minAvailable: 1, selector: {matchLabels: {app: web}}}
`
      const applied = await server.kubectl('apply --filename -', objects)
      assert.equal(applied.code, 0, applied.stderr)
      const pod = await server.ok(
        `until name=$(/opt/bin/k3s kubectl get pods --namespace shop --output name | grep web); do sleep 1; done
/opt/bin/k3s kubectl patch "$name" --namespace shop --subresource=status \\
  --patch '{"status":{"phase":"Running","conditions":[{"type":"Ready","status":"True"}]}}' > /dev/null
until [ "$(/opt/bin/k3s kubectl get poddisruptionbudget never-none --namespace shop --output \\
  jsonpath='{.status.currentHealthy}')" = 1 ]; do sleep 1; done
printf '%s' "\${name#pod/}"`,
      )
      const { code, text } = await ask(server, 'k3s_drain nodes-agent evict 8')
      assert.equal(code, 1)
      assert.ok(
        text.includes(
          `shop/${pod} cannot be evicted: the PodDisruptionBudget never-none allows no disruption`,
        ),
        text,
      )
      assert.match(text, /FK_DRAIN=force/)
      assert.equal(await good(server, 'k3s_mark server nodes-agent'), '')
      assert.equal((await server.kubectl('delete namespace shop --wait=false')).code, 0)
    })

    test('requests to deprecated APIs are read from the real metrics', async () => {
      await server.kubectl('get componentstatuses')
      await good(server, `no_removed_apis v1.99.0+k3s1 https://${server.machine.host}:6443`)
      const { stdout } = await server.kubectl('get --raw /metrics')
      assert.match(stdout, /^apiserver_requested_deprecated_apis\{.*resource="componentstatuses"/m)
    })

    test('leaf and CA certificates are listed apart, and each kind has days left', async () => {
      assert.match(await good(server, 'certificates_last leaf 30'), /^\d+ days are left of (server|agent)\//)
      assert.match(
        await good(server, 'certificates_last authority 365'),
        /^\d+ days are left of .*-ca(\.nochain)?\.crt$/m,
      )
      assert.equal((await ask(server, 'certificates_last leaf 100000')).code, 1)
      assert.match(await good(agent, 'certificates_last leaf 30'), /days are left of agent\//)
    })

    test('status reads the nodes as the API has them', async () => {
      const lib = (name: string) => readFileSync(join(root, 'lib', name), 'utf8')
      const said = await good(
        server,
        `FK_STATE=/var/lib/fortress FK_TMP=$(mktemp --directory); answer() { printf '%s\\0' "$@"; printf '\\1'; }
${lib('engine/shell/snapshot.sh')}
${lib('host/reboot.sh')}
${lib('cli/status.sh')}
status_machine; status_pages; status_k3s; status_backup`,
      )
      const answers: Answers = { name: 'nodes', pages: [], notes: [] }
      for (const answer of said.split('\u0001').filter(Boolean)) {
        const [name = '', ...words] = answer.split('\0').slice(0, -1)
        const values = words.flatMap((key, i) => (i % 2 === 0 ? [[key, words[i + 1] ?? '']] : []))
        take(answers, name, Object.fromEntries(values) as Record<string, string>)
      }
      assert.equal(answers.k3s?.active, true)
      assert.ok((answers.k3s?.certificate?.days ?? 0) > 30)
      assert.deepEqual(
        answers.nodes?.map(({ name, voter, cordoned, staged }) => ({ name, voter, cordoned, staged })),
        [
          { name: 'nodes', voter: 'True', cordoned: false, staged: 'v9.9.9+k3s1' },
          { name: 'nodes-agent', voter: '', cordoned: false, staged: 'v9.9.9+k3s1' },
        ],
      )
    })

    test('a node is forgotten with its password, and asking again finds nothing to do', async () => {
      await server.kubectl('create secret generic nodes-agent.node-password.k3s --namespace kube-system')
      await agent.ok('systemctl stop k3s.service')
      assert.match((await ask(server, 'node_deleted nodes-agent')).text, /the cluster has node\/nodes-agent/)
      await good(server, 'remove_node nodes-agent 30; node_deleted nodes-agent; remove_node nodes-agent 30')
      assert.match(
        (await ask(server, 'quorum_without nodes')).text,
        /of 1 members of etcd 0 are healthy without nodes/,
      )
    })
  },
)
