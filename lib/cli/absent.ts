// Machines that do not exist yet: the host of a virtual machine says whether there is one.
import type { Machine } from '../engine/machine.ts'
import { query } from '../engine/query.ts'
import { Fault } from '../ground/fault.ts'
import { quote } from '../ground/sh.ts'
import type { Placed } from '../site/machines.ts'

/** The page that makes virtual machines. */
export const maker = '13-vm-provision'

/** A machine or a cluster that was not built yet. The exit code is that of something left to do. */
export class NotBuilt extends Fault {
  readonly code = 2
  /** The page that builds it. */
  readonly after: string

  constructor(what: string, after = maker, does = 'builds it') {
    super(what, { next: `./task ${after.slice(3)} apply ${does}` })
    this.after = after
  }
}

/** Whether there is such a virtual machine; where nobody can say, it counts as there. */
export const isBuilt = (host: Machine, spec: Placed): Promise<boolean> =>
  assertBuilt(host, spec).then(
    () => true,
    (error: unknown) => !(error instanceof NotBuilt),
  )

/**
 * Throws NotBuilt where neither the record of the host nor libvirt knows the virtual machine and nothing answers at its address,
 * and a Fault where it is shut off.
 */
export async function assertBuilt(host: Machine, { name, address = '' }: Placed): Promise<void> {
  const { record, domain, said, answers } = await query(
    host,
    [
      `record=''; [ ! -d "$FK_STATE/pages/${maker}" ] || record=yes`,
      `domain=''; said=$(LC_ALL=C virsh domstate ${quote(name)} 2>&1) && domain=$said`,
      "answers=''; probe='read -r said < /dev/tcp/$1/22 && [[ $said == SSH-* ]]'",
      `[ -n "$domain" ] || ! timeout 3 bash -c "$probe" - ${quote(address)} 2> /dev/null || answers=yes`,
      'answer node record "$record" domain "$domain" said "$said" answers "$answers"',
    ],
    { libraries: ['put.sh'], what: `the state of ${name}` },
  )
  if (answers) return
  if (domain === 'shut off')
    throw new Fault(`${name} is shut off on ${host.label}`, {
      next: `./task ${maker.slice(3)} apply starts it`,
    })
  if (!domain && (!record || /failed to get domain/i.test(said ?? '')))
    throw new NotBuilt(`${name} is not built yet`)
}
