// Taking Cilium away where a node does not answer: what can be reached is cleaned, and the other one is named.
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { describe, test } from 'node:test'
import { root } from '../../lib/ground/root.ts'

/** Runs a line of shell with a kubectl that has these nodes (name, whether Ready) and these pods that clean (node, phase, Ready). */
function shell(line: string, nodes: string[], pods: string[] = []) {
  const kubectl = `kubectl() {
    case "$1 $2" in
      'get nodes') printf '%b' "$NODES" ;;
      'get pods') printf '%b' "$PODS" ;;
      'get daemonset') echo daemonset.apps/cilium-clean ;;
      'get customresourcedefinitions') ;;
      *) echo "$*" ;;
    esac
  }`
  const rows = (all: string[]) => all.map((row) => `${row.replaceAll(' ', '\\t')}\\n`).join('')
  const { status, stdout, stderr } = spawnSync(
    'bash',
    ['--noprofile', '--norc', '-euo', 'pipefail', '-c', `. lib/component/cilium.sh; ${kubectl}; ${line}`],
    { cwd: root, encoding: 'utf8', env: { ...process.env, NODES: rows(nodes), PODS: rows(pods) } },
  )
  return { status, text: stdout + stderr }
}

describe('an undo of Cilium with a node that does not answer', () => {
  const nodes = ['one True', 'two False', 'gone Unknown']

  test('takes a node for dead whose kubelet says nothing, and none that has only lost its network', () => {
    assert.equal(shell('cilium_nodes dead', nodes).text, 'gone\n')
    assert.equal(shell('cilium_nodes alive', [...nodes, 'new ']).text, 'one\ntwo\nnew\n')
  })

  test('waits for every node that is alive, and for no other', () => {
    const running = ['one Running False', 'two Running False', 'gone Pending ']
    assert.equal(shell('cilium_runs cilium-clean Running 0', nodes, running).status, 0)
    assert.equal(shell('cilium_runs cilium-clean Running 0', nodes, running.slice(0, 1)).status, 1)
    assert.equal(shell('cilium_runs cilium-clean Running 0', nodes).status, 1)
    assert.equal(shell('cilium_runs cilium-clean Ready 0', nodes, running).status, 1)
    assert.equal(
      shell('cilium_runs cilium-clean Ready 0', nodes, [
        'one Running True',
        'two Running True',
        'gone Running False',
      ]).status,
      0,
    )
  })

  test('ends pods of the dead node alone, which nobody else ends and a namespace would wait for', () => {
    const { status, text } = shell('cilium_clean_end', nodes, ['one Running True', 'two Running True'])
    assert.equal(status, 0, text)
    assert.match(text, /^delete daemonset cilium-clean .*\ndelete pods .*spec\.nodeName=gone --force .*\n$/)
  })

  test('says which node was not cleaned, and what to run there', () => {
    const { text } = shell('cilium_not_clean', [...nodes, 'away Unknown'])
    assert.match(
      text,
      /^kept: Cilium on gone, away, which does not answer: .*run there:\nrm -rf \S+05-cilium\.conflist/,
    )
    assert.equal(shell('cilium_not_clean', nodes.slice(0, 2)).text, '')
  })

  test('fails where the API cannot be asked, and takes no node for dead then', () => {
    const away = 'kubectl() { echo no answer >&2; return 1; }; cilium_clean_end'
    assert.deepEqual(shell(away, []), { status: 1, text: 'no answer\n' })
  })
})

/** Runs a line with a kubectl that gives these lists, by their kind. */
function asked(line: string, lists: Record<string, string>) {
  const kubectl = 'kubectl() { local of=LIST_$2; printf %b "${!of-}"; }'
  const env = Object.fromEntries(Object.entries(lists).map(([kind, text]) => [`LIST_${kind}`, text]))
  const { status, stdout, stderr } = spawnSync(
    'bash',
    ['--noprofile', '--norc', '-euo', 'pipefail', '-c', `. lib/component/cilium.sh; ${kubectl}; ${line}`],
    { cwd: root, encoding: 'utf8', env: { ...process.env, ...env } },
  )
  return [status, stdout + stderr]
}

describe('what Cilium takes the place of', () => {
  const none = '["server","--flannel-backend","none","--disable-kube-proxy","true","--node-ip","10.0.0.1"]'
  const cases: [string, string, string][] = [
    ['is not there where k3s was started without', none, ''],
    [
      'is not there where the switch has no value',
      '["server","--disable-kube-proxy","--flannel-backend","none"]',
      '',
    ],
    ['is not asked of an agent, which is told by its server', '["agent"]', ''],
    ['is not asked of another Kubernetes', '', ''],
    [
      'is there where k3s says nothing of it',
      '["server"]',
      'k3s on a runs flannel\nk3s on a runs kube-proxy\n',
    ],
    ['is there with another backend', none.replace('"none"', '"vxlan"'), 'k3s on a runs flannel\n'],
    ['is there where it is not disabled', none.replace('"true"', '"false"'), 'k3s on a runs kube-proxy\n'],
  ]
  for (const [what, args, says] of cases)
    test(what, () =>
      assert.deepEqual(asked('cilium_alone', { nodes: `a ${args}\n` }), [says === '' ? 0 : 1, says]),
    )

  test('is named where it is a DaemonSet', () =>
    assert.deepEqual(asked('cilium_alone', { daemonsets: 'kube-system/kube-flannel-ds\n' }), [
      1,
      'there is kube-system/kube-flannel-ds\n',
    ]))
})

describe('the networks of a cluster', () => {
  const is = (nodes: string, service: string, pods = '10.42.0.0/16') =>
    asked(`cilium_networks ${pods} 10.43.0.0/16`, { nodes, service })

  test('are those of the site, also where a node has no addresses yet', () => {
    assert.deepEqual(is('a 10.42.0.0/24\nb 10.42.255.0/24\nc \n', '10.43.0.1'), [0, ''])
    assert.deepEqual(is('a 172.16.8.0/24\n', '10.43.0.1', '172.16.8.0/21'), [0, ''])
  })

  test('are said where they are others', () => {
    assert.deepEqual(is('a 10.42.0.0/24\nb 10.52.0.0/24\n', '10.96.0.1'), [
      1,
      `pods of b have addresses of 10.52.0.0/24, and not of cluster.pods 10.42.0.0/16
Services have addresses such as 10.96.0.1, and not of cluster.services 10.43.0.0/16\n`,
    ])
    assert.equal(is('a 172.16.16.0/24\n', '10.43.0.1', '172.16.8.0/21')[0], 1)
  })
})
