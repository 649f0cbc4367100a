#!/usr/bin/env -S npx --no-install tsx
// The keys by which the cluster opens secrets that lie encrypted in Git: made on the laptop, kept there, and handed over.
//
// Needs   k3s-server, or vm-talos. Where components.secrets chooses nothing it is sops, which has only a key in the cluster.
// Leaves  sops: Secret sops-age in namespace sops, for a GitOps engine. ./task secrets sops DIR writes for whom files of a Git
//         tree are encrypted; docs/secrets.md tells the rest.
//         sealed-secrets: the controller, with a key that the laptop has, too. sealed-secrets.crt on the laptop is for sealing.
//         Other choices (openbao, external-secrets) are not built yet.
// Undo    takes the keys and the controller out of the cluster. The laptop keeps them, for a cluster that is built anew.
import { generateKeyPairSync } from 'node:crypto'
import { join } from 'node:path'
import { namespaceStep, ownPolicies } from '../lib/component/objects.ts'
import { release } from '../lib/component/release.ts'
import { clusterKeys, keyLines, makeKey } from '../lib/component/clusterkey.ts'
import type { Step } from '../lib/engine/step.ts'
import { Secret } from '../lib/ground/secret.ts'
import { feed, library, sh } from '../lib/ground/sh.ts'
import { type Context, script } from '../lib/script.ts'
import { fills } from '../lib/site/catalogue.ts'
import { isServer } from '../lib/site/machines.ts'

const about = {
  layer: 'policy',
  on: 'api',
  needs: ['20-k3s-server', '14-vm-talos', '31-network-policies'],
  library: library(...['release', 'objects', 'handed'].map((name) => `lib/component/${name}.sh`)),
} as const

const sops = { name: 'sops', namespace: 'sops', secret: 'sops-age', entry: 'cluster.agekey' }
const sealing = {
  namespace: 'sealed-secrets',
  secret: 'sealed-secrets-laptop',
  stored: 'sealed-secrets-key',
  // By it the controller finds its keys.
  label: 'sealedsecrets.bitnami.com/sealed-secrets-key=active',
  certificate: 'sealed-secrets.crt',
  days: 3650,
}

export default script(import.meta, about, (context) => {
  const { site } = context
  if (!site.machines.some(isServer)) return []
  return [
    ...(fills(site, 'secrets', 'sops') ? [namespaceStep(sops), clusterKey(context)] : []),
    ...(fills(site, 'secrets', 'sealed-secrets') ? sealedSecrets(context) : []),
  ]
})

/** The encrypted file of a secret of the laptop. */
const storedAt = ({ state }: Context, secret: string): string => join(state, `${secret}.age`)

/** The cluster gets the newest key, and the one before: what was encrypted for that may not be replaced in Git yet. */
function clusterKey(context: Context): Step {
  const keys = context.secrets(clusterKeys, makeKey)
  const two = new Secret(
    keys.name,
    async () =>
      `${keyLines(await keys.resolve())
        .slice(0, 2)
        .join('\n')}\n`,
  )
  const at = [sops.namespace, sops.secret, storedAt(context, clusterKeys)]
  return {
    name: 'the age key of the cluster is in the cluster, as the laptop has it',
    why: 'what people encrypt for it in Git it opens by itself; digests are compared, and the key is never shown',
    check: sh`handed_holds ${at}`,
    apply: [feed(two)`handed_file ${sops.entry} | handed_put ${at} Opaque`],
    undo: [sh`echo ${'kept on the laptop: the age key of the cluster'}`],
  }
}

function sealedSecrets(context: Context): Step[] {
  const certificate = join(context.state, sealing.certificate)
  const key = context.secrets(sealing.stored, () =>
    generateKeyPairSync('rsa', {
      modulusLength: 4096,
      privateKeyEncoding: { type: 'pkcs1', format: 'pem' },
      publicKeyEncoding: { type: 'spki', format: 'pem' },
    }).privateKey.trim(),
  )
  const { namespace, secret, label } = sealing
  const at = [namespace, secret, storedAt(context, sealing.stored), label, certificate]
  return release('sealed-secrets', context, {
    first: [
      ...ownPolicies('sealed-secrets', context),
      {
        name: 'the certificate by which secrets are sealed is on the laptop',
        why: 'whoever has it can seal for the cluster, and open nothing',
        check: sh`sealing_certificate_holds ${certificate} 365`,
        apply: [
          feed(
            key,
          )`sealing_certificate ${certificate} ${`${context.site.name} sealed secrets`} ${sealing.days}`,
        ],
        undo: [sh`echo ${`kept: ${certificate}, and its key, which is encrypted: ${sealing.stored}`}`],
      },
      {
        name: 'the sealing key of the laptop is in the cluster',
        why: 'it is there before the controller, which would make one of its own that is lost with the cluster',
        check: sh`sealing_key_holds ${at}`,
        apply: [feed(key)`sealing_key_put ${at}`],
        undo: [sh`kubectl delete secret ${secret} --namespace ${namespace} --ignore-not-found`],
      },
    ],
    before: {
      'deployment/sealed-secrets': [
        {
          name: 'nothing is sealed for a key that the laptop does not have',
          why: 'what is sealed for such a key is lost with the cluster',
          check: sh`sealing_keys_known ${namespace} ${secret} ${label}`,
          help: `seal anew, with ${certificate}, what was sealed for these keys; then delete their Secrets in ${namespace}`,
        },
      ],
    },
  })
}
