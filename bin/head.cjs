// The first line of the first screen: version, site and machine, read without loading anything. What is wrong with a setting is
// not said here: every command that uses one says it.
'use strict'
const fs = require('fs')
const path = require('path')

const root = path.join(__dirname, '..')
const { name, version } = require('../package.json')

/** What a person has set: in the environment, else in .env; an empty value counts there as none. */
function setting(variable) {
  if (process.env[variable] !== undefined) return process.env[variable]
  let text = ''
  try {
    text = fs.readFileSync(process.env.FK_ENV_FILE || path.join(root, '.env'), 'utf8')
  } catch {
    // There is none.
  }
  const [, value = ''] =
    new RegExp(`^\\s*(?:export\\s+)?${variable}\\s*=\\s*([^#\\n]*)`, 'm').exec(text) ?? []
  return value.trim().replace(/^(["'`])(.*)\1$/, '$2')
}

exports.version = `${name} ${version}`

exports.head = () => {
  const machine = setting('FK_HOST') || 'none yet (rehearsal)'
  return `${exports.version}   site ${setting('FK_SITE') || 'fortress'}   machine: ${machine}\n`
}
