// The lab's own laptop, which does what a person does elsewhere: it has keys for the tunnel before a page needs them, and
// connects the tunnel before the firewall closes.
import { join } from 'node:path'
import type { SecretStore } from '../ground/secret.ts'
import { clientFile, keysOf } from '../host/wireguard.ts'
import { type LabVm, labFind } from '../lab/lab.ts'
import { labTunnel } from '../lab/tunnel.ts'
import type { Config } from '../site/model.ts'

/** Makes the keys of the site's tunnel peers. `connectTunnel` connects the first of them, where the lab has a virtual machine. */
export async function labLaptop({ env, site }: Config, store: SecretStore) {
  const clients: string[] = []
  for (const peer of site.tunnel.peers) {
    const keys = await keysOf(store, join(env.FK_STATE_DIR, site.name), site, peer.name)
    const endpoints = Object.fromEntries(site.machines.map(({ name }) => [name, `lab:${site.tunnel.port}`]))
    clients.push(clientFile(site, peer, keys, endpoints))
  }
  return {
    async connectTunnel(): Promise<void> {
      const vm = await labFind('lab', { dir: env.FK_LAB_DIR })
      if (vm?.kind === 'vm' && clients[0]) await labTunnel(vm as LabVm, clients[0], site.tunnel.address ?? '')
    },
  }
}
