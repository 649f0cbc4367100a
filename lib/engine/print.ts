// A page as plain bash, for readers who want no TypeScript.
import { basename, dirname } from 'node:path'
import { Command, quote, sh } from '../ground/sh.ts'
import { landed } from './file.ts'
import { engineShell, wayBack } from './program.ts'
import { type Change, type Step, checkOf, isChange, isWait } from './step.ts'

export interface Printable {
  name: string
  summary: string
  steps: Step[]
  library?: Command
  prepare?: Command
}

/** A page as plain bash, for a machine's own root shell. Doors wait for a person who came in again by another connection. */
export function printed({ name, summary, steps, library, prepare }: Printable): string {
  const guarded = steps.some((s) => s.transaction)
  const lines = [
    '#!/bin/bash',
    `# ${name}: ${summary}`,
    '#',
    '# Run it as root on the machine. Each step asks first and changes only what does not hold.',
    ...(guarded
      ? [
          '# Some steps could close the door you came through. Before the first of them the present state of /etc and of the',
          '# firewall is kept, and taken back by itself after three minutes, unless you log in by a NEW connection and run:',
          `#   touch /run/fortress-keep            (or start this script with FK_KEEP_DOORS=yes, if you have a console)`,
        ]
      : []),
    'set -euo pipefail',
    '[ "$(id --user)" -eq 0 ] || { echo "this script needs root" >&2; exit 1; }',
    ...(steps.some((s) => isChange(s) && s.apply.some((c) => c.feed))
      ? [': "${FK_SECRETS:?a directory that holds the secrets of this page, one file each}"']
      : []),
    ...(steps.some((s) => isChange(s) && s.upload)
      ? [': "${FK_FILES:?a directory that holds the downloads of this page; each step says from where}"']
      : []),
    '',
    '# keep PATH: only the task runner records what was there before; a printed page does not take back.',
    'keep() { :; }',
    'export -f keep',
    'saved() { [ -e "$FK_STATE/saved-$1-$2" ]; }',
    'FK_TMP=$(mktemp --directory)',
    'export FK_TMP',
    engineShell('put.sh')
      .replace(/^# shellcheck.*\n/, '')
      .trimEnd(),
    ...(guarded
      ? [
          ...wayBack(steps),
          engineShell('snapshot.sh')
            .replace(/^# shellcheck.*\n/, '')
            .replace(/\nkeep\(\) \{\n[\s\S]*?\n\}\nexport -f keep\n/, '\n')
            .trimEnd(),
          engineShell('door.sh')
            .replace(/^# shellcheck.*\n/, '')
            .trimEnd(),
        ]
      : []),
    ...(library || prepare
      ? ['', '# What several checks below look at.', `${library?.text ?? ''}${prepare?.text ?? ''}`]
      : []),
  ]
  steps.forEach((step, i) => lines.push('', ...paragraph(step, i, steps.length)))
  if (guarded) lines.push('', 'doors_prove')
  return `${lines.join('\n')}\n`
}

/** What another machine does for a step, as comments. */
export const besides = (step: Change, when: 'before' | 'after'): string[] =>
  (step.onOtherNode?.[when] ?? []).map(
    ({ name }) => `# ${when === 'before' ? 'first' : 'then'}, on ${step.onOtherNode?.on}: ${name}`,
  )

function paragraph(step: Step, i: number, total: number): string[] {
  const lines = [`# ${i + 1}/${total} ${step.name}`]
  if (step.why) lines.push(`#   why: ${step.why}`)
  if (isChange(step))
    for (const when of ['before', 'after'] as const)
      lines.push(...besides(step, when).map((line) => line.replace('# ', '#   ')))
  for (const c of step.controls ?? []) lines.push(`#   ${c.id} ${c.title} [${c.from.join(', ')}]`)
  // The difference between two contents is for a plan; here the answer is enough.
  const text = isChange(step) && step.target?.digest ? landed(step.target).text : checkOf(step).text
  const condition = text.includes('\n') ? `{\n${indent(text)}\n}` : `{ ${text}; }`
  if (isWait(step)) {
    return [
      ...lines,
      `for second in $(seq ${step.seconds}) late; do`,
      `  [ "$second" != late ] || { echo ${quote(`not yet after ${step.seconds} s: ${step.name}`)} >&2; exit 1; }`,
      `  if ${condition} > /dev/null 2>&1; then break; fi`,
      '  sleep 1',
      'done',
    ]
  }
  const body = isChange(step)
    ? commands(step)
    : [
        `echo ${quote(`${step.name}: no`)} >&2`,
        ...step.help
          .trimEnd()
          .split('\n')
          .map((l) => `echo ${quote(`  ${l}`)} >&2`),
        'exit 1',
      ]
  return [
    ...lines,
    `if ! ${condition} > /dev/null 2>&1; then`,
    ...(step.transaction && isChange(step) ? ['  doors_arm'] : []),
    ...body.map(indent),
    'fi',
  ]
}

/** Without a laptop a person fetches the file, and the machine proves it. */
function brought({
  artifact: { url, sha256, sha512, signature, unproven },
  to,
}: NonNullable<Change['upload']>): string[] {
  const file = (address: string) =>
    new Command(`"$FK_FILES"/${quote(address.slice(address.lastIndexOf('/') + 1))}`, undefined, '')
  const lines = [`# in $FK_FILES: ${url}`]
  if (signature) lines.push(`#               ${signature.url}`, `#               ${signature.keyUrl}`)
  if (unproven !== undefined)
    return [...lines, `echo ${quote(`nothing proves ${url}: ${unproven}`)} >&2`, 'exit 1']
  if (sha256) lines.push(`printf '%s  %s\\n' ${sha256} ${file(url)} | sha256sum --check --quiet`)
  if (sha512) lines.push(`printf '%s  %s\\n' ${sha512} ${file(url)} | sha512sum --check --quiet`)
  if (signature)
    lines.push(
      sh`image_signed ${file(url)} ${file(signature.url)} ${file(signature.keyUrl)} ${signature.key}`.text,
    )
  // As if it had been sent: beside its place, under a name that tells its digest.
  const part = new Command(
    `${quote(dirname(to))}/.${quote(basename(to))}."${'$'}{digest:0:16}".part`,
    undefined,
    '',
  )
  return [
    ...lines,
    sh`digest=$(sha256sum ${file(url)} | cut --delimiter=' ' --fields=1)`.text,
    sh`cp ${file(url)} ${part}`.text,
    sh`export FK_SENT="$digest"${` ${to}`}`.text,
  ]
}

function commands(step: Change): string[] {
  if (step.upload) return [...brought(step.upload), ...step.apply.map((c) => c.text)]
  return step.apply.map((c) => (c.feed ? `{\n${indent(c.text)}\n} < "$FK_SECRETS/${c.feed.name}"` : c.text))
}

/** Heredoc bodies must stay where they are; everything else moves two columns in. */
function indent(text: string): string {
  let end: string | undefined
  return text
    .split('\n')
    .map((line) => {
      if (end !== undefined) {
        if (line === end) end = undefined
        return line
      }
      end = /<<\s*'?(\w+)'?/.exec(line)?.[1]
      return line === '' ? line : `  ${line}`
    })
    .join('\n')
}
