# shellcheck shell=bash
# Certificates of people for the API, and what they are bound to. A certificate cannot be revoked, so nobody has rights by its
# groups: each has a user name of its own, fortress:NAME:ID, and one binding for it. Without the binding it opens nothing.

# people_certificate USER GROUP SECONDS: a certificate that the cluster signs for the private key on standard input. The key stays
# here. The request is approved by who runs this, and is gone afterwards.
people_certificate() {
  local user=$1 group=$2 seconds=$3 key request at=fortress-${1//:/-} said='' deadline rc=0
  key=$(cat) &&
    request=$(openssl req -new -sha256 -subj "/O=$group/CN=$user" -key <(printf '%s\n' "$key") | base64 --wrap=0) || return
  {
    printf 'apiVersion: certificates.k8s.io/v1\nkind: CertificateSigningRequest\n'
    printf 'metadata: { name: %s, labels: { fortress-kit: grant } }\n' "$at"
    printf 'spec:\n  signerName: kubernetes.io/kube-apiserver-client\n  usages: [client auth]\n'
    printf '  expirationSeconds: %s\n  request: %s\n' "$seconds" "$request"
  } | kubectl create --filename=- > /dev/null || return
  if kubectl certificate approve "$at" > /dev/null; then
    deadline=$((SECONDS + 30))
    until said=$(kubectl get certificatesigningrequest "$at" --output=jsonpath='{.status.certificate}') && [ -n "$said" ]; do
      [ "$SECONDS" -lt "$deadline" ] || { echo "the cluster has not signed $at after 30 seconds" >&2; rc=1; break; }
      sleep 0.3
    done
  else rc=1; fi
  kubectl delete certificatesigningrequest "$at" --ignore-not-found > /dev/null || rc=1
  [ "$rc" = 0 ] && base64 --decode <<< "$said"
}

# people_grants: each binding of a certificate in a line: kind, namespace (- is the whole cluster), name, role, until when, for
# whom.
people_grants() {
  local each='{{ .kind }} {{ with .metadata.namespace }}{{ . }}{{ else }}-{{ end }} {{ .metadata.name }} '
  each+='{{ .roleRef.kind }}/{{ .roleRef.name }} {{ $end := "" }}'
  each+='{{ range $key, $value := .metadata.annotations }}'
  each+='{{ if eq $key "fortress-kit/until" }}{{ $end = $value }}{{ end }}{{ end }}'
  each+='{{ with $end }}{{ . }}{{ else }}-{{ end }} {{ range .subjects }}{{ .kind }}/{{ .name }},{{ end }}{{ "\n" }}'
  kubectl get clusterrolebindings,rolebindings --all-namespaces --selector=fortress-kit=grant \
    --output=go-template="{{ range .items }}$each{{ end }}"
}

# people_spare NAME=ROLE,ROLE…: of these, those that nobody may have: they have ended, or the site document has no such person,
# or gives them less. Of one that is not as the kit writes it nothing is known, and it is among them.
people_spare() {
  local all
  all=$(people_grants) || return
  awk -v now="$(date --utc +%FT%TZ)" -v may="$*" '
    BEGIN {
      n = split(may, words, " ")
      for (i = 1; i <= n; i++) { split(words[i], one, "="); roles[one[1]] = "," one[2] "," }
    }
    NF {
      split($3, part, ":"); role = $4; sub(/^ClusterRole\/fortress:/, "", role)
      why = part[1] != "fortress" || part[3] !~ /^[0-9a-f]+$/ || $6 != "User/" $3 "," ? "is not as the kit writes it" : \
        $5 !~ /^20[0-9-]+T[0-9:]+Z$/ ? "has no end" : \
        !(part[2] in roles) ? "is of nobody in the site document" : \
        !index(roles[part[2]], "," role ",") ? "gives more than the site document" : \
        role == "deployer" && $2 == "-" ? "is for every namespace" : $5 <= now ? "has ended" : ""
      if (why != "") print $1, $2, $3, why
    }' <<< "$all"
}

# people_hold NAME=ROLE,ROLE…: there is none of those; says who has what until when. What has ended opens nothing, and may lie
# there.
people_hold() {
  local spare
  spare=$(people_spare "$@") || return
  people_grants | awk '{
    split($3, part, ":"); sub(/^.*:/, "", $4)
    print part[2] " is " $4 ($2 == "-" ? "" : " in " $2) " until " $5 " (" part[3] ")"
  }'
  spare=$(grep --invert-match ' has ended$' <<< "$spare" | grep .) || return 0
  awk '{ name = $3; $1 = $2 = $3 = ""; sub(/^ +/, ""); print "- " name " " $0 }' <<< "$spare"
  return 1
}

# people_take: takes those on standard input away, by kind, namespace and name.
people_take() {
  local kind namespace name _
  while read -r kind namespace name _; do
    [ -n "$kind" ] || continue
    kubectl delete "${kind,,}" "$name" "--namespace=${namespace/#-/default}" --ignore-not-found --wait || return
  done
}

# people_end NAME=ROLE,ROLE…: takes away what nobody may have; without a word everything.
people_end() {
  local spare
  spare=$(if [ $# -gt 0 ]; then people_spare "$@"; else people_grants; fi) && people_take <<< "$spare"
}

# people_ended NAME=ROLE,ROLE…: takes away what has ended.
people_ended() {
  local spare
  spare=$(people_spare "$@") && { grep ' has ended$' <<< "$spare" || true; } | people_take
}

# glass_bound: each binding of the break-glass account in a line, as people_grants writes it.
glass_bound() {
  local each='{{ .metadata.name }} {{ .roleRef.kind }}/{{ .roleRef.name }} '
  each+='{{ range .subjects }}{{ .kind }}/{{ .name }},{{ end }}{{ "\n" }}'
  kubectl get clusterrolebindings --selector=fortress-kit=break-glass --output=go-template="{{ range .items }}$each{{ end }}"
}

# glass_user FILE: the user of a certificate.
glass_user() {
  openssl x509 -noout -subject -nameopt multiline -in "$1" 2> /dev/null | sed --quiet 's/^ *commonName *= *//p' | grep .
}

# glass_holds FILE KEY: the account has everything in the cluster by the certificate FILE, for a month at least, and the laptop
# has its encrypted KEY.
glass_holds() {
  local user bound
  [ -f "$2" ] && user=$(glass_user "$1") || { echo 'there is no break-glass account yet'; return 1; }
  bound=$(glass_bound) || return
  [ "$bound" = "$user ClusterRole/cluster-admin User/$user," ] ||
    { printf 'declared: %s as cluster-admin; in the cluster: %s\n' "$user" "${bound:-nobody}"; return 1; }
  printf '%s, until %s\n' "$user" "$(openssl x509 -noout -enddate -in "$1" | sed 's/^notAfter=//')"
  openssl x509 -noout -checkend 2592000 -in "$1" > /dev/null
}

# glass_make FILE: the account anew, with the private key on standard input and a certificate for a year. Those before have
# nothing.
glass_make() {
  local user old
  user=fortress:break-glass:$(openssl rand -hex 4) || return
  people_certificate "$user" fortress:break-glass 31536000 > "$FK_TMP/break-glass" || return
  [ "$(glass_user "$FK_TMP/break-glass")" = "$user" ] || { echo 'the cluster has signed another name' >&2; return 1; }
  old=$(glass_bound) || return
  {
    printf 'apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRoleBinding\n'
    printf 'metadata: { name: "%s", labels: { fortress-kit: break-glass } }\n' "$user"
    printf 'roleRef: { apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: cluster-admin }\n'
    printf 'subjects: [{ apiGroup: rbac.authorization.k8s.io, kind: User, name: "%s" }]\n' "$user"
  } | kubectl create --filename=- || return
  [ -z "$old" ] || sed 's/^/ClusterRoleBinding - /' <<< "$old" | people_take || return
  install -D --mode=644 "$FK_TMP/break-glass" "$1"
}

# glass_gone FILE KEY: nobody is bound as that account any more, and what opened it is gone.
glass_gone() { glass_bound | sed 's/^/ClusterRoleBinding - /' | people_take && rm --force "$1" "$2"; }
export -f people_certificate people_grants people_spare people_hold people_take people_end people_ended
export -f glass_bound glass_user glass_holds glass_make glass_gone
