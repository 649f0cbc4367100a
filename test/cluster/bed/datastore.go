package main

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc/grpclog"
	"sigs.k8s.io/yaml"
)

const localEtcd = "https://127.0.0.1:2379"

var errOtherToken = errors.New("bootstrap data already found and encrypted with different token")

func init() {
	// A client that waits for etcd would say so a hundred times.
	grpclog.SetLoggerV2(grpclog.NewLoggerV2(discard{}, discard{}, discard{}))
}

type discard struct{}

func (discard) Write(words []byte) (int, error) { return len(words), nil }

// member is this server's part of etcd.
type member struct {
	layout
	name, address string
	extra         []string
	expose        bool
}

func (m member) peer() string { return "https://" + net.JoinHostPort(m.address, "2380") }

func memberOf(l layout, node, address string, s settings) (member, error) {
	m := member{layout: l, address: address, extra: s.list("etcd-arg"), expose: s.yes("etcd-expose-metrics")}
	if exists(filepath.Join(l.etcd(), "tombstone")) {
		logrus.Info("tombstone file has been detected, removing data dir to rejoin the cluster")
		if err := l.putAside(l.etcd()); err != nil {
			return m, err
		}
	}
	return m, m.rename(node, false)
}

// rename gives the member a name that no earlier one of this node had, unless it has one.
func (m *member) rename(node string, anew bool) error {
	file := filepath.Join(m.etcd(), "name")
	content, err := os.ReadFile(file)
	if err == nil && !anew {
		m.name = string(content)
		return nil
	}
	m.name = node + "-" + randomHex(4)
	return writeFile(file, []byte(m.name), 0o600)
}

func (m member) begun() bool { return exists(filepath.Join(m.etcd(), "member", "wal")) }

func (l layout) putAside(dir string) error {
	return os.Rename(dir, fmt.Sprintf("%s-old-%d", dir, time.Now().UnixNano()))
}

// configFile writes what etcd is told, as k3s tells it. `initial` says which members there are when it is new.
func (m member) configFile(initial, state string) (string, error) {
	clients, peers, metrics := localEtcd, "https://127.0.0.1:2380", "http://127.0.0.1:2381"
	if m.address != "127.0.0.1" {
		clients += ",https://" + net.JoinHostPort(m.address, "2379")
		peers += "," + m.peer()
	}
	if m.expose {
		metrics += ",http://" + net.JoinHostPort(m.address, "2381")
	}
	type object = map[string]any
	told := object{
		"name": m.name, "data-dir": m.etcd(),
		"listen-client-urls": clients, "listen-peer-urls": peers, "listen-metrics-urls": metrics,
		"listen-client-http-urls": "https://127.0.0.1:2382",
		"advertise-client-urls":   "https://" + net.JoinHostPort(m.address, "2379"),
		"client-transport-security": object{"client-cert-auth": true, "trusted-ca-file": m.tls("etcd/server-ca.crt"),
			"cert-file": m.tls("etcd/server-client.crt"), "key-file": m.tls("etcd/server-client.key")},
		"peer-transport-security": object{"client-cert-auth": true, "trusted-ca-file": m.tls("etcd/peer-ca.crt"),
			"cert-file": m.tls("etcd/peer-server-client.crt"), "key-file": m.tls("etcd/peer-server-client.key")},
		"snapshot-count": 10000, "heartbeat-interval": 500, "election-timeout": 5000,
		"logger": "zap", "log-outputs": []string{"stderr"}, "log-level": "warn",
		"feature-gates": "InitialCorruptCheck=true", "watch-progress-notify-interval": int64(5 * time.Second),
	}
	if initial != "" {
		told["initial-advertise-peer-urls"], told["initial-cluster"], told["initial-cluster-state"] = m.peer(), initial, state
	}
	for _, word := range m.extra {
		if name, value, given := strings.Cut(strings.TrimLeft(word, "-"), "="); given {
			told[name] = kindly(name, value)
		}
	}
	content, err := yaml.Marshal(told)
	if err != nil {
		return "", err
	}
	file := filepath.Join(m.etcd(), "config")
	return file, writeFile(file, content, 0o600)
}

// kindly is a value as k3s guesses its kind: etcd's file knows lengths of time as numbers only.
func kindly(name, value string) any {
	if number, err := strconv.Atoi(value); err == nil {
		return number
	}
	if length, err := time.ParseDuration(value); err == nil && lengths.MatchString(name) {
		return int64(length)
	}
	var list []string
	if err := yaml.Unmarshal([]byte(value), &list); err == nil {
		return list
	}
	switch strings.ToLower(value) {
	case "true":
		return true
	case "false":
		return false
	}
	return value
}

var lengths = regexp.MustCompile("(?i)time|duration|interval|retention")

// removal listens to etcd for the news that others have removed it.
type removal struct{ heard atomic.Bool }

func (r *removal) Write(words []byte) (int, error) {
	if bytes.Contains(words, []byte("the member has been permanently removed from the cluster")) {
		r.heard.Store(true)
	}
	return len(words), nil
}

func (m member) client(endpoints ...string) (*clientv3.Client, error) {
	certificate, err := tls.LoadX509KeyPair(m.tls("etcd/client.crt"), m.tls("etcd/client.key"))
	if err != nil {
		return nil, err
	}
	ca, err := os.ReadFile(m.tls("etcd/server-ca.crt"))
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	return clientv3.New(clientv3.Config{
		Endpoints: endpoints, DialTimeout: 3 * time.Second, Logger: zap.NewNop(),
		TLS: &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS12},
	})
}

// join makes this member known to the others, as a learner that has no vote yet. Returns all members as etcd wants them told.
func (m member) join(node string, others []*etcdserverpb.Member) (string, error) {
	var endpoints []string
	for _, other := range others {
		endpoints = append(endpoints, other.ClientURLs...)
	}
	client, err := m.client(endpoints...)
	if err != nil {
		return "", err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	found, err := client.MemberList(ctx)
	if err != nil {
		return "", fmt.Errorf("failed to list etcd members: %w", err)
	}
	var all []string
	add := true
	for _, other := range found.Members {
		name := other.Name
		if other.PeerURLs[0] == m.peer() && (name == "" || name == m.name) {
			name, add = m.name, false
		} else if at := strings.LastIndex(name, "-"); at > 0 && name[:at] == node {
			return "", errors.New("ETCD join failed: duplicate node name found, please use a unique name for this node")
		}
		all = append(all, name+"="+other.PeerURLs[0])
	}
	if add {
		logrus.Infof("Adding member %s=%s to etcd cluster %v", m.name, m.peer(), all)
		if _, err := client.MemberAddAsLearner(ctx, []string{m.peer()}); err != nil {
			return "", fmt.Errorf("ETCD join failed: %w", err)
		}
		all = append(all, m.name+"="+m.peer())
	}
	return strings.Join(all, ","), nil
}

// healthy is nil once this member answers and has a vote. The leader gives it one.
func (m member) healthy(client *clientv3.Client) error {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	status, err := client.Status(ctx, localEtcd)
	if err != nil {
		return err
	}
	if status.IsLearner {
		return errors.New("this server has not yet been promoted from learner to voting member")
	}
	// A member without a leader would answer this one, too.
	if status.Leader == 0 {
		return errors.New("etcd has no leader")
	}
	return nil
}

// promote gives a vote to the members that have none and know by now what the others know.
func (m member) promote(ctx context.Context, client *clientv3.Client, found *clientv3.MemberListResponse) {
	for _, other := range found.Members {
		if !other.IsLearner || other.Name == "" {
			continue
		}
		if _, err := client.MemberPromote(ctx, other.ID); err != nil {
			logrus.Debugf("Unable to promote learner %s: %v", other.Name, err)
			continue
		}
		logrus.Infof("Promoted learner %s", other.Name)
	}
}

// remove takes a member out, by its name and address.
func (m member) remove(client *clientv3.Client, name, address string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	found, err := client.MemberList(ctx)
	if err != nil {
		return err
	}
	for _, other := range found.Members {
		if other.Name == name && other.PeerURLs[0] == "https://"+net.JoinHostPort(address, "2380") {
			logrus.Infof("Removing name=%s id=%d address=%s from etcd", other.Name, other.ID, address)
			_, err := client.MemberRemove(ctx, other.ID)
			return err
		}
	}
	return nil
}

// Under this key the datastore keeps what a server needs that has nothing but the token.
func bootstrapKey(password string) string {
	return fmt.Sprintf("/bootstrap/%x", sha256.Sum256([]byte(password)))[:len("/bootstrap/")+12]
}

func sealer(password, salt string) (cipher.AEAD, error) {
	key, err := pbkdf2.Key(sha1.New, password, []byte(salt), 4096, 32)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

func seal(password string, plain []byte) (string, error) {
	salt := randomHex(8)
	gcm, err := sealer(password, salt)
	if err != nil {
		return "", err
	}
	nonce := make([]byte, gcm.NonceSize())
	if _, err := rand.Read(nonce); err != nil {
		return "", err
	}
	return salt + ":" + base64.StdEncoding.EncodeToString(gcm.Seal(nonce, nonce, plain, nil)), nil
}

func unseal(password, sealed string) ([]byte, error) {
	salt, encoded, found := strings.Cut(sealed, ":")
	content, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil || !found {
		return nil, errors.New("the bootstrap data is no sealed text")
	}
	gcm, err := sealer(password, salt)
	if err != nil {
		return nil, err
	}
	if len(content) < gcm.NonceSize() {
		return nil, errors.New("the bootstrap data is too short")
	}
	return gcm.Open(nil, content[:gcm.NonceSize()], content[gcm.NonceSize():], nil)
}

// loadBootstrap reads what the datastore keeps for whoever has the token; nil when it keeps nothing at all.
func loadBootstrap(client *clientv3.Client, password string) (map[string]kept, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	found, err := client.Get(ctx, "/bootstrap/", clientv3.WithPrefix())
	if err != nil || len(found.Kvs) == 0 {
		return nil, err
	}
	for _, pair := range found.Kvs {
		if string(pair.Key) != bootstrapKey(password) {
			continue
		}
		plain, err := unseal(password, string(pair.Value))
		if err != nil {
			return nil, err
		}
		var files map[string]kept
		return files, json.Unmarshal(plain, &files)
	}
	return nil, errOtherToken
}

// saveBootstrap keeps in the datastore what lies on this disk, unless it has something.
func (l layout) saveBootstrap(client *clientv3.Client, password string) error {
	known, err := loadBootstrap(client, password)
	if err != nil || known != nil {
		return err
	}
	files, err := l.readKept()
	if err != nil {
		return err
	}
	return storeBootstrap(client, password, files)
}

// storeBootstrap puts it in the place of what the datastore has under this token.
func storeBootstrap(client *clientv3.Client, password string, files map[string]kept) error {
	plain, err := json.Marshal(files)
	if err != nil {
		return err
	}
	sealed, err := seal(password, plain)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	logrus.Info("Saving cluster bootstrap data to datastore")
	_, err = client.Put(ctx, bootstrapKey(password), sealed)
	return err
}

// reconcile brings the files of a server that has been one before to what the datastore has: from the server that it has joined, or
// from its own etcd.
func (m member) reconcile(children *processes, stop <-chan os.Signal, server string, said token) error {
	if server != "" {
		var files map[string]kept
		other, err := knock(server, said)
		if err == nil {
			err = other.ask("/v1-k3s/server-bootstrap", nil, &files)
		}
		if err == nil {
			return m.reconciled(files)
		}
		logrus.Warnf("Unable to reconcile with remote datastore: %v", err)
	}
	return m.recover(children, stop, said.password, false)
}

// recover starts etcd alone and unseen, only to take out of it what this disk has not. `force` makes it its only member for good.
func (m member) recover(children *processes, stop <-chan os.Signal, password string, force bool) error {
	logrus.Info("Starting temporary etcd to reconcile with datastore")
	dir := m.etcd()
	if !force {
		// It may be one of several: what is done here must not be done to them.
		dir = m.etcd() + "-tmp"
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
		if err := os.CopyFS(dir, os.DirFS(m.etcd())); err != nil {
			return err
		}
		defer os.RemoveAll(dir)
	}
	const clients, peers = "http://127.0.0.1:2399", "http://127.0.0.1:2400"
	peer := peers
	if force {
		peer = m.peer()
	}
	child, err := children.run("etcd", []string{
		"--name=" + m.name, "--data-dir=" + dir, "--force-new-cluster", "--logger=zap", "--log-outputs=stderr", "--log-level=warn",
		"--listen-client-urls=" + clients, "--advertise-client-urls=" + clients,
		"--listen-peer-urls=" + peers, "--initial-advertise-peer-urls=" + peer, "--initial-cluster=" + m.name + "=" + peer,
	})
	if err != nil {
		return err
	}
	defer child.stop()
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{clients}, DialTimeout: 3 * time.Second, Logger: zap.NewNop()})
	if err != nil {
		return err
	}
	defer client.Close()
	ctx := context.Background()
	if err := children.wait("temporary etcd", stop, func() error {
		ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
		defer cancel()
		_, err := client.Get(ctx, "health")
		return err
	}); err != nil {
		return err
	}
	files, err := loadBootstrap(client, password)
	if err != nil {
		return err
	}
	if files == nil && !exists(m.tls("server-ca.crt")) {
		return errors.New("no bootstrap data found")
	}
	if force {
		// The node may have another address than the one whose data this was.
		found, err := client.MemberList(ctx)
		if err != nil {
			return err
		}
		if _, err := client.MemberUpdate(ctx, found.Members[0].ID, []string{m.peer()}); err != nil {
			return err
		}
	}
	if force || !exists(m.tls("server-ca.crt")) {
		return m.writeShared(files)
	}
	return m.reconciled(files)
}
