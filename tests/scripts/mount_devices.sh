#!/bin/bash
# mount_devices.sh - devices that fail under a mount, and several of them: every job ends, and status tells the story. First the
# daemon's part with the fake worker, then the whole chain with `trellis worker` on the fake plugin.
cd "$(dirname "$0")/../.." || exit 1
. tests/mount/lib.sh
command -v jq >/dev/null || { echo "jq is not installed"; exit 77; }
src=$dir/src
mkdir "$src"
for i in 1 2 3 4 5 6; do "$tool" png "$src/$i.png" "$i" 2000; done
export FAKE_WORKER=@$dir/switches

# begin SWITCHES [OPTION...] - a fresh mount of fake workers
begin() {
	echo "$1" >"$dir/switches"
	shift
	rm -rf "$state"
	mount_start "$@"
}

# status_is FILTER TENTHS - until the jq filter is true of status.json
status_is() {
	for _ in $(seq "$2"); do
		jq -e "$1" "$mnt/status.json" >/dev/null 2>&1 && return
		sleep 0.1
	done
	fail "never: $1; status: $(cat "$mnt/status")"
	return 1
}

# ---- Several devices: one worker each, jobs go to whichever is free. ----
begin 'devices=3 slow=150'
status_is '[.devices[].name] | sort == ["cuda:0 fake", "cuda:1 fake", "cuda:2 fake"]' 100
status_is '[.devices[].state] == ["ready", "ready", "ready"]' 100
cp "$src"/*.png "$mnt/in/"
status_is '[.running[].device] | unique | length == 3' 60
status_is '[.devices[].running] | map(select(startswith("in/"))) | unique | length == 3' 60
grep -qE '^running +in/[1-6].png on cuda:[0-2] fake: structure' "$mnt/status" || fail "status: $(cat "$mnt/status")"
for i in 1 2 3 4 5 6; do wait_for "$mnt/out/$i.glb" 200; done
status_is '.done == 6 and .failed == 0 and (.running | length) == 0' 30
# One of them fails for good: what it had is done elsewhere, and again and again.
echo 'devices=3 slow=20 device at=1' >"$dir/switches"
for i in 1 2 3 4 5 6; do "$tool" png "$mnt/in/b$i.png" "1$i" 2000; done
for i in 1 2 3 4 5 6; do wait_for "$mnt/out/b$i.glb" 300; done
status_is '[.errors[].text] | any(startswith("cuda:1 failed and the job is done again"))' 30
mount_stop

# All of them are refused: a worker on the CPU stands in until they are back.
begin 'devices=2'
status_is '[.devices[].state] == ["ready", "ready"]' 100
echo 'devices=2 no-model at=cuda' >"$dir/switches"
pkill -9 -P "$daemon" -f fake_worker
status_is '[.devices[].state] == ["failed", "failed"]' 100
cp "$src/1.png" "$mnt/in/"
wait_for "$mnt/out/1.glb" 200
status_is '.devices[2].name == "no device (fake worker)" and .model.state == "ready"' 30
echo 'devices=2' >"$dir/switches"
status_is '[.devices[0, 1].state] == ["ready", "ready"]' 400
mount_stop

# A named device is the only one.
begin 'devices=3' -o device=cuda:2
status_is '[.devices[].name] == ["cuda:2 fake"] and .devices[0].state == "ready"' 60
mount_stop

# ---- One device that always fails at one picture: the CPU does it, and the device the others. ----
begin 'devices=1 device only=bad at=0'
cp "$src/1.png" "$mnt/in/bad.png"
cp "$src/2.png" "$mnt/in/good.png"
wait_for "$mnt/out/bad.glb" 200
wait_for "$mnt/out/good.glb" 100
status_is '[.devices[].name] == ["cuda:0 fake", "no device (fake worker)"]' 30
status_is '[.errors[].text] | any(. == "cuda:0 failed and the job is done again elsewhere: the device is lost (fake worker)")' 30
mount_stop

# Without auto there is nothing else: an error file after the second time.
begin 'devices=1 device only=bad' -o device=cuda
cp "$src/1.png" "$mnt/in/bad.png"
wait_for "$mnt/out/bad.error.txt" 200
grep -q 'given up after the device failed 2 times: the device is lost' "$mnt/out/bad.error.txt" ||
	fail "said: $(cat "$mnt/out/bad.error.txt")"
cp "$src/2.png" "$mnt/in/good.png"
wait_for "$mnt/out/good.glb" 100
mount_stop

# ---- A job is finished on the CPU while the device has the next one. ----
begin 'devices=1 finish=1500 slow=200'
cp "$src"/[123].png "$mnt/in/"
status_is '[.running[].name] | length == 2 and .[0] != .[1]' 100
status_is '.devices[0].running | startswith("in/")' 30
for i in 1 2 3; do wait_for "$mnt/out/$i.glb" 200; done
status_is '.done == 3 and .failed == 0 and .worker.starts == 1' 30
# One is deleted, one is written anew while it is finished.
cp "$src/4.png" "$mnt/in/gone.png"
status_is '[.running[].name] == ["in/gone.png"] and .devices[0].state == "ready"' 100
rm "$mnt/in/gone.png"
cp "$src/5.png" "$mnt/in/new.png"
status_is '[.running[].name] == ["in/new.png"] and .devices[0].state == "ready"' 100
cp "$src/6.png" "$mnt/in/new.png"
wait_for "$mnt/out/new.glb" 200
status_is '.done == 4 and .failed == 0 and .worker.starts == 1 and .queued == 0 and (.running | length) == 0' 100
[ ! -e "$mnt/out/gone.glb" ] || fail "a deleted picture got a mesh"
echo 'seed = 7' >"$mnt/config" # so that it is made and not taken from there
cp "$src/6.png" "$mnt/in/same.png"
wait_for "$mnt/out/same.glb" 200
cmp "$mnt/out/new.glb" "$mnt/out/same.glb" || fail "the mesh is of what was there before"
mount_stop

# A picture that kills the worker takes no other with it: after the first time both run alone.
begin 'devices=1 finish=400 crash-at=5 only=bad'
for i in 1 2 3; do cp "$src/$i.png" "$mnt/in/"; cp "$src/$((i + 3)).png" "$mnt/in/bad$i.png"; done
for i in 1 2 3; do wait_for "$mnt/out/$i.glb" 600; wait_for "$mnt/out/bad$i.error.txt" 600; done
status_is '.done == 3 and .failed == 3 and .worker.deaths == 9' 30
mount_stop

# A hang is the device's fault too.
begin 'devices=1 hang only=bad at=0' -o hang=1
cp "$src/1.png" "$mnt/in/bad.png"
wait_for "$mnt/out/bad.glb" 300
status_is '[.errors[].text] | any(startswith("cuda:0 failed and the job is done again elsewhere: the worker gave no sign of life"))' 30
mount_stop

# ---- The whole chain. ----
unset FAKE_WORKER
# The plan lies beside the plugin, where a worker in its sandbox can read it. With tokens, which the plugin takes away, it has none.
plan=$dir/plugin/plan tokens=$dir/tokens
picture=tests/golden/e2e/input.png
chmod 755 "$dir"
mkdir "$tokens" "$dir/plugin"
cp "$TRELLIS_BUILD/tests/plugins/fake/trellis-cuda.so" "$dir/plugin/"
export TRELLIS_FAKE_PLUGIN=$plan TRELLIS_PLUGIN_DIR=$dir/plugin

# begin_real PLAN TOKENS [OPTION...]
begin_real() {
	local n=$2 options=worker=$TRELLIS_BUILD/trellis,model=$PWD/tests/golden/e2e,steps=2,preview=off
	[ "$n" = 0 ] && echo "$1" >"$plan" || { echo "$1 tokens=$tokens" >"$plan"; options+=,sandbox=off; }
	rm -rf "$state" "${tokens:?}"/*
	for _ in $(seq "$n"); do : >"$tokens/$n$RANDOM$RANDOM"; done
	shift 2
	mount_start -o "$options" "$@"
}

# job NAME - to its mesh
job() {
	cp "$picture" "$mnt/in/$1.png"
	wait_for "$mnt/out/$1.glb" 900 || { cat "$mnt/status"; cat "$mnt/out/$1.error.txt" 2>/dev/null; }
}

# It works: loading is seen, then ready before any job.
begin_real 'slow-load=10' 0
status_is '.model.loading_percent >= 1' 200
status_is '.device.name == "cuda:0 Fake" and .device.dtype == "f16" and .device.note == "" and .model.state == "ready"' 400
job a
mount_stop

# No plugin, or one that gives wrong results: the CPU, and why.
TRELLIS_PLUGIN_DIR=$dir begin_real '' 0
status_is '.device.name == "cpu" and (.device.note | startswith("cuda: the plugin is not installed"))' 300
mount_stop
begin_real 'probe=wrong' 1
status_is '.device.name == "cpu" and (.device.note | startswith("cuda:0: fake computes wrong results"))' 300
grep -q 'cuda:0: fake computes wrong results' "$mnt/status" || fail "status: $(cat "$mnt/status")"
job a
mount_stop

# A hang in the probe does not hang the worker.
begin_real 'probe=hang' 1 -o hang=4
status_is '.device.name == "cpu" and .device.note == "cuda:0: no answer within 2 s"' 300
mount_stop

# Refused where nothing else was allowed: the mount is there, the picture waits, and it is made once the driver is there.
begin_real 'count=no_NVIDIA_driver' 0 -o device=cuda
status_is '.model.state == "failed" and .model.reason == "cuda: no NVIDIA driver"' 300
cp "$picture" "$mnt/in/a.png"
status_is '.queued == 1' 50
echo >"$plan"
wait_for "$mnt/out/a.glb" 1200
mount_stop

# A sticky error ends the worker; the job is done again by the next one.
begin_real 'sticky=40' 1
job a
status_is '[.errors[].text] | any(startswith("cuda:0 failed and the job is done again: fakeLaunch failed"))' 30
status_is '.device.name == "cuda:0 Fake" and .worker.starts == 2 and .failed == 0' 30
mount_stop

# Results that are wrong all of a sudden: not the picture is blamed, and not this job's result published.
begin_real 'wrong=40' 1
job a
status_is '[.errors[].text] | any(startswith("cuda:0 failed and the job is done again: fake computes wrong results"))' 30
mount_stop

# The device vanishes with it: the next worker is on the CPU and says so.
begin_real 'sticky=40 vanish=1' 1
job a
status_is '.device.name == "cpu" and .device.note == "cuda: the device has vanished"' 100
mount_stop

# A hang in a job.
begin_real 'hang=40' 1 -o hang=8
job a
status_is '[.errors[].text] | any(contains("gave no sign of life for 8 s"))' 30
mount_stop

# Out of memory in a job, and low memory from the start: nobody sees anything of it.
begin_real 'memory=40' 1
job a
status_is '.done == 1 and .worker.starts == 1 and (.errors | length) == 0' 30
mount_stop
begin_real '' 0 -o memory=low,dtype=bf16
job a
status_is '.device.dtype == "bf16"' 30
mount_stop
finish
