// ./task ca: the root certificate of a site, for phones and browsers.
import { X509Certificate } from 'node:crypto'
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { issuersOf, ownCa, rootFile } from '../component/issuers.ts'
import { NotBuilt } from './absent.ts'
import type { Call } from './call.ts'
import { withSession } from './session.ts'
import { ca as table } from './tables.ts'

/** Says where the root is, what it signs, and how devices import it. Rejects with NotBuilt before a page has made it. */
export const ca = (call: Call): Promise<number> =>
  withSession(
    call,
    table,
    async ({ config: { site }, state }) => {
      const own = issuersOf(site).find(({ name }) => name === ownCa)
      if (own === undefined) {
        process.stdout.write(
          `No zone of ${site.name} has the issuer ${ownCa}: devices need no certificate of it.\n`,
        )
        return 0
      }
      const file = join(state, rootFile)
      if (!existsSync(file))
        throw new NotBuilt(`${site.name} has no root certificate yet`, '33-certificates', 'makes it')
      const root = new X509Certificate(readFileSync(file))
      process.stdout.write(
        [
          `certificate  ${file}`,
          `signs        ${own.zones.map((zone) => `${zone} and all below it`).join(', ')}`,
          `until        ${new Date(root.validTo).toISOString().slice(0, 10)}`,
          `sha256       ${root.fingerprint256}`,
          '',
          'Import it on each device that opens these names, and compare the fingerprint there. It holds no secret.',
          'Debian     sudo install --mode=644 FILE /usr/local/share/ca-certificates/NAME.crt && sudo update-ca-certificates',
          'Firefox    Settings, Privacy & Security, View Certificates, Authorities, Import: identify websites',
          'Chromium   chrome://certificate-manager, Local certificates, Installed by you, Trusted certificates, Import',
          'macOS      open it, add it to the login keychain, then Trust: Always',
          'Windows    open it, Install Certificate, Trusted Root Certification Authorities',
          'iPhone     send it there, install the profile, then Settings, General, About, Certificate Trust Settings',
          'Android    Settings, Security, More, Encryption & credentials, Install a certificate, CA certificate',
          '',
        ].join('\n'),
      )
      return 0
    },
    { document: true },
  )
