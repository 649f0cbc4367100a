// A file that lands on a machine: from config/, compared, tested by its own checker, renamed into place, taken back on failure.
import { createHash } from 'node:crypto'
import { read } from '../ground/root.ts'
import type { Secret } from '../ground/secret.ts'
import { Command, feed, quote, sh } from '../ground/sh.ts'
import type { Change, Control, Target, Transaction } from './step.ts'

export interface FileOptions {
  /** Path in this repository, under config/. */
  from?: string
  /** The content itself, where it is made from data. */
  text?: string
  /** A secret that becomes the content. It is compared by a digest that only the machine knows. */
  secret?: Secret
  /** The same with names where secrets stand: what a rehearsal writes, and by what a change is known that touches no secret. */
  shown?: string
  /** Replace `{{ name }}` in the content. A name that the file does not use, or the other way round, is an error. */
  values?: Record<string, string | number>
  /** Octal, as in stat --format=%a. */
  mode?: string
  owner?: string
  /** Runs before the file lands, with $new as the candidate. */
  test?: Command
  /** Run after it landed, each time it lands. When one fails the old file comes back. */
  then?: Command[]
  name?: string
  why?: string
  controls?: Control[]
  transaction?: Transaction
  seconds?: number
}

/**
 * A change step for one whole file. Throws TypeError for a relative path, an impossible mode, content without a final newline,
 * with a NUL or over 100 KB, and for values that do not fit the file.
 */
export function file(path: string, options: FileOptions): Change {
  const { mode = '644', owner = 'root:root', test, then = [], shown } = options
  if (!/^\/[\w@%+=:,./-]+$/.test(path) || path.includes('/../'))
    throw new TypeError(`file: ${path} is not a plain absolute path`)
  if (!/^[0-7]{3,4}$/.test(mode)) throw new TypeError(`file ${path}: mode ${mode} is not octal`)
  const text = options.secret ? undefined : content(path, options)
  const digest = text === undefined ? undefined : createHash('sha256').update(text).digest('hex')
  const put = sh`put ${path} ${mode} ${owner}`.text + (test ? ` ${quote(test.text)}` : '')
  const common = {
    name: options.name ?? `${path} is as declared`,
    ...(options.why === undefined ? {} : { why: options.why }),
    ...(options.controls === undefined ? {} : { controls: options.controls }),
    ...(options.transaction === undefined ? {} : { transaction: options.transaction }),
    ...(options.seconds === undefined ? {} : { seconds: options.seconds }),
    target: { path, text, digest, mode, owner, test, ...(shown === undefined ? {} : { shown }) },
    recover: [
      sh`putback ${path}`,
      ...then.map((c) => sh`{ ${c}; } || true # the old file was good for it once`),
    ],
  }
  if (options.secret) {
    // The laptop tells nothing about a secret, not even its hash: the machine keeps the hash of what it was given. What stands
    // around it is no secret; by the hash of that a change of what is declared is known.
    const seen = `/var/lib/fortress/secret${path}.sha256`
    const around = shown === undefined ? undefined : createHash('sha256').update(shown).digest('hex')
    const same = around === undefined ? sh`` : sh` && [ "$(cat ${`${seen}.around`})" = ${around} ]`
    const note = around === undefined ? sh`` : sh` && echo ${around} > ${`${seen}.around`}`
    return {
      ...common,
      check: sh`settled ${path} && [ "$(stat --format='%a %U:%G' ${bare(path)})" = ${bare(`"${mode} ${owner}"`)} ] && sha256sum --check --status ${seen}${same}`,
      apply: [
        feed(options.secret)`${bare(put)}`,
        sh`install --directory --mode=700 "$(dirname ${bare(seen)})" && sha256sum ${path} > ${seen}${note}`,
        ...then,
        sh`settle ${path}`,
      ],
    }
  }
  const body = text as string
  const end = delimiter(body)
  return {
    ...common,
    check: sh`${landed(common.target)} || { rc=$?; [ "$rc" -eq 2 ] || [ ! -f ${path} ] || cat ${path}; (exit "$rc"); }`,
    apply: [new Command(`${put} << '${end}'\n${body}${end}`, undefined, path), ...then, sh`settle ${path}`],
  }
}

/** The question whether a file is on the machine as it should be, with nothing left to follow. */
export const landed = ({ path, digest, mode, owner }: Target): Command =>
  sh`landed ${path} ${digest ?? ''} ${mode} ${owner}`

const bare = (text: string) => new Command(text, undefined, '')

function content(path: string, { from, text, values = {} }: FileOptions): string {
  if ((from === undefined) === (text === undefined))
    throw new TypeError(`file ${path}: say either from or text`)
  if (from !== undefined && !from.startsWith('config/'))
    throw new TypeError(`file ${path}: ${from} is not under config/`)
  const raw = text ?? read(from as string)
  const used = new Set<string>()
  const body = raw.replaceAll(/\{\{ ([a-z][a-z0-9_]*) \}\}/g, (_, name: string) => {
    const value = values[name]
    if (value === undefined)
      throw new TypeError(`file ${path}: ${from ?? 'the text'} asks for {{ ${name} }}, which has no value`)
    used.add(name)
    return String(value)
  })
  const spare = Object.keys(values).filter((name) => !used.has(name))
  if (spare.length > 0)
    throw new TypeError(`file ${path}: ${from ?? 'the text'} does not use {{ ${spare.join(' }}, {{ ')} }}`)
  if (!body.endsWith('\n'))
    throw new TypeError(`file ${path}: ${from ?? 'the text'} does not end with a newline`)
  if (body.includes('\0')) throw new TypeError(`file ${path}: ${from ?? 'the text'} holds a NUL byte`)
  // MAX_ARG_STRLEN of execve(2) is 128 KiB, and the quoting needs room.
  if (Buffer.byteLength(body) > 100_000)
    throw new TypeError(`file ${path}: ${from ?? 'the text'} is larger than 100 KB`)
  return body
}

function delimiter(body: string): string {
  let end = 'FORTRESS'
  while (body.split('\n').includes(end)) end += '_'
  return end
}
