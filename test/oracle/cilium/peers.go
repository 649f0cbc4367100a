package main

import (
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"

	"github.com/cilium/cilium/pkg/fqdn/dns"
	"github.com/cilium/cilium/pkg/identity"
	"github.com/cilium/cilium/pkg/k8s"
	corev1 "github.com/cilium/cilium/pkg/k8s/slim/k8s/api/core/v1"
	metav1 "github.com/cilium/cilium/pkg/k8s/slim/k8s/apis/meta/v1"
	"github.com/cilium/cilium/pkg/labels"
	"github.com/cilium/cilium/pkg/labelsfilter"
	ciliumtypes "github.com/cilium/cilium/pkg/types"
	"github.com/cilium/cilium/pkg/u8proto"
)

type endpoint struct {
	Name            string                 `json:"name"`
	Namespace       string                 `json:"namespace"`
	Labels          map[string]string      `json:"labels"`
	NamespaceLabels map[string]string      `json:"namespaceLabels"`
	ServiceAccount  string                 `json:"serviceAccount"`
	Ports           []corev1.ContainerPort `json:"ports"`
	Reserved        []string               `json:"reserved"`
	Address         string                 `json:"address"`
	DNS             []string               `json:"dns"`
}

// peer is an endpoint with the identity that an agent would give it.
type peer struct {
	*identity.Identity
	judged bool
	ports  map[u8proto.U8proto]map[string]uint16
}

type peers struct {
	byName     map[string]*peer
	identities identity.IdentityMap
	named      ciliumtypes.NamedPortMultiMap
	nextPod    identity.NumericIdentity
	nextOther  identity.NumericIdentity
	taken      map[identity.NumericIdentity]string
}

// GetNamedPorts is what the policy engine asks when a policy names the port of another pod.
func (p *peers) GetNamedPorts() ciliumtypes.NamedPortMultiMap { return p.named }

func newPeers(log *slog.Logger, endpoints []endpoint, read *policies) (*peers, error) {
	named := ciliumtypes.NewNamedPortMultiMap()
	p := &peers{
		byName: map[string]*peer{}, identities: identity.ListReservedIdentities(), named: named,
		nextPod: identity.MinimalNumericIdentity, nextOther: identity.MinLocalIdentity, taken: map[identity.NumericIdentity]string{},
	}
	for n, e := range endpoints {
		name := e.Name
		if e.Namespace != "" {
			name = e.Namespace + "/" + e.Name
		}
		if e.Name == "" || p.byName[name] != nil {
			return nil, fmt.Errorf("endpoints[%d]: name is missing, or %q is there twice", n, name)
		}
		var added *peer
		var err error
		if e.Namespace != "" {
			added, err = p.pod(log, named.Update, e)
		} else {
			added, err = p.reserved(e, read)
		}
		if err == nil && p.taken[added.ID] != "" {
			err = fmt.Errorf("Cilium gives it the same identity as %s: leave one of them out", p.taken[added.ID])
		}
		if err != nil {
			return nil, fmt.Errorf("endpoints[%d] %s: %w", n, name, err)
		}
		p.taken[added.ID] = name
		p.byName[name] = added
		p.identities[added.ID] = added.LabelArray
	}
	return p, nil
}

type namespace struct {
	name   string
	labels map[string]string
}

func (n namespace) GetName() string              { return n.name }
func (n namespace) GetLabels() map[string]string { return n.labels }

type update func(identity.NumericIdentity, ciliumtypes.NamedPortMap, ciliumtypes.NamedPortMap) bool

// pod gives a pod the labels of its identity, by the functions that the agent uses for it. Not every label is one of them.
func (p *peers) pod(log *slog.Logger, ports update, e endpoint) (*peer, error) {
	if len(e.Reserved) > 0 || e.Address != "" || len(e.DNS) > 0 {
		return nil, fmt.Errorf("a pod has no reserved, address or dns")
	}
	if e.ServiceAccount == "" {
		e.ServiceAccount = "default"
	}
	ns := namespace{e.Namespace, map[string]string{"kubernetes.io/metadata.name": e.Namespace}}
	for k, v := range e.NamespaceLabels {
		ns.labels[k] = v
	}
	named, all := k8s.GetPodMetadata(log, ns, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: e.Name, Namespace: e.Namespace, Labels: e.Labels},
		Spec:       corev1.PodSpec{ServiceAccountName: e.ServiceAccount, Containers: []corev1.Container{{Ports: e.Ports}}},
	})
	own, _ := labelsfilter.Filter(labels.Map2Labels(all, labels.LabelSourceK8s))
	id := p.nextPod
	p.nextPod++
	ports(id, nil, named)
	added := &peer{identity.NewIdentity(id, own), true, map[u8proto.U8proto]map[string]uint16{u8proto.TCP: {}, u8proto.UDP: {}}}
	for name, port := range named {
		if added.ports[port.Proto] != nil {
			added.ports[port.Proto][name] = port.Port
		}
	}
	return added, nil
}

// reserved gives everything that is no pod its identity: a fixed one, or a local one for an address outside of the cluster.
func (p *peers) reserved(e endpoint, read *policies) (*peer, error) {
	if len(e.Reserved) == 0 {
		return nil, fmt.Errorf("either namespace or reserved says what it is")
	}
	own := labels.Labels{}
	for _, name := range e.Reserved {
		l := labels.NewLabel(name, "", labels.LabelSourceReserved)
		if id := identity.GetReservedID(name); id == identity.IdentityUnknown || !slices.Contains(known, name) {
			return nil, fmt.Errorf("reserved: %q is none of %s", name, strings.Join(known, ", "))
		}
		own[l.Key] = l
	}
	first := e.Reserved[0]
	host, api := own[labels.IDNameHost].Key != "", own[labels.IDNameKubeAPIServer].Key != ""
	outside := own[labels.IDNameWorld].Key != "" || api && len(e.Reserved) == 1 && e.Address != ""
	switch {
	case len(e.Reserved) > 2 || len(e.Reserved) == 2 && !(api && (host || own[labels.IDNameRemoteNode].Key != "")):
		return nil, fmt.Errorf("reserved: only kube-apiserver goes together with another, host or remote-node")
	case len(e.Labels) > 0 && !host:
		return nil, fmt.Errorf("labels: only pods and this host have any that a policy sees")
	case (e.Address != "" || len(e.DNS) > 0) && !outside:
		return nil, fmt.Errorf("address, dns: only world, and a kube-apiserver outside of the cluster, have them")
	case outside && (e.Address != "" || len(e.DNS) > 0):
		return p.outside(e, own, read)
	case host:
		nodes, _ := labelsfilter.Filter(labels.Map2Labels(e.Labels, labels.LabelSourceK8s))
		own.MergeLabels(nodes)
		return &peer{identity.NewIdentity(identity.ReservedIdentityHost, own), true, nil}, nil
	case api:
		return &peer{identity.LookupReservedIdentity(identity.ReservedIdentityKubeAPIServer), false, nil}, nil
	}
	judged := slices.Contains([]string{"ingress", "health", "init"}, first)
	return &peer{identity.LookupReservedIdentity(identity.GetReservedID(first)), judged, nil}, nil
}

var known = []string{"host", "world", "ingress", "health", "init", "unmanaged", "remote-node", "kube-apiserver"}

// outside gives an address the labels that the agent's ipcache would: its CIDR, the groups that hold it, the names it was seen for.
func (p *peers) outside(e endpoint, own labels.Labels, read *policies) (*peer, error) {
	delete(own, labels.IDNameWorld)
	if e.Address == "" {
		// Some address, which no CIDR of a policy holds.
		e.Address = "0.0.0.0/0"
	}
	if !strings.Contains(e.Address, "/") {
		addr, err := netip.ParseAddr(e.Address)
		if err != nil {
			return nil, err
		}
		e.Address = netip.PrefixFrom(addr, addr.BitLen()).String()
	}
	prefix, err := netip.ParsePrefix(e.Address)
	if err != nil {
		return nil, err
	}
	own.MergeLabels(labels.GetCIDRLabels(prefix.Masked()))
	for _, group := range read.groups {
		for _, holds := range group.prefixes {
			if holds.Bits() <= prefix.Bits() && holds.Contains(prefix.Addr()) {
				own.MergeLabels(group.labels)
			}
		}
	}
	for _, name := range e.DNS {
		for _, selector := range read.names {
			regex, err := selector.ToRegex()
			if err != nil {
				return nil, err
			}
			if regex.MatchString(dns.FQDN(strings.ToLower(name))) {
				l := selector.IdentityLabel()
				own[l.Key] = l
			}
		}
	}
	id := p.nextOther
	p.nextOther++
	return &peer{identity.NewIdentity(id, own), false, nil}, nil
}
