#!/bin/bash
# examples.sh - every example does what its head says: the C program in the tree, the shell recipes on a real mount.
# (install.sh builds the C program against an installed library, demo.sh runs the demo.)
cd "$(dirname "$0")/../.." || exit 1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
generate=$TRELLIS_BUILD/examples/generate

make -s --no-print-directory BUILD="$TRELLIS_BUILD" "$generate" || exit 1
"$generate" tests/golden/e2e/input.png "$work/a.glb" tests/golden/e2e 2>"$work/log" || { cat "$work/log"; exit 1; }
grep -q 'sampling structure' "$work/log" || { echo "generate showed no progress: $(cat "$work/log")"; exit 1; }
[ "$(head -c 4 "$work/a.glb")" = glTF ] || { echo "generate wrote no GLB"; exit 1; }
"$generate" nowhere.png "$work/b.glb" tests/golden/e2e >/dev/null 2>"$work/log" && { echo "no picture was no error"; exit 1; }
grep -q 'nowhere.png' "$work/log" || { echo "the error does not name the picture"; exit 1; }
rm -rf "$work"

# shellcheck source=tests/mount/lib.sh
. tests/mount/lib.sh
export TRELLIS=$TRELLIS_BUILD/trellis
mount_start
mkdir "$dir/results" "$dir/batch" "$dir/batch/deep"

# wait for one
[ "$(examples/wait.sh "$mnt" examples/car.png "$dir/results" | sort)" = "$dir/results/car.glb
$dir/results/car.preview.png" ] || fail "wait.sh printed something else"
[ -s "$dir/results/car.glb" ] || fail "wait.sh fetched no mesh"
head -c 3000 examples/duck.png >"$dir/cut.png"
examples/wait.sh "$mnt" "$dir/cut.png" "$dir/results" >/dev/null 2>"$dir/errors" && fail "wait.sh took half a picture"
grep -q truncated "$dir/errors" || fail "wait.sh did not say what is wrong: $(cat "$dir/errors")"

# a folder
cp examples/rocket.png "$dir/batch/one.png" && cp examples/icecream.jpg "$dir/batch/deep/two names.JPG"
echo text >"$dir/batch/notes.txt"
examples/batch.sh "$mnt" "$dir/batch" >"$dir/list" || fail "batch.sh failed: $(cat "$dir/list")"
for result in batch/one.glb "batch/deep/two names.glb"; do
	grep -qF "$mnt/out/$result" "$dir/list" || fail "batch.sh did not name $result: $(cat "$dir/list")"
	[ -s "$mnt/out/$result" ] || fail "out/$result is missing"
done

# watch
if command -v inotifywait >/dev/null; then
	mkfifo "$dir/seen"
	setsid examples/watch.sh "$mnt" basename >"$dir/seen" 2>/dev/null &
	watcher=$!
	exec 5<"$dir/seen"
	sleep 1 # until inotifywait watches
	cp examples/robot.png "$mnt/in/"
	read -r -t 60 name <&5
	[ "$name" = robot.glb ] || fail "watch.sh saw '$name', not robot.glb"
	kill -- -$watcher
	exec 5<&-
else
	echo "watch.sh was not tried: inotifywait (inotify-tools) is missing"
	missing=inotifywait
fi

# a share
if PATH=$PATH:/usr/sbin command -v smbd >/dev/null && command -v smbclient >/dev/null; then
	SMB_WAIT_S=60 examples/samba.sh "$mnt" examples/mushroom.png "$dir/results" >/dev/null || fail "samba.sh failed"
	cmp -s "$mnt/out/mushroom.glb" "$dir/results/mushroom.glb" || fail "samba.sh fetched something else"
else
	missing="${missing:+$missing, }smbd and smbclient"
fi
[ "$failures" = 0 ] || exit 1
if [ -n "${missing:-}" ]; then
	echo "all but what needs $missing passed"
	exit 77
fi
