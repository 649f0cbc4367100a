// Secrets in clear of every kind that a tree of ours could have, and what only looks like one. Values are made here, so that this
// file has none.
import { createHash, generateKeyPairSync } from 'node:crypto'
import { makeSshKey, sshPublicKey } from '../../lib/ground/keys.ts'

export interface Plant {
  what: string
  file: string
  text: string
  /** No line of a report may have it. */
  value?: string
}

let drawn = 0
/** Bytes that look like any, and are the same in every run: what a rule finds by chance would be missed by chance. */
function bytes(n: number): Buffer {
  let all = Buffer.alloc(0)
  while (all.length < n) all = Buffer.concat([all, createHash('sha256').update(`plant ${drawn++}`).digest()])
  return all.subarray(0, n)
}
const from = (alphabet: string, n: number) =>
  Array.from({ length: n }, () => alphabet[bytes(4).readUInt32BE() % alphabet.length]).join('')
const small = 'abcdefghijklmnopqrstuvwxyz'
const digits = '0123456789'
const mixed = small + small.toUpperCase() + digits
const bech = 'QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L'
const hex = (n: number) => bytes(n / 2).toString('hex')
const base64 = (n: number) => bytes(n).toString('base64')
const uuid = () => [8, 4, 4, 4, 12].map(hex).join('-')
const word = (n: number) => from(mixed, n)
const pem = () =>
  generateKeyPairSync('ec', {
    namedCurve: 'P-256',
    privateKeyEncoding: { type: 'pkcs8', format: 'pem' },
    publicKeyEncoding: { type: 'spki', format: 'pem' },
  })
const rsa = () =>
  generateKeyPairSync('rsa', {
    modulusLength: 2048,
    privateKeyEncoding: { type: 'pkcs1', format: 'pem' },
    publicKeyEncoding: { type: 'spki', format: 'pem' },
  })
const encoded = (text: string) => Buffer.from(text).toString('base64')
const plant = (what: string, file: string, value: string, around = (secret: string) => secret): Plant => ({
  what,
  file,
  text: `${around(value)}\n`,
  value,
})

/** One of each kind. */
export function plants(): Plant[] {
  const secret = (name: string, below: string) =>
    `apiVersion: v1\nkind: Secret\nmetadata:\n  name: ${name}\n${below}`
  const key = pem().privateKey
  return [
    plant('an identity of age', 'age.txt', `AGE-SECRET-KEY-1${from(bech, 58)}`),
    plant('a post-quantum identity of age', 'age-pq.txt', `AGE-SECRET-KEY-PQ-1${from(bech, 58)}`),
    plant('an identity of a plug-in of age', 'plugin.txt', `AGE-PLUGIN-YUBIKEY-1${from(bech, 40)}`),
    plant('a key of OpenSSH', 'id_ed25519', makeSshKey('me')),
    plant('a private key in PEM', 'tls.key', key),
    plant('an RSA key below a key of YAML', 'values.yaml', rsa().privateKey, (text) =>
      [
        'tls:',
        '  key: |',
        ...text
          .trim()
          .split('\n')
          .map((line) => `    ${line}`),
      ].join('\n'),
    ),
    plant(
      'a private key of WireGuard',
      'wg0.conf',
      base64(32),
      (value) => `[Interface]\nPrivateKey = ${value}`,
    ),
    plant(
      'a preshared key of WireGuard',
      'peer.conf',
      base64(32),
      (value) => `[Peer]\nPresharedKey = ${value}`,
    ),
    plant('a key of WireGuard in JSON', 'peer.json', base64(32), (value) => `{ "private_key": "${value}" }`),
    plant('a token of k3s', 'token', `K10${hex(64)}::server:${hex(32)}`),
    plant(
      'a bootstrap token',
      'talos.yaml',
      `${from(small + digits, 6)}.${from(small + digits, 16)}`,
      (value) => `machine:\n  token: ${value}`,
    ),
    plant(
      'a kubeconfig',
      'kubeconfig',
      encoded(key),
      (value) => `users:\n- name: admin\n  user:\n    client-key-data: ${value}`,
    ),
    plant('a CA of Talos', 'secrets.yaml', encoded(key), (value) => `certs:\n  os:\n    key: ${value}`),
    plant('a Secret of Kubernetes in base64', 'secret.yaml', encoded(`pw-${word(12)}`), (value) =>
      secret('db', `data:\n  password: ${value}`),
    ),
    plant('a Secret with stringData', 'login.yaml', `correct horse ${from(small, 6)}`, (value) =>
      secret('login', `stringData:\n  password: ${value}`),
    ),
    plant('a Secret in JSON', 'secret.json', word(9), (value) =>
      JSON.stringify(
        { apiVersion: 'v1', kind: 'Secret', metadata: { name: 'x' }, stringData: { pin: value } },
        null,
        2,
      ),
    ),
    plant(
      'a Secret in a list, as kubectl prints it',
      'list.yaml',
      encoded(word(6)),
      (value) =>
        `apiVersion: v1\nkind: List\nitems:\n- kind: Secret\n  metadata: { name: one }\n  data: { pin: ${value} }`, // gitleaks:allow
    ),
    plant(
      'a password in an address',
      'app.env',
      word(12),
      (value) => `DATABASE_URL=postgres://app:${value}@db.internal:5432/app`,
    ),
    plant(
      'an access key of AWS',
      'aws',
      `AKIA${from('ABCDEFGHIJKLMNOPQRSTUVWXYZ234567', 16)}`,
      (value) => `aws_access_key_id = ${value}`,
    ),
    plant('a secret key of S3', 's3.env', word(40), (value) => `S3_SECRET_KEY=${value}`),
    plant('a token of GitHub', 'github.env', `ghp_${word(36)}`, (value) => `GITHUB_TOKEN=${value}`),
    plant('a token of GitLab', 'gitlab.env', `glpat-${word(20)}`, (value) => `TOKEN=${value}`),
    plant(
      'a token of Slack',
      'slack.env',
      `xoxb-${from(digits, 12)}-${from(digits, 12)}-${word(24)}`,
      (value) => `SLACK=${value}`,
    ),
    plant('a token of Vault or OpenBao', 'vault.env', `hvs.${word(95)}`, (value) => `VAULT_TOKEN=${value}`),
    plant(
      'a JSON web token',
      'jwt.txt',
      `ey${encoded(`{"alg":"HS256","x":"${word(8)}"}`)
        .slice(2)
        .replaceAll('=', '')}.ey${encoded(`{"sub":"${word(20)}"}`)
        .slice(2)
        .replaceAll('=', '')}.${word(43)}`,
    ),
    plant(
      'the login of a registry',
      'config.json',
      encoded(`me:${word(16)}`),
      (value) => `{ "auths": { "ghcr.io": { "auth": "${value}" } } }`,
    ),
    plant('a .netrc', '.netrc', word(14), (value) => `machine git.internal login me password ${value}`),
    plant(
      'the hash of a password',
      'shadow',
      `$6$${word(16)}$${from(`${mixed}./`, 86)}`,
      (value) => `me:${value}:19000:0:99999:7:::`,
    ),
    plant('a hash of bcrypt', 'htpasswd', `$2y$10$${from(`${mixed}./`, 53)}`, (value) => `me:${value}`),
    plant(
      'a recovery key of a disk',
      'paper.txt',
      Array.from({ length: 8 }, () => from('cbdefghijklnrtuv', 8)).join('-'),
    ),
    plant(
      'a key of Tailscale',
      'tailscale.env',
      `tskey-auth-k${word(16)}-${word(32)}`,
      (value) => `TS_AUTHKEY=${value}`,
    ),
    plant(
      'a token of cloudflared',
      'tunnel.yaml',
      encoded(JSON.stringify({ a: hex(32), t: uuid(), s: base64(32) })),
      (value) => `token: ${value}`,
    ),
    plant(
      'a key of TSIG',
      'named.conf',
      base64(32),
      (value) => `key "acme" { algorithm hmac-sha256; secret "${value}"; };`,
    ),
    plant('a password among variables', '.env', word(24), (value) => `ADMIN_PASSWORD=${value}`),
    plant('a key of an API', 'config.toml', hex(40), (value) => `api_key = "${value}"`),
    {
      what: 'a file that was to be encrypted',
      file: 'apps/db.sops.yaml',
      text: 'stringData:\n  pin: 1234\n',
    },
    { what: 'a variable that was to be encrypted', file: 'apps/db.sops.env', text: 'PIN=1234\n' },
  ]
}

/** What is no secret, however it looks. */
export function innocent(): Plant[] {
  const sealed = `Ag${bytes(400).toString('base64').replaceAll('=', '')}`
  const enc = (n: number) => `ENC[AES256_GCM,data:${base64(n)},iv:${base64(32)},tag:${base64(16)},type:str]`
  const { publicKey } = pem()
  return [
    plant('a recipient of age', 'recipient.txt', `age1${from(bech.toLowerCase(), 58)}`),
    plant('a public key of SSH', 'authorized_keys', sshPublicKey(makeSshKey('me'))),
    plant('a public key in PEM', 'public.pem', publicKey),
    plant('a public key of WireGuard', 'public.conf', base64(32), (value) => `[Peer]\nPublicKey = ${value}`),
    plant('a digest', 'versions.yaml', hex(64), (value) => `sha256: ${value}`),
    plant('a digest of an image', 'image.yaml', hex(64), (value) => `image: ghcr.io/me/app@sha256:${value}`),
    plant(
      'an integrity of npm',
      'integrity.json',
      base64(64),
      (value) => `{ "integrity": "sha512-${value}" }`,
    ),
    plant('a UUID', 'uuid.yaml', uuid(), (value) => `uid: ${value}`),
    plant('a commit', 'flux.yaml', hex(40), (value) => `ref: { commit: ${value} }`),
    plant(
      'a file of age',
      'file.age',
      base64(300),
      (value) =>
        `-----BEGIN AGE ENCRYPTED FILE-----\n${value.match(/.{1,64}/g)!.join('\n')}\n-----END AGE ENCRYPTED FILE-----`,
    ),
    plant(
      'a SealedSecret',
      'sealed.yaml',
      sealed,
      (value) =>
        `apiVersion: bitnami.com/v1alpha1\nkind: SealedSecret\nmetadata: { name: db }\nspec:\n  encryptedData:\n    password: ${value}`,
    ),
    plant(
      'a reference to a Secret',
      'pod.yaml',
      'db',
      (value) => `env:\n- name: PASSWORD\n  valueFrom: { secretKeyRef: { name: ${value}, key: password } }`,
    ),
    plant(
      'a Secret without values',
      'empty.yaml',
      'x',
      (value) => `apiVersion: v1\nkind: Secret\nmetadata: { name: ${value} }\ndata: {}`,
    ),
    plant(
      'a Secret that a template fills in',
      'template.yaml',
      'x',
      (value) =>
        `apiVersion: v1\nkind: Secret\nmetadata: { name: ${value} }\nstringData:\n  password: "{{ .Values.password }}"`,
    ),
    plant('a variable of a shell', 'run.sh', 'x', () => 'export PASSWORD="$DB_PASSWORD" TOKEN=${TOKEN:?}'),
    plant(
      'an address with a user alone',
      'remote.txt',
      'git',
      (value) => `url = ssh://${value}@git.internal/me/app.git`,
    ),
    plant(
      'a certificate in base64',
      'ca.yaml',
      encoded(`-----BEGIN CERTIFICATE-----\n${base64(300)}\n-----END CERTIFICATE-----\n`),
      (value) => `certificate-authority-data: ${value}`,
    ),
    plant(
      'lines of go.sum',
      'go.sum',
      createHash('sha256').update('x').digest('base64'),
      (value) => `golang.org/x/crypto v0.1.0 h1:${value}`,
    ),
    plant(
      'a value of sops',
      'secret.sops.yaml',
      enc(20),
      (value) =>
        `apiVersion: v1\nkind: Secret\nmetadata:\n    name: db\nstringData:\n    password: ${value}\nsops:\n    age:\n        - recipient: age1${'q'.repeat(58)}\n          enc: |\n            x\n        - recipient: age1${'p'.repeat(58)}\n          enc: |\n            y\n    lastmodified: "2026-11-27T00:00:00Z"\n    mac: ${enc(64)}\n    encrypted_regex: ^(data|stringData)$\n    version: 3.13.3`,
    ),
  ]
}
