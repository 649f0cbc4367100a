// What a file of this repository needs, read from its text: the files that it imports, for values and for types, what it loads
// later, packages, and the files of data that it names.
import { isBuiltin } from 'node:module'
import { dirname, join, normalize } from 'node:path'

export interface Source {
  /** From the root of the repository. */
  path: string
  text: string
}

export interface Arrow {
  from: string
  to: string
  /** A static import of values; the other kinds are an import of types alone, and a file that is loaded when it is used. */
  kind: 'value' | 'type' | 'lazy'
}

const statements =
  /^(?:import|export)\b(?:\s+(type)\b(?!\s*,|\s+from\b))?([^'"`;=]*?)(?:\bfrom\b|(?<=^import))\s*['"](\.{1,2}\/[^'"]+)['"]/gm
const typeof_ = /\btypeof\s+import\(\s*['"](\.{1,2}\/[^'"]+)['"]\s*\)/g
const loads = /(?<!\btypeof\s+import)\(\s*['"](\.{1,2}\/[^'"]+\.(?:ts|cjs))['"]\s*\)/g

/** The text without lines that are comments. */
const codeOf = (text: string): string => text.replaceAll(/^\s*(\/\/|\*|\/\*).*$/gm, '')

/** Every arrow that leaves a file to another one here; `load('./x.ts')`, `require('./x.ts')` and `typeof import()` count. */
export function arrowsOf({ path, text }: Source): Arrow[] {
  const to = (target: string) => normalize(join(dirname(path), target))
  const code = codeOf(text)
  return [
    ...[...code.matchAll(statements)].map(([, type, names = '', target = '']): Arrow => {
      const all = /\{([\s\S]*)\}/
        .exec(names)?.[1]
        ?.split(',')
        .filter((name) => name.trim() !== '')
      const types = type !== undefined || (all?.every((name) => /^\s*type\s/.test(name)) ?? false)
      return { from: path, to: to(target), kind: types ? 'type' : 'value' }
    }),
    ...[...code.matchAll(typeof_)].map(([, target = '']): Arrow => ({
      from: path,
      to: to(target),
      kind: 'type',
    })),
    ...[...code.matchAll(loads)].map(([, target = '']): Arrow => ({
      from: path,
      to: to(target),
      kind: 'lazy',
    })),
  ]
}

/** The packages that a file imports or loads, without those of Node: `ajv` for ajv/dist/2020. */
export function packagesOf({ text }: Source): string[] {
  const words = [
    ...codeOf(text).matchAll(
      /(?:\bfrom|^import|\b(?:load|require|import)\()\s*['"]((?:@[\w.-]+\/)?[\w-][\w.-]*)/gm,
    ),
  ].map(([, name = '']) => name)
  return [...new Set(words)].filter((name) => !isBuiltin(name))
}

/**
 * Those of `files`, paths from the root, that a file names in a text of its own: one file, all below a directory, or all that a
 * template with `${…}` may mean.
 */
export function dataOf({ text }: Source, files: string[]): string[] {
  const named = [...codeOf(text).matchAll(/['"`]((?:bin|config|lib)\/[\w.-][^'"`\s]*)['"`]/g)].map(
    ([, name = '']) => name,
  )
  return named.flatMap((name) => {
    if (files.includes(name)) return [name]
    const parts = name.split(/\$\{[^}]*\}/).map((part) => part.replaceAll(/[^\w/-]/g, '\\$&'))
    const pattern = new RegExp(parts.length > 1 ? `^${parts.join('.*')}$` : `^${parts[0]}/`)
    // Code is taken by its imports.
    return files.filter((file) => pattern.test(file) && !file.endsWith('.ts'))
  })
}
