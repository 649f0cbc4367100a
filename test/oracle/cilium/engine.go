package main

import (
	"fmt"
	"log/slog"
	"os"
	"slices"
	"sync"

	envoypolicy "github.com/cilium/cilium/pkg/envoy/policy"
	"github.com/cilium/cilium/pkg/identity"
	"github.com/cilium/cilium/pkg/identity/identitymanager"
	"github.com/cilium/cilium/pkg/labels"
	"github.com/cilium/cilium/pkg/labelsfilter"
	"github.com/cilium/cilium/pkg/option"
	"github.com/cilium/cilium/pkg/policy"
	"github.com/cilium/cilium/pkg/policy/api"
	"github.com/cilium/cilium/pkg/policy/types"
	"github.com/cilium/cilium/pkg/u8proto"
)

// settings makes of Cilium's global configuration what its agent makes of it under Kubernetes.
func settings(q question, log *slog.Logger) error {
	option.Config.EnableIPv4 = true
	option.Config.EnableIPv6 = q.IPv6
	option.Config.ClusterName = q.Cluster
	option.Config.EnableHostFirewall = q.HostFirewall == nil || *q.HostFirewall
	option.Config.EnableL7Proxy = true
	// With Kubernetes the agent turns "auto" into this, so that the kubelet's probes arrive (daemon/cmd/daemon.go).
	option.Config.UnsafeDaemonConfigOption.AllowLocalhost = option.AllowLocalhostAlways
	if !slices.Contains([]string{option.DefaultEnforcement, option.AlwaysEnforce, option.NeverEnforce}, q.Enforcement) {
		return fmt.Errorf("enforcement is default, always or never, not %q", q.Enforcement)
	}
	policy.SetPolicyEnabled(q.Enforcement)
	// Without it the entity "cluster" selects nothing.
	api.InitEntities(q.Cluster)
	return labelsfilter.ParseLabelPrefixCfg(log, nil, nil, "")
}

// nobody is told which names the policies want to be looked up for: they are read from the policies before.
type nobody struct{}

func (nobody) RegisterFQDNSelector(api.FQDNSelector) uint64   { return 0 }
func (nobody) UnregisterFQDNSelector(api.FQDNSelector) uint64 { return 0 }

type engine struct {
	log   *slog.Logger
	repo  *policy.Repository
	idmgr identitymanager.IDManager
	peers map[string]*peer
}

func judge(q question) (*answer, error) {
	if q.Cluster == "" {
		q.Cluster = "default"
	}
	if q.Enforcement == "" {
		q.Enforcement = option.DefaultEnforcement
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError}))
	if err := settings(q, log); err != nil {
		return nil, err
	}
	read, err := readPolicies(log, q)
	if err != nil {
		return nil, err
	}
	a := &answer{Invalid: read.invalid, Flows: []judged{}}
	if len(a.Invalid) > 0 {
		return a, nil
	}
	known, err := newPeers(log, q.Endpoints, read)
	if err != nil {
		return nil, err
	}

	idmgr := identitymanager.NewIDManager(log)
	repo := policy.NewPolicyRepository(log, nil, nil, envoypolicy.NewEnvoyL7RulesTranslator(log, nil), idmgr, nil)
	repo.GetSelectorCache().SetLocalIdentityNotifier(nobody{})
	repo.SetNamedPortsGetter(known)
	wait := &sync.WaitGroup{}
	repo.GetSelectorCache().UpdateIdentities(known.identities, nil, wait)
	repo.UpdateIdentities(known.identities, nil)
	wait.Wait()
	for _, set := range read.rules {
		repo.ReplaceByResource(set.entries, set.id)
	}

	e := &engine{log: log, repo: repo, idmgr: idmgr, peers: known.byName}
	for n, f := range q.Flows {
		j, err := e.flow(f)
		if err != nil {
			return nil, fmt.Errorf("flows[%d] %s -> %s: %w", n, f.From, f.To, err)
		}
		a.Flows = append(a.Flows, *j)
	}
	return a, nil
}

func (e *engine) flow(f flow) (*judged, error) {
	from, to := e.peers[f.From], e.peers[f.To]
	for name, p := range map[string]*peer{f.From: from, f.To: to} {
		if p == nil {
			return nil, fmt.Errorf("no endpoint is called %q", name)
		}
	}
	proto, err := u8proto.ParseProtocol(f.Protocol)
	if err != nil {
		return nil, err
	}
	verdict, egress, ingress, err := policy.LookupFlow(e.log, e.repo, e.idmgr, types.Flow{
		From: from.Identity, To: to.Identity, Proto: proto, Dport: f.Port,
		NamedPortsTCP: to.ports[u8proto.TCP], NamedPortsUDP: to.ports[u8proto.UDP],
	})
	if err != nil {
		return nil, err
	}
	j := &judged{flow: f, Verdict: "allowed"}
	j.Egress = e.side(from, false, verdict.Egress, egress)
	j.Ingress = e.side(to, true, verdict.Ingress, ingress)
	if j.Egress.Verdict == "denied" || j.Ingress.Verdict == "denied" {
		j.Verdict = "denied"
	}
	return j, nil
}

// side puts Cilium's verdict of one direction into words.
func (e *engine) side(p *peer, ingress bool, verdict types.Decision, why policy.RuleMeta) side {
	// The engine judges "the ingress of the world" as well, but only an endpoint of a node has a policy map.
	if !p.judged {
		return side{Verdict: "allowed", Reason: "not judged", By: []string{}}
	}
	s := side{Verdict: "allowed", Reason: "no policy", By: []string{}}
	if verdict != types.DecisionAllowed {
		s = side{Verdict: "denied", Reason: "no rule", By: e.selecting(p.Identity, ingress)}
	}
	for _, rule := range why.LabelArray() {
		switch name, own := ruleName(rule); {
		case own == policy.LabelAllowLocalHostIngress && s.Reason != "rule":
			s.Reason = "own host"
		case name != "" && s.Reason != "rule":
			s.Reason, s.By = "rule", []string{name}
		case name != "" && !slices.Contains(s.By, name):
			s.By = append(s.By, name)
		}
	}
	slices.Sort(s.By)
	return s
}

// selecting names the policies that make an endpoint deny by default.
func (e *engine) selecting(id *identity.Identity, ingress bool) []string {
	by := []string{}
	e.repo.Iterate(func(r *types.PolicyEntry) {
		node := id.ID == identity.ReservedIdentityHost
		if r.Ingress != ingress || !r.DefaultDeny || r.Node != node || !r.Subject.Matches(id.LabelArray) {
			return
		}
		if name, _ := ruleName(r.Labels); name != "" && !slices.Contains(by, name) {
			by = append(by, name)
		}
	})
	return by
}

// ruleName reads from the labels that Cilium gives a rule which object it was made of, or which of its own it is.
func ruleName(rule labels.LabelArray) (name, own string) {
	kind, namespace := "", ""
	for _, l := range rule {
		switch l.Key {
		case policy.LabelKeyPolicyDerivedFrom:
			if l.Source == labels.LabelSourceReserved {
				return "", l.Value
			}
		case "io.cilium.k8s.policy.derived-from":
			kind = l.Value
		case "io.cilium.k8s.policy.namespace":
			namespace = l.Value + "/"
		case "io.cilium.k8s.policy.name":
			name = l.Value
		}
	}
	if name == "" {
		return "", ""
	}
	return kind + " " + namespace + name, ""
}
