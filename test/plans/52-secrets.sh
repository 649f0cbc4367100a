#!/bin/bash
# 52-secrets: The keys by which the cluster opens secrets that lie encrypted in Git: made on the laptop, kept there, and handed over.
#
# Run it on the laptop, as yourself:
#   KUBECONFIG=FILE FK_SECRETS=DIR bash 52-secrets.sh
# It has 2 steps. Each checks first, and changes only what does not hold.
# It needs kubectl and helm in PATH, and in KUBECONFIG the file that opens the API of the cluster.
# It keeps no record, so undo cannot take it back. It checks no controls: verify does.
# FK_SECRETS is a directory with one file for each of these secrets, as the machine gets it:
#   sops-cluster-key
# shellcheck disable=SC2034 # functions read what is set here
set -euo pipefail
FK_PAGE=52-secrets FK_FILE=52-secrets.sh
export FK_PAGE FK_FILE

main() {
  case ${1-} in '') ;; *) usage ;; esac
  begin_rootless kubectl helm
  : "${FK_SECRETS:?a directory with the secrets of this page}"
  : "${KUBECONFIG:?the file that opens the API of the cluster}"

  # 1/2 namespace sops has Pod Security level restricted
  #   why: nothing in sops needs more
  check() {
    test "$(kubectl get namespace sops --output=jsonpath='{.metadata.labels.pod-security\.kubernetes\.io/enforce} {.metadata.labels.pod-security\.kubernetes\.io/audit} {.metadata.labels.pod-security\.kubernetes\.io/warn}')" = 'restricted restricted restricted' &&
      account_quiet sops
  }
  apply() {
    (
      kubectl get namespace sops --output=name ||
        { release_awaited kubectl create namespace sops && kubectl label namespace sops fortress-kit=made; }
    )
    release_awaited kubectl label namespace sops --overwrite \
      pod-security.kubernetes.io/enforce=restricted pod-security.kubernetes.io/audit=restricted pod-security.kubernetes.io/warn=restricted
    account_quieten sops
  }
  change 'namespace sops has Pod Security level restricted'

  # 2/2 the age key of the cluster is in the cluster, as the laptop has it
  #   why: what people encrypt for it in Git it opens by itself; digests are compared, and the key is never shown
  check() { handed_holds sops sops-age /nonexistent/fortress/sops-cluster-key.age; }
  apply() {
    {
      handed_file cluster.agekey | handed_put sops sops-age /nonexistent/fortress/sops-cluster-key.age Opaque
    } < "$FK_SECRETS"/sops-cluster-key
  }
  change 'the age key of the cluster is in the cluster, as the laptop has it'
}

# What main uses.
# from lib/component/release.sh: release_awaited release_advice account_quiet account_quieten
# from lib/component/handed.sh: handed_holds handed_digest handed_put handed_file
# from lib/engine/shell/put.sh: FK_STATE
# from lib/engine/shell/printed.sh: FK_OUT FK_RC FK_TX FK_VISIT FK_ARM FK_BACK FK_TMP begin_rootless usage recover holds
# from lib/engine/shell/printed.sh: change fail

main "$@"
