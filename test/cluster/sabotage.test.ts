// The controls of a node ask what decides. Each sabotage leaves the files of config/k3s as they are, and changes what runs.
import assert from 'node:assert/strict'
import { after, before, describe, test } from 'node:test'
import { parse, stringify } from 'yaml'
import { scoreNode } from '../../lib/cli/cis.ts'
import { contextOf, storeOf } from '../../lib/cli/context.ts'
import { pageNamed } from '../../lib/cli/scripts.ts'
import type { Machine } from '../../lib/engine/machine.ts'
import { createReport } from '../../lib/engine/report.ts'
import { runPage } from '../../lib/engine/run.ts'
import { loadConfig } from '../../lib/site/config.ts'
import type { Config } from '../../lib/site/model.ts'
import { weakened, weakenings } from '../weaken.ts'
import { type Bed, alone, bed, connected, data, etc, patience, told } from './kit.ts'

const site = 'fortress-pi'
const silent = () => createReport({ stdout: { write: () => {} } })

interface Sabotage {
  /** What kind of thing goes over our files. */
  by: string
  /** The controls that have to see it. */
  seen: string[]
  /** Bash that is run before k3s starts anew; without `after` it does not. */
  bash: string
  /** Bash that is run once it is up: what is seen on the disk is as before. */
  after?: string
  /** Takes it back. */
  undo: string
}

const write = (path: string, text: string) => `install -D --mode=600 <(cat <<'END'\n${text}END\n) ${path}`
/** The files of these paths are others while k3s starts, and ours again when it is up. */
const mounted = (files: Record<string, string>) => ({
  bash: Object.entries(files)
    .map(([path, text], i) => `${write(`/root/over/${i}`, text)}\nmount --bind /root/over/${i} ${path}`)
    .join('\n'),
  after: `umount ${Object.keys(files).join(' ')}; rm --recursive /root/over`,
})

const ours = parse(told('config.yaml')) as Record<string, unknown>
const of = (batch: string) => Object.entries(weakenings()).filter(([, w]) => w.batch === batch)
const idsOf = (batch: string) => of(batch).flatMap(([id, { also = [] }]) => [id, ...also])

/** ours with the weak arguments of a batch. `started`: what each part was started with before. */
const config = (batch: string, started: string) => weakened(ours, of(batch), started)
const argumentsOf = (all: Record<string, unknown>) =>
  Object.fromEntries(Object.entries(all).filter(([key]) => key.endsWith('-arg')))

interface Policy {
  rules: object[]
}
interface Admission {
  plugins: { name: string; configuration: { exemptions?: { namespaces: string[] } } }[]
}
function weakAudit(): string {
  const policy = parse(told('audit.yaml')) as Policy
  const hidden = { level: 'None', resources: [{ group: '', resources: ['secrets', 'pods/exec'] }] }
  return stringify({ ...policy, rules: [hidden, ...policy.rules] })
}
function weakAdmission(): string {
  const all = parse(told('admission.yaml')) as Admission
  for (const { configuration } of all.plugins) configuration.exemptions?.namespaces.push('default')
  return stringify(all)
}

/** An access list of POSIX beside the mode: user nobody may read. */
const acl = (path: string) => `python3 - ${path} << 'END'
import os, stat, struct, sys
mode = stat.S_IMODE(os.stat(sys.argv[1]).st_mode)
rights = [(1, mode >> 6, -1), (2, 4, 65534), (4, mode >> 3, -1), (16, 4, -1), (32, mode, -1)]
os.setxattr(sys.argv[1], 'system.posix_acl_access',
            struct.pack('<I', 2) + b''.join(struct.pack('<HHI', t, p & 7, n & 0xffffffff) for t, p, n in rights))
END`
const lists: Record<string, string> = {
  '1.1.11': `${data}/server/db/etcd`,
  '1.1.13': `${etc}/k3s.yaml`,
  '1.1.15': `${data}/server/cred/scheduler.kubeconfig`,
  '1.1.17': `${data}/server/cred/controller.kubeconfig`,
  '1.1.20': `${data}/server/tls/server-ca.crt`,
  '1.1.21': `${data}/server/tls/etcd/client.key`,
  '4.1.5': `${data}/agent/kubelet.kubeconfig`,
  '4.1.7': `${data}/agent/client-ca.crt`,
  '4.1.11': `${data}/agent/etc/kubelet.conf.d`,
}
const paths = Object.values(lists)
const pods = Array.from({ length: 12 }, (_, i) => `5.2.${i + 2}`)

const encryption = `${data}/server/cred/encryption-config.json`
const unit = '/run/systemd/system/k3s.service.d/site.conf'
const role = 'rbac.authorization.k8s.io/v1'

const sabotages = (started: string): Sabotage[] => [
  {
    by: 'a later part of the configuration',
    seen: idsOf('one'),
    bash: write(`${etc}/config.yaml.d/15-site.yaml`, stringify(argumentsOf(config('one', started)))),
    after: 'true',
    undo: `rm ${etc}/config.yaml.d/15-site.yaml`,
  },
  {
    by: 'an override of the unit, with a configuration of its own',
    seen: idsOf('two'),
    bash: `${write('/root/site/config.yaml', stringify(config('two', started)))}
${write(`${etc}/people.csv`, 'weakweakweak,mallory,1\n')}
cp --recursive ${etc}/config.yaml.d /root/site/
${write(unit, '[Service]\nExecStart=\nExecStart=/opt/bin/k3s server --config /root/site/config.yaml\n')}`,
    // What systemd was given, and the disk has no more.
    after: `rm ${unit}; systemctl daemon-reload`,
    undo: `rm --recursive /root/site ${etc}/people.csv`,
  },
  {
    by: 'files that were others when k3s started: its configuration',
    seen: [...idsOf('three')],
    ...mounted({ [`${etc}/config.yaml`]: stringify(config('three', started)) }),
    undo: 'true',
  },
  {
    by: 'files that were others when k3s started: what it audits, admits and encrypts by',
    seen: ['1.2.28', '3.2.2', '5.2.1', ...pods],
    ...((both) => ({
      bash: `${both.bash}
# What is there stays readable; what is written from now on is clear.
python3 -c 'import json, sys
all = json.load(open(sys.argv[1]))
for one in all["resources"]: one["providers"].sort(key=lambda provider: "identity" not in provider)
json.dump(all, open(sys.argv[2], "w"), separators=(",", ":"))' ${encryption} /root/over/encryption
mount --bind /root/over/encryption ${encryption}
# k3s itself refuses a file that is newer than its datastore: whoever is root here starts one that does not.
systemctl set-environment FK_BED_NO_RECONCILE=yes`,
      after: `systemctl unset-environment FK_BED_NO_RECONCILE; umount ${encryption}; ${both.after}`,
    }))(mounted({ [`${etc}/audit.yaml`]: weakAudit(), [`${etc}/admission.yaml`]: weakAdmission() })),
    undo: 'true',
  },
  {
    by: 'another file over the one that etcd has read',
    seen: ['2.1', '2.2', '2.3', '2.4', '2.5', '2.6', '2.7'],
    bash: `cp ${data}/server/db/etcd/config /root/etcd; touch --date=2020-01-01 /root/etcd
mount --bind /root/etcd ${data}/server/db/etcd/config`,
    undo: `umount ${data}/server/db/etcd/config; rm /root/etcd`,
  },
  {
    by: 'objects of the API that somebody has changed: those that are always there',
    seen: ['5.1.1', '5.1.3', '5.1.7', '5.1.8', '5.1.9', '5.2.1', ...pods],
    bash: `kubectl patch clusterrolebinding cluster-admin --type=json --patch \\
  '[{"op":"add","path":"/subjects/-","value":{"kind":"User","apiGroup":"rbac.authorization.k8s.io","name":"mallory"}}]'
kubectl patch clusterrole system:basic-user --type=json --patch \\
  '[{"op":"add","path":"/rules/-","value":{"apiGroups":[""],"resources":["users"],"verbs":["impersonate"]}}]'
kubectl patch clusterrole system:discovery --type=json --patch \\
  '[{"op":"add","path":"/rules/-","value":{"apiGroups":["apps"],"resources":["*"],"verbs":["get"]}}]'
kubectl create --filename=- <<'END'
{"apiVersion":"${role}","kind":"ClusterRole","metadata":{"name":"system:storage","labels":{"kubernetes.io/bootstrapping":"rbac-defaults"}},
 "rules":[{"apiGroups":[""],"resources":["persistentvolumes"],"verbs":["create"]}]}
END
kubectl create rolebinding cluster-admin --namespace=kube-public --clusterrole=view --group=system:masters
kubectl label namespace default pod-security.kubernetes.io/enforce=privileged`,
    undo: `kubectl delete clusterrolebinding cluster-admin
kubectl delete clusterrole system:basic-user system:discovery system:storage
kubectl delete rolebinding cluster-admin --namespace=kube-public
kubectl label namespace default pod-security.kubernetes.io/enforce-`,
  },
  {
    by: 'an access list beside the mode',
    seen: Object.keys(lists),
    bash: `stat --format='%a %n' ${paths.join(' ')} > /root/modes\n${paths.map(acl).join('\n')}`,
    undo: `while read -r mode path; do
  python3 -c 'import os, sys; os.removexattr(sys.argv[1], "system.posix_acl_access")' "$path"; chmod "$mode" "$path"
done < /root/modes`,
  },
]

describe('a server that something else than its files has weakened', () => {
  let node: Bed
  let machine: Machine
  let around: Config
  let list: Sabotage[]

  const failing = async () => {
    const { results } = await scoreNode(machine, around, silent())
    return results.filter(({ state }) => state === 'fail')
  }
  const shell = (command: string) =>
    node.ok('bash -euo pipefail -s', `export PATH=/opt/bin:$PATH KUBECONFIG=${etc}/k3s.yaml\n${command}\n`)
  const words = (results: Awaited<ReturnType<typeof failing>>) =>
    results.map(({ id, found }) => `${id}: ${found}`).join('\n')

  before(async () => {
    const named = { [`${etc}/config.yaml.d/10-node.yaml`]: `cluster-init: true\nnode-name: ${site}\n` }
    node = await bed(undefined, 'weak', { ...alone, ...named, ...patience })
    assert.deepEqual(await node.begin(), { code: 0, said: '' })
    list = sabotages(
      await node.ok(
        `journalctl --unit=k3s.service --output=cat | sed --quiet 's/^.*msg="Running \\([a-z-]*\\) \\(--.*\\)"$/\\1 \\2/p'`,
      ),
    )
    around = loadConfig({ env: node.env, site })
    machine = await connected(node, site)
    const store = storeOf(around)
    const page = pageNamed('k3s-cis')
    const steps = page.steps(contextOf(around, machine.facts, store))
    const options = { machine, report: silent(), store, rollbackAfter: 60, lockWait: 20 }
    assert.equal((await runPage(page, steps, 'apply', options)).code, 0)
    assert.equal(words(await failing()), '')
  })
  after(async () => {
    await machine?.close()
    await node?.end()
  })

  const at = [0, 1, 2, 3, 4, 5, 6]
  for (const index of at)
    test(`verify sees what goes over the files of config/k3s: ${sabotages('')[index]?.by}`, async () => {
      const { seen, bash, after, undo } = list[index]!
      await shell(bash)
      if (after !== undefined) {
        assert.deepEqual(await node.begin(), { code: 0, said: '' })
        await shell(after)
      }
      const found = await failing()
      await shell(undo)
      // What was read at that start goes on until the next.
      if (after !== undefined) assert.deepEqual(await node.begin(), { code: 0, said: '' })
      const ids = found.map(({ id }) => id)
      assert.deepEqual(
        seen.filter((id) => !ids.includes(id)),
        [],
        words(found),
      )
    })

  test('without them everything holds again, and at least 25 controls have been put to the proof', async () => {
    assert.equal(list.length, at.length)
    const all = new Set(list.flatMap(({ seen }) => seen))
    assert.ok(all.size >= 25, `${all.size} controls`)
    for (const [path, text] of Object.entries(alone))
      if (!path.includes('.d/')) assert.equal(await node.ok(`cat ${path}`), text)
    assert.deepEqual(await node.begin(), { code: 0, said: '' })
    assert.equal(words(await failing()), '')
  })
})
