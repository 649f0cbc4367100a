// Networks that a page is about to use on a machine, and that must be nobody else's there: its own, or that of the laptop.
import { networkInterfaces } from 'node:os'
import type { Facts } from '../engine/page.ts'
import type { Demand } from '../engine/step.ts'
import { contains, overlap, parseNetwork } from '../ground/address.ts'
import { sh } from '../ground/sh.ts'

/** A network that becomes the machine's. */
export interface Used {
  /** What the site document calls it: `tunnel.network`. */
  called: string
  network: string
  /** The interface that it is behind on the machine. */
  dev: string
  /** Addresses in it that are the site's own. */
  own: string[]
}

/** The demand that a network is free at both ends. `site` is the name of the document, `own` the networks of this computer. */
export function apart(
  { called, network, dev, own }: Used,
  site: string,
  { via = '' }: Partial<Pick<Facts, 'via'>>,
  here: { address: string; cidr: string | null }[] = Object.values(networkInterfaces()).flatMap(
    (all) => all ?? [],
  ),
): Demand[] {
  const range = parseNetwork(network)
  if (range === undefined) return []
  const clash = here.filter(({ address, cidr }) => {
    const around = parseNetwork(cidr ?? '')
    // Who comes through the tunnel has an address in it, and may be about to give it up.
    const inside = address === via && around?.prefix === 32
    return around !== undefined && overlap(around, range) && !own.includes(address) && !inside
  })
  const help = `write another ${called} into config/sites/${site}.yaml, one that is in use at neither end`
  const among = contains(range, via) && !own.includes(via)
  return [
    {
      name: `${network} (${called}) is in use nowhere else on this machine`,
      why: 'its route would cut off who is there now: perhaps you',
      check: sh`network_apart ${[dev, network, ...(among ? [via] : [])]}`,
      help,
    },
    ...(clash.length === 0
      ? []
      : [
          {
            name: `${network} (${called}) is in use nowhere else on this laptop`,
            check: sh`echo ${`this laptop has ${clash.map(({ cidr }) => cidr).join(', ')}`}; false`,
            help,
          },
        ]),
  ]
}
