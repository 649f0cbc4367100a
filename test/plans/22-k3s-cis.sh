#!/bin/bash
# 22-k3s-cis: The CIS Kubernetes benchmark, checked on a node that runs.
#
# Run it as root on the machine. Each step asks first and changes only what does not hold.
set -euo pipefail
[ "$(id --user)" -eq 0 ] || { echo "this script needs root" >&2; exit 1; }

# keep PATH: only the task runner records what was there before; a printed page does not take back.
keep() { :; }
export -f keep
saved() { [ -e "$FK_STATE/saved-$1-$2" ]; }
FK_TMP=$(mktemp --directory)
export FK_TMP
# Files land whole or not at all. These functions travel with every program and stand at the top of every printed script.
: "${FK_STATE:=/var/lib/fortress}"

# put PATH MODE OWNER [TEST]: standard input becomes PATH. TEST is bash and sees the candidate as $new.
# The old file waits in pending/ until `settle PATH`, so that a run killed before its reload does not look finished.
put() {
  local path=$1 mode=$2 owner=$3 test=${4-} new pending
  new=$(dirname "$path")/.$(basename "$path").fortress
  pending=$FK_STATE/pending/${path//\//%}
  keep "$path"
  [ -d "$(dirname "$path")" ] || install --directory --mode=755 "$(dirname "$path")"
  if ! { (umask 077 && cat > "$new") && chown "$owner" "$new" && chmod "$mode" "$new" &&
    { [ -z "$test" ] || new=$new bash -euo pipefail -c "$test"; } && sync "$new"; }; then
    rm --force "$new"
    return 1
  fi
  if [ ! -e "$pending" ]; then
    install --directory --mode=700 "$pending.part"
    if [ -e "$path" ] || [ -L "$path" ]; then cp --archive "$path" "$pending.part/old"; fi
    sync "$pending.part"
    mv --no-target-directory "$pending.part" "$pending"
  fi
  mv --force --no-target-directory "$new" "$path"
  sync "$(dirname "$path")"
}

# settle PATH: what had to follow the file has followed.
settle() { rm --recursive --force "$FK_STATE/pending/${1//\//%}" "$FK_STATE/pending/${1//\//%}.part"; }

# settled PATH: no change of PATH waits for what has to follow it.
settled() { [ ! -e "$FK_STATE/pending/${1//\//%}" ]; }

# putback PATH: the file that `put` replaced returns.
putback() {
  local pending=$FK_STATE/pending/${1//\//%}
  [ -d "$pending" ] || return 0
  if [ -e "$pending/old" ] || [ -L "$pending/old" ]; then
    mv --force --no-target-directory "$pending/old" "$1"
  else
    rm --force "$1"
  fi
  settle "$1"
}

# arrived PATH: FK_PART is the file beside PATH that was sent for it, and FK_DIGEST what the sender has proven of it; a file that
# is another is deleted. FK_SENT has a line for everything that was sent: digest, path.
arrived() {
  FK_DIGEST=$(awk -v path="$1" '{ d = $1; sub(/^[^ ]* /, "") } $0 == path { print d }' <<< "$FK_SENT")
  [ -n "$FK_DIGEST" ] || { echo "nothing was sent for $1" >&2; return 1; }
  FK_PART=$(dirname "$1")/.$(basename "$1").${FK_DIGEST:0:16}.part
  printf '%s  %s\n' "$FK_DIGEST" "$FK_PART" | sha256sum --check --status || {
    rm --force "$FK_PART"
    echo "what arrived for $1 is not what was sent; it is deleted, and sent again by the next run" >&2
    return 1
  }
}

# landed PATH SHA256 MODE OWNER: PATH has this content, and nothing is left to follow; 2 says that only mode or owner are others.
landed() {
  local is
  [[ ${FK_LANDED-} != *$'\n'"$*"$'\n'* ]] || return 0 # asked for all files at once, and nothing has changed since
  settled "$1" && [ -f "$1" ] && [ ! -L "$1" ] && printf '%s  %s\n' "$2" "$1" | sha256sum --check --status || return 1
  is=$(stat --format='%a %U:%G' "$1")
  [ "$is" = "$3 $4" ] || { printf 'mode and owner are %s, and should be %s %s\n' "$is" "$3" "$4"; return 2; }
}
export -f put settle settled putback arrived landed
export FK_STATE

# What several checks below look at.
# A node of k3s: the checks about it, and how it starts. Every function that fails prints why.
K3S=/opt/bin/k3s K3S_ETC=/etc/rancher/k3s K3S_DATA=/var/lib/rancher/k3s K3S_NOTES=/var/lib/fortress/k3s
export K3S K3S_ETC K3S_DATA K3S_NOTES

# k3s_no TEXT: prints why, and fails.
k3s_no() {
  printf '%s\n' "$*"
  return 1
}

# k3s_program VERSION SHA256: the program of this version is installed as it was published, and root alone may write it.
k3s_program() {
  local path=/opt/k3s/$1/k3s
  [ -f "$path" ] && [ ! -L "$path" ] || k3s_no "$path is missing" || return
  [ "$(stat --format='%a %U:%G' "$path")" = '755 root:root' ] ||
    k3s_no "$path can be changed: $(stat --format='%a %U:%G' "$path")" || return
  printf '%s  %s\n' "$2" "$path" | sha256sum --check --status || k3s_no "$path differs from the pinned file"
}

# k3s_use VERSION: /opt/bin/k3s becomes this version, for the next start. The link changes atomically.
k3s_use() {
  [ -x "/opt/k3s/$1/k3s" ] || k3s_no "/opt/k3s/$1/k3s is missing" || return
  keep "$K3S"
  install --directory --mode=755 "$(dirname "$K3S")"
  ln --symbolic --force --no-dereference "../k3s/$1/k3s" "$K3S.new"
  mv --force --no-target-directory "$K3S.new" "$K3S"
  sync "$(dirname "$K3S")"
}

# k3s_version: that the link names; nothing where there is none.
k3s_version() {
  local link
  link=$(readlink "$K3S" 2> /dev/null) || return 0
  basename "$(dirname "$link")"
}

# k3s_kubectl WORD...: as the admin of the cluster, on a server.
k3s_kubectl() { timeout "${K3S_SECONDS:-30}" "$K3S" kubectl --kubeconfig "$K3S_ETC/k3s.yaml" "$@"; }

# k3s_self WORD...: as this node itself, which may read little more than itself.
k3s_self() { timeout 30 "$K3S" kubectl --kubeconfig "$K3S_DATA/agent/kubelet.kubeconfig" "$@"; }

# k3s_config_digest: one digest of all that a start depends on: the program, the unit, the configuration, the tokens.
k3s_config_digest() {
  local unit=/etc/systemd/system/k3s.service
  {
    readlink "$K3S"
    {
      find "$K3S_ETC" "$unit" "$unit.d" -type f ! -name k3s.yaml ! -name '.*' -print0 2> /dev/null ||
        true # there need be no drop-in
    } | LC_ALL=C sort --zero-terminated | xargs --null --no-run-if-empty sha256sum
  } | sha256sum | cut --delimiter=' ' --fields=1
}

# k3s_answers ROLE NAME: a server answers and says that it is ready; of an agent the cluster has a Node.
k3s_answers() {
  local said
  systemctl --quiet is-active k3s.service || k3s_no "k3s does not run"$'\n'"$(k3s_said)" || return
  if [ "$1" = server ]; then
    said=$(k3s_kubectl get --raw /readyz 2>&1) || k3s_no "the API does not answer: $(tail --lines=1 <<< "$said")" || return
    [ "$said" = ok ] || k3s_no "the API is not ready: $said"
  else
    said=$(k3s_self get node "$2" --output name 2>&1) || k3s_no "the cluster has no Node $2: $(tail --lines=1 <<< "$said")"
  fi
}

# k3s_said: the last errors in its journal. Why it ends, and that it ends, are different lines.
k3s_said() {
  journalctl --unit=k3s.service --lines=400 --output=cat --no-pager 2> /dev/null |
    grep --extended-regexp 'level=(fatal|error)|^[EF][0-9]{4} |[Ee]rror:' | cut --characters=1-400 | tail --lines=20 |
    awk '{ key = $0; sub(/time="[^"]*"/, "", key) } !seen[key]++' | tail --lines=3 || true # there may be none
}

# k3s_runs ROLE NAME: with the configuration that is on the node now, and not with the one that it was started with.
k3s_runs() {
  systemctl --quiet is-enabled k3s.service || k3s_no 'k3s.service is not enabled' || return
  k3s_answers "$1" "$2" || return
  [ "$(cat "$K3S_NOTES/started" 2> /dev/null)" = \
    "$(systemctl show --property=InvocationID --value k3s.service) $(k3s_config_digest)" ] ||
    k3s_restarted || k3s_no 'k3s was started before the current configuration was written'
}

# k3s_restarted: the machine or systemd has restarted it since, with the configuration that it has now.
k3s_restarted() {
  local begun
  [ "$(cut --delimiter=' ' --fields=2 "$K3S_NOTES/started" 2> /dev/null)" = "$(k3s_config_digest)" ] || return
  begun=$(systemctl show --property=ActiveEnterTimestamp --value k3s.service)
  [ -n "$begun" ] && [ "$(date --date="$begun" +%s)" -ge "$(stat --format=%Y "$K3S_NOTES/started")" ]
}

# k3s_start ROLE NAME SECONDS: restarts it and waits until it is ready; only then is the digest of its configuration noted.
k3s_start() {
  local digest deadline=$((SECONDS + $3)) fails=0 said=''
  digest=$(k3s_config_digest)
  install --directory --mode=700 "$K3S_NOTES"
  # When this run is killed, nothing tells with which configuration k3s was started.
  [ ! -e "$K3S_NOTES/started" ] || mv --force "$K3S_NOTES/started" "$K3S_NOTES/started.before"
  systemctl daemon-reload
  systemctl --quiet enable k3s.service
  systemctl reset-failed k3s.service 2> /dev/null || true # it has not failed
  systemctl restart --no-block k3s.service
  while ! said=$(k3s_answers "$1" "$2"); do
    # A server that cannot read its configuration ends at once, again and again: waiting does not help.
    fails=$(systemctl show --property=NRestarts --value k3s.service)
    if [ "$fails" -ge 3 ] || [ "$SECONDS" -ge "$deadline" ]; then
      said="k3s did not become ready: $said"
      if [ -s "$K3S_NOTES/upgrading" ] && [ -z "${K3S_SWAPS-}" ]; then
        said+=$'\nan upgrade of this node is not finished: ./task k3s-upgrade apply finishes it, or goes back'
      fi
      # The previous configuration may return, and with it its digest.
      [ ! -e "$K3S_NOTES/started.before" ] || mv --force "$K3S_NOTES/started.before" "$K3S_NOTES/started"
      k3s_no "$said"
      return
    fi
    sleep 1
  done
  printf '%s %s\n' "$(systemctl show --property=InvocationID --value k3s.service)" "$digest" > "$K3S_NOTES/started.part"
  sync "$K3S_NOTES/started.part"
  mv --force "$K3S_NOTES/started.part" "$K3S_NOTES/started"
  rm --force "$K3S_NOTES/started.before"
}

# k3s_votes: a line for each server: its name, and whether it has a vote in etcd, as the leader found within the last 15 s.
k3s_votes() {
  k3s_kubectl get nodes --selector=node-role.kubernetes.io/etcd=true --output \
    jsonpath='{range .items[*]}{.metadata.name}{" "}{.status.conditions[?(@.type=="EtcdIsVoter")].status}{"\n"}{end}'
}

# k3s_well COUNT NAME 'NODE URL'…: COUNT servers are members of etcd, and all of them but NAME have a vote and answer at their
# URL: etcd keeps its quorum when NAME stops or joins. What a member reports of another is up to 15 s old; an answer is not.
k3s_well() {
  local count=$1 but=$2 said name vote server members=''
  shift 2
  said=$(k3s_votes 2>&1) || k3s_no "the API does not answer: $(tail --lines=1 <<< "$said")" || return
  while read -r name vote; do
    if [ -z "$name" ] || [ "$name" = "$but" ]; then continue; fi
    [ "$vote" = True ] || k3s_no "$name has no vote in etcd" || return
    members+=" $name"
  done <<< "$said"
  [ "$(wc --words <<< "$members")" -ge "$count" ] || k3s_no "of $count servers the members of etcd are:$members" || return
  for server; do
    case " $members " in *" ${server% *} "*) ;; *) continue ;; esac
    said=$(k3s_kubectl --server="${server#* }" get --raw /readyz 2>&1) && [ "$said" = ok ] ||
      k3s_no "${server% *} does not answer, or is not ready: $(tail --lines=1 <<< "$said")" || return
  done
}

# k3s_stop: for undo. The containers that it started end too; the data stays.
k3s_stop() {
  systemctl disable --now k3s.service 2> /dev/null || true # it is gone already
  if [ -e /sys/fs/cgroup/kubepods.slice/cgroup.kill ]; then echo 1 > /sys/fs/cgroup/kubepods.slice/cgroup.kill; fi
}

export -f k3s_no k3s_program k3s_use k3s_version k3s_kubectl k3s_self k3s_config_digest k3s_answers k3s_said k3s_runs \
  k3s_restarted k3s_start k3s_votes k3s_well k3s_stop

FK_UNITS=''
# What controls ask with: each function prints what it found and returns 0 (holds) or 1 (does not), or leaves with 100 (does not
# apply here) or 101 (holds after the next start). Everything is read-only and asks the running system; what several controls
# need is asked once.
FK_CONTAINER=$(systemd-detect-virt --container) || FK_CONTAINER=''

na() {
  echo "$*"
  exit 100
}

# fact NAME COMMAND…: FK_FACT becomes the output of COMMAND, kept until something changes.
fact() {
  local round=before name=$1 file
  # fk_holds tells us where we are: after a step has changed something, nothing that was known before counts.
  if [ "${phase-before}" = after ]; then round=after.${n-0}; fi
  file=${FK_FACTS-$FK_TMP}/fact.$name.$round
  if [ ! -e "$file" ]; then
    [ "$round" = before ] || rm --force "$FK_TMP"/fact.*.before
    shift
    "$@" > "$file.$BASHPID" 2> /dev/null || true # an empty answer is an answer: the control says what it misses
    mv "$file.$BASHPID" "$file"
  fi
  FK_FACT=$'\n'$(< "$file")$'\n'
}

# sysctl_is KEY VALUE [KEY VALUE…]: the running kernel has these values; a|b allows either.
sysctl_is() {
  local key want file got said='' bad='' host='' absent='' held=''
  while [ $# -gt 0 ]; do
    key=$1 want=$2 file=/proc/sys/${1//.//}
    shift 2
    if [ ! -e "$file" ]; then
      absent+=" $key"
      continue
    fi
    if [ -n "$FK_CONTAINER" ] && [ ! -w "$file" ]; then
      host+=" $key"
      continue
    fi
    read -r -a got < "$file" || true # an empty value has no line to read
    said+="$key=${got[*]} "
    case "$want|" in "${got[*]}|"* | *"|${got[*]}|"*) held=yes ;; *) bad+=" $key" ;; esac
  done
  echo "${said:-$key} ${bad:+(wanted other values of$bad)}"
  [ -z "$bad" ] || return 1
  [ -z "$host" ] || na "the kernel is the host's, not this container's:$host"
  [ -n "$held" ] || na "this kernel has no$absent"
}

# cmdline_has ARGUMENT…: the running kernel was started with them.
cmdline_has() {
  local argument wanting=() running
  [ -z "$FK_CONTAINER" ] || na "the kernel is the host's, not this container's"
  running=$(< /proc/cmdline)
  for argument; do
    case " $running " in *" $argument "*) ;; *) wanting+=("$argument") ;; esac
  done
  if [ ${#wanting[@]} -eq 0 ]; then
    echo "started with $*"
    return 0
  fi
  if boots_with "${wanting[@]}"; then
    echo "the running kernel was started without ${wanting[*]}; the next start has it"
    exit 101
  fi
  echo "neither the running kernel nor the next start has ${wanting[*]}"
  return 1
}

boot_lines() {
  if [ -e /boot/grub/grub.cfg ]; then
    awk '$1 ~ /^linux(efi)?$/ && !/memtest/' /boot/grub/grub.cfg
  elif [ -e /boot/firmware/cmdline.txt ]; then
    cat /boot/firmware/cmdline.txt
  fi
}

boots_with() {
  local line argument
  fact boot boot_lines
  [ "$FK_FACT" != $'\n\n' ] || return 1
  while read -r line; do
    [ -n "$line" ] || continue
    for argument; do
      case " $line " in *" $argument "*) ;; *) return 1 ;; esac
    done
  done <<< "$FK_FACT"
}

modprobe_config() { modprobe --showconfig | grep -E '^(install|blacklist) ' | tr - _; }

# module_blocked MODULE…: modprobe refuses them, udev does not ask, and none is loaded.
module_blocked() {
  local module name open='' loaded='' inside=''
  fact modprobe modprobe_config
  for module; do
    name=${module//-/_}
    case $FK_FACT in *$'\n'"install $name /bin/false"$'\n'*) ;; *) open+=" $module" ;; esac
    case $FK_FACT in *$'\n'"blacklist $name"$'\n'*) ;; *) open+=" $module" ;; esac
    [ ! -d "/sys/module/$name" ] || if [ -e "/sys/module/$name/initstate" ]; then loaded+=" $module"; else inside+=" $module"; fi
  done
  if [ -n "$open" ]; then
    echo "may be loaded:$open"
    return 1
  fi
  if [ -n "$FK_CONTAINER" ]; then
    echo "modprobe refuses $*; what is loaded is the host's matter"
  elif [ -n "$loaded" ]; then
    echo "modprobe refuses $*, but loaded since before:$loaded"
    exit 101
  elif [ "$inside" = " $*" ]; then
    na "built into this kernel:$inside"
  else
    echo "modprobe refuses $*; not loaded${inside:+; built into this kernel:$inside}"
  fi
}

mounts() { findmnt --raw --noheadings --output TARGET,OPTIONS; }

# mount_has DIRECTORY OPTIONS [if-mounted]: the mount that is on top there has all of them.
mount_has() {
  local target options found='' option missing=''
  fact mounts mounts
  while read -r target options; do
    if [ "$target" = "$1" ]; then found=$options; fi
  done <<< "$FK_FACT"
  if [ -z "$found" ]; then
    [ "${3-}" != if-mounted ] || na "$1 is not a mount of its own here"
    if [ -e "/etc/systemd/system/local-fs.target.wants/$(systemd-escape --path "$1").mount" ]; then
      echo "$1 becomes a mount of its own at the next start"
      exit 101
    fi
    echo "$1 is not a mount of its own"
    return 1
  fi
  for option in ${2//,/ }; do
    case ",$found," in *",$option,"*) ;; *) missing+=" $option" ;; esac
  done
  echo "$1: $found${missing:+ (without$missing)}"
  [ -z "$missing" ]
}

# mode_is MODE OWNERS PATH…: each path that exists has no more than MODE, and one of OWNERS (user:group,…); - allows any.
mode_is() {
  local mode=${1/#-/7777} owners=$2 path got owner said='' bad=''
  shift 2
  while read -r got owner path; do
    said+=" $path $got $owner"
    if (((8#$got & ~8#$mode) != 0)); then bad+=" $path"; fi
    case ",$owners," in ,-, | *",$owner,"*) ;; *) bad+=" $path" ;; esac
  done < <(stat --format='%a %U:%G %n' -- "$@" 2> /dev/null)
  [ -n "$said" ] || na "there is no $*"
  if [ -n "$bad" ]; then
    echo "more open than $mode $owners:$bad;$said"
    return 1
  fi
  echo "${said# }"
}

packages() { dpkg-query --show --showformat='${Package} ${db:Status-Status}\n'; }

package_present() {
  local package missing=''
  fact packages packages
  for package; do
    case $FK_FACT in *$'\n'"$package installed"$'\n'*) ;; *) missing+=" $package" ;; esac
  done
  echo "${missing:+not installed:$missing; }asked for: $*"
  [ -z "$missing" ]
}

package_absent() {
  local package there=''
  fact packages packages
  for package; do
    case $FK_FACT in *$'\n'"$package installed"$'\n'*) there+=" $package" ;; esac
  done
  echo "${there:+installed:$there; }looked for: $*"
  [ -z "$there" ]
}

# shellcheck disable=SC2086 # one word for each unit
units() { systemctl show --property=Id,LoadState,UnitFileState,ActiveState $FK_UNITS | tr '\n' ' ' | sed 's/  /\n/g'; }

# unit_is STATE UNIT…: enabled, active, on (both), masked, or off (neither enabled nor active; absent is off).
unit_is() {
  local state=$1 unit line bad='' said='' file active load
  shift
  fact units units
  for unit; do
    case $unit in *.*) ;; *) unit+=.service ;; esac
    load='' file='' active=''
    while read -r line; do
      case " $line " in *" Id=$unit "*)
        [[ $line =~ LoadState=([a-z-]*) ]] && load=${BASH_REMATCH[1]}
        [[ $line =~ UnitFileState=([a-z-]*) ]] && file=${BASH_REMATCH[1]}
        [[ $line =~ ActiveState=([a-z-]*) ]] && active=${BASH_REMATCH[1]}
        ;;
      esac
    done <<< "$FK_FACT"
    said+=" $unit ${load:-unknown}/${file:-no-file}/${active:-inactive}"
    case $state in
      enabled) [ "$file" = enabled ] || bad+=" $unit" ;;
      active) [ "$active" = active ] || bad+=" $unit" ;;
      on) if [ "$active" != active ] || [ "$file" != enabled ]; then bad+=" $unit"; fi ;;
      masked) [ "$load" = masked ] || bad+=" $unit" ;;
      off) if [ "$active" = active ] || [ "$file" = enabled ]; then bad+=" $unit"; fi ;;
    esac
  done
  echo "${bad:+not $state:$bad;}$said"
  [ -z "$bad" ]
}

sshd_effective() { sshd -T -C "user=${SUDO_USER:-nobody},host=admin.example,addr=192.0.2.1,laddr=192.0.2.2,lport=22"; }

# sshd_is KEY VALUE [KEY VALUE…]: what sshd would use for who is asking.
sshd_is() {
  local line bad='' said=''
  fact sshd sshd_effective
  while [ $# -gt 0 ]; do
    case $FK_FACT in *$'\n'"$1 $2"$'\n'*) ;; *) bad+=" $1" ;; esac
    while read -r line; do
      case $line in "$1 "*) said+="$line; " ;; esac
    done <<< "$FK_FACT"
    shift 2
  done
  echo "${bad:+other than wanted:$bad; }${said:-sshd -T says nothing}"
  [ -z "$bad" ]
}

audit_rules() { auditctl -l; }

# audit_has KEY…: every rule that is written down under the key is in the kernel.
audit_has() {
  local key line path wanted=0 syscalls=0 there missing=''
  [ -z "$FK_CONTAINER" ] || na "the audit of a kernel belongs to its host, not to this container"
  fact audit audit_rules
  for key; do
    syscalls=0
    while read -r line; do
      case "$line " in
        "-w "*" -k $key ")
          wanted=$((wanted + 1))
          path=${line#-w }
          path=${path%% *}
          path=${path%/}
          case $FK_FACT in *$'\n'"-w $path -p "*"$key"* | *$'\n'"-w $path/ -p "*"$key"*) ;; *)
            [ ! -d "${path%/*}" ] || case $FK_FACT in *"-F path=$path "* | *"-F dir=$path "* | *"-w ${path/#\/var\/run/\/run} "*) ;; *) missing+=" $path" ;; esac
            ;;
          esac
          ;;
        "-a "*" -k $key ")
          # auditctl refuses a rule about a program that is not there.
          path=${line#*-F path=}
          path=${path%% *}
          case $line in *'-F path='*) [ -e "$path" ] || continue ;; esac
          wanted=$((wanted + 1))
          syscalls=$((syscalls + 1))
          ;;
      esac
    done < <(cat /etc/audit/rules.d/*.rules)
    there=$(grep --count -E -- "^-a .*(key=|-k )$key\$" <<< "$FK_FACT") || there=0
    [ "$there" -ge "$syscalls" ] || missing+=" $((syscalls - there)) of $syscalls system call rules ($key)"
  done
  echo "$wanted rules wanted for $*${missing:+; not in the kernel:$missing}"
  [ -z "$missing" ] && [ "$wanted" -gt 0 ]
}

apt_settings() { apt-config dump; }

apt_is() {
  local line bad='' said=''
  fact apt apt_settings
  while [ $# -gt 0 ]; do
    case $FK_FACT in *$'\n'"$1 \"$2\";"$'\n'*) said+="$1 $2; " ;; *)
      bad+=" $1"
      while read -r line; do
        case $line in "$1 "*) said+="$line " ;; esac
      done <<< "$FK_FACT"
      ;;
    esac
    shift 2
  done
  echo "${bad:+other than wanted:$bad; }$said"
  [ -z "$bad" ]
}

# setting_is FILE NAME VALUE [NAME VALUE…]: the last line of FILE that sets NAME, by a space or =, sets VALUE.
setting_is() {
  local file=$1 name value line rest found bad='' said=''
  shift
  [ -r "$file" ] || {
    echo "there is no $file"
    return 1
  }
  while [ $# -gt 0 ]; do
    name=$1 value=$2 found=''
    shift 2
    while IFS=$' \t=' read -r line rest; do
      if [ "$line" = "$name" ]; then found=${rest:-yes}; fi
    done < "$file"
    said+="$name=${found:-unset} "
    [ "$found" = "$value" ] || bad+=" $name"
  done
  echo "$said${bad:+(other than wanted:$bad)}"
  [ -z "$bad" ]
}

# One walk over the disk for all who ask: set-id files (s), nobody's files (u), directories and files open to everyone (w, f).
walk() {
  find / -xdev \( -path /proc -o -path /sys -o -path /var/lib/fortress -o -path /var/lib/rancher -o -path /var/lib/containerd \
    -o -path /var/lib/machines -o -path /var/lib/libvirt/images \) -prune -o \
    \( -type f -perm /6000 -printf 's %p\n' -o -nouser -printf 'u %p\n' -o -nogroup -printf 'u %p\n' \
    -o -type d -perm -0002 ! -perm -1000 -printf 'w %p\n' -o -type f -perm -0002 -printf 'f %p\n' \)
}

# walked KIND: prints the paths of one kind; holds when there are none.
walked() {
  local kind path all=''
  fact walk walk
  while read -r kind path; do
    if [ "$kind" = "$1" ]; then all+=" $path"; fi
  done <<< "$FK_FACT"
  echo "${all:-none}"
  [ -z "$all" ]
}

# all_of QUESTION…: every one holds; those that do not apply are left out, and all of them together do not apply when none does.
all_of() {
  local question said='' rc applied='' bad=''
  for question; do
    rc=0
    said+="${said:+; }$(eval "$question")" || rc=$?
    case $rc in 0) applied=yes ;; 100) ;; *) bad=yes ;; esac
  done
  echo "$said"
  [ -z "$bad" ] || return 1
  [ -n "$applied" ] || exit 100
}

# privileged_rules: an audit rule for each set-id file that walk, on standard input, has found.
privileged_rules() { awk '$1 == "s" { print "-a always,exit -F path=" $2 " -F perm=x -F auid>=1000 -F auid!=unset -k privileged" }' | LC_ALL=C sort; }
export -f walk privileged_rules

# Lists of what is not as it should be: one word for the question and for its cure.
system_shells() { awk -F : '$3 < 1000 && $1 != "root" && $7 !~ /(\/nologin|\/bin\/sync|\/sbin\/shutdown|\/sbin\/halt)$/ { print $1 }' /etc/passwd; }
clear_swaps() { swapon --noheadings --raw --show=NAME | grep --invert-match --extended-regexp '^/dev/(zram|dm-|mapper/)' || [ $? -eq 1 ]; }
shm_lines() { awk '$1 !~ /^#/ && $2 == "/dev/shm"' "$1"; }
endless_passwords() { awk -F : '$2 !~ /^[!*]/ && $2 != "" && ($5 == "" || $5 > 365) { print $1 }' /etc/shadow; }
open_logs() { find /var/log -xdev -type f -perm /0137 ! -name 'wtmp*' ! -name 'btmp*' ! -name 'lastlog*' ! -name '*.journal*'; }

# open_homes: homes that others read or write, and the files in them that shells start with.
open_homes() {
  awk -F : '$3 >= 1000 && $3 < 65534 { print $6 }' /etc/passwd | while IFS= read -r home; do
    [ -d "$home" ] || continue
    find "$home" -maxdepth 0 -perm /0027
    find "$home" -maxdepth 1 -type f -name '.*' -perm /0037
  done
}

# slack_profiles PATTERN: files of AppArmor profiles whose flags match, and that are not disabled.
slack_profiles() {
  local path
  { grep --directories=skip --files-with-matches --extended-regexp -e "$1" /etc/apparmor.d/* || true; } | while IFS= read -r path; do
    [ -e "/etc/apparmor.d/disable/${path##*/}" ] || echo "$path"
  done
}
export -f system_shells shm_lines clear_swaps endless_passwords open_logs open_homes slack_profiles

# The checks of config/k3s/cis.yaml, beside lib/host/controls.sh and lib/k3s/members.sh: how the components of k3s run, what its
# API holds, and what it refuses. Everything is read-only; a pod that should be refused is sent as a dry run.

# cis_up PORT…: what k3s starts has started, by the ports that it listens at: that a Node is there says nothing of this start.
cis_up() {
  local port
  for port; do
    cis_listens "$port" || k3s_no "nobody listens at port $port" || return
  done
}

cis_listens() { (: < "/dev/tcp/127.0.0.1/$1") 2> /dev/null; }

# cis_started: one line for each part of k3s that this run of the unit has started: its name and its arguments.
cis_started() {
  local id start
  id=$(systemctl show --property=InvocationID --value k3s.service)
  [ -n "$id" ] || return
  # It says so when it starts, and its journal may be long.
  start=$(systemctl show --timestamp=unix --property=ExecMainStartTimestamp --value k3s.service)
  journalctl --quiet --output=cat --until="@$((${start#@} + 900))" "_SYSTEMD_INVOCATION_ID=$id" |
    sed --quiet 's/^.*msg="Running \([a-z-]*\) \(--.*\)"$/\1 \2/p'
}

# cis_flagz [WORD...]: the live flags of a part, as name=value. How the page parts names from values changes with each start.
cis_flagz() {
  k3s_kubectl get --raw /flagz --request-timeout=10s "$@" 2> /dev/null |
    sed --quiet '/flagz$/,/^Warning:/d; s/^\([A-Za-z0-9_.-]*\)\(: \|[:= ]\)\(.*\)$/\1=\3/p' | sed 's/=\[\(.*\)\]$/=\1/' | grep .
}

# cis_flags PART: what its flags are, behind a line that says from where that is known.
cis_flags() {
  local said=''
  case $1 in
    kube-apiserver) said=$(cis_flagz) || said='' ;;
    # They show certificates of the cluster's own authority, as the API server does.
    kube-controller-manager) said=$(cis_flagz --server=https://127.0.0.1:10257) || said='' ;;
    kube-scheduler) said=$(cis_flagz --server=https://127.0.0.1:10259) || said='' ;;
  esac
  if [ -n "$said" ]; then
    printf '@its /flagz\n%s\n' "$said"
    return
  fi
  cis_begun "$1"
}

# cis_name: as whom the cluster knows this node.
cis_name() {
  local said
  said=$(k3s_self auth whoami --output jsonpath='{.status.userInfo.username}' --request-timeout=10s 2> /dev/null) || return
  printf '%s\n' "${said#system:node:}"
}

# cis_words: what k3s was told when it started, in files and on its command line, as name=value; it writes that to its Node.
cis_words() {
  local name
  name=$(cis_name) || return
  k3s_self get node "$name" --output jsonpath='{.metadata.annotations.k3s\.io/node-args}' --request-timeout=10s 2> /dev/null |
    cis_json |
    awk '{ sub(/^=/, "") } name != "" { print name "=" $0; name = ""; next } sub(/^--/, "") { name = $0 }'
}

# cis_begun PART: its arguments, behind a line that says who tells of them: the journal, to which k3s writes them when it starts
# it, or else its Node, with those that k3s was given for it. The journal forgets what is old, and drops what comes too fast.
cis_begun() {
  local said
  fact started cis_started
  said=$(awk -v part="$1" '
    $1 == part { line = $0 }
    END { n = split(line, words, " "); for (i = 2; i <= n; i++) { sub(/^--/, "", words[i]); print words[i] } }' <<< "$FK_FACT")
  if [ -n "$said" ]; then
    printf '@the journal\n%s\n' "$said"
    return
  fi
  fact words cis_words
  if [ "$FK_FACT" != $'\n\n' ]; then printf '@its Node\n%s\n' "$(sed --quiet "s/^$1-arg=//p" <<< "$FK_FACT")"; fi
}

# cis_json: JSON as lines path=value; what is in a list has the path of the list.
cis_json() {
  awk '
    { text = text $0 }
    function word(  from, c) {
      from = ++at
      while ((c = substr(text, at, 1)) != "\"") at += c == "\\" ? 2 : 1
      return substr(text, from, at++ - from)
    }
    function value(path,  c, key, from) {
      space()
      c = substr(text, at, 1)
      if (c == "{" || c == "[") {
        at++
        for (;;) {
          space()
          if (substr(text, at, 1) ~ /[]}]/) { at++; return }
          if (substr(text, at, 1) == ",") { at++; continue }
          if (at > length(text)) return
          if (c == "{") { key = word(); space(); at++; value(path == "" ? key : path "." key) } else value(path)
        }
      }
      if (c == "\"") { print path "=" word(); return }
      from = at
      while (at <= length(text) && substr(text, at, 1) !~ /[],} \t]/) at++
      print path "=" substr(text, from, at - from)
    }
    function space() { while (substr(text, at, 1) ~ /[ \t]/) at++ }
    END { at = 1; if (text ~ /[^ \t]/) value("") }'
}

# cis_yaml: YAML of blocks as lines path=value, in the same way; enough for what k3s writes.
cis_yaml() {
  awk '
    /^[ \t]*(#|---|$)/ { next }
    {
      match($0, /^ */); column = RLENGTH; text = substr($0, column + 1)
      item = sub(/^- +/, "", text)
      while (depth > 0 && (columns[depth] > column || (columns[depth] == column && !item))) depth--
      path = depth > 0 ? paths[depth] : ""
      if (!item && match(text, /^[^ :]+:( |$)/)) {
        key = substr(text, 1, RLENGTH); sub(/:.?$/, "", key)
        text = substr(text, RLENGTH + 1)
        path = path == "" ? key : path "." key
        if (text == "") { paths[++depth] = path; columns[depth] = column; next }
      }
      gsub(/^ +| +$/, "", text); gsub(/^["\047]|["\047]$/, "", text)
      print path "=" text
    }'
}

# The names that settings of the kubelet have as flags, and in its configuration.
CIS_KUBELET='anonymous-auth authentication.anonymous.enabled authorization-mode authorization.mode
  client-ca-file authentication.x509.clientCAFile read-only-port readOnlyPort
  streaming-connection-idle-timeout streamingConnectionIdleTimeout make-iptables-util-chains makeIPTablesUtilChains
  event-qps eventRecordQPS tls-cert-file tlsCertFile tls-private-key-file tlsPrivateKeyFile rotate-certificates rotateCertificates
  tls-cipher-suites tlsCipherSuites pod-max-pids podPidsLimit seccomp-default seccompDefault'

# cis_kubelet_names: lines path=value of a configuration as lines flag=value; the values of a list in one line.
cis_kubelet_names() {
  awk -v names="$CIS_KUBELET" '
    BEGIN { n = split(names, words, /[ \n]+/); for (i = 1; i < n; i += 2) flag[words[i + 1]] = words[i] }
    {
      at = index($0, "="); path = substr($0, 1, at - 1); value = substr($0, at + 1); sub(/^kubeletconfig\./, "", path)
      if (sub(/^featureGates\./, "", path)) { value = path "=" value; name = "feature-gates" }
      else if (path in flag) name = flag[path]
      else next
      if (name in said) value = said[name] "," value
      said[name] = value
    }
    END { for (name in said) print name "=" said[name] }'
}

# cis_kubelet_told: what the kubelet was told: by files that k3s writes for it, and by arguments, which go before them.
cis_kubelet_told() {
  local path flags
  flags=$(cis_begun kubelet)
  [ -n "$flags" ] || return
  printf '%s and %s\n' "${flags%%$'\n'*}" "$K3S_DATA/agent/etc/kubelet.conf.d"
  for path in "$K3S_DATA"/agent/etc/kubelet.conf.d/*.conf; do
    [ ! -e "$path" ] || cis_yaml < "$path" | cis_kubelet_names
  done
  tail --lines=+2 <<< "$flags"
}

# cis_kubelet: what the kubelet has made of it; a server may ask it, an agent knows what it was told.
cis_kubelet() {
  local node live=''
  node=$(cis_name) || node=''
  [ -z "$node" ] ||
    live=$(k3s_kubectl get --raw "/api/v1/nodes/$node/proxy/configz" --request-timeout=10s 2> /dev/null |
      cis_json | cis_kubelet_names) || live=''
  if [ -n "$live" ]; then printf '@its /configz\n%s\n' "$live"; else cis_kubelet_told; fi
}

# cis_etcd: what k3s has told its etcd.
cis_etcd() {
  [ -r "$K3S_DATA/server/db/etcd/config" ] || return
  printf '@%s\n' "$K3S_DATA/server/db/etcd/config"
  cis_yaml < "$K3S_DATA/server/db/etcd/config"
}

# cis_value NAME: FK_VALUE is what FK_FACT says of it: the last word counts, as with flags. Unset is empty.
cis_value() {
  local line
  FK_VALUE=''
  while IFS= read -r line; do
    case $line in "$1="*) FK_VALUE=${line#"$1="} ;; esac
  done <<< "$FK_FACT"
}

# cis_seconds DURATION: 1h2m3s and the like in seconds; less than a second is none.
cis_seconds() {
  local left=$1 seconds=0
  while [[ $left =~ ^([0-9]+)(\.[0-9]+)?(h|ms|m|s)(.*)$ ]]; do
    case ${BASH_REMATCH[3]} in
      h) seconds=$((seconds + BASH_REMATCH[1] * 3600)) ;;
      m) seconds=$((seconds + BASH_REMATCH[1] * 60)) ;;
      s) seconds=$((seconds + BASH_REMATCH[1])) ;;
    esac
    left=${BASH_REMATCH[4]}
  done
  case $left in '') ;; *[!0-9]*) seconds=-1 ;; *) seconds=$left ;; esac
  echo "$seconds"
}

# cis_fits OPERATOR WANTED VALUE: an empty value is one that is not set.
cis_fits() {
  local one
  case $1 in
    is) [ -n "$3" ] && case "|$2|" in *"|$3|"*) ;; *) return 1 ;; esac ;;
    unset-or) [ -z "$3" ] || cis_fits is "$2" "$3" ;;
    set) [ -n "$3" ] ;;
    absent) [ -z "$3" ] ;;
    has) case ",$3," in *",$2,"*) ;; *) return 1 ;; esac ;;
    has-not) case ",$3," in *",$2,"*) return 1 ;; esac ;;
    at-least) [[ $3 =~ ^-?[0-9]+$ ]] && [ "$3" -ge "$2" ] ;;
    at-most) [[ $3 =~ ^-?[0-9]+$ ]] && [ "$3" -le "$2" ] ;;
    lasts) one=$(cis_seconds "${3:-no}") && [ "$one" -ge "${2%-*}" ] && [ "$one" -le "${2#*-}" ] ;;
    only)
      [ -n "$3" ] || return
      for one in ${3//,/ }; do
        case ",$2," in *",$one,"*) ;; *) return 1 ;; esac
      done
      ;;
    *) return 1 ;;
  esac
}

# cis_are WHAT NAME OPERATOR WANTED [NAME OPERATOR WANTED…]: FK_FACT says so. What nobody can tell does not hold.
cis_are() {
  local what=$1 bad='' said='' source
  shift
  [[ $FK_FACT =~ $'\n@'([^$'\n']*) ]] || {
    echo "nothing tells how $what runs: neither itself, nor the journal of this start, nor its Node"
    return 1
  }
  source=${BASH_REMATCH[1]}
  while [ $# -gt 0 ]; do
    cis_value "$1"
    case $said in *"$1="*) ;; *) said+="$1=${FK_VALUE:-unset} " ;; esac
    cis_fits "$2" "$3" "$FK_VALUE" || bad+=" $1 $2 ${3//,/, };"
    shift 3
  done
  echo "$said(by $source)${bad:+; wanted:${bad%;}}"
  [ -z "$bad" ]
}

arg_is() {
  fact "flags.$1" cis_flags "$1"
  cis_are "$@"
}

kubelet_is() {
  fact kubelet cis_kubelet
  cis_are kubelet "$@"
}

# told_is PART …: by what it was told when it was started, where its own answer leaves that out.
told_is() {
  if [ "$1" = kubelet ]; then fact told.kubelet cis_kubelet_told; else fact "told.$1" cis_begun "$1"; fi
  cis_are "$@"
}

etcd_is() {
  [ ! -e "$K3S_DATA/server/db/state.db" ] || na 'the datastore is SQLite, not etcd'
  fact etcd cis_etcd
  cis_are etcd "$@"
}

# cis_known PART...: the parts can be asked at all: the API as a whole, etcd by its configuration, others by their flags.
cis_known() {
  local part
  for part; do
    if [ "$part" = api ]; then
      cis_api space || return
      echo 'the API answers'
      continue
    fi
    case $part in etcd) fact etcd cis_etcd ;; kubelet) fact kubelet cis_kubelet ;; *) fact "flags.$part" cis_flags "$part" ;; esac
    [[ $FK_FACT =~ $'\n@'([^$'\n']*) ]] || k3s_no "nothing tells how $part runs: is k3s up, and does the API answer?" || return
    printf '%s tells of %s\n' "${BASH_REMATCH[1]}" "$part"
  done
}

# tree_is MODE OWNERS DIRECTORY PATTERN: everything below with such a name; - allows any mode, or any owner.
tree_is() {
  local paths
  mapfile -t paths < <(find "$3" -xdev -name "$4" ! -type l 2> /dev/null | LC_ALL=C sort)
  [ ${#paths[@]} -gt 0 ] || na "there is no $4 below $3"
  mode_is "$1" "$2" "${paths[@]}" > "$FK_TMP/tree" && echo "${#paths[@]} paths below $3" || {
    sed 's/;.*//' "$FK_TMP/tree"
    return 1
  }
}

# cis_file FLAG: the file that a flag of the API server names.
cis_file() {
  fact flags.kube-apiserver cis_flags kube-apiserver
  cis_value "$1"
  [ -n "$FK_VALUE" ] || k3s_no "--$1 is not set" || return
  [ -r "$FK_VALUE" ] || k3s_no "--$1: there is no $FK_VALUE"
}

# encrypted_by PROVIDER...: what is written, is written by the first provider of each list.
encrypted_by() {
  local first
  cis_file encryption-provider-config || return
  # In a list of providers each is an object of one key; the first of each list is what new data is written with.
  first=$(tr --delete ' \n\t' < "$FK_VALUE" | grep --only-matching '"providers":\[{"[a-z]*"' |
    sed 's/.*{"//; s/"$//' | sort --unique | tr '\n' ' ')
  echo "new data is written with: ${first:-nothing that could be read}"
  [ -n "$first" ] || return 1
  for first in $first; do
    case " $* " in *" $first "*) ;; *) return 1 ;; esac
  done
}

# audit_covers RESOURCE...: the policy has a rule for each, and at its end one for everything else.
audit_covers() {
  local resource missing=''
  cis_file audit-policy-file || return
  for resource; do
    grep --word-regexp --fixed-strings -e "$resource" <(grep --invert-match '^ *#' "$FK_VALUE") > /dev/null ||
      missing+=" $resource"
  done
  [ "$(grep . "$FK_VALUE" | tail --lines=1 | tr --delete ' ')" = '-level:Metadata' ] || missing+=' what no other rule names'
  echo "$FK_VALUE${missing:+ says nothing about$missing}"
  [ -z "$missing" ]
}

# own_authority: who may speak to etcd is signed by nobody who signs for the rest of the cluster.
own_authority() {
  local path other shared=''
  for path in "$K3S_DATA"/server/tls/etcd/{peer,server}-ca.crt; do
    [ -r "$path" ] || k3s_no "there is no $path" || return
    for other in "$K3S_DATA"/server/tls/{client,server,request-header}-ca.crt; do
      ! cmp --quiet "$path" "$other" || shared+=" $path is $other"
    done
  done
  echo "${shared:-the authorities of etcd are its own}"
  [ -z "$shared" ]
}

# cis_objects: what the API holds, asked in one go: rights, who has them, pods, accounts, namespaces and their policies, one line
# each, behind a word for what it is; fields are parted by tabs.
# shellcheck disable=SC2016 # the variables are those of the template
cis_objects() {
  local name='{{if .metadata.namespace}}{{.metadata.namespace}}/{{end}}{{.metadata.name}}' container template
  container='pod{{"\t"}}{{$pod}}{{"\t"}}{{$in}}{{"\t"}}
    {{- range $key, $value := .securityContext}}
      {{- if eq $key "privileged" "allowPrivilegeEscalation" "runAsNonRoot" "procMount"}}{{$key}}={{$value}},{{end}}
      {{- if eq $key "capabilities"}}{{range .add}}add={{.}},{{end}}{{range .drop}}drop={{.}},{{end}}{{end}}
      {{- if eq $key "windowsOptions"}}{{if .hostProcess}}hostProcess,{{end}}{{end}}
      {{- if eq $key "seccompProfile"}}seccomp={{.type}},{{end}}
    {{- end}}
    {{- range .ports}}{{if .hostPort}}hostPort,{{end}}{{end}}
    {{- range .env}}{{if .valueFrom}}{{if .valueFrom.secretKeyRef}}secret,{{end}}{{end}}{{end}}
    {{- range .envFrom}}{{if .secretRef}}secret,{{end}}{{end}}
    {{- "\n"}}'
  template='{{range .items}}
      {{- if eq .kind "ClusterRole" "Role"}}
        {{- $of := .}}{{$by := "none"}}
        {{- range $key, $value := .metadata.labels}}
          {{- if eq $key "kubernetes.io/bootstrapping"}}{{$by = $value}}{{end}}
        {{- end}}
        {{- range .rules -}}
          rule{{"\t"}}{{with $of}}'$name'{{end}}{{"\t"}}{{$by}}{{"\t"}}
          {{- range .verbs}}{{.}},{{end}}
          {{- "\t"}}
          {{- range .resources}}{{.}},{{end}}
          {{- "\t"}}
          {{- range .apiGroups}}{{.}},{{end}}
          {{- "\n"}}
        {{- end}}
      {{- end}}
      {{- if eq .kind "ClusterRoleBinding" "RoleBinding"}}
        {{- $of := .}}
        {{- range .subjects -}}
          binding{{"\t"}}{{with $of}}'$name'{{"\t"}}{{.roleRef.name}}{{end}}{{"\t"}}{{.kind}}{{"\t"}}{{.name}}{{"\n"}}
        {{- end}}
      {{- end}}
      {{- if eq .kind "Pod"}}
        {{- $in := ""}}{{$pod := printf "%s/%s" .metadata.namespace .metadata.name}}{{$of := .spec}}
        {{- range $key, $value := .spec}}
          {{- if eq $key "hostPID" "hostIPC" "hostNetwork"}}{{if $value}}{{$in = printf "%s%s," $in $key}}{{end}}{{end}}
          {{- if eq $key "securityContext"}}
            {{- range $name, $set := $value}}
              {{- if eq $name "runAsNonRoot"}}{{$in = printf "%spod.%s=%v," $in $name $set}}{{end}}
              {{- if eq $name "seccompProfile"}}{{$in = printf "%spod.seccomp=%v," $in $set.type}}{{end}}
              {{- if eq $name "windowsOptions"}}{{if $set.hostProcess}}{{$in = printf "%shostProcess," $in}}{{end}}{{end}}
            {{- end}}
          {{- end}}
        {{- end}}
        {{- range .spec.volumes}}
          {{- if .hostPath}}{{$in = printf "%shostPath," $in}}{{end}}
          {{- if .projected}}
            {{- range .projected.sources}}
              {{- if .serviceAccountToken}}{{$in = printf "%stoken-of-%s," $in $of.serviceAccountName}}{{end}}
            {{- end}}
          {{- end}}
        {{- end}}
        {{- range .spec.containers}}'$container'{{end}}
        {{- range .spec.initContainers}}'$container'{{end}}
        {{- range .spec.ephemeralContainers}}'$container'{{end}}
      {{- end}}
      {{- if eq .kind "ServiceAccount"}}
        {{- if eq .metadata.name "default" -}}
          account{{"\t"}}{{.metadata.namespace}}{{"\t"}}{{.automountServiceAccountToken}}{{"\n"}}
        {{- end}}
      {{- end}}
      {{- if eq .kind "Namespace"}}
        {{- if not .metadata.deletionTimestamp}}space{{"\t"}}{{.metadata.name}}{{"\n"}}{{end}}
      {{- end}}
      {{- if eq .kind "NetworkPolicy"}}policy{{"\t"}}{{.metadata.namespace}}{{"\n"}}{{end}}
    {{- end}}'
  k3s_kubectl get clusterroles,roles,clusterrolebindings,rolebindings,pods,serviceaccounts,namespaces,networkpolicies \
    --all-namespaces --output "go-template=$template" && echo @the API
}

# cis_api WORD: FK_FACT are the lines behind this word; the API must have answered, whole.
cis_api() {
  fact objects cis_objects
  case $FK_FACT in *$'\n@the API\n') ;; *)
    echo "the API does not answer: $(k3s_kubectl get --raw /readyz 2>&1 | tail --lines=1)"
    return 1
    ;;
  esac
  FK_FACT=$(sed --quiet "s/^$1\t//p" <<< "$FK_FACT")
}

# cis_none WHAT LINES: prints them; holds when there are none.
cis_none() {
  local found
  found=$(grep . <<< "$2" | sort --unique | head --lines=20 | tr '\n' ' ') || true # there is none
  echo "$1: ${found:-none}"
  [ -z "$found" ]
}

# granted VERBS RESOURCES [ROLE…]: nobody has made a role with one of these verbs on one of them, but for ROLE…. What Kubernetes
# itself comes with does not count: the API server sets it right at each start.
granted() {
  local verbs=$1 resources=$2
  shift 2
  cis_api rule || return
  cis_none "roles that may ${verbs//,/ or } ${resources//,/ or }" "$(cis_own_rules "$@" |
    awk -F '\t' -v verbs="$verbs" -v resources="$resources" '
    {
      verb = index("," $3, ",*,")
      n = split(verbs, words, ",")
      for (i = 1; i <= n; i++) if (index("," $3, "," words[i] ",")) verb = 1
      if (!verb) next
      if (index("," $4, ",*,")) { print $1; next }
      n = split(resources, words, ",")
      for (i = 1; i <= n; i++) {
        part = words[i]
        if (index("," $4, "," part ",") || (sub(/^.*\//, "", part) && index("," $4, ",*/" part ","))) { print $1; next }
      }
    }')"
}

# wildcards [ROLE…]: nobody has made a role that says * for verbs, resources or groups, but for ROLE….
wildcards() {
  cis_api rule || return
  cis_none 'roles with *' "$(cis_own_rules "$@" |
    awk -F '\t' 'index("," $3, ",*,") || index("," $4, ",*,") || index("," $5, ",*,") { print $1 }')"
}

# cis_own_rules [ROLE…]: the rules of FK_FACT, without those of Kubernetes itself and of ROLE….
cis_own_rules() {
  awk -F '\t' -v but=" $* " '
    NF < 5 || index(but, " " $1 " ") { next }
    $2 == "rbac-defaults" && $1 ~ /(^|\/)(system:.*|extension-apiserver-authentication-reader)$/ { next }
    $2 == "rbac-defaults" && $1 ~ /(^|\/)(cluster-admin|admin|edit|view)$/ { next }
    { print }' <<< "$FK_FACT"
}

# bound_to ROLE [BINDING…]: nobody is bound to it but by BINDING….
bound_to() {
  local role=$1
  shift
  cis_api binding || return
  cis_none "bound to $role" "$(awk -F '\t' -v role="$role" -v but=" $* " '
    $2 == role && !index(but, " " $1 " ") { print $1 }' <<< "$FK_FACT")"
}

# bound_group GROUP [BINDING…]: the group has rights by nothing but BINDING….
bound_group() {
  local group=$1
  shift
  cis_api binding || return
  cis_none "bindings of $group" "$(awk -F '\t' -v group="$group" -v but=" $* " '
    $3 == "Group" && $4 == group && !index(but, " " $1 " ") { print $1 }' <<< "$FK_FACT")"
}

# cis_reviews: whether an account that has nothing but a name may do what CIS names, one line each.
cis_reviews() {
  local what=''
  for what in get.secrets list.secrets watch.secrets create.pods; do
    printf '{"apiVersion":"authorization.k8s.io/v1","kind":"SubjectAccessReview","spec":{"user":"nobody",'
    printf '"groups":["system:authenticated","system:serviceaccounts"],'
    printf '"resourceAttributes":{"verb":"%s","resource":"%s"}}}\n' "${what%.*}" "${what#*.}"
  done | k3s_kubectl create --filename=- --output \
    jsonpath='{.spec.resourceAttributes.verb} {.spec.resourceAttributes.resource} {.status.allowed}{"\n"}'
}

# nobody_may VERBS RESOURCE: who has nothing but an account may not do it, in any namespace.
nobody_may() {
  local verb
  fact reviews cis_reviews
  for verb in ${1//,/ }; do
    case $FK_FACT in
      *$'\n'"$verb $2 false"*) ;;
      *$'\n'"$verb $2 true"*) k3s_no "an account without rights may $verb $2" || return ;;
      *) k3s_no 'the API does not answer' || return ;;
    esac
  done
  echo "an account without rights may not ${1//,/ or } $2"
}

# quiet_accounts: no default service account mounts its token, and every namespace has one.
quiet_accounts() {
  local spaces space
  cis_api space || return
  spaces=$FK_FACT
  cis_api account || return
  for space in $spaces; do
    grep --quiet "^$space"$'\t' <<< "$FK_FACT" ||
      k3s_no "$space has no account called default: the controller manager has not created it" || return
  done
  cis_none 'default accounts whose token is mounted unasked, in' "$(awk '$2 != "false" { print $1 }' <<< "$FK_FACT")"
}

# cis_pods_with MARK [NAMESPACE…]: pods outside of those namespaces, with a mark of cis_objects in any container.
cis_pods_with() {
  local mark=$1
  shift
  awk -F '\t' -v mark="$mark" -v but=" $* " '
    function set(word) { return index(has, "," word ",") > 0 }
    NF < 3 { next }
    { split($1, at, "/"); if (index(but, " " at[1] " ")) next; of = "," tolower($2); has = "," tolower($3) }
    mark == "escalation" { if (!set("allowprivilegeescalation=false")) print $1; next }
    mark == "root" {
      if (!set("runasnonroot=true") && !(of ~ /,pod.runasnonroot=true,/ && !set("runasnonroot=false"))) print $1
      next
    }
    mark == "capabilities" { if (!set("drop=all")) print $1; next }
    mark == "netraw" { if (set("add=net_raw") || set("add=all")) print $1; next }
    mark == "unconfined" {
      if (set("seccomp=unconfined") || (of ~ /,pod.seccomp=unconfined,/ && has !~ /,seccomp=/)) print $1
      next
    }
    mark == "token" { if (of ~ /,token-of-default,/) print $1; next }
    set(mark) || set(mark "=true") || set(mark "=unmasked") || index(of, "," mark ",") { print $1 }' <<< "$FK_FACT"
}

# without MARK [NAMESPACE…]: no pod outside of those namespaces has it.
without() {
  cis_api pod || return
  cis_none "pods with $1${2:+, but for those in ${*:2}}" "$(cis_pods_with "$@")"
}

# cis_offered: each pod of config/k3s/refused.yaml as a dry run, and what the API says to it.
cis_offered() {
  k3s_kubectl create --dry-run=server --filename=- --namespace=default <<< "$CIS_PODS" 2>&1 || true # most are refused
  echo @the API
}

# refuses POD: the API refuses it for its security, and takes the pod that asks for nothing.
refuses() {
  local said
  fact offered cis_offered
  case $FK_FACT in *$'\n'"pod/tame created"*) ;; *)
    said=$(grep tame <<< "$FK_FACT" || grep . <<< "$FK_FACT" | tail --lines=2) || true # it may have said nothing
    echo "the API does not even take a pod that asks for nothing: $said"
    return 1
    ;;
  esac
  said=$(grep --fixed-strings "pods \"$1\" is forbidden: violates PodSecurity" <<< "$FK_FACT") ||
    k3s_no "it would take a pod with $1" || return
  echo "it is refused: ${said#*violates }"
}

# refused POD [NAMESPACE…]: the API refuses it, and nothing like it runs outside of these namespaces.
refused() { refuses "$1" && without "$@"; }

# cis_secrets: namespace, name and type of every Secret, as the API prints them: what is in them stays there.
cis_secrets() { k3s_kubectl get secrets --all-namespaces --no-headers 2>&1 && echo @the API; }

# no_secret TYPE: there is none of it in any namespace.
no_secret() {
  fact secrets cis_secrets
  case $FK_FACT in *$'@the API\n') ;; *) k3s_no 'the API does not answer' || return ;; esac
  cis_none "Secrets of type $1" "$(awk -v type="$1" '$3 == type { print $1 "/" $2 }' <<< "$FK_FACT")"
}

# ending_tokens: every token that lets a node in ends by itself.
ending_tokens() {
  local said
  if no_secret bootstrap.kubernetes.io/token; then return; fi
  said=$(k3s_kubectl get secrets --namespace=kube-system --field-selector type=bootstrap.kubernetes.io/token --output \
    go-template='{{range .items}}{{if not .data.expiration}}{{.metadata.name}}{{"\n"}}{{end}}{{end}}@' 2>&1)
  case $said in
    *@) cis_none 'tokens to join with that never end' "${said%@}" ;;
    *) k3s_no "the API does not answer: $said" ;;
  esac
}

# policed [NAMESPACE…]: every other namespace has a NetworkPolicy.
policed() {
  local spaces space open=''
  cis_api space || return
  spaces=$FK_FACT
  cis_api policy || return
  for space in $spaces; do
    case " $* ${FK_FACT//$'\n'/ } " in *" $space "*) ;; *) open+="$space"$'\n' ;; esac
  done
  cis_none 'namespaces without a NetworkPolicy' "$open"
}

# unused_default: in the namespace default there is nothing but what Kubernetes puts there.
unused_default() {
  local said
  said=pods,services,deployments,daemonsets,statefulsets,jobs,cronjobs,configmaps,secrets,persistentvolumeclaims
  said=$(k3s_kubectl get "$said" --namespace=default --output name 2>&1) || k3s_no "the API does not answer: $said" || return
  cis_none 'in the namespace default' "$(grep --invert-match --line-regexp --extended-regexp \
    'service/kubernetes|configmap/kube-root-ca.crt|' <<< "$said")"
}

# proxy_is_local: there is no kube-proxy, by the journal and by the ports of its metrics and its health, 10249 and 10256; else
# what it listens on for metrics is this machine alone.
proxy_is_local() {
  fact started cis_started
  case $FK_FACT in
    *$'\nkube-proxy '*) ;;
    *) cis_listens 10249 || cis_listens 10256 || na 'there is no kube-proxy: Cilium does its work' ;;
  esac
  arg_is kube-proxy metrics-bind-address unset-or '127.0.0.1|127.0.0.1:10249|[::1]:10249'
}

CIS_PODS='{"apiVersion":"v1","kind":"List","items":[{"apiVersion":"v1","kind":"Pod","metadata":{"name":"tame"},"spec":{"automountServiceAccountToken":false,"securityContext":{"runAsNonRoot":true,"seccompProfile":{"type":"RuntimeDefault"}},"containers":[{"name":"tame","image":"registry.invalid/tame","securityContext":{"allowPrivilegeEscalation":false,"capabilities":{"drop":["ALL"]}}}]}},{"apiVersion":"v1","kind":"Pod","metadata":{"name":"privileged"},"spec":{"automountServiceAccountToken":false,"securityContext":{"runAsNonRoot":true,"seccompProfile":{"type":"RuntimeDefault"}},"containers":[{"name":"tame","image":"registry.invalid/tame","securityContext":{"allowPrivilegeEscalation":true,"capabilities":{"drop":["ALL"]},"privileged":true}}]}},{"apiVersion":"v1","kind":"Pod","metadata":{"name":"hostpid"},"spec":{"automountServiceAccountToken":false,"securityContext":{"runAsNonRoot":true,"seccompProfile":{"type":"RuntimeDefault"}},"hostPID":true,"containers":[{"name":"tame","image":"registry.invalid/tame","securityContext":{"allowPrivilegeEscalation":false,"capabilities":{"drop":["ALL"]}}}]}},{"apiVersion":"v1","kind":"Pod","metadata":{"name":"hostipc"},"spec":{"automountServiceAccountToken":false,"securityContext":{"runAsNonRoot":true,"seccompProfile":{"type":"RuntimeDefault"}},"hostIPC":true,"containers":[{"name":"tame","image":"registry.invalid/tame","securityContext":{"allowPrivilegeEscalation":false,"capabilities":{"drop":["ALL"]}}}]}},{"apiVersion":"v1","kind":"Pod","metadata":{"name":"hostnetwork"},"spec":{"automountServiceAccountToken":false,"securityContext":{"runAsNonRoot":true,"seccompProfile":{"type":"RuntimeDefault"}},"hostNetwork":true,"containers":[{"name":"tame","image":"registry.invalid/tame","securityContext":{"allowPrivilegeEscalation":false,"capabilities":{"drop":["ALL"]}}}]}},{"apiVersion":"v1","kind":"Pod","metadata":{"name":"escalation"},"spec":{"automountServiceAccountToken":false,"securityContext":{"runAsNonRoot":true,"seccompProfile":{"type":"RuntimeDefault"}},"containers":[{"name":"tame","image":"registry.invalid/tame","securityContext":{"allowPrivilegeEscalation":true,"capabilities":{"drop":["ALL"]}}}]}},{"apiVersion":"v1","kind":"Pod","metadata":{"name":"root"},"spec":{"automountServiceAccountToken":false,"securityContext":{"runAsNonRoot":true,"seccompProfile":{"type":"RuntimeDefault"}},"containers":[{"name":"tame","image":"registry.invalid/tame","securityContext":{"allowPrivilegeEscalation":false,"capabilities":{"drop":["ALL"]},"runAsNonRoot":false,"runAsUser":0}}]}},{"apiVersion":"v1","kind":"Pod","metadata":{"name":"netraw"},"spec":{"automountServiceAccountToken":false,"securityContext":{"runAsNonRoot":true,"seccompProfile":{"type":"RuntimeDefault"}},"containers":[{"name":"tame","image":"registry.invalid/tame","securityContext":{"allowPrivilegeEscalation":false,"capabilities":{"drop":["ALL"],"add":["NET_RAW"]}}}]}},{"apiVersion":"v1","kind":"Pod","metadata":{"name":"capabilities"},"spec":{"automountServiceAccountToken":false,"securityContext":{"runAsNonRoot":true,"seccompProfile":{"type":"RuntimeDefault"}},"containers":[{"name":"tame","image":"registry.invalid/tame","securityContext":{"allowPrivilegeEscalation":false,"capabilities":{"drop":["NET_RAW"]}}}]}},{"apiVersion":"v1","kind":"Pod","metadata":{"name":"hostprocess"},"spec":{"automountServiceAccountToken":false,"securityContext":{"runAsNonRoot":true,"seccompProfile":{"type":"RuntimeDefault"},"windowsOptions":{"hostProcess":true}},"hostNetwork":true,"containers":[{"name":"tame","image":"registry.invalid/tame","securityContext":{"allowPrivilegeEscalation":false,"capabilities":{"drop":["ALL"]}}}]}},{"apiVersion":"v1","kind":"Pod","metadata":{"name":"hostpath"},"spec":{"automountServiceAccountToken":false,"securityContext":{"runAsNonRoot":true,"seccompProfile":{"type":"RuntimeDefault"}},"volumes":[{"name":"host","hostPath":{"path":"/etc"}}],"containers":[{"name":"tame","image":"registry.invalid/tame","securityContext":{"allowPrivilegeEscalation":false,"capabilities":{"drop":["ALL"]}}}]}},{"apiVersion":"v1","kind":"Pod","metadata":{"name":"hostport"},"spec":{"automountServiceAccountToken":false,"securityContext":{"runAsNonRoot":true,"seccompProfile":{"type":"RuntimeDefault"}},"containers":[{"name":"tame","image":"registry.invalid/tame","securityContext":{"allowPrivilegeEscalation":false,"capabilities":{"drop":["ALL"]}},"ports":[{"containerPort":80,"hostPort":80}]}]}},{"apiVersion":"v1","kind":"Pod","metadata":{"name":"procmount"},"spec":{"automountServiceAccountToken":false,"securityContext":{"runAsNonRoot":true,"seccompProfile":{"type":"RuntimeDefault"}},"hostUsers":false,"containers":[{"name":"tame","image":"registry.invalid/tame","securityContext":{"allowPrivilegeEscalation":false,"capabilities":{"drop":["ALL"]},"procMount":"Unmasked"}}]}},{"apiVersion":"v1","kind":"Pod","metadata":{"name":"unconfined"},"spec":{"automountServiceAccountToken":false,"securityContext":{"runAsNonRoot":true,"seccompProfile":{"type":"RuntimeDefault"}},"containers":[{"name":"tame","image":"registry.invalid/tame","securityContext":{"allowPrivilegeEscalation":false,"capabilities":{"drop":["ALL"]},"seccompProfile":{"type":"Unconfined"}}}]}}]}'# too_open: a line for each of them: the mode for chmod, and the path.
too_open() {
  more_than u-x,go= 177 "$K3S_ETC/k3s.yaml" "$K3S_DATA"/{server/cred,agent}/*.kubeconfig "$K3S_DATA"/agent/*.key \
    "$K3S_DATA"/agent/etc/kubelet.conf.d/*.conf
  more_than go= 077 "$K3S_DATA/server/db/etcd" "$K3S_DATA/agent/etc/kubelet.conf.d"
  more_than a-x,go-w 133 "$K3S_DATA/agent/client-ca.crt"
  [ ! -d "$K3S_DATA/server/tls" ] || find "$K3S_DATA/server/tls" -xdev ! -type l | while IFS= read -r path; do
    case $path in
      *.key) more_than u-x,go= 177 "$path" ;;
      *.crt) more_than a-x,go-w 133 "$path" ;;
      *) more_than go-w 022 "$path" ;;
    esac
  done
}

# more_than MODE MASK PATH…: of these, those that have a bit of MASK, or are not root's.
more_than() {
  local mode=$1 mask=$2 path
  shift 2
  for path; do
    [ ! -e "$path" ] || find "$path" -maxdepth 0 \( -perm "/$mask" -o ! -user root -o ! -group root \) -printf "$mode %p\n"
  done
}
export -f too_open more_than

# 1/19 k3s components listen on their ports
#   why: the API answers some seconds before the controller manager, the scheduler and the kubelet do
for second in $(seq 120) late; do
  [ "$second" != late ] || { echo 'not yet after 120 s: k3s components listen on their ports' >&2; exit 1; }
  if { cis_up 10257 10259 10250; } > /dev/null 2>&1; then break; fi
  sleep 1
done

# 2/19 keys, certificates and kubeconfigs of k3s are private to root
#   why: who reads one of the keys or kubeconfigs is admin of the cluster, or of the node
if ! { test -z "$(too_open)"; } > /dev/null 2>&1; then
  too_open | while read -r mode path; do
    keep --meta "$path"
    chown root:root "$path"
    chmod "$mode" "$path"
  done
fi

# 3/19 default service accounts mount no token
#   why: a pod without an account of its own gets this one, and needs no access to the API
if ! { quiet_accounts; } > /dev/null 2>&1; then
          deadline=$((SECONDS + 60))
          until [ "$(k3s_kubectl get namespaces --field-selector status.phase=Active --output name | wc --lines)" -le \
            "$(k3s_kubectl get serviceaccounts --all-namespaces --field-selector metadata.name=default --output \
  jsonpath='{range .items[*]}{.metadata.namespace}{" "}{.automountServiceAccountToken}{"\n"}{end}' | wc --lines)" ] || [ "$SECONDS" -ge "$deadline" ]; do sleep 1; done
          k3s_kubectl get serviceaccounts --all-namespaces --field-selector metadata.name=default --output \
  jsonpath='{range .items[*]}{.metadata.namespace}{" "}{.automountServiceAccountToken}{"\n"}{end}' | awk '$2 != "false"' | while read -r space was; do
            k3s_kubectl annotate serviceaccount default --namespace "$space" --overwrite \
              "fortress-kit/token-was=${was:-unset}" > /dev/null
            k3s_kubectl patch serviceaccount default --namespace "$space" \
              --patch '{"automountServiceAccountToken":false}' > /dev/null
          done
fi

# 4/19 CIS 1.1, files of the control plane: every control passes or is waived
#   1.1.1 Mode of the API server's manifest [CIS Kubernetes 2.1, 1.1.1]
#   1.1.2 Owner of the API server's manifest [CIS Kubernetes 2.1, 1.1.2]
#   1.1.3 Mode of the controller manager's manifest [CIS Kubernetes 2.1, 1.1.3]
#   1.1.4 Owner of the controller manager's manifest [CIS Kubernetes 2.1, 1.1.4]
#   1.1.5 Mode of the scheduler's manifest [CIS Kubernetes 2.1, 1.1.5]
#   1.1.6 Owner of the scheduler's manifest [CIS Kubernetes 2.1, 1.1.6]
#   1.1.7 Mode of etcd's manifest [CIS Kubernetes 2.1, 1.1.7]
#   1.1.8 Owner of etcd's manifest [CIS Kubernetes 2.1, 1.1.8]
#   1.1.9 What the network of pods writes down is private [CIS Kubernetes 2.1, 1.1.9]
#   1.1.10 What the network of pods writes down is root's [CIS Kubernetes 2.1, 1.1.10]
#   1.1.11 The data of etcd is private [CIS Kubernetes 2.1, 1.1.11]
#   1.1.12 The data of etcd belongs to an account etcd [CIS Kubernetes 2.1, 1.1.12]
#   1.1.13 Kubeconfigs of the admin are private [CIS Kubernetes 2.1, 1.1.13]
#   1.1.14 Kubeconfigs of the admin are root's [CIS Kubernetes 2.1, 1.1.14]
#   1.1.15 The scheduler's kubeconfig is private [CIS Kubernetes 2.1, 1.1.15]
#   1.1.16 The scheduler's kubeconfig is root's [CIS Kubernetes 2.1, 1.1.16]
#   1.1.17 The controller manager's kubeconfig is private [CIS Kubernetes 2.1, 1.1.17]
#   1.1.18 The controller manager's kubeconfig is root's [CIS Kubernetes 2.1, 1.1.18]
#   1.1.19 Keys and certificates are root's [CIS Kubernetes 2.1, 1.1.19]
#   1.1.20 Certificates are written by root alone [CIS Kubernetes 2.1, 1.1.20]
#   1.1.21 Keys are read by root alone [CIS Kubernetes 2.1, 1.1.21]
if ! { systemctl is-active k3s.service; } > /dev/null 2>&1; then
  echo 'CIS 1.1, files of the control plane: every control passes or is waived: no' >&2
  echo '  ./task k3s-cis apply sets owners and modes of what k3s has written. What comes back is written by something else: look at its time' >&2
  exit 1
fi

# 5/19 CIS 1.2, the API server: every control passes or is waived
#   1.2.1 Nobody asks without a name [CIS Kubernetes 2.1, 1.2.1]
#   1.2.2 No file of tokens [CIS Kubernetes 2.1, 1.2.2]
#   1.2.3 Services take no addresses of others [CIS Kubernetes 2.1, 1.2.3]
#   1.2.4 It shows kubelets a certificate [CIS Kubernetes 2.1, 1.2.4]
#   1.2.5 It checks whom it takes for a kubelet [CIS Kubernetes 2.1, 1.2.5]
#   1.2.6 Not everybody may do everything [CIS Kubernetes 2.1, 1.2.6]
#   1.2.7 Kubelets may do what nodes need [CIS Kubernetes 2.1, 1.2.7]
#   1.2.8 Rights follow roles [CIS Kubernetes 2.1, 1.2.8]
#   1.2.9 A flood of events is limited [CIS Kubernetes 2.1, 1.2.9]
#   1.2.10 Nothing admits everything [CIS Kubernetes 2.1, 1.2.10]
#   1.2.11 Images are always asked for anew [CIS Kubernetes 2.1, 1.2.11]
#   1.2.12 Pods have accounts [CIS Kubernetes 2.1, 1.2.12]
#   1.2.13 Nothing is made in a namespace that ends [CIS Kubernetes 2.1, 1.2.13]
#   1.2.14 A node changes itself only [CIS Kubernetes 2.1, 1.2.14]
#   1.2.15 It is not profiled [CIS Kubernetes 2.1, 1.2.15]
#   1.2.16 What is asked is written down [CIS Kubernetes 2.1, 1.2.16]
#   1.2.17 That is kept for 30 days [CIS Kubernetes 2.1, 1.2.17]
#   1.2.18 In ten files or more [CIS Kubernetes 2.1, 1.2.18]
#   1.2.19 Of 100 MB or more [CIS Kubernetes 2.1, 1.2.19]
#   1.2.20 Requests end [CIS Kubernetes 2.1, 1.2.20]
#   1.2.21 A deleted account's token is no good [CIS Kubernetes 2.1, 1.2.21]
#   1.2.22 Tokens are checked by a key of their own [CIS Kubernetes 2.1, 1.2.22]
#   1.2.23 It shows etcd a certificate [CIS Kubernetes 2.1, 1.2.23]
#   1.2.24 It serves with a certificate [CIS Kubernetes 2.1, 1.2.24]
#   1.2.25 It knows who signs for its clients [CIS Kubernetes 2.1, 1.2.25]
#   1.2.26 It checks whom it takes for etcd [CIS Kubernetes 2.1, 1.2.26]
#   1.2.27 What is stored is encrypted [CIS Kubernetes 2.1, 1.2.27]
#   1.2.28 By a cipher that is strong [CIS Kubernetes 2.1, 1.2.28]
#   1.2.29 It speaks strong ciphers only [CIS Kubernetes 2.1, 1.2.29]
#   1.2.30 Tokens of accounts are not made to last a year [CIS Kubernetes 2.1, 1.2.30]
if ! { cis_known kube-apiserver; } > /dev/null 2>&1; then
  echo 'CIS 1.2, the API server: every control passes or is waived: no' >&2
  echo '  mend kube-apiserver-arg in config/k3s/config.yaml, then ./task k3s-server apply and ./task k3s-join apply; what k3s sets by itself must not stand there' >&2
  exit 1
fi

# 6/19 CIS 1.3, the controller manager: every control passes or is waived
#   1.3.1 Pods that have ended are forgotten [CIS Kubernetes 2.1, 1.3.1]
#   1.3.2 It is not profiled [CIS Kubernetes 2.1, 1.3.2]
#   1.3.3 Each controller has rights of its own [CIS Kubernetes 2.1, 1.3.3]
#   1.3.4 It signs tokens with a key of their own [CIS Kubernetes 2.1, 1.3.4]
#   1.3.5 Pods are told whom to believe [CIS Kubernetes 2.1, 1.3.5]
#   1.3.6 Certificates of kubelets are renewed [CIS Kubernetes 2.1, 1.3.6]
#   1.3.7 It answers on this machine only [CIS Kubernetes 2.1, 1.3.7]
if ! { cis_known kube-controller-manager; } > /dev/null 2>&1; then
  echo 'CIS 1.3, the controller manager: every control passes or is waived: no' >&2
  echo '  mend kube-controller-manager-arg in config/k3s/config.yaml, then ./task k3s-server apply and ./task k3s-join apply' >&2
  exit 1
fi

# 7/19 CIS 1.4, the scheduler: every control passes or is waived
#   1.4.1 It is not profiled [CIS Kubernetes 2.1, 1.4.1]
#   1.4.2 It answers on this machine only [CIS Kubernetes 2.1, 1.4.2]
if ! { cis_known kube-scheduler; } > /dev/null 2>&1; then
  echo 'CIS 1.4, the scheduler: every control passes or is waived: no' >&2
  echo '  mend kube-scheduler-arg in config/k3s/config.yaml, then ./task k3s-server apply and ./task k3s-join apply' >&2
  exit 1
fi

# 8/19 CIS 2, etcd: every control passes or is waived
#   2.1 Clients are served with its certificate [CIS Kubernetes 2.1, 2.1]
#   2.2 Clients show a certificate [CIS Kubernetes 2.1, 2.2]
#   2.3 No certificate for clients that signs itself [CIS Kubernetes 2.1, 2.3]
#   2.4 Members are served with its certificate [CIS Kubernetes 2.1, 2.4]
#   2.5 Members show a certificate [CIS Kubernetes 2.1, 2.5]
#   2.6 No certificate for members that signs itself [CIS Kubernetes 2.1, 2.6]
#   2.7 Its authorities sign for nothing else [CIS Kubernetes 2.1, 2.7]
if ! { cis_known etcd; } > /dev/null 2>&1; then
  echo 'CIS 2, etcd: every control passes or is waived: no' >&2
  echo '  k3s writes /var/lib/rancher/k3s/server/db/etcd/config at each start: take etcd-arg out of config/k3s/config.yaml, and start k3s again' >&2
  exit 1
fi

# 9/19 CIS 3.1, who people are: every control passes or is waived
#   3.1.1 People do not come with certificates [CIS Kubernetes 2.1, 3.1.1]
#   3.1.2 People do not come with tokens of accounts [CIS Kubernetes 2.1, 3.1.2]
#   3.1.3 People do not come with tokens to join with [CIS Kubernetes 2.1, 3.1.3]
if ! { cis_known api; } > /dev/null 2>&1; then
  echo 'CIS 3.1, who people are: every control passes or is waived: no' >&2
  echo '  kubectl delete secret, and give the person another way: what the cluster checks has to be revocable' >&2
  exit 1
fi

# 10/19 CIS 3.2, what is written down: every control passes or is waived
#   3.2.1 A policy says what is written down [CIS Kubernetes 2.1, 3.2.1]
#   3.2.2 It covers what matters [CIS Kubernetes 2.1, 3.2.2]
if ! { cis_known kube-apiserver; } > /dev/null 2>&1; then
  echo 'CIS 3.2, what is written down: every control passes or is waived: no' >&2
  echo '  mend config/k3s/audit.yaml, then ./task k3s-server apply and ./task k3s-join apply' >&2
  exit 1
fi

# 11/19 CIS 4.1, files of the node: every control passes or is waived
#   4.1.1 Mode of the kubelet's unit [CIS Kubernetes 2.1, 4.1.1]
#   4.1.2 Owner of the kubelet's unit [CIS Kubernetes 2.1, 4.1.2]
#   4.1.3 The kubeconfig of kube-proxy is private [CIS Kubernetes 2.1, 4.1.3]
#   4.1.4 The kubeconfig of kube-proxy is root's [CIS Kubernetes 2.1, 4.1.4]
#   4.1.5 The kubelet's kubeconfig is private [CIS Kubernetes 2.1, 4.1.5]
#   4.1.6 The kubelet's kubeconfig is root's [CIS Kubernetes 2.1, 4.1.6]
#   4.1.7 The authority of its clients is written by root alone [CIS Kubernetes 2.1, 4.1.7]
#   4.1.8 The authority of its clients is root's [CIS Kubernetes 2.1, 4.1.8]
#   4.1.9 Mode of the kubelet's configuration [CIS Kubernetes 2.1, 4.1.9]
#   4.1.10 Owner of the kubelet's configuration [CIS Kubernetes 2.1, 4.1.10]
#   4.1.11 The files that k3s configures it with are private [CIS Kubernetes 2.1, 4.1.11]
if ! { systemctl is-active k3s.service; } > /dev/null 2>&1; then
  echo 'CIS 4.1, files of the node: every control passes or is waived: no' >&2
  echo '  ./task k3s-cis apply sets owners and modes of what k3s has written' >&2
  exit 1
fi

# 12/19 CIS 4.2, the kubelet: every control passes or is waived
#   4.2.1 Nobody asks it without a name [CIS Kubernetes 2.1, 4.2.1]
#   4.2.2 It asks the API server who may [CIS Kubernetes 2.1, 4.2.2]
#   4.2.3 It knows who signs for its clients [CIS Kubernetes 2.1, 4.2.3]
#   4.2.4 It has no second port without names [CIS Kubernetes 2.1, 4.2.4]
#   4.2.5 Idle connections end [CIS Kubernetes 2.1, 4.2.5]
#   4.2.6 It sets up the chains of iptables [CIS Kubernetes 2.1, 4.2.6]
#   4.2.7 Its name is not given to it [CIS Kubernetes 2.1, 4.2.7]
#   4.2.8 It tells of what happens [CIS Kubernetes 2.1, 4.2.8]
#   4.2.9 It serves with a certificate [CIS Kubernetes 2.1, 4.2.9]
#   4.2.10 Nobody has switched off that its certificate is renewed [CIS Kubernetes 2.1, 4.2.10]
#   4.2.11 Nobody has switched off that the one it serves with is renewed [CIS Kubernetes 2.1, 4.2.11]
#   4.2.12 It speaks strong ciphers only [CIS Kubernetes 2.1, 4.2.12]
#   4.2.13 A pod has only so many processes [CIS Kubernetes 2.1, 4.2.13]
#   4.2.14 System calls are filtered unless a pod says otherwise [CIS Kubernetes 2.1, 4.2.14]
if ! { cis_known kubelet; } > /dev/null 2>&1; then
  echo 'CIS 4.2, the kubelet: every control passes or is waived: no' >&2
  echo '  mend kubelet-arg in config/k3s/config.yaml and config/k3s/agent.yaml, then ./task k3s-server apply and ./task k3s-join apply' >&2
  exit 1
fi

# 13/19 CIS 4.3, kube-proxy: every control passes or is waived
#   4.3.1 It tells its figures to this machine only [CIS Kubernetes 2.1, 4.3.1]
if ! { systemctl is-active k3s.service; } > /dev/null 2>&1; then
  echo 'CIS 4.3, kube-proxy: every control passes or is waived: no' >&2
  echo '  take metrics-bind-address out of kube-proxy-arg' >&2
  exit 1
fi

# 14/19 CIS 5.1, rights and accounts: every control passes or is waived
#   5.1.1 Nobody is bound to cluster-admin [CIS Kubernetes 2.1, 5.1.1]
#   5.1.2 An account alone reads no Secrets [CIS Kubernetes 2.1, 5.1.2]
#   5.1.3 Roles name what they are for [CIS Kubernetes 2.1, 5.1.3]
#   5.1.4 An account alone makes no pods [CIS Kubernetes 2.1, 5.1.4]
#   5.1.5 Nobody uses accounts called default [CIS Kubernetes 2.1, 5.1.5]
#   5.1.6 No pod carries the token of one [CIS Kubernetes 2.1, 5.1.6]
#   5.1.7 The group that may do everything is given nothing more [CIS Kubernetes 2.1, 5.1.7]
#   5.1.8 Nobody gives himself rights, or takes another's name [CIS Kubernetes 2.1, 5.1.8]
#   5.1.9 Nobody makes volumes out of directories of the node [CIS Kubernetes 2.1, 5.1.9]
#   5.1.10 Nobody goes through the API to kubelets [CIS Kubernetes 2.1, 5.1.10]
#   5.1.11 Nobody approves certificates [CIS Kubernetes 2.1, 5.1.11]
#   5.1.12 Nobody changes what is asked before something is let in [CIS Kubernetes 2.1, 5.1.12]
#   5.1.13 Nobody makes tokens for accounts [CIS Kubernetes 2.1, 5.1.13]
#   5.1.14 Who reads figures of kubelets may read nothing else [CIS Kubernetes 2.1, 5.1.14]
if ! { cis_known api; } > /dev/null 2>&1; then
  echo 'CIS 5.1, rights and accounts: every control passes or is waived: no' >&2
  echo '  each name above is a role, or what binds one: kubectl get clusterrole NAME --output yaml. Give it less, delete it, or say in config/k3s/cis.yaml or waivers.yaml why it is needed' >&2
  exit 1
fi

# 15/19 CIS 5.2, what pods may: every control passes or is waived
#   5.2.1 Something decides what pods may [CIS Kubernetes 2.1, 5.2.1]
#   5.2.2 None is privileged [CIS Kubernetes 2.1, 5.2.2]
#   5.2.3 None sees processes of the node [CIS Kubernetes 2.1, 5.2.3]
#   5.2.4 None shares memory with the node [CIS Kubernetes 2.1, 5.2.4]
#   5.2.5 None is in the network of the node [CIS Kubernetes 2.1, 5.2.5]
#   5.2.6 None gains rights [CIS Kubernetes 2.1, 5.2.6]
#   5.2.7 None is root [CIS Kubernetes 2.1, 5.2.7]
#   5.2.8 None forges packets [CIS Kubernetes 2.1, 5.2.8]
#   5.2.9 None has parts of root's rights [CIS Kubernetes 2.1, 5.2.9]
#   5.2.10 None is a process of a Windows node [CIS Kubernetes 2.1, 5.2.10]
#   5.2.11 None sees directories of the node [CIS Kubernetes 2.1, 5.2.11]
#   5.2.12 None takes ports of the node [CIS Kubernetes 2.1, 5.2.12]
#   5.2.13 None sees all of /proc [CIS Kubernetes 2.1, 5.2.13]
if ! { cis_known api; } > /dev/null 2>&1; then
  echo 'CIS 5.2, what pods may: every control passes or is waived: no' >&2
  echo '  mend config/k3s/admission.yaml; of a pod that runs outside of kube-system, give the namespace a stricter label, or say in config/k3s/waivers.yaml why it needs that' >&2
  exit 1
fi

# 16/19 CIS 5.3, the network of pods: every control passes or is waived
#   5.3.1 The network obeys policies [CIS Kubernetes 2.1, 5.3.1]
#   5.3.2 Every namespace has a policy [CIS Kubernetes 2.1, 5.3.2]
if ! { cis_known api; } > /dev/null 2>&1; then
  echo 'CIS 5.3, the network of pods: every control passes or is waived: no' >&2
  echo '  the layer of the network writes a NetworkPolicy into every namespace' >&2
  exit 1
fi

# 17/19 CIS 5.4, Secrets: every control passes or is waived
#   5.4.1 Programs read Secrets from files [CIS Kubernetes 2.1, 5.4.1]
#   5.4.2 Secrets are kept outside of the cluster [CIS Kubernetes 2.1, 5.4.2]
if ! { cis_known api; } > /dev/null 2>&1; then
  echo 'CIS 5.4, Secrets: every control passes or is waived: no' >&2
  echo '  let the program read its Secret from a file: a volume of kind secret' >&2
  exit 1
fi

# 18/19 CIS 5.5, images: every control passes or is waived
#   5.5.1 Only images of known makers run [CIS Kubernetes 2.1, 5.5.1]
if ! { cis_known api; } > /dev/null 2>&1; then
  echo 'CIS 5.5, images: every control passes or is waived: no' >&2
  echo '  nothing here is asked by a machine' >&2
  exit 1
fi

# 19/19 CIS 5.6, how the cluster is used: every control passes or is waived
#   5.6.1 Namespaces part what does not belong together [CIS Kubernetes 2.1, 5.6.1]
#   5.6.2 System calls of every pod are filtered [CIS Kubernetes 2.1, 5.6.2]
#   5.6.3 Pods say what they need [CIS Kubernetes 2.1, 5.6.3]
#   5.6.4 Nothing is in the namespace default [CIS Kubernetes 2.1, 5.6.4]
if ! { cis_known api; } > /dev/null 2>&1; then
  echo 'CIS 5.6, how the cluster is used: every control passes or is waived: no' >&2
  echo '  move what is named above into a namespace of its own' >&2
  exit 1
fi
