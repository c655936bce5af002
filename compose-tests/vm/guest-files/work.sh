# Works with the store without end: the power is cut in the middle of it. Each line says what comes next.
. /payload/vm/lib.sh
use /data/lib
serve_images
round=0
while :; do
	round=$((round + 1))
	echo "$round: up"
	rcompose -f "$project/compose.yaml" -p "p$((round % 2))" up -d || exit
	echo "$round: stop"
	rcompose -f "$project/compose.yaml" -p "p$((round % 2))" stop -t 0 web || exit
	echo "$round: again"
	rcompose -f "$project/compose.yaml" -p "p$((round % 2))" up -d --force-recreate -t 0 || exit
	if [ $((round % 2)) = 0 ]; then
		for name in p0 p1; do
			echo "$round: down $name"
			rcompose -f "$project/compose.yaml" -p $name down -v -t 0 --rmi all || exit
		done
	fi
done
