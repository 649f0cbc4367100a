# shellcheck shell=bash
# The functions of controls: each prints what it found and returns 0 (holds) or 1 (does not), or leaves with 100 (does not
# apply here), 101 (holds after the next start) or 102 (could not be asked). Everything is read-only and asks what decides: the
# kernel, the daemon, the program by its own reader; what several controls need is asked once.
#
# These return their answer where others may exit, and leave no variable behind that another check could take for its own;
# program.ts reads which. A control whose first line is "# in one shell" promises the same of itself: its variables are local.
# in one shell: sysctl_is cmdline_has module_blocked mount_has mode_is modes_are package_present package_absent unit_is
# in one shell: sshd_is auditd_is audit_has apt_is setting_is systemd_sets nobody_listens none_of walked has_line
# in one shell: sudo_is pam_has

# A program that somebody has put into /usr/local under the name of one of these must not answer in its place.
PATH=/usr/sbin:/usr/bin:/sbin:/bin:$PATH
FK_CONTAINER=$(systemd-detect-virt --container) || FK_CONTAINER=''

na() {
  echo "$*"
  exit 100
}

# unknown WORDS: it could not be asked, which says neither that it holds nor that it does not.
unknown() {
  echo "could not ask: $*"
  exit 102
}

# fact NAME FUNCTION…: FK_FACT becomes what FUNCTION says, FK_LINES its lines and FK_KNOWN its exit code, kept until something
# changes. Of those who ask side by side one finds it out, and the others wait.
fact() {
  local file piped=''
  fact_file "$1"
  file=$FK_FILE
  # Only a function: without one the answer would be empty, and what must not be there would not be missed.
  declare -F "$2" > /dev/null || { echo "$2 is not defined" >&2; return 1; }
  [ "$file" != "${FK_FACT_OF-}" ] || return 0
  until [ -s "$file.known" ]; do
    fact_is_mine "$file" || { fact_pause; continue; }
    [ "${phase-before}" != after ] || rm --force "$FK_TMP"/fact.*.before*
    FK_KNOWN=0
    case :$SHELLOPTS: in *:pipefail:*) piped=yes ;; esac
    set -o pipefail # what is asked may be the first of several programs
    "${@:2}" > "$file" 2> "$file.said" || FK_KNOWN=$? # an empty answer is an answer: the control says what it misses
    [ -n "$piped" ] || set +o pipefail
    echo "$FK_KNOWN" > "$file.known"
  done
  read -r FK_KNOWN < "$file.known"
  mapfile -t FK_LINES < "$file"
  printf -v FK_FACT '%s\n' "${FK_LINES[@]}"
  FK_FACT=$'\n'$FK_FACT
  FK_FACT_OF=$file # FK_LINES and FK_FACT are its, until somebody puts something else there
}

# fact_file NAME: FK_FILE becomes where the fact is kept. fk_holds tells us where we are: after a step has changed something,
# nothing that was known before counts.
fact_file() {
  FK_FILE=${FK_FACTS-$FK_TMP}/fact.$1.before
  if [ "${phase-before}" = after ]; then FK_FILE=${FK_FILE%before}after.${n-0}; fi
}

# fact_pause: a moment.
fact_pause() { if [ -n "${FK_NEVER-}" ]; then read -r -t 0.02 -u "$FK_NEVER" || true; else sleep 0.05; fi; } # nothing comes

# fact_is_mine FILE: nobody else is about to find it out, or whoever was has died.
fact_is_mine() {
  local mine=yes other=''
  set -o noclobber
  { echo "$BASHPID" > "$1.by"; } 2> /dev/null || mine=''
  set +o noclobber
  [ -z "$mine" ] || return 0
  read -r other < "$1.by" || return 1 # it is being written
  [ "$other" = "$BASHPID" ] || ! kill -0 "$other" 2> /dev/null
}

# sure_fact NAME FUNCTION…: the same of what can always be asked: where FUNCTION has failed, nothing is known.
sure_fact() {
  local why
  fact "$@" || return
  [ "$FK_KNOWN" -ne 0 ] || return 0
  why=$(tail --lines=1 "${FK_FACTS-$FK_TMP}/fact.$1".*.said 2> /dev/null) || true # it may have said nothing
  echo "could not ask: $2 ended with $FK_KNOWN${why:+: $why}"
  return 102
}

# none_of FUNCTION: prints what it lists; holds when that is nothing.
none_of() {
  sure_fact "$1" "$1" || return
  echo "found: ${FK_LINES[*]:-none}"
  [ ${#FK_LINES[@]} -eq 0 ]
}

# read_lines FILE…: FK_LINES become the lines of these files; none of them may be missing.
read_lines() {
  local file lines=()
  FK_FACT_OF=''
  for file; do
    [ -r "$file" ] || { echo "there is no $file"; return 1; }
    mapfile -t FK_LINES < "$file"
    lines+=("${FK_LINES[@]}")
  done
  FK_LINES=("${lines[@]}")
}

# find_lines PATTERN: FK_FOUND becomes those of FK_LINES that match the extended regular expression; holds when there are any.
find_lines() {
  local line
  FK_FOUND=''
  for line in "${FK_LINES[@]}"; do
    [[ ! $line =~ $1 ]] || FK_FOUND+=${FK_FOUND:+$'\n'}$line
  done
  [ -n "$FK_FOUND" ]
}

# has_line FILE PATTERN: prints the lines of FILE that match; holds when there are any.
has_line() {
  read_lines "$1" || return
  find_lines "$2" || FK_FOUND=none
  echo "$FK_FOUND"
  [ "$FK_FOUND" != none ]
}

# setting NAME: FK_SETTING becomes what the last of FK_LINES that begins with NAME= sets.
setting() {
  local line
  FK_SETTING=''
  for line in "${FK_LINES[@]}"; do
    case $line in "$1="*) FK_SETTING=${line#*=} ;; esac
  done
}

# These keys of an interface count beside the one for all: those of IPv6 alone, those of IPv4 where either is on.
FK_PER_INTERFACE=' ipv6.accept_redirects ipv6.accept_source_route ipv6.accept_ra ipv6.autoconf ipv6.use_tempaddr
  ipv4.accept_redirects ipv4.secure_redirects ipv4.send_redirects ipv4.shared_media ipv4.proxy_arp ipv4.route_localnet
  ipv4.accept_local ipv4.forwarding '

# sysctl_is KEY VALUE [KEY VALUE…]: the running kernel has these values, for each interface too; a|b allows either.
sysctl_is() {
  local key want file got own said='' bad='' host='' absent='' held=''
  while [ $# -gt 0 ]; do
    key=$1 want=$2 file=/proc/sys/${1//.//}
    shift 2
    case $key in net.ipv[46].conf.all.*)
      own=${key#net.} own=${own/conf.all./}
      case $FK_PER_INTERFACE in *[[:space:]]"$own"[[:space:]]*)
        for own in "${file%%/all/*}"/*/"${key##*.}"; do
          # Those of a cluster network are its own matter.
          case $own in */all/* | */default/* | */lo/* | */lxc* | */cilium_*) continue ;; esac
          read -r -a got < "$own" 2> /dev/null || continue # it has gone since
          case "|$want|" in *"|${got[*]}|"*) continue ;; esac
          own=${own%/*} bad+=" ${key/.all./.${own##*/}.}" said+="${key/.all./.${own##*/}.}=${got[*]} "
        done
        ;;
      esac
      ;;
    esac
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
  [ -z "$host" ] || { echo "the kernel is the host's, not this container's:$host"; return 100; }
  [ -n "$held" ] || { echo "this kernel has no$absent"; return 100; }
}

# cmdline_has ARGUMENT…: the running kernel was started with them, and goes by them.
cmdline_has() {
  local argument wanting=() running against=''
  [ -z "$FK_CONTAINER" ] || { echo "the kernel is the host's, not this container's"; return 100; }
  running=$(< /proc/cmdline)
  for argument; do
    if last_word "$argument" " $running "; then kernel_goes_by "$argument" || against+=" $FK_AGAINST;"
    else wanting+=("$argument"); fi
  done
  if [ -n "$against" ]; then
    echo "started with $*, but$against"
    return 1
  fi
  if [ ${#wanting[@]} -eq 0 ]; then
    echo "started with $*"
    return 0
  fi
  if boots_with "${wanting[@]}"; then
    echo "the running kernel was started without ${wanting[*]}; the next start has it"
    return 101
  fi
  echo "neither the running kernel nor the next start has ${wanting[*]}"
  return 1
}

# last_word ARGUMENT LINE: it stands in the line, and behind it no other value of the same name, which would count.
last_word() {
  local name=${1%%=*}
  case $2 in *" $1 "*) ;; *) return 1 ;; esac
  case $1 in *=*) case " ${2##*" $1 "}" in *" $name="*) return 1 ;; esac ;; esac
}

# kernel_goes_by ARGUMENT: what the kernel shows of it, where it shows any; else FK_AGAINST says what stands against it.
kernel_goes_by() {
  local at=${FK_KERNEL-} said=''
  FK_AGAINST=''
  case $1 in
    lockdown=*) shown "$at/sys/kernel/security/lockdown" "*\[${1#*=}\]*|*\[confidentiality\]*" ;;
    module.sig_enforce=1) shown "$at/sys/module/module/parameters/sig_enforce" 'Y|1' ;;
    page_alloc.shuffle=1) shown "$at/sys/module/page_alloc/parameters/shuffle" 'Y|1' ;;
    apparmor=1) shown "$at/sys/module/apparmor/parameters/enabled" Y ;;
    pti=on) shown "$at/sys/devices/system/cpu/vulnerabilities/meltdown" 'Mitigation: PTI*|Not affected*|Unknown*' ;;
    debugfs=no-mount) ! grep --quiet '^[^ ]* [^ ]* debugfs ' "$at/proc/mounts" || FK_AGAINST='debugfs is mounted' ;;
    vsyscall=none) ! grep --quiet '\[vsyscall\]' "$at/proc/self/maps" || FK_AGAINST='a vsyscall page is mapped' ;;
    iommu.strict=1)
      # A machine without an IOMMU, such as a virtual one, has no groups.
      said=$(cat "$at"/sys/kernel/iommu_groups/*/type 2> /dev/null | grep --line-regexp 'identity\|DMA-FQ') || true
      [ -z "$said" ] || FK_AGAINST="groups of the IOMMU are ${said//$'\n'/, }"
      ;;
  esac
  [ -z "$FK_AGAINST" ]
}

# shown FILE PATTERN|PATTERN…: where the kernel has this file, it says so there; else FK_AGAINST becomes what it says.
shown() {
  local said='' pattern
  [ -r "$1" ] || return 0
  read -r said < "$1" || true # it may be empty
  while IFS= read -r pattern; do
    # shellcheck disable=SC2053 # it is a pattern
    [[ $said != $pattern ]] || return 0
  done <<< "${2//|/$'\n'}"
  FK_AGAINST="$1 says: ${said:-nothing}"
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
  fact boot boot_lines || return
  [ "$FK_FACT" != $'\n\n' ] || return 1
  for line in "${FK_LINES[@]}"; do
    [ -n "$line" ] || continue
    for argument; do last_word "$argument" " $line " || return 1; done
  done
}

modprobe_config() { modprobe --showconfig | awk '/^(install|blacklist) / { gsub(/-/, "_", $2); print }'; }

# install_line NAME: FK_SETTING becomes what modprobe runs instead of loading it: the first line that fits, as a pattern of names.
install_line() {
  local line pattern
  FK_SETTING=''
  for line in "${FK_INSTALLS[@]}"; do
    pattern=${line#install } pattern=${pattern%% *}
    # shellcheck disable=SC2053 # it is a pattern
    [[ $1 != $pattern ]] || { FK_SETTING=${line#install * }; return; }
  done
}

# module_blocked MODULE…: modprobe refuses them, udev does not ask, and none is loaded.
module_blocked() {
  local module name open='' loaded='' inside=''
  sure_fact modprobe modprobe_config || return
  find_lines '^install ' || FK_FOUND=''
  mapfile -t FK_INSTALLS <<< "$FK_FOUND"
  for module; do
    name=${module//-/_}
    install_line "$name"
    [ "$FK_SETTING" = /bin/false ] || open+=" $module${FK_SETTING:+ (by $FK_SETTING)}"
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
    return 101
  elif [ "$inside" = " $*" ]; then
    echo "built into this kernel:$inside"
    return 100
  else
    echo "modprobe refuses $*; not loaded${inside:+; built into this kernel:$inside}"
  fi
}

mount_lines() { findmnt --raw --noheadings --output TARGET,OPTIONS; }

# mount_has DIRECTORY OPTIONS [if-mounted]: the mount that is on top there has all of them, and so has, where everybody may
# write, what is mounted below.
mount_has() {
  local line unit found='' option missing='' below=()
  sure_fact mounts mount_lines || return
  for line in "${FK_LINES[@]}"; do
    case $line in
      "$1 "*) found=${line#* } ;;
      /tmp/* | /var/tmp/* | /dev/shm/* | /var/log/*) case $line in "$1/"*) below+=("$line") ;; esac ;;
    esac
  done
  if [ -z "$found" ]; then
    [ "${3-}" != if-mounted ] || { echo "$1 is not a mount of its own here"; return 100; }
    unit=${1#/}
    # As systemd-escape does it for a path of letters.
    if [ -e "/etc/systemd/system/local-fs.target.wants/${unit//\//-}.mount" ]; then
      echo "$1 becomes a mount of its own at the next start"
      return 101
    fi
    echo "$1 is not a mount of its own"
    return 1
  fi
  for option in ${2//,/ }; do
    case ",$found," in *",$option,"*) ;; *) missing+=" $option" ;; esac
  done
  for line in "${below[@]}"; do
    for option in ${2//,/ }; do
      case ",${line#* }," in *",$option,"*) ;; *) missing+=" $option at ${line%% *}" ;; esac
    done
  done
  echo "$1: $found${missing:+ (without$missing)}"
  [ -z "$missing" ]
}

# modes_of PATH…: mode and owner of each that exists; a + behind the mode says that a list of its own (ACL) lets others in.
modes_of() {
  local line lines path more=$'\n'
  mapfile -t lines < <(ls --directory -l -- "$@" 2> /dev/null) # one of them may not be there
  for line in "${lines[@]}"; do
    case ${line%% *} in *+) more+=${line##* }$'\n' ;; esac
  done
  mapfile -t lines < <(stat --format='%n %a %U:%G' -- "$@" 2> /dev/null)
  for line in "${lines[@]}"; do
    path=${line%% *}
    case $more in *$'\n'"$path"$'\n'*) line=${line#* } line="$path ${line%% *}+ ${line#* }" ;; esac
    printf '%s\n' "$line"
  done
}

# shellcheck disable=SC2086 # one word for each path
path_modes() { modes_of $FK_PATHS; }

# mode_is MODE OWNERS PATH…: each path that exists has no more than MODE and no ACL, and one of OWNERS (user:group,…); - allows
# any.
mode_is() {
  local code=0
  mode_said "$@" || code=$?
  echo "$FK_SAID"
  return "$code"
}

# modes_are 'MODE OWNERS PATH…'…: every one holds. Those of which there is no path are left out; where all are, it does not apply.
modes_are() {
  local line words code said='' applied='' bad=''
  for line; do
    code=0
    read -r -a words <<< "$line"
    mode_said "${words[@]}" || code=$?
    said+="${said:+; }$FK_SAID"
    case $code in 0) applied=yes ;; 100) ;; *) bad=yes ;; esac
  done
  echo "$said"
  [ -z "$bad" ] || return 1
  [ -n "$applied" ] || return 100
}

# mode_said MODE OWNERS PATH…: FK_SAID becomes what mode_is says.
mode_said() {
  local mode=${1/#-/7777} owners=$2 path got list owner all said='' bad=''
  shift 2
  # What the controls ask about is looked at once for all of them.
  case " $FK_PATHS " in
    *" $* "*) fact modes path_modes && all=$FK_FACT ;;
    *) all=$'\n'$(modes_of "$@")$'\n' ;;
  esac
  for path; do
    [[ $all =~ $'\n'"$path "([0-7]+)(\+?)\ ([^$'\n']+) ]] || continue # there is none
    got=${BASH_REMATCH[1]} list=${BASH_REMATCH[2]} owner=${BASH_REMATCH[3]}
    said+=" $path $got$list $owner"
    if (((8#$got & ~8#$mode) != 0)) || [ -n "$list" ]; then bad+=" $path"; fi
    case ",$owners," in ,-, | *",$owner,"*) ;; *) bad+=" $path" ;; esac
  done
  FK_SAID="there is no $*"
  [ -n "$said" ] || return 100
  FK_SAID=${said# }
  [ -n "$bad" ] || return 0
  FK_SAID="more open than $mode $owners:$bad;$said"
  return 1
}

package_states() { dpkg-query --show --showformat='${Package} ${db:Status-Status}\n'; }

package_present() {
  local package missing=''
  sure_fact packages package_states || return
  for package; do
    case $FK_FACT in *$'\n'"$package installed"$'\n'*) ;; *) missing+=" $package" ;; esac
  done
  echo "${missing:+not installed:$missing; }asked for: $*"
  [ -z "$missing" ]
}

package_absent() {
  local package there=''
  sure_fact packages package_states || return
  for package; do
    case $FK_FACT in *$'\n'"$package installed"$'\n'*) there+=" $package" ;; esac
  done
  echo "${there:+installed:$there; }looked for: $*"
  [ -z "$there" ]
}

# unit_states: one line for each unit, its properties parted by tabs.
# shellcheck disable=SC2086,SC2153 # one word for each unit; controls.ts sets them
unit_states() {
  systemctl show --timestamp=unix --property=Id,LoadState,UnitFileState,ActiveState,StateChangeTimestamp,FragmentPath \
    --property=DropInPaths,NeedDaemonReload,WantedBy,RequiredBy,Triggers,MainPID,ExecStart,ExecStartPost,Environment \
    --property=EnvironmentFiles,LimitCORE $FK_UNITS |
    awk 'BEGIN { RS = ""; FS = "\n"; OFS = "\t" } { $1 = $1; print }'
}

# unit_line UNIT: FK_UNIT becomes the line of it, with tabs around.
unit_line() {
  local line id
  fact_file units
  if [ "${FK_UNITS_OF-}" != "$FK_FILE" ]; then
    sure_fact units unit_states || return
    declare -gA FK_UNIT_LINES=()
    for line in "${FK_LINES[@]}"; do
      line=$'\t'$line$'\t' id=${line#*$'\t'Id=}
      FK_UNIT_LINES[=${id%%$'\t'*}]=$line
    done
    FK_UNITS_OF=$FK_FILE
  fi
  FK_UNIT=${FK_UNIT_LINES[=$1]-}
}

# unit_property NAME: FK_SETTING becomes what FK_UNIT says of it, empty where it is not set.
unit_property() {
  FK_SETTING=''
  [[ ! $FK_UNIT =~ $'\t'"$1="([^$'\t']*) ]] || FK_SETTING=${BASH_REMATCH[1]}
}

# unit_says PROPERTY UNIT: FK_SETTING becomes what systemd says of it, empty where it is not set.
unit_says() { unit_line "$2" && unit_property "$1"; }

# unit_asks_password: whether the unit in FK_UNIT starts a shell behind the password of root alone.
unit_asks_password() {
  unit_property Id && echo "$FK_SETTING:"
  # With this word sulogin lets in whoever stands there.
  case $FK_UNIT in *SYSTEMD_SULOGIN_FORCE=*) echo 'SYSTEMD_SULOGIN_FORCE is set'; return 1 ;; esac
  unit_property ExecStart && echo "${FK_SETTING:-nothing is started}"
  case $FK_SETTING in *argv*systemd-sulogin-shell*) ;; *) false ;; esac
}

# unit_changed: FK_CHANGED becomes what has changed the unit in FK_UNIT beside its own file: drop-ins that are neither of a
# package nor ours, a file that stands in for it, or what systemd was given and the disk has no more.
unit_changed() {
  local path
  FK_CHANGED=''
  unit_property LoadState
  case $FK_SETTING in masked | bad-setting | error) FK_CHANGED+=" it is $FK_SETTING" ;; esac
  unit_property DropInPaths
  for path in $FK_SETTING; do
    case $path in /usr/* | /lib/* | */fortress.conf | */*-fortress.conf) ;; *) FK_CHANGED+=" $path" ;; esac
  done
  unit_property FragmentPath
  # At which hour a timer of the distribution starts something is its owner's choice.
  case $FK_UNIT in *.timer$'\t'*) case $FK_SETTING in /usr/* | /lib/*) FK_CHANGED='' ;; esac ;; esac
  case $FK_SETTING in
    /run/systemd/generator*) ;;
    /run/* | /etc/systemd/system.control/*) FK_CHANGED+=" $FK_SETTING" ;;
    # It stands in for the one of the package, which lies there still.
    /etc/systemd/system/*)
      path=/usr/lib/systemd/system/${FK_SETTING##*/}
      if [ -e "$path" ] || [[ $path == *@*.* && -e ${path%%@*}@.${path##*.} ]]; then FK_CHANGED+=" $FK_SETTING"; fi
      ;;
  esac
  unit_property NeedDaemonReload
  [ "$FK_SETTING" != yes ] || FK_CHANGED+=' systemd has loaded another file'
}

# unit_is STATE UNIT…: enabled, active, on (both), masked, or off (nothing starts it, and it is not active; absent is off). What
# is enabled or active is also as its file says, and so is what a timer or a path starts.
unit_is() {
  local state=$1 unit bad='' said='' file active load starts by
  shift
  for unit; do
    case $unit in *.*) ;; *) unit+=.service ;; esac
    unit_line "$unit"
    unit_property LoadState && load=$FK_SETTING
    unit_property UnitFileState && file=$FK_SETTING
    unit_property ActiveState && active=$FK_SETTING
    unit_property Triggers && starts=$FK_SETTING
    unit_property WantedBy && by=$FK_SETTING
    unit_property RequiredBy && by+=$FK_SETTING
    said+=" $unit ${load:-unknown}/${file:-no-file}/${active:-inactive}"
    case $state in
      enabled) [ "$file" = enabled ] || bad+=" $unit" ;;
      active) [ "$active" = active ] || bad+=" $unit" ;;
      on) if [ "$active" != active ] || [ "$file" != enabled ]; then bad+=" $unit"; fi ;;
      masked) [ "$load" = masked ] || bad+=" $unit" ;;
      off)
        case $load in masked | not-found) by='' ;; esac
        case $active in active | activating | reloading) by+=now ;; esac
        case $file in enabled* | linked* | alias) by+=$file ;; esac
        [ -z "$by" ] || bad+=" $unit"
        ;;
    esac
    case $state in masked | off) continue ;; esac
    unit_changed
    [ -z "$FK_CHANGED" ] || bad+=" $unit, changed by$FK_CHANGED"
    case $unit in *.timer | *.path)
      unit_line "$starts"
      unit_changed
      [ -z "$FK_CHANGED" ] || bad+=" $starts, changed by$FK_CHANGED"
      ;;
    esac
  done
  echo "${bad:+not $state:$bad;}$said"
  [ -z "$bad" ]
}

# sshd_words: FK_WORDS become the words with which the sshd that listens was started, behind its name and -D: it keeps them in its
# title. They go over its file.
sshd_words() {
  local title=''
  FK_WORDS=()
  unit_says MainPID ssh.service
  if [ "${FK_SETTING:-0}" -eq 0 ]; then return; fi
  { read -r -d '' title < "/proc/$FK_SETTING/cmdline"; } 2> /dev/null || true # what it is started for may be over
  [[ $title =~ ^sshd:\ [^\ ]+(.*)\ \[listener\] ]] || return 0
  # shellcheck disable=SC2206 # words of a command line
  FK_WORDS=(${BASH_REMATCH[1]})
  if [ "${FK_WORDS[0]-}" = -D ]; then FK_WORDS=("${FK_WORDS[@]:1}"); fi
}

# sshd_effective: what sshd goes by for who is asking; where it has rules for some, what it goes by for others as well. Behind @
# are the files that it reads, and the rules that it compares.
sshd_effective() {
  local said line user from
  sshd_words
  sshd_for "${SUDO_USER:-nobody}" 192.0.2.1 || return
  said=$(sshd_for "${SUDO_USER:-nobody}" 192.0.2.1 -ddd 2>&1) || return # among its words another log level than without them
  mapfile -t FK_LINES <<< "$said"
  for line in "${FK_LINES[@]}"; do
    line=${line%$'\r'}
    case $line in
      'debug2: load_server_config: filename '*) echo "@file ${line##* }" ;;
      'debug3: checking match for '*) echo "@${line#*checking }" ;;
    esac
  done
  case $said in *'debug3: checking match for '*) ;; *) return 0 ;; esac
  for user in root nobody "${SUDO_USER:-admin}"; do
    for from in 127.0.0.1 10.66.0.2 192.168.1.2 203.0.113.2 fd00::2; do sshd_for "$user" "$from" || return; done
  done
}

# sshd_for USER ADDRESS [WORD]: what it would use for them; by its own words it says how it comes to that.
sshd_for() { sshd "${FK_WORDS[@]}" "${@:3}" -T -C "user=$1,host=admin.example,addr=$2,laddr=192.0.2.2,lport=22"; }

# sshd_index: FK_SSHD has for each key the lines that sshd would use, each once.
sshd_index() {
  local line key
  fact_file sshd
  [ "${FK_SSHD_OF-}" != "$FK_FILE" ] || return 0
  sure_fact sshd sshd_effective || return
  declare -gA FK_SSHD=()
  for line in "${FK_LINES[@]}"; do
    case $line in *' '*) key="=${line%% *}" ;; *) continue ;; esac
    case $'\n'${FK_SSHD[$key]-}$'\n' in *$'\n'"$line"$'\n'*) ;; *) FK_SSHD[$key]+=${FK_SSHD[$key]:+$'\n'}$line ;; esac
  done
  FK_SSHD_OF=$FK_FILE
}

# sshd_is KEY VALUE [KEY VALUE…]: what sshd would use, for everybody.
sshd_is() {
  local line found bad='' said=''
  sshd_index || return
  while [ $# -gt 0 ]; do
    found=${FK_SSHD[=$1]-"$1 unset"}
    until [ -z "$found" ]; do
      line=${found%%$'\n'*} found=${found#"$line"} found=${found#$'\n'}
      [ "$line" = "$1 $2" ] || case $bad in *" $1"*) ;; *) bad+=" $1" ;; esac
      said+="$line; "
    done
    shift 2
  done
  echo "${bad:+other than wanted:$bad; }$said"
  [ -z "$bad" ]
}

# auditd_words: the words behind the name of the auditd that runs.
auditd_words() {
  local words=()
  mapfile -d '' -t words < "/proc/$1/cmdline" || return
  echo "${words[*]:1}"
}

# auditd_state: what auditd says of itself when it gets SIGCONT, in a file of its own; behind @ its words, and when it last read
# its settings.
auditd_state() {
  local pid path said='' before='' try=0
  pid=$(auditctl -s | awk '$1 == "pid" { print $2 }') || return
  [ "${pid:-0}" -gt 0 ] || { echo 'auditd does not run' >&2; return 1; }
  before=$(stat --format=%y /run/audit/auditd.state /run/auditd.state 2> /dev/null) || true # it need not exist
  kill -CONT "$pid" || return
  while [ $((try++)) -lt 30 ]; do
    sleep 0.1
    said=$(stat --format=%y /run/audit/auditd.state /run/auditd.state 2> /dev/null) || true # nor yet
    [ "$said" = "$before" ] || break
  done
  [ "$said" != "$before" ] || { echo 'auditd does not answer' >&2; return 1; }
  sleep 0.1 # it may be writing still
  for path in /run/audit/auditd.state /run/auditd.state; do
    [ ! -e "$path" ] || { sed --regexp-extended 's/ = / /; s/ [MK]i?B$//' "$path"; break; }
  done
  echo "@words $(auditd_words "$pid")"
  # It writes down each time that it reads them: when it starts, and when it is told to (HUP).
  while IFS= read -r path; do
    said=$(grep --text --extended-regexp '^type=DAEMON_(START|CONFIG)' "$path" | tail --lines=1) || continue
    said=${said#*audit(}
    echo "@read ${said%%.*}"
    break
  done < <(find /var/log/audit -name 'audit.log*' -printf '%T@ %p\n' |
    sort --reverse --numeric-sort | awk 'NR < 5 { print $2 }')
}

# auditd_is NAME VALUE [NAME VALUE…]: auditd goes by them: its unit starts it with its own file, that file says so, it was read
# since, and what auditd says of itself does not differ.
auditd_is() {
  local line key rest name value found said='' bad='' lines=() told=()
  FK_DIFFERS=''
  unit_line auditd.service
  unit_changed
  [ -z "$FK_CHANGED" ] || bad+=" auditd.service is changed by$FK_CHANGED;"
  unit_property ExecStart
  [[ ! $FK_SETTING =~ argv\[\]=[^\ \;]*/auditd\ ([^\;]*[^\ \;])\ *\; ]] || bad+=" it is started with ${BASH_REMATCH[1]};"
  read_lines /etc/audit/auditd.conf || return
  # Its reader makes no difference between great and small letters, and of a name that stands twice the last counts.
  for line in "${FK_LINES[@],,}"; do
    case $line in '#'*) ;; *=*) lines+=("$line") ;; esac
  done
  while [ $# -gt 0 ]; do
    name=$1 value=$2 found=''
    shift 2
    for line in "${lines[@]}"; do
      IFS=$' \t=' read -r key rest <<< "$line"
      [ "$key" != "$name" ] || found=$rest
    done
    said+="$name=${found:-unset} "
    [ "$found" = "$value" ] || bad+=" $name;"
    told+=("$name $value")
  done
  [ -n "$FK_CONTAINER" ] || auditd_differs "${told[@]}" || return
  echo "$said${bad:+(other than wanted:${bad%;})}${FK_DIFFERS:+; auditd itself:${FK_DIFFERS%;}}"
  [ -z "$bad$FK_DIFFERS" ]
}

# auditd_differs 'NAME VALUE'…: FK_DIFFERS becomes what the auditd that runs says otherwise.
auditd_differs() {
  local pair name value
  FK_DIFFERS=''
  sure_fact auditd auditd_state || return
  ! find_lines '^@words .*-c' || FK_DIFFERS+=" runs with${FK_FOUND#@words};"
  find_lines '^@read ' || FK_FOUND='@read 0'
  value=$(stat --format=%Y /etc/audit/auditd.conf)
  [ "${FK_FOUND#@read }" -ge "$value" ] || FK_DIFFERS+=" has read its file at @${FK_FOUND#@read }, and it was written at @$value;"
  for pair; do
    name=${pair% *} value=${pair#* }
    case $name in
      max_log_file) name='max log size' value=$((value * 1024)) ;;
      space_left | admin_space_left) name="$name setting" ;;
      *) continue ;;
    esac
    ! find_lines "^$name " || [ "$FK_FOUND" = "$name $value" ] || FK_DIFFERS+=" $FK_FOUND;"
  done
}

audit_rules() { auditctl -l; }
written_rules() { cat /etc/audit/rules.d/*.rules; }

# audit_has KEY…: every rule that is written down under the key is in the kernel.
audit_has() {
  local key line path written wanted=0 syscalls=0 there missing=''
  [ -z "$FK_CONTAINER" ] || { echo 'the audit of a kernel belongs to its host, not to this container'; return 100; }
  fact rules written_rules || return
  written=("${FK_LINES[@]}")
  fact audit audit_rules || return
  for key; do
    syscalls=0
    for line in "${written[@]}"; do
      case "$line " in
        "-w "*" -k $key ")
          wanted=$((wanted + 1))
          path=${line#-w }
          path=${path%% *}
          path=${path%/}
          case $FK_FACT in *$'\n'"-w $path -p "*"$key"* | *$'\n'"-w $path/ -p "*"$key"*) ;; *)
            [ ! -d "${path%/*}" ] || case $FK_FACT in
              *"-F path=$path "* | *"-F dir=$path "* | *"-w ${path/#\/var\/run/\/run} "*) ;;
              *) missing+=" $path" ;;
            esac
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
    done
    there=0
    for line in "${FK_LINES[@]}"; do
      case $line in "-a "*"key=$key" | "-a "*"-k $key") there=$((there + 1)) ;; esac
    done
    [ "$there" -ge "$syscalls" ] || missing+=" $((syscalls - there)) of $syscalls system call rules ($key)"
  done
  echo "$wanted rules wanted for $*${missing:+; not in the kernel:$missing}"
  [ -z "$missing" ] && [ "$wanted" -gt 0 ]
}

apt_settings() { apt-config dump; }

# Every line of the files that APT reads, behind its file.
apt_lines() { grep --recursive --text '' /etc/apt/apt.conf /etc/apt/apt.conf.d | LC_ALL=C sort; }

# apt_truth VALUE: FK_TRUTH becomes what APT reads, for which many words are 0 and 1.
apt_truth() {
  case ${1,,} in
    no | false | without | off | disable) FK_TRUTH=0 ;;
    yes | true | with | on | enable) FK_TRUTH=1 ;;
    *) FK_TRUTH=$1 ;;
  esac
}

# apt_index: FK_APT has the values that APT goes by; the last line of a key counts.
apt_index() {
  local line key
  fact_file apt
  [ "${FK_APT_OF-}" != "$FK_FILE" ] || return 0
  fact apt apt_settings || return
  declare -gA FK_APT=()
  for line in "${FK_LINES[@]}"; do
    case $line in *' "'*'";'*) key="=${line%% \"*}" line=${line#* \"} && FK_APT[$key]=${line%\"\;*} ;; esac
  done
  FK_APT_OF=$FK_FILE
}

# apt_is KEY VALUE [KEY VALUE…]: what APT goes by; of another value the files that name it.
apt_is() {
  local line rest is want word bad='' said='' files
  apt_index || return
  while [ $# -gt 0 ]; do
    is=${FK_APT[=$1]-not set}
    apt_truth "$2" && want=$FK_TRUTH
    apt_truth "$is"
    if [ "$FK_TRUTH" = "$want" ]; then
      said+="$1 $2; "
    else
      bad+=" $1"
      fact apt-lines apt_lines || return
      word=${1##*::} word=${word,,} files=''
      case ${FK_FACT,,} in *"$word"*)
        for line in "${FK_LINES[@]}"; do
          rest=${line#*:} line=${line%%:*}
          case ${rest,,} in *"$word"*) case "$files " in *" $line "*) ;; *) files+=" $line" ;; esac ;; esac
        done
        ;;
      esac
      said+="$1 is $is${files:+, set in$files}; "
    fi
    shift 2
  done
  echo "${bad:+other than wanted:$bad; }$said"
  [ -z "$bad" ]
}

# setting_is FILE NAME VALUE [NAME VALUE…]: the last line of FILE that sets NAME, by a space or =, sets VALUE.
setting_is() {
  local name value line key rest found bad='' said=''
  if [ "${FK_SETTINGS_OF-}" != "$1" ]; then
    read_lines "$1" || return
    FK_SETTINGS=()
    for line in "${FK_LINES[@]}"; do
      case $line in '' | '#'*) ;; *) FK_SETTINGS+=("$line") ;; esac
    done
    FK_SETTINGS_OF=$1
  fi
  shift
  while [ $# -gt 0 ]; do
    name=$1 value=$2 found=''
    shift 2
    for line in "${FK_SETTINGS[@]}"; do
      case $line in *"$name"*) ;; *) continue ;; esac
      IFS=$' \t=' read -r key rest <<< "$line"
      if [ "$key" = "$name" ]; then found=${rest:-yes}; fi
    done
    said+="$name=${found:-unset} "
    [ "$found" = "$value" ] || bad+=" $name"
  done
  echo "$said${bad:+(other than wanted:$bad)}"
  [ -z "$bad" ]
}

# walk_roots: where each file system of this machine begins; a part of one that is mounted again is the same one.
walk_roots() {
  local none=proc,sysfs,cgroup,cgroup2,devpts,mqueue,hugetlbfs,debugfs,tracefs,nsfs,autofs,nfs,nfs4,cifs,ceph,9p,fuse
  findmnt --raw --noheadings --types "no$none" --output MAJ:MIN,TARGET | awk '
    # What a kernel or a container shows there is no part of the system, and memory that belongs to one session is its own.
    $2 ~ /^\/(proc|sys|dev|run)(\/|$)/ && $2 != "/dev/shm" { next }
    $2 ~ /^\/var\/lib\/(fortress|rancher|containerd|machines|kubelet|libvirt\/images)(\/|$)/ { next }
    $2 != "/" && !($1 in seen) { gsub(/\\x20/, " ", $2); print $2 }
    { seen[$1] }'
}

# One walk over the disks for all who ask: set-id files (s), nobody's files (u), directories and files open to everyone (w, f).
# Whether an owner has a name costs a look at /etc/passwd each time: root's has one.
walk() {
  local roots
  roots=$(walk_roots) || return
  mapfile -t roots <<< "$roots"
  [ -n "${roots[0]}" ] || roots=()
  find / "${roots[@]}" -xdev \( -path /proc -o -path /sys -o -path /var/lib/fortress -o -path /var/lib/rancher \
    -o -path /var/lib/containerd -o -path /var/lib/machines -o -path /var/lib/libvirt/images \) -prune -o \
    \( -type f -perm /6000 -printf 's %p\n' , \( ! -uid 0 -nouser -o ! -gid 0 -nogroup \) -printf 'u %p\n' , \
    -type d -perm -0002 ! -perm -1000 -printf 'w %p\n' , -type f -perm -0002 -printf 'f %p\n' \)
}

# walked KIND: prints the paths of one kind; holds when there are none.
walked() {
  local line all=''
  fact walk walk || return
  for line in "${FK_LINES[@]}"; do
    case $line in "$1 "*) all+=" ${line#* }" ;; esac
  done
  echo "${all:-none}"
  [ -z "$all" ]
}

# privileged_rules: an audit rule for each set-id file that walk, on standard input, has found.
privileged_rules() {
  awk '$1 == "s" { print "-a always,exit -F path=" $2 " -F perm=x -F auid>=1000 -F auid!=unset -k privileged" }' |
    LC_ALL=C sort
}
export -f walk walk_roots privileged_rules

# What several checks ask the same program.

# entries DATABASE: FK_ENTRIES becomes a file with all that getent knows: passwd, group, shadow.
entries() {
  sure_fact "getent.$1" all_entries "$1" || return
  # shellcheck disable=SC2034 # controls read it
  FK_ENTRIES=$FK_FACT_OF
}
all_entries() { getent "$1"; }
apt_policy() { apt-cache policy; }

# sudoers_lines: all that sudo reads, whatever it includes, in the words of its own reader: one rule or one default a line.
sudoers_lines() {
  local path said
  path=$(sudo -V | sed --quiet 's/^Sudoers path: //p')
  said=$(cvtsudoers --output-format=sudoers --expand-aliases "$path") || return
  awk '
    { while (sub(/\\$/, "")) { getline more; sub(/^[ \t]+/, " ", more); $0 = $0 more } }
    /^Defaults / {
      n = split(substr($0, 10), part, ", ")
      for (i = 1; i <= n; i++) { gsub(/^ +/, "", part[i]); print "Defaults " part[i] }
      next
    }
    NF' <<< "$said"
}

# sudo_default NAME: FK_SETTING becomes what the last default of that name sets for everybody: yes, no, a value, or nothing.
sudo_default() {
  local line
  FK_SETTING=''
  for line in "${FK_LINES[@]}"; do
    case $line in
      "Defaults $1") FK_SETTING=yes ;;
      "Defaults !$1") FK_SETTING=no ;;
      "Defaults $1="*) FK_SETTING=${line#*=} ;;
    esac
  done
}

# sudo_is NAME VALUE [NAME VALUE…]: so it is for everybody, and nobody, no command and no machine has it otherwise.
sudo_is() {
  local said='' bad=''
  sure_fact sudoers sudoers_lines || return
  while [ $# -gt 0 ]; do
    sudo_default "$1"
    said+="$1=${FK_SETTING:-unset} "
    case "|$2|" in *"|$FK_SETTING|"*) ;; *) bad+=" $1" ;; esac
    ! find_lines "^Defaults[@:!>].*[ ,!]$1([ ,=]|\$)" || bad+=" $1, by ${FK_FOUND//$'\n'/; }"
    shift 2
  done
  echo "$said${bad:+(other than wanted:$bad)}"
  [ -z "$bad" ]
}

# sudo_passwordless: what lets somebody use sudo without a password of their own, one line each.
sudo_passwordless() {
  sure_fact sudoers sudoers_lines || return
  printf '%s\n' "${FK_LINES[@]}" | awk '
    /NOPASSWD:/ { print }
    # Who is exempt, who is somebody else to PAM, and whose password is asked.
    /^Defaults/ && /[ ,](!authenticate|exempt_group|pam_service|pam_login_service|targetpw|rootpw|runaspw)([ ,=]|$)/ { print }'
  # Rules of another source, which its reader of files does not show.
  awk '/^[ \t]*sudoers:/ && !/^[ \t]*sudoers:[ \t]*files[ \t]*$/' /etc/nsswitch.conf
}

# pam_lines: what PAM goes through, service by service, with all that is included: SERVICE KIND CONTROL MODULE WORD…
pam_lines() {
  awk '
    function stack(service, file, only,  path, line, word, n, kind, rest) {
      path = "/etc/pam.d/" file
      if ((getline line < path) < 0) { path = "/usr/lib/pam.d/" file; if ((getline line < path) < 0) return }
      do {
        while (sub(/\\$/, " ", line) && (getline rest < path) > 0) line = line rest
        sub(/#.*/, "", line)
        gsub(/[ \t]+/, " ", line); sub(/^ /, "", line); sub(/ $/, "", line)
        if (line == "") continue
        n = split(line, word, " ")
        if (word[1] == "@include") { stack(service, word[2], only); continue }
        kind = tolower(word[1]); sub(/^-/, "", kind)
        if (only != "" && kind != only) continue
        if (word[2] == "include" || word[2] == "substack") { stack(service, word[3], kind); continue }
        sub(/^[^ ]+ /, "", line)
        if (match(line, /^\[[^]]*\]/)) {
          rest = substr(line, 1, RLENGTH); gsub(/ /, ",", rest)
          line = rest substr(line, RLENGTH + 1)
        }
        sub(/ \/[^ ]*\//, " ", line)
        print service, kind, line
      } while ((getline line < path) > 0)
      close(path)
    }
    BEGIN { for (i = 1; i < ARGC; i++) stack(ARGV[i], ARGV[i], "") }' "$@"
}
pam_all() { pam_lines sudo sudo-i su su-l sshd login passwd chpasswd cron runuser other; }

# pam_of SERVICES: FK_LINES become the lines of one service, or of all whose names match the regular expression.
pam_of() {
  local line service
  fact_file pam
  if [ "${FK_PAM_OF-}" != "$FK_FILE" ]; then
    sure_fact pam pam_all || return
    declare -gA FK_PAM=()
    FK_SERVICES=()
    for line in "${FK_LINES[@]}"; do
      service=${line%% *}
      if [ -z "${FK_PAM[=$service]-}" ]; then FK_SERVICES+=("$service"); else FK_PAM[=$service]+=$'\n'; fi
      FK_PAM[=$service]+=$line
    done
    FK_PAM_OF=$FK_FILE
  fi
  FK_FACT_OF='' FK_LINES=()
  for service in "${FK_SERVICES[@]}"; do
    [[ ! $service =~ ^($1)$ ]] || mapfile -t -O "${#FK_LINES[@]}" FK_LINES <<< "${FK_PAM[=$service]}"
  done
}

# pam_has SERVICES PATTERN: PAM goes through such a line for one of SERVICES.
pam_has() {
  pam_of "$1" || return
  find_lines "^$1 $2" || FK_FOUND=none
  echo "${FK_FOUND//$'\n'/; }"
  [ "$FK_FOUND" != none ]
}

# pam_shortcuts SERVICE: FK_SHORTCUTS become the modules that are enough by themselves, before or in place of the password and
# of the count of wrong ones.
pam_shortcuts() {
  local line counted=''
  FK_SHORTCUTS=''
  pam_of "$1" || return
  [ ${#FK_LINES[@]} -gt 0 ] || return 0 # there is no such service here
  for line in "${FK_LINES[@]}"; do
    case $line in
      "$1 auth "*pam_faillock.so*preauth*) counted=yes && continue ;;
      "$1 auth "*pam_faillock.so*authsucc*) continue ;;
      "$1 auth sufficient "*pam_rootok.so*) case $1 in su | su-l) continue ;; esac ;;
      "$1 auth "*pam_unix.so*) [ -z "$counted" ] || continue ;;
      "$1 auth sufficient "* | "$1 auth "\[*success=[0-9d]*) ;;
      *) continue ;;
    esac
    FK_SHORTCUTS+=$line$'\n'
  done
  [ -n "$counted" ] || FK_SHORTCUTS+="$1 counts no wrong passwords"
  FK_SHORTCUTS=${FK_SHORTCUTS%$'\n'}
}

# session_limits: what PAM sets for sessions of root and of who is asking, whatever we have ourselves.
session_limits() {
  local user
  for user in root "${SUDO_USER:-nobody}"; do
    (
      ulimit -H -c unlimited 2> /dev/null || true # a container may not raise it: there the files have the word
      runuser --user="$user" -- bash -c 'ulimit -H -c'
    )
  done
}
manager_limits() { systemctl show --property=DefaultLimitCORE,DefaultLimitNOFILE; }
login_shell() {
  bash --login -c 'printf umask=; umask; printf TMOUT=; declare -p TMOUT 2>&1; echo "PATH=$PATH"' < /dev/null
}

# systemd_settings: of systemd's own files and their drop-ins, each behind the name of the file and its section.
systemd_settings() {
  systemd-analyze cat-config systemd/journald.conf systemd/coredump.conf systemd/logind.conf systemd/system.conf |
    awk '
      /^# \/[^ ]*\/systemd\/[a-z]+\.conf(\.d\/[^ ]*)?$/ {
        file = $0
        sub(/^.*\/systemd\//, "", file)
        sub(/\.conf.*/, "", file)
        part = ""
      }
      /^\[/ { part = $0 }
      /^[A-Za-z]+=/ { print file part $0 }'
}

# systemd_sets FILE[SECTION] NAME VALUE [NAME VALUE…]: the last line that sets NAME there sets VALUE; a|b allows either.
systemd_sets() {
  local part=$1 said='' bad=''
  shift
  fact systemd systemd_settings || return
  while [ $# -gt 0 ]; do
    setting "$part$1"
    said+="$1=$FK_SETTING "
    case "|$2|" in *"|$FK_SETTING|"*) ;; *) bad+=" $1" ;; esac
    shift 2
  done
  echo "$said${bad:+(other than wanted:$bad)}"
  [ -z "$bad" ]
}

socket_lines() { ss --no-header --listening --tcp --udp --numeric --processes; }

# nobody_listens PROTOCOL PORT|PORT… [ADDRESS…]: on none of these ports, but on addresses that begin so (a regular expression).
nobody_listens() {
  local line found='' pattern="^$1 +[^ ]+ +[^ ]+ +[^ ]+ +([^ ]+):($2) "
  sure_fact sockets socket_lines || return
  for line in "${FK_LINES[@]}"; do
    [[ $line =~ $pattern ]] || continue
    line=${BASH_REMATCH[1]}:${BASH_REMATCH[2]}
    [ -n "${3-}" ] && [[ $line =~ ^($3) ]] || found+=" $line"
  done
  echo "listening:${found:- none}"
  [ -z "$found" ]
}

# Lists of what is not as it should be: one word for the question and for its cure.
system_shells() {
  getent passwd |
    awk -F : '$3 < 1000 && $1 != "root" && $7 !~ /(\/nologin|\/bin\/sync|\/sbin\/shutdown|\/sbin\/halt)$/ { print $1 }'
}
# clear_swaps: swap whose content somebody could read on a disk. A name says nothing: what lies below decides.
clear_swaps() {
  local swap type name
  swapon --noheadings --raw --show=NAME,TYPE | while read -r swap type; do
    if [ "$type" = file ]; then name=$(disks_of "$swap"); else name=$(readlink --canonicalize "$swap"); fi
    for name in $name; do
      encrypted "${name##*/}" || { printf '%s\n' "$swap"; break; }
    done
  done
}
shm_lines() { awk '$1 !~ /^#/ && $2 == "/dev/shm"' "$1"; }
endless_passwords() { getent shadow | awk -F : '$2 !~ /^[!*]/ && $2 != "" && ($5 == "" || $5 > 365) { print $1 }'; }
open_logs() { find /var/log -xdev -type f -perm /0137 ! -name 'wtmp*' ! -name 'btmp*' ! -name 'lastlog*' ! -name '*.journal*'; }

# open_homes: homes that others read or write, and the files in them that shells start with.
open_homes() {
  getent passwd | awk -F : '$3 >= 1000 && $3 < 65534 { print $6 }' | while IFS= read -r home; do
    [ -d "$home" ] || continue
    find "$home" -maxdepth 0 -perm /0027
    find "$home" -maxdepth 1 -type f -name '.*' -perm /0037
  done
}

# slack_profiles PATTERN: files of AppArmor profiles whose flags match, and that are not disabled.
slack_profiles() {
  local path
  { grep --directories=skip --files-with-matches --extended-regexp -e "$1" /etc/apparmor.d/* || true; } |
    while IFS= read -r path; do
      [ -e "/etc/apparmor.d/disable/${path##*/}" ] || echo "$path"
    done
}
export -f system_shells shm_lines clear_swaps endless_passwords open_logs open_homes slack_profiles
