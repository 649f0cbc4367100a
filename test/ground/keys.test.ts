// Keys and identifiers: each is what the programs that read it take.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { placeholder, publicKey } from '../../lib/ground/keys.ts'
import { makePassphrase } from '../../lib/ground/passphrase.ts'

test('a passphrase has 160 bits and no letter that looks like another', () => {
  assert.match(makePassphrase(), /^([a-km-np-z2-9]{4}-){7}[a-km-np-z2-9]{4}$/)
  assert.notEqual(makePassphrase(), makePassphrase())
})

for (const [key, why] of [
  ['', 'nothing'],
  ['AAAA', 'too short'],
  [`${'A'.repeat(43)}`, 'no padding'],
  [`${'A'.repeat(42)}B=`, 'bits left over'],
] as const)
  test(`a text with ${why} is no key`, () =>
    assert.throws(() => publicKey(key), { message: 'a Curve25519 key is 32 bytes in base64' }))

for (const [name, want] of [
  ['wg-host', 'placeholder/wg+host///////////////////////A='],
  ['wg-peer-laptop', 'placeholder/wg+peer+laptop////////////////A='],
  [`wg-peer-${'a'.repeat(50)}`, 'placeholder/wg+peer+aaaaaaaaaa+198d10cfad1A='],
] as const)
  test(`the placeholder for ${name} is a key that says what it is`, () => {
    const text = placeholder(name)
    assert.equal(text, want)
    assert.equal(Buffer.from(text, 'base64').length, 32)
    assert.equal(Buffer.from(text, 'base64').toString('base64'), text)
  })
