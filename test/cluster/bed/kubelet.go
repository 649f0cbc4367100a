package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/spf13/pflag"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	cliflag "k8s.io/component-base/cli/flag"
	"k8s.io/component-base/featuregate"
	logsapi "k8s.io/component-base/logs/api/v1"
	utilsysctl "k8s.io/component-helpers/node/util/sysctl"
	"k8s.io/kubelet/config/v1beta1"
	"k8s.io/kubernetes/cmd/kubelet/app/options"
	kubeletconfig "k8s.io/kubernetes/pkg/kubelet/apis/config"
	kubeletscheme "k8s.io/kubernetes/pkg/kubelet/apis/config/scheme"
	"k8s.io/kubernetes/pkg/kubelet/apis/config/validation"
	"k8s.io/kubernetes/pkg/kubelet/kubeletconfig/configfiles"
	utilfs "k8s.io/kubernetes/pkg/util/filesystem"
	"sigs.k8s.io/yaml"
)

// kubelet is what this node's kubelet would be: its words, and what it makes of them.
type kubelet struct {
	words  []string
	config *kubeletconfig.KubeletConfiguration
}

// newKubelet is the kubelet of this node, unless it refuses what it is told, or the kernel.
func newKubelet(l layout, s settings, node, address string) (*kubelet, error) {
	k, err := readKubelet(l, s, node, address)
	if err != nil {
		return nil, err
	}
	if err := k.validate(utilfeature.DefaultMutableFeatureGate); err != nil {
		return nil, err
	}
	if k.config.ProtectKernelDefaults && os.Getenv("FK_BED_NO_SYSCTL") == "" {
		return k, checkKernel()
	}
	return k, nil
}

// readKubelet has the kubelet's own code read what k3s and the owner tell it.
func readKubelet(l layout, s settings, node, address string) (*kubelet, error) {
	for _, word := range s.list("kubelet-arg") {
		if name, _, _ := strings.Cut(strings.TrimPrefix(word, "--"), "="); name == "config" || name == "config-dir" {
			return nil, fmt.Errorf("kubelet-arg %s: this program reads arguments only", word)
		}
	}
	defaults := l.agent("etc", "kubelet.conf.d", "00-k3s-defaults.conf")
	if err := writeDefaults(defaults, l, s); err != nil {
		return nil, err
	}
	own := map[string]string{
		"config-dir": l.agent("etc", "kubelet.conf.d"), "kubeconfig": l.agent("kubelet.kubeconfig"), "read-only-port": "0",
		"root-dir": "/var/lib/kubelet", "cert-dir": "/var/lib/kubelet/pki", "hostname-override": node, "node-ip": address,
		"cloud-provider": "external", "node-labels": strings.Join(s.list("node-label"), ","),
		"containerd": "/run/k3s/containerd/containerd.sock",
	}
	if taints := s.list("node-taint"); len(taints) > 0 {
		own["register-with-taints"] = strings.Join(taints, ",")
	}
	k := &kubelet{words: arguments(own, s.list("kubelet-arg"))}
	logrus.Infof("Running kubelet %s", strings.Join(k.words, " "))

	flags := options.NewKubeletFlags()
	scratch, err := options.NewKubeletConfiguration()
	if err != nil {
		return nil, err
	}
	if err := parseInto(flags, scratch, k.words); err != nil {
		return nil, fmt.Errorf("failed to parse kubelet flag: %w", err)
	}
	if err := options.ValidateKubeletFlags(flags); err != nil {
		return nil, fmt.Errorf("failed to validate kubelet flags: %w", err)
	}
	loader, err := configfiles.NewFsLoader(&utilfs.DefaultFs{}, defaults)
	if err != nil {
		return nil, err
	}
	if k.config, err = loader.Load(context.Background()); err != nil {
		return nil, err
	}
	// An argument counts for more than the file.
	if err := parseInto(options.NewKubeletFlags(), k.config, k.words); err != nil {
		return nil, err
	}
	return k, nil
}

// validate has the kubelet's own code refuse what it refuses. `gates` are switched as the configuration says.
func (k *kubelet) validate(gates featuregate.MutableFeatureGate) error {
	if err := gates.SetFromMap(k.config.FeatureGates); err != nil {
		return fmt.Errorf("failed to set feature gates from initial flags-based config: %w", err)
	}
	if err := validation.ValidateKubeletConfiguration(k.config, gates); err != nil {
		return fmt.Errorf("failed to validate kubelet configuration, error: %w", err)
	}
	return nil
}

func parseInto(flags *options.KubeletFlags, config *kubeletconfig.KubeletConfiguration, words []string) error {
	set := pflag.NewFlagSet("kubelet", pflag.ContinueOnError)
	set.SetNormalizeFunc(cliflag.WordSepNormalizeFunc)
	flags.AddFlags(set)
	options.AddKubeletConfigFlags(set, config)
	options.AddGlobalFlags(set)
	if err := set.Parse(words); err != nil {
		return err
	}
	if len(set.Args()) > 0 {
		return fmt.Errorf("unknown command %s", set.Args()[0])
	}
	return nil
}

// writeDefaults writes what k3s wants of a kubelet unless its owner says otherwise.
func writeDefaults(file string, l layout, s settings) error {
	off, on, dns := false, true, s.text("cluster-dns", "10.43.0.10")
	seconds := func(n int) metav1.Duration { return metav1.Duration{Duration: time.Duration(n) * time.Second} }
	content, err := yaml.Marshal(v1beta1.KubeletConfiguration{
		TypeMeta:      metav1.TypeMeta{APIVersion: "kubelet.config.k8s.io/v1beta1", Kind: "KubeletConfiguration"},
		ClusterDomain: s.text("cluster-domain", "cluster.local"), ClusterDNS: []string{dns},
		CgroupDriver: "systemd", ContainerRuntimeEndpoint: "unix:///run/k3s/containerd/containerd.sock", SerializeImagePulls: &off,
		CPUManagerReconcilePeriod: seconds(10), EvictionPressureTransitionPeriod: seconds(300), FileCheckFrequency: seconds(20),
		HTTPCheckFrequency: seconds(20), ImageMinimumGCAge: seconds(120), NodeStatusReportFrequency: seconds(300),
		NodeStatusUpdateFrequency: seconds(10), RuntimeRequestTimeout: seconds(120), StreamingConnectionIdleTimeout: seconds(4 * 3600),
		SyncFrequency: seconds(60), VolumeStatsAggPeriod: seconds(60),
		FailSwapOn: &off, HealthzBindAddress: "127.0.0.1", ProtectKernelDefaults: s.yes("protect-kernel-defaults"),
		EvictionHard:           map[string]string{"imagefs.available": "15%", "nodefs.available": "15%"},
		EvictionMinimumReclaim: map[string]string{"imagefs.available": "20%", "nodefs.available": "20%"},
		Authentication: v1beta1.KubeletAuthentication{
			Anonymous: v1beta1.KubeletAnonymousAuthentication{Enabled: &off},
			Webhook:   v1beta1.KubeletWebhookAuthentication{Enabled: &on, CacheTTL: seconds(120)},
			X509:      v1beta1.KubeletX509Authentication{ClientCAFile: l.agent("client-ca.crt")},
		},
		Authorization: v1beta1.KubeletAuthorization{
			Mode:    v1beta1.KubeletAuthorizationModeWebhook,
			Webhook: v1beta1.KubeletWebhookAuthorization{CacheAuthorizedTTL: seconds(300), CacheUnauthorizedTTL: seconds(30)},
		},
		TLSCertFile: l.agent("serving-kubelet.crt"), TLSPrivateKeyFile: l.agent("serving-kubelet.key"),
		StaticPodPath: l.agent("pod-manifests"),
		Logging:       logsapi.LoggingConfiguration{Format: "text", FlushFrequency: logsapi.TimeOrMetaDuration{Duration: seconds(5)}},
	})
	if err != nil {
		return err
	}
	return writeFile(file, content, 0o600)
}

// checkKernel refuses a kernel that is not as a kubelet wants it that may not change it.
func checkKernel() error {
	kernel := utilsysctl.New()
	var wrong []error
	for name, wanted := range map[string]int{
		utilsysctl.VMOvercommitMemory: utilsysctl.VMOvercommitMemoryAlways, utilsysctl.VMPanicOnOOM: utilsysctl.VMPanicOnOOMInvokeOOMKiller,
		utilsysctl.KernelPanic: utilsysctl.KernelPanicRebootTimeout, utilsysctl.KernelPanicOnOops: utilsysctl.KernelPanicOnOopsAlways,
		utilsysctl.RootMaxKeys: utilsysctl.RootMaxKeysSetting, utilsysctl.RootMaxBytes: utilsysctl.RootMaxBytesSetting,
	} {
		found, err := kernel.GetSysctl(name)
		if err != nil {
			wrong = append(wrong, err)
		} else if found != wanted {
			wrong = append(wrong, fmt.Errorf("invalid kernel flag: %v, expected value: %v, actual value: %v", name, wanted, found))
		}
	}
	if err := errors.Join(wrong...); err != nil {
		return fmt.Errorf("Failed to start ContainerManager: %w", err)
	}
	return nil
}

// serve answers the apiserver and administrators on the kubelet's port: what it is told (/configz), and that it lives.
func (k *kubelet) serve(l layout, address string) error {
	scheme, _, err := kubeletscheme.NewSchemeAndCodecs()
	if err != nil {
		return err
	}
	shown := &v1beta1.KubeletConfiguration{}
	if err := scheme.Convert(k.config, shown, nil); err != nil {
		return err
	}
	content, err := json.Marshal(map[string]any{"kubeletconfig": shown})
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/configz", func(w http.ResponseWriter, r *http.Request) {
		for _, group := range r.TLS.PeerCertificates[0].Subject.Organization {
			if group == "system:masters" {
				w.Header().Set("Content-Type", "application/json")
				if _, err := w.Write(content); err != nil {
					logrus.Warnf("kubelet: %v", err)
				}
				return
			}
		}
		http.Error(w, "Forbidden", http.StatusForbidden)
	})
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "ok") })
	certificate, err := tls.LoadX509KeyPair(l.agent("serving-kubelet.crt"), l.agent("serving-kubelet.key"))
	if err != nil {
		return err
	}
	ca, err := os.ReadFile(l.agent("client-ca.crt"))
	if err != nil {
		return err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	min, err := cliflag.TLSVersion(k.config.TLSMinVersion)
	if err != nil {
		return err
	}
	ciphers, err := cliflag.TLSCipherSuites(k.config.TLSCipherSuites)
	if err != nil {
		return err
	}
	listener, err := tls.Listen("tcp", ":10250", &tls.Config{
		Certificates: []tls.Certificate{certificate}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert,
		MinVersion: min, CipherSuites: ciphers,
	})
	if err != nil {
		return err
	}
	go func() { logrus.Fatalf("kubelet: %v", http.Serve(listener, mux)) }()
	return nil
}
