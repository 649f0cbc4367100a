// The reporter that Node's test runner loads in each process of tests: it sends what happens to test/run.cjs, as it happens.
//
// Messages have a `kind`: a test has `begun`, `passed`, `failed` or was `skipped`; a file has `ended`. Those with `text` are what
// Node's own `spec` report says of a failure or a skip.
'use strict'
const { PassThrough } = require('node:stream')
const { spec: Spec } = require('node:test/reporters')

// oxlint-disable-next-line require-yield -- what it says goes to the parent process, and not to a stream
module.exports = async function* reporter(source) {
  const into = new PassThrough({ objectMode: true })
  // It is never ended: at its end Node would say all failures once more.
  into.pipe(new Spec()).on('data', (text) => process.send({ text: String(text) }))
  let file = ''
  for await (const event of source) {
    const { type, data } = event
    // test:start comes when a test has something to report, which may be its end.
    if (type === 'test:dequeue' && data.nesting === 0) file = data.name
    else if (type === 'test:dequeue') process.send({ kind: 'begun', file, test: data.name })
    if (type === 'test:pass' || type === 'test:fail') told(event)
  }

  function told(event) {
    const { name: test, nesting, details, ...data } = event.data
    const skip = data.skip ?? data.todo
    const seconds = (details?.duration_ms ?? 0) / 1000
    const within = details?.error?.failureType === 'subtestsFailed'
    if (event.type === 'test:fail' && !within) {
      into.write(event)
      process.send({ kind: 'failed', file, test, seconds })
    } else if (event.type === 'test:pass' && skip !== undefined) {
      into.write(event)
      process.send({ kind: 'skipped', file, test, reason: skip === true ? 'no reason given' : skip, seconds })
    } else if (event.type === 'test:pass' && details?.type !== 'suite')
      process.send({ kind: 'passed', file, test, seconds })
    if (nesting === 0) process.send({ kind: 'ended', file, seconds })
  }
}
