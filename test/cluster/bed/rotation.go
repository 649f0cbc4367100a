package main

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/sirupsen/logrus"
)

// What may be replaced; the rest stays as it is. (the fields of ControlRuntimeBootstrap of k3s that are tagged rotate)
var replaceable = []string{
	"tls/server-ca", "tls/client-ca", "tls/request-header-ca", "tls/etcd/server-ca", "tls/etcd/peer-ca", "tls/service",
}

// hashOf is by what a token knows the cluster: of one certificate the digest of its file, of several that of the root at which
// the first of them ends. (pkg/clientaccess of k3s)
func hashOf(bundle []byte) string {
	found := parseCertificates(bundle)
	if len(found) > 1 {
		roots, intermediates := pools(found[1:])
		if chains, err := found[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: intermediates}); err == nil {
			bundle = chains[0][len(chains[0])-1].Raw
		}
	}
	return fmt.Sprintf("%x", sha256.Sum256(bundle))
}

func parseCertificates(content []byte) []*x509.Certificate {
	var found []*x509.Certificate
	for {
		block, rest := pem.Decode(content)
		if block == nil {
			return found
		}
		content = rest
		if certificate, err := x509.ParseCertificate(block.Bytes); err == nil {
			found = append(found, certificate)
		}
	}
}

// pools sorts those that have signed themselves from the others.
func pools(certificates []*x509.Certificate) (roots, intermediates *x509.CertPool) {
	roots, intermediates = x509.NewCertPool(), x509.NewCertPool()
	for _, certificate := range certificates {
		if len(certificate.AuthorityKeyId) == 0 || bytes.Equal(certificate.AuthorityKeyId, certificate.SubjectKeyId) {
			roots.AddCert(certificate)
		} else {
			intermediates.AddCert(certificate)
		}
	}
	return roots, intermediates
}

// tell has the server that runs here do something, as whoever has its token.
func (l layout) tell(at string, said any) error {
	content, err := os.ReadFile(l.server("token"))
	if err != nil {
		return err
	}
	found, err := parseToken(string(content), "server")
	if err != nil {
		return err
	}
	server, err := knock("https://127.0.0.1:6443", found)
	if err != nil {
		return err
	}
	var answer any
	return server.ask(at, said, &answer)
}

// sendAuthorities is `k3s certificate rotate-ca`: what lies under --path as it would lie under server.
func (l layout) sendAuthorities(s settings) error {
	path := s.text("path", "")
	if path == "" {
		return errors.New(`Required flag "path" not set`)
	}
	files, err := readKept(func(name string) string { return filepath.Join(path, name) })
	if err != nil {
		return err
	}
	if err := l.tell(fmt.Sprintf("/v1-k3s/cert/cacerts?force=%t", s.yes("force")), files); err != nil {
		return fmt.Errorf("see server log for details: %w", err)
	}
	fmt.Println("certificates saved to datastore")
	return nil
}

// replaceAuthorities stores new ones for the next start of each server, if those that there are now vouch for them.
func (s supervisor) replaceAuthorities(r *http.Request) (any, error) {
	var given map[string]kept
	if err := json.NewDecoder(r.Body).Decode(&given); err != nil {
		return nil, err
	}
	files, err := s.readKept()
	if err != nil {
		return nil, err
	}
	for _, base := range replaceable {
		for _, name := range []string{base + ".crt", base + ".key"} {
			if len(given[name].Content) == 0 {
				given[name] = files[name]
			}
		}
		if err := vouched(base, files, given); err != nil {
			err = fmt.Errorf("failed to validate new CA certificates and keys: %s: %w", base, err)
			logrus.Error(err)
			if r.FormValue("force") != "true" {
				return nil, err
			}
		}
	}
	for _, base := range replaceable {
		for _, name := range []string{base + ".crt", base + ".key"} {
			if _, known := files[name]; known {
				files[name] = kept{given[name].Content, time.Now()}
			}
		}
	}
	known, err := s.passwords()
	if err != nil {
		return nil, err
	}
	return nil, storeBootstrap(s.etcd, known["server"], files)
}

func vouched(base string, old, given map[string]kept) error {
	if base == "tls/service" {
		former, _ := pem.Decode(old[base+".key"].Content)
		if !bytes.Contains(given[base+".key"].Content, pem.EncodeToMemory(former)) {
			return errors.New("old ServiceAccount signing key not in new ServiceAccount key list")
		}
		return nil
	}
	certificates, key := given[base+".crt"].Content, given[base+".key"].Content
	if bytes.Equal(certificates, old[base+".crt"].Content) && bytes.Equal(key, old[base+".key"].Content) {
		return nil
	}
	found := parseCertificates(certificates)
	if len(found) < 2 {
		return errors.New("new CA bundle contains only a single certificate but should include root or intermediate CA certificates")
	}
	roots, intermediates := pools(parseCertificates(old[base+".crt"].Content))
	for _, certificate := range found[1:] {
		if len(certificate.AuthorityKeyId) > 0 {
			intermediates.AddCert(certificate)
		}
	}
	if _, err := found[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: intermediates}); err != nil {
		return fmt.Errorf("new CA cert cannot be verified using old CA chain: %w", err)
	}
	_, err := tls.X509KeyPair(certificates, key)
	return err
}
