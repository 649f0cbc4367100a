import assert from 'node:assert/strict'
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, describe, it } from 'node:test'
import { labSweep } from '../lib/lab/lab.ts'
import { claim, ownerOf } from '../lib/lab/machine.ts'

const dir = mkdtempSync(join(tmpdir(), 'fk-claims-'))
after(() => rmSync(dir, { recursive: true, force: true }))
const home = join(dir, 'run')
const noEnd = () => Promise.reject(new Error('nothing was to be ended'))

/** A pid that is taken, with a start that is not its own: a process that has died and whose pid was given out anew. */
const dead = { pid: process.pid, started: '1' }

describe('who owns a machine of the lab', () => {
  it('a claim that is not written yet is left alone, and one of a dead process is swept', async () => {
    await claim(join(home, 'mine'), 'mine', false, noEnd)
    const mine = ownerOf(join(home, 'mine')) as { pid: number; started: string }
    const fresh = join(home, `next.claim-${mine.pid}-${mine.started}-Ab12Cd`)
    const stale = join(home, `next.claim-${dead.pid}-${dead.started}-Ab12Cd`)
    for (const made of [fresh, stale]) mkdirSync(made)
    await labSweep({ dir })
    assert.deepEqual([fresh, stale, join(home, 'mine')].map(existsSync), [true, false, true])
  })

  it('a machine that somebody is removing is left to them', async () => {
    const half = join(home, 'half')
    mkdirSync(half)
    await labSweep({ dir })
    assert.ok(existsSync(half))
  })

  it('the machine of a dead process is removed', async () => {
    const left = join(home, 'left')
    mkdirSync(left)
    writeFileSync(join(left, 'owner'), JSON.stringify(dead))
    await labSweep({ dir })
    assert.ok(!existsSync(left))
  })

  it('one process cannot take the machine of another that lives', async () => {
    const theirs = join(home, 'theirs')
    mkdirSync(theirs)
    const parent = { pid: process.ppid, started: '' }
    const stat = readFileSync(`/proc/${process.ppid}/stat`, 'utf8')
    parent.started = stat.slice(stat.lastIndexOf(')') + 2).split(' ')[19] as string
    writeFileSync(join(theirs, 'owner'), JSON.stringify(parent))
    await assert.rejects(claim(theirs, 'theirs', false, noEnd), /is up already, for process \d+/)
  })
})
