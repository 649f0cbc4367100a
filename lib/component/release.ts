// The steps by which a component comes into the cluster: namespace, definitions, chart, release, and the wait for what it starts.
// They run on the laptop. How a release is compared with what is declared is in release.sh.
import { join } from 'node:path'
import { file, heredoc } from '../engine/file.ts'
import type { Context } from '../engine/page.ts'
import type { Change, Step, Wait } from '../engine/step.ts'
import { Command, library, sh } from '../ground/sh.ts'
import { type Built, type Values, componentNamed, digestOf, proven, valuesOf } from './component.ts'
import { namespaceStep } from './objects.ts'

/** The functions that these steps use: the library of each page that has them. */
export const releaseShell = library('lib/component/release.sh')

export interface ReleaseOptions {
  /** Values that only the site knows: they become the last file of values, which a reader can see and take. */
  facts?: Readonly<Record<string, unknown>>
  /** Objects that this page must not wait for: another one does. As `ready` of the component names them. */
  later?: readonly string[]
  /** Steps that come behind the namespace, and before what runs in it: its network policies. */
  first?: readonly Step[]
  /** Steps that come before the wait for an object, as `ready` of the component names it. */
  before?: Readonly<Record<string, readonly Step[]>>
  /** What undo does before and after helm takes the release away. */
  undo?: { before: readonly Command[]; after: readonly Command[] }
}

/** Seconds that helm may take for one hook, and for all of a release. */
const HOOK = 600
const RELEASE = 1200

/**
 * The steps that install a component, or bring it to what is declared. Its files land in a directory of the site on the laptop,
 * where a person can use them with helm by hand.
 */
export function release(name: string, context: Context, options: ReleaseOptions = {}): Step[] {
  const component = componentNamed(name)
  const { namespace } = component
  const directory = join(context.state, 'components', name)
  const chart = proven(context.pins, component.chart)
  const values = valuesOf(name, context.site, options.facts)
  const waits = component.ready.filter(({ object }) => !options.later?.includes(object))
  return [
    ...values.map((each) =>
      file(join(directory, each.name), {
        text: each.text,
        owner: 'root:root',
        name: `the values of ${name} are written: ${each.name}`,
      }),
    ),
    namespaceStep(component),
    ...(options.first ?? []),
    {
      name: `${name} can be upgraded to ${chart.version} directly`,
      why: component.upgrade.why,
      check: sh`release_jump ${namespace} ${name} ${chart.version} ${component.upgrade.jump}`,
      help: 'pin a version between the two in config/versions.yaml, apply this page, then go on; an older one needs an undo',
    },
    ...definitionSteps(component, context, directory),
    {
      name: `the chart of ${name} ${chart.version} is downloaded and verified`,
      why: 'it is proven by its SHA-256 before helm sees it',
      check: sh`release_chart ${join(directory, `${name}-${chart.version}.tgz`)} ${chart.sha256}`,
      upload: { artifact: chart, to: join(directory, `${name}-${chart.version}.tgz`) },
      apply: [sh`release_received ${join(directory, `${name}-${chart.version}.tgz`)}`],
    },
    releaseStep(component, chart, values, directory, options.undo),
    ...waits.flatMap((each) => [...(options.before?.[each.object] ?? []), readyStep(namespace, each)]),
  ]
}

/** Definitions that the chart does not have: nobody else's, and as they are proven. */
function definitionSteps({ crds = [] }: Built, { pins }: Context, directory: string): Step[] {
  return crds.flatMap(({ pin, names, why }) => {
    const manifest = proven(pins, pin)
    const path = join(directory, `${pin}-${manifest.version}.yaml`)
    return [
      {
        name: `the CRDs of ${pin} have no other owner`,
        why: 'two owners take turns in replacing them, and what one of them drops is deleted with all its objects',
        check: sh`release_crds_free ${names}`,
        help: 'take them away where they came from, or leave this component out: two cannot own them',
      },
      {
        name: `the CRDs of ${pin} ${manifest.version} are installed`,
        why,
        diff: `${pin} in the cluster`,
        check: sh`release_crds ${path} ${names}`,
        upload: { artifact: manifest, to: path },
        apply: [
          sh`release_received ${path}`,
          sh`kubectl apply --server-side --field-manager=fortress-kit --filename=${path}`,
          sh`kubectl wait --for=condition=Established --timeout=60s customresourcedefinitions ${names}`,
        ],
      },
    ]
  })
}

/** The release: installed with what is declared, and all its objects still so. */
function releaseStep(
  { name, namespace, undo, ignore = [] }: Built,
  chart: { version: string; sha256: string },
  values: readonly Values[],
  directory: string,
  around: ReleaseOptions['undo'] = { before: [], after: [] },
): Change {
  const archive = join(directory, `${name}-${chart.version}.tgz`)
  const files = values.flatMap((each) => ['--values', join(directory, each.name)])
  // Helm keeps this sentence with the revision.
  const declared = `chart ${chart.sha256.slice(0, 16)}, values ${digestOf(values).slice(0, 16)}`
  const ignored = ignore.map((field) => `${field.kind} ${field.name ?? '*'} ${field.path}`)
  return {
    name: `${name} ${chart.version} is installed with the declared values`,
    why: 'every object is compared with what the server makes of the chart, field by field',
    diff: `${name} in the cluster`,
    ahead: new Command(
      values
        .map((each) => {
          const path = join(directory, each.name)
          return heredoc(sh`release_ahead ${path}`.text, each.text, path).text
        })
        .join('\n'),
      undefined,
      name,
    ),
    check: sh`
      release_holds ${namespace} ${name} ${declared} \
        ${ignored.length === 0 ? new Command("''", undefined, '') : ignored.join('\n')} \
        ${archive} ${files}`,
    apply: [
      sh`release_settle ${namespace} ${name}`,
      sh`
      release_awaited helm upgrade --install ${name} ${archive} --namespace ${namespace} \
        ${files} \
        --description ${declared} --labels "fortress-kit=$(release_by)" \
        --server-side=true --force-conflicts --history-max=5 --timeout=${HOOK}s ||
        release_back ${namespace} ${name}`,
      sh`release_take_added ${namespace} ${name}`,
    ],
    undo: [
      ...around.before,
      sh`release_awaited helm uninstall ${name} --namespace ${namespace} --ignore-not-found --wait --timeout=5m`,
      ...around.after,
      ...(undo.keeps.length === 0 ? [] : [sh`echo ${`kept: ${undo.keeps.join(', ')}`}`]),
    ],
    seconds: RELEASE,
  }
}

/** Kinds that have a rollout. */
const rollouts = ['daemonset', 'deployment', 'statefulset']

/** The wait for one object, by its rollout or by a condition. */
function readyStep(
  own: string,
  { object, namespace = own, condition, seconds, why }: Built['ready'][number],
): Wait {
  const [kind = '', name] = object.split('/')
  const rollout = condition === undefined && rollouts.includes(kind)
  const all = name === undefined ? ['--all'] : []
  return {
    name: name === undefined ? `every ${kind} is ready` : `${kind} ${namespace}/${name} is ready`,
    ...(why === undefined ? {} : { why }),
    until: rollout
      ? sh`kubectl rollout status ${object} --namespace ${namespace} --timeout=5s`
      : sh`
        kubectl wait --for=condition=${condition ?? 'Ready'} --timeout=5s --namespace ${namespace} ${[object, ...all]}`,
    seconds,
  }
}
