// The sites that tests ask.
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { parse } from 'yaml'
import { loadConfig } from '../lib/site/config.ts'
import { complete } from '../lib/site/defaults.ts'
import type { Site } from '../lib/site/model.ts'

/** A site of config/sites, or one of test/fixtures/sites. */
export function siteOf(name: string): Site {
  const path = join(import.meta.dirname, 'fixtures', 'sites', `${name}.yaml`)
  return existsSync(path)
    ? complete(parse(readFileSync(path, 'utf8')))
    : loadConfig({ env: {}, site: name }).site
}
