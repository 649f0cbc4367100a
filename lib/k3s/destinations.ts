// Where backups go, as far as the page that configures a node and the commands on the laptop must agree.
import type { Secret, Secrets } from '../ground/secret.ts'
import { makeHostKey } from '../vm/hostkey.ts'

/** The program on the node that makes, lists and fetches bundles. */
export const program = '/opt/bin/fortress-backup'

/** Names under which the laptop keeps the keys of the destinations. */
export const backupSecrets = { ssh: 'backup-ssh-key', s3: 'backup-s3-key' }

/** The SSH key with which the node uploads; made when it is first needed. */
export const sshKey = (secrets: Secrets): Secret =>
  secrets(backupSecrets.ssh, () => makeHostKey('fortress-backup'))
