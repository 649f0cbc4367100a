# shellcheck shell=bash
# The authorities of the cluster: by which certificates and keys a node knows others, and how new ones take their place. It uses
# lib/k3s/members.sh. What is retired is known by its SHA-256: of a certificate, or of the public half of a key.
CA_STAGED=/var/lib/rancher/k3s/server/rotate-ca
CA_NAMES='client-ca server-ca request-header-ca etcd/server-ca etcd/peer-ca'
export CA_STAGED CA_NAMES

# ca_paths ROLE: the files of a node with its authorities; what it uses itself stands first in each.
ca_paths() {
  local name
  [ "$1" = agent ] || {
    for name in $CA_NAMES; do
      printf '%s\n' "$K3S_DATA/server/tls/$name.crt"
    done
    printf '%s\n' "$K3S_DATA/server/tls/service.key"
  }
  printf '%s\n' "$K3S_DATA/agent/client-ca.crt" "$K3S_DATA/agent/server-ca.crt"
}

# ca_bodies FILE: the base64 of each certificate or key in it, one a line.
ca_bodies() { awk '/^-----BEGIN / { body = ""; next } /^-----END / { print body; next } { body = body $0 }' "$1"; }

# ca_print FILE BODY: its SHA-256.
ca_print() {
  case $1 in
    *.key) base64 --decode <<< "$2" | openssl pkey -inform DER -pubout -outform DER 2> /dev/null ;;
    *) base64 --decode <<< "$2" ;;
  esac | sha256sum | cut --delimiter=' ' --fields=1
}

# ca_live ROLE: a line for each: first or other, its SHA-256, its file.
ca_live() {
  local path body place paths
  paths=$(ca_paths "$1")
  for path in $paths; do
    [ -s "$path" ] || k3s_no "$path is missing" || return
    place=first
    while read -r body; do
      printf '%s %s %s\n' "$place" "$(ca_print "$path" "$body")" "$path" || return
      place=other
    done < <(ca_bodies "$path")
  done
}

# ca_unused PLACE ROLE SHA256…: this node uses none of these (PLACE first), or trusts none of them either (any).
ca_unused() {
  local place=$1 role=$2 said found
  shift 2
  said=$(ca_live "$role") || k3s_no "$said" || return
  found=$(awk -v place="$place" -v retired=" $* " '
    (place == "any" || $1 == "first") && index(retired, " " $2 " ") {
      print $3 ": " substr($2, 1, 16) " is retired"
    }' <<< "$said")
  [ -z "$found" ] || k3s_no "$found"
}

# ca_make: new authorities lie in CA_STAGED, each of two certificates: a root, whose key is deleted, and what signs. The old
# ones vouch for the roots, so that who knows only them believes the new ones. The old ones stay behind the new ones.
ca_make() {
  local at=$CA_STAGED/tls now name
  [ ! -e "$CA_STAGED/complete" ] || return 0
  rm --recursive --force "$CA_STAGED"
  install --directory --mode=700 "$CA_STAGED" "$at" "$at/etcd"
  printf '%s\n' '[req]' 'distinguished_name = name' '[name]' '[ca]' 'subjectKeyIdentifier = hash' \
    'authorityKeyIdentifier = keyid:always' 'basicConstraints = critical, CA:true' \
    'keyUsage = critical, digitalSignature, keyEncipherment, keyCertSign' > "$CA_STAGED/openssl.cnf"
  now=$(date +%s)
  for name in $CA_NAMES; do
    ca_pair "$K3S_DATA/server/tls/$name" "$at/$name" "k3s-${name//\//-}" "$now" || return
  done
  (umask 077 && { openssl genrsa -traditional 2048 || openssl genrsa 2048; } > "$at/service.key" 2> /dev/null) || return
  cat "$K3S_DATA/server/tls/service.key" >> "$at/service.key"
  sync "$at"/*.* "$at"/etcd/*.*
  : > "$CA_STAGED/complete"
  sync "$CA_STAGED/complete" "$CA_STAGED"
}

# ca_signed NAME KEY CA: a certificate for an authority on standard output, signed by another one.
ca_signed() {
  openssl req -new -config "$CA_STAGED/openssl.cnf" -subj "/CN=$1" -key "$2" |
    openssl x509 -req -sha256 -days 3650 -set_serial "0x$(openssl rand -hex 8)" -extfile "$CA_STAGED/openssl.cnf" \
      -extensions ca -CA "$3.crt" -CAkey "$3.key" 2> /dev/null
}

# ca_pair OLD NEW NAME TIME: NEW.crt and NEW.key in the place of OLD.crt and OLD.key.
ca_pair() {
  local root=$2-root key
  for key in "$root.key" "$2.key"; do
    (umask 077 && openssl ecparam -name prime256v1 -genkey -noout -out "$key") || return
  done
  openssl req -x509 -new -sha256 -days 3650 -config "$CA_STAGED/openssl.cnf" -extensions ca -subj "/CN=$3-root@$4" \
    -key "$root.key" -out "$root.crt" || return
  # OpenSSL takes the first that fits: for the root that is the one for which the old authority vouches.
  { ca_signed "$3@$4" "$2.key" "$root" && ca_signed "$3-root@$4" "$root.key" "$1" && cat "$root.crt" "$1.crt"; } \
    > "$2.crt" || return
  rm "$root.key" "$root.crt"
}

# ca_without SHA256…: in CA_STAGED lies what is in use, without these, and without what only they vouch for.
ca_without() {
  local at=$CA_STAGED/tls name body first
  rm --recursive --force "$CA_STAGED"
  install --directory --mode=700 "$CA_STAGED" "$at" "$at/etcd"
  for name in $CA_NAMES; do
    first=yes
    while read -r body; do
      case " $* " in *" $(ca_print "$name" "$body") "*) continue ;; esac
      [ -n "$first" ] || ca_own "$body" || continue
      printf '%s\n' '-----BEGIN CERTIFICATE-----' && fold --width=64 <<< "$body" && printf '%s\n' '-----END CERTIFICATE-----'
      first=''
    done < <(ca_bodies "$K3S_DATA/server/tls/$name.crt") > "$at/$name.crt" || return
  done
  # The key that signs stands first; the others only let older tokens pass.
  (umask 077 && awk '{ print } /^-----END / { exit }' "$K3S_DATA/server/tls/service.key" > "$at/service.key")
}

# ca_own BODY: it has signed itself.
ca_own() {
  local said
  said=$(base64 --decode <<< "$1" | openssl x509 -inform DER -noout -subject -issuer) || return
  [ "$(sed --quiet 's/^subject=//p' <<< "$said")" = "$(sed --quiet 's/^issuer=//p' <<< "$said")" ]
}

# ca_send: k3s stores what is staged, for the next start of each server, if what is in use vouches for it.
ca_send() {
  local said
  said=$("$K3S" certificate rotate-ca --path="$CA_STAGED" 2>&1) || k3s_no "$(tail --lines=3 <<< "$said")"
}

# ca_presented HOST:PORT: what listens there has a certificate of the authority that signs for servers now.
ca_presented() {
  local leaf
  leaf=$(timeout 10 openssl s_client -connect "$1" < /dev/null 2> /dev/null) ||
    true # it may ask for a certificate of ours, and end there: its own it has shown before
  leaf=$(openssl x509 <<< "$leaf" 2> /dev/null) || k3s_no "$1 shows no certificate" || return
  openssl verify -partial_chain -trusted <(openssl x509 -in "$K3S_DATA/server/tls/server-ca.crt") <(printf '%s\n' "$leaf") \
    > /dev/null 2>&1 || k3s_no "$1 has a certificate of an authority from before"
}

# ca_nodes: the kubelet of every Node has such a certificate: the node was started with the authorities of now.
ca_nodes() {
  local said name address bad=''
  said='{range .items[*]}{.metadata.name}{" "}{.status.addresses[?(@.type=="InternalIP")].address}{"\n"}{end}'
  said=$(k3s_kubectl get nodes --output jsonpath="$said" 2>&1) ||
    k3s_no "$said" || return
  while read -r name address; do
    [ -n "$name" ] || continue
    case ${address%% *} in *:*) address="[${address%% *}]" ;; *) address=${address%% *} ;; esac
    address=$(ca_presented "$address:10250") || bad+="$name: $address"$'\n'
  done <<< "$said"
  [ -z "$bad" ] || k3s_no "${bad%$'\n'}"
}

# ca_given: the controllers have given pods the authority of now, to know the API by.
ca_given() {
  local said
  said=$(k3s_kubectl get configmap kube-root-ca.crt --namespace kube-system --output jsonpath='{.data.ca\.crt}' 2>&1) ||
    k3s_no "$said" || return
  [ "$(openssl x509 <<< "$said" 2> /dev/null)" = "$(openssl x509 -in "$K3S_DATA/server/tls/server-ca.crt")" ] ||
    k3s_no 'kube-root-ca.crt does not begin with the CA of now'
}

# ca_pods: every pod that has a token, and has not ended, has begun since ca_given holds. Prints the older ones.
ca_pods() {
  local since said found
  since=$(k3s_kubectl get configmap kube-root-ca.crt --namespace kube-system \
    --output jsonpath='{range .metadata.managedFields[*]}{.time}{"\n"}{end}' --show-managed-fields 2>&1) ||
    k3s_no "$since" || return
  since=$(LC_ALL=C sort <<< "$since" | tail --lines=1)
  [ -n "$since" ] || k3s_no 'kube-root-ca.crt does not say when it was changed' || return
  said='{range .items[*]}{.status.phase}{" "}{.metadata.creationTimestamp}{" "}{.metadata.namespace}{"/"}{.metadata.name}{" "}'
  said+='{.spec.volumes[*].projected.sources[*].configMap.name}{"\n"}{end}'
  said=$(k3s_kubectl get pods --all-namespaces --output jsonpath="$said" 2>&1) ||
    k3s_no "$said" || return
  found=$(awk -v since="$since" '
    $1 != "Succeeded" && $1 != "Failed" && / kube-root-ca\.crt( |$)/ && $2 < since { print $3 }' <<< "$said")
  [ -z "$found" ] || k3s_no "$found"
}

# ca_start ROLE NAME SECONDS: k3s starts anew, with what the datastore has now; what was staged for that is not needed any more.
ca_start() {
  k3s_start "$1" "$2" "$3" || return
  rm --recursive --force "$CA_STAGED"
}

# ca_token: the join token on standard input is installed; as put would, it is noted what this node got.
ca_token() {
  local note=/var/lib/fortress/secret$K3S_ETC/token.sha256
  (umask 077 && cat > "$K3S_ETC/.token.part") || return
  sync "$K3S_ETC/.token.part"
  mv --force "$K3S_ETC/.token.part" "$K3S_ETC/token"
  install --directory --mode=700 "$(dirname "$note")"
  sha256sum "$K3S_ETC/token" > "$note"
}

export -f ca_paths ca_bodies ca_print ca_live ca_unused ca_make ca_signed ca_pair ca_without ca_own ca_send \
  ca_presented ca_nodes ca_given ca_pods ca_start ca_token
