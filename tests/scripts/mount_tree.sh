#!/bin/bash
# mount_tree.sh - in/ is an ordinary writable tree; out/ and the top folder are what they say; two users keep apart.
cd "$(dirname "$0")/../.." || exit 1
. tests/mount/lib.sh
command -v jq >/dev/null || { echo "jq is not installed"; exit 77; }
options=()
[ "$(id -u)" = 0 ] && options=(-o allow_other)
mount_start "${options[@]}"
in=$mnt/in out=$mnt/out
# is WHAT WANTED GOT
is() { [ "$2" = "$3" ] || fail "$1: wanted '$2', got '$3'"; }
# no COMMAND... - must fail, and leave no harm
no() { "$@" 2>/dev/null && fail "should have been refused: $*"; }

# Contents.
head -c 300000 /dev/urandom >"$dir/r"
cp "$dir/r" "$in/r.bin" && cmp "$dir/r" "$in/r.bin" || fail "written bytes differ"
truncate -s 1234 "$in/r.bin" "$dir/r" && cmp "$dir/r" "$in/r.bin" || fail "truncate"
truncate -s 70000 "$in/r.bin" "$dir/r" && cmp "$dir/r" "$in/r.bin" || fail "extending"
echo tail | tee -a "$dir/r" >>"$in/r.bin" && cmp "$dir/r" "$in/r.bin" || fail "append"
printf XYZ | dd of="$in/r.bin" bs=1 seek=500 conv=notrunc status=none
printf XYZ | dd of="$dir/r" bs=1 seek=500 conv=notrunc status=none
cmp "$dir/r" "$in/r.bin" || fail "write in the middle"
dd if="$dir/r" of="$in/s.bin" conv=fsync status=none && sync "$in/s.bin" || fail "fsync"
fallocate -l 5000 "$in/f.bin" && is "fallocate" 5000 "$(stat -c %s "$in/f.bin")"
exec 8>"$in/gone.bin"; rm "$in/gone.bin"; echo still >&8 || fail "writing an unlinked file"; exec 8>&-
"$TRELLIS_BUILD/tests/mount_exerciser" "$in" $RANDOM "${OPERATIONS:-3000}" || fail "the exerciser found a difference"

if [ "${OPERATIONS:-0}" -ge 100000 ] && command -v fio >/dev/null; then
	fio --name=v --aux-path="$dir" --directory="$in" --rw=randrw --size=32m --bs=1k-64k --numjobs=4 --verify=crc32c --verify_fatal=1 --do_verify=1 --group_reporting >"$dir/fio" 2>&1 || fail "fio: $(tail -n 5 "$dir/fio")"
	rm "$in"/v.*
fi

# Names.
mkdir "$in/a" "$in/a/b" && touch "$in/a/b/c.txt" && mv "$in/a" "$in/z" && [ -e "$in/z/b/c.txt" ] || fail "moving a folder"
no mv "$in/z" "$in/z/b/"
no rmdir "$in/z"
mkdir "$in/empty" && mv -T "$in/z/b" "$in/empty" && [ -e "$in/empty/c.txt" ] || fail "moving over an empty folder"
echo 1 >"$in/one"; echo 2 >"$in/two"; mv "$in/one" "$in/two"; is "rename over" 1 "$(cat "$in/two")"
mkdir -p "$in/z/deep"
for folder in "$in" "$in/z" "$in/z/deep"; do
	is "the inodes of . and .." ". $(stat -c %i "$folder") .. $(stat -c %i "$folder/..")" "$("$tool" dots "$folder" | xargs)"
done
rmdir "$in/z/deep"
ln -s /etc/passwd "$in/sym" && is "readlink" /etc/passwd "$(readlink "$in/sym")"
no ln "$in/two" "$in/hard"
no mkfifo "$in/pipe"
no mknod "$in/null" c 1 3
is "excl" EEXIST "$("$tool" excl "$in/two")"
mkdir "$in/many" && (cd "$in/many" && seq 1 2000 | xargs touch) && is "readdir" 2000 "$(ls "$in/many" | wc -l)"
rm -r "$in/many" || fail "rm -r"
deep=$in/deep; for i in $(seq 60); do deep=$deep/d$i; done
mkdir -p "$deep" && echo x >"$deep/f" && rm -r "$in/deep" || fail "a deep tree"
cp -a "$TRELLIS_BUILD/../fs" "$in/fs" 2>/dev/null || cp -a fs "$in/fs"
diff -r "$in/fs" fs >/dev/null || [ -d "$TRELLIS_BUILD/../fs" ] || fail "cp -a of a folder"

# Attributes.
chmod 4751 "$in/two"; is "chmod" 4751 "$(stat -c %a "$in/two")"
chmod 2644 "$in/two"; truncate -s 3 "$in/two"; is "a truncation and set-gid without x" 2644 "$(stat -c %a "$in/two")"
chmod 6755 "$in/two"; truncate -s 2 "$in/two"; is "a truncation takes set-id bits away" 755 "$(stat -c %a "$in/two")"
if [ "$(id -u)" = 0 ]; then
	chmod 6755 "$in/two"; chown 12345 "$in/two"; is "chown takes set-id bits away" 755 "$(stat -c %a "$in/two")"
	chmod 6755 "$in/two"; echo more >>"$in/two"; is "the superuser's write keeps set-id bits" 6755 "$(stat -c %a "$in/two")"
	setpriv --reuid 12345 --clear-groups echo more >>"$in/two"; is "another's write takes them away" 755 "$(stat -c %a "$in/two")"
	chown 0 "$in/two"
fi
touch -d '2001-02-03 04:05:06.5' "$in/two"; is "utimes" '2001-02-03 04:05:06.500000000' "$(stat -c %y "$in/two" | cut -c1-29)"
setfattr -n user.x -v 1 "$in/two" && setfattr -n user.y -v 22 "$in/two" && setfattr -x user.x "$in/two"
is "xattrs" user.y "$(getfattr --absolute-names "$in/two" 2>/dev/null | grep user)"
no setfattr -n trusted.x -v 1 "$in/two"
no setfattr -n security.x -v 1 "$in/two"
no setfattr -n user.trellis.seed -v nonsense "$in/two"
no setfattr -n user.trellis.state -v 'done' "$in/two"
no setfattr -n user.big -v "$(head -c 70000 /dev/zero | tr '\0' x)" "$in/two"
is "statfs" "$(stat -f -c %b "$state")" "$(stat -f -c %b "$mnt")"
is "mount options" 2 "$(grep " $mnt " /proc/mounts | grep -oE 'nosuid|nodev' | wc -l)"

# The top folder and out/ are the daemon's.
no touch "$mnt/x"
no mkdir "$mnt/x"
no rm -f "$mnt/README"
no mv "$in/two" "$mnt/"
is "create in out" EACCES "$("$tool" excl "$out/x.glb")"
no mkdir "$out/d"
no ln -s x "$out/l"
no mv "$in/two" "$out/"
no ls "$mnt/.publish-0000000000000000"
"$tool" png "$dir/p.png" 1 1000; mkdir "$in/g"; cp "$dir/p.png" "$in/g/p.png"; wait_for "$out/g/p.glb"
(echo x >"$out/g/p.glb") 2>/dev/null && fail "wrote to a mesh"
no truncate -s 0 "$out/g/p.glb"
mv "$out/g/p.glb" "$out/g/q.glb" && [ -s "$out/g/q.glb" ] || fail "renaming a mesh"
mv "$out/g/q.glb" "$dir/" && [ -s "$dir/q.glb" ] && [ ! -e "$out/g/q.glb" ] || fail "taking a mesh away"
rm -r "$out/g" || fail "removing a folder of out/"

# status: byte-exact, by stat, by tar, in a held handle; poll and inotify tell of changes.
for f in status status.json README config; do
	exec 5<"$mnt/$f"
	is "size of $f" "$(stat -Lc %s /dev/fd/5)" "$(cat <&5 | wc -c)"
	exec 5<&-
	tar -cf - -C "$mnt" $f 2>"$dir/tar" | tar -xf - -O >"$dir/got" && [ -s "$dir/got" ] && [ ! -s "$dir/tar" ] || fail "tar of $f: $(cat "$dir/tar")"
done
jq -e '.version and .device.name and .state.free_bytes' "$mnt/status.json" >/dev/null || fail "status.json"
watch_out "$dir/status-events" "$mnt/status"
"$tool" poll "$mnt/status.json" 5000 & poller=$!
sleep 0.3; "$tool" png "$dir/p2.png" 2 1000; cp "$dir/p2.png" "$in/"
wait $poller || fail "poll on status.json did not wake"
sleep 2.5; grep -q ATTRIB "$dir/status-events" || fail "status was not touched"
# It is true when it is opened, and who holds it open is told the size of what he reads, though it says more by now. The first
# change after a quiet second is told at once. A renamed file is looked at without waiting.
told=$(wc -l <"$dir/status-events")
printf 'RIFF    WEBPVP8 ' >"$in/.new"
exec 5<"$mnt/status"
mv "$in/.new" "$in/new.webp"
wait_for "$out/new.error.txt"
sleep 0.2
is "size of status, held open" "$(stat -Lc %s /dev/fd/5)" "$(cat <&5 | tee "$dir/held" | wc -c)"
exec 5<&-
grep -q 'in/new.webp' "$mnt/status" || fail "status is not fresh"
grep -q 'in/new.webp' "$dir/held" && fail "a held status changed"
[ "$(wc -l <"$dir/status-events")" -gt "$told" ] || fail "status was not touched at once"

# config: as a whole or not at all.
echo 'seed = 123' >"$mnt/config" && grep -q '^seed = 123' "$mnt/config" || fail "config was not taken"
echo 'steps = 7' >>"$mnt/config" && grep -q '^seed = 123' "$mnt/config" && grep -q '^steps = 7' "$mnt/config" || fail "appending to config"
printf 'seed = 5\nsteps = much\n' >"$dir/bad"
no cp "$dir/bad" "$mnt/config"
grep -q '^seed = 123' "$mnt/config" || fail "a refused config changed something"
grep -q 'config refused' "$mnt/status" || fail "status does not say why the config was refused"
# The shell hears of it, also when the good and the bad come apart; a line that comes in two parts is whole in the end.
no bash -c "echo bad >'$mnt/config'"
no bash -c "echo 'seed = -1' >>'$mnt/config'"
no bash -c "{ echo 'seed = 6'; echo bad; } >'$mnt/config'"
no bash -c "{ echo bad; echo 'seed = 6'; } >'$mnt/config'"
grep -q '^seed = 123' "$mnt/config" || fail "part of a refused config was taken"
grep -q "config refused: config line 1: 'bad' is not key = value" "$mnt/status" || fail "status does not name the bad line: $(cat "$mnt/status")"
(printf 'se'; printf 'ed = 6\nste'; printf 'ps = 8') >"$mnt/config"
grep -q '^seed = 6' "$mnt/config" && grep -q '^steps = 8' "$mnt/config" || fail "a config in three parts was not taken"
grep -q 'config refused' "$mnt/status" && fail "the refusal outlives a good config"
printf 'seed = 7\n' | dd of="$mnt/config" conv=notrunc status=none && grep -q '^seed = 7' "$mnt/config" || fail "writing over the start of config"
echo 'formats = obj stl glb' >"$mnt/config"
"$tool" png "$dir/p3.png" 3 1000; cp "$dir/p3.png" "$in/"; wait_for "$out/p3.glb"
[ -s "$out/p3.obj" ] && [ -s "$out/p3.stl" ] || fail "formats: $(ls "$out")"
setfattr -n user.trellis.formats -v ply "$in/p3.png"; setfattr -n user.trellis.submit -v 1 "$in/p3.png"
wait_for "$out/p3.ply"

# One descriptor of config, read by threads while another one writes beyond the end: only what was written is ever read.
"$tool" race-config "$mnt/config" 4 || fail "config told what nobody wrote"

# Another user: modes hold, results are the owner's, users take turns.
if [ "$(id -u)" = 0 ] && chmod 755 "$dir" && command -v setpriv >/dev/null; then
	as() { setpriv --reuid=65534 --regid=65534 --clear-groups "$@"; }
	chmod 600 "$in/two"
	no as cat "$in/two"
	no as rm "$in/two"
	no as mv "$in/two" "$in/stolen"
	as cp "$dir/p.png" "$in/nobody.png" || fail "a user cannot write to in/"
	wait_for "$out/nobody.glb"
	is "owner of a mesh" 65534 "$(stat -c %u "$out/nobody.glb")"
	no as rm "$out/p3.glb"
	no as touch "$out/x"
	as rm "$out/nobody.glb" || fail "a user cannot delete the own mesh"
	no as sh -c "echo 'seed = 1' >'$mnt/config'"
	is "state of others" 700 "$(stat -c %a "$state")"
else
	echo "skipped: a second user needs root and setpriv"
fi
finish
