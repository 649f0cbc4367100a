package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/sirupsen/logrus"
	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sys/unix"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
)

const (
	controlPlaneLabel = "node-role.kubernetes.io/control-plane"
	etcdLabel         = "node-role.kubernetes.io/etcd"
	memberAnnotation  = "etcd.k3s.cattle.io/node-name"
	addressAnnotation = "etcd.k3s.cattle.io/node-address"
	hashAnnotation    = "k3s.io/encryption-config-hash"
	// While a Node has it, its deletion waits for the servers to take the member out.
	memberFinalizer = "wrangler.cattle.io/managed-etcd-controller"
	nodeFinalizer   = "wrangler.cattle.io/node"
)

// node is this machine as the cluster knows it.
type node struct {
	layout
	name, address string
	labels        []string
	// How it was started.
	told string
	// k3s brings the network for pods itself.
	network bool
	// Where apiservers are: the first one that answers is asked.
	servers []string
	kube    kubernetes.Interface
}

func nodeName(s settings) (string, error) {
	name, err := os.Hostname()
	return strings.ToLower(s.text("node-name", name)), err
}

// nodeAddress is the one that is said, or the first of this machine that others can reach.
func nodeAddress(s settings) (string, error) {
	if said := s.text("node-ip", ""); said != "" {
		if net.ParseIP(said) == nil {
			return "", fmt.Errorf("invalid node-ip %q", said)
		}
		return said, nil
	}
	found, err := net.InterfaceAddrs()
	if err != nil {
		return "", err
	}
	for _, address := range found {
		if network, is := address.(*net.IPNet); is && network.IP.To4() != nil && network.IP.IsGlobalUnicast() {
			return network.IP.String(), nil
		}
	}
	return "", fmt.Errorf("this machine has no address: say node-ip")
}

// nodePassword is made once; with it this machine keeps its name.
func nodePassword() (string, error) {
	const file = "/etc/rancher/node/password"
	content, err := os.ReadFile(file)
	if err == nil {
		return strings.TrimSpace(string(content)), nil
	} else if !os.IsNotExist(err) {
		return "", err
	}
	password := randomHex(16)
	return password, writeFile(file, []byte(password+"\n"), 0o600)
}

// settle keeps what a server gave this node, as files of the agent.
func (n *node) settle(given *entrance) error {
	for name, content := range map[string][]byte{
		"client-ca.crt": given.ClientCA, "server-ca.crt": given.ServerCA,
		"client-kubelet.crt": given.ClientCert, "client-kubelet.key": given.ClientKey,
		"serving-kubelet.crt": given.ServingCert, "serving-kubelet.key": given.ServingKey,
	} {
		if err := writeFile(n.agent(name), content, modeOf(name)); err != nil {
			return err
		}
	}
	for _, server := range given.Servers {
		if !slices.Contains(n.servers, server) {
			n.servers = append(n.servers, server)
		}
	}
	return n.turnTo(0)
}

// turnTo has this node ask another server.
func (n *node) turnTo(i int) error {
	server := "https://" + net.JoinHostPort(n.servers[i%len(n.servers)], "6443")
	content := kubeconfig(server, "certificate-authority: "+n.agent("server-ca.crt"),
		"client-certificate: "+n.agent("client-kubelet.crt"), "client-key: "+n.agent("client-kubelet.key"))
	if err := writeFile(n.agent("kubelet.kubeconfig"), content, 0o600); err != nil {
		return err
	}
	var err error
	n.kube, err = clientOf(n.agent("kubelet.kubeconfig"))
	return err
}

func clientOf(file string) (kubernetes.Interface, error) {
	config, err := clientcmd.BuildConfigFromFlags("", file)
	if err != nil {
		return nil, err
	}
	config.Timeout = 10 * time.Second
	return kubernetes.NewForConfig(config)
}

func condition(name corev1.NodeConditionType, good bool, reason, message string) corev1.NodeCondition {
	status := corev1.ConditionFalse
	if good {
		status = corev1.ConditionTrue
	}
	now := metav1.Now()
	return corev1.NodeCondition{Type: name, Status: status, Reason: reason, Message: message, LastHeartbeatTime: now, LastTransitionTime: now}
}

// status is what a kubelet says of its node.
func (n *node) status() corev1.NodeStatus {
	var name unix.Utsname
	_ = unix.Uname(&name)
	system := "unknown"
	if content, err := os.ReadFile("/etc/os-release"); err == nil {
		for _, line := range strings.Split(string(content), "\n") {
			if value, found := strings.CutPrefix(line, "PRETTY_NAME="); found {
				system = strings.Trim(value, `"`)
			}
		}
	}
	id := func(file string) string {
		content, _ := os.ReadFile(file)
		return strings.TrimSpace(string(content))
	}
	ready := condition(corev1.NodeReady, true, "KubeletReady", "kubelet is posting ready status")
	if !n.connected() {
		ready = condition(corev1.NodeReady, false, "KubeletNotReady",
			"container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady message:Network plugin returns error: cni plugin not initialized")
	}
	resources := corev1.ResourceList{
		corev1.ResourceCPU: *resource.NewQuantity(int64(runtime.NumCPU()), resource.DecimalSI), corev1.ResourceMemory: resource.MustParse("2Gi"),
		corev1.ResourcePods: resource.MustParse("110"), corev1.ResourceEphemeralStorage: resource.MustParse("10Gi"),
	}
	return corev1.NodeStatus{
		Capacity: resources, Allocatable: resources,
		Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: n.address}, {Type: corev1.NodeHostName, Address: n.name}},
		Conditions: []corev1.NodeCondition{
			condition(corev1.NodeMemoryPressure, false, "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
			condition(corev1.NodeDiskPressure, false, "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
			condition(corev1.NodePIDPressure, false, "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
			ready,
		},
		DaemonEndpoints: corev1.NodeDaemonEndpoints{KubeletEndpoint: corev1.DaemonEndpoint{Port: 10250}},
		NodeInfo: corev1.NodeSystemInfo{
			MachineID: id("/etc/machine-id"), BootID: id("/proc/sys/kernel/random/boot_id"), KernelVersion: unix.ByteSliceToString(name.Release[:]),
			OSImage: system, OperatingSystem: "linux", Architecture: runtime.GOARCH, KubeletVersion: version(), ContainerRuntimeVersion: "none://",
		},
	}
}

// connected is whether something has set up a network for pods: k3s itself, or whoever leaves a file where network plug-ins do.
func (n *node) connected() bool {
	if n.network {
		return true
	}
	for _, dir := range []string{n.agent("etc", "cni", "net.d"), "/etc/cni/net.d"} {
		if found, err := os.ReadDir(dir); err == nil && len(found) > 0 {
			return true
		}
	}
	return false
}

// register makes the Node, or brings it up to date, as the kubelet does when it starts.
func (n *node) register(ctx context.Context) error {
	labels := map[string]string{
		"kubernetes.io/hostname": n.name, "kubernetes.io/os": "linux", "kubernetes.io/arch": runtime.GOARCH,
		"beta.kubernetes.io/os": "linux", "beta.kubernetes.io/arch": runtime.GOARCH,
	}
	for _, label := range n.labels {
		key, value, _ := strings.Cut(label, "=")
		labels[key] = value
	}
	_, err := n.kube.CoreV1().Nodes().Create(ctx, &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: n.name, Labels: labels}, Status: n.status(),
	}, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return err
	}
	if err := n.annotate(ctx); err != nil {
		return err
	}
	if err := n.beat(ctx); err != nil {
		return err
	}
	return n.report(ctx)
}

// beat renews the lease by which the controllers see that this node lives.
func (n *node) beat(ctx context.Context) error {
	leases := n.kube.CoordinationV1().Leases("kube-node-lease")
	now, seconds := metav1.NowMicro(), int32(40)
	found, err := leases.Get(ctx, n.name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		_, err := leases.Create(ctx, &coordinationv1.Lease{
			ObjectMeta: metav1.ObjectMeta{Name: n.name},
			Spec:       coordinationv1.LeaseSpec{HolderIdentity: &n.name, LeaseDurationSeconds: &seconds, RenewTime: &now},
		}, metav1.CreateOptions{})
		return err
	} else if err != nil {
		return err
	}
	found.Spec.RenewTime = &now
	_, err = leases.Update(ctx, found, metav1.UpdateOptions{})
	return err
}

// report says anew what this node is, and keeps what others say of it.
func (n *node) report(ctx context.Context) error {
	found, err := n.kube.CoreV1().Nodes().Get(ctx, n.name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	status := n.status()
	for _, old := range found.Status.Conditions {
		at := slices.IndexFunc(status.Conditions, func(c corev1.NodeCondition) bool { return c.Type == old.Type })
		if at < 0 {
			status.Conditions = append(status.Conditions, old)
		} else if status.Conditions[at].Status == old.Status {
			status.Conditions[at].LastTransitionTime = old.LastTransitionTime
		}
	}
	found.Status = status
	_, err = n.kube.CoreV1().Nodes().UpdateStatus(ctx, found, metav1.UpdateOptions{})
	return err
}

// live keeps the Node fresh until this program ends. A Node that was deleted stays so until then, as with a kubelet.
func (n *node) live() {
	for turn := 1; ; turn++ {
		time.Sleep(5 * time.Second)
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		err := n.beat(ctx)
		if err == nil {
			err = n.refresh(ctx, turn)
		}
		cancel()
		if err != nil && !apierrors.IsNotFound(err) {
			logrus.Warnf("kubelet: %v", err)
			if err := n.turnTo(turn); err != nil {
				logrus.Warnf("kubelet: %v", err)
			}
		}
	}
}

// refresh reports once a minute, or at once when the cluster knows it wrong: the controllers may have taken this node for dead.
func (n *node) refresh(ctx context.Context, turn int) error {
	found, err := n.kube.CoreV1().Nodes().Get(ctx, n.name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	right := slices.ContainsFunc(found.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && (c.Status == corev1.ConditionTrue) == n.connected() && c.Status != corev1.ConditionUnknown
	})
	if right && turn%12 != 0 {
		return nil
	}
	return n.report(ctx)
}

// caretaker does for the Nodes what the controllers of k3s do: it marks servers, tells who has a vote in etcd, and lets a deleted
// Node go only when its member and its password are gone.
type caretaker struct {
	member
	node string
	kube kubernetes.Interface
	etcd *clientv3.Client
}

// mark makes this server's Node known as one.
func (c caretaker) mark(ctx context.Context) error {
	found, err := c.kube.CoreV1().Nodes().Get(ctx, c.node, metav1.GetOptions{})
	if err != nil {
		return err
	}
	if found.Annotations == nil {
		found.Annotations = map[string]string{}
	}
	found.Labels[controlPlaneLabel], found.Labels[etcdLabel] = "true", "true"
	found.Annotations[memberAnnotation], found.Annotations[addressAnnotation] = c.name, c.address
	if exists(c.cred("encryption-config.json")) {
		if found.Annotations[hashAnnotation], err = c.encryptionHash(); err != nil {
			return err
		}
	}
	_, err = c.kube.CoreV1().Nodes().Update(ctx, found, metav1.UpdateOptions{})
	return err
}

func (c caretaker) work() {
	for {
		ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
		if err := c.turn(ctx); err != nil {
			logrus.Warnf("controllers: %v", err)
		}
		cancel()
		time.Sleep(3 * time.Second)
	}
}

func (c caretaker) turn(ctx context.Context) error {
	// Only one server does this: the leader of etcd.
	if status, err := c.etcd.Status(ctx, localEtcd); err != nil || status.Header.MemberId != status.Leader {
		return err
	}
	members, err := c.etcd.MemberList(ctx)
	if err != nil {
		return err
	}
	c.promote(ctx, c.etcd, members)
	nodes, err := c.kube.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	for i := range nodes.Items {
		node := &nodes.Items[i]
		_, server := node.Labels[etcdLabel]
		if node.DeletionTimestamp != nil {
			if err := c.letGo(ctx, node, server, len(members.Members)); err != nil {
				return err
			}
			continue
		}
		wanted := []string{nodeFinalizer}
		if server {
			wanted = append(wanted, memberFinalizer)
		}
		before := len(node.Finalizers)
		for _, name := range wanted {
			if !slices.Contains(node.Finalizers, name) {
				node.Finalizers = append(node.Finalizers, name)
			}
		}
		if len(node.Finalizers) > before {
			if node, err = c.kube.CoreV1().Nodes().Update(ctx, node, metav1.UpdateOptions{}); err != nil {
				return err
			}
		}
		if server {
			if err := c.tellVote(ctx, node, members); err != nil {
				return err
			}
		}
	}
	return nil
}

func (c caretaker) tellVote(ctx context.Context, node *corev1.Node, members *clientv3.MemberListResponse) error {
	told := condition("EtcdIsVoter", false, "NotAMember", "Node is not a member of the etcd cluster")
	for _, member := range members.Members {
		if member.Name != node.Annotations[memberAnnotation] {
			continue
		}
		told = condition("EtcdIsVoter", true, "MemberNotLearner", "Node is a voting member of the etcd cluster")
		if member.IsLearner {
			told = condition("EtcdIsVoter", false, "MemberIsLearner", "Node has not been promoted to voting member of the etcd cluster")
		} else if err := c.answers(ctx, member.ClientURLs); err != nil {
			told = condition("EtcdIsVoter", false, "Unhealthy", err.Error())
		}
	}
	at := slices.IndexFunc(node.Status.Conditions, func(c corev1.NodeCondition) bool { return c.Type == told.Type })
	if at < 0 {
		node.Status.Conditions = append(node.Status.Conditions, told)
	} else if old := node.Status.Conditions[at]; old.Status == told.Status && old.Reason == told.Reason {
		return nil
	} else {
		node.Status.Conditions[at] = told
	}
	_, err := c.kube.CoreV1().Nodes().UpdateStatus(ctx, node, metav1.UpdateOptions{})
	if apierrors.IsConflict(err) {
		return nil
	}
	return err
}

func (c caretaker) answers(ctx context.Context, urls []string) error {
	if len(urls) == 0 {
		return fmt.Errorf("the member has not started")
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	_, err := c.etcd.Status(ctx, urls[0])
	return err
}

func (c caretaker) letGo(ctx context.Context, node *corev1.Node, server bool, members int) error {
	name, address := node.Annotations[memberAnnotation], node.Annotations[addressAnnotation]
	if server && name != "" && members > 1 {
		if err := c.remove(c.etcd, name, address); err != nil {
			return err
		}
	}
	secret := strings.ToLower(node.Name) + ".node-password.k3s"
	err := c.kube.CoreV1().Secrets("kube-system").Delete(ctx, secret, metav1.DeleteOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return err
	}
	node.Finalizers = slices.DeleteFunc(node.Finalizers, func(name string) bool { return name == memberFinalizer || name == nodeFinalizer })
	_, err = c.kube.CoreV1().Nodes().Update(ctx, node, metav1.UpdateOptions{})
	return err
}
