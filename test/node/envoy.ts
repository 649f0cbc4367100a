// What Cilium writes for its own Envoy, run by a stock one: listener, routes and clusters as they are, without what only Cilium's
// adds. Addresses of pods, the place where it listens and the certificate are given here, where the agent would give them.
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { $ } from '../../lib/ground/laptop.ts'

type Resource = Record<string, unknown> & { '@type': string; name: string }

export interface EnvoyConfig {
  spec: { resources: Resource[] }
}

export interface Bootstrap {
  staticResources: { listeners: object[]; clusters: object[] }
}

interface Given {
  port: number
  /** Name of a cluster → where its pods would be, HOST:PORT. */
  backends: Record<string, string>
  certificate: { chain: string; key: string }
}

/**
 * The bootstrap of a stock Envoy. Throws where the configuration has something that only Cilium's has, or that is not given: then
 * it would prove less than it says.
 */
export function stockEnvoy({ spec }: EnvoyConfig, { port, backends, certificate }: Given): Bootstrap {
  const of = (kind: string) =>
    spec.resources.filter(({ '@type': type }) => type.endsWith(`.${kind}`)).map((one) => bare(one))
  const routes = new Map(of('RouteConfiguration').map((one) => [one['name'], one]))
  const listeners = of('Listener').map((one) => ({
    ...(replaced(one, (key, value) => {
      if (key === 'rds') {
        const found = routes.get((value as { routeConfigName: string }).routeConfigName)
        if (found === undefined) throw new Error(`no route ${JSON.stringify(value)}`)
        return ['routeConfig', found]
      }
      // The agent gives the Secret by its name; here it is a file.
      if (key === 'tlsCertificateSdsSecretConfigs')
        return [
          'tlsCertificates',
          [{ certificateChain: { filename: certificate.chain }, privateKey: { filename: certificate.key } }],
        ]
      return [key, value]
    }) as object),
    address: { socketAddress: { address: '127.0.0.1', portValue: port } },
  }))
  const clusters = of('Cluster').map(({ edsClusterConfig, type, ...one }) => {
    const { serviceName } = edsClusterConfig as { serviceName: string }
    const [address, portValue] = (backends[serviceName] ?? '').split(':')
    if (type !== 'EDS' || !address) throw new Error(`no pods are given for ${serviceName}`)
    const endpoint = { address: { socketAddress: { address, portValue: Number(portValue) } } }
    return {
      ...one,
      type: 'STATIC',
      loadAssignment: { clusterName: one['name'], endpoints: [{ lbEndpoints: [{ endpoint }] }] },
    }
  })
  const config = { staticResources: { listeners, clusters } }
  if (JSON.stringify(config).includes('"cilium.')) throw new Error('a filter of Cilium is left in it')
  return config
}

/**
 * The same where the agent would have it: it takes connections that Cilium redirects to this port, and what it sends to pods comes
 * from a gateway to their policies, at the `source` that the node has for gateways. Cilium's own filter does that in Cilium's Envoy.
 */
export function redirected(
  { staticResources: { listeners, clusters } }: Bootstrap,
  source: string,
): Bootstrap {
  const option = (level: number, name: number, intValue: number) => ({
    level,
    name,
    intValue,
    state: 'STATE_PREBIND',
  })
  // SOL_IP and IP_TRANSPARENT; SOL_SOCKET, SO_MARK, and as bpf/lib/common.h has it an identity, here that of gateways, of a proxy.
  const socketOptions = [option(0, 19, 1), option(1, 36, 0x0008_0b00)]
  const upstreamBindConfig = { sourceAddress: { address: source, portValue: 0 }, socketOptions }
  return {
    staticResources: {
      listeners: listeners.map((one) => ({ ...one, transparent: true })),
      clusters: clusters.map((one) => ({ ...one, upstreamBindConfig })),
    },
  }
}

const bare = ({ '@type': _, ...rest }: Resource): Record<string, unknown> => rest

function replaced(value: unknown, of: (key: string, value: unknown) => [string, unknown]): unknown {
  if (Array.isArray(value)) return value.map((one) => replaced(one, of))
  if (typeof value !== 'object' || value === null) return value
  return Object.fromEntries(
    Object.entries(value).map(([key, one]) => {
      const [name, made] = of(key, one)
      return [name, made === one ? replaced(one, of) : made]
    }),
  )
}

/** Runs a stock Envoy until `end`, in a network namespace where one is named. Throws with what it said when it does not listen. */
export async function runEnvoy(
  config: object,
  port: number,
  namespace?: string,
): Promise<{ end: () => Promise<void> }> {
  const dir = mkdtempSync(join(tmpdir(), 'fk-envoy-'))
  writeFileSync(join(dir, 'envoy.json'), JSON.stringify(config))
  const words = ['--config-path', join(dir, 'envoy.json'), '--use-dynamic-base-id', '--concurrency', '1']
  const [program = '', ...before] = within(namespace, 'envoy')
  const envoy = spawn(program, [...before, ...words, '--log-level', 'warning'], {
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  let said = ''
  for (const stream of [envoy.stdout, envoy.stderr]) stream.on('data', (text) => (said += String(text)))
  const end = async () => {
    await ended(envoy)
    rmSync(dir, { recursive: true, force: true })
  }
  for (let i = 0; i < 300; i++) {
    if (envoy.exitCode !== null) break
    if (await listens(port, namespace)) return { end }
    await sleep(100)
  }
  await end()
  throw new Error(`Envoy does not listen: ${said}`)
}

async function ended(program: ChildProcess): Promise<void> {
  if (program.exitCode !== null || program.signalCode !== null) return
  const exit = once(program, 'exit')
  program.kill('SIGKILL')
  await exit
}

const within = (namespace: string | undefined, ...words: string[]): string[] =>
  namespace === undefined ? words : ['ip', 'netns', 'exec', namespace, ...words]

const listens = async (port: number, namespace?: string): Promise<boolean> =>
  (await $({ nothrow: true })`${within(namespace, 'bash', '-c', `exec 3<> /dev/tcp/127.0.0.1/${port}`)}`)
    .exitCode === 0
