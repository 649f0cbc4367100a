// What the benches share: the requirements as an Ansible playbook, a line that is far away, and a clock.
import { spawn } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { connect as dial, createServer } from 'node:net'
import { join } from 'node:path'
import type { Readable } from 'node:stream'
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
      // What the page fills in is no template of Ansible's.
      const text = (value: unknown) => String(value).replaceAll(/\{\{ (\w+) \}\}/g, '$1')
      const name = `${c.id} ${text(c.title)}`
      if (c.sysctl)
        return Object.entries(c.sysctl).map(([key, value]) => ({
          name,
          'ansible.posix.sysctl': {
            name: key,
            value: text(value).replace(/^\D.*/, '0'),
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
            line: `${key} ${text(value)}`,
          },
        }))
      if (c.mode) return c.mode.map((m) => ({ name, 'ansible.builtin.stat': { path: m.split(' ').at(-1) } }))
      return [{ name, 'ansible.builtin.stat': { path: '/etc/security/limits.conf' } }]
    })
  return [{ hosts: 'all', become: true, gather_facts: true, tasks }]
}

/**
 * Passes TCP on to the machine, `ms` later each way. What a connection needs to begin counts, too: this end is there at once, but
 * the machine greets as late as if both of its ends had to shake hands.
 */
export function delayed(
  host: string,
  port: number,
  ms: number,
): Promise<{ port: number; close: () => void }> {
  const server = createServer({ pauseOnConnect: true }, (near) => {
    near.on('error', () => near.destroy())
    setTimeout(() => {
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
      near.resume()
    }, 2 * ms)
  })
  return new Promise((resolve) =>
    server.listen(0, '127.0.0.1', () =>
      resolve({ port: (server.address() as { port: number }).port, close: () => server.close() }),
    ),
  )
}

export const median = (values: number[]) =>
  values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)] as number

/** A command of a bench, and how it is known that it did its work. */
export interface Work {
  words: string[]
  env: Record<string, string | undefined>
  /** Its exit code. Default: 0. */
  code?: number
  /** What it has to say, as many times as it looks at machines or more. */
  says?: { pattern: RegExp; times: number }
}

/** Seconds that something took, and seconds of processors that it and its children took on this side of the network. */
export interface Time {
  seconds: number
  cpu: number
}

/**
 * Runs a program in the background of our event loop (the delaying proxy needs it), and says how long it took. Throws when it did
 * not do its work: a failure is fast.
 */
export async function timed({ words, env, code: wanted = 0, says }: Work): Promise<Time> {
  const began = process.hrtime.bigint()
  const child = spawn('bash', ['-c', '"$@"; code=$?; times >&3; exit "$code"', 'bash', ...words], {
    cwd: root,
    env: env as NodeJS.ProcessEnv,
    stdio: ['ignore', 'pipe', 'pipe', 'pipe'],
  })
  let text = ''
  let times = ''
  const [, out, err, shell] = child.stdio as Readable[]
  for (const stream of [out, err]) stream?.setEncoding('utf8').on('data', (more: string) => (text += more))
  shell?.setEncoding('utf8').on('data', (more: string) => (times += more))
  const code = await new Promise<number | null>((resolve, reject) => {
    child.on('error', reject)
    child.on('close', resolve)
  })
  const seconds = Number(process.hrtime.bigint() - began) / 1e9
  // Its second line is that of the children: `0m1.234s 0m0.567s`, user and system.
  const cpu = [...(times.split('\n')[1] ?? '').matchAll(/(\d+)m([\d.]+)s/g)]
    .map(([, minutes, rest]) => Number(minutes) * 60 + Number(rest))
    .reduce((a, b) => a + b, 0)
  const said = says === undefined ? 0 : [...text.matchAll(says.pattern)].length
  if (code === wanted && (says === undefined || said === says.times)) return { seconds, cpu }
  const fault =
    code === wanted ? `said ${says?.pattern} ${said} times and not ${says?.times}` : `ended with ${code}`
  throw new Error(`${words.join(' ')} ${fault}:\n${text.slice(-4000)}`)
}
