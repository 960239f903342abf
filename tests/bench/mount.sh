#!/bin/bash
# mount.sh - the mount against the disk that holds its state and against libfuse's own example passthrough_ll, by turns in one
# run: writing 1,000 x 2 MB, stat and readdir of 10,000 files; and how soon a picture becomes a job and a result an event.
# FILES, PICTURES, ROUNDS: fewer for a quick look.
cd "$(dirname "$0")/../.." || exit 1
. tests/mount/lib.sh
pictures=${PICTURES:-1000} files=${FILES:-10000} rounds=${ROUNDS:-5}
example=/usr/share/doc/libfuse3-dev/examples/passthrough_ll.c
[ "$(id -u)" = 0 ] || { echo "passthrough_ll needs root here"; exit 77; }
[ -f $example ] || { echo "$example is not there (package libfuse3-dev)"; exit 77; }
command -v jq >/dev/null || { echo "jq is not installed"; exit 77; }
# shellcheck disable=SC2046
${CC:-gcc} -O2 -w -o "$dir/passthrough" $example $(pkg-config --cflags --libs fuse3) || exit 1

mkdir "$dir/disk" "$dir/below" "$dir/through" "$dir/src"
# In the foreground like ours: a session of its own would get another share of a busy machine.
"$dir/passthrough" -f -o "source=$dir/below" "$dir/through" 2>/dev/null &
through=$!
disown
trap 'umount -l "$dir/through" 2>/dev/null; cleanup' EXIT
FAKE_WORKER="slow=50 times=$dir/times" mount_start
sleep 1
mountpoint -q "$dir/through" || { echo "passthrough_ll did not mount"; exit 1; }
rss() { awk '/VmRSS/ {print $2}' "/proc/$1/status"; } # KiB
idle=$(rss $daemon)
echo "idle daemon: $idle KiB resident (goal: 20 MB)"

# ms COMMAND... - how long it takes
ms() {
	local start=$EPOCHREALTIME
	"$@" >/dev/null 2>&1
	local end=$EPOCHREALTIME
	awk -v a="$start" -v b="$end" 'BEGIN {printf "%.1f\n", (b - a) * 1000}'
}

# median FILE COLUMN
median() { sort -g -k "$2,$2" "$1" | awk -v c="$2" '{v[NR] = $c} END {print NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2}'; }
# where PLACE - its folder
where() { case $1 in trellisfs) echo "$mnt/in" ;; *) echo "$dir/$1" ;; esac; }
# The places take turns, in another order each round: a machine that does other work slows all of them.
turns() {
	set -- disk through trellisfs
	case $((round % 3)) in 0) echo "$1 $2 $3" ;; 1) echo "$3 $1 $2" ;; *) echo "$2 $3 $1" ;; esac
}
# compare FILE COLUMN WHAT - the median of the rounds of FILE.trellisfs / FILE.through: 1 is as fast
compare() {
	paste "$1.trellisfs" "$1.through" | awk -v c="$2" '{print $(c + NF / 2) / $c}' | sort -g >"$1.ratio"
	printf '%-24s trellisfs is %.2f times as fast as passthrough_ll (median of %d rounds, %.2f to %.2f)\n' "$3" \
		"$(median "$1.ratio" 1)" "$(wc -l <"$1.ratio")" "$(head -n 1 "$1.ratio")" "$(tail -n 1 "$1.ratio")"
}

# No picture names, so that no job runs beside the measurement; sync before each run, so that each starts alike.
head -c 2000000 /dev/urandom >"$dir/src/0"
for i in $(seq 1 9); do cp "$dir/src/0" "$dir/src/$i"; done
write_all() {
	local to=$1 folder
	for folder in $(seq 0 $((pictures / 10 - 1))); do
		mkdir "$to/$folder" && cp "$dir"/src/* "$to/$folder/"
	done
}
for round in $(seq "$rounds"); do
	for place in $(turns); do
		to=$(where "$place")
		mkdir "$to/w"
		sync -f "$dir"
		ms write_all "$to/w" >>"$dir/write.$place"
		rm -r "$to/w"
	done
done
for place in disk through trellisfs; do
	took=$(median "$dir/write.$place" 1)
	printf 'write %d x 2 MB         %-10s %6.0f ms, %5.0f MB/s\n' "$pictures" $place "$took" "$(awk -v n="$pictures" -v t="$took" 'BEGIN {print n * 2000 / t}')"
done
compare "$dir/write" 1 "write (goal: 0.9)"

for place in disk through trellisfs; do
	to=$(where $place)
	mkdir "$to/many"
	made=$(ms bash -c 'cd "$1" && seq -f f%g $2 | xargs touch' - "$to/many" "$files")
	printf '%d files             %-10s touch %5.0f ms\n' "$files" $place "$made"
done
sync -f "$dir"
for round in $(seq $((2 * rounds))); do
	for place in $(turns); do
		to=$(where "$place")
		ms ls -f "$to/many" >>"$dir/readdir.$place"
		"$tool" stat "$to/many" 0.4 | sed -E 's/.*median ([0-9.]+) ms, p99 ([0-9.]+) ms.*/\1 \2/' >>"$dir/stat.$place"
	done
done
for place in disk through trellisfs; do
	printf '%d files             %-10s readdir %4.1f ms, stat that asks: median %.4f ms, p99 %.4f ms\n' "$files" $place \
		"$(median "$dir/readdir.$place" 1)" "$(median "$dir/stat.$place" 1)" "$(median "$dir/stat.$place" 2)"
done
compare "$dir/readdir" 1 "readdir (goal: 1)"
compare "$dir/stat" 1 "stat (goal: 1)"
after=$(rss $daemon)
echo "after that: trellisfs $after KiB resident, $(((after - idle) * 1024 / files)) bytes a file (goal: 1024); passthrough_ll $(rss "$through") KiB"

# From close() to the job (the look and the hash: the worker is idle), and from the result to its event, with a job of half a
# second: one that takes less than the 300 ms of settling is held until they are over.
"$tool" watch-times "$mnt/out" >"$dir/events" &
watchers+=($!)
disown
until grep -q READY "$dir/events"; do sleep 0.02; done
for i in $(seq 20); do
	"$tool" png "$dir/p$i.png" "$i" 300000
	cp "$dir/p$i.png" "$mnt/in/"
	echo "$EPOCHREALTIME" >>"$dir/closed"
	wait_for "$mnt/out/p$i.glb" || exit 1
done
sleep 0.5
# lag FROM TO - the differences of two columns of seconds, in ms
lag() { paste "$1" "$2" | awk '{printf "%.2f\n", ($2 - $1) * 1000}' >"$dir/lag"; }
for what in start ready; do grep "^$what" "$dir/times" | cut -d' ' -f2 >"$dir/$what"; done
grep -oE 'CLOSE_WRITE p[0-9]+.glb .*' "$dir/events" | cut -d' ' -f3 >"$dir/seen"
lag "$dir/closed" "$dir/start"
echo "close() to the start of the job: $(median "$dir/lag" 1) ms, median of 20 (goal: 50)"
lag "$dir/ready" "$dir/seen"
echo "result to its event: $(median "$dir/lag" 1) ms, median of 20, preview and mesh (goal: 20)"
