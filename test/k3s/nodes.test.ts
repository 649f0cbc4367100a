// Who does what for whom in a cluster, what versions follow each other, and the kubeconfig as the laptop needs it.
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, test } from 'node:test'
import { parse } from 'yaml'
import { kubeconfigFor } from '../../lib/cli/api.ts'
import type { Context } from '../../lib/engine/page.ts'
import { printed } from '../../lib/engine/print.ts'
import { batches } from '../../lib/engine/run.ts'
import { type Change, isChange } from '../../lib/engine/step.ts'
import { root } from '../../lib/ground/root.ts'
import { filesOf } from '../../lib/k3s/configuration.ts'
import { clusterOf, urlOf, wellWithout } from '../../lib/k3s/members.ts'
import { clusterShell, helperOf, leaving } from '../../lib/k3s/nodes.ts'
import { loadConfig } from '../../lib/site/config.ts'
import { machinesFor } from '../../lib/site/machines.ts'
import cis from '../../scripts/22-k3s-cis.ts'
import upgrade from '../../scripts/25-k3s-upgrade.ts'
import renew from '../../scripts/26-k3s-renew.ts'
import { made, metal } from '../site/made.ts'

function site(roles: ('server' | 'agent')[], address = (n: number) => `192.0.2.${11 + n}`) {
  const machines = metal(...roles).map((machine, i) => ({ ...machine, address: address(i) }))
  return { ...loadConfig({ env: {}, site: 'fortress-pi' }), site: made({ name: 'fortress-pi', machines }) }
}
const stepsOf = (config: ReturnType<typeof site>, name: string) =>
  upgrade.steps({ ...config, machine: { name } } as unknown as Context)
const swapOf = (config: ReturnType<typeof site>, name: string) =>
  stepsOf(config, name).find((step): step is Change => isChange(step) && step.recover !== undefined)!

test('pages come to servers before agents, in whatever order the site lists them', () => {
  const config = site(['agent', 'server', 'agent', 'server'])
  assert.deepEqual(
    machinesFor(config, 'node').map(({ name }) => name),
    ['pi-2', 'pi-4', 'pi-1', 'pi-3'],
  )
  assert.deepEqual(
    machinesFor(config, 'host').map(({ name }) => name),
    ['pi-1', 'pi-2', 'pi-3', 'pi-4'],
  )
})

test('an address of IPv6 stands in brackets where a port follows it', () => {
  const config = site(['server', 'server'], (n) => `2001:db8::${n + 1}`)
  const [first, second] = clusterOf(config)
  assert.equal(urlOf(first!), 'https://[2001:db8::1]:6443')
  const written = filesOf(config, second!).find(({ path }) => path.endsWith('10-node.yaml'))?.text
  assert.equal((parse(written ?? '') as { server: string }).server, 'https://[2001:db8::1]:6443')
  assert.match(wellWithout(second!, clusterOf(config), 1).until.text, /'pi-1 https:\/\/\[2001:db8::1\]:6443'/)
})

describe('an upgrade', () => {
  test('another server looks after a server; the only one looks after itself and after agents', () => {
    const members = clusterOf(site(['server', 'server', 'agent']))
    assert.deepEqual(
      members.map((member) => helperOf(members, member).name),
      ['pi-2', 'pi-1', 'pi-1'],
    )
    const two = clusterOf(site(['server', 'agent']))
    assert.deepEqual(
      two.map((member) => helperOf(two, member).name),
      ['pi-1', 'pi-1'],
    )
  })

  test('the node is drained before the swap and uncordoned after it, and neither begins before the checks have passed', () => {
    const config = site(['server', 'server', 'agent'])
    for (const name of ['pi-1', 'pi-2', 'pi-3']) {
      const { onOtherNode } = swapOf(config, name)
      assert.match(onOtherNode?.before.at(-1)?.name ?? '', new RegExp(`${name} is cordoned and drained`))
      assert.match(onOtherNode?.after[0]?.name ?? '', new RegExp(`${name} is uncordoned`))
      const steps = stepsOf(config, name).map((step, index) => ({ step, index }))
      for (const batch of batches(steps))
        assert.ok(batch.steps.slice(1).every(({ step }) => !isChange(step) || step.onOtherNode === undefined))
    }
  })

  test('a single node is not drained, and its name must be typed', () => {
    const steps = stepsOf(site(['server']), 'pi-1')
    assert.equal(swapOf(site(['server']), 'pi-1').onOtherNode, undefined)
    assert.ok(steps.some((step) => 'typed' in step && step.typed === 'pi-1'))
    assert.ok(!stepsOf(site(['server', 'agent']), 'pi-1').some((step) => 'typed' in step))
  })

  test('the printed page runs on the other machine what it has to do there, and waits for it here', () => {
    const steps = stepsOf(site(['server', 'server']), 'pi-2')
    const text = printed({ name: 'x', summary: 'y', steps, library: clusterShell, called: 'x.pi-2.sh' })
    const commands = [...text.matchAll(/^# {3}\d\. (.*)$/gm)].map(([, command]) => command)
    assert.deepEqual(commands.slice(0, 3), [
      'on pi-1:  bash x.pi-2.sh before',
      'here:  FK_OTHER_NODE=done bash x.pi-2.sh',
      'on pi-1:  bash x.pi-2.sh after    (also when the command before it failed)',
    ])
    assert.match(
      text,
      /^before_here\(\) \{[\s\S]*# 2\/2 pi-2 is cordoned and drained[\s\S]*k3s_drain pi-2 [\s\S]*?^\}/m,
    )
    assert.match(text, /^after_here\(\) \{[\s\S]*pi-2 is uncordoned[\s\S]*?^\}/m)
    assert.match(text, /needs_other_node pi-1 'bash x\.pi-2\.sh before' 'done' after\n {2}# .*pi-2 runs k3s/)
  })

  const follows = (from: string, to: string) =>
    spawnSync(
      'bash',
      ['-c', `${clusterShell.text}\n${upgrade.prepare!.text}\nnext_version "$1" "$2"`, 'x', from, to],
      {
        encoding: 'utf8',
      },
    )
  for (const [from, to] of [
    ['v1.36.4+k3s1', 'v1.36.4+k3s1'],
    ['v1.36.4+k3s1', 'v1.36.4+k3s2'],
    ['v1.36.9+k3s1', 'v1.36.10+k3s1'],
    ['v1.36.4-rc2+k3s1', 'v1.36.4+k3s1'],
    ['v1.36.4+k3s1', 'v1.37.0-rc1+k3s1'],
    ['v1.36.4+k3s3', 'v1.37.0+k3s1'],
  ] as const)
    test(`${to} may follow ${from}`, () =>
      assert.equal(follows(from, to).status, 0, follows(from, to).stdout))
  for (const [from, to, why] of [
    ['v1.36.4+k3s2', 'v1.36.4+k3s1', /is older/],
    ['v1.36.10+k3s1', 'v1.36.9+k3s1', /is older/],
    ['v1.36.4+k3s1', 'v1.36.4-rc9+k3s1', /is older/],
    ['v1.37.0+k3s1', 'v1.36.9+k3s1', /is older/],
    ['v1.36.4+k3s1', 'v1.38.0+k3s1', /leaves out v1\.37/],
    ['v1.36.4+k3s1', 'v2.0.0+k3s1', /leaves out/],
    ['v1.36.4+k3s1', 'v1.37.0', /is no version of k3s/],
    ['', 'v1.37.0+k3s1', /is no version of k3s/],
  ] as const)
    test(`${to} may not follow ${from || 'nothing'}`, () => {
      const { status, stdout } = follows(from, to)
      assert.notEqual(status, 0)
      assert.match(stdout, why)
    })
})

describe('a node that leaves', () => {
  test('the first server cannot, and the message says what to do first', () => {
    assert.throws(() => leaving(site(['server', 'server']), 'pi-1', true), {
      message: /pi-1 is the first server of fortress-pi/,
      next: /put another server before it/,
    })
  })

  test('what runs is stopped before the cluster forgets it; what is silent must be silent for the cluster too', () => {
    const config = site(['server', 'server', 'server'])
    const names = (reachable: boolean) =>
      leaving(config, 'pi-2', reachable).pages.map(({ name, at }) => `${name} ${at}`)
    assert.deepEqual(names(true), ['node-leave pi-1', 'node-stop pi-2', 'node-forget pi-1'])
    assert.deepEqual(names(false), ['node-leave pi-1', 'node-forget pi-1'])
    const [leave] = leaving(config, 'pi-2', false).pages
    assert.ok(
      leave!
        .steps({} as Context)
        .some((step) => !isChange(step) && /node_unreachable/.test('check' in step ? step.check.text : '')),
    )
  })

  test('what the site does not know can be taken out, and is not sent anywhere', () => {
    assert.deepEqual(
      leaving(site(['server']), 'old', false).pages.map(({ at }) => at),
      ['pi-1', 'pi-1'],
    )
  })
})

describe('the kubeconfig', () => {
  const own = `apiVersion: v1
kind: Config
clusters:
- name: default
  cluster: {certificate-authority-data: QQ==, server: https://127.0.0.1:6443}
contexts:
- name: default
  context: {cluster: default, user: default}
current-context: default
users:
- name: default
  user: {client-key-data: QQ==}
`
  test('leads to the member, is named after the site, and keeps what proves both sides', () => {
    for (const [endpoint, server] of [
      ['10.66.0.11', 'https://10.66.0.11:6443'],
      ['fd00::1', 'https://[fd00::1]:6443'],
    ] as const) {
      const config = parse(kubeconfigFor(own, endpoint, 'home')) as Record<string, unknown>
      assert.deepEqual(config, {
        apiVersion: 'v1',
        kind: 'Config',
        clusters: [{ name: 'home', cluster: { 'certificate-authority-data': 'QQ==', server } }],
        contexts: [{ name: 'home', context: { cluster: 'home', user: 'home-admin' } }],
        'current-context': 'home',
        users: [{ name: 'home-admin', user: { 'client-key-data': 'QQ==' } }],
      })
    }
  })

  test('one without a cluster is refused', () => {
    assert.throws(() => kubeconfigFor('kind: Config\n', '10.66.0.11', 'home'), /cannot be read/)
  })
})

const shells: Record<string, string> = {
  'lib/k3s/members.sh': readFileSync(join(root, 'lib/k3s/members.sh'), 'utf8'),
  'lib/k3s/nodes.sh': readFileSync(join(root, 'lib/k3s/nodes.sh'), 'utf8'),
  'lib/k3s/authorities.sh': readFileSync(join(root, 'lib/k3s/authorities.sh'), 'utf8'),
  'k3s-cis': cis.prepare!.text,
  'k3s-upgrade': upgrade.prepare!.text,
  'k3s-renew': renew.prepare!.text,
}
for (const [name, text] of Object.entries(shells))
  test(`the functions of ${name} are exported, so that commands in a shell of their own find them`, () => {
    const defined = [...text.matchAll(/^(\w+)\(\)/gm)].map(([, name]) => name)
    const exported = [...text.matchAll(/^export -f ((?:.*\\\n)*.*)$/gm)].flatMap(([, names = '']) =>
      names.split(/[\s\\]+/).filter(Boolean),
    )
    assert.deepEqual(exported.toSorted(), defined.toSorted())
  })
