// Programs of this computer that tests ask: whether they are here, and in which words they are asked.
import { execFileSync, spawnSync } from 'node:child_process'
import { join } from 'node:path'
import { which } from '../lib/ground/laptop.ts'
import { builtProgram } from '../lib/lab/lab.ts'

/** Why a test cannot run here, for its `skip`: the first of the programs that is not installed. */
export function without(...programs: string[]): string | false {
  const missing = programs.find((program) => which(program) === undefined)
  return missing === undefined ? false : `${missing} is not installed`
}

/** What shellcheck says of a bash program; nothing when it finds no fault. */
export function shellcheck(input: string): string {
  const words = ['--severity=warning', '--format=gcc', '-']
  return spawnSync('shellcheck', words, { input, encoding: 'utf8' }).stdout
}

/** A scan that asks no name service, takes the other side for up, and says on one line what it found. */
export const nmap = (...words: string[]): string[] => ['nmap', '-n', '-Pn', '-oG', '-', ...words]

const ageOf = builtProgram('age')
/** age and age-keygen as nodes get them: Debian's are older, and know no post-quantum keys. */
export const age = join(ageOf ?? '/nonexistent', 'age')
export const ageKeygen = `${age}-keygen`
/** Why a test that needs them cannot run here, for its `skip`. */
export const noAge: string | false = ageOf === undefined && 'age of the version of nodes is not built'

/** Writes a self-signed certificate for a zone and every name right below it, and its key, into `dir`. Returns both paths. */
export function selfSigned(zone: string, dir: string): { chain: string; key: string } {
  const [chain, key] = [join(dir, 'tls.crt'), join(dir, 'tls.key')]
  const how = 'req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2'.split(' ')
  const names = ['-subj', `/CN=${zone}`, '-addext', `subjectAltName=DNS:${zone},DNS:*.${zone}`]
  execFileSync('openssl', [...how, ...names, '-keyout', key, '-out', chain], { stdio: 'ignore' })
  return { chain, key }
}
