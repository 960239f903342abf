#!/bin/bash
# mount_crash.sh - SIGKILL daemon, helper or worker at random moments of a mixed workload, remount, verify: what was
# closed, renamed or removed is so, byte for byte; in the end every picture has its mesh, and nothing runs again.
# ROUNDS (25) and SEED (of the clock) may be set; `make check-crash` does 1,000 rounds.
cd "$(dirname "$0")/../.." || exit 1
. tests/mount/lib.sh
command -v jq >/dev/null || { echo "jq is not installed"; exit 77; }
rounds=${ROUNDS:-25} seed=${SEED:-$(($(date +%s) % 32768))}
RANDOM=$seed
echo "seed $seed"
mkdir "$dir/src"
for i in $(seq 0 11); do "$tool" png "$dir/src/$i.png" $((i + 1)) $((1000 + i * 40000)); done
export FAKE_WORKER="slow=5"
log=$dir/ops
: >"$log"

# An operation failed: for good reason, or because the daemon was killed, and then it is the one in doubt.
failed() { [ -r "$mnt/README" ] && echo not >>"$log" || exit; }

# One operation after another; each is logged before and after, so that at most the last one is in doubt.
workload() {
	RANDOM=$1
	local in=$mnt/in name other pick
	cd / || exit
	while :; do
		name=n$((RANDOM % 30)).png other=n$((RANDOM % 30)).png pick=$((RANDOM % 12))
		case $((RANDOM % 10)) in
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
		esac
	done 2>/dev/null
}

# What the log says should be there: name -> picture, "?" where the last operation was cut off.
declare -A want
replay() {
	want=()
	local a b c d
	while read -r a b c d; do
		case $a in
		try) doubt="$b $c $d" ;;
		put) want[$b]=$c doubt= ;;
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

# settled NAME - what is really there is written to the log, so that a doubt is over
verify() {
	local name i found
	doubt=
	replay
	read -r _ first second <<<"$doubt"
	for i in $(seq 0 29); do
		name=n$i.png
		if [ "$name" = "${first:-}" ] || [ "$name" = "${second:-}" ]; then
			found=
			for k in $(seq 0 11); do cmp -s "$dir/src/$k.png" "$mnt/in/$name" && found=$k; done
			if [ -n "$found" ]; then echo "put $name $found" >>"$log"; else
				rm -f "$mnt/in/$name"
				echo "drop $name" >>"$log"
			fi
		elif [ -n "${want[$name]:-}" ]; then
			cmp "$dir/src/${want[$name]}.png" "$mnt/in/$name" || fail "round $round: $name is not picture ${want[$name]}"
		elif [ -e "$mnt/in/$name" ]; then
			fail "round $round: $name is there and should not be"
		fi
	done
	for found in "$mnt"/out/*.glb; do
		[ -e "$found" ] || continue
		[ "$(head -c 4 "$found")" = glTF ] && [ "$(stat -c %s "$found")" -gt 500 ] || fail "round $round: $found is not whole"
	done
}

mount_start
kills=(0 0 0)
slowest=0
for round in $(seq "$rounds"); do
	set -m # a process group of its own: no cp may outlive its shell and write to the next mount
	workload $RANDOM &
	writer=$!
	disown
	set +m
	sleep "0.$((RANDOM % 6))$((RANDOM % 10))"
	case $((RANDOM % 4)) in
	0)
		kill_worker && kills[1]=$((kills[1] + 1))
		sleep 0.1
		;;
	1)
		pkill -9 -P $daemon -f internal-helper && kills[2]=$((kills[2] + 1))
		sleep 0.1
		;;
	esac
	kill -9 $daemon
	kills[0]=$((kills[0] + 1))
	kill -9 -- -$writer 2>/dev/null # it ends by itself when an operation fails
	while pgrep -g $writer >/dev/null; do sleep 0.01; done
	wait_gone 50 || fail "round $round: the killed daemon keeps its lock"
	start=${EPOCHREALTIME/./}
	umount "$mnt" 2>/dev/null || fusermount3 -u "$mnt" 2>/dev/null
	took=$((${EPOCHREALTIME/./} - start))
	[ $took -gt $slowest ] && slowest=$took
	mount_start
	verify
	[ $failures -gt 5 ] && break
done
[ $slowest -lt 1000000 ] || fail "unmounting after SIGKILL took $((slowest / 1000)) ms"
settle 600
verify
lost=0 poisoned=0
for name in "${!want[@]}"; do
	case $(getfattr --only-values -n user.trellis.state "$mnt/in/$name" 2>/dev/null) in
	done) ;;
	failed) getfattr --only-values -n user.trellis.error "$mnt/in/$name" 2>/dev/null | grep -q 'ended the worker' && poisoned=$((poisoned + 1)) || lost=$((lost + 1)) ;;
	*) lost=$((lost + 1)) ;;
	esac
done
[ $lost = 0 ] || fail "$lost pictures have no outcome: $(cat "$mnt/status")"
mount_stop
mount_start
sleep 2.5
[ "$(field .done)" = 0 ] || fail "finished jobs ran again"
echo "$round rounds, SIGKILLs: daemon ${kills[0]}, worker ${kills[1]}, helper ${kills[2]}; $(grep -cE '^(put|move|drop)' "$log") operations verified," \
	"${#want[@]} pictures at the end, $poisoned given up after three killed workers, slowest unmount $((slowest / 1000)) ms"
finish
