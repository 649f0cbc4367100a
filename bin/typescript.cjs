// Lets this process load TypeScript: tsx, with a cache that nobody else can write.
//
// tsx keeps compiled code in the temporary directory, in a folder whose name anybody can foresee, and runs what it finds
// there. On a machine with several users that is somebody else's code, run as us. So our folder is private and checked.
'use strict'
const path = require('path')
const { cache } = require('./cache.cjs')

const root = path.join(__dirname, '..')
const before = { TMPDIR: process.env.TMPDIR, TSX_TSCONFIG_PATH: process.env.TSX_TSCONFIG_PATH }
const dir = cache()
if (dir === undefined) process.env.TSX_DISABLE_CACHE = '1'
else process.env.TMPDIR = dir
process.env.TSX_TSCONFIG_PATH = path.join(root, 'tsconfig.json') // and not that of the folder somebody stands in
require('tsx/cjs/api').register()
for (const [name, value] of Object.entries(before))
  if (value === undefined) delete process.env[name]
  else process.env[name] = value
