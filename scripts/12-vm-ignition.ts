#!/usr/bin/env -S npx --no-install tsx
// The first-boot configuration of every node: Ignition for Flatcar, a machine configuration for Talos.
//
// Needs   vm-host. For Talos also talosctl on the laptop.
// Leaves  one Ignition file for each node, which QEMU passes to it. The host key of the node is in it, made on the laptop, so
//         that the first connection is pinned already. The node lets in a second key of the laptop, which is made for that and
//         kept encrypted; your everyday SSH key opens no node. For Talos a small disk with its machine configuration, and in
//         it the authority that was made on the laptop.
// Then    config/vm/flatcar-butane.yaml or config/vm/talos-controlplane.yaml is what it is made from; after a change
//         ./task node rebuild NAME has a node boot with it for the first time again.
// Undo    removes the files. A node that has started keeps its configuration.
import { createRequire } from 'node:module'
import { file } from '../lib/engine/file.ts'
import { packages } from '../lib/engine/packages.ts'
import type { Change, Demand, Step } from '../lib/engine/step.ts'
import { sh } from '../lib/ground/sh.ts'
import { type Context, script } from '../lib/script.ts'
import { type Guest, guestsOf } from '../lib/site/machines.ts'
import { cidataPath, greeting, ignitionPath, vmDir } from '../lib/vm/domain.ts'
import { machineConfigPath, machineConfigStep, talosNodes } from '../lib/vm/talos.ts'

// What a Flatcar node is made of is loaded only for one.
const load = createRequire(import.meta.url)

const about = { layer: 'L1', on: 'host', needs: ['10-vm-host'], make } as const

export default script(import.meta, about, (context) => {
  const talos = talosNodes(context)
  if (talos.length > 0) return [directory, ...talosSteps(context, talos)]
  const nodes = guestsOf(context.site, context.machine.name)
  if (nodes.length === 0) return [noNode]
  return [directory, ...nodes.map((node) => ignitionStep(context, node))]
})

/** The keys that its nodes of Flatcar are known by, and open for. */
async function make(context: Context): Promise<void> {
  const nodes = guestsOf(context.site, context.machine.name)
  if (nodes.length === 0 || talosNodes(context).length > 0) return
  const { makeKeys } = load('../lib/vm/ignition.ts') as typeof import('../lib/vm/ignition.ts')
  await makeKeys(context, nodes)
}

const directory: Demand = {
  name: `${vmDir} exists, and QEMU has a user of its own`,
  check: sh`test -d ${vmDir} && getent passwd libvirt-qemu`,
  help: './task vm-host apply',
}

const noNode: Demand = {
  name: 'no node of the site boots with Ignition',
  check: sh`! ls ${vmDir}/*.ign 2> /dev/null`,
  help: 'files of nodes are left that the site does not know: ./task node destroy NAME, or list them under machines:',
}

function ignitionStep(context: Context, node: Guest): Change {
  const { fragmentOf } = load('../lib/k3s/configuration.ts') as typeof import('../lib/k3s/configuration.ts')
  const { ignitionFile } = load('../lib/vm/ignition.ts') as typeof import('../lib/vm/ignition.ts')
  return file(ignitionPath(node), {
    ...ignitionFile(context, node, { fragments: [greeting, fragmentOf(context, node.name)] }),
    mode: '400',
    // libvirt gives the files of a virtual machine to this user, so it stays as it is while the virtual machine runs.
    owner: 'libvirt-qemu:libvirt-qemu',
    name: `the Ignition of ${node.name} is written`,
    why: 'users, keys, address, settings and the pinned k3s come with the first boot: nothing is set up by hand afterwards',
  })
}

/** A Talos node reads its machine configuration from a disk called cidata. */
function talosSteps(context: Context, nodes: Guest[]): Step[] {
  return [
    packages(['xorriso', 'openssl']),
    ...nodes.flatMap((node) => [machineConfigStep(context, node), cidataStep(node)]),
  ]
}

function cidataStep(node: Guest): Change {
  const [config, disk] = [machineConfigPath(node), cidataPath(node)]
  const copy = sh`"$FK_TMP"/user-data`
  return {
    name: `the cidata disk of ${node.name} holds its machine configuration`,
    why: 'the kind of Talos that is made for virtual machines reads user-data there, before it has a network',
    // The copy holds secrets: it is removed whatever comes of it.
    check: sh`test "$(stat --format=%a ${disk})" = 400 && rm --force ${copy} &&
      xorriso -osirrox on -indev ${disk} -extract /user-data ${copy} > /dev/null 2>&1 &&
      cmp ${config} ${copy} || { rm --force ${copy} && false; }
    rm ${copy}`,
    apply: [
      sh`record_before ${disk}`,
      sh`
        umask 077 && rm --recursive --force "$FK_TMP"/cidata && mkdir "$FK_TMP"/cidata && cp ${config} "$FK_TMP"/cidata/user-data
        xorriso -as mkisofs -quiet -volid cidata -joliet -rational-rock -output "$FK_TMP"/cidata.iso "$FK_TMP"/cidata
        install --mode=400 --owner=libvirt-qemu --group=libvirt-qemu "$FK_TMP"/cidata.iso ${`${disk}.part`}
        rm --recursive "$FK_TMP"/cidata "$FK_TMP"/cidata.iso
        sync ${`${disk}.part`} && mv --force --no-target-directory ${`${disk}.part`} ${disk}`,
    ],
  }
}
