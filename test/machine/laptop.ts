// The admin's laptop: a network namespace on the lab's bridge, in which tunnels are brought up and pages are started.
import { type ChildProcess, execFile, spawn } from 'node:child_process'
import { createHash } from 'node:crypto'
import {
  copyFileSync,
  cpSync,
  existsSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { peer } from '../../lib/cli/peer.ts'
import { loadConfig } from '../../lib/site/config.ts'
import { without } from '../programs.ts'
import { type Kit, type Said, folderOf, root, said } from './kit.ts'

export interface Answer {
  code: number
  text: string
}

export interface Laptop {
  /** Its address, as the machine sees it when it comes by no tunnel. */
  address: string
  run(...words: string[]): Promise<Answer>
  /** Brings the tunnel of a client file up, in place of an earlier one. */
  up(file: string): Promise<void>
  down(): Promise<void>
  /** Whether the machine gets an answer from `address` through the tunnel. A tunnel shakes hands within some seconds, or never. */
  meets(kit: Kit, address: string, seconds?: number): Promise<boolean>
  /** Runs a page of `checkout` against the machine of `kit`, with further variables. */
  page(kit: Kit, file: string, words: string[], env?: Record<string, string>): Promise<Said>
  start(kit: Kit, file: string, words: string[], env?: Record<string, string>): ChildProcess
  end(): Promise<void>
}

/** Why there can be no laptop here, for a test's `skip`. */
export const noLaptop: string | false =
  process.getuid?.() !== 0
    ? 'it needs root'
    : without('ip', 'wg', 'wg-quick') ||
      (existsSync('/sys/module/wireguard') || !without('wireguard-go')
        ? false
        : 'neither this kernel nor wireguard-go speaks WireGuard')

function run(program: string, words: string[]): Promise<Answer> {
  return new Promise((resolve) => {
    execFile(program, words, { encoding: 'utf8' }, (error, stdout, stderr) => {
      resolve({ code: error ? (typeof error.code === 'number' ? error.code : -1) : 0, text: stdout + stderr })
    })
  })
}

async function must(program: string, ...words: string[]): Promise<string> {
  const { code, text } = await run(program, words)
  if (code !== 0) throw new Error(`${program} ${words.join(' ')}: ${text}`)
  return text
}

/** A laptop on the bridge of the lab's nodes. `number` (1 to 250) tells those apart that are there at the same time. */
export async function laptop(number: number): Promise<Laptop> {
  const ns = `fk-laptop-${number}`
  const link = `fkl${number}`
  const address = `10.78.255.${number}`
  const gone = async () => {
    await run('ip', ['netns', 'delete', ns])
    await run('ip', ['link', 'delete', link])
  }
  await gone()
  await must('ip', 'netns', 'add', ns)
  await must('ip', 'link', 'add', link, 'type', 'veth', 'peer', 'name', 'eth0', 'netns', ns)
  await must('ip', 'link', 'set', link, 'master', 'fk-lab', 'up')
  await must('ip', '-netns', ns, 'address', 'add', `${address}/16`, 'dev', 'eth0')
  await must('ip', '-netns', ns, 'link', 'set', 'lo', 'up')
  await must('ip', '-netns', ns, 'link', 'set', 'eth0', 'up')
  return laptopIn(ns, `fkt${number}`, address, gone)
}

/** A laptop in a namespace that is there. wireguard-go keeps its sockets in one directory, so `tunnel` is unique on this computer. */
export function laptopIn(
  ns: string,
  tunnel: string,
  address: string,
  gone: () => Promise<void> = async () => {},
): Laptop {
  const dir = mkdtempSync(join(tmpdir(), 'fk-laptop-'))
  const file = join(dir, `${tunnel}.conf`)
  const within = (...words: string[]) => run('ip', ['netns', 'exec', ns, ...words])
  const down = async () => {
    if (!existsSync(file)) return
    await within('wg-quick', 'down', file)
    rmSync(file)
    // wireguard-go ends behind wg-quick, and takes its socket away as the last thing: a new one refuses to start beside it.
    for (let i = 0; i < 100 && existsSync(`/var/run/wireguard/${tunnel}.sock`); i++)
      await new Promise((resolve) => setTimeout(resolve, 100))
  }
  const start: Laptop['start'] = (kit, page, words, env = {}) =>
    spawn('ip', ['netns', 'exec', ns, process.execPath, '--import', 'tsx', page, ...words], {
      cwd: folderOf(page),
      env: {
        PATH: process.env['PATH'],
        HOME: process.env['HOME'],
        ...kit.env,
        ...env,
      },
      stdio: ['ignore', 'pipe', 'pipe'],
    })
  return {
    address,
    run: within,
    down,
    async end() {
      await down()
      await gone()
      rmSync(dir, { recursive: true, force: true })
    },
    async up(from) {
      await down()
      copyFileSync(from, file)
      await must('ip', 'netns', 'exec', ns, 'wg-quick', 'up', file)
    },
    async meets(kit, inside, seconds = 20) {
      for (let i = 0; i < seconds; i++) {
        // Something must want to leave: a peer that sends nothing finds out only after two minutes that it has to begin anew.
        await within('bash', '-c', 'echo > /dev/udp/10.66.0.1/9')
        if ((await kit.root(`ping -c 1 -W 1 ${inside}`)).code === 0) return true
        await new Promise((resolve) => setTimeout(resolve, 500))
      }
      return false
    },
    start,
    page: (kit, page, words, env) => said(start(kit, page, words, env)),
  }
}

export interface Checkout {
  dir: string
  /** The path of a page in it. */
  page(name: string): string
  site: string
  /** Pins `bytes` as what the makers of `name` publish, for amd64 where it has several, as another version where one is said. */
  pin(name: string, bytes: string | Buffer, version?: string): void
  /** `./task peer …` in it. */
  peer(kit: Kit, ...words: string[]): Promise<void>
  /** `./task take NAME`: the path of the page in a folder outside of every checkout. */
  take(kit: Pick<Kit, 'env'>, name: string): Promise<string>
  /** The same with --bash: the text of the one file. */
  takeBash(kit: Pick<Kit, 'env'>, name: string): Promise<string>
  end(): void
}

/** A copy of the pages and their data, whose site document may be changed. */
export function checkout(): Checkout {
  const dir = mkdtempSync(join(tmpdir(), 'fk-checkout-'))
  const parts = [
    'bin',
    'lib',
    'scripts',
    'config',
    'Taskfile.ts',
    'tsconfig.json',
    'package.json',
    'package-lock.json',
  ]
  for (const part of parts) cpSync(join(root, part), join(dir, part), { recursive: true })
  symlinkSync(join(root, 'node_modules'), join(dir, 'node_modules'))
  const homes = mkdtempSync(join(tmpdir(), 'fk-home-'))
  const taken = async ({ env }: Pick<Kit, 'env'>, name: string, ...flags: string[]) => {
    const home = mkdtempSync(join(homes, name))
    const words = [join(dir, 'bin/task.cjs'), 'take', name, home, ...flags]
    const { code, text } = await said(
      spawn(process.execPath, words, { cwd: homes, env: { ...process.env, ...env } }),
    )
    if (code !== 0) throw new Error(text)
    return home
  }
  return {
    dir,
    page: (name) => join(dir, 'scripts', `${name}.ts`),
    site: join(dir, 'config', 'sites', 'fortress.yaml'),
    pin(name, bytes, version) {
      const file = join(dir, 'config/versions.yaml')
      const digest = createHash('sha256').update(bytes).digest('hex')
      const text = readFileSync(file, 'utf8')
      const pinned = text.replace(
        new RegExp(`(^${name}:\\n {2}version: )(.*)(\\n(?: .*\\n)*? {4}(?:amd64|any): )[0-9a-f]{64}$`, 'm'),
        (_, head: string, is: string, between: string) => head + (version ?? is) + between + digest,
      )
      if (pinned === text && !text.includes(digest)) throw new Error(`${name} is not pinned by a digest`)
      writeFileSync(file, pinned)
    },
    async peer(kit, ...words) {
      const config = loadConfig({ env: kit.env, root: dir })
      await peer({ name: 'peer', argv: words }, { config, root: dir, say: () => {} })
    },
    async take(kit, name) {
      const home = await taken(kit, name)
      symlinkSync(join(root, 'node_modules'), join(home, 'node_modules'))
      return join(home, 'scripts', `${name}.ts`)
    },
    async takeBash(kit, name) {
      const home = await taken(kit, name, '--bash')
      return readFileSync(join(home, `${name}.sh`), 'utf8')
    },
    end: () => {
      for (const path of [dir, homes]) rmSync(path, { recursive: true, force: true })
    },
  }
}

/** The client file of a peer, with lines replaced: `{ PresharedKey: '…' }`. */
export function changed(file: string, values: Record<string, string>): string {
  let text = readFileSync(file, 'utf8')
  for (const [key, value] of Object.entries(values))
    text = text.replace(new RegExp(`^${key} = .*$`, 'm'), `${key} = ${value}`)
  return text
}

/** The lines that stand in one of two texts only. Counters of the kernel, and the address that it rolls for each new interface, are
 * nobody's. */
export function differences(before: string, after: string): string[] {
  const lines = (text: string) =>
    new Set(text.split('\n').filter((line) => !/^fs\.quota\.|\.stable_secret /.test(line)))
  const [old, now] = [lines(before), lines(after)]
  return [
    ...[...old].filter((l) => !now.has(l)).map((l) => `- ${l}`),
    ...[...now].filter((l) => !old.has(l)).map((l) => `+ ${l}`),
  ]
}
