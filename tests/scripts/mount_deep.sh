#!/bin/bash
# mount_deep.sh - a picture whose path is longer than any may be (4,096 bytes) cannot have a mesh at a path that anybody can name: it fails
# with a sentence, whole or broken, and holds up nothing and nobody, now and after a restart.
cd "$(dirname "$0")/../.." || exit 1
. tests/mount/lib.sh
command -v jq >/dev/null || { echo "jq is not installed"; exit 77; }
trellis=$TRELLIS_BUILD/trellis
ticks=$(getconf CLK_TCK)
mkdir "$dir/src"
for i in 1 2 3 4 5 6; do "$tool" png "$dir/src/$i.png" $i 3000; done
head -c 1500 "$dir/src/1.png" >"$dir/src/broken.png"

# deep COMMAND... - run it where the deep pictures are; the shell cannot say where that is, so it goes step by step
step=$(printf 'd%.0s' $(seq 200))
deep() (
	cd "$mnt/in" || exit
	for _ in $(seq 25); do
		[ -d "$step" ] || mkdir "$step" || exit
		cd "$step" 2>/dev/null || exit
	done
	"$@"
)

# attribute NAME FILE - of a deep picture
attribute() { deep getfattr --only-values -n "user.trellis.$1" "$2" 2>/dev/null; }

# failed_with_a_sentence FILE TENTHS
failed_with_a_sentence() {
	local text
	for _ in $(seq "$2"); do [ "$(attribute state "$1")" = failed ] && break || sleep 0.1; done
	[ "$(attribute state "$1")" = failed ] || fail "$when: $1 is '$(attribute state "$1")', not failed, after $(($2 / 10)) s: $(cat "$mnt/status")"
	text=$(attribute error "$1")
	[ ${#text} -gt 10 ] || fail "$when: the error of $1 is '$text'"
	[ "$when" != "at once" ] || [ -z "$text" ] || grep -qF "$text" "$mnt/status" || fail "$when: status does not say of $1: $text"
}

# little_work - the daemon and all it started take less than a fifth of a processor over two seconds
little_work() {
	local before after
	before=$(awk '{print $14 + $15}' /proc/$daemon/stat)
	sleep 2
	after=$(awk '{print $14 + $15}' /proc/$daemon/stat)
	[ $((after - before)) -lt $((2 * ticks / 5)) ] || fail "$when: at rest the daemon took $((after - before)) of $((2 * ticks)) ticks"
}

# made FILE NAME - a normal picture is
made() {
	cp "$1" "$mnt/in/$2.png"
	wait_for "$mnt/out/$2.glb" 50 || fail "$when: a normal picture was not made: $(cat "$mnt/status")"
}

when="at once"
mount_start
made "$dir/src/2.png" first
deep cp "$dir/src/broken.png" broken.png || fail "no deep picture can be written"
failed_with_a_sentence broken.png 100 # a picture that is cut off waits 5 s for the rest
made "$dir/src/3.png" second
little_work
deep cp "$dir/src/1.png" whole.png
failed_with_a_sentence whole.png 50
made "$dir/src/4.png" third
little_work
[ "$(field .failed)" = 2 ] || fail "$when: $(field .failed) failures are counted, not 2"
[ "$(field '"\(.queued) \(.settling) \(.running | length)"')" = "0 0 0" ] || fail "$when: something waits: $(cat "$mnt/status")"

# `trellis wait` comes to its end. (From there it cannot know that the path is a picture's: getcwd has no name for the place.)
for name in whole broken; do
	text=$(deep timeout 20 "$trellis" wait --timeout 15 "./$name.png" 2>&1)
	status=$?
	[ $status != 124 ] || fail "trellis wait for $name.png: status $status, '$text'"
done

# Submitted again by hand it fails again, written anew as well.
deep setfattr -n user.trellis.submit -v 1 whole.png
failed_with_a_sentence whole.png 50
deep cp "$dir/src/5.png" whole.png
sleep 0.5
failed_with_a_sentence whole.png 50

when="after a restart"
mount_stop
mount_start
failed_with_a_sentence broken.png 100
failed_with_a_sentence whole.png 50
made "$dir/src/5.png" fourth
little_work
when="after a SIGKILL"
deep cp "$dir/src/6.png" killed.png
kill -9 $daemon
wait_gone 100
umount "$mnt" 2>/dev/null || fusermount3 -u -z "$mnt"
mount_start
failed_with_a_sentence killed.png 100
made "$dir/src/6.png" fifth
little_work
[ -z "$(find "$mnt/out" -mindepth 1 -type d)" ] || fail "there are folders in out/ and nothing in them"

# Moved to where there is room it is made.
when="moved up"
deep mv whole.png "$mnt/in/up.png"
deep setfattr -n user.trellis.submit -v 1 "$mnt/in/up.png"
wait_for "$mnt/out/up.glb" 50

# On both sides of the limit each has a mesh or an error, and soon: paths of 4,080 to 4,110 bytes below the mountpoint.
when="at the limit"
limit() (
	cd "$mnt/in" || exit
	mkdir limit && cd limit || exit
	for _ in $(seq 20); do mkdir "$step" && cd "$step" 2>/dev/null || exit; done
	# in/limit/ and 20 steps of 201 bytes
	local base=$((9 + 20 * 201)) length
	for length in $(seq 4080 4110); do cp "$dir/src/6.png" "$(printf 'x%.0s' $(seq $((length - base - 4)))).png" || exit; done
	for _ in $(seq 100); do
		getfattr -n user.trellis.state -- *.png 2>/dev/null | grep '^user' | sort | uniq -c >"$dir/states"
		[ "$(grep -cE '"(done|failed)"' "$dir/states")" = "$(wc -l <"$dir/states")" ] && exit 0
		sleep 0.1
	done
	exit 1
)
limit || fail "$when: not each is done or failed: $(cat "$dir/states")"
cat "$dir/states"
made "$dir/src/1.png" sixth
little_work
rm -r "$mnt/in/limit" "$mnt/in/$step" || fail "the deep folders cannot be removed"
mount_stop
finish
