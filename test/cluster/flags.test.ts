// The list of flags beside the programs themselves.
import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { existsSync, mkdtempSync, rmSync, symlinkSync } from 'node:fs'
import { availableParallelism, tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { type Kind, allFlags } from '../../lib/k3s/check/flags.ts'
import { builtProgram } from '../../lib/lab/lab.ts'

const program = builtProgram('kube-bed')
const skip = program === undefined && 'kube-bed is not installed'

let dir = ''
before(() => {
  dir = mkdtempSync(join(tmpdir(), 'fk-flags-'))
})
after(() => rmSync(dir, { recursive: true, force: true }))

/** What a program says, on both outputs, whatever its exit code. It is told something it does not know, so it never starts. */
function said(name: string, args: string[]): Promise<string> {
  const path = join(dir, name)
  if (!existsSync(path)) symlinkSync(program!, path)
  return new Promise((resolve) => {
    execFile(path, args, { timeout: 60_000, maxBuffer: 1 << 24 }, (_, stdout, stderr) =>
      resolve(stdout + stderr),
    )
  })
}

// What pflag calls a kind; all others are some form of text. `seccomp-default` shows a word of its text where its kind would be.
const kindOf = (word: string): Kind =>
  word === '' || word === 'RuntimeDefault' ? 'boolean'
  : /^(u?int|float)[0-9]*$/.test(word) ? 'number'
  : word === 'duration' ? 'duration'
  : 'text' // prettier-ignore

/** The flags that --help names, with their kinds where it tells them. */
function listed(name: string, help: string): Map<string, Kind | undefined> {
  if (name === 'etcd')
    return new Map(
      [...help.matchAll(/^ {2}(?:etcd )?--([a-z0-9-]+)(?: .*)?$/gm)].map(([, flag]) => [flag!, undefined]),
    )
  const lines = help.matchAll(/^ +(?:-\w, )?--([A-Za-z0-9-]+)(?: (?! )(\S+))?/gm)
  return new Map([...lines].map(([, flag, word = '']) => [flag!, kindOf(word)]))
}

/** Whether a program knows a flag, also one that --help hides. */
async function knows(name: string, flag: string): Promise<boolean> {
  const text = await said(name, [`--${flag}=x`, '--no-such-flag=x'])
  assert.match(
    text,
    /no-such-flag|unknown|not defined|invalid/,
    `${name} --${flag} is neither known nor unknown: ${text}`,
  )
  return (
    !text.includes(`unknown flag: --${flag}\n`) &&
    !new RegExp(`(unknown flag: -|not defined: )-${flag}["\\s]`).test(text)
  )
}

/** Asks for all, a few at a time. */
async function known(name: string, flags: string[]): Promise<string[]> {
  const left = [...flags]
  const found: string[] = []
  const ask = async (): Promise<void> => {
    for (let flag = left.shift(); flag !== undefined; flag = left.shift())
      if (await knows(name, flag)) found.push(flag)
  }
  await Promise.all(Array.from({ length: availableParallelism() }, ask))
  return found.sort()
}

for (const [version, { programs }] of allFlags())
  for (const [name, { flags, deprecated, removed }] of programs)
    describe(`${name} of ${version}`, { skip }, () => {
      test('has the flags on the list and no other', async () => {
        const own = listed(name, await said(name, ['--help']))
        for (const flag of ['help', 'version', ...deprecated.keys()]) own.delete(flag)
        assert.deepEqual([...own.keys()].sort(), [...flags.keys()].sort())
        for (const [flag, kind] of own) if (kind !== undefined) assert.equal(flags.get(flag), kind, flag)
      })

      test('still knows what is deprecated', async () => {
        assert.deepEqual(await known(name, [...deprecated.keys()]), [...deprecated.keys()].sort())
      })

      test('knows nothing of what is removed', async () => {
        assert.deepEqual(await known(name, [...removed.keys()]), [])
      })
    })
