package main

import (
	"archive/zip"
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"sort"
	"strconv"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/sirupsen/logrus"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	apiserverconfig "k8s.io/apiserver/pkg/apis/apiserver/v1"
)

// Which k3s this is; the build says so, see version().
var bedVersion = "v1.36.3+k3s1"

// version of this k3s: what FK_BED_VERSION says, or a file beside the program whose name ends in .version, or the directory it lies
// in, as in /opt/k3s/v1.36.3+k3s1/k3s: so that one build can be an older and a newer one.
func version() string {
	if said := os.Getenv("FK_BED_VERSION"); said != "" {
		return said
	}
	if program, err := os.Executable(); err == nil {
		if content, err := os.ReadFile(program + ".version"); err == nil {
			return strings.TrimSpace(string(content))
		}
		if dir := filepath.Base(filepath.Dir(program)); regexp.MustCompile(`^v\d+\.\d+\.\d+\+k3s\d+$`).MatchString(dir) {
			return dir
		}
	}
	return bedVersion
}

func k3s(words []string) int {
	logrus.SetOutput(os.Stderr)
	logrus.SetFormatter(&logrus.TextFormatter{DisableColors: true, FullTimestamp: true})
	if err := dispatch(words); err != nil {
		var ended stopped
		if errors.As(err, &ended) {
			logrus.Info(err)
			return 0
		}
		logrus.StandardLogger().Log(logrus.FatalLevel, err)
		return 1
	}
	return 0
}

func dispatch(words []string) error {
	if len(words) == 0 {
		return errors.New("say a command: server, agent, kubectl, etcd-snapshot, secrets-encrypt or certificate")
	}
	switch words[0] {
	case "--version", "-v":
		fmt.Printf("k3s version %s (bed)\n", version())
		return nil
	case "kubectl":
		return becomeKubectl(words[1:])
	case "crictl":
		return crictl(words[1:])
	case "server", "agent", "etcd-snapshot", "secrets-encrypt", "certificate":
		s, rest, err := readSettings(words[0], words[1:])
		if err != nil {
			return err
		}
		if os.Geteuid() != 0 {
			return errors.New("must run as root")
		}
		return map[string]func(settings, []string) error{
			"server":        func(s settings, rest []string) error { return nothing(rest, runServer(s)) },
			"agent":         func(s settings, rest []string) error { return nothing(rest, runAgent(s)) },
			"etcd-snapshot": snapshot, "secrets-encrypt": secretsEncrypt, "certificate": certificate,
		}[words[0]](s, rest)
	}
	return fmt.Errorf("No help topic for '%s'", words[0])
}

func nothing(rest []string, err error) error {
	if len(rest) > 0 {
		return fmt.Errorf("unexpected argument %s", rest[0])
	}
	return err
}

func becomeKubectl(words []string) error {
	if os.Getenv("KUBECONFIG") == "" {
		if err := os.Setenv("KUBECONFIG", "/etc/rancher/k3s/k3s.yaml"); err != nil {
			return err
		}
	}
	return syscall.Exec("/proc/self/exe", append([]string{"kubectl"}, words...), os.Environ())
}

// reset is `k3s server --cluster-reset`: this member alone remains, with what a snapshot holds if one is named.
func reset(l layout, s settings, children *processes, stop <-chan os.Signal, node, address string, said *token) error {
	flag, file := l.server("db", "reset-flag"), s.text("cluster-reset-restore-path", "")
	if exists(flag) && file == "" {
		return fmt.Errorf("Managed etcd cluster membership was previously reset, please remove the cluster-reset flag and start k3s normally. If you need to perform another cluster reset, you must first manually delete the file at %s", flag)
	}
	if said == nil {
		content, err := os.ReadFile(l.server("token"))
		if err != nil {
			return fmt.Errorf("failed to read the token: %w", err)
		}
		found, err := parseToken(string(content), "server")
		if err != nil {
			return err
		}
		said = &found
	}
	m := member{layout: l, address: address}
	if file != "" {
		if info, err := os.Stat(file); err != nil {
			return fmt.Errorf("etcd: snapshot path does not exist: %s", file)
		} else if info.IsDir() {
			return fmt.Errorf("etcd: snapshot path must be a file, not a directory: %s", file)
		}
		if exists(l.etcd()) {
			if err := l.putAside(l.etcd()); err != nil {
				return err
			}
		}
		if err := os.MkdirAll(l.server("db"), 0o700); err != nil {
			return err
		}
		plain, err := unzipped(file, l.server("db"))
		if err != nil {
			return err
		}
		if plain != file {
			defer os.Remove(plain)
		}
		// etcdutl makes the directory itself, and wants none.
		m.name = node + "-" + randomHex(4)
		if err := tool("etcdutl", nil, "snapshot", "restore", plain, "--data-dir="+l.etcd(), "--name="+m.name,
			"--initial-cluster="+m.name+"="+m.peer(), "--initial-advertise-peer-urls="+m.peer()); err != nil {
			return err
		}
		if err := writeFile(filepath.Join(l.etcd(), "name"), []byte(m.name), 0o600); err != nil {
			return err
		}
	} else if !m.begun() {
		return fmt.Errorf("there is no etcd at %s to reset", l.etcd())
	} else if err := m.rename(node, false); err != nil {
		return err
	}
	if err := m.recover(children, stop, said.password, true); err != nil {
		return err
	}
	if err := writeFile(flag, nil, 0o600); err != nil {
		return err
	}
	logrus.Info("Managed etcd cluster membership has been reset, restart without --cluster-reset flag now. Backup and delete ${datadir}/server/db on each peer etcd server and rejoin the nodes")
	return nil
}

// tool runs one of etcd's own tools and returns when it has ended.
func tool(name string, more []string, words ...string) error {
	command := exec.Command("/proc/self/exe")
	command.Args = append([]string{name}, words...)
	command.Env = append(os.Environ(), more...)
	said, err := command.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", name, err, strings.TrimSpace(string(said)))
	}
	return nil
}

func unzipped(file, dir string) (string, error) {
	if !strings.HasSuffix(file, ".zip") {
		return file, nil
	}
	archive, err := zip.OpenReader(file)
	if err != nil {
		return "", fmt.Errorf("%s: %w", file, err)
	}
	defer archive.Close()
	if len(archive.File) != 1 {
		return "", fmt.Errorf("%s: holds %d files, not one snapshot", file, len(archive.File))
	}
	from, err := archive.File[0].Open()
	if err != nil {
		return "", err
	}
	defer from.Close()
	plain := filepath.Join(dir, strings.TrimSuffix(filepath.Base(file), ".zip"))
	to, err := os.OpenFile(plain, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return "", err
	}
	defer to.Close()
	_, err = io.Copy(to, from)
	return plain, err
}

func zipped(file string) (string, error) {
	to, err := os.OpenFile(file+".zip", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return "", err
	}
	defer to.Close()
	archive := zip.NewWriter(to)
	entry, err := archive.Create(filepath.Base(file))
	if err != nil {
		return "", err
	}
	from, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer from.Close()
	if _, err := io.Copy(entry, from); err != nil {
		return "", err
	}
	if err := archive.Close(); err != nil {
		return "", err
	}
	return file + ".zip", os.Remove(file)
}

// snapshot is `k3s etcd-snapshot save | ls | prune`, of the etcd of this server.
func snapshot(s settings, rest []string) error {
	l, err := layoutOf(s)
	if err != nil {
		return err
	}
	node, err := nodeName(s)
	if err != nil {
		return err
	}
	dir := s.text("dir", s.text("etcd-snapshot-dir", l.server("db", "snapshots")))
	name := s.text("name", "")
	if len(rest) == 0 {
		rest = []string{"save"}
	}
	switch rest[0] {
	case "save":
		if name == "" {
			name = "on-demand"
		}
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
		file := filepath.Join(dir, fmt.Sprintf("%s-%s-%d", name, node, time.Now().Unix()))
		if err := tool("etcdctl", nil, "--endpoints="+localEtcd, "--cacert="+l.tls("etcd/server-ca.crt"), "--cert="+l.tls("etcd/client.crt"),
			"--key="+l.tls("etcd/client.key"), "snapshot", "save", file); err != nil {
			return err
		}
		if s.yes("etcd-snapshot-compress") || s.yes("snapshot-compress") {
			if file, err = zipped(file); err != nil {
				return err
			}
		}
		if err := os.Chmod(file, 0o600); err != nil {
			return err
		}
		logrus.Infof("Snapshot %s saved.", filepath.Base(file))
		return nil
	case "ls", "list", "l":
		found, err := snapshots(dir, "")
		if err != nil {
			return err
		}
		table := tabwriter.NewWriter(os.Stdout, 0, 0, 1, ' ', 0)
		fmt.Fprintln(table, "Name\tLocation\tSize\tCreated")
		for _, info := range found {
			fmt.Fprintf(table, "%s\tfile://%s\t%d\t%s\n", info.Name(), filepath.Join(dir, info.Name()), info.Size(), info.ModTime().UTC().Format(time.RFC3339))
		}
		return table.Flush()
	case "prune", "p":
		if name == "" {
			name = s.text("etcd-snapshot-name", "etcd-snapshot")
		}
		keep, err := strconv.Atoi(s.text("snapshot-retention", s.text("etcd-snapshot-retention", "5")))
		if err != nil {
			return err
		}
		found, err := snapshots(dir, name+"-"+node+"-")
		if err != nil {
			return err
		}
		for _, info := range found[:max(0, len(found)-keep)] {
			logrus.Infof("Removing local snapshot %s", info.Name())
			if err := os.Remove(filepath.Join(dir, info.Name())); err != nil {
				return err
			}
		}
		return nil
	}
	return fmt.Errorf("No help topic for '%s'", rest[0])
}

// snapshots of a directory, the oldest first.
func snapshots(dir, prefix string) ([]os.FileInfo, error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !os.IsNotExist(err) {
		return nil, err
	}
	var found []os.FileInfo
	for _, entry := range entries {
		info, err := entry.Info()
		if err != nil {
			return nil, err
		}
		if strings.HasPrefix(info.Name(), prefix) && !info.IsDir() {
			found = append(found, info)
		}
	}
	sort.SliceStable(found, func(i, j int) bool { return found[i].ModTime().Before(found[j].ModTime()) })
	return found, nil
}

// secretsEncrypt is `k3s secrets-encrypt status`: whether Secrets are encrypted, and whether all servers do it with the same keys.
func secretsEncrypt(s settings, rest []string) error {
	l, err := layoutOf(s)
	if err != nil {
		return err
	}
	if len(rest) != 1 || rest[0] != "status" {
		return fmt.Errorf("this program knows status only, not %v", rest)
	}
	if !exists(l.cred("encryption-config.json")) {
		fmt.Println("Encryption Status: Disabled, no configuration file found")
		return nil
	}
	content, err := os.ReadFile(l.cred("encryption-config.json"))
	if err != nil {
		return err
	}
	var config apiserverconfig.EncryptionConfiguration
	if err := json.Unmarshal(content, &config); err != nil {
		return err
	}
	var types, names []string
	for _, provider := range config.Resources[0].Providers {
		switch {
		case provider.Secretbox != nil:
			for _, key := range provider.Secretbox.Keys {
				types, names = append(types, "XSalsa20-POLY1305"), append(names, key.Name)
			}
		case provider.AESCBC != nil:
			for _, key := range provider.AESCBC.Keys {
				types, names = append(types, "AES-CBC"), append(names, key.Name)
			}
		}
	}
	state, err := os.ReadFile(l.cred("encryption-state.json"))
	if err != nil {
		return err
	}
	stage, _, _ := strings.Cut(string(state), "-")
	different, err := otherHashes(l)
	if err != nil {
		return fmt.Errorf("see server log for details: %w", err)
	}
	enabled := config.Resources[0].Providers[0].Identity == nil
	if s.text("output", "text") == "json" {
		for i, name := range names {
			names[i] = types[i] + " " + name
		}
		said := map[string]any{"stage": stage, "enable": enabled, "hashmatch": len(different) == 0, "activekey": names[0]}
		if len(different) > 0 {
			said["hasherror"] = strings.Join(different, ", ")
		}
		if len(names) > 1 {
			said["inactivekeys"] = names[1:]
		}
		text, err := json.MarshalIndent(said, "", "\t")
		fmt.Println(string(text))
		return err
	}
	status, hashes := "Disabled", "All hashes match"
	if enabled {
		status = "Enabled"
	}
	if len(different) > 0 {
		hashes = "hash does not match between " + strings.Join(different, ", ")
	}
	fmt.Printf("Encryption Status: %s\nCurrent Rotation Stage: %s\nServer Encryption Hashes: %s\n\n", status, stage, hashes)
	table := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprint(table, "Active\tKey Type\tName\n------\t--------\t----\n")
	for i, name := range names {
		fmt.Fprintf(table, "%s\t%s\t%s\n", map[bool]string{true: " *"}[i == 0 && enabled], types[i], name)
	}
	return table.Flush()
}

// otherHashes names the servers that encrypt with other keys than this one.
func otherHashes(l layout) ([]string, error) {
	own, err := l.encryptionHash()
	if err != nil {
		return nil, err
	}
	kube, err := clientOf(l.cred("supervisor.kubeconfig"))
	if err != nil {
		return nil, err
	}
	nodes, err := kube.CoreV1().Nodes().List(context.Background(), metav1.ListOptions{LabelSelector: controlPlaneLabel + "=true"})
	if err != nil {
		return nil, err
	}
	var different []string
	for _, node := range nodes.Items {
		if node.Annotations[hashAnnotation] != own {
			different = append(different, node.Name)
		}
	}
	return different, nil
}

// certificate is `k3s certificate check`: until when each certificate holds.
func certificate(s settings, rest []string) error {
	l, err := layoutOf(s)
	if err != nil {
		return err
	}
	if len(rest) == 1 && rest[0] == "rotate-ca" {
		return l.sendAuthorities(s)
	}
	if len(rest) != 1 || rest[0] != "check" {
		return fmt.Errorf("this program knows check and rotate-ca only, not %v", rest)
	}
	type line struct {
		Filename, Subject, Issuer string
		Usages                    []string
		ExpiryTime                time.Time
		ResidualTime              time.Duration
		Status                    string
	}
	var lines []line
	for _, dir := range []string{l.server("tls"), l.agent()} {
		err := filepath.WalkDir(dir, func(file string, entry os.DirEntry, err error) error {
			if err != nil || entry.IsDir() || !strings.HasSuffix(file, ".crt") {
				return err
			}
			found, err := certificatesOf(file)
			if err != nil {
				return err
			}
			for _, certificate := range found {
				status, left := "OK", time.Until(certificate.NotAfter)
				if left < 0 {
					status = "EXPIRED"
				} else if left < renewDays*24*time.Hour {
					status = "WARNING"
				}
				lines = append(lines, line{filepath.Base(file), certificate.Subject.CommonName, certificate.Issuer.CommonName,
					usages(certificate), certificate.NotAfter, left, status})
			}
			return nil
		})
		if err != nil && !os.IsNotExist(err) {
			return err
		}
	}
	switch s.text("output", "text") {
	case "json":
		return json.NewEncoder(os.Stdout).Encode(map[string]any{"Certificates": lines})
	case "table":
		table := tabwriter.NewWriter(os.Stdout, 0, 0, 3, ' ', 0)
		fmt.Fprint(table, "\nFILENAME\tSUBJECT\tUSAGES\tEXPIRES\tRESIDUAL TIME\tSTATUS\n--------\t-------\t------\t-------\t-------------\t------\n")
		for _, l := range lines {
			fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%d days\t%s\n", l.Filename, l.Subject, strings.Join(l.Usages, ","),
				l.ExpiryTime.Format("Jan 02, 2006 15:04 MST"), int(l.ResidualTime.Hours()/24), l.Status)
		}
		return table.Flush()
	case "text":
		for _, l := range lines {
			logrus.Infof("%s: certificate %s (%s) is %s, expires at %s", l.Filename, l.Subject, strings.Join(l.Usages, ","), l.Status, l.ExpiryTime.Format(time.RFC3339))
		}
		return nil
	}
	return fmt.Errorf("invalid output format %s", s.text("output", ""))
}

func usages(certificate *x509.Certificate) []string {
	var found []string
	if certificate.IsCA {
		found = append(found, "CertSign")
	}
	for _, usage := range certificate.ExtKeyUsage {
		switch usage {
		case x509.ExtKeyUsageClientAuth:
			found = append(found, "ClientAuth")
		case x509.ExtKeyUsageServerAuth:
			found = append(found, "ServerAuth")
		}
	}
	return found
}
