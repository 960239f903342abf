#!/bin/bash
# mount_damage.sh - a state directory is damaged at random: bytes of the journal flipped, zeroed, cut off, swapped or appended, the journal or
# its mark gone, contents gone or cut short. Each time the mount comes up and nothing that is still in contents/ is out of
# reach: it is under its name or in lost/; what is missing says so; the mount works; opened again it is the same and tells of no
# new damage. --check, --repair and --salvage agree with it. What changes no journal changes no name.
# ROUNDS (12), SEED (of the clock), LANES (1: so many at once share the rounds) and KEEP (a folder: the damaged states of rounds that fail
# are copied there) may be set; `make check-damage` does 1,000 rounds.
cd "$(dirname "$0")/../.." || exit 1
if [ "${LANES:-1}" -gt 1 ]; then
	lanes=()
	for lane in $(seq "$LANES"); do
		ROUNDS=$((ROUNDS / LANES)) LANES=1 SEED=$((${SEED:-$(date +%s)} + lane * 1000)) bash "$0" &
		lanes+=($!)
	done
	for lane in "${lanes[@]}"; do wait "$lane" || failed=1; done
	exit ${failed:-0}
fi
[ -w /dev/shm ] && export TMPDIR=/dev/shm # a thousand copies of a thousand small files
. tests/mount/lib.sh
command -v jq >/dev/null || { echo "jq is not installed"; exit 77; }
rounds=${ROUNDS:-12} seed=$((${SEED:-$(date +%s)} % 32768))
RANDOM=$seed
echo "seed $seed"
damage=$TRELLIS_BUILD/tests/state_damage
src=$dir/src
mkdir "$src"

# quiet - until nothing arrives, waits or runs, three times in a row
quiet() {
	local calm=0
	for _ in $(seq 400); do
		if [ "$(field '"\(.settling) \(.queued) \(.running | length)"')" = "0 0 0" ]; then
			calm=$((calm + 1))
			[ $calm -lt 3 ] || return 0
		else
			calm=0
		fi
		sleep 0.05
	done
	fail "$round: nothing came to rest: $(cat "$mnt/status")"
}

# sums FOLDER NAME... - "MD5  PATH" of each file that can be read and is not empty, sorted
sums() { (cd "$1" && find "${@:2}" -type f ! -empty -exec md5sum {} + 2>/dev/null | LC_ALL=C sort); }

# only_sums FILE - the checksums alone, each as often as it is there
only_sums() { sed 's/^\\//' "$1" | cut -d ' ' -f 1 | sort; }

# tops - what is there of in, out and lost
tops() { (cd "$1" && ls -d in out lost 2>/dev/null); }

# whole_listing - names, kinds, modes, owners, but for folders sizes and times, and bytes
whole_listing() {
	local names
	mapfile -t names < <(tops "$mnt")
	(cd "$mnt" && find "${names[@]}" -mindepth 1 \( -type d -printf 'd %m %U:%G %p\n' -o -printf '%y %m %U:%G %s %T@ %p %l\n' \))
	sums "$mnt" "${names[@]}"
}

# image - one checksum of the whole state directory
image() { tar -C "$state" --exclude=./lock -cf - . | md5sum; }

# check EXPECTED [ARGUMENT...] - trellisfs --check; its exit status in $checked, which matches the pattern EXPECTED
check() {
	local expected=$1
	shift
	timeout 60 "$TRELLIS_BUILD/trellisfs" --check "$state" "$@" >"$dir/check" 2>&1
	checked=$?
	[[ $checked =~ ^($expected)$ ]] || fail "$round: --check $* ends with $checked, not $expected: $(head -c 1000 "$dir/check")"
}

# A good state: pictures that are done, equal ones, broken ones, other files, folders, links, attributes, odd names; some of it moved
# and removed. Once as a SIGKILL leaves it and once cleanly unmounted.
make_base() {
	local in=$mnt/in out=$mnt/out i
	for i in $(seq 0 15); do "$tool" png "$src/$i.png" $((i + 1)) $((300 + i * i * 200)); done
	mount_start
	for i in $(seq 0 9); do cp "$src/$i.png" "$in/p$i.png"; done
	mkdir -p "$in/a/b/c" "$in/empty folder"
	for i in 10 11 12; do cp "$src/$i.png" "$in/a/b/q$i.png"; done
	cp "$src/13.png" "$in/a/b/c/"$'line\nbreak.png'
	cp "$src/14.png" "$in/a/moved.png"
	cp "$src/0.png" "$in/equal0.png"
	cp "$src/1.png" "$in/a/equal1.png"
	(printf 'RIFF\x24\x00\x00\x00WEBPVP8 '; head -c 500 /dev/urandom) >"$in/other.webp" # what is merely broken waits 5 s for the rest
	for i in $(seq 0 5); do head -c $((1 + i * i * 2000)) /dev/urandom >"$in/a/b/t$i"; done
	cp "$src/15.png" "$in/.hidden.png"
	: >"$in/nothing"
	ln -s a/b/t1 "$in/link"
	for i in $(seq 0 9); do setfattr -n user.note -v "$(printf 'n%.0s' $(seq $((1 + i * 300))))" "$in/p$i.png"; done
	chmod 600 "$in/p1.png"
	[ "$(id -u)" != 0 ] || chown 1000:1001 "$in/p2.png"
	settle 300
	mv "$in/a/moved.png" "$in/a/b/c/renamed.png"
	mv "$out/p3.glb" "$out/kept.glb"
	mv "$in/a/b/t2" "$in/t2"
	for i in $(seq 30); do mv "$in/t2" "$in/t2.$i" && mv "$in/t2.$i" "$in/t2"; done
	for i in $(seq 30); do chmod $((600 + i % 8)) "$in/a/b/t3"; done
	rm "$in/p9.png" "$in/a/b/t4" "$out/p8.preview.png"
	echo 'seed = 5' >"$mnt/config"
	settle 100
	sync "$in"/*.png "$in"
	sleep 1.2 # what was removed is gone from contents/, too
	sums "$mnt" in out >"$dir/base.sums"
	(cd "$mnt" && find in out -type f ! -empty -printf '%i %s %p\0') >"$dir/base.files"
	kill -9 $daemon
	wait_gone 100
	umount "$mnt" 2>/dev/null || fusermount3 -u -z "$mnt"
	cp -a "$state" "$dir/killed"
	mount_start
	quiet
	mount_stop
	cp -a "$state" "$dir/clean"
	only_sums "$dir/base.sums" >"$dir/wanted"
	for base in killed clean; do
		sums "$dir/$base" contents >"$dir/contents"
		only_sums "$dir/contents" | cmp - "$dir/wanted" || fail "without any damage the $base state's contents are not the mount's"
	done
}

# The files of the base by their ids: path[ID], size[ID]; inputs, and results whose picture is gone, stay missing when they are;
# a result in its place whose picture is there is made again; of others either is right.
declare -A path size
inputs=() gone=() remade=() others=()
read_base() {
	local inode bytes name id
	while IFS=' ' read -r -d '' inode bytes name; do
		printf -v id '%016x' "$inode"
		path[$id]=$name size[$id]=$bytes
		[ "$name" != in/a/b/t5 ] || t5=$id
		case $name in
		in/*) inputs+=("$id") ;;
		out/p9.*) gone+=("$id") ;;
		out/p[0-8].* | out/a/b/q*) remade+=("$id") ;;
		*) others+=("$id") ;;
		esac
	done <"$dir/base.files"
}

content() { echo "$state/contents/${1:14:2}/$1"; }

# damage_one KIND - to $state; what was done is added to $round, what it means to the flags
damage_one() {
	local id n said
	case $1 in
	missing)
		for n in $(seq $((1 + RANDOM % 4))); do
			case $((RANDOM % 4)) in
			0 | 1) id=${inputs[RANDOM % ${#inputs[@]}]} ;;
			2) id=${remade[RANDOM % ${#remade[@]}]} ;;
			3) id=${gone[RANDOM % ${#gone[@]}]} ;;
			esac
			[ $((RANDOM % 8)) != 0 ] || id=${others[RANDOM % ${#others[@]}]}
			[ -e "$(content "$id")" ] || continue
			rm "$(content "$id")"
			missing+=("$id")
			round+=", missing: $(printf %q "${path[$id]}") $id"
		done
		;;
	short)
		id=${inputs[RANDOM % ${#inputs[@]}]}
		[[ ${path[$id]} = *.png && $((RANDOM % 4)) != 0 ]] && id=$t5 # a picture that is cut off waits 5 s for the rest
		[ "${size[$id]}" -gt 2 ] && [ -s "$(content "$id")" ] || return
		n=$((1 + RANDOM % (${size[$id]} - 1)))
		truncate -s $n "$(content "$id")"
		short+=("$id")
		round+=", cut to $n of ${size[$id]}: $(printf %q "${path[$id]}") $id"
		;;
	*)
		[[ $1 != *synced || -e $state/journal.synced ]] || return # done already
		said=$("$damage" "$1" "$state" "$((RANDOM * 32768 + RANDOM))" 2>&1) || fail "$round: $1 cannot be done: $said"
		round+=", $1: $said"
		case $1 in
		garbage | partial) torn=1 ;;
		no-synced | synced) mark=1 ;;
		*) journal=1 ;;
		esac
		;;
	esac
	kinds_done[$1]=$((${kinds_done[$1]:-0} + 1))
}

# names_hold - all that the base had is there, byte for byte, but for what was taken from contents/ and cannot be made again: a
# result only where no picture was taken
names_hold() {
	local id pattern=$dir/except again=1
	for id in "${missing[@]}"; do [[ " ${inputs[*]} " = *" $id "* ]] && again=0; done
	printf '%s\n' "${inputs[0]}-" >"$pattern" # matches nothing
	for id in "${missing[@]}" "${short[@]}"; do
		[ $again = 1 ] && [[ " ${remade[*]} " = *" $id "* ]] && continue
		grep -zF "${path[$id]##*/}" <"$dir/base.files" >/dev/null && md5sum_line "${path[$id]}" >>"$pattern"
	done
	grep -vxFf "$pattern" "$dir/base.sums" | LC_ALL=C comm -23 - "$dir/now"
}

# md5sum_line PATH - the line of base.sums, where a name with a newline is written as md5sum does
md5sum_line() {
	local name=${1//$'\n'/\\n}
	grep -aF "  $name" "$dir/base.sums" | grep -aE "  .{${#name}}\$"
}

# recovery - "lost_changes damaged_bytes cut_bytes reordered lost_files missing_files" of status.json
recovery() { field '.recovery // {} | [.lost_changes, .damaged_bytes, .cut_bytes, .reordered, .lost_files, .missing_files] | map(. // 0) | join(" ")'; }

# What status and its log tell when the mount has just come up.
look_at_report() {
	local told lost_changes damaged_bytes cut_bytes reordered lost_files missing_files files=0 certain=0 id
	for id in "${missing[@]}"; do [[ " ${inputs[*]} ${gone[*]} " = *" $id "* ]] && certain=$((certain + 1)); done
	for _ in $(seq 50); do # contents are looked at beside
		read -r lost_changes damaged_bytes cut_bytes reordered lost_files missing_files < <(recovery)
		[ "$missing_files" -lt $certain ] && [ $journal = 0 ] || break
		sleep 0.1
	done
	told=$(grep -c damaged "$mnt/status")
	if [ -e "$mnt/lost" ]; then
		files=$(find "$mnt/lost" -type f -printf x | wc -c)
		[ "$files" -gt 0 ] || fail "$round: lost/ is there and has no file"
		[ -z "$(find "$mnt/lost" -type f ! -perm 0600)" ] || fail "$round: modes in lost/: $(ls -l "$mnt/lost")"
		find "$mnt/lost" -mindepth 1 -maxdepth 1 -type f -printf '%f\0' | grep -zvE '^[0-9a-f]{16}([-.].*)?$' | tr '\0' '\n' >"$dir/odd"
		[ ! -s "$dir/odd" ] || fail "$round: names in lost/: $(cat "$dir/odd")"
		lost_total=$((lost_total + files))
	fi
	[ "$lost_files" = "$files" ] || [ $repaired = 1 ] || fail "$round: status.json counts $lost_files lost files, there are $files"
	[ "$missing_files" -le ${#missing[@]} ] || [ $journal = 1 ] || fail "$round: status.json counts $missing_files missing files"
	[ "$missing_files" -ge $certain ] || [ $journal = 1 ] || fail "$round: status.json counts $missing_files missing files of at least $certain"
	missing_total=$((missing_total + missing_files))
	if [ $repaired = 1 ] || { [ $journal = 0 ] && [ $mark = 0 ]; }; then
		[ "$lost_changes $damaged_bytes $reordered" = "0 0 0" ] || fail "$round: damage is told: $(field .recovery)"
		[ "$told" = 0 ] || [ ${#missing[@]} -gt 0 ] || [ "$files" -gt 0 ] || fail "$round: damage is told: $(cat "$mnt/status")"
	elif [ $mark = 1 ] && [ "$cut_bytes" -gt 0 ]; then
		: # without the mark nobody knows that the end had been synced
	elif [ $journal = 1 ] && [ "$found" = 4 ]; then
		[ $((lost_changes + damaged_bytes + cut_bytes + reordered + lost_files)) -gt 0 ] || [[ $round = *" double: "* ]] || fail "$round: status.json tells of no damage: $(field .recovery)"
		[ "$told" -gt 0 ] || fail "$round: status tells of no damage: $(cat "$mnt/status")"
		grep -qi damaged "$dir/log" || fail "$round: the log tells of no damage: $(cat "$dir/log")"
	fi
	if [ $torn = 1 ] && [ $journal = 0 ] && [ $repaired = 0 ]; then
		[ "$cut_bytes" -gt 0 ] || fail "$round: a torn end is not counted: $(field .recovery)"
		grep -qE 'cut|torn' "$dir/log" || fail "$round: the log does not tell of a torn end: $(cat "$dir/log")"
	fi
}

# What is missing says so when it is opened, has its size, and can be written anew or removed. Only where names are as they were.
look_at_missing() {
	local id file n=0
	for id in "${missing[@]}"; do
		[[ " ${inputs[*]} ${gone[*]} " = *" $id "* ]] || continue
		file=$mnt/${path[$id]}
		[ "$(stat -c %s "$file" 2>&1)" = "${size[$id]}" ] || fail "$round: $(stat -c %s "$file" 2>&1) is not the size of what is missing"
		[ -s "$file" ] && cat "$file" 2>&1 >/dev/null | grep -q 'Input/output error' || fail "$round: open of a missing file: '$(cat "$file" 2>&1 | head -c 200)'"
		n=$((n + 1))
		case $((n % 3)) in
		1) [[ ${path[$id]} != in/* ]] || { echo again >"$file" && [ "$(cat "$file")" = again ]; } || fail "$round: a missing file cannot be written anew" ;;
		2) rm "$file" || fail "$round: a missing file cannot be removed" ;;
		esac
	done
}

# reachable WHEN - each content that there was is in the mount; what the mount has is in $dir/now
reachable() {
	local names lost
	mapfile -t names < <(tops "$mnt")
	sums "$mnt" "${names[@]}" >"$dir/now"
	lost=$(only_sums "$dir/now" | comm -13 - "$dir/need")
	[ -z "$lost" ] || fail "$round: $1 $(wc -l <<<"$lost") of $(wc -l <"$dir/need") contents are nowhere in the mount: $(grep -F "$(head -n 3 <<<"$lost")" "$dir/contents" | head -n 3)"
}

# Contents may be missing: some were taken away, or the record of a removal was.
may_miss() { [ ${#missing[@]} -gt 0 ] || [ $journal = 1 ] || [ $mark = 1 ]; }

one_round() {
	local base kind lost
	journal=0 mark=0 torn=0 repaired=0 missing=() short=()
	base=$([ $((RANDOM % 2)) = 0 ] && echo clean || echo killed)
	round="seed $seed, round $number ($base"
	rm -rf "$state"
	cp -a "$dir/$base" "$state"
	: >"$dir/log"
	kind=${kinds[(seed + number) % ${#kinds[@]}]}
	[ $((RANDOM % 4)) != 0 ] || damage_one "$(shuf -n 1 -e missing missing short flip synced no-synced zero512 --random-source=<(yes $RANDOM))"
	damage_one "$kind"
	round+=")"
	sums "$state" contents >"$dir/contents"
	only_sums "$dir/contents" >"$dir/need"
	[ -z "${KEEP:-}" ] || { rm -rf "$dir/damaged" && cp -a "$state" "$dir/damaged"; }

	local whole
	whole=$(image)
	check '0|4'
	found=$checked
	[ "$(image)" = "$whole" ] || fail "$round: --check changed something"
	[ ${#missing[@]} = 0 ] || [ "$found" = 4 ] || fail "$round: --check finds nothing"
	case $((RANDOM % 4)) in
	0)
		check '0|1|4|5' --repair
		may_miss || [ $((checked & 4)) = 0 ] || fail "$round: --repair leaves errors: $(cat "$dir/check")"
		[ "$found" = 0 ] || [ ${#missing[@]} -gt 0 ] || [ $((checked & 1)) = 1 ] || fail "$round: --repair corrected nothing"
		repaired=1
		check "$(may_miss && echo '0|4' || echo 0)"
		;;
	1)
		rm -rf "$dir/saved"
		check '0|4' --salvage "$dir/saved"
		[ "$(image)" = "$whole" ] || fail "$round: --salvage changed something"
		if [ -d "$dir/saved" ]; then
			sums "$dir/saved" . | sed 's,  \./,  ,' | LC_ALL=C sort >"$dir/saved.sums"
			lost=$(only_sums "$dir/saved.sums" | comm -13 - "$dir/need" | wc -l)
			[ "$lost" = 0 ] || fail "$round: --salvage leaves out $lost of $(wc -l <"$dir/need") contents"
		fi
		;;
	esac

	FAKE_WORKER="load=300" mount_start # nothing is made again before it has been looked at
	reachable "at once"
	"$tool" png "$src/new.png" $((1000 + number)) 700
	cp "$src/new.png" "$mnt/in/new.png" || fail "$round: no picture can be written"
	look_at_report
	quiet
	reachable "at rest"
	if [ $journal = 0 ] || { [ "$found" = 0 ] && [ $mark = 0 ]; }; then
		lost=$(names_hold)
		[ -z "$lost" ] || fail "$round: not as before: $(head -n 3 <<<"$lost")"
		[ ! -e "$mnt/lost" ] || [ $mark = 1 ] || fail "$round: there is a lost/: $(ls "$mnt/lost")"
		look_at_missing
	fi
	if [ -s "$dir/saved.sums" ]; then
		# what was made again is not in it, what is new is not either
		lost=$(grep -aE '^\\?[0-9a-f]{32}  (in|out)/' "$dir/saved.sums" | LC_ALL=C comm -23 - "$dir/now")
		[ -z "$lost" ] || fail "$round: --salvage has what the mount has not: $(head -n 3 <<<"$lost")"
		rm -rf "$dir/saved" "$dir/saved.sums"
	fi
	cmp -s "$src/new.png" "$mnt/in/new.png" && [ -s "$mnt/out/new.glb" ] || fail "$round: a new picture was not made: $(cat "$mnt/status")"
	echo w >"$mnt/in/w1" && mv "$mnt/in/w1" "$mnt/in/w2" && [ "$(cat "$mnt/in/w2")" = w ] && [ ! -e "$mnt/in/w1" ] && rm "$mnt/in/w2" && [ ! -e "$mnt/in/w2" ] || fail "$round: mv and rm"
	quiet

	# Opened again it is the same.
	whole_listing >"$dir/before"
	if [ $((RANDOM % 5)) = 0 ]; then
		kill -9 $daemon
		wait_gone 100 || fail "$round: a killed daemon keeps its lock"
		umount "$mnt" 2>/dev/null || fusermount3 -u -z "$mnt"
	else
		mount_stop
	fi
	mount_start
	whole_listing >"$dir/after"
	sleep 0.1 # status may be that of 50 ms before
	still=$(field '.recovery.missing_files // 0')
	diff -a "$dir/before" "$dir/after" >"$dir/diff" || fail "$round: opened again it is another: $(head -n 8 "$dir/diff" | cat -v)"
	[[ "$(recovery)" = "0 0 0 0 "* ]] || fail "$round: new damage is told when it is opened again: $(field .recovery)"
	[ "$(field .done)" = 0 ] || fail "$round: jobs run again when it is opened again"
	mount_stop
	check "$(may_miss && echo '0|4' || echo 0)"
}

# A picture waits for its turn, or was being worked on, and its content is gone: it fails with a sentence, and the others are made.
queued_without_content() {
	local i id name
	round="pictures that wait without content"
	rm -rf "$state"
	FAKE_WORKER="slow=100000" mount_start
	for i in 0 1 2 3; do cp "$src/$i.png" "$mnt/in/w$i.png"; done
	for _ in $(seq 100); do [ "$(field '"\(.running | length) \(.queued)"')" = "1 3" ] && break || sleep 0.1; done
	for i in 0 1; do
		printf -v id '%016x' "$(stat -c %i "$mnt/in/w$i.png")"
		missing+=("$id")
	done
	kill -9 $daemon
	wait_gone 100
	umount "$mnt" 2>/dev/null || fusermount3 -u -z "$mnt"
	for id in "${missing[@]}"; do rm "$(content "$id")"; done
	mount_start
	cp "$src/4.png" "$mnt/in/w4.png"
	for name in w2 w3 w4; do wait_for "$mnt/out/$name.glb" || fail "$round: $(cat "$mnt/status")"; done
	for name in w0 w1; do
		[ "$(getfattr --only-values -n user.trellis.state "$mnt/in/$name.png" 2>/dev/null)" = failed ] || fail "$round: $name.png is not failed"
		[ -n "$(getfattr --only-values -n user.trellis.error "$mnt/in/$name.png" 2>/dev/null)" ] || fail "$round: $name.png does not say why"
		cp "$src/5.png" "$mnt/in/$name.png"
		wait_for "$mnt/out/$name.glb" || fail "$round: $name.png, written anew: $(cat "$mnt/status")"
	done
	[ "$(field '.recovery.missing_files // 0')" = 0 ] || fail "$round: status.json counts $(field .recovery.missing_files) missing files when all are written anew"
	mount_stop
	rm -rf "$state"
}

missing=()
make_base
queued_without_content
read_base
kinds=(flip zero512 zero4096 cut cut-frame swap double garbage partial no-journal no-synced synced missing short flip)
declare -A kinds_done
lost_total=0 missing_total=0 begin=$SECONDS number=0
while [ $number -lt "$rounds" ] && [ $failures -lt "${FAILURES:-6}" ]; do
	number=$((number + 1)) before=$failures
	one_round
	[ "$checked" = $((still > 0 ? 4 : 0)) ] || fail "$round: in the end --check says $checked, and $still files are missing"
	[ -z "${KEEP:-}" ] || [ $failures = "$before" ] || { mkdir -p "$KEEP" && cp -a "$dir/damaged" "$KEEP/$seed-$number"; }
done
for kind in "${!kinds_done[@]}"; do counts+="$kind ${kinds_done[$kind]}, "; done
echo "seed $seed: $number damaged states in $((SECONDS - begin)) s (${counts%, }); $lost_total files in lost/, $missing_total missing"
finish
