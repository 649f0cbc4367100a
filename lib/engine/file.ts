// A step for one whole file on a machine. This file hides how it is compared, tested by its own checker, renamed into place, and
// restored when a command after it fails.
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
  /** Runs before the file is written, with $new as the candidate. */
  test?: Command
  /** Run after it is written, each time. When one fails the old file is restored. */
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
  if (!/^\/[\w@%+=:,./ -]+$/.test(path) || path.includes('/../'))
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
      sh`put_restore ${path}`,
      // On a line of its own: a comment behind the command ends there.
      ...then.map(
        (c) => sh`{ ${c}
} || true # the old file was good for it once`,
      ),
    ],
  }
  if (options.secret) {
    // Nothing about a secret leaves the laptop but itself, not even its hash: the machine keeps the hash of what it got. The text
    // around a secret is none: by its hash a change of what is declared is noticed.
    const seen = `/var/lib/fortress/secret${path}.sha256`
    const around = shown === undefined ? undefined : createHash('sha256').update(shown).digest('hex')
    const kept = around === undefined ? sh`` : sh` && [ "$(cat ${`${seen}.around`})" = ${around} ]`
    const note = around === undefined ? sh`` : sh` && echo ${around} > ${`${seen}.around`}`
    const stat = sh`"$(stat --format='%a %U:%G' ${bare(path)})"`
    const same = sh`[ ${stat} = ${bare(`"${mode} ${owner}"`)} ] && sha256sum --check --status ${seen}${kept}`
    return {
      ...common,
      check: sh`put_finished ${path} && ${same}`,
      apply: [
        feed(options.secret)`${bare(put)}`,
        sh`install --directory --mode=700 "$(dirname ${bare(seen)})" && sha256sum ${path} > ${seen}${note}`,
        ...then,
        sh`put_finish ${path}`,
      ],
    }
  }
  const body = text as string
  return {
    ...common,
    check: matches(common.target),
    apply: [heredoc(put, body, path), ...then, sh`put_finish ${path}`],
  }
}

/** Whether a file is on the machine as declared, and the commands that follow it have run. */
const matches = ({ path, digest, mode, owner }: Target): Command =>
  sh`put_matches ${path} ${digest ?? ''} ${mode} ${owner}`

const bare = (text: string) => new Command(text, undefined, '')

/** A text, or a file of config/, with its values filled in. Throws TypeError for what does not fit; `path` is named there. */
export function content(path: string, { from, text, name: step, values = {} }: FileOptions): string {
  const wrong = (what: string) => new TypeError(`file ${path}: ${what}`)
  const source = from ?? 'the text'
  if ((from === undefined) === (text === undefined)) throw wrong('say either from or text')
  if (from !== undefined && !from.startsWith('config/')) throw wrong(`${from} is not under config/`)
  const raw = text ?? read(from as string, step ?? path)
  const body = raw.replaceAll(/\{\{ ([a-z][a-z0-9_]*) \}\}/g, (_, name: string) => {
    const value = values[name]
    if (value === undefined) throw wrong(`${source} asks for {{ ${name} }}, which has no value`)
    return String(value)
  })
  const spare = Object.keys(values).filter((name) => !raw.includes(`{{ ${name} }}`))
  if (spare.length > 0) throw wrong(`${source} does not use {{ ${spare.join(' }}, {{ ')} }}`)
  if (!body.endsWith('\n')) throw wrong(`${source} does not end with a newline`)
  if (body.includes('\0')) throw wrong(`${source} holds a NUL byte`)
  // MAX_ARG_STRLEN of execve(2) is 128 KiB, and the quoting needs room.
  if (Buffer.byteLength(body) > 100_000) throw wrong(`${source} is larger than 100 KB`)
  return body
}

/** A command with `body` as its standard input; `at` is where that comes from. */
export function heredoc(command: string, body: string, at: string): Command {
  let end = 'FORTRESS'
  while (body.split('\n').includes(end)) end += '_'
  return new Command(`${command} << '${end}'\n${body}${end}`, undefined, at)
}
