// The definitions of shell files: taken apart, so that a printed page gets the functions that it uses and no others.
import { readdirSync } from 'node:fs'
import { join } from 'node:path'
import { read, root } from '../ground/root.ts'

/** What a file of shell defines at its top: a function, or variables, or a statement that has to run before either is used. */
export interface Definition {
  kind: 'function' | 'variables' | 'statement'
  /** Of the function, or of the variables. */
  names: string[]
  /** With the comment above it. */
  text: string
  /** `export` or `export -f` stands in the file. */
  exported: boolean
  /** The file of this kit that has it. */
  file?: string
}

/** For each line of bash whether it begins inside of quotes or of a heredoc, where a blank would be part of the text. */
export function insideText(bash: string): boolean[] {
  const lines = [false]
  const stack: string[] = []
  const heredocs: string[] = []
  for (let i = 0; i < bash.length; i++) {
    const c = bash[i] as string
    const top = stack.at(-1)
    const quoted = top === "'" || top === '"' || top === "$'"
    if (c === '\n') {
      lines.push(quoted)
      for (const end of quoted ? [] : heredocs.splice(0))
        for (let line: string | undefined; line !== end;) {
          lines[lines.length - 1] = true
          const stop = bash.indexOf('\n', i + 1)
          if (stop < 0) return lines
          line = bash.slice(i + 1, stop)
          i = stop
          lines.push(false)
        }
    } else if (top === "'") {
      if (c === "'") stack.pop()
    } else if (c === '\\') {
      if (bash[i + 1] !== '\n') i++
    } else if (top === "$'") {
      if (c === "'") stack.pop()
    } else if (c === '$' && bash[i + 1] === '(') stack.push(bash[++i] as string)
    else if (top === '"') {
      if (c === '"') stack.pop()
    } else if (c === '$' && bash[i + 1] === "'") {
      stack.push("$'")
      i++
    } else if (c === '#' && /(^|[\s;(])$/.test(bash.slice(Math.max(0, i - 1), i))) {
      const end = bash.indexOf('\n', i)
      i = end < 0 ? bash.length : end - 1
    } else if (c === '"' || c === "'" || c === '(') stack.push(c)
    else if (c === ')' && top === '(') stack.pop()
    else if (bash.startsWith('<<<', i)) i += 2
    else if (bash.startsWith('<<', i)) {
      const [all, end] = /^<<\s*['"\\]?([A-Za-z_]\w*)['"]?/.exec(bash.slice(i, i + 80)) ?? []
      if (end !== undefined) heredocs.push(end)
      i += (all ?? '<<').length - 1
    }
  }
  return lines
}

/** Bash, moved in by `blanks`, where that changes nothing of what it says. */
export function indented(bash: string, blanks: string): string {
  const inside = insideText(bash)
  return bash
    .split('\n')
    .map((line, i) => (line === '' || inside[i] ? line : blanks + line))
    .join('\n')
}

/** Bash without the bodies of its heredocs and without its comments: where calls of functions can stand. */
export function commandsOf(bash: string): string {
  const inside = insideText(bash)
  let heredoc: string | undefined
  return bash
    .split('\n')
    .filter((line, i) => {
      if (heredoc !== undefined) {
        if (line === heredoc) heredoc = undefined
        return false
      }
      if (inside[i]) return true
      heredoc = /(?<!<)<<\s*'(\w+)'/.exec(line)?.[1]
      return !line.trimStart().startsWith('#')
    })
    .join('\n')
}

/** The definitions of a file of shell, in their order. What stands above a blank line belongs to nobody. */
export function definitions(shell: string): Definition[] {
  const inside = insideText(shell)
  const lines = shell.split('\n')
  const found: Definition[] = []
  const exported = new Set<string>()
  let comment: string[] = []
  for (let i = 0; i < lines.length; i++) {
    const line = lines[i] as string
    if (line === '') comment = []
    else if (/^#( |$)/.test(line)) {
      if (!line.startsWith('# shellcheck shell=')) comment.push(line)
    } else {
      const name = /^(\w+)\(\) [{(]/.exec(line)?.[1]
      const end = name === undefined ? endOfStatement(lines, inside, i) : endOfFunction(lines, inside, i)
      const text = lines.slice(i, end + 1).join('\n')
      const exports = /^export (-f )?(?!-)([^=]+)$/.exec(text.replaceAll('\\\n', ' '))?.[2]
      if (exports === undefined) {
        const names = name === undefined ? assigned(text) : [name]
        const kind = name !== undefined ? 'function' : names.length > 0 ? 'variables' : 'statement'
        found.push({ kind, names, text: [...comment, text].join('\n'), exported: false })
      } else for (const each of exports.split(/\s+/)) exported.add(each)
      comment = []
      i = end
    }
  }
  return found.map((each) => ({ ...each, exported: each.names.some((name) => exported.has(name)) }))
}

function endOfFunction(lines: string[], inside: boolean[], from: number): number {
  const first = lines[from] as string
  const close = /\(\) \{\s*(#.*)?$/.test(first) ? /^\}/ : first.endsWith('() (') ? /^\)/ : /\}(\s+#.*)?$/
  const start = close.source.startsWith('^') ? from + 1 : from
  for (let i = start; i < lines.length; i++)
    if (close.test(lines[i] as string) && !inside[i] && !(inside[i + 1] ?? false)) return i
  return lines.length - 1
}

function endOfStatement(lines: string[], inside: boolean[], from: number): number {
  let end = from
  while (end + 1 < lines.length && (inside[end + 1] || (lines[end] as string).endsWith('\\'))) end += 1
  return end
}

/** The variables that a statement gives a value, when it does nothing else. */
function assigned(statement: string): string[] {
  if (!/^(\w+=|: "\$\{\w+[:=])/.test(statement)) return []
  const names = [...statement.matchAll(/(?:^|[ ;])([A-Za-z_]\w*)=|^: "\$\{(\w+):?=/g)]
  return [...new Set(names.map(([, plain, default_]) => plain ?? default_ ?? ''))]
}

const parsed = new Map<string, Definition[]>()

/** The definitions of a shell file of this kit, by its path. */
export function definitionsIn(file: string): Definition[] {
  const found = parsed.get(file) ?? definitions(read(file)).map((each) => ({ ...each, file }))
  parsed.set(file, found)
  return found
}

let files: string[] | undefined

/** Every file of shell under lib/, by its path. */
function shellFiles(): string[] {
  files ??= (readdirSync(join(root, 'lib'), { recursive: true }) as string[])
    .filter((name) => name.endsWith('.sh'))
    .map((name) => `lib/${name}`)
    .sort()
  return files
}

/** The file of this kit that has a definition word for word; undefined for one that was made. */
export const homeOf = ({ file, text }: Definition): string | undefined =>
  file ?? shellFiles().find((file) => definitionsIn(file).some((each) => each.text === text))

/** Whether bash uses a name: calls the function (also in a string that another bash runs), or reads the variable. */
export function uses(commands: string, { kind }: Pick<Definition, 'kind'>, name: string): boolean {
  if (!commands.includes(name)) return false
  if (kind !== 'function' || name.includes('_')) return new RegExp(`\\b${name}\\b`).test(commands)
  const before = `(?:^|[;&|({!'"\`]|\\b(?:if|then|do|else|elif|while|until)\\b)`
  return new RegExp(`${before}\\s*(?:\\w+=\\S*\\s+)*${name}(?=[\\s;)|&'"]|$)`, 'm').test(commands)
}

/**
 * The definitions that some commands need, in the order in which they are offered: what the commands use, and what that uses.
 * Where two have one name the first is meant. Statements are always needed: they prepare what functions read.
 */
export function needed(commands: string, offered: Definition[]): Definition[] {
  const taken = new Set<Definition>()
  const names = new Set<string>()
  const texts = [commandsOf(commands)]
  const take = (definition: Definition) => {
    taken.add(definition)
    for (const name of definition.names) names.add(`${definition.kind} ${name}`)
    texts.push(commandsOf(definition.text))
  }
  for (const definition of offered) if (definition.kind === 'statement') take(definition)
  for (let text = texts.pop(); text !== undefined; text = texts.pop())
    for (const definition of offered) {
      if (taken.has(definition)) continue
      const { kind } = definition
      const wanted = definition.names.filter((name) => uses(text as string, definition, name))
      if (wanted.some((name) => !names.has(`${kind} ${name}`))) take(definition)
    }
  return offered.filter((definition) => taken.has(definition))
}

/** Definitions as a file: each as it is, and behind them what of it is exported. */
export function written(taken: Definition[]): string {
  const exported = (kind: Definition['kind']) =>
    taken.filter((each) => each.kind === kind && each.exported).flatMap(({ names }) => names)
  const lists = [...wrapped('export', exported('variables')), ...wrapped('export -f', exported('function'))]
  const texts = taken.map(({ kind, text }, i) => {
    const apart = kind === 'function' && i > 0 ? '\n' : ''
    return `${apart}${text}\n`
  })
  return texts.join('') + lists.map((line) => `${line}\n`).join('')
}

/** `head` with as many of the words behind it as fit into 120 columns, as often as needed. */
export function wrapped(head: string, words: string[]): string[] {
  const lines: string[] = []
  for (const word of words) {
    const last = lines.at(-1)
    if (last !== undefined && last.length + 1 + word.length <= 120)
      lines[lines.length - 1] = `${last} ${word}`
    else lines.push(`${head} ${word}`)
  }
  return lines
}
