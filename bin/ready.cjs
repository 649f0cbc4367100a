// Ends the process with one sentence where this kit cannot run: Node is too old, or its libraries are not installed.
// Old syntax on purpose: an old Node must get far enough to say it.
'use strict'
const fs = require('fs')
const path = require('path')

const root = path.join(__dirname, '..')
const refuse = (sentence) => {
  process.stderr.write(`${sentence}\n`)
  process.exit(69)
}

const [major, minor] = process.versions.node.split('.').map(Number)
if (major < 20 || (major === 20 && minor < 19))
  refuse(`Node 20.19 or newer is needed; this is ${process.versions.node}, at ${process.execPath}.`)
if (!fs.existsSync(path.join(root, 'node_modules', 'tsx')))
  refuse(`The libraries are not installed yet. Run this once: (cd ${root} && npm ci)`)
