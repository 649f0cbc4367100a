// What makers publish, in the forms in which they do: digests of files, and the versions that are out.
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { newerPatch, sumIn, versionsIn } from '../../lib/cli/sums.ts'

const [a, b] = ['a'.repeat(64), 'b'.repeat(64)]
const index = `apiVersion: v1
entries:
  cilium:
    - name: cilium
      version: 1.20.3
      digest: ${a}
      urls: [https://helm.cilium.io/cilium-1.20.3.tgz]
    - name: cilium
      version: 1.20.2
      digest: sha256:${b}
      urls: [cilium-1.20.2.tgz]
  other:
    - name: other
      version: 9.9.9
      digest: ${a}
      urls: [other-9.9.9.tgz]
`
const long = `${a}${b}`

const release = JSON.stringify({
  assets: [
    { name: 'age-v1.tar.gz', digest: `sha256:${a}` },
    { name: 'old.tar.gz', digest: null },
    { name: 'odd.tar.gz', digest: `sha512:${b}` },
  ],
})

test('a SHA-512 is taken where one is pinned, and no SHA-256 in its place', () => {
  assert.equal(sumIn(`${long}  runsc\n`, 'runsc', 128), long)
  assert.equal(sumIn(`${a}  runsc\n`, 'runsc', 128), undefined)
})

describe('the digest of a file', () => {
  const cases: [what: string, text: string, file: string, is: string | undefined][] = [
    ['a list of sha256sum', `${b}  k3s-arm64\n${a}  k3s\n`, 'k3s', a],
    ['with paths, and in binary mode', `${b}  dist/other\n${a} *dist/k3s\n`, 'k3s', a],
    ['in capitals', `${a.toUpperCase()}  k3s\n`, 'k3s', a],
    ['a digest alone', `${a}\n`, 'kubectl', a],
    ['a digest alone, without an end of line', a, 'kubectl', a],
    ['of another file alone', `${a}  other\n`, 'k3s', undefined],
    ['a name that only begins like it', `${a}  k3s-arm64\n`, 'k3s', undefined],
    ['a longer digest', `${a}${a}  k3s\n`, 'k3s', undefined],
    ['several digests without names', `${a}\n${b}\n`, 'k3s', undefined],
    ['a release of GitHub', release, 'age-v1.tar.gz', a],
    ['a file that is too old for a digest there', release, 'old.tar.gz', undefined],
    ['a digest of another kind there', release, 'odd.tar.gz', undefined],
    ['a file that is not there', release, 'new.tar.gz', undefined],
    ['the index of a chart repository', index, 'cilium-1.20.3.tgz', a],
    ['with a name before the digest', index, 'cilium-1.20.2.tgz', b],
    ['a chart that is not in it', index, 'cilium-1.20.4.tgz', undefined],
    ['a page that says that there is nothing', '<html>not found</html>', 'k3s', undefined],
    ['nothing', '', 'k3s', undefined],
  ]
  for (const [what, text, file, is] of cases) test(what, () => assert.equal(sumIn(text, file), is))
})

describe('the versions that are out', () => {
  test('releases of GitHub, without drafts and those before a release', () => {
    const text = JSON.stringify([
      { tag_name: 'v1.4.0' },
      { tag_name: 'v1.5.0', prerelease: true },
      { tag_name: 'v1.6.0', draft: true },
    ])
    assert.deepEqual(versionsIn(text, 'age'), ['v1.4.0'])
  })
  test('channels of k3s', () => {
    const text = JSON.stringify({ data: [{ id: 'v1.36', latest: 'v1.36.5+k3s1' }, { id: 'testing' }] })
    assert.deepEqual(versionsIn(text, 'k3s'), ['v1.36.5+k3s1'])
  })
  test('charts of that name in an index', () =>
    assert.deepEqual(versionsIn(index, 'cilium'), ['1.20.3', '1.20.2']))
  test('version.txt of Flatcar, and one word', () => {
    assert.deepEqual(versionsIn('FLATCAR_BUILD=4800\nFLATCAR_VERSION=4800.2.0\n', 'flatcar'), ['4800.2.0'])
    assert.deepEqual(versionsIn('v1.36.7\n', 'kubectl'), ['v1.36.7'])
    assert.deepEqual(versionsIn('<html>1.2.3</html>', 'kubectl'), [])
  })
})

describe('a newer patch', () => {
  const cases: [pinned: string, out: string[], is: string | undefined, channel?: boolean][] = [
    ['v1.36.4+k3s1', ['v1.36.5+k3s1', 'v1.36.10+k3s1', 'v1.37.1+k3s1'], 'v1.36.10+k3s1'],
    ['v1.36.4+k3s1', ['v1.36.4+k3s2'], 'v1.36.4+k3s2'],
    ['v1.36.4+k3s1', ['v1.36.4+k3s1', 'v1.36.3+k3s9', 'v1.35.9+k3s1', 'v1.36.5-rc1+k3s1'], undefined],
    ['1.20.2', ['1.20.3', '1.21.0', '1.21.0-pre.1'], '1.20.3'],
    ['v1.6.1', ['nonsense', 'v1.6.2-rc.1'], undefined],
    ['4757.2.1', ['4800.2.0'], undefined],
    ['4757.2.1', ['4800.2.0'], '4800.2.0', true],
    ['4757.2.1', ['4757.2.1'], undefined, true],
  ]
  for (const [pinned, out, is, channel] of cases)
    test(`${pinned}, out ${out.join(' ')}${channel ? ', a channel' : ''}: ${is ?? 'none'}`, () =>
      assert.equal(newerPatch(pinned, out, channel), is))
})
