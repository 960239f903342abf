#!/bin/bash
# demo.sh - the demo makes its three meshes, through a mount where there is one and without /dev/fuse, leaves nothing mounted,
# and fails when a picture becomes no mesh. It runs the embedded model.
set -u
cd "$(dirname "$0")/../.." || exit 1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failed=0

fault() {
	echo "$*"
	cat "$work/log"
	failed=1
}

# expect_meshes FOLDER
expect_meshes() {
	local name
	for name in duck rocket icecream; do
		[ "$(head -c 4 "$1/$name.glb" 2>/dev/null)" = glTF ] || fault "no mesh: $1/$name.glb"
		[ "$(head -c 4 "$1/$name.preview.png" 2>/dev/null | tail -c 3)" = PNG ] || fault "no picture: $1/$name.preview.png"
	done
}

if (: <>/dev/fuse) 2>/dev/null; then
	examples/demo.sh "$TRELLIS_BUILD" "$work/mounted" >"$work/log" 2>&1 || fault "the demo failed"
	place=$(sed -n 's/^mounted trellisfs on //p' "$work/log")
	[ -n "$place" ] || fault "the demo mounted nothing"
	grep -q '| model .*: ready' "$work/log" || fault "the demo showed no status"
	grep -q '| .*photographs name TRELLIS-image-large' "$work/log" || fault "status does not say what the model can do"
	[ "$(grep -c ' s after close()$' "$work/log")" = 3 ] || fault "the demo told no three times"
	grep -qF " $place " /proc/mounts && fault "the demo left its mount"
	[ ! -e "$place" ] || fault "the demo left its folder"
	expect_meshes "$work/mounted"
else
	echo "without the demo's mount: /dev/fuse cannot be used here"
fi

# A machine without FUSE, by a file in its place in a mount namespace of our own; a broken model makes it short.
mkdir "$work/model" && touch "$work/file"
cat >"$work/without" <<CMD
mount --bind "$work/file" /dev/fuse && exec examples/demo.sh "$TRELLIS_BUILD" "$work/unmounted"
CMD
if [ ! -e /dev/fuse ]; then
	examples/demo.sh "$TRELLIS_BUILD" "$work/unmounted" >"$work/log" 2>&1 || fault "the demo without FUSE failed"
	expect_meshes "$work/unmounted"
elif unshare --mount true 2>/dev/null; then
	TRELLIS_MODEL_PATH=$work/model tests/mount/apart.sh -- bash "$work/without" >"$work/log" 2>&1 &&
		fault "the demo with a broken model succeeded"
	grep -q '^/dev/fuse cannot be used here' "$work/log" || fault "the demo does not say that FUSE is missing"
	grep -q '^0 of 3 pictures became meshes$' "$work/log" || fault "the demo does not count what it made"
	[ "$(grep -c 'not a model: it has no pipeline.json' "$work/log")" = 3 ] || fault "the demo does not say why"
	tests/mount/apart.sh -- bash "$work/without" >"$work/log" 2>&1 || fault "the demo without FUSE failed"
	expect_meshes "$work/unmounted"
else
	echo "without the demo on a machine that lacks FUSE: unshare is not permitted here"
fi
exit $failed
