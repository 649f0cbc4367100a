# shellcheck shell=bash
# Files are written whole or not at all. These functions are part of every program that applies, and of printed pages.
: "${FK_STATE:=/var/lib/fortress}"

# put PATH MODE OWNER [TEST]: standard input becomes PATH. TEST is bash and sees the candidate as $new.
# The old file waits in pending/ until `put_finish PATH`, so that a run killed before its reload does not look finished.
put() {
  local path=$1 mode=$2 owner test=${4-} new pending
  owner=$(put_owner "$3")
  new=$(dirname "$path")/.$(basename "$path").fortress
  pending=$FK_STATE/pending/${path//\//%}
  record_before "$path"
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

# put_owner OWNER: who is not root, as on the laptop, owns what he writes.
put_owner() { if [ "$EUID" -eq 0 ]; then echo "$1"; else echo "$(id --user --name):$(id --group --name)"; fi; }

# put_finish PATH: the commands that follow the file have run.
put_finish() { rm --recursive --force "$FK_STATE/pending/${1//\//%}" "$FK_STATE/pending/${1//\//%}.part"; }

# put_finished PATH: no change of PATH waits for the commands that follow it.
put_finished() { [ ! -e "$FK_STATE/pending/${1//\//%}" ]; }

# put_restore PATH: the file that `put` replaced returns.
put_restore() {
  local pending=$FK_STATE/pending/${1//\//%}
  [ -d "$pending" ] || return 0
  if [ -e "$pending/old" ] || [ -L "$pending/old" ]; then
    mv --force --no-target-directory "$pending/old" "$1"
  else
    rm --force "$1"
  fi
  put_finish "$1"
}

# put_forget: of secrets that are gone, or are others by now, no digest stays.
put_forget() {
  local seen
  [ -d "$FK_STATE/secret" ] || return 0
  find "$FK_STATE/secret" -type f -name '*.sha256' | while IFS= read -r seen; do
    sha256sum --check --status "$seen" 2> /dev/null && continue
    record_before "$seen" && record_before "$seen.around" # a rollback brings the secret back
    rm --force "$seen" "$seen.around"
  done
  find "$FK_STATE/secret" -depth -type d -empty -delete
}

# received PATH: FK_PART is the file beside PATH that was uploaded for it, and FK_DIGEST its digest, which the sender verified;
# another file is deleted. FK_SENT has a line for everything that was sent: digest, path.
received() {
  FK_DIGEST=$(awk -v path="$1" '{ d = $1; sub(/^[^ ]* /, "") } $0 == path { print d }' <<< "$FK_SENT")
  [ -n "$FK_DIGEST" ] || { echo "nothing was sent for $1" >&2; return 1; }
  FK_PART=$(dirname "$1")/.$(basename "$1").${FK_DIGEST:0:16}.part
  printf '%s  %s\n' "$FK_DIGEST" "$FK_PART" | sha256sum --check --status || {
    rm --force "$FK_PART"
    echo "what arrived for $1 is not what was sent; it is deleted, and sent again by the next run" >&2
    return 1
  }
}

# put_matches PATH SHA256 MODE OWNER: PATH has this content, and nothing is left to follow; 2 says that only mode or owner
# differ.
put_matches() {
  local is
  # Checked for all files at once, and nothing has changed since.
  [[ ${FK_MATCHES-} != *$'\n'"$*"$'\n'* ]] || return 0
  [[ ${FK_DIFFERS-} != *$'\n'"$*"$'\n'* ]] || return 1
  put_finished "$1" && [ -f "$1" ] && [ ! -L "$1" ] && printf '%s  %s\n' "$2" "$1" | sha256sum --check --status || return 1
  is=$(stat --format='%a %U:%G' "$1")
  [ "$is" = "$3 $(put_owner "$4")" ] || { printf 'mode and owner are %s, and should be %s %s\n' "$is" "$3" "$4"; return 2; }
}
export -f put put_owner put_finish put_finished put_restore put_forget received put_matches
export FK_STATE
