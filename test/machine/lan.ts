// The network that the machines of one site share. Those of the lab have one each; here they get another interface, all of them
// on one bridge, and the laptop is on it too: an address can move between them, and a tunnel leads to each.
import { execFileSync, spawn } from 'node:child_process'
import { existsSync, readdirSync, rmSync } from 'node:fs'
import { claim } from '../../lib/lab/machine.ts'
import { type Laptop, laptopIn } from './laptop.ts'

export interface Lan {
  laptop: Laptop
  /** What `fleet` wants to know of the laptop. */
  place: { namespace: string; gateway: string }
  /** The address of the machine with this number, counted from 0. */
  addressOf(i: number): string
  /** Gives machines of the lab, which are up, their interface lan0. */
  plugIn(names: string[]): void
  /** The laptop brings the tunnel of a client file up, and has something to say to these addresses until it ends. */
  enter(file: string, addresses: string[]): Promise<void>
  /** Waits until sshd answers at all these addresses in the tunnel; fails when they do not within half a minute. */
  meets(addresses: string[]): Promise<void>
  /** Before the machines end. */
  end(): Promise<void>
}

const bridge = 'fk-test-lan'
const namespace = 'fk-test-laptop'
/** Whose the network is, recorded as with machines of the lab. */
const record = '/run/fk-test-lan'
const ip = (...words: string[]) => execFileSync('ip', words)

/** Removes the network, whoever made it. */
function remove() {
  for (const link of readdirSync('/sys/class/net'))
    if (link === bridge || link.startsWith('fk-lan-')) ip('link', 'delete', link)
  if (!existsSync(`/run/netns/${namespace}`)) return
  // A namespace lives on for its processes.
  for (const pid of String(ip('netns', 'pids', namespace))
    .split('\n')
    .filter(Boolean)) {
    try {
      process.kill(Number(pid), 'SIGKILL')
    } catch {
      // It has ended meanwhile.
    }
  }
  ip('netns', 'delete', namespace)
}

/** A network 10.79.0.0/24 with a laptop in it. There is one at a time; what a run that was killed has left is removed first. */
export async function lan(): Promise<Lan> {
  await claim(record, 'lan', false, async () => rmSync(record, { recursive: true, force: true }))
  remove()
  const gateway = '10.79.0.1'
  const address = '10.79.0.9'
  ip('link', 'add', bridge, 'type', 'bridge', 'forward_delay', '0')
  ip('address', 'add', `${gateway}/24`, 'dev', bridge)
  ip('link', 'set', bridge, 'up')
  ip('netns', 'add', namespace)
  ip('link', 'add', 'fk-lan-laptop', 'type', 'veth', 'peer', 'name', 'eth0', 'netns', namespace)
  ip('link', 'set', 'fk-lan-laptop', 'master', bridge, 'up')
  ip('-netns', namespace, 'address', 'add', `${address}/24`, 'dev', 'eth0')
  ip('-netns', namespace, 'link', 'set', 'lo', 'up')
  ip('-netns', namespace, 'link', 'set', 'eth0', 'up')
  const laptop = laptopIn(namespace, 'fktlan', address, async () => {
    remove()
    rmSync(record, { recursive: true })
  })
  const stop = new AbortController()
  const addressOf = (i: number) => `10.79.0.${11 + i}`
  let talks = false
  return {
    laptop,
    place: { namespace, gateway },
    addressOf,
    plugIn(names) {
      for (const [i, name] of names.entries()) {
        ip('link', 'add', `fk-lan-${i}`, 'type', 'veth', 'peer', 'name', 'lan0', 'netns', `fk-${name}`)
        ip('link', 'set', `fk-lan-${i}`, 'master', bridge, 'up')
        ip('-netns', `fk-${name}`, 'address', 'add', `${addressOf(i)}/24`, 'dev', 'lan0')
        ip('-netns', `fk-${name}`, 'link', 'set', 'lan0', 'up')
      }
    },
    async enter(file, addresses) {
      await laptop.up(file)
      if (talks) return
      talks = true
      // A peer whose handshakes nobody answers gives up after some time: who is not there yet is asked for.
      const ask = `while :; do for to in ${addresses.join(' ')}; do echo > /dev/udp/$to/9; done; sleep 1; done 2> /dev/null`
      const words = ['netns', 'exec', namespace, 'bash', '-c', ask]
      spawn('ip', words, { stdio: 'ignore', signal: stop.signal }).on('error', () => {})
    },
    async meets(addresses) {
      const reach =
        'for i in {1..30}; do ! timeout 1 bash -c ": < /dev/tcp/$0/22" || exit 0; sleep 0.2; done; exit 1'
      for (const to of addresses) {
        const { code } = await laptop.run('bash', '-c', reach, to)
        if (code !== 0) throw new Error(`${to} does not answer in the tunnel`)
      }
    },
    async end() {
      stop.abort()
      await laptop.end()
    },
  }
}
