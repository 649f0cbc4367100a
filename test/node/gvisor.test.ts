// Pods in gVisor on a real node, by pages 40, 45 and 50. containerd, the kubelet and the API server are their makers' own, and
// read what the pages write. What of gVisor can be had without its makers' server is Debian's runsc of 2024, made fit for this
// kernel, started through runc's shim (runsc.sh, runtime/shim): that a pod starts in a sandbox, its network, and exec are
// shown with it. Its own shim, the programs of gvisor-bin, logs and liveness probes are not: only the pinned release has them.
import assert from 'node:assert/strict'
import { execFileSync, spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { chmodSync, copyFileSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { parseDocument } from 'yaml'
import { builtProgram } from '../../lib/lab/lab.ts'
import { without } from '../programs.ts'
import { type PodFleet, bridge, missing, podFleet, podImage } from './kit.ts'
import { dns, helloImage, restricted } from './manifests.ts'
import { gateway } from './tunnel.ts'

const shim = builtProgram('runsc-shim')
const skip =
  missing ||
  (shim === undefined
    ? 'runsc-shim is not built: ./task lab setup'
    : without('kubectl', 'zstd', 'tar', 'busybox'))

const at = '10.77.0.1'
const dropIn = '/var/lib/rancher/k3s/agent/etc/containerd/config-v3.toml.d/50-gvisor.toml'
const digest = 'docker.io/library/busybox:1.37.0@sha256:'

describe('pods in gVisor', { skip }, () => {
  let cluster: PodFleet
  let pins: string
  let tarball: string
  const first = 'gvisor-1'
  const kubectl = (words: string, input?: string) => cluster.kubectl(words, input)
  const on = (command: string) => cluster.on(first, command)
  const page = async (...words: string[]): Promise<string> => {
    const { code, text } = await cluster.task(...words)
    assert.equal(code, 0, text)
    return text
  }
  const fails = async (...words: string[]): Promise<string> => {
    const { code, text } = await cluster.task(...words)
    assert.notEqual(code, 0, text)
    return text
  }
  const shape = '{{range $name, $one := .config.containerd.runtimes}}{{$name}} {{$one.runtimePath}};{{end}}'
  const handlers = `/opt/bin/k3s crictl info --output go-template --template '${shape}'`
  const inPod = (words: string) => kubectl(`--namespace=shop exec deploy/boxed -- /bin/pod ${words}`)
  const containers = `--namespace=shop get pod --output jsonpath='{.items[*].status.containerStatuses[0].containerID}'`
  const ready = () =>
    cluster.until(
      'the node is ready',
      `/opt/bin/k3s kubectl wait --for=condition=Ready node/${first} --timeout=1s`,
    )

  /** Takes the pods of namespace gvisor away once they are to go, and what is left of every sandbox. */
  const ended = async () => {
    const going = '{.items[*].metadata.deletionTimestamp}'
    const pods = '/opt/bin/k3s kubectl --namespace=gvisor get pods --output'
    await cluster.until('the probe is to go', `${pods} jsonpath='${going}' | grep .`)
    await kubectl('--namespace=gvisor delete pods --all --force --grace-period=0')
    await on(`find /proc/[0-9]*/exe -lname '/opt/gvisor/*' 2> /dev/null | cut --delimiter=/ --fields=3 |
      xargs --no-run-if-empty kill -KILL || true # some end with others`)
  }

  /** A namespace in which pods can be made. After a restart the controllers wait for the end of their old lease: `patience`. */
  const space = async (name: string) => {
    await kubectl(`create namespace ${name}`)
    const account = `/opt/bin/k3s kubectl --namespace=${name} get serviceaccount default`
    await cluster.until('the controllers work again', account, 300)
  }

  /** A tarball as the makers of gVisor pack theirs, of what stands in for it here. Pinned by its own digest. */
  const release = (version: string): void => {
    const dir = mkdtempSync(join(tmpdir(), 'fk-gvisor-'))
    const runsc = readFileSync(join(cluster.machineOf(first).dir, 'root/usr/bin/runsc'), 'latin1')
    // On these kernels every network namespace has that file, by which Debian's takes itself to be in none of its own.
    const fit = runsc.replaceAll('/proc/sys/net/core/rmem_default', '/proc/sys/net/core///dev_weight')
    assert.notEqual(fit, runsc)
    mkdirSync(join(dir, 'gvisor-bin'))
    writeFileSync(join(dir, 'gvisor-bin/runsc'), fit, 'latin1')
    writeFileSync(join(dir, 'gvisor-bin/version'), `runsc version release-${version}\nspec: 1.2.1\n`)
    copyFileSync(join(import.meta.dirname, 'runsc.sh'), join(dir, 'runsc'))
    copyFileSync(shim!, join(dir, 'containerd-shim-runsc-v1'))
    for (const name of ['gvisor-bin/runsc', 'runsc', 'containerd-shim-runsc-v1'])
      chmodSync(join(dir, name), 0o755)
    mkdirSync(join(cluster.state, 'downloads'), { recursive: true })
    tarball = join(cluster.state, 'downloads', `gvisor-${version}-amd64.tar.zstd`)
    execFileSync('tar', ['--create', '--zstd', `--file=${tarball}`, `--directory=${dir}`, '.'])
    rmSync(dir, { recursive: true })
    const document = parseDocument(readFileSync(pins, 'utf8'))
    document.setIn(['gvisor', 'version'], version)
    const sha512 = createHash('sha512').update(readFileSync(tarball)).digest('hex')
    document.setIn(['gvisor', 'sha512', 'amd64'], sha512)
    writeFileSync(pins, document.toString())
  }

  before(async () => {
    cluster = await podFleet('gvisor', ['server'], {
      bridge: true,
      more: [await helloImage()],
      packages: ['runsc', 'zstd'],
    })
    pins = join(cluster.copy.dir, 'config/versions.yaml')
    release('20261005.0')
    cluster.site((site) => {
      site['components'] = { ...(site['components'] as object), runtime: 'gvisor' }
      site['tunnel'] = { network: '10.77.0.0/24', peers: [{ name: 'laptop', address: '10.77.0.2' }] }
      site['router'] = {
        kind: 'host',
        at: first,
        allow: [
          { from: 'tunnel', to: 'router', ports: ['tcp/22', 'tcp/6443'], why: 'administration' },
          { from: gateway, to: 'nodes', ports: ['tcp/22'], why: 'the computer that runs this test' },
          { from: 'router', to: ['internet', 'upstream'], ports: 'any', why: 'images' },
        ],
        never: [],
      }
      site['policy'] = { mode: 'enforce', registries: ['docker.io', 'fortress.test'] }
    })
    await on(`ip address add ${at}/32 dev lo`)
    execFileSync('ip', ['route', 'replace', `${at}/32`, 'via', cluster.machineOf(first).host])
    await page('k3s-server', 'apply')
    await bridge(cluster)
    await ready()
    await kubectl('apply --filename=-', dns)
  })
  after(async () => {
    spawnSync('ip', ['route', 'delete', `${at}/32`])
    await cluster?.end()
  })

  test('a release that is not the pinned one gets onto no node', async () => {
    const right = readFileSync(tarball)
    writeFileSync(tarball, Buffer.concat([right, Buffer.from('more')]))
    const text = await fails('runtime-gvisor', 'apply')
    assert.match(text, /gvisor-20261005\.0-amd64\.tar\.zstd/)
    assert.equal(await on('ls /opt/gvisor; [ ! -e /etc/containerd/runsc.toml ]'), '')
    writeFileSync(tarball, right)
  })

  test('the containerd that runs has both handlers, and the Node says so', async () => {
    await page('runtime-gvisor', 'apply')
    assert.equal((await on(handlers)).trim(), 'runc ;runsc /opt/gvisor/20261005.0/containerd-shim-runsc-v1;')
    const names = await kubectl(`get node ${first} --output jsonpath='{.status.runtimeHandlers[*].name}'`)
    assert.match(names, /\brunsc\b/)
    await page('runtime-gvisor', 'verify')
  })

  test('a second apply changes nothing, and restarts nothing', async () => {
    const id = 'systemctl show --property=InvocationID --value k3s.service'
    const was = await on(id)
    assert.doesNotMatch(await page('runtime-gvisor', 'apply'), /^changed /m)
    assert.equal(await on(id), was)
  })

  test('the class is declared, and a probe on the node sees the kernel of gVisor', async () => {
    await space('shop')
    await page('runtime-class', 'apply')
    await page('runtime-class', 'verify')
    const version = await kubectl('--namespace=gvisor exec daemonset/probe -- busybox cat /proc/version')
    assert.match(version, /SMP Sun Jan 10 15:06:54 PST 2016/)
    assert.doesNotMatch(await page('runtime-class', 'apply'), /^changed /m)
  })

  test('a pod with the class is in a sandbox: its kernel, its exec, a Service by name, and seccomp', async () => {
    await kubectl('apply --filename=-', restricted('web', podImage, 1))
    const boxed = restricted('boxed', podImage, 1).replaceAll(
      '"containers"',
      '"runtimeClassName":"gvisor","containers"',
    )
    await kubectl('apply --filename=-', boxed)
    for (const name of ['web', 'boxed'])
      await cluster.until(
        `${name} is available`,
        `/opt/bin/k3s kubectl --namespace=shop wait deploy/${name} --for=condition=Available --timeout=1s`,
      )
    assert.match(await inPod('cat /proc/version'), /SMP Sun Jan 10 15:06:54 PST 2016/)
    const plain = await kubectl('--namespace=shop exec deploy/web -- /bin/pod cat /proc/version')
    assert.doesNotMatch(plain, /Sun Jan 10 15:06:54 PST 2016/)
    assert.equal((await inPod('id')).trim(), '65532 65532')
    assert.match(await inPod('cat /proc/1/status'), /^Seccomp:\t2$/m)
    await cluster.until(
      'the name is known in the sandbox',
      '/opt/bin/k3s kubectl --namespace=shop exec deploy/boxed -- /bin/pod lookup web',
    )
    assert.match(await inPod('get http://web/'), /^web-/)
    await kubectl(`--namespace=shop exec deploy/web -- /bin/pod get http://boxed/`)
  })

  test('a file of the release that somebody has changed is seen, and put right', async () => {
    await on('echo >> /opt/gvisor/20261005.0/gvisor-bin/version')
    assert.match(await fails('runtime-gvisor', 'verify'), /gvisor-bin\/version: FAILED/)
    await page('runtime-gvisor', 'apply')
    await on('touch /opt/gvisor/20261005.0/gvisor-bin/more')
    assert.match(await fails('runtime-gvisor', 'verify'), /a file of somebody else: \.\/gvisor-bin\/more/)
    await page('runtime-gvisor', 'apply')
    await page('runtime-gvisor', 'verify')
  })

  test('a configuration with which containerd does not start is taken back, and the Node is Ready again', async () => {
    const file = join(cluster.copy.dir, 'config/components/gvisor/containerd.toml')
    const right = readFileSync(file, 'utf8')
    const was = await on(`cat ${dropIn}`)
    const container = await kubectl(containers)
    writeFileSync(file, `${right}[[[\n`)
    try {
      assert.match(await fails('runtime-gvisor', 'apply'), /k3s did not become ready/)
    } finally {
      writeFileSync(file, right)
    }
    assert.equal(await on(`cat ${dropIn}`), was)
    await ready()
    await cluster.until('containerd has the handler', `${handlers} | grep runsc`)
    // What is asked through the kubelet before it knows its pods again is refused.
    await cluster.until(
      'the kubelet knows its pods again',
      `/opt/bin/k3s kubectl get --raw /api/v1/nodes/${first}/proxy/pods | grep '"name":"boxed-'`,
    )
    assert.match(await inPod('get http://web/'), /^web-/)
    // k3s has started several times meanwhile, and no container was lost by it.
    assert.equal(await kubectl(containers), container)
    await page('runtime-gvisor', 'verify')
  })

  test('a pod without the class is refused where rules are enforced, and one with it runs', async () => {
    // How long a sandbox takes to end is the stand-in's alone.
    await kubectl('--namespace=shop delete deployments --all')
    await kubectl('--namespace=shop delete pods --all --force --grace-period=0')
    await kubectl('delete namespace shop --wait')
    await space('apps')
    await kubectl('label namespace apps fortress-kit/owner=me')
    await page('policy', 'apply')
    const objects = readFileSync(join(cluster.copy.dir, 'config/components/gvisor/objects.yaml'), 'utf8')
    const image = `${digest}${/busybox:1\.37\.0@sha256:([0-9a-f]{64})/.exec(objects)![1]}`
    const pod = (name: string, more: object) =>
      JSON.stringify({
        apiVersion: 'v1',
        kind: 'Pod',
        metadata: { name, namespace: 'apps' },
        spec: {
          ...more,
          automountServiceAccountToken: false,
          securityContext: {
            runAsNonRoot: true,
            runAsUser: 65534,
            seccompProfile: { type: 'RuntimeDefault' },
          },
          containers: [
            {
              name,
              image,
              command: ['busybox', 'sleep', '3600'],
              readinessProbe: { exec: { command: ['busybox', 'true'] } },
              resources: { requests: { cpu: '1m', memory: '8Mi' }, limits: { memory: '64Mi' } },
              securityContext: {
                allowPrivilegeEscalation: false,
                readOnlyRootFilesystem: true,
                capabilities: { drop: ['ALL'] },
              },
            },
          ],
        },
      })
    const said = await cluster.on(
      first,
      '/opt/bin/k3s kubectl apply --filename=- 2>&1 || true',
      pod('bare', {}),
    )
    assert.match(
      said,
      /'fortress-runtime-class'.*denied request: .*runtimeClassName is not that of the sandbox/,
    )
    await kubectl('apply --filename=-', pod('kept', { runtimeClassName: 'gvisor' }))
    await cluster.until(
      'it is ready',
      '/opt/bin/k3s kubectl --namespace=apps wait pod/kept --for=condition=Ready --timeout=1s',
    )
  })

  test('undo names the pods that are in the way, and takes back everything when there are none', async () => {
    assert.match(await fails('runtime-class', 'undo', '--yes'), /pods run in the sandbox: apps\/kept/)
    assert.match(
      await fails('runtime-gvisor', 'undo', '--yes'),
      /pods run in gVisor: (apps\/kept gvisor\/probe-|gvisor\/probe-\S+ apps\/kept)/,
    )
    await kubectl('--namespace=apps delete pod kept --force --grace-period=0')
    // The stand-in's shim does not hear of the end of a container, so the pods of the page would never go by themselves.
    await Promise.all([page('runtime-class', 'undo', '--yes'), ended()])
    assert.equal(await kubectl('get runtimeclass,namespace gvisor --ignore-not-found --output=name'), '')
    await page('runtime-gvisor', 'undo', '--yes')
    await ready()
    await cluster.until('containerd has no handler', `${handlers} | grep -x 'runc ;'`)
    assert.equal(
      await on(
        `ls -d /opt/gvisor /etc/containerd/runsc.toml ${dropIn} ${join(dropIn, '..')} 2> /dev/null || true`,
      ),
      '',
    )
    const label = `get node ${first} --output jsonpath='{.metadata.labels.fortress-kit/gvisor}'`
    assert.equal(await kubectl(label), '')
  })
})
