package main

import (
	"io"
	"net"
	"net/url"
	"strings"

	"github.com/sirupsen/logrus"
)

// k3s gives every node the API at this address: a server its own, an agent a balancer over the servers. Programs that must reach the
// API before any Service does, such as a network plug-in, have it from there. (pkg/agent/loadbalancer of k3s)
const loopbackAPI = "127.0.0.1:6444"

// balance passes what comes to loopbackAPI on to a server: this one, or the one that the agent has joined.
func balance(s settings, address string) error {
	to := net.JoinHostPort(address, "6443")
	if server, err := url.Parse(s.text("server", "")); err == nil && server.Host != "" {
		to = net.JoinHostPort(strings.Trim(server.Hostname(), "[]"), "6443")
	}
	listener, err := net.Listen("tcp", loopbackAPI)
	if err != nil {
		return err
	}
	logrus.Infof("%s leads to %s", loopbackAPI, to)
	go func() {
		for {
			from, err := listener.Accept()
			if err != nil {
				return
			}
			go pass(from, to)
		}
	}()
	return nil
}

func pass(from net.Conn, address string) {
	defer from.Close()
	to, err := net.Dial("tcp", address)
	if err != nil {
		return
	}
	defer to.Close()
	go func() {
		_, _ = io.Copy(to, from)
		_ = to.(*net.TCPConn).CloseWrite()
	}()
	_, _ = io.Copy(from, to)
}
