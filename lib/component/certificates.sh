# shellcheck shell=bash
# The CA of a site, and certificates of its gateways. Its root key comes on standard input, is held in a variable, and reaches
# openssl by a pipe: no file, no list of processes and no cluster ever has it.

# How long a root and an intermediate are good for, and how much of it must be left.
CA_ROOT_DAYS=3650 CA_ROOT_LEFT=730 CA_DAYS=730 CA_LEFT=180
export CA_ROOT_DAYS CA_ROOT_LEFT CA_DAYS CA_LEFT

# ca_extensions PATHLEN USE ZONE…: what a certificate of a CA says of itself: it signs names of these zones, and nothing else.
# USE is a purpose, or nothing.
ca_extensions() {
  local length=$1 use=$2 zone rank=0
  shift 2
  printf '[req]\ndistinguished_name = subject\nx509_extensions = ca\n[subject]\n[ca]\n'
  printf 'basicConstraints = critical, CA:TRUE%s\n' "${length:+, pathlen:$length}"
  printf 'keyUsage = critical, keyCertSign, cRLSign\nsubjectKeyIdentifier = hash\n'
  [ -z "$use" ] || printf 'extendedKeyUsage = %s\nauthorityKeyIdentifier = keyid:always\n' "$use"
  printf 'nameConstraints = critical, @names\n[names]\n'
  for zone; do printf 'permitted;DNS.%s = %s\n' "$((++rank))" "$zone"; done
  printf 'excluded;IP.1 = 0.0.0.0/0.0.0.0\nexcluded;IP.2 = 0:0:0:0:0:0:0:0/0:0:0:0:0:0:0:0\n'
}

# ca_says ZONE…: the certificate of a CA on standard input signs names of exactly these zones; else it fails and says which.
ca_says() {
  local says wants
  says=$(openssl x509 -noout -ext nameConstraints 2> /dev/null | awk '
    /^ *Permitted:/ { inside = 1 } /^ *Excluded:/ { inside = 0 }
    inside && sub(/^ *DNS:/, "")' | LC_ALL=C sort)
  wants=$(printf '%s\n' "$@" | LC_ALL=C sort)
  [ "$says" = "$wants" ] || { printf 'it signs for %s\ndeclared: %s\n' "${says//$'\n'/ }" "${wants//$'\n'/ }"; return 1; }
}

# ca_until: until when the certificate on standard input is good, and how many days are left.
ca_until() {
  local end
  end=$(openssl x509 -noout -enddate) || return
  end=${end#notAfter=}
  printf 'valid until %s, %s days\n' "$(date --utc --date="$end" +%F)" "$((($(date --date="$end" +%s) - EPOCHSECONDS) / 86400))"
}

# ca_lasts DAYS: the certificate on standard input is good for so many days more.
ca_lasts() { openssl x509 -noout -checkend "$(($1 * 86400))" > /dev/null; }

# ca_root_holds FILE ZONE…: the root certificate is here, lasts, and signs for these zones.
ca_root_holds() {
  local file=$1
  shift
  [ -f "$file" ] || { echo "$file is not there"; return 1; }
  ca_says "$@" < "$file" || return
  ca_until < "$file" && ca_lasts "$CA_ROOT_LEFT" < "$file"
}

# ca_root FILE NAME ZONE…: a root certificate for the key on standard input. Made anew it has the same key and name: what was
# signed before stays good, and devices go on trusting the one that they have.
ca_root() {
  local file=$1 name=$2 key
  shift 2
  key=$(cat) && mkdir --parents "$(dirname "$file")" || return
  openssl req -x509 -new -sha384 -days "$CA_ROOT_DAYS" -subj "/CN=$name" -key <(printf '%s\n' "$key") \
    -config <(ca_extensions '' '' "$@") -out "$FK_TMP/root" && mv --force "$FK_TMP/root" "$file"
}

# ca_chain NAMESPACE SECRET: the certificates in a Secret, its own first.
ca_chain() {
  local found
  found=$(kubectl get secret "$2" --namespace "$1" --ignore-not-found \
    --output=go-template='{{ index .data "tls.crt" | base64decode }}') || return
  [ -n "$found" ] || { echo "there is no certificate in $1/$2"; return 1; }
  printf '%s\n' "$found"
}

# ca_verifies ROOT CHAIN [WORD…]: the first certificate of a chain leads to the root, by what else is in the chain.
ca_verifies() {
  local root=$1 chain=$2
  shift 2
  openssl verify -no-CApath -no-CAstore -CAfile "$root" -untrusted "$chain" "$@" "$chain" > "$FK_TMP/verify" 2>&1 || {
    grep --invert-match --fixed-strings "$chain" "$FK_TMP/verify" || cat "$FK_TMP/verify"
    return 1
  }
}

# ca_signs NAMESPACE SECRET ROOT ZONE…: an intermediate that the root has signed is in the cluster, lasts, and signs for these
# zones.
ca_signs() {
  local namespace=$1 secret=$2 root=$3 chain=$FK_TMP/chain
  shift 3
  ca_chain "$namespace" "$secret" > "$chain" || { cat "$chain"; return 1; }
  ca_verifies "$root" "$chain" && ca_says "$@" < "$chain" && ca_until < "$chain" && ca_lasts "$CA_LEFT" < "$chain"
}

# ca_intermediate NAMESPACE SECRET ROOT NAME ZONE…: makes a key, has the root sign it, whose key is on standard input, and puts
# both certificates into the cluster with the new key. That key is in no file here.
ca_intermediate() {
  local namespace=$1 secret=$2 root=$3 name=$4 key own chain request
  shift 4
  key=$(cat) && own=$(openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256) || return
  ca_extensions 0 serverAuth "$@" > "$FK_TMP/extensions"
  request=$(openssl req -new -subj "/CN=$name" -key <(printf '%s\n' "$own") -config "$FK_TMP/extensions") || return
  chain=$(openssl x509 -req -sha384 -days "$CA_DAYS" -in <(printf '%s\n' "$request") \
    -CA "$root" -CAkey <(printf '%s\n' "$key") -set_serial "0x$(openssl rand -hex 16)" \
    -extfile "$FK_TMP/extensions" -extensions ca 2> "$FK_TMP/signed") || {
    cat "$FK_TMP/signed" >&2
    return 1
  }
  chain+=$'\n'$(cat "$root")
  {
    printf 'apiVersion: v1\nkind: Secret\ntype: kubernetes.io/tls\n'
    printf 'metadata:\n  name: %s\n  namespace: %s\n  labels: { fortress-kit: intermediate }\n' "$secret" "$namespace"
    printf '  annotations: { fortress-kit/until: "%s" }\n' \
      "$(date --utc --date="$(openssl x509 -noout -enddate <<< "$chain" | cut --delimiter== --fields=2)" +%FT%TZ)"
    printf 'data:\n  tls.crt: %s\n' "$(base64 --wrap=0 <<< "$chain")"
    printf '  tls.key: %s\n' "$(printf '%s\n' "$own" | base64 --wrap=0)"
  } | kubectl apply --server-side --force-conflicts --field-manager=fortress-kit --filename=-
}

# proof_holds NAMESPACE SECRET KEY FILE: what proves to a provider that zones are ours is in the cluster as it was put there, and
# the encrypted FILE that it came from is still the same one.
proof_holds() {
  local said each='{{ with .metadata.annotations }}{{ index . "fortress-kit/source" }} {{ index . "fortress-kit/digest" }}'
  each+='{{ end }} {{ index .data "'$3'" }}'
  said=$(kubectl get secret "$2" --namespace "$1" --ignore-not-found --output=go-template="$each") || return
  [ -n "$said" ] || { echo "$1/$2 is not there"; return 1; }
  [ "${said%% *}" = "$(proof_source "$4")" ] || { echo "the secret on this laptop is a newer one"; return 1; }
  said=${said#* }
  [ "${said%% *}" = "$(printf %s "${said#* }" | proof_digest)" ] || { echo "$1/$2 is not what was put there"; return 1; }
}

# proof_source FILE: a digest of an encrypted file: it says nothing of what is in it.
proof_source() { sha256sum < "$1" | cut --bytes=1-32; }

# proof_digest: a digest of a value of a Secret, which lies beside it.
proof_digest() { sha256sum | cut --bytes=1-32; }

# proof_put NAMESPACE SECRET KEY FILE: the value on standard input goes into the cluster, with the digests that proof_holds
# compares.
proof_put() {
  local value
  value=$(base64 --wrap=0)
  {
    printf 'apiVersion: v1\nkind: Secret\nmetadata:\n  name: %s\n  namespace: %s\n  labels: { fortress-kit: dns01 }\n' "$2" "$1"
    printf '  annotations: { fortress-kit/source: "%s", fortress-kit/digest: "%s" }\n' \
      "$(proof_source "$4")" "$(printf %s "$value" | proof_digest)"
    printf 'data: { %s: %s }\n' "$3" "$value"
  } | kubectl apply --server-side --force-conflicts --field-manager=fortress-kit --filename=-
}

# certificate_holds NAMESPACE NAME ROOT NAME…: a certificate is Ready, good for a while, and for these names. ROOT is the file
# of the root that it leads to, or `world`.
certificate_holds() {
  local namespace=$1 name=$2 root=$3 chain=$FK_TMP/chain host
  shift 3
  kubectl wait --for=condition=Ready --timeout=5s --namespace "$namespace" "certificate/$name" > "$FK_TMP/ready" 2>&1 || {
    certificate_why "$namespace" "$name"
    return 1
  }
  ca_chain "$namespace" "$name" > "$chain" || { cat "$chain"; return 1; }
  for host; do
    [[ $(openssl x509 -noout -checkhost "${host/#\*/any}" < "$chain") != *'NOT match'* ]] ||
      { echo "it is not for $host"; return 1; }
  done
  [ "$root" = world ] || ca_verifies "$root" "$chain" -purpose sslserver || return
  ca_until < "$chain" && ca_lasts 15 < "$chain"
}

# certificate_why NAMESPACE NAME: what it waits for.
certificate_why() {
  local each='{{ range .items }}{{ range .status.conditions }}{{ if eq .status "False" }}{{ .message }}{{ "\n" }}{{ end }}'
  each+='{{ end }}{{ with .status.reason }}{{ . }}{{ "\n" }}{{ end }}{{ end }}'
  kubectl get certificates,certificaterequests,orders,challenges --namespace "$1" --output=go-template="$each" 2>&1 |
    awk '!seen[$0]++' | tail --lines=4
}

# issuers_answer: the webhook of cert-manager accepts an object in a dry run: nothing is created.
issuers_answer() {
  printf '%s\n' 'apiVersion: cert-manager.io/v1' 'kind: ClusterIssuer' 'metadata: { name: probe }' 'spec: { selfSigned: {} }' |
    kubectl create --dry-run=server --filename=- > /dev/null
}
export -f ca_extensions ca_says ca_until ca_lasts ca_root_holds ca_root ca_chain ca_verifies ca_signs ca_intermediate proof_holds
export -f proof_source proof_digest proof_put certificate_holds certificate_why issuers_answer
