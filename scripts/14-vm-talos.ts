#!/usr/bin/env -S npx --no-install tsx
// A Talos node with its machine configuration applied, etcd bootstrapped once, and the kubeconfig saved.
//
// Needs   a node of vm-provision that runs Talos (FK_NODE_OS=talos). It brings its own Kubernetes: there is no k3s on it.
// Leaves  a cluster of its own etcd, and its kubeconfig: on the host for root alone, and age-encrypted on the laptop
//         (./task kubectl opens the cluster with it). The cluster has no network yet: that is another layer.
// Then    change config/vm/talos-controlplane.yaml, apply vm-ignition, and this page: the node takes the change for two minutes,
//         and keeps it only when it still answers.
// Undo    deletes the credentials from the host. The node keeps its configuration: ./task node destroy NAME ends it.
import type { Step } from '../lib/engine/step.ts'
import { type Command, sh } from '../lib/ground/sh.ts'
import { type Context, script } from '../lib/script.ts'
import { membersOf } from '../lib/site/cluster.ts'
import { type Guest } from '../lib/site/machines.ts'
import { declaredDir } from '../lib/vm/domain.ts'
import {
  clientConfigPath,
  configNames,
  installerOf,
  kubeconfigPath,
  machineConfigPath,
  talosNodes,
  talosVersion,
} from '../lib/vm/talos.ts'

export default script(
  import.meta,
  { layer: 'L1', on: 'host', needs: ['13-vm-provision'], prepare: shell() },
  (context) => {
    const [first, ...others] = talosNodes(context)
    if (first === undefined)
      return [
        {
          name: 'no node of the site runs Talos',
          check: sh`! ls ${declaredDir}/*.talosconfig 2> /dev/null`,
          help: 'credentials are left of a node that the site has no more: ./task vm-talos undo, or list it with os: talos again',
        },
      ]
    return [
      ...[first, ...others].flatMap((node) => configured(context, node)),
      // The others find the first of the cluster by its address, and join.
      ...(membersOf(context.site)[0]?.name === first.name ? [bootstrapped(first)] : []),
      ...[first, ...others].flatMap(healthy),
      ...saveCredentials(first),
    ]
  },
)

/** The pinned version, and the machine configuration of this site. */
function configured({ pins }: Context, node: Guest): Step[] {
  const { name } = node
  const version = talosVersion(pins)
  return [
    {
      name: `the machine configuration of ${name} is on the host, and ${name} accepts our certificate`,
      check: sh`test -s ${machineConfigPath(node)} && talos ${name} version`,
      help: './task vm-ignition apply, then ./task vm-provision apply',
    },
    {
      name: `${name} runs Talos ${version}`,
      why: 'a new version is a new disk and a reboot: when, is decided by whoever drains the node first',
      check: sh`talos_runs ${name} ${version}`,
      help: `on the host: talosctl --talosconfig ${clientConfigPath(node)} upgrade --image ${installerOf(pins)}`,
      controls: [
        {
          id: 'T01',
          title: 'Talos runs the pinned version',
          check: sh`talos_runs ${name} ${version}`,
          from: ['NIST SP 800-53 CM-6'],
        },
      ],
    },
    {
      name: `the machine configuration of ${name} is applied`,
      why: 'talosctl apply-config --dry-run shows a difference; a change that silences the node is rolled back by itself',
      check: sh`talos_applied ${name}`,
      apply: [sh`talos_try ${name}`],
      seconds: 420,
      controls: [
        {
          id: 'T02',
          title: 'No setting of the node differs from its machine configuration',
          check: sh`talos_applied ${name}`,
          from: ['NIST SP 800-53 CM-3', 'NIST SP 800-53 CM-6'],
        },
      ],
    },
  ]
}

/** The first member of etcd, and so the cluster. */
function bootstrapped({ name }: Guest): Step {
  return {
    name: `etcd is bootstrapped on ${name}`,
    why: 'etcd is bootstrapped once: on a node that had one already it would forget everything, so that is refused',
    check: sh`talos_member ${name}`,
    apply: [sh`talos_bootstrap ${name}`],
    seconds: 900,
    controls: [
      {
        id: 'T03',
        title: 'etcd lists the node as its member',
        check: sh`talos_member ${name}`,
        from: ['CIS Kubernetes 2'],
      },
    ],
  }
}

/** Its services are healthy, and it lets in nobody else. */
function healthy({ name, address }: Guest): Step[] {
  return [
    {
      name: `etcd and the kubelet of ${name} are healthy`,
      until: sh`talos_service ${name} etcd 'Running OK' && talos_service ${name} kubelet 'Running OK'`,
      seconds: 900,
      controls: [
        {
          id: 'T04',
          title: 'etcd is healthy',
          check: sh`talos_service ${name} etcd 'Running OK'`,
          from: ['CIS Kubernetes 2'],
        },
        {
          id: 'T05',
          title: 'The kubelet is healthy',
          check: sh`talos_service ${name} kubelet 'Running OK'`,
          from: ['CIS Kubernetes 4'],
        },
      ],
    },
    {
      name: `the Talos API of ${name} refuses whoever has no certificate of ours`,
      why: 'before its first configuration Talos listens to anybody; checked by a connection without a certificate',
      check: sh`talos_closed ${address} 50000`,
      help: 'somebody else made this node, or it lost its machine configuration: ./task node rebuild NAME',
      controls: [
        {
          id: 'T06',
          title: 'The API of Talos refuses who shows no certificate',
          check: sh`talos_closed ${address} 50000`,
          from: ['NIST SP 800-53 IA-3', 'NIST SP 800-53 AC-3'],
        },
      ],
    },
  ]
}

/** The kubeconfig, on the host and on the laptop. */
function saveCredentials(node: Guest): Step[] {
  const { name } = node
  const path = kubeconfigPath(node)
  const digest = sh`"$(sha256sum ${path} | cut --delimiter=' ' --fields=1)"`
  return [
    {
      name: 'the kubeconfig of the cluster is on the host, for root alone',
      why: 'its certificate is good for three months, and a new one is fetched in the last',
      check: sh`talos_certificate ${path} client-certificate-data 30`,
      apply: [
        // Not through a file of talosctl's own: this one lands whole.
        sh`timeout 60 talosctl --talosconfig ${clientConfigPath(node)} kubeconfig - |
          put ${path} 600 root:root && put_finish ${path}`,
      ],
      controls: [
        {
          id: 'T07',
          title: "The admin's certificate ends within three months, and is not near its end",
          check: sh`talos_certificate ${path} client-certificate-data 30`,
          from: ['NIST SP 800-57'],
        },
      ],
    },
    {
      name: 'the kubeconfig of the cluster is saved on the laptop, encrypted',
      check: sh`saved ${`${name}-kubeconfig`} ${digest}`,
      apply: [sh`: # the copy is made by the laptop, see save`],
      save: { name: `${name}-kubeconfig`, command: sh`cat ${path}` },
    },
  ]
}

/**
 * Shell of this page alone. A node that runs Talos has no shell and no SSH: talosctl speaks to it, with a certificate that it
 * knows. A check that does not hold prints why. A machine configuration holds secrets: of what talosctl prints about one, only
 * names are shown.
 */
function shell(): Command {
  return sh`TALOS_DECLARED=${declaredDir} TALOS_NOTES=/var/lib/fortress/vm
export TALOS_DECLARED TALOS_NOTES
talos_names() { ${configNames}; }
export -f talos_names
${configuration()}
${etcdShell()}
${certificates()}`
}

function configuration(): Command {
  return sh`
    talos_no() {
      printf '%s\n' "$*"
      return 1
    }

    # talos NAME WORD...: talosctl, as somebody whom the node knows. A node that is silent holds nobody up for long.
    talos() { timeout 15 talosctl --talosconfig "$TALOS_DECLARED/$1.talosconfig" "\${@:2}" 2>&1; }

    # talos_runs NAME VERSION: of its system.
    talos_runs() {
      local said is
      said=$(talos "$1" version) || talos_no "it does not answer: $(printf '%s\n' "$said" | tail --lines=1)" || return
      is=$(printf '%s\n' "$said" | awk '/^Server:/ { there = 1 } there && $1 == "Tag:" { print $2 }')
      printf 'it runs Talos %s\n' "$is"
      [ "$is" = "$2" ]
    }

    # talos_applied NAME: the node itself finds no difference between its settings and its machine configuration.
    talos_applied() {
      local said
      said=$(talos "$1" apply-config --dry-run --mode=try --file "$TALOS_DECLARED/$1.talos.yaml") ||
        talos_no "it refuses the machine configuration: $(printf '%s\n' "$said" | talos_names)" || return
      ! printf '%s\n' "$said" | grep --line-regexp 'No changes\.' || return 0
      printf 'it would change:\n'
      printf '%s\n' "$said" |
        sed --quiet 's/^\([+-]\) *\(- \)\?\([A-Za-z][A-Za-z0-9_./-]*\):.*/\1 \3/p' | LC_ALL=C sort --unique
      return 1
    }

    # talos_try NAME: the node takes its machine configuration for two minutes, and keeps it only when it answers as before.
    talos_try() {
      local file=$TALOS_DECLARED/$1.talos.yaml second said
      said=$(talos "$1" apply-config --mode=try --timeout=2m --file "$file") ||
        talos_no "$(printf '%s\n' "$said" | talos_names)" || return
      for second in $(seq 12); do
        sleep 5
        # Twice: the first answer may still be the old one.
        if [ "$second" -gt 1 ] && talos "$1" version > /dev/null; then
          talos "$1" apply-config --mode=no-reboot --file "$file"
          return
        fi
      done
      talos_no "it has not answered since: in two minutes it takes the change back by itself"
    }

    export -f talos_no talos talos_runs talos_applied talos_try
  `
}

function etcdShell(): Command {
  return sh`
    # talos_service NAME SERVICE WORD...: the state and health of one of its services, when it is one of these.
    talos_service() {
      local said is
      said=$(talos "$1" service "$2") || talos_no "$(printf '%s\n' "$said" | tail --lines=1)" || return
      is=$(printf '%s\n' "$said" | awk '$1 == "STATE" || $1 == "HEALTH" { printf "%s%s", there++ ? " " : "", $2 }')
      printf '%s: %s\n' "$2" "$is"
      printf '%s\n' "\${@:3}" | grep --line-regexp --fixed-strings -e "$is" > /dev/null
    }

    # talos_member NAME: it is in its own list of etcd's members.
    talos_member() {
      local said
      said=$(talos "$1" etcd members) || talos_no "$(printf '%s\n' "$said" | tail --lines=1)" || return
      printf '%s\n' "$said"
      printf '%s\n' "$said" | awk -v name="$1" '{ for (i = 1; i <= NF; i++) if ($i == name) found = 1 } END { exit !found }'
    }

    # talos_bootstrap NAME: bootstraps etcd, once. The note says that it was done; only a node that is made anew loses it.
    talos_bootstrap() {
      local note=$TALOS_NOTES/$1.bootstrapped try said=''
      if [ -e "$note" ]; then
        talos_no "etcd was bootstrapped here on $(cat "$note"), and is gone: a new bootstrap would forget what it held." \
          "Restore a snapshot (talosctl bootstrap --recover-from FILE), or delete $note"
        return
      fi
      # Its disk and its clock may not be ready yet, and an earlier run may have been killed before it could note what it did.
      for ((try = 1; ; try++)); do
        ! said=$(talos "$1" bootstrap) || break
        [[ $said != *AlreadyExists* ]] || break
        [[ $try -lt 60 && $said = *@(FailedPrecondition|Unavailable)* ]] || talos_no "$said" || return
        sleep 5
      done
      install --directory --mode=700 "$TALOS_NOTES"
      date --iso-8601=seconds > "$note.part"
      sync "$note.part"
      mv "$note.part" "$note"
      for ((try = 1; try < 60; try++)); do
        ! said=$(talos_member "$1") || return 0
        sleep 5
      done
      talos_no "etcd is bootstrapped, and $1 is no member yet: $said"
    }

    export -f talos_service talos_member talos_bootstrap
  `
}

function certificates(): Command {
  return sh`
    # talos_certificate FILE KEY DAYS: the certificate in this file is good for so many days more.
    talos_certificate() {
      local until
      [ -s "$1" ] || talos_no "$1 is not there" || return
      [ "$(stat --format='%a %U:%G' "$1")" = '600 root:root' ] || talos_no "others may read $1" || return
      awk -v key="$2:" '$1 == key { print $2; exit }' "$1" | base64 --decode > "$FK_TMP/certificate" 2> /dev/null
      until=$(openssl x509 -in "$FK_TMP/certificate" -noout -enddate 2> /dev/null) || talos_no "$1 holds no certificate" || return
      printf 'its certificate is good until %s\n' "\${until#notAfter=}"
      openssl x509 -in "$FK_TMP/certificate" -noout -checkend $(($3 * 86400)) > /dev/null
    }

    # talos_closed ADDRESS PORT: whoever shows no certificate is refused. TLS says so after its handshake, so wait for the answer.
    talos_closed() {
      local said
      said=$(timeout 15 openssl s_client -connect "$1:$2" -alpn h2 2>&1 < <(sleep 2)) || true # the words decide
      if [ -z "$said" ] ||
        printf '%s\n' "$said" | grep --extended-regexp 'connect:errno|Connection refused|timed out' > /dev/null; then
        talos_no "nobody answers at $1 port $2"
        return
      fi
      printf '%s\n' "$said" |
        grep --only-matching --ignore-case --extended-regexp \
          'alert (certificate required|bad certificate|handshake failure)' | sed --quiet 1p |
        grep . || talos_no "$1 port $2 speaks to whoever comes"
    }

    export -f talos_certificate talos_closed
  `
}
