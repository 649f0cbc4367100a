package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/robfig/cron/v3"
	"github.com/sirupsen/logrus"
	"github.com/spf13/pflag"
	"go.etcd.io/etcd/server/v3/embed"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/runtime"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/admission"
	apiserverapi "k8s.io/apiserver/pkg/apis/apiserver"
	apiserverv1 "k8s.io/apiserver/pkg/apis/apiserver/v1"
	"k8s.io/apiserver/pkg/audit/policy"
	"k8s.io/apiserver/pkg/util/compatibility"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/client-go/util/keyutil"
	cliflag "k8s.io/component-base/cli/flag"
	"k8s.io/component-base/cli/globalflag"
	basecompatibility "k8s.io/component-base/compatibility"
	"k8s.io/component-base/featuregate"
	"k8s.io/component-base/logs"
	logsapi "k8s.io/component-base/logs/api/v1"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app/options"
	controllers "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	controlleroptions "k8s.io/kubernetes/cmd/kube-controller-manager/app/options"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app/options"
	"k8s.io/kubernetes/pkg/kubelet/eviction"
	schedulerdefaults "k8s.io/kubernetes/pkg/scheduler/apis/config/latest"
	"k8s.io/kubernetes/plugin/pkg/admission/eventratelimit"
	limits "k8s.io/kubernetes/plugin/pkg/admission/eventratelimit/apis/eventratelimit/validation"
	podsecurity "k8s.io/pod-security-admission/admission/api/load"
	levels "k8s.io/pod-security-admission/admission/api/validation"
)

// question is what somebody wants to tell a program: the words that k3s hands on, or the text of a file.
type question struct {
	Of    string   `json:"of"`
	Words []string `json:"words"`
	Text  string   `json:"text"`
}

// verdicts reads one question a line and answers each with what the program's own code says against it; nothing when it starts
// with it. No program is started.
func verdicts(in io.Reader, out io.Writer) error {
	dir, err := os.MkdirTemp("", "verdicts-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	logrus.SetOutput(io.Discard)
	judge := judge{layout{dir}}
	if err := judge.prepare(); err != nil {
		return err
	}
	questions, answers := json.NewDecoder(in), json.NewEncoder(out)
	for {
		var asked question
		if err := questions.Decode(&asked); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		said := ""
		if err := judge.ask(asked); err != nil {
			said = err.Error()
		}
		if err := answers.Encode(said); err != nil {
			return err
		}
	}
}

type judge struct{ layout }

// prepare makes the files that a program opens while it reads its words.
func (j judge) prepare() error {
	if err := os.MkdirAll(j.agent("etc", "kubelet.conf.d"), 0o700); err != nil {
		return err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	content, err := keyutil.MarshalPrivateKeyToPEM(key)
	if err != nil {
		return err
	}
	return keyutil.WriteKey(j.key(), content)
}

func (j judge) key() string { return filepath.Join(j.root, "key.pem") }

func (j judge) ask(asked question) (err error) {
	// A program that panics has not started either.
	defer func() {
		if cause := recover(); cause != nil {
			err = fmt.Errorf("panic: %v", cause)
		}
	}()
	programs := map[string]func([]string) error{
		"kubelet": j.kubelet, "kube-apiserver": j.apiserver, "kube-controller-manager": j.controllers, "kube-scheduler": j.scheduler,
		"etcd": j.etcd, "k3s": j.k3s,
	}
	files := map[string]func(string) error{"admission": j.admission, "audit": j.audit}
	switch {
	case programs[asked.Of] != nil:
		return programs[asked.Of](asked.Words)
	case files[asked.Of] != nil:
		return files[asked.Of](asked.Text)
	}
	return fmt.Errorf("nobody here is %s", asked.Of)
}

// kubelet is given what k3s' own keys say, KEY=VALUE, and what stands in kubelet-arg behind --.
func (j judge) kubelet(words []string) error {
	s := settings{values: map[string][]string{"protect-kernel-defaults": {"false"}}}
	for _, word := range words {
		name, value, _ := strings.Cut(word, "=")
		if argument, found := strings.CutPrefix(word, "--"); found {
			name, value = "kubelet-arg", argument
		}
		s.values[name] = append(s.values[name], value)
	}
	node := s.text("node-name", "node")
	// An object that the API server refuses is no node.
	if wrong := validation.NameIsDNSSubdomain(strings.ToLower(node), false); len(wrong) > 0 {
		return fmt.Errorf("node-name: %s", strings.Join(wrong, "; "))
	}
	k, err := readKubelet(j.layout, s, node, "10.0.0.1")
	if err != nil {
		return err
	}
	// What machine this is says nothing about the words.
	k.config.FailCgroupV1 = false
	if err := k.validate(utilfeature.DefaultMutableFeatureGate.DeepCopy()); err != nil {
		return err
	}
	// The rest it reads a moment later, while it starts its parts.
	c := k.config
	if _, err := cliflag.TLSVersion(c.TLSMinVersion); err != nil {
		return err
	}
	if _, err := cliflag.TLSCipherSuites(c.TLSCipherSuites); err != nil {
		return err
	}
	for _, reserved := range []map[string]string{c.KubeReserved, c.SystemReserved} {
		if err := checkReserved(reserved); err != nil {
			return err
		}
	}
	if _, err := resource.ParseQuantity(c.ContainerLogMaxSize); err != nil {
		return err
	}
	_, err = eviction.ParseThresholdConfig(nil, c.EvictionHard, c.EvictionSoft, c.EvictionSoftGracePeriod, c.EvictionMinimumReclaim)
	return err
}

// checkReserved does as parseResourceList of the kubelet.
func checkReserved(amounts map[string]string) error {
	for name, amount := range amounts {
		if !slices.Contains([]string{"cpu", "memory", "ephemeral-storage", "pid"}, name) {
			return fmt.Errorf("cannot reserve %q resource", name)
		}
		quantity, err := resource.ParseQuantity(amount)
		if err != nil {
			return err
		}
		if quantity.Sign() < 0 {
			return fmt.Errorf("resource quantity for %q cannot be negative: %v", name, amount)
		}
	}
	return nil
}

// registry is what every program of Kubernetes keeps for itself while it runs: which features are on. Here one asks after the other.
func registry() (basecompatibility.ComponentGlobalsRegistry, error) {
	own := basecompatibility.NewComponentGlobalsRegistry()
	gates := utilfeature.DefaultMutableFeatureGate.DeepCopy().(featuregate.MutableVersionedFeatureGate)
	return own, own.Register(basecompatibility.DefaultKubeComponent, compatibility.DefaultBuildEffectiveVersion(), gates)
}

func parseWords(name string, sets cliflag.NamedFlagSets, words []string) error {
	globalflag.AddGlobalFlags(sets.FlagSet("global"), name, logs.SkipLoggingConfigurationFlags())
	all := pflag.NewFlagSet(name, pflag.ContinueOnError)
	all.SetNormalizeFunc(cliflag.WordSepNormalizeFunc)
	all.SetOutput(io.Discard)
	for _, set := range sets.FlagSets {
		all.AddFlagSet(set)
	}
	if err := all.Parse(words); err != nil {
		return err
	}
	return checkTLS(all)
}

// checkTLS does what each program does when it begins to listen.
func checkTLS(words *pflag.FlagSet) error {
	if version := words.Lookup("tls-min-version"); version != nil {
		if _, err := cliflag.TLSVersion(version.Value.String()); err != nil {
			return err
		}
	}
	if ciphers, err := words.GetStringSlice("tls-cipher-suites"); err == nil && len(ciphers) > 0 {
		_, err := cliflag.TLSCipherSuites(ciphers)
		return err
	}
	return nil
}

func (j judge) apiserver(said []string) error {
	own := map[string]string{
		"etcd-servers": localEtcd, "authorization-mode": "Node,RBAC", "anonymous-auth": "false", "allow-privileged": "true",
		"service-account-signing-key-file": j.key(), "service-account-key-file": j.key(),
		"service-account-issuer": "https://kubernetes.default.svc.cluster.local", "api-audiences": "k3s",
		"service-cluster-ip-range": "10.43.0.0/16", "service-node-port-range": "30000-32767", "advertise-address": "10.0.0.1",
		"encryption-provider-config": j.key(), "tls-cert-file": j.key(), "tls-private-key-file": j.key(), "enable-admission-plugins": "NodeRestriction", "profiling": "false",
	}
	s := apiserver.NewServerRunOptions()
	gates, err := registry()
	if err != nil {
		return err
	}
	s.GenericServerRunOptions.ComponentGlobalsRegistry = gates
	if err := parseWords("kube-apiserver", s.Flags(), arguments(own, said)); err != nil {
		return err
	}
	if err := gates.Set(); err != nil {
		return err
	}
	if err := checkLogs(s.Logs, gates); err != nil {
		return err
	}
	completed, err := s.Complete(context.Background())
	if err != nil {
		return err
	}
	return utilerrors.NewAggregate(completed.Validate())
}

func (j judge) controllers(said []string) error {
	s, err := controlleroptions.NewKubeControllerManagerOptions()
	if err != nil {
		return err
	}
	if s.ComponentGlobalsRegistry, err = registry(); err != nil {
		return err
	}
	all, off, names := controllers.KnownControllers(), controllers.ControllersDisabledByDefault(), controllers.ControllerAliases()
	own := map[string]string{"allocate-node-cidrs": "true", "cluster-cidr": "10.42.0.0/16", "bind-address": "127.0.0.1", "profiling": "false"}
	if err := parseWords("kube-controller-manager", s.Flags(all, off, names), arguments(own, said)); err != nil {
		return err
	}
	if err := s.ComponentGlobalsRegistry.Set(); err != nil {
		return err
	}
	if err := checkLogs(s.Logs, s.ComponentGlobalsRegistry); err != nil {
		return err
	}
	return s.Validate(all, off, names)
}

func checkLogs(told *logsapi.LoggingConfiguration, gates basecompatibility.ComponentGlobalsRegistry) error {
	return logsapi.Validate(told, gates.FeatureGateFor(basecompatibility.DefaultKubeComponent), nil).ToAggregate()
}

func (j judge) scheduler(said []string) error {
	gates, err := registry()
	if err != nil {
		return err
	}
	s := scheduler.NewOptionsWithComponentGlobalsRegistry(gates)
	own := map[string]string{"bind-address": "127.0.0.1", "profiling": "false"}
	if err := parseWords("kube-scheduler", *s.Flags, arguments(own, said)); err != nil {
		return err
	}
	if err := gates.Set(); err != nil {
		return err
	}
	if err := checkLogs(s.Logs, gates); err != nil {
		return err
	}
	s.ComponentConfig, err = schedulerdefaults.Default()
	if err != nil {
		return err
	}
	s.ApplyDeprecated()
	s.ApplyLeaderElectionTo(s.ComponentConfig)
	return utilerrors.NewAggregate(s.Validate())
}

func (j judge) etcd(said []string) error {
	file, err := member{layout: j.layout, name: "m", address: "10.0.0.1", extra: said}.configFile("m=https://10.0.0.1:2380", "new")
	if err != nil {
		return err
	}
	config, err := embed.ConfigFromFile(file)
	if err != nil {
		return err
	}
	return config.Validate()
}

// admission reads the settings of the plug-ins as the API server does, and has those that Kubernetes brings read theirs.
func (j judge) admission(text string) error {
	file := filepath.Join(j.root, "admission.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		return err
	}
	scheme := runtime.NewScheme()
	if err := apiserverapi.AddToScheme(scheme); err != nil {
		return err
	}
	if err := apiserverv1.AddToScheme(scheme); err != nil {
		return err
	}
	config, err := admission.ReadAdmissionConfiguration(nil, file, scheme)
	if err != nil {
		return err
	}
	readers := map[string]func(io.Reader) (field.ErrorList, error){
		"PodSecurity": func(reader io.Reader) (field.ErrorList, error) {
			settings, err := podsecurity.LoadFromReader(reader)
			if err != nil {
				return nil, err
			}
			return levels.ValidatePodSecurityConfiguration(settings), nil
		},
		"EventRateLimit": func(reader io.Reader) (field.ErrorList, error) {
			settings, err := eventratelimit.LoadConfiguration(reader)
			if err != nil {
				return nil, err
			}
			return limits.ValidateConfiguration(settings), nil
		},
	}
	for _, name := range []string{"PodSecurity", "EventRateLimit"} {
		reader, err := config.ConfigFor(name)
		if err != nil {
			return err
		}
		// One that is told nothing is not asked: whether it is enabled stands elsewhere.
		if reader == nil {
			continue
		}
		wrong, err := readers[name](reader)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if len(wrong) > 0 {
			return fmt.Errorf("%s: %w", name, wrong.ToAggregate())
		}
	}
	return nil
}

func (j judge) audit(text string) error {
	_, err := policy.LoadPolicyFromBytes([]byte(text))
	return err
}

// k3s does with its own keys, KEY=VALUE, what pkg/cli/server and pkg/agent/config do with them before anything starts.
func (j judge) k3s(words []string) error {
	s := settings{values: map[string][]string{}}
	for _, word := range words {
		name, value, _ := strings.Cut(word, "=")
		s.values[name] = append(s.values[name], value)
	}
	for _, name := range []string{"cluster-cidr", "service-cidr"} {
		for _, value := range split(s.list(name)) {
			if _, _, err := net.ParseCIDR(value); err != nil {
				return fmt.Errorf("invalid %s: %w", name, err)
			}
		}
	}
	for _, value := range split(s.list("cluster-dns")) {
		if net.ParseIP(value) == nil {
			return fmt.Errorf("invalid cluster-dns address %s", value)
		}
	}
	for _, list := range s.list("node-ip") {
		for _, value := range strings.Split(list, ",") {
			if net.ParseIP(value) == nil {
				return fmt.Errorf("invalid node-ip: invalid ip format '%s'", value)
			}
		}
	}
	if value := s.text("service-node-port-range", ""); value != "" {
		if _, err := utilnet.ParsePortRange(value); err != nil {
			return err
		}
	}
	if value := s.text("etcd-snapshot-schedule-cron", ""); value != "" {
		if _, err := cron.ParseStandard(value); err != nil {
			return err
		}
	}
	return nil
}

// split is k3s' util.SplitStringSlice: texts may hold commas, and what stands beside them is trimmed.
func split(values []string) []string {
	var all []string
	for _, value := range values {
		for _, part := range strings.Split(value, ",") {
			all = append(all, strings.TrimSpace(part))
		}
	}
	return all
}

// gates names every switch of Kubernetes of this version, each with "free" or with what it is locked to.
func gates(out io.Writer) error {
	found := map[string]string{}
	for name, spec := range utilfeature.DefaultMutableFeatureGate.GetAll() {
		found[string(name)] = "free"
		if spec.LockToDefault {
			found[string(name)] = fmt.Sprint(spec.Default)
		}
	}
	return json.NewEncoder(out).Encode(found)
}
