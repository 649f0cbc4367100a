# shellcheck shell=bash
# The checks of config/k3s/cis.yaml, beside lib/host/controls.sh and lib/k3s/members.sh: how the components of k3s run, what its
# API holds, and what it refuses. Everything is read-only; a pod that should be refused is sent as a dry run.

# cis_up PORT…: the components of k3s listen on these ports: that a Node exists says nothing of this start.
cis_up() {
  local port
  for port; do
    cis_listens "$port" || k3s_no "no process listens on port $port" || return
  done
}

cis_listens() { (: < "/dev/tcp/127.0.0.1/$1") 2> /dev/null; }

# cis_started: one line for each part of k3s that this run of the unit has started: its name and its arguments.
cis_started() {
  local id start
  id=$(systemctl show --property=InvocationID --value k3s.service)
  [ -n "$id" ] || return
  # It says so when it starts, and its journal may be long.
  start=$(systemctl show --timestamp=unix --property=ExecMainStartTimestamp --value k3s.service)
  journalctl --quiet --output=cat --until="@$((${start#@} + 900))" "_SYSTEMD_INVOCATION_ID=$id" |
    sed --quiet 's/^.*msg="Running \([a-z-]*\) \(--.*\)"$/\1 \2/p'
}

# cis_flagz [WORD...]: the live flags of a part, as name=value. How the page parts names from values changes with each start.
cis_flagz() {
  k3s_kubectl get --raw /flagz --request-timeout=10s "$@" 2> /dev/null |
    sed --quiet '/flagz$/,/^Warning:/d; s/^\([A-Za-z0-9_.-]*\)\(: \|[:= ]\)\(.*\)$/\1=\3/p' | sed 's/=\[\(.*\)\]$/=\1/' | grep .
}

# cis_flags PART: what its flags are, behind a line that says from where that is known.
cis_flags() {
  local said=''
  case $1 in
    kube-apiserver) said=$(cis_flagz) || said='' ;;
    # They show certificates of the cluster's own authority, as the API server does.
    kube-controller-manager) said=$(cis_flagz --server=https://127.0.0.1:10257) || said='' ;;
    kube-scheduler) said=$(cis_flagz --server=https://127.0.0.1:10259) || said='' ;;
  esac
  if [ -n "$said" ]; then
    printf '@its /flagz\n%s\n' "$said"
    return
  fi
  cis_begun "$1"
}

# cis_name: the name of this node in the cluster.
cis_name() {
  local said
  said=$(k3s_self auth whoami --output jsonpath='{.status.userInfo.username}' --request-timeout=10s 2> /dev/null) || return
  printf '%s\n' "${said#system:node:}"
}

# cis_words: the configuration that k3s was started with, of files and command line, as name=value; it writes that to its Node.
cis_words() {
  local name
  name=$(cis_name) || return
  k3s_self get node "$name" --output jsonpath='{.metadata.annotations.k3s\.io/node-args}' --request-timeout=10s 2> /dev/null |
    cis_json |
    awk '{ sub(/^=/, "") } name != "" { print name "=" $0; name = ""; next } sub(/^--/, "") { name = $0 }'
}

# cis_begun PART: its arguments, behind a line that says who tells of them: the journal, to which k3s writes them when it starts
# it, or else its Node, with those that k3s was given for it. The journal forgets what is old, and drops what comes too fast.
cis_begun() {
  local said
  fact started cis_started
  said=$(awk -v part="$1" '
    $1 == part { line = $0 }
    END { n = split(line, words, " "); for (i = 2; i <= n; i++) { sub(/^--/, "", words[i]); print words[i] } }' <<< "$FK_FACT")
  if [ -n "$said" ]; then
    printf '@the journal\n%s\n' "$said"
    return
  fi
  fact words cis_words
  if [ "$FK_FACT" != $'\n\n' ]; then printf '@its Node\n%s\n' "$(sed --quiet "s/^$1-arg=//p" <<< "$FK_FACT")"; fi
}

# cis_json: JSON as lines path=value; what is in a list has the path of the list.
cis_json() {
  awk '
    { text = text $0 }
    function word(  from, c) {
      from = ++at
      while ((c = substr(text, at, 1)) != "\"") at += c == "\\" ? 2 : 1
      return substr(text, from, at++ - from)
    }
    function value(path,  c, key, from) {
      space()
      c = substr(text, at, 1)
      if (c == "{" || c == "[") {
        at++
        for (;;) {
          space()
          if (substr(text, at, 1) ~ /[]}]/) { at++; return }
          if (substr(text, at, 1) == ",") { at++; continue }
          if (at > length(text)) return
          if (c == "{") { key = word(); space(); at++; value(path == "" ? key : path "." key) } else value(path)
        }
      }
      if (c == "\"") { print path "=" word(); return }
      from = at
      while (at <= length(text) && substr(text, at, 1) !~ /[],} \t]/) at++
      print path "=" substr(text, from, at - from)
    }
    function space() { while (substr(text, at, 1) ~ /[ \t]/) at++ }
    END { at = 1; if (text ~ /[^ \t]/) value("") }'
}

# cis_yaml: YAML of blocks as lines path=value, in the same way; enough for what k3s writes.
cis_yaml() {
  awk '
    /^[ \t]*(#|---|$)/ { next }
    {
      match($0, /^ */); column = RLENGTH; text = substr($0, column + 1)
      item = sub(/^- +/, "", text)
      while (depth > 0 && (columns[depth] > column || (columns[depth] == column && !item))) depth--
      path = depth > 0 ? paths[depth] : ""
      if (!item && match(text, /^[^ :]+:( |$)/)) {
        key = substr(text, 1, RLENGTH); sub(/:.?$/, "", key)
        text = substr(text, RLENGTH + 1)
        path = path == "" ? key : path "." key
        if (text == "") { paths[++depth] = path; columns[depth] = column; next }
      }
      gsub(/^ +| +$/, "", text); gsub(/^["\047]|["\047]$/, "", text)
      print path "=" text
    }'
}

# The names that settings of the kubelet have as flags, and in its configuration.
CIS_KUBELET='anonymous-auth authentication.anonymous.enabled authorization-mode authorization.mode
  client-ca-file authentication.x509.clientCAFile read-only-port readOnlyPort
  streaming-connection-idle-timeout streamingConnectionIdleTimeout make-iptables-util-chains makeIPTablesUtilChains
  event-qps eventRecordQPS tls-cert-file tlsCertFile tls-private-key-file tlsPrivateKeyFile rotate-certificates rotateCertificates
  tls-cipher-suites tlsCipherSuites pod-max-pids podPidsLimit seccomp-default seccompDefault'

# cis_kubelet_names: lines path=value of a configuration as lines flag=value; the values of a list in one line.
cis_kubelet_names() {
  awk -v names="$CIS_KUBELET" '
    BEGIN { n = split(names, words, /[ \n]+/); for (i = 1; i < n; i += 2) flag[words[i + 1]] = words[i] }
    {
      at = index($0, "="); path = substr($0, 1, at - 1); value = substr($0, at + 1); sub(/^kubeletconfig\./, "", path)
      if (sub(/^featureGates\./, "", path)) { value = path "=" value; name = "feature-gates" }
      else if (path in flag) name = flag[path]
      else next
      if (name in said) value = said[name] "," value
      said[name] = value
    }
    END { for (name in said) print name "=" said[name] }'
}

# cis_kubelet_started: the settings that the kubelet was started with: files that k3s writes for it, and arguments, which win.
cis_kubelet_started() {
  local path flags
  flags=$(cis_begun kubelet)
  [ -n "$flags" ] || return
  printf '%s and %s\n' "${flags%%$'\n'*}" "$K3S_DATA/agent/etc/kubelet.conf.d"
  for path in "$K3S_DATA"/agent/etc/kubelet.conf.d/*.conf; do
    [ ! -e "$path" ] || cis_yaml < "$path" | cis_kubelet_names
  done
  tail --lines=+2 <<< "$flags"
}

# cis_kubelet: its live settings; a server may read them, an agent has those that it was started with.
cis_kubelet() {
  local node live=''
  node=$(cis_name) || node=''
  [ -z "$node" ] ||
    live=$(k3s_kubectl get --raw "/api/v1/nodes/$node/proxy/configz" --request-timeout=10s 2> /dev/null |
      cis_json | cis_kubelet_names) || live=''
  if [ -n "$live" ]; then printf '@its /configz\n%s\n' "$live"; else cis_kubelet_started; fi
}

# cis_etcd: the configuration that k3s has written for its etcd.
cis_etcd() {
  [ -r "$K3S_DATA/server/db/etcd/config" ] || return
  printf '@%s\n' "$K3S_DATA/server/db/etcd/config"
  cis_yaml < "$K3S_DATA/server/db/etcd/config"
}

# cis_value NAME: FK_VALUE is what FK_FACT says of it: the last word counts, as with flags. Unset is empty.
cis_value() {
  local line
  FK_VALUE=''
  while IFS= read -r line; do
    case $line in "$1="*) FK_VALUE=${line#"$1="} ;; esac
  done <<< "$FK_FACT"
}

# cis_seconds DURATION: 1h2m3s and the like in seconds; less than a second is none.
cis_seconds() {
  local left=$1 seconds=0
  while [[ $left =~ ^([0-9]+)(\.[0-9]+)?(h|ms|m|s)(.*)$ ]]; do
    case ${BASH_REMATCH[3]} in
      h) seconds=$((seconds + BASH_REMATCH[1] * 3600)) ;;
      m) seconds=$((seconds + BASH_REMATCH[1] * 60)) ;;
      s) seconds=$((seconds + BASH_REMATCH[1])) ;;
    esac
    left=${BASH_REMATCH[4]}
  done
  case $left in '') ;; *[!0-9]*) seconds=-1 ;; *) seconds=$left ;; esac
  echo "$seconds"
}

# cis_fits OPERATOR WANTED VALUE: an empty value is one that is not set.
cis_fits() {
  local one
  case $1 in
    is) [ -n "$3" ] && case "|$2|" in *"|$3|"*) ;; *) return 1 ;; esac ;;
    unset-or) [ -z "$3" ] || cis_fits is "$2" "$3" ;;
    set) [ -n "$3" ] ;;
    absent) [ -z "$3" ] ;;
    has) case ",$3," in *",$2,"*) ;; *) return 1 ;; esac ;;
    has-not) case ",$3," in *",$2,"*) return 1 ;; esac ;;
    at-least) [[ $3 =~ ^-?[0-9]+$ ]] && [ "$3" -ge "$2" ] ;;
    at-most) [[ $3 =~ ^-?[0-9]+$ ]] && [ "$3" -le "$2" ] ;;
    lasts) one=$(cis_seconds "${3:-no}") && [ "$one" -ge "${2%-*}" ] && [ "$one" -le "${2#*-}" ] ;;
    only)
      [ -n "$3" ] || return
      for one in ${3//,/ }; do
        case ",$2," in *",$one,"*) ;; *) return 1 ;; esac
      done
      ;;
    *) return 1 ;;
  esac
}

# cis_are WHAT NAME OPERATOR WANTED [NAME OPERATOR WANTED…]: FK_FACT says so. What is unknown does not hold.
cis_are() {
  local what=$1 bad='' said='' source
  shift
  [[ $FK_FACT =~ $'\n@'([^$'\n']*) ]] || {
    echo "the arguments of $what are unknown: neither its API, nor the journal of this start, nor its Node has them"
    return 1
  }
  source=${BASH_REMATCH[1]}
  while [ $# -gt 0 ]; do
    cis_value "$1"
    case $said in *"$1="*) ;; *) said+="$1=${FK_VALUE:-unset} " ;; esac
    cis_fits "$2" "$3" "$FK_VALUE" || bad+=" $1 $2 ${3//,/, };"
    shift 3
  done
  echo "$said(by $source)${bad:+; wanted:${bad%;}}"
  [ -z "$bad" ]
}

arg_is() {
  fact "flags.$1" cis_flags "$1"
  cis_are "$@"
}

kubelet_is() {
  fact kubelet cis_kubelet
  cis_are kubelet "$@"
}

# started_is PART …: by the arguments that it was started with, where its own answer leaves them out.
started_is() {
  if [ "$1" = kubelet ]; then fact started.kubelet cis_kubelet_started; else fact "started.$1" cis_begun "$1"; fi
  cis_are "$@"
}

etcd_is() {
  [ ! -e "$K3S_DATA/server/db/state.db" ] || na 'the datastore is SQLite, not etcd'
  fact etcd cis_etcd
  cis_are etcd "$@" || return
  etcd_has_read || return
  case $* in
    *client-transport-security.client-cert-auth*) etcd_refuses 2379 server-ca.crt ;;
    *peer-transport-security.client-cert-auth*) etcd_refuses 2380 peer-ca.crt ;;
  esac
}

# etcd_has_read: the configuration lies there as k3s wrote it at this start: what was written or mounted there later etcd has not
# read.
etcd_has_read() {
  local started ready written
  started=$(systemctl show --timestamp=unix --property=ExecMainStartTimestamp --value k3s.service)
  ready=$(systemctl show --timestamp=unix --property=ActiveEnterTimestamp --value k3s.service)
  written=$(stat --format=%Y "$K3S_DATA/server/db/etcd/config") || return
  [ "$written" -ge "${started#@}" ] && [ "$written" -le "${ready#@}" ] ||
    k3s_no "k3s has started at $started, and that file was written at @$written: etcd has read another"
}

# etcd_refuses PORT CA: whoever shows no certificate gets no answer there.
etcd_refuses() {
  local said
  command -v curl > /dev/null || return 0 # its configuration has the word
  said=$(curl --silent --show-error --max-time 10 --cacert "$K3S_DATA/server/tls/etcd/$2" \
    --output /dev/null --write-out 'answer %{http_code}' "https://127.0.0.1:$1/version" 2>&1) || true # it should not
  echo "asked at port $1 without a certificate: $said"
  case $said in *certificate*) ;; *) return 1 ;; esac
}

# cis_known PART...: these can answer: the API as a whole, etcd by its configuration, others by their flags.
cis_known() {
  local part
  for part; do
    if [ "$part" = api ]; then
      cis_api space || return
      echo 'the API answers'
      continue
    fi
    case $part in etcd) fact etcd cis_etcd ;; kubelet) fact kubelet cis_kubelet ;; *) fact "flags.$part" cis_flags "$part" ;; esac
    [[ $FK_FACT =~ $'\n@'([^$'\n']*) ]] ||
      k3s_no "the arguments of $part are unknown: is k3s up, and does the API answer?" || return
    printf '%s has the arguments of %s\n' "${BASH_REMATCH[1]}" "$part"
  done
}

# tree_is MODE OWNERS DIRECTORY PATTERN: everything below with such a name; - allows any mode, or any owner.
tree_is() {
  local paths
  mapfile -t paths < <(find -H "$3" -name "$4" ! -type l 2> /dev/null | LC_ALL=C sort)
  [ ${#paths[@]} -gt 0 ] || na "there is no $4 below $3"
  mode_is "$1" "$2" "${paths[@]}" > "$FK_TMP/tree" && echo "${#paths[@]} paths below $3" || {
    sed 's/;.*//' "$FK_TMP/tree"
    return 1
  }
}

# cis_file FLAG: the file that a flag of the API server names.
cis_file() {
  fact flags.kube-apiserver cis_flags kube-apiserver
  cis_value "$1"
  [ -n "$FK_VALUE" ] || k3s_no "--$1 is not set" || return
  [ -r "$FK_VALUE" ] || k3s_no "--$1: there is no $FK_VALUE"
}

# encrypted_by PROVIDER...: what is written, is written by the first provider of each list.
encrypted_by() {
  local first
  cis_file encryption-provider-config || return
  # In a list of providers each is an object of one key; the first of each list is what new data is written with.
  first=$(tr --delete ' \n\t' < "$FK_VALUE" | grep --only-matching '"providers":\[{"[a-z]*"' |
    sed 's/.*{"//; s/"$//' | sort --unique | tr '\n' ' ')
  echo "new data is written with: ${first:-nothing that could be read}"
  [ -n "$first" ] || return 1
  for first in $first; do
    case " $* " in *" $first "*) ;; *) return 1 ;; esac
  done
  # It looks for another file every minute.
  fact loaded cis_loaded
  case $FK_FACT in *$'\n'"sha256:$(sha256sum < "$FK_VALUE" | cut --delimiter=' ' --fields=1)"$'\n'*) ;; *)
    echo "the API server has not loaded $FK_VALUE as it is now, but ${FK_LINES[*]:-one of which it says nothing}"
    return 1
    ;;
  esac
}

# cis_loaded: the digests of the configurations that the API server has loaded: how it encrypts.
cis_loaded() {
  k3s_kubectl get --raw /metrics |
    sed --quiet 's/^apiserver_encryption_config_controller_last_config_info{.*[{,]hash="\([^"]*\)".*/\1/p'
}

# audit_covers RESOURCE...: the policy has a rule for each, and at its end one for everything else.
audit_covers() {
  local resource missing=''
  cis_file audit-policy-file || return
  for resource; do
    grep --word-regexp --fixed-strings -e "$resource" <(grep --invert-match '^ *#' "$FK_VALUE") > /dev/null ||
      missing+=" $resource"
  done
  [ "$(grep . "$FK_VALUE" | tail --lines=1 | tr --delete ' ')" = '-level:Metadata' ] || missing+=' what no other rule names'
  echo "$FK_VALUE${missing:+ says nothing about$missing}"
  [ -z "$missing" ] || return
  # The API server has read it when it started: what is written down now decides.
  fact audited cis_audited "$@" deployments.apps
  for resource in "$@" deployments.apps; do
    audit_request "$resource" '[a-z0-9-]*'
    grep --quiet "^${FK_REQUEST#* }\$" <<< "$FK_FACT" || missing+=" $resource"
  done
  echo "the audit log does not have, as it should:${missing:- nothing}"
  [ -z "$missing" ]
}

# audit_request RESOURCE NAME: FK_REQUEST becomes a request about a thing of that name: verb, level at which it has to be in the
# audit log, and path.
audit_request() {
  local core=/api/v1/namespaces/kube-system
  case $1 in
    secrets | configmaps) FK_REQUEST="get Metadata $core/$1/$2" ;;
    serviceaccounts/token) FK_REQUEST="create Metadata $core/serviceaccounts/$2/token" ;;
    tokenreviews) FK_REQUEST="create Metadata /apis/authentication.k8s.io/v1/tokenreviews?fieldManager=$2" ;;
    nodes/proxy) FK_REQUEST="get Request /api/v1/nodes/$2/proxy/" ;;
    pods/exec) FK_REQUEST="get Request $core/pods/$2/exec?command=true" ;;
    */*) FK_REQUEST="get Request $core/${1%/*}/$2/${1#*/}" ;;
    certificates.k8s.io) FK_REQUEST="delete RequestResponse /apis/$1/v1/certificatesigningrequests/$2?dryRun=All" ;;
    rbac.authorization.k8s.io) FK_REQUEST="delete RequestResponse /apis/$1/v1/clusterroles/$2?dryRun=All" ;;
    *) FK_REQUEST="get Metadata /apis/apps/v1/namespaces/kube-system/${1%.apps}/$2" ;;
  esac
}

# cis_audited RESOURCE...: a request for each, about a thing that does not exist, so that nothing changes; and what the audit log
# says of them: level and path.
cis_audited() {
  local name resource
  name=fk-asked-$BASHPID-$RANDOM
  for resource; do
    audit_request "$resource" "$name"
    set -- "${FK_REQUEST%% *}" "${FK_REQUEST##* }"
    if [ "$1" = create ]; then set -- "$@" --filename=-; fi
    k3s_kubectl "$1" --raw "${@:2}" <<< '{}' > /dev/null 2>&1 || true # there is no such thing
  done
  cis_file audit-log-path || return
  tail --bytes=4000000 "$FK_VALUE" | grep --fixed-strings "$name" |
    sed --quiet 's/^.*"level":"\([A-Za-z]*\)".*"requestURI":"\([^"]*\)".*/\1 \2/p'
}

# own_authority: who may speak to etcd is signed by nobody who signs for the rest of the cluster.
own_authority() {
  local path other shared=''
  for path in "$K3S_DATA"/server/tls/etcd/{peer,server}-ca.crt; do
    [ -r "$path" ] || k3s_no "there is no $path" || return
    for other in "$K3S_DATA"/server/tls/{client,server,request-header}-ca.crt; do
      ! cmp --quiet "$path" "$other" || shared+=" $path is $other"
    done
  done
  echo "${shared:-the authorities of etcd are its own}"
  [ -z "$shared" ]
}

# cis_objects: what the API holds, asked in one go: rights, who has them, pods, accounts, namespaces and their policies, one line
# each, behind a word for what it is; fields are parted by tabs.
# shellcheck disable=SC2016 # the variables are those of the template
cis_objects() {
  local name='{{if .metadata.namespace}}{{.metadata.namespace}}/{{end}}{{.metadata.name}}' container template
  container='pod{{"\t"}}{{$pod}}{{"\t"}}{{$in}}{{"\t"}}
    {{- range $key, $value := .securityContext}}
      {{- if eq $key "privileged" "allowPrivilegeEscalation" "runAsNonRoot" "procMount"}}{{$key}}={{$value}},{{end}}
      {{- if eq $key "capabilities"}}{{range .add}}add={{.}},{{end}}{{range .drop}}drop={{.}},{{end}}{{end}}
      {{- if eq $key "windowsOptions"}}{{if .hostProcess}}hostProcess,{{end}}{{end}}
      {{- if eq $key "seccompProfile"}}seccomp={{.type}},{{end}}
    {{- end}}
    {{- range .ports}}{{if .hostPort}}hostPort,{{end}}{{end}}
    {{- range .env}}{{if .valueFrom}}{{if .valueFrom.secretKeyRef}}secret,{{end}}{{end}}{{end}}
    {{- range .envFrom}}{{if .secretRef}}secret,{{end}}{{end}}
    {{- "\n"}}'
  template='{{range .items}}
      {{- if eq .kind "ClusterRole" "Role"}}
        {{- $of := .}}{{$by := "none"}}
        {{- range $key, $value := .metadata.labels}}
          {{- if eq $key "kubernetes.io/bootstrapping"}}{{$by = $value}}{{end}}
        {{- end}}
        {{- $hands := ""}}
        {{- range .metadata.managedFields}}{{$hands = printf "%s%s," $hands .manager}}{{end}}
        {{- range .rules -}}
          rule{{"\t"}}{{with $of}}'$name'{{end}}{{"\t"}}{{$by}}{{"\t"}}
          {{- range .verbs}}{{.}},{{end}}
          {{- "\t"}}
          {{- range .resources}}{{.}},{{end}}
          {{- "\t"}}
          {{- range .apiGroups}}{{.}},{{end}}
          {{- "\t"}}{{$hands}}{{"\n"}}
        {{- end}}
      {{- end}}
      {{- if eq .kind "ClusterRoleBinding" "RoleBinding"}}
        {{- $of := .}}
        {{- range .subjects -}}
          binding{{"\t"}}{{with $of}}'$name'{{"\t"}}{{.roleRef.name}}{{end}}{{"\t"}}{{.kind}}{{"\t"}}{{.name}}{{"\n"}}
        {{- end}}
      {{- end}}
      {{- if eq .kind "Pod"}}
        {{- $in := ""}}{{$pod := printf "%s/%s" .metadata.namespace .metadata.name}}{{$of := .spec}}
        {{- range $key, $value := .spec}}
          {{- if eq $key "hostPID" "hostIPC" "hostNetwork"}}{{if $value}}{{$in = printf "%s%s," $in $key}}{{end}}{{end}}
          {{- if eq $key "securityContext"}}
            {{- range $name, $set := $value}}
              {{- if eq $name "runAsNonRoot"}}{{$in = printf "%spod.%s=%v," $in $name $set}}{{end}}
              {{- if eq $name "seccompProfile"}}{{$in = printf "%spod.seccomp=%v," $in $set.type}}{{end}}
              {{- if eq $name "windowsOptions"}}{{if $set.hostProcess}}{{$in = printf "%shostProcess," $in}}{{end}}{{end}}
            {{- end}}
          {{- end}}
        {{- end}}
        {{- range .spec.volumes}}
          {{- if .hostPath}}{{$in = printf "%shostPath," $in}}{{end}}
          {{- if .projected}}
            {{- range .projected.sources}}
              {{- if .serviceAccountToken}}{{$in = printf "%stoken-of-%s," $in $of.serviceAccountName}}{{end}}
            {{- end}}
          {{- end}}
        {{- end}}
        {{- range .spec.containers}}'$container'{{end}}
        {{- range .spec.initContainers}}'$container'{{end}}
        {{- range .spec.ephemeralContainers}}'$container'{{end}}
      {{- end}}
      {{- if eq .kind "ServiceAccount"}}
        {{- if eq .metadata.name "default" -}}
          account{{"\t"}}{{.metadata.namespace}}{{"\t"}}{{.automountServiceAccountToken}}{{"\n"}}
        {{- end}}
      {{- end}}
      {{- if eq .kind "Namespace"}}
        {{- if not .metadata.deletionTimestamp}}space{{"\t"}}{{.metadata.name}}{{"\n"}}{{end}}
      {{- end}}
      {{- if eq .kind "NetworkPolicy"}}policy{{"\t"}}{{.metadata.namespace}}{{"\n"}}{{end}}
    {{- end}}'
  k3s_kubectl get clusterroles,roles,clusterrolebindings,rolebindings,pods,serviceaccounts,namespaces,networkpolicies \
    --all-namespaces --output "go-template=$template" && echo @the API
}

# cis_api WORD: FK_FACT are the lines behind this word; the API must have answered, whole.
cis_api() {
  fact objects cis_objects
  case $FK_FACT in *$'\n@the API\n') ;; *)
    echo "the API does not answer: $(k3s_kubectl get --raw /readyz 2>&1 | tail --lines=1)"
    return 1
    ;;
  esac
  FK_FACT=$(sed --quiet "s/^$1\t//p" <<< "$FK_FACT")
  # shellcheck disable=SC2034 # fact() reads it: this is a part of what it found
  FK_FACT_OF=''
}

# cis_none WHAT LINES: prints them; holds when there are none.
cis_none() {
  local found
  found=$(grep . <<< "$2" | sort --unique | head --lines=20 | tr '\n' ' ') || true # there is none
  echo "$1: ${found:-none}"
  [ -z "$found" ]
}

# granted VERBS RESOURCES [ROLE…]: nobody has made a role with one of these verbs on one of them, but for ROLE…. What comes with
# Kubernetes does not count, while nobody else has written to it: the API server leaves in it what is added.
granted() {
  local verbs=$1 resources=$2
  shift 2
  cis_api rule || return
  cis_none "roles that may ${verbs//,/ or } ${resources//,/ or }" "$(cis_own_rules "$@" |
    awk -F '\t' -v verbs="$verbs" -v resources="$resources" '
    {
      verb = index("," $3, ",*,")
      n = split(verbs, words, ",")
      for (i = 1; i <= n; i++) if (index("," $3, "," words[i] ",")) verb = 1
      if (!verb) next
      if (index("," $4, ",*,")) { print $1; next }
      n = split(resources, words, ",")
      for (i = 1; i <= n; i++) {
        part = words[i]
        if (index("," $4, "," part ",") || (sub(/^.*\//, "", part) && index("," $4, ",*/" part ","))) { print $1; next }
      }
    }')"
}

# wildcards [ROLE…]: nobody has made a role that says * for verbs, resources or groups, but for ROLE….
wildcards() {
  cis_api rule || return
  cis_none 'roles with *' "$(cis_own_rules "$@" |
    awk -F '\t' 'index("," $3, ",*,") || index("," $4, ",*,") || index("," $5, ",*,") { print $1 }')"
}

# cis_own_rules [ROLE…]: the rules of FK_FACT, without those of Kubernetes itself and of ROLE….
cis_own_rules() {
  awk -F '\t' -v but=" $* " '
    NF < 5 || index(but, " " $1 " ") { next }
    $2 == "rbac-defaults" && $6 ~ /^((kube-apiserver|k3s|k3s-server|clusterrole-aggregation-controller),)+$/ &&
      $1 ~ /(^|\/)(system:.*|extension-apiserver-authentication-reader|cluster-admin|admin|edit|view)$/ { next }
    { print }' <<< "$FK_FACT"
}

# bound_to ROLE [BINDING…]: nobody is bound to it but system:masters, and that by BINDING…; and the one break-glass account of
# page 54, by a binding of its own.
bound_to() {
  local role=$1
  shift
  cis_api binding || return
  cis_none "bound to $role" "$(awk -F '\t' -v role="$role" -v but=" $* " '
    $2 == role && $3 == "User" && $1 == $4 && $4 ~ /^fortress:break-glass:[0-9a-f]+$/ && !glass++ { next }
    $2 == role && !(index(but, " " $1 " ") && $3 == "Group" && $4 == "system:masters") { print $1 " (" $4 ")" }' <<< "$FK_FACT")"
}

# bound_group GROUP [BINDING…]: the group has rights by nothing but BINDING….
bound_group() {
  local group=$1
  shift
  cis_api binding || return
  cis_none "bindings of $group" "$(awk -F '\t' -v group="$group" -v but=" $* " '
    $3 == "Group" && $4 == group && !index(but, " " $1 " ") { print $1 }' <<< "$FK_FACT")"
}

# cis_reviews: whether an account that has nothing but a name may do what CIS names, one line each.
cis_reviews() {
  local what=''
  for what in get.secrets list.secrets watch.secrets create.pods; do
    printf '{"apiVersion":"authorization.k8s.io/v1","kind":"SubjectAccessReview","spec":{"user":"nobody",'
    printf '"groups":["system:authenticated","system:serviceaccounts"],'
    printf '"resourceAttributes":{"verb":"%s","resource":"%s"}}}\n' "${what%.*}" "${what#*.}"
  done | k3s_kubectl create --filename=- --output \
    jsonpath='{.spec.resourceAttributes.verb} {.spec.resourceAttributes.resource} {.status.allowed}{"\n"}'
}

# nobody_may VERBS RESOURCE: who has nothing but an account may not do it, in any namespace.
nobody_may() {
  local verb
  fact reviews cis_reviews
  for verb in ${1//,/ }; do
    case $FK_FACT in
      *$'\n'"$verb $2 false"*) ;;
      *$'\n'"$verb $2 true"*) k3s_no "an account without rights may $verb $2" || return ;;
      *) k3s_no 'the API does not answer' || return ;;
    esac
  done
  echo "an account without rights may not ${1//,/ or } $2"
}

# quiet_accounts: no default service account mounts its token, and every namespace has one.
quiet_accounts() {
  local spaces space
  cis_api space || return
  spaces=$FK_FACT
  cis_api account || return
  for space in $spaces; do
    grep --quiet "^$space"$'\t' <<< "$FK_FACT" ||
      k3s_no "$space has no account called default: the controller manager has not created it" || return
  done
  cis_none 'default accounts whose token is mounted unasked, in' "$(awk '$2 != "false" { print $1 }' <<< "$FK_FACT")"
}

# cis_pods_with MARK [NAMESPACE…]: pods outside of those namespaces, with a mark of cis_objects in any container.
cis_pods_with() {
  local mark=$1
  shift
  awk -F '\t' -v mark="$mark" -v but=" $* " '
    function set(word) { return index(has, "," word ",") > 0 }
    NF < 3 { next }
    { split($1, at, "/"); if (index(but, " " at[1] " ")) next; of = "," tolower($2); has = "," tolower($3) }
    mark == "escalation" { if (!set("allowprivilegeescalation=false")) print $1; next }
    mark == "root" {
      if (!set("runasnonroot=true") && !(of ~ /,pod.runasnonroot=true,/ && !set("runasnonroot=false"))) print $1
      next
    }
    mark == "capabilities" { if (!set("drop=all")) print $1; next }
    mark == "netraw" { if (set("add=net_raw") || set("add=all")) print $1; next }
    mark == "unconfined" {
      if (set("seccomp=unconfined") || (of ~ /,pod.seccomp=unconfined,/ && has !~ /,seccomp=/)) print $1
      next
    }
    mark == "token" { if (of ~ /,token-of-default,/) print $1; next }
    set(mark) || set(mark "=true") || set(mark "=unmasked") || index(of, "," mark ",") { print $1 }' <<< "$FK_FACT"
}

# without MARK [NAMESPACE…]: no pod outside of those namespaces has it.
without() {
  cis_api pod || return
  cis_none "pods with $1${2:+, but for those in ${*:2}}" "$(cis_pods_with "$@")"
}

# cis_offered: each pod of config/k3s/refused.yaml as a dry run, and what the API says to it.
cis_offered() {
  k3s_kubectl create --dry-run=server --filename=- --namespace=default <<< "$CIS_PODS" 2>&1 || true # most are refused
  echo @the API
}

# refuses POD: the API refuses it for its security, and takes the pod that needs no rights.
refuses() {
  local said
  fact offered cis_offered
  case $FK_FACT in *$'\n'"pod/tame created"*) ;; *)
    said=$(grep tame <<< "$FK_FACT" || grep . <<< "$FK_FACT" | tail --lines=2) || true # it may have said nothing
    echo "the API does not even take a pod that needs no rights: $said"
    return 1
    ;;
  esac
  said=$(grep --fixed-strings "pods \"$1\" is forbidden: violates PodSecurity" <<< "$FK_FACT") ||
    k3s_no "it would take a pod with $1" || return
  echo "it is refused: ${said#*violates }"
}

# refused POD [NAMESPACE…]: the API refuses it, and nothing like it runs outside of these namespaces.
refused() { refuses "$1" && without "$@"; }

# cis_secrets: namespace, name and type of every Secret, as the API prints them: what is in them stays there.
cis_secrets() { k3s_kubectl get secrets --all-namespaces --no-headers 2>&1 && echo @the API; }

# no_secret TYPE: there is none of it in any namespace.
no_secret() {
  fact secrets cis_secrets
  case $FK_FACT in *$'@the API\n') ;; *) k3s_no 'the API does not answer' || return ;; esac
  cis_none "Secrets of type $1" "$(awk -v type="$1" '$3 == type { print $1 "/" $2 }' <<< "$FK_FACT")"
}

# ending_tokens: every token that lets a node in ends by itself.
ending_tokens() {
  local said
  if no_secret bootstrap.kubernetes.io/token; then return; fi
  said=$(k3s_kubectl get secrets --namespace=kube-system --field-selector type=bootstrap.kubernetes.io/token --output \
    go-template='{{range .items}}{{if not .data.expiration}}{{.metadata.name}}{{"\n"}}{{end}}{{end}}@' 2>&1)
  case $said in
    *@) cis_none 'tokens to join with that never end' "${said%@}" ;;
    *) k3s_no "the API does not answer: $said" ;;
  esac
}

# policed [NAMESPACE…]: every other namespace has a NetworkPolicy.
policed() {
  local spaces space open=''
  cis_api space || return
  spaces=$FK_FACT
  cis_api policy || return
  for space in $spaces; do
    case " $* ${FK_FACT//$'\n'/ } " in *" $space "*) ;; *) open+="$space"$'\n' ;; esac
  done
  cis_none 'namespaces without a NetworkPolicy' "$open"
}

# unused_default: in the namespace default there is nothing but what Kubernetes puts there.
unused_default() {
  local said
  said=pods,services,deployments,daemonsets,statefulsets,jobs,cronjobs,configmaps,secrets,persistentvolumeclaims
  said=$(k3s_kubectl get "$said" --namespace=default --output name 2>&1) || k3s_no "the API does not answer: $said" || return
  cis_none 'in the namespace default' "$(grep --invert-match --line-regexp --extended-regexp \
    'service/kubernetes|configmap/kube-root-ca.crt|' <<< "$said")"
}

# proxy_is_local: there is no kube-proxy, by the journal and by the ports of its metrics and its health, 10249 and 10256; else
# what it listens on for metrics is this machine alone.
proxy_is_local() {
  fact started cis_started
  case $FK_FACT in
    *$'\nkube-proxy '*) ;;
    *) cis_listens 10249 || cis_listens 10256 || na 'there is no kube-proxy: Cilium does its work' ;;
  esac
  arg_is kube-proxy metrics-bind-address unset-or '127.0.0.1|127.0.0.1:10249|[::1]:10249'
}
