//go:build tools

// Nothing is built of this file: it has go.mod know the program that `./task lab setup` builds from its makers' own module.
package bed

import (
	_ "github.com/letsencrypt/pebble/v2/cmd/pebble"
)
