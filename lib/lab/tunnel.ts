// The lab's admin laptop: the client end of the tunnel, in the namespace outside the VM, so that a firewall can really close.
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { Fault } from '../ground/fault.ts'
import { $ } from '../ground/laptop.ts'
import { done } from './command.ts'
import type { LabVm } from './vm.ts'

/**
 * Starts the tunnel of a client file in the namespace outside the VM; an earlier one is replaced. The kernel's WireGuard
 * is used where there is one, wireguard-go elsewhere. Returns the namespace in which the tunnel's addresses are reached.
 */
export async function labTunnel(vm: LabVm, client: string, inside: string): Promise<string> {
  const namespace = vm.outsideNamespace
  if (namespace === undefined)
    throw new Fault('the lab has no network outside its VM', {
      next: 'run it as root, or start the tunnel yourself',
    })
  const dir = join(vm.dir, 'tunnel')
  const file = join(dir, 'fk-lab-wg.conf')
  mkdirSync(dir, { recursive: true, mode: 0o700 })
  const within = (...words: string[]) => done($`ip netns exec ${namespace} ${words}`)
  await within('wg-quick', 'down', file).catch(() => undefined) // there was none
  writeFileSync(file, client.replace(/^Endpoint = .*:(\d+)$/m, `Endpoint = ${vm.outsideAddress}:$1`), {
    mode: 0o600,
  })
  try {
    await within('wg-quick', 'up', file)
  } catch (error) {
    throw new Fault('the lab’s tunnel does not come up', {
      said: (error as Fault).said ?? String(error),
      next: 'apt-get install wireguard-tools wireguard-go',
    })
  }
  // The first packet starts the handshake; whether the machine answers is for the page to find out.
  await within('ping', '-c', '1', '-W', '3', inside).catch(() => undefined)
  return namespace
}
