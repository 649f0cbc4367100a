// What weakens a cluster, one control at a time: test/fixtures/k3s/weaken.yaml.
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { parse } from 'yaml'

export interface Weakening {
  /** Which changes are tried together; absent where a control fails as it is. */
  batch?: string
  waived?: string
  part?: string
  flag?: string
  to?: string
  with?: string
  without?: string
  run?: string
  undo?: string
  /** JSON. */
  object?: string
  pod?: string
  space?: string
  also?: string[]
}

/** Id of the control → what weakens it. */
export function weakenings(): Record<string, Weakening> {
  return parse(readFileSync(join(import.meta.dirname, 'fixtures/k3s/weaken.yaml'), 'utf8')) as Record<
    string,
    Weakening
  >
}

/** The value that a flag has after a change, from what it had. */
export function changed(value: string, { to, with: more, without }: Weakening): string {
  if (to !== undefined) return to
  const list = value.split(',').filter((word) => word !== '' && word !== without)
  return [...list, ...(more === undefined ? [] : [more])].join(',')
}

/** What a flag of a part was set to in lines `PART --FLAG=VALUE …`; '' where it was not. */
export function flagIn(started: string, part: string, flag: string): string {
  const line = started.split('\n').findLast((l) => l.startsWith(`${part} `)) ?? ''
  const word = line.split(' ').findLast((w) => w.startsWith(`--${flag}=`))
  return word?.slice(flag.length + 3) ?? ''
}

/** The configuration of k3s with all these changes of arguments in it; `started` says what k3s sets by itself. */
export function weakened(
  config: Record<string, unknown>,
  changes: [string, Weakening][],
  started: string,
): Record<string, unknown> {
  const values = new Map<string, string>()
  for (const [, change] of changes) {
    const { part = '', flag = '' } = change
    const name = `${part} ${flag}`
    values.set(name, changed(values.get(name) ?? flagIn(started, part, flag), change))
  }
  const out = { ...config }
  for (const [name, value] of values) {
    const [part = '', flag = ''] = name.split(' ')
    const list = (out[`${part}-arg`] ?? []) as string[]
    out[`${part}-arg`] = [...list.filter((word) => !word.startsWith(`${flag}=`)), `${flag}=${value}`]
  }
  return out
}

/** Recorded lines of a start with one change in them. */
export function weakenedLines(started: string, change: Weakening): string {
  const { part = '', flag = '' } = change
  const value = changed(flagIn(started, part, flag), change)
  return started
    .split('\n')
    .map((line) =>
      line.startsWith(`${part} `)
        ? [...line.split(' ').filter((word) => !word.startsWith(`--${flag}=`)), `--${flag}=${value}`].join(
            ' ',
          )
        : line,
    )
    .join('\n')
}
