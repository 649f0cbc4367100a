// The authorities of the cluster: which of them the laptop has retired, and the steps that two pages share to replace them.
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Context } from '../engine/page.ts'
import type { Change, Step } from '../engine/step.ts'
import { land } from '../ground/secret.ts'
import { library, sh } from '../ground/sh.ts'
import { type Member, wellWithout } from './members.ts'
import { helperOf, START } from './nodes.ts'
import { saveCredentials } from './service.ts'

/** The functions of these steps: lib/k3s/authorities.sh, and those below it. */
export const authorityShell = library('lib/k3s/members.sh', 'lib/k3s/nodes.sh', 'lib/k3s/authorities.sh')

/** Beside the secrets of a site. It holds none: whoever reads it knows what is not believed any more. */
const file = 'retired.json'

interface Retired {
  /** SHA-256 of certificates, and of the public halves of keys. */
  authorities: string[]
}

/** What the cluster must not use any more. `state` is the directory of the site on the laptop. */
export function retiredOf(state: string): string[] {
  const path = join(state, file)
  return existsSync(path) ? (JSON.parse(readFileSync(path, 'utf8')) as Retired).authorities : []
}

/** Notes more of them, for good. */
export async function retire(state: string, authorities: string[]): Promise<void> {
  const all: Retired = { authorities: [...new Set([...retiredOf(state), ...authorities])] }
  await land(join(state, file), `${JSON.stringify(all, null, 2)}\n`, true)
}

/** The same as words of a command, which needs one at least. */
export const retiredWords = (state: string): string[] => {
  const all = retiredOf(state)
  return all.length === 0 ? ['none'] : all
}

/** `member` is restarted while every other server has a vote: the cluster keeps its quorum. */
export function othersVote(member: Member, members: Member[]): Pick<Change, 'onOtherNode'> {
  const others = members.filter(({ role, name }) => role === 'server' && name !== member.name)
  if (others.length === 0) return {}
  return {
    onOtherNode: {
      on: helperOf(members, member).name,
      before: [wellWithout(member, members, others.length)],
      after: [],
    },
  }
}

/** k3s starts with what its datastore has now, and is healthy. */
export const startAnew = ({ name, role }: Member) => sh`ca_start ${role} ${name} ${START}`
export const startSeconds = START + 60

/** Only what was retired may be replaced: a cluster that is none of the laptop's keeps the laptop's own tokens safe. */
export const savedAgain = ({ state }: Pick<Context, 'state'>): Step[] =>
  saveCredentials({ once: retiredOf(state).length === 0 })
