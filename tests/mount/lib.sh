# shellcheck shell=bash
# lib.sh - for the mount's tests: start and end a mount with a fake worker, watch out/, count jobs. Sourced.
# Everything lives in $dir, which goes away at the end with the mount.
set -u
: "${TRELLIS_BUILD:?}"
tool=$TRELLIS_BUILD/tests/mount_tool
if [ ! -c /dev/fuse ] || ! (: <>/dev/fuse) 2>/dev/null; then
	echo "/dev/fuse cannot be used here"
	exit 77
fi
dir=$(mktemp -d)
mnt=$dir/m
state=$dir/state
failures=0
watchers=()
mkdir "$mnt"

cleanup() {
	[ ${#watchers[@]} = 0 ] || kill "${watchers[@]}" 2>/dev/null
	[ -z "${daemon:-}" ] || kill "$daemon" 2>/dev/null # it may be about to mount
	fusermount3 -u -z "$mnt" 2>/dev/null
	# the daemon holds the lock of its state directory until it has ended
	for _ in $(seq 100); do flock -n "$state/lock" true 2>/dev/null && break || sleep 0.05; done
	if grep -sA40 -E 'ERROR: AddressSanitizer|WARNING: ThreadSanitizer|runtime error|LeakSanitizer' "$dir/log"; then
		rm -rf --one-file-system "$dir"
		exit 1
	fi
	rm -rf --one-file-system "$dir"
}
trap cleanup EXIT
trap 'exit 1' INT TERM

fail() {
	echo "FAIL: $*"
	failures=$((failures + 1))
}

# mount_start [OPTION...] - in the foreground with its log in $dir/log, so that sanitizers have a place to write
mount_start() {
	TSAN_OPTIONS="${TSAN_OPTIONS:-} halt_on_error=0" "$TRELLIS_BUILD/trellisfs" -f \
		-o worker="$TRELLIS_BUILD/tests/fake_worker",state="$state" "$@" "$mnt" >>"$dir/log" 2>&1 &
	daemon=$!
	disown
	for _ in $(seq 200); do
		[ -e "$mnt/status" ] && return
		kill -0 $daemon 2>/dev/null || break
		sleep 0.05
	done
	echo "the mount did not come up"
	cat "$dir/log"
	exit 1
}

# mount_stop - unmount and wait for the daemon's end; fails after 6 s
mount_stop() {
	fusermount3 -u "$mnt" || fusermount3 -u -z "$mnt"
	wait_gone 60 || fail "the daemon did not end within 6 s of unmounting"
}

# wait_gone TENTHS - until the daemon has ended
wait_gone() {
	for _ in $(seq "$1"); do
		flock -n "$state/lock" true && return
		sleep 0.1
	done
	return 1
}

# field PATH - of status.json
field() { jq -r "$1" "$mnt/status.json"; }

# kill_worker - SIGKILL, if there is one; false when not
kill_worker() {
	local pid
	pid=$(field .worker.pid)
	[ "${pid:-0}" -gt 1 ] 2>/dev/null && kill -9 "$pid" 2>/dev/null
}

# settle [TENTHS] - until nothing settles, waits, runs or is being published
settle() {
	for _ in $(seq "${1:-150}"); do
		sleep 0.1
		[ "$(jq -r '"\(.settling) \(.queued) \(.running | length) \(.publishing)"' "$mnt/status.json")" = "0 0 0 0" ] && return
	done
	fail "nothing came to rest: $(cat "$mnt/status")"
}

# wait_for FILE [TENTHS]
wait_for() {
	for _ in $(seq "${2:-80}"); do
		[ -e "$1" ] && return
		sleep 0.1
	done
	fail "$1 did not appear"
	return 1
}

# watch_out FILE - inotify events of out/ into FILE
watch_out() {
	: >"$1"
	"$tool" watch "${2:-$mnt/out}" >"$1" &
	watchers+=($!)
	disown
	for _ in $(seq 100); do
		grep -q READY "$1" && return
		sleep 0.02
	done
}

# count FILE PATTERN
count() { grep -cE "$2" "$1"; }

# results FILE STEM - how many times a finished STEM.glb was announced
results() { count "$1" "^(CLOSE_WRITE|MOVED_TO) $2\\.glb\$"; }

# listing - all that a mount shows, sorted by its bytes: names, owners and modes, of files also times, bytes and attributes
listing() {
	(
		cd "$mnt" || exit 1
		find in out -mindepth 1 ! -type f -printf '%y %m %U:%G %l "%p"\n'
		find in out -type f -printf '%y %m %U:%G %s %T@ "%p"\n'
		find in out -type f -exec md5sum {} +
		find in -type f -exec getfattr -h -d -m '^user\.(note|trellis\.seed)' {} + 2>/dev/null | grep user
		grep -v '^#' config
	) | LC_ALL=C sort
}

finish() {
	[ $failures = 0 ] || exit 1
	exit 0
}
