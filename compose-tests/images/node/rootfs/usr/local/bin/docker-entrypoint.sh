#!/bin/sh
# Gives options and scripts to node, as the official image does.
set -eu

if [ "${1#-}" != "$1" ] || ! command -v "$1" >/dev/null 2>&1 || { [ -f "$1" ] && [ ! -x "$1" ]; }; then
	set -- node "$@"
fi
exec "$@"
