// The SSH host key of a node: made on the laptop before the node exists, so that the first connection is pinned already.
import { makeSshKey, sshPublicKey } from '../ground/keys.ts'
import { type Secrets, Secret } from '../ground/secret.ts'
import type { Node } from '../site/machines.ts'

/** The private key of a node, in the format of OpenSSH; made when it is first needed. */
export function hostKeyOf(node: Pick<Node, 'name'>, secrets: Secrets): Secret {
  return secrets(`${node.name}-ssh-host-key`, () => makeSshKey(node.name))
}

/** The line of known_hosts that pins a node on its host: no secret, but made from one that only the laptop has. */
export function knownHosts(node: Pick<Node, 'name' | 'address'>, secrets: Secrets): Secret {
  const key = hostKeyOf(node, secrets)
  return new Secret(
    `${node.name}-known-hosts`,
    async () => `${node.address} ${sshPublicKey(await key.resolve())}\n`,
  )
}
