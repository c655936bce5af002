#!/bin/sh
# Starts redis-server as the user redis, as the official image does.
set -eu

case ${1-} in
	-* | *.conf) set -- redis-server "$@" ;;
esac

if [ "$1" = redis-server ]; then
	if [ "$(id -u)" = 0 ]; then
		find . \! -user redis -exec chown redis '{}' +
		exec setpriv --reuid=redis --regid=redis --init-groups "$0" "$@"
	fi
	if [ "$(umask)" = 0022 ]; then
		umask 0077
	fi
	# The official image is built with protected-mode off: the network between containers is the protection.
	case ${2-} in
		*.conf) grep -qs '^[[:space:]]*protected-mode' "$2" || set -- "$@" --protected-mode no ;;
		*) shift; set -- redis-server --protected-mode no "$@" ;;
	esac
fi

exec "$@"
