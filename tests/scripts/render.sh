#!/bin/bash
# render.sh - trellis render on the GLBs of $TRELLIS_BUILD/samples (test_writers leaves them): pictures of the asked
# size, animations, one line for what is wrong, and nothing left behind then.
set -u
trellis=${TRELLIS_BUILD:?the build folder}/trellis
mesh=$TRELLIS_BUILD/samples/simplified.glb
[ -f "$mesh" ] || { echo "no $mesh: test_writers has not run"; exit 1; }
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cd "$scratch" || exit 1
failed=0

fault() {
	echo "$*"
	failed=1
}

# number FILE OFFSET: the big-endian 32-bit number there.
number() {
	od -An -tu1 -j"$2" -N4 "$1" | awk '{ print (($1 * 256 + $2) * 256 + $3) * 256 + $4 }'
}

# draws WIDTH HEIGHT ARGUMENT...
draws() {
	local wanted=$1x$2
	shift 2
	"$trellis" render "$mesh" -o view.png "$@" || fault "trellis render $*: exit status $?"
	[ "$(number view.png 16)x$(number view.png 20)" = "$wanted" ] || fault "trellis render $*: not $wanted"
}

# refuses STATUS TEXT ARGUMENT...
refuses() {
	local status=$1 text=$2 got
	shift 2
	"$trellis" render "$@" >out 2>err </dev/null
	got=$?
	[ $got = "$status" ] || fault "trellis render $*: exit status $got, wanted $status"
	[ "$(wc -l <err)" = 1 ] || fault "trellis render $*: not one line: $(cat err)"
	grep -qF -- "$text" err || fault "trellis render $*: not '$text': $(cat err)"
}

draws 1024 512
cp view.png both.png
draws 64 48 -s 64x48 --yaw 45
grep -aq acTL view.png && fault "a single view is an animation"
draws 32 32 -s 32x32 --turntable 3
grep -aq acTL view.png || fault "a turntable is no animation"
draws 1024 512
cmp -s view.png both.png || fault "the same call gave another picture"

# turns FRAMES KB: whether a turntable does with so much address space, one thread.
turns() {
	(ulimit -v "$2" && OMP_NUM_THREADS=1 exec "$trellis" render "$mesh" -o turn.png -s 1024x1024 --turntable "$1") 2>err
}

# Thirty frames of 3 MB take no more memory than two: one at a time is there.
room=100000
until turns 2 $room || [ $room -gt 2000000 ]; do room=$((room + 20000)); done
turns 30 $((room + 40000)) || fault "thirty frames don't do with 40 MB more than two, $room KB: $(cat err)"
rm -f turn.png

head -c 5000 "$mesh" >short.glb
mkfifo pipe.glb
mkdir folder.png
printf 'solid' >text.glb
refuses 1 'short.glb: 5000 bytes, but its header says' short.glb -o no.png
refuses 1 'text.glb: not a binary glTF file' text.glb -o no.png
refuses 1 'pipe.glb: not a regular file' pipe.glb -o no.png
refuses 1 'missing.glb: No such file or directory' missing.glb -o no.png
refuses 1 'folder.png: Is a directory' "$mesh" -o folder.png -s 16x16
refuses 1 'none/no.png: No such file or directory' "$mesh" -o none/no.png -s 16x16
refuses 1 '/dev/full: No space left on device' "$mesh" -o /dev/full -s 16x16
cp "$mesh" own.glb
ln own.glb other.png
refuses 1 'own.glb: the picture would replace the mesh' own.glb -o own.glb
refuses 1 'other.png: the picture would replace the mesh' own.glb -o other.png
cmp -s own.glb "$mesh" || fault "the mesh was replaced"
rm own.glb other.png
refuses 2 'wanted one mesh, got 2' "$mesh" "$mesh" -o no.png
refuses 2 '-o PICTURE.png is missing' "$mesh"
refuses 2 '--size: wanted WxH' "$mesh" -o no.png -s 5x5000
refuses 2 '--turntable: wanted a whole number' "$mesh" -o no.png -t 2.5
refuses 2 '--pitch: wanted -80 to 80' "$mesh" -o no.png -p nan
refuses 2 'exclude each other' "$mesh" -o no.png -t 4 -y 3
left=$(ls | tr '\n' ' ')
[ "$left" = 'both.png err folder.png out pipe.glb short.glb text.glb view.png ' ] || fault "left behind: $left"
exit $failed
