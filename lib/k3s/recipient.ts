// The public half of an age identity, known without waiting: pages are written before anything is asked.
import { existsSync, readFileSync } from 'node:fs'
import { Fault } from '../ground/fault.ts'
import { publicKey } from '../ground/keys.ts'

const letters = 'qpzry9x8gf2tvdw0s3jn54khce6mua7l'

/** The checksum of BIP 173 over what stands before the 1, and the values behind it. */
function polymod(prefix: string, values: number[]): number {
  const codes = [...prefix].map((c) => c.charCodeAt(0))
  let sum = 1
  for (const value of [...codes.map((c) => c >> 5), 0, ...codes.map((c) => c & 31), ...values]) {
    const top = sum >>> 25
    sum = ((sum & 0x1ffffff) << 5) ^ value
    for (const [i, part] of [0x3b6a57b2, 0x26508e6d, 0x1ea119fa, 0x3d4233dd, 0x2a1462b3].entries())
      if ((top >>> i) & 1) sum ^= part
  }
  return sum >>> 0
}

/** The same bits in groups of another size. Groups that are not full are filled with zeros (`pad`), or left out. */
function regroup(values: Iterable<number>, from: number, to: number, pad: boolean): number[] {
  const out: number[] = []
  let [held, bits] = [0, 0]
  for (const value of values) {
    held = ((held << from) | value) & 0xfff
    bits += from
    while (bits >= to) out.push((held >> (bits -= to)) & ((1 << to) - 1))
  }
  if (pad && bits > 0) out.push((held << (to - bits)) & ((1 << to) - 1))
  return out
}

/** The recipient `age1…` of an X25519 identity `AGE-SECRET-KEY-1…`. Throws TypeError for what is none. */
export function recipientOf(identity: string): string {
  const [prefix, word] = [identity.slice(0, 15).toLowerCase(), identity.slice(16).toLowerCase()]
  const values = [...word].map((c) => letters.indexOf(c))
  const seed = Buffer.from(regroup(values.slice(0, -6), 5, 8, false))
  if (
    prefix !== 'age-secret-key-' ||
    identity[15] !== '1' ||
    values.includes(-1) ||
    seed.length !== 32 ||
    polymod(prefix, values) !== 1
  )
    throw new TypeError('this is no X25519 identity of age')
  const point = regroup(Buffer.from(publicKey(seed.toString('base64')), 'base64'), 8, 5, true)
  const sum = polymod('age', [...point, 0, 0, 0, 0, 0, 0]) ^ 1
  const check = [0, 1, 2, 3, 4, 5].map((i) => (sum >>> (5 * (5 - i))) & 31)
  return `age1${[...point, ...check].map((value) => letters[value]).join('')}`
}

/**
 * The recipients of an identity file; none while it is not there. Of a post-quantum key the file must say its recipient in the
 * comment that age-keygen writes above it. Throws a Fault for a file that cannot be understood.
 */
export function recipientsIn(path: string): string[] {
  if (!existsSync(path)) return []
  let said: string | undefined
  return readFileSync(path, 'utf8')
    .split('\n')
    .flatMap((line) => {
      said = /^# public key: (age1\S+)/.exec(line)?.[1] ?? said
      if (!line.startsWith('AGE-SECRET-KEY-')) return []
      if (line.startsWith('AGE-SECRET-KEY-1')) return [recipientOf(line.trim())]
      if (said !== undefined) return [said]
      throw new Fault(`${path} does not say the public half of its identity`, {
        next: `age-keygen -y ${path} shows it: write it above the key, as # public key: age1…`,
      })
    })
}
