#!/bin/bash
# mount_logger.sh - nobody reads the log: the mount answers, jobs go on, and unmounting ends. In the foreground the log is a pipe
# that is full; in the background a socket /dev/log, in a namespace of its own.
cd "$(dirname "$0")/../.." || exit 1
. tests/mount/lib.sh
command -v jq >/dev/null || { echo "jq is not installed"; exit 77; }
in=$mnt/in out=$mnt/out
give_up() {
	echo "FAIL: $1: the mount does not answer"
	kill -9 "$daemon"
	exit 1
}

# look WHAT - 300 pictures that fail, each with a line for the log, and one that does not
look() {
	# shellcheck disable=SC2016 # the inner shell's
	timeout -s KILL 60 bash -c 'for i in $(seq 300); do echo "no picture" >"$1/broken-$i.gif"; done' - "$in" || give_up "$1"
	timeout -s KILL 20 ls "$in" "$mnt/status" >/dev/null || give_up "$1"
	for _ in $(seq 300); do
		[ "$(timeout -s KILL 20 jq .failed "$mnt/status.json")" = 300 ] && break || sleep 0.2
	done
	"$tool" png "$dir/good.png" 1 2000
	cp "$dir/good.png" "$in/"
	for _ in $(seq 300); do timeout -s KILL 20 test -e "$out/good.glb" && break || sleep 0.2; done
	timeout -s KILL 20 test -e "$out/good.glb" || fail "$1: the next picture was not made"
	[ "$(timeout -s KILL 20 jq .failed "$mnt/status.json")" = 300 ] || fail "$1: status: $(timeout -s KILL 20 cat "$mnt/status")"
	timeout -s KILL 20 fusermount3 -u "$mnt" || fail "$1: cannot be unmounted"
	wait_gone 50 || fail "$1: the daemon did not end within 5 s of unmounting"
}

if [ "${1:-}" = socket ]; then
	# Of /dev only what a mount needs, and a log.
	mkdir "$dir/dev"
	mount -t tmpfs tmpfs "$dir/dev" || exit 77
	for node in null zero urandom fuse; do : >"$dir/dev/$node" && mount --bind "/dev/$node" "$dir/dev/$node" || exit 77; done
	ln -s /proc/self/fd "$dir/dev/fd"
	mount --rbind "$dir/dev" /dev || exit 77
	"$tool" deaf-log /dev/log &
	watchers+=($!)
	for _ in $(seq 100); do [ -S /dev/log ] && break || sleep 0.05; done
	[ -S /dev/log ] || exit 77
	"$TRELLIS_BUILD/trellisfs" -o worker="$TRELLIS_BUILD/tests/fake_worker",state="$state",preview=off "$mnt" || exit 1
	daemon=$(pgrep -f "state=$state,preview=off $mnt" | head -n 1)
	look "a log socket"
	umount -l /dev "$dir/dev"
	finish
fi

mkfifo "$dir/pipe"
exec 8<>"$dir/pipe" # kept open and never read
timeout 1 dd if=/dev/zero of="$dir/pipe" bs=4096 status=none
"$TRELLIS_BUILD/trellisfs" -f -o worker="$TRELLIS_BUILD/tests/fake_worker",state="$state",preview=off "$mnt" 2>&8 8>&- &
daemon=$!
disown
for _ in $(seq 200); do [ -e "$mnt/status" ] && break || sleep 0.05; done
look "a full pipe"
exec 8>&-

if [ "$(id -u)" != 0 ] || ! unshare -m true 2>/dev/null; then
	echo "without the part on /dev/log: it needs root and a mount namespace"
	finish
fi
tests/mount/apart.sh --propagation private -- bash "$0" socket
case $? in
0) ;;
77) echo "without the part on /dev/log: no /dev of its own can be made here" ;;
*) failures=$((failures + 1)) ;;
esac
finish
