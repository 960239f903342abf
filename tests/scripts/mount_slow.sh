#!/bin/bash
# mount_slow.sh - a call to the state disk that takes long holds up the file that it is about, and nothing else: while files are
# opened, cut, given space, synced, published and removed on a disk where each of these takes 1.5 s, a stat of others is quick.
cd "$(dirname "$0")/../.." || exit 1
. tests/mount/lib.sh
command -v jq >/dev/null || { echo "jq is not installed"; exit 77; }
case $TRELLIS_BUILD in *san) echo "a preloaded library and a sanitizer do not go together"; exit 77 ;; esac
mkdir "$dir/src"
for i in 1 2 3 4; do "$tool" png "$dir/src/$i.png" $i 3000; done
: >"$dir/slow"
SLOW_DISK=$dir/slow LD_PRELOAD=$TRELLIS_BUILD/tests/slow_disk.so mount_start -o preview=off
mkdir "$mnt/in/busy" "$mnt/in/still"
for i in $(seq 20); do echo $i >"$mnt/in/still/$i.txt"; done
cp "$dir/src/1.png" "$mnt/in/busy/one.png"
cp "$dir/src/2.png" "$mnt/in/busy/two.png"
cp "$dir/src/2.png" "$mnt/in/busy/three.png"
settle

# quick CALL COMMAND... - while the command runs with that call slow, stats of in/still are not
quick() {
	local call=$1 start=${EPOCHREALTIME/./} took slowest
	shift
	echo "$call 1500" >"$dir/slow"
	"$@" &
	local job=$!
	sleep 0.1
	"$tool" stat "$mnt/in/still" 1 >"$dir/stat"
	wait $job
	took=$(((${EPOCHREALTIME/./} - start) / 1000))
	: >"$dir/slow"
	slowest=$(grep -oE 'max [0-9.]+' "$dir/stat" | grep -oE '[0-9.]+' | tail -n 1)
	echo "$call: $* took $took ms; $(cat "$dir/stat")"
	awk -v s="${slowest:-9999}" 'BEGIN {exit !(s < 1000)}' || fail "$call held up a stat of another file for $slowest ms"
	"$tool" stat "$mnt/in/still" 0.1 >/dev/null
}
empty() { : >"$mnt/in/busy/one.png"; }
look() { cat "$mnt/in/busy/two.png" >/dev/null; }
make() { echo new >"$mnt/in/busy/new.txt"; }
space() { fallocate -l 100000 "$mnt/in/busy/new.txt"; }
durable() { sync "$mnt/in/busy/two.png"; }
again() { cp "$dir/src/2.png" "$mnt/in/busy/four.png" && sleep 1; } # the same picture: its result gets another name
remove() { rm "$mnt/in/busy/three.png" && sleep 0.7; }
read_status() { cat "$mnt/status" >/dev/null; }
quick openat64 look
quick openat64 make
quick fallocate64 space
quick ftruncate64 empty
quick fdatasync durable
quick linkat again
quick unlinkat remove
quick fstatvfs64 read_status

# While the journal is written anew on such a disk it grows on: that is garbage, too, and goes the next time.
echo "fdatasync 700" >"$dir/slow"
"$tool" churn xattr "$mnt/in/still" 1500 >/dev/null # 90 MB
: >"$dir/slow"
for _ in $(seq 100); do [ "$(stat -c %s "$state/journal")" -lt 10000000 ] && break || sleep 0.1; done
[ "$(stat -c %s "$state/journal")" -lt 10000000 ] || fail "the journal keeps $(stat -c %s "$state/journal") bytes"
settle 300
[ -s "$mnt/out/busy/four.glb" ] || fail "the picture of a slow disk was not made"
mount_stop
finish
