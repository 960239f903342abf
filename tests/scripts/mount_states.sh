#!/bin/bash
# mount_states.sh - a state directory of any earlier format opens, shows what it showed and becomes one of today's; a torn end of its
# journal costs the last change, a damaged byte no content; one of a later format is refused and left alone. --check says so, too, and
# --salvage gives the files without a mount.
# The fixtures are in tests/states, written by make.sh. Needs root (owners).
cd "$(dirname "$0")/../.." || exit 1
. tests/mount/lib.sh
command -v jq >/dev/null || { echo "jq is not installed"; exit 77; }
[ "$(id -u)" = 0 ] || { echo "files of several owners need root"; exit 77; }
states=$PWD/tests/states
export FAKE_WORKER="only=work slow=3600000"

# unpack NAME - the fixture becomes $state
unpack() {
	rm -rf "$dir/state"
	tar -C "$dir" -xJf "$states/$1.tar.xz" || fail "$1 cannot be unpacked"
}

# followed - a listing of when results kept their names as it is now that they have followed their pictures
followed() { sed 's#out/failed\.error\.txt#out/failed-too.error.txt#; s#out/moved\.#out/folder/after.#' "$1" | LC_ALL=C sort; }

# same NAME WHEN - the mount shows what the program that made the fixture showed
same() {
	for _ in $(seq 100); do [ "$(field .publishing)" = 0 ] && break || sleep 0.1; done
	listing >"$dir/now"
	followed "$states/${1%-torn}.expect" | diff -a - "$dir/now" >"$dir/diff" || fail "$1, $2: $(cat -v "$dir/diff")"
}

# all_done NAME - what was finished runs no more, what was running or queued is again
all_done() {
	for _ in $(seq 100); do [ "$(field '"\(.running | length) \(.queued) \(.settling)"')" = "1 2 0" ] && break || sleep 0.1; done
	[ "$(field '"\(.running | length) \(.queued) \(.settling)"')" = "1 2 0" ] || fail "$1: not one job running and two queued: $(cat "$mnt/status")"
	[ "$(field '"\(.done) \(.failed)"')" = "0 0" ] || fail "$1: finished jobs ran again: $(cat "$mnt/status")"
	[ "$(getfattr --only-values -n user.trellis.state "$mnt/in/done.png" 2>/dev/null)" = 'done' ] || fail "$1: done.png is not done"
	[ "$(getfattr --only-values -n user.trellis.state "$mnt/in/failed-too.png" 2>/dev/null)" = failed ] || fail "$1: failed-too.png is not failed"
}

# no_damage NAME - neither status nor status.json speaks of any
no_damage() {
	grep damaged "$mnt/status" && fail "$1: status speaks of damage"
	[ "$(field '.recovery // {} | [.lost_changes, .damaged_bytes, .reordered, .lost_files, .missing_files] | map(. // 0) | add')" = 0 ] || fail "$1: $(field .recovery)"
	[ ! -e "$mnt/lost" ] || fail "$1: there is a folder lost/"
}

# everything - checksum, mode, owner, size and time of all that is in the state directory; not of its lock
everything() { (cd "$state" && find . ! -name lock ! -path . -printf '%y %m %U:%G %s %l %p\n' -type f -printf '%T@ ' -exec md5sum {} \; | LC_ALL=C sort -k 3); }

# check EXPECTED ARGUMENT... - trellisfs --check ends with that, and changes nothing
check() {
	local status
	everything >"$dir/unchecked"
	timeout 60 "$TRELLIS_BUILD/trellisfs" --check "${@:2}" >"$dir/check" 2>&1
	status=$?
	[[ $status =~ ^($1)$ ]] || fail "${name:-}: --check ${*:2} ends with $status, not $1: $(head -c 1000 "$dir/check")"
	[ -s "$dir/check" ] || fail "${name:-}: --check ${*:2} says nothing"
	everything | diff "$dir/unchecked" - || fail "${name:-}: --check ${*:2} changed something"
}

# files FOLDER - the bytes and names of all files in in/ and out/, and the links
files() { (cd "$1" && find in out -type f -exec md5sum {} + && find in out -type l -printf '%p %l\n') | LC_ALL=C sort; }

for archive in "$states"/*.tar.xz; do
	name=$(basename "$archive" .tar.xz)
	format=${name%%-*}
	unpack "$name"
	today=$(head -c 8 "$state/journal")
	(cd "$state/contents" && find . -type f ! -empty -exec md5sum {} + | cut -d ' ' -f 1 | sort) >"$dir/contents"
	: >"$dir/log"
	case $name in
	*-damaged) check 4 "$state" ;;
	*-torn) check '0|4' "$state" ;;
	*) check 0 "$state" ;;
	esac
	rm -rf "$dir/saved"
	check '0|4' "$state" --salvage "$dir/saved"
	mount_start
	timeout 60 "$TRELLIS_BUILD/trellisfs" --check "$state" >"$dir/check" 2>&1
	status=$?
	[ $status = 8 ] && [ "$(wc -l <"$dir/check")" = 1 ] || fail "$name: --check of a state that is in use ends with $status: $(cat "$dir/check")"
	case $name in
	*-damaged)
		grep -q damaged "$mnt/status" || fail "$name: status says nothing: $(cat "$mnt/status")"
		[ "$(field '.recovery.lost_changes // 0')" -gt 0 ] || fail "$name: status.json counts no lost change: $(field .recovery)"
		[ "$(field '.recovery.damaged_bytes // 0')" -gt 0 ] || fail "$name: status.json counts no damaged byte: $(field .recovery)"
		grep -q damaged "$dir/log" || fail "$name: the log says nothing: $(cat "$dir/log")"
		(cd "$mnt" && find . -type f ! -empty -exec md5sum {} + | cut -d ' ' -f 1 | sed 's/^\\//' | sort) >"$dir/reachable"
		(cd "$dir/saved" && find . -type f ! -empty -exec md5sum {} + | cut -d ' ' -f 1 | sed 's/^\\//' | sort) >"$dir/salvaged"
		lost=$(comm -23 "$dir/contents" "$dir/salvaged" | wc -l)
		[ "$lost" = 0 ] || fail "$name: --salvage leaves out $lost of $(wc -l <"$dir/contents") contents"
		lost=$(comm -23 "$dir/contents" "$dir/reachable" | wc -l)
		[ "$lost" = 0 ] || fail "$name: $lost of $(wc -l <"$dir/contents") contents are nowhere in the mount"
		mount_stop
		continue
		;;
	*-torn) grep -qE 'cut|torn' "$dir/log" || fail "$name: the log does not tell of the cut: '$(cat "$dir/log")'" ;;
	esac
	same "$name" "opened for the first time"
	files "$mnt" >"$dir/files"
	files "$dir/saved" 2>&1 | followed - | diff -a "$dir/files" - >"$dir/diff" || fail "$name: --salvage gives other files than the mount: $(cat -v "$dir/diff")"
	[ ! -e "$dir/saved/lost" ] || fail "$name: --salvage finds lost files"
	all_done "$name"
	no_damage "$name"
	[ "$today" = "$(head -c 8 "$state/journal")" ] || upgraded+=" $name"
	[[ " ${upgraded:-} " != *" $name "* ]] || [ -e "$state/journal.$format" ] || fail "$name: no journal.$format is kept while it is mounted for the first time"
	mount_stop
	[ ! -e "$state/journal.$format" ] || fail "$name: journal.$format is there after a clean unmount"
	mount_start
	same "$name" "opened again"
	all_done "$name, opened again"
	no_damage "$name, opened again"
	mount_stop

	# The program is killed right after it has opened it.
	unpack "$name"
	mount_start
	kill -9 $daemon
	wait_gone 100
	umount "$mnt" 2>/dev/null || fusermount3 -u -z "$mnt"
	mount_start
	same "$name" "opened after a kill -9"
	all_done "$name, opened after a kill -9"
	mount_stop
	[ ! -e "$state/journal.$format" ] || fail "$name: journal.$format is there after a kill -9 and a clean unmount"
done
[ -n "${upgraded:-}" ] || fail "no fixture was upgraded: there is none of an earlier format, or the journal keeps its old magic"

# A later format: one sentence, and nothing is touched.
unpack trlsfs1
printf 'trlsfs3\n' | dd of="$state/journal" bs=1 conv=notrunc status=none
everything >"$dir/before"
text=$(timeout 20 "$TRELLIS_BUILD/trellisfs" -o worker="$TRELLIS_BUILD/tests/fake_worker",state="$state" "$mnt" 2>&1) && fail "a state directory of a later format was opened"
[ "$(wc -l <<<"$text")" = 1 ] && [[ $text =~ (newer|later) ]] || fail "of a later format it says: '$text'"
everything >"$dir/after"
diff "$dir/before" "$dir/after" || fail "a state directory of a later format was changed"
name=trlsfs3
check 8 "$state"
check 8 "$state" --repair
check 8 "$state" --salvage "$dir/later"
check 8 "$dir/none"
[ ! -e "$dir/none" ] || fail "--check made a state directory"

# A time before 1970 comes out as it was.
unpack trlsfs1
name=before-1970
mount_start
echo old >"$mnt/in/old.txt"
touch -d '1969-12-31T23:59:58.25Z' "$mnt/in/old.txt"
mount_stop
check 0 "$state" --salvage "$dir/old"
[ "$(TZ=UTC stat -c %y "$dir/old/in/old.txt")" = '1969-12-31 23:59:58.250000000 +0000' ] || fail "--salvage gives $(stat -c %y "$dir/old/in/old.txt")"

# What nobody can mean.
unpack trlsfs1
name=usage
mkdir "$dir/full"
echo kept >"$dir/full/file"
check '8|16' "$state" --salvage "$dir/full"
[ "$(ls "$dir/full")$(cat "$dir/full/file")" = filekept ] || fail "--salvage wrote into a folder that was not empty"
check 16 "$state" --nonsense
check 16 "$state" --repair --salvage "$dir/new"
check 16
finish
