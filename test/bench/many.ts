// How much longer eight hosts take than one: our plan of page 00 beside Ansible and pyinfra, all given the same work.
//
//   apt-get install ansible; python3 -m venv /opt/pyinfra && /opt/pyinfra/bin/pip install pyinfra
//   PYINFRA=/opt/pyinfra/bin/pyinfra node --import tsx test/bench/many.ts [ROUNDS] [OTHERS]          as root
//
// The hosts are containers that share this computer's cores with us: the more of them, the less each gets. Without and with 20 ms
// of round-trip time. Ansible (forks 8, pipelining) and pyinfra (parallel 8) look at the requirements of config/host/controls.yaml.
// Each round runs every command once, so that a busy moment falls on all of them; the median of the rounds counts. Ansible takes
// minutes: it and pyinfra are in the first OTHERS rounds only (default: 1; with 0 neither is needed, and need not be installed).
//
// The lines "own" are what somebody with eight machines sees: there the hosts have processors of their own (own.ts).
//
// Seconds depend on what else runs here (the load is said); seconds of processors, ours and those of the hosts, much less.
import { spawnSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { loadavg, tmpdir } from 'node:os'
import { join } from 'node:path'
import { parse, stringify } from 'yaml'
import { type Fleet, fleet } from '../machine/fleet.ts'
import { ownProcessors } from './own.ts'
import { type Time, type Work, delayed, median, playbook, timed } from './kit.ts'

const MANY = 8

/** Round-trip time in ms, whose processors, and how many times as long as one host our plan of eight may take. */
interface Line {
  rtt: number
  own: boolean
  bar: number
}

const LINES: Line[] = [
  { rtt: 0, own: false, bar: 3.5 },
  { rtt: 20, own: false, bar: 2 },
  { rtt: 0, own: true, bar: 2 },
  { rtt: 20, own: true, bar: 2 },
]

/** A place where a machine answers, `rtt` later. */
interface Far {
  name: string
  host: string
  port: number
  close: () => void
}

async function placesOf({ names, machineOf }: Fleet, rtt: number): Promise<Far[]> {
  const all: Far[] = []
  for (const name of names) {
    const { host, port } = machineOf(name)
    if (rtt === 0) all.push({ name, host, port, close: () => {} })
    else all.push({ name, host: '127.0.0.1', ...(await delayed(host, port, rtt / 2)) })
  }
  return all
}

/** Writes a site of these machines, at the places where they answer. A site each, so that none is checked anew in a round. */
function siteOf(many: Fleet, name: string, far: Far[]): void {
  const sites = join(many.copy.dir, 'config/sites')
  const site = parse(readFileSync(join(sites, 'fortress-pi.yaml'), 'utf8')) as { machines: object[] }
  const machines = far.map(({ host, port }, i) => ({ ...site.machines[i], address: host, ssh_port: port }))
  // Seven agents are of no more use than their one server.
  const accepted = far.length === 1 ? [] : [{ what: far[0]?.name, why: 'a bench', until: '2099-12-31' }]
  writeFileSync(join(sites, `${name}.yaml`), stringify({ ...site, name, accepted, machines }))
}

/** The same machines for Ansible and for pyinfra. */
function inventories(
  dir: string,
  many: Fleet,
  site: string,
  far: Far[],
): { ansible: string; pyinfra: string } {
  const { identityFile, password } = many.machineOf(far[0]!.name)
  const ansible = join(dir, `${site}.hosts`)
  const lines = far.map(({ name, host, port }) =>
    [
      `${name} ansible_host=${host} ansible_port=${port} ansible_user=admin`,
      `ansible_ssh_private_key_file=${identityFile} ansible_become_password=${password}`,
      `ansible_ssh_common_args='-o HostKeyAlias=${name} -o UserKnownHostsFile=${dir}/known_hosts'`,
    ].join(' '),
  )
  writeFileSync(ansible, `${lines.join('\n')}\n`, { mode: 0o600 })
  const pyinfra = join(dir, `${site.replace('-', '_')}.py`)
  const hosts = far.map(({ name, host, port }) => [
    name,
    {
      ssh_hostname: host,
      ssh_port: port,
      ssh_user: 'admin',
      ssh_key: identityFile,
      ssh_strict_host_key_checking: 'off',
      _sudo: true,
      _sudo_password: password,
    },
  ])
  const tuples = hosts.map(
    ([name, data]) => `(${JSON.stringify(name)}, json.loads(${JSON.stringify(JSON.stringify(data))}))`,
  )
  writeFileSync(pyinfra, `import json\nhosts = [${tuples.join(', ')}]\n`, { mode: 0o600 })
  return { ansible, pyinfra }
}

/** The tasks of the playbook, by what pyinfra has for them. */
function deploy(): string {
  const [play] = playbook() as { tasks: Record<string, Record<string, unknown>>[] }[]
  const lines = play!.tasks.map((task) => {
    const sysctl = task['ansible.posix.sysctl']
    const module = task['community.general.kernel_blacklist']
    const line = task['ansible.builtin.lineinfile']
    const stat = task['ansible.builtin.stat']
    const text = (value: unknown) => JSON.stringify(String(value))
    if (sysctl) return `server.sysctl(key=${text(sysctl['name'])}, value=${text(sysctl['value'])})`
    if (module) return `server.modprobe(module=${text(module['name'])}, present=False)`
    if (line)
      return `files.line(path=${text(line['path'])}, line=${text(String(line['regexp']).replace('^#?', '#?'))}, replace=${text(line['line'])})`
    return `host.get_fact(File, path=${text(stat!['path'])})`
  })
  return [
    'from pyinfra import host',
    'from pyinfra.facts.files import File',
    'from pyinfra.operations import files, server',
    ...lines,
    '',
  ].join('\n')
}

/** What is measured on a site of these machines, by who does it. */
function ways(dir: string, many: Fleet, site: string, far: Far[]): Record<string, Work> {
  const { ansible, pyinfra } = inventories(dir, many, site, far)
  const others = Object.entries(process.env).filter(([name]) => !/^FK_|^NODE_OPTIONS$/.test(name))
  const env = { ...Object.fromEntries(others), NO_COLOR: '1', ANSIBLE_CONFIG: join(dir, 'ansible.cfg') }
  const times = far.length
  return {
    ours: {
      words: [process.execPath, join(many.copy.dir, 'bin/task.cjs'), 'host-harden', 'plan'],
      env: { ...env, ...many.env, FK_SITE: site },
      code: 2,
      says: { pattern: /^00-host-harden: \d+ steps hold, /gm, times },
    },
    Ansible: {
      words: ['ansible-playbook', '--check', '--inventory', ansible, join(dir, 'play.yml')],
      env,
      says: { pattern: / unreachable=0 +failed=0 /g, times },
    },
    pyinfra: {
      // With --yes it would not look at what is to be changed.
      words: [PYINFRA, '--dry', '--parallel', String(MANY), pyinfra, join(dir, 'deploy.py')],
      env,
      says: { pattern: /^ +\[bench-\d\] Ready|^--> Detected changes:/gm, times: times + 1 },
    },
  }
}

const PYINFRA = process.env['PYINFRA'] ?? 'pyinfra'

/** Throws with everything that is missing here. */
function assertTools({ others }: Rounds): void {
  const missing = [
    process.getuid?.() === 0 ? '' : 'it has to be root, who alone starts containers',
    others === 0 || spawnSync('ansible-playbook', ['--version']).status === 0
      ? ''
      : 'ansible-playbook: apt-get install ansible',
    others === 0 || spawnSync(PYINFRA, ['--version']).status === 0
      ? ''
      : `${PYINFRA}: python3 -m venv DIR && DIR/bin/pip install pyinfra, and PYINFRA=DIR/bin/pyinfra`,
  ].filter(Boolean)
  if (missing.length > 0) throw new Error(`This bench lacks\n  ${missing.join('\n  ')}`)
}

/** Seconds by who took them, for one host and for many. Each round runs all of them; the first one only warms up. */
async function measure(
  dir: string,
  many: Fleet,
  { rtt, own }: Line,
  { rounds, others }: Rounds,
): Promise<Took> {
  const far = await placesOf(many, rtt)
  const sizes = [1, MANY].map((n) => {
    const some = far.slice(0, n)
    siteOf(many, `bench-${n}-${rtt}`, some)
    return ways(dir, many, `bench-${n}-${rtt}`, some)
  })
  const took = new Map<string, [one: Figure[], eight: Figure[]]>()
  const once = async (name: string, work: Work, i: number, round: number): Promise<void> => {
    const before = hostsCpu(many)
    const { seconds, cpu } = await timed(work)
    const time = { seconds, cpu, hosts: hostsCpu(many) - before }
    process.stderr.write(
      `${own ? 'own ' : ''}${rtt} ms, ${i === 0 ? 1 : MANY} hosts, ${name}: ${line(time)}\n`,
    )
    const all = took.get(name) ?? [[], []]
    if (round >= 0) all[i]?.push(time)
    took.set(name, all)
  }
  try {
    for (let round = -1; round < rounds; round++)
      for (const [i, works] of sizes.entries())
        for (const [name, work] of Object.entries(works))
          if (name === 'ours' || (!own && round >= 0 && round < others)) await once(name, work, i, round)
  } finally {
    for (const { close } of far) close()
  }
  return new Map([...took].map(([name, [one, eight]]) => [name, { one: middle(one), eight: middle(eight) }]))
}

/** What a command took: here, and on the hosts together. */
interface Figure extends Time {
  hosts: number
}

const middle = (all: Figure[]): Figure => ({
  seconds: median(all.map((f) => f.seconds)),
  cpu: median(all.map((f) => f.cpu)),
  hosts: median(all.map((f) => f.hosts)),
})

const line = ({ seconds, cpu, hosts }: Figure) =>
  `${seconds.toFixed(2)} s, processors ${cpu.toFixed(2)} s here and ${hosts.toFixed(2)} s on the hosts`

/** The seconds of processors that the nodes have taken since their start: each is a control group of its own. */
function hostsCpu({ names }: Fleet): number {
  const { stdout } = spawnSync('findmnt', ['--noheadings', '--types', 'cgroup2', '--output', 'TARGET'], {
    encoding: 'utf8',
  })
  const top = stdout.split('\n')[0] ?? ''
  return names
    .map((name) => readFileSync(join(top, `fk-${name}`, 'cpu.stat'), 'utf8'))
    .map((text) => Number(/^usage_usec (\d+)$/m.exec(text)?.[1]) / 1e6)
    .reduce((a, b) => a + b, 0)
}

/** In how many rounds we are measured, and in how many of them the others are, too. */
interface Rounds {
  rounds: number
  others: number
}

type Took = Map<string, { one: Figure; eight: Figure }>

/** The host keys under the names that the sites, Ansible and pyinfra have for the machines. */
function pinKeys(dir: string, many: Fleet): void {
  const file = many.env['FK_KNOWN_HOSTS'] as string
  const known = readFileSync(file, 'utf8')
  const under = (prefix: string) => known.replaceAll('fortress-pi.', prefix)
  const sites = [0, 20].flatMap((rtt) => [1, MANY].map((n) => `bench-${n}-${rtt}`))
  writeFileSync(file, sites.map((site) => under(`${site}.`)).join(''))
  writeFileSync(join(dir, 'known_hosts'), under(''))
}

/** From here on the hosts have processors of their own. */
async function separate(dir: string, many: Fleet): Promise<void> {
  const far = (await placesOf(many, 0)).slice(0, 1)
  siteOf(many, 'bench-1-0', far)
  const { ours } = ways(dir, many, 'bench-1-0', far)
  const took = await ownProcessors(many, async () => void (await timed(ours as Work)))
  process.stdout.write(`\nhosts with processors of their own, whose answers took (s): ${took}\n`)
}

/** Prints the rows of a line; returns whether ours is within its bar. */
function show({ rtt, own, bar }: Line, took: Took): boolean {
  const ours = took.get('ours')
  const processors = ({ cpu, hosts }: Figure) => `${cpu.toFixed(2)} + ${hosts.toFixed(2)}`.padStart(15)
  for (const [name, { one, eight }] of took)
    process.stdout.write(
      `${String(rtt).padStart(6)}  ${(own ? 'ours, own' : name).padEnd(9)} ${one.seconds.toFixed(2).padStart(6)}  ` +
        `${eight.seconds.toFixed(2).padStart(7)}  ${(eight.seconds / one.seconds).toFixed(2).padStart(5)}  ` +
        `${`${(eight.seconds / (ours?.eight.seconds ?? Number.NaN)).toFixed(1)} x`.padStart(11)}  ` +
        `${processors(one).padStart(19)}${processors(eight)}\n`,
    )
  const ratio = (ours?.eight.seconds ?? Number.NaN) / (ours?.one.seconds ?? Number.NaN)
  process.stdout.write(
    `${ratio <= bar ? 'within' : 'ABOVE '} the bar of ${bar}; load ${loadavg()[0]?.toFixed(1)}\n`,
  )
  return ratio <= bar
}

async function main(): Promise<void> {
  const counts = { rounds: Number(process.argv[2] ?? 5), others: Number(process.argv[3] ?? 1) }
  assertTools(counts)
  const roles = Array.from({ length: MANY }, (_, i) => (i === 0 ? ('server' as const) : ('agent' as const)))
  const many = await fleet('bench', roles, () => '', { extra: ['python3', 'python3-apt'] })
  const dir = mkdtempSync(join(tmpdir(), 'fk-bench-'))
  let within = true
  try {
    pinKeys(dir, many)
    writeFileSync(join(dir, 'play.yml'), stringify(playbook(), { version: '1.1' }))
    writeFileSync(
      join(dir, 'ansible.cfg'),
      `[defaults]\nforks = ${MANY}\n[ssh_connection]\npipelining = True\n`,
    )
    writeFileSync(join(dir, 'deploy.py'), deploy())
    process.stdout.write(
      `median of ${counts.rounds} rounds, of the others ${counts.others}; seconds; of processors: here + on the hosts\n\n` +
        'RTT ms  what      1 host  8 hosts  ratio  beside ours   processors: 1 host        8 hosts\n',
    )
    for (const one of LINES) {
      if (one.own && !LINES[LINES.indexOf(one) - 1]?.own) await separate(dir, many)
      within = show(one, await measure(dir, many, one, counts)) && within
    }
  } finally {
    await many.end()
    rmSync(dir, { recursive: true, force: true })
  }
  if (!within) process.exitCode = 1
}

main().catch((error: unknown) => {
  process.stderr.write(`${error instanceof Error ? error.message : String(error)}\n`)
  process.exitCode = 1
})
