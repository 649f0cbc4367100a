// Keys and identifiers: how each is written, so that the programs that read them need not be on the laptop.
import { createHash, createPrivateKey, createPublicKey, generateKeyPairSync, randomBytes } from 'node:crypto'

/** A UUID of version 5 (RFC 9562) for a thing of this kind: the same name gives the same UUID everywhere. */
export function uuidOf(kind: string, name: string): string {
  const namespace = createHash('sha1').update(`fortress-kit ${kind}`).digest().subarray(0, 16)
  const b = createHash('sha1').update(namespace).update(name).digest().subarray(0, 16)
  b[6] = ((b[6] ?? 0) & 0x0f) | 0x50
  b[8] = ((b[8] ?? 0) & 0x3f) | 0x80
  return b.toString('hex').replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, '$1-$2-$3-$4-$5')
}

/** The public half of a Curve25519 private key; both are 32 bytes in base64. Throws TypeError for what is no key. */
export function publicKey(key: string): string {
  if (!isKey(key)) throw new TypeError('a Curve25519 key is 32 bytes in base64')
  // RFC 8410: what stands before and behind the 32 bytes never changes.
  const pkcs8 = Buffer.concat([
    Buffer.from('302e020100300506032b656e04220420', 'hex'),
    Buffer.from(key, 'base64'),
  ])
  const spki = createPublicKey(createPrivateKey({ key: pkcs8, format: 'der', type: 'pkcs8' })).export({
    format: 'der',
    type: 'spki',
  })
  return spki.subarray(-32).toString('base64')
}

const isKey = (text: string): boolean =>
  /^[A-Za-z0-9+/]{43}=$/.test(text) && Buffer.from(text, 'base64').toString('base64') === text

/** Stands where 32 bytes of base64 would while there are none: a key that nobody can hold and everybody can read. */
export function placeholder(name: string): string {
  const plain = `placeholder/${name.replaceAll(/[^A-Za-z0-9]/g, '+')}`
  const short =
    plain.length <= 42
      ? plain
      : `${plain.slice(0, 30)}+${createHash('sha256').update(name).digest('hex').slice(0, 11)}`
  return `${short.padEnd(42, '/')}A=`
}

const kind = 'ssh-ed25519'

/** A new Ed25519 private key in the format of ssh-keygen, without a passphrase. `comment` is shown by ssh-keygen -l. */
export function makeSshKey(comment: string): string {
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

/** The public half, as in known_hosts after the name: `ssh-ed25519 AAAA…`. Throws when the text is no key of makeSshKey. */
export function sshPublicKey(privateKey: string): string {
  const bytes = Buffer.from(privateKey.split('\n').slice(1, -2).join(''), 'base64')
  // A public Ed25519 key is always as long: its kind, and 32 bytes.
  const blob = bytes.subarray(start.length + 4, start.length + 4 + text(kind).length + 4 + 32)
  if (
    !bytes.subarray(0, start.length).equals(start) ||
    !blob.subarray(0, text(kind).length).equals(text(kind))
  )
    throw new Error('this is not an Ed25519 private key of OpenSSH')
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
