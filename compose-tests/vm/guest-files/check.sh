# Looks at what a power cut left on a disk (the serial number of the disk is the argument), and goes on working with it.
while umount /var/lib/rcompose 2>/dev/null; do :; done
. /payload/vm/lib.sh
serial=$1
for disk in /sys/block/vd*; do
	[ "$(cat "$disk/serial")" != "$serial" ] || device=/dev/${disk##*/}
done
mkdir -p "/mnt/$serial"
expect 'the file system of the disk is whole' mount -t ext4 "$device" "/mnt/$serial"
busybox wget -q -O /dev/null http://127.0.0.1:5000/v2/ 2>/dev/null || serve_images

# What the layers are where nothing was ever cut, once for all disks.
if [ ! -e /run/layers ]; then
	use /tmp/reference
	for image in test/volume-copyup alpine busybox; do
		printf 'services: {one: {image: %s}}\n' $image >/run/one.yaml
		expect 'a new store takes an image' rcompose -f /run/one.yaml -p one pull -q
	done
	layer_digests >/run/layers
	umount /var/lib/rcompose
fi

if [ -e "/mnt/$serial/lib" ]; then
	use "/mnt/$serial/lib"
	expect 'every blob has the digest of its name' blobs_are_whole
	expect 'projects are listed' rcompose ls -a
	for name in p0 p1; do
		expect "the containers of $name are listed" rcompose -p $name ps -a
		expect 'nothing counts as running' [ -z "$(rcompose -p $name ps -q)" ]
		expect "the images of $name are listed" rcompose -p $name images
		expect "the volumes of $name are listed" rcompose -f "$project/compose.yaml" -p $name volumes
	done
	expect 'containers are brought back' rcompose autostart
	for name in p0 p1; do
		expect "$name comes up" rcompose -f "$project/compose.yaml" -p $name up -d
		for service in seed web plain; do
			expect "$service of $name runs" rcompose -p $name exec -T $service true
		done
		expect 'a new volume has what the image has' rcompose -p $name exec -T seed sh -c \
			'[ "$(cat /seed/one /seed/link /seed/private)" = "one
two
private" ] && [ "$(stat -c %u:%a /seed/sub /seed)" = "1000:755
1000:750" ]'
	done
	layer_digests >/run/layers.now
	expect 'layers are what their images say' [ -z "$(grep -vxFf /run/layers /run/layers.now)" ]
	expect 'there are layers at all' [ -s /run/layers.now ]
	for name in p0 p1; do
		expect "$name goes down" rcompose -f "$project/compose.yaml" -p $name down -v -t 0 --rmi all
	done
	store=/var/lib/rcompose
	for folder in containers names projects volumes; do
		expect "nothing is left in $folder" [ -z "$(ls -A $store/$folder 2>/dev/null | grep -vx lock)" ]
	done
	expect 'no network is left' [ -z "$(ls $store/networks | grep json)" ]
	expect 'no layer is left' [ -z "$(ls $store/layers)" ]
	expect 'no half of a file is left' [ -z "$(find $store/images/.rcompose/tmp $store/layers/.tmp -mindepth 1)" ]
	umount /var/lib/rcompose
fi
umount "/mnt/$serial"
