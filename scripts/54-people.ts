#!/usr/bin/env -S npx --no-install tsx
// Who may do what in the cluster: roles for people, certificates for some hours, and an account for when nothing else opens.
//
// Needs   k3s-server, or vm-talos.
// Leaves  ./task kubeconfig --for NAME --role viewer|deployer|admin makes a certificate that ends by itself; list shows who has
//         what until when, and revoke takes it back at once. Who is who stands in the site document: people.
//         The key of the break-glass account is on the laptop, encrypted: ./task kubeconfig break-glass.
// Undo    takes roles, certificates and that account away: what anybody has opens nothing any more.
import { generateKeyPairSync } from 'node:crypto'
import { join } from 'node:path'
import { policyKinds } from '../lib/component/admission.ts'
import { objects } from '../lib/component/objects.ts'
import { breakGlass, manifestsOf, wordsOf } from '../lib/component/people.ts'
import type { Step } from '../lib/engine/step.ts'
import { feed, library, sh } from '../lib/ground/sh.ts'
import { type Context, script } from '../lib/script.ts'
import { isServer } from '../lib/site/machines.ts'

const about = {
  layer: 'policy',
  on: 'api',
  needs: ['20-k3s-server', '14-vm-talos'],
  library: library(
    ...['release', 'objects', 'admission', 'people'].map((name) => `lib/component/${name}.sh`),
  ),
} as const

const what = 'people'

export default script(import.meta, about, (context) => {
  const { site, state } = context
  if (!site.machines.some(isServer)) return []
  const path = join(state, 'components', `${what}.yaml`)
  return [
    ...objects(
      {
        what,
        name: 'the roles viewer, deployer and admin are declared, and what none of them can give',
        why: 'nobody works with the account of the pages, which may do everything and is never asked who it is',
        manifests: manifestsOf(site),
        kinds: ['clusterroles', 'clusterrolebindings', ...policyKinds],
        around: {
          holds: sh`policy_exact ${path}`,
          before: [sh`policy_replace ${path}`],
          apply: (command) => command,
          undo: { before: [], after: [] },
        },
      },
      context,
    ),
    {
      name: 'every certificate is of a person of the site, for a role that the site document gives',
      why: 'who is taken out of the document has nothing from the next apply on',
      check: sh`people_hold ${wordsOf(site)}`,
      apply: [sh`people_end ${wordsOf(site)}`],
      undo: [
        sh`people_end`,
        sh`kubectl delete certificatesigningrequests --selector=fortress-kit=grant --ignore-not-found`,
      ],
    },
    account(context),
  ]
})

/** Another one than that of the pages, so that its use is seen: page 57 looks for it in the audit logs. */
function account({ secrets, state }: Context): Step {
  const [file, stored] = [join(state, breakGlass.file), join(state, `${breakGlass.secret}.age`)]
  const key = secrets(breakGlass.secret, () =>
    generateKeyPairSync('ec', {
      namedCurve: 'P-256',
      privateKeyEncoding: { type: 'pkcs8', format: 'pem' },
      publicKeyEncoding: { type: 'spki', format: 'pem' },
    }).privateKey.trim(),
  )
  return {
    name: 'a break-glass account is there, and its key is encrypted on the laptop',
    why: 'when no identity provider and no page opens the cluster, it does; a certificate lasts a year, and is made anew before',
    check: sh`glass_holds ${file} ${stored}`,
    apply: [feed(key)`glass_make ${file}`],
    undo: [sh`glass_gone ${file} ${stored}`],
  }
}
