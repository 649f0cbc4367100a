#!/bin/sh
# The distribution's own entries, made by its own 10_linux (which is disabled), with one difference: booting them requires no
# password. Only changing them does, so a host without a keyboard boots unattended.
set -e
here=$(dirname "$0")
sed 's/^CLASS="/CLASS="--unrestricted /' "$here/10_linux" > "${TMPDIR:-/run}/fortress-10-linux"
sh "${TMPDIR:-/run}/fortress-10-linux"
rm -f "${TMPDIR:-/run}/fortress-10-linux"
