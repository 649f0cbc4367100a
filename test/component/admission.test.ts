// Rules for what may run as objects of the API server, exceptions by the day, and what a report says. What the API server makes of
// them is in test/cluster/policy.test.ts.
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { join } from 'node:path'
import { describe, test } from 'node:test'
import { parse } from 'yaml'
import { policyOf, refusalManifests, ruleManifests } from '../../lib/component/admission.ts'
import { kyvernoManifests } from '../../lib/component/kyverno.ts'
import { componentsOf } from '../../lib/component/policies.ts'
import { root } from '../../lib/ground/root.ts'
import { linesOf, listOf, reportOf } from '../../lib/cli/rules.ts'
import { type Configuration, type Slice, blocksOf, keptOf } from '../../lib/cli/webhooks.ts'
import { catalogue } from '../../lib/site/catalogue.ts'
import type { PolicyException, Site } from '../../lib/site/model.ts'
import { notBuilt } from '../../lib/site/planned.ts'
import { exceptionsOf, exemptionsFor, policyData, rulesFor, usesKyverno } from '../../lib/site/policy.ts'
import policy from '../../scripts/50-policy.ts'
import type { Context } from '../../lib/engine/page.ts'
import { siteOf } from '../sites.ts'

interface Policy {
  kind: string
  metadata: { name: string; annotations?: Record<string, string> }
  spec: {
    policyName?: string
    validationActions?: string[]
    failurePolicy?: string
    matchConstraints?: object
    variables?: object[]
    matchConditions?: { name: string; expression: string }[]
    validations?: { expression: string }[]
  }
}

const with_ = (more: Partial<Site['policy']>, name = 'fortress'): Site => {
  const site = siteOf(name)
  return { ...site, policy: { ...site.policy, ...more } }
}
const exception: PolicyException = {
  rules: ['digest'],
  namespace: 'old',
  why: 'it is old',
  until: '2026-11-30',
}
const objectsFor = (site: Site, now?: Date) =>
  ruleManifests(site, 'policy', now).map((text) => parse(text) as Policy)
const of = (rule: string, site: Site, now?: Date) =>
  objectsFor(site, now).find(({ metadata }) => metadata.name === policyOf(rule))!
const conditions = (rule: string, site: Site, now?: Date) =>
  of(rule, site, now)
    .spec.matchConditions!.map(({ expression }) => expression)
    .join('\n')

describe('the rules of a site', () => {
  test('each warns from the first day, and refuses by a binding of its own', () => {
    const site = siteOf('fortress')
    const { on } = rulesFor(site)
    const all = objectsFor(site)
    assert.equal(all.length, 2 * on.length)
    for (const { spec, kind, metadata } of all.filter(({ spec }) => spec.policyName !== undefined)) {
      assert.deepEqual(
        [kind, spec.validationActions],
        ['ValidatingAdmissionPolicyBinding', ['Warn', 'Audit']],
      )
      assert.equal(metadata.name, spec.policyName)
    }
    const refusals = refusalManifests(site, 'x').map((text) => parse(text) as Policy)
    assert.deepEqual(
      refusals.map(({ spec }) => [spec.policyName, spec.validationActions]),
      on.map(({ id }) => [policyOf(id), ['Deny']]),
    )
  })

  test('the registries are those of the site', () => {
    const { variables } = of('registries', with_({ registries: ['git.home.arpa:3000/me'] }))
      .spec as unknown as {
      variables: { expression: string }[]
    }
    assert.match(
      variables.map(({ expression }) => expression).join(),
      /\["git\.home\.arpa:3000\/me"\]\.exists/,
    )
  })

  test('what waits for a page that is not there is off, and said to be', () => {
    const { on, off } = rulesFor(siteOf('fortress'))
    assert.deepEqual(
      off.map(({ id }) => id),
      ['runtime-class'],
    )
    assert.ok(!on.some(({ id }) => id === 'runtime-class'))
    assert.match(
      listOf(siteOf('fortress')),
      /runtime-class +is off, the site has no runtime that a page installs/,
    )
  })

  test('where a site has chosen a sandbox, pods have to run in it but for those that say why not', () => {
    const site = siteOf('fortress')
    const boxed = { ...site, components: { ...site.components, runtime: 'gvisor' } }
    const { on, off } = rulesFor(boxed)
    assert.deepEqual(off, [])
    assert.match(on.find(({ id }) => id === 'runtime-class')!.must, /in \["gvisor"\]$/)
    const exempt = exemptionsFor(boxed).filter(
      ({ rules }) => rules === 'all' || rules.includes('runtime-class'),
    )
    assert.deepEqual([...new Set(exempt.map(({ namespace }) => namespace))].sort(), [
      'cert-manager',
      'cilium',
      'hello',
      'kube-system',
    ])
    const kata = { ...site, components: { ...site.components, runtime: 'kata' } }
    assert.deepEqual(
      rulesFor(kata).off.map(({ id }) => id),
      ['runtime-class'],
    )
    assert.deepEqual(
      [boxed, kata, site].map((one) => notBuilt(one).filter(({ page }) => page.startsWith('4')).length),
      [1, 2, 0],
    )
    const own = (one: Site) => exemptionsFor(one).some(({ namespace }) => namespace === 'gvisor')
    assert.deepEqual([own(boxed), own(site)], [true, false])
  })

  test('Kyverno comes to a site that has chosen it, and to no other', () => {
    for (const name of ['fortress', 'zengarden', 'k3s-vault']) assert.ok(usesKyverno(siteOf(name)), name)
    for (const name of ['fortress-pi', 'pitower']) {
      assert.ok(!usesKyverno(siteOf(name)), name)
      assert.ok(!exemptionsFor(siteOf(name)).some(({ namespace }) => namespace === 'kyverno'))
      assert.ok(!componentsOf(siteOf(name), catalogue()).includes('kyverno'))
    }
  })

  test('Kyverno judges by the words of the API server, refuses when that does, and blocks nothing while it is silent', () => {
    for (const mode of ['audit', 'enforce'] as const) {
      const site = with_({ mode, exceptions: [exception] })
      const now = new Date('2026-11-29')
      const theirs = kyvernoManifests(site, 'x', now).map((text) => parse(text) as Policy)
      assert.equal(theirs.length, rulesFor(site).on.length)
      for (const { kind, metadata, spec } of theirs) {
        const own = objectsFor(site, now).find((one) => one.metadata.name === metadata.name)!
        assert.deepEqual(
          [kind, spec.validationActions, spec.failurePolicy],
          ['ValidatingPolicy', [mode === 'audit' ? 'Audit' : 'Deny'], 'Ignore'],
        )
        for (const key of ['matchConstraints', 'matchConditions', 'variables', 'validations'] as const)
          assert.deepEqual(spec[key], own.spec[key], `${metadata.name} ${key}`)
        assert.deepEqual(metadata.annotations, own.metadata.annotations)
      }
    }
  })

  test('a site whose engine no page installs hears of it', () => {
    const other = { ...siteOf('fortress'), components: { policy: 'falco' } } as unknown as Site
    assert.match(listOf(other), /falco is chosen, and no page installs it yet/)
    assert.doesNotMatch(listOf(siteOf('fortress')), /no page installs it yet/)
  })

  test('every exemption names rules that there are, and gives a reason', () => {
    const ids = policyData().rules.map(({ id }) => id)
    for (const name of ['fortress', 'fortress-pi', 'zengarden', 'pitower', 'k3s-vault'])
      for (const { rules, why } of exemptionsFor(siteOf(name))) {
        assert.ok(rules === 'all' || rules.every((rule) => ids.includes(rule)))
        assert.ok(why.length > 10)
      }
    for (const { exempt = [] } of catalogue().values())
      for (const { rules } of exempt) assert.ok(rules === 'all' || rules.every((rule) => ids.includes(rule)))
  })

  test('a component that the site has not chosen is exempt from nothing', () => {
    const site = siteOf('fortress')
    const other = {
      ...site,
      components: { network: 'other', 'load-balancer': 'other', gateway: 'other' },
    } as unknown as Site
    const has = (one: Site) => exemptionsFor(one).some(({ namespace }) => namespace === 'cilium')
    assert.deepEqual([has(site), has(other)], [true, false])
  })
})

describe('an exception', () => {
  const site = with_({ exceptions: [{ ...exception, labels: { app: "it's" } }] })
  test('ends with its last day, which the API server knows without us', () => {
    const text = conditions('digest', site, new Date('2026-11-30T23:59:59Z'))
    assert.match(text, /request\.namespace == "old" && .*\[\?"app"\]\.orValue\(''\) == "it's"/)
    assert.match(
      text,
      /timestamp\(dyn\(object\)\.metadata\.creationTimestamp\) < timestamp\('2026-12-01T00:00:00\.000Z'\)/,
    )
    assert.match(
      of('digest', site, new Date('2026-11-30')).metadata.annotations!['fortress-kit/exempt']!,
      /old app=it's until 2026-11-30: it is old/,
    )
  })

  test('is not rendered any more when it is over, and listed as ended', () => {
    const now = new Date('2026-12-01T00:00:00Z')
    assert.doesNotMatch(conditions('digest', site, now), /"old"/)
    assert.deepEqual(exceptionsOf(site, now).ended.length, 1)
    assert.match(
      listOf(site, now),
      /Ended, and to be taken out: digest in old app=it's until 2026-11-30: it is old/,
    )
  })

  test('is for its rules alone', () => {
    assert.doesNotMatch(conditions('latest', site, new Date('2026-11-30')), /"old"/)
  })
})

describe('the page', () => {
  const stepsOf = (site: Site) =>
    policy.steps({ site, state: '/state' } as unknown as Context).map(({ name }) => name)
  test('refuses only where the site says enforce, and only behind the look at what is there', () => {
    const [audit, enforce] = [stepsOf(with_({ mode: 'audit' })), stepsOf(with_({ mode: 'enforce' }))]
    assert.ok(audit.includes('the rules warn, and refuse nothing'))
    assert.ok(!audit.includes('what breaks a rule is refused'))
    const look = enforce.indexOf('what is in the cluster keeps to the rules')
    assert.ok(enforce.includes('every rule is in effect'))
    assert.ok(look > enforce.indexOf('every rule is in effect'))
    assert.ok(look < enforce.indexOf('what breaks a rule is refused'))
    // Kyverno comes last: it refuses from there on, too.
    for (const steps of [audit, enforce]) assert.equal(steps.at(-1), 'Kyverno judges by every rule')
    assert.ok(!stepsOf(with_({}, 'fortress-pi')).some((name) => name.includes('Kyverno')))
  })
})

/** Runs a function of admission.sh or kyverno.sh where kubectl says this, by its first word. */
function run(call: string, kubectl: string): { code: number | null; said: string } {
  const dir = process.env['TMPDIR'] ?? '/tmp'
  const files = ['admission', 'kyverno'].map((name) => `source ${join(root, `lib/component/${name}.sh`)}`)
  const script = `set -o pipefail; ${files.join('; ')}
kubectl() { ${kubectl}; }
${call}`
  const { status, stdout, stderr } = spawnSync('bash', ['-c', script], {
    encoding: 'utf8',
    env: { ...process.env, FK_TMP: dir },
  })
  return { code: status, said: `${stdout}${stderr}` }
}

const warning = (rule: string, object: string, says: string) =>
  `Warning: Validation failed for ValidatingAdmissionPolicy 'fortress-${rule}' with binding 'fortress-${rule}': ${object}: ${says}`

describe('Kyverno judges', () => {
  const hook = (rule: string, failure = 'ignore') =>
    `vpol.validate.kyverno.svc-${failure}-finegrained-fortress-${rule}`
  const by = (ready: string, hooks: string) =>
    run(
      'kyverno_judges Ignore digest latest',
      `case $2 in validatingpolicies*) printf '%b' '${ready}' ;; *) printf '%b' '${hooks}' ;; esac`,
    )
  const ready = 'fortress-digest true \\nfortress-latest true \\n'
  const apart = 'kube-system cilium kyverno'
  const hooks = `${hook('digest')} ${apart}\\n${hook('latest')} ${apart}\\n`

  test('where every rule is ready, and asked apart from what must start first', () => {
    assert.deepEqual(by(ready, hooks), { code: 0, said: '' })
  })

  const cases: [string, string, string, RegExp][] = [
    [
      'not by a rule that does not compile',
      ready.replace('latest true', 'latest false no such field'),
      hooks,
      /^fortress-latest is not ready: fortress-latest false no such field \n$/,
    ],
    [
      'not by a rule that is not there',
      'fortress-digest true \\n',
      hooks,
      /^fortress-latest is not ready: \n$/,
    ],
    ['not by a rule that nobody asks by', ready, hooks.split('\\n')[0]!, /does not ask by fortress-latest,/],
    [
      'not where requests wait for it',
      ready,
      hooks.replace(hook('latest'), hook('latest', 'fail')),
      /does not ask by fortress-latest,/,
    ],
    ...['kube-system', 'kyverno'].map((name): [string, string, string, RegExp] => [
      `not where it is asked about ${name}`,
      ready,
      hooks.replaceAll(` ${name}`, ''),
      /does not ask by fortress-latest, or also about/,
    ]),
  ]
  for (const [what, policies, webhooks, says] of cases)
    test(what, () => {
      const { code, said } = by(policies, webhooks)
      assert.equal(code, 1, said)
      assert.match(said, says)
    })

  test('and answers where it refuses a policy that makes no sense', () => {
    const says = (text: string, code: number) => run('kyverno_answers', `echo "${text}" >&2; return ${code}`)
    assert.deepEqual(says('admission webhook denied the request: no', 1), { code: 0, said: '' })
    assert.match(says('created (server dry run)', 0).said, /is let through/)
    assert.match(says('failed calling webhook: connection refused', 1).said, /connection refused/)
    assert.deepEqual([says('x', 0).code, says('failed calling webhook', 1).code], [1, 1])
  })
})

describe('a report', () => {
  const lines = [
    warning('digest', 'Deployment a/web', 'no digest: web'),
    warning('digest', 'Pod a/web-1', 'no digest: web'),
    warning('limits', 'Pod b/own', 'no limit: x'),
    warning('limits', 'Job b/done', 'no limit: x'),
  ]
  const asked = (annotate: string) => `case $1 in
    api-resources) printf '%s\\n' pods deployments.apps jobs.batch ;;
    get) case $* in *--selector*) echo binding ;; *) printf '%b' 'Deployment\\ta/web\\t\\t\\nPod\\ta/web-1\\tReplicaSet\\tRunning\\nPod\\tb/own\\t\\tRunning\\nJob\\tb/done\\t\\tSucceeded\\n' ;; esac ;;
    annotate) ${annotate} ;;
  esac`
  const said = (text: string, code: number) =>
    `printf '%s\\n' "${text.replaceAll('\n', '\\n').replaceAll('"', '\\"')}" | sed 's/\\\\n/\\n/g' >&2; return ${code}`

  test('names what answers for itself, and nothing that has ended', () => {
    const { code, said: text } = run(
      'policy_report pods deployments.apps jobs.batch other.example',
      asked(said(lines.join('\n'), 0)),
    )
    assert.equal(code, 1)
    assert.equal(text, 'digest\tDeployment\ta/web\tno digest: web\nlimits\tPod\tb/own\tno limit: x\n')
    assert.equal(
      reportOf(linesOf(text)),
      'Deployment a/web\n  digest  no digest: web\nPod b/own\n  limits  no limit: x\n\n2 objects would be refused if they came today.\n',
    )
  })

  test('says nothing where nothing breaks a rule', () => {
    assert.deepEqual(run('policy_report pods', asked('return 0')), { code: 0, said: '' })
  })

  test('is none where something could not be asked', () => {
    const text = 'Error from server (InternalError): failed calling webhook "x"'
    const { code, said: out } = run('policy_report pods', asked(said(text, 1)))
    assert.equal(code, 2)
    assert.match(out, /not everything could be asked:\nError from server \(InternalError\)/)
  })

  test('is none where the rules are not in the cluster', () => {
    const { code, said: out } = run('policy_report pods', ':')
    assert.deepEqual([code, out], [2, 'the rules are not in the cluster: ./task policy apply\n'])
  })

  test('an object that is gone meanwhile is no failure', () => {
    assert.equal(
      run('policy_report pods', asked(said('Error from server (NotFound): pods "x" not found', 1))).code,
      0,
    )
  })
})

describe('webhooks that hold everything up', () => {
  const configuration = (
    name: string,
    ...webhooks: NonNullable<Configuration['webhooks']>
  ): Configuration => ({
    kind: 'ValidatingWebhookConfiguration',
    metadata: { name, uid: '1', resourceVersion: '2', labels: { a: 'b' } },
    webhooks,
  })
  const service = (name: string) => ({ service: { namespace: 'x', name } })
  const all = [
    configuration(
      'dead',
      { name: 'a', failurePolicy: 'Ignore', clientConfig: service('gone') },
      { name: 'b', clientConfig: service('gone') },
    ),
    configuration('alive', { name: 'c', failurePolicy: 'Fail', clientConfig: service('here') }),
    configuration('far', { name: 'd', failurePolicy: 'Fail', clientConfig: { url: 'https://example.org' } }),
  ]
  const slice = (name: string, ready?: boolean): Slice => ({
    metadata: { namespace: 'x', labels: { 'kubernetes.io/service-name': name } },
    endpoints: [{ conditions: ready === undefined ? {} : { ready } }],
  })
  const found = (slices: Slice[], ...names: string[]) =>
    blocksOf(all, slices, names).map(({ webhook, index }) => `${index} ${webhook}`)

  test('are those that must agree, and behind which nothing is ready', () => {
    assert.deepEqual(found([slice('here')]), ['1 b'])
    assert.deepEqual(found([slice('here', false), { ...slice('gone'), endpoints: null }]), ['1 b', '0 c'])
    assert.deepEqual(found([slice('here', true), slice('gone', true)]), [])
  })

  test('or those that are named, whatever is ready', () => {
    assert.deepEqual(found([slice('here'), slice('gone')], 'far', 'alive'), ['0 c', '0 d'])
  })

  test('are kept as they can be put back', () => {
    assert.deepEqual(keptOf(all[0]!), { ...all[0], metadata: { name: 'dead', labels: { a: 'b' } } })
  })
})
