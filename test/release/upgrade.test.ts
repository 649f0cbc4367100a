// From one minor version of Kubernetes to the next, on the real ones: three servers, an agent, and somebody who looks all the time.
import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { Agent, get } from 'node:https'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { promisify } from 'node:util'
import { noSysctl, program, version } from '../cluster/kit.ts'
import { type Fleet, fleet } from '../machine/fleet.ts'
import { root } from '../machine/kit.ts'
import { without } from '../programs.ts'

const run = promisify(execFile)
const old = 'v1.35.4+k3s1'
const older = join(root, '.cache/tools/kube-bed-1.35')
const broken = 'v1.36.9+k3s1'
const missing = program === undefined ? 'kube-bed is not installed' : without('go')

describe('an upgrade to the next minor version', { skip: missing }, () => {
  let cluster: Fleet
  const names = ['rise-1', 'rise-2', 'rise-3', 'rise-4']
  const servers = names.slice(0, 3)
  const good = async (...words: string[]) => {
    const { code, text } = await cluster.task(...words)
    assert.equal(code, 0, text)
    return text
  }
  const kubectl = (words: string, on = servers[0]!) => cluster.on(on, `/opt/bin/k3s kubectl ${words}`)
  /** What the API server of each says that it is, and what the kubelets are. */
  const versions = async () => [
    ...(await Promise.all(
      servers.map(
        async (name) =>
          (JSON.parse(await kubectl('get --raw /version', name)) as { gitVersion: string }).gitVersion,
      ),
    )),
    await kubectl(`get nodes --output jsonpath='{.items[*].status.nodeInfo.kubeletVersion}'`),
  ]
  const answers = (name: string) =>
    new Promise<boolean>((resolve) => {
      const { host } = cluster.machineOf(name)
      const options = { host, port: 6443, path: '/readyz', rejectUnauthorized: false, timeout: 2000 }
      const asked = get({ ...options, agent: new Agent({ keepAlive: false }) }, (response) => {
        response.resume()
        // Nobody without a name is told whether it is ready; that it answers at all is what counts.
        resolve(true)
      })
      asked.on('timeout', () => asked.destroy()).on('error', () => resolve(false))
    })
  /** Looks while `work` is under way: how many servers were away at once, at most. */
  const mostAway = async (work: Promise<unknown>): Promise<number> => {
    let most = 0
    let under = true
    const done = work.finally(() => (under = false))
    while (under) {
      const up = await Promise.all(servers.map(answers))
      most = Math.max(most, up.filter((one) => !one).length)
      await new Promise((resolve) => setTimeout(resolve, 300))
    }
    await done
    return most
  }

  before(async () => {
    if (!existsSync(older)) {
      const bed = join(root, 'test/cluster/bed')
      const flags = '-s -w -X k8s.io/component-base/version.gitVersion=v1.35.4'
      await run('go', ['build', '-modfile=go-1.35.mod', '-trimpath', `-ldflags=${flags}`, '-o', older, '.'], {
        cwd: bed,
        env: { ...process.env, GOTOOLCHAIN: 'auto' },
      })
    }
    cluster = await fleet('rise', ['server', 'server', 'server', 'agent'], (wanted) =>
      wanted === broken ? '#!/bin/sh\nexit 1\n' : readFileSync(wanted === old ? older : program!),
    )
    // What config/k3s may say is written down for one minor version; here the programs of the older one are the judges.
    const flags = join(cluster.copy.dir, 'config/k3s/flags.yaml')
    const text = readFileSync(flags, 'utf8')
    writeFileSync(flags, text + text.slice(text.indexOf("'1.36':")).replace("'1.36':", "'1.35':"))
    for (const name of names)
      for (const [path, unit] of Object.entries(noSysctl))
        await cluster.on(name, `install -D --mode=600 /dev/stdin ${path}`, unit)
    cluster.pin(old)
    await good('k3s-server', 'apply')
    await good('k3s-join', 'apply')
  })
  after(() => cluster?.end())

  test('the older version runs on all of them', async () => {
    assert.deepEqual(await versions(), ['v1.35.4', 'v1.35.4', 'v1.35.4', `${old} ${old} ${old} ${old}`])
    await kubectl('create secret generic kept --from-literal=a=b')
  })

  test('the plan says from which to which, and nothing is changed before all have the program', async () => {
    cluster.pin(version)
    const { code, text } = await cluster.task('k3s-upgrade', 'apply')
    assert.equal(code, 1)
    assert.match(text, /not staged on rise-1 rise-2 rise-3 rise-4/)
    await good('k3s-stage', 'apply')
    assert.deepEqual((await versions())[3], `${old} ${old} ${old} ${old}`)
  })

  test('it is done one server after the other, and everything is still there', async (t) => {
    const begun = Date.now()
    const away = await mostAway(good('k3s-upgrade', 'apply'))
    t.diagnostic(`${Math.round((Date.now() - begun) / 1000)} s for four nodes`)
    assert.equal(away, 1)
    const all = `${version} ${version} ${version} ${version}`
    assert.deepEqual(await versions(), ['v1.36.3', 'v1.36.3', 'v1.36.3', all])
    assert.equal(await kubectl(`get secret kept --output jsonpath='{.data.a}'`), 'Yg==')
    assert.equal((await kubectl(`get nodes --output jsonpath='{.items[*].spec.unschedulable}'`)).trim(), '')
    for (const page of ['k3s-server', 'k3s-join', 'k3s-upgrade']) await good(page, 'verify')
  })

  test('it is not gone back from', async () => {
    cluster.pin(old)
    const { code, text } = await cluster.task('k3s-upgrade', 'apply')
    assert.equal(code, 1)
    assert.match(text, /v1\.36\.3\+k3s1 runs, and v1\.35\.4\+k3s1 is older/)
  })

  test('a version that does not come up is taken back on the first server, and the others never see it', async () => {
    cluster.pin(broken)
    await good('k3s-stage', 'apply')
    let code = 0
    const away = await mostAway(cluster.task('k3s-upgrade', 'apply').then((said) => (code = said.code)))
    assert.equal(code, 1)
    assert.equal(away, 1)
    const all = `${version} ${version} ${version} ${version}`
    assert.deepEqual(await versions(), ['v1.36.3', 'v1.36.3', 'v1.36.3', all])
    assert.equal((await kubectl(`get nodes --output jsonpath='{.items[*].spec.unschedulable}'`)).trim(), '')
  })
})
