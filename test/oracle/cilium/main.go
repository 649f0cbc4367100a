// cilium-oracle: what Cilium's own policy engine says of a list of flows. It needs no kernel, no agent, no cluster.
//
// Input, one JSON object on stdin. Unknown fields are refused.
//
//	policies   one string, YAML documents: CiliumNetworkPolicy, CiliumClusterwideNetworkPolicy, NetworkPolicy, CiliumCIDRGroup.
//	           Documents of other kinds are refused.
//	endpoints  who there is:
//	  {"name": "web", "namespace": "shop", "labels": {"app": "web"}}   a pod, which flows call shop/web. Also, all optional:
//	      "serviceAccount" ("default"), "namespaceLabels" (kubernetes.io/metadata.name is always there),
//	      "ports": [{"name": "http", "containerPort": 8080, "protocol": "TCP"}] for policies that name a port
//	  {"name": "node", "reserved": ["host"]}                           this node itself; its "labels" are what a nodeSelector sees
//	  {"name": "gateway", "reserved": ["ingress"]}                     one of ingress, health, init, unmanaged, remote-node, kube-apiserver
//	  {"name": "api", "reserved": ["host", "kube-apiserver"]}          an apiserver on this node; with "remote-node" on another one
//	  {"name": "api", "reserved": ["kube-apiserver"], "address": "192.0.2.5"}  an apiserver outside of the cluster
//	  {"name": "lan", "reserved": ["world"], "address": "192.168.1.0/24"}      without an address: any that no CIDR names
//	  {"name": "acme", "reserved": ["world"], "address": "198.51.100.7", "dns": ["acme.example"]}
//	      an address that the DNS proxy has seen in answers for these names
//	flows      {"from": "shop/web", "to": "shop/db", "port": 5432, "protocol": "TCP"}; for ICMP the port is the type
//	cluster    name of the cluster, "default"
//	ipv6       true where the cluster has IPv6 beside IPv4: world is then two
//	enforcement "default", "always" or "never", as policyEnforcementMode of the chart
//	hostFirewall false where the chart's hostFirewall.enabled is
//
// Output, one JSON object on stdout:
//
//	invalid  policies that Cilium would not take: [{"policy": "CiliumNetworkPolicy shop/web", "error": "..."}]; then no flow is judged
//	flows    in the order of the input: {"from", "to", "port", "protocol", "verdict", "egress": SIDE, "ingress": SIDE};
//	         verdict is "allowed" where both sides are
//	SIDE     {"verdict": "allowed" | "denied", "reason": REASON, "by": ["CiliumNetworkPolicy shop/web", ...]}
//	REASON   "rule"        an allow or deny rule of the policies in "by", by Cilium's own account
//	         "no rule"     denied: the policies in "by" deny by default what no rule allows
//	         "no policy"   allowed: no policy denies anything to this endpoint by default
//	         "own host"    allowed: Cilium always lets a node reach its own pods (kubelet's probes)
//	         "not judged"  allowed: not an endpoint of a node (world, another node, an apiserver elsewhere); whoever has it judges
//
// Exit status: 0 with an answer, 2 with one line on stderr when the input makes no sense.
package main

import (
	"encoding/json"
	"fmt"
	"os"
)

type question struct {
	Policies     string     `json:"policies"`
	Endpoints    []endpoint `json:"endpoints"`
	Flows        []flow     `json:"flows"`
	Cluster      string     `json:"cluster"`
	IPv6         bool       `json:"ipv6"`
	Enforcement  string     `json:"enforcement"`
	HostFirewall *bool      `json:"hostFirewall"`
}

type flow struct {
	From     string `json:"from"`
	To       string `json:"to"`
	Port     uint16 `json:"port"`
	Protocol string `json:"protocol"`
}

type answer struct {
	Invalid []invalid `json:"invalid"`
	Flows   []judged  `json:"flows"`
}

type invalid struct {
	Policy string `json:"policy"`
	Error  string `json:"error"`
}

type judged struct {
	flow
	Verdict string `json:"verdict"`
	Egress  side   `json:"egress"`
	Ingress side   `json:"ingress"`
}

type side struct {
	Verdict string   `json:"verdict"`
	Reason  string   `json:"reason"`
	By      []string `json:"by"`
}

func main() {
	in := json.NewDecoder(os.Stdin)
	in.DisallowUnknownFields()
	var q question
	if err := in.Decode(&q); err != nil {
		end(fmt.Errorf("stdin is not the JSON that this reads: %w", err))
	}
	a, err := judge(q)
	if err != nil {
		end(err)
	}
	out := json.NewEncoder(os.Stdout)
	out.SetIndent("", "  ")
	if err := out.Encode(a); err != nil {
		end(err)
	}
}

func end(err error) {
	fmt.Fprintln(os.Stderr, "cilium-oracle:", err)
	os.Exit(2)
}
