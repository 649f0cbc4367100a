// The first boot of a Flatcar node: hides what its Ignition is made of.
import { createRequire } from 'node:module'
import type { Context } from '../engine/page.ts'
import { read } from '../ground/root.ts'
import { Secret } from '../ground/secret.ts'
import type { Guest } from '../site/machines.ts'
import type { Site } from '../site/model.ts'
import type { Ignition, Source } from './butane.ts'
import { hostKeyOf, nodeKeyOf, publicHalf, publish } from './domain.ts'

const load = createRequire(import.meta.url)

/** Stands where the public half would: a rehearsal makes no key, and shows none. */
const noBytes = Buffer.from(`\0\0\0\x0bssh-ed25519\0\0\0 ${'\0'.repeat(32)}`, 'latin1')
const noKey = `ssh-ed25519 ${noBytes.toString('base64')} fortress-kit`

/**
 * The Ignition of one node as a file of its host: the secret that it is, made when it is first asked for, and what a rehearsal
 * shows of it, with the name of the host key in place of the key. Throws as `ignition` does.
 */
export function ignitionFile(
  context: Pick<Context, 'site' | 'secrets' | 'state'>,
  node: Guest,
  more: Pick<Given, 'fragments' | 'values'> = {},
): { secret: Secret; shown: string } {
  const { secrets, state } = context
  const [hostKey, nodeKey] = [hostKeyOf(node, secrets), nodeKeyOf(secrets)]
  const text = (given: Given): string =>
    `${JSON.stringify(ignition(context, node, { ...more, ...given }), null, 2)}\n`
  return {
    secret: new Secret(`${node.name}-ignition`, async () => {
      await publish(state, hostKey)
      return text({ nodeKey: await publish(state, nodeKey), hostKey: await hostKey.resolve() })
    }),
    // By the public halves a file is known to hold older keys.
    shown: text({
      nodeKey: publicHalf(state, nodeKey.name) ?? noKey,
      hostKey: [hostKey, publicHalf(state, hostKey.name) ?? ''].join(' ').trim(),
    }),
  }
}

/** Makes the keys of these nodes, where they are not: what a page declares holds their public halves from its first apply on. */
export async function makeKeys(
  { secrets, state }: Pick<Context, 'secrets' | 'state'>,
  nodes: Guest[],
): Promise<void> {
  for (const key of [nodeKeyOf(secrets), ...nodes.map((node) => hostKeyOf(node, secrets))])
    await publish(state, key)
}

/** What a node is given beside what the site says of it. */
export interface Given {
  /** The public half of the key that opens every node. */
  nodeKey: string
  /** The private host key, or in a rehearsal the name of the secret. */
  hostKey: string
  /** What other layers put on the node before its first boot: Butane documents that share no path, unit or user with ours. */
  fragments?: Source[]
  /** What `{{ name }}` stands for in these. */
  values?: Record<string, string>
}

/**
 * The Ignition of one node: config/vm/flatcar-butane.yaml filled in, and the fragments of other layers. It holds the host key, so
 * it is a secret itself. Throws ConfigError with every fault of the documents.
 */
export function ignition(
  { site }: { site: Pick<Site, 'timezone'> },
  node: Guest,
  { nodeKey, hostKey, fragments = [], values = {} }: Given,
): Ignition {
  const file = 'config/vm/flatcar-butane.yaml'
  const text = read(file)
  const { translate } = load('./butane.ts') as typeof import('./butane.ts')
  return translate([{ file, text }, ...fragments], {
    values: {
      ...values,
      name: node.name,
      address: node.address,
      prefix: node.prefix,
      gateway: node.gateway,
      mac: node.mac,
      timezone: site.timezone,
      node_key: nodeKey,
      // As page 18 has it.
      sshd_keys: read('config/vm/sshd-keys.conf').trimEnd(),
      // The line that it stands in ends the last one.
      ssh_host_key: hostKey.trimEnd(),
    },
  })
}
