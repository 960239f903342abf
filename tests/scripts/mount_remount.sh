#!/bin/bash
# mount_remount.sh - mounting again right after unmounting waits for the daemon that is still ending, idle or at work; while a daemon lives
# a second one is refused, soon and in one sentence; a daemon in the background keeps nothing open that was its caller's.
cd "$(dirname "$0")/../.." || exit 1
. tests/mount/lib.sh
command -v jq >/dev/null || { echo "jq is not installed"; exit 77; }
mkdir "$dir/src" "$dir/m2"
for i in $(seq 40); do "$tool" png "$dir/src/$i.png" "$i" 3000; done
milliseconds() { date +%s%3N; }
trap 'fusermount3 -u -z "$dir/m2" 2>/dev/null; cleanup' EXIT

# up [MOUNTPOINT] - in the background, as a user does it; what it says is in $said
up() { said=$(timeout 30 "$TRELLIS_BUILD/trellisfs" -o worker="$TRELLIS_BUILD/tests/fake_worker",state="$state" "${1:-$mnt}" 2>&1); }

# again WHAT ROUNDS [COMMAND...] - unmount and mount at once, so often; COMMAND before each
again() {
	local what=$1 rounds=$2 n slowest=0 start took
	shift 2
	for n in $(seq "$rounds"); do
		[ $# = 0 ] || "$@"
		start=$(milliseconds)
		fusermount3 -u "$mnt" || fail "$what, time $n: it cannot be unmounted"
		up || { fail "$what, time $n: not mounted again: $said" && wait_gone 100 && up; }
		took=$(($(milliseconds) - start))
		[ -z "$said" ] || fail "$what, time $n: it says '$said'"
		[ $took -le $slowest ] || slowest=$took
		[ -r "$mnt/status" ] && cmp -s "$dir/src/1.png" "$mnt/in/kept.png" || fail "$what, time $n: what is mounted is not it"
	done
	echo "$what: $rounds times, the slowest took $slowest ms"
	[ $slowest -lt 8000 ] || fail "$what: $slowest ms"
}

# start_job - one more picture is being made
next=1
start_job() {
	next=$((next + 1))
	cp "$dir/src/$next.png" "$mnt/in/"
	for _ in $(seq 100); do [ "$(field '.running | length')" = 1 ] && return; sleep 0.05; done
	fail "no job runs: $(cat "$mnt/status")"
}

up || { echo "the mount did not come up: $said" && exit 1; }
cp "$dir/src/1.png" "$mnt/in/kept.png"
wait_for "$mnt/out/kept.glb"
again "idle" 10
fusermount3 -u "$mnt"
wait_gone 100 || fail "the daemon did not end"

export FAKE_WORKER="slow=30000 only=png"
up || fail "$said"
again "while a job runs" 10 start_job
fusermount3 -u "$mnt"
wait_gone 100 || fail "the daemon did not end"
export FAKE_WORKER="slow=30000 deaf"
up || fail "$said"
again "while a job runs that nobody can stop" 2 start_job

# A second daemon: on the same state, at another place and at the same.
unset FAKE_WORKER
for at in "$dir/m2" "$mnt"; do
	start=$(milliseconds)
	up "$at" && fail "a second daemon was started at $at"
	took=$(($(milliseconds) - start))
	[ "$(wc -l <<<"$said")" = 1 ] && [[ $said =~ (in use by another|already mounted) ]] || fail "a second daemon says: '$said'"
	[ $took -lt 6000 ] || fail "a second daemon is refused after $took ms"
done
cmp -s "$dir/src/1.png" "$mnt/in/kept.png" || fail "the first daemon was disturbed"

# Two that are started at the same moment: one of them is it.
fusermount3 -u "$mnt"
wait_gone 100 || fail "the daemon did not end"
(up "$dir/m2" && echo up >"$dir/second") &
other=$!
first=
up && first=up
wait $other
[ "$first$(cat "$dir/second" 2>/dev/null)" = up ] || fail "of two at once not one was started: '$first' and '$(cat "$dir/second" 2>/dev/null)'"
[ -n "$first" ] || mnt=$dir/m2
fusermount3 -u "$mnt"
mnt=$dir/m
wait_gone 100 || fail "the daemon did not end"

# The shell gets its pipe's end though the daemon lives.
start=$(milliseconds)
timeout 20 bash -c '{ "$0" -o worker="$1",state="$2" "$3"; } 9>&1 | cat' "$TRELLIS_BUILD/trellisfs" "$TRELLIS_BUILD/tests/fake_worker" "$state" "$mnt" ||
	fail "the daemon keeps a descriptor of its caller's: no end after $(($(milliseconds) - start)) ms"
[ -r "$mnt/status" ] || fail "it is not mounted"
fusermount3 -u "$mnt"
wait_gone 100 || fail "the daemon did not end"

# A dead daemon is no daemon: after SIGKILL the next start needs nobody's help.
up || fail "$said"
pid=$(pgrep -o -f "^$TRELLIS_BUILD/trellisfs .*state=$state") && kill -9 "$pid" || fail "no daemon is found"
wait_gone 100
up || fail "after SIGKILL: $said"
cmp -s "$dir/src/1.png" "$mnt/in/kept.png" || fail "after SIGKILL what is mounted is not it"
fusermount3 -u "$mnt"
wait_gone 100 || fail "the daemon did not end"
finish
