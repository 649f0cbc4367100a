// Real charts for tests, where this computer has them: of the version that is pinned, out of the Go module of their makers.
import { execFileSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { userInfo } from 'node:os'
import { join } from 'node:path'
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

/** The directory of a chart, and why it is not here. */
export function chartOf(name: string): { path: string; missing: string | false } {
  const { module, at, version = `v${pins[name]!.version.replace(/^v/, '')}` } = places[name]!
  const cache =
    process.env['GOMODCACHE'] ?? join(process.env['GOPATH'] ?? join(userInfo().homedir, 'go'), 'pkg/mod')
  const path = join(cache, `${module}@${version}`, at)
  return {
    path,
    missing: existsSync(path) ? false : `the chart is not here: go mod download ${module}@${version}`,
  }
}

/** Packages a chart into a directory, in the version that is given. Returns the path of the archive. */
export function packed(chart: string, directory: string, version: string): string {
  const said = execFileSync('helm', ['package', chart, '--version', version, '--destination', directory])
  return /(\/\S+\.tgz)/.exec(said.toString())![1]!
}
