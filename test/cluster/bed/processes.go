package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/sirupsen/logrus"
)

// processes are the components that run as children of this program. The first one that ends is reported on `ended`.
type processes struct {
	running []*process
	ended   chan error
	start   chan func()
}

type process struct {
	name     string
	command  *exec.Cmd
	done     chan struct{}
	stopping atomic.Bool
}

func newProcesses() *processes {
	p := &processes{ended: make(chan error, 8), start: make(chan func())}
	// The kernel ends a child with the thread that made it, so that one thread makes them all, and stays.
	go func() {
		runtime.LockOSThread()
		for work := range p.start {
			work()
		}
	}()
	return p
}

// complaint remembers why a component says that it ends.
type complaint struct {
	lock sync.Mutex
	text string
}

func (c *complaint) Write(words []byte) (int, error) {
	c.lock.Lock()
	defer c.lock.Unlock()
	for _, line := range strings.Split(string(words), "\n") {
		if text, found := strings.CutPrefix(line, "Error: "); found {
			c.text = text
		}
	}
	return len(words), nil
}

func (c *complaint) or(err error) error {
	c.lock.Lock()
	defer c.lock.Unlock()
	switch {
	case c.text != "":
		return errors.New(c.text)
	case err == nil:
		return errors.New("exit status 0")
	}
	return err
}

// run starts this program under a component's name. What it says goes where our own words go, and to `listeners`.
func (p *processes) run(name string, words []string, listeners ...io.Writer) (*process, error) {
	command := exec.Command("/proc/self/exe")
	command.Args = append([]string{name}, words...)
	return p.begin(name, command, listeners...)
}

// program starts one that is not this one, found in PATH.
func (p *processes) program(name string, words ...string) error {
	_, err := p.begin(name, exec.Command(name, words...))
	return err
}

func (p *processes) begin(name string, command *exec.Cmd, listeners ...io.Writer) (*process, error) {
	why := &complaint{}
	command.Stdout, command.Stderr = os.Stdout, io.MultiWriter(append(listeners, os.Stderr, why)...)
	for _, variable := range os.Environ() {
		// Only this program says when it is ready.
		if !strings.HasPrefix(variable, "NOTIFY_SOCKET=") {
			command.Env = append(command.Env, variable)
		}
	}
	command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	child := &process{name: name, command: command, done: make(chan struct{})}
	failed := make(chan error)
	p.start <- func() { failed <- command.Start() }
	if err := <-failed; err != nil {
		return nil, err
	}
	p.running = append(p.running, child)
	go func() {
		err := command.Wait()
		close(child.done)
		if !child.stopping.Load() {
			p.ended <- fmt.Errorf("%s exited: %w", strings.TrimPrefix(name, "kube-"), why.or(err))
		}
	}()
	return child, nil
}

func (c *process) stop() {
	c.stopping.Store(true)
	_ = c.command.Process.Signal(syscall.SIGTERM)
	select {
	case <-c.done:
	case <-time.After(20 * time.Second):
		logrus.Warnf("%s does not end", c.name)
		_ = c.command.Process.Kill()
		<-c.done
	}
}

// stop ends the components, the last one first.
func (p *processes) stop() {
	for i := len(p.running) - 1; i >= 0; i-- {
		p.running[i].stop()
	}
}

// wait asks again and again until there is no error, a component has ended, or we are told to stop.
func (p *processes) wait(what string, stop <-chan os.Signal, ask func() error) error {
	ticks := time.NewTicker(200 * time.Millisecond)
	defer ticks.Stop()
	said := time.Now()
	for {
		err := ask()
		if err == nil {
			return nil
		}
		if time.Since(said) > 15*time.Second {
			said = time.Now()
			logrus.Infof("Waiting for %s: %v", what, err)
		}
		select {
		case err := <-p.ended:
			return err
		case signal := <-stop:
			return stopped{signal}
		case <-ticks.C:
		}
	}
}

// stopped is why a program ends that was told to.
type stopped struct{ signal os.Signal }

func (s stopped) Error() string { return fmt.Sprintf("signal %s received, shutting down", s.signal) }
