# What the scripts that run in the virtual machine share: rcompose with its data on the disk that outlives a power cut, and
# a registry with the images of the factory.
export RCOMPOSE_REGISTRIES=/run/registries.json HOME=/root NO_COLOR=1 COMPOSE_PROGRESS=plain
project=/payload/vm/project
rcompose() { /payload/bin/rcompose "$@"; }

# use FOLDER: /var/lib/rcompose is that folder from now on.
use() {
	mkdir -p "$1" /var/lib/rcompose
	mount --bind "$1" /var/lib/rcompose
}

serve_images() {
	echo '{"registries": {"docker.io": {"mirrors": ["http://127.0.0.1:5000"], "mirrors_only": true}}}' >"$RCOMPOSE_REGISTRIES"
	cat >/run/registry.yaml <<-END
		version: 0.1
		log: {level: error, accesslog: {disabled: true}}
		storage: {filesystem: {rootdirectory: /payload/cache/registry}}
		http: {addr: "127.0.0.1:5000", secret: tests}
	END
	setsid /payload/cache/tools/docker-registry serve /run/registry.yaml >/run/registry.log 2>&1 </dev/null 3>&- &
	until busybox wget -q -O /dev/null http://127.0.0.1:5000/v2/ 2>/dev/null; do sleep 0.1; done
}

# expect WHAT COMMAND…: ends the script unless the command succeeds.
expect() {
	what=$1
	shift
	"$@" >/run/expect.log 2>&1 && return
	echo "FAILED: $what: $*"
	cat /run/expect.log
	exit 1
}

# blobs_are_whole: every blob has the digest that its name says.
blobs_are_whole() {
	for blob in /var/lib/rcompose/images/blobs/sha256/*; do
		[ ! -e "$blob" ] || echo "${blob##*/}  $blob" | sha256sum --check --quiet || return
	done
}

# tree FOLDER: one digest of everything in it.
tree() {
	(
		cd "$1" || exit
		find . -printf '%p %y %m %U %G %l\n' | sort
		find . -type f -print0 | sort -z | xargs -0 -r sha256sum
	) | sha256sum | cut -d ' ' -f 1
}

# layer_digests: each unpacked layer and the digest of its tree, of those that count as durable or as of this boot.
layer_digests() {
	layers=/var/lib/rcompose/layers
	for layer in $(ls $layers); do
		mark=$(readlink "$layers/.unsynced/$layer") || mark=
		[ -z "$mark" ] || [ "$mark" = "$(cat /proc/sys/kernel/random/boot_id)" ] || continue
		echo "$layer $(tree "$layers/$layer")"
	done
}
