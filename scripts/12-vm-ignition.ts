// What a node becomes on its first boot, all at once.
//
// Needs   vm-host, and your public SSH key on the laptop: the node lets in nobody else.
// Leaves  one Ignition file for each node, which QEMU hands to it. The host key of the node stands in it, made on the laptop, so
//         that the first connection is pinned already.
// Then    config/vm/flatcar-butane.yaml is what it is made from; ./task node rebuild NAME has a node begin again from it.
// Undo    removes the files. A node that has started keeps what it has become.
import { greeting, ignitionPath, vmDir } from '../lib/domain.ts'
import { file } from '../lib/file.ts'
import { ignitionFile, nodesOf } from '../lib/ignition.ts'
import { script } from '../lib/script.ts'
import { sh } from '../lib/sh.ts'

export default script(import.meta, { layer: 'L1', on: 'host' }, (context) => {
  const { env, site } = context
  // Talos has a machine configuration of its own, and no Ignition.
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
    {
      name: 'the directory of the machines is there, and QEMU has a user of its own',
      check: sh`test -d ${vmDir} && getent passwd libvirt-qemu`,
      help: './task vm-host apply',
    },
    ...nodes.map((node) =>
      file(ignitionPath(node), {
        ...ignitionFile(context, node, { fragments: [greeting] }),
        mode: '400',
        // libvirt gives what a machine reads to this user, so it stays as it is while the machine runs.
        owner: 'libvirt-qemu:libvirt-qemu',
        name: `what ${node.name} becomes on its first boot is written down`,
        why: 'users, keys, address, settings and the pinned k3s come with the first start: nothing is set up by hand afterwards',
      }),
    ),
  ]
})
