#!/usr/bin/env -S npx --no-install tsx
// gVisor on every node: a kernel of its own for pods, which the containerd of k3s starts as the handler runsc.
//
// Needs   network-cilium, and components: { runtime: gvisor } in the site document. A node of Talos has it in its image.
// Leaves  the release in /opt/gvisor, /etc/containerd/runsc.toml, a file that the configuration of containerd imports, and a
//         label on the Node. k3s restarts once, and containers go on meanwhile. Pods get a sandbox by 45-runtime-class.
// Then    docs/runtime.md says what a sandbox cannot do: no host network, no AppArmor, and Tetragon and Falco see nothing in it.
//         A new release is a change of gvisor in config/versions.yaml, then this page: pods that run keep the one that they have.
// Undo    refuses while pods of the node run in it, and names them.
import { artifactOf } from '../lib/engine/artifact.ts'
import { file } from '../lib/engine/file.ts'
import { packages } from '../lib/engine/packages.ts'
import type { Change, Step, Transaction } from '../lib/engine/step.ts'
import { sh } from '../lib/ground/sh.ts'
import { type Member, clusterOf, k3sTransaction, memberOf, wellWithout } from '../lib/k3s/members.ts'
import { serviceShell } from '../lib/k3s/service.ts'
import { type Context, script } from '../lib/script.ts'
import { chosen } from '../lib/site/machines.ts'

const about = {
  layer: 'L3',
  on: 'node',
  needs: ['30-network-cilium'],
  library: serviceShell,
  prepare: sh`${release()}
${handler()}`,
} as const

const home = '/opt/gvisor'
const settings = '/etc/containerd/runsc.toml'
const imports = '/var/lib/rancher/k3s/agent/etc/containerd/config-v3.toml.d'
const within = 420

/** A node that does not become Ready gets its previous configuration back, and k3s restarts with it. */
const transaction: Transaction = {
  ...k3sTransaction(within),
  restart: ['/etc/containerd/', '/etc/systemd/system/k3s.service.d/'].map((path) => ({
    unit: 'k3s.service',
    path,
    how: 'always' as const,
    needs: '/etc/rancher/k3s/token',
  })),
}

export default script(import.meta, about, (context) => {
  if (!chosen(context.site, 'runtime').includes('gvisor')) return []
  const member = memberOf(context)
  const version = context.pins['gvisor']?.version ?? ''
  return [
    {
      name: 'the kernel lets programs make namespaces of users',
      why: 'gVisor starts each sandbox in one, where root is nobody',
      check: sh`
        found=$(sysctl --values user.max_user_namespaces)
        echo "user.max_user_namespaces is $found" && test "$found" -gt 0`,
      help: 'a file of /etc/sysctl.d sets user.max_user_namespaces to 0: take that out, then sysctl --system',
    },
    ...unpacked(context, member, version),
    file(settings, {
      from: 'config/components/gvisor/runsc.toml',
      values: { version },
      name: 'runsc.toml: sandboxes start by systrap, and seccomp profiles of pods count in them',
      transaction,
    }),
    file(`${imports}/50-gvisor.toml`, {
      from: 'config/components/gvisor/containerd.toml',
      values: { version },
      name: 'the configuration of containerd imports the handler runsc',
      transaction,
    }),
    file('/etc/systemd/system/k3s.service.d/path-gvisor.conf', {
      from: 'config/components/gvisor/k3s.conf',
      values: { version },
      then: [sh`systemctl daemon-reload`],
      name: 'k3s.service has the release in its PATH',
      why: 'containerd finds the shims of pods that run by it when k3s has restarted: else all of them begin anew',
      transaction,
    }),
    known(context, member, version),
    labelled(member),
  ]
})

/** The release of the pinned version: what its makers publish, whole. Its programs look for each other beside themselves. */
function unpacked({ pins }: Context, { arch, virtual }: Member, version: string): Step[] {
  const artifact = artifactOf(pins, 'gvisor', arch)
  const digest = artifact.sha512 ?? 'unproven'
  return [
    virtual
      ? {
          name: 'zstd is there',
          check: sh`command -v zstd`,
          help: 'the release of gVisor is packed by it; Flatcar has it in its image',
        }
      : packages(['zstd']),
    {
      name: `directory ${home} exists`,
      check: sh`test "$(stat --format='%F %a %U:%G' ${home})" = 'directory 755 root:root'`,
      apply: [sh`record_before ${home} && install --directory --mode=755 --owner=root --group=root ${home}`],
    },
    {
      name: `gVisor ${version} is downloaded, verified and unpacked`,
      why: 'runsc alone starts nothing: the shim, and the programs of gvisor-bin, are of the same release',
      check: sh`gvisor_whole ${version} ${digest}`,
      upload: { artifact, to: `${home}/gvisor-${version}.tar.zstd` },
      apply: [sh`gvisor_unpack ${version} ${digest}`],
      undo: [sh`find ${home} -mindepth 1 -delete`],
      seconds: 900,
    },
  ]
}

/** k3s runs with both files. Of several servers one restarts at a time. */
function known(context: Context, member: Member, version: string): Change {
  const { name, role } = member
  const servers = clusterOf(context).filter((one) => one.role === 'server')
  const [other] = servers.filter((one) => one.name !== name)
  return {
    name: `containerd of ${name} has the handler runsc, and the Node is Ready`,
    why: 'k3s restarts only where the containerd that runs does not know it; when that fails, everything is as it was',
    check: sh`gvisor_known ${name} ${version}`,
    apply: [sh`gvisor_start ${role} ${name} ${version} ${within - 60}`],
    undo: [
      sh`
        rm --force ${`${imports}/50-gvisor.toml`}
        if [ -d ${imports} ]; then rmdir --ignore-fail-on-non-empty ${imports}; fi`,
    ],
    seconds: within,
    transaction,
    ...(role === 'server' && other !== undefined
      ? {
          onOtherNode: {
            on: other.name,
            before: [wellWithout(member, servers, servers.length - 1)],
            after: [],
          },
        }
      : {}),
  }
}

/** RuntimeClass gvisor places pods by it. */
function labelled({ name }: Member): Change {
  return {
    name: `Node ${name} is labelled as one that has gVisor`,
    check: sh`
      test ready = "$(k3s_self get node ${name} --output jsonpath='{.metadata.labels.fortress-kit/gvisor}')"`,
    apply: [sh`k3s_self label node ${name} --overwrite fortress-kit/gvisor=ready`],
    undoable: sh`gvisor_unused ${name}`,
    undo: [sh`! systemctl --quiet is-active k3s.service || k3s_self label node ${name} fortress-kit/gvisor-`],
  }
}

/** The release on this node. */
function release() {
  return sh`
GVISOR=/opt/gvisor
export GVISOR

# gvisor_whole VERSION SHA512: every file of the release with this digest is there as it was unpacked, and no other; root alone
# may change them, and everybody may run them: gVisor starts itself as nobody.
gvisor_whole() {
  local place=$GVISOR/$1 said
  [ "$(cat "$place/of" 2> /dev/null)" = "$2" ] || k3s_no "$place is not unpacked from the pinned release" || return
  said=$(cd "$place" && sha256sum --check --quiet release.sha256 2>&1) || k3s_no "$place differs: $said" || return
  said=$(comm -3 <(gvisor_files "$place") <(sed 's/^[0-9a-f]*  //' "$place/release.sha256" | LC_ALL=C sort) | tr --delete '\t')
  [ -z "$said" ] || k3s_no "$place has a file of somebody else: $said" || return
  said=$(find "$place" \( ! -user root -o ! -group root -o ! -perm 755 \) ! -name of ! -name release.sha256)
  [ -z "$said" ] || k3s_no "mode or owner is not 755 root:root: $said" || return
  said=$("$place/runsc" --version 2>&1) || k3s_no "runsc does not start: $said" || return
  grep --fixed-strings --line-regexp --quiet "runsc version release-$1" <<< "$said" || k3s_no "runsc is another one: $said"
}

# gvisor_files DIRECTORY: what is in it, but for what is noted there when it is unpacked.
gvisor_files() { (cd "$1" && find . ! -type d ! -path ./of ! -path ./release.sha256 | LC_ALL=C sort); }

# gvisor_unpack VERSION SHA512: what was sent is proven once more by the digest of its makers, and unpacked beside its place.
gvisor_unpack() {
  local place=$GVISOR/$1 new=$GVISOR/.$1.new name
  received "$GVISOR/gvisor-$1.tar.zstd" || return
  printf '%s  %s\n' "$2" "$FK_PART" | sha512sum --check --status ||
    { rm --force "$FK_PART" && k3s_no 'what was sent is not the pinned release: it is deleted'; } || return
  rm --recursive --force "$new" "$place.old" && install --directory --mode=755 "$new" || return
  ( set -o pipefail
    zstd --decompress --quiet --stdout "$FK_PART" |
      tar --extract --directory="$new" --no-same-owner --no-same-permissions ) || k3s_no 'it cannot be unpacked' || return
  for name in runsc containerd-shim-runsc-v1 gvisor-bin; do
    [ -e "$new/$name" ] || k3s_no "the release has no $name" || return
  done
  [ -z "$(find "$new" ! -type f ! -type d)" ] || k3s_no 'the release has links, or what is no file' || return
  chown --recursive root:root "$new" && chmod --recursive 755 "$new" || return
  (cd "$new" && gvisor_files . | xargs --delimiter='\n' sha256sum) > "$new.sha256" || return
  mv --force "$new.sha256" "$new/release.sha256" && echo "$2" > "$new/of" && sync --file-system "$new" || return
  if [ -e "$place" ]; then mv --no-target-directory "$place" "$place.old" || return; fi
  mv --no-target-directory "$new" "$place" && sync "$GVISOR" || return
  rm --recursive --force "$place.old" "$FK_PART"
}

export -f gvisor_whole gvisor_files gvisor_unpack`
}

/** The containerd that is to start it. */
function handler() {
  return sh`
# gvisor_handler: what the containerd that runs would start for the handler runsc: its shim, and the file that this reads.
gvisor_handler() {
  timeout 30 "$K3S" crictl info --output go-template --template \
    '{{with .config.containerd.runtimes.runsc}}{{.runtimeType}} {{.runtimePath}} {{.options.ConfigPath}}{{end}}'
}

# gvisor_known NODE VERSION: the containerd that runs has read what is on the node now and knows the handler, the kubelet says
# so, and the Node is Ready.
gvisor_known() {
  local said wanted="io.containerd.runsc.v1 $GVISOR/$2/containerd-shim-runsc-v1 /etc/containerd/runsc.toml"
  said=$(gvisor_handler 2>&1) || k3s_no "containerd does not answer: $(tail --lines=1 <<< "$said")" || return
  [ "$said" = "$wanted" ] || k3s_no "the containerd that runs has for the handler runsc: \${said:-nothing}" || return
  [ "$(stat --format=%Y "$K3S_DATA/agent/etc/containerd/config-v3.toml.d/50-gvisor.toml")" -le \
    "$(date --date="$(systemctl show --property=ExecMainStartTimestamp --value k3s.service)" +%s)" ] ||
    k3s_no 'k3s was started before the current configuration of containerd was written' || return
  tr '\0' '\n' < "/proc/$(systemctl show --property=MainPID --value k3s.service)/environ" |
    grep "^PATH=.*$GVISOR/$2:" > /dev/null || k3s_no "the k3s that runs has no $GVISOR/$2 in its PATH" || return
  said=$(k3s_self get node "$1" --output \
    jsonpath='{.status.conditions[?(@.type=="Ready")].status} {.status.runtimeHandlers[*].name}' 2>&1) ||
    k3s_no "the API does not answer: $(tail --lines=1 <<< "$said")" || return
  [ "\${said%% *}" = True ] || k3s_no "Node $1 is not Ready" || return
  case " \${said#* } " in *' runsc '*) ;; *) k3s_no "the kubelet knows no handler runsc: $said" ;; esac
}

# gvisor_start ROLE NODE VERSION SECONDS: k3s restarts, and the Node is Ready within these seconds.
gvisor_start() {
  local deadline=$((SECONDS + $4)) said=''
  k3s_start "$1" "$2" "$4" || {
    tail --lines=3 "$K3S_DATA/agent/containerd/containerd.log" 2> /dev/null
    return 1
  }
  until said=$(gvisor_known "$2" "$3"); do
    [ "$SECONDS" -lt "$deadline" ] || k3s_no "$said" || return
    sleep 1
  done
}

# gvisor_unused NODE: no pod of the node runs in gVisor; those that do are named. Without k3s the processes alone say so.
gvisor_unused() {
  local pods='' one='{.metadata.namespace}/{.metadata.name} {.status.phase}{"\n"}'
  if systemctl --quiet is-active k3s.service; then
    pods=$(k3s_self get pods --all-namespaces --field-selector "spec.nodeName=$1" --output \
      jsonpath='{range .items[?(@.spec.runtimeClassName=="gvisor")]}'"$one{end}") || return
    pods=$(awk '$2 != "Succeeded" && $2 != "Failed" { print $1 }' <<< "$pods" | paste --serial --delimiters=' ')
  fi
  [ -n "$pods" ] || [ -z "$(find /proc/[0-9]*/exe -lname "$GVISOR/*" 2> /dev/null)" ] || pods='their processes are still there'
  [ -z "$pods" ] || k3s_no "pods run in gVisor: $pods"$'\n''./task runtime-class undo comes first; then delete these'
}
export -f gvisor_handler gvisor_known gvisor_start gvisor_unused`
}
