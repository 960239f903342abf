#!/bin/bash
# mount_traces.sh - every way in which tools write files makes exactly one job, announced by exactly one event; what is
# no picture makes none. Real tools on a real mount.
cd "$(dirname "$0")/../.." || exit 1
. tests/mount/lib.sh
command -v jq >/dev/null || { echo "jq is not installed"; exit 77; }
src=$dir/src
mkdir "$src"
mount_start
watch_out "$dir/events"
names=()
jobs=0

# picture NAME SEED - a fresh source picture
picture() { "$tool" png "$src/$1" "$2" 70000; }
# expect STEM [N] - that N (1) results of that name are announced in the end
expect() {
	names+=("$1=${2:-1}")
	jobs=$((jobs + ${2:-1}))
}
skip() { echo "skipped: $1 is not installed"; }

in=$mnt/in
picture cp.png 1 && cp "$src/cp.png" "$in/" && expect cp
picture cp_p.png 2 && chmod 600 "$src/cp_p.png" && touch -d 2020-01-02 "$src/cp_p.png" && cp -p "$src/cp_p.png" "$in/" && expect cp_p
[ "$(stat -c '%a %y' "$in/cp_p.png" | cut -c1-14)" = "600 2020-01-02" ] || fail "cp -p did not keep mode and time"
picture mv.png 3 && mv "$src/mv.png" "$in/" && expect mv
picture install.png 4 && install -m 640 "$src/install.png" "$in/" && expect install
picture cat.png 5 && cat "$src/cat.png" >"$in/cat.png" && expect cat
picture dd.png 6 && dd if="$src/dd.png" of="$in/dd.png" bs=1000 status=none && expect dd
picture two.png 7 && (head -c 30000 "$src/two.png"; sleep 0.5; tail -c +30001 "$src/two.png") >"$in/two.png" && expect two
picture append.png 8 && { head -c 30000 "$src/append.png" >"$in/append.png"; tail -c +30001 "$src/append.png" >>"$in/append.png"; } && expect append
picture pause.png 9 && "$tool" parts "$in/pause.png" "$src/pause.png" 800 && expect pause
picture map.png 10 && "$tool" mmap "$in/map.png" "$src/map.png" 500 && expect map
picture UPPER.PNG 11 && cp "$src/UPPER.PNG" "$in/" && expect UPPER
picture noext 12 && cp "$src/noext" "$in/" && expect noext
picture 'with space.png' 13 && cp "$src/with space.png" "$in/" && expect 'with space'
picture saver.png 14 && cp "$src/saver.png" "$in/.saver.png.tmp123" && mv "$in/.saver.png.tmp123" "$in/saver.png" && expect saver
picture part.png 15 && cp "$src/part.png" "$in/part.png.crdownload" && sleep 0.4 && mv "$in/part.png.crdownload" "$in/part.png" && expect part
picture quick.png 16 && cp "$src/quick.png" "$in/" && chmod 600 "$in/quick.png" && touch "$in/quick.png" && setfattr -n user.note -v x "$in/quick.png" && expect quick
# An NFS server that keeps a descriptor: no FLUSH of it and no RELEASE, but an FSYNC. Two seconds of quiet, and none more at
# the end.
committers=()
for way in commit commit-apart; do
	picture $way.png 18$way
	"$tool" $way "$in/$way.png" "$src/$way.png" >/dev/null &
	committers+=($!)
	disown
	expect $way
done
for way in commit commit-apart; do
	for _ in $(seq 80); do [ -e "$mnt/out/$way.glb" ] && break || sleep 0.1; done
	[ -e "$mnt/out/$way.glb" ] || fail "a file that is kept open after a $way makes no job"
done
kill -9 "${committers[@]}"
picture held.png 17
"$tool" hold "$in/held.png" "$src/held.png" >"$dir/held" &
holder=$!
disown
if command -v rsync >/dev/null; then
	picture rsync.png 20 && rsync -a "$src/rsync.png" "$in/" && expect rsync
	picture rsynci.png 21 && rsync -a --inplace "$src/rsynci.png" "$in/" && expect rsynci
else
	skip rsync
fi
if command -v gio >/dev/null; then
	picture gio.png 22 && gio copy "file://$src/gio.png" "file://$in/gio.png" 2>/dev/null && expect gio
else
	skip gio
fi
mkdir "$src/folder" "$src/folder/deep" && picture folder/f1.png 23 && picture folder/deep/f2.png 24 && cp -r "$src/folder" "$in/"
jobs=$((jobs + 2))

# Not jobs.
touch "$in/empty.png"
printf 'hello' >"$in/notes.txt"
picture .hidden.png 30 && cp "$src/.hidden.png" "$in/"
picture ._x.png 31 && cp "$src/._x.png" "$in/"
picture a.part 32 && cp "$src/a.part" "$in/"
picture b.png~ 33 && cp "$src/b.png~" "$in/"
ln -s cp.png "$in/link.png"
for name in Thumbs.db desktop.ini .DS_Store x.tmp; do head -c 100 /dev/zero >"$in/$name"; done

sleep 1.2
[ -e "$mnt/out/held.glb" ] && fail "a file that is still open was taken"
kill -9 $holder
expect held
settle
for entry in "${names[@]}"; do
	n=$(results "$dir/events" "${entry%=*}")
	[ "$n" = "${entry##*=}" ] || fail "${entry%=*}: $n results announced, not ${entry##*=}"
	head -c 4 "$mnt/out/${entry%=*}.glb" 2>/dev/null | grep -q glTF || fail "out/${entry%=*}.glb is no mesh"
done
for stem in folder/f1 folder/deep/f2; do [ -s "$mnt/out/$stem.glb" ] || fail "out/$stem.glb is missing"; done
[ "$(field .done)" = $jobs ] || fail "$(field .done) jobs were done, not $jobs"
[ "$(field .failed)" = 0 ] || fail "$(field .failed) jobs failed: $(cat "$mnt/status")"

# What does not change a picture's bytes is no job.
before=$(wc -l <"$dir/events")
touch "$in/cp.png"
chmod 600 "$in/cp.png"
setfattr -n user.trellis.seed -v 5 "$in/cp.png" 2>/dev/null
cat "$in/cp.png" >/dev/null
: >>"$in/cp.png"
sleep 1
[ "$(wc -l <"$dir/events")" = "$before" ] || fail "touch, chmod, xattr or read made a result: $(tail -3 "$dir/events")"
done=$(field .done)
mv "$in/dd.png" "$in/dd2.png"
settle
[ "$(results "$dir/events" dd2)" = 1 ] && [ "$(field .done)" = "$done" ] || fail "after a rename: $(tail -3 "$dir/events")"

# Overwriting: new content is one more job, replaced by rename; equal content announces the old result again.
inode=$(stat -c %i "$mnt/out/cat.glb")
exec 7<"$mnt/out/cat.glb"
before=$(field .worker.starts)
picture cat.png 40 && cp "$src/cat.png" "$in/cat.png"
settle
[ "$(results "$dir/events" cat)" = 2 ] || fail "overwriting announced $(results "$dir/events" cat) results in all, not 2"
[ "$(tail -n 1 "$dir/events")" = "MOVED_TO cat.glb" ] || fail "a replacement came as $(tail -n 1 "$dir/events")"
[ "$(stat -c %i "$mnt/out/cat.glb")" != "$inode" ] || fail "a replaced mesh kept its inode"
[ "$(head -c 4 <&7)" = glTF ] || fail "a reader lost the old mesh"
exec 7<&-
cp "$src/cat.png" "$in/cat.png"
settle
[ "$(results "$dir/events" cat)" = 3 ] || fail "an equal picture announced $(results "$dir/events" cat) results in all, not 3"

# A rename over the picture is a replacement too: rsync's, and that of sed -i, which puts equal bytes there.
LC_ALL=C sed -i 's/not there/x/' "$in/cat.png"
if command -v rsync >/dev/null; then picture rsync.png 43 && rsync -a "$src/rsync.png" "$in/"; fi
settle
[ "$(results "$dir/events" cat)" = 4 ] || fail "sed -i announced $(results "$dir/events" cat) results of cat in all, not 4"
if command -v rsync >/dev/null; then
	[ "$(results "$dir/events" rsync)" = 2 ] || fail "rsync over a picture announced $(results "$dir/events" rsync) results in all, not 2"
fi

# Over an existing picture in other ways: dd without O_TRUNC and rsync --inplace write into it, truncate cuts it.
picture dd2.png 44 && dd if="$src/dd2.png" of="$in/dd2.png" bs=1000 conv=notrunc status=none
if command -v rsync >/dev/null; then picture rsynci.png 46 && rsync -a --inplace "$src/rsynci.png" "$in/"; fi
settle
[ "$(results "$dir/events" dd2)" = 2 ] || fail "dd into a picture announced $(results "$dir/events" dd2) results of its new name"
if command -v rsync >/dev/null; then
	[ "$(results "$dir/events" rsynci)" = 2 ] || fail "rsync --inplace announced $(results "$dir/events" rsynci) results in all, not 2"
fi
truncate -s 40000 "$in/dd2.png"
wait_for "$mnt/out/dd2.error.txt" 120
grep -q truncated "$mnt/out/dd2.error.txt" || fail "a cut picture: $(cat "$mnt/out/dd2.error.txt")"

# Jobs run in the order in which the pictures became complete.
picture o3.png 51 && picture o1.png 52 && picture o2.png 53
before=$(wc -l <"$dir/events")
for stem in o3 o1 o2; do cp "$src/$stem.png" "$in/" && sleep 0.1; done
settle
[ "$(tail -n +$((before + 1)) "$dir/events" | grep -oE 'CLOSE_WRITE o[123].glb' | tr '\n' ' ')" = "CLOSE_WRITE o3.glb CLOSE_WRITE o1.glb CLOSE_WRITE o2.glb " ] ||
	fail "out of order: $(tail -n +$((before + 1)) "$dir/events")"

# The same stem twice: the later one keeps its whole name, also in the xattr.
picture same.png 41 && cp "$src/same.png" "$in/same.png"
wait_for "$mnt/out/same.glb"
picture same.jpg 42 && cp "$src/same.jpg" "$in/same.jpeg"
wait_for "$mnt/out/same.jpeg.glb"
getfattr --only-values -n user.trellis.outputs "$in/same.jpeg" 2>/dev/null | grep -qx out/same.jpeg.glb || fail "user.trellis.outputs does not name out/same.jpeg.glb"
finish
