package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"

	"gopkg.in/yaml.v3"
)

const defaultConfig = "/etc/rancher/k3s/config.yaml"

type kind int

const (
	text kind = iota
	yes       // true or false
	list
)

// Flags that servers and agents share, of those that this program knows.
var nodeFlags = map[string]kind{
	"config": text, "data-dir": text, "debug": yes, "v": text,
	"token": text, "token-file": text, "server": text,
	"node-name": text, "node-ip": text, "node-external-ip": text, "node-label": list, "node-taint": list,
	"kubelet-arg": list, "protect-kernel-defaults": yes, "kube-proxy-arg": list, "pause-image": text,
	// What these ask for does not exist here.
	"selinux": yes, "private-registry": text, "resolv-conf": text, "snapshotter": text,
	"disable-default-registry-endpoint": yes, "prefer-bundled-bin": yes, "disable-apiserver-lb": yes,
}

var serverFlags = map[string]kind{
	"agent-token": text, "agent-token-file": text,
	"cluster-init": yes, "cluster-reset": yes, "cluster-reset-restore-path": text,
	"bind-address": text, "advertise-address": text, "tls-san": list, "tls-san-security": yes,
	"write-kubeconfig": text, "write-kubeconfig-mode": text,
	"cluster-cidr": text, "service-cidr": text, "service-node-port-range": text, "cluster-dns": text, "cluster-domain": text,
	"secrets-encryption": yes, "secrets-encryption-provider": text,
	"kube-apiserver-arg": list, "kube-controller-manager-arg": list, "kube-scheduler-arg": list, "etcd-arg": list,
	"disable-agent": yes, "disable-controller-manager": yes, "disable-scheduler": yes, "disable-cloud-controller": yes,
	"etcd-expose-metrics": yes, "etcd-snapshot-name": text, "etcd-snapshot-dir": text, "etcd-snapshot-retention": text,
	"etcd-snapshot-compress": yes,
	// Nothing here is that these would switch off or set.
	"disable": list, "disable-kube-proxy": yes, "disable-network-policy": yes, "disable-helm-controller": yes,
	"flannel-backend": text, "egress-selector-mode": text, "supervisor-metrics": yes, "embedded-registry": yes,
	"kube-cloud-controller-manager-arg": list, "etcd-disable-snapshots": yes, "etcd-snapshot-schedule-cron": text,
}

// What the subcommands know beside what a server does.
var commandFlags = map[string]map[string]kind{
	"etcd-snapshot":   {"name": text, "dir": text, "etcd-snapshot-dir": text, "snapshot-retention": text, "snapshot-compress": yes, "output": text},
	"secrets-encrypt": {"output": text},
	"certificate":     {"output": text, "path": text, "force": yes},
}

type settings struct {
	flags  map[string]kind
	values map[string][]string
}

func (s settings) text(name, otherwise string) string {
	if found := s.values[name]; len(found) > 0 {
		return found[len(found)-1]
	}
	return otherwise
}

func (s settings) yes(name string) bool { return s.text(name, "false") == "true" }

func (s settings) list(name string) []string { return s.values[name] }

// told is what k3s writes to its Node of all that it was told, on the command line and in files: each flag and its value are words
// of their own, and what is secret is left out (pkg/nodeconfig).
func (s settings) told(command string) string {
	words := []string{command}
	for _, name := range slices.Sorted(maps.Keys(s.values)) {
		for _, value := range s.values[name] {
			if name == "token" || name == "agent-token" {
				value = "********"
			}
			words = append(words, "--"+name, value)
		}
	}
	text, err := json.Marshal(words)
	if err != nil {
		panic(err)
	}
	return string(text)
}

// flagsOf names what a command of k3s may be told.
func flagsOf(command string) map[string]kind {
	all := map[string]kind{}
	tables := []map[string]kind{nodeFlags}
	if command != "agent" {
		tables = append(tables, serverFlags, commandFlags[command])
	}
	for _, table := range tables {
		for name, kind := range table {
			all[name] = kind
		}
	}
	return all
}

// readSettings reads what k3s reads: its configuration file, then the parts beside it in the order of their names, then the words
// of the command line. Words that are no flag are returned. k3s ignores in its files what is meant for another of its commands,
// so only the commands that run a node are strict here.
func readSettings(command string, words []string) (settings, []string, error) {
	s := settings{flagsOf(command), map[string][]string{}}
	said, rest, err := s.readWords(words)
	if err != nil {
		return s, nil, err
	}
	main := s.lastOf(said, "config", defaultConfig)
	files, err := filepath.Glob(main + ".d/*.yaml")
	if err != nil {
		return s, nil, err
	}
	sort.Strings(files)
	for _, file := range append([]string{main}, files...) {
		if err := s.readFile(file, command == "server" || command == "agent"); err != nil {
			if os.IsNotExist(err) && file == defaultConfig {
				continue
			}
			return s, nil, err
		}
	}
	for name, values := range said {
		if s.flags[name] == list {
			values = append(s.values[name], values...)
		}
		s.values[name] = values
	}
	return s, rest, nil
}

func (s settings) lastOf(said map[string][]string, name, otherwise string) string {
	if found := said[name]; len(found) > 0 {
		return found[len(found)-1]
	}
	return otherwise
}

func (s settings) readWords(words []string) (map[string][]string, []string, error) {
	said := map[string][]string{}
	var rest []string
	for i := 0; i < len(words); i++ {
		if !strings.HasPrefix(words[i], "-") {
			rest = append(rest, words[i])
			continue
		}
		name, value, given := strings.Cut(strings.TrimLeft(words[i], "-"), "=")
		if name == "c" {
			name = "config"
		}
		if name == "o" {
			name = "output"
		}
		kind, known := s.flags[name]
		if !known {
			return nil, nil, fmt.Errorf("flag provided but not defined: -%s", name)
		}
		switch {
		case given:
		case kind == yes:
			value = "true"
		case i+1 == len(words):
			return nil, nil, fmt.Errorf("flag needs an argument: -%s", name)
		default:
			i++
			value = words[i]
		}
		said[name] = append(said[name], value)
	}
	return said, rest, nil
}

// readFile lets what the file says replace what was said before; a key that ends in + adds to it. Of a key that stands twice the
// last one counts, as in k3s.
func (s settings) readFile(file string, strict bool) error {
	content, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var document yaml.Node
	if err := yaml.Unmarshal(content, &document); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	if len(document.Content) == 0 {
		return nil
	}
	mapping := document.Content[0]
	if mapping.Kind != yaml.MappingNode {
		return fmt.Errorf("%s: is no mapping", file)
	}
	for i := 0; i+1 < len(mapping.Content); i += 2 {
		key, value := mapping.Content[i].Value, mapping.Content[i+1]
		name := strings.TrimSuffix(key, "+")
		if _, known := s.flags[name]; !known {
			if strict {
				return fmt.Errorf("%s:%d: flag provided but not defined: -%s", file, mapping.Content[i].Line, name)
			}
			continue
		}
		var values []string
		switch value.Kind {
		case yaml.ScalarNode:
			values = []string{value.Value}
		case yaml.SequenceNode:
			for _, item := range value.Content {
				values = append(values, item.Value)
			}
		default:
			return fmt.Errorf("%s:%d: %s is neither a value nor a list", file, value.Line, key)
		}
		if s.flags[name] == yes && values[len(values)-1] != "true" && values[len(values)-1] != "false" {
			return fmt.Errorf("%s:%d: invalid boolean value %q for -%s", file, value.Line, values[len(values)-1], name)
		}
		if strings.HasSuffix(key, "+") {
			values = append(s.values[name], values...)
		}
		s.values[name] = values
	}
	return nil
}

// arguments puts what the owner says of a component over what k3s says of it, sorted: NAME=VALUE replaces, NAME+=VALUE stands
// behind and NAME-=VALUE before what is there; what is said twice is given twice.
func arguments(own map[string]string, said []string) []string {
	values := map[string][]string{}
	for name, value := range own {
		values[name] = []string{value}
	}
	replaced := map[string]bool{}
	for _, word := range said {
		key, value, given := strings.Cut(strings.TrimPrefix(word, "--"), "=")
		if !given {
			value = "true"
		}
		name := strings.TrimRight(key, "+-")
		switch {
		case strings.HasSuffix(key, "+"):
			values[name] = append(values[name], value)
		case strings.HasSuffix(key, "-"):
			values[name] = append([]string{value}, values[name]...)
		case replaced[name]:
			values[name] = append(values[name], value)
		default:
			values[name] = []string{value}
		}
		replaced[name] = true
	}
	names := make([]string, 0, len(values))
	for name := range values {
		names = append(names, name)
	}
	sort.Strings(names)
	var words []string
	for _, name := range names {
		for _, value := range values[name] {
			words = append(words, "--"+name+"="+value)
		}
	}
	return words
}
