// What runs in the pods of the node tier, one static program without a shell:
//
//	pause                   what holds a pod together
//	http [PORT...]          answers with the pod's name (/), its health (/healthz) and what it was sent (/echo); /sicken makes it ill
//	get URL [SECONDS]       one request, its answer on standard output
//	stream URL SECONDS      one connection, a request every tenth of a second; says how many were answered
//	lookup NAME             the addresses of a name
//	tcp ADDRESS [SECONDS]   one connection
//	fill MEGABYTES          takes so much memory
//	write FILE TEXT, cat FILE..., id, sleep
//
// A request that is not answered ends it with 1.
package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"os"
	"os/signal"
	"strconv"
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
		go func() { failed <- http.ListenAndServe(":"+port, nil) }()
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
