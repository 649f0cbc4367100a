#!/usr/bin/env -S npx --no-install tsx
// Certificates for the gateways, renewed before they end: by a CA of the site's own, or by an authority outside.
//
// Needs   network-gateway. For an authority outside: components.certificates says by which provider, and the token is stored.
// Leaves  ca.crt on the laptop, the root that phones and browsers import: ./task ca. Its key is on the laptop alone, encrypted;
//         an intermediate signs in the cluster. It lasts two years: within the last half of one, apply signs the next.
// Undo    takes cert-manager, the intermediate and the certificates. The root stays, and so devices need not import another one.
import { generateKeyPairSync } from 'node:crypto'
import { join } from 'node:path'
import {
  type Acme,
  type GatewayCertificate,
  type Issuer,
  certificatesOf,
  issuersOf,
  manifestsOf,
  namespace,
  ownCa,
  proof,
  rootFile,
  rootSecret,
} from '../lib/component/issuers.ts'
import { objects, ownPolicies } from '../lib/component/objects.ts'
import { release } from '../lib/component/release.ts'
import type { Step } from '../lib/engine/step.ts'
import { feed, library, sh } from '../lib/ground/sh.ts'
import { type Context, script } from '../lib/script.ts'

const about = {
  layer: 'L4',
  on: 'api',
  needs: ['31-network-policies', '32-network-gateway'],
  library: library('lib/component/release.sh', 'lib/component/objects.sh', 'lib/component/certificates.sh'),
} as const

export default script(import.meta, about, (context) => {
  const { site } = context
  const issuers = issuersOf(site)
  const own = issuers.find(({ acme }) => acme === undefined)
  const acmes = issuers.flatMap(({ acme }) => acme ?? [])
  const resolvers = [...new Set(acmes.flatMap((acme) => acme.resolvers))].join(',')
  return [
    ...(own ? [rootStep(context, own)] : []),
    ...acmes.slice(0, 1).map((acme) => tokenDemand(context, acme)),
    ...release('cert-manager', context, {
      first: ownPolicies('cert-manager', context),
      ...(resolvers === '' ? {} : { facts: { dns01RecursiveNameservers: resolvers } }),
    }),
    {
      name: 'the webhook of cert-manager answers the API',
      why: 'its certificate has to reach the API first',
      until: sh`issuers_answer`,
      seconds: 120,
    },
    ...(own ? [intermediateStep(context, own)] : []),
    ...acmes.slice(0, 1).map((acme) => tokenStep(context, acme)),
    ...objects(
      {
        what: 'certificates',
        name: 'issuers and certificates are declared',
        why: 'cert-manager makes the certificates of gateways from them, and renews each a month before its end',
        manifests: manifestsOf(site, 'certificates'),
        kinds: ['clusterissuers.cert-manager.io', 'certificates.cert-manager.io'],
      },
      context,
    ),
    ...issuers.map(({ name }) => ({
      name: `issuer ${name} is ready`,
      until: sh`kubectl wait --for=condition=Ready --timeout=5s ${`clusterissuer/${name}`}`,
      seconds: 120,
    })),
    ...certificatesOf(site).map((one) => certificateStep(context, one)),
  ]
})

const rootOf = ({ state }: Context): string => join(state, rootFile)

/** The key of the root: made on the laptop, and encrypted there. */
const rootKey = ({ secrets }: Context) =>
  secrets(rootSecret, () =>
    generateKeyPairSync('ec', {
      namedCurve: 'P-384',
      privateKeyEncoding: { type: 'pkcs8', format: 'pem' },
      publicKeyEncoding: { type: 'spki', format: 'pem' },
    }).privateKey.trim(),
  )

function rootStep(context: Context, { zones }: Issuer): Step {
  const file = rootOf(context)
  return {
    name: `the root certificate of ${context.site.name} is on the laptop, and signs names of the site alone`,
    why: 'who gets hold of its key could not pretend to be a bank',
    check: sh`ca_root_holds ${file} ${zones}`,
    apply: [feed(rootKey(context))`ca_root ${file} ${`${context.site.name} root CA`} ${zones}`],
    undo: [sh`echo ${`kept: ${file}, and its key, which is encrypted: ${rootSecret}`}`],
  }
}

function intermediateStep(context: Context, { zones }: Issuer): Step {
  const name = `${context.site.name} intermediate CA`
  return {
    name: 'an intermediate CA that the root has signed is in the cluster',
    why: 'the root key never gets there: whoever breaks in can sign until this one ends, and devices keep their root',
    check: sh`ca_signs ${namespace} ${ownCa} ${rootOf(context)} ${zones}`,
    apply: [
      feed(rootKey(context))`ca_intermediate ${namespace} ${ownCa} ${rootOf(context)} ${name} ${zones}`,
    ],
    undo: [sh`kubectl delete secret ${ownCa} --namespace ${namespace} --ignore-not-found`],
  }
}

/** The encrypted file of a secret of the laptop. */
const storedAt = ({ state }: Context, secret: string): string => join(state, `${secret}.age`)

function tokenDemand(context: Context, { secret }: Acme): Step {
  return {
    name: 'the token of the provider of names is stored on the laptop',
    why: 'by it cert-manager shows to the authority that the zones are ours',
    check: sh`test -f ${storedAt(context, secret)} || { echo ${`there is no secret ${secret}`}; false; }`,
    help: `give it the right to edit records of these zones, and nothing else; then: ./task gates give ${secret}`,
    person: {},
  }
}

function tokenStep(context: Context, { secret }: Acme): Step {
  const at = [namespace, proof.name, proof.key, storedAt(context, secret)]
  return {
    name: 'the token of the provider of names is in the cluster',
    check: sh`proof_holds ${at}`,
    apply: [feed(context.secrets(secret))`proof_put ${at}`],
    undo: [sh`kubectl delete secret ${proof.name} --namespace ${namespace} --ignore-not-found`],
  }
}

function certificateStep(context: Context, one: GatewayCertificate): Step {
  const { namespace: at, gateway, secret, issuer, names } = one
  const root = issuer === ownCa ? rootOf(context) : 'world'
  return {
    name: `gateway ${gateway} has a certificate for ${names[0]} and what is below it, of ${issuer}`,
    until: sh`certificate_holds ${at} ${secret} ${root} ${names}`,
    seconds: issuer === ownCa ? 120 : 900,
  }
}
