#!/bin/bash
# Prepares a PostgreSQL data folder on the first start, then becomes the server. Written for the tests of rcompose to
# behave as users of the official image expect; the settings have that image's names.
set -euo pipefail

complain() {
	printf '%s\n' "$@" >&2
	exit 1
}

# Sets the variable $1 from the file that $1_FILE names, if that is set, else to its own value or the default $2.
setting() {
	local name=$1 file_name=$1_FILE value=${2-}
	if [ -n "${!name-}" ] && [ -n "${!file_name-}" ]; then
		complain "error: both $name and $file_name are set (but are exclusive)"
	fi
	if [ -n "${!file_name-}" ]; then
		[ -r "${!file_name}" ] || complain "error: cannot read ${!file_name}, which $file_name names"
		value=$(<"${!file_name}")
	elif [ -n "${!name-}" ]; then
		value=${!name}
	fi
	export "$name=$value"
	unset "$file_name"
}

wants_server() {
	[ "$1" = postgres ] || return 1
	local argument
	for argument; do
		case $argument in
			-'?' | --help | --describe-config | -V | --version) return 1 ;;
		esac
	done
}

check_settings() {
	if [ -z "$POSTGRES_PASSWORD" ] && [ "$POSTGRES_HOST_AUTH_METHOD" != trust ]; then
		complain \
			'Error: Database is uninitialized and superuser password is not specified.' \
			'       Set POSTGRES_PASSWORD to a non-empty value, for example with' \
			'       "-e POSTGRES_PASSWORD=password".' \
			'' \
			'       POSTGRES_HOST_AUTH_METHOD=trust would allow every connection without a' \
			'       password; that is *not* recommended.'
	fi
	if [ "$POSTGRES_HOST_AUTH_METHOD" = trust ]; then
		printf '%s\n' 'WARNING: POSTGRES_HOST_AUTH_METHOD is "trust": whoever reaches the port is let in.' >&2
	fi
}

create_cluster() {
	local arguments=()
	# As in a shell command line: POSTGRES_INITDB_ARGS holds several words, which may be quoted.
	eval "arguments=(${POSTGRES_INITDB_ARGS-})"
	if [ -n "${POSTGRES_INITDB_WALDIR-}" ]; then
		arguments+=(--waldir "$POSTGRES_INITDB_WALDIR")
	fi
	initdb --pgdata="$PGDATA" --username="$POSTGRES_USER" --pwfile=<(printf '%s\n' "$POSTGRES_PASSWORD") \
		${arguments[@]+"${arguments[@]}"}
	printf '\nhost all all all %s\n' "${POSTGRES_HOST_AUTH_METHOD:-scram-sha-256}" >>"$PGDATA/pg_hba.conf"
}

# SQL through the server that listens on its socket only.
sql() {
	PGPASSWORD=$POSTGRES_PASSWORD psql -v ON_ERROR_STOP=1 --no-psqlrc --no-password --username "$POSTGRES_USER" "$@"
}

run_init_files() {
	local file
	printf '\n'
	for file in /docker-entrypoint-initdb.d/*; do
		case $file in
			*.sh)
				printf '%s: %s %s\n' "$0" "$([ -x "$file" ] && echo running || echo sourcing)" "$file"
				if [ -x "$file" ]; then "$file"; else . "$file"; fi
				;;
			*.sql) printf '%s: running %s\n' "$0" "$file"; sql --dbname "$POSTGRES_DB" --file "$file" ;;
			*.sql.gz) printf '%s: running %s\n' "$0" "$file"; gzip -dc "$file" | sql --dbname "$POSTGRES_DB" ;;
			'/docker-entrypoint-initdb.d/*') ;;
			*) printf '%s: ignoring %s\n' "$0" "$file" ;;
		esac
		printf '\n'
	done
}

initialise() {
	check_settings
	create_cluster
	shift
	# printf repeats its format at least once, so an empty list of arguments needs care.
	local options=
	[ $# = 0 ] || options=$(printf '%q ' "$@")
	pg_ctl --pgdata="$PGDATA" --wait start -o "$options -c listen_addresses='' -p ${PGPORT:-5432}"
	if [ "$POSTGRES_DB" != postgres ]; then
		sql --dbname postgres --set db="$POSTGRES_DB" <<<'CREATE DATABASE :"db";'
	fi
	run_init_files
	pg_ctl --pgdata="$PGDATA" --mode=fast --wait stop
	printf '\nPostgreSQL init process complete; ready for start up.\n\n'
}

case ${1-} in
	-*) set -- postgres "$@" ;;
esac

if wants_server "$@"; then
	if [ "$(id -u)" = 0 ]; then
		mkdir -p "$PGDATA"
		chmod 00700 "$PGDATA"
		find "$PGDATA" \! -user postgres -exec chown postgres '{}' +
		mkdir -p /run/postgresql
		chmod 03775 /run/postgresql
		chown postgres /run/postgresql
		exec setpriv --reuid=postgres --regid=postgres --init-groups "$0" "$@"
	fi
	setting POSTGRES_PASSWORD
	setting POSTGRES_USER postgres
	setting POSTGRES_DB "$POSTGRES_USER"
	: "${POSTGRES_HOST_AUTH_METHOD:=}"
	if [ -s "$PGDATA/PG_VERSION" ]; then
		printf '\nPostgreSQL Database directory appears to contain a database; Skipping initialization\n\n'
	else
		mkdir -p "$PGDATA"
		initialise "$@"
	fi
fi

exec "$@"
