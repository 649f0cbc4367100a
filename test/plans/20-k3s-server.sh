#!/bin/bash
# 20-k3s-server: The first server of the cluster: hardened by files, and proven to answer before its configuration is kept.
#
# Run it as root on fortress-node:
#   FK_SECRETS=DIR FK_FILES=DIR bash 20-k3s-server.sh
# It has 19 steps. Each checks first, and changes only what does not hold.
# It keeps no record, so undo cannot take it back. It checks no controls: verify does.
# FK_SECRETS is a directory with one file for each of these secrets, as the machine gets it:
#   k3s-agent-token
#   k3s-server-token
# FK_FILES is a directory with these downloads. Each is proven before it is used:
#   https://github.com/k3s-io/k3s/releases/download/v1.36.4%2Bk3s1/k3s
# What should not be on this machine alone is saved to /root/fortress-saved: take it away from there.
# Steps that could lock you out are transactions. When one is done, log in by a NEW connection and run:
#   touch /run/fortress-confirm
# If you do not within 840 seconds of its beginning, the machine rolls it back.
# At a console: FK_KEEP_CHANGES=yes, and nothing is rolled back.
# shellcheck disable=SC2034 # functions read what is set here
set -euo pipefail
FK_PAGE=20-k3s-server FK_FILE=20-k3s-server.sh
export FK_PAGE FK_FILE

main() {
  case ${1-} in '') ;; *) usage ;; esac
  begin
  : "${FK_SECRETS:?a directory with the secrets of this page}"
  : "${FK_FILES:?a directory with the downloads of this page}"

  # 1/19 the kernel counts the memory of groups
  #   why: k3s does not start without the memory controller, which the firmware of a Raspberry Pi switches off
  check() {
    grep --word-regexp --quiet memory /sys/fs/cgroup/cgroup.controllers || systemd-detect-virt --quiet --container
  }
  demand 'the kernel counts the memory of groups' 'on a Raspberry Pi: ./task host-harden apply writes cgroup_enable=memory into cmdline.txt; then restart it'

  # 2/19 cgroup v2 is mounted and the clock is synchronised
  #   why: the kubelet of this version refuses cgroup v1, and certificates are not valid before their time
  check() {
    test "$(stat --file-system --format=%T /sys/fs/cgroup)" = cgroup2fs &&
      { systemd-detect-virt --quiet --container || test "$(timedatectl show --property=NTPSynchronized --value)" = yes; }
  }
  demand 'cgroup v2 is mounted and the clock is synchronised' 'find out why the clock is not synchronised: timedatectl timesync-status, or chronyc tracking'

  # 3/19 directory /opt/k3s/v1.36.4+k3s1 exists
  check() { test "$(stat --format='%F %a %U:%G' /opt/k3s/v1.36.4+k3s1)" = 'directory 755 root:root'; }
  apply() {
    (
      record_before /opt/k3s && record_before /opt/k3s/v1.36.4+k3s1
    )
    install --directory --mode=755 --owner=root --group=root /opt/k3s /opt/k3s/v1.36.4+k3s1
  }
  change 'directory /opt/k3s/v1.36.4+k3s1 exists'

  # 4/19 k3s v1.36.4+k3s1 is downloaded and verified
  #   why: it has the pinned SHA-256; nothing that comes from the network is run to install it
  check() { k3s_program v1.36.4+k3s1 835873f37245fc615f547a2fe2af9402a347875f13fa64a1f136de644955ea3f; }
  apply() {
    printf '%s  %s\n' 835873f37245fc615f547a2fe2af9402a347875f13fa64a1f136de644955ea3f "$FK_FILES"/k3s | sha256sum --check --quiet
    digest=$(sha256sum "$FK_FILES"/k3s | cut --delimiter=' ' --fields=1)
    cp "$FK_FILES"/k3s /opt/k3s/v1.36.4+k3s1/.k3s."${digest:0:16}".part
    export FK_SENT="$digest"' /opt/k3s/v1.36.4+k3s1/k3s'
    receive /opt/k3s/v1.36.4+k3s1/k3s 755
  }
  change 'k3s v1.36.4+k3s1 is downloaded and verified'

  # 5/19 /opt/bin/k3s links to an installed version
  #   why: only k3s-upgrade changes to which: it drains the node first, and goes back when the new version fails
  check() { test -n "$(k3s_version)" && test -x /opt/bin/k3s; }
  apply() { k3s_use v1.36.4+k3s1; }
  change '/opt/bin/k3s links to an installed version'

  # 6/19 no second cluster is initialised on an empty disk
  #   why: it would get a new CA and new keys, and hold nothing of what the cluster held
  check() { test -d /var/lib/rancher/k3s/server/db/etcd || true; }
  demand 'no second cluster is initialised on an empty disk' 'restore a backup: ./task restore FILE.
Or put another server first in config/sites/fortress.yaml, and fortress-node joins it.
If the old cluster is gone for good, and its backups too: delete
k3s-join-server.age, k3s-join-agent.age, k3s-kubeconfig.age in /nonexistent/fortress'

  # Steps 7 to 15 are one transaction.
  FK_RESTART='always	k3s.service	/etc/rancher/k3s/	/etc/rancher/k3s/k3s.yaml	/etc/rancher/k3s/token' FK_TABLES=''
  transaction 840

  # 7/19 k3s.service unit is installed
  check() {
    put_matches /etc/systemd/system/k3s.service 6feb2dd1ada53fafaf6a2c29fa0ee639741f232369b5c441fc6857218fd27afa 644 root:root
  }
  apply() {
    put /etc/systemd/system/k3s.service 644 root:root << 'FORTRESS'
# k3s as server. Until the secrets of the cluster are present, systemd skips this unit, which is no failure.
[Unit]
Description=Lightweight Kubernetes
Documentation=https://docs.k3s.io
ConditionPathExists=/etc/rancher/k3s/token
ConditionFileIsExecutable=/opt/bin/k3s
Wants=network-online.target
After=network-online.target

[Service]
Type=notify
ExecStart=/opt/bin/k3s server --config /etc/rancher/k3s/config.yaml
KillMode=process
Delegate=yes
# As k3s' own installer has it: programs in containers that close every file that they could have open take an age with more.
LimitNOFILE=1048576
LimitNPROC=infinity
LimitCORE=0
TasksMax=infinity
TimeoutStartSec=0
Restart=always
RestartSec=5s

[Install]
WantedBy=multi-user.target
FORTRESS
    systemctl daemon-reload
    put_finish /etc/systemd/system/k3s.service
  }
  recover() {
    put_restore /etc/systemd/system/k3s.service
    { systemctl daemon-reload
    } || true # the old file was good for it once
  }
  change 'k3s.service unit is installed'

  # 8/19 k3s configuration: config.yaml
  check() {
    put_matches /etc/rancher/k3s/config.yaml d262ddcc3f82774b31d524f262ce2621c336b8fe3af1869729401ac3dedbc028 600 root:root
  }
  apply() {
    put /etc/rancher/k3s/config.yaml 600 root:root << 'FORTRESS'
# The configuration of k3s on every server of the cluster, the same on all: encryption and tokens must agree. What differs between
# nodes is in config.yaml.d. Each key is written once: k3s would take the last one.

# Secrets come from files that only root can read. Agents have a token of their own, with which no node can join as a server.
token-file: /etc/rancher/k3s/token
agent-token-file: /etc/rancher/k3s/agent-token
write-kubeconfig-mode: '0600'

# Encryption at rest: Secrets are encrypted in etcd. This cannot be switched on later.
secrets-encryption: true
secrets-encryption-provider: secretbox

# Cilium is the network plug-in and replaces kube-proxy. The gateway and the volumes have their own layers.
flannel-backend: none
disable-network-policy: true
disable-kube-proxy: true
disable:
  - traefik
  - servicelb
  - local-storage
# The Helm controller would install charts as cluster-admin for everybody who may create a HelmChart.
disable-helm-controller: true

# An etcd snapshot every six hours, kept for a week on this disk; the backup copies them elsewhere.
etcd-snapshot-schedule-cron: '17 */6 * * *'
etcd-snapshot-retention: 28
etcd-snapshot-compress: true

kube-apiserver-arg:
  # Authentication, authorization and limits of requests
  - anonymous-auth=false
  - enable-admission-plugins=NodeRestriction,EventRateLimit,DenyServiceExternalIPs
  - admission-control-config-file=/etc/rancher/k3s/admission.yaml
  - request-timeout=300s
  - service-account-extend-token-expiration=false
  - profiling=false
  # Requests are written to the audit log
  - audit-policy-file=/etc/rancher/k3s/audit.yaml
  - audit-log-path=/var/lib/rancher/k3s/server/logs/audit.log
  - audit-log-maxage=30
  - audit-log-maxbackup=10
  - audit-log-maxsize=100
  # TLS ciphers with forward secrecy only
  - tls-min-version=VersionTLS12
  - tls-cipher-suites=TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384

kube-controller-manager-arg:
  - terminated-pod-gc-threshold=100
  - profiling=false

kube-scheduler-arg:
  - profiling=false

# The kubelet refuses to start when kernel settings differ from its own, and does not change them.
protect-kernel-defaults: true
# As arguments and not in a configuration file of the kubelet: scanners read arguments.
kubelet-arg:
  - streaming-connection-idle-timeout=5m
  - pod-max-pids=4096
  - seccomp-default=true
  - event-qps=50
  # The disk of a node has room for etcd: logs of a container end at 50 MB, and unused images go before the kubelet evicts pods
  - container-log-max-size=10Mi
  - container-log-max-files=5
  - image-gc-high-threshold=75
  - image-gc-low-threshold=65
  - make-iptables-util-chains=true
  - tls-min-version=VersionTLS12
  - tls-cipher-suites=TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384
FORTRESS
    put_finish /etc/rancher/k3s/config.yaml
  }
  recover() { put_restore /etc/rancher/k3s/config.yaml; }
  change 'k3s configuration: config.yaml'

  # 9/19 k3s configuration: config.yaml.d/10-node.yaml
  check() {
    put_matches /etc/rancher/k3s/config.yaml.d/10-node.yaml 6f185cec570f6302f595c0d9890ba54b31682a29e549d3a4ded2ba7c272daa19 600 root:root
  }
  apply() {
    put /etc/rancher/k3s/config.yaml.d/10-node.yaml 600 root:root << 'FORTRESS'
# The configuration of this node alone; the rest is the same on all.
node-name: fortress-node
node-ip: 10.77.0.2
cluster-init: true
tls-san:
  - fortress-node
  - 10.77.0.2
cluster-cidr: 10.42.0.0/16
service-cidr: 10.43.0.0/16
FORTRESS
    put_finish /etc/rancher/k3s/config.yaml.d/10-node.yaml
  }
  recover() { put_restore /etc/rancher/k3s/config.yaml.d/10-node.yaml; }
  change 'k3s configuration: config.yaml.d/10-node.yaml'

  # 10/19 k3s configuration: admission.yaml
  check() {
    put_matches /etc/rancher/k3s/admission.yaml a6258c018a9ec9938327cbd59397fe9016c9f7e1e30eecab8639c57b457a3c6c 600 root:root
  }
  apply() {
    put /etc/rancher/k3s/admission.yaml 600 root:root << 'FORTRESS'
# Admission plug-ins of the API server: they check each request before an object is stored.
apiVersion: apiserver.config.k8s.io/v1
kind: AdmissionConfiguration
plugins:
  # A namespace is restricted unless its label says otherwise (pod-security.kubernetes.io/enforce): labels are seen in the audit log.
  - name: PodSecurity
    configuration:
      apiVersion: pod-security.admission.config.k8s.io/v1
      kind: PodSecurityConfiguration
      defaults:
        enforce: restricted
        enforce-version: latest
        audit: restricted
        audit-version: latest
        warn: restricted
        warn-version: latest
      exemptions:
        usernames: []
        runtimeClasses: []
        # The network plug-in and the add-ons of k3s.
        namespaces: [kube-system]
  # The plug-in requires a limit: without one the API server does not start.
  - name: EventRateLimit
    configuration:
      apiVersion: eventratelimit.admission.k8s.io/v1alpha1
      kind: Configuration
      limits:
        - type: Server
          qps: 500
          burst: 5000
        - type: Namespace
          qps: 50
          burst: 200
          cacheSize: 1000
FORTRESS
    put_finish /etc/rancher/k3s/admission.yaml
  }
  recover() { put_restore /etc/rancher/k3s/admission.yaml; }
  change 'k3s configuration: admission.yaml'

  # 11/19 k3s configuration: audit.yaml
  check() {
    put_matches /etc/rancher/k3s/audit.yaml 9f60e3962f0fc9e8834c18d9695212b21e06c4a82a63ab8921ec0ffdcee1f80a 600 root:root
  }
  apply() {
    put /etc/rancher/k3s/audit.yaml 600 root:root << 'FORTRESS'
# The audit policy: which requests to the API are logged. The first rule that matches decides; for Secrets the request is logged,
# never its content.
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
omitManagedFields: true
rules:
  # The break-glass account, with all that is noise of others: 57-break-glass looks for its use.
  - level: Metadata
    userGroups: ['fortress:break-glass']

  # Noise: health checks and heartbeats.
  - level: None
    nonResourceURLs: ['/healthz*', '/livez*', '/readyz*', '/version']
  - level: None
    verbs: [get, update, patch]
    users: ['system:kube-controller-manager', 'system:kube-scheduler', 'system:k3s-controller']
    resources:
      - group: coordination.k8s.io
        resources: [leases]
  - level: None
    userGroups: ['system:nodes']
    verbs: [get, update, patch]
    resources:
      - group: coordination.k8s.io
        resources: [leases]
  - level: None
    resources:
      - group: ''
        resources: [events]
      - group: events.k8s.io
        resources: [events]

  # Bodies of these hold secrets, so no rule below ever sees them.
  - level: Metadata
    resources:
      - group: ''
        resources: [secrets, configmaps, serviceaccounts/token]
      - group: authentication.k8s.io
        resources: [tokenreviews]

  # Access to running pods: exec, attach, port forwarding, proxy.
  - level: Request
    resources:
      - group: ''
        resources:
          - pods/attach
          - pods/ephemeralcontainers
          - pods/exec
          - pods/portforward
          - pods/proxy
          - services/proxy
          - nodes/proxy

  # Changes of RBAC and of admission: with request and response.
  - level: RequestResponse
    verbs: [create, update, patch, delete, deletecollection]
    resources:
      - group: rbac.authorization.k8s.io
      - group: admissionregistration.k8s.io
      - group: certificates.k8s.io
      - group: apiextensions.k8s.io
      - group: policies.kyverno.io
      - group: cilium.io
      - group: networking.k8s.io
      - group: ''
        resources: [namespaces, nodes, serviceaccounts]

  # All other changes.
  - level: Request
    verbs: [create, update, patch, delete, deletecollection]

  - level: Metadata
FORTRESS
    put_finish /etc/rancher/k3s/audit.yaml
  }
  recover() { put_restore /etc/rancher/k3s/audit.yaml; }
  change 'k3s configuration: audit.yaml'

  # 12/19 audit log directory is readable by root alone
  check() { test "$(stat --format='%a %U:%G' /var/lib/rancher/k3s/server/logs)" = '700 root:root'; }
  apply() {
    install --directory --mode=700 --owner=root --group=root \
      /var/lib/rancher/k3s/server /var/lib/rancher/k3s/server/logs
  }
  change 'audit log directory is readable by root alone'

  # 13/19 agent token is installed
  #   why: agents join with a token of their own, with which no machine becomes a server
  check() {
    put_finished /etc/rancher/k3s/agent-token && [ "$(stat --format='%a %U:%G' /etc/rancher/k3s/agent-token)" = "600 root:root" ] && sha256sum --check --status /var/lib/fortress/secret/etc/rancher/k3s/agent-token.sha256
  }
  apply() {
    {
      put /etc/rancher/k3s/agent-token 600 root:root
    } < "$FK_SECRETS"/k3s-agent-token
    (
      install --directory --mode=700 "$(dirname /var/lib/fortress/secret/etc/rancher/k3s/agent-token.sha256)" && sha256sum /etc/rancher/k3s/agent-token > /var/lib/fortress/secret/etc/rancher/k3s/agent-token.sha256
    )
    put_finish /etc/rancher/k3s/agent-token
  }
  recover() { put_restore /etc/rancher/k3s/agent-token; }
  change 'agent token is installed'

  # 14/19 server token is installed
  #   why: servers join with it, and it encrypts the bootstrap data in etcd
  check() {
    put_finished /etc/rancher/k3s/token && [ "$(stat --format='%a %U:%G' /etc/rancher/k3s/token)" = "600 root:root" ] && sha256sum --check --status /var/lib/fortress/secret/etc/rancher/k3s/token.sha256
  }
  apply() {
    {
      put /etc/rancher/k3s/token 600 root:root
    } < "$FK_SECRETS"/k3s-server-token
    (
      install --directory --mode=700 "$(dirname /var/lib/fortress/secret/etc/rancher/k3s/token.sha256)" && sha256sum /etc/rancher/k3s/token > /var/lib/fortress/secret/etc/rancher/k3s/token.sha256
    )
    put_finish /etc/rancher/k3s/token
  }
  recover() { put_restore /etc/rancher/k3s/token; }
  change 'server token is installed'

  # 15/19 k3s server fortress-node runs with the current configuration
  #   why: it restarts only after a change of its version, unit, configuration or tokens; when it fails, the previous ones return
  check() { k3s_runs server fortress-node; }
  apply() { k3s_start server fortress-node 540; }
  change 'k3s server fortress-node runs with the current configuration'

  confirm

  # 16/19 join token for servers is saved on the laptop, encrypted
  check() {
    saved k3s-join-server "$(sha256sum /var/lib/rancher/k3s/server/token | cut --delimiter=' ' --fields=1)"
  }
  apply() {
    : # the laptop makes the copy, see save
    {
      cat /var/lib/rancher/k3s/server/token
    } | save k3s-join-server once
  }
  change 'join token for servers is saved on the laptop, encrypted'

  # 17/19 join token for agents is saved on the laptop, encrypted
  check() {
    saved k3s-join-agent "$(sha256sum /var/lib/rancher/k3s/server/agent-token | cut --delimiter=' ' --fields=1)"
  }
  apply() {
    : # the laptop makes the copy, see save
    {
      cat /var/lib/rancher/k3s/server/agent-token
    } | save k3s-join-agent once
  }
  change 'join token for agents is saved on the laptop, encrypted'

  # 18/19 kubeconfig of the cluster is saved on the laptop, encrypted
  check() {
    saved k3s-kubeconfig "$(sha256sum /etc/rancher/k3s/k3s.yaml | cut --delimiter=' ' --fields=1)"
  }
  apply() {
    : # the laptop makes the copy, see save
    {
      cat /etc/rancher/k3s/k3s.yaml
    } | save k3s-kubeconfig
  }
  change 'kubeconfig of the cluster is saved on the laptop, encrypted'

  # 19/19 no interface of flannel, and no rule of kube-proxy, is left on this node
  #   why: flannel has the port by which Cilium sends from node to node, and old rules lead to pods that are gone
  check() { k3s_alone; }
  demand 'no interface of flannel, and no rule of kube-proxy, is left on this node' 'k3s has left them from when it was started with both; they go with a restart of the node: systemctl reboot'
}

# What main uses.
# from lib/engine/shell/receive.sh: receive
# from lib/k3s/members.sh: K3S K3S_ETC K3S_DATA K3S_NOTES k3s_no k3s_program k3s_use k3s_version k3s_kubectl k3s_self
# from lib/k3s/members.sh: k3s_config_digest k3s_answers k3s_said k3s_runs k3s_restarted k3s_start k3s_alone
# from lib/engine/shell/put.sh: FK_STATE put put_owner put_finish put_finished put_restore received put_matches
# from lib/engine/shell/snapshot.sh: fk_etc fk_units fk_packages fk_sysctls fk_tables fk_functions fk_sure fk_room
# from lib/engine/shell/snapshot.sh: fk_describe fk_snapshot record_before fk_changed fk_restore_etc fk_restore_kept
# from lib/engine/shell/snapshot.sh: fk_restore_aside fk_restore_units fk_restore_sysctls fk_restore_tables
# from lib/engine/shell/snapshot.sh: fk_sysctl_keys fk_rollback fk_restart
# from lib/engine/shell/guard.sh: fk_guard fk_arm fk_deadman_holders fk_deadman_end fk_complete fk_commit
# from lib/engine/shell/guard.sh: fk_deadman_units fk_disarm fk_rollback_now
# from lib/engine/shell/record.sh: fk_add
# from lib/engine/shell/printed.sh: FK_SAVED FK_OUT FK_RC FK_TX FK_VISIT FK_ARM FK_BACK FK_TMP begin lock usage recover
# from lib/engine/shell/printed.sh: holds change demand fail transaction arm_rollback confirm save saved

main "$@"
