#!/bin/bash
# mount_follow.sh - results follow their pictures: at rest every picture has its outcome at the stem of its name, whatever was
# renamed, swapped, rotated, backed up, deleted or killed meanwhile; each move is one event; junk is left alone.
cd "$(dirname "$0")/../.." || exit 1
. tests/mount/lib.sh
command -v jq >/dev/null || { echo "jq is not installed"; exit 77; }
src=$dir/src in=$mnt/in out=$mnt/out
mkdir "$src"
declare -A mesh
switches() { echo "times=$dir/times $*" >"$dir/switches"; }
begin() { FAKE_WORKER=@$dir/switches mount_start -o preview=off "$@"; }
# put N NAME - picture N as in/NAME, and its result is there
put() {
	cp "$src/$1.png" "$in/$2"
	settle
}
# of N NAME - out/NAME is the mesh of picture N
of() {
	[ "$(md5sum <"$out/$2" | cut -d ' ' -f 1)" = "${mesh[$1]}" ] || fail "${FUNCNAME[1]} line ${BASH_LINENO[0]}: out/$2 is not of picture $1"
}
# absent NAME... - out/NAME is not there
absent() {
	local name
	for name; do [ ! -e "$out/$name" ] || fail "line ${BASH_LINENO[0]}: out/$name is there"; done
}
# is WHAT WANTED GOT
is() { [ "$2" = "$3" ] || fail "$1: wanted '$2', got '$3'"; }
state_of() { getfattr --only-values -n user.trellis.state "$in/$1" 2>/dev/null; }
outputs_of() { getfattr --only-values -n user.trellis.outputs "$in/$1" 2>/dev/null; }
watch() {
	[ ${#watchers[@]} = 0 ] || kill "${watchers[@]}"
	watchers=()
	watch_out "$dir/events"
}
events() { grep -cE "^(CLOSE_WRITE|MOVED_TO) $1\$" "$dir/events"; }
# jobs - how many ran since the last call
jobs() {
	grep -c ^start "$dir/times"
	: >"$dir/times"
}
# none - no job ran
none() { is "jobs ($1)" 0 "$(jobs)"; }

# The meshes as they should be: 63 pictures of which no two have the same one (the stand-in has 256).
switches ''
: >"$dir/times"
begin
for i in $(seq 100); do "$tool" png "$in/m$i.png" "$i" 3000; done
settle 400
n=0
declare -A seen
for i in $(seq 100); do
	sum=$(md5sum <"$out/m$i.glb" | cut -d ' ' -f 1)
	[ -n "${seen[$sum]:-}" ] || { n=$((n + 1)) && cp "$in/m$i.png" "$src/$n.png" && mesh[$n]=$sum; }
	seen[$sum]=1
done
[ $n -ge 63 ] || fail "only $n different meshes"
rm "$in"/m*.png "$out"/m*.glb
: >"$dir/times"

# Renamed: one event, the same inode, no job; back again; a name of another extension has the same stem.
put 1 a.png
: >"$dir/times"
watch
inode=$(stat -c %i "$out/a.glb")
mv "$in/a.png" "$in/b.png"
[ "$("$TRELLIS_BUILD/trellis" wait "$in/b.png")" = "$out/b.glb" ] || fail "trellis wait right after a rename"
settle
of 1 b.glb
absent a.glb
is "events of a rename" "1 0" "$(events b.glb) $(events a.glb)"
is inode "$inode" "$(stat -c %i "$out/b.glb")"
is outputs "out/b.glb" "$(outputs_of b.png)"
mv "$in/b.png" "$in/b.PNG"
settle
of 1 b.glb
is "events of another extension" 1 "$(events b.glb)"
mkdir "$in/sub"
mv "$in/b.PNG" "$in/sub/c.png"
settle
of 1 sub/c.glb
mv "$in/sub/c.png" "$in/a.png"
rmdir "$in/sub"
settle
of 1 a.glb
absent sub
none renames

# Over a finished picture, as savers do: the old picture's mesh makes room.
put 2 new.png
: >"$dir/times"
watch
mv "$in/new.png" "$in/a.png"
settle
of 2 a.glb
absent new.glb
is "events of a replacement" 1 "$(events a.glb)"
none replacement

# All formats and the error file follow.
echo 'formats = glb,obj,ply,stl,gaussian.ply' >"$mnt/config"
echo 'preview = on' >>"$mnt/config"
put 3 all.png
watch
mv "$in/all.png" "$in/every.png"
settle
for e in glb obj ply stl gaussian.ply preview.png; do
	[ -s "$out/every.$e" ] || fail "every.$e is not there"
	absent "all.$e"
	is "events of every.$e" 1 "$(events "every.$e")"
done
is "the last event" every.glb "$(tail -n 1 "$dir/events" | cut -d ' ' -f 2)"
printf 'formats = glb\npreview = off\n' >"$mnt/config"
head -c 900 "$src/4.png" >"$in/cut.png"
wait_for "$out/cut.error.txt"
settle
mv "$in/cut.png" "$in/short.png"
settle
grep -q truncated "$out/short.error.txt" || fail "an error file did not follow"
absent cut.error.txt
cp "$src/4.png" "$in/short.png"
settle
of 4 short.glb
absent short.error.txt

# Swapped, and in a circle: nothing is made anew, and each name has one event.
put 5 x.png
put 6 y.png
put 7 z.png
: >"$dir/times"
for _ in 1 2 3 4 5; do
	watch
	(cd "$in" && mv x.png t && mv y.png x.png && mv t y.png)
	settle
	of 6 x.glb
	of 5 y.glb
	absent t.glb
	is "events of a swap" "1 1" "$(events x.glb) $(events y.glb)"
	(cd "$in" && mv x.png t && mv y.png x.png && mv z.png y.png && mv t z.png)
	settle
	of 5 x.glb
	of 7 y.glb
	of 6 z.glb
	(cd "$in" && mv z.png t && mv y.png z.png && mv t y.png)
	settle
done
is "hidden results" '' "$(find "$out" -name '.*' -printf '%P')"
none swaps

# Rotated, with a new one each time, and each time at once.
for i in 11 12 13 14 15 16; do
	rm -f "$in/log.4.png"
	for k in 3 2 1; do [ -e "$in/log.$k.png" ] && mv "$in/log.$k.png" "$in/log.$((k + 1)).png"; done
	[ -e "$in/log.png" ] && mv "$in/log.png" "$in/log.1.png"
	put $i log.png
done
of 16 log.glb
for k in 1 2 3 4; do of $((16 - k)) log.$k.glb; done
(cd "$in" && mv log.1.png log.5.png && cp "$src/17.png" log.1.png) # its name is used again at once
settle
of 17 log.1.glb
of 15 log.5.glb
for i in 18 19 20; do # logrotate's names
	for k in 2 1; do [ -e "$in/r.png.$k" ] && mv "$in/r.png.$k" "$in/r.png.$((k + 1))"; done
	[ -e "$in/r.png" ] && mv "$in/r.png" "$in/r.png.1"
	put $i r.png
done
of 20 r.glb
of 19 r.png.1.glb
of 18 r.png.2.glb

# The old name has a new owner whose job runs: its mesh stays until the new one comes, and the old picture has it, too.
put 21 owned.png
switches 'slow=100'
watch
mv "$in/owned.png" "$in/left.png" && cp "$src/22.png" "$in/owned.png"
for _ in $(seq 60); do [ "$(state_of owned.png)" = running ] && break || sleep 0.05; done
of 21 left.glb
mv "$in/owned.png" "$in/gone.png" # its job runs on
settle
of 22 gone.glb
absent owned.glb
is "events" "1 1" "$(events left.glb) $(events gone.glb)"
# One that is renamed while it is made again: the mesh of its old content goes when the new one is there.
put 23 again.png
switches 'slow=100'
watch
cp "$src/24.png" "$in/again.png"
for _ in $(seq 60); do [ "$(state_of again.png)" = running ] && break || sleep 0.05; done
mv "$in/again.png" "$in/anew.png"
settle
of 24 anew.glb
absent again.glb
is "events of anew" 1 "$(events anew.glb)"
switches ''

# What a user deletes or takes away is not made again by a rename, and is not replaced.
put 25 del.png
put 26 keep.png
: >"$dir/times"
rm "$out/del.glb"
mv "$out/keep.glb" "$out/mine.glb"
mv "$in/del.png" "$in/del2.png"
mv "$in/keep.png" "$in/keep2.png"
settle
absent del2.glb keep2.glb
is states "done done" "$(state_of del2.png) $(state_of keep2.png)"
none "deleted results"
put 27 mine.png
of 26 mine.glb
of 27 mine.png.glb
setfattr -n user.trellis.submit -v 1 "$in/del2.png"
settle
of 25 del2.glb
mv "$out/del2.glb" "$out/aside.glb" # and brought back: it is its result again
mv "$out/aside.glb" "$out/del2.glb"
mv "$in/del2.png" "$in/del3.png"
settle
of 25 del3.glb

# Asked for, it runs, whatever there is; an equal picture does not.
put 26 asked.png
: >"$dir/times"
setfattr -n user.trellis.submit -v 1 "$in/asked.png"
settle
is "jobs that were asked for" 1 "$(jobs)"
cp "$src/26.png" "$in/asked.png"
settle
none "an equal picture"

# A clash at the target: another picture of that stem, a folder of that name, a picture in a folder that is a file.
put 28 cl.jpg
put 29 cm.png
mv "$in/cm.png" "$in/cl.png"
settle
of 28 cl.glb
of 29 cl.png.glb
mkdir "$in/photo.glb" "$in/c.preview.png"
put 30 photo.glb/inner.png
put 31 photo.png
of 30 photo.glb/inner.glb
of 31 photo.png.glb
echo 'preview = on' >"$mnt/config"
put 32 c.png
echo 'preview = off' >"$mnt/config"
put 33 c.preview.png/y.png
of 32 c.glb
of 33 c.preview.png-2/y.glb
setfattr -n user.trellis.formats -v gaussian.ply "$in/cl.png"
echo 'formats = gaussian.ply' >"$mnt/config"
put 34 g.png
echo 'formats = ply' >"$mnt/config"
put 35 g.gaussian.png
echo 'formats = glb' >"$mnt/config"
[ -s "$out/g.gaussian.ply" ] && [ -s "$out/g.gaussian.png.ply" ] || fail "two pictures share out/g.gaussian.ply: $(ls "$out")"

# Folders: as a whole where that can be, else file by file.
mkdir -p "$in/d/e"
cp "$src/36.png" "$in/d/e/p.png"
cp "$src/37.png" "$in/d/q.png"
settle
: >"$dir/times"
watch
inode=$(stat -c %i "$out/d")
mv "$in/d" "$in/f"
settle
of 36 f/e/p.glb
of 37 f/q.glb
absent d
is "a folder's inode" "$inode" "$(stat -c %i "$out/f")"
is "events of a folder" "1 2" "$(events f) $(wc -l <"$dir/events" | awk '{print $1 - 1}')"
mkdir "$in/f2"
put 38 f2/own.png
mv "$out/f2/own.glb" "$out/f/guest.glb"
mv "$in/f" "$in/h"
settle
of 36 h/e/p.glb
of 37 h/q.glb
of 38 f/guest.glb
absent f/e f/q.glb
mv "$in/h/e/p.png" "$in/h/q.png" # and within them
rmdir "$in/h/e"
settle
of 36 h/q.glb
absent h/e
mv "$in/h" "$in/i" && mv "$in/i" "$in/k"
settle
of 36 k/q.glb
absent h i
is "jobs of renamed folders" 1 "$(jobs)"
mkdir "$in/slow"
switches 'slow=100'
cp "$src/39.png" "$in/slow/s.png"
for _ in $(seq 60); do [ "$(state_of slow/s.png)" = running ] && break || sleep 0.05; done
mv "$in/slow" "$in/fast"
settle
of 39 fast/s.glb
absent slow
switches ''

# Junk: kept, no job, no error file; leaving such a place or name is a commit.
: >"$dir/times"
before=$(find "$out" | sort)
for d in .Trash-0/files .stversions .~tmp~ @eaDir/p.png '#recycle' '$RECYCLE.BIN' lost+found 'System Volume Information' __MACOSX p.partial; do
	mkdir -p "$in/$d"
	cp "$src/40.png" "$in/$d/j.png"
done
for f in x.png.filepart y.png.3fa1.partial z.png.download w.png.bak w.png.orig v.png.Xy12Zq u.png_original u.!sync s.opdownload; do head -c 900 "$src/40.png" >"$in/$f"; done
cp "$src/41.png" "$in/v.png.Qq34Wr"
sleep 6.5
settle
is "results of junk" "$before" "$(find "$out" | sort)"
none junk
mv "$in/.Trash-0/files" "$in/restored"
mv "$in/v.png.Qq34Wr" "$in/v.png"
settle
of 40 restored/j.glb
of 41 v.glb
mv "$in/restored" "$in/.Trash-0/files" # its result stays, as that of a deleted picture
settle
of 40 restored/j.glb
mv "$in/.Trash-0/files/j.png" "$in/j.png"
settle
of 40 j.glb
absent restored/j.glb
is "jobs of what left junk" 2 "$(jobs)"
switches 'slow=100'
cp "$src/42.png" "$in/hide.png"
for _ in $(seq 60); do [ "$(state_of hide.png)" = running ] && break || sleep 0.05; done
mkdir "$in/.hidden"
mv "$in/hide.png" "$in/.hidden/"
switches ''
settle
absent hide.glb .hidden
mv "$in/.hidden" "$in/shown"
settle
of 42 shown/hide.glb

# Tools: backups, rsync's delayed updates, a slow atomic save.
for i in 43 44 45; do
	cp --backup=simple "$src/$i.png" "$in/simple.png"
	settle
	of $i simple.glb
	cp --backup=numbered "$src/$i.png" "$in/numbered.png"
	settle
	of $i numbered.glb
done
is "results of backups" "numbered.glb simple.glb" "$(cd "$out" && echo numbered* simple*)"
mv "$in/simple.png~" "$in/back.png" # the content before is wanted again
settle
of 44 back.glb
of 45 simple.glb
if command -v rsync >/dev/null; then
	mkdir "$dir/many"
	for i in $(seq 50 60); do cp "$src/$i.png" "$dir/many/r$i.png"; done
	rsync -a --delay-updates --bwlimit=20 "$dir/many/" "$in/many/"
	settle 300
	for i in $(seq 50 60); do of "$i" "many/r$i.glb"; done
	is "results of rsync" 11 "$(find "$out/many" -type f | wc -l)"
else
	echo "skipped: rsync is not installed"
fi
cp "$src/46.png" "$in/saved.png.aB3dE9" && sleep 1 && mv "$in/saved.png.aB3dE9" "$in/saved.png"
settle
of 46 saved.glb
is "results of a slow save" saved.glb "$(cd "$out" && echo saved*)"

# Killed between the rename of the picture and that of its results: the helper is stopped, so that nothing can move.
put 47 kill.png
put 48 swap1.png
put 49 swap2.png
mkdir "$in/kf"
put 61 kf/one.png
put 62 kf/two.png
: >"$dir/times"
helper=$(pgrep -P "$daemon" -f internal-helper)
kill -STOP "$helper"
(cd "$in" && mv kill.png killed.png && cp "$src/63.png" kill.png && mv swap1.png t && mv swap2.png swap1.png && mv t swap2.png && mv kf kg)
kill -9 "$daemon"
kill -9 "$helper"
wait_gone 50
begin
settle
of 47 killed.glb
of 63 kill.glb
of 49 swap1.glb
of 48 swap2.glb
of 61 kg/one.glb
of 62 kg/two.glb
absent kf
is "jobs after the restart" 1 "$(jobs)"
mount_stop

# A model that was repaired makes new meshes of what is written or asked for, and of nothing else.
mkdir -p "$dir/model/ckpts"
echo 1 >"$dir/model/ckpts/weights"
echo {} >"$dir/model/pipeline.json"
begin -o model="$dir/model"
put 47 repaired.png
: >"$dir/times"
put 47 repaired.png
none "the same model"
echo 2 >"$dir/model/ckpts/new" && mv "$dir/model/ckpts/new" "$dir/model/ckpts/weights"
sleep 0.5
settle
none "a repaired model"
put 47 repaired.png
is "jobs with a repaired model" 1 "$(jobs)"
finish
