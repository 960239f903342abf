#!/bin/bash
# mount.sh - the mount against the disk that holds its state and against libfuse's own example passthrough_ll, in one run:
# writing 1,000 x 2 MB, stat and readdir of 10,000 files, and how soon a picture becomes a job and a result an event.
# FILES, PICTURES: fewer for a quick look.
cd "$(dirname "$0")/../.." || exit 1
. tests/mount/lib.sh
pictures=${PICTURES:-1000} files=${FILES:-10000}
example=/usr/share/doc/libfuse3-dev/examples/passthrough_ll.c
[ "$(id -u)" = 0 ] || { echo "passthrough_ll needs root here"; exit 77; }
[ -f $example ] || { echo "$example is not there (package libfuse3-dev)"; exit 77; }
command -v jq >/dev/null || { echo "jq is not installed"; exit 77; }
# shellcheck disable=SC2046
${CC:-gcc} -O2 -w -o "$dir/passthrough" $example $(pkg-config --cflags --libs fuse3) || exit 1

mkdir "$dir/disk" "$dir/below" "$dir/through" "$dir/src"
"$dir/passthrough" -o "source=$dir/below" "$dir/through" || exit 1
trap 'umount -l "$dir/through"; cleanup' EXIT
FAKE_WORKER="slow=0" mount_start
sleep 1
through=$(pgrep -n -f "^$dir/passthrough")
rss() { awk '/VmRSS/ {printf "%.1f MB", $2 / 1024}' "/proc/$1/status"; }
echo "idle daemon: $(rss $daemon) resident"

# ms COMMAND... - how long it takes
ms() {
	local start=$EPOCHREALTIME
	"$@" >/dev/null 2>&1
	local end=$EPOCHREALTIME
	awk -v a="$start" -v b="$end" 'BEGIN {printf "%.0f", (b - a) * 1000}'
}

# No picture names, so that no job runs beside the measurement; sync before each run, so that each starts alike.
head -c 2000000 /dev/urandom >"$dir/src/0"
for i in $(seq 1 9); do cp "$dir/src/0" "$dir/src/$i"; done
write_all() {
	local to=$1 round
	for round in $(seq 0 $((pictures / 10 - 1))); do
		mkdir "$to/$round" && cp "$dir"/src/* "$to/$round/"
	done
}
mb=$((pictures * 2))
for round in 1 2; do
	for where in disk through trellisfs; do
		to=$dir/$where
		[ $where = trellisfs ] && to=$mnt/in
		mkdir "$to/w"
		sync -f "$dir"
		t[0]=$(ms write_all "$to/w")
		printf 'write %d x 2 MB, round %d  %-10s %6d ms  %5d MB/s\n' "$pictures" $round $where "${t[0]}" $((mb * 1000 / t[0]))
		rm -r "$to/w"
	done
done

for where in disk through trellisfs; do
	to=$dir/$where
	[ $where = trellisfs ] && to=$mnt/in
	mkdir "$to/many"
	made=$(ms bash -c 'cd "$1" && seq -f f%g $2 | xargs touch' - "$to/many" "$files")
	listed=$(ms ls -f "$to/many")
	stated=$("$tool" stat "$to/many" 3)
	printf '%d files                 %-10s touch %5d ms, readdir %4d ms, %s\n' "$files" $where "$made" "$listed" "$stated"
done
echo "with $files files: trellisfs $(rss $daemon), passthrough_ll $(rss "$through") resident"

# From close() to the event, with a worker that takes next to no time: settling, hashing, queue, and publishing.
watch_out "$dir/events"
total=0
for i in $(seq 10); do
	"$tool" png "$dir/p$i.png" "$i" 300000
	cp "$dir/p$i.png" "$mnt/in/"
	start=${EPOCHREALTIME/./}
	until grep -q "CLOSE_WRITE p$i.glb" "$dir/events"; do sleep 0.002; done
	total=$((total + ${EPOCHREALTIME/./} - start))
	work=$(field .last_s)
done
echo "close() to the result's event: $((total / 10000)) ms mean of 10, of which 300 ms settling and $work s the worker (goals: start 350 ms, event 20 ms)"
