// Real charts for tests, where this computer has them: of the version that is pinned, out of the Go module of their makers.
import { execFileSync } from 'node:child_process'
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir, userInfo } from 'node:os'
import { join } from 'node:path'
import { root } from '../../lib/ground/root.ts'
import { loadConfig } from '../../lib/site/config.ts'

/** Where the module of a component has its chart. */
const places: Record<string, { module: string; at: string; version?: string }> = {
  cilium: { module: 'github.com/cilium/cilium', at: 'install/kubernetes/cilium' },
  'cert-manager': { module: 'github.com/cert-manager/cert-manager', at: 'deploy/charts/cert-manager' },
  // Its module has the chart that was the newest at that time, which is the one before: it differs in the version of its program.
  'sealed-secrets': {
    module: 'github.com/bitnami-labs/sealed-secrets',
    at: 'helm/sealed-secrets',
    version: 'v0.38.4',
  },
}

export const pins = loadConfig({ env: { FK_ENV_FILE: '/dev/null' } }).pins

/** Where Go keeps the modules that it has fetched. */
const cache =
  process.env['GOMODCACHE'] ?? join(process.env['GOPATH'] ?? join(userInfo().homedir, 'go'), 'pkg/mod')

/** The directory of a chart, and why it is not here. */
export function chartOf(name: string): { path: string; missing: string | false } {
  if (name === 'kyverno') return kyvernoChart()
  const { module, at, version = `v${pins[name]!.version.replace(/^v/, '')}` } = places[name]!
  const path = join(cache, `${module}@${version}`, at)
  return {
    path,
    missing: existsSync(path) ? false : `the chart is not here: go mod download ${module}@${version}`,
  }
}

let made: string | undefined

/**
 * Kyverno's chart takes its definitions from a second one: both are in modules of its makers, whose versions test/release/kyverno
 * says. The others that it names, which our values leave out, are left out here.
 */
function kyvernoChart(): { path: string; missing: string | false } {
  const mod = readFileSync(join(root, 'test/release/kyverno/go.mod'), 'utf8')
  const [main, api] = ['kyverno', 'api'].map((name) => {
    const [, version] = new RegExp(`github.com/kyverno/${name} (v\\S+)`).exec(mod)!
    return `github.com/kyverno/${name}@${version}`
  })
  const from = [join(cache, main!, 'charts/kyverno'), join(cache, api!, 'charts/kyverno-api')]
  if (!from.every((path) => existsSync(path)))
    return { path: '/nonexistent', missing: `the chart is not here: go mod download ${main} ${api}` }
  if (made !== undefined) return { path: made, missing: false }
  const dir = mkdtempSync(join(tmpdir(), 'fk-chart-'))
  process.once('exit', () => rmSync(dir, { recursive: true, force: true }))
  made = join(dir, 'kyverno')
  // Files of modules are read-only: these are not.
  execFileSync('cp', ['--recursive', '--no-preserve=mode', from[0]!, made])
  execFileSync('cp', ['--recursive', '--no-preserve=mode', from[1]!, join(made, 'charts')])
  rmSync(join(made, 'Chart.lock'))
  const about = join(made, 'Chart.yaml')
  const text = readFileSync(about, 'utf8').replace(
    / {2}- name: (openreports|reports-server)\n(?: {4}.*\n)+/g,
    '',
  )
  writeFileSync(about, text)
  const inner = join(made, 'charts/kyverno-api/Chart.yaml')
  const [, wanted] = /name: kyverno-api\n {4}version: (\S+)/.exec(text)!
  writeFileSync(inner, readFileSync(inner, 'utf8').replace('version: v0.0.0', `version: ${wanted}`))
  return { path: made, missing: false }
}

/** Packages a chart into a directory, in the version that is given. Returns the path of the archive. */
export function packed(chart: string, directory: string, version: string): string {
  const said = execFileSync('helm', ['package', chart, '--version', version, '--destination', directory])
  return /(\/\S+\.tgz)/.exec(said.toString())![1]!
}
