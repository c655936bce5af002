#!/bin/sh
# Runs what lies in /docker-entrypoint.d before the server starts, as the official image does.
set -eu

say() {
	[ -n "${NGINX_ENTRYPOINT_QUIET_LOGS-}" ] || printf '%s\n' "$0: $*"
}

case ${1-} in
	nginx | nginx-debug)
		for file in /docker-entrypoint.d/*; do
			case $file in
				*.envsh) [ ! -x "$file" ] || { say "sourcing $file"; . "$file"; } ;;
				*.sh) if [ -x "$file" ]; then say "running $file"; "$file"; else say "ignoring $file, which is not executable"; fi ;;
			esac
		done
		say 'configuration complete; ready for start up'
		;;
esac

exec "$@"
