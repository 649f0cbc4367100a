package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"text/template"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Where FK_BED_NODE=real, a node runs pods: containerd, the kubelet and kube-proxy are children of this program, as they are in k3s.
// containerd, its shim, ctr and runc are found in PATH; images are in agent/containerd before it starts.
func runsPods() bool { return os.Getenv("FK_BED_NODE") == "real" }

const containerdSocket = "/run/k3s/containerd/containerd.sock"

// What k3s tells containerd. Of the network it says nothing, as k3s where flannel-backend is none: plug-ins are in /opt/cni/bin and
// their configuration in /etc/cni/net.d.
const containerdConfig = `version = 3
imports = ["@AGENT@/etc/containerd/config-v3.toml.d/*.toml"]
root = "@AGENT@/containerd"
state = "/run/k3s/containerd"

[grpc]
  address = "` + containerdSocket + `"

[plugins.'io.containerd.internal.v1.opt']
  path = "@AGENT@/containerd"

[plugins.'io.containerd.grpc.v1.cri']
  stream_server_address = "127.0.0.1"
  stream_server_port = "10010"

[plugins.'io.containerd.cri.v1.runtime']
  enable_selinux = false
  enable_unprivileged_ports = true
  enable_unprivileged_icmp = true
  restrict_oom_score_adj = @RESTRICTED@

[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
  SystemdCgroup = @SYSTEMD@

[plugins.'io.containerd.cri.v1.images']
  snapshotter = "overlayfs"
  disable_snapshot_annotations = true
  use_local_image_pull = true
[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = "@PAUSE@"
`

// cgroups1 is whether controllers are found one by one, and not in the one tree that systemd manages.
func cgroups1() bool {
	var found unix.Statfs_t
	return unix.Statfs("/sys/fs/cgroup", &found) == nil && found.Type != unix.CGROUP2_SUPER_MAGIC
}

// mayRank is whether a process of root here may be made less likely to be ended when memory is short.
func mayRank() bool {
	held, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, unix.CAP_SYS_RESOURCE, 0, 0, 0)
	return err == nil && held == 1
}

// runContainerd starts containerd, with the images that it has in agent/containerd.
func runContainerd(l layout, s settings, children *processes, stop <-chan os.Signal) error {
	if backend := s.text("flannel-backend", "none"); backend != "none" {
		return fmt.Errorf("flannel-backend %s: this program has no network for pods", backend)
	}
	file := l.agent("etc", "containerd", "config.toml")
	content := strings.NewReplacer("@AGENT@", l.agent(), "@RESTRICTED@", fmt.Sprint(!mayRank()), "@SYSTEMD@", fmt.Sprint(!cgroups1()),
		"@PAUSE@", s.text("pause-image", "rancher/mirrored-pause:3.6")).Replace(containerdConfig)
	if err := writeFile(file, []byte(content), 0o600); err != nil {
		return err
	}
	if err := children.program("containerd", "--config", file); err != nil {
		return err
	}
	return children.wait("containerd", stop, func() error {
		return exec.Command("ctr", "--address", containerdSocket, "version").Run()
	})
}

// crictl is `k3s crictl info --output go-template --template TEXT`: what the containerd that runs says of itself, under the names that
// crictl gives it.
func crictl(words []string) error {
	if len(words) != 5 || words[0] != "info" || words[1] != "--output" || words[2] != "go-template" || words[3] != "--template" {
		return fmt.Errorf("this program knows info --output go-template --template TEXT only, not %v", words)
	}
	shape, err := template.New("template").Parse(words[4])
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	connection, err := grpc.NewClient("unix://"+containerdSocket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer connection.Close()
	said, err := runtime.NewRuntimeServiceClient(connection).Status(ctx, &runtime.StatusRequest{Verbose: true})
	if err != nil {
		return fmt.Errorf("getting status of runtime: %w", err)
	}
	all := map[string]any{"status": said.Status, "runtimeHandlers": said.RuntimeHandlers}
	for name, text := range said.Info {
		// What is no object is left out there, too.
		var value map[string]any
		if err := json.Unmarshal([]byte(text), &value); err == nil {
			all[name] = value
		}
	}
	return shape.Execute(os.Stdout, all)
}

// runNode starts containerd, the kubelet, and kube-proxy on a server that has one, and waits until the Node is there.
func runNode(l layout, s settings, children *processes, stop <-chan os.Signal, k *kubelet, n *node) error {
	if err := balance(s, n.address); err != nil {
		return err
	}
	if err := runContainerd(l, s, children, stop); err != nil {
		return err
	}
	// Without a cloud controller nobody would take the taint of a node that waits for one.
	words := slices.DeleteFunc(slices.Clone(k.words), func(word string) bool { return strings.HasPrefix(word, "--cloud-provider=") })
	if _, err := children.run("kubelet", words); err != nil {
		return err
	}
	if exists(l.cred("kube-proxy.kubeconfig")) && !s.yes("disable-kube-proxy") {
		own := map[string]string{
			"kubeconfig": l.cred("kube-proxy.kubeconfig"), "hostname-override": n.name, "cluster-cidr": s.text("cluster-cidr", "10.42.0.0/16"),
			"proxy-mode": "iptables", "conntrack-max-per-core": "0", "conntrack-tcp-timeout-close-wait": "0s",
			"conntrack-tcp-timeout-established": "0s", "healthz-bind-address": "127.0.0.1",
		}
		if err := runComponent(children, "kube-proxy", arguments(own, s.list("kube-proxy-arg"))); err != nil {
			return err
		}
	}
	return children.wait("the kubelet to register this node", stop, func() error { return n.annotate(context.Background()) })
}

// annotate says at the Node how it was started, as k3s does.
func (n *node) annotate(ctx context.Context) error {
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": map[string]string{"k3s.io/node-args": n.told}}})
	if err != nil {
		return err
	}
	_, err = n.kube.CoreV1().Nodes().Patch(ctx, n.name, types.MergePatchType, patch, metav1.PatchOptions{})
	return err
}
