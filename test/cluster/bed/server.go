package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/sirupsen/logrus"
)

// runServer is `k3s server`: it returns when it is told to end, or when one of its components has ended.
func runServer(s settings) error {
	l, err := layoutOf(s)
	if err != nil {
		return err
	}
	name, err := nodeName(s)
	if err != nil {
		return err
	}
	address, err := nodeAddress(s)
	if err != nil {
		return err
	}
	said, err := saidToken(s, "token", "server")
	if err != nil {
		return err
	}
	agents, err := saidToken(s, "agent-token", "node")
	if err != nil {
		return err
	}
	logrus.Infof("Starting k3s %s (bed)", version())
	stop := make(chan os.Signal, 2)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	children := newProcesses()
	defer children.stop()

	if s.yes("cluster-reset") {
		return reset(l, s, children, stop, name, address, said)
	}
	for _, dir := range []string{l.server("tls"), l.server("cred"), l.server("db"), l.agent("pod-manifests")} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
	}
	// A server without an agent is no node: a restored one that nobody shall meet, for example.
	agentless := s.yes("disable-agent")
	var kubelet *kubelet
	if !agentless {
		if kubelet, err = newKubelet(l, s, name, address); err != nil {
			return err
		}
	}
	m, err := memberOf(l, name, address, s)
	if err != nil {
		return err
	}

	// Who has nothing takes it from another server, or from a datastore that was restored here.
	server := s.text("server", "")
	var other *door
	// Whoever has stolen a snapshot is not held to what k3s would do: for a test of that the disk counts.
	stolen := os.Getenv("FK_BED_NO_RECONCILE") != ""
	if m.begun() && exists(l.tls("server-ca.crt")) && said != nil && !stolen {
		if err := m.reconcile(children, stop, server, *said); err != nil {
			return err
		}
	} else if server != "" && !m.begun() {
		if said == nil {
			return errors.New("starting kubernetes: preparing server: token is required to join a cluster")
		}
		if other, err = knock(server, *said); err != nil {
			return err
		}
		var files map[string]kept
		if err := other.ask("/v1-k3s/server-bootstrap", nil, &files); err != nil {
			return err
		}
		if err := l.writeShared(files); err != nil {
			return err
		}
	} else if m.begun() && !exists(l.tls("server-ca.crt")) {
		if said == nil {
			return errors.New("starting kubernetes: preparing server: the token is needed to read the bootstrap data")
		}
		if err := m.recover(children, stop, said.password, false); err != nil {
			return err
		}
	}
	encrypt := s.yes("secrets-encryption")
	if err := l.makeAuthorities(s.text("secrets-encryption-provider", "aescbc"), encrypt); err != nil {
		return err
	}
	names := slices.Concat([]string{name, address, "10.43.0.1"}, s.list("tls-san"))
	if external := s.text("node-external-ip", ""); external != "" {
		names = append(names, external)
	}
	if err := l.makeServerFiles(names, s.text("cluster-domain", "cluster.local")); err != nil {
		return err
	}

	initial, state := m.name+"="+m.peer(), "new"
	if m.begun() {
		initial, state = "", ""
	} else if other != nil {
		members, err := other.members()
		if err != nil {
			return err
		}
		if initial, err = m.join(name, members); err != nil {
			return err
		}
		state = "existing"
	}
	file, err := m.configFile(initial, state)
	if err != nil {
		return err
	}
	removed := &removal{}
	defer func() {
		if removed.heard.Load() {
			logrus.Info("this node has been removed from the cluster please restart k3s to rejoin the cluster")
			if err := writeFile(filepath.Join(l.etcd(), "tombstone"), nil, 0o600); err != nil {
				logrus.Error(err)
			}
		}
	}()
	if _, err := children.run("etcd", []string{"--config-file=" + file}, removed); err != nil {
		return err
	}
	etcd, err := m.client(localEtcd)
	if err != nil {
		return err
	}
	defer etcd.Close()
	if err := children.wait("etcd", stop, func() error { return m.healthy(etcd) }); err != nil {
		return err
	}
	// The password of a server that was given none is on its disk: what it stored before it would be lost with any other.
	known, err := l.passwords()
	if err != nil {
		return err
	}
	password := known["server"]
	if said != nil {
		password = said.password
	}
	if password != "" {
		if _, err := loadBootstrap(etcd, password); err != nil {
			return err
		}
	}
	if err := l.makeTokens(said, agents); err != nil {
		return err
	}
	if known, err = l.passwords(); err != nil {
		return err
	}
	if err := l.saveBootstrap(etcd, known["server"]); err != nil {
		return err
	}

	if err := runApiserver(l, s, children, address, encrypt); err != nil {
		return err
	}
	kube, err := clientOf(l.cred("supervisor.kubeconfig"))
	if err != nil {
		return err
	}
	ctx := context.Background()
	if err := children.wait("the API server", stop, func() error {
		_, err := kube.Discovery().RESTClient().Get().AbsPath("/readyz").DoRaw(ctx)
		return err
	}); err != nil {
		return err
	}
	if err := l.writeAdminConfig(s.text("write-kubeconfig", "/etc/rancher/k3s/k3s.yaml"), s.text("write-kubeconfig-mode", "0600")); err != nil {
		return err
	}
	if err := runControllers(l, s, children, stop); err != nil {
		return err
	}

	door := supervisor{layout: l, etcd: etcd, kube: kube}
	if err := door.listen(); err != nil {
		return err
	}
	if agentless {
		if err := l.resetIsOver(); err != nil {
			return err
		}
		logrus.Info("k3s is up and running, and no node")
		return untilTheEnd(children, stop)
	}
	node := &node{layout: l, name: name, address: address, labels: s.list("node-label"), servers: []string{"127.0.0.1"},
		told: s.told("server"), network: s.text("flannel-backend", "vxlan") != "none"}
	own, err := nodePassword()
	if err != nil {
		return err
	}
	given := &entrance{}
	if err := children.wait("this node to be admitted", stop, func() error {
		var refused refusal
		if given, err = door.admit(ctx, entry{name, own, address}); errors.As(err, &refused) {
			return nil
		}
		return err
	}); err != nil {
		return err
	}
	if err != nil {
		return err
	}
	// A server asks itself and nobody else.
	given.Servers = nil
	if err := node.settle(given); err != nil {
		return err
	}
	if runsPods() {
		err = runNode(l, s, children, stop, kubelet, node)
	} else {
		err = kubelet.serve(l, address)
	}
	if err != nil {
		return err
	}
	caretaker := caretaker{member: m, node: name, kube: kube, etcd: etcd}
	if err := children.wait("this node to be registered", stop, func() error {
		if !runsPods() {
			if err := node.register(ctx); err != nil {
				return err
			}
		}
		return caretaker.mark(ctx)
	}); err != nil {
		return err
	}
	if !runsPods() {
		go node.live()
	}
	go caretaker.work()
	if err := l.resetIsOver(); err != nil {
		return err
	}
	logrus.Info("k3s is up and running")
	return untilTheEnd(children, stop)
}

// resetIsOver once its data is in use: another reset needs no warning any more.
func (l layout) resetIsOver() error {
	if err := os.Remove(l.server("db", "reset-flag")); err != nil && !os.IsNotExist(err) {
		return err
	}
	return nil
}

// untilTheEnd tells systemd that we are ready, and waits for the end.
func untilTheEnd(children *processes, stop <-chan os.Signal) error {
	if _, err := daemon.SdNotify(false, daemon.SdNotifyReady); err != nil {
		return err
	}
	var err error
	select {
	case err = <-children.ended:
	case signal := <-stop:
		err = stopped{signal}
	}
	_, _ = daemon.SdNotify(false, daemon.SdNotifyStopping)
	return err
}

func runApiserver(l layout, s settings, children *processes, address string, encrypt bool) error {
	said := s.list("kube-apiserver-arg")
	issuer := "https://kubernetes.default.svc." + s.text("cluster-domain", "cluster.local")
	own := map[string]string{
		"storage-backend": "etcd3", "etcd-servers": localEtcd, "etcd-cafile": l.tls("etcd/server-ca.crt"),
		"etcd-certfile": l.tls("etcd/client.crt"), "etcd-keyfile": l.tls("etcd/client.key"),
		"cert-dir": l.tls("temporary-certs"), "allow-privileged": "true", "enable-bootstrap-token-auth": "true",
		"authorization-mode": "Node,RBAC", "anonymous-auth": "false",
		"service-account-signing-key-file": l.tls("service.current.key"), "service-account-key-file": l.tls("service.key"),
		"service-account-issuer": issuer, "api-audiences": issuer + ",k3s",
		"service-cluster-ip-range": s.text("service-cidr", "10.43.0.0/16"), "service-node-port-range": s.text("service-node-port-range", "30000-32767"),
		"advertise-port": "6443", "advertise-address": s.text("advertise-address", address),
		"secure-port": "6443", "bind-address": s.text("bind-address", "0.0.0.0"),
		"tls-cert-file": l.tls("serving-kube-apiserver.crt"), "tls-private-key-file": l.tls("serving-kube-apiserver.key"),
		"kubelet-certificate-authority": l.tls("server-ca.crt"), "kubelet-client-certificate": l.tls("client-kube-apiserver.crt"),
		"kubelet-client-key": l.tls("client-kube-apiserver.key"), "kubelet-preferred-address-types": "InternalIP,ExternalIP,Hostname",
		"requestheader-client-ca-file": l.tls("request-header-ca.crt"), "requestheader-allowed-names": "system:auth-proxy",
		"proxy-client-cert-file": l.tls("client-auth-proxy.crt"), "proxy-client-key-file": l.tls("client-auth-proxy.key"),
		"requestheader-extra-headers-prefix": "X-Remote-Extra-", "requestheader-group-headers": "X-Remote-Group",
		"requestheader-username-headers": "X-Remote-User", "client-ca-file": l.tls("client-ca.crt"),
		"enable-admission-plugins": "NodeRestriction", "profiling": "false",
	}
	if encrypt {
		own["encryption-provider-config"] = l.cred("encryption-config.json")
		own["encryption-provider-config-automatic-reload"] = "true"
	}
	for file, flag := range map[string]string{"authorization-config": "authorization-mode", "authentication-config": "anonymous-auth"} {
		if slices.ContainsFunc(said, func(word string) bool { return strings.HasPrefix(strings.TrimPrefix(word, "--"), file+"=") }) {
			logrus.Warnf("Not setting kube-apiserver '%s' flag due to user-provided '%s' file.", flag, file)
			delete(own, flag)
		}
	}
	return runComponent(children, "kube-apiserver", arguments(own, said))
}

func runComponent(children *processes, name string, words []string) error {
	logrus.Infof("Running %s %s", name, strings.Join(words, " "))
	// k3s' own copy of Kubernetes knows this one; here the apiserver has the port itself.
	_, err := children.run(name, slices.DeleteFunc(slices.Clone(words), func(word string) bool { return word == "--advertise-port=6443" }))
	return err
}

// runControllers starts what the apiserver must be there for, and waits until it is well.
func runControllers(l layout, s settings, children *processes, stop <-chan os.Signal) error {
	var ports []string
	if !s.yes("disable-scheduler") {
		config, serving := l.cred("scheduler.kubeconfig"), l.tls("kube-scheduler/kube-scheduler")
		own := map[string]string{
			"kubeconfig": config, "authorization-kubeconfig": config, "authentication-kubeconfig": config, "bind-address": "127.0.0.1",
			"secure-port": "10259", "tls-cert-file": serving + ".crt", "tls-private-key-file": serving + ".key", "profiling": "false",
		}
		if err := runComponent(children, "kube-scheduler", arguments(own, s.list("kube-scheduler-arg"))); err != nil {
			return err
		}
		ports = append(ports, "10259")
	}
	if !s.yes("disable-controller-manager") {
		config, serving := l.cred("controller.kubeconfig"), l.tls("kube-controller-manager/kube-controller-manager")
		own := map[string]string{
			"controllers": "*,tokencleaner", "kubeconfig": config, "authorization-kubeconfig": config, "authentication-kubeconfig": config,
			"service-account-private-key-file": l.tls("service.current.key"), "allocate-node-cidrs": "true",
			"service-cluster-ip-range": s.text("service-cidr", "10.43.0.0/16"), "cluster-cidr": s.text("cluster-cidr", "10.42.0.0/16"),
			"root-ca-file": l.tls("server-ca.crt"), "profiling": "false", "bind-address": "127.0.0.1", "secure-port": "10257",
			"tls-cert-file": serving + ".crt", "tls-private-key-file": serving + ".key", "use-service-account-credentials": "true",
		}
		for signer, ca := range map[string]string{
			"kube-apiserver-client": "client-ca", "kubelet-client": "client-ca", "kubelet-serving": "server-ca", "legacy-unknown": "server-ca",
		} {
			own["cluster-signing-"+signer+"-cert-file"] = l.tls(ca + ".nochain.crt")
			own["cluster-signing-"+signer+"-key-file"] = l.tls(ca + ".key")
		}
		if !s.yes("disable-cloud-controller") {
			own["configure-cloud-routes"] = "false"
			own["controllers"] += ",-service,-route,-cloud-node-lifecycle"
		}
		if err := runComponent(children, "kube-controller-manager", arguments(own, s.list("kube-controller-manager-arg"))); err != nil {
			return err
		}
		ports = append(ports, "10257")
	}
	client := &http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	for _, port := range ports {
		if err := children.wait("port "+port, stop, func() error {
			answer, err := client.Get("https://127.0.0.1:" + port + "/healthz")
			if err != nil {
				return err
			}
			defer answer.Body.Close()
			if answer.StatusCode != http.StatusOK {
				words, _ := io.ReadAll(answer.Body)
				return fmt.Errorf("%s: %s", answer.Status, words)
			}
			return nil
		}); err != nil {
			return err
		}
	}
	return nil
}

// runAgent is `k3s agent`: a node and nothing else.
func runAgent(s settings) error {
	l, err := layoutOf(s)
	if err != nil {
		return err
	}
	name, err := nodeName(s)
	if err != nil {
		return err
	}
	address, err := nodeAddress(s)
	if err != nil {
		return err
	}
	said, err := saidToken(s, "token", "node")
	if err != nil {
		return err
	}
	if said == nil {
		return errors.New("--token is required")
	}
	if s.text("server", "") == "" {
		return errors.New("--server is required")
	}
	logrus.Infof("Starting k3s agent %s (bed)", version())
	stop := make(chan os.Signal, 2)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	children := newProcesses()
	defer children.stop()
	if err := os.MkdirAll(l.agent("pod-manifests"), 0o700); err != nil {
		return err
	}
	kubelet, err := newKubelet(l, s, name, address)
	if err != nil {
		return err
	}
	password, err := nodePassword()
	if err != nil {
		return err
	}
	node := &node{layout: l, name: name, address: address, labels: s.list("node-label"), told: s.told("agent"), network: s.text("flannel-backend", "vxlan") != "none"}
	// An agent waits for its servers, also for one that does not know it: somebody may yet remove what stands in the way.
	if err := children.wait("a server", stop, func() error {
		other, err := knock(s.text("server", ""), *said)
		if err != nil {
			return err
		}
		var given entrance
		if err := other.ask("/v1-k3s/node", entry{name, password, address}, &given); err != nil {
			return err
		}
		return node.settle(&given)
	}); err != nil {
		return err
	}
	if runsPods() {
		err = runNode(l, s, children, stop, kubelet, node)
	} else if err = kubelet.serve(l, address); err == nil {
		err = children.wait("this node to be registered", stop, func() error { return node.register(context.Background()) })
	}
	if err != nil {
		return err
	}
	if !runsPods() {
		go node.live()
	}
	logrus.Info("k3s agent is up and running")
	return untilTheEnd(children, stop)
}
