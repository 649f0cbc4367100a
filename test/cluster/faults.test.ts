// What can go wrong while a component comes into a cluster: the server of its chart, the disk of the laptop, the API, and a webhook
// of somebody else. Refused with the right sentence, or healed by the next run, by real helm on a real API server.
import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { existsSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import type { ServerResponse } from 'node:http'
import { createServer } from 'node:https'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { said } from '../machine/kit.ts'
import { selfSigned, without } from '../programs.ts'
import { type Demo, demo, missing } from './demo.ts'

/** A page of objects, whose namespace it makes. */
const objectsPage = `#!/usr/bin/env -S npx --no-install tsx
// Notes.
import { namespaceStep, objects, objectsShell } from '../lib/component/objects.ts'
import { script } from '../lib/script.ts'

const manifest = 'apiVersion: v1\\nkind: ConfigMap\\nmetadata: { name: note, namespace: notes, labels: { fortress-kit: notes } }\\n'
export default script(import.meta, { layer: 'L6', on: 'api', library: objectsShell }, (context) => [
  namespaceStep({ name: 'notes', namespace: 'notes' }),
  ...objects({ what: 'notes', name: 'notes are declared', manifests: [manifest], kinds: ['configmaps'] }, context),
])
`

describe('what goes wrong on the way of a component into a cluster', { skip: missing }, () => {
  let it: Demo
  const kubectl = (words: string, input?: string) => it.kubectl(words, input)
  const page = (name: string, ...words: string[]) => said(it.start(words, name))
  const refused = async (pattern: RegExp) => {
    const { code, text } = await it.page('apply')
    assert.equal(code, 1, text)
    assert.match(text, pattern)
    return text
  }
  const part = () => join(it.node.state, 'downloads/demo-1.0.0.tgz.part')
  const downloaded = () => existsSync(part().replace(/\.part$/, ''))

  before(async () => {
    it = await demo('faults')
    writeFileSync(it.copy.page('52-notes'), objectsPage)
  })
  after(() => it?.end())

  describe('the server of its chart', () => {
    /** Requests for the file: what they asked for of it. */
    const ranges: (string | undefined)[] = []
    const sends = (to: (response: ServerResponse) => string) => {
      it.answer = (_file, response) => void response.writeHead(302, { location: to(response) }).end()
    }

    test('sends us to another host that does not encrypt: it is not asked', async () => {
      sends(() => 'http://127.0.0.2:9/demo-1.0.0.tgz')
      await refused(/the server sends us to http:\/\/127\.0\.0\.2:9\/\S+, which is not https/)
    })

    test('sends us round in a circle', async () => {
      sends(({ req }) => req.url ?? '')
      await refused(/cannot be fetched: the server sends us round in a circle/)
    })

    test(
      'sends us to another host whose certificate nobody knows',
      { skip: without('openssl') },
      async () => {
        const { chain, key } = selfSigned('localhost', it.node.state)
        const file = readFileSync(join(it.charts, 'demo-1.0.0.tgz'))
        let asked = 0
        const other = createServer({ cert: readFileSync(chain), key: readFileSync(key) }, (_, response) => {
          asked += 1
          response.end(file)
        })
        await new Promise<void>((resolve) => other.listen(0, '127.0.0.1', resolve))
        try {
          const { port } = other.address() as AddressInfo
          sends(() => `https://localhost:${port}/demo-1.0.0.tgz`)
          await refused(/the certificate of localhost:\d+ is not trusted/)
          assert.deepEqual([asked, downloaded()], [0, false])
          // With one that is known the file counts, wherever it comes from: its digest is pinned.
          it.env['NODE_EXTRA_CA_CERTS'] = chain
          it.pin('0a'.repeat(32))
          await refused(/is not the file that is pinned/)
          assert.deepEqual([asked, downloaded()], [1, false])
        } finally {
          delete it.env['NODE_EXTRA_CA_CERTS']
          it.pin(it.digestOf('demo-1.0.0.tgz'))
          other.closeAllConnections()
          other.close()
        }
      },
    )

    test('none of which has begun helm, and nothing has the name of the chart', async () => {
      assert.deepEqual([await it.revisions(), downloaded()], [[], false])
    })

    test('cuts the connection in the middle: the same run goes on where it was, and installs it', async () => {
      it.answer = (file, response) => {
        const { range } = response.req.headers
        ranges.push(range)
        const from = Number(/^bytes=(\d+)-$/.exec(range ?? '')?.[1] ?? 0)
        const end = from === 0 ? Math.floor(file.length / 2) : file.length
        response.writeHead(from === 0 ? 200 : 206, {
          etag: '"chart"',
          'content-length': file.length - from,
          ...(from === 0 ? {} : { 'content-range': `bytes ${from}-${file.length - 1}/${file.length}` }),
        })
        response.write(file.subarray(from, end))
        if (end === file.length) return void response.end()
        void (async () => {
          for (let i = 0; i < 1000 && (statSync(part(), { throwIfNoEntry: false })?.size ?? 0) < end; i++)
            await sleep(10)
          response.destroy()
        })()
      }
      await it.apply()
      it.answer = undefined
      // Of its definitions, and of the chart: begun, and gone on with.
      assert.match(ranges.join(' '), /^ bytes=[1-9]\d*-  bytes=[1-9]\d*-$/)
      assert.deepEqual(await it.revisions(), ['deployed'])
    })
  })

  describe('the disk of the laptop', () => {
    /** A disk of this size at a directory, which is full but for what lies there already. */
    const full = async (dir: string, size: string, work: () => Promise<void>) => {
      const line = `mkdir --parents "$0" && cp --archive "$0" "$0.was" && mount -t tmpfs -o size=${size},mode=700 full "$0" &&
cp --archive "$0.was/." "$0" && { cat /dev/zero > "$0/fill" 2> /dev/null || true; }`
      execFileSync('bash', ['-ec', line, dir])
      try {
        await work()
      } finally {
        execFileSync('bash', ['-ec', 'umount "$0" && rm --recursive "$0" && mv "$0.was" "$0"', dir])
      }
    }
    const state = () => join(it.node.state, 'fortress-pi')

    test('has no room for the chart: it is said, and what runs is left alone', async () => {
      execFileSync('rm', ['--force', join(state(), 'components/demo/demo-1.0.0.tgz')])
      execFileSync('rm', ['--recursive', join(it.node.state, 'downloads')])
      await full(join(it.node.state, 'downloads'), '16k', async () => {
        await refused(/does not fit on this disk|no space|no room/i)
      })
      assert.deepEqual(await it.revisions(), ['deployed'])
      await it.apply()
    })

    test('has no room for values: they stay as they were, with the release, and the next run goes on', async () => {
      const file = join(state(), 'components/demo/values.yaml')
      const was = readFileSync(file, 'utf8')
      it.values(`message: large\n# ${'x'.repeat(20_000)}\n`)
      await full(state(), '96k', async () => {
        await refused(/No space left|no space|no room/i)
        assert.equal(readFileSync(file, 'utf8'), was)
      })
      assert.equal(await it.message(), 'from the component')
      it.values('message: small\n')
      await it.apply()
      assert.equal(await it.message(), 'small')
    })
  })

  describe('a webhook that does not answer', () => {
    const hook = (resource: string, ...operations: string[]) =>
      JSON.stringify({
        apiVersion: 'admissionregistration.k8s.io/v1',
        kind: 'ValidatingWebhookConfiguration',
        metadata: { name: 'dead' },
        webhooks: [
          {
            name: 'dead.example.org',
            failurePolicy: 'Fail',
            sideEffects: 'None',
            timeoutSeconds: 1,
            admissionReviewVersions: ['v1'],
            clientConfig: { service: { name: 'gone', namespace: 'default', path: '/' } },
            rules: [{ apiGroups: [''], apiVersions: ['v1'], resources: [resource], operations }],
          },
        ],
      })
    const dead = async (resource: string, operations: string[], work: () => Promise<void>) => {
      await kubectl('apply --filename=-', hook(resource, ...operations))
      await sleep(2000) // the API server reads it again
      try {
        await work()
      } finally {
        await kubectl('delete validatingwebhookconfiguration dead')
        await sleep(2000)
      }
    }
    const advice = /failed calling webhook "dead\.example\.org"[^]*\.\/task unlock-webhooks/

    test('keeps an upgrade from its end: its name is said, with what to do, and the next run ends it', async () => {
      it.values('message: hooked\n')
      await dead('configmaps', ['CREATE', 'UPDATE'], async () => void (await refused(advice)))
      assert.equal(await it.message(), 'small')
      await it.apply()
      assert.equal(await it.message(), 'hooked')
      assert.equal((await it.page('verify')).code, 0)
    })

    test('keeps a namespace from being made, and objects from being applied', async () => {
      for (const resource of ['namespaces', 'configmaps'])
        await dead(resource, ['CREATE', 'UPDATE'], async () => {
          const { code, text } = await page('52-notes', 'apply')
          assert.equal(code, 1, text)
          assert.match(text, advice)
        })
      assert.equal((await page('52-notes', 'apply')).code, 0)
      assert.equal((await page('52-notes', 'verify')).code, 0)
    })

    test('keeps an undo from its end: its record is kept, and the next one takes the rest', async () => {
      await dead('configmaps', ['DELETE'], async () => {
        const { code, text } = await page('52-notes', 'undo', '--yes')
        assert.equal(code, 1, text)
        assert.match(text, /failed calling webhook "dead\.example\.org"[^]*its record is kept/)
      })
      assert.equal((await page('52-notes', 'undo', '--yes')).code, 0)
      assert.equal(await kubectl('get namespace notes --ignore-not-found'), '')
    })
  })

  describe('the API', () => {
    const ready = async () => {
      const { code, said: why } = await it.node.begin()
      assert.equal(code, 0, why)
    }
    const pending = async () => {
      for (let i = 0; (await it.revisions()).at(-1) !== 'pending-upgrade'; i++) {
        assert.ok(i < 120, 'the upgrade never began')
        await sleep(250)
      }
    }

    test('that dies while helm works ends the run with that sentence, and the next run settles what was begun', async () => {
      it.values('message: away\nhook: true\n')
      const running = said(it.start(['apply']))
      await pending()
      await it.node.ok('systemctl kill --signal=KILL k3s.service; systemctl stop k3s.service')
      const { code, text } = await running
      assert.equal(code, 1, text)
      assert.match(text, /The API has not answered for a minute[^]*settled when this is run again/)
      await ready()
      assert.equal((await it.revisions()).at(-1), 'pending-upgrade')
      it.values('message: back\n')
      await it.apply()
      assert.equal(await it.message(), 'back')
      assert.equal((await it.page('verify')).code, 0)
      assert.equal((await it.revisions()).at(-1), 'deployed')
    })

    test('that comes back while helm works is waited for, and the run ends well or the next one does', async () => {
      it.values('message: again\n')
      const running = said(it.start(['apply']))
      await sleep(1500)
      await it.node.ok('systemctl kill --signal=KILL k3s.service')
      const { code, text } = await running
      await ready()
      assert.ok(code === 0 || code === 1, text)
      await it.apply()
      assert.equal(await it.message(), 'again')
      assert.equal((await it.page('verify')).code, 0)
    })
  })
})
