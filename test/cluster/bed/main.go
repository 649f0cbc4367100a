// One program that is, by the name it is called with, etcd, etcdctl, etcdutl, kube-apiserver, kube-controller-manager,
// kube-scheduler, kube-proxy, kubelet or kubectl, each of them their makers' own, and under the name k3s a stand-in for it.
// Under the name verdicts it says what each of them has against what it would be told (verdict.go), under the name gates which
// feature gates there are.
//
// The stand-in reads the configuration of k3s, writes the files of k3s and runs the real etcd, apiserver, controller manager and
// scheduler with the arguments that k3s gives them. What is not k3s about it:
//   - the apiserver listens on 6443 itself, where k3s stands before it; what k3s serves beside it there is on 9345 here
//   - nothing runs containers unless FK_BED_NODE=real (containers.go), so a pod is accepted and stays pending; the kubelet's arguments
//     are read by the kubelet's own code and its configuration is served on 10250, but the Node is registered and kept ready by this
//     program
//   - it brings no cloud controller, CoreDNS, metrics server, network or chart controller, and takes no snapshots by the clock
package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	"go.etcd.io/etcd/etcdctl/v3/ctlv3"
	"go.etcd.io/etcd/etcdutl/v3/etcdutl"
	"go.etcd.io/etcd/server/v3/etcdmain"
	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/logs/json/register"
	_ "k8s.io/component-base/metrics/prometheus/clientgo"
	_ "k8s.io/component-base/metrics/prometheus/version"
	kubectl "k8s.io/kubectl/pkg/cmd"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllers "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	proxy "k8s.io/kubernetes/cmd/kube-proxy/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
	nodes "k8s.io/kubernetes/cmd/kubelet/app"
)

func main() {
	name := filepath.Base(os.Args[0])
	commands := map[string]func() *cobra.Command{
		"kube-apiserver":          apiserver.NewAPIServerCommand,
		"kube-controller-manager": controllers.NewControllerManagerCommand,
		"kube-scheduler":          func() *cobra.Command { return scheduler.NewSchedulerCommand() },
		"kubelet":                 func() *cobra.Command { return nodes.NewKubeletCommand(context.Background()) },
		"kubectl":                 kubectl.NewDefaultKubectlCommand,
		"kube-proxy":              proxy.NewProxyCommand,
		"etcdutl":                 etcdutlCommand,
	}
	switch {
	case name == "k3s":
		os.Exit(k3s(os.Args[1:]))
	case name == "etcd":
		etcdmain.Main(os.Args)
	case name == "etcdctl":
		ctlv3.MustStart()
	case name == "verdicts":
		must(verdicts(os.Stdin, os.Stdout))
	case name == "gates":
		must(gates(os.Stdout))
	case commands[name] != nil:
		os.Exit(cli.Run(commands[name]()))
	default:
		fmt.Fprintf(os.Stderr, "%s: call it k3s, etcd, etcdctl, etcdutl, kube-apiserver, kube-controller-manager, kube-scheduler, kube-proxy, kubelet or kubectl\n", name)
		os.Exit(2)
	}
}

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func etcdutlCommand() *cobra.Command {
	root := &cobra.Command{Use: "etcdutl"}
	root.PersistentFlags().StringVarP(&etcdutl.OutputFormat, "write-out", "w", "simple", "")
	root.AddCommand(etcdutl.NewSnapshotCommand(), etcdutl.NewHashKVCommand(), etcdutl.NewVersionCommand())
	return root
}
