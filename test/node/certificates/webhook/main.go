// The admission webhook of cert-manager as it runs in a pod, with the arguments that its chart gives it.
package main

import (
	"context"
	"flag"
	"log"
	"os"
	"os/signal"
	"syscall"
	"time"

	"k8s.io/klog/v2"

	"github.com/cert-manager/cert-manager/internal/apis/config/shared"
	config "github.com/cert-manager/cert-manager/internal/apis/config/webhook"
	"github.com/cert-manager/cert-manager/internal/webhook"
)

type names []string

func (all *names) String() string         { return "" }
func (all *names) Set(value string) error { *all = append(*all, value); return nil }

func main() {
	flags := flag.NewFlagSet("webhook", flag.ExitOnError)
	var dns names
	port := flags.Int("secure-port", 10250, "where the API asks")
	namespace := flags.String("dynamic-serving-ca-secret-namespace", "", "of its own CA")
	secret := flags.String("dynamic-serving-ca-secret-name", "", "of its own CA")
	flags.Var(&dns, "dynamic-serving-dns-names", "of its certificate")
	flags.String("v", "", "without effect here")
	_ = flags.Parse(os.Args[1:])
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	server, err := webhook.NewCertManagerWebhookServer(klog.Background(), config.WebhookConfiguration{
		SecurePort: int32(*port), HealthzPort: 6080, MetricsListenAddress: "0",
		TLSConfig: shared.TLSConfig{Dynamic: shared.DynamicServingConfig{
			SecretNamespace: *namespace, SecretName: *secret, DNSNames: dns, LeafDuration: 7 * 24 * time.Hour,
		}},
	})
	if err == nil {
		err = server.Run(ctx)
	}
	if err != nil {
		log.Fatal(err)
	}
}
