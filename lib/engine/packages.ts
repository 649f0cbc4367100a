// Packages of the distribution, as one step: which there are stands on the page.
import { sh } from '../ground/sh.ts'
import type { Change } from './step.ts'

/**
 * The packages are installed, without those that they only recommend. `name`, `why`, `controls` and `seconds` are those of any
 * step; each command may take 900 seconds by default. Throws TypeError for an empty list.
 */
export function packages(
  names: readonly string[],
  options: Partial<Pick<Change, 'name' | 'why' | 'controls' | 'seconds'>> = {},
): Change {
  const [first, ...others] = names
  if (first === undefined) throw new TypeError('packages: which?')
  const last = others.at(-1)
  const list = last === undefined ? first : `${[first, ...others.slice(0, -1)].join(', ')} and ${last}`
  return {
    name: `${list} ${last === undefined ? 'is' : 'are'} installed`,
    seconds: 900,
    ...options,
    // A package that dpkg has never heard of is an error of dpkg-query, and prints nothing.
    check: sh`dpkg-query --show --showformat='\${db:Status-Status} \${Package}\n' ${names} |
      awk '$1 != "installed" { print "not installed:", $2; missing = 1 } END { exit missing }'`,
    apply: [sh`apt_get update`, sh`apt_get --no-install-recommends install ${names}`],
  }
}
