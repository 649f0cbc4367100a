// The CIS benchmark for k3s: config/k3s/cis.yaml as the controls that a node is checked for.
import { createRequire } from 'node:module'
import type { Context } from '../engine/page.ts'
import { type Entry, type Kinds, type Section, Requirements } from '../engine/requirements.ts'
import type { Control } from '../engine/step.ts'
import { read } from '../ground/root.ts'
import { Command, quote, shellText } from '../ground/sh.ts'
import { hostKinds, questions } from '../host/controls.ts'
import { waiversFor } from '../site/waivers.ts'
import { k3sShell } from './members.ts'

const load = createRequire(import.meta.url)

export const benchmark = 'CIS Kubernetes 2.1'

/** What a flag or a key should be: a value, or operators with their operands. */
type Wanted = string | Partial<Record<Operator, string | number | true>>
const operators = [
  'is',
  'set',
  'absent',
  'has',
  'has-not',
  'only',
  'at-least',
  'at-most',
  'lasts',
  'unset-or',
] as const
type Operator = (typeof operators)[number]
type Settings = Record<string, Wanted>

/** One control of the list, beside its check. */
export interface CisEntry extends Entry {
  /** How the list itself wants it assessed. */
  assessed: 'automated' | 'manual'
  /** What a person has to look at. */
  person?: string
  /** Why it has no meaning for k3s. */
  na?: string
}

/** One section of the list. */
export interface CisSection extends Section<CisEntry> {
  title: string
  on: ('server' | 'agent')[]
  /** Components that must be able to answer: those of lib/k3s/cis.sh, etcd, or api. */
  known: string[]
  /** What to do when something does not hold. */
  help: string
}

/** `NAME OPERATOR OPERAND` for each thing that is wanted. */
function settings(wanted: Settings): string {
  return Object.entries(wanted)
    .flatMap(([name, want]) => {
      const each = typeof want === 'string' ? { is: want } : want
      const unknown = Object.keys(each).filter((word) => !operators.includes(word as Operator))
      const fault =
        unknown.length > 0 ? `there is no operator ${unknown.join(', ')}` : 'says nothing that is wanted'
      if (unknown.length > 0 || Object.keys(each).length === 0)
        throw new TypeError(`cis.yaml, ${name}: ${fault}; there are ${operators.join(', ')}`)
      return Object.entries(each).map(
        ([word, operand]) => `${quote(name)} ${word} ${quote(operand === true ? 'yes' : String(operand))}`,
      )
    })
    .join(' ')
}

type Parts = Record<string, Settings>
const each = (word: string, parts: Parts) =>
  Object.entries(parts)
    .map(([part, wanted]) => `${word} ${part} ${settings(wanted)}`)
    .join(' && ')

const kinds = {
  arg: (parts: Parts) => each('arg_is', parts),
  kubelet: (wanted: Settings) => `kubelet_is ${settings(wanted)}`,
  started: (parts: Parts) => each('started_is', parts),
  etcd: (wanted: Settings) => `etcd_is ${settings(wanted)}`,
  mode: hostKinds.mode,
  tree: (words: string) => `tree_is ${words.split(' ').map(quote).join(' ')}`,
  refused: (pod: string) => `refused ${quote(pod)} {{ exempt }}`,
  check: hostKinds.check,
  na: (reason: string) => `na ${quote(reason)}`,
  person: (what: string) => `na ${quote(`for a person: ${what}`)}`,
}

/** The list: config/k3s/cis.yaml. */
export const cisRequirements = new Requirements<CisEntry, CisSection>(
  'config/k3s/cis.yaml',
  kinds as Kinds,
  (id) => `${benchmark}, ${id}`,
)

/** Namespaces whose pods may do more, as config/k3s/admission.yaml exempts them. */
function exempt(): string[] {
  const { parse } = load('yaml') as typeof import('yaml')
  const { plugins } = parse(read('config/k3s/admission.yaml')) as {
    plugins: { name: string; configuration: { exemptions?: { namespaces?: string[] } } }[]
  }
  return plugins.find(({ name }) => name === 'PodSecurity')?.configuration.exemptions?.namespaces ?? []
}

/** The sections that a node of this role is checked for, and the controls of each. `today` decides which waivers hold. */
export function cisOf(
  { site }: Pick<Context, 'site'>,
  role: 'server' | 'agent',
  today?: Date,
): { section: CisSection; controls: Control[] }[] {
  const controls = cisRequirements.controlsFor({
    values: { exempt: exempt().map(quote).join(' ') },
    traits: [role],
    waivers: waiversFor(site, today, undefined, 'k3s'),
  })
  return cisRequirements
    .sections()
    .filter(({ on }) => on.includes(role))
    .map((section) => ({ section, controls: controls(section.step) }))
}

type Tree = { [key: string]: Tree | unknown }

/** The pods of config/k3s/refused.yaml: name → pod. `tame` is the one that needs no rights. */
export function offeredPods(): Record<string, object> {
  const { parse } = load('yaml') as typeof import('yaml')
  type Difference = { spec?: Tree; container?: Tree }
  const { tame, refused } = parse(read('config/k3s/refused.yaml')) as {
    tame: Required<Difference>
    refused: Record<string, Difference>
  }
  const pod = (name: string, { spec = {}, container = {} }: Difference) => ({
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: { name },
    spec: { ...laid(tame.spec, spec), containers: [laid(tame.container, container)] },
  })
  return Object.fromEntries(
    Object.entries({ tame: {}, ...refused }).map(([name, difference]) => [name, pod(name, difference)]),
  )
}

const isTree = (value: unknown): value is Tree =>
  typeof value === 'object' && value !== null && !Array.isArray(value)

function laid(under: Tree, over: Tree): Tree {
  const both = Object.entries(over).map(([key, value]) => {
    const below = under[key]
    return [key, isTree(value) && isTree(below) ? laid(below, value) : value]
  })
  return { ...under, ...(Object.fromEntries(both) as Tree) }
}

/**
 * What the controls of the list share: lib/k3s/members.sh, lib/host/controls.sh, lib/k3s/cis.sh, and the pods that are offered.
 */
export function cisShell(): Command {
  const pods = JSON.stringify({ apiVersion: 'v1', kind: 'List', items: Object.values(offeredPods()) })
  return new Command(
    [k3sShell.text, questions().text, shellText('lib/k3s/cis.sh'), `CIS_PODS=${quote(pods)}`].join('\n'),
    undefined,
    'lib/k3s/cis.sh',
  )
}
