// A fresh machine for a test, and the pages run on it as an admin would: another process, a command line, an exit code.
import { type ChildProcess, spawn } from 'node:child_process'
import { chmodSync, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import type { TestContext } from 'node:test'
import { contextOf } from '../../lib/cli/context.ts'
import { type Machine, connect } from '../../lib/engine/machine.ts'
import type { Context } from '../../lib/engine/page.ts'
import type { Program } from '../../lib/engine/program.ts'
import { createReport } from '../../lib/engine/report.ts'
import type { Running } from '../../lib/engine/run.ts'
import { secretStore } from '../../lib/ground/secret.ts'
import { type LabMachine, type LabResult, labNodeDown, labNodeUp, labRun } from '../../lib/lab/lab.ts'
import { loadConfig } from '../../lib/site/config.ts'

export const root = join(import.meta.dirname, '../..')

/** Where a person stands who runs a page: in its checkout, in the folder that it was taken to, or in this repository. */
export const folderOf = (page: string): string => {
  const dir = dirname(dirname(page))
  return existsSync(join(dir, 'package.json')) ? dir : root
}

export interface Said {
  code: number
  /** Standard output and standard error, as they came. */
  text: string
}

export interface Kit {
  machine: LabMachine
  /** The variables that make this machine FK_HOST. */
  env: Record<string, string>
  state: string
  /** Runs a page's file with words behind it. */
  page(file: string, ...words: string[]): Promise<Said>
  start(file: string, ...words: string[]): ChildProcess
  /** Runs bash as root on the machine, by a connection of the test's own. */
  root(command: string, input?: string): Promise<LabResult>
  /** Everything that undo promises to bring back, as text. */
  digest(): Promise<string>
}

/** A node that ends with the test (or the suite that made it). */
export async function node(
  t: Pick<TestContext, 'after'> | undefined,
  name: string,
  options: { net?: boolean } = {},
): Promise<Kit & { end(): Promise<void> }> {
  const machine = await labNodeUp(name, options)
  const kit = around(machine)
  const end = async () => {
    await labNodeDown(name)
    rmSync(kit.state, { recursive: true, force: true })
  }
  t?.after(end)
  return { ...kit, end }
}

/** The same for a machine of the lab that is up already. `more` are variables of the test's own. */
export function around(machine: LabMachine, more: Record<string, string> = {}): Kit {
  const state = mkdtempSync(join(tmpdir(), 'fk-test-'))
  chmodSync(state, 0o700)
  const keys = readFileSync(machine.knownHostsFile, 'utf8')
    .split('\n')
    .filter(Boolean)
    .map((line) => `fortress.fortress ${line.split(' ').slice(1).join(' ')}`)
  writeFileSync(join(state, 'known_hosts'), `${keys.join('\n')}\n`)
  writeFileSync(join(state, 'sudo'), `${machine.password}\n`, { mode: 0o600 })
  const env: Record<string, string> = {
    FK_HOST: `admin@${machine.host}:${machine.port}`,
    FK_SSH_KEY: machine.identityFile,
    FK_STATE_DIR: state,
    FK_AGE_IDENTITY: join(state, 'identity.txt'),
    FK_SUDO_PASSWORD_FILE: join(state, 'sudo'),
    FK_LOG_DIR: join(state, 'log'),
    FK_LOCK_WAIT_SECONDS: '20',
    FK_ENV_FILE: '/dev/null',
    ...more,
  }
  const start = (file: string, ...words: string[]) =>
    spawn(process.execPath, ['--import', 'tsx', file, ...words], {
      cwd: folderOf(file),
      env: { ...clean(), ...env },
      stdio: ['ignore', 'pipe', 'pipe'],
    })
  const remote = (command: string, input?: string) =>
    labRun(machine, command, { root: true, ...(input === undefined ? {} : { input }) })
  return {
    machine,
    env,
    state,
    start,
    page: (file, ...words) => said(start(file, ...words)),
    root: remote,
    digest: async () => {
      const { stdout, code, stderr } = await remote('bash -s', digest)
      if (code !== 0) throw new Error(`digest: ${stderr}`)
      return stdout
    },
  }
}

/** Bash that prints each running service with the number of this start of it. What starts by itself is left out. */
export const services = `systemctl show --property=Id,InvocationID $(
    systemctl list-units --type=service --state=active --plain --no-legend | cut -d" " -f1 |
      grep -v -E "session|user|fortress-tunnel|systemd-hostnamed|apt|man-db|dpkg|logrotate|sysstat")`

/** What a process says until it ends. */
export async function said(child: ChildProcess): Promise<Said> {
  let text = ''
  child.stdout?.setEncoding('utf8').on('data', (d: string) => (text += d))
  child.stderr?.setEncoding('utf8').on('data', (d: string) => (text += d))
  const code = await new Promise<number>((resolve, reject) =>
    child.on('error', reject).on('close', (c) => resolve(c ?? -1)),
  )
  return { code, text }
}

/** The controls that do not hold, or could not be asked, in what a page says with --json. */
export const failedControls = (text: string): string[] =>
  text
    .split('\n')
    .filter((line) => line.startsWith('{'))
    .map((line) => JSON.parse(line) as { event: string; id?: string; state?: string })
    .filter(({ event, state }) => event === 'control' && (state === 'failed' || state === 'unknown'))
    .map(({ id = '' }) => id)

function clean(): Record<string, string | undefined> {
  return Object.fromEntries(
    Object.entries(process.env).filter(([name]) => !/^FK_(?!ENV_FILE)/.test(name) && name !== 'NODE_OPTIONS'),
  )
}

/**
 * /etc to the byte (without times), enablement and activity of units, sysctls, nft tables, packages. What moves by itself is left
 * out.
 */
const digest = `
export LC_ALL=C
find /etc -xdev -type f -printf '%p %m %U:%G\\n' | sort
find /etc -xdev -type f -print0 | sort --zero-terminated | xargs --null sha256sum
find /etc -xdev ! -type f -printf '%p %y %m %U:%G %l\\n' | sort
systemctl list-unit-files --no-legend --no-pager | awk '$2 != "transient" { print "unit file", $1, $2 }'
systemctl list-units --all --plain --no-legend --no-pager --type=service,socket,timer | awk '{ print "unit", $1, $3 }' |
  grep -v -E ' (session-|user|systemd-(tmpfiles|timedated|hostnamed|localed)|apt-|dpkg-|fortress-deadman|run-)' | sort
sysctl --all 2> /dev/null |
  grep -v -E 'random|quota|dentry|inode|file-nr|ns_last_pid|conntrack_count|kernel.pty.nr|max_newidle' |
  grep -v -E 'aio-nr|sched_domain|cad_pid|perf_event_max_sample_rate' | sort
nft list ruleset 2> /dev/null || true
dpkg-query --show --showformat='package \${Package} \${db:Status-Abbrev}\\n' | grep -v ' rc' | sort
`

/** The lines in which two digests differ: `-` only in the first, `+` only in the second. */
export function differences(a: string, b: string): string[] {
  const [left, right] = [new Set(a.split('\n')), new Set(b.split('\n'))]
  return [
    ...[...left].filter((l) => !right.has(l)).map((l) => `- ${l}`),
    ...[...right].filter((l) => !left.has(l)).map((l) => `+ ${l}`),
  ]
}

/**
 * A connection of the test's own to the machine, for tests that stand between the laptop and the machine: at another `port`, for
 * another `config`.
 */
export async function open(
  kit: Kit,
  { port = kit.machine.port, config = loadConfig({ env: kit.env }) } = {},
): Promise<Opened> {
  const spec = config.site.machines[0]
  if (!spec) throw new Error('the site has no machine')
  const store = secretStore({
    dir: join(kit.state, config.site.name),
    identity: join(kit.state, 'identity.txt'),
  })
  const machine = await connect({
    name: spec.name,
    target: {
      host: kit.machine.host,
      port,
      user: kit.machine.user,
      identityFile: kit.machine.identityFile,
      configFile: '/dev/null',
      knownHostsFile: join(kit.state, 'known_hosts'),
      alias: 'fortress.fortress',
    },
    interactive: false,
    password: async () => kit.machine.password,
  })
  const lines: string[] = []
  const report = createReport({
    stdout: { write: (text: string) => lines.push(text) },
    tty: false,
    color: false,
  })
  return {
    machine,
    lines,
    context: contextOf(config, machine.facts, store),
    running: { machine, report, store, rollbackAfter: 60, lockWait: 20 },
  }
}

export interface Opened {
  machine: Machine
  lines: string[]
  context: Context
  running: Running
}

/**
 * The machine, on which a program kills itself at the first boundary that is not below `from`: before step n (100 n), before
 * each of its commands, and behind the last of them (100 n + 99).
 */
export function deadly(
  machine: Machine,
  from: number,
  grain: 'steps' | 'commands',
  killed: (at: number) => void,
): Machine {
  // The end of a step is the beginning of the next one.
  const kill = (at: number) =>
    grain === 'steps' && at % 100 !== 99
      ? ':'
      : `[ ${at} -lt ${from} ] || { answer killed at ${at}; kill -KILL $$; }`
  const stab = (program: Program): Program => ({
    ...program,
    text: program.text
      .replaceAll(
        /^fk_(?:change|demand|wait) (\d+) /gm,
        (call, n: string) => `${kill(100 * Number(n))}\n${call}`,
      )
      .replaceAll(
        /^fk_do (\d+) (\d+) /gm,
        (call, n: string, j: string) => `${kill(100 * Number(n) + 1 + Number(j))}\n${call}`,
      )
      .replaceAll(
        /\n\}\nfk_recover_(\d+)\(\)/g,
        (tail, n: string) => `\n${kill(100 * Number(n) + 99)}${tail}`,
      ),
  })
  return {
    ...machine,
    label: machine.label,
    route: machine.route,
    run: (program, onFrame, seconds) =>
      machine.run(
        stab(program),
        (frame) =>
          frame.kind === 'answer' && frame.name === 'killed'
            ? killed(Number(frame.values['at']))
            : onFrame(frame),
        seconds,
      ),
  }
}
