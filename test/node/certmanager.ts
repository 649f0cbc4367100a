// cert-manager for nodes on which pods run, without a registry: its images, of the names that its chart gives them and made of
// test/node/certificates, and the chart itself. And an authority outside with a server of names that takes signed updates.
import { execFileSync } from 'node:child_process'
import { readFileSync, rmSync, mkdtempSync, copyFileSync, chmodSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type LabMachine, builtProgram, labNodeDown, labNodeUp, labRun } from '../../lib/lab/lab.ts'
import { chartOf, pins } from '../component/charts.ts'
import { imageArchive } from './image.ts'
import type { PodFleet } from './kit.ts'
import { type Tunneled, gateway, pinChart, tunneled } from './tunnel.ts'

/** Why there can be no cert-manager here, for a test's `skip`. */
export const withoutCertManager: string | false =
  builtProgram('certificates') === undefined
    ? 'certificates is not built: ./task lab setup'
    : chartOf('cert-manager').missing

const version = pins['cert-manager']!.version

/** Archives of the images of its three programs. */
export const certManagerImages = () =>
  Promise.all(
    ['controller', 'webhook', 'cainjector'].map((name) =>
      imageArchive({
        names: [`quay.io/jetstack/cert-manager-${name}:${version}`],
        layers: [
          {
            files: {
              '/etc/passwd': { text: 'root:x:0:0::/:/\nnonroot:x:1000:1000::/:/\n' },
              [`/${name}`]: { from: join(builtProgram('certificates')!, name) },
              '/tmp': { directory: true, mode: 0o1777 },
            },
          },
        ],
        config: { User: '1000:1000', Entrypoint: [`/${name}`] },
      }),
    ),
  )

/** Has the checkout of a cluster find its chart, packed as its makers pack it: a .tgz of the version that is pinned. */
export function pinCertManager(cluster: PodFleet): void {
  const dir = mkdtempSync(join(tmpdir(), 'fk-chart-'))
  const words = ['--version', version, '--app-version', version, '--destination', dir]
  const said = execFileSync('helm', ['package', chartOf('cert-manager').path, ...words], { encoding: 'utf8' })
  const bytes = readFileSync(/(\/\S+\.tgz)/.exec(said)![1]!)
  rmSync(dir, { recursive: true })
  pinChart(cluster, 'cert-manager', version, bytes)
}

export interface Authority {
  host: string
  /** Where its ACME server is. */
  server: string
  /** The certificate that its ACME server has, and the root of those that it issues. */
  certificate: string
  issuing(): Promise<string>
  /** The key for signed updates, and its name. */
  tsig: { name: string; key: string }
  /** Lines of the log of its server of names. */
  log(): Promise<string>
  end(): Promise<void>
}

/** A machine of the lab with Pebble and a BIND that has this zone. */
export async function authority(name: string, zone: string): Promise<Authority> {
  const machine = await labNodeUp(name, { extra: ['bind9', 'bind9-utils'] })
  const run = async (command: string) => {
    const { code, stdout, stderr } = await labRun(machine, command, { root: true })
    if (code !== 0) throw new Error(`${command}: ${stderr}`)
    return stdout
  }
  try {
    return await begun(name, machine, zone, run)
  } catch (error) {
    await labNodeDown(name)
    throw error
  }
}

async function begun(
  name: string,
  { host, dir }: LabMachine,
  zone: string,
  run: (command: string) => Promise<string>,
): Promise<Authority> {
  const key = execFileSync('openssl', ['rand', '-base64', '32'], { encoding: 'utf8' }).trim()
  const pebble = join(dir, 'root/usr/local/bin/pebble')
  copyFileSync(join(builtProgram('certificates')!, 'pebble'), pebble)
  chmodSync(pebble, 0o755)
  const put = (path: string, text: string) => writeFileSync(join(dir, 'root', path), text)
  put(
    '/etc/bind/named.conf',
    `options { directory "/var/cache/bind"; listen-on { any; }; recursion no; dnssec-validation no; allow-query { any; }; };
logging { channel file { file "/var/cache/bind/log"; print-time yes; }; category update { file; };
  category update-security { file; };
  category security { file; }; };
key "certs" { algorithm hmac-sha256; secret "${key}"; };
zone "${zone}" { type master; file "/var/cache/bind/zone";
  update-policy { grant certs name _acme-challenge.${zone}. TXT; }; };
`,
  )
  put(
    '/etc/pebble.json',
    JSON.stringify({
      pebble: {
        listenAddress: '0.0.0.0:14000',
        managementListenAddress: '0.0.0.0:15000',
        certificate: '/etc/pebble.crt',
        privateKey: '/etc/pebble.key',
        httpPort: 5002,
        tlsPort: 5001,
      },
    }),
  )
  await run(`cat > /var/cache/bind/zone << 'END'
$TTL 5
@ IN SOA ns.${zone}. admin.${zone}. ( 1 60 60 600 5 )
@ IN NS ns.${zone}.
ns IN A ${host}
END
chown bind:bind /var/cache/bind/zone
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 \\
  -subj /CN=pebble -addext 'subjectAltName = IP:${host}' \\
  -keyout /etc/pebble.key -out /etc/pebble.crt 2> /dev/null
systemctl restart named.service
systemd-run --unit=pebble --setenv=PEBBLE_VA_NOSLEEP=1 --setenv=PEBBLE_WFE_NONCEREJECT=0 \\
  /usr/local/bin/pebble -config /etc/pebble.json -dnsserver ${host}:53
for i in $(seq 100); do [ -z "$(ss --listening --tcp --numeric --no-header 'sport = 14000')" ] || exit 0; sleep 0.1; done; journalctl --unit=pebble >&2; exit 1`)
  return {
    host,
    server: `https://${host}:14000/dir`,
    certificate: await run('cat /etc/pebble.crt'),
    issuing: () =>
      run(`exec 3<> /dev/null; openssl s_client -connect ${host}:15000 -quiet 2> /dev/null << 'END' | sed -n '/BEGIN/,/END/p'
GET /roots/0 HTTP/1.0

END
true`),
    tsig: { name: 'certs', key },
    log: () => run('cat /var/cache/bind/log'),
    end: () => labNodeDown(name),
  }
}

/**
 * A server without a network for pods, of a site with two zones: `own` is signed by its own CA, `outer` by an authority outside,
 * for a gateway each. What page 33 fetches is there.
 */
export async function twoAuthorities(
  own: string,
  outer: string,
): Promise<{ cluster: Tunneled; outside: Authority }> {
  const outside = await authority('certs-dns', outer)
  const cluster = await tunneled('certs', ['server'], 71, { images: await certManagerImages() })
  cluster.site((site) => {
    site['router'] = {
      kind: 'host',
      at: 'certs-1',
      allow: [
        { from: 'tunnel', to: 'router', ports: ['tcp/22', 'tcp/6443'], why: 'administration' },
        { from: gateway, to: 'router', ports: ['tcp/22'], why: 'the computer that runs this test' },
        { from: 'router', to: ['internet', 'upstream'], ports: 'any', why: 'images' },
        { from: 'pods', to: outside.host, ports: ['tcp/14000', 'tcp/53', 'udp/53'], why: 'the authority' },
        { from: 'tunnel', to: ['gateway:inside', 'gateway:outside'], ports: ['tcp/443'], why: 'web pages' },
      ],
      never: [],
    }
    const pools = { web: '10.78.250.10-10.78.250.11' }
    site['networks'] = [{ name: 'lan', network: '10.78.0.0/16', pools }]
    site['gateways'] = [
      { name: 'inside', address: '10.78.250.10', audience: ['tunnel'] },
      { name: 'outside', address: '10.78.250.11', audience: ['tunnel'] },
    ]
    // Each with lists of its own: an alias of YAML is refused.
    const zone = () => ({ authority: 'router', writer: 'pages', audience: ['tunnel'] })
    site['names'] = [
      { zone: own, ...zone(), points_at: 'inside', issuer: 'own-ca' },
      { zone: outer, ...zone(), points_at: 'outside', issuer: 'letsencrypt' },
    ]
    site['components'] = {
      ...(site['components'] as object),
      certificates: {
        use: 'cert-manager',
        dns01: 'rfc2136',
        nameserver: `${outside.host}:53`,
        tsig_key: outside.tsig.name,
        resolvers: [`${outside.host}:53`],
        server: outside.server,
        server_ca: outside.certificate,
      },
    }
  })
  pinCertManager(cluster)
  return { cluster, outside }
}
