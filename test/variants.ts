// Every kind of machine that there can be: the system, the processor, what runs it, with and without the vault, a console, Kata.
import type { Context } from '../lib/engine/page.ts'
import { loadConfig } from '../lib/site/config.ts'
import { domainsOf, domainXml } from '../lib/vm/domain.ts'

const yes = [false, true]

/** What it is → its XML. */
export function variants(): Record<string, string> {
  const config = loadConfig({ env: {}, site: 'fortress' })
  const [domain] = domainsOf({ ...config, machine: { name: 'fortress' } as Context['machine'] })
  if (domain === undefined) throw new Error('the site has no virtual machine')
  const found: Record<string, string> = {}
  for (const system of ['flatcar', 'talos'] as const)
    for (const arch of ['amd64', 'arm64'] as const)
      for (const accel of ['kvm', 'tcg'] as const)
        for (const vault of yes)
          for (const console of yes)
            for (const kata of yes) {
              const traits = Object.entries({ vault, console, kata }).flatMap(([name, is]) =>
                is ? [name] : [],
              )
              const node = { ...domain.node, arch }
              found[[system, arch, accel, ...traits].join(' ')] = domainXml(
                { ...domain, node, system, accel, console, kata },
                { vault },
              )
            }
  return found
}
