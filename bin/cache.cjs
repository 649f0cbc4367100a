// .cache in the checkout: made by us, written by nobody else. Code is run from it.
'use strict'
const fs = require('fs')
const path = require('path')

const root = path.join(__dirname, '..')

/** Its path, or undefined where it cannot be written. Ends the process where others could have written it. */
exports.cache = () => {
  const dir = path.join(root, '.cache')
  const owner = fs.statSync(root)
  const us = process.getuid()
  try {
    fs.mkdirSync(dir, { mode: 0o700 })
    // Made by root in somebody's checkout: it stays theirs. Who owns the checkout decides what we run anyway.
    if (us === 0 && owner.uid !== 0) fs.chownSync(dir, owner.uid, owner.gid)
  } catch (error) {
    if (error.code !== 'EEXIST') return undefined
  }
  const state = fs.lstatSync(dir)
  if (!state.isDirectory() || (state.mode & 0o022) !== 0 || ![us, owner.uid, 0].includes(state.uid)) {
    process.stderr.write(
      `${dir} can be written by others, and code is run from it. Remove it: rm -r ${dir}\n`,
    )
    process.exit(77)
  }
  try {
    fs.accessSync(dir, fs.constants.W_OK)
    return dir
  } catch {
    return undefined
  }
}
