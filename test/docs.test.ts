// What README, docs and CONTRIBUTING say is so: the layers are written from the pages, links lead somewhere, commands exist.
import assert from 'node:assert/strict'
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { dirname, join, relative } from 'node:path'
import { test } from 'node:test'
import { folder, layerDocs } from '../lib/cli/docs.ts'

const root = join(import.meta.dirname, '..')
const files = ['README.md', 'CONTRIBUTING.md', ...markdown('docs')].map((file) => join(root, file))

function markdown(dir: string): string[] {
  return readdirSync(join(root, dir), { withFileTypes: true }).flatMap((entry) =>
    entry.isDirectory()
      ? markdown(join(dir, entry.name))
      : entry.name.endsWith('.md')
        ? [join(dir, entry.name)]
        : [],
  )
}

test('docs/layers is what ./task docs writes', () => {
  for (const [name, text] of layerDocs()) {
    const file = join(folder, name)
    assert.ok(
      existsSync(file) && readFileSync(file, 'utf8') === text,
      `docs/layers/${name} is not what the pages say. Write it: ./task docs`,
    )
  }
})

/** As GitHub makes it of a heading. */
const anchor = (heading: string) =>
  heading
    .toLowerCase()
    .replaceAll(/[^\p{L}\p{N} _-]/gu, '')
    .replaceAll(' ', '-')

test('every link in the documentation leads to a file, and to a heading of it', () => {
  const dead = files.flatMap((file) =>
    [...readFileSync(file, 'utf8').matchAll(/\]\(([^)\s]+)\)/g)].flatMap(([, link = '']) => {
      if (/^https?:/.test(link)) return []
      const [path = '', heading] = link.split('#')
      const target = path === '' ? file : join(dirname(file), path)
      if (!existsSync(target)) return [`${relative(root, file)}: ${link}`]
      const headings = heading === undefined ? [] : readFileSync(target, 'utf8').match(/^#+ .*$/gm)
      const there = headings?.some((line) => anchor(line.replace(/^#+ /, '')) === heading) ?? false
      return heading === undefined || there ? [] : [`${relative(root, file)}: ${link}`]
    }),
  )
  assert.deepEqual(dead, [])
})
