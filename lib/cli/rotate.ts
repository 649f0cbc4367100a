// ./task rotate: a key is not its owner's alone any more: the cluster gets another, and believes the old one no more.
import { query } from '../engine/query.ts'
import { Fault } from '../ground/fault.ts'
import { sh } from '../ground/sh.ts'
import { retire, retiredOf } from '../k3s/authorities.ts'
import { clusterOf } from '../k3s/members.ts'
import { machinesFor } from '../site/machines.ts'
import type { Call } from './call.ts'
import { runPages } from './pages.ts'
import { pageNamed } from './scripts.ts'
import { withSession } from './session.ts'
import { rotate as table } from './tables.ts'

/**
 * `./task rotate ca` retires the CAs of the cluster and the key that signs tokens of pods, and replaces them. What is retired is
 * noted first, so a run that was interrupted goes on where it was. Resolves to the exit code.
 */
export const rotate = (call: Call): Promise<number> =>
  withSession(call, table, async ({ config, given, signal, state, report, connect, needsHost }) => {
    needsHost()
    const [first] = clusterOf(config)
    const placed = machinesFor(config, 'node').find(({ name }) => name === first?.name)
    if (placed === undefined) throw new Fault(`the nodes of ${config.site.name} do not run k3s`)
    const { live = '' } = await query(
      await connect(placed),
      [
        'said=$(ca_live server 2>&1) || { answer refused why "$said"; exit 0; }',
        sh`answer live live "$(awk '{ print $2 }' <<< "$said" | paste --serial --delimiters=' ')"`.text,
      ],
      {
        libraries: ['lib/k3s/members.sh', 'lib/k3s/authorities.sh'],
        what: 'asking which CAs the cluster has',
      },
    )
    const [authorities, retired] = [live.split(' ').filter(Boolean), retiredOf(state)]
    if (authorities.some((one) => retired.includes(one)))
      report.note('A rotation has begun before, and goes on: nothing else is retired.')
    else await retire(state, authorities)
    return runPages([pageNamed('k3s-rotate'), pageNamed('k3s-retire')], 'apply', given, signal)
  })
