// Objects that a page applies by itself: in which order they go.
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { specsOf } from '../../lib/component/policies.ts'
import { clusterOf, flowsOf, isAllowed } from './clusters.ts'

const shell = join(import.meta.dirname, '../../lib/component/objects.sh')

/** What is deleted, in its order: `there` is how the API lists it, `named` what the file has; undefined: there is no file. */
function deleted(there: string[], named: string[] | undefined): string[] {
  const { status, stdout, stderr } = spawnSync(
    'bash',
    [
      '-c',
      `set -o pipefail
      kubectl() {
        case $1 in
          create) printf '%s\\n' $NAMED ;;
          get) printf '%s\\n' $THERE ;;
          delete) printf '%s\\n' "$2/$3" ;;
        esac
      }
      source "$1"
      objects_gone policies some "$2"`,
      'bash',
      shell,
      named === undefined ? '/nonexistent/file' : shell,
    ],
    { encoding: 'utf8', env: { ...process.env, THERE: there.join(' '), NAMED: (named ?? []).join(' ') } },
  )
  assert.equal(status, 0, stderr)
  return stdout.trim().split('\n')
}

test('undo deletes the last one first, whatever order the API lists them in, and before them what is declared no more', () => {
  assert.deepEqual(deleted(['A/a', 'A/b', 'B/x', 'B/old'], ['B/x', 'A/b', 'A/a']), [
    'B/old',
    'A/a',
    'A/b',
    'B/x',
  ])
})

test('undo deletes only what is there, and all of it where the file is gone', () => {
  assert.deepEqual(deleted(['A/a'], ['A/a', 'A/never']), ['A/a'])
  assert.deepEqual(deleted(['A/a', 'B/b'], undefined), ['A/a', 'B/b'])
})

test('in a transaction what was there before is kept, and a rollback brings it back, and takes away what is new', () => {
  const state = mkdtempSync(join(tmpdir(), 'fk-test-'))
  const run = (line: string, there: string) => {
    const { status, stdout, stderr } = spawnSync(
      'bash',
      [
        '-c',
        `set -o pipefail
      kubectl() {
        case $1,$* in
          get,*yaml*) printf 'apiVersion: v1\nitems:\n- kind: A\n  metadata:\n    name: a\n    uid: 1\n    resourceVersion: "2"\n' ;;
          get,*) printf '%s\n' $THERE ;;
          create,*) echo A/a ;;
          *) printf '%s\n' "$*" ;;
        esac
      }
      source "$(dirname "$1")/release.sh"
      source "$1"
      ${line}`,
        'bash',
        shell,
      ],
      {
        encoding: 'utf8',
        env: { ...process.env, THERE: there, FK_STATE: state, FK_TMP: state, FK_TX: 'tx' },
      },
    )
    assert.equal(status, 0, stderr)
    return stdout.trim().split('\n')
  }
  try {
    const kept = join(state, 'tx/tx/objects.policies')
    mkdirSync(join(state, 'tx/tx'), { recursive: true })
    // A run that died before it applied anything has nothing to take back.
    assert.deepEqual(run('objects_gone policies some /nonexistent', 'A/a A/b'), [''])
    assert.ok(!existsSync(kept))
    run('objects_apply policies some /nonexistent/file', 'A/a')
    assert.equal(readFileSync(kept, 'utf8'), 'apiVersion: v1\nitems:\n- kind: A\n  metadata:\n    name: a\n')
    const back = run('objects_gone policies some /nonexistent', 'A/a A/b')
    assert.match(back[0]!, new RegExp(`^apply --server-side .*--filename=${kept}$`))
    assert.deepEqual(back.slice(1), ['delete A b --ignore-not-found --wait --timeout=60s'])
  } finally {
    rmSync(state, { recursive: true })
  }
})

test('policies that go in the order of the API would cut CoreDNS off on the way', () => {
  const { manifests, known, ...cluster } = clusterOf('fortress')
  const listed = manifests.toSorted((a, b) => {
    const key = ({ policy: { kind, metadata } }: typeof a) =>
      `${kind === 'CiliumNetworkPolicy' ? 0 : 1} ${metadata.namespace} ${metadata.name}`
    return key(a) < key(b) ? -1 : 1
  })
  const flows = flowsOf({ ...cluster, manifests, known }).filter((flow) => isAllowed(manifests, known, flow))
  const kept = (order: typeof manifests) =>
    order.every((_, i) => flows.every((flow) => isAllowed(order.slice(i + 1), known, flow)))
  assert.equal(kept(listed), false)
  assert.equal(kept(manifests.toReversed()), true)
  assert.ok(manifests.every(({ policy }) => specsOf(policy).length > 0))
})
