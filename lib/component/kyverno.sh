# shellcheck shell=bash
# What Kyverno says of itself and of the rules, and what the API server asks it about.

# kyverno_answers: the API server asks it whether a policy makes sense, and it refuses one that does not. Nothing is stored.
kyverno_answers() {
  local said
  said=$(kubectl create --dry-run=server --filename=- 2>&1 << 'END'
apiVersion: policies.kyverno.io/v1
kind: ValidatingPolicy
metadata: { name: fortress-kit-asks }
spec:
  matchConstraints:
    resourceRules: [{ apiGroups: [''], apiVersions: [v1], operations: [CREATE], resources: [pods] }]
  validations: [{ expression: there_is_no_such_thing }]
END
  ) && { echo 'a policy that makes no sense is let through: the API server does not ask it'; return 1; }
  [[ $said == *'denied the request'* ]] || { printf '%s\n' "$said"; return 1; }
}

# kyverno_judges SILENT RULE…: Kyverno has made each of these rules ready, and the API server asks it by a webhook that lets
# requests pass, or does not, while it is SILENT; and never about kube-system or its own namespace.
kyverno_judges() {
  local by=vpol.validate.kyverno.svc-${1,,}-finegrained-fortress ready asked rule line missing=''
  local each='{{ .metadata.name }} {{ with .status }}{{ with .conditionStatus }}{{ .ready }} {{ .message }}{{ end }}{{ end }}'
  local hook='{{ .name }}{{ with .namespaceSelector }}{{ range .matchExpressions }}{{ range .values }}'
  hook+=' {{ . }}{{ end }}{{ end }}{{ end }}'
  shift
  ready=$(kubectl get validatingpolicies.policies.kyverno.io --selector=fortress-kit=kyverno-rules \
    --output=go-template="{{ range .items }}$each{{ \"\\n\" }}{{ end }}") || return
  asked=$(kubectl get validatingwebhookconfigurations kyverno-resource-validating-webhook-cfg \
    --output=go-template="{{ range .webhooks }}$hook{{ \"\\n\" }}{{ end }}") || return
  for rule; do
    grep --quiet "^fortress-$rule true" <<< "$ready" ||
      missing+="fortress-$rule is not ready: $(grep "^fortress-$rule " <<< "$ready" || true)"$'\n'
    line=$(grep "^$by-$rule " <<< "$asked") || line=''
    case " ${line#* } " in
      *' kube-system '*) case " ${line#* } " in *' kyverno '*) continue ;; esac ;;
    esac
    missing+="the API server does not ask by fortress-$rule, or also about kube-system or kyverno: $line"$'\n'
  done
  [ -z "$missing" ] || { printf '%s' "$missing"; return 1; }
}

# kyverno_unhooked: none of its webhooks is left. It makes them itself, and helm knows nothing of them.
kyverno_unhooked() {
  kubectl delete validatingwebhookconfigurations,mutatingwebhookconfigurations \
    --selector=webhook.kyverno.io/managed-by=kyverno --ignore-not-found
}
export -f kyverno_answers kyverno_judges kyverno_unhooked
