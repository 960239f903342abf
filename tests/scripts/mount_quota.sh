#!/bin/bash
# mount_quota.sh - what is kept of names and attributes has a limit: the journal stays small however often they change, whether or not
# any file is ever closed, now and over restarts; with max_bytes= names and attributes count like bytes, and df shows the limit.
# CHANGES (20000): how often each kind of change is made.
cd "$(dirname "$0")/../.." || exit 1
. tests/mount/lib.sh
command -v jq >/dev/null || { echo "jq is not installed"; exit 77; }
changes=${CHANGES:-20000}
in=$mnt/in
churned=churned$(printf 'p%.0s' $(seq 200))

# journal_small WHAT - three seconds later at most
journal_small() {
	local bytes
	for _ in $(seq 30); do
		bytes=$(stat -c %s "$state/journal")
		[ "$bytes" -lt 8000000 ] && break
		sleep 0.1
	done
	echo "after $1: the journal has $bytes bytes, the state directory $(du -sk "$state" | cut -f 1) KiB"
	[ "$bytes" -lt 20000000 ] || fail "after $1 the journal has $bytes bytes"
	bytes=$(du -sk "$state" | cut -f 1)
	[ "$bytes" -lt 45000 ] || fail "after $1 the state directory takes $bytes KiB"
}

# times_done EXPECTED KIND COUNT
times_done() {
	local told
	told=$("$tool" churn "$2" "$in" "$3")
	[ "$told" = "$1" ] || fail "$2 was done '$told' times, not $1"
}

mount_start
: >"$in/$churned"
times_done 5000 xattr 5000
journal_small "5,000 attributes of 60 KB"
for kind in times mode rename folder; do
	times_done "$changes" $kind "$changes"
	journal_small "$changes of $kind"
done
last=$(getfattr --only-values -n user.x "$in/$churned" 2>/dev/null | md5sum)
for session in 1 2 3 4; do
	mount_stop
	mount_start
	journal_small "restart $session"
	[ "$(getfattr --only-values -n user.x "$in/$churned" 2>/dev/null | md5sum)" = "$last" ] || fail "an attribute changed over a restart"
	times_done 300 xattr 300
	last=$(getfattr --only-values -n user.x "$in/$churned" 2>/dev/null | md5sum)
	times_done $((changes / 4)) mode $((changes / 4))
	journal_small "session $session"
done
kill -9 $daemon
wait_gone 100
umount "$mnt" 2>/dev/null || fusermount3 -u -z "$mnt"
mount_start
[ "$(getfattr --only-values -n user.x "$in/$churned" 2>/dev/null | md5sum)" = "$last" ] || fail "an attribute changed over a SIGKILL"
journal_small "a SIGKILL"
rm "$in/$churned"
size=$(df -B1 --output=size "$mnt" | tail -n 1)
[ "$size" = "$(df -B1 --output=size "$state" | tail -n 1)" ] || fail "without max_bytes df does not show the disk's size but $size"
mount_stop

# A limit of a megabyte: so many names, so many attributes, and df.
mount_start -o max_bytes=1M
read -r size free < <(df -B1 --output=size,avail "$mnt" | tail -n 1)
[ "$size" -le 1048576 ] && [ "$size" -gt 900000 ] || fail "with max_bytes=1M df shows a size of $size"
[ "$free" -le "$size" ] && [ "$free" -gt 900000 ] || fail "with max_bytes=1M df shows $free free"
head -c 500000 /dev/zero >"$in/half"
read -r _ now < <(df -B1 --output=size,avail "$mnt" | tail -n 1)
[ $((free - now)) -ge 490000 ] && [ $((free - now)) -le 600000 ] || fail "df counts $((free - now)) bytes for a file of 500,000"
rm "$in/half"
for kind in create mkdir symlink; do
	told=$("$tool" churn $kind "$in" 20000)
	[[ $told = *EDQUOT ]] || fail "$kind, 20,000 times under max_bytes=1M: '$told'"
	n=${told% *}
	[ "$n" -gt 100 ] || fail "$kind: only $n names fit into 1M"
	head -c 100000 /dev/zero 2>/dev/null | dd of="$in/bytes" bs=100000 iflag=fullblock status=none 2>/dev/null && fail "$kind: bytes find room where names do not"
	rm -f "$in/bytes"
	# what does not grow goes on
	chmod 700 "$in/0${churned#churned}" 2>/dev/null || [ $kind = symlink ] || fail "$kind: chmod under a full quota"
	mv "$in/0${churned#churned}" "$in/renamed" && mv "$in/renamed" "$in/0${churned#churned}" || fail "$kind: mv under a full quota"
	if [ $kind = create ]; then # the count is the same after a restart
		used=$(field .state.used_bytes)
		mount_stop
		mount_start -o max_bytes=1M
		[ "$(field .state.used_bytes)" = "$used" ] || fail "$used bytes were used, after a restart $(field .state.used_bytes)"
		mkdir "$in/one-more" 2>/dev/null && mkdir "$in/one-more$(printf 'm%.0s' $(seq 200))" 2>/dev/null && mkdir "$in/and-more$(printf 'm%.0s' $(seq 200))" 2>/dev/null && fail "after a restart there is room"
		rmdir "$in"/*more* 2>/dev/null
	fi
	told=$("$tool" churn remove "$in" "$n")
	[ "$told" = "$n" ] || fail "$kind: of $n names these could be removed: $told"
done
# Attributes: 60 KB each on files of their own.
n=0
for i in $(seq 40); do
	mkdir "$in/x$i" && : >"$in/x$i/$churned" || break
	[ "$("$tool" churn xattr "$in/x$i" 1)" = 1 ] || break
	n=$i
done
told=$("$tool" churn xattr "$in/x$i" 1)
[ "$n" -lt 18 ] && [ "$told" = "0 EDQUOT" ] || fail "$n attributes of 60 KB fit into 1M, then '$told'"
setfattr -n user.x -v small "$in/x1/$churned" || fail "an attribute cannot become smaller under a full quota"
setfattr -x user.x "$in/x2/$churned" || fail "an attribute cannot be removed under a full quota"
[ "$("$tool" churn xattr "$in/x$i" 1)" = 1 ] || fail "what attributes gave back is not free"
mount_stop

# Less than what is there already: it opens, what is there can be read and removed.
mount_start -o max_bytes=10K
[ "$("$tool" churn create "$in" 1)" = "0 EDQUOT" ] || fail "room beyond the limit"
rm -r "$in"/x* || fail "no removing beyond the limit"
[ "$("$tool" churn create "$in" 1)" = 1 ] || fail "no room when all is removed"
"$tool" churn remove "$in" 1 >/dev/null
"$tool" png "$dir/p.png" 1 2000
cp "$dir/p.png" "$in/p.png" && wait_for "$mnt/out/p.glb" || fail "no picture is made within the limit"
mount_stop
finish
