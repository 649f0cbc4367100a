// Where the steps of a page run, and who keeps the record of what they change.

/**
 * A kind of place: a machine, as root; the laptop, as the person who started the run; or the API of the cluster, whose steps run
 * on the laptop with its credentials.
 */
export type On = 'host' | 'node' | 'laptop' | 'api'

/** Who remembers what was changed, undoes it, and rolls an unconfirmed change back. */
export const recordOf = (on: On): 'machine' | 'laptop' =>
  on === 'host' || on === 'node' ? 'machine' : 'laptop'

/** The programs that the steps of a page need beside bash and what every system has. */
export const programsOf = (on: On): readonly string[] => (on === 'api' ? ['kubectl', 'helm'] : [])
