// A passphrase for a person at a keyboard.
import { randomInt } from 'node:crypto'

/** 32 letters and digits that are hard to mistake for each other, in groups: 160 bits. */
export function makePassphrase(): string {
  const alphabet = 'abcdefghijkmnpqrstuvwxyz23456789'
  const letters = Array.from({ length: 32 }, () => alphabet[randomInt(alphabet.length)]).join('')
  return letters.match(/.{4}/g)?.join('-') ?? ''
}
