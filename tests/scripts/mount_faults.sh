#!/bin/bash
# mount_faults.sh - each fault of a worker on a real mount: status tells its story, the job is retried or fails with a reason,
# the next picture is made, and the mount answers quickly all the time.
# shellcheck disable=SC2034 # state is read by lib.sh
cd "$(dirname "$0")/../.." || exit 1
. tests/mount/lib.sh
command -v jq >/dev/null || { echo "jq is not installed"; exit 77; }
mkdir "$dir/src"
switches() { echo "$*" >"$dir/switches"; }
n=0

# picture - a fresh one, "p1.png", "p2.png" ...
picture() {
	n=$((n + 1))
	"$tool" png "$dir/src/p$n.png" $n 3000
	cp "$dir/src/p$n.png" "$mnt/in/"
}
# told PATTERN [TENTHS] - until status says so
told() {
	for _ in $(seq "${2:-150}"); do
		grep -qE "$1" "$mnt/status" && return
		sleep 0.1
	done
	fail "status does not tell of '$1': $(cat "$mnt/status")"
}
# poisoned PATTERN - the newest picture fails for that reason, the next one is made
poisoned() {
	wait_for "$mnt/out/p$n.error.txt" 300 || return
	grep -qE "$1" "$mnt/out/p$n.error.txt" || fail "out/p$n.error.txt: $(cat "$mnt/out/p$n.error.txt")"
	told "p$n.png: .*$1"
	switches ''
	picture
	wait_for "$mnt/out/p$n.glb" 300
}

switches ''
FAKE_WORKER=@$dir/switches mount_start -o hang=2,preview=off
mkdir "$mnt/in/d" && touch "$mnt"/in/d/{1..50}
"$tool" stat "$mnt/in/d" 25 >"$dir/stat" &
statter=$!

# Killed by somebody in the middle of a job: told while the next one loads, and the job is done in the end.
switches slow=300 once load=1500
picture
for _ in $(seq 80); do [ "$(field '.running | length')" = 1 ] && break || sleep 0.1; done
pkill -9 -P $daemon -f fake_worker || fail "no worker was found"
told 'killed by signal 9 \(KILL\)'
switches ''
wait_for "$mnt/out/p$n.glb" 300

switches hang once load=1500
picture
told 'no sign of life for 2 s while structure, and was killed'
switches ''
wait_for "$mnt/out/p$n.glb" 300
switches "hang only=p$((n + 1)).png"
picture
poisoned 'given up after the device failed 2 times: the worker gave no sign of life for 2 s'
switches oom
picture
poisoned 'out of memory: [0-9]+ bytes'
switches nonsense
picture
poisoned 'protocol: a packet of 8 bytes is not a message'
switches wrong-size
picture
poisoned 'files are not of the sizes'
switches exit=7
picture
poisoned 'ended by itself with status 7'

# Faults of the start: the picture waits, and is made once the next start works.
for fault in bad-version:'the other side speaks version 99' hang-load:'no sign of life for 2 s while loading the model' no-model:'model directory /no/such/model does not exist'; do
	switches "${fault%%:*}"
	pkill -9 -P $daemon -f fake_worker || fail "no worker was found"
	picture
	told "${fault#*:}"
	[ "$(field .queued)" = 1 ] || [ "$(field '.running | length')" = 1 ] || [ "$(field .settling)" = 1 ] || fail "${fault%%:*}: the picture does not wait: $(cat "$mnt/status")"
	switches ''
	wait_for "$mnt/out/p$n.glb" 400
done
settle
wait $statter
cat "$dir/stat"
p99=$(sed -E 's/.*p99 ([0-9.]+) ms.*/\1/' "$dir/stat")
awk -v p="$p99" 'BEGIN {exit !(p < 10)}' || case $TRELLIS_BUILD in *san) ;; *) fail "p99 of stat was $p99 ms" ;; esac
mount_stop

[ -x "$TRELLIS_BUILD/trellis" ] || { echo "without the real worker, which is not built"; finish; }
# The real worker, whose model is cut off under it and put back.
cp -r tests/golden/e2e "$dir/model"
state=$dir/real
mount_start -o worker="$TRELLIS_BUILD/trellis",model="$dir/model",steps=1,hang=60
cp "$dir/model/input.png" "$mnt/in/before.png"
wait_for "$mnt/out/before.glb" 600
weights=$(find "$dir/model/ckpts" -name 'slat_flow*.safetensors')
for file in $weights; do truncate -s 2000 "$file"; done
pkill -9 -P $daemon -f 'trellis worker' || fail "no worker was found"
echo 'seed = 1' >"$mnt/config"
cp "$dir/model/input.png" "$mnt/in/during.png"
told 'failed: .*slat_flow[^ ]*safetensors' 300
cp -r tests/golden/e2e/ckpts "$dir/model/"
wait_for "$mnt/out/during.glb" 600
limits=/proc/$(field .worker.pid)
grep -qE '^Max core file size +0 +0' "$limits/limits" && grep -qE '^Max file size +4294967296 +4294967296' "$limits/limits" || fail "the worker's limits: $(cat "$limits/limits")"
grep -q '^NoNewPrivs:.1' "$limits/status" || fail "the worker can gain privileges"
[ -z "$(find "$limits/fd" -lname "$mnt*")" ] || fail "the worker has the mount open"
mount_stop
finish
