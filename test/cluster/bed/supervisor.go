package main

import (
	"bytes"
	"context"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/sirupsen/logrus"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/crypto/scrypt"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// Where a server tells others what they need to join; k3s does so on 6443, beside the apiserver.
const supervisorPort = "9345"

// supervisor answers those who have the token.
type supervisor struct {
	layout
	etcd *clientv3.Client
	kube kubernetes.Interface
}

// entry is what a node says to be let in, and what it is given.
type entry struct{ Node, Password, Address string }
type entrance struct {
	ClientCA, ServerCA      []byte
	ClientCert, ClientKey   []byte
	ServingCert, ServingKey []byte
	Servers                 []string
}

// listen answers on every address of this node until it ends.
func (s supervisor) listen() error {
	mux := http.NewServeMux()
	mux.HandleFunc("/ping", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "pong") })
	mux.HandleFunc("/cacerts", func(w http.ResponseWriter, r *http.Request) { http.ServeFile(w, r, s.tls("server-ca.crt")) })
	mux.HandleFunc("/v1-k3s/server-bootstrap", s.only("server", func(*http.Request) (any, error) { return s.readKept() }))
	mux.HandleFunc("/db/info", s.only("server", func(r *http.Request) (any, error) {
		found, err := s.etcd.MemberList(r.Context())
		if err != nil {
			return nil, err
		}
		return found.Members, nil
	}))
	mux.HandleFunc("/v1-k3s/node", s.only("node", s.enter))
	mux.HandleFunc("/v1-k3s/cert/cacerts", s.only("server", s.replaceAuthorities))
	certificate, err := tls.LoadX509KeyPair(s.tls("serving-kube-apiserver.crt"), s.tls("serving-kube-apiserver.key"))
	if err != nil {
		return err
	}
	listener, err := tls.Listen("tcp", ":"+supervisorPort, &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS12})
	if err != nil {
		return err
	}
	go func() { logrus.Fatalf("supervisor: %v", http.Serve(listener, mux)) }()
	return nil
}

// only lets in who has the password of that user; a server may do what a node may.
func (s supervisor) only(user string, answer func(*http.Request) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		known, err := s.passwords()
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		name, password, _ := r.BasicAuth()
		right := known[name] != "" && subtle.ConstantTimeCompare([]byte(known[name]), []byte(password)) == 1
		if !right || (name != user && name != "server") {
			http.Error(w, "Unauthorized", http.StatusUnauthorized)
			return
		}
		found, err := answer(r)
		var refused refusal
		if errors.As(err, &refused) {
			http.Error(w, err.Error(), http.StatusForbidden)
		} else if err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
		} else if err := json.NewEncoder(w).Encode(found); err != nil {
			logrus.Warnf("supervisor: %v", err)
		}
	}
}

type refusal struct{ error }

func (s supervisor) enter(r *http.Request) (any, error) {
	var said entry
	if err := json.NewDecoder(r.Body).Decode(&said); err != nil {
		return nil, refusal{err}
	}
	return s.admit(r.Context(), said)
}

// admit gives a node its certificates, if it is the one that first came under this name.
func (s supervisor) admit(ctx context.Context, said entry) (*entrance, error) {
	if err := s.checkPassword(ctx, said); err != nil {
		logrus.Errorf("Failed to admit node %s: %v", said.Node, err)
		return nil, err
	}
	found, err := s.etcd.MemberList(ctx)
	if err != nil {
		return nil, err
	}
	given := &entrance{}
	for _, member := range found.Members {
		if address, err := url.Parse(member.PeerURLs[0]); err == nil && !member.IsLearner {
			given.Servers = append(given.Servers, address.Hostname())
		}
	}
	for _, side := range []struct {
		ca        string
		authority *[]byte
		cert, key *[]byte
		leaf      leaf
	}{
		{"client-ca", &given.ClientCA, &given.ClientCert, &given.ClientKey,
			leaf{name: "system:node:" + said.Node, groups: []string{"system:nodes"}, client: true}},
		{"server-ca", &given.ServerCA, &given.ServingCert, &given.ServingKey,
			leaf{name: said.Node, names: []string{said.Node, "localhost", "127.0.0.1", said.Address}, serv: true}},
	} {
		authorities, err := certificatesOf(s.tls(side.ca + ".crt"))
		if err != nil {
			return nil, err
		}
		signer, err := keyOf(s.tls(side.ca + ".key"))
		if err != nil {
			return nil, err
		}
		key, pem, err := newKey()
		if err != nil {
			return nil, err
		}
		if *side.cert, err = sign(side.leaf, key.Public(), authorities, signer); err != nil {
			return nil, err
		}
		*side.key = pem
		if *side.authority, err = os.ReadFile(s.tls(side.ca + ".crt")); err != nil {
			return nil, err
		}
	}
	return given, nil
}

// checkPassword holds a node to the password that it came with first, of which a Secret keeps the hash.
func (s supervisor) checkPassword(ctx context.Context, said entry) error {
	if said.Node == "" || said.Password == "" {
		return refusal{errors.New("node name or node password not set")}
	}
	name := strings.ToLower(said.Node) + ".node-password.k3s"
	secrets := s.kube.CoreV1().Secrets("kube-system")
	found, err := secrets.Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		hash, err := hashPassword(said.Password, randomHex(8))
		if err != nil {
			return err
		}
		immutable := true
		_, err = secrets.Create(ctx, &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Name: name}, Immutable: &immutable, Data: map[string][]byte{"hash": []byte(hash)},
		}, metav1.CreateOptions{})
		return err
	} else if err != nil {
		return err
	}
	kept := strings.Split(string(found.Data["hash"]), ":")
	if len(kept) != 6 {
		return refusal{fmt.Errorf("unable to locate hash data for node secret '%s'", name)}
	}
	hash, err := hashPassword(said.Password, kept[1])
	if err != nil {
		return err
	}
	if subtle.ConstantTimeCompare([]byte(hash), found.Data["hash"]) != 1 {
		return refusal{errors.New("Node password rejected, duplicate hostname or contents of '/etc/rancher/node/password' may not match server node-passwd entry, try enabling a unique node name with the --with-node-id flag")}
	}
	return nil
}

func hashPassword(password, salt string) (string, error) {
	raw, err := hex.DecodeString(salt)
	if err != nil {
		return "", err
	}
	key, err := scrypt.Key([]byte(password), raw, 1<<15, 8, 1, 64)
	return fmt.Sprintf("$1:%s:15:8:1:%s", salt, base64.RawStdEncoding.EncodeToString(key)), err
}

// door is another server, seen from outside: believed only if it is the cluster that the token names.
type door struct {
	base   string
	token  token
	client *http.Client
	// What the token's hash proves.
	ca []byte
}

func knock(server string, t token) (*door, error) {
	address, err := url.Parse(server)
	if err != nil || address.Scheme != "https" || address.Hostname() == "" {
		return nil, fmt.Errorf("invalid server url %q: use https://ADDRESS:6443", server)
	}
	d := &door{base: "https://" + net.JoinHostPort(address.Hostname(), supervisorPort), token: t}
	// Whoever answers: the token says below whether it is the right one.
	blind := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true},
	}}
	answer, err := blind.Get(d.base + "/cacerts")
	if err != nil {
		return nil, fmt.Errorf("failed to get CA certs: %w", err)
	}
	defer answer.Body.Close()
	if d.ca, err = io.ReadAll(answer.Body); err != nil {
		return nil, err
	}
	if hash := hashOf(d.ca); t.hash == "" {
		logrus.Warn("Cluster CA certificate is not trusted by the host CA bundle, but the token does not include a CA hash. Use the full token from the server's node-token file to enable Cluster CA validation.")
	} else if hash != t.hash {
		return nil, fmt.Errorf("token CA hash does not match the Cluster CA certificate hash: %s != %s", t.hash, hash)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(d.ca) {
		return nil, errors.New("what answers has no CA certificate")
	}
	d.client = &http.Client{Timeout: 5 * time.Minute, Transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12},
	}}
	return d, nil
}

// ask sends `said`, if anything, and reads the answer into `answer`.
func (d door) ask(at string, said, answer any) error {
	method, body := http.MethodGet, []byte(nil)
	if said != nil {
		method = http.MethodPost
		var err error
		if body, err = json.Marshal(said); err != nil {
			return err
		}
	}
	request, err := http.NewRequest(method, d.base+at, bytes.NewReader(body))
	if err != nil {
		return err
	}
	request.SetBasicAuth(d.token.user, d.token.password)
	response, err := d.client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	content, err := io.ReadAll(response.Body)
	switch {
	case err != nil:
		return err
	case response.StatusCode == http.StatusUnauthorized:
		return refusal{fmt.Errorf("failed to validate token: %s: 401 Unauthorized", d.base+at)}
	case response.StatusCode == http.StatusForbidden:
		return refusal{errors.New(strings.TrimSpace(string(content)))}
	case response.StatusCode != http.StatusOK:
		return fmt.Errorf("%s: %s: %s", d.base+at, response.Status, strings.TrimSpace(string(content)))
	}
	return json.Unmarshal(content, answer)
}

func (d door) members() ([]*etcdserverpb.Member, error) {
	var found []*etcdserverpb.Member
	return found, d.ask("/db/info", nil, &found)
}
