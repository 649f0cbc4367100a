// How long a look takes that changes nothing: our verify of all pages of L0 beside ansible-playbook --check of as many tasks.
//
//   node --import tsx test/bench/ansible.ts [RUNS]      as root, with the Debian package ansible
//
// Both ask the same freshly started machine over OpenSSH and sudo, once without and once with 20 ms of round-trip time. Ansible
// gets pipelining and one lasting connection, and for each requirement its own module for it. Prints medians and ratios.
import { spawnSync } from 'node:child_process'
import { chmodSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { stringify } from 'yaml'
import { labNodeDown, labNodeUp } from '../../lib/lab/lab.ts'
import { around, root } from '../machine/kit.ts'
import { delayed, median, playbook, timed } from './kit.ts'

async function main(): Promise<void> {
  const runs = Number(process.argv[2] ?? 3)
  if (spawnSync('ansible-playbook', ['--version']).status !== 0)
    throw new Error('ansible-playbook is not installed: apt-get install ansible')
  const machine = await labNodeUp('bench', { net: true, extra: ['python3', 'python3-apt'] })
  const dir = mkdtempSync(join(tmpdir(), 'fk-bench-'))
  try {
    const kit = around(machine)
    await kit.page('scripts/00-host-harden.ts', 'apply')
    const plays = playbook()
    const tasks = (plays[0] as { tasks: object[] }).tasks.length
    writeFileSync(join(dir, 'play.yml'), stringify(plays, { version: '1.1' }))
    writeFileSync(
      join(dir, 'ansible.cfg'),
      '[defaults]\nhost_key_checking = True\n[ssh_connection]\npipelining = True\n',
    )
    // A shim in front of ssh counts how often each asks for a channel.
    const counter = join(dir, 'count')
    writeFileSync(join(dir, 'ssh'), `#!/bin/sh\necho >> ${counter}\nexec /usr/bin/ssh "$@"\n`)
    chmodSync(join(dir, 'ssh'), 0o755)
    const channels = () => readFileSync(counter, 'utf8').length
    const trips: number[] = []
    const rows: string[] = []
    for (const rtt of [0, 20]) {
      const far =
        rtt === 0
          ? { port: machine.port, host: machine.host, close: () => {} }
          : { ...(await delayed(machine.host, machine.port, rtt / 2)), host: '127.0.0.1' }
      const env = {
        ...process.env,
        ...kit.env,
        FK_HOST: `admin@${far.host}:${far.port}`,
        PATH: `${dir}:${process.env['PATH']}`,
        NO_COLOR: '1',
      }
      const keys = readFileSync(machine.knownHostsFile, 'utf8')
        .split('\n')
        .filter(Boolean)
        .map((l) => `bench ${l.split(' ').slice(1).join(' ')}`)
      writeFileSync(join(dir, 'known_hosts'), `${keys.join('\n')}\n`)
      const inventory = join(dir, `hosts-${rtt}`)
      writeFileSync(
        inventory,
        [
          `m ansible_host=${far.host} ansible_port=${far.port} ansible_user=admin`,
          `ansible_ssh_private_key_file=${machine.identityFile} ansible_become_password=${machine.password}`,
          `ansible_ssh_common_args='-o HostKeyAlias=bench -o UserKnownHostsFile=${dir}/known_hosts'\n`,
        ].join(' '),
        { mode: 0o600 },
      )
      const ours: number[] = []
      for (let i = 0; i < runs; i++) {
        writeFileSync(counter, '')
        const verify = [process.execPath, 'bin/task.cjs', 'verify-all', '--layer', 'L0']
        ours.push((await timed({ words: verify, env, code: 2 })).seconds)
        trips.push(channels())
      }
      const theirs: number[] = []
      for (let i = 0; i < Math.min(runs, 2); i++)
        theirs.push(
          (
            await timed({
              words: ['ansible-playbook', '--check', '--inventory', inventory, join(dir, 'play.yml')],
              env: { ...env, ANSIBLE_CONFIG: join(dir, 'ansible.cfg') },
              says: { pattern: / unreachable=0 +failed=0 /g, times: 1 },
            })
          ).seconds,
        )
      rows.push(
        [
          String(rtt).padStart(5),
          median(ours).toFixed(2).padStart(12),
          median(theirs).toFixed(1).padStart(24),
          (median(theirs) / median(ours)).toFixed(0).padStart(5),
        ].join('  '),
      )
      far.close()
    }
    const { stdout: said } = spawnSync(
      process.execPath,
      ['bin/task.cjs', 'verify-all', '--layer', 'L0', '--json'],
      {
        cwd: root,
        env: { ...process.env, ...kit.env },
        encoding: 'utf8',
        maxBuffer: 1e8,
      },
    )
    const events = said
      .split('\n')
      .filter(Boolean)
      .map((l) => JSON.parse(l) as { event: string })
    const count = (kind: string) => events.filter((e) => e.event === kind).length
    process.stdout.write(
      `verify-all: ${count('page')} pages, ${count('step')} steps, ${count('control')} controls; ` +
        `ssh channels: ${median(trips)} (one for each page, one to connect, one to close)\n`,
    )
    process.stdout.write(
      `ansible-playbook --check: ${tasks} tasks\n\nRTT ms  verify-all s  ansible-playbook --check s  ratio\n${rows.join('\n')}\n`,
    )
  } finally {
    await labNodeDown('bench')
    rmSync(dir, { recursive: true, force: true })
  }
}

main().catch((error: unknown) => {
  process.stderr.write(`${String(error)}\n`)
  process.exitCode = 1
})
