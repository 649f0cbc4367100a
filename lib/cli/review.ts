// The printed bash of every page, as it is kept in test/plans for people to review.
import { spawnSync } from 'node:child_process'
import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { Fault } from '../ground/fault.ts'
import { root } from '../ground/root.ts'

export const folder = join(root, 'test/plans')

/** Page → what it prints for the site that is shipped; nothing of the person who asks gets into it. */
export function plans(): Map<string, string> {
  const schema = JSON.parse(readFileSync(join(root, 'config/schema/env.json'), 'utf8')) as {
    properties: object
  }
  const unset = Object.fromEntries(Object.keys(schema.properties).map((name) => [name, '']))
  const { status, stdout, stderr } = spawnSync(process.execPath, [join(root, 'bin/task.cjs'), 'print'], {
    encoding: 'utf8',
    maxBuffer: 64 * 1024 * 1024,
    env: { ...process.env, ...unset, FK_STATE_DIR: '/nonexistent' },
  })
  if (status !== 0) throw new Fault('The pages cannot be printed', { ran: './task print', said: stderr })
  const first = '#!/bin/bash\n'
  const texts = stdout.split(new RegExp(`^${first}(?=# \\d\\d-)`, 'm')).slice(1)
  return new Map(texts.map((text) => [/^# (\S+):/.exec(text)?.[1] ?? '', first + text]))
}

/** Writes test/plans anew; `git diff` then shows what a change does to machines. */
export function review(): number {
  const printed = plans()
  mkdirSync(folder, { recursive: true })
  for (const name of readdirSync(folder)) rmSync(join(folder, name))
  for (const [name, text] of printed) writeFileSync(join(folder, `${name}.sh`), text)
  process.stdout.write('test/plans is written. What changed: git diff test/plans\n')
  return 0
}
