// What runs in the pods of the node tier, one static program without a shell:
//
//	pause                   what holds a pod together
//	http [PORT...]          answers with the pod's name (/), its health (/healthz) and what it was sent (/echo); /sicken makes it ill;
//	                        ADDRESS:PORT is one address only, udp/PORT sends back what comes
//	get URL [SECONDS]       one request, its answer on standard output
//	stream URL SECONDS      one connection, a request every tenth of a second; says how many were answered
//	lookup NAME             the addresses of a name
//	tcp ADDRESS [SECONDS]   one connection
//	try SECONDS [FLOW...]   all of them at once: tcp/HOST:PORT, udp/HOST:PORT, icmp/HOST, name/NAME; a line for each, with what came of it
//	fill MEGABYTES          takes so much memory
//	write FILE TEXT, cat FILE..., id, sleep
//
// A request that is not answered ends it with 1.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

func main() {
	words := os.Args[1:]
	word := func(i int, otherwise string) string {
		if i < len(words) {
			return words[i]
		}
		return otherwise
	}
	switch word(0, "") {
	case "pause":
		pause()
	case "sleep":
		time.Sleep(24 * time.Hour)
	case "http":
		if len(words) == 1 {
			words = append(words, "8080")
		}
		serve(words[1:])
	case "get":
		answer, err := (&http.Client{Timeout: seconds(word(2, "5"))}).Get(word(1, ""))
		must(err)
		_, err = io.Copy(os.Stdout, answer.Body)
		must(err)
		if answer.StatusCode >= 400 {
			must(fmt.Errorf("%s", answer.Status))
		}
	case "stream":
		stream(word(1, ""), seconds(word(2, "10")))
	case "lookup":
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		found, err := (&net.Resolver{PreferGo: true}).LookupHost(ctx, word(1, ""))
		must(err)
		fmt.Println(found)
	case "tcp":
		connection, err := net.DialTimeout("tcp", word(1, ""), seconds(word(2, "5")))
		must(err)
		fmt.Println(connection.RemoteAddr())
	case "try":
		try(seconds(word(1, "")), words[2:])
	case "fill":
		megabytes, err := strconv.Atoi(word(1, ""))
		must(err)
		taken := make([]byte, megabytes<<20)
		for i := range taken {
			taken[i] = 1
		}
		time.Sleep(24 * time.Hour)
		fmt.Println(len(taken))
	case "cat":
		for _, file := range words[1:] {
			content, err := os.ReadFile(file)
			must(err)
			_, err = os.Stdout.Write(content)
			must(err)
		}
	case "id":
		fmt.Println(os.Getuid(), os.Getgid())
	case "write":
		must(os.WriteFile(word(1, ""), []byte(word(2, "")), 0o644))
	default:
		must(fmt.Errorf("unknown: %v", words))
	}
}

func seconds(text string) time.Duration {
	number, err := strconv.ParseFloat(text, 64)
	must(err)
	return time.Duration(number * float64(time.Second))
}

// pause waits for its end, and buries the processes of its pod that nobody waits for.
func pause() {
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGCHLD)
	for heard := range signals {
		if heard != syscall.SIGCHLD {
			return
		}
		for {
			if pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil); err != nil || pid <= 0 {
				break
			}
		}
	}
}

func serve(ports []string) {
	name, err := os.Hostname()
	must(err)
	var ill atomic.Bool
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintln(w, name)
		fmt.Println(r.Method, r.URL, r.RemoteAddr)
	})
	http.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) {
		if ill.Load() {
			http.Error(w, "ill", http.StatusInternalServerError)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	http.HandleFunc("/echo", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintln(w, r.RemoteAddr, r.Host)
		_ = r.Header.Write(w)
	})
	http.HandleFunc("/sicken", func(w http.ResponseWriter, _ *http.Request) {
		ill.Store(true)
		fmt.Fprintln(w, "ill from now on")
	})
	failed := make(chan error)
	for _, port := range ports {
		if port, found := strings.CutPrefix(port, "udp/"); found {
			go func() { failed <- sendBack(":" + port) }()
			continue
		}
		if !strings.Contains(port, ":") {
			port = ":" + port
		}
		go func() { failed <- http.ListenAndServe(port, nil) }()
	}
	fmt.Println("listens on", ports, "as", os.Getuid())
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	select {
	case err := <-failed:
		must(err)
	case <-stop:
	}
}

func sendBack(address string) error {
	socket, err := net.ListenPacket("udp", address)
	if err != nil {
		return err
	}
	for packet := make([]byte, 1500); ; {
		length, from, err := socket.ReadFrom(packet)
		if err != nil {
			return err
		}
		_, _ = socket.WriteTo(packet[:length], from)
	}
}

// try says of each flow whether there was an answer. Who refuses has been reached, too.
func try(long time.Duration, flows []string) {
	ctx, cancel := context.WithTimeout(context.Background(), long)
	defer cancel()
	var all sync.WaitGroup
	answers := make([]string, len(flows))
	for i, flow := range flows {
		all.Go(func() {
			kind, host, _ := strings.Cut(flow, "/")
			text, err := map[string]func(context.Context, string) (string, error){"tcp": connect, "udp": send, "icmp": ping, "name": lookup}[kind](ctx, host)
			switch {
			case errors.Is(err, syscall.ECONNREFUSED):
				answers[i] = "refused"
			case err != nil:
				answers[i] = "none: " + err.Error()
			default:
				answers[i] = text
			}
		})
	}
	all.Wait()
	for i, flow := range flows {
		fmt.Println(flow, answers[i])
	}
}

// own is the address that FROM says, of several that a machine has.
func own() net.IP { return net.ParseIP(os.Getenv("FROM")) }

func connect(ctx context.Context, host string) (string, error) {
	connection, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: own()}}).DialContext(ctx, "tcp4", host)
	if err != nil {
		return "", err
	}
	defer connection.Close()
	return "answered by " + connection.RemoteAddr().String(), nil
}

func send(ctx context.Context, host string) (string, error) {
	connection, err := (&net.Dialer{LocalAddr: &net.UDPAddr{IP: own()}}).DialContext(ctx, "udp4", host)
	if err != nil {
		return "", err
	}
	defer connection.Close()
	deadline, _ := ctx.Deadline()
	_ = connection.SetDeadline(deadline)
	if _, err = connection.Write([]byte("who is there?")); err != nil {
		return "", err
	}
	length, err := connection.Read(make([]byte, 1500))
	return fmt.Sprintf("answered with %d bytes", length), err
}

func lookup(ctx context.Context, name string) (string, error) {
	found, err := (&net.Resolver{PreferGo: true}).LookupHost(ctx, name)
	return fmt.Sprintf("answered with %v", found), err
}

// ping sends an echo request as nobody may: the kernel fills in its checksum and keeps its answer for this socket.
func ping(ctx context.Context, host string) (string, error) {
	socket, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_DGRAM, syscall.IPPROTO_ICMP)
	if err != nil {
		return "", err
	}
	defer syscall.Close(socket)
	deadline, _ := ctx.Deadline()
	wait := syscall.NsecToTimeval(time.Until(deadline).Nanoseconds())
	if err := syscall.SetsockoptTimeval(socket, syscall.SOL_SOCKET, syscall.SO_RCVTIMEO, &wait); err != nil {
		return "", err
	}
	to := syscall.SockaddrInet4{Addr: [4]byte(net.ParseIP(host).To4())}
	if err := syscall.Sendto(socket, []byte{8, 0, 0, 0, 0, 0, 0, 1}, 0, &to); err != nil {
		return "", err
	}
	length, _, err := syscall.Recvfrom(socket, make([]byte, 1500), 0)
	return fmt.Sprintf("answered with %d bytes", length), err
}

// stream says how many requests it made, how many were answered, and how many connections that took.
func stream(url string, long time.Duration) {
	connections := 0
	trace := httptrace.WithClientTrace(context.Background(), &httptrace.ClientTrace{ConnectStart: func(string, string) { connections++ }})
	client, asked, answered := &http.Client{Timeout: time.Second}, 0, 0
	for end := time.Now().Add(long); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		request, err := http.NewRequestWithContext(trace, http.MethodGet, url, nil)
		must(err)
		asked++
		answer, err := client.Do(request)
		if err != nil {
			continue
		}
		_, _ = io.Copy(io.Discard, answer.Body)
		_ = answer.Body.Close()
		if answer.StatusCode == http.StatusOK {
			answered++
		}
	}
	fmt.Println(asked, answered, connections)
}

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
