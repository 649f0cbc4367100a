#!/usr/bin/env -S npx --no-install tsx
// The base image that virtual machines start from, proven by its signature or digest.
//
// Needs   a network, on the laptop: it fetches the image, proves it by signature or digest, and uploads it. The host fetches
//         nothing.
// Leaves  a read-only base image under /var/lib/fortress/images, and its digest beside it. Virtual machines start from copies of
//         it. For Talos also talosctl, by which the host speaks to it.
// Undo    removes it. What the laptop has fetched stays in its cache.
import { packages } from '../lib/engine/packages.ts'
import type { Change, Demand, Step } from '../lib/engine/step.ts'
import { type Command, sh } from '../lib/ground/sh.ts'
import { script } from '../lib/script.ts'
import { guestsOf } from '../lib/site/machines.ts'
import { type Image, imageDir, imageOf, imageShell, talosctlOf } from '../lib/vm/image.ts'

export default script(
  import.meta,
  { layer: 'L1', on: 'host', library: imageShell, prepare: isProven() },
  (context) => {
    const [guest] = guestsOf(context.site, context.machine.name)
    if (guest === undefined) return [noImage]
    // All virtual machines of a host run one system: the nodes of a cluster do.
    const image = imageOf(context, guest)
    return [
      ...unproven(image),
      directory(),
      room(image),
      ...(image.artifact.url.endsWith('.xz') ? [packages(['xz-utils'])] : []),
      landed(image),
      ...(guest.os === 'talos'
        ? talosctl(talosctlOf(context.pins, context.machine), context.pins['talosctl']?.version)
        : []),
    ]
  },
)

const noImage: Demand = {
  name: 'the site has no virtual machine, and no base image for one',
  why: 'what is lost: a node that breaks out of its container stands on the metal, and its system is not read-only',
  check: sh`! ls ${imageDir}/*.img 2> /dev/null`,
  help: [
    'an image is left that no virtual machine needs:',
    './task vm-image undo, or give the virtual machine an entry with vm: under machines: of the site document',
  ].join(' '),
}

function unproven({ label, artifact }: Image): Demand[] {
  if (artifact.unproven === undefined) return []
  return [
    {
      name: `a signature or digest proves the image of ${label}`,
      why: 'what nobody vouches for is not started, however well it may work',
      check: sh`echo ${artifact.unproven} && false`,
      help: `${artifact.unproven}; in config/versions.yaml, for ${artifact.url}`,
    },
  ]
}

function directory(): Change {
  return {
    name: `${imageDir} is writable by root alone`,
    check: sh`test "$(stat --format='%F %a %U:%G' ${imageDir})" = 'directory 755 root:root'`,
    apply: [
      sh`record_before ${imageDir}`,
      sh`install --directory --mode=755 --owner=root --group=root ${imageDir}`,
    ],
    // What was uploaded and never got a name.
    undo: [sh`find ${imageDir} -maxdepth 1 -name '.*.part' -delete`],
  }
}

function room({ path, mib }: Image): Demand {
  return {
    name: `the disk of ${imageDir} has room for the base image`,
    check: sh`test -f ${path} || {
        dir=${imageDir}
        while [ ! -d "$dir" ]; do dir=$(dirname "$dir"); done
        free=$(($(df --output=avail --block-size=1048576 "$dir" | tail --lines=1)))
        echo "$free MiB are free in $dir, and needed are" ${mib} && test "$free" -ge ${mib}
      }`,
    help: 'make room on the disk of /var/lib',
  }
}

function landed({ label, path, artifact }: Image): Change {
  const { sha256, sha512, signature } = artifact
  const proven = sh`image_is ${sha256 === undefined ? path : [path, sha256]}`
  const proof = signature ? 'a signature' : sha512 ? 'its SHA-512' : 'its SHA-256'
  return {
    name: `the base image ${label} is on the host, proven by ${proof}`,
    why: signature
      ? `signed by the key ${signature.key}; nobody may write it, so that every virtual machine starts from the same bytes`
      : 'it has the digest that is pinned; nobody may write it, so that every virtual machine starts from the same bytes',
    check: proven,
    upload: { artifact, to: path },
    apply: [sh`image_land ${path}`],
    seconds: 900,
    controls: [
      {
        id: 'O17',
        title: `The base image is proven by ${proof}, and read-only`,
        check: sh`${proven} && cat ${`${path}.sha256`}`,
        from: ['NIST SP 800-53 SI-7(15)', 'NIST SP 800-53 CM-14'],
      },
    ],
  }
}

function talosctl({ artifact, kept, path }: ReturnType<typeof talosctlOf>, version = ''): Step[] {
  return [
    {
      name: `talosctl ${version} is on the host, proven by its SHA-256`,
      why: 'Talos has no shell and no SSH: it is managed by its own program, which has the digest that is pinned',
      check: sh`image_is ${[kept, artifact.sha256 ?? '']}`,
      upload: { artifact, to: kept },
      apply: [sh`image_land ${kept}`],
    },
    {
      name: `talosctl is installed as ${path}`,
      check: sh`cmp ${kept} ${path} && test "$(stat --format='%a %U:%G' ${path})" = '755 root:root'`,
      apply: [sh`record_before ${path}`, sh`install --mode=755 --owner=root --group=root ${kept} ${path}`],
    },
  ]
}

/** Shell of this page alone: whether a file is as it was when it was proven. */
function isProven(): Command {
  return sh`
    # image_is PATH [DIGEST]: the file is there as it was when it was proven, and nobody may write it. DIGEST is that of the
    # download, where the pin says it. The whole of it is read in every run.
    image_is() {
      local path=$1 dir mark mode
      dir=$(dirname "$path")
      { [ -f "$path" ] && [ ! -L "$path" ]; } || image_no "$path is not there" || return
      mode=$(stat --format='%a %U:%G' "$path")
      [ "$mode" = '444 root:root' ] || image_no "$path can be changed: $mode" || return
      mode=$(stat --format='%a %U:%G' "$dir")
      [ "$mode" = '755 root:root' ] || image_no "$dir can be changed: $mode" || return
      [ -f "$path.sha256" ] || image_no "$path.sha256 is not there, so nothing tells what was proven" || return
      [ -z "\${2-}" ] || grep --line-regexp --fixed-strings "# of $2" "$path.sha256" > /dev/null ||
        image_no "$path is not made of what is pinned now" || return
      # Step and control ask one after the other: what nobody has touched since is read once.
      mark=$FK_TMP/image.$(stat --format=%i.%s.%.9Z "$path" "$path.sha256" | paste --serial --delimiters=.)
      [ -e "$mark" ] || (cd "$dir" && sha256sum --check --status "$path.sha256") ||
        image_no "$path is not what it was when it was proven" || return
      touch "$mark"
    }
    export -f image_is
  `
}
