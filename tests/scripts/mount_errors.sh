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
error_is text 'not|png|jpeg'
error_is noise 'not|png|jpeg'
error_is huge 'pixel|large|crc|broken'
[ "$(getfattr --only-values -n user.trellis.state "$in/cut.png" 2>/dev/null)" = failed ] || fail "state of cut.png is not failed"
getfattr --only-values -n user.trellis.error "$in/cut.png" 2>/dev/null | grep -q truncated || fail "user.trellis.error of cut.png"
grep -q 'in/cut.png' "$mnt/status" || fail "status does not name cut.png"
[ "$(count "$dir/events" '^CLOSE_WRITE .*error.txt$')" = 6 ] || fail "not 6 error events: $(cat "$dir/events")"

# The picture is repaired: the error file goes.
cp "$src/good.png" "$in/cut.png"
wait_for "$out/cut.glb"
sleep 0.2
[ ! -e "$out/cut.error.txt" ] || fail "cut.error.txt stayed after success"
grep -q '^DELETE cut.error.txt' "$dir/events" || fail "nobody was told that cut.error.txt went"

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

# What is deleted before it is looked at leaves nothing waiting.
for i in $(seq 20); do cp "$src/good.png" "$in/brief$i.png"; done
rm "$in"/brief*.png
settle 40
finish
