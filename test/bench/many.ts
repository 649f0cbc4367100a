// How much longer eight hosts take than one: our plan of page 00 beside Ansible and pyinfra, all asked for the same work.
//
//   node --import tsx test/bench/many.ts [RUNS]      as root, with the Debian package ansible; PYINFRA=/path/to/pyinfra
//
// The hosts are containers on this computer's own cores: what they themselves take is in every figure. Without and with 20 ms of
// round-trip time. Ansible (forks 8, pipelining) and pyinfra (parallel 8) look at the requirements of config/host/controls.yaml.
import { spawnSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parse, stringify } from 'yaml'
import { type Fleet, fleet } from '../machine/fleet.ts'
import { delayed, median, playbook, timed } from './kit.ts'

const MANY = 8

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

/** The first machines of the fleet become the site's, at the places where they answer. */
function siteOf(many: Fleet, far: Far[], documents: unknown[]): void {
  many.site((site) => {
    site['machines'] = far.map(({ host, port }, i) => ({
      ...(documents[i] as object),
      address: host,
      ssh_port: port,
    }))
  })
}

function inventories(dir: string, many: Fleet, far: Far[]): { ansible: string; pyinfra: string } {
  const { identityFile, password } = many.machineOf(far[0]!.name)
  const known = readFileSync(many.env['FK_KNOWN_HOSTS']!, 'utf8').replaceAll('fortress-pi.', '')
  writeFileSync(join(dir, 'known_hosts'), known)
  const ansible = join(dir, 'hosts')
  const lines = far.map(({ name, host, port }) =>
    [
      `${name} ansible_host=${host} ansible_port=${port} ansible_user=admin`,
      `ansible_ssh_private_key_file=${identityFile} ansible_become_password=${password}`,
      `ansible_ssh_common_args='-o HostKeyAlias=${name} -o UserKnownHostsFile=${dir}/known_hosts'`,
    ].join(' '),
  )
  writeFileSync(ansible, `${lines.join('\n')}\n`, { mode: 0o600 })
  const pyinfra = join(dir, 'inventory.py')
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

interface Way {
  name: string
  words: string[]
}

async function medianOf({ words: [program, ...words] }: Way, runs: number, env: Record<string, string>) {
  const seconds: number[] = []
  for (let i = 0; i < runs; i++) seconds.push(await timed(program!, words, env))
  return median(seconds)
}

async function main(): Promise<void> {
  const runs = Number(process.argv[2] ?? 3)
  const python = process.env['PYINFRA'] ?? 'pyinfra'
  for (const [program, from] of [
    ['ansible-playbook', 'apt-get install ansible'],
    [python, 'pip install pyinfra in a virtual environment, and PYINFRA=/path/to/pyinfra'],
  ] as const)
    if (spawnSync(program, ['--version']).status !== 0)
      throw new Error(`${program} is not installed: ${from}`)
  const roles = Array.from({ length: MANY }, (_, i) => (i === 0 ? ('server' as const) : ('agent' as const)))
  const many = await fleet('bench', roles, () => '', { extra: ['python3', 'python3-apt'] })
  const dir = mkdtempSync(join(tmpdir(), 'fk-bench-'))
  try {
    const file = join(many.copy.dir, 'config/sites/fortress-pi.yaml')
    const documents = (parse(readFileSync(file, 'utf8')) as { machines: unknown[] }).machines
    writeFileSync(join(dir, 'play.yml'), stringify(playbook(), { version: '1.1' }))
    writeFileSync(join(dir, 'ansible.cfg'), '[defaults]\nforks = 8\n[ssh_connection]\npipelining = True\n')
    writeFileSync(join(dir, 'deploy.py'), deploy())
    process.stdout.write('RTT ms  what      1 host s  8 hosts s  ratio\n')
    for (const rtt of [0, 20]) {
      const far = await placesOf(many, rtt)
      const took = new Map<string, number[]>()
      for (const n of [1, MANY]) {
        const some = far.slice(0, n)
        siteOf(many, some, documents)
        const { ansible, pyinfra } = inventories(dir, many, some)
        const env = {
          ...(process.env as Record<string, string>),
          ...many.env,
          NO_COLOR: '1',
          ANSIBLE_CONFIG: join(dir, 'ansible.cfg'),
        }
        const ways: Way[] = [
          {
            name: 'ours',
            words: [process.execPath, join(many.copy.dir, 'bin/task.cjs'), 'host-harden', 'plan'],
          },
          {
            name: 'Ansible',
            words: ['ansible-playbook', '--check', '--inventory', ansible, join(dir, 'play.yml')],
          },
          { name: 'pyinfra', words: [python, '--dry', '--parallel', '8', pyinfra, join(dir, 'deploy.py')] },
        ]
        for (const way of ways)
          took.set(way.name, [
            ...(took.get(way.name) ?? []),
            await medianOf(way, way.name === 'ours' ? runs : 1, env),
          ])
      }
      for (const [name, [one = 0, eight = 0]] of took)
        process.stdout.write(
          `${String(rtt).padStart(6)}  ${name.padEnd(8)}  ${one.toFixed(2).padStart(8)}  ${eight.toFixed(2).padStart(9)}  ${(eight / one).toFixed(1).padStart(5)}\n`,
        )
      for (const { close } of far) close()
    }
  } finally {
    await many.end()
    rmSync(dir, { recursive: true, force: true })
  }
}

main().catch((error: unknown) => {
  process.stderr.write(`${String(error)}\n`)
  process.exitCode = 1
})
