// What a node becomes on its first boot, all at once.
//
// Needs   vm-host, and your public SSH key on the laptop: the node lets in nobody else. For Talos instead talosctl on the laptop.
// Leaves  one Ignition file for each node, which QEMU hands to it. The host key of the node stands in it, made on the laptop, so
//         that the first connection is pinned already. For Talos a small disk with its machine configuration, and the authority
//         that was made on the laptop in it.
// Then    config/vm/flatcar-butane.yaml or config/vm/talos-controlplane.yaml is what it is made from; ./task node rebuild NAME
//         has a node begin again from it.
// Undo    removes the files. A node that has started keeps what it has become.
import { file } from '../lib/engine/file.ts'
import type { Step } from '../lib/engine/step.ts'
import { sh } from '../lib/ground/sh.ts'
import { fragmentOf } from '../lib/k3s/configuration.ts'
import { type Context, script } from '../lib/script.ts'
import { nodesOf } from '../lib/site/machines.ts'
import { greeting, ignitionPath, toldPath, vmDir } from '../lib/vm/domain.ts'
import { ignitionFile } from '../lib/vm/ignition.ts'
import { machineConfigPath, talosNodes, toldFile } from '../lib/vm/talos.ts'

const ready = {
  name: 'the directory of the machines is there, and QEMU has a user of its own',
  check: sh`test -d ${vmDir} && getent passwd libvirt-qemu`,
  help: './task vm-host apply',
}

export default script(import.meta, { layer: 'L1', on: 'host' }, (context) => {
  const { env, site } = context
  if (talosNodes(context).length > 0) return [ready, ...talos(context)]
  const nodes = env.FK_NODE_OS === 'flatcar' ? nodesOf(site) : []
  const [first] = nodes
  if (first === undefined)
    return [
      {
        name: 'no node of the site begins with Ignition',
        check: sh`! ls ${vmDir}/*.ign 2> /dev/null`,
        help: 'files of nodes are left that the site does not know: ./task node destroy NAME, or describe them under nodes:',
      },
    ]
  return [
    ready,
    ...nodes.map((node) =>
      file(ignitionPath(node), {
        ...ignitionFile(context, node, { fragments: [greeting, fragmentOf(context, node.name)] }),
        mode: '400',
        // libvirt gives what a machine reads to this user, so it stays as it is while the machine runs.
        owner: 'libvirt-qemu:libvirt-qemu',
        name: `what ${node.name} becomes on its first boot is written down`,
        why: 'users, keys, address, settings and the pinned k3s come with the first start: nothing is set up by hand afterwards',
      }),
    ),
  ]
})

/** What Talos is told: one document, written down for the host, and on the disk that the node reads it from. */
function talos(context: Context): Step[] {
  const packages = ['xorriso', 'openssl']
  return [
    {
      name: 'the disk can be made that Talos reads, and certificates can be read',
      check: sh`for name in ${packages}; do dpkg-query --show --showformat='\${db:Status-Abbrev}' "$name" | grep ^ii > /dev/null; done`,
      apply: [
        sh`apt-get --quiet=2 update`,
        sh`DEBIAN_FRONTEND=noninteractive apt-get --quiet=2 --yes --no-install-recommends install ${packages}`,
      ],
      seconds: 900,
    },
    ...talosNodes(context).flatMap((node): Step[] => {
      const [told, disk] = [machineConfigPath(node), toldPath(node)]
      return [
        toldFile(context, node),
        {
          name: `${node.name} is handed a disk called cidata, with what is written down`,
          why: 'the kind of Talos that is made for virtual machines reads user-data there, before it has a network',
          check: sh`test "$(stat --format=%a ${disk})" = 400 && rm --force "$FK_TMP"/told &&
            xorriso -osirrox on -indev ${disk} -extract /user-data "$FK_TMP"/told > /dev/null 2>&1 && cmp ${told} "$FK_TMP"/told || { rm --force "$FK_TMP"/told && false; }
          rm "$FK_TMP"/told`,
          apply: [
            sh`keep ${disk}`,
            sh`umask 077 && rm --recursive --force "$FK_TMP"/cidata && mkdir "$FK_TMP"/cidata && cp ${told} "$FK_TMP"/cidata/user-data
            xorriso -as mkisofs -quiet -volid cidata -joliet -rational-rock -output "$FK_TMP"/cidata.iso "$FK_TMP"/cidata
            install --mode=400 --owner=libvirt-qemu --group=libvirt-qemu "$FK_TMP"/cidata.iso ${`${disk}.part`}
            rm --recursive "$FK_TMP"/cidata "$FK_TMP"/cidata.iso
            sync ${`${disk}.part`} && mv --force --no-target-directory ${`${disk}.part`} ${disk}`,
          ],
        },
      ]
    }),
  ]
}
