#!/bin/bash
# mount_errors.sh - what cannot become a mesh becomes an error file that says why; nothing waits forever.
cd "$(dirname "$0")/../.." || exit 1
. tests/mount/lib.sh
command -v jq >/dev/null || { echo "jq is not installed"; exit 77; }
src=$dir/src
mkdir "$src"
echo >"$dir/switches"
FAKE_WORKER=@$dir/switches mount_start
watch_out "$dir/events"
in=$mnt/in out=$mnt/out
"$tool" png "$src/good.png" 1 5000

head -c 3000 "$src/good.png" >"$in/cut.png"
echo 'this is text' >"$in/text.jpg"
printf 'RIFF\x24\x00\x00\x00WEBPVP8 ' >"$in/modern.webp"
head -c 500 /dev/urandom >"$in/noise.png"
# The writer is killed half-way: for the mount an end like any other.
head -c 3000 "$src/good.png" >"$src/half"
"$tool" hold "$in/killed.png" "$src/half" >"$dir/held" &
holder=$!
disown
until [ -s "$dir/held" ]; do sleep 0.05; done
kill -9 $holder
# IHDR says 60000 x 60000
(head -c 16 "$src/good.png"; printf '\x00\x00\xea\x60\x00\x00\xea\x60'; tail -c +25 "$src/good.png") >"$in/huge.png"
# errors NAME PATTERN
error_is() {
	wait_for "$out/$1.error.txt" 90 || return
	grep -qiE "$2" "$out/$1.error.txt" || fail "out/$1.error.txt says: $(cat "$out/$1.error.txt")"
}
error_is modern 'webp'
error_is cut 'truncated'
error_is killed 'truncated'
# Zeros instead of the end marker: a decoder reads that. A cut one with a few zeros is none.
cp tests/data/no_eoi_zero_padded.jpg "$in/padded.jpg"
(head -c 3000 tests/data/no_eoi_zero_padded.jpg && head -c 3 /dev/zero) >"$in/halved.jpg"
wait_for "$out/padded.glb" 120
error_is halved 'truncated'
error_is text 'not|png|jpeg'
error_is noise 'not|png|jpeg'
error_is huge 'pixel|large|crc|broken'
[ "$(getfattr --only-values -n user.trellis.state "$in/cut.png" 2>/dev/null)" = failed ] || fail "state of cut.png is not failed"
getfattr --only-values -n user.trellis.error "$in/cut.png" 2>/dev/null | grep -q truncated || fail "user.trellis.error of cut.png"
grep -q 'in/cut.png' "$mnt/status" || fail "status does not name cut.png"
[ "$(count "$dir/events" '^CLOSE_WRITE .*error.txt$')" = 7 ] || fail "not 7 error events: $(cat "$dir/events")"

# The picture is repaired: the error file goes.
cp "$src/good.png" "$in/cut.png"
wait_for "$out/cut.glb"
sleep 0.2
[ ! -e "$out/cut.error.txt" ] || fail "cut.error.txt stayed after success"
grep -q '^DELETE cut.error.txt' "$dir/events" || fail "nobody was told that cut.error.txt went"
settle
grep -q 'in/cut.png' "$mnt/status" && fail "status keeps the error of a picture that has become a mesh: $(cat "$mnt/status")"
grep -q 'in/killed.png' "$mnt/status" || fail "status forgot another picture's error: $(cat "$mnt/status")"

# The worker fails, crashes three times, or hangs up: an error file; a crash that is over is forgotten.
echo "fail only=w1" >"$dir/switches"
"$tool" png "$src/w1.png" 2 3000; cp "$src/w1.png" "$in/"
error_is w1 'shows nothing'
echo "crash-at=3 only=w2" >"$dir/switches"
"$tool" png "$src/w2.png" 3 3000; cp "$src/w2.png" "$in/"
wait_for "$out/w2.error.txt" 200
grep -q '3 times' "$out/w2.error.txt" || fail "w2: $(cat "$out/w2.error.txt")"
echo >"$dir/switches"
"$tool" png "$src/w3.png" 4 3000; cp "$src/w3.png" "$in/"
wait_for "$out/w3.glb" 150
# Submitted again, the failed one works now.
setfattr -n user.trellis.submit -v 1 "$in/w2.png"
wait_for "$out/w2.glb"

# Odd names.
long=$(printf 'l%.0s' $(seq 251))
utf8=$(printf 'ü%.0s' $(seq 125))
i=10
for name in $'new\nline.png' 'sp ace.png' 'ünï.png' $'bad\xff\xfe.png' "$long.png" "${utf8}x.png" '%s%n.png' '-n.png'; do
	i=$((i + 1))
	"$tool" png "$src/odd.png" $i 3000
	cp "$src/odd.png" "$in/$name" || fail "cannot write '$name'"
done
settle 100
for stem in $'new\nline' 'sp ace' 'ünï' $'bad\xff\xfe' '%s%n' '-n'; do
	[ -s "$out/$stem.glb" ] || fail "no mesh of '$stem'"
done
for name in "$long.png" "${utf8}x.png"; do
	result=$(getfattr --only-values -n user.trellis.outputs "$in/$name" 2>/dev/null | head -n 1)
	[ -s "$mnt/$result" ] && [ ${#result} -lt 260 ] || fail "no mesh of a 255-byte name: $result"
	iconv -f utf-8 -t utf-8 <<<"$result" >/dev/null || fail "a shortened name is not UTF-8: $result"
done
jq . "$mnt/status.json" >/dev/null || fail "status.json is no JSON"
touch "$in/$long.jpeg" 2>/dev/null && fail "a name of 256 bytes was accepted"
touch "$in/${long}aaaa" 2>/dev/null || fail "a name of 255 bytes was refused"
touch "$in/${long}aaaaa" 2>/dev/null && fail "a name of 256 bytes was accepted"

# A deleted picture's job is cancelled, its mesh stays; a deleted mesh stays away.
echo "slow=500" >"$dir/switches"
"$tool" png "$src/c1.png" 50 3000; "$tool" png "$src/c2.png" 51 3000
cp "$src/c1.png" "$src/c2.png" "$in/"
for _ in $(seq 50); do [ "$(field '.running | length')" = 1 ] && break; sleep 0.1; done
jq -e '.running[0] | .stage == "structure" and .steps == 10 and .eta_s > 0' "$mnt/status.json" >/dev/null || fail "status of a running job: $(cat "$mnt/status")"
grep -q 'in/c[12].png' "$mnt/status" || fail "status does not name the running job: $(cat "$mnt/status")"
for i in 1 2; do getfattr --only-values -n user.trellis.progress "$in/c$i.png" 2>/dev/null; done | grep -qE '[0-9]' || fail "user.trellis.progress says nothing"
rm "$in/c1.png" "$in/c2.png"
settle 60
[ ! -e "$out/c1.glb" ] && [ ! -e "$out/c2.glb" ] || fail "a deleted picture was made all the same"
echo >"$dir/switches"
rm "$in/w3.png"
[ -s "$out/w3.glb" ] || fail "deleting the picture took the mesh"
rm "$out/cut.glb"
sleep 1
[ ! -e "$out/cut.glb" ] || fail "a deleted mesh came back"

# Superseding: rewritten while it runs, only the new one is made.
echo "slow=500" >"$dir/switches"
"$tool" png "$src/s1.png" 60 3000; "$tool" png "$src/s2.png" 61 3000
cp "$src/s1.png" "$in/s.png"
for _ in $(seq 50); do [ "$(field '.running | length')" = 1 ] && break; sleep 0.1; done
cp "$src/s2.png" "$in/s.png"
echo >"$dir/switches"
wait_for "$out/s.glb" 80
settle
[ "$(results "$dir/events" s)" = 1 ] || fail "superseding announced $(results "$dir/events" s) results"

# Where the path is longer than any may be there is no place for a result and none for an error file: it fails all the same, also
# when a folder gets such a name while the job runs, and the next picture is made.
failed() { field .failed; }
state_of() { getfattr --only-values -n user.trellis.state "$1" 2>/dev/null; }
# dig NAME LEVELS - that many folders inside one another, and into the last
dig() {
	local part
	part=$(printf 'd%.0s' $(seq 250))
	mkdir -p "$in/$1" && cd "$in/$1" || exit 1
	for _ in $(seq "$2"); do mkdir -p "$part" && cd "$part" 2>/dev/null || exit 1; done
}
n=$(failed)
head -c 3000 /dev/urandom >"$src/noise"
"$tool" png "$src/deep.png" 70 3000
(dig deep 20 && cp "$src/noise" broken.png && cp "$src/deep.png" whole.png) || fail "a path of 5,000 bytes"
for _ in $(seq 150); do [ "$(failed)" = $((n + 2)) ] && break; sleep 0.1; done
[ "$(failed)" = $((n + 2)) ] || fail "pictures without a place for a result: $(cat "$mnt/status")"
(dig deep 20; [ "$(state_of broken.png)" = failed ] && [ "$(state_of whole.png)" = failed ]) || fail "pictures without a place are not failed"
(dig deep 20; getfattr --only-values -n user.trellis.error whole.png 2>/dev/null) | grep -q 'its path is too long for a result' || fail "user.trellis.error of whole.png"
grep -qE 'in/\.\.\./d+/whole.png: its path is too long' "$mnt/status" || fail "status of whole.png: $(cat "$mnt/status")"
if [ -x "$TRELLIS_BUILD/trellis" ]; then
	(dig deep 20; timeout 20 "$TRELLIS_BUILD/trellis" wait whole.png 2>"$dir/told") && fail "trellis wait: whole.png came"
	grep -q 'its path is too long for a result' "$dir/told" || fail "trellis wait: $(cat "$dir/told")"
fi
n=$(failed)
echo "slow=200" >"$dir/switches"
(dig short 16 && "$tool" png under.png 71 3000)
for _ in $(seq 100); do [ "$(field '.running | length')" = 1 ] && break; sleep 0.1; done
mv "$in/short" "$in/$(printf 'long%.0s' $(seq 40))"
echo >"$dir/switches"
for _ in $(seq 150); do [ "$(failed)" = $((n + 1)) ] && break; sleep 0.1; done
[ "$(failed)" = $((n + 1)) ] || fail "a folder renamed under a job: $(cat "$mnt/status")"
"$tool" png "$in/after.png" 72 3000
wait_for "$out/after.glb" 100

# What lies where a result is to be: it gets another name, as beside a picture of the same stem.
echo "times=$dir/times" >"$dir/switches"
mkdir "$in/taken.glb"
"$tool" png "$in/taken.glb/inner.png" 73 3000
wait_for "$out/taken.glb/inner.glb"
mv "$out/after.glb" "$out/album"
mkdir "$in/album"
: >"$dir/times"
"$tool" png "$in/taken.png" 74 3000
"$tool" png "$in/album/a.png" 75 3000
wait_for "$out/taken.png.glb"
wait_for "$out/album-2/a.glb"
settle
[ -s "$out/taken.glb/inner.glb" ] && [ -f "$out/album" ] || fail "what lay there has gone"
[ "$(grep -c start "$dir/times")" = 2 ] || fail "$(grep -c start "$dir/times") jobs of two pictures"

# Content that has gone from the state directory when its job starts; descriptors that are short for a while.
content() { printf '%s/contents/%02x/%016x' "$state" $(($1 & 255)) "$1"; }
echo "slow=150 only=first" >"$dir/switches"
"$tool" png "$in/first.png" 76 3000
for _ in $(seq 50); do [ "$(field '.running | length')" = 1 ] && break; sleep 0.1; done
"$tool" png "$in/lost.png" 77 3000
"$tool" png "$in/scarce.png" 78 3000
for _ in $(seq 50); do [ "$(field .queued)" = 2 ] && break; sleep 0.1; done
path=$(content "$(stat -c %i "$in/lost.png")")
[ -f "$path" ] && [ "$(field .queued)" = 2 ] || fail "lost.png does not wait, or its content is not $path"
rm "$path"
error_is lost 'cannot be read from the state directory: No such file'
wait_for "$out/scarce.glb" 100
echo "slow=150 only=second" >"$dir/switches"
if command -v prlimit >/dev/null; then
	"$tool" png "$in/second.png" 79 3000
	for _ in $(seq 50); do [ "$(field '.running | length')" = 1 ] && break; sleep 0.1; done
	"$tool" png "$in/short.png" 80 3000
	for _ in $(seq 50); do [ "$(field .queued)" = 1 ] && break; sleep 0.1; done
	limit=$(prlimit --pid $daemon --nofile --noheadings --output SOFT)
	prlimit --pid $daemon --nofile=8: || fail "no limit on descriptors"
	for _ in $(seq 100); do grep -q 'Too many open files' "$mnt/status" && break; sleep 0.1; done
	grep -q 'Too many open files' "$mnt/status" || fail "status does not tell of the shortage: $(cat "$mnt/status")"
	sleep 12
	[ "$(state_of "$in/short.png")" = queued ] || fail "short.png is $(state_of "$in/short.png") while descriptors are short"
	prlimit --pid $daemon --nofile="$limit":
	wait_for "$out/short.glb" 150
else
	echo "without a shortage of descriptors: prlimit is not installed"
fi
echo >"$dir/switches"

# No moment in which a picture is in no count of status before it is published: with many that need no worker, and while the
# helper, stopped, keeps a job's result waiting.
settle
mkdir "$in/same"
n=$(field .done)
for i in $(seq 1000); do cp "$src/good.png" "$in/same/$i.png"; done
for _ in $(seq 3000); do
	read -r busy now < <(jq -r '"\(.settling + .queued + (.running | length) + (.publishing // 0)) \(.done)"' "$mnt/status.json")
	[ "$busy" = 0 ] && break
done
[ "$now" = $((n + 1000)) ] || fail "nothing was in work when $((now - n)) of 1000 were done"
pkill -STOP -P $daemon -f internal-helper || fail "no helper was found"
"$tool" png "$in/held.png" 81 3000
sleep 0.1
for _ in $(seq 1000); do
	busy=$(jq -r '.settling + .queued + (.running | length) + (.publishing // 0)' "$mnt/status.json")
	[ -e "$out/held.glb" ] && break
	[ "$busy" != 0 ] || { fail "held.png was in no count before it was published"; break; }
done

# What is deleted before it is looked at leaves nothing waiting.
for i in $(seq 20); do cp "$src/good.png" "$in/brief$i.png"; done
rm "$in"/brief*.png
settle 40
finish
