// What the benches share: the requirements as an Ansible playbook, a line that is far away, and a clock.
import { spawn } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { connect as dial, createServer } from 'node:net'
import { join } from 'node:path'
import { parse } from 'yaml'
import { root } from '../machine/kit.ts'

interface Entry {
  id: string
  title: string
  sysctl?: Record<string, string | number>
  module?: string[]
  mode?: string[]
  unit?: unknown
  package?: unknown
  sshd?: Record<string, string | number>
}

/** One task for each requirement, by the module that Ansible has for it; what it has none for is a read of one file. */
export function playbook(): object[] {
  const groups = parse(readFileSync(join(root, 'config/host/controls.yaml'), 'utf8')) as {
    controls: Entry[]
  }[]
  const tasks = groups
    .flatMap((g) => g.controls)
    .flatMap((c): object[] => {
      const name = `${c.id} ${c.title}`
      if (c.sysctl)
        return Object.entries(c.sysctl).map(([key, value]) => ({
          name,
          'ansible.posix.sysctl': {
            name: key,
            value: String(value).replace(/^\D.*/, '0'),
            sysctl_file: '/etc/sysctl.d/99-zz-fortress.conf',
            reload: false,
          },
        }))
      if (c.module) return c.module.map((m) => ({ name, 'community.general.kernel_blacklist': { name: m } }))
      if (c.sshd)
        return Object.entries(c.sshd).map(([key, value]) => ({
          name,
          'ansible.builtin.lineinfile': {
            path: '/etc/ssh/sshd_config',
            regexp: `^#?${key} `,
            line: `${key} ${value}`,
          },
        }))
      if (c.mode) return c.mode.map((m) => ({ name, 'ansible.builtin.stat': { path: m.split(' ').at(-1) } }))
      return [{ name, 'ansible.builtin.stat': { path: '/etc/security/limits.conf' } }]
    })
  return [{ hosts: 'all', become: true, gather_facts: true, tasks }]
}

/** Passes TCP on to the machine, `ms` later each way. */
export function delayed(
  host: string,
  port: number,
  ms: number,
): Promise<{ port: number; close: () => void }> {
  const server = createServer((near) => {
    const far = dial(port, host)
    for (const [from, to] of [
      [near, far],
      [far, near],
    ] as const) {
      from.setNoDelay(true)
      from.on('data', (data) => setTimeout(() => to.write(data), ms))
      from.on('close', () => setTimeout(() => to.destroy(), ms))
      from.on('error', () => to.destroy())
    }
  })
  return new Promise((resolve) =>
    server.listen(0, '127.0.0.1', () =>
      resolve({ port: (server.address() as { port: number }).port, close: () => server.close() }),
    ),
  )
}

export const median = (values: number[]) =>
  values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)] as number

/** Runs a program in the background of our event loop (the delaying proxy needs it), and says how many seconds it took. */
export async function timed(
  program: string,
  words: string[],
  env: Record<string, string | undefined>,
): Promise<number> {
  const began = process.hrtime.bigint()
  const child = spawn(program, words, {
    cwd: root,
    env: env as NodeJS.ProcessEnv,
    stdio: ['ignore', 'ignore', 'ignore'],
  })
  await new Promise((resolve) => child.on('close', resolve))
  return Number(process.hrtime.bigint() - began) / 1e9
}
