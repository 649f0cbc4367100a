// The configuration of k3s (config/k3s), as the real programs take it: every argument arrives, and what they do not know ends
// the start.
import assert from 'node:assert/strict'
import { after, before, describe, test } from 'node:test'
import { parse } from 'yaml'
import { type Bed, alone, bed, etc, program, told, unit } from './kit.ts'

type Told = Record<string, unknown>
const argumentsOf = (config: Told, component: string) => (config[`${component}-arg`] ?? []) as string[]

describe(
  'the configuration of k3s',
  { skip: program === undefined ? 'kube-bed is not installed' : false },
  () => {
    const config = parse(told('config.yaml')) as Told
    const components = ['kube-apiserver', 'kube-controller-manager', 'kube-scheduler', 'kubelet']
    let server: Bed
    let journal: string

    before(async () => {
      server = await bed(undefined, 'told')
      const { code, said } = await server.begin()
      assert.equal(code, 0, said)
      journal = await server.journal()
    })
    after(() => server?.end())

    /** The words that a component was started with, as its log says. */
    const words = (component: string) => {
      const line = journal.split('\n').findLast((l) => l.includes(`msg="Running ${component} `))
      return (/msg="Running \S+ (.*)"$/.exec(line ?? '')?.[1] ?? '').split(' ')
    }

    test('what the tests look at is there: arguments for each component', () => {
      for (const component of components) assert.ok(argumentsOf(config, component).length > 0, component)
    })

    for (const component of components) {
      test(`${component} starts with every argument of ours`, async () => {
        for (const argument of argumentsOf(config, component))
          assert.ok(
            words(component).includes(`--${argument}`),
            `--${argument} is not in: ${words(component).join(' ')}`,
          )
        // The kubelet's are read by its code, and it is not started.
        if (component === 'kubelet') return
        const running = await server.ok(
          `tr '\\0' '\\n' < /proc/$(pgrep --exact --full '${component} .*')/cmdline`,
        )
        for (const argument of argumentsOf(config, component))
          assert.ok(running.split('\n').includes(`--${argument}`), argument)
      })
    }

    test('what the arguments of the kubelet mean to it, it shows under /configz', async () => {
      const { stdout } = await server.kubectl('get --raw /api/v1/nodes/told/proxy/configz')
      const { kubeletconfig } = JSON.parse(stdout) as { kubeletconfig: Told }
      assert.equal(kubeletconfig['protectKernelDefaults'], true)
      assert.equal(kubeletconfig['streamingConnectionIdleTimeout'], '5m0s')
      assert.equal(kubeletconfig['podPidsLimit'], 4096)
      assert.equal(kubeletconfig['tlsMinVersion'], 'VersionTLS12')
    })

    test('an agent comes with its own token, takes every argument, and cannot be a server with it', async (t) => {
      const token = await server.ok('cat /var/lib/rancher/k3s/server/agent-token')
      const node = `server: https://${server.machine.host}:6443\n`
      const files = {
        [`${etc}/config.yaml`]: told('agent.yaml'),
        [`${etc}/config.yaml.d/10-node.yaml`]: node,
        [`${etc}/token`]: token,
      }
      const agent = await bed(t, 'told-agent', files, 'agent')
      const { code, said } = await agent.begin()
      assert.equal(code, 0, said)
      const running = await agent.journal()
      for (const argument of argumentsOf(parse(told('agent.yaml')) as Told, 'kubelet'))
        assert.ok(running.includes(` --${argument} `) || running.includes(` --${argument}"`), argument)
      const { stdout } = await server.kubectl('get node told-agent --output jsonpath={.metadata.labels}')
      assert.doesNotMatch(stdout, /node-role/)
      await agent.ok('systemctl stop k3s')
      agent.put({ ...alone, ...files, ...unit('server'), [`${etc}/config.yaml`]: told('config.yaml') })
      const refused = await agent.begin()
      assert.notEqual(refused.code, 0)
      assert.match(refused.said, /failed to validate token: .* 401 Unauthorized/)
    })

    /** What k3s says with one setting more. */
    const wrong = async (more: string) => {
      server.put({ [`${etc}/config.yaml.d/90-wrong.yaml`]: more })
      const { code, said } = await server.begin()
      assert.notEqual(code, 0, `k3s starts with ${more}`)
      return said
    }

    for (const [what, more, said] of [
      [
        'an apiserver’s flag that nobody knows',
        'kube-apiserver-arg+: [no-such-flag=1]',
        /level=fatal msg="apiserver exited: unknown flag: --no-such-flag"/,
      ],
      [
        'an apiserver’s flag that was removed',
        'kube-apiserver-arg+: [insecure-port=8080]',
        /level=fatal msg="apiserver exited: unknown flag: -{2}insecure-port"/,
      ],
      [
        'an admission plug-in that nobody knows',
        'kube-apiserver-arg+: [enable-admission-plugins=NoSuchPlugin]',
        /enable-admission-plugins plugin \\?"NoSuchPlugin\\?" is unknown/,
      ],
      [
        'a kubelet’s flag that nobody knows',
        'kubelet-arg+: [no-such-flag=1]',
        /unknown flag: --no-such-flag/,
      ],
      [
        'a kubelet’s value that it does not take',
        'kubelet-arg+: [event-qps=-1]',
        /eventRecordQPS .* must not be a negative number/i,
      ],
      [
        'a key that is no flag of k3s',
        'no-such-key: true',
        /90-wrong\.yaml:1: flag provided but not defined: -no-such-key/,
      ],
    ] as const)
      test(`${what} ends the start, and its name is said`, async () => assert.match(await wrong(more), said))

    for (const component of ['kube-controller-manager', 'kube-scheduler'])
      test(`${component} does not start with an unknown flag`, async () => {
        const given = words(component).join(' ')
        const { code, stderr } = await server.root(
          `exec -a ${component} /opt/bin/k3s ${given} --no-such-flag=1`,
        )
        assert.notEqual(code, 0)
        assert.match(stderr, /unknown flag: --no-such-flag/)
      })

    test('a kernel that is not as the kubelet wants it ends the start', async () => {
      const right = {
        'vm.panic_on_oom': 0,
        'vm.overcommit_memory': 1,
        'kernel.panic': 10,
        'kernel.panic_on_oops': 1,
      }
      const names = Object.keys(right)
      const found = (await server.ok(`sysctl --values ${names.join(' ')}`)).trim().split('\n').map(Number)
      const [name, value] = Object.entries(right).find(([, value], i) => value !== found[i]) ?? []
      server.put({
        [`${etc}/config.yaml.d/90-wrong.yaml`]: '',
        '/etc/systemd/system/k3s.service.d/bed.conf': '',
      })
      const { code, said } = await server.begin()
      if (name === undefined) assert.equal(code, 0, said)
      else
        assert.match(
          said,
          new RegExp(
            `invalid kernel flag: ${name.replace('.', '/')}, expected value: ${value}, actual value`,
          ),
        )
    })
  },
)
