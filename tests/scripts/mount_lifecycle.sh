#!/bin/bash
# mount_lifecycle.sh - starting, failing to start, ending, being killed, and what survives each.
cd "$(dirname "$0")/../.." || exit 1
. tests/mount/lib.sh
command -v jq >/dev/null || { echo "jq is not installed"; exit 77; }
trellisfs=$TRELLIS_BUILD/trellisfs
worker=$TRELLIS_BUILD/tests/fake_worker
src=$dir/src
mkdir "$src"
milliseconds() { date +%s%3N; }

# refused STATUS PATTERN ARGUMENT... - the shell gets one clear line and a status
refused() {
	local status=$1 pattern=$2 text got
	shift 2
	text=$(timeout 20 "$trellisfs" "$@" 2>&1)
	got=$?
	[ $got = "$status" ] && [ "$(wc -l <<<"$text")" = 1 ] && [[ $text =~ $pattern ]] || fail "trellisfs $*: status $got, '$text'"
}
mkdir "$dir/full" "$dir/nomodel"
touch "$dir/full/x" "$dir/file" "$dir/nomodel/x"
refused 2 "unknown option 'nonsense'" -o nonsense "$mnt"
refused 2 "option threads: wanted N, got 'many'" --threads=many "$mnt"
refused 2 "option device: wanted auto" -o device=gpu "$mnt"
refused 2 "steps" --steps=-3 "$mnt"
refused 2 "no mountpoint"
refused 1 "none: No such file" -o worker="$worker" "$dir/none"
refused 1 "is not a folder" -o worker="$worker" "$dir/file"
refused 1 "not empty" -o worker="$worker" "$dir/full"
refused 1 "inside the mountpoint" -o worker="$worker",state="$mnt/state" "$mnt"
refused 1 "no pipeline.json" -o worker="$worker",state="$state",model="$dir/nomodel" "$mnt"
refused 1 "not a directory" -o worker="$worker",state="$state",model="$dir/file" "$mnt"
refused 1 "No such file" -o worker="$worker",state="$state",model="$dir/none" "$mnt"
refused 1 "option worker" -o worker="$dir/none",state="$state" "$mnt"
ln -s "$dir/full" "$dir/link"
refused 1 "symlinks are not followed" -o worker="$worker",state="$dir/link" "$mnt"

"$trellisfs" -V | grep -qE '^trellisfs [0-9.]+$' || fail "-V: $("$trellisfs" -V)"
for option in help model device state formats seed steps threads idle allow_other; do
	"$trellisfs" --help | grep -q -- "$option" || fail "--help does not name $option"
done

# In the background: back at the shell when the mount answers.
"$trellisfs" -o worker="$worker" --state="$state" "$mnt" || fail "did not start"
[ -r "$mnt/README" ] || fail "the mount did not answer when the shell came back"
[ "$(stat -c %a "$state")" = 700 ] || fail "the state directory has mode $(stat -c %a "$state")"
mkdir "$dir/m2"
refused 1 "in use by another" -o worker="$worker",state="$state" "$dir/m2"
refused 1 "already mounted" -o worker="$worker",state="$dir/state2" "$mnt"
fusermount3 -u "$mnt"
wait_gone 60 || fail "did not end after unmounting"
# Whoever waits for the end of a pipe that the shell has open does not wait for the mount.
{ "$trellisfs" -o worker="$worker" --state="$state" "$mnt" 9>&1; } | timeout 30 cat >"$dir/piped" || fail "a pipe of the shell's is held"
[ -r "$mnt/README" ] || fail "the mount did not answer after a pipe"
fusermount3 -u "$mnt" || fusermount3 -u -z "$mnt" # the helper may be about to touch status
wait_gone 60 || fail "did not end after unmounting"

# Everything survives unmounting: names, modes, times, xattrs, results, configuration; nothing runs again.
mount_start
"$tool" png "$src/a.png" 1 5000
mkdir -p "$mnt/in/d/e"
cp "$src/a.png" "$mnt/in/d/e/a.png"
chmod 640 "$mnt/in/d/e/a.png"
touch -d '2021-03-04 05:06:07.123456789' "$mnt/in/d/e/a.png"
setfattr -n user.note -v kept "$mnt/in/d/e/a.png"
ln -s a.png "$mnt/in/d/e/link"
echo 'seed = 77' >"$mnt/config"
wait_for "$mnt/out/d/e/a.glb"
cp "$src/a.png" "$mnt/in/d/b.png"
wait_for "$mnt/out/d/b.glb"
rm "$mnt/in/d/b.png" "$mnt/out/d/b.glb"
list() { (cd "$mnt" && find in out -printf '%p %y %m %s %i %l\n' | sort && stat -c %y in/d/e/a.png && getfattr -d in/d/e/a.png && md5sum in/d/e/a.png out/d/e/a.glb && grep ^seed config); }
list >"$dir/before"
mount_stop
mount_start
list >"$dir/after"
diff "$dir/before" "$dir/after" || fail "something changed over a remount"
sleep 1.5
[ "$(field .done)" = 0 ] || fail "a finished job ran again"
[ "$(getfattr --only-values -n user.trellis.state "$mnt/in/d/e/a.png" 2>/dev/null)" = 'done' ] || fail "state is not 'done' after a remount"

# Power was lost before the mesh was on the disk, though the journal had it: it is made again.
mount_stop
mesh=$(grep -lr '^glTF' "$state/contents" | head -n 1)
[ -n "$mesh" ] && truncate -s 100 "$mesh" || fail "no mesh in the state directory"
mount_start
wait_for "$mnt/out/d/e/a.glb"
[ "$(stat -c %s "$mnt/out/d/e/a.glb")" -gt 500 ] || fail "a mesh cut short is still there"
list >"$dir/again"
[ "$(grep glb "$dir/before" | grep -c '^[0-9a-f]\{32\}')" = 1 ] && [ "$(grep '^[0-9a-f]\{32\}' "$dir/before")" = "$(grep '^[0-9a-f]\{32\}' "$dir/again")" ] || fail "the mesh differs"

# kill -9 with a job running, one queued and one file being written: the mount is dead, the next start heals it and all
# is done once.
mount_stop
FAKE_WORKER="slow=150" mount_start
"$tool" png "$src/r.png" 2 5000; "$tool" png "$src/q.png" 3 5000; "$tool" png "$src/w.png" 4 90000
cp "$src/r.png" "$src/q.png" "$mnt/in/"
"$tool" hold "$mnt/in/w.png" "$src/w.png" >/dev/null &
holder=$!
disown
for _ in $(seq 50); do [ "$(field '.running | length')" = 1 ] && break; sleep 0.1; done
start=$(milliseconds)
kill -9 $daemon
wait_gone 20 || fail "the lock outlives a killed daemon"
ls "$mnt" >/dev/null 2>&1 && fail "a killed daemon's mount still answers"
[ $(($(milliseconds) - start)) -lt 1000 ] || fail "calls on a dead mount took $(($(milliseconds) - start)) ms"
kill -9 $holder
mount_start
settle
for stem in r q w; do [ -s "$mnt/out/$stem.glb" ] || fail "$stem was lost: $(cat "$mnt/status")"; done
cmp "$src/w.png" "$mnt/in/w.png" || fail "a written file changed over kill -9"
[ "$(field .done)" = 3 ] || fail "$(field .done) jobs were done after kill -9, not 3"
list | grep -v ^seed >/dev/null

# SIGTERM with a job that ignores cancellation: over within 5 s, and the job is done after the next start.
mount_stop
FAKE_WORKER="slow=2000 deaf" mount_start
"$tool" png "$src/t.png" 5 5000
cp "$src/t.png" "$mnt/in/"
for _ in $(seq 50); do [ "$(field '.running | length')" = 1 ] && break; sleep 0.1; done
start=$(milliseconds)
kill -TERM $daemon
wait_gone 60 || fail "SIGTERM did not end it"
took=$(($(milliseconds) - start))
[ $took -lt 5000 ] || fail "SIGTERM took $took ms"
mount_start
wait_for "$mnt/out/t.glb"

# A killed helper and a killed worker are replaced; nobody notices.
pkill -9 -P $daemon -f internal-helper || fail "no helper was found"
sleep 1.1
kill_worker || fail "no worker was found"
sleep 0.3
watch_out "$dir/events"
"$tool" png "$src/h.png" 6 5000
cp "$src/h.png" "$mnt/in/"
wait_for "$mnt/out/h.glb" 100
sleep 0.3
[ "$(results "$dir/events" h)" = 1 ] || fail "after the helper was killed: $(cat "$dir/events")"

# One that does not end when it is killed, here because somebody traces it, is no zombie for ever.
helper=$(pgrep -P $daemon -f internal-helper)
"$tool" seize "$helper" 6000 >"$dir/seized" 2>&1 &
tracer=$!
for _ in $(seq 100); do [ -s "$dir/seized" ] && break; sleep 0.02; done
if grep -q ^seized "$dir/seized"; then
	kill -STOP "$helper"
	"$tool" png "$src/traced.png" 11 5000
	cp "$src/traced.png" "$mnt/in/"
	wait_for "$mnt/out/traced.glb" 100
	[ -e /proc/"$helper" ] || fail "the traced helper is gone already: the test shows nothing"
	wait $tracer
	"$tool" png "$src/next.png" 12 5000
	cp "$src/next.png" "$mnt/in/"
	wait_for "$mnt/out/next.glb" 100
	for _ in $(seq 50); do [ -e /proc/"$helper" ] || break; sleep 0.1; done
	[ ! -e /proc/"$helper" ] || fail "a helper that ended late stays: $(grep State /proc/"$helper"/status)"
else
	echo "without a helper that ends late: $(cat "$dir/seized")"
fi

# A helper that hangs is replaced too, and doesn't hold up the end.
pkill -STOP -P $daemon -f internal-helper || fail "no helper was found"
"$tool" png "$src/hung.png" 8 5000
cp "$src/hung.png" "$mnt/in/"
wait_for "$mnt/out/hung.glb" 100
pkill -STOP -P $daemon -f internal-helper || fail "the hung helper was not replaced"
"$tool" png "$src/end.png" 9 5000
cp "$src/end.png" "$mnt/in/"
sleep 0.4
start=$(milliseconds)
kill -TERM $daemon
wait_gone 60 || fail "SIGTERM with a hung helper did not end it"
took=$(($(milliseconds) - start))
[ $took -lt 5000 ] || fail "SIGTERM with a hung helper took $took ms"
mount_start
wait_for "$mnt/out/end.glb"

# Handles, as an NFS server gives them out, hold over a restart; that of a deleted file is stale for ever.
if [ "$(id -u)" = 0 ]; then
	echo content >"$mnt/in/kept"
	echo gone >"$mnt/in/deleted"
	kept=$("$tool" handle "$mnt/in/kept") deleted=$("$tool" handle "$mnt/in/deleted")
	rm "$mnt/in/deleted"
	echo 2 >/proc/sys/vm/drop_caches # the kernel forgets what nobody holds, and asks for it again by its id
	[ "$("$tool" by-handle "$mnt" "$kept")" = content ] || fail "a handle after drop_caches"
	mount_stop
	mount_start
	echo new >"$mnt/in/new"
	got=$("$tool" by-handle "$mnt" "$kept")
	[ "$got" = content ] || fail "a handle from before the restart gives '$got'"
	got=$("$tool" by-handle "$mnt" "$deleted")
	[ "$got" = ESTALE ] || fail "the handle of a deleted file gives '$got'"
else
	echo "skipped: opening by handle needs root"
fi

# A model that cannot be loaded: the mount is up, the picture waits, status says why; repairing the model is noticed
# before the worker's next try would be due.
mount_stop
mkdir "$dir/model"
echo '{}' >"$dir/model/pipeline.json"
echo no-model >"$dir/switches"
FAKE_WORKER=@$dir/switches mount_start -o model="$dir/model"
"$tool" png "$src/model.png" 7 5000
cp "$src/model.png" "$mnt/in/"
for _ in $(seq 200); do [ "$(field '.model.retry_s // 0')" -ge 7 ] && break; sleep 0.1; done
[ "$(field .model.state)" = failed ] && [ "$(field .model.reason)" != "" ] || fail "status of a broken model: $(cat "$mnt/status")"
[ "$(field .queued)" = 1 ] || fail "the picture does not wait for the model"
echo >"$dir/switches"
echo '{"repaired": true}' >"$dir/model/pipeline.json"
wait_for "$mnt/out/model.glb" 45
mount_stop
[ ! -e "$mnt/in" ] || fail "still mounted"

# The kernel does not ask for an attribute before each write, which would double the requests.
mount_start -d -s --seed=8
grep -q "^seed = 8" "$mnt/config" || fail "--seed=8 does not count"
dd if=/dev/zero of="$mnt/in/zeros" bs=64k count=32 status=none
mount_stop
asked=$(grep -c 'opcode: GETXATTR' "$dir/log") written=$(grep -c 'opcode: WRITE' "$dir/log")
[ "$written" -ge 2 ] && [ "$asked" -le 4 ] || fail "$written writes took $asked questions for attributes"
finish
