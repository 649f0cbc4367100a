import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { systemOf } from '../../lib/site/systems.ts'

describe('a system is named', () => {
  const cases: [string, Parameters<typeof systemOf>[0], string][] = [
    ['by what os-release says', { id: 'debian', version: '13', marks: [] }, 'debian-13'],
    [
      'by a file of its own, where os-release says the one it comes from',
      { id: 'debian', version: '13', marks: ['/etc/rpi-issue'] },
      'raspios-13',
    ],
    [
      'without a version, where that changes by itself',
      { id: 'flatcar', version: '4459.2.1', marks: [] },
      'flatcar',
    ],
    ['as it names itself, where nobody knows it', { id: 'arch', version: '', marks: [] }, 'arch'],
  ]
  for (const [how, release, name] of cases) test(how, () => assert.equal(systemOf(release), name))
})
