# shellcheck shell=bash
# Gateways and routes as their controller sees them. The steps that use these functions are in scripts/32-network-gateway.ts and
# scripts/39-hello.ts; they run on the laptop, with kubectl.

# gateway_ready NAMESPACE NAME [ADDRESS [https]]: the gateway is accepted and programmed as it stands now, and has the ADDRESS, or
# one; with `https` its certificate is there, too. It says what is missing.
gateway_ready() {
  local said each is='{{ .type }} {{ .status }} {{ .observedGeneration }} {{ .reason }}: {{ .message }}{{ "\n" }}'
  each='generation {{ .metadata.generation }}{{ "\n" }}{{ range .status.addresses }}address {{ .value }}{{ "\n" }}{{ end }}'
  each+="{{ range .status.conditions }}gateway $is{{ end }}"
  each+="{{ range .status.listeners }}{{ \$name := .name }}{{ range .conditions }}listener-{{ \$name }} $is{{ end }}{{ end }}"
  said=$(kubectl get gateways.gateway.networking.k8s.io "$2" --namespace "$1" --output=go-template="$each") || return
  awk -v wanted="${3-}" -v strict="${4-}" '
    function rest(n) { while (n-- > 0) sub(/^[^ ]* /, ""); return $0 }
    $1 == "generation" { generation = $2 }
    $1 == "address" { addresses = addresses " " $2; if ($2 == wanted) has = 1 }
    $1 == "gateway" && ($2 == "Accepted" || $2 == "Programmed") {
      if ($3 == "True" && $4 == generation) good++
      else { head = $2 " is " $3 ($4 == generation ? "" : " of an older generation"); print head ", " rest(4) }
    }
    $1 ~ /^listener-https/ && $2 == "ResolvedRefs" && $3 != "True" { https = rest(4) }
    END {
      if (good < 2) exit 1
      if (wanted == "" ? addresses == "" : !has) {
        print "its addresses are" (addresses == "" ? " none" : addresses) (wanted == "" ? "" : ", and not " wanted)
        exit 1
      }
      print "programmed at" addresses (https == "" ? "" : "; HTTPS begins with 33-certificates, " https)
      exit strict != "" && https != ""
    }' <<< "$said"
}

# route_ready NAMESPACE NAME: each gateway that the route names has accepted it as it stands now, and found what it leads to.
route_ready() {
  local said each is='{{ .type }} {{ .status }} {{ .observedGeneration }} {{ .reason }}: {{ .message }}{{ "\n" }}'
  each='generation {{ .metadata.generation }}{{ "\n" }}{{ range .spec.parentRefs }}wanted{{ "\n" }}{{ end }}'
  each+="{{ range .status.parents }}{{ range .conditions }}route $is{{ end }}{{ end }}"
  said=$(kubectl get httproutes.gateway.networking.k8s.io "$2" --namespace "$1" --output=go-template="$each") || return
  awk '
    function rest(n) { while (n-- > 0) sub(/^[^ ]* /, ""); return $0 }
    $1 == "generation" { generation = $2 }
    $1 == "wanted" { wanted += 2 }
    $1 == "route" && ($2 == "Accepted" || $2 == "ResolvedRefs") {
      if ($3 == "True" && $4 == generation) good++
      else { head = $2 " is " $3 ($4 == generation ? "" : " of an older generation"); print head ", " rest(4) }
    }
    END { exit good < wanted }' <<< "$said"
}
export -f gateway_ready route_ready
