// Several machines of the lab as one site: every one is host and node, and a checkout of ours is the laptop that builds them.
import { spawn } from 'node:child_process'
import { chmodSync, cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parse, stringify } from 'yaml'
import {
  type LabMachine,
  type LabOptions,
  type NodeOptions,
  labNodeDown,
  labNodeUp,
  labRun,
} from '../../lib/lab/lab.ts'
import { type Kit, type Said, root, said } from './kit.ts'
import { type Checkout, checkout } from './laptop.ts'

export interface Fleet {
  copy: Checkout
  /** The directory of the laptop's own state. */
  state: string
  env: Record<string, string>
  names: string[]
  machineOf(name: string): LabMachine
  /** Runs a page of the checkout, as an admin would. */
  page(name: string, ...words: string[]): Promise<Said>
  /** `./task …` of the checkout. */
  task(...words: string[]): Promise<Said>
  /** One machine, as the helpers of printed pages know one. */
  kitOf(name: string): Pick<Kit, 'machine' | 'state' | 'root' | 'page'>
  /** Runs bash as root on a machine; fails when it does. */
  on(name: string, command: string, input?: string): Promise<string>
  /** Pins another version of k3s. */
  pin(version: string): void
  /** Changes the site document. */
  site(change: (site: Record<string, unknown>) => void): void
  end(): Promise<void>
}

/**
 * Machines `prefix`-1, `prefix`-2, …: `roles` says of each what it is, in the order of the site document. `programOf` is what the
 * makers of k3s publish as a version; `net` gives them a way out. `laptop` is the network namespace that pages are started in, and
 * the address of this computer that it reaches.
 */
export async function fleet(
  prefix: string,
  roles: ('server' | 'agent')[],
  programOf: (version: string) => string | Buffer,
  options: LabOptions & NodeOptions & { laptop?: { namespace: string; gateway: string } } = {},
): Promise<Fleet> {
  const { namespace, gateway } = options.laptop ?? { gateway: '127.0.0.1' }
  const names = roles.map((_, i) => `${prefix}-${i + 1}`)
  const machines: LabMachine[] = []
  for (const name of names) machines.push(await labNodeUp(name, options))
  const copy = checkout()
  for (const part of ['bin', 'Taskfile.ts', 'task'])
    cpSync(join(root, part), join(copy.dir, part), { recursive: true })

  const http = createServer((request, response) => {
    const [, version] = /\/download\/([^/]+)\/k3s$/.exec(decodeURIComponent(request.url ?? '')) ?? []
    if (version === undefined) response.writeHead(404).end()
    else response.end(programOf(version))
  })
  await new Promise<void>((resolve) => http.listen(0, gateway, resolve))

  const state = mkdtempSync(join(tmpdir(), 'fk-test-'))
  chmodSync(state, 0o700)
  const file = join(copy.dir, 'config/sites/fortress-pi.yaml')
  const site: Fleet['site'] = (change) => {
    const site = parse(readFileSync(file, 'utf8')) as Record<string, unknown>
    change(site)
    writeFileSync(file, stringify(site))
  }
  site((told) => {
    // Machines of the lab have a network each, so no address can move between them.
    if (roles.filter((role) => role === 'server').length > 1)
      told['accepted'] = [{ what: 'api', why: 'the lab has no address that moves', until: '2099-12-31' }]
    told['machines'] = names.map((name, i) => ({
      name,
      roles: ['host', roles[i]],
      os: 'debian-13',
      arch: 'amd64',
      address: machines[i]!.host,
      // Where tunnel.at is, tunnel.address says it.
      ...(i === 0 ? {} : { tunnel_address: `10.66.0.${11 + i}` }),
    }))
  })
  writeFileSync(
    join(state, 'known_hosts'),
    machines
      .flatMap((machine) =>
        readFileSync(machine.knownHostsFile, 'utf8')
          .split('\n')
          .filter(Boolean)
          .map((line) => `fortress-pi.${machine.name} ${line.split(' ').slice(1).join(' ')}\n`),
      )
      .join(''),
  )
  const [first] = machines as [LabMachine]
  writeFileSync(join(state, 'sudo'), `${first.password}\n`, { mode: 0o600 })
  const env: Record<string, string> = {
    FK_SITE: 'fortress-pi',
    FK_HOST: `admin@${first.host}`,
    FK_SSH_KEY: first.identityFile,
    FK_SSH_CONFIG: '/dev/null',
    FK_KNOWN_HOSTS: join(state, 'known_hosts'),
    FK_STATE_DIR: state,
    FK_AGE_IDENTITY: join(state, 'identity.txt'),
    FK_SUDO_PASSWORD_FILE: join(state, 'sudo'),
    FK_LOG_DIR: join(state, 'log'),
    FK_DOWNLOAD_DIR: join(state, 'downloads'),
    FK_MIRROR: `http://${gateway}:${(http.address() as { port: number }).port}`,
    FK_LOCK_WAIT_SECONDS: '60',
  }
  const clean = Object.fromEntries(
    Object.entries(process.env).filter(([name]) => !/^FK_(?!ENV_FILE)/.test(name) && name !== 'NODE_OPTIONS'),
  )
  const node = process.execPath
  const words = namespace === undefined ? [] : ['netns', 'exec', namespace, node]
  const start = (...more: string[]) =>
    said(
      spawn(namespace === undefined ? node : 'ip', [...words, ...more], {
        cwd: copy.dir,
        env: { ...clean, ...env },
        stdio: ['ignore', 'pipe', 'pipe'],
      }),
    )
  const machineOf = (name: string) => machines[names.indexOf(name)]!

  const page: Fleet['page'] = (name, ...words) => start('--import', 'tsx', copy.page(name), ...words)
  const run = (name: string, command: string, input?: string) =>
    labRun(machineOf(name), command, { root: true, ...(input === undefined ? {} : { input }) })
  return {
    copy,
    state,
    env,
    names,
    machineOf,
    page,
    kitOf: (name) => ({
      machine: machineOf(name),
      state,
      root: (command, input) => run(name, command, input),
      page,
    }),
    task: (...words) => start(join(copy.dir, 'bin/task.cjs'), ...words),
    async on(name, command, input) {
      const { code, stdout, stderr } = await run(name, command, input)
      if (code !== 0) throw new Error(`${name}: ${command}: ${stderr}`)
      return stdout
    },
    pin: (version) => copy.pin('k3s', programOf(version), version),
    site,
    async end() {
      http.close()
      http.closeAllConnections()
      for (const name of names) await labNodeDown(name)
      copy.end()
      rmSync(state, { recursive: true, force: true })
    },
  }
}
