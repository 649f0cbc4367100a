// The lab's own laptop, which does what a person does elsewhere: it connects the tunnel before the firewall closes.
import { join } from 'node:path'
import type { SecretStore } from '../ground/secret.ts'
import { clientFile } from '../host/device.ts'
import { keysOf } from '../host/wireguard.ts'
import { type LabVm, labFind } from '../lab/lab.ts'
import { labTunnel } from '../lab/tunnel.ts'
import type { Config } from '../site/model.ts'

/** Connects the first peer of the site, where the lab has a virtual machine. */
export async function connectTunnel({ env, site }: Config, store: SecretStore): Promise<void> {
  const vm = await labFind('lab', { dir: env.FK_LAB_DIR })
  const [peer] = site.tunnel.peers
  if (vm?.kind !== 'vm' || peer === undefined) return
  const keys = await keysOf(store.secret, join(env.FK_STATE_DIR, site.name), site, peer.name)
  const endpoints = Object.fromEntries(site.machines.map(({ name }) => [name, `lab:${site.tunnel.port}`]))
  await labTunnel(vm as LabVm, clientFile(site, peer, keys, endpoints), site.tunnel.address ?? '')
}
