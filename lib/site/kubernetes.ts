// Names as Kubernetes checks them (k8s.io/apimachinery, pkg/util/validation): labels, taints and names of nodes.
import { type Problem, show } from '../ground/document.ts'
import { nearest } from '../ground/nearest.ts'

type Finding = Omit<Problem, 'path'>

const name = /^[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$/
const subdomain = /^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$/
const effects = ['NoSchedule', 'PreferNoSchedule', 'NoExecute']

/** What is wrong with the name of a node. */
export function nodeNameProblem(text: string): Finding | undefined {
  // k3s writes it in small letters itself.
  const small = text.toLowerCase()
  if (small.length <= 253 && subdomain.test(small)) return undefined
  const meant = small.replaceAll('_', '-')
  return {
    reason: `must be letters, digits, - and dots, and begin and end with a letter or digit, is ${show(text)}`,
    suggestion: subdomain.test(meant) ? meant : undefined,
  }
}

/** What is wrong with the key of a label or taint: NAME or DOMAIN/NAME. */
export function keyProblem(key: string): Finding | undefined {
  const [last = '', domain, ...more] = key.split('/').toReversed()
  if (more.length > 0) return { reason: `has more than one / in its key ${show(key)}` }
  if (domain !== undefined && (domain.length > 253 || !subdomain.test(domain)))
    return { reason: `must have a DNS name in small letters before the /, is ${show(key)}` }
  if (last.length > 63) return { reason: `has ${last.length} letters in its key, at most 63 can be` }
  if (name.test(last)) return undefined
  return {
    reason: `must have a key of letters, digits, -, _ and dots that begins and ends with a letter or digit, is ${show(key)}`,
  }
}

/** What is wrong with the value of a label or taint; it may be empty. */
export function valueProblem(value: string): Finding | undefined {
  if (value.length > 63) return { reason: `has ${value.length} letters in its value, at most 63 can be` }
  if (value === '' || name.test(value)) return undefined
  const meant = value.replaceAll(/[^-A-Za-z0-9_.]+/g, '-')
  return {
    reason:
      `must have a value of letters, digits, -, _ and dots that begins and ends with a letter or digit, ` +
      `is ${show(value)}`,
    suggestion: name.test(meant) ? meant : undefined,
  }
}

/** What is wrong with a label that a kubelet is to give its node. */
export function labelProblem(key: string, value: string): Finding | undefined {
  const domain = key.includes('/') ? key.slice(0, key.indexOf('/')) : ''
  if (
    /(^|\.)(kubernetes|k8s)\.io$/.test(domain) &&
    !/(^|\.)(kubelet|node)\.kubernetes\.io$/.test(domain) &&
    !ownLabels.has(key)
  )
    return {
      reason: `${key} is not a label that a node may give itself: the kubelet does not start with it`,
    }
  const wrong = keyProblem(key)
  if (wrong) return wrong
  const problem = valueProblem(value)
  return problem && { ...problem, suggestion: problem.suggestion && `${key}=${problem.suggestion}` }
}

/** The labels of Kubernetes' own that a kubelet may give its node (k8s.io/kubelet, pkg/apis/well_known_labels.go). */
const ownLabels = new Set(
  `kubernetes.io/hostname kubernetes.io/os kubernetes.io/arch topology.kubernetes.io/zone topology.kubernetes.io/region
    failure-domain.beta.kubernetes.io/zone failure-domain.beta.kubernetes.io/region beta.kubernetes.io/instance-type
    node.kubernetes.io/instance-type beta.kubernetes.io/os beta.kubernetes.io/arch`.split(/\s+/),
)

/** What is wrong with a taint, KEY[=VALUE]:EFFECT. */
export function taintProblem(text: string): Finding | undefined {
  const [left = '', effect, ...more] = text.split(':')
  const [key = '', value = '', ...rest] = left.split('=')
  if (effect === undefined || more.length > 0 || rest.length > 0 || !effects.includes(effect)) {
    const meant = more.length === 0 && rest.length === 0 ? nearest(effect ?? '', effects) : undefined
    return {
      reason: `must be key=value: with NoSchedule, PreferNoSchedule or NoExecute, is ${show(text)}`,
      suggestion: meant && `${left}:${meant}`,
    }
  }
  const wrong = keyProblem(key)
  if (wrong) return wrong
  const { reason, suggestion } = valueProblem(value) ?? {}
  return reason === undefined
    ? undefined
    : { reason, suggestion: suggestion && `${key}=${suggestion}:${effect}` }
}
