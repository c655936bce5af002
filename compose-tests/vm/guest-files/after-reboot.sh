# Looks at the containers of before-reboot.sh after a reset.
. /payload/vm/lib.sh
use /data/lib
# states: service, state and exit code of each container.
states() {
	rcompose -p reboot ps -a --format json | while read -r line; do
		for field in Service State ExitCode; do
			printf '%s ' "$(printf '%s' "$line" | sed "s/.*\"$field\":\"\{0,1\}\([^\",}]*\).*/\1/")"
		done
		echo
	done | sed 's/ $//' | sort
}
expect 'all have ended, those that ran with the code of a machine that went down' [ "$(states)" = 'always exited 255
always-stopped exited 137
failing exited 255
no exited 255
unless exited 255
unless-stopped exited 137' ]
expect 'what ran can be read of' [ "$(rcompose -p reboot logs --no-log-prefix always)" = '' ]
expect 'containers are brought back' rcompose autostart
expect 'those run again that their policy says' [ "$(states)" = 'always running 0
always-stopped running 0
failing running 0
no exited 255
unless running 0
unless-stopped exited 137' ]
expect 'a published port answers' [ "$(busybox wget -q -O - http://127.0.0.1:8081/index.html)" = served ]
expect 'one finds the other' rcompose -p reboot exec -T unless wget -q -O - http://always/index.html
before=$(rcompose -p reboot ps -q | sort)
expect 'a second time there is nothing to do' [ -z "$(rcompose autostart 2>&1)" ]
expect 'and nothing is done' [ "$(rcompose -p reboot ps -q | sort)" = "$before" ]
expect 'the rest starts by hand' rcompose -f /data/compose.yaml -p reboot up -d
expect 'all goes down' rcompose -p reboot down -t 0
for folder in containers names projects; do
	expect "nothing is left in $folder" [ -z "$(ls -A /var/lib/rcompose/$folder 2>/dev/null)" ]
done
expect 'no network is left' [ -z "$(ls /var/lib/rcompose/networks | grep json)" ]
expect 'nothing is left of the run' [ -z "$(find /run/rcompose ! -name lock ! -type d 2>/dev/null)" ]
