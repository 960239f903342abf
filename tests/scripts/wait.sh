#!/bin/bash
# wait.sh - `trellis wait` on plain folders laid out like a mount: results, errors, timeouts, and pictures by their xattrs.
set -u
trellis=$TRELLIS_BUILD/trellis
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
failures=0

# expect STATUS STDOUT STDERR-PATTERN ARGUMENT... - what `trellis wait ARGUMENT...` does; \n in STDOUT is a newline
expect() {
	local status=$1 out=$2 err=$3 got_out got_err got
	shift 3
	got_out=$("$trellis" wait "$@" 2>"$dir/stderr")
	got=$?
	got_err=$(<"$dir/stderr")
	if [ $got != "$status" ] || [ "$got_out" != "$(printf "$out")" ] || ! [[ $got_err =~ ^$err$ ]]; then
		echo "trellis wait $*: status $got, not $status; stdout '$got_out'; stderr '$got_err'"
		failures=$((failures + 1))
	fi
}

cd "$dir" || exit 1
mkdir -p m/in/d m/out/d
echo x >m/status
echo glb >m/out/a.glb
echo 'the image is truncated' >m/out/b.error.txt
echo old >m/out/b.glb
echo splats >m/out/c.gaussian.ply
: >m/out/empty.glb

expect 0 'm/out/a.glb' '' m/out/a.glb
expect 1 'm/out/b.error.txt' 'trellis wait: m/out/b.error.txt: the image is truncated' m/out/b.glb
expect 1 'm/out/b.error.txt' '.*truncated' m/out/b.gaussian.ply
expect 0 'm/out/c.gaussian.ply' '' --timeout 5 m/out/c.gaussian.ply
expect 1 'm/out/a.glb\nm/out/b.error.txt' '.*' m/out/a.glb m/out/b.glb
expect 124 '' 'trellis wait: the time is over; still waiting for 1 of 1' --timeout 0.1 m/out/none.glb
expect 124 '' '.*' --timeout 0 m/out/empty.glb
expect 124 '' '.*' --timeout 0 m/in/none.png
expect 2 '' '.*a path is missing.*'
expect 2 '' '.*--timeout x is not a number of seconds.*' --timeout x a

# What appears later wakes it: at once by inotify, in a folder that appears later within the second of the next look.
(sleep 0.3; echo glb >later; mv later m/out/later.glb) &
start=$(date +%s%N)
expect 0 'm/out/later.glb' '' --timeout 10 m/out/later.glb
took=$((($(date +%s%N) - start) / 1000000))
[ $took -lt 800 ] || { echo "inotify did not wake it: $took ms"; failures=$((failures + 1)); }
(sleep 0.2; mkdir -p m/out/e/f; sleep 0.2; echo bad >m/out/e/f/g.error.txt) &
expect 1 'm/out/e/f/g.error.txt' '.*: bad' --timeout 10 m/out/e/f/g.glb

if command -v setfattr >/dev/null && touch m/in/d/p.png && setfattr -n user.trellis.state -v queued m/in/d/p.png 2>/dev/null; then
	expect 124 '' '.*' --timeout 0.1 m/in/d/p.png
	(
		sleep 0.2
		setfattr -n user.trellis.outputs -v $'out/d/p.glb\nout/d/p.preview.png' m/in/d/p.png
		setfattr -n user.trellis.state -v 'done' m/in/d/p.png
	) &
	expect 0 'm/out/d/p.glb\nm/out/d/p.preview.png' '' --timeout 10 m/in/d/p.png
	cd m/in/d || exit 1 # the path alone doesn't show the mount
	got=$("$trellis" wait p.png) && [ "$got" = "$dir/m/out/d/p.glb"$'\n'"$dir/m/out/d/p.preview.png" ] ||
		{ echo "inside in/: '$got'"; failures=$((failures + 1)); }
	cd "$dir" || exit 1
	setfattr -n user.trellis.state -v failed m/in/d/p.png
	setfattr -n user.trellis.outputs -v out/d/p.error.txt m/in/d/p.png
	setfattr -n user.trellis.error -v 'not an image' m/in/d/p.png
	expect 1 'm/out/d/p.error.txt' 'trellis wait: m/in/d/p.png: not an image' m/in/d/p.png
	# Where no path shows the mount, as from a folder deeper than any path, the picture's state does.
	echo png >lone.png
	setfattr -n user.trellis.state -v failed lone.png
	setfattr -n user.trellis.error -v 'too deep' lone.png
	expect 1 '' 'trellis wait: lone.png: too deep' --timeout 5 lone.png
	setfattr -n user.trellis.state -v queued lone.png
	expect 124 '' '.*' --timeout 0.1 lone.png
	setfattr -n user.trellis.state -v ignored m/in/d/p.png
	expect 1 '' '.*not a picture.*' m/in/d/p.png
	setfattr -x user.trellis.state m/in/d/p.png
	expect 2 '' ".*doesn't tell a picture's state; name its result in out/" m/in/d/p.png
else
	echo "without the part on xattrs: setfattr or the filesystem's support is missing"
fi
wait
[ $failures = 0 ]
