// The first boot of a Flatcar node: hides what its Ignition is made of.
import { existsSync, readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { homedir } from 'node:os'
import { join } from 'node:path'
import type { Context } from '../engine/page.ts'
import { Fault } from '../ground/fault.ts'
import { read } from '../ground/root.ts'
import { Secret } from '../ground/secret.ts'
import type { Guest } from '../site/machines.ts'
import type { Env, Site } from '../site/model.ts'
import type { Ignition, Source } from './butane.ts'
import { hostKeyOf } from './domain.ts'

const load = createRequire(import.meta.url)

/**
 * The public key that an admin logs in to nodes with: the one beside FK_SSH_KEY, else the first that ssh would look for.
 * Throws Fault when there is none.
 */
export function adminKey(env: Pick<Env, 'FK_SSH_KEY'>): string {
  const key = publicKey(env)
  if (key !== undefined) return key
  throw new Fault('there is no public SSH key to put into the node', {
    said: `not there: ${publicKeys(env).join(', ')}`,
    next: 'name your key in FK_SSH_KEY, with its public half beside it: ssh-keygen -y -f KEY > KEY.pub',
  })
}

function publicKey(env: Pick<Env, 'FK_SSH_KEY'>): string | undefined {
  const found = publicKeys(env).find((path) => existsSync(path))
  return found === undefined ? undefined : readFileSync(found, 'utf8').trim()
}

function publicKeys({ FK_SSH_KEY: chosen }: Pick<Env, 'FK_SSH_KEY'>): string[] {
  const usual = ['id_ed25519', 'id_ecdsa', 'id_ed25519_sk', 'id_ecdsa_sk', 'id_rsa']
  return (chosen ? [chosen] : usual.map((name) => join(homedir(), '.ssh', name))).map((path) => `${path}.pub`)
}

// What stands for the admin's key where there is none yet, so that a rehearsal needs no key.
const noKey = `ssh-ed25519 ${Buffer.from(`\0\0\0\x0bssh-ed25519\0\0\0 ${'\0'.repeat(32)}`, 'latin1').toString('base64')} your-key`

/**
 * The Ignition of one node as a file of its host: the secret that it is, made when it is first asked for, and what a rehearsal
 * shows of it, with the name of the host key in place of the key. Throws as `ignition` does; the secret rejects with Fault when
 * there is no key of the admin.
 */
export function ignitionFile(
  context: Pick<Context, 'env' | 'site' | 'secrets'>,
  node: Guest,
  more: Pick<Given, 'fragments' | 'values'> = {},
): { secret: Secret; shown: string } {
  const hostKey = hostKeyOf(node, context.secrets)
  const text = (given: Given): string =>
    `${JSON.stringify(ignition(context, node, { ...more, ...given }), null, 2)}\n`
  return {
    secret: new Secret(`${node.name}-ignition`, async () =>
      text({ adminKey: adminKey(context.env), hostKey: await hostKey.resolve() }),
    ),
    shown: text({ adminKey: publicKey(context.env) ?? noKey, hostKey: String(hostKey) }),
  }
}

/** What a node is given beside what the site says of it. */
export interface Given {
  /** The admin's public key. */
  adminKey: string
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
  { adminKey, hostKey, fragments = [], values = {} }: Given,
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
      admin_key: adminKey,
      // The line that it stands in ends the last one.
      ssh_host_key: hostKey.trimEnd(),
    },
  })
}
