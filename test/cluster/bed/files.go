package main

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/sirupsen/logrus"
)

// layout says where everything lies: the data directory of k3s.
type layout struct{ root string }

func layoutOf(s settings) (layout, error) {
	root, err := filepath.Abs(s.text("data-dir", "/var/lib/rancher/k3s"))
	return layout{root}, err
}

func (l layout) server(parts ...string) string {
	return filepath.Join(append([]string{l.root, "server"}, parts...)...)
}
func (l layout) agent(parts ...string) string {
	return filepath.Join(append([]string{l.root, "agent"}, parts...)...)
}
func (l layout) tls(name string) string  { return l.server("tls", name) }
func (l layout) cred(name string) string { return l.server("cred", name) }
func (l layout) etcd() string            { return l.server("db", "etcd") }

// What a server must share with the others, and what the datastore keeps for one that has lost everything.
var shared = []string{
	"tls/server-ca.crt", "tls/server-ca.key", "tls/client-ca.crt", "tls/client-ca.key",
	"tls/request-header-ca.crt", "tls/request-header-ca.key",
	"tls/etcd/server-ca.crt", "tls/etcd/server-ca.key", "tls/etcd/peer-ca.crt", "tls/etcd/peer-ca.key",
	"tls/service.key", "cred/passwd", "cred/ipsec.psk", "cred/encryption-config.json", "cred/encryption-state.json",
}

// kept is one of these files and the time of its last change: of two that differ the newer one is meant.
type kept struct {
	Content   []byte
	Timestamp time.Time
}

func (l layout) readKept() (map[string]kept, error) {
	return readKept(func(name string) string { return l.server(name) })
}

func readKept(place func(name string) string) (map[string]kept, error) {
	found := map[string]kept{}
	for _, name := range shared {
		content, err := os.ReadFile(place(name))
		if errors.Is(err, os.ErrNotExist) {
			continue
		} else if err != nil {
			return nil, err
		}
		info, err := os.Stat(place(name))
		if err != nil {
			return nil, err
		}
		found[name] = kept{content, info.ModTime()}
	}
	return found, nil
}

// reconciled writes what the datastore has newer, and refuses to go on where the disk has: then somebody has changed a file by hand,
// or has started this server with another token. (ReconcileBootstrapData of k3s)
func (l layout) reconciled(files map[string]kept) error {
	var newer []string
	updated := false
	for _, name := range shared {
		file, known := files[name]
		if !known {
			continue
		}
		content, err := os.ReadFile(l.server(name))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		if err == nil && bytes.Equal(content, file.Content) {
			continue
		}
		updated = true
		if info, err := os.Stat(l.server(name)); err == nil && info.ModTime().Unix()-file.Timestamp.Unix() >= 3 {
			newer = append(newer, l.server(name))
		}
	}
	if len(newer) > 0 {
		return fmt.Errorf("%s newer than datastore and could cause a cluster outage. Remove the file(s) from disk and restart to be recreated from datastore.", strings.Join(newer, ", "))
	}
	if !updated {
		return nil
	}
	logrus.Warn("Updating bootstrap data on disk from datastore")
	for _, name := range shared {
		if file, known := files[name]; known {
			if err := writeFile(l.server(name), file.Content, modeOf(name)); err != nil {
				return err
			}
			if err := os.Chtimes(l.server(name), file.Timestamp, file.Timestamp); err != nil {
				return err
			}
		}
	}
	return nil
}

// writeShared leaves alone what is there: a file on the disk is newer than what the datastore remembers.
func (l layout) writeShared(files map[string]kept) error {
	for _, name := range shared {
		file, known := files[name]
		if !known || exists(l.server(name)) {
			continue
		}
		if err := writeFile(l.server(name), file.Content, modeOf(name)); err != nil {
			return err
		}
	}
	return nil
}

func modeOf(name string) os.FileMode {
	if strings.HasSuffix(name, ".crt") {
		return 0o644
	}
	return 0o600
}

func exists(file string) bool {
	_, err := os.Stat(file)
	return err == nil
}

func writeFile(file string, content []byte, mode os.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return err
	}
	if err := os.WriteFile(file+".part", content, mode); err != nil {
		return err
	}
	return os.Rename(file+".part", file)
}

func randomHex(bytes int) string {
	value := make([]byte, bytes)
	if _, err := rand.Read(value); err != nil {
		panic(err)
	}
	return hex.EncodeToString(value)
}

const (
	leafDays  = 365
	renewDays = 120
	caDays    = 3650
)

func pemOf(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

func newKey() (crypto.Signer, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	der, err := x509.MarshalECPrivateKey(key)
	return key, pemOf("EC PRIVATE KEY", der), err
}

// keyOf reads a key, or makes it.
func keyOf(file string) (crypto.Signer, error) {
	content, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) {
		key, encoded, err := newKey()
		if err != nil {
			return nil, err
		}
		return key, writeFile(file, encoded, 0o600)
	} else if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(content)
	if block == nil {
		return nil, fmt.Errorf("%s: holds no key", file)
	}
	return x509.ParseECPrivateKey(block.Bytes)
}

func certificatesOf(file string) ([]*x509.Certificate, error) {
	content, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var found []*x509.Certificate
	for {
		block, rest := pem.Decode(content)
		if block == nil {
			break
		}
		content = rest
		certificate, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		found = append(found, certificate)
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("%s: holds no certificate", file)
	}
	return found, nil
}

func serial() *big.Int {
	number, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 63))
	if err != nil {
		panic(err)
	}
	return number
}

// authority makes a CA as BASE.crt and BASE.key, unless it is there.
func authority(base, name string) error {
	if exists(base+".crt") && exists(base+".key") {
		return nil
	}
	key, err := keyOf(base + ".key")
	if err != nil {
		return err
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber:          serial(),
		Subject:               pkix.Name{CommonName: fmt.Sprintf("%s-ca@%d", name, now.Unix())},
		NotBefore:             now.Add(-time.Minute),
		NotAfter:              now.Add(caDays * 24 * time.Hour),
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment | x509.KeyUsageCertSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return err
	}
	return writeFile(base+".crt", pemOf("CERTIFICATE", der), 0o644)
}

type leaf struct {
	ca, name     string
	groups       []string
	names        []string
	client, serv bool
}

// issue makes BASE.crt and BASE.key, unless they are there and good: named as asked, signed by the first of the authorities, and for
// longer than k3s waits before it renews.
func issue(base string, l leaf) error {
	authorities, err := certificatesOf(l.ca + ".crt")
	if err != nil {
		return err
	}
	if found, err := certificatesOf(base + ".crt"); err == nil && exists(base+".key") {
		good := found[0].NotAfter.After(time.Now().Add(renewDays*24*time.Hour)) &&
			bytes.Equal(found[0].AuthorityKeyId, authorities[0].SubjectKeyId)
		for _, name := range l.names {
			good = good && found[0].VerifyHostname(name) == nil
		}
		if good {
			return nil
		}
	}
	key, err := keyOf(base + ".key")
	if err != nil {
		return err
	}
	signer, err := keyOf(l.ca + ".key")
	if err != nil {
		return err
	}
	content, err := sign(l, key.Public(), authorities, signer)
	if err != nil {
		return err
	}
	return writeFile(base+".crt", content, 0o644)
}

// sign has the first of the authorities sign; the others stand behind it, as far as the one that everybody knows.
func sign(l leaf, public crypto.PublicKey, authorities []*x509.Certificate, signer crypto.Signer) ([]byte, error) {
	template := &x509.Certificate{
		SerialNumber: serial(),
		Subject:      pkix.Name{CommonName: l.name, Organization: l.groups},
		NotBefore:    time.Now().Add(-time.Minute),
		NotAfter:     time.Now().Add(leafDays * 24 * time.Hour),
		KeyUsage:     x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment,
	}
	for _, name := range l.names {
		if address := net.ParseIP(name); address != nil {
			template.IPAddresses = append(template.IPAddresses, address)
		} else {
			template.DNSNames = append(template.DNSNames, name)
		}
	}
	if l.client {
		template.ExtKeyUsage = append(template.ExtKeyUsage, x509.ExtKeyUsageClientAuth)
	}
	if l.serv {
		template.ExtKeyUsage = append(template.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, authorities[0], public, signer)
	if err != nil {
		return nil, err
	}
	content := pemOf("CERTIFICATE", der)
	for _, authority := range authorities {
		content = append(content, pemOf("CERTIFICATE", authority.Raw)...)
	}
	return content, nil
}

// makeAuthorities makes what all servers share, where it is not there.
func (l layout) makeAuthorities(provider string, encrypt bool) error {
	for base, name := range map[string]string{
		"client-ca": "k3s-client", "server-ca": "k3s-server", "request-header-ca": "k3s-request-header",
		"etcd/server-ca": "etcd-server", "etcd/peer-ca": "etcd-peer",
	} {
		if err := authority(l.tls(base), name); err != nil {
			return err
		}
	}
	if !exists(l.tls("service.key")) {
		key, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			return err
		}
		if err := writeFile(l.tls("service.key"), pemOf("RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(key)), 0o600); err != nil {
			return err
		}
	}
	if !exists(l.cred("ipsec.psk")) {
		if err := writeFile(l.cred("ipsec.psk"), []byte(randomHex(48)+"\n"), 0o600); err != nil {
			return err
		}
	}
	if encrypt {
		return l.makeEncryption(provider)
	}
	return nil
}

// makeEncryption writes what the apiserver encrypts Secrets with; what was stored before is read as it is.
func (l layout) makeEncryption(provider string) error {
	file := l.cred("encryption-config.json")
	if !exists(file) {
		if provider != "secretbox" && provider != "aescbc" {
			return fmt.Errorf("invalid secrets-encryption-provider %s", provider)
		}
		secret := make([]byte, 32)
		if _, err := rand.Read(secret); err != nil {
			return err
		}
		type object = map[string]any
		keys := object{"keys": []object{{"name": provider + "key", "secret": base64.StdEncoding.EncodeToString(secret)}}}
		content, err := json.Marshal(object{
			"kind": "EncryptionConfiguration", "apiVersion": "apiserver.config.k8s.io/v1",
			"resources": []object{{"resources": []string{"secrets"}, "providers": []object{{provider: keys}, {"identity": object{}}}}},
		})
		if err != nil {
			return err
		}
		if err := writeFile(file, content, 0o600); err != nil {
			return err
		}
	}
	if !exists(l.cred("encryption-state.json")) {
		hash, err := l.encryptionHash()
		if err != nil {
			return err
		}
		return writeFile(l.cred("encryption-state.json"), []byte(hash), 0o600)
	}
	return nil
}

func (l layout) encryptionHash() (string, error) {
	content, err := os.ReadFile(l.cred("encryption-config.json"))
	return fmt.Sprintf("start-%x", sha256.Sum256(content)), err
}

// makeServerFiles makes what is this server's own: its certificates and how its components reach the apiserver.
func (l layout) makeServerFiles(names []string, domain string) error {
	const masters = "system:masters"
	local := []string{"localhost", "127.0.0.1"}
	cluster := []string{"kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc." + domain}
	serving := slices.Concat(cluster, local, names)
	client, server, request := l.tls("client-ca"), l.tls("server-ca"), l.tls("request-header-ca")
	for base, leaf := range map[string]leaf{
		"client-admin":                                    {ca: client, name: "system:admin", groups: []string{masters}, client: true},
		"client-supervisor":                               {ca: client, name: "system:k3s-supervisor", groups: []string{masters}, client: true},
		"client-controller":                               {ca: client, name: "system:kube-controller-manager", client: true},
		"client-scheduler":                                {ca: client, name: "system:kube-scheduler", client: true},
		"client-kube-apiserver":                           {ca: client, name: "system:apiserver", groups: []string{masters}, client: true},
		"client-kube-proxy":                               {ca: client, name: "system:kube-proxy", client: true},
		"client-k3s-controller":                           {ca: client, name: "system:k3s-controller", client: true},
		"client-k3s-cloud-controller":                     {ca: client, name: "k3s-cloud-controller-manager", client: true},
		"client-auth-proxy":                               {ca: request, name: "system:auth-proxy", client: true},
		"serving-kube-apiserver":                          {ca: server, name: "kube-apiserver", names: serving, serv: true},
		"kube-controller-manager/kube-controller-manager": {ca: server, name: "kube-controller-manager", names: local, serv: true},
		"kube-scheduler/kube-scheduler":                   {ca: server, name: "kube-scheduler", names: local, serv: true},
		"etcd/client":                                     {ca: l.tls("etcd/server-ca"), name: "etcd-client", client: true},
		"etcd/server-client":                              {ca: l.tls("etcd/server-ca"), name: "etcd-server", names: slices.Concat(local, names), serv: true, client: true},
		"etcd/peer-server-client":                         {ca: l.tls("etcd/peer-ca"), name: "etcd-peer", names: slices.Concat(local, names), serv: true, client: true},
	} {
		if err := issue(l.tls(base), leaf); err != nil {
			return err
		}
	}
	// Who signs has one certificate and one key; the others of these files are for those who check.
	for from, to := range map[string]string{
		"client-ca.crt": "client-ca.nochain.crt", "server-ca.crt": "server-ca.nochain.crt", "service.key": "service.current.key",
	} {
		content, err := os.ReadFile(l.tls(from))
		if err != nil {
			return err
		}
		block, _ := pem.Decode(content)
		if block == nil {
			return fmt.Errorf("%s: holds neither a certificate nor a key", from)
		}
		if err := writeFile(l.tls(to), pem.EncodeToMemory(block), modeOf(to)); err != nil {
			return err
		}
	}
	for name, base := range map[string]string{
		"admin": "client-admin", "supervisor": "client-supervisor", "controller": "client-controller", "scheduler": "client-scheduler",
		"api-server": "client-kube-apiserver", "kube-proxy": "client-kube-proxy", "cloud-controller": "client-k3s-cloud-controller",
	} {
		content := kubeconfig("https://127.0.0.1:6443", "certificate-authority: "+l.tls("server-ca.crt"),
			"client-certificate: "+l.tls(base+".crt"), "client-key: "+l.tls(base+".key"))
		if err := writeFile(l.cred(name+".kubeconfig"), content, 0o600); err != nil {
			return err
		}
	}
	return nil
}

func kubeconfig(url, authority, certificate, key string) []byte {
	return []byte(fmt.Sprintf(`apiVersion: v1
kind: Config
clusters:
- cluster:
    %s
    server: %s
  name: default
contexts:
- context:
    cluster: default
    user: default
  name: default
current-context: default
users:
- name: default
  user:
    %s
    %s
`, authority, url, certificate, key))
}

// writeAdminConfig writes the kubeconfig of whoever administrates this cluster, which holds all it takes.
func (l layout) writeAdminConfig(file, mode string) error {
	var data []string
	for _, name := range []string{"server-ca.crt", "client-admin.crt", "client-admin.key"} {
		content, err := os.ReadFile(l.tls(name))
		if err != nil {
			return err
		}
		data = append(data, base64.StdEncoding.EncodeToString(content))
	}
	var permissions os.FileMode
	if _, err := fmt.Sscanf(mode, "%o", &permissions); err != nil {
		return fmt.Errorf("write-kubeconfig-mode %q: %w", mode, err)
	}
	content := kubeconfig("https://127.0.0.1:6443", "certificate-authority-data: "+data[0],
		"client-certificate-data: "+data[1], "client-key-data: "+data[2])
	if err := writeFile(file, content, permissions); err != nil {
		return err
	}
	return os.Chmod(file, permissions)
}

// token is what lets a machine join. The full form K10HASH::USER:PASSWORD also names the cluster that may be believed.
type token struct{ hash, user, password string }

func parseToken(word, user string) (token, error) {
	word = strings.TrimSpace(word)
	if word == "" {
		return token{}, errors.New("the token is empty")
	}
	full, found := strings.CutPrefix(word, "K10")
	if !found {
		return token{user: user, password: word}, nil
	}
	hash, rest, found := strings.Cut(full, "::")
	if !found || len(hash) != sha256.Size*2 {
		return token{}, errors.New("invalid token format")
	}
	if name, password, found := strings.Cut(rest, ":"); found {
		return token{hash, name, password}, nil
	}
	return token{hash, user, rest}, nil
}

// saidToken is the token of the settings, or undefined.
func saidToken(s settings, name, user string) (*token, error) {
	word := s.text(name, "")
	if file := s.text(name+"-file", ""); word == "" && file != "" {
		content, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		word = string(content)
		if strings.TrimSpace(word) == "" {
			return nil, fmt.Errorf("%s: the token is empty", file)
		}
	}
	if word == "" {
		return nil, nil
	}
	found, err := parseToken(word, user)
	return &found, err
}

// passwords of cred/passwd by their user.
func (l layout) passwords() (map[string]string, error) {
	found := map[string]string{}
	content, err := os.ReadFile(l.cred("passwd"))
	if errors.Is(err, os.ErrNotExist) {
		return found, nil
	}
	for _, line := range strings.Split(strings.TrimSpace(string(content)), "\n") {
		if fields := strings.Split(line, ","); len(fields) >= 2 {
			found[fields[1]] = fields[0]
		}
	}
	return found, err
}

// makeTokens writes who may join, as the settings say or else as it was, and the files that say so to others.
func (l layout) makeTokens(server, agent *token) error {
	found, err := l.passwords()
	if err != nil {
		return err
	}
	if server != nil {
		found["server"] = server.password
	} else if found["server"] == "" {
		found["server"] = randomHex(16)
	}
	found["node"] = found["server"]
	if agent != nil {
		found["node"] = agent.password
	}
	var content bytes.Buffer
	fmt.Fprintf(&content, "%s,node,k3s:agent,\n%s,server,k3s:server,\n", found["node"], found["server"])
	if err := writeFile(l.cred("passwd"), content.Bytes(), 0o600); err != nil {
		return err
	}
	ca, err := os.ReadFile(l.tls("server-ca.crt"))
	if err != nil {
		return err
	}
	full := func(user string) []byte {
		return []byte(fmt.Sprintf("K10%s::%s:%s\n", hashOf(ca), user, found[user]))
	}
	if err := writeFile(l.server("token"), full("server"), 0o600); err != nil {
		return err
	}
	links := []string{"node-token"}
	if agent == nil {
		links = append(links, "agent-token")
	} else if err := writeFile(l.server("agent-token"), full("node"), 0o600); err != nil {
		return err
	}
	for _, name := range links {
		if target, err := os.Readlink(l.server(name)); err == nil && target == l.server("token") {
			continue
		}
		if err := os.RemoveAll(l.server(name)); err != nil {
			return err
		}
		if err := os.Symlink(l.server("token"), l.server(name)); err != nil {
			return err
		}
	}
	return nil
}
