#!/bin/bash
# fortress-backup: bundles of the cluster of this node, each one file that only the owner's age identities decrypt.
#   make                makes one now, uploads it to every place of /etc/fortress/backup/settings, and deletes the oldest there
#   list                the bundles of each place: place, name, bytes
#   fetch PLACE NAME    downloads one from a place to this node, and prints its path
#   append-only PLACE   asks a place whether it refuses to delete and to overwrite; 102: it could not be asked
# A bundle is a tar: manifest.json with the digest of everything else, a snapshot of etcd, the tokens, the CAs, the keys by which
# Secrets are encrypted, and the configuration of k3s. Only the snapshot that k3s takes itself touches a disk in clear.
set -euo pipefail
umask 077
export LC_ALL=C.UTF-8 PATH=/opt/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin

settings=/etc/fortress/backup
home=/var/lib/fortress/backup
notes=$home/notes
data=/var/lib/rancher/k3s/server
etc=/etc/rancher
SITE='' NODE='' KEEP=14 DIRECTORY='' SSH_HOST='' SSH_PORT=22 SSH_USER='' SSH_PATH='' SSH_APPEND_ONLY=''
S3_ENDPOINT='' S3_BUCKET='' S3_REGION='' S3_PREFIX='' S3_APPEND_ONLY=''
# shellcheck disable=SC1091 # written by the page
. "$settings/settings"
mine=fortress-backup_${SITE}_${NODE}_
work=''

no() {
  printf '%s\n' "$*" >&2
  return 1
}

# kubectl WORD...: as the admin of the cluster.
kubectl() { timeout 60 /opt/bin/k3s kubectl --kubeconfig "$etc/k3s/k3s.yaml" "$@"; }

# note PLACE NAME BYTES ok|failed [WHY]: the last of each place, and the last good one, for ./task status.
note() {
  local line why=${5-}
  why=${why//[$'\t\n\r']/ }
  line=$(printf '%(%Y-%m-%dT%H:%M:%SZ)T\t%s\t%s\t%s\t%s' -1 "$2" "$3" "$4" "${why:0:500}")
  install --directory --mode=700 "$notes"
  printf '%s\n' "$line" > "$notes/$1.part"
  mv --force "$notes/$1.part" "$notes/$1"
  [ "$4" = failed ] || cp --force "$notes/$1" "$notes/$1.good"
}

# ours: the names on standard input that are bundles of this node, the oldest first. Their times sort as text.
ours() { grep --extended-regexp --line-regexp "${mine}[0-9]{8}T[0-9]{6}Z\.age" | sort || true; }

# surplus: the names on standard input without the newest KEEP.
surplus() { ours | head --lines="-$KEEP"; }

# room DIR BYTES: that many bytes fit there, with some space left.
room() {
  local free
  free=$(df --output=avail --block-size=1 "$1" | tail --lines=1)
  [ "$free" -gt $(($2 + 16777216)) ] || no "$1 has $((free / 1048576)) MiB left, and $(($2 / 1048576 + 16)) MiB are needed"
}

# places: where bundles are uploaded, beside this node.
places() {
  [ -z "$DIRECTORY" ] || echo directory
  [ -z "$SSH_HOST" ] || echo ssh
  [ -z "$S3_BUCKET" ] || echo s3
}

# append_only PLACE: it keeps what it has whatever this node wants: nothing is deleted or replaced there from here.
append_only() { case $1 in ssh) [ -n "$SSH_APPEND_ONLY" ] ;; s3) [ -n "$S3_APPEND_ONLY" ] ;; *) false ;; esac }

node_list() { find "$home" -maxdepth 1 -type f -name "$mine*.age" -printf '%f %s\n'; }
node_delete() { rm --force "$home/$1"; }

directory_there() { [ -d "$DIRECTORY" ] || no "$DIRECTORY is not there: is its disk mounted?"; }
directory_put() {
  directory_there || return
  room "$DIRECTORY" "$(stat --format=%s "$home/$1")" || return
  { cp "$home/$1" "$DIRECTORY/$1.part" && sync "$DIRECTORY/$1.part" && cmp "$home/$1" "$DIRECTORY/$1.part" &&
    mv --force --no-target-directory "$DIRECTORY/$1.part" "$DIRECTORY/$1" && sync "$DIRECTORY"; } || {
    rm --force "$DIRECTORY/$1.part"
    return 1
  }
}
directory_list() { directory_there && find "$DIRECTORY" -maxdepth 1 -type f -name "$mine*.age" -printf '%f %s\n'; }
directory_delete() { rm "$DIRECTORY/$1"; }
directory_get() { directory_there && cp "$DIRECTORY/$1" "$2"; }

# ssh_do: batch commands of sftp on standard input; the first that fails ends it. The host key is the one of the site document.
ssh_do() {
  { printf 'cd "%s"\n' "$SSH_PATH" && cat; } |
    timeout 3600 sftp -q -b - -F /dev/null -P "$SSH_PORT" -i "$settings/ssh-key" \
      -o IdentitiesOnly=yes -o BatchMode=yes -o StrictHostKeyChecking=yes -o "UserKnownHostsFile=$settings/known_hosts" \
      -o GlobalKnownHostsFile=/dev/null -o HostKeyAlias=backup -o CheckHostIP=no -o ConnectTimeout=20 \
      -o ServerAliveInterval=15 "$SSH_USER@$SSH_HOST"
}
ssh_list() { ssh_do <<< 'ls -ln' | awk '!/^sftp>/ { print $NF, $5 }'; }
ssh_put() {
  local there
  if append_only ssh; then
    # Under its name at once: a file that is there can be neither renamed nor written again.
    ssh_do > /dev/null <<< "put -f \"$home/$1\" \"$1\"" || return
  else
    ssh_do > /dev/null << COMMANDS || return
-rm "$1.part"
put "$home/$1" "$1.part"
-rm "$1"
rename "$1.part" "$1"
COMMANDS
  fi
  there=$(ssh_list | awk -v name="$1" '$1 == name { print $2 }')
  [ "$there" = "$(stat --format=%s "$home/$1")" ] || no "$SSH_HOST has ${there:-none} of its $(stat --format=%s "$home/$1") bytes"
}
ssh_delete() { ssh_do <<< "rm \"$1\"" > /dev/null; }
ssh_get() { ssh_do <<< "get \"$1\" \"$2\"" > /dev/null; }

# ssh_append_only: a server that may not do a thing says so before it looks whether there is a file of that name.
ssh_append_only() {
  local said word line writable SSH_PATH=$SSH_PATH
  said=$(ssh_do 2>&1 << 'COMMANDS'
-rm .fortress-probe
-rename .fortress-probe .fortress-probe-2
-chmod 600 .fortress-probe
ls -ln
COMMANDS
  ) || { tail --bytes=300 <<< "$said" && return 102; }
  for word in delete rename setstat; do
    line=$(grep --ignore-case --max-count=1 "$word.*\.fortress-probe.*: " <<< "$said") || line="no word of $word"
    case $line in *'Permission denied'*) ;; *) no "$SSH_HOST lets this key $word files: $line" || return ;; esac
  done
  writable=$(awk '$1 ~ /^-.*w/ { print $NF }' <<< "$said" | ours)
  [ -z "$writable" ] ||
    no "$SSH_HOST lets this key overwrite files: $(head --lines=1 <<< "$writable") has a w in its mode" || return
  # What a key may do stands in a file that the account must not be able to write. It is seen from its home, if it is there.
  SSH_PATH=.
  said=$(ssh_do 2> /dev/null <<< '-ls -lna .ssh' | awk '/^[d-]/ && $3 != 0 && $NF !~ /(^|\/)\.\.$/ { print $NF }')
  [ -z "$said" ] ||
    no "$SSH_HOST lets this key overwrite what it may: .ssh there belongs to the account ($(head --lines=1 <<< "$said"))"
}

# s3_do URL-PATH WORD...: a signed request. The key is in a file that curl reads itself. The digest of the content is signed, too:
# an upload with another digest is refused, and an object is complete or absent. Older versions of curl sign none by themselves.
s3_do() {
  local path=$1 digest=${digest:-e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855}
  shift
  curl --silent --show-error --fail-with-body --connect-timeout 20 --max-time 3600 --proto =http,https --config "$settings/s3" \
    --aws-sigv4 "aws:amz:$S3_REGION:s3" --header "x-amz-content-sha256: $digest" "$@" "$S3_ENDPOINT/$S3_BUCKET$path"
}
s3_said() { sed --quiet 's|.*<Code>\([^<]*\)</Code>.*|\1|p' <<< "$1" | head --lines=1; }
s3_put() {
  local said digest md5
  digest=$(sha256sum "$home/$1" | cut --delimiter=' ' --fields=1)
  # A bucket whose objects are locked takes none without it.
  md5=$(md5sum "$home/$1" | cut --bytes=-32 | sed 's/../\\x&/g')
  # shellcheck disable=SC2059 # its bytes
  md5=$(printf "$md5" | base64)
  said=$(s3_do "/$S3_PREFIX$1" --header "content-md5: $md5" --upload-file "$home/$1" 2>&1) ||
    no "$(s3_said "$said") $(tail --bytes=300 <<< "$said")"
}
s3_list() {
  local said found after='' prefix=$S3_PREFIX$mine
  while :; do
    said=$(s3_do "?list-type=2&max-keys=1000&prefix=${prefix//\//%2F}${after:+&start-after=${after//\//%2F}}") ||
      no "$(s3_said "$said")" || return
    found=$(sed 's|<Contents>|\n&|g' <<< "$said" |
      sed --quiet --expression='s|^<Contents>.*<Key>\([^<]*\)</Key>.*<Size>\([0-9]*\)</Size>.*|\1 \2|p' \
        --expression='s|^<Contents>.*<Size>\([0-9]*\)</Size>.*<Key>\([^<]*\)</Key>.*|\2 \1|p')
    [ -z "$found" ] || while read -r key size; do printf '%s %s\n' "${key#"$S3_PREFIX"}" "$size"; done <<< "$found"
    case $said in *'<IsTruncated>true<'*) ;; *) return 0 ;; esac
    # The next thousand: an answer without an end would be the same again.
    [ "$after" != "${found##*$'\n'}" ] && after=${found##*$'\n'} && after=${after%% *} && [ -n "$after" ] || return
  done
}
s3_delete() { s3_do "/$S3_PREFIX$1" --request DELETE > /dev/null; }
s3_get() { s3_do "/$S3_PREFIX$1" --output "$2"; }

# s3_append_only: the bucket keeps every version, and this key deletes none; or nobody does until the time of the lock is over.
s3_append_only() {
  local said kind probe=${S3_PREFIX}fortress-probe
  # Older versions of curl sign a word without = in another way than servers do.
  if ! said=$(s3_do '?versioning=' 2>&1); then
    echo "the bucket does not say whether it keeps versions: $(s3_said "$said")"
    return 102
  fi
  [[ $said == *'<Status>Enabled</Status>'* ]] ||
    no "the bucket $S3_BUCKET keeps no versions: an upload of the same name overwrites a bundle" || return
  said=$(s3_do '?object-lock=' 2>&1) || said='' # not every storage has locks
  if [[ $said == *'<Mode>COMPLIANCE</Mode>'* ]]; then
    echo 'locked (COMPLIANCE): nobody deletes a version before its time'
    return
  fi
  for kind in '' '?versionId=null'; do
    if said=$(s3_do "/$probe$kind" --request DELETE 2>&1); then
      no "this key may delete objects${kind:+ and their versions} of the bucket $S3_BUCKET, and nothing is locked there" || return
    fi
    [ "$(s3_said "$said")" = AccessDenied ] || { tail --bytes=300 <<< "$said" && return 102; }
  done
  echo 'every version is kept, and this key deletes none'
}

# uploaded PLACE NAME: the upload is complete or absent; then the oldest are deleted there, never this one, and no foreign file. A
# place that is append-only deletes them itself.
uploaded() {
  local place=$1 name=$2 said old bytes
  bytes=$(stat --format=%s "$home/$name")
  if said=$("${place}_put" "$name" 2>&1); then
    note "$place" "$name" "$bytes" ok
  else
    note "$place" "$name" "$bytes" failed "$said"
    no "$place: $said" || return
  fi
  ! append_only "$place" || return 0
  for old in $("${place}_list" | cut --delimiter=' ' --fields=1 | surplus); do
    [ "$old" = "$name" ] || "${place}_delete" "$old" || no "$place: $old is kept longer than it should be" || return
  done
}

# canary KIND VALUE: an object that changes with every backup: its value proves which backup was restored.
canary() {
  local field=data
  [ "$1" = ConfigMap ] || field=stringData
  printf 'apiVersion: v1\nkind: %s\nmetadata: {name: canary, namespace: fortress-canary}\n%s: {value: "%s"}\n' "$1" "$field" "$2"
}

digest() { sha256sum | cut --delimiter=' ' --fields=1; }

# collect: the parts of the bundle in $work; large files are only named there.
collect() {
  local secret config file snapshot path
  secret=$(od --address-radix=n --format=x1 --read-bytes=32 /dev/urandom | tr --delete ' \n')
  config=$(od --address-radix=n --format=x1 --read-bytes=32 /dev/urandom | tr --delete ' \n')
  {
    printf 'apiVersion: v1\nkind: Namespace\nmetadata: {name: fortress-canary}\n---\n'
    canary Secret "$secret"
    printf -- '---\n'
    canary ConfigMap "$config"
  } | kubectl apply --server-side --force-conflicts --field-manager=fortress-backup --filename=- > /dev/null ||
    no 'the canary cannot be written: does the API answer?' || return
  # The name distinguishes it from the snapshots that k3s takes on its own schedule.
  /opt/bin/k3s etcd-snapshot save --name fortress-backup > "$work/said" 2>&1 ||
    no "k3s takes no snapshot: $(tail --lines=1 "$work/said")" || return
  snapshot=$(find "$data/db/snapshots" -maxdepth 1 -type f -name 'fortress-backup-*' -printf '%T@ %p\n' |
    sort --numeric-sort | tail --lines=1 | cut --delimiter=' ' --fields=2-)
  [ -n "$snapshot" ] && [ "$(stat --format=%Y "$snapshot")" -ge "$began" ] ||
    no 'k3s says that it took a snapshot, and there is none' || return
  mkdir "$work/bundle" "$work/bundle/snapshot"
  ln --symbolic "$snapshot" "$work/bundle/snapshot/"
  for path in "$etc"/k3s "$etc"/node/password; do
    [ ! -e "$path" ] || find "$path" -type f ! -name k3s.yaml ! -name '.*' -print
  done > "$work/files"
  for path in token agent-token cred/encryption-config.json cred/encryption-state.json cred/passwd cred/ipsec.psk \
    tls/service.key tls/{client,server,request-header,etcd/server,etcd/peer}-ca.{crt,key}; do
    [ ! -e "$data/$path" ] || printf '%s\n' "$data/$path"
  done >> "$work/files"
  while read -r path; do
    case $path in "$etc"/*) file=rancher/${path#"$etc/"} ;; *) file=server/${path#"$data/"} ;; esac
    install --directory --mode=700 "$(dirname "$work/bundle/$file")"
    cp --dereference "$path" "$work/bundle/$file"
  done < "$work/files"
  [ -s "$work/bundle/server/token" ] && [ -s "$work/bundle/rancher/k3s/token" ] ||
    no "the token is missing, without which no snapshot opens: $data/token" || return
  {
    printf '{\n  "format": 1,\n  "site": "%s",\n  "node": "%s",\n' "$SITE" "$NODE"
    printf '  "time": "%s",\n' "$(date --utc --date="@$began" +%Y-%m-%dT%H:%M:%SZ)"
    printf '  "k3s": "%s",\n' "$(/opt/bin/k3s --version | awk '/^k3s version / { print $3 }')"
    printf '  "address": "%s",\n' "$(kubectl get node "$NODE" --output \
      jsonpath='{.status.addresses[?(@.type=="InternalIP")].address}' | cut --delimiter=' ' --fields=1)"
    printf '  "revision": "%s",\n' "$(kubectl get configmap canary --namespace fortress-canary --output \
      jsonpath='{.metadata.resourceVersion}')"
    printf '  "database": %s,\n' "$(stat --format=%s "$data/db/etcd/member/snap/db")"
    printf '  "authority": "%s",\n' \
      "$(sed --quiet --regexp-extended 's/^K10([0-9a-f]{64})::.*/\1/p' "$work/bundle/server/token")"
    printf '  "canary": { "secret": "%s", "configmap": "%s" },\n  "files": [' \
      "$(printf %s "$secret" | digest)" "$(printf %s "$config" | digest)"
    path=''
    while read -r file; do
      printf '%s\n    { "name": "%s", "bytes": %s, "sha256": "%s" }' "$path" "$file" \
        "$(stat --dereference --format=%s "$work/bundle/$file")" "$(digest < "$work/bundle/$file")"
      path=,
    done < <(cd "$work/bundle" && find . ! -type d -printf '%P\n' | sort)
    printf '\n  ]\n}\n'
  } > "$work/manifest.json"
  mv "$work/manifest.json" "$work/bundle/"
}

# make: one bundle. Its result is recorded; a killed run has been recorded as failed before.
make() {
  local name part bytes began rc place said bad=0 failed=''
  # systemd makes it in memory, for root alone, and removes it when this ends, however it ends.
  work=${RUNTIME_DIRECTORY-}
  [ -d "$work" ] || no 'it is started so: systemctl start fortress-backup' || return
  printf -v began '%(%s)T' -1
  name=$mine$(date --utc --date="@$began" +%Y%m%dT%H%M%SZ).age
  part=$home/$name.part
  install --directory --mode=700 "$home"
  note node "$name" 0 failed 'it was begun, and has not ended'
  rm --force "$home"/*.part
  set +e
  (
    set -e
    collect
  ) 2> "$work/why"
  rc=$?
  set -e
  if [ "$rc" -ne 0 ]; then
    failed=$(tail --lines=3 "$work/why")
  else
    bytes=$(du --dereference --bytes --summarize "$work/bundle" | cut --fields=1)
    # The manifest comes first, so that a reader knows which files must follow.
    if ! said=$({ room "$home" "$bytes" && cd "$work/bundle" &&
      tar --create --format=ustar --dereference --owner=root:0 --group=root:0 --sort=name manifest.json rancher server snapshot |
      age --encrypt --recipients-file "$settings/recipients" --output "$part" && sync "$part"; } 2>&1); then
      failed=${said:-it could not be written}
    fi
  fi
  /opt/bin/k3s etcd-snapshot prune --name fortress-backup --snapshot-retention 1 > /dev/null 2>&1 ||
    true # the next backup tries again
  if [ -n "$failed" ]; then
    rm --force "$part"
    note node "$name" 0 failed "$failed"
    no "$failed" || return
  fi
  mv --force --no-target-directory "$part" "$home/$name"
  sync "$home"
  bytes=$(stat --format=%s "$home/$name")
  note node "$name" "$bytes" ok
  for place in $(places); do uploaded "$place" "$name" || bad=1; done
  node_list | cut --delimiter=' ' --fields=1 | surplus | while read -r old; do node_delete "$old"; done
  printf '%s\t%s\n' "$name" "$bytes"
  return "$bad"
}

# list: one line for each bundle; a place that does not answer is named on standard error, and the others are listed all the same.
list() {
  local place bad=0 said
  for place in node $(places); do
    if said=$("${place}_list"); then
      while read -r name size; do
        [ -z "$(ours <<< "$name")" ] || printf '%s\t%s\t%s\n' "$place" "$name" "$size"
      done <<< "$said"
    else
      no "$place cannot be listed" || bad=1
    fi
  done
  return "$bad"
}

# fetch PLACE NAME
fetch() {
  local place=$1 name=$2
  [ -n "$(ours <<< "$name")" ] || no "$name is no bundle of $NODE" || return
  if [ ! -f "$home/$name" ]; then
    places | grep --line-regexp --fixed-strings "$place" > /dev/null ||
      no "$name is not on this node, and '$place' is no destination" || return
    rm --force "$home/$name.fetch"
    "${place}_get" "$name" "$home/$name.fetch" || no "$name could not be downloaded from $place" || return
    sync "$home/$name.fetch"
    mv --force --no-target-directory "$home/$name.fetch" "$home/$name"
  fi
  printf '%s\n' "$home/$name"
}

case "${1-} $#" in
  "make 1" | "list 1" | "fetch 3") "$@" ;;
  "append-only 2")
    case $2 in ssh | s3) "${2}_append_only" ;; *) no "a $2 cannot be append-only" ;; esac
    ;;
  *) no 'usage: fortress-backup make | list | fetch PLACE NAME | append-only PLACE' ;;
esac
