// A node that runs a real control plane as k3s would: test/cluster/bed under the name of k3s, told by the files of config/k3s.
import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import {
  chmodSync,
  copyFileSync,
  cpSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { Agent, request } from 'node:https'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import type { TestContext } from 'node:test'
import { stringify } from 'yaml'
import { type Machine, connect } from '../../lib/engine/machine.ts'
import { which } from '../../lib/ground/laptop.ts'
import { quote } from '../../lib/ground/sh.ts'
import { builtProgram } from '../../lib/lab/lab.ts'
import { type Kit, node, root } from '../machine/kit.ts'
import type { Checkout } from '../machine/laptop.ts'
import { age, noAge } from '../programs.ts'

export const program = builtProgram('kube-bed')

export const etc = '/etc/rancher/k3s'
export const data = '/var/lib/rancher/k3s'
/** What it says that it is. */
export const version = 'v1.36.3+k3s1'

export interface Bed extends Kit {
  /** Runs bash as root on the node; a failure is the test's. Returns what it printed. */
  ok(command: string, input?: string): Promise<string>
  /** Puts files on the node: path → text. They are root's alone. */
  put(files: Record<string, string>): void
  /** Starts k3s anew and waits until it says that it is ready; what it says instead is in `said`. */
  begin(): Promise<{ code: number; said: string }>
  /** What its journal says of this start. */
  journal(): Promise<string>
  kubectl(words: string, input?: string): Promise<Answer>
  /** One request to the API from here, as its admin, as whose certificate is named, or as nobody. */
  ask(method: string, path: string, options?: { body?: object; as?: string | null }): Promise<Reply>
  etcdctl(words: string): Promise<string>
  /** As it lies in etcd, by its key. */
  stored(key: string): Promise<Buffer>
  /** The lines of the audit log, oldest first. */
  audited(): Promise<Audited[]>
  end(): Promise<void>
}

export interface Answer {
  code: number
  stdout: string
  stderr: string
}

export interface Reply {
  status: number
  text: string
  /** Its headers Warning. */
  warnings: string
}

/** One line of the audit log, as far as tests look at it. */
export interface Audited {
  level: string
  stage: string
  verb: string
  requestURI: string
  user: { username: string; groups?: string[] }
  objectRef?: { resource: string; subresource?: string; namespace?: string; name?: string; apiGroup?: string }
  responseStatus?: { code: number }
  requestObject?: unknown
  responseObject?: unknown
}

/** A file of config/k3s, as it is in this checkout. */
export const told = (name: string) => readFileSync(join(root, 'config/k3s', name), 'utf8')

/** A container has the kernel of this computer, and that is not told how to be. */
export const noSysctl = {
  '/etc/systemd/system/k3s.service.d/bed.conf': '[Service]\nEnvironment=FK_BED_NO_SYSCTL=yes\n',
}

/** On a busy computer a leader would be taken for dead. */
export const patience = {
  [`${etc}/config.yaml.d/20-patience.yaml`]: stringify(
    Object.fromEntries(
      ['kube-controller-manager', 'kube-scheduler'].map((part) => [
        `${part}-arg+`,
        ['leader-elect-lease-duration=240s', 'leader-elect-renew-deadline=200s'],
      ]),
    ),
  ),
}

/** The unit of a role, as a file. */
export const unit = (role: 'server' | 'agent') => ({
  '/etc/systemd/system/k3s.service': told('k3s.service').replaceAll('{{ role }}', role),
})

/** What a server is told that is alone, and its two tokens. */
export const alone: Record<string, string> = {
  [`${etc}/config.yaml`]: told('config.yaml'),
  [`${etc}/admission.yaml`]: told('admission.yaml'),
  [`${etc}/audit.yaml`]: told('audit.yaml'),
  [`${etc}/config.yaml.d/10-node.yaml`]: 'cluster-init: true\n',
  [`${etc}/token`]: `${'5e'.repeat(32)}\n`,
  [`${etc}/agent-token`]: `${'a9'.repeat(32)}\n`,
}

/** Bash that waits until the API of a server says that it is ready, and fails when it does not within these seconds. */
export const untilReady = (seconds: number) => `
for second in $(seq ${seconds}); do
  [ "$(/opt/bin/k3s kubectl get --raw /readyz 2> /dev/null)" != ok ] || exit 0
  sleep 1
done
exit 1`

/** Pins in `copy` the age that was built, packed as its makers do, and lays it where a download would be. Needs age here. */
export function pinAge(copy: Checkout, downloads: string): void {
  const dir = mkdtempSync(join(tmpdir(), 'fk-age-'))
  const tarball = join(downloads, 'age-v1.3.2-amd64.tar.gz')
  mkdirSync(join(dir, 'age'))
  mkdirSync(downloads, { recursive: true })
  // Debian's is enough where nothing is encrypted.
  cpSync(noAge === false ? age : which('age')!, join(dir, 'age/age'), { dereference: true })
  execFileSync('tar', ['--create', '--gzip', '--file', tarball, '--directory', dir, 'age'])
  rmSync(dir, { recursive: true })
  copy.pin('age', readFileSync(tarball))
}

/**
 * A node with the program in its place, told `files`, not started yet; `net` gives it a way out. It ends with the test, or by
 * end().
 */
export async function bed(
  t: Pick<TestContext, 'after'> | undefined,
  name: string,
  files: Record<string, string> = alone,
  role: 'server' | 'agent' = 'server',
  options: { net?: boolean } = {},
): Promise<Bed> {
  const kit = await node(t, name, options)
  const at = (path: string) => join(kit.machine.dir, 'root', path)
  const run = (command: string, input?: string) => kit.root(command, input)
  const ok = async (command: string, input?: string) => {
    const { code, stdout, stderr } = await run(command, input)
    assert.equal(code, 0, `${command}: ${stderr}`)
    return stdout
  }
  const put = (files: Record<string, string>) => {
    for (const [path, text] of Object.entries(files)) {
      mkdirSync(dirname(at(path)), { recursive: true, mode: 0o755 })
      writeFileSync(at(path), text, { mode: 0o600 })
    }
  }
  const place = at(`/opt/k3s/${version}/k3s`)
  mkdirSync(dirname(place), { recursive: true })
  copyFileSync(program!, place)
  chmodSync(place, 0o755)
  put({
    ...unit(role),
    ...noSysctl,
    ...files,
  })
  const connection = new Agent({ keepAlive: true, maxSockets: 64 })
  const papers = new Map<string, { cert: string; key: string; ca: string }>()
  const paper = async (base: string) => {
    const found = papers.get(base)
    if (found) return found
    const [cert, key, ca] = await Promise.all(
      [`${base}.crt`, `${base}.key`, `${data}/server/tls/server-ca.crt`].map((file) => ok(`cat ${file}`)),
    )
    const read = { cert: cert!, key: key!, ca: ca! }
    papers.set(base, read)
    return read
  }
  const ask: Bed['ask'] = async (method, path, { body, as = `${data}/server/tls/client-admin` } = {}) => {
    const who = as === null ? { ca: (await paper(`${data}/server/tls/client-admin`)).ca } : await paper(as)
    return new Promise((resolve, reject) => {
      const headers = { 'Content-Type': 'application/json' }
      const to = { host: kit.machine.host, port: 6443, path, method, headers, agent: connection, ...who }
      const sent = request(to, (response) => {
        let text = ''
        response.setEncoding('utf8').on('data', (part: string) => (text += part))
        const warnings = response.headers['warning'] ?? ''
        response.on('end', () => resolve({ status: response.statusCode ?? 0, text, warnings }))
      })
      sent.on('error', reject)
      sent.end(body === undefined ? undefined : JSON.stringify(body))
    })
  }
  await ok(`install --directory /opt/bin && ln --symbolic ../k3s/${version}/k3s /opt/bin/k3s
for name in etcdctl kubectl; do ln --symbolic ../k3s/${version}/k3s /opt/bin/$name; done
install --directory --mode=700 ${data} ${data}/server ${data}/server/logs`)
  const tls = `${data}/server/tls/etcd`
  const etcdctl = (words: string) =>
    ok(
      `/opt/bin/etcdctl --endpoints=https://127.0.0.1:2379 --cacert=${tls}/server-ca.crt \\
         --cert=${tls}/client.crt --key=${tls}/client.key ${words}`,
    )
  return {
    ...kit,
    ok,
    put,
    ask,
    end: async () => {
      connection.destroy()
      await kit.end()
    },
    begin: async () => {
      const { code, stderr } = await run('systemctl daemon-reload && systemctl restart k3s.service')
      const said = code === 0 ? '' : await ok(journal)
      if (code !== 0) await run('systemctl stop k3s.service')
      return { code, said: said || stderr }
    },
    journal: () => ok(journal),
    kubectl: async (words, input) => {
      const { code, stdout, stderr } = await run(`/opt/bin/k3s kubectl ${words}`, input)
      return { code: code ?? -1, stdout, stderr }
    },
    etcdctl,
    stored: async (key) =>
      Buffer.from(await etcdctl(`get ${quote(key)} --print-value-only | base64 --wrap=0`), 'base64'),
    audited: async () =>
      (await ok(`cat ${data}/server/logs/audit.log`))
        .split('\n')
        .filter(Boolean)
        .map((line) => JSON.parse(line) as Audited),
  }
}

const journal = 'journalctl --unit=k3s.service --output=cat --no-pager --lines=400'

/** The node as pages reach the only host of a site, by `name`. */
export const connected = ({ machine, state }: Bed, name: string): Promise<Machine> =>
  connect({
    name,
    target: {
      host: machine.host,
      port: machine.port,
      user: machine.user,
      identityFile: machine.identityFile,
      configFile: '/dev/null',
      knownHostsFile: join(state, 'known_hosts'),
      alias: 'fortress.fortress',
    },
    interactive: false,
    password: async () => machine.password,
  })
