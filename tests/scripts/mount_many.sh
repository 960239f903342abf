#!/bin/bash
# mount_many.sh - 10,000 files dropped at once: stat stays quick, the daemon small, every picture is made; a full disk.
# shellcheck disable=SC2034 # state is read by lib.sh
cd "$(dirname "$0")/../.." || exit 1
. tests/mount/lib.sh
command -v jq >/dev/null || { echo "jq is not installed"; exit 77; }
n=${FILES:-10000}
mkdir "$dir/src"
"$tool" png "$dir/base" 1 400
mount_start -o preview=off
rss() { awk '/VmRSS/ {print $2}' /proc/$daemon/status; }
idle=$(rss)
# Equal pictures under 100 folders: one runs, the others take over its result; 50 different ones run.
for i in $(seq 50); do "$tool" png "$dir/src/u$i.png" $((i + 10)) 400; done
mkdir "$mnt/in/d"
(
	for i in $(seq 100); do
		mkdir "$mnt/in/d/$i"
		(cd "$mnt/in/d/$i" && seq -f %g.png $((n / 100)) >"$dir/names" && xargs -a "$dir/names" tee <"$dir/base" >/dev/null)
	done
	cp "$dir"/src/u*.png "$mnt/in/"
) &
writer=$!
sleep 0.3
"$tool" stat "$mnt/in" 4 >"$dir/stat"
wait $writer
cat "$dir/stat"
p99=$(sed -E 's/.*p99 ([0-9.]+) ms.*/\1/' "$dir/stat")
awk -v p="$p99" 'BEGIN {exit !(p < 10)}' || case $TRELLIS_BUILD in *san) ;; *) fail "p99 of stat was $p99 ms" ;; esac
settle 600
total=$((n / 100 * 100 + 50))
is=$(find "$mnt/out" -name '*.glb' | wc -l)
[ "$is" = $total ] || fail "$is meshes of $total"
after=$(rss)
echo "$total files: daemon $idle KiB idle, $after KiB after, $(((after - idle) * 1024 / (2 * total))) bytes a node (inputs and meshes)"
case $TRELLIS_BUILD in *san) ;; *) [ "$after" -lt 102400 ] || fail "the daemon takes $after KiB" ;; esac
mount_stop

# Eight processes change the names of one tree at once; what they leave is there after a restart. A picture so deep that its
# path is longer than any may be keeps the mount waiting for nothing.
mount_start
mkdir "$mnt/in/storm"
"$TRELLIS_BUILD/tests/mount_storm" "$mnt/in/storm" $RANDOM 8 "$((${OPERATIONS:-3000} / 4))" || fail "the storm found a difference"
(cd "$mnt/in/storm" && name=$(printf "x%.0s" $(seq 200)); for i in $(seq 30); do mkdir "$name" && cd "$name" 2>/dev/null || exit; done; cp "$dir/base" deep.png) || fail "a tree of 6,000 bytes of path"
settle 600
tree() { (cd "$mnt/in/storm" && find . -printf '%f %y %m %s %i %l\n' | sort); }
tree >"$dir/before"
mount_stop
mount_start
tree >"$dir/after"
cmp "$dir/before" "$dir/after" || fail "the storm's tree differs after a restart"
rm -r "$mnt/in/storm" || fail "the deep tree cannot be removed"
mount_stop

# A full state disk: ENOSPC to the writer, nothing half-published, unlink works, and then so does the rest.
if [ "$(id -u)" = 0 ]; then
	small=$dir/small
	mkdir "$small"
	mount -t tmpfs -o size=8m tmpfs "$small" || { echo "skipped: no tmpfs for the full disk"; finish; }
	trap 'fusermount3 -u -z "$mnt" 2>/dev/null; umount -l "$small"; cleanup' EXIT
	state=$small/state
	mount_start
	head -c 20000000 /dev/zero 2>/dev/null | dd of="$mnt/in/fill.bin" bs=64k 2>"$dir/dd" && fail "no ENOSPC"
	grep -q 'No space' "$dir/dd" || fail "the writer was told: $(cat "$dir/dd")"
	for i in $(seq 2000); do echo x >"$mnt/in/more$i" || break; done 2>/dev/null
	[ -z "$(ls "$mnt/out")" ] || fail "something was published"
	rm "$mnt/in/fill.bin" || fail "unlink failed on a full disk"
	rm -f "$mnt"/in/more*
	"$tool" png "$dir/p.png" 5 1000
	cp "$dir/p.png" "$mnt/in/p.png" || fail "the disk stays full"
	wait_for "$mnt/out/p.glb" 200
	mount_stop
	mount_start -o max_bytes=1M
	head -c 2000000 /dev/zero | dd of="$mnt/in/quota.bin" bs=64k 2>"$dir/dd" && fail "no EDQUOT"
	grep -qi 'quota' "$dir/dd" || fail "the writer was told: $(cat "$dir/dd")"
	mount_stop
else
	echo "skipped: the full disk needs root for a tmpfs"
fi
finish
