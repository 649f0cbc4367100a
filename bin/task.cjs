#!/usr/bin/env node
// Starts Taskfile.ts. Old syntax on purpose: an old Node must get far enough to say the sentence below.
'use strict'
const fs = require('fs')
const path = require('path')

const root = path.join(__dirname, '..')
require('./ready.cjs')

// `task … | head -1` closes the pipe while we write, and a terminal may be closed. That is the reader's right, not a fault; what
// runs by then listens itself, and stops well (lib/ground/stop.ts).
const closed = (error) => {
  if (error.code !== 'EPIPE' && error.code !== 'EIO') throw error
  if (process.listenerCount('SIGINT') === 0) process.exit(0)
}
process.stdout.on('error', closed)
process.stderr.on('error', closed)

if (process.argv.length === 2) list()
else run()

/** Most people who type `task` want to be reminded, at once: the last screen is shown again while nothing of it has changed. */
function list() {
  const dir = require('./cache.cjs').cache()
  process.stdout.write(require('./head.cjs').head())
  const kept = dir === undefined ? undefined : path.join(dir, 'list.json')
  const key = JSON.stringify(sources().map((name) => [name, stamp(path.join(root, name))]))
  try {
    const last = JSON.parse(fs.readFileSync(kept, 'utf8'))
    if (last.key === key) return void process.stdout.write(last.text)
  } catch {
    // There is none, or it cannot be read: it is made anew.
  }
  const { tasks } = load()
  const text = tasks.firstScreen(require('../lib/cli/scripts.ts').pages())
  process.stdout.write(text)
  if (kept === undefined) return
  fs.writeFileSync(`${kept}.${process.pid}`, JSON.stringify({ key, text }), { mode: 0o600 })
  fs.renameSync(`${kept}.${process.pid}`, kept)
}

function sources() {
  const scripts = path.join(root, 'scripts')
  const pages = fs.existsSync(scripts) ? fs.readdirSync(scripts).map((name) => `scripts/${name}`) : []
  const list = ['lib/cli/main.ts', 'lib/cli/scripts.ts', 'lib/ground/wrap.ts']
  return [...list, ...pages]
}

function stamp(file) {
  const { size, mtimeMs, ino } = fs.statSync(file)
  return [size, mtimeMs, ino]
}

function load() {
  require('./typescript.cjs')
  return { tasks: require('../lib/cli/main.ts'), taskfile: require('../Taskfile.ts').default }
}

function run() {
  const { tasks, taskfile } = load()
  process.env.PATH = [path.join(root, 'node_modules', '.bin'), process.env.PATH]
    .filter(Boolean)
    .join(path.delimiter)
  const terminal = process.stdout.isTTY === true && process.env.TERM !== 'dumb'
  tasks.main(taskfile, process.argv.slice(2), { live: terminal, debug: Boolean(process.env.DEBUG) }).then(
    (code) => {
      process.exitCode = code
    },
    (error) => {
      process.stderr.write(`${error.stack}\n`)
      process.exitCode = 1
    },
  )
}
