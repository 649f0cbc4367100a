#!/bin/sh
# The distribution's own entries, made by its own 10_linux (which is switched off beside this file), with one difference: starting
# them asks for no password. Only changing them does, so a host without a keyboard starts by itself.
set -e
here=$(dirname "$0")
sed 's/^CLASS="/CLASS="--unrestricted /' "$here/10_linux" > "${TMPDIR:-/run}/fortress-10-linux"
sh "${TMPDIR:-/run}/fortress-10-linux"
rm -f "${TMPDIR:-/run}/fortress-10-linux"
