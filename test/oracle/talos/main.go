// What talosctl does without a node, in its own words and by Talos' own code: `gen secrets`, `gen config` for a talosconfig, and
// `validate`. `read FILE` gives back the secrets that stand in a machine configuration.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/siderolabs/talos/pkg/machinery/config/configloader"
	"github.com/siderolabs/talos/pkg/machinery/config/generate"
	"github.com/siderolabs/talos/pkg/machinery/config/generate/secrets"
	"github.com/siderolabs/talos/pkg/machinery/config/validation"
	"go.yaml.in/yaml/v4"
)

// A virtual machine whose disk holds Talos already.
type cloud struct{}

func (cloud) String() string        { return "cloud" }
func (cloud) RequiresInstall() bool { return false }
func (cloud) InContainer() bool     { return false }

func main() {
	out, err := run(os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Stdout.Write(out)
}

func run(args []string) ([]byte, error) {
	clock := secrets.NewFixedClock(time.Now())
	flags := flag.NewFlagSet("talos-oracle", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	from := flags.String("with-secrets", "", "")
	file := flags.String("config", "", "")
	for _, other := range []string{"talos-version", "output-file", "output-types", "output", "mode"} {
		flags.String(other, "", "")
	}
	is := func(words ...string) bool {
		if len(args) < len(words) {
			return false
		}
		for i, word := range words {
			if args[i] != word {
				return false
			}
		}
		return true
	}
	switch {
	case is("gen", "secrets"):
		// The newest version that this code knows.
		bundle, err := secrets.NewBundle(clock, nil)
		if err != nil {
			return nil, err
		}
		return yaml.Marshal(bundle)
	case is("gen", "config") && len(args) > 4:
		if err := flags.Parse(args[4:]); err != nil {
			return nil, err
		}
		bundle, err := secrets.LoadBundle(*from)
		if err != nil {
			return nil, err
		}
		if err = bundle.Validate(); err != nil {
			return nil, err
		}
		input, err := generate.NewInput(args[2], args[3], "", generate.WithSecretsBundle(bundle))
		if err != nil {
			return nil, err
		}
		client, err := input.Talosconfig()
		if err != nil {
			return nil, err
		}
		return yaml.Marshal(client)
	case is("validate"):
		if err := flags.Parse(args[1:]); err != nil {
			return nil, err
		}
		config, err := configloader.NewFromFile(*file)
		if err != nil {
			return nil, err
		}
		_, err = config.Validate(cloud{}, validation.WithLocal(), validation.WithStrict())
		return nil, err
	case is("read") && len(args) == 2:
		config, err := configloader.NewFromFile(args[1])
		if err != nil {
			return nil, err
		}
		return yaml.Marshal(secrets.NewBundleFromConfig(clock, config))
	}
	return nil, errors.New("gen secrets | gen config NAME ENDPOINT --with-secrets FILE | validate --config FILE | read FILE")
}
