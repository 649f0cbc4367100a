// Objects that a page applies by itself, from a file that a reader can see and take, and compares with what is in the cluster.
import { createRequire } from 'node:module'
import { join } from 'node:path'
import { file } from '../engine/file.ts'
import type { Context } from '../engine/page.ts'
import type { Change, Step, Transaction } from '../engine/step.ts'
import { type Command, library, sh } from '../ground/sh.ts'
import { type Component, catalogue } from '../site/catalogue.ts'

const load = createRequire(import.meta.url)

/** The functions that these steps use; they need those of release.sh. */
export const objectsShell = library('lib/component/release.sh', 'lib/component/objects.sh')

export interface Objects {
  /** What they are together, in a word for a file: `policies`. */
  what: string
  /** A fact, for the step that applies them. */
  name: string
  why?: string
  /** One manifest each, in the order in which they are applied. */
  manifests: readonly string[]
  /** The kinds that are looked through for objects of ours that are declared no more, as kubectl names them. */
  kinds: readonly string[]
  /** Where they could cut off who applies them: a rollback brings back those before them. And what stands around it. */
  transaction?: Transaction
  around?: {
    holds: Command
    before: Command[]
    /** The command that applies them, or one around it. */
    apply: (command: Command) => Command
    undo: { before: Command[]; after: Command[] }
  }
}

/**
 * The steps that bring objects to what is declared. They carry the label fortress-kit=`what`: one that has it and is declared no
 * more is deleted, and undo deletes all of them, the last one first.
 */
export function objects(
  { what, name, why, manifests, kinds, transaction, around }: Objects,
  { state }: Pick<Context, 'state'>,
): Step[] {
  const path = join(state, 'components', `${what}.yaml`)
  const list = kinds.join(',')
  const apply = sh`objects_apply ${what} ${list} ${path}`
  return [
    file(path, {
      text: manifests.map((manifest) => `---\n${manifest.trim()}\n`).join(''),
      name: `the manifests of ${what} are written`,
    }),
    {
      name,
      ...(why === undefined ? {} : { why }),
      diff: `${what} in the cluster`,
      ...(transaction === undefined ? {} : { transaction }),
      check: around
        ? sh`${around.holds} && objects_hold ${what} ${list} ${path}`
        : sh`objects_hold ${what} ${list} ${path}`,
      apply: [...(around?.before ?? []), around ? around.apply(apply) : apply],
      undo: [
        ...(around?.undo.before ?? []),
        sh`objects_gone ${what} ${list} ${path}`,
        ...(around?.undo.after ?? []),
      ],
      seconds: 300,
    },
  ]
}

/** The steps that apply the network policies of a component, for the page that installs it; none where it has none. */
export function ownPolicies(name: string, context: Pick<Context, 'site' | 'state'>): Step[] {
  const { policiesFor, textOf } = load('./policies.ts') as typeof import('./policies.ts')
  const what = `${name}-policies`
  const own = policiesFor(context.site, catalogue()).filter(({ component }) => component === name)
  if (own.length === 0) return []
  return objects(
    {
      what,
      name: `the network policies of ${name} are applied`,
      why: 'under the default deny its pods reach nobody before that',
      manifests: own.map((manifest) => textOf(manifest, what)),
      kinds: ['ciliumnetworkpolicies.cilium.io'],
    },
    context,
  )
}

/** What a Pod Security level is for: refused, noted in the audit log, and said to who asks. */
const modes = ['enforce', 'audit', 'warn']

/** The component, or the page, that a namespace is for. */
export type Owner = Pick<Component, 'name' | 'pod_security'> & {
  namespace: string
  /** It stays when the page is undone. */
  undo?: { namespace: boolean }
}

/**
 * The step that makes a namespace with its Pod Security level, restricted unless the owner says another, and with these labels;
 * pods without an account of their own get no token there (22-k3s-cis).
 * Undo deletes it where the page has made it. Its functions are those of release.sh.
 */
export function namespaceStep(
  { name, namespace, pod_security: security, undo }: Owner,
  labels: Readonly<Record<string, string>> = {},
): Change {
  const level = security?.level ?? 'restricted'
  const marks = modes.map((mode) => [`pod-security.kubernetes.io/${mode}`, level] as const)
  const all = [...marks, ...Object.entries(labels)]
  const paths = all.map(([label]) => `{.metadata.labels.${label.replaceAll('.', '\\.')}}`).join(' ')
  const values = all.map(([, value]) => value).join(' ')
  return {
    name: `namespace ${namespace} has Pod Security level ${level}`,
    why: security?.why ?? `nothing in ${name} needs more`,
    check: sh`
      test "$(kubectl get namespace ${namespace} --output=jsonpath=${paths})" = ${values} &&
        account_quiet ${namespace}`,
    apply: [
      sh`
      kubectl get namespace ${namespace} --output=name ||
        { release_awaited kubectl create namespace ${namespace} && kubectl label namespace ${namespace} fortress-kit=made; }`,
      sh`
      release_awaited kubectl label namespace ${namespace} --overwrite \
        ${all.map(([label, value]) => `${label}=${value}`)}`,
      sh`account_quieten ${namespace}`,
    ],
    ...(undo?.namespace ? {} : { undo: [sh`release_namespace_gone ${namespace}`], seconds: 330 }),
  }
}
