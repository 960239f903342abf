#!/bin/bash
# jobs.sh BUILD MODEL [OPTION...] - whole jobs through a mount: seconds from mounting to a model that takes jobs and to the
# mesh of a picture that was there at once, from close() of a picture to its mesh, jobs a minute with a full queue, and the
# device memory that takes. OPTIONs are the mount's.
set -u
cd "$(dirname "$0")/../.." || exit 1
build=$1 model=$2
[ "${build#/}" = "$build" ] && build=$PWD/$build
shift 2
mount=$(mktemp -d) state=$(mktemp -d)
fs=$build/trellisfs
options=(-o "model=$model,state=$state,device=cuda,simplify=100000" ${@:+-o "$(IFS=,; echo "$*")"})
now() { date +%s.%N; }
since() { echo "$(now) $1" | awk '{printf "%.2f s", $1 - $2}'; }
cleanup() { umount "$mount" || umount -l "$mount"; rm -rf "$mount" "$state"; }

start=$(now)
"$fs" "${options[@]}" "$mount" || exit 1
trap cleanup EXIT
cp examples/duck.png "$mount/in/first.png"
for _ in $(seq 600); do
	grep -q '^model.*: ready' "$mount/status" && break
	sleep 0.02
done
echo "mounted to ready: $(since "$start")"
"$build/trellis" wait --timeout 120 "$mount/in/first.png" >/dev/null || cat "$mount/out/first.error.txt"
echo "mounted to the first mesh: $(since "$start")"
cat "$mount/status"
one() { # name
	start=$(now)
	cp "examples/$2" "$mount/in/$1.png"
	"$build/trellis" wait --timeout 120 "$mount/in/$1.png" >/dev/null || cat "$mount/out/$1.error.txt"
	echo "job $1: close() to mesh $(since "$start")"
}
echo 'seed = 7' >"$mount/config" # with the settings of the first picture nothing would be computed
for i in 1 2 3 4 5; do one "a$i" duck.png; setfattr -n user.trellis.seed -v "$i" "$mount/in/a$i.png" 2>/dev/null; echo "seed = $i" >"$mount/config"; done
nvidia-smi --query-gpu=memory.used --format=csv,noheader | sed 's/^/device memory in use: /'
# The workers sleep while the queue is filled: each picture is its own content and settings before the next line of config.
mapfile -t workers < <(pgrep -f "^$build/trellis worker")
kill -STOP "${workers[@]}"
for i in $(seq 20); do
	echo "seed = $((100 + i))" >"$mount/config"
	cp examples/duck.png "$mount/in/q$i.png"
	sleep 0.35
done
start=$(now)
kill -CONT "${workers[@]}"
"$build/trellis" wait --timeout 300 "$mount"/in/q*.png >/dev/null
echo "a queue of 20 jobs on ${#workers[@]} worker(s): $(since "$start")"
grep -E 'done|failed' "$mount/status" | head -n 3
