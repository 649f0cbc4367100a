// k3s as a service of a node: what must be there first, the program of the pinned version, and the start that is undone when it
// fails.
import { dirname } from 'node:path'
import { file } from '../engine/file.ts'
import type { Context } from '../engine/page.ts'
import type { Change, Demand, Step } from '../engine/step.ts'
import { library, sh } from '../ground/sh.ts'
import { type Member, k3sTransaction, programOf, secretNames } from './members.ts'

/** The functions that these steps use. */
export const serviceShell = library('lib/engine/shell/receive.sh', 'lib/k3s/members.sh')

/**
 * The pinned program is installed, beside the version that runs. With `stays` undo leaves it there: by then it may be the version
 * that runs.
 */
export function programSteps(context: Context, member: Member, { stays = false } = {}): Step[] {
  const { version, path, artifact } = programOf(context, member.arch)
  const directory = dirname(path)
  return [
    {
      name: `directory ${directory} exists`,
      check: sh`test "$(stat --format='%F %a %U:%G' ${directory})" = 'directory 755 root:root'`,
      apply: [
        ...(stays ? [] : [sh`record_before /opt/k3s && record_before ${directory}`]),
        sh`install --directory --mode=755 --owner=root --group=root /opt/k3s ${directory}`,
      ],
      undo: [sh`find ${directory} -maxdepth 1 -name '.*.part' -delete`],
    },
    {
      name: `k3s ${version} is downloaded and verified`,
      why: 'it has the pinned SHA-256; nothing that comes from the network is run to install it',
      check: sh`k3s_program ${version} ${artifact.sha256 ?? 'unproven'}`,
      upload: { artifact, to: path },
      apply: [stays ? sh`FK_KEEP='' receive ${path} 755` : sh`receive ${path} 755`],
      seconds: 900,
    },
  ]
}

/** What must hold before k3s is configured: kernel, clock, and the program itself. */
export function prerequisites(context: Context, member: Member): Step[] {
  const { version } = programOf(context, member.arch)
  const container = sh`systemd-detect-virt --quiet --container`
  const sysctl = '/etc/sysctl.d/99-zz-fortress-k3s.conf'
  return [
    {
      name: 'the kernel counts the memory of groups',
      why: 'k3s does not start without the memory controller, which the firmware of a Raspberry Pi switches off',
      check: sh`grep --word-regexp --quiet memory /sys/fs/cgroup/cgroup.controllers || ${container}`,
      help: 'on a Raspberry Pi: ./task host-harden apply writes cgroup_enable=memory into cmdline.txt; then restart it',
    },
    {
      name: 'cgroup v2 is mounted and the clock is synchronised',
      why: 'the kubelet of this version refuses cgroup v1, and certificates are not valid before their time',
      check: sh`
        test "$(stat --file-system --format=%T /sys/fs/cgroup)" = cgroup2fs &&
          { ${container} || test "$(timedatectl show --property=NTPSynchronized --value)" = yes; }`,
      help: 'find out why the clock is not synchronised: timedatectl timesync-status, or chronyc tracking',
    },
    ...(member.virtual
      ? []
      : [
          file(sysctl, {
            from: 'config/k3s/sysctl.conf',
            then: [sh`/usr/lib/systemd/systemd-sysctl ${sysctl} || ${container}`],
            name: 'sysctls for the kubelet are set',
            why: 'with protect-kernel-defaults the kubelet refuses to start where they differ',
          }),
        ]),
    ...programSteps(context, member),
    {
      name: '/opt/bin/k3s links to an installed version',
      why: 'only k3s-upgrade changes to which: it drains the node first, and goes back when the new version fails',
      check: sh`test -n "$(k3s_version)" && test -x /opt/bin/k3s`,
      apply: [sh`k3s_use ${version}`],
    },
  ]
}

/**
 * k3s runs with the configuration that is on the node: the end of the transaction that configurationSteps begins. `onOtherNode`
 * is what another member does before the restart, and after it.
 */
export function startStep({ name, role }: Member, onOtherNode?: Change['onOtherNode']): Change {
  const seconds = 600
  return {
    name: `k3s ${role} ${name} runs with the current configuration`,
    why: 'it restarts only after a change of its version, unit, configuration or tokens; when it fails, the previous ones return',
    check: sh`k3s_runs ${role} ${name}`,
    apply: [sh`k3s_start ${role} ${name} ${seconds - 60}`],
    undo: [sh`k3s_stop`],
    seconds,
    transaction: k3sTransaction(seconds),
    ...(onOtherNode ? { onOtherNode } : {}),
  }
}

/** What an installation of k3s with its own network has left, which k3s does not take away when it is started without. */
export const noOtherNetwork: Demand = {
  name: 'no interface of flannel, and no rule of kube-proxy, is left on this node',
  why: 'flannel has the port by which Cilium sends from node to node, and old rules lead to pods that are gone',
  check: sh`k3s_alone`,
  help: 'k3s has left them from when it was started with both; they go with a restart of the node: systemctl reboot',
}

/** The laptop gets what nodes join with, and what opens the API; `once`: never in the place of something else. */
export function saveCredentials({ once }: { once: boolean }): Step[] {
  const save = (name: string, path: string, what: string, once: boolean): Step => ({
    name: `${what} is saved on the laptop, encrypted`,
    check: sh`saved ${name} "$(sha256sum ${path} | cut --delimiter=' ' --fields=1)"`,
    apply: [sh`: # the laptop makes the copy, see save`],
    save: { name, command: sh`cat ${path}`, once },
  })
  const server = '/var/lib/rancher/k3s/server'
  return [
    save(secretNames.joinServer, `${server}/token`, 'join token for servers', once),
    save(secretNames.joinAgent, `${server}/agent-token`, 'join token for agents', once),
    save(secretNames.kubeconfig, '/etc/rancher/k3s/k3s.yaml', 'kubeconfig of the cluster', false),
  ]
}
