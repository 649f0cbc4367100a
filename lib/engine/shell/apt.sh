# shellcheck shell=bash
# Packages while somebody else is at them: on a fresh machine that is unattended-upgrades, for minutes.

# apt_get WORD…: apt-get, once no other program holds its locks. It says whom it waits for, and gives up after some minutes.
apt_get() {
  local said rc held before='' until=$((SECONDS + ${FK_APT_SECONDS:-600}))
  while :; do
    rc=0
    said=$(DEBIAN_FRONTEND=noninteractive apt-get --quiet=2 --yes --option DPkg::Lock::Timeout=0 "$@" 2>&1 4>&-) || rc=$?
    held=$(grep --max-count=1 --extended-regexp 'Could not get lock|Unable to (acquire|lock)' <<< "$said") || held=''
    if [ "$rc" -eq 0 ] || [ -z "$held" ] || [ "$SECONDS" -ge "$until" ]; then break; fi
    [ "$held" = "$before" ] || apt_says "waiting for another program that installs packages: $held"
    before=$held
    sleep 2
  done
  if [ "$rc" -ne 0 ] && [ -n "$held" ]; then echo "another program still installs packages after ${FK_APT_SECONDS:-600} s:"; fi
  [ -z "$said" ] || printf '%s\n' "$said"
  return "$rc"
}

# apt_says SENTENCE: to the person who watches.
apt_says() { if [ -n "${FK_SAYS-}" ]; then printf '%s\tnote\t%s\n' "$FK_SAYS" "$1" >&4; else printf '%s\n' "$1" >&2; fi; }
export -f apt_get apt_says
