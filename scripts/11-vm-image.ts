// The system of the node, as its makers signed it.
//
// Needs   a network, on the laptop: it fetches the image, proves it by signature or digest, and sends it. The host fetches nothing.
// Leaves  a read-only base image under /var/lib/fortress/images, and its digest beside it. Nodes start from copies of it. For
//         Talos also talosctl, by which the host speaks to it.
// Undo    removes it. What the laptop has fetched stays in its cache.
import { sh } from '../lib/ground/sh.ts'
import { script } from '../lib/script.ts'
import { nodesOf } from '../lib/site/machines.ts'
import { imageDir, imageOf, imageShell } from '../lib/vm/image.ts'
import { talosctlOf } from '../lib/vm/talos.ts'

export default script(
  import.meta,
  { layer: 'L1', on: 'host', library: imageShell },
  ({ env, site, pins, machine }) => {
    if (nodesOf(site).length === 0)
      return [
        {
          name: 'the site has no virtual machine, and so no image for one',
          why: 'what is lost: a node that breaks out of its container stands on the metal, and its system is not read-only',
          check: sh`! ls ${imageDir}/*.img 2> /dev/null`,
          help: 'an image is left that no node needs: ./task vm-image undo, or describe the node under nodes: of the site document',
        },
      ]

    const { label, path, artifact, mib } = imageOf({ env, pins, machine })
    const { sha256, sha512, signature, unproven } = artifact
    const tool = env.FK_NODE_OS === 'talos' ? talosctlOf(pins, machine) : undefined
    const image = sh`image_is ${sha256 === undefined ? path : [path, sha256]}`

    return [
      ...(unproven === undefined
        ? []
        : [
            {
              name: `something proves the image of ${label}`,
              why: 'what nobody vouches for is not started, however well it may work',
              check: sh`echo ${unproven} && false`,
              help: `${unproven}; in config/versions.yaml, for ${artifact.url}`,
            },
          ]),

      {
        name: `${imageDir} belongs to root, and only root may write there`,
        check: sh`test "$(stat --format='%F %a %U:%G' ${imageDir})" = 'directory 755 root:root'`,
        apply: [
          sh`record_before ${imageDir}`,
          sh`install --directory --mode=755 --owner=root --group=root ${imageDir}`,
        ],
        // What was sent and never got a name.
        undo: [sh`find ${imageDir} -maxdepth 1 -name '.*.part' -delete`],
      },

      {
        name: 'there is room for the image',
        check: sh`image_room ${path} ${mib}`,
        help: 'make room on the disk of /var/lib',
      },

      ...(artifact.url.endsWith('.xz')
        ? [
            {
              name: 'the image can be unpacked',
              check: sh`command -v xz > /dev/null`,
              apply: [
                sh`apt-get --quiet=2 update`,
                sh`DEBIAN_FRONTEND=noninteractive apt-get --quiet=2 --yes --no-install-recommends install xz-utils`,
              ],
              seconds: 900,
            },
          ]
        : []),

      {
        name: `the image of ${label} is here, as its makers signed it`,
        why: signature
          ? `signed by the key ${signature.key}; nobody may write it, so that every node starts from the same bytes`
          : 'it has the digest that is pinned; nobody may write it, so that every node starts from the same bytes',
        check: image,
        upload: { artifact, to: path },
        apply: [sh`image_land ${path}`],
        seconds: 900,
        controls: [
          {
            id: 'O17',
            title: `The system of the node is proven by ${signature ? 'a signature' : sha512 ? 'its SHA-512' : 'its SHA-256'}, and read-only`,
            check: sh`${image} && cat ${`${path}.sha256`}`,
            from: ['NIST SP 800-53 SI-7(15)', 'NIST SP 800-53 CM-14'],
          },
        ],
      },

      ...(tool
        ? [
            {
              name: `talosctl ${pins['talosctl']?.version} is here, as its makers published it`,
              why: 'Talos has no shell and no SSH: it is asked and told by its own program, which has the digest that is pinned',
              check: sh`image_is ${[tool.kept, tool.artifact.sha256 ?? '']}`,
              upload: { artifact: tool.artifact, to: tool.kept },
              apply: [sh`image_land ${tool.kept}`],
            },
            {
              name: `${tool.path} is that program`,
              check: sh`cmp ${tool.kept} ${tool.path} && test "$(stat --format='%a %U:%G' ${tool.path})" = '755 root:root'`,
              apply: [
                sh`record_before ${tool.path}`,
                sh`install --mode=755 --owner=root --group=root ${tool.kept} ${tool.path}`,
              ],
            },
          ]
        : []),
    ]
  },
)
