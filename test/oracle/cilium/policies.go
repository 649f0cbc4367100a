package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"strings"

	ipcachetypes "github.com/cilium/cilium/pkg/ipcache/types"
	"github.com/cilium/cilium/pkg/k8s"
	ciliumv2 "github.com/cilium/cilium/pkg/k8s/apis/cilium.io/v2"
	networkingv1 "github.com/cilium/cilium/pkg/k8s/slim/k8s/api/networking/v1"
	k8sutils "github.com/cilium/cilium/pkg/k8s/utils"
	"github.com/cilium/cilium/pkg/labels"
	"github.com/cilium/cilium/pkg/policy/api"
	"github.com/cilium/cilium/pkg/policy/types"
	policyutils "github.com/cilium/cilium/pkg/policy/utils"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"
)

// policies is what the YAML holds, as Cilium's own parsers read it.
type policies struct {
	invalid []invalid
	rules   []ruleSet
	names   []api.FQDNSelector
	groups  []cidrGroup
}

type ruleSet struct {
	id      ipcachetypes.ResourceID
	entries types.PolicyEntries
}

type cidrGroup struct {
	prefixes []netip.Prefix
	labels   labels.Labels
}

type object struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
}

func (o object) String() string {
	if o.Namespace == "" {
		return o.Kind + " " + o.Name
	}
	return o.Kind + " " + o.Namespace + "/" + o.Name
}

func readPolicies(log *slog.Logger, q question) (*policies, error) {
	read := &policies{invalid: []invalid{}}
	seen := map[string]bool{}
	documents := utilyaml.NewYAMLReader(bufio.NewReader(strings.NewReader(q.Policies)))
	for n := 0; ; n++ {
		document, err := documents.Read()
		if errors.Is(err, io.EOF) {
			return read, nil
		}
		if err != nil {
			return nil, err
		}
		if len(bytes.TrimSpace(document)) == 0 {
			continue
		}
		var o object
		if err := yaml.Unmarshal(document, &o); err != nil {
			return nil, fmt.Errorf("policies, document %d: %w", n+1, err)
		}
		if o.Kind == "" {
			// Nothing but comments.
			continue
		}
		if seen[o.String()] {
			return nil, fmt.Errorf("policies, document %d: %s is there twice", n+1, o)
		}
		seen[o.String()] = true
		if err := read.add(log, q.Cluster, o, document); err != nil {
			return nil, fmt.Errorf("policies, document %d, %s: %w", n+1, o, err)
		}
	}
}

// add reads one object. What Cilium would refuse is noted as invalid; an error is what this program cannot judge.
func (read *policies) add(log *slog.Logger, cluster string, o object, document []byte) error {
	var entries types.PolicyEntries
	var rules api.Rules
	var err error
	switch o.APIVersion + " " + o.Kind {
	case "cilium.io/v2 CiliumNetworkPolicy":
		var p ciliumv2.CiliumNetworkPolicy
		if err = yaml.UnmarshalStrict(document, &p); err == nil {
			rules, err = p.Parse(log, cluster)
		}
	case "cilium.io/v2 CiliumClusterwideNetworkPolicy":
		var p ciliumv2.CiliumClusterwideNetworkPolicy
		if err = yaml.UnmarshalStrict(document, &p); err == nil {
			rules, err = p.Parse(log, cluster)
		}
	case "networking.k8s.io/v1 NetworkPolicy":
		var p networkingv1.NetworkPolicy
		if err = yaml.UnmarshalStrict(document, &p); err == nil {
			entries, err = k8s.ParseNetworkPolicy(log, cluster, &p)
		}
	case "cilium.io/v2 CiliumCIDRGroup":
		err = read.addGroup(document)
	default:
		return fmt.Errorf("no policy of a kind that is read here")
	}
	if err != nil {
		read.invalid = append(read.invalid, invalid{Policy: o.String(), Error: err.Error()})
		return nil
	}
	for _, rule := range rules {
		if err := read.look(rule); err != nil {
			return err
		}
	}
	if rules != nil {
		entries = policyutils.RulesToPolicyEntries(rules)
	}
	id := ipcachetypes.NewResourceID(ipcachetypes.ResourceKind(strings.ToLower(o.Kind)), o.Namespace, o.Name)
	read.rules = append(read.rules, ruleSet{id, entries})
	return nil
}

// look refuses what only an agent can resolve, and collects the names that the DNS proxy watches for.
func (read *policies) look(rule *api.Rule) error {
	refused := func(field string) error {
		return fmt.Errorf("%s: the agent resolves it, this program cannot", field)
	}
	for _, in := range rule.Ingress {
		if len(in.FromGroups) > 0 {
			return refused("fromGroups")
		}
	}
	for _, out := range rule.Egress {
		if len(out.ToServices) > 0 {
			return refused("toServices")
		}
		if len(out.ToGroups) > 0 {
			return refused("toGroups")
		}
		read.names = append(read.names, out.ToFQDNs...)
	}
	for _, out := range rule.EgressDeny {
		if len(out.ToServices) > 0 {
			return refused("toServices")
		}
		if len(out.ToGroups) > 0 {
			return refused("toGroups")
		}
	}
	for _, in := range rule.IngressDeny {
		if len(in.FromGroups) > 0 {
			return refused("fromGroups")
		}
	}
	return nil
}

// addGroup gives the addresses of a group the labels that the agent gives them (pkg/policy/k8s/cilium_cidr_group.go).
func (read *policies) addGroup(document []byte) error {
	var p ciliumv2.CiliumCIDRGroup
	if err := yaml.UnmarshalStrict(document, &p); err != nil {
		return err
	}
	group := cidrGroup{labels: labels.Labels{}}
	for k, v := range k8sutils.RemoveCiliumLabels(p.Labels) {
		l := labels.NewLabel(k, v, labels.LabelSourceCIDRGroup)
		encoded := labels.EncodedCIDRGroupLabel(l.Key, l.Value, l.Source)
		group.labels[l.Key], group.labels[encoded.Key] = l, encoded
	}
	name := api.LabelForCIDRGroupRef(p.Name)
	group.labels[name.Key] = name
	for _, c := range p.Spec.ExternalCIDRs {
		prefix, err := netip.ParsePrefix(string(c))
		if err != nil {
			return err
		}
		group.prefixes = append(group.prefixes, prefix)
	}
	read.groups = append(read.groups, group)
	return nil
}
