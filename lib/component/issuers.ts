// Who signs the names of a site, and which certificates its gateways have: what the site document says, as objects of
// cert-manager. It hides how providers of names and authorities are written in them, and whom the controller has to reach.
import { createRequire } from 'node:module'
import { Fault } from '../ground/fault.ts'
import type { Site } from '../site/model.ts'

const load = createRequire(import.meta.url)

/** The issuer that signs with a CA of the site's own. */
export const ownCa = 'own-ca'
/** The secret of the laptop with the key of its root, and the file of the site's directory with the certificate. */
export const rootSecret = 'ca-root'
export const rootFile = 'ca.crt'
/** Where the Secrets of ClusterIssuers lie. */
export const namespace = 'cert-manager'
/** The Secret with what proves to a provider that a zone is ours. */
export const proof = { name: 'dns01', key: 'token' }

/** An end that the controller opens connections to: a name or an IPv4 address. */
export interface End {
  host: string
  port: number
  protocols: ('TCP' | 'UDP')[]
}

/** An authority outside of the cluster. */
export interface Acme {
  server: string
  /** As `spec.acme` of a ClusterIssuer has it. */
  spec: Record<string, unknown>
  /** Which secret of the laptop the provider asks for. */
  secret: string
  /** Servers of names, HOST:PORT, that are asked whether a record is there, in place of those of the cluster. */
  resolvers: string[]
  reaches: End[]
}

/** Who signs, and for which zones. */
export interface Issuer {
  name: string
  zones: string[]
  acme?: Acme
}

/** A certificate of a gateway: the Secret NAME-tls beside it. */
export interface GatewayCertificate {
  namespace: string
  gateway: string
  secret: string
  issuer: string
  names: string[]
}

interface Signed {
  gateway: string
  zone: string
  issuer: string
}

/** The zones of a site that lead to a gateway for the web, and who signs for each: its own CA, unless it says another. */
function signed({ gateways, names }: Site): Signed[] {
  const web = gateways.filter(({ kind = 'http' }) => kind === 'http').map(({ name }) => name)
  return names
    .filter(({ points_at: at }) => web.includes(at))
    .map(({ zone, points_at: gateway, issuer = ownCa }) => ({ gateway, zone, issuer }))
}

/** Who signs for a site, its own CA first. Throws a Fault where the document does not say enough. */
export function issuersOf(site: Site): Issuer[] {
  const all = signed(site)
  const names = [...new Set(all.map(({ issuer }) => issuer))]
  const own = names.filter((name) => name === ownCa)
  return [...own, ...names.filter((name) => name !== ownCa).sort()].map((name) => {
    const zones = [...new Set(all.filter(({ issuer }) => issuer === name).map(({ zone }) => zone))].sort()
    return name === ownCa ? { name, zones } : { name, zones, acme: acmeOf(site, name) }
  })
}

/** The certificates of a site, one for each gateway that pages serve: all its zones, and everything right below them. */
export function certificatesOf(site: Site): GatewayCertificate[] {
  const { gatewayNamespace, servedGateways } = load(
    '../site/gateways.ts',
  ) as typeof import('../site/gateways.ts')
  const served = servedGateways(site).map(({ name }) => name)
  const all = signed(site).filter(({ gateway }) => served.includes(gateway))
  return [...new Set(all.map(({ gateway }) => gateway))].map((gateway) => {
    const own = all.filter((one) => one.gateway === gateway)
    const [issuer = '', other] = [...new Set(own.map((one) => one.issuer))]
    if (other !== undefined)
      throw new Fault(`the zones of gateway ${gateway} have two issuers, ${issuer} and ${other}`, {
        said: 'a gateway has one certificate',
        next: 'give its zones one issuer, or let one of them point at another gateway',
      })
    const names = own.flatMap(({ zone }) => [zone, `*.${zone}`])
    return { namespace: gatewayNamespace, gateway, secret: `${gateway}-tls`, issuer, names }
  })
}

// Authorities outside

const letsencrypt = 'https://acme-v02.api.letsencrypt.org/directory'

/** The value of a Secret, as objects of cert-manager name it. */
type Reference = typeof proof

interface Provider {
  solver: (token: Reference, given: Given) => Record<string, unknown>
  reaches: (given: Given) => End[]
}

interface Given {
  nameserver?: string
  tsig_key?: string
  tsig_algorithm?: string
}

const https = (host: string): End => ({ host, port: 443, protocols: ['TCP'] })

/** Providers that a zone can be proven with, as the CRD of ClusterIssuers names their fields. */
const providers: Record<string, Provider> = {
  cloudflare: {
    solver: (token) => ({ cloudflare: { apiTokenSecretRef: token } }),
    reaches: () => [https('api.cloudflare.com')],
  },
  digitalocean: {
    solver: (token) => ({ digitalocean: { tokenSecretRef: token } }),
    reaches: () => [https('api.digitalocean.com')],
  },
  // A server of names of one's own that takes signed updates, such as BIND, Knot or PowerDNS.
  rfc2136: {
    solver: (token, { nameserver, tsig_key: key, tsig_algorithm: algorithm = 'HMACSHA256' }) => ({
      rfc2136: { nameserver, tsigKeyName: key, tsigAlgorithm: algorithm, tsigSecretSecretRef: token },
    }),
    reaches: ({ nameserver = '' }) => [{ ...endOf(nameserver, 53), protocols: ['UDP', 'TCP'] }],
  },
}

/** What a provider cannot do without. */
const asks: Record<string, (keyof Given)[]> = { rfc2136: ['nameserver', 'tsig_key'] }

/** HOST or HOST:PORT. */
function endOf(text: string, port: number): { host: string; port: number } {
  const [, host = text, given] = /^(.*?)(?::(\d+))?$/.exec(text) ?? []
  return { host, port: given === undefined ? port : Number(given) }
}

/** What a site gives its component of certificates. */
interface Choice extends Given {
  dns01?: string
  bootstrap?: string
  server?: string
  server_ca?: string
  resolvers?: string[]
}

function acmeOf(site: Site, issuer: string): Acme {
  const choice = [site.components['certificates'] ?? []].flat()[0]
  const given = (typeof choice === 'object' ? choice : {}) as Choice
  const known = Object.keys(providers).join(', ')
  const provider = providers[given.dns01 ?? '']
  if (provider === undefined)
    throw new Fault(
      given.dns01 === undefined
        ? `components.certificates does not say by which provider ${issuer} sees that a zone is ours`
        : `the API of ${given.dns01} is not known: certificates could not be proven`,
      { next: `give components.certificates one of ${known} as dns01` },
    )
  const lacks = asks[given.dns01 ?? '']?.find((key) => given[key] === undefined)
  if (lacks !== undefined)
    throw new Fault(`components.certificates has dns01: ${given.dns01} and no ${lacks}`, {
      next: `give it ${lacks}, as docs/certificates.md says`,
    })
  if (issuer !== 'letsencrypt' && given.server === undefined)
    throw new Fault(`nothing says where ${issuer} is`, {
      next: 'give components.certificates its server: https://…, or the zone the issuer letsencrypt or own-ca',
    })
  const server = given.server ?? letsencrypt
  const url = new URL(server)
  const resolvers = given.resolvers ?? []
  const email = site.people.find(
    ({ roles, email: has }) => has !== undefined && roles.includes('owner'),
  )?.email
  return {
    server,
    secret: given.bootstrap ?? secretOf(site) ?? 'dns-token',
    resolvers,
    reaches: [
      { host: url.hostname, port: Number(url.port || 443), protocols: ['TCP'] },
      ...provider.reaches(given),
      ...resolvers.map((one): End => ({ ...endOf(one, 53), protocols: ['UDP', 'TCP'] })),
    ],
    spec: {
      server,
      ...(email === undefined ? {} : { email }),
      ...(given.server_ca === undefined ? {} : { caBundle: Buffer.from(given.server_ca).toString('base64') }),
      privateKeySecretRef: { name: `${issuer}-account` },
      solvers: [{ dns01: provider.solver(proof, given) }],
    },
  }
}

/** The secret that a gate gives to the page of certificates. */
const secretOf = ({ gates }: Site): string | undefined =>
  gates.find(({ kind, needed_by: by }) => kind === 'token' && by === '33-certificates')?.gives

// Objects

const life = { leaf: '2160h', before: '720h' }

/** The objects that a site asks cert-manager for, in the order in which they are applied; `what` marks them. */
export function manifestsOf(site: Site, what: string): string[] {
  const { stringify } = load('yaml') as typeof import('yaml')
  const labels = { 'fortress-kit': what }
  const all = [
    ...issuersOf(site).map(({ name, acme }) => ({
      apiVersion: 'cert-manager.io/v1',
      kind: 'ClusterIssuer',
      metadata: { name, labels },
      spec: acme ? { acme: acme.spec } : { ca: { secretName: name } },
    })),
    ...certificatesOf(site).map(({ namespace: at, secret, issuer, names }) => ({
      apiVersion: 'cert-manager.io/v1',
      kind: 'Certificate',
      metadata: { name: secret, namespace: at, labels },
      spec: {
        secretName: secret,
        dnsNames: names,
        issuerRef: { group: 'cert-manager.io', kind: 'ClusterIssuer', name: issuer },
        duration: life.leaf,
        renewBefore: life.before,
        privateKey: { algorithm: 'ECDSA', size: 256, rotationPolicy: 'Always' },
        usages: ['digital signature', 'server auth'],
      },
    })),
  ]
  return all.map((object) =>
    stringify(object, { lineWidth: 0, singleQuote: true, aliasDuplicateObjects: false }),
  )
}
