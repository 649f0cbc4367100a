// The cluster is backed up by the clock, encrypted on the node, and brought away from it.
//
// Needs   k3s-server. Where bundles go stands under backup: of the site document; the laptop gets copies by ./task backup.
// Leaves  /opt/bin/fortress-backup and its timer, /etc/fortress/backup, and the last bundles in /var/lib/fortress/backup. The node
//         has public keys only: it cannot open what it has made.
// Then    ./task backup, ./task backups, and every now and then ./task drill, which proves that a bundle can be restored.
// Undo    stops the clock. The bundles stay, everywhere.
import { backupShell, backupSteps } from '../lib/k3s/backup.ts'
import { memberOf } from '../lib/k3s/members.ts'
import { script } from '../lib/script.ts'

export default script(import.meta, { layer: 'L2', on: 'node', library: backupShell }, (context) => {
  const member = memberOf(context)
  return member.first ? backupSteps(context, member) : []
})
