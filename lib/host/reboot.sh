# shellcheck shell=bash
# Why a host has to start anew before what was installed there works.

# reboot_reason: one line for each reason; nothing where it need not.
reboot_reason() {
  local said package began
  if [ -e /run/reboot-required ]; then
    said=$(sort --unique /run/reboot-required.pkgs 2> /dev/null | head --lines=3 | paste --serial --delimiters=' ')
    printf '%s\n' "${said:-a package asks for it}"
  elif command -v needrestart > /dev/null; then
    # Where nobody asks for it, a newer kernel may be installed all the same: state 2 or 3.
    needrestart -b -k 2> /dev/null | awk '
      { sub(/\r$/, "") }
      $1 == "NEEDRESTART-KCUR:" { runs = $2 }
      $1 == "NEEDRESTART-KEXP:" { waits = $2 }
      $1 == "NEEDRESTART-KSTA:" && $2 > 1 { print "kernel " waits " is installed, and " runs " runs" }'
  fi
  # Microcode is loaded at the start alone.
  began=$(($(date +%s) - $(cut --delimiter=. --fields=1 /proc/uptime)))
  for package in intel-microcode amd64-microcode; do
    said=$(stat --format=%Y "/var/lib/dpkg/info/$package.list" 2> /dev/null) || continue # it is not installed
    [ "$said" -le "$began" ] || printf '%s was installed since the last start\n' "$package"
  done
}
export -f reboot_reason
