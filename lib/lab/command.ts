// Programs of this computer, run for the lab by zx: what they read, how long they may take, and a Fault that tells what they said.
import fs from 'node:fs'
import { createRequire } from 'node:module'
import path from 'node:path'
import { createInterface } from 'node:readline'
import type { $ } from 'zx/core'
import { Fault } from '../ground/fault.ts'
import { quote } from '../ground/sh.ts'
import { readIf } from './place.ts'

const load = createRequire(import.meta.url)

export interface LabResult {
  code: number
  stdout: string
  stderr: string
}

interface RunOptions {
  env?: Record<string, string>
  input?: string
  /** Any exit code will do; otherwise one that is not 0 is a Fault. */
  code?: 'any'
  /** Standard output, line by line. */
  onLine?: ((line: string) => void) | undefined
  /** Standard error goes into this file, and is quoted from it. */
  log?: string
  /** The command leaves something running: nothing is captured, so that no pipe stays open. */
  detached?: boolean
  seconds?: number
}

/**
 * zx's `$`, loaded only where something runs, for one program at a time: the shell between reads no startup file and turns into
 * that program, so that a signal meets the right one. Any exit code will do, and nothing is echoed.
 */
export function zx(): typeof $ {
  return (load('zx/core') as typeof import('zx/core')).$({
    shell: '/bin/sh',
    prefix: 'exec ',
    quote,
    env: { ...process.env, PATH: searched() },
    nothrow: true,
    quiet: true,
  }) as typeof $
}

/** Runs a program to its end. Rejects with a Fault that says what it said last. */
export async function run(file: string, words: string[], options: RunOptions = {}): Promise<LabResult> {
  if (find(file) === undefined)
    throw new Fault(`${file} is not installed`, { next: 'sudo npx task lab setup' })
  const seconds = options.seconds ?? 120
  const limit = AbortSignal.timeout(seconds * 1000)
  const log = options.log ? fs.openSync(options.log, 'w') : undefined
  const child = zx()({
    env: { ...process.env, PATH: searched(), ...options.env },
    input: options.input ?? '',
    stdio: options.detached ? 'ignore' : [options.input ? 'pipe' : 'ignore', 'pipe', log ?? 'pipe'],
    signal: limit,
  })`${[file, ...words]}`
  if (log !== undefined) fs.closeSync(log)
  child.stdout?.setEncoding('utf8') // a letter may stand across two chunks
  child.stdin?.on('error', () => undefined) // a command may end without reading what it is given
  if (options.onLine && child.stdout) createInterface(child.stdout).on('line', options.onLine)
  const ended = await child
  const { exitCode: code, signal, stdout } = ended
  const stderr = options.log ? readIf(options.log) : ended.stderr
  if (code === 0 || (options.code === 'any' && code !== null)) return { code, stdout, stderr }
  const last = stderr.trim().split('\n').slice(-8).join('\n')
  const said = last || signal ? last : ((ended.cause as Error | null)?.message ?? '') // it did not even start
  const how = limit.aborted
    ? `had not ended after ${seconds} s`
    : signal
      ? `was ended by ${signal}`
      : `failed (exit ${code})`
  throw new Fault(`${file} ${how}`, {
    ran: [file, ...words].map(quote).join(' '),
    said,
    ...(/No space left on device/.test(said)
      ? { next: 'make room, or name another directory in FK_LAB_DIR' }
      : {}),
  })
}

/** The path of a command or file, or undefined. */
export function find(name: string): string | undefined {
  const dirs = name.startsWith('/') ? [''] : searched().split(':')
  return dirs.map((dir) => (dir === '' ? name : path.join(dir, name))).find((file) => fs.existsSync(file))
}

const searched = () => `${process.env['PATH'] ?? ''}:/usr/sbin:/sbin`
