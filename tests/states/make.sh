#!/bin/bash
# make.sh FORMAT - a fixture of a state directory, written by the program that is built: FORMAT.tar.xz, the same with a torn tail
# (FORMAT-torn) and with a damaged byte in the middle of the journal (FORMAT-damaged), and FORMAT.expect, what the mount of it lists.
# Run it once, before the format changes; tests/scripts/mount_states.sh opens what it made for ever. Needs root (owners).
# shellcheck disable=SC2034 # state is read by lib.sh
format=${1:?FORMAT}
cd "$(dirname "$0")/../.." || exit 1
: "${TRELLIS_BUILD:=$PWD/build}"
export TRELLIS_BUILD
. tests/mount/lib.sh
here=$PWD/tests/states
for i in 1 2 3 4 5 6; do "$tool" png "$dir/$i.png" $i $((300 * i)); done
FAKE_WORKER="only=work slow=3600000" mount_start -o preview=on
cd "$mnt/in" || exit 1
cp "$dir/1.png" done.png
mkdir -p folder/below
cp "$dir/2.png" "folder/below/picture with spaces.png"
cp "$dir/1.png" equal.png
head -c 200 "$dir/3.png" >failed.png
setfattr -n user.note -v kept done.png
setfattr -n user.trellis.seed -v 7 "folder/below/picture with spaces.png"
echo 'no picture' >notes.txt
cp "$dir/4.png" .hidden.png
: >empty
ln -s ../notes.txt folder/link
cp "$dir/4.png" "$(printf 'x%.0s' $(seq 251)).png"
cp "$dir/5.png" $'line\nbreak \xff.png'
cp "$dir/3.png" moved.png
chown 1000:1001 equal.png
chmod 600 equal.png
chmod 750 folder
touch -d '2020-02-03 04:05:06.789' notes.txt
settle 300
rm ../out/equal.glb
mv moved.png folder/after.png
mv ../out/moved.glb ../out/folder/kept.glb
mv failed.png failed-too.png
printf 'seed = 3\nformats = glb,obj\n' >../config
cp "$dir/6.png" working.png
for _ in $(seq 100); do [ "$(field '.running | length')" = 1 ] && break || sleep 0.1; done
cp "$dir/5.png" worked.png
cp "$dir/6.png" works.png
for _ in $(seq 100); do [ "$(field .queued)" = 2 ] && break || sleep 0.1; done
sync .
cd / || exit 1

listing >"$here/$format.expect"
kill -9 $daemon
wait_gone 100
fusermount3 -u -z "$mnt"
pack() { tar -C "$dir" --sort=name --format=posix --pax-option=delete=atime,delete=ctime --exclude=reserve --exclude=lock -cJf "$here/$1.tar.xz" state; }
pack "$format"
cp "$state/journal" "$dir/journal"
# what a crash leaves that cut a write short: bytes of a change behind what was synced
head -c $(($(stat -c %s "$dir/journal") / 2)) "$dir/journal" | tail -c 30 >>"$state/journal"
pack "$format-torn"
cp "$dir/journal" "$state/journal"
printf '\377' | dd of="$state/journal" bs=1 seek=$(($(stat -c %s "$dir/journal") / 2)) conv=notrunc status=none
pack "$format-damaged"
finish
