// Where the steps of a page run, and what there is at such a place: a connection, and somebody who keeps the record.

/**
 * A kind of place. `connection`: whose programs run there: root's on a machine, those of the person who started the run, or those
 * with the credentials of the cluster. `record`: who remembers what was changed, undoes it, and rolls an unconfirmed change back.
 */
export type Place =
  | { on: 'host' | 'node'; connection: 'root'; record: 'machine' }
  | { on: 'laptop'; connection: 'person'; record: 'laptop' }
  /** Steps run on the laptop, against the API of the cluster; no machine gets a record of them. */
  | { on: 'api'; connection: 'cluster'; record: 'laptop' }

/** What a page says of its place. */
export type On = Place['on']

const places: Record<On, Place> = {
  host: { on: 'host', connection: 'root', record: 'machine' },
  node: { on: 'node', connection: 'root', record: 'machine' },
  laptop: { on: 'laptop', connection: 'person', record: 'laptop' },
  api: { on: 'api', connection: 'cluster', record: 'laptop' },
}

/** The place of pages for `on`. */
export const placeOf = (on: On): Place => places[on]
