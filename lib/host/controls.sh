# shellcheck shell=bash
# The functions of controls: each prints what it found and returns 0 (holds) or 1 (does not), or leaves with 100 (does not
# apply here) or 101 (holds after the next start). Everything is read-only and asks the running system; what several controls
# need is read once.
#
# These return their answer where others may exit, and leave nothing behind; program.ts reads which:
# in one shell: sysctl_is cmdline_has module_blocked mount_has mode_is modes_are package_present package_absent unit_is
# in one shell: sshd_is audit_has apt_is setting_is systemd_sets nobody_listens none_of walked has_line

FK_CONTAINER=$(systemd-detect-virt --container) || FK_CONTAINER=''

na() {
  echo "$*"
  exit 100
}

# fact NAME FUNCTION…: FK_FACT becomes what FUNCTION says, FK_LINES its lines and FK_KNOWN its exit code, kept until something
# changes. Of those who ask side by side one finds it out, and the others wait.
fact() {
  local round=before file
  # fk_holds tells us where we are: after a step has changed something, nothing that was known before counts.
  if [ "${phase-before}" = after ]; then round=after.${n-0}; fi
  file=${FK_FACTS-$FK_TMP}/fact.$1.$round
  # Only a function: without one the answer would be empty, and what must not be there would not be missed.
  declare -F "$2" > /dev/null || { echo "$2 is not defined" >&2; return 1; }
  [ "$file" != "${FK_FACT_OF-}" ] || return 0
  until [ -s "$file.known" ]; do
    fact_is_mine "$file" || { fact_pause; continue; }
    [ "$round" = before ] || rm --force "$FK_TMP"/fact.*.before*
    FK_KNOWN=0
    "${@:2}" > "$file" 2> /dev/null || FK_KNOWN=$? # an empty answer is an answer: the control says what it misses
    echo "$FK_KNOWN" > "$file.known"
  done
  read -r FK_KNOWN < "$file.known"
  mapfile -t FK_LINES < "$file"
  printf -v FK_FACT '%s\n' "${FK_LINES[@]}"
  FK_FACT=$'\n'$FK_FACT
  FK_FACT_OF=$file # FK_LINES and FK_FACT are its, until somebody puts something else there
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

# sure_fact NAME FUNCTION: the same where an empty answer is a good one: it fails when FUNCTION did.
sure_fact() {
  fact "$@" || return
  [ "$FK_KNOWN" -eq 0 ] || { echo "$2 ended with $FK_KNOWN"; return 1; }
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
  [ -z "$host" ] || { echo "the kernel is the host's, not this container's:$host"; return 100; }
  [ -n "$held" ] || { echo "this kernel has no$absent"; return 100; }
}

# cmdline_has ARGUMENT…: the running kernel was started with them.
cmdline_has() {
  local argument wanting=() running
  [ -z "$FK_CONTAINER" ] || { echo "the kernel is the host's, not this container's"; return 100; }
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
    return 101
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
  fact boot boot_lines || return
  [ "$FK_FACT" != $'\n\n' ] || return 1
  for line in "${FK_LINES[@]}"; do
    [ -n "$line" ] || continue
    for argument; do
      case " $line " in *" $argument "*) ;; *) return 1 ;; esac
    done
  done
}

modprobe_config() { modprobe --showconfig | awk '/^(install|blacklist) / { gsub(/-/, "_"); print }'; }

# module_blocked MODULE…: modprobe refuses them, udev does not ask, and none is loaded.
module_blocked() {
  local module name open='' loaded='' inside=''
  fact modprobe modprobe_config || return
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
    return 101
  elif [ "$inside" = " $*" ]; then
    echo "built into this kernel:$inside"
    return 100
  else
    echo "modprobe refuses $*; not loaded${inside:+; built into this kernel:$inside}"
  fi
}

mount_lines() { findmnt --raw --noheadings --output TARGET,OPTIONS; }

# mount_has DIRECTORY OPTIONS [if-mounted]: the mount that is on top there has all of them.
mount_has() {
  local line unit found='' option missing=''
  fact mounts mount_lines || return
  for line in "${FK_LINES[@]}"; do
    if [ "${line%% *}" = "$1" ]; then found=${line#* }; fi
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
  echo "$1: $found${missing:+ (without$missing)}"
  [ -z "$missing" ]
}

# shellcheck disable=SC2086 # one word for each path
path_modes() { stat --format='%n %a %U:%G' -- $FK_PATHS; }

# mode_is MODE OWNERS PATH…: each path that exists has no more than MODE, and one of OWNERS (user:group,…); - allows any.
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
  local mode=${1/#-/7777} owners=$2 path got owner all said='' bad=''
  shift 2
  # What the controls ask about is looked at once for all of them.
  case " $FK_PATHS " in
    *" $* "*) fact modes path_modes && all=$FK_FACT ;;
    *) all=$'\n'$(stat --format='%n %a %U:%G' -- "$@" 2> /dev/null)$'\n' || true ;; # one of them may not be there
  esac
  for path; do
    [[ $all =~ $'\n'"$path "([0-7]+)\ ([^$'\n']+) ]] || continue # there is none
    got=${BASH_REMATCH[1]} owner=${BASH_REMATCH[2]}
    said+=" $path $got $owner"
    if (((8#$got & ~8#$mode) != 0)); then bad+=" $path"; fi
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
  fact packages package_states || return
  for package; do
    case $FK_FACT in *$'\n'"$package installed"$'\n'*) ;; *) missing+=" $package" ;; esac
  done
  echo "${missing:+not installed:$missing; }asked for: $*"
  [ -z "$missing" ]
}

package_absent() {
  local package there=''
  fact packages package_states || return
  for package; do
    case $FK_FACT in *$'\n'"$package installed"$'\n'*) there+=" $package" ;; esac
  done
  echo "${there:+installed:$there; }looked for: $*"
  [ -z "$there" ]
}

# shellcheck disable=SC2086 # one word for each unit
unit_states() {
  systemctl show --timestamp=unix --property=Id,LoadState,UnitFileState,ActiveState,StateChangeTimestamp $FK_UNITS |
    awk -v RS= '{ $1 = $1; print }'
}

# unit_says PROPERTY UNIT: FK_SETTING becomes what systemd says of it, empty where it is not set.
unit_says() {
  local line
  fact units unit_states || return
  FK_SETTING=''
  for line in "${FK_LINES[@]}"; do
    case " $line " in *" Id=$2 "*) [[ ! " $line" =~ \ $1=([^ ]*) ]] || FK_SETTING=${BASH_REMATCH[1]} ;; esac
  done
}

# unit_is STATE UNIT…: enabled, active, on (both), masked, or off (neither enabled nor active; absent is off).
unit_is() {
  local state=$1 unit line bad='' said='' file active load
  shift
  fact units unit_states || return
  for unit; do
    case $unit in *.*) ;; *) unit+=.service ;; esac
    load='' file='' active=''
    for line in "${FK_LINES[@]}"; do
      case " $line " in *" Id=$unit "*)
        [[ $line =~ LoadState=([a-z-]*) ]] && load=${BASH_REMATCH[1]}
        [[ $line =~ UnitFileState=([a-z-]*) ]] && file=${BASH_REMATCH[1]}
        [[ $line =~ ActiveState=([a-z-]*) ]] && active=${BASH_REMATCH[1]}
        ;;
      esac
    done
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
  local bad='' said=''
  fact sshd sshd_effective || return
  while [ $# -gt 0 ]; do
    case $FK_FACT in *$'\n'"$1 $2"$'\n'*) ;; *) bad+=" $1" ;; esac
    [[ ! $FK_FACT =~ $'\n'("$1 "[^$'\n']*) ]] || said+="${BASH_REMATCH[1]}; "
    shift 2
  done
  echo "${bad:+other than wanted:$bad; }${said:-sshd -T says nothing}"
  [ -z "$bad" ]
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

# apt_is KEY VALUE [KEY VALUE…]: what APT goes by; of another value the files that name it.
apt_is() {
  local line rest is want settings word bad='' said='' files
  fact apt apt_settings || return
  settings=$FK_FACT
  while [ $# -gt 0 ]; do
    is='not set'
    case $settings in *$'\n'"$1 \""*) [[ $settings =~ .*$'\n'"$1 \""([^$'\n']*)'";' ]] && is=${BASH_REMATCH[1]} ;; esac
    apt_truth "$2" && want=$FK_TRUTH
    apt_truth "$is"
    if [ "$FK_TRUTH" = "$want" ]; then
      said+="$1 $2; "
    else
      bad+=" $1"
      fact apt-lines apt_lines || return
      word=${1##*::} files=''
      for line in "${FK_LINES[@]}"; do
        rest=${line#*:} line=${line%%:*}
        case ${rest,,} in *"${word,,}"*) case "$files " in *" $line "*) ;; *) files+=" $line" ;; esac ;; esac
      done
      said+="$1 is $is${files:+, set in$files}; "
    fi
    shift 2
  done
  echo "${bad:+other than wanted:$bad; }$said"
  [ -z "$bad" ]
}

# setting_is FILE NAME VALUE [NAME VALUE…]: the last line of FILE that sets NAME, by a space or =, sets VALUE.
setting_is() {
  local name value line key rest found lines=() bad='' said=''
  read_lines "$1" || return
  shift
  for line in "${FK_LINES[@]}"; do
    case $line in '' | '#'*) ;; *) lines+=("$line") ;; esac
  done
  while [ $# -gt 0 ]; do
    name=$1 value=$2 found=''
    shift 2
    for line in "${lines[@]}"; do
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

# One walk over the disk for all who ask: set-id files (s), nobody's files (u), directories and files open to everyone (w, f).
# Whether an owner has a name costs a look at /etc/passwd each time: root's has one.
walk() {
  find / -xdev \( -path /proc -o -path /sys -o -path /var/lib/fortress -o -path /var/lib/rancher -o -path /var/lib/containerd \
    -o -path /var/lib/machines -o -path /var/lib/libvirt/images \) -prune -o \
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
export -f walk privileged_rules

# What several checks ask the same program.
sudoers_lines() { grep --recursive --text '' /etc/sudoers /etc/sudoers.d; }
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
  awk -F : '$3 < 1000 && $1 != "root" && $7 !~ /(\/nologin|\/bin\/sync|\/sbin\/shutdown|\/sbin\/halt)$/ { print $1 }' /etc/passwd
}
clear_swaps() {
  swapon --noheadings --raw --show=NAME |
    grep --invert-match --extended-regexp '^/dev/(zram|dm-|mapper/)' || [ $? -eq 1 ]
}
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
  { grep --directories=skip --files-with-matches --extended-regexp -e "$1" /etc/apparmor.d/* || true; } |
    while IFS= read -r path; do
      [ -e "/etc/apparmor.d/disable/${path##*/}" ] || echo "$path"
    done
}
export -f system_shells shm_lines clear_swaps endless_passwords open_logs open_homes slack_profiles
