// The lab for a person at a terminal: ./task lab setup, up, ssh, list, down.
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import minimist from 'minimist'
import { Fault } from '../ground/fault.ts'
import { $ } from '../ground/laptop.ts'
import { nearest } from '../ground/nearest.ts'
import { loadConfig } from '../site/config.ts'
import { type LabVm, labDeps, labDown, labFind, labInstall, labList, labMachine, labNodeDown } from './lab.ts'

const words = ['setup', 'up', 'ssh', 'list', 'down'] as const

const help = `./task lab setup [release] installs what the lab and the tests need, as root; release: what that tier needs as well
./task lab up              a fresh Debian 13 VM, from a snapshot; FK_HOST=lab makes it the machine of every page
           --with PACKAGE,…  with further Debian packages in it
./task lab ssh [COMMAND]   a shell in it, as an admin, by the route that is open
./task lab list            what is up, containers of the tests included
./task lab down [NAME]     removes it, or another machine of the list
`

/** Resolves to the exit code: that of the remote shell for `ssh`, 0 otherwise. */
export async function main(argv: string[]): Promise<number> {
  const [word = 'help', ...behind] = argv
  if (word === 'help') {
    process.stdout.write(help)
    return 0
  }
  if (!(words as readonly string[]).includes(word)) {
    const near = nearest(word, words)
    throw new Fault(
      `There is no lab command '${word}'${near ? `; did you mean ${near}?` : `: there are ${words.join(', ')}`}`,
    )
  }
  const { words: rest, extra } = wordsOf(word, behind)
  const most = { setup: 1, up: 0, list: 0, down: 1, ssh: Infinity }[word as (typeof words)[number]]
  if (rest.length > most)
    throw new Fault(
      `lab ${word} takes ${most === 0 ? 'no words' : 'one name'}: '${rest.slice(most).join(' ')}' is too much`,
    )
  const dir = loadConfig().env.FK_LAB_DIR
  const say = (line: string) => process.stdout.write(`${line}\n`)

  if (word === 'setup') {
    const [more] = rest
    if (more !== undefined && more !== 'release')
      throw new Fault(`lab setup takes release, or no word: '${more}' is neither`)
    await labInstall({ progress: say, release: more === 'release' })
    say('Everything that the lab and the tests need is installed.')
  } else if (word === 'up') {
    const { missing, reasons } = await labDeps('vm')
    if (reasons.length > 0)
      throw new Fault(reasons.join('\n'), missing.length > 0 ? { next: 'sudo ./task lab setup' } : {})
    const machine = await labMachine({
      dir,
      say,
      outside: process.getuid?.() === 0,
      ...(extra ? { extra } : {}),
    })
    say(`${machine.name} is up. The password of ${machine.user} for sudo is ${machine.password}.`)
    say('FK_HOST=lab ./task build-all builds on it; ./task lab ssh looks inside; ./task lab down ends it.')
  } else if (word === 'list') {
    for (const machine of await labList({ dir }))
      say(`${machine.name}\t${machine.kind}\t${machine.host}:${machine.port}`)
  } else if (word === 'down') {
    const [name = 'lab'] = rest
    const machine = await labFind(name, { dir })
    if (!machine) say(`${name} is not up.`)
    if (machine?.kind === 'node') await labNodeDown(name)
    else await labDown(name, { dir }) // what a start that failed may have left goes, too
  } else {
    const machine = await labFind('lab', { dir })
    if (!machine) throw new Fault('The lab is not up', { next: './task lab up' })
    const words = [...sshWords(machine as LabVm), machine.name, ...rest]
    const { exitCode } = await $({ stdio: 'inherit', nothrow: true })`exec ${words}`
    return exitCode ?? 255
  }
  return 0
}

/** The words behind a lab command, and the packages of `--with a,b`. Everything behind `ssh` is for the remote shell. */
function wordsOf(command: string, argv: string[]): { words: string[]; extra: string[] | undefined } {
  const parsed = minimist(command === 'ssh' ? ['--', ...argv] : argv, {
    string: ['with', '_'],
    unknown(word) {
      if (!word.startsWith('-') || (command === 'up' && /^--with(=|$)/.test(word))) return true
      throw new Fault(`lab ${command} has no flag '${word}'`)
    },
  })
  const names = (parsed['with'] as string | undefined)?.split(',')
  // What Debian's policy lets a package be called.
  const wrong = names?.find((name) => !/^[a-z0-9][a-z0-9.+-]+$/.test(name))
  if (wrong !== undefined) throw new Fault(`lab up: '${wrong}' is not the name of a Debian package`)
  return { words: parsed._, extra: names }
}

/** ssh and its options for the route that is open: once the firewall is closed, only the lab's laptop reaches the machine. */
function sshWords(machine: LabVm): string[] {
  const { sshConfigFile, outsideNamespace, dir } = machine
  const config = ['-F', sshConfigFile]
  if (outsideNamespace === undefined || !existsSync(join(dir, 'door'))) return ['ssh', ...config]
  const { site } = loadConfig({ env: { ...process.env, FK_HOST: 'lab' } })
  const tunnel = {
    HostName: site.tunnel.address,
    Port: '22',
    HostKeyAlias: 'fortress-lab',
    UserKnownHostsFile: join(dir, 'known_hosts.alias'),
  }
  const options = Object.entries(tunnel).flatMap(([name, value]) => ['-o', `${name}=${value}`])
  return ['ip', 'netns', 'exec', outsideNamespace, 'ssh', ...options, ...config]
}
