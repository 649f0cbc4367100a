// What our readers of other programs' formats accept, beside what the programs themselves say.
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { test } from 'node:test'
import { formats } from '../../lib/site/formats.ts'
import { without } from '../programs.ts'

const ran = (program: string, ...words: string[]): boolean => spawnSync(program, words).status === 0

// ─── times of systemd ────────────────────────────────────────────────────────────────────────────────────────────────

const dates = [
  '',
  '*-*-*',
  '*-*-01',
  '2026-*-1,15',
  '*-1..6-1',
  '*-13-1',
  '*-*-32',
  '*-*-0',
  '*-*~1',
  '*-02~03',
  '05-01',
  '*-*',
  '26-*-*',
]
const times = [
  '03:17',
  '03:17:00',
  '24:00',
  '3:7',
  '*:0/15',
  '*:*:00',
  '03:60',
  '99:99',
  '00:00:00.5',
  '0..6:00',
  '6..0:00',
  '03',
  '',
  '03:17:00:00',
]
const events = [
  ...dates.flatMap((date) => times.map((time) => `${date} ${time}`.trim())),
  ...[
    'Mon',
    'mon',
    'Monday',
    'Mo',
    'Mon,Wed',
    'Mon..Fri',
    'Mon-Fri',
    'Fri..Mon',
    'Mon,',
    'monday..friday',
    'Funday',
  ].map((day) => `${day} 03:17`),
  ...['UTC', 'utc', 'Europe/Berlin', 'Asia/Kolkata', 'Europe/Nowhere', 'CET', 'europe/berlin'].map(
    (zone) => `*-*-* 03:17 ${zone}`,
  ),
  'minutely',
  'hourly',
  'daily',
  'weekly',
  'monthly',
  'yearly',
  'annually',
  'quarterly',
  'semiannually',
  'biannually',
  'Daily',
  'DAILY',
  'fortnightly',
  'daily UTC',
  'reboot',
  '*/5 * * * *',
  '0 3 * * *',
  '@daily',
  'Mon *-*-1..7 03:17',
  'Mon',
  '*',
  '03:17 daily',
  ' 03:17',
  '03:17  UTC',
].filter((text, i, all) => all.indexOf(text) === i)

test('times of systemd are read as systemd reads them', { skip: without('systemd-analyze') }, () => {
  const left = events.flatMap((text) => {
    const theirs = ran('systemd-analyze', 'calendar', text)
    const ours = formats['calendar']!(text)
    if (theirs === (ours === undefined)) return []
    return [
      `${JSON.stringify(text)}: ${theirs ? `refused by us alone: ${ours?.reason}` : 'refused by systemd alone'}`,
    ]
  })
  assert.deepEqual(left, [], `${left.length} of ${events.length}`)
})

// ─── recipients of age ───────────────────────────────────────────────────────────────────────────────────────────────

const recipient = 'age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p'
const recipients = [
  recipient,
  ...[...'qpzry9x8gf2tvdw0s3jn54khce6mua7l'].map((letter) => `${recipient.slice(0, -1)}${letter}`),
  recipient.slice(0, -1),
  `${recipient}q`,
  recipient.replace('3', 'b'),
  recipient.toUpperCase(),
  `${recipient.slice(0, 20)}${recipient[21]}${recipient[20]}${recipient.slice(22)}`,
  'age1',
  'age1abc',
]

test('recipients of age are those that age takes', { skip: without('age') }, () => {
  const left = [...new Set(recipients)].flatMap((text) => {
    const { status } = spawnSync('age', ['--encrypt', '--recipient', text], { input: '' })
    const ours = formats['recipient']!(text)
    return (status === 0) === (ours === undefined)
      ? []
      : [`${text}: age says ${status}, we say ${ours?.reason}`]
  })
  assert.deepEqual(left, [])
})
