# shellcheck shell=bash
# Keys that the laptop makes and hands to the cluster as a Secret. Whether it is there as it was handed over is seen by digests
# that lie beside it; no value is ever printed.

# handed_holds NAMESPACE SECRET FILE [LABEL=VALUE]: the Secret is as it was handed over, and the encrypted FILE that it came from
# is still the same one.
handed_holds() {
  local said source digest mark label=${4-} each='{{ with .metadata.annotations }}{{ index . "fortress-kit/source" }} '
  each+='{{ index . "fortress-kit/digest" }}{{ end }} '
  each+='{{ with .metadata.labels }}{{ index . "'${label%%=*}'" }}{{ end }}{{ "\n" }}'
  each+='{{ range $key, $value := .data }}{{ $key }} {{ $value }}{{ "\n" }}{{ end }}'
  [ -f "$3" ] || { echo "the laptop has no $(basename "$3" .age) yet"; return 1; }
  said=$(kubectl get secret "$2" --namespace "$1" --ignore-not-found --output=go-template="$each") || return
  [ -n "$said" ] || { echo "Secret $1/$2 is not there"; return 1; }
  read -r source digest mark <<< "${said%%$'\n'*}"
  [ "$source" = "$(handed_digest < "$3")" ] || { echo 'the key on this laptop is a newer one'; return 1; }
  [ "$digest" = "$(handed_digest <<< "${said#*$'\n'}")" ] || { echo "Secret $1/$2 is not what was handed over"; return 1; }
  [ -z "$label" ] || [ "$mark" = "${label#*=}" ] || { echo "Secret $1/$2 has lost its label $label"; return 1; }
}

# handed_digest: of what is on standard input.
handed_digest() { sha256sum | cut --bytes=1-32; }

# handed_put NAMESPACE SECRET FILE TYPE [LABEL=VALUE]: lines KEY BASE64 on standard input become the Secret, with the digests that
# handed_holds compares. What is there under its name is replaced whole, with what somebody has added; one of another type goes.
handed_put() {
  local lines there key value label=${5-}
  lines=$(LC_ALL=C sort)
  there=$(kubectl get secret "$2" --namespace "$1" --ignore-not-found --output=jsonpath='{.type}') || return
  case $there in '' | "$4") ;; *) kubectl delete secret "$2" --namespace "$1" || return; there='' ;; esac
  {
    printf 'apiVersion: v1\nkind: Secret\ntype: %s\nmetadata:\n  name: %s\n  namespace: %s\n' "$4" "$2" "$1"
    printf '  labels: { fortress-kit: handed%s }\n' "${label:+", \"${label%%=*}\": \"${label#*=}\""}"
    printf '  annotations: { fortress-kit/source: "%s", fortress-kit/digest: "%s" }\ndata:\n' \
      "$(handed_digest < "$3")" "$(handed_digest <<< "$lines")"
    while read -r key value; do printf '  %s: %s\n' "$key" "$value"; done <<< "$lines"
  } | kubectl "$([ -n "$there" ] && echo replace || echo create)" --filename=-
}

# handed_file KEY: standard input as a line for handed_put.
handed_file() { printf '%s %s\n' "$1" "$(base64 --wrap=0)"; }

# sealing_certificate_holds FILE DAYS: the certificate by which people seal is here, and good for so many days.
sealing_certificate_holds() {
  [ -f "$1" ] || { echo "$1 is not there"; return 1; }
  openssl x509 -in "$1" -noout -checkend "$(($2 * 86400))" > /dev/null || { echo 'it ends soon, or is no certificate'; return 1; }
}

# sealing_certificate FILE NAME DAYS: a certificate for the key on standard input, which reaches openssl by a pipe.
sealing_certificate() {
  local key
  key=$(cat) && mkdir --parents "$(dirname "$1")" || return
  openssl req -x509 -new -sha256 -days "$3" -subj "/CN=$2" -key <(printf '%s\n' "$key") -out "$FK_TMP/sealing" &&
    chmod 644 "$FK_TMP/sealing" && mv --force "$FK_TMP/sealing" "$1"
}

# sealing_key_holds NAMESPACE SECRET FILE LABEL CERTIFICATE: the key of the laptop is in the cluster, with this certificate.
sealing_key_holds() {
  local found
  handed_holds "$1" "$2" "$3" "$4" || return
  found=$(kubectl get secret "$2" --namespace "$1" --output=go-template='{{ index .data "tls.crt" }}') || return
  [ "$(base64 --decode <<< "$found" | handed_digest)" = "$(handed_digest < "$5")" ] ||
    { echo 'the certificate in the cluster is another one than on this laptop'; return 1; }
}

# sealing_key_put NAMESPACE SECRET FILE LABEL CERTIFICATE: the key on standard input goes into the cluster with its certificate. A
# controller that runs has read its keys as it began: it starts anew.
sealing_key_put() {
  local key found
  key=$(cat)
  { handed_file tls.key <<< "$key" && handed_file tls.crt < "$5"; } | handed_put "$1" "$2" "$3" kubernetes.io/tls "$4" || return
  found=$(kubectl get deployment sealed-secrets --namespace "$1" --ignore-not-found --output=name) || return
  [ -z "$found" ] || kubectl rollout restart "$found" --namespace "$1"
}

# sealing_keys_known NAMESPACE SECRET LABEL: no key opens sealed objects but the one of the laptop; else it fails and names those.
sealing_keys_known() {
  local found
  found=$(kubectl get secrets --namespace "$1" --selector="${3%%=*}" --output=name) || return
  found=$(grep --invert-match --line-regexp "secret/$2" <<< "$found") || true
  [ -z "$found" ] || { printf 'made by the controller, and on no laptop: %s\n' "${found//$'\n'/ }"; return 1; }
}
export -f handed_holds handed_digest handed_put handed_file sealing_certificate_holds sealing_certificate sealing_key_holds
export -f sealing_key_put sealing_keys_known
