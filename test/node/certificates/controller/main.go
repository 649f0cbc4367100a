// The controllers of cert-manager as they run in a pod, with the arguments that its chart gives them: what its cmd/controller does,
// which is a module of its own that cannot be had. One replica, and no election of a leader.
package main

import (
	"context"
	"flag"
	"log"
	"net"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/klog/v2"

	"github.com/cert-manager/cert-manager/pkg/controller"
	_ "github.com/cert-manager/cert-manager/pkg/controller/acmechallenges"
	_ "github.com/cert-manager/cert-manager/pkg/controller/acmeorders"
	_ "github.com/cert-manager/cert-manager/pkg/controller/certificaterequests/acme"
	_ "github.com/cert-manager/cert-manager/pkg/controller/certificaterequests/approver"
	_ "github.com/cert-manager/cert-manager/pkg/controller/certificaterequests/ca"
	_ "github.com/cert-manager/cert-manager/pkg/controller/certificaterequests/selfsigned"
	_ "github.com/cert-manager/cert-manager/pkg/controller/certificates/issuing"
	_ "github.com/cert-manager/cert-manager/pkg/controller/certificates/keymanager"
	_ "github.com/cert-manager/cert-manager/pkg/controller/certificates/readiness"
	_ "github.com/cert-manager/cert-manager/pkg/controller/certificates/requestmanager"
	_ "github.com/cert-manager/cert-manager/pkg/controller/certificates/revisionmanager"
	_ "github.com/cert-manager/cert-manager/pkg/controller/certificates/trigger"
	_ "github.com/cert-manager/cert-manager/pkg/controller/clusterissuers"
	_ "github.com/cert-manager/cert-manager/pkg/controller/issuers"
	"github.com/cert-manager/cert-manager/pkg/healthz"
	_ "github.com/cert-manager/cert-manager/pkg/issuer/acme"
	"github.com/cert-manager/cert-manager/pkg/issuer/acme/dns/util"
	_ "github.com/cert-manager/cert-manager/pkg/issuer/ca"
	_ "github.com/cert-manager/cert-manager/pkg/issuer/selfsigned"
	logf "github.com/cert-manager/cert-manager/pkg/logs"
)

func main() {
	if err := run(); err != nil {
		log.Fatal(err)
	}
}

func run() error {
	flags := flag.NewFlagSet("controller", flag.ExitOnError)
	namespace := flags.String("cluster-resource-namespace", "", "where what belongs to a ClusterIssuer lies")
	owner := flags.Bool("enable-certificate-owner-ref", false, "a Secret goes with its Certificate")
	challenges := flags.Int("max-concurrent-challenges", 60, "at once")
	resolvers := flags.String("dns01-recursive-nameservers", "", "whom to ask whether a record is there")
	only := flags.Bool("dns01-recursive-nameservers-only", false, "ask nobody else")
	for _, ignored := range []string{"v", "leader-election-namespace", "acme-http01-solver-image"} {
		flags.String(ignored, "", "without effect here")
	}
	_ = flags.Parse(os.Args[1:])
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	ctx = logf.NewContext(ctx, klog.Background(), "controller")

	nameservers := util.RecursiveNameservers
	if *resolvers != "" {
		nameservers = strings.Split(*resolvers, ",")
	}
	factory, err := controller.NewContextFactory(ctx, controller.ContextOptions{
		KubernetesAPIQPS: 20, KubernetesAPIBurst: 50,
		ACMEOptions: controller.ACMEOptions{
			HTTP01SolverResourceRequestCPU: resource.MustParse("10m"), HTTP01SolverResourceRequestMemory: resource.MustParse("64Mi"),
			HTTP01SolverResourceLimitsCPU: resource.MustParse("100m"), HTTP01SolverResourceLimitsMemory: resource.MustParse("64Mi"),
			DNS01Nameservers: nameservers, DNS01CheckAuthoritative: !*only, DNS01CheckRetryPeriod: 10 * time.Second,
		},
		IssuerOptions:    controller.IssuerOptions{ClusterResourceNamespace: *namespace},
		SchedulerOptions: controller.SchedulerOptions{MaxConcurrentChallenges: *challenges},
		CertificateOptions: controller.CertificateOptions{
			EnableOwnerRef:                           *owner,
			CopiedAnnotationPrefixes:                 []string{"*", "-kubectl.kubernetes.io/", "-fluxcd.io/", "-argocd.argoproj.io/"},
			CertificateRequestMinimumBackoffDuration: time.Hour, CertificateRequestMaximumBackoffDuration: 32 * time.Hour,
		},
	})
	if err != nil {
		return err
	}
	base, err := factory.Build()
	if err != nil {
		return err
	}

	group, ctx := errgroup.WithContext(ctx)
	listener, err := net.Listen("tcp", "0.0.0.0:9403")
	if err != nil {
		return err
	}
	group.Go(func() error { return healthz.NewServer(time.Minute).Start(ctx, listener) })
	for _, make := range controller.Known() {
		one, err := make(factory)
		if err != nil {
			return err
		}
		group.Go(func() error { return one.Run(5, ctx) })
	}
	base.SharedInformerFactory.Start(ctx.Done())
	base.KubeSharedInformerFactory.Start(ctx.Done())
	base.HTTP01ResourceMetadataInformersFactory.Start(ctx.Done())
	return group.Wait()
}
