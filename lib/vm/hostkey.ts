// The SSH host key of a machine that does not exist yet: made on the laptop, so that the first connection is already pinned.
import { generateKeyPairSync, randomBytes } from 'node:crypto'
import type { Secret, Secrets } from '../ground/secret.ts'
import type { Node } from '../site/machines.ts'

const kind = 'ssh-ed25519'

/** A new Ed25519 private key in the format of ssh-keygen, without a passphrase. `comment` is shown by ssh-keygen -l. */
export function makeHostKey(comment: string): string {
  const { d = '', x = '' } = generateKeyPairSync('ed25519').privateKey.export({ format: 'jwk' })
  const [seed, point] = [Buffer.from(d, 'base64url'), Buffer.from(x, 'base64url')]
  const publicPart = Buffer.concat([text(kind), text(point)])
  // The same number twice: with a passphrase it would show that the right one was typed.
  const check = randomBytes(4)
  const secret = Buffer.concat([check, check, publicPart, text(Buffer.concat([seed, point])), text(comment)])
  const padding = Buffer.from(Array.from({ length: (8 - (secret.length % 8)) % 8 }, (_, i) => i + 1))
  const whole = Buffer.concat([start, text(publicPart), text(Buffer.concat([secret, padding]))])
  const lines = whole.toString('base64').match(/.{1,70}/g) ?? []
  return `${begin}\n${lines.join('\n')}\n${end}\n`
}

/** The public half, as in known_hosts after the name: `ssh-ed25519 AAAA…`. Throws when the text is no key of makeHostKey. */
export function publicHalf(privateKey: string): string {
  const bytes = Buffer.from(privateKey.split('\n').slice(1, -2).join(''), 'base64')
  // A public Ed25519 key is always as long: its kind, and 32 bytes.
  const blob = bytes.subarray(start.length + 4, start.length + 4 + text(kind).length + 4 + 32)
  if (
    !bytes.subarray(0, start.length).equals(start) ||
    !blob.subarray(0, text(kind).length).equals(text(kind))
  )
    throw new Error('this is not an Ed25519 host key')
  return `${kind} ${blob.toString('base64')}`
}

const begin = '-----BEGIN OPENSSH PRIVATE KEY-----'
const end = '-----END OPENSSH PRIVATE KEY-----'

/** A string of the SSH protocol: its length, then itself. */
function text(value: string | Buffer): Buffer {
  const bytes = Buffer.from(value)
  const length = Buffer.alloc(4)
  length.writeUInt32BE(bytes.length)
  return Buffer.concat([length, bytes])
}

// The format, no cipher, nothing that makes a key of a passphrase, and one key.
const start = Buffer.concat([
  Buffer.from('openssh-key-v1\0', 'latin1'),
  text('none'),
  text('none'),
  text(''),
  Buffer.from([0, 0, 0, 1]),
])

/** The SSH host key of a node, made when it is first asked for. */
export function hostKeyOf(node: Pick<Node, 'name'>, secrets: Secrets): Secret {
  return secrets(`${node.name}-ssh-host-key`, () => makeHostKey(node.name))
}
