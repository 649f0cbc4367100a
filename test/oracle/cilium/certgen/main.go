// A stand-in for Cilium's certgen, which no package registry has: the job of the chart by which Hubble gets its certificates
// (hubble.tls.auto.method: cronJob). It keeps an authority in one Secret and writes a certificate of it into each of those that
// CILIUM_CERTGEN_CONFIG lists. It takes those words of certgen that the chart gives it, and refuses others.
package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"flag"
	"fmt"
	"math/big"
	"os"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"
)

type certificate struct {
	Name       string   `json:"name"`
	Namespace  string   `json:"namespace"`
	CommonName string   `json:"commonName"`
	Hosts      []string `json:"hosts"`
	Usage      []string `json:"usage"`
	Validity   string   `json:"validity"`
}

// authority is a certificate that signs, with its key.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

const years = 3 * 365 * 24 * time.Hour

var usages = map[string]x509.ExtKeyUsage{"server auth": x509.ExtKeyUsageServerAuth, "client auth": x509.ExtKeyUsageClientAuth}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run() error {
	var (
		generate  = flag.Bool("ca-generate", false, "")
		reuse     = flag.Bool("ca-reuse-secret", false, "")
		namespace = flag.String("ca-secret-namespace", "", "")
		name      = flag.String("ca-secret-name", "", "")
		common    = flag.String("ca-common-name", "", "")
		_         = flag.Bool("ca-enforce-validity-throughout-leaves-duration", true, "")
	)
	flag.Parse()
	if !*generate || !*reuse {
		return fmt.Errorf("only --ca-generate=true with --ca-reuse-secret is known here")
	}
	var config struct {
		Certs []certificate `json:"certs"`
	}
	if err := yaml.UnmarshalStrict([]byte(os.Getenv("CILIUM_CERTGEN_CONFIG")), &config); err != nil {
		return err
	}
	cluster, err := rest.InClusterConfig()
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(cluster)
	if err != nil {
		return err
	}
	ctx := context.Background()
	longest := time.Duration(0)
	for _, c := range config.Certs {
		validity, err := time.ParseDuration(c.Validity)
		if err != nil {
			return err
		}
		longest = max(longest, validity)
	}
	ca, err := authorityIn(ctx, client, *namespace, *name, *common, longest)
	if err != nil {
		return err
	}
	for _, c := range config.Certs {
		if err := issue(ctx, client, ca, c); err != nil {
			return fmt.Errorf("%s: %w", c.Name, err)
		}
	}
	return nil
}

// authorityIn reads the authority from its Secret, or makes a new one when there is none that outlives what it is to sign.
func authorityIn(ctx context.Context, client kubernetes.Interface, namespace, name, common string, needed time.Duration) (*authority, error) {
	found, err := client.CoreV1().Secrets(namespace).Get(ctx, name, metav1.GetOptions{})
	if err == nil {
		if ca, err := parse(found); err == nil && time.Until(ca.cert.NotAfter) > needed {
			return ca, nil
		}
	} else if !apierrors.IsNotFound(err) {
		return nil, err
	}
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: common}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	key, text, err := sign(template, nil, years)
	if err != nil {
		return nil, err
	}
	fmt.Println("a new authority:", common)
	secret := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Data:       map[string][]byte{"ca.crt": text, "ca.key": keyText(key)},
	}
	if err := put(ctx, client, secret); err != nil {
		return nil, err
	}
	return parse(secret)
}

func parse(secret *corev1.Secret) (*authority, error) {
	cert, _ := pem.Decode(secret.Data["ca.crt"])
	key, _ := pem.Decode(secret.Data["ca.key"])
	if cert == nil || key == nil {
		return nil, fmt.Errorf("%s holds no authority", secret.Name)
	}
	parsed, err := x509.ParseCertificate(cert.Bytes)
	if err != nil {
		return nil, err
	}
	private, err := x509.ParseECPrivateKey(key.Bytes)
	if err != nil {
		return nil, err
	}
	return &authority{parsed, private}, nil
}

// issue writes one certificate, its key and the authority into its Secret.
func issue(ctx context.Context, client kubernetes.Interface, ca *authority, c certificate) error {
	validity, err := time.ParseDuration(c.Validity)
	if err != nil {
		return err
	}
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: c.CommonName}, DNSNames: c.Hosts,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment,
	}
	for _, usage := range c.Usage {
		if extended, known := usages[usage]; known {
			template.ExtKeyUsage = append(template.ExtKeyUsage, extended)
		}
	}
	key, text, err := sign(template, ca, validity)
	if err != nil {
		return err
	}
	fmt.Println("a new certificate:", c.Namespace+"/"+c.Name)
	return put(ctx, client, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: c.Namespace, Name: c.Name},
		Type:       corev1.SecretTypeTLS,
		Data: map[string][]byte{
			"ca.crt":  pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.cert.Raw}),
			"tls.crt": text, "tls.key": keyText(key),
		},
	})
}

// sign makes a key and a certificate of it: by an authority, or by itself where there is none.
func sign(template *x509.Certificate, ca *authority, validity time.Duration) (*ecdsa.PrivateKey, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	if template.SerialNumber, err = rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127)); err != nil {
		return nil, nil, err
	}
	template.NotBefore = time.Now().Add(-time.Hour)
	template.NotAfter = time.Now().Add(validity)
	if ca == nil {
		ca = &authority{template, key}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca.cert, key.Public(), ca.key)
	return key, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), err
}

func keyText(key *ecdsa.PrivateKey) []byte {
	// Of a key that was just made there is always an encoding.
	der, _ := x509.MarshalECPrivateKey(key)
	return pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der})
}

// put creates a Secret or overwrites it. The chart's role lets it read none but that of the authority.
func put(ctx context.Context, client kubernetes.Interface, secret *corev1.Secret) error {
	secrets := client.CoreV1().Secrets(secret.Namespace)
	_, err := secrets.Create(ctx, secret, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		_, err = secrets.Update(ctx, secret, metav1.UpdateOptions{})
	}
	return err
}
