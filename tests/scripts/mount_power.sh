#!/bin/bash
# mount_power.sh - power is lost at a random moment: the state directory is on an ext4 of its own, which is shut down without
# writing anything more. What an fsync had confirmed is there; the tree is whole; a mesh that is there is complete; every
# picture that is left gets its mesh. Files that were durable and are then renamed, removed and given other modes, without any
# fsync, are as they were at one moment, none of them empty: not before the last clean unmount, the last fsync of anything, or
# three seconds ago. ROUNDS (3), SEED; `make check-power` does 200 rounds.
cd "$(dirname "$0")/../.." || exit 1
. tests/mount/lib.sh
command -v jq >/dev/null || { echo "jq is not installed"; exit 77; }
PATH=$PATH:/usr/sbin:/sbin
disk=$dir/disk image=$dir/image
mkdir "$disk" "$dir/src"
truncate -s 200M "$image"
if ! mkfs.ext4 -q -F "$image" 2>/dev/null || ! mount -o loop,commit=1 "$image" "$disk" 2>/dev/null; then
	echo "an ext4 of its own cannot be mounted here"
	exit 77
fi
trap 'fusermount3 -u -z "$mnt" 2>/dev/null; umount -l "$disk"; cleanup' EXIT
state=$disk/state
seed=$((${SEED:-$(date +%s)} % 32768))
RANDOM=$seed
for i in $(seq 0 9); do "$tool" png "$dir/src/$i.png" $((i + 1)) $((1000 + i * 30000)); done
for i in $(seq 0 19); do head -c $((1 + i * i * 500)) /dev/urandom >"$dir/src/o$i"; done
mount_start
for i in $(seq 0 9); do cp "$dir/src/$i.png" "$mnt/in/whole$i.png"; done
settle 600
for i in $(seq 0 9); do md5sum <"$mnt/out/whole$i.glb" | cut -d ' ' -f 1; done >"$dir/whole" # line N + 1: of picture N
rm "$mnt"/in/whole* "$mnt"/out/whole*
sync -f "$state"
log=$dir/ops old_log=$dir/old-ops fsyncs=$dir/fsyncs stop=$dir/stop
: >"$log"

# As in mount_crash.sh, but an operation counts when an fsync after it has returned.
workload() {
	RANDOM=$1
	local in=$mnt/in name other pick now
	cd / || exit
	while [ ! -e "$stop" ]; do
		now=${EPOCHREALTIME/./}
		name=n$((RANDOM % 20)).png other=n$((RANDOM % 20)).png pick=$((RANDOM % 10))
		case $((RANDOM % 6)) in
		0 | 1 | 2)
			echo "try $name" >>"$log"
			dd if="$dir/src/$pick.png" of="$in/$name" bs=64k conv=fsync && echo "put $name $pick" >>"$log" && echo "$now" >>"$fsyncs" || exit
			;;
		3)
			echo "try $name" >>"$log"
			dd if="$dir/src/$pick.png" of="$in/.$name.tmp" bs=64k conv=fsync && mv "$in/.$name.tmp" "$in/$name" && sync "$in" && echo "put $name $pick" >>"$log" && echo "$now" >>"$fsyncs" || exit
			;;
		4)
			[ "$name" != "$other" ] && [ -e "$in/$name" ] || continue
			echo "try $name $other" >>"$log"
			mv "$in/$name" "$in/$other" && sync "$in" && echo "move $name $other" >>"$log" && echo "$now" >>"$fsyncs" || exit
			;;
		5) # nobody waits for this one's fsync
			cp "$dir/src/$pick.png" "$in/loose$((RANDOM % 9)).png" || exit
			;;
		esac
	done 2>/dev/null
}

# The durable files o0 to o19 are renamed onto each other and to free names, removed and given other modes; nobody syncs. A line
# before each operation with the time, and one when it has returned.
old_workload() {
	RANDOM=$1
	local in=$mnt/in name other
	cd / || exit
	while [ ! -e "$stop" ]; do
		name=o$((RANDOM % 60)) other=o$((RANDOM % 60))
		[ -e "$in/$name" ] || { sleep 0.002 && continue; }
		case $((RANDOM % 24)) in
		0 | 1 | 2 | 3) sleep "0.$((RANDOM % 7))" ;;
		4)
			echo "try ${EPOCHREALTIME/./} drop $name" >>"$old_log"
			rm "$in/$name" && echo "done" >>"$old_log" || exit
			;;
		5 | 6 | 7 | 8)
			other=$((600 + RANDOM % 64))
			[[ $other = *[89]* ]] && continue
			echo "try ${EPOCHREALTIME/./} mode $name $other" >>"$old_log"
			chmod $other "$in/$name" && echo "done" >>"$old_log" || exit
			;;
		*)
			[ "$name" != "$other" ] || continue
			echo "try ${EPOCHREALTIME/./} move $name $other" >>"$old_log"
			mv "$in/$name" "$in/$other" && echo "done" >>"$old_log" || exit
			;;
		esac
	done 2>/dev/null
}

# old_files - "NAME=PICTURE/MODE " of each that is there, sorted; the picture is "empty" or "partial" when it is no whole one
old_files() {
	local name picture sum size rest
	(cd "$mnt/in" && find . -name 'o*' -type f -printf '%P %m\n') | while read -r name rest; do
		picture=$(md5sum <"$mnt/in/$name" 2>"$dir/cat")
		sum=${picture%% *}
		picture=${old_sums[${sum:-none}]:-}
		if [ -z "$picture" ]; then
			size=$(stat -c %s "$mnt/in/$name")
			picture=partial
			[ "$size" != 0 ] || picture=empty
			[ ! -s "$dir/cat" ] || picture=unreadable
		fi
		echo "$name=$picture/$rest"
	done | LC_ALL=C sort | tr '\n' ' '
}

# show_old - the same of what should be there, from the table `old`
show_old() {
	local name
	for name in "${!old[@]}"; do echo "$name=${old[$name]}"; done | LC_ALL=C sort | tr '\n' ' '
}

declare -A old old_sums
for i in $(seq 0 19); do old_sums[$(md5sum <"$dir/src/o$i" | cut -d ' ' -f 1)]=$i; done

# put_old - all of them, durable
put_old() {
	local i
	old=()
	for i in $(seq 0 19); do
		install -m 600 "$dir/src/o$i" "$mnt/in/o$i"
		old[o$i]=$i/600
	done
	sync "$mnt"/in/o* "$mnt/in"
	: >"$old_log"
	: >"$fsyncs"
}

# verify_old OFF - the files are as they were after one of the operations, and not before what was durable: by the last clean unmount,
# an fsync that began after it, or 3 s before the power went off, at OFF (microseconds)
verify_old() {
	local is line word at what name other certain=0 n=0 moments=() found=
	local fsynced
	fsynced=$(tail -n 1 "$fsyncs")
	is=$(old_files)
	moments[0]=$(show_old)
	local pending=
	while read -r word at what name other; do
		case $word in
		try) pending="$at $what $name $other" ;;
		done)
			read -r at what name other <<<"$pending"
			change_old "$what" "$name" "$other"
			n=$((n + 1))
			moments[n]=$(show_old)
			[ "$at" -ge "${fsynced:-0}" ] && [ "$at" -gt $(($1 - 3000000)) ] || certain=$n
			pending=
			;;
		unmounted) certain=$n ;;
		esac
	done <"$old_log"
	if [ -n "$pending" ]; then # the one in doubt
		read -r at what name other <<<"$pending"
		change_old "$what" "$name" "$other"
		moments[n + 1]=$(show_old)
	fi
	old_operations=$((old_operations + n))
	for line in $(seq "$certain" $((${#moments[@]} - 1))); do [ "$is" = "${moments[line]}" ] && found=$line; done
	if [ -n "$found" ]; then
		taken_back=$((taken_back + (found < n ? n - found : 0)))
		return
	fi
	fail "$round_name: the old files are as at no moment since the last durable operation, number $certain of $n: $is"
	for line in "${!moments[@]}"; do [ "$is" = "${moments[line]}" ] && echo "they are as after operation $line"; done
	[[ $is != *empty* ]] || echo "old files are empty"
	[[ $is != *partial* && $is != *unreadable* ]] || echo "old files are partial"
	echo "after operation $certain: ${moments[certain]}"
	echo "after the last, $n:  ${moments[n]}"
	tail -n 12 "$old_log"
}

# change_old WHAT NAME OTHER - to the table `old`
change_old() {
	case $1 in
	drop) unset "old[$2]" ;;
	mode) old[$2]=${old[$2]%/*}/$3 ;;
	move)
		old[$3]=${old[$2]}
		unset "old[$2]"
		;;
	esac
}

# stop_writers HOW - wait for their ends, or kill them
stop_writers() {
	local writer
	if [ "$1" = kill ]; then
		for writer in "${writers[@]}"; do kill -9 -- -"$writer" 2>/dev/null; done
	else
		: >"$stop"
	fi
	for writer in "${writers[@]}"; do while pgrep -g "$writer" >/dev/null; do sleep 0.01; done; done
	rm -f "$stop"
	writers=()
}

# start_writers - in process groups of their own; in every other round no one calls fsync
start_writers() {
	set -m
	old_workload $RANDOM &
	writers=($!)
	disown
	if [ $((round % 2)) = 1 ]; then
		workload $RANDOM &
		writers+=($!)
		disown
	fi
	set +m
}

declare -A want
replay() {
	want=()
	local a b c
	while read -r a b c; do
		case $a in
		try) doubt="$b $c" ;;
		put) want[$b]=$c doubt= ;;
		move)
			[ -n "${want[$b]:-}" ] && want[$c]=${want[$b]}
			unset "want[$b]"
			doubt=
			;;
		esac
	done <"$log"
}

operations=0 empty=0 kept=0 old_operations=0 taken_back=0 begin=$SECONDS
writers=()
for round in $(seq "${ROUNDS:-3}"); do
	round_name="round $round"
	put_old
	start_writers
	sleep "$((RANDOM % 3)).$((RANDOM % 10))"
	if [ $((RANDOM % 3)) = 0 ]; then
		round_name="round $round, with a clean unmount"
		stop_writers wait
		mount_stop
		echo unmounted >>"$old_log"
		if [ $((RANDOM % 2)) = 0 ]; then
			mount_start
			start_writers
		fi
		sleep "$((RANDOM % 3)).$((RANDOM % 10))"
	fi
	[ $((RANDOM % 3)) != 0 ] || { : >"$stop"; sleep "$((1 + RANDOM % 5)).$((RANDOM % 10))"; } # at rest for a while
	"$tool" power-off "$disk" || fail "no power-off"
	off=${EPOCHREALTIME/./}
	kill -9 $daemon 2>/dev/null
	stop_writers kill
	while kill -0 $daemon 2>/dev/null; do sleep 0.01; done
	umount "$mnt" 2>/dev/null || fusermount3 -u -z "$mnt" 2>/dev/null # or it is not mounted
	# A copy, because the kernel keeps the old one as long as anybody has it mounted, in whatever namespace.
	cp --sparse=always "$image" "$dir/image$round" && rm "$image"
	image=$dir/image$round
	umount "$disk" 2>/dev/null || umount -l "$disk"
	mount -o loop,commit=1 "$image" "$disk" || { fail "round $round: the ext4 cannot be mounted again"; break; }
	mount_start
	verify_old "$off"
	grep damaged "$mnt/status" && fail "$round_name: the loss of power is told as damage"
	doubt=
	replay
	operations=$((operations + $(grep -cE '^(put|move)' "$log")))
	for i in $(seq 0 19); do
		name=n$i.png
		if [[ " $doubt " = *" $name "* ]]; then
			cat "$mnt/in/$name" >/dev/null 2>"$dir/cat" || grep -q 'No such file' "$dir/cat" || fail "round $round: $name: $(cat "$dir/cat")"
		elif [ -n "${want[$name]:-}" ]; then
			cmp "$dir/src/${want[$name]}.png" "$mnt/in/$name" || fail "round $round: $name is not picture ${want[$name]}"
		elif [ -e "$mnt/in/$name" ]; then
			fail "round $round: $name is there and should not be"
		fi
	done
	for i in $(seq 0 8); do [ -e "$mnt/in/loose$i.png" ] && [ ! -s "$mnt/in/loose$i.png" ] && empty=$((empty + 1)); done
	settle 600
	for name in "$mnt"/out/*.glb; do
		[ -e "$name" ] || continue
		grep -q "$(md5sum <"$name" | cut -d ' ' -f 1)" "$dir/whole" || fail "round $round: $name ($(stat -c %s "$name") bytes) is not the mesh of any picture"
		kept=$((kept + 1))
	done
	for name in "$mnt"/in/n*.png; do
		[ -s "$name" ] || continue
		case $(getfattr --only-values -n user.trellis.state "$name" 2>/dev/null) in
		done | failed) ;;
		*) fail "round $round: $name has no outcome" ;;
		esac
	done
	rm -f "$mnt"/in/*.png "$mnt"/in/o* "$mnt"/out/*
	sync "$mnt/in"
	: >"$log"
	[ $failures -lt 5 ] || break
done
echo "seed $seed: $round losses of power in $((SECONDS - begin)) s, $operations confirmed operations verified, $kept meshes whole," \
	"$empty pictures nobody had synced are empty; $old_operations operations on older files, the last $taken_back of them undone"
finish
