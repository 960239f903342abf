#!/bin/bash
# demo.sh BUILD [FOLDER] - what `make demo` shows: a mount in a temporary place, three pictures copied into in/, what
# status says meanwhile, and the meshes, which are then copied to FOLDER (default: demo-output). Without FUSE the same
# through `trellis generate`. Exit status 0 only when all three became meshes.
set -u
cd "$(dirname "$0")/.." || exit 1
build=$1 folder=${2:-demo-output}
pictures=(examples/duck.png examples/rocket.png examples/icecream.jpg)
work=$(mktemp -d) || exit 1
mount=$work/trellis
mounted=
made=0

cleanup() {
	if [ -n "$mounted" ]; then
		fusermount3 -u "$mount" 2>/dev/null || fusermount3 -u -z "$mount"
		# the daemon keeps its state directory locked until it has ended
		flock --wait 10 "$work/state/lock" true 2>/dev/null
	fi
	rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 1' INT TERM

now() { date +%s.%N; }
since() { awk -v from="$1" -v to="$(now)" 'BEGIN { printf "%.1f s", to - from }'; }
# say LINE - the line that changes on a terminal
say() { [ ! -t 1 ] || printf '\r\033[K  %.100s' "$1"; }
erase() { [ ! -t 1 ] || printf '\r\033[K'; }

# through_mount PICTURE - copy it, show the job while it runs, fetch what comes out
through_mount() {
	local name=${1##*/} waiter shown='' job closed status
	cp "$1" "$mount/in/" || return 1
	closed=$(now)
	"$build/trellis" wait --timeout 600 "$mount/in/$name" >"$work/made" 2>"$work/why" &
	waiter=$!
	while kill -0 $waiter 2>/dev/null; do
		job=$(sed -n 's/^running *//p' "$mount/status")
		say "${job:-in/$name: $(sed -n '/ready$/d; s/^model *//p; s/^queue *//p' "$mount/status" | paste -sd ' ')}"
		if [ -n "$job" ] && [ -z "$shown" ] && [ "$1" = "${pictures[0]}" ]; then
			erase
			printf '  $ cat %s/status\n' "$mount"
			sed 's/^/  | /' "$mount/status"
			shown=yes
		fi
		sleep 0.1
	done
	wait $waiter
	status=$?
	erase
	if [ $status != 0 ]; then
		echo "  in/$name failed: $(cat "$work/why")"
		return 1
	fi
	echo "  cp $1 in/  ->  $(sed "s|^$mount/||" "$work/made" | tr '\n' ' ') $(since "$closed") after close()"
	while IFS= read -r result; do cp "$result" "$folder/" || return 1; done <"$work/made"
}

# through_command PICTURE
through_command() {
	local name=${1##*/} start
	start=$(now)
	if ! "$build/trellis" generate --quiet "$1" -o "$folder" >/dev/null 2>"$work/why"; then
		echo "  $1 failed: $(cat "$work/why")"
		return 1
	fi
	echo "  trellis generate $1  ->  ${name%.*}.glb ${name%.*}.preview.png  $(since "$start")"
}

mkdir -p "$mount" "$folder" && touch "$work/began" || exit 1
if [ ! -c /dev/fuse ] || ! (: <>/dev/fuse) 2>/dev/null; then
	echo "/dev/fuse cannot be used here, so nothing is mounted: the same through \`trellis generate\`"
elif ! "$build/trellisfs" -o state="$work/state" "$mount" 2>"$work/why"; then
	echo "mounting failed: $(cat "$work/why")"
	echo "so the same through \`trellis generate\`"
else
	mounted=yes
	echo "mounted trellisfs on $mount"
fi
for picture in "${pictures[@]}"; do
	if [ -n "$mounted" ]; then through_mount "$picture"; else through_command "$picture"; fi && made=$((made + 1))
done

echo
echo "$made of ${#pictures[@]} pictures became meshes$([ $made = 0 ] || echo ", in $folder:")"
for picture in "${pictures[@]}"; do
	name=${picture##*/}
	name=${name%.*}
	[ "$folder/$name.glb" -nt "$work/began" ] || continue # not of another run
	printf '  %-16s %6s KB   drawn in %s\n' "$name.glb" $(($(stat -c %s "$folder/$name.glb") / 1024)) "$name.preview.png"
done
[ $made = ${#pictures[@]} ] || exit 1
echo "Open the pictures in any viewer; the meshes in Blender (import glTF), f3d, or a glTF viewer in the browser."
echo "Turn one around: $build/trellis render $folder/duck.glb -o duck.png --turntable 24"
