#!/bin/bash
# mount_states.sh - a state directory of any earlier format opens, shows what it showed and becomes one of today's; a torn end of its
# journal costs the last change, a damaged byte no content; one of a later format is refused and left alone.
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

# same NAME WHEN - the mount shows what the program that made the fixture showed
same() {
	listing >"$dir/now"
	diff -a "$states/${1%-torn}.expect" "$dir/now" >"$dir/diff" || fail "$1, $2: $(cat -v "$dir/diff")"
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

for archive in "$states"/*.tar.xz; do
	name=$(basename "$archive" .tar.xz)
	format=${name%%-*}
	unpack "$name"
	today=$(head -c 8 "$state/journal")
	(cd "$state/contents" && find . -type f ! -empty -exec md5sum {} + | cut -d ' ' -f 1 | sort) >"$dir/contents"
	: >"$dir/log"
	mount_start
	case $name in
	*-damaged)
		grep -q damaged "$mnt/status" || fail "$name: status says nothing: $(cat "$mnt/status")"
		[ "$(field '.recovery.lost_changes // 0')" -gt 0 ] || fail "$name: status.json counts no lost change: $(field .recovery)"
		[ "$(field '.recovery.damaged_bytes // 0')" -gt 0 ] || fail "$name: status.json counts no damaged byte: $(field .recovery)"
		grep -q damaged "$dir/log" || fail "$name: the log says nothing: $(cat "$dir/log")"
		(cd "$mnt" && find . -type f ! -empty -exec md5sum {} + | cut -d ' ' -f 1 | sed 's/^\\//' | sort) >"$dir/reachable"
		lost=$(comm -23 "$dir/contents" "$dir/reachable" | wc -l)
		[ "$lost" = 0 ] || fail "$name: $lost of $(wc -l <"$dir/contents") contents are nowhere in the mount"
		mount_stop
		continue
		;;
	*-torn) grep -qE 'cut|torn' "$dir/log" || fail "$name: the log does not tell of the cut: '$(cat "$dir/log")'" ;;
	esac
	same "$name" "opened for the first time"
	all_done "$name"
	no_damage "$name"
	[ "$today" = "$(head -c 8 "$state/journal")" ] || upgraded=1
	[ -z "${upgraded:-}" ] || [ -e "$state/journal.$format" ] || fail "$name: no journal.$format is kept while it is mounted for the first time"
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
finish
