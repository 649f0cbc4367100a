// Nodes on which pods really run: a kubelet, containerd and runc in containers of the lab, and images that are made here.
import { chmodSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { stringify } from 'yaml'
import { builtProgram } from '../../lib/lab/lab.ts'
import { etc, pinAge, program, version } from '../cluster/kit.ts'
import { type Fleet, fleet } from '../machine/fleet.ts'
import { without } from '../programs.ts'
import { imageArchive } from './image.ts'
import { copyStore, imageStore } from './store.ts'

/** Why there can be no such nodes here, for a test's `skip`. */
export const missing: string | false =
  ['runtime', 'pod', 'coredns']
    .filter((name) => builtProgram(name) === undefined)
    .map((name) => `${name} is not built: ./task lab setup`)[0] ??
  (program === undefined ? 'kube-bed is not installed' : without('age', 'tar'))

/** What a node has beside a plain Debian: what its pages would install, or what Cilium's programs call. */
export const packages = ['runc', 'iptables', 'nftables', 'conntrack', 'kmod']

/** The image of what runs in pods: test/node/pod. */
export const podImage = 'fortress.test/pod:1'
/** As k3s names its own. */
const pauseImage = 'docker.io/rancher/mirrored-pause:3.6'
export const dnsImage = 'docker.io/rancher/mirrored-coredns-coredns:1.14.3'

const passwd = { '/etc/passwd': { text: 'root:x:0:0::/:/\nnonroot:x:65532:65532::/:/\n' } }
const ofProgram = (name: string) => ({ from: join(builtProgram(name)!, name) })

/** Archives of the images that every cluster here has. */
export const images = () =>
  Promise.all([
    imageArchive({
      names: [pauseImage],
      layers: [{ files: { '/bin/pod': ofProgram('pod') } }],
      config: { User: '65535:65535', Entrypoint: ['/bin/pod', 'pause'] },
    }),
    imageArchive({
      names: [podImage],
      layers: [
        { files: { ...passwd, '/bin/pod': ofProgram('pod'), '/tmp': { directory: true, mode: 0o1777 } } },
      ],
      config: { User: '65532:65532', Env: ['PATH=/bin'], Entrypoint: ['/bin/pod'], Cmd: ['http'] },
    }),
    imageArchive({
      names: [dnsImage],
      layers: [{ files: { ...passwd, '/coredns': ofProgram('coredns') } }],
      config: { Entrypoint: ['/coredns'] },
    }),
  ])

export interface PodFleet extends Fleet {
  /** kubectl on the first server; its failure is the test's. Returns what it printed. */
  kubectl(words: string, input?: string): Promise<string>
  /** Waits until a command on the first server succeeds. Returns the seconds it took. */
  until(what: string, command: string, seconds?: number): Promise<number>
}

/**
 * Machines as `fleet` makes them, on which k3s will run pods once a page has configured it. With `bridge` servers have
 * kube-proxy, and `bridge()` brings a network; without, somebody else brings both. `more` are archives of further images,
 * `packages` further ones of Debian, and `deploys` what the first server applies once its API answers: k3s does that by itself, and
 * the stand-in does not.
 */
export async function podFleet(
  prefix: string,
  roles: ('server' | 'agent')[],
  options: { bridge?: boolean; more?: string[]; deploys?: string; packages?: string[] } = {},
): Promise<PodFleet> {
  const store = await imageStore([...(await images()), ...(options.more ?? [])])
  const cluster = await fleet(prefix, roles, () => readFileSync(program!), {
    extra: [...packages, ...(options.packages ?? [])],
    pods: { [builtProgram('runtime')!]: '/opt/lab', [builtProgram('pod')!]: '/opt/pod' },
  })
  try {
    cluster.pin(version)
    pinAge(cluster.copy, join(cluster.state, 'downloads'))
    for (const [i, name] of cluster.names.entries())
      await prepare(cluster.machineOf(name).dir, roles[i]!, store, {
        bridge: options.bridge ?? false,
        deploys: i === 0 ? options.deploys : undefined,
      })
  } catch (error) {
    await cluster.end()
    throw error
  }
  const [first] = cluster.names as [string]
  return {
    ...cluster,
    kubectl: (words, input) => cluster.on(first, `/opt/bin/k3s kubectl ${words}`, input),
    async until(what, command, seconds = 120) {
      const begun = Date.now()
      const end = `{ echo "it never became true that ${what}" >&2; false; }`
      await cluster.on(
        first,
        `for i in $(seq ${seconds * 4}); do { ${command}; } > /dev/null 2>&1 && exit 0; sleep 0.25; done; ${end}`,
      )
      return (Date.now() - begun) / 1000
    },
  }
}

/** Puts on a machine what makes a node of it that runs pods: `dir` is the machine's own on this computer. */
async function prepare(
  dir: string,
  role: 'server' | 'agent',
  store: string,
  { bridge, deploys }: { bridge: boolean; deploys: string | undefined },
): Promise<void> {
  const put = (path: string, text: string, mode = 0o600) => {
    const file = join(dir, 'root', path)
    mkdirSync(dirname(file), { recursive: true, mode: 0o755 })
    writeFileSync(file, text)
    chmodSync(file, mode)
  }
  for (const name of ['lab-node', 'runc'])
    put(`/usr/local/sbin/${name}`, readFileSync(join(import.meta.dirname, `${name}.sh`), 'utf8'), 0o755)
  const deploy = '/usr/local/sbin/lab-deploy'
  if (deploys !== undefined)
    put(
      deploy,
      `#!/bin/bash
export HOME=/root
until /opt/bin/k3s kubectl apply --filename=- << 'END'; do sleep 1; done
${deploys}
END
`,
      0o755,
    )
  put(
    '/etc/systemd/system/k3s.service.d/lab.conf',
    `[Service]
${deploys === undefined ? '' : `ExecStartPost=${deploy}\n`}\
Environment=FK_BED_NODE=real
ExecStart=
ExecStart=/usr/local/sbin/lab-node /opt/bin/k3s ${role} --config ${etc}/config.yaml
`,
  )
  put(
    `${etc}/config.yaml.d/30-lab.yaml`,
    stringify({
      'kubelet-arg+': [
        // Where this computer has cgroup v1.
        'fail-cgroupv1=false',
        // How full this computer's disk is says nothing of the node.
        'eviction-hard=nodefs.available<1%,imagefs.available<1%',
        'eviction-minimum-reclaim=',
        'image-gc-high-threshold=100',
      ],
      ...(role === 'server'
        ? {
            // There is one server: its controllers have nobody to wait for when they start again.
            'kube-controller-manager-arg+': ['leader-elect=false'],
            'kube-scheduler-arg+': ['leader-elect=false'],
          }
        : {}),
      ...(bridge && role === 'server'
        ? { 'disable-kube-proxy': false, 'kube-proxy-arg': ['proxy-mode=nftables'] }
        : {}),
    }),
  )
  const agent = join(readFileSync(join(dir, 'state'), 'utf8').trim(), 'rancher/k3s/agent')
  mkdirSync(agent, { recursive: true, mode: 0o755 })
  await copyStore(store, join(agent, 'containerd'))
}

/**
 * Brings a network for pods: a bridge on each of these nodes, with the addresses that its Node has been given, and a route to it on
 * every other one. Services are there on servers alone.
 */
export async function bridge(cluster: PodFleet, names = cluster.names): Promise<void> {
  const subnets = new Map<string, string>()
  for (const name of names) {
    const ask = `get node ${name} --output jsonpath={.spec.podCIDR}`
    await cluster.until(`${name} has addresses for pods`, `/opt/bin/k3s kubectl ${ask} | grep .`)
    subnets.set(name, (await cluster.kubectl(ask)).trim())
  }
  for (const [name, subnet] of subnets) {
    const ipam = { type: 'host-local', ranges: [[{ subnet }]], routes: [{ dst: '0.0.0.0/0' }] }
    const first = { type: 'bridge', bridge: 'cni0', isGateway: true, ipMasq: true, hairpinMode: true, ipam }
    const plugins = [first, { type: 'portmap', capabilities: { portMappings: true } }]
    const routes = [...subnets]
      .filter(([other]) => other !== name)
      .map(([other, to]) => `ip route replace ${to} via ${cluster.machineOf(other).host}`)
    await cluster.on(
      name,
      `install --directory /opt/cni/bin /etc/cni/net.d
ln --symbolic --force --target-directory=/opt/cni/bin /opt/lab/{bridge,host-local,loopback,portmap}
${routes.join('\n')}
cat > /etc/cni/net.d/10-lab.conflist`,
      JSON.stringify({ cniVersion: '1.0.0', name: 'lab', plugins }),
    )
  }
}
