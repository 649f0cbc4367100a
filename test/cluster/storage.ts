// Object storage for tests: what S3 is asked for by a backup, and a judge of signatures that is as strict as its makers.
import { execFileSync } from 'node:child_process'
import { createHash, createHmac, timingSafeEqual } from 'node:crypto'
import { readFileSync } from 'node:fs'
import type { IncomingMessage } from 'node:http'
import { createServer } from 'node:https'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'

export interface Storage {
  endpoint: string
  access: string
  secret: string
  /** By which its name is believed. */
  certificate: string
  /** Key → content, of the one bucket `bundles`. */
  objects: Map<string, Buffer>
  /** While it is set, every request is answered with this. */
  answer: number | undefined
  end(): void
}

const sha256 = (data: Buffer | string) => createHash('sha256').update(data).digest('hex')
const hmac = (key: Buffer | string, data: string) => createHmac('sha256', key).update(data).digest()

/** Starts it on the lab's bridge, for the region `lab`; `dir` takes its certificate. Nodes must be up. */
export async function storage(dir: string): Promise<Storage> {
  const [key, crt] = ['storage.key', 'storage.crt'].map((name) => join(dir, name)) as [string, string]
  const host = '10.78.0.1'
  const curve = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256']
  const name = ['-subj', `/CN=${host}`, '-addext', `subjectAltName=IP:${host}`]
  const words = ['req', '-x509', ...curve, '-nodes', '-days', '2', ...name, '-keyout', key, '-out', crt]
  execFileSync('openssl', words, { stdio: 'ignore' })
  const objects = new Map<string, Buffer>()
  const found = {
    access: 'GK31c2f218a2e44f485b94239e', // gitleaks:allow
    secret: 'b892c0665f0ada8a4755dae98baa3b133590e11dae3bcc1f9d769d67f16c3835', // gitleaks:allow
    certificate: readFileSync(crt, 'utf8'),
    objects,
    answer: undefined as number | undefined,
  }
  const server = createServer({ key: readFileSync(key), cert: found.certificate }, (request, response) => {
    const parts: Buffer[] = []
    request.on('data', (part: Buffer) => parts.push(part))
    request.on('end', () => {
      const body = Buffer.concat(parts)
      const say = (code: number, text: string) => response.writeHead(code).end(text)
      const error = (code: number, word: string) =>
        say(code, `<?xml version="1.0"?><Error><Code>${word}</Code></Error>`)
      if (found.answer !== undefined) return void error(found.answer, 'SlowDown')
      const wrong = unsigned(request, body, found)
      if (wrong !== undefined) return void error(403, wrong)
      const url = new URL(request.url ?? '', `https://${host}`)
      const [, bucket, ...rest] = url.pathname.split('/')
      const name = decodeURIComponent(rest.join('/'))
      if (bucket !== 'bundles') return void error(404, 'NoSuchBucket')
      if (request.method === 'PUT') {
        objects.set(name, body)
        return void say(200, '')
      }
      // Its key is the one of a node: it deletes nothing, and every version is kept.
      if (request.method === 'DELETE') return void error(403, 'AccessDenied')
      if (url.searchParams.has('versioning'))
        return void say(200, '<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>')
      if (url.searchParams.has('object-lock')) return void error(404, 'ObjectLockConfigurationNotFoundError')
      if (name !== '') {
        const content = objects.get(name)
        return void (content ? response.writeHead(200).end(content) : error(404, 'NoSuchKey'))
      }
      const prefix = url.searchParams.get('prefix') ?? ''
      const items = [...objects].filter(([k]) => k.startsWith(prefix)).sort()
      say(
        200,
        `<?xml version="1.0"?><ListBucketResult><Name>bundles</Name>${items.map(listed).join('')}</ListBucketResult>`,
      )
    })
  })
  await new Promise<void>((resolve) => server.listen(0, host, resolve))
  const { port } = server.address() as AddressInfo
  return Object.assign(found, { endpoint: `https://${host}:${port}`, end: () => server.close() })
}

const listed = ([key, { length }]: [string, Buffer]) =>
  `<Contents><Key>${key}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified><Size>${length}</Size></Contents>`

const authorizationHeader = new RegExp(
  '^AWS4-HMAC-SHA256 Credential=([^/]+)/(\\d{8})/([^/]+)/([^/]+)/aws4_request, ?' +
    'SignedHeaders=([^,]+), ?Signature=([0-9a-f]{64})$',
)

/** What is wrong with the signature of a request (AWS Signature Version 4); undefined when it is right. */
function unsigned(
  request: IncomingMessage,
  body: Buffer,
  { access, secret }: { access: string; secret: string },
): string | undefined {
  const { authorization = '' } = request.headers
  const [, who, date, region, service, names = '', signature = ''] =
    authorizationHeader.exec(authorization) ?? []
  if (who === undefined || date === undefined) return 'AccessDenied'
  if (who !== access) return 'InvalidAccessKeyId'
  if (region !== 'lab' || service !== 's3') return 'AuthorizationHeaderMalformed'
  const signed = names.split(';')
  const time = String(request.headers['x-amz-date'])
  const digest = String(request.headers['x-amz-content-sha256'])
  if (!signed.includes('host') || !signed.includes('x-amz-content-sha256')) return 'AccessDenied'
  if (digest !== sha256(body)) return 'XAmzContentSHA256Mismatch'
  const url = new URL(request.url ?? '', 'https://host')
  const encode = (text: string) =>
    encodeURIComponent(text).replaceAll(/[!'()*]/g, (c) => `%${c.charCodeAt(0).toString(16).toUpperCase()}`)
  const query = [...url.searchParams]
    .map(([k, v]) => `${encode(k)}=${encode(v)}`)
    .sort()
    .join('&')
  const canonical = [
    request.method,
    url.pathname
      .split('/')
      .map((part) => encode(decodeURIComponent(part)))
      .join('/'),
    query,
    ...signed.map((name) => `${name}:${String(request.headers[name]).trim()}`),
    '',
    signed.join(';'),
    digest,
  ].join('\n')
  const scope = `${date}/${region}/${service}/aws4_request`
  const text = ['AWS4-HMAC-SHA256', time, scope, sha256(canonical)].join('\n')
  const key = [region, service, 'aws4_request'].reduce<Buffer>(
    (made, part) => hmac(made, part),
    hmac(`AWS4${secret}`, date),
  )
  return timingSafeEqual(hmac(key, text), Buffer.from(signature, 'hex')) ? undefined : 'SignatureDoesNotMatch'
}
