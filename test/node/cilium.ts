// Cilium for nodes on which pods run, without a registry: the images that its chart names, made of programs and sources of its own Go
// module and of Debian's clang; the chart itself; and the CRDs of Gateway API that this version of it wants.
import { spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import {
  closeSync,
  existsSync,
  mkdirSync,
  openSync,
  readFileSync,
  readdirSync,
  renameSync,
  rmSync,
} from 'node:fs'
import { userInfo } from 'node:os'
import { dirname, join, relative } from 'node:path'
import { done } from '../../lib/lab/command.ts'
import { $ } from '../../lib/ground/laptop.ts'
import { aptSources, fingerprint, prune, use } from '../../lib/lab/image.ts'
import { builtProgram, labDir } from '../../lib/lab/lab.ts'
import { filesBelow, readIf } from '../../lib/lab/place.ts'
import { type Entry, type Image, imageArchive } from './image.ts'

/** Why there can be no Cilium here, for a test's `skip`. */
export const withoutCilium: string | false =
  ['cilium', 'runtime']
    .filter((name) => builtProgram(name) === undefined)
    .map((name) => `${name} is not built: ./task lab setup`)[0] ?? false

/** The directory and the version of a module that Cilium's programs are made of. `lab setup` has fetched it; nothing is fetched here. */
export function moduleOf(path: string): { Dir: string; Version: string } {
  const { status, stdout, stderr } = spawnSync('go', ['list', '-m', '-json', path], {
    cwd: join(import.meta.dirname, '../oracle/cilium'),
    // Tests have an empty home directory; what Go has fetched lies in that of their user.
    env: { ...process.env, HOME: userInfo().homedir, GOTOOLCHAIN: 'auto', GOPROXY: 'off', GOFLAGS: '' },
    encoding: 'utf8',
  })
  const found = status === 0 ? (JSON.parse(stdout) as { Dir?: string; Version: string }) : {}
  if (!('Dir' in found) || !found.Dir)
    throw new Error(`${path} is not in Go's cache: ./task lab setup. ${stderr}`)
  return found as { Dir: string; Version: string }
}
const cilium = () => moduleOf('github.com/cilium/cilium')

const program = (name: string): Entry => ({ from: join(builtProgram('cilium')!, name) })
const passwd = { '/etc/passwd': { text: 'root:x:0:0::/:/\nnonroot:x:65532:65532::/:/\n' } }
const scratch: Entry = { directory: true, mode: 0o1777 }
const PATH = 'PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'

/** Last word of an image's repository → what is in it, as the Dockerfiles in images/ of the module have it. */
const images: Record<string, () => Promise<Omit<Image, 'names'>>> = {
  cilium: async () => ({
    layers: [await base(), { files: agentFiles() }],
    config: {
      Env: [PATH, 'HUBBLE_SERVER=unix:///var/run/cilium/hubble.sock', 'INITSYSTEM=SYSTEMD'],
      WorkingDir: '/home/cilium',
      Cmd: ['/usr/bin/cilium-dbg'],
    },
  }),
  'operator-generic': async () => ({
    layers: [
      {
        files: {
          ...passwd,
          '/usr/bin/cilium-operator-generic': program('operator'),
          '/tmp': scratch,
          '/home/gops': { directory: true, mode: 0o777 },
        },
      },
    ],
    config: { Env: [PATH, 'GOPS_CONFIG_DIR=/home/gops'], WorkingDir: '/' },
  }),
  'hubble-relay': async () => ({
    layers: [{ files: { ...passwd, '/usr/bin/hubble-relay': program('hubble-relay'), '/tmp': scratch } }],
    config: {
      User: '65532:65532',
      Env: [PATH, 'GOPS_CONFIG_DIR=/tmp'],
      WorkingDir: '/tmp',
      Entrypoint: ['/usr/bin/hubble-relay'],
      Cmd: ['serve'],
    },
  }),
  // Two stand-ins of ours, of which the first carries no traffic: test/oracle/cilium/envoy and certgen.
  'cilium-envoy': async () => ({
    layers: [{ files: { ...passwd, '/usr/bin/cilium-envoy-starter': program('envoy') } }],
    config: { Env: [PATH], Entrypoint: ['/usr/bin/cilium-envoy-starter'] },
  }),
  certgen: async () => ({
    layers: [{ files: { ...passwd, '/usr/bin/cilium-certgen': program('certgen') } }],
    config: { User: '65532:65532', Env: [PATH], Entrypoint: ['/usr/bin/cilium-certgen'] },
  }),
}

/**
 * Archives of the images that Cilium's rendered chart asks for, by exactly those names. `wanted` are its image lines, as they are:
 * repository:tag, or repository:tag@sha256:… ; where it pins a digest, that of its makers' image becomes a name of ours.
 */
export function ciliumImages(wanted: string[]): Promise<string[]> {
  return Promise.all(
    [...new Set(wanted)].map(async (reference) => {
      const [, repository = '', name = '', tag = '', digest] =
        /^((?:[^@]*\/)?([^/:@]+)):([^/:@]+)(@sha256:[0-9a-f]{64})?$/.exec(reference) ?? []
      const image = images[name]
      if (image === undefined)
        throw new Error(`no image is made here for ${reference}, only for ${Object.keys(images).join(', ')}`)
      return imageArchive({
        names: [`${repository}:${tag}`, ...(digest ? [`${repository}${digest}`] : [])],
        ...(await image()),
      })
    }),
  )
}

/** What the agent's image has over its base: programs, the sources that it compiles, and the scripts that its chart calls. */
function agentFiles(): Record<string, Entry> {
  const { Dir } = cilium()
  const sources = filesBelow(join(Dir, 'bpf')).filter((file) => !/\/bpf\/(complexity-)?tests\//.test(file))
  return {
    '/usr/bin/cilium-agent': program('daemon'),
    '/usr/bin/cilium-dbg': program('cilium-dbg'),
    '/usr/bin/cilium': { link: 'cilium-dbg' },
    '/usr/bin/cilium-health': program('cilium-health'),
    '/usr/bin/cilium-health-responder': program('responder'),
    '/usr/bin/cilium-mount': program('mount'),
    '/usr/bin/cilium-sysctlfix': program('sysctlfix'),
    '/usr/bin/hubble': program('hubble'),
    '/usr/bin/clang': { link: 'clang-19' },
    '/opt/cni/bin/cilium-cni': program('cilium-cni'),
    '/cni/loopback': { from: join(builtProgram('runtime')!, 'loopback') },
    '/home/cilium': { directory: true },
    ...Object.fromEntries(
      [
        'images/cilium/init-container.sh',
        'plugins/cilium-cni/install-plugin.sh',
        'plugins/cilium-cni/cni-uninstall.sh',
      ].map((file) => [`/${file.split('/').at(-1)}`, { from: join(Dir, file) }]),
    ),
    ...Object.fromEntries(
      sources.map((file) => [`/var/lib/cilium/${relative(Dir, file)}`, { from: file, mode: 0o644 }]),
    ),
  }
}

/** The programs of Debian that the agent runs (ciliumbase.sh), made when there are none of these ingredients. Needs root. */
async function base() {
  const script = join(import.meta.dirname, 'ciliumbase.sh')
  const key = fingerprint([readFileSync(script, 'utf8'), aptSources()])
  const tree = join(labDir(), 'cilium', key)
  if (!existsSync(tree)) {
    mkdirSync(dirname(tree), { recursive: true })
    const log = `${tree}.log`
    const output = openSync(log, 'w')
    const env = { LAB_SOURCES: aptSources(), DEBIAN_FRONTEND: 'noninteractive', LC_ALL: 'C.UTF-8' }
    const build = $({
      env,
      stdio: ['ignore', 'pipe', output],
    })`flock ${tree}.lock unshare --mount --pid --fork --kill-child bash ${script} ${tree}`
    closeSync(output)
    await done(build, { said: () => readIf(log), seconds: 1800 })
    rmSync(log)
    await prune(tree, {})
  }
  return { tree: use(tree), key }
}

/**
 * The one line of values that differs on nodes of the lab: the kernel that they share has no WireGuard. Rendered, it takes
 * enable-wireguard and wireguard-persistent-keepalive out of the agent's ConfigMap; its strict mode does nothing without them.
 */
export const ciliumOverlay = { encryption: { enabled: false } }

/** Programs of Cilium in the kernel, which all nodes of the lab share. */
export async function programsLoaded(): Promise<string[]> {
  const { tree } = await base()
  const { status, stdout, stderr } = spawnSync('chroot', [tree, 'bpftool', 'prog', 'show'], {
    encoding: 'utf8',
  })
  if (status !== 0) throw new Error(`bpftool: ${stderr}`)
  return stdout.split('\n').filter((line) => / name cil_/.test(line))
}

/** Cilium's chart as its makers publish it, a .tgz; the same bytes on every computer. `digest` is its sha256. */
export function ciliumChart(): { file: string; version: string; digest: string } {
  const { Dir, Version } = cilium()
  const version = Version.slice(1)
  const file = join(labDir(), 'charts', `cilium-${version}.tgz`)
  if (!existsSync(file)) {
    mkdirSync(dirname(file), { recursive: true })
    const part = `${file}.${process.pid}`
    const how = [
      '--sort=name',
      '--mtime=@0',
      '--owner=0',
      '--group=0',
      '--numeric-owner',
      '--mode=u=rwX,go=rX',
    ]
    const words = ['--create', ...how, '--use-compress-program=gzip --no-name', `--file=${part}`]
    const { status, stderr } = spawnSync('tar', [
      ...words,
      `--directory=${join(Dir, 'install/kubernetes')}`,
      'cilium',
    ])
    if (status !== 0) throw new Error(`tar: ${String(stderr)}`)
    renameSync(part, file)
  }
  return { file, version, digest: createHash('sha256').update(readFileSync(file)).digest('hex') }
}

/**
 * The definitions of Gateway API of the version that this Cilium is compiled with, as their makers publish them: the standard
 * channel, put together as hack/build-install-yaml.sh of the module does. The pin's digest proves that it is the same file.
 */
export function gatewayCrds(): { text: string; version: string } {
  const { Dir, Version } = moduleOf('sigs.k8s.io/gateway-api')
  const own = (file: string) => readFileSync(join(Dir, file), 'utf8')
  const licence = own('hack/boilerplate/boilerplate.sh.txt').replaceAll('YEAR', '2026')
  const files = readdirSync(join(Dir, 'config/crd/standard')).filter((file) => /^gateway.*\.yaml$/.test(file))
  const parts = files
    .map((file) => `config/crd/standard/${file}`)
    .sort()
    .map((file) => `---\n#\n# ${file}\n#\n${own(file)}`)
  return {
    text: `${licence}#\n# Gateway API Standard channel install\n#\n${parts.join('')}`,
    version: Version,
  }
}
