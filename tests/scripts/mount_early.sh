#!/bin/bash
# mount_early.sh - a picture's job starts when it is closed if a worker is idle, and nothing of it is seen before the picture has
# been quiet for 300 ms, or ever if it has not.
cd "$(dirname "$0")/../.." || exit 1
. tests/mount/lib.sh
command -v jq >/dev/null || { echo "jq is not installed"; exit 77; }
src=$dir/src in=$mnt/in out=$mnt/out
mkdir "$src"
for i in $(seq 60); do "$tool" png "$src/$i.png" "$i" 3000; done
switches() { echo "times=$dir/times $*" >"$dir/switches"; }
# begin SWITCHES OPTION... - a mount of its own with its workers ready, and out/ watched
begin() {
	switches "$1"
	: >"$dir/times"
	FAKE_WORKER=@$dir/switches mount_start "${@:2}"
	for _ in $(seq 100); do jq -e 'all(.devices[]; .state == "ready")' "$mnt/status.json" >/dev/null && break || sleep 0.1; done
	: >"$dir/events"
	"$tool" watch-times "$out" >"$dir/events" &
	watchers+=($!)
	disown
	until grep -q READY "$dir/events"; do sleep 0.02; done
}
# put N NAME - picture N is closed as in/NAME.png; when, at the earliest, is in $put
put() {
	put=$EPOCHREALTIME
	cp "$src/$1.png" "$in/$2.png"
}
started() { grep -c ^start "$dir/times"; }
# told NAME - how many events told of out/NAME
told() { count "$dir/events" "^(CLOSE_WRITE|MOVED_TO) $1 "; }
# once NAME - it appears, by one event, no sooner than 300 ms after $put
once() {
	wait_for "$out/$1" 120
	sleep 0.2
	[ "$(told "$1")" = 1 ] || fail "$1 was told of $(told "$1") times"
	grep -E "^(CLOSE_WRITE|MOVED_TO) $1 " "$dir/events" | tail -n 1 | awk -v put="$put" '$3 - put < 0.3 {exit 1}' || fail "$1 was told of within 300 ms"
}
# is WHAT WANTED GOT
is() { [ "$2" = "$3" ] || fail "$1: wanted '$2', got '$3'"; }
# counted DONE FAILED
counted() { is "done, failed" "$1 $2" "$(jq -r '"\(.done) \(.failed)"' "$mnt/status.json")"; }
# shows RUNNING SETTLING - status does, soon
shows() {
	for _ in $(seq 30); do [ "$(jq -r '"\(.running | length) \(.settling)"' "$mnt/status.json")" = "$1 $2" ] && return; done
	fail "never: $1 running, $2 settling"
}
# of N NAME - out/NAME.glb is made of picture N, and not of another one
of() { cmp -s "$dir/mesh.$1" "$out/$2.glb" || fail "$2.glb is not of picture $1"; }

# Started at close(), whether it takes longer than 300 ms or not; what a machine under load makes of that is not judged each time.
begin 'slow=40'
soon=0
for i in 1 2 3 4 5 6; do
	put "$i" "a$i"
	once "a$i.glb"
	cp "$out/a$i.glb" "$dir/mesh.$i"
	grep ^start "$dir/times" | tail -n 1 | awk -v put="$put" '$2 - put > 0.29 {exit 1}' && soon=$((soon + 1))
	[ "$i" = 3 ] && switches ''
done
[ "$soon" -ge 2 ] || fail "$soon of 6 jobs started at close()"
is jobs 6 "$(started)"
counted 6 0
cmp -s "$dir/mesh.1" "$dir/mesh.2" && fail "the meshes are all the same"

# Written again while the early job runs, and after it has ended: only the second content counts.
n=6
for slow in 100 1; do
	switches "slow=$slow"
	echo "seed = $slow" >"$mnt/config"
	put 1 "b$slow" && sleep 0.1
	put 2 "b$slow"
	once "b$slow.glb"
	of 2 "b$slow"
	is "jobs of a picture written twice" $((n += 2)) "$(started)"
done
counted 8 0
# Opened for writing is enough: the worker does not wait for that writer. Emptied by name, which is a writer too.
put 3 c && sleep 0.1
exec 5>>"$in/c.png"
put 4 d
once d.glb
[ ! -e "$out/c.glb" ] || fail "a picture that is open for writing was made"
put=$EPOCHREALTIME
exec 5>&-
once c.glb
of 3 c
put 5 z && sleep 0.1
"$tool" empty "$in/z.png"
settle
is "files of an emptied picture" '' "$(compgen -G "$out/z.*")"
is jobs $((n += 4)) "$(started)"
# One that is written again and again is tried early once.
n=$(started)
for i in 1 2 3 4 5 6; do put "$i" e && sleep 0.1; done
once e.glb
of 6 e
is "jobs of a restless picture" $((n + 2)) "$(started)"
counted 11 0

# A failure, a dead worker: seen at the end of settling, or never.
for fault in fail crash-at=3; do
	switches "$fault"
	put 10 "f-$fault" && sleep 0.1
	switches ''
	put 11 "f-$fault"
	once "f-$fault.glb"
	is "events of an error that was overwritten" 0 "$(told "f-$fault.error.txt")"
	is errors 0 "$(field '.errors | length')"
	settle
done
counted 13 0
switches fail
put 12 g
once g.error.txt
switches ''
counted 13 1

# What is held keeps nobody busy.
ticks() { awk '{print $14 + $15}' /proc/$daemon/stat; }
put 9 u && sleep 0.1
n=$(ticks)
sleep 0.15
[ $(($(ticks) - n)) -lt 7 ] || fail "the daemon took $(($(ticks) - n)) ticks of 15 while an outcome was held"
once u.glb

# Options count as they are at the end of settling, or at the start of it if nothing changes.
n=$(started)
put 13 h && sleep 0.1
setfattr -n user.trellis.formats -v ply "$in/h.png"
once h.ply
is "jobs of a picture whose options changed" $((n + 2)) "$(started)"
put 14 i && sleep 0.1
echo 'formats = stl' >"$mnt/config"
once i.stl
is "meshes of the options before" 0 $(($(told h.glb) + $(told i.glb)))
put 15 j && sleep 0.1
setfattr -n user.trellis.submit -v 1 "$in/j.png"
wait_for "$out/j.stl"
is "jobs of a picture that is submitted while it settles" $((n + 5)) "$(started)"

# Deleted; renamed, which is a commit; renamed to what is no picture.
echo 'formats = glb' >"$mnt/config"
for slow in 100 1; do
	switches "slow=$slow"
	put 16 k && sleep 0.1
	rm "$in/k.png"
	put 17 l && sleep 0.1
	mv "$in/l.png" "$in/l.part"
	settle
	is "files of pictures that went" '' "$(compgen -G "$out/[kl].*")"
	rm "$in/l.part"
done
switches 'slow=40'
n=$(started)
put 18 m && sleep 0.1
mv "$in/m.png" "$in/m2.png"
wait_for "$out/m2.glb"
is "jobs of a renamed picture" $((n + 1)) "$(started)"
[ ! -e "$out/m.glb" ] || fail "a picture's old name was used"
counted 18 1

# The worker is idle again before the second one has settled: the third does not overtake it.
switches ''
settle
for i in 50 51 52; do put $i "v$i" && sleep 0.2; done
once v52.glb
is "order of results" "v50.glb v51.glb v52.glb" "$(grep -oE 'CLOSE_WRITE v[0-9]*.glb' "$dir/events" | cut -d ' ' -f 2 | xargs)"

# Many at once: each is one job, the first alone is early.
settle
switches ''
n=$(started)
mkdir "$in/many"
cp "$src"/[234]?.png "$in/many/"
settle 300
is "jobs of 30 pictures" $((n + 30)) "$(started)"
counted 51 1

# Killed while it settles: it settles afresh, with the options of then.
switches 'slow=100'
put 19 o && sleep 0.15
[ "$(getfattr --only-values -n user.trellis.state "$in/o.png" 2>/dev/null)" = settling ] || fail "o.png does not settle"
kill -9 $daemon
wait_gone 20
begin '' -o formats=obj
wait_for "$out/o.obj"
settle
is "a job of before the crash" '' "$(compgen -G "$out/o.glb")"
counted 1 0
mount_stop

# Two workers have two early jobs; the third picture settles. One job is finished while the next one is early.
begin 'devices=2 slow=100' -o formats=glb,seed=4
for i in 41 42 43; do put $i "p$i"; done
shows 2 3
for _ in 1 2 3 4 5; do
	sleep 0.02
	jq -e '.settling < 3 or .queued == 0' "$mnt/status.json" >/dev/null || fail "a third job was early"
done
for i in 41 42 43; do wait_for "$out/p$i.glb"; done
mount_stop
begin 'slow=5 finish=1000' -o formats=glb,seed=5
put 44 q && sleep 0.5
put 45 r
shows 2 1
once q.glb
once r.glb
# An early job that has left the device has the finisher's place until it has settled: the next one does not push it out.
switches 'slow=1 finish=50'
n=$(started)
put 46 s && sleep 0.1
first=$put
put 47 t
once t.glb
put=$first
once s.glb
is jobs $((n + 2)) "$(started)"
counted 4 0
finish
