#!/bin/bash
# mount_crash.sh - SIGKILL daemon, helper or worker at random moments of a mixed workload, remount, verify: what was
# closed, renamed or removed is so, byte for byte; a mesh that was there is there, or has followed its picture; a job that was done
# stays done; in the end every picture has the mesh of its bytes at its own name, and nothing runs again.
# ROUNDS (25), SEED (of the clock) and LANES (1: so many mounts at once share the rounds) may be set; `make check-crash`
# does 1,000 rounds.
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
. tests/mount/lib.sh
command -v jq >/dev/null || { echo "jq is not installed"; exit 77; }
rounds=${ROUNDS:-25} seed=$((${SEED:-$(date +%s)} % 32768))
RANDOM=$seed
echo "seed $seed"
mkdir "$dir/src"
for i in $(seq 0 11); do "$tool" png "$dir/src/$i.png" $((i + 1)) $((1000 + i * 40000)); done
export FAKE_WORKER="slow=5 finish=30"
log=$dir/ops
: >"$log"
: >"$dir/renamed-before"

# An operation failed: for good reason, or because the daemon was killed, and then it is the one in doubt.
failed() { [ -r "$mnt/README" ] && echo not >>"$log" || exit; }

# One operation after another; each is logged before and after, so that at most the last one is in doubt.
workload() {
	RANDOM=$1
	local in=$mnt/in name other pick
	cd / || exit
	while :; do
		name=n$((RANDOM % 30)).png other=n$((RANDOM % 30)).png pick=$((RANDOM % 12))
		case $((RANDOM % 12)) in
		0 | 1 | 2 | 3 | 4)
			echo "try put $name" >>"$log"
			cp "$dir/src/$pick.png" "$in/$name" && echo "put $name $pick" >>"$log" || exit
			;;
		5 | 6)
			echo "try put $name" >>"$log"
			cp "$dir/src/$pick.png" "$in/.$name.tmp" && mv "$in/.$name.tmp" "$in/$name" && echo "put $name $pick" >>"$log" || exit
			;;
		7)
			[ "$name" = "$other" ] && continue
			echo "try move $name $other" >>"$log"
			mv "$in/$name" "$in/$other" && echo "move $name $other" >>"$log" || failed
			;;
		8)
			echo "try drop $name" >>"$log"
			rm "$in/$name" && echo "drop $name" >>"$log" || failed
			;;
		9) echo "seed = $pick" >"$mnt/config" ;;
		10 | 11) # one that is done, where there is one
			[ "$(getfattr --only-values -n user.trellis.state "$in/$name")" = "done" ] && [ "$name" != "$other" ] || continue
			echo "try move $name $other" >>"$log"
			mv "$in/$name" "$in/$other" && echo "move $name $other" >>"$log" || failed
			;;
		esac
	done 2>/dev/null
}

# What the log says should be there: name -> picture.
declare -A want
replay() {
	want=()
	local a b c d
	while read -r a b c d; do
		case $a in
		try) doubt="$b $c $d" ;;
		kept) want[$b]=$c ;;
		put)
			want[$b]=$c doubt=
			;;
		move)
			[ -n "${want[$b]:-}" ] && want[$c]=${want[$b]}
			unset "want[$b]"
			doubt=
			;;
		drop) unset "want[$b]" && doubt= ;;
		not) doubt= ;;
		esac
	done <"$log"
}

# done_inputs - names in in/ whose state is 'done', sorted
done_inputs() { (cd "$mnt/in" && getfattr -n user.trellis.state n*.png 2>/dev/null | awk '/^# file/ {name = $3} /"done"/ {print name}' | sort); }

# note_finished - before the kill: the jobs that are done and the meshes that are there, and where the log was before
note_finished() {
	noted_at=$(wc -l <"$log")
	done_inputs >"$dir/done-before"
	ls "$mnt/out" >"$dir/out-before" 2>/dev/null
}

# What is really there is written to a new log, so that a doubt is over; what was finished still is.
verify() {
	local name i found
	doubt=
	replay
	operations=$((operations + $(grep -cE '^(put|move|drop)' "$log")))
	read -r _ first second <<<"$doubt"
	for i in $(seq 0 29); do
		name=n$i.png
		if [ "$name" = "${first:-}" ] || [ "$name" = "${second:-}" ]; then
			found=
			for k in $(seq 0 11); do cmp -s "$dir/src/$k.png" "$mnt/in/$name" && found=$k; done
			want[$name]=$found
			[ -n "$found" ] && continue
			rm -f "$mnt/in/$name"
			unset "want[$name]"
		elif [ -n "${want[$name]:-}" ]; then
			cmp "$dir/src/${want[$name]}.png" "$mnt/in/$name" || fail "round $round: $name is not picture ${want[$name]}"
		elif [ -e "$mnt/in/$name" ]; then
			fail "round $round: $name is there and should not be"
		fi
	done
	ls "$mnt/out" >"$dir/out-now"
	# What was renamed a little before the kill, or before the last one, may have followed only now.
	tail -n "+$((noted_at > 40 ? noted_at - 40 : 1))" "$log" | grep -oE 'n[0-9]+\.png' | sed 'h; s/png$/glb/p; g; s/png$/preview.png/' >"$dir/renamed"
	sort -u "$dir/renamed" "$dir/renamed-before" >"$dir/followed"
	mv "$dir/renamed" "$dir/renamed-before"
	found=$(grep -vxFf "$dir/out-now" "$dir/out-before" | grep -v error.txt | grep -vxFf "$dir/followed") && fail "round $round: gone from out/: $found"
	if compgen -G "$mnt/out/*.glb" >/dev/null; then
		(cd "$mnt/out" && md5sum ./*.glb) >"$dir/meshes" || fail "round $round: a mesh cannot be read"
		found=$(grep -vFf "$dir/whole" "$dir/meshes") && fail "round $round: no mesh of any picture: $found"
	fi
	# Untouched since they were done: not in the log's lines from the operation that was under way then.
	tail -n "+$((noted_at > 0 ? noted_at : 1))" "$log" | grep -oE 'n[0-9]+\.png' | sort -u >"$dir/touched"
	done_inputs >"$dir/done-now"
	found=$(grep -vxFf "$dir/touched" "$dir/done-before" | grep -vxFf "$dir/done-now") && fail "round $round: done, and now not: $found"
	kept_done=$((kept_done + $(grep -cvxFf "$dir/touched" "$dir/done-before")))
	for name in "${!want[@]}"; do echo "kept $name ${want[$name]}"; done >"$log"
}

mount_start
for i in $(seq 0 11); do cp "$dir/src/$i.png" "$mnt/in/whole$i.png"; done
settle 600
for i in $(seq 0 11); do md5sum <"$mnt/out/whole$i.glb" | cut -d ' ' -f 1; done >"$dir/whole" # line N + 1: of picture N
[ "$(wc -l <"$dir/whole")" = 12 ] || fail "only $(wc -l <"$dir/whole") of 12 pictures were made"
rm "$mnt"/in/whole* "$mnt"/out/whole*
kills=(0 0 0)
slowest=0 operations=0 kept_done=0 begin=$SECONDS
for round in $(seq "$rounds"); do
	set -m # a process group of its own: no cp may outlive its shell and write to the next mount
	workload $RANDOM &
	writer=$!
	disown
	set +m
	sleep "0.$((RANDOM % 6))$((RANDOM % 10))"
	note_finished
	what=$((RANDOM % 5))
	if [ $what = 0 ] || [ $what = 2 ]; then kill_worker && kills[1]=$((kills[1] + 1)); fi
	if [ $what = 1 ] || [ $what = 2 ]; then pkill -9 -P $daemon -f internal-helper && kills[2]=$((kills[2] + 1)); fi
	[ $what -gt 2 ] || sleep 0.1
	if [ $what != 2 ]; then # there the daemon lives, and has to do without both
		kill -9 $daemon
		kills[0]=$((kills[0] + 1))
	fi
	kill -9 -- -$writer 2>/dev/null # it ends by itself when an operation fails
	while pgrep -g $writer >/dev/null; do sleep 0.01; done
	if [ $what != 2 ]; then
		wait_gone 300 || fail "round $round: the killed daemon keeps its lock"
		start=${EPOCHREALTIME/./}
		umount "$mnt" 2>/dev/null || fusermount3 -u "$mnt" 2>/dev/null
		took=$((${EPOCHREALTIME/./} - start))
		[ $took -gt $slowest ] && slowest=$took
		mount_start
	fi
	verify
	[ $failures -gt 5 ] && break
done
[ $slowest -lt 1000000 ] || fail "unmounting after SIGKILL took $((slowest / 1000)) ms"
settle 600
note_finished
verify
lost=0 poisoned=0
for name in "${!want[@]}"; do
	case $(getfattr --only-values -n user.trellis.state "$mnt/in/$name" 2>/dev/null) in
	done)
		mesh=$mnt/out/${name%.png}.glb
		getfattr --only-values -n user.trellis.outputs "$mnt/in/$name" 2>/dev/null | grep -qx "out/${name%.png}.glb" || fail "$name is done, and its outputs are not at its name"
		[ "$(md5sum <"$mesh" | cut -d ' ' -f 1)" = "$(sed -n $((want[$name] + 1))p "$dir/whole")" ] || fail "$mesh is not the mesh of picture ${want[$name]}"
		;;
	failed) getfattr --only-values -n user.trellis.error "$mnt/in/$name" 2>/dev/null | grep -q 'ended the worker' && poisoned=$((poisoned + 1)) || lost=$((lost + 1)) ;;
	*) lost=$((lost + 1)) ;;
	esac
done
[ $lost = 0 ] || fail "$lost pictures have no outcome: $(cat "$mnt/status")"
mount_stop
mount_start
sleep 2.5
[ "$(field .done)" = 0 ] || fail "finished jobs ran again"
echo "seed $seed: $rounds rounds in $((SECONDS - begin)) s, SIGKILLs: daemon ${kills[0]}, worker ${kills[1]}, helper ${kills[2]};" \
	"$operations operations verified, $kept_done times a finished job stayed so, ${#want[@]} pictures at the end," \
	"$poisoned given up after three killed workers, slowest unmount $((slowest / 1000)) ms"
finish
