// Machines side by side: how many at once, what waits for what, and in which order the answers are taken.
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { abreast, guestsAtOnce, limited, machinesAtOnce } from '../../lib/cli/abreast.ts'
import type { Placed } from '../../lib/site/machines.ts'

const placed = (name: string, behind?: string) =>
  ({ name, ...(behind === undefined ? {} : { behind }) }) as Placed

const hosts = (n: number) => Array.from({ length: n }, (_, i) => placed(`h${i + 1}`))

/** Jobs that end when a test says so. */
function jobs() {
  const running: string[] = []
  const ends = new Map<string, (error?: Error) => void>()
  let most = 0
  return {
    running,
    most: () => most,
    job: ({ name }: Placed) =>
      new Promise<string>((resolve, reject) => {
        running.push(name)
        most = Math.max(most, running.length)
        ends.set(name, (error) => {
          running.splice(running.indexOf(name), 1)
          if (error) reject(error)
          else resolve(name)
        })
      }),
    async end(name: string, error?: Error) {
      ends.get(name)?.(error)
      await settled()
    },
  }
}

const settled = () => new Promise((resolve) => setImmediate(resolve))

describe('machines side by side', () => {
  test('no more at once than the limit, and the next begins when any of them ends', async () => {
    const { job, running, end, most } = jobs()
    const looked = abreast(hosts(machinesAtOnce + 2), job)
    await settled()
    assert.equal(running.length, machinesAtOnce)
    await end('h3')
    assert.ok(running.includes(`h${machinesAtOnce + 1}`))
    while (running.length > 0) await end(running[0]!)
    assert.equal(most(), machinesAtOnce)
    assert.deepEqual(
      await Promise.all(looked),
      hosts(machinesAtOnce + 2).map(({ name }) => name),
    )
  })

  test('a machine that does not answer delays nobody, and its error waits for whoever takes it', async () => {
    const { job, end } = jobs()
    const [first, ...others] = abreast(hosts(3), job)
    await settled()
    await end('h2')
    await end('h3')
    assert.deepEqual(await Promise.all(others), ['h2', 'h3'])
    await end('h1', new Error('silent'))
    await assert.rejects(first as Promise<string>, /silent/)
  })

  test('what is behind a host waits for it, and few of them are there at once', async () => {
    const { job, running, end } = jobs()
    const guests = ['a', 'b', 'c', 'd', 'e'].map((name) => placed(name, 'h1'))
    // The document may name them in any order.
    const looked = abreast([...guests, placed('h1'), placed('h2')], job)
    await settled()
    assert.deepEqual(running, ['h1', 'h2'])
    await end('h1', new Error('silent'))
    assert.deepEqual(running, ['h2', 'a', 'b', 'c'])
    assert.equal(guestsAtOnce, 3)
    await end('b')
    assert.deepEqual(running, ['h2', 'a', 'c', 'd'])
    for (const name of ['h2', 'a', 'c', 'd', 'e']) await end(name)
    const answers = await Promise.allSettled(looked)
    assert.deepEqual(
      answers.map((answer) => (answer.status === 'fulfilled' ? answer.value : 'rejected')),
      ['a', 'b', 'c', 'd', 'e', 'rejected', 'h2'],
    )
  })

  test('jobs begin in their order, some at once', async () => {
    const { job, running, end } = jobs()
    limited(
      hosts(3).map((spec) => () => job(spec)),
      2,
    )
    await settled()
    assert.deepEqual(running, ['h1', 'h2'])
    await end('h2')
    assert.deepEqual(running, ['h1', 'h3'])
  })
})
