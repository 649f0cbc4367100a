// containerd-shim-runsc-v1 of the node tier. gVisor's own comes with its release, which no registry for programs has: this is the shim
// of runc, told what gVisor's is told. Of the file that ConfigPath names it reads binary_name, which it starts where the other would
// start runsc; the flags in it are for that program to read.
package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"strings"

	task "github.com/containerd/containerd/api/runtime/task/v3"
	runc "github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/containerd/api/types/runtimeoptions/v1"
	"github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2/manager"
	runctask "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2/task"
	"github.com/containerd/containerd/v2/pkg/shim"
	"github.com/containerd/containerd/v2/pkg/shutdown"
	"github.com/containerd/containerd/v2/plugins"
	"github.com/containerd/plugin"
	"github.com/containerd/plugin/registry"
	"github.com/containerd/ttrpc"
	"github.com/containerd/typeurl/v2"
)

// As containerd's configuration has to name it.
const optionsType = "io.containerd.runsc.v1.options"

type service struct{ task.TTRPCTaskService }

func (s service) RegisterTTRPC(server *ttrpc.Server) error {
	task.RegisterTTRPCTaskService(server, s)
	return nil
}

func (s service) Create(ctx context.Context, r *task.CreateTaskRequest) (*task.CreateTaskResponse, error) {
	given, err := typeurl.UnmarshalAny(r.Options)
	if err != nil {
		return nil, err
	}
	told, ok := given.(*runtimeoptions.Options)
	if !ok || told.TypeUrl != optionsType {
		return nil, fmt.Errorf("TypeUrl is not %s: %v", optionsType, given)
	}
	program, err := programOf(told.ConfigPath)
	if err != nil {
		return nil, err
	}
	options, err := typeurl.MarshalAnyToProto(&runc.Options{BinaryName: program})
	if err != nil {
		return nil, err
	}
	r.Options = options
	return s.TTRPCTaskService.Create(ctx, r)
}

func programOf(path string) (string, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer file.Close()
	for lines := bufio.NewScanner(file); lines.Scan(); {
		if name, value, found := strings.Cut(lines.Text(), "="); found && strings.TrimSpace(name) == "binary_name" {
			return strings.Trim(value, ` '"`), nil
		}
	}
	return "", fmt.Errorf("%s has no binary_name", path)
}

func main() {
	registry.Register(&plugin.Registration{
		Type:     plugins.TTRPCPlugin,
		ID:       "task",
		Requires: []plugin.Type{plugins.EventPlugin, plugins.InternalPlugin},
		InitFn: func(ic *plugin.InitContext) (any, error) {
			publisher, err := ic.GetByID(plugins.EventPlugin, "publisher")
			if err != nil {
				return nil, err
			}
			end, err := ic.GetByID(plugins.InternalPlugin, "shutdown")
			if err != nil {
				return nil, err
			}
			inner, err := runctask.NewTaskService(ic.Context, publisher.(shim.Publisher), end.(shutdown.Service))
			return service{inner}, err
		},
	})
	shim.RunShim(context.Background(), manager.NewShimManager("io.containerd.runsc.v1"))
}
